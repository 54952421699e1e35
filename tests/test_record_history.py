"""History at the start of a run: the requests, the answers in the log, and that nothing waits for them."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from harvester.events.kinds import Action, Kind, Own, Stream
from harvester.home import Home
from harvester.projections.engine import Engine
from harvester.projections.market.signals import Signals
from harvester.simgateway.history_and_scanner import HistoryAndScanner
from harvester.simgateway.limits import Limits
from tests.recording import Recorded, check_live_equals_replay, check_nothing_lost, lockstep, model, run

if TYPE_CHECKING:
    from pathlib import Path

    from harvester.eventlog.reader import Day

SIZES = ["1 day", "1 hour", "1 min"]


def histories(day: Day) -> list[dict[str, Any]]:
    rows = day.table(Kind.REQUEST).to_pylist()
    return [{**row, **json.loads(row["params"])} for row in rows if row["action"] == Action.BACKFILL]


@pytest.fixture(scope="module")
def morning(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Seventeen minutes of three symbols, two of them in focus, from the open."""
    market = model()
    start = market.start_ns + 3 * 60 * 10**9  # a minute after the open: the day itself has minute bars
    given = {"minutes": 17, "start_ns": start, "skip_historical_backfill": False, "focus_size": 2}
    recorded: Recorded = run(lockstep(market, Home(tmp_path_factory.mktemp("history")), **given))
    return recorded


def test_every_focus_symbol_is_backfilled(morning: Recorded) -> None:
    """'1 M' of days, '5 D' of hours and '1 D' of minutes each, requested after the streams, with rows."""
    day = morning.day()
    asked = histories(day)
    assert [(r["symbol"], r["bar_size"]) for r in asked] == [(s, size) for s in ("ACME", "BOLT") for size in SIZES]
    assert {(r["bar_size"], r["duration"], r["what"], r["rth"]) for r in asked} == {
        ("1 day", "1 M", "TRADES", True),
        ("1 hour", "5 D", "TRADES", True),
        ("1 min", "1 D", "TRADES", False),
    }
    bars, ends = day.frame(Kind.BAR), {row["req_id"]: row for row in day.table(Kind.END).to_pylist()}
    at_once = (Stream.L1, Stream.ALL_LAST, Stream.DEPTH)
    subscribed = [r["seq"] for r in day.table(Kind.REQUEST).to_pylist() if r["stream"] in at_once]
    for row in asked:
        got = bars.filter(pl.col("req_id") == row["req_id"])
        assert max(subscribed) < row["seq"] < got["seq"].min()
        assert (ends[row["req_id"]]["rows"], ends[row["req_id"]]["stream"]) == (got.height, "history")
        assert got["con_id"].unique().to_list() == [row["con_id"]]
        assert got.height >= {"1 day": 20, "1 hour": 28, "1 min": 1}[row["bar_size"]]
    assert check_nothing_lost(morning, day) > 1000
    assert check_live_equals_replay(day) >= 5


def test_the_backfill_makes_signals_possible_on_the_first_day(morning: Recorded) -> None:
    """Signals of the first minute use daily and hourly bars that ended before the start."""
    engine = Engine(market_only=True)
    for batch in morning.day().batches():
        engine.fold(batch)
    known = engine[Signals]._newest
    first = morning.day().table(Kind.REQUEST).to_pylist()[0]["ts_recv"]
    con_ids = {r["con_id"] for r in histories(morning.day())}
    assert {(con_id, name) for con_id in con_ids for name in ("1h", "1D", "5m", "15m")} <= set(known)
    for con_id in con_ids:
        for name, bar in (("1h", "1 hour"), ("1D", "1 day")):
            assert known[con_id, name].source == f"backfilled TRADES bar of {bar}"
            assert known[con_id, name].end <= first


def test_it_can_be_skipped(tmp_path: Path) -> None:
    """--skip-historical-backfill: no such request."""
    recorded: Recorded = run(lockstep(model(), Home(tmp_path), minutes=1, skip_historical_backfill=True))
    assert histories(recorded.day()) == []


def test_a_refused_history_holds_up_nothing(tmp_path: Path) -> None:
    """A gateway that allows one history in ten minutes refuses the rest with 162; all streams still flow."""
    limits = Limits(historical_per_10_minutes=1)
    given = {"minutes": 3, "skip_historical_backfill": False, "five_second_bars": False, "limits": limits}
    recorded: Recorded = run(lockstep(model(), Home(tmp_path), **given))
    day = recorded.day()
    asked = histories(day)
    refused = {row["req_id"] for row in day.table(Kind.NOTICE).to_pylist() if row["code"] == 162}
    assert refused == {row["req_id"] for row in asked[1:]}
    gaps = [(b["ts_recv"] - a["ts_recv"]) / 10**9 for a, b in pairwise(asked[1:])]
    assert [gap >= least for gap, least in zip(gaps, (15, 30, 60), strict=True)] == [True] * 3
    assert {row[name] for row in recorded.summary.coverage.values() for name in ("l1", "depth")} == {"granted"}
    assert not [row for row in day.table(Kind.NOTICE).to_pylist() if row["code"] == Own.STREAM_REFUSED]
    assert recorded.summary.rows["trade"] > 20


def test_an_unanswered_history_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that never answers: every stream flows, and after the time-out a notice names each request."""
    monkeypatch.setattr(HistoryAndScanner, "historical", lambda *_: None)
    given = {"minutes": 2, "skip_historical_backfill": False, "timeout_seconds": 40}
    recorded: Recorded = run(lockstep(model(), Home(tmp_path), **given))
    day = recorded.day()
    missed = [row for row in day.table(Kind.NOTICE).to_pylist() if row["code"] == Own.REQUEST_TIMEOUT]
    assert [row["req_id"] for row in missed] == [row["req_id"] for row in histories(day)]
    assert missed[0]["text"] == "no answer to 1 M of 1 day of ACME"
    assert {row["l1"] for row in recorded.summary.coverage.values()} == {"granted"}


def test_the_next_run_asks_again(tmp_path: Path) -> None:
    """At the end of the trading date the new run requests its own history on the same connection."""
    market = model()
    edge = "09:33"
    given = {"minutes": 6, "skip_historical_backfill": False, "focus_size": 1, "day_start": edge}
    recorded: Recorded = run(lockstep(market, Home(tmp_path), **given))
    dates = [str(found.trading_date) for found in recorded.summary.runs]
    assert len(dates) == 2
    assert [[r["bar_size"] for r in histories(recorded.day(d))] for d in dates] == [SIZES, SIZES]
