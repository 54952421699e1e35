"""Frames of the TWS protocol: a 4-byte big-endian length, then text fields, each terminated by NUL.

Source: `comm.py` of the official API. Text is UTF-8; invalid bytes round-trip as lone surrogates.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from harvester.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Iterable

FRAME_LENGTH_MAX = 0xFFFFFF
"""Maximum payload in bytes (16 MB), as in the official API."""

HANDSHAKE = b"API\0"
"""The first four bytes a client sends; the version range follows as a frame without NUL."""

_LENGTH = struct.Struct(">I")


class BadFrame(GatewayError):
    """The byte stream cannot be split into messages."""


def frame_bytes(payload: bytes) -> bytes:
    """A payload with its length prefix."""
    return _LENGTH.pack(len(payload)) + payload


def frame(fields: Iterable[str]) -> bytes:
    """Encode one message.

    Raises:
        ValueError: a field contains NUL, which the protocol cannot represent.
    """
    parts = list(fields)
    text = "\0".join(parts) + "\0"
    if text.count("\0") != len(parts):
        raise ValueError(f"a field of {parts[:3]} … contains NUL, which the protocol cannot represent")
    return frame_bytes(text.encode("utf-8", "surrogateescape"))


def split(payload: bytes) -> list[str]:
    """Decode a payload into its fields; the final NUL may be missing."""
    fields = payload.decode("utf-8", "surrogateescape").split("\0")
    if fields[-1] == "":
        fields.pop()
    return fields


class Deframer:
    """Splits a byte stream into payloads. `feed` takes packets in order; incomplete messages are buffered."""

    def __init__(self, length_max: int = FRAME_LENGTH_MAX) -> None:
        self.length_max = length_max
        self._rest = bytearray()
        self._need = 4

    @property
    def waiting(self) -> int:
        """Number of buffered bytes of an incomplete message."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Add a packet; return the payloads it completes.

        Raises:
            BadFrame: a length prefix exceeds `length_max`; the rest of the stream cannot be parsed.
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
                "the peer does not speak the TWS protocol"
            )
        return length
