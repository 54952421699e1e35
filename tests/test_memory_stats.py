from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvester.memory.stats import hit_rate, mean_r


def test_hit_rate_against_binomial_tails():
    """7 wins in 10: the interval's ends are where the binomial tails of Beta(8, 4) are 2.5 % and 97.5 %."""

    def tail(x):
        return sum(math.comb(11, k) * x**k * (1 - x) ** (11 - k) for k in range(8, 12))

    made = hit_rate(7, 10)
    assert (made.n, made.mean) == (10, 0.666667)
    assert tail(made.low) == pytest.approx(0.025, abs=1e-6)
    assert tail(made.high) == pytest.approx(0.975, abs=1e-6)


def test_nothing_known():
    """Without a trade the hit rate is the prior, and the mean R is 0 within a wide interval."""
    assert hit_rate(0, 0)[1:] == (0.5, 0.025, 0.975)
    none = mean_r(0, 0.0, 0.0)
    assert none.mean == 0
    assert none.low == -none.high < -0.8


@given(st.integers(0, 200), st.integers(0, 200))
def test_interval_holds_the_mean(wins, losses):
    """The interval holds the mean, lies within [0, 1], and mirrored counts mirror it."""
    made, mirror = hit_rate(wins, wins + losses), hit_rate(losses, wins + losses)
    assert 0 <= made.low < made.mean < made.high <= 1
    assert made.low == pytest.approx(1 - mirror.high, abs=2e-6)


def test_mean_r_shrinks():
    """Ten trades of +1 R pull the mean half-way from 0; a thousand nearly all the way."""
    assert mean_r(10, 10.0, 10.0).mean == 0.5
    assert mean_r(1000, 1000.0, 1000.0).mean == pytest.approx(0.990099)
    assert mean_r(10, 10.0, 10.0).low < 0.2 < mean_r(1000, 1000.0, 1000.0).low


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([], -0.893486, 0.893486),  # t(6) = 2.446912, scale 4: ± t √(4 / (3 · 10))
        ([1.0] * 10, 0.072719, 0.927281),  # t(16) = 2.119905, scale 4 + 10 · 10 / (2 · 20): ± t √(6.5 / (8 · 20))
        ([2.0, 0.0, 1.0, -1.0], -0.554515, 0.840229),  # t(10) = 2.228139, scale 4 + 5 / 2 + 10 / 28, weight 14
    ],
)
def test_mean_r_interval_by_hand(values, low, high):
    """The interval is that of Student's t with the posterior's scale, worked out by hand from a printed table."""
    made = mean_r(len(values), sum(values), sum(value**2 for value in values))
    assert (made.low, made.high) == pytest.approx((low, high), abs=2e-6)
