"""The JSON rules of every artefact, and the one way to put a file in its place.

UTF-8, keys in their given order, shortest round-trip numbers, no NaN, one way to write a time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from harvester.calendar import iso
from harvester.errors import CannotRun
from harvester.eventlog.disk import Disk

if TYPE_CHECKING:
    from pathlib import Path

MILLI_NS = 1_000_000

TIME_KEYS = frozenset((
    "ts", "time", "bucket_start", "bucket_end", "bucket_ts", "decision_ts", "entry_ts", "exit_ts", "first_ts",
    "last_ts", "TimestampUtc",
))  # fmt: skip
"""Keys whose integers are ns UTC inside Harvester and text (or epoch milliseconds) in a file."""


def times(value: Any, *, epoch_ms: bool = False) -> Any:
    """The same JSON value with every time under a key of `TIME_KEYS` written for people.

    ISO-8601 UTC with trailing zeros trimmed and `Z`; with `epoch_ms` whole Unix milliseconds, rounded down.
    """
    if isinstance(value, dict):
        return {k: _time(v, epoch_ms) if k in TIME_KEYS else times(v, epoch_ms=epoch_ms) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [times(v, epoch_ms=epoch_ms) for v in value]
    return value


def _time(value: Any, epoch_ms: bool) -> Any:
    if not isinstance(value, int):
        return value
    return value // MILLI_NS if epoch_ms else iso(value)


def no_nan(value: Any) -> Any:
    """The same JSON value with every float that is not finite replaced by None."""
    if isinstance(value, dict):
        return {k: no_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [no_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_file(value: Any) -> bytes:
    """A JSON file for people: indented by two, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(no_nan(value)), indent=2) + b"\n"


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    """One JSON object a line."""
    return b"".join(msgspec.json.encode(no_nan(row)) + b"\n" for row in rows)


def put(path: Path, data: bytes, disk: Disk | None = None) -> bool:
    """Put `data` in its place: written beside, synced, renamed, folder synced. Equal bytes are left alone.

    Returns:
        Whether anything was written.

    Raises:
        CannotRun: the disk refuses.
    """
    disk = disk or Disk()
    try:
        if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
            return False
        make_folders(path.parent, disk)
        disk.write_atomic(path, data)
    except OSError as error:
        raise CannotRun(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error
    return True


def make_folders(folder: Path, disk: Disk) -> None:
    """Make a folder and those above it, each durable before the next."""
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    if folder.is_dir():
        return
    for one in reversed(missing):
        disk.make_folder(one)
        disk.sync_folder(one.parent)


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
    """The object every JSON artefact is, unless the user's own shape is a bare list."""
    head: dict[str, Any] = {"schema": schema, "schema_version": version, "trading_date": trading_date}
    if symbol is not None:
        head["symbol"] = symbol
    return head | {"run": run, "through_seq": through_seq, "health": health, "rows": rows}


def put_bare_list(path: Path, rows: list[dict[str, Any]], meta: dict[str, Any], disk: Disk | None = None) -> None:
    """A list without its envelope, which goes into `<name>.meta.json` beside it."""
    put(path, json_file(rows), disk)
    put(path.with_name(path.name.removesuffix(".json") + ".meta.json"), json_file(meta), disk)
