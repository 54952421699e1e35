"""The requests, contracts and historical answers of a recorded day."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import polars as pl

from harvester.calendar import session, trading_date
from harvester.errors import BadSetting
from harvester.events.kinds import Action, Kind, Stream
from harvester.simgateway.markets.historical_bars import SECONDS_OF
from harvester.simgateway.markets.market_source import (
    DEPTH_STREAMS,
    HistoricalBar,
    HistoricalBars,
    HistoryQuery,
    Instrument,
    MarketRefusal,
)
from harvester.units import SECOND_NS
from harvester.wire.cold_messages import END_SEPARATOR
from harvester.wire.encode_messages import contract_place
from harvester.wire.message_ids import REQ_ID_INDEX, In
from harvester.wire.requests_by_id import OPENING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harvester.eventlog.reader import Day

Row = dict[str, Any]


class RecordedRequest(NamedTuple):
    """A request of the recorded day; `key` as in `MarketEvent`."""

    con_id: int
    stream: Stream
    symbol: str
    params: Mapping[str, Any]
    key: str
    seq: int
    ts: int


@dataclass(frozen=True)
class RecordedAnswer:
    """A recorded answer to a historical request, received at `ts`: bars or a refusal."""

    ts: int
    duration: str
    history: HistoricalBars | None
    refusal: tuple[int, str] | None = None


class RecordedRequests:
    """Requests by run and id: an id is used once per run and may repeat in the next run."""

    def __init__(self, day: Day) -> None:
        self._first_seqs = [run.first_seq for run in day.runs]
        self._by_id: dict[tuple[int, int], RecordedRequest] = {}
        self.first_subscription: dict[int, int] = {}  # `connection_of` -> seq
        for row in day.frame(Kind.REQUEST).iter_rows(named=True):
            if row["action"] in OPENING and row["req_id"] >= 0:
                self._by_id.setdefault((self.run_of(row["seq"]), row["req_id"]), _request(row))
            if row["action"] == Action.SUBSCRIBE:
                self.first_subscription.setdefault(self.connection_of(row), row["seq"])

    def run_of(self, seq: int) -> int:
        return bisect_right(self._first_seqs, seq)

    def connection_of(self, row: Row) -> int:
        """The connection of a row: run and epoch in one number."""
        return self.run_of(row["seq"]) << 16 | int(row["epoch"])

    def of(self, row: Row) -> RecordedRequest | None:
        """The request a row answers."""
        return self._by_id.get((self.run_of(row["seq"]), row["req_id"]))

    def all(self) -> list[RecordedRequest]:
        return list(self._by_id.values())


def _stream(text: str | None) -> Stream:
    try:
        return Stream(text or "")
    except ValueError:
        return Stream.OTHER


def _request(row: Row) -> RecordedRequest:
    params = msgspec.json.decode(row["params"] or "{}")
    stream = _stream(row["stream"])
    key = ""
    if stream == Stream.SCANNER:
        key = str(params.get("scan_code", ""))
    elif stream == Stream.HISTORY:
        key = _history_query(row["con_id"], params).key
    return RecordedRequest(row["con_id"], stream, row["symbol"] or "", params, key, row["seq"], row["ts_recv"])


def _history_query(con_id: int, params: Mapping[str, Any]) -> HistoryQuery:
    duration, bar_size, what = (str(params.get(name, "")) for name in ("duration", "bar_size", "what"))
    return HistoryQuery(con_id, 0, duration, bar_size, what, bool(params.get("rth")))


def contract_texts(day: Day) -> dict[int, list[str]]:
    """The first recorded contract details message of each con_id, with request id ""."""
    raw = pl.DataFrame(day.frame(Kind.RAW))
    found: dict[int, list[str]] = {}
    copies = raw.filter((pl.col("msg") == int(In.CONTRACT)) & pl.col("reason").is_in(["copy", "partial"]))
    for con_id, text in copies.select("con_id", "fields").iter_rows():
        fields = text.split("\0")
        fields[REQ_ID_INDEX[In.CONTRACT]] = ""
        found.setdefault(con_id, fields)
    return found


def instruments(day: Day, requests: RecordedRequests, texts: Mapping[int, list[str]]) -> list[Instrument]:
    """Contracts of the day in recorded order, then those that occur only in requests.

    `texts` are the day's `contract_texts`.
    """
    asked: dict[int, list[RecordedRequest]] = {}
    for request in requests.all():
        if request.con_id:
            asked.setdefault(request.con_id, []).append(request)
    found: dict[int, Instrument] = {}
    for row in day.frame(Kind.CONTRACT).iter_rows(named=True):
        if row["con_id"] not in found:
            found[row["con_id"]] = _instrument(row, asked.get(row["con_id"], []), _venues(texts.get(row["con_id"], [])))
    for con_id, own in asked.items():
        if con_id not in found:
            found[con_id] = _instrument({"con_id": con_id, "symbol": own[0].symbol}, own, ())
    return list(found.values())


def _venues(fields: list[str]) -> tuple[str, ...]:
    """The valid exchanges of a contract details message, () if it has none."""
    at = contract_place("valid_exchanges")
    return tuple(filter(None, fields[at].split(","))) if len(fields) > at else ()


_CONTRACT_COLUMNS = (
    "symbol",
    "sec_type",
    "exchange",
    "primary_exchange",
    "currency",
    "local_symbol",
    "trading_class",
    "long_name",
    "time_zone",
    "trading_hours",
    "liquid_hours",
)


def _instrument(row: Row, own: Sequence[RecordedRequest], valid: tuple[str, ...]) -> Instrument:
    streams = {request.stream for request in own}
    venues = {str(r.params.get("exchange", "")) for r in own if r.stream == Stream.DEPTH} - {""}
    given = {name: row[name] for name in _CONTRACT_COLUMNS if row.get(name) is not None}
    if row.get("min_tick") is not None:
        given["min_tick"] = f"{row['min_tick']:.10f}".rstrip("0").rstrip(".")
    return Instrument(
        con_id=row["con_id"],
        **given,
        venues=valid or ("SMART",),
        depth_venues=tuple(sorted(venues)),
        has_depth=Stream.DEPTH in streams,
        has_smart_depth=Stream.SMART_DEPTH in streams,
    )


def depth_rows(requests: RecordedRequests) -> int:
    """Maximum number of rows of the day's depth requests."""
    return max((int(r.params.get("rows", 10)) for r in requests.all() if r.stream in DEPTH_STREAMS), default=10)


class RecordedHistory:
    """Recorded historical answers, returned in recorded order.

    Answers are keyed by instrument, bar size, what and RTH; equal durations are preferred. Each request gets the next
    unused answer, or the last one when all are used. If only useRTH=0 was recorded, a request with useRTH=1 gets the
    bars of that answer that are within the session.
    """

    def __init__(self, day: Day, requests: RecordedRequests) -> None:
        self._replies: dict[tuple[int, str], list[RecordedAnswer]] = {}
        self._given: dict[tuple[int, str, str], int] = {}
        bars: dict[tuple[int, int], list[HistoricalBar]] = {}
        for row in day.frame(Kind.BAR).filter(pl.col("msg") == int(In.HISTORICAL_DATA)).iter_rows(named=True):
            bars.setdefault((requests.run_of(row["seq"]), row["req_id"]), []).append(_bar(row))
        for row in day.frame(Kind.END).filter(pl.col("msg") == int(In.HISTORICAL_DATA)).iter_rows(named=True):
            request = requests.of(row)
            if request is not None:
                first, _, last = (row["text"] or "").partition(END_SEPARATOR)
                own = bars.get((requests.run_of(row["seq"]), row["req_id"]), [])
                self._add(request, RecordedAnswer(row["ts_recv"], _duration(request), HistoricalBars(own, first, last)))
        for row in day.frame(Kind.NOTICE).filter(pl.col("msg") == int(In.ERROR)).iter_rows(named=True):
            request = requests.of(row)
            if request is not None and request.stream == Stream.HISTORY:
                refusal = (row["code"], row["text"] or "")
                self._add(request, RecordedAnswer(row["ts_recv"], _duration(request), None, refusal))
        for replies in self._replies.values():
            replies.sort(key=lambda reply: reply.ts)

    def _add(self, request: RecordedRequest, reply: RecordedAnswer) -> None:
        self._replies.setdefault((request.con_id, request.key), []).append(reply)

    def answer(self, query: HistoryQuery) -> HistoricalBars:
        """The recorded answer to a request.

        Raises:
            MarketRefusal: as recorded, or 162 if no such request was recorded.
        """
        replies = self._replies.get((query.con_id, query.key), [])
        cut = not replies and query.rth and not query.keep_up  # updates are sent as recorded, not filtered
        if cut:
            replies = self._replies.get((query.con_id, query._replace(rth=False).key), [])
        replies = [reply for reply in replies if reply.duration == query.duration] or replies
        if not replies:
            raise self._no_data(query)
        slot = (query.con_id, query.key, query.duration)
        place = self._given.get(slot, 0)
        self._given[slot] = place + 1
        reply = replies[min(place, len(replies) - 1)]
        if reply.history is None:
            assert reply.refusal is not None, "an answer has bars or a refusal"
            raise MarketRefusal(*reply.refusal)
        if not cut:
            return reply.history
        bars = [bar for bar in reply.history.bars if _in_session(bar.ts, query.bar_size)]
        if not bars:
            raise self._no_data(query)
        return replace(reply.history, bars=bars)

    def _no_data(self, query: HistoryQuery) -> MarketRefusal:
        found: dict[str, list[str]] = {}
        for (con_id, key), replies in self._replies.items():
            if con_id == query.con_id and any(reply.history for reply in replies):
                bar_size, what, rth = key.split("|")
                found.setdefault(rth, []).append(f"{bar_size} {what}")
        recorded = "".join(f"; recorded with useRTH={rth}: {', '.join(bars)}" for rth, bars in found.items())
        text = f"no {query.bar_size} {query.what} bars were recorded with useRTH={int(query.rth)}{recorded}"
        return MarketRefusal(162, f"Historical Market Data Service error message:HMDS query returned no data: {text}")


def _in_session(ts: int, bar_size: str) -> bool:
    """Whether a bar is entirely within its date's session; False for bars of a day or more."""
    seconds = SECONDS_OF.get(bar_size)
    if seconds is None:
        return False
    try:
        hours = session(trading_date(ts))
    except BadSetting:  # a date outside the calendar, as sent by the gateway
        return False
    return hours is not None and hours.open_ns <= ts and ts + seconds * SECOND_NS <= hours.close_ns


def _duration(request: RecordedRequest) -> str:
    return str(request.params.get("duration", ""))


def _bar(row: Row) -> HistoricalBar:
    columns = {name: row[name] for name in ("open", "high", "low", "close", "volume", "wap", "count")}
    return HistoricalBar(ts=row["ts_event"] or 0, **columns, text=row["time"] or "")
