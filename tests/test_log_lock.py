"""The lock of a date allows one writer and names it; the note is for display only."""

from __future__ import annotations

import errno
import os
from datetime import date
from pathlib import Path

import msgspec
import pytest
from filelock import FileLock

from harvester.errors import CannotRun, HarvesterError, LockHeld, LogWriteFailed
from harvester.eventlog import lock as locks
from harvester.eventlog.lock import DateLock, LockHolder
from harvester.home import Home

DATE = date(2025, 7, 17)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(locks, "_PATIENCE_S", 0.02)
    return Home(tmp_path).prepare()


def note(home: Home) -> Path:
    return home.on(DATE).lock.with_suffix(".holder.json")


def test_one_writer_per_date(home: Home) -> None:
    """While a date is locked, no other writer gets it, and the error names the holder; after release it is free."""
    with DateLock(home.on(DATE), "record", lambda: 0) as mine:
        assert mine.held
        with pytest.raises(
            LockHeld, match=rf"2025-07-17 is held by process {os.getpid()} on .* \(record\) since 1970-"
        ):
            DateLock(home.on(DATE), "eod").acquire()
        with DateLock(home.on(date(2025, 7, 18))):
            pass
    assert not mine.held
    with DateLock(home.on(DATE), "eod") as other:
        assert other.held


def test_a_note_goes_with_its_lock(home: Home) -> None:
    """The note says who holds the date and why, and is removed with the lock; a second release has no effect."""
    lock = DateLock(home.on(DATE), "eod", lambda: 7)
    lock.acquire()
    holder = lock.holder()
    assert holder is not None
    assert (holder.pid, holder.purpose, holder.since) == (os.getpid(), "eod", 7)
    lock.release()
    lock.release()
    assert not note(home).exists()


def test_looking_takes_nothing(home: Home) -> None:
    """Another process can test whether a date is locked; the test leaves neither a lock nor a file."""
    looker = DateLock(home.on(DATE))
    assert looker.held_by() is None
    assert not home.on(DATE).lock.exists()
    with DateLock(home.on(DATE), "record"):
        holder = looker.held_by()
        assert holder is not None
        assert holder.purpose == "record"
    assert looker.held_by() is None
    assert not looker.held
    with DateLock(home.on(DATE)):
        pass


def test_a_lock_without_a_note_is_held(home: Home) -> None:
    """The lock of the operating system decides: without a note the date is held by an unknown process."""
    home.on(DATE).lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(home.on(DATE).lock)):
        holder = DateLock(home.on(DATE)).held_by()
        assert holder is not None
        assert holder.pid == 0
        with pytest.raises(LockHeld, match="held by another process"):
            DateLock(home.on(DATE)).acquire()


def test_a_note_left_behind_stops_nobody(home: Home) -> None:
    """A killed process leaves its note but no lock: the date is free, and the next holder replaces the note."""
    with DateLock(home.on(DATE)):
        pass
    note(home).write_bytes(msgspec.json.encode(LockHolder(99999, "gone", "record", 0)))
    assert DateLock(home.on(DATE)).held_by() is None
    with DateLock(home.on(DATE), "eod") as mine:
        holder = mine.holder()
        assert holder is not None
        assert (holder.pid, holder.purpose) == (os.getpid(), "eod")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b'{"pid": "x"}', b'{"pid": 1, "host": "\xff"}'])
def test_a_note_that_cannot_be_read_is_none(home: Home, text: bytes) -> None:
    """A damaged note counts as missing; it never ends a command."""
    note(home).parent.mkdir(parents=True, exist_ok=True)
    note(home).write_bytes(text)
    assert DateLock(home.on(DATE)).holder() is None


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, LogWriteFailed), (errno.EACCES, CannotRun)])
def test_a_lock_that_cannot_be_taken_says_why(
    home: Home, monkeypatch: pytest.MonkeyPatch, number: int, error: type[HarvesterError]
) -> None:
    """A full disk gives LogWriteFailed, a folder without write permission CannotRun."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    lock = DateLock(home.on(DATE))
    monkeypatch.setattr(lock._lock, "acquire", refuse)
    with pytest.raises(error, match=f"cannot take the lock .*: {os.strerror(number)}"):
        lock.acquire()
