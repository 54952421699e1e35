"""kill -9 of a live recorder, fifty times on one date."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from harvester.eventlog.reader import open_day
from harvester.eventlog.verify import verify_day
from harvester.home import Home
from harvester.simgateway.server import SimGateway
from harvester.simgateway.settings import GatewaySettings
from tests.recording import model

PROJECT = Path(__file__).resolve().parent.parent
DATE = date(2025, 7, 17)
KILLS = 50

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks recorders, which only POSIX can")


class Forks:
    """Recorders that start at once, one at a time; `durable` is the last seq a commit was reported durable with."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child, self.durable, self.pid = child, 0, 0

    async def line(self) -> str:
        assert self.child.stdout is not None
        text = (await asyncio.wait_for(self.child.stdout.readline(), 60)).decode().strip()
        assert text, "the helper process died"
        word, _, number = text.partition(" ")
        if word == "durable":
            self.durable = int(number)
        elif word == "pid":
            self.pid = int(number)
        return word

    async def until(self, word: str) -> None:
        while await self.line() != word:
            pass

    async def start(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(b"go\n")
        await self.until("pid")

    async def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        await self.until("gone")


async def fork_server(home: Home, port: int) -> Forks:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROJECT / "tests" / "recorder_forks.py"),
        str(home.root),
        str(port),
        "ACME,BOLT",
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    forks = Forks(child)
    await forks.until("ready")
    return forks


@pytest.mark.slow
def test_fifty_killed_recorders_lose_nothing_durable(tmp_path: Path) -> None:
    """Every commit reported durable is there, no hole in seq, the next run goes on; one in five dies while opening."""

    async def scenario() -> None:
        home, chance = Home(tmp_path), random.Random(11)
        settings = GatewaySettings(port=0, speed=20.0, grace_s=0.05, gateway_file=home.gateway_file)
        gateway = SimGateway(model(), settings)
        port = await gateway.start()
        forks = await fork_server(home, port)
        try:
            for attempt in range(KILLS):
                await forks.start()
                if attempt == 0 or attempt % 5:
                    await forks.until("durable")
                await asyncio.sleep(chance.uniform(0.0, 0.35))
                await forks.kill()
                if forks.durable and attempt % 7 == 0:
                    day = open_day(DATE, home)
                    assert day.last_seq >= forks.durable
                    assert day.rows == day.last_seq
        finally:
            forks.child.kill()
            await forks.child.wait()
            await gateway.stop()
        day = open_day(DATE, home)
        assert day.last_seq >= forks.durable > 0
        assert day.rows == day.last_seq, "seq has a hole"
        assert len(day.runs) >= KILLS * 4 // 5
        assert not verify_day(home, DATE).problems

    asyncio.run(scenario())
