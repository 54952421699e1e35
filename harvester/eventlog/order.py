"""What must be true of consecutive events. Checked before they are written and again after they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harvester.events.batch import seqs
from harvester.events.kinds import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from harvester.events.kinds import Kind


def rows_problem(kind: Kind, rows: pa.RecordBatch) -> str:
    """What is wrong with one kind's rows in themselves; empty when nothing is."""
    if not rows.num_rows:
        return f"{kind}: a table without rows"
    if not rows.schema.equals(SCHEMAS[kind]):
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
