"""Keep a folded date's log: its run folders under `memory/archive/<date>/`, byte for byte."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from harvester.artefacts.text import make_folders
from harvester.errors import Mismatch
from harvester.eventlog.format import run_number
from harvester.recorder.deletion import file_hash

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from harvester.eventlog.disk import Disk
    from harvester.home import Home


def runs_in(folder: Path) -> list[Path]:
    """Run folders, in order."""
    found = [p for p in folder.iterdir() if run_number(p.name) and p.is_dir()] if folder.is_dir() else []
    return sorted(found, key=lambda p: run_number(p.name) or 0)


def archive(home: Home, trading_date: date, disk: Disk) -> list[str]:
    """Copy every run that lies in `temp/` and prove the copy; a run appears under its name when it is whole.

    Returns:
        The folders made, below the home.

    Raises:
        Mismatch: a copy is not equal, or another run of that name is archived already.
    """
    made: list[str] = []
    for run in runs_in(home.day(trading_date)):
        target = home.archive(trading_date) / run.name
        if not target.exists():
            beside = target.with_name(f".{run.name}.new")
            make_folders(target.parent, disk)
            shutil.rmtree(beside, ignore_errors=True)  # left by a copy that was stopped; never read by anybody
            _copy(run, beside, disk)
            disk.replace(beside, target)
            disk.sync_folder(target.parent)
            made.append(target.relative_to(home.root).as_posix())
        if not equal(run, target):
            raise Mismatch(f"{target} is not equal to {run}; nothing is deleted")
    return made


def holds(home: Home, trading_date: date) -> bool:
    """Whether every run in `temp/` is archived, byte for byte."""
    runs = runs_in(home.day(trading_date))
    return bool(runs) and all(equal(run, home.archive(trading_date) / run.name) for run in runs)


def equal(one: Path, other: Path) -> bool:
    """Whether two run folders hold the same files."""
    return _contents(one) == _contents(other)


def _contents(folder: Path) -> dict[str, str]:
    return (
        {path.name: file_hash(path) for path in sorted(folder.iterdir()) if path.is_file()} if folder.is_dir() else {}
    )


def _copy(run: Path, beside: Path, disk: Disk) -> None:
    disk.make_folder(beside)
    for path in sorted(run.iterdir()):
        if path.is_file():
            shutil.copyfile(path, beside / path.name)
            disk.sync_file(beside / path.name)
    disk.sync_folder(beside)
