"""The runs of a recording, one after the other: commits, folds and digests, in one worker thread.

A run ends at the boundary of its trading date: the inbox is cut there. The next run begins in the new folder on the
same connection; its log repeats the subscriptions.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from harvester.calendar import day_bounds, trading_date
from harvester.clock import LockstepClock, real_monotonic_ns
from harvester.errors import LogWriteFailed
from harvester.events.kinds import Action, Kind, Own, Stream
from harvester.recorder.recording_run import NOT_HERE, CommitResult, RecordingRun
from harvester.recorder.summary import RecordedRun
from harvester.recorder.trading_process import TradingProcess
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date

    from harvester.files import Disk
    from harvester.home import Home
    from harvester.memory.strategy_files import LoadedStrategy
    from harvester.projections.market.quotes import Quote
    from harvester.projections.trading.failure import Failure
    from harvester.recorder.back_pressure import BackPressure
    from harvester.recorder.session import RecorderSession

logger = structlog.get_logger()
TRADING_S_MAX = 120.0  # real seconds in which the trading process may catch up at the end
_T = TypeVar("_T")


class Committer:
    """Commits the inbox of a session.

    Attributes:
        run: the current run, or the last one; None before `begin`.
        runs: the runs that have ended.
        last_commit: the newest commit; `last_commit_real_ns` is when it ended, monotonic real time.
        end_ns: market time at which the recording ends, ns UTC; None for never, and before it is decided.
        strategies: of the runs; set them before `begin`.
        notes: what happened to strategies, one line each.
        samples_quotes: if set, each commit puts the quotes of all symbols into `quotes`, for a screen.
    """

    def __init__(
        self, home: Home, session: RecorderSession, pressure: BackPressure, disk: Disk | None, *, reopen: bool
    ) -> None:
        self._home, self._session, self._pressure, self._disk, self._reopen = home, session, pressure, disk, reopen
        self._settings, self._inbox, self._pace = session.line.settings, session.line.inbox, session.line.pace
        self._worker = ThreadPoolExecutor(1, "commit")
        self._committing: asyncio.Future[None] | None = None
        self._digests_at = 0
        self.end_ns: int | None = None
        self.run: RecordingRun | None = None
        self.runs: list[RecordedRun] = []
        self.last_commit: CommitResult | None = None
        self.last_commit_real_ns = 0
        self.samples_quotes = False
        self.quotes: list[Quote] = []
        self.strategies: Sequence[LoadedStrategy] = ()
        self.notes: list[str] = []
        self._trading: TradingProcess | None = None
        self._digests_waiting: tuple[int, dict[str, str]] | None = None  # for the trading process to add its own

    def date_now(self) -> date:
        """The current trading date in market time."""
        return trading_date(self._pace.clock.now(), self._settings.time_zone, self._settings.day_start)

    # runs

    def set_boundary(self, day: date) -> None:
        """Keep events after a trading date out of its run; the stamp of its last clock event is the boundary itself."""
        end = day_bounds(day, self._settings.time_zone, self._settings.day_start)[1]
        self._inbox.boundary_ns, self._inbox.on_boundary = end, self._boundary

    def end_before_boundary(self, end_ns: int | None) -> None:
        """Begin no run after `end_ns` (ns UTC): what arrives while a recording ends belongs to the date that ends."""
        self.end_ns, boundary = end_ns, self._inbox.boundary_ns
        if end_ns is not None and boundary is not None and end_ns <= boundary:
            self._inbox.boundary_ns, self._inbox.last_stamp_ns = None, boundary

    async def begin(self, day: date) -> None:
        """Open the run of a trading date and commit its start."""
        self.run = await self._in_worker(self._open_run, day)
        self._inbox.last_ts = max(self._inbox.last_ts, self.run.floor_ts)
        behind = self.run.floor_ts - self._pace.clock.now()
        await self._in_worker(self.run.begin, self._inbox.first_ts)
        if behind > 0:
            self._inbox.notice(Own.CLOCK_STEP, "market time is behind the log's last event", value=-behind)
            logger.warning("clock is behind the log", seconds=behind / SECOND_NS)
        logger.info("run begins", date=str(day), run=self.run.writer.run_id, first_seq=self.run.writer.next_seq)
        if self.run.cost_note:
            logger.warning("costs of simulated trades", table=self._settings.cost_table, note=self.run.cost_note)
        for ref in (strategy.ref for strategy in self.strategies):
            logger.info("strategy", name=ref.name, digest=ref.digest, set=dict(ref.settings))
        if any(strategy.sources for strategy in self.strategies):
            self._trading = TradingProcess(self._home.on(day), self.run.toggles, self._strategy_dropped)
            self._trading.start()
            self._trading.announce(self.run.totals.last_seq)

    def _open_run(self, day: date) -> RecordingRun:
        paths = self._home.on(day)
        return RecordingRun.open(paths, self._settings, self.strategies, reopen=self._reopen, disk=self._disk)

    def _boundary(self) -> None:
        """End the run here, because market time has reached the end of the trading date, and begin the next.

        A clock event at the boundary closes the date's last bucket, and all that a leaping clock has skipped.
        """
        end, self._inbox.boundary_ns = self._inbox.boundary_ns, None
        assert end is not None
        self._inbox.put_clock(end)
        self._put_run_end("boundary", end)
        self._mute_trading()
        self._inbox.cut()
        self._session.restate()

    def _put_run_end(self, why: str, at: int | None = None) -> None:
        row = {"action": Action.RUN_END.value, "stream": Stream.RUN.value, "params": f'{{"reason":"{why}"}}'}
        self._inbox.put(Kind.REQUEST, row, at)

    async def _end_run(self, run: RecordingRun) -> None:
        content_hash = run.writer.content_hash()
        try:
            try:
                await self._take_digests(run)
                if self._trading is not None:
                    await self._settle_trading(run)
            finally:
                await self._end_trading(run)
                await self._in_worker(run.end)
        finally:
            self.runs.append(RecordedRun(run.trading_date, run.writer.run_id, run.totals, content_hash))

    # commits

    async def commits(self) -> None:
        """Commit every `commit_seconds`, or sooner when a commit is full, until cancelled."""
        while True:
            await self._pace.within(self._inbox.filled, self._settings.commit_seconds)
            # Shielded: items taken from the inbox must reach the log even if this task is cancelled.
            self._committing = asyncio.ensure_future(self._commit())
            await asyncio.shield(self._committing)

    async def finish(self, tick: Callable[[], None], reason: str) -> None:
        """Call `tick` once more, commit all that is left, and end the run.

        Raises:
            LogWriteFailed: the run needs recovery; its lock is released.
        """
        self.samples_quotes = False  # the end of a run leaves no quote: the screen keeps the last ones
        try:
            if self._committing is not None:
                await self._committing
            if self.run is not None:
                tick()
                if self._trading is not None:  # a strategy that fails in the last seconds is dropped in this run
                    while len(self._inbox):
                        await self._commit()
                    await self._caught_up()
                self._put_run_end(reason)
                self._mute_trading()
                while len(self._inbox):
                    await self._commit()
                await self._end_run(self.run)
        except LogWriteFailed:
            if self.run is not None:
                self.run.writer.close()
            raise
        finally:
            await self._end_trading(self.run)

    def close(self) -> None:
        """End the worker thread."""
        self._worker.shutdown()

    async def _commit(self) -> None:
        taken = self._inbox.take()
        run = self.run
        assert run is not None
        if len(taken.arrivals.items):
            done = await self._in_worker(run.commit, taken.arrivals)
            self.last_commit, self.last_commit_real_ns = done, real_monotonic_ns()
            if done.timed_rows:
                self._session.gateway_time.compare_event_times(done.timed_rows, done.ahead_ns)
            self._session.books_unusable(done.books)
            if self.samples_quotes:
                self.quotes = await self._in_worker(run.engine.quotes.all)
            if self._trading is not None:
                self._trading.announce(done.last_seq)
                await self._write_waiting(run)
            if self._pace.patience() - self._digests_at >= self._settings.digest_seconds * SECOND_NS:
                self._digests_at = self._pace.patience()
                await self._take_digests(run)
            if self._trading is not None and self._pace.lockstep:
                await self._caught_up()
                await self._write_waiting(run)
        self._pressure.release()
        if taken.at_cut:
            await self._end_run(run)
            run.check()
            day = self.date_now()
            await self.begin(day)
            self.set_boundary(day)
            self.end_before_boundary(self.end_ns)

    # digests, and trading in a process of its own

    async def _take_digests(self, run: RecordingRun) -> None:
        """Write live digests, or let them wait for that of trading."""
        point = await self._in_worker(run.digests)
        if point is None:
            return
        if self._trading is None:
            await self._in_worker(run.write_digests, *point)
            return
        await self._write_waiting(run, late=True)
        self._digests_waiting = point
        self._trading.announce(point[0], digest=True)

    async def _write_waiting(self, run: RecordingRun, *, late: bool = False) -> None:
        """Write the waiting digests once that of trading has come; `late`: without it, if it has not."""
        if self._digests_waiting is None or self._trading is None:
            return
        seq, digests = self._digests_waiting
        own = self._trading.digest(seq)
        if not own and not late:
            return
        self._digests_waiting = None
        self._trading.forget(seq)
        self._trading.lagged += not own
        await self._in_worker(run.write_digests, seq, digests | ({NOT_HERE: own} if own else {}))

    def _strategy_dropped(self, failure: Failure) -> None:
        self.notes.append(failure.line())
        self._inbox.notice(Own.STRATEGY_DROPPED, failure.line(), failure.detail())

    def _mute_trading(self) -> None:
        if self._trading is not None:
            self._trading.mute()

    async def _caught_up(self) -> None:
        """Wait for the trading process; market time of a lockstep clock stands still meanwhile."""
        assert self._trading is not None
        clock = self._pace.clock
        busy = clock.busy() if isinstance(clock, LockstepClock) else contextlib.nullcontext()
        with busy, contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._trading.caught_up(), TRADING_S_MAX)

    async def _settle_trading(self, run: RecordingRun) -> None:
        """Let trading fold the last commit, and write the last digests."""
        await self._caught_up()
        await self._write_waiting(run, late=True)

    async def _end_trading(self, run: RecordingRun | None) -> None:
        trading, self._trading = self._trading, None
        if trading is None:
            return
        await trading.close()
        if run is not None and trading.unwritten:
            run.artefact_failure = OSError(trading.unwritten)
        date = "the date" if run is None else run.trading_date
        rebuild = f"`hv project --date {date}` rebuilds it"
        if trading.broken:
            self.notes.append(f"simulated trading stopped: {trading.broken}; {rebuild}")
        elif trading.behind:
            self.notes.append(f"simulated trading was {trading.behind:,} events behind at the end; {rebuild}")
        if trading.lagged:
            self.notes.append(f"simulated trading was late for {trading.lagged} live digests; they do not cover it")

    async def _in_worker(self, work: Callable[..., _T], *args: Any) -> _T:
        clock = self._pace.clock
        busy = clock.busy() if isinstance(clock, LockstepClock) else contextlib.nullcontext()
        with busy:
            return await asyncio.get_running_loop().run_in_executor(self._worker, work, *args)
