from __future__ import annotations

import datetime as dt
import json
import math
import os
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.artefacts.table_files import parquet_file
from harvester.endofday.datasets import EPISODES_FILE, kept_day
from harvester.errors import DamagedFile, HarvesterError
from harvester.home import Home
from harvester.memory.day_summary import digest_day, structure
from harvester.memory.fold_days import (
    days_of,
    decode,
    encode,
    fold,
    given_to_strategies,
    not_pooled,
    rebuild,
    versions,
)
from harvester.projections.trading.episodes import RULES
from tests.budget import budget


def episode(
    seq: int = 1,
    *,
    date: str = "2025-07-17",
    symbol: str = "AAA",
    pnl: float = 10.0,
    mode: str = "event",
    taken: bool = True,
    exit_reason: str = "TARGET",
    entry_reason: str = "BREAKOUT_UP",
    data_type: int | None = 1,
    move: float = 0.0,
):
    """One row of episodes.parquet, as far as memory reads it."""
    outcome = "WIN" if pnl > 0.005 else "LOSS" if pnl < -0.005 else "BREAKEVEN"
    document = {
        "mode": mode,
        "symbol": symbol,
        "taken": taken,
        "quantity": 100,
        "entry": {"price": 100.0},
        "exit": {"price": 100.0 * (1 + move)},
        "versions": {"strategy": "s"},
        "features_pre": {"aggregates": {"mean_imbalance": 0.1, "mean_spread": 0.01, "tape_delta": 50.0}},
        "labels": {
            "pnl_usd": pnl,
            "r_multiple": pnl / 10,
            "mae": min(pnl, 0.0),
            "mfe": max(pnl, 0.0),
            "hold_seconds": 5.0,
            "win_loss": outcome,
            "exit_reason": exit_reason,
        },
        "decision_trace": {"entry_reason": entry_reason},
    }
    return {
        "trading_date": date,
        "symbol": symbol,
        "strategy_digest": "d",
        "mode": mode,
        "decision_seq": seq,
        "exit_reason": exit_reason,
        "data_type": data_type,
        "document": json.dumps(document),
    }


def day(date: str = "2025-07-17", rows=None, content: str = "", **kwargs):
    rows = [episode(date=date)] if rows is None else rows
    return digest_day(date, content or f"hash of {date}", f"{date}T20:00:00Z", rows, **{"kind": "live"} | kwargs)


def test_what_a_kept_date_allowed_is_kept(tmp_path):
    """Delayed data is learned from a kept date only if the file says that it was allowed."""
    for allowed, left_out in (("true", {}), ("false", {"NOT_LIVE": 1}), ("yes", {"NOT_LIVE": 1})):
        assert kept_day(_kept(tmp_path, [episode(data_type=3)], allow_not_live=allowed)).left_out == left_out


@pytest.mark.parametrize(
    ("rows", "about", "what"),
    [
        ([episode(), episode(symbol=None)], {}, "not the episodes of a date: '<' not supported between"),
        ([{"trading_date": "2025-07-17"}], {}, "lacks its symbol"),
        ([episode()], {"last_ts": None}, "lacks its last_ts"),
    ],
    ids=["identity", "column", "figure"],
)
def test_a_kept_file_of_another_form_is_damage(tmp_path, rows, about, what):
    """Episodes without an identity, a column or the date's figures are refused with what is wrong."""
    with pytest.raises(DamagedFile, match=what):
        kept_day(_kept(tmp_path, rows, **about))


def _kept(root, rows, **changes):
    """The paths of a date whose kept episodes are `rows`; `changes` are of what the file says about the date."""
    about = {"trading_date": "2025-07-17", "content_hash": "c", "last_ts": "t", "allow_not_live": "false"} | changes
    paths = Home(root).on(dt.date(2025, 7, 17))
    paths.dataset.mkdir(parents=True, exist_ok=True)
    said = {name: value for name, value in about.items() if value is not None}
    (paths.dataset / EPISODES_FILE).write_bytes(parquet_file(pa.Table.from_pylist(rows), said))
    return paths


DATES = [f"2025-07-{n:02d}" for n in range(7, 12)]
EPISODE = st.builds(
    episode,
    st.integers(1, 8),
    symbol=st.sampled_from(["AAA", "BRK B"]),
    pnl=st.floats(-500, 500).map(lambda x: round(x, 2)),
    mode=st.sampled_from(["event", "bars"]),
    taken=st.booleans(),
    exit_reason=st.sampled_from(["TARGET", "STOP", "DATA_END"]),
    data_type=st.sampled_from([None, 1, 3]),
    move=st.sampled_from([0.0, 0.01, -0.01]),
)
DAYS = st.lists(st.lists(EPISODE, max_size=6), min_size=1, max_size=5).map(
    lambda many: [
        day(date, [row | {"trading_date": date} for row in rows]) for date, rows in zip(DATES, many, strict=False)
    ]
)


@settings(max_examples=budget(20, 60), deadline=None)
@given(DAYS, st.randoms())
def test_memory_is_a_function_of_its_days(days, rng):
    """Memory has the same bytes for any order of days, and when each version is read back before the next day."""
    expected = encode(rebuild(days))
    order = list(days)
    rng.shuffle(order)
    assert encode(rebuild(order)) == expected
    assert encode(decode(expected, "memory")) == expected
    first, *others = days
    read = decode(encode(fold(None, first)), "memory")
    for one in others:
        read = decode(encode(fold(read, one)), "memory")
    assert encode(read) == expected


@given(st.lists(EPISODE, max_size=8), st.randoms())
def test_an_identity_counts_once(rows, rng):
    """Duplicate rows, in any order, change nothing."""
    unique = list({(r["symbol"], r["mode"], r["decision_seq"]): r for r in rows}.values())
    twice = [*unique, *unique]
    rng.shuffle(twice)
    assert day(rows=twice) == day(rows=unique)


def test_fold_does_not_change_its_input():
    """Folding does not change the memory passed in."""
    memory = fold(None, day())
    before = encode(memory)
    fold(memory, day("2025-07-18"))
    assert encode(memory) == before


def test_only_a_later_day_is_added():
    """A day that memory holds, or an earlier one, is an error: the versions after it are folded again."""
    memory = fold(None, day("2025-07-18"))
    for date in ("2025-07-17", "2025-07-18"):
        with pytest.raises(ValueError, match=f"{date} is not later than 2025-07-18"):
            fold(memory, day(date))


def test_kinds_and_rules_are_never_pooled():
    """Live days of the newest rules train; other kinds have rows of their own, and sums of older rules stay."""
    kinds = {"2025-07-07": "live", "2025-07-08": "model", "2025-07-09": "live", "2025-07-10": "paper"}
    rows = {date: [episode(date=date, pnl=float(n)) | {"rules": 2}] for n, date in enumerate(kinds, 1)}
    old = day("2025-07-04", [episode(date="2025-07-04", pnl=100.0)])
    memory = rebuild([old, *(day(date, rows[date], kind=kind) for date, kind in kinds.items())])
    assert [(p["kind"], p["pnl_usd"]) for p in memory["symbol_profiles"]] == [
        ("live", 1.0 + 3.0),
        ("model", 2.0),
        ("paper", 4.0),
    ]
    assert [(s["kind"], s["n"]) for s in memory["setups"]] == [("live", 2), ("model", 1), ("paper", 1)]
    assert (memory["kind"], memory["rules"], memory["training"]["days"]) == ("live", 2, 2)
    assert memory["model"]["sample_count"] == 2
    pools = {(pool["kind"], pool["rules"]): pool["days"] for pool in memory["pools"]}
    assert pools == {("live", 1): 1, ("live", 2): 2, ("model", 2): 1, ("paper", 2): 1}
    assert [row["n"] for row in given_to_strategies(memory)["setups"]] == [2]


def test_an_episode_of_another_kind_makes_the_day_mixed():
    """Kinds of one date that differ are not that of either."""
    assert day(rows=[episode(1) | {"kind": "live"}, episode(2) | {"kind": "live"}]).kind == "live"
    assert day(rows=[episode(1) | {"kind": "live"}, episode(2) | {"kind": "model"}]).kind == "mixed"


def test_a_version_is_small():
    """160 bytes a day, whatever its trades: the sums grow with symbols and setups, not with days."""
    dates = [f"2025-{month:02d}-{n:02d}" for month in (7, 8) for n in range(1, 29)]
    many = [day(date, [episode(n, date=date, pnl=0.1 * n) for n in range(100)]) for date in dates]
    sizes = [len(encode(memory)) for memory in versions(many)]
    assert sizes[-1] - sizes[0] < 160 * len(dates)
    assert sizes[0] < 10_000


def test_parents_chain():
    """Each memory contains the hash of the previous one."""
    first = fold(None, day())
    second = fold(first, day("2025-07-18"))
    assert (first["parent"], second["parent"]) == (None, first["hash"])


def test_only_taken_closed_live_trades_are_money():
    """DATA_END, vetoed and delayed episodes stay out of P&L; a vetoed one is still a sample."""
    rows = [
        episode(1, pnl=10.0),
        episode(2, pnl=1000.0, exit_reason="DATA_END"),
        episode(3, pnl=2000.0, taken=False),
        episode(4, pnl=4000.0, data_type=3),
        episode(5, pnl=-4.0),
    ]
    made = day(rows=rows)
    profile = fold(None, made)["symbol_profiles"][0]
    assert (profile["trade_count"], profile["pnl_usd"], profile["win_rate"]) == (2, 6.0, 0.5)
    assert made.left_out == {"DATA_END": 1, "NOT_LIVE": 1, "NOT_TAKEN": 1}
    assert made.samples == {"event": 3}
    assert day(rows=rows, allow_not_live=True).symbols[0].pnl_usd == 4006.0


def test_data_of_an_untold_type_does_not_train():
    """An episode on data of unannounced type is left out, with its own reason, unless allowed."""
    rows = [episode(1), episode(2, data_type=None), episode(3, data_type=3), episode(4, data_type=2)]
    made = day(rows=rows)
    assert (made.samples, made.symbols[0].trade_count) == ({"event": 1}, 1)
    assert made.left_out == {"DATA_TYPE_UNKNOWN": 1, "NOT_LIVE": 2}
    allowed = day(rows=rows, allow_not_live=True)
    assert (allowed.samples, allowed.left_out) == ({"event": 4}, {})


def with_values(row, exit_reason="TARGET", **values):
    """The row with other numbers in its document, by name."""
    body = json.loads(row["document"])
    for part in (body, body["labels"], body["features_pre"]["aggregates"]):
        part.update({name: value for name, value in values.items() if name in part})
    body["labels"]["exit_reason"] = exit_reason
    return row | {"document": json.dumps(body)}


def test_a_profile_by_hand():
    """Counts, sums and means of a symbol over two days, as computed by hand; absent numbers are not in any mean."""
    first = [
        with_values(
            episode(1, pnl=30.0, move=0.01), quantity=100, r_multiple=3.0, mae=-2.0, mfe=40.0, hold_seconds=10.0
        ),
        with_values(
            episode(2, pnl=-10.0, move=-0.01),
            exit_reason="STOP",
            quantity=50,
            r_multiple=None,
            mae=-12.0,
            mfe=1.0,
            hold_seconds=20.0,
            mean_imbalance=None,
            mean_spread=0.03,
        ),
    ]
    second = [
        with_values(
            episode(1, pnl=-5.0),
            exit_reason="STOP",
            quantity=10,
            r_multiple=-1.0,
            mae=-7.0,
            mfe=0.0,
            hold_seconds=30.0,
            mean_imbalance=0.4,
            tape_delta=-20.0,
        )
    ]
    made = fold(fold(None, day(rows=first)), day("2025-07-18", rows=second))
    (profile,) = made["symbol_profiles"]
    assert {name: value for name, value in profile.items() if not name.endswith("interval")} == {
        "kind": "live",
        "symbol": "AAA",
        "mode": "event",
        "trade_count": 3,
        "win_rate": round(1 / 3, 9),
        "pnl_usd": 15.0,
        "volume": 160,
        "avg_r_multiple": 1.0,
        "avg_mae": -7.0,
        "avg_mfe": round(41 / 3, 9),
        "avg_hold_seconds": 20.0,
        "avg_pre_imbalance": 0.25,
        "avg_pre_spread": round(0.05 / 3, 9),
        "avg_pre_tape_delta": round(80 / 3, 9),
        "structure_counts": {"UPTREND": 1, "DOWNTREND": 1, "RANGE": 1},
        "top_entry_reasons": [{"reason": "BREAKOUT_UP", "count": 3}],
        "top_exit_reasons": [{"reason": "STOP", "count": 2}, {"reason": "TARGET", "count": 1}],
    }
    assert profile["avg_r_multiple_interval"]["n"] == 2
    assert profile["avg_r_multiple_interval"]["mean"] == round(2 / 12, 6)
    assert profile["win_rate_interval"]["mean"] == 0.4
    assert made["training"] == {
        "days": 2,
        "episodes": 3,
        "parse_failures": 0,
        "outcomes": {"LOSS": 2, "WIN": 1},
        "left_out": {},
    }
    assert [(setup["setup"], setup["n"]) for setup in made["setups"]] == [("s/BREAKOUT_UP", 3)]


GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "memory" / "three_days.json"


def test_golden_memory():
    """The file of a memory of three days, byte by byte: both modes, every reason for leaving out, all structures."""
    days = []
    for n, date in enumerate(DATES[:3]):
        rows = [
            episode(1, date=date, pnl=12.5 + n, move=0.01 * n),
            episode(2, date=date, pnl=-7.25, move=-0.004, symbol="BRK B", entry_reason="BREAKOUT_DOWN"),
            episode(3, date=date, pnl=0.0, mode="bars", exit_reason="TIME"),
            episode(4, date=date, taken=False, pnl=3.0),
            episode(5, date=date, data_type=(3, None, 2)[n]),
            episode(6, date=date, exit_reason="DATA_END"),
            episode(7, date=date) | {"document": "{"},
            episode(8, date=date, pnl=0.0, exit_reason="TIME"),
        ]
        days.append(day(date, rows))
    made = encode(rebuild(days))
    if os.environ.get("HARVESTER_REWRITE_GOLDEN") == "1":
        GOLDEN.write_bytes(made)
    assert made == GOLDEN.read_bytes()


def test_a_structure_without_a_trade_counts_zero():
    """All three structures are named, those without a trade with 0."""
    memory = fold(None, day(rows=[episode(1, move=0.01)]))
    expected = {"UPTREND": 1, "DOWNTREND": 0, "RANGE": 0}
    assert memory["chart_structure_counts"] == expected
    assert memory["symbol_profiles"][0]["structure_counts"] == expected


def test_a_memory_needs_a_day():
    """Without a day there is no memory, and the error says how to get one."""
    with pytest.raises(HarvesterError, match=r"cannot build a memory without any day; fold one with `hv eod --date`"):
        rebuild([])


def test_squares_of_multiples():
    """The interval of the mean R is computed from the sum and the sum of squares of all trades."""
    made = day(rows=[episode(1, pnl=30.0), episode(2, pnl=-10.0)])
    assert (made.symbols[0].r_sum, made.symbols[0].r_squares) == (2.0, 10.0)


def test_a_trade_that_breaks_even_is_no_win():
    """A result of zero counts as a trade, but not as a win or a loss."""
    made = day(rows=[episode(1, pnl=0.0), episode(2, pnl=10.0)])
    assert (made.symbols[0].wins, made.symbols[0].trade_count) == (1, 2)
    assert (made.sample_wins, made.outcomes) == ({"event": 1}, {"BREAKEVEN": 1, "WIN": 1})


def test_reasons_are_the_five_most_frequent():
    """Reasons by count, then by name, and no more than five."""
    names = ["F", "E", "D", "C", "B", "A", "A"]
    rows = [episode(n, entry_reason=name) for n, name in enumerate(names)]
    top = fold(None, day(rows=rows))["top_entry_reasons"]
    assert [(one["reason"], one["count"]) for one in top] == [("A", 2), ("B", 1), ("C", 1), ("D", 1), ("E", 1)]


def test_other_episodes_of_the_same_log_are_another_day():
    """A day with the same log but other episodes is folded again: its episodes have their own hash."""
    rows = [episode(1), episode(2)]
    changed = [rows[0], with_values(rows[1], tape_delta=51.0)]
    one, other = (day(rows=given, content="the log") for given in (rows, changed))
    assert one.episodes_hash != other.episodes_hash
    assert fold(None, one)["hash"] != fold(None, other)["hash"]


def test_days_are_few_before_samples_are():
    """Days still needed: at least twenty, more when samples are rare, none when there are enough of both."""
    dates = [f"2025-{month:02d}-{n:02d}" for month in (7, 8) for n in range(1, 22)]

    def needed(count, samples):
        rows = [episode(n) for n in range(samples)]
        return rebuild([day(date, [row | {"trading_date": date} for row in rows]) for date in dates[:count]])["model"]

    assert needed(5, 100)["days_needed"] == 15
    assert needed(19, 20)["days_needed"] == 1
    assert needed(10, 5)["days_needed"] == 30
    assert needed(20, 10)["days_needed"] == 0
    assert needed(20, 10)["verdict"].startswith("no model: 200 episodes are enough")


def test_base_rate_scores_by_hand():
    """Each day is predicted by the days before it, with one win and one loss added; the scores are means by episode."""
    counts = [(2, 3), (1, 4), (0, 0), (1, 1)]
    days = [
        day(date, [episode(n, date=date, pnl=1.0 if n < wins else -1.0) | {"rules": RULES} for n in range(total)])
        for date, (wins, total) in zip(DATES, counts, strict=False)
    ]
    model = rebuild(days)["model"]
    first, last = 3 / 5, 4 / 9
    brier = ((1 - first) ** 2 + 3 * first**2 + (1 - last) ** 2) / 5
    log_loss = -(math.log(first) + 3 * math.log(1 - first) + math.log(last)) / 5
    assert (model["base_rate_brier"], model["base_rate_log_loss"]) == (round(brier, 9), round(log_loss, 9))
    assert (model["sample_count"], model["mode"]) == (8, "event")


def test_trades_on_bars_are_left_out():
    """Trades on bars alone are counted as left out, for that reason first, and are in no sum and no sample."""
    on_bars = [episode(k, pnl=-7.0, mode="bars", **odd) for k, odd in ((1, {}), (2, {"exit_reason": "DATA_END"}))]
    memory = fold(None, made := day(rows=[episode(1, pnl=10.0), *on_bars]))
    assert [(p["mode"], p["pnl_usd"]) for p in memory["symbol_profiles"]] == [("event", 10.0)]
    assert (made.left_out, made.samples, made.outcomes) == ({"BARS": 2}, {"event": 1}, {"WIN": 1})
    starved = day(rows=[episode(1), *on_bars], starved=True)
    assert starved.left_out == {"BARS": 2, "STARVED": 1}


def test_unreadable_document_is_counted():
    """An episode with an unreadable document is counted as unreadable; the rest of the day is kept."""
    made = day(rows=[episode(1), episode(2) | {"document": "{"}, episode(3) | {"document": '{"mode": "event"}'}])
    assert (made.parse_failures, made.symbols[0].trade_count, made.episode_count) == (2, 1, 3)


def test_recommendations_follow_the_thresholds():
    """At least five trades; focus at 0.55 with a profit, reduce below 0.45; each with n and interval."""
    rows = [episode(n, symbol="FOCUS", pnl=10.0 if n <= 3 else -5.0) for n in range(1, 6)]
    rows += [episode(n, symbol="REDUCE", pnl=10.0 if n <= 2 else -5.0) for n in range(1, 6)]
    rows += [episode(n, symbol="FEW", pnl=10.0) for n in range(1, 5)]
    rows += [episode(n, symbol="LOSES", pnl=1.0 if n <= 3 else -50.0) for n in range(1, 6)]
    made = fold(None, day(rows=rows))["recommendations"]
    assert [r["symbol"] for r in made["focus_symbols"]] == ["FOCUS"]
    assert [r["symbol"] for r in made["reduce_symbols"]] == ["REDUCE"]
    assert made["focus_symbols"][0]["n"] == 5
    assert made["focus_symbols"][0]["win_rate_interval"]["low"] < 0.55


def twenty(symbol, wins, win=10.0, loss=-5.0):
    return [episode(n, symbol=symbol, pnl=win if n <= wins else loss) for n in range(1, 21)]


def test_recommendations_at_the_thresholds():
    """Exactly 0.55 is focus, exactly 0.45 is not reduce; any profit is a profit, and a sum of 0 is none."""
    rows = [*twenty("AT055", 11), *twenty("AT045", 9)]
    rows += [*twenty("CENTS", 15, 0.02, -0.02), *twenty("ZERO", 15, 1.0, -3.0)]
    made = fold(None, day(rows=rows))["recommendations"]
    assert [(r["symbol"], r["win_rate"]) for r in made["focus_symbols"]] == [("AT055", 0.55), ("CENTS", 0.75)]
    assert made["reduce_symbols"] == []


def test_money_is_rounded_to_nine_digits():
    """Sums of USD keep nine digits, means too, and no file has a negative zero."""
    memory = fold(None, day(rows=[with_values(episode(), pnl_usd=0.123456789, mae=0.123456789)]))
    assert memory["symbol_profiles"][0]["pnl_usd"] == memory["symbol_profiles"][0]["avg_mae"] == 0.123456789
    memory = fold(None, day(rows=[with_values(episode(), pnl_usd=-1e-12, mae=-1e-12)]))
    profile = memory["symbol_profiles"][0]
    assert [math.copysign(1, profile[name]) for name in ("pnl_usd", "avg_mae")] == [1, 1]


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: "[]",
        lambda text: text.replace('"price": 100.0', '"price": 0.0'),
        lambda text: text.replace('"labels"', '"label"'),
        lambda text: text.replace('"quantity": 100', '"quantity": "100"'),
    ],
)
def test_every_kind_of_unreadable_document_is_counted(harm):
    """A list, a price of 0, a missing field and a text for a number count as parse failures."""
    row = episode()
    assert harm(row["document"]) != row["document"]
    assert day(rows=[row | {"document": harm(row["document"])}]).parse_failures == 1


def test_level_one_says_what_it_does_not_know():
    """Without evidence: no model, no score, and the number of days still needed; the base rate's score is real."""
    model = fold(None, day())["model"]
    assert (model["type"], model["in_use"], model["brier"], model["walk_forward_skill"]) == ("none", False, None, None)
    assert model["days_needed"] == 199
    assert model["verdict"] == "insufficient evidence: needs about 199 more days at this rate"
    assert model["base_rate_brier"] is None
    second = fold(fold(None, day()), day("2025-07-18", [episode(pnl=-1.0)]))["model"]
    assert second["base_rate_brier"] == pytest.approx((2 / 3) ** 2)
    empty = fold(None, day(rows=[]))["model"]
    assert (empty["days_needed"], empty["verdict"]) == (
        None,
        "insufficient evidence: no finished episode of live data yet",
    )


@pytest.mark.parametrize(
    ("exit_", "name"),
    [
        (100.15, "RANGE"),
        (100.15000004, "RANGE"),
        (100.0000002, "RANGE"),
        (100.1500002, "UPTREND"),
        (100.16, "UPTREND"),
        (99.85, "RANGE"),
        (99.84, "DOWNTREND"),
    ],
)
def test_structure(exit_, name):
    """More than 0.15 % up or down is a trend."""
    assert structure(100.0, exit_) == name


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda m: m | {"date": "2030-01-01"}, "is damaged"),
        (lambda m: m | {"schema_version": 99}, "does not have schema version 2"),
        (lambda m: m | {"hash": "0" * 32}, "is damaged"),
    ],
)
def test_altered_memory_is_refused(change, what):
    """A memory that does not match its own hash or version is refused, and the error names the remedy."""
    with pytest.raises(HarvesterError, match=what):
        decode(encode(change(fold(None, day()))), "memory_latest.json")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"schema_version": 1}', b"\xff\xfe", b'{"schema_version": 1, "hash": ""}']
)
def test_no_memory_is_refused(data):
    """A file that is not a memory is refused in one sentence that names it."""
    with pytest.raises(HarvesterError, match=r"^here (is damaged|does not have schema version 2); `hv memory rebuild`"):
        decode(data, "here")


def test_what_does_not_train_is_left_out_with_its_reason():
    """Trades of a failed strategy, through unseen seconds, or by older rules than the day's others, do not count."""
    rows = [
        episode(1) | {"rules": 2},
        episode(2, exit_reason="STRATEGY_ERROR") | {"rules": 2},
        episode(3) | {"rules": 2, "unseen_seconds": 1},
        episode(4) | {"rules": None},
    ]
    made = day(rows=rows)
    assert made.left_out == {"RULES": 1, "STRATEGY_ERROR": 1, "UNSEEN": 1}
    assert (made.rules, sum(made.samples.values()), made.symbols[0].trade_count) == (2, 1, 1)


def test_r_is_winsorised_in_sums():
    """One trade of -80 R counts as -5 R in the mean; its P&L counts whole."""
    made = day(rows=[episode(1, pnl=-800.0), episode(2, pnl=20.0)])
    group = made.symbols[0]
    assert (group.r_sum, group.r_squares, group.pnl_usd) == (-5.0 + 2.0, 25.0 + 4.0, -780.0)


def test_days_of_different_rules_are_never_pooled():
    """After a day by newer rules the older days stay listed, and no figure rests on them."""
    old = day("2025-07-16", [episode(date="2025-07-16")])
    new = day("2025-07-17", [episode(pnl=-10.0) | {"rules": 2}])
    memory = rebuild([old, new])
    assert [d.rules for d in days_of(memory)] == [1, 2]
    assert [d.rules for d in not_pooled(memory)] == [1]
    assert [profile["pnl_usd"] for profile in memory["symbol_profiles"]] == [-10.0]
    assert memory["training"]["episodes"] == 1
