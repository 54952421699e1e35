"""IB's limits: lines by kind, historical pacing, messages per second. Each is a setting; 0 disables it.

Lines are counted over all clients of the gateway, as IB counts them per login. Pacing windows use real time or market
time, whichever passes faster (`clock.Elapsed`): a client that paces its requests by either clock is never refused.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from harvester.clock import real_monotonic_ns
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

PACING_TEXT = "Historical Market Data Service error message:Historical data request pacing violation"
BARS_PACING_TEXT = "Invalid Real-time Query:Historical data request pacing violation"


@dataclass(frozen=True)
class Limits:
    """Limit values; the defaults are IB's. Tick-by-tick spacing is off: IB states 15 s but rarely enforces it."""

    depth_lines: int = 3
    tick_by_tick_lines: int = 5
    market_data_lines: int = 100
    scanner_lines: int = 10
    historical_per_10_minutes: int = 60
    historical_identical_s: float = 15.0
    historical_per_contract_2_s: int = 6
    tick_by_tick_spacing_s: float = 0.0
    messages_per_s: int = 50
    violations_max: int = 3
    frame_bytes_max: int = 1 << 20


class Refusal(NamedTuple):
    """An error as the answer to a request."""

    code: int
    text: str


@dataclass
class ScriptedError:
    """An error that a fault script sends with later requests: `left` more times, None for ever."""

    refusal: Refusal
    left: int | None = None

    def take(self) -> Refusal | None:
        """The error of one more request, None when all have been sent."""
        if self.left == 0:
            return None
        if self.left is not None:
            self.left -= 1
        return self.refusal


class Window:
    """Sliding window of at most `count` requests per `period_s`; `take` counts one, returns whether it is allowed."""

    def __init__(self, count: int, period_s: float, now: Callable[[], int] = real_monotonic_ns) -> None:
        self._count, self._period_ns, self._now = count, int(period_s * SECOND_NS), now
        self._taken: deque[int] = deque()

    def take(self) -> bool:
        if not self._count or not self._period_ns:
            return True
        now = self._now()
        while self._taken and now - self._taken[0] >= self._period_ns:
            self._taken.popleft()
        if len(self._taken) >= self._count:
            return False
        self._taken.append(now)
        return True


class Pacing:
    """The pacing windows, created on first use."""

    def __init__(self, limits: Limits, now: Callable[[], int] = real_monotonic_ns) -> None:
        self._all = Window(limits.historical_per_10_minutes, 600, now)
        self._identical: defaultdict[Hashable, Window] = defaultdict(
            lambda: Window(1, limits.historical_identical_s, now)
        )
        self._contract: defaultdict[Hashable, Window] = defaultdict(
            lambda: Window(limits.historical_per_contract_2_s, 2, now)
        )
        self._tick_by_tick: defaultdict[int, Window] = defaultdict(
            lambda: Window(1, limits.tick_by_tick_spacing_s, now)
        )

    def historical(self, con_id: int, what: str, request: Hashable) -> Refusal | None:
        """Count a historical request; requests with an equal `request` key are identical."""
        windows = (self._identical[request], self._contract[con_id, what], self._all)
        allowed = all(window.take() for window in windows)
        return None if allowed else Refusal(162, PACING_TEXT)

    def realtime_bars(self) -> Refusal | None:
        """Count a request for 5-second bars: IB counts them as historical requests."""
        return None if self._all.take() else Refusal(420, BARS_PACING_TEXT)

    def tick_by_tick(self, con_id: int) -> Refusal | None:
        if self._tick_by_tick[con_id].take():
            return None
        text = "Failed to request tick-by-tick data:No more than one request per instrument every 15 seconds"
        return Refusal(10189, text)


LINE_REFUSALS = {
    "market_data": Refusal(101, "Max number of tickers has been reached"),
    "depth": Refusal(309, "Max number (3) of market depth requests has been reached"),
    "tick_by_tick": Refusal(10190, "Max number of tick-by-tick requests has been reached."),
    "scanner": Refusal(
        162,
        "Historical Market Data Service error message:API scanner subscription rejected:"
        "Max number of scanner subscriptions has been reached",
    ),
}


def line_refusal(limits: Limits, kind: str, in_use: int) -> Refusal | None:
    """The refusal of another line of `kind` with `in_use` lines taken; None if allowed or without limit."""
    if kind not in LINE_REFUSALS:
        return None
    allowed: int = getattr(limits, f"{kind}_lines")
    if not allowed or in_use < allowed:
        return None
    refusal = LINE_REFUSALS[kind]
    return refusal._replace(text=refusal.text.replace("(3)", f"({allowed})"))
