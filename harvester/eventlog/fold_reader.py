"""Read a date for a fold: of the high-volume kinds only the columns the fold uses, for every storage format.

Large uncompressed commits are memory-mapped and passed on without a copy. Everything else (decompressing, joining small
commits, comparing checksums that were not compared when the day was opened) is done by other threads a few batches
ahead of the fold. Every batch passes the same checks as in `RunLog.load`: dense seqs over all kinds, times that never
decrease, no null in a required column, and rows in the commits the journal assigns them to.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from harvester.eventlog.reader import read_again
from harvester.eventlog.rebatch import rebatch
from harvester.eventlog.run import damage_at
from harvester.eventlog.storage.checked_reads import check_places, messages_of, read_stream, rows_in, rows_of
from harvester.eventlog.storage.damage import BadBytes, damaged_log
from harvester.eventlog.storage.parquet_files import Groups
from harvester.eventlog.storage.prefetch import prefetch
from harvester.events.kinds import SCHEMAS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from harvester.eventlog.reader import Day
    from harvester.eventlog.run import RunLog
    from harvester.eventlog.storage.batch_messages import Messages
    from harvester.events.batch import Batch

Wanted = dict[Kind, tuple[str, ...]]
"""By kind the columns a fold uses, besides `seq` and `ts_recv`; other kinds are read with all columns."""
_LARGE_ROWS = 2_000  # average rows per commit from which all messages of a file are located in one pass
_ALONE = 4  # a commit of at least a quarter of a batch's rows is not joined to others: joining would copy it


class _File:
    """One kind's file of a run; any thread can read any of its commits.

    Attributes:
        mapped: the memory-mapped file; None when it must be read or decompressed.
    """

    def __init__(self, log: RunLog, kind: Kind, columns: Sequence[int]) -> None:
        self._log, self._kind, self._columns = log, kind, columns
        self._path, self._check = log.path_of(kind), not log.proved(kind, len(log.commits))
        self._groups: Groups | None = None
        self._large: Messages | None = None
        self.mapped: pa.Buffer | None = None
        with damage_at(self._path, 0, log.first_seq, log.last_seq):
            if log.storage == "parquet":
                self._groups = Groups(self._path, kind, log.tails.get(kind), check=self._check)
            elif not self._check and _uncompressed(log):
                # Unverified bytes are read instead: a disk error in a memory map would kill the process.
                self.mapped = pa.memory_map(str(self._path)).read_buffer()
                parts = log.parts_of(kind).parts
                if sum(part.rows for part in parts) >= _LARGE_ROWS * len(parts):
                    self._large = messages_of(kind, self.mapped, [part.offset for part in parts], parts)

    def rows(self, first: int, last: int) -> pa.RecordBatch | None:
        """The rows of commits `first` to `last` (not included); None when they have none of the kind.

        Raises:
            BadBytes: they are damaged.
        """
        commits, parts = self._log.parts_of(self._kind)
        begin, end = bisect_left(commits, first), bisect_left(commits, last)
        if begin == end:
            return None
        lines = [self._log.commits[i] for i in commits[begin:end]]
        with damage_at(self._path, parts[begin].offset, lines[0].first_seq, lines[-1].last_seq):
            rows = self._rows(begin, end)
            if last - first > 1:  # for a single commit, dense seqs prove it
                check_places(rows, lines, parts[begin:end])
        return rows

    def _rows(self, begin: int, end: int) -> pa.RecordBatch:
        parts = self._log.parts_of(self._kind).parts[begin:end]
        if self._groups is not None:
            return self._groups.read(parts, check=self._check, columns=self._columns)
        if self.mapped is None:
            return read_stream(self._path, self._kind, parts, check=self._check, columns=self._columns)
        rows = None if self._large is None else rows_in(self._kind, self._large.some(begin, end), self._columns)
        if rows is None:
            rows = rows_of(self._kind, self.mapped, [part.offset for part in parts], parts, self._columns)
        return rows


def _uncompressed(log: RunLog) -> bool:
    return log.manifest is not None and log.manifest.compression is None


def run_batches(log: RunLog, wanted: Mapping[Kind, Sequence[str]], rows_min: int) -> Iterator[Batch]:
    """All events of an undamaged run in seq order, small commits joined up to `rows_min` rows.

    Raises:
        BadBytes: the log is damaged.
    """
    files = {kind: _File(log, kind, _places(kind, wanted.get(kind))) for kind in log.kinds}
    spans = list(_spans(log, rows_min))
    read = partial(_read, log, files)
    zero_copy = all(file.mapped is not None for file in files.values()) and len(log.commits) < _ALONE * len(spans)
    yield from map(read, spans) if zero_copy else prefetch(read, spans)


def _places(kind: Kind, names: Sequence[str] | None) -> tuple[int, ...]:
    """Indexes of the wanted columns in a kind's schema, `seq` and `ts_recv` included; None means all columns."""
    schema = SCHEMAS[kind]
    names = schema.names if names is None else names
    return tuple(sorted({schema.get_field_index(name) for name in ("seq", "ts_recv", *names)}))


def _spans(log: RunLog, rows_min: int) -> Iterator[tuple[int, int]]:
    """Group a run's commits into index ranges that are read together."""
    start = rows = 0
    for i, line in enumerate(log.commits):
        if rows and (line.rows * _ALONE >= rows_min or rows >= rows_min):
            yield start, i
            start, rows = i, 0
        rows += line.rows
    if rows:
        yield start, len(log.commits)


def _read(log: RunLog, files: Mapping[Kind, _File], span: tuple[int, int]) -> Batch:
    tables = {kind: file.rows(*span) for kind, file in files.items()}
    if Kind.CLOCK not in files:
        tables[Kind.CLOCK] = log.clock(*span)
    return log.joined({kind: rows for kind in Kind if (rows := tables.get(kind)) is not None}, *span)


def fold_batches(day: Day, wanted: Wanted, rows_min: int, cuts: Sequence[int] = ()) -> Iterator[Batch]:
    """All events of a date for a fold, in seq order; batches end at every seq in `cuts` and never cross a run.

    Small commits are joined until a batch has `rows_min` rows or more. A damaged run (in a salvaged day) is read by
    `Day.batches`, with all columns.

    Raises:
        DamagedLog: the log is damaged.
    """
    for log in day.logs:
        if log.damages:
            yield from day.batches(rows_min, cuts, log.first_seq, log.last_seq)
        else:
            yield from rebatch(_undamaged(day, log, wanted, rows_min), None, cuts)


def _undamaged(day: Day, log: RunLog, wanted: Wanted, rows_min: int) -> Iterator[Batch]:
    rows_read = 0
    try:
        for batch in run_batches(log, wanted, rows_min):
            yield batch
            rows_read += len(batch)
    except BadBytes as error:
        if log.superseded():  # compacted since the day was opened
            yield from read_again(log, log.first_seq + rows_read, log.last_seq)
            return
        for one in day.logs:  # report every damage, as opening the day does
            one.check_bodies()
        if not day.damages:
            log.blame(error.damage)
        raise damaged_log(day.damages, day.good) from None
