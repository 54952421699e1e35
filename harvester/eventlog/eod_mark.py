"""Read and write `closed.json`, the mark of a date that was folded into memory, with the last seq to continue from."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import msgspec

from harvester.calendar import iso
from harvester.errors import DamagedFile
from harvester.eventlog.storage.format import DELETION
from harvester.files import Disk, json_value
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from pathlib import Path

    from harvester.home import DatePaths, Home

_BYTES_MAX = 16 * 1024 * 1024


class ClosedRun(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run of a closed date: its name, last seq and content hash, and whether an earlier deletion took it for good."""

    run: str
    last_seq: int
    content_hash: str
    deleted: bool = False


class EodMark(msgspec.Struct, frozen=True):
    """What `hv eod` stores about a date: where numbering continues, and its content hash for when the log is deleted.

    `last_ts` is the last event's ts_recv, ns UTC.
    """

    trading_date: str
    last_seq: int
    content_hash: str
    last_ts: int = 0
    runs: list[ClosedRun] = []

    @property
    def last_run(self) -> int:
        """Number of the last run, 0 for none."""
        return max((int(run.run[1:]) for run in self.runs if run.run[1:].isdecimal()), default=0)


def closed_path(paths: DatePaths) -> Path:
    return paths.dataset / "closed.json"


def list_path(paths: DatePaths) -> Path:
    """Where a date's deletion list is stored: with what replaces the deleted files."""
    return paths.dataset / DELETION


def read_closed(paths: DatePaths) -> EodMark | None:
    """Read the mark; None while the date is open.

    Raises:
        DamagedFile: the file exists and is not such a mark.
    """
    path = closed_path(paths)
    move = (
        "the events are not affected, `hv log show --salvage` reads them; move this file away, and `hv eod "
        f"--date {paths.trading_date}` closes the date again. If its log was deleted, take this file from a backup"
    )
    try:
        with path.open("rb") as file:
            closed = json_value(file.read(_BYTES_MAX), EodMark)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise DamagedFile(str(path), f"not the mark of a closed date: {error}", move) from None
    if closed.trading_date != paths.trading_date.isoformat() or closed.last_seq < 0:
        raise DamagedFile(str(path), f"it is for {closed.trading_date}, seq {closed.last_seq}", move)
    return closed


def closed_dates(home: Home) -> list[str]:
    """Every folded date, `yyyy-MM-dd`, in order; the logs of some may be deleted."""
    return sorted(path.parent.name for path in (home.memory / "datasets").glob("????-??-??/closed.json"))


def gone_text(home: Home, closed: EodMark) -> str:
    """The error text for a folded date without a log: when the log was deleted, and what is kept where."""
    paths = home.on(date.fromisoformat(closed.trading_date))
    when = ""
    if (listed := list_path(paths)).is_file():
        when = f" on {iso(listed.stat().st_mtime_ns // SECOND_NS * SECOND_NS)}"
    return (
        f"hv eod folded {closed.trading_date} through seq {closed.last_seq}, and its log and episode files were deleted"
        f"{when}; its episodes and decisions are kept in {paths.dataset}, its trades and fills in {home.journal}, its "
        f"statistics in {home.memory_latest.name}"
    )


def write_closed(home: Home, closed: EodMark, trading_date: date, disk: Disk | None = None) -> Path:
    """Close a date, atomically and durably."""
    path = closed_path(home.on(trading_date))
    disk = disk or Disk()
    disk.make_folder(path.parent)
    disk.write_atomic(path, msgspec.json.format(msgspec.json.encode(closed), indent=2) + b"\n")
    disk.sync_names(path.parent, home.root)
    return path
