"""Deciding with screens calls fewer strategies and changes no result."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trading_log import DATE, market, run_params, subscriptions
from trading_table import Scripted

from harvester.config import Settings
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.projections.engine import Engine
from harvester.projections.run_params import RunParams, StrategyRef
from harvester.projections.trading import deciding, trading_feed
from harvester.projections.trading.fast.bucket_columns import SECONDS, BucketColumns, Newest, records, row_of, rows_of
from harvester.projections.trading.simulated_exchange import ShownQuote
from harvester.projections.trading.strategies import describe, make
from harvester.projections.trading.strategies.breakout_screen import BreakoutScreen
from harvester.projections.trading.strategy import Ahead, View
from harvester.projections.trading.trade_rows import TradeRows, Watched
from harvester.projections.trading.trading_feed import TradingFeed
from tests.budget import budget

SECOND = 1_000_000_000
OPEN, CLOSE = 1_752_759_000 * SECOND, 1_752_782_400 * SECOND


def troubled(seed: int = 3, seconds: int = 1500) -> Batch:
    """A day with late clocks, silent symbols, lost connections, a book that turns bad and a restart during a trade."""
    chance = random.Random(seed)
    rows = market(seconds=seconds, seed=seed)
    start = rows[0][1]["ts_recv"]
    out: list[tuple[Kind, dict[str, Any]]] = [*begin(start, {}), *depth(start)]
    for i, (kind, row) in enumerate(rows):
        ts = {"ts_recv": row["ts_recv"]}
        if i == 9 * 745:
            end = {"action": "run_end", "stream": "run", "params": "{}"}
            out += [(Kind.REQUEST, ts | end), *begin(row["ts_recv"], {"risk_usd": 50.0})]
        if kind == Kind.CLOCK and chance.random() < 0.05:
            continue
        if kind != Kind.CLOCK and 3000 < i < 3400:
            continue
        out.append((kind, row | {"bid": 0.0} if kind == Kind.QUOTE and 5000 < i < 5050 else row))
        if i % 97 == 0:
            level = {"position": 0, "operation": int(i > 500), "side": i % 2, "price": 50.0, "size": 100.0, "msg": 13}
            out.append((Kind.DEPTH, ts | level | {"con_id": 101, "epoch": 1, "req_id": 30, "smart": 1}))
        if i % 531 in (300, 305, 320):
            code = {300: 1100, 320: 1102, 305: 317}[i % 531]
            out.append((Kind.NOTICE, ts | {"code": code, "epoch": 1, "req_id": 30, "text": "", "con_id": 0}))
    return Batch.of(out, 1)


def begin(ts: int, strategy: dict[str, Any]) -> list[tuple[Kind, dict[str, Any]]]:
    params = run_params(lookback_seconds=30, cooldown_seconds=5.0, hold_seconds_max=40.0, **strategy)
    start = {"ts_recv": ts, "action": "run_start", "stream": "run", "params": params.text()}
    return [(Kind.REQUEST, start), *((k, row | {"ts_recv": ts}) for k, row in subscriptions(ts))]


def depth(ts: int) -> list[tuple[Kind, dict[str, Any]]]:
    ask = {"action": "subscribe", "stream": "smart_depth", "symbol": "AAA", "params": '{"rows":5}', "req_id": 30}
    return [(Kind.REQUEST, ask | {"ts_recv": ts, "con_id": 101, "epoch": 1})]


def folded(batch: Batch, cuts: list[int]) -> tuple[list[str], dict[str, list[Any]]]:
    """Digests of trading at every cut, and its rows."""
    engine, digests = Engine(), []
    rows: dict[str, list[Any]] = {"decisions": [], "fills": [], "episodes": []}
    for first, last in pairwise([0, *cuts, batch.last_seq]):
        outputs = engine.fold(batch.slice(first + 1, last))
        for name, found in rows.items():
            found.extend(outputs.tables[name].to_pylist() if name in outputs.tables else [])
        digests.append(engine[TradingFeed].digest())
    outputs = engine.finish()
    for name, found in rows.items():
        found.extend(outputs.tables[name].to_pylist() if name in outputs.tables else [])
    return [*digests, engine[TradingFeed].digest()], rows


@pytest.fixture(scope="module")
def asked_always() -> tuple[Batch, list[int], Any]:
    """A troubled day with every strategy called at every slot, one clock a stretch."""
    batch = troubled()
    cuts = [batch.last_seq // 3, batch.last_seq // 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deciding, "SCREENS", {})
        patch.setattr(trading_feed, "CLOCKS_MAX", 1)
        return batch, cuts, folded(batch, cuts)


@pytest.mark.parametrize(
    ("screened_min", "clocks_max"), [(8, 512), (8, 20), (1, 512), (1, 1), (1, 7), (50, 64), (10**9, 512)]
)
def test_who_is_asked_changes_nothing(
    screened_min: int, clocks_max: int, asked_always: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and digests equal those without screens, for any use of screens and any length of the stretches."""
    batch, cuts, expected = asked_always
    monkeypatch.setattr(deciding, "SCREENED_MIN", screened_min)
    monkeypatch.setattr(trading_feed, "CLOCKS_MAX", clocks_max)
    digests, rows = folded(batch, cuts)
    assert rows == expected[1]
    assert digests == expected[0]
    assert len(rows["episodes"]) > 8
    assert {"RUN_CHANGE"} < {row["exit_reason"] for row in rows["episodes"]}
    gates = {code for row in rows["decisions"] for code in row["gate_codes"].split("|")}
    assert gates >= {"WARMUP", "HOLDING", "COOLDOWN", "OUTAGE", "NOT_LIVE", "BOOK_BAD", ""}


def test_few_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a quiet market the strategy is called only at the breakouts."""
    asked = []
    strategy = type(make("imbalance_breakout", {}))
    decide = strategy.decide
    monkeypatch.setattr(strategy, "decide", lambda self, view: asked.append(view.ts) or decide(self, view))
    _, rows = folded(troubled(), [])
    assert len(asked) < len(rows["decisions"]) / 5


def test_strategies_side_by_side() -> None:
    """A strategy without a screen next to one with a screen: each decides as it would alone, symbol by symbol."""
    alone = {name: by_two(name) for name in ("imbalance_breakout", "scripted")}
    both = by_two("imbalance_breakout", "scripted")
    for name, rows in alone.items():
        mine = [row for row in both["decisions"] if row["strategy"] == name]
        assert mine == rows["decisions"]
    order = [(row["seq"], row["con_id"], row["strategy"]) for row in both["decisions"] if row["action"] == "none"]
    assert order == sorted(order)


def by_two(*names: str) -> dict[str, list[Any]]:
    refs = [StrategyRef(**describe(name)) if name != "scripted" else StrategyRef(name, "x", {}) for name in names]
    params = RunParams.build(Settings(), DATE, strategies=refs)
    rows = market(seconds=300)
    ts = rows[0][1]["ts_recv"]
    start = {"ts_recv": ts, "action": "run_start", "stream": "run", "params": params.text()}
    return folded(Batch.of([(Kind.REQUEST, start), *subscriptions(ts), *rows], 1), [])[1]


def test_a_strategy_without_a_screen_sees_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strategy without a screen observes each bucket once, in order, and is called at each slot."""
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(Scripted, "observe", lambda _, con_id, bucket: seen.append((bucket["ts"], con_id)))
    rows = by_two("scripted")
    assert seen == sorted(seen)
    assert len(seen) == len(set(seen)) == len(rows["decisions"]) == 2 * 300


# ---- the screen against the strategy ------------------------------------------------------------

maybe = st.floats(49, 51) | st.sampled_from([50.0, math.nan, math.inf])
buckets = st.tuples(
    maybe,  # mid
    st.sampled_from([math.nan, -1.0, 0.0, 0.5, 10.0, 10.1, math.inf]),  # spread in bps
    st.sampled_from([math.nan, -1.0, -0.2, 0.0, 0.2, 1.0, math.inf, -math.inf]),  # imbalance
    st.sampled_from([-1, 0, 1, 1, 1]),  # book_good
    st.sampled_from([0, 0, 0, 1]),  # stale
    st.booleans(),  # quote in force is good
)


def columns(made: list[Any]) -> Any:
    rows = np.zeros(len(made), SECONDS)
    for k, name in enumerate(("mid", "spread_bps", "imbalance", "book_good", "stale")):
        rows[name] = [row[k] for row in made]
    return rows


cases = st.fixed_dictionaries(
    {
        "rows": st.lists(buckets, min_size=1, max_size=40),
        "known": st.integers(0, 40),  # rows from before the screen was made
        "since": st.integers(0, 40),  # the first row to screen
        "edge": st.sampled_from([OPEN, OPEN + 60 * SECOND, CLOSE - 900 * SECOND, CLOSE, OPEN + 3600 * SECOND]),
        "late": st.sampled_from([0, SECOND // 2, SECOND - 1]),
        "holding": st.booleans(),
        "outage": st.booleans(),
        "hours": st.sampled_from([(OPEN, CLOSE), None]),
        "lookback": st.sampled_from([1, 2, 5]),
        "rest": st.integers(0, 30),
    }
)


@settings(deadline=None, max_examples=budget(80, 300))
@given(cases)
def test_a_screen_says_what_decide_says(case: dict[str, Any]) -> None:
    """Screen and strategy give equal gates at every second, and no plan at a second the screen rules out."""
    words = {"lookback_seconds": case["lookback"], "momentum_seconds": 1, "cooldown_seconds": float(case["rest"])}
    words |= {"momentum_bps_min": 0.0, "range_spreads_min": 0.0, "open_wait_seconds": 60.000000001}
    made, hours, holding, outage = (case[name] for name in ("rows", "hours", "holding", "outage"))
    rows = columns(made)
    shown = np.array([row[5] for row in made])
    known = min(case["known"], len(made) - 1)
    since = max(known, min(case["since"], len(made) - 1))
    ts = case["edge"] + (np.arange(len(made)) - len(made) // 2) * SECOND + case["late"]

    judged, plain = make("imbalance_breakout", words), make("imbalance_breakout", words)
    for row in rows_of(rows[:known]):
        judged.observe(7, row)
    screen = BreakoutScreen(judged, Ahead(7, rows[known:], ts[known:], shown[known:], hours, outage))
    BreakoutScreen.observe(judged, 7, rows[known:since])
    for strategy in (judged, plain):
        strategy.finished(7, int(ts[since]) - 10 * SECOND)
    gates, asks = screen.look(since - known, holding=holding)
    for k in range(len(made)):
        row = row_of(rows, k)
        plain.observe(7, row)
        if k < since:
            continue
        quote = ShownQuote(bool(shown[k]), 49.99, 50.0, 300.0, 100.0)
        verdict = plain.decide(View(1, int(ts[k]), 7, "TEST", row, quote, hours, holding, outage))
        told = tuple(code for bit, code in enumerate(screen.codes) if gates[k - since] >> bit & 1)
        assert told == verdict.gates
        assert verdict.plan is None or asks[k - since]
        assert not verdict.gates or not asks[k - since]
    BreakoutScreen.observe(judged, 7, rows[since:])
    assert judged.snapshot() == plain.snapshot()


# ---- decisions to do nothing ---------------------------------------------------------------------


def told(kinds: list[Any], rows: list[tuple[int, ...]], *cuts: int) -> tuple[list[Any], tuple[bytes, bytes]]:
    """Write rows (clock's seq, bucket's ts, kind) in pieces; returns the table's rows and the chains."""
    blotter, made = TradeRows(), []
    for begin, end in pairwise([0, *cuts, len(rows)]):
        seq, bucket_ts, kind = np.array(rows[begin:end]).T
        blotter.watched(Watched(seq, seq * 10, bucket_ts, kind, kinds))
        made += blotter.take()["decisions"].to_pylist()
    return made, blotter.chains


def test_the_digest_knows_every_decision_to_do_nothing_and_no_cut() -> None:
    """Splits between clocks and the numbers of kinds do not change the chain; another gate, bucket or clock does."""
    calm, hold = (7, "A", "s", "d", "none", ""), (7, "A", "s", "d", "none", "HOLDING")
    rows = [(3, 1, 0), (3, 2, 1), (5, 3, 0), (8, 4, 1)]
    whole = told([calm, hold], rows)
    assert [row["gate_codes"] for row in whole[0]] == ["", "HOLDING", "", "HOLDING"]
    assert told([calm, hold], rows, 2, 3) == whole
    assert told([hold, calm], [(seq, ts, 1 - kind) for seq, ts, kind in rows]) == whole
    for at, other in ((3, (8, 4, 0)), (1, (3, 9, 1)), (3, (9, 4, 1)), (2, (3, 3, 0))):
        assert told([calm, hold], [*rows[:at], other, *rows[at + 1 :]])[1] != whole[1]


# ---- seconds --------------------------------------------------------------------------------


@given(st.lists(buckets, max_size=10))
def test_rows_read_back(made: Any) -> None:
    """Columns convert to dictionaries and back; a single row converts like many."""
    rows = columns(made)
    rows["quote_source"] = np.arange(len(rows)) % 4
    found = rows_of(rows)
    assert found == [row_of(rows, k) for k in range(len(rows))]
    assert rows_of(records(found)) == found
    assert rows_of(rows, ("mid", "stale")) == [{"mid": row["mid"], "stale": row["stale"]} for row in found]


def test_a_late_clock_decides_once_a_symbol() -> None:
    """A clock that closes several seconds of a symbol has one slot for it, in the position of its first bucket."""
    rows = np.zeros(6, SECONDS)
    rows["ts"] = [1, 2, 2, 3, 3, 4]
    con_ids = np.array([8, 7, 8, 7, 9, 8])
    clocks = np.array([[10, 1], [20, 3], [30, 4], [40, 5]])
    seconds = BucketColumns(clocks, rows, con_ids, [1, 5, 5, 6], {7: "A", 8: "B", 9: "C"})
    assert seconds.slots.tolist() == [0, 3, 2, 4, 5]  # 7's newest row is its second, 8 comes behind it
    assert seconds.slot_ends == [1, 4, 4, 5]
    history = seconds.history(7, Newest())
    assert (history.slots.tolist(), history.upto(2), history.upto(5)) == ([1, 1], 1, 2)
    assert list(seconds.symbols) == [8, 7, 9]
