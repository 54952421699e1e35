"""The market's part of `Now` for every slot of a stretch, made of columns.

The numbers of a slot are unpacked from one row of 8 byte numbers; the rest (flags, symbol) has few values, and a slot
has a key for it. Absent numbers are None.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harvester.projections.market.state_arrays import SOURCE_NAMES
from harvester.projections.trading.episodes import BUCKET_FIELDS
from harvester.projections.trading.fast.bucket_columns import WHOLE
from harvester.projections.trading.simulated_exchange import ShownQuote
from harvester.projections.trading.user_strategy import NUMBER_COUNT, NUMBERS

if TYPE_CHECKING:
    from harvester.projections.trading.fast.market_now import MarketNow

_NAMES = {"second": "ts", "bucket_bid": "bid", "bucket_ask": "ask"}  # fields of a bucket with another name in `Now`
_QUOTE = [NUMBERS.index(name) for name in ("bid", "ask", "bid_size", "ask_size")]
_CLOCK = [NUMBERS.index(name) for name in ("seq", "ts")]
_OF_BUCKET = [k for k in range(NUMBER_COUNT) if k not in (*_QUOTE, *_CLOCK)]
_BUCKET_PLACES = [BUCKET_FIELDS.index(_NAMES.get(NUMBERS[k], NUMBERS[k])) for k in _OF_BUCKET]
_IS_WHOLE = [k in _CLOCK or _NAMES.get(name, name) in WHOLE for k, name in enumerate(NUMBERS)]
_FLOATS = [k for k, whole in enumerate(_IS_WHOLE) if not whole]
_BOOK = 3  # imbalance and the sizes of the first levels: absent together when there is no book
_NO_BOOK = (None,) * _BOOK
_ROW = struct.Struct("=" + "".join("q" if whole else "d" for whole in _IS_WHOLE))
_MID = _FLOATS.index(NUMBERS.index("mid"))
_BOOKLESS, _ODD = 1, 2
_GOOD = (None, False, True)


class Flags(NamedTuple):
    """What a key says: the fields `user_strategy.FLAGS` and the symbol's, whether a live quote is in force at the clock
    and whether the second has a mid."""

    fields: tuple[Any, ...]
    con_id: int
    symbol: str
    live: bool
    has_mid: bool


class NowRows:
    """See the module's text. Only the slots that are not decided when it is made are valid.

    Attributes:
        keys: by slot, for `flags`.
    """

    def __init__(self, now: MarketNow) -> None:
        seconds = now.seconds
        slots, count = seconds.slots, len(seconds.slots)
        rows = seconds.rows[slots]
        wide = rows.view(np.int64).reshape(count, len(BUCKET_FIELDS))
        places = np.repeat(np.arange(len(seconds.clocks)), np.diff([0, *seconds.slot_ends]))
        table = np.empty((count, NUMBER_COUNT), np.int64)
        table[:, _OF_BUCKET] = wide[:, _BUCKET_PLACES]
        table[:, _CLOCK] = seconds.clocks[places]
        numbers, live = table.view(np.float64), np.zeros(count, np.bool_)
        self._symbols, whose = list(seconds.symbols.items()), seconds.whose[slots]
        for k, (con_id, _) in enumerate(self._symbols):
            at = np.flatnonzero(whose == k)
            shown = now.shown(con_id) if now.has_shown(con_id) else ShownQuote()
            live[at], *quote = now.line(con_id).quotes_at(places[at], shown)
            for column, values in zip(_QUOTE, quote, strict=True):
                numbers[at, column] = values
        numbers[np.ix_(~live, _QUOTE)] = np.nan
        absent = ~np.isfinite(numbers[:, _FLOATS])
        bookless = absent[:, -_BOOK:].all(axis=1) & ~absent[:, :-_BOOK].any(axis=1)
        self._kinds = np.where(bookless, _BOOKLESS, np.where(absent.any(axis=1), _ODD, 0)).astype(np.int8)
        self._bytes = memoryview(table).cast("B")
        key = whose * len(SOURCE_NAMES) + rows["quote_source"]
        for flag, values in ((rows["book_good"] + 1, 3), (rows["stale"], 2), (rows["halted"], 2)):
            key = key * values + flag
        self.keys: list[int] = ((key * 2 + live) * 2 + ~absent[:, _MID]).tolist()

    def numbers(self, begin: int, end: int) -> list[tuple[Any, ...]]:
        """The fields `user_strategy.NUMBERS` of these slots."""
        found: list[tuple[Any, ...]] = list(_ROW.iter_unpack(self._bytes[begin * _ROW.size : end * _ROW.size]))
        kinds = self._kinds[begin:end]
        for k in kinds.nonzero()[0].tolist():
            row = found[k]
            if kinds[k] == _BOOKLESS:
                found[k] = row[:-_BOOK] + _NO_BOOK
            else:
                found[k] = tuple([value if value - value == 0 else None for value in row])
        return found

    def flags(self, key: int) -> Flags:
        """What the key of a slot says."""
        key, has_mid = divmod(key, 2)
        key, live = divmod(key, 2)
        key, halted = divmod(key, 2)
        key, stale = divmod(key, 2)
        key, good = divmod(key, 3)
        whose, source = divmod(key, len(SOURCE_NAMES))
        fields = SOURCE_NAMES[source], _GOOD[good], bool(stale), bool(halted)
        return Flags(fields, *self._symbols[whose], bool(live), bool(has_mid))
