"""Level 0 of learning: a hit rate and a mean R with intervals, trades counted as independent.

Hit rate: Beta-Binomial with the uniform prior Beta(1, 1). Mean R: normal with unknown mean and variance under the
normal-inverse-gamma prior `R_PRIOR`, which pulls the mean to 0 with the weight of ten trades and expects a spread of
about 1.4 R; the posterior of the mean is Student's t. (Gelman et al., Bayesian Data Analysis, 3rd ed., sections 2.4,
3.3.) Intervals are central, of probability `LEVEL`. Results are rounded to 1e-6, above the differences between versions
of SciPy's special functions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy import special

LEVEL = 0.95
DIGITS = 6
HIT_PRIOR = (1.0, 1.0)


class RPrior(NamedTuple):
    """Normal-inverse-gamma: mean, its weight in trades, shape and scale of the variance."""

    mean: float
    weight: float
    shape: float
    scale: float


R_PRIOR = RPrior(mean=0.0, weight=10.0, shape=3.0, scale=4.0)


class Estimate(NamedTuple):
    """A number with its central interval."""

    n: int
    mean: float
    low: float
    high: float


def hit_rate(wins: int, n: int) -> Estimate:
    """Posterior of the probability to win after `wins` in `n`."""
    a, b = HIT_PRIOR[0] + wins, HIT_PRIOR[1] + n - wins
    tail = (1 - LEVEL) / 2
    return _rounded(n, a / (a + b), special.betaincinv(a, b, tail), special.betaincinv(a, b, 1 - tail))


def mean_r(n: int, total: float, squares: float) -> Estimate:
    """Posterior of the mean R-multiple from the count, the sum and the sum of squares."""
    prior = R_PRIOR
    weight, shape = prior.weight + n, prior.shape + n / 2
    mean = (prior.weight * prior.mean + total) / weight
    scale = prior.scale
    if n:
        average = total / n
        within = max(0.0, squares - n * average**2)
        scale += within / 2 + prior.weight * n * (average - prior.mean) ** 2 / (2 * weight)
    half = special.stdtrit(2 * shape, 1 - (1 - LEVEL) / 2) * math.sqrt(scale / (shape * weight))
    return _rounded(n, mean, mean - half, mean + half)


def _rounded(n: int, *values: float) -> Estimate:
    mean, low, high = (round(float(v), DIGITS) + 0.0 for v in values)
    return Estimate(n, mean, low, high)
