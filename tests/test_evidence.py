from __future__ import annotations

import datetime as dt
import json
import math
import random
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats

from harvester.memory.day_clusters import GroupTable, clustered, group_tables, hit_rate_clustered, mean_r_clustered
from harvester.memory.day_summary import DaySummary, TradeGroup
from harvester.memory.evidence import (
    EVIDENCE,
    INSUFFICIENT,
    NOISE,
    NOT_WORTH,
    WAIT_MAX,
    benjamini_hochberg,
    evidence,
    tables_of,
)
from harvester.memory.partial_pooling import between_groups, pooled
from tests.budget import budget

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

from bench_learning import EDGE, HELD, PLANTED, SETUPS, WORLDS, edges, normal, outcome, sums

GENERATOR = np.random.default_rng


def one(*days: list[float], kind: str = "setup") -> GroupTable:
    """One group from its trades per day."""
    width = max(len(day) for day in days)
    r = np.array([[day + [math.nan] * (width - len(day)) for day in days]])
    return sums(kind, r)


def test_variance_and_degrees_by_matrices():
    """On days of unequal size both equal the formulas in matrices: unbiased for independent trades, Satterthwaite."""
    days = [[0.5, -1.0, 2.0], [0.3], [1.5, 1.0, -0.2, 0.7], [-1.0, -0.5], [0.1]]
    y = np.concatenate([np.array(day) for day in days])
    n = len(y)
    off_mean = np.eye(n) - 1 / n
    which = np.repeat(np.arange(len(days)), [len(day) for day in days])
    by_day = (which[:, None] == np.arange(len(days))).T / n @ off_mean
    of_independent = np.trace(by_day @ by_day.T)
    made = clustered(one(*days).r)
    assert made.mean[0] == pytest.approx(y.mean(), rel=1e-12)
    assert made.variance[0] == pytest.approx(((by_day @ y) ** 2).sum() / of_independent / n, rel=1e-12)
    assert made.degrees[0] == pytest.approx(of_independent**2 / ((by_day @ by_day.T) ** 2).sum(), rel=1e-12)
    assert made.degrees[0] < 4


def test_equal_days_are_observations():
    """On days of equal size the variance is that of the day means, with days - 1 degrees of freedom."""
    r = GENERATOR(1).normal(size=(3, 8, 5))
    made = clustered(sums("setup", r).r)
    assert made.variance == pytest.approx(r.mean(axis=2).var(axis=1, ddof=1) / 8)
    assert made.degrees == pytest.approx([7, 7, 7])


def test_moments_are_added_day_by_day():
    """The moments of all days are the sums of those of each day: a memory needs no day twice."""
    r = GENERATOR(1).normal(size=(3, 8, 5))
    whole, parts = sums("setup", r), [sums("setup", r[:, [day]]) for day in range(8)]
    for field in ("r", "all_r", "hits", "all_hits"):
        added = [sum(values) for values in zip(*(getattr(part, field) for part in parts), strict=True)]
        assert np.array(added) == pytest.approx(np.array(getattr(whole, field)))


def test_trades_of_a_day_count_once():
    """Each trade taken ten times over in its day leaves verdicts and the interval of the mean as they are."""
    r = normal(0.2, 0)(GENERATOR(2), edges(5, 40))
    alone, repeated = (evidence([sums("setup", x)])["rows"] for x in (r, np.repeat(r, 10, axis=2)))
    assert [row["verdict"] for row in alone] == [row["verdict"] for row in repeated]
    for a, b in zip(alone, repeated, strict=True):
        assert b["mean_r"]["high"] - b["mean_r"]["low"] == pytest.approx(
            a["mean_r"]["high"] - a["mean_r"]["low"], rel=0.15
        )


def test_few_days_give_no_verdict():
    """A group with trades on four days is not tested, whatever they made; with five it is."""
    r = np.full((2, 5, 3), 2.0) + GENERATOR(3).normal(0, 0.1, (2, 5, 3))
    r[0, 4] = math.nan
    made = evidence([sums("setup", r)])
    assert [row["verdict"] for row in made["rows"]] == [INSUFFICIENT, EVIDENCE]
    assert made["tested"] == 1
    few = made["rows"][0]
    assert few["p"] is few["q"] is few["more_days"] is few["mean_r"]["low"] is None
    assert (few["days"], few["n"]) == (4, 12)
    assert few["mean_r"]["mean"] == pytest.approx(2.0, abs=0.1)


def test_without_trades_there_is_no_evidence():
    """No group, and groups without any R, give an empty result and no error."""
    assert (evidence([])["tested"], evidence([])["rows"]) == (0, [])
    made = evidence([one([math.nan], [math.nan])])
    assert [row["verdict"] for row in made["rows"]] == [INSUFFICIENT]
    json.dumps(made, allow_nan=False)


def test_five_stops_are_not_evidence():
    """Five trades on five days, all at their stop, have hardly any variance; they are noise, alone and among others."""
    stops = [[-1.01], [-1.0], [-1.02], [-1.0], [-1.01]]
    assert evidence([one(*stops)])["rows"][0]["verdict"] == NOISE
    others = np.where(GENERATOR(4).random((60, 5, 1)) < 0.4, 1.5, -1.0) + GENERATOR(5).normal(0, 0.02, (60, 5, 1))
    others[7] = np.array(stops)
    made = evidence([sums("setup", others)])
    assert made["rows"][7]["mean_r"]["mean"] == -1.008
    assert made["shown"] == 0


def test_variances_alike_share_their_degrees_of_freedom():
    """Among groups alike a variance is drawn to the common one; one of six times the variance keeps its own."""
    r = GENERATOR(6).normal(size=(1000, 20, 2))
    r[0] *= 2.5
    table = sums("setup", r)
    raw, made = clustered(table.r), mean_r_clustered(table)
    assert made.variance[0] == pytest.approx(raw.variance[0])
    assert made.degrees[0] == pytest.approx(19)
    assert made.variance[1:].std() < raw.variance[1:].std() / 2
    assert np.median(made.degrees) > 100


def test_variances_of_their_own_are_not_shared():
    """Where variances differ, none is drawn down, small ones are drawn up, and the degrees stay days - 1."""
    r = GENERATOR(6).normal(size=(100, 20, 2)) * np.exp(GENERATOR(7).normal(size=(100, 1, 1)))
    table = sums("setup", r)
    raw, made = clustered(table.r), mean_r_clustered(table)
    assert made.degrees == pytest.approx(19)
    assert (made.variance >= raw.variance * (1 - 1e-12)).all()
    assert made.variance.min() > 3 * raw.variance.min()


def test_days_of_the_whole_market_limit_the_shared_degrees():
    """When days move all groups, a hundred variances are little more than one: the degrees stay few."""
    table = sums("setup", normal(3.0, 1.0, 20)(GENERATOR(7), np.zeros(100)))
    assert mean_r_clustered(table).degrees.max() < 60


def test_false_discoveries_as_scipy_counts_them():
    """The adjusted p-values are SciPy's; what is not tested stays out of the count."""
    p = np.concatenate([GENERATOR(8).random(50) ** 3, [0.2, 0.2, 0.0, 1.0]])
    assert benjamini_hochberg(p) == pytest.approx(scipy.stats.false_discovery_control(p))
    with_gap = np.insert(p, 3, math.nan)
    assert np.delete(benjamini_hochberg(with_gap), 3) == pytest.approx(benjamini_hochberg(p))
    assert math.isnan(benjamini_hochberg(with_gap)[3])


def test_the_family_is_all_that_is_shown():
    """A setup that is evidence alone is noise among a thousand others: the tests of all kinds count together."""
    alone = sums("setup", normal(0.2, 0)(GENERATOR(9), np.array([0.17])))
    others = sums("symbol", normal(0.2, 0)(GENERATOR(10), np.zeros(1000)))
    few, many = evidence([alone]), evidence([others, alone])
    assert few["rows"][0]["verdict"] == EVIDENCE
    assert (many["tested"], many["rows"][0]["name"], many["rows"][0]["verdict"]) == (1001, "setup0000", NOISE)
    assert many["rows"][0]["p"] == few["rows"][0]["p"]


def test_variance_between_groups():
    """Paule and Mandel's equation holds: the weighted squares equal groups - 1; means alike have none between them."""
    y, v = np.array([0.5, -0.3, 1.2, 0.1, -0.9]), np.array([0.04, 0.02, 0.1, 0.05, 0.03])
    between = between_groups(y, v)
    weights = 1 / (v + between)
    assert weights @ (y - weights @ y / weights.sum()) ** 2 == pytest.approx(4)
    assert between_groups(y / 100, v) == 0


def test_pooling_draws_the_uncertain_most():
    """A mean is drawn towards the pooled one in proportion to its variance; three groups are not pooled."""
    r = np.full((6, 30, 8), math.nan)
    draws = GENERATOR(11).normal(0, 1, r.shape) + np.linspace(-1, 1, 6)[:, None, None]
    r[:, :6, :1] = draws[:, :6, :1]
    r[3:] = draws[3:]
    means = mean_r_clustered(sums("setup", r))
    drawn = pooled(means)
    assert drawn.center is not None
    kept = (drawn.mean - drawn.center) / (means.mean - drawn.center)
    assert kept[:3].max() < kept[3:].min() < 1
    assert kept[3:].min() > 0.8
    assert (drawn.variance[:3] < means.variance[:3]).all()
    three = mean_r_clustered(sums("setup", r[:3]))
    assert (pooled(three).center, pooled(three).mean.tolist()) == (None, three.mean.tolist())


def test_a_day_of_the_market_stays_in_every_interval():
    """What all groups share by day averages out over no number of groups: it stays in each pooled interval."""
    made = pooled(mean_r_clustered(sums("setup", normal(0.6, 1)(GENERATOR(12), np.zeros(300)))))
    assert made.between < 0.0005
    assert math.sqrt(made.variance.min()) == pytest.approx(0.6 / math.sqrt(60), rel=0.25)


def test_pooled_intervals_hold_the_truth():
    """Over worlds of setups with an edge each, about 95 % of the pooled intervals hold it, and they are narrower."""
    held, narrower = [], []
    for seed in range(4):
        edge = GENERATOR(seed).normal(0.05, 0.1, 300)
        rows = evidence([sums("setup", normal(0.2, 0.5)(GENERATOR(50 + seed), edge))])["rows"]
        for row, truth in zip(rows, edge, strict=True):
            interval, own = row["mean_r_pooled"], row["mean_r"]
            held.append(interval["low"] <= truth <= interval["high"])
            narrower.append(interval["high"] - interval["low"] < own["high"] - own["low"])
    assert 0.92 <= statistics.fmean(held) <= 0.98
    assert all(narrower)


def test_all_wins_leave_a_doubt():
    """Six wins in six days: the hit rate is 1, its interval reaches as far down as for independent trades."""
    made = hit_rate_clustered(one(*[[1.0]] * 6))
    assert (made.mean[0], made.variance[0]) == (1.0, pytest.approx(7 / 8 * 1 / 8 / 6))
    rate = evidence([one(*[[1.0 + day / 10] for day in range(6)])])["rows"][0]["hit_rate"]
    assert rate["high"] == 1.0
    assert rate["low"] == pytest.approx(1 - 2.570582 * math.sqrt(7 / 384), abs=2e-6)


@pytest.mark.parametrize(("edge", "days"), [(0.25, 20), (0.5, 10), (0.35, 30)])
def test_more_days_have_the_power(edge, days):
    """After the days announced, a test at the level in force shows the observed effect with a power of 80 %."""
    trades = np.array([1.0, -1.0] * (days // 2)) * math.sqrt((days - 1) / days)
    row = evidence([one(*[[float(x + edge)] for x in trades])])["rows"][0]
    spread = math.sqrt(mean_r_clustered(one(*[[float(x + edge)] for x in trades])).variance[0] * days)
    total = days + row["more_days"]["about"]

    def power(n):
        return 1 - scipy.special.nctdtr(n - 1, edge * math.sqrt(n) / spread, scipy.special.stdtrit(n - 1, 0.975))

    assert row["verdict"] == NOISE
    assert power(total - 1) < 0.8 + 0.01
    assert power(total) > 0.8 - 0.01
    assert row["more_days"]["low"] < row["more_days"]["about"]


def test_days_are_those_of_the_market():
    """A setup that trades on every second day needs twice the trading days."""
    days = [[float(x)] for x in np.array([1.0, -1.0] * 10) + 0.35]
    gaps = [day for pair in zip(days, [[math.nan]] * 20, strict=True) for day in pair]
    often, seldom = (evidence([one(*x)])["rows"][0]["more_days"]["about"] for x in (days, gaps))
    assert seldom == 2 * often


def test_no_effect_worth_waiting_for():
    """An effect that would take more than a year to show has no number of days."""
    days = [[float(x)] for x in np.array([1.0, -1.0] * 20) + 0.02]
    wait = evidence([one(*days)])["rows"][0]["more_days"]
    assert (wait["about"], wait["high"], wait["text"]) == (None, None, NOT_WORTH)
    assert wait["low"] is None or wait["low"] <= WAIT_MAX


def group(name: str, values: list[float]) -> TradeGroup:
    """One day's group in the schema of the datasets."""
    rest = dict.fromkeys(
        ("pnl_usd", "mae_sum", "mfe_sum", "hold_sum", "imbalance_sum", "spread_sum", "tape_delta_sum"), 0.0
    )
    counts = dict.fromkeys(("volume", "imbalance_n", "spread_n"), 0)
    return TradeGroup(
        mode="event",
        name=name,
        trade_count=len(values),
        wins=sum(r > 0 for r in values),
        r_n=len(values),
        r_sum=math.fsum(values),
        r_squares=math.fsum(r * r for r in values),
        **rest,
        **counts,
    )


def test_folded_days_give_the_same_evidence_in_any_order():
    """A world through the schema of the datasets, days and groups in any order, gives the bytes of its arrays."""
    r = normal(0.2, 1, 12)(GENERATOR(13), edges(3, 30))
    table = sums("setup", r)
    days = []
    for d in range(12):
        groups = [group(name, [float(x) for x in r[i, d]]) for i, name in enumerate(table.names)]
        date = (dt.date(2025, 1, 6) + dt.timedelta(days=d)).isoformat()
        days.append(
            DaySummary(date=date, content_hash="", episode_count=0, episodes_hash="", last_ts="", setups=groups)
        )
    direct = json.dumps(evidence([table]))
    assert json.dumps(evidence(tables_of(days))) == direct
    random.Random(1).shuffle(days)
    for day in days:
        random.Random(2).shuffle(day.setups)
    assert json.dumps(evidence(tables_of(days))) == direct


def test_modes_are_tables_of_their_own():
    """Groups of another mode are neither added nor pooled, but belong to the same family of tests."""
    a, b = group("x", [0.5, 1.0]), group("x", [0.5, -1.0])
    b.mode = "tape"
    made = group_tables("symbol", 6, [(f"2025-01-0{d}", g) for d in range(1, 7) for g in (a, b)])
    assert [(table.mode, table.r.s.sum()) for table in made] == [("event", 9.0), ("tape", -3.0)]
    assert len(evidence(made)["rows"]) == 2


@pytest.mark.parametrize("world", HELD[::2], ids=lambda world: world.name)
def test_worlds(world):
    """Without an edge something is shown in 8 of 100 worlds at most; 40 of 50 planted edges are found, 8 % noise."""
    worlds, planted = budget(10, 100), budget(7, 20)
    false = sum(outcome(world, seed, 0).noise > 0 for seed in range(worlds))
    full = [outcome(world, 10_000 + seed, PLANTED) for seed in range(planted)]
    assert (SETUPS, EDGE) == (1000, 0.3)
    assert false <= 0.08 * worlds
    assert statistics.median(one.found for one in full) >= 40
    assert statistics.fmean(one.noise / (one.found + one.noise) for one in full) <= 0.08


@pytest.mark.parametrize("world", WORLDS[-3:], ids=lambda world: world.name)
def test_stops_and_targets_on_few_days(world):
    """Trades that end at their stop or target, one a day on few days, are not evidence in worlds without an edge."""
    assert sum(outcome(world, seed, 0, 300).noise > 0 for seed in range(budget(8, 50))) <= budget(1, 4)
