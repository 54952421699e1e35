"""A recorder within IB's limits: message rate, historical pacing, few lines, streams that end or never answer."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from harvester.events.kinds import Action, Kind, Own, Stream
from harvester.home import Home
from harvester.recorder.subscriptions import DEPTHS
from harvester.simgateway.limits import Limits
from harvester.status import status
from tests.recording import lockstep, model, run
from tests.test_record_trouble import DATE, cancelled, codes, silent, sound, subscribed

if TYPE_CHECKING:
    from pathlib import Path

    from harvester.eventlog.reader import Day

SECOND = 1_000_000_000
MANY = tuple(f"S{n:02d}" for n in range(40))


def requests(day: Day) -> list[dict[str, Any]]:
    return day.table(Kind.REQUEST).to_pylist()


def sent_at(day: Day) -> list[int]:
    return [row["ts_recv"] for row in day.table(Kind.RAW).to_pylist() if row["reason"] == "sent"]


def busiest(stamps: list[int], span_ns: int) -> int:
    """The largest number of stamps in any span of that length."""
    return max((sum(at <= ts < at + span_ns for ts in stamps) for at in stamps), default=0)


def granted(day: Day, *streams: Stream) -> set[tuple[str, str]]:
    """(symbol, stream) of subscriptions of which rows arrived."""
    names = {row["req_id"]: (row["symbol"], row["stream"]) for row in requests(day) if row["action"] == "subscribe"}
    ids = [n["req_id"] for n in day.table(Kind.NOTICE).to_pylist() if n["code"] == Own.STREAM_GRANTED]
    return {names[req_id] for req_id in ids if names[req_id][1] in streams}


def test_forty_symbols_within_ibs_limits(tmp_path: Path) -> None:
    """Forty symbols from a gateway with IB's own limits: no error 100, no 162, every L1 and every line granted."""
    market = model(symbols=MANY, rate=300)
    recorded = run(lockstep(market, Home(tmp_path), minutes=16, skip_historical_backfill=False))
    day = sound(recorded)
    assert not {100, 162, 420} & set(codes(day))
    assert busiest(sent_at(day), SECOND) <= 50
    histories = [r["ts_recv"] for r in requests(day) if _is_historical(r)]
    assert len(histories) >= 40 + 15
    assert busiest(histories, 600 * SECOND) <= 60
    assert granted(day, Stream.L1) == {(symbol, "l1") for symbol in MANY}
    assert len(granted(day, Stream.ALL_LAST)) == 5
    assert len(granted(day, Stream.DEPTH)) >= 3


def _is_historical(row: dict[str, Any]) -> bool:
    bars = row["action"] == Action.SUBSCRIBE and row["stream"] == Stream.BARS_5S
    return bars or row["action"] == Action.BACKFILL


def test_what_a_gateway_drops_is_asked_again(tmp_path: Path) -> None:
    """A gateway that takes ten messages a second drops the others with error 100: in the end everything flows."""
    limits = Limits(messages_per_s=10, violations_max=1_000)
    market = model(symbols=MANY[:12])
    recorded = run(lockstep(market, Home(tmp_path), minutes=14, limits=limits, skip_historical_backfill=False))
    day = sound(recorded)
    assert 100 in codes(day)
    assert granted(day, Stream.L1) == {(symbol, "l1") for symbol in MANY[:12]}
    assert len(granted(day, *DEPTHS)) >= 3
    answered = {row["req_id"] for row in day.table(Kind.END).to_pylist()}
    asked = {row["params"] + row["symbol"] for row in requests(day) if row["action"] == Action.BACKFILL}
    histories = [row for row in requests(day) if row["action"] == Action.BACKFILL]
    got = {row["params"] + row["symbol"] for row in histories if row["req_id"] in answered}
    assert got == asked
    assert len(asked) == 15


@pytest.mark.parametrize("faults", ["+100 * error 1100\n+110 * error 1102", "+100 ACME:depth error 316"])
def test_a_granted_line_is_kept_though_others_were_refused(tmp_path: Path, faults: str) -> None:
    """Two depth lines for three symbols: after 1102, or a halt, both are subscribed again under new ids."""
    limits = Limits(depth_lines=2, tick_by_tick_lines=2)
    day = sound(run(lockstep(model(), Home(tmp_path), minutes=6, limits=limits, faults=faults)))
    assert {309, 10190} <= set(codes(day))
    last = {r["symbol"]: r["req_id"] for r in subscribed(day, Stream.DEPTH)}
    rows = day.frame(Kind.DEPTH)
    late = set(rows.filter(rows["ts_recv"] > rows["ts_recv"].max() - 60 * SECOND)["req_id"].to_list())
    assert {last["ACME"], last["BOLT"]} <= late
    assert set(last) == {"ACME", "BOLT", "CRUX"}
    ended = set(cancelled(day, Stream.ALL_LAST)) - silent(day)
    assert not ended, "no granted print stream is given up"


def test_halts_are_no_storm(tmp_path: Path) -> None:
    """Depth of a venue that answers every request with 316 is requested again with growing pauses."""
    faults = "+60 ACME:depth refuse 316\n+61 ACME:depth error 316"
    day = sound(run(lockstep(model(symbols=("ACME",)), Home(tmp_path), minutes=5, faults=faults)))
    assert codes(day).count(316) >= 3
    assert len(subscribed(day, Stream.DEPTH)) <= 12
    assert len(cancelled(day, Stream.DEPTH)) <= 12


def test_a_stream_that_ended_without_a_word_is_asked_again(tmp_path: Path) -> None:
    """After 10197 ended L1, it is requested again after a minute of silence, and flows."""
    day = sound(run(lockstep(model(), Home(tmp_path), minutes=11, faults="+400 ACME:l1 error 10197")))
    asked = [r["req_id"] for r in subscribed(day, Stream.L1) if r["symbol"] == "ACME"]
    assert len(asked) >= 2
    ticks = day.frame(Kind.TICK)
    assert asked[-1] in ticks["req_id"].to_list()
    assert asked[0] in silent(day)
    assert "ACME" not in status_lacking(day, tmp_path)


def status_lacking(day: Day, root: Path) -> dict[str, dict[str, str]]:
    lacking = status(Home(root).on(day.trading_date)).lacking
    return {symbol: streams for symbol, streams in lacking.items() if "l1" in streams}


def test_depth_lines_go_round(tmp_path: Path) -> None:
    """Five symbols, three lines, a turn of two minutes: each symbol has depth in its turn, never more than three."""
    market = model(symbols=("ACME", "BOLT", "CRUX", "DYNE", "EMBR"))
    day = sound(run(lockstep(market, Home(tmp_path), minutes=8, depth_rotation_minutes=2)))
    assert 309 not in codes(day)
    had = Counter(row["symbol"] for row in subscribed(day, Stream.DEPTH))
    assert set(had) == {"ACME", "BOLT", "CRUX", "DYNE", "EMBR"}
    live: set[int] = set()
    for row in requests(day):
        if row["stream"] == Stream.DEPTH and row["action"] in (Action.SUBSCRIBE, Action.CANCEL):
            live.symmetric_difference_update({row["req_id"]})
            assert len(live) <= 3


def test_a_planned_restart_is_called_so(tmp_path: Path) -> None:
    """An outage at the restart time of the user's TWS is marked as planned in the log; another is not."""
    market = model(symbols=("ACME",))
    at = market.start_ns + 100 * SECOND
    restart = f"{(at // SECOND - 4 * 3600) // 3600 % 24:02d}:{at // SECOND // 60 % 60:02d}"  # New York in July
    faults = "+100 * drop\n+100 * closed 20"
    for given, planned in ((restart, True), ("03:00", False)):
        home = Home(tmp_path / given.replace(":", ""))
        day = sound(run(lockstep(market, home, minutes=3, faults=faults, daily_restart=given)))
        begun = [n["text"] for n in day.table(Kind.NOTICE).to_pylist() if n["code"] == Own.OUTAGE_BEGIN]
        assert [f"the daily restart at {given}" in text for text in begun] == [planned]


def test_a_new_date_describes_its_instruments_itself(tmp_path: Path) -> None:
    """The new date's log repeats the contracts and data types received before the boundary."""
    market = model(symbols=("ACME", "BOLT"))
    boundary = market.start_ns + 90 * SECOND
    local = boundary // SECOND - 4 * 3600  # New York in July
    day_start = f"{local // 3600 % 24:02d}:{local // 60 % 60:02d}"
    given = {"minutes": 4, "day_start": day_start, "market_data_type": 3}
    recorded = run(lockstep(market, Home(tmp_path), **given))
    dates = [found.trading_date for found in recorded.summary.runs]
    assert len(dates) == 2
    assert dates[0] != dates[1]
    for trading_date in dates:
        day = recorded.day(trading_date.isoformat())
        assert set(day.frame(Kind.CONTRACT)["symbol"].to_list()) == {"ACME", "BOLT"}
        types = {n["req_id"]: n["value"] for n in day.table(Kind.NOTICE).to_pylist() if n["msg"] == 58}
        assert types
    assert DATE in dates
