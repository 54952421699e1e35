"""Read the parts of a run's files, compare them with their checksums, and decode them to record batches."""

from __future__ import annotations

from hashlib import blake2b
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from harvester.eventlog.storage.batch_messages import Messages
from harvester.eventlog.storage.damage import in_short
from harvester.eventlog.storage.ipc_streams import HEADER_BYTES_MAX, HEADERS, check_header, decode
from harvester.eventlog.storage.prefetch import prefetch
from harvester.eventlog.storage.sealed_lines import CHECK_BYTES
from harvester.eventlog.storage.sequence_checks import rows_problem
from harvester.events.batch import seqs
from harvester.events.kinds import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from io import FileIO
    from pathlib import Path

    from harvester.eventlog.storage.format import CommitLine, Part
    from harvester.events.kinds import Kind

READ_BYTES = 1024 * 1024  # per read: the bytes are hashed while they are still in the processor's cache
_THREADS_BYTES_MIN = 4 * READ_BYTES  # below this, threads cost more than they save
_WRONG = "the bytes do not match their checksum"


def read_stream(
    path: Path, kind: Kind, parts: Sequence[Part], *, check: bool, columns: Sequence[int] | None = None
) -> pa.RecordBatch:
    """Read parts of an Arrow stream file as one record batch.

    Args:
        path: the file.
        kind: the kind of its rows.
        parts: the parts to read, in order.
        check: compare them with their checksums.
        columns: ascending indexes of the columns to return, in the kind's schema; None: all.

    Raises:
        ValueError: a checksum does not match, or the bytes are not rows of the kind.
        OSError: the file cannot be read, or is too short.
    """
    data = pa.allocate_buffer(sum(part.length for part in parts))
    starts = list(accumulate((part.length for part in parts[:-1]), initial=0))
    with path.open("rb", buffering=0) as file:
        for first, last in _neighbours(parts, READ_BYTES):
            some = parts[first : last + 1]
            view = memoryview(data).cast("B")[starts[first] : starts[last] + parts[last].length]
            hashed = _fill(file, some[0].offset, view, check=check and len(some) == 1)
            if check and (hashed != some[0].checksum if len(some) == 1 else _wrong_ones(some, view)):
                raise ValueError(_WRONG)
    return rows_of(kind, data, starts, parts, columns)


def rows_of(
    kind: Kind, data: pa.Buffer, starts: Sequence[int], parts: Sequence[Part], columns: Sequence[int] | None = None
) -> pa.RecordBatch:
    """Decode parts of an Arrow stream file; part i begins at `starts[i]` in `data`.

    A large uncompressed part is not copied.

    Raises:
        ValueError: the bytes are not rows of the kind.
    """
    wanted = range(len(SCHEMAS[kind])) if columns is None else columns
    messages = messages_of(kind, data, starts, parts)
    rows = None if messages is None else rows_in(kind, messages, wanted)
    if rows is None:
        view = memoryview(data)
        pieces = [view[at : at + part.length] for at, part in zip(starts, parts, strict=True)]
        joined = b"".join([HEADERS[kind] if parts[0].offset else b"", *pieces])
        rows = _sound(kind, decode(kind, joined, sum(part.rows for part in parts), wanted), wanted)
    return rows


def messages_of(kind: Kind, data: pa.Buffer, starts: Sequence[int], parts: Sequence[Part]) -> Messages | None:
    """The messages of parts; part i begins at `starts[i]` in `data`. None if Arrow must read them.

    Raises:
        ValueError: the file begins with another schema.
    """
    places = np.array([starts, [part.length for part in parts], [part.rows for part in parts]], np.int64)
    if parts[0].offset == 0:
        begin, length = starts[0], min(parts[0].length, HEADER_BYTES_MAX)
        head = check_header(kind, memoryview(data)[begin : begin + length])
        places[:, 0] += (head, -head, 0)
    return Messages.of(kind, data, places)


def rows_in(kind: Kind, messages: Messages, columns: Sequence[int]) -> pa.RecordBatch | None:
    """Decode messages; None if Arrow must read them.

    Raises:
        ValueError: they are not rows of the kind.
    """
    try:
        rows = messages.read(columns)
    except pa.ArrowException as error:
        raise ValueError(f"not rows of {kind}: {in_short(error)}") from None
    return None if rows is None else _sound(kind, rows, columns)


def _sound(kind: Kind, rows: pa.RecordBatch, columns: Sequence[int]) -> pa.RecordBatch:
    if problem := rows_problem(kind, rows, columns):
        raise ValueError(problem)
    return rows


def _neighbours(parts: Sequence[Part], bytes_max: int) -> Iterator[tuple[int, int]]:
    """Index ranges (both ends included) of adjacent parts, at most `bytes_max` long but at least one part."""
    start, begin, end = 0, parts[0].offset, parts[0].offset
    for i, part in enumerate(parts):
        offset, upto = part.offset, part.offset + part.length
        if i > start and (offset != end or upto - begin > bytes_max):
            yield start, i - 1
            start, begin = i, offset
        end = upto
    yield start, len(parts) - 1


def _fill(file: FileIO, offset: int, view: memoryview, *, check: bool) -> str:
    """Fill `view` from the file; returns the checksum of the bytes if `check`, hashed piece by piece while reading."""
    file.seek(offset)
    hashed, at = blake2b(digest_size=CHECK_BYTES), 0
    while at < len(view):
        got = file.readinto(view[at : at + READ_BYTES])
        if not got:
            raise OSError(f"the file is {len(view) - at} bytes too short")
        if check:
            hashed.update(view[at : at + got])
        at += got
    return hashed.hexdigest()


class Checked(NamedTuple):
    """Compared parts: index of the first and the last, of those with a wrong checksum, and the first bytes."""

    first: int
    last: int
    wrong: list[int]
    head: bytes


def check_parts(path: Path, parts: Sequence[Part]) -> Iterable[Checked]:
    """Compare parts of a file with their checksums, several adjacent parts per read; large files use several threads.

    A part beyond the end of the file counts as wrong.

    Raises:
        OSError: the file cannot be read.
    """

    def check(span: tuple[int, int]) -> Checked:
        return _check_span(path, parts, *span)

    spans, size = list(_neighbours(parts, READ_BYTES)), sum(part.length for part in parts)
    # Small parts are hashed while holding the GIL, so threads would not help.
    threads = size >= _THREADS_BYTES_MIN and size >= READ_BYTES // 8 * len(parts)
    return prefetch(check, spans) if threads else map(check, spans)


def _check_span(path: Path, parts: Sequence[Part], first: int, last: int) -> Checked:
    begin, end = parts[first].offset, parts[last].end
    room = memoryview(pa.allocate_buffer(min(end - begin, READ_BYTES))).cast("B")
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        if first == last:
            wrong, head = _check_one(file, parts[first], room)
            return Checked(first, last, [first] if wrong else [], head)
        got = 0
        while got < end - begin and (n := file.readinto(room[got:])):
            got += n
    wrong_ones = [first + n for n in _wrong_ones(parts[first : last + 1], room[:got])]
    return Checked(first, last, wrong_ones, bytes(room[: min(got, parts[first].length)]))


def _wrong_ones(parts: Sequence[Part], view: memoryview) -> list[int]:
    """Indexes of adjacent parts, read into `view`, that are incomplete or do not match their checksums."""
    begin, size, wrong = parts[0].offset, len(view), []
    for n, part in enumerate(parts):
        at = part.offset - begin
        upto = at + part.length
        if upto > size or blake2b(view[at:upto], digest_size=CHECK_BYTES).hexdigest() != part.checksum:
            wrong.append(n)
    return wrong


def _check_one(file: FileIO, part: Part, room: memoryview) -> tuple[bool, bytes]:
    hashed, left, head = blake2b(digest_size=CHECK_BYTES), part.length, b""
    while left and (n := file.readinto(room[: min(left, len(room))])):
        hashed.update(room[:n])
        if part.offset == 0:
            head = head or bytes(room[:n])
        left -= n
    return left > 0 or hashed.hexdigest() != part.checksum, head


def check_rising(rows: pa.RecordBatch) -> None:
    """Assert that one kind's rows increase in seq and do not decrease in ts_recv.

    Raises:
        ValueError: they do not.
    """
    seq, ts = seqs(rows), rows.column(1).to_numpy(zero_copy_only=False)
    if (seq[1:] <= seq[:-1]).any() or (ts[1:] < ts[:-1]).any():
        raise ValueError("seq does not increase, or ts_recv decreases")


def check_places(rows: pa.RecordBatch, lines: Sequence[CommitLine], parts: Sequence[Part]) -> None:
    """Assert that the rows of each part, ascending in seq, are within the seq range of its journal line.

    Raises:
        ValueError: a row is outside.
    """
    seq = seqs(rows)
    counts = np.array([part.rows for part in parts])
    ends = np.cumsum(counts)
    starts = ends - counts
    first = np.array([line.first_seq for line in lines], np.uint64)
    last = np.array([line.last_seq for line in lines], np.uint64)
    wrong = (seq[starts] < first) | (seq[ends - 1] > last)
    if wrong.any():
        line = lines[int(np.argmax(wrong))]
        raise ValueError(f"rows of commit {line.commit} have seqs outside {line.first_seq}-{line.last_seq}")
