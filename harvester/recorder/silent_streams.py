"""Silent streams: those without rows though related streams have some, and those lost in an outage of the gateway.

Rows are compared with rows of the same sort: BidAsk with L1 ticks of bid and ask, prints with L1 ticks of the last
trade, L1 with tick-by-tick rows, depth with quotes. A standing quote while trades print is not a dead stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.events.kinds import Stream
from harvester.projections.market.merge import HALT_FIELDS
from harvester.recorder.feed_silence import Pace
from harvester.recorder.subscriptions import ANSWERED_AT_ONCE, DEPTHS, STEADY_NS
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from harvester.recorder.subscriptions import StreamSubscription, SubscriptionRegistry

_SUSPECT_NS = 5 * SECOND_NS  # this much silence after 1102 or a farm's return: subscription dead
_SUSPECT_BARS_NS = 15 * SECOND_NS  # three missing 5-second bars; depth, after a farm was broken
_SUSPECT_ALL_NS = 60 * SECOND_NS  # after a farm was broken, though no other stream has rows either
_GRACE_NS = 2 * SECOND_NS  # rows of one change are noted up to this much apart
_WITNESSES = 3  # seconds with related rows that a silent stream must have missed …
_WITNESSES_DEPTH = 30
_TIMES = 4  # … and this many times what it has missed before and was alive
_NOTICE_EVERY_NS = 3600 * SECOND_NS
_QUOTE_FIELDS = frozenset({0, 1, 2, 3, 66, 67, 69, 70})
_PRINT_FIELDS = frozenset({4, 5, 48, 68, 71, 77})
_PRINTS = (Stream.ALL_LAST, Stream.LAST)
_TICK_BY_TICK = (*_PRINTS, Stream.BID_ASK, Stream.MID_POINT)


class _Record:
    """What is known of a stream over all its request ids."""

    def __init__(self, now: int) -> None:
        self.missed = 0  # seconds with related rows since its last row
        self.missed_before = 0  # the most of them before a row that came without a new request
        self.req_id = 0  # of its last row
        self.missing_since = 0  # ns UTC, the first of them
        self.noticed_ts = 0
        self.pace = Pace(now)


class SilenceWatch:
    """Compares when streams last had rows, as the registry notes it, to the second. Call `noted` every second."""

    def __init__(self, registry: SubscriptionRegistry, silence_seconds: float) -> None:
        self._registry, self._limit_ns = registry, round(silence_seconds * SECOND_NS)
        self._suspicions: list[tuple[int, int, tuple[Stream, ...], bool]] = []  # since, how long (ns), streams, alone
        self._records: dict[tuple[int, Stream], _Record] = {}
        self._halted: set[int] = set()  # con_ids

    def suspect(self, since_ns: int, *, broken: bool = False) -> None:
        """A connection of the gateway is back: a stream without rows from now on is dead.

        `broken`: its market data farm was broken before, so depth is suspect too, and silence without other rows.
        """
        late = (Stream.BARS_5S, *DEPTHS) if broken else (Stream.BARS_5S,)
        soon = (Stream.L1, *_TICK_BY_TICK)
        self._suspicions = [(since_ns, _SUSPECT_NS, soon, False), (since_ns, _SUSPECT_BARS_NS, late, False)]
        if broken:
            self._suspicions.append((since_ns, _SUSPECT_ALL_NS, (*soon, *late), True))

    def clear(self) -> None:
        """Everything is subscribed again: no earlier stream is suspect."""
        self._suspicions.clear()

    @property
    def all_halted(self) -> bool:
        """Whether every instrument is halted: then no row has to arrive."""
        return bool(self._halted) and all(sub.target.con_id in self._halted for sub in self._registry.live.values())

    def noted(self, counts: Mapping[int, int], ticks: Iterable[tuple[int, int, str]], now_ns: int) -> None:
        """Rows of the last second by request id, L1 fields among them (see `Inbox.take_ticks`), and the time."""
        live = self._registry.live
        quotes, prints = set[int](), set[int]()  # con_ids
        for req_id, field, value in ticks:
            if (sub := live.get(req_id)) is None:
                continue
            con_id = sub.target.con_id
            if field in _QUOTE_FIELDS:
                quotes.add(con_id)
            elif field in _PRINT_FIELDS:
                prints.add(con_id)
            elif field in HALT_FIELDS:
                (self._halted.add if value[:1] in {"1", "2"} else self._halted.discard)(con_id)
        rows = [live[req_id] for req_id in counts if req_id in live]
        tape, bid_ask, tick_by_tick = (
            {sub.target.con_id for sub in rows if sub.stream in streams}
            for streams in (_PRINTS, (Stream.BID_ASK,), _TICK_BY_TICK)
        )
        related = {
            Stream.L1: tick_by_tick, Stream.BID_ASK: quotes, Stream.MID_POINT: quotes, Stream.BARS_5S: prints | tape,
            **dict.fromkeys(_PRINTS, prints), **dict.fromkeys(DEPTHS, quotes | bid_ask),
        }  # fmt: skip
        for sub in live.values():
            record = self._record(sub, now_ns)
            if sub.req_id in counts:
                if sub.req_id == record.req_id:
                    record.missed_before = max(record.missed_before, record.missed)
                record.missed, record.req_id = 0, sub.req_id
                if sub.stream is Stream.L1:
                    record.pace.heard(now_ns // SECOND_NS)
            elif sub.target.con_id in related.get(sub.stream, ()) and now_ns - sub.last_ts > _GRACE_NS:
                record.missing_since = record.missing_since if record.missed else now_ns
                record.missed += 1

    def _record(self, sub: StreamSubscription, now_ns: int) -> _Record:
        if sub.key not in self._records:
            self._records[sub.key] = _Record(now_ns // SECOND_NS)
        return self._records[sub.key]

    def _newest(self) -> int:
        return max((s.last_ts for s in self._registry.live.values()), default=0)

    def fallen_silent(self, *, in_session: bool = False) -> Iterator[tuple[StreamSubscription, int]]:
        """Streams that should have had rows for longer than the limit, each once, with the silence in ns.

        `in_session`: L1 is judged by its own pace too.
        """
        newest = self._newest()
        for sub in self._registry.live.values():
            quiet_ns = newest - max(sub.last_ts, sub.asked_ts)
            late = quiet_ns > self._limit_ns
            if late and not sub.silent and self._seems_gone(sub, newest, in_session=in_session):
                sub.silent = True
                yield sub, quiet_ns

    def _seems_gone(self, sub: StreamSubscription, newest: int, *, in_session: bool) -> bool:
        """Whether it is gone, not just quiet: paused by the gateway, never answered, or related streams have rows."""
        if sub.paused or (not sub.rows and sub.stream in ANSWERED_AT_ONCE):
            return True
        record = self._record(sub, newest)
        least = _WITNESSES_DEPTH if sub.stream in DEPTHS else _WITNESSES
        if sub.doubt is not None and record.missed and sub.last_ts - sub.doubt.ts < STEADY_NS:
            return True  # an error shortly before explains it
        missing_ns = newest - record.missing_since
        enough = record.missed >= max(least, _TIMES * record.missed_before)
        if enough and missing_ns > (_SUSPECT_BARS_NS if sub.stream is Stream.BARS_5S else _SUSPECT_NS):
            return True
        if sub.stream is not Stream.L1 or not in_session or sub.target.con_id in self._halted:
            return False
        limit = record.pace.limit(self._limit_ns // SECOND_NS)
        return 0 < limit < record.pace.quiet(newest // SECOND_NS)

    def is_news(self, sub: StreamSubscription) -> bool:
        """Whether this silence is worth a notice: one an hour for each stream."""
        newest = self._newest()
        record = self._record(sub, newest)
        if record.noticed_ts and newest - record.noticed_ts < _NOTICE_EVERY_NS:
            return False
        record.noticed_ts = newest
        return True

    def dead(self, now_ns: int = 0) -> list[StreamSubscription]:
        """Streams with rows before the last `suspect` and none since; due once others have rows past the limit."""
        newest = self._newest()
        due = [s for s in self._suspicions if (max(newest, now_ns) if s[3] else newest) - s[0] > s[1]]
        self._suspicions = [suspicion for suspicion in self._suspicions if suspicion not in due]
        found = {sub.req_id: sub for since_ns, _, streams, _ in due for sub in self._quiet(since_ns, streams)}
        return list(found.values())

    def _quiet(self, since_ns: int, streams: tuple[Stream, ...]) -> list[StreamSubscription]:
        # Rows are noted up to a second late, so the last of them may have a stamp after `since_ns`.
        live = self._registry.live.values()
        return [sub for sub in live if sub.rows and sub.stream in streams and sub.last_ts <= since_ns + SECOND_NS]
