"""Random small days for the simulated trading, from one seed: thin markets around the brackets of the plans.

Books of several levels, good, bad and emptied, one venue's among them, that show nothing or a few shares; quotes that
lock, cross, flicker and lose a side; absent numbers; prints at, in and beyond the quote that form the price or do not,
odd lots among them; sources that come and go; halts; silent streams; outages of the feed and of one symbol; gaps;
restarts, kills, other strategies, costs, latencies, answers, depths and triggers; clocks that are missing; sessions
that begin and end; and the plans of `trading_plans`.
"""

from __future__ import annotations

import random
from datetime import date
from typing import TYPE_CHECKING, Any

import msgspec

from harvester.calendar import ExchangeSession
from harvester.events.kinds import Kind
from harvester.projections.run_params import Calendar, RunParams, StrategyRef
from harvester.projections.trading import strategies
from harvester.projections.trading.costs import cost_table
from tests.reference.trading_plans import SECOND, PlanDraw

if TYPE_CHECKING:
    from collections.abc import Iterator


START = 1_752_760_800 * SECOND  # 2025-07-17 14:00:00 UTC
UNSET = 1.7976931348623157e308
ODD = (None, -1.0, 0.0, UNSET)
SIZES = (0.0, 1.0, 7.0, 30.0, 40.5, 100.0, 100.0, 500.0)
SMALL = (0.0, 1.0, 7.0, 7.0, 30.0, 30.0, 40.5, 100.0)  # orders look behind these
PRINTED = (0.5, 1.0, 10.0, 40.0, 99.5, 300.0)
LIVELY = (0.5, (1, 1, 1, 2, 2, 4, 9, 0, -1))  # how often a price moves, and the spread in cents
STILL = (0.02, (1, 1, -1))
LATENCIES = (0.0, 0.0, 100.0, 250.5, 1500.0, 3500.0)
ANSWERS = (0.0, 0.0, 0.0, 1.5, 1000.0, 2500.0)  # ms
PLAIN = ((), ("l1",), ("l1", "smart_depth"))  # streams beside quotes and prints
BOOKED = (("l1", "smart_depth"), ("smart_depth",), ("smart_depth", "depth"), ("depth",))
BOOKS = ("smart_depth", "smart_depth", "smart_depth", "depth")
ROWS = 5  # of a book's side
MARKET_SIDE = True  # halts, silences, renewals, ends of runs and price steps reach the trading side


class Stock:
    """A symbol: its price in cents, and its subscriptions."""

    def __init__(self, con_id: int, cents: int) -> None:
        self.con_id, self.cents = con_id, cents
        self.requests: dict[str, int] = {}
        self.rows: dict[tuple[str, int], int] = {}  # of (stream, side), when all rows of the book were possible


class TradingDay:
    """Draws a day second by second; `events` gives it in order, `plans` by strategy, clock and symbol."""

    BUSY: tuple[int, ...] = (2, 4, 9)  # most events a second
    DEEP = 0.5  # how many days have books of use

    def __init__(self, seed: int, seconds: int = 60) -> None:
        self.chance = chance = random.Random(seed)
        self.now, self.end = START, START + seconds * SECOND
        self.rows: list[tuple[Kind, dict[str, Any]]] = []
        self.epoch = self.req = 0
        self.trouble = chance.choice((0.0, 0.03, 0.15))  # a second
        self.stocks = [Stock(c, 1000) for c in chance.sample((7, 30, 11), chance.choice((1, 1, 2, 3)))]
        self.names = chance.choice((["drawn"], ["drawn"], ["drawn", "drawn_beside"]))
        self.deep = chance.random() < self.DEEP  # books are busy, and mostly of use
        self.busy = chance.choice(self.BUSY)
        self.restless, self.widths = chance.choice((LIVELY, LIVELY, STILL))
        self.flicker = chance.choice((0.0, 0.3))
        draws = {name: PlanDraw(chance, START, seconds, [s.con_id for s in self.stocks]) for name in self.names}
        self.plans = {name: (dict(draw.plans()), dict(draw.changes())) for name, draw in draws.items()}
        if chance.random() < 0.5:  # both strategies enter
            self.plans = dict.fromkeys(self.names, self.plans["drawn"])
        self.opens = START + chance.choice((-SECOND, -SECOND, -SECOND, 5 * SECOND))
        self.closes = START + chance.choice((seconds // 2, seconds * 3, seconds * 3)) * SECOND
        self.session = chance.random() < 0.97
        self.version, self.costs, self.config = 1, "none", {}
        self.other_terms()
        self.run_start()
        while self.now < self.end:
            self.second()
        for _ in range(chance.choice((0, 0, 3))):  # after the last clock
            self.now += chance.choice((1, SECOND // 10))
            self.market()

    # ---- rows ----------------------------------------------------------------------------------------------------

    def add(self, kind: Kind, **row: Any) -> None:
        self.rows.append((kind, {"ts_recv": self.now, "epoch": self.epoch, **row}))

    @property
    def events(self) -> list[tuple[Kind, dict[str, Any]]]:
        """(kind, row), numbered from seq 1."""
        return [(kind, row | {"seq": seq}) for seq, (kind, row) in enumerate(self.rows, 1)]

    def other_terms(self) -> None:
        chance = self.chance
        self.costs = chance.choice(("none", "ibkr_fixed", "ibkr_tiered"))
        self.config = {
            "latency_ms": chance.choice(LATENCIES), "participation": chance.choice((1.0, 1.0, 0.3)),
            "stop_trigger": chance.choice(("quote", "quote", "last")),
            "flat_before_close_seconds": chance.choice((0.0, 3.5, 9.0)),
            "fill_depth": chance.choice(("book", "book", "top") if self.deep else ("top",)),
            "answer_latency_ms": chance.choice(ANSWERS),
        }  # fmt: skip

    def run_start(self) -> None:
        self.epoch, self.req = 1, 0
        hours = ExchangeSession(self.opens, self.closes, self.opens, self.closes, half_day=False)
        session = hours if self.session else None
        params = RunParams(
            config=self.config,
            calendar=Calendar("XNYS", "America/New_York", "2025-07-17", START - SECOND, self.end + SECOND, session),
            costs=msgspec.to_builtins(cost_table(self.costs, trading_date=date(2025, 5, 2), monthly_shares=299_950)),
            strategies=tuple(self.refs()),
        )
        self.add(Kind.REQUEST, action="run_start", stream="run", params=params.text())
        self.connect()

    def refs(self) -> Iterator[StrategyRef]:
        for name in self.names:
            settings = msgspec.to_builtins(dict(zip(("plans", "changes"), self.plans[name], strict=True)))
            settings["version"] = self.version
            yield StrategyRef(name, strategies.digest(name, settings), settings)

    def connect(self) -> None:
        for stock in self.stocks:
            stock.requests = {}
            for stream in ("bid_ask", "all_last", *self.chance.choice(BOOKED if self.deep else PLAIN)):
                self.subscribe(stock, stream)

    def subscribe(self, stock: Stock, stream: str) -> None:
        self.req += 1
        stock.requests[stream] = self.req
        depth = f'{{"rows":{ROWS},"smart":{"true" if stream == "smart_depth" else "false"}}}'
        params = {"l1": '{"generic":"375"}', "smart_depth": depth, "depth": depth}.get(stream, "{}")
        ids = {"con_id": stock.con_id, "req_id": self.req, "symbol": f"S{stock.con_id}"}
        self.add(Kind.REQUEST, action="subscribe", stream=stream, params=params, **ids)
        stock.rows = {at: rows for at, rows in stock.rows.items() if at[0] != stream}
        if self.deep and "depth" in stream:
            self.fill_book(stock, stream)

    def fill_book(self, stock: Stock, stream: str) -> None:
        """Both sides of a book, several levels."""
        for side in (0, 1):
            for position in range(self.chance.randint(1, 4)):
                self.insert(stock, stream, side, position)

    def insert(self, stock: Stock, stream: str, side: int, position: int) -> None:
        stock.rows[stream, side] = min(stock.rows.get((stream, side), 0) + 1, ROWS)
        self.level(stock, stream, side, position, 0)

    def level(self, stock: Stock, stream: str, side: int, position: int, operation: int) -> None:
        """A row of a book: the price goes with the position, now and then it is another."""
        way, off = (1 if side == 0 else -1), position + self.chance.choice((0, 0, 0, 1, -1))
        self.add(
            Kind.DEPTH, msg=13, position=position, operation=operation, side=side, size=self.chance.choice(SIZES),
            price=(stock.cents + (side == 0) + way * off) / 100, market_maker=self.chance.choice(("SMART", "ARCA")),
            con_id=stock.con_id, req_id=stock.requests[stream],
        )  # fmt: skip

    def number(self, good: float) -> float | None:
        return self.chance.choice(ODD) if self.chance.random() < 0.01 else good

    # ---- one second after the other ------------------------------------------------------------------------------

    def second(self) -> None:
        end = self.now + SECOND
        for part in sorted(self.chance.randrange(1, SECOND) for _ in range(self.chance.randint(0, self.busy))):
            self.now = max(self.now, end - SECOND + part)
            self.market()
        if self.chance.random() < self.trouble:
            self.happen()
        self.now = end = max(end, -(-self.now // SECOND) * SECOND)
        if self.chance.random() < 0.95:
            if self.chance.random() < 0.1:
                self.market()  # on the second, before its clock
            self.add(Kind.CLOCK, wall_ns=self.now, mono_ns=0)
            if self.chance.random() < 0.1:
                self.market()  # … and behind it

    def market(self) -> None:
        stock = self.chance.choice(self.stocks)
        if not stock.requests:
            return
        stream = self.chance.choice(("bid_ask", "bid_ask", "bid_ask", "all_last", "l1", *BOOKS[: 1 + 3 * self.deep]))
        if stream not in stock.requests:
            return
        if self.chance.random() < self.restless:
            stock.cents += self.chance.choice((-2, -1, -1, 0, 1, 1, 2)) + (stock.cents < 995) - (stock.cents > 1005)
        if self.chance.random() < 0.04 * self.restless:
            stock.cents = self.chance.randint(985, 1015)  # a gap, through stop or target
        if self.deep and "depth" in stream and self.chance.random() < 0.98:
            self.calm_book(stock, stream)
            return
        key = {"con_id": stock.con_id, "req_id": stock.requests[stream]}
        getattr(self, f"row_{stream}")(stock.cents, key)

    def calm_book(self, stock: Stock, stream: str) -> None:
        """A few rows that are possible."""
        for _ in range(self.chance.choice((1, 1, 2, 4))):
            side = self.chance.choice((0, 1))
            rows = stock.rows.get((stream, side), 0)
            operation = self.chance.choice((0, 0, 1, 1, 1, 2)) if rows else 0
            if operation == 0:
                self.insert(stock, stream, side, self.chance.randint(0, min(rows, ROWS - 1)))
                continue
            position = self.chance.randrange(rows)
            self.level(stock, stream, side, position, operation)
            stock.rows[stream, side] -= operation == 2
            self.now += self.chance.choice((0, 0, 1, SECOND // 5))

    def sides(self, cents: int) -> tuple[float, float]:
        return cents / 100, (cents + self.chance.choice(self.widths)) / 100

    def row_bid_ask(self, cents: int, key: dict[str, int]) -> None:
        bid, ask = self.sides(cents)
        shown = SMALL if self.deep else SIZES
        sizes = self.chance.choice(shown), self.chance.choice(shown)
        self.quote(bid, ask, sizes, key)
        if self.chance.random() < self.flicker:
            for shift in (self.chance.choice((-0.01, 0.01)), 0):
                self.now += self.chance.choice((1, SECOND // 10, SECOND // 10, SECOND))
                self.quote(round(bid + shift, 2), round(ask + shift, 2), sizes, key)

    def quote(self, bid: float, ask: float, sizes: tuple[float, float], key: dict[str, int]) -> None:
        bid_size, ask_size = map(self.number, sizes)
        prices = {"bid": self.number(bid), "ask": self.number(ask)}
        self.add(Kind.QUOTE, stream=3, bid_size=bid_size, ask_size=ask_size, **prices, **key)

    def row_all_last(self, cents: int, key: dict[str, int]) -> None:
        past, unreported = self.chance.choice(((False, False),) * 4 + ((True, False), (False, True), (None, None)))
        self.add(
            Kind.TRADE, stream=2, price=self.number((cents + self.chance.randint(-4, 4)) / 100),
            size=self.number(self.chance.choice(PRINTED)), past_limit=past, unreported=unreported,
            conditions=self.chance.choice((None, None, " ", "@ I", "I", "@F")) if MARKET_SIDE else None, **key,
        )  # fmt: skip

    def row_l1(self, cents: int, key: dict[str, int]) -> None:
        bid, ask = self.sides(cents)
        field = self.chance.choice((1, 2, 1, 2, 0, 3, 77))
        if field == 77:
            text = f"{self.chance.choice((bid, ask))};{self.chance.choice(PRINTED)};1752760800000;100;10.0;true"
            self.add(Kind.TICK, msg=46, field=77, text=text, **key)
        elif field in (1, 2):
            price, size = bid if field == 1 else ask, self.number(self.chance.choice(SIZES))
            self.add(Kind.TICK, msg=1, field=field, price=self.number(price), size=size, **key)
        else:
            self.add(Kind.TICK, msg=2, field=field, size=self.number(self.chance.choice(SIZES)), **key)

    def row_smart_depth(self, cents: int, key: dict[str, int]) -> None:
        side = self.chance.choice((0, 1))
        self.add(
            Kind.DEPTH, msg=13, position=0, operation=self.chance.choice((0, 0, 1, 1, 2)), side=side,
            price=self.sides(cents)[1 - side], size=self.chance.choice(SIZES), market_maker="SMART", **key,
        )  # fmt: skip

    row_depth = row_smart_depth

    # ---- trouble -------------------------------------------------------------------------------------------------

    def happen(self) -> None:
        what = ["lost", "symbol_lost", "source", "source", "restart", "restart", "connection", "refused", "emptied"]
        what += ["halt", "halt", "silent", "renewed", "price_step"] if MARKET_SIDE else []
        getattr(self, f"on_{self.chance.choice(what)}")()

    def notice(self, code: int, con_id: int = 0, req_id: int = -1) -> None:
        self.add(Kind.NOTICE, msg=4 if code > 0 else None, code=code, text="", con_id=con_id, req_id=req_id)

    def on_lost(self) -> None:
        self.notice(self.chance.choice((1100, 1100, -7)))
        for _ in range(self.chance.choice((0, 2))):
            self.market()
        self.now += self.chance.choice((0, 1, 2 * SECOND + 1))
        if self.chance.random() < 0.7:
            self.notice(self.chance.choice((1102, -8)))
        self.refill()

    def refill(self) -> None:
        """Books that were emptied are sent again."""
        for stock in self.stocks:
            for stream in [stream for stream in stock.requests if "depth" in stream and self.deep]:
                stock.rows = {at: rows for at, rows in stock.rows.items() if at[0] != stream}
                self.notice(317, stock.con_id, stock.requests[stream])
                if self.chance.random() < 0.8:
                    self.fill_book(stock, stream)

    def on_symbol_lost(self) -> None:
        stock = self.chance.choice(self.stocks)
        self.notice(-7, stock.con_id)
        for _ in range(self.chance.choice((0, 1, 4))):
            self.market()
        if self.chance.random() < 0.7:
            self.notice(-8, stock.con_id)

    def on_source(self) -> None:
        """End a stream, or subscribe one."""
        stock = self.chance.choice(self.stocks)
        stream = self.chance.choice(("bid_ask", "bid_ask", "l1", "smart_depth", "all_last"))
        if stream in stock.requests:
            req = stock.requests.pop(stream)
            self.add(Kind.REQUEST, action="cancel", stream=stream, con_id=stock.con_id, req_id=req, params="{}")
        else:
            self.subscribe(stock, stream)

    def on_refused(self) -> None:
        stock = self.chance.choice(self.stocks)
        if stock.requests:
            stream = self.chance.choice(sorted(stock.requests))
            self.notice(354, stock.con_id, stock.requests.pop(stream))

    def on_connection(self) -> None:
        self.notice(-2)
        self.market()  # of the lost connection
        self.now += self.chance.choice((1, SECOND))
        self.epoch += 1
        self.notice(-1)
        self.connect()

    def on_restart(self) -> None:
        if MARKET_SIDE and self.chance.random() < 0.5:
            self.add(Kind.REQUEST, action="run_end", stream="run", params="{}")
        self.now += self.chance.choice((0, 1, 40 * SECOND // 10))
        self.version = self.chance.choice((self.version, self.version, 1, 2, 3))
        self.names = self.chance.choice((self.names, self.names, ["drawn"], list(self.plans)))
        if self.chance.random() < 0.5:
            self.other_terms()
        self.run_start()
        for _ in range(self.chance.choice((0, 2))):
            self.market()

    def on_halt(self) -> None:
        """Tick 49; mostly ended a few events later."""
        stock = self.chance.choice(self.stocks)
        if "l1" not in stock.requests:
            self.subscribe(stock, "l1")
        for value in (self.chance.choice((1.0, 2.0)), self.chance.choice((0.0, 0.0, -1.0, 2.0))):
            key = {"con_id": stock.con_id, "req_id": stock.requests["l1"]}
            self.add(Kind.TICK, msg=45, field=49, value=value, **key)
            for _ in range(self.chance.choice((0, 1, 3))):
                self.now += self.chance.choice((1, SECOND // 3))
                self.market()

    def on_silent(self) -> None:
        """A stream is found silent; nothing else follows from it."""
        stock = self.chance.choice(self.stocks)
        if stock.requests:
            self.notice(-4, stock.con_id, stock.requests[self.chance.choice(sorted(stock.requests))])

    def on_renewed(self) -> None:
        stock = self.chance.choice(self.stocks)
        if stock.requests:
            stream = self.chance.choice(sorted(stock.requests))
            ids = {"con_id": stock.con_id, "req_id": stock.requests[stream]}
            self.add(Kind.REQUEST, action="cancel", stream=stream, params='{"renewed":true}', **ids)
            self.now += self.chance.choice((0, 1, SECOND // 2))
            self.subscribe(stock, stream)

    def on_price_step(self) -> None:
        stock = self.chance.choice(self.stocks)
        self.add(Kind.CONTRACT, msg=10, con_id=stock.con_id, req_id=1, min_tick=self.chance.choice((0.01, 0.05, 0.005)))

    def on_emptied(self) -> None:
        """317: the book is empty."""
        stock = self.chance.choice(self.stocks)
        if self.deep:
            self.refill()
        elif "smart_depth" in stock.requests:
            self.notice(317, stock.con_id, stock.requests["smart_depth"])


class BookDay(TradingDay):
    """Busy books that orders walk again and again, with quotes that are not live for moments."""

    BUSY = (20, 40)
    DEEP = 1.0


class BreakoutDay(TradingDay):
    """A market in which the first strategy trades often, with loose settings."""

    BUSY = (9, 20)

    def refs(self) -> Iterator[StrategyRef]:
        chance = random.Random(f"{self.busy} {self.closes} {self.version}")  # of the version: the same again
        settings = {
            "lookback_seconds": 3, "momentum_seconds": 1, "momentum_bps_min": chance.choice((0.0, 5.0)),
            "imbalance_min": chance.choice((-1.0, 0.2)), "range_spreads_min": chance.choice((0.0, 1.0)),
            "spread_bps_max": 60.0, "open_wait_seconds": 3.0, "close_wait_seconds": 9.0,
            "cooldown_seconds": 1.0, "valid_seconds": 2.0,
            "hold_seconds_max": 6.0 * self.version, "risk_usd": chance.choice((0.5, 5.0, 100.0)),
            "target_ranges": 0.5,
        }  # fmt: skip
        yield StrategyRef(**strategies.describe("imbalance_breakout", settings))
