"""The session with the gateway: look up contracts, subscribe, react to messages, subscribe again after a loss.

    line         link.py            the connection, across reconnects
    contracts    contracts.py       looks up the contract of each symbol
    subscriber   subscriber.py      subscribes to streams, within IB's limits
    backfill     backfill.py        requests histories
    errors       stream_errors.py   reacts to an error about one stream
    heartbeat    heartbeat.py       tests a silent line

Every message is in the inbox before the session reacts to it, every request before it is sent. The session reacts
before they are committed (law 1 allows it): its reactions are requests and notices, which are logged as well. Nothing
that a replay could see (a fold, a decision, a figure) depends on an uncommitted event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from harvester.events import codes
from harvester.events.kinds import Own
from harvester.recorder import subscriptions as subs
from harvester.recorder.backfill import HistoryBackfill
from harvester.recorder.contracts import Contracts
from harvester.recorder.feed_silence import FeedWatch
from harvester.recorder.gateway_time import GatewayTime
from harvester.recorder.heartbeat import Heartbeat
from harvester.recorder.link import GatewayLink, number
from harvester.recorder.market_data_types import DataTypes
from harvester.recorder.silent_streams import SilenceWatch
from harvester.recorder.stream_errors import StreamErrors, note_rows, stream_notice
from harvester.recorder.subscriber import Subscriber
from harvester.recorder.subscriptions import SubscriptionRegistry
from harvester.recorder.unusable_books import UnusableBooks
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping, Sequence

    from harvester.config import Settings
    from harvester.gateway.data_requests import RequestTarget
    from harvester.recorder.inbox import Inbox
    from harvester.recorder.pacing import Timing
    from harvester.recorder.tasks import BackgroundTasks

logger = structlog.get_logger()

LOST_S = 2.0  # pace time after IB's servers are back in which answers still arrive; later a request counts as lost
DROPPED_S = 3.0  # pace time: an error 100 is about messages of the second before it; answers come within the next


class RecorderSession:
    """The requests to one gateway and what it grants, over all its connections."""

    def __init__(self, settings: Settings, inbox: Inbox, pace: Timing, tasks: BackgroundTasks) -> None:
        self.line = GatewayLink(settings, inbox, pace, tasks, self)
        self.registry = SubscriptionRegistry()
        self.gateway_time = GatewayTime(self.line)
        self._inbox = inbox
        self._heartbeat = Heartbeat(self.line)
        self._contracts, self._backfill = Contracts(self.line), HistoryBackfill(self.line)
        self._subscriber = Subscriber(self.line, self.registry, self._backfill)
        self._errors = StreamErrors(self.line, self.registry, self._subscriber)
        self._data_types = DataTypes(inbox, self.registry)
        self._silence = SilenceWatch(self.registry, settings.silence_seconds)
        self._feed = FeedWatch(self.line, self.registry, self._subscriber)
        self._books = UnusableBooks(self.line, self.registry, self._subscriber)
        self._dropping: asyncio.Task[None] | None = None
        self._repeating: asyncio.Task[None] | None = None
        self._back_at = 0  # pace time when IB's servers were back last
        self._has_data = False

    # called by the line

    def message(self, fields: list[str]) -> None:
        """React to a control message, which is in the inbox already."""
        message = fields[0]
        if message == "49":
            self._heartbeat.answered()
            if len(fields) > 2:
                self.gateway_time.answered(number(fields[2]))
        elif message == "10":
            self._contracts.matched(fields)
        elif message == "52" and len(fields) > 2:
            self._contracts.completed(number(fields[2]))
        elif message == "17" and len(fields) > 1:
            self._backfill.answered(number(fields[1]), fields)
        elif message == "58" and len(fields) > 3:
            self._data_types.received(number(fields[2]), number(fields[3]))
        elif message == "4" and len(fields) > 4:
            self._error(number(fields[2]), number(fields[3]), fields[4])

    def line_lost(self) -> None:
        """The gateway has forgotten all requests."""
        self.registry.forget_all()
        self._has_data = False
        self._data_types.clear()
        self._backfill.connection_lost()
        self._contracts.connection_lost()

    def line_back(self) -> None:
        """Subscribe everything again, if the contracts are known."""
        if self.targets:
            self.start()

    # called by the recorder

    @property
    def targets(self) -> Sequence[RequestTarget]:
        """The contracts of the symbols, in order; empty until `resolve` returns."""
        return self._subscriber.targets

    async def resolve(self, symbols: Iterable[str]) -> None:
        """Look every symbol up; `targets` holds them afterwards, in order.

        Raises:
            UnknownSymbol, GatewayError: see `Contracts.resolve`.
        """
        self._subscriber.targets = await self._contracts.resolve(symbols)

    def start(self) -> None:
        """Subscribe everything, in the background."""
        self._silence.clear()
        self._subscriber.start()

    def restate(self) -> None:
        """A new run begins on the same connection: repeat the subscriptions in its log, and renew depth."""
        self.line.restate_source()
        for sub in self.registry.live.values():
            self._subscriber.restate(sub)
            self._data_types.restate(sub.req_id, sub.target.con_id)
        self.gateway_time.restate()
        self._renew(self.registry.of(*subs.DEPTHS))
        self.line.tasks.spawn(self._contracts.restate(self.targets))
        self._backfill.new_run(self._subscriber.plan.focus)

    def received(self, counts: Mapping[int, int], ticks: Iterable[tuple[int, int, str]] = ()) -> None:
        """Messages have arrived, by request id: note grants and silence. Call it once a second of market time."""
        for sub in self.registry.reinstate(counts):
            self._subscriber.restate(sub)  # the folds still count it as refused
            logger.warning("refused stream sends data", stream=str(sub.stream), symbol=sub.target.symbol)
        note_rows(self._inbox, self.registry, counts)
        if not self._has_data and (flowing := sum(bool(sub.rows) for sub in self.registry.live.values())):
            self._has_data = True
            logger.info("recording", streams=flowing)
        self._silence.noted(counts, ticks, self._inbox.last_ts)
        self._look_for_silence()
        self._feed.look(counts, excused=self._silence.all_halted or self.line.connection.paused)
        self._heartbeat.check()

    def books_unusable(self, books: Sequence[tuple[int, int, bool]]) -> None:
        """The books that the fold of a commit found to be of no use, see `CommitResult.books`."""
        self._books.judged(books)

    # reactions

    def _error(self, req_id: int, code: int, text: str) -> None:
        if self._contracts.refused(req_id, code, text) or self._backfill.refused(req_id, code, text):
            return
        if req_id in self.registry.live:
            self._errors.react(self.registry.live[req_id], code, text)
        elif code == codes.TOO_FAST:
            logger.warning("gateway drops messages: too many per second", code=code, text=text)
            if self._dropping is None or self._dropping.done():
                self._dropping = self.line.tasks.spawn(self._ask_dropped())
        elif code == codes.CONNECTION_LOST:
            self.line.outages.begin("the gateway lost its connection to IB (1100)")
        elif code == codes.RESTORED_DATA_LOST:
            self.line.outages.end("the gateway is connected to IB again (1101)")
            self.registry.forget_all()
            self._feed.farm_back()
            self.start()
            self._back()
        elif code == codes.RESTORED_DATA_KEPT:
            self.line.outages.end("the gateway is connected to IB again (1102)")
            self._silence.suspect(self._inbox.last_ts, broken=self._feed.farm_broken)
            self._feed.farm_back()
            self._renew(self.registry.of(*subs.DEPTHS))
            self._back()
        elif code in codes.FARM_BROKEN:
            self._feed.trouble()
        elif code in codes.FARM_OK:
            market_data = code == codes.MARKET_FARM_OK
            self._silence.suspect(self._inbox.last_ts, broken=market_data and self._feed.farm_broken)
            if market_data:
                self._feed.farm_back()
            self._back()
        elif code == codes.PORT_CHANGED:
            self.line.port_announced(text)

    def _back(self) -> None:
        """IB's servers, or some of them, are back: repeat what they refused for now or never answered."""
        self._back_at = self.line.pace.now()
        self._subscriber.farm_is_back()
        waiting = self._contracts.in_flight or self._backfill.in_flight or self.gateway_time.unanswered
        if waiting and (self._repeating is None or self._repeating.done()):
            self._repeating = self.line.tasks.spawn(self._repeat_lost())
        elif not waiting:
            self._lost_before(self._back_at)

    async def _repeat_lost(self) -> None:
        """Repeat the one-shot requests without an answer, once for any number of farms that return together."""
        await self.line.pace.pause(LOST_S, pacing=True)
        self._lost_before(self._back_at)
        await self.gateway_time.lost()

    def _lost_before(self, back_at: int) -> None:
        self._contracts.lost(back_at)
        self._backfill.lost(back_at)

    async def _ask_dropped(self) -> None:
        """Repeat the unanswered requests of the last seconds: an error 100 does not name the dropped one."""
        since = self.line.pace.now() - round(DROPPED_S * SECOND_NS)
        self.line.limits.slow_down()
        await self.line.pace.pause(DROPPED_S, pacing=True)
        self._contracts.dropped(since)
        self._backfill.dropped(since)
        silent = [sub for sub in self.registry.live.values() if not sub.rows and sub.asked_at >= since]
        for sub in silent:
            self.line.tasks.spawn(self._subscriber.renew_later(sub, (0.0, *subs.PACING_S)))

    def _look_for_silence(self) -> None:
        for sub, quiet_ns in list(self._silence.fallen_silent(in_session=self._feed.in_session())):
            if self._silence.is_news(sub):
                what = " is silent while related streams are not"
                stream_notice(self._inbox, sub, Own.STREAM_SILENT, what, value=quiet_ns)
            if self._errors.stopped(sub):
                continue
            seconds = quiet_ns // SECOND_NS
            named = {"stream": str(sub.stream), "symbol": sub.target.symbol}
            logger.warning("stream silent", **named, seconds=seconds, next="requested again")
            self.line.tasks.spawn(self._subscriber.revive(sub))
        if dead := self._silence.dead(self._inbox.last_ts):
            self._renew(dead)

    def _renew(self, old: Sequence[subs.StreamSubscription]) -> None:
        self.line.tasks.spawn(self._subscriber.renew(old))
