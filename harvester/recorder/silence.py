"""Which streams are silent while others flow, and which died when the gateway says that all is well again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.events.kinds import Stream
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harvester.recorder.subscriptions import Registry, Subscription

_SUSPECT_NS = 5 * SECOND_NS  # after 1102 or a farm's return, longer silence means that the subscription is dead
_SUSPECT_BARS_NS = 15 * SECOND_NS  # 5-second bars: three that did not come
_TELL_OF = {  # while one of these flows for an instrument, the stream should as well
    Stream.L1: (Stream.ALL_LAST, Stream.BID_ASK),
    Stream.BID_ASK: (Stream.L1,),
    Stream.BARS_5S: (Stream.ALL_LAST,),
}
_NOT_WATCHED = (Stream.DEPTH, Stream.SMART_DEPTH)  # a book may rest for long; after 1102 it is asked for anew anyway


class Silence:
    """Judges by when rows were noted, to the second; every stream counts among the others that flow."""

    def __init__(self, registry: Registry, silence_seconds: float) -> None:
        self._registry, self._limit_ns = registry, round(silence_seconds * 1e9)
        self._suspicions: list[tuple[int, int, bool]] = []  # since when, for how long, of bars

    def suspect(self, since_ns: int) -> None:
        """The gateway says that a connection is back: what flows from now on lives."""
        self._suspicions = [(since_ns, _SUSPECT_NS, False), (since_ns, _SUSPECT_BARS_NS, True)]

    def clear(self) -> None:
        """All is asked for anew: nothing old is suspect."""
        self._suspicions.clear()

    def _newest(self) -> int:
        return max((s.last_ts for s in self._registry.live.values()), default=0)

    def fallen_silent(self) -> Iterator[tuple[Subscription, int]]:
        """Streams silent for longer than the limit while others flow, each once, with the silence in ns."""
        newest = self._newest()
        for found in self._registry.live.values():
            quiet_ns = newest - max(found.last_ts, found.asked_ts)
            limit_ns = max(self._limit_ns, _SUSPECT_BARS_NS) if found.stream is Stream.BARS_5S else self._limit_ns
            watched = found.stream not in _NOT_WATCHED or not found.rows  # one that never answers is not at rest
            if watched and quiet_ns > limit_ns and not found.silent:
                found.silent = True
                yield found, quiet_ns

    def seems_gone(self, found: Subscription) -> bool:
        """Whether more than a quiet market speaks for it: it never answered, was told gone, or its like flow."""
        if not found.rows or found.told_gone:
            return True
        since = self._newest() - self._limit_ns
        like = _TELL_OF.get(found.stream, ())
        alike = (s for s in self._registry.live.values() if s.target == found.target and s.stream in like)
        return any(s.last_ts > since for s in alike)

    def dead(self) -> list[Subscription]:
        """Streams that flowed before the last `suspect` and have not since, once others have for long enough."""
        newest = self._newest()
        due = [suspicion for suspicion in self._suspicions if newest - suspicion[0] > suspicion[1]]
        self._suspicions = [suspicion for suspicion in self._suspicions if suspicion not in due]
        return [found for since_ns, _, bars in due for found in self._quiet(since_ns, bars)]

    def _quiet(self, since_ns: int, bars: bool) -> list[Subscription]:
        # Rows are noted up to a second late: what arrived just before may bear a later stamp.
        return [
            found
            for found in self._registry.live.values()
            if found.rows
            and found.stream not in _NOT_WATCHED
            and (found.stream is Stream.BARS_5S) is bars
            and found.last_ts <= since_ns + SECOND_NS
        ]
