"""The bars of a log that can be traded on: complete, consistent, each once, and whether a symbol has bars alone.

A bar is used if it is a TRADES bar of one hour or less, was received at or after its end, and has four prices of which
none is outside low and high. Of several rows for the same time the first complete one counts, so a later backfill
changes nothing that was decided on it.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from harvester.events.unset import is_price
from harvester.projections.market.signals import BAR_WHAT
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harvester.calendar import ExchangeSession

BAR_SECONDS: dict[str, int] = {
    **{f"{n} secs": n for n in (1, 5, 10, 15, 30)},
    "1 min": 60,
    **{f"{n} mins": 60 * n for n in (2, 3, 5, 10, 15, 20, 30)},
    "1 hour": 3600,
}
"""Sizes that can be traded on, in seconds, finest first. IB writes one second as `1 secs`."""
DAY_BAR = "1 day"


class TimedBar(NamedTuple):
    """A complete bar: seq of its row, start and end ns UTC, prices USD, shares, number of trades, time as sent."""

    seq: int
    start: int
    end: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    trades: int
    bar_size: str
    time: str | None


class BarsOfDay(NamedTuple):
    """The usable bars of a log.

    Attributes:
        intraday: by (con_id, bar size) in order of time.
        days: bars of one day by con_id, in order of time; their end is the session's close.
        unused: rows that are not used, by reason: incomplete, inconsistent, repeated, other.
    """

    intraday: dict[tuple[int, str], list[TimedBar]]
    days: dict[int, list[TimedBar]]
    unused: dict[str, int]

    def sizes(self, con_id: int) -> list[str]:
        """The sizes there are of a symbol, finest first."""
        return [size for size in BAR_SECONDS if (con_id, size) in self.intraday]


def usable_bars(rows: Iterable[Mapping[str, Any]], sessions: Mapping[str, ExchangeSession]) -> BarsOfDay:
    """Choose among rows of kind `bar`, in order of seq.

    Args:
        rows: the rows of a log.
        sessions: by date (yyyy-MM-dd); they place daily bars.
    """
    found: dict[tuple[int, str], dict[int, TimedBar]] = {}
    unused: Counter[str] = Counter()
    for row in rows:
        span = _span(row, sessions)
        if span is None or row["what"] != BAR_WHAT or row["con_id"] <= 0:
            unused["other"] += 1
        elif row["ts_recv"] < span[1]:
            unused["incomplete"] += 1
        elif not _consistent(row):
            unused["inconsistent"] += 1
        elif span[0] in (kept := found.setdefault((row["con_id"], row["bar_size"]), {})):
            unused["repeated"] += 1
        else:
            kept[span[0]] = _timed(row, *span)
    ordered = {key: sorted(kept.values(), key=_start) for key, kept in sorted(found.items()) if kept}
    return BarsOfDay(
        {key: bars for key, bars in ordered.items() if key[1] != DAY_BAR},
        {key[0]: bars for key, bars in ordered.items() if key[1] == DAY_BAR},
        dict(sorted(unused.items())),
    )


def _span(row: Mapping[str, Any], sessions: Mapping[str, ExchangeSession]) -> tuple[int, int] | None:
    """Start and end of a bar, ns UTC; None when it has another size or its time cannot be placed."""
    if row["bar_size"] == DAY_BAR:
        text = row["time"] or ""
        hours = sessions.get(f"{text[:4]}-{text[4:6]}-{text[6:8]}")
        return None if hours is None else (hours.open_ns, hours.close_ns)
    length, start = BAR_SECONDS.get(row["bar_size"] or "", 0) * SECOND_NS, row["ts_event"]
    return None if not length or start is None else (start, (start // length + 1) * length)  # 09:30 … 10:00: an hour's


def _consistent(row: Mapping[str, Any]) -> bool:
    prices = [row[name] for name in ("open", "high", "low", "close")]
    return all(map(is_price, prices)) and row["low"] == min(prices) and row["high"] == max(prices)


def _timed(row: Mapping[str, Any], start: int, end: int) -> TimedBar:
    volume, count = row["volume"], row["count"]
    return TimedBar(
        seq=row["seq"],
        start=start,
        end=end,
        open=row["open"],
        high=row["high"],
        low=row["low"],
        close=row["close"],
        volume=math.floor(volume) if is_price(volume) else 0.0,
        trades=count if is_price(count) else 0,
        bar_size=row["bar_size"],
        time=row["time"],
    )


def _start(bar: TimedBar) -> int:
    return bar.start
