"""One client connection to a gateway: connect, receive, send guarded requests, report the disconnect.

All time-outs here are real time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from harvester.clock import FileClock, LockstepClock
from harvester.errors import BadSetting, ClientIdInUse, GatewayError
from harvester.events.codes import CLIENT_ID_IN_USE
from harvester.gateway.send_guard import SendGuard
from harvester.gateway.tap import Tap
from harvester.wire.message_ids import MARKET_TIME, MARKET_TIME_OPTION

if TYPE_CHECKING:
    from collections.abc import Callable

    from harvester.clock import Clock
    from harvester.gateway.tap import MessageSink

_READ_BYTES_MAX = 32 * 1024  # asyncio's default of 256 KB makes packet stamps coarse
_LEAPING_BUFFER_BYTES = 8192  # data queued in the socket is stamped late: keep the queue short


class ConnectionLost(GatewayError):
    """The connection is lost: the request was not sent."""


class GatewayNotReady(GatewayError):
    """The first connection was refused, reset, closed or not answered: the gateway may still be starting."""


class GatewayInfo(NamedTuple):
    """Version, time and accounts a gateway reports on connect. `connection_time` is text in the gateway's time zone."""

    server_version: int
    connection_time: str
    accounts: tuple[str, ...]


class ConnectionListener(Protocol):
    """Receives the events of a connection; every call comes from the event loop."""

    def heard(self, fields: list[str]) -> None:
        """A control message (`tap.CONTROL`) has been appended."""
        ...

    def sending(self, text: str) -> None:
        """A message is about to be sent."""
        ...

    def refused(self, message_id: int, text: str) -> None:
        """The guard stopped a message."""
        ...

    def lost(self, reason: str) -> None:
        """The connection was closed, by either side."""
        ...

    def garbled(self, waiting: bytes) -> None:
        """The byte stream cannot be split into messages; `waiting` holds the bytes. The connection is unusable."""
        ...

    def failed(self, error: Exception) -> None:
        """The tap failed; the socket is being closed."""
        ...


class Connection:
    """An `ib_async.IB` with a send guard and a tap, reusable across reconnects."""

    def __init__(self, sink: MessageSink, listener: ConnectionListener, clock: Clock) -> None:
        from ib_async import IB  # imports pandas if installed: only when a gateway is used

        logging.getLogger("ib_async").setLevel(logging.CRITICAL + 1)  # we report its errors, once
        self._listener = listener
        self._lockstep = clock if isinstance(clock, LockstepClock) else None
        self._leaps = bool(getattr(clock, "leaps", False))
        self._follower = clock if isinstance(clock, FileClock) else None
        self._sink = sink
        self.ib = IB()
        self.client: Any = self.ib.client
        if self._follower is not None:
            self.client.setConnectOptions(MARKET_TIME_OPTION)
        self.client.MaxRequests = 0  # the recorder does the pacing, on market time
        self._tap = Tap(self.client, sink, self)
        wire: Any = self.client.conn
        wire.sendMsg = SendGuard(self._counted(wire.sendMsg), listener.sending, listener.refused)
        wire.hasData += self._has_data
        wire.disconnected += self._disconnected
        self._port = 0
        self._in_use = False
        self._refusal = self._end = ""
        self._closed: asyncio.Future[None] | None = None

    @property
    def bytes_received(self) -> int:
        """Bytes received on this connection."""
        return self._tap.bytes_received

    @property
    def connected(self) -> bool:
        transport = self.client.conn.transport
        return bool(self.client.isReady()) and transport is not None and not transport.is_closing()

    @property
    def paused(self) -> bool:
        """Whether reading is paused by us."""
        return self._tap.paused

    async def connect(self, host: str, port: int, client_id: int, timeout_s: float) -> GatewayInfo:
        """Connect and wait until the gateway is ready for requests, at most `timeout_s` seconds of real time.

        Raises:
            BadSetting: client id 0, which TWS binds to manual orders.
            ClientIdInUse: the gateway answers with error 326.
            GatewayNotReady: the connection was refused, reset or closed, or nothing was sent within `timeout_s`.
            GatewayError: the gateway is unreachable, or the peer is not TWS / IB Gateway.
        """
        if client_id == 0:
            raise BadSetting("client id 0 is not allowed: TWS binds it to manual orders; use another, for example 9960")
        where = f"{host}:{port}"
        self._in_use, self._refusal, self._end = False, "", ""
        self._tap.begin()
        self._closed = asyncio.get_running_loop().create_future()
        ready = asyncio.ensure_future(self.client.connectAsync(host, port, client_id, timeout=timeout_s))
        # ib_async waits only for readiness: if the gateway disconnects first, do not wait for the time-out.
        try:
            await asyncio.wait({ready, self._closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:  # when we are cancelled too: asyncio reports an exception that nobody retrieves
            ready.cancel()
            outcome: BaseException | None = (await asyncio.gather(ready, return_exceptions=True))[0]
            self._closed = None
        handshake = self._tap.handshake
        if outcome is not None or not self.connected:
            raise self._connect_error(where, client_id, timeout_s, outcome)
        return GatewayInfo(handshake.version, handshake.connection_time, handshake.accounts)

    def disconnect(self) -> None:
        """Hang up for good. Market time that came with the data stays: what is still logged belongs to it."""
        if self._follower is not None:
            self._follower.hold(True)
            self._follower = None
        with contextlib.suppress(OSError, RuntimeError):
            self.client.disconnect()

    def abort(self) -> None:
        """Drop the connection without sending queued data: the peer may be dead."""
        transport = self.client.conn.transport
        if transport is not None:
            transport.abort()

    def take_unfinished(self) -> bytes:
        """Bytes of an incomplete message; each byte is returned once."""
        return self._tap.take_incomplete()

    def pause(self) -> None:
        """Stop reading: TCP flow control makes the gateway wait."""
        self._hold(True)
        transport = self.client.conn.transport
        if transport is not None:
            with contextlib.suppress(RuntimeError):
                transport.pause_reading()

    def resume(self) -> None:
        self._hold(False)
        transport = self.client.conn.transport
        if transport is not None:
            with contextlib.suppress(RuntimeError):
                transport.resume_reading()

    def _hold(self, paused: bool) -> None:
        self._tap.pause(paused)
        if self._follower is not None:
            self._follower.hold(paused)

    def _connect_error(self, where: str, client_id: int, timeout_s: float, outcome: BaseException | None) -> Exception:
        if self._in_use:
            return ClientIdInUse(
                f"client id {client_id} is in use at {where} (IB error {CLIENT_ID_IN_USE}); "
                "stop the other program or choose another --client-id"
            )
        if self._refusal:
            return GatewayError(f"{where} {self._refusal}")
        if isinstance(outcome, TimeoutError):
            return GatewayNotReady(f"{where} {self._not_ready(timeout_s)}")
        if isinstance(outcome, OSError):
            return GatewayNotReady(not_reached(where, outcome))
        if self._tap.handshake.version:
            why = (
                f"reported version {self._tap.handshake.version} and disconnected "
                f"{'as soon as' if outcome is None else 'before'} it was ready; check its window and log"
            )
        else:
            why = disconnected_early(self._end)
        return GatewayNotReady(f"{where} {why}")

    def _not_ready(self, timeout_s: float) -> str:
        """How far a connection came that never became ready."""
        if version := self._tap.handshake.version:
            return (
                f"reported version {version} but was not ready within {timeout_s:g} s: "
                "it sent no order id and accounts; check in its window that it is logged in"
            )
        return sent_nothing(self.bytes_received, timeout_s)

    def _counted(self, send: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def write(data: bytes) -> None:
            transport = self.client.conn.transport
            if transport is None:
                return
            if not self._port:
                self._port = int(transport.get_extra_info("sockname")[1])
                if hasattr(transport, "max_size"):
                    transport.max_size = _READ_BYTES_MAX
                if self._leaps:
                    sock = transport.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LEAPING_BUFFER_BYTES)
            if self._lockstep is not None:
                self._lockstep.sent((self._port, "up"), len(data))
            send(data)

        return write

    def _has_data(self, data: bytes) -> None:
        self._tap.packet(data)
        if self._lockstep is not None:
            self._lockstep.received((self._port, "down"), len(data))

    def tap_control(self, fields: list[str]) -> None:
        if fields[0] == MARKET_TIME:
            if self._follower is not None and len(fields) == 2 and fields[1].isdecimal() and len(fields[1]) < 20:
                self._follower.follow(int(fields[1]))
                self._sink.market_time(int(fields[1]))
            return
        if fields[0] == "4" and len(fields) > 3 and fields[3] == str(CLIENT_ID_IN_USE):
            self._in_use = True
        self._listener.heard(fields)

    def tap_refused(self, why: str) -> None:
        self._refusal = why
        self.abort()

    def tap_garbled(self, waiting: bytes) -> None:
        self._listener.garbled(waiting)

    def tap_failed(self, error: Exception) -> None:
        self._listener.failed(error)
        self.abort()

    def _disconnected(self, reason: str) -> None:
        if self._lockstep is not None:
            self._lockstep.closed((self._port, "up"))
            self._lockstep.closed((self._port, "down"))
        if self._follower is not None:
            self._follower.follow(None)
        self._port = 0
        self._end = reason
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        self._listener.lost(reason)


def not_reached(where: str, error: OSError) -> str:
    """Why no connection was made, and the next move, as text."""
    # The text of asyncio names the address instead of the reason; the number of a gaierror is not an errno.
    number = None if isinstance(error, socket.gaierror) else error.errno
    reason = os.strerror(number) if number else error.strerror or str(error) or type(error).__name__
    return f"cannot connect to {where}: {reason}; start TWS or IB Gateway (or `hv gateway`) and check the port"


def disconnected_early(reset: str) -> str:
    """What a peer did that closed a connection before its first byte; `reset`: the reason of a reset, else empty."""
    if reset:
        return (
            f"reset the connection before it was ready ({reset}): TWS / IB Gateway may still be starting "
            "(--wait 10m keeps trying), or does not accept this machine (trusted IPs in its API settings)"
        )
    return (
        "disconnected before it was ready: TWS / IB Gateway may still be starting (--wait 10m keeps trying), "
        "does not trust this machine (trusted IPs in its API settings), or is not what listens there"
    )


def sent_nothing(n_bytes: int, timeout_s: float) -> str:
    """What a peer did that accepted a connection and sent `n_bytes`, no handshake, within `timeout_s` seconds."""
    sent = f"sent {n_bytes} bytes, not a TWS handshake," if n_bytes else "sent nothing"
    return (
        f"accepts connections but {sent} within {timeout_s:g} s: it is not TWS / IB Gateway, or "
        "its API is not enabled; check the port (7496 TWS, 4001 IB Gateway, 7497 and 4002 paper)"
    )
