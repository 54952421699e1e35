"""kill -9 of a live recorder, ten times on one date; fifty in the long run."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from datetime import date
from pathlib import Path

import pytest

from harvester.eventlog.reader import open_day
from harvester.home import Home
from harvester.rebuild.verify_day import verify
from harvester.simgateway.gateway_settings import GatewaySettings
from harvester.simgateway.server import SimGateway
from tests.budget import budget
from tests.processes import python
from tests.recording import model

PROJECT = Path(__file__).resolve().parent.parent
DATE = date(2025, 7, 17)
KILLS = budget(10, 50)
SILENT_S, COMPILE_S = 60.0, 300.0


class Child:
    """A recorder in its own process; `durable` is the last seq of a commit it reported durable, 0 = none yet."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Path) -> None:
        self.process, self.errors, self.durable = process, errors, 0

    @classmethod
    async def spawn(cls, home: Home, port: int, errors: Path) -> Child:
        with errors.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *python(),
                str(PROJECT / "tests" / "recorder_child.py"),
                str(home.root),
                str(port),
                "ACME,BOLT",
                env={**os.environ, "PYTHONPATH": str(PROJECT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        return cls(process, errors)

    async def until(self, word: str) -> None:
        """Read its lines up to one that begins with `word`."""
        assert self.process.stdout is not None
        said, patience = "", COMPILE_S if word == "ready" else SILENT_S
        while said != word:
            try:
                line = await asyncio.wait_for(self.process.stdout.readline(), patience)
            except TimeoutError:
                line = b""
            assert line, f"no {word!r} from the recorder; it wrote: {self.errors.read_text()[-4000:]}"
            said, _, number = line.decode().strip().partition(" ")
            if said == "durable":
                self.durable = int(number)

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")

    async def kill(self) -> None:
        """Kill it with SIGKILL and read its last reports."""
        assert self.process.stdout is not None
        assert self.process.returncode is None, f"ended by itself: {self.errors.read_text()[-4000:]}"
        self.process.kill()
        for line in (await self.process.stdout.read()).splitlines():
            self.durable = int(line.split()[1])
        await self.process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a busy machine takes long to start fifty recorders; that is not a failure
def test_killed_recorders_lose_nothing_durable(tmp_path: Path) -> None:
    """After each kill every commit reported durable is there, without a hole in seq, and the next run continues.

    One in five dies while it opens. At the end every byte is verified, and live digests of killed runs equal replay.
    """

    async def scenario() -> None:
        home, chance = Home(tmp_path), random.Random(11)
        settings = GatewaySettings(port=0, speed=20.0, grace_s=0.05, gateway_file=home.gateway_file)
        gateway = SimGateway(model(), settings)
        port = await gateway.start()
        children, durable = [await Child.spawn(home, port, tmp_path / "0.err")], 0
        try:
            for attempt in range(KILLS):
                child = children[-1]
                children.append(await Child.spawn(home, port, tmp_path / f"{attempt + 1}.err"))  # loads meanwhile
                await child.until("ready")
                child.go()
                if attempt == 0 or attempt % 5:
                    await child.until("durable")
                await asyncio.sleep(chance.uniform(0.0, 0.35))
                await child.kill()
                durable = child.durable or durable
                if durable:  # journals only: bodies are proven once, at the end
                    day = open_day(DATE, home, check=False)
                    assert day.last_seq >= durable
                    assert day.rows == day.last_seq, "seq has a hole"
        finally:
            for child in children:
                if child.process.returncode is None:
                    child.process.kill()
                    await child.process.communicate()
            await gateway.stop()
        day = open_day(DATE, home)
        assert day.last_seq >= durable > 0
        assert day.rows == day.last_seq, "seq has a hole"
        assert len(day.runs) >= KILLS * 4 // 5
        found = verify(home.on(DATE))
        assert (found.exit_code, found.log.problems, found.live.mismatches) == (0, [], [])
        assert found.live.equal == found.live.points >= KILLS // 2, "most of the killed runs noted digests"
        assert found.broken_off.startswith(day.runs[-1].run)

    asyncio.run(scenario())
