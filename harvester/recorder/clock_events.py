"""One `clock` event each second of market time, and what the recorder checks once a second with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from harvester.clock import MachineClock
from harvester.events.kinds import Own
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from harvester.recorder.back_pressure import BackPressure
    from harvester.recorder.session import RecorderSession

logger = structlog.get_logger()

CLOCK_STEP_NS = SECOND_NS // 2  # a wall clock that jumps farther than this against market time is worth a notice


class ClockEvents:
    """Writes the clock events of a recording."""

    def __init__(self, session: RecorderSession, pressure: BackPressure) -> None:
        self._session, self._pressure = session, pressure
        self._inbox, self._clock = session.line.inbox, session.line.pace.clock
        self._wall_offset: int | None = None

    async def run(self) -> None:
        """Write one event at each full second until cancelled; seconds the machine could not keep up with get none.

        A simulated gateway sends full seconds with its data: those get theirs when they are read, until it hangs up.
        """
        self._inbox.on_second = self._second
        while True:
            await self._clock.sleep_until((self._clock.now() // SECOND_NS + 1) * SECOND_NS)
            if self._clock.now() // SECOND_NS > self._inbox.clocked:
                self._second()
            await asyncio.sleep(0)

    def _second(self) -> None:
        self.tick()
        self._pressure.apply()

    def tick(self) -> None:
        """Write one event now, and pass the session the message counts since the last one."""
        self._inbox.put_clock()
        self._session.received(self._inbox.take_counts(), self._inbox.take_ticks())
        if isinstance(self._clock, MachineClock):  # other clocks have no separate wall clock
            self._check_wall(self._clock.wall() - self._clock.now())

    def _check_wall(self, offset: int) -> None:
        before, self._wall_offset = self._wall_offset, offset
        if before is None:
            return
        if abs(offset - before) > CLOCK_STEP_NS:
            self._inbox.notice(Own.CLOCK_STEP, "the wall clock was set", value=offset - before)
            logger.warning("wall clock step", seconds=(offset - before) / SECOND_NS)
        else:
            self._wall_offset = before  # slow drift adds up until it is a step
