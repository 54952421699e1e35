"""Compaction: rewrite a finished run's many small commits as few large ones, and delete the small files.

The new files are written next to the old ones under other names, synced, read back and compared; the deletion list is
written; then the manifest is replaced, and this one rename switches the run to the new files; then the listed files are
deleted, unless they changed since they were listed. Interrupted at any point, the run is whole, old or new, and the
next call finishes the job.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harvester.errors import LogWriteFailed
from harvester.eventlog.deletion import Found, carry_out, list_files, read_list, write_list
from harvester.eventlog.lock import DateLock
from harvester.eventlog.recover import recover_held
from harvester.eventlog.rewrite import RewriteTarget, prove, rewrite
from harvester.eventlog.run import RunLog
from harvester.eventlog.runs_of_day import good_ranges, read_runs, run_folders
from harvester.eventlog.storage.damage import Damage, damaged_log
from harvester.eventlog.storage.format import DELETION, MANIFEST, names_of
from harvester.files import Disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harvester.eventlog.deletion import DeletionList
    from harvester.home import DatePaths

CANDIDATE = "manifest.compacted.json"


@dataclass(frozen=True)
class Compaction:
    """The result for one run. `left`: files that could not be deleted, with the reason."""

    run: str
    rows: int
    bytes_before: int
    bytes_after: int
    content_hash: str
    left: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = f"{self.run} compacted: {self.rows} events, {self.bytes_before} bytes before, {self.bytes_after} after"
        return f"{said}; content {self.content_hash}" + "".join(f"; stays: {left}" for left in self.left)


def compact_day(
    paths: DatePaths, disk: Disk | None = None, progress: Callable[[str, int], None] = lambda *_: None
) -> list[Compaction]:
    """Take the writer lock, recover killed runs, and compact every run of the date in `temp/`.

    Args:
        paths: the date.
        disk: the file layer, for tests.
        progress: called with the run and the events of each step; each event counts twice, written and read back.

    Returns:
        One result per compacted run; none for runs that were compacted before or hold no event.

    Raises:
        LockHeld: the date is being recorded.
        NoLog: the date has no log.
        DamagedLog: the log is damaged; nothing is changed.
        Mismatch: the read-back differs from what was written; the old files stay.
        LogWriteFailed: the disk is full or failing; the run is whole.
    """
    disk = disk or Disk()
    if not run_folders(paths):
        read_runs(paths)  # raises NoLog
    with DateLock(paths, "compact"):
        recover_held(paths, disk)
        folders = [folder for folder in run_folders(paths) if folder.parent == paths.log]
        done = [compact_run(folder, disk, progress) for folder in folders]
    return [one for one in done if one is not None]


def compact_run(folder: Path, disk: Disk, progress: Callable[[str, int], None] = lambda *_: None) -> Compaction | None:
    """Compact one finished run, or complete an interrupted compaction; None when there is nothing to do."""
    log = RunLog(folder)
    log.refresh()
    if log.damages:
        raise damaged_log(log.damages, good_ranges([log]))
    if loose := next(((name, n) for name, n in log.torn.items() if n and log.finished), None):
        path = folder / loose[0]
        damage = Damage(path, path.stat().st_size - loose[1], f"{loose[1]} bytes follow that no commit names")
        raise damaged_log([damage], good_ranges([log]))
    if not log.finished or not log.commits:
        return None
    before = _bytes(log)
    try:
        if log.storage == "stream":
            _switch(log, disk, progress)
            log = RunLog(folder)
            log.refresh()
        else:
            disk.sync_folder(folder)  # a killed compaction may have replaced the manifest without a sync
        listed = read_list(folder / DELETION)
        if listed is None:
            return None
        left = _delete(folder, listed, disk)
    except OSError as error:
        raise LogWriteFailed(f"cannot compact {folder}: {error.strerror or error}; the run is whole") from error
    rows = sum(line.rows for line in log.commits)
    return Compaction(log.run, rows, before, _bytes(log), log.content_hash, left)


def _bytes(log: RunLog) -> int:
    return sum(log.ends.values()) + log.journal_end + log.digests_end


def _switch(log: RunLog, disk: Disk, progress: Callable[[str, int], None]) -> None:
    """Write the new files, prove them, list the old ones to delete, and switch the manifest to the new ones."""
    folder = log.folder
    for name in (DELETION, CANDIDATE, *names_of("compacted")):  # left by an interrupted compaction; never read
        disk.remove(folder / name)
    rewrite(log, RewriteTarget(folder, "compacted", disk, CANDIDATE), lambda rows: progress(log.run, rows))
    made = RunLog(folder, log.run, CANDIDATE)
    prove(log, made)
    progress(log.run, sum(line.rows for line in made.commits))
    old = Found([path for path in _stream_files(folder) if path.exists()], [])
    listed = list_files(folder, old, folder.parent.name, log.content_hash, log_kept=".")
    write_list(folder / DELETION, listed, disk)
    disk.replace(folder / CANDIDATE, folder / MANIFEST)
    disk.sync_folder(folder)


def _stream_files(folder: Path) -> list[Path]:
    return [folder / name for name in names_of("stream")]


def _delete(folder: Path, listed: DeletionList, disk: Disk) -> list[str]:
    """Delete what the list names and is unchanged, then the list. What stays, with the reason."""
    left = carry_out(folder, listed, disk, _stream_files(folder))
    if not left:
        # Not synced: if the list reappears after a crash, the next call finds nothing left to delete.
        disk.remove(folder / DELETION)
    return left
