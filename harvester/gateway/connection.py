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
from harvester.gateway.guard import SendGuard
from harvester.gateway.tap import Sink, Tap
from harvester.wire.framing import FRAME_LENGTH_MAX, Deframer

if TYPE_CHECKING:
    from collections.abc import Callable

    from harvester.clock import Clock

CLIENT_ID_IN_USE = "326"
_READ_BYTES_MAX = 32 * 1024  # asyncio's 256 KB a read would blur packet stamps and make ib_async's framing slow


_LEAPING_BUFFER_BYTES = 8192  # what waits in the socket bears the time of events behind it: little may


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
        self._tap = Tap(self.ib, sink, self._heard, self._tap_failed)
        wire: Any = self.client.conn
        wire.sendMsg = SendGuard(self._counted(wire.sendMsg), listener.sending, listener.refused)
        wire.hasData += self._has_data
        wire.disconnected += self._disconnected
        self._messages_seen = 0
        self.bytes_since_message = 0
        self.bytes_received = 0
        self._port = 0
        self._hello: Deframer | None = None
        self._connection_time = ""
        self._in_use = False
        self._hung_up: asyncio.Future[None] | None = None

    @property
    def connected(self) -> bool:
        return bool(self.client.isReady())

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
        self._hello, self._in_use, self._connection_time = Deframer(length_max=4096), False, ""
        self.bytes_received = self.bytes_since_message = 0
        self._hung_up = asyncio.get_running_loop().create_future()
        ready = asyncio.ensure_future(self.client.connectAsync(host, port, client_id, timeout=timeout_s))
        await asyncio.wait({ready, self._hung_up}, return_when=asyncio.FIRST_COMPLETED)
        # ib_async waits for readiness alone: a gateway that hangs up first must not cost the whole time-out.
        if not ready.done():
            ready.cancel()
        outcome: BaseException | None = (await asyncio.gather(ready, return_exceptions=True))[0]
        self._hung_up = None
        if outcome is not None:
            raise self._why_not(where, client_id, timeout_s, outcome)
        return Hello(self.client.serverVersion(), self._connection_time, tuple(self.client.getAccounts()))

    def disconnect(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self.client.disconnect()

    def pause(self) -> None:
        """Stop reading: TCP tells the gateway to wait."""
        transport = self.client.conn.transport
        if transport is not None:
            with contextlib.suppress(RuntimeError):
                transport.pause_reading()

    def resume(self) -> None:
        transport = self.client.conn.transport
        if transport is not None:
            with contextlib.suppress(RuntimeError):
                transport.resume_reading()

    def _why_not(self, where: str, client_id: int, timeout_s: float, outcome: BaseException) -> Exception:
        if self._in_use:
            return ClientIdInUse(
                f"client id {client_id} is in use at {where} (IB error {CLIENT_ID_IN_USE}); "
                "stop the other program or take another --client-id"
            )
        if isinstance(outcome, TimeoutError):
            said = (
                f"sent {self.bytes_received} bytes that are no TWS greeting" if self.bytes_received else "said nothing"
            )
            return GatewayError(
                f"{where} accepts connections but {said} within {timeout_s:g} s: it is not TWS or IB Gateway, or "
                "its API is not enabled; check the port (7496 TWS, 4001 IB Gateway, 7497 and 4002 paper)"
            )
        if isinstance(outcome, OSError) and not isinstance(outcome, asyncio.CancelledError):
            reason = outcome.strerror or str(outcome) or type(outcome).__name__
            return GatewayError(
                f"cannot connect to {where}: {reason}; start TWS or IB Gateway (or `hv gateway`) and check the port"
            )
        return GatewayError(
            f"{where} hung up before it was ready: it is not TWS or IB Gateway, or it does not trust this machine; "
            "check the port and the trusted addresses in its API settings"
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
        """Runs after ib_async has taken the packet apart."""
        self.bytes_received += len(data)
        seen = int(self.client._numMsgRecv)  # noqa: SLF001 - the counter has no public name while connecting
        self.bytes_since_message = 0 if seen != self._messages_seen else self.bytes_since_message + len(data)
        self._messages_seen = seen
        self._look_at_frame()
        if self._hello is not None:
            self._greet(data)
        if self._lockstep is not None:
            self._lockstep.received((self._port, "down"), len(data))

    def _look_at_frame(self) -> None:
        """ib_async believes any length and would wait for ever: tell when no message of that length can be meant."""
        waiting = self.client._data  # noqa: SLF001 - ib_async's own buffer of what is not framed yet
        if len(waiting) < 4 or not self.client.isReady():
            return
        claimed = int.from_bytes(waiting[:4], "big")
        if claimed > FRAME_LENGTH_MAX or self.bytes_since_message > FRAME_LENGTH_MAX:
            self._listener.garbled(bytes(waiting))

    def _greet(self, data: bytes) -> None:
        assert self._hello is not None
        try:
            payloads = self._hello.feed(data)
        except GatewayError:
            self._hello = None  # not a TWS: the time-out of the connection says so
            return
        if payloads:
            fields = payloads[0].decode("utf-8", "backslashreplace").split("\0")
            self._connection_time = fields[1] if len(fields) > 1 else ""
            self._hello = None

    def _heard(self, fields: list[str]) -> None:
        if fields[0] == "4" and len(fields) > 3 and fields[3] == CLIENT_ID_IN_USE:
            self._in_use = True
        self._listener.heard(fields)

    def _tap_failed(self, error: Exception) -> None:
        self._listener.failed(error)
        transport = self.client.conn.transport
        if transport is not None:
            transport.abort()

    def _disconnected(self, reason: str) -> None:
        if self._lockstep is not None:
            self._lockstep.closed((self._port, "up"))
            self._lockstep.closed((self._port, "down"))
        self._port = 0
        if self._hung_up is not None and not self._hung_up.done():
            self._hung_up.set_result(None)
        self._listener.lost(reason)
