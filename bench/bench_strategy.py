"""A user's strategy in plain Python against a bare loop over tuples of the same fields, both in this run.

The peer makes tuples of the market's fields of `Now` out of columns, loops over them and runs the body of `on_second`;
ours is what a fold of the day costs more with the strategy than without one. Prints one JSON line; `loop_us` is the
loop alone, over tuples that exist already.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from harvester.config import Settings
from harvester.eventlog.reader import open_day
from harvester.home import Home
from harvester.projections.engine import Engine
from harvester.projections.run_params import RunParams, StrategyRef
from harvester.projections.trading.strategies import Library
from harvester.projections.trading.user_decider import UserDecider
from harvester.projections.trading.user_strategy import NUMBER_COUNT, Now, Strategy
from tests.trading_log import DATE, record

SECONDS, ROUNDS = 6_000, 7


class Plain(Strategy):
    """A rolling mean, a spread gate and a comparison: what a small strategy does in a second."""

    lookback: int = 60
    spread_bps_max: float = 5.0

    def on_symbol(self, symbol: str) -> None:
        del symbol
        self.state.mids, self.state.total = [], 0.0

    def on_second(self, now: Now) -> Any:
        state, mid = self.state, now.mid
        state.mids.append(mid)
        state.total += mid
        if len(state.mids) > self.lookback:
            state.total -= state.mids.pop(0)
        if now.spread_bps > self.spread_bps_max:
            return self.refuse("SPREAD")
        if now.imbalance is not None and mid > 2 * state.total / len(state.mids):
            return self.buy(100, stop=now.bid - 0.1)
        return None


class Kept(Library):
    """The strategy above, and what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.decider: UserDecider | None = None

    def make_user(self, name: str, recorded: str, settings: Any) -> tuple[Any, str]:
        del name
        self.decider = UserDecider(Plain(settings), recorded)
        return self.decider, recorded


def fold(home: Home) -> float:
    """CPU seconds of a fold."""
    batches = list(open_day(DATE, home).batches(100_000))
    engine = Engine(library=Kept())
    gc.collect()
    begin = process_time()
    for batch in batches:
        engine.fold(batch)
    return process_time() - begin


def bare(columns: list[Any]) -> tuple[float, float]:
    """CPU seconds of the same body over tuples made of columns, and of the loop alone."""
    names = ("mid", "spread_bps", "imbalance", "con_id")
    mid_at, spread_at, imbalance_at, con_at = (Now._fields.index(name) for name in names)
    kept: dict[int, list[Any]] = {}
    gc.collect()
    start, wanted = process_time(), 0
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    begin = process_time()
    for row in rows:
        state = kept.setdefault(row[con_at], [[], 0.0])
        mids, mid = state[0], row[mid_at]
        mids.append(mid)
        state[1] += mid
        if len(mids) > 60:
            state[1] -= mids.pop(0)
        if row[spread_at] > 5.0:
            wanted += 1
            continue
        if row[imbalance_at] == row[imbalance_at] and mid > 2 * state[1] / len(mids):
            wanted += 1
    end = process_time()
    return end - start, end - begin


def rows_of(home: Home) -> list[tuple[Any, ...]]:
    """What the strategy saw, as plain tuples."""
    found: list[tuple[Any, ...]] = []

    class Look(Plain):
        def on_second(self, now: Now) -> Any:
            found.append(tuple(now))

    library = Library()
    library.make_user = lambda _, recorded, settings: (UserDecider(Look(settings), recorded), recorded)  # type: ignore[method-assign]
    engine = Engine(library=library)
    for batch in open_day(DATE, home).batches(100_000):
        engine.fold(batch)
    return found


def main() -> None:
    """Record a day, fold it with and without the strategy in turns, print the ratio."""
    with tempfile.TemporaryDirectory() as name:
        homes = []
        for kind, refs in (("with", [StrategyRef("plain", "x", {})]), ("without", [])):
            home = Home(Path(name) / kind).prepare()
            record(home, params=RunParams.build(Settings(), DATE, strategies=refs), seconds=SECONDS)
            homes.append(home)
        rows = rows_of(homes[0])
        market = zip(*(row[:NUMBER_COUNT] for row in rows), strict=True)
        columns = [np.array(column, object if isinstance(column[0], str) else float) for column in market]
        extra, peer, loop = [], [], []
        fold(homes[0])
        for _ in range(ROUNDS):
            extra.append(fold(homes[0]) - fold(homes[1]))
            whole, alone = bare(columns)
            peer.append(whole)
            loop.append(alone)
        ours, bare_loop = statistics.median(extra), statistics.median(peer)
        result = {
            "bench": "strategy",
            "decisions": len(rows),
            "ours_us": round(ours / len(rows) * 1e6, 2),
            "bare_us": round(bare_loop / len(rows) * 1e6, 2),
            "loop_us": round(statistics.median(loop) / len(rows) * 1e6, 2),
            "ratio": round(ours / bare_loop, 2),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
