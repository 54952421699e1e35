"""Which observation can move a position next, and what it saw of those passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harvester.projections.episodes import Tracked
    from harvester.projections.exchange import Shown
    from harvester.projections.tape import Tape


class Watch:
    """An active position and the next observation that can move it; all it was shown before `looked` is accounted for.

    Attributes:
        next_seq: seq of that observation; one too early costs time, never truth.
        looked: quotes of the tape's line its worst and best open profit know of.
    """

    def __init__(self, tracked: Tracked, looked: int, next_seq: int = 0) -> None:
        self.tracked, self.looked, self.next_seq = tracked, looked, next_seq

    def look(self, tape: Tape, upto: int) -> None:
        """Take in the quotes passed over."""
        position = self.tracked.position
        if self.looked < upto and position.open:
            for price, ts in tape.line(position.con_id).extremes(self.looked, upto, long=position.plan.long):
                position.excursion.look(position.profit(price), ts)
        self.looked = max(self.looked, upto)

    def plan(self, tape: Tape, shown: Shown, quotes: int, trades: int) -> None:
        """Find the next observation behind so many quotes and prints."""
        position, line = self.tracked.position, tape.line(self.tracked.position.con_id)
        if position.at_rest:
            bracket = (position.plan.long, position.plan.stop, position.plan.target)
            self.next_seq = line.reaches(quotes, trades, shown, bracket)
        else:
            self.next_seq = line.next_seq(quotes, trades)


def next_seq(watch: Watch) -> int:
    """Key to order watches by."""
    return watch.next_seq
