"""The archive of a date's log: its runs as Parquet under `memory/archive/<date>/`, with all guarantees of the log.

`hv project`, `open_day` and `hv log` find and read it like the original log: same events, same content hash. Other
tools can read the Parquet files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.errors import Mismatch
from harvester.eventlog.rewrite import RewriteTarget, prove, rewrite
from harvester.eventlog.run import RunLog
from harvester.eventlog.runs_of_day import good_ranges
from harvester.eventlog.storage.damage import damaged_log
from harvester.eventlog.storage.format import run_number
from harvester.files import make_folders, naming

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harvester.files import Disk
    from harvester.home import DatePaths


def runs_in(folder: Path) -> list[Path]:
    """Run folders, in order."""
    found = [p for p in folder.iterdir() if run_number(p.name) and p.is_dir()] if folder.is_dir() else []
    return sorted(found, key=lambda p: run_number(p.name) or 0)


def archive(paths: DatePaths, disk: Disk, logs: Sequence[RunLog] = ()) -> list[str]:
    """Store every run in `temp/` and prove the copy; a run gets its final name only when it is whole.

    Args:
        paths: the date.
        disk: the file layer.
        logs: runs of the date that were read already; bytes they have compared with checksums are not compared again.

    Returns:
        The folders created, below the home.

    Raises:
        DamagedLog: a run is damaged.
        Mismatch: the read-back differs from what was stored, or another run of that name is archived already.
        LogWriteFailed: the disk is full or failing.
    """
    made: list[str] = []
    known = {log.folder: log for log in logs}
    for run in runs_in(paths.log):
        target = paths.archive / run.name
        log = known.get(run) or _read(run)
        if not target.exists():
            beside = target.with_name(f".{run.name}.new")
            with naming(target):
                make_folders(target.parent, disk)
                disk.remove_tree(beside)  # left by an interrupted call; never read
                disk.make_folder(beside)
                if log.commits:
                    rewrite(log, RewriteTarget(beside, "parquet", disk))
                else:
                    _copy(run, beside, disk)
                _same(log, RunLog(beside, run.name))
                disk.replace(beside, target)
                disk.sync_folder(target.parent)
            made.append(target.relative_to(paths.home.root).as_posix())
        else:
            _same(log, RunLog(target))
    return made


def holds(paths: DatePaths) -> bool:
    """Whether the date is archived: every run in `temp/` re-reads from the archive as the same events."""
    runs = runs_in(paths.log)
    try:
        for run in runs:
            _same(_read(run), RunLog(paths.archive / run.name))
    except Mismatch:
        return False
    return bool(runs or runs_in(paths.archive))


def _read(folder: Path) -> RunLog:
    log = RunLog(folder)
    log.refresh()
    if log.damages:
        raise damaged_log(log.damages, good_ranges([log]))
    return log


def _same(log: RunLog, made: RunLog) -> None:
    """Raise Mismatch unless what was stored holds the run's events and digests."""
    if log.commits:
        prove(log, made)
        return
    made.refresh()
    if made.damages or made.commits or made.first_seq != log.first_seq:
        raise Mismatch(f"{made.folder} is not equal to {log.folder}; nothing is deleted")


def _copy(run: Path, beside: Path, disk: Disk) -> None:
    """Copy the files of a run without events unchanged."""
    for path in sorted(run.iterdir()):
        if path.is_file():
            disk.write_new(beside / path.name, path.read_bytes())
    disk.sync_folder(beside)
