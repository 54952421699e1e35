"""Encode record batches as messages of an Arrow IPC stream, and decode them.

Each commit's record batch is one self-contained message, so a stream is its schema message followed by the messages of
its commits, and any sequence of whole messages can be read after a message with the same schema.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from harvester.eventlog.storage.damage import in_short, other_columns
from harvester.eventlog.storage.message_layout import CONTINUATION, PREFIX_BYTES
from harvester.eventlog.storage.sequence_checks import schema_of
from harvester.events.kinds import SCHEMAS, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.eventlog.storage.format import ClockRow, Compression

HEADER_BYTES_MAX = 1024 * 1024
_GROUP = 256
ZSTD_LEVEL = 3  # a depth event takes 12.9 bytes at level 1 and 10.5 at level 3; 5 and 9 are slower and no smaller

HEADERS: dict[Kind, bytes] = {kind: SCHEMAS[kind].serialize().to_pybytes() for kind in Kind}
"""The schema message of each kind."""


def encode(rows: pa.RecordBatch, compression: Compression | None) -> bytes:
    """Encode rows as one record-batch message, without the schema."""
    if compression is None:
        return bytes(rows.serialize().to_pybytes())
    sink = pa.BufferOutputStream()
    codec = pa.Codec(compression, ZSTD_LEVEL) if compression == "zstd" else compression
    writer = pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression=codec))
    writer.write_batch(rows)  # not closed: readers would stop at an end mark and miss later commits
    data = bytes(sink.getvalue().to_pybytes())
    return data[header_length(data) :]


def header_length(data: bytes | memoryview) -> int:
    """Length in bytes of the schema message at the start of `data`, padding included.

    Raises:
        ValueError: `data` does not begin with a schema message.
    """
    length = PREFIX_BYTES + int.from_bytes(data[4:8], "little")
    if not bytes(data[:4]).startswith(CONTINUATION) or not PREFIX_BYTES < length <= min(len(data), HEADER_BYTES_MAX):
        raise ValueError("the stream does not begin with a schema")
    return length


def check_header(kind: Kind, data: bytes | memoryview) -> int:
    """Assert that `data` begins with the schema of `kind`.

    Returns:
        The length of the schema message in bytes.

    Raises:
        ValueError: it does not.
    """
    length = header_length(data)
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(bytes(data[:length])))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"the stream's schema cannot be read: {error}") from None
    if not schema.equals(SCHEMAS[kind]):
        raise ValueError(f"the stream's {other_columns(schema.names, kind)}")
    return length


def decode(kind: Kind, data: bytes, rows: int, columns: Sequence[int]) -> pa.RecordBatch:
    """Decode a schema message and the record batches after it to one record batch of `rows` rows and some columns.

    Raises:
        ValueError: the bytes are not such a stream, or contain another number of rows.
    """
    check_header(kind, data)
    # Threads within one batch gain little; callers decode whole batches in parallel.
    options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=list(columns))
    try:
        joined = _joined(pa.ipc.open_stream(pa.py_buffer(data), options=options)).to_batches()
        if sum(batch.num_rows for batch in joined) != rows:
            raise ValueError(f"{sum(batch.num_rows for batch in joined)} rows, the journal says {rows}")
    except (pa.ArrowException, OSError, OverflowError, MemoryError) as error:
        raise ValueError(f"not an Arrow stream: {in_short(error)}") from None
    if len(joined) != 1:
        raise ValueError(f"{len(joined)} chunks, expected 1")
    # Field metadata (units) may differ between versions; the returned schema is always this version's.
    schema = schema_of(kind, columns)
    if not joined[0].schema.equals(schema):
        raise ValueError(other_columns(joined[0].schema.names, kind))
    return pa.RecordBatch.from_arrays(joined[0].columns, schema=schema)


def _joined(stream: pa.RecordBatchReader) -> pa.Table:
    """All batches of a stream as one, combined in groups while they are still in the processor's cache."""
    groups, some = [], []
    for batch in stream:
        some.append(batch)
        if len(some) == _GROUP:
            groups.append(_combined(some, stream.schema))
            some = []
    if some or not groups:
        groups.append(_combined(some, stream.schema))
    return groups[0] if len(groups) == 1 else pa.concat_tables(groups).combine_chunks()


def _combined(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    table = pa.Table.from_batches(batches, schema)
    # Without this, a wrong offset in a buffer would cause reads out of bounds.
    table.validate(full=True)
    return table.combine_chunks()


_CLOCK = struct.Struct(f"{len(SCHEMAS[Kind.CLOCK])}q")


def clock_lines(rows: pa.RecordBatch) -> tuple[ClockRow, ...]:
    """`clock` events as stored in a journal line."""
    return tuple(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def clock_rows(lines: Sequence[ClockRow]) -> pa.RecordBatch:
    """`clock` events of journal lines as a record batch."""
    schema = SCHEMAS[Kind.CLOCK]
    numbers = b"".join([_CLOCK.pack(*line) for line in lines])  # faster than np.array
    grid: np.ndarray[Any, np.dtype[np.int64]] = np.frombuffer(numbers, np.int64).reshape(len(lines), len(schema))
    columns = [np.ascontiguousarray(grid[:, i], field.type.to_pandas_dtype()) for i, field in enumerate(schema)]
    arrays = [
        pa.Array.from_buffers(field.type, len(lines), [None, pa.py_buffer(column)], 0)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
