"""The market's state as arrays, and the bucket table it gives.

The compiled kernels see nothing but these arrays. Every field is 8 bytes wide, so that the bytes of a snapshot are the
same on every machine. Absent numbers are NaN inside and null in Arrow.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

SECOND_NS = 1_000_000_000
TOP_N = 5  # rows of the book summed for imbalance
ROWS_DEFAULT, ROWS_LIMIT = 10, 1_000
BLANK_SECONDS_MAX = 86_400  # a longer time without any event is no silence: nobody was there

Array = npt.NDArray[Any]


class Source(IntEnum):
    """Where the quote in force comes from, best first."""

    NONE = 0
    BID_ASK = 1
    L1 = 2
    SMART_DEPTH = 3


class Role(IntEnum):
    """What an instrument uses a subscription for; the column of `State.current`."""

    BID_ASK = 0
    L1 = 1
    BOOK = 2  # sizes and imbalance: SMART depth, else one venue's
    SMART = 3  # depth that may give the best price
    TAPE = 4  # prints: AllLast, else Last, else RTVolume of L1


class Glob(IntEnum):
    """Index into `State.glob`."""

    BUCKET_END = 0  # ns UTC; 0 before the first event
    ROWS = 1  # bucket rows finished, handed out or waiting for their clock
    CLOSED = 2  # of these, rows a clock has closed
    QUOTES = 3
    TRADES = 4
    DEAD = 5  # rows under a request id nobody holds
    EMIT = 6  # 1 = write quotes and trades for the trading side
    INSTRUMENTS = 7
    LAST_TS = 8  # of the last event that moved the market, ns UTC


def _record(ints: str, floats: str) -> np.dtype[Any]:
    return np.dtype([(n, "<i8") for n in ints.split()] + [(n, "<f8") for n in floats.split()], align=True)


INSTRUMENT = _record(
    # identity; live subscriptions; was subscribed in the second under way; source of the quote in force
    "con_id subs touched source "
    # the second under way
    "events trade_count quote_count depth_count mid_seen spread_since spread_ns tick_rule "
    # health, since the date began
    "dead seconds stale_seconds depth_seconds bad_book_seconds crossed_seconds source_changes data_type "
    "top_seconds top_bid_equal top_ask_equal top_beyond prints prints_outside prints_quoted",
    # quote in force
    "bid ask bid_size ask_size "
    # the second under way
    "mark spread_sum ofi tape_buy tape_sell tape_unknown volatility variance "
    # tape: last price-forming price; volume checks in shares
    "last_price tape_volume volume volume_base tape_since tape_at volume_matched tape_matched",
)
SLOT = _record(
    "con_id epoch req_id inst stream alive book rt_field warm rows dead first_ts last_ts gap_max opened closed "
    "applied impossible placed resets",  # of its book, once it is closed
    "",
)
BOOK = _record(
    # placed: updates past the end that were kept; refill: a 317 emptied the book, what it holds is sent anew
    "slot rows bad impossible applied placed resets refill",
    "",
)
ROW = _record(
    "ts con_id inst decision_seq trade_count quote_count depth_count quote_source book_good stale",
    "mark bid ask spread spread_bps spread_twa mid microprice imbalance bid_size_top_n ask_size_top_n bid_top_size "
    "ask_top_size ofi tape_buy tape_sell tape_unknown volatility_proxy realised_variance",
)
QUOTE_OUT = _record("seq ts con_id good", "bid ask bid_size ask_size")
TRADE_OUT = _record("seq ts con_id forms_price aggressor inferred", "price size")


class State(NamedTuple):
    """Everything the kernels change. Instruments, slots (subscriptions) and books are rows; side 0 is ask, 1 is bid."""

    glob: Array  # int64 [len(Glob)]
    inst: Array  # INSTRUMENT
    order: Array  # int64: instruments by con_id
    current: Array  # int64 [instrument, Role]: slot, -1 = none
    feed: Array  # float64 [instrument, Source - 1, bid ask bid_size ask_size]
    heard: Array  # int64 [instrument, Source - 1, bid ask]
    slots: Array  # SLOT
    keys: Array  # int64, hash table: epoch << 32 | request id, -1 = free
    vals: Array  # int64: slot of the key
    books: Array  # BOOK
    length: Array  # int64 [book, side]: one past the last row, holes included
    filled: Array  # int64 [book, side]: rows in force, down to the first hole
    known: Array  # int64 [book, side]: a row arrived since the last reset
    inserts: Array  # int64 [book, side]: an insert was applied since the subscription began, resets notwithstanding
    price: Array  # float64 [book, side, position]; NaN = no such row, or a hole
    size: Array  # float64 [book, side, position]
    maker: Array  # int64 [book, side, position]: index into the market makers
    rows: Array  # ROW
    quotes: Array  # QUOTE_OUT
    trades: Array  # TRADE_OUT


class Frame(NamedTuple):
    """The hot rows of one batch: per kind its columns as Arrow holds them, and in seq order `which` kind is next."""

    which: Array  # uint8, one of Hot
    clock_seq: Array
    clock_ts: Array
    control_ts: Array
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


class Hot(IntEnum):
    """What `Frame.which` holds."""

    CLOCK = 0
    CONTROL = 1
    TICK = 2
    TRADE = 3
    QUOTE = 4
    DEPTH = 5


def _grown(array: Array, length: int, fill: int) -> Array:
    out = (
        np.full((length, *array.shape[1:]), fill, array.dtype)
        if array.dtype.names is None
        else np.zeros(length, array.dtype)
    )
    out[: len(array)] = array
    return out


def new_state() -> State:
    """An empty market with room for a few instruments."""
    return State(
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
        length=np.zeros((4, 2), np.int64),
        filled=np.zeros((4, 2), np.int64),
        known=np.zeros((4, 2), np.int64),
        inserts=np.zeros((4, 2), np.int64),
        price=np.full((4, 2, ROWS_DEFAULT), np.nan),
        size=np.full((4, 2, ROWS_DEFAULT), np.nan),
        maker=np.zeros((4, 2, ROWS_DEFAULT), np.int64),
        rows=np.zeros(256, ROW),
        quotes=np.zeros(4096, QUOTE_OUT),
        trades=np.zeros(4096, TRADE_OUT),
    )


def with_room(state: State, *, instruments: int = 0, slots: int = 0, books: int = 0, depth: int = 0) -> State:
    """The same state with room for at least so many; arrays that grow at least double."""
    change: dict[str, Array] = {}
    if instruments > len(state.inst):
        n = max(instruments, 2 * len(state.inst))
        change |= {"inst": _grown(state.inst, n, 0), "order": _grown(state.order, n, 0)}
        change |= {"current": _grown(state.current, n, -1), "heard": _grown(state.heard, n, 0)}
        change["feed"] = np.full((n, 2, 4), np.nan)
        change["feed"][: len(state.feed)] = state.feed
    if slots > len(state.slots):
        change["slots"] = _grown(state.slots, max(slots, 2 * len(state.slots)), 0)
    if books > len(state.books) or depth > state.price.shape[2]:
        n = max(books, 2 * len(state.books)) if books > len(state.books) else len(state.books)
        wide = (n, 2, max(depth, state.price.shape[2]))
        for name in ("books", "length", "filled", "known", "inserts"):
            change[name] = _grown(getattr(state, name), n, 0)
        for name, fill in (("price", np.nan), ("size", np.nan), ("maker", 0)):
            old = getattr(state, name)
            change[name] = np.full(wide, fill, old.dtype)
            change[name][: old.shape[0], :, : old.shape[2]] = old
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
    ("book_good!", _B, "", "at the second's end both sides known since the reset, no hole, no impossible row since"),
    ("stale!", _B, "", "no row of any live stream of the instrument arrived within the second"),
)
BUCKETS: pa.Schema = pa.schema([
    pa.field(name.rstrip("!"), kind, nullable=not name.endswith("!"), metadata={"unit": unit, "formula": formula})
    for name, kind, unit, formula in _COLUMNS
])  # fmt: skip
SOURCE_NAMES = (None, "bid_ask", "l1", "smart_depth")


def bucket_table(rows: Array, symbols: list[str]) -> pa.RecordBatch:
    """Bucket rows (dtype `ROW`) as Arrow; `symbols` by instrument index."""
    columns: list[pa.Array] = []
    for field in BUCKETS:
        if field.name == "symbol":
            columns.append(pa.array([symbols[i] for i in rows["inst"].tolist()], field.type))
        elif field.name == "quote_source":
            columns.append(pa.array([SOURCE_NAMES[i] for i in rows["quote_source"].tolist()], field.type))
        elif field.type == _F:
            columns.append(pa.array(np.ascontiguousarray(rows[field.name]), field.type, from_pandas=True))
        else:
            columns.append(pa.array(rows[field.name].astype(field.type.to_pandas_dtype()), field.type))
    return pa.RecordBatch.from_arrays(columns, schema=BUCKETS)
