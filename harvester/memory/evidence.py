"""What is evidence: groups whose mean R differs from zero, when days are counted and false discoveries controlled.

A group is tested once, on its mean R against 0, by Student's t on the variance of `day_clusters`. Over all groups
tested, of every kind and mode, the Benjamini-Hochberg procedure keeps the expected share of false discoveries at
`RATE` or below (JRSS B 57, 1995). It holds for independent and for positively dependent tests (Benjamini and Yekutieli,
Annals of Statistics 29, 2001), as the same trade in a setup, a symbol and an hour; docs/evidence.md has what was
measured with days that move all groups. What passes, and whose interval after partial pooling excludes 0, is
"evidence"; the rest is "noise". A group with fewer than `DAYS_MIN` days is not tested. Hit rates are shown with pooled
intervals; no verdict rests on them, because the rate that breaks even is another for every setup.

Numbers are rounded to `DIGITS` decimals before anything is compared or stored. Other versions of NumPy or SciPy may
differ beyond that, so they are stored beside the numbers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy
from scipy import special

from harvester.memory.day_clusters import DAYS_MIN, GroupTable, group_tables, hit_rate_clustered, mean_r_clustered
from harvester.memory.partial_pooling import Pooled, pooled
from harvester.memory.stats import DIGITS, LEVEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from harvester.memory.day_clusters import Clustered
    from harvester.memory.day_summary import DaySummary

    Array = NDArray[np.float64]

RATE = 0.05
POWER = 0.8
WAIT_MAX = 252
"""Trading days, a year; what takes longer is not worth waiting for."""
EVIDENCE, NOISE, INSUFFICIENT = "evidence", "noise", "insufficient evidence"
NOT_WORTH = "no effect worth waiting for"


class _Tests(NamedTuple):
    """p-values and adjusted p-values of the groups of a table; `level` is that of the next group to be shown."""

    p: Array
    q: Array
    rate: float
    level: float


def libraries() -> dict[str, str]:
    """Versions of the libraries that make the numbers."""
    return {"numpy": np.__version__, "scipy": scipy.__version__}


def tables_of(days: Sequence[DaySummary]) -> list[GroupTable]:
    """The setups and symbols of folded days."""
    setups = group_tables("setup", len(days), ((day.date, group) for day in days for group in day.setups))
    return setups + group_tables("symbol", len(days), ((day.date, group) for day in days for group in day.symbols))


def evidence(tables: Iterable[GroupTable], rate: float = RATE) -> dict[str, Any]:
    """The evidence over all groups of `tables`, JSON-ready; `rate` is the rate of false discoveries, 0 to 1.

    `rows` are ordered by kind, mode and name. In a row: `days` with a trade, `p` of the test, `q` its adjusted value,
    `more_days` until a test with the power `POWER` at the present effect and variance. Intervals have probability
    `LEVEL`; R-multiples are winsorised.
    """
    ordered = sorted(tables, key=lambda table: (table.kind, table.mode))
    measured = [mean_r_clustered(table) for table in ordered]
    p = np.concatenate([np.zeros(0), *(_p_values(one) for one in measured)])
    q = _rounded(benjamini_hochberg(p))
    tested = int(np.isfinite(p).sum())
    level = rate * min(1.0, (int((q <= rate).sum()) + 1) / max(tested, 1))
    rows: list[dict[str, Any]] = []
    kinds: list[dict[str, Any]] = []
    for table, one in zip(ordered, measured, strict=True):
        part = slice(len(rows), len(rows) + len(table.names))
        drawn = pooled(one)
        kinds.append({"kind": table.kind, "mode": table.mode, "groups": len(table.names)} | _center(drawn))
        rows += _rows(table, one, drawn, _Tests(p[part], q[part], rate, level))
    return {
        "rate": rate,
        "level": LEVEL,
        "power": POWER,
        "days_min": DAYS_MIN,
        "tested": tested,
        "shown": sum(row["verdict"] == EVIDENCE for row in rows),
        "kinds": kinds,
        "rows": rows,
        "libraries": libraries(),
    }


def _center(drawn: Pooled) -> dict[str, float | None]:
    return {"pooled_mean_r": _number(drawn.center), "sd_between_groups": _number(math.sqrt(drawn.between))}


def _p_values(means: Clustered) -> Array:
    """Two-sided; nan where there is no variance to test with."""
    use = means.variance > 0
    p = np.full_like(means.mean, np.nan)
    p[use] = 2 * special.stdtr(means.degrees[use], -np.abs(means.mean[use]) / np.sqrt(means.variance[use]))
    return p


def benjamini_hochberg(p: Array) -> Array:
    """The adjusted p-values: the smallest rate at which each would be a discovery. nan is not tested and stays."""
    q = np.full_like(p, np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = p[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    return q


def _rows(table: GroupTable, means: Clustered, drawn: Pooled, tests: _Tests) -> list[dict[str, Any]]:
    hits = hit_rate_clustered(table)
    drawn_hits = pooled(hits)
    own = _intervals(means.mean, means.variance, means.degrees)
    shrunk = _intervals(drawn.mean, drawn.variance, means.degrees)
    own_hits = np.clip(_intervals(hits.mean, hits.variance, hits.degrees), 0, 1)
    shrunk_hits = np.clip(_intervals(drawn_hits.mean, drawn_hits.variance, hits.degrees), 0, 1)
    waits = _more_days(means, table.dates, tests.level)
    rows = []
    for i, name in enumerate(table.names):
        shown = tests.q[i] <= tests.rate and not shrunk[i, 1] <= 0 <= shrunk[i, 2]
        verdict = INSUFFICIENT if math.isnan(tests.q[i]) else EVIDENCE if shown else NOISE
        rows.append(
            {
                "kind": table.kind,
                "mode": table.mode,
                "name": name,
                "days": int(means.days[i]),
                "n": int(table.hits.n[i]),
                "hit_rate": _interval(own_hits[i]),
                "hit_rate_pooled": _interval(shrunk_hits[i]),
                "mean_r": _interval(own[i]),
                "mean_r_pooled": _interval(shrunk[i]),
                "p": _number(tests.p[i]),
                "q": _number(tests.q[i]),
                "verdict": verdict,
                "more_days": waits[i] if verdict == NOISE else None,
            }
        )
    return rows


def _intervals(mean: Array, variance: Array, degrees: Array) -> Array:
    """(groups, 3): mean, low, high, rounded."""
    half = special.stdtrit(degrees, 1 - (1 - LEVEL) / 2) * np.sqrt(variance)
    return _rounded(np.stack([mean, mean - half, mean + half], axis=1))


def _more_days(means: Clustered, dates: int, level: float) -> list[dict[str, Any]]:
    """Trading days until a two-sided test at `level` shows the observed effect with the power `POWER`.

    The interval is that of the effect: its far end needs the fewest days, its near end the most; None is more than
    `WAIT_MAX`.
    """
    largest = int(means.days.max(initial=0)) + WAIT_MAX
    total = np.arange(2, largest + 1)
    smallest_effect = (special.stdtrit(total - 1, 1 - level / 2) + special.stdtrit(total - 1, POWER)) / np.sqrt(total)
    per_day = np.sqrt(means.variance * means.days)
    half = special.stdtrit(means.degrees, 1 - (1 - LEVEL) / 2) * np.sqrt(means.variance)
    out = []
    for i, days in enumerate(means.days):
        effect = abs(means.mean[i])
        ends = (effect, effect + half[i], max(effect - half[i], 0.0))
        about, low, high = (
            _wait(smallest_effect, float(end / per_day[i]), days, dates) if per_day[i] > 0 else None for end in ends
        )
        out.append({"about": about, "low": low, "high": high, "text": _wait_text(about, low, high)})
    return out


def _wait(smallest_effect: Array, effect: float, days: float, dates: int) -> int | None:
    """Trading days more, at the group's rate of days with a trade; None is more than `WAIT_MAX`."""
    needed = 2 + int(np.searchsorted(-smallest_effect, -round(effect, DIGITS)))
    more = math.ceil(round(max(needed - days, 1) * dates / days, DIGITS))
    return more if more <= WAIT_MAX else None


def _wait_text(about: int | None, low: int | None, high: int | None) -> str:
    if about is None:
        return NOT_WORTH
    return f"about {about} more days ({low} to {high or f'more than {WAIT_MAX}'})"


def _rounded(values: Array) -> Array:
    return np.asarray(np.round(values, DIGITS) + 0.0, dtype=np.float64)


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), DIGITS) + 0.0


def _interval(values: Array) -> dict[str, float | None]:
    return dict(zip(("mean", "low", "high"), map(_number, values), strict=True))
