"""The simulated trading against the plain-Python reference, on random small days split anywhere."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.projections.engine import Engine
from harvester.projections.trading.episodes import BUCKET_FIELDS
from harvester.projections.trading.plan import Change, EntryPlan
from tests.budget import budget
from tests.reference import trading as plain
from tests.reference.breakout import Breakout
from tests.reference.trades import window
from tests.reference.trading_days import BookDay, BreakoutDay, TradingDay
from tests.reference.trading_plans import seen

Events = list[tuple[Kind, dict[str, Any]]]
Tables = dict[str, list[dict[str, Any]]]
seeds = st.integers(0, 2**32)
edges = st.lists(st.integers(1, 400), max_size=6)


def fold(batch: Batch, marks: list[int], restored: int = 0) -> Tables:
    """Rows of the batch cut after these seqs; behind the first `restored` cuts another engine goes on."""
    engine, tables = Engine(), {"decisions": [], "fills": [], "episodes": [], "buckets": []}
    for a, b in pairwise([0, *sorted({mark for mark in marks if mark < batch.last_seq}), batch.last_seq]):
        take(tables, engine.fold(batch.slice(a + 1, b)).tables)
        if restored:
            saved, engine, restored = engine.snapshot(), Engine(), restored - 1
            engine.restore(saved)
    take(tables, engine.finish().tables)
    return tables


def take(tables: Tables, made: Any) -> None:
    for name in tables.keys() & made.keys():
        tables[name] += made[name].to_pylist()


class Plans:
    """The reference's own drawn strategy: a plan by clock and symbol."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.plans, self.changes = given["plans"], given["changes"]

    def observe(self, bucket: dict[str, Any]) -> None: ...

    def finished(self, con_id: int, ts: int) -> None: ...

    def decide(self, view: dict[str, Any]) -> tuple[list[str], EntryPlan | None, list[Change]]:
        key = f"{view['ts']} {view['bucket']['con_id']}"
        if view["holding"]:
            return ["HOLDING", seen(view["position"])], None, msgspec.convert(self.changes.get(key, []), list[Change])
        return [], msgspec.convert(self.plans.get(key), EntryPlan | None), []


STRATEGIES = {"drawn": Plans, "drawn_beside": Plans, "imbalance_breakout": Breakout}


def check(day: TradingDay, marks: list[int], restored: int = 0) -> tuple[Tables, plain.Trading]:
    """Assert that the engine equals the reference; returns the common results."""
    batch = Batch.of(day.events).check()
    tables = fold(batch, marks, restored)
    reference = plain.Trading(STRATEGIES)
    for kind, row in batch.events():
        reference.on(str(kind), row)
    reference.finish()
    same(by_symbol(tables["fills"]), by_symbol(reference.fills))
    decisions = [row | {"features": json.loads(row["features"] or "{}")} for row in tables["decisions"]]
    same(by_symbol(decisions), by_symbol(reference.decisions))
    same(by_symbol([whole(row) for row in tables["episodes"]]), by_symbol(reference.episodes))
    return tables, reference


def by_symbol(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In their order, symbol after symbol: what happens to two symbols at once has no order."""
    return sorted(rows, key=lambda row: row["con_id"])


def same(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """Every column the reference knows."""
    for got, expected in zip(mine, theirs, strict=False):
        differing = {k: differs(got[k], v) for k, v in expected.items() if not equal(got[k], v)}
        assert not differing, (differing, got, expected)
    assert len(mine) == len(theirs), mine[len(theirs) :][:1] or theirs[len(mine) :][:1]


def differs(got: Any, expected: Any) -> Any:
    """Both, of lists their first difference."""
    if isinstance(expected, list) and len(got) == len(expected):
        return next((one, other) for one, other in zip(got, expected, strict=True) if not equal(one, other))
    return got, expected


def equal(got: Any, expected: Any) -> bool:
    """Numbers to nine decimals: smaller digits depend on the order of summing."""
    if isinstance(expected, list):
        return len(got) == len(expected) and all(map(equal, got, expected))
    if isinstance(expected, dict):
        return got is not None and all(equal(got[name], value) for name, value in expected.items() if name in got)
    if isinstance(expected, float) and got is not None:
        return math.isclose(got, expected, rel_tol=1e-7, abs_tol=1.5e-9)
    return bool(got == expected)


def whole(row: dict[str, Any]) -> dict[str, Any]:
    """An episode's row with the fields that only its document has."""
    document = json.loads(row["document"])
    labels = {name: document["labels"][name] for name in ("time_to_mae", "time_to_mfe")}
    risk = {name: document["decision_trace"]["risk"][name] for name in ("initial_risk_usd", "target")}
    before = document["features_pre"]["buckets"]
    parts = {name: document[name] for name in ("series", "fills", "rest", "through_seq", "run", "quality")}
    return row | labels | parts | risk | {"features_pre": before}


@settings(max_examples=budget(62, 250), derandomize=True)
@given(seeds, edges, st.integers(0, 3))
def test_trading_says_what_the_reference_says(seed: int, marks: list[int], restored: int) -> None:
    """Every fill, every decision and every episode with its features and series, in any market."""
    check(TradingDay(seed), marks, restored)


@settings(max_examples=budget(8, 150), derandomize=True)
@given(seeds, edges)
def test_orders_walk_busy_books_as_the_reference_says(seed: int, marks: list[int]) -> None:
    """The same where orders take from levels behind the quote again and again, and quotes come and go."""
    check(BookDay(seed, 25), marks)


@settings(max_examples=budget(20, 60), derandomize=True)
@given(seeds, edges, st.integers(0, 3))
def test_the_first_strategy_decides_as_the_reference_says(seed: int, marks: list[int], restored: int) -> None:
    """The first strategy's gates in every second, its plans with features, and the resulting trades."""
    check(BreakoutDay(seed, 90), marks, restored)


@settings(max_examples=budget(6, 30), derandomize=True)
@given(seeds, st.booleans())
def test_a_decision_rests_on_the_log_cut_there(seed: int, breakout: bool) -> None:
    """A decision's row, and the features of its episode, equal those of a log that ends at `decision_seq`."""
    day = BreakoutDay(seed, 90) if breakout else TradingDay(seed)
    batch = Batch.of(day.events).check()
    tables = fold(batch, [])
    stored = {(e["decision_seq"], e["con_id"], e["strategy"]): whole(e)["features_pre"] for e in tables["episodes"]}
    for row in [row for row in tables["decisions"] if row["action"] == "enter"][:: 1 + day.busy]:
        cut = fold(batch.slice(1, row["seq"]), [])
        assert row in cut["decisions"]
        judge = plain.Trading({})
        buckets = [judge.judged(bucket) for bucket in cut["buckets"]]
        mine = [bucket for bucket in buckets if bucket["con_id"] == row["con_id"]]
        features = stored.get((row["seq"], row["con_id"], row["strategy"]))
        expected = [{name: b[name] for name in BUCKET_FIELDS} for b in window(mine, row["ts"])]
        assert features in (None, expected)


WANTED = (
    *(f"exit {reason}" for reason in ("STOP", "TARGET", "TIME_STOP", "SESSION_END", "RUN_CHANGE", "DATA_END")),
    *(f"unfilled {reason}" for reason in ("EXPIRED", "RUN_END", "IOC", "NOT_LIVE", "OUTAGE", "CANCELLED", "OCO")),
    "exit STOP_THROUGH", "exit DRAWN_EXIT", "unfilled HALTED", "unfilled SESSION_END",
    *(f"{role} at a {source}" for role in ("entry", "stop", "target", "exit") for source in ("quote", "print")),
    *(f"{role} at a book" for role in ("entry", "stop", "target", "exit")),
    *(f"rest {reason}" for reason in ("EXPIRED", "IOC", "STOP", "STOP_THROUGH", "TARGET", "EXIT", "RUN_END")),
    "rest None",
    "entry in parts", "exit in parts", "by target and stop", "no quote at the decision", "no quote at the exit",
    "stop beyond the target", "through a restart", "through an outage", "two fill at once", "no risk",
)  # fmt: skip


def test_the_days_reach_what_they_are_for() -> None:
    """Over 150 days, or six that suffice: every reason to end, and rare cases that are easily wrong."""
    seen: Counter[str] = Counter()
    for seed in budget((31, 48, 80, 96, 100, 144), range(150)):
        day = TradingDay(seed)
        tables, reference = check(day, [])
        seen.update(what for row in tables["decisions"] for what in of_decision(row))
        seen.update(what for episode in reference.episodes for what in of_episode(episode, day.events))
        at_once = Counter((f["seq"], f["con_id"]) for f in tables["fills"] if f["role"] != "entry")
        seen["two fill at once"] += sum(1 for orders_filled in at_once.values() if orders_filled > 1)
    assert not [what for what in WANTED if not seen[what]], seen


def of_decision(row: dict[str, Any]) -> list[str]:
    if row["action"] == "enter":
        return ["no quote at the decision"] if row["reference_price"] is None else []
    return [f"{row['action']} {row['reason']}"]


def of_episode(episode: dict[str, Any], events: Events) -> list[str]:
    fills = episode["fills"]
    entries, exits = ([f for f in fills if (f["role"] == "entry") == way] for way in (True, False))
    meanwhile = [row for _, row in events if entries[0]["seq"] < row["seq"] < episode["exit_seq"]]
    way = 1 if episode["side"] == "LONG" else -1
    found = {
        f"exit {episode['exit_reason']}": True,
        "entry in parts": len(entries) > 1,
        "exit in parts": len(exits) > 1,
        "by target and stop": {"target", "stop"} <= {f["role"] for f in exits},
        "no quote at the exit": any(f["reference_price"] is None for f in exits),
        "stop beyond the target": episode["target"] is not None
        and any(f["role"] == "stop" and f["price"] * way > episode["target"] * way for f in exits),
        "through a restart": any(row.get("action") == "run_start" for row in meanwhile),
        "through an outage": any(row.get("code") in (1100, -7) for row in meanwhile),
        "no risk": episode["r_multiple"] is None,
        f"rest {episode['rest'] and episode['rest']['reason']}": True,
    }
    return [*(what for what, it_is in found.items() if it_is), *(f"{f['role']} at a {f['source']}" for f in fills)]
