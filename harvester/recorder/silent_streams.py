"""Silent streams: those without rows while others have some, and those lost in an outage of the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.events.kinds import Stream
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harvester.recorder.subscriptions import StreamSubscription, SubscriptionRegistry

_SUSPECT_NS = 5 * SECOND_NS  # this much silence after 1102 or a farm's return: subscription dead
_SUSPECT_BARS_NS = 15 * SECOND_NS  # three missing 5-second bars
_GO_WITH = {  # while one of these has rows for an instrument, the stream should have some too
    Stream.L1: (Stream.ALL_LAST, Stream.BID_ASK),
    Stream.BID_ASK: (Stream.L1,),
    Stream.BARS_5S: (Stream.ALL_LAST,),
}
_NOT_WATCHED = (Stream.DEPTH, Stream.SMART_DEPTH)  # a book may be quiet for long; after 1102 it is renewed anyway


class SilenceWatch:
    """Compares when streams last had rows, as the registry notes it, to the second."""

    def __init__(self, registry: SubscriptionRegistry, silence_seconds: float) -> None:
        self._registry, self._limit_ns = registry, round(silence_seconds * SECOND_NS)
        self._suspicions: list[tuple[int, int, bool]] = []  # since (ns UTC), how long (ns), whether for bars

    def suspect(self, since_ns: int) -> None:
        """A connection of the gateway is back: a stream without rows from now on is dead."""
        self._suspicions = [(since_ns, _SUSPECT_NS, False), (since_ns, _SUSPECT_BARS_NS, True)]

    def clear(self) -> None:
        """Everything is subscribed again: no earlier stream is suspect."""
        self._suspicions.clear()

    def _newest(self) -> int:
        return max((s.last_ts for s in self._registry.live.values()), default=0)

    def fallen_silent(self) -> Iterator[tuple[StreamSubscription, int]]:
        """Streams silent for longer than the limit while others have rows, each once, with the silence in ns."""
        newest = self._newest()
        for sub in self._registry.live.values():
            quiet_ns = newest - max(sub.last_ts, sub.asked_ts)
            limit_ns = max(self._limit_ns, _SUSPECT_BARS_NS) if sub.stream is Stream.BARS_5S else self._limit_ns
            watched = sub.stream not in _NOT_WATCHED or not sub.rows  # a depth stream without any row is not just quiet
            if watched and quiet_ns > limit_ns and not sub.silent:
                sub.silent = True
                yield sub, quiet_ns

    def seems_gone(self, sub: StreamSubscription) -> bool:
        """Whether it is gone, not just quiet: no row so far, paused by the gateway, or related streams have rows."""
        if not sub.rows or sub.paused:
            return True
        since = self._newest() - self._limit_ns
        related = _GO_WITH.get(sub.stream, ())
        live = self._registry.live.values()
        return any(s.last_ts > since for s in live if s.target == sub.target and s.stream in related)

    def dead(self) -> list[StreamSubscription]:
        """Streams with rows before the last `suspect` and none since; due once others have rows past the limit."""
        newest = self._newest()
        due = [suspicion for suspicion in self._suspicions if newest - suspicion[0] > suspicion[1]]
        self._suspicions = [suspicion for suspicion in self._suspicions if suspicion not in due]
        return [sub for since_ns, _, bars in due for sub in self._quiet(since_ns, bars)]

    def _quiet(self, since_ns: int, bars: bool) -> list[StreamSubscription]:
        # Rows are noted up to a second late, so the last of them may have a stamp after `since_ns`.
        return [
            sub
            for sub in self._registry.live.values()
            if sub.rows
            and sub.stream not in _NOT_WATCHED
            and (sub.stream is Stream.BARS_5S) is bars
            and sub.last_ts <= since_ns + SECOND_NS
        ]
