"""Check that events are consecutive and fit their schema, before they are written and after they are read."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from harvester.events.batch import seqs
from harvester.events.kinds import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harvester.events.kinds import Kind

    Array = np.ndarray[Any, np.dtype[Any]]

_FEW = 8  # the fast check applies when at most one row in 8 is not of the most frequent kind


def schema_of(kind: Kind, columns: Sequence[int]) -> pa.Schema:
    """The schema of some columns of a kind."""
    return _schema_of(kind, tuple(columns))


@lru_cache(maxsize=256)
def _schema_of(kind: Kind, columns: tuple[int, ...]) -> pa.Schema:
    whole = SCHEMAS[kind]
    return whole if len(columns) == len(whole) else pa.schema([whole.field(i) for i in columns])


def rows_problem(kind: Kind, rows: pa.RecordBatch, columns: Sequence[int] | None = None) -> str:
    """The problem with one kind's rows, or with some of their columns; empty for none."""
    if not rows.num_rows:
        return f"{kind}: a table without rows"
    if not rows.schema.equals(SCHEMAS[kind] if columns is None else schema_of(kind, columns)):
        return f"{kind}: names or types of columns {rows.schema.names} differ from the schema"
    required = [i for i, field in enumerate(rows.schema) if not field.nullable]
    if any(rows.column(i).null_count for i in required):
        return f"{kind}: a null in one of {[rows.schema.field(i).name for i in required]}"
    return ""


def order_problem(tables: Mapping[Kind, pa.RecordBatch], first_seq: int, last_ts: int) -> tuple[str, int, int]:
    """Check that seqs are dense from `first_seq` and that `ts_recv` starts at `last_ts` or later and never decreases.

    Returns:
        The problem (empty for none), the first and the last event's `ts_recv` in ns UTC.
    """
    ends = _fast_ends(tables, first_seq)
    if ends is not None and ends[0] >= last_ts:
        return "", *ends
    n = sum(rows.num_rows for rows in tables.values())
    ts = np.zeros(n, np.int64)
    seen = np.zeros(n, np.bool_)
    for kind, rows in tables.items():
        # Seqs below first_seq wrap to huge numbers, so one comparison covers both limits.
        place = seqs(rows) - np.uint64(first_seq)
        if (place >= n).any() or (place[1:] <= place[:-1]).any():
            return f"{kind}: seq does not increase within {first_seq}-{first_seq + n - 1}", 0, 0
        ts[place] = rows.column(1).to_numpy(zero_copy_only=False)
        seen[place] = True
    if not seen.all():
        return f"no event has seq {first_seq + int(np.argmin(seen))}", 0, 0
    if ts[0] < last_ts:
        return f"ts_recv decreases: {ts[0]} of seq {first_seq} is before {last_ts}", 0, 0
    back = ts[1:] < ts[:-1]
    if back.any():
        return f"ts_recv decreases at seq {first_seq + 1 + int(np.argmax(back))}", 0, 0
    return "", int(ts[0]), int(ts[-1])


def _fast_ends(tables: Mapping[Kind, pa.RecordBatch], first_seq: int) -> tuple[int, int] | None:
    """First and last `ts_recv` of ordered events, most of them of one kind; None when it cannot prove their order.

    Ascending unique seqs are dense when there are as many as their range is long. So it is enough to check the
    positions in the most frequent kind where the few rows of other kinds must be.
    """
    most = max(tables.values(), key=lambda rows: rows.num_rows)
    others = [_seq_and_ts(rows) for rows in tables.values() if rows is not most]
    n_few = sum(len(seq) for seq, _ in others)
    n = n_few + most.num_rows
    if n_few * _FEW > n or any((seq[1:] <= seq[:-1]).any() for seq, _ in others):
        return None
    seq, ts = _seq_and_ts(most)
    few_seq = np.concatenate([np.empty(0, np.uint64), *(seq for seq, _ in others)])
    few_ts = np.concatenate([np.empty(0, np.int64), *(ts for _, ts in others)])
    order = np.argsort(few_seq, kind="stable")
    few_seq, few_ts = few_seq[order], few_ts[order]
    for s, t in ((seq, ts), (few_seq, few_ts)):
        if len(s) and (s[0] < first_seq or s[-1] >= first_seq + n or (s[1:] <= s[:-1]).any() or (t[1:] < t[:-1]).any()):
            return None
    # `at`: the number of frequent rows before each of the few, if the seqs are dense. One wrong position disproves it.
    # They are within 0 and len(seq), in order, because the few are unique, ascending and within the range.
    at = (few_seq - np.uint64(first_seq)).astype(np.int64) - np.arange(len(few_seq))
    before, after = at > 0, at < len(seq)
    if (seq[at[after]] <= few_seq[after]).any() or (seq[at[before] - 1] >= few_seq[before]).any():
        return None
    if (ts[at[after]] < few_ts[after]).any() or (ts[at[before] - 1] > few_ts[before]).any():
        return None
    return min(int(t[0]) for t in (ts, few_ts) if len(t)), max(int(t[-1]) for t in (ts, few_ts) if len(t))


def _seq_and_ts(rows: pa.RecordBatch) -> tuple[Array, Array]:
    return seqs(rows), rows.column(1).to_numpy(zero_copy_only=False)
