"""Comparison of the gateway's clock with this machine's, which stamps the events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from harvester.clock import MachineClock, clocks_apart
from harvester.events.kinds import Own
from harvester.events.unset import UNSET_INT
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from harvester.recorder.link import GatewayLink

logger = structlog.get_logger()

APART_NS = 120 * SECOND_NS  # a larger difference is reported
APART_ROWS = 10  # tick-by-tick rows, in commits without a single closer one: more than late prints
AHEAD_NS_MAX = 2**63 - 1  # the largest value of a notice; eleven digits of seconds are more
DAY_NS = 86_400 * SECOND_NS  # a larger difference is not a wrong clock but another day's market
SIMULATED = "for a simulated gateway use --clock PATH/gateway.json"


class GatewayTime:
    """`ahead_ns` is by how much the gateway's clock is ahead of ours, as reported: 0 while the two agree.

    `unanswered`: the gateway was asked for its time and has not answered. `first_answer` is set with its first answer,
    and `measured_ns` is then by how much its clock is ahead of ours.
    Only this machine's clock can differ from the gateway's; every other clock is the gateway's own.
    """

    def __init__(self, line: GatewayLink) -> None:
        self._line = line
        self.ahead_ns = 0
        self._rows_apart = 0
        self.unanswered = False
        self.first_answer, self.measured_ns = asyncio.Event(), 0

    async def ask(self) -> None:
        """Ask the gateway for its time."""
        if isinstance(self._line.pace.clock, MachineClock):
            await self._line.limits.message()
            self.unanswered = True
            self._line.requester.current_time()

    async def lost(self) -> None:
        """IB's servers are back: repeat the question if it has no answer."""
        if self.unanswered and self._line.connected:
            await self.ask()

    def answered(self, seconds: int) -> None:
        """Compare with the gateway's time, Unix seconds."""
        self.unanswered = False
        if 0 < seconds != UNSET_INT:
            ahead_ns = seconds * SECOND_NS - self._line.inbox.last_ts
            if not self.first_answer.is_set():
                self.measured_ns = ahead_ns
                self.first_answer.set()
            self._compare(ahead_ns, "current time")

    def compare_event_times(self, rows: int, ahead_ns: int) -> None:
        """Compare with committed rows that hold a time of the gateway; the nearest is `ahead_ns` after its stamp."""
        self._rows_apart = self._rows_apart + rows if abs(ahead_ns) > APART_NS else 0
        if self._rows_apart >= APART_ROWS:
            self._compare(ahead_ns, "times of trades and quotes")

    def restate(self) -> None:
        """Repeat the difference in a new run's log."""
        if self.ahead_ns:
            text = f"{clocks_apart(self.ahead_ns)}, repeated from the date before"
            self._line.inbox.notice(Own.CLOCKS_DIFFER, text, value=self.ahead_ns)

    def _compare(self, ahead_ns: int, by: str) -> None:
        """Report the first difference."""
        if abs(ahead_ns) <= APART_NS or self.ahead_ns or not isinstance(self._line.pace.clock, MachineClock):
            return
        self.ahead_ns = ahead_ns = min(ahead_ns, AHEAD_NS_MAX)
        text = clocks_apart(ahead_ns)
        self._line.inbox.notice(Own.CLOCKS_DIFFER, f"{text}, by its {by}", value=ahead_ns)
        more = {"hint": SIMULATED} if abs(ahead_ns) > DAY_NS else {}
        logger.warning("clocks differ: events have this machine's time", what=text, by=by, **more)
