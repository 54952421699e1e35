"""Make memory from the kept episodes: the versions that `hv eod` and `hv memory` write, and `memory_latest.json`.

Only the days that changed, and the days after them, are read and folded; `harvester.memory.chain` finds the version
they continue from.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from harvester.endofday.datasets import kept_day
from harvester.errors import CannotRun, HarvesterError, Mismatch, NoLog
from harvester.eventlog.lock import memory_lock
from harvester.files import Disk, naming, put, put_all
from harvester.home import parse_date
from harvester.memory.chain import (
    Chain,
    all_known,
    continuation,
    excluded_dates,
    excluded_path,
    known_dates,
    latest_of,
    lost_datasets,
    new_versions,
)
from harvester.memory.fold_days import KnownDay, days_of, encode, rebuild
from harvester.memory.old_memory import move_old

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from harvester.home import DatePaths, Home
    from harvester.memory.day_summary import DaySummary
    from harvester.memory.fold_days import Memory

_READ_AT_ONCE = 2


@dataclass
class MemoryChange:
    """What memory becomes.

    Attributes:
        memory: the newest version, None when no day is left.
        newest: its path and bytes.
        files: path and bytes of the versions to write, in date order.
        notes: what the user must know.
    """

    memory: Memory | None = None
    newest: tuple[Path, bytes] | None = None
    files: dict[Path, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def change(
    home: Home, changed: Mapping[str, DaySummary], *, include: str = "", from_datasets: bool = False
) -> MemoryChange:
    """Memory with these days folded, by date; the caller holds `memory_lock` and writes it.

    Args:
        home: the data root.
        changed: the days that are folded now; an excluded one is not taken.
        include: a date that is taken although it is marked excluded.
        from_datasets: make every version from the datasets, and do not read `memory_latest.json`.

    Raises:
        DamagedFile: the dataset of another known day is missing or damaged.
        HarvesterError: memory_latest.json is damaged.
    """
    excluded = excluded_dates(home) - {include}
    wanted = sorted(((all_known(home) if from_datasets else known_dates(home)) | changed.keys()) - excluded)
    if lost := lost_datasets(home, set(wanted) - changed.keys()):
        raise lost[0]
    chain, latest = Chain(home), None if from_datasets else latest_of(home)
    made = MemoryChange()
    rows = {date: KnownDay.of(day) for date, day in changed.items() if date not in excluded}
    cut = continuation(chain, latest, wanted, rows)
    if cut.broken:
        made.notes.append(
            f"the versions of memory are made again from memory/datasets: {cut.broken.rpartition(';')[0]}"
        )
    before = {} if latest is None else {day.date: day for day in days_of(latest)}

    def days() -> Iterator[DaySummary]:
        kept = _kept_days(home, [date for date in cut.dates if date not in changed])
        for date in cut.dates:
            if date in changed:
                yield changed[date]
                continue
            day = next(kept)
            if date in before and KnownDay.of(day) != before[date]:
                made.notes.append(f"the dataset of {date} is not the one memory held; memory follows the dataset")
            yield day

    for path, data, memory in new_versions(chain, cut.base, days()):
        made.files[path] = data
        made.memory, made.newest = memory, (path, data)
    if made.memory is None and cut.base is not None:
        path_then = chain.path_of(cut.base["date"], cut.base["hash"])
        made.memory, made.newest = cut.base, (path_then, encode(cut.base)) if path_then else None
    return made


def _kept_days(home: Home, dates: Sequence[str]) -> Iterator[DaySummary]:
    """Yield the days in this order; two are read at a time, as decompression and hashing run beside the interpreter."""
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        yield from pool.map(lambda date: kept_day(home.on(parse_date(date))), dates)


def read_back(files: Mapping[Path, bytes]) -> None:
    """Compare files with what was written.

    Raises:
        Mismatch: one differs.
    """
    for path, data in files.items():
        if path.read_bytes() != data:
            raise Mismatch(f"{path}: read-back differs from what was written; nothing was deleted, check the disk")


def rebuild_memory(home: Home) -> Memory:
    """The memory of every kept day that is not excluded, without reading any version.

    Raises:
        HarvesterError: no day is kept.
    """
    dates = all_known(home)
    if lost := lost_datasets(home, dates):
        raise lost[0]
    return rebuild(_kept_days(home, sorted(dates)))


def make_again(home: Home, disk: Disk | None = None) -> MemoryChange:
    """Make every version from the datasets, and `memory_latest.json` the newest of them.

    Raises:
        LockHeld: another process changes memory.
        NoLog: no day is kept.
        DamagedFile: the dataset of a known day is missing or damaged.
        Mismatch: a read-back differs.
    """
    disk = disk or Disk()
    with memory_lock(home):
        _move_old(home, all_known(home), disk)
        made = change(home, {}, from_datasets=True)
        if made.memory is None:
            raise NoLog("no day is kept in memory/datasets; fold one with `hv eod --date`")
        write(home, made, disk)
    return made


def undo(paths: DatePaths, disk: Disk | None = None, *, include: bool = False) -> MemoryChange:
    """Take a date out of memory; its dataset stays, marked excluded. `include` takes it in again.

    The mark is durable before memory changes, and is deleted after it: when this is killed, the date is out of memory
    after the next `hv eod`, or as wanted when this is called again.

    Raises:
        CannotRun: memory does not hold the date, or it is not excluded.
        LockHeld, DamagedFile, Mismatch: as `make_again`.
    """
    home, disk, date = paths.home, disk or Disk(), paths.trading_date.isoformat()
    mark = excluded_path(paths)
    with memory_lock(home):
        if include and not mark.exists():
            raise CannotRun(f"{date} is not excluded from memory; `hv memory show` lists its days")
        if not include and not mark.exists() and date not in known_dates(home):
            raise CannotRun(f"memory does not hold {date}; `hv memory show` lists its days")
        if not include:
            put(mark, msgspec.json.encode({"trading_date": date}) + b"\n", disk)
        _move_old(home, known_dates(home), disk)
        made = change(home, {date: kept_day(paths)}, include=date) if include else change(home, {})
        write(home, made, disk)
        if include:
            with naming(mark):
                disk.remove(mark)
                disk.sync_folder(mark.parent)
    return made


def _move_old(home: Home, known: set[str], disk: Disk) -> None:
    """Move versions of an older schema aside, which frees their names; not when a day cannot be folded again."""
    if lost := lost_datasets(home, known):
        raise lost[0]
    move_old(home, disk)


def write(home: Home, made: MemoryChange, disk: Disk) -> None:
    """Write the versions, read them back, then replace `memory_latest.json`; the caller holds `memory_lock`."""
    put_all(made.files.items(), disk)
    read_back(made.files)
    if made.newest is not None:
        put(home.memory_latest, made.newest[1], disk)
        read_back({home.memory_latest: made.newest[1]})
    elif home.memory_latest.exists():
        with naming(home.memory_latest):
            disk.remove(home.memory_latest)
            disk.sync_folder(home.memory_latest.parent)


def must_be_readable(paths: DatePaths) -> None:
    """Check, before anything is written, that memory can be continued after this date is folded.

    Raises:
        HarvesterError: memory_latest.json is damaged, or the dataset of another day of it is missing.
    """
    date = paths.trading_date.isoformat()
    if lost := lost_datasets(paths.home, known_dates(paths.home) - {date}):
        raise lost[0]


def holds(home: Home, day: DaySummary) -> bool:
    """Whether memory holds exactly this day, or it is excluded."""
    if day.date in excluded_dates(home):
        return True
    try:
        latest = latest_of(home)
    except (OSError, HarvesterError):
        return False
    return latest is not None and KnownDay.of(day) in days_of(latest)
