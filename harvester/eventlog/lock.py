"""Allow one writer per date with an operating-system file lock, and name its holder in a note next to the lock file.

Memory has such a lock too, without a note.

Only the lock blocks: the system releases it when its process exits, so the note of a killed process blocks nobody.
"""

from __future__ import annotations

import os
import platform
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import msgspec
from filelock import FileLock, Timeout

from harvester.clock import real_wall_ns
from harvester.errors import DISK_ERRNOS, CannotRun, LockHeld, LogWriteFailed
from harvester.files import Disk, json_value
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from harvester.home import DatePaths, Home

_PATIENCE_S = 0.5  # longer than `held_by` holds the lock to test it
_NOTE_BYTES_MAX = 4096
_MEMORY_PATIENCE_S = 60.0  # a memory of a year is made from nothing in a sixth of it


class LockHolder(msgspec.Struct, frozen=True):
    """Who holds a date's lock: process id, host name, purpose, since when (ns UTC)."""

    pid: int
    host: str
    purpose: str
    since: int

    def __str__(self) -> str:
        try:
            since = datetime.fromtimestamp(self.since // SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        except (OverflowError, OSError, ValueError):
            since = "an unknown time"
        return f"process {self.pid} on {self.host} ({self.purpose}) since {since}"


class DateLock:
    """The writer lock of a trading date. Use it as a context manager, or `acquire` and `release`."""

    def __init__(self, paths: DatePaths, purpose: str = "record", now_ns: Callable[[], int] = real_wall_ns) -> None:
        self._date, self._purpose, self._now_ns = paths.trading_date, purpose, now_ns
        self._path = paths.lock
        self._note = self._path.with_suffix(".holder.json")
        # A recorder may acquire in one thread and commit in another: the lock belongs to the process.
        self._lock = FileLock(str(self._path), thread_local=False)
        self._disk = Disk()

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return bool(self._lock.is_locked)

    def acquire(self) -> DateLock:
        """Take the lock.

        Raises:
            LockHeld: another process (or another part of this one) holds it.
            LogWriteFailed: the disk is full or failing.
            CannotRun: the lock file cannot be created, because the folder is not writable.
        """
        try:
            self._disk.make_folder(self._path.parent)
            self._lock.acquire(timeout=_PATIENCE_S, poll_interval=0.02)
        except Timeout:
            by = self.holder() or "another process"
            raise LockHeld(f"{self._date} is held by {by}; wait for it or stop it, then try again") from None
        except OSError as error:
            failed = LogWriteFailed if error.errno in DISK_ERRNOS else CannotRun
            raise failed(f"cannot take the lock {self._path}: {error.strerror or error}") from error
        holder = LockHolder(os.getpid(), platform.node(), self._purpose, self._now_ns())
        with suppress(OSError):  # the note is for display only: the lock works without it
            self._disk.write_cache(self._note, msgspec.json.encode(holder))
        return self

    def release(self) -> None:
        """Release the lock; no effect when it is not held."""
        if self.held:
            with suppress(OSError):
                self._disk.remove(self._note)
            self._lock.release()

    def holder(self) -> LockHolder | None:
        """The holder named in the note, whether or not the lock is still held."""
        try:
            with self._note.open("rb") as file:
                return json_value(file.read(_NOTE_BYTES_MAX), LockHolder)
        except (OSError, msgspec.MsgspecError):
            return None

    def held_by(self) -> LockHolder | None:
        """The current holder of the lock, None when it is free; `hv status` calls it from another process."""
        if not self._path.exists():
            return None
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return self.holder() or LockHolder(0, "an unknown host", "unknown", 0)
        except OSError:
            return None
        self._lock.release()
        return None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@contextmanager
def memory_lock(home: Home) -> Iterator[None]:
    """Hold the lock of `memory_latest.json` and the versions; waits while another process changes them.

    Raises:
        LockHeld: another process holds it for longer than a minute.
        LogWriteFailed: the disk is full or failing.
        CannotRun: the lock file cannot be created.
    """
    path = home.temp / "locks" / "memory.lock"
    lock = FileLock(str(path), thread_local=False)
    try:
        Disk().make_folder(path.parent)
        lock.acquire(timeout=_MEMORY_PATIENCE_S, poll_interval=0.05)
    except Timeout:
        raise LockHeld("another process is changing memory; wait for it, then try again") from None
    except OSError as error:
        failed = LogWriteFailed if error.errno in DISK_ERRNOS else CannotRun
        raise failed(f"cannot take the lock {path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
