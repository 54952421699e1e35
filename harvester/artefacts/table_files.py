"""Tables as Parquet and CSV bytes; the same rows give the same bytes."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from harvester.errors import DamagedFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

KEPT_MOVE = "run `hv eod` for that date if its log still exists, else restore the file from a backup"


def parquet_file(table: pa.Table, about: Mapping[str, str] | None = None) -> bytes:
    """A Parquet file of the table, zstd; `about` goes into the schema's metadata."""
    plain = table.replace_schema_metadata(dict(about) if about else None).combine_chunks()
    sink = pa.BufferOutputStream()
    pq.write_table(plain, sink, compression="zstd", version="2.6", store_schema=True)
    made: bytes = sink.getvalue().to_pybytes()
    return made


def read_parquet(path: Path) -> pa.Table:
    """Read a Parquet file back.

    Raises:
        DamagedFile: it cannot be read.
    """
    try:
        table = parquet_table(path.read_bytes())
        table.validate(full=True)  # its texts are UTF-8
    except (OSError, pa.ArrowException) as error:
        raise DamagedFile(str(path), f"not a readable Parquet file: {error}", KEPT_MOVE) from None
    return table


def parquet_table(data: bytes) -> pa.Table:
    """The table of a Parquet file in memory.

    Single-threaded: with `pq.read_table` a thread of Arrow that releases the bytes while the interpreter exits aborts
    the process (SIGABRT).

    Raises:
        pa.ArrowException, OSError: not a Parquet file.
    """
    with pq.ParquetFile(pa.BufferReader(data), pre_buffer=False) as file:
        return file.read(use_threads=False)


def about(table: pa.Table) -> dict[str, str]:
    """The metadata given to `parquet_file`."""
    pairs = (table.schema.metadata or {}).items()
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in pairs}


def csv_file(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """RFC 4180 with a header; floats in their shortest round-trip form, absent values empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if row[name] is None else _cell(row[name]) for name in columns])
    return out.getvalue().encode()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)
    text = str(value)
    # A spreadsheet would evaluate text that starts like a formula.
    return f"'{text}" if isinstance(value, str) and text[:1] in ("=", "+", "-", "@") else text


def joined(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Record batches as one table; without batches an empty one."""
    alike = [batch if batch.schema.equals(schema, check_metadata=True) else batch.cast(schema) for batch in batches]
    return pa.Table.from_batches(alike, schema)
