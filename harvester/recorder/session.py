"""The conversation with the gateway: look up contracts, subscribe, react, ask again after a loss.

Everything heard is in the inbox before anybody reacts to it; every request is in the inbox before it is sent. The line
itself is `line.py`'s.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from harvester.errors import GatewayError, UnknownSymbol
from harvester.events.kinds import Action, Kind, Own, Stream
from harvester.gateway.connection import LineLost
from harvester.gateway.requests import EXCHANGE_NAMES, Target, request_row
from harvester.recorder import subscriptions as subs
from harvester.recorder.backfill import Backfill
from harvester.recorder.line import BACK_OFF_S, Line
from harvester.recorder.line import number as _number
from harvester.recorder.pace import Spacing, TokenBucket
from harvester.recorder.silence import Silence
from harvester.recorder.subscriptions import Plan, Registry, Subscription

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harvester.config import Settings
    from harvester.recorder.inbox import Inbox
    from harvester.recorder.pace import Pace

logger = structlog.get_logger()

HISTORY_PER_SECOND, HISTORY_AT_ONCE = 0.1, 50  # IB allows 60 in ten minutes, real-time bars included
TICK_BY_TICK_SPACING_S = 15.0  # IB allows one request per instrument in 15 s
PACING_S = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0)  # pace time before a request refused for its pace is repeated
CONNECTION_LOST, RESTORED_DATA_LOST, RESTORED_DATA_KEPT = 1100, 1101, 1102
FARM_OK = frozenset({2104, 2106, 2158})
UNKNOWN_CONTRACT = 200


class Lookup:
    """One contract look-up in flight."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.found: list[Target] = []
        self.error: tuple[int, str] | None = None
        self.lost = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Session(Line):
    """What is asked of one gateway and what it grants, over all its connections."""

    def __init__(self, settings: Settings, inbox: Inbox, pace: Pace) -> None:
        super().__init__(settings, inbox, pace)
        self.registry = Registry()
        self.targets: list[Target] = []
        self._history = TokenBucket(pace, HISTORY_PER_SECOND, HISTORY_AT_ONCE)
        self.backfill = Backfill(self)
        self._tick_by_tick = Spacing(pace, TICK_BY_TICK_SPACING_S)
        self._lookups: dict[int, Lookup] = {}
        self._subscribing: asyncio.Task[None] | None = None
        self._no_more: set[Stream] = set()
        self._paced: dict[tuple[int, Stream], int] = {}
        self._silence = Silence(self.registry, settings.silence_seconds)
        self._round = 0  # rises whenever everything is asked for anew

    # what the connection tells

    def heard(self, fields: list[str]) -> None:
        """A control message; it is in the inbox already."""
        super().heard(fields)
        message = fields[0]
        if message == "10":
            self._heard_contract(fields)
        elif message == "52" and len(fields) > 2:
            lookup = self._lookups.get(_number(fields[2]))
            if lookup is not None:
                lookup.finish()
        elif message == "17" and len(fields) > 1:
            self.backfill.answered(_number(fields[1]))
        elif message == "4" and len(fields) > 4:
            self._heard_error(_number(fields[2]), _number(fields[3]), fields[4])

    def _line_lost(self) -> None:
        self.registry.forget_all()
        self.backfill.connection_lost()
        for lookup in self._lookups.values():
            lookup.lost = True
            lookup.finish()

    def _line_back(self) -> None:
        if self.targets:
            self.start()

    # what the recorder asks

    async def resolve(self, symbols: Iterable[str]) -> None:
        """Look every symbol up; `targets` holds them afterwards, in order. A lost line is waited for.

        Raises:
            UnknownSymbol: the gateway knows no such contract.
            GatewayError: it does not answer, or the line does not come back, within `timeout_seconds`.
        """
        found: dict[str, Target] = {}
        limit = self.settings.timeout_seconds
        until = self.pace.patience() + round(limit * 1e9)
        while True:
            try:
                await self._look_all_up(symbols, found)
            except LineLost:
                left = (until - self.pace.patience()) / 1e9
                if left <= 0 or not await self.wait_until_back(left):
                    where = f"{self.settings.gateway_host}:{self.settings.port}"
                    raise GatewayError(
                        f"{where} hung up while contracts were looked up, and was not back for good within "
                        f"{limit:g} s; look at its own window and log"
                    ) from None
            else:
                self.targets = list(found.values())
                return

    async def _look_all_up(self, symbols: Iterable[str], found: dict[str, Target]) -> None:
        if not found:
            await self._messages.take()
            self.requester.market_data_type(self.settings.market_data_type)
        for symbol in dict.fromkeys(symbols):
            if symbol not in found:
                found[symbol] = await self._look_up(symbol)

    def start(self) -> None:
        """Subscribe everything, in the background."""
        if self._subscribing is not None:
            self._subscribing.cancel()
        self._no_more.clear()
        self._silence.clear()
        self._round += 1
        self._subscribing = self.spawn(self._subscribe_all())

    def restate(self) -> None:
        """A new run begins on the same connection: say again what is subscribed; ask for depth under new ids."""
        for found in self.registry.live.values():
            row = request_row(Action.SUBSCRIBE, found.stream, found.target, found.req_id, found.params)
            self.inbox.put(Kind.REQUEST, row)
        self.spawn(self._renew(self.registry.of(*subs.DEPTHS)))
        self.backfill.new_run(Plan(self.settings, self.targets).focus)

    async def may_ask_history(self) -> None:
        """Wait until IB's pacing allows one more history, and one more message."""
        await self._history.take()
        await self._messages.take()

    # what the committed events tell

    def saw(self, counts: Mapping[int, int]) -> None:
        """Take note of messages heard per request id: grants, silence."""
        for found in self.registry.saw(counts, self.inbox.last_ts):
            self._about(found, Own.STREAM_GRANTED, f"{found.stream} of {found.target.symbol} flows")
            self._paced.pop((found.target.con_id, found.stream), None)
        self._look_for_silence()
        self.look_for_life()

    # contracts

    async def _look_up(self, symbol: str) -> Target:
        await self._messages.take()
        req_id, lookup = self.registry.new_id(), Lookup(symbol)
        self._lookups[req_id] = lookup
        try:
            self.requester.contract_details(req_id, Target(symbol))
            answered = await self.pace.within(lookup.done, self.settings.timeout_seconds)
        finally:
            del self._lookups[req_id]
        if lookup.lost:
            raise LineLost(f"the connection was lost while {symbol} was looked up")
        if not answered:
            self.note(Own.REQUEST_TIMEOUT, f"no contract details of {symbol}", req_id=req_id)
            raise GatewayError(
                f"no answer about {symbol} within {self.settings.timeout_seconds:g} s; "
                "is the gateway connected to IB's servers? (see its own window)"
            )
        if lookup.error is not None or not lookup.found:
            code, text = lookup.error or (UNKNOWN_CONTRACT, "an empty answer")
            if code == UNKNOWN_CONTRACT:
                raise UnknownSymbol(f"the gateway knows no US stock {symbol!r} ({code}: {text}); check --symbols")
            raise GatewayError(f"the gateway refuses to say what {symbol!r} is ({code}: {text})")
        return self._choose(lookup.found)

    def _choose(self, found: list[Target]) -> Target:
        """Of several contracts, the one listed where the settings say, else the first."""
        wanted = EXCHANGE_NAMES.get(self.settings.primary_exchange, self.settings.primary_exchange)
        listed = [t for t in found if EXCHANGE_NAMES.get(t.primary_exchange, t.primary_exchange) == wanted]
        return (listed or found)[0]

    def _heard_contract(self, fields: list[str]) -> None:
        lookup = self._lookups.get(_number(fields[1])) if len(fields) > 20 else None
        if lookup is not None and _number(fields[12]) > 0:
            con_id = _number(fields[12])
            lookup.found.append(Target(lookup.symbol, con_id, fields[3], "SMART", fields[20], fields[8]))

    # subscriptions

    async def _subscribe_all(self) -> None:
        plan = Plan(self.settings, self.targets)
        later = []
        for stream, target in plan.first():
            if stream in subs.TICK_BY_TICK and self._tick_by_tick.left(target.con_id) > 0:
                later.append((stream, target))  # what has to wait keeps nothing else waiting
            elif stream not in self._no_more:
                await self._subscribe(stream, target, plan.params(stream, target))
        self.backfill.start(plan.focus)
        later += [(Stream.BID_ASK, target) for target in plan.bid_ask()]
        for stream, target in later:
            if stream not in self._no_more:
                await self._subscribe(stream, target, plan.params(stream, target))

    async def _subscribe(self, stream: Stream, target: Target, params: Mapping[str, Any]) -> None:
        """Ask as soon as every limit allows it."""
        asked_in = self._round
        if stream is Stream.BARS_5S:
            await self._history.take()
        if stream in subs.TICK_BY_TICK:
            await self._tick_by_tick.take(target.con_id)
        await self._messages.take()
        if asked_in == self._round and stream not in self._no_more:
            self._ask(stream, target, params)

    def _ask(self, stream: Stream, target: Target, params: Mapping[str, Any]) -> None:
        if not self.connection.connected:
            return  # the next connection asks for everything anew
        req_id = self.registry.new_id()
        self.registry.add(Subscription(req_id, target, stream, params, self.inbox.last_ts))
        self.requester.subscribe(stream, target, req_id, params)

    async def _renew(self, old: list[Subscription]) -> None:
        """Cancel subscriptions and ask for the same under new ids."""
        for found in old:
            await self._messages.take()
            if self.registry.live.pop(found.req_id, None) is None or not self.connection.connected:
                continue
            self.requester.cancel(found.stream, found.target, found.req_id, found.params)
            await self._subscribe(found.stream, found.target, found.params)

    def _heard_error(self, req_id: int, code: int, text: str) -> None:
        if (lookup := self._lookups.get(req_id)) is not None:
            if subs.is_refusal(code):
                lookup.error = (code, text)
                lookup.finish()
        elif self.backfill.refused(req_id, code, text):
            pass  # a history that does not come ends nothing
        elif req_id in self.registry.live:
            self._heard_about(self.registry.live[req_id], code, text)
        elif code == CONNECTION_LOST:
            self._outage_begins("1100")
        elif code == RESTORED_DATA_LOST:
            self._outage_ends("1101")
            self.registry.forget_all()
            self.start()
        elif code == RESTORED_DATA_KEPT:
            self._outage_ends("1102")
            self._silence.suspect(self.inbox.last_ts)
            self.spawn(self._renew(self.registry.of(*subs.DEPTHS)))
        elif code in FARM_OK:
            self._silence.suspect(self.inbox.last_ts)

    def _heard_about(self, found: Subscription, code: int, text: str) -> None:
        if code == subs.HALTED:
            self.spawn(self._renew([found]))
        if not subs.is_refusal(code):
            return
        self.registry.refuse(found.req_id, code)
        self._about(found, Own.STREAM_REFUSED, f"{found.stream} of {found.target.symbol}: {text}", value=code)
        logger.warning("stream refused", stream=str(found.stream), symbol=found.target.symbol, code=code, text=text)
        if subs.is_for_now(code, text):
            self.spawn(self._ask_again(found, code))
        elif code == subs.NO_MORE_DEPTH:
            self._no_more.update(subs.DEPTHS)
        elif code in subs.NO_MORE_TICK_BY_TICK:
            self._no_more.update(subs.TICK_BY_TICK)
        elif found.stream is Stream.DEPTH:
            # The exchange's own book needs its own subscription; SMART depth may be allowed all the same.
            params = Plan(self.settings, self.targets).params(Stream.SMART_DEPTH, found.target)
            self.spawn(self._subscribe(Stream.SMART_DEPTH, found.target, params))

    async def _ask_again(self, found: Subscription, code: int) -> None:
        """A refusal for the moment: the same request under a new id, after a pause that grows with every refusal."""
        key, asked_in = (found.target.con_id, found.stream), self._round
        tries = self._paced.get(key, 0)
        self._paced[key] = tries + 1
        pauses = BACK_OFF_S if code == subs.RESUBSCRIBE else PACING_S
        await self.pace.pause(pauses[min(tries, len(pauses) - 1)])
        if asked_in == self._round:
            await self._subscribe(found.stream, found.target, found.params)

    def _about(self, found: Subscription, code: Own, text: str, **row: Any) -> None:
        self.note(code, text, {"stream": found.stream.value}, con_id=found.target.con_id, req_id=found.req_id, **row)

    # silence

    def _look_for_silence(self) -> None:
        for found, quiet_ns in self._silence.fallen_silent():
            words = f"{found.stream} of {found.target.symbol} is silent while others flow"
            self._about(found, Own.STREAM_SILENT, words, value=quiet_ns)
        if dead := self._silence.dead():
            self.spawn(self._renew(dead))
