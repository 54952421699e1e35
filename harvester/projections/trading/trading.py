"""The trading fold: market intervals in, decisions, fills and episodes out.

At each clock, in this order: working orders are matched against the interval's observations in seq order, run starts
and outages among them; expired orders are cancelled; strategies take in the closed buckets and decide (`desk`);
episodes whose last second has closed are handed out. Orders placed at a clock can fill from the next interval on. At
the end of the date, events after the last clock are ignored, except run starts.

A trade keeps the cost table of the run that decided it; an exit, a run change included, has the latency of the current
or starting run. Trades are numbered within their symbol as they end; those open at the end of the date by decision.

Intervals come in stretches, and most of them change nothing. Some state is updated only when it is read: quotes in
force (`MarketNow`), open profits and series (`PositionWatch`), decisions to do nothing (`_write_passed`).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from harvester.events.kinds import SourceKind
from harvester.projections.interval import OccurrenceKind
from harvester.projections.trading import episodes
from harvester.projections.trading.deciding import Seat, StrategyDesk
from harvester.projections.trading.episodes import SymbolHealth, Tracked
from harvester.projections.trading.fast.market_now import MarketNow
from harvester.projections.trading.fast.position_watch import PositionWatch, next_seq
from harvester.projections.trading.position import DATA_END, RUN_CHANGE, SESSION_END, TIME_STOP, Position
from harvester.projections.trading.run_terms import RunTerms
from harvester.projections.trading.simulated_exchange import Order, OrderType
from harvester.projections.trading.strategy import View
from harvester.projections.trading.trade_rows import TradeRows
from harvester.projections.trading.trading_state import TradingState
from harvester.units import NEVER, SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pyarrow as pa

    from harvester.projections.interval import Interval, Occurrence
    from harvester.projections.run_params import RunParams
    from harvester.projections.trading.position import EntryPlan
    from harvester.projections.trading.strategy import Verdict


class Trading:
    """Strategies and the simulated exchange; implements `projections.base.TradingSide`."""

    name = "trading"

    def __init__(self) -> None:
        self._begin(TradingState())

    def _begin(self, state: TradingState) -> None:
        self._state = state
        self._blotter = TradeRows(state.chains)
        self._now = MarketNow(state)
        self._desk = StrategyDesk(self._now, self)
        self._watches: list[PositionWatch] = []
        self._due = 0  # next time at which a position must be checked, ns UTC

    def on_run_start(self, params: RunParams, seq: int, ts: int) -> None:
        """Start a run, at its place among the observations of its interval."""
        state = self._state
        state.runs += 1
        state.starting.append((seq, ts, RunTerms.of(params, f"r{state.runs:03d}")))
        if state.terms is None:
            self._start_runs(seq)

    def on_interval(self, interval: Interval) -> None:
        """Fold one interval, in the order the module's text gives."""
        state = self._state
        if interval.tape is not self._now.tape:
            self._follow(interval)
        self._now.advance(interval)
        if interval.happenings or state.starting:
            self._apply_facts(interval)
        self._advance(interval.seq)
        if state.active and interval.ts >= self._due:
            self._expire(interval.seq, interval.ts)
        self._desk.decide()
        if state.ending:
            self._release(interval.seq, interval.ts)

    def finish(self, seq: int, ts: int) -> None:
        """End the date: open positions become episodes `DATA_END`, unfilled entries are recorded as unfilled."""
        self._settle()
        self._start_runs(seq)
        for tracked in list(self._state.active):
            position = tracked.position
            position.cancel_entry()
            if position.never_filled:
                self._unfilled(tracked, DATA_END, seq, ts)
                continue
            last = self._now.shown(position.con_id).price(buy=not position.plan.long)
            self._end(self._watch(tracked), (ts, seq, last or None))
        self._release(seq, ts + SECOND_NS)

    def take_rows(self) -> dict[str, pa.RecordBatch]:
        """Rows finished since the last call, by table; tables without rows are left out."""
        self._write_passed()
        return self._blotter.take()

    def digest(self) -> str:
        """Hash over every row written so far and the state, 32 hex digits."""
        return hashlib.blake2b(self.snapshot(), digest_size=16).hexdigest()

    def snapshot(self) -> bytes:
        """The whole state as MessagePack; equal states are equal bytes. Rows not yet taken are not part of it."""
        self._settle()
        state = self._state
        state.chains = self._blotter.chains
        state.strategies = [seat.strategy.snapshot() for seat in self._desk.seats]
        self._now.write_history()
        return msgspec.msgpack.encode(state)

    def restore(self, data: bytes) -> None:
        """The inverse of `snapshot`."""
        state = msgspec.msgpack.decode(data, type=TradingState)
        self._begin(state)
        self._desk.seat([Seat.of(*ref) for ref in state.terms.strategies] if state.terms else [])
        for seat, saved in zip(self._desk.seats, state.strategies, strict=True):
            seat.strategy.restore(saved)
        self._watch_all()

    # state that is updated only when it is read

    def _follow(self, interval: Interval) -> None:
        """Start the next stretch."""
        self._settle()
        self._now.follow(interval)
        self._desk.follow()
        self._now.expect_symbols(decided=bool(self._desk.seats))
        self._watch_all()
        self._due = 0
        for watch in self._watches:
            if not watch.tracked.trade_id:
                con_id = watch.tracked.position.con_id
                watch.plan(self._now.tape, self._now.shown(con_id), *self._now.seen(con_id))

    def _watch_all(self) -> None:
        """Watch every position from the beginning of the stretch."""
        followed = (*self._state.active, *self._state.ending)
        self._watches = [PositionWatch(t, 0, self._now.history(t.position.con_id).before, NEVER) for t in followed]

    def _settle(self) -> None:
        """Update everything up to now."""
        self._write_passed()
        self._now.settle()
        for watch in self._watches:
            if not watch.tracked.trade_id:
                watch.look(self._now.tape, self._now.seen(watch.tracked.position.con_id)[0])
            self._extend_series(watch)
            watch.write_pre()
        self._desk.settle()

    def _write_passed(self) -> None:
        """Write the decisions to do nothing so far."""
        if (passed := self._desk.passed()) is not None:
            self._blotter.watched(passed)

    def _decided(self, position: Position, action: str, reason: str, **about: Any) -> None:
        """Write a decision to act, at its place among those to do nothing."""
        after = self._desk.passed_count
        self._blotter.decided(position, action, reason, after=after, **about)

    def _extend_series(self, watch: PositionWatch) -> None:
        watch.extend_series(self._now.history(watch.tracked.position.con_id), self._now.closed, self._desk)

    # called by the desk

    def holding(self, con_id: int, name: str) -> bool:
        """Whether the strategy has a position or a working entry."""
        return any((t.position.con_id, t.position.strategy) == (con_id, name) for t in self._state.active)

    def view(self, con_id: int, name: str, bucket: Mapping[str, Any]) -> View:
        """The strategy's view of the symbol."""
        now = self._now
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
        )

    def allowed(self, con_id: int, verdict: Verdict) -> Verdict:
        """The verdict after the gates of the run's terms."""
        state = self._state
        if state.terms is not None and state.terms.aligned_only:
            return verdict.only_aligned(state.aligned.get(con_id, 0))
        return verdict

    def enter(self, view: View, seat: Seat, plan: EntryPlan) -> None:
        """Take a position."""
        terms, history = self._state.terms, self._now.history(view.con_id)
        assert terms is not None, "a strategy decided before the first run start"
        reference = view.shown.price(buy=plan.long) if view.shown.good else None
        not_before = view.ts + terms.latency_ns
        entry = Order(
            type=OrderType.MARKET,
            buy=plan.long,
            quantity=plan.quantity,
            after_seq=view.seq,
            not_before=not_before,
            expires=not_before + int(plan.valid_seconds * SECOND_NS),
            reference="quote_at_decision",
            reference_price=reference,
        )
        name, code = seat.strategy.name, seat.code
        position = Position(view.con_id, view.symbol, name, code, terms.run, view.seq, view.ts, [], plan, entry)
        window, before = episodes.window_before(self._now.newest(view.con_id), view.ts)
        tracked = Tracked(position, terms.costs, terms.memory, terms.trading_date, window, {})
        self._state.active.append(tracked)
        watch = PositionWatch(tracked, self._now.seen(view.con_id)[0], history.upto(self._now.closed))
        watch.before = before
        self._watches.append(watch)
        self._follow_closely(watch)
        at, bucket_ts = (view.seq, view.ts), view.bucket["ts"]
        self._decided(position, "enter", plan.reason, at=at, bucket_ts=bucket_ts, price=reference)
        self._changed(view.con_id)

    def _changed(self, con_id: int) -> None:
        """React to an order placed, filled or cancelled."""
        self._due = 0
        self._desk.changed(con_id)

    # the observations of an interval, in seq order

    def _apply_facts(self, interval: Interval) -> None:
        """Apply run starts and happenings at their place among the observations."""
        self._now.count()
        self._now.register_symbols()
        facts: list[tuple[int, Callable[[Any], None], Any]] = [
            (h.seq, self._on_happening, h) for h in interval.happenings
        ]
        facts += [(s[0], self._on_run, s) for s in self._state.starting]
        for seq, take, row in sorted(facts, key=_seq_of):
            self._advance(seq)
            take(row)

    def _advance(self, through: int) -> None:
        """Apply the observations up to and including seq `through`."""
        while self._watches:
            first = min(self._watches, key=next_seq)
            if first.next_seq > through:
                break
            self._now.until = first.next_seq
            self._match(first.tracked.position.con_id)
        self._now.until = through

    def _match(self, con_id: int) -> None:
        """Match every position of the symbol against the current observation."""
        now = self._now
        seen, shown = now.line(con_id).observation(now.until), now.shown(con_id)
        quotes, trades = now.seen(con_id)
        for watch in [w for w in self._watches if w.tracked.position.con_id == con_id and not w.tracked.trade_id]:
            watch.look(now.tape, quotes - (seen.price is None))
            watch.looked = quotes  # `step` below takes this one in
            tracked = watch.tracked
            if not tracked.position.fills:
                self._extend_series(watch)  # closed seconds are before the first fill
            for role, fill in tracked.position.step(seen, shown, tracked.costs):
                self._blotter.filled(tracked.position, role, fill)
                self._due = 0
            if tracked.position.closed:
                self._end(watch)
            else:
                watch.plan(now.tape, shown, quotes, trades)

    def _on_happening(self, row: Occurrence) -> None:
        state = self._state
        health = state.health.setdefault(row.con_id, SymbolHealth())
        if row.what is OccurrenceKind.OUTAGE_BEGIN:
            health.outages += 1
            if row.con_id not in state.outages:
                state.outages.append(row.con_id)
            for con_id in [c for c in state.shown if row.con_id in (0, c)]:
                self._now.shown(con_id).lose()
        elif row.what is OccurrenceKind.OUTAGE_END:
            state.outages = [c for c in state.outages if c != row.con_id]
        elif row.what is OccurrenceKind.REFUSED:
            health.refused += 1
        elif row.what is OccurrenceKind.DATA_TYPE:
            health.data_type = row.value
        elif row.what is OccurrenceKind.ALIGNED:
            state.aligned[row.con_id] = row.value
        elif row.what is OccurrenceKind.SOURCE:
            state.kind = tuple(SourceKind)[row.value].value
        if row.what in (OccurrenceKind.OUTAGE_BEGIN, OccurrenceKind.OUTAGE_END):
            self._desk.changed(row.con_id, rebuild=True)

    def _on_run(self, row: tuple[int, int, RunTerms]) -> None:
        self._start_runs(row[0])

    def _start_runs(self, through_seq: int) -> None:
        """Start the runs up to a seq: quotes become unknown, positions of changed strategies are closed."""
        state = self._state
        while state.starting and state.starting[0][0] <= through_seq:
            self._settle()
            seq, ts, terms = state.starting.pop(0)
            for con_id in list(state.shown):
                self._now.shown(con_id).lose()
            state.outages = []
            kept = {(seat.strategy.name, seat.recorded): seat for seat in self._desk.seats}
            still = [(name, was) for name, was, _ in terms.strategies]
            gone = [name for name, was in kept if (name, was) not in still]
            for tracked in [t for t in state.active if t.position.strategy in gone]:
                self._leave(tracked, RUN_CHANGE, (seq, ts), terms.latency_ns)
            state.terms = terms
            self._desk.seat([kept.get(ref[:2]) or Seat.of(*ref) for ref in terms.strategies])
            self._now.expect_symbols(decided=bool(terms.strategies))
            self._due = 0

    # at the clock

    def _expire(self, seq: int, ts: int) -> None:
        """Cancel expired entries and close positions whose time is over."""
        terms = self._state.terms
        for tracked in list(self._state.active):
            position = tracked.position
            if position.entry.expires is not None and ts >= position.entry.expires:
                position.cancel_entry()
                if position.never_filled:
                    self._unfilled(tracked, "EXPIRED", seq, ts)
            if position.open == 0 or terms is None:
                continue
            flat_by = self._flat_by(position.strategy)
            if flat_by is not None and ts >= flat_by:
                self._leave(tracked, SESSION_END, (seq, ts), terms.latency_ns)
            elif ts >= _hold_until(position):
                self._leave(tracked, TIME_STOP, (seq, ts), terms.latency_ns)
        self._due = min((self._due_of(tracked.position) for tracked in self._state.active), default=NEVER)

    def _due_of(self, position: Position) -> int:
        """Next time at which a position must be checked if nothing happens before, ns UTC."""
        times = [position.entry.expires] if position.entry.left and position.entry.expires is not None else []
        if position.open and position.exit is None:
            flat_by = self._flat_by(position.strategy)
            times += [_hold_until(position), *([] if flat_by is None else [flat_by])]
        return min(times, default=NEVER)

    def _flat_by(self, name: str) -> int | None:
        session = self._now.session()
        return next((s.strategy.flat_by(session) for s in self._desk.seats if s.strategy.name == name), None)

    def _leave(self, tracked: Tracked, reason: str, at: tuple[int, int], latency_ns: int) -> None:
        position = tracked.position
        self._follow_closely(self._watch(tracked))
        leaving = position.leave(reason, at[0], at[1] + latency_ns, self._now.shown(position.con_id))
        if position.never_filled:
            self._unfilled(tracked, reason, *at)
        elif leaving and position.exit is not None:
            price = position.exit.reference_price
            newest = self._newest(position.con_id)
            self._decided(position, "exit", reason, at=at, bucket_ts=newest, price=price)

    def _watch(self, tracked: Tracked) -> PositionWatch:
        return next(watch for watch in self._watches if watch.tracked is tracked)

    def _follow_closely(self, watch: PositionWatch) -> None:
        """Match every observation from here on: the position gets an order besides its bracket."""
        con_id = watch.tracked.position.con_id
        watch.next_seq = self._now.line(con_id).next_seq(*self._now.seen(con_id))

    def _unfilled(self, tracked: Tracked, reason: str, seq: int, ts: int) -> None:
        position = tracked.position
        self._state.active.remove(tracked)
        self._watches.remove(self._watch(tracked))
        price = position.entry.reference_price
        newest = self._newest(position.con_id)
        self._decided(position, "unfilled", reason, at=(seq, ts), bucket_ts=newest, price=price)
        self._cool_down(position, ts)

    def _newest(self, con_id: int) -> int | None:
        rows = self._now.newest(con_id)
        return int(rows["ts"][-1]) if len(rows) else None

    def _cool_down(self, position: Position, ts: int) -> None:
        self._desk.finished(position, ts)
        self._changed(position.con_id)

    # the end of a trade

    def _end(self, watch: PositionWatch, end: tuple[int, int, float | None] | None = None) -> None:
        state, tracked, position = self._state, watch.tracked, watch.tracked.position
        self._extend_series(watch)
        watch.next_seq = NEVER
        state.active.remove(tracked)
        state.ending.append(tracked)
        number = state.trades_of[position.symbol] = state.trades_of.get(position.symbol, 0) + 1
        ts = position.fills[-1].ts if end is None else end[0]
        tracked.ended(f"T{_time_of_day(ts)}_{number:03d}", end)
        self._cool_down(position, ts)

    def _release(self, seq: int, ts: int) -> None:
        """Hand out the episodes whose last second is closed at `ts`."""
        state = self._state
        for tracked in list(state.ending):
            if ts >= (tracked.exit_ts // SECOND_NS + 1) * SECOND_NS:
                state.ending.remove(tracked)
                watch = self._watch(tracked)
                self._extend_series(watch)
                watch.write_pre()
                self._watches.remove(watch)
                health = self._health(tracked.position.con_id)
                self._blotter.finished(episodes.episode_row(tracked, health, seq, state.kind))

    def _health(self, con_id: int) -> SymbolHealth:
        self._now.count()
        own, shared = (self._state.health.get(c, SymbolHealth()) for c in (con_id, 0))
        return SymbolHealth(
            outages=own.outages + shared.outages,
            bad_book_seconds=own.bad_book_seconds,
            refused=own.refused + shared.refused,
            data_type=own.data_type if own.data_type is not None else shared.data_type,
        )


def _seq_of(fact: tuple[int, Any, Any]) -> int:
    return fact[0]


def _hold_until(position: Position) -> int:
    return position.fills[0].ts + int(position.plan.hold_seconds_max * SECOND_NS)


def _time_of_day(ts: int) -> str:
    seconds = ts // SECOND_NS % 86_400
    return f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"
