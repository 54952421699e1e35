"""Faults of a real line, played by an independent server in real time: nothing is lost, and recording continues."""

from __future__ import annotations

import asyncio
import importlib
import struct
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
import structlog
from typer.testing import CliRunner

from cli.app import app
from harvester.clock import MachineClock
from harvester.config import Settings
from harvester.errors import BadSetting, GatewayError, UnknownSymbol
from harvester.eventlog.reader import open_day
from harvester.eventlog.runs_of_day import recorded_dates
from harvester.eventlog.verify_log import verify_day
from harvester.events.kinds import Action, Kind, Own, Stream
from harvester.gateway import tap
from harvester.home import Home, parse_date
from harvester.recorder import heartbeat, request_limits, stream_errors, subscriptions
from harvester.recorder import link as line
from harvester.recorder import record as recording
from harvester.recorder.load_kernels import compile_in_subprocess
from harvester.recorder.record import record
from harvester.recorder.summary import RecordingSummary
from harvester.status import status
from tests.recording import QuickDisk
from tests.stranger import CON_ID, SYMBOL, Client, Stranger, framed, message

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harvester.eventlog.reader import Day

LIMIT_S = 25.0  # of real time, limit for any recording here


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    """The kernels are compiled before a recording is timed."""
    importlib.import_module("harvester.projections.market.kernels")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide back-off and patience by a hundred; their order stays."""
    monkeypatch.setattr(line, "BACK_OFF_S", (0.05, 0.1, 0.2))
    monkeypatch.setattr(stream_errors, "BACK_OFF_S", (0.05, 0.1, 0.2))
    monkeypatch.setattr(subscriptions, "PACING_S", (0.3, 0.6))
    monkeypatch.setattr(request_limits, "TICK_BY_TICK_SPACING_S", 0.3)
    monkeypatch.setattr(heartbeat, "HEARTBEAT_S", 0.5)
    monkeypatch.setattr(tap, "WHOLE_MESSAGE_S", 0.4)


class Outcome:
    """One recording of a stranger."""

    def __init__(self, summary: RecordingSummary, home: Home) -> None:
        self.summary = summary
        day = summary.runs[0].trading_date
        assert verify_day(home.on(day)).problems in ((), [])
        self.day: Day = open_day(day, home)
        self.notices = self.day.table(Kind.NOTICE).to_pylist()

    def codes(self) -> list[int]:
        return [row["code"] for row in self.notices]

    def subscribed(self, stream: Stream) -> list[int]:
        rows = self.day.table(Kind.REQUEST).to_pylist()
        return [r["req_id"] for r in rows if r["action"] == Action.SUBSCRIBE and r["stream"] == stream]

    def epochs(self, kind: Kind) -> list[int]:
        return sorted(set(self.day.frame(kind)["epoch"].to_list()))

    def raw(self, reason: str) -> list[str | None]:
        return [row["fields"] for row in self.day.table(Kind.RAW).to_pylist() if row["reason"] == reason]


async def listen(
    stranger: Stranger,
    path: Path,
    enough: Callable[[Stranger], bool],
    *,
    more_s: float = 0.5,
    stop_after_s: float | None = None,
    **settings: Any,
) -> Outcome:
    """Record until the stranger has received `enough`, and a little longer."""
    given = {
        "symbols": [SYMBOL], "timeout_seconds": 3.0, "disk_margin_bytes": 1, "skip_historical_backfill": True,
        "commit_seconds": 0.2, "tick_by_tick_lines": 1,
    }  # fmt: skip
    async with stranger:
        made = Settings.load(given | {"port": stranger.port} | settings)
        stop = asyncio.Event()
        work = asyncio.ensure_future(record(made, Home(path), MachineClock(), stop=stop, disk=QuickDisk()))
        until = time.monotonic() + LIMIT_S
        while not work.done() and not enough(stranger) and time.monotonic() < until:
            await asyncio.sleep(0.02)
        if not work.done():
            await asyncio.sleep(more_s if stop_after_s is None else stop_after_s)
        stop.set()
        summary = await asyncio.wait_for(work, LIMIT_S)
        assert enough(stranger)
        return Outcome(summary, Home(path))


def played(stranger: Stranger, path: Path, enough: Callable[[Stranger], bool], **given: Any) -> Outcome:
    return asyncio.run(listen(stranger, path, enough, **given))


def on(number: int, act: Callable[[Client], None], after_s: float = 0.8) -> Callable[[Client], Any]:
    """A script: on one connection, some time after its last subscription."""

    async def script(client: Client) -> None:
        if client.number == number:
            while "bars" not in client.subscribed.values():
                await asyncio.sleep(0.02)
            await asyncio.sleep(after_s)
            act(client)

    return script


def subscribed_on(number: int) -> Callable[[Stranger], bool]:
    return lambda stranger: (
        len(stranger.clients) >= number and "bars" in stranger.clients[number - 1].subscribed.values()
    )


# the end of a line


def test_a_gateway_that_greets_and_hangs_up_at_once_is_tried_again(tmp_path: Path) -> None:
    """After a drop and two connections closed right after the greeting, the fourth connection continues recording."""

    def hello(client: Client) -> None:
        stranger.greet(client)
        if client.number in {2, 3}:
            client.close()

    stranger = Stranger(script=on(1, Client.close))
    stranger.hello = hello
    found = played(stranger, tmp_path, subscribed_on(4))
    assert found.epochs(Kind.TICK) == [1, 4]
    assert found.summary.outages == 1
    assert found.codes().count(Own.OUTAGE_END) == 1


def test_the_first_connection_closed_at_once_is_a_gateway_error(tmp_path: Path) -> None:
    """A failure of the first connection is one line and exit code 6."""

    def hello(client: Client) -> None:
        stranger.greet(client)
        client.close()

    stranger = Stranger()
    stranger.hello = hello
    with pytest.raises(GatewayError, match="version 178 and disconnected") as caught:
        played(stranger, tmp_path, lambda _: False)
    assert caught.value.exit_code == 6


def test_a_line_lost_while_contracts_are_looked_up_continues_on_the_next(tmp_path: Path) -> None:
    """The look-up is repeated on the next connection."""
    stranger = Stranger()
    stranger.details = lambda c, req_id, symbol: c.close() if c.number == 1 else stranger.describe(c, req_id, symbol)
    found = played(stranger, tmp_path, subscribed_on(2))
    assert found.epochs(Kind.TICK) == [2]
    assert found.day.table(Kind.CONTRACT).num_rows == 1


def test_a_gateway_that_always_hangs_up_at_look_ups_is_named(tmp_path: Path) -> None:
    """Repeated disconnects during look-ups end at the time-out with one line and exit code 6."""
    stranger = Stranger(details=lambda client, *_: client.close())
    with pytest.raises(GatewayError, match="hung up while contracts were looked up") as caught:
        played(stranger, tmp_path, lambda _: False, timeout_seconds=1.0)
    assert caught.value.exit_code == 6
    assert len(stranger.clients) > 2


def test_total_silence_is_an_outage(tmp_path: Path) -> None:
    """Silence and an unanswered heartbeat give a notice, an outage and a new connection."""
    stranger = Stranger(time_answered=False)
    stranger.script = on(1, lambda _: stranger.dead.update({"l1", "AllLast", "depth", "bars"}), 0.6)
    hello = stranger.hello

    def alive_again(client: Client) -> None:
        if client.number == 2:
            stranger.dead.clear()
        hello(client)

    stranger.hello = alive_again
    found = played(stranger, tmp_path, subscribed_on(2), silence_seconds=1.0)
    codes = found.codes()
    wanted = [Own.REQUEST_TIMEOUT, Own.DISCONNECTED, Own.OUTAGE_BEGIN, Own.OUTAGE_END]
    assert [code for code in codes if code in wanted] == wanted
    assert found.epochs(Kind.TICK) == [1, 2]


def test_a_quiet_market_answers_the_heartbeat(tmp_path: Path) -> None:
    """Silence of a gateway that answers heartbeats is not an outage."""
    stranger = Stranger(dead={"l1", "AllLast", "depth", "bars"})
    found = played(stranger, tmp_path, lambda s: len(s.of("49")) >= 2, silence_seconds=1.0, more_s=1.5)
    assert len(stranger.clients) == 1
    assert Own.OUTAGE_BEGIN not in found.codes()


@pytest.mark.parametrize(
    ("behind", "by", "behind_s"),
    [
        ({"time_behind_s": 7 * 86_400}, "current time", 7 * 86_400),
        ({"time_behind_s": -3600, "rows_behind_s": -3600}, "current time", -3600),
        ({"rows_behind_s": 7 * 86_400}, "times of trades and quotes", 7 * 86_400),
        ({"time_behind_s": 100, "rows_behind_s": 100}, "", 0),
    ],
    ids=["its clock", "ahead", "its rows", "within two minutes"],
)
def test_a_gateway_in_another_time_is_noted(tmp_path: Path, behind: dict[str, int], by: str, behind_s: int) -> None:
    """One notice in the run, with the difference, which `hv status` repeats; none for two minutes or less.

    The log line for a difference of more than a day says how to follow a simulated gateway's clock.
    """
    with structlog.testing.capture_logs() as lines:
        found = played(Stranger(**behind), tmp_path, subscribed_on(1), more_s=3.0)
    logged = [line for line in lines if line["event"].startswith("clocks differ")]
    assert ["--clock PATH/gateway.json" in line.get("hint", "") for line in logged] == (
        [behind_s > 86_400] if by else []
    )
    notices = [n for n in found.notices if n["code"] == Own.CLOCKS_DIFFER]
    assert [by in n["text"] for n in notices] == ([True] if by else [])
    assert [n["value"] / 1e9 for n in notices] == ([pytest.approx(-behind_s, abs=3)] if by else [])
    assert status(Home(tmp_path).on(found.day.trading_date)).ahead_s == pytest.approx(-behind_s, abs=3)
    said = CliRunner().invoke(app, ["status", "--home", str(tmp_path)]).output
    assert ("the gateway's clock is 7 days behind this machine's" in said) is (behind_s > 3600)


def test_a_gateway_whose_clock_no_number_of_ours_holds(tmp_path: Path) -> None:
    """Eleven digits of seconds overflow the log's ns: the notice has the largest value, and recording continues."""
    found = played(Stranger(time_behind_s=-90_000_000_000), tmp_path, subscribed_on(1), more_s=3.0)
    assert [n["value"] for n in found.notices if n["code"] == Own.CLOCKS_DIFFER] == [2**63 - 1]


def test_an_account_missing_after_a_reconnect_is_an_outage(tmp_path: Path) -> None:
    """A login without the account is an outage until the account is back; names may have spaces around them."""

    def hello(client: Client) -> None:
        stranger.accounts = {1: "DU1,DU2", 2: "U7"}.get(client.number, "DU2, DU1")
        stranger.greet(client)

    stranger = Stranger(script=on(1, Client.close))
    stranger.hello = hello
    found = played(stranger, tmp_path, subscribed_on(3), account="DU1")
    assert found.epochs(Kind.TICK) == [1, 3]


def test_an_account_missing_at_first_ends(tmp_path: Path) -> None:
    """Nothing is recorded under a wrong account."""
    with pytest.raises(BadSetting, match="it manages U7"):
        played(Stranger(accounts="U7"), tmp_path, lambda _: False, account="DU1")


# bytes that are no messages


@pytest.mark.parametrize("claimed", [0xA00000, 0x7FFFFFFF])
def test_a_wrong_length_is_noticed_and_the_bytes_are_kept(tmp_path: Path, claimed: int) -> None:
    """An impossible length and a wrong one give a notice, the bytes as text, and a new connection."""
    junk = struct.pack(">I", claimed) + b"1\x006\x00JUNK\xff"
    stranger = Stranger(script=on(1, lambda client: client.raw(junk)))
    found = played(stranger, tmp_path, subscribed_on(2))
    assert Own.BYTES_WITHOUT_MESSAGES in found.codes()
    kept = found.raw("undecodable")[0]
    assert kept is not None
    assert "1\x006\x00JUNK\\xff" in kept
    assert found.epochs(Kind.TICK) == [1, 2]


def test_half_a_message_at_a_hang_up_is_kept(tmp_path: Path) -> None:
    """An incomplete message at a disconnect is kept as text, with a notice."""

    def cut(client: Client) -> None:
        client.raw(framed(message(46, 6, 1, 48, "PARTIAL"))[:-3])
        client.close()

    found = played(Stranger(script=on(1, cut)), tmp_path, subscribed_on(2))
    assert [text for text in found.raw("undecodable") if text and text.endswith("46\x006\x001\x0048\x00PARTI")]
    assert Own.BYTES_WITHOUT_MESSAGES in found.codes()


def test_half_a_message_at_the_end_is_kept(tmp_path: Path) -> None:
    """A recording that ends inside a message keeps its bytes."""

    def half(client: Client) -> None:
        stranger.dead.update({"l1", "AllLast", "depth", "bars"})
        client.raw(framed(message(46, 6, 1, 48, "PARTIAL"))[:-3])
        stranger.said = True  # type: ignore[attr-defined]

    stranger = Stranger()
    stranger.script = on(1, half, 0.6)
    found = played(stranger, tmp_path, lambda s: hasattr(s, "said"), stop_after_s=0.1)
    assert [text for text in found.raw("undecodable") if text and text.endswith("PARTI")]


def test_a_last_field_without_its_end_is_not_lost(tmp_path: Path) -> None:
    """A message without a final NUL keeps its last field."""

    def odd(client: Client) -> None:
        client.raw(framed(message(46, 6, client.id_of("l1"), 48, "WHOLE")[:-1]))
        client.raw(framed(b"77\0lonely"))

    found = played(Stranger(script=on(1, odd)), tmp_path, subscribed_on(1), more_s=1.0)
    assert "WHOLE" in found.day.frame(Kind.TICK)["text"].to_list()
    assert "77\0lonely" in found.raw("untyped")


def test_odd_messages_before_readiness_disturb_nothing(tmp_path: Path) -> None:
    """An empty frame, an id that is not a number, a 9 with an extra field: kept as raw, the connection gets ready."""

    def hello(client: Client) -> None:
        odd = [b"", message("x", 1), message(9, 1, 5, "extra"), message(15, 1, "DU1"), message(9, 1, 5)]
        client.raw(b"".join(framed(payload) for payload in odd))

    found = played(Stranger(hello=hello), tmp_path, subscribed_on(1))
    assert {None, "x\x001"} <= set(found.raw("undecodable"))
    assert "9\x001\x005\x00extra" in found.raw("untyped")


# streams


def test_streams_that_died_are_renewed_while_only_depth_and_bars_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 1102, L1 and tick-by-tick without rows are renewed, because other streams have rows."""
    monkeypatch.setattr("harvester.recorder.silent_streams._SUSPECT_NS", 1_500_000_000)
    stranger = Stranger()

    def die(client: Client) -> None:
        stranger.dead.update({client.id_of("l1"), client.id_of("AllLast")})
        client.error(-1, 1100)
        client.error(-1, 1102)

    stranger.script = on(1, die, 1.5)
    found = played(stranger, tmp_path, lambda s: len(s.of("1")) > 1 and len(s.of("97")) > 1)
    assert len(found.subscribed(Stream.L1)) == len(found.subscribed(Stream.ALL_LAST)) == 2


def test_dead_five_second_bars_are_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a farm's return, bars without rows are requested again."""
    monkeypatch.setattr("harvester.recorder.silent_streams._SUSPECT_BARS_NS", 1_500_000_000)
    stranger = Stranger()

    def die(client: Client) -> None:
        stranger.dead.add(client.id_of("bars"))
        client.error(-1, 2106)

    stranger.script = on(1, die, 1.5)
    found = played(stranger, tmp_path, lambda s: len(s.of("50")) > 1)
    assert len(found.subscribed(Stream.BARS_5S)) == 2
    assert len(found.subscribed(Stream.L1)) == 1


@pytest.mark.parametrize(
    ("stream", "code", "text"),
    [
        ("bars", 162, "Historical Market Data Service error message:Historical data request pacing violation"),
        ("bars", 420, "Invalid Real-time Query:Historical data request pacing violation"),
        ("bars", 10225, "Bust event occurred, current subscription is deactivated. Please resubscribe"),
        ("AllLast", 10190, "Pacing violation: tick-by-tick request"),
    ],
)
def test_a_refusal_for_its_pace_is_repeated(tmp_path: Path, stream: str, code: int, text: str) -> None:
    """Refused twice with growing pauses between, then granted; each refusal is a notice."""
    refused: list[str] = []

    def granted(client: Client, req_id: str, name: str) -> bool:
        if name != stream or len(refused) == 2:
            return True
        refused.append(req_id)
        client.error(req_id, code, text)
        return False

    def flows(s: Stranger) -> bool:
        return bool(s.clients) and stream in s.clients[0].subscribed.values()

    found = played(Stranger(granted=granted), tmp_path, flows, more_s=1.5)
    values = [row["value"] for row in found.notices if row["code"] == Own.STREAM_REFUSED]
    assert values == [code, code]
    name = {"bars": "bars_5s", "AllLast": "all_last"}[stream]
    assert found.summary.coverage[SYMBOL][name] == "granted"


def test_a_refusal_for_good_is_not_repeated(tmp_path: Path) -> None:
    """354 (no market data subscription) is refused once; the other streams flow."""

    def granted(client: Client, req_id: str, name: str) -> bool:
        if name == "l1":
            client.error(req_id, 354, "Requested market data is not subscribed.")
        return name != "l1"

    stranger = Stranger(granted=granted)
    found = played(stranger, tmp_path, subscribed_on(1), more_s=1.5)
    assert len(stranger.of("1")) == 1
    assert found.summary.coverage[SYMBOL]["l1"] == "refused 354"
    assert found.summary.coverage[SYMBOL]["all_last"] == "granted"


def test_smart_depth_stands_in_for_an_exchange_that_is_refused(tmp_path: Path) -> None:
    """After 10092 for the exchange's own book, SMART depth is requested with its flag, and granted."""

    def granted(client: Client, req_id: str, name: str) -> bool:
        if name == "depth" and not any(f[16] == "1" for f in stranger.of("10")):
            client.error(req_id, 10092, "Deep market data is not supported for this combination")
            return False
        return True

    stranger = Stranger(granted=granted)
    found = played(stranger, tmp_path, lambda s: len(s.of("10")) == 2, more_s=1.5)
    assert found.summary.coverage[SYMBOL]["depth"] == "granted"
    assert found.day.frame(Kind.DEPTH)["req_id"].unique().to_list() == found.subscribed(Stream.SMART_DEPTH)


@pytest.mark.parametrize("name", ["NASDAQ", "ISLAND"])
def test_an_exchange_is_asked_by_its_other_name_before_smart(tmp_path: Path, name: str) -> None:
    """A gateway that knows only the other name of the exchange answers 200: its own book is still recorded."""

    def granted(client: Client, req_id: str, stream: str) -> bool:
        asked = [f for f in stranger.of("10") if req_id in f[:4]]
        if stream == "depth" and name not in asked[-1]:
            client.error(req_id, 200, "No security definition has been found for the request")
            return False
        return True

    stranger = Stranger(granted=granted)
    found = played(stranger, tmp_path, lambda s: name in [word for f in s.of("10") for word in f], more_s=1.5)
    assert found.summary.coverage[SYMBOL]["depth"] == "granted"
    assert not found.subscribed(Stream.SMART_DEPTH)


def test_an_answer_in_the_same_breath_is_no_failure(tmp_path: Path) -> None:
    """Immediate histories, an id of five thousand digits, 322 for L1, hours out of range: recording continues."""

    def script(client: Client) -> None:
        client.send(2, 6, "9" * 5000, 0, 300)
        client.error(client.id_of("l1"), 322, "Error processing request:Duplicate ticker id")

    def details(client: Client, req_id: str, symbol: str) -> None:
        head = [10, req_id, symbol, "STK", "", "0", "", "SMART", "USD", symbol, "NMS", "NMS", CON_ID, "0.01"]
        tail = ["", "ACTIVETIM,LMT", "SMART,ISLAND", "1", "0", "ACME INC", "NASDAQ", "", "", "", "", "US/Eastern"]
        today = f"{datetime.now(ZoneInfo('America/New_York')):%Y%m%d}:0930-99991231:2359"
        client.send(*head, *tail, today, today, "", "0", "0", "1", "", "26", "", "COMMON")
        client.send(52, 1, req_id)

    stranger = Stranger(script=on(1, script, 0.5), details=details)
    found = played(stranger, tmp_path, subscribed_on(1), more_s=2.0, tick_by_tick_lines=2)
    assert found.summary.coverage[SYMBOL]["bid_ask"] == "granted", "322 of L1 does not concern tick-by-tick lines"
    assert "9" * 5000 in "".join(text or "" for text in found.raw("undecodable"))


def test_what_flows_although_refused_is_taken_back(tmp_path: Path) -> None:
    """An unknown error code for L1, followed by its first ticks: coverage, log and folds agree that L1 is live."""

    def granted(client: Client, req_id: str, stream: str) -> bool:
        if stream == "l1":
            client.error(req_id, 10999, "part of it")
        return True

    stranger = Stranger(granted=granted)
    found = played(stranger, tmp_path, subscribed_on(1), more_s=2.5)
    assert found.summary.coverage[SYMBOL]["l1"] == "granted"
    asked = found.subscribed(Stream.L1)
    assert asked == asked[:1] * 2, "repeated under its own id"
    assert len(stranger.of("1")) == 1


def test_a_recording_that_asked_for_nothing_is_no_success(tmp_path: Path) -> None:
    """A recording that ends before the contract look-up is answered is an error that names the symbol."""

    async def scenario() -> None:
        async with Stranger(details=lambda *_: None) as stranger:
            given = {"symbols": [SYMBOL], "port": stranger.port, "disk_margin_bytes": 1, "timeout_seconds": 9.0}
            await record(Settings.load(given), Home(tmp_path), MachineClock(), duration_ns=10**9, disk=QuickDisk())

    with pytest.raises(GatewayError, match=SYMBOL):
        asyncio.run(scenario())


def test_tick_by_tick_keeps_its_spacing_over_a_reconnect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AllLast of an instrument waits for its spacing; no other request waits for it."""
    monkeypatch.setattr(request_limits, "TICK_BY_TICK_SPACING_S", 3.0)
    stranger = Stranger(script=on(1, Client.close, 0.5))
    found = played(stranger, tmp_path, lambda s: len(s.of("97")) == 2)
    first, second = stranger.at("97")
    assert second - first >= 2.95
    assert stranger.at("50")[1] - first < 2.5
    assert found.epochs(Kind.TRADE) == [1, 2]


# the beginning


def test_contract_details_that_never_come_end_in_one_line(tmp_path: Path) -> None:
    """The time-out names the symbol; the log of the received data is whole."""
    with pytest.raises(GatewayError, match="no answer about ACME within 1 s") as caught:
        played(Stranger(details=lambda *_: None), tmp_path, lambda _: False, timeout_seconds=1.0)
    assert caught.value.exit_code == 6
    day = open_day(datetime.now(UTC).astimezone(ZoneInfo("America/New_York")).date(), Home(tmp_path))
    assert [run.status for run in day.runs] == ["ended"]


@pytest.mark.parametrize("version", ["20", "157", "175"])
def test_a_gateway_too_old_is_refused_at_once(tmp_path: Path, version: str) -> None:
    """A server version that is too old is refused in one line, without waiting for the time-out."""
    began = time.monotonic()
    with pytest.raises(GatewayError, match=f"server version {version} is too old; 176 or newer is required"):
        played(Stranger(version=version), tmp_path, lambda _: False, timeout_seconds=20.0)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("version", ["176", "178"])
def test_the_versions_that_can_be_recorded(tmp_path: Path, version: str) -> None:
    """The oldest and the newest version are recorded."""
    found = played(Stranger(version=version), tmp_path, subscribed_on(1))
    connected = next(row for row in found.notices if row["code"] == Own.CONNECTED)
    assert connected["value"] == int(version)


def test_a_stop_while_connecting_ends_at_once(tmp_path: Path) -> None:
    """A silent gateway does not delay a recorder that was stopped."""

    async def scenario() -> float:
        stop = asyncio.Event()
        server = await asyncio.start_server(lambda *_: asyncio.sleep(30), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        made = Settings.load({"symbols": [SYMBOL], "port": port, "disk_margin_bytes": 1})
        asyncio.get_running_loop().call_later(0.5, stop.set)
        began = time.monotonic()
        with pytest.raises(GatewayError, match="stopped before") as caught:
            await record(made, Home(tmp_path), MachineClock(), stop=stop, disk=QuickDisk())
        assert caught.value.exit_code == 6
        server.close()
        return time.monotonic() - began

    assert asyncio.run(scenario()) < 5
    assert not list(tmp_path.glob("temp/events/*/*"))


def test_a_compilation_ends_when_it_is_cancelled() -> None:
    """A stopped recorder does not wait for the compiling process, and leaves none behind."""

    async def scenario() -> float:
        work = asyncio.ensure_future(compile_in_subprocess("import time; time.sleep(60)"))
        await asyncio.sleep(0.3)
        began = time.monotonic()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return time.monotonic() - began

    assert asyncio.run(scenario()) < 5


def test_a_symbol_refused_late_does_not_hide_the_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that began before the refusal says why it requested nothing; status shows the streams of the run before."""
    monkeypatch.setattr(recording, "LOOK_UP_S", 0.2)
    stranger = Stranger()

    def late(client: Client, req_id: str, symbol: str) -> None:
        asyncio.get_running_loop().call_later(0.6, stranger.describe, client, req_id, symbol)

    with pytest.raises(UnknownSymbol, match="APPL"):
        played(Stranger(details=late), tmp_path, lambda _: False, symbols=["APPL"])
    home = Home(tmp_path)
    day = parse_date(recorded_dates(home)[0])
    first = status(home.on(day))
    assert (first.run, first.streams_of) == ("r001", "r001")
    assert set(first.lacking["APPL"].values()) == {"not requested: symbol unknown to the gateway (200)"}
    played(Stranger(), tmp_path, subscribed_on(1), more_s=1.0)
    with pytest.raises(UnknownSymbol, match="APPL"):
        played(Stranger(details=late), tmp_path, lambda _: False, symbols=["APPL"])
    found = status(home.on(day))
    assert (found.run, found.streams_of, found.symbols) == ("r003", "r002", [SYMBOL])
    said = CliRunner().invoke(app, ["status", "--home", str(tmp_path)]).output
    assert "r003 ended before it subscribed to a stream; streams of r002, the run before it:" in said


def test_an_outage_logs_lines_that_do_not_grow_with_its_attempts(tmp_path: Path) -> None:
    """A port closed for many attempts is one log line with the reason, and a last one with the attempts."""

    async def script(client: Client) -> None:
        if client.number == 1:
            while "bars" not in client.subscribed.values():
                await asyncio.sleep(0.02)
            assert stranger._server is not None
            stranger._server.close()
            client.close()
            await asyncio.sleep(1.5)
            stranger._server = await asyncio.start_server(stranger._serve, "127.0.0.1", stranger.port)

    stranger = Stranger(script=script)
    with structlog.testing.capture_logs() as lines:
        played(stranger, tmp_path, subscribed_on(2))
    events = [line["event"] for line in lines]
    assert [events.count(name) for name in ("outage begins", "gateway not back yet", "reconnected")] == [1, 1, 1]
    assert next(line["attempts"] for line in lines if line["event"] == "reconnected") >= 4


def listing(*contracts: tuple[str, int, str]) -> Callable[[Client, str, str], None]:
    """Answers look-ups of a symbol with its contracts: symbol, con_id, primary exchange."""

    def details(client: Client, req_id: str, symbol: str) -> None:
        found = [contract for contract in contracts if contract[0] == symbol]
        for name, con_id, exchange in found:
            head = [10, req_id, name, "STK", "", "0", "", "SMART", "USD", name, "NMS", "NMS", con_id, "0.01"]
            tail = ["", "ACTIVETIM,LMT", "SMART", "1", "0", "ACME INC", exchange, "", "", "", "", "US/Eastern"]
            client.send(*head, *tail, "", "", "", "0", "0", "1", "", "26", "", "COMMON")
        if found:
            client.send(52, 1, req_id)
        else:
            client.error(req_id, 200, "No security definition has been found for the request")

    return details


PINK_FIRST = listing(("ACME", 11, "PINK"), ("ACME", 12, "NYSE"), ("BRK B", 13, "NYSE"))


@pytest.mark.parametrize(
    ("symbols", "words"),
    [
        ("ACME", r"'ACME' is ambiguous: ACME@11 on PINK, ACME@12 on NYSE; give one, for example --symbols 'ACME@NYSE'"),
        ("acme@arca", r"'ACME@ARCA' is none of the gateway's contracts: ACME@11 on PINK"),
        ("ACME@99", r"'ACME@99' is none of the gateway's contracts"),
        ("BRK.B", r"no US stock 'BRK.B' .*IB writes classes of shares with a space: 'BRK B'"),
        ("brk/b", r"IB writes classes of shares with a space: 'BRK B'"),
        ("ACME BOLT", r"several symbols are separated by commas: --symbols ACME,BOLT"),
        ("NOSUCH", r"no US stock 'NOSUCH' .*check --symbols$"),
        ("ACME@NYSE,acme@pink", r"'ACME' is given for two contracts, 12 on NYSE and 11 on PINK: record one of them"),
    ],
)
def test_a_symbol_that_names_no_one_contract_names_the_candidates(tmp_path: Path, symbols: str, words: str) -> None:
    """Ambiguous, on another exchange, with another con_id, misspelt, two contracts: exit code 8, next move, no day."""
    with pytest.raises(UnknownSymbol, match=words) as caught:
        played(Stranger(details=PINK_FIRST), tmp_path, lambda _: False, symbols=symbols.split(","))
    assert caught.value.exit_code == 8
    assert not list(Home(tmp_path).events.glob("*/*"))


@pytest.mark.parametrize(
    ("symbols", "given", "con_ids"),
    [
        (["acme@nyse", "ACME@12"], {}, {12}),  # lower case; the same contract twice
        (["ACME@11"], {}, {11}),
        (["ACME", "brk b"], {"primary_exchange": "NYSE"}, {12, 13}),
    ],
)
def test_exchange_con_id_and_letters_of_a_symbol(
    tmp_path: Path, symbols: list[str], given: dict[str, Any], con_ids: set[int]
) -> None:
    """A listing exchange or con_id per symbol, the preferred exchange of the settings, upper and lower case."""
    with structlog.testing.capture_logs() as lines:
        found = played(Stranger(details=PINK_FIRST), tmp_path, subscribed_on(1), symbols=symbols, more_s=0.3, **given)
    rows = found.day.table(Kind.REQUEST).to_pylist()
    assert {row["con_id"] for row in rows if row["stream"] == "l1"} == con_ids
    assert set(found.summary.coverage) == ({"ACME"} if len(con_ids) == 1 else {"ACME", "BRK B"})
    chosen = [line["candidates"] for line in lines if line["event"] == "contract chosen"]
    assert set(chosen) == {"ACME@11 on PINK, ACME@12 on NYSE"}, "never silently"


def test_a_symbol_given_twice_is_looked_up_once(tmp_path: Path) -> None:
    """`ACME,acme` is one symbol."""
    found = played(Stranger(), tmp_path, subscribed_on(1), symbols=["ACME", "acme"], more_s=0.3)
    asked = [row for row in found.day.table(Kind.REQUEST).to_pylist() if row["stream"] == "contract"]
    assert [row["symbol"] for row in asked] == ["ACME"]


def test_a_symbol_has_the_letters_of_the_gateway(tmp_path: Path) -> None:
    """A gateway that finds `acme` too: what is recorded is called ACME."""
    stranger = Stranger(details=lambda client, req_id, symbol: PINK_FIRST(client, req_id, symbol.upper()))
    found = played(stranger, tmp_path, subscribed_on(1), symbols=["acme@nyse"], more_s=0.3)
    assert set(found.summary.coverage) == {"ACME"}
    rows = found.day.table(Kind.REQUEST).to_pylist()
    assert [row["symbol"] for row in rows if row["stream"] == "l1"] == ["ACME"]
