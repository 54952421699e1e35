"""The versions of memory on disk: each is the memory through one day and the child of the one before.

    memory/versions/memory_<newest day>_<UTC time of its last event>.json     other content of that name: _r2, _r3 …
    memory/memory_latest.json                                                 the bytes of the newest version

A version file never changes. A version is found by its hash: `parent` is the hash of a version that exists, down to the
first, which has none. See docs/decisions/0021.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from harvester.errors import BadSetting, DamagedFile, HarvesterError, NoLog
from harvester.memory.fold_days import (
    REBUILD,
    Memory,
    days_of,
    decode,
    encode,
    fold,
    given_to_strategies,
    hash_of,
)
from harvester.memory.old_memory import old_days, old_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from harvester.home import DatePaths, Home
    from harvester.memory.day_summary import DaySummary
    from harvester.memory.fold_days import KnownDay


_STAMP_LENGTH = len("2025-07-17T14:04:00")
_PREFIX = "memory_"


class BrokenChain(HarvesterError):
    """A version that a memory descends from is missing, or is not its parent."""


class Chain:
    """The files of `memory/versions/` as they were when this was made."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._by_date: dict[str, list[Path]] = {}
        for path in sorted(home.memory_versions.glob(f"{_PREFIX}*.json")):
            self._by_date.setdefault(path.name[len(_PREFIX) :][: len("2025-07-17")], []).append(path)

    def path_of(self, date: str, value: str) -> Path | None:
        """The intact file of the version with this newest day and hash."""
        for path in self._by_date.get(date, ()):
            try:
                data = path.read_bytes()
            except OSError:
                continue
            if hash_of(data) == value:
                return path
        return None

    def find(self, date: str, value: str) -> Memory | None:
        """The version with this newest day and hash."""
        path = self.path_of(date, value)
        return None if path is None else decode(path.read_bytes(), path.name)

    def walk(self, latest: Memory) -> Iterator[Memory]:
        """Yield the version of `latest`, then its ancestors to the first.

        Raises:
            BrokenChain: one is missing, or does not hold the days before.
        """
        known, value, child = days_of(latest), latest["hash"], "memory_latest.json"
        while known:
            date = known[-1].date
            version = self.find(date, value)
            if version is None:
                raise BrokenChain(f"{child} descends from version {value} through {date}, which is missing; {REBUILD}")
            if days_of(version) != known or (version["parent"] is None) != (len(known) == 1):
                raise BrokenChain(f"version {value} through {date} does not hold the days of {child}; {REBUILD}")
            yield version
            known, value, child = known[:-1], version["parent"], f"version {value}"

    def path_for(self, date: str, last_ts: str, data: bytes) -> Path:
        """The path for a version: the file that has its bytes, else the next free name."""
        base = f"{_PREFIX}{date}_{last_ts[:_STAMP_LENGTH].translate(str.maketrans('T', '_', '-:'))}"
        revision = 1
        while True:
            path = self.home.memory_versions / (f"{base}.json" if revision == 1 else f"{base}_r{revision}.json")
            if not path.exists() or path.read_bytes() == data:
                return path
            revision += 1

    def all_days(self) -> set[str]:
        """The dates that any intact version names, those of schema 1 too."""
        dates: set[str] = set()
        for path in _version_files(self.home):
            try:
                dates |= _days_in(path.read_bytes(), path.name)
            except (OSError, HarvesterError):
                continue
        return dates


def latest_of(home: Home) -> Memory | None:
    """The newest memory; None without one, and for one of schema 1.

    Raises:
        HarvesterError: memory_latest.json is damaged.
    """
    try:
        data = home.memory_latest.read_bytes()
    except FileNotFoundError:
        return None
    return None if old_days(data) is not None else decode(data, str(home.memory_latest))


def excluded_path(paths: DatePaths) -> Path:
    """The mark of a date that `hv memory undo` took out of memory; its dataset stays."""
    return paths.dataset / "excluded.json"


def excluded_dates(home: Home) -> set[str]:
    """The dates with that mark, yyyy-MM-dd."""
    return {path.parent.name for path in (home.memory / "datasets").glob("????-??-??/excluded.json")}


def kept_in_datasets(home: Home) -> list[str]:
    """The dates whose episodes are kept, in order."""
    return sorted(path.parent.name for path in (home.memory / "datasets").glob("????-??-??/episodes.parquet"))


def known_dates(home: Home) -> set[str]:
    """The dates that memory holds or must hold: the days of `memory_latest.json` and every closed date.

    Without `memory_latest.json` also the days of every version and every dataset. Excluded dates are left out.

    Raises:
        HarvesterError: memory_latest.json is damaged.
    """
    try:
        latest = home.memory_latest.read_bytes()
    except FileNotFoundError:
        return all_known(home)
    return (_days_in(latest, str(home.memory_latest)) | _closed(home)) - excluded_dates(home)


def all_known(home: Home) -> set[str]:
    """The dates that any file names: versions, end-of-day marks and datasets; excluded ones are left out."""
    return (Chain(home).all_days() | _closed(home) | set(kept_in_datasets(home))) - excluded_dates(home)


def _closed(home: Home) -> set[str]:
    return {path.parent.name for path in (home.memory / "datasets").glob("????-??-??/closed.json")}


def _days_in(data: bytes, where: str) -> set[str]:
    """The dates of a memory of any schema."""
    old = old_days(data)
    return {day.date for day in (days_of(decode(data, where)) if old is None else old)}


def lost_datasets(home: Home, dates: Iterable[str]) -> list[DamagedFile]:
    """The datasets that are missing for these known dates, as errors."""
    there = set(kept_in_datasets(home))
    return [_lost(home, date) for date in sorted(set(dates) - there)]


def _lost(home: Home, date: str) -> DamagedFile:
    move = (
        f"restore it from a backup, or run `hv eod --date {date}` if its log still exists; `hv memory undo {date}` "
        "makes a memory without it"
    )
    path = home.memory / "datasets" / date / "episodes.parquet"
    return DamagedFile(str(path), f"missing, and memory holds {date}", move)


class Continuation(NamedTuple):
    """How memory changes.

    Attributes:
        base: the newest version that stays, None when the chain begins again.
        dates: the days that are folded after it, in order.
        broken: why the chain was not whole, "" when it was.
    """

    base: Memory | None
    dates: Sequence[str]
    broken: str


def continuation(
    chain: Chain, latest: Memory | None, wanted: Sequence[str], changed: Mapping[str, KnownDay]
) -> Continuation:
    """Where the chain of the `wanted` dates, in order, leaves the one of `latest`.

    Args:
        chain: the versions on disk.
        latest: the newest memory.
        wanted: all dates the new memory holds.
        changed: the rows of the days that are folded; the others are as in `latest`.
    """
    if latest is None:
        return Continuation(None, wanted, "")
    before = days_of(latest)
    known = {day.date: day for day in before}
    rows = [changed.get(date) or known.get(date) for date in wanted]
    same = 0
    while same < min(len(rows), len(before)) and rows[same] == before[same]:
        same += 1
    base = None
    try:
        for version in chain.walk(latest):
            if len(version["days"]) == same:
                base = version
    except BrokenChain as error:
        return Continuation(None, wanted, str(error))
    return Continuation(base, wanted[same:], "")


def new_versions(chain: Chain, base: Memory | None, days: Iterable[DaySummary]) -> Iterator[tuple[Path, bytes, Memory]]:
    """Yield path, bytes and memory of the version of each day after those of `base`, in date order."""
    memory = base
    for day in days:
        memory = fold(memory, day)
        data = encode(memory)
        yield chain.path_for(day.date, day.last_ts, data), data, memory


def damage_of_memory(home: Home) -> list[DamagedFile]:
    """What of `memory/` differs from what was written.

    Every file of `versions/`, superseded ones too, is compared with its hash; the chain of `memory_latest.json` is
    walked to its beginning; every day in it must have its dataset.
    """
    found = [damage for path in _version_files(home) for damage in _damage(path)]
    try:
        latest = latest_of(home)
        known = known_dates(home) if home.memory_latest.exists() else set()
        if latest is not None:
            found += _half_excluded(home, latest)
            for _ in Chain(home).walk(latest):
                pass
    except BrokenChain as error:
        what, _, move = str(error).rpartition("; ")
        found.append(DamagedFile(str(home.memory_versions), what, move))
    except OSError as error:
        found.append(DamagedFile(str(home.memory_latest), f"cannot be read: {error.strerror or error}", REBUILD))
    except HarvesterError:
        found.append(DamagedFile(str(home.memory_latest), "it does not match its hash", REBUILD))
    else:
        found += lost_datasets(home, known)
    return found


def _half_excluded(home: Home, latest: Memory) -> list[DamagedFile]:
    """Dates that memory holds although they are marked excluded: `hv memory undo` was interrupted."""
    both = sorted({day.date for day in days_of(latest)} & excluded_dates(home))
    what = "it is marked excluded, and memory holds it"
    move = "run `hv memory undo {0}`, or with --include, again"
    return [DamagedFile(str(home.memory / "datasets" / date), what, move.format(date)) for date in both]


def _version_files(home: Home) -> list[Path]:
    return [*sorted(home.memory_versions.glob(f"{_PREFIX}*.json")), *sorted(old_folder(home).glob("*.json"))]


def _damage(path: Path) -> list[DamagedFile]:
    move = "restore it from a backup, or move it away: if memory needs it, `hv memory rebuild` makes it again"
    try:
        data = path.read_bytes()
    except OSError as error:
        return [DamagedFile(str(path), f"cannot be read: {error.strerror or error}", move)]
    if old_days(data) is not None:
        return []
    try:
        decode(data, path.name)
    except HarvesterError:
        return [DamagedFile(str(path), "it does not match its hash", move)]
    return []


def memory_given(home: Home) -> dict[str, Any] | None:
    """The memory of earlier days passed to strategies, for `RunParams.build(memory=...)`; None without memory.

    Raises:
        HarvesterError: memory_latest.json is damaged.
    """
    latest = latest_of(home)
    return None if latest is None else given_to_strategies(latest)


def version_named(home: Home, wanted: str | None) -> Memory:
    """The version that a user names; None is the newest.

    `wanted` is a date (the current version through that day), the first digits of a hash, or a file name.

    Raises:
        NoLog: there is no memory, or no such version.
        BadSetting: several versions begin with these digits.
        HarvesterError: the file is damaged.
    """
    latest = latest_of(home)
    if latest is None:
        old = "; it is of an older form, which the next `hv eod` makes again" if home.memory_latest.exists() else ""
        raise NoLog(f"no memory in {home.memory}{old or '; fold a date with `hv eod --date`'}")
    if wanted is None:
        return latest
    if wanted.endswith(".json"):
        path = home.memory_versions / wanted.rpartition("/")[2]
        if not path.is_file():
            raise NoLog(f"{path} does not exist; `hv memory history` lists the versions")
        return decode(path.read_bytes(), str(path))
    if any(day.date == wanted for day in days_of(latest)):
        return next(version for version in Chain(home).walk(latest) if version["date"] == wanted)
    found = _with_hash(home, wanted) if _HEX.fullmatch(wanted) else {}
    if not found:
        raise NoLog(f"no version of memory is {wanted!r}; `hv memory history` lists dates, hashes and files")
    if len(found) > 1:
        raise BadSetting(f"{len(found)} versions begin with {wanted}: {', '.join(sorted(found))}; give more digits")
    return next(iter(found.values()))


_HEX = re.compile("[0-9a-f]{4,32}")


def _with_hash(home: Home, begin: str) -> dict[str, Memory]:
    found: dict[str, Memory] = {}
    for path in sorted(home.memory_versions.glob(f"{_PREFIX}*.json")):
        data = path.read_bytes()
        value = hash_of(data)
        if value is not None and value.startswith(begin):
            found[value] = decode(data, str(path))
    return found


def differences(first: Memory, second: Memory) -> list[dict[str, Any]]:
    """What differs between two memories: `what` is a path of keys and names, None is absent."""
    one, other = ({name: value for name, value in m.items() if name not in _NOT_COMPARED} for m in (first, second))
    return list(_different("", _by_name(one), _by_name(other)))


_NOT_COMPARED = ("hash", "parent", "day_columns", "sum_columns", "pools", "symbol_sums", "setup_sums")


def _by_name(value: Any) -> Any:
    """Lists of rows as mappings by what names a row."""
    if isinstance(value, dict):
        return {name: _by_name(one) for name, one in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], list):
        return {row[0]: row[1:] for row in value}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {_row_name(row): {k: _by_name(v) for k, v in row.items()} for row in value}
    return {} if value == [] else value


def _row_name(row: Mapping[str, Any]) -> str:
    return " ".join(str(row[name]) for name in ("kind", "setup", "symbol", "mode", "reason") if name in row)


def _different(where: str, first: Any, second: Any) -> Iterator[dict[str, Any]]:
    if isinstance(first, dict) and isinstance(second, dict):
        for name in [*first, *(name for name in second if name not in first)]:
            yield from _different(f"{where}.{name}" if where else name, first.get(name), second.get(name))
    elif first != second:
        yield {"what": where, "first": first, "second": second}
