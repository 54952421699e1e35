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

from harvester.gateway.handshake import Handshake
from harvester.wire.framing import FRAME_LENGTH_MAX
from harvester.wire.message_ids import MARKET_TIME

CONTROL = frozenset({"4", "9", "10", "15", "17", "49", "52", "58", "80", MARKET_TIME})
"""Message ids that are also passed to the listener, after the message has been appended."""

WHOLE_MESSAGE_S = 10.0  # real seconds within which buffered bytes must become a message
_LENGTH = struct.Struct(">I")


class MessageSink(Protocol):
    """Receives packets and messages in order of arrival."""

    def packet(self, size: int) -> None:
        """A packet of `size` bytes has arrived; its time goes on the messages appended next."""
        ...

    def message(self, fields: list[str]) -> None:
        """Append one message."""
        ...

    def market_time(self, at_ns: int) -> None:
        """The last message appended was no data, but the time of what follows, ns UTC: remove it."""
        ...


class TapListener(Protocol):
    """Receives the control messages and failures of a tap."""

    def tap_control(self, fields: list[str]) -> None:
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

    def __init__(self, client: Any, sink: MessageSink, listener: TapListener) -> None:
        self._client, self._sink, self._listener = client, sink, listener
        self._append = sink.message
        self.failure: Exception | None = None
        self.begin()
        client.conn.hasData -= client._onSocketHasData  # noqa: SLF001 - ib_async's framing; see the module docstring

    def begin(self) -> None:
        """Reset the state for a new connection."""
        self.handshake = Handshake(self._client)
        self.bytes_received = self.messages = 0
        self._buffer, self._needed = bytearray(), 4
        self._ignoring = False
        self._check_timer: asyncio.TimerHandle | None = None
        self.paused = False

    def take_incomplete(self) -> bytes:
        """Remove and return the bytes of an incomplete message."""
        waiting, self._buffer = bytes(self._buffer), bytearray()
        return waiting

    def pause(self, paused: bool) -> None:
        """Note that reading has been paused or resumed: while paused, an incomplete message is not an error."""
        self.paused = paused
        if not paused and self._check_timer is not None:
            self._check_timer.cancel()
            self._check_timer = None
            self._schedule_check()

    def packet(self, data: bytes) -> None:
        """Split a packet into messages and pass them on."""
        self.bytes_received += len(data)
        if self.failure is not None or self._ignoring:
            return
        try:
            self._sink.packet(len(data))
            if self._buffer:
                self._buffer += data
                if len(self._buffer) < self._needed:
                    return
                data = self.take_incomplete()
            self._split(data)
        except Exception as error:  # noqa: BLE001 - see the module's docstring
            self.failure = error
            self._listener.tap_failed(error)

    def _split(self, data: bytes) -> None:
        append, length_at = self._append, _LENGTH.unpack_from
        at, end, count, ready = 0, len(data), 0, self.handshake.ready
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
            elif not self._before_ready(fields):
                self._buffer = bytearray(data[at:])
                return
            else:
                ready = self.handshake.ready
            if fields and fields[0] in CONTROL:
                self._listener.tap_control(fields)
            at = stop
        self.messages += count
        self._client._numMsgRecv = self.messages  # noqa: SLF001 - ib_async's own count
        if at < end:
            self._buffer_incomplete(bytearray(data[at:]))

    def _before_ready(self, fields: list[str]) -> bool:
        """Handle a message before readiness: the first non-empty one is the handshake, the others are events."""
        if self.handshake.version or not fields:
            self._append(fields)
            if fields:
                self.handshake.receive(fields)
            return True
        if why := self.handshake.begin(fields):
            self._refuse(why)
            return False
        fields.clear()  # the handshake must not count as a message
        return True

    def _refuse(self, why: str) -> None:
        self._ignoring = True
        self._listener.tap_refused(why)

    def _buffer_incomplete(self, data: bytearray) -> None:
        """Buffer an incomplete message, unless its claimed length is impossible."""
        self._buffer, self._needed = data, 4
        if len(data) < 4:
            self._schedule_check()
            return
        claimed = _LENGTH.unpack_from(data)[0]
        self._needed = 4 + claimed
        if not self.handshake.version and claimed > self.handshake.LENGTH_MAX:
            self._refuse(f"sent {len(data)} bytes, not a TWS handshake: it is not TWS / IB Gateway; check the port")
        elif claimed > FRAME_LENGTH_MAX:
            self._garbled()
        else:
            self._schedule_check()

    def _schedule_check(self) -> None:
        if self._check_timer is None:
            loop = asyncio.get_running_loop()
            self._check_timer = loop.call_later(WHOLE_MESSAGE_S, self._check_progress, self.messages)

    def _check_progress(self, messages: int) -> None:
        """Detect a wrong but plausible length: bytes wait, but no message completes."""
        self._check_timer = None
        if not self._buffer or self._ignoring or not self.handshake.ready:
            return
        if self.messages == messages and not self.paused:
            self._garbled()
        else:
            self._schedule_check()

    def _garbled(self) -> None:
        self._ignoring = True
        self._listener.tap_garbled(self.take_incomplete())
