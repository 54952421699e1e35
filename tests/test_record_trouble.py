"""A recorder on a bad day: resets, outages, drops, silence, garbage, restarts, a failing disk."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from typer.testing import CliRunner

from cli.app import app
from harvester.calendar import day_bounds, iso, of_day
from harvester.clock import LockstepClock, MachineClock
from harvester.config import Settings
from harvester.endofday.eod import EodOptions, eod
from harvester.errors import (
    BadSetting,
    CannotRun,
    ClientIdInUse,
    GatewayError,
    LockHeld,
    LogWriteFailed,
    UnknownSymbol,
)
from harvester.eventlog.lock import DateLock
from harvester.eventlog.reader import open_day
from harvester.eventlog.typed_times import read_iso
from harvester.eventlog.verify_log import verify_day
from harvester.events.kinds import Action, Kind, Own, Stream
from harvester.files import Disk
from harvester.home import Home
from harvester.rebuild.project import fold_day
from harvester.recorder.clock_events import ClockEvents
from harvester.recorder.record import record
from harvester.simgateway.gateway_settings import GatewaySettings
from harvester.simgateway.limits import Limits
from harvester.simgateway.server import SimGateway
from harvester.status import status
from tests.recording import QuickDisk, Recorded, check_live_equals_replay, lockstep, model, run

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

    from harvester.eventlog.reader import Day

DATE = date(2025, 7, 17)


def codes(day: Day) -> list[int]:
    return [n["code"] for n in day.table(Kind.NOTICE).to_pylist()]


def subscribed(day: Day, *streams: Stream) -> list[dict[str, Any]]:
    """Subscribe rows of some streams, in order."""
    rows = day.table(Kind.REQUEST).to_pylist()
    return [r for r in rows if r["action"] == Action.SUBSCRIBE and r["stream"] in streams]


def cancelled(day: Day, *streams: Stream) -> list[int]:
    rows = day.table(Kind.REQUEST).to_pylist()
    return [r["req_id"] for r in rows if r["action"] == Action.CANCEL and r["stream"] in streams]


def silent(day: Day) -> set[int]:
    """Request ids of streams that were silent for too long and may be requested again."""
    return {n["req_id"] for n in day.table(Kind.NOTICE).to_pylist() if n["code"] == Own.STREAM_SILENT}


def sound(recorded: Recorded) -> Day:
    """The log verifies and its live digests are those of a replay."""
    day = recorded.day()
    assert verify_day(recorded.home.on(DATE)).problems in ((), [])
    assert check_live_equals_replay(day) >= 1
    return day


def one(**settings: Any) -> Any:
    return model(symbols=("ACME",), **settings)


def test_after_1101_everything_is_asked_for_again(tmp_path: Path) -> None:
    """1100 and 1101 are an outage with an end; every stream comes back under a new id, none is cancelled."""
    day = sound(run(lockstep(one(), Home(tmp_path), minutes=4, faults="+100 * error 1100\n+110 * error 1101")))
    for stream in (Stream.L1, Stream.ALL_LAST, Stream.DEPTH, Stream.BARS_5S):
        ids = [r["req_id"] for r in subscribed(day, stream)]
        assert len(ids) == len(set(ids)) == 2, stream
    found = codes(day)
    assert found.index(Own.OUTAGE_BEGIN) < found.index(1101) < found.index(Own.OUTAGE_END)
    assert set(cancelled(day, *Stream)) <= silent(day)
    late = day.frame(Kind.DEPTH)["req_id"].to_list()
    assert late[-1] == subscribed(day, Stream.DEPTH)[1]["req_id"]


def test_after_1102_depth_is_requested_again(tmp_path: Path) -> None:
    """After 1102 depth is cancelled and requested under a new id; streams that continue are not touched."""
    day = sound(run(lockstep(one(), Home(tmp_path), minutes=6, faults="+240 * error 1100\n+250 * error 1102")))
    depth = [r["req_id"] for r in subscribed(day, Stream.DEPTH)]
    assert set(cancelled(day, *Stream)) - silent(day) == set(depth[:1])
    assert len(depth) == 2
    assert len(subscribed(day, Stream.L1)) == 1


def test_317_and_316_are_recorded_and_316_brings_a_new_request(tmp_path: Path) -> None:
    """A reset is a notice; a halt ends the stream, so it is requested again."""
    faults = "+60 ACME:depth error 317\n+90 ACME:depth error 316"
    day = sound(run(lockstep(one(), Home(tmp_path), minutes=3, faults=faults)))
    assert {316, 317} <= set(codes(day))
    assert len(subscribed(day, Stream.DEPTH)) == 2


def test_a_dropped_connection_is_an_outage_and_a_new_epoch(tmp_path: Path) -> None:
    """After a closed socket and a port that refuses for 20 s: back-off, reconnect, epoch 2, all streams again."""
    recorded = run(lockstep(one(), Home(tmp_path), minutes=6, faults="+100 * drop\n+100 * closed 20"))
    day = sound(recorded)
    found = codes(day)
    order = [Own.DISCONNECTED, Own.OUTAGE_BEGIN, Own.CONNECTED, Own.OUTAGE_END]
    places = [max(i for i, code in enumerate(found) if code == wanted) for wanted in order]
    assert places == sorted(places)
    assert set(day.frame(Kind.TICK)["epoch"].to_list()) == {1, 2}
    assert recorded.summary.outages == 1
    assert len(subscribed(day, Stream.L1)) == 2
    assert not status(recorded.home.on(DATE)).outage


def test_a_feed_that_was_down_at_the_end(tmp_path: Path) -> None:
    """`hv status` of a recording that ended within an outage uses the past tense."""
    recorded = run(lockstep(one(), Home(tmp_path), minutes=3, faults="+150 * drop\n+150 * closed 600"))
    assert status(recorded.home.on(DATE)).outage
    said = CliRunner().invoke(app, ["status", "--date", str(DATE), "--home", str(tmp_path)]).output
    found = status(recorded.home.on(DATE))
    notices = open_day(DATE, recorded.home).table(Kind.NOTICE).to_pylist()
    begun = next(n for n in notices if n["code"] == Own.OUTAGE_BEGIN)
    assert (found.outage_since, found.outage_why) == (iso(begun["ts_recv"]), "connection lost")
    at = of_day(begun["ts_recv"])[:8]
    assert f"the feed was down when recording ended, since {at}: connection lost" in said
    at_work = msgspec.structs.replace(found, recording=True)
    assert at_work.wrong()[0] == at_work.feed() == f"the feed is down since {at}: connection lost"
    assert "the feed is down" not in said
    assert "ACME: complete until then" in said


def test_status_of_a_silent_feed_and_of_earlier_runs(tmp_path: Path) -> None:
    """A silent feed: since when, and since when each stream has no data. Of earlier runs their other symbols.

    Before it is an outage, status says how long ago the last row came.
    """
    home = Home(tmp_path)
    first = run(lockstep(model(), home, minutes=1))
    start = first.day().last_ts + 20 * 10**9
    faults = "+360 * silence 900"
    recorded = run(lockstep(model(), home, minutes=12, start_ns=start, symbols=["ACME"], faults=faults))
    found = status(home.on(DATE))
    assert found.outage
    assert read_iso(found.outage_since) < read_iso(found.last_row) + 2 * 10**9
    assert {why.rpartition(" ")[0] for why in found.lacking["ACME"].values()} == {"no data since"}
    assert found.earlier == {"r001": ["ACME", "BOLT", "CRUX"]}
    assert "earlier runs of the date with other symbols: r001 ACME, BOLT, CRUX" in hv_status(recorded.home)[1]
    quiet = msgspec.structs.replace(found, recording=True, outage=False)
    seconds = (read_iso(found.last_commit) - read_iso(found.last_row)) // 10**9
    assert quiet.feed() == f"the last row came {seconds:,} s before the last commit"
    assert not msgspec.structs.replace(quiet, last_row=found.last_commit).feed()


def test_a_silent_stream_is_noticed_while_others_flow(tmp_path: Path) -> None:
    """A subscription that gives nothing for longer than its limit gets one notice."""
    day = sound(run(lockstep(one(), Home(tmp_path), minutes=7, faults="+150 ACME:l1 silence 200", silence_seconds=30)))
    quiet = [n for n in day.table(Kind.NOTICE).to_pylist() if n["code"] == Own.STREAM_SILENT]
    assert {"l1"} <= {n["text"].split()[0] for n in quiet if "ACME" in n["text"]}


@pytest.mark.parametrize("what", ["zero", "text"])
def test_garbage_frames_are_kept_as_they_came(tmp_path: Path, what: str) -> None:
    """An empty frame and one that is not UTF-8 are raw events; all other data continues."""
    day = sound(run(lockstep(one(), Home(tmp_path), minutes=2, faults=f"+40 * garbage {what}")))
    raw = [r for r in day.table(Kind.RAW).to_pylist() if r["reason"] in {"undecodable", "untyped"}]
    assert raw
    assert day.frame(Kind.TICK)["epoch"].unique().to_list() == [1]


@pytest.mark.parametrize("what", ["length", "noise"])
def test_a_stream_without_frames_is_left_and_replaced(tmp_path: Path, what: str) -> None:
    """An impossible length is detected at once; the bytes are kept as text, and the recorder reconnects."""
    day = sound(run(lockstep(one(), Home(tmp_path), minutes=4, faults=f"+60 * garbage {what}")))
    if what == "length":
        assert Own.BYTES_WITHOUT_MESSAGES in codes(day)
        assert set(day.frame(Kind.TICK)["epoch"].to_list()) == {1, 2}


def test_impossible_and_unset_values_are_recorded_as_sent(tmp_path: Path) -> None:
    """Impossible depth, unset markers, unknown tick types and split packets: nothing raises, nothing is lost."""
    faults = "+30 * split 3\n+40 ACME:depth impossible\n+50 * unset\n+60 ACME:l1 tick 199 1.5\n+70 * split 0"
    recorded = run(lockstep(one(), Home(tmp_path), minutes=3, faults=faults))
    day = sound(recorded)
    ticks = day.frame(Kind.TICK)
    assert 199 in ticks["field"].to_list()
    assert 1.7976931348623157e308 in [x for column in ("price", "size") for x in ticks[column].to_list()]


def test_refused_streams_are_degraded_and_recorded(tmp_path: Path) -> None:
    """With one tick-by-tick and one depth line, refusals are notices with IB's code, and L1 gives RTVolume."""
    recorded = run(lockstep(model(), Home(tmp_path), minutes=2, limits=Limits(tick_by_tick_lines=1, depth_lines=1)))
    day = sound(recorded)
    refused = [n["value"] for n in day.table(Kind.NOTICE).to_pylist() if n["code"] == Own.STREAM_REFUSED]
    assert {10190, 309} <= set(refused)
    assert recorded.summary.coverage["BOLT"]["all_last"] == "refused 10190"
    assert recorded.summary.coverage["BOLT"]["l1"] == "granted"
    assert 48 in day.frame(Kind.TICK)["field"].to_list()
    lacking = status(recorded.home.on(DATE)).lacking
    assert lacking["BOLT"]["all_last"] == "refused 10190"


def test_a_restart_goes_on_where_the_day_was(tmp_path: Path) -> None:
    """Two runs of a date: seq continues without a hole, and positions open at the first's end are closed in the second.

    The second's live digests equal a replay of both, and so does the episode's file.
    """
    home = Home(tmp_path)
    first = run(lockstep(model(), home, minutes=5, tick_by_tick_lines=6))
    carried = [decision_of(text) for text in fold_day(first.day()).open_at_end]
    assert carried, "a position is open when the first run ends"
    start = first.day().last_ts + 20 * 10**9
    day = sound(run(lockstep(model(), home, minutes=6, start_ns=start, tick_by_tick_lines=6)))
    assert [r.run for r in day.runs] == ["r001", "r002"]
    assert day.runs[1].first_seq == day.runs[0].last_seq + 1
    closed = {decision_of(text): msgspec.json.decode(text) for text in fold_day(day).documents}
    for decision in carried:
        episode = closed[decision]
        assert episode["entry"]["seq"] <= day.runs[0].last_seq < day.runs[1].first_seq < episode["exit"]["seq"]
        assert episode["labels"]["exit_reason"] in {"STOP", "TARGET", "TIME"}
        file = home.on(DATE).episodes / episode["symbol"] / f"{episode['trade_id']}.json"
        assert msgspec.json.decode(file.read_bytes())["labels"]["pnl_usd"] == episode["labels"]["pnl_usd"]


def decision_of(document: str) -> tuple[str, int]:
    """Symbol and seq of the decision: the identity of an episode within a date and strategy."""
    made = msgspec.json.decode(document)
    return made["symbol"], made["decision"]["seq"]


def test_a_clock_set_back_between_runs_is_a_notice(tmp_path: Path) -> None:
    """A second run whose market time is before the log's end stamps no event earlier, and notes it."""
    home = Home(tmp_path)
    first = run(lockstep(one(), home, minutes=3))
    last = first.day().last_ts
    day = sound(run(lockstep(one(), home, minutes=2)))
    steps = [n for n in day.table(Kind.NOTICE).to_pylist() if n["code"] == Own.CLOCK_STEP]
    assert steps[0]["value"] < 0
    assert day.runs[1].first_ts >= last


def test_a_clock_hours_behind_the_log_is_refused(tmp_path: Path) -> None:
    """A clock six minutes behind the log is refused with both times before a byte is written."""
    home = Home(tmp_path)
    last = run(lockstep(one(), home, minutes=6)).day().last_ts
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    begin = one().start_ns
    with pytest.raises(CannotRun, match="362 s later") as refused:
        run(lockstep(one(), home, minutes=2))
    assert refused.value.exit_code == 2
    assert iso(begin)[:19] in str(refused.value)
    assert iso(last)[:19] in str(refused.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


class FailingDisk(QuickDisk):
    """Its syncs fail from the n-th on."""

    def __init__(self, good: int) -> None:
        self.good = good

    def fsync(self, file: FileIO) -> None:
        self.good -= 1
        if self.good < 0:
            raise OSError(5, "Input/output error")


def test_a_failing_sync_stops_the_recording_loudly(tmp_path: Path) -> None:
    """LogWriteFailed with its code; earlier commits are whole, and the date can be recorded again."""
    home = Home(tmp_path)
    with pytest.raises(LogWriteFailed, match="Input/output error") as caught:
        run(lockstep(one(), home, minutes=5, disk=FailingDisk(30)))
    assert caught.value.exit_code == 10
    day = open_day(DATE, home)
    assert day.last_seq > 10
    assert day.frame(Kind.TICK)["seq"].is_sorted()
    again = run(lockstep(one(), home, minutes=1, start_ns=day.last_ts + 10**9))
    assert [r.status for r in again.day().runs] == ["compacted", "compacted"]


def test_a_failure_inside_the_tap_ends_the_recording_with_everything_before_it(tmp_path: Path) -> None:
    """An error that ib_async would swallow reaches the caller; received data is committed."""
    home = Home(tmp_path)

    def watch(recorder: Any) -> None:
        tap, seen = recorder.session.line.connection._tap, [0]
        append = tap._append

        def failing(fields: list[str]) -> None:
            seen[0] += 1
            if seen[0] == 200:
                raise LogWriteFailed("injected into the tap")
            append(fields)

        tap._append = failing

    with pytest.raises(LogWriteFailed, match="injected"):
        run(lockstep(one(), home, minutes=5, watch=watch))
    day = open_day(DATE, home)
    arrived = sum(
        r["msg"] is not None for k in Kind if k is not Kind.CLOCK for r in day.table(k).to_pylist() if "msg" in r
    )
    streamed = day.table(Kind.TRADE).num_rows + day.table(Kind.QUOTE).num_rows
    copies = [r for r in day.table(Kind.RAW).to_pylist() if r["reason"] in {"sent", "copy"}]
    assert arrived + streamed - len(copies) == 199


async def alone(home: Home, **settings: Any) -> Any:
    """Record in real time from the server on a port."""
    made = Settings.load({"symbols": ["ACME"], "timeout_seconds": 1.0, "disk_margin_bytes": 1} | settings)
    return await record(made, home, MachineClock(), until_ns=MachineClock().now() + 5 * 10**9, disk=QuickDisk())


def test_two_recorders_of_one_date(tmp_path: Path) -> None:
    """The second ends with LockHeld before it touches the gateway, and names the first."""

    async def scenario() -> None:
        home, market = Home(tmp_path), one()
        clock = LockstepClock(market.start_ns)
        gateway = SimGateway(market, GatewaySettings(port=0, grace_s=0.0), clock)
        port = await gateway.start()
        time = asyncio.create_task(clock.run())
        made = Settings.load({"port": port, "symbols": ["ACME"], "disk_margin_bytes": 1})
        first = asyncio.create_task(record(made, home, clock, until_ns=market.start_ns + 120 * 10**9, disk=QuickDisk()))
        while not open_runs(home):
            await asyncio.sleep(0.01)
        with clock.busy(), pytest.raises(LockHeld, match="held by process") as caught:
            await record(made, home, clock, until_ns=market.start_ns + 60 * 10**9)
        assert caught.value.exit_code == 5
        await first
        time.cancel()
        report = await gateway.stop()
        assert len(report["clients"]) == 1

    run(scenario())


def open_runs(home: Home) -> list[Path]:
    return list(home.on(DATE).log.glob("r*/manifest.json"))


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"client_id": 0}, BadSetting, "client id 0"),
        ({"symbols": []}, BadSetting, "no symbol"),
        ({"symbols": ["A\0B"]}, BadSetting, "control character"),
        ({"symbols": [" A"]}, BadSetting, "surrounding space"),
        ({"symbols": ["X" * 41]}, BadSetting, "41 characters"),
        ({"exchange_calendar": "FOO"}, BadSetting, "unknown exchange calendar 'FOO'"),
        ({"strategy": "hope"}, BadSetting, "unknown strategy 'hope'; use one of"),
        ({"cost_table": "free"}, BadSetting, "unknown cost table 'free'; use one of"),
        ({"port": 7496}, BadSetting, "no account"),
        ({"port": 4002}, BadSetting, "no account"),
        ({"port": 1}, GatewayError, "cannot connect"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    tmp_path: Path, settings: dict[str, Any], error: Any, words: str
) -> None:
    """Bad settings and a closed port: one line, no run begun."""
    with pytest.raises(error, match=words) as caught:
        run(alone(Home(tmp_path), **settings))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("temp/events/*/*"))


@pytest.mark.parametrize("symbol", ["NOSUCH", "../x", "BRK B", "Ä", "CON", "a/b\\c"])
def test_an_unknown_symbol_ends_the_recording_in_order(tmp_path: Path, symbol: str) -> None:
    """Any unknown symbol gives UnknownSymbol with its code, no run in the day, and no file outside the home."""
    home = Home(tmp_path / "home")
    with pytest.raises(UnknownSymbol, match="200") as caught:
        run(lockstep(one(), home, minutes=1, symbols=[symbol]))
    assert caught.value.exit_code == 8
    assert not list(home.events.glob("*/*"))
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


def test_an_account_the_gateway_does_not_manage(tmp_path: Path) -> None:
    """The error for a wrong account lists the gateway's accounts."""
    with pytest.raises(BadSetting, match="it manages DU1234567"):
        run(lockstep(one(), Home(tmp_path), minutes=1, account="U999"))


def test_a_client_id_in_use(tmp_path: Path) -> None:
    """Error 326 ends with exit code 7."""

    async def scenario() -> None:
        market = one()
        gateway = SimGateway(market, GatewaySettings(port=0))
        port = await gateway.start()
        first = Settings.load({"port": port, "symbols": ["ACME"], "disk_margin_bytes": 1})
        stop = asyncio.Event()
        homes = [Home(tmp_path / name) for name in "ab"]
        running = asyncio.create_task(record(first, homes[0], gateway.clock, stop=stop, disk=QuickDisk()))
        while not open_runs(homes[0]):
            await asyncio.sleep(0.01)
        with pytest.raises(ClientIdInUse) as caught:
            await record(first, homes[1], gateway.clock, disk=QuickDisk())
        assert caught.value.exit_code == 7
        stop.set()
        await running
        await gateway.stop()

    run(scenario())


def rolling(boundary: int) -> str:
    """The `day_start` setting that puts a date boundary at this time of a morning in July, ns UTC."""
    local = boundary // 10**9 - 4 * 3600  # New York in July
    assert local % 60 in (0, 30)
    return f"{local % 86400 // 3600:02d}:{local % 3600 // 60:02d}" + (":30" if local % 60 else "")


def test_the_trading_date_rolls_over_on_the_same_connection(tmp_path: Path) -> None:
    """At the boundary the run ends and the next begins in the new folder; streams are repeated, depth is renewed."""
    market = one()
    start_of_day = rolling(market.start_ns + 90 * 10**9)
    recorded = run(lockstep(market, Home(tmp_path), minutes=4, day_start=start_of_day))
    first, second = (run_.trading_date for run_ in recorded.summary.runs)
    assert (second - first).days == 1
    before, after = open_day(first, recorded.home), open_day(second, recorded.home)
    edge = day_bounds(second, "America/New_York", start_of_day)[0]
    assert before.last_ts == edge <= after.runs[0].first_ts
    assert all(before.frame(kind)["ts_recv"].max() < edge for kind in (Kind.TICK, Kind.DEPTH))
    assert before.table(Kind.REQUEST).to_pylist()[-1]["action"] == Action.RUN_END
    old, new = subscribed(before, Stream.L1), subscribed(after, Stream.L1)
    assert [r["req_id"] for r in new] == [r["req_id"] for r in old]
    depth = [r["req_id"] for r in subscribed(after, Stream.DEPTH)]
    assert depth[0] == subscribed(before, Stream.DEPTH)[0]["req_id"]
    assert cancelled(after, Stream.DEPTH) == depth[:1]
    assert after.frame(Kind.DEPTH)["req_id"].to_list()[-1] == depth[1]
    assert after.frame(Kind.TICK)["con_id"].min() > 0
    for day in (before, after):
        assert check_live_equals_replay(day) >= 1
    frames = [d.frame(k).height for d in (before, after) for k in (Kind.TICK, Kind.TRADE, Kind.DEPTH)]
    sent = recorded.report["sent"]
    assert sum(frames) == sum(entry["rows"] for k in ("tick", "trade", "depth") for entry in sent[k].values())


def bucketed(day: Day) -> tuple[list[int], float]:
    """Starts of a date's buckets in ns, and the shares traded in them."""
    buckets = fold_day(day).tables["buckets"]
    shares = sum(sum(buckets[f"tape_{side}"].to_pylist()) for side in ("buy", "sell", "unknown"))
    return buckets["ts"].to_pylist(), shares


@pytest.mark.parametrize("skipped", [0, 40])
def test_the_last_second_of_a_date_is_in_a_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skipped: int
) -> None:
    """When a run rolls over, all that was traded before the boundary is in the date's buckets, up to its last second.

    It holds too when a clock that leaps, as at full speed, gave no clock event for the last 40 seconds.
    """
    market = one(extended_minutes=1, rate=20_000)
    boundary, tick = market.start_ns + 180 * 10**9, ClockEvents.tick

    def leaping(events: ClockEvents) -> None:
        if not boundary - skipped * 10**9 < events._clock.now() < boundary:
            tick(events)

    monkeypatch.setattr(ClockEvents, "tick", leaping)
    recorded = run(lockstep(market, Home(tmp_path), minutes=3.2, day_start=rolling(boundary)))
    day = open_day(recorded.summary.runs[0].trading_date, recorded.home)
    starts, shares = bucketed(day)
    assert starts[-1] == boundary - 10**9
    assert starts == list(range(starts[0], boundary, 10**9))
    traded = day.frame(Kind.TRADE)
    assert traded["ts_recv"].max() > boundary - 30 * 10**9, "choose a market that trades before the boundary"
    assert shares == traded["size"].sum() > 0
    ends = fold_day(day).tables["candles"].to_pydict()["bucket_end"]
    assert boundary in ends


def test_a_recording_that_ends_at_the_boundary_begins_no_other_date(tmp_path: Path) -> None:
    """`--until` the very end of a date: one run, on that date, with its last second in a bucket."""
    market = one()
    boundary = market.start_ns + 120 * 10**9
    recorded = run(lockstep(market, Home(tmp_path), minutes=118 / 60, day_start=rolling(boundary)))
    (only,) = recorded.summary.runs
    day = open_day(only.trading_date, recorded.home)
    assert day.last_ts == boundary
    assert bucketed(day)[0][-1] == boundary - 10**9


def test_the_real_disk_is_the_default(tmp_path: Path) -> None:
    """A short recording with real syncs verifies."""
    sound(run(lockstep(one(), Home(tmp_path), minutes=1, disk=Disk())))


def hv_status(home: Home, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["status", "--date", str(DATE), "--home", str(home.root), *words])
    return done.exit_code, done.output


def test_status_lacks_only_what_was_asked_for(tmp_path: Path) -> None:
    """Five symbols use all five tick-by-tick lines for AllLast: no BidAsk is planned, and none is called missing.

    Depth lines that take turns are not missing between their turns either; a refused stream is. Symbols are those of
    the contracts, also if they were given in lower case or with a con_id.
    """
    market = model(symbols=("ACME", "BOLT", "CRUX", "DYNE", "EMBR"))
    con_id = next(one.con_id for one in market.instruments if one.symbol == "EMBR")
    symbols = ["acme", "BOLT", "CRUX", "DYNE", f"EMBR@{con_id}"]
    given = {"depth_rotation_minutes": 1, "minutes": 3.5, "symbols": symbols}
    recorded = run(lockstep(market, Home(tmp_path), faults="+60 BOLT:l1 refuse 354\n+61 BOLT:l1 error 354", **given))
    found = status(recorded.home.on(DATE))
    assert found.symbols == ["ACME", "BOLT", "CRUX", "DYNE", "EMBR"]
    assert {symbol: set(lacks) for symbol, lacks in found.lacking.items()} == {"BOLT": {"l1"}}
    assert "ACME: complete" in hv_status(recorded.home)[1]
    one_symbol = status(run(lockstep(one(), Home(tmp_path / "one"), minutes=1)).home.on(DATE))
    assert one_symbol.lacking == {"ACME": dict.fromkeys(("all_last", "bars_5s"), "no data yet")}  # before the open


def test_status_shows_a_refusal_after_rows(tmp_path: Path) -> None:
    """A stream that flowed and was then refused for good is lacking, with its code."""
    faults = "+60 ACME:bid_ask error 10189 BidAsk tick-by-tick requests are not supported for this instrument"
    recorded = run(lockstep(one(), Home(tmp_path), faults=faults, minutes=3))
    assert "refused 10189" in status(recorded.home.on(DATE)).lacking["ACME"].values()


def test_status_check_is_for_cron(tmp_path: Path) -> None:
    """`--check` is 0 while all is recorded, 1 if nobody records, the feed is down or a stream is missing."""
    recorded = run(lockstep(one(), Home(tmp_path), minutes=1))
    assert hv_status(recorded.home)[0] == 0
    code, said = hv_status(recorded.home, "--check")
    assert (code, f"{DATE} is not being recorded" in said) == (1, True)
    found = status(recorded.home.on(DATE))
    with DateLock(recorded.home.on(DATE)):
        assert hv_status(recorded.home, "--check") == (0, hv_status(recorded.home)[1])
        assert status(recorded.home.on(DATE)).wrong() == []
    at_work = msgspec.structs.replace(found, recording=True)
    assert at_work.wrong() == []
    no_quotes = {"ACME": {"all_last": "no data yet", "l1": "no data yet"}}
    assert msgspec.structs.replace(at_work, lacking=no_quotes).wrong() == ["ACME lacks l1 (no data yet)"]
    assert msgspec.structs.replace(at_work, outage=True).wrong() == ["the feed is down"]
    lacking = {"ACME": {"l1": "refused 354"}}
    assert msgspec.structs.replace(at_work, lacking=lacking).wrong() == ["ACME lacks l1 (refused 354)"]
    assert msgspec.structs.replace(at_work, symbols=[]).wrong() == ["no stream was subscribed yet"]


def test_status_tells_closed_from_ended_and_archived(tmp_path: Path) -> None:
    """Ended, then folded, then archived: three things to say, never "last run: compacted"."""
    recorded = run(lockstep(one(), Home(tmp_path), minutes=1))
    paths = recorded.home.on(DATE)
    said = [hv_status(recorded.home)[1]]
    for options in (EodOptions(), EodOptions(archive=True, delete_temp=True)):
        eod(paths, options)
        said.append(hv_status(recorded.home)[1])
    assert ["closed: hv eod folded it" in text for text in said] == [False, True, True]
    assert ["its log is archived in" in text for text in said] == [False, False, True]
    assert not any("compacted" in text for text in said)
