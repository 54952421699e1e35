"""The compiled kernels against the plain-Python reference, and against themselves for every split into batches."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harvester.calendar import to_ns
from harvester.events.batch import Batch
from harvester.events.kinds import Kind, Side
from harvester.projections.engine import Engine
from harvester.projections.interval import OccurrenceKind
from harvester.projections.trading.trading_feed import TradingFeed
from tests import intervals
from tests.budget import budget
from tests.reference.market import Market
from tests.reference.streams import stream

STARTS = [
    to_ns(datetime(2025, 7, 17, 14, 30, tzinfo=UTC)),
    to_ns(datetime(2025, 3, 9, 6, 59, 57, tzinfo=UTC)),  # clocks in New York go from 02:00 to 03:00 at 07:00 UTC
    to_ns(datetime(2025, 11, 1, 3, 59, 58, tzinfo=UTC)),  # the day before the autumn Sunday begins
    to_ns(datetime(2025, 11, 2, 5, 59, 57, tzinfo=UTC)),  # 01:00-02:00 happens twice
    to_ns(datetime(2025, 3, 8, 23, 59, 58, tzinfo=UTC)),
    to_ns(datetime(2025, 3, 10, 3, 59, 58, tzinfo=UTC)),  # the Monday after begins an hour earlier in UTC
    to_ns(datetime(2025, 11, 3, 4, 59, 58, tzinfo=UTC)),  # and in autumn an hour later
    to_ns(datetime(2025, 11, 28, 17, 59, 58, tzinfo=UTC)),  # a half day closes at 13:00 in New York
    to_ns(datetime(2025, 12, 16, 23, 59, 58, tzinfo=UTC)) + 999_999_999,  # late trading in winter passes UTC midnight
]
seeds = st.integers(0, 2**32)
lengths = st.integers(1, 260)
starts = st.sampled_from(STARTS)
quick = settings(deadline=None, max_examples=budget(20, 60), suppress_health_check=[HealthCheck.too_slow])


OF_THE_MARKET = (
    OccurrenceKind.HALT, OccurrenceKind.QUOTE_LOST, OccurrenceKind.MIN_TICK,
)  # fmt: skip


class Seen:
    """A trading side that records its inputs."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_run_start(self, params: Any, seq: int, ts: int) -> None:
        self.told.append(("run", seq, ts))

    def on_interval(self, interval: Any) -> None:
        self.told.append((
            "interval", interval.seq, interval.ts, intervals.buckets(interval), intervals.quotes(interval),
            intervals.trades(interval), list(interval.happenings),
        ))  # fmt: skip

    def finish(self, seq: int, ts: int) -> None:
        self.told.append(("finish", seq, ts))

    def take_rows(self) -> dict[str, Any]:
        return {}

    def digest(self) -> str:
        return repr(self.told)

    def snapshot(self) -> bytes:
        return repr(self.told).encode()

    def restore(self, data: bytes) -> None:
        self.told = [data]


def plain(x: Any) -> Any:
    """NaN as None, all the way down, so that equality means equality."""
    if isinstance(x, (list, tuple)):
        return [plain(part) for part in x]
    return None if isinstance(x, float) and math.isnan(x) else x


def cut(batch: Batch, edges: list[int]) -> list[Batch]:
    """A batch cut after the given seqs."""
    marks = [0, *sorted({e for e in edges if 0 < e < batch.last_seq}), batch.last_seq]
    return [batch.slice(a + 1, b) for a, b in pairwise(marks)]


def _unchanged(quotes: Any, *_: Any) -> tuple[Any, list[Any]]:
    """The market's quotes as trading gets them, before halts and dead streams take their effect."""
    return quotes, []


def fold(parts: list[Batch]) -> tuple[Engine, Seen, dict[str, list[dict[str, Any]]]]:
    seen = Seen()
    engine = Engine(trading=seen)
    engine[TradingFeed]._live.fold = _unchanged
    tables: dict[str, list[dict[str, Any]]] = {}
    for part in parts:
        for name, table in engine.fold(part).tables.items():
            tables.setdefault(name, []).extend(table.to_pylist())
        engine.check()
    return engine, seen, tables


@quick
@given(seeds, lengths, starts)
def test_kernels_say_what_the_reference_says(seed: int, length: int, start: int) -> None:
    """Books, quotes in force and their changes, prints and every bucket column equal the plain market to the bit."""
    events = stream(seed, length, start)
    reference = Market()
    for kind, row in events:
        reference.on(str(kind), complete(kind, row))
    engine, seen, tables = fold([Batch.of(events)])
    got = tables.get("buckets", [])
    for mine, theirs in zip(got, reference.rows, strict=True):
        assert mine == theirs, {k: (mine[k], theirs[k]) for k in mine if mine[k] != theirs[k]}
    assert quotes_of(engine) == [(i.symbol, i.source, *i.quote) for _, i in sorted(reference.instruments.items())]
    assert books_of(engine) == sorted(
        (s.epoch, s.req_id, s.book.good, s.book.bad, s.book.impossible, s.book.placed, s.book.sides)
        for s in reference.live
        if s.book
    )
    last_clock = max((told[1] for told in seen.told if told[0] == "interval"), default=0)
    changes = [q for told in seen.told if told[0] == "interval" for q in plain(told[4])]
    for mine, theirs in zip(changes, [list(q) for q in reference.quotes if q[0] < last_clock], strict=True):
        theirs[7] = theirs[7] and all((size or 0.0) > 0 for size in theirs[5:7])  # the quotes that are live
        assert mine == theirs
    prints = [t for told in seen.told if told[0] == "interval" for t in told[5]]
    assert prints == [t for t in reference.prints if t[0] < last_clock]
    happened = [tuple(h)[:5] for told in seen.told if told[0] == "interval" for h in told[6] if h.what in OF_THE_MARKET]
    assert happened == [h for h in reference.happenings if h[0] <= last_clock and h[3] != "run_end"]


def complete(kind: Kind, row: dict[str, Any]) -> dict[str, Any]:
    ((_, full),) = Batch.of([(kind, row)]).events()
    return full


def quotes_of(engine: Engine) -> list[tuple[Any, ...]]:
    return [(q.symbol, q.source, q.bid, q.ask, q.bid_size, q.ask_size) for q in engine.quotes.all()]


def books_of(engine: Engine) -> list[tuple[Any, ...]]:
    market, out = engine.market, []
    for slot in market.live():
        row = market.state.slots[slot]
        if row["book"] >= 0:
            state = engine.book._state(slot)
            counts = (state.good, state.bad, state.impossible, state.placed)
            sides = tuple(side_of(engine, slot, side) for side in Side)
            out.append((int(row["epoch"]), int(row["req_id"]), *counts, sides))
    return sorted(out)


def side_of(engine: Engine, slot: int, side: Side) -> list[tuple[float, float, str] | None]:
    """Every row of a side, None for a hole; what is shown of it ends at the first hole."""
    end, _ = engine.book._ends(slot, side)
    told = {position: tuple(row) for position, row in engine.book._occupied(slot, side)}
    rows = [told.get(position) for position in range(end)]
    visible = rows[: rows.index(None)] if None in rows else rows
    assert [tuple(row) for row in engine.book._rows_of(slot, side)] == visible
    return rows


@quick
@given(seeds, st.integers(40, 260))
def test_update_only_venues(seed: int, length: int) -> None:
    """The same for venues that never insert first; their books get holes and fill them."""
    events = stream(seed, length, STARTS[0], updaters=1.0)
    reference = Market()
    for kind, row in events:
        reference.on(str(kind), complete(kind, row))
    batch = Batch.of(events)
    engine, _, tables = fold(cut(batch, list(range(1, batch.last_seq))))
    assert tables.get("buckets", []) == reference.rows
    assert books_of(engine) == sorted(
        (s.epoch, s.req_id, s.book.good, s.book.bad, s.book.impossible, s.book.placed, s.book.sides)
        for s in reference.live
        if s.book
    )
    whole, _, rows = fold([batch])
    assert rows == tables
    assert whole.digests() == engine.digests()
    assert whole.snapshot() == engine.snapshot()


def test_the_streams_reach_what_they_are_for() -> None:
    """Over many seeds: good books by updates alone, holes that fill, holes met by inserts and deletes, late rows."""
    seen: dict[str, int] = dict.fromkeys(("placed_good", "holes", "filled", "insert", "delete", "late"), 0)
    for seed in range(budget(30, 200)):
        reference = Market()
        for kind, row in stream(seed, 200, STARTS[0], updaters=0.5):
            full = complete(kind, row)
            sub = next(iter(reference.held(full)), None)
            book = sub.book if sub and kind == Kind.DEPTH else None
            before = (book.impossible, book.bad, any(None in rows for rows in book.sides)) if book else None
            reference.on(str(kind), full)
            if book is None or before is None:
                continue
            applied, holes = book.impossible == before[0], any(None in rows for rows in book.sides)
            seen["placed_good"] += book.good and book.placed > 0 and not book.inserted
            seen["holes"] += holes
            seen["filled"] += before[2] and not holes and full["operation"] == 1
            seen["insert"] += before[2] and applied and full["operation"] == 0
            seen["delete"] += before[2] and applied and full["operation"] == 2
            seen["late"] += not applied and book.refill and not before[1] and not book.bad
    assert min(seen.values()) >= budget(1, 10), seen


@quick
@given(seeds, lengths, starts, st.lists(st.integers(1, 300), max_size=12))
def test_cutting_changes_nothing(seed: int, length: int, start: int, edges: list[int]) -> None:
    """Batches of 7, the whole, and cuts Hypothesis chooses give the same rows, calls, digests and state."""
    check_cuts(Batch.of(stream(seed, length, start)), edges, list(range(7, length + 400, 7)))


@settings(deadline=None, max_examples=budget(3, 8))
@given(seeds, starts, st.lists(st.integers(1, 2600), max_size=6))
def test_cutting_a_long_stream_changes_nothing(seed: int, start: int, edges: list[int]) -> None:
    """The same over some thousand events: batches of 1,000, and of 1,000 with Hypothesis' cuts between them."""
    batch = Batch.of(stream(seed, 2600, start))
    thousands = list(range(1000, batch.last_seq, 1000))
    assert len(thousands) == 2
    check_cuts(batch, thousands, [*thousands, *edges])


def check_cuts(batch: Batch, *cuts: list[int]) -> None:
    """Assert that an engine fed the batch split after these seqs ends like one that gets it whole."""
    whole, told, tables = fold([batch])
    for marks in cuts:
        engine, seen, rows = fold(cut(batch, marks))
        assert rows == tables
        assert plain(seen.told) == plain(told.told)
        assert engine.digests() == whole.digests()
        assert engine.snapshot() == whole.snapshot()


@pytest.mark.parametrize("start", STARTS)
def test_one_event_at_a_time(start: int) -> None:
    """Batches of one event give the same result as the whole."""
    batch = Batch.of(stream(5, budget(250, 700), start))
    whole, told, tables = fold([batch])
    engine, seen, rows = fold(cut(batch, list(range(1, batch.last_seq))))
    assert rows == tables
    assert rows["buckets"], "the stream closes buckets"
    assert plain(seen.told) == plain(told.told)
    assert engine.digests() == whole.digests()


@settings(deadline=None, max_examples=budget(10, 25))
@given(seeds, lengths, st.integers(0, 300))
def test_a_snapshot_goes_on_as_if_nothing_had_happened(seed: int, length: int, at: int) -> None:
    """An engine restored at any seq gives the rows and digests of one that never stopped."""
    batch = Batch.of(stream(seed, length, STARTS[0]))
    parts = cut(batch, [at])
    engine = Engine(market_only=True)
    first = engine.fold(parts[0])
    again = Engine(market_only=True)
    again.restore(engine.snapshot())
    assert again.digests() == engine.digests()
    for part in parts[1:]:
        assert again.fold(part) == engine.fold(part)
    assert again.digests() == engine.digests()
    assert again.finish() == engine.finish()
    assert first.through_seq == parts[0].last_seq
