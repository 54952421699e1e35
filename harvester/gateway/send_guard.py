"""The last check before the socket: only data requests are sent, whatever code issued them.

It replaces the function with which ib_async writes to its transport, parses the frames again and checks their message
ids, so no higher layer can bypass it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.errors import OrderRefused
from harvester.wire.framing import HANDSHAKE, BadFrame, Deframer
from harvester.wire.message_ids import Out

if TYPE_CHECKING:
    from collections.abc import Callable

ALLOWED = frozenset(
    {
        Out.START_API,
        Out.MARKET_DATA,
        Out.CANCEL_MARKET_DATA,
        Out.DEPTH,
        Out.CANCEL_DEPTH,
        Out.TICK_BY_TICK,
        Out.CANCEL_TICK_BY_TICK,
        Out.REALTIME_BARS,
        Out.CANCEL_REALTIME_BARS,
        Out.HISTORICAL_DATA,
        Out.CANCEL_HISTORICAL_DATA,
        Out.SCANNER,
        Out.CANCEL_SCANNER,
        Out.SCANNER_PARAMETERS,
        Out.CONTRACT,
        Out.CURRENT_TIME,
        Out.MARKET_DATA_TYPE,
        Out.DEPTH_EXCHANGES,
    }
)
"""The messages a data recorder needs; any other message, known or not, is blocked."""

_VERSION_RANGE_MAX = 64


class SendGuard:
    """Replaces the connection's `sendMsg`: sends whole frames of allowed messages and nothing else.

    Args:
        send: writes bytes to the socket.
        passing: called with a message's text just before it is sent.
        refused: called with the id (-1 when there is none) and the text of a blocked message.
    """

    def __init__(
        self, send: Callable[[bytes], None], passing: Callable[[str], None], refused: Callable[[int, str], None]
    ) -> None:
        self._send, self._passing, self._refused = send, passing, refused

    def __call__(self, data: bytes) -> None:
        """Send `data`.

        Raises:
            OrderRefused: `data` is not made of whole frames of allowed messages; no byte was sent.
        """
        for payload in self._payloads(bytes(data)):
            text = payload.decode("utf-8", "backslashreplace")
            if payload.startswith(b"v") and data.startswith(HANDSHAKE):
                continue  # the handshake: a version range, not a message
            message_id = text.split("\0", 1)[0]
            if not (message_id.isascii() and message_id.isdigit() and int(message_id) in ALLOWED):
                self._refuse(message_id, text)
            self._passing(text.removesuffix("\0"))
        self._send(data)

    def _payloads(self, data: bytes) -> list[bytes]:
        shaken = data.startswith(HANDSHAKE)
        deframer = Deframer()
        try:
            payloads = deframer.feed(data[len(HANDSHAKE) :] if shaken else data)
        except BadFrame:
            payloads = []
        whole = bool(payloads) and not deframer.waiting
        if not whole or (shaken and (len(payloads) > 1 or len(payloads[0]) > _VERSION_RANGE_MAX)):
            self._refuse("", data[:40].decode("latin-1"))
        return payloads

    def _refuse(self, message_id: str, text: str) -> None:
        number = int(message_id) if message_id.isascii() and message_id.isdigit() and len(message_id) < 10 else -1
        name = Out(number).name if number in Out._value2member_map_ else "unknown"
        self._refused(number, text)
        raise OrderRefused(
            f"message {message_id or '?'} ({name}) was blocked before the socket: Harvester sends data requests only"
        )
