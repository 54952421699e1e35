"""The heartbeat: when nothing arrives, ask the gateway for its time; without an answer, close the connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from harvester.events.kinds import Own
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from harvester.recorder.link import GatewayLink

logger = structlog.get_logger()
HEARTBEAT_S = 10.0  # patience for the answer to a heartbeat


class Heartbeat:
    """Call `check` once a second of market time and `answered` with every answer (message 49)."""

    def __init__(self, line: GatewayLink) -> None:
        self._line = line
        self._answer = asyncio.Event()
        self._last_byte_ts = self._bytes_seen = 0
        self._next_at = 0  # patience

    def answered(self) -> None:
        """The gateway has sent its time."""
        self._answer.set()

    def check(self) -> None:
        """Send a heartbeat when nothing at all has arrived for `silence_seconds` of market time.

        At most one heartbeat in `HEARTBEAT_S` real seconds, at any market speed; none in lockstep, where both
        ends are one process and time stands still while an answer is in flight.
        """
        line = self._line
        if line.pace.lockstep:
            return
        received = line.connection.bytes_received
        if received != self._bytes_seen or not line.up or line.connection.paused:
            self._bytes_seen, self._last_byte_ts = received, line.inbox.last_ts
            return
        quiet_ns = line.inbox.last_ts - self._last_byte_ts
        now = line.pace.patience()
        if quiet_ns > line.settings.silence_seconds * SECOND_NS and now > self._next_at:
            self._next_at = now + round((HEARTBEAT_S + 1.0) * SECOND_NS)
            line.tasks.spawn(self._ask())

    async def _ask(self) -> None:
        line = self._line
        self._answer.clear()
        received, epoch = line.connection.bytes_received, line.inbox.epoch
        await line.limits.message()
        line.requester.current_time()
        answered = await line.pace.within(self._answer, HEARTBEAT_S)
        # Any received byte proves that the gateway is alive; while we do not read, silence proves nothing.
        silent = received == line.connection.bytes_received and not line.connection.paused
        if not answered and silent and line.up and epoch == line.inbox.epoch:
            line.inbox.notice(
                Own.REQUEST_TIMEOUT, f"nothing received, and no answer to a heartbeat within {HEARTBEAT_S:g} s"
            )
            logger.error("connection is dead", silence_seconds=line.settings.silence_seconds)
            line.give_up("nothing received, heartbeat not answered")
