"""Where the gateway is listened to: at the socket, below everything ib_async makes of a message.

The tap cuts the bytes into messages itself, in place of ib_async's framing (docs/decisions/0006-framing.md): every
message's exact text goes to the sink in order, and no byte is dropped in silence. ib_async's decoder and containers
see nothing of the data.

The tap never raises into the event loop, which would log the exception and swallow it: a failure is kept, told to
whoever waits, and nothing is read from then on.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Protocol

from harvester.gateway.greeting import Greeting
from harvester.wire.framing import FRAME_LENGTH_MAX

CONTROL = frozenset({"4", "9", "10", "15", "17", "49", "52", "58", "80"})
"""Messages the session reacts to; it hears of one after it has its place in the order."""

WHOLE_MESSAGE_S = 10.0  # real seconds in which bytes that wait must become a message
_LENGTH = struct.Struct(">I")


class Sink(Protocol):
    """Where arrivals go, in order."""

    def packet(self) -> None:
        """A packet has arrived: what is appended next bears this instant."""
        ...

    def message(self, fields: list[str]) -> None:
        """Append one message."""
        ...


class Teller(Protocol):
    """Who is told what the tap meets."""

    def tap_heard(self, fields: list[str]) -> None:
        """A control message has been appended."""
        ...

    def tap_refused(self, why: str) -> None:
        """What greets is no gateway we can record; the text goes on from its address."""
        ...

    def tap_garbled(self, waiting: bytes) -> None:
        """What arrives frames to no message."""
        ...

    def tap_failed(self, error: Exception) -> None:
        """The sink or a reaction raised."""
        ...


class Tap:
    """Takes the place of the framing of one `ib_async.Client`; `begin` before each connection."""

    def __init__(self, client: Any, sink: Sink, teller: Teller) -> None:
        self._client, self._sink, self._teller = client, sink, teller
        self._append = sink.message
        self.failure: Exception | None = None
        self.begin()
        client.conn.hasData -= client._onSocketHasData  # noqa: SLF001 - ib_async's framing; see the module's text

    def begin(self) -> None:
        """A new connection: nothing waits, nobody has greeted."""
        self.greeting = Greeting(self._client)
        self.bytes_received = self.messages = 0
        self._rest, self._need = bytearray(), 4
        self._deaf = False
        self._looked: asyncio.TimerHandle | None = None
        self.paused = False

    def take_waiting(self) -> bytes:
        """The bytes of a message that is not whole; they are no longer kept here."""
        waiting, self._rest = bytes(self._rest), bytearray()
        return waiting

    def pause(self, paused: bool) -> None:
        """Reading stops or goes on: while it stands, no byte can be missed."""
        self.paused = paused
        if not paused and self._looked is not None:
            self._looked.cancel()
            self._looked = None
            self._look_later()

    def packet(self, data: bytes) -> None:
        """Take a packet apart."""
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
            # A payload without its last NUL keeps its last field, too.
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
        """A message before readiness; the first one with a field is the greeting, the others are events as always."""
        if self.greeting.version or not fields:
            self._append(fields)
            if fields:
                self.greeting.hear(fields)
            return True
        if why := self.greeting.begin(fields):
            self._refuse(why)
            return False
        fields.clear()  # no message: it must not be taken for one
        return True

    def _refuse(self, why: str) -> None:
        self._deaf = True
        self._teller.tap_refused(why)

    def _wait(self, rest: bytearray) -> None:
        """Keep what is not whole yet, unless no message of that length can be meant."""
        self._rest, self._need = rest, 4
        if len(rest) < 4:
            self._look_later()
            return
        claimed = _LENGTH.unpack_from(rest)[0]
        self._need = 4 + claimed
        if not self.greeting.version and claimed > self.greeting.LENGTH_MAX:
            words = f"sent {len(rest)} bytes that are no TWS greeting: it is not TWS or IB Gateway; check the port"
            self._refuse(words)
        elif claimed > FRAME_LENGTH_MAX:
            self._garbled()
        else:
            self._look_later()

    def _look_later(self) -> None:
        if self._looked is None:
            self._looked = asyncio.get_running_loop().call_later(WHOLE_MESSAGE_S, self._look, self.messages)

    def _look(self, messages: int) -> None:
        """A wrong length that is not impossible: bytes come or wait, and no message is ever whole."""
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
