"""Build the files of `exports/` from a projected date, and compare the files on disk with them."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from harvester.artefacts.bucket_files import of_symbols, with_gate_codes
from harvester.artefacts.candle_files import candle_files
from harvester.artefacts.day_picture import day_picture, panels_of
from harvester.artefacts.json_files import VERSION, envelope, json_file, times
from harvester.artefacts.table_files import about as about_of
from harvester.artefacts.table_files import parquet_file, parquet_table
from harvester.errors import CannotRun, DamagedLog, UnknownSymbol
from harvester.files import json_value
from harvester.home import file_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from harvester.files import Content
    from harvester.home import Home
    from harvester.rebuild.project_result import ProjectResult

_NAMES_LENGTH_MAX = 100


class FilesPart(msgspec.Struct, kw_only=True):
    """The result of comparing files on disk with the projection.

    Attributes:
        checked: number of files compared.
        early: files of an earlier export of the unfinished day, and files that export did not write; no differences.
        note: why nothing, or not everything, was compared.
        status: equal, different or not compared.
    """

    checked: int = 0
    differences: list[str] = []
    early: list[str] = []
    note: str = ""
    status: str = "not compared"

    def judged(self) -> FilesPart:
        """The same object, with its status set."""
        self.status = "different" if self.differences else "equal"
        return self


def tables_of(projection: ProjectResult, symbols: Sequence[str] | None) -> dict[str, pa.Table]:
    """The date's tables, restricted to these symbols (None: all).

    Raises:
        CannotRun: `symbols` is empty.
        UnknownSymbol: a symbol was not recorded on the date.
    """
    if symbols is None:
        return dict(projection.tables)
    check_symbols(projection, symbols)
    tables = {
        name: table if name == "health" else of_symbols(table, symbols) for name, table in projection.tables.items()
    }
    of_date = pc.is_null(tables["health"]["symbol"])
    of_them = pc.is_in(tables["health"]["symbol"], pa.array(symbols, pa.string()))
    return tables | {"health": tables["health"].filter(pc.or_(of_date, of_them))}


def check_symbols(projection: ProjectResult, symbols: Sequence[str]) -> None:
    """Reject an empty list of symbols, and symbols that were not recorded on the date.

    Raises:
        CannotRun: `symbols` is empty.
        UnknownSymbol: a symbol was not recorded on the date.
    """
    known = sorted(set(projection.tables["buckets"]["symbol"].to_pylist()))
    recorded = f"(recorded: {', '.join(known) or 'none'})"
    if not symbols:
        raise CannotRun(f"no symbol is given; give some that were recorded on {projection.trading_date} {recorded}")
    if unknown := [symbol for symbol in symbols if symbol not in known]:
        names = f"{', '.join(map(repr, unknown))} {'was' if len(unknown) == 1 else 'were'}"
        raise UnknownSymbol(f"{names} not recorded on {projection.trading_date} {recorded}")


def part_of(symbols: Sequence[str] | None) -> str:
    """The symbols in file names, sorted, as `_ACME+BOLT`; a list that is too long becomes its length and hash."""
    if symbols is None:
        return ""
    names = "+".join(sorted({file_name(symbol) for symbol in symbols}))
    if len(names) <= _NAMES_LENGTH_MAX:
        return f"_{names}"
    return f"_{len(set(symbols))}_symbols_{hashlib.blake2b(names.encode(), digest_size=6).hexdigest()}"


def exports_of(projection: ProjectResult, tables: dict[str, pa.Table], part: str) -> Iterator[tuple[str, Content]]:
    """(name, content) of every file but the episodes; `part` is in the names of files that cover some symbols only.

    Files that are slow to encode outside the GIL are returned as functions, so that another thread can encode them.
    """
    day = projection.trading_date.isoformat()
    yield from _exports(projection, tables, part).items()
    yield from _candles(projection, tables).items()
    title = f"{day}: {projection.rows:,} events, {tables['episodes'].num_rows} episodes"
    yield f"day_{day}{part}.svg", day_picture(title, panels_of(tables["buckets"], tables["episodes"])).encode()


def _candles(projection: ProjectResult, tables: dict[str, pa.Table]) -> dict[str, bytes]:
    return candle_files(
        tables["candles"],
        tables["signals"],
        projection.runs,
        trading_date=projection.trading_date.isoformat(),
        health=projection.health,
        epoch_ms=projection.toggles.get("episode_epoch_ms", False),
    )


def _exports(projection: ProjectResult, tables: dict[str, pa.Table], part: str) -> dict[str, Callable[[], bytes]]:
    """Name → function that encodes the file, for files with one table of the date each."""
    day = f"{projection.trading_date.isoformat()}{part}"

    def buckets() -> bytes:
        return parquet_file(with_gate_codes(tables["buckets"], tables["decisions"]), about_projection(projection))

    return {
        f"buckets_{day}.parquet": buckets,
        f"decisions_{day}.parquet": partial(parquet_file, tables["decisions"], about_projection(projection)),
        f"fills_{day}.json": partial(_rows_file, "harvester.fills", projection, tables["fills"]),
        f"health_{day}.json": partial(_rows_file, "harvester.health", projection, tables["health"]),
    }


def day_exports(projection: ProjectResult, tables: dict[str, pa.Table], part: str = "") -> dict[str, bytes]:
    """Name → bytes of the files with one table of the date each."""
    return {name: make() for name, make in _exports(projection, tables, part).items()}


def about_projection(projection: ProjectResult) -> dict[str, str]:
    """The metadata of a Parquet file of a projected date."""
    return {
        "trading_date": projection.trading_date.isoformat(),
        "content_hash": projection.identity,
        "through_seq": str(projection.last_seq),
        "run": projection.run,
        "kind": projection.health["kind"],
        "schema_version": str(VERSION),
    }


def _rows_file(schema: str, projection: ProjectResult, table: pa.Table) -> bytes:
    body = envelope(
        schema,
        table.to_pylist(),
        trading_date=projection.trading_date.isoformat(),
        run=projection.run,
        through_seq=projection.last_seq,
        health=projection.health,
    )
    return json_file(times(body, epoch_ms=projection.toggles.get("episode_epoch_ms", False)))


def compare_exports(home: Home, projection: ProjectResult) -> FilesPart:
    """Compare the files in `exports/`, except the picture, with the projection; those of an earlier export are `early`.

    Missing files are reported only if a table file of the whole date exists, proof that the whole date was exported.
    Candle files are no proof: they have the same names after an export with `--symbols`.
    """
    result = FilesPart(note="the picture is not compared")
    of_date, missing = day_exports(projection, projection.tables), []
    for name, wanted in (of_date | _candles(projection, projection.tables)).items():
        path = home.exports() / name
        if path.is_file():
            result.checked += 1
            _compare(result, path, wanted, partial(_other_times, projection, name))
        else:
            missing.append(name)
    if result.early:
        result.early += [
            f"exports/{name}: not written by the earlier export; `hv project` writes it" for name in missing
        ]
    elif not of_date.keys() <= set(missing):
        result.differences += [f"exports/{name}: missing" for name in missing]
    if not result.checked:
        return FilesPart(note="not compared: none of the whole date in exports/; `hv project` writes them")
    return result.judged()


def _other_times(projection: ProjectResult, name: str) -> bytes:
    """A file as an export with the other setting of `episode_epoch_ms` writes it."""
    epoch_ms = projection.toggles.get("episode_epoch_ms", False)
    other = projection.with_toggles({"episode_epoch_ms": not epoch_ms})
    tables = _exports(other, other.tables, "")
    return tables[name]() if name in tables else _candles(other, other.tables)[name]


def _compare(result: FilesPart, path: Path, wanted: bytes, other: Callable[[], bytes]) -> None:
    """Compare one file with the projection, then with `other`, the same with other times.

    Files of the whole date come first: their seq shows whether the export is an earlier one.
    """
    name = f"exports/{path.name}"
    try:
        actual, expected = _parse(path.read_bytes(), path.suffix), _parse(wanted, path.suffix)
    except (OSError, DamagedLog, pa.ArrowException, msgspec.MsgspecError, ValueError):
        result.differences.append(f"{name}: unreadable")
        return
    if actual.same(expected):
        return
    if actual.version < expected.version:
        result.early.append(f"{name}: made by an older Harvester, version {actual.version}; `hv project` rewrites it")
        return
    through = actual.through_seq
    versions = [expected] if path.suffix == ".parquet" else [expected, _parse(other(), path.suffix)]
    if actual.same(versions[-1]):
        return
    # A run's candle files contain the health of the date, which continued after the run.
    late_health = result.early and any(actual.same(one._replace(health=actual.health)) for one in versions)
    if through < expected.through_seq or late_health:
        result.early.append(f"{name}: of an earlier export, through seq {through}; `hv project` rewrites it")
    else:
        result.differences.append(f"{name}: different")


class _ReadFile(NamedTuple):
    """The parts of an export file that are compared.

    Attributes:
        version: `schema_version`.
        content: its bytes; for Parquet the table, because another version of Arrow may encode it differently.
        health: the health of a JSON file, which `content` then leaves out.
    """

    through_seq: int
    version: int
    content: Any
    health: Any = None

    def same(self, other: _ReadFile) -> bool:
        if isinstance(self.content, pa.Table):
            equal: bool = self.content.equals(other.content, check_metadata=True)
            return equal
        return self[:] == other[:]


def _parse(data: bytes, suffix: str) -> _ReadFile:
    if suffix == ".parquet":
        table = parquet_table(data)
        about = about_of(table)
        return _ReadFile(int(about.get("through_seq", 0)), int(about.get("schema_version", 1)), table)
    head = json_value(data, _Head)
    return _ReadFile(
        head.through_seq, head.schema_version, data.replace(bytes(head.health), b"", 1), bytes(head.health)
    )


class _Head(msgspec.Struct):
    """The header fields of a JSON export."""

    schema_version: int
    through_seq: int
    health: msgspec.Raw
