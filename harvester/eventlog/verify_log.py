"""Prove a date's log: re-read every byte, decode every row, recompute every hash."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from harvester.errors import CannotRun
from harvester.eventlog.closed_runs import differences_from_mark
from harvester.eventlog.reader import Day, RunView, day_identity, run_spans, run_view
from harvester.eventlog.runs_of_day import between_runs, good_ranges, read_marks, read_runs
from harvester.eventlog.storage.content_hash import ContentHash
from harvester.eventlog.storage.damage import BadBytes, Damage, damaged_log
from harvester.eventlog.storage.format import names_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from harvester.eventlog.eod_mark import EodMark
    from harvester.eventlog.run import RunLog
    from harvester.eventlog.storage.format import Storage
    from harvester.home import DatePaths


class LogReport(NamedTuple):
    """The result of `verify_day`.

    Attributes:
        problems: damage, in the order found; empty for an undamaged log.
        notes: harmless oddities, such as torn bytes of a run that was killed or is being written.
        runs: the date's runs.
        rows: events decoded without a problem.
        n_bytes: bytes the journals name, and the journals.
        identity: the date's content hash; empty when it is damaged.
        good: closed ranges of seq that can be read.
        logs: the runs as they were read and checked.
        closed: the end-of-day mark.
    """

    trading_date: date
    problems: list[Damage]
    notes: list[str]
    runs: list[RunView]
    rows: int
    n_bytes: int
    identity: str
    good: tuple[tuple[int, int], ...]
    logs: list[RunLog]
    closed: EodMark | None

    def day(self) -> Day:
        """The verified date for reading: no byte is compared with its checksum again unless its file changed.

        Raises:
            DamagedLog: the log is damaged.
        """
        if self.problems:
            raise damaged_log(self.problems, self.good)
        return Day(self.trading_date, self.logs, self.closed, [], salvage=False)

    @property
    def clean(self) -> bool:
        return not self.problems

    @property
    def exit_code(self) -> int:
        """0 clean, 1 damaged."""
        return 0 if self.clean else 1


def verify_day(
    paths: DatePaths, progress: Callable[[int, int], None] = lambda *_: None, *, with_mark: bool = True
) -> LogReport:
    """Verify a date.

    Args:
        paths: the date.
        progress: called with (bytes done, total) after each step; the events' bytes count twice: checked, and decoded.
        with_mark: compare a closed date with its end-of-day mark: its runs must be those it was closed with.

    Raises:
        NoLog: nothing was recorded on that date.
        DamagedLog: the date was closed, and all its runs are missing.
        FutureFormat: a newer Harvester wrote it.
        CannotRun: the folder cannot be read.
    """
    try:
        logs = read_runs(paths)
        closed, asides, marks = read_marks(paths)
    except OSError as error:
        raise CannotRun(f"cannot read the log of {paths.trading_date}: {error}") from error
    notes: list[str] = []
    rows = done = 0
    total = 2 * sum(end for log in logs for end in log.ends.values())

    def step(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        progress(done, total)

    for log in logs:
        log.check_bodies(step)
        rows += verify_rows(log, step)
        notes += _loose_bytes(log)
    problems = [damage for log in logs for damage in log.damages] + marks
    problems += between_runs(logs, closed, paths.log, asides)
    problems += differences_from_mark(paths, logs, closed, asides) if with_mark else []
    views = [run_view(log) for log in logs]
    return LogReport(
        trading_date=paths.trading_date,
        problems=problems,
        notes=notes,
        runs=views,
        rows=rows,
        n_bytes=sum(view.n_bytes for view in views),
        identity="" if problems else day_identity(logs, closed),
        good=good_ranges(logs),
        logs=logs,
        closed=closed,
    )


def verify_rows(log: RunLog, progress: Callable[[int], None] | None) -> int:
    """Decode all rows, and recompute the content hash up to the first missing row."""
    content: ContentHash | None = ContentHash() if not log.damages else None
    rows = 0
    for first, last in list(run_spans(log)):
        try:
            batch = log.load(first, last)
        except BadBytes:
            content = None  # later content hashes cannot be compared; checksums and order still are
            rows += sum(_rows_alone(log, i) for i in range(first, last) if i not in log.bad)
            continue
        rows += len(batch)
        if content is not None and content.update(batch).digest() != log.commits[last - 1].content:
            lines = log.commits[first:last]
            what = f"the content hash of commits {first + 1}-{last} is not that of the rows"
            log.damages.append(Damage(log.journal_path, 0, what, lines[0].first_seq, lines[-1].last_seq))
            content = None
        if progress is not None:
            progress(sum(part.length for line in log.commits[first:last] for part in line.files))
    return rows


def _rows_alone(log: RunLog, i: int) -> int:
    try:
        return len(log.load(i, i + 1))
    except BadBytes:
        return 0


def _loose_bytes(log: RunLog) -> list[str]:
    """Bytes that no commit names: torn in a run that has not ended, damage in one that has."""
    loose = {name: n for name, n in log.torn.items() if n}
    if log.finished:
        for name, n in loose.items():
            path = log.folder / name
            log.damages.append(Damage(path, path.stat().st_size - n, f"{n} bytes follow that no commit names"))
        return _half_compacted(log)
    return [f"{log.run}: {n} bytes of {name} are not committed yet, or torn" for name, n in loose.items()]


def _half_compacted(log: RunLog) -> list[str]:
    """Files that an interrupted compaction left next to those in use."""
    other: Storage = "compacted" if log.storage == "stream" else "stream"
    left = [name for name in names_of(other) if log.storage != "parquet" and (log.folder / name).exists()]
    return [f"{log.run}: {len(left)} files of an interrupted compaction; hv log compact finishes it"] if left else []
