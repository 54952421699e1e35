"""Delete files that were replaced: list them, write the list, delete what is still as listed.

`hv log compact` and `hv eod --delete-temp` delete by the same list. It names every file with its size and BLAKE2b and
is durable before the first file goes. Deleting needs nothing but the list, so it can be stopped and repeated: a file
that is gone is skipped, a file that changed stays and is reported. No link is followed and nothing outside the root is
touched.

A list is a sealed line (see `sealed_lines`), indented for people. Earlier versions wrote two other forms, which stay
readable: compaction a sealed line of file names, the end of a day the same list without a seal.
"""

from __future__ import annotations

import os
import stat
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec

from harvester.errors import DISK_ERRNOS, DamagedFile, LogWriteFailed, Mismatch
from harvester.eventlog.storage.sealed_lines import CHECK_BYTES, seal, unseal
from harvester.files import json_value, regular_file_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from harvester.files import Disk

SCHEMA: Final = "harvester.deletion"
SCHEMA_VERSION: Final = 2
_UNSEALED_VERSION = 1
_CHUNK = 1 << 20


class ListedFile(msgspec.Struct, frozen=True):
    """A file to delete: path below the list's root with `/`, bytes, BLAKE2b-128."""

    path: str
    bytes: int
    blake2b: str


class DeletionList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The files to delete, and the folders, which go when they are empty.

    Attributes:
        content_hash: of the events whose files are deleted.
        log_kept: where the events are kept, below the list's root; None when nowhere.
        done: everything listed is gone.
    """

    schema: Literal["harvester.deletion"]
    schema_version: Literal[1, 2]
    trading_date: str
    content_hash: str
    log_kept: str | None
    files: list[ListedFile]
    folders: list[str]
    done: bool = False


class _OldFile(msgspec.Struct, frozen=True):
    name: str
    bytes: int
    blake2b: str


class _OldCompaction(msgspec.Struct, frozen=True):
    """The list of a compaction before version 2, beside the files it names."""

    run: str
    content_hash: str
    files: list[_OldFile]


class Found(NamedTuple):
    """Files and folders below a list's root."""

    files: list[Path]
    folders: list[Path]


def found_in(root: Path, folders: Sequence[Path]) -> Found:
    """Everything in the folders, and the folders themselves; a folder that does not exist is left out.

    Raises:
        Mismatch: a folder is outside the root, or contains a link or something that is neither file nor folder.
    """
    found = Found([], [])
    for folder in folders:
        if not os.path.lexists(folder):
            continue
        _must_be_inside(root, folder)
        for path in [folder, *sorted(folder.rglob("*"))]:
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                found.folders.append(path)
            elif stat.S_ISREG(mode):
                found.files.append(path)
            else:
                raise Mismatch(f"{path} is a link or not a plain file; nothing was deleted; move it away")
    return found


def list_files(root: Path, found: Found, trading_date: str, content_hash: str, log_kept: str | None) -> DeletionList:
    """List files and folders as they are now.

    Raises:
        OSError: a file cannot be read, or is not a plain file.
    """
    folders = sorted((path.relative_to(root).as_posix() for path in found.folders), key=_deepest_first)
    files = [_as_it_is(root, path) for path in found.files]
    return DeletionList(SCHEMA, SCHEMA_VERSION, trading_date, content_hash, log_kept, files, folders)


def _deepest_first(name: str) -> tuple[int, str]:
    return -name.count("/"), name


def _as_it_is(root: Path, path: Path) -> ListedFile:
    size, hashed = regular_file_size(path), blake2b(digest_size=CHECK_BYTES)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hashed.update(chunk)
    return ListedFile(path.relative_to(root).as_posix(), size, hashed.hexdigest())


def _must_be_inside(root: Path, path: Path) -> None:
    """Reject a path that is not below the root, or that a link leads to.

    Raises:
        Mismatch: it is not, or one does.
    """
    try:
        steps = path.relative_to(root).parts
    except ValueError:
        raise Mismatch(f"{path} is outside {root}; only files below it are deleted") from None
    at = root
    for step in steps:
        at /= step
        if step in ("..", ".") or at.is_symlink():
            raise Mismatch(f"{at} leads out of {root}; nothing is deleted through a link")


def write_list(path: Path, listed: DeletionList, disk: Disk) -> None:
    """Write the list durably and read it back.

    Raises:
        Mismatch: the list read back differs.
        DamagedFile: the list read back is not a list.
        OSError: it cannot be written.
    """
    disk.write_atomic(path, msgspec.json.format(seal(msgspec.json.encode(listed)), indent=2) + b"\n")
    if read_list(path) != listed:
        raise Mismatch(f"{path}: read-back differs from what was written; nothing is deleted")


def read_list(path: Path) -> DeletionList | None:
    """Read a list of any version; None when there is none.

    Raises:
        DamagedFile: it cannot be read.
    """
    try:
        return _decoded(path.read_bytes(), path)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        move = "nothing is deleted by it; move it away and run the command again"
        raise DamagedFile(str(path), f"not a deletion list: {error}", move) from None


def _decoded(data: bytes, path: Path) -> DeletionList:
    json_value(data, object)  # `format` checks neither UTF-8 nor depth
    sealed = unseal(msgspec.json.format(data, indent=-1).rstrip(b"\n"))
    if sealed is None:
        listed = json_value(data, DeletionList)
        if listed.schema_version != _UNSEALED_VERSION:
            raise msgspec.ValidationError("it does not match its hash")
        return msgspec.structs.replace(listed, schema_version=SCHEMA_VERSION)
    try:
        return json_value(sealed, DeletionList)
    except msgspec.ValidationError:
        old = json_value(sealed, _OldCompaction)
    files = [ListedFile(one.name, one.bytes, one.blake2b) for one in old.files]
    return DeletionList(SCHEMA, SCHEMA_VERSION, path.parent.parent.name, old.content_hash, ".", files, [])


def carry_out(
    root: Path,
    listed: DeletionList,
    disk: Disk,
    allowed: Iterable[Path],
    progress: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Delete the listed files that are as listed, then the listed folders that are empty, durably.

    Args:
        root: everything listed is below it.
        listed: a list that is on disk.
        disk: the file layer.
        allowed: files, and folders with all they contain, that a list may name.
        progress: called with each path that is there, before it is deleted or stays.

    Returns:
        What stays, with the reason; empty when everything is gone.

    Raises:
        Mismatch: the list names something that is not allowed, or that a link leads to.
        LogWriteFailed: the disk is failing.
    """
    allowed = list(allowed)
    left = [reason for one in listed.files if (reason := _delete_file(root, one, disk, allowed, progress))]
    left += [reason for name in listed.folders if (reason := _delete_folder(root, name, disk, allowed, progress))]
    _sync_parents(root, listed, disk)
    return left


def _delete_file(
    root: Path, listed: ListedFile, disk: Disk, allowed: list[Path], progress: Callable[[str], None]
) -> str:
    """Delete one file; the reason why it stays, empty when it is gone."""
    path = _allowed(root, listed.path, allowed)
    if not os.path.lexists(path):
        return ""
    progress(listed.path)
    try:
        changed = _as_it_is(root, path) != listed
    except OSError as error:
        return f"{listed.path}: {error.strerror or error}"
    if changed:
        return f"{listed.path} has changed since it was listed"
    refused = _refused(disk.remove, path)
    return refused and f"{listed.path}: {refused}"


def _delete_folder(root: Path, name: str, disk: Disk, allowed: list[Path], progress: Callable[[str], None]) -> str:
    """Delete one folder if it is empty; the reason why it stays, empty when it is gone."""
    path = _allowed(root, name, allowed)
    if not path.is_dir():
        return ""
    progress(name)
    if any(path.iterdir()):
        return f"{name} contains a file that was not listed"
    refused = _refused(disk.remove_folder, path)
    return refused and f"{name}: {refused}"


def _refused(delete: Callable[[Path], None], path: Path) -> str:
    """Delete; the system's reason when it refuses, else empty. Windows keeps a file that is open.

    Raises:
        LogWriteFailed: the disk is failing.
    """
    try:
        delete(path)
    except OSError as error:
        if error.errno in DISK_ERRNOS:
            raise _failed(path, error) from error
        return error.strerror or str(error)
    return ""


def _allowed(root: Path, name: str, allowed: list[Path]) -> Path:
    """The path of a listed file or folder.

    Raises:
        Mismatch: it is not allowed, or a link leads to it.
    """
    path = root / name
    if not any(path.is_relative_to(one) for one in allowed):
        raise Mismatch(f"{name} may not be deleted by this list; the list was altered, move it away")
    _must_be_inside(root, path)
    return path


def _sync_parents(root: Path, listed: DeletionList, disk: Disk) -> None:
    """Make the deletion durable. A deleted folder took its entries with it: the folder above it is synced."""
    names = [*(one.path for one in listed.files), *listed.folders]
    for folder in dict.fromkeys((root / name).parent for name in names):
        if folder.is_dir():
            try:
                disk.sync_folder(folder)
            except OSError as error:
                raise _failed(folder, error) from error


def _failed(path: Path, error: OSError) -> LogWriteFailed:
    why = error.strerror or error
    return LogWriteFailed(f"cannot delete {path}: {why}; what replaces it is whole; run the command again")
