"""Remove the log of a date without market events, or on request of any date that is not closed, such as a trial.

It deletes as `hv eod --delete-temp` does: by a list that is durable before the first file is deleted, and only files
that are as listed. The list is next to the date's folder until everything is deleted; an interrupted removal continues
from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.endofday.eod import doomed_folders, strangers
from harvester.errors import CannotRun, Mismatch
from harvester.eventlog import deletion
from harvester.eventlog.archive import runs_in
from harvester.eventlog.eod_mark import closed_path, read_closed
from harvester.eventlog.lock import DateLock
from harvester.eventlog.reader import open_day
from harvester.eventlog.recover import recover_held
from harvester.eventlog.storage.format import QUARANTINE
from harvester.events.kinds import Kind
from harvester.files import Disk, naming

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harvester.home import DatePaths

_MARKET = (Kind.TICK, Kind.TRADE, Kind.QUOTE, Kind.DEPTH, Kind.BAR, Kind.SCAN)
"""Kinds of events that a market sends: a date with one of them is not removed."""


def removal_list_path(paths: DatePaths) -> Path:
    """Where the deletion list is stored while a date is being removed."""
    return paths.log.parent / f".{paths.trading_date}.deletion.json"


def remove(
    paths: DatePaths,
    confirm: Callable[[deletion.DeletionList, int], bool] = lambda _listed, _events: True,
    disk: Disk | None = None,
    *,
    discard: bool = False,
) -> int | None:
    """Delete everything of the date below `temp/`.

    Args:
        paths: the date.
        confirm: called with the list, and the number of market events in it, before it is written; False leaves
            everything in place.
        disk: the file layer.
        discard: remove market events too.

    Returns:
        How many files were deleted; None when it was not confirmed.

    Raises:
        LockHeld: another process holds the date.
        NoLog: there is nothing to remove.
        CannotRun: the date has market events without `discard`, is closed, archived or has quarantined bytes; nothing
            is deleted.
        DamagedLog: its log is damaged, so it is unknown what it held; nothing is deleted.
        Mismatch: a file is not part of the log, or changed after it was listed, and stays.
        LogWriteFailed: the disk is failing.
    """
    disk, path = disk or Disk(), removal_list_path(paths)
    with DateLock(paths, "remove"):
        listed = _begun(paths)
        if listed is None:
            recover_held(paths, disk)
            day = open_day(paths.trading_date, paths.home)
            events = sum(day.table(kind).num_rows for kind in _MARKET)
            _check_removable(paths, 0 if discard else events)
            listed = _listed(paths, day.identity())
            if not confirm(listed, events):
                return None
            with naming(path):
                deletion.write_list(path, listed, disk)
        else:
            with naming(path):
                disk.sync_folder(path.parent)  # a killed removal may have renamed the list without a sync
        if left := deletion.carry_out(paths.home.root, listed, disk, doomed_folders(paths)):
            raise Mismatch(f"removing {paths.trading_date} stopped: {left[0]}; check it, then run this again")
        with naming(path):
            disk.remove(path)
            disk.sync_folder(path.parent)
        return len(listed.files)


def _listed(paths: DatePaths, identity: str) -> deletion.DeletionList:
    """Everything of the date below `temp/` as it is now."""
    found = deletion.found_in(paths.home.root, doomed_folders(paths))
    with naming(paths.log):
        return deletion.list_files(paths.home.root, found, str(paths.trading_date), identity, None)


def _begun(paths: DatePaths) -> deletion.DeletionList | None:
    """The list of an interrupted removal, unless the date has other files now: it was recorded again."""
    listed = deletion.read_list(removal_list_path(paths))
    if listed is None or not set(_listed(paths, "").files) <= set(listed.files):
        return None
    return listed


def _check_removable(paths: DatePaths, events: int) -> None:
    """Reject a date that has market events, or files that are kept nowhere else."""
    name = f"{paths.trading_date} is not removed"
    if events:
        raise CannotRun(
            f"{name}: it has {events:,} market events; hv log remove --discard deletes them for good, "
            "hv eod --delete-temp what it has kept"
        )
    if read_closed(paths) is not None:
        raise CannotRun(f"{name}: {closed_path(paths)} says that it was folded into memory")
    if archived := runs_in(paths.archive):
        raise CannotRun(f"{name}: {archived[0]} is an archive")
    if (paths.log / QUARANTINE).exists():
        raise CannotRun(f"{name}: {paths.log / QUARANTINE} holds bytes that are kept nowhere else; move it away first")
    if others := strangers(paths):
        raise Mismatch(f"{name}: {others[0]} is not part of the log; move it away first")
