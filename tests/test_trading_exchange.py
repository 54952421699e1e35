from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trading_table import play

from harvester.errors import BadSetting
from harvester.projections.trading.costs import CostTable, cost_table
from harvester.projections.trading.simulated_exchange import Observation, Order, OrderType, ShownQuote, execute
from tests.budget import budget

FREE = cost_table("none")
PRICES = st.integers(990, 1010).map(lambda cents: cents / 100)
SIZES = st.sampled_from([0.0, 1.0, 40.0, 100.0, 1000.0, math.nan, -1.0])
QUOTE = st.tuples(st.just("quote"), PRICES, PRICES, SIZES, SIZES, st.booleans())
PRINT = st.tuples(st.just("print"), PRICES, SIZES, st.booleans())
TAPE = st.lists(st.one_of(QUOTE, PRINT), max_size=40)


@st.composite
def orders(draw):
    return Order(
        type=draw(st.sampled_from(list(OrderType))),
        buy=draw(st.booleans()),
        quantity=draw(st.integers(1, 300)),
        price=draw(PRICES),
        after_seq=draw(st.integers(0, 5)),
        not_before=draw(st.integers(0, 20)),
        expires=draw(st.none() | st.integers(0, 40)),
        reference="test",
        reference_price=draw(st.none() | PRICES),
    )


def walk(order: Order, tape: list, costs: CostTable = FREE):
    """Every observation with the quote then in force, the order's state before, and the fill if there was one."""
    shown = ShownQuote()
    for seq, item in enumerate(tape, start=1):
        if item[0] == "quote":
            low, high = min(item[1:3]), max(item[1:3]) + 0.01
            shown.update(low, high, item[3], item[4], item[5])
            seen = Observation(seq, seq)
        else:
            seen = Observation(seq, seq, *item[1:])
        before, quote = msgspec.structs.replace(order), msgspec.structs.replace(shown)
        yield seen, before, quote, execute(order, msgspec.structs.replace(seen), shown, costs), shown


@settings(max_examples=budget(80, 300), deadline=None)
@given(orders(), TAPE)
def test_fill_rules(order, tape):
    """No fill is too early, without a good quote, worse than the rules allow, or larger than the size shown."""
    for seen, before, quote, fill, _ in walk(order, tape):
        if fill is None:
            continue
        assert quote.good
        assert fill.seq > order.after_seq
        assert fill.ts >= order.not_before
        assert order.expires is None or fill.ts < order.expires
        opposite, size = (quote.ask, quote.ask_size) if order.buy else (quote.bid, quote.bid_size)
        if order.type is not OrderType.LIMIT:
            assert fill.price == opposite
            assert fill.quantity <= size
        else:
            assert fill.price <= order.price if order.buy else fill.price >= order.price
            reached = opposite <= order.price if order.buy else opposite >= order.price
            assert reached or seen.forms_price
            assert fill.quantity <= (size if reached else seen.size)
        assert fill.quantity <= before.left
    assert 0 <= order.filled <= order.quantity


@settings(max_examples=budget(80, 300), deadline=None)
@given(st.booleans(), TAPE)
def test_never_more_than_shown(buy, tape):
    """While one side's price is unchanged, all fills together take at most the largest size it showed."""
    order = Order(OrderType.MARKET, buy, 10_000, 0, 0, "test", None)
    price, taken, most = None, 0, 0.0
    for _, _, _, fill, shown in walk(order, tape):
        if shown.good and shown.price(buy=buy) != price:
            price, taken, most = shown.price(buy=buy), 0, 0.0
        if shown.good:
            most = max(most, shown.ask_size if buy else shown.bid_size)
        taken += fill.quantity if fill else 0
        assert taken <= most


@settings(max_examples=budget(60, 200), deadline=None)
@given(orders(), TAPE)
def test_mirror(order, tape):
    """Buying in a market and selling in its mirror image are the same: no side is favoured."""

    def turned(price: float) -> float:
        return round(20 - price, 2)

    flipped = msgspec.structs.replace(order, buy=not order.buy, price=turned(order.price), reference_price=None)
    plain = msgspec.structs.replace(order, reference_price=None)
    shown, mirrored = ShownQuote(), ShownQuote()
    for seq, item in enumerate(tape, start=1):
        seen = other = Observation(seq, seq)
        if item[0] == "quote":
            low, high = min(item[1:3]), round(max(item[1:3]) + 0.01, 2)
            shown.update(low, high, item[3], item[4], item[5])
            mirrored.update(turned(high), turned(low), item[4], item[3], item[5])
        else:
            seen, other = Observation(seq, seq, *item[1:]), Observation(seq, seq, turned(item[1]), *item[2:])
        one, two = execute(plain, seen, shown, FREE), execute(flipped, other, mirrored, FREE)
        assert (one is None) == (two is None)
        if one and two:
            assert (one.quantity, one.price) == (two.quantity, turned(two.price))


def test_a_print_fills_our_orders_no_more_than_once():
    """Two limits a print goes through share its 50 shares: 40 for the first, 10 for the second."""
    shown, seen = ShownQuote(), Observation(2, 2, 10.06, 50.0, forms_price=True)
    shown.update(10.0, 10.02, 500, 500, good=True)
    orders = [Order(OrderType.LIMIT, False, 40, 0, 0, "test", None, price=10.05, resting=True) for _ in range(2)]
    assert [execute(order, seen, shown, FREE).quantity for order in orders] == [40, 10]


@given(st.lists(st.tuples(st.integers(1, 500), PRICES), min_size=1, max_size=10))
def test_commission_is_by_the_order(parts):
    """For any split into fills, commissions add up to the table's price of the whole order."""
    table = cost_table("ibkr_fixed")
    order = Order(OrderType.MARKET, True, sum(n for n, _ in parts), 0, 0, "test", None)
    total = 0.0
    for seq, (shares, price) in enumerate(parts, start=1):
        shown = ShownQuote()
        shown.update(price - 0.01, price, 0, shares, True)
        fill = execute(order, Observation(seq, seq), shown, table)
        total += fill.commission
    assert total == pytest.approx(table.commission(order.filled, order.value))


@pytest.mark.parametrize(
    ("shares", "price", "usd"),
    [(100, 25.0, 1.0), (1000, 25.0, 5.0), (1000, 0.25, 2.5), (10, 0.2, 0.02), (0, 25.0, 0.0)],
)
def test_ibkr_fixed(shares, price, usd):
    """The published examples: at least a dollar, half a cent a share, at most one percent of the value."""
    assert cost_table("ibkr_fixed").commission(shares, shares * price) == pytest.approx(usd)


def test_unknown_table():
    """The error for an unknown cost table lists the valid ones."""
    with pytest.raises(BadSetting, match="'bribes'; use one of ibkr_fixed, ibkr_tiered, none"):
        cost_table("bribes")


LINE = st.one_of(
    st.tuples(st.just("quote"), PRICES, st.integers(1, 5), st.sampled_from([0, 30, 500]), st.booleans()),
    st.tuples(st.just("print"), PRICES, st.sampled_from([10, 100]), st.booleans()),
    st.sampled_from([("clock",), ("run 1",), ("run 2",), ("outage",), ("back",)]),
)


def written(lines: list) -> str:
    """A random scenario as a table; a decision long or short at every third clock."""
    table, now, clocks = ["0 run 1"], 0.0, 0
    for line in lines:
        if line[0] == "clock":
            now, clocks = math.floor(now) + 1.0, clocks + 1
            if clocks % 3 == 1:
                table.append(f"{now} {'long 100 9.95 10.05' if clocks % 2 else 'short 100 10.05 9.95'} 2 4")
        else:
            now += 0.2
        if line[0] == "quote":
            _, bid, width, size, good = line
            table.append(f"{now} quote {bid} {bid + width / 100:.2f} {size} {size} {'' if good else 'bad'}")
        elif line[0] == "print":
            table.append(f"{now} print {line[1]} {line[2]} {'' if line[3] else 'odd'}")
        else:
            table.append(f"{now} {line[0]}")
    return "\n".join([*table, f"{now + 1} end"])


@settings(max_examples=budget(40, 150), deadline=None)
@given(st.lists(LINE, max_size=60))
def test_books_balance(lines):
    """In any scenario every decision ends, money adds up, MAE ≤ 0 ≤ MFE, and state restores."""
    rows = play(written(lines), costs="ibkr_fixed")
    assert rows == play(written(lines), costs="ibkr_fixed", through_snapshots=True)
    entered = {row["decision_seq"] for row in rows["decisions"] if row["action"] == "enter"}
    unfilled = [row["decision_seq"] for row in rows["decisions"] if row["action"] == "unfilled"]
    done = [row["decision_seq"] for row in rows["episodes"]]
    assert sorted([*unfilled, *done]) == sorted(entered)
    assert len({row["trade_id"] for row in rows["episodes"]}) == len(done)
    for row in rows["episodes"]:
        fills = [f for f in rows["fills"] if f["decision_seq"] == row["decision_seq"]]
        assert all(f["seq"] > row["decision_seq"] for f in fills)
        cash = sum((1 if f["side"] == "SELL" else -1) * f["price"] * f["quantity"] - f["commission"] for f in fills)
        left = sum((1 if f["side"] == "BUY" else -1) * f["quantity"] for f in fills)
        assert (left == 0) == (row["exit_reason"] != "DATA_END")
        assert row["pnl_usd"] == pytest.approx(cash + left * row["exit_price"])
        assert row["mae"] <= 0 <= row["mfe"]
        assert row["hold_seconds"] >= 0
