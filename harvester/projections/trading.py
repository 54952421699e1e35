"""The trading fold: market intervals in, decisions, fills and episodes out.

At each clock, in this order: working orders are matched against the interval's observations in seq order (run starts
and outages take their place among them); what has run out of time is given up; strategies take in the closed buckets
and decide; episodes whose last second has closed are handed out. Orders made at a clock can fill from the next interval
on.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from harvester.projections import episodes
from harvester.projections.blotter import Blotter
from harvester.projections.episodes import SymbolHealth, Tracked
from harvester.projections.exchange import Order, OrderType, Shown
from harvester.projections.interval import QUOTES, TRADES, Happening, What
from harvester.projections.position import DATA_END, RUN_CHANGE, SESSION_END, TIME_STOP, Plan, Position
from harvester.projections.strategies import digest, make
from harvester.projections.strategy import Strategy, View
from harvester.projections.tape import Tape
from harvester.projections.terms import Terms
from harvester.projections.watch import Watch, next_seq

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pyarrow as pa

    from harvester.projections.interval import Interval
    from harvester.projections.params import RunParams

SECOND_NS = 1_000_000_000
NO_BOOK_NS = 60 * SECOND_NS
_NO_TAPE = Tape(np.empty(0, QUOTES), np.empty(0, TRADES), [])


class State(msgspec.Struct):
    """Everything the fold remembers, as plain data; `chain` and `strategies` are filled in by `snapshot`.

    Attributes:
        starting: run starts that wait for the interval they lie in, as (seq, ts, terms).
        active: positions with a working order; `ending`: flat ones whose last second is not closed yet.
        trades_of: episodes so far, by symbol.
        outages: con_ids whose feed is interrupted, 0 = all.
        depth_ts: start of the last second with depth rows, by con_id.
        aligned: 1 all timeframes closed up, -1 all down, 0 neither, by con_id.
    """

    terms: Terms | None = None
    runs: int = 0
    starting: list[tuple[int, int, Terms]] = []
    shown: dict[int, Shown] = {}
    symbols: dict[int, str] = {}
    history: dict[int, list[dict[str, Any]]] = {}
    active: list[Tracked] = []
    ending: list[Tracked] = []
    trades_of: dict[str, int] = {}
    health: dict[int, SymbolHealth] = {}
    outages: list[int] = []
    depth_ts: dict[int, int] = {}
    aligned: dict[int, int] = {}
    chain: str = ""
    strategies: list[Any] = []


class Trading:
    """Strategies and the simulated exchange behind one surface; `projections.base.TradingSide` gives the calls.

    Observations are read from a `Tape`, where those that cannot move a position are passed over; `_until` is the seq
    through which they have happened. Quotes in force are taken over when somebody looks (`_shown`).
    """

    name = "trading"

    def __init__(self) -> None:
        self._state = State()
        self._strategies: list[tuple[Strategy, str, str]] = []  # with its recorded digest and that of the code at hand
        self._blotter = Blotter()
        self._tape, self._place, self._until = _NO_TAPE, 0, 0
        self._new_symbols: list[tuple[int, int]] = []
        self._watches: list[Watch] = []

    def on_run_start(self, params: RunParams, seq: int, ts: int) -> None:
        """A run begins; it takes its place among the observations of the interval it lies in."""
        state = self._state
        state.runs += 1
        state.starting.append((seq, ts, Terms.of(params, f"r{state.runs:03d}")))
        if state.terms is None:
            self._start_runs(seq)

    def on_interval(self, interval: Interval) -> None:
        """Fold one interval; see the module's text for the order."""
        self._follow(interval)
        facts: list[tuple[int, Callable[[Any], None], Any]] = [
            (h.seq, self._on_happening, h) for h in interval.happenings
        ]
        if self._state.starting:
            facts = sorted(facts + [(s[0], self._on_run, s) for s in self._state.starting], key=lambda fact: fact[0])
        for seq, take, row in facts:
            self._advance(seq)
            take(row)
        self._advance(interval.seq)
        if self._state.active:
            self._run_out(interval.seq, interval.ts)
        for con_id, bucket in self._observe(interval).items():
            for strategy, _, code in self._strategies:
                self._decide(strategy, code, con_id, bucket, interval)
        if self._state.ending:
            self._hand_out(interval.seq, interval.ts)

    def finish(self, seq: int, ts: int) -> None:
        """The date is over: what is open becomes an episode `DATA_END`, what never filled is recorded as such."""
        self._settle()
        self._start_runs(seq)
        for tracked in list(self._state.active):
            position = tracked.position
            position.cancel_entry()
            if position.never_filled:
                self._unfilled(tracked, DATA_END, seq, ts)
                continue
            last = self._shown(position.con_id).price(buy=not position.plan.long)
            self._end(tracked, (ts, seq, last or None))
        self._hand_out(seq, ts + SECOND_NS)

    def take_rows(self) -> dict[str, pa.RecordBatch]:
        """Rows finished since the last call, by table; a table without rows is left out."""
        return self._blotter.take()

    def digest(self) -> str:
        """Hash over every row written so far and the state, 32 hex digits."""
        return hashlib.blake2b(self.snapshot(), digest_size=16).hexdigest()

    def snapshot(self) -> bytes:
        """The whole state as MessagePack; equal states are equal bytes. Rows not yet taken are not part of it."""
        self._settle()
        self._state.chain = self._blotter.chain
        self._state.strategies = [strategy.snapshot() for strategy, _, _ in self._strategies]
        return msgspec.msgpack.encode(self._state)

    def restore(self, data: bytes) -> None:
        """The inverse of `snapshot`."""
        state = self._state = msgspec.msgpack.decode(data, type=State)
        self._blotter = Blotter(state.chain)
        self._tape, self._until, self._watches = _NO_TAPE, 0, []
        self._strategies = [_made(*ref) for ref in state.terms.strategies] if state.terms else []
        for (strategy, _, _), saved in zip(self._strategies, state.strategies, strict=True):
            strategy.restore(saved)

    # what the interval brings, in seq order

    def _follow(self, interval: Interval) -> None:
        """Go on to the interval's tape."""
        tape = interval.tape or Tape(interval.quotes, interval.trades, [interval.seq])
        if tape is not self._tape:
            self._settle()
            self._tape, self._place, self._until = tape, interval.place, 0
            self._new_symbols = list(tape.first_quotes)
            self._watches = [Watch(tracked, 0) for tracked in self._state.active]
            for watch in self._watches:
                self._plan(watch)
        self._place = interval.place
        while self._new_symbols and self._new_symbols[0][0] < interval.seq:
            self._state.shown.setdefault(self._new_symbols.pop(0)[1], Shown())

    def _advance(self, through: int) -> None:
        """Let the observations up to and with seq `through` happen."""
        while self._watches:
            first = min(self._watches, key=next_seq)
            if first.next_seq > through:
                break
            self._until = first.next_seq
            self._match(first.tracked.position.con_id)
        self._until = through

    def _match(self, con_id: int) -> None:
        """Show the observation at `_until` to every position in its symbol."""
        line = self._tape.line(con_id)
        seen, shown = line.observation(self._until), self._shown(con_id)
        quotes, trades = line.place(self._until)
        for watch in [w for w in self._watches if w.tracked.position.con_id == con_id]:
            watch.look(self._tape, quotes - (seen.price is None))
            watch.looked = quotes  # this one it is shown itself
            tracked = watch.tracked
            for role, fill in tracked.position.step(seen, shown, tracked.costs):
                self._blotter.filled(tracked.position, role, fill)
            if tracked.position.closed:
                self._end(tracked)
            else:
                watch.plan(self._tape, shown, quotes, trades)

    def _plan(self, watch: Watch) -> None:
        con_id = watch.tracked.position.con_id
        watch.plan(self._tape, self._shown(con_id), *self._tape.line(con_id).place(self._until))

    def _settle(self) -> None:
        """Bring what is brought up to date late up to `_until`: quotes in force, worst and best open profits."""
        for _, con_id in self._tape.first_quotes:
            if con_id in self._state.shown:
                self._shown(con_id)
        for watch in self._watches:
            watch.look(self._tape, self._tape.line(watch.tracked.position.con_id).place(self._until)[0])

    def _on_happening(self, row: Happening) -> None:
        state = self._state
        health = state.health.setdefault(row.con_id, SymbolHealth())
        if row.what is What.OUTAGE_BEGIN:
            health.outages += 1
            if row.con_id not in state.outages:
                state.outages.append(row.con_id)
            for con_id in [c for c in state.shown if row.con_id in (0, c)]:
                self._shown(con_id).lose()
        elif row.what is What.OUTAGE_END:
            state.outages = [c for c in state.outages if c != row.con_id]
        elif row.what is What.REFUSED:
            health.refused += 1
        elif row.what is What.DATA_TYPE:
            health.data_type = row.value
        elif row.what is What.ALIGNED:
            state.aligned[row.con_id] = row.value

    def _on_run(self, row: tuple[int, int, Terms]) -> None:
        self._start_runs(row[0])

    def _start_runs(self, through_seq: int) -> None:
        """A new run knows no quote yet; a strategy that is not the same any more leaves what it holds."""
        state = self._state
        while state.starting and state.starting[0][0] <= through_seq:
            seq, ts, terms = state.starting.pop(0)
            for con_id in list(state.shown):
                self._shown(con_id).lose()
            state.outages = []
            kept = {(s.name, was): (s, was, code) for s, was, code in self._strategies}
            still = [(name, was) for name, was, _ in terms.strategies]
            gone = [name for name, was in kept if (name, was) not in still]
            for tracked in [t for t in state.active if t.position.strategy in gone]:
                self._leave(tracked, RUN_CHANGE, (seq, ts), terms.latency_ns)
            self._strategies = [kept.get(ref[:2]) or _made(*ref) for ref in terms.strategies]
            state.terms = terms

    def _shown(self, con_id: int) -> Shown:
        """The quote in force of a symbol at `_until`."""
        shown = self._state.shown.get(con_id)
        if shown is None:
            shown = self._state.shown[con_id] = Shown()
        line, clocks = self._tape.line(con_id), self._tape.clocks
        at_clock = clocks and clocks[self._place] == self._until
        line.show(shown, line.ends[self._place] if at_clock else line.place(self._until)[0])
        return shown

    # what the clock does

    def _run_out(self, seq: int, ts: int) -> None:
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
            elif ts >= position.fills[0].ts + int(position.plan.hold_seconds_max * SECOND_NS):
                self._leave(tracked, TIME_STOP, (seq, ts), terms.latency_ns)

    def _flat_by(self, name: str) -> int | None:
        session = self._state.terms.session if self._state.terms else None
        return next((s.flat_by(session) for s, _, _ in self._strategies if s.name == name), None)

    def _leave(self, tracked: Tracked, reason: str, at: tuple[int, int], latency_ns: int) -> None:
        position = tracked.position
        self._look_closer(tracked)
        leaving = position.leave(reason, at[0], at[1] + latency_ns, self._shown(position.con_id))
        if position.never_filled:
            self._unfilled(tracked, reason, *at)
        elif leaving and position.exit is not None:
            price = position.exit.reference_price
            newest = self._newest(position.con_id)
            self._blotter.decided(position, "exit", reason, at=at, bucket_ts=newest, price=price)

    def _look_closer(self, tracked: Tracked) -> None:
        """From here on every observation matters: the position is about to get an order besides its bracket."""
        for watch in self._watches:
            if watch.tracked is tracked:
                line = self._tape.line(tracked.position.con_id)
                watch.next_seq = line.next_seq(*line.place(self._until))

    def _forget(self, tracked: Tracked) -> None:
        self._state.active.remove(tracked)
        self._watches = [watch for watch in self._watches if watch.tracked is not tracked]

    def _unfilled(self, tracked: Tracked, reason: str, seq: int, ts: int) -> None:
        position = tracked.position
        self._forget(tracked)
        newest = self._newest(position.con_id)
        price = position.entry.reference_price
        self._blotter.decided(position, "unfilled", reason, at=(seq, ts), bucket_ts=newest, price=price)
        self._rest(position, ts)

    def _newest(self, con_id: int) -> int | None:
        return rows[-1]["ts"] if (rows := self._state.history.get(con_id)) else None

    def _rest(self, position: Position, ts: int) -> None:
        for strategy, _, code in self._strategies:
            if (strategy.name, code) == (position.strategy, position.strategy_digest):
                strategy.finished(position.con_id, ts)

    def _observe(self, interval: Interval) -> dict[int, dict[str, Any]]:
        """Let strategies, histories and series take in the closed buckets; gives the newest of each symbol."""
        state = self._state
        newest: dict[int, dict[str, Any]] = {}
        followed = (*state.active, *state.ending)
        for con_id, symbol, row in interval.buckets:
            self._know_book(con_id, row)
            state.symbols[con_id] = symbol
            newest[con_id] = row
            rows = state.history.setdefault(con_id, [])
            rows.append(row)
            if len(rows) > episodes.PRE_COUNT:
                del rows[0]
            if row["book_good"] is False:
                state.health.setdefault(con_id, SymbolHealth()).bad_book_seconds += 1
            for strategy, _, _ in self._strategies:
                strategy.observe(con_id, row)
            for tracked in followed:
                tracked.extend(con_id, row)
        return newest

    def _know_book(self, con_id: int, row: dict[str, Any]) -> None:
        """Tell a bad book from none: without a depth row for a minute `book_good` is None, not False."""
        seen = self._state.depth_ts
        if row["depth_count"]:
            seen[con_id] = row["ts"]
        if not row["book_good"] and row["ts"] - seen.get(con_id, -NO_BOOK_NS) >= NO_BOOK_NS:
            row["book_good"] = None

    def _decide(self, strategy: Strategy, code: str, con_id: int, bucket: dict[str, Any], interval: Interval) -> None:
        state, terms = self._state, self._state.terms
        own = [t for t in state.active if (t.position.con_id, t.position.strategy) == (con_id, strategy.name)]
        view = View(
            seq=interval.seq,
            ts=interval.ts,
            con_id=con_id,
            symbol=state.symbols[con_id],
            bucket=bucket,
            shown=self._shown(con_id),
            session=terms.session if terms else None,
            holding=bool(own),
            outage=0 in state.outages or con_id in state.outages,
        )
        verdict = strategy.decide(view)
        if terms is not None and terms.aligned_only:
            verdict = verdict.only_aligned(state.aligned.get(con_id, 0))
        for tracked in (*state.active, *state.ending):
            tracked.judged(con_id, strategy.name, verdict.gates)
        if verdict.plan is not None and not verdict.gates and terms is not None:
            self._enter(view, strategy.name, code, verdict.plan, terms)
        else:
            who = (con_id, view.symbol, strategy.name, code)
            self._blotter.watched((interval.seq, interval.ts), bucket["ts"], who, verdict.gates)

    def _enter(self, view: View, name: str, code: str, plan: Plan, terms: Terms) -> None:
        reference = view.shown.price(buy=plan.long)
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
        position = Position(view.con_id, view.symbol, name, code, terms.run, view.seq, view.ts, [], plan, entry)
        window, pre = episodes.window_before(self._state.history[view.con_id], view.ts)
        tracked = Tracked(position, terms.costs, terms.memory, terms.trading_date, window, pre)
        self._state.active.append(tracked)
        self._watches.append(Watch(tracked, self._tape.line(view.con_id).place(self._until)[0]))
        self._look_closer(tracked)
        at = (view.seq, view.ts)
        self._blotter.decided(position, "enter", plan.reason, at=at, bucket_ts=view.bucket["ts"], price=reference)

    # the end of a trade

    def _end(self, tracked: Tracked, end: tuple[int, int, float | None] | None = None) -> None:
        state, position = self._state, tracked.position
        self._forget(tracked)
        state.ending.append(tracked)
        number = state.trades_of[position.symbol] = state.trades_of.get(position.symbol, 0) + 1
        ts = position.fills[-1].ts if end is None else end[0]
        tracked.ended(f"T{_time_of_day(ts)}_{number:03d}", end)
        self._rest(position, ts)

    def _hand_out(self, seq: int, ts: int) -> None:
        """Finish the episodes whose last second is closed at `ts`."""
        state = self._state
        for tracked in list(state.ending):
            if ts >= (tracked.exit_ts // SECOND_NS + 1) * SECOND_NS:
                state.ending.remove(tracked)
                health = self._health(tracked.position.con_id)
                self._blotter.finished(episodes.episode_row(tracked, health, seq))

    def _health(self, con_id: int) -> SymbolHealth:
        own, shared = (self._state.health.get(c, SymbolHealth()) for c in (con_id, 0))
        return SymbolHealth(
            outages=own.outages + shared.outages,
            bad_book_seconds=own.bad_book_seconds,
            refused=own.refused + shared.refused,
            data_type=own.data_type if own.data_type is not None else shared.data_type,
        )


def _made(name: str, recorded: str, settings: Mapping[str, Any]) -> tuple[Strategy, str, str]:
    return make(name, settings), recorded, digest(name, settings)


def _time_of_day(ts: int) -> str:
    seconds = ts // SECOND_NS % 86_400
    return f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"
