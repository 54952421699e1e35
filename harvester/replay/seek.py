"""Seek to any point of a recorded day: restore the nearest snapshot before it and fold the remaining events.

    seeker = Seeker(home, open_day("2025-07-17"))
    engine = seeker.at_time(ts)            # state after the last event with ts_recv <= ts
    engine.book.ladder(con_id, Side.BID)

Every fold writes snapshots on its way, so only the first seek to a part of the day is slow. Snapshots are at most a
minute apart, and one is written at the end of every large commit, so that no seek has to read two of those.
"""

from __future__ import annotations

import gc
import importlib
from bisect import bisect_right
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from harvester.errors import CannotRun
from harvester.events.batch import seqs
from harvester.events.kinds import Kind
from harvester.memory.strategy_files import IntactStrategies
from harvester.projections.engine import Engine
from harvester.projections.run_params import package_digest
from harvester.projections.trading.strategies import Library
from harvester.replay.snapshots import Snapshots
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harvester.eventlog.reader import Day
    from harvester.events.batch import Batch
    from harvester.files import Disk
    from harvester.home import Home

EVERY_EVENTS = 50_000
EVERY_NS = 60 * SECOND_NS
_ROWS_A_STEP = 50_000


class Seeker:
    """Creates engines at any point of one day.

    Args:
        home: the data root, which contains the snapshots.
        day: the opened day; events committed later are not seen.
        market_only: leave out simulated trading, which is most of the cost of a day with few events.
        every_events, every_ns: maximum distance between two snapshots (events; ns of market time).
        disk: the file layer for snapshots.
    """

    def __init__(
        self,
        home: Home,
        day: Day,
        *,
        market_only: bool = True,
        every_events: int = EVERY_EVENTS,
        every_ns: int = EVERY_NS,
        disk: Disk | None = None,
    ) -> None:
        self.day, self._market_only, self._home = day, market_only, home
        self._every_events, self._every_ns = every_events, every_ns
        self.library = Library() if market_only else IntactStrategies(home, day)
        marks = day.marks()
        self._seqs, self._times = [0, *(mark.last_seq for mark in marks)], [mark.last_ts for mark in marks]
        self._large_ends = [end for before, end in pairwise(self._seqs) if end - before > every_events]
        kind = "market" if market_only else "full"
        self.snapshots = Snapshots(home.on(day.trading_date).snapshots / f"{kind}-{_code()[:16]}", marks, disk)

    def at_seq(self, seq: int, progress: Callable[[int, int], None] | None = None) -> Engine:
        """An engine that has folded all events up to `seq` (0: none). `progress` is called with (done, total).

        Raises:
            CannotRun: the log does not contain `seq`.
        """
        if not 0 <= seq <= self.day.last_seq:
            raise CannotRun(f"seq {seq} is not in the log of {self.day.trading_date}; it has 1 to {self.day.last_seq}")
        return self._reach(seq, None, progress)

    def at_time(self, ts: int, progress: Callable[[int, int], None] | None = None) -> Engine:
        """An engine that has folded every event with ts_recv <= `ts` (ns UTC)."""
        commit = bisect_right(self._times, ts)  # the first that ends after it
        return self._reach(self._seqs[commit + 1] if commit < len(self._times) else self.day.last_seq, ts, progress)

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Fold the whole day once, so that every point of it is near a snapshot."""
        self._reach(self.day.last_seq, None, progress)

    def note(self, engine: Engine) -> None:
        """Write a snapshot of an engine if the previous one is far enough back, or at the end of a large commit."""
        seq, ts = engine.through_seq, engine.through_ts
        events = 1 if seq in self._large_ends else self._every_events
        if seq and not self.snapshots.near(seq, events, ts, self._every_ns):
            self.snapshots.keep(seq, ts, engine.snapshot())

    def _reach(self, seq: int, ts: int | None, progress: Callable[[int, int], None] | None) -> Engine:
        engine = self._start(seq, ts)
        begin = engine.through_seq
        rows = min(self._every_events, _ROWS_A_STEP)
        for batch in self.day.batches(rows, self._large_ends, from_seq=begin + 1, to_seq=seq):
            wanted = batch if ts is None else batch.slice(batch.first_seq, last_seq_at(batch, ts))
            for part in self._pieces(wanted, engine.through_ts):
                engine.fold(part)
                self.note(engine)
            if progress:
                progress(engine.through_seq - begin, seq - begin)
            if len(wanted) < len(batch):
                break
        return engine

    def _start(self, seq: int, ts: int | None) -> Engine:
        _load_kernels()
        while (place := self.snapshots.before(seq, ts)) is not None:
            state = self.snapshots.load(place)
            if state is not None:
                engine = self.fresh()
                try:
                    engine.restore(state)
                except (msgspec.MsgspecError, ValueError, TypeError, KeyError, AssertionError, CannotRun):
                    self.snapshots.forget(place)
                else:
                    if (engine.through_seq, engine.through_ts) == (place.seq, place.ts):
                        return engine
                    self.snapshots.forget(place)
        return self.fresh()

    def fresh(self) -> Engine:
        """An engine that has folded nothing."""
        return Engine(market_only=self._market_only, library=None if self._market_only else self.library)

    def _pieces(self, batch: Batch, since: int) -> Iterator[Batch]:
        """Split a batch where a snapshot is due: after the first clock event past the interval."""
        if not len(batch):
            return
        edges = [batch.first_seq - 1]
        clocks = batch.tables.get(Kind.CLOCK)
        if clocks is not None:
            seq, ts = seqs(clocks), clocks.column(1).to_numpy()
            since = since or int(ts[0])
            while (at := int(np.searchsorted(ts, since + self._every_ns))) < len(ts):
                edges.append(int(seq[at]))
                since = int(ts[at])
        if edges[-1] != batch.last_seq:
            edges.append(batch.last_seq)
        for first, last in pairwise(edges):
            yield batch.slice(first + 1, last)


@lru_cache
def _load_kernels() -> None:
    """Load the compiled kernels, and exclude all objects loaded so far from garbage collection.

    A full collection over them takes 70 ms and would delay one seek in a hundred.
    """
    importlib.import_module("harvester.projections.market.kernels")
    gc.freeze()


@lru_cache
def _code() -> str:
    """Digest of the package's code, computed once per process."""
    return package_digest()


def last_seq_at(batch: Batch, ts: int) -> int:
    """Seq of the last event of a batch with ts_recv <= `ts`; `first_seq - 1` when there is none."""
    last = batch.first_seq - 1
    for rows in batch.tables.values():
        at = int(np.searchsorted(rows.column(1).to_numpy(), ts, "right"))
        if at:
            last = max(last, int(seqs(rows)[at - 1]))
    return last
