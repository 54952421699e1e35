"""IB's limits on requests: messages per second, histories per ten minutes, tick-by-tick requests per instrument."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.events.kinds import Stream
from harvester.recorder.pacing import Spacing, TokenBucket
from harvester.recorder.subscriptions import TICK_BY_TICK

if TYPE_CHECKING:
    from harvester.recorder.pacing import Timing

MESSAGES_PER_SECOND, MESSAGES_AT_ONCE = 40.0, 8  # IB allows 50 in any second
HISTORY_PER_SECOND, HISTORY_AT_ONCE = 0.05, 30  # IB allows 60 in any ten minutes, real-time bars included
TICK_BY_TICK_SPACING_S = 15.0  # IB allows one request per instrument in 15 s


class RequestLimits:
    """Each coroutine waits, in pace time, until one more request of its sort is allowed."""

    def __init__(self, pace: Timing) -> None:
        self._messages = TokenBucket(pace, MESSAGES_PER_SECOND, MESSAGES_AT_ONCE, pacing=True)
        self._history = TokenBucket(pace, HISTORY_PER_SECOND, HISTORY_AT_ONCE)
        self._tick_by_tick = Spacing(pace, TICK_BY_TICK_SPACING_S)

    async def message(self) -> None:
        """Wait for any message."""
        await self._messages.take()

    async def history(self) -> None:
        """Wait for a history request."""
        await self._history_and_message()

    async def _history_and_message(self) -> None:
        await self._history.take()
        await self._messages.take()
        while self._history.held:  # IB has refused another one meanwhile
            await self._history.take()

    async def subscription(self, stream: Stream, con_id: int) -> None:
        """Wait for a subscription."""
        if stream is Stream.BARS_5S:
            await self._history_and_message()
            return
        if stream in TICK_BY_TICK:
            await self._tick_by_tick.take(con_id)
        await self._messages.take()

    def spaced(self, stream: Stream, con_id: int) -> bool:
        """Whether a tick-by-tick subscription would have to wait for the spacing of its instrument."""
        return stream in TICK_BY_TICK and self._tick_by_tick.left(con_id) > 0

    def hold_histories(self, seconds: float) -> None:
        """Send no history and no request for 5-second bars for so long: IB has refused one for its pace."""
        self._history.hold(seconds)

    def slow_down(self) -> None:
        """Halve the message rate: the gateway drops messages."""
        self._messages.slow_down()
