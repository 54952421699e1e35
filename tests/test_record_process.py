"""`hv record` in its own process: signals, kill -9, the command's exit codes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import signal
import subprocess
import sys
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import pytest
from rich.console import Console
from rich.live import Live

from cli import cmd_record
from harvester.errors import DamagedLog, NoLog
from harvester.eventlog.reader import open_day
from harvester.eventlog.verify_log import verify_day
from harvester.events.kinds import Kind
from harvester.home import Home
from harvester.rebuild.project import fold_day
from harvester.rebuild.verify_day import verify
from harvester.simgateway.gateway_settings import GatewaySettings
from harvester.simgateway.server import SimGateway
from harvester.status import status
from tests.processes import PYTHON, python
from tests.recording import Recorded, check_live_equals_replay, check_nothing_lost, lockstep, model

PROJECT = Path(__file__).resolve().parent.parent
DATE = date(2025, 7, 17)
PROGRAM = """
import typer
from cli.app import App
from cli.cmd_record import record
app = App()
app.command("record")(record)
app.command("other")(lambda: None)  # one command alone would lose its name
app()
"""


def command() -> list[str]:
    return [*python(), "-c", PROGRAM]


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM and SIGKILL of POSIX; Windows has Ctrl-Break")


class Served:
    """A gateway with its own clock at some speed, and recorders in processes."""

    def __init__(self, home: Home, speed: float, **settings: Any) -> None:
        self.home = home
        self.gateway = SimGateway(
            model(**settings), GatewaySettings(port=0, speed=speed, grace_s=0.2, gateway_file=home.gateway_file)
        )
        self.port = 0

    async def __aenter__(self) -> Self:
        self.port = await self.gateway.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.report = await self.gateway.stop()

    async def recorder(
        self, *options: str, symbols: str = "ACME,BOLT,CRUX", client_id: int = 9960
    ) -> asyncio.subprocess.Process:
        words = [
            "record",
            "--symbols",
            symbols,
            "--port",
            str(self.port),
            "--client-id",
            str(client_id),
            "--home",
            str(self.home.root),
        ]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HV_HOME": ""}
        return await asyncio.create_subprocess_exec(
            *command(), *words, *options, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    async def until_events(self, at_least: int) -> int:
        """Wait until this many events are committed."""
        while True:
            try:
                last = open_day(DATE, self.home).last_seq
            except (NoLog, DamagedLog):
                last = 0
            if last >= at_least:
                return last
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_recording_in_order(tmp_path: Path, number: signal.Signals) -> None:
    """One signal or three: exit code 0, the run has ended, the log verifies, live digests are those of a replay."""

    async def scenario() -> None:
        async with Served(Home(tmp_path), 60.0) as served:
            recorder = await served.recorder("--episode-epoch-ms", "--no-episode-series-jsonl")
            await served.until_events(200)
            assert status(served.home.on(DATE)).recording
            for _ in range(3):
                recorder.send_signal(number)
                await asyncio.sleep(0.01)
            out, err = await asyncio.wait_for(recorder.communicate(), 60)
            assert recorder.returncode == 0, err.decode()
            assert b"r001" in out
            assert b"; run content " in out
        assert not status(served.home.on(DATE)).recording
        assert not verify_day(served.home.on(DATE)).problems
        day = open_day(DATE, served.home)
        assert day.runs[0].status == "compacted"
        assert fold_day(day).toggles == {"episode_epoch_ms": True, "episode_series_jsonl": False}
        assert check_live_equals_replay(day) >= 1

    asyncio.run(scenario())


def test_sigterm_while_it_still_loads(tmp_path: Path) -> None:
    """A signal in the first seconds, here while it reads its settings, gives one line that nothing was recorded."""
    pipe = tmp_path / "settings.toml"
    os.mkfifo(pipe)
    words = ["record", "--config", str(pipe), "--symbols", "ACME", "--home", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    recorder = subprocess.Popen([*PYTHON, "-c", PROGRAM, *words], env=environment, stderr=subprocess.PIPE, text=True)
    with pipe.open("w"):  # opens when the recorder does, which then waits for what is written
        recorder.send_signal(signal.SIGTERM)
        _, err = recorder.communicate(timeout=60)
    assert (recorder.returncode, err.count("\n")) == (6, 1)
    assert err.startswith("hv: SIGTERM: stopped")
    assert "nothing was recorded" in err


@pytest.mark.parametrize(
    ("toml", "code", "lines"),
    [
        ('exchange_calendar = "FOO"', 2, ["hv: unknown exchange calendar 'FOO'"]),
        ('strategy = "hope"', 2, ["hv: unknown strategy 'hope'"]),
        ("batch-size = 30", 2, ["hv.toml: unknown setting 'batch_size'"]),
    ],
)
def test_settings_of_a_file(tmp_path: Path, toml: str, code: int, lines: list[str]) -> None:
    """An unknown setting, calendar or strategy is refused before the recorder connects."""
    (tmp_path / "hv.toml").write_text(toml, encoding="utf-8")
    options = ["--config", str(tmp_path / "hv.toml"), "--symbols", "ACME", "--port", "1", "--home", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [*command(), "record", *options], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    for said in lines:
        assert done.stderr.count(said) == 1, done.stderr


def test_the_fastest_market_over_processes_loses_nothing(tmp_path: Path) -> None:
    """From a gateway at speed max a recorder that follows its clock gets every row and value."""

    async def scenario() -> None:
        home = Home(tmp_path)
        served = Served(home, 0.0)
        end = served.gateway.market.start_ns + 15 * 60 * 10**9
        served.gateway.settings = GatewaySettings(
            port=0, speed=0.0, grace_s=0.5, end_ns=end, gateway_file=home.gateway_file
        )
        async with served:
            recorder = await served.recorder("--json", "--until", "never")
            await asyncio.wait_for(served.gateway.wait_over(), 90)
            await asyncio.sleep(1.5)
            recorder.send_signal(signal.SIGTERM)
            out, err = await asyncio.wait_for(recorder.communicate(), 60)
            assert recorder.returncode == 0, err.decode()
        summary = json.loads(out.splitlines()[-1])
        day = open_day(DATE, home)
        assert summary["runs"][0]["last_seq"] == day.last_seq
        assert check_nothing_lost(Recorded(home, None, served.report), day) > 1000  # type: ignore[arg-type]
        assert check_live_equals_replay(day) >= 1

    asyncio.run(scenario())


def test_a_killed_recorder_leaves_whole_commits(tmp_path: Path) -> None:
    """After kill -9 at random moments committed data is there, seq has no hole, and the next run continues."""

    async def scenario() -> None:
        moments, home = random.Random(7), Home(tmp_path)
        async with Served(home, 20.0) as served:
            before = 0
            for attempt in range(4):
                recorder = await served.recorder("--commit-seconds", "0.05")
                await served.until_events(before + 40)
                await asyncio.sleep(moments.uniform(0.0, 0.4))
                seen = open_day(DATE, home).last_seq
                recorder.kill()
                await recorder.communicate()
                day = open_day(DATE, home)
                assert day.last_seq >= seen
                assert len(day.runs) == attempt + 1
                before = day.last_seq
            recorder = await served.recorder()
            await served.until_events(before + 40)
            recorder.send_signal(signal.SIGTERM)
            await asyncio.wait_for(recorder.communicate(), 60)
        day = open_day(DATE, home)
        assert [r.status for r in day.runs] == ["compacted"] * 5
        assert not verify_day(home.on(DATE)).problems
        assert day.rows == day.last_seq
        assert day.table(Kind.CLOCK).num_rows > 0

    asyncio.run(scenario())


@pytest.mark.parametrize("killed", ["before", "after"])
def test_a_kill_and_a_restart_across_the_date_boundary(tmp_path: Path, killed: str) -> None:
    """kill -9 before the boundary and restarted after it, or killed right after it: two dates, each whole by itself.

    Both are numbered from 1 without a hole, no event is stamped outside its date, and live equals replay on both.
    """

    async def scenario() -> None:
        home = Home(tmp_path)
        async with Served(home, 30.0) as served:
            clock = served.gateway.clock
            boundary = served.gateway.market.start_ns + 120 * 10**9
            local = datetime.fromtimestamp(boundary // 10**9, ZoneInfo("America/New_York"))
            first, second = local.date() - timedelta(days=1), local.date()
            (tmp_path / "hv.toml").write_text(f'day_start = "{local:%H:%M:%S}"\n', encoding="utf-8")
            options = [
                "--config",
                str(tmp_path / "hv.toml"),
                "--until",
                "never",
                "--commit-seconds",
                "0.05",
                "--digest-seconds",
                "1",
            ]
            recorder = await served.recorder(*options)
            await committed(home, first, 300)
            if killed == "after":
                await committed(home, second, 100)
            recorder.kill()
            await recorder.communicate()
            while clock.now() < boundary:
                await asyncio.sleep(0.05)
            before = committed_seq(home, second)
            recorder = await served.recorder(*options)
            await committed(home, second, before + 300)
            recorder.send_signal(signal.SIGTERM)
            _, err = await asyncio.wait_for(recorder.communicate(), 60)
            assert recorder.returncode == 0, err.decode()
        runs = {date_: [run.run for run in open_day(date_, home).runs] for date_ in (first, second)}
        assert runs == {first: ["r001"], second: ["r001"] if killed == "before" else ["r001", "r002"]}
        for date_ in (first, second):
            day, found = open_day(date_, home), verify(home.on(date_))
            assert (found.exit_code, found.log.problems, found.live.mismatches) == (0, [], [])
            assert found.live.equal == found.live.points >= 1
            assert found.broken_off[:4] == ("r001" if (killed, date_) == ("before", first) else "")
            assert (day.runs[0].first_seq, day.rows) == (1, day.last_seq)
            assert (day.last_ts <= boundary) is (date_ == first)
        assert open_day(second, home).runs[0].first_ts >= boundary

    asyncio.run(scenario())


def committed_seq(home: Home, trading_date: date) -> int:
    """The last seq committed on a date, 0 without any."""
    try:
        return open_day(trading_date, home, check=False).last_seq
    except (NoLog, DamagedLog):
        return 0


async def committed(home: Home, trading_date: date, at_least: int) -> None:
    """Wait until this many events of a date are committed."""
    while committed_seq(home, trading_date) < at_least:
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--client-id", "0"], 2, "client id 0"),
        (["--symbols", "NOSUCH"], 8, "NOSUCH"),
        (["--account", "U1"], 2, "not managed"),
        (["--duration", "soon"], 2, "duration"),
        (["--until", "25:00"], 2, "--until"),
        (["--config", "no-such.toml"], 2, "cannot be read"),
        (["--clock", "no-such.json"], 2, "is not the market clock"),
        (["--port", "1"], 6, "cannot connect"),
        (["--port", "4001", "--clock", "machine"], 2, "no account"),
    ],
)
def test_errors_are_one_line_and_a_code(tmp_path: Path, options: list[str], code: int, words: str) -> None:
    """Each mistake ends with its exit code and one clear line on stderr."""

    async def scenario() -> None:
        async with Served(Home(tmp_path), 10.0) as served:
            recorder = await served.recorder(*options)
            _, err = await asyncio.wait_for(recorder.communicate(), 60)
            lines = [line for line in err.decode().splitlines() if line.startswith("hv:")]
            assert recorder.returncode == code, err.decode()
            assert len(lines) == 1
            assert words in lines[0]
            assert "Traceback" not in err.decode()

    asyncio.run(scenario())


def test_a_served_day_is_not_recorded_onto_itself(tmp_path: Path) -> None:
    """`hv gateway --market day` publishes its log folder; a recorder of that home refuses and changes no byte.

    For any clock of that gateway, and following the home's `gateway.json` or a named one.
    """
    home = Home(tmp_path / "home")
    asyncio.run(lockstep(model(), home, minutes=2))
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HV_HOME": str(home.root)}
    words = ["gateway", "--market", "day", "--date", str(DATE), "--port", "0", "--json"]
    served = subprocess.Popen([*python(), "-m", "cli.app", *words], env=environment, stdout=subprocess.PIPE)
    assert served.stdout is not None
    try:
        facts = json.loads(served.stdout.readline())
        assert facts["source"] == f"day {DATE}"
        before = tree(home.temp)
        for clock in ("auto", str(home.gateway_file)):
            options = ["record", "--port", str(facts["port"]), "--clock", clock, "--symbols", "ACME"]
            done = subprocess.run([*command(), *options], env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 2, done.stderr
            assert f"replays {DATE} from the log under {home.root}" in done.stderr
            assert "--home ANOTHER" in done.stderr
            assert tree(home.temp) == before
    finally:
        served.terminate()
        served.communicate(timeout=60)


def test_clock_date_and_symbols_are_chosen_when_the_gateway_answers(tmp_path: Path) -> None:
    """`hv record --wait` started before `hv gateway`: recorded are the gateway's symbols, on its clock and date.

    Another home has no gateway.json to take a clock from: it is refused with 2 and records nothing.
    """

    async def scenario() -> None:
        async with Served(Home(tmp_path / "other"), 60.0) as served:
            port = served.port
            early = Served(Home(tmp_path / "home"), 60.0)
            early.port = port
            refused = await early.recorder("--duration", "20s")
            _, err = await asyncio.wait_for(refused.communicate(), 60)
            assert refused.returncode == 2, err.decode()
            assert b"days behind this machine's" in err
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HV_HOME": str(early.home.root)}
        words = ["record", "--port", str(port), "--wait", "50s", "--duration", "20s"]
        recorder = await asyncio.create_subprocess_exec(
            *command(), *words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert recorder.stderr is not None
        said = b""
        while b"waiting for the gateway" not in said:
            said += await recorder.stderr.readline()
        settings = GatewaySettings(port=port, speed=60.0, grace_s=0.2, gateway_file=early.home.gateway_file)
        gateway = SimGateway(model(), settings)
        await gateway.start()
        try:
            _, err = await asyncio.wait_for(recorder.communicate(), 60)
        finally:
            await gateway.stop()
        assert recorder.returncode == 0, (said + err).decode()
        assert b"closed until" not in said + err

    asyncio.run(scenario())
    assert [path.parent.name for path in tmp_path.rglob("r001")] == [str(DATE)]
    assert len(set(open_day(DATE, Home(tmp_path / "home")).table(Kind.CONTRACT)["symbol"].to_pylist())) == 3


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--symbols", "ACME", "--port", "1"], 6, "cannot connect"),
        (["--port", "1"], 2, "no symbols given"),
        (["--symbols", "ACME", "--port", "4001"], 2, "no account"),
    ],
)
def test_the_port_of_the_homes_own_gateway_is_named(tmp_path: Path, options: list[str], code: int, words: str) -> None:
    """The error for an unreachable port names the port of the folder's `hv gateway`, which is not used unasked."""

    async def scenario() -> None:
        async with Served(Home(tmp_path), 10.0) as served:
            environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HV_HOME": str(tmp_path)}
            recorder = await asyncio.create_subprocess_exec(
                *command(), "record", *options, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            _, err = await asyncio.wait_for(recorder.communicate(), 60)
            assert recorder.returncode == code, err.decode()
            (line,) = [line for line in err.decode().splitlines() if line.startswith("hv:")]
            assert words in line
            assert line.endswith(f"the `hv gateway` of {tmp_path} listens on another port: --port {served.port}")

    asyncio.run(scenario())


def test_a_signal_is_shown_above_the_live_screen() -> None:
    """The line is written through the screen's stderr; otherwise the next drawing would start a line too low."""
    terminal = io.StringIO()
    with Live("headline", console=Console(file=terminal, force_terminal=True, width=80), auto_refresh=False):
        cmd_record._print_signal("SIGINT")
    assert "hv: SIGINT: writing the last commit, then stopping" in terminal.getvalue()
