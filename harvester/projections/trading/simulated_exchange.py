"""The simulated exchange: matches one order against one observation. Pure rules, no bookkeeping of positions.

1. An observation is a change of the quote in force or a print. It can fill an order only when its seq is above the
   order's `after_seq` and its `ts` at or after the order's `not_before` (decision time + latency).
2. Without a good quote in force there is no fill and no trigger. An outage or a run start makes it unknown until its
   next change. A change during the outage counts: it proves the feed works.
3. Market orders and triggered stops buy at the ask and sell at the bid in force, at most the size shown. Shares we took
   stay taken until that side shows another price, so one displayed lot never fills us twice. Bad quotes,
   outages and run starts in between do not reset this.
4. A limit that is marketable on arrival trades at the opposite quote. A resting limit fills at its own price: when the
   other side's quote reaches it (at most the size shown), or else when a price-forming print goes through it (at most
   the print's size, for all our orders together). While the quote reaches the limit, prints add no size: they may be
   the shares shown. A print exactly at the limit fills nothing: other orders are ahead of us in the queue.
5. A stop triggers when the opposite quote or a price-forming print touches it.
6. A fill's source is the observation that caused it: `print` even if the shares are the quote's.

Commission is computed per order: each fill carries the rise in its order's total.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from harvester.projections.trading.costs import CostTable

DIGITS = 9  # derived USD amounts are rounded to 1e-9: smaller digits are floating-point noise


class OrderType(StrEnum):
    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"


class Order(msgspec.Struct):
    """One working order. `price` is the limit or the stop; times are ns UTC, quantities whole shares, money USD."""

    type: OrderType
    buy: bool
    quantity: int
    after_seq: int
    not_before: int
    reference: str
    reference_price: float | None
    price: float = 0.0
    expires: int | None = None
    resting: bool = False
    triggered: bool = False
    filled: int = 0
    value: float = 0.0
    commission: float = 0.0

    @property
    def left(self) -> int:
        """Shares still to fill."""
        return self.quantity - self.filled


class Fill(msgspec.Struct, frozen=True):
    """One simulated execution, fields as in the episode files; `slippage` is USD per share, positive is worse."""

    ts: int
    seq: int
    price: float
    quantity: int
    side: str
    source: str
    reference_price: float | None
    slippage: float | None
    commission: float
    reference: str


class Observation(msgspec.Struct):
    """A change of the quote in force (`price` None) or a print; `size` is what our orders may still take, in shares."""

    seq: int
    ts: int
    price: float | None = None
    size: float = 0.0
    forms_price: bool = False


class ShownQuote(msgspec.Struct):
    """The quote in force of one symbol and how much of each side our orders have taken. Prices USD, sizes shares."""

    good: bool = False
    bid: float = 0.0
    ask: float = 0.0
    bid_size: float = 0.0
    ask_size: float = 0.0
    bid_taken: float = 0.0
    ask_taken: float = 0.0

    def update(self, bid: float, ask: float, bid_size: float, ask_size: float, good: bool) -> None:
        """Set a new quote in force; a bad one keeps the last prices."""
        self.good = good and bid > 0 and ask > 0 and math.isfinite(bid) and math.isfinite(ask)
        if not self.good:
            return
        if bid != self.bid:
            self.bid_taken = 0.0
        if ask != self.ask:
            self.ask_taken = 0.0
        self.bid, self.ask, self.bid_size, self.ask_size = bid, ask, _size(bid_size), _size(ask_size)

    def lose(self) -> None:
        """Mark the quote unknown (not zero): the feed is interrupted."""
        self.good = False

    def price(self, *, buy: bool) -> float:
        """The price of a market order."""
        return self.ask if buy else self.bid

    def available(self, *, buy: bool) -> int:
        """Whole shares left at that price."""
        left = self.ask_size - self.ask_taken if buy else self.bid_size - self.bid_taken
        return max(0, math.floor(left))

    def take(self, shares: int, *, buy: bool) -> None:
        """Count the shares of a fill as taken."""
        if buy:
            self.ask_taken += shares
        else:
            self.bid_taken += shares


def _size(size: float) -> float:
    return size if math.isfinite(size) and size > 0 else 0.0


def execute(order: Order, seen: Observation, shown: ShownQuote, costs: CostTable) -> Fill | None:
    """Match one order against one observation; updates the order and the size left.

    Returns:
        The fill, or None. A stop that only triggers (nothing shown to trade with) returns None with `triggered` set.
    """
    if not shown.good or order.left <= 0 or not _in_time(order, seen):
        return None
    if order.type is OrderType.STOP and not order.triggered:
        order.triggered = _touches(order, seen, shown)
    if order.type is OrderType.LIMIT:
        price, shares, from_quote = _limit(order, seen, shown)
    elif order.type is OrderType.MARKET or order.triggered:
        price, shares, from_quote = shown.price(buy=order.buy), shown.available(buy=order.buy), True
    else:
        return None
    shares = min(shares, order.left)
    if shares <= 0:
        return None
    if from_quote:
        shown.take(shares, buy=order.buy)
    else:
        seen.size -= shares
    return _fill(order, seen, price, shares, costs)


def _in_time(order: Order, seen: Observation) -> bool:
    if seen.seq <= order.after_seq or seen.ts < order.not_before:
        return False
    return order.expires is None or seen.ts < order.expires


def _touches(order: Order, seen: Observation, shown: ShownQuote) -> bool:
    prices = [shown.price(buy=order.buy)]
    if seen.price is not None and seen.forms_price:
        prices.append(seen.price)
    return any(p >= order.price if order.buy else p <= order.price for p in prices)


def _limit(order: Order, seen: Observation, shown: ShownQuote) -> tuple[float, int, bool]:
    """Price, shares, and whether they are taken from the displayed quote."""
    arriving, order.resting = not order.resting, True
    opposite = shown.price(buy=order.buy)
    if opposite <= order.price if order.buy else opposite >= order.price:
        return (opposite if arriving else order.price), shown.available(buy=order.buy), True
    if seen.price is None or not seen.forms_price or arriving:
        return order.price, 0, False
    through = seen.price < order.price if order.buy else seen.price > order.price
    return order.price, math.floor(_size(seen.size)) if through else 0, False


def _fill(order: Order, seen: Observation, price: float, shares: int, costs: CostTable) -> Fill:
    order.filled += shares
    order.value += price * shares
    total = round(costs.commission(order.filled, order.value), DIGITS)
    charged, order.commission = round(total - order.commission, DIGITS), total
    worse = None
    if order.reference_price is not None:
        worse = round((price - order.reference_price) * (1 if order.buy else -1), DIGITS) + 0.0
    return Fill(
        ts=seen.ts,
        seq=seen.seq,
        price=price,
        quantity=shares,
        side="BUY" if order.buy else "SELL",
        source="quote" if seen.price is None else "print",
        reference_price=order.reference_price,
        slippage=worse,
        commission=charged,
        reference=order.reference,
    )
