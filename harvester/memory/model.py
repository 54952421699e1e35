"""Level 1 of learning: the model entry, without a model so far.

A model needs enough days for a walk-forward test. Until then `type` is "none", its scores are null, and the verdict
says how many days are missing at the current rate. The scores of the base rate are real: each day is predicted from the
days before it, with the posterior mean of the hit rate.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from harvester.projections.trading.episodes import MODE_EVENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.memory.day_summary import DaySummary

DAYS_MIN, SAMPLES_MIN = 20, 200
"""With less of either, a walk-forward test by day with a few weights cannot distinguish skill from luck."""


def level_one(days: Sequence[DaySummary]) -> dict[str, Any]:
    """The model entry of a memory."""
    counts = [(day.sample_wins.get(MODE_EVENT, 0), day.samples.get(MODE_EVENT, 0)) for day in days]
    samples = sum(n for _, n in counts)
    brier, log_loss = _base_rate_scores(counts)
    needed = _days_needed(len(days), samples)
    return {
        "type": "none",
        "mode": MODE_EVENT,
        "feature_names": [],
        "weights": [],
        "sample_count": samples,
        "brier": None,
        "log_loss": None,
        "base_rate_brier": brier,
        "base_rate_log_loss": log_loss,
        "walk_forward_skill": None,
        "walk_forward_interval": None,
        "in_use": False,
        "days_needed": needed,
        "verdict": _verdict(samples, needed),
    }


def _days_needed(days: int, samples: int) -> int | None:
    """Days still missing at this rate; None without any sample."""
    if not samples:
        return None
    by_samples = math.ceil(max(0, SAMPLES_MIN - samples) * days / samples)
    return max(DAYS_MIN - days, by_samples, 0)


def _verdict(samples: int, needed: int | None) -> str:
    if needed is None:
        return "insufficient evidence: no finished episode yet"
    if needed:
        return f"insufficient evidence: needs about {needed} more days at this rate"
    return f"no model: {samples} episodes are enough to test one, this version trains none"


def _base_rate_scores(counts: Sequence[tuple[int, int]]) -> tuple[float | None, float | None]:
    """Brier score and log loss of the base rate, every day predicted from the days before it."""
    wins = n = scored = 0
    squares: list[float] = []
    logs: list[float] = []
    for day_wins, day_n in counts:
        if n and day_n:
            p = (wins + 1) / (n + 2)
            squares.append(day_wins * (1 - p) ** 2 + (day_n - day_wins) * p**2)
            logs.append(-day_wins * math.log(p) - (day_n - day_wins) * math.log(1 - p))
            scored += day_n
        wins, n = wins + day_wins, n + day_n
    if not scored:
        return None, None
    return round(math.fsum(squares) / scored, 9), round(math.fsum(logs) / scored, 9)
