"""Handle market data requests: check them as IB does, then subscribe and send the current state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.events.kinds import Stream
from harvester.simgateway.client_subscriptions import LINE_KIND, ClientSubscription
from harvester.simgateway.contract_lookup import NO_DEFINITION, exchange_name, find_contract
from harvester.simgateway.ib_time_text import open_spans
from harvester.simgateway.limits import Refusal, line_refusal
from harvester.units import SECOND_NS
from harvester.wire import encode_messages
from harvester.wire.message_ids import In

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harvester.simgateway.client_session import ClientSession
    from harvester.simgateway.gateway_state import GatewayState
    from harvester.simgateway.markets.market_source import Instrument
    from harvester.wire.decode_requests import (
        ContractSpec,
        DepthRequest,
        MarketDataRequest,
        RealtimeBarsRequest,
        TickByTickRequest,
    )

DUPLICATE_ID = Refusal(322, "Error processing request.-'bR' : cause - Duplicate ticker id")
NO_DEPTH = Refusal(10092, "Deep market data is not supported for this combination of security type/exchange")
LEGAL_GENERIC_TICKS = {
    "100": "Option Volume", "101": "Option Open Interest", "105": "Average Opt Volume", "106": "impvolat",
    "165": "Misc. Stats", "221": "Creditman Mark Price", "225": "Auction", "232": "Pl Price", "233": "RTVolume",
    "236": "inventory", "258": "Fundamentals", "292": "Wide_news", "293": "TradeCount", "294": "TradeRate",
    "295": "VolumeRate", "318": "LastRTHTrade", "375": "RTTrdVolume", "411": "rthistvol", "456": "IBDividends",
    "460": "Bond Factor Multiplier", "577": "EtfNavLast(navlast)", "586": "IPOHLMPRC", "587": "Pl Price Delayed",
    "588": "Futures Open Interest", "595": "Short-Term Volume X Mins", "614": "EtfNavMisc(high/low)",
    "619": "Creditman Slow Mark Price", "623": "EtfFrozenNavLast(fznavlast)", "mdoff": "",
}  # fmt: skip
"""The generic ticks IB accepts for a stock, with its names, as a real gateway's error 321 lists them."""

_BBO_EXCHANGE, _SNAPSHOT_PERMISSIONS = "9c0001", 3

TICK_STREAMS = {
    "Last": Stream.LAST,
    "AllLast": Stream.ALL_LAST,
    "BidAsk": Stream.BID_ASK,
    "MidPoint": Stream.MID_POINT,
}


class StreamRequests:
    """Handles requests for streaming data."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state

    # ---- common to all requests ----

    def instrument(self, session: ClientSession, req_id: int, spec: ContractSpec, stream: Stream) -> Instrument | None:
        """The instrument of a request, or None after sending an error: 322, 200, or one of the fault script."""
        if self._state.registry.get(session, req_id):
            session.error(req_id, *DUPLICATE_ID)
            return None
        found = find_contract(self._state.market, spec)
        if found is None:
            session.error(req_id, *NO_DEFINITION)
            return None
        refused = self._state.scripted_refusal(session, found.symbol, stream)
        if refused is not None:
            session.error(req_id, *refused)
            return None
        return found

    def line(self, session: ClientSession, req_id: int, stream: Stream) -> bool:
        """Whether a market data line is free; if not, sends the error."""
        kind = LINE_KIND.get(stream, "")
        refused = line_refusal(self._state.settings.limits, kind, self._state.registry.lines(kind))
        if refused is not None:
            session.error(req_id, *refused)
        return refused is None

    def subscribe(self, sub: ClientSubscription) -> None:
        """Start a stream with the current state of the market."""
        session = sub.session
        for other in self._state.registry.subscribers(sub.con_id, sub.stream):
            other.held = other.held and other.session is not session
        self._state.registry.add(sub)
        for when in ("after",) if sub.stream is Stream.L1 else ("before", "after"):
            self.advise(when, sub)
        if not session.muted:
            sub.deliver(self._state.market.snapshot(sub.con_id, sub.stream))
        self._state.on_subscribed()

    def advise(self, when: str, sub: ClientSubscription) -> None:
        """Send the advice that a fault script has for a granted subscription."""
        advice = self._state.scripted_advice(when, sub.session, sub.symbol, sub.stream)
        if advice is not None:
            sub.session.error(sub.req_id, *advice)

    # ---- the requests ----

    def market_data(self, session: ClientSession, request: MarketDataRequest) -> None:
        """L1: send tick parameters, data type and current values, then changes; a snapshot ends after the values."""
        instrument = self.instrument(session, request.req_id, request.contract, Stream.L1)
        if instrument is None:
            return
        if not all(tick.split(":")[0] in LEGAL_GENERIC_TICKS for tick in request.generic):
            session.invalid(request.req_id, _bad_generic_ticks(request.generic), "bQ")
            return
        if not (request.snapshot or request.regulatory) and not self.line(session, request.req_id, Stream.L1):
            return
        sub = _subscription(session, request.req_id, instrument, Stream.L1)
        self.advise("before", sub)
        if not self._state.recorded:
            facts = (instrument.min_tick, _BBO_EXCHANGE, _SNAPSHOT_PERMISSIONS)
            session.send(encode_messages.tick_req_params(request.req_id, *facts), instrument.symbol)
            kind = self._state.settings.market_data_type
            session.send(encode_messages.market_data_type(request.req_id, kind), instrument.symbol)
        sub.wanted_generic |= {tick.split(":")[0] for tick in request.generic}
        if request.snapshot or request.regulatory:
            sub.deliver(self._state.market.snapshot(instrument.con_id, Stream.L1))
            session.send(encode_messages.end(In.SNAPSHOT_END, request.req_id), instrument.symbol)
        else:
            self.subscribe(sub)

    def depth(self, session: ClientSession, request: DepthRequest) -> None:
        """One venue's book, or with the smart flag the rows of all venues with their names."""
        stream = Stream.SMART_DEPTH if request.smart else Stream.DEPTH
        instrument = self.instrument(session, request.req_id, request.contract, stream)
        if instrument is None:
            return
        if request.rows < 1:
            session.invalid(request.req_id, f"{request.rows} depth rows requested; at least 1 is required", "bT")
            return
        if not _has_depth(instrument, request):
            session.error(request.req_id, NO_DEPTH.code, f"{NO_DEPTH.text}; {self._depths(instrument)}")
            return
        if self.line(session, request.req_id, stream):
            sub = _subscription(session, request.req_id, instrument, stream)
            sub.reshape = self._state.depth_cut(request.rows)
            self.subscribe(sub)

    def _depths(self, instrument: Instrument) -> str:
        """The available depth, as text for an error."""
        own = f"depth of {', '.join(instrument.depth_venues)} (no smart flag)" if instrument.has_depth else ""
        smart = "SMART depth (with its flag)" if instrument.has_smart_depth else ""
        which = "recorded" if self._state.recorded else "served"
        return f"{which} of {instrument.symbol}: {' and '.join(filter(None, (own, smart))) or 'no depth'}"

    def tick_by_tick(self, session: ClientSession, request: TickByTickRequest) -> None:
        """Tick-by-tick data. The requested number of past ticks is ignored, as for a contract without history."""
        stream = TICK_STREAMS.get(request.tick_type)
        if stream is None:
            session.invalid(request.req_id, f"Invalid tick-by-tick type {request.tick_type!r}")
            return
        instrument = self.instrument(session, request.req_id, request.contract, stream)
        if instrument is None:
            return
        if stream not in instrument.tick_by_tick:
            text = f"{request.tick_type} tick-by-tick requests are not supported for {instrument.symbol}"
            session.error(request.req_id, 10189, f"Failed to request tick-by-tick data:{text}")
            return
        if not self.line(session, request.req_id, stream):
            return
        refused = self._state.pacing.tick_by_tick(instrument.con_id)
        if refused is not None:
            session.error(request.req_id, *refused)
            return
        sub = _subscription(session, request.req_id, instrument, stream)
        if request.ignore_size and stream == Stream.BID_ASK:
            sub.reshape = PriceChanges()
        self.subscribe(sub)

    def realtime_bars(self, session: ClientSession, request: RealtimeBarsRequest) -> None:
        """5-second bars of trades, the only real-time bars available; useRTH keeps those in liquid hours."""
        instrument = self.instrument(session, request.req_id, request.contract, Stream.BARS_5S)
        if instrument is None:
            return
        if request.bar_size != 5 or request.what != "TRADES":
            text = f"{request.bar_size} second bars of {request.what}; only 5 second bars of TRADES are available"
            session.invalid(request.req_id, text)
            return
        if (refused := self._state.pacing.realtime_bars()) is not None:
            session.error(request.req_id, *refused)
            return
        sub = _subscription(session, request.req_id, instrument, Stream.BARS_5S)
        if request.rth:
            sub.reshape = only_within(open_spans(instrument.liquid_hours, instrument.time_zone))
        self.subscribe(sub)


def _subscription(session: ClientSession, req_id: int, instrument: Instrument, stream: Stream) -> ClientSubscription:
    return ClientSubscription(session, req_id, instrument.con_id, instrument.symbol, stream)


def _bad_generic_ticks(asked: tuple[str, ...]) -> str:
    legal = ",".join(f"{tick}({name})" for tick, name in LEGAL_GENERIC_TICKS.items() if name)
    return f"Incorrect generic tick list of {','.join(asked)}.  Legal ones for (STK) are: {legal}"


def _has_depth(instrument: Instrument, request: DepthRequest) -> bool:
    if request.smart:
        return instrument.has_smart_depth
    venues = {exchange_name(venue) for venue in instrument.depth_venues}
    return instrument.has_depth and exchange_name(request.contract.exchange) in venues


class PriceChanges:
    """The `ignoreSize` filter: drops BidAsk ticks with unchanged prices."""

    def __init__(self) -> None:
        self._last: list[str] = []

    def __call__(self, fields: list[str]) -> Iterable[list[str]]:
        prices = fields[4:6]
        if prices == self._last:
            return ()
        self._last = prices
        return (fields,)


def only_within(spans: list[tuple[int, int]]) -> Callable[[list[str]], Iterable[list[str]]]:
    """A filter for 5-second bars that start inside one of `spans` (ns UTC)."""

    def reshape(fields: list[str]) -> Iterable[list[str]]:
        at = int(fields[3]) * SECOND_NS
        return (fields,) if any(start <= at < end for start, end in spans) else ()

    return reshape
