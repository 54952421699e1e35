"""Uncompressed record-batch messages read by their layout: a large one where it lies, many small ones in one go.

Arrow's own reader takes as long for a message of three rows as for one of thousands. Here the numbers of all messages
are gathered, checked against each other and against the journal, and followed together. What does not fit is left to
Arrow.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from harvester.eventlog.layout import BUFFERS, CONTINUATION, PREFIX_BYTES, WORD, layout_of
from harvester.eventlog.order import schema_of
from harvester.events.kinds import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.events.kinds import Kind

    Array = np.ndarray[Any, np.dtype[Any]]

SMALL_ROWS = 2_000  # rows of a message on average, below which following all of them together is faster
_TEXT_BYTES_MAX = 2**31 - 1


class _Numbers(NamedTuple):
    """Per message its rows, and along a second axis nulls of columns, where buffers begin, and their bytes."""

    rows: Array
    nulls: Array
    begins: Array
    sizes: Array


def _numbers(kind: Kind, data: pa.Buffer, places: Array) -> _Numbers | None:
    """Gather the numbers of all messages: no buffer reaches out of its body, each is large enough."""
    starts, lengths, rows = places
    held = np.frombuffer(data, np.uint8)
    n_columns, buffers = len(SCHEMAS[kind]), BUFFERS[kind]
    head = bytes(held[starts[0] : starts[0] + PREFIX_BYTES])
    size = PREFIX_BYTES + int.from_bytes(head[4:], "little")
    whole = size <= int(lengths.min()) and int((starts + lengths).max()) <= len(held)
    if not whole or head[:4] != CONTINUATION or (starts % WORD).any():
        return None
    layout = layout_of(bytes(held[starts[0] : starts[0] + size]), n_columns, buffers.count)
    if layout is None:
        return None
    # The file as if a message's metadata began at every word of it: taking those that do copies them together.
    shape = (len(held) // WORD - size // WORD + 1, size // WORD)
    words = np.ndarray(shape, np.uint64, held, strides=(WORD, WORD))[starts // WORD]
    if ((words & layout.mask) != layout.fixed).any():
        return None
    numbers = words.view(np.int64)
    of_columns = numbers[:, layout.nodes : layout.nodes + 2 * n_columns]
    of_buffers = numbers[:, layout.buffers : layout.buffers + 2 * buffers.count]
    nulls, offsets, sizes = of_columns[:, 1::2], of_buffers[:, ::2], of_buffers[:, 1::2]
    body, each = numbers[:, layout.body, None], rows[:, None]
    sound = (
        (numbers[:, layout.rows] == rows).all()
        and (of_columns[:, ::2] == each).all()
        and _within(nulls, each)
        and (body[:, 0] == lengths - size).all()
        and _within(each, body)
        and _within(offsets, body)
        and _within(sizes, body - offsets)
        and not (offsets % WORD).any()
        and (sizes >= buffers.needed(rows, nulls)).all()
    )
    return _Numbers(rows, nulls, (starts + size)[:, None] + offsets, sizes) if sound else None


def _within(numbers: Array, most: Array) -> bool:
    """Whether no number is negative or above another, which is not negative."""
    return bool((numbers.view(np.uint64) <= most.view(np.uint64)).all())


class Messages:
    """Messages of one kind that are laid out alike and whose numbers hold together. Made by `of`."""

    def __init__(self, kind: Kind, data: pa.Buffer, numbers: _Numbers) -> None:
        self._kind, self._data, self._bytes = kind, data, np.frombuffer(data, np.uint8)
        self._numbers = numbers
        self._rows, self._nulls, self._begins, self._sizes = numbers

    @classmethod
    def of(cls, kind: Kind, data: pa.Buffer, places: Array) -> Messages | None:
        """Find the numbers of messages.

        Args:
            kind: their kind.
            data: bytes that hold them, among others.
            places: where each begins in `data`, its length in bytes, its rows; int64, shape (3, messages).

        Returns:
            None where they are not laid out alike, or their numbers do not hold together.
        """
        numbers = _numbers(kind, data, places)
        return None if numbers is None else cls(kind, data, numbers)

    def some(self, first: int, last: int) -> Messages:
        """Messages `first` to `last` (not included)."""
        return Messages(self._kind, self._data, _Numbers(*(each[first:last] for each in self._numbers)))

    def read(self, columns: Sequence[int]) -> pa.RecordBatch | None:
        """The rows of all of them, some columns of the kind's schema; those of a single message are not copied.

        Returns:
            None when bits of nulls do not fit their number or a text does not lie within its buffer.

        Raises:
            ArrowException: the same of rows that were not copied; a text is no UTF-8.
        """
        schema, count = schema_of(self._kind, columns), len(self._rows)
        wanted = [(i, BUFFERS[self._kind].first[i]) for i in columns]
        if count == 1 or self._total >= SMALL_ROWS * count:
            batches = [
                pa.RecordBatch.from_arrays(
                    [self._one(i, place, field.type) for place, field in zip(wanted, schema, strict=True)],
                    schema=schema,
                )
                for i in range(count)
            ]
            return batches[0] if count == 1 else pa.concat_batches(batches)
        arrays = [self._all(place, field.type) for place, field in zip(wanted, schema, strict=True)]
        return None if any(array is None for array in arrays) else pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _one(self, i: int, place: tuple[int, int], kind: pa.DataType) -> pa.Array:
        """A column of one message, not copied. It is named by its place and its first buffer's."""
        column, buffer = place
        rows, nulls = int(self._rows[i]), int(self._nulls[i, column])
        if nulls == rows and not self._bits_of(i, buffer).any():
            return pa.nulls(rows, kind)
        some = range(buffer, buffer + (3 if kind == pa.string() else 2))
        held = [self._data.slice(int(self._begins[i, b]), int(self._sizes[i, b])) for b in some]
        array = pa.Array.from_buffers(kind, rows, [held[0] if nulls else None, *held[1:]], nulls)
        array.validate(full=True)
        return array

    def _all(self, place: tuple[int, int], kind: pa.DataType) -> pa.Array | None:
        """A column of all messages, copied together; None when its bits or bytes do not fit its numbers."""
        column, buffer = place
        nulls, validity = self._nulls[:, column], None
        if nulls.any():
            present = self._present(buffer, nulls > 0)
            if (np.add.reduceat(present, self._firsts, dtype=np.int64) != self._rows - nulls).any():
                return None
            if not present.any():
                return pa.nulls(self._total, kind)
            validity = pa.py_buffer(np.packbits(present, bitorder="little"))
        if kind == pa.string():
            return self._text(buffer, validity)
        if kind == pa.bool_():
            values = np.packbits(self._bits(buffer + 1, self._message, self._place), bitorder="little")
        else:
            size = kind.bit_width // 8
            values = self._items(np.dtype(f"u{size}"))[self._index(buffer + 1, size)]
        return pa.Array.from_buffers(kind, self._total, [validity, pa.py_buffer(values)], int(nulls.sum()))

    def _bits_of(self, i: int, buffer: int) -> Array:
        """One byte, 0 or 1, per row of one message, of a buffer that holds one bit per row."""
        begin, rows = int(self._begins[i, buffer]), int(self._rows[i])
        return np.unpackbits(self._bytes[begin : begin + (rows + 7) // 8], count=rows, bitorder="little")

    @cached_property
    def _total(self) -> int:
        return int(self._rows.sum())

    @cached_property
    def _firsts(self) -> Array:
        """Of every message the place of its first row among all."""
        firsts: Array = np.cumsum(self._rows) - self._rows
        return firsts

    @cached_property
    def _message(self) -> Array:
        """Of every row the message it is in."""
        return np.repeat(np.arange(len(self._rows)), self._rows)

    @cached_property
    def _place(self) -> Array:
        """Of every row its place within its message."""
        place: Array = np.arange(self._total) - np.repeat(self._firsts, self._rows)
        return place

    def _items(self, kind: np.dtype[Any]) -> Array:
        return self._bytes[: len(self._bytes) // kind.itemsize * kind.itemsize].view(kind)

    def _index(self, buffer: int, size: int) -> Array:
        """Of every row the place of its item, counted in items of `size` bytes."""
        index: Array = np.repeat(self._begins[:, buffer] // size, self._rows) + self._place
        return index

    def _bits(self, buffer: int, message: Array, place: Array) -> Array:
        """One byte, 0 or 1, for each of some rows, of a buffer that holds one bit per row."""
        held = self._bytes[self._begins[message, buffer] + (place >> 3)]
        bits: Array = (held >> (place & 7).astype(np.uint8)) & np.uint8(1)
        return bits

    def _present(self, buffer: int, some: Array) -> Array:
        """One byte per row, 1 where it is not null; messages without `some` nulls may have no bits."""
        if some.all():
            return self._bits(buffer, self._message, self._place)
        present = np.ones(self._total, np.uint8)
        at = np.flatnonzero(some[self._message])
        present[at] = self._bits(buffer, self._message[at], self._place[at])
        return present

    def _text(self, buffer: int, validity: pa.Buffer | None) -> pa.Array | None:
        offsets, index = self._items(np.dtype(np.int32)), self._index(buffer + 1, 4)
        begin, end = offsets[index].astype(np.int64), offsets[index + 1].astype(np.int64)
        if (begin < 0).any() or (end < begin).any() or (end > self._sizes[self._message, buffer + 2]).any():
            return None
        ends = np.cumsum(end - begin)
        if ends[-1] > _TEXT_BYTES_MAX:
            return None
        first = self._begins[self._message, buffer + 2] + end - ends  # where byte 0 of all would lie, seen from each
        held = self._bytes[np.repeat(first, end - begin) + np.arange(ends[-1])]
        joined = [validity, pa.py_buffer(np.append(0, ends).astype(np.int32)), pa.py_buffer(held)]
        array = pa.Array.from_buffers(pa.string(), self._total, joined)
        array.validate(full=True)
        return array
