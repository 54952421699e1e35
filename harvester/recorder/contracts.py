"""Look-ups: which contract a symbol is, and whether the exchange's hours are what the calendar says.

A look-up that the gateway dropped (error 100) or a lost line took with it is made again, as long as patience lasts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from harvester.calendar import trading_date
from harvester.errors import GatewayError, UnknownSymbol
from harvester.events import codes
from harvester.events.kinds import Own
from harvester.gateway.connection import LineLost
from harvester.gateway.requests import EXCHANGE_NAMES, Target
from harvester.recorder import subscriptions as subs
from harvester.recorder.hours import difference
from harvester.recorder.line import number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harvester.recorder.session import Session

logger = structlog.get_logger()
_FIELDS_MIN = 28  # of message 10, up to the liquid hours


class Lookup:
    """One contract look-up in flight; `asked_at` in pace time."""

    def __init__(self, symbol: str, asked_at: int) -> None:
        self.symbol, self.asked_at = symbol, asked_at
        self.found: list[Target] = []
        self.hours: dict[int, tuple[str, str]] = {}  # by con_id: liquid hours, their time zone
        self.error: tuple[int, str] | None = None
        self.lost = self.dropped = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Contracts:
    """The look-ups of a session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._flying: dict[int, Lookup] = {}

    # what the connection tells

    def heard(self, fields: list[str]) -> None:
        """Message 10: one contract of a look-up."""
        lookup = self._flying.get(number(fields[1])) if len(fields) >= _FIELDS_MIN else None
        if lookup is not None and number(fields[12]) > 0:
            con_id = number(fields[12])
            lookup.found.append(Target(lookup.symbol, con_id, fields[3], "SMART", fields[20], fields[8]))
            lookup.hours[con_id] = (fields[27], fields[25])

    def ended(self, req_id: int) -> None:
        """Message 52: that was all."""
        if (lookup := self._flying.get(req_id)) is not None:
            lookup.finish()

    def refused(self, req_id: int, code: int, text: str) -> bool:
        """Whether an error belongs to a look-up."""
        lookup = self._flying.get(req_id)
        if lookup is not None and subs.is_refusal(code):
            lookup.error = (code, text)
            lookup.dropped = subs.is_for_now(code, text)
            lookup.finish()
        return lookup is not None

    def dropped(self, since: int) -> None:
        """The gateway has dropped messages: what was asked since (pace time) is asked again."""
        for lookup in self._flying.values():
            if lookup.asked_at >= since:
                lookup.dropped = True
                lookup.finish()

    def connection_lost(self) -> None:
        for lookup in self._flying.values():
            lookup.lost = True
            lookup.finish()

    # what the session asks

    async def resolve(self, symbols: Iterable[str]) -> list[Target]:
        """Look every symbol up, in order. A lost line is waited for.

        Raises:
            UnknownSymbol: the gateway knows no such contract.
            GatewayError: it does not answer, or the line does not come back, within `timeout_seconds`.
        """
        session, found = self._session, dict[str, Target]()
        limit = session.settings.timeout_seconds
        until = session.pace.patience() + round(limit * 1e9)
        while True:
            try:
                if not found:
                    await session.say_data_type()
                for symbol in dict.fromkeys(symbols):
                    if symbol not in found:
                        found[symbol] = await self._look_up(symbol)
            except LineLost:
                left = (until - session.pace.patience()) / 1e9
                if left <= 0 or not await session.wait_until_back(left):
                    where = f"{session.settings.gateway_host}:{session.settings.port}"
                    raise GatewayError(
                        f"{where} hung up while contracts were looked up, and was not back for good within "
                        f"{limit:g} s; look at its own window and log"
                    ) from None
            else:
                return list(found.values())

    async def restate(self, targets: Iterable[Target]) -> None:
        """Ask again what is known: a new date's log describes its instruments itself. Nothing waits for it."""
        for target in targets:
            await self._session.may_ask()
            if not self._session.connection.connected:
                return
            self._session.requester.contract_details(self._session.registry.new_id(), target)

    async def _look_up(self, symbol: str) -> Target:
        settings = self._session.settings
        lookup = await self._answer(symbol)
        if lookup.error is not None or not lookup.found:
            code, text = lookup.error or (codes.UNKNOWN_CONTRACT, "an empty answer")
            if code == codes.UNKNOWN_CONTRACT:
                raise UnknownSymbol(f"the gateway knows no US stock {symbol!r} ({code}: {text}); check --symbols")
            raise GatewayError(f"the gateway refuses to say what {symbol!r} is ({code}: {text})")
        wanted = EXCHANGE_NAMES.get(settings.primary_exchange, settings.primary_exchange)
        listed = [t for t in lookup.found if EXCHANGE_NAMES.get(t.primary_exchange, t.primary_exchange) == wanted]
        chosen = (listed or lookup.found)[0]  # of several the one listed where the settings say, else the first
        self._check_hours(chosen, *lookup.hours[chosen.con_id])
        return chosen

    async def _answer(self, symbol: str) -> Lookup:
        """Ask until an answer comes that is no "not so fast"."""
        session, pauses = self._session, iter(subs.PACING_S)
        until = session.pace.patience() + round(session.settings.timeout_seconds * 1e9)
        while True:
            lookup = await self._ask(symbol, (until - session.pace.patience()) / 1e9)
            pause = next(pauses, None)
            if not lookup.dropped or pause is None:
                return lookup
            await session.pace.pause(pause, pacing=True)

    async def _ask(self, symbol: str, seconds: float) -> Lookup:
        session = self._session
        await session.may_ask()
        req_id, lookup = session.registry.new_id(), Lookup(symbol, session.pace.now())
        self._flying[req_id] = lookup
        try:
            session.requester.contract_details(req_id, Target(symbol))
            answered = await session.pace.within(lookup.done, max(seconds, 0.0))
        finally:
            del self._flying[req_id]
        if lookup.lost:
            raise LineLost(f"the connection was lost while {symbol} was looked up")
        if not answered:
            session.note(Own.REQUEST_TIMEOUT, f"no contract details of {symbol}", req_id=req_id)
            raise GatewayError(
                f"no answer about {symbol} within {session.settings.timeout_seconds:g} s; "
                "is the gateway connected to IB's servers? (see its own window)"
            )
        return lookup

    def _check_hours(self, target: Target, liquid_hours: str, zone_name: str) -> None:
        """Hold the calendar's session against the hours the gateway tells: two sources, one truth."""
        settings = self._session.settings
        day = trading_date(self._session.pace.clock.now(), settings.time_zone, settings.day_start)
        what = difference(liquid_hours, zone_name, day, settings.exchange_calendar)
        if what:
            detail = {"calendar": settings.exchange_calendar, "liquid_hours": liquid_hours, "time_zone": zone_name}
            self._session.note(Own.HOURS_DIFFER, f"{target.symbol}: {what}", detail, con_id=target.con_id)
            logger.warning("trading hours differ from the calendar", symbol=target.symbol, what=what)
