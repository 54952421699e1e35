"""Compare the runs of a closed date with its end-of-day mark: none may be missing, shorter or another recording.

A run may be missing only if `hv eod` deleted it for good: the mark says so, or the deletion list names it and promises
no archive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.errors import DamagedFile
from harvester.eventlog.deletion import read_list
from harvester.eventlog.eod_mark import closed_path, list_path
from harvester.eventlog.storage.content_hash import combined
from harvester.eventlog.storage.damage import Damage
from harvester.eventlog.storage.format import DELETION, run_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.eventlog.deletion import DeletionList
    from harvester.eventlog.eod_mark import ClosedRun, EodMark
    from harvester.eventlog.quarantine import QuarantineNote
    from harvester.eventlog.run import RunLog
    from harvester.home import DatePaths


def differences_from_mark(
    paths: DatePaths, runs: Sequence[RunLog], closed: EodMark | None, notes: Sequence[QuarantineNote] = ()
) -> list[Damage]:
    """What of a closed date is missing or differs from its mark; journals are compared, not events.

    Args:
        paths: the date.
        runs: its runs; damaged and quarantined ones have been reported and are left out.
        closed: its mark, None for an open date.
        notes: its quarantine notes.
    """
    if closed is None or closed.last_seq == 0:
        return []
    try:
        listed = read_list(list_path(paths))
    except DamagedFile as error:
        return [Damage(list_path(paths), error.offset, f"{error.what}; {error.move}")]
    if closed.runs:
        return _by_run(paths, runs, closed, listed, {note.run for note in notes})
    return _by_date(paths, runs, closed, listed)


def _by_run(
    paths: DatePaths, runs: Sequence[RunLog], closed: EodMark, listed: DeletionList | None, quarantined: set[str]
) -> list[Damage]:
    present = {log.run: log for log in runs}
    found, before = list[Damage](), 0
    for one in closed.runs:
        log, first, before = present.get(one.run), before + 1, one.last_seq
        if log is None and one.run not in quarantined and not _deleted_for_good(paths, one, listed):
            lost = f"in {listed.log_kept}/{one.run}, as {DELETION} promises, " if listed and listed.log_kept else ""
            what = f"the date was closed with {one.run} through seq {one.last_seq}, and {lost}that run is missing"
            found.append(Damage(closed_path(paths), 0, what, first, one.last_seq))
        elif log is not None and not log.damages and (log.last_seq, _content(log)) != (one.last_seq, one.content_hash):
            what = (
                f"the date was closed with {one.run} through seq {one.last_seq}, content {one.content_hash[:12]}; "
                f"{log.folder} holds another recording: through seq {log.last_seq}, content {_content(log)[:12]}"
            )
            found.append(Damage(closed_path(paths), 0, what))
    return found


def _by_date(paths: DatePaths, runs: Sequence[RunLog], closed: EodMark, listed: DeletionList | None) -> list[Damage]:
    """For a mark of an early version, which names no runs: the date's last seq and content hash."""
    present = [log for log in runs if log.commits]
    if any(log.damages for log in runs):
        return []
    if not present or present[0].first_seq == closed.last_seq + 1:
        if listed is None or listed.log_kept is None:
            return []
        what = f"the date was closed through seq {closed.last_seq}, and its archive {listed.log_kept} is missing"
        return [Damage(closed_path(paths), 0, what, 1, closed.last_seq)]
    then = [log for log in present if log.last_seq <= closed.last_seq]
    last_seq = then[-1].last_seq if then else 0
    whole = present[0].first_seq == 1 and last_seq == closed.last_seq
    if last_seq != closed.last_seq or (whole and combined(_content(log) for log in then) != closed.content_hash):
        what = f"the date was closed through seq {closed.last_seq}, content {closed.content_hash[:12]}; it holds "
        what += f"another recording: through seq {last_seq}" if last_seq != closed.last_seq else "other events"
        return [Damage(closed_path(paths), 0, what)]
    return []


def _content(log: RunLog) -> str:
    return log.commits[-1].content if log.commits else ""


def _deleted_for_good(paths: DatePaths, run: ClosedRun, listed: DeletionList | None) -> bool:
    """Whether `hv eod` deleted a run without an archive: by this list, or by one that a later deletion replaced."""
    if run.deleted:
        return True
    if listed is None or listed.log_kept is not None:
        return False
    day = paths.log.relative_to(paths.home.root).as_posix()
    numbers = [run_number(name.rpartition("/")[2]) or 0 for name in listed.folders if name.rpartition("/")[0] == day]
    return (run_number(run.run) or 0) <= max(numbers, default=0)
