"""The folders of `hv project --strategy`: `exports/strategies/NAME-DIGEST/`, one for each set of strategies.

Beside the usual exports a folder has, for each date, what `hv episodes` and `hv explain` read:

    strategy.json                  the strategies: name, digest, settings
    episodes_<date>.parquet        the episodes, as `hv eod` keeps those of recorded strategies

The folders of `hv project --mode bars` are the same below `exports/bars/`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow.compute as pc

from harvester.artefacts.table_files import about as about_of
from harvester.artefacts.table_files import parquet_file, read_parquet
from harvester.errors import BadSetting, DamagedFile
from harvester.files import json_value, put_all
from harvester.memory.strategy_files import load
from harvester.projections.run_params import StrategyRef  # noqa: TC001 - msgspec reads the annotation
from harvester.rebuild.exports import about_projection
from harvester.rebuild.project_memo import TradeTotals
from harvester.rebuild.project_result import open_at_end

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date
    from pathlib import Path

    import pyarrow as pa

    from harvester.files import Disk
    from harvester.home import Home
    from harvester.memory.strategy_files import LoadedStrategy
    from harvester.rebuild.project_result import ProjectResult

FOLDER, MANIFEST = "strategies", "strategy.json"
_SHOWN = 8  # digits of a digest in the name of a folder
_NAME_MAX = 120  # characters in its name; file systems allow 255 bytes
_MOVE = "run hv project --strategy again"


class FolderManifest(msgspec.Struct, frozen=True):
    """`strategy.json`."""

    strategies: tuple[StrategyRef, ...]


class StrategyFolder(NamedTuple):
    """A date that strategies given to `hv project` traded.

    Attributes:
        path: the folder.
        name: of the folder, `NAME-DIGEST`; several strategies are joined by `+`.
        strategies: with digests and settings.
    """

    path: Path
    name: str
    trading_date: date
    strategies: tuple[StrategyRef, ...]

    def table(self, name: str) -> pa.Table:
        """`buckets`, `decisions` or `episodes` of the date.

        Raises:
            DamagedFile: it cannot be read.
        """
        path = self.path / f"{name}_{self.trading_date.isoformat()}.parquet"
        try:
            return read_parquet(path)
        except DamagedFile as error:
            raise DamagedFile(str(path), error.what, _MOVE) from None

    def row(self) -> dict[str, Any]:
        """Name, strategies, counts and sums, for a list."""
        episodes = self.table("episodes")
        return {
            "name": self.name,
            "trading_date": self.trading_date.isoformat(),
            "through_seq": int(about_of(episodes)["through_seq"]),
            "strategies": [msgspec.to_builtins(one) for one in self.strategies],
            "trades": TradeTotals.of(episodes, self.table("decisions")),
        }


def folder_of(home: Home, given: Sequence[LoadedStrategy]) -> Path:
    """The folder of these strategies."""
    return home.exports() / FOLDER / folder_name([one.ref for one in given])


def folder_name(strategies: Sequence[StrategyRef]) -> str:
    """The name of the folder of these strategies; many are named by the first one and a digest of all."""
    name = "+".join(_named(ref) for ref in strategies)
    if len(name) <= _NAME_MAX:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    return f"{_named(strategies[0])}+{len(strategies) - 1}-{digest}"


def _named(ref: StrategyRef) -> str:
    return f"{ref.name}-{ref.digest[:_SHOWN]}"


def write_folder(
    home: Home, made: ProjectResult, given: Sequence[LoadedStrategy], *, live: bool, disk: Disk | None = None
) -> list[Path]:
    """Write what a folder has beside the exports of the date; `live` as for `write_artefacts`. Returns the files.

    Raises:
        CannotRun: a file cannot be written.
    """
    folder, whole = folder_of(home, given).resolve(), made.tables["episodes"]
    ended = whole.filter(pc.invert(open_at_end(whole))) if live else whole
    about = about_projection(made) | {"open": str(whole.num_rows - ended.num_rows)}
    files: dict[Path, bytes] = {
        folder / MANIFEST: manifest_file([one.ref for one in given]),
        folder / f"episodes_{made.trading_date.isoformat()}.parquet": parquet_file(ended, about),
    }
    put_all(files.items(), disk)
    return list(files)


def manifest_file(strategies: Sequence[StrategyRef]) -> bytes:
    """The content of `strategy.json`."""
    return msgspec.json.format(msgspec.json.encode(FolderManifest(tuple(strategies)))) + b"\n"


def strategy_folders(home: Home, day: date, below: str = FOLDER) -> list[StrategyFolder]:
    """The folders with trades of a date, by name; `below` this folder of `exports/`.

    Raises:
        DamagedFile: a manifest cannot be read.
    """
    found = []
    for path in sorted((home.exports() / below).glob(f"*/episodes_{day.isoformat()}.parquet")):
        manifest = path.parent / MANIFEST
        try:
            strategies = json_value(manifest.read_bytes(), FolderManifest).strategies
        except (OSError, msgspec.MsgspecError) as error:
            raise DamagedFile(str(manifest), f"cannot be read: {error}", _MOVE) from None
        found.append(StrategyFolder(path.parent, path.parent.name, day, strategies))
    return found


def find_folder(home: Home, day: date, wanted: str, below: str = FOLDER) -> StrategyFolder:
    """The folder of a strategy on a date; `below` this folder of `exports/`.

    `wanted` is NAME, NAME-DIGEST, or FILE:CLASS with the default parameters; several strategies are joined by `+`.

    Raises:
        BadSetting: none, or several, are meant; the message lists the folders of the date.
        DamagedFile: a manifest cannot be read.
    """
    folders = strategy_folders(home, day, below)
    named = "+".join(_called(part) for part in wanted.split("+"))
    hits = [folder for folder in folders if _means(named.split("+"), folder)]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise BadSetting(f"--strategy {wanted} is {len(hits)} projections of {day}: {_listed(hits)}; name one of them")
    project = "hv project" if below == FOLDER else f"hv project --mode {below}"
    move = f"{project} --strategy {wanted} --date {day}" if ":" in wanted else f"{project} --strategy makes one"
    raise BadSetting(f"no projection of {day} by --strategy {named} ({move}); there are {_listed(folders) or 'none'}")


def _called(wanted: str) -> str:
    return _named(load(wanted).ref) if ":" in wanted else wanted


def _means(wanted: list[str], folder: StrategyFolder) -> bool:
    if len(wanted) != len(folder.strategies):
        return False
    return all(part in _names(ref) for part, ref in zip(wanted, folder.strategies, strict=True))


def _names(ref: StrategyRef) -> tuple[str, ...]:
    return ref.name, _named(ref), f"{ref.name}-{ref.digest}"


def _listed(folders: Sequence[StrategyFolder]) -> str:
    return ", ".join(f"{folder.name} ({settings_text(folder.strategies)})" for folder in folders)


def settings_text(strategies: Sequence[StrategyRef]) -> str:
    """The parameters of strategies, `NAME=VALUE`; those of several are separated by `+`."""
    each = (", ".join(f"{name}={value}" for name, value in ref.settings.items()) for ref in strategies)
    return " + ".join(text or "no parameters" for text in each)
