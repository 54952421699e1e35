"""The trading fold on bars: bars of a date in, decisions, fills and episodes out. Rules: docs/trading.md, B1 to B12.

Bars of all symbols are taken in order of their end, then of con_id. For each one: messages arrive, orders are matched
with the bar, strategies see the completed bar and decide. It is a pure function of the log: the same rows give the same
tables, however they are cut into batches.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow as pa

from harvester.errors import BadSetting
from harvester.projections.interval import News
from harvester.projections.market.candles import TIMEFRAMES
from harvester.projections.trading import episodes
from harvester.projections.trading.bars.bar_exchange import BarMatch, BarQuote, BarRules
from harvester.projections.trading.episodes import (
    BUCKET_FIELDS,
    GATES,
    MODE_BARS,
    PRE_COUNT,
    SERIES_FIELDS,
    SymbolHealth,
    Tracked,
    Unseen,
)
from harvester.projections.trading.plan import Change, ChangeKind
from harvester.projections.trading.position import (
    EXPIRED,
    NOT_LIVE,
    RIVAL,
    RUN_END,
    SESSION_CLOSED,
    SESSION_END,
    STRATEGY_ERROR,
    TIME_STOP,
    Position,
    Sent,
    opening_order,
    risk_per_share,
)
from harvester.projections.trading.simulated_exchange import Moment, ShownQuote, price_step
from harvester.projections.trading.strategy import Holding
from harvester.projections.trading.trade_rows import TABLES
from harvester.projections.trading.user_decider import BARS_MAX, UserDecider
from harvester.projections.trading.user_strategy import Bar, Now
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harvester.projections.trading.bars.bar_series import TimedBar
    from harvester.projections.trading.failure import Failure
    from harvester.projections.trading.plan import EntryPlan
    from harvester.projections.trading.run_terms import RunTerms
    from harvester.projections.trading.simulated_exchange import Fill
    from harvester.projections.trading.strategies import Library
    from harvester.projections.trading.strategy import Verdict

QUOTE_SOURCE = "bars"  # of what a strategy sees as the quote
_NO_QUOTE = ShownQuote()  # a message that arrives with it changes orders and fills nothing
_NO_NUMBER = math.nan


class BarSymbol(NamedTuple):
    """A symbol to trade: bars of one size, and those of longer sizes, in order of time; `tick` None = not recorded."""

    con_id: int
    symbol: str
    tick: float | None
    bars: Sequence[TimedBar]
    longer: Sequence[TimedBar] = ()


class BarTrades(NamedTuple):
    """The result: the tables of `trade_rows.TABLES`, and strategies that were dropped."""

    tables: dict[str, pa.Table]
    failures: list[Failure]


class BarsDecider(UserDecider):
    """Runs a user's strategy on bars: `now.bars` has the newest `BARS_MAX` bars of each size."""

    def learn(self, news: News) -> None:
        """Take in completed bars, candles of them, and scanner rows."""
        super().learn(news._replace(bars=()))
        for con_id, values in news.bars:
            candles, bars = self._facts(con_id)
            bar = Bar(*values)
            others = [one for one in bars if one.bar_size != bar.bar_size]
            alike = [one for one in bars if one.bar_size == bar.bar_size]
            self._keep(con_id, candles, (*others, *alike[1 - BARS_MAX :], bar))


class BarSeat(NamedTuple):
    """A running strategy, and the digest of its code."""

    decider: BarsDecider
    code: str


class BarsTrading:
    """Trades one date on bars.

    Args:
        terms: of the run, with the strategies that trade.
        rules: what is assumed about bars.
        library: where strategies come from.
        kind: where the data come from, a `SourceKind`.

    Raises:
        BadSetting: a strategy cannot run on bars.
        CodeChanged: a strategy of the user is not at hand.
    """

    def __init__(self, terms: RunTerms, rules: BarRules, library: Library, kind: str) -> None:
        self._terms, self._rules, self._kind = terms, rules, kind
        self._seats = [_seat(*ref, library) for ref in terms.strategies]
        self._rows: dict[str, list[Any]] = {name: [] for name in TABLES}
        self._active: list[Tracked] = []
        self._ending: list[Tracked] = []
        self._pre: dict[int, list[tuple[Any, ...]]] = {}  # newest bars as strategies saw them, by con_id
        self._holes: dict[str, int] = {}  # seconds without a bar so far, by symbol
        self._before: dict[tuple[Any, ...], int] = {}  # holes of the symbol when a position was opened
        self._ended: dict[str, int] = {}  # trades that have ended, by symbol
        self._sent = 0
        self._failures: list[Failure] = []

    def run(self, symbols: Sequence[BarSymbol], scans: Iterable[tuple[int, tuple[int, str, int, str]]]) -> BarTrades:
        """Trade the date.

        Args:
            symbols: what to trade.
            scans: (ts_recv, (snapshot, scan code, rank, symbol)), in order of seq.
        """
        ordered = sorted(((bar.end, one.con_id, k) for one in symbols for k, bar in enumerate(one.bars)))
        of = {one.con_id: one for one in symbols}
        longer = {one.con_id: sorted(one.longer, key=_end) for one in symbols}
        builders = {one.con_id: _CandleBuilder(self._terms.session) for one in symbols}
        waiting, read = sorted(scans, key=_ts), 0
        for end, con_id, k in ordered:
            symbol, bar = of[con_id], of[con_id].bars[k]
            if k:
                self._note_hole(symbol, symbol.bars[k - 1], bar)
            self._match(symbol, bar)
            past = [one for one in longer[con_id] if one.end <= end]
            longer[con_id] = longer[con_id][len(past) :]
            first = read
            while read < len(waiting) and waiting[read][0] <= end:
                read += 1
            candles = [(con_id, *candle) for candle in builders[con_id].add(bar)]
            news = News(
                candles, [(con_id, _shown_bar(one)) for one in (*past, bar)], [row for _, row in waiting[first:read]]
            )
            self._decide(symbol, bar, news)
        for symbol in symbols:
            if symbol.bars:
                self._finish(symbol, symbol.bars[-1])
        tables = {
            name: pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in self._rows[name]], schema)
            for name, schema in TABLES.items()
        }
        return BarTrades(tables, self._failures)

    # a bar

    def _note_hole(self, symbol: BarSymbol, before: TimedBar, bar: TimedBar) -> None:
        hole = max(0, bar.start - before.end) // SECOND_NS
        self._holes[symbol.symbol] = self._holes.get(symbol.symbol, 0) + hole

    def _quote(self, symbol: BarSymbol, bar: TimedBar) -> BarQuote:
        return BarQuote(bar, price_step(bar.open, symbol.tick), self._rules, self._terms.share_max)

    def _of(self, con_id: int, name: str | None = None) -> list[Tracked]:
        return [t for t in self._active if t.position.con_id == con_id and name in (None, t.position.strategy)]

    def _match(self, symbol: BarSymbol, bar: TimedBar) -> None:
        """Let messages arrive, then match the orders of every strategy with the bar."""
        for seat in self._seats:
            quote = self._quote(symbol, bar)
            for tracked in self._of(symbol.con_id, seat.decider.name):
                if not any(one is tracked for one in self._active):
                    continue  # its rival was filled
                arrives = self._arrive(tracked, bar)
                self._close_in_time(tracked.position, bar)
                position = tracked.position
                if not position.never_filled:
                    self._filled(tracked, BarMatch(position, bar, quote, tracked.costs, arrives).run())
                if position.expires is not None and position.expires <= bar.end:
                    position.cancel_entry(position.expires_for, bar.end, bar.seq)
                self._follow_up(tracked, bar)

    def _arrive(self, tracked: Tracked, bar: TimedBar) -> int | None:
        """Settle the messages that arrive before the bar's end; the time of the entry's arrival, if it is one (B2)."""
        position, arrived = tracked.position, None
        for message in [one for one in position.sent if one.arrives < bar.end]:
            if message.change is None:
                position.sent.remove(message)
                if why := self._refused(position, message.arrives, bar):
                    position.cancel_entry(why, message.arrives, bar.seq)
                else:
                    position.placed, arrived = True, message.arrives
            elif message in position.sent:
                position.arrive(message, Moment(bar.seq, bar.start), _NO_QUOTE, tracked.costs)
        return arrived

    def _refused(self, position: Position, ts: int, bar: TimedBar) -> str:
        """Why an entry is cancelled on its arrival; sets when one that is not ends."""
        terms = self._terms
        if terms.session is None or terms.flat_at is None or ts < terms.session[0]:
            return SESSION_CLOSED
        if bar.end > terms.flat_at:
            return SESSION_END
        if bar.start > ts:
            return NOT_LIVE  # there is no bar at that time
        position.expires, position.expires_for = terms.flat_at, SESSION_END
        if (valid := position.plan.valid_seconds) is not None and ts + int(valid * SECOND_NS) < terms.flat_at:
            position.expires, position.expires_for = ts + int(valid * SECOND_NS), EXPIRED
        return ""

    def _close_in_time(self, position: Position, bar: TimedBar) -> None:
        """Before the session's close: leave at the open of the first bar that ends after positions are closed (B10)."""
        if self._terms.flat_at is None or bar.end <= self._terms.flat_at:
            return
        if position.placed:
            position.cancel_entry(SESSION_END, bar.start, bar.seq)
        if position.open and position.leave(SESSION_END, None, bar.start, bar.seq) is not None:
            self._decided(position, "exit", SESSION_END, (bar.seq, bar.start, None), None)

    def _filled(self, tracked: Tracked, made: list[tuple[str, Fill]]) -> None:
        position = tracked.position
        if made and len(position.fills) == len(made):
            self._before[_identity(position)] = self._holes.get(position.symbol, 0)
            for rival in [t for t in self._of(position.con_id, position.strategy) if t is not tracked]:
                seq, ts = made[0][1].seq, made[0][1].ts
                rival.position.cancel_entry(RIVAL, ts, seq)
                self._unfilled(rival, seq, ts)
        for role, fill in made:
            self._rows["fills"].append((
                fill.seq, fill.ts, *_who(position), position.decision_seq, role, fill.side, fill.price, fill.quantity,
                fill.source, fill.reference, fill.reference_price, fill.slippage, fill.commission,
            ))  # fmt: skip

    def _follow_up(self, tracked: Tracked, bar: TimedBar) -> None:
        position = tracked.position
        if position.closed:
            self._end(tracked)
        elif position.never_filled:
            self._unfilled(tracked, bar.seq, bar.end)

    # decisions

    def _decide(self, symbol: BarSymbol, bar: TimedBar, news: News) -> None:
        shown = self._shown(symbol, bar)
        for seat in self._seats:
            seat.decider.learn(news)
        kept = self._pre.setdefault(symbol.con_id, [])
        kept.append(shown)
        del kept[:-PRE_COUNT]
        for seat in self._seats:
            self._close_late(symbol, seat, bar)
            name, failed = seat.decider.name, seat.decider.failure
            why = NOT_LIVE if shown[_BID] is None else ""
            held = self._held(symbol.con_id, name)
            verdict = seat.decider.decide_second(self._now(shown, why, held))
            if self._terms.aligned_only:
                verdict = verdict.only_aligned(0)
            if seat.decider.failure is not failed and seat.decider.failure is not None:
                self._drop(seat.decider.failure, bar)
            self._act(symbol, seat, bar, shown, verdict)
            self._extend_series(symbol, name, shown, list(verdict.gates))
        self._release()

    def _now(self, shown: tuple[Any, ...], why: str, held: Holding | None) -> Now:
        opens, closes = self._terms.session or (None, None)
        known: dict[str, Any] = dict(zip(_NOW_FIELDS, shown, strict=True))
        known |= {"why_not_live": why, "opens": opens, "closes": closes, "position": held, "alignment": 0}
        kept = {"candles": (), "bars": (), "candidates": (), "flat_since": None}  # the decider has them
        return Now(**known | kept)

    def _shown(self, symbol: BarSymbol, bar: TimedBar) -> tuple[Any, ...]:
        """What a strategy sees of the bar: `_NOW_FIELDS` (B11)."""
        quote = self._quote(symbol, bar)
        bid, ask = round(bar.close - quote.half, 9), quote.price(bar.close, buy=True)
        if bid <= 0:
            return self._static(symbol, bar, (None, None, None, None), {})
        bid = quote.price(bar.close, buy=False)
        spread = round(ask - bid, 9)
        known = {"bid": bid, "ask": ask, "spread": spread, "spread_bps": spread / bar.close * 10_000}
        size = float(quote.entry_room)
        return self._static(symbol, bar, (bid, ask, size, size), known)

    @staticmethod
    def _static(symbol: BarSymbol, bar: TimedBar, quote: tuple[Any, ...], known: dict[str, Any]) -> tuple[Any, ...]:
        values = dict.fromkeys(BUCKET_FIELDS) | known
        values |= {"ts": bar.start, "mark": bar.close, "mid": bar.close, "quote_source": QUOTE_SOURCE}
        values |= {"tape_buy": 0.0, "tape_sell": 0.0, "tape_unknown": bar.volume, "trade_count": bar.trades}
        values |= {"quote_count": 0, "depth_count": 0, "stale": False, "halted": False}
        return (*values.values(), bar.seq, bar.end, symbol.con_id, symbol.symbol, *quote)

    def _close_late(self, symbol: BarSymbol, seat: BarSeat, bar: TimedBar) -> None:
        """Send the exits of positions that have been held long enough."""
        for tracked in self._of(symbol.con_id, seat.decider.name):
            position = tracked.position
            most = position.plan.hold_seconds_max
            if not position.open or most is None or position.leaving:
                continue
            if bar.end >= position.fills[0].ts + int(most * SECOND_NS):
                self._send(tracked, Change(ChangeKind.EXIT, reason=TIME_STOP), bar)

    def _drop(self, failure: Failure, bar: TimedBar) -> None:
        """Close the positions of a strategy that has failed, and cancel its entries."""
        self._failures.append(failure)
        for tracked in [t for t in self._active if t.position.strategy == failure.strategy]:
            self._send(tracked, Change(ChangeKind.EXIT, reason=STRATEGY_ERROR), bar)

    def _act(self, symbol: BarSymbol, seat: BarSeat, bar: TimedBar, shown: tuple[Any, ...], verdict: Verdict) -> None:
        entering = verdict.plan is not None and not verdict.gates
        if not entering:
            who = (symbol.con_id, symbol.symbol, seat.decider.name, seat.code)
            none: list[Any] = [None] * 8
            self._rows["decisions"].append((bar.seq, bar.end, bar.start, *who, "none", "|".join(verdict.gates), *none))
        elif verdict.plan is not None:
            for plan in (verdict.plan, verdict.plan.rival):
                if plan is not None:
                    self._open(symbol, seat, bar, shown, plan)
        for tracked in self._of(symbol.con_id, seat.decider.name):
            for change in verdict.changes:
                self._send(tracked, change, bar)

    def _open(self, symbol: BarSymbol, seat: BarSeat, bar: TimedBar, shown: tuple[Any, ...], plan: EntryPlan) -> None:
        terms = self._terms
        asked = shown[_BID + plan.long]  # the ask follows the bid
        near = asked or plan.limit or plan.trigger or 1.0
        tick = price_step(near, symbol.tick)
        entry = opening_order(plan, tick, asked, share_max=1.0, last_only=terms.last_only)
        position = Position(
            con_id=symbol.con_id,
            symbol=symbol.symbol,
            strategy=seat.decider.name,
            strategy_digest=seat.code,
            run=terms.run,
            decision_seq=bar.seq,
            decision_ts=bar.end,
            gate_codes=[],
            plan=plan,
            entry=entry,
            sent=[Sent(bar.seq, bar.end + terms.latency_ns, self._next_number())],
            tick=tick,
            stop_at=plan.stop,
            target_at=plan.target,
            risk=risk_per_share(plan, entry.reference_price, tick, terms.costs),
        )
        pre = self._pre[symbol.con_id]
        columns = zip(*(row[: len(BUCKET_FIELDS)] for row in pre), strict=True)
        named = {name: _numbers(name, values) for name, values in zip(BUCKET_FIELDS, columns, strict=True)}
        assumed = f"spread {self._rules.spread_bps:g} bps, {self._rules.volume_share:g} of the volume"
        window = f"last {len(pre)} bars of {bar.bar_size}; {assumed}"
        tracked = Tracked(position, terms.costs, terms.memory, terms.trading_date, window, named)
        tracked.series = {name: [] for name in (*SERIES_FIELDS, GATES)}
        self._active.append(tracked)
        self._decided(position, "enter", plan.reason, (bar.seq, bar.end, bar.start), entry.reference_price)

    def _send(self, tracked: Tracked, change: Change, bar: TimedBar) -> None:
        """Send a message about a position; a second exit is not sent."""
        position, price = tracked.position, change.price
        leaving = change.kind is ChangeKind.EXIT
        if leaving:
            if position.leaving:
                return
            position.sent_exit = True
            pre = self._pre[position.con_id][-1]
            price = pre[_BID + (not position.plan.long)]
        number, arrives = self._next_number(), bar.end + self._terms.latency_ns
        position.sent.append(Sent(bar.seq, arrives, number, change, price if leaving else None))
        action, reason = ("exit", change.reason) if leaving else ("change", change.kind.value)
        self._decided(position, action, reason, (bar.seq, bar.end, bar.start), price)

    def _next_number(self) -> int:
        self._sent += 1
        return self._sent

    def _held(self, con_id: int, name: str) -> Holding | None:
        mine = [tracked.position for tracked in self._of(con_id, name)]
        if not mine:
            return None
        position = next((p for p in mine if p.fills), mine[0])
        _, stop, target = position.bracket
        return Holding(
            long=position.plan.long,
            open=position.open,
            entered=position.entered,
            working=position.working,
            entry_ts=position.fills[0].ts if position.fills else None,
            entry_price=episodes.entry_price(position) if position.fills else None,
            stop=stop,
            target=target,
            leaving=position.leaving,
        )

    def _decided(
        self, position: Position, action: str, reason: str, at: tuple[int, int, int | None], price: float | None
    ) -> None:
        """Write a decision to act; `at`: seq, time, and start of the bar it rests on."""
        plan, leaving = position.plan, action == "exit"
        self._rows["decisions"].append((
            *at, *_who(position), action, "|".join(position.gate_codes), reason, position.decision_seq,
            "BUY" if plan.long != leaving else "SELL", position.open if leaving else plan.quantity, price, plan.stop,
            plan.target, msgspec.json.encode(plan.features).decode(),
        ))  # fmt: skip

    # the end of an entry or a trade

    def _unfilled(self, tracked: Tracked, seq: int, ts: int) -> None:
        position = tracked.position
        self._active = [one for one in self._active if one is not tracked]
        self._decided(position, "unfilled", position.ended, (seq, ts, None), position.entry.reference_price)
        self._finished(position, ts)

    def _end(self, tracked: Tracked, end: tuple[int, int, float | None] | None = None) -> None:
        position = tracked.position
        self._active = [one for one in self._active if one is not tracked]
        self._ending.append(tracked)
        number = self._ended[position.symbol] = self._ended.get(position.symbol, 0) + 1
        ts = position.fills[-1].ts if end is None else end[0]
        tracked.ended(f"T{episodes.time_of_day(ts)}_{number:03d}", end)
        holes = self._holes.get(position.symbol, 0) - self._before.pop(_identity(position))
        tracked.unseen = Unseen(seconds=holes)
        self._finished(position, ts)

    def _finished(self, position: Position, ts: int) -> None:
        for seat in self._seats:
            if seat.decider.name == position.strategy:
                seat.decider.finished(position.con_id, ts)

    def _extend_series(self, symbol: BarSymbol, name: str, shown: tuple[Any, ...], gates: list[str]) -> None:
        """Add the bar to the series of the strategy's trades that were held in it."""
        mine = [t for t in (*self._active, *self._ending) if t.position.fills]
        for tracked in mine:
            if (tracked.position.con_id, tracked.position.strategy) != (symbol.con_id, name):
                continue
            for field in SERIES_FIELDS:
                tracked.series[field].append(_numbers(field, [shown[_PLACE[field]]])[0])
            tracked.series[GATES].append(gates)

    def _release(self) -> None:
        for tracked in self._ending:
            row = episodes.episode_row(tracked, SymbolHealth(), tracked.exit_seq, self._kind, MODE_BARS)
            self._rows["episodes"].append(row)
        self._ending = []

    def _finish(self, symbol: BarSymbol, last: TimedBar) -> None:
        """End the date: open positions become episodes `DATA_END`, unfilled entries are recorded as unfilled."""
        quote = self._quote(symbol, last)
        for tracked in self._of(symbol.con_id):
            position = tracked.position
            position.cancel_entry(RUN_END, last.end, last.seq)
            if position.never_filled:
                self._unfilled(tracked, last.seq, last.end)
            else:
                price = quote.price(last.close, buy=not position.plan.long)
                self._end(tracked, (last.end, last.seq, price))
        self._release()


def _seat(name: str, recorded: str, settings: dict[str, Any], library: Library) -> BarSeat:
    made, code = library.make(name, recorded, settings)
    if not isinstance(made, UserDecider):
        raise BadSetting(
            f"strategy {name} needs the book and the tape, which bars do not have; "
            "give another one: --strategy scanner_entry, random_entry or FILE:CLASS"
        )
    return BarSeat(BarsDecider(made.strategy, made.digest), code)


class _CandleBuilder:
    """Candles of completed bars, for the timeframes that are whole multiples of the bar size."""

    def __init__(self, session: tuple[int, int] | None) -> None:
        self._session = session
        self._forming: dict[str, list[Any]] = {}  # start, end, open, high, low, close, seconds

    def add(self, bar: TimedBar) -> list[tuple[str, tuple[Any, ...]]]:
        """Take in a bar; returns the candles that are complete at its end."""
        done: list[tuple[str, tuple[Any, ...]]] = []
        length = bar.end - bar.start
        for name, seconds in TIMEFRAMES:
            span = self._span(bar, seconds * SECOND_NS)
            found = self._forming.get(name)
            if found is not None and found[1] <= bar.start:
                done.append((name, tuple(self._forming.pop(name))))
                found = None
            if span is None:
                continue
            if found is None:
                found = self._forming[name] = [*span, bar.open, bar.high, bar.low, bar.close, 0]
            found[3], found[4], found[5] = max(found[3], bar.high), min(found[4], bar.low), bar.close
            found[6] += length // SECOND_NS
            if found[1] <= bar.end:
                done.append((name, tuple(self._forming.pop(name))))
        return done

    def _span(self, bar: TimedBar, length: int) -> tuple[int, int] | None:
        """Start and end of the candle that the bar belongs to; None when there is none."""
        if not length:
            hours = self._session
            return hours if hours and hours[0] <= bar.start and bar.end <= hours[1] else None
        start = bar.start // length * length
        return (start, start + length) if bar.end <= start + length else None


def _shown_bar(bar: TimedBar) -> tuple[Any, ...]:
    return bar.bar_size, bar.time, bar.open, bar.high, bar.low, bar.close, bar.volume


def _who(position: Position) -> tuple[int, str, str, str]:
    return position.con_id, position.symbol, position.strategy, position.strategy_digest


def _identity(position: Position) -> tuple[Any, ...]:
    return position.con_id, position.strategy, position.decision_seq


def _numbers(name: str, values: Iterable[Any]) -> list[Any]:
    """Values of a bucket field; an absent number is NaN."""
    return [_NO_NUMBER if value is None and name not in _NOT_NUMBERS else value for value in values]


def _end(bar: TimedBar) -> int:
    return bar.end


def _ts(scan: tuple[int, Any]) -> int:
    return scan[0]


_NOT_NUMBERS = frozenset(("quote_source", "book_good", "stale", "halted"))
_PLACE = {name: k for k, name in enumerate(BUCKET_FIELDS)}
_OF_SECOND = {"ts": "second", "bid": "bucket_bid", "ask": "bucket_ask"}
_QUOTE = ("bid", "ask", "bid_size", "ask_size")
_NOW_FIELDS = (*(_OF_SECOND.get(n, n) for n in BUCKET_FIELDS), "seq", "ts", "con_id", "symbol", *_QUOTE)
_BID = len(BUCKET_FIELDS) + 4  # in what a strategy sees, after seq, ts, con_id, symbol
