"""Days recorded in lockstep: market orders meet the quote that was live at their arrival, by the recorded frames."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from datetime import date
from typing import TYPE_CHECKING, Any

from harvester.calendar import session
from harvester.events.kinds import Kind
from harvester.home import Home
from harvester.projections.trading.strategies import Library, digest
from harvester.rebuild.project import fold_day
from harvester.simgateway.markets.open_market import open_market
from tests.budget import budget
from tests.recording import Recorded, lockstep, model, run

if TYPE_CHECKING:
    from pathlib import Path

    from harvester.eventlog.reader import Day
    from harvester.projections.trading.run_terms import RunTerms

PER_HOUR = {"per_hour": 3600.0, "open_wait_seconds": 1.0, "hold_minutes": 0.05}
LATENCY_NS, FLAT_NS = 250_000_000, 60_000_000_000  # the defaults of `hv record`


class Often(Library):
    """Every run trades at random, often, besides what it recorded."""

    def chosen(self, terms: RunTerms) -> RunTerms:
        more = ("random_entry", digest("random_entry", PER_HOUR), PER_HOUR)
        return terms.__replace__(strategies=(*terms.strategies, more))


def frames(day: Day) -> tuple[dict[int, list[Any]], list[tuple[int, int]]]:
    """By symbol the BidAsk rows (seq, ts, whether both sides have shares and are not crossed); (seq, ts) of clocks."""
    quotes: dict[int, list[Any]] = defaultdict(list)
    for row in day.table(Kind.QUOTE).to_pylist():
        if row["bid"] is not None and row["ask"] is not None:
            sides = row["bid"], row["ask"], row["bid_size"], row["ask_size"]
            live = min(sides) > 0 and row["bid"] <= row["ask"]
            quotes[row["con_id"]].append((row["seq"], row["ts_recv"], live))
    clocks = [(row["seq"], row["ts_recv"]) for row in day.table(Kind.CLOCK).to_pylist()]
    return quotes, clocks


def check(day: Day) -> tuple[int, int]:
    """Assert it of each entry; returns how many found a live quote, and how many did not."""
    notices = {row["code"] for row in day.table(Kind.NOTICE).to_pylist()}
    assert not notices & {1100, 1101, 1102, -2, -7, -8}, "the feed lived all day"
    quotes, clocks = frames(day)
    tables = fold_day(day, library=Often()).tables
    hours = session(day.trading_date)
    assert hours is not None
    rows = tables["decisions"].to_pylist()
    unfilled = {name(row): row["reason"] for row in rows if row["action"] == "unfilled"}
    fills: dict[Any, int] = {}
    for fill in tables["fills"].to_pylist():
        if fill["role"] == "entry":
            fills.setdefault(name(fill), fill["ts"])
    met = missed = 0
    for entry in (row for row in rows if row["action"] == "enter"):
        arrives = entry["ts"] + LATENCY_NS
        settled = next((seq for seq, ts in clocks if seq > entry["seq"] and ts >= arrives), None)
        if settled is None or not hours.open_ns <= arrives < hours.close_ns - FLAT_NS:
            continue  # its run ended first, or there is no session
        mine = quotes[entry["con_id"]]
        upto = bisect_left(mine, settled, key=lambda quote: quote[0])
        before = [quote for quote in mine[:upto] if quote[1] <= arrives]
        if not before:
            continue  # L1 may give the quote
        if before[-1][2]:
            assert fills.get(name(entry)) == arrives, (entry, unfilled.get(name(entry)), before[-1])
            met += 1
        else:
            assert unfilled.get(name(entry)) == "NOT_LIVE", (entry, before[-1:])
            missed += 1
    return met, missed


def name(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["decision_seq"], row["con_id"], row["strategy"]


def test_the_model(tmp_path: Path) -> None:
    """A modelled morning in lockstep: no entry goes without the shares that stood at its arrival."""
    minutes = budget(3, 60)
    market = model(symbols=("ACME",), rate=20_000, extended_minutes=1)
    recorded: Recorded = run(lockstep(market, Home(tmp_path), minutes=minutes))
    met, _ = check(recorded.day())
    assert met > 10


def test_a_tape(tmp_path: Path, shared_data: Path) -> None:
    """The same of IBM on 2013-10-07."""
    market = open_market("tape", [shared_data / "tapes" / "IBM-2013-10-07"])
    hours = session(date(2013, 10, 7))
    assert hours is not None
    recorded = run(lockstep(market, Home(tmp_path), minutes=budget(4, 380), start_ns=hours.open_ns - 10**10))
    met, _ = check(recorded.day("2013-10-07"))
    assert met > 20
