"""A user's strategy in plain Python against a bare loop over tuples of the same fields, both in this run.

    python bench/bench_strategy.py [--events 500000] [--symbols 5] [--home FOLDER]

Ours is what a fold of the day costs more with the strategy than with none. The peers run the body of `on_second` over
tuples of the market's fields of `Now`: tuples that are ready (`loop_us`), and tuples made from columns (`bare_us`).
`floor_us` is what no caller can leave out: unpack the numbers, make each `Now`, call the method. The second line is
`hv project` of that day with 20 strategies, process start included. JSON lines.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from generator import DAY, kept

from harvester.config import Settings
from harvester.eventlog.fold_reader import fold_batches
from harvester.eventlog.reader import open_day
from harvester.projections.engine import Engine
from harvester.projections.market.merge import COLUMNS
from harvester.projections.run_params import RunParams, StrategyRef
from harvester.projections.trading.run_terms import RunTerms
from harvester.projections.trading.strategies import Library
from harvester.projections.trading.user_decider import UserDecider
from harvester.projections.trading.user_strategy import FLAGS, NUMBER_COUNT, Now, Strategy

if TYPE_CHECKING:
    from harvester.home import Home

ROUNDS, STRATEGIES = 7, 20
PROJECT = Path(__file__).resolve().parent.parent
MARKET_COUNT = NUMBER_COUNT + len(FLAGS) + 2  # and con_id, symbol
BODY = """
    lookback: int = 60
    spread_bps_max: float = 50.0

    def on_symbol(self, symbol):
        self.state.mids, self.state.total = [], 0.0

    def on_second(self, now):
        state, mid = self.state, now.mid
        state.mids.append(mid)
        state.total += mid
        if len(state.mids) > self.lookback:
            state.total -= state.mids.pop(0)
        if now.spread_bps > self.spread_bps_max:
            return self.refuse("SPREAD")
        if now.imbalance is not None and mid > {factor} * state.total / len(state.mids) and now.position is None:
            return self.buy(100, stop=now.bid - 0.1, target=now.ask + 0.1)
        return None
"""  # a rolling mean, a spread gate and a comparison: what a small strategy does in a second


def strategy() -> type[Strategy]:
    """The strategy, which never trades."""
    names: dict[str, Any] = {"Strategy": Strategy}
    exec("class Plain(Strategy):" + BODY.format(factor=2), names)
    kind: type[Strategy] = names["Plain"]
    return kind


class Only(Library):
    """Every run has this strategy, or none."""

    def __init__(self, kind: type[Strategy] | None) -> None:
        super().__init__()
        self._kind = kind

    def chosen(self, terms: RunTerms) -> RunTerms:
        refs = [StrategyRef("plain", "x", {})] if self._kind else []
        return RunTerms.of(RunParams.build(Settings(), DAY, strategies=refs), terms.run)

    def make_user(self, name: str, recorded: str, settings: Any) -> tuple[Any, str]:
        del name
        assert self._kind is not None
        return UserDecider(self._kind(settings), recorded), recorded


def fold(home: Home, kind: type[Strategy] | None) -> float:
    """CPU seconds of a fold from memory."""
    batches = list(fold_batches(open_day(DAY, home), COLUMNS, 100_000))
    engine = Engine(library=Only(kind))
    gc.collect()
    begin = process_time()
    for batch in batches:
        engine.fold(batch)
    return process_time() - begin


def loop(rows: Any) -> None:
    """The body of `on_second` over tuples."""
    mid_at, spread_at, imbalance_at, con_at = (
        Now._fields.index(n) for n in ("mid", "spread_bps", "imbalance", "con_id")
    )
    kept_of: dict[int, list[Any]] = {}
    wanted = 0
    for row in rows:
        state = kept_of.setdefault(row[con_at], [[], 0.0])
        mids, mid = state[0], row[mid_at]
        mids.append(mid)
        state[1] += mid
        if len(mids) > 60:
            state[1] -= mids.pop(0)
        if row[spread_at] > 50.0:
            wanted += 1
            continue
        if row[imbalance_at] is not None and mid > 2 * state[1] / len(mids):
            wanted += 1


def timed(function: Any, *args: Any) -> float:
    """CPU seconds."""
    gc.collect()
    begin = process_time()
    function(*args)
    return process_time() - begin


def floor(rows: list[Now], kind: type[Strategy]) -> float:
    """CPU seconds of unpacking the numbers, making each `Now` and calling the method, in pieces of 512."""
    made = kind({})
    made.on_symbol("")
    called, new, rest = made.on_second, tuple.__new__, tuple(rows[0][NUMBER_COUNT:])
    one = struct.Struct("=" + "".join("q" if isinstance(value, int) else "d" for value in rows[0][:NUMBER_COUNT]))
    packed = b"".join(one.pack(*row[:NUMBER_COUNT]) for row in rows)

    def run() -> None:
        for begin in range(0, len(packed), 512 * one.size):
            for numbers in one.iter_unpack(packed[begin : begin + 512 * one.size]):
                called(new(Now, numbers + rest))

    return timed(run)


def seen(home: Home) -> list[Now]:
    """What the strategy sees, where no number is absent."""
    found: list[Now] = []
    plain = strategy()

    class Look(plain):  # type: ignore[valid-type,misc]
        def on_second(self, now: Now) -> None:
            found.append(now)

    fold(home, Look)
    return [now for now in found if None not in now[:NUMBER_COUNT]]


def project(home: Home) -> dict[str, Any]:
    """`hv project` with many strategies, those with a small factor trade."""
    with tempfile.TemporaryDirectory() as name:
        out, words = Path(name) / "out", []
        for k in range(STRATEGIES):
            file = Path(name) / f"plain_{k}.py"
            text = f"class Plain{k}(Strategy):" + BODY.format(factor=1 + (k + 1) / 100_000)
            file.write_text("from harvester import Strategy\n\n\n" + text)
            words += ["--strategy", f"{file}:Plain{k}"]
        command = [sys.executable, "-m", "cli.app", "project", "--date", str(DAY), "--home", str(home.root), *words]
        begin = perf_counter()
        done = subprocess.run([*command, "--json", "--force"], cwd=PROJECT, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        print(done.stderr)
        seconds = perf_counter() - begin
        shutil.rmtree(out, ignore_errors=True)
    rows = json.loads(done.stdout)["rows"]
    return {
        "bench": "strategies", "strategies": STRATEGIES, "seconds": round(seconds, 2), "decisions": rows["decisions"],
        "fills": rows["fills"], "us_each": round(seconds / rows["decisions"] * 1e6, 2),
    }  # fmt: skip


def main() -> None:
    """Fold the day with and without the strategy in turns, print the ratios; then the day with many strategies."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--events", type=int, default=500_000)
    options.add_argument("--symbols", type=int, default=5)
    options.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / "harvester-bench")
    given = options.parse_args()
    home = kept(given.home, given.events, symbols=given.symbols)
    kind = strategy()
    rows = seen(home)
    ready = [tuple(now[:MARKET_COUNT]) for now in rows]
    columns = [
        np.array(column, object if isinstance(column[0], str | None) else type(column[0]))
        for column in zip(*ready, strict=True)
    ]
    extra, made, bare, least = [], [], [], []
    for _ in range(ROUNDS):
        extra.append(fold(home, kind) - fold(home, None))
        made.append(timed(lambda: loop(list(zip(*(column.tolist() for column in columns), strict=True)))))
        bare.append(timed(loop, ready))
        least.append(floor(rows, kind))
    us = [statistics.median(part) / len(rows) * 1e6 for part in (extra, made, bare, least)]
    ours, made_us, loop_us, floor_us = us
    result = {
        "bench": "strategy", "decisions": len(rows), "ours_us": round(ours, 2), "bare_us": round(made_us, 2),
        "loop_us": round(loop_us, 2), "floor_us": round(floor_us, 2), "ratio": round(ours / made_us, 2),
        "ratio_of_ready": round(ours / loop_us, 2), "floor_of_ready": round(floor_us / loop_us, 2),
    }  # fmt: skip
    print(json.dumps(result))
    print(json.dumps(project(home)))


if __name__ == "__main__":
    main()
