"""The quote in force per instrument: tick-by-tick BidAsk, else L1, else the best of SMART depth.

One venue's depth is never used for the best price. Null, 0, -1 and unset prices and sizes are absent. A source is used
once it has sent both sides since it was subscribed or lost, even if only to say that there is no bid.
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

from harvester.events.unset import is_price
from harvester.projections.base import Projection
from harvester.projections.market.state_arrays import INSTRUMENT, SOURCE_NAMES


class Quote(NamedTuple):
    """Best bid and ask with sizes in shares; None = absent. `source` None = no quote in force."""

    symbol: str
    con_id: int
    source: str | None
    bid: float | None
    ask: float | None
    bid_size: float | None
    ask_size: float | None
    last: float | None
    halt: int = 0  # 1 general, 2 volatility


HALTS = ("", "general halt", "volatility halt")
"""Words for `Quote.halt`."""
_FOLDED = ("con_id", "source", "source_changes", "bid", "ask", "bid_size", "ask_size", "last_price", "tick_rule")


class Quotes(Projection):
    """Views of the quotes in force."""

    name = "quotes"

    def quote(self, con_id: int) -> Quote | None:
        """The quote in force of an instrument, None when it was never subscribed."""
        k = self._market.instrument(con_id)
        return None if k is None else self._at(k)

    def all(self) -> list[Quote]:
        """One per instrument, ordered by con_id."""
        return [self._at(k) for k in self._market.state.order[: len(self._market.symbols)].tolist()]

    def _at(self, k: int) -> Quote:
        q = self._market.state.inst[k]
        numbers = [float(q[name]) for name in ("bid", "ask", "bid_size", "ask_size", "last_price")]
        bid, ask, bid_size, ask_size, last = (None if math.isnan(x) else x for x in numbers)
        source, halt = SOURCE_NAMES[int(q["source"])], int(q["halt"])
        return Quote(self._market.symbols[k], int(q["con_id"]), source, bid, ask, bid_size, ask_size, last, halt)

    def check(self) -> None:
        """Assert that no absent marker is in force and that every quote has a source."""
        for quote in self.all():
            assert quote.source is not None or quote[3:7] == (None,) * 4, f"numbers without a source: {quote}"
            assert all(x is None or is_price(x) for x in quote[3:7]), f"absent marker in force: {quote}"

    def digest(self) -> str:
        """Hash of the quotes in force and of the number of source changes."""
        total = hashlib.blake2b(digest_size=16)
        names = INSTRUMENT.names or ()
        for k in self._market.state.order[: len(self._market.symbols)].tolist():
            row = dict(zip(names, self._market.state.inst[k].tolist(), strict=True))
            total.update(repr([self._market.symbols[k], *(row[name] for name in _FOLDED)]).encode())
        return total.hexdigest()
