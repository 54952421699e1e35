"""Candles and signals against the plain-Python reference, on random days cut anywhere.

The reference gets the day's events and the buckets the engine itself closed: those have a reference of their own.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.calendar import session, to_ns
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.projections.engine import Engine
from harvester.projections.interval import OccurrenceKind
from tests.budget import budget
from tests.reference.candles import Completed, Day, candles
from tests.reference.days import UNSET, Begin, RandomDay
from tests.reference.market import SECOND
from tests.reference.signals import BARS, HOUR, MINUTE, Judged, alignments, judged


def begin(at: str, day: str | None = None) -> Begin:
    """A quarter of an hour, UTC; its trading date if that is another."""
    return Begin(date.fromisoformat(day or at[:10]), to_ns(datetime.fromisoformat(at).replace(tzinfo=UTC)))


BEGINS = [
    begin("2025-07-17 13:30"),  # the session opens
    begin("2025-07-17 19:45"),  # … and closes at 20:00
    begin("2025-11-28 17:45"),  # a half day closes at 18:00
    begin("2025-07-19 14:00"),  # a Saturday
    begin("2025-03-09 06:45"),  # clocks in New York go from 02:00 to 03:00 at 07:00 UTC
    begin("2025-11-02 05:45"),  # 01:00-02:00 happens twice
    begin("2025-12-17 00:00", "2025-12-16"),  # late trading in winter passes UTC midnight
]
seeds = st.integers(0, 2**32)
begins = st.sampled_from(BEGINS)
edges = st.lists(st.integers(1, 9000), max_size=12)
BUCKET_COLUMNS = ("ts", "con_id", "symbol", "decision_seq", "mid", "spread_bps")


class Alignments:
    """A trading side that records the alignments it receives."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, int, int]] = []

    def on_run_start(self, params: Any, seq: int, ts: int) -> None: ...

    def on_interval(self, interval: Any) -> None:
        self.told += [(h.seq, h.ts, h.con_id, h.value) for h in interval.happenings if h.what is OccurrenceKind.ALIGNED]

    def take_rows(self) -> dict[str, Any]:
        return {}


def fold(batch: Batch, marks: list[int]) -> tuple[dict[str, list[dict[str, Any]]], list[tuple[int, int, int, int]]]:
    """Buckets, candles and signals of the batch cut after these seqs, and the alignments passed to trading."""
    trading = Alignments()
    engine = Engine(trading=trading)  # type: ignore[arg-type]
    tables: dict[str, list[dict[str, Any]]] = {"buckets": [], "candles": [], "signals": []}
    for a, b in pairwise([0, *sorted({mark for mark in marks if mark < batch.last_seq}), batch.last_seq]):
        out = engine.fold(batch.slice(a + 1, b)).tables
        for name in tables.keys() & out.keys():
            rows = out[name].select(BUCKET_COLUMNS) if name == "buckets" else out[name]
            tables[name].extend(rows.to_pylist())
    return tables, trading.told


def check(events: list[tuple[Kind, dict[str, Any]]], marks: list[int]) -> tuple[list[Completed], list[Judged]]:
    """Assert that the engine equals the reference; returns the reference's results."""
    batch = Batch.of(events).check()
    tables, aligned = fold(batch, marks)
    full = [event for kind in (Kind.REQUEST, Kind.CLOCK, Kind.BAR) for event in rows_of(batch, kind)]
    day = Day(full)
    made = candles(tables["buckets"], day)
    minutes = judged(made, full, day)
    same(tables["candles"], [completed.row for completed in made])
    same(tables["signals"], [minute.row for minute in minutes if minute.row])
    assert aligned == alignments(minutes)
    return made, minutes


def rows_of(batch: Batch, kind: Kind) -> list[tuple[Kind, dict[str, Any]]]:
    return [(kind, row) for row in batch.tables[kind].to_pylist()] if kind in batch.tables else []


def same(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    for got, expected in zip(mine, theirs, strict=False):
        assert got == expected, {k: (got[k], expected[k]) for k in got if got[k] != expected[k]}
    assert len(mine) == len(theirs), mine[len(theirs) :][:1] or theirs[len(mine) :][:1]


@settings(max_examples=budget(8, 25))
@given(seeds, begins, edges)
def test_candles_and_signals_say_what_the_reference_says(seed: int, at: Begin, marks: list[int]) -> None:
    """Every column of every candle and signal is equal to the bit, in order, and so is every alignment."""
    check(RandomDay(seed, at).events(), marks)


def test_a_whole_half_day_says_what_the_reference_says() -> None:
    """From before its open to a quarter of an hour after its close: the daily candle is the session, and is used."""
    hours = session(date(2025, 11, 28))
    assert hours is not None
    made, minutes = check(RandomDay(1, begin("2025-11-28 14:15"), seconds=14_500).events(), [40, 9001])
    whole = {(c.candle.start, c.candle.end) for c in made if c.candle.timeframe == "1D" and c.candle.whole}
    assert whole == {(hours.open_ns, hours.close_ns)}
    assert any("1D candle" in used for minute in minutes for used in uses(minute))


WANTED = (
    "BUY", "SELL", "1D candle", "1D backfilled TRADES bar", "1h candle", "1h backfilled TRADES bar",
    "crossed", "under the limit", "at the limit", "news", "no news",
    *(f"{name} misses {what}" for name in ("30s", "1m", "5m", "15m") for what in ("a tenth", "a second more")),
    "restart", "another session", "two sessions open together",
    "bar too early", "bar in time", "bar without a price", "bar of another kind",
)  # fmt: skip


def test_the_days_reach_what_they_are_for() -> None:
    """Over 35 days: signals of every make, spreads at their limit, a tenth missing and a second more, odd bars."""
    seen: Counter[str] = Counter()
    for seed in range(35):
        events = RandomDay(seed, BEGINS[seed % len(BEGINS)]).events()
        made, minutes = check(events, [])
        seen.update(what for minute in minutes for what in uses(minute))
        seen.update(what for completed in made for what in lacks(completed))
        seen.update(what for kind, row in events if kind is Kind.BAR for what in oddities(row))
        seen.update(restarts(events))
    assert not [what for what in WANTED if not seen[what]], seen


def uses(minute: Judged) -> list[str]:
    """What a signal stands on."""
    if minute.row is None:
        return []
    made_of = {name: text.split(" of ")[0] for name, text in json.loads(minute.row["source"]).items()}
    spread = minute.row["spread_bps"]
    where = "crossed" if spread < 0 else "at the limit" if spread == 12 else "under the limit"
    return [minute.row["signal"], f"1D {made_of['1D']}", f"1h {made_of['1h']}", where]


def lacks(completed: Completed) -> list[str]:
    """Cases at the limits: candles that miss a tenth, or a second more; minutes just in time or just too late."""
    candle, late = completed.candle, completed.ts - completed.candle.end
    seconds = (candle.end - candle.start) // SECOND
    missed = 10 * (seconds - candle.samples)
    found = [f"{candle.timeframe} misses a tenth"] if missed == seconds else []
    found += [f"{candle.timeframe} misses a second more"] if seconds < missed <= seconds + 10 else []
    if candle.timeframe == "1m" and late in (MINUTE - 1, MINUTE):
        found.append("news" if late < MINUTE else "no news")
    return found


def oddities(bar: dict[str, Any]) -> list[str]:
    found = []
    if bar["bar_size"] == "1 hour" and bar.get("ts_event"):
        early = (bar["ts_event"] // HOUR + 1) * HOUR - bar["ts_recv"]
        found += [{1: "bar too early", 0: "bar in time"}[early]] if early in (0, 1) else []
    if bar["open"] in (None, UNSET) or bar["close"] in (None, UNSET):
        found.append("bar without a price")
    if bar["bar_size"] not in BARS or bar["what"] != "TRADES":
        found.append("bar of another kind")
    return found


def restarts(events: list[tuple[Kind, dict[str, Any]]]) -> list[str]:
    params = [row["params"] for kind, row in events if kind is Kind.REQUEST and row["action"] == "run_start"]
    found = []
    for hours, again in pairwise(json.loads(text)["calendar"]["session"] for text in params):
        found.append("restart" if hours == again else "another session")
        if hours != again and hours and again and hours["open_ns"] == again["open_ns"]:
            found.append("two sessions open together")
    return found
