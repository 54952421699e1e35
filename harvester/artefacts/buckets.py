"""One-second buckets for people: the projection's rows joined with what the strategy was refused in each second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Sequence

INSIDE = ("con_id", "decision_seq")  # columns for joining, not for the JSON file


def with_gate_codes(buckets: pa.Table, decisions: pa.Table) -> pa.Table:
    """Append `gate_codes`: refusals joined by `|`, empty = allowed, null = nobody looked at that second."""
    codes: dict[tuple[int, int], str] = {}
    columns = (decisions[name].to_pylist() for name in ("con_id", "bucket_ts", "action", "gate_codes"))
    for con_id, ts, action, gates in zip(*columns, strict=True):
        if action in ("none", "enter"):
            codes[con_id, ts] = gates
    keys = zip(buckets["con_id"].to_pylist(), buckets["ts"].to_pylist(), strict=True)
    return buckets.append_column("gate_codes", pa.array([codes.get(key) for key in keys], pa.string()))


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
