"""Sums over days, and what they say about a mean: trades of one day are one cluster, not independent.

A group's mean is its sum over all days divided by its trades. Its variance is the sum of the squared deviations of the
days, divided by what it is expected to be for independent trades, and its degrees of freedom are Satterthwaite's: the
bias-reduced variance of Bell and McCaffrey (Survey Methodology 28, 2002; Pustejovsky and Tipton, JBES 36, 2018) with
one correction for all days instead of one a day. So `Moments`, which are added day by day, are all that is needed. With
days of equal size both give the t-interval of the day means, with days - 1 degrees of freedom; otherwise fewer.

A variance from few days is itself uncertain, and a setup whose few trades all ended at their stop has nearly none. So
the variances of a kind are moderated: each is divided by its expectation from the pooled variance within days and
between days, and these ratios are drawn to their mean as in Smyth (SAGMB 3, 2004). The weight of the mean, in days,
is estimated. An estimate below `WEIGHT_MIN` says that the groups differ: a variance is then at least what the weight
`WEIGHT_MIN` gives, with its own degrees of freedom. A ratio above the prior's 99 % quantile is kept (after Phipson et
al., Annals of Applied Statistics 10, 2016).

A day that moves all groups moves the mean of all trades too. What the variance of that mean has beyond independent
groups is the variance that all means share; its share in the variances limits their common degrees of freedom.
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
"""Days, see above. With 20, trades that end at a stop or a rare target of 4 R, one on each of 40 days, had q below 5 %
in 6 of 60 worlds without an edge; with 40 in none."""
MODERATED_MIN = 10
"""Groups below which the weight is not estimated."""
_COIN = 0.25  # variance of a hit or a miss at even odds
_OUTLIER = 0.01
_ENDLESS = 1e6  # degrees of freedom at which Student's t is the normal distribution
_SMALLEST = 1e-6  # ratio of variances that counts as none


class Moments(NamedTuple):
    """Sums over days, an array over groups each; moments of two sets of days are added field by field.

    With n observations on a day and their sum s: `n2` is the sum of n², `n3` of n³, `s2` of s², `ns` of n s.
    `squares` is the sum of the squared observations, `days` counts days with n above 0.
    """

    days: Array
    n: Array
    n2: Array
    n3: Array
    s: Array
    s2: Array
    ns: Array
    squares: Array

    @classmethod
    def of(cls, n: Array, s: Array, squares: Array) -> Moments:
        """From counts, sums and sums of squares, each (groups, days)."""
        values = (n > 0, n, n**2, n**3, s, s**2, n * s, squares)
        return cls(*(np.asarray(value, dtype=np.float64).sum(axis=1) for value in values))


class GroupTable(NamedTuple):
    """The groups of one kind and mode, names ascending.

    Attributes:
        dates: days they could have traded on.
        r, hits: moments of the winsorised R of trades that have one, and of wins.
        all_r, all_hits: the same of all their trades, as one group.
    """

    kind: str
    mode: str
    names: tuple[str, ...]
    dates: int
    r: Moments
    all_r: Moments
    hits: Moments
    all_hits: Moments


class Clustered(NamedTuple):
    """Means with variances clustered by day. Arrays over groups; nan where there are too few days.

    Attributes:
        n: observations.
        days: days with one.
        variance: of the mean.
        degrees: of freedom of `variance`.
        spread: sum of the squared shares of the days in the observations.
        expected: variance of the mean if all groups had the same variance within days and the same between days. It
            depends on counts alone, so a mean is not weighted by what its own observations happened to be.
        common: variance that all means share, because days moved them together.
    """

    n: Array
    days: Array
    mean: Array
    variance: Array
    degrees: Array
    spread: Array
    expected: Array
    common: float


def group_tables(kind: str, dates: int, cells: Iterable[tuple[str, TradeGroup]]) -> list[GroupTable]:
    """Tables of (date, group) pairs in any order from `dates` days, one table per mode, in the order of modes."""
    by_mode: dict[str, list[tuple[str, TradeGroup]]] = {}
    for date, group in cells:
        by_mode.setdefault(group.mode, []).append((date, group))
    return [_table(kind, mode, dates, by_mode[mode]) for mode in sorted(by_mode)]


def _table(kind: str, mode: str, dates: int, cells: list[tuple[str, TradeGroup]]) -> GroupTable:
    names, traded = sorted({g.name for _, g in cells}), sorted({date for date, _ in cells})
    row, column = {name: i for i, name in enumerate(names)}, {date: i for i, date in enumerate(traded)}
    sums = np.zeros((5, len(names), len(traded)))
    for date, g in cells:
        sums[:, row[g.name], column[date]] = g.trade_count, g.wins, g.r_n, g.r_sum, g.r_squares
    return table_of(kind, mode, names, sums, dates)


def table_of(kind: str, mode: str, names: Iterable[str], sums: Array, dates: int) -> GroupTable:
    """The table of `sums` (5, groups, days): trades, wins, and count, sum and sum of squares of R, on `dates` days."""
    trades, wins, *of_r = sums
    r, hits = tuple(of_r), (trades, wins, wins)
    all_r, all_hits = (Moments.of(*(x.sum(axis=0)[None] for x in values)) for values in (r, hits))
    return GroupTable(kind, mode, tuple(names), dates, Moments.of(*r), all_r, Moments.of(*hits), all_hits)


def clustered(m: Moments) -> Clustered:
    """Means and variances of the groups, not moderated."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = m.s / m.n
        two, three = m.n2 / m.n**2, m.n3 / m.n**3
        deviations = np.maximum(m.s2 - 2 * mean * m.ns + mean**2 * m.n2, 0.0) / m.n**2
        few = m.days < 2
        variance = np.where(few, np.nan, deviations / (1 - two))
        degrees = np.where(few, np.nan, (1 - two) ** 2 / (two - 2 * three + two**2))
    return Clustered(m.n, m.days, mean, variance, degrees, two, variance * np.nan, 0.0)


def mean_r_clustered(table: GroupTable) -> Clustered:
    """Mean R of the groups, with moderated variances."""
    raw = clustered(table.r)
    enough = raw.days >= DAYS_MIN
    variance, degrees = np.full_like(raw.mean, np.nan), np.full_like(raw.mean, np.nan)
    if not enough.any():
        return raw._replace(variance=variance, degrees=degrees)
    expected = _expected_variance(raw, table.r, R_PRIOR.scale / (R_PRIOR.shape - 1))
    level = _level(raw, expected, enough)
    expected = expected * level
    common = _common(raw, expected, table.all_r)
    share = min(1.0, common * float((1 / expected[enough]).mean()))
    shared = min((table.all_r.days[0] - 1) / share**2, _ENDLESS) if share > 0 else _ENDLESS
    variance[enough], degrees[enough] = _moderated(raw, expected, enough, shared)
    return raw._replace(variance=variance, degrees=degrees, expected=expected, common=common)


def hit_rate_clustered(table: GroupTable) -> Clustered:
    """Hit rates of the groups; no variance is below that of independent trades, at (wins + 1) / (trades + 2)."""
    raw = clustered(table.hits)
    enough = raw.days >= DAYS_MIN
    if not enough.any():
        return raw._replace(variance=raw.variance * np.nan)
    rate = (table.hits.s + 1) / (raw.n + 2)
    variance = np.where(enough, np.fmax(raw.variance, rate * (1 - rate) / np.maximum(raw.n, 1)), np.nan)
    expected = _expected_variance(raw, table.hits, _COIN)
    return raw._replace(variance=variance, expected=expected, common=_common(raw, expected, table.all_hits))


def _expected_variance(raw: Clustered, m: Moments, usual: float) -> Array:
    """As `Clustered.expected`; the variance of an observation starts at `usual` with the weight of ten.

    The observations' variance around the means of their groups is that within days plus that between days; what the
    variances by day have beyond it gives the second, as in an analysis of variance.
    """
    enough = raw.days >= DAYS_MIN
    n, mean, spread = m.n[enough], raw.mean[enough], raw.spread[enough]
    around = np.maximum(m.squares[enough] - n * mean**2, 0.0)
    between_days = raw.variance[enough] * n
    total = (float(around.sum()) + R_PRIOR.weight * usual) / (float((n - 1).sum()) + R_PRIOR.weight)
    excess = float((between_days - total).sum() / (spread * n - 1).sum()) if (spread * n > 1 + 1e-9).any() else 0.0
    between = min(max(excess, 0.0), total)
    return np.asarray((total - between) / np.maximum(raw.n, 1) + between * raw.spread, dtype=np.float64)


def _level(raw: Clustered, expected: Array, enough: NDArray[np.bool_]) -> float:
    """The mean ratio of the variances to the expected ones, which starts at 1 with the weight `WEIGHT_MIN`."""
    own, ratio = raw.degrees[enough], raw.variance[enough] / expected[enough]
    return float((own @ ratio + WEIGHT_MIN) / (own.sum() + WEIGHT_MIN))


def _common(raw: Clustered, expected: Array, everything: Moments) -> float:
    """As `Clustered.common`: what the variance of the mean of all trades has beyond that of independent groups."""
    by_day = float(clustered(everything).variance[0])
    return max(0.0, by_day - float((raw.n / raw.n.sum()) ** 2 @ np.where(raw.n > 0, expected, 0.0)))


def _moderated(raw: Clustered, expected: Array, enough: NDArray[np.bool_], shared: float) -> tuple[Array, Array]:
    """Variances and degrees of freedom of the groups with enough days; at most `shared` are not their own."""
    own, scale = raw.degrees[enough], expected[enough]
    ratio = raw.variance[enough] / scale
    weight, fitted = _prior(np.maximum(ratio, _SMALLEST), own)
    if weight < WEIGHT_MIN:
        drawn = (WEIGHT_MIN + own * ratio) / (WEIGHT_MIN + own)
        return np.maximum(ratio, drawn) * scale, own
    drawn = (weight * fitted + own * ratio) / (weight + own)
    degrees = np.minimum(own + weight, np.maximum(own, shared))
    outlier = ratio > fitted * special.fdtri(own, weight, 1 - _OUTLIER)
    return np.where(outlier, ratio, drawn) * scale, np.where(outlier, own, degrees)


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
