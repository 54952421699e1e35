"""Find in the metadata of an uncompressed record-batch message the numbers that locate its buffers.

The metadata is a flatbuffer (Arrow's format/Message.fbs). For all batches of one schema and writer it is the same
except for the row count, the null counts and the positions of the buffers, so it is parsed once and then compared.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from harvester.events.kinds import SCHEMAS, Kind

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

PREFIX_BYTES = 8  # continuation marker ff ff ff ff, then the length of the metadata, int32 little-endian
CONTINUATION = b"\xff\xff\xff\xff"
WORD = 8
_METADATA_V5, _RECORD_BATCH = 4, 3  # MetadataVersion.V5, MessageHeader.RecordBatch


class Layout(NamedTuple):
    """Positions of a message's numbers, in words of 8 bytes from its first byte.

    `fixed` is the metadata, prefix included, after `mask`, which clears the numbers that may differ.
    """

    fixed: Array
    mask: Array
    body: int  # length of the body in bytes
    rows: int
    nodes: int  # two words per column: rows, nulls
    buffers: int  # two words per buffer: offset within the body, length in bytes


def _number(form: str, data: bytes, at: int) -> int:
    """The only number of a `struct` format."""
    (number,) = struct.unpack_from(form, data, at)
    return int(number)


class _Table:
    """A table of a flatbuffer: `field` returns the position of a field, 0 when it is omitted."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        self._fields = at - _number("<i", data, at)

    def field(self, i: int) -> int:
        size, place = _number("<H", self._data, self._fields), 4 + 2 * i
        offset = _number("<H", self._data, self._fields + place) if place < size else 0
        return self._at + offset if offset else 0

    def pointed(self, i: int) -> int:
        """The position that field `i` points to, 0 when it is omitted."""
        at = self.field(i)
        return at + _number("<I", self._data, at) if at else 0


def layout_of(metadata: bytes, n_columns: int, n_buffers: int) -> Layout | None:
    """The layout of a message with this metadata, prefix included; None if it is not a plain record batch."""
    try:
        message = _Table(metadata, PREFIX_BYTES + _number("<I", metadata, PREFIX_BYTES))
        version, kind = message.field(0), message.field(1)
        if _number("<h", metadata, version) != _METADATA_V5 or metadata[kind] != _RECORD_BATCH:
            return None
        batch = _Table(metadata, message.pointed(2))
        nodes, buffers = batch.pointed(1), batch.pointed(2)
        counts = _number("<I", metadata, nodes), _number("<I", metadata, buffers)
        places = (message.field(3), batch.field(0), nodes + 4, buffers + 4)
        compression, variadic, custom = batch.field(3), batch.field(4), message.field(4)
    except (struct.error, IndexError):
        return None
    aligned = all(places) and not any(at % WORD for at in places) and len(metadata) % WORD == 0
    if not aligned or compression or variadic or custom or counts != (n_columns, n_buffers):
        return None
    words = np.frombuffer(metadata, np.uint64)
    body, rows, node, buffer = (at // WORD for at in places)
    if max(node + 2 * n_columns, buffer + 2 * n_buffers, body + 1, rows + 1) > len(words):
        return None
    mask = np.full(len(words), 2**64 - 1, np.uint64)
    for begin, count in ((body, 1), (rows, 1), (node, 2 * n_columns), (buffer, 2 * n_buffers)):
        mask[begin : begin + count] = 0
    return Layout(words & mask, mask, body, rows, node, buffer)


class _Buffer(NamedTuple):
    """A buffer of a column: bytes per row, or one bit, and additional bytes."""

    column: int
    per_row: int
    bit: bool = False
    more: int = 0
    validity: bool = False


class Buffers:
    """The buffers of a schema, in order: for each column validity, text offsets, values.

    Attributes:
        first: index of each column's first buffer.
        count: number of buffers.
    """

    def __init__(self, schema: pa.Schema) -> None:
        each: list[_Buffer] = []
        self.first: list[int] = []
        for i, field in enumerate(schema):
            self.first.append(len(each))
            each.append(_Buffer(i, 0, bit=True, validity=True))
            if field.type == pa.string():
                each += [_Buffer(i, 4, more=4), _Buffer(i, 0)]
            elif field.type == pa.bool_():
                each.append(_Buffer(i, 0, bit=True))
            else:
                each.append(_Buffer(i, field.type.bit_width // 8))
        self.count = len(each)
        self._column, self._per_row, self._bit, self._more, self._validity = map(np.array, zip(*each, strict=True))

    def needed(self, rows: Array, nulls: Array) -> Array:
        """Minimum length of each buffer in bytes, shape (messages, buffers); `nulls` has shape (messages, columns)."""
        rows = rows[:, None]
        whole = np.where(self._bit, (rows + 7) // 8, rows * self._per_row + self._more)
        needed: Array = np.where(self._validity & (nulls[:, self._column] == 0), 0, whole)
        return needed


BUFFERS: dict[Kind, Buffers] = {kind: Buffers(schema) for kind, schema in SCHEMAS.items()}
