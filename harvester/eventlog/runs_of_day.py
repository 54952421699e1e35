"""Find the runs of a date, in `temp/` and in the archive, and check them against each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harvester.errors import DamagedFile, DamagedLog, NoLog
from harvester.eventlog.closed_runs import differences_from_mark
from harvester.eventlog.eod_mark import closed_dates, gone_text, read_closed
from harvester.eventlog.quarantine import NOTES, covered, quarantine_damages, read_quarantine_notes
from harvester.eventlog.run import RunLog
from harvester.eventlog.storage.damage import Damage, damaged_log, joined
from harvester.eventlog.storage.format import MANIFEST, run_number
from harvester.home import parse_date
from harvester.units import BEFORE_ALL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    from harvester.eventlog.eod_mark import EodMark
    from harvester.eventlog.quarantine import QuarantineNote
    from harvester.home import DatePaths, Home


def recorded_dates(home: Home) -> list[str]:
    """Every date that has a folder of events or an archive, `yyyy-MM-dd`, in order."""
    folders = (home.events, home.memory / "archive")
    names = {child.name for folder in folders if folder.is_dir() for child in folder.iterdir() if _is_date(child)}
    return sorted(name for name in names)


def newest_date(home: Home) -> date:
    """The latest recorded date; when there is none, the latest date whose log was deleted.

    Raises:
        NoLog: nothing is recorded.
    """
    names = recorded_dates(home) or closed_dates(home)
    if not names:
        raise NoLog(f"nothing is recorded under {home.root}; start with hv record, or name another --home")
    return parse_date(names[-1])


def _is_date(path: Path) -> bool:
    name = path.name
    return len(name) == 10 and name.replace("-", "").isdecimal() and path.is_dir()


def run_folders(paths: DatePaths) -> list[Path]:
    """Folders of the date's runs, in order; for a run in both, the folder in `temp/` is taken, not the archive's."""
    folders: dict[int, Path] = {}
    for base in (paths.archive, paths.log):
        for child in base.iterdir() if base.is_dir() else ():
            number = run_number(child.name)
            if number is not None and child.is_dir():
                folders[number] = child
    return [folders[number] for number in sorted(folders)]


def read_runs(paths: DatePaths, *, none_allowed: bool = False) -> list[RunLog]:
    """Read manifests and journals of a date; with `none_allowed`, a date without runs is not an error.

    Raises:
        NoLog: there is no run.
        DamagedLog: there is no run, and `hv eod` has not deleted those it closed the date with.
        FutureFormat: a newer version wrote one.
    """
    folders = run_folders(paths)
    if not folders and not none_allowed and not (paths.log / NOTES).exists():
        if (closed := read_closed(paths)) is not None:
            if lost := differences_from_mark(paths, [], closed):
                raise _lost(lost)
            raise NoLog(gone_text(paths.home, closed))
        known = recorded_dates(paths.home)
        hint = (
            f"latest recorded dates: {', '.join(known[-3:])}"
            if known
            else f"nothing is recorded under {paths.home.root}"
        )
        raise NoLog(f"no log of {paths.trading_date} under {paths.home.root}; {hint}")
    runs = [RunLog(folder) for folder in folders]
    for run in runs:
        run.refresh()
    return runs


def _lost(lost: list[Damage]) -> DamagedLog:
    error = damaged_log(lost, ())
    again = f"or move {error.file} away to record the date again from seq 1"
    return DamagedLog(error.file, error.offset, error.what, (), f"restore the date from a backup, {again}")


def read_marks(paths: DatePaths) -> tuple[EodMark | None, list[QuarantineNote], list[Damage]]:
    """The end-of-day mark and the quarantine notes, and the damage of those that cannot be read, for salvage."""
    closed, notes, damages = None, [], []
    try:
        closed = read_closed(paths)
    except DamagedFile as error:
        damages.append(Damage(Path(error.file), 0, f"{error.what}; {error.move}"))
    try:
        notes = read_quarantine_notes(paths)
    except DamagedFile as error:
        damages.append(Damage(Path(error.file), error.offset, f"{error.what}; {error.move}"))
    return closed, notes, damages


def between_runs(
    runs: Sequence[RunLog], closed: EodMark | None, day: Path, notes: Sequence[QuarantineNote] = ()
) -> list[Damage]:
    """Damage visible only across runs: a run is missing or quarantined, or time decreases from one run to the next.

    Args:
        runs: the date's runs.
        closed: the end-of-day mark, if the date was folded.
        day: the date's folder, which holds the quarantine notes.
        notes: the quarantine notes.
    """
    damages = quarantine_damages(day, notes)
    expected, last_ts = 1, BEFORE_ALL
    if closed is not None and runs and runs[0].first_seq == closed.last_seq + 1:
        expected, last_ts = closed.last_seq + 1, closed.last_ts or last_ts
    elif closed is not None and runs and runs[0].first_seq - 1 in [run.last_seq for run in closed.runs]:
        # Folded and deleted, reopened, and folded again: the mark names the deleted runs as well.
        expected = runs[0].first_seq
    for run in runs:
        if run.manifest is None:  # its first seq is unknown; that damage is listed already
            expected = run.last_seq + 1 if run.commits else 0
            continue
        wrong = run.first_seq < expected or not covered(expected, run.first_seq - 1, notes)
        if expected and wrong:
            what = f"the run begins at seq {run.first_seq}, expected {expected}"
            damages.append(Damage(run.folder / MANIFEST, 0, what, min(expected, run.first_seq), run.first_seq - 1))
        if run.commits:
            if run.commits[0].first_ts < last_ts:
                what = f"ts_recv {run.commits[0].first_ts} is before {last_ts}, the last of the previous run"
                damages.append(Damage(run.folder / MANIFEST, 0, what))
            last_ts = run.commits[-1].last_ts
        expected = run.last_seq + 1 if not run.damages else 0
    return damages


def good_ranges(runs: Iterable[RunLog]) -> tuple[tuple[int, int], ...]:
    """Closed ranges of seq that can be read."""
    return joined(
        (line.first_seq, line.last_seq) for run in runs for i, line in enumerate(run.commits) if i not in run.bad
    )
