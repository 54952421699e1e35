"""`record`: write one gateway's market data to the log of each trading date, until the recording ends.

inbox        inbox.py           queues everything in arrival order
session      session.py         sends requests to the gateway, reacts to messages
committer    committer.py       commits and folds the run of each trading date, in a worker thread
clock        clock_events.py    writes one `clock` event each market second
watchdogs    watchdogs.py       check the disk, back pressure, the market clock
ending       ending.py          waits for the end: a signal or a market time
screen       live_screen.py     shows the recording
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from harvester.errors import ClientIdInUse, GatewayError, UnknownSymbol
from harvester.eventlog.lock import DateLock
from harvester.recorder.back_pressure import BackPressure
from harvester.recorder.clock_events import ClockEvents
from harvester.recorder.committer import Committer
from harvester.recorder.compact_after_run import compact_recorded
from harvester.recorder.contracts import WantedContract
from harvester.recorder.ending import Ending
from harvester.recorder.gateway_wait import GatewayWait
from harvester.recorder.inbox import Inbox
from harvester.recorder.load_kernels import load_kernels
from harvester.recorder.pacing import Timing
from harvester.recorder.session import RecorderSession
from harvester.recorder.start_checks import (
    check_day,
    check_gateway_clock,
    check_settings,
    own_strategies,
    shipped_strategies,
)
from harvester.recorder.stopping import unless_stopped
from harvester.recorder.subscriptions import coverage
from harvester.recorder.summary import RecordingSummary
from harvester.recorder.tasks import BackgroundTasks
from harvester.recorder.trading_process import load_in_child
from harvester.recorder.watchdogs import run_watchdogs

if TYPE_CHECKING:
    from collections.abc import Callable

    from harvester.clock import Clock
    from harvester.config import Settings
    from harvester.files import Disk
    from harvester.home import Home

logger = structlog.get_logger()

LOOK_UP_S = 10.0  # real seconds the gateway gets to answer about contracts before the run begins


class Recorder:
    """Connects the parts of one recording; screens read its attributes."""

    def __init__(
        self,
        settings: Settings,
        home: Home,
        clock: Clock,
        *,
        disk: Disk | None = None,
        reopen: bool = False,
        clock_must_agree: bool = False,
    ) -> None:
        check_settings(settings, home)
        self._clock_must_agree = clock_must_agree
        self.settings, self.home, self.clock, self._disk = settings, home, clock, disk
        self.inbox, self.tasks = Inbox(clock, settings.commit_events), BackgroundTasks()
        self.session = RecorderSession(settings, self.inbox, Timing(clock), self.tasks)
        connection = self.session.line.connection
        self._pressure = BackPressure(self.inbox, connection)
        self.committer = Committer(home, self.session, self._pressure, disk, reopen=reopen)
        self._clock_events = ClockEvents(self.session, self._pressure)
        self._ending = Ending(clock, connection, self._pressure)
        self._summary = RecordingSummary(self.committer.runs, notes=self.committer.notes)
        self.wait: GatewayWait | None = None  # while the first connection is tried
        self._early: list[asyncio.Future[None]] = []  # started before the run: clock events, look-ups
        self._date = self.committer.date_now()
        check_day(settings, home, clock, self._date)

    async def record(
        self, stop: asyncio.Event, until_ns: int | None, duration_ns: int | None = None, wait_ns: int = 0
    ) -> RecordingSummary:
        """Record until `stop` is set, market time reaches `until_ns` (None: never) or `duration_ns` are recorded.

        Raises:
            HarvesterError: the failure that ended the recording early; the log is complete up to the last commit.
        """
        try:
            await unless_stopped(self._load_strategies(), stop, self.settings)
            # Two recorders of one date: the second fails before it disturbs the gateway.
            DateLock(self.home.on(self._date)).acquire().release()
            self.home.prepare(self._disk)
            await unless_stopped(load_kernels(), stop, self.settings)
            await unless_stopped(self._open(wait_ns), stop, self.settings)
            if self._clock_must_agree:
                await unless_stopped(self._compare_clocks(), stop, self.settings)
            looking_up = await self._look_up(stop)
            await self.committer.begin(self._date)
            ends = [until_ns, None if duration_ns is None else self.clock.now() + duration_ns]
            end_ns = min((end for end in ends if end is not None), default=None)
            self.committer.end_before_boundary(end_ns)
            await self._until_done(looking_up, stop, end_ns)
        finally:
            await self._finish()
        if self.committer.run is not None:
            self.committer.run.check()
        if not self.session.targets and self._summary.reason == "end of recording":
            names = ", ".join(self.names())
            raise GatewayError(
                f"the recording ended before the gateway had answered the contract look-up of {names}: no data was "
                "requested; record for longer"
            )
        return self._summary

    async def _open(self, wait_ns: int) -> None:
        """Connect. A gateway that is not ready is tried again for `wait_ns` of real time, with the reason shown."""
        self.wait = GatewayWait(self.settings, self.home, wait_ns)
        while True:
            try:
                await self.session.line.open()
                break
            except ClientIdInUse:
                raise
            except GatewayError as error:
                await self.wait.again(error)
        self.wait = None
        self._date = self.committer.date_now()

    async def _load_strategies(self) -> None:
        """Load the strategies; users' in a process of their own, before anything is connected."""
        if not own_strategies(self.settings):
            self.committer.strategies = shipped_strategies(self.settings)
            return
        of = self.settings
        found = await load_in_child(of.strategies, of.strategy_tables, of.strategy_values)
        self.committer.strategies = found

    async def _compare_clocks(self) -> None:
        """Refuse a gateway in another time before anything is recorded; one that does not answer is compared later."""
        gateway_time = self.session.gateway_time
        await gateway_time.ask()
        if gateway_time.unanswered:
            await self.session.line.pace.within(gateway_time.first_answer, LOOK_UP_S)
        check_gateway_clock(gateway_time.measured_ns, self._date)

    async def _look_up(self, stop: asyncio.Event) -> asyncio.Future[None]:
        """Start the contract look-ups, and wait `LOOK_UP_S` at most for their answers before the run begins.

        Raises:
            UnknownSymbol: the gateway has no such symbol; the day stays empty. Other failures: during the run.
        """
        self.committer.set_boundary(self._date)
        looking_up = asyncio.ensure_future(self.session.resolve(self.settings.symbols))
        self._early = [asyncio.ensure_future(self._clock_events.run()), looking_up]
        stopped = asyncio.ensure_future(stop.wait())
        try:
            waiting: set[asyncio.Future[Any]] = {*self._early, stopped, self.tasks.failure}
            await asyncio.wait(waiting, timeout=LOOK_UP_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        if looking_up.done() and isinstance(looking_up.exception(), UnknownSymbol):
            looking_up.result()
        return looking_up

    async def _until_done(self, looking_up: asyncio.Future[None], stop: asyncio.Event, until_ns: int | None) -> None:
        """Run all parts until the recording should end or one of them fails."""
        watchdogs = run_watchdogs(self.settings, self.home, self.clock, self.inbox, self._pressure)
        work = (*self._early, self.committer.commits(), watchdogs, self._subscribe(looking_up))
        tasks = [asyncio.ensure_future(w) for w in work]
        ends = {asyncio.ensure_future(self._ending.stopped(stop)): "stopped"}
        if until_ns is not None:
            ends[asyncio.ensure_future(self._ending.due(until_ns))] = "end of recording"
        waiting: set[asyncio.Future[Any]] = {*tasks, *ends, self.tasks.failure}
        subscribing = tasks[-1]
        try:
            while True:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task in ends:
                        self._summary.reason = ends[task]
                        return
                    task.result()
                waiting -= {subscribing, looking_up}
        finally:
            for task in (*tasks, *ends):
                task.cancel()
            await asyncio.gather(*tasks, *ends, return_exceptions=True)

    async def _subscribe(self, looking_up: asyncio.Future[None]) -> None:
        await looking_up
        self.session.start()
        if not self.session.gateway_time.first_answer.is_set():
            await self.session.gateway_time.ask()

    def names(self) -> list[str]:
        """The symbols recorded, once they have been looked up as their contracts have them."""
        targets = self.session.targets
        return [t.symbol for t in targets] or [WantedContract.of(text).symbol for text in self.settings.symbols]

    async def _finish(self) -> None:
        """Hang up, commit what has arrived, end the run. Committed data stays untouched after any failure."""
        for task in self._early:
            task.cancel()
        await asyncio.gather(*self._early, return_exceptions=True)
        await self.session.line.close()
        self._summary.coverage = coverage(self.session.registry, self.names())
        self._summary.outages = self.session.line.outages.count
        try:
            await self.committer.finish(self._clock_events.tick, self._summary.reason or "error")
        finally:
            self._ending.release()
            self.committer.close()
            if self.tasks.failure.done() and not self.tasks.failure.cancelled():
                self.tasks.failure.exception()  # raised already, or another failure was first


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
    wait_ns: int = 0,
    clock_must_agree: bool = False,
    watch: Callable[[Recorder], None] | None = None,
) -> RecordingSummary:
    """Record until `stop` is set, `until_ns` or `duration_ns` (market time) is reached, or something fails.

    Args:
        settings: what to record, from where.
        home: the data root.
        clock: market time; a `LockstepClock` shared with a simulated gateway, or real time.
        stop: set it to end the recording; the last commit is complete.
        until_ns: market time to stop at, ns UTC.
        duration_ns: market time to record, from the start of the run.
        disk: the log's file layer, for tests.
        reopen: record a date that `hv eod` has closed.
        wait_ns: real time in which a first connection that is refused, reset or closed is tried again.
        clock_must_agree: refuse a gateway whose clock is more than five minutes from `clock`; else only note it.
        watch: called once with the recorder before it starts, for a screen.

    Raises:
        HarvesterError: the documented failures, each with its exit code; the log is complete up to the last commit.
    """
    recorder = Recorder(settings, home, clock, disk=disk, reopen=reopen, clock_must_agree=clock_must_agree)
    if watch is not None:
        watch(recorder)
    summary = await recorder.record(stop or asyncio.Event(), until_ns, duration_ns, wait_ns)
    if settings.compact:
        await asyncio.to_thread(compact_recorded, home, [run.trading_date for run in summary.runs], disk)
    return summary
