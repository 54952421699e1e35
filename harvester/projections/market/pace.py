"""The pace of a recording: whether it kept up with market time, from its clock events alone.

The recorder plans one clock event at each full second. *Clocks per second* is the share of the seconds of a run, from
its first to its last clock event, that have one. *Stamp lag* is by how much a clock event is stamped after the full
second it was planned for, the one after the clock event before it: packets wait as long for their stamp as the timer
does, and the missing seconds before it are part of the lag. Pauses between runs count for nothing.

A machine that keeps up has 1.0 and a few milliseconds. Below `CLOCKS_MIN` or above `LAG_MAX_S` the date is *starved*:
its simulated trades are decided late, and nothing is learned from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from harvester.units import MILLI_NS, SECOND_NS

if TYPE_CHECKING:
    import numpy.typing as npt

CLOCKS_MIN = 0.95  # of the seconds of a run
LAG_MAX_S = 1.0
_PERCENT = 99
_LAG_MS_MAX = 600_000  # longer lags count as this


def pace_text(clocks_per_second: float | None, stamp_lag_p99_s: float | None) -> str:
    """The measures of a starved date in words; None = not measured."""
    clocks = "no" if clocks_per_second is None else f"{clocks_per_second:.2f}"
    lag = "not measured" if stamp_lag_p99_s is None else f"{stamp_lag_p99_s:.2f} s"
    return f"{clocks} clock events per market second (at least {CLOCKS_MIN:g}), lag {lag} (at most {LAG_MAX_S:g} s)"


class Pace(msgspec.Struct):
    """Counts of the date so far. `clock_ts` are ns UTC, rising; a run is ended by `run_start`.

    Attributes:
        last_second: of the run under way, Unix seconds; -1 before its first clock event.
        seconds, clocked: seconds of the runs so far, first to last clock event; of these, with a clock event.
        lags: clock events by lag in whole milliseconds, rounded down.
    """

    last_second: int = -1
    seconds: int = 0
    clocked: int = 0
    lags: dict[int, int] = {}

    def run_start(self) -> None:
        """A run begins: the time since the last clock event belongs to no run."""
        self.last_second = -1

    def clocks(self, clock_ts: npt.NDArray[np.int64]) -> None:
        """Take in the clock events of a run."""
        if not len(clock_ts):
            return
        second = clock_ts // SECOND_NS
        if self.last_second < 0:  # the first of a run was planned for the second it is in
            self.last_second = int(second[0]) - 1
        before = np.concatenate([[self.last_second], second[:-1]])
        planned = second > before  # the last of a run comes when it ends, in a second that had one
        lag_ms = np.minimum((clock_ts - (before + 1) * SECOND_NS)[planned] // MILLI_NS, _LAG_MS_MAX)
        for ms, count in zip(*np.unique(lag_ms, return_counts=True), strict=True):
            self.lags[int(ms)] = self.lags.get(int(ms), 0) + int(count)
        self.clocked += int(planned.sum())
        self.seconds += max(int(second[-1]) - self.last_second, 0)
        self.last_second = max(int(second[-1]), self.last_second)

    @property
    def per_second(self) -> float:
        """Clock events per market second while a run lived, at most 1; NaN without any."""
        return self.clocked / self.seconds if self.seconds else float("nan")

    @property
    def lag_p99_s(self) -> float:
        """99 in 100 clock events have at most this lag, s, to the millisecond; NaN without any."""
        left = -(-_PERCENT * self.clocked // 100)  # rounded up: the smallest lag that as many reach
        for ms in sorted(self.lags):
            left -= self.lags[ms]
            if left <= 0:
                return ms / 1000
        return float("nan")

    @property
    def starved(self) -> bool:
        """Whether the recording did not keep up."""
        return self.per_second < CLOCKS_MIN or self.lag_p99_s > LAG_MAX_S

    def measures(self) -> dict[str, float]:
        """The measures of health."""
        return {"clocks_per_second": self.per_second, "stamp_lag_p99": self.lag_p99_s, "starved": int(self.starved)}

    def snapshot(self) -> Pace:
        """A copy; equal states are equal bytes."""
        return Pace(self.last_second, self.seconds, self.clocked, dict(sorted(self.lags.items())))
