"""The days before a modelled day: one-minute bars of regular sessions, generated on request, always the same.

The closes of a symbol are a random walk backwards from its price on the modelled day, with one seed per day; the
minutes of a day are a random walk from its open to its close. All prices are integers (cents).
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from datetime import date, timedelta
from functools import lru_cache

import numpy as np

from harvester.calendar import session, sessions_before, trading_date
from harvester.simgateway.markets.second_bars import BarSeries
from harvester.units import MINUTE_NS

_MASK = (1 << 64) - 1
_DAYS_KEPT = 2600
_DAYS_CACHED = 4096


def mixed_seed(*parts: int | str) -> int:
    """A 64-bit seed from numbers and names: SplitMix64's finalizer over each in turn."""
    state = 0x243F6A8885A308D3
    for part in parts:
        value = part if isinstance(part, int) else zlib.crc32(part.encode("utf-8", "surrogatepass"))
        state = _finalized((state + (value & _MASK) + 0x9E3779B97F4A7C15) & _MASK)
    return state


def _finalized(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class SplitMix64:
    """SplitMix64 in plain Python: the same numbers as the compiled one."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def below(self, n: int) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        return (_finalized(self._state) >> 33) * n >> 31

    def bell(self, spread: int) -> int:
        """Bell-shaped around 0, between -spread and spread: the mean of four uniform draws."""
        return sum(self.below(2 * spread + 1) for _ in range(4)) // 4 - spread if spread else 0


class ModelHistory:
    """The `Past` of a modelled day. `prices` are base prices in cents by con_id."""

    def __init__(self, seed: int, day: date, prices: dict[int, int]) -> None:
        self._seed, self._day, self._prices = seed, day, prices
        self._days: list[date] = []
        self._closes: dict[int, list[int]] = {con_id: [] for con_id in prices}
        self._minutes = lru_cache(maxsize=_DAYS_CACHED)(self._make_day)

    def opening(self, con_id: int) -> int:
        """First price of the modelled day, cents: a gap of up to 2 % from the prior close."""
        close = self.prior_close(con_id)
        return max(200, close + close * SplitMix64(mixed_seed(self._seed, con_id, "gap")).bell(200) // 10_000)

    def prior_close(self, con_id: int) -> int:
        """Close of the session before the modelled day, cents."""
        return self._close(con_id, 0)

    def _close(self, con_id: int, back: int) -> int:
        """Close of the session `back` sessions before the last one."""
        closes = self._closes[con_id]
        if not closes:
            price = self._prices[con_id]
            closes.append(max(200, price + price * SplitMix64(mixed_seed(self._seed, con_id)).bell(300) // 10_000))
        while len(closes) <= back:
            move = SplitMix64(mixed_seed(self._seed, con_id, len(closes))).bell(500)
            closes.append(max(200, closes[-1] - closes[-1] * move // 10_000))
        return closes[back]

    def _sessions(self, first: date) -> list[date]:
        """Session dates before the modelled day, newest first, at least back to `first`."""
        while (not self._days or self._days[-1] >= first) and len(self._days) < _DAYS_KEPT:
            oldest = self._days[-1] if self._days else self._day
            if oldest.year <= 2000:
                break
            self._days += sessions_before(oldest, 30)[::-1]
        return self._days

    def minutes(self, con_id: int, start_ns: int, end_ns: int) -> BarSeries:
        first, last = trading_date(start_ns), trading_date(end_ns)
        days = self._sessions(first)
        oldest_first = days[::-1]
        lo, hi = bisect_left(oldest_first, first), bisect_left(oldest_first, last + timedelta(days=1))
        wanted = [self._minutes(con_id, len(days) - 1 - i) for i in range(lo, hi)]
        if not wanted:
            return BarSeries.empty()
        joined = BarSeries(*(np.concatenate(columns) for columns in zip(*wanted, strict=True)))
        return joined.between(start_ns, end_ns - MINUTE_NS + 1)

    def _make_day(self, con_id: int, back: int) -> BarSeries:
        """Minutes of the session `back` sessions before the last one."""
        day = self._days[back]
        hours = session(day)
        assert hours is not None, f"{day} is not a session"
        draws = SplitMix64(mixed_seed(self._seed, con_id, day.toordinal()))
        close, before = self._close(con_id, back), self._close(con_id, back + 1)
        price = max(200, before + (close - before) * draws.below(60) // 100)
        count = (hours.close_ns - hours.open_ns) // MINUTE_NS
        bars = []
        for i in range(count):
            left = count - i
            step = (close - price) // left + draws.bell(2 + price // 600) if left > 1 else close - price
            bars.append(_bar(draws, price, max(100, price + step), (2 * i - count) ** 2 * 768 // count**2 + 256))
            price = bars[-1][3]
        return _series(hours.open_ns, bars)


def _bar(draws: SplitMix64, opens: int, close: int, weight: int) -> tuple[int, int, int, int, int, int, int]:
    """Open, high, low, close in cents, volume, turnover in cents, trades."""
    high = max(opens, close) + draws.below(2 + opens // 3000)
    low = max(100, min(opens, close) - draws.below(2 + opens // 3000))
    volume = (20 + draws.below(100)) * weight // 8 * max(1, 4000 // opens)
    turnover = volume * (opens + high + low + close) // 4
    return opens, high, low, close, volume, turnover, 1 + volume // 120


def _series(open_ns: int, bars: list[tuple[int, int, int, int, int, int, int]]) -> BarSeries:
    table = np.array(bars, dtype=np.int64)
    ts = open_ns + MINUTE_NS * np.arange(len(bars), dtype=np.int64)
    opens, highs, lows, closes = (table[:, k] / 100 for k in range(4))
    return BarSeries(ts, opens, highs, lows, closes, table[:, 4].astype(float), table[:, 5] / 100, table[:, 6])
