"""Split and join a stream of batches to other batch sizes and ends."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

from harvester.events.batch import Batch, seqs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

CARRY_BYTES_MAX = 1024 * 1024 * 1024
"""Size limit of a joined batch: Arrow's strings use 31-bit byte offsets."""


def rebatch(batches: Iterable[Batch], rows_max: int | None, cuts: Sequence[int]) -> Iterator[Batch]:
    """Iterate over the same events in batches that end at every seq in `cuts` and have at most `rows_max` rows.

    With `rows_max`, consecutive batches are joined up to that many rows; without it, batches are only split. A batch
    ends where seq has a gap.
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
        if full or sum(rows.nbytes for rows in carry.tables.values()) > CARRY_BYTES_MAX:
            yield carry
            carry = None
    if carry is not None:
        yield carry


def _pieces(batch: Batch, rows_max: int | None, cuts: Sequence[int]) -> Iterator[Batch]:
    first, last = batch.first_seq, batch.last_seq
    ends: list[int] = []
    start = first
    for stop in [*cuts[bisect_left(cuts, first) : bisect_left(cuts, last)], last]:
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
