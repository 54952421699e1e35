"""Write and read a run as Parquet: one file per kind, one row group per commit.

The journal's parts cover the row groups without a gap, the manifest's tails the footers, so every byte has a checksum,
as in an Arrow stream. `seq` and times are delta-encoded, other columns dictionary-encoded, all compressed with zstd.

Within a row group `con_id` usually determines `req_id` (one subscription per instrument and kind). Then the `req_id`
column is null and the journal stores the pairs, which saves a tenth of the file. `request` rows keep their req_ids.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harvester.eventlog.storage.checked_reads import check_parts
from harvester.eventlog.storage.damage import in_short, other_columns
from harvester.eventlog.storage.format import Part, file_of
from harvester.eventlog.storage.sealed_lines import checksum
from harvester.eventlog.storage.sequence_checks import rows_problem, schema_of
from harvester.events.kinds import SCHEMAS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import FileIO
    from pathlib import Path

    from harvester.events.batch import Batch
    from harvester.files import Disk

Pairs = list[tuple[int, int]]

_LEVEL = 9
_TRAILER_BYTES = 8  # length of the footer, uint32 little-endian, and PAR1
_PAIRS_ROWS_MIN, _PAIRS_MAX = 1_000, 1_000
_CON_ID, _REQ_ID = 2, 3
_DELTAS = frozenset(("seq", "ts_recv", "ts_event", "wall_ns", "mono_ns"))
_DICTIONARY_BYTES = 4 * 1024 * 1024


def _stored(kind: Kind) -> pa.Schema:
    schema = SCHEMAS[kind]
    return schema.set(_REQ_ID, schema.field(_REQ_ID).with_nullable(True))


class _Sink:
    """The file object Arrow writes to; passes all writes through the log's `Disk`."""

    closed = False

    def __init__(self, disk: Disk, file: FileIO) -> None:
        self._disk, self._file = disk, file

    def write(self, data: bytes) -> int:
        if not self._file.closed:  # an abandoned writer still writes its footer
            self._disk.write(self._file, data)
        return len(data)

    def flush(self) -> None:
        """No effect: writes are unbuffered."""

    def close(self) -> None:
        """No effect: the caller closes the file after syncing it."""


@dataclass
class _Open:
    file: FileIO
    writer: pq.ParquetWriter
    pairs: list[Pairs] = field(default_factory=list)


class ParquetBodies:
    """Writes the bodies of a run, commit after commit; `finish` returns the parts for the journal."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder, self._disk = folder, disk
        self._open: dict[Kind, _Open] = {}
        self._commits: list[list[Kind]] = []

    def add(self, batch: Batch) -> None:
        """Append one commit."""
        for kind, rows in batch.tables.items():
            if kind not in self._open:
                self._open[kind] = self._begin(kind)
            pairs = _pairs(rows)
            columns = rows.columns
            if pairs:
                columns[_REQ_ID] = pa.nulls(rows.num_rows, pa.int32())
            stored = pa.Table.from_arrays(columns, schema=_stored(kind))
            self._open[kind].writer.write_table(stored, row_group_size=max(rows.num_rows, 1))
            self._open[kind].pairs.append(pairs)
        self._commits.append(list(batch.tables))

    def _begin(self, kind: Kind) -> _Open:
        file = self._disk.create(self._folder / file_of(kind, "parquet"))
        names = [name for name in SCHEMAS[kind].names if name not in _DELTAS]
        writer = pq.ParquetWriter(
            pa.PythonFile(_Sink(self._disk, file), "w"),
            _stored(kind),
            compression="zstd",
            compression_level=_LEVEL,
            use_dictionary=names,
            column_encoding={name: "DELTA_BINARY_PACKED" for name in SCHEMAS[kind].names if name in _DELTAS},
            write_statistics=False,
            write_page_checksum=True,
            dictionary_pagesize_limit=_DICTIONARY_BYTES,
        )
        return _Open(file, writer)

    def finish(self) -> tuple[list[list[Part]], list[Part]]:
        """Write the footers and sync.

        Returns:
            The parts of each commit, and the tails.

        Raises:
            ValueError: a file cannot be read back.
        """
        parts: dict[Kind, list[Part]] = {}
        tails = []
        for kind, one in self._open.items():
            one.writer.close()
            self._disk.fsync(one.file)
            one.file.close()
            with _readable(kind):
                parts[kind], tail = _cover(self._folder / file_of(kind, "parquet"), kind, one.pairs)
            tails.append(tail)
        taken = {kind: iter(of_kind) for kind, of_kind in parts.items()}
        return [[next(taken[kind]) for kind in kinds] for kinds in self._commits], tails

    def close(self) -> None:
        """Close all files, finished or not."""
        for one in self._open.values():
            one.file.close()


def _pairs(rows: pa.RecordBatch) -> Pairs:
    """The (con_id, req_id) pairs if con_id determines req_id; empty if not, or if it saves too little."""
    if rows.num_rows < _PAIRS_ROWS_MIN:
        return []
    con_id, req_id = (rows.column(i).to_numpy(zero_copy_only=False) for i in (_CON_ID, _REQ_ID))
    known, first, place = np.unique(con_id, return_index=True, return_inverse=True)
    if len(known) > _PAIRS_MAX or (req_id[first][place] != req_id).any():
        return []
    return list(zip(known.tolist(), req_id[first].tolist(), strict=True))


def _starts(metadata: Any) -> list[int]:
    """Offset of each row group; 0 for the first, so that it includes the magic number."""
    starts = []
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        pages = [group.column(k) for k in range(group.num_columns)]
        offsets = [page.data_page_offset for page in pages]
        offsets += [page.dictionary_page_offset for page in pages if page.has_dictionary_page]
        starts.append(min(offsets) if i else 0)
    return starts


def _cover(path: Path, kind: Kind, pairs: Sequence[Pairs]) -> tuple[list[Part], Part]:
    """Read a finished file once; returns the parts of its row groups, and its footer."""
    size = path.stat().st_size
    metadata = pq.read_metadata(path)
    with path.open("rb") as file:
        file.seek(size - _TRAILER_BYTES)
        footer = size - _TRAILER_BYTES - int.from_bytes(file.read(4), "little")
        edges = [*_starts(metadata), footer, size]
        parts = []
        for i in range(len(edges) - 1):
            file.seek(edges[i])
            data = file.read(edges[i + 1] - edges[i])
            tail = i == metadata.num_row_groups
            rows = metadata.num_rows if tail else metadata.row_group(i).num_rows
            parts.append(Part(kind, edges[i], len(data), rows, checksum(data), [] if tail else pairs[i]))
    return parts[:-1], parts[-1]


def check_tail(path: Path, kind: Kind, tail: Part | None, parts: Sequence[Part]) -> str:
    """The problem with a file's footer; empty for none. `parts` are all parts of the kind in the journal."""
    if tail is None:
        return "the manifest has no footer for this kind"
    rows = sum(part.rows for part in parts)
    if tail.offset != parts[-1].end or tail.rows != rows:
        said = f"the journal says {parts[-1].end} and {rows} rows"
        return f"the footer begins at {tail.offset} for {tail.rows} rows, {said}"
    if any(one.wrong for one in check_parts(path, [tail])):
        return "the footer does not match its checksum"
    return _footer_problem(path, kind, [part.offset for part in parts])


def _footer_problem(path: Path, kind: Kind, offsets: Sequence[int]) -> str:
    try:
        metadata, schema = pq.read_metadata(path), pq.read_schema(path)
        starts = _starts(metadata)
    except (pa.ArrowException, OSError, ValueError) as error:
        return f"the footer cannot be read: {in_short(error)}"
    if not schema.equals(_stored(kind)):
        return f"the {other_columns(schema.names, kind)}"
    return "" if starts == list(offsets) else "the footer's row groups differ from the journal's"


class Groups:
    """A file's row groups, readable in any order and by any thread; the footer is read once.

    Raises:
        ValueError: the footer differs from the manifest, or is not a footer.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path, kind: Kind, tail: Part | None, *, check: bool) -> None:
        if tail is None:
            raise ValueError("the manifest has no footer for this kind")
        if check and any(one.wrong for one in check_parts(path, [tail])):
            raise ValueError("the footer does not match its checksum")
        self._path, self._kind = path, kind
        with _readable(kind):
            self._metadata = pq.read_metadata(path)
            schema = pq.read_schema(path)
            self._at = {start: i for i, start in enumerate(_starts(self._metadata))}
        if not schema.equals(_stored(kind)):
            raise ValueError(other_columns(schema.names, kind))

    def read(self, parts: Sequence[Part], *, check: bool, columns: Sequence[int] | None = None) -> pa.RecordBatch:
        """Read row groups as one record batch.

        Args:
            parts: the parts to read, in order.
            check: compare their bytes with their checksums.
            columns: ascending indexes of the columns to return, in the kind's schema; None: all.

        Raises:
            ValueError: a checksum does not match, or the bytes are not rows of the kind.
            OSError: the file cannot be read, or is too short.
        """
        if check and any(one.wrong for one in check_parts(self._path, parts)):
            raise ValueError("the bytes do not match their checksum")
        wanted = range(len(SCHEMAS[self._kind])) if columns is None else columns
        with _readable(self._kind):
            with pq.ParquetFile(self._path, metadata=self._metadata, page_checksum_verification=True) as file:
                whole = pa.concat_tables([self._group(file, part, wanted) for part in parts]).combine_chunks()
            whole.validate(full=True)
            schema = schema_of(self._kind, wanted)
            rows = pa.RecordBatch.from_arrays([column.chunk(0) for column in whole.columns], schema=schema)
        if problem := rows_problem(self._kind, rows, wanted):
            raise ValueError(problem)
        return rows

    def _group(self, file: pq.ParquetFile, part: Part, columns: Sequence[int]) -> pa.Table:
        kind, left_out = self._kind, part.req_ids if _REQ_ID in columns else []
        taken = sorted({*columns, _CON_ID}) if left_out else list(columns)
        stored = pa.schema([_stored(kind).field(i) for i in taken])
        table = file.read_row_group(self._at[part.offset], columns=stored.names, use_threads=False)
        if table.num_rows != part.rows:
            raise ValueError(f"{table.num_rows} rows, the journal says {part.rows}")
        if not table.schema.equals(stored):
            raise ValueError(other_columns(table.schema.names, kind))
        if left_out:
            table = table.set_column(taken.index(_REQ_ID), stored.field("req_id"), _req_ids(table["con_id"], left_out))
        return table.select([taken.index(i) for i in columns]).cast(schema_of(kind, columns))


@contextmanager
def _readable(kind: Kind) -> Iterator[None]:
    """Convert Arrow's errors about bytes that are not such a file to ValueError."""
    try:
        yield
    except (pa.ArrowException, OverflowError, MemoryError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"not a Parquet file of {kind}: {in_short(error)}") from None


def _req_ids(con_ids: pa.ChunkedArray, pairs: Pairs) -> pa.Array:
    known, con_id = np.array(pairs, np.int64), con_ids.to_numpy()
    place = np.minimum(np.searchsorted(known[:, 0], con_id), len(known) - 1)
    if (known[place, 0] != con_id).any():
        raise ValueError("a con_id without its req_id")
    return pa.array(known[place, 1].astype(np.int32))
