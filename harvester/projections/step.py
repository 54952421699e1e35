"""The result of the market for one batch, with what each projection adds for the later ones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harvester.events.kinds import SILENCE_DETAIL, Own
from harvester.events.unset import UNSET_INT
from harvester.projections.interval import QUOTES, TRADES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harvester.events.kinds import Kind
    from harvester.projections.interval import Occurrence
    from harvester.projections.ladders import Ladders
    from harvester.projections.run_params import RunParams


class Control(NamedTuple):
    """One `request` or `notice` row, for the plain Python part of the engine."""

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

    @property
    def silence(self) -> bool:
        """Whether it is the start of an outage found by the silence of the whole feed."""
        return self.code == Own.OUTAGE_BEGIN and self.con_id == 0 and self.row.get("detail") == SILENCE_DETAIL

    @property
    def data_type(self) -> int:
        """Market data type of message 58, 0 for none or IB's unset marker."""
        value = self.row.get("value") or 0
        return 0 if value == UNSET_INT else value


class RunStart(NamedTuple):
    """A `run_start` and its parameters; `before_ts`: the last market event before it, ns UTC, 0 = none."""

    seq: int
    ts: int
    params: RunParams
    before_ts: int = 0


class Derived(NamedTuple):
    """What a projection derives from a step and the projections after it read.

    Attributes:
        happenings: outages, refusals, data types and alignments, in seq order.
        candles: completed candles, dtype `candles.CANDLE`; None from every projection but `Candles`.
    """

    happenings: Sequence[Occurrence] = ()
    candles: npt.NDArray[Any] | None = None


NOTHING_DERIVED = Derived()


@dataclass(frozen=True)
class Step:
    """The effect of one batch on the market. Arrays are in seq order.

    Attributes:
        events: number of events of the batch.
        first_seq, last_seq: of the batch, 0 when it is empty.
        last_ts: `ts_recv` of the last event, ns UTC.
        controls: every request and notice of the batch.
        runs: the run starts among them, parsed.
        clocks: shape (n, 2) int64: seq and ts of each clock event.
        closed: bucket rows handed out, dtype `state_arrays.ROW`; `decision_seq` is the clock that closed them.
        quotes, trades: dtypes `interval.QUOTES` and `interval.TRADES`.
        ladders: SMART books after each change, where a run of the date fills behind the quote.
        happenings: halts, lost quotes, min ticks and run ends of the market, and what the projections before this one
            derived, in seq order.
        candles: completed candles, dtype `candles.CANDLE`; None before `Candles` has folded the step.
        bars: backfilled bars that stand for a timeframe, in seq order.
        scans: rows of scanner snapshots, in seq order.
        behind: by how much tick-by-tick rows are stamped after IB's time, see `pace.behind_ib`.
        odd: counts of messages and numbers a fold cannot use, by con_id and measure of `Health`.
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
    ladders: Ladders | None = None
    happenings: Sequence[Occurrence] = ()
    candles: npt.NDArray[Any] | None = None
    bars: Sequence[Mapping[str, Any]] = ()
    scans: Sequence[Mapping[str, Any]] = ()
    behind: Mapping[Kind, npt.NDArray[np.int64]] = field(default_factory=dict)
    odd: Mapping[tuple[int, str], int] = field(default_factory=dict)

    def with_derived(self, derived: Derived) -> Step:
        """The step as the next projections see it; happenings of the same seq stay in the order of the projections."""
        if derived is NOTHING_DERIVED:
            return self
        happenings: Sequence[Occurrence] = (*self.happenings, *derived.happenings)
        candles = self.candles if derived.candles is None else derived.candles
        return replace(self, happenings=sorted(happenings, key=attrgetter("seq")), candles=candles)
