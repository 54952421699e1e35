"""The beginning of a recording beside a gateway that is not ready, or that loses what it was asked."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from typer.testing import CliRunner

from cli.app import app
from harvester.clock import MachineClock
from harvester.config import Settings
from harvester.errors import CannotRun, GatewayError
from harvester.events.kinds import Action, Kind, Own, Stream
from harvester.gateway.data_requests import RequestTarget
from harvester.home import Home
from harvester.projections.run_params import RunParams
from harvester.projections.trading import costs
from harvester.recorder import gateway_wait, session, subscriptions
from harvester.recorder import record as recording
from harvester.recorder.gateway_wait import GatewayWait
from harvester.recorder.record import record
from harvester.recorder.subscriptions import StreamSubscription, SubscriptionRegistry, coverage
from tests.recording import QuickDisk
from tests.stranger import SYMBOL, Client, Stranger
from tests.test_record_stranger import Outcome, compiled, on, played, quick, subscribed_on

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["compiled", "quick"]  # fixtures of this module too


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


# a gateway that is still starting


async def beside(path: Path, trouble: str, *, wait_s: float, ready: bool = True) -> tuple[Outcome, list[Any]]:
    """Record from a port where `trouble` happens, and a gateway is `ready` afterwards."""
    port, stop = free_port(), asyncio.Event()
    given = {
        "symbols": [SYMBOL], "port": port, "timeout_seconds": 3.0, "disk_margin_bytes": 1, "commit_seconds": 0.2,
        "skip_historical_backfill": True,
    }  # fmt: skip
    starting = None if trouble == "refused" else await asyncio.start_server(SERVERS[trouble], "127.0.0.1", port)
    stranger = Stranger()
    stranger.port = port
    with structlog.testing.capture_logs() as lines:
        work = asyncio.ensure_future(
            record(
                Settings.load(given),
                Home(path),
                MachineClock(),
                stop=stop,
                disk=QuickDisk(),
                wait_ns=round(wait_s * 1e9),
            )
        )
        while not work.done() and (not ready or not any(line["event"] == "waiting for the gateway" for line in lines)):
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        if starting is not None:
            starting.close()
        async with stranger:
            for _ in range(1000):
                if work.done() or subscribed_on(1)(stranger):
                    break
                await asyncio.sleep(0.02)
            await asyncio.sleep(0 if work.done() else 1.6)
            stop.set()
            summary = await work
    return Outcome(summary, Home(path)), lines


async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def read_and_hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(99)  # a connection closed with unread bytes is reset
    writer.close()


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


SERVERS = {"hung up": hang_up, "reset": reset}
REASONS = {"refused": "refused", "hung up": "disconnected before it was ready", "reset": "reset the connection"}


@pytest.mark.parametrize("trouble", REASONS)
def test_wait_keeps_trying_the_first_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    """Refused, hung up or reset: with --wait tried again, the reason shown once, until the gateway is ready."""
    monkeypatch.setattr(gateway_wait, "PAUSES_S", (0.1,))
    found, lines = asyncio.run(beside(tmp_path, trouble, wait_s=20))
    assert found.summary.coverage[SYMBOL]["l1"] == "granted"
    waits = [line["why"] for line in lines if line["event"] == "waiting for the gateway"]
    assert REASONS[trouble] in waits[0]
    assert waits == list(dict.fromkeys(waits)), "each reason once"
    events = [line["event"] for line in lines]
    assert events.index("waiting for the gateway") < events.index("run begins") < events.index("recording")


@pytest.mark.parametrize("trouble", REASONS)
def test_without_wait_the_first_connection_ends_with_its_reason(tmp_path: Path, trouble: str) -> None:
    """Exit 6 at once; a reset is called a reset, and says nothing about what kind of program listens."""
    with pytest.raises(GatewayError, match=REASONS[trouble]) as caught:
        asyncio.run(beside(tmp_path, trouble, wait_s=0))
    assert caught.value.exit_code == 6
    assert trouble != "reset" or "is not TWS" not in str(caught.value)


def test_waiting_has_an_end_and_ends_for_what_will_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After --wait the last reason is the error; a gateway that is too old is not waited for."""
    monkeypatch.setattr(gateway_wait, "PAUSES_S", (0.1,))
    with pytest.raises(GatewayError, match="refused"):
        asyncio.run(beside(tmp_path, "refused", wait_s=0.3, ready=False))

    async def old() -> float:
        async with Stranger(version="157") as stranger:
            began = asyncio.get_running_loop().time()
            given = {"symbols": [SYMBOL], "port": stranger.port, "disk_margin_bytes": 1}
            with pytest.raises(GatewayError, match="too old"):
                await record(Settings.load(given), Home(tmp_path), MachineClock(), disk=QuickDisk(), wait_ns=60 * 10**9)
            return asyncio.get_running_loop().time() - began

    assert asyncio.run(old()) < 5


def test_the_wait_before_a_choice_ends_with_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, then reset, then hung up: waited for, each reason once; a greeting ends the wait, before its time."""
    monkeypatch.setattr(gateway_wait, "PAUSES_S", (0.05,))

    async def scenario() -> tuple[GatewayWait, list[str]]:
        port = free_port()
        wait = GatewayWait(Settings.load({"symbols": [SYMBOL], "port": port}), Home(tmp_path), 20 * 10**9)
        with structlog.testing.capture_logs() as lines:
            work = asyncio.ensure_future(wait.until_answer())
            for trouble in ("reset", "hung up"):
                act = reset if trouble == "reset" else read_and_hang_up
                async with await asyncio.start_server(act, "127.0.0.1", port), asyncio.timeout(10):
                    while REASONS[trouble] not in wait.why:
                        await asyncio.sleep(0.01)
            stranger = Stranger()
            stranger.port = port
            async with stranger:
                await work
        assert not [fields for _, _, fields in stranger.asked], "the wait has no client id"
        return wait, [line["why"] for line in lines]

    wait, whys = asyncio.run(scenario())
    assert wait.left_s > 10
    assert not wait.why
    assert sum(REASONS["reset"] in why for why in whys) == sum(REASONS["hung up"] in why for why in whys) == 1


def test_a_wait_over_ends_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens until the wait is over: exit code 6 with the reason."""
    monkeypatch.setattr(gateway_wait, "PAUSES_S", (0.05,))
    wait = GatewayWait(Settings.load({"symbols": [SYMBOL], "port": free_port()}), Home(tmp_path), 10**8)
    with pytest.raises(GatewayError, match="refused"):
        asyncio.run(wait.until_answer())


@pytest.mark.parametrize("behind_s", [7 * 86_400, -3600, 200])
def test_a_gateway_in_another_time_is_refused_before_anything_is_recorded(tmp_path: Path, behind_s: int) -> None:
    """More than five minutes before or behind the clock in use: exit code 2, and no date begins. Less: recorded."""

    async def scenario() -> None:
        async with Stranger(time_behind_s=behind_s) as stranger:
            given = {"symbols": [SYMBOL], "port": stranger.port, "disk_margin_bytes": 1}
            work = record(
                Settings.load(given | {"skip_historical_backfill": True}),
                Home(tmp_path),
                MachineClock(),
                disk=QuickDisk(),
                duration_ns=10**9,
                clock_must_agree=True,
            )
            if abs(behind_s) < 300:
                await work
                return
            with pytest.raises(CannotRun, match=r"the gateway's clock is .*--clock PATH/gateway\.json"):
                await work

    asyncio.run(scenario())
    assert list(tmp_path.rglob("r001")) == [] or abs(behind_s) < 300


def test_a_wait_that_is_no_duration_is_refused(tmp_path: Path) -> None:
    """The error names the option."""
    given = ["record", "--symbols", SYMBOL, "--port", "1", "--wait", "soon", "--home", str(tmp_path)]
    said = CliRunner().invoke(app, given)
    assert said.exit_code != 0
    assert "--wait 'soon' is not a duration" in f"{said.output} {said.exception}"


def test_recording_is_printed_when_something_is(tmp_path: Path) -> None:
    """A gateway that grants streams and sends no row: the run begins, and "recording" is not printed."""
    stranger = Stranger()
    stranger.dead.update({"l1", "AllLast", "depth", "bars"})
    with structlog.testing.capture_logs() as lines:
        played(stranger, tmp_path, subscribed_on(1), more_s=1.5)
    events = [line["event"] for line in lines]
    assert "run begins" in events
    assert "recording" not in events


def test_unknown_rates_of_the_date_are_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on a date after the last known SEC fee begins with a line that says so, and stores it."""
    monkeypatch.setattr(costs, "SEC_FEE", costs.SEC_FEE._replace(known_to="2026-04-04"))
    with structlog.testing.capture_logs() as lines:
        outcome = played(Stranger(), tmp_path, subscribed_on(1))
    (warned,) = [line for line in lines if line["event"] == "costs of simulated trades"]
    assert warned["note"].startswith("SEC fee known to 2026-04-04: the last rate is used")
    (start,) = [row for row in outcome.day.table(Kind.REQUEST).to_pylist() if row["action"] == Action.RUN_START]
    assert RunParams.parse(start["params"], 1).costs["note"] == warned["note"]


# requests that are lost while the socket lives


def forgetful(first: Callable[[Client, str], None]) -> tuple[Stranger, list[str]]:
    """A stranger that answers the first look-up by `first` and the others in full, and their request ids so far."""
    stranger, asks = Stranger(), list[str]()

    def details(client: Client, req_id: str, symbol: str) -> None:
        asks.append(req_id)
        if len(asks) == 1:
            first(client, req_id)
        else:
            stranger.describe(client, req_id, symbol)

    stranger.details = details
    return stranger, asks


@pytest.mark.parametrize("back", [1101, 1102, 2104, 2158])
def test_a_look_up_lost_in_an_outage_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: int) -> None:
    """The first look-up gets no answer; when IB's servers are back it is repeated on the same connection."""
    monkeypatch.setattr(session, "LOST_S", 0.1)
    monkeypatch.setattr(recording, "LOOK_UP_S", 0.2)

    async def script(client: Client) -> None:
        while not asks:
            await asyncio.sleep(0.02)
        if back < 2000:
            client.error(-1, 1100)
            await asyncio.sleep(2.5)  # longer than the time-out: an announced outage does not count as waiting
        client.error(-1, back)

    stranger, asks = forgetful(lambda *_: None)
    stranger.script = script
    found = played(stranger, tmp_path, subscribed_on(1), more_s=0.5, timeout_seconds=2.0)
    assert len(asks) == 2
    assert found.epochs(Kind.TICK) == [1], "on the same connection"
    looked_up = [r for r in found.day.table(Kind.REQUEST).to_pylist() if r["stream"] == Stream.CONTRACT]
    assert [r["action"] for r in looked_up] == [Action.ASK] * 2
    assert Own.REQUEST_TIMEOUT not in found.codes()


def test_advice_without_any_row_is_a_refusal_after_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """10089 for L1, and no row follows: after the silence the stream counts as refused with that code.

    The log does not say that it goes on, and repeats of the refusal are short. While it is requested again, the stream
    is still shown as refused.
    """
    monkeypatch.setattr(subscriptions, "NOW_AND_THEN_S", (0.1,))

    def granted(client: Client, req_id: str, stream: str) -> bool:
        if stream == "l1":
            client.error(req_id, 10089, "Requested market data requires additional subscription for API.")
        return True

    stranger = Stranger(granted=granted)
    stranger.dead.add("l1")
    with structlog.testing.capture_logs() as lines:
        found = played(stranger, tmp_path, subscribed_on(1), more_s=6.5, silence_seconds=1)
    logged = [line["event"] for line in lines if line.get("code") == 10089]
    assert logged[:3] == ["advice, waiting for rows", "stream refused", "stream refused again"]
    assert set(logged[2:]) == {"stream refused again"}
    assert found.summary.coverage[SYMBOL]["l1"] == "refused 10089"
    assert found.summary.coverage[SYMBOL]["all_last"] == "granted"


def test_a_stream_requested_again_is_shown_as_refused_until_it_has_rows() -> None:
    """L1 refused for a permission: refused in every retry without rows. For pacing, or of prints: asked."""
    target = RequestTarget(SYMBOL, 1)

    def after(stream: Stream, *, lasting: bool, rows: int = 0) -> str:
        registry = SubscriptionRegistry()
        registry.add(StreamSubscription(1, target, stream, {}, 0))
        registry.live[1].lasting = lasting
        registry.refuse(1, 10089)
        registry.add(StreamSubscription(2, target, stream, {}, 0, rows=rows))
        return coverage(registry, [SYMBOL])[SYMBOL][stream]

    assert after(Stream.L1, lasting=True) == "refused 10089"
    assert after(Stream.L1, lasting=True, rows=1) == "granted"
    assert after(Stream.L1, lasting=False) == after(Stream.ALL_LAST, lasting=True) == "asked"


def test_the_question_for_the_time_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question for the gateway's time without an answer is asked again after 2104."""
    monkeypatch.setattr(session, "LOST_S", 0.1)
    stranger = Stranger(time_answered=False, script=on(1, lambda client: client.error(-1, 2104), 0.3))
    played(stranger, tmp_path, lambda s: len(s.of("49")) == 2, more_s=0.3, silence_seconds=60)
    assert len(stranger.of("49")) == 2


def test_an_unknown_symbol_in_an_outage_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway without its servers answers 200 for a symbol that exists: asked again when they are back."""
    monkeypatch.setattr(session, "LOST_S", 0.1)

    def blind(client: Client, req_id: str) -> None:
        client.error(-1, 1100)
        client.error(req_id, 200, "No security definition has been found for the request")
        asyncio.get_running_loop().call_later(0.4, client.error, -1, 1102)

    stranger, asks = forgetful(blind)
    found = played(stranger, tmp_path, subscribed_on(1), more_s=1.6)
    assert found.summary.coverage[SYMBOL]["l1"] == "granted"
    assert len(asks) == 2


def test_mistakes_that_no_gateway_mends_come_first(tmp_path):
    """Without symbols and gateway, what is wrong in any case is said before what a gateway would have given."""
    done = CliRunner().invoke(app, ["record", "--client-id", "0", "--home", str(tmp_path)])
    assert "client id 0 is refused" in str(done.exception)
    done = CliRunner().invoke(app, ["record", "--strategy", "no_such", "--home", str(tmp_path)])
    assert "unknown strategy 'no_such'" in str(done.exception)
