"""Count sent data per event kind and symbol: rows, exact sums of all numbers, and a sum of text hashes.

Sums are decimal, without rounding, of the numbers as sent, so a recording can be checked value for value: `exact_sum`
of its columns must give the same text. Texts (exchange, conditions, market maker, values of string ticks) are hashed
per row and the hashes summed: `text_sum` of its columns must give the same digits.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from decimal import Context, Decimal, InvalidOperation
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from harvester.events.kinds import Kind
from harvester.files import naming
from harvester.wire.message_ids import In

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

# 309 digits before the decimal point (unset doubles) and enough after it: no addition rounds.
_EXACT = Context(prec=700, Emax=999999, Emin=-999999)
_BATCH = 4096

_TBT_LAST = {"seconds": 3, "price": 4, "size": 5, "attribs": 6}
_TBT_QUOTE = {"seconds": 3, "bid": 4, "ask": 5, "bid_size": 6, "ask_size": 7, "attribs": 8}
_BAR = ("open", "high", "low", "close", "volume", "wap", "count")

_LAYOUT: dict[str, tuple[Kind, dict[str, int]]] = {
    "1": (Kind.TICK, {"field": 3, "price": 4, "size": 5, "attribs": 6}),
    "2": (Kind.TICK, {"field": 3, "size": 4}),
    "45": (Kind.TICK, {"field": 3, "value": 4}),
    "46": (Kind.TICK, {"field": 3}),
    "12": (Kind.DEPTH, {"position": 3, "operation": 4, "side": 5, "price": 6, "size": 7}),
    "13": (Kind.DEPTH, {"position": 3, "operation": 5, "side": 6, "price": 7, "size": 8, "smart": 9}),
    "99/1": (Kind.TRADE, _TBT_LAST),
    "99/2": (Kind.TRADE, _TBT_LAST),
    "99/3": (Kind.QUOTE, _TBT_QUOTE),
    "99/4": (Kind.QUOTE, {"seconds": 3, "mid": 4}),
    "50": (Kind.BAR, {column: 4 + i for i, column in enumerate(_BAR)}),
    "90": (Kind.BAR, {"count": 2, "open": 4, "close": 5, "high": 6, "low": 7, "wap": 8, "volume": 9}),
    "10": (Kind.CONTRACT, {}),
    "4": (Kind.NOTICE, {"code": 3}),
    "58": (Kind.NOTICE, {"value": 3}),
}
"""Message id (with the tick-by-tick stream) → event kind, and the indexes of its numbers."""

_TEXTS: dict[str, tuple[int, ...]] = {"46": (4,), "13": (4,), "99/1": (7, 8), "99/2": (7, 8)}
"""Layout → indexes of its texts; all layouts of a kind that have texts have the same ones."""

TEXTS: dict[Kind, tuple[str, ...]] = {
    Kind.TICK: ("text",),
    Kind.DEPTH: ("market_maker",),
    Kind.TRADE: ("exchange", "conditions"),
}
"""Event kind → the columns of these texts."""

_ENDS = frozenset({"17", "20", str(int(In.CONTRACT_END)), str(int(In.SNAPSHOT_END))})
"""Messages recorded as `end`; other end-of-list messages are recorded as `raw`."""


def exact_sum(values: Iterable[float | int | str | None]) -> str:
    """Exact sum of the shortest decimal texts of numbers; None, empty and non-finite values are skipped."""
    total = Decimal(0)
    for value in values:
        number = _decimal(value if isinstance(value, str) else repr(value))
        if number is not None:
            total = _EXACT.add(total, number)
    return _text(total)


def text_sum(rows: Iterable[Iterable[str | None]]) -> str:
    """Sum of a hash of each row's texts, independent of row order. None counts as empty, a row without text as 0."""
    return _digits(_hashed(Counter(tuple(text or "" for text in row) for row in rows)))


def _hashed(counts: Counter[tuple[str, ...]]) -> int:
    total = 0
    for texts, rows in counts.items():
        if any(texts):
            data = "\0".join(texts).encode("utf-8", "surrogatepass")
            total += rows * int.from_bytes(blake2b(data, digest_size=16).digest(), "little")
    return total


def _digits(total: int) -> str:
    return f"{total % (1 << 128):032x}"


def _decimal(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _text(total: Decimal) -> str:
    return "0" if not total else format(total.normalize(_EXACT), "f")


class MessageTally:
    """Row count and sums of one layout and symbol; `add` buffers, sums are computed in batches."""

    def __init__(self, columns: dict[str, int], texts: tuple[int, ...] = ()) -> None:
        self.columns, self.texts, self.rows, self.text = columns, texts, 0, 0
        self._pending: list[Sequence[str]] = []
        self._sums = dict.fromkeys(columns, Decimal(0))

    def add(self, fields: Sequence[str]) -> None:
        self._pending.append(fields)
        if len(self._pending) >= _BATCH:
            self.sums()

    def sums(self) -> dict[str, Decimal]:
        pending, self._pending = self._pending, []
        self.rows += len(pending)
        for column, at in self.columns.items():
            total, add = self._sums[column], _EXACT.add
            for fields in pending:
                number = _decimal(fields[at]) if at < len(fields) and fields[at] else None
                if number is not None:
                    total = add(total, number)
            self._sums[column] = total
        if self.texts:
            rows = (tuple(f[at] if at < len(f) else "" for at in self.texts) for f in pending)
            self.text += _hashed(Counter(rows))
        return self._sums


class GatewayReport:
    """Counts of everything a gateway sent and received, written as JSON on exit."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], MessageTally] = {}
        self._lists: dict[tuple[Kind, str], int] = {}
        self.messages = self.bytes = self.orders_refused = self.raw_bytes = 0
        self.requests: Counter[str] = Counter()
        self.errors: Counter[int] = Counter()
        self.faults: list[dict[str, Any]] = []
        self.clients: list[dict[str, Any]] = []

    def tally(self, layout: str, symbol: str) -> MessageTally:
        """The tally of a layout and symbol; the caller may cache it."""
        found = self._tallies.get((layout, symbol))
        if found is None:
            found = MessageTally(_LAYOUT[layout][1] if layout in _LAYOUT else {}, _TEXTS.get(layout, ()))
            self._tallies[layout, symbol] = found
        return found

    def count(self, fields: Sequence[str], symbol: str) -> None:
        """Count one message."""
        layout = layout_key(fields)
        if layout == "17":
            self._bars(fields, symbol)
        elif layout == "20":
            self._list(Kind.SCAN, "", int(fields[3]))
        elif layout == "4":
            self.errors[int(fields[3])] += 1
        self.tally(layout, symbol).add(fields)

    def _bars(self, fields: Sequence[str], symbol: str) -> None:
        for at in range(5, 5 + 8 * int(fields[4]), 8):
            time, *values = fields[at : at + 8]
            self.tally("50", symbol).add(("17", "", "", time, *values))

    def _list(self, kind: Kind, symbol: str, rows: int) -> None:
        self._lists[kind, symbol] = self._lists.get((kind, symbol), 0) + rows

    def by_kind(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Kind → symbol → {rows, sums, texts}; the symbol is "" for messages of the connection."""
        out: dict[str, dict[str, dict[str, Any]]] = {}
        totals: dict[tuple[str, str, str], Decimal] = {}
        texts: Counter[tuple[str, str]] = Counter()
        for (layout, symbol), tally in sorted(self._tallies.items()):
            kind = kind_of(layout)
            sums = tally.sums()
            entry = out.setdefault(kind, {}).setdefault(symbol, {"rows": 0, "sums": {}})
            entry["rows"] += tally.rows
            for column, part in sums.items():
                at = (kind, symbol, column)
                totals[at] = _EXACT.add(totals.get(at, Decimal(0)), part)
                entry["sums"][column] = _text(totals[at])
            if kind in TEXTS:
                texts[kind, symbol] += tally.text
                entry["texts"] = _digits(texts[kind, symbol])
        for (kind, symbol), rows in sorted(self._lists.items()):
            out.setdefault(kind, {})[symbol] = {"rows": rows, "sums": {}}
        return out

    def as_dict(self) -> dict[str, Any]:
        return {
            "schema": "gateway_report",
            "schema_version": 1,
            "messages": self.messages,
            "bytes": self.bytes,
            "raw_bytes": self.raw_bytes,
            "orders_refused": self.orders_refused,
            "requests": dict(sorted(self.requests.items())),
            "errors": {str(code): n for code, n in sorted(self.errors.items())},
            "faults": self.faults,
            "clients": self.clients,
            "sent": self.by_kind(),
        }


def layout_key(fields: Sequence[str]) -> str:
    """Layout key of a message: its id, for tick-by-tick data with the stream."""
    return f"99/{fields[2]}" if fields[0] == "99" and len(fields) > 2 else fields[0]


def kind_of(layout: str) -> Kind:
    """Event kind of a layout; list answers count as `end`, untyped messages as `raw`."""
    if layout in _LAYOUT:
        return _LAYOUT[layout][0]
    return Kind.END if layout in _ENDS else Kind.RAW


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file atomically: a reader never sees a partial file.

    Raises:
        LogWriteFailed: the disk is full or failing.
        CannotRun: `path` is not writable.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            _replace(beside, path)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise


def _replace(beside: Path, path: Path) -> None:
    for attempt in range(20):
        try:
            beside.replace(path)
        except PermissionError:  # Windows: a reader has the file open
            if attempt == 19:
                raise
        else:
            return
