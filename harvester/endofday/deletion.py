"""Delete a folded date's files: list them, write the list to disk, then delete those that are unchanged since.

The list names every file with its size and BLAKE2b. Only listed files are deleted, so an interrupted deletion can be
repeated: missing files are skipped, changed files stay and are reported. No link is followed, and nothing outside the
home is deleted.
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
    """A deletion list. `folders` are deleted when empty; `log_kept` is the folder of the archived log, None without."""

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
    """List the current content of the folders.

    Raises:
        Mismatch: they contain a link or another thing that is neither file nor folder.
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
                raise Mismatch(f"{path} is a link or not a plain file; nothing was deleted; move it away")
    return DeletionPlan(
        "harvester.deletion", 1, trading_date, content_hash, log_kept, files, sorted(found, key=_deepest_first)
    )


def _deepest_first(name: str) -> tuple[int, str]:
    return -name.count("/"), name


def _must_be_inside(home: Home, path: Path) -> None:
    """Assert that the path is below the home and no part of it is a link.

    Raises:
        Mismatch: it is not, or one is.
    """
    try:
        steps = path.relative_to(home.root).parts
    except ValueError:
        raise Mismatch(f"{path} is outside {home.root}; only files below it are deleted") from None
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
    """Write the list durably, and read it back.

    Raises:
        Mismatch: the read-back differs from what was written.
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
        move = "nothing was deleted; move it away, and hv eod --delete-temp writes a new list"
        raise DamagedFile(str(path), f"not a deletion list: {error}", move) from None


def carry_out(
    home: Home, made: DeletionPlan, disk: Disk, allowed: Sequence[Path], told: Callable[[str], None] = lambda _: None
) -> list[str]:
    """Delete the listed files that are unchanged, then empty folders. `told` is called with each path before.

    Returns:
        The paths that stay, with the reason; empty when everything is deleted.
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
            left.append(f"{name} contains a file that was not listed")
            continue
        told(name)
        if refused := _refused(disk.remove_folder, path):
            left.append(f"{name}: {refused}")
    _sync_parents(home, made, disk)
    return left


def _refused(delete: Callable[[Path], None], path: Path) -> str:
    """Delete; returns the system's error text, empty for success. Windows refuses while a process has the file open."""
    try:
        delete(path)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _sync_parents(home: Home, made: DeletionPlan, disk: Disk) -> None:
    """Make the deletion durable: of each deleted folder, sync the folder above it."""
    for folder in dict.fromkeys((home.root / name).parent for name in made.folders):
        if folder.is_dir():
            with naming(folder):
                disk.sync_folder(folder)
