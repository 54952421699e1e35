"""Split and join a stream of batches to other batch sizes and ends."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.events.batch import Batch, seqs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

BATCH_BYTES = 64 * 1024 * 1024
"""Bytes from which a joined batch is passed on, and a larger one is split between rows: Arrow's strings use 31-bit byte
offsets, and a reader holds several batches in memory."""


def rebatch(batches: Iterable[Batch], rows_max: int | None, cuts: Sequence[int]) -> Iterator[Batch]:
    """Iterate over the same events in batches that end at every seq in `cuts` and have at most `rows_max` rows.

    With `rows_max`, consecutive batches are joined up to that many rows or about `BATCH_BYTES`, and larger ones are
    split; without it, batches are only split at `cuts`. A batch ends where seq has a gap.
    """
    wanted = set(cuts)
    if rows_max is None and not wanted:
        yield from batches
        return
    in_order = sorted(wanted)
    carry: Batch | None = None
    for batch in batches:
        if carry is not None and carry.last_seq + 1 != batch.first_seq:
            yield carry
            carry = None
        joined = batch if carry is None else Batch.concat([carry, batch])
        pieces = list(_pieces(joined, rows_max, in_order))
        carry = pieces.pop()
        yield from pieces
        full = rows_max is None or len(carry) >= rows_max or carry.last_seq in wanted
        if full or _bytes(carry) > BATCH_BYTES:
            yield carry
            carry = None
    if carry is not None:
        yield carry


def _pieces(batch: Batch, rows_max: int | None, cuts: Sequence[int]) -> Iterator[Batch]:
    first, last = batch.first_seq, batch.last_seq
    ends: list[int] = []
    forced = cuts[bisect_left(cuts, first) : bisect_left(cuts, last)]
    if rows_max is not None and _bytes(batch) > BATCH_BYTES:
        forced = sorted({*forced, *_text_ends(batch)})
    start = first
    for stop in [*forced, last]:
        if rows_max is not None:
            ends.extend(range(start + rows_max - 1, stop, rows_max))
        ends.append(stop)
        start = stop + 1
    if len(ends) == 1:
        yield batch
        return
    at = np.array(ends, np.uint64)
    stops = {kind: np.searchsorted(seqs(rows), at, "right").tolist() for kind, rows in batch.tables.items()}
    done = dict.fromkeys(stops, 0)
    for i in range(len(ends)):
        tables = {}
        for kind, stop_list in stops.items():
            if stop_list[i] > done[kind]:
                tables[kind] = batch.tables[kind].slice(done[kind], stop_list[i] - done[kind])
                done[kind] = stop_list[i]
        yield Batch(tables)


def _bytes(batch: Batch) -> int:
    return sum(rows.nbytes for rows in batch.tables.values())


def _text_ends(batch: Batch) -> list[int]:
    """The seqs at which the text before is another `BATCH_BYTES` long."""
    found, sizes = [], []
    for rows in batch.tables.values():
        lengths = np.zeros(rows.num_rows, np.int64)
        for column in rows.columns:
            if column.type == pa.string():
                lengths += pc.fill_null(pc.binary_length(column), 0).to_numpy()
        found.append(seqs(rows))
        sizes.append(lengths)
    seq = np.concatenate(found)
    order = np.argsort(seq, kind="stable")
    full = np.cumsum(np.concatenate(sizes)[order]) // BATCH_BYTES
    ends: list[int] = seq[order][:-1][np.diff(full) > 0].tolist()
    return ends
