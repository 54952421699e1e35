"""Waiting, in the three kinds of time a recorder knows.

- *market time* stamps events and drives silence watchdogs; it may stand, or run faster than real time;
- *pace* is what requests are spaced by: market time, or real time while that runs faster (a simulated market stands
  until somebody subscribes, and its gateway counts its limits by the same time);
- *patience* is how long one waits for an answer, and how often one commits: real time.

In lockstep all three are market time, so that a test or a demo does the same thing at every speed of the machine.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from harvester.clock import Elapsed, LockstepClock, MachineClock, real_monotonic_ns
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from harvester.clock import Clock

_LOOK_S = 0.05  # how often a wait looks at a clock that may change its speed


class Pace:
    """The three kinds of time over one market clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lockstep = isinstance(clock, LockstepClock)
        self._fast = not isinstance(clock, MachineClock)
        self.now = Elapsed(clock).now  # pace time, ns since some start

    async def pause(self, seconds: float, *, pacing: bool = False) -> None:
        """Wait in pace time; `pacing`: for the turn of the next request."""
        if isinstance(self.clock, LockstepClock):
            await self.clock.sleep_until(self.clock.now() + round(seconds * SECOND_NS), pacing=pacing)
            return
        until = self.now() + round(seconds * SECOND_NS)
        while (left := until - self.now()) > 0:
            await asyncio.sleep(min(left / SECOND_NS, _LOOK_S) if self._fast else left / SECOND_NS)

    def patience(self) -> int:
        """Patience, ns since some start."""
        return self.clock.now() if self.lockstep else real_monotonic_ns()

    async def bear(self, seconds: float) -> None:
        """Wait in patience."""
        if self.lockstep:
            await self.clock.sleep_until(self.clock.now() + round(seconds * SECOND_NS))
        else:
            await asyncio.sleep(seconds)

    async def within(self, future: asyncio.Future[None] | asyncio.Event, seconds: float) -> bool:
        """Wait for a future or event, at most `seconds` of patience; whether it came."""
        waiting = asyncio.ensure_future(future.wait() if isinstance(future, asyncio.Event) else asyncio.shield(future))
        timer = asyncio.ensure_future(self.bear(seconds))
        try:
            await asyncio.wait({waiting, timer}, return_when=asyncio.FIRST_COMPLETED)
            return waiting.done()
        finally:
            for task in (waiting, timer):
                task.cancel()
            await asyncio.gather(waiting, timer, return_exceptions=True)


class TokenBucket:
    """At most `burst` at once and `per_second` over time, in pace time. First come, first served.

    `pacing`: what must be asked before a held clock is let go waits here.
    """

    def __init__(self, pace: Pace, per_second: float, burst: int, *, pacing: bool = False) -> None:
        self._pace, self._per_second, self._burst, self._pacing = pace, per_second, float(burst), pacing
        self._tokens, self._filled = float(burst), pace.now()
        self._queue = asyncio.Lock()

    def slow_down(self) -> None:
        """Somebody finds it too much all the same: half as many from here on, down to one a second."""
        self._per_second, self._burst = max(self._per_second / 2, 1.0), max(self._burst // 2, 1.0)

    async def take(self) -> None:
        """Wait until one more request is allowed."""
        async with self._queue:
            while True:
                now = self._pace.now()
                self._tokens = min(self._burst, self._tokens + (now - self._filled) / SECOND_NS * self._per_second)
                self._filled = now
                if self._tokens >= 1 - 1e-9:
                    self._tokens -= 1
                    return
                await self._pace.pause((1 - self._tokens) / self._per_second, pacing=self._pacing)


class Spacing:
    """At least `seconds` of pace time between two requests about the same thing, on whatever connection."""

    def __init__(self, pace: Pace, seconds: float) -> None:
        self._pace, self._space_ns = pace, round(seconds * SECOND_NS)
        self._free_at: dict[int, int] = {}

    def left(self, thing: int) -> float:
        """Seconds until the next request about it is allowed; 0 or less for now."""
        return (self._free_at.get(thing, 0) - self._pace.now()) / SECOND_NS

    async def take(self, thing: int) -> None:
        """Wait for the turn of one more request about it."""
        while (left := self.left(thing)) > 0:  # who gives up waiting has taken no turn
            await self._pace.pause(left)
        self._free_at[thing] = self._pace.now() + self._space_ns
