"""Level 0 of learning: a hit rate and a mean R with intervals, exact and without a statistics library.

Hit rate: Beta-Binomial with the uniform prior Beta(1, 1). Mean R: normal with unknown mean and variance under the
normal-inverse-gamma prior `R_PRIOR`, which pulls the mean to 0 with the weight of ten trades and expects a spread of
about 1.4 R; the posterior of the mean is Student's t. (Gelman et al., Bayesian Data Analysis, 3rd ed., sections 2.4,
3.3.) Intervals are central, of probability `LEVEL`. Results are rounded to 1e-6, above any difference between
mathematics libraries.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

LEVEL = 0.95
DIGITS = 6
HIT_PRIOR = (1.0, 1.0)
_TINY, _ENOUGH, _ROUNDS = 1e-300, 1e-15, 10_000
_QUANTILE_ROUNDS, _STEP, _FLAT = 200, 1e-12, -300.0


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
    return _rounded(n, a / (a + b), beta_quantile(tail, a, b), beta_quantile(1 - tail, a, b))


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
    half = t_quantile(1 - (1 - LEVEL) / 2, 2 * shape) * math.sqrt(scale / (shape * weight))
    return _rounded(n, mean, mean - half, mean + half)


def _rounded(n: int, *values: float) -> Estimate:
    mean, low, high = (round(v, DIGITS) + 0.0 for v in values)
    return Estimate(n, mean, low, high)


def beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by Lentz' evaluation of its continued fraction.

    (Numerical Recipes, 3rd ed., section 6.4; DLMF 8.17.22.)
    """
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _ROUNDS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < _ENOUGH:
            break
    return value


def _away_from_zero(x: float) -> float:
    return x if abs(x) > _TINY else _TINY


@lru_cache(100_000)  # the versions of a rebuilt memory repeat the counts of symbols that did not trade
def beta_quantile(p: float, a: float, b: float) -> float:
    """The x with I_x(a, b) = p, by Newton's method inside a bracket that bisection shrinks."""
    low, high = 0.0, 1.0
    mean, spread = a / (a + b), math.sqrt(a * b / (a + b + 1)) / (a + b)
    x = mean + NormalDist().inv_cdf(p) * spread if 0 < p < 1 else mean
    x = x if 0 < x < 1 else mean
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    for _ in range(_QUANTILE_ROUNDS):
        error = beta_cdf(x, a, b) - p
        low, high = (x, high) if error < 0 else (low, x)
        log_density = scale + (a - 1) * math.log(x) + (b - 1) * math.log1p(-x)
        step = error / math.exp(log_density) if log_density > _FLAT else math.inf
        after = x - step
        if not low < after < high:
            after = (low + high) / 2
        if abs(after - x) <= _STEP * x or not 0 < after < 1:
            return after
        x = after
    return x


def t_quantile(p: float, df: float) -> float:
    """Student's t for p ≥ 0.5, from P(|T| > t) = I_x(df / 2, 1 / 2) at x = df / (df + t²)."""
    x = beta_quantile(2 * (1 - p), df / 2, 0.5)
    return math.sqrt(df * (1 / x - 1))
