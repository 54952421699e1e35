"""The model's order flow: compiled and integer-only, so a seed gives the same day on every machine.

One book per symbol. A row is the size of one venue at one price; rows are sorted by price, then by arrival. Orders
arrive one by one (add, cancel, resize, market order). The gaps are exponential; their mean follows the time of day and
shrinks during bursts, which market orders start. Adds are placed around a hidden reference price that follows a random
walk and moves with trades. A market order takes rows from the top of the book. Changes of the first rows of a book
become row operations (insert, update, delete) with IB's shift semantics: an insert into a full side drops the last row
without a message.

Prices are ticks of 0.01 USD internally and 1/10000 USD in the output rows. All arrays are int64 except the generator's
state.
"""

# ruff: noqa: PLR0917 - compiled functions take plain positional arguments

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
import numpy as np

from harvester.projections.market import kernel_cache
from harvester.simgateway.markets.base_rows import PAST_LIMIT, UNREPORTED, RowKind

if TYPE_CHECKING:
    from collections.abc import Callable

Ints = np.ndarray[Any, np.dtype[np.int64]]
Words = np.ndarray[Any, np.dtype[np.uint64]]
F = TypeVar("F", bound="Callable[..., Any]")

UNITS_PER_TICK = 100
FINRA = 8  # index of the off-exchange venue, after the eight with book rows
ROWS_MIN = 6  # a side of the book never has fewer rows
CONDITION_TEXTS = ("", " F", "   I", " O", " 6", "  T", "   W", " 4", "  TI")
REGULAR, SWEEP, ODD_LOT, OPENING, CLOSING, FORM_T, AVERAGE, DERIVED, FORM_T_ODD = range(9)

# Slots of a symbol's state.
NOW, BURST, REF, N_ASK, N_BID, OUT, OPENED, CLOSED, STARTED, LAST_QUOTE = range(10)
STATE_SLOTS = 16
# Slots of a symbol's parameters.
P_ROWS, P_TARGET, P_SPREAD, P_SCALE, P_OPEN, P_CLOSE, P_START, P_SLOT, P_WALK, P_IMPACT = range(10)
PARAM_SLOTS = 10
OUT_COLUMNS = 8
OUT_SPARE = 1200  # more than one arrival can produce: a sweep of 190 rows with a print and four operations each

_QUOTE, _TRADE, _DEPTH, _SMART = int(RowKind.QUOTE), int(RowKind.TRADE), int(RowKind.DEPTH), int(RowKind.SMART)
_PAST_LIMIT, _UNREPORTED = PAST_LIMIT, UNREPORTED
_ASK, _BID = 0, 1
_INSERT, _UPDATE, _DELETE = 0, 1, 2
_ONE = 1 << 16  # fixed point: 1.0
_BURST_MAX = 12 * _ONE


_SOURCES = ("simgateway/markets/order_flow.py", "simgateway/markets/base_rows.py", "projections/market/kernel_cache.py")


def _compiled(function: F) -> F:
    """A leaf, compiled into its callers."""
    return cast("F", kernel_cache.leaf(numba, literals=False, _nrt=False)(function))


@lru_cache
def exponential_table() -> Ints:
    """-ln(1 - u) at the midpoints of 4096 equal steps of u, in 1/65536; computed in decimals, equal on all machines."""
    from decimal import Decimal, localcontext

    with localcontext() as context:
        context.prec = 28
        steps = [-(Decimal(2 * (4096 - i) - 1) / Decimal(8192)).ln() * 65536 for i in range(4096)]
        return np.array([int(step.to_integral_value()) for step in steps], dtype=np.int64)


@_compiled
def draw(rng: Words) -> int:
    """Next 31 random bits of SplitMix64 (Steele, Lea and Flood 2014)."""
    rng[0] += np.uint64(0x9E3779B97F4A7C15)
    z = rng[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.int64(z >> np.uint64(33))  # type: ignore[return-value]  # an int once compiled


@_compiled
def below(rng: Words, n: int) -> int:
    """A random integer in [0, n), n < 2**32."""
    return (draw(rng) * n) >> 31


@_compiled
def _emit(s: Ints, out: Ints, what: int, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
    row = out[s[OUT]]
    row[0], row[1], row[2], row[3] = s[NOW], what, a, b
    row[4], row[5], row[6], row[7] = c, d, e, f
    s[OUT] += 1


@_compiled
def _emit_level(s: Ints, out: Ints, what: int, position: int, operation: int, side: int, level: Ints) -> None:
    _emit(s, out, what, position, operation, side, level[0] * UNITS_PER_TICK, level[2], level[1])


@_compiled
def _move(rows: Ints, source: int, target: int) -> None:
    rows[target, 0], rows[target, 1], rows[target, 2] = rows[source, 0], rows[source, 1], rows[source, 2]


@_compiled
def _own_place(rows: Ints, i: int) -> int:
    """Number of rows of the direct venue (0) before row i."""
    place = 0
    for k in range(i):
        if rows[k, 1] == 0:
            place += 1
    return place


@_compiled
def _own_row(rows: Ints, n: int, place: int) -> int:
    """Index of the direct venue's row number `place`, -1 if it has fewer rows."""
    for k in range(n):
        if rows[k, 1] == 0:
            if place == 0:
                return k
            place -= 1
    return -1


@_compiled
def _remove(s: Ints, p: Ints, book: Ints, out: Ints, side: int, i: int) -> None:
    """Remove row i; a row that enters the visible depth is an insert at its last position."""
    rows, n, shown = book[side], s[N_ASK + side], p[P_ROWS]
    venue, own = rows[i, 1], _own_place(rows, i)
    for k in range(i, n - 1):
        _move(rows, k + 1, k)
    n -= 1
    s[N_ASK + side] = n
    if i < shown:
        _emit(s, out, _SMART, i, _DELETE, side, 0, 0, venue)
        if n >= shown:
            _emit_level(s, out, _SMART, shown - 1, _INSERT, side, rows[shown - 1])
    if venue == 0 and own < shown:
        _emit(s, out, _DEPTH, own, _DELETE, side, 0, 0, venue)
        k = _own_row(rows, n, shown - 1)
        if k >= 0:
            _emit_level(s, out, _DEPTH, shown - 1, _INSERT, side, rows[k])


@_compiled
def _resize(s: Ints, p: Ints, book: Ints, out: Ints, side: int, i: int, size: int) -> None:
    rows, shown = book[side], p[P_ROWS]
    if rows[i, 2] == size:
        return
    rows[i, 2] = size
    if i < shown:
        _emit_level(s, out, _SMART, i, _UPDATE, side, rows[i])
    if rows[i, 1] == 0:
        own = _own_place(rows, i)
        if own < shown:
            _emit_level(s, out, _DEPTH, own, _UPDATE, side, rows[i])


@_compiled
def _add(s: Ints, p: Ints, book: Ints, out: Ints, side: int, price: int, venue: int, size: int) -> None:
    """Add a resting order: to the venue's row at its price, else as a new row behind that price's rows."""
    rows, n, shown = book[side], s[N_ASK + side], p[P_ROWS]
    i = 0
    while i < n and (rows[i, 0] <= price if side == _ASK else rows[i, 0] >= price):
        if rows[i, 0] == price and rows[i, 1] == venue:
            _resize(s, p, book, out, side, i, rows[i, 2] + size)
            return
        i += 1
    if n == rows.shape[0]:
        if i >= n:
            return
        _remove(s, p, book, out, side, n - 1)
        n -= 1
    for k in range(n, i, -1):
        _move(rows, k - 1, k)
    rows[i, 0], rows[i, 1], rows[i, 2] = price, venue, size
    s[N_ASK + side] = n + 1
    if i < shown:
        _emit_level(s, out, _SMART, i, _INSERT, side, rows[i])
    if venue == 0:
        own = _own_place(rows, i)
        if own < shown:
            _emit_level(s, out, _DEPTH, own, _INSERT, side, rows[i])


@_compiled
def _top(rows: Ints, n: int) -> tuple[int, int, int]:
    """Best price, total size there, and its venues as bits."""
    price, size, venues = rows[0, 0], 0, 0
    for k in range(n):
        if rows[k, 0] != price:
            break
        size += rows[k, 2]
        venues |= 1 << rows[k, 1]
    return price, size, venues


@_compiled
def _quote(s: Ints, book: Ints, out: Ints) -> None:
    """Emit best bid and ask if they changed."""
    ask, ask_size, ask_at = _top(book[_ASK], s[N_ASK])
    bid, bid_size, bid_at = _top(book[_BID], s[N_BID])
    last = s[LAST_QUOTE:]
    same = bid == last[0] and ask == last[1] and bid_size == last[2] and ask_size == last[3]
    if same and bid_at == last[4] and ask_at == last[5]:
        return
    last[0], last[1], last[2], last[3], last[4], last[5] = bid, ask, bid_size, ask_size, bid_at, ask_at
    _emit(s, out, _QUOTE, bid * UNITS_PER_TICK, ask * UNITS_PER_TICK, bid_size, ask_size, bid_at, ask_at)


@_compiled
def _venue(rng: Words) -> int:
    """A venue: the direct one in 40 %, else one of the other seven with equal probability."""
    u = below(rng, 100)
    return 0 if u < 40 else 1 + (u - 40) * 7 // 60


@_compiled
def _lots(rng: Words, scale: int) -> int:
    """Size of a resting order in shares: round lots, mostly small, larger for cheaper stocks."""
    u = below(rng, 100)
    if u < 50:
        lots = 1
    elif u < 75:
        lots = 2 + below(rng, 2)
    elif u < 95:
        lots = 4 + below(rng, 7)
    else:
        lots = 10 + below(rng, 40)
    return lots * scale * 100


@_compiled
def _place(s: Ints, p: Ints, book: Ints, rng: Words, out: Ints) -> None:
    """Add a limit order near the reference price that never crosses the other side."""
    side = below(rng, 2)
    away = 0
    while away < 40 and below(rng, 100) < 72:
        away += 1
    half = (p[P_SPREAD] + below(rng, 2)) // 2
    ref = s[REF] >> 8
    if side == _BID:
        price = min(ref - half - away, book[_ASK, 0, 0] - 1)
    else:
        price = max(ref - half + p[P_SPREAD] + away, book[_BID, 0, 0] + 1)
    _add(s, p, book, out, side, max(price, 1 + side), _venue(rng), _lots(rng, p[P_SCALE]))


@_compiled
def _withdraw(s: Ints, p: Ints, book: Ints, rng: Words, out: Ints) -> None:
    """Cancel or resize a row, preferably one the reference price has crossed."""
    side = 0 if s[N_ASK] > s[N_BID] else 1
    if below(rng, 3) == 0:
        side = 1 - side
    n = s[N_ASK + side]
    i = min(below(rng, n), below(rng, n)) if below(rng, 4) else n - 1
    ref = s[REF] >> 8
    stale = book[side, 0, 0] < ref if side == _ASK else book[side, 0, 0] > ref
    if stale and below(rng, 3):
        i = 0
    if below(rng, 4) == 0:
        _resize(s, p, book, out, side, i, _lots(rng, p[P_SCALE]))
    elif n > ROWS_MIN:
        _remove(s, p, book, out, side, i)


@_compiled
def _print(s: Ints, p: Ints, out: Ints, price: int, size: int, venue: int, condition: int) -> None:
    """A trade on the book; an odd lot is unreported, a trade outside the session is form T."""
    attribs = 0
    outside = s[NOW] < p[P_OPEN] or s[NOW] >= p[P_CLOSE]
    if size < 100:
        attribs, condition = _UNREPORTED, FORM_T_ODD if outside else ODD_LOT
    elif outside:
        condition = FORM_T
    _emit(s, out, _TRADE, price, size, venue, attribs, condition, 0)


@_compiled
def _off_book(s: Ints, p: Ints, book: Ints, rng: Words, out: Ints) -> None:
    """A FINRA print: at the mid or the touch; sometimes at an average or derived price, or past its limit."""
    bid, ask = book[_BID, 0, 0] * UNITS_PER_TICK, book[_ASK, 0, 0] * UNITS_PER_TICK
    size = _lots(rng, p[P_SCALE]) if below(rng, 5) else 1 + below(rng, 99)
    u = below(rng, 100)
    if u >= 6:
        price = (bid + ask) // 2 if u < 55 else (bid if u < 78 else ask)
        _print(s, p, out, price, size, FINRA, REGULAR)
        return
    off = (below(rng, 41) - 20) * UNITS_PER_TICK
    price = max((bid + ask) // 2 + off, UNITS_PER_TICK)
    if u < 3:
        _emit(s, out, _TRADE, price, size, FINRA, _UNREPORTED, AVERAGE, 0)
    elif u < 5:
        _emit(s, out, _TRADE, price, size, FINRA, _UNREPORTED, DERIVED, 0)
    else:
        _emit(s, out, _TRADE, price, size, FINRA, _PAST_LIMIT, REGULAR, 0)


@_compiled
def _take(s: Ints, p: Ints, book: Ints, rng: Words, out: Ints) -> None:
    """A market order: takes rows from the top in price-time order, one print each."""
    s[BURST] = min(s[BURST] + 2 * _ONE // 3, _BURST_MAX)
    if below(rng, 5) == 0:
        _off_book(s, p, book, rng, out)
        return
    middle = (book[_ASK, 0, 0] + book[_BID, 0, 0]) * 128
    pull = (s[REF] - middle) * 100 // (256 * (p[P_SPREAD] + 1))
    side = _ASK if below(rng, 200) < 100 + min(max(pull, -70), 70) else _BID
    left = 1 + below(rng, 99) if below(rng, 100) < 18 else _lots(rng, p[P_SCALE]) * (1 + below(rng, 2))
    condition = SWEEP if below(rng, 3) == 0 else REGULAR
    if below(rng, 10):  # one order in ten sweeps beyond the touch
        left = min(left, _top(book[side], s[N_ASK + side])[1])
    while left > 0 and s[N_ASK + side] > ROWS_MIN:
        price, venue, there = book[side, 0, 0], book[side, 0, 1], book[side, 0, 2]
        size = min(left, there)
        _print(s, p, out, price * UNITS_PER_TICK, size, venue, condition)
        if size == there:
            _remove(s, p, book, out, side, 0)
        else:
            _resize(s, p, book, out, side, 0, there - size)
        left -= size
    s[REF] += (1 - 2 * side) * ((8 + below(rng, 24)) * p[P_IMPACT] >> 4)


@_compiled
def _start(s: Ints, p: Ints, book: Ints, rng: Words, out: Ints) -> None:
    """The initial book: rows on both sides of the reference price, emitted as inserts."""
    s[NOW], s[STARTED] = p[P_START], 1
    ref = s[REF] >> 8
    for side in range(2):
        while s[N_ASK + side] < p[P_TARGET]:
            away = below(rng, p[P_TARGET]) + (p[P_SPREAD] + 1) // 2
            price = ref + away + 1 if side == _ASK else max(ref - away, 1)
            before = s[N_ASK + side]
            _add(s, p, book, out, side, price, _venue(rng), _lots(rng, p[P_SCALE]))
            if s[N_ASK + side] == before and before >= ROWS_MIN + 2 and below(rng, 8) == 0:
                break
    _quote(s, book, out)


@_compiled
def _cross(s: Ints, p: Ints, book: Ints, rng: Words, out: Ints, ts: int, condition: int) -> None:
    """The opening or closing cross: one large print of the primary exchange."""
    s[NOW] = ts
    middle = (book[_ASK, 0, 0] + book[_BID, 0, 0]) // 2
    size = (50 + below(rng, 200)) * 100 * p[P_SCALE]
    _emit(s, out, _TRADE, middle * UNITS_PER_TICK, size, 0, 0, condition, 0)


@_compiled
def _gap(s: Ints, rng: Words, means: Ints, table: Ints, slot_ns: int, start: int) -> int:
    """Nanoseconds to the next arrival."""
    slot = min(max((s[NOW] - start) // slot_ns, 0), len(means) - 1)
    mean = means[slot] * 256 // (256 + (s[BURST] >> 8))
    wait: int = 1 + ((mean >> 8) * table[below(rng, 4096)] >> 8)
    return wait


def _run(
    s: Ints, p: Ints, book: Ints, rng: Words, means: Ints, table: Ints, out: Ints, pending: Ints, until: int
) -> bool:
    """Generate rows up to `until` (exclusive) or until `out` is full; True when `until` was reached.

    Args:
        s: the symbol's state, modified; `s[OUT]` counts the rows in `out`.
        p: the symbol's parameters.
        book: (side, row, [price, venue, size]), modified.
        rng: state of the random generator, modified.
        means: mean gap between arrivals in ns, per slot of the day.
        table: `exponential_table()`.
        out: output rows (ts, kind, six values), `OUT_COLUMNS` wide.
        pending: time of the next arrival, shape (1,).
        until: ns UTC.
    """
    room = out.shape[0] - OUT_SPARE
    if not s[STARTED]:
        _start(s, p, book, rng, out)
        pending[0] = s[NOW] + _gap(s, rng, means, table, p[P_SLOT], p[P_START])
    while s[OUT] < room:
        ts = pending[0]
        if not s[OPENED] and p[P_OPEN] <= min(ts, until - 1):
            s[OPENED] = 1
            _cross(s, p, book, rng, out, p[P_OPEN], OPENING)
        if not s[CLOSED] and p[P_CLOSE] <= min(ts, until - 1):
            s[CLOSED] = 1
            _cross(s, p, book, rng, out, p[P_CLOSE], CLOSING)
        if ts >= until:
            return True
        s[NOW] = ts
        s[BURST] -= s[BURST] >> 5
        s[REF] += (below(rng, 257) - 128) * p[P_WALK] >> 8
        s[REF] = max(s[REF], 200 << 8)
        u = below(rng, 1000)
        crowd = min(max(340 + (s[N_ASK] + s[N_BID] - 2 * p[P_TARGET]) * 12, 60), 600)
        if u < 90:
            _take(s, p, book, rng, out)
        elif u < 90 + crowd:
            _withdraw(s, p, book, rng, out)
        else:
            _place(s, p, book, rng, out)
        _quote(s, book, out)
        pending[0] = ts + _gap(s, rng, means, table, p[P_SLOT], p[P_START])
    return False


@lru_cache
def _compiled_run() -> Callable[..., bool]:
    """`_run`, compiled at the first call or loaded from the cache."""
    ints, table, book = (numba.types.Array(numba.types.int64, n, "C") for n in (1, 2, 3))
    words = numba.types.Array(numba.types.uint64, 1, "C")
    signature = numba.types.boolean(ints, ints, book, words, ints, ints, table, ints, numba.types.int64)
    kernel = kernel_cache.Kernel(numba, _run, signature, {}, "the model's kernels")
    return cast("Callable[..., bool]", kernel_cache.cached(__file__, kernel, _SOURCES))


def run(
    s: Ints, p: Ints, book: Ints, rng: Words, means: Ints, table: Ints, out: Ints, pending: Ints, until: int
) -> bool:
    """Generate rows up to `until` (exclusive) or until `out` is full; True when `until` was reached.

    Args: as `_run`.
    """
    return _compiled_run()(s, p, book, rng, means, table, out, pending, until)
