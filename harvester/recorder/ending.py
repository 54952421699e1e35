"""The end of a recording: a signal, or a market time, with the data that was sent before it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING

from harvester.clock import IN_FLIGHT_BYTES, LockstepClock

if TYPE_CHECKING:
    from harvester.clock import Clock
    from harvester.gateway.connection import Connection
    from harvester.recorder.back_pressure import BackPressure

DRAIN_S, DRAIN_TURNS = 0.1, 600  # real seconds between two checks, and their number
QUIET_TURNS = 10  # after this many checks without a byte nothing is in flight


class Ending:
    """Waits for the end. In lockstep, market time is then constant until `release`."""

    def __init__(self, clock: Clock, connection: Connection, pressure: BackPressure) -> None:
        self._clock, self._connection, self._pressure = clock, connection, pressure
        self._held = ExitStack()

    async def stopped(self, stop: asyncio.Event) -> None:
        """Wait until `stop` is set."""
        await stop.wait()
        self._hold()

    async def due(self, until_ns: int) -> None:
        """Wait for a market time, ns UTC, or for the last one of a clock that ends earlier.

        With a clock that jumps, earlier data may still be in flight; it is waited for.
        """
        await self._clock.sleep_until(min(until_ns, getattr(self._clock, "final_ns", until_ns)))
        if getattr(self._clock, "leaps", False):
            await self._drain()
        self._hold()

    def release(self) -> None:
        """Let a lockstep clock continue."""
        self._held.close()

    def _hold(self) -> None:
        if isinstance(self._clock, LockstepClock):
            self._held.enter_context(self._clock.busy())

    async def _drain(self) -> None:
        """Wait for in-flight data: until as many bytes have come as can be in flight, or none for a while."""
        first = seen = self._connection.bytes_received
        quiet = 0
        for _ in range(DRAIN_TURNS):
            await asyncio.sleep(DRAIN_S)
            now = self._connection.bytes_received
            quiet, seen = (quiet + 1 if now == seen and not self._pressure.paused else 0), now
            if quiet >= QUIET_TURNS or now - first >= IN_FLIGHT_BYTES:
                return
