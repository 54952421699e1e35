"""Historical bars requested when a run begins, so that slow timeframes have bars before the day has candles.

Per focus symbol: '1 M' of '1 day' and '5 D' of '1 hour' bars of regular sessions, and the day's minutes, all hours.
Requests are sent after the subscriptions, within IB's pacing. Answers are `bar` rows and an `end` row. Nothing waits
for them: an error or a missing answer is noted, and recording continues. What a refusal means says `codes.MEANINGS`: a
pacing violation spaces all histories, a lost connection or a missing permission repeats the one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from harvester.events import codes
from harvester.events.codes import Effect
from harvester.events.kinds import Own, Stream
from harvester.recorder import subscriptions as subs
from harvester.recorder.link import BACK_OFF_S
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.config import Settings
    from harvester.gateway.data_requests import RequestTarget
    from harvester.recorder.link import GatewayLink

logger = structlog.get_logger()
IDENTICAL_S = 16.0  # pace time: IB refuses the same history within 15 s
EPOCH_SECONDS = 2  # formatDate: Unix seconds instead of local times; daily bars still come as dates


class HistoryRequest(NamedTuple):
    """One history request, in IB's terms."""

    bar_size: str
    duration: str
    what: str
    rth: bool

    def params(self) -> dict[str, Any]:
        """Parameters for `Requester.history`."""
        return {**self._asdict(), "end": "", "format_date": EPOCH_SECONDS}


def history_requests(settings: Settings) -> tuple[HistoryRequest, ...]:
    """The histories of each focus symbol, in the order of the requests."""
    return (
        HistoryRequest("1 day", "1 M", "TRADES", rth=True),
        HistoryRequest("1 hour", "5 D", "TRADES", rth=True),
        HistoryRequest(settings.hist_bar_size, settings.hist_duration, settings.hist_what, rth=False),
    )


class HistoryInFlight(NamedTuple):
    """A history request without an answer so far; `asked_at` in pace time."""

    target: RequestTarget
    ask: HistoryRequest
    done: asyncio.Future[None]
    asked_at: int


class HistoryBackfill:
    """The history requests of the current run."""

    def __init__(self, line: GatewayLink) -> None:
        self._line = line
        self._settled: set[tuple[int, HistoryRequest]] = set()  # (con_id, ask), answered or refused
        self._unanswered: set[tuple[int, HistoryRequest]] = set()  # timed out on this connection
        self._in_flight: dict[int, HistoryInFlight] = {}
        self._postponed: set[tuple[int, HistoryRequest]] = set()  # refused, to be repeated later
        self._tries: Counter[tuple[int, HistoryRequest]] = Counter()  # refusals of each since its last answer
        self._slowed_at, self._slowed = -1, 0  # when (pace time) and how often in a row IB has found us too fast
        self._back = asyncio.Event()  # set when a farm or the connection to IB returns
        self._focus: Sequence[RequestTarget] = ()
        self._requesting: asyncio.Task[None] | None = None

    def start(self, focus: Sequence[RequestTarget]) -> None:
        """Request, in the background, every history this run has no answer to yet."""
        self._stop_requests()
        self._unanswered.clear()
        self._postponed.clear()
        self._focus = focus
        self._continue()

    def new_run(self, focus: Sequence[RequestTarget]) -> None:
        """Request everything again, for a new run."""
        self._settled.clear()
        self._in_flight.clear()
        self.start(focus)

    def connection_lost(self) -> None:
        """Forget requests in flight, which will not be answered; `start` repeats them on the next connection."""
        self._stop_requests()
        self._in_flight.clear()

    def dropped(self, since: int) -> None:
        """The gateway has dropped messages: repeat what was sent since `since` (pace time) and has no answer."""
        for req_id in [req_id for req_id, flight in self._in_flight.items() if flight.asked_at >= since]:
            self._in_flight.pop(req_id).done.set_result(None)
        self._go_on()

    def lost(self, before: int) -> None:
        """IB's servers are back: repeat what was sent before `before` (pace time) and has no answer or was refused."""
        self._back.set()
        self._back = asyncio.Event()
        self._unanswered.clear()
        for req_id, flight in self._in_flight.items():
            if flight.asked_at < before:
                self._line.tasks.spawn(self._repeat(req_id, flight))
        self._go_on()

    @property
    def in_flight(self) -> bool:
        """Whether a request waits for its answer."""
        return bool(self._in_flight or self._unanswered)

    def answered(self, req_id: int) -> None:
        """Message 17 of a request has arrived; it is in the inbox."""
        self._slowed = 0
        self._settle(req_id)

    def refused(self, req_id: int, code: int, text: str) -> bool:
        """An error, which is in the inbox; returns whether its request id is a history's."""
        flight = self._in_flight.get(req_id)
        if flight is None:
            return False
        meaning = codes.meaning(code, text)
        if meaning.effect in {Effect.ADVICE, Effect.STATUS}:
            return True
        logger.warning(
            "history refused", symbol=flight.target.symbol, bar_size=flight.ask.bar_size, code=code, text=text
        )
        if meaning.effect in {Effect.FINAL, Effect.NO_LINE}:
            self._settle(req_id)
        elif meaning.effect is Effect.PACING:
            self._slow_down(flight)
            self._release(req_id)
        else:
            soon = meaning.effect in {Effect.FOR_NOW, Effect.NEW_ID}
            self._postpone(flight, BACK_OFF_S if soon else subs.NOW_AND_THEN_S)
            self._release(req_id)
        return True

    def _slow_down(self, flight: HistoryInFlight) -> None:
        """Hold all histories; longer with every refusal in a row, counting those sent together once."""
        if flight.asked_at > self._slowed_at:
            self._slowed_at = self._line.pace.now()
            seconds = subs.PACING_S[min(self._slowed, len(subs.PACING_S) - 1)]
            self._slowed += 1
            self._line.limits.hold_histories(seconds)
            logger.warning("histories wait: IB finds them too fast", seconds=seconds)

    def _postpone(self, flight: HistoryInFlight, pauses: Sequence[float]) -> None:
        """Repeat one history after a pause that grows, or when a farm returns."""
        key = (flight.target.con_id, flight.ask)
        self._postponed.add(key)
        seconds = pauses[min(self._tries[key], len(pauses) - 1)]
        self._tries[key] += 1
        self._line.tasks.spawn(self._take_up(key, seconds, flight.asked_at))

    async def _take_up(self, key: tuple[int, HistoryRequest], seconds: float, asked_at: int) -> None:
        await self._line.pace.pause_or(self._back, seconds)
        await self._line.pace.pause(self._until_repeatable(asked_at))
        if key in self._postponed:
            self._postponed.discard(key)
            self._go_on()

    async def _repeat(self, req_id: int, flight: HistoryInFlight) -> None:
        """Repeat a request without an answer, no sooner than IB accepts the same again."""
        await self._line.pace.pause(self._until_repeatable(flight.asked_at))
        if self._in_flight.get(req_id) is flight:
            self._release(req_id)

    def _until_repeatable(self, asked_at: int) -> float:
        return max(0.0, IDENTICAL_S - (self._line.pace.now() - asked_at) / SECOND_NS)

    def _release(self, req_id: int) -> None:
        """A request is no longer in flight, and its history not settled: it is requested again."""
        self._in_flight.pop(req_id).done.set_result(None)
        self._go_on()

    def _settle(self, req_id: int) -> None:
        if (flight := self._in_flight.pop(req_id, None)) is not None:
            self._settled.add((flight.target.con_id, flight.ask))
            self._tries.pop((flight.target.con_id, flight.ask), None)
            flight.done.set_result(None)

    def _stop_requests(self) -> None:
        if self._requesting is not None:
            self._requesting.cancel()

    def _go_on(self) -> None:
        """Request what is left, unless that is under way or has not begun."""
        if self._requesting is not None and self._requesting.done() and self._line.connected:
            self._continue()

    def _continue(self) -> None:
        if not self._line.settings.skip_historical_backfill:
            self._requesting = self._line.tasks.spawn(self._request_all())

    def _next(self) -> tuple[RequestTarget, HistoryRequest] | None:
        """The next history to request: never sent in this run, or dropped."""
        done = self._settled | self._unanswered | self._postponed
        done |= {(f.target.con_id, f.ask) for f in self._in_flight.values()}
        wanted = ((target, ask) for target in self._focus for ask in history_requests(self._line.settings))
        return next(((target, ask) for target, ask in wanted if (target.con_id, ask) not in done), None)

    async def _request_all(self) -> None:
        line = self._line
        while (wanted := self._next()) is not None:
            await line.limits.history()
            if not line.connected:
                return
            req_id, (target, ask) = line.new_req_id(), wanted
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            flight = self._in_flight[req_id] = HistoryInFlight(target, ask, done, line.pace.now())
            line.requester.history(req_id, target, ask.params())
            line.tasks.spawn(self._wait(req_id, flight))  # the answer may arrive before this task starts

    async def _wait(self, req_id: int, flight: HistoryInFlight) -> None:
        """Note a request without an answer in `timeout_seconds`; a later answer is still recorded."""
        line, (target, ask, done, _) = self._line, flight
        await line.pace.within(done, line.settings.timeout_seconds)
        if self._in_flight.pop(req_id, None) is not None:
            self._unanswered.add((target.con_id, ask))
            text = f"no answer to {ask.duration} of {ask.bar_size} of {target.symbol}"
            detail = {"stream": Stream.HISTORY.value}
            line.inbox.notice(Own.REQUEST_TIMEOUT, text, detail, con_id=target.con_id, req_id=req_id)
            logger.warning("history request not answered", symbol=target.symbol, bar_size=ask.bar_size)
