"""The pace of a recording: whether it kept up with market time.

- *Clocks per second*: the recorder plans one clock event at each full second; this is the share of the seconds of a
  run, from its first to its last clock event, that have one. Pauses between runs count for nothing.
- *Stamp lag*: by how much events are stamped too late, the larger of two. Of a clock event: `ts_recv` after the full
  second it was planned for, which is the one after the clock event before it. Of a tick-by-tick quote (of a print, on a
  date with few quotes): `ts_recv` after IB's own time, `ts_event`, beyond the differences that whole seconds of
  `ts_event` explain: p99 - p1 - 1 s. A constant difference of two clocks is no lag, so p1 is subtracted.

A machine that keeps up has 1.0, and a lag of a few milliseconds. Below `CLOCKS_MIN` or above `LAG_MAX_S` the date is
*starved*: its simulated trades are decided late, and nothing is learned from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from harvester.events.kinds import Kind
from harvester.units import MILLI_NS, SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import pyarrow as pa

    Times = npt.NDArray[np.int64]

CLOCKS_MIN = 0.95  # of the seconds of a run
LAG_MAX_S = 1.0
ROWS_MIN = 1_000  # of tick-by-tick rows; p1 and p99 of fewer say little
_PER_SECOND = 100  # steps of a difference, 10 ms each
_STEP_NS = SECOND_NS // _PER_SECOND
_SPAN_MAX = 1_000_000  # steps that are counted in an array


def pace_text(clocks_per_second: float | None, stamp_lag_p99_s: float | None) -> str:
    """The measures of a starved date in words; None = not measured."""
    clocks = "no" if clocks_per_second is None else f"{clocks_per_second:.2f}"
    lag = "not measured" if stamp_lag_p99_s is None else f"{stamp_lag_p99_s:.2f} s"
    return f"{clocks} clock events per market second (at least {CLOCKS_MIN:g}), lag {lag} (at most {LAG_MAX_S:g} s)"


def behind_ib(tables: Mapping[Kind, pa.RecordBatch | pa.Table]) -> dict[Kind, Times]:
    """`ts_recv` - `ts_event` of tick-by-tick quotes and prints, in steps of 10 ms rounded down."""
    found = {}
    for kind in (Kind.QUOTE, Kind.TRADE):
        if (rows := tables.get(kind)) is not None:
            event = rows.column("ts_event")
            times = rows.column("ts_recv").to_numpy()
            if event.null_count:
                known = event.is_valid().to_numpy(zero_copy_only=False)
                event, times = event.drop_null(), times[known]
            found[kind] = (times - event.to_numpy()) // _STEP_NS
    return found


class RecordingPace(msgspec.Struct):
    """Counts of the date so far; a run is ended by `run_start`.

    Attributes:
        last_second: of the run under way, Unix seconds; -1 before its first clock event.
        seconds, clocked: seconds of the runs so far, first to last clock event; of these, with a clock event.
        lags: clock events by lag in whole milliseconds, rounded down.
        quotes, trades: rows by the difference of `behind_ib`.
    """

    last_second: int = -1
    seconds: int = 0
    clocked: int = 0
    lags: dict[int, int] = {}
    quotes: dict[int, int] = {}
    trades: dict[int, int] = {}

    def run_start(self) -> None:
        """A run begins: the time since the last clock event belongs to no run."""
        self.last_second = -1

    def clocks(self, clock_ts: Times) -> None:
        """Take in clock events of one run, `ts_recv` in ns UTC, rising."""
        if not len(clock_ts):
            return
        second = clock_ts // SECOND_NS
        if self.last_second < 0:  # the first of a run was planned for the second it is in
            self.last_second = int(second[0]) - 1
        before = np.concatenate([[self.last_second], second[:-1]])
        planned = second > before  # the last of a run comes when it ends, in a second that had one
        _count(self.lags, (clock_ts - (before + 1) * SECOND_NS)[planned] // MILLI_NS)
        self.clocked += int(planned.sum())
        self.seconds += int(second[-1]) - self.last_second
        self.last_second = int(second[-1])

    def rows(self, behind: Mapping[Kind, Times]) -> None:
        """Take in the differences of `behind_ib`."""
        for kind, counts in ((Kind.QUOTE, self.quotes), (Kind.TRADE, self.trades)):
            if kind in behind:
                _count(counts, behind[kind])

    @property
    def per_second(self) -> float:
        """Clock events per market second while a run lived, at most 1; NaN without any."""
        return self.clocked / self.seconds if self.seconds else float("nan")

    @property
    def lag_p99_s(self) -> float:
        """The stamp lag, s; NaN without a clock event."""
        if not self.clocked:
            return float("nan")
        return max(_quantile(self.lags, 99) / 1000, self._rows_late_s())

    def _rows_late_s(self) -> float:
        for counts in (self.quotes, self.trades):
            if sum(counts.values()) >= ROWS_MIN:
                return (_quantile(counts, 99) - _quantile(counts, 1) - _PER_SECOND) / _PER_SECOND
        return 0.0

    @property
    def starved(self) -> bool:
        """Whether the recording did not keep up."""
        return self.per_second < CLOCKS_MIN or self.lag_p99_s > LAG_MAX_S

    def measures(self) -> dict[str, float]:
        """The measures of health."""
        return {"clocks_per_second": self.per_second, "stamp_lag_p99": self.lag_p99_s, "starved": int(self.starved)}

    def snapshot(self) -> RecordingPace:
        """A copy; equal states are equal bytes."""
        counted = (dict(sorted(counts.items())) for counts in (self.lags, self.quotes, self.trades))
        return RecordingPace(self.last_second, self.seconds, self.clocked, *counted)


def _count(counts: dict[int, int], values: Times) -> None:
    """Add the number of each value."""
    if not len(values):
        return
    least, most = int(values.min()), int(values.max())
    if most - least < _SPAN_MAX:
        number = np.bincount(values - least)
        filled = np.flatnonzero(number)
        found, number = filled + least, number[filled]
    else:
        found, number = np.unique(values, return_counts=True)
    for value, n in zip(found.tolist(), number.tolist(), strict=True):
        counts[value] = counts.get(value, 0) + n


def _quantile(counts: Mapping[int, int], percent: int) -> int:
    """The smallest value that `percent` of 100 values do not exceed."""
    left = -(-percent * sum(counts.values()) // 100)
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    raise ValueError("no values")
