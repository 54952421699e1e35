"""Partial pooling: each mean is drawn towards the mean of its kind, the more, the less its own days say.

The variance between groups is Paule and Mandel's (J. Res. NBS 87, 1982; iteration of DerSimonian and Kacker, Contemp.
Clin. Trials 28, 2007). A drawn mean has the variance of Prasad and Rao (JASA 85, 1990): what is left of its own, that
of the pooled mean, and twice the part that comes from estimating the variance between groups. A day that moved all
groups does not make them differ: the variance they share is taken out first, and added in full to every interval. The
weights rest on the variances expected from the counts: a setup whose few trades all failed has a small variance and
would weigh most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harvester.memory.day_clusters import Clustered

    Array = NDArray[np.float64]

POOLED_MIN = 4
"""Groups below which nothing is pooled: drawing three or fewer towards their mean need not help (James and Stein)."""
OWN_MIN = 0.05
"""The least share of a variance that is a group's own and not common to all."""
_ROUNDS, _ENOUGH = 200, 1e-13


class Pooled(NamedTuple):
    """Means drawn towards the pooled mean.

    Attributes:
        center: the pooled mean; None when there are too few groups.
        between: variance between groups.
        mean, variance: over groups; nan where `Clustered` has no variance.
    """

    center: float | None
    between: float
    mean: Array
    variance: Array


def pooled(means: Clustered) -> Pooled:
    """Pool the means that have a variance above 0."""
    use = means.variance > 0
    if use.sum() < POOLED_MIN:
        return Pooled(None, 0.0, np.where(use, means.mean, np.nan), np.where(use, means.variance, np.nan))
    y, v, expected = means.mean[use], means.variance[use], means.expected[use]
    v, expected = (np.maximum(x - means.common, x * OWN_MIN) for x in (v, expected))
    between = between_groups(y, expected)
    weights = 1 / (expected + between)
    of_center, of_between = 1 / float(weights.sum()), 2 / float((weights**2).sum())
    center = float(weights @ y) * of_center
    total = v + between
    drawn, kept = v / total, between / total
    mean, variance = np.full_like(means.mean, np.nan), np.full_like(means.mean, np.nan)
    mean[use] = center + kept * (y - center)
    variance[use] = kept * v + drawn**2 * of_center + 2 * v**2 / total**3 * of_between + means.common
    return Pooled(center, between, mean, variance)


def between_groups(y: Array, v: Array) -> float:
    """Paule and Mandel's variance between the means `y` with variances `v`: the weighted squares equal groups - 1."""
    between = 0.0
    for _ in range(_ROUNDS):
        weights = 1 / (v + between)
        squares = (y - float(weights @ y / weights.sum())) ** 2
        excess = float(weights @ squares) - (len(y) - 1)
        if excess <= _ENOUGH * len(y):
            break
        between += excess / float(weights**2 @ squares)
    return between
