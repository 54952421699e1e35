"""The compiled market: one pass over the events of a batch, all state in the arrays of `state_arrays.MarketState`.

Importing this module imports Numba and, the first time on a machine, compiles (see `kernel_cache`), so it is imported
only at the first fold. Live commits and replays both call `run`; there is no second implementation. `tests/reference`
has the same rules in plain Python. Sums are accumulated event by event, independent of batches, so the result does not
depend on how events are split. Only + - * / and comparisons are used: the same bits on every machine.
"""

# Compiled code compares values one by one: a set would be built for every event.
# ruff: noqa: PLR1714, SIM109, PLR0917, PLR0124
# Numba's decorators and array elements carry no types.
# mypy: disable-error-code="untyped-decorator, no-any-return, return-value, no-untyped-call"
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numba import types

from harvester.events.kinds import Operation, Stream, TickStream
from harvester.events.unset import ABSENT_FROM, UNSET_INT
from harvester.projections.market import kernel_cache
from harvester.projections.market.state_arrays import (
    BLANK_SECONDS_MAX,
    BOOK,
    CELL,
    CONTRADICTED_SECONDS,
    HELD_BITS,
    INSTRUMENT,
    KEPT_SECONDS,
    LADDER_OUT,
    LEVEL_OUT,
    NARROW,
    QUOTE_OUT,
    ROUND_LOT,
    ROW,
    SIDE,
    SLOT,
    TOP_N,
    TRADE_OUT,
    Frame,
    Glob,
    Hot,
    MarketState,
    Role,
    Source,
)
from harvester.projections.market.volume import LOTS
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from harvester.projections.market.state_arrays import Array

STREAMS: tuple[Stream, ...] = tuple(Stream)
NAN = np.nan

_CLOCK, _CONTROL, _TICK, _TRADE, _QUOTE, _DEPTH = (int(hot) for hot in Hot)
_BUCKET_END, _ROWS, _CLOSED = int(Glob.BUCKET_END), int(Glob.ROWS), int(Glob.CLOSED)
_QUOTES, _TRADES, _DEAD = int(Glob.QUOTES), int(Glob.TRADES), int(Glob.DEAD)
_DEEP, _LADDERS, _LEVELS = int(Glob.DEEP), int(Glob.LADDERS), int(Glob.LEVELS)
_EMIT, _INSTRUMENTS, _LAST_TS = int(Glob.EMIT), int(Glob.INSTRUMENTS), int(Glob.LAST_TS)
_R_BID_ASK, _R_L1, _R_BOOK, _R_SMART, _R_TAPE = (int(role) for role in Role)
_S_NONE, _S_BID_ASK, _S_L1, _S_SMART = (int(source) for source in Source)
_INSERT, _UPDATE, _DELETE = (int(operation) for operation in Operation)
_BID_ASK_STREAM = int(TickStream.BID_ASK)
_ST_L1, _ST_BID_ASK = STREAMS.index(Stream.L1), STREAMS.index(Stream.BID_ASK)
_ST_LAST, _ST_ALL_LAST = STREAMS.index(Stream.LAST), STREAMS.index(Stream.ALL_LAST)

_cached = kernel_cache.decorator(numba, __file__)
_apart = kernel_cache.decorator(numba, __file__, apart=True)


_WAY = np.array([-1.0, 1.0])  # by side: a price times this is higher when it is better
_PART = (1 << HELD_BITS) - 1
_at = np.uint64
"""An index that is not negative, so that the compiled code skips the test for counting from the end."""


@_cached
def _price(x: float) -> float:
    """A price, or NaN for IB's marks of an absent one: null, 0, -1 or an unset marker."""
    return x if 0.0 < x < ABSENT_FROM and x != UNSET_INT else NAN


@_cached
def _count_unset(q: Any, x: float, y: float) -> None:
    """Health: count the numbers that are IB's unset markers, see `events.unset`."""
    if x >= UNSET_INT or y >= UNSET_INT or x <= -ABSENT_FROM or y <= -ABSENT_FROM:
        q.unset += (x == UNSET_INT or abs(x) >= ABSENT_FROM) + (y == UNSET_INT or abs(y) >= ABSENT_FROM)


@_cached
def _same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)


@_cached
def _held(s: MarketState, epoch: int, req: int) -> int:
    """Look up (epoch, request id) of the current run, see `state_arrays.held`; -1 when the row must be ignored.

    An ignored row is counted: its key is unknown, or the slot of the key is dead.
    """
    mask = _at(len(s.keys) - 1)
    key = (np.int64(epoch) << 32) | (np.int64(req) & 0xFFFFFFFF)
    at = _at(key ^ (key >> 32)) & mask
    while s.keys[at] != key:
        if s.keys[at] == -1:
            s.glob[_DEAD] += 1
            return np.int64(-1)
        at = (at + _at(1)) & mask
    of = s.vals[at]
    if of < 0:
        s.slots[_at(~of & _PART)].dead += 1
        s.inst[_at((~of >> HELD_BITS) & _PART)].dead += 1
        return np.int64(-1)
    return of


@_cached
def _count(slot: Any, ts: int) -> None:
    """Count a row of a slot, and the time since the last one."""
    rows, last = slot.rows, slot.last_ts
    slot.rows, slot.last_ts = rows + 1, ts
    if rows == 0:
        slot.first_ts = ts
    else:
        slot.gap_max = max(slot.gap_max, ts - last)


@_cached
def _arrive(s: MarketState, epoch: int, req: int, ts: int) -> int:
    """Count a row and return its slot; -1 when it must be ignored."""
    of = _held(s, epoch, req)
    if of < 0:
        return of
    _count(s.slots[_at(of & _PART)], ts)
    s.inst[_at((of >> HELD_BITS) & _PART)].events += 1
    return of & _PART


# ---- the book: a table of row positions -------------------------------------------------------------------------


@_cached
def _number(price: float, size: float) -> bool:
    """Whether price and size are valid: not an unset marker of IB, infinite or NaN."""
    priced = price > 0.0 and price < ABSENT_FROM and price != UNSET_INT
    return priced and size >= 0.0 and size < ABSENT_FROM and size != UNSET_INT


@_cached
def _reject(book: Any, known: int, operation: int) -> bool:
    """Count an impossible row; returns False. `known` is 0 while its side has had no row since the last reset."""
    book.impossible += 1
    late = known == 0 and book.refill == 1 and operation != _INSERT
    if not late:  # a late row belongs to the book before the 317 and says nothing about the new one
        book.bad = 1
    return False


@_cached
def _cell(half: Any, narrow: bool, position: int) -> int:
    """The cell that holds the row of a position, see `state_arrays.NARROW`."""
    return _at(half.base) + (((half.order >> (_at(position) << _at(2))) & _at(15)) if narrow else _at(position))


@_cached
def _put(cell: Any, price: float, size: float, maker: int) -> None:
    cell.price, cell.size, cell.maker = price, size, maker


@_cached
def _copy(cell: Any, other: Any) -> None:
    cell.price, cell.size, cell.maker = other.price, other.size, other.maker


@_cached
def _settle(s: MarketState, half: Any, narrow: bool, visible: int) -> None:
    """Recount the rows in force after a row was put at or behind a hole; at least `visible`."""
    while visible < half.length and s.cells[_cell(half, narrow, visible)].price > 0.0:
        visible += 1
    half.filled = visible


@_cached
def _look_again(half: Any) -> bool:
    """Mark the best price as unknown, to be searched again. Returns False: it may have changed."""
    half.ties = 0
    return False


@_cached
def _leads(half: Any, known: bool, lead: float, way: float, price: float, size: float) -> bool:
    """Note a row that may be the best: if the best was known and this one beats it, it is. Returns False."""
    half.lead, half.shown = price * way, size
    half.ties = np.int64(known and price * way > lead and size > 0.0)
    return False


@_cached
def _update(
    s: MarketState, book: Any, half: Any, position: int, way: float, price: float, size: float, maker: int
) -> bool:
    end, ties, lead, narrow = half.length, half.ties, half.lead, book.rows <= NARROW
    whole = half.filled == end and position < end
    if not (_number(price, size) and (position < end or half.inserts == 0)):
        return _reject(book, half.known, _UPDATE)
    cell = s.cells[_cell(half, narrow, position)]
    was, had = cell.price, cell.size
    _put(cell, price, size, maker)
    book.applied += 1
    if whole:
        if ties != 0 and price * way < lead and was * way < lead:
            return True
        if price == was and ties == 1 and had > 0.0 and size > 0.0:  # the only row at the best price
            half.shown = size
            return False
        return _leads(half, ties != 0, lead, way, price, size)
    if position >= end:
        book.placed += 1
        half.length, half.known = position + 1, 1
    _settle(s, half, narrow, half.filled)
    return _look_again(half)


@_cached
def _insert(
    s: MarketState, book: Any, half: Any, position: int, way: float, price: float, size: float, maker: int
) -> bool:
    end, visible, ties, lead, rows = half.length, half.filled, half.ties, half.lead, book.rows
    if not (_number(price, size) and position <= end):
        return _reject(book, half.known, _INSERT)
    narrow, last = rows <= NARROW, min(end, rows - 1)
    falls = end > last and s.cells[_cell(half, narrow, last)].price * way >= lead  # a full side: its last row drops out
    if narrow:  # the free cell of `last` moves to `position`; those between move down by one
        low, high, order = _at(position) << _at(2), _at(last) << _at(2), half.order
        window = ((_at(16) << high) - _at(1)) & ~((_at(1) << low) - _at(1))
        free = (order >> high) & _at(15)
        half.order = (order & ~window) | ((order << _at(4)) & window & ~(_at(15) << low)) | (free << low)
        _put(s.cells[_at(half.base) + free], price, size, maker)
    else:
        for i in range(_at(half.base + last), _at(half.base + position), -1):
            _copy(s.cells[i], s.cells[i - _at(1)])
        _put(s.cells[_at(half.base + position)], price, size, maker)
    half.length, half.known, half.inserts = last + 1, 1, 1
    book.applied += 1
    if visible != end:
        _settle(s, half, narrow, visible)
        return _look_again(half)
    half.filled = last + 1
    if falls:
        return _look_again(half)
    return (ties != 0 and price * way < lead) or _leads(half, ties != 0, lead, way, price, size)


@_cached
def _delete(s: MarketState, book: Any, half: Any, position: int, way: float) -> bool:
    """Remove a row. The price and size of a delete are ignored: venues send 0, or the old ones."""
    end, visible, ties, lead, narrow = half.length, half.filled, half.ties, half.lead, book.rows <= NARROW
    gone = s.cells[_cell(half, narrow, position)]
    was = gone.price
    if not (position < end and was > 0.0):
        return _reject(book, half.known, _DELETE)
    last = end - 1
    if narrow:  # its cell moves behind the last row; those between move up by one
        _put(gone, NAN, NAN, 0)
        low, high, order = _at(position) << _at(2), _at(last) << _at(2), half.order
        window = ((_at(16) << high) - _at(1)) & ~((_at(1) << low) - _at(1))
        free = (order >> low) & _at(15)
        half.order = (order & ~window) | ((order & window & ~(_at(15) << low)) >> _at(4)) | (free << high)
    else:
        for i in range(_at(half.base + position), _at(half.base + last)):
            _copy(s.cells[i], s.cells[i + _at(1)])
        _put(s.cells[_at(half.base + last)], NAN, NAN, 0)
    half.length, half.known = last, 1
    book.applied += 1
    if visible != end:
        _settle(s, half, narrow, visible - (position < visible))
        return _look_again(half)
    half.filled = last
    return (ties != 0 and was * way < lead) or _look_again(half)


@_cached
def _apply(
    s: MarketState, b: int, position: int, operation: int, side: int, price: float, size: float, maker: int
) -> bool:
    """Apply one depth row, or count it as impossible. Positions that were skipped are holes: price NaN.

    Returns whether every price that the row put, moved out or replaced is worse than the best of its side: then neither
    the best price of a good book nor the size shown there has changed.
    """
    book = s.books[_at(b)]
    if not (_at(side) <= _at(1) and _at(position) < _at(book.rows)):
        return _reject(book, 1, operation)
    half = s.side[_at(2 * b + side)]
    way = _WAY[_at(side)]
    if operation == _UPDATE:
        return _update(s, book, half, position, way, price, size, maker)
    if operation == _INSERT:
        return _insert(s, book, half, position, way, price, size, maker)
    if operation == _DELETE:
        return _delete(s, book, half, position, way)
    return _reject(book, 1, operation)


@_cached
def _good(s: MarketState, b: int) -> bool:
    """Whether both sides have had a row, none was impossible, and no hole hides rows."""
    ask, bid = s.side[_at(2 * b)], s.side[_at(2 * b + 1)]
    whole = ask.filled == ask.length and bid.filled == bid.length
    return whole and ask.known == 1 and bid.known == 1 and s.books[_at(b)].bad == 0


@_cached
def _contradicted(s: MarketState, b: int) -> bool:
    return s.books[_at(b)].against >= CONTRADICTED_SECONDS


@_cached
def _best(s: MarketState, b: int, side: int) -> tuple[float, float]:
    """Best price of one side over all rows (SMART rows come from many venues), and the size shown there."""
    half, way = s.side[_at(2 * b + side)], _WAY[_at(side)]
    if half.ties != 0:
        return half.lead * way, half.shown
    price, size, ties = NAN, NAN, 0
    narrow = s.books[_at(b)].rows <= NARROW
    for i in range(half.filled):
        cell = s.cells[_cell(half, narrow, i)]
        p, q = cell.price, cell.size
        if not q > 0.0 or p * way < price * way:  # nothing shown, or the usual case: a worse price
            continue
        size, ties = (size + q, ties + 1) if p == price else (q, 1)
        price = p
    half.lead, half.shown, half.ties = price * way, size, ties
    return price, size


@_cached
def _top(s: MarketState, b: int, side: int) -> float:
    total = 0.0
    half, narrow = s.side[_at(2 * b + side)], s.books[_at(b)].rows <= NARROW
    for i in range(min(half.filled, TOP_N)):
        total += s.cells[_cell(half, narrow, i)].size
    return total


@_cached
def _first(s: MarketState, b: int, side: int) -> float:
    """Size of position 0."""
    return s.cells[_cell(s.side[_at(2 * b + side)], s.books[_at(b)].rows <= NARROW, 0)].size


@_cached
def _book_of(s: MarketState, k: int, role: int) -> int:
    """The book an instrument uses for a role, -1 = none."""
    slot = s.current[_at(k), role]
    return s.slots[_at(slot)].book if slot >= 0 else np.int64(-1)


@_cached
def _show_book(s: MarketState, k: int, seq: int, ts: int) -> None:
    """Write the SMART book of an instrument for the trading side; one that is not good shows nothing."""
    g = s.glob
    out = s.ladders[_at(g[_LADDERS])]
    g[_LADDERS] += 1
    out.seq, out.ts, out.con_id = seq, ts, s.inst[_at(k)].con_id
    out.bids, out.asks = 0, 0
    b = _book_of(s, k, _R_SMART)
    if b < 0 or _contradicted(s, b) or not _good(s, b):
        return
    narrow = s.books[_at(b)].rows <= NARROW
    for side in (1, 0):
        half = s.side[_at(2 * b + side)]
        count = 0
        for i in range(half.filled):
            cell = s.cells[_cell(half, narrow, i)]
            if cell.size > 0.0:
                level = s.levels[_at(g[_LEVELS])]
                level.price, level.size = cell.price, cell.size
                g[_LEVELS] += 1
                count += 1
        if side == 1:
            out.bids = count
        else:
            out.asks = count


@_cached
def _show_books(s: MarketState, seq: int, ts: int) -> None:
    """Write every SMART book: the end of a second may have judged it."""
    for k in range(s.glob[_INSTRUMENTS]):
        if _book_of(s, k, _R_SMART) >= 0:
            _show_book(s, k, seq, ts)


# ---- the quote in force ------------------------------------------------------------------------------------------


@_cached
def _candidate(s: MarketState, k: int) -> tuple[int, float, float, float, float]:
    """The quote that should be in force: (source, bid, ask, bid size, ask size)."""
    for source in (_S_BID_ASK, _S_L1):
        if s.heard[_at(k), source - 1, 0] == 1 and s.heard[_at(k), source - 1, 1] == 1:
            f = s.feed[_at(k), source - 1]
            return source, f[0], f[1], f[2], f[3]
    b = _book_of(s, k, _R_SMART)
    if b >= 0 and _good(s, b) and not _contradicted(s, b):
        bid, bid_size = _best(s, b, 1)
        ask, ask_size = _best(s, b, 0)
        return _S_SMART, bid, ask, bid_size, ask_size
    return _S_NONE, NAN, NAN, NAN, NAN


@_cached
def _spread_until(q: Any, ts: int) -> None:
    """Add the spread in force since the last change, exact to the ns."""
    spread = q.ask - q.bid
    if spread == spread:
        q.spread_sum += spread * (ts - q.spread_since)
        q.spread_ns += ts - q.spread_since
    q.spread_since = ts


@_cached
def _flow(q: Any, bid: float, ask: float, bid_size: float, ask_size: float) -> float:
    """Order flow of one change of the quote (Cont, Kukanov, Stoikov 2014, eq. 3); NaN when a number is absent."""
    e = 0.0
    if bid >= q.bid:
        e += bid_size
    if bid <= q.bid:
        e -= q.bid_size
    if ask <= q.ask:
        e -= ask_size
    if ask >= q.ask:
        e += q.ask_size
    return e + 0.0 * (bid_size + ask_size + q.bid_size + q.ask_size + bid + ask + q.bid + q.ask)


@_cached
def _requote(s: MarketState, k: int, seq: int, ts: int) -> None:
    """Put the right quote in force and account for the change, if it is one."""
    source, bid, ask, bid_size, ask_size = _candidate(s, k)
    _quote(s, k, seq, ts, source, bid, ask, bid_size, ask_size)


@_cached
def _requote_side(s: MarketState, k: int, seq: int, ts: int, b: int, side: int) -> None:
    """The same as `_requote` when only one side of the SMART book that gives the quote has changed."""
    q = s.inst[_at(k)]
    price, size = _best(s, b, side)
    if side == 1:
        _quote(s, k, seq, ts, _S_SMART, price, q.ask, size, q.ask_size)
    else:
        _quote(s, k, seq, ts, _S_SMART, q.bid, price, q.bid_size, size)


@_cached
def _quote(
    s: MarketState, k: int, seq: int, ts: int, source: int, bid: float, ask: float, bid_size: float, ask_size: float
) -> None:
    """Put a quote in force and account for the change, if it is one."""
    q = s.inst[_at(k)]
    same = _same(bid, q.bid) and _same(ask, q.ask) and _same(bid_size, q.bid_size) and _same(ask_size, q.ask_size)
    if same and source == q.source:
        return
    _spread_until(q, ts)
    mid = (bid + ask) / 2.0
    if source == q.source:
        flow = _flow(q, bid, ask, bid_size, ask_size)
        if flow == flow:
            q.ofi += flow
        step = mid / ((q.bid + q.ask) / 2.0) - 1.0
        if step == step:
            q.volatility = max(q.volatility, abs(step))
            q.variance += step * step
    else:
        q.source_changes += 1
    if mid == mid:
        q.mid_seen = 1
    q.source, q.bid, q.ask, q.bid_size, q.ask_size = source, bid, ask, bid_size, ask_size
    _show(s, q, seq, ts)


@_cached
def _show(s: MarketState, q: Any, seq: int, ts: int) -> None:
    """Write the quote in force for the trading side: its stream has spoken, or another one has replaced it."""
    q.lost = 0
    g = s.glob
    if g[_EMIT] == 1:
        out = s.quotes[_at(g[_QUOTES])]
        out.seq, out.ts, out.con_id, out.good = seq, ts, q.con_id, np.int64(q.bid <= q.ask)
        out.bid, out.ask, out.bid_size, out.ask_size = q.bid, q.ask, q.bid_size, q.ask_size
        g[_QUOTES] += 1


@_cached
def _spoke(s: MarketState, q: Any, source: int, seq: int, ts: int) -> None:
    """Note a row of a source's stream: a lost quote is in force again, even unchanged."""
    if q.lost == source:
        _show(s, q, seq, ts)


# ---- prints ------------------------------------------------------------------------------------------------------


@_cached
def _aggressor(q: Any, price: float) -> tuple[int, int]:
    """(side, rule): side 1 = BUY, -1 = SELL, 0 = unknown; rule 1 = quote in force, 2 = tick rule, 0 = none."""
    if q.bid <= q.ask:
        lean = (price - q.bid) - (q.ask - price)
        if abs(lean) > 1e-9 * price:
            return (1 if lean > 0.0 else -1), 1
    if price > q.last_price:
        return 1, 2
    if price < q.last_price:
        return -1, 2
    if q.tick_rule != 0:
        return q.tick_rule, 2
    return 0, 0


@_cached
def _check_print(q: Any, price: float) -> None:
    """Count, for health, whether a price-forming print is inside the quote in force."""
    q.prints += 1
    if q.bid <= q.ask:
        q.prints_quoted += 1
        if price < q.bid or price > q.ask:
            q.prints_outside += 1


@_cached
def _print(s: MarketState, k: int, seq: int, ts: int, price: float, size: float, forms: bool, odd: bool) -> None:
    """Take in one print of the tape in use; `forms`: it is price-forming, `odd`: an odd lot."""
    q = s.inst[_at(k)]
    price, size = _price(price), _price(size)
    if price != price or size != size:
        return
    q.trade_count += 1
    q.tape_volume += size
    q.tape_since += size
    side, rule = np.int64(0), np.int64(0)
    if forms:
        side, rule = _aggressor(q, price)
        _check_print(q, price)
        if price != q.last_price:
            q.tick_rule = 0 if q.last_price != q.last_price else (1 if price > q.last_price else -1)
        q.last_price = price
        q.mark = price
    if side > 0:
        q.tape_buy += size
    elif side < 0:
        q.tape_sell += size
    else:
        q.tape_unknown += size
    g = s.glob
    if g[_EMIT] == 1:
        out = s.trades[_at(g[_TRADES])]
        out.seq, out.ts, out.con_id, out.forms_price = seq, ts, q.con_id, np.int64(forms)
        out.triggers = np.int64(forms and not odd)
        out.aggressor, out.inferred, out.price, out.size = side, rule, price, size
        g[_TRADES] += 1


@_cached
def _alike(rise: float, printed: float) -> bool:
    """Whether tick 8 rose by the printed size, in shares or in round lots."""
    return rise > 0.0 and printed > 0.0 and (rise == printed or abs(LOTS * rise - printed) < LOTS)


@_cached
def _volume(q: Any, size: float) -> None:
    """Take in cumulative volume (tick 8) while a tape is on: prints belong to this rise, or to the one before."""
    rise = size - q.volume_base
    if rise < 0.0:  # yesterday's value, a reset or a correction: a new count begins
        q.falls += 1
        if q.rises > 0 and q.last_rise == q.last_rise:
            q.tape_first -= q.tape_since  # prints after the last rise: they belong to it if ticks lead
        q.last_rise = NAN
    elif rise == rise:
        if q.rises == 0 or q.last_rise != q.last_rise:
            q.tape_first += q.tape_since
        else:
            q.print_first += _alike(rise, q.tape_since)
            q.tick_first += _alike(q.last_rise, q.tape_since)
        q.rises += 1
        q.last_rise = rise
        q.volume_rise += rise
        q.tape_matched += q.tape_since
    q.volume_base, q.tape_since = size, 0.0


# ---- seconds -----------------------------------------------------------------------------------------------------


@_cached
def _finite(x: float) -> float:
    """The number if it is finite, else the same NaN on every machine (a processor's NaN may have either sign)."""
    return x if abs(x) < np.inf else NAN


@_cached
def _judge_book(s: MarketState, q: Any, b: int) -> None:
    """Count the seconds in a row that contradict a book, and those that a 317 waits for both sides."""
    book, ask, bid = s.books[_at(b)], s.side[_at(2 * b)], s.side[_at(2 * b + 1)]
    book.blank = book.blank + 1 if book.refill == 1 and (ask.known == 0 or bid.known == 0) else 0
    if not ((q.source == _S_BID_ASK or q.source == _S_L1) and q.bid <= q.ask and _good(s, b)):
        return  # nothing to compare: neither a contradiction nor an end of one
    best_bid, _ = _best(s, b, 1)
    best_ask, _ = _best(s, b, 0)
    book.against = book.against + 1 if best_bid > q.ask or best_ask < q.bid else 0


@_cached
def _close_book(s: MarketState, k: int, row: Any) -> None:
    """Fill the book columns of one bucket row, and update the health counters for them."""
    q = s.inst[_at(k)]
    bid_top, ask_top = q.bid_size, q.ask_size
    row.imbalance, row.bid_size_top_n, row.ask_size_top_n, row.book_good = NAN, NAN, NAN, 0
    b = _book_of(s, k, _R_BOOK)
    if b >= 0:
        q.depth_seconds += 1
        _judge_book(s, q, b)
        if _good(s, b) and _contradicted(s, b):
            q.bad_book_seconds += 1
            q.contradicted_seconds += 1
        elif _good(s, b):
            row.book_good = 1
            bids, asks = _top(s, b, 1), _top(s, b, 0)
            row.bid_size_top_n, row.ask_size_top_n = _finite(bids), _finite(asks)
            if bids + asks > 0.0:
                row.imbalance = _finite((bids - asks) / (bids + asks))
            if q.source == _S_NONE:
                bid_top, ask_top = _first(s, b, 1), _first(s, b, 0)
            elif (
                q.source != _S_SMART
                and q.quote_count + q.depth_count > 0  # a second in which neither of them spoke proves nothing
                and s.side[_at(2 * b)].filled > 0
                and s.side[_at(2 * b + 1)].filled > 0
            ):
                bid, _ = _best(s, b, 1)
                ask, _ = _best(s, b, 0)
                smart = s.current[_at(k), _R_SMART] >= 0  # then it is the book in use
                equal = bid == q.bid and ask == q.ask
                q.top_seconds += 1
                q.top_smart += smart
                q.top_bid_equal += bid == q.bid
                q.top_ask_equal += ask == q.ask
                q.top_equal += equal
                q.top_beyond += bid > q.bid or ask < q.ask
                q.top_agree += equal if smart else bid <= q.bid and ask >= q.ask
        else:
            q.bad_book_seconds += 1
    row.bid_top_size, row.ask_top_size = _finite(bid_top), _finite(ask_top)


@_cached
def _close(s: MarketState, k: int, start: int) -> None:
    """Write the row of one instrument for [start, start + 1 s) and begin its next second."""
    q = s.inst[_at(k)]
    end = start + SECOND_NS
    _spread_until(q, end)
    row = s.rows[_at(s.glob[_ROWS])]
    s.glob[_ROWS] += 1
    bid, ask, bid_size, ask_size = q.bid, q.ask, q.bid_size, q.ask_size
    mid, spread = (bid + ask) / 2.0, ask - bid
    row.ts, row.con_id, row.inst, row.decision_seq = start, q.con_id, k, 0
    row.mark = _finite(q.mark if q.mark == q.mark else mid)
    row.bid, row.ask, row.mid, row.spread = _finite(bid), _finite(ask), _finite(mid), _finite(spread)
    row.spread_bps = _finite(spread / mid * 10_000.0)
    row.spread_twa = _finite(q.spread_sum / q.spread_ns if q.spread_ns > 0 else NAN)
    row.microprice = _finite((ask * bid_size + bid * ask_size) / (bid_size + ask_size))
    _close_book(s, k, row)
    seen = q.mid_seen == 1
    row.ofi = _finite(q.ofi) if seen else NAN
    row.volatility_proxy = _finite(q.volatility) if seen else NAN
    row.realised_variance = _finite(q.variance) if seen else NAN
    row.tape_buy, row.tape_sell, row.tape_unknown = q.tape_buy, q.tape_sell, q.tape_unknown
    row.trade_count, row.quote_count, row.depth_count = q.trade_count, q.quote_count, q.depth_count
    row.quote_source, row.stale = q.source, np.int64(q.events == 0 and q.depth_count == 0)
    row.halted = q.halted
    q.seconds += 1
    q.stale_seconds += row.stale
    q.halted_seconds += row.halted
    q.crossed_seconds += spread < 0.0
    _begin(q)


@_cached
def _begin(q: Any) -> None:
    q.events = q.trade_count = q.quote_count = q.depth_count = q.spread_ns = q.touched = 0
    q.mark = NAN
    q.spread_sum = q.ofi = q.tape_buy = q.tape_sell = q.tape_unknown = q.volatility = q.variance = 0.0
    q.mid_seen = np.int64(q.bid == q.bid and q.ask == q.ask)
    q.halted = np.int64(q.halt != 0)


@_apart
def _pass_time(s: MarketState, ts: int) -> bool:
    """Close every second that ends at or before `ts`; False = no room for the rows: drain them and call again."""
    g = s.glob
    while g[_BUCKET_END] <= ts:
        start = g[_BUCKET_END] - SECOND_NS
        rows = 0
        for i in range(g[_INSTRUMENTS]):
            rows += s.inst[_at(i)].subs > 0 or s.inst[_at(i)].touched == 1
        blank = ts - g[_BUCKET_END] > BLANK_SECONDS_MAX * SECOND_NS
        if rows == 0:
            g[_BUCKET_END] = (ts // SECOND_NS + 1) * SECOND_NS
            return True
        if g[_ROWS] + rows > len(s.rows):
            return False
        for i in range(g[_INSTRUMENTS]):
            k = s.order[_at(i)]
            if s.inst[_at(k)].subs > 0 or s.inst[_at(k)].touched == 1:
                _close(s, k, start)
        g[_BUCKET_END] += SECOND_NS
        if blank:
            g[_BUCKET_END] = (ts // SECOND_NS + 1) * SECOND_NS
            for k in range(g[_INSTRUMENTS]):
                s.inst[_at(k)].spread_since = g[_BUCKET_END] - SECOND_NS
    return True


# ---- rows --------------------------------------------------------------------------------------------------------


@_cached
def _on_tick(s: MarketState, f: Frame, j: int) -> None:
    k = _arrive(s, f.tick_epoch[j], f.tick_req[j], f.tick_ts[j])
    if k < 0:
        return
    slot = s.slots[_at(k)]
    i = slot.inst
    field, price, size = f.tick_field[j], f.tick_price[j], f.tick_size[j]
    _count_unset(s.inst[_at(i)], price, size)
    if slot.stream != _ST_L1:
        return
    if field == slot.rt_field and field != 0:
        if s.current[_at(i), _R_TAPE] == k and slot.warm == 1:
            _print(s, i, f.tick_seq[j], f.tick_ts[j], price, size, True, size < ROUND_LOT)
        slot.warm = 1  # the first row repeats the last print before the subscription
        return
    if field == 8 or field == 74:
        if s.current[_at(i), _R_L1] == k and size >= 0.0 and size < ABSENT_FROM and size != UNSET_INT:
            s.inst[_at(i)].volume = size
            if s.current[_at(i), _R_TAPE] >= 0:
                _volume(s.inst[_at(i)], size)
        return
    ask = field == 2 or field == 3 or field == 67 or field == 70
    is_price = field == 1 or field == 2 or field == 66 or field == 67
    if not (ask or is_price or field == 0 or field == 69):
        return
    s.inst[_at(i)].quote_count += 1
    if s.current[_at(i), _R_L1] != k:
        return
    side = 1 if ask else 0
    q = s.inst[_at(i)]
    if q.kept != 0 and f.tick_ts[j] - q.kept > KEPT_SECONDS * SECOND_NS:
        s.feed[_at(i), _S_BID_ASK - 1] = NAN
        s.heard[_at(i), _S_BID_ASK - 1] = 0
        q.kept = 0
    feed = s.feed[_at(i), _S_L1 - 1]
    if is_price:
        feed[side] = _price(price)
        s.heard[_at(i), _S_L1 - 1, side] = 1
    if size == size:  # price messages of old servers have no size
        feed[2 + side] = _price(size)
    _requote(s, i, f.tick_seq[j], f.tick_ts[j])
    _spoke(s, q, _S_L1, f.tick_seq[j], f.tick_ts[j])


@_cached
def _on_trade(s: MarketState, f: Frame, j: int) -> None:
    k = _arrive(s, f.trade_epoch[j], f.trade_req[j], f.trade_ts[j])
    if k < 0:
        return
    slot = s.slots[_at(k)]
    _count_unset(s.inst[_at(slot.inst)], f.trade_price[j], f.trade_size[j])
    if (slot.stream == _ST_ALL_LAST or slot.stream == _ST_LAST) and s.current[_at(slot.inst), _R_TAPE] == k:
        forms = not (f.trade_past[j] or f.trade_unreported[j])
        price, size = f.trade_price[j], f.trade_size[j]
        _print(s, slot.inst, f.trade_seq[j], f.trade_ts[j], price, size, forms, f.trade_odd[j])


@_cached
def _on_quote(s: MarketState, f: Frame, j: int) -> None:
    k = _arrive(s, f.quote_epoch[j], f.quote_req[j], f.quote_ts[j])
    if k < 0:
        return
    slot = s.slots[_at(k)]
    if slot.stream != _ST_BID_ASK or f.quote_stream[j] != _BID_ASK_STREAM:
        return
    i = slot.inst
    _count_unset(s.inst[_at(i)], f.quote_bid[j], f.quote_ask[j])
    _count_unset(s.inst[_at(i)], f.quote_bid_size[j], f.quote_ask_size[j])
    s.inst[_at(i)].quote_count += 1
    if s.current[_at(i), _R_BID_ASK] != k:
        return
    feed = s.feed[_at(i), _S_BID_ASK - 1]
    feed[0], feed[1] = _price(f.quote_bid[j]), _price(f.quote_ask[j])
    feed[2], feed[3] = _price(f.quote_bid_size[j]), _price(f.quote_ask_size[j])
    s.heard[_at(i), _S_BID_ASK - 1, 0] = s.heard[_at(i), _S_BID_ASK - 1, 1] = 1
    s.inst[_at(i)].kept = 0
    _requote(s, i, f.quote_seq[j], f.quote_ts[j])
    _spoke(s, s.inst[_at(i)], _S_BID_ASK, f.quote_seq[j], f.quote_ts[j])


@_cached
def _on_depth(s: MarketState, f: Frame, j: int, ts: int) -> None:
    of = _held(s, f.depth_epoch[j], f.depth_req[j])
    if of < 0:
        return
    k, i, b = of & _PART, (of >> HELD_BITS) & _PART, (of >> 2 * HELD_BITS) - 1
    q = s.inst[_at(i)]
    _count(s.slots[_at(k)], ts)
    _count_unset(q, f.depth_price[j], f.depth_size[j])
    if b < 0:
        q.events += 1
        return
    q.depth_count += 1
    side, position, operation = np.int64(f.depth_side[j]), np.int64(f.depth_position[j]), np.int64(f.depth_operation[j])
    same = _apply(s, b, position, operation, side, f.depth_price[j], f.depth_size[j], f.depth_maker[j])
    if s.glob[_DEEP] == 1 and s.current[_at(i), _R_SMART] == k:
        _show_book(s, i, f.depth_seq[j], ts)
    if same and q.lost == 0:
        return
    if s.current[_at(i), _R_SMART] != k:
        return
    if q.source == _S_SMART and _at(side) <= _at(1) and _good(s, b):
        _requote_side(s, i, f.depth_seq[j], ts, b, side)
    elif q.source == _S_SMART or q.source == _S_NONE:
        _requote(s, i, f.depth_seq[j], ts)
    _spoke(s, q, _S_SMART, f.depth_seq[j], ts)


@_cached
def _on_clock(s: MarketState, seq: int) -> None:
    g = s.glob
    for n in range(g[_CLOSED], g[_ROWS]):
        s.rows[_at(n)].decision_seq = seq
    g[_CLOSED] = g[_ROWS]


@_cached
def _on_other(s: MarketState, f: Frame, kind: int, j: int) -> None:
    """Take in a row other than depth; a control row only advances time."""
    if kind == _TICK:
        _on_tick(s, f, j)
    elif kind == _TRADE:
        _on_trade(s, f, j)
    elif kind == _QUOTE:
        _on_quote(s, f, j)
    elif kind == _CLOCK:
        _on_clock(s, f.clock_seq[j])


@_cached
def _on_change(s: MarketState, ops: Array) -> None:
    """Apply the changes of control rows: columns seq, ts, instrument, role, slot, keep. Time is already at ts.

    keep: the last quote stays in force, its stream is being renewed.
    """
    for n in range(len(ops)):
        k, role, slot = ops[n, 2], ops[n, 3], ops[n, 4]
        q = s.inst[_at(k)]
        s.current[_at(k), role] = slot
        q.touched = 1
        if role == _R_BID_ASK:
            q.kept = (q.kept if q.kept != 0 else ops[n, 1]) if ops[n, 5] == 1 else 0
        if (role == _R_BID_ASK or role == _R_L1) and ops[n, 5] == 0:
            s.feed[_at(k), role] = NAN
            s.heard[_at(k), role] = 0
        if role == _R_TAPE:
            q.last_price, q.tick_rule = NAN, 0
    for n in range(len(ops)):
        _requote(s, ops[n, 2], ops[n, 0], ops[n, 1])
        if s.glob[_DEEP] == 1:
            _show_book(s, ops[n, 2], ops[n, 0], ops[n, 1])


@_cached
def _next_ts(f: Frame, kind: int, j: int) -> int:
    if kind == _TICK:
        return f.tick_ts[j]
    if kind == _TRADE:
        return f.trade_ts[j]
    if kind == _QUOTE:
        return f.quote_ts[j]
    if kind == _CLOCK:
        return f.clock_ts[j]
    if kind == _CONTROL:
        return f.control_ts[j]
    return f.depth_ts[j]


@_cached
def _next_seq(f: Frame, kind: int, j: int) -> int:
    if kind == _TICK:
        return f.tick_seq[j]
    if kind == _TRADE:
        return f.trade_seq[j]
    if kind == _QUOTE:
        return f.quote_seq[j]
    if kind == _CLOCK:
        return f.clock_seq[j]
    if kind == _CONTROL:
        return f.control_seq[j]
    return f.depth_seq[j]


@_cached
def _room(s: MarketState, most: int) -> int:
    """For how many events the outputs have room, at most `most`."""
    g = s.glob
    if g[_EMIT] == 1:  # an event writes at most one quote and one print
        most = min(most, len(s.quotes) - g[_QUOTES], len(s.trades) - g[_TRADES])
    if g[_DEEP] == 1:  # and one book; the end of a second writes them all
        most = min(most, len(s.ladders) - g[_LADDERS] - g[_INSTRUMENTS])
    return most


def _run(s: MarketState, f: Frame, cursor: Array, start: int, stop: int, ops: Array) -> int:
    """Fold the changes `ops`, then events [start, stop) of a frame; returns `stop`, or where an output was full."""
    _on_change(s, ops)
    g = s.glob
    at, ts, end = start, g[_LAST_TS], g[_BUCKET_END]
    deep = g[_DEEP] == 1
    while at < stop:
        upto = min(stop, at + _room(s, stop))
        if upto <= at:
            break
        while at < upto:
            kind = f.which[_at(at)]
            j = _at(cursor[kind])
            now = _next_ts(f, kind, j)
            if now >= end:
                if not _pass_time(s, now):
                    g[_LAST_TS] = ts
                    return at
                end = g[_BUCKET_END]
                if deep:
                    _show_books(s, _next_seq(f, kind, j), now)
                    break  # there may not be room for a book of each event to come
            ts = now
            if kind == _DEPTH:  # depth rows usually come many in a row
                while True:
                    _on_depth(s, f, j, ts)
                    at += 1
                    j += _at(1)
                    cursor[_DEPTH] = j
                    if at == upto or f.which[_at(at)] != _DEPTH:
                        break
                    now = f.depth_ts[j]
                    if now >= end:
                        break
                    ts = now
                continue
            _on_other(s, f, kind, j)
            cursor[kind] += 1
            at += 1
    g[_LAST_TS] = ts
    return at


# ---- types: explicit, so that there is one compiled form and none is inferred at the first call -------------------


def _kind_of(name: str) -> Any:
    if name == "which":
        return types.uint8
    if name in ("trade_past", "trade_unreported", "trade_odd"):
        return types.boolean
    last = name.split("_", 1)[1]
    if last == "epoch":
        return types.uint16
    if last in ("req", "field", "stream", "position", "operation", "side"):
        return types.int32
    return types.float64 if last in ("price", "size", "bid", "ask", "bid_size", "ask_size") else types.int64


_RECORDS = {
    "side": SIDE,
    "cells": CELL,
    "inst": INSTRUMENT,
    "slots": SLOT,
    "books": BOOK,
    "rows": ROW,
    "quotes": QUOTE_OUT,
    "trades": TRADE_OUT,
    "ladders": LADDER_OUT,
    "levels": LEVEL_OUT,
}
_SHAPES = {
    "current": 2, "heard": 3, "feed": 3,
}  # fmt: skip


def _state_type(name: str) -> Any:
    if name in _RECORDS:
        return numba.from_dtype(_RECORDS[name])[::1]
    item = types.float64 if name == "feed" else types.int64
    return types.Array(item, _SHAPES.get(name, 1), "C")


_STATE = types.NamedTuple([_state_type(name) for name in MarketState._fields], MarketState)
_FRAME = types.NamedTuple([types.Array(_kind_of(n), 1, "C", readonly=True) for n in Frame._fields], Frame)
_OPS = types.Array(types.int64, 2, "C")
run = kernel_cache.decorator(
    numba, __file__, types.int64(_STATE, _FRAME, types.Array(types.int64, 1, "C"), types.int64, types.int64, _OPS)
)(_run)
