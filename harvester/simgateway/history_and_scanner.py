"""Serve historical bars (optionally kept up to date), historical ticks, head timestamps and scanner lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.events.kinds import Stream
from harvester.events.unset import UNSET_DOUBLE, UNSET_LONG
from harvester.simgateway.client_subscriptions import ClientSubscription
from harvester.simgateway.ib_time_text import ib_date, ib_time, parse_end_time
from harvester.simgateway.markets.market_source import (
    HistoricalBar,
    HistoricalBars,
    HistoryQuery,
    MarketRefusal,
    TicksQuery,
)
from harvester.simgateway.markets.past_ticks import TICKS_MAX
from harvester.simgateway.markets.scanner_ranking import SCAN_CODES
from harvester.simgateway.stream_requests import DUPLICATE_ID, StreamRequests
from harvester.units import SECOND_NS
from harvester.wire import encode_messages
from harvester.wire.message_ids import In

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harvester.simgateway.client_session import ClientSession
    from harvester.simgateway.gateway_state import GatewayState
    from harvester.simgateway.markets.market_source import Instrument
    from harvester.wire.decode_requests import (
        HeadTimestampRequest,
        HistoricalDataRequest,
        HistoricalTicksRequest,
        ScannerRequest,
    )


_UPDATE_EVERY_S = 5.0
_BAR_AT = 5  # of the first bar in message 17: time, open, high, low, close, volume, WAP, count
_SCAN_ROWS = 50
_DAILY = ("day", "week", "month")
_TICKS = {"MIDPOINT": In.HISTORICAL_TICKS, "BID_ASK": In.HISTORICAL_TICKS_BID_ASK, "TRADES": In.HISTORICAL_TICKS_LAST}

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
    """Whether a bar spans a day or more: such bars have a date, whatever formatDate says."""
    return any(word in bar_size for word in _DAILY) or bar_size in {"1W", "1M"}


def bar_time(bar: HistoricalBar, request: HistoricalDataRequest, zone_name: str) -> str:
    """A bar's time in the requested format; a recorded text is kept if it has that format."""
    if is_daily(request.bar_size):
        return bar.text or ib_date(bar.ts, zone_name)
    if request.format_date == 2:
        return bar.text if bar.text.isdigit() else str(bar.ts // SECOND_NS)
    return bar.text if bar.text and not bar.text.isdigit() else ib_time(bar.ts, zone_name)


def bar_values(bar: HistoricalBar, request: HistoricalDataRequest, zone_name: str) -> list[encode_messages.Number]:
    prices = (bar.open, bar.high, bar.low, bar.close)
    return [bar_time(bar, request, zone_name), *prices, bar.volume, bar.wap, bar.count]


def _ticks_query(request: HistoricalTicksRequest, instrument: Instrument) -> TicksQuery:
    """Check a request for historical ticks.

    Raises:
        ValueError: it is invalid.
    """
    if request.what not in _TICKS:
        raise ValueError(f"whatToShow {request.what[:40]!r} is none of {', '.join(_TICKS)}")
    if bool(request.start.strip()) == bool(request.end.strip()):
        raise ValueError("give either a start time or an end time")
    if not 0 < request.count <= TICKS_MAX:
        raise ValueError(f"number of ticks {request.count} is not 1 to {TICKS_MAX}")
    start, end = (parse_end_time(text, instrument.time_zone) for text in (request.start, request.end))
    return TicksQuery(instrument.con_id, start, end, request.count, request.what, request.rth, request.ignore_size)


class HistoryAndScanner:
    """Handles requests whose answer is a list: historical bars and ticks, scanner lists; and head timestamps."""

    def __init__(self, state: GatewayState) -> None:
        self._state, self._streams = state, StreamRequests(state)

    # ---- common to bars, ticks and head timestamps ----

    def _instrument(
        self, session: ClientSession, request: HistoricalDataRequest | HistoricalTicksRequest | HeadTimestampRequest
    ) -> Instrument | None:
        """The instrument of a request, or None when it gets an error or no answer."""
        found = self._streams.instrument(session, request.req_id, request.contract, Stream.HISTORY)
        return None if found is None or self._state.swallows(session, found.symbol, Stream.HISTORY) else found

    def _paced(
        self, session: ClientSession, request: HistoricalDataRequest | HistoricalTicksRequest, instrument: Instrument
    ) -> bool:
        """Whether IB's pacing allows the request; if not, sends the error."""
        identical = (instrument.con_id, *request.fields[13:], session.client_id)
        refused = self._state.pacing.historical(instrument.con_id, request.what, identical)
        if refused is not None:
            session.error(request.req_id, *refused)
        return refused is None

    # ---- historical bars ----

    def historical(self, session: ClientSession, request: HistoricalDataRequest) -> None:
        """Send message 17, and with keepUpToDate the current bar every 5 s of market time (message 90)."""
        instrument = self._instrument(session, request)
        if instrument is None or not self._paced(session, request, instrument):
            return
        try:
            query = self._query(request, instrument)
            found = self._state.market.history(query)
        except ValueError as error:
            session.invalid(request.req_id, error, "bN")
            return
        except MarketRefusal as refusal:
            session.error(request.req_id, refusal.code, refusal.text)
            return
        session.send(self._answer(request, instrument, found), instrument.symbol)
        if request.keep_up_to_date:
            self._keep_updated(session, request, instrument, query)

    def _query(self, request: HistoricalDataRequest, instrument: Instrument) -> HistoryQuery:
        if request.format_date not in {1, 2}:
            raise ValueError(f"formatDate {request.format_date} is neither 1 nor 2")
        end_ns = parse_end_time(request.end, instrument.time_zone)
        if request.keep_up_to_date and end_ns:
            raise ValueError("keepUpToDate needs an empty end date")
        what = (request.duration, request.bar_size, request.what, request.rth, request.keep_up_to_date)
        return HistoryQuery(instrument.con_id, end_ns, *what)

    def _answer(self, request: HistoricalDataRequest, instrument: Instrument, found: HistoricalBars) -> list[str]:
        zone_name = instrument.time_zone
        end_ns = parse_end_time(request.end, zone_name) or self._state.clock.now()
        first = found.first or ib_time(found.bars[0].ts if found.bars else end_ns, zone_name)
        rows = [bar_values(bar, request, zone_name) for bar in found.bars]
        last = found.last or ib_time(end_ns, zone_name)
        return self._spoilt(encode_messages.historical_data(request.req_id, first, last, rows))

    def _spoilt(self, fields: list[str]) -> list[str]:
        """The answer as a fault script spoils it: markers or text in its first bar, or a value too few."""
        how, bar = self._state.bad_history, _BAR_AT
        if how == "markers":
            fields[bar + 5 : bar + 8] = [str(UNSET_LONG), str(UNSET_DOUBLE), str(-UNSET_LONG - 1)]
        elif how == "text":
            fields[bar + 4 : bar + 6] = ["NaN", "1,234"]
        return fields[:-1] if how == "short" else fields

    def _keep_updated(
        self, session: ClientSession, request: HistoricalDataRequest, instrument: Instrument, query: HistoryQuery
    ) -> None:
        stream = Stream.HISTORY
        sub = ClientSubscription(session, request.req_id, instrument.con_id, instrument.symbol, stream, key=query.key)
        self._state.registry.add(sub)
        self._state.on_subscribed()
        if self._state.recorded:
            sub.reshape = _with_local_time(request, instrument.time_zone)
            return

        self._repeat(sub, _UPDATE_EVERY_S, lambda: self._update(sub, request, instrument, query))

    def _repeat(self, sub: ClientSubscription, every_s: float, action: Callable[[], None]) -> None:
        """Call `action` every `every_s` seconds of market time during the subscription, unless a fault mutes it."""

        def run_and_reschedule(ts: int) -> None:
            if self._state.registry.get(sub.session, sub.req_id) is not sub:
                return
            if not self._state.muted(sub):
                action()
            self._state.timeline.at(ts + int(every_s * SECOND_NS), run_and_reschedule)

        self._state.timeline.after(every_s, run_and_reschedule)

    def _update(
        self, sub: ClientSubscription, request: HistoricalDataRequest, instrument: Instrument, query: HistoryQuery
    ) -> None:
        try:
            bars = self._state.market.history(query).bars
        except MarketRefusal:
            return  # no trades yet
        if bars:
            values = bar_values(bars[-1], request, instrument.time_zone)
            sub.deliver([encode_messages.historical_update("", values)])

    # ---- historical ticks ----

    def ticks(self, session: ClientSession, request: HistoricalTicksRequest) -> None:
        """Send message 96, 97 or 98, or error 162 when there are no ticks, 321 for an invalid request."""
        instrument = self._instrument(session, request)
        if instrument is None or not self._paced(session, request, instrument):
            return
        try:
            found = self._state.market.ticks(_ticks_query(request, instrument))
        except ValueError as error:
            session.invalid(request.req_id, error, "bN")
        except MarketRefusal as refusal:
            session.error(request.req_id, refusal.code, refusal.text)
        else:
            msg = _TICKS[request.what]
            session.send(encode_messages.historical_ticks(msg, request.req_id, found), instrument.symbol)

    # ---- head timestamps ----

    def head_timestamp(self, session: ClientSession, request: HeadTimestampRequest) -> None:
        """Send message 88: the start of the market is the earliest data of every source."""
        instrument = self._instrument(session, request)
        if instrument is None:
            return
        start = self._state.market.start_ns
        text = str(start // SECOND_NS) if request.format_date == 2 else ib_time(start, "UTC")[:17].replace(" ", "-")
        session.send(encode_messages.head_timestamp(request.req_id, text), instrument.symbol)

    # ---- scanner ----

    def scanner(self, session: ClientSession, request: ScannerRequest) -> None:
        """Send message 20 now, then every 30 s of market time or whenever a recorded day has a new list."""
        if self._state.registry.get(session, request.req_id):
            session.error(request.req_id, *DUPLICATE_ID)
            return
        refused = self._state.scripted_refusal(session, "", Stream.SCANNER)
        if refused is not None:
            session.error(request.req_id, *refused)
            return
        rows = request.rows if request.rows > 0 else _SCAN_ROWS
        try:
            first = self._list(request, rows)
        except MarketRefusal as refusal:
            session.error(request.req_id, refusal.code, refusal.text)
            return
        if not self._streams.line(session, request.req_id, Stream.SCANNER):
            return
        sub = ClientSubscription(session, request.req_id, 0, "", Stream.SCANNER, key=request.scan_code)
        self._state.registry.add(sub)
        sub.deliver([first])
        self._state.on_subscribed()
        if not self._state.recorded:
            every_s = self._state.settings.scan_every_s
            self._repeat(sub, every_s, lambda: self._send_scan(sub, request, rows))

    def _send_scan(self, sub: ClientSubscription, request: ScannerRequest, rows: int) -> None:
        try:
            sub.deliver([self._list(request, rows)])
        except MarketRefusal as refusal:
            sub.session.error(request.req_id, refusal.code, refusal.text)

    def _list(self, request: ScannerRequest, rows: int) -> list[str]:
        by_con_id = {i.con_id: i for i in self._state.market.instruments}
        out = []
        for rank, row in enumerate(self._state.market.scan(request.scan_code, rows)):
            instrument = by_con_id.get(row.con_id)
            values: dict[str, encode_messages.Number] = {
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
        return encode_messages.scanner_data(request.req_id, out)

    def parameters(self, session: ClientSession) -> None:
        """Send message 19: the supported scan codes in IB's XML."""
        types = "\n".join(
            f"<ScanType><displayName>{code}</displayName><scanCode>{code}</scanCode>"
            "<instruments>STK</instruments></ScanType>"
            for code in SCAN_CODES
        )
        session.send(encode_messages.scanner_parameters(SCANNER_XML.format(types=types)))


def _with_local_time(
    request: HistoricalDataRequest, zone_name: str
) -> Callable[[list[str]], Iterable[list[str]]] | None:
    """A converter of recorded updates from epoch seconds to local time text, None if the client wants epoch seconds."""
    if request.format_date == 2 or is_daily(request.bar_size):
        return None

    def reshape(fields: list[str]) -> Iterable[list[str]]:
        if fields[3].isdigit() and len(fields[3]) > 8:
            fields = [*fields[:3], ib_time(int(fields[3]) * SECOND_NS, zone_name), *fields[4:]]
        return (fields,)

    return reshape
