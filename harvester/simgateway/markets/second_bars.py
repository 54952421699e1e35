"""One-second bars of a running market, the source of 5-second and historical bars."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np

from harvester.units import SECOND_NS


class BarSeries(NamedTuple):
    """Bars of one instrument as NumPy columns of equal length; `ts` (int64 ns UTC) is the start, prices are USD.

    `turnover` is the sum of price times size: WAP = turnover / volume, also over several bars.
    """

    ts: np.ndarray
    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    volume: np.ndarray
    turnover: np.ndarray
    trades: np.ndarray

    @staticmethod
    def empty() -> BarSeries:
        whole, real = np.zeros(0, np.int64), np.zeros(0)
        return BarSeries(whole, real, real, real, real, real, real, whole)

    def between(self, start_ns: int, end_ns: int) -> BarSeries:
        """Bars with start <= ts < end."""
        lo, hi = np.searchsorted(self.ts, [start_ns, end_ns], "left")
        return BarSeries(*(column[lo:hi] for column in self))

    def then(self, later: BarSeries) -> BarSeries:
        """This series followed by a later one."""
        return BarSeries(*(np.concatenate([a, b]) for a, b in zip(self, later, strict=True)))


class SecondBars:
    """One instrument's trades as one-second bars; a second without trades has none. Prices in the source's units."""

    def __init__(self) -> None:
        self._ts = array("q")
        self._columns = tuple(array("d") for _ in range(6))
        self._count = array("q")

    def __len__(self) -> int:
        return len(self._ts)

    def add(self, ts: int, price: float, size: float) -> None:
        second = ts - ts % SECOND_NS
        _, highs, lows, closes, volumes, turnovers = self._columns
        if self._ts and self._ts[-1] == second:
            if price > highs[-1]:
                highs[-1] = price
            elif price < lows[-1]:
                lows[-1] = price
            closes[-1] = price
            volumes[-1] += size
            turnovers[-1] += price * size
            self._count[-1] += 1
            return
        self._ts.append(second)
        for column, value in zip(self._columns, (price, price, price, price, size, price * size), strict=True):
            column.append(value)
        self._count.append(1)

    def last_bar(self, start_ns: int) -> tuple[float, float, float, float, float, float, int] | None:
        """Open, high, low, close, volume, turnover and count since `start_ns`; None without trades."""
        i = len(self._ts)
        while i and self._ts[i - 1] >= start_ns:
            i -= 1
        if i == len(self._ts):
            return None
        opens, highs, lows, closes, volumes, turnovers = self._columns
        totals = (sum(volumes[i:]), sum(turnovers[i:]), sum(self._count[i:]))
        return (opens[i], max(highs[i:]), min(lows[i:]), closes[-1], *totals)

    def series(self, per_dollar: int) -> BarSeries:
        """A copy as NumPy columns in USD."""
        opens, highs, lows, closes, volumes, turnovers = (np.array(column) for column in self._columns)
        return BarSeries(
            np.array(self._ts, dtype=np.int64),
            opens / per_dollar,
            highs / per_dollar,
            lows / per_dollar,
            closes / per_dollar,
            volumes,
            turnovers / per_dollar,
            np.array(self._count, dtype=np.int64),
        )
