"""The exchange is neither kind nor cruel: long and short from the same second lose the two spreads, and no more.

Market in, market out some seconds later, within the size shown: the gross of the pair is
-(spread at entry + spread at exit) x quantity, to 1e-9 USD.
"""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trading_table import Scripted, ScriptSettings, at, play

from harvester.calendar import session
from harvester.config import Settings
from harvester.events.batch import Batch
from harvester.events.kinds import Kind, TickStream
from harvester.projections.engine import Engine
from harvester.projections.run_params import RunParams, StrategyRef
from harvester.projections.trading import strategies
from harvester.projections.trading.costs import cost_table
from harvester.projections.trading.plan import EntryPlan
from tests.budget import budget

SECOND = 1_000_000_000

# ---- random markets ----------------------------------------------------------------------------

MOVES = st.tuples(
    st.integers(1, 3_000),  # milliseconds to the next event
    st.one_of(
        st.tuples(st.just("quote"), st.integers(900, 1100), st.integers(0, 9), st.integers(100, 300)),
        st.tuples(st.just("print"), st.integers(900, 1100), st.just(0), st.integers(1, 300)),
    ),
)


@settings(max_examples=budget(25, 300), deadline=None)
@given(st.lists(MOVES, max_size=12), st.integers(0, 9), st.integers(1, 100), st.sampled_from([0.0, 100.0, 1700.0]))
def test_pairs_in_random_markets(moves, hold, quantity, latency):
    """Long and short enter at decision + latency and leave at exit + latency, at the quotes that stand then."""
    lines, quotes, now = ["0 run", "0.001 quote 10 10.02 500 500"], [(at(0.001), 10.0, 10.02)], 0.001
    for pause, (what, cents, width, size) in moves:
        now = round(now + pause / 1000, 3)
        price = cents / 100
        if what == "quote":
            quotes.append((at(now), price, round(price + width / 100, 2)))
            lines.append(f"{now} quote {price} {quotes[-1][2]} {size} {size}")
        else:
            lines.append(f"{now} print {price} {size}")
    last = math.ceil(now) + hold + 8
    lines += [f"{second} clock" for second in range(1, last)] + [f"{last} end"]
    lines.sort(key=lambda line: float(line.split()[0]))  # at one time events go before their clock

    made = []
    for side in ("long", "short"):
        rows = play("\n".join([f"1 {side} {quantity} - - 5 {hold}", *lines]), latency_ms=latency)
        entry, leave = rows["fills"]
        assert (entry["ts"], rows["episodes"][0]["exit_reason"]) == (at(1) + round(latency * 1e6), "TIME_STOP")
        assert leave["ts"] <= entry["ts"] + (hold + 1) * SECOND + latency * 1e6
        made.append((entry, leave, rows["episodes"][0]["pnl_usd"]))
    (long_in, long_out, won), (short_in, short_out, lost) = made
    assert (long_in["ts"], long_out["ts"]) == (short_in["ts"], short_out["ts"])

    def standing(ts: int) -> tuple[int, float, float]:
        return [quote for quote in quotes if quote[0] <= ts][-1]

    spreads = sum(ask - bid for _, bid, ask in (standing(long_in["ts"]), standing(long_out["ts"])))
    assert won + lost == pytest.approx(-spreads * quantity, abs=1e-9)


# ---- a recorded market -------------------------------------------------------------------------

PAIRS, HOLD_S, EVERY_S = budget((1, 38, 44), (7, 300, 308))
APART_S, SHARES = 44, 100
DAY = date(2013, 10, 7)


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scripted strategy for each side of each pair."""
    for name in (f"{side}_{k}" for side in ("long", "short") for k in range(PAIRS)):
        made = type("Pair", (Scripted,), {"name": name, "__module__": Scripted.__module__})
        monkeypatch.setitem(strategies.STRATEGIES, name, made)


def run_start(opens: int, closes: int) -> tuple[RunParams, set[int]]:
    """Parameters of a run with a strategy a side and pair, and the clocks at which something happens."""
    refs, seconds = [], set()
    for k in range(PAIRS):
        times = range(opens + (10 + k * APART_S) * SECOND, closes - (HOLD_S + 90) * SECOND, EVERY_S * SECOND)
        seconds |= {ts + after * SECOND for ts in times for after in (0, 1, HOLD_S + 1, HOLD_S + 2)}
        for side in ("long", "short"):
            plan = EntryPlan(long=side == "long", quantity=SHARES, reason="PAIR", hold_seconds_max=HOLD_S)
            script = ScriptSettings(tuple((ts, plan) for ts in times))
            refs.append(StrategyRef(f"{side}_{k}", "x", msgspec.to_builtins(script)))
    built = RunParams.build(Settings(), DAY, strategies=refs)
    return msgspec.structs.replace(built, costs=msgspec.to_builtins(cost_table("none"))), seconds


def events(folder: Path, opens: int, closes: int) -> list[tuple[Kind, dict[str, Any]]]:
    """The day's quotes and clocks as a recorder would have written them."""
    found = pl.read_parquet(folder / "quotes.parquet").filter(pl.col("ts").is_between(opens, closes))
    params, seconds = run_start(opens, closes)
    clocks = budget(sorted(seconds), range(opens, closes, SECOND))
    common = {"con_id": 7, "epoch": 1, "req_id": 1}
    rows: list[tuple[int, int, Kind, dict[str, Any]]] = [
        (ts, 0, Kind.QUOTE, common | {"ts_recv": ts, "stream": int(TickStream.BID_ASK), "bid": bid, "ask": ask,
                                      "bid_size": float(shown), "ask_size": float(offered), "attribs": 0})
        for ts, bid, shown, ask, offered in found.select("ts", "bid", "bid_size", "ask", "ask_size").iter_rows()
    ]  # fmt: skip
    rows += [(ts, 1, Kind.CLOCK, {"ts_recv": ts, "wall_ns": ts, "mono_ns": ts}) for ts in clocks]
    rows.sort(key=lambda row: row[:2])
    start = {"ts_recv": opens, "action": "run_start", "stream": "run", "params": params.text()}
    ask_for = common | {"ts_recv": opens, "action": "subscribe", "stream": "bid_ask", "symbol": "PAIR", "params": "{}"}
    return [(Kind.REQUEST, start), (Kind.REQUEST, ask_for), *((kind, row) for _, _, kind, row in rows)]


@pytest.mark.parametrize("tape", ["IBM-2013-10-07", "BAC-2013-10-07"])
@pytest.mark.slow
@pytest.mark.usefixtures("pairs")
def test_pairs_on_a_recorded_tape(tape: str, shared_data: Path) -> None:
    """At least 500 pairs of 100 shares (held 300 seconds in the long run) lose exactly both spreads, by the quotes."""
    hours = session(DAY)
    assert hours is not None
    rows = events(shared_data / "tapes" / tape, hours.open_ns, hours.close_ns)
    quotes = np.array(
        [(seq, row["bid"], row["ask"]) for seq, (kind, row) in enumerate(rows, start=1) if kind is Kind.QUOTE]
    )
    engine = Engine()
    parts = [engine.fold(Batch.of(rows, 1)), engine.finish()]
    fills = [row for part in parts if "fills" in part.tables for row in part.tables["fills"].to_pylist()]
    legs: dict[Any, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for fill in fills:
        side, pair = fill["strategy"].split("_")
        legs[pair, fill["decision_seq"]][side].append(fill)
    whole = 0
    for pair in legs.values():
        if any([f["quantity"] for f in pair[side]] != [SHARES, SHARES] for side in ("long", "short")):
            continue  # more than was shown
        times = [[f["ts"] for f in pair[side]] for side in ("long", "short")]
        if times[0] != times[1]:
            continue
        gross = math.fsum(
            (1 if f["side"] == "SELL" else -1) * f["price"] * f["quantity"] for side in pair.values() for f in side
        )
        stood = quotes[np.searchsorted(quotes[:, 0], [f["seq"] for f in pair["long"]], "right") - 1]
        assert gross == pytest.approx(-math.fsum(stood[:, 2] - stood[:, 1]) * SHARES, abs=1e-9)
        whole += 1
    assert whole >= 500
