"""The conversation with the gateway: connect, look up contracts, subscribe, react, come back after a loss.

Everything heard is in the inbox before anybody reacts to it; every request is in the inbox before it is sent.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from harvester.errors import BadSetting, ClientIdInUse, GatewayError, UnknownSymbol
from harvester.events.kinds import Action, Kind, Own, Stream
from harvester.gateway.connection import Connection
from harvester.gateway.requests import EXCHANGE_NAMES, Requester, Target, request_row
from harvester.recorder import subscriptions as subs
from harvester.recorder.backfill import Backfill
from harvester.recorder.pace import TokenBucket
from harvester.recorder.subscriptions import Plan, Registry, Subscription

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harvester.config import Settings
    from harvester.recorder.inbox import Inbox
    from harvester.recorder.pace import Pace

logger = structlog.get_logger()

CONNECT_S_MAX = 15.0  # patience for a handshake; `timeout_seconds` when that is shorter
BACK_OFF_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)  # pace time between attempts to come back
MESSAGES_PER_SECOND, MESSAGES_AT_ONCE = 40.0, 40  # IB allows 50 a second
HISTORY_PER_SECOND, HISTORY_AT_ONCE = 0.1, 50  # IB allows 60 in ten minutes, real-time bars included
TICK_BY_TICK_SPACING_S = 15.0  # IB allows one request per instrument in 15 s
CONNECTION_LOST, RESTORED_DATA_LOST, RESTORED_DATA_KEPT = 1100, 1101, 1102
FARM_OK = frozenset({2104, 2106, 2158})
UNKNOWN_CONTRACT = 200


class Lookup:
    """One contract look-up in flight."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.found: list[Target] = []
        self.error: tuple[int, str] | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Session:
    """One gateway, over all its connections. `failure` is set by what must end the recording."""

    def __init__(self, settings: Settings, inbox: Inbox, pace: Pace) -> None:
        self.settings, self.inbox, self.pace = settings, inbox, pace
        self.registry = Registry()
        self.targets: list[Target] = []
        self.outages = 0
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.connection = Connection(inbox, self, pace.clock)
        self.requester = Requester(self.connection, inbox.put)
        self._messages = TokenBucket(pace, MESSAGES_PER_SECOND, MESSAGES_AT_ONCE)
        self._history = TokenBucket(pace, HISTORY_PER_SECOND, HISTORY_AT_ONCE)
        self.backfill = Backfill(self)
        self._lookups: dict[int, Lookup] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscribing: asyncio.Task[None] | None = None
        self._no_more: set[Stream] = set()
        self._outage = False
        self._suspect_since: int | None = None
        self._closing = self._up = False

    # what the connection tells

    def heard(self, fields: list[str]) -> None:
        """A control message; it is in the inbox already."""
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

    def sending(self, text: str) -> None:
        """A message is about to leave: its exact text goes first into the inbox."""
        row = {"con_id": self.requester.con_id, "req_id": self.requester.req_id}
        self.inbox.put(Kind.RAW, {**row, "msg": _number(text.split("\0", 1)[0]), "fields": text, "reason": "sent"})

    def refused(self, message_id: int, text: str) -> None:
        self.note(
            Own.MESSAGE_BLOCKED, "the guard stopped a message before the socket", {"text": text}, value=message_id
        )
        logger.error("message blocked", message_id=message_id)

    def lost(self, reason: str) -> None:
        """The line is down. Ours to restore unless we closed it ourselves."""
        if self._closing or not self._up:
            return  # ours to close, or an attempt to connect that failed
        self._up = False
        self.note(Own.DISCONNECTED, reason or "the gateway closed the connection")
        self._outage_begins("socket")
        self.registry.forget_all()
        self.backfill.connection_lost()
        for lookup in self._lookups.values():
            lookup.error = (-1, "the connection was lost")
            lookup.finish()
        if self.targets:
            self.spawn(self._come_back())

    def garbled(self, waiting: bytes) -> None:
        """The stream has lost its frames: keep what there is as text, hang up, come back."""
        if not self._up:
            return
        text = waiting.decode("utf-8", "backslashreplace")
        self.inbox.put(Kind.RAW, {"fields": text, "reason": "undecodable"})
        words = "what arrives frames to no message; reconnecting"
        self.note(Own.BYTES_WITHOUT_MESSAGES, words, value=len(waiting))
        logger.error("stream without frames", bytes=len(waiting))
        self.lost("the stream lost its frames")
        self.connection.disconnect()

    def failed(self, error: Exception) -> None:
        """The tap failed: end the recording with the error."""
        if not self.failure.done():
            self.failure.set_exception(error)

    # what the recorder asks

    async def open(self) -> None:
        """Connect for the first time.

        Raises:
            BadSetting: the account is not one of the gateway's.
            GatewayError: see `Connection.connect`.
        """
        await self._connect()

    async def resolve(self, symbols: Iterable[str]) -> None:
        """Look every symbol up; `targets` holds them afterwards, in order.

        Raises:
            UnknownSymbol: the gateway knows no such contract.
            GatewayError: it does not answer.
        """
        await self._messages.take()
        self.requester.market_data_type(self.settings.market_data_type)
        found = [await self._look_up(symbol) for symbol in dict.fromkeys(symbols)]
        self.targets = found

    def start(self) -> None:
        """Subscribe everything, in the background."""
        if self._subscribing is not None:
            self._subscribing.cancel()
        self._no_more.clear()
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

    async def close(self) -> None:
        """Hang up and stop every task."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.connection.disconnect()
        await asyncio.sleep(0)

    def note(self, code: Own, text: str, detail: Mapping[str, Any] | None = None, **row: Any) -> None:
        """Write a notice of our own."""
        extra = msgspec.json.encode(dict(sorted(detail.items()))).decode() if detail else None
        self.inbox.put(Kind.NOTICE, {"code": int(code), "text": text, "detail": extra, **row})

    # what the committed events tell

    def saw(self, counts: Mapping[int, int]) -> None:
        """Take note of messages heard per request id: grants, silence."""
        for found in self.registry.saw(counts, self.inbox.last_ts):
            self._about(found, Own.STREAM_GRANTED, f"{found.stream} of {found.target.symbol} flows")
        self._look_for_silence()

    # connecting

    async def _connect(self) -> None:
        settings = self.settings
        patience = min(settings.timeout_seconds, CONNECT_S_MAX)
        self.inbox.expect_connection()
        hello = await self.connection.connect(settings.gateway_host, settings.port, settings.client_id, patience)
        self._up = True
        detail = {"accounts": len(hello.accounts), "connection_time": hello.connection_time}
        text = f"server version {hello.server_version}, {hello.connection_time}"
        self.note(Own.CONNECTED, text, detail, value=hello.server_version)
        if settings.account and settings.account not in hello.accounts:
            managed = ", ".join(hello.accounts) or "none"
            raise BadSetting(
                f"account {settings.account} is not managed by the gateway at {settings.gateway_host}:{settings.port}; "
                f"it manages {managed}; correct --account"
            )

    async def _come_back(self) -> None:
        for attempt in range(1_000_000):
            await self.pace.pause(BACK_OFF_S[min(attempt, len(BACK_OFF_S) - 1)])
            try:
                await self._connect()
            except ClientIdInUse as error:
                logger.warning("client id still held", error=str(error))  # the gateway has not missed us yet
            except GatewayError as error:
                logger.warning("gateway not back yet", attempt=attempt + 1, error=str(error))
            except BadSetting as error:
                self.failed(error)
                return
            else:
                logger.info("reconnected", epoch=self.inbox.epoch)
                await self._messages.take()
                self.requester.market_data_type(self.settings.market_data_type)
                self._outage_ends("socket")
                self.start()
                return

    def _outage_begins(self, what: str) -> None:
        if not self._outage:
            self._outage = True
            self.outages += 1
            self.note(Own.OUTAGE_BEGIN, f"no feed: {what}")
            logger.warning("outage begins", cause=what)

    def _outage_ends(self, what: str) -> None:
        if self._outage:
            self._outage = False
            self.note(Own.OUTAGE_END, f"feed back: {what}")
            logger.info("outage ends", cause=what)

    # contracts

    async def _look_up(self, symbol: str) -> Target:
        await self._messages.take()
        req_id, lookup = self.registry.new_id(), Lookup(symbol)
        self._lookups[req_id] = lookup
        self.requester.contract_details(req_id, Target(symbol))
        answered = await self.pace.within(lookup.done, self.settings.timeout_seconds)
        del self._lookups[req_id]
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
        for stream, target in plan.first():
            if stream not in self._no_more:
                await self._subscribe(stream, target, plan)
        self.backfill.start(plan.focus)
        if plan.bid_ask():
            await self.pace.pause(TICK_BY_TICK_SPACING_S)
        for target in plan.bid_ask():
            if Stream.BID_ASK not in self._no_more:
                await self._subscribe(Stream.BID_ASK, target, plan)

    async def _subscribe(self, stream: Stream, target: Target, plan: Plan) -> None:
        if stream is Stream.BARS_5S:
            await self._history.take()
        await self._messages.take()
        self._ask(stream, target, plan.params(stream, target))

    def _ask(self, stream: Stream, target: Target, params: Mapping[str, Any]) -> None:
        if not self.connection.connected:
            return
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
            await self._messages.take()
            self._ask(found.stream, found.target, found.params)

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
            self._suspect_since = self.inbox.last_ts
            self.spawn(self._renew(self.registry.of(*subs.DEPTHS)))
        elif code in FARM_OK:
            self._suspect_since = self.inbox.last_ts

    def _heard_about(self, found: Subscription, code: int, text: str) -> None:
        if code == subs.HALTED:
            self.spawn(self._renew([found]))
        if not subs.is_refusal(code):
            return
        self.registry.refuse(found.req_id, code)
        self._about(found, Own.STREAM_REFUSED, f"{found.stream} of {found.target.symbol}: {text}", value=code)
        logger.warning("stream refused", stream=str(found.stream), symbol=found.target.symbol, code=code, text=text)
        if code == subs.NO_MORE_DEPTH:
            self._no_more.update(subs.DEPTHS)
        elif code in subs.NO_MORE_TICK_BY_TICK:
            self._no_more.update(subs.TICK_BY_TICK)
        elif found.stream is Stream.DEPTH:
            # The exchange's own book needs its own subscription; SMART depth may be allowed all the same.
            self.spawn(self._subscribe(Stream.SMART_DEPTH, found.target, Plan(self.settings, self.targets)))

    def _about(self, found: Subscription, code: Own, text: str, **row: Any) -> None:
        self.note(code, text, {"stream": found.stream.value}, con_id=found.target.con_id, req_id=found.req_id, **row)

    # silence

    def _look_for_silence(self) -> None:
        """By the stamps of committed events: a stream is silent while others flow, or it is not."""
        flowing = [s for s in self.registry.live.values() if s.stream not in (*subs.DEPTHS, Stream.BARS_5S)]
        newest = max((s.last_ts for s in flowing), default=0)
        limit = round(self.settings.silence_seconds * 1e9)
        for found in flowing:
            last = max(found.last_ts, found.asked_ts)
            if newest - last > limit and not found.silent:
                found.silent = True
                words = f"{found.stream} of {found.target.symbol} is silent while others flow"
                self._about(found, Own.STREAM_SILENT, words, value=newest - last)
        if self._suspect_since is not None and newest - self._suspect_since > SUSPECT_NS:
            quiet = [s for s in flowing if s.rows and s.last_ts <= self._suspect_since]
            self._suspect_since = None
            if quiet:
                self.spawn(self._renew(quiet))

    def spawn(self, work: Any) -> asyncio.Task[None]:
        """Run in the background; what it raises ends the recording, the session's end ends it."""
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed(error if isinstance(error, Exception) else RuntimeError(str(error)))


SUSPECT_NS = 5_000_000_000  # after 1102 or a farm's return, silence longer than this means the subscription is dead


def _number(text: str) -> int:
    """An id or code as a number, -1 for anything else (the message itself is in the log, whatever it is)."""
    return int(text) if text.removeprefix("-").isdigit() and text.isascii() and len(text) < 12 else -1
