"""Reading a date for a fold alone: of the hot kinds only the columns a fold uses, where Arrow holds them.

Uncompressed files are mapped and not copied; of compressed ones the other columns are never decompressed. `open_day`
has compared every byte with its checksum by then; here rows, seq ranges and their order are checked again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from harvester.errors import DamagedLog
from harvester.eventlog.cutting import recut
from harvester.eventlog.format import file_of
from harvester.eventlog.runlog import RunLog
from harvester.events.batch import Batch, seqs
from harvester.events.kinds import SCHEMAS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from harvester.eventlog.format import CommitLine, Part
    from harvester.eventlog.reader import Day

Wanted = dict[Kind, tuple[str, ...]]
"""By kind the columns a fold uses, besides `seq` and `ts_recv`; kinds not named come whole."""
COMMITS_MAX = 50  # to a batch: more are read faster in one go


class _Stream:
    """One kind's file of a run, read from its beginning, a record batch at a time."""

    def __init__(self, path: Path, kind: Kind, columns: Sequence[str]) -> None:
        self._path, self._kind = path, kind
        names = SCHEMAS[kind].names
        keep = sorted({names.index(name) for name in ("seq", "ts_recv", *columns)})
        self._options = pa.ipc.IpcReadOptions(included_fields=keep, use_threads=False)
        self._map = pa.memory_map(str(path))
        self._reader = pa.ipc.open_stream(self._map, options=self._options)

    def next(self, line: CommitLine, part: Part) -> pa.RecordBatch:
        """The rows of the next commit that has any.

        Raises:
            DamagedLog: they are not what the journal names.
        """
        try:
            rows = self._reader.read_next_batch()
        except (StopIteration, pa.ArrowException, OSError) as error:
            raise DamagedLog(str(self._path), part.offset, f"not the rows the journal names: {error}") from None
        seq, ts = seqs(rows), rows.column(1).to_numpy(zero_copy_only=False)
        fits = rows.num_rows == part.rows and line.first_seq <= seq[0] and seq[-1] <= line.last_seq
        if not fits or (seq[1:] <= seq[:-1]).any() or (ts[1:] < ts[:-1]).any():
            what = f"rows of commit {line.commit} are not those of seq {line.first_seq}-{line.last_seq} in order"
            raise DamagedLog(str(self._path), part.offset, what)
        return rows


def run_batches(log: RunLog, wanted: Mapping[Kind, Sequence[str]], rows_min: int) -> Iterator[Batch]:
    """All events of an undamaged run in seq order, commits joined up to `rows_min` rows.

    Raises:
        DamagedLog: a file is not what the journal names.
    """
    streams: dict[Kind, _Stream] = {}
    parts: list[Batch] = []
    rows = first = 0
    for i, line in enumerate(log.commits):
        tables: dict[Kind, pa.RecordBatch] = {}
        for part in line.files:
            if part.kind in wanted:
                if part.kind not in streams:
                    streams[part.kind] = _Stream(log.folder / file_of(part.kind), part.kind, wanted[part.kind])
                tables[part.kind] = streams[part.kind].next(line, part)
        parts.append(Batch(tables))
        rows += line.rows
        if rows >= rows_min or i + 1 == len(log.commits):
            joined = dict(Batch.concat(parts).tables)
            for kind in Kind:
                if kind not in wanted and (whole := log.load_kind(kind, first, i + 1)) is not None:
                    joined[kind] = whole
            yield Batch({kind: joined[kind] for kind in Kind if kind in joined})
            parts, rows, first = [], 0, i + 1


def fold_batches(day: Day, wanted: Wanted, rows_min: int, cuts: Sequence[int] = ()) -> Iterator[Batch]:
    """All events of a date for a fold, in seq order; batches end at every seq in `cuts` and never cross a run.

    Whole rows, by `Day.batches`, where the log is stored otherwise than in streams, or is damaged.

    Raises:
        DamagedLog: what was read is not what was written.
    """
    logs = [RunLog(view.folder) for view in day.runs]
    for log in logs:
        log.refresh()
    plain = not day.damages and all(getattr(log, "storage", "stream") == "stream" for log in logs)
    if not plain or sum(len(log.commits) for log in logs) * rows_min > COMMITS_MAX * day.rows:
        yield from day.batches(rows_min, cuts)
        return
    for log in logs:
        yield from recut(run_batches(log, wanted, rows_min), None, cuts)
