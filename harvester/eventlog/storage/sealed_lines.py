r"""Sealed lines: JSON objects, one a line, each carrying the hash of its own bytes.

    {"seq":1, … ,"hash":"<32 hex digits>"}\n

The hash is BLAKE2b-128 over the object without that last member, `{"seq":1, … }`, exactly as written. So any altered
byte shows, the seal's own and the newline included; nothing has to be parsed before it has been proven.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

from harvester.eventlog.storage.damage import Damage
from harvester.files import regular_file_size

if TYPE_CHECKING:
    from pathlib import Path

CHECK_BYTES = 16
LINE_BYTES_MAX = 64 * 1024 * 1024
SECTOR_BYTES = 512  # the smallest unit a medium writes
FILE_BYTES_MAX = 4 * 1024 * 1024 * 1024
_SEAL = b',"hash":"'
_SEAL_LENGTH = len(_SEAL) + 2 * CHECK_BYTES + 2  # the seal, its digits and `"}`


def checksum(data: bytes | memoryview) -> str:
    """BLAKE2b-128, in hex: guards bytes."""
    return blake2b(data, digest_size=CHECK_BYTES).hexdigest()


def seal(body: bytes) -> bytes:
    """Close a JSON object with its own hash and a newline."""
    assert body[:1] + body[-1:] == b"{}", body[:80]
    assert b"\n" not in body, body[:80]
    return b'%b%b%b"}\n' % (body[:-1], _SEAL, checksum(body).encode())


def sealed_hash(line: bytes) -> str:
    """The hash a sealed line (with or without its newline) carries."""
    return line.rstrip(b"\n")[-2 * CHECK_BYTES - 2 : -2].decode()


def unseal(line: bytes) -> bytes | None:
    """Give back the object of a sealed line without its newline, or None when a byte of it is not as written."""
    return _unsealed(line)[0]


def _unsealed(line: bytes) -> tuple[bytes | None, str]:
    """The object, or None, and its hash."""
    body = line[:-_SEAL_LENGTH] + b"}"
    own = checksum(body)
    return (body if line[-_SEAL_LENGTH:] == _SEAL + own.encode() + b'"}' else None), own


@dataclass
class Scan:
    """What `scan` read: whole lines as (offset, body, hash), where they end, what follows, what is damaged."""

    lines: list[tuple[int, bytes, str]] = field(default_factory=list)
    end: int = 0
    torn_bytes: int = 0
    damages: list[Damage] = field(default_factory=list)


def scan(path: Path, offset: int = 0) -> Scan:
    """Read the sealed lines of `path` from `offset` on.

    A last line without newline is torn, and is only counted; so is one with holes, which a power cut leaves of a line
    whose sectors reached the medium only in part. Any other whole line that fails its hash is damage, and so is a last
    line complete but for its newline, with another byte in its place.
    """
    out = Scan(end=offset)
    try:
        size = regular_file_size(path)
        if size < offset:
            lost = "is missing" if size < 0 else f"is {size} bytes long, at least {offset} were there"
            out.damages.append(Damage(path, max(size, 0), f"the file {lost}"))
            return out
        if size > FILE_BYTES_MAX:
            out.damages.append(Damage(path, 0, f"{size} bytes, more than any run writes ({FILE_BYTES_MAX})"))
            return out
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size - offset)
    except OSError as error:
        out.damages.append(Damage(path, offset, f"cannot be read: {error.strerror or error}"))
        return out
    _split(path, offset, data, out)
    return out


def _split(path: Path, offset: int, data: bytes, out: Scan) -> None:
    *lines, tail = data.split(b"\n")
    at = 0
    for i, line in enumerate(lines):
        body, own = _unsealed(line) if len(line) <= LINE_BYTES_MAX else (None, "")
        if body is None:
            if i == len(lines) - 1 and not tail and _has_holes(line, offset + at):
                out.end, out.torn_bytes = offset + at, len(line) + 1
                return
            out.damages.append(Damage(path, offset + at, "the line does not match its hash"))
        else:
            out.lines.append((offset + at, body, own))
        at += len(line) + 1
    if unseal(tail[:-1]) is not None and not _has_holes(tail, offset + at):
        out.damages.append(Damage(path, offset + len(data) - 1, "the newline that ends the last line was altered"))
    out.end, out.torn_bytes = offset + at, len(tail)


def _has_holes(line: bytes, offset: int) -> bool:
    """Whether a line has zeros in whole sectors, or in all that it has of a sector: no line is written with a zero."""
    holes = [(hole.start(), hole.end()) for hole in re.finditer(rb"\0+", line)]
    return bool(holes) and all(
        (start == 0 or (offset + start) % SECTOR_BYTES == 0)
        and (end == len(line) or (offset + end) % SECTOR_BYTES == 0)
        for start, end in holes
    )
