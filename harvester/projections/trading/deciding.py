"""Which strategy decides in which second, and the gates that refused it.

A screen rules out slots that cannot give a plan; its strategy is called only at the others. A strategy without a screen
is called at every slot. The result is the same as calling every strategy at every slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from harvester.projections.trading.strategies import SCREENS, SHIPPED
from harvester.projections.trading.trade_rows import Kind, Watched
from harvester.projections.trading.user_calls import Acting, UserCalls
from harvester.projections.trading.user_decider import UserDecider
from harvester.units import NEVER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harvester.projections.interval import News
    from harvester.projections.trading.failure import Failure
    from harvester.projections.trading.fast.bucket_columns import Array
    from harvester.projections.trading.fast.market_now import MarketNow
    from harvester.projections.trading.plan import Change, EntryPlan
    from harvester.projections.trading.position import Position
    from harvester.projections.trading.strategies import Library
    from harvester.projections.trading.strategy import Decider, Holding, Screen, Verdict, View

SCREENED_MIN = 8  # for fewer seconds of a symbol, a screen costs more than it saves


class Seat(NamedTuple):
    """A running strategy, its recorded digest and that of the running code."""

    strategy: Decider
    recorded: str
    code: str
    screen: type[Screen] | None = None

    @classmethod
    def of(cls, name: str, recorded: str, settings: Mapping[str, Any], library: Library = SHIPPED) -> Seat:
        """A fresh strategy.

        Raises:
            CodeChanged: the library does not have it.
        """
        strategy, code = library.make(name, recorded, settings)
        return cls(strategy, recorded, code, SCREENS.get(name))

    @property
    def user(self) -> UserDecider | None:
        """The strategy, when it is a user's class."""
        return self.strategy if isinstance(self.strategy, UserDecider) else None


class Floor(Protocol):
    """What a desk needs from the trading fold."""

    def holding(self, con_id: int, name: str) -> bool: ...

    def view(self, con_id: int, name: str, bucket: Mapping[str, Any]) -> View: ...

    def allowed(self, con_id: int, verdict: Verdict) -> Verdict: ...

    def enter(self, view: View, seat: Seat, plan: EntryPlan) -> None: ...

    def change(self, view: View, seat: Seat, changes: Sequence[Change]) -> None: ...

    def held(self, con_id: int, name: str) -> Holding | None: ...

    def aligned(self, con_id: int) -> int: ...

    def why_not_live(self, con_id: int) -> str: ...

    def quiet_until(self) -> int: ...

    def dropped(self, failure: Failure) -> None: ...


class StrategyDesk:
    """The seats, and a sheet of gates by slot and seat for the current stretch.

    Attributes:
        seats: the run's strategies.
        has_users: whether a user's class is among them.
    """

    def __init__(self, now: MarketNow, floor: Floor) -> None:
        self._now, self._floor = now, floor
        self.seats: list[Seat] = []
        self._gates: list[tuple[str, ...]] = [()]  # by their number on the sheet
        self._numbers: dict[tuple[str, ...], int] = {(): 0}
        self._known: dict[tuple[str, ...], dict[int, int]] = {}  # numbers by a screen's codes and bits
        self._kind_of: dict[tuple[int, str, str, int], int] = {}  # by symbol, strategy, digest and gates
        self._kinds: list[Kind] = []  # of decisions to do nothing: see `Watched`
        self._passed = 0  # decisions to do nothing handed out so far
        self.follow()

    def follow(self) -> None:
        """Start the next stretch; the previous one must be settled."""
        self._seconds = self._now.seconds
        self._slot_ends = np.array(self._seconds.slot_ends, np.int64)
        self.seat(self.seats)

    def seat(self, seats: Sequence[Seat]) -> None:
        """Replace the seats from the next slot on; the previous ones must be settled."""
        self.seats = list(seats)
        self._users = [seat.user for seat in seats]
        self.has_users = any(user is not None for user in self._users)
        self._shipped = [s for s, user in enumerate(self._users) if user is None]
        self._eager = [s for s in self._shipped if seats[s].screen is None]
        self._sheet = np.zeros((len(self._seconds.slots), len(seats)), np.int64)
        self._asking = 0  # the seat that is deciding the slot
        self._reported = self._now.slot * len(seats)
        self._entered: list[int] = []  # by slot and seat since then: decisions to enter
        self._since = self._now.closed  # a new seat does not see earlier rows
        self._observed: dict[tuple[int, int], int] = {}  # by symbol and seat: rows of its history
        self._calls = bytearray(self._sheet.size)  # by slot and seat: 1 = `decide` must be called
        self._asks = np.frombuffer(self._calls, np.bool_).reshape(self._sheet.shape)  # the same as a table
        self._screens: dict[tuple[int, int], tuple[Screen, int]] = {}  # and the first history row it has seen
        self._next = 0  # the next slot at which `decide` must be called
        self._calls_of_users = UserCalls(self._now, self._floor, self._users, self._sheet, self._numbered)
        self._called = self._now.slot if self.has_users else NEVER  # slots for which users' strategies were called
        self._acting: Acting | None = None  # the answer that waits for its slot
        self._stale: dict[int, bool] = {}  # symbols to be screened again, and whether by a new screen
        self.changed(rebuild=True)

    def changed(self, con_id: int = 0, *, rebuild: bool = False) -> None:
        """Screen a symbol (0 = all) again after a change of its position; `rebuild`: other inputs changed too."""
        for symbol in self._seconds.symbols if con_id == 0 else (con_id,):
            if symbol in self._seconds.symbols:
                self._stale[symbol] = rebuild or self._stale.get(symbol, False)

    def decide(self) -> None:
        """Take in the buckets of the current clock and decide its slots."""
        place = self._now.place
        upto, self._now.closed = self._seconds.slot_ends[place], self._seconds.ends[place]
        if self._eager:
            for row in self._seconds.between(place):
                con_id = int(self._seconds.con_ids[row])
                for s in self._eager:
                    self._observe(con_id, s, self._now.history(con_id).upto(row + 1))
        while self.seats:
            if self._stale:
                self._refresh()
            if self._called < upto and self._acting is None:
                self._call(self._called, self._seconds.slot_ends[max(place, self._floor.quiet_until() - 1)])
            slot = self._next if self._acting is None else min(self._next, self._acting.slot)
            if slot >= upto:
                break
            self._ask(slot)
        self._now.slot = upto

    def learn(self, news: News) -> None:
        """Hand users' strategies what only they read."""
        for user in self._users:
            if user is not None:
                user.learn(news)

    def finished(self, position: Position, ts: int) -> None:
        """Report to the strategy that a position is flat or was never filled (`ts` ns UTC)."""
        for s, seat in enumerate(self.seats):
            if (seat.strategy.name, seat.code) == (position.strategy, position.strategy_digest):
                self._observe(position.con_id, s, self._now.history(position.con_id).upto(self._now.closed))
                seat.strategy.finished(position.con_id, ts)

    def settle(self) -> None:
        """Let every strategy observe the buckets closed so far."""
        for con_id in self._seconds.symbols:
            upto = self._now.history(con_id).upto(self._now.closed)
            for s in range(len(self.seats)):
                self._observe(con_id, s, upto)

    @property
    def passed_count(self) -> int:
        """Number of decisions to do nothing so far."""
        return self._passed + self._now.slot * len(self.seats) + self._asking - self._reported - len(self._entered)

    def passed(self) -> Watched | None:
        """The decisions to do nothing since the last call, in order; None when there are none."""
        seconds, n, begin = self._seconds, len(self.seats), self._reported
        self._reported = self._now.slot * n + self._asking
        places = np.arange(begin, self._reported)
        if self._entered:
            places, self._entered = np.delete(places, np.array(self._entered, np.int64) - begin), []
        self._passed += len(places)
        if not len(places):
            return None
        slots, seats = np.divmod(places, n)
        rows = seconds.slots[slots]
        clocks = seconds.clocks[self._slot_ends.searchsorted(slots, "right")]
        kinds = self._kinds_of(seconds.whose[rows], seats, self._sheet[slots, seats])
        return Watched(clocks[:, 0], clocks[:, 1], seconds.rows["ts"][rows], kinds, self._kinds)

    def _kinds_of(self, symbols: Array, seats: Array, numbers: Array) -> Array:
        """Kinds by symbol, seat and number of the gates."""
        shape = len(self._seconds.symbols), len(self.seats), len(self._gates)
        places = np.ravel_multi_index((symbols, seats, numbers), shape)
        found = np.bincount(places).nonzero()[0]
        con_ids = list(self._seconds.symbols)
        keys = zip(*(part.tolist() for part in np.unravel_index(found, shape)), strict=True)
        kinds = [self._kind(con_ids[symbol], s, number) for symbol, s, number in keys]
        by_place = np.zeros(found[-1] + 1, np.int64)
        by_place[found] = kinds
        return by_place[places]

    def _kind(self, con_id: int, s: int, number: int) -> int:
        strategy, code = self.seats[s].strategy.name, self.seats[s].code
        kind = self._kind_of.setdefault((con_id, strategy, code, number), len(self._kinds))
        if kind == len(self._kinds):
            gates = "|".join(self._gates[number])
            self._kinds.append((con_id, self._seconds.symbols[con_id], strategy, code, "none", gates))
        return kind

    def gates(self, name: str, slots: Array) -> list[list[str]] | None:
        """The gates of the strategy at these slots; None when there is no such strategy."""
        for s, seat in enumerate(self.seats):
            if seat.strategy.name == name:
                return [list(self._gates[number]) for number in self._sheet[slots, s].tolist()]
        return None

    def _refresh(self) -> None:
        if len(self._seconds.clocks) < SCREENED_MIN:
            self._asks[self._now.slot :, self._shipped] = True
        else:
            for con_id, rebuild in self._stale.items():
                for s in self._shipped:
                    self._look(con_id, s, rebuild=rebuild)
        self._stale = {}
        self._find_next()

    def _find_next(self) -> None:
        at = self._now.slot * len(self.seats)
        if at < len(self._calls) and self._calls[at]:
            self._next = self._now.slot
            return
        found = self._calls.find(1, at)
        self._next = NEVER if found < 0 else found // len(self.seats)

    def _look(self, con_id: int, s: int, *, rebuild: bool) -> None:
        """Find the slots of the symbol at which the seat must decide, and note its gates at the others."""
        seat, history = self.seats[s], self._now.history(con_id)
        since = history.from_slot(self._now.slot)
        slots = history.slots[since - history.before :]
        screen, first = (None, 0) if rebuild else self._screens.get((con_id, s), (None, 0))
        if screen is None:
            self._screens.pop((con_id, s), None)
            if seat.screen is None or len(slots) < SCREENED_MIN:
                self._asks[slots, s] = True
                return
            self._observe(con_id, s, since)
            screen, first = seat.screen(seat.strategy, self._now.ahead(con_id, since)), since
            self._screens[con_id, s] = screen, first
        gates, asks = screen.look(since - first, holding=self._floor.holding(con_id, seat.strategy.name))
        newest = np.append(slots[1:] != slots[:-1], True)[: len(slots)]
        self._sheet[slots[newest], s] = self._number(gates[newest], screen.codes)
        self._asks[slots[newest], s] = asks[newest]

    def _number(self, gates: Array, codes: tuple[str, ...]) -> Array:
        numbers, listed = self._known.setdefault(codes, {}), gates.tolist()
        for bits in dict.fromkeys(listed):
            if bits not in numbers:
                numbers[bits] = self._numbered(tuple(code for k, code in enumerate(codes) if bits >> k & 1))
        return np.array([numbers[bits] for bits in listed], np.int64)

    def _numbered(self, gates: tuple[str, ...]) -> int:
        number = self._numbers.setdefault(gates, len(self._gates))
        if number == len(self._gates):
            self._gates.append(gates)
        return number

    def _call(self, begin: int, end: int, first: int = 0) -> None:
        """Call users' strategies for these slots, up to the first answer that acts."""
        self._acting = self._calls_of_users.run(begin, end, first)
        self._called = end if self._acting is None else self._acting.slot + 1

    def _ask(self, slot: int) -> None:
        self._now.slot = slot
        for s in range(len(self.seats)):
            if self._asks[slot, s]:
                self._asking = s
                self._ask_shipped(slot, s)
            elif (acting := self._acting) is not None and (acting.slot, acting.seat) == (slot, s):
                self._asking = s
                self._act_user(acting)
                self._call(slot, slot + 1, s + 1)
        self._asking = 0
        self._now.slot = slot + 1
        self._find_next()

    def _ask_shipped(self, slot: int, s: int) -> None:
        row = int(self._seconds.slots[slot])
        con_id, seat = int(self._seconds.con_ids[row]), self.seats[s]
        history = self._now.history(con_id)
        upto = history.upto(row + 1)
        self._observe(con_id, s, upto)
        view = self._floor.view(con_id, seat.strategy.name, history.row(upto - 1))
        self._act(slot, s, view, self._floor.allowed(con_id, seat.strategy.decide(view)))

    def _act_user(self, acting: Acting) -> None:
        slot, s, verdict, failure = acting
        if failure is not None:
            self._floor.dropped(failure)
            return
        row = int(self._seconds.slots[slot])
        con_id = int(self._seconds.con_ids[row])
        history = self._now.history(con_id)
        view = self._floor.view(con_id, self.seats[s].strategy.name, history.row(history.upto(row + 1) - 1))
        self._act(slot, s, view, self._floor.allowed(con_id, verdict))

    def _act(self, slot: int, s: int, view: View, verdict: Verdict) -> None:
        """Note the gates, and send what the strategy wants."""
        self._sheet[slot, s] = self._numbered(verdict.gates)
        if verdict.plan is not None and not verdict.gates:
            self._floor.enter(view, self.seats[s], verdict.plan)
            self._entered.append(slot * len(self.seats) + s)
        if verdict.changes:
            self._floor.change(view, self.seats[s], verdict.changes)

    def _observe(self, con_id: int, s: int, upto: int) -> None:
        if self._users[s] is not None:
            return
        seat, history = self.seats[s], self._now.history(con_id)
        begin = self._observed.get((con_id, s))
        if begin is None:
            begin = history.upto(self._since)
        if begin < upto:
            if seat.screen is None or upto - begin == 1:
                for at in range(begin, upto):
                    seat.strategy.observe(con_id, history.row(at))
            else:
                seat.screen.observe(seat.strategy, con_id, history.rows[begin:upto])
        self._observed[con_id, s] = max(begin, upto)
