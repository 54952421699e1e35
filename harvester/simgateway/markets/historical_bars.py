"""Historical bars of IB's durations and bar sizes, from one-minute bars of the past and one-second bars of the day.

Bars shorter than a minute exist only for the day itself. `useRTH` keeps the exchange's session; as with IB, the first
bar of a session then starts at its open (an hourly bar at 09:30). The `ts` of a daily bar is its session's open, that
of a weekly or monthly bar the open of its last session. Volume, WAP and count are -1, IB's "none", if the source has
none: bars of quotes have neither, and exist for the day itself.
"""

from __future__ import annotations

import math
import re
from datetime import date, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np

from harvester.calendar import ExchangeSession, day_bounds, session, sessions_before, trading_date
from harvester.events.codes import BAD_REQUEST, HISTORY_ERROR
from harvester.simgateway.markets.market_source import (
    HistoricalBar,
    HistoricalBars,
    HistoryQuery,
    MarketRefusal,
    no_data,
)
from harvester.simgateway.markets.past_ticks import QUOTE_BARS
from harvester.simgateway.markets.second_bars import BarSeries
from harvester.units import MINUTE_NS, SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


SECONDS_OF: dict[str, int] = {
    **{f"{n} secs": n for n in (1, 5, 10, 15, 30)},
    "1 min": 60,
    **{f"{n} mins": 60 * n for n in (2, 3, 5, 10, 15, 20, 30)},
    "1 hour": 3600,
    **{f"{n} hours": 3600 * n for n in (2, 3, 4, 8)},
}
"""Intraday bar sizes, in seconds."""

_PERIOD_OF: dict[str, Callable[[date], tuple[int, ...]]] = {
    "1 day": lambda day: (day.toordinal(),),
    "1 week": lambda day: day.isocalendar()[:2],
    "1W": lambda day: day.isocalendar()[:2],
    "1 month": lambda day: (day.year, day.month),
    "1M": lambda day: (day.year, day.month),
}
_SESSIONS_MAX = 2600  # ten years of trading days: more than IB has


class MinuteHistory(Protocol):
    """One-minute bars from another source than the trades of the running market."""

    def minutes(self, con_id: int, start_ns: int, end_ns: int) -> BarSeries:
        """Bars complete by `end_ns` that start at or after `start_ns`."""
        ...


def answer_end(query: HistoryQuery, now_ns: int) -> int:
    """Exclusive end of an answer: the requested end, at most the current market time."""
    return min(query.end_ns, now_ns + 1) if query.end_ns else now_ns + 1


def duration_start(duration: str, end_ns: int) -> int:
    """Start of a duration that ends at `end_ns`: `S` seconds, `D` trading days, `W` weeks, `M` months, `Y` years.

    Raises:
        MarketRefusal: 321 for an invalid text.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,5}) ([SDWMY])", duration)
    if not found:
        raise MarketRefusal(
            BAD_REQUEST, f"Error validating request: invalid duration {duration!r}; e.g. '1 D' or '3600 S'"
        )
    count, unit = int(found[1]), found[2]
    if unit == "S":
        return end_ns - count * SECOND_NS
    last = trading_date(end_ns - 1)
    if unit == "D":
        if count > _SESSIONS_MAX:
            raise MarketRefusal(BAD_REQUEST, f"Error validating request: duration {duration!r} is too long")
        first = sessions_before(last + timedelta(days=1), count)[0]
    elif unit == "W":
        first = last - timedelta(weeks=count)
    else:
        first = _months_before(last, count * (12 if unit == "Y" else 1))
    return day_bounds(first)[0]


def _months_before(day: date, months: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    if year < 2000:
        raise MarketRefusal(HISTORY_ERROR, "Historical Market Data Service error message:HMDS query returned no data")
    for last in (day.day, 30, 29, 28):
        try:
            return date(year, month + 1, min(last, day.day))
        except ValueError:
            continue
    raise AssertionError("every month has 28 days")


def answer(query: HistoryQuery, end_ns: int, past: MinuteHistory | None, today: BarSeries) -> HistoricalBars:
    """The bars of one request, from the minutes of the past (None: there are none) and the seconds of the day.

    Raises:
        MarketRefusal: 321 for an invalid bar size or duration, 162 when there are no data.
    """
    if query.bar_size not in SECONDS_OF and query.bar_size not in _PERIOD_OF:
        legal = ", ".join((*SECONDS_OF, "1 day", "1 week", "1 month"))
        raise MarketRefusal(BAD_REQUEST, f"Historical data bar size setting is invalid. Legal ones are: {legal}")
    start_ns = duration_start(query.duration, end_ns)
    if query.what not in {"TRADES", "ADJUSTED_LAST", *QUOTE_BARS}:
        raise MarketRefusal(
            HISTORY_ERROR,
            f"Historical Market Data Service error message:No historical market data for {query.what} {query.bar_size}",
        )
    bars = _bars(query, start_ns, end_ns, past, today)
    if not bars and query.duration.endswith("D"):
        # Before the first trade of a day, IB counts the requested days from the day before.
        bars = _bars(query, duration_start(f"{int(query.duration[:-2]) + 1} D", end_ns), end_ns, past, today)
    if not bars:
        raise no_data(query.what)
    return HistoricalBars(bars)


def _bars(
    query: HistoryQuery, start_ns: int, end_ns: int, past: MinuteHistory | None, today: BarSeries
) -> list[HistoricalBar]:
    source = today.between(start_ns, end_ns)
    if past is not None and SECONDS_OF.get(query.bar_size, MINUTE_NS) >= 60:
        minutes = past.minutes(query.con_id, start_ns, end_ns)
        done_ns = int(minutes.ts[-1]) + MINUTE_NS if len(minutes.ts) else start_ns
        source = minutes.then(today.between(max(done_ns, start_ns), end_ns))
    return list(_rolled_up(source, query.bar_size, rth=query.rth))


@lru_cache(maxsize=4096)
def _day(of: date) -> tuple[int, int, ExchangeSession | None]:
    return *day_bounds(of), session(of)


def _days(series: BarSeries) -> Iterator[tuple[date, int, ExchangeSession, BarSeries]]:
    """The series split by session day: date, midnight in New York, session, bars."""
    ts = series.ts
    i = 0
    while i < len(ts):
        day = trading_date(int(ts[i]))
        midnight, end_ns, hours = _day(day)
        j = int(np.searchsorted(ts, end_ns, "left"))
        if hours is not None:
            yield day, midnight, hours, BarSeries(*(column[i:j] for column in series))
        i = j


def _rolled_up(series: BarSeries, bar_size: str, *, rth: bool) -> Iterator[HistoricalBar]:
    parts: list[tuple[tuple[int, ...], int, BarSeries]] = []
    for day, midnight, hours, whole in _days(series):
        bars = whole.between(hours.open_ns, hours.close_ns) if rth else whole
        if not len(bars.ts):
            continue
        if bar_size in _PERIOD_OF:
            parts.append((_PERIOD_OF[bar_size](day), hours.open_ns, bars))
            continue
        width = SECONDS_OF[bar_size] * SECOND_NS
        places = (bars.ts - midnight) // width
        edges = [0, *(np.flatnonzero(np.diff(places)) + 1).tolist(), len(places)]
        for lo, hi in pairwise(edges):
            start = midnight + int(places[lo]) * width
            start = max(start, hours.open_ns) if rth else start
            parts.append(((start,), start, BarSeries(*(column[lo:hi] for column in bars))))
    yield from _joined(parts)


def _joined(parts: list[tuple[tuple[int, ...], int, BarSeries]]) -> Iterator[HistoricalBar]:
    """One bar per run of parts with the same key, with the time of the last part."""
    i = 0
    while i < len(parts):
        j = i
        series = BarSeries.empty()
        while j < len(parts) and parts[j][0] == parts[i][0]:
            series = series.then(parts[j][2]) if j > i else parts[j][2]
            j += 1
        yield _one(parts[j - 1][1], series)
        i = j


def _one(ts: int, bars: BarSeries) -> HistoricalBar:
    volume = -1.0 if math.isnan(bars.volume[0]) else math.fsum(bars.volume)
    turnover = math.fsum(bars.turnover)  # exactly rounded, so the sum does not depend on how the bars were split
    wap = -1.0 if math.isnan(turnover) or not volume else round(turnover / volume, 6)
    count = -1 if bars.trades.min() < 0 else int(bars.trades.sum())
    high, low = float(bars.high.max()), float(bars.low.min())
    return HistoricalBar(ts, float(bars.open[0]), high, low, float(bars.close[-1]), volume, wap, count)
