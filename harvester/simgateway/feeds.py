"""Market data requests: check them as IB does, then subscribe and send what a newcomer gets first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.events.kinds import Stream
from harvester.simgateway.limits import Refusal, line_refusal
from harvester.simgateway.lookup import NO_DEFINITION, exchange_name, find_one
from harvester.simgateway.subscriptions import LINE_KIND, Subscription
from harvester.simgateway.times import open_spans
from harvester.units import SECOND_NS
from harvester.wire import answers
from harvester.wire.ids import In

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harvester.simgateway.desk import Desk
    from harvester.simgateway.market import Instrument
    from harvester.simgateway.session import Session
    from harvester.wire.outgoing import (
        ContractAsk,
        DepthAsk,
        MarketDataAsk,
        RealtimeBarsAsk,
        TickByTickAsk,
    )

DUPLICATE_ID = Refusal(322, "Error processing request.-'bR' : cause - Duplicate ticker id")
NO_DEPTH = Refusal(10092, "Deep market data is not supported for this combination of security type/exchange")
_BBO_EXCHANGE, _SNAPSHOT_PERMISSIONS = "9c0001", 3

TICK_STREAMS = {
    "Last": Stream.LAST,
    "AllLast": Stream.ALL_LAST,
    "BidAsk": Stream.BID_ASK,
    "MidPoint": Stream.MID_POINT,
}


class Feeds:
    """The desk's part for streaming data."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    # ---- what every request goes through ----

    def instrument(self, session: Session, req_id: int, ask: ContractAsk, stream: Stream) -> Instrument | None:
        """The contract of a request, or None after an error has been sent: 322, 200, or one a fault script wants."""
        if req_id in session.subs:
            session.error(req_id, *DUPLICATE_ID)
            return None
        found = find_one(self._desk.market, ask)
        if found is None:
            session.error(req_id, *NO_DEFINITION)
            return None
        refused = self._desk.scripted_refusal(session, found.symbol, stream)
        if refused is not None:
            session.error(req_id, *refused)
            return None
        return found

    def line(self, session: Session, req_id: int, stream: Stream) -> bool:
        """Whether a line is free; if not, the error has been sent."""
        kind = LINE_KIND.get(stream, "")
        refused = line_refusal(self._desk.settings.limits, kind, self._desk.registry.lines(kind))
        if refused is not None:
            session.error(req_id, *refused)
        return refused is None

    def subscribe(self, sub: Subscription) -> None:
        """Start a stream with what the market remembers of it."""
        session = sub.session
        session.subs[sub.req_id] = sub
        self._desk.registry.add(sub)
        if not session.muted:
            sub.deliver(self._desk.market.snapshot(sub.con_id, sub.stream))
        self._desk.subscribed()

    # ---- the requests ----

    def market_data(self, session: Session, ask: MarketDataAsk) -> None:
        """L1: tick parameters, data type, the values in force, then changes; a snapshot ends after the values."""
        instrument = self.instrument(session, ask.req_id, ask.contract, Stream.L1)
        if instrument is None:
            return
        if not (ask.snapshot or ask.regulatory) and not self.line(session, ask.req_id, Stream.L1):
            return
        if not self._desk.recorded:
            facts = (instrument.min_tick, _BBO_EXCHANGE, _SNAPSHOT_PERMISSIONS)
            session.send(answers.tick_req_params(ask.req_id, *facts), instrument.symbol)
            kind = self._desk.settings.market_data_type
            session.send(answers.market_data_type(ask.req_id, kind), instrument.symbol)
        sub = _subscription(session, ask.req_id, instrument, Stream.L1)
        sub.wanted_generic |= {tick.split(":")[0] for tick in ask.generic}
        if ask.snapshot or ask.regulatory:
            sub.deliver(self._desk.market.snapshot(instrument.con_id, Stream.L1))
            session.send(answers.end(In.SNAPSHOT_END, ask.req_id), instrument.symbol)
        else:
            self.subscribe(sub)

    def depth(self, session: Session, ask: DepthAsk) -> None:
        """A venue's book, or with the smart flag the rows of all of them under their names."""
        stream = Stream.SMART_DEPTH if ask.smart else Stream.DEPTH
        instrument = self.instrument(session, ask.req_id, ask.contract, stream)
        if instrument is None:
            return
        if ask.rows < 1:
            session.error(ask.req_id, 321, f"Error validating request.-'bT' : cause - {ask.rows} depth rows are none")
            return
        if not _has_depth(instrument, ask):
            session.error(ask.req_id, NO_DEPTH.code, f"{NO_DEPTH.text}; {self._depths(instrument)}")
            return
        if self.line(session, ask.req_id, stream):
            sub = _subscription(session, ask.req_id, instrument, stream)
            sub.reshape = self._desk.depth_cut(ask.rows)
            self.subscribe(sub)

    def _depths(self, instrument: Instrument) -> str:
        """What depth there is, for people."""
        own = f"depth of {', '.join(instrument.depth_venues)} (no smart flag)" if instrument.has_depth else ""
        smart = "SMART depth (with its flag)" if instrument.has_smart_depth else ""
        which = "recorded" if self._desk.recorded else "served"
        return f"{which} of {instrument.symbol}: {' and '.join(filter(None, (own, smart))) or 'no depth'}"

    def tick_by_tick(self, session: Session, ask: TickByTickAsk) -> None:
        """Tick-by-tick; how many past ticks are wanted first is read and given none, as on a contract without any."""
        stream = TICK_STREAMS.get(ask.tick_type)
        if stream is None:
            text = f"Error validating request.-'bW' : cause - Invalid tick-by-tick type {ask.tick_type!r}"
            session.error(ask.req_id, 321, text)
            return
        instrument = self.instrument(session, ask.req_id, ask.contract, stream)
        if instrument is None:
            return
        if stream not in instrument.tick_by_tick:
            text = f"{ask.tick_type} tick-by-tick requests are not supported for {instrument.symbol}"
            session.error(ask.req_id, 10189, f"Failed to request tick-by-tick data:{text}")
            return
        if not self.line(session, ask.req_id, stream):
            return
        refused = self._desk.pacing.tick_by_tick(instrument.con_id)
        if refused is not None:
            session.error(ask.req_id, *refused)
            return
        sub = _subscription(session, ask.req_id, instrument, stream)
        if ask.ignore_size and stream == Stream.BID_ASK:
            sub.reshape = PriceChanges()
        self.subscribe(sub)

    def realtime_bars(self, session: Session, ask: RealtimeBarsAsk) -> None:
        """5-second bars of trades, the only ones a market source gives; useRTH keeps those of the liquid hours."""
        instrument = self.instrument(session, ask.req_id, ask.contract, Stream.BARS_5S)
        if instrument is None:
            return
        if ask.bar_size != 5 or ask.what != "TRADES":
            text = f"{ask.bar_size} second bars of {ask.what}; here there are 5 second bars of TRADES"
            session.error(ask.req_id, 321, f"Error validating request.-'bW' : cause - {text}")
            return
        if (refused := self._desk.pacing.realtime_bars()) is not None:
            session.error(ask.req_id, *refused)
            return
        sub = _subscription(session, ask.req_id, instrument, Stream.BARS_5S)
        if ask.rth:
            sub.reshape = only_within(open_spans(instrument.liquid_hours, instrument.time_zone))
        self.subscribe(sub)


def _subscription(session: Session, req_id: int, instrument: Instrument, stream: Stream) -> Subscription:
    return Subscription(session, req_id, instrument.con_id, instrument.symbol, stream)


def _has_depth(instrument: Instrument, ask: DepthAsk) -> bool:
    if ask.smart:
        return instrument.has_smart_depth
    venues = {exchange_name(venue) for venue in instrument.depth_venues}
    return instrument.has_depth and exchange_name(ask.contract.exchange) in venues


class PriceChanges:
    """`ignoreSize`: a BidAsk tick whose prices are those of the tick before is left out."""

    def __init__(self) -> None:
        self._last: list[str] = []

    def __call__(self, fields: list[str]) -> Iterable[list[str]]:
        prices = fields[4:6]
        if prices == self._last:
            return ()
        self._last = prices
        return (fields,)


def only_within(spans: list[tuple[int, int]]) -> Callable[[list[str]], Iterable[list[str]]]:
    """Pass 5-second bars that start inside a span (ns UTC)."""

    def reshape(fields: list[str]) -> Iterable[list[str]]:
        at = int(fields[3]) * SECOND_NS
        return (fields,) if any(start <= at < end for start, end in spans) else ()

    return reshape
