"""Calls users' strategies ahead of the fold, over the seconds in which nothing that they see can change.

A strategy's answer matters only when it acts. So the calls of many seconds are made at once, in the order of decisions
(clock by clock, symbol by symbol, strategy by strategy), up to the first answer that acts; it waits until the fold has
reached its second. The desk gives the end: the first second before which something may happen to what a strategy sees.
The answers are the same as with one call a second.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from harvester.projections.trading.fast.now_rows import NowRows
from harvester.projections.trading.position import STRATEGY_ERROR
from harvester.projections.trading.user_strategy import NUMBERS, GateRefusal, Now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from harvester.projections.trading.failure import Failure
    from harvester.projections.trading.fast.bucket_columns import Array
    from harvester.projections.trading.fast.market_now import MarketNow
    from harvester.projections.trading.strategy import Holding, Verdict
    from harvester.projections.trading.user_decider import UserDecider

_new = tuple.__new__
_SEQ, _TS = NUMBERS.index("seq"), NUMBERS.index("ts")


class Sight(Protocol):
    """What the calls need from the trading fold."""

    def held(self, con_id: int, name: str) -> Holding | None: ...

    def aligned(self, con_id: int) -> int: ...

    def why_not_live(self, con_id: int) -> str: ...


class Acting(NamedTuple):
    """An answer that acts, or a failure: at which slot, of the strategy of which seat."""

    slot: int
    seat: int
    verdict: Verdict
    failure: Failure | None


class _Caller(NamedTuple):
    """A strategy and, by key of a slot, the rest of its `Now`, its state and what is called."""

    seat: int
    rest: dict[int, tuple[tuple[Any, ...], Any, Callable[[Now], Any]]]
    own: dict[str, Any]
    user: UserDecider


class UserCalls:
    """The calls of a stretch.

    Args:
        sheet: number of the gates by slot and seat; 0 = none.
        numbered: gives gates a number.
    """

    def __init__(
        self,
        now: MarketNow,
        sight: Sight,
        users: Sequence[UserDecider | None],
        sheet: Array,
        numbered: Callable[[tuple[str, ...]], int],
    ) -> None:
        self._now, self._sight, self._sheet, self._numbered = now, sight, sheet, numbered
        self._rows: NowRows | None = None
        self._numbers: dict[tuple[str, ...], int] = {}
        self._callers: list[_Caller] = []
        for seat, user in enumerate(users):
            if user is not None:
                self._callers.append(_Caller(seat, {}, user.own, user))

    def run(self, begin: int, end: int, first: int = 0) -> Acting | None:
        """Call the strategies from seat `first` on for these slots; returns the first answer that acts, None = none.

        What is called after it must be called again.
        """
        for caller in [one for one in self._callers if one.user.failure is not None]:
            self._silence(caller, begin)
        callers = [caller for caller in self._callers if caller.seat >= first]
        if begin >= end or not callers:
            return None
        if self._rows is None:
            self._rows = NowRows(self._now)
        for caller in callers:
            caller.rest.clear()
        return self._run(begin, zip(self._rows.keys[begin:end], self._rows.numbers(begin, end), strict=True), callers)

    def _run(self, begin: int, rows: Iterable[tuple[int, tuple[Any, ...]]], callers: list[_Caller]) -> Acting | None:
        sheet, slot, seat, key, numbers = self._sheet, begin, -1, 0, ()
        try:
            for slot, (key, numbers) in enumerate(rows, begin):
                for seat, rest, own, user in callers:
                    try:
                        tail, own["state"], call = rest[key]
                    except KeyError:
                        tail, own["state"], call = rest[key] = self._rest(user, key, numbers)
                    now = _new(Now, numbers + tail)
                    answer = call(now)
                    if answer is None:
                        continue
                    if type(answer) is GateRefusal and (number := self._known(answer.codes)) is not None:
                        sheet[slot, seat] = number
                        continue
                    verdict = user.verdict(answer, now)
                    sheet[slot, seat] = self._number(verdict.gates)
                    if verdict.plan is not None or verdict.changes:
                        return Acting(slot, seat, verdict, None)
        except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001 - a user's code may raise anything
            return self._fail(slot, seat, numbers, key, error)
        return None

    def _rest(
        self, user: UserDecider, key: int, numbers: tuple[Any, ...]
    ) -> tuple[tuple[Any, ...], Any, Callable[[Now], Any]]:
        """What a strategy sees besides the numbers, its state and what is called; valid for one `run`."""
        assert self._rows is not None
        market = self._rows.rest(key)
        con_id = market.con_id
        why = "" if market.live else self._sight.why_not_live(con_id)
        if user.live_only and (why or not market.has_mid):
            refusal = GateRefusal((why or "NOT_LIVE",))
            self._number(refusal.codes)  # so that nothing reads this `Now`, which is not complete
            return (), None, lambda _: refusal
        known = user.known((numbers[_SEQ], numbers[_TS], con_id), market.symbol)
        opens, closes = self._now.session() or (None, None)
        held = self._sight.held(con_id, user.name)
        tail = (*market.fields, why, opens, closes, held, self._sight.aligned(con_id))
        tail = (*tail, known.shown, known.bars, user.candidates, known.flat_since)
        follows = held is not None and held.open and user.overlays
        call: Callable[[Now], Any] = partial(user.followed, known) if follows else user.on_second
        if user.recorded is not None:
            call = partial(user.until_failure, call)
        return tail, known.user, call

    def _silence(self, caller: _Caller, begin: int) -> None:
        """A strategy that has failed decides nothing from this slot on."""
        self._sheet[begin:, caller.seat] = self._numbered((STRATEGY_ERROR,))
        self._callers.remove(caller)

    def _known(self, codes: Any) -> int | None:
        """The number of gates that were checked before."""
        try:
            return self._numbers.get(codes)
        except TypeError:  # not hashable: not valid either
            return None

    def _number(self, gates: tuple[str, ...]) -> int:
        if gates not in self._numbers:
            self._numbers[gates] = self._numbered(gates)
        return self._numbers[gates]

    def _fail(self, slot: int, seat: int, numbers: tuple[Any, ...], key: int, error: BaseException) -> Acting:
        """Drop a strategy: from this slot on it decides nothing."""
        assert self._rows is not None
        (caller,) = [one for one in self._callers if one.seat == seat]
        rest = self._rows.rest(key)
        verdict, failure = caller.user.fail((numbers[_SEQ], numbers[_TS], rest.con_id, rest.symbol), error)
        self._silence(caller, slot)
        return Acting(slot, seat, verdict, failure)
