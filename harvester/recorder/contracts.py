"""Contract look-ups: the contract of each symbol, and a comparison of its trading hours with the calendar.

A look-up is repeated within `timeout_seconds` if the gateway dropped it (error 100), refused it for now or lost it in
an outage, or if the line was lost. An outage that the gateway has announced (1100) does not count as waiting.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import structlog

from harvester.calendar import trading_date
from harvester.errors import GatewayError, UnknownSymbol
from harvester.events import codes
from harvester.events.codes import Effect
from harvester.events.kinds import Own
from harvester.gateway.connection import ConnectionLost
from harvester.gateway.data_requests import EXCHANGE_NAMES, RequestTarget
from harvester.recorder import subscriptions as subs
from harvester.recorder.link import BACK_OFF_S, number
from harvester.recorder.trading_hours import hours_difference
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harvester.recorder.link import GatewayLink

logger = structlog.get_logger()
_FIELDS_MIN = 28  # fields of message 10 up to the liquid hours


class WantedContract(NamedTuple):
    """A symbol as the user writes it: `AAPL`, `BAC@NYSE` (listing exchange) or `BAC@10098` (con_id)."""

    symbol: str
    exchange: str = ""
    con_id: int = 0

    @classmethod
    def of(cls, text: str) -> WantedContract:
        """Read one symbol of `--symbols`."""
        symbol, _, place = text.rpartition("@") if "@" in text else (text, "", "")
        if place.isdigit() and place.isascii() and len(place) < 12:
            return cls(symbol, "", int(place))
        return cls(symbol, place.upper())

    def fits(self, target: RequestTarget) -> bool:
        """Whether a contract is on the exchange, or has the con_id, that was asked for."""
        if self.con_id:
            return target.con_id == self.con_id
        return not self.exchange or _same_exchange(target.primary_exchange, self.exchange)


def _same_exchange(one: str, other: str) -> bool:
    return EXCHANGE_NAMES.get(one, one) == EXCHANGE_NAMES.get(other, other)


class ContractLookup:
    """One contract look-up in flight; `asked_at` in pace time."""

    def __init__(self, symbol: str, asked_at: int) -> None:
        self.symbol, self.asked_at = symbol, asked_at
        self.matches: list[RequestTarget] = []
        self.hours: dict[int, tuple[str, str]] = {}  # by con_id: liquid hours, their time zone
        self.error: tuple[int, str] | None = None
        self.lost = self.dropped = self.in_outage = False
        self.pauses: tuple[float, ...] = subs.PACING_S  # before it is repeated, when it was dropped
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def unknown(self) -> bool:
        """Whether the gateway has no such contract."""
        return not self.matches if self.error is None else self.error[0] == codes.UNKNOWN_CONTRACT

    def finish(self) -> None:
        """Wake the coroutine that waits for it."""
        if not self.done.done():
            self.done.set_result(None)


def _without_repeats(targets: Iterable[RequestTarget]) -> list[RequestTarget]:
    """Each contract once, in order.

    Raises:
        UnknownSymbol: two contracts have one symbol: files and episodes of a date are told apart by it.
    """
    once = list({target.con_id: target for target in targets}.values())
    first: dict[str, RequestTarget] = {}
    for target in once:
        other = first.setdefault(target.symbol, target)
        if other is not target:
            raise UnknownSymbol(
                f"symbol {target.symbol!r} is given for two contracts, {other.con_id} on {other.primary_exchange} and "
                f"{target.con_id} on {target.primary_exchange}: record one of them, the other into another --home"
            )
    return once


class Contracts:
    """The look-ups on one line."""

    def __init__(self, line: GatewayLink) -> None:
        self._line = line
        self._flying: dict[int, ContractLookup] = {}
        self._restated: dict[int, tuple[RequestTarget, int]] = {}  # look-ups nobody waits for, and when they were sent
        self._back = asyncio.Event()  # set when a farm or the connection to IB returns

    # called by the session, for messages

    def matched(self, fields: list[str]) -> None:
        """Message 10: one matching contract."""
        lookup = self._flying.get(number(fields[1])) if len(fields) >= _FIELDS_MIN else None
        if lookup is not None and number(fields[12]) > 0:
            con_id, symbol = number(fields[12]), lookup.symbol
            symbol = fields[2] if fields[2].upper() == symbol.upper() else symbol  # in the gateway's letters
            lookup.matches.append(RequestTarget(symbol, con_id, fields[3], "SMART", fields[20], fields[8]))
            lookup.hours[con_id] = (fields[27], fields[25])

    def completed(self, req_id: int) -> None:
        """Message 52: the look-up has no more contracts."""
        self._restated.pop(req_id, None)
        if (lookup := self._flying.get(req_id)) is not None:
            lookup.finish()

    def refused(self, req_id: int, code: int, text: str) -> bool:
        """An error; returns whether its request id is a look-up's."""
        lookup = self._flying.get(req_id)
        effect = codes.meaning(code, text).effect
        if lookup is not None and effect not in {Effect.ADVICE, Effect.STATUS}:
            lookup.error = (code, text)
            # Without its servers a gateway may not find a contract that exists (ib_insync issue 330).
            blind = code == codes.UNKNOWN_CONTRACT and self._line.outages.under_way
            lookup.dropped = blind or effect in {Effect.PACING, Effect.FOR_NOW, Effect.NEW_ID}
            lookup.pauses = subs.PACING_S if effect is Effect.PACING else BACK_OFF_S
            lookup.finish()
        return lookup is not None or self._restated.pop(req_id, None) is not None

    def dropped(self, since: int) -> None:
        """The gateway has dropped messages: repeat the look-ups sent since `since` (pace time)."""
        for lookup in self._flying.values():
            if lookup.asked_at >= since:
                lookup.dropped = True
                lookup.finish()

    def lost(self, before: int) -> None:
        """IB's servers are back: repeat what was sent before `before` (pace time) and has no answer or was refused."""
        self._back.set()
        self._back = asyncio.Event()
        for lookup in self._flying.values():
            if lookup.asked_at < before:
                lookup.in_outage = True
                lookup.finish()
        unanswered = [target for target, asked_at in self._restated.values() if asked_at < before]
        self._restated = {n: (target, at) for n, (target, at) in self._restated.items() if at >= before}
        if unanswered:
            self._line.tasks.spawn(self.restate(unanswered))

    @property
    def in_flight(self) -> bool:
        """Whether a look-up waits for its answer."""
        return bool(self._flying or self._restated)

    def connection_lost(self) -> None:
        """No look-up on this connection will be answered."""
        self._restated.clear()
        for lookup in self._flying.values():
            lookup.lost = True
            lookup.finish()

    # called by the session, for requests

    async def resolve(self, symbols: Iterable[str]) -> list[RequestTarget]:
        """Look up every symbol, in order. If the line is lost, wait for the next connection and go on.

        Raises:
            UnknownSymbol: the gateway has no such contract, or several for one symbol; or two contracts of one symbol
                are given.
            GatewayError: no answer, or no new connection, within `timeout_seconds`.
        """
        line, targets = self._line, dict[str, RequestTarget]()
        limit = line.settings.timeout_seconds
        until = line.pace.patience() + round(limit * SECOND_NS)
        while True:
            try:
                if not targets:
                    await line.set_data_type()
                for symbol in dict.fromkeys(symbols):
                    if symbol not in targets:
                        same = (found for text, found in targets.items() if text.upper() == symbol.upper())
                        targets[symbol] = next(same, None) or await self._look_up(symbol)
            except ConnectionLost:
                left = (until - line.pace.patience()) / SECOND_NS
                if left <= 0 or not await line.wait_until_back(left):
                    where = f"{line.settings.gateway_host}:{line.settings.port}"
                    raise GatewayError(
                        f"{where} hung up while contracts were looked up, and no connection lasted within "
                        f"{limit:g} s; check its window and log"
                    ) from None
            else:
                return _without_repeats(targets.values())

    async def restate(self, targets: Iterable[RequestTarget]) -> None:
        """Look up known contracts again, so that the log of a new date describes them. Nothing waits for it."""
        for target in targets:
            await self._line.limits.message()
            if not self._line.connected:
                return
            req_id = self._line.new_req_id()
            self._restated[req_id] = (target, self._line.pace.now())
            self._line.requester.contract_details(req_id, target)

    async def _look_up(self, symbol: str) -> RequestTarget:
        wanted = WantedContract.of(symbol)
        lookup = await self._answer(wanted.symbol)
        if lookup.unknown and wanted.symbol != wanted.symbol.upper():  # IB's own symbols are in upper case
            wanted = wanted._replace(symbol=wanted.symbol.upper())
            lookup = await self._answer(wanted.symbol)
        if lookup.error is not None or not lookup.matches:
            code, text = lookup.error or (codes.UNKNOWN_CONTRACT, "empty answer")
            if code == codes.UNKNOWN_CONTRACT:
                hint = wanted.symbol.upper().replace(".", " ").replace("/", " ")
                meant = f"; IB writes classes of shares with a space: {hint!r}" if hint != wanted.symbol else ""
                if " " in wanted.symbol:
                    meant = f"; several symbols are separated by commas: --symbols {','.join(wanted.symbol.split())}"
                raise UnknownSymbol(
                    f"the gateway has no US stock {wanted.symbol!r} ({code}: {text}); check --symbols{meant}"
                )
            raise GatewayError(f"the gateway refused to look up {wanted.symbol!r} ({code}: {text})")
        chosen = self._choose(wanted, list({t.con_id: t for t in lookup.matches}.values()))
        self._check_hours(chosen, *lookup.hours[chosen.con_id])
        return chosen

    def _choose(self, wanted: WantedContract, matches: list[RequestTarget]) -> RequestTarget:
        """The contract that was asked for; of several, the only one on the preferred exchange.

        Raises:
            UnknownSymbol: none or several fit; the text names the candidates.
        """
        fitting = [target for target in matches if wanted.fits(target)]
        found = ", ".join(f"{t.symbol}@{t.con_id} on {t.primary_exchange or 'no exchange'}" for t in matches)
        if len(fitting) > 1:
            preferred = self._line.settings.primary_exchange
            listed = [t for t in fitting if _same_exchange(t.primary_exchange, preferred)]
            fitting = listed if len(listed) == 1 else fitting
        if len(fitting) == 1:
            if len(matches) > 1:
                chosen = fitting[0]
                logger.info("contract chosen", symbol=chosen.symbol, con_id=chosen.con_id, candidates=found)
            return fitting[0]
        given = f"{wanted.symbol}@{wanted.con_id or wanted.exchange}" if wanted[1:] != ("", 0) else wanted.symbol
        what = "is ambiguous" if fitting else "is none of the gateway's contracts"
        example = f"{matches[-1].symbol}@{matches[-1].primary_exchange or matches[-1].con_id}"
        raise UnknownSymbol(f"symbol {given!r} {what}: {found}; give one, for example --symbols '{example}'")

    async def _answer(self, symbol: str) -> ContractLookup:
        """Repeat until the answer is final, with growing pauses. The time limit starts again after an outage."""
        line, tries = self._line, 0
        limit_ns = round(line.settings.timeout_seconds * SECOND_NS)
        until = line.pace.patience() + limit_ns
        while True:
            lookup = await self._ask(symbol, (until - line.pace.patience()) / SECOND_NS)
            if lookup.in_outage:
                logger.info("contract look-up repeated after an outage", symbol=symbol)
                until = line.pace.patience() + limit_ns
                continue
            if not lookup.dropped or tries == len(lookup.pauses):
                return lookup
            if await line.pace.pause_or(self._back, lookup.pauses[tries], pacing=True):
                until = line.pace.patience() + limit_ns
            tries += 1

    async def _ask(self, symbol: str, seconds: float) -> ContractLookup:
        line = self._line
        await line.limits.message()
        req_id, lookup = line.new_req_id(), ContractLookup(symbol, line.pace.now())
        self._flying[req_id] = lookup
        try:
            line.requester.contract_details(req_id, RequestTarget(symbol))
            answered = await line.pace.within(lookup.done, max(seconds, 0.0))
            while not answered and line.outages.under_way and line.connected:
                answered = await line.pace.within(lookup.done, line.settings.timeout_seconds)
        finally:
            del self._flying[req_id]
        if lookup.lost:
            raise ConnectionLost(f"connection lost while {symbol} was looked up")
        if not answered:
            line.inbox.notice(Own.REQUEST_TIMEOUT, f"no contract details of {symbol}", req_id=req_id)
            raise GatewayError(
                f"no answer about {symbol} within {line.settings.timeout_seconds:g} s; "
                "check in the gateway's window that it is connected to IB's servers"
            )
        return lookup

    def _check_hours(self, target: RequestTarget, liquid_hours: str, zone_name: str) -> None:
        """Compare the calendar's session with the trading hours the gateway sent; note a difference."""
        settings = self._line.settings
        day = trading_date(self._line.pace.clock.now(), settings.time_zone, settings.day_start)
        what = hours_difference(liquid_hours, zone_name, day, settings.exchange_calendar)
        if what:
            detail = {"calendar": settings.exchange_calendar, "liquid_hours": liquid_hours, "time_zone": zone_name}
            self._line.inbox.notice(Own.HOURS_DIFFER, f"{target.symbol}: {what}", detail, con_id=target.con_id)
            logger.warning("trading hours are not the calendar's", symbol=target.symbol, what=what)
