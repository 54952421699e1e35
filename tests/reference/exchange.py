"""The simulated exchange in plain Python, by docs/trading.md: quotes with what we took of them, orders, one fill.

It shares no code with `harvester.projections`. Every order is offered every moment; nothing is skipped or looked up
ahead. Money is float with nine decimals, as specified, so results compare as numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from tests.reference.market import SECOND


def money(number):
    return round(number, 9)


def tick_of(price, tick):
    """The smallest price step at a price: the contract's, else a cent, below one dollar a hundredth of a cent."""
    return tick or (0.01 if price >= 1 else 0.0001)


def rounded(price, tick, *, up):
    """The price on the grid of steps; noise of floats behind the ninth decimal is none of the price."""
    if price is None:
        return None
    step = Decimal(str(tick_of(price, tick)))
    steps = (Decimal(str(money(price))) / step).to_integral_value(ROUND_CEILING if up else ROUND_FLOOR)
    return float(steps * step)


def charged(costs, *, sell, taken, added, value):
    """USD for everything one order has filled so far (docs/costs.md); nothing until it has filled."""
    shares = taken + added
    if not shares:
        return 0.0
    rate = {name: costs.get(name, 0.0) for name in RATES}
    commission = sum(per_share(costs, number) for number in range(shares))
    commission = min(max(commission, costs["minimum"]), costs["maximum_fraction"] * value)
    out = commission + commission * rate["pass_through_fraction"] + shares * rate["clearing_fee"]
    if value / shares >= 1:
        out += taken * rate["remove_fee"] - added * rate["add_rebate"]
    else:
        out += value / shares * taken * rate["remove_fraction"]
    if sell:
        out += value * rate["sec_fraction"] + min(shares * rate["taf_per_share"], rate["taf_maximum"])
    return out


def per_share(costs, number):
    """Commission of the order's share with that number, from 0: tiers go by the month's shares, share by share."""
    rates = [rate for above, rate in costs.get("tiers", ()) if costs["monthly_shares"] + number >= above]
    return rates[-1] if rates else costs["per_share"]


def round_trip(costs, price, quantity):
    """USD a share for buying and selling `quantity` shares at `price`, removing liquidity."""
    both = sum(charged(costs, sell=sell, taken=quantity, added=0, value=quantity * price) for sell in (False, True))
    return both / quantity


RATES = (
    "pass_through_fraction", "clearing_fee", "remove_fee", "remove_fraction", "add_rebate", "sec_fraction",
    "taf_per_share", "taf_maximum",
)  # fmt: skip

# ---- the quote -------------------------------------------------------------------------------------------------------


@dataclass
class Taken:
    """What our orders took at one price of one side."""

    shares: int
    shown: float  # size when we first took
    since: int  # ns UTC: the later of our last take and its last coming back
    away: int | None = None  # ns UTC: since when another price is shown


@dataclass
class Side:
    """One side of the quote in force: price, size shown, the levels behind it, and by price what we took."""

    price: float | None = None
    size: float = 0.0
    behind: list[tuple[float, float]] = field(default_factory=list)  # price, size; best first
    levels: dict[float, Taken] = field(default_factory=dict)

    @property
    def shown(self):
        """Price → size of everything an order may see."""
        return dict([*self.behind, (self.price, self.size)])

    def pass_time(self, ts):
        """Forget what stood, or was away, for a second."""
        for price, level in list(self.levels.items()):
            if ts - (level.since if level.away is None else level.away) >= SECOND:
                del self.levels[price]

    def show(self, price, size, behind, ts):
        self.pass_time(ts)
        before = self.shown
        self.price, self.size, self.behind = price, size, behind
        now = self.shown
        for level in before.keys() & self.levels.keys() - now.keys():
            self.levels[level].away = ts
        for level in now.keys() & self.levels.keys():
            if level not in before:
                self.levels[level].away, self.levels[level].since = None, ts
            if now[level] > self.levels[level].shown:
                del self.levels[level]

    def left(self, price, size, ts):
        """Shares that a level of this size still has for us."""
        self.pass_time(ts)
        level = self.levels.get(price)
        return max(0, int(size - (level.shares if level else 0)))

    def take(self, price, size, shares, ts):
        if not shares:
            return
        level = self.levels.setdefault(price, Taken(0, size, ts))
        level.shares += shares
        level.since = ts


@dataclass
class Quote:
    """The quote in force, and what orders see of it: the sides are those of the last live one."""

    shown: tuple = (None, None, None, None)  # bid, ask, bid size, ask size
    good: bool = False  # known and not crossed
    lost: bool = True  # by an outage, a run start, the end of its stream; until its next change
    dark: bool = False  # the feed of the symbol, or the whole feed, is gone
    halted: bool = False
    deep: bool = False  # there are orders that may see the book behind the quote
    book: tuple | None = None  # of a good SMART book: bids, asks; price → size
    bid: Side = field(default_factory=Side)
    ask: Side = field(default_factory=Side)

    def change(self, ts, *shown, good):
        self.shown, self.good, self.lost = shown, good, False
        self.show(ts)

    def show(self, ts):
        if self.live:
            bid, ask, bid_size, ask_size = self.shown
            bids, asks = self.book if self.book and self.deep else ({}, {})
            worse = sorted([level for level in bids.items() if level[0] < bid], reverse=True)
            self.bid.show(bid, bid_size, worse, ts)
            self.ask.show(ask, ask_size, sorted(level for level in asks.items() if level[0] > ask), ts)

    @property
    def live(self):
        good = self.good and all(size is not None and size > 0 for size in self.shown[2:])
        return good and not self.lost and not self.dark and not self.halted

    @property
    def seen(self):
        """What can change: the live quote, or none."""
        return self.shown if self.live else None

    @property
    def why_not(self):
        return "OUTAGE" if self.dark else "HALTED" if self.halted else "NOT_LIVE"

    def against(self, *, buy):
        return self.ask if buy else self.bid


# ---- orders ----------------------------------------------------------------------------------------------------------


@dataclass
class Moment:
    """A quote (`price` None), a print, or the arrival of a message; `left`: shares of a print not yet given."""

    seq: int
    ts: int
    price: float | None = None
    size: float = 0.0
    forms: bool = False
    triggers: bool = False
    left: int = 0

    @property
    def source(self):
        return "quote" if self.price is None else "print"


@dataclass
class Order:
    """An order; `kind` as in `OrderType`, where a triggered stop is a market order and a triggered stop-limit a limit.

    `stop` is the trigger price, also of a trailing one (None before it has seen a quote).
    """

    role: str
    buy: bool
    kind: str
    reference: str
    reference_price: float | None
    limit: float | None = None
    stop: float | None = None
    trail: float | None = None
    quantity: int = 0
    expires: int | None = None  # ns UTC, exclusive
    working: bool = False  # it has arrived
    resting: bool = False
    triggered: bool = False
    taken: int = 0  # shares that removed liquidity
    added: int = 0  # shares that added it
    value: float = 0.0
    charged: float = 0.0

    @property
    def filled(self):
        return self.taken + self.added


@dataclass
class Terms:
    """What holds for a run: costs, participation, what triggers stops ("quote" or "last"), depth ("top" or "book")."""

    costs: dict[str, Any]
    participation: float = 1.0
    stop_trigger: str = "quote"
    fill_depth: str = "top"


def beyond(order, a, b):
    """Whether price `a` is better for the order than `b`: lower for a buy."""
    return a < b if order.buy else a > b


def follow(order, quote, tick):
    """A trailing stop keeps its distance from a live opposite quote, and only comes closer."""
    if order.trail is None or order.triggered:
        return
    price = quote.against(buy=order.buy).price
    wanted = rounded(price + order.trail if order.buy else price - order.trail, tick, up=order.buy)
    if order.stop is None or beyond(order, wanted, order.stop):
        order.stop = wanted


def trigger(order, moment, quote, terms):
    """Whether a stop is, or is now, triggered."""
    prices = [quote.against(buy=order.buy).price] if terms.stop_trigger == "quote" else []
    prices += [moment.price] if moment.triggers else []
    if any(price >= order.stop if order.buy else price <= order.stop for price in prices):
        order.triggered = True
        if order.kind != "stop_limit":
            order.reference_price = order.stop
    return order.triggered


def match(order, wanted, moment, quote, terms):
    """What up to `wanted` shares get at a live quote, level by level: price, shares, adds liquidity, source."""
    if not order.working or wanted <= 0 or (order.expires is not None and moment.ts >= order.expires):
        return
    if order.kind in ("stop", "stop_limit", "trail") and not order.triggered:
        if not trigger(order, moment, quote, terms):
            return
        order.resting = False  # a limit order that arrives now
    side = quote.against(buy=order.buy)
    limited = order.kind in ("limit", "stop_limit")
    rested, order.resting = order.resting, True
    behind = side.behind if terms.fill_depth == "book" and not (limited and rested) else []
    reached = False
    for nth, (price, size) in enumerate([(side.price, side.size), *behind]):
        if limited and price != order.limit and not beyond(order, price, order.limit):
            break
        reached = True
        shares = min(wanted, side.left(price, size, moment.ts), int(size * terms.participation))
        side.take(price, size, shares, moment.ts)
        wanted -= shares
        if shares:
            adds = limited and rested
            yield order.limit if adds else price, shares, adds, "book" if nth else moment.source
    if not reached and rested and moment.forms and beyond(order, moment.price, order.limit):
        shares = min(wanted, moment.left, int(moment.size * terms.participation))
        moment.left -= shares
        if shares:
            yield order.limit, shares, True, moment.source


def fill(order, wanted, moment, quote, terms):
    """Rows of `fills` without the names of their trade."""
    return [row_of(order, moment, terms, matched) for matched in match(order, wanted, moment, quote, terms)]


def row_of(order, moment, terms, matched):
    price, shares, adds, source = matched
    order.added += shares if adds else 0
    order.taken += 0 if adds else shares
    order.value += price * shares
    charge = charged(terms.costs, sell=not order.buy, taken=order.taken, added=order.added, value=order.value)
    row = {
        "seq": moment.seq, "ts": moment.ts, "role": order.role, "side": "BUY" if order.buy else "SELL",
        "price": price, "quantity": shares, "source": source, "reference": order.reference,
        "reference_price": order.reference_price, "slippage": None, "commission": money(charge - order.charged),
    }  # fmt: skip
    if order.reference_price is not None:
        worse = price - order.reference_price
        row["slippage"] = money(worse if order.buy else -worse)
    order.charged = money(charge)
    return row
