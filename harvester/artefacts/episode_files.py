"""Episode files: `temp/episodes/<date>/<symbol>/<trade_id>.json`, and on request the series beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from harvester.artefacts.json_files import json_lines, times, times_file
from harvester.files import json_value, put_all
from harvester.home import file_name
from harvester.projections.trading.episodes import SCHEMA_VERSION
from harvester.projections.trading.position import DATA_END

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from harvester.files import Disk

WAY_OUT = {
    "different": "`hv project` rewrites it",
    "unreadable": "`hv project` rewrites it",
    "unexpected": "not a file of this date: move it away",
    "missing": "`hv project` writes it",
}
"""The next move, by kind of difference."""


@dataclass(frozen=True)
class Difference:
    """A file that differs from the projection; `what` is one of different, unreadable, unexpected, missing."""

    path: Path
    what: str


SERIES_SUFFIX = ".series.jsonl"


class _Name(msgspec.Struct):
    """The parts of a document that name its files."""

    symbol: str
    trade_id: str


def episode_files(document: str, *, epoch_ms: bool = False, series_jsonl: bool = False) -> dict[str, bytes]:
    """The files of one episode, by path below the date's folder (`/` between its parts)."""
    name = _name.decode(document)
    base = f"{file_name(name.symbol)}/{name.trade_id}"
    files = {f"{base}.json": times_file(document, _TIMES, epoch_ms=epoch_ms)}
    if series_jsonl:
        rows = series_rows(msgspec.json.decode(document))
        files[f"{base}{SERIES_SUFFIX}"] = json_lines([times(row, epoch_ms=epoch_ms) for row in rows])
    return files


_name = msgspec.json.Decoder(_Name)
_TIMES = ("ts",)  # the only key of an episode that holds times


def series_rows(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The series of an episode, one row a second, under the names of the series files."""
    return [
        {
            "trade_id": made["trade_id"],
            "symbol": made["symbol"],
            "ts": row["ts"],
            "mark": row["mark"],
            "spread": row["spread"],
            "imb": row["imbalance"],
            "tape_buy": row["tape_buy"],
            "tape_sell": row["tape_sell"],
            "vol": row["volatility_proxy"],
            "gate_codes": row["gate_codes"] or [],
        }
        for row in made["series"]
    ]


def each_file(
    documents: Iterable[str], *, epoch_ms: bool = False, series_jsonl: bool = False
) -> Iterator[tuple[str, bytes]]:
    """Yield the path below the date's folder and the bytes of each file of a date's episodes."""
    for document in documents:
        yield from episode_files(document, epoch_ms=epoch_ms, series_jsonl=series_jsonl).items()


def day_files(documents: Iterable[str], *, epoch_ms: bool = False, series_jsonl: bool = False) -> dict[str, bytes]:
    """The files of all episodes of a date, by path below the date's folder."""
    return dict(each_file(documents, epoch_ms=epoch_ms, series_jsonl=series_jsonl))


def write_day(folder: Path, files: Mapping[str, bytes], disk: Disk | None = None) -> int:
    """Put the files below the date's folder; returns how many were written (equal ones are skipped)."""
    return put_all([(folder / name, files[name]) for name in sorted(files)], disk)


def compare_day(folder: Path, *versions: Mapping[str, bytes]) -> list[Difference]:
    """Files below the date's folder that differ from the projection, in the order of paths. Links are not followed.

    A file may match any of `versions` (the same episodes with other settings); only files of the first can be missing.
    """
    found: list[Difference] = []
    on_disk = sorted(p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()) if folder.is_dir() else []
    for path in on_disk:
        name = path.relative_to(folder).as_posix()
        wanted = [files[name] for files in versions if name in files]
        try:
            if path.is_symlink() or not wanted:
                found.append(Difference(path, "unexpected"))
            elif path.read_bytes() not in wanted:
                found.append(Difference(path, "different"))
        except OSError:
            found.append(Difference(path, "unreadable"))
    present = {path.relative_to(folder).as_posix() for path in on_disk}
    found += [Difference(folder / name, "missing") for name in sorted(versions[0]) if name not in present]
    return found


def superseded(differences: Iterable[Difference], documents: Iterable[str]) -> list[Path]:
    """The files that an earlier projection left, for trades that have since ended differently.

    Such a file has the exit DATA_END, and its decision is in the new projection under another name; or it was made by
    an older version of the rules of simulated trading.
    """
    unexpected = [d.path for d in differences if d.what == "unexpected" and not d.path.is_symlink()]
    if not unexpected:
        return []
    decisions = {_decision(msgspec.json.decode(text)) for text in documents}
    stale: list[Path] = []
    for path in unexpected:
        episode = path.with_name(path.name.removesuffix(SERIES_SUFFIX).removesuffix(".json") + ".json")
        made = _read(episode)
        open_then = made and made["labels"]["exit_reason"] == DATA_END and _decision(made) in decisions
        if open_then or _is_older(made):
            stale.append(path)
    return stale


def unwanted_series(differences: Iterable[Difference], folder: Path, documents: Sequence[str]) -> list[Path]:
    """The series files that a projection with other toggles left: those whose bytes this one can write again."""
    found = [d.path for d in differences if d.what == "unexpected" and d.path.name.endswith(SERIES_SUFFIX)]
    if not found:
        return []
    versions = [day_files(documents, epoch_ms=epoch_ms, series_jsonl=True) for epoch_ms in (False, True)]
    other = {difference.path for difference in compare_day(folder, *versions)}
    return [path for path in found if path not in other]


def made_by_older_rules(path: Path) -> bool:
    """Whether an episode file was made by an older version of the rules of simulated trading."""
    return not path.is_symlink() and _is_older(_read(path.with_name(path.name.replace(SERIES_SUFFIX, ".json"))))


def _is_older(made: Mapping[str, Any] | None) -> bool:
    return made is not None and made.get("schema_version") in range(1, SCHEMA_VERSION)


def _decision(made: Mapping[str, Any]) -> tuple[Any, ...]:
    return made["symbol"], made["versions"]["strategy_digest"], made["mode"], made["decision"]["seq"]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        made = json_value(path.read_bytes(), dict[str, Any])
        return made if _decision(made) and made["labels"]["exit_reason"] else None
    except (OSError, msgspec.MsgspecError, KeyError, TypeError):
        return None
