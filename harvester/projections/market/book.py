"""The order books, row by row as IB keeps them, and the price ladder derived from them.

IB's depth is a table of row positions: an insert shifts the rows below it down, a delete shifts them up, the table is
cut at the subscribed rows (interactivebrokers.github.io/tws-api, "Market Depth"). Until a side has an insert, an
update past its end is kept at its position. Positions skipped before it are holes; rows after a hole are not shown
(docs/decisions/0004-updates-past-the-end.md). The compiled kernel applies the rows; this module reads the result.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from sortedcontainers import SortedDict

from harvester.events.kinds import Side, Stream
from harvester.projections.base import Projection
from harvester.projections.market.market import DEPTH_STREAMS, STREAMS
from harvester.projections.market.state_arrays import Role, cells_of

NO_BOOKS = hashlib.blake2b(digest_size=16).hexdigest()
"""The digest when no book is live (all subscriptions cancelled); it does not cover the day's books."""


class Row(NamedTuple):
    """One row position: price, size in shares, market maker (empty when the venue names none)."""

    price: float
    size: float
    market_maker: str


class Level(NamedTuple):
    """One price: total size, and the size of each market maker there, in row order."""

    price: float
    size: float
    makers: tuple[tuple[str, float], ...]


class BookState(NamedTuple):
    """State of one book; counts since its subscription.

    `good`: since the last reset, rows on both sides and none impossible; no hole. `placed`: updates past the end
    that were kept. `waiting`: rows after a hole, of both sides.
    """

    con_id: int
    stream: Stream
    rows: int
    good: bool
    bad: bool
    known_ask: bool
    known_bid: bool
    applied: int
    impossible: int
    placed: int
    resets: int
    waiting: int


class Book(Projection):
    """Views of the books of the live depth subscriptions."""

    name = "book"

    def _slot(self, con_id: int, stream: Stream | None) -> int | None:
        market, slots = self._market, self._market.state.slots
        if stream is None:
            k = market.instrument(con_id)
            used = -1 if k is None else int(market.state.current[k, Role.BOOK])
            return used if used >= 0 else None
        found = [
            k for k in market.live() if slots[k]["con_id"] == con_id and slots[k]["stream"] == STREAMS.index(stream)
        ]
        return found[-1] if found else None

    def rows(self, con_id: int, side: Side, stream: Stream | None = None) -> list[Row]:
        """The rows of one side down to the first hole, best first; empty when unknown.

        `stream` picks between Stream.DEPTH and Stream.SMART_DEPTH; None: the book that feeds the instrument's buckets.
        """
        slot = self._slot(con_id, stream)
        return [] if slot is None else self._rows_of(slot, side)

    def state(self, con_id: int, stream: Stream | None = None) -> BookState | None:
        """The state of a book, None when none is subscribed."""
        slot = self._slot(con_id, stream)
        return None if slot is None else self._state(slot)

    def _state(self, slot: int) -> BookState:
        s = self._market.state
        b = int(s.slots[slot]["book"])
        book, known = s.books[b], s.side["known"][2 * b : 2 * b + 2].astype(bool).tolist()
        bad, whole = (
            bool(book["bad"]),
            bool((s.side["filled"][2 * b : 2 * b + 2] == s.side["length"][2 * b : 2 * b + 2]).all()),
        )
        return BookState(
            con_id=int(s.slots[slot]["con_id"]),
            stream=STREAMS[int(s.slots[slot]["stream"])],
            rows=int(book["rows"]),
            good=all(known) and whole and not bad,
            bad=bad,
            known_ask=known[Side.ASK],
            known_bid=known[Side.BID],
            applied=int(book["applied"]),
            impossible=int(book["impossible"]),
            placed=int(book["placed"]),
            resets=int(book["resets"]),
            waiting=sum(int((s.cells[cells_of(s, b, side)]["price"] > 0).sum()) for side in Side)
            - int(s.side["filled"][2 * b : 2 * b + 2].sum()),
        )

    def ladder(self, con_id: int, side: Side, stream: Stream | None = None) -> list[Level]:
        """One side by price, best first, summed over market makers; rows of size 0 are left out."""
        levels: SortedDict = SortedDict((lambda price: -price) if side == Side.BID else None)
        for row in self.rows(con_id, side, stream):
            if row.size > 0:
                levels.setdefault(row.price, []).append(row)
        return [
            Level(price, sum(r.size for r in rows), tuple((r.market_maker, r.size) for r in rows))
            for price, rows in levels.items()
        ]

    def check(self) -> None:
        """Assert every invariant of every live book; a failure prints the book."""
        s = self._market.state
        for slot in self._market.live():
            b = int(s.slots[slot]["book"])
            if STREAMS[int(s.slots[slot]["stream"])] not in DEPTH_STREAMS:
                assert b == -1, f"slot {slot} is not a depth subscription but has book {b}"
                continue
            show = f"{self._state(slot)}\nask {s.cells[cells_of(s, b, 0)].tolist()}\n"
            show += f"bid {s.cells[cells_of(s, b, 1)].tolist()}\n"
            both = s.side[2 * b : 2 * b + 2]
            show += f"visible {both['filled'].tolist()} of {both['length'].tolist()}"
            assert int(s.books[b]["slot"]) == slot, f"book {b} belongs to slot {s.books[b]['slot']}: {show}"
            for side in Side:
                self._check_side(b, side, show)

    def _check_side(self, b: int, side: Side, show: str) -> None:
        s = self._market.state
        n, end = int(s.side[2 * b + side]["filled"]), int(s.side[2 * b + side]["length"])
        cells = cells_of(s, b, side)
        assert len(set(cells.tolist())) == len(cells), f"two positions share a cell, {cells}: {show}"
        price, size, maker = (s.cells[name][cells] for name in ("price", "size", "maker"))
        hole = np.isnan(price)
        assert 0 <= n <= end <= s.books[b]["rows"], f"{n} rows of {end}: {show}"
        assert (price[:n] > 0).all(), f"absent price in force: {show}"
        assert (price[~hole] > 0).all(), f"absent price waiting: {show}"
        assert hole[end:].all(), f"prices past the end: {show}"
        assert n == end or hole[n], f"a visible row is counted as waiting: {show}"
        assert (size[~hole] >= 0).all(), f"absent size: {show}"
        assert np.isnan(size[hole]).all(), f"size without a price: {show}"
        assert not maker[hole].any(), f"market maker without a price: {show}"
        assert end == 0 or s.side[2 * b + side]["known"], f"rows on an unknown side: {show}"
        assert end == n or s.books[b]["placed"], f"a hole without an update past the end: {show}"
        if ties := int(s.side[2 * b + side]["ties"]):
            way = 1.0 if side == Side.BID else -1.0
            shown = [(p * way, q) for p, q in zip(price[:n].tolist(), size[:n].tolist(), strict=True) if q > 0]
            lead = max(p for p, _ in shown)
            at_best = [q for p, q in shown if p == lead]
            half = s.side[2 * b + side]
            assert end == n, f"a side with a hole keeps a best price: {show}"
            assert (lead, sum(at_best), len(at_best)) == (half["lead"], half["shown"], ties), f"another best: {show}"

    def digest(self) -> str:
        """Hash of every live book: identity, flags, every visible or waiting row with its position and maker."""
        total = hashlib.blake2b(digest_size=16)
        s = self._market.state
        for slot in self._market.live():
            if int(s.slots[slot]["book"]) >= 0:
                state = self._state(slot)
                key = (state.con_id, int(s.slots[slot]["req_id"]), str(state.stream))
                sides = [(self._ends(slot, side), self._occupied(slot, side)) for side in Side]
                total.update(repr((key, tuple(state[2:]), sides)).encode())
        return total.hexdigest()

    def _rows_of(self, slot: int, side: Side) -> list[Row]:
        s, b = self._market.state, int(self._market.state.slots[slot]["book"])
        return [row for _, row in self._occupied(slot, side)[: int(s.side[2 * b + side]["filled"])]]

    def _occupied(self, slot: int, side: Side) -> list[tuple[int, Row]]:
        """Every row of a side with its position, holes left out; the visible rows come first."""
        s, b = self._market.state, int(self._market.state.slots[slot]["book"])
        told = s.cells[cells_of(s, b, side)[: int(s.side[2 * b + side]["length"])]].tolist()
        names = self._market.makers.names
        return [(i, Row(price, size, names[maker])) for i, (price, size, maker) in enumerate(told) if price > 0]

    def _ends(self, slot: int, side: Side) -> tuple[int, int]:
        """One past the last row, and whether inserts were applied: both decide what the next row may do."""
        s, b = self._market.state, int(self._market.state.slots[slot]["book"])
        return int(s.side[2 * b + side]["length"]), int(s.side[2 * b + side]["inserts"])
