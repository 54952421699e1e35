"""What must be true of consecutive events. Checked before they are written and again after they are read."""

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

_FEW = 8  # one row in so many of the other kinds: they are looked up among the rows of the kind with most


def schema_of(kind: Kind, columns: Sequence[int]) -> pa.Schema:
    """The schema of some columns of a kind."""
    return _schema_of(kind, tuple(columns))


@lru_cache(maxsize=256)
def _schema_of(kind: Kind, columns: tuple[int, ...]) -> pa.Schema:
    whole = SCHEMAS[kind]
    return whole if len(columns) == len(whole) else pa.schema([whole.field(i) for i in columns])


def rows_problem(kind: Kind, rows: pa.RecordBatch, columns: Sequence[int] | None = None) -> str:
    """What is wrong with one kind's rows, or with some columns of them, in themselves; empty when nothing is."""
    if not rows.num_rows:
        return f"{kind}: a table without rows"
    if not rows.schema.equals(SCHEMAS[kind] if columns is None else schema_of(kind, columns)):
        return f"{kind}: columns {rows.schema.names} are not the schema's, or of other types"
    required = [i for i, field in enumerate(rows.schema) if not field.nullable]
    if any(rows.column(i).null_count for i in required):
        return f"{kind}: a null in one of {[rows.schema.field(i).name for i in required]}"
    return ""


def order_problem(tables: Mapping[Kind, pa.RecordBatch], first_seq: int, last_ts: int) -> tuple[str, int, int]:
    """Check that the events are dense from `first_seq` and that `ts_recv` starts at `last_ts` or later, never back.

    Returns:
        What is wrong (empty when nothing is), the first and the last event's `ts_recv` in ns UTC.
    """
    found = _plain_ends(tables, first_seq)
    if found is not None and found[0] >= last_ts:
        return "", *found
    n = sum(rows.num_rows for rows in tables.values())
    ts = np.zeros(n, np.int64)
    seen = np.zeros(n, np.bool_)
    for kind, rows in tables.items():
        # Numbers below first_seq wrap to huge ones, so one comparison catches both sides.
        place = seqs(rows) - np.uint64(first_seq)
        if (place >= n).any() or (place[1:] <= place[:-1]).any():
            return f"{kind}: seq is not rising within {first_seq}-{first_seq + n - 1}", 0, 0
        ts[place] = rows.column(1).to_numpy(zero_copy_only=False)
        seen[place] = True
    if not seen.all():
        return f"no event has seq {first_seq + int(np.argmin(seen))}", 0, 0
    if ts[0] < last_ts:
        return f"ts_recv {ts[0]} of seq {first_seq} runs back behind {last_ts}", 0, 0
    back = ts[1:] < ts[:-1]
    if back.any():
        return f"ts_recv runs back at seq {first_seq + 1 + int(np.argmax(back))}", 0, 0
    return "", int(ts[0]), int(ts[-1])


def _plain_ends(tables: Mapping[Kind, pa.RecordBatch], first_seq: int) -> tuple[int, int] | None:
    """First and last `ts_recv` of events in order, most of them of one kind; None where that is not plain to see.

    Rising seqs, none of them twice, are dense when they are as many as the range they lie in. So it is enough to look
    at the places among the many where the few rows of other kinds must lie.
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
    # If the seqs are dense, so many of the many lie before each of the few; where one of them lies wrong, they are not.
    at = (few_seq - np.uint64(first_seq)).astype(np.int64) - np.arange(len(few_seq))
    if len(at) and (at[0] < 0 or at[-1] > len(seq) or (at[1:] < at[:-1]).any()):
        return None
    before, after = at > 0, at < len(seq)
    if (seq[at[after]] <= few_seq[after]).any() or (seq[at[before] - 1] >= few_seq[before]).any():
        return None
    if (ts[at[after]] < few_ts[after]).any() or (ts[at[before] - 1] > few_ts[before]).any():
        return None
    return min(int(t[0]) for t in (ts, few_ts) if len(t)), max(int(t[-1]) for t in (ts, few_ts) if len(t))


def _seq_and_ts(rows: pa.RecordBatch) -> tuple[Array, Array]:
    return seqs(rows), rows.column(1).to_numpy(zero_copy_only=False)
