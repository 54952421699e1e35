"""Follows a position through a stretch: the next observation that can move it, and the seconds of its series."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harvester.projections.trading.episodes import BUCKET_FIELDS, GATES, SERIES_FIELDS
from harvester.projections.trading.fast.bucket_columns import columns_of
from harvester.units import NEVER, SECOND_NS

if TYPE_CHECKING:
    from harvester.projections.trading.deciding import StrategyDesk
    from harvester.projections.trading.episodes import Tracked
    from harvester.projections.trading.fast.bucket_columns import Array, SymbolBuckets
    from harvester.projections.trading.fast.observations import Observations
    from harvester.projections.trading.simulated_exchange import ShownQuote


class PositionWatch:
    """A position and the next observation that can move it.

    Attributes:
        next_seq: seq of that observation, `NEVER` once it is flat. Too early a seq costs time but changes no result.
        looked: quotes of the symbol that are in its worst and best open profit.
        folded: rows of the symbol's history that are in its series.
        before: rows to be written to `Tracked.pre`.
    """

    def __init__(self, tracked: Tracked, looked: int, folded: int, next_seq: int = 0) -> None:
        self.tracked, self.looked, self.folded, self.next_seq = tracked, looked, folded, next_seq
        self.before: Array | None = None

    def look(self, tape: Observations, upto: int) -> None:
        """Update the worst and best open profit with the quotes passed over."""
        position = self.tracked.position
        if self.looked < upto and position.open:
            for price, ts in tape.line(position.con_id).extremes(self.looked, upto, long=position.plan.long):
                position.excursion.look(position.profit(price), ts)
        self.looked = max(self.looked, upto)

    def plan(self, tape: Observations, shown: ShownQuote, quotes: int, trades: int) -> None:
        """Find the next observation after the first `quotes` quotes and `trades` prints."""
        position, line = self.tracked.position, tape.line(self.tracked.position.con_id)
        if position.idle:
            self.next_seq = NEVER
        elif position.at_rest:
            self.next_seq = line.reaches(quotes, trades, shown, position.bracket)
        else:
            self.next_seq = line.next_seq(quotes, trades)

    def extend_series(self, history: SymbolBuckets, closed: int, desk: StrategyDesk) -> None:
        """Add the closed seconds of the symbol to the series, with the gates that refused the strategy in each.

        The series runs from the second of the first fill to that of the exit. The gates of a clock are in the newest
        row of the series that the clock added.
        """
        tracked, begin, upto = self.tracked, self.folded, history.upto(closed)
        self.folded = max(begin, upto)
        fills = tracked.position.fills
        if begin >= upto or not fills:
            return
        ts = history.rows["ts"][begin:upto]
        first = int(np.searchsorted(ts, fills[0].ts // SECOND_NS * SECOND_NS))
        last = int(np.searchsorted(ts, tracked.exit_ts, "right")) if tracked.trade_id else len(ts)
        slots = history.slots[begin - history.before : upto - history.before]
        if first < last:
            slots = slots[first:last]
            rows = history.rows[begin + first : begin + last]
            tracked.bad_book += int((rows["book_good"] == 0).sum())
            columns = columns_of(rows, SERIES_FIELDS)
            for name, values in zip((*SERIES_FIELDS, GATES), (*columns, [None] * len(slots)), strict=True):
                tracked.series.setdefault(name, []).extend(values)
        elif not tracked.series or tracked.series[GATES][-1] is not None:
            return
        else:
            slots = slots[:1]
        gates = desk.gates(tracked.position.strategy, slots)
        if gates is None:
            return
        newest = np.append(slots[1:] != slots[:-1], True).tolist()
        codes = [refused if is_newest else None for refused, is_newest in zip(gates, newest, strict=True)]
        tracked.series[GATES][-len(codes) :] = codes

    def write_pre(self) -> None:
        """Write the rows before the decision to `Tracked.pre`."""
        if self.before is not None:
            columns, self.before = columns_of(self.before), None
            self.tracked.pre = dict(zip(BUCKET_FIELDS, columns, strict=True))


def next_seq(watch: PositionWatch) -> int:
    """Key to order watches by."""
    return watch.next_seq
