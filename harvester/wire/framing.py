"""Length-prefixed frames: 4 bytes big-endian length, then fields of text, each ended by a NUL.

Source: `comm.py` of the official API. Text is UTF-8; bytes that are not survive a round trip as lone surrogates.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from harvester.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Iterable

FRAME_LENGTH_MAX = 0xFFFFFF
"""Longest payload in bytes, as the official API's reader has it (16 MB)."""

HANDSHAKE = b"API\0"
"""A client's first four bytes; the version range follows as a frame without NUL."""

_LENGTH = struct.Struct(">I")


class BadFrame(GatewayError):
    """The bytes on the socket do not frame to messages."""


def frame_bytes(payload: bytes) -> bytes:
    """Put the length before a payload."""
    return _LENGTH.pack(len(payload)) + payload


def frame(fields: Iterable[str]) -> bytes:
    """Encode one message.

    Raises:
        ValueError: a field holds a NUL, which the protocol cannot carry.
    """
    parts = list(fields)
    text = "\0".join(parts) + "\0"
    if text.count("\0") != len(parts):
        raise ValueError(f"a field of {parts[:3]} … holds a NUL; the protocol has no way to say that")
    return frame_bytes(text.encode("utf-8", "surrogateescape"))


def split(payload: bytes) -> list[str]:
    """Decode a payload into its fields; the NUL that ends the last one is taken off, a missing one is tolerated."""
    fields = payload.decode("utf-8", "surrogateescape").split("\0")
    if fields[-1] == "":
        fields.pop()
    return fields


class Deframer:
    """Cut a byte stream into payloads. Feed it packets in order; it keeps what is not yet whole."""

    def __init__(self, length_max: int = FRAME_LENGTH_MAX) -> None:
        self.length_max = length_max
        self._rest = bytearray()
        self._need = 4

    @property
    def waiting(self) -> int:
        """Bytes of a message whose end has not arrived."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Take a packet, give the payloads it completes.

        Raises:
            BadFrame: a length prefix is larger than `length_max`; the stream cannot be followed any further.
        """
        self._rest += data
        if len(self._rest) < self._need:
            return []
        payloads, at = [], 0
        with memoryview(self._rest) as view:
            while len(view) - at >= 4:
                length = self._length_at(at)
                self._need = 4 + length
                if len(view) - at < self._need:
                    break
                payloads.append(bytes(view[at + 4 : at + self._need]))
                at += self._need
            else:
                self._need = 4
        del self._rest[:at]
        return payloads

    def _length_at(self, at: int) -> int:
        length: int = _LENGTH.unpack_from(self._rest, at)[0]
        if length > self.length_max:
            raise BadFrame(
                f"a message claims {length} bytes, at most {self.length_max} are allowed: "
                "what is on the other side does not speak the TWS protocol"
            )
        return length
