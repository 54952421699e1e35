"""Move market time: events to subscribers in time order, and what is due at a market time in between."""

from __future__ import annotations

import asyncio
import heapq
from contextlib import nullcontext
from typing import TYPE_CHECKING

from harvester.clock import LockstepClock, real_monotonic_ns
from harvester.events.kinds import Stream
from harvester.simgateway.clockfile import GatewayClock
from harvester.simgateway.subscriptions import REQ_ID_AT
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harvester.clock import Clock
    from harvester.simgateway.desk import Desk
    from harvester.simgateway.market import Market, MarketEvent
    from harvester.simgateway.settings import GatewaySettings

_AT_MOST = 1000  # events between two looks at the sockets


class Timers:
    """What is due at a market time, in order of time, then of entry."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._order = clock, 0
        self._due: list[tuple[int, int, Callable[[int], None]]] = []

    def at(self, ts: int, action: Callable[[int], None]) -> None:
        """Call `action(ts)` at market time `ts`."""
        self._order += 1
        heapq.heappush(self._due, (ts, self._order, action))

    def after(self, seconds: float, action: Callable[[int], None]) -> None:
        self.at(self._clock.now() + int(seconds * SECOND_NS), action)

    def next_ts(self) -> int | None:
        return self._due[0][0] if self._due else None

    def run(self, until_ns: int) -> None:
        """Do what is due."""
        while self._due and self._due[0][0] <= until_ns:
            ts, _, action = heapq.heappop(self._due)
            action(ts)


class Pump:
    """The one task that moves the market."""

    def __init__(self, market: Market, settings: GatewaySettings, clock: Clock, timers: Timers, desk: Desk) -> None:
        self._market, self._settings, self._clock = market, settings, clock
        self.timers, self._desk = timers, desk
        self._subscribed = asyncio.Event()
        self._heard_ns = 0
        self.started_ns: int | None = None
        self.over = asyncio.Event()
        desk.subscribed = self._subscribed.set
        desk.heard = self._heard

    @property
    def start_ns(self) -> int:
        return max(self._settings.start_ns or self._market.start_ns, self._market.start_ns)

    @property
    def end_ns(self) -> int:
        return min(self._settings.end_ns or self._market.end_ns, self._market.end_ns)

    def _heard(self) -> None:
        self._heard_ns = real_monotonic_ns()

    def prepare(self) -> None:
        """Move the market to the window's start, where it waits; newcomers get the state of that instant."""
        while (ts := self._market.next_ts()) is not None and ts < self.start_ns:
            self._market.advance(self.start_ns - 1, lambda _con_id, _stream: False)

    async def run(self) -> None:
        """Wait for the first stream and a grace of quiet, then run the market to its end."""
        await self._wait()
        self.started_ns = self.start_ns
        while (ts := self._next()) is not None and ts <= self.end_ns:
            await self._reach(ts)
            self._move(min(self._clock.now(), self.end_ns))
            await self._out()
        if isinstance(self._clock, GatewayClock):
            self._clock.end()
        self.over.set()

    async def _wait(self) -> None:
        """Time stands: a lockstep clock is held, a clock of our own has not begun."""
        held = self._clock.hold() if isinstance(self._clock, LockstepClock) else nullcontext()
        with held:
            await self._subscribed.wait()
            grace_ns = int(self._settings.grace_s * SECOND_NS)
            while (left := self._heard_ns + grace_ns - real_monotonic_ns()) > 0:
                await asyncio.sleep(left / SECOND_NS)
            if isinstance(self._clock, GatewayClock):
                self._clock.begin()

    async def _reach(self, ts: int) -> None:
        """Wait for the time of the next event, or set it."""
        if isinstance(self._clock, GatewayClock):
            await self._clock.reach(ts)
        else:
            await self._clock.sleep_until(ts)

    def _next(self) -> int | None:
        both = [ts for ts in (self._market.next_ts(), self.timers.next_ts()) if ts is not None]
        return min(both, default=None)

    def _move(self, until_ns: int) -> None:
        """Events up to the next timer first, then the timer: one that is due at an event's time comes after it."""
        due = self.timers.next_ts()
        upto = until_ns if due is None else min(until_ns, due)
        self.dispatch(self._market.advance(upto, self._desk.registry.wanted, _AT_MOST))
        ahead = self._market.next_ts()
        if due is not None and due <= until_ns and (ahead is None or ahead > due):
            self.timers.run(due)

    def dispatch(self, events: Iterable[MarketEvent]) -> None:
        """Give events to those who want them and may have them."""
        wanting, withheld = self._desk.registry.wanting, self._desk.withheld
        for event in events:
            if event.stream == Stream.OTHER:
                self._to_all(event)
                continue
            for sub in wanting(event.con_id, event.stream):
                if (not event.key or event.key == sub.key) and not (sub.session.watched and withheld(sub)):
                    sub.deliver(event.fields)

    def _to_all(self, event: MarketEvent) -> None:
        for session in self._desk.sessions:
            if not session.muted:
                for fields in event.fields:
                    session.send(_unasked(fields))

    async def _out(self) -> None:
        """Write what was queued and wait for the slowest client."""
        for session in list(self._desk.sessions):
            session.flush()
        for session in list(self._desk.sessions):
            await session.drain()
        await asyncio.sleep(0)


def _unasked(fields: list[str]) -> list[str]:
    """A message that belongs to no request carries -1 where its id would stand."""
    at = REQ_ID_AT.get(fields[0])
    return fields if at is None else [*fields[:at], fields[at] or "-1", *fields[at + 1 :]]
