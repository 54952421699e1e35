"""In random scenarios of one symbol every decision ends, money adds up, and fills keep to their moments."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trading_table import at, play

from tests.budget import budget

PRICES = st.integers(990, 1010).map(lambda cents: cents / 100)
LINE = st.one_of(
    st.tuples(
        st.just("quote"), PRICES, st.integers(1, 5), st.sampled_from([30, 500]), st.sampled_from([True, True, False])
    ),
    st.tuples(st.just("print"), PRICES, st.sampled_from([10, 100]), st.sampled_from(["", "odd", "lot"])),
    st.sampled_from(
        [("clock",), ("clock",), ("run 1",), ("run 2",), ("outage",), ("back",), ("halt",), ("resume",), ("lost",)]
    ),
)
ENTRIES = (
    "long 100 9.95 10.05 2 4",
    "short 100 10.05 9.95 2 4",
    "long 100 9.95 - - 4 type=limit limit=10.00",
    "short 100 10.05 9.95 3 - type=stop trigger=9.98",
    "long 90 - 10.05 - - type=stop_limit trigger=10.01 limit=10.02 stop_trail=0.03",
    "short 80 10.05 9.95 5 9 type=trail trail=0.02 immediate=1",
    "long 100 9.90 10.10 2 4 type=stop trigger=10.03\n{now} rival short 100 10.10 9.90 2 4 type=stop trigger=9.97",
)
CHANGES = ("exit OUT", "stop 9.98", "target 10.02", "entry 10.01", "cancel")


def written(lines: list) -> str:
    """A random scenario as a table; an entry at every third clock, a change at every fourth."""
    table, now, clocks = ["0 run 1"], 0.0, 0
    for line in lines:
        if line[0] == "clock":
            now, clocks = math.floor(now) + 1.0, clocks + 1
            if clocks % 3 == 1:
                table.append(f"{now} {ENTRIES[clocks // 3 % len(ENTRIES)].format(now=now)}")
            if clocks % 4 == 0:
                table.append(f"{now} change {CHANGES[clocks // 4 % len(CHANGES)]}")
        else:
            now += 0.2
        if line[0] == "quote":
            _, bid, width, size, good = line
            table.append(f"{now} quote {bid} {bid + width / 100:.2f} {size} {size} {'' if good else 'bad'}")
        elif line[0] == "print":
            table.append(f"{now} print {line[1]} {line[2]} {line[3]}")
        else:
            table.append(f"{now} {line[0]}")
    return "\n".join([*table, f"{now + 1} end"])


@settings(max_examples=budget(60, 300), deadline=None)
@given(st.lists(LINE, max_size=90), st.sampled_from([0.0, 100.0, 1300.0]), st.sampled_from(["quote", "last"]))
def test_books_balance(lines, latency, trigger):
    """In any scenario every decision ends, money adds up, MAE ≤ 0 ≤ MFE, nothing fills early, and state restores."""
    terms = {"costs": "ibkr_tiered", "latency_ms": latency, "stop_trigger": trigger}
    rows = play(written(lines), **terms)
    assert rows == play(written(lines), **terms, through_snapshots=True)

    def keys(found):
        return sorted((row["decision_seq"], row["side"]) for row in found)

    entered = keys(row for row in rows["decisions"] if row["action"] == "enter")
    unfilled = [row for row in rows["decisions"] if row["action"] == "unfilled"]
    sides = {"LONG": "BUY", "SHORT": "SELL"}
    done = [row | {"side": sides[row["side"]]} for row in rows["episodes"]]
    assert sorted([*keys(unfilled), *keys(done)]) == entered
    assert len({row["trade_id"] for row in done}) == len(done)
    for row in done:
        # rivals have one decision: of two only one fills
        fills = [f for f in rows["fills"] if f["decision_seq"] == row["decision_seq"]]
        assert all(f["seq"] >= row["decision_seq"] for f in fills)
        assert all(f["ts"] >= row["decision_ts"] + latency * 1e6 for f in fills)
        cash = sum((1 if f["side"] == "SELL" else -1) * f["price"] * f["quantity"] - f["commission"] for f in fills)
        left = sum((1 if f["side"] == "BUY" else -1) * f["quantity"] for f in fills)
        assert (left == 0) == (row["exit_reason"] != "DATA_END")
        assert row["pnl_usd"] == pytest.approx(cash + left * row["exit_price"], abs=1e-9)
        assert row["mae"] <= 0 <= row["mfe"]
        assert row["hold_seconds"] >= 0
        assert row["entry_ts"] >= at(0)
