"""Random days for candles and signals, from one seed: prices with a trend, and everything that spoils candles.

Symbols whose backfilled bars mostly have the direction of their price, so that signals are common; spreads around the
limit; numbers that are missing for about a tenth of some timeframe; clocks that are late, seldom or gone for a minute;
bars around their end, corrected, invalid; feeds that change; runs that restart with another calendar.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from typing import Any, NamedTuple

import msgspec

from harvester.calendar import ExchangeSession
from harvester.config import Settings
from harvester.events.kinds import Kind
from harvester.projections.run_params import Calendar, RunParams, calendar_of

SECOND = 1_000_000_000
MINUTE, HOUR = 60 * SECOND, 3600 * SECOND
QUARTER_STARTS = (0, 0, 0, 3, 4, 30, 31, 90, 90, 91, 91)  # seconds missed: a tenth of a timeframe, and one more
HOUR_STARTS = (0, 0, 360, 361)
DARK = (1, 3, 4, 4, 6, 6, 7, 30, 31, 90, 91)  # seconds without a quote
SPREADS = ("tight", "tight", "tight", "limit", "over", "crossed")
UNSET = 1.7976931348623157e308


class Begin(NamedTuple):
    """A trading date, and a quarter of an hour on it (ns UTC) at or behind which the recording begins."""

    day: date
    ts: int


@dataclass
class Stock:
    con_id: int
    way: int  # direction of most of its bars, and of its price at first
    price: float = 50.0
    slope: float = 0.0  # a second
    noise: float = 0.0
    spread: str = "tight"
    dark_until: int = 0  # no quotes before, ns UTC
    requests: dict[str, int] = field(default_factory=dict)  # stream → request id
    bars: list[dict[str, Any]] = field(default_factory=list)


@cache
def calendar(day: date) -> Calendar:
    return calendar_of(day, Settings())


class RandomDay:
    """Draws a day second by second; `events` gives it in order.

    With `seconds` the day has that length, is calm, misses nothing at its beginning, and has the exchange's session.
    """

    def __init__(self, seed: int, begin: Begin, seconds: int = 0) -> None:
        self.chance = random.Random(seed)
        self.day, self.calendar = begin.day, calendar(begin.day)
        self.calm = 0.03 if seconds else self.chance.choice((0.1, 0.4, 1.0))  # how often things happen
        self.now, self.end = (begin.ts, begin.ts + seconds * SECOND) if seconds else self.span(begin.ts)
        self.rows: list[tuple[int, int, Kind, dict[str, Any]]] = []  # ts, order among equal ts
        self.epoch = self.req = 0
        self.deaf_until = 0  # no clock before, ns UTC
        self.clock_every, self.clock_late = 1, 0
        self.stocks = [
            Stock(con_id, self.chance.choice((1, -1)), self.chance.choice((20.0, 50.0, 430.0)))
            for con_id in self.chance.sample((30, 7, 11), self.chance.choice((1, 1, 2, 3)))
        ]
        for stock in self.stocks:
            stock.slope = stock.way * stock.price * 1e-4
            stock.spread = self.chance.choice(SPREADS)
        if not seconds and self.chance.random() < 0.7:
            self.calendar = msgspec.structs.replace(self.calendar, session=self.own_session())
        self.run_start()
        while self.now < self.end:
            self.second()

    def span(self, ts: int) -> tuple[int, int]:
        """First and last second: around a quarter of an hour that begins at `ts`, or around the whole hour."""
        missed, seconds = self.chance.choice(QUARTER_STARTS), self.chance.choice((1000, 1150, 1300, 1300, 2000))
        if self.chance.random() < 0.15:
            ts, missed, seconds = ts - ts % HOUR, self.chance.choice(HOUR_STARTS), 4000
        return ts + missed * SECOND, ts + seconds * SECOND

    def own_session(self) -> ExchangeSession:
        """A short session, like the long one of a product that trades around the clock."""
        opens = self.now - self.now % (5 * MINUTE) + self.chance.choice((0, 0, 300)) * SECOND
        closes = opens + self.chance.choice((600, 900, 900, 1800)) * SECOND
        return ExchangeSession(opens, closes, opens, closes, half_day=False)

    # ---- rows ----------------------------------------------------------------------------------------------------

    def add(self, kind: Kind, ts: int, order: int = 0, **row: Any) -> None:
        self.rows.append((ts, order, kind, {"ts_recv": ts, "epoch": self.epoch, **row}))

    def events(self) -> list[tuple[Kind, dict[str, Any]]]:
        """(kind, row), numbered from seq 1."""
        self.rows.sort(key=lambda row: row[:2])
        for seq, (_, _, _, row) in enumerate(self.rows, 1):
            row["seq"] = seq
        return [(kind, row) for _, _, kind, row in self.rows]

    def run_start(self) -> None:
        self.epoch, self.req = 1, 0
        params = RunParams(calendar=self.calendar).text()
        self.add(Kind.REQUEST, self.now, -2, action="run_start", stream="run", params=params)
        self.connect()
        for stock in self.stocks:
            if self.chance.random() < 0.9:
                self.backfill(stock)

    def connect(self) -> None:
        for stock in self.stocks:
            stock.requests = {}
            for stream in ("l1", "bid_ask"):
                self.subscribe(stock, stream)
            self.quote(stock, self.now)

    def subscribe(self, stock: Stock, stream: str) -> None:
        self.req += 1
        stock.requests[stream] = self.req
        ids = {"con_id": stock.con_id, "req_id": self.req, "symbol": f"S{stock.con_id}"}
        self.add(Kind.REQUEST, self.now, -1, action="subscribe", stream=stream, params="{}", **ids)

    # ---- one second after the other ------------------------------------------------------------------------------

    def second(self) -> None:
        for stock in self.stocks:
            self.move(stock)
        if self.chance.random() < 0.004 * self.calm:
            self.trouble()
        self.late_bars()
        self.now += SECOND
        self.clock()

    def move(self, stock: Stock) -> None:
        chance = self.chance
        if chance.random() < 0.005 * self.calm:
            getattr(self, chance.choice(("another_way", "another_spread", "go_dark", "go_dark", "go_quiet")))(stock)
        stock.price = max(1.0, stock.price + stock.slope + stock.noise * chance.uniform(-1, 1))
        often = 1.0 if stock.spread == "limit" else 0.2
        if self.now >= stock.dark_until and (chance.random() < often or self.now == stock.dark_until):
            self.quote(stock, self.now + chance.choice((0, 1, SECOND // 2, SECOND - 1)))

    def another_way(self, stock: Stock) -> None:
        stock.slope = stock.price * self.chance.choice((1e-4, 1e-4, 2e-5, 0.0, -1e-4)) * stock.way
        stock.noise = stock.price * self.chance.choice((0.0, 0.0, 1e-5, 2e-4))

    def another_spread(self, stock: Stock) -> None:
        stock.spread = self.chance.choice(SPREADS)

    def go_dark(self, stock: Stock) -> None:
        stock.dark_until = self.now + self.chance.choice(DARK) * SECOND
        self.no_quote(stock)

    def go_quiet(self, stock: Stock) -> None:
        """No quotes, so that the last one stays."""
        stock.dark_until = self.now + self.chance.choice((35, 65)) * SECOND

    def clock(self) -> None:
        chance = self.chance
        if chance.random() < 0.003 * self.calm:
            self.clock_every = chance.choice((1, 1, 2, 5, 13))
            self.clock_late = chance.choice((0, 0, 1, SECOND // 5))
        if chance.random() < 0.0015 * self.calm:
            ended = self.now - self.now % MINUTE + MINUTE
            self.deaf_until = ended + chance.choice((0, 5 * SECOND, MINUTE - 1, MINUTE, MINUTE + 1, 3 * MINUTE))
        if self.now < self.deaf_until:
            return
        if self.deaf_until:
            self.tell_time(self.deaf_until)
            self.deaf_until = 0
        if self.now // SECOND % self.clock_every == 0:
            self.tell_time(self.now + self.clock_late)

    def tell_time(self, ts: int) -> None:
        self.add(Kind.CLOCK, ts, self.chance.choice((-1, 1)), wall_ns=ts, mono_ns=0)

    # ---- quotes --------------------------------------------------------------------------------------------------

    def quote(self, stock: Stock, ts: int) -> None:
        bid, ask = self.sides(stock)
        if "bid_ask" in stock.requests:
            self.bid_ask(stock, ts, bid, ask)
        if "l1" in stock.requests and ("bid_ask" not in stock.requests or self.chance.random() < 0.1):
            for tick, price in ((1, bid), (2, ask)):
                ids = {"con_id": stock.con_id, "req_id": stock.requests["l1"]}
                self.add(Kind.TICK, ts, msg=1, field=tick, price=price, size=100.0, **ids)

    def bid_ask(self, stock: Stock, ts: int, bid: float | None, ask: float | None) -> None:
        ids = {"con_id": stock.con_id, "req_id": stock.requests["bid_ask"]}
        self.add(Kind.QUOTE, ts, stream=3, bid=bid, ask=ask, bid_size=100.0, ask_size=100.0, **ids)

    def no_quote(self, stock: Stock) -> None:
        """Remove one side of the quote, on the feed in force."""
        if "bid_ask" in stock.requests:
            self.bid_ask(stock, self.now, *self.chance.choice(((None, stock.price), (stock.price, -1.0), (0.0, 0.0))))
        elif "l1" in stock.requests:
            ids = {"con_id": stock.con_id, "req_id": stock.requests["l1"]}
            self.add(Kind.TICK, self.now, msg=1, field=1, price=-1.0, size=0.0, **ids)

    def sides(self, stock: Stock) -> tuple[float, float]:
        """Bid and ask in cents, or with a spread of 12 bps of the mid, or a little more, in binary fractions.

        At the limit the last bit of the ask is one too many in one second and one too few in the next: no spread of a
        second is 12 bps exactly, but then their average is. Now and then there are more bits, or fewer.
        """
        cents = round(stock.price, 2)
        if stock.spread == "tight":
            return cents, round(cents + self.chance.choice((0.01, 0.01, 0.02)), 2)
        if stock.spread == "crossed":
            return cents, round(cents - 0.01, 2)
        step = round(stock.price / 625 * 2**18) / 2**18  # 625 of these are the mid, 3/4 of one 12 bps of it
        if stock.spread == "over":
            return (625 - 0.376) * step, (625 + 0.376) * step
        bits = 1 if self.now // SECOND % 2 else -1
        if self.chance.random() < 0.02:
            bits += self.chance.choice((-3, 3))
        return (625 - 0.375) * step, (625 + 0.375) * step + bits * math.ulp(stock.price)

    # ---- bars ----------------------------------------------------------------------------------------------------

    def backfill(self, stock: Stock) -> None:
        ts = self.now + self.chance.choice((0, 1, SECOND // 3))
        for ago in (3, 2, 1, 0):
            start = (self.now // HOUR - ago) * HOUR + self.chance.choice((0, 0, 0, HOUR // 2))
            self.bar(stock, ts, "1 hour", start)
        dates = [day.date for day in calendar(self.day).before[-3:]] + [self.calendar.trading_date]
        for text in [*dates, *self.chance.sample(("2025-07-19", "2031-01-02", "soon", None), 1)]:
            self.bar(stock, ts, "1 day", text and text.replace("-", ""))

    def bar(self, stock: Stock, ts: int, size: str | None, time: int | str | None) -> None:
        chance = self.chance
        way = stock.way if chance.random() < 0.9 else chance.choice((1, -1, 0))
        prices: list[float | None] = [stock.price, stock.price + way]
        if chance.random() < 0.06:
            prices[chance.choice((0, 1))] = chance.choice((None, UNSET, -1.0, 0.0))
        what = "TRADES" if chance.random() < 0.93 else chance.choice(("MIDPOINT", "BID", None))
        size = size if chance.random() < 0.95 else chance.choice(("30 mins", "2 hours", "1 week", None))
        row: dict[str, Any] = {"bar_size": size, "what": what, "open": prices[0], "close": prices[1], "msg": 17}
        if isinstance(time, int):
            row |= {"time": str(time // SECOND), "ts_event": time if chance.random() < 0.97 else None}
        else:
            row |= {"time": time}
        stock.bars.append(row)
        self.add(Kind.BAR, ts, chance.choice((-1, 0, 1)), con_id=stock.con_id, req_id=90, **row)

    def late_bars(self) -> None:
        """Bars around their end, and some again with other prices."""
        session = self.calendar.session
        if self.now % HOUR == 0:
            self.around("1 hour", self.now - HOUR)
        if session and self.now == session.close_ns:
            self.around("1 day", self.calendar.trading_date.replace("-", ""))
        stock = self.chance.choice(self.stocks)
        if stock.bars and self.chance.random() < 0.002:
            old = self.chance.choice(stock.bars)
            self.bar(stock, self.now, old["bar_size"], old.get("ts_event") or old["time"])

    def around(self, size: str, time: int | str) -> None:
        for stock in self.stocks:
            for late in self.chance.choice(((), (), (-1,), (-1, 0), (0,), (1,), (SECOND, 3 * SECOND))):
                self.bar(stock, self.now + late, size, time)

    # ---- trouble -------------------------------------------------------------------------------------------------

    def trouble(self) -> None:
        what = self.chance.choice(("source", "source", "lost", "disconnected", "gap", "restart", "restart"))
        getattr(self, f"trouble_{what}")()

    def trouble_source(self) -> None:
        """End one of a symbol's feeds, or subscribe it again."""
        stock = self.chance.choice(self.stocks)
        stream = self.chance.choice(("bid_ask", "bid_ask", "l1"))
        if stream in stock.requests:
            ids = {"con_id": stock.con_id, "req_id": stock.requests.pop(stream)}
            self.add(Kind.REQUEST, self.now, action="cancel", stream=stream, params="{}", **ids)
        else:
            self.subscribe(stock, stream)
        if stock.requests and self.chance.random() < 0.7:
            self.quote(stock, self.now)

    def trouble_lost(self) -> None:
        self.add(Kind.NOTICE, self.now, msg=4, code=1100, text="")

    def trouble_disconnected(self) -> None:
        self.add(Kind.NOTICE, self.now, code=-2, text="")
        self.now += self.chance.choice((1, 3, 40)) * SECOND
        self.epoch += 1
        self.connect()

    def trouble_gap(self) -> None:
        """A gap without any event, not even a clock."""
        self.now += self.chance.choice((25, 95, 240)) * SECOND

    def trouble_restart(self) -> None:
        chance = self.chance
        if chance.random() < 0.5:
            self.add(Kind.REQUEST, self.now, 2, action="run_end", stream="run", params="{}")
        self.now += chance.choice((1, 1, 20, 150)) * SECOND
        hours, before = self.calendar.session, self.calendar.before
        if hours is None:
            hours = chance.choice((None, calendar(self.day).session))
        elif chance.random() < 0.5:
            hours = chance.choice((None, self.other(hours), self.other(hours)))
        if chance.random() < 0.3:
            before = before[:-1]
        self.calendar = msgspec.structs.replace(self.calendar, session=hours, before=before)
        self.run_start()

    def other(self, hours: ExchangeSession) -> ExchangeSession:
        """The session with another close, and sometimes another open."""
        closes = hours.close_ns + self.chance.choice((-330, -60, 60, 330)) * SECOND
        opens = hours.open_ns - self.chance.choice((0, 0, 0, 60)) * SECOND
        return msgspec.structs.replace(hours, open_ns=opens, close_ns=closes)
