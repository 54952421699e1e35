"""Watchdogs in real time: a disk that fills, a log that cannot keep up, a market clock that goes back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from harvester.clock import real_monotonic_ns
from harvester.disk_space import disk_forecast
from harvester.events.kinds import Own
from harvester.recorder.start_checks import check_clock
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from harvester.clock import Clock
    from harvester.config import Settings
    from harvester.home import Home
    from harvester.recorder.back_pressure import BackPressure
    from harvester.recorder.inbox import Inbox

logger = structlog.get_logger()

WATCH_S = 0.25
DISK_LOOK_S = 10.0


async def run_watchdogs(settings: Settings, home: Home, clock: Clock, inbox: Inbox, pressure: BackPressure) -> None:
    """Check until cancelled.

    Raises:
        CannotRun: see `check_clock`.
    """
    disk_checked_at = 0
    while True:
        await asyncio.sleep(WATCH_S)
        check_clock(clock)
        pressure.apply()
        now = real_monotonic_ns()
        if now - disk_checked_at > DISK_LOOK_S * SECOND_NS:
            disk_checked_at = now
            _check_disk(settings, home, inbox)


def _check_disk(settings: Settings, home: Home, inbox: Inbox) -> None:
    free_bytes = disk_forecast(home.events, 0.0).free_bytes
    if free_bytes < 4 * settings.disk_margin_bytes:
        inbox.notice(Own.DISK_LOW, "the disk is filling", value=free_bytes)
        logger.warning("disk low", free_bytes=free_bytes, margin_bytes=settings.disk_margin_bytes)
