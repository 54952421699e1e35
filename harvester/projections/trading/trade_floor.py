"""What strategies see of their trades, and what they send: entries, exits and changes, on their way to the exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harvester.projections.trading import episodes
from harvester.projections.trading.deciding import StrategyDesk
from harvester.projections.trading.episodes import Tracked
from harvester.projections.trading.failure import read_failure
from harvester.projections.trading.fast.market_now import MarketNow
from harvester.projections.trading.fast.position_watch import PositionWatch
from harvester.projections.trading.plan import Change, ChangeKind
from harvester.projections.trading.position import (
    HALTED,
    NOT_LIVE,
    OUTAGE,
    STRATEGY_ERROR,
    Position,
    Sent,
    opening_order,
    risk_per_share,
)
from harvester.projections.trading.simulated_exchange import price_step
from harvester.projections.trading.strategy import View
from harvester.projections.trading.trade_rows import TradeRows
from harvester.units import NEVER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harvester.projections.interval import Occurrence
    from harvester.projections.trading.deciding import Seat
    from harvester.projections.trading.failure import Failure
    from harvester.projections.trading.plan import EntryPlan
    from harvester.projections.trading.run_terms import RunTerms
    from harvester.projections.trading.strategies import Library
    from harvester.projections.trading.strategy import Holding, Verdict
    from harvester.projections.trading.trading_state import TradingState


class TradeFloor:
    """Between the strategies and the exchange; implements `deciding.Floor`.

    Args:
        state: of the trading fold.
        library: where strategies come from.

    Attributes:
        now, desk, blotter: the market, the strategies, and the rows written.
        watches: the positions followed in the stretch.
        due: next time at which a position must be checked, ns UTC.
        quiet: `Interval.quiet` of the current interval.
        failures: users' strategies that were dropped, in order.
    """

    def __init__(self, state: TradingState, library: Library) -> None:
        self.state, self._library = state, library
        self.now = MarketNow(state)
        self.desk = StrategyDesk(self.now, self)
        self.blotter = TradeRows(state.chains)
        self.watches: list[PositionWatch] = []
        self.due = self.quiet = 0
        self.failures: list[Failure] = []

    def holding(self, con_id: int, name: str) -> bool:
        """Whether the strategy has a position or a working entry."""
        return bool(self._known(con_id, name))

    def view(self, con_id: int, name: str, bucket: Mapping[str, Any]) -> View:
        """The strategy's view of the symbol."""
        now = self.now
        return View(
            seq=now.seq,
            ts=now.ts,
            con_id=con_id,
            symbol=now.seconds.symbols[con_id],
            bucket=bucket,
            shown=now.shown(con_id),
            session=now.session(),
            holding=self.holding(con_id, name),
            outage=now.outage(con_id),
            halted=con_id in self.state.halted,
            position=self.held(con_id, name),
        )

    def aligned(self, con_id: int) -> int:
        """1 when all timeframes of the symbol closed up, -1 all down, 0 neither."""
        return self.state.aligned.get(con_id, 0)

    def why_not_live(self, con_id: int) -> str:
        """Why a quote is not live now: OUTAGE, HALTED or NOT_LIVE."""
        if self.now.outage(con_id):
            return OUTAGE
        return HALTED if con_id in self.state.halted else NOT_LIVE

    def quiet_until(self) -> int:
        """Index of the next clock at which something may change what a user's strategy sees, besides the market."""
        state, now, clocks = self.state, self.now, self.now.seconds.clocks
        stop = self.quiet
        if state.terms is not None and state.terms.answer_ns and (state.active or state.unknown):
            return now.place + 1  # answers come between the events
        if stop > now.place and state.active:
            moved = clocks[:, 0].searchsorted(min(watch.next_seq for watch in self.watches))
            stop = min(stop, int(moved), int(clocks[:, 1].searchsorted(self.due)))
        return max(stop, now.place + 1)

    def dropped(self, failure: Failure) -> None:
        """Note that a user's strategy has failed. Unless a notice in the log will do so, close its positions."""
        self.failures.append(failure)
        if not self._library.waits_for_notice(failure.strategy):
            self.leave(failure, failure.seq, failure.ts)

    def drop(self, row: Occurrence) -> None:
        """A notice in the log drops a strategy: close its positions here."""
        failure = read_failure(row.text)
        if failure is None or not self._library.waits_for_notice(failure.strategy):
            return
        for user in [seat.user for seat in self.desk.seats]:
            if user is not None and (user.name, user.digest) == (failure.strategy, failure.digest):
                if user.failure is None:
                    user.drop(failure)
                    self.failures.append(failure)
                self.leave(failure, row.seq, row.ts)

    def leave(self, failure: Failure, seq: int, ts: int) -> None:
        """Send exits for the positions of a failed strategy, at the market; they cancel its entries."""
        terms = self.state.terms
        assert terms is not None, "a strategy decided before the first run start"
        of = failure.strategy, failure.digest
        for tracked in [t for t in self.state.active if (t.position.strategy, t.position.strategy_digest) == of]:
            change = Change(ChangeKind.EXIT, reason=STRATEGY_ERROR)
            self.send(tracked, change, (seq, ts), terms.latency_ns)

    def held(self, con_id: int, name: str) -> Holding | None:
        """What the strategy holds or has working in the symbol; None = nothing."""
        terms = self.state.terms
        mine = self._known(con_id, name)
        if not mine or terms is None:
            return None
        known = [position.known(self.now.ts - terms.answer_ns) for position in mine]
        return next((holding for holding in known if holding.entered), known[0])

    def _known(self, con_id: int, name: str) -> list[Position]:
        """The strategy's trades in the symbol that are not over as far as it knows, in the order of their entries."""
        state = self.state
        if not state.active and not state.unknown:
            return []
        positions = [tracked.position for tracked in state.active]
        mine = [one for one in positions if one.con_id == con_id and one.strategy == name]
        if state.unknown:
            mine += [p for p, _ in state.unknown if (p.con_id, p.strategy) == (con_id, name)]
            mine.sort(key=_number_of)
        return mine

    def allowed(self, con_id: int, verdict: Verdict) -> Verdict:
        """The verdict after the gates of the run's terms."""
        state = self.state
        if state.terms is not None and state.terms.aligned_only:
            return verdict.only_aligned(state.aligned.get(con_id, 0))
        return verdict

    def enter(self, view: View, seat: Seat, plan: EntryPlan) -> None:
        """Send an entry, and its rival."""
        terms = self.state.terms
        assert terms is not None, "a strategy decided before the first run start"
        for one in (plan, plan.rival):
            if one is not None:
                self._open(view, seat, one, terms)

    def _open(self, view: View, seat: Seat, plan: EntryPlan, terms: RunTerms) -> None:
        history = self.now.history(view.con_id)
        asked = view.shown.price(buy=plan.long) if view.shown.good else None
        near = asked or plan.limit or plan.trigger or 1.0
        tick = price_step(near, self.state.ticks.get(view.con_id))
        entry = opening_order(plan, tick, asked, share_max=terms.share_max, last_only=terms.last_only, deep=terms.deep)
        position = Position(
            con_id=view.con_id,
            symbol=view.symbol,
            strategy=seat.strategy.name,
            strategy_digest=seat.code,
            run=terms.run,
            decision_seq=view.seq,
            decision_ts=view.ts,
            gate_codes=[],
            plan=plan,
            entry=entry,
            sent=[Sent(view.seq, view.ts + terms.latency_ns, self._next_number())],
            number=self.state.sent,
            tick=tick,
            stop_at=plan.stop,
            target_at=plan.target,
            risk=risk_per_share(plan, entry.reference_price, tick, terms.costs),
        )
        window, before = episodes.window_before(self.now.newest(view.con_id), view.ts)
        tracked = Tracked(position, terms.costs, terms.memory, terms.trading_date, window, {})
        self.state.active.append(tracked)
        watch = PositionWatch(tracked, self.now.seen(view.con_id)[0], history.upto(self.now.closed), NEVER)
        watch.before = before
        self.watches.append(watch)
        at, bucket_ts = (view.seq, view.ts), view.bucket["ts"]
        self.decided(position, "enter", plan.reason, at=at, bucket_ts=bucket_ts, price=entry.reference_price)
        self.changed(view.con_id)

    def change(self, view: View, seat: Seat, changes: Sequence[Change]) -> None:
        """Send changes of the strategy's position in the symbol."""
        terms = self.state.terms
        assert terms is not None, "a strategy decided before the first run start"
        mine = (view.con_id, seat.strategy.name)
        for tracked in [t for t in self.state.active if (t.position.con_id, t.position.strategy) == mine]:
            for change in changes:
                self.send(tracked, change, (view.seq, view.ts), terms.latency_ns)

    def send(self, tracked: Tracked, change: Change, at: tuple[int, int], latency_ns: int) -> None:
        """Send a message about a position; a second exit is not sent."""
        position = tracked.position
        shown = self.now.shown(position.con_id)
        leaving = change.kind is ChangeKind.EXIT
        price = change.price
        if leaving:
            if position.leaving:
                return
            position.sent_exit = True
            price = shown.price(buy=not position.plan.long) if shown.good else None
        position.sent.append(Sent(at[0], at[1] + latency_ns, self._next_number(), change, price if leaving else None))
        newest = self.newest(position.con_id)
        action, reason = ("exit", change.reason) if leaving else ("change", change.kind.value)
        self.decided(position, action, reason, at=at, bucket_ts=newest, price=price)
        self.changed(position.con_id)

    def _next_number(self) -> int:
        self.state.sent += 1
        return self.state.sent

    def changed(self, con_id: int) -> None:
        """React to an order placed, filled or cancelled."""
        self.due = 0
        self.desk.changed(con_id)

    def decided(self, position: Position, action: str, reason: str, **about: Any) -> None:
        """Write a decision to act, at its place among those to do nothing."""
        after = self.desk.passed_count
        self.blotter.decided(position, action, reason, after=after, **about)

    def newest(self, con_id: int) -> int | None:
        """Start of the symbol's newest closed bucket, ns UTC."""
        rows = self.now.newest(con_id)
        return int(rows["ts"][-1]) if len(rows) else None

    def cool_down(self, position: Position, ts: int) -> None:
        """Report to its strategy that a trade is over since `ts`, ns UTC, once its answer has come (rule 20)."""
        if self.state.terms is not None and self.state.terms.answer_ns:
            self.state.unknown.append((position, ts))
        else:
            self.desk.finished(position, ts)
        self.changed(position.con_id)

    def answer(self, now: int) -> None:
        """Report the ends of trades whose answer has come by `now`, ns UTC (rule 20)."""
        state = self.state
        assert state.terms is not None, "a trade is over before the first run start"
        due = now - state.terms.answer_ns
        answered = [one for one in state.unknown if one[1] <= due]
        state.unknown = [one for one in state.unknown if one[1] > due]
        for position, ts in answered:
            self.desk.finished(position, ts)
            self.desk.changed(position.con_id)


def _number_of(position: Position) -> int:
    return position.number
