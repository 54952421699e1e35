"""One client's connection: handshake, frames in, bytes out. Its owner answers the messages."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from harvester.clock import LockstepClock
from harvester.errors import HarvesterError
from harvester.events.codes import BAD_REQUEST
from harvester.simgateway.limits import Window
from harvester.wire import encode_messages
from harvester.wire.decode_requests import BadRequest, VersionRange
from harvester.wire.framing import HANDSHAKE, BadFrame, Deframer, frame, split
from harvester.wire.message_ids import MARKET_TIME, MARKET_TIME_OPTION, SERVER_VERSION_MIN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harvester.clock import Clock
    from harvester.simgateway.gateway_report import GatewayReport
    from harvester.simgateway.gateway_settings import GatewaySettings

logger = structlog.get_logger()

_READ_BYTES = 1 << 16
_HIGH_WATER = 1 << 18
_HANDSHAKE_MAX = 256
_RATE_CODE, _RATE_TEXT = 100, "Max rate of messages per second has been exceeded:max={} rec={} ({})"


class SessionOwner(Protocol):
    """The interface a session needs from its owner."""

    settings: GatewaySettings
    elapsed: Callable[[], int]  # time for the limits, ns
    clock: Clock
    report: GatewayReport

    def connection_time(self) -> str:
        """Market time in the format of the handshake."""
        ...

    def handle(self, session: ClientSession, fields: list[str]) -> None:
        """Answer one message."""
        ...

    def remove(self, session: ClientSession) -> None:
        """Remove a client."""
        ...


class ClientGarbage(HarvesterError):
    """A client sent data that is not a message; its connection is closed."""


class ClientSession:
    """A client from accept to close. `send` queues, `flush` writes, `drain` waits for a slow reader."""

    def __init__(self, owner: SessionOwner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._owner, self._reader, self._writer = owner, reader, writer
        self.report = owner.report
        self.host, self.port = writer.get_extra_info("peername")[:2]
        self.client_id: int | None = None
        self.offline = self.closing = self.may_be_muted = False
        self.silent_until = 0
        self.split_max = self.coalesce_bytes = 0
        self.one_per_packet = False
        self.timed = False  # the client wants the market time with its data
        self._stamped = self._stamps = 0
        self._random = random.Random(f"{owner.settings.seed} {owner.report.requests.total()}")  # noqa: S311 - splits packets
        self._out: list[bytes] = []
        self.queue = self._out.append  # appends one framed message that has been counted
        self.sent_bytes = self.sent_messages = 0
        self._rate = Window(owner.settings.limits.messages_per_s, 1.0, owner.elapsed)
        self._violation_seconds, self._violations = Window(1, 1.0, owner.elapsed), 0
        self._lockstep = owner.clock if isinstance(owner.clock, LockstepClock) else None
        writer.transport.set_write_buffer_limits(high=_HIGH_WATER)

    # ---- out ----

    @property
    def muted(self) -> bool:
        """Whether a fault mutes this client: connection to IB lost, or silence."""
        return self.offline or self.silent_until > self._owner.clock.now()

    def send(self, fields: Sequence[str], symbol: str = "") -> None:
        """Queue one message and count it."""
        self.report.count(fields, symbol)
        self.queue(frame(fields))

    def stamp(self, at_ns: int, *, again: bool = False) -> None:
        """Queue the market time of what follows, ns UTC, if it is another one or `again`. It is not in the report."""
        if again or at_ns != self._stamped:
            self._stamped = at_ns
            self._stamps += 1
            self.queue(frame([MARKET_TIME, str(at_ns)]))

    def flush(self, *, force: bool = False) -> None:
        """Write the queue to the socket, in packets as set by a fault."""
        if not self._out or self.closing:
            return
        if self.coalesce_bytes and not force and sum(map(len, self._out)) < self.coalesce_bytes:
            return
        messages = self._out[:]
        self._out.clear()
        self.sent_messages += len(messages) - self._stamps
        self._stamps = 0
        if self.one_per_packet:
            for message in messages:
                self._write(message)
        elif self.split_max:
            self._write_in_pieces(b"".join(messages))
        else:
            self._write(b"".join(messages))

    def _write_in_pieces(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            step = self._random.randint(1, self.split_max)
            self._write(data[at : at + step])
            at += step

    def _write(self, data: bytes) -> None:
        self.sent_bytes += len(data)
        if self._lockstep is not None:
            self._lockstep.sent((self.port, "down"), len(data))
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait for a slow client; no data is dropped."""
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def error(self, req_id: int, code: int, text: str) -> None:
        self.send(encode_messages.error(req_id, code, text))

    def invalid(self, req_id: int, cause: object, check: str = "bW") -> None:
        """Send IB's error 321 for an invalid request; `check` is IB's name of the failed check."""
        self.error(req_id, BAD_REQUEST, f"Error validating request.-'{check}' : cause - {cause}")

    def close(self, why: str = "") -> None:
        """Write the queue, then close the connection."""
        if self.closing:
            return
        if why:
            logger.warning("client closed", client_id=self.client_id, peer=f"{self.host}:{self.port}", why=why)
        self.flush(force=True)
        self.closing = True
        self._writer.close()

    # ---- in ----

    async def run(self) -> None:
        """Serve the client until either side closes."""
        why = ""
        try:
            await asyncio.wait_for(self._handshake(), self._owner.settings.handshake_s)
            await self._messages()
        except (BadFrame, BadRequest, ClientGarbage) as error:
            why = str(error)
        except TimeoutError:
            why = f"no handshake within {self._owner.settings.handshake_s:g} s"
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._owner.remove(self)
            self.close(why)
            if self.client_id is not None:  # only clients that were logged as connected
                logger.info("client disconnected", client_id=self.client_id, peer=f"{self.host}:{self.port}")
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await self._writer.wait_closed()
            if self._lockstep is not None:
                self._lockstep.closed((self.port, "up"))
                self._lockstep.closed((self.port, "down"))

    async def _handshake(self) -> None:
        head = await self._reader.readexactly(len(HANDSHAKE))
        if head != HANDSHAKE:
            raise ClientGarbage(f"the first bytes are {head!r}, not API: the peer is not a TWS client")
        length = await self._reader.readexactly(4)
        size = int.from_bytes(length, "big")
        if not 0 < size <= _HANDSHAKE_MAX:
            raise ClientGarbage(f"a version range of {size} bytes is invalid; the limit is {_HANDSHAKE_MAX}")
        offer = VersionRange.parse(await self._reader.readexactly(size))
        version = min(offer.high, self._owner.settings.server_version)
        if version < max(offer.low, SERVER_VERSION_MIN):
            raise ClientGarbage(f"the client supports v{offer.low}..{offer.high}, this gateway up to {version}")
        hello = frame(encode_messages.handshake(version, self._owner.connection_time()))
        self.queue(hello)
        self.timed = MARKET_TIME_OPTION in offer.options.split()
        if self.timed:
            self.stamp(self._owner.clock.now())
        self.flush(force=True)
        self._count_received(len(head) + 4 + size)

    async def _messages(self) -> None:
        deframer = Deframer(self._owner.settings.limits.frame_bytes_max)
        while not self.closing:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                return
            try:
                for payload in deframer.feed(data):
                    self._message(payload)
                self.flush()
            finally:
                self._count_received(len(data))
            await self.drain()

    def _count_received(self, n_bytes: int) -> None:
        """Count bytes as received on a lockstep clock, after they were processed and their answers counted as sent."""
        if self._lockstep is not None:
            self._lockstep.received((self.port, "up"), n_bytes)

    def _message(self, payload: bytes) -> None:
        fields = split(payload)
        if not fields or not re.fullmatch(r"\d{1,9}", fields[0]):
            raise ClientGarbage(f"a message starts with {payload[:20]!r}, not a message id")
        if any("\udc80" <= c <= "\udcff" for field in fields for c in field):
            raise ClientGarbage(f"message {fields[0]} contains invalid UTF-8")
        if self.closing or not self._check_rate():
            return
        self._owner.handle(self, fields)

    def _check_rate(self) -> bool:
        """IB's rule: a message over the limit gets error 100; in the third such second the connection is closed."""
        if self._rate.take():
            return True
        limits = self._owner.settings.limits
        self._violations += self._violation_seconds.take()
        rate = (limits.messages_per_s, limits.messages_per_s + 1, self._violations)
        self.error(-1, _RATE_CODE, _RATE_TEXT.format(*rate))
        if self._violations >= limits.violations_max:
            self.close(f"more than {limits.messages_per_s} messages a second, in {self._violations} seconds")
        return False

    def facts(self) -> dict[str, Any]:
        """The client's entry in the report."""
        return {"client_id": self.client_id, "messages": self.sent_messages, "bytes": self.sent_bytes}
