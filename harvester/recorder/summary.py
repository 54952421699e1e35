"""The summary of a recording: its runs, granted streams, and the reason of its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import date

    from harvester.recorder.recording_run import RunTotals


@dataclass
class RecordedRun:
    """The summary of one run."""

    trading_date: date
    run_id: str
    totals: RunTotals
    content_hash: str


@dataclass
class RecordingSummary:
    """The summary of a recording. `coverage`: state per symbol and stream; `reason`: why it ended.

    `notes`: what happened to the strategies, one line each.
    """

    runs: list[RecordedRun] = field(default_factory=list)
    coverage: dict[str, dict[str, str]] = field(default_factory=dict)
    outages: int = 0
    reason: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> dict[str, int]:
        """Rows by kind over all runs."""
        total: dict[str, int] = {}
        for run in self.runs:
            for kind, count in run.totals.rows.items():
                total[kind] = total.get(kind, 0) + count
        return total


def describe(summary: RecordingSummary) -> str:
    """The summary for people, one line per run."""
    lines = []
    for run in summary.runs:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(run.totals.rows.items()))
        lines.append(
            f"{run.trading_date} {run.run_id}: {sum(run.totals.rows.values())} events in {run.totals.commits} commits "
            f"({counts}); run content {run.content_hash}"
        )
    return "\n".join([*lines, *summary.notes])
