"""One-second buckets for people: the projection's rows joined with the gates that refused the strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Sequence

GATE_CODES = pa.field(
    "gate_codes",
    pa.string(),
    metadata={
        "unit": "",
        "formula": (
            "what the strategy was refused for in this second, joined by |, in JSON a list; empty = allowed; "
            "null = nobody looked at it"
        ),
    },
)
INSIDE = ("con_id", "decision_seq")  # columns for joining, not for the JSON file


def with_gate_codes(buckets: pa.Table, decisions: pa.Table) -> pa.Table:
    """Append `GATE_CODES`."""
    asked = pc.is_in(decisions["action"], value_set=pa.array(["none", "enter"]))
    judged = decisions.select(["bucket_ts", "con_id", "gate_codes"]).filter(asked)
    ts = _integers(buckets["ts"], judged["bucket_ts"])
    seconds = (ts - (ts.min() if len(ts) else 0)) // SECOND_NS
    con_ids, symbols = np.unique(_integers(buckets["con_id"], judged["con_id"]), return_inverse=True)
    keys = seconds * len(con_ids) + symbols
    wanted, judged_keys = keys[: buckets.num_rows], keys[buckets.num_rows :]
    order = np.argsort(judged_keys, kind="stable")
    last = np.searchsorted(judged_keys, wanted, "right", sorter=order) - 1  # the last decision on a second counts
    rows = np.append(order, 0)[last]
    known = (last >= 0) & (np.append(judged_keys, -1)[rows] == wanted)
    codes = judged["gate_codes"].combine_chunks().take(pa.array(rows, mask=~known))
    return buckets.append_column(GATE_CODES, codes)


def _integers(*columns: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.concatenate([column.to_numpy() for column in columns])


def of_symbols(table: pa.Table, symbols: Sequence[str] | None) -> pa.Table:
    """The rows of these symbols, of all when None."""
    if symbols is None:
        return table
    return table.filter(pc.is_in(table["symbol"], value_set=pa.array(symbols, pa.string())))


def bucket_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows in the field order of the artefact, times ns UTC, gate codes as a list."""
    rows: list[dict[str, Any]] = table.drop_columns([name for name in INSIDE if name in table.column_names]).to_pylist()
    for row in rows:
        if row.get("gate_codes") is not None:
            row["gate_codes"] = row["gate_codes"].split("|") if row["gate_codes"] else []
    return rows
