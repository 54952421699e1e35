"""A recorder on a machine whose disk fills up or whose wall clock is set."""

from __future__ import annotations

import shutil
import subprocess
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from harvester.clock import MachineClock
from harvester.config import Settings
from harvester.errors import LogWriteFailed
from harvester.eventlog.reader import open_day
from harvester.eventlog.verify_log import verify_day
from harvester.events.kinds import Kind, Own
from harvester.files import Disk
from harvester.home import Home
from harvester.recorder.record import record
from harvester.simgateway.gateway_settings import GatewaySettings
from harvester.simgateway.server import SimGateway
from harvester.status import status
from harvester.units import SECOND_NS
from tests.recording import QuickDisk, check_live_equals_replay, lockstep, model, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date
    from pathlib import Path

DATE = "2025-07-17"


@pytest.mark.parametrize(("margin", "words"), [(-(10**9), "No space left on device"), (300_000, "left, the margin is")])
def test_a_full_disk_stops_the_recorder_loudly(tmpfs: Path, margin: int, words: str) -> None:
    """On a full disk, or at its margin: exit code 10, all commits are whole, and recording continues given space."""
    home = Home(tmpfs)
    subprocess.run(["mount", "-o", "remount,size=700k", str(tmpfs)], check=True)
    small: dict[str, Any] = {"disk": Disk(), "disk_margin_bytes": margin, "commit_seconds": 1}
    with pytest.raises(LogWriteFailed, match=words) as caught:
        run(lockstep(model(), home, minutes=60, **small))
    assert caught.value.exit_code == 10
    day = open_day(DATE, home)
    assert f"up to seq {day.last_seq} is safe" in str(caught.value)
    assert day.rows == day.last_seq > 500
    assert not verify_day(home.on(day.trading_date)).problems
    assert check_live_equals_replay(day) >= 1
    assert not status(home.on(day.trading_date)).recording
    subprocess.run(["mount", "-o", "remount,size=32m", str(tmpfs)], check=True)
    again = run(lockstep(model(), home, minutes=1, start_ns=day.last_ts + SECOND_NS, **small)).day()
    assert [one.run for one in again.runs] == ["r001", "r002"]
    assert again.runs[1].first_seq == day.last_seq + 1
    assert not verify_day(home.on(day.trading_date)).problems


def test_a_disk_that_fills_up_is_a_notice_before_it_is_too_late(tmp_path: Path) -> None:
    """Free space below four margins gives a notice with the bytes left; recording continues."""
    free = shutil.disk_usage(tmp_path).free
    recorded = run(lockstep(model(), Home(tmp_path), minutes=8, disk_margin_bytes=free // 3))
    notices = recorded.day().table(Kind.NOTICE).to_pylist()
    low = [n for n in notices if n["code"] == Own.DISK_LOW]
    assert low
    assert 0 < low[0]["value"] < 4 * (free // 3)
    assert recorded.summary.reason == "end of recording"


class SetClock(MachineClock):
    """The machine's clock, with a wall clock that is set by `off` after some seconds."""

    def __init__(self, off: Callable[[float], float]) -> None:
        super().__init__()
        self.off, self.begun = off, self.now()

    def wall(self) -> int:
        return super().wall() + round(self.off((self.now() - self.begun) / SECOND_NS) * SECOND_NS)


@pytest.mark.parametrize(
    ("off", "seconds"),
    [
        (lambda after: 3600.0 if after > 2 else 0.0, 3600.0),
        (lambda after: -3600.0 if after > 2 else 0.0, -3600.0),
        (lambda after: 0.15 * after, 0.6),  # too slow to show from one second to the next
    ],
    ids=["forward", "back", "drift"],
)
def test_a_wall_clock_that_is_set_is_a_notice(tmp_path: Path, off: Callable[[float], float], seconds: float) -> None:
    """One notice with the step; stamps continue by the monotonic clock, and `clock` events have the wall time."""

    async def scenario() -> date:
        gateway = SimGateway(model(symbols=("ACME",)), GatewaySettings(port=0, grace_s=0.0))
        port = await gateway.start()
        made = Settings.load({"port": port, "symbols": ["ACME"], "account": "DU1234567", "disk_margin_bytes": 1})
        clock = SetClock(off)
        try:
            until = clock.begun + round(5.5 * SECOND_NS)
            summary = await record(made, Home(tmp_path), clock, until_ns=until, disk=QuickDisk())
        finally:
            await gateway.stop()
        return summary.runs[0].trading_date

    day = open_day(run(scenario()), Home(tmp_path))
    steps = [n for n in day.table(Kind.NOTICE).to_pylist() if n["code"] == Own.CLOCK_STEP]
    assert len(steps) == 1
    assert steps[0]["value"] / SECOND_NS == pytest.approx(seconds, abs=0.3)
    clocks = day.table(Kind.CLOCK).to_pylist()
    apart = [later["ts_recv"] - before["ts_recv"] for before, later in pairwise(clocks)]
    assert all(0 <= ns < 3 * SECOND_NS for ns in apart)
    last = clocks[-1]["wall_ns"] - clocks[-1]["ts_recv"]
    first = clocks[0]["wall_ns"] - clocks[0]["ts_recv"]
    assert abs(last - first) / SECOND_NS >= abs(seconds) - 0.3
