"""Properties of the exchange's matching over random tapes. The rules, by number, are in docs/trading.md."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.errors import BadSetting
from harvester.projections.trading.costs import cost_table
from harvester.projections.trading.plan import EntryPlan, OrderType
from harvester.projections.trading.position import opening_order
from harvester.projections.trading.simulated_exchange import (
    Fill,
    Moment,
    Order,
    ShownQuote,
    execute,
    on_step,
    price_step,
)
from tests.budget import budget

FREE = cost_table("none")
SECOND = 1_000_000_000
STOPS = (OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAIL)
PRICES = st.integers(990, 1010).map(lambda cents: cents / 100)
NEAR = st.sampled_from([9.99, 10.0, 10.01])
SIZES = st.sampled_from([1.0, 40.0, 40.5, 100.0, 1000.0])
PAUSES = st.sampled_from([0, SECOND // 10, SECOND // 2, SECOND])
QUOTE = st.tuples(
    st.just("quote"), PAUSES, NEAR | PRICES, st.integers(1, 3), SIZES, SIZES, st.booleans() | st.just(True)
)
PRINT = st.tuples(
    st.just("print"), PAUSES, PRICES, SIZES, st.sampled_from([(True, True), (True, False), (False, False)])
)
TAPE = st.lists(st.one_of(QUOTE, QUOTE, PRINT), max_size=40)


@st.composite
def orders(draw, types=tuple(OrderType)):
    kind = draw(st.sampled_from(types))
    return Order(
        type=kind,
        buy=draw(st.booleans()),
        quantity=draw(st.integers(1, 300)),
        reference="test",
        reference_price=draw(st.none() | PRICES),
        limit=draw(PRICES) if kind in (OrderType.LIMIT, OrderType.STOP_LIMIT) else None,
        trigger=draw(PRICES) if kind in (OrderType.STOP, OrderType.STOP_LIMIT) else None,
        trail=draw(st.sampled_from([0.01, 0.03, 0.10])) if kind is OrderType.TRAIL else None,
        share_max=draw(st.sampled_from([1.0, 0.5, 0.1])),
        last_only=draw(st.booleans()),
    )


class Seen(NamedTuple):
    """One moment: the order before it and after it, the quote, and the fill if there was one."""

    now: Moment
    before: Order
    after: Order
    quote: ShownQuote
    fill: Fill | None


def walk(order: Order, tape: list[Any], costs: Any = FREE) -> list[Seen]:
    """Match the order at each moment of the tape."""
    shown, ts, made = ShownQuote(), 0, []
    for seq, item in enumerate(tape, start=1):
        ts += item[1]
        if item[0] == "quote":
            _, _, bid, width, bid_size, ask_size, good = item
            shown.update(ts, bid, round(bid + width / 100, 2), bid_size, ask_size, good=good)
            now = Moment(seq, ts)
        else:
            _, _, price, size, (forms, triggers) = item
            now = Moment(seq, ts, price, size, forms, triggers)
        before, quote = msgspec.structs.replace(order), msgspec.structs.replace(shown)
        fills = execute(order, msgspec.structs.replace(now), shown, costs)
        assert len(fills) <= 1, "one level is seen"
        made.append(Seen(now, before, msgspec.structs.replace(order), quote, fills[0] if fills else None))
    return made


@settings(max_examples=budget(150, 600), deadline=None)
@given(orders(), TAPE)
def test_fill_rules(order, tape):
    """No fill without a live quote, worse than its limit, or off the quote; none above the size or its fraction."""
    filled = 0
    for now, before, after, quote, fill in walk(order, tape):
        if fill is None:
            continue
        assert quote.good
        assert (fill.seq, fill.ts) == (now.seq, now.ts)
        opposite, size = (quote.ask, quote.ask_size) if order.buy else (quote.bid, quote.bid_size)
        if before.limit is None:
            assert fill.price == opposite
        else:
            assert fill.price <= before.limit if order.buy else fill.price >= before.limit
            reached = opposite <= before.limit if order.buy else opposite >= before.limit
            through = now.price is not None and (now.price < before.limit if order.buy else now.price > before.limit)
            assert fill.price == (before.limit if before.resting else opposite)
            assert reached or (through and now.forms_price and before.resting)
            size = size if reached else now.size
        assert 0 < fill.quantity <= min(before.left, math.floor(size * order.share_max))
        assert order.type not in STOPS or after.triggered
        filled += fill.quantity
    assert filled == order.filled <= order.quantity


@settings(max_examples=budget(150, 600), deadline=None)
@given(orders(types=STOPS), TAPE)
def test_stops_trigger_exactly_by_the_rule(order, tape):
    """A stop triggers at the first live moment at which the quote or a print that may reaches it, not before."""
    wanted = order.trigger
    triggered = False
    for now, before, after, quote, _ in walk(order, tape):
        if quote.good and not triggered:
            opposite = quote.ask if order.buy else quote.bid
            if order.trail is not None:
                near = round(opposite + order.trail if order.buy else opposite - order.trail, 2)
                wanted = near if wanted is None else (min if order.buy else max)(wanted, near)
            touches = [now.price] if now.price is not None and now.triggers else []
            touches += [] if order.last_only else [opposite]
            triggered = any(p >= wanted if order.buy else p <= wanted for p in touches)
        assert after.triggered == triggered
        assert after.trigger == wanted
        if order.trail is not None and before.trigger is not None:  # only in the direction of profit
            assert after.trigger <= before.trigger if order.buy else after.trigger >= before.trigger


class Levels:
    """Rule 5 as it is written, for one side: prices at which we took, with what they showed then."""

    def __init__(self) -> None:
        self.taken: dict[float, list[Any]] = {}  # price: [showed, taken, newest take or return, away since]

    def shows(self, ts: int, price: float, size: float) -> None:
        for level, (showed, _, since, away) in list(self.taken.items()):
            over = ts - (since if away is None else away) >= SECOND
            if over or (level == price and size > showed):
                del self.taken[level]
            elif level == price and away is not None:
                self.taken[level][2:] = [ts, None]
            elif level != price and away is None:
                self.taken[level][3] = ts

    def free(self, ts: int, price: float, size: float) -> int:
        showed, taken, since, _ = self.taken.get(price, (size, 0, ts, None))
        if ts - since >= SECOND:
            return math.floor(size)
        return max(0, math.floor(min(size, showed) - taken))

    def take(self, ts: int, price: float, size: float, shares: int) -> None:
        if price not in self.taken or ts - self.taken[price][2] >= SECOND:
            self.taken[price] = [size, 0, ts, None]
        self.taken[price][1] += shares
        assert self.taken[price][1] <= self.taken[price][0]
        self.taken[price][2] = ts


@settings(max_examples=budget(150, 600), deadline=None)
@given(st.booleans(), st.sampled_from([1.0, 0.3, 0.1]), TAPE)
def test_a_level_gives_what_it_shows_less_what_we_took(buy, share, tape):
    """A hungry market order takes at each moment exactly what its level still has by rule 5."""
    order = Order(OrderType.MARKET, buy, 1_000_000, "test", None, share_max=share)
    levels = Levels()
    for now, _, _, quote, fill in walk(order, tape):
        if not quote.good:
            assert fill is None
            continue
        price, size = (quote.ask, quote.ask_size) if buy else (quote.bid, quote.bid_size)
        if now.price is None:
            levels.shows(now.ts, price, size)
        expected = min(levels.free(now.ts, price, size), math.floor(size * share))
        assert (fill.quantity if fill else 0) == expected
        if fill:
            levels.take(now.ts, price, size, fill.quantity)


@settings(max_examples=budget(80, 300), deadline=None)
@given(orders(), TAPE)
def test_mirror(order, tape):
    """Buying in a market and selling in its mirror image are the same: no side is favoured."""

    def turned(price: float | None) -> float | None:
        return None if price is None else round(20 - price, 2)

    plain = msgspec.structs.replace(order, reference_price=None)
    flipped = msgspec.structs.replace(
        plain, buy=not order.buy, limit=turned(order.limit), trigger=turned(order.trigger)
    )
    mirror = []
    for item in tape:
        if item[0] == "quote":
            what, pause, bid, width, bid_size, ask_size, good = item
            mirror.append((what, pause, turned(round(bid + width / 100, 2)), width, ask_size, bid_size, good))
        else:
            mirror.append((*item[:2], turned(item[2]), *item[3:]))
    for one, two in zip(walk(plain, tape), walk(flipped, mirror), strict=True):
        assert (one.fill is None) == (two.fill is None)
        assert one.after.triggered == two.after.triggered
        if one.fill and two.fill:
            assert (one.fill.quantity, one.fill.price) == (two.fill.quantity, turned(two.fill.price))


@given(
    st.floats(0.5, 500),
    st.sampled_from([0.0001, 0.005, 0.01, 0.05]),
    st.booleans(),
)
def test_rounding_is_never_in_our_favour(price, step, buy):
    """Limits go away from the market, stops too, by less than a step, onto a whole number of steps."""
    plan = EntryPlan(long=buy, quantity=1, reason="", type=OrderType.STOP_LIMIT, limit=price, trigger=price, trail=None)
    order = opening_order(plan, step, None, share_max=1.0, last_only=False)
    slack = 1e-6 * step + 1e-9
    for made, up in ((order.limit, not buy), (order.trigger, buy)):
        assert abs(made / step - round(made / step)) < 1e-4
        assert -slack <= (made - price if up else price - made) < step + slack
    assert on_step(round(price / step) * step, step, up=True) == on_step(round(price / step) * step, step, up=False)


def test_steps_without_a_contract():
    """Without a recorded step it is a cent, a hundredth of one below a dollar."""
    assert [price_step(price, None) for price in (1.0, 250.0, 0.9999)] == [0.01, 0.01, 0.0001]
    assert price_step(0.5, 0.005) == 0.005


def test_a_print_fills_our_orders_no_more_than_once():
    """Two limits a print goes through share its 50 shares: 40 for the first, 10 for the second."""
    shown, now = ShownQuote(), Moment(2, 2, 10.06, 50.0, forms_price=True)
    shown.update(1, 10.0, 10.02, 500, 500, good=True)
    made = [Order(OrderType.LIMIT, False, 40, "test", None, limit=10.05, resting=True) for _ in range(2)]
    assert [fill.quantity for order in made for fill in execute(order, now, shown, FREE)] == [40, 10]


def test_participation_in_a_print_is_of_the_size_printed():
    """Three limits that take at most 0.4 of 99.5 shares each: 39, 39, and what is left of 99 whole shares."""
    shown, now = ShownQuote(), Moment(2, 2, 10.06, 99.5, forms_price=True)
    shown.update(1, 10.0, 10.02, 500, 500, good=True)
    about = {"limit": 10.05, "resting": True, "share_max": 0.4}
    made = [Order(OrderType.LIMIT, False, 100, "test", None, **about) for _ in range(3)]
    assert [fill.quantity for order in made for fill in execute(order, now, shown, FREE)] == [39, 39, 21]


@pytest.mark.parametrize("buy", [True, False])
@given(st.lists(st.tuples(st.integers(1, 500), PRICES), min_size=1, max_size=10))
def test_commission_is_by_the_order(buy, parts):
    """For any split into fills, commissions add up to the table's price of the whole order."""
    table = cost_table("ibkr_fixed")
    order = Order(OrderType.MARKET, buy, sum(n for n, _ in parts), "test", None)
    total = 0.0
    for seq, (shares, price) in enumerate(parts, start=1):
        shown = ShownQuote()
        shown.update(seq, price, price, shares, shares, good=True)
        total += sum(fill.commission for fill in execute(order, Moment(seq, seq), shown, table))
    assert total == pytest.approx(table.charged(sell=not buy, taken=order.filled, added=0, value=order.value))


def test_unknown_table():
    """The error for an unknown cost table lists the valid ones."""
    with pytest.raises(BadSetting, match="'bribes'; use one of ibkr_fixed, ibkr_tiered, none"):
        cost_table("bribes")
