"""The whole engine, trading included, on days with unusual clocks and sessions: split and restarted anywhere.

Around both Sundays on which New York changes its clocks, on a half day up to its close, and late in winter, when the
evening passes midnight UTC. Days on which the exchange is closed record a session of their own, as a run on a product
that trades around the clock would.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trading_log import SECOND, SYMBOLS, market, run_params, subscriptions

from harvester.calendar import ExchangeSession, day_bounds, session, to_ns
from harvester.calendar import trading_date as date_of
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.home import Home
from harvester.projections.engine import Engine
from harvester.rebuild.project import fold_day
from tests.budget import budget
from tests.recording import check_live_equals_replay, lockstep, model, replayed_digests, run

if TYPE_CHECKING:
    from pathlib import Path

    from trading_log import Rows

SECONDS = 330  # two pushes of the market: one enters, and the first has ended before the second


class Odd(NamedTuple):
    """A date and the time at which its market begins, UTC."""

    day: date
    begins: datetime


def _odd(day: str, at: str) -> Odd:
    return Odd(date.fromisoformat(day), datetime.fromisoformat(at).replace(tzinfo=UTC))


DAYS = {
    "before spring": _odd("2025-03-08", "2025-03-09 04:52:00"),  # the end of the date is New York's midnight
    "spring": _odd("2025-03-09", "2025-03-09 06:57:30"),  # 02:00 becomes 03:00 at 07:00 UTC
    "after spring": _odd("2025-03-10", "2025-03-10 04:00:01"),  # its date begins an hour earlier in UTC
    "before autumn": _odd("2025-11-01", "2025-11-02 03:52:00"),
    "autumn": _odd("2025-11-02", "2025-11-02 05:57:30"),  # 01:00-02:00 happens twice
    "after autumn": _odd("2025-11-03", "2025-11-03 05:00:01"),
    "half day": _odd("2025-11-28", "2025-11-28 17:55:30"),  # closes at 18:00 UTC, 13:00 in New York
    "winter evening": _odd("2025-12-16", "2025-12-16 23:57:30"),  # passes midnight UTC
}
days = pytest.mark.parametrize("name", DAYS)


def params_of(odd: Odd) -> str:
    """A run's start on that day; its session is the exchange's if the market is within it, else the whole date."""
    made = run_params(odd.day, close_wait_seconds=90, cooldown_seconds=10)
    hours, begins = session(odd.day), to_ns(odd.begins)
    if hours is None or not hours.open_ns <= begins < hours.close_ns:
        start, end = day_bounds(odd.day)
        own = ExchangeSession(start, end, start, end, half_day=False)
        made = msgspec.structs.replace(made, calendar=msgspec.structs.replace(made.calendar, session=own))
    return made.text()


@cache
def rows_of(name: str) -> tuple[tuple[Kind, dict[str, Any]], ...]:
    """The day's market; in every third second the clock is late, after a row of the next second."""
    odd = DAYS[name]
    shift = to_ns(odd.begins) - session(date(2025, 7, 17)).open_ns  # type: ignore[union-attr]
    rows: Rows = [(k, moved(row, shift)) for k, row in market(seconds=SECONDS, seed=1, start=0)]
    for i, ((kind, row), (_, after)) in enumerate(pairwise(list(rows))):
        if kind is Kind.CLOCK and row["ts_recv"] // SECOND % 3 == 0:
            rows[i], rows[i + 1] = rows[i + 1], (kind, row | {"ts_recv": after["ts_recv"]})
    return tuple(rows)


def moved(row: dict[str, Any], by: int) -> dict[str, Any]:
    return row | {name: row[name] + by for name in ("ts_recv", "wall_ns", "mono_ns") if name in row}


def events(name: str, restart: int | None = None, pause: int = 0, *, killed: bool = True) -> Batch:
    """The day as one batch; with `restart` a second run begins behind that many rows, `pause` rows are never seen."""
    rows, out = rows_of(name), []
    parts = [rows] if restart is None else [rows[:restart], rows[restart + pause :]]
    for number, part in enumerate(parts):
        ts = part[0][1]["ts_recv"]
        if number and not killed:
            end = {
                "action": "run_end",
                "stream": "run",
                "params": '{"reason":"stopped"}',
                "ts_recv": out[-1][1]["ts_recv"],
            }
            out.append((Kind.REQUEST, end))
        start = {"action": "run_start", "stream": "run", "params": params_of(DAYS[name]), "ts_recv": ts, "epoch": 0}
        out += [(Kind.REQUEST, start), *subscriptions(ts), *part]
    return Batch.of(out, 1)


def fold(batch: Batch, edges: list[int]) -> tuple[dict[str, pa.Table], dict[str, str], bytes]:
    """Every output row, the digests at the end, and the state of an engine that gets the batch cut after these seqs."""
    engine, parts = Engine(), dict[str, list[pa.RecordBatch]]()
    marks = [0, *sorted({e for e in edges if 0 < e < batch.last_seq}), batch.last_seq]
    for a, b in pairwise(marks):
        for table, rows in engine.fold(batch.slice(a + 1, b)).tables.items():
            parts.setdefault(table, []).append(rows)
    digests, state = engine.digests(), engine.snapshot()
    for table, rows in engine.finish().tables.items():
        parts.setdefault(table, []).append(rows)
    return {table: pa.Table.from_batches(rows).combine_chunks() for table, rows in parts.items()}, digests, state


@cache
def open_places(name: str) -> tuple[int, ...]:
    """The number of market rows after which a position is open."""
    found: set[int] = set()
    batch = events(name)
    clocks = batch.tables[Kind.CLOCK]["seq"].to_numpy()
    for text in fold(batch, [])[0]["episodes"]["document"].to_pylist():
        made = msgspec.json.decode(text)
        before = 1 + 3 * len(SYMBOLS)  # the run's start and its subscriptions
        settled = int(clocks[clocks.searchsorted(made["entry"]["seq"], "right")])  # an entry is settled at a clock
        found.update(range(settled - before + 1, made["exit"]["seq"] - before))
    return tuple(sorted(place for place in found if place < len(rows_of(name)) - 200))


def carried(tables: dict[str, pa.Table], batch: Batch) -> int:
    """Episodes entered in the first run and ended in the second."""
    starts = [row["seq"] for row in batch.tables[Kind.REQUEST].to_pylist() if row["action"] == "run_start"]
    made = [msgspec.json.decode(text) for text in tables["episodes"]["document"].to_pylist()]
    return sum(m["entry"]["seq"] < starts[1] < m["exit"]["seq"] for m in made)


@days
def test_the_day_trades_on_its_own_date(name: str) -> None:
    """The market is within that date, a position opens in it, and on the half day it is flat before the close."""
    odd, batch = DAYS[name], events(name)
    stamps = [row["ts_recv"] for row in batch.tables[Kind.CLOCK].to_pylist()]
    assert {date_of(ts) for ts in (stamps[0], stamps[-1])} == {odd.day}
    assert open_places(name)
    exits = {
        msgspec.json.decode(t)["labels"]["exit_reason"] for t in fold(batch, [])[0]["episodes"]["document"].to_pylist()
    }
    if name == "half day":
        close = session(odd.day).close_ns  # type: ignore[union-attr]
        ended = [msgspec.json.decode(t)["exit"]["ts"] for t in fold(batch, [])[0]["episodes"]["document"].to_pylist()]
        assert max(ended) < close < stamps[-1]
        assert "DATA_END" not in exits


@days
def test_batches_of_any_size_after_a_restart_in_a_trade(name: str) -> None:
    """Batches of 1, 7, 1,000 and all give the same rows, digests and state to the byte, over two runs.

    Small batches are the slowest by far: the short run tries single events on the longest date alone, and seven on one.
    """
    places = open_places(name)
    batch = events(name, places[len(places) // 2], 45)
    tables, digests, state = fold(batch, [])
    assert carried(tables, batch)
    assert batch.last_seq > 2_000
    small = {"autumn": 1, "half day": 7}.get(name, 97)
    for size in budget((small, 1_000), (1, 7, 1_000)):
        assert fold(batch, list(range(size, batch.last_seq, size))) == (tables, digests, state)


@settings(max_examples=budget(8, 25))
@given(st.data())
def test_cuts_and_restarts_anywhere_change_nothing(data: st.DataObject) -> None:
    """For any day, restart during a trade, missed rows, end of the run and cuts, chosen by Hypothesis."""
    name = data.draw(st.sampled_from(list(DAYS)))
    restart = data.draw(st.sampled_from(open_places(name)))
    batch = events(name, restart, data.draw(st.integers(0, 180)), killed=data.draw(st.booleans()))
    tables, digests, state = fold(batch, [])
    assert carried(tables, batch)
    edges = data.draw(st.lists(st.integers(1, batch.last_seq), max_size=15))
    edge = restart + 1 + 3 * len(SYMBOLS)  # where the first run ends, as a recorder's commits do
    assert fold(batch, [*edges, edge]) == (tables, digests, state)


@pytest.mark.parametrize("day", ["half day", "winter evening"])
def test_live_equals_replay_on_an_odd_day(tmp_path: Path, day: str) -> None:
    """Recorded over the close of a half day, and late in winter past midnight UTC: one date, live as in replay."""
    odd, minute = DAYS[day], 60 * SECOND
    hours = session(odd.day)
    assert hours is not None
    # By day the strategy needs a minute to warm up, takes nothing in the last quarter of an hour; evenings are thin.
    start, minutes, rate = (
        (hours.close_ns - 20 * minute, 21, 10_000) if day == "half day" else (to_ns(odd.begins) - 2 * minute, 8, 80_000)
    )
    market_ = model(trading_date=odd.day, extended_minutes=240, rate=rate)
    recorded = run(lockstep(market_, Home(tmp_path), minutes=minutes, start_ns=start, tick_by_tick_lines=6))
    log = recorded.day(odd.day.isoformat())
    assert [one.trading_date for one in recorded.summary.runs] == [odd.day]
    edge = hours.close_ns if day == "half day" else to_ns(datetime(2025, 12, 17, tzinfo=UTC))
    assert log.runs[0].first_ts < edge < log.last_ts
    assert log.table(Kind.QUOTE).num_rows > 50
    assert check_live_equals_replay(log) >= 5
    last = max(log.live_digests(), key=lambda line: line[1])
    for rows_max in budget((None,), (7, None)):
        assert replayed_digests(log, rows_max) == last[2]
    made = fold_day(log)
    assert made.digests == last[2]
    assert bool(made.documents) is (day == "half day")
