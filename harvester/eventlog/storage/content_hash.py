"""Hash the content of tables and events, independent of encoding, batch sizes and files.

Per column up to three streams are hashed with BLAKE2b-256, row after row, so that the split into batches does not
matter: validity (one byte per row, 1 = present; only for nullable columns), values (little-endian, a null is 0, every
NaN the same NaN), and for text the lengths (uint32) and the bytes. A list hashes its lengths and, as a separate column,
its elements; a struct its members. A table's hash covers the row count and, column by column, name, type and streams; a
batch of events hashes one table per kind, in the order of `Kind`.

Text has the same hash as string, large string or string view.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.events.kinds import SCHEMAS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harvester.events.batch import Batch

_VIEWED = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}


def _hash() -> Any:
    return blake2b(digest_size=32)


def _present(array: pa.Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """One byte per row, 1 where it is not null."""
    present: np.ndarray[Any, np.dtype[np.bool_]] = array.is_valid().to_numpy(zero_copy_only=False)
    return present


class _Column(ABC):
    """The streams of one column. Subclasses add what their type needs."""

    def __init__(self, name: str, *, nullable: bool) -> None:
        self._name = name.encode()
        self._validity = _hash() if nullable else None

    def update(self, array: pa.Array) -> None:
        if self._validity is not None:
            if not array.null_count:
                self._validity.update(b"\x01" * len(array))
            elif array.null_count == len(array):
                self._validity.update(bytes(len(array)))
            else:
                self._validity.update(_present(array))
        self._values(array)

    def digest(self) -> bytes:
        out = _hash()
        out.update(len(self._name).to_bytes(4, "little") + self._name)
        out.update(b"\x00" if self._validity is None else b"\x01" + self._validity.digest())
        for part in self._parts():
            out.update(part)
        return bytes(out.digest())

    @abstractmethod
    def _values(self, array: pa.Array) -> None:
        """Add the array's values to the streams."""

    @abstractmethod
    def _parts(self) -> Iterable[bytes]:
        """The parts of the digest besides name and validity."""


class _Fixed(_Column):
    """Numbers, booleans and times."""

    def __init__(self, name: str, kind: pa.DataType, *, nullable: bool) -> None:
        super().__init__(name, nullable=nullable)
        self._label = str(kind).encode()
        self._stream = _hash()
        self._float = pa.types.is_floating(kind)
        self._bool = pa.types.is_boolean(kind)
        plain = _VIEWED[kind.bit_width] if pa.types.is_temporal(kind) else kind
        self._dtype = np.dtype(np.bool_ if self._bool else plain.to_pandas_dtype())

    def _values(self, array: pa.Array) -> None:
        if array.null_count == len(array):
            self._stream.update(bytes(self._dtype.itemsize * len(array)))
            return
        if self._bool:
            filled = array.fill_null(False) if array.null_count else array
            values = filled.to_numpy(zero_copy_only=False)
        else:
            # The buffer itself, because converting copies; its values under nulls are undefined.
            values = np.frombuffer(array.buffers()[1], self._dtype)[array.offset :][: len(array)]
            if array.null_count:
                values = np.where(_present(array), values, self._dtype.type(0))
        if self._float and np.isnan(values).any():
            values = np.where(np.isnan(values), self._dtype.type(np.nan), values)
        self._stream.update(np.ascontiguousarray(values, self._dtype.newbyteorder("<")))

    def _parts(self) -> Iterable[bytes]:
        return (self._label, self._stream.digest())


class _Text(_Column):
    """Strings and bytes."""

    def __init__(self, name: str, label: bytes, *, nullable: bool) -> None:
        super().__init__(name, nullable=nullable)
        self._label, self._lengths, self._bytes = label, _hash(), _hash()

    def _values(self, array: pa.Array) -> None:
        if not len(array):
            return
        if array.null_count == len(array):
            self._lengths.update(bytes(4 * len(array)))
            return
        if array.type not in (pa.string(), pa.binary()):
            array = array.cast(pa.large_binary())
        wide = array.type == pa.large_binary()
        if array.null_count:
            array = array.fill_null("")
        _, offset_buffer, data = array.buffers()
        offsets = np.frombuffer(offset_buffer, np.int64 if wide else np.int32)[array.offset :][: len(array) + 1]
        self._lengths.update(np.diff(offsets).astype("<u4"))
        if data is not None:
            self._bytes.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])

    def _parts(self) -> Iterable[bytes]:
        return (self._label, self._lengths.digest(), self._bytes.digest())


class _List(_Column):
    def __init__(self, name: str, element: pa.Field, *, nullable: bool) -> None:
        super().__init__(name, nullable=nullable)
        self._lengths, self._element = _hash(), _column(element)

    def _values(self, array: pa.Array) -> None:
        lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        self._lengths.update(np.ascontiguousarray(lengths.astype("<u4")))
        self._element.update(array.flatten())

    def _parts(self) -> Iterable[bytes]:
        return (b"list", self._lengths.digest(), self._element.digest())


class _Struct(_Column):
    def __init__(self, name: str, members: Iterable[pa.Field], *, nullable: bool) -> None:
        super().__init__(name, nullable=nullable)
        # A null struct makes all its members null, so they are nullable whatever the schema says.
        self._members = [_column(member.with_nullable(True)) for member in members]

    def _values(self, array: pa.Array) -> None:
        for member, values in zip(self._members, array.flatten(), strict=True):
            member.update(values)

    def _parts(self) -> Iterable[bytes]:
        return (b"struct", *(member.digest() for member in self._members))


class _Decoded:
    """A dictionary column, hashed as the values it stands for."""

    def __init__(self, field: pa.Field) -> None:
        self._plain = _column(pa.field(field.name, field.type.value_type, field.nullable))

    def update(self, array: pa.Array) -> None:
        self._plain.update(array.dictionary_decode())

    def digest(self) -> bytes:
        return self._plain.digest()


def _column(field: pa.Field) -> _Column | _Decoded:
    kind, name, nullable = field.type, field.name, field.nullable
    if pa.types.is_dictionary(kind):
        return _Decoded(field)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _Text(name, b"text", nullable=nullable)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return _Text(name, b"bytes", nullable=nullable)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _List(name, kind.value_field.with_name("item"), nullable=nullable)
    if pa.types.is_struct(kind):
        return _Struct(name, [kind.field(i) for i in range(kind.num_fields)], nullable=nullable)
    if (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_temporal(kind)
    ):
        return _Fixed(name, kind, nullable=nullable)
    raise TypeError(f"column {name!r} of type {kind} has no content hash")


class TableHash:
    """The content hash of a growing table: `update` adds rows in order, `digest` works at any time.

    Names, order, types and nullability of the columns are hashed; schema metadata and the width of text types are not.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.rows = 0
        self._schema = schema
        self._columns = [_column(field) for field in schema]

    def update(self, rows: pa.RecordBatch | pa.Table) -> TableHash:
        """Add rows with the schema's columns in order.

        Raises:
            ValueError: the columns differ from the schema's.
        """
        if rows.schema.names != self._schema.names:
            raise ValueError(f"columns are {rows.schema.names}, expected {self._schema.names}")
        for batch in rows.to_batches() if isinstance(rows, pa.Table) else (rows,):
            for column, array in zip(self._columns, batch.columns, strict=True):
                column.update(array)
            self.rows += batch.num_rows
        return self

    def digest(self) -> str:
        """Hex BLAKE2b-256 of everything so far; more rows may follow."""
        out = _hash()
        out.update(self.rows.to_bytes(8, "little"))
        for column in self._columns:
            out.update(column.digest())
        return str(out.hexdigest())


class ContentHash:
    """The content hash of a run: one `TableHash` per kind that has rows."""

    def __init__(self) -> None:
        self._tables: dict[Kind, TableHash] = {}
        self._digests: dict[Kind, str] = {}

    def update(self, batch: Batch) -> ContentHash:
        """Add a batch of events."""
        for kind, rows in batch.tables.items():
            if kind not in self._tables:
                self._tables[kind] = TableHash(SCHEMAS[kind])
            self._digests[kind] = self._tables[kind].update(rows).digest()
        return self

    def digest(self) -> str:
        """Hex BLAKE2b-256 of everything so far; more batches may follow."""
        return combined(f"{kind.value}:{self._digests[kind]}" for kind in Kind if kind in self._digests)


def combined(parts: Iterable[str]) -> str:
    """Hex BLAKE2b-256 over texts, one per line."""
    out = _hash()
    for part in parts:
        out.update(part.encode() + b"\n")
    return str(out.hexdigest())
