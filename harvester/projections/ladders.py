"""SMART books as the market hands them to the trading side, where a run fills behind the quote."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

LADDERS = np.dtype([("seq", "<u8"), ("ts", "<i8"), ("con_id", "<i8"), ("bids", "<i8"), ("asks", "<i8")])
LEVELS = np.dtype([("price", "<f8"), ("size", "<f8")])


class Ladders(NamedTuple):
    """SMART books of all symbols, one row after each change.

    Attributes:
        rows: `LADDERS`, in seq order, ts in ns UTC; `bids` and `asks`: how many rows each side shows, none of a book
            that is not good.
        levels: `LEVELS`, price (USD) and size (shares) of these rows, bids before asks.
    """

    rows: Any
    levels: Any

    def joined(self, later: Ladders) -> Ladders:
        """These, then later ones."""
        return Ladders(*(np.concatenate(pair) for pair in zip(self, later, strict=True)))

    def picked(self, which: Any) -> Ladders:
        """Those of these places, int64."""
        ends = np.cumsum(self.rows["bids"] + self.rows["asks"])
        counts = np.diff(ends, prepend=0)[which]
        shift = np.repeat(ends[which] - np.cumsum(counts), counts)
        return Ladders(self.rows[which], self.levels[np.arange(len(shift)) + shift])

    def cut(self, seq: int) -> tuple[Ladders, Ladders, int]:
        """Those before this seq; the others, behind the newest of each symbol before it; how many these are."""
        upto = int(self.rows["seq"].searchsorted(seq))
        _, back = np.unique(self.rows["con_id"][:upto][::-1], return_index=True)
        newest = np.sort(upto - 1 - back)
        rest = np.concatenate([newest, np.arange(upto, len(self.rows))])
        return self.picked(np.arange(upto)), self.picked(rest), len(newest)
