"""Memory of schema 1 (Harvester 0.1 and 0.2): read its days, check its files, move them to `memory/versions/v1/`.

It pooled all kinds of days and is not continued: the chain is made from the datasets.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from harvester.errors import Mismatch
from harvester.files import Disk, json_value, naming, put

if TYPE_CHECKING:
    from pathlib import Path

    from harvester.home import Home

OLD_SCHEMA = 1


class OldDay(NamedTuple):
    """A day of an old memory: its date, and the rules that made its episodes."""

    date: str
    rules: int


def old_days(data: bytes) -> list[OldDay] | None:
    """The days of an intact memory of schema 1; None for anything else."""
    try:
        memory = json_value(data, dict[str, Any])
        body = {name: value for name, value in memory.items() if name != "hash"}
        sound = memory["schema_version"] == OLD_SCHEMA and memory["hash"] == _hash(body)
        return [OldDay(day["date"], day.get("rules", 1)) for day in memory["days"]] if sound else None
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        return None


def _hash(body: dict[str, Any]) -> str:
    return hashlib.blake2b(msgspec.json.encode(body), digest_size=16).hexdigest()


def old_folder(home: Home) -> Path:
    """Where memory of schema 1 is kept."""
    return home.memory_versions / f"v{OLD_SCHEMA}"


def move_old(home: Home, disk: Disk) -> list[Path]:
    """Move the files of schema 1 out of the folder of versions; `memory_latest.json` gets a copy there.

    Each copy is durable and read back before its original is deleted, so this may be interrupted and repeated.

    Returns:
        The new paths.

    Raises:
        Mismatch: a copy differs; its original stays.
        CannotRun, LogWriteFailed: the disk is not writable, full or failing.
    """
    folder, made = old_folder(home), []
    for path in sorted(home.memory_versions.glob("memory_*.json")):
        data = path.read_bytes()
        if old_days(data) is None:
            continue
        made.append(_copied(folder / path.name, data, disk))
        with naming(path):
            disk.remove(path)
            disk.sync_folder(path.parent)
    if home.memory_latest.is_file() and old_days(latest := home.memory_latest.read_bytes()) is not None:
        kept = sorted(folder.glob("*.json")) if folder.is_dir() else []
        if not any(path.read_bytes() == latest for path in kept):
            made.append(_copied(folder / home.memory_latest.name, latest, disk))
    return made


def _copied(path: Path, data: bytes, disk: Disk) -> Path:
    put(path, data, disk)
    if path.read_bytes() != data:
        raise Mismatch(f"{path}: read-back differs from what was written; nothing was deleted, check the disk")
    return path
