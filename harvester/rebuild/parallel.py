"""Project several dates in parallel, one process per date; files and results are the same as one after the other."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harvester.errors import BadSetting, DamagedLog, HarvesterError
from harvester.eventlog.reader import open_day
from harvester.eventlog.runs_of_day import recorded_dates
from harvester.eventlog.storage.damage import damaged_log
from harvester.home import Home, parse_date
from harvester.memory.strategy_files import GivenStrategies, KeptStrategies, load_all
from harvester.rebuild.bars_project import FOLDER, BarsAsk, project_bars
from harvester.rebuild.project import being_recorded, fold_day, recorder_holds, write_artefacts
from harvester.rebuild.project_memo import ProjectedSummary, ProjectMemo, summary_of
from harvester.rebuild.strategy_folders import folder_of, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import date

    from harvester.eventlog.reader import Day
    from harvester.files import Disk
    from harvester.memory.strategy_files import LoadedStrategy
    from harvester.projections.trading.strategies import Library
    from harvester.rebuild.bars_project import BarsSummary

    Progress = Callable[[int, int], None]

SALVAGED = "salvaged"  # below the folder written into
_LOOK_S = 0.1
_progress_queue: Any = None  # of a worker process: (date, events folded, total events)


@dataclass(frozen=True)
class ParallelTask:
    """One date to project; plain values, so that it can be handed to another process.

    Attributes:
        strategies: `--strategy`, `values`: `--set`, `settings`: tables of the settings file, by strategy.
        toggles: the artefact toggles given to the command, by setting name; the others are as recorded.
        bars: trade on bars instead of quotes; None = no.
    """

    root: str
    trading_date: str
    out: str | None
    symbols: tuple[str, ...] | None
    force: bool
    salvage: bool = False
    strategies: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    settings: tuple[tuple[str, dict[str, Any]], ...] = ()
    toggles: dict[str, bool] = field(default_factory=dict)
    bars: BarsAsk | None = None


@dataclass(frozen=True)
class TaskFailure:
    """A date that could not be projected: the error's line and exit code."""

    trading_date: str
    what: str
    exit_code: int

    def error(self) -> HarvesterError:
        """The error to raise in the parent process."""
        error = HarvesterError(self.what)
        error.exit_code = self.exit_code  # of the error in the other process
        return error


def dates_of(home: Home, named: Sequence[str], first: str | None, last: str | None) -> list[date]:
    """The requested dates: those named, and every recorded one from `first` to `last`, in order, each once.

    Raises:
        BadSetting: no date was given, or nothing was recorded between the two.
    """
    found = {parse_date(text) for text in named}
    if first is not None or last is not None:
        begin, end = parse_date(first or "0001-01-01"), parse_date(last or "9999-12-31")
        between = {day for day in map(parse_date, recorded_dates(home)) if begin <= day <= end}
        if not between:
            raise BadSetting(f"no date is recorded from {begin} to {end} under {home.root}; see `hv log ls`")
        found |= between
    if not found:
        raise BadSetting("no date given; use --date, or --from and --to for a range")
    return sorted(found)


def trade_date_on_bars(task: ParallelTask, progress: Progress | None = None) -> BarsSummary:
    """Trade one date on its bars, as `ParallelTask.bars` says."""
    home, day = Home(Path(task.root)), parse_date(task.trading_date)
    assert task.bars is not None, "the task is to trade on bars"
    log = open_day(day, home, check=False)
    library: Library = KeptStrategies(home)
    if task.strategies:
        library = GivenStrategies(load_all(task.strategies, dict(task.settings), task.values))
    folder = (home.exports() if task.out is None else Path(task.out)) / FOLDER
    given: dict[str, Any] = {"toggles": task.toggles, "live": being_recorded(home, log), "progress": progress}
    return project_bars(log, folder, library, task.bars, **given)


def project_date(task: ParallelTask, progress: Progress | None = None, disk: Disk | None = None) -> ProjectedSummary:
    """Project one date, unless its log, the code, the options and the files are unchanged since the last time."""
    home, day = Home(Path(task.root)), parse_date(task.trading_date)
    out = None if task.out is None else Path(task.out)
    library: Library = KeptStrategies(home)
    given: list[LoadedStrategy] = []
    if task.strategies:
        given = load_all(task.strategies, dict(task.settings), task.values)
        library = GivenStrategies(given)
        out = out or folder_of(home, given)
    # Without --salvage the fold compares checksums while it reads, in other threads.
    log = open_day(day, home, check=task.salvage, salvage=task.salvage)
    if log.damages:
        return _salvaged(log, home, out, task, progress, library=library, disk=disk)
    live = being_recorded(home, log)
    names = [f"{one.ref.name} {one.ref.digest}" for one in given]
    memo = ProjectMemo(home, log, out, task.symbols, toggles=task.toggles, live=live, strategies=names, disk=disk)
    if not task.force and (before := memo.unchanged()) is not None:
        try:
            log.check()  # nothing else reads the log: compare every byte here
        except DamagedLog:
            open_day(day, home)  # raises the same error, unless the log was compacted meanwhile
        return before
    made = fold_day(log, progress, library=library).with_toggles(task.toggles)
    written = write_artefacts(made, home, out, task.symbols, disk, live=live)
    if given and task.out is None and task.symbols is None:
        written.files += write_folder(home, made, given, live=live, disk=disk)
    summary = summary_of(made, written)
    summary.strategies = names
    memo.keep(summary)
    return summary


def _salvaged(
    log: Day,
    home: Home,
    out: Path | None,
    task: ParallelTask,
    progress: Progress | None,
    *,
    library: Library,
    disk: Disk | None,
) -> ProjectedSummary:
    """Project the good part of a damaged date into a separate folder, apart from the date's artefacts."""
    if not log.good:
        raise damaged_log(log.damages, log.good)
    made = fold_day(log, progress, library=library).with_toggles(task.toggles)
    folder = (out or home.exports()) / SALVAGED
    live = recorder_holds(home.on(log.trading_date))
    summary = summary_of(made, write_artefacts(made, home, folder, task.symbols, disk, live=live))
    summary.good, summary.lost = list(log.good), [str(damage) for damage in log.damages]
    return summary


def project_dates(
    tasks: Sequence[ParallelTask], jobs: int = 1, progress: Progress | None = None
) -> Iterator[ProjectedSummary | BarsSummary | TaskFailure]:
    """Project dates, `jobs` at a time; results are in the order of the tasks. A failing date does not stop the others.

    `progress` is called with (events folded, total events) over all dates; a date that is skipped or fails counts as
    folded from then on.
    """
    if jobs < 1:
        raise BadSetting(f"--jobs {jobs} is too small; it must be 1 or more")
    many = progress is not None and len(tasks) > 1
    seen = {task.trading_date: (0, _events(task)) for task in tasks} if many else {}
    for task, result in zip(tasks, _results(tasks, jobs, seen, progress), strict=True):
        if many:
            total = seen[task.trading_date][1]
            _hear(seen, progress, task.trading_date, total, total)
        yield result


def _events(task: ParallelTask) -> int:
    """Number of events of a date according to its journals; 0 when it cannot be opened, which is reported later."""
    try:
        return open_day(task.trading_date, Home(Path(task.root)), check=False).rows
    except HarvesterError:
        return 0


def _results(
    tasks: Sequence[ParallelTask], jobs: int, seen: dict[str, tuple[int, int]], progress: Progress | None
) -> Iterator[ProjectedSummary | BarsSummary | TaskFailure]:
    if jobs == 1 or len(tasks) == 1:
        for task in tasks:
            yield _attempt(task, partial(_hear, seen, progress, task.trading_date))
        return
    from harvester.projections.market import kernels  # noqa: F401 - compiled here once, not in every process

    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), context, initializer=_begin, initargs=(queue,))
    with pool:
        futures = [pool.submit(_work, task) for task in tasks]
        try:
            for future in futures:
                while not future.done():
                    wait([future], _LOOK_S, FIRST_COMPLETED)
                    while not queue.empty():
                        _hear(seen, progress, *queue.get())
                yield future.result()
        finally:
            _cancel(futures)


def _cancel(futures: Sequence[Future[Any]]) -> None:
    for future in futures:
        future.cancel()


def _hear(seen: dict[str, tuple[int, int]], progress: Progress | None, name: str, done: int, total: int) -> None:
    """Note the progress of one date, which never decreases, and report the sum over all dates."""
    before = seen.get(name, (0, 0))
    seen[name] = (max(done, before[0]), max(total, before[1]))
    if progress:
        progress(sum(one for one, _ in seen.values()), sum(one for _, one in seen.values()))


def _begin(queue: Any) -> None:
    global _progress_queue  # noqa: PLW0603 - one per worker process
    _progress_queue = queue


def _work(task: ParallelTask) -> ProjectedSummary | BarsSummary | TaskFailure:
    return _attempt(task, lambda done, total: _progress_queue.put((task.trading_date, done, total)))


def _attempt(task: ParallelTask, progress: Progress | None) -> ProjectedSummary | BarsSummary | TaskFailure:
    try:
        return trade_date_on_bars(task, progress) if task.bars else project_date(task, progress)
    except HarvesterError as error:
        return TaskFailure(task.trading_date, str(error), error.exit_code)
