"""The market at the current point of a stretch, as far as trading may see it.

Quotes and buckets of the whole stretch are loaded; `until`, `closed` and `slot` say how far they have happened. Some
state is updated only when it is read: quotes in force by `shown`, symbols and bad seconds by `count`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harvester.projections.interval import QUOTES, TRADES
from harvester.projections.trading.episodes import PRE_COUNT, SymbolHealth
from harvester.projections.trading.fast.bucket_columns import NO_SECONDS, Newest, records, rows_of
from harvester.projections.trading.fast.observations import Observations
from harvester.projections.trading.simulated_exchange import ShownQuote
from harvester.projections.trading.strategy import Ahead
from harvester.units import MINUTE_NS

if TYPE_CHECKING:
    from harvester.projections.interval import Interval
    from harvester.projections.trading.fast.book_tape import ShownBook
    from harvester.projections.trading.fast.bucket_columns import Array, SymbolBuckets
    from harvester.projections.trading.fast.observations import SymbolObservations
    from harvester.projections.trading.trading_state import TradingState

NO_BOOK_NS = MINUTE_NS
_NO_TAPE = Observations(np.empty(0, QUOTES), np.empty(0, TRADES), [])


class MarketNow:
    """See the module's text.

    Attributes:
        tape, seconds: of the stretch.
        place: index of the clock that ends the current interval; `seq` and `ts` (ns UTC) are that clock's.
        until: seq through which observations have happened.
        closed: number of its buckets that strategies have seen.
        slot: the next slot to be decided.
    """

    def __init__(self, state: TradingState) -> None:
        self._state = state
        self._newest = {con_id: Newest(records(rows)) for con_id, rows in state.history.items()}
        state.history = {}
        self._reset()

    def _reset(self) -> None:
        self.tape, self.seconds = _NO_TAPE, NO_SECONDS
        self.place = self.seq = self.ts = self.until = self.closed = self.slot = self._counted = 0
        self._histories: dict[int, SymbolBuckets] = {}
        self._new_symbols: list[tuple[int, int, int]] = []  # (seq, order within it, con_id)

    def follow(self, interval: Interval) -> None:
        """Start the next stretch; the previous one must be counted."""
        self._reset()
        self.tape, self.seconds = interval.tape, interval.seconds
        self._mark_missing_books()
        for con_id in self.seconds.symbols:
            newest = self._newest.setdefault(con_id, Newest())
            self._histories[con_id] = self.seconds.history(con_id, newest)

    def advance(self, interval: Interval) -> None:
        """Start the next interval of the stretch."""
        self.seq, self.ts, self.place = interval.seq, interval.ts, interval.place

    def _mark_missing_books(self) -> None:
        """Distinguish a bad book from none: without a depth row for a minute `book_good` is None, not False."""
        known, rows = self._state.depth_ts, self.seconds.rows
        columns = (self.seconds.con_ids, *(rows[name] for name in ("ts", "depth_count", "book_good")))
        for row, (con_id, ts, depth, good) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            if depth:
                known[con_id] = ts
            elif not good and ts - known.get(con_id, -NO_BOOK_NS) >= NO_BOOK_NS:
                rows["book_good"][row] = -1

    # the market now

    def line(self, con_id: int) -> SymbolObservations:
        """Observations of a symbol in the whole stretch."""
        return self.tape.line(con_id)

    def seen(self, con_id: int) -> tuple[int, int]:
        """Number of quotes and prints of a symbol so far."""
        return self.tape.line(con_id).place(self.until)

    def history(self, con_id: int) -> SymbolBuckets:
        """Closed buckets of a symbol in the whole stretch."""
        found = self._histories.get(con_id)
        if found is None:
            found = self._histories[con_id] = NO_SECONDS.history(con_id, self._newest.get(con_id) or Newest())
        return found

    def newest(self, con_id: int) -> Array:
        """The newest closed buckets of a symbol, at most `PRE_COUNT`, dtype `bucket_columns.SECONDS`."""
        history = self.history(con_id)
        upto = history.upto(self.closed)
        return history.rows[max(0, upto - PRE_COUNT) : upto]

    def outage(self, con_id: int) -> bool:
        """Whether the symbol's feed is interrupted."""
        return 0 in self._state.outages or con_id in self._state.outages

    def session(self) -> tuple[int, int] | None:
        """Open and close of the session, ns UTC."""
        return self._state.terms.session if self._state.terms else None

    def ahead(self, con_id: int, since: int) -> Ahead:
        """The coming seconds of a symbol, from this row of its history on."""
        history = self.history(con_id)
        places = np.searchsorted(self.seconds.ends, history.at[since - history.before :], "right")
        shown = self.shown(con_id) if self.has_shown(con_id) else ShownQuote()
        good, ts = self.line(con_id).good_at(places, shown), self.seconds.clocks[places, 1]
        halted = con_id in self._state.halted
        return Ahead(con_id, history.rows[since:], ts, good, self.session(), self.outage(con_id), halted)

    def has_shown(self, con_id: int) -> bool:
        """Whether the symbol has had a quote or a decision."""
        return con_id in self._state.shown

    def shown(self, con_id: int, arrived: int | None = None) -> ShownQuote:
        """The quote in force of a symbol; `arrived`: for what arrives at this time, ns UTC."""
        shown = self._state.shown.get(con_id)
        if shown is None:
            self.register_symbols()
            shown = self._state.shown.setdefault(con_id, ShownQuote())
        line, clocks = self.line(con_id), self.tape.clocks
        at_clock = clocks and clocks[self.place] == self.until
        upto = line.end(self.place) if at_clock else line.place(self.until)[0]
        if line.books is not None:
            line.show_books(shown, upto, self._books(line, arrived))
        line.show(shown, upto)
        return shown

    def _books(self, line: SymbolObservations, arrived: int | None) -> int:
        """Number of books of a symbol so far."""
        return line.books_at(self.until, None if arrived is None else (arrived, self.place))

    def book(self, con_id: int, arrived: int | None = None) -> ShownBook | None:
        """The SMART book of a symbol, None where no order looks at it; `arrived` as in `shown`."""
        line = self.line(con_id)
        return None if line.books is None else line.books.at(self._books(line, arrived))

    # state that is updated late

    def expect_symbols(self, *, decided: bool) -> None:
        """Find when each new symbol is first used: at its first quote, or at its first decision."""
        shown, seconds = self._state.shown, self.seconds
        new = [(seq, 0, con_id) for seq, con_id in self.tape.first_quotes if con_id not in shown]
        for con_id in seconds.symbols if decided else ():
            slots = self._histories[con_id].slots
            slots = slots[slots >= self.slot]
            if con_id not in shown and len(slots):
                place = np.searchsorted(seconds.slot_ends, slots[0], "right")
                new.append((int(seconds.clocks[place, 0]), 1 + int(slots[0]), con_id))
        self._new_symbols = sorted(new)

    def register_symbols(self) -> None:
        """Give each symbol used so far a quote, known or not, in the order of first use."""
        while self._new_symbols and self._new_symbols[0][:2] <= (self.seq, self.slot):
            self._state.shown.setdefault(self._new_symbols.pop(0)[2], ShownQuote())

    def count(self) -> None:
        """Add the symbols and their bad seconds up to now."""
        state, seconds = self._state, self.seconds
        begin, self._counted = self._counted, self.closed
        if begin < self.closed:
            state.symbols |= {c: name for c, name in seconds.symbols.items() if seconds.where(c)[0] < self.closed}
        for at in np.flatnonzero(seconds.rows["book_good"][begin : self.closed] == 0).tolist():
            con_id = int(seconds.con_ids[begin + at])
            state.health.setdefault(con_id, SymbolHealth()).bad_book_seconds += 1

    def settle(self) -> None:
        """Update everything up to now."""
        self.count()
        self.register_symbols()
        for _, con_id in self.tape.first_quotes:
            if con_id in self._state.shown:
                self.shown(con_id)
        if self.tape.books is not None:
            for con_id, shown in self._state.shown.items():
                if shown.remembers:
                    self.shown(con_id)

    def write_history(self) -> None:
        """Put the newest buckets into the state."""
        self._state.history = {con_id: rows_of(self.history(con_id).rows[-PRE_COUNT:]) for con_id in self._newest}
