"""Trading on bars alone: each rule by hand, laws over random bars, a second implementation, and a recorded day."""

from __future__ import annotations

import json
import math
import random
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from cli.app import app
from harvester.artefacts import json_schemas
from harvester.errors import BadSetting
from harvester.eventlog.reader import open_day
from harvester.home import Home
from harvester.memory.strategy_files import GivenStrategies, load_all
from harvester.projections.trading.bars.bar_exchange import BarRules
from harvester.projections.trading.bars.bar_series import TimedBar, usable_bars
from harvester.projections.trading.costs import cost_table
from harvester.projections.trading.plan import EntryPlan
from harvester.rebuild import call_watch
from harvester.rebuild.bars_project import BarsAsk, trade_bars
from harvester.simgateway.limits import Limits
from tests import bars_table
from tests.bars_table import CLOSES, MINUTE, OPENS, START, bar, ends, fills, play, trade
from tests.recording import lockstep, model, run
from tests.reference.bars import Reference

FLAT = "10.00 10.00 10.00 10.00 10000\n"
HALF = 0.01  # of 10 USD at 5 bps: 0.0025, rounded up to one price step

RULES: dict[str, tuple[str, list[str], list[str]]] = {
    "a market order fills at the next open, half the spread worse; so does an exit": (
        "10.00 10.00 10.00 10.00 9000\n> long 100\n10.10 10.20 10.05 10.15 9000\n> exit\n10.20 10.30 10.10 10.2 9000",
        ["entry 10.11 x 100 @ 2", "exit 10.19 x 100 @ 3"],
        ["WANTED"],
    ),
    "a short mirrors it": (
        FLAT + "> short 100\n10.10 10.20 10.05 10.15 9000\n> exit\n10.20 10.30 10.10 10.2 9000",
        ["entry 10.09 x 100 @ 2", "exit 10.21 x 100 @ 3"],
        ["WANTED"],
    ),
    "a stop fills in the bar of its entry, half the spread below its price": (
        FLAT + "> long 100 stop=9.90\n10.10 10.20 9.80 10.15 9000",
        ["entry 10.11 x 100 @ 2", "stop 9.89 x 100 @ 2"],
        ["STOP"],
    ),
    "a stop over which the open gapped fills at the open": (
        FLAT + "> long 100 stop=9.90\n" + FLAT + "9.50 9.95 9.40 9.90 9000",
        ["entry 10.01 x 100 @ 2", "stop 9.49 x 100 @ 3"],
        ["STOP"],
    ),
    "a low whose bid reaches the stop triggers it": (
        FLAT + "> long 100 stop=9.90\n" + FLAT + "10.00 10.00 9.91 10.00 9000",
        ["entry 10.01 x 100 @ 2", "stop 9.89 x 100 @ 3"],
        ["STOP"],
    ),
    "a bar that reaches stop and target gives the stop": (
        FLAT + "> long 100 stop=9.90 target=10.30\n" + FLAT + "10.00 10.50 9.80 10.40 9000",
        ["entry 10.01 x 100 @ 2", "stop 9.89 x 100 @ 3"],
        ["STOP"],
    ),
    "a target fills at its price when a later bar trades a step through it; the bar of the entry and a touch do not": (
        FLAT
        + "> long 100 target=10.30\n10.00 10.50 10.00 10.1 900000\n10.1 10.30 10 10.2 9000\n10.2 10.31 10.2 10.3 9000",
        ["entry 10.01 x 100 @ 2", "target 10.3 x 100 @ 4"],
        ["TARGET"],
    ),
    "a target over which the open gapped fills at its own price": (
        FLAT + "> long 100 target=10.30\n" + FLAT + "11.00 11.10 10.90 11.00 9000",
        ["entry 10.01 x 100 @ 2", "target 10.3 x 100 @ 3"],
        ["TARGET"],
    ),
    "a resting limit is not filled by a touch": (
        FLAT + "> long 100 type=limit limit=9.95\n10.00 10.00 9.95 10.00 9000",
        [],
        ["RUN_END"],
    ),
    "a resting limit fills at its own price, even below a gap": (
        FLAT + "> long 100 type=limit limit=9.95\n" + FLAT + "9.80 9.90 9.70 9.90 9000",
        ["entry 9.95 x 100 @ 3"],
        ["DATA_END"],
    ),
    "a limit that the open reaches on arrival fills like a market order": (
        FLAT + "> long 100 type=limit limit=9.95\n9.80 9.90 9.70 9.90 9000",
        ["entry 9.81 x 100 @ 2"],
        ["DATA_END"],
    ),
    "a limit and its stop in one bar: both fill": (
        FLAT + "> long 100 type=limit limit=9.95 stop=9.90 target=10.00\n10.00 10.10 9.80 10.05 9000",
        ["entry 9.95 x 100 @ 2", "stop 9.89 x 100 @ 2"],
        ["STOP"],
    ),
    "a stop entry fills at its trigger plus half the spread": (
        FLAT + "> long 100 type=stop trigger=10.20\n10.00 10.30 9.99 10.25 9000",
        ["entry 10.21 x 100 @ 2"],
        ["DATA_END"],
    ),
    "a stop entry fills at the open that gapped over it": (
        FLAT + "> long 100 type=stop trigger=10.20\n10.40 10.50 10.30 10.45 9000",
        ["entry 10.41 x 100 @ 2"],
        ["DATA_END"],
    ),
    "the low of a bar may come after a stop entry in it": (
        FLAT + "> long 100 type=stop trigger=10.20 stop=10.10\n10.00 10.30 9.99 10.25 9000",
        ["entry 10.21 x 100 @ 2", "stop 10.09 x 100 @ 2"],
        ["STOP"],
    ),
    "a stop-limit that is beyond its limit rests, and fills when a later bar trades through": (
        FLAT
        + "> long 100 type=stop_limit trigger=10.20 limit=10.20\n10 10.30 9.99 10.25 9000\n10.3 10.4 10.19 10.3 9000",
        ["entry 10.2 x 100 @ 3"],
        ["DATA_END"],
    ),
    "an order takes a tenth of the volume, the rest at the next open": (
        FLAT + "> long 100\n10.00 10.00 10.00 10.00 609\n10.10 10.1 10.1 10.1 9000",
        ["entry 10.01 x 60 @ 2", "entry 10.11 x 40 @ 3"],
        ["DATA_END"],
    ),
    "IOC cancels what the open does not fill": (
        FLAT + "> long 100 immediate=1\n10.00 10.00 10.00 10.00 609\n10.10 10.1 10.1 10.1 9000",
        ["entry 10.01 x 60 @ 2"],
        ["DATA_END"],
    ),
    "an IOC limit is not filled inside the bar": (
        FLAT + "> long 100 type=limit limit=9.9 immediate=1\n10.00 10.00 9.50 10.00 9000",
        [],
        ["IOC"],
    ),
    "a full entry does not keep its own stop from filling": (
        FLAT + "> long 100 stop=9.90\n10.00 10.20 9.80 10.15 1000",
        ["entry 10.01 x 100 @ 2", "stop 9.89 x 100 @ 2"],
        ["STOP"],
    ),
    "without a bar at its arrival an entry is cancelled": (FLAT + "> long 100\n-\n" + FLAT, [], ["NOT_LIVE"]),
    "an exit waits for the next bar": (
        FLAT + "> long 100\n" + FLAT + "> exit\n-\n9.00 9.00 9.00 9.00 9000",
        ["entry 10.01 x 100 @ 2", "exit 8.99 x 100 @ 4"],
        ["WANTED"],
    ),
    "an entry at or beyond its own stop ends at once": (
        FLAT + "> long 100 stop=9.90\n9.80 9.85 9.75 9.80 9000",
        ["entry 9.81 x 100 @ 2", "stop 9.79 x 100 @ 2"],
        ["STOP_THROUGH"],
    ),
    "the first of two rivals that a bar reaches cancels the other": (
        FLAT + "> long 100 type=stop trigger=10.10\n> rival short 100 type=stop trigger=9.90\n10.00 10.20 9.80 10 9000",
        ["entry 10.11 x 100 @ 2"],
        ["DATA_END", "OCO"],
    ),
    "a trailing stop follows the completed bar, not the bar under way": (
        FLAT + "> long 100 stop_trail=0.10\n10.00 10.40 9.95 10.35 9000\n10.35 10.36 10.20 10.30 9000",
        ["entry 10.01 x 100 @ 2", "stop 10.28 x 100 @ 3"],
        ["STOP"],
    ),
    "a moved stop acts from the next bar on": (
        FLAT + "> long 100 stop=9.5\n10.00 10.00 9.90 10.00 9000\n> stop 9.95\n10.00 10.00 9.90 10.00 9000",
        ["entry 10.01 x 100 @ 2", "stop 9.94 x 100 @ 3"],
        ["STOP"],
    ),
    "an order is valid inside bars that end in time": (
        FLAT + "> long 100 type=limit limit=9.9 valid_seconds=100\n" + FLAT + "10.00 10.00 9.50 10.00 9000",
        [],
        ["EXPIRED"],
    ),
    "a time stop leaves at the open after the first bar that ends at or after it": (
        FLAT + "> long 100 hold_seconds_max=90\n" + FLAT + FLAT + "10.05 10.05 10.05 10.05 9000",
        ["entry 10.01 x 100 @ 2", "exit 10.04 x 100 @ 4"],
        ["TIME_STOP"],
    ),
    "cancel: nothing fills": (
        FLAT + "> long 100 type=limit limit=9.9\n" + FLAT + "> cancel\n10 10 9.5 10 9000",
        [],
        ["CANCELLED"],
    ),
    "a bar without volume fills nothing": (FLAT + "> long 100\n10 10 10 10 0", [], ["RUN_END"]),
}


@pytest.mark.parametrize("rule", RULES)
def test_rules(rule: str) -> None:
    """Each rule of trading on bars, by hand: fills and ends."""
    text, filled, ended = RULES[rule]
    made = play(text)
    assert (fills(made), ends(made)) == (filled, ended)


def test_the_spread_is_at_least_two_steps_and_follows_the_price() -> None:
    """Half the spread: 5 bps of 400 USD are 0.20, so 0.10; of 10 USD one step; with 0.05 steps a whole step."""
    text = "400 400 400 400 9000\n> long 1\n400 400 400 400 9000"
    assert fills(play(text)) == ["entry 400.1 x 1 @ 2"]
    assert fills(play(text, rules=BarRules(spread_bps=7.3))) == ["entry 400.15 x 1 @ 2"]  # 0.146, up
    assert fills(play(FLAT + "> long 1\n" + FLAT, tick=0.05)) == ["entry 10.05 x 1 @ 2"]
    assert fills(play("0.5 0.5 0.5 0.5 900\n> long 1\n0.5 0.5 0.5 0.5 900", tick=None)) == ["entry 0.5002 x 1 @ 2"]
    with pytest.raises(BadSetting, match="--volume-share 0 is out of range"):
        BarRules(volume_share=0)


def test_last_triggers_by_the_tape() -> None:
    """With `stop_trigger = "last"` a low above the stop does not trigger it, although its bid is at it."""
    text = FLAT + "> long 100 stop=9.90\n" + FLAT + "10.00 10.00 9.91 10.00 9000\n10.00 10.00 9.90 10.00 9000"
    assert fills(play(text, last_only=True))[1:] == ["stop 9.89 x 100 @ 4"]


def test_the_session() -> None:
    """No entry before the open or near the close; what is open then leaves at that bar's open."""
    before = play(FLAT + "> long 100\n" + FLAT, start=OPENS - 10 * MINUTE)
    assert (fills(before), ends(before)) == ([], ["SESSION_CLOSED"])
    text = FLAT + "> long 100\n" + FLAT + "10.1 10.1 10.1 10.1 9000\n10.2 10.2 10.2 10.2 9000\n> long 5\n" + FLAT
    late = play(text, start=CLOSES - 4 * MINUTE)
    assert fills(late) == ["entry 10.01 x 100 @ 2", "exit 10.19 x 100 @ 4"]  # 15:59, the bar that ends at the close
    assert ends(late) == ["SESSION_END", "SESSION_END"]
    closed = play(FLAT + "> long 100\n" + FLAT, session=None)
    assert (fills(closed), ends(closed)) == ([], ["SESSION_CLOSED"])


def test_an_episode_on_bars() -> None:
    """Mode, R, costs, excursions, holes and the reason why it is not learned from, by hand."""
    text = (
        FLAT
        + "> long 100 stop=9.90 target=10.50\n10.00 10.20 9.95 10.1 9000\n-\n-\n10.1 10.3 10.05 10.2 9000\n> exit\n"
    )
    made = play(text + "10.20 10.20 10.00 10.00 9000", costs=cost_table("ibkr_fixed"))
    (row,) = made.tables["episodes"].to_pylist()
    episode = json.loads(row["document"])
    assert (row["mode"], row["learned_from"], row["unseen_seconds"]) == ("bars", False, 120)
    assert episode["quality"]["why_not"] == ["BARS", "UNSEEN"]
    assert (episode["entry"]["price"], episode["exit"]["price"]) == (10.01, 10.19)
    entry_cost, exit_cost = (fill["commission"] for fill in episode["fills"])
    labels = episode["labels"]
    assert labels["pnl_usd"] == round(18.0 - entry_cost - exit_cost, 9)
    assert row["r_multiple"] == labels["pnl_usd"] / (100 * 0.11)  # reference: the ask of the last close, 10.01
    assert (labels["mae"], labels["mfe"]) == (-7.0, 28.0)  # bids 9.94 and 10.29
    assert {fill["source"] for fill in episode["fills"]} == {"bar"}
    assert [row["mid"] for row in episode["series"]] == [10.1, 10.2, 10.0]
    assert episode["features_pre"]["window"].startswith("last 1 bars of 1 min; spread 5 bps, 0.1 of the volume")


def test_a_fill_inside_a_bar_does_not_claim_the_bars_best_price() -> None:
    """MFE: not the high of the bar in which a limit filled, nor of the bar whose low took the stop."""
    made = play(FLAT + "> long 100 type=limit limit=9.9 stop=9.0\n10 10.9 9.8 9.9 9000\n9.9 10.8 8.9 9 9000")
    (row,) = made.tables["episodes"].to_pylist()
    assert (row["mfe"], row["mae"], row["pnl_usd"]) == (0.0, -91.0, -91.0)


def test_what_a_strategy_sees() -> None:
    """Completed bars alone: the close as mid, the assumed quote, candles and bars that have ended."""
    bars = [bar(k, [10 + k / 10, 10.2 + k / 10, 9.9 + k / 10, 10.1 + k / 10, 1000]) for k in range(6)]
    hour = TimedBar(90, START - 60 * MINUTE, START, 9.0, 9.5, 8.5, 9.2, 5e5, 1, "1 hour", "x")
    later = hour._replace(start=START, end=START + 3 * MINUTE)
    strategy = bars_table.Scripted()
    bars_table.SCRIPT.clear()
    fold = bars_table.BarsTrading(bars_table.terms(), BarRules(), bars_table.One(strategy), "tape")
    scans = [(START + 2 * MINUTE, (1, "GAIN", 0, "TEST"))]
    fold.run([bars_table.BarSymbol(7, "TEST", 0.01, bars, [hour, later])], scans)
    first, second, third, *_, last = strategy.__dict__["state"].seen
    assert (first.ts, first.second, first.seq, first.mid) == (START + MINUTE, START, 1, 10.1)
    assert (first.bid, first.ask, first.bid_size, first.quote_source) == (10.09, 10.11, 100.0, "bars")
    assert (first.imbalance, first.ofi, first.tape_unknown, first.live) == (None, None, 1000, True)
    assert [one.bar_size for one in first.bars] == ["1 hour", "1 min"]
    assert [one.close for one in second.bars if one.bar_size == "1 min"] == [10.1, pytest.approx(10.2)]
    assert [len([b for b in now.bars if b.bar_size == "1 hour"]) for now in (second, third)] == [1, 2]
    assert (second.candle("30s"), first.candidates, [c.symbol for c in second.candidates]) == (None, (), ["TEST"])
    five = last.candle("5m")
    assert (five.open, five.high, five.close, five.samples) == (10.0, pytest.approx(10.6), pytest.approx(10.5), 300)


def test_a_failure_drops_the_strategy() -> None:
    """An order without shares drops it: its position ends at the next open, and nothing is entered any more."""
    text = FLAT + "> long 100\n" + FLAT + "> long 100 stop=11\n" + FLAT + "> long 100\n" + FLAT
    made = play(text)
    (failure,) = made.failures
    assert (failure.seq, failure.symbol) == (2, "TEST")
    assert (fills(made)[1], ends(made)) == ("exit 9.99 x 100 @ 3", ["STRATEGY_ERROR"])


def _row(seq: int, minute: int, received: float, **changes: Any) -> dict[str, Any]:
    start = START + minute * MINUTE
    row = {"seq": seq, "ts_recv": start + round(received * MINUTE), "con_id": 7, "ts_event": start, "time": "t"}
    row |= {"bar_size": "1 min", "what": "TRADES", "open": 10.0, "high": 10.1, "low": 9.9, "close": 10.0}
    return row | {"volume": 500.0, "count": 3} | changes


def test_which_bars_are_used() -> None:
    """Complete, consistent TRADES bars, each time once, in the order of time."""
    rows = [
        _row(1, 5, 9),
        _row(2, 6, 0.5),  # the forming bar
        _row(3, 4, 9),
        _row(4, 5, 9, close=10.05),  # a second answer
        _row(5, 6, 1.0),
        _row(6, 7, 9, what="MIDPOINT"),
        _row(7, 7, 9, high=9.95),
        _row(8, 7, 9, low=None),
        _row(9, 7, 9, bar_size="1 week"),
        _row(10, 8, 9, volume=-1.0, count=2147483647),
    ]
    found = usable_bars(rows, {})
    assert [bar.seq for bar in found.intraday[7, "1 min"]] == [3, 1, 5, 10]
    assert found.unused == {"incomplete": 1, "inconsistent": 2, "other": 2, "repeated": 1}
    assert (found.intraday[7, "1 min"][-1].volume, found.intraday[7, "1 min"][-1].trades) == (0.0, 0)
    half_hour = _row(1, -30, 90, bar_size="1 hour", ts_event=OPENS)  # from 09:30
    assert usable_bars([half_hour], {}).intraday[7, "1 hour"][0].end == START


# ---- laws ----------------------------------------------------------------------------------------------------------


def random_day(rng: random.Random, count: int) -> list[TimedBar]:
    """A random walk in steps of a cent, with gaps, holes and thin bars."""
    price, made = 1000, []
    for k in range(count):
        price += rng.choice((0, 0, 1, -1, 2, -2, 15, -15)) if rng.random() < 0.5 else 0
        walk = [price]
        for _ in range(rng.choice((1, 6, 12))):
            walk.append(walk[-1] + rng.randint(-4, 4))
        price = walk[-1]
        volume = rng.choice((0, 300, 900, 5000, 5000))
        if rng.random() > 0.04:
            made.append(bar(k, [walk[0] / 100, max(walk) / 100, min(walk) / 100, walk[-1] / 100, volume]))
    return made


def random_wants(rng: random.Random, bars: list[TimedBar]) -> dict[int, list[Any]]:
    """Orders of every type around the close, and changes, at random bars."""
    wants: dict[int, list[Any]] = {}
    for one in bars:
        if rng.random() < 0.25:
            sign = rng.choice((1, -1))
            near = one.close

            def off(low: int, high: int, way: int, near: float = near) -> float:
                return round(near + way * rng.randint(low, high) / 100, 2)

            kind = rng.choice(("market", "market", "limit", "stop", "stop_limit"))
            words = ["long" if sign > 0 else "short", str(rng.choice((40, 100, 300))), f"type={kind}"]
            base = near
            if kind == "limit":
                base = off(-2, 8, -sign)
                words.append(f"limit={base}")
            if kind.startswith("stop"):
                base = off(3, 10, sign)
                words.append(f"trigger={base}")
            if kind == "stop_limit":
                base = off(3, 14, sign)
                words.append(f"limit={base}")
            if rng.random() < 0.8:
                words.append(f"stop={off(4, 20, -sign, base)}")
            if rng.random() < 0.7:
                words.append(f"target={off(4, 25, sign, base)}")
            if rng.random() < 0.3:
                words.append(f"valid_seconds={rng.choice((3, 70, 200))}")
            if rng.random() < 0.3:
                words.append(f"hold_seconds_max={rng.choice((30, 150, 400))}")
            if rng.random() < 0.1:
                words.append("immediate=1")
            wants[one.seq] = [bars_table._plan(words)]
        elif rng.random() < 0.08:
            wants[one.seq] = [bars_table._change("exit")]
    return wants


RANDOM_DAYS = range(8)


@pytest.mark.parametrize("seed", RANDOM_DAYS)
def test_laws(seed: int) -> None:
    """No fill is better than its bar allows, larger than its share, before its decision or past its limit."""
    rng = random.Random(seed)
    bars = random_day(rng, 250)
    wants = random_wants(rng, bars)
    made = trade(bars, wants, costs=cost_table("ibkr_fixed"))
    of = {one.seq: one for one in bars}
    rows = made.tables["fills"].to_pylist()
    assert not made.failures
    assert len(rows) > 20
    taken: dict[tuple[int, bool], int] = {}
    for row in rows:
        one = of[row["seq"]]
        assert row["seq"] > row["decision_seq"]
        assert one.start <= row["ts"] <= one.end
        _check_price(row, one, wants[row["decision_seq"]][0].type)
        key = row["seq"], row["role"] == "entry"
        taken[key] = taken.get(key, 0) + row["quantity"]
    assert all(quantity <= of[seq].volume * 0.1 for (seq, _), quantity in taken.items())
    for text in made.tables["episodes"]["document"].to_pylist():
        _check_sums(json.loads(text))


def _check_price(row: dict[str, Any], one: TimedBar, kind: str) -> None:
    """Prices seen from the side of the fill: higher is worse."""
    sign = 1 if row["side"] == "BUY" else -1
    price, opened = sign * row["price"], sign * one.open
    best, worst = sorted((sign * one.low, sign * one.high))
    least = 1e-9
    limited = row["reference"] == "limit_price"
    if limited:
        assert price <= sign * row["reference_price"] + least
    rested = (
        limited and row["ts"] == one.end and price == sign * row["reference_price"] and best <= price - 0.01 + least
    )
    if limited and row["ts"] == one.end and (row["role"] == "target" or kind == "limit"):
        assert rested
    if not rested:
        assert best + HALF - least <= price <= worst + 2 * HALF + least
    if row["reference"] == "quote_at_decision":
        assert price == pytest.approx(opened + HALF)
    if row["role"] == "stop":
        assert row["slippage"] >= HALF - least or row["price"] == pytest.approx(one.open + sign * HALF)


def _check_sums(episode: dict[str, Any]) -> None:
    long, left, cash = episode["side"] == "LONG", 0, 0.0
    for fill in episode["fills"]:
        sign = 1 if fill["side"] == "BUY" else -1
        left += sign * fill["quantity"]
        cash -= sign * fill["quantity"] * fill["price"] + fill["commission"]
    if left:
        assert episode["labels"]["exit_reason"] == "DATA_END"
        cash += left * episode["exit"]["price"]
    labels = episode["labels"]
    assert labels["pnl_usd"] == pytest.approx(cash, abs=1e-7)
    gross = labels["pnl_usd"] + sum(fill["commission"] for fill in episode["fills"])
    assert labels["mae"] - 1e-7 <= gross <= labels["mfe"] + 1e-7
    assert labels["hold_seconds"] >= 0
    assert (left > 0) == long or not left


def test_later_bars_change_nothing_before() -> None:
    """A shorter log gives the same fills up to its end: no decision and no fill rests on a later bar."""
    rng = random.Random(7)
    bars = random_day(rng, 200)
    wants = random_wants(rng, bars)
    whole = trade(bars, wants).tables["fills"].to_pylist()
    for cut in (30, 77, 140):
        part = trade(bars[:cut], wants).tables["fills"].to_pylist()
        assert part == [row for row in whole if row["seq"] <= bars[cut - 1].seq]


def test_long_and_short_of_one_bar_lose_the_spread() -> None:
    """Neither kind nor cruel: market in, market out after five bars, both ways: together minus two spreads."""
    rng = random.Random(3)
    bars = [one._replace(volume=1e6) for one in random_day(rng, 120)]
    for k in range(0, len(bars) - 12, 9):
        if bars[k + 1].start != bars[k].end or bars[k + 7].start != bars[k + 6].end:
            continue
        total = 0.0
        for side in ("long", "short"):
            wants = {bars[k].seq: [bars_table._plan([side, "100"])], bars[k + 6].seq: [bars_table._change("exit")]}
            (row,) = trade(bars, wants).tables["episodes"].to_pylist()
            total += row["pnl_usd"]
        assert total == pytest.approx(-100 * 4 * HALF, abs=1e-9)


@pytest.mark.parametrize("seed", range(24))
def test_a_second_implementation_agrees(seed: int) -> None:
    """Plain Python, written from the rules, gives the same fills and ends, from the open over the close."""
    rng = random.Random(1000 + seed)
    count = 120
    begin = (OPENS - 20 * MINUTE, START, CLOSES - 90 * MINUTE)[seed % 3]
    bars = [
        one._replace(start=one.start + begin - START, end=one.end + begin - START) for one in random_day(rng, count)
    ]
    wants = random_wants(rng, bars)
    made = trade(bars, wants)
    other = Reference(250_000_000, CLOSES - MINUTE, (OPENS, CLOSES))
    other.run(bars, {seq: one[0] if isinstance(one[0], EntryPlan) else None for seq, one in wants.items()})
    rows = made.tables["fills"].to_pylist()
    assert [(r["role"], round(r["price"] * 100, 6), r["quantity"], r["seq"]) for r in rows] == other.fills
    assert sorted(ends(made)) == sorted(why for _, why in other.ends)


# ---- a recorded day ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Half a minute of two symbols two hours after the open, with backfilled bars; BOLT has no line for quotes."""
    market = model(symbols=("ACME", "BOLT"))
    home = Home(tmp_path_factory.mktemp("bars"))
    limits = Limits(market_data_lines=1, tick_by_tick_lines=1, depth_lines=1)
    given: dict[str, Any] = {"skip_historical_backfill": False, "focus_size": 2, "limits": limits}
    given |= {"start_ns": market.start_ns + 120 * MINUTE, "five_second_bars": False}
    run(lockstep(market, home, minutes=0.5, **given))
    return home


RANDOM = ("--strategy", "random_entry", "--set", "per_hour=40")


def hv(home: Home, *words: str) -> Any:
    return CliRunner().invoke(
        app, ["project", "--mode", "bars", "--home", str(home.root), "--date", "2025-07-17", *words]
    )


def test_the_command_on_a_recorded_day(recorded: Home) -> None:
    """Every fill stands on its bar in the log; the files are valid and apart; `hv verify` sees none of them."""
    done = hv(recorded, *RANDOM, "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    bars = {row["seq"]: row for row in open_day("2025-07-17", recorded).table("bar").to_pylist()}
    assert [(s["symbol"], s["bar_size"], s["quotes"]) for s in summary["symbols"]] == [
        ("ACME", "1 min", True),
        ("BOLT", "1 min", False),
    ]
    assert {row["symbol"] for row in summary["rows"]} == {"ACME", "BOLT"}
    folder = recorded.exports() / "bars"
    assert all(Path(name).is_relative_to(folder.resolve()) for name in summary["files"])
    assert not list(recorded.on(date(2025, 7, 17)).episodes.rglob("*.json"))
    checked = 0
    for name in map(Path, summary["files"]):
        if "episodes" not in name.parts:
            continue
        episode = json.loads(name.read_text())
        jsonschema.Draft202012Validator(json_schemas.find("episode")).validate(episode)
        assert (episode["mode"], episode["quality"]["why_not"][0]) == ("bars", "BARS")
        for fill in episode["fills"]:
            bar, sign = bars[fill["seq"]], 1 if fill["side"] == "BUY" else -1
            assert (bar["bar_size"], bar["what"]) == ("1 min", "TRADES")
            assert bar["ts_event"] + MINUTE <= bar["ts_recv"]
            assert fill["quantity"] <= bar["volume"] / 10
            if fill["reference"] == "quote_at_decision":
                half = math.ceil(round(bar["open"] * 2.5e-4 / 0.01, 9)) * 0.01
                assert fill["price"] == pytest.approx(bar["open"] + sign * half)
            checked += 1
    assert checked >= 2 * len(summary["rows"]) - 2 > 6
    (fills_file,) = folder.rglob("fills_*.json")
    jsonschema.Draft202012Validator(json_schemas.find("fills")).validate(json.loads(fills_file.read_text()))
    assert CliRunner().invoke(app, ["verify", "--home", str(recorded.root), "--date", "2025-07-17"]).exit_code == 0


def test_any_cut_into_batches_gives_the_same(recorded: Home) -> None:
    """The result is a function of the log: batches of 7 events and of all events give equal tables."""
    day, found = open_day("2025-07-17", recorded), load_all(["random_entry"], {"random_entry": {"per_hour": 40.0}}, [])
    made = [trade_bars(day.batches(size), GivenStrategies(found), BarsAsk()) for size in (7, None)]
    assert made[0].tables["episodes"].num_rows > 3
    assert made[0] == made[1]


def test_again_with_other_rules(recorded: Home) -> None:
    """Again: the same bytes. With a wider spread: other trades, and no file of the first call stays."""
    first = json.loads(hv(recorded, *RANDOM, "--json").stdout)
    before = {name: Path(name).read_bytes() for name in first["files"]}
    hv(recorded, *RANDOM)
    assert before == {name: Path(name).read_bytes() for name in first["files"]}
    wide = json.loads(hv(recorded, *RANDOM, "--spread-bps", "40", "--volume-share", "0.02", "--json").stdout)
    folder = Path(first["files"][0]).parent
    assert sorted(str(path) for path in folder.rglob("*") if path.is_file()) == wide["files"]
    assert wide["trades"]["pnl_usd"] < first["trades"]["pnl_usd"]


def test_hv_episodes_lists_them_apart(recorded: Home) -> None:
    """`hv episodes --mode bars --strategy` lists what was written, each trade as `BARS`."""
    summary = json.loads(hv(recorded, *RANDOM, "--json").stdout)
    ask = ["episodes", "--home", str(recorded.root), "--date", "2025-07-17"]
    listed = CliRunner().invoke(app, [*ask, "--mode", "bars", "--strategy", "random_entry", "--json"])
    found = json.loads(listed.stdout)
    assert sorted(row["trade_id"] for row in found["rows"]) == sorted(row["trade_id"] for row in summary["rows"])
    assert {(row["mode"], row["left_out"]) for row in found["rows"]} == {("bars", "BARS")}
    assert found["totals"]["learned"] == 0
    text = CliRunner().invoke(app, [*ask, "--mode", "bars", "--strategy", "random_entry"]).output
    assert ("trades on bars of random_entry-" in text, "hv explain" in text) == (True, False)
    other = CliRunner().invoke(app, [*ask, "--strategy", "random_entry"]).exception
    assert "no projection of 2025-07-17 by --strategy random_entry" in str(other)
    assert "give --strategy NAME too" in str(CliRunner().invoke(app, [*ask, "--mode", "bars"]).exception)


def test_bars_of_earlier_dates_are_an_evaluation(recorded: Home) -> None:
    """Hours of the five sessions before: rows of one file with their date, and no episode of those dates."""
    given = ("--bar-size", "1 hour", "--strategy", "random_entry", "--set", "per_hour=1", "--symbols", "BOLT")
    summary = json.loads(hv(recorded, *given, "--json").stdout)
    (name,) = [name for name in summary["files"] if "evaluation" in name]
    found = json.loads(Path(name).read_text())
    jsonschema.Draft202012Validator(json_schemas.find("bars_evaluation")).validate(found)
    assert len(found["rows"]) == sum(summary["evaluation"][end] for end in ("won", "lost", "even")) > 2
    assert all(row["bar_date"] < "2025-07-17" and row["entry_ts"][:10] == row["bar_date"] for row in found["rows"])
    assert all(row["exit_ts"][:10] == row["bar_date"] for row in found["rows"])


def test_shown_and_refused(recorded: Home) -> None:
    """The text names symbols with quotes; what cannot run is refused with the next move."""
    shown = hv(recorded, "--strategy", "scanner_entry").stdout
    assert "ACME: " in shown
    assert "mode event is truer" in next(line for line in shown.splitlines() if "ACME: " in line)
    assert "truer" not in next(line for line in shown.splitlines() if "BOLT: " in line)
    for words, code, text in (
        ((), 2, "needs the book and the tape"),
        ((*RANDOM, "--symbols", "CRUX"), 8, "CRUX: no TRADES bars of one hour or less recorded"),
        ((*RANDOM, "--bar-size", "1 week"), 2, "'1 week' cannot be traded on"),
        ((*RANDOM, "--bar-size", "5 mins"), 2, "no TRADES 5 mins bars"),
        ((*RANDOM, "--mode", "event", "--spread-bps", "3"), 2, "for --mode bars"),
    ):
        error = hv(recorded, *words).exception
        assert (error.exit_code, text in str(error)) == (code, True), (words, error)


def test_a_strategy_that_loops_is_dropped(recorded: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On bars too a call that does not return is ended and drops the strategy."""
    monkeypatch.setattr(call_watch, "CALL_S_MAX", 1.0)
    monkeypatch.setattr(call_watch, "LOOK_S", 0.25)
    path = tmp_path / "loops.py"
    path.write_text(
        "from harvester import Strategy\n\n\nclass Loops(Strategy):\n    live_only = False\n\n"
        "    def on_second(self, now):\n        while True:\n            pass\n"
    )
    done = hv(recorded, "--strategy", f"{path}:Loops", "--jobs", "1")
    assert done.exit_code == 0, done.output
    assert "NoAnswer" in done.output
