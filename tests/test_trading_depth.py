"""Fills behind the quote: by hand, by the laws over random days, and the same however the day is cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trading_table import outcome

from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.projections.engine import Engine
from harvester.projections.market.state_arrays import CONTRADICTED_SECONDS
from tests.budget import budget
from tests.reference.market import Market
from tests.reference.trading_days import SIZES, Stock, TradingDay

DEEP = {"fill_depth": "book"}
BOOK = "0.8 book 10.00:500,9.99:300,9.98:400 10.02:500,10.03:200,10.03:100,10.05:900"
CASES = {
    "a market order walks the levels, sizes at a price summed, until it is filled": (
        "long 1000 - -",
        "",
        """
        5 1.1 entry BUY 10.02 500 quote quote_at_decision 10.02 0
        5 1.1 entry BUY 10.03 300 book quote_at_decision 10.02 0.01
        5 1.1 entry BUY 10.05 200 book quote_at_decision 10.02 0.03
        """,
    ),
    "a sale walks down": (
        "short 1000 - -",
        "",
        """
        5 1.1 entry SELL 10 500 quote quote_at_decision 10 0
        5 1.1 entry SELL 9.99 300 book quote_at_decision 10 0.01
        5 1.1 entry SELL 9.98 200 book quote_at_decision 10 0.02
        """,
    ),
    "a limit order takes at its arrival what is shown up to its limit": (
        "long 1000 - - type=limit limit=10.04",
        "",
        """
        5 1.1 entry BUY 10.02 500 quote limit_price 10.04 -0.02
        5 1.1 entry BUY 10.03 300 book limit_price 10.04 -0.01
        """,
    ),
    "one that rests takes from the quote alone, at its own price": (
        "long 1000 - - type=limit limit=10.01",
        "1.5 book - 9.99:100,10.00:300\n1.5 quote 9.98 9.99 500 100",
        "7 1.5 entry BUY 10.01 100 quote limit_price 10.01 0",
    ),
    "what an immediate order finds nowhere is cancelled": (
        "long 3000 - - immediate=1",
        "",
        """
        5 1.1 entry BUY 10.02 500 quote quote_at_decision 10.02 0
        5 1.1 entry BUY 10.03 300 book quote_at_decision 10.02 0.01
        5 1.1 entry BUY 10.05 900 book quote_at_decision 10.02 0.03
        """,
    ),
    "a book that came after the arrival is not looked at, one at that moment is": (
        "long 600 - - immediate=1",
        "1.1 book - 10.02:500,10.04:40\n1.2 book - 10.02:500,10.03:900",
        """
        5 1.1 entry BUY 10.02 500 quote quote_at_decision 10.02 0
        5 1.1 entry BUY 10.04 40 book quote_at_decision 10.02 0.02
        """,
    ),
    "a bad book shows nothing, and the rest waits for the next moment": (
        "long 600 - -",
        "1.05 book - -\n1.3 book - 10.02:500,10.03:900\n1.4 print 10.02 10",
        """
        5 1.1 entry BUY 10.02 500 quote quote_at_decision 10.02 0
        8 1.4 entry BUY 10.03 100 book quote_at_decision 10.02 0.01
        """,
    ),
    "prices of the book at or better than the quote are not there": (
        "long 600 - - immediate=1",
        "1.05 book - 10.00:900,10.02:900,10.04:60",
        """
        5 1.1 entry BUY 10.02 500 quote quote_at_decision 10.02 0
        5 1.1 entry BUY 10.04 60 book quote_at_decision 10.02 0.02
        """,
    ),
    "a triggered stop walks": (
        "long 400 9.95 -",
        "1.5 book 9.94:50,9.93:150,9.90:900 -\n1.5 quote 9.94 9.96 50 500",
        """
        5 1.1 entry BUY 10.02 400 quote quote_at_decision 10.02 0
        7 1.5 stop SELL 9.94 50 quote stop_price 9.95 0.01
        7 1.5 stop SELL 9.93 150 book stop_price 9.95 0.02
        7 1.5 stop SELL 9.9 200 book stop_price 9.95 0.05
        """,
    ),
    "what we took behind the quote is gone until the level shows more": (
        "long 1800 - -",
        "1.5 print 10.02 10\n1.6 book - 10.02:500,10.03:360\n1.7 print 10.02 10",
        """
        5 1.1 entry BUY 10.02 500 quote quote_at_decision 10.02 0
        5 1.1 entry BUY 10.03 300 book quote_at_decision 10.02 0.01
        5 1.1 entry BUY 10.05 900 book quote_at_decision 10.02 0.03
        8 1.7 entry BUY 10.03 100 book quote_at_decision 10.02 0.01
        """,
    ),
    "it is remembered when the level becomes the quote, for a second": (
        "long 2000 - -",
        "1.5 book - 10.03:300\n1.5 quote 10.01 10.03 500 300\n2.05 print 10.03 10\n2.1 print 10.03 10",
        """
        5 1.1 entry BUY 10.02 500 quote quote_at_decision 10.02 0
        5 1.1 entry BUY 10.03 300 book quote_at_decision 10.02 0.01
        5 1.1 entry BUY 10.05 900 book quote_at_decision 10.02 0.03
        9 2.1 entry BUY 10.03 300 print quote_at_decision 10.02 0.01
        """,
    ),
    "a level that was away less than a second is remembered for a second more": (
        "long 2800 - -",
        """1.2 book - 10.02:500,10.04:10
        1.5 book - 10.02:500,10.03:300
        2.3 print 10.02 10
        2.5 print 10.02 10""",
        """
        5 1.1 entry BUY 10.02 500 quote quote_at_decision 10.02 0
        5 1.1 entry BUY 10.03 300 book quote_at_decision 10.02 0.01
        5 1.1 entry BUY 10.05 900 book quote_at_decision 10.02 0.03
        8 2.3 entry BUY 10.02 500 print quote_at_decision 10.02 0
        9 2.5 entry BUY 10.03 300 book quote_at_decision 10.02 0.01
        """,
    ),
}


def table(order: str, events: str) -> str:
    return f"0 run\n0.1 quote 10.00 10.02 500 500\n{BOOK}\n1 {order} - -\n1 clock\n{events}\n3 clock\n9 end"


def fills_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if " entry " in line or " stop " in line or " exit " in line]


@pytest.mark.parametrize("name", CASES)
def test_depth(name: str) -> None:
    """Each order takes exactly these levels, one fill a level, at the level's price."""
    order, events, expected = CASES[name]
    wanted = [line.strip() for line in expected.strip().splitlines()]
    assert fills_of(outcome(table(order, events), **DEEP)) == wanted
    top = [line for line in fills_of(outcome(table(order, events))) if line.split()[6] == "book"]
    assert not top, "without the setting no order sees a book"


def test_participation_holds_for_each_level() -> None:
    """A tenth of what each level shows, rounded down: 50, 30 and 90 of 1,000."""
    made = fills_of(outcome(table("long 1000 - - immediate=1", ""), participation=0.1, **DEEP))
    assert [line.split()[5] for line in made] == ["50", "30", "90"]


class DeepDay(TradingDay):
    """A day whose runs fill behind the quote."""

    def other_terms(self) -> None:
        super().other_terms()
        self.config |= {"fill_depth": "book", "answer_latency_ms": self.chance.choice((0.0, 700.0, 2500.0))}

    def connect(self) -> None:
        for stock in self.stocks:
            stock.requests = {}
            for stream in ("bid_ask", "smart_depth", "all_last"):
                self.subscribe(stock, stream)

    def subscribe(self, stock: Stock, stream: str) -> None:
        super().subscribe(stock, stream)
        if stream == "smart_depth":
            for side in (0, 1, 0, 1, 0, 1):
                self.row(stock, 0, 0, side)

    def market(self) -> None:
        super().market()
        for stock in self.stocks:
            if "smart_depth" in stock.requests and self.chance.random() < 0.5:
                self.row(stock, self.chance.randint(0, 2), self.chance.choice((0, 1, 1, 1)), self.chance.choice((0, 1)))

    def row(self, stock: Stock, position: int, operation: int, side: int) -> None:
        cents = stock.cents + self.chance.randint(0, 5) * (-1 if side else 1) + (1 - side)
        self.add(
            Kind.DEPTH, msg=13, position=position, operation=operation, side=side, price=cents / 100,
            size=self.chance.choice(SIZES), market_maker="SMART", con_id=stock.con_id,
            req_id=stock.requests["smart_depth"],
        )  # fmt: skip

    def row_smart_depth(self, cents: int, key: dict[str, int]) -> None: ...


def fold(batch: Batch, marks: list[int], restored: int = 0) -> dict[str, list[dict[str, Any]]]:
    engine, tables = Engine(), {"decisions": [], "fills": [], "episodes": []}
    made = []
    for a, b in pairwise([0, *sorted({mark for mark in marks if mark < batch.last_seq}), batch.last_seq]):
        made.append(engine.fold(batch.slice(a + 1, b)).tables)
        if restored:
            saved, engine, restored = engine.snapshot(), Engine(), restored - 1
            engine.restore(saved)
    for part in (*made, engine.finish().tables):
        for name in tables.keys() & part.keys():
            tables[name] += part[name].to_pylist()
    return tables


@settings(max_examples=budget(6, 60), derandomize=True)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 400), max_size=6), st.integers(0, 3))
def test_no_cut_changes_a_fill(seed: int, marks: list[int], restored: int) -> None:
    """The day in one piece and the day in pieces, continued from snapshots: the same rows."""
    batch = Batch.of(DeepDay(seed).events).check()
    assert fold(batch, marks, restored) == fold(batch, [])


Level = tuple[float, float]


def shown_of(market: Any, con_id: int) -> tuple[list[Level], list[Level]]:
    """Bids and asks that orders see, best first, by the plain market: the quote, then the good SMART book behind it."""
    inst = market.instruments[con_id]
    bid, ask, *sizes = inst.quote
    used = inst.used.get("smart")
    book = used.book if used and used.book.good and used.book.against < CONTRADICTED_SECONDS else None
    sides = []
    for price, size, side in ((bid, sizes[0], 1), (ask, sizes[1], 0)):
        behind: dict[float, float] = {}
        for level, shares, _ in book.visible(side) if book and price is not None else ():
            if shares > 0 and (level < price if side else level > price):
                behind[level] = behind.get(level, 0.0) + shares
        sides.append([(price, size), *sorted(behind.items(), reverse=side == 1)])
    return sides[0], sides[1]


def states(batch: Batch) -> list[tuple[int, int, Any]]:
    """By event: seq, ts, and what each symbol shows after it."""
    market, found = Market(), []
    for kind, row in batch.events():
        market.on(str(kind), row)
        found.append((row["seq"], row["ts_recv"], {con_id: shown_of(market, con_id) for con_id in market.instruments}))
    return found


def test_the_laws_over_random_days() -> None:
    """No level gives more than it shows, none behind the quote goes before a better one, none is past a limit.

    What is shown is recomputed from the events by the plain market, after the event of the fill; at an arrival, after
    the last event up to its time before the clock that settles it.
    """
    behind = 0
    for seed in budget(range(14), range(80)):
        batch = Batch.of(DeepDay(seed).events).check()
        after = states(batch)
        clocks = [row["seq"] for kind, row in batch.events() if kind is Kind.CLOCK]
        walks: dict[Any, list[dict[str, Any]]] = {}
        for fill in fold(batch, [])["fills"]:
            key = fill["decision_seq"], fill["strategy"], fill["con_id"], fill["role"], fill["seq"], fill["ts"]
            walks.setdefault(key, []).append(fill)
        for (*_, con_id, _, seq, ts), fills in walks.items():
            settled = next(clock for clock in clocks if clock > seq)
            at_arrival = [one for one in after if one[0] < settled and one[1] <= ts][-1]
            for one in (after[seq - 1], at_arrival):
                if holds(fills, one[2][con_id][fills[0]["side"] == "BUY"]):
                    break
            else:
                raise AssertionError((seed, fills, after[seq - 1], at_arrival))
            behind += sum(fill["source"] == "book" for fill in fills)
    assert behind > 40


def holds(fills: list[dict[str, Any]], shown: list[Level]) -> bool:
    """Whether fills of one moment can have come from these levels."""
    prices = [fill["price"] for fill in fills if fill["source"] != "print" or fill["price"] in dict(shown)]
    sizes = dict(shown)
    booked = [fill for fill in fills if fill["source"] == "book"]
    if any(fill["price"] not in dict(shown[1:]) or fill["quantity"] > sizes[fill["price"]] for fill in booked):
        return False
    way = 1 if fills[0]["side"] == "BUY" else -1
    limits = [fill["reference_price"] for fill in booked if fill["reference"] == "limit_price"]
    past = any((fill["price"] - limit) * way > 0 for fill, limit in zip(booked, limits, strict=False))
    return prices == sorted(prices, key=lambda price: price * way) and not past
