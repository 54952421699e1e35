"""Subscribe to the streams of every symbol within IB's limits, and again to those that ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from harvester.events.kinds import Action, Kind, Stream
from harvester.gateway.data_requests import request_row
from harvester.recorder.subscriptions import DEPTHS, REVIVAL_S, StreamSubscription, SubscriptionPlan
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harvester.gateway.data_requests import RequestTarget
    from harvester.recorder.backfill import HistoryBackfill
    from harvester.recorder.link import GatewayLink
    from harvester.recorder.subscriptions import SubscriptionRegistry


FARM_SPACING_S = 5.0  # pace time between two requests for the same stream, however often farms return


class RetryPauses:
    """The pause before the next try: longer with every try in a row, short again after a steady stream."""

    def __init__(self) -> None:
        self._tries: dict[tuple[int, Stream], int] = {}

    def next(self, sub: StreamSubscription, pauses: Sequence[float]) -> float:
        """Count one more try and return its pause, one of `pauses`."""
        tries = 0 if sub.was_steady else self._tries.get(sub.key, 0)
        self._tries[sub.key] = tries + 1
        return pauses[min(tries, len(pauses) - 1)]


class Subscriber:
    """Keeps the streams of `targets` subscribed on a line. The registry lists the subscriptions."""

    def __init__(self, line: GatewayLink, registry: SubscriptionRegistry, backfill: HistoryBackfill) -> None:
        self.targets: Sequence[RequestTarget] = ()
        self._line, self._registry, self._backfill = line, registry, backfill
        self._pauses = RetryPauses()
        self._tasks: list[asyncio.Task[None]] = []
        self._exhausted: set[Stream] = set()  # IB grants no more lines of these
        self._round = 0  # increases with every `start`: waiting requests of an earlier round are dropped
        self._turn = 0  # of the depth lines
        self._generic: str | None = None  # generic ticks of L1, when the gateway has refused those of the settings
        self._farm_back = asyncio.Event()

    @property
    def plan(self) -> SubscriptionPlan:
        """The streams to subscribe now."""
        return SubscriptionPlan(self._line.settings, self.targets, self._turn, self._generic)

    def start(self) -> None:
        """Subscribe everything, in the background."""
        for task in self._tasks:
            task.cancel()
        self._exhausted.clear()
        self._round += 1
        self._tasks = [self._line.tasks.spawn(work) for work in (self._subscribe_all(), self._rotate_depth())]

    def restate(self, sub: StreamSubscription) -> None:
        """Write the request of a subscription into the log again; nothing is sent."""
        row = request_row(Action.SUBSCRIBE, sub.stream, sub.target, sub.req_id, sub.params)
        self._line.inbox.put(Kind.REQUEST, row)

    def farm_is_back(self) -> None:
        """A farm or the connection to IB is back: repeat what waits for a permission, a line or live updates."""
        self._farm_back.set()
        self._farm_back = asyncio.Event()

    def use_generic_ticks(self, generic: str) -> None:
        """Request L1 with these generic ticks from now on."""
        self._generic = generic

    def pause_before(self, sub: StreamSubscription, pauses: Sequence[float]) -> float:
        """Pace time before the next try of a subscription, s: one of `pauses`, longer with every try in a row."""
        return self._pauses.next(sub, pauses)

    def exhaust(self, streams: Iterable[Stream]) -> None:
        """Request no further lines of these streams until the next `start`."""
        self._exhausted.update(streams)

    async def subscribe(
        self, stream: Stream, target: RequestTarget, params: Mapping[str, Any], *, again: bool = False
    ) -> None:
        """Subscribe as soon as every limit allows it; `again`: it replaces a line that was granted, so one is free."""
        asked_in = self._round
        if stream in self._exhausted and not again:
            return
        await self._line.limits.subscription(stream, target.con_id)
        if asked_in == self._round and (again or stream not in self._exhausted):
            self._ask(stream, target, params)

    async def renew(self, subs: Sequence[StreamSubscription]) -> None:
        """Cancel subscriptions and request the same under new ids at once; what has to wait for a limit comes last."""
        limits = self._line.limits
        for sub in sorted(
            subs, key=lambda s: 2 * (s.stream is Stream.BARS_5S) + limits.spaced(s.stream, s.target.con_id)
        ):
            if sub.req_id not in self._registry.live:
                continue
            await self._line.limits.subscription(sub.stream, sub.target.con_id)
            quoted = bool(sub.rows) and sub.stream in (Stream.L1, Stream.BID_ASK)
            if await self._cancel(sub, renewed=quoted, again=True):
                self._ask(sub.stream, sub.target, sub.params)

    async def renew_later(self, sub: StreamSubscription, pauses: Sequence[float]) -> None:
        """Cancel a subscription, and request the same after a pause that grows with every try in a row."""
        if await self._cancel(sub, again=True):
            await self.ask_again(sub, self.pause_before(sub, pauses))

    async def ask_again(
        self, sub: StreamSubscription, seconds: float, *, held: bool = False, with_farm: bool = False
    ) -> None:
        """Request the same as a subscription that was refused or cancelled, under a new id, after a pause.

        Args:
            sub: the subscription that ended.
            seconds: pause in pace time.
            held: the gateway may still hold it: cancel it first.
            with_farm: request earlier when a farm returns, but not within `FARM_SPACING_S` of the request before.
        """
        asked_in, pace = self._round, self._line.pace
        if not with_farm:
            await pace.pause(seconds)
        elif await pace.pause_or(self._farm_back, seconds):
            await pace.pause(max(0.0, FARM_SPACING_S - (pace.now() - sub.asked_at) / SECOND_NS))
        has_line = sub.stream not in DEPTHS or sub.target in self.plan.depth()
        if asked_in != self._round or sub.req_id in self._registry.live or not has_line:
            return  # everything was asked for again, the stream flows after all, or its line has gone to another
        if held:
            await self.disown(sub)
        if asked_in == self._round and sub.req_id not in self._registry.live:
            await self.subscribe(sub.stream, sub.target, sub.params, again=True)

    async def disown(self, sub: StreamSubscription) -> None:
        """Cancel a refused subscription that the gateway may hold: later rows under its id belong to no stream."""
        if sub.cancelled:
            return
        sub.cancelled = True
        await self._line.limits.message()
        if self._line.connected:
            self._line.requester.cancel(sub.stream, sub.target, sub.req_id, sub.params, again=True)

    async def revive(self, sub: StreamSubscription) -> None:
        """Renew a silent stream after such a pause, unless rows arrive meanwhile."""
        await self._line.pace.pause(self._pauses.next(sub, REVIVAL_S))
        if sub.silent:
            await self.renew([sub])

    async def _subscribe_all(self) -> None:
        plan = self.plan
        later = []
        for stream, target in plan.first():
            if self._line.limits.spaced(stream, target.con_id):
                later.append((stream, target))  # requests that must wait do not delay the others
            else:
                await self.subscribe(stream, target, plan.params(stream, target))
        self._backfill.start(plan.focus)
        self._tasks.append(self._line.tasks.spawn(self._subscribe_bars(plan)))
        later += [(Stream.BID_ASK, target) for target in plan.bid_ask()]
        for stream, target in later:
            await self.subscribe(stream, target, plan.params(stream, target))

    async def _subscribe_bars(self, plan: SubscriptionPlan) -> None:
        for target in plan.bars():
            await self.subscribe(Stream.BARS_5S, target, plan.params(Stream.BARS_5S, target))

    async def _rotate_depth(self) -> None:
        """Every `depth_rotation_minutes` give the depth lines to the next symbols, if there are more than lines."""
        settings = self._line.settings
        minutes = settings.depth_rotation_minutes
        while minutes and len(self.plan.depth_pool) > settings.depth_lines:
            await self._line.pace.pause(minutes * 60)
            before = self._registry.of(*DEPTHS)
            self._turn += 1
            plan = self.plan
            kept = [sub for sub in before if sub.target in plan.depth()]
            for sub in before:
                if sub not in kept:
                    await self._cancel(sub)
            for target in plan.depth():
                if target not in [sub.target for sub in kept]:
                    await self.subscribe(Stream.DEPTH, target, plan.params(Stream.DEPTH, target), again=True)

    def _ask(self, stream: Stream, target: RequestTarget, params: Mapping[str, Any]) -> None:
        line = self._line
        if not line.connected:
            return  # the next connection requests everything again
        req_id = line.new_req_id()
        self._registry.add(StreamSubscription(req_id, target, stream, params, line.inbox.last_ts, line.pace.now()))
        line.requester.subscribe(stream, target, req_id, params)

    async def _cancel(self, sub: StreamSubscription, *, renewed: bool = False, again: bool = False) -> bool:
        """End a subscription; False when it had ended already. `renewed` and `again`: see `Requester.cancel`."""
        await self._line.limits.message()
        if self._registry.live.pop(sub.req_id, None) is None or not self._line.connected:
            return False
        self._line.requester.cancel(sub.stream, sub.target, sub.req_id, sub.params, renewed=renewed, again=again)
        return True
