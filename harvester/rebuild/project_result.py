"""The result of folding a whole date."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from harvester.artefacts import episode_files
from harvester.projections.trading.position import DATA_END

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import date
    from pathlib import Path

    from harvester.artefacts.candle_files import RunSpan
    from harvester.projections.trading.failure import Failure


@dataclass(frozen=True)
class ProjectResult:
    """The result of folding a date.

    Attributes:
        identity: content hash of the log; for a salvaged date, which has none, the seqs that were folded.
        run: name of the last run.
        last_ts: ts_recv of the last event, ns UTC.
        digests: one per projection, after the last event and before `finish`, like the recorder's last ones.
        tables: every finished row, by table name.
        health: the health summary that every artefact contains.
        toggles: the toggles recorded with the last run, or given to the command.
        runs: the date's runs, in order.
        notes: about its strategies, for the user: another version than recorded, refused and unreturned orders.
        failures: users' strategies that were dropped.
    """

    trading_date: date
    identity: str
    run: str
    last_seq: int
    last_ts: int
    rows: int
    digests: dict[str, str]
    tables: dict[str, pa.Table]
    health: dict[str, Any]
    toggles: dict[str, bool]
    runs: tuple[RunSpan, ...] = ()
    notes: Sequence[str] = ()
    failures: Sequence[Failure] = ()

    @property
    def documents(self) -> list[str]:
        """The episodes' documents, in the order in which they ended."""
        texts: list[str] = self.tables["episodes"]["document"].to_pylist()
        return texts

    @property
    def open_at_end(self) -> list[str]:
        """The documents of positions that were open when the log ended."""
        table = self.tables["episodes"]
        texts: list[str] = table.filter(open_at_end(table))["document"].to_pylist()
        return texts

    def with_toggles(self, given: Mapping[str, bool]) -> ProjectResult:
        """The same result for files written with these toggles (by setting name); the others are as recorded."""
        return replace(self, toggles=self.toggles | dict(given))

    def files(self, documents: Sequence[str] | None = None, **toggles: bool) -> dict[str, bytes]:
        """The episode files of all or some documents; `toggles` override the recorded ones."""
        return dict(self.each_file(self.documents if documents is None else documents, **toggles))

    def each_file(self, documents: Sequence[str], **toggles: bool) -> Iterator[tuple[str, bytes]]:
        """Yield the same files one by one."""
        chosen = self.toggles | {f"episode_{name}": value for name, value in toggles.items()}
        return episode_files.each_file(
            documents,
            epoch_ms=chosen.get("episode_epoch_ms", False),
            series_jsonl=chosen.get("episode_series_jsonl", False),
        )

    def versions(self, folder: Path) -> list[dict[str, bytes]]:
        """The episode files with these toggles, then with other times, for a comparison with those in `folder`.

        A later `hv project` may have been given other toggles, which only its files show: the series count as wanted
        if the folder holds any.
        """
        series = next(folder.rglob(f"*{episode_files.SERIES_SUFFIX}"), None) is not None
        wanted, epoch_ms = self.files(series_jsonl=series), self.toggles.get("episode_epoch_ms", False)
        return [wanted, self.files(epoch_ms=not epoch_ms, series_jsonl=series)]


def open_at_end(episodes: pa.Table) -> pa.ChunkedArray:
    """By episode, whether the position was open when the log ended; shape (rows,), bool."""
    return pc.fill_null(pc.equal(episodes["exit_reason"], DATA_END), False)
