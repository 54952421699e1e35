"""What is subscribed, what was granted, what was refused, and in which order things are asked for.

The gateway never says yes: a stream is granted with its first row. It says no with an error that bears the request's
id. Priority, when lines are scarce: L1 of every symbol, AllLast of the focus symbols, depth of a few of them by turns,
then BidAsk with the tick-by-tick lines that are left; 5-second bars wait for IB's pacing and keep nothing else waiting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harvester.events import codes
from harvester.events.kinds import Stream
from harvester.gateway.requests import default_params

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from harvester.config import Settings
    from harvester.gateway.requests import Target

TICK_BY_TICK = (Stream.LAST, Stream.ALL_LAST, Stream.BID_ASK, Stream.MID_POINT)
DEPTHS = (Stream.DEPTH, Stream.SMART_DEPTH)

WARNINGS = frozenset({
    165, codes.DEPTH_HALTED, codes.DEPTH_RESET, 399, 10090, 10091, codes.DELAYED_DATA, codes.COMPETING_SESSION,
})  # fmt: skip
"""Errors that bear a subscription's id and do not end it (10197: a competing session pauses the data)."""
NOT_LIVE = {
    codes.DELAYED_DATA: "delayed data instead of live",
    codes.COMPETING_SESSION: "a competing session has the live data",
}
DATA_TYPES = {1: "live", 2: "frozen", 3: "delayed", 4: "delayed and frozen"}  # message 58
_SYSTEM_MESSAGES = range(2100, 2200)
PACING_S = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0)  # pace time before a request refused for its pace is repeated
REVIVAL_S = (0.0, 60.0, 180.0, 420.0, 900.0, 1800.0)  # and before one for a stream that stays silent
STEADY_NS = 60_000_000_000  # what flowed for so long was well: the next pause is a short one again


def is_refusal(code: int) -> bool:
    """Whether an error about a subscription ends it."""
    return code not in WARNINGS and code not in _SYSTEM_MESSAGES


def is_for_now(code: int, text: str) -> bool:
    """Whether a refusal is one of pace or asks for a new subscription: the same request may be granted later.

    IB puts a pacing violation under several codes (162, 420, 10190 …) that mean other things too; the text tells.
    """
    return code in {codes.RESUBSCRIBE, codes.TOO_FAST} or "pacing" in text.lower()


@dataclass
class Subscription:
    """One subscription. `first_ts`, `last_ts`: when its rows were noted (ns UTC, to the second), 0 for never."""

    req_id: int
    target: Target
    stream: Stream
    params: Mapping[str, Any]
    asked_ts: int
    asked_at: int = 0  # pace time
    first_ts: int = 0
    last_ts: int = 0
    rows: int = 0
    refused: int = 0
    silent: bool = False
    told_gone: bool = False  # the gateway said that it gives nothing for now

    @property
    def granted(self) -> bool:
        return self.rows > 0 and not self.refused

    @property
    def key(self) -> tuple[int, Stream]:
        """What is asked for, under whatever id."""
        return self.target.con_id, self.stream

    @property
    def was_steady(self) -> bool:
        """Whether it flowed long enough to be called well."""
        return self.last_ts - self.first_ts >= STEADY_NS


@dataclass
class Registry:
    """All live subscriptions of the connection, by request id, and what was refused since it began."""

    live: dict[int, Subscription] = field(default_factory=dict)
    refusals: list[Subscription] = field(default_factory=list)
    _next_id: int = 1

    def new_id(self) -> int:
        """A request id; none is ever given twice in a process."""
        self._next_id += 1
        return self._next_id - 1

    def add(self, subscription: Subscription) -> None:
        """Note what is being asked for; an earlier refusal of the same is history."""
        asked = (subscription.target, subscription.stream)
        self.refusals = [found for found in self.refusals if (found.target, found.stream) != asked]
        self.live[subscription.req_id] = subscription

    def refuse(self, req_id: int, code: int) -> Subscription | None:
        """Take a subscription off the list; None when it is not on it."""
        found = self.live.pop(req_id, None)
        if found is not None:
            found.refused = code
            self.refusals.append(found)
        return found

    def take_back(self, counts: Mapping[int, int]) -> list[Subscription]:
        """Subscriptions that were refused and flow all the same; they are live again."""
        back = [found for found in self.refusals if found.req_id in counts]
        for found in back:
            self.refusals.remove(found)
            found.refused = 0
            self.live[found.req_id] = found
        return back

    def forget_all(self) -> None:
        """The gateway has forgotten every subscription (socket lost, or 1101)."""
        self.live.clear()
        self.refusals.clear()

    def of(self, *streams: Stream) -> list[Subscription]:
        return [s for s in self.live.values() if s.stream in streams]

    def saw(self, counts: Mapping[int, int], last_ts: int) -> list[Subscription]:
        """Note messages heard until `last_ts` (ns UTC), by request id; gives the subscriptions this grants."""
        granted = []
        for req_id, rows in counts.items():
            found = self.live.get(req_id)
            if found is None:
                continue
            if not found.rows:
                found.first_ts = last_ts
                granted.append(found)
            found.rows += rows
            found.last_ts, found.silent, found.told_gone = last_ts, False, False
        return granted


@dataclass(frozen=True)
class Plan:
    """The order of asking: `first` needs no spacing; `bars` and `bid_ask` wait for theirs, beside each other."""

    settings: Settings
    targets: Sequence[Target]
    turn: int = 0  # of the depth lines

    @property
    def focus(self) -> Sequence[Target]:
        return self.targets[: self.settings.focus_size]

    def first(self) -> Iterator[tuple[Stream, Target]]:
        """Streams in order of priority, all but BidAsk."""
        for target in self.targets:
            yield Stream.L1, target
        for target in self.focus[: self.settings.tick_by_tick_lines]:
            yield Stream.ALL_LAST, target
        for target in self.depth(self.turn):
            yield Stream.DEPTH, target

    def bars(self) -> Sequence[Target]:
        """Symbols that get 5-second bars, which IB paces like histories."""
        return self.targets if self.settings.five_second_bars else ()

    def depth(self, turn: int) -> Sequence[Target]:
        """Who has the depth lines in a turn: focus symbols by turns, as many at a time as there are lines."""
        pool, lines = self.depth_pool, self.settings.depth_lines
        if len(pool) <= lines:
            return pool
        return [pool[(turn * lines + n) % len(pool)] for n in range(lines)]

    @property
    def depth_pool(self) -> Sequence[Target]:
        """Symbols that take turns: the focus, or as many as there are lines."""
        return self.targets[
            : max(self.settings.focus_size, self.settings.depth_lines) if self.settings.depth_lines else 0
        ]

    def bid_ask(self) -> Sequence[Target]:
        """Symbols that get BidAsk from the tick-by-tick lines AllLast leaves over."""
        left = self.settings.tick_by_tick_lines - min(len(self.focus), self.settings.tick_by_tick_lines)
        return self.focus[:left]

    def params(self, stream: Stream, target: Target) -> dict[str, Any]:
        return default_params(stream, target, generic=self.settings.generic_ticks, rows=self.settings.depth_rows)


WANTED = (Stream.L1, Stream.ALL_LAST, Stream.BID_ASK, Stream.DEPTH, Stream.BARS_5S)


def coverage(registry: Registry, symbols: Sequence[str]) -> dict[str, dict[str, str]]:
    """Per symbol and stream: `granted`, `asked`, `silent`, `refused CODE`, or `-` (not asked for now).

    Either depth is depth.
    """
    table: dict[str, dict[str, str]] = {symbol: dict.fromkeys(WANTED, "-") for symbol in symbols}
    for found in [*registry.refusals, *registry.live.values()]:
        silent = "silent" if found.silent else "granted" if found.rows else "asked"
        word = f"refused {found.refused}" if found.refused else silent
        stream = Stream.DEPTH if found.stream is Stream.SMART_DEPTH else found.stream
        table.setdefault(found.target.symbol, {})[stream] = word
    return table
