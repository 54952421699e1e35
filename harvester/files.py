"""The outermost edge of the log: everything it writes passes through one `Disk`.

Portable: folders are synced where the system knows such a thing, files with the strongest sync it offers.
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO
    from pathlib import Path

    from harvester.home import Home

MARGIN_BYTES = 64 * 1024 * 1024
"""Free bytes a commit must leave: room to end the run, write the manifest and recover."""

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


class Disk:
    """Write, sync and rename. Tests override single methods to make a disk fail."""

    def make_folder(self, path: Path) -> None:
        """Make a folder and the missing ones above it; the folders that hold their names are the caller's to sync."""
        path.mkdir(parents=True, exist_ok=True)

    def create(self, path: Path) -> FileIO:
        """Open a file that must not exist, unbuffered."""
        return path.open("xb", buffering=0)

    def open_append(self, path: Path) -> FileIO:
        """Open a file that exists, to append, unbuffered."""
        return path.open("ab", buffering=0)

    def write(self, file: FileIO, data: bytes) -> None:
        """Write all of `data`; a raw file may take it in parts."""
        view = memoryview(data)
        while view:
            view = view[file.write(view) or 0 :]

    def fsync(self, file: FileIO) -> None:
        """Return when the bytes are on the medium."""
        self._sync(file.fileno(), _FULL_SYNC)

    def sync_folder(self, path: Path) -> None:
        """Make names created in or renamed into `path` durable. Windows has no such call and does not need it."""
        if _WINDOWS:
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            self._sync(handle, os.fsync)
        finally:
            os.close(handle)

    def _sync(self, handle: int, sync: Callable[[int], object]) -> None:
        """Every sync ends here: a disk that simulates a power cut sees the calls that really reach the system."""
        sync(handle)

    def sync_names(self, path: Path, root: Path) -> None:
        """Make the names of `path` and of every folder above it durable, up to those in `root`."""
        while path != root:
            path = path.parent
            self.sync_folder(path)

    def replace(self, source: Path, target: Path) -> None:
        """Rename over `target`, waiting a moment for readers on Windows."""
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
        """Delete a file; one that is gone is fine."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Delete an empty folder."""
        path.rmdir()

    def remove_tree(self, path: Path) -> None:
        """Delete a folder and everything in it; links are deleted, not followed. One that is gone is fine."""
        if not path.exists():
            return
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.is_symlink():
                self.remove_tree(child)
            else:
                self.remove(child)
        self.remove_folder(path)

    def make_folders(self, path: Path) -> None:
        """Make a folder and those missing above it, each durable before the next.

        The name of the lowest that is there may be in the cache alone, left by a process that died as it made it.
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
        """Make what a dead process left in the system's cache durable."""
        with path.open("r+b", buffering=0) as file:
            self.fsync(file)

    def free_bytes(self, path: Path) -> int:
        return shutil.disk_usage(path).free

    def write_new(self, path: Path, data: bytes) -> None:
        """Create `path` holding `data`, synced; its folder is the caller's to sync."""
        file = self.create(path)
        with file:
            self.write(file, data)
            self.fsync(file)

    def copy(self, source: Path, target: Path, start: int = 0) -> None:
        """Create `target` with what `source` holds from byte `start` on, synced; its folder is the caller's to sync."""
        with source.open("rb") as old, self.create(target) as new:
            old.seek(start)
            while piece := old.read(_COPY_BYTES):
                self.write(new, piece)
            self.fsync(new)

    def write_atomic(self, path: Path, data: bytes) -> None:
        """Replace `path` by `data` so that a reader sees the old bytes or the new ones, never a mixture."""
        beside = path.with_name(f".{path.name}.new")
        self.remove(beside)
        self.write_new(beside, data)
        self.replace(beside, path)
        self.sync_folder(path.parent)

    def write_cache(self, path: Path, data: bytes) -> None:
        """As `write_atomic`, but not synced: for a file that may be lost, or hold anything, after a power cut."""
        beside = path.with_name(f".{path.name}.{os.getpid()}.new")
        self.remove(beside)
        try:
            with self.create(beside) as file:
                self.write(file, data)
            self.replace(beside, path)
        except OSError:
            with suppress(OSError):
                self.remove(beside)
            raise


@dataclass(frozen=True)
class Forecast:
    """How long the disk lasts: free bytes, bytes per second, seconds (None when nothing is written)."""

    free_bytes: int
    bytes_per_second: float
    seconds: float | None

    def __str__(self) -> str:
        left = f"{size_text(self.free_bytes)} left"
        return left if self.seconds is None else f"{left} = {duration_text(self.seconds)}"


def disk_forecast(home: Home, bytes_per_second: float) -> Forecast:
    """Tell how long the disk under `home` lasts at this rate, the margin kept free.

    Raises:
        OSError: no folder of `home` exists up to the root.
    """
    folder = home.events
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    seconds = max(free - MARGIN_BYTES, 0) / bytes_per_second if bytes_per_second > 0 else None
    return Forecast(free, bytes_per_second, seconds)


def size_text(n_bytes: float) -> str:
    """Bytes for people, decimal units: `5.0 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def duration_text(seconds: float) -> str:
    """Seconds for people: `3.1 days`."""
    for unit, length in (("years", 31_557_600), ("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def regular_file_size(path: Path) -> int:
    """Size of a plain file in bytes, -1 when there is none.

    Raises:
        OSError: the name stands for a link, a pipe, a device or a folder; opening such a thing could hang or read
            from outside the log.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return -1
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path.name} is not a plain file")
    return status.st_size
