"""L1 as TWS sends it: one message per changed tick field, a price followed by its size.

- Bid and ask: message 1 with price, size and attribute mask when the price changed, then message 2 with the size;
  message 2 alone when only the size changed. An empty side is price -1, size 0 (IB's "no quote").
- Last: the same with types 4 and 5; then last timestamp (45), exchange (84), high (6), low (7), open (14), volume (8).
- RTVolume (48, generic tick 233) of every print and RTTrdVolume (77, generic 375) of reported prints:
  `price;size;time in ms;total volume;VWAP;single`.

With sampling, changes of the quote and the last trade are sent at the next multiple of the interval, as IB does for
stocks every 250 ms. RTVolume is not sampled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.units import SECOND_NS
from harvester.wire.encode_messages import number

if TYPE_CHECKING:
    from harvester.simgateway.markets.base_rows import NumberTexts, PriceUnits, Row

_NO_PRICE = "-1"


class Level1:
    """L1 of one instrument: the current values and those last sent.

    `prior_close` (source units, 0 = unknown) is tick 9; the open (14) is the first reported price from `open_ns`.
    """

    def __init__(
        self, units: PriceUnits, price_text: NumberTexts, size_text: NumberTexts, prior_close: float, open_ns: int
    ) -> None:
        self._units, self._price, self._size = units, price_text, size_text
        self._open_ns = open_ns
        self.prior_close = prior_close
        self.quote: Row | None = None
        self.last: Row | None = None
        self.last_price: float = 0
        self.high: float = 0
        self.low: float = 0
        self.open: float = 0
        self.volume: float = 0
        self.turnover: float = 0
        self.reported_volume: float = 0
        self.reported_turnover: float = 0
        self.unsent = False  # rows were not sent because there was no subscriber
        self._sent: dict[str, tuple[str, str]] = {}
        self._sent_values: dict[str, str] = {}

    def on_trade(self, row: Row) -> None:
        """Add a print to the totals; only reported prints change last, high, low and open."""
        ts, _, _, price, size, _, attribs, _, _ = row
        self.volume += size
        self.turnover += price * size
        if attribs:
            return
        self.reported_volume += size
        self.reported_turnover += price * size
        self.last, self.last_price = row, price
        self.high = max(self.high, price)
        if price < self.low or not self.low:
            self.low = price
        if not self.open and ts >= self._open_ns:
            self.open = price

    def changes(self) -> list[list[str]]:
        """Messages for all values that changed since they were last sent."""
        out: list[list[str]] = []
        if self.quote is not None:
            _, _, _, bid, ask, bid_size, ask_size, bid_at, ask_at = self.quote
            self._side(out, "1", "0", bid, bid_size)
            self._side(out, "2", "3", ask, ask_size)
            self._text(out, "32", bid_at)
            self._text(out, "33", ask_at)
        if self.last is not None:
            self._last(out)
        if self.volume:
            self._number(out, "8", self._size[self.volume])
        return out

    def _side(self, out: list[list[str]], price_type: str, size_type: str, price: float, size: float) -> None:
        if price and size:
            self._pair(out, price_type, size_type, self._price[price], self._size[size])
        else:
            self._pair(out, price_type, size_type, _NO_PRICE, "0")

    def _pair(self, out: list[list[str]], price_type: str, size_type: str, price: str, size: str) -> None:
        sent = self._sent.get(price_type)
        if sent is not None and sent[0] == price:
            if sent[1] == size:
                return
        else:
            out.append(["1", "6", "", price_type, price, size, "0" if price == _NO_PRICE else "1"])
        out.append(["2", "6", "", size_type, size])
        self._sent[price_type] = (price, size)

    def _last(self, out: list[list[str]]) -> None:
        assert self.last is not None
        ts, _, _, price, size, exchange, _, _, _ = self.last
        self._pair(out, "4", "5", self._price[price], self._size[size])
        self._text(out, "45", str(ts // SECOND_NS))
        self._text(out, "84", exchange)
        self._price_alone(out, "6", self.high)
        self._price_alone(out, "7", self.low)
        self._price_alone(out, "14", self.open)

    def _text(self, out: list[list[str]], field: str, text: str) -> None:
        if text and self._sent_values.get(field) != text:
            self._sent_values[field] = text
            out.append(["46", "6", "", field, text])

    def _number(self, out: list[list[str]], field: str, text: str) -> None:
        if self._sent_values.get(field) != text:
            self._sent_values[field] = text
            out.append(["2", "6", "", field, text])

    def _price_alone(self, out: list[list[str]], field: str, price: float) -> None:
        if not price:
            return
        text = self._price[price]
        if self._sent_values.get(field) != text:
            self._sent_values[field] = text
            out.append(["1", "6", "", field, text, "0", "0"])

    def real_time_volume(self, row: Row) -> list[list[str]]:
        """RTVolume of this print, and RTTrdVolume if it is reported."""
        ts, _, _, price, size, _, attribs, _, _ = row
        head = f"{self._price[price]};{self._size[size]};{ts // 1_000_000};"
        out = [["46", "6", "", "48", head + self._totals(self.volume, self.turnover)]]
        if not attribs:
            out.append(["46", "6", "", "77", head + self._totals(self.reported_volume, self.reported_turnover)])
        return out

    def _totals(self, volume: float, turnover: float) -> str:
        vwap = round(self._units.usd(turnover / volume), 8) if volume else 0.0
        return f"{number(volume)};{number(vwap)};true"

    def snapshot(self) -> list[list[str]]:
        """The initial messages of a new subscriber: the values last sent, in TWS order, and the prior close."""
        if self.unsent:
            self.changes()
            self.unsent = False
        out: list[list[str]] = []
        for price_type, size_type in (("1", "0"), ("2", "3"), ("4", "5")):
            if price_type in self._sent:
                price, size = self._sent[price_type]
                out.append(["1", "6", "", price_type, price, size, "0" if price == _NO_PRICE else "1"])
                out.append(["2", "6", "", size_type, size])
        for field, text in self._sent_values.items():
            if field in {"6", "7", "14"}:
                out.append(["1", "6", "", field, text, "0", "0"])
            elif field == "8":
                out.append(["2", "6", "", field, text])
            else:
                out.append(["46", "6", "", field, text])
        if self.prior_close:
            out.append(["1", "6", "", "9", self._price[self.prior_close], "0", "0"])
        return out
