"""Advance market time: deliver events to subscribers in time order, and run timers between them."""

from __future__ import annotations

import asyncio
import heapq
from contextlib import nullcontext
from typing import TYPE_CHECKING

from harvester.clock import LockstepClock, real_monotonic_ns
from harvester.events.kinds import Stream
from harvester.simgateway.client_subscriptions import REQ_ID_AT
from harvester.simgateway.clock_file import GatewayClock
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harvester.clock import Clock
    from harvester.simgateway.client_session import ClientSession
    from harvester.simgateway.gateway_settings import GatewaySettings
    from harvester.simgateway.gateway_state import GatewayState
    from harvester.simgateway.markets.market_source import MarketEvent, MarketSource

_AT_MOST = 1000  # events between two flushes of the sockets
_STANDING_S = 0.5  # real time between two messages of the time before the start


class Timers:
    """Actions scheduled at market times, in order of time, then of scheduling."""

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
        """Run all actions due by `until_ns`."""
        while self._due and self._due[0][0] <= until_ns:
            ts, _, action = heapq.heappop(self._due)
            action(ts)


class MarketPump:
    """The task that advances the market."""

    def __init__(
        self, market: MarketSource, settings: GatewaySettings, clock: Clock, timers: Timers, state: GatewayState
    ) -> None:
        self._market, self._settings, self._clock = market, settings, clock
        self.timers, self._state = timers, state
        self._subscribed = asyncio.Event()
        self._last_request_ns = 0
        self._at_ns = 0  # market time up to which everything has been sent
        self._going_on: asyncio.Task[None] | None = None
        self.started_ns: int | None = None
        self.over = asyncio.Event()
        state.on_subscribed = self._subscribed.set
        state.on_request = self._on_request

    @property
    def start_ns(self) -> int:
        return max(self._settings.start_ns or self._market.start_ns, self._market.start_ns)

    @property
    def end_ns(self) -> int:
        return min(self._settings.end_ns or self._market.end_ns, self._market.end_ns)

    def _on_request(self) -> None:
        self._last_request_ns = real_monotonic_ns()

    def prepare(self) -> None:
        """Advance the market to the window's start; subscribers get its state at that time."""
        while (ts := self._market.next_ts()) is not None and ts < self.start_ns:
            self._market.advance(self.start_ns - 1, lambda _con_id, _stream: False)

    async def run(self) -> None:
        """Wait for the first subscription and the grace period, then run the market to its end."""
        await self._wait()
        self.started_ns = self._at_ns = self.start_ns
        while (ts := self._next()) is not None and ts <= self.end_ns:
            await self._to(ts)
            await self._flush_all()
        if isinstance(self._clock, GatewayClock):
            self._clock.end()
            self._going_on = asyncio.create_task(self._go_on(), name="time after the market")
        self.over.set()

    def stop(self) -> None:
        """End the time after the market."""
        if self._going_on is not None:
            self._going_on.cancel()

    async def _go_on(self) -> None:
        """Send the full seconds after the market, until cancelled."""
        while True:
            second = (self._at_ns // SECOND_NS + 1) * SECOND_NS
            await self._clock.sleep_until(second)
            self._send_second(second, [session for session in self._state.sessions if session.timed])
            await self._flush_all()

    def _send_second(self, second_ns: int, timed: Iterable[ClientSession]) -> None:
        for session in timed:
            session.stamp(second_ns)
        self._at_ns = second_ns

    async def _to(self, ts: int) -> None:
        """Go on to the next event; with clients that want the time, to the full second before it."""
        timed = [session for session in self._state.sessions if session.timed]
        second = (self._at_ns // SECOND_NS + 1) * SECOND_NS
        if timed and second <= ts:
            await self._reach(second)
            self._send_second(second, timed)
            return
        await self._reach(ts)
        until = min(self._clock.now(), self.end_ns)
        if timed:
            until = max(min(until, second - 1), ts)
        self._advance(until)
        self._at_ns = until

    async def _wait(self) -> None:
        """Wait with constant time: a lockstep clock is held, the gateway's own clock has not started."""
        held = self._clock.hold() if isinstance(self._clock, LockstepClock) else nullcontext()
        with held:
            waiting = asyncio.create_task(self._send_standing_time())
            try:
                await self._subscribed.wait()
                grace_ns = int(self._settings.grace_s * SECOND_NS)
                while (left := self._last_request_ns + grace_ns - real_monotonic_ns()) > 0:
                    await asyncio.sleep(left / SECOND_NS)
            finally:
                waiting.cancel()
            if isinstance(self._clock, GatewayClock):
                self._clock.begin()

    async def _send_standing_time(self) -> None:
        """Repeat the constant time, so that clients follow it when the market starts; until cancelled."""
        while True:
            await asyncio.sleep(_STANDING_S)
            for session in self._state.sessions:
                if session.timed:
                    session.stamp(self._clock.now(), again=True)
                    session.flush()

    async def _reach(self, ts: int) -> None:
        """Move time to the next event: wait for it or, at speed max, set it."""
        if isinstance(self._clock, GatewayClock):
            await self._clock.reach(ts)
        else:
            await self._clock.sleep_until(ts)

    def _next(self) -> int | None:
        times = [ts for ts in (self._market.next_ts(), self.timers.next_ts()) if ts is not None]
        return min(times, default=None)

    def _advance(self, until_ns: int) -> None:
        """Deliver events up to the next timer, then run the timer: at equal times events come first."""
        due = self.timers.next_ts()
        until = until_ns if due is None else min(until_ns, due)
        self.deliver(self._market.advance(until, self._state.registry.wanted, _AT_MOST))
        ahead = self._market.next_ts()
        if due is not None and due <= until_ns and (ahead is None or ahead > due):
            self.timers.run(due)

    def deliver(self, events: Iterable[MarketEvent]) -> None:
        """Deliver events to their subscribers, except to those muted by a fault."""
        subscribers, muted = self._state.registry.subscribers, self._state.muted
        for event in events:
            if event.stream == Stream.OTHER:
                self._broadcast(event)
                continue
            for sub in subscribers(event.con_id, event.stream):
                if (not event.key or event.key == sub.key) and not (sub.session.may_be_muted and muted(sub)):
                    if sub.session.timed:
                        sub.session.stamp(event.ts)
                    sub.deliver(event.fields)

    def _broadcast(self, event: MarketEvent) -> None:
        for session in self._state.sessions:
            if not session.muted:
                for fields in event.fields:
                    session.send(_without_request(fields))

    async def _flush_all(self) -> None:
        """Flush all clients and wait for the slowest one."""
        for session in list(self._state.sessions):
            session.flush()
        for session in list(self._state.sessions):
            await session.drain()
        await asyncio.sleep(0)


def _without_request(fields: list[str]) -> list[str]:
    """The message with -1 as request id, if it has one and it is empty."""
    at = REQ_ID_AT.get(fields[0])
    return fields if at is None else [*fields[:at], fields[at] or "-1", *fields[at + 1 :]]
