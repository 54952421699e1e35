"""The only module that reads the machine's clocks. Everything else is handed a `Clock`.

Market time is what events are stamped with; it is UTC nanoseconds and may run faster than real time. Real time is what
commits, time-outs and back-off are measured in.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECOND_NS = 1_000_000_000


def real_wall_ns() -> int:
    """The machine's wall clock, ns UTC. May jump."""
    return time.time_ns()


def real_monotonic_ns() -> int:
    """The machine's monotonic clock, ns. Shared by the processes of one machine, never runs back."""
    return time.monotonic_ns()


class Clock(Protocol):
    """Market time. `now` never runs back; `wall` may."""

    def now(self) -> int:
        """Market time, ns UTC: anchor + speed · monotonic."""
        ...

    def wall(self) -> int:
        """What a wall clock in the market shows, ns UTC; a step of it against `now` is worth a notice."""
        ...

    async def sleep_until(self, at_ns: int) -> None:
        """Return as soon as `now() >= at_ns`."""
        ...


class MachineClock:
    """Real time: wall time at the start, plus monotonic time since."""

    def __init__(self) -> None:
        self._anchor = real_wall_ns() - real_monotonic_ns()

    def now(self) -> int:
        return self._anchor + real_monotonic_ns()

    def wall(self) -> int:
        return real_wall_ns()

    async def sleep_until(self, at_ns: int) -> None:
        while (left := at_ns - self.now()) > 0:
            await asyncio.sleep(min(left / SECOND_NS, 60))


class SpeedAnchor(msgspec.Struct, frozen=True):
    """What a simulated gateway publishes so that a recorder can share its market time."""

    market_anchor_ns: int
    monotonic_anchor_ns: int
    speed: float

    def market(self, monotonic_ns: int) -> int:
        return self.market_anchor_ns + int((monotonic_ns - self.monotonic_anchor_ns) * self.speed)


class PublishedAnchor(SpeedAnchor, frozen=True):
    """A `SpeedAnchor` as it stands in `gateway.json`, with what else a follower has to know."""

    state: str = ""
    coarse: bool = False


class SpeedClock:
    """Market time that runs `speed` times as fast as real time, from an anchor two processes can share."""

    def __init__(self, anchor: SpeedAnchor) -> None:
        self.anchor = anchor

    def now(self) -> int:
        return self.anchor.market(real_monotonic_ns())

    def wall(self) -> int:
        return self.now()

    async def sleep_until(self, at_ns: int) -> None:
        while (left := at_ns - self.now()) > 0:
            await asyncio.sleep(min(left / self.anchor.speed / SECOND_NS, 60))


class FileClock:
    """Follow the `SpeedAnchor` a simulated gateway writes into a file; the anchor may be set anew while we run.

    `now` never runs back, even when the new anchor does.
    """

    _LOOK_EVERY_NS = SECOND_NS // 10

    def __init__(self, path: Path) -> None:
        self._path, self._looked, self._last = path, 0, 0
        self._anchor = self._read()

    def _read(self) -> PublishedAnchor:
        return msgspec.json.decode(self._path.read_bytes(), type=PublishedAnchor)

    @property
    def coarse(self) -> bool:
        """Whether this clock may be ahead of what has been sent (a gateway as fast as possible)."""
        return self._anchor.coarse

    @property
    def over(self) -> bool:
        """Whether the gateway has sent all of its market."""
        return self._anchor.state == "ended"

    def now(self) -> int:
        mono = real_monotonic_ns()
        if mono - self._looked > self._LOOK_EVERY_NS:
            self._looked = mono
            # When the gateway is gone or replacing the file, the last anchor stays in force.
            with suppress(OSError, msgspec.DecodeError):
                self._anchor = self._read()
        self._last = max(self._last, self._anchor.market(mono))
        return self._last

    def wall(self) -> int:
        return self.now()

    async def sleep_until(self, at_ns: int) -> None:
        while (left := at_ns - self.now()) > 0:
            await asyncio.sleep(min(left / self._anchor.speed / SECOND_NS, 0.2))


class LockstepClock:
    """One market clock for a gateway and a recorder in one process: it jumps to the next event when both are idle.

    Idle means: nobody holds `busy()`, and every byte counted as `sent` has been counted as `received`. Each sleeper is
    woken at exactly its time, sleepers of one instant in the order in which they fell asleep, one after the other.
    """

    _SETTLE = 3  # turns of the event loop in which a woken task may start something new

    def __init__(self, start_ns: int) -> None:
        self._now = start_ns
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = 0
        self._busy = 0
        self._in_flight: dict[object, int] = {}

    def now(self) -> int:
        return self._now

    def wall(self) -> int:
        return self._now

    async def sleep_until(self, at_ns: int) -> None:
        if at_ns <= self._now:
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._order += 1
        heapq.heappush(self._sleepers, (at_ns, self._order, woken))
        await woken

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the clock from jumping while work is under way that the event loop cannot see (a thread, a file)."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    def sent(self, channel: object, n_bytes: int) -> None:
        self._in_flight[channel] = self._in_flight.get(channel, 0) + n_bytes

    def received(self, channel: object, n_bytes: int) -> None:
        self.sent(channel, -n_bytes)

    def closed(self, channel: object) -> None:
        """Forget a connection: what was in flight on it is lost."""
        self._in_flight.pop(channel, None)

    def _idle(self) -> bool:
        return not self._busy and not any(self._in_flight.values())

    async def run(self) -> None:
        """Move time until cancelled."""
        while True:
            await self._settle()
            while self._sleepers and self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)  # cancelled in its sleep
            if not self._sleepers:
                await asyncio.sleep(0.001)
                continue
            at_ns, _, woken = heapq.heappop(self._sleepers)
            self._now = max(self._now, at_ns)
            woken.set_result(None)

    async def _settle(self) -> None:
        quiet = 0
        while quiet < self._SETTLE:
            quiet = quiet + 1 if self._idle() else 0
            # A byte in flight needs a turn of the selector; a busy thread needs the interpreter.
            await asyncio.sleep(0.0005 if self._busy else 0)
