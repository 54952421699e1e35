"""Decode infrequent messages one by one: notices, contracts, bars, scanner lists, ends, and unknown messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harvester.events.kinds import Kind
from harvester.units import SECOND_NS
from harvester.wire.encode_messages import SCAN_COLUMNS
from harvester.wire.message_ids import REQ_ID_INDEX
from harvester.wire.parse_columns import INT32, INT64, exact_int, float_of, int_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from harvester.wire.requests_by_id import RequestTable

Row = tuple[Kind, dict[str, Any]]

TYPED = frozenset({"1", "2", "4", "10", "12", "13", "17", "20", "45", "46", "50", "52", "57", "58", "90", "99"})
"""Ids of messages with a typed kind: if one cannot be parsed it is `undecodable`; all other messages are `untyped`."""

END_SEPARATOR = "\0"
"""Separates first and last time in the `end` text of message 17; it cannot occur inside a field."""

_HISTORY_BAR = ("open", "high", "low", "close", "volume", "wap")
_UPDATE_BAR = ("open", "close", "high", "low", "wap", "volume")
_HISTORY_HEAD, _BAR_FIELDS = 5, 8  # fields of message 17 before its bars, and of a bar
_CONTRACT_LENGTH_MIN = 28
_CONTRACT: tuple[tuple[str, int], ...] = (
    ("symbol", 2),
    ("sec_type", 3),
    ("exchange", 7),
    ("currency", 8),
    ("local_symbol", 9),
    ("trading_class", 11),
    ("long_name", 19),
    ("primary_exchange", 20),
    ("time_zone", 25),
    ("trading_hours", 26),
    ("liquid_hours", 27),
)
_EPOCH_DIGITS_MIN = 9  # shorter digit strings are dates (yyyymmdd)
SECONDS_MAX = INT64[1] // SECOND_NS  # largest time in seconds that fits int64 ns


class BadLayout(ValueError):
    """A message does not have the layout of its id."""


def history_problem(message: Sequence[str]) -> str:
    """Why the bars of message 17 cannot be read; empty when they can."""
    if len(message) < _HISTORY_HEAD:
        return f"{len(message)} fields, at least {_HISTORY_HEAD} are needed"
    count, values = int_of(message[4])[0], len(message) - _HISTORY_HEAD
    if count is None or count < 0:
        return f"{message[4][:40]!r} is not a number of bars"
    return "" if values == _BAR_FIELDS * count else f"{values} values for {count} bars of {_BAR_FIELDS} values"


def _int(text: str, bounds: tuple[int, int] = INT32) -> int:
    value = exact_int(text, bounds)
    if value is None:
        raise BadLayout("a number is missing")
    return value


def _event_time(text: str) -> int | None:
    """Epoch seconds as ns; None for other texts (dates, local times)."""
    if len(text) < _EPOCH_DIGITS_MIN or not text.isdigit() or not text.isascii():
        return None
    seconds = int(text)
    return seconds * SECOND_NS if seconds <= SECONDS_MAX else None


class ColdDecoder:
    """Decodes one item at a time, in order of arrival. State lasts for a run; each message id has its own method."""

    def __init__(self, requests: RequestTable, versions: dict[str, str]) -> None:
        self._requests, self._versions = requests, versions
        self._snapshots: dict[int, int] = {}
        self._contracts: dict[int, int] = {}
        self._odd = False  # a value of the message under way cannot be found again from its row

    def rows(self, item: Sequence[str] | tuple[Kind, Mapping[str, Any]], position: int) -> list[Row]:
        """The rows of the item at `position` in its batch; at least one."""
        if isinstance(item, tuple):
            kind, given = item
            if kind is Kind.REQUEST:
                self._requests.learn(given, position)
            return [(kind, dict(given))]
        message: Sequence[str] = item
        handler = _HANDLERS.get(message[0]) if message else None
        if handler is None:
            return [self._raw(message, "undecodable" if _is_bad(message) else "untyped", position)]
        self._odd = False
        try:
            rows = handler(self, message, position)
        except (ValueError, IndexError):
            return [self.undecodable(message, position)]
        copied = self.version_copy(message, position) if message[0] in self._versions else None
        if self._odd:  # its text may be among the rows already
            text = rows.pop(0)[1] if rows[0][0] is Kind.RAW else self.partial(message, position)[1]
            return [(Kind.RAW, {**text, "reason": "partial"}), *rows]
        return rows if copied is None or copied == rows[0] else [copied, *rows]

    def partial(self, message: Sequence[str], position: int) -> Row:
        """The exact text of a message whose rows have an unreadable value as null."""
        return self._raw(message, "partial", position)

    def _float(self, text: str) -> float | None:
        value, exact = float_of(text)
        self._odd |= not exact
        return value

    def _whole(self, text: str, bounds: tuple[int, int] = INT32) -> int | None:
        value, exact = int_of(text, bounds)
        self._odd |= not exact
        return value

    def undecodable(self, message: Sequence[str], position: int) -> Row:
        """A `raw` row with the exact text; request id and instrument only if the id can be parsed."""
        return self._raw(message, "undecodable", position)

    def version_copy(self, message: Sequence[str], position: int) -> Row | None:
        """A copy of a message whose version differs from the previous one, else None."""
        if message[1] == self._versions[message[0]]:
            return None
        self._versions[message[0]] = message[1]
        return self._raw(message, "copy", position)

    def _raw(self, message: Sequence[str], reason: str, position: int) -> Row:
        row: dict[str, Any] = {"fields": "\0".join(message) if message else None, "reason": reason}
        try:
            row["msg"] = exact_int(message[0])
            row["req_id"] = _int(message[REQ_ID_INDEX[row["msg"]]])
            row["con_id"] = self._requests.con_id(row["req_id"], position)
        except (ValueError, IndexError, KeyError):
            pass  # no request id, or not a valid one
        return Kind.RAW, row

    def _ids(self, req_id: int) -> dict[str, Any]:
        return {"req_id": req_id, "con_id": self._requests.get(req_id).con_id}

    def error(self, m: Sequence[str], position: int) -> list[Row]:
        """A notice; with an unusual number of fields also a copy of the exact text."""
        _, _, req_id, code, text, *rest = m
        row = {"msg": 4, "code": self._whole(code), "text": text or None, "detail": (rest[0] if rest else "") or None}
        rows = [(Kind.NOTICE, {**self._ids(_int(req_id)), **row})]
        return rows if len(rest) == 1 else [self._raw(m, "copy", position), *rows]

    def data_type(self, m: Sequence[str], _position: int) -> list[Row]:
        _, _, req_id, value = m
        return [(Kind.NOTICE, {**self._ids(_int(req_id)), "msg": 58, "value": self._whole(value, INT64)})]

    def contract(self, m: Sequence[str], position: int) -> list[Row]:
        if len(m) < _CONTRACT_LENGTH_MIN:
            raise BadLayout("contract details are too short")
        req_id = _int(m[1])
        row: dict[str, Any] = {name: m[index] or None for name, index in _CONTRACT}
        row |= {"msg": 10, "req_id": req_id, "con_id": _int(m[12], INT64), "min_tick": self._float(m[13])}
        self._contracts[req_id] = self._contracts.get(req_id, 0) + 1
        kind, copied = self._raw(m, "copy", position)
        return [(kind, {**copied, "con_id": row["con_id"]}), (Kind.CONTRACT, row)]

    def contract_end(self, m: Sequence[str], _position: int) -> list[Row]:
        _, _, text = m
        req_id = _int(text)
        return [self._end(52, req_id, self._contracts.pop(req_id, 0))]

    def snapshot_end(self, m: Sequence[str], _position: int) -> list[Row]:
        _, _, text = m
        return [self._end(57, _int(text), None)]

    def _end(self, msg: int, req_id: int, rows: int | None, text: str | None = None) -> Row:
        stream = self._requests.get(req_id).stream or None
        return Kind.END, {**self._ids(req_id), "msg": msg, "stream": stream, "rows": rows, "text": text}

    def _bar(self, msg: int, req_id: int, time: str, values: Mapping[str, str], count: str) -> Row:
        facts = self._requests.get(req_id)
        row: dict[str, Any] = {name: self._float(text) for name, text in values.items()}
        row |= {"msg": msg, "time": time or None, "ts_event": _event_time(time), "count": self._whole(count, INT64)}
        row |= {"bar_size": facts.text("bar_size"), "what": facts.text("what"), "rth": facts.flag("rth")}
        return Kind.BAR, {**self._ids(req_id), **row}

    def realtime_bar(self, m: Sequence[str], _position: int) -> list[Row]:
        _, _, req_id, time, *values, count = m
        return [self._bar(50, _int(req_id), time, dict(zip(_HISTORY_BAR, values, strict=True)), count)]

    def history_update(self, m: Sequence[str], _position: int) -> list[Row]:
        _, req_id, count, time, *values = m
        return [self._bar(90, _int(req_id), time, dict(zip(_UPDATE_BAR, values, strict=True)), count)]

    def history(self, m: Sequence[str], _position: int) -> list[Row]:
        _, text, start, end, _, *values = m
        if problem := history_problem(m):
            raise BadLayout(problem)
        req_id, n = _int(text), len(values) // _BAR_FIELDS
        rows = []
        for at in range(0, len(values), _BAR_FIELDS):
            numbers = dict(zip(_HISTORY_BAR, values[at + 1 : at + 7], strict=True))
            rows.append(self._bar(17, req_id, values[at], numbers, values[at + 7]))
        rows.append(self._end(17, req_id, n, f"{start}{END_SEPARATOR}{end}"))
        return rows

    def scan(self, m: Sequence[str], _position: int) -> list[Row]:
        _, _, text, count, *values = m
        req_id, n, width = _int(text), _int(count), len(SCAN_COLUMNS)
        if n < 0 or len(values) != width * n:
            raise BadLayout("scanner rows and their number differ")
        code = self._requests.get(req_id).text("scan_code")
        snapshot = self._snapshots.get(req_id, 0) + 1
        head = {"req_id": req_id, "scan_code": code, "snapshot": snapshot}
        rows: list[Row] = []
        for at in range(0, len(values), width):
            row: dict[str, Any] = dict(zip(SCAN_COLUMNS, (v or None for v in values[at : at + width]), strict=True))
            row |= {"rank": self._whole(values[at]), "con_id": _int(values[at + 1], INT64)}
            rows.append((Kind.SCAN, {**head, **row}))
        self._snapshots[req_id] = snapshot
        return [*rows, self._end(20, req_id, n)]


def _is_bad(message: Sequence[str]) -> bool:
    """Whether a message without a handler is undecodable: no message id, or a typed id with an unknown layout."""
    if not message or message[0] in TYPED:
        return True
    try:
        return exact_int(message[0]) is None
    except ValueError:
        return True


_HANDLERS: dict[str, Callable[[ColdDecoder, Sequence[str], int], list[Row]]] = {
    "4": ColdDecoder.error,
    "10": ColdDecoder.contract,
    "17": ColdDecoder.history,
    "20": ColdDecoder.scan,
    "50": ColdDecoder.realtime_bar,
    "52": ColdDecoder.contract_end,
    "57": ColdDecoder.snapshot_end,
    "58": ColdDecoder.data_type,
    "90": ColdDecoder.history_update,
}
