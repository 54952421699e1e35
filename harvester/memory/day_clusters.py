"""Sums per group and day, and what they say about a mean: trades of one day are one cluster, not independent.

A group's mean is its sum over all days divided by its trades. Its variance is the cluster-robust CR2, and its degrees
of freedom are Bell and McCaffrey's (Survey Methodology 28, 2002; Pustejovsky and Tipton, JBES 36, 2018), in closed form
for a mean: days - 1 when every day has the same number of trades, fewer otherwise.

A variance from few days is itself uncertain, and a setup whose few trades all ended at their stop has nearly none. So
the variances of a kind are moderated: each is divided by its expectation from the pooled variance within days and
between days, and these ratios are drawn to their mean as in Smyth (SAGMB 3, 2004). The weight of the mean, in days,
is estimated. An estimate below `WEIGHT_MIN` says that the groups differ: a variance is then at least what the weight
`WEIGHT_MIN` gives, with its own degrees of freedom. A ratio above the prior's 99 % quantile is kept (after Phipson et
al., Annals of Applied Statistics 10, 2016). Days that move all groups make the variances depend on each other; the
degrees of freedom are at most those of the pooled variance as its sums per day show them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import special

from harvester.memory.stats import R_PRIOR

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from harvester.memory.day_summary import TradeGroup

    Array = NDArray[np.float64]

DAYS_MIN = 5
"""Days with a trade below which a group is not tested."""
WEIGHT_MIN = 40.0
"""Days; see above. With 20, a mean of stops and rare targets of 4 R passed in 12 of 100 worlds without an edge."""
MODERATED_MIN = 10
"""Groups below which the weight of the prior is not estimated."""
_COIN = 0.25  # variance of a hit or a miss at even odds
_OUTLIER = 0.01
_ENDLESS = 1e6  # degrees of freedom at which Student's t is the normal distribution
_SMALLEST = 1e-6  # ratio of variances that counts as none


class DaySums(NamedTuple):
    """The groups of one kind and mode. Arrays have the shape (groups, dates); names and dates ascend.

    Attributes:
        trades, wins: counts.
        r_n, r_sum, r_squares: of the winsorised R of trades that have one.
    """

    kind: str
    mode: str
    names: tuple[str, ...]
    dates: tuple[str, ...]
    trades: Array
    wins: Array
    r_n: Array
    r_sum: Array
    r_squares: Array


class Clustered(NamedTuple):
    """Means with variances clustered by day. Arrays over groups; nan where there are too few days.

    Attributes:
        n: observations.
        days: days with one.
        variance: of the mean.
        degrees: of freedom of `variance`.
        parts: (groups, dates), the deviation of each day; a row's sum is 0.
        spread: sum of the squared shares of the days in the observations.
        expected: variance of the mean if all groups had the same variance within days and the same between days. It
            depends on counts alone, so a mean is not weighted by what its own observations happened to be.
    """

    n: Array
    days: Array
    mean: Array
    variance: Array
    degrees: Array
    parts: Array
    spread: Array
    expected: Array


def day_sums(kind: str, cells: Iterable[tuple[str, TradeGroup]]) -> list[DaySums]:
    """Tables of (date, group) pairs in any order, one table per mode, in the order of modes."""
    by_mode: dict[str, list[tuple[str, TradeGroup]]] = {}
    for date, group in cells:
        by_mode.setdefault(group.mode, []).append((date, group))
    return [_table(kind, mode, by_mode[mode]) for mode in sorted(by_mode)]


def _table(kind: str, mode: str, cells: list[tuple[str, TradeGroup]]) -> DaySums:
    names, dates = sorted({g.name for _, g in cells}), sorted({date for date, _ in cells})
    row, column = {name: i for i, name in enumerate(names)}, {date: i for i, date in enumerate(dates)}
    sums = np.zeros((5, len(names), len(dates)))
    for date, g in cells:
        sums[:, row[g.name], column[date]] = g.trade_count, g.wins, g.r_n, g.r_sum, g.r_squares
    return DaySums(kind, mode, tuple(names), tuple(dates), *sums)


def clustered(n: Array, sums: Array) -> Clustered:
    """Means of `sums` over `n` observations per group and day, both (groups, dates)."""
    days = (n > 0).sum(axis=1).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.where(days > 0, n.sum(axis=1), np.nan)
        mean = sums.sum(axis=1) / total
        share = n / total[:, None]
        parts = (sums - n * mean[:, None]) / total[:, None]
        variance = (parts**2 / (1 - share)).sum(axis=1)
        leverage = share**2 / (1 - share)
        spread = (share**2).sum(axis=1)
        degrees = 1 / (spread + leverage.sum(axis=1) ** 2 - (leverage**2).sum(axis=1))
    few = days < 2
    variance[few] = degrees[few] = np.nan
    return Clustered(n.sum(axis=1), days, mean, variance, degrees, np.nan_to_num(parts), spread, variance * np.nan)


def mean_r_clustered(table: DaySums) -> Clustered:
    """Mean R of the groups, with moderated variances."""
    raw = clustered(table.r_n, table.r_sum)
    enough = raw.days >= DAYS_MIN
    variance, degrees = np.full_like(raw.mean, np.nan), np.full_like(raw.mean, np.nan)
    if not enough.any():
        return raw._replace(variance=variance, degrees=degrees)
    expected = _expected_variance(raw, table.r_n, table.r_sum, table.r_squares, R_PRIOR.scale / (R_PRIOR.shape - 1))
    variance[enough], degrees[enough], level = _moderated(raw, expected, enough)
    return raw._replace(variance=variance, degrees=degrees, expected=expected * level)


def hit_rate_clustered(table: DaySums) -> Clustered:
    """Hit rates of the groups; no variance is below that of independent trades, at (wins + 1) / (trades + 2)."""
    raw = clustered(table.trades, table.wins)
    enough = raw.days >= DAYS_MIN
    if not enough.any():
        return raw._replace(variance=raw.variance * np.nan)
    rate = (table.wins.sum(axis=1) + 1) / (raw.n + 2)
    variance = np.where(enough, np.fmax(raw.variance, rate * (1 - rate) / np.maximum(raw.n, 1)), np.nan)
    return raw._replace(
        variance=variance, expected=_expected_variance(raw, table.trades, table.wins, table.wins, _COIN)
    )


def _expected_variance(raw: Clustered, n: Array, sums: Array, squares: Array, usual: float) -> Array:
    """As `Clustered.expected`; the variance within days starts at `usual` with the weight of ten observations."""
    enough = raw.days >= DAYS_MIN
    traded = n[enough] > 0
    count, total = n[enough][traded], sums[enough][traded]
    inside = max(0.0, float((squares[enough][traded] - total**2 / count).sum()))
    within = (inside + R_PRIOR.weight * usual) / (float((count - 1).sum()) + R_PRIOR.weight)
    excess = raw.variance[enough] - within / raw.n[enough]
    between = max(0.0, float(excess.sum() / raw.spread[enough].sum()))
    return np.asarray(within / np.maximum(raw.n, 1) + between * raw.spread, dtype=np.float64)


def _moderated(raw: Clustered, expected: Array, enough: NDArray[np.bool_]) -> tuple[Array, Array, float]:
    """Variances and degrees of freedom of the groups with enough days; the mean ratio to the expected variance."""
    own, scale = raw.degrees[enough], expected[enough]
    ratio = raw.variance[enough] / scale
    level = float((own @ ratio + WEIGHT_MIN) / (own.sum() + WEIGHT_MIN))
    weight, fitted = _prior(np.maximum(ratio, _SMALLEST), own)
    if weight < WEIGHT_MIN:
        drawn = (WEIGHT_MIN * level + own * ratio) / (WEIGHT_MIN + own)
        return np.maximum(ratio, drawn) * scale, own, level
    drawn = (weight * fitted + own * ratio) / (weight + own)
    degrees = np.minimum(own + weight, np.maximum(own, _pooled_degrees(raw.parts[enough] ** 2 / scale[:, None])))
    outlier = ratio > fitted * special.fdtri(own, weight, 1 - _OUTLIER)
    return np.where(outlier, ratio, drawn) * scale, np.where(outlier, own, degrees), level


def _prior(ratio: Array, own: Array) -> tuple[float, float]:
    """Degrees of freedom and scale of the variances' prior, by the moments of their logarithms (Smyth 2004, 6.2)."""
    if len(ratio) < MODERATED_MIN:
        return 0.0, 1.0
    logs = np.log(ratio) - special.digamma(own / 2) + np.log(own / 2)
    excess = float(logs.var(ddof=1) - special.polygamma(1, own / 2).mean())
    if excess <= 0:
        return _ENDLESS, float(own @ ratio / own.sum())
    weight = min(2 * _trigamma_inverse(excess), _ENDLESS)
    return weight, float(np.exp(logs.mean() + special.digamma(weight / 2) - np.log(weight / 2)))


def _trigamma_inverse(value: float) -> float:
    """The x with trigamma(x) = value, by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, x))
        x += step
        if abs(step) < 1e-9 * x:
            break
    return x


def _pooled_degrees(squares: Array) -> float:
    """Degrees of freedom of the sum of all squares, from its variance over dates, which may be common to groups."""
    per_date = squares.sum(axis=0)
    dates = len(per_date)
    noise = float(per_date.var(ddof=1)) * dates
    return min(2 * float(per_date.sum()) ** 2 / noise, _ENDLESS) if noise > 0 else _ENDLESS
