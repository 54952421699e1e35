"""Where a recording comes from, and whether it kept up with market time."""

from __future__ import annotations

import asyncio
import importlib
import json
import shutil
import time
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from gateway_support import running, small_market
from hypothesis import given
from hypothesis import strategies as st
from ib_async import IB, Stock
from trading_log import DATE, run_params
from trading_log import market as trading_market
from trading_log import subscriptions as trading_subscriptions
from typer.testing import CliRunner

from cli.app import app
from harvester.artefacts.table_files import about, parquet_file, read_parquet
from harvester.clock import MachineClock, real_monotonic_ns, real_wall_ns
from harvester.config import Settings
from harvester.endofday.datasets import EPISODES_FILE, episodes_of, kept_day
from harvester.endofday.eod import EodOptions, eod
from harvester.endofday.kept_memory import rebuild_memory
from harvester.eventlog.reader import open_day
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.codes import SIMULATED, announcement, simulated
from harvester.events.kinds import Kind, Own, SourceKind
from harvester.home import Home
from harvester.memory import fold_days
from harvester.memory.strategy_files import GivenStrategies, load_all
from harvester.projections.engine import Engine
from harvester.projections.market.pace import ROWS_MIN, RecordingPace
from harvester.rebuild.exports import day_exports
from harvester.rebuild.project import fold_day
from harvester.rebuild.verify_day import verify
from harvester.recorder import link
from harvester.recorder.record import record
from harvester.recorder.start_checks import find_clock
from harvester.simgateway.gateway_settings import GatewaySettings
from harvester.simgateway.limits import Limits
from harvester.simgateway.markets.market_source import drain
from harvester.simgateway.markets.open_market import open_market
from harvester.simgateway.server import SimGateway
from harvester.status import status
from tests.budget import budget
from tests.market_log import SECOND, START, Log
from tests.recording import QuickDisk, Recorded, lockstep, model, run
from tests.stranger import SYMBOL, Client, Stranger
from tests.test_log_golden import FORMATS, KNOWN
from tests.test_market_tape import write_tape
from tests.test_record_stranger import played

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harvester.clock import Clock
    from harvester.eventlog.reader import Day
    from harvester.rebuild.project_result import ProjectResult
    from harvester.simgateway.markets.market_source import MarketSource


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    """The kernels are compiled before a recording is timed."""
    importlib.import_module("harvester.projections.market.kernels")


def sources(day: Day) -> list[tuple[str, str]]:
    """Kind and text of the notices about the source, in order."""
    rows = [row for row in day.table(Kind.NOTICE).to_pylist() if row["code"] == Own.SOURCE]
    return [(json.loads(row["detail"])["kind"], row["text"]) for row in rows]


def kind_of(day: Day) -> str:
    """The kind in the header of every artefact of the day, all of them equal."""
    made = fold_day(day)
    files = day_exports(made, made.tables)
    heads = {json.loads(data)["health"]["kind"] for name, data in files.items() if name.endswith(".json")}
    [kind] = heads | {made.health["kind"], status(Home(day.logs[0].folder.parents[3]).on(day.trading_date)).kind}
    return str(kind)


# ---- kinds, end to end -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modelled(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    recorded: Recorded = run(lockstep(model(symbols=("ACME",)), Home(tmp_path_factory.mktemp("modelled")), minutes=2))
    return recorded


def market_of(kind: str, modelled: Recorded, folder: Path) -> MarketSource:
    if kind == "served":
        return open_market("day", [modelled.home.root], trading_date=DATE)
    return open_market("tape", [write_tape(folder)]) if kind == "tape" else model(symbols=("ACME",))


@pytest.mark.parametrize("kind", ["model", "tape", "served"])
def test_every_kind_is_recorded_from_a_real_connection(modelled: Recorded, tmp_path: Path, kind: str) -> None:
    """Gateway, socket, ib_async, log, fold: kind and digest are in log, headers and status, and replay agrees."""
    market = market_of(kind, modelled, tmp_path / "tapes")
    source = market.source()
    recorded = modelled if kind == "model" else run(lockstep(market, Home(tmp_path / "home"), minutes=0.5))
    day = recorded.day()
    assert sources(day) == [(kind, source.digest)]
    announced = [row["text"] for row in day.table(Kind.NOTICE).to_pylist() if row["code"] == SIMULATED]
    assert announced == [f"Harvester simulated gateway: {kind} {source.digest}"]
    assert kind_of(day) == kind
    found = verify(recorded.home.on(DATE))
    assert (found.exit_code, found.live.equal) == (0, found.live.points)
    if kind == "served":
        assert source.digest == modelled.day().identity()


def test_equal_content_has_an_equal_digest(tmp_path: Path) -> None:
    """Of a model its parameters, defaults spelled out or not; of a tape its rows, however their files are encoded."""
    assert open_market("model", seed=3).source() == open_market("model", seed=3, rate=21_000).source()
    different = [
        {"seed": 4},
        {"seed": 3, "rate": 20_000},
        {"seed": 3, "symbols": ("ACME",)},
        {"seed": 3, "sample_ms": 0},
    ]
    assert len({open_market("model", **settings).source().digest for settings in different}) == len(different)
    tape = write_tape(tmp_path)
    before = open_market("tape", [tape]).source()
    rows = read_frame(tape / "trades.parquet")
    rows.write_parquet(tape / "trades.parquet", compression="uncompressed", row_group_size=7)
    assert open_market("tape", [tape]).source() == before
    rows.with_columns(size=rows["size"] + 1).write_parquet(tape / "trades.parquet")
    assert open_market("tape", [tape]).source() != before


def read_frame(path: Path) -> Any:
    import polars as pl

    return pl.read_parquet(path)


@pytest.mark.parametrize(
    ("account", "follows", "says", "kind"),
    [
        ("U7654321", False, "", SourceKind.LIVE),
        ("F7654321", False, "", SourceKind.LIVE),
        ("DU7654321", False, "", SourceKind.PAPER),
        ("U7654321", True, "", SourceKind.UNKNOWN),
        ("DU7654321", False, announcement(SourceKind.TAPE, "ab12"), SourceKind.TAPE),
        ("U7654321", False, "a Harvester of tomorrow", SourceKind.UNKNOWN),
    ],
)
def test_another_gateway_is_known_by_its_account(
    tmp_path: Path, account: str, follows: bool, says: str, kind: SourceKind
) -> None:
    """Names with D are paper, others live; never live: an announcement, a market clock. No account number is noted."""
    home = Home(tmp_path)
    recorded = asyncio.run(_listen(home, account, says, follows=follows))
    day = open_day(recorded, home)
    notices = day.table(Kind.NOTICE).to_pylist()
    assert [(found, account in text) for found, text in sources(day)] == [(kind, False)]
    assert not any(account in f"{row['text']}{row['detail']}" for row in notices)
    assert kind_of(day) == kind


async def _listen(home: Home, account: str, says: str, *, follows: bool) -> Any:
    def hello(client: Client) -> None:
        if says:
            client.error(-1, SIMULATED, says)
        stranger.greet(client)

    async with Stranger(accounts=account) as stranger:
        stranger.hello = hello
        clock: Clock = MachineClock()
        if follows:
            facts = {"market_anchor_ns": real_wall_ns(), "monotonic_anchor_ns": real_monotonic_ns(), "speed": 1.0}
            file = home.root / "clock.json"
            file.write_bytes(msgspec.json.encode(facts))
            clock = find_clock(str(file), Settings(), home)
        given = {"port": stranger.port, "symbols": [SYMBOL], "disk_margin_bytes": 1, "skip_historical_backfill": True}
        made = Settings.load(given | {"commit_seconds": 0.1})
        summary = await record(made, home, clock, disk=QuickDisk(), duration_ns=SECOND // 5)
        return summary.runs[0].trading_date


def test_each_connection_speaks_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that announced a simulation and comes back without one is judged by its account: the date is mixed."""
    monkeypatch.setattr(link, "BACK_OFF_S", (0.05, 0.1))

    def hello(client: Client) -> None:
        if client.number == 1:
            client.error(-1, SIMULATED, announcement(SourceKind.TAPE, "ab12"))
        stranger.greet(client)

    async def leave(client: Client) -> None:
        while client.number == 1 and not client.closed:
            await asyncio.sleep(0.05)
            if client.subscribed:
                client.close()

    stranger = Stranger(accounts="U7654321", hello=hello, script=leave)
    outcome = played(stranger, tmp_path, lambda s: len(s.clients) > 1 and bool(s.clients[1].subscribed))
    assert sources(outcome.day) == [(SourceKind.TAPE, "ab12"), (SourceKind.LIVE, "live account")]
    assert kind_of(outcome.day) == "mixed"


def test_ib_async_survives_the_announcement_on_every_connection() -> None:
    """ib_async reports it once a connection, before anything else of the market, and its requests are answered."""

    async def story() -> list[list[int]]:
        heard = []
        async with running(small_market()) as gateway:
            for client_id in (1, 2):
                ib, codes = IB(), []
                ib.errorEvent += lambda _req, code, text, _contract, codes=codes: codes.append((code, text))
                await ib.connectAsync("127.0.0.1", gateway.port, clientId=client_id, timeout=4)
                assert [c.symbol for c in await ib.qualifyContractsAsync(Stock("ACME", "SMART", "USD"))] == ["ACME"]
                assert simulated(codes[0][1]) == gateway.market.source()
                heard.append([code for code, _ in codes])
                ib.disconnect()
        return heard

    assert asyncio.run(story()) == [[SIMULATED, 2104, 2106, 2158]] * 2


@pytest.mark.parametrize(
    "text",
    [
        "", "Harvester simulated gateway: ", "Harvester simulated gateway: live ab",
        "Harvester simulated gateway: tape",
        "Harvester simulated gateway: tape xyz", "harvester simulated gateway: tape ab", "x" * 100_000,
        "Harvester simulated gateway: tape " + "a" * 65,
    ],
)  # fmt: skip
def test_an_announcement_that_cannot_be_read_is_of_an_unknown_kind(text: str) -> None:
    """Any other text, a kind no simulation has among them, is a simulation of unknown kind."""
    assert simulated(text) == (SourceKind.UNKNOWN, "")


def test_a_reconnect_and_a_new_date_state_the_kind_again(tmp_path: Path) -> None:
    """Each connection and each run of a date says it: after a reconnect, and at a boundary without a new connection."""
    market = model(symbols=("ACME",))
    local = (market.start_ns + 90 * SECOND) // SECOND - 4 * 3600  # New York in July
    edge = f"{local // 3600 % 24:02d}:{local // 60 % 60:02d}"
    recorded = run(lockstep(market, Home(tmp_path), minutes=3, day_start=edge, faults="+20 * drop"))
    dates = [found.trading_date for found in recorded.summary.runs]
    told = (SourceKind.MODEL, market.source().digest)
    assert [sources(recorded.day(str(day))) for day in dates] == [[told, told], [told]]
    first = [row for row in recorded.day(str(dates[1])).table(Kind.NOTICE).to_pylist() if row["seq"] < 5]
    assert Own.SOURCE in {row["code"] for row in first}
    assert not [row for row in first if row["code"] == SIMULATED]


# ---- kinds, in the fold --------------------------------------------------------------------------------------------


def source(log: Log, kind: str) -> None:
    log.notice(int(Own.SOURCE), text="a digest", detail=json.dumps({"kind": kind}))


@pytest.mark.parametrize(
    ("runs", "kind"),
    [
        ([["model"], ["model"]], "model"),
        ([["model", "model"]], "model"),
        ([["live"], ["paper"]], "mixed"),
        ([["tape", "model"]], "mixed"),
        ([[], ["tape"]], "mixed"),
        ([["tape"], []], "mixed"),
        ([[], []], "unknown"),
        ([["mixed"]], "unknown"),
        ([["of tomorrow"]], "unknown"),
    ],
)
def test_two_kinds_of_a_date_are_mixed(runs: list[list[str]], kind: str) -> None:
    """Over runs and connections; a run that does not say, as those of 0.1, is of unknown kind."""
    log = Log()
    for at, said in enumerate(runs):
        log.run_start(at=100 * at)
        for one in said:
            source(log, one)
        log.subscribe(1, "l1")
    log.fold()
    assert log.engine.health_summary().kind == kind


def test_a_run_that_subscribes_to_nothing_is_of_no_kind() -> None:
    """A run that ended before its connection, or only looked contracts up, does not make a date mixed."""
    log = Log().run_start()
    log.add(Kind.REQUEST, action="ask", stream="contract", symbol="ACME", params="{}", req_id=5)
    log.run_start(at=10)
    source(log, "live")
    log.subscribe(1, "l1")
    log.fold()
    assert log.engine.health_summary().kind == "live"


def test_a_notice_of_the_gateway_with_our_code_says_nothing() -> None:
    """Only Harvester's own notice counts, not an error of the gateway with the same number."""
    log = Log().run_start()
    source(log, "live")
    log.subscribe(1, "l1")
    log.notice(int(Own.SOURCE), msg=4, detail='{"kind":"tape"}')
    log.fold()
    assert log.engine.health_summary().kind == "live"


@pytest.mark.parametrize("version", KNOWN)
def test_days_recorded_before_are_of_unknown_kind(version: str) -> None:
    """The kept logs of every format, which have no such notice."""
    assert fold_day(open_day("2025-07-17", Home(FORMATS / version))).health["kind"] == "unknown"


def trading_day(home: Home, *, changes: float = 0.9, without: Sequence[int] = ()) -> Home:
    """A day on which the first strategy trades: of a tape, of a model after `changes` of its rows.

    `without`: clock events that are missing.
    """
    rows = trading_market(seconds=200)
    clocks = [n for n, (kind, _) in enumerate(rows) if kind == Kind.CLOCK]
    gone = {clocks[n] for n in without}
    first, middle = (rows[n][1]["ts_recv"] for n in (0, int(len(rows) * changes)))
    events = [_said(first, "tape"), *trading_subscriptions(first)]
    for n, (kind, row) in enumerate(rows):
        if row["ts_recv"] == middle:
            announced = {"msg": 4, "code": SIMULATED, "text": announcement(SourceKind.MODEL, "cd34"), "epoch": 1}
            events += [(Kind.NOTICE, announced | {"ts_recv": middle}), _said(middle, "model")]
        events += [(kind, row)] if n not in gone else []
    end = {"action": "run_end", "stream": "run", "params": '{"reason":"end of recording"}'}
    events.append((Kind.REQUEST, end | {"ts_recv": events[-1][1]["ts_recv"]}))
    with LogWriter.open(home.on(DATE), run_start_row={"params": run_params().text()}) as writer:
        writer.begin(first)
        for i in range(0, len(events), 500):
            writer.commit(Batch.of(events[i : i + 500], writer.next_seq))
    return home


def _said(ts: int, kind: str) -> tuple[Kind, dict[str, Any]]:
    detail = json.dumps({"kind": kind})
    return Kind.NOTICE, {"ts_recv": ts, "epoch": 1, "code": int(Own.SOURCE), "text": "ab12", "detail": detail}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return trading_day(Home(tmp_path_factory.mktemp("mixed")).prepare())


@pytest.mark.parametrize(("changes", "kinds"), [(0.9, {"tape"}), (0.1, {"mixed"})])
def test_an_episode_has_the_kind_of_the_date_so_far(tmp_path: Path, changes: float, kinds: set[str]) -> None:
    """Column and document; what ended before the second source keeps its kind. In any batches the same."""
    day = open_day(DATE, trading_day(Home(tmp_path).prepare(), changes=changes))
    rows = fold_day(day).tables["episodes"].to_pylist()
    documents = [json.loads(row["document"]) for row in rows]
    assert {list(found)[-1] for found in documents} == {"kind"}
    assert {row["kind"] for row in rows} == kinds
    assert [found["kind"] for found in documents] == [row["kind"] for row in rows]
    for size in (97, 5000):
        engine, made = Engine(), []
        for batch in day.batches(rows_max=size):
            outputs = engine.fold(batch)
            made += outputs["episodes"].to_pylist() if outputs.rows("episodes") else []
        outputs = engine.finish()
        made += outputs["episodes"].to_pylist() if outputs.rows("episodes") else []
        assert made == rows


def test_a_recorded_day_does_not_repeat_an_announcement(mixed: Home) -> None:
    """A recording of a served day is `served`, not what was served when the day was recorded."""
    events = list(drain(open_market("day", [mixed.root], trading_date=DATE)))
    assert events
    assert not [fields for event in events for fields in event.fields if fields[:1] == ["4"]]


# ---- pace ----------------------------------------------------------------------------------------------------------


def paced(*runs: Sequence[float]) -> RecordingPace:
    """Clock events at these seconds, run by run."""
    pace = RecordingPace()
    for clocks in runs:
        pace.run_start()
        pace.clocks(np.array([START + round(at * SECOND) for at in clocks], np.int64))
    return pace


@pytest.mark.parametrize(
    ("runs", "per_second", "lag", "starved"),
    [
        ([[0, 1, 2, 3]], 1.0, 0.0, False),
        ([[0.25, 1.25, 2.25]], 1.0, 0.25, False),
        ([[0, 1, 2, 2.5]], 1.0, 0.0, False),  # the last clock of a run, in a second that had one
        ([[0, 1, 2], [1000, 1001]], 1.0, 0.0, False),  # a pause between runs
        ([[0, 1, 5]], 3 / 6, 3.0, True),
        ([[*range(19), 19]], 1.0, 0.0, False),
        ([[*range(18), 19]], 19 / 20, 1.0, False),  # at the limits
        ([[*range(17), 18]], 18 / 19, 1.0, True),
        ([[*range(200), 201.5, *range(202, 400)]], 399 / 400, 0.0, False),  # one in 399 is late
        ([[*range(100), *(at + 0.5 for at in range(101, 300, 2))]], 200 / 300, 1.5, True),
    ],
)  # fmt: skip
def test_clock_events_show_the_pace(runs: list[list[float]], per_second: float, lag: float, starved: bool) -> None:
    """Seconds with a clock event, by run; p99 of a clock's stamp after the second it was planned for."""
    pace = paced(*runs)
    assert (pace.per_second, pace.lag_p99_s, pace.starved) == (pytest.approx(per_second), lag, starved)


def test_a_date_without_clock_events_is_not_starved() -> None:
    """Nothing measured is null in the table."""
    log = Log().run_start().subscribe(1, "l1")
    log.fold()
    of_date = {row["measure"]: row["value"] for row in log.engine.health.rows() if not row["con_id"]}
    assert (of_date["clocks_per_second"], of_date["stamp_lag_p99"], of_date["starved"]) == (None, None, 0)


@pytest.mark.parametrize(
    ("offset_s", "late", "rows", "lag"),
    [
        (0, (0, 0), ROWS_MIN, 0.0),
        (-3600, (0, 0), ROWS_MIN, 0.0),  # a machine whose clock is an hour behind
        (7, (5, 60), ROWS_MIN, 0.0),
        (0, (100, 2.5), ROWS_MIN, 2.4),  # a tenth is stamped late
        (90, (100, 2.5), ROWS_MIN, 2.4),
        (0, (100, 2.5), ROWS_MIN - 1, 0.0),
    ],
)
@pytest.mark.parametrize("name", ["quotes", "prints"])
def test_late_rows_show_the_lag(name: str, offset_s: float, late: tuple[int, float], rows: int, lag: float) -> None:
    """Rows far behind IB's time, the clock being on time: packets queue. A constant difference is no lag.

    `late`: how many in 1,000 are stamped late, and by how many seconds.
    """
    log = Log().run_start().subscribe(1, "bid_ask").subscribe(2, "all_last")
    for n in range(rows):
        at = n * 1.01 + 1
        row = {
            "at": at + (late[1] if n % 1000 < late[0] else 0),
            "ts_event": (START + int(at) * SECOND) - round(offset_s * SECOND),
        }
        log.now = START
        if name == "quotes":
            log.hot(Kind.QUOTE, 1, stream=3, bid=1.0, ask=2.0, bid_size=1.0, ask_size=1.0, **row)
        else:
            log.hot(Kind.TRADE, 2, stream=2, price=1.0, size=1.0, **row)
    log.pending.sort(key=lambda event: event[1]["ts_recv"])
    log.clock(5 * rows)
    log.fold()
    of_date = {row["measure"]: row["value"] for row in log.engine.health.rows() if not row["con_id"]}
    assert of_date["stamp_lag_p99"] == pytest.approx(lag, abs=0.15)
    assert of_date["starved"] == (lag > 1)


@given(st.data())
def test_kind_and_pace_do_not_depend_on_batches(data: st.DataObject) -> None:
    """Any cuts, with snapshot and restore at each, give the same table, digest and happenings of the source."""
    log = Log()
    for at in range(data.draw(st.integers(1, 3))):
        log.run_start(at=1000 * at)
        for kind in data.draw(st.lists(st.sampled_from(list(SourceKind)), max_size=2)):
            source(log, kind.value)
        log.subscribe(1, "bid_ask")
        for step in data.draw(st.lists(st.integers(0, 3000), max_size=12)):
            log.clock((log.now - START) / SECOND + step / 1000)
            log.hot(Kind.QUOTE, 1, stream=3, bid=1.0, ask=2.0, ts_event=log.now // SECOND * SECOND)
    whole = Engine(market_only=True)
    whole.fold(Batch.of(log.pending, 1))
    cut, seq = Engine(market_only=True), 1
    while seq <= len(log.pending):
        size = data.draw(st.integers(1, 9))
        cut.fold(Batch.of(log.pending[seq - 1 : seq - 1 + size], seq))
        seq += size
        kept, cut = cut.snapshot(), Engine(market_only=True)
        cut.restore(kept)
        assert cut.snapshot() == kept
    assert cut.health.rows() == whole.health.rows()
    assert cut.digests() == whole.digests()
    assert cut.health_summary() == whole.health_summary()


# ---- speed, and what is learned ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The market of `busy` in lockstep."""
    return run(lockstep(busy(), Home(tmp_path_factory.mktemp("lockstep")), minutes=MINUTES)).home


MINUTES = budget(5, 20)


def test_the_same_market_in_lockstep_twice_is_identical(exact: Home, tmp_path: Path) -> None:
    """Two recordings have the same content hash and the same episodes."""
    again = run(lockstep(busy(), Home(tmp_path), minutes=MINUTES)).home
    one, two = (open_day(DATE, home) for home in (exact, again))
    assert one.identity() == two.identity()
    assert traded(one).tables["episodes"] == traded(two).tables["episodes"]


@pytest.mark.parametrize("speed", budget([0, 200], [0, 50, 200]))
def test_a_speed_gives_the_episodes_of_lockstep_or_is_marked(exact: Home, tmp_path: Path, speed: int) -> None:
    """At a speed (0 = max) over a socket, with an event loop that stalls: episodes within 10 %, or starved.

    And more than that: the same rows have the same stamps, and every second its clock event.
    """
    fast = asyncio.run(at_speed(busy(), Home(tmp_path).prepare(), speed, MINUTES))
    whole, made = (traded(open_day(DATE, home)) for home in (exact, fast))
    assert measures(whole) == {"clocks_per_second": 1, "stamp_lag_p99": 0, "starved": 0}
    expected, found = (entered(result) for result in (whole, made))
    assert expected > budget(8, 80)
    assert abs(found - expected) <= 0.1 * expected or measures(made)["starved"]
    assert made.health["kind"] == "model"
    slow, quick = (stamps(home) for home in (exact, fast))
    same = slow.keys() & quick.keys()
    assert len(same) > max(100, 0.5 * len(slow), 0.5 * len(quick))
    assert not [(row, quick[row] - slow[row]) for row in sorted(same, key=str) if quick[row] != slow[row]]
    assert measures(made)["clocks_per_second"] == 1
    *seconds, _end = open_day(DATE, fast).table(Kind.CLOCK).column("ts_recv").to_pylist()
    first = next(n for n, at in enumerate(seconds) if at >= busy().start_ns + SECOND)
    assert seconds[first:] == list(range(seconds[first], seconds[-1] + 1, SECOND))


def traded(day: Day) -> ProjectResult:
    """The date with random entries, an exit ten seconds later at the latest."""
    often = {"per_hour": 3600.0, "open_wait_seconds": 0.0, "hold_minutes": 1 / 6}
    return fold_day(day, library=GivenStrategies(load_all(["random_entry"], {"random_entry": often}, [])))


def entered(made: ProjectResult) -> int:
    """Trades that began at least 20 s before the end of the market: at a speed a recording stops a little later."""
    last = busy().start_ns + round((MINUTES - 1 / 3) * 60 * SECOND)
    return sum(ts < last for ts in made.tables["episodes"].column("entry_ts").to_pylist())


def stamps(home: Home) -> dict[tuple[Any, ...], int]:
    """`ts_recv` of prints and quotes by what was sent; equal ones of a second are numbered.

    Without the first quote: a subscription is answered with the quote in force, at the time of the request.
    """
    found: dict[tuple[Any, ...], int] = {}
    for kind, columns in ((Kind.TRADE, ("price", "size")), (Kind.QUOTE, ("bid", "ask", "bid_size", "ask_size"))):
        number: dict[tuple[Any, ...], int] = {}
        for row in open_day(DATE, home).table(kind).to_pylist()[kind is Kind.QUOTE :]:
            sent = (kind, row["con_id"], row["ts_event"], *(row[name] for name in columns))
            number[sent] = number.get(sent, 0) + 1
            found[*sent, number[sent]] = row["ts_recv"]
    return found


def busy() -> MarketSource:
    return model(symbols=("ACME",), rate=400_000)


def measures(made: Any) -> dict[str, float | None]:
    of_date = {row["measure"]: row["value"] for row in made.tables["health"].to_pylist() if row["symbol"] is None}
    return {name: of_date[name] for name in ("clocks_per_second", "stamp_lag_p99", "starved")}


async def at_speed(market: MarketSource, home: Home, speed: float, minutes: float) -> Home:
    end = market.start_ns + round(minutes * 60 * SECOND)
    settings = GatewaySettings(
        port=0, speed=speed, grace_s=0.3, end_ns=end, gateway_file=home.gateway_file, limits=Limits(messages_per_s=0)
    )
    gateway = SimGateway(market, settings)
    made = Settings.load({"port": await gateway.start(), "symbols": ["ACME"], "skip_historical_backfill": True})
    stalling = asyncio.create_task(stalls())
    try:
        await record(made, home, find_clock("auto", made, home), disk=QuickDisk(), until_ns=end)
    finally:
        stalling.cancel()
        await gateway.stop()
    return home


async def stalls() -> None:
    """Hold up the event loop of recorder and gateway now and then, as a busy machine does."""
    while True:
        await asyncio.sleep(0.1)
        time.sleep(0.02)  # noqa: ASYNC251 - the point of it


@pytest.fixture(scope="module")
def starved(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A day of trades without every eighth clock event."""
    return trading_day(Home(tmp_path_factory.mktemp("starved")).prepare(), without=range(3, 200, 8))


def test_nothing_is_learned_from_a_starved_day(starved: Home, tmp_path: Path) -> None:
    """Its episodes are kept and left out, unless --learn-starved; memory is rebuilt from what is kept either way."""
    assert status(starved.on(DATE)).starved
    report = eod(starved.on(DATE))
    assert report.episodes > 0
    assert (report.learned, report.left_out, report.pnl_usd) == (0, {"STARVED": report.episodes}, 0)
    assert about(read_parquet(starved.on(DATE).dataset / EPISODES_FILE))["starved"] == "true"
    assert fold_days.encode(rebuild_memory(starved)) == starved.memory_latest.read_bytes()
    learned = eod(starved.on(DATE), EodOptions(learn_starved=True))
    assert learned.left_out == {"UNSEEN": learned.episodes}  # its trades are held through seconds without a clock
    assert fold_days.encode(rebuild_memory(starved)) == starved.memory_latest.read_bytes()


def test_kept_episodes_of_0_1_say_nothing_of_kind_and_pace(starved: Home, tmp_path: Path) -> None:
    """Episodes kept without a kind, by a version without a measure of pace, read back: unknown, and learned from."""
    home = Home(tmp_path / "home")
    shutil.copytree(starved.root, home.root)
    eod(home.on(DATE))
    path = home.on(DATE).dataset / EPISODES_FILE
    table = read_parquet(path)
    before = {name: value for name, value in about(table).items() if name not in ("kind", "starved")}
    path.write_bytes(parquet_file(table.drop_columns(["kind", "unseen_seconds", "learned_from", "rules"]), before))
    learned = kept_day(home.on(DATE))
    assert (sum(learned.samples.values()), learned.left_out) == (table.num_rows, {})
    made = fold_day(open_day(DATE, home))
    made.tables["episodes"] = table.slice(0, 0)
    assert set(episodes_of(made, home, 2)["kind"].to_pylist()) == {"unknown"}


def test_the_commands_show_a_starved_day(starved: Home) -> None:
    """One line each in health, status and eod, with the numbers; JSON has kind and pace."""
    pace = "starved: 0.88 clock events per market second (at least 0.95), lag 1.00 s (at most 1 s)"
    for words in ("health", "status"):
        said = CliRunner().invoke(app, [words, "--date", str(DATE), "--home", str(starved.root)]).output
        assert f"{pace}; hv eod learns nothing from it" in said.splitlines()
        assert "source mixed" in said
        told = CliRunner().invoke(app, [words, "--date", str(DATE), "--home", str(starved.root), "--json"]).output
        assert json.loads(told)["kind"] == "mixed"
    said = CliRunner().invoke(app, ["eod", "--date", str(DATE), "--home", str(starved.root)]).output
    assert f"  {pace}; nothing was learned (--learn-starved)" in said.splitlines()
    words = ["eod", "--date", str(DATE), "--home", str(starved.root), "--learn-starved"]
    assert f"  {pace}; learned from" in CliRunner().invoke(app, words).output.splitlines()


def test_a_day_that_kept_up_is_not_called_starved(modelled: Recorded) -> None:
    """No line about the pace, by any of the commands."""
    for words in ("health", "status"):
        said = CliRunner().invoke(app, [words, "--date", str(DATE), "--home", str(modelled.home.root)]).output
        assert "source model" in said
        assert "starved:" not in said
    assert status(modelled.home.on(DATE)).starved == ""
