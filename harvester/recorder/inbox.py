"""The queue of everything to be logged: messages as they arrive, and Harvester's own rows.

The order of appending is the order of the log. Nothing is dropped: when the log falls behind, in items or in bytes, the
inbox is `crowded`, the recorder stops reading, and TCP makes the gateway wait. A commit is bounded by items and bytes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from harvester.clock import LockstepClock, real_monotonic_ns
from harvester.events.kinds import Kind
from harvester.units import SECOND_NS
from harvester.wire.decode_messages import Arrivals
from harvester.wire.message_ids import REQ_ID_INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harvester.clock import Clock
    from harvester.events.kinds import Own
    from harvester.wire.decode_messages import Item

_REQ_ID_AT = {str(msg): REQ_ID_INDEX[msg] for msg in (1, 2, 45, 46, 12, 13, 99, 50, 90, 17)}  # messages of streams
_L1_MESSAGES = frozenset({"1", "2", "45", "46"})
_CROWDED_COMMITS = 20  # reading stops at this many full commits of waiting items
COMMIT_BYTES = 32 * 1024 * 1024
"""Bytes of messages in a full commit; a commit ends with the message that reaches them."""
_CROWDED_BYTES_COMMITS = 8  # reading stops at this many full commits of waiting bytes


class _Stretch(NamedTuple):
    """Items from index `start` on have this stamp."""

    start: int
    ts_recv: int
    epoch: int


class InboxBatch(NamedTuple):
    """The items of one commit; `at_cut`: the run ends with it."""

    arrivals: Arrivals
    at_cut: bool


class Inbox:
    """Items waiting to be committed, each with the stamp of its packet. For one event loop, not for threads.

    Attributes:
        epoch: number of the connection, given to what is appended.
        last_ts: stamp of the last item, ns UTC; stamps never run back.
        boundary_ns: market time at which the trading date ends; `on_boundary` is called before a later stamp.
        last_stamp_ns: no stamp is later; None for no such limit.
        filled: set while a full commit of items waits, or a cut.
        clocked: Unix second of the last clock event.
        on_second: called at each full second that a simulated gateway sends, before what follows it.
    """

    def __init__(self, clock: Clock, commit_events: int, commit_bytes: int = COMMIT_BYTES) -> None:
        self._clock, self._commit_events, self._commit_bytes = clock, commit_events, commit_bytes
        self._crowd, self._crowd_bytes = commit_events * _CROWDED_COMMITS, commit_bytes * _CROWDED_BYTES_COMMITS
        self._bytes = 0  # of packets whose messages wait, about
        self._items: list[Item] = []
        self.message: Callable[[list[str]], None] = self._items.append
        self._stretches: list[_Stretch] = []
        self._cuts: list[int] = []
        self._counted, self._counts = 0, Counter[str]()
        self._ticks: dict[tuple[str, str], str] = {}  # of L1: last value by request id and tick field
        self.epoch, self.last_ts = 0, 0
        self._expecting = False
        self.boundary_ns: int | None = None
        self.last_stamp_ns: int | None = None
        self.on_boundary: Callable[[], None] | None = None
        self.clocked = 0
        self.on_second: Callable[[], None] | None = None
        self.filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def crowded(self) -> bool:
        """Whether too much waits: stop reading."""
        return len(self._items) > self._crowd or self._bytes > self._crowd_bytes

    @property
    def roomy(self) -> bool:
        """Whether reading may resume."""
        return len(self._items) < self._crowd // 2 and self._bytes < self._crowd_bytes // 2

    @property
    def first_ts(self) -> int:
        """Stamp of the first waiting item; the stamp of now when none waits."""
        return self._stretches[0].ts_recv if self._items else self._stamp_now()

    def _stamp_now(self) -> int:
        now = max(self.last_ts, self._clock.now())
        return now if self.last_stamp_ns is None else min(now, self.last_stamp_ns)

    def expect_connection(self) -> None:
        """The next packet is the first of a new connection: it increments the epoch."""
        self._expecting = True

    def packet(self, size: int = 0) -> None:
        """A packet of `size` bytes has arrived: stamp what is appended from here on with the present time."""
        self._bytes += size
        if self._expecting:
            self._expecting = False
            self.epoch += 1
        self._arrive()

    def market_time(self, at_ns: int) -> None:
        """The last item is the time of what follows, ns UTC: remove it, and stamp what follows with it.

        A full second gets its clock event here, before what was sent in it.
        """
        self._items.pop()
        if self.on_second is not None and at_ns % SECOND_NS == 0 and at_ns // SECOND_NS > self.clocked:
            self.on_second()
        self._arrive()

    def _arrive(self) -> None:
        now = self._stamp_now()
        if self.boundary_ns is not None and now >= self.boundary_ns and self.on_boundary is not None:
            self.on_boundary()
        self._stamp(now)

    def _stamp(self, ts_recv: int) -> None:
        self.last_ts = max(self.last_ts, ts_recv)
        last = self._stretches[-1] if self._stretches else None
        if last is None or (last.ts_recv, last.epoch) != (self.last_ts, self.epoch):
            self._stretches.append(_Stretch(len(self._items), self.last_ts, self.epoch))
        if self._full:
            self.filled.set()

    @property
    def _full(self) -> bool:
        return len(self._items) >= self._commit_events or self._bytes >= self._commit_bytes

    def put(self, kind: Kind, row: Mapping[str, Any], at: int | None = None) -> None:
        """Append a row of Harvester's own, stamped now or `at` (ns UTC), never before the last stamp."""
        if at is None:
            self._arrive()
        else:
            self._stamp(at)
        self._items.append((kind, row))

    def put_clock(self, at: int | None = None) -> None:
        """Append a clock event, stamped now or `at` (ns UTC)."""
        mono = self._clock.now() if isinstance(self._clock, LockstepClock) else real_monotonic_ns()
        self.put(Kind.CLOCK, {"wall_ns": self._clock.wall(), "mono_ns": mono}, at)
        self.clocked = self.last_ts // SECOND_NS

    def notice(self, code: Own, text: str, detail: Mapping[str, Any] | None = None, **row: Any) -> None:
        """Append a notice of Harvester's own; `detail` becomes a JSON object, `row` further columns."""
        extra = msgspec.json.encode(dict(sorted(detail.items()))).decode() if detail else None
        self.put(Kind.NOTICE, {"code": int(code), "text": text, "detail": extra, **row})

    def take_count_of(self, req_id: int) -> int:
        """Messages of one request since `take_counts`, and no later ones: they are not counted again."""
        self._count()
        return self._counts.pop(str(req_id), 0)

    def take_counts(self) -> dict[int, int]:
        """Messages of streams since the last call, by request id, committed or not.

        Counted on arrival and not from commits, so that grants and silence do not depend on when commits happen.
        """
        self._count()
        counts, self._counts = self._counts, Counter()
        return {int(req_id): count for req_id, count in counts.items() if req_id.isdecimal() and len(req_id) < 12}

    def take_ticks(self) -> list[tuple[int, int, str]]:
        """L1 fields that have arrived since the last call: request id, field, and its last value."""
        self._count()
        ticks, self._ticks = self._ticks, {}
        return [(int(t[0]), int(t[1]), v) for t, v in ticks.items() if all(n.isdecimal() and len(n) < 12 for n in t)]

    def _count(self) -> None:
        fresh = self._items[self._counted :]
        self._counted = len(self._items)
        # Only broken messages have too few fields: the list is filtered only when one occurs.
        try:
            self._count_messages([f for f in fresh if type(f) is list and f[0] in _REQ_ID_AT])
        except IndexError:
            self._count_messages([f for f in fresh if isinstance(f, list) and len(f) > 2 and f[0] in _REQ_ID_AT])

    def _count_messages(self, messages: list[list[str]]) -> None:
        counts = [f[_REQ_ID_AT[f[0]]] for f in messages]
        ticks = {(f[2], f[3]): f[4] for f in messages if f[0] in _L1_MESSAGES and len(f) > 4}
        self._counts.update(counts)
        self._ticks.update(ticks)

    def cut(self) -> None:
        """End the run here: no commit spans the cut."""
        self._cuts.append(len(self._items))
        self.filled.set()

    def take(self) -> InboxBatch:
        """Take the items of the next commit: up to `commit_events`, or the item that fills its bytes, or a cut."""
        self._count()
        count = self._commit_items()
        at_cut = bool(self._cuts) and self._cuts[0] <= count
        if at_cut:
            count = self._cuts.pop(0)
        taken = self._items[:count]
        starts = [s.start for s in self._stretches] + [len(self._items)]
        spans = np.diff(np.minimum(starts, count))
        arrivals = Arrivals(
            taken,
            np.repeat(np.array([s.ts_recv for s in self._stretches], np.int64), spans),
            np.repeat(np.array([s.epoch for s in self._stretches], np.uint16), spans),
        )
        del self._items[:count]
        self._counted -= count
        self._cuts = [cut - count for cut in self._cuts]
        self._forget(count)
        if not self._cuts and not self._full:
            self.filled.clear()
        return InboxBatch(arrivals, at_cut)

    def _commit_items(self) -> int:
        """How many items the next commit takes by number and by bytes; items are measured only when bytes abound."""
        waiting, count = len(self._items), min(len(self._items), self._commit_events)
        if self._bytes >= self._commit_bytes:
            sizes = accumulate(sum(map(len, item)) if isinstance(item, list) else 0 for item in self._items[:count])
            taken = 0
            for n, taken in enumerate(sizes, 1):
                if taken >= self._commit_bytes:
                    count = n
                    break
            self._bytes = max(self._bytes - taken, 0)
        elif waiting:
            self._bytes -= self._bytes * count // waiting
        if count == waiting:
            self._bytes = 0
        return count

    def _forget(self, count: int) -> None:
        """Drop the stretches of `count` taken items; the current one continues at index 0."""
        kept = [_Stretch(max(s.start - count, 0), s.ts_recv, s.epoch) for s in self._stretches]
        first = max((i for i, s in enumerate(kept) if s.start == 0), default=0)
        self._stretches = kept[first:]
