"""Observations of many intervals by symbol, so that those which cannot touch an order are skipped.

A position at rest (entry filled, bracket working) is moved by few observations: a quote or print that reaches its stop
or its target. `SymbolObservations.reaches` finds the next one over whole columns; between two of them only the worst or
best price can change, which `SymbolObservations.extremes` gives. The result is the same as for every observation in seq
order.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harvester.projections.trading.simulated_exchange import Moment
from harvester.units import NEVER

if TYPE_CHECKING:
    from harvester.projections.trading.fast.book_tape import BookLine, BookTape
    from harvester.projections.trading.simulated_exchange import ShownQuote

Array = npt.NDArray[Any]
Part = tuple[dict[str, Array], slice]  # columns, and the rows of one symbol in them


class SymbolObservations:
    """Quotes and prints of one symbol, both in seq order; quote `i` is good when it is live.

    Attributes:
        seq, ts, bid, ask, bid_size, ask_size, good: columns of the quotes.
        trade_seq: seq of the prints.
        books: SMART books, None where no order looks at them.
    """

    def __init__(self, quotes: Part, trades: Part, clocks: Array, books: BookLine | None = None) -> None:
        columns, rows = quotes
        self.seq, self.ts, self.good = columns["seq"][rows], columns["ts"][rows], columns["good"][rows]
        self.bid, self.ask = columns["bid"][rows], columns["ask"][rows]
        self.bid_size, self.ask_size = columns["bid_size"][rows], columns["ask_size"][rows]
        self._trades = trades
        self.trade_seq = self._of_trades("seq")
        self._before: Array | None = None  # by print: quotes before it
        self._clocks = clocks
        self._ends = self.seq.searchsorted(clocks)
        self._newest_good: Array | None = None  # by quote: the newest good one up to it, -1 = none
        self._shown = 0  # quotes `show` has taken over
        self.books = books
        self._looked = books.carried if books else 0  # books `show` has taken over

    def _of_trades(self, name: str) -> Array:
        columns, rows = self._trades
        return columns[name][rows]

    def end(self, place: int) -> int:
        """Quotes before this clock."""
        return int(self._ends[place])

    def place(self, seq: int) -> tuple[int, int]:
        """Number of quotes and prints up to and including `seq`."""
        return int(self.seq.searchsorted(seq, "right")), int(self.trade_seq.searchsorted(seq, "right"))

    def show(self, shown: ShownQuote, upto: int) -> None:
        """Apply the quotes before the `upto`-th, with the same result as one `ShownQuote.update` for each."""
        since = self._shown
        if upto <= since:
            return
        self._shown = upto
        while shown.remembers and since < upto:  # what we took depends on every quote, until it is forgotten
            shown.update(self.ts.item(since), *self._row(since), good=self.good.item(since))
            since += 1
        if since == upto:
            return
        if (at := self._good_until(upto - 1)) >= since:
            shown.update(self.ts.item(at), *self._row(at), good=True)
        shown.good = self.good.item(upto - 1)

    def show_books(self, shown: ShownQuote, upto: int, count: int) -> None:
        """As `show`, with each of the first `count` books at its place among the quotes (rule 19)."""
        if self.books is None:
            return
        while shown.remembers and (self._looked < count or self._shown < upto):
            quote = self.seq.item(self._shown) if self._shown < upto else NEVER
            if self._looked < count and self.books.seq.item(self._looked) <= quote:
                self._looked += 1
                at = self._looked - 1
                if shown.good and self.books.seq.item(at) < quote:
                    shown.look(self.books.ts.item(at), self.books.at(self._looked))
                continue
            since, self._shown = self._shown, self._shown + 1
            book = self.books.at(self._looked)
            shown.update(self.ts.item(since), *self._row(since), good=self.good.item(since), book=book)
        self._looked = max(self._looked, count)

    def books_at(self, seq: int, arrived: tuple[int, int] | None = None) -> int:
        """Number of books up to `seq`, or of an arrival (ns UTC, place of its clock) those up to it."""
        if self.books is None:
            return 0
        found = int(self.books.seq.searchsorted(seq, "right"))
        if arrived is not None:
            ts, place = arrived
            before = int(self.books.seq.searchsorted(self._clocks[place]))
            found = max(found, int(self.books.ts[:before].searchsorted(ts, "right")))
        return found

    def _row(self, quote: int) -> tuple[float, float, float, float]:
        return self.bid.item(quote), self.ask.item(quote), self.bid_size.item(quote), self.ask_size.item(quote)

    def _good_until(self, quote: int) -> int:
        """The newest good quote up to this one, -1 = none."""
        if self.good[quote]:
            return quote
        if self._newest_good is None:
            self._newest_good = np.maximum.accumulate(np.where(self.good, np.arange(len(self.good)), -1))
        return int(self._newest_good[quote])

    def good_at(self, places: Array, shown: ShownQuote) -> Array:
        """Whether the quote in force is good at each of these clocks; `shown` as `show` has updated it."""
        upto = self._ends[places]
        if not len(self.good):
            return np.full(len(upto), shown.good)
        return np.where(upto > self._shown, self.good[np.maximum(upto, 1) - 1], shown.good)

    def quotes_at(self, places: Array, shown: ShownQuote) -> list[Array]:
        """Whether the quote in force is live at each of these clocks, bid, ask and their sizes; see `good_at`."""
        upto = self._ends[places]
        values = shown.good, shown.bid, shown.ask, shown.bid_size, shown.ask_size
        if not len(self.good):
            return [np.full(len(upto), value) for value in values]
        at, moved = np.maximum(upto, 1) - 1, upto > self._shown
        columns = self.good, self.bid, self.ask, self.bid_size, self.ask_size
        if moved.all():
            return [column[at] for column in columns]
        return [np.where(moved, column[at], value) for column, value in zip(columns, values, strict=True)]

    def observation(self, seq: int) -> Moment:
        """The quote or print with this `seq`."""
        quotes, trades = self.place(seq)
        if quotes and self.seq[quotes - 1] == seq:
            return Moment(seq, self.ts.item(quotes - 1))
        ts, price, size, forms, triggers = (self._of_trades(name).item(trades - 1) for name in _PRINT)
        return Moment(seq, ts, price, size if size > 0 else 0.0, forms, triggers)

    def newest(self, ts: int, place: int) -> int:
        """Seq of the newest quote or print with a time up to `ts` in the interval that this clock ends, 0 = none."""
        seq = int(self._clocks[place - 1]) if place else 0
        found = 0
        for seqs, times in ((self.seq, self.ts), (self.trade_seq, self._of_trades("ts"))):
            begin, end = int(seqs.searchsorted(seq)), int(seqs.searchsorted(self._clocks[place]))
            at = begin + int(times[begin:end].searchsorted(ts, "right"))
            if at > begin:
                found = max(found, int(seqs[at - 1]))
        return found

    def next_seq(self, quotes: int, trades: int) -> int:
        """Seq of the observation after the first `quotes` quotes and `trades` prints, `NEVER` when there is none."""
        quote = self.seq.item(quotes) if quotes < len(self.seq) else NEVER
        trade = self.trade_seq.item(trades) if trades < len(self.trade_seq) else NEVER
        return min(quote, trade)

    def reaches(
        self, quotes: int, trades: int, shown: ShownQuote, bracket: tuple[bool, float | None, float | None]
    ) -> int:
        """Seq of the next observation that reaches a bracket (long, stop, target) at rest; `NEVER` when there is none.

        `shown` is the quote in force after the first `quotes` quotes.
        """
        long, stop, target = bracket
        low, high = (stop, target) if long else (target, stop)
        low, high = -math.inf if low is None else low, math.inf if high is None else high
        close = shown.price(buy=not long)
        if shown.good and (close <= low or close >= high):
            return self.next_seq(quotes, trades)
        closing = (self.bid if long else self.ask)[quotes:]
        hits = self.good[quotes:] & ((closing <= low) | (closing >= high))
        quote = int(self.seq[quotes + int(hits.argmax())]) if hits.any() else NEVER
        price, forms = self._of_trades("price")[trades:], self._of_trades("forms_price")[trades:]
        through = (price <= low) | (price > high) if long else (price >= high) | (price < low)
        for i in np.flatnonzero(through & forms & self._good_at(quotes, trades, shown))[:1].tolist():
            return min(quote, int(self.trade_seq[trades + i]))
        return quote

    def _good_at(self, quotes: int, trades: int, shown: ShownQuote) -> Array:
        """Whether the quote in force is good at each print from the `trades`-th on."""
        if self._before is None:
            self._before = np.searchsorted(self.seq, self.trade_seq)
        before = self._before[trades:]
        if not len(self.good):
            return np.full(len(before), shown.good)
        return np.where(before > quotes, self.good[np.maximum(before, 1) - 1], shown.good)

    def extremes(self, since: int, upto: int, *, long: bool) -> list[tuple[float, int]]:
        """(price, ts) of the good quotes that set a new lowest or highest closing price, in seq order."""
        pick = np.flatnonzero(self.good[since:upto]) + since
        if not len(pick):
            return []
        closing = (self.bid if long else self.ask)[pick]
        lowest, highest = np.minimum.accumulate(closing), np.maximum.accumulate(closing)
        new = np.ones(len(pick), np.bool_)
        new[1:] = (lowest[1:] < lowest[:-1]) | (highest[1:] > highest[:-1])
        return list(zip(closing[new].tolist(), self.ts[pick[new]].tolist(), strict=True))


class Observations:
    """Quotes (`interval.QUOTES`) and prints (`interval.TRADES`) between clocks, a `SymbolObservations` per symbol.

    Attributes:
        clocks: seqs of the clocks that end the intervals.
        books: SMART books, None where no order looks at them.
        first_quotes: (seq, con_id) of each symbol's first quote, in seq order.
    """

    def __init__(self, quotes: Array, trades: Array, clocks: list[int], books: BookTape | None = None) -> None:
        self.clocks = clocks
        self.books = books
        self._at = np.array(clocks, np.int64)
        (self._quotes, of_quotes), (self._trades, self._of_trades) = _by_symbol(quotes), _by_symbol(trades)
        for name in ("bid", "ask", "bid_size", "ask_size"):  # an absent number is NaN; the markets' infinities are not
            column = self._quotes[name]
            self._quotes["good"] = self._quotes["good"] & (column > 0) & (column < np.inf)
        self._of_quotes = of_quotes
        self._lines: dict[int, SymbolObservations] = {}
        self.first_quotes = sorted((int(self._quotes["seq"][rows.start]), c) for c, rows in of_quotes.items())

    def line(self, con_id: int) -> SymbolObservations:
        """Observations of one symbol."""
        found = self._lines.get(con_id)
        if found is None:
            quotes, trades = self._of_quotes.get(con_id, _NONE), self._of_trades.get(con_id, _NONE)
            books = self.books.line(con_id) if self.books else None
            parts = (self._quotes, quotes), (self._trades, trades)
            found = self._lines[con_id] = SymbolObservations(*parts, self._at, books)
        return found


_NONE = slice(0, 0)
_PRINT = ("ts", "price", "size", "forms_price", "triggers")


def _by_symbol(rows: Array) -> tuple[dict[str, Array], dict[int, slice]]:
    """Columns ordered by symbol and seq, and the rows of each symbol in them."""
    ids = rows["con_id"]
    order = np.argsort(ids, kind="stable")
    columns = {name: rows[name][order] for name in rows.dtype.names or () if name != "con_id"}
    columns["seq"] = columns["seq"].view(np.int64)
    ids = ids[order]
    edges = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1).tolist(), len(ids)]
    return columns, {int(ids[a]): slice(a, b) for a, b in pairwise(edges) if a < b}
