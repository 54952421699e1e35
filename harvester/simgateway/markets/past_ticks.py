"""Quotes and prints of a running market so far: the source of BID, ASK and MIDPOINT bars and of historical ticks."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from harvester.calendar import day_bounds, session, trading_date
from harvester.simgateway.markets.second_bars import BarSeries
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harvester.simgateway.markets.base_rows import Row
    from harvester.simgateway.markets.market_source import TicksQuery

QUOTE_BARS = ("BID", "ASK", "MIDPOINT")
"""What a bar of quotes shows, in IB's words."""
TICKS_MAX = 1_000  # of one answer, as at IB, besides the rest of a second


class PastTicks:
    """The quotes and prints of one instrument, in the source's units; 40 bytes a quote."""

    def __init__(self) -> None:
        self._ts = array("q")
        self._quotes = array("d")  # bid, ask, bid size, ask size of each
        self._prints: list[Row] = []

    def quote(self, ts: int, bid: float, ask: float, bid_size: float, ask_size: float) -> None:
        self._ts.append(ts)
        self._quotes.extend((bid, ask, bid_size, ask_size))

    def trade(self, row: Row) -> None:
        self._prints.append(row)

    def _columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Times, shape (n,) int64, and quotes, shape (n, 4): copies, so that the arrays may grow."""
        return np.array(self._ts, np.int64), np.array(self._quotes, np.float64).reshape(-1, 4)

    def bars(self, what: str, per_dollar: int, end_ns: int) -> BarSeries:
        """One-second bars of BID, ASK or MIDPOINT in USD, without volume, WAP and count; silent seconds are flat.

        On each date from its first quote to its last one, on the last date to `end_ns` (exclusive).
        """
        ts, quotes = self._columns()
        bid, ask = (np.where((quotes[:, k] > 0) & (quotes[:, k + 2] > 0), quotes[:, k], np.nan) for k in (0, 1))
        values = {"BID": bid, "ASK": ask, "MIDPOINT": (bid + ask) / 2}[what]
        known = ~np.isnan(values)
        ts, values = ts[known], values[known] / per_dollar
        out = BarSeries.empty()
        while len(ts):
            upto = int(np.searchsorted(ts, day_bounds(trading_date(int(ts[0])))[1], "left"))
            stop = end_ns if upto == len(ts) else int(ts[upto - 1]) + 1
            out = out.then(_seconds(ts[:upto], values[:upto], stop))
            ts, values = ts[upto:], values[upto:]
        return out

    def ticks(self, query: TicksQuery, per_dollar: int, now_ns: int) -> list[tuple[Any, ...]]:
        """Ticks of BID_ASK, MIDPOINT or TRADES as in `MarketSource.ticks`, [] when there are none."""
        found = _chosen(list(self._rows(query, per_dollar, now_ns)), query)
        return [(ts // SECOND_NS, *rest) for ts, *rest in found]

    def _rows(self, query: TicksQuery, per_dollar: int, now_ns: int) -> Iterator[tuple[Any, ...]]:
        low, high = query.start_ns, min(query.end_ns or now_ns + 1, now_ns + 1)
        if query.what == "TRADES":
            for ts, _, _, price, size, _, attribs, conditions, name in self._prints:
                if low <= ts < high and (not query.rth or _in_session(ts)):
                    yield ts, attribs, price / per_dollar, size, name, conditions
            return
        ts_all, quotes = self._columns()
        first, last = np.searchsorted(ts_all, [low, high], "left")
        before: tuple[float, ...] = ()
        for ts, row in zip(ts_all[first:last].tolist(), quotes[first:last].tolist(), strict=True):
            bid, ask, bid_size, ask_size = row
            if query.rth and not _in_session(ts):
                continue
            if query.what == "MIDPOINT":
                mid = (bid + ask) / 2
                if bid and ask and (mid,) != before:
                    yield ts, 0, mid / per_dollar, 0
                    before = (mid,)
            elif not query.ignore_size or (bid, ask) != before:
                yield ts, 0, bid / per_dollar, ask / per_dollar, bid_size, ask_size
                before = (bid, ask)


def _seconds(ts: np.ndarray, values: np.ndarray, stop: int) -> BarSeries:
    """The bars of one date: a bar opens at the value in force, the first one at the first value."""
    places = ts // SECOND_NS
    grid = np.arange(places[0], -(-stop // SECOND_NS), dtype=np.int64)
    ends = np.searchsorted(places, grid, "right")  # values up to the end of each second
    starts = np.append(0, ends[:-1])
    closes = values[ends - 1]
    opens = np.append(values[0], closes[:-1])
    highs, lows = np.maximum(opens, closes), np.minimum(opens, closes)
    moved = np.flatnonzero(ends > starts)
    highs[moved] = np.maximum(opens[moved], np.maximum.reduceat(values, starts[moved]))
    lows[moved] = np.minimum(opens[moved], np.minimum.reduceat(values, starts[moved]))
    none = np.full(len(grid), np.nan)
    return BarSeries(grid * SECOND_NS, opens, highs, lows, closes, none, none, np.full(len(grid), -1, np.int64))


def _chosen(rows: list[tuple[Any, ...]], query: TicksQuery) -> list[tuple[Any, ...]]:
    """The first or last `count` rows, and the rest of the second they end in."""
    count = min(query.ticks, TICKS_MAX)
    if len(rows) <= count:
        return rows
    if query.start_ns:
        edge = rows[count - 1][0] // SECOND_NS
        return [row for i, row in enumerate(rows) if i < count or row[0] // SECOND_NS == edge]
    edge = rows[-count][0] // SECOND_NS
    return [row for i, row in enumerate(rows) if i >= len(rows) - count or row[0] // SECOND_NS == edge]


def _in_session(ts: int) -> bool:
    hours = session(trading_date(ts))
    return hours is not None and hours.open_ns <= ts < hours.close_ns
