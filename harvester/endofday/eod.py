"""`hv eod`: fold a finished date into memory, and delete what is proven to be kept elsewhere.

`STEPS` at the end of this file is the order of the steps. It ensures that memory refers only to files that were proven,
and that nothing is deleted before the deletion list has been written.

The process may be killed in any step: the next call finishes the job and counts nothing twice, because every file is a
function of the log and of the days before, and files that are already right are not rewritten.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from harvester.artefacts.episode_files import (
    Difference,
    compare_day,
    made_by_older_rules,
    superseded,
    unwanted_series,
    write_day,
)
from harvester.artefacts.table_files import about as about_of
from harvester.artefacts.table_files import read_parquet
from harvester.endofday import datasets as kept
from harvester.endofday.finished import must_be_over
from harvester.endofday.kept_memory import MemoryChange, change, holds, must_be_readable, read_back
from harvester.errors import CannotRun, DamagedLog, Mismatch, NoLog
from harvester.eventlog import archive as archiving
from harvester.eventlog import deletion
from harvester.eventlog.closed_runs import differences_from_mark
from harvester.eventlog.compact import CANDIDATE
from harvester.eventlog.eod_mark import ClosedRun, EodMark, closed_path, list_path, read_closed, write_closed
from harvester.eventlog.lock import DateLock, memory_lock
from harvester.eventlog.quarantine import NOTES, read_quarantine_notes
from harvester.eventlog.reader import open_day
from harvester.eventlog.recover import recover_held
from harvester.eventlog.storage.damage import damaged_log
from harvester.eventlog.storage.format import DELETION, MANIFEST, QUARANTINE, names_of
from harvester.eventlog.verify_log import verify_day
from harvester.files import Disk, naming, put
from harvester.memory.chain import damage_of_memory, excluded_dates
from harvester.memory.fold_days import days_of, decode, not_pooled
from harvester.memory.old_memory import move_old, old_days, old_folder
from harvester.memory.strategy_files import KeptStrategies
from harvester.rebuild.project import fold_day

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from harvester.eventlog.reader import Day
    from harvester.home import DatePaths, Home
    from harvester.memory.day_summary import DaySummary
    from harvester.rebuild.project_result import ProjectResult

NOT_CONFIRMED = "not confirmed"
_DATES_MAX = 5  # listed in a note


@dataclass(frozen=True)
class EodOptions:
    """The options of `hv eod`, and its observers.

    Attributes:
        learn_starved: learn from a date whose recording did not keep up with market time.
        unfinished: fold a date whose last run ended before the end of the session.
        replace_closed: fold a closed date again although runs it was closed with are missing or differ.
        toggles: the artefact toggles given to the command, by setting name; the others are as recorded.
        at: called with the name of each step before it begins, `lock`, `delete` (each file) and `done` among them.
        progress: called with (step, done, total) while a step reads the log.
        confirm: called with the deletion list; False leaves everything in place.
    """

    parquet: bool = False
    delete_temp: bool = False
    archive: bool = False
    allow_not_live: bool = False
    learn_starved: bool = False
    unfinished: bool = False
    replace_closed: bool = False
    toggles: Mapping[str, bool] = field(default_factory=dict)
    disk: Disk = field(default_factory=Disk)
    at: Callable[[str], None] = lambda _: None
    progress: Callable[[str, int, int], None] = lambda *_: None
    confirm: Callable[[deletion.DeletionList], bool] = lambda _: True


@dataclass
class EodReport:
    """The result of `hv eod`.

    `kind` is where the data come from; `starved` is the pace of a date that did not keep up, empty for another one;
    `stopped` is why a requested deletion did not happen; `damaged` lists what of memory differs from what was written.
    """

    trading_date: str
    content_hash: str = ""
    through_seq: int = 0
    episodes: int = 0
    learned: int = 0
    kind: str = ""
    starved: str = ""
    left_out: dict[str, int] = field(default_factory=dict)
    pnl_usd: float = 0.0
    memory_hash: str = ""
    version: str = ""
    verdict: str = ""
    written: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    deleted: int = 0
    stays: list[str] = field(default_factory=list)
    stopped: str = ""
    damaged: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        made = dict(vars(self))
        made["differences"] = [{"path": str(d.path), "what": d.what} for d in self.differences]
        return made


@dataclass
class Folding:
    """The state of folding one date: each step reads the results of the earlier ones.

    Attributes:
        day, result: the log, and the result of its fold.
        episodes, datasets, journal: the kept episodes; bytes of the files that replace the log, by path.
        before: date and rules of the days of memory without the date.
        learned: the summary of the date in memory.
        change: what memory becomes.
        locks: of memory, held from its reading to its replacement.
    """

    paths: DatePaths
    options: EodOptions
    report: EodReport
    day: Day = field(init=False)
    result: ProjectResult = field(init=False)
    episodes: pa.Table = field(init=False)
    datasets: dict[Path, bytes] = field(init=False)
    journal: dict[Path, bytes] = field(init=False)
    before: dict[str, int] = field(init=False)
    learned: DaySummary = field(init=False)
    change: MemoryChange = field(init=False)
    locks: ExitStack = field(default_factory=ExitStack)

    def put(self, files: Mapping[Path, bytes]) -> None:
        """Write files durably; files that already have these bytes are not rewritten."""
        for path, data in files.items():
            if put(path, data, self.options.disk):
                self.report.written.append(path.relative_to(self.paths.home.root).as_posix())


def eod(paths: DatePaths, options: EodOptions | None = None) -> EodReport:
    """Fold a date: carry out `STEPS` in order, under the date's lock.

    Raises:
        LockHeld: another process records or folds the date.
        CannotRun: its session is not over; nothing is changed.
        NoLog: nothing was recorded on it.
        DamagedLog: its log is damaged, or lacks what it was closed with; nothing is changed.
        Mismatch: the read-back of a file differs from what was written.
    """
    options = options or EodOptions()
    report = EodReport(paths.trading_date.isoformat())
    options.at("lock")
    with DateLock(paths, "eod"):
        _settle(paths, options.disk)
        if not _finished_before(paths, options, report):
            _admit(paths, options)
            folding = Folding(paths, options, report)
            skipped = {"archive": not options.archive, "list": not options.delete_temp}
            with folding.locks:
                for name, step in STEPS:
                    if not skipped.get(name):
                        options.at(name)
                        step(folding)
        report.damaged = [str(damaged) for damaged in damage_of_memory(paths.home)]
        options.at("done")
    return report


def _settle(paths: DatePaths, disk: Disk) -> None:
    """Sync the folders in which a killed `hv eod` may have created or renamed files without a sync.

    Files that are already right are not rewritten, so nothing else would sync their names before the log is deleted.
    """
    home = paths.home
    versions = home.memory_versions
    kept_in = (paths.archive, paths.dataset, home.journal, old_folder(home), versions, home.memory_latest.parent)
    for folder in kept_in:
        if folder.is_dir():
            with naming(folder):
                disk.sync_folder(folder)


def _admit(paths: DatePaths, options: EodOptions) -> None:
    """Check that the date may be folded, by its journals; the next step compares checksums."""
    day = open_day(paths.trading_date, paths.home, check=False)
    if not options.replace_closed:
        _must_hold_what_was_closed(paths, day)
    if not options.unfinished:
        must_be_over(day)
    must_be_readable(paths)


def _must_hold_what_was_closed(paths: DatePaths, day: Day) -> None:
    """Reject a closed date that lost a run or holds another recording: folding it would shrink what is kept of it.

    Raises:
        DamagedLog: a run it was closed with is missing, or differs.
    """
    if lost := differences_from_mark(paths, day.logs, read_closed(paths), read_quarantine_notes(paths)):
        error = damaged_log(lost, day.good)
        move = "nothing was changed; restore it from a backup, or fold what is there with --replace-closed"
        raise DamagedLog(error.file, error.offset, error.what, error.good, move)


def _verify(folding: Folding) -> None:
    report = verify_day(
        folding.paths, lambda done, total: folding.options.progress("verify", done, total), with_mark=False
    )
    folding.day = report.day()


def _recover(folding: Folding) -> None:
    """Recover killed runs: their manifests and torn ends change, their events do not.

    A file that was cut is compared with its checksums again when it is read.
    """
    recovered = recover_held(folding.paths, folding.options.disk).recovered
    folding.report.notes += [str(recovery) for recovery in recovered]


def _project(folding: Folding) -> None:
    made = fold_day(
        folding.day,
        lambda done, total: folding.options.progress("project", done, total),
        library=KeptStrategies(folding.paths.home),
    )
    folding.result = made.with_toggles(folding.options.toggles)


def _compare(folding: Folding) -> None:
    report = folding.report
    report.differences = episode_differences(folding.paths, folding.result)
    if older := sum(made_by_older_rules(path) for path in sorted(folding.paths.episodes.rglob("*.json"))):
        more = "" if folding.options.delete_temp else "; `hv project` replaces them"
        report.notes.append(f"{older} episode files were made by older rules of simulated trading{more}")
    if folding.options.toggles and not folding.options.delete_temp and not _wrong(report):
        _rewrite_episodes(folding)


def _rewrite_episodes(folding: Folding) -> None:
    """Write the episode files with the toggles given to the command, if the date has any."""
    folder, result, disk = folding.paths.episodes, folding.result, folding.options.disk
    if not folder.is_dir():
        return
    files = result.files()
    write_day(folder, files, disk)
    found = compare_day(folder, files)
    unwanted = unwanted_series(found, folder, result.documents)
    for path in unwanted:
        disk.remove(path)
        disk.sync_folder(path.parent)
    folding.report.differences = episode_differences(folding.paths, result)


def _wrong(report: EodReport) -> list[Difference]:
    """Episode files that the projection does not explain; a missing one is not wrong."""
    return [difference for difference in report.differences if difference.what != "missing"]


def episode_differences(paths: DatePaths, result: ProjectResult) -> list[Difference]:
    """Episode files that differ from the projection, except those of an unfinished day and those of older rules."""
    versions = result.versions(paths.episodes)
    found = compare_day(paths.episodes, *versions)
    early = superseded(compare_day(paths.episodes, versions[0]) if found else [], result.documents)
    return [d for d in found if d.path not in early and not made_by_older_rules(d.path)]


def _put_datasets(folding: Folding) -> None:
    home, result, first_seq, options = folding.paths.home, folding.result, folding.day.first_seq, folding.options
    folding.episodes = kept.episodes_of(result, home, first_seq)
    folding.datasets = kept.dataset_files(
        result,
        home,
        folding.episodes,
        first_seq,
        parquet=options.parquet,
        allow_not_live=options.allow_not_live,
        learn_starved=options.learn_starved,
    )
    folding.report.kind = result.health["kind"]
    if kept.starved(result):
        folding.report.starved = kept.pace(result)
    folding.put(folding.datasets)


def _put_journal(folding: Folding) -> None:
    folding.journal = kept.journal_files(folding.result, folding.paths.home, folding.episodes)
    folding.put(folding.journal)


def _upgrade(folding: Folding) -> None:
    """Take the lock of memory, and move files of an older schema aside."""
    home = folding.paths.home
    folding.locks.enter_context(memory_lock(home))
    folding.before = _rules_by_date(home)
    moved = move_old(home, folding.options.disk)
    folding.report.written += [path.relative_to(home.root).as_posix() for path in moved]
    if moved:
        note = "memory of an older form is made again from memory/datasets; its files are in memory/versions/v1"
        folding.report.notes.append(note)


def _rules_by_date(home: Home) -> dict[str, int]:
    try:
        data = home.memory_latest.read_bytes()
    except FileNotFoundError:
        return {}
    days = old_days(data) or days_of(decode(data, str(home.memory_latest)))
    return {day.date: day.rules for day in days}


def _put_version(folding: Folding) -> None:
    about = about_of(read_parquet(folding.paths.dataset / kept.EPISODES_FILE))
    folding.learned = kept.day_of(folding.episodes, about)
    folding.change = change(folding.paths.home, {folding.learned.date: folding.learned})
    folding.report.notes += folding.change.notes + _of_rules(folding)
    folding.put(folding.change.files)


def _of_rules(folding: Folding) -> list[str]:
    """What the user must know of a date that memory does not hold, or of dates made by different rules."""
    now, memory, notes = folding.learned, folding.change.memory, list[str]()
    if folding.before.get(now.date, now.rules) != now.rules:
        notes.append(
            f"folded before by rules {folding.before[now.date]} of simulated trading, now by rules {now.rules}"
        )
    if now.date in excluded_dates(folding.paths.home):
        notes.append(f"{now.date} is excluded from memory; `hv memory undo {now.date} --include` takes it in again")
    if memory is not None and (others := not_pooled(memory)):
        listed = ", ".join(f"{day.date} (rules {day.rules})" for day in others[:_DATES_MAX])
        more = f" and {len(others) - _DATES_MAX} more" if len(others) > _DATES_MAX else ""
        notes.append(f"memory lists and does not pool the dates of other rules: {listed}{more}")
    return notes


def _prove(folding: Folding) -> None:
    """Read back the files that replace the log, before memory refers to them."""
    read_back(folding.datasets | folding.journal | folding.change.files)
    if kept.kept_day(folding.paths) != folding.learned:
        raise Mismatch(f"{folding.paths.dataset}: the kept episodes read back differ from those folded; check the disk")


def _put_latest(folding: Folding) -> None:
    if folding.change.newest is not None:
        latest = {folding.paths.home.memory_latest: folding.change.newest[1]}
        folding.put(latest)
        read_back(latest)
    folding.locks.close()


def _close(folding: Folding) -> None:
    paths, day, result, report = folding.paths, folding.day, folding.result, folding.report
    runs = [ClosedRun(run.run, run.last_seq, run.content_hash) for run in day.runs if run.rows]
    earlier = read_closed(paths)
    if earlier is not None:
        gone = [run for run in earlier.runs if run.last_seq < day.first_seq]
        runs = [msgspec.structs.replace(run, deleted=True) for run in gone] + runs
    closed = EodMark(report.trading_date, result.last_seq, result.identity, result.last_ts, runs)
    if closed != earlier:
        _put_mark(folding, closed)
    report.content_hash, report.through_seq = result.identity, result.last_seq
    report.episodes, report.learned = folding.episodes.num_rows, folding.learned.learned
    report.left_out = folding.learned.left_out
    report.pnl_usd = round(sum(group.pnl_usd for group in folding.learned.symbols), 2)
    if (memory := folding.change.memory) is not None and folding.change.newest is not None:
        report.memory_hash, report.version = memory["hash"], str(folding.change.newest[0])
        report.verdict = memory["model"]["verdict"]


def _put_mark(folding: Folding, closed: EodMark) -> None:
    paths = folding.paths
    path = closed_path(paths)
    with naming(path):
        write_closed(paths.home, closed, paths.trading_date, folding.options.disk)
    if read_closed(paths) != closed:
        raise Mismatch(f"{path}: read-back differs from what was written")
    folding.report.written.append(path.relative_to(paths.home.root).as_posix())


def _archive(folding: Folding) -> None:
    folding.report.written += archiving.archive(folding.paths, folding.options.disk, folding.day.logs)


def doomed_folders(paths: DatePaths) -> list[Path]:
    """Folders below `temp/` that are deleted with a date."""
    return [paths.log, paths.episodes, paths.snapshots]


_LOG_FILES = frozenset((MANIFEST, CANDIDATE, DELETION, *names_of("stream"), *names_of("compacted")))


def strangers(paths: DatePaths) -> list[Path]:
    """Files in the log's folder that are not part of it, so they must not be deleted; quarantine is left out."""
    day = paths.log
    runs = archiving.runs_in(day)
    files = [p for p in sorted(day.rglob("*")) if p.is_file() and day / QUARANTINE not in p.parents]
    return [p for p in files if (p.parent not in runs or p.name not in _LOG_FILES) and p != day / NOTES]


def _to_delete(paths: DatePaths, report: EodReport) -> list[Path]:
    day = paths.log
    if not (day / QUARANTINE).exists():
        return doomed_folders(paths)
    report.notes.append(f"{day / QUARANTINE} stays: torn bytes of a killed run, kept nowhere else")
    return [*archiving.runs_in(day), *doomed_folders(paths)[1:]]


def _delete(folding: Folding) -> None:
    """Write the deletion list, then delete the listed files."""
    paths, options, report = folding.paths, folding.options, folding.report
    if wrong := _wrong(report):
        report.stopped = f"{wrong[0].path} is {wrong[0].what}" + (f", {len(wrong) - 1} more" if len(wrong) > 1 else "")
        return
    where = paths.archive if archiving.holds(paths) else None
    log_kept = where.relative_to(paths.home.root).as_posix() if where else None
    root, date, identity = paths.home.root, report.trading_date, folding.result.identity
    found = deletion.found_in(root, _to_delete(paths, report))
    with naming(paths.log):
        listed = deletion.list_files(root, found, date, identity, log_kept)
    if others := strangers(paths):
        report.stopped = f"{others[0]} is not part of the log"
        return
    if not listed.files and not listed.folders:
        return  # an earlier list stays as the record of the deleted files
    if not options.confirm(listed):
        report.stopped = NOT_CONFIRMED
        report.stays = [p.relative_to(paths.home.root).as_posix() for p in doomed_folders(paths) if p.exists()]
        return
    _write_list(paths, listed, options.disk)
    _carry_out(paths, listed, options, report)


def _carry_out(paths: DatePaths, listed: deletion.DeletionList, options: EodOptions, report: EodReport) -> None:
    total, done = len(listed.files) + len(listed.folders), 0

    def progress(_: str) -> None:
        nonlocal done
        options.at("delete")
        done += 1
        options.progress("delete", done, total)

    report.stays = deletion.carry_out(paths.home.root, listed, options.disk, doomed_folders(paths), progress)
    report.deleted = done - len(report.stays)
    if report.stays:
        report.stopped = report.stays[0]
        return
    _write_list(paths, msgspec.structs.replace(listed, done=True), options.disk)


def _write_list(paths: DatePaths, listed: deletion.DeletionList, disk: Disk) -> None:
    path = list_path(paths)
    with naming(path):
        deletion.write_list(path, listed, disk)


def _finished_before(paths: DatePaths, options: EodOptions, report: EodReport) -> bool:
    """Whether an earlier `hv eod` folded the date and began to delete it; finishes that deletion."""
    listed = deletion.read_list(list_path(paths))
    closed = read_closed(paths)
    if listed is None or closed is None or listed.content_hash != closed.content_hash:
        return False
    files = [paths.home.root / one.path for one in listed.files]
    if all(path.exists() for path in files if path.is_relative_to(paths.log)):
        return False  # episodes and snapshots may also be gone for other reasons
    if listed.done or _written_since(paths, files):
        return _nothing_left(paths, closed, report)
    _prove_kept(paths, closed)
    if not options.delete_temp:
        raise CannotRun(f"the log of {paths.trading_date} is partly deleted; finish with --delete-temp")
    _carry_out(paths, listed, options, report)
    report.content_hash, report.through_seq = closed.content_hash, closed.last_seq
    report.notes.append("an earlier run had folded the date; its deletion was finished")
    return True


def _written_since(paths: DatePaths, listed: Sequence[Path]) -> bool:
    """Whether the log has files of a run that began, or was compacted, after the list was written.

    Neither happens to a run that is partly deleted: it is damaged.
    """
    files = [path for run in archiving.runs_in(paths.log) for path in run.iterdir() if path.name in _LOG_FILES]
    return not set(files) <= set(listed)


def _nothing_left(paths: DatePaths, closed: EodMark, report: EodReport) -> bool:
    try:
        open_day(paths.trading_date, paths.home, check=False)
    except NoLog:
        report.content_hash, report.through_seq = closed.content_hash, closed.last_seq
        report.notes.append("the date was folded and its log deleted before; nothing is left to do")
        return True
    return False  # archived, or recorded on again


def _prove_kept(paths: DatePaths, closed: EodMark) -> None:
    """Check, before a deletion continues, that the files that replace the log exist and agree.

    Raises:
        Mismatch: they do not.
    """
    learned = kept.kept_day(paths)
    if learned.content_hash != closed.content_hash or not holds(paths.home, learned):
        raise Mismatch(
            f"{closed_path(paths)}, the kept episodes and {paths.home.memory_latest.name} do not agree; "
            "nothing more is deleted"
        )


STEPS: tuple[tuple[str, Callable[[Folding], None]], ...] = (
    ("verify", _verify),
    ("recover", _recover),
    ("project", _project),
    ("compare", _compare),
    ("datasets", _put_datasets),
    ("journal", _put_journal),
    ("upgrade", _upgrade),
    ("version", _put_version),
    ("read_back", _prove),
    ("latest", _put_latest),
    ("close", _close),
    ("archive", _archive),  # with --archive
    ("list", _delete),  # with --delete-temp
)
"""The end of a day, in order: `eod` runs this list."""
