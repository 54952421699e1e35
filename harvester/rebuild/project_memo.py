"""Remember the projection of a date, so that it is not repeated when its inputs and outputs are unchanged.

    temp/cache/projected/<date>-<target>.json

The key covers the log's content, the code, the libraries that write the files, and the options; the outputs are
compared by their BLAKE2b. This is a cache: when it is missing or damaged, the date is folded.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from harvester.files import Disk, json_value
from harvester.projections.run_params import FOLD, package_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date
    from pathlib import Path

    from harvester.eventlog.reader import Day
    from harvester.home import Home
    from harvester.rebuild.project import WrittenArtefacts
    from harvester.rebuild.project_result import ProjectResult

_CODE = (*FOLD, "artefacts", "rebuild")  # the code that folds, and the code that writes the files
_LIBRARIES = ("numpy", "numba", "pyarrow", "polars", "msgspec")


class TradeTotals(msgspec.Struct, frozen=True):
    """The simulated trades of a date: USD after costs, and entries without a fill by reason."""

    won: int
    lost: int
    even: int
    pnl_usd: float
    unfilled: dict[str, int]

    @classmethod
    def of(cls, episodes: pa.Table, decisions: pa.Table) -> TradeTotals:
        """Count them."""
        ends = Counter(episodes["win_loss"].to_pylist())
        acted = decisions.filter(pc.equal(decisions["action"], "unfilled"))
        reasons = Counter(acted["reason"].to_pylist())
        pnl = math.fsum(episodes["pnl_usd"].to_pylist())
        return cls(ends["WIN"], ends["LOSS"], ends["BREAKEVEN"], pnl, dict(sorted(reasons.items())))

    def __str__(self) -> str:
        total = self.won + self.lost + self.even
        ends = f"{self.won} won, {self.lost} lost, {self.even} even"
        text = f"{total} trades: {ends}; P&L {self.pnl_usd:,.2f} USD after costs"
        if not self.unfilled:
            return text
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.unfilled.items())
        return f"{text}; {sum(self.unfilled.values())} entries without a fill: {reasons}"


class ProjectedSummary(msgspec.Struct, kw_only=True):
    """The summary of one projected date.

    Attributes:
        rows: number of rows written, by table.
        open: positions still open on a day that is being recorded; they have no episode yet.
        skipped: whether nothing had changed, so that nothing was folded.
        good: of a salvaged date, the ranges of seq that were folded.
        lost: of a salvaged date, its damage; empty for an undamaged one.
        trades: the simulated trades in numbers; None in a memo of an older version.
        older: number of episode files replaced that older rules of simulated trading had made.
        dropped: users' strategies that were dropped, as `user_decider.Failure`.
        notes: about its strategies; `strategies`: those given by the command, name and digest.
    """

    trading_date: str
    content_hash: str
    through_seq: int
    events: int
    digests: dict[str, str]
    rows: dict[str, int]
    health: dict[str, Any]
    files: list[str]
    superseded: list[str] = []
    differences: list[dict[str, str]] = []
    open: int = 0
    older: int = 0
    skipped: bool = False
    good: list[tuple[int, int]] = []
    lost: list[str] = []
    notes: list[str] = []
    dropped: list[dict[str, Any]] = []
    strategies: list[str] = []
    trades: TradeTotals | None = None


class MemoEntry(msgspec.Struct):
    """The file: `outputs` are (path, BLAKE2b) of every file written, `check` is the hash of all other fields."""

    key: str
    outputs: list[tuple[str, str]]
    summary: ProjectedSummary
    check: str = ""

    def hash(self) -> str:
        """Hash of all fields but `check`."""
        return _hash(msgspec.json.encode((self.key, self.outputs, self.summary)))


def summary_of(made: ProjectResult, written: WrittenArtefacts) -> ProjectedSummary:
    """The summary of a projection and the files written."""
    return ProjectedSummary(
        trading_date=made.trading_date.isoformat(),
        content_hash=made.identity,
        through_seq=made.last_seq,
        events=made.rows,
        digests=made.digests,
        rows=written.rows,
        health=made.health,
        files=[str(path) for path in written.files],
        superseded=[str(path) for path in written.superseded],
        differences=[{"path": str(d.path), "what": d.what} for d in written.differences],
        open=written.open,
        notes=list(made.notes),
        dropped=[failure._asdict() for failure in made.failures],
        older=written.older,
        trades=TradeTotals.of(made.tables["episodes"], made.tables["decisions"]),
    )


class ProjectMemo:
    """The last projection of one date to one target.

    Args:
        out, symbols: as for `project`; each combination is a separate target.
        toggles: those given to the command, by setting name.
        live: whether the day is being recorded; the same log gives more episodes when it is over.
        strategies: those given by the command, name and digest.
        disk: the file layer.
    """

    def __init__(
        self,
        home: Home,
        day: Day,
        out: Path | None,
        symbols: Sequence[str] | None,
        *,
        toggles: Mapping[str, bool] | None = None,
        live: bool = False,
        strategies: Sequence[str] = (),
        disk: Disk | None = None,
    ) -> None:
        self._disk = disk or Disk()
        folder = (out or home.exports()).resolve()
        self.trading_date = day.trading_date
        self._episodes = home.on(day.trading_date).episodes if out is None else folder / "episodes" / _name(day)
        target = _hash(msgspec.json.encode((str(folder), str(self._episodes), symbols)))[:12]
        self._path = home.cache / "projected" / f"{_name(day)}-{target}.json"
        libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
        code = (package_digest(_CODE), platform.python_version(), libraries, strategies, _copies(home))
        parts = (day.identity(), *code, target, live, sorted((toggles or {}).items()))
        self._key = _hash(msgspec.json.encode(parts))

    def unchanged(self) -> ProjectedSummary | None:
        """The last summary, if log, code, options and files are unchanged since; else None."""
        try:
            kept = json_value(self._path.read_bytes(), MemoEntry)
            same = kept.check == kept.hash() and kept.key == self._key and kept.outputs == self._outputs(kept.summary)
        except (OSError, msgspec.MsgspecError):
            return None
        if not same or kept.summary.differences:
            return None
        kept.summary.skipped, kept.summary.superseded, kept.summary.older = True, [], 0
        return kept.summary

    def keep(self, summary: ProjectedSummary) -> None:
        """Store the summary of a projection; a disk error is ignored, because this is a cache."""
        try:
            kept = MemoEntry(self._key, self._outputs(summary), summary)
            kept.check = kept.hash()
            self._disk.make_folder(self._path.parent)
            self._disk.write_cache(self._path, msgspec.json.encode(kept))
        except OSError:
            return

    def _outputs(self, summary: ProjectedSummary) -> list[tuple[str, str]]:
        """Path and hash of every file written, and of every other file among the date's episodes."""
        found = {str(path) for path in self._episodes.rglob("*") if path.is_file()}
        return [(name, _file_hash(name)) for name in sorted(found | set(summary.files))]


def _copies(home: Home) -> list[str]:
    return sorted(path.name for path in home.strategies.glob("*/")) if home.strategies.is_dir() else []


def _name(day: Day) -> str:
    folder: date = day.trading_date
    return folder.isoformat()


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _file_hash(name: str) -> str:
    with open(name, "rb") as file:  # noqa: PTH123 - a name from our own list
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
