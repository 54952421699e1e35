"""`hv eod`: fold a finished date into memory, and delete what is proven to be kept elsewhere.

The order is the point:

    lock → verify → project → compare → datasets, journal → version → read back → latest → close → archive → list →
    delete

Every step may be the last one of a process that is killed; running again finishes the job and counts nothing twice,
because every file is a function of the log and of the days before, and files that are already right are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harvester.artefacts.episode_files import Difference, compare_day, superseded
from harvester.artefacts.table_files import about as about_of
from harvester.artefacts.table_files import read_parquet
from harvester.calendar import iso
from harvester.endofday import datasets as kept
from harvester.endofday import deletion
from harvester.endofday.finished import must_be_over
from harvester.errors import CannotRun, HarvesterError, Mismatch, NoLog
from harvester.eventlog import archive as archiving
from harvester.eventlog.compact import CANDIDATE
from harvester.eventlog.eod_mark import ClosedRun, EodMark, closed_path, read_closed, write_closed
from harvester.eventlog.lock import DateLock
from harvester.eventlog.quarantine import NOTES
from harvester.eventlog.reader import open_day
from harvester.eventlog.recover import recover_held
from harvester.eventlog.storage.damage import damaged_log
from harvester.eventlog.storage.format import DELETION, MANIFEST, QUARANTINE, names_of
from harvester.eventlog.verify_log import verify_day
from harvester.files import Disk, naming, put
from harvester.memory import fold_days as memory_fold
from harvester.rebuild.project import fold_day

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harvester.eventlog.reader import Day
    from harvester.home import DatePaths, Home
    from harvester.rebuild.project_result import ProjectResult

STEPS = (
    "lock",
    "verify",
    "project",
    "compare",
    "datasets",
    "journal",
    "version",
    "read_back",
    "latest",
    "close",
    "archive",
    "list",
    "delete",
    "done",
)

NOT_CONFIRMED = "not confirmed"


@dataclass(frozen=True)
class EodOptions:
    """What `hv eod` was asked for, and how it is watched.

    Attributes:
        unfinished: fold a date although its last run broke off before the session's end.
        at: told the name of each step before it begins.
        progress: told (step, done, total) while a step reads the log.
        confirm: shown the deletion list; False leaves everything in place.
    """

    parquet: bool = False
    delete_temp: bool = False
    archive: bool = False
    allow_not_live: bool = False
    unfinished: bool = False
    disk: Disk = field(default_factory=Disk)
    at: Callable[[str], None] = lambda _: None
    progress: Callable[[str, int, int], None] = lambda *_: None
    confirm: Callable[[deletion.DeletionPlan], bool] = lambda _: True


@dataclass
class EodReport:
    """What was done. `stopped` says why nothing was deleted although it was asked for."""

    trading_date: str
    content_hash: str = ""
    through_seq: int = 0
    episodes: int = 0
    learned: int = 0
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

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        made = dict(vars(self))
        made["differences"] = [{"path": str(d.path), "what": d.what} for d in self.differences]
        return made


def eod(paths: DatePaths, wishes: EodOptions | None = None) -> EodReport:
    """Fold a date.

    Raises:
        LockHeld: it is being recorded, or folded by somebody else.
        CannotRun: its session is not over; nothing is touched.
        NoLog: nothing was recorded on it.
        DamagedLog: its log is not what was written; nothing is touched.
        Mismatch: something written reads back otherwise.
    """
    wishes = wishes or EodOptions()
    report = EodReport(paths.trading_date.isoformat())
    wishes.at("lock")
    with DateLock(paths, "eod"):
        _settle(paths, wishes.disk)
        if _finished_before(paths, wishes, report):
            return report
        size = _admit(paths, wishes)
        recovered = recover_held(paths, wishes.disk).recovered
        report.notes += [str(recovery) for recovery in recovered]
        wishes.at("verify")
        _verify(paths, wishes, size)
        wishes.at("project")
        day = open_day(paths.trading_date, paths.home)
        made = fold_day(day, lambda done, total: wishes.progress("project", done, total))
        wishes.at("compare")
        _compare(paths.home, made, report)
        _keep(paths.home, day, made, wishes, report)
        if wishes.archive:
            wishes.at("archive")
            report.written += archiving.archive(paths, wishes.disk)
        if wishes.delete_temp:
            _delete(paths, made, wishes, report)
        wishes.at("done")
    return report


def _settle(paths: DatePaths, disk: Disk) -> None:
    """Make durable what a killed `hv eod` renamed or made without syncing its folder.

    What is already right is not written again, so nothing later would sync it before the log is deleted.
    """
    kept_in = (paths.archive, paths.dataset, paths.home.journal, paths.home.memory_versions)
    for folder in kept_in:
        if folder.is_dir():
            with naming(folder):
                disk.sync_folder(folder)


def _admit(paths: DatePaths, wishes: EodOptions) -> int:
    """The bytes of a log that may be folded."""
    day = open_day(paths.trading_date, paths.home)
    if not wishes.unfinished:
        must_be_over(day)
    return sum(run.n_bytes for run in day.runs)


def _verify(paths: DatePaths, wishes: EodOptions, size: int) -> None:
    done = 0

    def step(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        wishes.progress("verify", done, 2 * size)

    found = verify_day(paths, step)
    if not found.clean:
        raise damaged_log(found.problems, found.good)


def _versions(made: ProjectResult) -> list[dict[str, bytes]]:
    """The episode files under the recorded toggles first, then under every other setting of them."""
    others = [made.files(epoch_ms=ms, series_jsonl=True) for ms in (False, True)]
    return [made.files(), *others]


def _compare(home: Home, made: ProjectResult, report: EodReport) -> None:
    """Compare the episode files; those of an earlier look at the unfinished day are no difference."""
    folder, versions = home.on(made.trading_date).episodes, _versions(made)
    found = compare_day(folder, *versions)
    early = superseded(compare_day(folder, versions[0]) if found else [], made.documents)
    report.differences = [d for d in found if d.path not in early]


def _keep(home: Home, day: Day, made: ProjectResult, wishes: EodOptions, report: EodReport) -> None:
    """Write what stays, prove it, and let memory point to it."""
    episodes = kept.episodes_of(made, home, day.first_seq)
    datasets = kept.dataset_files(
        made, home, episodes, day.first_seq, parquet=wishes.parquet, allow_not_live=wishes.allow_not_live
    )
    journal = kept.journal_files(made, home, episodes)
    before = _latest(home.on(made.trading_date))
    wishes.at("datasets")
    _put_all(home, datasets, wishes, report)
    wishes.at("journal")
    _put_all(home, journal, wishes, report)
    about = about_of(read_parquet(home.on(made.trading_date).dataset / kept.EPISODES_FILE))
    learned = kept.day_of(episodes, about)
    memory = memory_fold.fold(before, learned)
    wishes.at("version")
    name, text = _version(home, memory, made, unchanged=memory is before)
    _put_all(home, {name: text}, wishes, report)
    wishes.at("read_back")
    _read_back({**datasets, **journal, name: text})
    if kept.kept_day(home.on(made.trading_date)) != learned:
        raise Mismatch(f"the kept episodes of {made.trading_date} read back otherwise than they were folded")
    wishes.at("latest")
    _put_all(home, {home.memory_latest: text}, wishes, report)
    _read_back({home.memory_latest: text})
    wishes.at("close")
    _close(home, day, made, wishes, report)
    report.content_hash, report.through_seq = made.identity, made.last_seq
    report.episodes, report.learned, report.left_out = (
        episodes.num_rows,
        sum(learned.samples.values()),
        learned.left_out,
    )
    report.pnl_usd = round(sum(group.pnl_usd for group in learned.symbols), 2)
    report.memory_hash, report.version, report.verdict = memory["hash"], str(name), memory["model"]["verdict"]


def _put_all(home: Home, files: dict[Path, bytes], wishes: EodOptions, report: EodReport) -> None:
    for path, data in files.items():
        if put(path, data, wishes.disk):
            report.written.append(path.relative_to(home.root).as_posix())


def _read_back(files: dict[Path, bytes]) -> None:
    for path, data in files.items():
        if path.read_bytes() != data:
            raise Mismatch(f"{path} reads back otherwise than it was written; nothing was deleted, check the disk")


def _latest(paths: DatePaths) -> memory_fold.Memory | None:
    """Memory before this date's turn; when its file is gone, of the other kept days."""
    try:
        return memory_fold.decode(paths.home.memory_latest.read_bytes(), str(paths.home.memory_latest))
    except FileNotFoundError:
        days = [kept.kept_day(paths.home.on(day)) for day in kept.kept_dates(paths.home) if day != paths.trading_date]
        return memory_fold.rebuild(days) if days else None


def rebuild_memory(home: Home) -> memory_fold.Memory:
    """Memory of every kept day, from nothing.

    Raises:
        HarvesterError: no day is kept.
    """
    return memory_fold.rebuild(kept.kept_day(home.on(day)) for day in kept.kept_dates(home))


def _version(home: Home, memory: memory_fold.Memory, made: ProjectResult, *, unchanged: bool) -> tuple[Path, bytes]:
    """Find this memory's version: a name never changes content, other content gets `_r2`, `_r3` and so on."""
    text = memory_fold.encode(memory)
    stamp = iso(made.last_ts // 1_000_000_000 * 1_000_000_000).translate(str.maketrans("T", "_", "-:Z"))
    base = f"memory_{made.trading_date.isoformat()}_{stamp}"
    if unchanged:
        for path in sorted(home.memory_versions.glob("memory_*.json")):
            if path.read_bytes() == text:
                return path, text
    revision = 1
    while True:
        path = home.memory_versions / (f"{base}.json" if revision == 1 else f"{base}_r{revision}.json")
        if not path.exists() or path.read_bytes() == text:
            return path, text
        revision += 1


def _close(home: Home, day: Day, made: ProjectResult, wishes: EodOptions, report: EodReport) -> None:
    runs = [ClosedRun(run.run, run.last_seq, run.content_hash) for run in day.runs if run.rows]
    earlier = read_closed(home.on(made.trading_date))
    if earlier is not None and day.first_seq > 1:
        runs = [run for run in earlier.runs if run.last_seq < day.first_seq] + runs
    closed = EodMark(made.trading_date.isoformat(), made.last_seq, made.identity, made.last_ts, runs)
    if closed == earlier:
        return
    path = closed_path(home.on(made.trading_date))
    with naming(path):
        write_closed(home, closed, made.trading_date, wishes.disk)
    if read_closed(home.on(made.trading_date)) != closed:
        raise Mismatch(f"{path} reads back otherwise than it was written")
    report.written.append(path.relative_to(home.root).as_posix())


def _doomed_folders(paths: DatePaths) -> list[Path]:
    return [paths.log, paths.episodes, paths.snapshots]


_LOG_FILES = frozenset((MANIFEST, CANDIDATE, DELETION, *names_of("stream"), *names_of("compacted")))


def _strangers(paths: DatePaths) -> list[Path]:
    """Files beside the log that nothing replaces, so that nothing may delete them; torn bytes in quarantine aside."""
    day = paths.log
    runs = archiving.runs_in(day)
    files = [p for p in sorted(day.rglob("*")) if p.is_file() and day / QUARANTINE not in p.parents]
    return [p for p in files if (p.parent not in runs or p.name not in _LOG_FILES) and p != day / NOTES]


def _to_delete(paths: DatePaths, report: EodReport) -> list[Path]:
    day = paths.log
    if not (day / QUARANTINE).exists():
        return _doomed_folders(paths)
    report.notes.append(f"{day / QUARANTINE} stays: torn bytes of a killed run, kept nowhere else")
    return [*archiving.runs_in(day), *_doomed_folders(paths)[1:]]


def plan_path(paths: DatePaths) -> Path:
    """Where a date's deletion list lies: with what replaces the deleted files."""
    return paths.dataset / "deletion.json"


def _delete(paths: DatePaths, made: ProjectResult, wishes: EodOptions, report: EodReport) -> None:
    wrong = [d for d in report.differences if d.what != "missing"]
    if wrong:
        report.stopped = f"{wrong[0].path} is {wrong[0].what}" + (f", {len(wrong) - 1} more" if len(wrong) > 1 else "")
        return
    wishes.at("list")
    where = paths.archive if archiving.holds(paths) else None
    log_kept = where.relative_to(paths.home.root).as_posix() if where else None
    listed = deletion.plan(
        paths.home, _to_delete(paths, report), paths.trading_date.isoformat(), made.identity, log_kept
    )
    if strangers := _strangers(paths):
        report.stopped = f"{strangers[0]} is not part of the log"
        return
    if not listed.files and not listed.folders:
        return  # an earlier list, if there is one, stays as the record of what went
    if not wishes.confirm(listed):
        report.stopped = NOT_CONFIRMED
        report.stays = [p.relative_to(paths.home.root).as_posix() for p in _doomed_folders(paths) if p.exists()]
        return
    deletion.write_plan(plan_path(paths), listed, wishes.disk)
    _carry_out(paths, listed, wishes, report)


def _carry_out(paths: DatePaths, listed: deletion.DeletionPlan, wishes: EodOptions, report: EodReport) -> None:
    def told(path: str) -> None:
        wishes.at("delete")
        report.deleted += 1
        wishes.progress("delete", report.deleted, len(listed.files) + len(listed.folders))
        del path

    report.stays = deletion.carry_out(paths.home, listed, wishes.disk, _doomed_folders(paths), told)
    if report.stays:
        report.stopped = report.stays[0]
        return
    done = deletion.DeletionPlan(**{name: getattr(listed, name) for name in listed.__struct_fields__} | {"done": True})
    deletion.write_plan(plan_path(paths), done, wishes.disk)


def _finished_before(paths: DatePaths, wishes: EodOptions, report: EodReport) -> bool:
    """Whether an earlier `hv eod` got so far that its deletion only has to be finished, or was finished."""
    listed = deletion.read_plan(plan_path(paths))
    closed = read_closed(paths)
    if listed is None or closed is None or listed.content_hash != closed.content_hash:
        return False
    gone = [doomed for doomed in listed.files if not (paths.home.root / doomed.path).exists()]
    if not gone:
        return False
    if listed.done or _recorded_on(paths, listed):
        return _nothing_left(paths, closed, report)
    _prove_kept(paths, closed)
    if not wishes.delete_temp:
        raise CannotRun(f"deleting the log of {paths.trading_date} had begun; finish it with --delete-temp")
    _carry_out(paths, listed, wishes, report)
    report.content_hash, report.through_seq = closed.content_hash, closed.last_seq
    report.notes.append("an earlier run had folded the date; its deletion was finished")
    return True


def _recorded_on(paths: DatePaths, listed: deletion.DeletionPlan) -> bool:
    """Whether a run began after the list: every listed one is gone then, though a cut lost the note that says so."""
    return any(
        run.relative_to(paths.home.root).as_posix() not in listed.folders for run in archiving.runs_in(paths.log)
    )


def _nothing_left(paths: DatePaths, closed: EodMark, report: EodReport) -> bool:
    try:
        open_day(paths.trading_date, paths.home)
    except NoLog:
        report.content_hash, report.through_seq = closed.content_hash, closed.last_seq
        report.notes.append("the date was folded and its log deleted before; nothing is left to do")
        return True
    return False  # archived, or recorded on again


def _prove_kept(paths: DatePaths, closed: EodMark) -> None:
    """Before going on deleting: what replaces the log is there and says so.

    Raises:
        Mismatch: it does not.
    """
    learned = kept.kept_day(paths)
    try:
        memory = memory_fold.decode(paths.home.memory_latest.read_bytes(), str(paths.home.memory_latest))
    except (OSError, HarvesterError):
        memory = None
    if learned.content_hash != closed.content_hash or memory is None or learned not in memory_fold.days_of(memory):
        raise Mismatch(
            f"{closed_path(paths)}, the kept episodes and {paths.home.memory_latest.name} do not agree; "
            "nothing more is deleted"
        )
