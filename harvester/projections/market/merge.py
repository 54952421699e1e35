"""A batch as one frame in seq order: columns stay in Arrow's memory, one byte per event gives the next kind.

No Python object is created per hot event (`tick`, `trade`, `quote`, `depth`, `clock`). Rare rows (`request`, `notice`)
become `Control` tuples. Other kinds do not move the market and are left out.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.events.kinds import SCHEMAS, Kind
from harvester.events.unset import ABSENT_FROM, UNSET_INT
from harvester.projections.interval import Occurrence, OccurrenceKind
from harvester.projections.market.state_arrays import ROUND_LOT, Frame, Hot
from harvester.projections.step import Control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.events.batch import Batch
    from harvester.projections.market.state_arrays import Array

_HOT: tuple[tuple[Kind, Hot], ...] = (
    (Kind.CLOCK, Hot.CLOCK),
    (Kind.TICK, Hot.TICK),
    (Kind.TRADE, Hot.TRADE),
    (Kind.QUOTE, Hot.QUOTE),
    (Kind.DEPTH, Hot.DEPTH),
)
_NOTHING = 255
RT_FIELDS = (48, 77)  # RTVolume (generic tick 233) and RTTrdVolume (375): "price;size;time;total;vwap;single"
_RT_TEXT = r"^[0-9]*\.?[0-9]+;[0-9]*\.?[0-9]+;"
UNDECODABLE = "undecodable"  # `raw.reason` of a message that does not parse
PARTIAL = "partial"  # `raw.reason` of the text of a message with a field that does not parse
BAR_NUMBERS = ("open", "high", "low", "close", "volume", "wap", "count")
NULL_INT = -(2**31)  # a null integer: no operation, side or position has this value


DEPTH_MESSAGES = (12, 13)
HALT_FIELDS = (49, 90)
"""Tick types Halted and, for delayed data, DelayedHalted (TWS API reference, "Available Tick Types"): -1 not available,
0 not halted, 1 general halt (regulatory), 2 volatility halt (by the exchange)."""
_HALT_VALUES = (0.0, 1.0, 2.0)
_ODD_LOT = "I"  # among the letters of `trade.conditions`, where only an odd lot has it (CTA and UTP specifications)
_TICK_UNIT = 1e9  # min ticks per USD of `OccurrenceKind.MIN_TICK`
_CONTRACT_DETAILS = 10


class HaltTick(NamedTuple):
    """A tick that says whether a symbol is halted; `value` 0, 1 or 2; `place`: its index in `Frame.which`."""

    seq: int
    ts: int
    epoch: int
    req_id: int
    value: int
    place: int


def controls_of(batch: Batch) -> list[Control]:
    """Every request, notice and undecodable depth message of a batch, in seq order."""
    tables = [batch.tables[kind] for kind in (Kind.REQUEST, Kind.NOTICE) if kind in batch.tables]
    if Kind.RAW in batch.tables:
        tables.append(_unread_depth(batch.tables[Kind.RAW]))
    found = [
        Control(row["seq"], row["ts_recv"], row["con_id"], row["req_id"], row["epoch"], row)
        for table in tables
        for row in table.to_pylist()
    ]
    return sorted(found, key=lambda control: control.seq)


def _unread_depth(raw: pa.RecordBatch) -> pa.RecordBatch:
    """Depth messages that could not be decoded; their effect on a book is unknown."""
    unread = pc.equal(raw.column("reason"), UNDECODABLE)
    depth = pc.is_in(raw.column("msg"), value_set=pa.array(DEPTH_MESSAGES, raw.schema.field("msg").type))
    return raw.filter(pc.and_(unread, depth))


def odd_values(batch: Batch) -> dict[tuple[int, str], int]:
    """Count what a fold cannot use besides the rows of the market: (con_id, measure of `Health`) → number."""
    found: Counter[tuple[int, str]] = Counter()
    if Kind.RAW in batch.tables:
        raw = batch.tables[Kind.RAW]
        for con_id, reason in zip(raw.column("con_id").to_pylist(), raw.column("reason").to_pylist(), strict=True):
            if reason in (UNDECODABLE, PARTIAL):
                found[con_id, reason] += 1
    if Kind.BAR in batch.tables:
        bars = batch.tables[Kind.BAR]
        con_ids = bars.column("con_id").to_pylist()
        for name in BAR_NUMBERS:
            numbers = pc.cast(bars.column(name), pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            with np.errstate(invalid="ignore"):
                unset = np.flatnonzero((numbers == UNSET_INT) | (np.abs(numbers) >= ABSENT_FROM))
            for row in unset.tolist():
                found[con_ids[row], "unset_bar_values"] += 1
    return dict(found)


def frame_of(batch: Batch, controls: Sequence[Control], makers: Makers) -> Frame:
    """The hot rows of a batch in seq order, with the given controls between them."""
    columns = dict(_NO_ROWS)
    for kind, _ in _HOT:
        if kind in batch.tables:
            columns |= {name: _column(batch.tables[kind], of) for name, of in _PLACES[kind]}
    if Kind.TICK in batch.tables:
        columns["tick_price"], columns["tick_size"] = _tick_numbers(batch.tables[Kind.TICK], columns)
    if Kind.DEPTH in batch.tables:
        columns["depth_maker"] = makers.codes(batch.tables[Kind.DEPTH].column("market_maker"))
    if Kind.TRADE in batch.tables:
        columns["trade_odd"] = _odd_lots(batch.tables[Kind.TRADE].column("conditions"), columns["trade_size"])
    columns["control_ts"] = np.array([c.ts for c in controls], np.int64)
    columns["control_seq"] = np.array([c.seq for c in controls], np.int64)
    seqs = [(columns[f"{kind}_seq"], hot) for kind, hot in _HOT]
    columns["which"] = _order([*seqs, (np.array([c.seq for c in controls], np.int64), Hot.CONTROL)])
    for column in columns.values():
        column.flags.writeable = False  # events are facts; and the kernels are compiled for read-only columns
    return Frame(**columns)


def halt_ticks(batch: Batch, frame: Frame) -> list[HaltTick]:
    """The ticks that say halted or not halted, in seq order; those of unknown state are left out."""
    field = frame.tick_field
    rows = np.flatnonzero((field == HALT_FIELDS[0]) | (field == HALT_FIELDS[1]))
    if not len(rows):
        return []
    values = _column(batch.tables[Kind.TICK], "value")
    rows = rows[np.isin(values[rows], _HALT_VALUES)]
    places = np.flatnonzero(frame.which == Hot.TICK)[rows]
    columns = (frame.tick_seq[rows], frame.tick_ts[rows], frame.tick_epoch[rows], frame.tick_req[rows], values[rows])
    return [
        HaltTick(seq, ts, epoch, req_id, int(value), place)
        for seq, ts, epoch, req_id, value, place in zip(*(c.tolist() for c in (*columns, places)), strict=True)
    ]


def min_ticks(batch: Batch, known: dict[int, int]) -> list[Occurrence]:
    """Changes of the smallest price steps in a batch's contract details; `known` by con_id is updated."""
    found: list[Occurrence] = []
    if Kind.CONTRACT not in batch.tables:
        return found
    for row in batch.tables[Kind.CONTRACT].to_pylist():
        step, con_id = row["min_tick"], row["con_id"]
        if row["msg"] != _CONTRACT_DETAILS or not con_id or step is None or not 0.0 < step < _TICK_UNIT:
            continue
        value = round(step * _TICK_UNIT)
        if value and known.get(con_id) != value:
            known[con_id] = value
            found.append(Occurrence(row["seq"], row["ts_recv"], con_id, OccurrenceKind.MIN_TICK, value))
    return found


def _odd_lots(conditions: pa.Array, size: Array) -> Array:
    """Which prints are odd lots: by the recorded conditions, where there are none by size."""
    small: Array = size < ROUND_LOT
    if conditions.null_count == len(conditions):
        return small
    odd = pc.coalesce(pc.match_substring(conditions, _ODD_LOT), pa.array(small))
    marked: Array = odd.to_numpy(zero_copy_only=False)
    return marked


def _column(table: pa.RecordBatch, name: str) -> Array:
    """A column as NumPy, without a copy where it has no nulls; null floats are NaN, null integers `NULL_INT`."""
    column = table.column(name)
    if column.null_count and pa.types.is_integer(column.type):
        column = pc.fill_null(column, NULL_INT)
    elif column.null_count and pa.types.is_boolean(column.type):
        column = pc.fill_null(column, False)
    array: Array = column.to_numpy(zero_copy_only=False)
    return (array.view(np.int64) if array.dtype == np.uint64 else array).view()


_NAMES = {"ts": "ts_recv", "req": "req_id", "past": "past_limit"}
_MADE = (
    "which",
    "control_ts",
    "control_seq",
    "depth_maker",
    "trade_odd",
)  # not a column of a table, or converted from one
_PLACES: dict[Kind, list[tuple[str, str]]] = {
    kind: [
        (name, _NAMES.get(last := name.removeprefix(f"{kind}_"), last))
        for name in Frame._fields
        if name.startswith(f"{kind}_") and name not in _MADE
    ]
    for kind, _ in _HOT
}
COLUMNS: dict[Kind, tuple[str, ...]] = {
    Kind.QUOTE: (*(of for _, of in _PLACES[Kind.QUOTE]), "ts_event"),
    Kind.TRADE: (*(of for _, of in _PLACES[Kind.TRADE]), "ts_event", "conditions"),
    Kind.TICK: (*(of for _, of in _PLACES[Kind.TICK]), "value", "text"),
    Kind.DEPTH: (*(of for _, of in _PLACES[Kind.DEPTH]), "market_maker"),
    Kind.RAW: ("con_id", "req_id", "epoch", "msg", "reason"),
}
"""The columns the fold reads of the frequent kinds and of texts; a reader that only folds may leave the others out."""
_NO_ROWS: dict[str, Array] = {
    name: _column(pa.RecordBatch.from_pylist([], schema=SCHEMAS[kind]), of)
    for kind, _ in _HOT
    for name, of in _PLACES[kind]
} | {"depth_maker": np.empty(0, np.int64), "trade_odd": np.empty(0, np.bool_)}


def _order(seqs: Sequence[tuple[Array, Hot]]) -> Array:
    """The kind of each event in seq order, shape (events,), uint8."""
    filled = [(seq, hot) for seq, hot in seqs if len(seq)]
    if not filled:
        return np.empty(0, np.uint8)
    first = min(int(seq[0]) for seq, _ in filled)
    last = max(int(seq[-1]) for seq, _ in filled)
    total = sum(len(seq) for seq, _ in filled)
    if last - first + 1 == total:  # the usual case, no other kind between: fill with the most frequent
        filled.sort(key=lambda of: len(of[0]), reverse=True)
        kinds: Array = np.full(total, filled[0][1], np.uint8)
        for seq, hot in filled[1:]:
            kinds[seq - first] = hot
        return kinds
    if last - first < 4 * total + 1024:
        which: Array = np.full(last - first + 1, _NOTHING, np.uint8)
        for seq, hot in filled:
            which[seq - first] = hot
        dense: Array = which[which != _NOTHING]
        return dense
    order = np.argsort(np.concatenate([seq for seq, _ in filled]), kind="stable")
    return np.concatenate([np.full(len(seq), hot, np.uint8) for seq, hot in filled])[order]


def _tick_numbers(tick: pa.RecordBatch, columns: dict[str, Array]) -> tuple[Array, Array]:
    """Price and size of tick rows; real-time volume has them in the text. Malformed text gives NaN."""
    price, size = columns["tick_price"], columns["tick_size"]
    text = tick.column("text")
    if text.null_count == len(text):
        return price, size
    wanted = pc.is_in(tick.column("field"), value_set=pa.array(RT_FIELDS, pa.int32()))
    at = np.flatnonzero(pc.fill_null(wanted, False).to_numpy(zero_copy_only=False))
    if not len(at):
        return price, size
    texts = text.take(pa.array(at))
    readable = pc.fill_null(pc.match_substring_regex(texts, _RT_TEXT), False)
    parts = pc.split_pattern(pc.if_else(readable, texts, "nan;nan;"), ";")
    price, size = price.copy(), size.copy()
    price[at] = pc.cast(pc.list_element(parts, 0), pa.float64()).to_numpy(zero_copy_only=False)
    size[at] = pc.cast(pc.list_element(parts, 1), pa.float64()).to_numpy(zero_copy_only=False)
    return price, size


class Makers:
    """Market makers by number, in the order of their first row in the log; 0 = none."""

    def __init__(self, names: Sequence[str] = ("",)) -> None:
        self.names = list(names)
        self._codes = {name: i for i, name in enumerate(self.names)}
        self._none: Array = np.zeros(0, np.int64)  # cached: most feeds name no market maker

    def codes(self, column: pa.Array) -> Array:
        """Numbers of a text column, shape (rows,), int64; new names are learned in row order."""
        if column.null_count == len(column):
            if len(self._none) < len(column):
                self._none = np.zeros(len(column), np.int64)
            return self._none[: len(column)]
        encoded = pc.fill_null(column, "").dictionary_encode()
        table = [self._learn(name) for name in encoded.dictionary.to_pylist()]
        codes: Array = np.array(table, np.int64)[encoded.indices.to_numpy(zero_copy_only=False)]
        return codes

    def _learn(self, name: str) -> int:
        code = self._codes.setdefault(name, len(self.names))
        if code == len(self.names):
            self.names.append(name)
        return code


def clocks_of(frame: Frame) -> Array:
    """(seq, ts) of each clock, shape (n, 2), int64."""
    return np.stack([frame.clock_seq, frame.clock_ts], axis=1)


def last_of(batch: Batch) -> tuple[int, int, int]:
    """First seq, last seq, and the latest `ts_recv` (ns UTC) of a batch; zeros when it is empty."""
    tables: list[Any] = [t for t in batch.tables.values() if t.num_rows]
    if not tables:
        return 0, 0, 0
    return batch.first_seq, batch.last_seq, max(int(t.column("ts_recv")[-1].as_py()) for t in tables)
