"""What a gateway sends, as events: messages in arrival order become one numbered `Batch`.

No field is lost or altered. A message with a typed kind becomes one row of it (an answer that is a list: one row each,
then an `end`); one that cannot be parsed exactly keeps its text in a `raw` row, reason `undecodable`, at its place; one
without a typed kind likewise, reason `untyped`. The version field some messages carry is not a column: a message whose
version differs from the last one seen of its kind (at first: `VERSIONS`) is preceded by a `raw` row, reason `copy`.

The result does not depend on how arrivals are cut into batches. Layouts: `decoder.py` of ib_async 2.1.0 and of IB's own
client, server versions 176 to 178.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from harvester.events.batch import Batch
from harvester.events.kinds import SCHEMAS, Kind
from harvester.units import SECOND_NS
from harvester.wire import columns
from harvester.wire.rare import Rare
from harvester.wire.requests import RequestTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Message = list[str]
OwnRow = tuple[Kind, "Mapping[str, Any]"]
Item = Message | OwnRow
"""A message's fields as ib_async split them (backslash escapes included), or a row Harvester itself writes."""

VERSIONS: dict[str, str] = {
    "1": "6",
    "2": "6",
    "4": "2",
    "12": "1",
    "13": "1",
    "20": "3",
    "45": "6",
    "46": "6",
    "50": "3",
    "52": "1",
    "57": "1",
    "58": "1",
}
"""The version field expected of each message that has one, at index 1."""

_SECONDS_MAX = (2**63 - 1) // SECOND_NS


@dataclass(frozen=True)
class Arrivals:
    """Items in arrival order with their stamps: `ts_recv` ns UTC int64 and `epoch` uint16, both of shape (items,)."""

    items: Sequence[Item]
    ts_recv: npt.NDArray[np.int64]
    epoch: npt.NDArray[np.uint16]

    @staticmethod
    def of(entries: Iterable[tuple[int, int, Item]]) -> Arrivals:
        """From (ts_recv, epoch, item) triples."""
        rows = list(entries)
        return Arrivals(
            [row[2] for row in rows],
            np.array([row[0] for row in rows], np.int64),
            np.array([row[1] for row in rows], np.uint16),
        )


class _Layout(NamedTuple):
    """Where a hot message's columns stand. `columns`: (name, index into the fields, parser)."""

    kind: Kind
    length: int
    columns: tuple[tuple[str, int, Callable[[Sequence[str]], columns.Parsed]], ...]
    constants: tuple[tuple[str, int], ...] = ()
    derive: Callable[[dict[str, pa.Array]], list[int]] | None = None


def _event_time(found: dict[str, pa.Array]) -> list[int]:
    """Seconds UTC become ns; rows whose time does not fit are returned."""
    seconds = found["ts_event"]
    values = seconds.fill_null(0).to_numpy(zero_copy_only=False)
    bad: list[int] = np.flatnonzero((values > _SECONDS_MAX) | (values < -_SECONDS_MAX)).tolist()
    if not bad:
        missing = seconds.is_null().to_numpy(zero_copy_only=False) if seconds.null_count else None
        found["ts_event"] = pa.array(values * SECOND_NS, pa.int64(), mask=missing)
    return bad


def _trade_bits(found: dict[str, pa.Array]) -> list[int]:
    found["past_limit"], found["unreported"] = columns.bits(found["attribs"], 0), columns.bits(found["attribs"], 1)
    return _event_time(found)


def _quote_bits(found: dict[str, pa.Array]) -> list[int]:
    found["past_low"], found["past_high"] = columns.bits(found["attribs"], 0), columns.bits(found["attribs"], 1)
    return _event_time(found)


_id, _i32, _i64, _f64, _text = columns.ids, columns.ints32, columns.ints64, columns.floats, columns.strings
_TICK = (("req_id", 2, _id), ("field", 3, _i32))
_BY_TICK = (("req_id", 1, _id), ("ts_event", 3, _i64))
_TRADE = (
    *_BY_TICK,
    ("price", 4, _f64),
    ("size", 5, _f64),
    ("attribs", 6, _i64),
    ("exchange", 7, _text),
    ("conditions", 8, _text),
)
_QUOTE = (
    *_BY_TICK,
    ("bid", 4, _f64),
    ("ask", 5, _f64),
    ("bid_size", 6, _f64),
    ("ask_size", 7, _f64),
    ("attribs", 8, _i64),
)
_DEPTH = (("req_id", 2, _id), ("position", 3, _i32), ("operation", 4, _i32), ("side", 5, _i32))
_DEPTH_L2 = (
    ("req_id", 2, _id),
    ("position", 3, _i32),
    ("market_maker", 4, _text),
    ("operation", 5, _i32),
    ("side", 6, _i32),
    ("price", 7, _f64),
    ("size", 8, _f64),
    ("smart", 9, _i32),
)

HOT: dict[str, _Layout] = {  # message id, for 99 with its tick type
    "1": _Layout(
        Kind.TICK, 7, (*_TICK, ("price", 4, _f64), ("size", 5, _f64), ("attribs", 6, _i64)), constants=(("msg", 1),)
    ),
    "2": _Layout(Kind.TICK, 5, (*_TICK, ("size", 4, _f64)), constants=(("msg", 2),)),
    "45": _Layout(Kind.TICK, 5, (*_TICK, ("value", 4, _f64)), constants=(("msg", 45),)),
    "46": _Layout(Kind.TICK, 5, (*_TICK, ("text", 4, _text)), constants=(("msg", 46),)),
    "12": _Layout(Kind.DEPTH, 8, (*_DEPTH, ("price", 6, _f64), ("size", 7, _f64)), constants=(("msg", 12),)),
    "13": _Layout(Kind.DEPTH, 10, _DEPTH_L2, constants=(("msg", 13),)),
    "99/1": _Layout(Kind.TRADE, 9, _TRADE, (("stream", 1),), _trade_bits),
    "99/2": _Layout(Kind.TRADE, 9, _TRADE, (("stream", 2),), _trade_bits),
    "99/3": _Layout(Kind.QUOTE, 9, _QUOTE, (("stream", 3),), _quote_bits),
    "99/4": _Layout(Kind.QUOTE, 5, (*_BY_TICK, ("mid", 4, _f64)), (("stream", 4),), _event_time),
}


_HOT_IDS = tuple(key for key in HOT if "/" not in key)  # a message whose id reads 99/1 is no trade


class _Table(NamedTuple):
    """Parsed rows of one layout: where their items stand, and their columns (all but seq, ts_recv and epoch)."""

    kind: Kind
    positions: npt.NDArray[np.int64]
    found: dict[str, pa.Array]


class Incoming:
    """Decodes the arrivals of one run, batch after batch. Holds the request table, scan counters and versions."""

    def __init__(self) -> None:
        self.requests = RequestTable()
        self._versions = dict(VERSIONS)
        self._rare = Rare(self.requests, self._versions)

    def decode(self, arrivals: Arrivals, first_seq: int) -> Batch:
        """One batch numbered from `first_seq`. Every item gives at least one event."""
        items = arrivals.items
        if not items:
            return Batch()
        self.requests.begin()
        hot, rare = _group(items)
        rows: dict[int, list[tuple[Kind, dict[str, Any]]]] = {}
        for position in rare:
            rows[position] = self._rare.rows(items[position], position)
        tables = []
        for key, positions in hot.items():
            table, refused = self._hot(HOT[key], items, positions)
            rows |= refused
            if table is not None:
                tables.append(table)
        counts = np.ones(len(items), np.int64)
        in_table = {int(p) for table in tables for p in table.positions if int(p) in rows} if rows else set()
        for position, made in rows.items():
            counts[position] = len(made) + (position in in_table)
        last = first_seq + np.cumsum(counts) - 1
        return _assemble(arrivals, tables, rows, last, last - counts + 1)

    def _hot(
        self, layout: _Layout, items: Sequence[Item], positions: list[int]
    ) -> tuple[_Table | None, dict[int, list[tuple[Kind, dict[str, Any]]]]]:
        """Parse one layout's messages; beside the table, rows that go to or before some of the positions."""
        messages: list[Message] = [items[p] for p in positions]  # type: ignore[misc]
        other: dict[int, list[tuple[Kind, dict[str, Any]]]] = {}
        while messages:
            found, bad = _parse(layout, messages)
            if not bad:
                break
            for row in bad:
                other[positions[row]] = [self._rare.undecodable(messages[row], positions[row])]
            spoiled = set(bad)
            positions = [p for row, p in enumerate(positions) if row not in spoiled]
            messages = [m for row, m in enumerate(messages) if row not in spoiled]
        if not messages:
            return None, other
        at = np.array(positions, np.int64)
        found["con_id"] = pa.array(self.requests.con_ids(found["req_id"].to_numpy(), at))
        if messages[0][0] in self._versions:
            other |= self._version_copies(messages, positions)
        return _Table(layout.kind, at, found), other

    def _version_copies(
        self, messages: list[Message], positions: list[int]
    ) -> dict[int, list[tuple[Kind, dict[str, Any]]]]:
        current = self._versions[messages[0][0]]
        if [message[1] for message in messages].count(current) == len(messages):
            return {}
        made: dict[int, list[tuple[Kind, dict[str, Any]]]] = {}
        for message, position in zip(messages, positions, strict=True):
            if (copied := self._rare.version_copy(message, position)) is not None:
                made[position] = [copied]
        return made


def _group(items: Sequence[Item]) -> tuple[dict[str, list[int]], list[int]]:
    """Positions of hot messages by layout key, and of everything else, each in order."""
    groups: dict[str, list[int]] = {}
    for position, item in enumerate(items):
        key = item[0] if item else ""
        try:
            groups[key].append(position)
        except KeyError:
            groups[key] = [position]
    hot = {key: groups.pop(key) for key in _HOT_IDS if key in groups}
    rare: list[int] = []
    for position in groups.pop("99", []):
        message = items[position]
        key = f"99/{message[2]}" if len(message) > 2 else ""
        if key in HOT:
            hot.setdefault(key, []).append(position)
        else:
            rare.append(position)
    for positions in groups.values():
        rare += positions
    return hot, sorted(rare)


def _parse(layout: _Layout, messages: list[Message]) -> tuple[dict[str, pa.Array], list[int]]:
    """Columns of the messages, or the rows that do not fit the layout."""
    if set(map(len, messages)) != {layout.length}:
        return {}, [row for row, m in enumerate(messages) if len(m) != layout.length]
    fields = list(zip(*messages, strict=True))
    found: dict[str, pa.Array] = {}
    spoiled: set[int] = set()
    for name, index, parse in layout.columns:
        array, wrong = parse(fields[index])
        spoiled.update(wrong)
        if array is not None:
            found[name] = array
    if not spoiled and layout.derive is not None:
        spoiled.update(layout.derive(found))
    for name, value in layout.constants:
        found[name] = pa.array(np.full(len(messages), value, np.int32))
    return found, sorted(spoiled)


def _assemble(
    arrivals: Arrivals,
    tables: list[_Table],
    rows: Mapping[int, list[tuple[Kind, dict[str, Any]]]],
    last: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
) -> Batch:
    """Number everything and put each kind's parts together in seq order."""
    parts: dict[Kind, list[pa.RecordBatch]] = {}
    for table in tables:
        columns_ = table.found | {
            "seq": pa.array(last[table.positions].astype(np.uint64)),
            "ts_recv": pa.array(arrivals.ts_recv[table.positions]),
            "epoch": pa.array(arrivals.epoch[table.positions]),
        }
        parts.setdefault(table.kind, []).append(_record_batch(table.kind, columns_, len(table.positions)))
    numbered: list[tuple[Kind, dict[str, Any]]] = []
    for position in sorted(rows):
        stamp = {"ts_recv": int(arrivals.ts_recv[position]), "epoch": int(arrivals.epoch[position])}
        for i, (kind, row) in enumerate(rows[position]):
            numbered.append((kind, {**stamp, **row, "seq": int(first[position]) + i}))
    for kind, part in Batch.of(numbered).tables.items():
        parts.setdefault(kind, []).append(part)
    return Batch({kind: _in_order(parts[kind]) for kind in Kind if kind in parts})


def _record_batch(kind: Kind, found: Mapping[str, pa.Array], count: int) -> pa.RecordBatch:
    schema = SCHEMAS[kind]
    arrays = [found[f.name] if f.name in found else pa.nulls(count, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _in_order(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(parts) == 1:
        return parts[0]
    joined = pa.concat_batches(parts)
    return joined.take(pa.array(np.argsort(joined.column(0).to_numpy(zero_copy_only=False), kind="stable")))
