"""The line to the gateway: connect, detect every way it can end, reconnect with back-off.

A line ends when the gateway hangs up, when the received bytes are not TWS messages, when a heartbeat is not answered
(`heartbeat.py`), or when the account is missing. Each is an outage: `DISCONNECTED`, `OUTAGE_BEGIN`, attempts
with back-off, `CONNECTED`, `OUTAGE_END`. Only the first connection gives up when it fails.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Protocol

import structlog

from harvester.clock import MachineClock
from harvester.errors import BadSetting, ClientIdInUse, GatewayError
from harvester.events import codes
from harvester.events.kinds import Kind, Own, SourceKind
from harvester.gateway.connection import Connection
from harvester.gateway.data_requests import Requester
from harvester.recorder.outages import Outages
from harvester.recorder.request_limits import RequestLimits
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.config import Settings
    from harvester.recorder.inbox import Inbox
    from harvester.recorder.pacing import Timing
    from harvester.recorder.tasks import BackgroundTasks

logger = structlog.get_logger()

CONNECT_S_MAX = 15.0  # patience for a handshake, unless `timeout_seconds` is shorter
BACK_OFF_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)  # pace time between attempts to reconnect
STEADY_S = 30.0  # pace time a line must hold to reset the back-off
RAW_CHARACTERS_MAX = 65_536  # of one `raw` row that keeps undecodable bytes


class LinkListener(Protocol):
    """Receives the events of a line; every call comes from the event loop."""

    def message(self, fields: list[str]) -> None:
        """A control message has arrived; it is in the inbox already."""
        ...

    def line_lost(self) -> None:
        """The connection is gone, and with it every request on it."""
        ...

    def line_back(self) -> None:
        """A new connection is ready for requests."""
        ...


class GatewayLink:
    """One gateway across all its connections. `up`: a connection is ready for requests."""

    def __init__(
        self, settings: Settings, inbox: Inbox, pace: Timing, tasks: BackgroundTasks, listener: LinkListener
    ) -> None:
        self.settings, self.inbox, self.pace, self.tasks = settings, inbox, pace, tasks
        self.limits, self.outages = RequestLimits(pace), Outages(settings, inbox, pace.clock)
        self.connection = Connection(inbox, self, pace.clock)
        self.requester = Requester(self.connection, inbox.put)
        self._listener = listener
        self._req_ids = count(1)
        self._reconnecting: asyncio.Task[None] | None = None
        self._attempts, self._up_since = 0, 0
        self._back = asyncio.Event()
        self._closing = self.up = False
        self.port = settings.port  # of the connection: another one after a 1300
        self._announced: int | None = None  # a port to be tried once
        self._simulation: tuple[SourceKind, str] | None = None  # what the gateway of this connection says it simulates
        self._source: tuple[SourceKind, str] | None = None  # as recorded

    # called by the connection

    def heard(self, fields: list[str]) -> None:
        """A control message; it is in the inbox already."""
        if fields[0] == "4" and len(fields) > 4 and fields[3] == str(codes.SIMULATED):
            self._simulation = codes.simulated(fields[4])
            if self.up:
                self._put_source(self._simulation)
        self._listener.message(fields)

    def sending(self, text: str) -> None:
        """A message is about to be sent: its exact text goes into the inbox first."""
        row = {"con_id": self.requester.con_id, "req_id": self.requester.req_id}
        self.inbox.put(Kind.RAW, {**row, "msg": number(text.split("\0", 1)[0]), "fields": text, "reason": "sent"})

    def refused(self, message_id: int, text: str) -> None:
        """The guard has blocked a message."""
        what = "the guard blocked an outgoing message"
        self.inbox.notice(Own.MESSAGE_BLOCKED, what, {"text": text}, value=message_id)
        logger.error("outgoing message blocked", message_id=message_id)

    def lost(self, reason: str) -> None:
        """The line is down. Reconnect, unless we closed it ourselves."""
        self._keep_unfinished("the connection ended inside a message")
        if self._closing or not self.up:
            return  # closed by us, or an attempt to connect that failed
        self.up = False
        self._back.clear()
        self.inbox.notice(Own.DISCONNECTED, reason or "the gateway closed the connection")
        self.outages.begin("connection lost")
        self._listener.line_lost()
        if self._reconnecting is None or self._reconnecting.done():
            self._reconnecting = self.tasks.spawn(self._reconnect())

    def garbled(self, waiting: bytes) -> None:
        """The received bytes are not TWS messages: keep them as text, hang up, reconnect."""
        keep_bytes(self.inbox, waiting, "received bytes are not TWS messages; reconnecting")
        logger.error("received bytes are not TWS messages", bytes=len(waiting))
        self.give_up("received bytes are not TWS messages")

    def failed(self, error: Exception) -> None:
        """The tap failed: end the recording with the error."""
        self.tasks.fail(error)

    # called by the recorder and the session

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
        await self.tasks.cancel()
        self._keep_unfinished("the recording ended inside a message")
        self.connection.disconnect()
        await asyncio.sleep(0)

    @property
    def connected(self) -> bool:
        """Whether a request can be sent at this moment."""
        return self.connection.connected

    def new_req_id(self) -> int:
        """A request id, used once in this process."""
        return next(self._req_ids)

    async def set_data_type(self) -> None:
        """Choose the type of market data for the requests that follow; the first request on every connection."""
        await self.limits.message()
        self.requester.market_data_type(self.settings.market_data_type)

    def port_announced(self, text: str) -> None:
        """A 1300: the gateway drops this connection and names a new port. Show it; try it once on the same host."""
        named = codes.new_port(text)
        if named is None:
            logger.warning("the gateway changes its port and names none", text=text)
            return
        ours = named.host in {"", "localhost", "127.0.0.1", self.settings.gateway_host}
        what = "the gateway changes its port" if ours else "the gateway names another host; it is not tried"
        move = f"if it does not come back, stop and use --port {named.port}"
        logger.warning(what, host=named.host or self.settings.gateway_host, port=named.port, next=move)
        self._announced = named.port if ours else None

    async def wait_until_back(self, seconds: float) -> bool:
        """Wait up to `seconds` of patience for a connection; returns whether it came."""
        return self.up or await self.pace.within(self._back, seconds)

    def give_up(self, reason: str) -> None:
        """Treat a useless line as lost, and close it."""
        self.lost(reason)
        self.connection.abort()

    # connecting

    async def _connect(self) -> None:
        settings = self.settings
        patience = min(settings.timeout_seconds, CONNECT_S_MAX)
        self.inbox.expect_connection()
        self._simulation = None
        port, self._announced = self._announced or self.port, None
        hello = await self.connection.connect(settings.gateway_host, port, settings.client_id, patience)
        self.up, self._up_since = True, self.pace.now()
        detail = {"accounts": len(hello.accounts), "connection_time": hello.connection_time}
        text = f"server version {hello.server_version}, {hello.connection_time}"
        self.inbox.notice(Own.CONNECTED, text, detail, value=hello.server_version)
        self._put_source(self._simulation or self._source_of(hello.accounts))
        if settings.account and settings.account not in hello.accounts:
            managed = ", ".join(hello.accounts) or "none"
            raise BadSetting(
                f"account {settings.account} is not managed by the gateway at {settings.gateway_host}:{port}; "
                f"it manages {managed}; correct --account"
            )
        self.port = port

    def _source_of(self, accounts: Sequence[str]) -> tuple[SourceKind, str]:
        """Kind and class of account of a gateway that announces no simulation; the account's name is not part of it.

        Names of paper accounts begin with D (DU, of advisors DF), those of others do not.
        """
        if not isinstance(self.pace.clock, MachineClock):
            return SourceKind.UNKNOWN, "a gateway with a market clock of its own that does not announce itself"
        if not accounts:
            return SourceKind.UNKNOWN, "no account"
        if any(account[:1] == "D" for account in accounts):
            return SourceKind.PAPER, "paper account"
        return SourceKind.LIVE, "live account"

    def _put_source(self, source: tuple[SourceKind, str]) -> None:
        self._source = source
        self.inbox.notice(Own.SOURCE, source[1], {"kind": source[0].value})

    def restate_source(self) -> None:
        """Repeat in a new run's log where the data of the present connection come from."""
        if self._source is not None and self.up:
            self._put_source(self._source)

    async def _reconnect(self) -> None:
        """Try with back-off until the line is up and the data type is set."""
        if self.pace.now() - self._up_since > STEADY_S * SECOND_NS:
            self._attempts = 0
        tried, logged = 0, ""  # one log line per outage and reason; the last one holds the number of attempts
        while not self.up:
            await self.pace.pause(BACK_OFF_S[min(self._attempts, len(BACK_OFF_S) - 1)])
            self._attempts += 1
            tried += 1
            try:
                await self._connect()
                await self.set_data_type()
            except (GatewayError, BadSetting) as error:
                if str(error) != logged:
                    logger.warning(_not_back(error), error=str(error))
                logged = str(error)
                if isinstance(error, BadSetting):  # a later login may bring the account: treat as an outage
                    self.give_up(logged)
        logger.info("reconnected", epoch=self.inbox.epoch, attempts=tried)
        self.outages.end("connected again")
        self._back.set()
        self._listener.line_back()

    def _keep_unfinished(self, why: str) -> None:
        if waiting := self.connection.take_unfinished():
            keep_bytes(self.inbox, waiting, why)


def keep_bytes(inbox: Inbox, waiting: bytes, why: str) -> None:
    """Keep undecodable bytes as text, in pieces of bounded size, with `why` in a notice."""
    text = waiting.decode("utf-8", "backslashreplace")
    for at in range(0, len(text), RAW_CHARACTERS_MAX):
        inbox.put(Kind.RAW, {"fields": text[at : at + RAW_CHARACTERS_MAX], "reason": "undecodable"})
    inbox.notice(Own.BYTES_WITHOUT_MESSAGES, why, value=len(waiting))


def _not_back(error: Exception) -> str:
    if isinstance(error, ClientIdInUse):
        return "client id still in use"  # the gateway has not noticed yet that our connection is gone
    return "account missing after a reconnect" if isinstance(error, BadSetting) else "gateway not back yet"


def number(text: str) -> int:
    """An id or code as a number, by the rules of the log's decoder; -1 for anything else.

    The log keeps any other text undecoded, so replay has no number: a live reaction could not be repeated.
    """
    plain = text.removeprefix("-")
    exact = plain.isdigit() and text.isascii() and len(text) < 12 and (plain == "0" or plain[0] != "0")
    return int(text) if exact else -1
