"""Deleting a folded date's files: planned, written down, then done, and only for bytes that are still what was planned.

The list names every file with its size and BLAKE2b. Deleting goes by the list alone, so that it can be stopped and done
again: what is gone is gone, what has changed stays and is reported. No link is followed and nothing outside the home is
touched.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

import msgspec

from harvester.artefacts.json_files import json_file
from harvester.errors import DamagedFile, Mismatch
from harvester.files import naming, put

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from harvester.files import Disk
    from harvester.home import Home

_CHUNK = 1 << 20


class FileToDelete(msgspec.Struct, frozen=True):
    """One file: path below the home with `/`, bytes, BLAKE2b-128."""

    path: str
    bytes: int
    blake2b: str


class DeletionPlan(msgspec.Struct, frozen=True):
    """A deletion list. `folders` go when they are empty; `log_kept` tells where the log lives on, if it does."""

    schema: str
    schema_version: int
    trading_date: str
    content_hash: str
    log_kept: str | None
    files: list[FileToDelete]
    folders: list[str]
    done: bool = False


def plan(
    home: Home, folders: Sequence[Path], trading_date: str, content_hash: str, log_kept: str | None
) -> DeletionPlan:
    """List what lies in the folders now.

    Raises:
        Mismatch: a link or something that is neither file nor folder lies there; nothing is deleted then.
    """
    files: list[FileToDelete] = []
    found: list[str] = []
    for folder in folders:
        if not os.path.lexists(folder):
            continue
        _must_be_inside(home, folder)
        for path in [folder, *sorted(folder.rglob("*"))]:
            mode = path.lstat().st_mode
            name = path.relative_to(home.root).as_posix()
            if stat.S_ISDIR(mode):
                found.append(name)
            elif stat.S_ISREG(mode):
                files.append(FileToDelete(name, path.stat().st_size, file_hash(path)))
            else:
                raise Mismatch(f"{path} is a link or no plain file; nothing is deleted until it is gone")
    return DeletionPlan(
        "harvester.deletion", 1, trading_date, content_hash, log_kept, files, sorted(found, key=_deepest_first)
    )


def _deepest_first(name: str) -> tuple[int, str]:
    return -name.count("/"), name


def _must_be_inside(home: Home, path: Path) -> None:
    """Every step from the home to the path is a plain folder or file, no link among them.

    Raises:
        Mismatch: one is not.
    """
    try:
        steps = path.relative_to(home.root).parts
    except ValueError:
        raise Mismatch(f"{path} is outside {home.root}; nothing there is ever deleted") from None
    at = home.root
    for step in steps:
        at /= step
        if step in ("..", ".") or at.is_symlink():
            raise Mismatch(f"{at} leads out of {home.root}; nothing is deleted through a link")


def file_hash(path: Path) -> str:
    """BLAKE2b-128 of a file's bytes."""
    total = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()


def write_plan(path: Path, made: DeletionPlan, disk: Disk) -> None:
    """Write the list down, durably, and read it back.

    Raises:
        Mismatch: what is read is not what was written.
    """
    put(path, json_file(msgspec.to_builtins(made)), disk)
    if read_plan(path) != made:
        raise Mismatch(f"{path}: read-back differs from what was written; nothing is deleted")


def read_plan(path: Path) -> DeletionPlan | None:
    """The list of a date, None when there is none.

    Raises:
        DamagedFile: it cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=DeletionPlan)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        move = "nothing is deleted by it; move it away, and hv eod --delete-temp writes a new list"
        raise DamagedFile(str(path), f"not a deletion list: {error}", move) from None


def carry_out(
    home: Home, made: DeletionPlan, disk: Disk, allowed: Sequence[Path], told: Callable[[str], None] = lambda _: None
) -> list[str]:
    """Delete what the list names and is unchanged, then the folders that are empty. `told` hears each path first.

    Returns:
        What stays, with the reason; empty when everything is gone.
    """
    left: list[str] = []
    for doomed in made.files:
        path = home.root / doomed.path
        if not any(path.is_relative_to(folder) for folder in allowed):
            raise Mismatch(f"{doomed.path} is not among the files of {made.trading_date}; the list was altered")
        _must_be_inside(home, path)
        if not os.path.lexists(path):
            continue
        told(doomed.path)
        if file_hash(path) != doomed.blake2b:
            left.append(f"{doomed.path} has changed since it was listed")
            continue
        if refused := _refused(disk.remove, path):
            left.append(f"{doomed.path}: {refused}")
    for name in made.folders:
        path = home.root / name
        if not any(path.is_relative_to(folder) for folder in allowed):
            raise Mismatch(f"{name} is not among the folders of {made.trading_date}; the list was altered")
        _must_be_inside(home, path)
        if not path.is_dir():
            continue
        if any(path.iterdir()):
            left.append(f"{name} holds something that was not listed")
            continue
        told(name)
        if refused := _refused(disk.remove_folder, path):
            left.append(f"{name}: {refused}")
    _sync_parents(home, made, disk)
    return left


def _refused(delete: Callable[[Path], None], path: Path) -> str:
    """Delete; what the system says when it does not, empty when it does. Windows keeps a file somebody reads."""
    try:
        delete(path)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _sync_parents(home: Home, made: DeletionPlan, disk: Disk) -> None:
    """Make the deletion durable. A folder that is gone took its entries along: the one above it is synced."""
    for folder in dict.fromkeys((home.root / name).parent for name in made.folders):
        if folder.is_dir():
            with naming(folder):
                disk.sync_folder(folder)
