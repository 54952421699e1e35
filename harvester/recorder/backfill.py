"""History asked for when a run begins: what the slow timeframes stand on before the day has made candles of its own.

Per focus symbol '1 M' of '1 day' and '5 D' of '1 hour' of the regular sessions, and the minutes of the day in all
hours. Requests go out after the subscriptions, within IB's pacing; answers are `bar` rows and an `end` row like any
other. Nothing waits for them: an error or a missing answer is noted and recording goes on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from harvester.events.kinds import Own, Stream
from harvester.recorder.subscriptions import is_refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.config import Settings
    from harvester.gateway.requests import Target
    from harvester.recorder.line import Line

logger = structlog.get_logger()
EPOCH_SECONDS = 2  # formatDate: whole seconds instead of local texts; daily bars come as dates all the same


class Ask(NamedTuple):
    """One history, by the words IB uses."""

    bar_size: str
    duration: str
    what: str
    rth: bool

    def params(self) -> dict[str, Any]:
        return {**self._asdict(), "end": "", "format_date": EPOCH_SECONDS}


def asks(settings: Settings) -> tuple[Ask, ...]:
    """What is asked for each focus symbol, in this order."""
    return (
        Ask("1 day", "1 M", "TRADES", rth=True),
        Ask("1 hour", "5 D", "TRADES", rth=True),
        Ask(settings.hist_bar_size, settings.hist_duration, settings.hist_what, rth=False),
    )


class Flight(NamedTuple):
    """A history that has been asked for; `asked_at` in pace time."""

    target: Target
    ask: Ask
    done: asyncio.Future[None]
    asked_at: int


class Backfill:
    """The histories of the run under way: what has been answered, what is in flight."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._settled: set[tuple[int, Ask]] = set()  # (con_id, ask) answered or refused
        self._unanswered: set[tuple[int, Ask]] = set()  # on this connection
        self._flying: dict[int, Flight] = {}
        self._focus: Sequence[Target] = ()
        self._asking: asyncio.Task[None] | None = None

    def start(self, focus: Sequence[Target]) -> None:
        """Ask, in the background, for what this run has not been answered yet."""
        self._stop_asking()
        self._unanswered.clear()
        self._focus = focus
        self._go_on()

    def new_run(self, focus: Sequence[Target]) -> None:
        """Another run begins: it asks for everything itself."""
        self._settled.clear()
        self._flying.clear()
        self.start(focus)

    def connection_lost(self) -> None:
        """What is in flight will never be answered; after a reconnect it is asked for again."""
        self._stop_asking()
        self._flying.clear()

    def dropped(self, since: int) -> None:
        """The gateway has dropped messages: what was asked since (pace time) and flies still is asked for again."""
        for req_id in [req_id for req_id, flight in self._flying.items() if flight.asked_at >= since]:
            self._flying.pop(req_id).done.set_result(None)
        if self._asking is not None and self._asking.done():
            self._go_on()

    def answered(self, req_id: int) -> None:
        """Message 17 of a request has arrived; it stands in the inbox."""
        self._settle(req_id)

    def refused(self, req_id: int, code: int, text: str) -> bool:
        """Whether an error belongs to a history; it stands in the inbox, and nobody asks again."""
        if req_id not in self._flying:
            return False
        if is_refusal(code):
            flight = self._flying[req_id]
            logger.warning(
                "no history", symbol=flight.target.symbol, bar_size=flight.ask.bar_size, code=code, text=text
            )
            self._settle(req_id)
        return True

    def _settle(self, req_id: int) -> None:
        if (flight := self._flying.pop(req_id, None)) is not None:
            self._settled.add((flight.target.con_id, flight.ask))
            flight.done.set_result(None)

    def _stop_asking(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    def _go_on(self) -> None:
        if not self._line.settings.skip_historical_backfill:
            self._asking = self._line.tasks.spawn(self._ask_all())

    def _next(self) -> tuple[Target, Ask] | None:
        """The first history nobody has asked for, or whose request was dropped."""
        known = self._settled | self._unanswered | {(f.target.con_id, f.ask) for f in self._flying.values()}
        wanted = ((target, ask) for target in self._focus for ask in asks(self._line.settings))
        return next(((target, ask) for target, ask in wanted if (target.con_id, ask) not in known), None)

    async def _ask_all(self) -> None:
        line = self._line
        while (wanted := self._next()) is not None:
            await line.limits.history()
            if not line.connected:
                return
            req_id, (target, ask) = line.new_req_id(), wanted
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            flight = self._flying[req_id] = Flight(target, ask, done, line.pace.now())
            line.requester.history(req_id, target, ask.params())
            line.tasks.spawn(self._wait(req_id, flight))  # the answer may be here before it takes its first step

    async def _wait(self, req_id: int, flight: Flight) -> None:
        """Note that an answer never came; a late one is recorded all the same."""
        line, (target, ask, done, _) = self._line, flight
        await line.pace.within(done, line.settings.timeout_seconds)
        if self._flying.pop(req_id, None) is not None:
            self._unanswered.add((target.con_id, ask))
            text = f"no answer to {ask.duration} of {ask.bar_size} of {target.symbol}"
            detail = {"stream": Stream.HISTORY.value}
            line.inbox.notice(Own.REQUEST_TIMEOUT, text, detail, con_id=target.con_id, req_id=req_id)
            logger.warning("history not answered", symbol=target.symbol, bar_size=ask.bar_size)
