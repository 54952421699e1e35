"""The SMART books of a stretch by symbol: what is shown behind the quote (docs/trading.md, rule 19)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from harvester.projections.ladders import Ladders

Array = npt.NDArray[Any]


class BookLine:
    """The books of one symbol in seq order.

    Attributes:
        seq, ts: of each, ns UTC.
        carried: how many of them are older than the stretch.
    """

    def __init__(self, ladders: Ladders, carried: int) -> None:
        rows = ladders.rows
        self.seq, self.ts, self.carried = rows["seq"].view(np.int64), rows["ts"], carried
        self._bids, self._asks = rows["bids"], rows["asks"]
        self._begins = np.cumsum(self._bids + self._asks) - self._bids - self._asks
        self._price, self._size = ladders.levels["price"], ladders.levels["size"]

    def at(self, count: int) -> ShownBook:
        """The newest of the first `count` books."""
        return ShownBook(self, count - 1)

    def side(self, book: int, *, bids: bool) -> list[tuple[float, float]]:
        """Prices and sizes of the rows of one side."""
        begin = int(self._begins[book]) + (0 if bids else int(self._bids[book]))
        end = begin + int((self._bids if bids else self._asks)[book])
        return list(zip(self._price[begin:end].tolist(), self._size[begin:end].tolist(), strict=True))


class ShownBook(NamedTuple):
    """One book of a line; -1 = none."""

    line: BookLine
    book: int

    def behind(self, price: float, *, buy: bool) -> dict[float, float]:
        """The size shown at each price worse than `price` that an order sees behind it, best first."""
        if self.book < 0:
            return {}
        sizes: dict[float, float] = {}
        for level, size in self.line.side(self.book, bids=not buy):
            if level > price if buy else level < price:
                sizes[level] = sizes.get(level, 0.0) + size
        return dict(sorted(sizes.items(), reverse=not buy))


class BookTape:
    """The books of all symbols in a stretch; `carried`: how many of them are older than it."""

    def __init__(self, ladders: Ladders, carried: int) -> None:
        self._ladders, self._carried = ladders, carried
        self._lines: dict[int, BookLine] = {}

    def line(self, con_id: int) -> BookLine:
        """The books of one symbol."""
        found = self._lines.get(con_id)
        if found is None:
            which = np.flatnonzero(self._ladders.rows["con_id"] == con_id)
            carried = int((which < self._carried).sum())
            found = self._lines[con_id] = BookLine(self._ladders.picked(which), carried)
        return found
