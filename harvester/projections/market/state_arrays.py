"""The market's state as arrays, and the bucket table made from it.

The compiled kernels use only these arrays. Every field is 8 bytes wide, so that the bytes of a snapshot are the
same on every machine. Absent numbers are NaN inside and null in Arrow.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence

TOP_N = 5  # rows of the book summed for imbalance
ROWS_DEFAULT, ROWS_LIMIT = 10, 1_000
NARROW = 16
"""A book of at most this many rows a side never moves a row: four bits of `SIDE.order` for each position, the first one
lowest, give the cell with its row. In a wider book a position is its cell."""
CONTRADICTED_SECONDS = 10
"""A book that the quote in force contradicts at the end of this many seconds in a row is not good: its best bid is
above the quote's ask, or its best ask below the quote's bid. Seconds without an uncrossed quote of another source are
left out."""
REFILL_SECONDS = 15
"""A book without rows on both sides this long after a 317 is requested again."""
KEPT_SECONDS = 10
"""The last BidAsk quote of a stream that is being renewed yields to L1 ticks that come later than this."""
ROUND_LOT = 100.0
"""Shares: a print without recorded conditions is an odd lot below this. Conditions say it by the letter I, CTA and UTP
alike; since 2025 the round lot of a dear stock is smaller (SEC Rule 600(b)(93)), which only conditions show."""
BLANK_SECONDS_MAX = 86_400  # a longer time without any event is a recording gap, not silence

Array = npt.NDArray[Any]


class Source(IntEnum):
    """Where the quote in force comes from, best first."""

    NONE = 0
    BID_ASK = 1
    L1 = 2
    SMART_DEPTH = 3


class Role(IntEnum):
    """The use of a subscription by its instrument; the column of `MarketState.current`."""

    BID_ASK = 0
    L1 = 1
    BOOK = 2  # sizes and imbalance: SMART depth, else one venue's
    SMART = 3  # depth that may give the best price
    TAPE = 4  # prints: AllLast, else Last, else RTVolume of L1


class Glob(IntEnum):
    """Index into `MarketState.glob`."""

    BUCKET_END = 0  # ns UTC; 0 before the first event
    ROWS = 1  # bucket rows finished, handed out or waiting for their clock
    CLOSED = 2  # of these, rows a clock has closed
    QUOTES = 3
    TRADES = 4
    DEAD = 5  # rows under an unknown request id
    EMIT = 6  # 1 = write quotes and trades for the trading side
    INSTRUMENTS = 7
    LAST_TS = 8  # of the last event that moved the market, ns UTC
    DEEP = 9  # 1 = write the SMART books for the trading side
    LADDERS = 10
    LEVELS = 11


def _record(ints: str, floats: str, words: str = "") -> np.dtype[Any]:
    kinds = ((ints, "<i8"), (floats, "<f8"), (words, "<u8"))
    return np.dtype([(name, kind) for names, kind in kinds for name in names.split()], align=True)


INSTRUMENT = _record(
    # identity; live subscriptions; was subscribed in the current second; source of the quote in force
    "con_id subs touched source "
    # the current second
    "events trade_count quote_count depth_count mid_seen spread_since spread_ns tick_rule "
    # health, since the date began
    "dead seconds stale_seconds depth_seconds bad_book_seconds contradicted_seconds crossed_seconds source_changes "
    "data_type "
    "top_seconds top_smart top_bid_equal top_ask_equal top_equal top_beyond top_agree "
    "prints prints_outside prints_quoted unset "
    # the current stretch of tick 8 and tape, see `volume.Stretch`
    "rises print_first tick_first falls "
    # halts: 0 not halted, 1 general, 2 volatility; whether it was halted in the current second; for health, since the
    # date began
    "halt halted halts halted_seconds "
    # source of the quote in force if its stream was found silent or cancelled and has not spoken since, else 0
    "lost "
    # since when (ns UTC) BidAsk holds the last quote of a stream that is being renewed, 0 = it does not
    "kept",
    # quote in force
    "bid ask bid_size ask_size "
    # the current second
    "mark spread_sum ofi tape_buy tape_sell tape_unknown volatility variance "
    # tape: last price-forming price, shares; tick 8 as sent
    "last_price tape_volume volume "
    # the current stretch: the last tick 8 and its rise, NaN after a fall
    "volume_base last_rise volume_rise tape_matched tape_first tape_since",
)
SLOT = _record(
    "con_id epoch req_id inst stream alive book rt_field warm rows dead first_ts last_ts gap_max opened closed "
    "applied impossible placed resets",  # of its book, once it is closed
    "",
)
BOOK = _record(
    # placed: updates past the end that were kept; refill: a 317 emptied the book, and IB sends its rows again
    # against: seconds in a row at whose end the quote in force contradicted it
    # blank: seconds since a 317 without rows on both sides
    "slot rows bad impossible applied placed resets refill against blank",
    "",
)
SIDE = _record(
    # length: one past the last row, holes included; filled: rows in force, down to the first hole; known: a row arrived
    # since the last reset; inserts: an insert was applied since the subscription began, across resets
    # base: index of its first cell in `MarketState.cells`; ties: rows that show the best price, 0 = search for it
    "length filled known inserts base ties",
    # while ties > 0: their price, negative on the ask side so that higher is better, and their total size
    "lead shown",
    # cells by position, see NARROW
    "order",
)
CELL = np.dtype([("price", "<f8"), ("size", "<f8"), ("maker", "<i8")], align=True)
"""One row of a book; price NaN = no such row, or a hole. `maker` is an index into the market makers."""
NO_ROW = np.array((np.nan, np.nan, 0), CELL)
ROW = _record(
    "ts con_id inst decision_seq trade_count quote_count depth_count quote_source book_good stale halted",
    "mark bid ask spread spread_bps spread_twa mid microprice imbalance bid_size_top_n ask_size_top_n bid_top_size "
    "ask_top_size ofi tape_buy tape_sell tape_unknown volatility_proxy realised_variance",
)
QUOTE_OUT = _record("seq ts con_id good", "bid ask bid_size ask_size")
TRADE_OUT = _record("seq ts con_id forms_price triggers aggressor inferred", "price size")
LADDER_OUT = _record("seq ts con_id bids asks", "")
LEVEL_OUT = _record("", "price size")


class MarketState(NamedTuple):
    """The state the kernels change. Instruments, slots (subscriptions) and books are rows; side 0 is ask, 1 is bid."""

    glob: Array  # int64 [len(Glob)]
    inst: Array  # INSTRUMENT
    order: Array  # int64: instruments by con_id
    current: Array  # int64 [instrument, Role]: slot, -1 = none
    feed: Array  # float64 [instrument, Source - 1, bid ask bid_size ask_size]
    heard: Array  # int64 [instrument, Source - 1, bid ask]
    slots: Array  # SLOT
    keys: Array  # int64, hash table: epoch << 32 | request id, -1 = free
    vals: Array  # int64: slot, instrument and book of the key, see `held`; inverted once the slot is dead
    books: Array  # BOOK
    side: Array  # SIDE, at 2 * book + side
    cells: Array  # CELL, the same number for every side
    rows: Array  # ROW
    quotes: Array  # QUOTE_OUT
    trades: Array  # TRADE_OUT
    ladders: Array  # LADDER_OUT: a SMART book after a change: how many rows each side shows
    levels: Array  # LEVEL_OUT: these rows, bids before asks


class Frame(NamedTuple):
    """The hot rows of one batch: per kind its columns as Arrow holds them, and in seq order `which` kind is next."""

    which: Array  # uint8, one of Hot
    clock_seq: Array
    clock_ts: Array
    control_ts: Array
    control_seq: Array
    tick_ts: Array
    tick_epoch: Array
    tick_req: Array
    tick_seq: Array
    tick_field: Array
    tick_price: Array
    tick_size: Array
    trade_ts: Array
    trade_epoch: Array
    trade_req: Array
    trade_seq: Array
    trade_price: Array
    trade_size: Array
    trade_past: Array
    trade_unreported: Array
    trade_odd: Array  # an odd lot
    quote_ts: Array
    quote_epoch: Array
    quote_req: Array
    quote_seq: Array
    quote_stream: Array
    quote_bid: Array
    quote_ask: Array
    quote_bid_size: Array
    quote_ask_size: Array
    depth_ts: Array
    depth_epoch: Array
    depth_req: Array
    depth_seq: Array
    depth_position: Array
    depth_operation: Array
    depth_side: Array
    depth_price: Array
    depth_size: Array
    depth_maker: Array


HELD_BITS = 21
"""Bits for each of slot, instrument and book of a request id, packed into one number."""


def held(slot: int, instrument: int, book: int) -> int:
    """The entry of a live slot in `MarketState.vals`; `book` -1 = none."""
    return slot | instrument << HELD_BITS | (book + 1) << 2 * HELD_BITS


class Hot(IntEnum):
    """Values of `Frame.which`."""

    CLOCK = 0
    CONTROL = 1
    TICK = 2
    TRADE = 3
    QUOTE = 4
    DEPTH = 5


def words(rows: Array) -> Array:
    """Records of 8 byte fields as a table of numbers, which NumPy copies as a block instead of field by field."""
    return rows.view(np.int64).reshape(len(rows), rows.dtype.itemsize // 8)


def joined(parts: Sequence[Array]) -> Array:
    """Concatenate such records; a single array is returned without a copy."""
    if len(parts) == 1:
        return parts[0]
    whole: Array = np.concatenate([words(part) for part in parts]).view(parts[0].dtype).reshape(-1)
    return whole


def _grown(array: Array, length: int, fill: int) -> Array:
    out = (
        np.full((length, *array.shape[1:]), fill, array.dtype)
        if array.dtype.names is None
        else np.zeros(length, array.dtype)
    )
    out[: len(array)] = array
    return out


def new_state() -> MarketState:
    """An empty market with room for a few instruments."""
    return MarketState(
        glob=np.zeros(len(Glob), np.int64),
        inst=np.zeros(4, INSTRUMENT),
        order=np.zeros(4, np.int64),
        current=np.full((4, len(Role)), -1, np.int64),
        feed=np.full((4, 2, 4), np.nan),
        heard=np.zeros((4, 2, 2), np.int64),
        slots=np.zeros(16, SLOT),
        keys=np.full(64, -1, np.int64),
        vals=np.zeros(64, np.int64),
        books=np.zeros(4, BOOK),
        side=_sides(np.zeros(0, SIDE), 8, NARROW),
        cells=np.full(8 * NARROW, NO_ROW),
        rows=np.zeros(256, ROW),
        quotes=np.zeros(4096, QUOTE_OUT),
        trades=np.zeros(4096, TRADE_OUT),
        ladders=np.zeros(0, LADDER_OUT),
        levels=np.zeros(0, LEVEL_OUT),
    )


FIRST_ORDER = sum(cell << 4 * cell for cell in range(NARROW))
"""`SIDE.order` of an empty side: position i is in cell i."""


def _sides(old: Array, count: int, wide: int) -> Array:
    out = np.zeros(count, SIDE)
    out["order"] = FIRST_ORDER
    out[: len(old)] = old
    out["base"] = wide * np.arange(count)
    return out


def cells_of(state: MarketState, book: int, side: int) -> Array:
    """Indexes into `MarketState.cells` of one side, by position."""
    half, wide = state.side[2 * book + side], len(state.cells) // len(state.side)
    cells = np.arange(wide)
    if state.books[book]["rows"] <= NARROW:
        cells[:NARROW] = [int(half["order"]) >> 4 * position & 15 for position in range(NARROW)]
    return int(half["base"]) + cells


def with_room(
    state: MarketState, *, instruments: int = 0, slots: int = 0, books: int = 0, depth: int = 0
) -> MarketState:
    """The same state with room for at least these counts; arrays that grow at least double."""
    change: dict[str, Array] = {}
    if instruments > len(state.inst):
        n = max(instruments, 2 * len(state.inst))
        change |= {"inst": _grown(state.inst, n, 0), "order": _grown(state.order, n, 0)}
        change |= {"current": _grown(state.current, n, -1), "heard": _grown(state.heard, n, 0)}
        change["feed"] = np.full((n, 2, 4), np.nan)
        change["feed"][: len(state.feed)] = state.feed
    if slots > len(state.slots):
        change["slots"] = _grown(state.slots, max(slots, 2 * len(state.slots)), 0)
    had = len(state.cells) // len(state.side)
    if books > len(state.books) or depth > had:
        n = max(books, 2 * len(state.books)) if books > len(state.books) else len(state.books)
        wide = max(depth, had)
        change["books"], change["side"] = _grown(state.books, n, 0), _sides(state.side, 2 * n, wide)
        cells = np.full((2 * n, wide), NO_ROW)
        cells[: len(state.side), :had] = state.cells.reshape(-1, had)
        change["cells"] = cells.reshape(-1)
    return state._replace(**change) if change else state


_F, _I, _U, _T, _B = pa.float64(), pa.int64(), pa.uint64(), pa.string(), pa.bool_()
_COLUMNS: tuple[tuple[str, pa.DataType, str, str], ...] = (  # name, type, unit, formula; a trailing ! means never null
    ("ts!", _I, "ns UTC", "start of the second [ts, ts + 1 s) of ts_recv"),
    ("symbol!", _T, "", "symbol of the subscription"),
    ("con_id!", _I, "", "IBKR instrument id"),
    ("decision_seq!", _U, "seq", "the first clock with ts_recv >= ts + 1 s; it closes the bucket"),
    ("mark", _F, "price", "last price-forming print within the second, else mid"),
    ("bid", _F, "price", "bid of the quote in force at the second's end"),
    ("ask", _F, "price", "ask of the quote in force at the second's end"),
    ("spread", _F, "price", "ask - bid, kept when <= 0"),
    ("spread_bps", _F, "1e-4 of mid", "spread / mid * 10000"),
    ("spread_twa", _F, "price", "sum(spread * ns in force) / sum(ns with both sides in force), within the second"),
    ("mid", _F, "price", "(bid + ask) / 2"),
    ("microprice", _F, "price", "(ask * bid_size + bid * ask_size) / (bid_size + ask_size), quote in force"),
    ("imbalance", _F, "-1 to 1", "(bid_size_top_n - ask_size_top_n) / (bid_size_top_n + ask_size_top_n)"),
    ("bid_size_top_n", _F, "shares", "sum over the first 5 bid rows of a good book: SMART depth, else one venue's"),
    ("ask_size_top_n", _F, "shares", "sum over the first 5 ask rows of a good book: SMART depth, else one venue's"),
    ("bid_top_size", _F, "shares", "bid size of the quote in force; without one the first bid row of a good book"),
    ("ask_top_size", _F, "shares", "ask size of the quote in force; without one the first ask row of a good book"),
    (
        "ofi",
        _F,
        "shares",
        (
            "sum over quotes of [b >= b'] B - [b <= b'] B' - [a <= a'] A + [a >= a'] A', primes the quote before "
            "(Cont, Kukanov, Stoikov 2014); restarts when the source changes or a number is absent"
        ),
    ),
    ("tape_buy!", _F, "shares", "price-forming prints above mid; at mid or without a quote by the tick rule"),
    ("tape_sell!", _F, "shares", "the mirror image of tape_buy"),
    ("tape_unknown!", _F, "shares", "prints neither rule decides, past-limit and unreported ones"),
    ("trade_count!", _I, "prints", "prints of the tape: AllLast, else Last, else RTVolume"),
    ("quote_count!", _I, "rows", "tick-by-tick BidAsk rows, and L1 rows of bid, ask and their sizes"),
    ("depth_count!", _I, "rows", "depth rows of every book of the instrument"),
    ("volatility_proxy", _F, "1", "max |mid / mid' - 1| over consecutive mids, the first against the last before"),
    ("realised_variance", _F, "1", "sum of (mid / mid' - 1)^2 over consecutive mids"),
    ("quote_source", _T, "", "bid_ask, l1 or smart_depth; null without a quote in force"),
    (
        "book_good!",
        _B,
        "",
        (
            "at the second's end both sides known since the reset, no hole, no impossible row since, and not "
            "contradicted: best bid above the quote's ask, or best ask below its bid, at the ends of "
            f"{CONTRADICTED_SECONDS} seconds in a row"
        ),
    ),
    ("stale!", _B, "", "no row of any live stream of the instrument arrived within the second"),
    ("halted!", _B, "", "trading was halted at any moment of the second: the last tick 49 or 90 was 1 or 2, not 0"),
)
BUCKETS: pa.Schema = pa.schema([
    pa.field(name.rstrip("!"), kind, nullable=not name.endswith("!"), metadata={"unit": unit, "formula": formula})
    for name, kind, unit, formula in _COLUMNS
])  # fmt: skip
SOURCE_NAMES = (None, "bid_ask", "l1", "smart_depth")
_SOURCES = pa.array(SOURCE_NAMES, _T)


def bucket_table(rows: Array, symbols: list[str]) -> pa.RecordBatch:
    """Bucket rows (dtype `ROW`) as Arrow; `symbols` by instrument index."""
    n, names = len(rows), ROW.names or ()
    by_column = np.ascontiguousarray(rows.view(np.int64).reshape(n, len(names)).T)  # one copy; the columns are views
    present = ~np.isnan(by_column.view(np.float64))
    bits = np.packbits(present, axis=1, bitorder="little")
    absent = (n - present.sum(axis=1)).tolist()
    columns: list[pa.Array] = []
    for field in BUCKETS:
        if field.name == "symbol":
            columns.append(pa.array(symbols, _T).take(pa.array(rows["inst"])))
            continue
        at = names.index(field.name)
        values = by_column[at]
        if field.name == "quote_source":
            columns.append(_SOURCES.take(pa.array(values)))
        elif field.type == _B:
            packed = np.packbits(values.astype(bool), bitorder="little")
            columns.append(pa.BooleanArray.from_buffers(_B, n, [None, pa.py_buffer(packed)]))
        elif field.type == _F and absent[at]:
            columns.append(pa.Array.from_buffers(_F, n, [pa.py_buffer(bits[at]), pa.py_buffer(values)], absent[at]))
        else:
            columns.append(pa.Array.from_buffers(field.type, n, [None, pa.py_buffer(values)], 0))
    return pa.RecordBatch.from_arrays(columns, schema=BUCKETS)
