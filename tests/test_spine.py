"""The whole chain: over a real socket, through ib_async, with every projection."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from harvester.clock import FileClock
from harvester.config import Settings
from harvester.errors import CannotRun
from harvester.eventlog.reader import Day, open_day
from harvester.events.kinds import Kind
from harvester.home import Home
from harvester.rebuild.verify_day import verify
from harvester.recorder import live_screen
from harvester.recorder.record import Recorder, record
from harvester.simgateway.gateway_settings import GatewaySettings
from harvester.simgateway.limits import Limits
from harvester.simgateway.markets.market_source import MarketSource
from harvester.simgateway.markets.open_market import open_market
from harvester.simgateway.server import SimGateway
from harvester.units import SECOND_NS
from tests.budget import budget
from tests.processes import python
from tests.recording import Recorded, check_live_equals_replay, check_nothing_lost, lockstep, model, replayed_digests

PROJECT = Path(__file__).resolve().parent.parent
STREAMED = (Kind.TICK, Kind.TRADE, Kind.QUOTE, Kind.DEPTH, Kind.BAR)


def payloads(day: Day, kind: Kind) -> pl.DataFrame:
    """A kind's rows without the columns in which two recordings of a day may differ: seq, stamps, request ids."""
    return day.frame(kind).drop("seq", "ts_recv", "req_id", "epoch")


def order_of_kinds(day: Day) -> list[tuple[str, int]]:
    """(kind, con_id) of every streamed row in seq order: the order across kinds."""
    frames = [day.frame(kind).select("seq", "con_id", kind=pl.lit(kind.value)) for kind in STREAMED]
    return pl.concat(frames).sort("seq").select("kind", "con_id").rows()


@pytest.mark.parametrize("commit_events", [1, 500])
def test_a_day_served_again_is_the_same_day(tmp_path: Path, commit_events: int) -> None:
    """Record a model, serve the recording over the socket, record that: equal payloads in equal order, twice over.

    With a commit of each single event live equals replay too.
    """
    minutes = budget(3 if commit_events == 1 else 4, 4)
    first = asyncio.run(lockstep(model(), Home(tmp_path / "1"), minutes=minutes, commit_events=500))
    day = first.day()
    served = open_market("day", [first.home.root], trading_date="2025-07-17")
    flags = {"symbols": ["ACME", "BOLT", "CRUX"], "commit_events": commit_events, "digest_seconds": 30 * minutes}
    second = asyncio.run(lockstep(served, Home(tmp_path / "2"), minutes=minutes, **flags))
    again = second.day()
    for kind in STREAMED:
        one, two = payloads(day, kind), payloads(again, kind)
        assert one.height > 0, f"the first recording has no {kind}"
        assert one.equals(two), f"{kind}: {one.height} rows, then {two.height}"
    assert order_of_kinds(day) == order_of_kinds(again)
    assert payloads(day, Kind.CONTRACT).equals(payloads(again, Kind.CONTRACT))
    assert check_live_equals_replay(again) >= 2
    assert max(again.live_digests(), key=lambda line: line[1])[2] == replayed_digests(again)


def test_content_does_not_depend_on_commits(tmp_path: Path) -> None:
    """The same lockstep market recorded with other commit sizes has one content hash."""
    hashes = set()
    for commit_events in (3, 100, 10_000):
        home = Home(tmp_path / str(commit_events))
        recorded = asyncio.run(lockstep(model(), home, minutes=2, commit_events=commit_events))
        day = recorded.day()
        assert day.rows > 300
        hashes.add(day.identity())
    assert len(hashes) == 1


class Watched:
    """The live screen, drawn into memory as on a terminal of 120 columns."""

    def __init__(self) -> None:
        self.text, self.task = io.StringIO(), None

    def __call__(self, recorder: Recorder) -> None:
        self.task = asyncio.ensure_future(self._draw(recorder))

    async def _draw(self, recorder: Recorder) -> None:
        console = Console(file=self.text, force_terminal=True, width=120)
        recorder.committer.samples_quotes = True
        while True:
            await asyncio.sleep(0.2)
            console.print(live_screen.picture(recorder, {}, 0.0))


async def at_full_speed(market: MarketSource, home: Home, symbols: list[str], watch: Watched) -> Recorded:
    """Serve a whole market at speed max; the recorder follows the gateway's clock."""
    limits = Limits(messages_per_s=0)
    settings = GatewaySettings(port=0, speed=0, grace_s=1.0, gateway_file=home.gateway_file, limits=limits)
    home.root.mkdir(parents=True, exist_ok=True)
    gateway = SimGateway(market, settings)
    port = await gateway.start()
    made = Settings.load({"port": port, "symbols": symbols, "account": "DU1234567", "tick_by_tick_lines": 5})
    until = market.end_ns + 1_000_000_000
    recording = asyncio.create_task(record(made, home, gateway.clock, until_ns=until, watch=watch))
    try:
        summary = await asyncio.wait_for(recording, 240)
    finally:
        recording.cancel()
        report = await gateway.stop()
        if watch.task is not None:
            watch.task.cancel()
    return Recorded(home, summary, report)


@pytest.mark.slow
@pytest.mark.parametrize("tape", budget(["ARL-2025-07-17"], ["ARL-2025-07-17", "IBM-2013-10-08"]))
def test_the_fastest_tape_loses_nothing_with_the_screen_drawn(tmp_path: Path, shared_data: Path, tape: str) -> None:
    """A real tape at the highest speed: rows and values recorded are those sent; live equals replay; all verifies."""
    symbol, _, day = tape.partition("-")
    watch, home = Watched(), Home(tmp_path)
    market = open_market("tape", [shared_data / "tapes" / tape])
    recorded = asyncio.run(at_full_speed(market, home, [symbol], watch))
    log = open_day(day, home)
    assert check_nothing_lost(recorded, log) > (300_000 if symbol == "IBM" else 7_000)
    assert check_live_equals_replay(log) >= 1
    assert symbol in watch.text.getvalue()
    found = verify(home.on(date.fromisoformat(day)))
    assert (found.exit_code, found.live.equal) == (0, found.live.points)


@pytest.mark.slow
def test_the_fastest_model_loses_nothing_with_the_screen_drawn(tmp_path: Path) -> None:
    """The same for a busy modelled day of three symbols, texts and flags included."""
    watch, home, symbols = Watched(), Home(tmp_path), ["ACME", "BOLT", "CRUX"]
    recorded = asyncio.run(at_full_speed(model(rate=budget(2000, 8000)), home, symbols, watch))
    log = open_day("2025-07-17", home)
    assert check_nothing_lost(recorded, log) > budget(5_000, 20_000)
    assert {*log.frame(Kind.TRADE)["exchange"].unique()} >= {"NASDAQ", "ARCA"}
    assert check_live_equals_replay(log) >= 1
    assert all(symbol in watch.text.getvalue() for symbol in symbols)
    found = verify(home.on(date(2025, 7, 17)))
    assert (found.exit_code, found.live.equal) == (0, found.live.points)


async def gateway_process(root: Path, *words: str) -> tuple[asyncio.subprocess.Process, int]:
    """`hv gateway` of the model's ACME in a home, and its port."""
    child = await asyncio.create_subprocess_exec(
        *[*python(), "-m", "cli.app", "gateway", "--symbols", "ACME", *words, "--json", "--home", str(root)],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "HV_HOME": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=PROJECT,
    )
    assert child.stdout is not None
    return child, json.loads(await child.stdout.readline())["port"]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM of POSIX")
def test_a_gateway_killed_in_mid_market_moves_no_date(tmp_path: Path) -> None:
    """kill -9 of a gateway as fast as it can go: its recorder's time stands, a signal ends it, and its log is whole and
    of the market's date alone."""

    async def scenario() -> None:
        home = Home(tmp_path)
        gateway, port = await gateway_process(tmp_path, "--rate", "400000", "--speed", "max", "--port", "0")
        made = Settings.load({"port": port, "symbols": ["ACME"], "account": "DU1234567", "commit_events": 500})
        stop, clock = asyncio.Event(), FileClock(home.gateway_file)
        recorders: list[Recorder] = []
        recording = asyncio.ensure_future(record(made, home, clock, stop=stop, watch=recorders.append))
        while not (
            recorders and recorders[0].committer.last_commit and recorders[0].committer.last_commit.last_seq > 2_000
        ):
            await asyncio.wait({recording}, timeout=0.02)
            assert not recording.done()
        gateway.kill()
        await gateway.communicate()
        stood = clock.now()
        await asyncio.sleep(1.0)
        assert clock.now() == stood < clock.final_ns
        assert not recording.done()
        stop.set()
        summary = await asyncio.wait_for(recording, 60)
        assert [run.trading_date for run in summary.runs] == [date(2025, 7, 17)]
        assert not verify(home.on(date(2025, 7, 17))).exit_code
        assert [folder.name for folder in home.events.iterdir() if folder.is_dir()] == ["2025-07-17"]

    asyncio.run(scenario())


def test_a_gateway_started_anew_in_the_past_ends_the_recording(tmp_path: Path) -> None:
    """When its gateway restarts in the past, all events would get one stamp: the recorder ends, naming both times."""

    async def scenario() -> None:
        home = Home(tmp_path)
        first, port = await gateway_process(tmp_path, "--speed", "600", "--port", "0")
        made = Settings.load({"port": port, "symbols": ["ACME"], "account": "DU1234567", "compact": False})
        clock = FileClock(home.gateway_file)
        begun = clock.now()
        recording = asyncio.ensure_future(record(made, home, clock))
        while clock.now() - begun < 900 * SECOND_NS:
            await asyncio.wait({recording}, timeout=0.05)
            assert not recording.done()
        first.kill()
        await first.communicate()
        second, _ = await gateway_process(tmp_path, "--speed", "600", "--port", str(port))
        try:
            with pytest.raises(
                CannotRun, match=r"went back from 2025-07-17T1\d:\d\d:\d\dZ to 2025-07-17T13:20:00Z"
            ) as ended:
                await asyncio.wait_for(recording, 60)
            assert ended.value.exit_code == 2
        finally:
            second.terminate()
            await second.communicate()
        day = open_day(date(2025, 7, 17), home)
        assert day.last_ts - begun > 900 * SECOND_NS
        assert day.complete
        assert not verify(home.on(date(2025, 7, 17))).exit_code

    asyncio.run(scenario())


@pytest.mark.slow
def test_buckets_of_a_recorded_tape_equal_an_as_of_join(tmp_path: Path, shared_data: Path) -> None:
    """IBM through gateway and recorder: bid and ask of every bucket are the last quote before its end, by the log's
    own ts_recv, as Polars joins them."""
    from harvester.rebuild.project import fold_day

    market = open_market("tape", [shared_data / "tapes" / "IBM-2013-10-08"])
    start = market.start_ns + 5 * 3600 * 1_000_000_000 + 1_500_000_000_000  # 09:25 New York: the opening is in it
    recorded = asyncio.run(lockstep(market, Home(tmp_path), minutes=20, start_ns=start))
    log = recorded.day("2013-10-08")
    buckets: Any = pl.from_arrow(fold_day(log).tables["buckets"])
    mine = buckets.filter(pl.col("quote_source") == "bid_ask").select(
        pl.col("ts").cast(pl.Int64), "bid", "ask", end=pl.col("ts").cast(pl.Int64) + 1_000_000_000 - 1
    )
    quotes = log.frame("quote").select(pl.col("ts_recv").alias("end"), qb="bid", qa="ask")
    joined = mine.sort("end").join_asof(quotes.sort("end", maintain_order=True), on="end")
    usable = joined.filter((pl.col("qb") > 0) & (pl.col("qa") > 0))
    assert usable.height > 1_000
    assert usable.filter((pl.col("bid") != pl.col("qb")) | (pl.col("ask") != pl.col("qa"))).height == 0
