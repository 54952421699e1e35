"""One client of a gateway: connect, listen, send guarded requests, notice when the line goes dead.

Time-outs of the connection are real time; nothing here waits on market time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from harvester.clock import LockstepClock
from harvester.errors import BadSetting, ClientIdInUse, GatewayError
from harvester.events.codes import CLIENT_ID_IN_USE
from harvester.gateway.guard import SendGuard
from harvester.gateway.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Callable

    from harvester.clock import Clock
    from harvester.gateway.tap import Sink

_READ_BYTES_MAX = 32 * 1024  # asyncio's 256 KB a read would blur packet stamps and make ib_async's framing slow
_LEAPING_BUFFER_BYTES = 8192  # what waits in the socket bears the time of events behind it: little may


class LineLost(GatewayError):
    """The connection is gone: what was to be sent cannot be."""


class Hello(NamedTuple):
    """What the gateway said of itself. `connection_time` is its text, in the gateway's own zone."""

    server_version: int
    connection_time: str
    accounts: tuple[str, ...]


class Listener(Protocol):
    """Who is told what happens on the line; every call comes from the event loop."""

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
        """The connection ended, ours or theirs."""
        ...

    def garbled(self, waiting: bytes) -> None:
        """What arrives frames to no message; `waiting` is what has been held back. The connection is of no more use."""
        ...

    def failed(self, error: Exception) -> None:
        """The tap failed; the socket is being closed."""
        ...


class Connection:
    """A guarded, tapped `ib_async.IB`, reusable over reconnects."""

    def __init__(self, sink: Sink, listener: Listener, clock: Clock) -> None:
        from ib_async import IB  # imports pandas when present: only when a gateway is used

        logging.getLogger("ib_async").setLevel(logging.CRITICAL + 1)  # its errors are ours to tell, once
        self._listener = listener
        self._lockstep = clock if isinstance(clock, LockstepClock) else None
        self._leaps = bool(getattr(clock, "leaps", False))
        self.ib = IB()
        self.client: Any = self.ib.client
        self.client.MaxRequests = 0  # pacing is ours, on market time
        self._tap = Tap(self.client, sink, self)
        wire: Any = self.client.conn
        wire.sendMsg = SendGuard(self._counted(wire.sendMsg), listener.sending, listener.refused)
        wire.hasData += self._has_data
        wire.disconnected += self._disconnected
        self._port = 0
        self._in_use = False
        self._refusal = ""
        self._hung_up: asyncio.Future[None] | None = None

    @property
    def bytes_received(self) -> int:
        """Bytes this connection has brought so far."""
        return self._tap.bytes_received

    @property
    def connected(self) -> bool:
        transport = self.client.conn.transport
        return bool(self.client.isReady()) and transport is not None and not transport.is_closing()

    @property
    def paused(self) -> bool:
        """Whether we ourselves have stopped reading."""
        return self._tap.paused

    async def connect(self, host: str, port: int, client_id: int, timeout_s: float) -> Hello:
        """Connect and wait until the gateway is ready for requests, at most `timeout_s` seconds of real time.

        Raises:
            BadSetting: client id 0, which would bind itself to orders placed by hand.
            ClientIdInUse: the gateway says 326.
            GatewayError: nothing listens there, or what listens does not answer as TWS does.
        """
        if client_id == 0:
            raise BadSetting("client id 0 is refused: it binds to orders placed by hand; use another, such as 9960")
        where = f"{host}:{port}"
        self._in_use, self._refusal = False, ""
        self._tap.begin()
        self._hung_up = asyncio.get_running_loop().create_future()
        ready = asyncio.ensure_future(self.client.connectAsync(host, port, client_id, timeout=timeout_s))
        # ib_async waits for readiness alone: a gateway that hangs up first must not cost the whole time-out.
        try:
            await asyncio.wait({ready, self._hung_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not ready.done():
                ready.cancel()
        outcome: BaseException | None = (await asyncio.gather(ready, return_exceptions=True))[0]
        self._hung_up = None
        greeting = self._tap.greeting
        if outcome is not None or not self.connected:
            raise self._why_not(where, client_id, timeout_s, outcome)
        return Hello(greeting.version, greeting.connection_time, greeting.accounts)

    def disconnect(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self.client.disconnect()

    def abort(self) -> None:
        """Give a dead line up at once: nobody may be there to take what is still to be sent."""
        transport = self.client.conn.transport
        if transport is not None:
            transport.abort()

    def take_unfinished(self) -> bytes:
        """Bytes of a message whose end never came; each is given once."""
        return self._tap.take_waiting()

    def pause(self) -> None:
        """Stop reading: TCP tells the gateway to wait."""
        self._tap.pause(True)
        transport = self.client.conn.transport
        if transport is not None:
            with contextlib.suppress(RuntimeError):
                transport.pause_reading()

    def resume(self) -> None:
        self._tap.pause(False)
        transport = self.client.conn.transport
        if transport is not None:
            with contextlib.suppress(RuntimeError):
                transport.resume_reading()

    def _why_not(self, where: str, client_id: int, timeout_s: float, outcome: BaseException | None) -> Exception:
        if self._in_use:
            return ClientIdInUse(
                f"client id {client_id} is in use at {where} (IB error {CLIENT_ID_IN_USE}); "
                "stop the other program or take another --client-id"
            )
        if self._refusal:
            return GatewayError(f"{where} {self._refusal}")
        if isinstance(outcome, TimeoutError):
            return GatewayError(f"{where} {self._said(timeout_s)}")
        if isinstance(outcome, OSError) and not isinstance(outcome, asyncio.CancelledError):
            reason = outcome.strerror or str(outcome) or type(outcome).__name__
            return GatewayError(
                f"cannot connect to {where}: {reason}; start TWS or IB Gateway (or `hv gateway`) and check the port"
            )
        if self._tap.greeting.version:
            return GatewayError(
                f"{where} said its version {self._tap.greeting.version} and hung up "
                f"{'as soon as' if outcome is None else 'before'} it was ready; look at its own window and log"
            )
        return GatewayError(
            f"{where} hung up before it was ready: it is not TWS or IB Gateway, or it does not trust this machine; "
            "check the port and the trusted addresses in its API settings"
        )

    def _said(self, timeout_s: float) -> str:
        """What came of a connection that never became ready."""
        if version := self._tap.greeting.version:
            return (
                f"said its version {version} but never became ready within {timeout_s:g} s: "
                "no order id and accounts came; is it logged in? (see its own window)"
            )
        said = f"sent {self.bytes_received} bytes that are no TWS greeting" if self.bytes_received else "said nothing"
        return (
            f"accepts connections but {said} within {timeout_s:g} s: it is not TWS or IB Gateway, or "
            "its API is not enabled; check the port (7496 TWS, 4001 IB Gateway, 7497 and 4002 paper)"
        )

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

    def tap_heard(self, fields: list[str]) -> None:
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
        self._port = 0
        if self._hung_up is not None and not self._hung_up.done():
            self._hung_up.set_result(None)
        self._listener.lost(reason)
