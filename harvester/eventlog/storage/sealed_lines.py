r"""Write and read sealed lines: JSON objects, one per line, each ending with a hash of its own bytes.

    {"seq":1, … ,"hash":"<32 hex digits>"}\n

The hash is BLAKE2b-128 over the object without that last member, `{"seq":1, … }`, exactly as written. Any altered byte
is detected, those of the hash and the newline included, before anything is parsed.
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
SECTOR_BYTES = 512  # the smallest unit a disk writes
FILE_BYTES_MAX = 4 * 1024 * 1024 * 1024
_SEAL = b',"hash":"'
_SEAL_LENGTH = len(_SEAL) + 2 * CHECK_BYTES + 2  # the seal, its digits and `"}`


def checksum(data: bytes | memoryview) -> str:
    """BLAKE2b-128 of `data`, in hex."""
    return blake2b(data, digest_size=CHECK_BYTES).hexdigest()


def seal(body: bytes) -> bytes:
    """Append a JSON object's own hash, as its last member, and a newline."""
    assert body[:1] + body[-1:] == b"{}", body[:80]
    assert b"\n" not in body, body[:80]
    return b'%b%b%b"}\n' % (body[:-1], _SEAL, checksum(body).encode())


def sealed_hash(line: bytes) -> str:
    """The hash in a sealed line, with or without its newline."""
    return line.rstrip(b"\n")[-2 * CHECK_BYTES - 2 : -2].decode()


def unseal(line: bytes) -> bytes | None:
    """The object in a sealed line (given without its newline), or None when the hash does not match."""
    return _unsealed(line)[0]


def _unsealed(line: bytes) -> tuple[bytes | None, str]:
    """The object, or None, and its hash."""
    body = line[:-_SEAL_LENGTH] + b"}"
    own = checksum(body)
    return (body if line[-_SEAL_LENGTH:] == _SEAL + own.encode() + b'"}' else None), own


@dataclass
class Scan:
    """The result of `scan`: whole lines as (offset, body, hash), their end, the torn bytes after it, the damage."""

    lines: list[tuple[int, bytes, str]] = field(default_factory=list)
    end: int = 0
    torn_bytes: int = 0
    damages: list[Damage] = field(default_factory=list)


def scan(path: Path, offset: int = 0) -> Scan:
    """Read the sealed lines of `path` from `offset` on.

    A last line without newline is torn and only counted. So is a last line with zeroed sectors, which a power cut
    leaves when only some of its sectors reached the disk. Any other whole line that fails its hash is damage, and so is
    a last line whose newline was replaced by another byte.
    """
    out = Scan(end=offset)
    try:
        size = regular_file_size(path)
        if size < offset:
            lost = "is missing" if size < 0 else f"is {size} bytes long, it had {offset} or more"
            out.damages.append(Damage(path, max(size, 0), f"the file {lost}"))
            return out
        if size > FILE_BYTES_MAX:
            out.damages.append(Damage(path, 0, f"the file has {size} bytes, the maximum is {FILE_BYTES_MAX}"))
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
        out.damages.append(Damage(path, offset + len(data) - 1, "the newline after the last line was altered"))
    out.end, out.torn_bytes = offset + at, len(tail)


def _has_holes(line: bytes, offset: int) -> bool:
    """Whether a line contains zero bytes, and only in whole sectors or its whole share of one; lines have no zeros."""
    holes = [(hole.start(), hole.end()) for hole in re.finditer(rb"\0+", line)]
    return bool(holes) and all(
        (start == 0 or (offset + start) % SECTOR_BYTES == 0)
        and (end == len(line) or (offset + end) % SECTOR_BYTES == 0)
        for start, end in holes
    )
