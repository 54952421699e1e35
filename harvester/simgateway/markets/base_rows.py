"""Base rows: the events of a model or a tape before they become messages.

A row is a tuple (ts, instrument index, `RowKind`, six values). Prices are in the source's units, which `PriceUnits`
converts to text and USD: integers of 1/10000 USD for the model, USD as float64 for a tape.

    QUOTE   bid, ask, bid size, ask size, bid exchanges, ask exchanges   (price 0 or size 0: the side is empty)
    TRADE   price, size, exchange letter, attribute bits, conditions, exchange name
    DEPTH   position, operation, side, price, size, market maker         one venue's book
    SMART   the same                                                     the book of all venues
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from harvester.wire.encode_messages import number

if TYPE_CHECKING:
    from collections.abc import Iterator

Row = tuple[Any, ...]

PAST_LIMIT, UNREPORTED = 1, 2


class RowKind(IntEnum):
    """Kind of a base row."""

    QUOTE = 0
    TRADE = 1
    DEPTH = 2
    SMART = 3


class NumberTexts(dict[Any, str]):
    """Cache of decimal texts: a day has few distinct prices and sizes."""

    _LIMIT = 200_000

    def __init__(self, per_unit: int = 1) -> None:
        super().__init__()
        self._per_unit = per_unit

    def __missing__(self, value: Any) -> str:
        if len(self) >= self._LIMIT:
            self.clear()
        text = number(value / self._per_unit) if self._per_unit != 1 else number(value)
        self[value] = text
        return text


class PriceUnits(NamedTuple):
    """Price unit of a source: one USD is `per_dollar` units (1 for a tape, whose prices are USD)."""

    per_dollar: int

    def usd(self, price: float) -> float:
        """Price in USD, as the float64 nearest to the decimal."""
        return price / self.per_dollar if self.per_dollar != 1 else float(price)

    def texts(self) -> NumberTexts:
        return NumberTexts(self.per_dollar)


class RowQueue:
    """Rows in time order from an iterator of chunks, one in memory at a time; `rows[at:]` are the next rows."""

    def __init__(self, chunks: Iterator[list[Row]]) -> None:
        self._chunks = chunks
        self.rows: list[Row] = []
        self.at = 0

    def filled(self) -> bool:
        """Load the next chunk if this one is used up; False at the end."""
        while self.at == len(self.rows):
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self.rows, self.at = chunk, 0
        return True
