"""The line to the gateway: connect, notice its end in every shape, come back with back-off.

A line ends when the gateway hangs up, when what arrives frames to no message, when nothing arrives and a heartbeat
stays unanswered, or when the account is not there any more. Each is an outage: `DISCONNECTED`, `OUTAGE_BEGIN`, attempts
with back-off, `CONNECTED`, `OUTAGE_END`. Only the first connection may fail for good.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from harvester.clock import MachineClock, clocks_apart
from harvester.errors import BadSetting, ClientIdInUse, GatewayError
from harvester.events.kinds import Kind, Own
from harvester.gateway.connection import Connection, LineLost
from harvester.gateway.requests import Requester
from harvester.recorder.hours import planned_outage
from harvester.recorder.pace import TokenBucket
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from harvester.config import Settings
    from harvester.gateway.connection import Hello
    from harvester.recorder.inbox import Inbox
    from harvester.recorder.pace import Pace

logger = structlog.get_logger()

CONNECT_S_MAX = 15.0  # patience for a handshake; `timeout_seconds` when that is shorter
BACK_OFF_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)  # pace time between attempts to come back
STEADY_S = 30.0  # pace time a line must have held before the back-off begins anew
HEARTBEAT_S = 10.0  # patience for the answer to a heartbeat
MESSAGES_PER_SECOND, MESSAGES_AT_ONCE = 40.0, 8  # IB allows 50 in any second
APART_NS = 120 * SECOND_NS  # a gateway whose time is farther than this from the machine's is told of
AHEAD_NS_MAX = 2**63 - 1  # of a notice; eleven digits of seconds are more
DAY_NS = 86_400 * SECOND_NS  # no wrong clock, but another day's market
SIMULATED = "a simulated gateway's clock is followed with --clock PATH/gateway.json"
APART_ROWS = 10  # so many tick-by-tick rows in commits without a single near one: no late prints
RAW_CHARACTERS_MAX = 65_536  # of one `raw` row that keeps bytes which are no message


class Line(ABC):
    """One gateway over all its connections; `Session` says what is asked on it.

    `failure` is set by what must end the recording. `ahead_ns` is by how much the gateway's time is ahead of ours, as
    far as it was told of: 0 for two clocks that agree.
    """

    def __init__(self, settings: Settings, inbox: Inbox, pace: Pace) -> None:
        self.settings, self.inbox, self.pace = settings, inbox, pace
        self.outages = self.ahead_ns = 0
        self._rows_apart = 0
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.connection = Connection(inbox, self, pace.clock)
        self.requester = Requester(self.connection, inbox.put)
        self._messages = TokenBucket(pace, MESSAGES_PER_SECOND, MESSAGES_AT_ONCE, pacing=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._coming_back: asyncio.Task[None] | None = None
        self._attempts, self._up_since = 0, 0
        self._back = asyncio.Event()
        self._alive = asyncio.Event()
        self._alive_ts = self._bytes_seen = 0
        self._next_heartbeat = 0
        self._outage = self._closing = self._up = False

    # what the connection tells

    def heard(self, fields: list[str]) -> None:
        """A control message; it is in the inbox already."""
        if fields[0] == "49":
            self._alive.set()
            if len(fields) > 2 and (seconds := number(fields[2])) > 0:
                self._compare_clocks(seconds * SECOND_NS - self.inbox.last_ts, "current time")

    def sending(self, text: str) -> None:
        """A message is about to leave: its exact text goes first into the inbox."""
        row = {"con_id": self.requester.con_id, "req_id": self.requester.req_id}
        self.inbox.put(Kind.RAW, {**row, "msg": number(text.split("\0", 1)[0]), "fields": text, "reason": "sent"})

    def refused(self, message_id: int, text: str) -> None:
        self.note(
            Own.MESSAGE_BLOCKED, "the guard stopped a message before the socket", {"text": text}, value=message_id
        )
        logger.error("message blocked", message_id=message_id)

    def lost(self, reason: str) -> None:
        """The line is down. Ours to restore unless we closed it ourselves."""
        self._keep_unfinished("an unfinished message was cut off")
        if self._closing or not self._up:
            return  # ours to close, or an attempt to connect that failed
        self._up = False
        self._back.clear()
        self.note(Own.DISCONNECTED, reason or "the gateway closed the connection")
        self._outage_begins("socket")
        self._line_lost()
        if self._coming_back is None or self._coming_back.done():
            self._coming_back = self.spawn(self._come_back())

    def garbled(self, waiting: bytes) -> None:
        """The stream has lost its frames: keep what there is as text, hang up, come back."""
        self._keep(waiting, "what arrives frames to no message; reconnecting")
        logger.error("stream without frames", bytes=len(waiting))
        self._give_up("the stream lost its frames")

    def failed(self, error: Exception) -> None:
        """The tap failed: end the recording with the error."""
        if not self.failure.done():
            self.failure.set_exception(error)

    # for those above

    def note(self, code: Own, text: str, detail: Mapping[str, Any] | None = None, **row: Any) -> None:
        """Write a notice of our own."""
        extra = msgspec.json.encode(dict(sorted(detail.items()))).decode() if detail else None
        self.inbox.put(Kind.NOTICE, {"code": int(code), "text": text, "detail": extra, **row})

    async def open(self) -> None:
        """Connect for the first time.

        Raises:
            BadSetting: the account is not one of the gateway's.
            GatewayError: see `Connection.connect`.
        """
        await self._connect()

    async def close(self) -> None:
        """Hang up and stop every task."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._keep_unfinished("an unfinished message waited when the recording ended")
        self.connection.disconnect()
        await asyncio.sleep(0)

    async def ask_time(self) -> None:
        """Ask what time it is at the gateway's, where ours is the machine's: every other clock is the gateway's own."""
        if isinstance(self.pace.clock, MachineClock):
            await self._messages.take()
            self.requester.current_time()

    def saw_event_times(self, rows: int, ahead_ns: int) -> None:
        """Rows with a time of the gateway have been committed; that of the nearest was `ahead_ns` after its stamp."""
        self._rows_apart = self._rows_apart + rows if abs(ahead_ns) > APART_NS else 0
        if self._rows_apart >= APART_ROWS:
            self._compare_clocks(ahead_ns, "times of trades and quotes")

    def _compare_clocks(self, ahead_ns: int, by: str) -> None:
        """Tell once in a run that the gateway lives in another time than the stamps."""
        if abs(ahead_ns) <= APART_NS or self.ahead_ns or not isinstance(self.pace.clock, MachineClock):
            return
        self.ahead_ns = ahead_ns = min(ahead_ns, AHEAD_NS_MAX)
        text = clocks_apart(ahead_ns)
        self.note(Own.CLOCKS_DIFFER, f"{text}, by its {by}", value=ahead_ns)
        more = {"hint": SIMULATED} if abs(ahead_ns) > DAY_NS else {}
        logger.warning("clocks differ: events are stamped with this machine's", what=text, by=by, **more)

    async def wait_until_back(self, seconds: float) -> bool:
        """Wait for a line, at most `seconds` of patience; whether there is one."""
        return self._up or await self.pace.within(self._back, seconds)

    def look_for_life(self) -> None:
        """Once a second of market time: a line on which nothing at all arrives is asked whether it lives.

        At most one heartbeat in `HEARTBEAT_S` real seconds, however fast a market is; none in lockstep, where both ends
        are one process and time stands while an answer is under way.
        """
        if self.pace.lockstep:
            return
        heard = self.connection.bytes_received
        if heard != self._bytes_seen or not self._up or self.connection.paused:
            self._bytes_seen, self._alive_ts = heard, self.inbox.last_ts
            return
        quiet_ns = self.inbox.last_ts - self._alive_ts
        now = self.pace.patience()
        if quiet_ns > self.settings.silence_seconds * 1e9 and now > self._next_heartbeat:
            self._next_heartbeat = now + round((HEARTBEAT_S + 1.0) * 1e9)
            self.spawn(self._ask_for_life())

    async def _ask_for_life(self) -> None:
        self._alive.clear()
        heard, epoch = self.connection.bytes_received, self.inbox.epoch
        await self._messages.take()
        self.requester.current_time()
        answered = await self.pace.within(self._alive, HEARTBEAT_S)
        # Without an answer, any byte is a sign of life, and so is a pause of our own making.
        silent = heard == self.connection.bytes_received and not self.connection.paused
        if not answered and silent and self._up and epoch == self.inbox.epoch:
            self.note(Own.REQUEST_TIMEOUT, f"nothing arrives, and no answer to a heartbeat in {HEARTBEAT_S:g} s")
            logger.error("the line is dead", silence_seconds=self.settings.silence_seconds)
            self._give_up("nothing arrives, and a heartbeat stays unanswered")

    # hooks of the session

    @abstractmethod
    async def say_data_type(self) -> None:
        """The first request on every new connection."""

    @abstractmethod
    def _line_lost(self) -> None:
        """Everything asked on the line is void."""

    @abstractmethod
    def _line_back(self) -> None:
        """A new connection is ready for requests."""

    # connecting

    async def _connect(self) -> Hello:
        settings = self.settings
        patience = min(settings.timeout_seconds, CONNECT_S_MAX)
        self.inbox.expect_connection()
        hello = await self.connection.connect(settings.gateway_host, settings.port, settings.client_id, patience)
        self._up, self._up_since = True, self.pace.now()
        detail = {"accounts": len(hello.accounts), "connection_time": hello.connection_time}
        text = f"server version {hello.server_version}, {hello.connection_time}"
        self.note(Own.CONNECTED, text, detail, value=hello.server_version)
        if settings.account and settings.account not in hello.accounts:
            managed = ", ".join(hello.accounts) or "none"
            raise BadSetting(
                f"account {settings.account} is not managed by the gateway at {settings.gateway_host}:{settings.port}; "
                f"it manages {managed}; correct --account"
            )
        return hello

    async def _come_back(self) -> None:
        """Attempts with back-off until the line is up and asked for data."""
        if self.pace.now() - self._up_since > STEADY_S * 1e9:
            self._attempts = 0
        tried, said = 0, ""  # one line per outage and reason; how often it was tried stands in the last
        while not self._up:
            await self.pace.pause(BACK_OFF_S[min(self._attempts, len(BACK_OFF_S) - 1)])
            self._attempts += 1
            tried += 1
            try:
                await self._connect()
                await self.say_data_type()
            except (GatewayError, BadSetting) as error:
                if str(error) != said:
                    logger.warning(_not_back(error), error=str(error))
                said = str(error)
                if isinstance(error, BadSetting):  # the account may come with a later login: an outage like any other
                    self._give_up(said)
        logger.info("reconnected", epoch=self.inbox.epoch, attempts=tried)
        self._outage_ends("socket")
        self._back.set()
        self._line_back()

    def _give_up(self, reason: str) -> None:
        """A line that is of no use: treat it as lost, and make it so."""
        self.lost(reason)
        self.connection.abort()

    def _outage_begins(self, what: str) -> None:
        if not self._outage:
            self._outage = True
            self.outages += 1
            planned = planned_outage(self.pace.clock.now(), self.settings.daily_restart, self.settings.time_zone)
            self.note(Own.OUTAGE_BEGIN, f"no feed: {what}" + (f"; planned: {planned}" if planned else ""))
            logger.warning("outage begins", cause=what, planned=planned or "no")

    def _outage_ends(self, what: str) -> None:
        if self._outage:
            self._outage = False
            self.note(Own.OUTAGE_END, f"feed back: {what}")
            logger.info("outage ends", cause=what)

    def _keep_unfinished(self, why: str) -> None:
        if waiting := self.connection.take_unfinished():
            self._keep(waiting, why)

    def _keep(self, waiting: bytes, why: str) -> None:
        """Bytes that are no message are kept as text, in pieces of bounded size."""
        text = waiting.decode("utf-8", "backslashreplace")
        for at in range(0, len(text), RAW_CHARACTERS_MAX):
            piece = text[at : at + RAW_CHARACTERS_MAX]
            self.inbox.put(Kind.RAW, {"fields": piece, "reason": "undecodable"})
        self.note(Own.BYTES_WITHOUT_MESSAGES, why, value=len(waiting))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run in the background; what it raises ends the recording, the session's end ends it."""
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None or isinstance(error, LineLost):
            return  # a lost line is `lost`'s to mend
        self.failed(error if isinstance(error, Exception) else RuntimeError(str(error)))


def _not_back(error: Exception) -> str:
    if isinstance(error, ClientIdInUse):
        return "client id still held"  # the gateway has not missed us yet
    return "account missing after a reconnect" if isinstance(error, BadSetting) else "gateway not back yet"


def number(text: str) -> int:
    """An id or code as a number, written as the log takes it for one; -1 for anything else.

    Who reacts to a message the log keeps as mere text would know of something that no replay ever does.
    """
    plain = text.removeprefix("-")
    exact = plain.isdigit() and text.isascii() and len(text) < 12 and (plain == "0" or plain[0] != "0")
    return int(text) if exact else -1
