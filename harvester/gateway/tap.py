"""Reads the gateway's bytes at the socket, below ib_async's decoding.

The tap replaces ib_async's framing (docs/decisions/0006-framing.md): the exact text of every message goes to the sink
in order, and no byte is dropped silently. ib_async's decoder and containers get none of the data.

The tap never raises into the event loop, which would log the exception and continue. It keeps the exception, reports it
to its listener, and ignores all further data.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Protocol

from harvester.gateway.greeting import Greeting
from harvester.wire.framing import FRAME_LENGTH_MAX

CONTROL = frozenset({"4", "9", "10", "15", "17", "49", "52", "58", "80"})
"""Message ids that are also passed to the listener, after the message has been appended."""

WHOLE_MESSAGE_S = 10.0  # real seconds within which buffered bytes must become a message
_LENGTH = struct.Struct(">I")


class Sink(Protocol):
    """Receives packets and messages in order of arrival."""

    def packet(self) -> None:
        """A packet has arrived: its time stamps the messages appended next."""
        ...

    def message(self, fields: list[str]) -> None:
        """Append one message."""
        ...


class Teller(Protocol):
    """Receives the control messages and failures of a tap."""

    def tap_heard(self, fields: list[str]) -> None:
        """A control message has been appended."""
        ...

    def tap_refused(self, why: str) -> None:
        """The peer is not a gateway we can record; `why` continues a sentence that starts with its address."""
        ...

    def tap_garbled(self, waiting: bytes) -> None:
        """The byte stream cannot be split into messages; `waiting` holds the bytes."""
        ...

    def tap_failed(self, error: Exception) -> None:
        """The sink or the listener raised `error`."""
        ...


class Tap:
    """Replaces the framing of one `ib_async.Client`; call `begin` before each connection."""

    def __init__(self, client: Any, sink: Sink, teller: Teller) -> None:
        self._client, self._sink, self._teller = client, sink, teller
        self._append = sink.message
        self.failure: Exception | None = None
        self.begin()
        client.conn.hasData -= client._onSocketHasData  # noqa: SLF001 - ib_async's framing; see the module docstring

    def begin(self) -> None:
        """Reset the state for a new connection."""
        self.greeting = Greeting(self._client)
        self.bytes_received = self.messages = 0
        self._rest, self._need = bytearray(), 4
        self._deaf = False
        self._looked: asyncio.TimerHandle | None = None
        self.paused = False

    def take_waiting(self) -> bytes:
        """Remove and return the bytes of an incomplete message."""
        waiting, self._rest = bytes(self._rest), bytearray()
        return waiting

    def pause(self, paused: bool) -> None:
        """Note that reading has been paused or resumed: while paused, an incomplete message is not an error."""
        self.paused = paused
        if not paused and self._looked is not None:
            self._looked.cancel()
            self._looked = None
            self._look_later()

    def packet(self, data: bytes) -> None:
        """Split a packet into messages and pass them on."""
        self.bytes_received += len(data)
        if self.failure is not None or self._deaf:
            return
        try:
            self._sink.packet()
            if self._rest:
                self._rest += data
                if len(self._rest) < self._need:
                    return
                data = self.take_waiting()
            self._cut(data)
        except Exception as error:  # noqa: BLE001 - see the module's docstring
            self.failure = error
            self._teller.tap_failed(error)

    def _cut(self, data: bytes) -> None:
        append, length_at = self._append, _LENGTH.unpack_from
        at, end, count, ready = 0, len(data), 0, self.greeting.ready
        while end - at >= 4:
            stop = at + 4 + length_at(data, at)[0]
            if stop > end:
                break
            # A payload without the final NUL keeps its last field.
            fields = data[at + 4 : stop].decode("utf-8", "backslashreplace").split("\0")
            if not fields[-1]:
                fields.pop()
            count += 1
            if ready:
                append(fields)
            elif not self._greet(fields):
                self._rest = bytearray(data[at:])
                return
            else:
                ready = self.greeting.ready
            if fields and fields[0] in CONTROL:
                self._teller.tap_heard(fields)
            at = stop
        self.messages += count
        self._client._numMsgRecv = self.messages  # noqa: SLF001 - ib_async's own count
        if at < end:
            self._wait(bytearray(data[at:]))

    def _greet(self, fields: list[str]) -> bool:
        """Handle a message before readiness: the first non-empty one is the handshake, the others are events."""
        if self.greeting.version or not fields:
            self._append(fields)
            if fields:
                self.greeting.hear(fields)
            return True
        if why := self.greeting.begin(fields):
            self._refuse(why)
            return False
        fields.clear()  # the handshake must not count as a message
        return True

    def _refuse(self, why: str) -> None:
        self._deaf = True
        self._teller.tap_refused(why)

    def _wait(self, rest: bytearray) -> None:
        """Buffer an incomplete message, unless its claimed length is impossible."""
        self._rest, self._need = rest, 4
        if len(rest) < 4:
            self._look_later()
            return
        claimed = _LENGTH.unpack_from(rest)[0]
        self._need = 4 + claimed
        if not self.greeting.version and claimed > self.greeting.LENGTH_MAX:
            self._refuse(f"sent {len(rest)} bytes, not a TWS handshake: it is not TWS / IB Gateway; check the port")
        elif claimed > FRAME_LENGTH_MAX:
            self._garbled()
        else:
            self._look_later()

    def _look_later(self) -> None:
        if self._looked is None:
            self._looked = asyncio.get_running_loop().call_later(WHOLE_MESSAGE_S, self._look, self.messages)

    def _look(self, messages: int) -> None:
        """Detect a wrong but possible length: bytes are buffered and no message completes."""
        self._looked = None
        if not self._rest or self._deaf or not self.greeting.ready:
            return
        if self.messages == messages and not self.paused:
            self._garbled()
        else:
            self._look_later()

    def _garbled(self) -> None:
        self._deaf = True
        self._teller.tap_garbled(self.take_waiting())
