"""`hv verify`: compare the log with its checksums, live digests with replay, and the files on disk with the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from harvester.artefacts.episode_files import compare_day, made_by_older_rules, superseded
from harvester.calendar import iso
from harvester.errors import CodeChanged, DamagedLog, Mismatch
from harvester.eventlog.verify_log import verify_day
from harvester.events.kinds import Action, Kind
from harvester.memory.chain import damage_of_memory
from harvester.memory.strategy_files import KeptStrategies
from harvester.projections.market.book import NO_BOOKS
from harvester.projections.reconcile_streams import Reconciler, check_rows
from harvester.projections.run_params import RunParams, package_digest
from harvester.rebuild.exports import FilesPart, compare_exports
from harvester.rebuild.project import fold_day, recorder_holds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harvester.eventlog.reader import Day, Mark
    from harvester.home import DatePaths, Home
    from harvester.projections.engine import Engine
    from harvester.projections.reconcile_streams import Reconciled
    from harvester.projections.trading.strategies import Library
    from harvester.rebuild.project_result import ProjectResult


TRADING = "trading"  # the projection that another process may have folded, too late for a digest


class LogPart(msgspec.Struct, kw_only=True):
    """The result of re-reading every byte of the log."""

    events: int
    bytes: int
    runs: int
    identity: str
    problems: list[str]
    notes: list[str]


class LivePart(msgspec.Struct, kw_only=True):
    """The comparison of live digests with replay.

    Attributes:
        points: number of live digests in the log.
        equal: how many of them replay gives too.
        books: of the equal ones, how many cover live books; at the end of a day no book is live.
        untraded: of the equal ones, how many do not cover trading: its process was late.
        changed: how many were written by different code and cannot be compared.
        mismatches: (run, seq, projections) where the same code gave another digest.
    """

    points: int = 0
    equal: int = 0
    books: int = 0
    untraded: int = 0
    changed: int = 0
    mismatches: list[tuple[str, int, list[str]]] = []


class StreamsPart(msgspec.Struct, kw_only=True):
    """The comparison of the streams with each other, as in `hv health`: information, never a failure.

    Attributes:
        checks: number of comparisons by symbol and hour; `measured` of them had data to compare.
        outside: those outside their tolerance, as returned by `check_rows`.
    """

    checks: int = 0
    measured: int = 0
    outside: list[dict[str, Any]] = []


class VerifyResult(msgspec.Struct, kw_only=True):
    """The whole report; `files` are the episodes; `exit_code` is 0 clean, 1 damaged, 11 not equal, 12 other code.

    `memory` lists what of memory differs from what was written, of any date. `broken_off` names the last run if it was
    killed and no recorder has continued it; its files are still compared.
    """

    trading_date: str
    log: LogPart
    live: LivePart
    files: FilesPart = msgspec.field(default_factory=FilesPart)
    exports: FilesPart = msgspec.field(default_factory=FilesPart)
    streams: StreamsPart = msgspec.field(default_factory=StreamsPart)
    broken_off: str = ""
    memory: list[str] = []
    digests: dict[str, str] = {}
    exit_code: int = 0


def verify(paths: DatePaths, progress: Callable[[str, int, int], None] = lambda *_: None) -> VerifyResult:
    """Check a date; `progress` is called with (step, done, total).

    Raises:
        NoLog: nothing was recorded on that date.
        FutureFormat: a newer Harvester wrote it.
        CodeChanged: a strategy of the user has no copy.
    """
    held = recorder_holds(paths)
    report = verify_day(paths, lambda done, total: progress("log", done, total))
    log = LogPart(
        events=report.rows,
        bytes=report.n_bytes,
        runs=len(report.runs),
        identity=report.identity,
        problems=[str(problem) for problem in report.problems],
        notes=list(report.notes),
    )
    found = VerifyResult(trading_date=paths.trading_date.isoformat(), log=log, live=LivePart())
    found.memory = [str(damaged) for damaged in damage_of_memory(paths.home)]
    if not report.clean:
        found.exit_code = DamagedLog.exit_code
        found.files.note = found.exports.note = "not compared: the log is damaged"
        return found
    day = report.day()
    made = _replay(day, found, lambda done, total: progress("replay", done, total), KeptStrategies(paths.home))
    found.digests = made.digests
    if held or recorder_holds(paths):
        found.files.note = found.exports.note = "not compared: the day is being recorded"
    else:
        found.broken_off = _broken_off(day)
        left = _Remaining(made, day.marks()) if found.broken_off else None
        found.files, found.exports = _episodes(paths.home, made, left), compare_exports(paths.home, made)
    if found.memory:
        found.exit_code = DamagedLog.exit_code
    elif found.live.mismatches or found.files.differences or found.exports.differences:
        found.exit_code = Mismatch.exit_code
    elif found.live.changed:
        found.exit_code = CodeChanged.exit_code
    return found


def _replay(day: Day, found: VerifyResult, progress: Callable[[int, int], None], library: Library) -> ProjectResult:
    """Fold the date once; compare the live digests and the streams on the way."""
    lines, live = day.live_digests(), found.live
    code, mine = _code_of_runs(day), package_digest()
    compared, reconciler = {seq for _, seq, _ in lines}, Reconciler(day)
    seen: dict[int, dict[str, str]] = {}

    def at_cut(seq: int, engine: Engine) -> None:
        if seq in compared:
            seen[seq] = engine.digests()
        reconciler.at_cut(seq, engine)

    def at_end(engine: Engine) -> None:
        found.streams = _streams(reconciler.result(engine))

    made = fold_day(day, progress, sorted(compared.union(reconciler.cuts)), at_cut, at_end, library=library)
    for run, seq, digests in lines:
        live.points += 1
        now = seen.get(seq, {})
        untraded = TRADING not in digests
        if code.get(run) != mine:
            live.changed += 1
        elif now and digests == {name: now[name] for name in now if name != TRADING or not untraded}:
            live.equal += 1
            live.books += digests.get("book", NO_BOOKS) != NO_BOOKS
            live.untraded += untraded
        else:
            live.mismatches.append((run, seq, sorted(k for k in {*digests, *now} if digests.get(k) != now.get(k))))
    return made


def _streams(of: Reconciled) -> StreamsPart:
    return StreamsPart(checks=len(of.checks), measured=len(of.measured()), outside=check_rows(of.outside()))


def _code_of_runs(day: Day) -> dict[str, str]:
    """Run → digest of the package that recorded it, from its start event."""
    starts = [row for row in day.table(Kind.REQUEST).to_pylist() if row["action"] == Action.RUN_START.value]
    begun = {row["seq"]: RunParams.parse(row["params"], row["seq"]).package.get("digest", "") for row in starts}
    return {run.run: begun.get(run.first_seq, "") for run in day.runs}


def _broken_off(day: Day) -> str:
    """The run that was killed, and where its log ends; "" when all runs have ended."""
    if day.complete:
        return ""
    run = next(run for run in reversed(day.runs) if run.status == "running")
    return f"{run.run}, last event {iso(day.last_ts) if day.last_ts else 'none'}"


class _Remaining:
    """Files a killed recorder may not have finished: it writes an episode's file after the commit that ends it."""

    def __init__(self, made: ProjectResult, marks: Sequence[Mark]) -> None:
        last_commit = marks[-2].last_seq if len(marks) > 1 else 0
        late = [text for text in made.documents if _through(text) > last_commit]
        self._files = set(made.files(late))
        self._half = {f"{folder}/.{name}.new" for folder, _, name in (n.rpartition("/") for n in self._files)}

    def undone(self, name: str, what: str) -> str:
        """Why a file is missing or incomplete; "" when the kill does not explain it."""
        if what == "missing" and name in self._files:
            return "not written before the recorder was killed; the next `hv record` or `hv project` writes it"
        if what == "unexpected" and name in self._half:
            return "half written when the recorder was killed; the next `hv record` or `hv project` replaces it"
        return ""


def _through(document: str) -> int:
    return msgspec.json.decode(document, type=_Findings).through_seq


class _Findings(msgspec.Struct):
    """The seq through which an episode's document was derived."""

    through_seq: int


def _episodes(home: Home, made: ProjectResult, left: _Remaining | None) -> FilesPart:
    """Compare the episode files; files that only `hv project` writes or deletes after the day are not differences."""
    folder = home.on(made.trading_date).episodes
    if not folder.is_dir() and made.documents:
        return FilesPart(note=f"not compared: no files; `hv project` writes the {len(made.documents)} episodes")
    files, other = made.versions(folder)
    different = compare_day(folder, files, other)
    gone = superseded(different, made.documents)
    open_at_end = set(made.files(made.open_at_end))
    found = FilesPart(checked=len(files))
    older = any(d.what != "missing" and made_by_older_rules(d.path) for d in different)
    for path, what in ((d.path, d.what) for d in different):
        name, said = path.relative_to(folder).as_posix(), path.relative_to(home.root).as_posix()
        if older and (what == "missing" or made_by_older_rules(path)):
            early = "made by an older Harvester; `hv project` replaces it"
            if what == "missing":
                early = "not written by the older Harvester that wrote the others; `hv project` writes it"
        elif path in gone:
            early = "of an earlier export of the unfinished day; `hv project` deletes it"
        elif what == "missing" and name in open_at_end:
            early = "open when the run broke off" if left else "open when the day ended; `hv project` writes it"
        else:
            early = left.undone(name, what) if left else ""
        if early:
            found.early.append(f"{said}: {early}")
            found.checked -= what == "missing"
        else:
            found.differences.append(f"{said}: {what}")
    return found.judged()
