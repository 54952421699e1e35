"""The bytes of a run's bodies: parts of its files, read, compared with their checksums, and decoded."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from harvester.eventlog.lines import CHECK_BYTES, checksum
from harvester.eventlog.streams import HEADERS, decode
from harvester.events.batch import seqs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import FileIO
    from pathlib import Path

    import pyarrow as pa

    from harvester.eventlog.format import CommitLine, Part
    from harvester.events.kinds import Kind

READ_BYTES = 8 * 1024 * 1024


def read_stream(path: Path, kind: Kind, parts: Sequence[Part], *, check: bool) -> pa.RecordBatch:
    """Read parts of an Arrow stream file as one record batch.

    Raises:
        ValueError: a checksum does not match, or the bytes are no such rows.
        OSError: the file cannot be read, or is too short.
    """
    prefix = b"" if parts[0].offset == 0 else HEADERS[kind]
    data = bytearray(len(prefix) + sum(part.length for part in parts))
    data[: len(prefix)] = prefix
    view, at = memoryview(data), len(prefix)
    with path.open("rb", buffering=0) as file:
        for first, last in _neighbours(parts, len(data)):
            at = _fill(file, parts[first].offset, view, at, parts[last].end - parts[first].offset)
    if check:
        at = len(prefix)
        for part in parts:
            if checksum(view[at : at + part.length]) != part.checksum:
                raise ValueError("the bytes do not match their checksum")
            at += part.length
    return decode(kind, data, sum(part.rows for part in parts))


def _neighbours(parts: Sequence[Part], bytes_max: int) -> Iterator[tuple[int, int]]:
    """Index ranges, both ends included, of parts that lie side by side, up to `bytes_max` but one part at least."""
    start, begin, end = 0, parts[0].offset, parts[0].offset
    for i, part in enumerate(parts):
        offset, upto = part.offset, part.offset + part.length
        if i > start and (offset != end or upto - begin > bytes_max):
            yield start, i - 1
            start, begin = i, offset
        end = upto
    yield start, len(parts) - 1


def _fill(file: FileIO, offset: int, view: memoryview, at: int, length: int) -> int:
    file.seek(offset)
    end = at + length
    while at < end:
        got = file.readinto(view[at:end])
        if not got:
            raise OSError(f"the file ends {end - at} bytes too early")
        at += got
    return at


def check_parts(path: Path, parts: Sequence[Part]) -> Iterator[tuple[int, str, memoryview]]:
    """Compare parts of a file with their checksums, neighbours read in one go.

    Yields:
        Index of the part, what is wrong with it (empty when nothing is), and the bytes it begins with.

    Raises:
        OSError: the file cannot be read. A part it is too short for is merely wrong.
    """
    room = memoryview(bytearray(min(READ_BYTES, sum(part.length for part in parts))))
    with path.open("rb", buffering=0) as file:
        for first, last in _neighbours(parts, len(room)):
            if first == last and parts[first].length > len(room):
                yield first, *_check_large(file, parts[first], room)
                continue
            begin = parts[first].offset
            file.seek(begin)
            got = 0
            while got < parts[last].end - begin and (n := file.readinto(room[got : parts[last].end - begin])):
                got += n
            for i in range(first, last + 1):
                part, at = parts[i], parts[i].offset - begin
                piece = room[at : min(at + part.length, got)]
                yield i, "" if checksum(piece) == part.checksum else _WRONG, piece


_WRONG = "the bytes do not match their checksum"


def _check_large(file: FileIO, part: Part, room: memoryview) -> tuple[str, memoryview]:
    file.seek(part.offset)
    hashed, left, head = blake2b(digest_size=CHECK_BYTES), part.length, b""
    while left and (n := file.readinto(room[:left])):
        hashed.update(room[:n])
        head = head or bytes(room[: min(n, len(room), 1024 * 1024)])
        left -= n
    return "" if hashed.hexdigest() == part.checksum else _WRONG, memoryview(head)


def check_places(rows: pa.RecordBatch, picked: Sequence[tuple[CommitLine, Part]]) -> None:
    """Assert that one kind's rows rise in seq, do not run back in time, and lie in their commits' ranges of seq.

    Raises:
        ValueError: they do not.
    """
    seq, ts = seqs(rows), rows.column(1).to_numpy(zero_copy_only=False)
    if (seq[1:] <= seq[:-1]).any() or (ts[1:] < ts[:-1]).any():
        raise ValueError("seq does not rise, or ts_recv runs back")
    ends = np.cumsum([part.rows for _, part in picked])
    starts = ends - [part.rows for _, part in picked]
    first = np.array([line.first_seq for line, _ in picked], np.uint64)
    last = np.array([line.last_seq for line, _ in picked], np.uint64)
    wrong = (seq[starts] < first) | (seq[ends - 1] > last)
    if wrong.any():
        line = picked[int(np.argmax(wrong))][0]
        raise ValueError(f"rows of commit {line.commit} bear seqs outside {line.first_seq}-{line.last_seq}")
