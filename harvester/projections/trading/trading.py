"""The trading fold: market intervals in, decisions, fills and episodes out. The rules are in docs/trading.md.

At each clock, in this order: orders at the exchange are matched against the interval's observations in seq order, with
run starts, outages, halts and arriving messages at their places among them; entries whose time is over are cancelled;
strategies take in the closed buckets and decide (`desk`); episodes whose last second has closed are handed out. At
the end of the date, events after the last clock are ignored, except run starts.

A trade keeps the cost table of the run that decided it; an exit has the latency of the current or starting run. Trades
are numbered within their symbol as they end; those open at the end of the date by decision.

Intervals come in stretches, and most of them change nothing. Some state is updated only when it is read: quotes in
force (`MarketNow`), open profits and series (`PositionWatch`), decisions to do nothing (`_write_passed`).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from harvester.events.kinds import SourceKind
from harvester.projections.interval import OccurrenceKind
from harvester.projections.trading import episodes
from harvester.projections.trading.deciding import Seat
from harvester.projections.trading.episodes import SymbolHealth, Tracked
from harvester.projections.trading.fast.position_watch import PositionWatch, next_seq
from harvester.projections.trading.plan import Change, ChangeKind
from harvester.projections.trading.position import (
    EXPIRED,
    HALTED,
    OUTAGE,
    RIVAL,
    RUN_CHANGE,
    RUN_END,
    SESSION_CLOSED,
    SESSION_END,
    TIME_STOP,
    Position,
    Sent,
)
from harvester.projections.trading.run_terms import RunTerms
from harvester.projections.trading.simulated_exchange import DIGITS, Moment
from harvester.projections.trading.strategies import SHIPPED
from harvester.projections.trading.trade_floor import TradeFloor
from harvester.projections.trading.trading_state import TradingState
from harvester.units import NEVER, SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from harvester.projections.interval import Interval, Occurrence
    from harvester.projections.run_params import RunParams
    from harvester.projections.trading.failure import Failure
    from harvester.projections.trading.simulated_exchange import Fill
    from harvester.projections.trading.strategies import Library


class Trading:
    """Strategies and the simulated exchange; implements `projections.base.TradingSide`.

    Args:
        library: where strategies come from.

    """

    name = "trading"

    def __init__(self, library: Library = SHIPPED) -> None:
        self._library = library
        self._begin(TradingState())

    def _begin(self, state: TradingState) -> None:
        self._floor = floor = TradeFloor(state, self._library)
        self._state, self._now, self._desk, self._blotter = state, floor.now, floor.desk, floor.blotter

    @property
    def failures(self) -> list[Failure]:
        """Users' strategies that were dropped, in order."""
        return self._floor.failures

    @property
    def wants_news(self) -> bool:
        """Whether a strategy may read `Interval.news`."""
        return self._desk.has_users or bool(self._state.starting)

    def on_run_start(self, params: RunParams, seq: int, ts: int) -> None:
        """Start a run, at its place among the observations of its interval."""
        state = self._state
        state.runs += 1
        terms = RunTerms.of(params, f"r{state.runs:03d}")
        state.starting.append((seq, ts, self._library.chosen(terms)))
        if state.terms is None:
            self._start_runs(seq)

    def on_interval(self, interval: Interval) -> None:
        """Fold one interval, in the order the module's text gives."""
        state = self._state
        if interval.tape is not self._now.tape:
            self._follow(interval)
        self._now.advance(interval)
        self._floor.quiet = interval.quiet
        if state.active:
            self._mark_gap(interval.ts)
        due = bool(state.active) and interval.ts >= self._floor.due
        if due or interval.happenings or state.starting:
            self._apply_facts(interval, due=due)
        self._advance(interval.seq)
        if state.active and interval.ts >= self._floor.due:
            self._expire(interval.seq, interval.ts)
        if interval.news is not None:
            self._desk.learn(interval.news)
        if state.unknown:
            self._floor.answer(interval.ts)
        self._desk.decide()
        if state.ending:
            self._release(interval.seq, interval.ts)
        state.clock = interval.seq, interval.ts

    def finish(self, seq: int, ts: int) -> None:
        """End the date: open positions become episodes `DATA_END`, unfilled entries are recorded as unfilled."""
        self._settle()
        self._start_runs(seq)
        for tracked in list(self._state.active):
            position = tracked.position
            position.cancel_entry(RUN_END, ts, seq)
            if position.never_filled:
                self._unfilled(tracked, seq, ts)
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
        self._desk.seat([Seat.of(*ref, self._library) for ref in state.terms.strategies] if state.terms else [])
        for seat, saved in zip(self._desk.seats, state.strategies, strict=True):
            seat.strategy.restore(saved)
        self._floor.failures = [seat.user.failure for seat in self._desk.seats if seat.user and seat.user.failure]
        self._watch_all()

    # state that is updated only when it is read

    def _follow(self, interval: Interval) -> None:
        """Start the next stretch."""
        self._settle()
        self._now.follow(interval)
        self._desk.follow()
        self._now.expect_symbols(decided=bool(self._desk.seats))
        self._watch_all()
        self._floor.due = 0
        for watch in self._floor.watches:
            if not watch.tracked.trade_id:
                con_id = watch.tracked.position.con_id
                watch.plan(self._now.tape, self._now.shown(con_id), *self._now.seen(con_id))

    def _watch_all(self) -> None:
        """Watch every position from the beginning of the stretch."""
        followed = (*self._state.active, *self._state.ending)
        self._floor.watches = [
            PositionWatch(t, 0, self._now.history(t.position.con_id).before, NEVER) for t in followed
        ]

    def _settle(self) -> None:
        """Update everything up to now."""
        self._write_passed()
        self._now.settle()
        for watch in self._floor.watches:
            if not watch.tracked.trade_id:
                watch.look(self._now.tape, self._now.seen(watch.tracked.position.con_id)[0])
            self._extend_series(watch)
            watch.write_pre()
        self._desk.settle()

    def _write_passed(self) -> None:
        """Write the decisions to do nothing so far."""
        if (passed := self._desk.passed()) is not None:
            self._blotter.watched(passed)

    def _extend_series(self, watch: PositionWatch) -> None:
        watch.extend_series(self._now.history(watch.tracked.position.con_id), self._now.closed, self._desk)

    # the observations of an interval, in seq order

    def _apply_facts(self, interval: Interval, *, due: bool) -> None:
        """Apply run starts, happenings and arriving messages at their place among the observations."""
        self._now.count()
        self._now.register_symbols()
        starting = self._state.starting
        times = [*((h.seq, h.ts) for h in interval.happenings), *((seq, ts) for seq, ts, _ in starting)]
        facts: list[_Fact] = [_Fact(_seq_before(h), 0, self._on_happening, h) for h in interval.happenings]
        facts += [_Fact(start[0], 0, self._on_run, start) for start in starting]
        if due:
            facts += self._arriving(interval, times)
        facts.sort(key=_place_of)
        while facts:
            fact = facts.pop(0)
            self._advance(fact.seq)
            fact.apply(fact.row)
            if fact.apply == self._on_run:  # the exits it sent may arrive before this clock
                facts += [one for one in self._arriving(interval, times) if one.row.message.seq >= fact.seq]
                facts.sort(key=_place_of)

    def _arriving(self, interval: Interval, times: list[tuple[int, int]]) -> list[_Fact]:
        """Messages that are settled at this clock, with the seq after which each arrives (rule 1)."""
        begun = min((seq for seq, *_ in self._state.starting), default=NEVER)
        found = []
        for tracked in self._state.active:
            position = tracked.position
            for message in position.sent:
                if message.arrives > interval.ts or message.seq < begun < NEVER:
                    continue  # a run start settles what was sent before it
                newest = self._now.line(position.con_id).newest(message.arrives, interval.place)
                seq = max(message.seq, self._state.clock[0], newest)
                place = max((fact for fact, ts in times if ts <= message.arrives), default=0)
                found.append(_Fact(max(seq, place), 1, self._on_arrival, _Arrival(seq, tracked, message)))
        return found

    def _on_arrival(self, row: _Arrival) -> None:
        seq, tracked, message = row
        position = tracked.position
        if not self._is_active(tracked) or message not in position.sent:
            return  # it is over, or was cancelled since
        shown = self._now.shown(position.con_id, message.arrives)
        moment = Moment(seq, message.arrives, book=self._now.book(position.con_id, message.arrives))
        if message.change is None:
            refused = self._refused(position, moment.ts)
            if refused:
                position.cancel_entry(refused, moment.ts, seq)
                self._unfilled(tracked, seq, moment.ts)
                return
        watch = self._watch(tracked)
        quotes, trades = self._now.seen(position.con_id)
        watch.look(self._now.tape, quotes)
        self._made(watch, position.arrive(message, moment, shown, tracked.costs))
        self._moved(watch, moment, quotes, trades)

    def _refused(self, position: Position, ts: int) -> str:
        """Why an entry is cancelled on its arrival (rule 11); sets when one that is not ends."""
        terms = self._state.terms
        if terms is None or terms.session is None or terms.flat_at is None or ts < terms.session[0]:
            return SESSION_CLOSED
        if ts >= terms.flat_at:
            return SESSION_END
        if not self._now.shown(position.con_id).good:
            return self._floor.why_not_live(position.con_id)
        position.expires, position.expires_for = terms.flat_at, SESSION_END
        if (valid := position.plan.valid_seconds) is not None and ts + int(valid * SECOND_NS) < terms.flat_at:
            position.expires, position.expires_for = ts + int(valid * SECOND_NS), EXPIRED
        return ""

    def _made(self, watch: PositionWatch, fills: list[tuple[str, Fill]]) -> None:
        """Write the fills of a position; the first one of an entry cancels its rival."""
        position = watch.tracked.position
        if fills and len(position.fills) == len(fills):
            self._extend_series(watch)  # closed seconds are before the first fill
            for rival in self._rivals(watch.tracked):
                seq, ts = fills[0][1].seq, fills[0][1].ts
                rival.position.cancel_entry(RIVAL, ts, seq)
                self._unfilled(rival, seq, ts)
        for role, fill in fills:
            self._blotter.filled(position, role, fill)
            self._floor.due = 0

    def _rivals(self, tracked: Tracked) -> list[Tracked]:
        of = _identity(tracked.position)
        return [t for t in self._state.active if t is not tracked and _identity(t.position) == of]

    def _moved(self, watch: PositionWatch, now: Moment, quotes: int, trades: int) -> None:
        """Follow up on a position that may have changed."""
        tracked = watch.tracked
        if tracked.position.closed:
            self._end(watch)
        elif tracked.position.never_filled:
            self._unfilled(tracked, now.seq, now.ts)
        else:
            watch.plan(self._now.tape, self._now.shown(tracked.position.con_id), quotes, trades)

    def _advance(self, through: int) -> None:
        """Apply the observations up to and including seq `through`."""
        while self._floor.watches:
            first = min(self._floor.watches, key=next_seq)
            if first.next_seq > through:
                break
            self._now.until = first.next_seq
            self._match(first.tracked.position.con_id)
        self._now.until = through

    def _match(self, con_id: int) -> None:
        """Match every position of the symbol at the current observation."""
        now = self._now
        moment, shown = now.line(con_id).observation(now.until), now.shown(con_id)
        moment.book = now.book(con_id)
        quotes, trades = now.seen(con_id)
        for watch in [w for w in self._floor.watches if w.tracked.position.con_id == con_id and not w.tracked.trade_id]:
            if watch not in self._floor.watches:
                continue  # its rival was filled
            watch.look(now.tape, quotes - (moment.price is None))
            watch.looked = quotes  # `step` below takes this one in
            tracked = watch.tracked
            self._made(watch, tracked.position.step(moment, shown, tracked.costs))
            self._moved(watch, moment, quotes, trades)

    def _on_happening(self, row: Occurrence) -> None:
        state = self._state
        what = row.what
        if what is OccurrenceKind.OUTAGE_BEGIN:
            self._health_of(row.con_id).outages += 1
            if row.con_id not in state.outages:
                state.outages.append(row.con_id)
            if not any(start[0] == row.seq for start in state.starting):  # else the end of its run cancels them
                self._cancel_entries(row, OUTAGE)
        elif what is OccurrenceKind.OUTAGE_END:
            state.outages = [c for c in state.outages if c != row.con_id]
        elif what is OccurrenceKind.HALT:
            state.halted = [c for c in state.halted if c != row.con_id] + ([row.con_id] if row.value else [])
            if row.value:
                self._cancel_entries(row, HALTED)
        elif what is OccurrenceKind.DARK:
            self._mark_dark(row)
        elif what is OccurrenceKind.STRATEGY_DROPPED:
            self._floor.drop(row)
        else:
            self._note(row)
        if what in _CHANGES_INPUTS:
            self._desk.changed(row.con_id, rebuild=True)

    def _note(self, row: Occurrence) -> None:
        """Note what changes no order."""
        state, what = self._state, row.what
        if what is OccurrenceKind.REFUSED:
            self._health_of(row.con_id).refused += 1
        elif what is OccurrenceKind.DATA_TYPE:
            self._health_of(row.con_id).data_type = row.value
        elif what is OccurrenceKind.ALIGNED:
            state.aligned[row.con_id] = row.value
        elif what is OccurrenceKind.MIN_TICK:
            state.ticks[row.con_id] = row.value / 10**DIGITS
        elif what is OccurrenceKind.SOURCE:
            state.kind = tuple(SourceKind)[row.value].value

    def _health_of(self, con_id: int) -> SymbolHealth:
        return self._state.health.setdefault(con_id, SymbolHealth())

    def _cancel_entries(self, row: Occurrence, reason: str) -> None:
        """Cancel entries that work at the exchange (rule 12)."""
        for tracked in [t for t in self._state.active if row.con_id in (0, t.position.con_id)]:
            position = tracked.position
            if position.placed and position.working:
                position.cancel_entry(reason, row.ts, row.seq)
                if position.never_filled:
                    self._unfilled(tracked, row.seq, row.ts)

    def _mark_dark(self, row: Occurrence) -> None:
        spans = self._state.dark.setdefault(row.con_id, [])
        if not self._state.active:
            spans[:] = spans[-1:]
        if spans and spans[-1][1] == NEVER:
            spans[-1] = (spans[-1][0], row.ts, spans[-1][2])
        if row.value:
            spans.append((row.ts, NEVER, row.value))

    def _mark_gap(self, ts: int) -> None:
        """Note seconds without a clock, while a position is followed."""
        second, last = ts // SECOND_NS, self._state.clock[1] // SECOND_NS
        if second - last > 1 and self._state.clock[0]:
            self._state.gaps.append(((last + 1) * SECOND_NS, second * SECOND_NS))

    def _on_run(self, row: tuple[int, int, RunTerms]) -> None:
        self._start_runs(row[0])

    def _start_runs(self, through_seq: int) -> None:
        """Start the runs up to a seq: entries are cancelled, positions of changed strategies are closed."""
        state = self._state
        while state.starting and state.starting[0][0] <= through_seq:
            self._settle()
            seq, ts, terms = state.starting.pop(0)
            state.outages, state.halted = [], []
            self._end_run(seq, ts)
            kept = {(seat.strategy.name, seat.recorded): seat for seat in self._desk.seats}
            still = [(name, was) for name, was, _ in terms.strategies]
            gone = [name for name, was in kept if (name, was) not in still]
            for tracked in [t for t in state.active if t.position.strategy in gone]:
                self._floor.send(tracked, Change(ChangeKind.EXIT, reason=RUN_CHANGE), (seq, ts), terms.latency_ns)
            state.terms = terms
            self._desk.seat([kept.get(ref[:2]) or Seat.of(*ref, self._library) for ref in terms.strategies])
            self._now.expect_symbols(decided=bool(terms.strategies))
            self._floor.due = 0

    def _end_run(self, seq: int, ts: int) -> None:
        """Settle what the run before left: entries are cancelled, exits arrive, other messages are lost (rule 3)."""
        for tracked in list(self._state.active):
            position = tracked.position
            position.cancel_entry(RUN_END, ts, seq)
            if position.never_filled:
                self._unfilled(tracked, seq, ts)
                continue
            for message in list(position.sent):
                if message.change is not None and message.change.kind is ChangeKind.EXIT:
                    position.leave(message.change.reason, message.reference_price, ts, seq)
            position.sent = []
            self._follow_closely(self._watch(tracked))

    # at the clock

    def _expire(self, seq: int, ts: int) -> None:
        """Cancel entries whose time is over and close positions whose time is over."""
        terms = self._state.terms
        for tracked in list(self._state.active):
            position = tracked.position
            if position.expires is not None and ts >= position.expires and position.working:
                position.cancel_entry(position.expires_for, ts, seq)
                if position.never_filled:
                    self._unfilled(tracked, seq, ts)
            if position.open == 0 or terms is None or position.leaving:
                continue
            if terms.flat_at is not None and ts >= terms.flat_at:
                self._floor.send(tracked, Change(ChangeKind.EXIT, reason=SESSION_END), (seq, ts), terms.latency_ns)
            elif ts >= _hold_until(position):
                self._floor.send(tracked, Change(ChangeKind.EXIT, reason=TIME_STOP), (seq, ts), terms.latency_ns)
        self._floor.due = min((self._due_of(tracked.position) for tracked in self._state.active), default=NEVER)

    def _due_of(self, position: Position) -> int:
        """Next time at which a position must be looked at if nothing happens before, ns UTC."""
        times = [message.arrives for message in position.sent]
        if position.expires is not None and position.working:
            times.append(position.expires)
        if position.open and not position.leaving:
            flat_at = self._state.terms.flat_at if self._state.terms else None
            times += [_hold_until(position), NEVER if flat_at is None else flat_at]
        return min(times, default=NEVER)

    def _watch(self, tracked: Tracked) -> PositionWatch:
        return next(watch for watch in self._floor.watches if watch.tracked is tracked)

    def _follow_closely(self, watch: PositionWatch) -> None:
        """Match every observation from here on: the position gets an order besides its bracket."""
        con_id = watch.tracked.position.con_id
        watch.next_seq = self._now.line(con_id).next_seq(*self._now.seen(con_id))

    def _unfilled(self, tracked: Tracked, seq: int, ts: int) -> None:
        position = tracked.position
        self._drop(tracked)
        self._floor.watches.remove(self._watch(tracked))
        price = position.entry.reference_price
        newest = self._floor.newest(position.con_id)
        self._floor.decided(position, "unfilled", position.ended, at=(seq, ts), bucket_ts=newest, price=price)
        self._floor.cool_down(position, ts)
        self._forget_seconds()

    def _is_active(self, tracked: Tracked) -> bool:
        return any(one is tracked for one in self._state.active)

    def _drop(self, tracked: Tracked) -> None:
        self._state.active = [one for one in self._state.active if one is not tracked]

    # the end of a trade

    def _end(self, watch: PositionWatch, end: tuple[int, int, float | None] | None = None) -> None:
        state, tracked, position = self._state, watch.tracked, watch.tracked.position
        self._extend_series(watch)
        watch.next_seq = NEVER
        self._drop(tracked)
        state.ending.append(tracked)
        number = state.trades_of[position.symbol] = state.trades_of.get(position.symbol, 0) + 1
        ts = position.fills[-1].ts if end is None else end[0]
        tracked.ended(f"T{episodes.time_of_day(ts)}_{number:03d}", end)
        tracked.unseen = episodes.unseen(tracked, state.dark.get(position.con_id, ()), state.gaps)
        self._floor.cool_down(position, ts)
        self._forget_seconds()

    def _forget_seconds(self) -> None:
        """Forget what was unseen before now when no position needs it."""
        state = self._state
        if not state.active:
            state.gaps = []
            state.dark = {c: spans[-1:] for c, spans in state.dark.items() if spans[-1][1] == NEVER}

    def _release(self, seq: int, ts: int) -> None:
        """Hand out the episodes whose last second is closed at `ts`."""
        state = self._state
        for tracked in list(state.ending):
            if ts >= (tracked.exit_ts // SECOND_NS + 1) * SECOND_NS:
                state.ending = [one for one in state.ending if one is not tracked]
                watch = self._watch(tracked)
                self._extend_series(watch)
                watch.write_pre()
                self._floor.watches.remove(watch)
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


_CHANGES_INPUTS = frozenset((OccurrenceKind.OUTAGE_BEGIN, OccurrenceKind.OUTAGE_END, OccurrenceKind.HALT))


def _seq_before(row: Occurrence) -> int:
    """The seq after which a happening applies: darkness ends with the quote of its seq, before it is matched."""
    return row.seq - 1 if row.what is OccurrenceKind.DARK else row.seq


class _Arrival(NamedTuple):
    """A message that arrives, and the newest event of its symbol that is counted."""

    seq: int
    tracked: Tracked
    message: Sent


class _Fact(NamedTuple):
    """Something that happens in an interval: after the event `seq`, `tie`: facts before arrivals."""

    seq: int
    tie: int
    apply: Callable[[Any], None]
    row: Any


def _place_of(fact: _Fact) -> tuple[int, int, int]:
    return fact.seq, fact.tie, fact.row.message.number if fact.tie else 0


def _identity(position: Position) -> tuple[int, str, str, int]:
    return position.con_id, position.strategy, position.strategy_digest, position.decision_seq


def _hold_until(position: Position) -> int:
    most = position.plan.hold_seconds_max
    return NEVER if most is None else position.fills[0].ts + int(most * SECOND_NS)
