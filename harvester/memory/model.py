"""Level 1 of learning: the model entry, without a model so far.

A model needs enough days for a walk-forward test. Until then `type` is "none", its scores are null, and the verdict
says how many days are missing at the current rate. The scores of the base rate are real: each day is predicted from the
days before it, with the posterior mean of the hit rate (`Pool`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from harvester.projections.trading.episodes import MODE_EVENT

if TYPE_CHECKING:
    from harvester.memory.pools import Pool

DAYS_MIN, SAMPLES_MIN = 20, 200
"""With less of either, a walk-forward test by day with a few weights cannot distinguish skill from luck."""


def level_one(pool: Pool) -> dict[str, Any]:
    """The model entry of a memory, from the days of one pool."""
    samples = pool.samples.get(MODE_EVENT, 0)
    brier, log_loss = (round(total / pool.scored, 9) if pool.scored else None for total in (pool.squares, pool.logs))
    needed = _days_needed(pool.days, samples)
    return {
        "type": "none",
        "kind": pool.kind,
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
        "verdict": _verdict(pool.kind, samples, needed),
    }


def _days_needed(days: int, samples: int) -> int | None:
    """Days still missing at this rate; None without any sample."""
    if not samples:
        return None
    by_samples = math.ceil(max(0, SAMPLES_MIN - samples) * days / samples)
    return max(DAYS_MIN - days, by_samples, 0)


def _verdict(kind: str, samples: int, needed: int | None) -> str:
    if needed is None:
        return f"insufficient evidence: no finished episode of {kind} data yet"
    if needed:
        return f"insufficient evidence: needs about {needed} more days at this rate"
    return f"no model: {samples} episodes are enough to test one, this version trains none"
