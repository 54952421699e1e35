"""The simulated exchange: matches one order at one moment. Pure rules, no bookkeeping of positions.

The rules, by number, are in docs/trading.md. A moment is an observation (a change of the live quote, or a print) or the
arrival of an order. Nothing is filled or triggered without a live quote.

Costs are computed per order: each fill carries the rise in its order's total, which a rebate can make negative.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import msgspec

from harvester.projections.trading.plan import OrderType
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.projections.trading.costs import CostTable

DIGITS = 9  # derived USD amounts are rounded to 1e-9: smaller digits are floating-point noise
REFRESH_NS = SECOND_NS  # after so long a level that stands, or was away, no longer remembers what we took (rule 5)
_ON_TICK = 1e-6  # a price this close to a step, as a fraction of it, is on the step


class Order(msgspec.Struct):
    """One order at the exchange; it works from its arrival on. Quantities in whole shares, money in USD.

    Attributes:
        limit: limit price, of limit and stop-limit orders.
        trigger: stop price, of stop, stop-limit and trailing orders; None = a trailing order without a quote so far.
        trail: distance at which the trigger follows the opposite quote; None = it does not.
        tick: smallest price step, USD.
        share_max: fraction of the size shown or printed that one fill may take.
        last_only: quotes do not trigger it, only prints.
        deep: it also takes from the prices behind the quote (rule 19).
        resting: it has arrived and its limit was not reached, or it was placed to rest.
        taken, added: shares filled that removed liquidity, and that rested.
        value: trade value of all fills; commission: charged so far.
    """

    type: OrderType
    buy: bool
    quantity: int
    reference: str
    reference_price: float | None
    limit: float | None = None
    trigger: float | None = None
    trail: float | None = None
    tick: float = 0.01
    share_max: float = 1.0
    last_only: bool = False
    deep: bool = False
    resting: bool = False
    triggered: bool = False
    taken: int = 0
    added: int = 0
    value: float = 0.0
    commission: float = 0.0

    @property
    def filled(self) -> int:
        """Shares filled."""
        return self.taken + self.added

    @property
    def left(self) -> int:
        """Shares still to fill."""
        return self.quantity - self.taken - self.added

    @property
    def waits_for_trigger(self) -> bool:
        """Whether it is a stop that has not triggered."""
        return not self.triggered and self.type in (OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAIL)


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


class BehindQuote(Protocol):
    """A book at a moment."""

    def behind(self, price: float, *, buy: bool) -> dict[float, float]:
        """The size shown at each price worse than `price` that an order sees behind it, best first."""
        ...


class Moment(msgspec.Struct):
    """A change of the live quote or an arrival (`price` None), or a print.

    Attributes:
        size: of a print, shares; `taken`: what our orders took of it.
        forms_price: of a print; `triggers`: it forms the price and is not an odd lot.
        book: the SMART book, None = none is looked at.
    """

    seq: int
    ts: int
    price: float | None = None
    size: float = 0.0
    forms_price: bool = False
    triggers: bool = False
    book: BehindQuote | None = None
    taken: int = 0


class TakenLevel(msgspec.Struct):
    """A price at which our orders took shares. Sizes in shares, times ns UTC.

    Attributes:
        showed: size it showed when we first took from it.
        since: when we last took from it, or when it came back.
        away: since when the side shows another price; None = it stands.
    """

    price: float
    showed: float
    taken: int
    since: int
    away: int | None = None


class ShownQuote(msgspec.Struct):
    """The quote in force of one symbol and what our orders have taken. Prices USD, sizes shares; `good` means live."""

    good: bool = False
    bid: float = 0.0
    ask: float = 0.0
    bid_size: float = 0.0
    ask_size: float = 0.0
    bid_levels: list[TakenLevel] = []
    ask_levels: list[TakenLevel] = []

    def update(
        self,
        ts: int,
        bid: float,
        ask: float,
        bid_size: float,
        ask_size: float,
        *,
        good: bool,
        book: BehindQuote | None = None,
    ) -> None:
        """Set a new quote in force; one that is not live keeps the last prices. `book`: what is shown behind it."""
        self.good = good
        if not good:
            return
        self.bid, self.ask, self.bid_size, self.ask_size = bid, ask, bid_size, ask_size
        self.look(ts, book)

    def look(self, ts: int, book: BehindQuote | None) -> None:
        """Forget what we took where the quote, or the book behind it, allows it (rule 5)."""
        if self.bid_levels:
            behind = book.behind(self.bid, buy=False) if book else {}
            self.bid_levels = _remembered(self.bid_levels, behind | {self.bid: self.bid_size}, ts)
        if self.ask_levels:
            behind = book.behind(self.ask, buy=True) if book else {}
            self.ask_levels = _remembered(self.ask_levels, behind | {self.ask: self.ask_size}, ts)

    @property
    def remembers(self) -> bool:
        """Whether a size is reduced by what we took."""
        return bool(self.bid_levels or self.ask_levels)

    def price(self, *, buy: bool) -> float:
        """The price of a market order."""
        return self.ask if buy else self.bid

    def top(self, *, buy: bool) -> tuple[float, float]:
        """Price and size of the opposite quote."""
        return (self.ask, self.ask_size) if buy else (self.bid, self.bid_size)

    def available(self, shown: tuple[float, float], ts: int, *, buy: bool, share: float = 1.0) -> int:
        """Whole shares an order may take of a level (price, size), at most this share of the size."""
        price, size = shown
        if (level := self._level(price, ts, buy=buy)) is not None:
            return max(0, min(math.floor(min(size, level.showed) - level.taken), math.floor(size * share)))
        return math.floor(size * share)

    def take(self, shown: tuple[float, float], shares: int, ts: int, *, buy: bool) -> None:
        """Count the shares of a fill as taken from a level (price, size)."""
        price, size = shown
        if (level := self._level(price, ts, buy=buy)) is not None:
            level.taken += shares
            level.since = ts
            return
        levels = self.ask_levels if buy else self.bid_levels
        kept = [*(level for level in levels if level.price != price), TakenLevel(price, size, shares, ts)]
        if buy:
            self.ask_levels = kept
        else:
            self.bid_levels = kept

    def _level(self, price: float, ts: int, *, buy: bool) -> TakenLevel | None:
        levels = self.ask_levels if buy else self.bid_levels
        return next((lv for lv in levels if lv.price == price and ts - lv.since < REFRESH_NS), None)


def _remembered(levels: list[TakenLevel], shown: Mapping[float, float], ts: int) -> list[TakenLevel]:
    """The levels that still remember what we took, when their side shows these sizes by price."""
    kept = []
    for level in levels:
        stands = level.price in shown
        began = level.since if level.away is None else level.away
        if ts - began >= REFRESH_NS or (stands and shown[level.price] > level.showed):
            continue
        if stands and level.away is not None:
            level.since, level.away = ts, None
        elif not stands and level.away is None:
            level.away = ts
        kept.append(level)
    return kept


def execute(order: Order, now: Moment, shown: ShownQuote, costs: CostTable) -> list[Fill]:
    """The fills of a working order at this moment. Updates the order, what we took, and the print's rest."""
    if not shown.good or order.left <= 0:
        return []
    if order.waits_for_trigger:
        _trigger(order, now, shown)
        if not order.triggered:
            return []
    top = shown.top(buy=order.buy)
    if order.limit is not None:
        price, shares, rested = _limit(order, now, shown)
    else:
        price, rested = top[0], False
        shares = shown.available(top, now.ts, buy=order.buy, share=order.share_max)
    shares = min(shares, order.left)
    made = []
    if shares > 0:
        if rested and not _reached(order.limit or 0.0, top[0], buy=order.buy):
            now.taken += shares  # filled by the print
        else:
            shown.take(top, shares, now.ts, buy=order.buy)
        made.append(_fill(order, now, price, shares, costs, rested=rested))
    if order.deep and now.book is not None and not rested:
        made += _behind(order, now, now.book.behind(top[0], buy=order.buy), shown, costs)
    return made


def _behind(
    order: Order, now: Moment, behind: Mapping[float, float], shown: ShownQuote, costs: CostTable
) -> list[Fill]:
    """The fills behind the quote, best price first, up to the order's limit (rule 19)."""
    made = []
    for level in behind.items():
        if order.left <= 0 or (order.limit is not None and not _reached(order.limit, level[0], buy=order.buy)):
            break
        shares = min(shown.available(level, now.ts, buy=order.buy, share=order.share_max), order.left)
        if shares > 0:
            shown.take(level, shares, now.ts, buy=order.buy)
            made.append(_fill(order, now, level[0], shares, costs, source="book"))
    return made


def _trigger(order: Order, now: Moment, shown: ShownQuote) -> None:
    """Move a trailing trigger, then see whether the stop triggers (rule 8)."""
    opposite = shown.price(buy=order.buy)
    if order.trail is not None:
        order.trigger = trailed(order.trigger, opposite, order.trail, order.tick, buy=order.buy)
    if order.trigger is None:
        return
    touches = [] if order.last_only else [opposite]
    if now.price is not None and now.triggers:
        touches.append(now.price)
    order.triggered = any(p >= order.trigger if order.buy else p <= order.trigger for p in touches)
    if order.triggered and order.trail is not None:
        order.reference_price = order.trigger


def trailed(trigger: float | None, opposite: float, trail: float, tick: float, *, buy: bool) -> float:
    """The trigger of a trailing stop after the opposite quote: it only moves in the direction of profit."""
    near = on_step(opposite + trail if buy else opposite - trail, tick, up=buy)
    if trigger is None:
        return near
    return min(trigger, near) if buy else max(trigger, near)


def _reached(limit: float, opposite: float, *, buy: bool) -> bool:
    return opposite <= limit if buy else opposite >= limit


def _limit(order: Order, now: Moment, shown: ShownQuote) -> tuple[float, int, bool]:
    """Price, shares, and whether the order rested (rule 7)."""
    assert order.limit is not None, "a limit order has a limit"
    rested, order.resting = order.resting, True
    opposite = shown.price(buy=order.buy)
    if _reached(order.limit, opposite, buy=order.buy):
        shares = shown.available(shown.top(buy=order.buy), now.ts, buy=order.buy, share=order.share_max)
        return (order.limit if rested else opposite), shares, rested
    if now.price is None or not now.forms_price or not rested:
        return order.limit, 0, rested
    through = now.price < order.limit if order.buy else now.price > order.limit
    printed = min(math.floor(now.size) - now.taken, math.floor(now.size * order.share_max))
    return order.limit, printed if through and now.size > 0 else 0, rested


def _fill(
    order: Order, now: Moment, price: float, shares: int, costs: CostTable, *, rested: bool = False, source: str = ""
) -> Fill:
    if rested:
        order.added += shares
    else:
        order.taken += shares
    order.value += price * shares
    sell = not order.buy
    total = round(costs.charged(sell=sell, taken=order.taken, added=order.added, value=order.value), DIGITS)
    charged, order.commission = round(total - order.commission, DIGITS), total
    worse = None
    if order.reference_price is not None:
        worse = round((price - order.reference_price) * (1 if order.buy else -1), DIGITS) + 0.0
    return Fill(
        ts=now.ts,
        seq=now.seq,
        price=price,
        quantity=shares,
        side="BUY" if order.buy else "SELL",
        source=source or ("quote" if now.price is None else "print"),
        reference_price=order.reference_price,
        slippage=worse,
        commission=charged,
        reference=order.reference,
    )


def on_step(price: float, step: float, *, up: bool) -> float:
    """The price on a whole multiple of `step` USD, not below (`up`) or not above it (rule 10)."""
    steps = price / step
    whole = round(steps)
    if abs(steps - whole) > _ON_TICK:
        whole = math.ceil(steps) if up else math.floor(steps)
    return round(whole * step, DIGITS)


def price_step(price: float, recorded: float | None) -> float:
    """Smallest price step at this price, USD: the contract's as recorded, else that of Regulation NMS rule 612."""
    return recorded or (0.01 if price >= 1 else 0.0001)
