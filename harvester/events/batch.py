"""A batch: consecutive events of one run, one Arrow record batch per kind, in `seq` order within each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from harvester.events.kinds import SCHEMAS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def seqs(rows: pa.RecordBatch) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The `seq` column as a NumPy view, shape (rows,), uint64."""
    view: np.ndarray[Any, np.dtype[np.uint64]] = rows.column(0).to_numpy(zero_copy_only=False)
    return view


@dataclass(frozen=True)
class Batch:
    """Consecutive events: `tables` holds only kinds that have rows; together their seqs are dense."""

    tables: Mapping[Kind, pa.RecordBatch] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(t.num_rows for t in self.tables.values())

    @property
    def first_seq(self) -> int:
        return min((int(seqs(t)[0]) for t in self.tables.values()), default=0)

    @property
    def last_seq(self) -> int:
        return max((int(seqs(t)[-1]) for t in self.tables.values()), default=0)

    def check(self) -> Batch:
        """Assert the invariants: known schemas, seqs dense and rising, `ts_recv` non-decreasing in seq order."""
        if not len(self):
            return self
        for kind, rows in self.tables.items():
            assert rows.num_rows > 0, f"empty table of kind {kind}"
            assert rows.schema.equals(SCHEMAS[kind]), f"schema of {kind}: {rows.schema}"
        seq = np.concatenate([seqs(t) for t in self.tables.values()])
        ts = np.concatenate([t.column(1).to_numpy(zero_copy_only=False) for t in self.tables.values()])
        order = np.argsort(seq, kind="stable")
        seq, ts = seq[order], ts[order]
        assert np.array_equal(seq, np.arange(seq[0], seq[0] + np.uint64(len(seq)), dtype=np.uint64)), "seq has holes"
        assert (np.diff(ts) >= 0).all(), "ts_recv runs back"
        return self

    def slice(self, first_seq: int, last_seq: int) -> Batch:
        """The events with `first_seq <= seq <= last_seq`, without copying."""
        cut: dict[Kind, pa.RecordBatch] = {}
        for kind, rows in self.tables.items():
            seq = seqs(rows)
            lo = int(np.searchsorted(seq, np.uint64(max(first_seq, 0)), "left"))
            hi = int(np.searchsorted(seq, np.uint64(max(last_seq, 0)), "right"))
            if hi > lo:
                cut[kind] = rows.slice(lo, hi - lo)
        return Batch(cut)

    @staticmethod
    def concat(batches: Sequence[Batch]) -> Batch:
        """Join batches that follow each other."""
        out: dict[Kind, pa.RecordBatch] = {}
        for kind in Kind:
            parts = [b.tables[kind] for b in batches if kind in b.tables]
            if len(parts) == 1:
                out[kind] = parts[0]
            elif parts:
                out[kind] = pa.concat_batches(parts)
        return Batch(out)

    def events(self) -> Iterator[tuple[Kind, dict[str, Any]]]:
        """Every event as (kind, row), in seq order. Slow: for rare kinds, printing and tests."""
        rows = [(kind, row) for kind, table in self.tables.items() for row in table.to_pylist()]
        yield from sorted(rows, key=lambda item: item[1]["seq"])

    @staticmethod
    def of(events: Sequence[tuple[Kind, Mapping[str, Any]]], first_seq: int | None = None) -> Batch:
        """Build a batch from rows; missing columns are null, missing common columns get neutral values.

        With `first_seq` the rows are numbered from there; without it each row has its own `seq`.
        """
        grouped: dict[Kind, list[dict[str, Any]]] = {}
        for i, (kind, given) in enumerate(events):
            row = {"con_id": 0, "req_id": -1, "epoch": 0, **given}
            if first_seq is not None:
                row["seq"] = first_seq + i
            unknown = row.keys() - set(SCHEMAS[kind].names)
            assert not unknown, f"{kind} has no column {sorted(unknown)}"
            grouped.setdefault(kind, []).append(row)
        return Batch({k: pa.RecordBatch.from_pylist(grouped[k], schema=SCHEMAS[k]) for k in Kind if k in grouped})
