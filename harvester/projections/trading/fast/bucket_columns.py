"""Closed buckets of a stretch of clocks, as columns; a row becomes a dictionary only when it is read.

A *slot* is one decision: the newest bucket of a symbol at a clock. Slots are in the order of decisions: clock by clock,
symbols in the order in which the clock closed their first bucket.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harvester.projections.market.state_arrays import SOURCE_NAMES
from harvester.projections.trading.episodes import BUCKET_FIELDS
from harvester.projections.trading.episodes import PRE_COUNT as KEPT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Array = npt.NDArray[Any]
WHOLE = ("ts", "trade_count", "quote_count", "depth_count", "quote_source", "book_good", "stale", "halted")
SECONDS = np.dtype([(name, "<i8" if name in WHOLE else "<f8") for name in BUCKET_FIELDS])
"""Fields of a bucket: absent numbers are NaN, `quote_source` an index into `SOURCE_NAMES`, flags 0 or 1, and -1 for a
`book_good` that is None."""
_FLAGS = (False, True, None)
_FLOATS = dict.fromkeys(at for at, name in enumerate(BUCKET_FIELDS) if name not in WHOLE)
_SOURCE = BUCKET_FIELDS.index("quote_source")
_BOOLEANS = tuple(BUCKET_FIELDS.index(name) for name in ("book_good", "stale", "halted"))


def seconds_of(closed: Array) -> Array:
    """Bucket rows (dtype `state_arrays.ROW`) as `SECONDS`."""
    rows = np.empty(len(closed), SECONDS)
    for name in BUCKET_FIELDS:
        rows[name] = closed[name]
    return rows


def row_of(rows: Array, at: int) -> dict[str, Any]:
    """One row as strategies see it: absent numbers None."""
    values, known = list(rows[at].item()), math.isfinite
    for k in _FLOATS:
        if not known(values[k]):
            values[k] = None
    values[_SOURCE] = SOURCE_NAMES[values[_SOURCE]]
    for k in _BOOLEANS:
        values[k] = _FLAGS[values[k]]
    return dict(zip(BUCKET_FIELDS, values, strict=True))


def columns_of(rows: Array, names: Sequence[str] = BUCKET_FIELDS) -> list[list[Any]]:
    """These fields of many rows, one list each, as strategies see them, except that absent numbers are NaN."""
    places = [BUCKET_FIELDS.index(name) for name in names]
    numbers = _wide(np.ascontiguousarray(rows)).T[places]
    columns: list[list[Any]] = numbers.view(np.float64).tolist()
    for k, place in enumerate(places):
        if place not in _FLOATS:
            columns[k] = numbers[k].tolist()
        if place in _BOOLEANS:
            columns[k] = [_FLAGS[flag] for flag in columns[k]]
        elif place == _SOURCE:
            columns[k] = [SOURCE_NAMES[source] for source in columns[k]]
    return columns


def rows_of(rows: Array, names: Sequence[str] = BUCKET_FIELDS) -> list[dict[str, Any]]:
    """Many rows as strategies see them, of these fields."""
    columns, known = columns_of(rows, names), math.isfinite
    for k, name in enumerate(names):
        if name not in WHOLE:
            columns[k] = [value if known(value) else None for value in columns[k]]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def records(made: Sequence[Mapping[str, Any]]) -> Array:
    """The inverse of `rows_of`."""
    rows = np.empty(len(made), SECONDS)
    for name in BUCKET_FIELDS:
        rows[name] = [_number(name, row[name]) for row in made]
    return rows


def _number(name: str, value: Any) -> Any:
    if name == "quote_source":
        return SOURCE_NAMES.index(value)
    if name == "book_good" and value is None:
        return -1
    return (0 if name in WHOLE else math.nan) if value is None else value


class Newest:
    """The buckets of one symbol in sequence in one array that is rarely copied."""

    def __init__(self, rows: Array | None = None) -> None:
        self._store = np.empty((4 * KEPT, len(BUCKET_FIELDS)), np.int64)
        self._end = 0
        if rows is not None:
            self.extend(_wide(rows))

    def extend(self, wide: Array) -> tuple[Array, int]:
        """Append rows; returns the newest earlier ones (at most `KEPT`) followed by these, and how many are earlier.

        Arrays returned before do not change. Dtype `SECONDS`.
        """
        before, end = min(self._end, KEPT), self._end + len(wide)
        if end > len(self._store):
            store = np.empty((max(len(self._store), 2 * (KEPT + len(wide))), len(BUCKET_FIELDS)), np.int64)
            store[:before] = self._store[self._end - before : self._end]
            self._store, self._end, end = store, before, before + len(wide)
        self._store[self._end : end] = wide
        first, self._end = self._end - before, end
        return self._store[first:end].view(SECONDS).reshape(-1), before


class SymbolBuckets:
    """Closed buckets of one symbol: some from before the stretch, then those of the stretch.

    Attributes:
        rows: dtype `SECONDS`, in order of time.
        before: number of rows from before the stretch.
        at: for each row of the stretch, its place among all symbols' rows.
        slots: for each row of the stretch, its slot.
    """

    def __init__(self, rows: Array, before: int, at: Array, slots: Array) -> None:
        self.rows, self.before, self.at, self.slots = rows, before, at, slots
        self._newest: tuple[int, dict[str, Any]] = (-1, {})

    def row(self, at: int) -> dict[str, Any]:
        """One row as strategies see it."""
        if self._newest[0] != at:
            self._newest = (at, row_of(self.rows, at))
        return self._newest[1]

    def upto(self, closed: int) -> int:
        """Number of rows when `closed` rows of the stretch are closed."""
        return self.before + int(self.at.searchsorted(closed))

    def from_slot(self, slot: int) -> int:
        """The first row that belongs to this slot or a later one."""
        return self.before + int(self.slots.searchsorted(slot))


class BucketColumns:
    """Closed buckets of a stretch.

    Attributes:
        clocks: seq and ts (ns UTC) of each clock, shape (clocks, 2), int64.
        rows: dtype `SECONDS`, in closing order; `con_ids` holds the con_id of each; `wide`: the same memory as a table
            of 8 byte numbers.
        symbols: by con_id, in the order of their first rows; `whose` holds for each row the place of its symbol.
        ends: for each clock, the number of rows closed by then.
        slots: the row of each slot; `slot_ends`: for each clock, the number of slots by then.
    """

    def __init__(self, clocks: Array, rows: Array, con_ids: Array, ends: list[int], symbols: Mapping[int, str]) -> None:
        self.clocks, self.rows, self.con_ids, self.ends = clocks, rows, con_ids, ends
        self.wide = _wide(rows)
        self._of, self.whose = _by_symbol(con_ids)
        self.symbols = {con_id: symbols[con_id] for con_id in self._of}
        self.slots, self.slot_ends, self._slot_of = _slots(rows["ts"].tolist(), con_ids, ends)

    def where(self, con_id: int) -> Array:
        """The rows of one symbol."""
        return self._of.get(con_id, _NOWHERE)

    def history(self, con_id: int, newest: Newest) -> SymbolBuckets:
        """Earlier rows of a symbol followed by those of the stretch; call once a symbol."""
        at = self.where(con_id)
        return SymbolBuckets(*newest.extend(self.wide.take(at, axis=0)), at, self._slot_of.take(at))

    def between(self, place: int) -> range:
        """The rows that this clock of the stretch closed."""
        return range(self.ends[place - 1] if place else 0, self.ends[place])


NO_ROWS = np.empty(0, SECONDS)
_NOWHERE = np.empty(0, np.int64)


def _wide(rows: Array) -> Array:
    """Records as a table of 8 byte numbers, which NumPy copies as a block instead of field by field."""
    return rows.view(np.int64).reshape(len(rows), len(BUCKET_FIELDS))


def _by_symbol(con_ids: Array) -> tuple[dict[int, Array], Array]:
    """Rows by symbol, in the order of their first rows; by row the place of its symbol in that order."""
    known, firsts, whose = np.unique(con_ids, return_index=True, return_inverse=True)
    whose = np.argsort(np.argsort(firsts))[whose]
    edges = np.cumsum(np.bincount(whose, minlength=len(known)))
    rows = np.split(np.argsort(whose, kind="stable"), edges[:-1])
    return dict(zip(con_ids[np.sort(firsts)].tolist(), rows, strict=False)), whose


def _slots(ts: list[int], con_ids: Array, ends: list[int]) -> tuple[Array, list[int], Array]:
    """Row by slot, slots by clock, slot by row."""
    every = np.arange(len(ts))
    begins = [0, *ends][: len(ends)]
    if not any(ts[begin] != ts[end - 1] for begin, end in zip(begins, ends, strict=True) if begin < end):
        return every, ends, every  # no clock closes two seconds of a symbol
    slots: list[int] = []
    slot_ends: list[int] = []
    slot_of = np.empty(len(ts), np.int64)
    for begin, end in zip(begins, ends, strict=True):
        newest = {int(con_ids[row]): row for row in range(begin, end)}
        place = {con_id: len(slots) + k for k, con_id in enumerate(newest)}
        slot_of[begin:end] = [place[con_id] for con_id in con_ids[begin:end].tolist()]
        slots += newest.values()
        slot_ends.append(len(slots))
    return np.array(slots, np.int64), slot_ends, slot_of


NO_SECONDS = BucketColumns(np.empty((0, 2), np.int64), NO_ROWS, _NOWHERE, [], {})
