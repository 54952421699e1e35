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
    from harvester.recorder.session import Session

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


class Backfill:
    """The histories of the run under way: what has been answered, what is in flight."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._settled: list[tuple[int, Ask]] = []  # (con_id, ask) answered or refused
        self._flying: dict[int, tuple[Target, Ask, asyncio.Future[None]]] = {}
        self._asking: asyncio.Task[None] | None = None

    def start(self, focus: Sequence[Target]) -> None:
        """Ask, in the background, for what this run has not been answered yet."""
        self._stop_asking()
        if not self._session.settings.skip_historical_backfill:
            self._asking = self._session.spawn(self._ask_all(focus))

    def new_run(self, focus: Sequence[Target]) -> None:
        """Another run begins: it asks for everything itself."""
        self._settled.clear()
        self._flying.clear()
        self.start(focus)

    def connection_lost(self) -> None:
        """What is in flight will never be answered; after a reconnect it is asked for again."""
        self._stop_asking()
        self._flying.clear()

    def answered(self, req_id: int) -> None:
        """Message 17 of a request has arrived; it stands in the inbox."""
        self._settle(req_id)

    def refused(self, req_id: int, code: int, text: str) -> bool:
        """Whether an error belongs to a history; it stands in the inbox, and nobody asks again."""
        if req_id not in self._flying:
            return False
        if is_refusal(code):
            target, ask, _ = self._flying[req_id]
            logger.warning("no history", symbol=target.symbol, bar_size=ask.bar_size, code=code, text=text)
            self._settle(req_id)
        return True

    def _settle(self, req_id: int) -> None:
        if (found := self._flying.pop(req_id, None)) is not None:
            target, ask, done = found
            self._settled.append((target.con_id, ask))
            if not done.done():
                done.set_result(None)

    def _stop_asking(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    async def _ask_all(self, focus: Sequence[Target]) -> None:
        session = self._session
        for target in focus:
            for ask in asks(session.settings):
                if (target.con_id, ask) in self._settled:
                    continue
                await session.may_ask_history()
                if not session.connection.connected:
                    return
                req_id = session.registry.new_id()
                done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._flying[req_id] = (target, ask, done)
                session.requester.history(req_id, target, ask.params())
                session.spawn(self._wait(req_id, target, ask, done))

    async def _wait(self, req_id: int, target: Target, ask: Ask, done: asyncio.Future[None]) -> None:
        """Note that an answer never came; a late one is recorded all the same."""
        session = self._session
        await session.pace.within(done, session.settings.timeout_seconds)
        if self._flying.pop(req_id, None) is not None:
            text = f"no answer to {ask.duration} of {ask.bar_size} of {target.symbol}"
            detail = {"stream": Stream.HISTORY.value}
            session.note(Own.REQUEST_TIMEOUT, text, detail, con_id=target.con_id, req_id=req_id)
            logger.warning("history not answered", symbol=target.symbol, bar_size=ask.bar_size)
