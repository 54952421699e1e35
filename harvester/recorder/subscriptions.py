"""Subscriptions: the registry of those granted and refused, and the plan of what to subscribe in which order.

The gateway does not confirm a subscription: its first row grants it. An error with its request id refuses it. Priority
when lines are scarce: L1 of every symbol, AllLast of the focus symbols, depth of a few of them in rotation, then BidAsk
with the remaining tick-by-tick lines. 5-second bars wait for IB's pacing and delay nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from harvester.events import codes
from harvester.events.kinds import Stream
from harvester.gateway.data_requests import default_params
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from harvester.config import Settings
    from harvester.gateway.data_requests import RequestTarget

TICK_BY_TICK = (Stream.LAST, Stream.ALL_LAST, Stream.BID_ASK, Stream.MID_POINT)
DEPTHS = (Stream.DEPTH, Stream.SMART_DEPTH)
ANSWERED_AT_ONCE = (Stream.L1, Stream.BID_ASK, Stream.MID_POINT, *DEPTHS)
"""Streams that begin with the last state; the others begin with the next event."""

NOT_LIVE = {
    codes.DELAYED_DATA: "delayed data instead of live",
    codes.COMPETING_SESSION: "another session has the live data",
}
PACING_S = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0)  # pace time before a request refused for pacing is repeated
NOW_AND_THEN_S = (60.0, 300.0, 900.0, 1800.0, 3600.0)  # pace time before a missing permission or line is tried again
REVIVAL_S = (0.0, 60.0, 180.0, 420.0, 900.0, 1800.0)  # pace time before a silent stream is renewed
STEADY_NS = 60 * SECOND_NS  # a stream with rows for this long is steady: the next pause is short again


class Doubt(NamedTuple):
    """An error that did not end a stream but may have: if the stream stops soon after, it did. `ts` in ns UTC."""

    code: int
    text: str
    ts: int


@dataclass
class StreamSubscription:
    """One subscription. `first_ts`, `last_ts`: when rows were noted first and last, ns UTC to the second; 0 = never.

    `cancelled`: refused, and cancelled since: later rows under its id belong to no stream.
    `refused_before`: code of the refusal after which it was requested again, if rows alone disprove it; else 0.
    """

    req_id: int
    target: RequestTarget
    stream: Stream
    params: Mapping[str, Any]
    asked_ts: int
    asked_at: int = 0  # pace time
    first_ts: int = 0
    last_ts: int = 0
    rows: int = 0
    refused: int = 0
    lasting: bool = False  # the refusal passes with a permission or a login, not by itself
    refused_before: int = 0
    silent: bool = False
    paused: bool = False  # the gateway has announced a pause of the data
    cancelled: bool = False
    doubt: Doubt | None = None

    @property
    def key(self) -> tuple[int, Stream]:
        """Instrument and stream, the same for every request id."""
        return self.target.con_id, self.stream

    @property
    def was_steady(self) -> bool:
        """Whether it had rows for long enough to count as working."""
        return self.last_ts - self.first_ts >= STEADY_NS


@dataclass
class SubscriptionRegistry:
    """Live subscriptions of the connection by request id, and refused ones."""

    live: dict[int, StreamSubscription] = field(default_factory=dict)
    refusals: list[StreamSubscription] = field(default_factory=list)

    def add(self, subscription: StreamSubscription) -> None:
        """Add a subscription that is being requested; forget an earlier refusal of the same."""
        asked = (subscription.target, subscription.stream)
        if subscription.stream in ANSWERED_AT_ONCE:
            before = [sub for sub in self.refusals if (sub.target, sub.stream) == asked and sub.lasting]
            subscription.refused_before = before[-1].refused if before else 0
        self.refusals = [sub for sub in self.refusals if (sub.target, sub.stream) != asked]
        self.live[subscription.req_id] = subscription

    def refuse(self, req_id: int, code: int) -> StreamSubscription | None:
        """Move a live subscription to the refused ones; None when it is not live."""
        sub = self.live.pop(req_id, None)
        if sub is not None:
            sub.refused = code
            self.refusals.append(sub)
        return sub

    def reinstate(self, counts: Mapping[int, int]) -> list[StreamSubscription]:
        """Make refused subscriptions that have rows live again, and return them."""
        back = [sub for sub in self.refusals if sub.req_id in counts and not sub.cancelled]
        for sub in back:
            self.refusals.remove(sub)
            sub.refused = 0
            self.live[sub.req_id] = sub
        return back

    def forget_all(self) -> None:
        """The gateway has forgotten every subscription (socket lost, or 1101)."""
        self.live.clear()
        self.refusals.clear()

    def of(self, *streams: Stream) -> list[StreamSubscription]:
        """Live subscriptions of some streams."""
        return [s for s in self.live.values() if s.stream in streams]

    def received(self, counts: Mapping[int, int], last_ts: int) -> list[StreamSubscription]:
        """Note messages received until `last_ts` (ns UTC), by request id; return the subscriptions this grants."""
        granted = []
        for req_id, rows in counts.items():
            sub = self.live.get(req_id)
            if sub is None:
                continue
            if not sub.rows:
                sub.first_ts = last_ts
                granted.append(sub)
            sub.rows += rows
            sub.last_ts, sub.silent, sub.paused = last_ts, False, False
        return granted


@dataclass(frozen=True)
class SubscriptionPlan:
    """What to subscribe, in order: `first` without spacing; then `bars` and `bid_ask`, each within its own limit."""

    settings: Settings
    targets: Sequence[RequestTarget]
    turn: int = 0  # of the depth lines
    generic_ticks: str | None = None  # instead of those of the settings

    @property
    def focus(self) -> Sequence[RequestTarget]:
        """Symbols that get tick-by-tick data and histories."""
        return self.targets[: self.settings.focus_size]

    def first(self) -> Iterator[tuple[Stream, RequestTarget]]:
        """L1, AllLast and depth, in order of priority."""
        for target in self.targets:
            yield Stream.L1, target
        for target in self.focus[: self.settings.tick_by_tick_lines]:
            yield Stream.ALL_LAST, target
        for target in self.depth():
            yield Stream.DEPTH, target

    def bars(self) -> Sequence[RequestTarget]:
        """Symbols that get 5-second bars, which IB paces like histories."""
        return self.targets if self.settings.five_second_bars else ()

    def depth(self) -> Sequence[RequestTarget]:
        """Symbols that have the depth lines in this turn: as many of the pool as there are lines."""
        pool, lines = self.depth_pool, self.settings.depth_lines
        if len(pool) <= lines:
            return pool
        return [pool[(self.turn * lines + n) % len(pool)] for n in range(lines)]

    @property
    def depth_pool(self) -> Sequence[RequestTarget]:
        """Symbols that share the depth lines: the focus, or as many as there are lines."""
        return self.targets[
            : max(self.settings.focus_size, self.settings.depth_lines) if self.settings.depth_lines else 0
        ]

    def bid_ask(self) -> Sequence[RequestTarget]:
        """Symbols that get BidAsk, from the tick-by-tick lines that AllLast does not use."""
        left = self.settings.tick_by_tick_lines - min(len(self.focus), self.settings.tick_by_tick_lines)
        return self.focus[:left]

    def params(self, stream: Stream, target: RequestTarget) -> dict[str, Any]:
        """Parameters of a subscription, by the settings."""
        generic = self.settings.generic_ticks if self.generic_ticks is None else self.generic_ticks
        return default_params(stream, target, generic=generic, rows=self.settings.depth_rows)


WANTED = (Stream.L1, Stream.ALL_LAST, Stream.BID_ASK, Stream.DEPTH, Stream.BARS_5S)


def coverage(registry: SubscriptionRegistry, symbols: Sequence[str]) -> dict[str, dict[str, str]]:
    """Per symbol and stream: `granted`, `asked`, `silent`, `refused CODE`, or `-` (not subscribed).

    SMART depth counts as depth.
    """
    table: dict[str, dict[str, str]] = {symbol: dict.fromkeys(WANTED, "-") for symbol in symbols}
    for sub in [*registry.refusals, *registry.live.values()]:
        state = "silent" if sub.silent else "granted" if sub.rows else "asked"
        refused = sub.refused or (sub.refused_before if not sub.rows else 0)
        state = f"refused {refused}" if refused else state
        stream = Stream.DEPTH if sub.stream is Stream.SMART_DEPTH else sub.stream
        table.setdefault(sub.target.symbol, {})[stream] = state
    return table
