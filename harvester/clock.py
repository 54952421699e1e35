"""The only module that reads the machine's clocks. All other code gets a `Clock` passed in.

Market time stamps events; it is UTC nanoseconds and may run faster than real time. Real time measures commits,
time-outs and back-off.
"""

from __future__ import annotations

import asyncio
import heapq
import mmap
import struct
import time
from contextlib import contextmanager, suppress
from pathlib import PurePath
from typing import TYPE_CHECKING, Protocol, Self

import msgspec

from harvester.files import json_value
from harvester.units import NEVER, SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AFTER_SPEED = 600  # times real time, after the end of a market at maximum speed: extended trading ends in seconds
LOOK_S = 0.004  # real time between two reads of a time that another task or process sets
IN_FLIGHT_BYTES = 1 << 18  # upper bound of what the sockets of gateway and recorder hold at maximum speed


def real_wall_ns() -> int:
    """The machine's wall clock, ns UTC. It may jump."""
    return time.time_ns()


def real_monotonic_ns() -> int:
    """The machine's monotonic clock, ns; the same for all processes of a machine."""
    return time.monotonic_ns()


def clocks_apart(ahead_ns: int) -> str:
    """The difference between the gateway's clock and this machine's, as text."""
    seconds = abs(ahead_ns) // SECOND_NS
    days, rest = divmod(seconds, 86_400)
    span = f"{days} days" if days > 1 else f"{seconds // 3600} h {seconds % 3600 // 60} min {rest % 60} s"
    return f"the gateway's clock is {span} {'ahead of' if ahead_ns > 0 else 'behind'} this machine's"


class Clock(Protocol):
    """Market time. `now` never decreases; `wall` may."""

    def now(self) -> int:
        """Market time, ns UTC: anchor + speed · monotonic."""
        ...

    def wall(self) -> int:
        """Wall clock of the market, ns UTC. A step relative to `now` is recorded as a notice."""
        ...

    async def sleep_until(self, at_ns: int) -> None:
        """Return as soon as `now() >= at_ns`."""
        ...


class MachineClock:
    """Real time: wall time at the start plus monotonic time since then."""

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
    """Market time as a linear function of monotonic time, published by a simulated gateway."""

    market_anchor_ns: int
    monotonic_anchor_ns: int
    speed: float

    def market(self, monotonic_ns: int) -> int:
        """Market time, ns UTC; constant before the anchor."""
        return self.market_anchor_ns + int(max(monotonic_ns - self.monotonic_anchor_ns, 0) * self.speed)


class PublishedAnchor(SpeedAnchor, frozen=True):
    """A `SpeedAnchor` as stored in `gateway.json`.

    `dial` is the name of the mapped file beside it that holds market time at maximum speed; it stops at `final_ns`.
    """

    dial: str = ""
    final_ns: int = NEVER


class Dial:
    """Market time in two words of memory, shared through a mapped file: no system call to read or write it.

    Word 0 is market time, ns UTC. Word 1 is 0, or the monotonic time at which the market ended; from then on market
    time runs at `AFTER_SPEED`. Each word is written by one aligned 8-byte store, so readers never see a partial value.
    """

    _BYTES = 16

    def __init__(self, memory: bytearray | mmap.mmap) -> None:
        self._memory = memory
        self._words = memoryview(memory).cast("q")

    @classmethod
    def create(cls, path: Path | None, at_ns: int) -> Self:
        """A new dial set to `at_ns`, in a new file; without a path it is private to this process."""
        start = struct.pack("qq", at_ns, 0)
        if path is None:
            return cls(bytearray(start))
        path.write_bytes(start)
        with path.open("r+b") as file:
            return cls(mmap.mmap(file.fileno(), cls._BYTES))

    @classmethod
    def open(cls, path: Path) -> Self:
        """The dial of another process, read-only.

        Raises:
            OSError: the file is missing or too short.
        """
        with path.open("rb") as file:
            try:
                return cls(mmap.mmap(file.fileno(), cls._BYTES, access=mmap.ACCESS_READ))
            except ValueError as error:
                raise OSError(f"{path} holds no market time: {error}") from None

    def set(self, at_ns: int) -> None:
        self._words[0] = at_ns

    def end(self) -> None:
        """Mark the end of the market: from now on time runs at `AFTER_SPEED`."""
        self._words[1] = real_monotonic_ns()

    def now(self) -> int:
        """Market time, ns UTC."""
        ended, at_ns = self._words[1], self._words[0]  # in this order: after the end, word 0 is constant
        return at_ns + (real_monotonic_ns() - ended) * AFTER_SPEED if ended else at_ns

    def detach(self) -> None:
        """Unmap the file, which Windows requires before deletion; the dial stays usable in this process."""
        mine, shared = bytearray(self._words.tobytes()), self._memory
        self._words.release()
        self._memory, self._words = mine, memoryview(mine).cast("q")
        if isinstance(shared, mmap.mmap):
            shared.close()


class FileClock:
    """Follow the market time a simulated gateway publishes in `gateway.json`: its dial if it has one, else its anchor.

    Both may change at any time. `now` never decreases, even when they step back.

    A recorder that is connected to the gateway gets the time with the data and passes it to `follow`: then no delay of
    either process makes a stamp late. While nothing comes for `_QUIET_NS` of real time the files count again.

    Attributes:
        path: the file.
        behind_ns: how far the published time was behind the last result of `now`.
    """

    _LOOK_EVERY_NS = SECOND_NS // 10
    _QUIET_NS = 2 * SECOND_NS  # the gateway sends its time at each full second

    def __init__(self, path: Path) -> None:
        self.path, self._last, self.behind_ns = path, 0, 0
        self._dial: Dial | None = None
        self._anchor = PublishedAnchor(0, 0, 0.0)
        self._sent: int | None = None
        self._sent_at, self._held = 0, False
        self._read()

    def _read(self) -> None:
        self._looked = real_monotonic_ns()
        anchor = json_value(self.path.read_bytes(), PublishedAnchor)
        if anchor.dial != self._anchor.dial:
            self._dial = Dial.open(self.path.with_name(PurePath(anchor.dial).name)) if anchor.dial else None
        self._anchor = anchor

    @property
    def leaps(self) -> bool:
        """Whether time jumps from event to event: data sent at an earlier time may still be in flight.

        Time that comes with the data does not: what was sent before it has been read.
        """
        return self._dial is not None and not self._followed

    @property
    def final_ns(self) -> int:
        """Market time at which this clock stops."""
        return self._anchor.final_ns

    def follow(self, at_ns: int | None) -> None:
        """Market time as it came with the data, ns UTC; None: the connection has ended."""
        self._sent, self._sent_at = at_ns, real_monotonic_ns()

    def hold(self, held: bool) -> None:
        """Note that reading from the gateway has been paused or resumed: time that came with data waits for more."""
        self._held, self._sent_at = held, real_monotonic_ns()

    @property
    def _followed(self) -> bool:
        """Whether time comes with the data. A market slower than real time has fewer full seconds."""
        if self._sent is None:
            return False
        quiet_ns = real_monotonic_ns() - self._sent_at
        if self._held or quiet_ns <= self._QUIET_NS:
            return True
        self._look()
        return self._dial is None and quiet_ns * self._anchor.speed <= self._QUIET_NS

    def _look(self) -> None:
        if real_monotonic_ns() - self._looked > self._LOOK_EVERY_NS:
            # While the gateway is gone or replaces the file, the last values stay in use.
            with suppress(OSError, msgspec.DecodeError):
                self._read()

    def now(self) -> int:
        if self._sent is not None and self._followed:
            self._last = max(self._last, self._sent)
            self.behind_ns = self._last - self._sent
            return self._last
        self._look()
        at_ns = self._dial.now() if self._dial is not None else self._anchor.market(real_monotonic_ns())
        at_ns = min(at_ns, self._anchor.final_ns)
        self._last = max(self._last, at_ns)
        self.behind_ns = self._last - at_ns
        return self._last

    def wall(self) -> int:
        return self.now()

    async def sleep_until(self, at_ns: int) -> None:
        while (left := at_ns - self.now()) > 0:
            look = self._dial is not None or self._followed
            await asyncio.sleep(LOOK_S if look else min(left / self._anchor.speed / SECOND_NS, 0.2))


class LockstepClock:
    """One market clock for a gateway and a recorder in one process: it jumps to the next wake-up when both are idle.

    Idle means: `busy()` is not held, and every byte counted as `sent` has been counted as `received`. Sleepers wake at
    exactly their time, one at a time, in order of time and then of their call to `sleep_until`.
    """

    _SETTLE = 3  # event loop iterations in which a woken task may start new work

    def __init__(self, start_ns: int) -> None:
        self._now = start_ns
        self._sleepers: list[tuple[int, int, asyncio.Future[None], bool]] = []
        self._order = 0
        self._busy = self._held = 0
        self._in_flight: dict[object, int] = {}

    def now(self) -> int:
        return self._now

    def wall(self) -> int:
        return self._now

    async def sleep_until(self, at_ns: int, *, pacing: bool = False) -> None:
        """Sleep until `at_ns`. A `pacing` sleeper, which waits to send a request, wakes even on a held clock."""
        if at_ns <= self._now:
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._order += 1
        heapq.heappush(self._sleepers, (at_ns, self._order, woken, pacing))
        await woken

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold time until the first subscription; only pacing sleepers move it."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the clock from jumping during work outside the event loop (a thread, a file)."""
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
        """Remove a closed connection: its in-flight bytes no longer count."""
        self._in_flight.pop(channel, None)

    def _idle(self) -> bool:
        return not self._busy and not any(self._in_flight.values())

    async def run(self) -> None:
        """Move time until cancelled."""
        while True:
            await self._settle()
            while self._sleepers and self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)  # cancelled while sleeping
            if not self._sleepers or (self._held and not self._paced()):
                await asyncio.sleep(0.001)
                continue
            at_ns, _, woken, _ = heapq.heappop(self._sleepers)
            self._now = max(self._now, at_ns)
            woken.set_result(None)

    def _paced(self) -> bool:
        return any(pacing and not woken.done() for _, _, woken, pacing in self._sleepers)

    async def _settle(self) -> None:
        quiet = 0
        while quiet < self._SETTLE:
            quiet = quiet + 1 if self._idle() else 0
            # In-flight bytes need an iteration of the selector; a busy thread needs the interpreter lock.
            await asyncio.sleep(0.0005 if self._busy else 0)


class Elapsed:
    """Time for request pacing, ns since an arbitrary start: market time or real time, whichever passes faster.

    A simulated market waits for the first subscription and may then run faster than real time. In lockstep only market
    time counts, so the machine's speed has no effect.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock, self._lockstep = clock, isinstance(clock, LockstepClock)
        self._market, self._real, self._elapsed = clock.now(), real_monotonic_ns(), 0

    def now(self) -> int:
        if self._lockstep:
            return self._clock.now()
        market, real = self._clock.now(), real_monotonic_ns()
        self._elapsed += max(market - self._market, real - self._real)
        self._market, self._real = market, real
        return self._elapsed
