"""What every projection looks like, and what the engine hands from the market to the projections behind it.

The order of the calls, from `Engine.fold`, for every batch:

    step = market.fold(batch)             # compiled kernels: books, quotes, accumulators
    for projection in projections:
        projection.fold(step)
        rows |= projection.take()         # finished rows, Arrow, by table name

`snapshot` and `restore` may come between any two folds; `finish` comes once, after the last event of the date.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from harvester.projections.interval import QUOTES, TRADES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from harvester.projections.interval import Happening, Interval
    from harvester.projections.params import RunParams


class Control(NamedTuple):
    """One `request` or `notice` row, as the plain Python part of the engine sees it."""

    seq: int
    ts: int
    con_id: int
    req_id: int
    epoch: int
    row: Mapping[str, Any]

    @property
    def action(self) -> str:
        """`request.action`, empty for a notice."""
        return self.row.get("action") or ""

    @property
    def code(self) -> int:
        """`notice.code`, 0 for a request or a notice without one."""
        return self.row.get("code") or 0


class RunStart(NamedTuple):
    """A `run_start` and its parameters; `before_ts` is when the market moved last before it, 0 = never (ns UTC)."""

    seq: int
    ts: int
    params: RunParams
    before_ts: int = 0


@dataclass(frozen=True)
class Step:
    """What one batch did to the market. Arrays are in seq order.

    Attributes:
        events: number of events of the batch.
        first_seq, last_seq: of the batch, 0 when it is empty.
        last_ts: `ts_recv` of the last event, ns UTC.
        controls: every request and notice of the batch.
        runs: the run starts among them, parsed.
        clocks: shape (n, 2) int64: seq and ts of each clock event.
        closed: bucket rows handed out, dtype `tables.ROW`; `decision_seq` is the clock that closed them.
        quotes, trades: dtypes `interval.QUOTES` and `interval.TRADES`.
        happenings: outages, refusals and data types, by health; alignments, by signals. Both stand before trading.
        bars: backfilled bars that stand for a timeframe, in seq order.
    """

    events: int
    first_seq: int
    last_seq: int
    last_ts: int
    controls: list[Control]
    runs: list[RunStart]
    clocks: npt.NDArray[np.int64]
    closed: npt.NDArray[Any]
    quotes: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0, QUOTES))
    trades: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0, TRADES))
    happenings: list[Happening] = field(default_factory=list)
    bars: Sequence[Mapping[str, Any]] = ()


class Projection(Protocol):
    """A deterministic fold with a tiny surface; `base` gives the order of the calls."""

    name: str

    def fold(self, step: Step) -> None: ...

    def take(self) -> dict[str, pa.RecordBatch]:
        """Rows finished since the last call, by table name; a table without rows is left out."""
        ...

    def finish(self, seq: int, ts: int) -> None:
        """The date is over; `seq` and `ts` (ns UTC) of its last event."""
        ...

    def digest(self) -> str:
        """Hash over everything handed out so far, and over the state where the state is the output."""
        ...

    def snapshot(self) -> bytes: ...

    def restore(self, data: bytes) -> None: ...


class TradingSide(Protocol):
    """The simulated trading behind the market: called in seq order, once per run start and once per clock."""

    def on_run_start(self, params: RunParams, seq: int, ts: int) -> None: ...

    def on_interval(self, interval: Interval) -> None: ...

    def finish(self, seq: int, ts: int) -> None: ...

    def take_rows(self) -> dict[str, pa.RecordBatch]: ...

    def digest(self) -> str: ...

    def snapshot(self) -> bytes: ...

    def restore(self, data: bytes) -> None: ...


@dataclass(frozen=True)
class Outputs:
    """What one fold finished: Arrow tables by name (`buckets`, `decisions`, `fills`, `episodes`, `health`)."""

    tables: dict[str, pa.RecordBatch] = field(default_factory=dict)
    through_seq: int = 0

    def __getitem__(self, name: str) -> pa.RecordBatch:
        return self.tables[name]

    def rows(self, name: str) -> int:
        """Row count of a table, 0 when it has none."""
        return self.tables[name].num_rows if name in self.tables else 0


def chained(chain: bytes, rows: npt.NDArray[Any]) -> bytes:
    """A digest's chain after `rows` (structured, with a `decision_seq`): a link per clock, so cuts do not change it."""
    raw = np.ascontiguousarray(rows).view(np.uint8).data
    edges = (np.flatnonzero(np.diff(rows["decision_seq"])) + 1) * rows.dtype.itemsize
    begin = 0
    for end in [*edges.tolist(), len(raw)]:
        chain = hashlib.blake2b(chain + raw[begin:end], digest_size=16).digest()
        begin = end
    return chain
