"""Waiting in the recorder's three kinds of time.

- *market time* stamps events and drives silence watchdogs; it may stand still, or run faster than real time;
- *pace time* spaces requests: market time, or real time while that runs faster (a simulated market stands still until
  a client subscribes, and its gateway counts its limits in the same time);
- *patience* limits waiting for answers and spaces commits: real time.

In lockstep all three are market time, so that a test or a demo does the same at every speed of the machine.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from harvester.clock import Elapsed, LockstepClock, MachineClock, real_monotonic_ns
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from harvester.clock import Clock

_LOOK_S = 0.05  # interval at which a wait checks a clock that may change its speed


class Timing:
    """The three kinds of time over one market clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lockstep = isinstance(clock, LockstepClock)
        self._fast = not isinstance(clock, MachineClock)
        self.now = Elapsed(clock).now  # pace time, ns since some start

    async def pause(self, seconds: float, *, pacing: bool = False) -> None:
        """Wait in pace time; `pacing`: the next request waits for it."""
        if isinstance(self.clock, LockstepClock):
            await self.clock.sleep_until(self.clock.now() + round(seconds * SECOND_NS), pacing=pacing)
            return
        until = self.now() + round(seconds * SECOND_NS)
        while (left := until - self.now()) > 0:
            await asyncio.sleep(min(left / SECOND_NS, _LOOK_S) if self._fast else left / SECOND_NS)

    async def pause_or(self, event: asyncio.Event, seconds: float, *, pacing: bool = False) -> bool:
        """Wait in pace time, or until an event; returns whether the event came."""
        return await _first(event.wait(), self.pause(seconds, pacing=pacing))

    def patience(self) -> int:
        """Patience, ns since some start."""
        return self.clock.now() if self.lockstep else real_monotonic_ns()

    async def wait_patiently(self, seconds: float) -> None:
        """Wait in patience."""
        if self.lockstep:
            await self.clock.sleep_until(self.clock.now() + round(seconds * SECOND_NS))
        else:
            await asyncio.sleep(seconds)

    async def within(self, future: asyncio.Future[None] | asyncio.Event, seconds: float) -> bool:
        """Wait for a future or event, at most `seconds` of patience; returns whether it came."""
        waiting = future.wait() if isinstance(future, asyncio.Event) else asyncio.shield(future)
        return await _first(waiting, self.wait_patiently(seconds))


async def _first(event: Awaitable[Any], timer: Awaitable[None]) -> bool:
    """Wait for one of two; returns whether the event came."""
    waiting, limit = asyncio.ensure_future(event), asyncio.ensure_future(timer)
    try:
        await asyncio.wait({waiting, limit}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.done()
    finally:
        for task in (waiting, limit):
            task.cancel()
        await asyncio.gather(waiting, limit, return_exceptions=True)


class TokenBucket:
    """At most `burst` at once and `per_second` over time, in pace time. First come, first served.

    `pacing`: a held lockstep clock goes on for those who wait here.
    """

    def __init__(self, pace: Timing, per_second: float, burst: int, *, pacing: bool = False) -> None:
        self._pace, self._per_second, self._burst, self._pacing = pace, per_second, float(burst), pacing
        self._tokens, self._filled = float(burst), pace.now()
        self._held_until = self._filled
        self._queue = asyncio.Lock()

    def slow_down(self) -> None:
        """Halve rate and burst, down to one a second: the gateway finds the rate too high."""
        self._per_second, self._burst = max(self._per_second / 2, 1.0), max(self._burst // 2, 1.0)

    @property
    def held(self) -> bool:
        """Whether nothing is allowed now."""
        return self._pace.now() < self._held_until

    def hold(self, seconds: float) -> None:
        """Allow nothing for so long, then one request, then the rate: the gateway has refused one for its pace."""
        self._held_until = max(self._held_until, self._pace.now() + round(seconds * SECOND_NS))
        self._tokens, self._filled = 1.0, self._held_until

    async def take(self) -> None:
        """Wait until one more request is allowed."""
        async with self._queue:
            while True:
                now = self._pace.now()
                if self.held:
                    await self._pace.pause((self._held_until - now) / SECOND_NS, pacing=self._pacing)
                    continue
                self._tokens = min(self._burst, self._tokens + (now - self._filled) / SECOND_NS * self._per_second)
                self._filled = now
                if self._tokens >= 1 - 1e-9:
                    self._tokens -= 1
                    return
                await self._pace.pause((1 - self._tokens) / self._per_second, pacing=self._pacing)


class Spacing:
    """At least `seconds` of pace time between two requests about the same thing, over all connections."""

    def __init__(self, pace: Timing, seconds: float) -> None:
        self._pace, self._space_ns = pace, round(seconds * SECOND_NS)
        self._free_at: dict[int, int] = {}

    def left(self, thing: int) -> float:
        """Seconds until the next request about it is allowed; 0 or less: now."""
        return (self._free_at.get(thing, 0) - self._pace.now()) / SECOND_NS

    async def take(self, thing: int) -> None:
        """Wait until one more request about it is allowed."""
        while (left := self.left(thing)) > 0:  # a cancelled wait takes nothing
            await self._pace.pause(left)
        self._free_at[thing] = self._pace.now() + self._space_ns
