"""The conversation with the gateway: look up contracts, subscribe, react, ask again after a loss.

Everything heard is in the inbox before anybody reacts to it; every request is in the inbox before it is sent. The line
itself is `line.py`'s, look-ups are `contracts.py`'s, histories `backfill.py`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from harvester.clock import clocks_apart
from harvester.events import codes
from harvester.events.kinds import Action, Kind, Own, Stream
from harvester.gateway.requests import OTHER_NAMES, Target, request_row
from harvester.recorder import subscriptions as subs
from harvester.recorder.backfill import Backfill
from harvester.recorder.contracts import Contracts
from harvester.recorder.line import BACK_OFF_S, Line
from harvester.recorder.line import number as _number
from harvester.recorder.pace import Spacing, TokenBucket
from harvester.recorder.silence import Silence
from harvester.recorder.subscriptions import Plan, Registry, Subscription

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping, Sequence

    from harvester.config import Settings
    from harvester.recorder.inbox import Inbox
    from harvester.recorder.pace import Pace

logger = structlog.get_logger()

HISTORY_PER_SECOND, HISTORY_AT_ONCE = 0.05, 30  # IB allows 60 in any ten minutes, real-time bars included
TICK_BY_TICK_SPACING_S = 15.0  # IB allows one request per instrument in 15 s
DROPPED_S = 3.0  # pace time: an error 100 speaks of messages of the second before it; answers come within the next

_OF_PRINTS = (Stream.ALL_LAST, Stream.LAST, Stream.BARS_5S)
"""Streams that rest while nobody trades: their silence is asked about without a word, the table shows it."""


class Session(Line):
    """What is asked of one gateway and what it grants, over all its connections."""

    def __init__(self, settings: Settings, inbox: Inbox, pace: Pace) -> None:
        super().__init__(settings, inbox, pace)
        self.registry = Registry()
        self.targets: list[Target] = []
        self._history = TokenBucket(pace, HISTORY_PER_SECOND, HISTORY_AT_ONCE)
        self.backfill, self.contracts = Backfill(self), Contracts(self)
        self._tick_by_tick = Spacing(pace, TICK_BY_TICK_SPACING_S)
        self._subscribing: list[asyncio.Task[None]] = []
        self._no_more: set[Stream] = set()
        self._tries: dict[tuple[int, Stream], int] = {}  # by what is asked for: how often in a row it was asked again
        self._data_types: dict[int, int] = {}  # by request id, as message 58 told them
        self._silence = Silence(self.registry, settings.silence_seconds)
        self._round = 0  # rises whenever everything is asked for anew
        self._turn = 0  # of the depth lines
        self._dropping: asyncio.Task[None] | None = None

    # what the connection tells

    def heard(self, fields: list[str]) -> None:
        """A control message; it is in the inbox already."""
        super().heard(fields)
        message = fields[0]
        if message == "10":
            self.contracts.heard(fields)
        elif message == "52" and len(fields) > 2:
            self.contracts.ended(_number(fields[2]))
        elif message == "17" and len(fields) > 1:
            self.backfill.answered(_number(fields[1]))
        elif message == "58" and len(fields) > 3:
            self._heard_data_type(_number(fields[2]), _number(fields[3]))
        elif message == "4" and len(fields) > 4:
            self._heard_error(_number(fields[2]), _number(fields[3]), fields[4])

    def _line_lost(self) -> None:
        self.registry.forget_all()
        self._data_types.clear()
        self.backfill.connection_lost()
        self.contracts.connection_lost()

    def _line_back(self) -> None:
        if self.targets:
            self.start()

    # what the recorder asks

    async def resolve(self, symbols: Iterable[str]) -> None:
        """Look every symbol up; `targets` holds them afterwards, in order.

        Raises:
            UnknownSymbol, GatewayError: see `Contracts.resolve`.
        """
        self.targets = await self.contracts.resolve(symbols)

    def start(self) -> None:
        """Subscribe everything, in the background."""
        for task in self._subscribing:
            task.cancel()
        self._no_more.clear()
        self._silence.clear()
        self._round += 1
        self._subscribing = [self.spawn(work) for work in (self._subscribe_all(), self._take_turns())]

    def restate(self) -> None:
        """A new run begins on the same connection: say again what is subscribed; ask for depth under new ids."""
        for found in self.registry.live.values():
            self._state(found)
            if found.req_id in self._data_types:
                told = {"msg": 58, "value": self._data_types[found.req_id], "text": "as told on the date before"}
                self.inbox.put(Kind.NOTICE, {"con_id": found.target.con_id, "req_id": found.req_id, **told})
        if self.ahead_ns:
            text = f"{clocks_apart(self.ahead_ns)}, as told on the date before"
            self.note(Own.CLOCKS_DIFFER, text, value=self.ahead_ns)
        self.spawn(self._renew(self.registry.of(*subs.DEPTHS)))
        self.spawn(self.contracts.restate(self.targets))
        self.backfill.new_run(self._plan.focus)

    def _state(self, found: Subscription) -> None:
        """Say again in the log what is subscribed; nothing is sent."""
        row = request_row(Action.SUBSCRIBE, found.stream, found.target, found.req_id, found.params)
        self.inbox.put(Kind.REQUEST, row)

    async def say_data_type(self) -> None:
        """Tell the gateway which market data is wanted: it holds for what is asked from then on."""
        await self._messages.take()
        self.requester.market_data_type(self.settings.market_data_type)

    async def may_ask(self) -> None:
        """Wait until IB's pacing allows one more message."""
        await self._messages.take()

    async def may_ask_history(self) -> None:
        """The same for one more history."""
        await self._history.take()
        await self._messages.take()

    # what the committed events tell

    def saw(self, counts: Mapping[int, int]) -> None:
        """Take note of messages heard per request id: grants, silence."""
        for found in self.registry.take_back(counts):
            self._state(found)  # for the folds, which have taken it for refused
            logger.warning("flows although refused", stream=str(found.stream), symbol=found.target.symbol)
        for found in self.registry.saw(counts, self.inbox.last_ts):
            self._about(found, Own.STREAM_GRANTED, f"{found.stream} of {found.target.symbol} flows")
        self._look_for_silence()
        self.look_for_life()

    # subscriptions

    @property
    def _plan(self) -> Plan:
        return Plan(self.settings, self.targets, self._turn)

    async def _subscribe_all(self) -> None:
        plan = self._plan
        later = []
        for stream, target in plan.first():
            if stream in subs.TICK_BY_TICK and self._tick_by_tick.left(target.con_id) > 0:
                later.append((stream, target))  # what has to wait keeps nothing else waiting
            else:
                await self._subscribe(stream, target, plan.params(stream, target))
        self.backfill.start(plan.focus)
        self._subscribing.append(self.spawn(self._subscribe_bars(plan)))
        later += [(Stream.BID_ASK, target) for target in plan.bid_ask()]
        for stream, target in later:
            await self._subscribe(stream, target, plan.params(stream, target))

    async def _subscribe_bars(self, plan: Plan) -> None:
        for target in plan.bars():
            await self._subscribe(Stream.BARS_5S, target, plan.params(Stream.BARS_5S, target))

    async def _subscribe(
        self, stream: Stream, target: Target, params: Mapping[str, Any], *, again: bool = False
    ) -> None:
        """Ask as soon as every limit allows it; `again`: for a line that was ours until now, so that there is one."""
        asked_in = self._round
        if stream in self._no_more and not again:
            return
        if stream is Stream.BARS_5S:
            await self._history.take()
        if stream in subs.TICK_BY_TICK:
            await self._tick_by_tick.take(target.con_id)
        await self._messages.take()
        if asked_in == self._round and (again or stream not in self._no_more):
            self._ask(stream, target, params)

    def _ask(self, stream: Stream, target: Target, params: Mapping[str, Any]) -> None:
        if not self.connection.connected:
            return  # the next connection asks for everything anew
        req_id = self.registry.new_id()
        self.registry.add(Subscription(req_id, target, stream, params, self.inbox.last_ts, self.pace.now()))
        self.requester.subscribe(stream, target, req_id, params)

    async def _cancel(self, found: Subscription) -> bool:
        """End a subscription; whether it was there to be ended."""
        await self._messages.take()
        if self.registry.live.pop(found.req_id, None) is None or not self.connection.connected:
            return False
        self.requester.cancel(found.stream, found.target, found.req_id, found.params)
        return True

    async def _renew(self, old: Sequence[Subscription]) -> None:
        """Cancel subscriptions and ask for the same under new ids."""
        for found in old:
            if await self._cancel(found):
                await self._subscribe(found.stream, found.target, found.params, again=True)

    async def _renew_later(self, found: Subscription, pauses: Sequence[float]) -> None:
        """Cancel, and ask for the same after a pause that grows with every time in a row."""
        if await self._cancel(found):
            await self._ask_again(found, pauses)

    async def _ask_again(self, found: Subscription, pauses: Sequence[float]) -> None:
        """The request of a subscription that ended, under a new id, after such a pause."""
        asked_in, tries = self._round, 0 if found.was_steady else self._tries.get(found.key, 0)
        self._tries[found.key] = tries + 1
        await self.pace.pause(pauses[min(tries, len(pauses) - 1)])
        if asked_in == self._round:
            await self._subscribe(found.stream, found.target, found.params, again=True)

    async def _revive(self, found: Subscription) -> None:
        """Renew a silent stream that seems gone, unless it speaks meanwhile; it stays as it is until then."""
        tries = 0 if found.was_steady else self._tries.get(found.key, 0)
        self._tries[found.key] = tries + 1
        await self.pace.pause(subs.REVIVAL_S[min(tries, len(subs.REVIVAL_S) - 1)])
        if found.silent:
            await self._renew([found])

    async def _take_turns(self) -> None:
        """Hand the depth lines on to the next focus symbols now and then, when there are more symbols than lines."""
        minutes = self.settings.depth_rotation_minutes
        while minutes and len(self._plan.depth_pool) > self.settings.depth_lines:
            await self.pace.pause(minutes * 60)
            ending = self.registry.of(*subs.DEPTHS)
            self._turn += 1
            plan = self._plan
            kept = [found for found in ending if found.target in plan.depth(self._turn)]
            for found in ending:
                if found not in kept:
                    await self._cancel(found)
            for target in plan.depth(self._turn):
                if target not in [found.target for found in kept]:
                    await self._subscribe(Stream.DEPTH, target, plan.params(Stream.DEPTH, target), again=True)

    # errors and data types

    def _heard_error(self, req_id: int, code: int, text: str) -> None:
        if self.contracts.refused(req_id, code, text) or self.backfill.refused(req_id, code, text):
            return
        if req_id in self.registry.live:
            self._heard_about(self.registry.live[req_id], code, text)
        elif code == codes.TOO_FAST:
            logger.warning("the gateway drops messages: too many in a second", code=code, text=text)
            if self._dropping is None or self._dropping.done():
                self._dropping = self.spawn(self._ask_dropped())
        elif code == codes.CONNECTION_LOST:
            self._outage_begins("1100")
        elif code == codes.RESTORED_DATA_LOST:
            self._outage_ends("1101")
            self.registry.forget_all()
            self.start()
        elif code == codes.RESTORED_DATA_KEPT:
            self._outage_ends("1102")
            self._silence.suspect(self.inbox.last_ts)
            self.spawn(self._renew(self.registry.of(*subs.DEPTHS)))
        elif code in codes.FARM_OK:
            self._silence.suspect(self.inbox.last_ts)

    def _heard_about(self, found: Subscription, code: int, text: str) -> None:
        if code == codes.DEPTH_HALTED:
            self.spawn(self._renew_later(found, BACK_OFF_S))
        if code in subs.NOT_LIVE:
            what, found.told_gone = subs.NOT_LIVE[code], code == codes.COMPETING_SESSION
            logger.warning("not live", stream=str(found.stream), symbol=found.target.symbol, code=code, what=what)
        if not subs.is_refusal(code):
            return
        self.registry.refuse(found.req_id, code)
        self._about(found, Own.STREAM_REFUSED, f"{found.stream} of {found.target.symbol}: {text}", value=code)
        logger.warning("stream refused", stream=str(found.stream), symbol=found.target.symbol, code=code, text=text)
        if subs.is_for_now(code, text):
            self.spawn(self._ask_again(found, BACK_OFF_S if code == codes.RESUBSCRIBE else subs.PACING_S))
        elif code == codes.NO_MORE_DEPTH and found.stream in subs.DEPTHS:
            self._no_more.update(subs.DEPTHS)
        elif code in codes.NO_MORE_TICK_BY_TICK and found.stream in subs.TICK_BY_TICK:
            self._no_more.update(subs.TICK_BY_TICK)
        elif found.stream is Stream.DEPTH:
            self._ask_other_depth(found, code)

    def _ask_other_depth(self, found: Subscription, code: int) -> None:
        """By the exchange's other name, else SMART: its own book needs its own permission, SMART may be allowed."""
        other = OTHER_NAMES.get(found.params["exchange"])
        if code == codes.UNKNOWN_CONTRACT and other and found.params["exchange"] == found.target.primary_exchange:
            stream, params = Stream.DEPTH, {**found.params, "exchange": other}
        else:
            stream, params = Stream.SMART_DEPTH, self._plan.params(Stream.SMART_DEPTH, found.target)
        self.spawn(self._subscribe(stream, found.target, params))

    def _heard_data_type(self, req_id: int, value: int) -> None:
        before = self._data_types.get(req_id, 1)
        self._data_types[req_id] = value
        found = self.registry.live.get(req_id)
        if value != before and found is not None:
            tell = logger.info if value == 1 else logger.warning
            tell("data type", symbol=found.target.symbol, data=subs.DATA_TYPES.get(value, str(value)))

    async def _ask_dropped(self) -> None:
        """An error 100 names no request: what was asked around it and stays unanswered is asked again."""
        since = self.pace.now() - round(DROPPED_S * 1e9)
        self._messages.slow_down()
        await self.pace.pause(DROPPED_S, pacing=True)
        self.contracts.dropped(since)
        self.backfill.dropped(since)
        silent = [found for found in self.registry.live.values() if not found.rows and found.asked_at >= since]
        for found in silent:
            self.spawn(self._renew_later(found, (0.0, *subs.PACING_S)))

    def _about(self, found: Subscription, code: Own, text: str, **row: Any) -> None:
        self.note(code, text, {"stream": found.stream.value}, con_id=found.target.con_id, req_id=found.req_id, **row)

    # silence

    def _look_for_silence(self) -> None:
        for found, quiet_ns in list(self._silence.fallen_silent()):
            words = f"{found.stream} of {found.target.symbol} is silent while others flow"
            self._about(found, Own.STREAM_SILENT, words, value=quiet_ns)
            if not self._silence.seems_gone(found):
                continue
            if found.stream not in _OF_PRINTS:
                seconds = quiet_ns // 10**9
                logger.warning("stream silent", stream=str(found.stream), symbol=found.target.symbol, seconds=seconds)
            self.spawn(self._revive(found))
        if dead := self._silence.dead():
            self.spawn(self._renew(dead))
