"""Decode uncompressed record-batch messages without Arrow's reader: large ones without a copy, small ones in bulk.

Arrow's reader takes as long for a message of three rows as for one of thousands. Here the lengths and offsets of all
messages are gathered, checked against each other and against the journal, and decoded together with NumPy. Messages
that fail these checks are left to Arrow.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from harvester.eventlog.storage.message_layout import BUFFERS, CONTINUATION, PREFIX_BYTES, WORD, layout_of
from harvester.eventlog.storage.sequence_checks import schema_of
from harvester.events.kinds import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.events.kinds import Kind

    Array = np.ndarray[Any, np.dtype[Any]]

_SLICED_ROWS = 64  # average rows per message from which copying the messages one by one is faster
_TEXT_BYTES_MAX = 2**31 - 1


@lru_cache(maxsize=16)
def _nulls(rows: int, kind: pa.DataType) -> pa.Array:
    """A column of nulls; cached, because most feeds leave the same columns empty in every commit."""
    return pa.nulls(rows, kind)


class _Numbers(NamedTuple):
    """Per message its rows, and on a second axis null counts of columns, starts and lengths of buffers (bytes)."""

    rows: Array
    nulls: Array
    begins: Array
    sizes: Array


def _numbers(kind: Kind, data: pa.Buffer, places: Array) -> _Numbers | None:
    """Gather the numbers of all messages; None unless every buffer is within its body and large enough."""
    starts, lengths, rows = places
    held = np.frombuffer(data, np.uint8)
    n_columns, buffers = len(SCHEMAS[kind]), BUFFERS[kind]
    head = bytes(held[starts[0] : starts[0] + PREFIX_BYTES])
    size = PREFIX_BYTES + int.from_bytes(head[4:], "little")
    whole = size <= int(lengths.min()) and int((starts + lengths).max()) <= len(held)
    if not whole or not head.startswith(CONTINUATION) or (starts % WORD).any():
        return None
    layout = layout_of(bytes(held[starts[0] : starts[0] + size]), n_columns, buffers.count)
    if layout is None:
        return None
    # A view of the file with a metadata block at every word; indexing it copies all metadata in one step.
    shape = (len(held) // WORD - size // WORD + 1, size // WORD)
    words = np.ndarray(shape, np.uint64, held, strides=(WORD, WORD))[starts // WORD]
    if ((words & layout.mask) != layout.fixed).any():
        return None
    numbers = words.view(np.int64)
    of_columns = numbers[:, layout.nodes : layout.nodes + 2 * n_columns]
    of_buffers = numbers[:, layout.buffers : layout.buffers + 2 * buffers.count]
    nulls, offsets, sizes = of_columns[:, 1::2], of_buffers[:, ::2], of_buffers[:, 1::2]
    body, each = numbers[:, layout.body], rows[:, None]
    sound = (
        (numbers[:, layout.rows] == rows).all()
        and (of_columns[:, ::2] == each).all()
        and _within(nulls, each)
        and (body == lengths - size).all()
        and _within(rows, body)
        and _within(offsets, body[:, None])
        and _within(sizes, body[:, None] - offsets)
        and not (offsets % WORD).any()
        and (sizes >= buffers.needed(rows, nulls)).all()
    )
    return _Numbers(rows, nulls, (starts + size)[:, None] + offsets, sizes) if sound else None


def _within(numbers: Array, most: Array) -> bool:
    """Whether every number is from 0 to its maximum in `most`, which is not negative."""
    return bool((numbers.view(np.uint64) <= most.view(np.uint64)).all())


class Messages:
    """Messages of one kind with the same layout and consistent numbers. Created by `of`."""

    def __init__(self, kind: Kind, data: pa.Buffer, numbers: _Numbers) -> None:
        self._kind, self._data, self._bytes = kind, data, np.frombuffer(data, np.uint8)
        self._numbers = numbers
        self._rows, self._nulls, self._begins, self._sizes = numbers

    @classmethod
    def of(cls, kind: Kind, data: pa.Buffer, places: Array) -> Messages | None:
        """Read and check the metadata of messages.

        Args:
            kind: their kind.
            data: the bytes that contain them.
            places: start of each message in `data`, length in bytes, rows; int64, shape (3, messages).

        Returns:
            None when their layouts differ or their numbers are inconsistent.
        """
        numbers = _numbers(kind, data, places)
        return None if numbers is None else cls(kind, data, numbers)

    def some(self, first: int, last: int) -> Messages:
        """Messages `first` to `last` (not included)."""
        return Messages(self._kind, self._data, _Numbers(*(each[first:last] for each in self._numbers)))

    def read(self, columns: Sequence[int]) -> pa.RecordBatch | None:
        """Some columns of the rows of all messages; the rows of a single message are not copied.

        Returns:
            None when the validity bits contradict the null count, or a text is outside its buffer.

        Raises:
            ArrowException: the same for rows that are not copied; a text is not UTF-8.
        """
        schema = schema_of(self._kind, columns)
        wanted = [(i, BUFFERS[self._kind].first[i]) for i in columns]
        column = self._one if len(self._rows) == 1 else self._all
        arrays = [column(place, field.type) for place, field in zip(wanted, schema, strict=True)]
        return None if any(array is None for array in arrays) else pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _one(self, place: tuple[int, int], kind: pa.DataType) -> pa.Array:
        """A column of the only message, not copied. `place`: index of the column and of its first buffer."""
        column, buffer = place
        (nulls,) = self._nulls[:, column].tolist()
        if nulls == self._total and self._no_bits(buffer):
            return _nulls(nulls, kind)
        some = slice(buffer, buffer + (3 if kind == pa.string() else 2))
        (begins,), (sizes,) = self._begins[:, some].tolist(), self._sizes[:, some].tolist()
        bits, *values = (self._data.slice(begin, size) for begin, size in zip(begins, sizes, strict=True))
        array = pa.Array.from_buffers(kind, self._total, [bits if nulls else None, *values], nulls)
        array.validate(full=True)
        return array

    def _no_bits(self, buffer: int) -> bool:
        """Whether the validity bits mark every row of the only message as null."""
        (begin,), (whole, rest) = self._begins[:, buffer].tolist(), divmod(self._total, 8)
        bits = self._bytes[begin : begin + whole + 1]
        return not bits[:whole].any() and not (rest and bits[whole] & (1 << rest) - 1)

    def _all(self, place: tuple[int, int], kind: pa.DataType) -> pa.Array | None:
        """A column of all messages, copied together; None when its bits or bytes contradict its numbers."""
        column, buffer = place
        nulls, validity = self._nulls[:, column], None
        if nulls.any():
            present = self._bits(buffer, nulls > 0)
            if (np.add.reduceat(present, self._firsts, dtype=np.int64) != self._rows - nulls).any():
                return None
            if not present.any():
                return _nulls(self._total, kind)
            validity = pa.py_buffer(np.packbits(present, bitorder="little"))
        if kind == pa.string():
            return self._text(buffer, validity)
        if kind == pa.bool_():
            values = np.packbits(self._bits(buffer + 1, np.ones(len(self._rows), np.bool_)), bitorder="little")
        else:
            values = self._values(buffer + 1, kind.bit_width // 8)
        return pa.Array.from_buffers(kind, self._total, [validity, pa.py_buffer(values)], int(nulls.sum()))

    def _values(self, buffer: int, size: int) -> Array:
        """The items of `size` bytes of all rows, as bytes."""
        begins = self._begins[:, buffer]
        if self._sliced:
            ends = begins + self._rows * size
            return np.concatenate([self._bytes[b:e] for b, e in zip(begins.tolist(), ends.tolist(), strict=True)])
        return self._items(np.dtype(f"u{size}"))[self._index(buffer, size)].view(np.uint8)

    def _bits(self, buffer: int, some: Array) -> Array:
        """One byte, 0 or 1, per row of a buffer that holds one bit per row; 1 for all but `some` of the messages."""
        if self._sliced:
            ones = (np.ones(n, np.uint8) for n in self._rows.tolist())
            return np.concatenate([self._bits_of(i, buffer) if some[i] else one for i, one in enumerate(ones)])
        bits = np.ones(self._total, np.uint8)
        at = slice(None) if some.all() else np.flatnonzero(some[self._message])
        place, message = self._place[at], self._message[at]
        bits[at] = self._bytes[self._begins[message, buffer] + (place >> 3)] >> (place & 7).astype(np.uint8) & 1
        return bits

    def _bits_of(self, i: int, buffer: int) -> Array:
        """The same for one message."""
        begin, rows = int(self._begins[i, buffer]), int(self._rows[i])
        return np.unpackbits(self._bytes[begin:], count=rows, bitorder="little")

    def _text(self, buffer: int, validity: pa.Buffer | None) -> pa.Array | None:
        texts = self._texts_sliced(buffer) if self._sliced else self._texts(buffer)
        if texts is None:
            return None
        ends = np.append(0, np.cumsum(texts[0]))
        if ends[-1] > _TEXT_BYTES_MAX:
            return None
        joined = [validity, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(texts[1])]
        array = pa.Array.from_buffers(pa.string(), self._total, joined)
        array.validate(full=True)
        return array

    def _texts(self, buffer: int) -> tuple[Array, Array] | None:
        """The length of each row's text in bytes, and all bytes; None when a text is outside its buffer."""
        offsets, index = self._items(np.dtype(np.int32)), self._index(buffer + 1, 4)
        begin, end = offsets[index].astype(np.int64), offsets[index + 1].astype(np.int64)
        if (begin < 0).any() or (end < begin).any() or (end > self._sizes[self._message, buffer + 2]).any():
            return None
        lengths = end - begin
        # Offset of each text minus its offset in the output.
        first = self._begins[self._message, buffer + 2] + end - np.cumsum(lengths)
        return lengths, self._bytes[np.repeat(first, lengths) + np.arange(lengths.sum())]

    def _texts_sliced(self, buffer: int) -> tuple[Array, Array] | None:
        lengths, texts = [], []
        for i, rows in enumerate(self._rows.tolist()):
            begin, text, size = (
                int(n) for n in (*self._begins[i, buffer + 1 : buffer + 3], self._sizes[i, buffer + 2])
            )
            offsets = self._bytes[begin : begin + 4 * (rows + 1)].view(np.int32).astype(np.int64)
            lengths.append(np.diff(offsets))
            if offsets[0] < 0 or offsets[-1] > size or (lengths[-1] < 0).any():
                return None
            texts.append(self._bytes[text + int(offsets[0]) : text + int(offsets[-1])])
        return np.concatenate(lengths), np.concatenate(texts)

    @cached_property
    def _total(self) -> int:
        return int(self._rows.sum())

    @cached_property
    def _sliced(self) -> bool:
        """Whether messages are copied one by one; messages with few rows are gathered row by row, all together."""
        return self._total >= _SLICED_ROWS * len(self._rows)

    @cached_property
    def _firsts(self) -> Array:
        """Per message, the index of its first row among all rows."""
        firsts: Array = np.cumsum(self._rows) - self._rows
        return firsts

    @cached_property
    def _message(self) -> Array:
        """Per row, the index of its message."""
        return np.repeat(np.arange(len(self._rows)), self._rows)

    @cached_property
    def _place(self) -> Array:
        """Per row, its index within its message."""
        place: Array = np.arange(self._total) - np.repeat(self._firsts, self._rows)
        return place

    def _items(self, kind: np.dtype[Any]) -> Array:
        return self._bytes[: len(self._bytes) // kind.itemsize * kind.itemsize].view(kind)

    def _index(self, buffer: int, size: int) -> Array:
        """Per row, the index of its item, in units of `size` bytes."""
        index: Array = np.repeat(self._begins[:, buffer] // size, self._rows) + self._place
        return index
