"""`hv verify`: is the log what was written, did live equal replay, and are the files on disk what the log gives?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from harvester.artefacts.episodes import compare_day, superseded
from harvester.errors import CodeChanged, DamagedLog, Mismatch
from harvester.eventlog.reader import open_day
from harvester.eventlog.verify import verify_day
from harvester.events.kinds import Action, Kind
from harvester.projections.params import RunParams, package_digest
from harvester.projections.reconcile import check_rows, reconcile
from harvester.recorder.exports import FilesPart, compare_exports
from harvester.recorder.project import being_recorded, fold_day

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from harvester.eventlog.reader import Day
    from harvester.home import Home
    from harvester.recorder.project import Projected


class LogPart(msgspec.Struct, kw_only=True):
    """What re-reading every byte found."""

    events: int
    bytes: int
    runs: int
    identity: str
    problems: list[str]
    notes: list[str]


class LivePart(msgspec.Struct, kw_only=True):
    """Live digests against replay.

    Attributes:
        points: digests the recorder wrote while it ran.
        equal: those replay gives too.
        changed: those written by other code than this, which cannot be compared.
        mismatches: (run, seq, projections) where the same code gave something else.
    """

    points: int = 0
    equal: int = 0
    changed: int = 0
    mismatches: list[tuple[str, int, list[str]]] = []


class StreamsPart(msgspec.Struct, kw_only=True):
    """The streams against each other, as `hv health` compares them: information, never a failure.

    Attributes:
        checks: comparisons by symbol and hour; `measured` of them had something to compare.
        outside: those beyond their tolerance, as `reconcile.check_rows` gives them.
    """

    checks: int = 0
    measured: int = 0
    outside: list[dict[str, Any]] = []


class Verified(msgspec.Struct, kw_only=True):
    """The whole report; `files` are the episodes; `exit_code` is 0 clean, 1 damaged, 11 not equal, 12 other code."""

    trading_date: str
    log: LogPart
    live: LivePart
    files: FilesPart = msgspec.field(default_factory=FilesPart)
    exports: FilesPart = msgspec.field(default_factory=FilesPart)
    streams: StreamsPart = msgspec.field(default_factory=StreamsPart)
    digests: dict[str, str] = {}
    exit_code: int = 0


def verify(home: Home, trading_date: date, progress: Callable[[str, int, int], None] | None = None) -> Verified:
    """Check a date; `progress` is told (what, done, total).

    Raises:
        NoLog: nothing was recorded on that date.
        FutureFormat: a newer Harvester wrote it.
    """
    report = verify_day(home, trading_date, (lambda n: progress("log", n, 0)) if progress else None)
    log = LogPart(
        events=report.rows,
        bytes=report.n_bytes,
        runs=len(report.runs),
        identity=report.identity,
        problems=[str(problem) for problem in report.problems],
        notes=list(report.notes),
    )
    found = Verified(trading_date=trading_date.isoformat(), log=log, live=LivePart())
    if not report.clean:
        found.exit_code = DamagedLog.exit_code
        found.files.note = found.exports.note = "not compared: the log is damaged"
        return found
    day = open_day(trading_date, home)
    made = _replay(day, found.live, (lambda done, total: progress("replay", done, total)) if progress else None)
    found.digests = made.digests
    found.streams = _streams(day)
    if being_recorded(home, day):
        found.files.note = found.exports.note = "not compared: the day is being recorded"
    else:
        found.files, found.exports = _episodes(home, made), compare_exports(home, made)
    if found.live.mismatches or found.files.differences or found.exports.differences:
        found.exit_code = Mismatch.exit_code
    elif found.live.changed:
        found.exit_code = CodeChanged.exit_code
    return found


def _replay(day: Day, live: LivePart, progress: Callable[[int, int], None] | None) -> Projected:
    lines = day.live_digests()
    code, mine = _code_of_runs(day), package_digest()
    seen: dict[int, dict[str, str]] = {}
    made = fold_day(day, progress, sorted({seq for _, seq, _ in lines}), seen.__setitem__)
    for run, seq, digests in lines:
        live.points += 1
        if code.get(run) != mine:
            live.changed += 1
        elif seen.get(seq) == digests:
            live.equal += 1
        else:
            now = seen.get(seq, {})
            live.mismatches.append((run, seq, sorted(k for k in {*digests, *now} if digests.get(k) != now.get(k))))
    return made


def _streams(day: Day) -> StreamsPart:
    found = reconcile(day)
    measured = sum(check.verdict != "not measured" for check in found.checks)
    return StreamsPart(checks=len(found.checks), measured=measured, outside=check_rows(found.outside()))


def _code_of_runs(day: Day) -> dict[str, str]:
    """Run → digest of the package that recorded it, from its start event."""
    starts = [row for row in day.table(Kind.REQUEST).to_pylist() if row["action"] == Action.RUN_START.value]
    begun = {row["seq"]: RunParams.parse(row["params"], row["seq"]).package.get("digest", "") for row in starts}
    return {run.run: begun.get(run.first_seq, "") for run in day.runs}


def _episodes(home: Home, made: Projected) -> FilesPart:
    """The episode files; what only `hv project` writes or takes away at a day's end may still be to do."""
    folder = home.episodes(made.trading_date)
    if not folder.is_dir() and made.documents:
        return FilesPart(note=f"not compared: no files; `hv project` writes the {len(made.documents)} episodes")
    files = made.files()
    different = compare_day(folder, files)
    gone = superseded(different, made.documents)
    late = {folder / name for name in made.files(made.open_at_end)}
    found = FilesPart(checked=len(files))
    for path, what in ((d.path, d.what) for d in different):
        name = path.relative_to(home.root).as_posix()
        if path in gone:
            found.early.append(f"{name}: of an earlier look at the unfinished day; `hv project` takes it away")
        elif what == "missing" and path in late:
            found.early.append(f"{name}: open when the day ended; `hv project` writes it")
            found.checked -= 1
        else:
            found.differences.append(f"{name}: {what}")
    return found
