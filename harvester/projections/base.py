"""The surface of a projection.

The order of the calls, from `Engine.fold`, for every batch:

    step = market.fold(batch)             # compiled kernels: books, quotes, accumulators
    for projection in projections:
        derived = projection.fold(step)
        rows |= projection.take()         # finished rows, Arrow, by table name
        step = step.with_derived(derived) # for the projections after it

`snapshot` and `restore` may come between any two folds; `finish` comes once, after the last event of the date.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from harvester.projections.step import NOTHING_DERIVED

if TYPE_CHECKING:
    import pyarrow as pa

    from harvester.projections.interval import Interval
    from harvester.projections.market.market import Market
    from harvester.projections.run_params import RunParams
    from harvester.projections.step import Derived, Step


class Projection(ABC):
    """A deterministic fold; the module's text gives the order of the calls.

    A subclass defines `name` and `digest`, and overrides what it needs: the defaults hand out no tables and keep no
    state besides the market's.

    Attributes:
        name: unique; names its digest and its part of a snapshot.
        market_only: False for a projection that reads `Step.quotes` and `Step.trades`; `Engine(market_only=True)`
            leaves it out, as its kernels do not write them.
    """

    name: ClassVar[str]
    market_only: ClassVar[bool] = True

    def __init__(self, market: Market) -> None:
        self._market = market

    def fold(self, step: Step) -> Derived:  # noqa: ARG002 - part of the surface
        """Take in one step; return what later projections read."""
        return NOTHING_DERIVED

    def take(self) -> dict[str, pa.RecordBatch]:
        """Rows finished since the last call, by table name; tables without rows are left out."""
        return {}

    def finish(self, seq: int, ts: int) -> None:  # noqa: B027 - most have nothing to finish
        """End the date; `seq` and `ts` (ns UTC) of its last event."""

    @abstractmethod
    def digest(self) -> str:
        """Hash over all rows handed out so far, and over the state where the state is the output."""

    def snapshot(self) -> bytes:
        """The state after the last fold; equal states give equal bytes."""
        return b""

    def restore(self, data: bytes) -> None:
        """Replace the state by that of a snapshot."""
        assert data == b"", f"{self.name} has no state of its own, got {len(data)} bytes"


class TradingSide(Protocol):
    """The simulated trading after the market: called in seq order, once per run start and once per clock."""

    def on_run_start(self, params: RunParams, seq: int, ts: int) -> None: ...

    def on_interval(self, interval: Interval) -> None: ...

    def finish(self, seq: int, ts: int) -> None: ...

    def take_rows(self) -> dict[str, pa.RecordBatch]: ...

    def digest(self) -> str: ...

    def snapshot(self) -> bytes: ...

    def restore(self, data: bytes) -> None: ...


@dataclass(frozen=True)
class Outputs:
    """The rows one fold finished: Arrow tables by name (`buckets`, `decisions`, `fills`, `episodes`, `health` …)."""

    tables: dict[str, pa.RecordBatch] = field(default_factory=dict)
    through_seq: int = 0

    def __getitem__(self, name: str) -> pa.RecordBatch:
        return self.tables[name]

    def rows(self, name: str) -> int:
        """Row count of a table, 0 when it has none."""
        return self.tables[name].num_rows if name in self.tables else 0


LINK, BLOCK = 16, 16_384  # bytes of a link, and bytes of rows that one link covers


def chained(chain: bytes, rows: npt.NDArray[Any]) -> bytes:
    """The chained hash after `rows` (structured): the newest link, and the bytes of rows it does not cover yet.

    A link covers `BLOCK` bytes, however the rows came, so cuts do not change it and a snapshot can continue it.
    """
    link, waiting = chain[:LINK].ljust(LINK, b"\0"), chain[LINK:] + np.ascontiguousarray(rows).tobytes()
    whole = len(waiting) // BLOCK * BLOCK
    for begin in range(0, whole, BLOCK):
        link = hashlib.blake2b(link + waiting[begin : begin + BLOCK], digest_size=LINK).digest()
    return link + waiting[whole:]
