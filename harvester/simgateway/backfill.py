"""Historical bars, kept up to date if asked for, head timestamps, and scanner lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.events.kinds import Stream
from harvester.simgateway.feeds import DUPLICATE_ID
from harvester.simgateway.market import Bar, History, HistoryAsk, MarketRefusal
from harvester.simgateway.subscriptions import Subscription
from harvester.simgateway.times import day, parse_end, stamp
from harvester.units import SECOND_NS
from harvester.wire import answers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harvester.simgateway.desk import Desk
    from harvester.simgateway.market import Instrument
    from harvester.simgateway.session import Session
    from harvester.wire.outgoing import HeadTimestampAsk, HistoryAsked, ScannerAsk


_UPDATE_EVERY_S = 5.0
_SCAN_ROWS = 50
_DAILY = ("day", "week", "month")

SCANNER_XML = """<?xml version="1.0" encoding="UTF-8"?>
<ScanParameterResponse>
<InstrumentList><Instrument><name>US Stocks</name><type>STK</type></Instrument></InstrumentList>
<LocationTree><Location><displayName>Listed/NASDAQ</displayName><locationCode>STK.US.MAJOR</locationCode></Location>\
</LocationTree>
<ScanTypeList>
{types}
</ScanTypeList>
</ScanParameterResponse>
"""


def is_daily(bar_size: str) -> bool:
    """Bars of a day and more carry a date, whatever formatDate says."""
    return any(word in bar_size for word in _DAILY) or bar_size in {"1W", "1M"}


def bar_time(bar: Bar, ask: HistoryAsked, zone_name: str) -> str:
    """A bar's time as IB writes it; a recorded text is kept where it has the form asked for."""
    if is_daily(ask.bar_size):
        return bar.text or day(bar.ts, zone_name)
    if ask.format_date == 2:
        return bar.text if bar.text.isdigit() else str(bar.ts // SECOND_NS)
    return bar.text if bar.text and not bar.text.isdigit() else stamp(bar.ts, zone_name)


def bar_values(bar: Bar, ask: HistoryAsked, zone_name: str) -> list[answers.Number]:
    prices = (bar.open, bar.high, bar.low, bar.close)
    return [bar_time(bar, ask, zone_name), *prices, bar.volume, bar.wap, bar.count]


class Backfill:
    """The desk's part for answers made of many rows."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    # ---- historical bars ----

    def historical(self, session: Session, ask: HistoryAsked) -> None:
        """Message 17, and with keepUpToDate the forming bar every 5 s of market time (message 90)."""
        instrument = self._desk.feeds.instrument(session, ask.req_id, ask.contract, Stream.HISTORY)
        if instrument is None:
            return
        identical = (instrument.con_id, *ask.fields[13:], session.client_id)
        refused = self._desk.pacing.historical(instrument.con_id, ask.what, identical)
        if refused is not None:
            session.error(ask.req_id, *refused)
            return
        try:
            wanted = self._wanted(ask, instrument)
            found = self._desk.market.history(wanted)
        except ValueError as error:
            session.error(ask.req_id, 321, f"Error validating request.-'bN' : cause - {error}")
            return
        except MarketRefusal as refusal:
            session.error(ask.req_id, refusal.code, refusal.text)
            return
        session.send(self._answer(ask, instrument, found), instrument.symbol)
        if ask.keep_up_to_date:
            self._keep_up(session, ask, instrument, wanted)

    def _wanted(self, ask: HistoryAsked, instrument: Instrument) -> HistoryAsk:
        if ask.format_date not in {1, 2}:
            raise ValueError(f"formatDate {ask.format_date} is neither 1 nor 2")
        end_ns = parse_end(ask.end, instrument.time_zone)
        if ask.keep_up_to_date and end_ns:
            raise ValueError("keepUpToDate needs an empty end date")
        what = (ask.duration, ask.bar_size, ask.what, ask.rth, ask.keep_up_to_date)
        return HistoryAsk(instrument.con_id, end_ns, *what)

    def _answer(self, ask: HistoryAsked, instrument: Instrument, found: History) -> list[str]:
        zone_name = instrument.time_zone
        end_ns = parse_end(ask.end, zone_name) or self._desk.clock.now()
        first = found.first or stamp(found.bars[0].ts if found.bars else end_ns, zone_name)
        rows = [bar_values(bar, ask, zone_name) for bar in found.bars]
        return answers.historical_data(ask.req_id, first, found.last or stamp(end_ns, zone_name), rows)

    def _keep_up(self, session: Session, ask: HistoryAsked, instrument: Instrument, wanted: HistoryAsk) -> None:
        stream = Stream.HISTORY
        sub = Subscription(session, ask.req_id, instrument.con_id, instrument.symbol, stream, key=wanted.key)
        session.subs[ask.req_id] = sub
        self._desk.registry.add(sub)
        self._desk.subscribed()
        if self._desk.recorded:
            sub.reshape = _dated(ask, instrument.time_zone)
            return

        self._repeat(sub, _UPDATE_EVERY_S, lambda: self._update(sub, ask, instrument, wanted))

    def _repeat(self, sub: Subscription, every_s: float, action: Callable[[], None]) -> None:
        """Do it every so many seconds of market time while the subscription lives and nothing withholds it."""

        def again(ts: int) -> None:
            if sub.session.subs.get(sub.req_id) is not sub:
                return
            if not self._desk.withheld(sub):
                action()
            self._desk.timeline.at(ts + int(every_s * SECOND_NS), again)

        self._desk.timeline.after(every_s, again)

    def _update(self, sub: Subscription, ask: HistoryAsked, instrument: Instrument, wanted: HistoryAsk) -> None:
        try:
            bars = self._desk.market.history(wanted).bars
        except MarketRefusal:
            return  # nothing has traded yet
        if bars:
            values = bar_values(bars[-1], ask, instrument.time_zone)
            sub.deliver([answers.historical_update("", values)])

    def head_timestamp(self, session: Session, ask: HeadTimestampAsk) -> None:
        """Message 88: the earliest data of this source is its market's start."""
        instrument = self._desk.feeds.instrument(session, ask.req_id, ask.contract, Stream.HISTORY)
        if instrument is None:
            return
        start = self._desk.market.start_ns
        text = str(start // SECOND_NS) if ask.format_date == 2 else stamp(start, "UTC")[:17].replace(" ", "-")
        session.send(answers.head_timestamp(ask.req_id, text), instrument.symbol)

    # ---- scanner ----

    def scanner(self, session: Session, ask: ScannerAsk) -> None:
        """Message 20 at once, then again every 30 s of market time, or whenever the source has a new list."""
        if ask.req_id in session.subs:
            session.error(ask.req_id, *DUPLICATE_ID)
            return
        refused = self._desk.scripted_refusal(session, "", Stream.SCANNER)
        if refused is not None:
            session.error(ask.req_id, *refused)
            return
        rows = ask.rows if ask.rows > 0 else _SCAN_ROWS
        try:
            first = self._list(ask, rows)
        except MarketRefusal as refusal:
            session.error(ask.req_id, refusal.code, refusal.text)
            return
        if not self._desk.feeds.line(session, ask.req_id, Stream.SCANNER):
            return
        sub = Subscription(session, ask.req_id, 0, "", Stream.SCANNER, key=ask.scan_code)
        session.subs[ask.req_id] = sub
        self._desk.registry.add(sub)
        sub.deliver([first])
        self._desk.subscribed()
        if not self._desk.recorded:
            every_s = self._desk.settings.scan_every_s
            self._repeat(sub, every_s, lambda: self._scan_again(sub, ask, rows))

    def _scan_again(self, sub: Subscription, ask: ScannerAsk, rows: int) -> None:
        try:
            sub.deliver([self._list(ask, rows)])
        except MarketRefusal as refusal:
            sub.session.error(ask.req_id, refusal.code, refusal.text)

    def _list(self, ask: ScannerAsk, rows: int) -> list[str]:
        by_con_id = {i.con_id: i for i in self._desk.market.instruments}
        out = []
        for rank, row in enumerate(self._desk.market.scan(ask.scan_code, rows)):
            instrument = by_con_id.get(row.con_id)
            values: dict[str, answers.Number] = {
                "rank": rank,
                "con_id": row.con_id,
                "symbol": row.symbol,
                "sec_type": instrument.sec_type if instrument else "STK",
                "strike": 0,
                "exchange": "SMART",
                "currency": instrument.currency if instrument else "USD",
                "local_symbol": (instrument.local_symbol if instrument else "") or row.symbol,
                "market_name": instrument.market_name if instrument else "",
                "trading_class": (instrument.trading_class if instrument else "") or row.symbol,
                "distance": row.distance,
                "benchmark": row.benchmark,
                "projection": row.projection,
                "legs": row.legs,
            }
            out.append(values)
        return answers.scanner_data(ask.req_id, out)

    def parameters(self, session: Session) -> None:
        """Message 19: the scan codes this gateway knows, as IB's XML lays them out."""
        types = "\n".join(
            f"<ScanType><displayName>{code}</displayName><scanCode>{code}</scanCode>"
            "<instruments>STK</instruments></ScanType>"
            for code in self._desk.scan_codes
        )
        session.send(answers.scanner_parameters(SCANNER_XML.format(types=types)))


def _dated(ask: HistoryAsked, zone_name: str) -> Callable[[list[str]], Iterable[list[str]]] | None:
    """Recorded updates carry epoch seconds; a client who asked for local text gets that."""
    if ask.format_date == 2 or is_daily(ask.bar_size):
        return None

    def reshape(fields: list[str]) -> Iterable[list[str]]:
        if fields[3].isdigit() and len(fields[3]) > 8:
            fields = [*fields[:3], stamp(int(fields[3]) * SECOND_NS, zone_name), *fields[4:]]
        return (fields,)

    return reshape
