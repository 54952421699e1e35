"""Recover runs of killed processes: move torn bytes to `quarantine/` and mark the run recovered.

Only the holder of the writer lock may do this. Bytes that the journal names are not changed. An interrupted recovery is
completed by the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from harvester.errors import LogWriteFailed
from harvester.eventlog.eod_mark import read_closed
from harvester.eventlog.lock import DateLock
from harvester.eventlog.quarantine import (
    QuarantineNote,
    add_note,
    make_quarantine,
    quarantine_run,
    read_quarantine_notes,
)
from harvester.eventlog.runs_of_day import between_runs, good_ranges, read_runs, run_folders
from harvester.eventlog.storage.content_hash import ContentHash
from harvester.eventlog.storage.damage import Damage, damaged_log
from harvester.eventlog.storage.format import DIGESTS, JOURNAL, MANIFEST, QUARANTINE, Final, file_of, run_number
from harvester.eventlog.storage.sealed_lines import seal
from harvester.events.kinds import Kind
from harvester.files import Disk
from harvester.units import BEFORE_ALL

if TYPE_CHECKING:
    from pathlib import Path

    from harvester.eventlog.run import RunLog
    from harvester.home import DatePaths


class Recovery(NamedTuple):
    """The recovery of one run: its last durable seq, torn bytes moved per file name, and where they were moved."""

    run: str
    last_seq: int
    torn: dict[str, int]
    quarantine: Path | None

    def __str__(self) -> str:
        what = ", ".join(f"{n} bytes of {name}" for name, n in self.torn.items()) or "nothing torn"
        where = f", moved to {self.quarantine}" if self.quarantine else ""
        return f"{self.run} recovered up to seq {self.last_seq}: {what}{where}"


@dataclass
class RecoveredDay:
    """The recovered runs of a date, and its last run number, seq and ts_recv (ns UTC)."""

    recovered: list[Recovery] = field(default_factory=list)
    last_run: int = 0
    last_seq: int = 0
    last_ts: int = BEFORE_ALL


def recover_day(paths: DatePaths, disk: Disk | None = None) -> list[Recovery]:
    """Take the writer lock and recover every killed run of the date.

    Raises:
        LockHeld: another process holds the lock.
        NoLog: the date has no log.
        DamagedLog: the log has damage other than torn bytes; nothing is changed.
        LogWriteFailed: the disk is full or failing.
    """
    if not run_folders(paths):
        read_runs(paths)  # raises NoLog
    with DateLock(paths, "recover"):
        return recover_held(paths, disk or Disk()).recovered


def set_aside_day(paths: DatePaths, disk: Disk | None = None) -> list[QuarantineNote]:
    """Take the writer lock, move every damaged run of the date to `quarantine/`, and note the seqs lost.

    Undamaged runs are not changed. Recording can then continue after the highest seq that any run named.

    Raises:
        LockHeld: another process holds the lock.
        NoLog: the date has no log.
        LogWriteFailed: the disk is full or failing; the next call continues.
    """
    disk, day = disk or Disk(), paths.log
    read_runs(paths)  # raises NoLog
    quarantined: list[QuarantineNote] = []
    with DateLock(paths, "set aside"):
        try:
            runs = [run for run in read_runs(paths) if run.folder.parent == day]
            for i, run in enumerate(runs):
                run.check_bodies()
                before = max((r.last_seq for r in runs[:i]), default=0)
                if run.manifest is not None and run.first_seq <= before:
                    what = f"the run begins at seq {run.first_seq}, expected {before + 1}"
                    run.damages.append(Damage(run.folder / MANIFEST, 0, what))
                if run.damages:
                    after = next((later.first_seq for later in runs[i + 1 :] if later.manifest), 0)
                    quarantined.append(quarantine_run(run, before + 1, after, paths.home, disk))
            remaining, notes = read_runs(paths), read_quarantine_notes(paths)
            for gap in between_runs(remaining, read_closed(paths), day, notes):
                if not gap.set_aside and gap.last_seq >= gap.first_seq > 0:
                    note = QuarantineNote("", gap.first_seq, gap.last_seq, 0, gap.what, "")
                    add_note(day, note, disk)
                    quarantined.append(note)
        except OSError as error:
            raise LogWriteFailed(f"cannot quarantine runs of {day}: {error.strerror or error}; try again") from error
    return quarantined


def recover_held(paths: DatePaths, disk: Disk) -> RecoveredDay:
    """Recover as `recover_day` does, for a caller that holds the lock; a date without a log is not an error."""
    held = RecoveredDay()
    day = paths.log
    try:
        for unfinished in sorted(day.glob(".r*.new")) if day.is_dir() else ():
            _move_whole(unfinished, day / QUARANTINE, unfinished.name.strip("."), disk)
        notes = read_quarantine_notes(paths)
        for note in notes:
            held.last_run = _higher(held.last_run, note.run)
            held.last_seq, held.last_ts = max(held.last_seq, note.last_seq), max(held.last_ts, note.last_ts)
        if not run_folders(paths):
            return held
        runs = read_runs(paths)
        damages = [damage for run in runs for damage in run.damages]
        between = between_runs(runs, read_closed(paths), day, notes)
        damages += [damage for damage in between if not damage.set_aside]
        if damages:
            raise damaged_log(damages, good_ranges(runs))
        for run in runs:
            held.last_run = _higher(held.last_run, run.run)
            held.last_seq = max(held.last_seq, run.last_seq)
            held.last_ts = max(held.last_ts, run.commits[-1].last_ts if run.commits else held.last_ts)
            if not run.finished:
                held.recovered.append(_recover_run(run, day / QUARANTINE, disk))
    except OSError as error:
        raise LogWriteFailed(f"cannot recover {day}: {error.strerror or error}; free space and try again") from error
    return held


def _higher(number: int, run: str) -> int:
    """The number, or that of a run if it is higher; a note may name no run."""
    other = run_number(run)
    return number if other is None else max(number, other)


def _recover_run(run: RunLog, quarantine: Path, disk: Disk) -> Recovery:
    assert run.manifest is not None
    named = {file_of(kind): run.ends.get(kind, 0) for kind in Kind}
    named |= {JOURNAL: run.journal_end, DIGESTS: run.digests_end}
    torn = {name: n for name, n in run.torn.items() if n}
    for name in torn:
        if named[name] or name in (JOURNAL, DIGESTS):
            _move_tail(run.folder / name, named[name], quarantine, f"{run.run}.{name}", disk)
        else:
            _move_whole(run.folder / name, quarantine, f"{run.run}.{name}.at0", disk)
    # A killed process may have left whole lines that were never synced. They count as committed, so sync them; the
    # bytes they name were synced before the lines were written.
    for name in (JOURNAL, DIGESTS):
        disk.sync_file(run.folder / name)
    final = Final(
        commits=len(run.commits),
        last_seq=run.last_seq,
        chain=run.chain,
        content_hash=run.commits[-1].content if run.commits else ContentHash().digest(),
        digests=len(run.digests),
        digests_chain=run.digests_chain,
    )
    manifest = msgspec.structs.replace(run.manifest, status="recovered", final=final)
    disk.write_atomic(run.folder / MANIFEST, seal(msgspec.json.encode(manifest)))
    return Recovery(run.run, run.last_seq, torn, quarantine if torn else None)


def _move_tail(path: Path, length: int, quarantine: Path, name: str, disk: Disk) -> None:
    """Copy the bytes after `length` to quarantine, durably, then truncate the file to `length`."""
    make_quarantine(quarantine, disk)
    disk.copy(path, _free_name(quarantine, f"{name}.at{length}"), length)
    disk.sync_folder(quarantine)
    disk.truncate(path, length)


def _move_whole(path: Path, quarantine: Path, name: str, disk: Disk) -> None:
    make_quarantine(quarantine, disk)
    disk.replace(path, _free_name(quarantine, name))
    disk.sync_folder(quarantine)
    disk.sync_folder(path.parent)


def _free_name(folder: Path, name: str) -> Path:
    """A name not yet taken; a copy left by an interrupted recovery is kept."""
    target, n = folder / name, 1
    while target.exists():
        n += 1
        target = folder / f"{name}.{n}"
    return target
