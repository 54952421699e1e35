"""Observations of many intervals by symbol, so that what cannot touch an order is passed over and not walked through.

A position at rest (entry filled, bracket working) is moved by few observations: a quote or print that reaches its stop
or its target. `Line.reaches` finds the next one over whole columns; between two of them nothing can happen but a new
worst or best price, which `Line.extremes` gives. The outcome is that of taking every observation in seq order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harvester.projections.exchange import Observation

if TYPE_CHECKING:
    from harvester.projections.exchange import Shown

Array = npt.NDArray[Any]
NEVER = 2**63 - 1


class Line:
    """Quotes and prints of one symbol, both in seq order; quote `i` is good when a market order could trade on it."""

    def __init__(self, quotes: Array, trades: Array, clocks: Array) -> None:
        self.seq, self.ts = _column(quotes, "seq").astype(np.int64), _column(quotes, "ts")
        self.bid, self.ask = _column(quotes, "bid"), _column(quotes, "ask")
        self.bid_size, self.ask_size = _column(quotes, "bid_size"), _column(quotes, "ask_size")
        finite = np.isfinite(self.bid) & np.isfinite(self.ask)
        self.good = _column(quotes, "good") & finite & (self.bid > 0) & (self.ask > 0)
        self._newest_good = np.maximum.accumulate(np.where(self.good, np.arange(len(quotes)), -1))
        self.trade_seq = _column(trades, "seq").astype(np.int64)
        self.trades = trades
        self._price, self._forms = _column(trades, "price"), _column(trades, "forms_price")
        self._before: Array | None = None  # by print: quotes before it
        self.ends: list[int] = np.searchsorted(self.seq, clocks).tolist()
        """By clock: quotes before it."""
        self._shown = 0  # quotes `show` has taken over

    def place(self, seq: int) -> tuple[int, int]:
        """How many quotes and prints there are up to and with `seq`."""
        return int(np.searchsorted(self.seq, seq, "right")), int(np.searchsorted(self.trade_seq, seq, "right"))

    def show(self, shown: Shown, upto: int) -> None:
        """Take the quotes before the `upto`-th over, as one `Shown.update` each would."""
        since = self._shown
        if upto <= since:
            return
        self._shown = upto
        if (at := self._newest_good.item(upto - 1)) >= since:
            seen = slice(since, at + 1)
            if shown.bid_taken and (self.bid[seen][self.good[seen]] != shown.bid).any():
                shown.bid_taken = 0.0
            if shown.ask_taken and (self.ask[seen][self.good[seen]] != shown.ask).any():
                shown.ask_taken = 0.0
            sizes = self.bid_size.item(at), self.ask_size.item(at)
            shown.update(self.bid.item(at), self.ask.item(at), *sizes, good=True)
        shown.good = self.good.item(upto - 1)

    def observation(self, seq: int) -> Observation:
        """The quote or print that bears `seq`."""
        quotes, trades = self.place(seq)
        if quotes and self.seq[quotes - 1] == seq:
            return Observation(seq, self.ts.item(quotes - 1))
        _, ts, _, price, size, forms = self.trades[trades - 1].item()
        return Observation(seq, ts, price, size, forms)

    def next_seq(self, quotes: int, trades: int) -> int:
        """Seq of the observation behind so many quotes and prints, `NEVER` when there is none."""
        quote = self.seq.item(quotes) if quotes < len(self.seq) else NEVER
        trade = self.trade_seq.item(trades) if trades < len(self.trade_seq) else NEVER
        return min(quote, trade)

    def reaches(self, quotes: int, trades: int, shown: Shown, bracket: tuple[bool, float, float]) -> int:
        """Seq of the next observation that reaches a bracket (long, stop, target) at rest; `NEVER` for none.

        `shown` is the quote in force behind so many quotes.
        """
        long, stop, target = bracket
        low, high = (stop, target) if long else (target, stop)
        close = shown.price(buy=not long)
        if shown.good and (close <= low or close >= high):
            return self.next_seq(quotes, trades)
        closing = (self.bid if long else self.ask)[quotes:]
        hits = self.good[quotes:] & ((closing <= low) | (closing >= high))
        quote = self.seq.item(quotes + int(hits.argmax())) if hits.any() else NEVER
        price = self._price[trades:]
        through = (price <= low) | (price > high) if long else (price >= high) | (price < low)
        for i in np.flatnonzero(through & self._forms[trades:] & self._good_at(quotes, trades, shown))[:1].tolist():
            return min(quote, self.trade_seq.item(trades + i))
        return quote

    def _good_at(self, quotes: int, trades: int, shown: Shown) -> Array:
        """By print from the `trades`-th on: whether the quote in force is good then."""
        if self._before is None:
            self._before = np.searchsorted(self.seq, self.trade_seq)
        before = self._before[trades:]
        if not len(self.good):
            return np.full(len(before), shown.good)
        return np.where(before > quotes, self.good[np.maximum(before, 1) - 1], shown.good)

    def extremes(self, since: int, upto: int, *, long: bool) -> list[tuple[float, int]]:
        """(price, ts) of the good quotes among these that a position closing against them may not have seen yet.

        Each price that is the lowest or the highest up to then, in seq order.
        """
        pick = np.flatnonzero(self.good[since:upto]) + since
        if not len(pick):
            return []
        closing = (self.bid if long else self.ask)[pick]
        lowest, highest = np.minimum.accumulate(closing), np.maximum.accumulate(closing)
        new = np.ones(len(pick), np.bool_)
        new[1:] = (lowest[1:] < lowest[:-1]) | (highest[1:] > highest[:-1])
        return list(zip(closing[new].tolist(), self.ts[pick[new]].tolist(), strict=True))


class Tape:
    """Quotes (dtype `interval.QUOTES`) and prints (`interval.TRADES`) between clocks, a `Line` per symbol.

    Attributes:
        clocks: seqs of the clocks that end the intervals.
        first_quotes: (seq, con_id) of each symbol's first quote, in seq order.
    """

    def __init__(self, quotes: Array, trades: Array, clocks: list[int]) -> None:
        self.clocks = clocks
        self._at = np.array(clocks, np.int64)
        self._quotes, self._trades = _by_symbol(quotes), _by_symbol(trades)
        self._empty = quotes[:0], trades[:0]
        self._lines: dict[int, Line] = {}
        self.first_quotes = sorted((int(rows[0]["seq"]), con_id) for con_id, rows in self._quotes.items())

    def line(self, con_id: int) -> Line:
        """Observations of one symbol."""
        found = self._lines.get(con_id)
        if found is None:
            quotes, trades = self._quotes.get(con_id, self._empty[0]), self._trades.get(con_id, self._empty[1])
            found = self._lines[con_id] = Line(quotes, trades, self._at)
        return found


def _by_symbol(rows: Array) -> dict[int, Array]:
    order = np.argsort(rows["con_id"], kind="stable")
    ids = rows["con_id"][order]
    edges = np.flatnonzero(ids[1:] != ids[:-1]) + 1
    return {int(rows["con_id"][part[0]]): rows[part] for part in np.split(order, edges) if len(part)}


def _column(rows: Array, name: str) -> Array:
    return np.ascontiguousarray(rows[name])
