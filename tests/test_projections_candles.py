"""Candles against a plain computation, and signals against their rule, timeframe by timeframe."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from harvester.calendar import ExchangeSession, to_ns
from harvester.config import Settings
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.projections.engine import Engine
from harvester.projections.market.candles import CANDLES
from harvester.projections.market.signals import SIGNALS
from harvester.projections.run_params import RunParams
from tests.market_log import SECOND, START

LENGTHS = {"30s": 30, "1m": 60, "5m": 300, "15m": 900, "1h": 3600}
HOUR = 3600 * SECOND
HALF_DAY = to_ns(datetime(2025, 11, 28, 14, 30, tzinfo=UTC))  # opens 09:30 in New York, closes 13:00


def start_row(day: str) -> dict[str, Any]:
    params = RunParams.build(Settings.load({"symbols": ("S7",)}), date.fromisoformat(day))
    return {"action": "run_start", "stream": "run", "params": params.text()}


class Day:
    """A market of one quote a second per instrument, a clock each second, and backfilled bars."""

    def __init__(self, start: int = START, day: str = "2025-07-17", con_ids: tuple[int, ...] = (7,)) -> None:
        self.start, self.con_ids = start, con_ids
        self.rows: list[tuple[Kind, dict[str, Any]]] = []
        self.run(0, start_row(day))

    def run(self, second: int, start: dict[str, Any]) -> None:
        at = self.start + second * SECOND
        self.rows.append((Kind.REQUEST, {"ts_recv": at, **start}))
        for con_id in self.con_ids:
            ask = {"action": "subscribe", "stream": "bid_ask", "symbol": f"S{con_id}", "params": "{}"}
            self.rows.append((Kind.REQUEST, {"ts_recv": at, "req_id": con_id, "con_id": con_id, "epoch": 1, **ask}))

    def quote(self, second: float, bid: float, spread: float = 0.01, con_id: int = 7) -> None:
        ids = {"req_id": con_id, "con_id": con_id, "epoch": 1, "stream": 3, "bid_size": 100.0, "ask_size": 100.0}
        at = self.start + round(second * SECOND)
        self.rows.append((Kind.QUOTE, {"ts_recv": at, "bid": bid, "ask": bid + spread, **ids}))

    def clock(self, second: float) -> None:
        at = self.start + round(second * SECOND)
        self.rows.append((Kind.CLOCK, {"ts_recv": at, "wall_ns": 0, "mono_ns": 0}))

    def bar(self, size: str, time: str, opened: float, closed: float, *, what: str = "TRADES") -> None:
        event = int(time) * SECOND if len(time) == 10 else None
        row = {"bar_size": size, "what": what, "time": time, "ts_event": event, "open": opened, "close": closed}
        self.rows.append((Kind.BAR, {"ts_recv": self.start, "con_id": 7, "req_id": 90, "epoch": 1, "msg": 17, **row}))

    def up(self, seconds: int, spread: float = 0.01, slope: float = 0.001, first: int = 0) -> Day:
        for second in range(first, first + seconds):
            self.quote(second + 0.5, 50.0 + slope * second, spread)
            self.clock(second + 1)
        return self

    def batch(self) -> Batch:
        return Batch.of(self.rows, 1).check()


def fold(batch: Batch, *cuts: int) -> tuple[Engine, dict[str, list[dict[str, Any]]]]:
    engine = Engine(market_only=True)
    tables: dict[str, list[dict[str, Any]]] = {"buckets": [], "candles": [], "signals": []}
    for a, b in pairwise([0, *cuts, batch.last_seq]):
        for name, rows in engine.fold(batch.slice(a + 1, b)).tables.items():
            tables.setdefault(name, []).extend(rows.to_pylist())
    return engine, tables


def expected(buckets: list[dict[str, Any]], timeframe: str, until: int) -> list[dict[str, Any]]:
    """Candles of one timeframe that end by `until`, computed bucket by bucket."""
    width, made = LENGTHS[timeframe] * SECOND, {}
    for row in buckets:
        if row["mid"] is not None:
            made.setdefault((row["con_id"], row["ts"] // width * width), []).append(row)
    out = []
    for (con_id, start), rows in made.items():
        if start + width <= until:
            mids = [row["mid"] for row in rows]
            spread = sum(row["spread_bps"] for row in rows) / len(rows)
            out.append((con_id, start, start + width, mids[0], max(mids), min(mids), mids[-1], len(mids), spread))
    return sorted(out, key=lambda row: (row[1], row[0]))


def wandering(minutes: int) -> Day:
    """Two instruments with random prices, one of them silent and unquoted for a while."""
    day = Day(con_ids=(7, 3))
    for second in range(60 * minutes):
        day.quote(second + 0.2, 50 + (second * 7919 % 101) / 100, con_id=7)
        if second % 400 < 250:
            day.quote(second + 0.4, 20 + (second * 104729 % 89) / 100, con_id=3)
        elif second % 400 == 250:
            day.quote(second + 0.4, 0, con_id=3)
        if second % 13:  # late clocks complete several buckets at once
            day.clock(second + 1)
    return day


def test_candles_equal_a_plain_computation() -> None:
    """Open, high, low, close, samples and spread of every completed candle of every length, gaps included."""
    day = wandering(70)
    _, tables = fold(day.batch(), 17, 1000, 5003)
    until = max(row["ts_recv"] for kind, row in day.rows if kind is Kind.CLOCK)
    for timeframe in LENGTHS:
        mine = sorted((r for r in tables["candles"] if r["timeframe"] == timeframe), key=lambda r: r["bucket_start"])
        names = ("con_id", "bucket_start", "bucket_end", "open", "high", "low", "close", "samples")
        theirs = expected(tables["buckets"], timeframe, until)
        got = sorted((tuple(row[n] for n in names) for row in mine), key=lambda row: (row[1], row[0]))
        assert got == [row[:-1] for row in theirs], timeframe
        spreads = {(r["con_id"], r["bucket_start"]): r["average_spread_bps"] for r in mine}
        assert spreads == pytest.approx({(row[0], row[1]): row[-1] for row in theirs}, rel=1e-12)
    assert len([r for r in tables["candles"] if r["timeframe"] == "1h"]) == 2


def test_a_candle_completes_at_the_first_clock_at_or_after_its_end() -> None:
    """The first clock at or after its end completes a candle, none earlier; decision_seq is that clock's seq."""
    day = Day()
    day.quote(0.1, 50.0)
    day.clock(29.9)
    day.clock(30)
    day.clock(59.999)
    day.clock(64.2)
    _, tables = fold(day.batch())
    seqs = [seq for seq, (kind, _) in enumerate(day.rows, 1) if kind is Kind.CLOCK]
    found = [(r["timeframe"], r["decision_seq"], r["samples"]) for r in tables["candles"]]
    assert found == [("30s", seqs[1], 30), ("30s", seqs[3], 30), ("1m", seqs[3], 60)]


def test_candles_and_signals_do_not_depend_on_cuts() -> None:
    """One event a batch, batches of 97 and one batch: the same rows and digests; so does a restored snapshot."""
    batch = aligned().batch()
    one, rows = fold(batch)
    assert rows["signals"]
    for size in (97, 1001):
        other, again = fold(batch, *range(size, batch.last_seq, size))
        assert again == rows
        assert other.digests() == one.digests()
    middle = batch.last_seq // 2 + 7
    before, first = fold(batch.slice(1, middle))
    after = Engine(market_only=True)
    after.restore(before.snapshot())
    tables = after.fold(batch.slice(middle + 1, batch.last_seq)).tables
    assert first["candles"] + tables["candles"].to_pylist() == rows["candles"]
    assert first["signals"] + tables["signals"].to_pylist() == rows["signals"]
    assert after.digests() == one.digests()


def test_the_daily_candle_is_the_session_half_days_included() -> None:
    """The daily candle of 2025-11-28 is 09:30 to 13:00 in New York, whatever is quoted before and after."""
    day = Day(HALF_DAY - 600 * SECOND, "2025-11-28")
    for minute in range(10 + 210 + 10):
        day.quote(60 * minute + 0.5, 50 + minute / 100)
        day.clock(60 * minute + 1)
    _, tables = fold(day.batch(), 300)
    (row,) = (r for r in tables["candles"] if r["timeframe"] == "1D")
    assert (row["bucket_start"], row["bucket_end"]) == (HALF_DAY, HALF_DAY + 3 * HOUR + HOUR // 2)
    assert (row["open"], row["close"], row["samples"]) == pytest.approx((50.105, 52.195, 12_600))


def test_sessions_that_open_together_are_not_mixed() -> None:
    """Runs with sessions of 600, 900 and again 600 seconds give two daily candles, of the seconds of their own runs."""
    day = Day()
    for second, length in ((0, 600), (210, 900), (420, 600)):
        hours = ExchangeSession(START, START + length * SECOND, START, START + length * SECOND, half_day=False)
        params = RunParams.build(Settings.load({"symbols": ("S7",)}), date(2025, 7, 17))
        params = msgspec.structs.replace(params, calendar=msgspec.structs.replace(params.calendar, session=hours))
        day.run(second, start_row("2025-07-17") | {"params": params.text()})
        day.up(210, first=second)
    day.up(300, first=630)
    for cuts in ((), range(100, 2000, 100)):
        _, tables = fold(day.batch(), *cuts)
        daily = [r for r in tables["candles"] if r["timeframe"] == "1D"]
        assert [((r["bucket_end"] - START) // SECOND, r["samples"]) for r in daily] == [(600, 390), (900, 210)]
        assert [r["close"] for r in daily] == pytest.approx([50.604, 50.424])


def test_every_column_says_what_it_is() -> None:
    """Each field of both schemas carries its formula and its unit."""
    for schema in (CANDLES, SIGNALS):
        assert all(set(field.metadata) == {b"formula", b"unit"} and field.metadata[b"formula"] for field in schema)


# ---- signals -----------------------------------------------------------------------------------------------------

PRIOR_CLOSE = START - 17 * HOUR - HOUR // 2  # 16:00 of the session before


def aligned(slope: float = 0.001, spread: float = 0.01, seconds: int = 960, skip: str = "", **bars: Any) -> Day:
    """Sixteen minutes one way from the open, after a backfill of the day before and its last hour."""
    sign = 1 if slope > 0 else -1
    given = {"hour": (49.0, 49.0 + sign), "day": (48.0, 48.0 + sign)} | bars
    day = Day()
    if skip != "hour":
        day.bar("1 hour", str((PRIOR_CLOSE - HOUR) // SECOND), *given["hour"])
    if skip != "day":
        day.bar("1 day", "20250716", *given["day"])
    return day.up(seconds, spread, slope)


def signals(day: Day) -> list[dict[str, Any]]:
    return fold(day.batch())[1]["signals"]


def test_a_signal_needs_every_timeframe_closed_one_way() -> None:
    """From the fifteenth minute on, one a minute: BUY upwards, SELL downwards, at the last mid."""
    rows = signals(aligned())
    assert [((r["ts"] - START) // SECOND, r["signal"]) for r in rows] == [(900, "BUY"), (960, "BUY")]
    assert rows[0]["trigger_price"] == pytest.approx(50.0 + 0.899 + 0.005)
    assert rows[0]["samples_30s"] == 30
    assert rows[0]["spread_bps"] == pytest.approx(0.01 / 50.89 * 1e4, rel=1e-3)
    assert [r["signal"] for r in signals(aligned(slope=-0.001))] == ["SELL", "SELL"]


def test_the_source_names_what_each_timeframe_was_made_of() -> None:
    """1h and 1D are named as backfilled TRADES bars with their ends, the rest as candles of the mid."""
    source = json.loads(signals(aligned())[0]["source"])
    assert list(source) == ["1D", "1h", "15m", "5m", "1m", "30s"]
    assert source["1D"] == "backfilled TRADES bar of 1 day, ended 2025-07-16T20:00:00Z"
    assert source["1h"] == "backfilled TRADES bar of 1 hour, ended 2025-07-16T20:00:00Z"
    assert source["15m"] == "candle of the mid, ended 2025-07-17T13:45:00Z"


@pytest.mark.parametrize(
    "change",
    [
        {"skip": "hour"},
        {"skip": "day"},
        {"hour": (49.0, 49.0)},
        {"hour": (49.0, 48.0)},
        {"day": (49.0, 48.0)},
        {"spread": 0.062},  # 12.2 bps
    ],
)
def test_one_thing_missing_and_there_is_none(change: dict[str, Any]) -> None:
    """A missing bar, a flat one, one that closed the other way, or a spread above 12 bps gives no signal."""
    assert signals(aligned(**change)) == []


def test_a_wide_but_allowed_spread_signals() -> None:
    """A spread of 11.8 bps is within the limit of 12."""
    assert len(signals(aligned(spread=0.06))) == 2


def test_the_triggering_half_minute_must_agree() -> None:
    """With all timeframes up but the last thirty seconds down there is no signal, and one a minute later."""
    day = aligned(seconds=870)
    for second in range(870, 900):
        day.quote(second + 0.5, 50.9 - 0.0005 * (second - 870))
        day.clock(second + 1)
    day.up(60, first=900)
    assert [(r["ts"] - START) // SECOND for r in signals(day)] == [960]


def test_a_bar_that_arrived_before_its_end_is_not_complete() -> None:
    """A backfill contains the unfinished current hour; it does not count, the hour before does."""
    day = Day()
    day.bar("1 day", "20250716", 48.0, 49.0)
    day.bar("1 day", "20250717", 50.0, 40.0)
    day.bar("1 hour", str((PRIOR_CLOSE - HOUR) // SECOND), 49.0, 50.0)
    day.bar("1 hour", str(START // SECOND), 50.0, 40.0)
    day.bar("1 hour", str((PRIOR_CLOSE - HOUR) // SECOND), 50.0, 40.0, what="MIDPOINT")
    assert len(signals(day.up(960))) == 2


@pytest.mark.parametrize(
    "prices", [(1.7976931348623157e308, 50.0), (2.0**63, 50.0), (49.0, 2147483647.0), (49.0, -1.0), (49.0, 0.0)]
)
def test_a_bar_without_a_price_is_none(prices: tuple[float, float]) -> None:
    """IB's unset marker, -1 and 0 are no price: such a bar says nothing, and corrects no other."""
    day = Day()
    for size, time in (("1 hour", str((PRIOR_CLOSE - HOUR) // SECOND)), ("1 day", "20250716")):
        day.bar(size, time, 48.0, 49.0)
        day.bar(size, time, *prices)
    assert len(signals(day.up(960))) == 2


def test_a_later_own_hour_takes_over_from_the_bar() -> None:
    """After two hours the newest completed hour is our own candle, and the row says so."""
    rows = signals(aligned(seconds=5400 + 60, slope=0.0005))
    assert "candle of the mid, ended 2025-07-17T15:00:00Z" in json.loads(rows[-1]["source"])["1h"]
    assert rows[-1]["ts"] == START + 5460 * SECOND
    minute = [json.loads(r["source"])["1h"] for r in rows]
    assert minute[0].startswith("backfilled")


def test_a_candle_seen_in_part_gives_no_signal() -> None:
    """Recording began at minute four: the first 15m candle is not whole, so it gives no signal."""
    day = Day()
    day.bar("1 hour", str((PRIOR_CLOSE - HOUR) // SECOND), 49.0, 50.0)
    day.bar("1 day", "20250716", 48.0, 49.0)
    assert signals(day.up(780, first=240)) == []


def test_minutes_a_late_clock_completes_are_no_news() -> None:
    """A clock five minutes late completes five minutes; only the newest could be acted on."""
    day = aligned(seconds=895)
    for second in range(895, 1200):
        day.quote(second + 0.5, 50.0 + 0.001 * second)
    day.clock(1200)
    rows = signals(day)
    assert [(r["ts"] - START) // SECOND for r in rows] == [1200]


def test_candle_and_signal_files_follow_their_schemas() -> None:
    """One file of each per symbol and run, named by the run's start; sources are an object, times are text."""
    import jsonschema
    import pyarrow as pa

    from harvester.artefacts import json_schemas
    from harvester.artefacts.candle_files import RunSpan, candle_files

    _, rows = fold(aligned().batch())
    tables = [pa.Table.from_pylist(rows[n], s) for n, s in (("candles", CANDLES), ("signals", SIGNALS))]
    runs = [RunSpan("r001", 1, rows["signals"][0]["decision_seq"], START), RunSpan("r002", 10**6, 10**7, START + HOUR)]
    health = {"outages": 0, "bad_book_seconds": 0, "refused": 0, "data_type": 1, "kind": "tape"}
    files = candle_files(*tables, runs, trading_date="2025-07-17", health=health)
    assert list(files) == ["l2_candles_S7_20250717_133000.json", "l2_strategy_signals_S7_20250717_133000.json"]
    for name, data in files.items():
        body = json.loads(data)
        schema = json_schemas.find("l2_candles" if "candles" in name else "l2_strategy_signals")
        jsonschema.Draft202012Validator(schema).validate(body)
        assert list(body) == list(schema["properties"])
    (signal,) = json.loads(files["l2_strategy_signals_S7_20250717_133000.json"])["rows"]
    assert (signal["ts"], list(signal["source"])) == ("2025-07-17T13:45:00Z", ["1D", "1h", "15m", "5m", "1m", "30s"])
