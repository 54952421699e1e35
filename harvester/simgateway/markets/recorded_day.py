"""A recorded day as a market source: the log replayed at its own times to any IB client.

The recorded messages of a (con_id, stream) go to every client subscribed to it, in log order and at their `ts_recv`. A
recorder with the same subscriptions as the original records equal payloads in equal order. This includes errors of a
subscription, tick parameters, data types, scanner lists, messages without a typed kind, and statuses without a request
(farms, 1100) after the first subscription of a connection. Contract details are sent as recorded, with the requested
exchange; historical answers in recorded order. Rows written by Harvester (clock, requests, its notices) are not served.

A client that subscribes later first gets the current state: the last message of each L1 field, the book as inserts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harvester.eventlog.reader import open_day
from harvester.events import codes
from harvester.events.kinds import Action, Kind, Operation, SourceKind, Stream
from harvester.simgateway.markets.market_source import (
    DataSource,
    HistoricalBars,
    HistoryQuery,
    MarketEvent,
    MarketRefusal,
    ScanRow,
    TicksQuery,
    no_data,
)
from harvester.simgateway.markets.recorded_requests import (
    RecordedHistory,
    RecordedRequest,
    RecordedRequests,
    contract_texts,
    depth_rows,
    instruments,
)
from harvester.wire import encode_messages
from harvester.wire.decode_messages import VERSIONS
from harvester.wire.message_ids import REQ_ID_INDEX, In

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import date
    from pathlib import Path

    from harvester.eventlog.reader import Day
    from harvester.events.batch import Batch

Row = dict[str, Any]
_ROWS = 50_000
_LISTS = (In.CONTRACT, In.HISTORICAL_DATA, In.SCANNER_DATA)
_PLACEHOLDER_ID = -1  # placeholder for the request id, later replaced by ""
_STREAMED = (Kind.TICK, Kind.TRADE, Kind.QUOTE, Kind.DEPTH, Kind.BAR, Kind.NOTICE, Kind.RAW, Kind.SCAN, Kind.END)


def open_recorded(home: Path | None = None, *, trading_date: date | str) -> RecordedDay:
    """Open the day recorded on `trading_date` below `home`.

    Raises:
        NoLog, DamagedLog, FutureFormat: as `harvester.open_day`.
    """
    return RecordedDay(open_day(trading_date, home))


class SubscriberState:
    """Current state per (con_id, stream), sent first to a late subscriber."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._level1: dict[int, dict[tuple[str, str], list[str]]] = {}
        self._books: dict[tuple[int, Stream], dict[str, list[Row]]] = {}

    def forget(self, con_id: int, stream: Stream) -> None:
        """Clear the state of a stream: a recorded subscription began or ended."""
        if stream == Stream.L1:
            self._level1.pop(con_id, None)
        self._books.pop((con_id, stream), None)

    def keep(self, kind: Kind, row: Row, request: RecordedRequest, fields: list[str]) -> None:
        if request.stream == Stream.L1 and kind != Kind.NOTICE:
            field = fields[3] if kind == Kind.TICK else ""
            self._level1.setdefault(request.con_id, {})[fields[0], field] = fields
        elif request.stream == Stream.L1 and row["msg"] == In.MARKET_DATA_TYPE:
            self._level1.setdefault(request.con_id, {})["58", ""] = fields
        elif kind == Kind.DEPTH:
            self._apply(row, self._books.setdefault((request.con_id, request.stream), {}).setdefault(row["side"], []))
        elif kind == Kind.NOTICE and row["code"] == codes.DEPTH_RESET:
            self._books.pop((request.con_id, request.stream), None)

    def _apply(self, row: Row, side: list[Row]) -> None:
        at, operation = row["position"], row["operation"]
        if at is None or at < 0 or at > len(side):
            return
        if operation == Operation.INSERT:
            side.insert(at, row)
            del side[self._rows :]
        elif at < len(side):
            if operation == Operation.UPDATE:
                side[at] = row
            elif operation == Operation.DELETE:
                del side[at]

    def snapshot(self, con_id: int, stream: Stream) -> list[list[str]]:
        if stream == Stream.L1:
            return [list(fields) for fields in self._level1.get(con_id, {}).values()]
        out = []
        for _, side in sorted(self._books.get((con_id, stream), {}).items()):
            for at, row in enumerate(side):
                insert = {**row, "position": at, "operation": int(Operation.INSERT)}
                out.append(_without_id(encode_messages.answer_of(Kind.DEPTH, insert, _PLACEHOLDER_ID)))
        return [fields for fields in out if fields is not None]


class RecordedDay:
    """The `Market` of a recorded day."""

    pushes_scans = True

    def __init__(self, day: Day) -> None:
        self._day = day
        self._requests = RecordedRequests(day)
        self._texts, self._histories = contract_texts(day), RecordedHistory(day, self._requests)
        self.instruments = tuple(instruments(day, self._requests, self._texts))
        self.depth_rows = depth_rows(self._requests)
        self.trading_date = day.trading_date
        first = next(iter(day.batches(rows_max=1)), None)
        self.start_ns = int(next(iter(first.tables.values())).column(1)[0].as_py()) if first is not None else 0
        self.end_ns = day.last_ts
        self._memory = SubscriberState(self.depth_rows)
        self._lists: dict[str, list[ScanRow]] = {}
        self._scans: dict[int, list[Row]] = {}
        self._versions = dict(VERSIONS)
        self._served_seq = 0  # of a row that was served as text already
        self._rows = self._in_order(day)
        self._next: tuple[Kind, Row] | None = next(self._rows, None)

    def _in_order(self, day: Day) -> Iterator[tuple[Kind, Row]]:
        for batch in day.batches(rows_max=_ROWS):
            yield from _events(batch)

    def source(self) -> DataSource:
        return DataSource(SourceKind.SERVED, self._day.identity())

    def next_ts(self) -> int | None:
        return None if self._next is None else int(self._next[1]["ts_recv"])

    def advance(self, until_ns: int, wanted: Callable[[int, Stream], bool], at_most: int = 2000) -> list[MarketEvent]:
        out: list[MarketEvent] = []
        now = -1
        while self._next is not None:
            kind, row = self._next
            if row["ts_recv"] > until_ns or (len(out) >= at_most and row["ts_recv"] != now):
                break
            now = row["ts_recv"]
            event = self._event(kind, row)
            if event is not None and wanted(event.con_id, event.stream):
                out.append(event)
            self._next = next(self._rows, None)
        return out

    def _event(self, kind: Kind, row: Row) -> MarketEvent | None:
        request = self._requests.of(row)
        if kind == Kind.REQUEST:
            if request is not None and row["action"] in {Action.SUBSCRIBE, Action.CANCEL}:
                self._memory.forget(request.con_id, request.stream)
            return None
        if kind == Kind.NOTICE and row["req_id"] == -1 and row["msg"] == In.ERROR:
            return self._status(row)
        if request is None or request.stream == Stream.CONTRACT:
            return None
        if kind == Kind.SCAN or (kind == Kind.END and row["msg"] == In.SCANNER_DATA):
            return self._scan_list(kind, row, request)
        answered = request.stream == Stream.HISTORY and kind != Kind.BAR  # refusals and ends: `history` returns them
        fields = None if answered else self._fields(kind, row)
        if fields is None:
            return None
        self._memory.keep(kind, row, request, fields)
        return MarketEvent(row["ts_recv"], request.con_id, request.stream, [fields], request.key)

    def _fields(self, kind: Kind, row: Row) -> list[str] | None:
        """The row's message with its recorded version field."""
        if kind == Kind.END or row["seq"] == self._served_seq:
            return None  # the gateway ends its own answers
        if kind == Kind.RAW:
            return self._raw(row)
        fields = _without_id(encode_messages.answer_of(kind, row, _PLACEHOLDER_ID))
        if fields is not None and fields[0] in self._versions:
            fields[1] = self._versions[fields[0]]
        return fields

    def _raw(self, row: Row) -> list[str] | None:
        """The exact message of a `raw` row; a copy only sets the version of the next message.

        The text of a message with an unreadable value replaces the row after it; lists are served from their rows.
        """
        if row["fields"] is None or row["reason"] == "sent":
            return None
        fields: list[str] = row["fields"].split("\0")
        if row["reason"] == "copy":
            if fields[0] in self._versions:
                self._versions[fields[0]] = fields[1]
            return None
        if row["reason"] == "partial":
            if row["msg"] in _LISTS:
                return None
            self._versions |= {fields[0]: fields[1]} if fields[0] in self._versions else {}
            self._served_seq = row["seq"] + 1
        fields[REQ_ID_INDEX[row["msg"]]] = ""
        return fields

    def _status(self, row: Row) -> MarketEvent | None:
        """A status without a request, for all clients; None if it belongs to the handshake of a connection."""
        first = self._requests.first_subscription.get(self._requests.connection_of(row))
        if first is None or row["seq"] < first or row["code"] == codes.SIMULATED:
            return None
        fields = encode_messages.answer_of(Kind.NOTICE, row, _PLACEHOLDER_ID)
        return None if fields is None else MarketEvent(row["ts_recv"], 0, Stream.OTHER, [fields])

    def _scan_list(self, kind: Kind, row: Row, request: RecordedRequest) -> MarketEvent | None:
        """Collect scanner rows until their list ends."""
        rows = self._scans.setdefault(row["req_id"], [])
        if kind == Kind.SCAN:
            rows.append(row)
            return None
        del self._scans[row["req_id"]]
        self._lists[request.key] = [
            ScanRow(scan["con_id"], scan["symbol"] or "", columns={c: scan[c] for c in encode_messages.SCAN_COLUMNS})
            for scan in rows
        ]
        fields = _without_id(encode_messages.scanner_of(rows, _PLACEHOLDER_ID))
        assert fields is not None, "a scanner list is one message"
        return MarketEvent(row["ts_recv"], 0, Stream.SCANNER, [fields], request.key)

    def snapshot(self, con_id: int, stream: Stream) -> list[list[str]]:
        return self._memory.snapshot(con_id, stream)

    def history(self, query: HistoryQuery) -> HistoricalBars:
        return self._histories.answer(query)

    def ticks(self, query: TicksQuery) -> list[tuple[Any, ...]]:
        """None: a recorded day holds no answers to such requests.

        Raises:
            MarketRefusal: always.
        """
        symbol = next((i.symbol for i in self.instruments if i.con_id == query.con_id), "")
        raise no_data(query.what, symbol, "; a recorded day serves no historical ticks")

    def scan(self, scan_code: str, rows: int) -> list[ScanRow]:
        known = {r.key for r in self._requests.all() if r.stream == Stream.SCANNER}
        if scan_code not in known:
            text = f"Scanner code {scan_code} was not recorded"
            raise MarketRefusal(162, f"Historical Market Data Service error message:{text}")
        return self._lists.get(scan_code, [])[:rows]

    def contract_text(self, con_id: int) -> list[str] | None:
        fields = self._texts.get(con_id)
        return None if fields is None else list(fields)


def _events(batch: Batch) -> list[tuple[Kind, Row]]:
    """The rows of a batch that can be served, in seq order."""
    rows = [
        (kind, row)
        for kind, table in batch.tables.items()
        if kind in _STREAMED or kind == Kind.REQUEST
        for row in table.to_pylist()
    ]
    rows.sort(key=lambda item: item[1]["seq"])
    return rows


def _without_id(fields: list[str] | None) -> list[str] | None:
    """The message with "" in place of its request id."""
    if fields is not None:
        fields[REQ_ID_INDEX[int(fields[0])]] = ""
    return fields
