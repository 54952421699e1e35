"""`record`: one gateway's market data into the log of each trading date, until told to stop.

    inbox      inbox.py           everything in arrival order
    session    session.py         the conversation with the gateway
    run        run.py             commits and folds, in a worker thread
    clock      here               one `clock` event each market second
    screen     screen.py          what a person sees of it

A trading date ends its run at the boundary: the inbox is cut there, the next run begins in the new folder on the same
connection, and the subscriptions are stated again.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from harvester.calendar import day_bounds, trading_date
from harvester.clock import IN_FLIGHT_BYTES, LockstepClock, MachineClock, real_monotonic_ns
from harvester.errors import ClientIdInUse, GatewayError, LogWriteFailed, UnknownSymbol
from harvester.eventlog.disk import disk_forecast
from harvester.eventlog.lock import DateLock
from harvester.events.kinds import Action, Kind, Own, Stream
from harvester.recorder.checks import check_clock, check_day, check_settings, elsewhere
from harvester.recorder.compact import compact_recorded
from harvester.recorder.inbox import Inbox
from harvester.recorder.pace import Pace
from harvester.recorder.run import Committed, Run, Totals
from harvester.recorder.session import Session
from harvester.recorder.subscriptions import coverage
from harvester.recorder.warm import load_kernels
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from datetime import date

    from harvester.clock import Clock
    from harvester.config import Settings
    from harvester.eventlog.disk import Disk
    from harvester.home import Home
    from harvester.projections.quotes import Quote

logger = structlog.get_logger()
_T = TypeVar("_T")

CLOCK_STEP_NS = SECOND_NS // 2  # a wall clock that jumps farther than this against market time is worth a notice
DISK_LOOK_S = 10.0
LOOK_UP_S = 10.0  # real seconds in which contracts may be told before the run begins
HEAR_OUT_S, HEAR_OUT_TURNS = 0.1, 600  # real seconds between two looks, and how many
QUIET_TURNS = 10  # so many looks without a byte: nothing is on its way


@dataclass
class RunSummary:
    """What one run recorded."""

    trading_date: date
    run_id: str
    totals: Totals
    content_hash: str


@dataclass
class Summary:
    """What a recording came to. `rows` by kind over all runs; `coverage` per symbol and stream; `reason` it ended."""

    runs: list[RunSummary] = field(default_factory=list)
    coverage: dict[str, dict[str, str]] = field(default_factory=dict)
    outages: int = 0
    reason: str = ""

    @property
    def rows(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for run in self.runs:
            for kind, count in run.totals.rows.items():
                found[kind] = found.get(kind, 0) + count
        return found


class Recorder:
    """Wires the parts of one recording; screens look at its attributes."""

    def __init__(
        self, settings: Settings, home: Home, clock: Clock, *, disk: Disk | None = None, reopen: bool = False
    ) -> None:
        check_settings(settings, home)
        self.settings, self.home, self.clock = settings, home, clock
        self.pace = Pace(clock)
        self.inbox = Inbox(clock, settings.commit_events)
        self.session = Session(settings, self.inbox, self.pace)
        self.summary = Summary()
        self.run: Run | None = None
        self.last_commit: Committed | None = None
        self.last_commit_real_ns = 0
        self.free_bytes = -1
        self.wants_view = False  # a screen is watching: sample the quotes after a commit
        self.view: list[Quote] = []
        self._disk, self._reopen = disk, reopen
        self._worker = ThreadPoolExecutor(1, "commit")
        self._digests_at = self._disk_at = 0
        self._wall_offset: int | None = None
        self._paused = False
        self._standing = contextlib.ExitStack()
        self._committing: asyncio.Future[None] | None = None
        self._early: list[asyncio.Future[None]] = []  # begun before the run: the clock's events, the look-ups
        self._date = self._date_now()
        check_day(settings, home, clock, self._date)

    def _date_now(self) -> date:
        return trading_date(self.clock.now(), self.settings.time_zone, self.settings.day_start)

    async def record(self, stop: asyncio.Event, until_ns: int | None, duration_ns: int | None = None) -> Summary:
        """Record until `stop` is set, market time reaches `until_ns` (None: never) or `duration_ns` are recorded.

        Raises:
            HarvesterError: whatever ends a recording early; what was committed before is whole.
        """
        try:
            # Two recorders of one date: the second learns of the first before it disturbs the gateway.
            DateLock(self.home, self._date).acquire().release()
            self.home.prepare()
            await self._unless_stopped(load_kernels(), stop)
            await self._unless_stopped(self._open(), stop)
            await self._look_up(stop)
            await self._begin_run(self._date)
            work = [*self._early, self._commits(), self._watch()]
            ends = [until_ns, None if duration_ns is None else self.clock.now() + duration_ns]
            await self._until_done(work, stop, min((end for end in ends if end is not None), default=None))
        finally:
            await self._finish()
        if self.run is not None:
            self.run.check()
        if not self.session.targets and self.summary.reason == "end of recording":
            names = ", ".join(self.settings.symbols)
            raise GatewayError(
                f"the recording ended before the gateway had told what {names} is: nothing was asked for"
            )
        return self.summary

    async def _unless_stopped(self, opening: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
        """Raises GatewayError when `stop` comes first: nothing has been recorded yet."""
        work, stopped = asyncio.ensure_future(opening), asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                where = f"{self.settings.gateway_host}:{self.settings.port}"
                raise GatewayError(f"stopped before {where} was ready; nothing was recorded")
            work.result()
        finally:
            work.cancel()
            stopped.cancel()
            await asyncio.gather(work, stopped, return_exceptions=True)

    async def _open(self) -> None:
        try:
            await self.session.open()
        except ClientIdInUse:
            raise
        except GatewayError as error:
            raise GatewayError(f"{error}{elsewhere(self.settings, self.home)}") from None

    async def _look_up(self, stop: asyncio.Event) -> None:
        """Begin to look the contracts up, and give the gateway a moment to answer before there is a run.

        Raises:
            UnknownSymbol: a mistyped symbol leaves nothing in the day. Whatever else goes wrong is told by the run.
        """
        self._end_with(self._date)
        looking = asyncio.ensure_future(self.session.resolve(self.settings.symbols))
        self._early = [asyncio.ensure_future(self._clock_events()), looking]
        stopped = asyncio.ensure_future(stop.wait())
        try:
            waiting: set[asyncio.Future[Any]] = {*self._early, stopped, self.session.failure}
            await asyncio.wait(waiting, timeout=LOOK_UP_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        if looking.done() and isinstance(looking.exception(), UnknownSymbol):
            looking.result()

    # the run

    async def _in_worker(self, work: Callable[..., _T], *args: Any) -> _T:
        busy = self.clock.busy() if isinstance(self.clock, LockstepClock) else contextlib.nullcontext()
        with busy:
            return await asyncio.get_running_loop().run_in_executor(self._worker, work, *args)

    async def _begin_run(self, day: date) -> None:
        self._date = day
        self.run = await self._in_worker(self._open_run, day)
        self.inbox.last_ts = max(self.inbox.last_ts, self.run.floor_ts)
        behind = self.run.floor_ts - self.clock.now()
        await self._in_worker(self.run.begin, self.inbox.first_ts)
        if behind > 0:
            self.session.note(Own.CLOCK_STEP, "market time is behind the log's last event", value=-behind)
            logger.warning("clock is behind the log", seconds=behind / SECOND_NS)
        logger.info("recording", date=str(day), run=self.run.writer.run_id, first_seq=self.run.writer.next_seq)

    def _open_run(self, day: date) -> Run:
        return Run.open(self.home, day, self.settings, reopen=self._reopen, disk=self._disk)

    def _end_with(self, day: date) -> None:
        """Nothing stamped after a trading date gets into its run."""
        end = day_bounds(day, self.settings.time_zone, self.settings.day_start)[1]
        self.inbox.boundary_ns, self.inbox.on_boundary = end, self._boundary

    def _boundary(self) -> None:
        """Market time has reached the end of the trading date: cut here, go on in the next run."""
        assert self.inbox.boundary_ns is not None
        before, self.inbox.boundary_ns = self.inbox.boundary_ns - 1, None
        self._put_run_end("boundary", before)
        self.inbox.cut()
        self.session.restate()

    def _put_run_end(self, why: str, at: int | None = None) -> None:
        row = {"action": Action.RUN_END.value, "stream": Stream.RUN.value, "params": f'{{"reason":"{why}"}}'}
        self.inbox.put(Kind.REQUEST, row, at)

    async def _end_run(self) -> None:
        run = self.run
        if run is None:
            return
        content_hash = run.writer.content_hash()
        try:
            await self._in_worker(run.end)
        finally:
            self.summary.runs.append(RunSummary(run.trading_date, run.writer.run_id, run.totals, content_hash))

    # commits

    async def _commits(self) -> None:
        while True:
            await self.pace.within(self.inbox.filled, self.settings.commit_seconds)
            # Shielded: what has been taken from the inbox must reach the log whatever ends this task.
            self._committing = asyncio.ensure_future(self._commit())
            await asyncio.shield(self._committing)

    async def _commit(self, everything: bool = False) -> None:
        taken = self.inbox.take(everything)
        assert self.run is not None
        if len(taken.arrivals.items):
            done = await self._in_worker(self.run.commit, taken.arrivals)
            self.last_commit, self.last_commit_real_ns = done, real_monotonic_ns()
            if done.timed_rows:
                self.session.saw_event_times(done.timed_rows, done.ahead_ns)
            if self.wants_view:
                self.view = await self._in_worker(self.run.engine.quotes.all)
            if self.pace.patience() - self._digests_at >= self.settings.digest_seconds * SECOND_NS:
                self._digests_at = self.pace.patience()
                await self._in_worker(self.run.digests)
        self._breathe()
        if taken.at_cut:
            await self._end_run()
            self.run.check()
            await self._begin_run(self._date_now())
            self._end_with(self._date)

    def _breathe(self) -> None:
        """TCP back pressure: stop reading while too much waits."""
        if self._paused and self.inbox.roomy:
            self._paused = False
            self.session.connection.resume()

    # clock and watchdogs

    async def _clock_events(self) -> None:
        """One `clock` event each second of market time; seconds the machine could not keep up with get none."""
        while True:
            await self.clock.sleep_until((self.clock.now() // SECOND_NS + 1) * SECOND_NS)
            self._tick()
            if self.inbox.crowded and not self._paused:
                self._paused = True
                self.session.connection.pause()
            await asyncio.sleep(0)

    def _tick(self) -> None:
        wall, now = self.clock.wall(), self.clock.now()
        mono = now if self.pace.lockstep else real_monotonic_ns()
        self.inbox.put(Kind.CLOCK, {"wall_ns": wall, "mono_ns": mono})
        self.session.saw(self.inbox.heard())
        if isinstance(self.clock, MachineClock):  # every other clock is its own wall
            self._look_at_wall(wall - now)

    def _look_at_wall(self, offset: int) -> None:
        before, self._wall_offset = self._wall_offset, offset
        if before is None:
            return
        if abs(offset - before) > CLOCK_STEP_NS:
            self.session.note(Own.CLOCK_STEP, "the wall clock was set", value=offset - before)
            logger.warning("wall clock step", seconds=(offset - before) / SECOND_NS)
        else:
            self._wall_offset = before  # slow drift adds up until it is a step

    async def _watch(self) -> None:
        """Real-time watchdogs: a disk that fills, a log that cannot keep up, a market that begins once more."""
        while True:
            await asyncio.sleep(0.25)
            check_clock(self.clock)
            if self.inbox.crowded and not self._paused:
                self._paused = True
                self.session.connection.pause()
            now = real_monotonic_ns()
            if now - self._disk_at > DISK_LOOK_S * SECOND_NS:
                self._disk_at = now
                self._look_at_disk()

    def _look_at_disk(self) -> None:
        self.free_bytes = disk_forecast(self.home, 0.0).free_bytes
        if self.free_bytes < 4 * self.settings.disk_margin_bytes:
            self.session.note(Own.DISK_LOW, "the disk is filling", value=self.free_bytes)
            logger.warning("disk low", free_bytes=self.free_bytes, margin_bytes=self.settings.disk_margin_bytes)

    # beginning and end

    async def _end_at(self, until_ns: int) -> None:
        """Return when market time has come, or stops before; what a leaping clock left behind is heard out first."""
        await self.clock.sleep_until(min(until_ns, getattr(self.clock, "final_ns", until_ns)))
        if getattr(self.clock, "leaps", False):
            await self._hear_out()

    async def _hear_out(self) -> None:
        """Until all that can have been on its way is here: so many bytes have come since, or none for a while."""
        first = seen = self.session.connection.bytes_received
        quiet = 0
        for _ in range(HEAR_OUT_TURNS):
            await asyncio.sleep(HEAR_OUT_S)
            now = self.session.connection.bytes_received
            quiet, seen = (quiet + 1 if now == seen and not self._paused else 0), now
            if quiet >= QUIET_TURNS or now - first >= IN_FLIGHT_BYTES:
                return

    async def _until_done(self, work: list[Any], stop: asyncio.Event, until_ns: int | None) -> None:
        """Run everything until the end is due, or something fails."""
        tasks = [asyncio.ensure_future(w) for w in (*work, self._opening(self._early[-1]))]
        ends = {asyncio.ensure_future(self._hold(stop.wait())): "stopped"}
        if until_ns is not None:
            ends[asyncio.ensure_future(self._hold(self._end_at(until_ns)))] = "end of recording"
        waiting: set[asyncio.Future[Any]] = {*tasks, *ends, self.session.failure}
        opening = tasks[-1]
        try:
            while True:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task in ends:
                        self.summary.reason = ends[task]
                        return
                    task.result()
                waiting -= {opening, self._early[-1]}
        finally:
            for task in (*tasks, *ends):
                task.cancel()
            await asyncio.gather(*tasks, *ends, return_exceptions=True)

    async def _hold(self, ending: Awaitable[Any]) -> None:
        """Wait for an end; in lockstep market time stands still from then on, whatever the ending takes."""
        await ending
        if isinstance(self.clock, LockstepClock):
            self._standing.enter_context(self.clock.busy())

    async def _opening(self, looking: asyncio.Future[None]) -> None:
        await looking
        self.session.start()
        await self.session.ask_time()

    async def _finish(self) -> None:
        """Hang up, commit what arrived, end the run. Whatever failed before, nothing committed is touched."""
        for task in self._early:
            task.cancel()
        await asyncio.gather(*self._early, return_exceptions=True)
        await self.session.close()
        self.summary.coverage = coverage(self.session.registry, self.settings.symbols)
        self.summary.outages = self.session.outages
        try:
            if self._committing is not None:
                await self._committing
            if self.run is not None:
                self._tick()
                self._put_run_end(self.summary.reason or "error")
                while len(self.inbox):
                    await self._commit()
                await self._end_run()
        except LogWriteFailed:
            if self.run is not None:
                self.run.writer.close()  # gives the lock back; the run stays as it is, to be recovered
            raise
        finally:
            self._standing.close()
            self._worker.shutdown()
            if self.session.failure.done() and not self.session.failure.cancelled():
                self.session.failure.exception()  # raised already, or outrun by another failure


async def record(
    settings: Settings,
    home: Home,
    clock: Clock,
    *,
    stop: asyncio.Event | None = None,
    until_ns: int | None = None,
    duration_ns: int | None = None,
    disk: Disk | None = None,
    reopen: bool = False,
    watch: Callable[[Recorder], None] | None = None,
) -> Summary:
    """Record until `stop` is set, `until_ns` or `duration_ns` (market time) is reached, or something fails.

    Args:
        settings: what to record, from where.
        home: the data root.
        clock: market time; a `LockstepClock` shared with a simulated gateway, or real time.
        stop: set it to end the recording; the last commit is whole.
        until_ns: market time to stop at, ns UTC.
        duration_ns: how much market time to record, from the run's begin.
        disk: the log's file layer, for tests.
        reopen: go on with a date `hv eod` has closed.
        watch: called once with the recorder before it starts, so that a screen can look at it.

    Raises:
        HarvesterError: the documented failures, each with its exit code; the log is whole up to the last commit.
    """
    recorder = Recorder(settings, home, clock, disk=disk, reopen=reopen)
    if watch is not None:
        watch(recorder)
    summary = await recorder.record(stop or asyncio.Event(), until_ns, duration_ns)
    if settings.compact:
        await asyncio.to_thread(compact_recorded, home, [run.trading_date for run in summary.runs], disk)
    return summary


def describe(summary: Summary) -> str:
    """The summary for people, one line per run."""
    lines = []
    for run in summary.runs:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(run.totals.rows.items()))
        lines.append(
            f"{run.trading_date} {run.run_id}: {sum(run.totals.rows.values())} events in {run.totals.commits} commits "
            f"({counts}); run content {run.content_hash}"
        )
    return "\n".join(lines)
