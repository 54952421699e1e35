"""The market's part of `Now` for every slot of a stretch, made of columns.

The numbers of a slot are unpacked from one row of 8 byte numbers. Everything else (flags, symbol, whether there is a
book) has few values, and a slot has a key for it. Absent numbers are None.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harvester.projections.market.state_arrays import SOURCE_NAMES
from harvester.projections.trading.episodes import BUCKET_FIELDS
from harvester.projections.trading.fast.bucket_columns import WHOLE
from harvester.projections.trading.simulated_exchange import ShownQuote
from harvester.projections.trading.user_strategy import NUMBERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harvester.projections.trading.fast.market_now import MarketNow

_BOOK = 3  # the numbers that are absent together without a book; the last ones of `NUMBERS`, together in a bucket too
_BOOK_AT = BUCKET_FIELDS.index(NUMBERS[-_BOOK])
_FLAGS_AT = BUCKET_FIELDS.index("quote_source")
_BEFORE, _AFTER = slice(0, _BOOK_AT), slice(_BOOK_AT + _BOOK, _FLAGS_AT)  # of a bucket
_FROM_BEFORE, _FROM_AFTER = slice(0, _BOOK_AT), slice(_BOOK_AT, _FLAGS_AT - _BOOK)  # of a row
_CLOCK, _QUOTE = slice(_FLAGS_AT - _BOOK, -4 - _BOOK), slice(-4 - _BOOK, -_BOOK)
_MID = NUMBERS.index("mid")
_OF_BUCKET = BUCKET_FIELDS[_BEFORE] + BUCKET_FIELDS[_AFTER]
assert (
    "second", *({"bid": "bucket_bid", "ask": "bucket_ask"}.get(name, name) for name in _OF_BUCKET[1:]),
    "seq", "ts", "bid", "ask", "bid_size", "ask_size", *BUCKET_FIELDS[_BOOK_AT : _BOOK_AT + _BOOK],
) == NUMBERS, "the numbers of `Now` are not in the order of a bucket"  # fmt: skip
_WHOLE = {"second", "seq", "ts", *WHOLE}
_TYPES = "".join("q" if name in _WHOLE else "d" for name in NUMBERS)
_ROW = struct.Struct(f"={_TYPES}")
_BOOKLESS_ROW = struct.Struct(f"={_TYPES[:-_BOOK]}{8 * _BOOK}x")
_FULL, _BOOKLESS, _ODD = range(3)
_GOOD = (None, False, True)


def _without_absent(numbers: tuple[Any, ...], kind: int) -> tuple[Any, ...]:
    if kind == _BOOKLESS:
        return numbers[:-_BOOK]
    return numbers if kind == _FULL else tuple([value if value - value == 0 else None for value in numbers])


class Rest(NamedTuple):
    """What the key of a slot says.

    Attributes:
        fields: of `Now`, from those after the slot's numbers to `symbol`.
        live: whether a live quote is in force at the clock; `has_mid`: whether the second has a mid.
    """

    fields: tuple[Any, ...]
    con_id: int
    symbol: str
    live: bool
    has_mid: bool


class NowRows:
    """See the module's text. Only the slots that are not decided when it is made are valid.

    Attributes:
        keys: by slot, for `rest`.
    """

    def __init__(self, now: MarketNow) -> None:
        seconds = now.seconds
        slots = seconds.slots
        buckets = seconds.wide.take(slots, axis=0)
        places = np.repeat(np.arange(len(seconds.clocks)), np.diff([0, *seconds.slot_ends]))
        table = np.empty((len(slots), len(NUMBERS)), np.int64)
        table[:, _FROM_BEFORE], table[:, _FROM_AFTER] = buckets[:, _BEFORE], buckets[:, _AFTER]
        table[:, _CLOCK] = seconds.clocks.take(places, axis=0)
        table[:, -_BOOK:] = buckets[:, _BOOK_AT : _BOOK_AT + _BOOK]
        numbers, live = table.view(np.float64), np.zeros(len(slots), np.bool_)
        self._symbols, whose = list(seconds.symbols.items()), seconds.whose.take(slots)
        for k, (con_id, _) in enumerate(self._symbols):
            at = np.flatnonzero(whose == k)
            shown = now.shown(con_id) if now.has_shown(con_id) else ShownQuote()
            live[at], *quote = now.line(con_id).quotes_at(places[at], shown)
            numbers[at, _QUOTE] = np.array(quote).T
        numbers[~live, _QUOTE] = np.nan
        known = np.isfinite(numbers)  # whole numbers are finite as numbers too
        kinds = np.full(len(slots), _FULL)
        if not known.all():
            by_field = np.ascontiguousarray(known.T)
            others, book = by_field[:-_BOOK].all(axis=0), by_field[-_BOOK:]
            kinds[~(others & book.all(axis=0))] = _ODD
            kinds[others & ~book.any(axis=0)] = _BOOKLESS
        self._kinds = kinds.astype(np.uint8).tobytes()
        self._bytes = table.data.cast("B")
        source, good, stale, halted = buckets[:, _FLAGS_AT:].T
        key = ((whose * len(SOURCE_NAMES) + source) * 3 + good + 1) * 2 + stale
        key = (((key * 2 + halted) * 2 + live) * 2 + known[:, _MID]) * 3 + kinds
        self.keys: list[int] = key.tolist()

    def numbers(self, begin: int, end: int) -> Iterator[tuple[Any, ...]]:
        """The first fields of `Now` for these slots; `rest` has the others."""
        rows, kinds = self._bytes[begin * _ROW.size : end * _ROW.size], self._kinds[begin:end]
        if kinds.count(_BOOKLESS) == len(kinds):
            return _BOOKLESS_ROW.iter_unpack(rows)
        found = _ROW.iter_unpack(rows)
        return found if kinds.count(_FULL) == len(kinds) else map(_without_absent, found, kinds)

    def rest(self, key: int) -> Rest:
        """What the key of a slot says."""
        key, kind = divmod(key, 3)
        key, has_mid = divmod(key, 2)
        key, live = divmod(key, 2)
        key, halted = divmod(key, 2)
        key, stale = divmod(key, 2)
        key, good = divmod(key, 3)
        whose, source = divmod(key, len(SOURCE_NAMES))
        absent = (None,) * _BOOK if kind == _BOOKLESS else ()
        con_id, symbol = self._symbols[whose]
        fields = (*absent, SOURCE_NAMES[source], _GOOD[good], bool(stale), bool(halted), con_id, symbol)
        return Rest(fields, con_id, symbol, bool(live), bool(has_mid))
