"""The JSON format of every artefact, and atomic file writes.

UTF-8, keys in their given order, shortest round-trip numbers, no NaN, one time format.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from harvester.calendar import iso
from harvester.errors import DISK_ERRNOS, CannotRun, LogWriteFailed
from harvester.files import Disk
from harvester.units import MILLI_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

Content = bytes | Callable[[], bytes]
_SYNCS_AT_ONCE = 8

TIME_KEYS = frozenset((
    "ts", "time", "bucket_start", "bucket_end", "bucket_ts", "decision_ts", "entry_ts", "exit_ts", "first_ts",
    "last_ts", "TimestampUtc",
))  # fmt: skip
"""Keys whose integers are ns UTC inside Harvester and text (or epoch milliseconds) in a file."""


def times(value: Any, *, epoch_ms: bool = False) -> Any:
    """The same JSON value with every time under a key of `TIME_KEYS` as text.

    ISO-8601 UTC with trailing zeros trimmed and `Z`; with `epoch_ms` whole Unix milliseconds, rounded down.
    """
    if isinstance(value, dict):
        return {k: time_of(v, epoch_ms) if k in TIME_KEYS else times(v, epoch_ms=epoch_ms) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [times(v, epoch_ms=epoch_ms) for v in value]
    return value


def time_of(value: Any, epoch_ms: bool) -> Any:
    """One time as `times` writes it; other values than integers are returned unchanged."""
    if not isinstance(value, int):
        return value
    return value // MILLI_NS if epoch_ms else iso(value)


def json_file(value: Any) -> bytes:
    """A JSON file for people: indented by two, a newline at the end. A float that is not finite becomes null."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def times_file(document: str, keys: Sequence[str], *, epoch_ms: bool = False) -> bytes:
    """`json_file(times(...))` of a JSON document, without a Python object per number.

    `keys` are its only keys with times. In indented JSON `"ts": ` after a space is always a whole key: inside a text or
    a longer key its first quote would be escaped.
    """
    text = msgspec.json.format(document, indent=2)
    for key in keys:
        first, *others = text.split(f' "{key}": ')
        out = [first]
        for other in others:
            line, end, rest = other.partition("\n")
            out += (f' "{key}": ', _with_time(line, epoch_ms), end, rest)
        text = "".join(out)
    return f"{text}\n".encode()


@lru_cache(100_000)  # seconds of a day: the windows of episodes overlap
def _with_time(line: str, epoch_ms: bool) -> str:
    """The rest of a line after a key, its time as `times` writes it."""
    number = _INTEGER.fullmatch(line)
    return msgspec.json.encode(time_of(int(number[1]), epoch_ms)).decode() + number[2] if number else line


_INTEGER = re.compile("(-?[0-9]+)(,?)")


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    """One JSON object a line. A float that is not finite becomes null."""
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


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
        for path, beside in written:
            with naming(path):
                disk.replace(beside, path)
    except BaseException:
        for path, _ in begun:
            with suppress(OSError):  # of a disk that fails, the first failure is the one to tell
                disk.remove(_beside(path))
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
            begun.append((path, pool.submit(_write_beside, path, content, disk)))
        written: list[tuple[Path, Path]] = []
        for path, done in begun:
            with naming(path):
                if (beside := done.result()) is not None:
                    written.append((path, beside))
    return written


def _write_beside(path: Path, content: Content, disk: Disk) -> Path | None:
    """Write and sync the temporary file of `path`; None when `path` already has these bytes."""
    data = content if isinstance(content, bytes) else content()
    if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
        return None
    beside = _beside(path)
    disk.remove(beside)
    disk.write_new(beside, data)
    return beside


def _beside(path: Path) -> Path:
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
    """Make a folder and those above it, each durable before the next; see `Disk.make_folders`."""
    if not folder.is_dir():
        must_take_folder(folder)
    disk.make_folders(folder)


def envelope(
    schema: str,
    rows: list[dict[str, Any]],
    *,
    trading_date: str,
    run: str,
    through_seq: int,
    health: dict[str, Any],
    symbol: str | None = None,
    version: int = 1,
) -> dict[str, Any]:
    """The object around the rows of every JSON artefact."""
    head: dict[str, Any] = {"schema": schema, "schema_version": version, "trading_date": trading_date}
    if symbol is not None:
        head["symbol"] = symbol
    return head | {"run": run, "through_seq": through_seq, "health": health, "rows": rows}
