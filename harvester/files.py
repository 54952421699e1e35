"""Write, sync and rename files: every change to disk goes through one `Disk`.

Files are synced with the strongest sync the system offers, folders where the system supports it.
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import msgspec

from harvester.errors import DISK_ERRNOS, CannotRun, LogWriteFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from io import FileIO
    from pathlib import Path


_WINDOWS = os.name == "nt"
_REPLACE_TRIES = 50  # Windows refuses to replace a file while a reader has it open
_REPLACE_PAUSE_S = 0.02
_COPY_BYTES = 8 * 1024 * 1024


def _full_sync() -> Callable[[int], object]:
    """On macOS fsync leaves the bytes in the drive's cache; F_FULLFSYNC does not."""
    try:
        import fcntl
    except ImportError:  # Windows
        return os.fsync
    command = getattr(fcntl, "F_FULLFSYNC", None)
    return os.fsync if command is None else lambda handle: fcntl.fcntl(handle, command)


_FULL_SYNC = _full_sync()


T = TypeVar("T")
Content = bytes | Callable[[], bytes]
_SYNCS_AT_ONCE = 8


class Disk:
    """Write, sync and rename. Tests override single methods to make a disk fail."""

    def make_folder(self, path: Path) -> None:
        """Create a folder and missing parents; the caller syncs the folders that contain the new names."""
        path.mkdir(parents=True, exist_ok=True)

    def create(self, path: Path) -> FileIO:
        """Create and open a file, which must not exist, unbuffered."""
        return path.open("xb", buffering=0)

    def open_append(self, path: Path) -> FileIO:
        """Open a file for appending, unbuffered."""
        return path.open("ab", buffering=0)

    def write(self, file: FileIO, data: bytes) -> None:
        """Write all of `data`; a raw file may accept it in parts."""
        view = memoryview(data)
        while view:
            view = view[file.write(view) or 0 :]

    def fsync(self, file: FileIO) -> None:
        """Sync a file; returns when its bytes are on the disk."""
        self._sync(file.fileno(), _FULL_SYNC)

    def sync_folder(self, path: Path) -> None:
        """Make the names created in or renamed into `path` durable. Windows has no such call and does not need it."""
        if _WINDOWS:
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            self._sync(handle, os.fsync)
        finally:
            os.close(handle)

    def _sync(self, handle: int, sync: Callable[[int], object]) -> None:
        """Run a sync call. All syncs pass here, so a simulated power cut sees exactly the calls the system gets."""
        sync(handle)

    def sync_names(self, path: Path, root: Path) -> None:
        """Make the names of `path` and of every folder above it durable, up to those in `root`."""
        while path != root:
            path = path.parent
            self.sync_folder(path)

    def replace(self, source: Path, target: Path) -> None:
        """Rename over `target`; on Windows, retry briefly while a reader has it open."""
        for left in range(_REPLACE_TRIES, 0, -1):
            try:
                source.replace(target)
            except PermissionError:
                if not _WINDOWS or left == 1:
                    raise
                threading.Event().wait(_REPLACE_PAUSE_S)
            else:
                return

    def remove(self, path: Path) -> None:
        """Delete a file; no error when it does not exist."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Delete an empty folder."""
        path.rmdir()

    def remove_tree(self, path: Path) -> None:
        """Delete a folder and its content; links are deleted, not followed. No error when it does not exist."""
        if not path.exists():
            return
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.is_symlink():
                self.remove_tree(child)
            else:
                self.remove(child)
        self.remove_folder(path)

    def make_folders(self, path: Path) -> None:
        """Create a folder and missing parents, each durable before the next.

        The name of the lowest existing folder is synced too: a killed process may have created it without a sync.
        """
        missing: list[Path] = []
        while not path.exists():
            missing.append(path)
            path = path.parent
        with suppress(PermissionError):  # a folder above the home need not be readable
            self.sync_folder(path.parent)
        for one in reversed(missing):
            self.make_folder(one)
            self.sync_folder(one.parent)

    def truncate(self, path: Path, length: int) -> None:
        """Cut a file to `length` bytes, durably."""
        with path.open("r+b", buffering=0) as file:
            self.cut(file, length)
            self.fsync(file)

    def cut(self, file: FileIO, length: int) -> None:
        """Cut an open file to `length` bytes."""
        file.truncate(length)

    def sync_file(self, path: Path) -> None:
        """Sync a file that a killed process may have left unsynced."""
        with path.open("r+b", buffering=0) as file:
            self.fsync(file)

    def free_bytes(self, path: Path) -> int:
        return shutil.disk_usage(path).free

    def write_new(self, path: Path, data: bytes) -> None:
        """Create `path` with `data`, synced; the caller syncs its folder."""
        file = self.create(path)
        with file:
            self.write(file, data)
            self.fsync(file)

    def copy(self, source: Path, target: Path, start: int = 0) -> None:
        """Create `target` with the bytes of `source` from `start` on, synced; the caller syncs its folder."""
        with source.open("rb") as old, self.create(target) as new:
            old.seek(start)
            while piece := old.read(_COPY_BYTES):
                self.write(new, piece)
            self.fsync(new)

    def write_atomic(self, path: Path, data: bytes) -> None:
        """Replace the content of `path` durably; a reader sees the old bytes or the new ones, never a mixture."""
        temporary = path.with_name(f".{path.name}.new")
        self.remove(temporary)
        self.write_new(temporary, data)
        self.replace(temporary, path)
        self.sync_folder(path.parent)

    def write_cache(self, path: Path, data: bytes) -> None:
        """Like `write_atomic`, but not synced: for a file that may be lost or damaged by a power cut."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
        self.remove(temporary)
        try:
            with self.create(temporary) as file:
                self.write(file, data)
            self.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                self.remove(temporary)
            raise


def json_value(data: bytes | str, kind: type[T]) -> T:
    """Decode the JSON of a file. Every JSON file is read through this: msgspec alone has three kinds of errors.

    Raises:
        msgspec.MsgspecError: it is not JSON, not UTF-8, nested too deeply, or not of that type.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise msgspec.DecodeError(f"it is not UTF-8 text: byte {byte:#04x} at {error.start} of a text") from None
    except RecursionError:
        raise msgspec.DecodeError("it is nested too deeply") from None


def regular_file_size(path: Path) -> int:
    """Size of a regular file in bytes, -1 when it does not exist.

    Raises:
        OSError: the path is a link, a pipe, a device or a folder; opening it could block, or read outside the log.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return -1
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path.name} is not a plain file")
    return status.st_size


def put(path: Path, data: bytes, disk: Disk | None = None) -> bool:
    """Write `data` atomically: temporary file, sync, rename, sync of the folder. Equal files are not rewritten.

    Returns:
        Whether anything was written.

    Raises:
        CannotRun, LogWriteFailed: as `put_all`.
    """
    return put_all([(path, data)], disk) > 0


def put_all(files: Iterable[tuple[Path, Content]], disk: Disk | None = None) -> int:
    """Write many files as `put` writes one: all are synced before the first rename, folders last.

    A reader sees the old bytes or the new bytes of each file. Files are written while the next are still being created,
    with several syncs at a time, as a sync is mostly waiting.

    Args:
        files: path and bytes, or path and a function that returns them, called in another thread.
        disk: where to write.

    Returns:
        How many were written; equal files are not.

    Raises:
        LogWriteFailed: the disk is full or failing; every file has its old or its new bytes.
        CannotRun: a path is not writable, or is not a plain file.
    """
    disk = disk or Disk()
    begun: list[tuple[Path, Future[Path | None]]] = []
    try:
        written = _write_all(files, begun, disk)
        for path, temporary in written:
            with naming(path):
                disk.replace(temporary, path)
    except BaseException:
        for path, _ in begun:
            with suppress(OSError):  # the first error is the one to report
                disk.remove(_temporary_path(path))
        raise
    for folder in dict.fromkeys(path.parent for path, _ in written):
        with naming(folder):
            disk.sync_folder(folder)
    return len(written)


def _write_all(
    files: Iterable[tuple[Path, Content]], begun: list[tuple[Path, Future[Path | None]]], disk: Disk
) -> list[tuple[Path, Path]]:
    """Write and sync a temporary file for each file that changes; appends every path tried to `begun`.

    Returns:
        Each path with its temporary file.
    """
    folders: dict[Path, None] = {}
    with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
        for path, content in files:
            if path.parent not in folders:
                with naming(path):
                    make_folders(path.parent, disk)
                folders[path.parent] = None
            must_take_file(path)
            begun.append((path, pool.submit(_write_temporary, path, content, disk)))
        written: list[tuple[Path, Path]] = []
        for path, done in begun:
            with naming(path):
                if (temporary := done.result()) is not None:
                    written.append((path, temporary))
    return written


def _write_temporary(path: Path, content: Content, disk: Disk) -> Path | None:
    """Write and sync the temporary file of `path`; None when `path` already has these bytes."""
    data = content if isinstance(content, bytes) else content()
    if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
        return None
    temporary = _temporary_path(path)
    disk.remove(temporary)
    disk.write_new(temporary, data)
    return temporary


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Convert an OSError into an error that names the file.

    Raises:
        LogWriteFailed: the disk is full or failing.
        CannotRun: the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in DISK_ERRNOS
        failed, free = (LogWriteFailed, "free space or ") if full else (CannotRun, "")
        raise failed(f"cannot write {path}: {error.strerror or error}; {free}choose another folder") from error


def must_take_file(path: Path) -> None:
    """Reject a path that is a folder, a device or a pipe. A link is accepted: the link itself is replaced.

    Raises:
        CannotRun: the path cannot be replaced by a file.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:  # absent, or not reachable: the write itself will fail
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise CannotRun(f"cannot write {path}: it is {_what(mode)}; name a plain file")


def must_take_folder(path: Path) -> None:
    """Reject a path that cannot be a folder because it, or a parent, is something else.

    Raises:
        CannotRun: the path cannot be a folder.
    """
    for one in (path, *path.parents):
        if one.is_dir():
            return
        if os.path.lexists(one):
            raise CannotRun(f"cannot write below {one}: it is {_what(one.lstat().st_mode)}; name a folder")


def _what(mode: int) -> str:
    kinds = {stat.S_ISREG: "a file", stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISLNK: "a link"}
    return next((name for is_kind, name in kinds.items() if is_kind(mode)), "a device or socket")


def make_folders(folder: Path, disk: Disk) -> None:
    """Create a folder and missing parents, each durable before the next; see `Disk.make_folders`."""
    if not folder.is_dir():
        must_take_folder(folder)
    disk.make_folders(folder)
