"""Worlds with and without an edge: how often noise is shown as evidence, and how much of an edge is found.

python bench/bench_learning.py [--worlds 100] [--planted 20] [--only TEXT]

A world is 1,000 setups on 60 days with five trades a day, a trade's standard deviation 1.2 R, as sums per day in the
schema of the datasets, seeded. One JSON line a kind of world: `false_worlds` is the share of the worlds without any
edge in which something is shown, with its 95 % interval (Wilson); `found` the median of 50 planted setups found;
`noise_shown` the mean share of noise in what is shown; `covered` the share of pooled intervals that hold the true mean;
`excluding` the share of the setups' own 95 % intervals that exclude 0 without any edge.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harvester.memory.day_clusters import GroupTable, table_of
from harvester.memory.evidence import evidence

if TYPE_CHECKING:
    from collections.abc import Callable

SETUPS, DAYS, TRADES, SD, PLANTED, EDGE = 1000, 60, 5, 1.2, 50, 0.3


class World(NamedTuple):
    """A kind of world. `draw(generator, edge)` gives R of shape (setups, days, trades); `edge` is one mean a setup."""

    name: str
    draw: Callable[[np.random.Generator, np.ndarray], np.ndarray]
    overlapping: bool = False
    setups: int = SETUPS


def normal(day: float, common: float, days: int = DAYS, trades: int = TRADES):
    """Normal trades with a day effect of `day` R, of which the share `common` of the variance is the market's."""

    def draw(generator: np.random.Generator, edge: np.ndarray) -> np.ndarray:
        own = generator.normal(0, day * math.sqrt(1 - common), (len(edge), days, 1))
        market = generator.normal(0, day * math.sqrt(common), (1, days, 1))
        return edge[:, None, None] + own + market + generator.normal(0, SD, (len(edge), days, trades))

    return draw


def targets(win: float, up: float, days: int):
    """One trade a day that ends at a target of `up` R with probability `win`, else at its stop; the mean is `edge`."""

    def draw(generator: np.random.Generator, edge: np.ndarray) -> np.ndarray:
        hit = generator.random((len(edge), days, 1)) < win
        r = np.where(hit, up, -win * up / (1 - win)) + generator.normal(0, 0.03, hit.shape)
        return edge[:, None, None] + r

    return draw


def volatile(days: int):
    """Five trades a day, each setup with a standard deviation of its own (log-normal, sigma 0.5)."""

    def draw(generator: np.random.Generator, edge: np.ndarray) -> np.ndarray:
        own = SD * np.exp(generator.normal(0, 0.5, (len(edge), 1, 1)))
        return edge[:, None, None] + own * generator.normal(0, 1, (len(edge), days, TRADES))

    return draw


def uneven(day: float, most: int = 15):
    """As `normal`, with trades on half of the days only, one to fifteen of them (geometric, mean 5)."""

    def draw(generator: np.random.Generator, edge: np.ndarray) -> np.ndarray:
        r = normal(day, 0.5, DAYS, most)(generator, edge)
        count = np.minimum(generator.geometric(1 / 5, r.shape[:2]), most) * (generator.random(r.shape[:2]) < 0.5)
        return np.where(np.arange(most) < count[:, :, None], r, math.nan)

    return draw


WORLDS = [
    World("day effect 0.2, each setup its own", normal(0.2, 0)),
    World("day effect 0.2, half of it the market's", normal(0.2, 0.5)),
    World("day effect 0.2, all of it the market's", normal(0.2, 1)),
    World("day effect 0.6, each setup its own", normal(0.6, 0)),
    World("day effect 0.6, all of it the market's", normal(0.6, 1)),
    World("the same trades as setups, symbols and hours, market's 0.2", normal(0.2, 1), overlapping=True),
    World("20 symbols, day effect 0.6, 10 days, each symbol its own", normal(0.6, 0, 10), setups=20),
    World("20 symbols, day effect 0.6, 10 days, all of it the market's", normal(0.6, 1, 10), setups=20),
    World("one to fifteen trades on half of the days, half of 0.6 the market's", uneven(0.6)),
    World("a standard deviation for each setup", volatile(DAYS)),
    World("target 1.5 R or stop, one trade on 10 days", targets(0.4, 1.5, 10)),
    World("target 4 R or stop, one trade on 10 days", targets(0.2, 4, 10)),
    World("target 0.25 R or stop, one trade on 20 days", targets(0.8, 0.25, 20)),
]
HELD = WORLDS[:3]
"""The worlds of the claim; the others show where the method ends."""


def sums(kind: str, r: np.ndarray) -> GroupTable:
    """R of shape (groups, days, trades), nan for none, as the sums of a day's groups."""
    n, wins = np.isfinite(r).sum(axis=2), (r > 0).sum(axis=2)
    values = np.stack([n, wins, n, np.nansum(r, axis=2), np.nansum(r * r, axis=2)]).astype(float)
    return table_of(kind, "event", [f"{kind}{i:04}" for i in range(len(r))], values, r.shape[1])


def regrouped(kind: str, r: np.ndarray, labels: np.ndarray) -> GroupTable:
    """The same trades by another label, one label a trade."""
    groups, days = int(labels.max()) + 1, r.shape[1]
    cell = (labels * days + np.arange(days)[None, :, None]).ravel()
    count, wins, total, squares = (
        np.bincount(cell, weights.ravel(), groups * days).reshape(groups, days)
        for weights in (np.ones(r.shape), (r > 0).astype(float), r, r * r)
    )
    values = np.stack([count, wins, count, total, squares])
    return table_of(kind, "event", [f"{kind}{i:04}" for i in range(groups)], values, days)


def tables(world: World, seed: int, edge: np.ndarray) -> list[GroupTable]:
    generator = np.random.default_rng(seed)
    r = world.draw(generator, edge)
    made = [sums("setup", r)]
    if world.overlapping:
        made.append(regrouped("symbol", r, generator.integers(0, 100, r.shape)))
        made.append(regrouped("hour", r, generator.integers(0, 7, r.shape)))
    return made


def edges(planted: int, setups: int = SETUPS) -> np.ndarray:
    return np.where(np.arange(setups) < planted, EDGE, 0.0)


class Outcome(NamedTuple):
    """Planted setups found, noise shown, and shares of the setups.

    `covered`: the pooled interval holds the true mean; `excluding`: the setup's own interval does not hold it.
    """

    found: int
    noise: int
    covered: float
    excluding: float


def outcome(world: World, seed: int, planted: int, setups: int | None = None) -> Outcome:
    edge = edges(planted, setups or world.setups)
    rows = evidence(tables(world, seed, edge))["rows"]
    mine = [row for row in rows if row["kind"] == "setup"]
    shown = [row["verdict"] == "evidence" for row in mine]
    held = {
        name: sum(row[name]["low"] <= truth <= row[name]["high"] for row, truth in zip(mine, edge, strict=True))
        for name in ("mean_r", "mean_r_pooled")
    }
    # With an edge in some setups the symbols and hours that hold them have one too.
    noise = sum(shown[planted:]) if planted else sum(row["verdict"] == "evidence" for row in rows)
    return Outcome(sum(shown[:planted]), noise, held["mean_r_pooled"] / len(edge), 1 - held["mean_r"] / len(edge))


def wilson(hits: int, n: int) -> list[float]:
    z, p = 1.96, hits / n
    center, half = p + z * z / 2 / n, z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    return [round((center + sign * half) / (1 + z * z / n), 3) for sign in (-1, 1)]


def measured(world: World, worlds: int, planted_worlds: int) -> dict[str, Any]:
    began = time.process_time()
    empty = [outcome(world, seed, 0) for seed in range(worlds)]
    full = [outcome(world, 10_000 + seed, PLANTED * world.setups // SETUPS) for seed in range(planted_worlds)]
    false = sum(one.noise > 0 for one in empty)
    return {
        "bench": "learning",
        "world": world.name,
        "worlds": worlds,
        "false_worlds": false / worlds,
        "false_worlds_interval": wilson(false, worlds),
        "found": statistics.median(one.found for one in full),
        "found_least": min(one.found for one in full),
        "noise_shown": round(statistics.fmean(one.noise / max(one.found + one.noise, 1) for one in full), 4),
        "covered": round(statistics.fmean(one.covered for one in empty), 4),
        "covered_planted": round(statistics.fmean(one.covered for one in full), 4),
        "excluding": round(statistics.fmean(one.excluding for one in empty), 4),
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--worlds", type=int, default=100)
    options.add_argument("--planted", type=int, default=20)
    options.add_argument("--only", default="", help="worlds whose name contains this text")
    given = options.parse_args()
    for world in (world for world in WORLDS if given.only in world.name):
        print(json.dumps(measured(world, given.worlds, given.planted)), flush=True)


if __name__ == "__main__":
    main()
