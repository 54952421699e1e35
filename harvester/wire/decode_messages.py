"""Decode gateway messages into events: messages in order of arrival become one numbered `Batch`.

No field is lost or changed. A message with a typed kind becomes one row of that kind; a list becomes one row per item,
then an `end`. A value that cannot be parsed without loss costs its field, not its message: the field is null, and a
`raw` row with reason `partial` and the exact text precedes the rows. A message without a readable layout or request id
becomes a `raw` row with reason `undecodable`; one without a typed kind gets reason `untyped`. The version field of a
message is not a column: when it changes between messages of one id (initially `VERSIONS`), a `raw` row with reason
`copy` precedes the message.

The result does not depend on how messages are split into batches. Layouts: `decoder.py` of ib_async 2.1.0 and of the
official API, server versions 176 to 178.
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
from harvester.wire import parse_columns as columns
from harvester.wire.cold_messages import SECONDS_MAX, ColdDecoder
from harvester.wire.requests_by_id import RequestTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Message = list[str]
OwnRow = tuple[Kind, "Mapping[str, Any]"]
Item = Message | OwnRow
"""The fields of a message as the tap splits them (invalid UTF-8 as backslash escapes), or a row of Harvester itself."""

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
"""Initial version field (index 1) by message id."""


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
    """Layout of a frequent message. `columns`: (name, index of the field, parser)."""

    kind: Kind
    length: int
    columns: tuple[tuple[str, int, Callable[[Sequence[str]], columns.Parsed]], ...]
    constants: tuple[tuple[str, int], ...] = ()
    derive: Callable[[dict[str, pa.Array]], list[int]] | None = None


def _event_time(arrays: dict[str, pa.Array]) -> list[int]:
    """Convert UTC seconds to ns; returns the rows whose time is out of range: they are null."""
    seconds = arrays["ts_event"]
    values = seconds.fill_null(0).to_numpy(zero_copy_only=False)
    bad: list[int] = np.flatnonzero((values > SECONDS_MAX) | (values < -SECONDS_MAX)).tolist()
    missing = seconds.is_null().to_numpy(zero_copy_only=False).copy() if seconds.null_count or bad else None
    if missing is not None and bad:
        values, missing[bad] = values.copy(), True
        values[bad] = 0
    arrays["ts_event"] = pa.array(values * SECOND_NS, pa.int64(), mask=missing)
    return bad


def _trade_bits(arrays: dict[str, pa.Array]) -> list[int]:
    arrays["past_limit"], arrays["unreported"] = columns.bits(arrays["attribs"], 0), columns.bits(arrays["attribs"], 1)
    return _event_time(arrays)


def _quote_bits(arrays: dict[str, pa.Array]) -> list[int]:
    arrays["past_low"], arrays["past_high"] = columns.bits(arrays["attribs"], 0), columns.bits(arrays["attribs"], 1)
    return _event_time(arrays)


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

HOT: dict[str, _Layout] = {  # by message id; 99 is split by tick-by-tick stream
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


_HOT_IDS = tuple(key for key in HOT if "/" not in key)  # a message with the literal id "99/1" is not a trade


class _ParsedRows(NamedTuple):
    """Parsed rows of one layout: positions in the batch, and columns (all but seq, ts_recv and epoch)."""

    kind: Kind
    positions: npt.NDArray[np.int64]
    arrays: dict[str, pa.Array]


class MessageDecoder:
    """Decodes the messages of one run, batch by batch; keeps request table, scanner snapshot counters and versions."""

    def __init__(self) -> None:
        self.requests = RequestTable()
        self._versions = dict(VERSIONS)
        self._rare = ColdDecoder(self.requests, self._versions)

    def decode(self, arrivals: Arrivals, first_seq: int) -> Batch:
        """Decode one batch, numbered from `first_seq`. Every item gives at least one event."""
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
        for position, replacing in rows.items():
            counts[position] = len(replacing) + (position in in_table)
        last = first_seq + np.cumsum(counts) - 1
        return _assemble(arrivals, tables, rows, last, last - counts + 1)

    def _hot(
        self, layout: _Layout, items: Sequence[Item], positions: list[int]
    ) -> tuple[_ParsedRows | None, dict[int, list[tuple[Kind, dict[str, Any]]]]]:
        """Parse the messages of one layout: the table, and by position the rows that replace or precede its rows."""
        messages: list[Message] = [items[p] for p in positions]  # type: ignore[misc]
        other: dict[int, list[tuple[Kind, dict[str, Any]]]] = {}
        while messages:
            arrays, bad, odd = _parse(layout, messages)
            if not bad:
                break
            for row in bad:
                other[positions[row]] = [self._rare.undecodable(messages[row], positions[row])]
            bad_rows = set(bad)
            positions = [p for row, p in enumerate(positions) if row not in bad_rows]
            messages = [m for row, m in enumerate(messages) if row not in bad_rows]
        if not messages:
            return None, other
        at = np.array(positions, np.int64)
        arrays["con_id"] = pa.array(self.requests.con_ids(arrays["req_id"].to_numpy(), at))
        if messages[0][0] in self._versions:
            other |= self._version_copies(messages, positions)
        for row in odd:
            other[positions[row]] = [self._rare.partial(messages[row], positions[row])]
        return _ParsedRows(layout.kind, at, arrays), other

    def _version_copies(
        self, messages: list[Message], positions: list[int]
    ) -> dict[int, list[tuple[Kind, dict[str, Any]]]]:
        current = self._versions[messages[0][0]]
        if [message[1] for message in messages].count(current) == len(messages):
            return {}
        copies: dict[int, list[tuple[Kind, dict[str, Any]]]] = {}
        for message, position in zip(messages, positions, strict=True):
            if (copied := self._rare.version_copy(message, position)) is not None:
                copies[position] = [copied]
        return copies


def _group(items: Sequence[Item]) -> tuple[dict[str, list[int]], list[int]]:
    """Positions of the frequent messages by layout, and of all other items, in order."""
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


def _parse(layout: _Layout, messages: list[Message]) -> tuple[dict[str, pa.Array], list[int], list[int]]:
    """Columns of the messages; the rows without the layout or a request id; else the rows with an unreadable value."""
    if set(map(len, messages)) != {layout.length}:
        return {}, [row for row, m in enumerate(messages) if len(m) != layout.length], []
    fields = list(zip(*messages, strict=True))
    arrays: dict[str, pa.Array] = {}
    odd: set[int] = set()
    for name, index, parse in layout.columns:
        arrays[name], wrong = parse(fields[index])
        if wrong and parse is _id:
            return {}, wrong, []
        odd.update(wrong)
    if layout.derive is not None:
        odd.update(layout.derive(arrays))
    for name, value in layout.constants:
        arrays[name] = pa.array(np.full(len(messages), value, np.int32))
    return arrays, [], sorted(odd)


def _assemble(
    arrivals: Arrivals,
    tables: list[_ParsedRows],
    rows: Mapping[int, list[tuple[Kind, dict[str, Any]]]],
    last: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
) -> Batch:
    """Number all rows and join the parts of each kind in seq order."""
    parts: dict[Kind, list[pa.RecordBatch]] = {}
    for table in tables:
        columns_ = table.arrays | {
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


def _record_batch(kind: Kind, arrays: Mapping[str, pa.Array], count: int) -> pa.RecordBatch:
    schema = SCHEMAS[kind]
    ordered = [arrays[f.name] if f.name in arrays else pa.nulls(count, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(ordered, schema=schema)


def _in_order(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(parts) == 1:
        return parts[0]
    joined = pa.concat_batches(parts)
    return joined.take(pa.array(np.argsort(joined.column(0).to_numpy(zero_copy_only=False), kind="stable")))
