"""Simulated trading in plain Python, one event at a time: an order is a small record, a trade a list of fills.

It shares no code with `harvester.projections`: it reads the day's events, takes the quote in force and the prints from
the plain market of `market`, and applies every one to every position. Nothing is skipped, looked up ahead or stored in
columns. Money is float with nine decimals, as specified, so results compare as numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.reference.market import MARKET_STREAMS, SECOND, Market, total

LOST, BACK = (1100, -2), (1101, 1102, -1)  # of the whole feed, from IB and the connection
BEGINS, ENDS = -7, -8  # Harvester's own notices of an outage, of the whole feed or of one symbol
SERIES = ("ts", "mark", "bid", "ask", "mid", "spread", "imbalance", "tape_buy", "tape_sell", "volatility_proxy")
MINUTE = 60 * SECOND


def money(number):
    return round(number, 9)


@dataclass
class Order:
    """An order; `limit` None is a market order, and so is a stop once `triggered`."""

    buy: bool
    quantity: int
    after: int  # seq
    not_before: int  # ns UTC
    reference: str
    reference_price: float | None
    limit: float | None = None
    stop: float | None = None
    expires: int | None = None  # ns UTC, exclusive
    triggered: bool = False
    resting: bool = False
    filled: int = 0
    value: float = 0.0
    charged: float = 0.0

    @property
    def left(self):
        return self.quantity - self.filled


@dataclass
class Side:
    """One side of the quote in force: price, size shown, and the size we have taken at that price."""

    price: float | None = None
    size: float = 0.0
    taken: int = 0

    def show(self, price, size):
        if price != self.price:
            self.taken = 0
        self.price, self.size = price, size or 0.0

    @property
    def left(self):
        return max(0, int(self.size - self.taken))


@dataclass
class Quote:
    """The quote in force for trading: an unknown or crossed one is not good, and does not change the sides."""

    good: bool = False
    bid: Side = field(default_factory=Side)
    ask: Side = field(default_factory=Side)

    def show(self, bid, ask, bid_size, ask_size, good):
        self.good = good
        if good:
            self.bid.show(bid, bid_size)
            self.ask.show(ask, ask_size)

    def against(self, *, buy):
        return self.ask if buy else self.bid


@dataclass
class Seen:
    """The current observation: a quote (`price` None) or a print; `size` is what our orders may still take."""

    seq: int
    ts: int
    price: float | None = None
    size: float = 0.0
    forms: bool = False


@dataclass
class Trade:
    """A decision with its orders, fills and results."""

    con_id: int
    symbol: str
    strategy: str
    digest: str
    seq: int
    ts: int
    plan: Any
    costs: dict[str, Any]
    entry: Order | None
    before: list[dict[str, Any]]  # the symbol's closed buckets at the decision
    stop: Order | None = None
    target: Order | None = None
    exit: Order | None = None
    reason: str = ""
    fills: list[dict[str, Any]] = field(default_factory=list)
    worst: tuple[float, int | None] = (0.0, None)  # USD, ns UTC
    best: tuple[float, int | None] = (0.0, None)
    asked: float | None = None  # quote in force at the decision

    def sum(self, roles, of=lambda fill: fill["quantity"]):
        return total(of(fill) for fill in self.fills if fill["role"] in roles)

    @property
    def bought(self):
        """Shares of the entry, long or short."""
        return int(self.sum(("entry",)))

    @property
    def open(self):
        return self.bought - int(self.sum(("stop", "target", "exit")))

    @property
    def flat(self):
        return self.bought > 0 and self.open == 0

    def profit(self, price):
        """USD before commission, with the open quantity at `price`."""
        sign = 1 if self.plan.long else -1
        paid = self.sum(("entry",), lambda fill: fill["price"] * fill["quantity"])
        got = self.sum(("stop", "target", "exit"), lambda fill: fill["price"] * fill["quantity"])
        return money(sign * (got + self.open * price - paid))


class Exchange:
    """Match one order against one observation."""

    def __init__(self, quote, seen, costs):
        self.quote, self.seen, self.costs = quote, seen, costs

    def match(self, order):
        """(price, shares, quote or print), or None."""
        seen, quote = self.seen, self.quote
        if not quote.good or seen.seq <= order.after or seen.ts < order.not_before or not order.left:
            return None
        if order.expires is not None and seen.ts >= order.expires:
            return None
        against = quote.against(buy=order.buy)
        source = "quote" if seen.price is None else "print"
        if order.limit is not None:
            return self.match_limit(order, against, source)
        if order.stop is not None and not order.triggered:
            prices = [against.price] + ([seen.price] if seen.forms else [])
            order.triggered = any(p >= order.stop if order.buy else p <= order.stop for p in prices)
            if not order.triggered:
                return None
        shares = min(order.left, against.left)
        against.taken += shares
        return (against.price, shares, source) if shares else None

    def match_limit(self, order, against, source):
        def beyond(a, b):
            return a < b if order.buy else a > b

        arrives, order.resting = not order.resting, True
        if beyond(against.price, order.limit) or against.price == order.limit:
            shares = min(order.left, against.left)
            against.taken += shares
            price = against.price if arrives else order.limit
            return (price, shares, source) if shares else None
        if self.seen.forms and not arrives and beyond(self.seen.price, order.limit):
            shares = min(order.left, int(self.seen.size))
            self.seen.size -= shares
            return (order.limit, shares, source) if shares else None
        return None

    def fill(self, order, role):
        matched = self.match(order)
        if matched is None:
            return None
        price, shares, source = matched
        order.filled += shares
        order.value += price * shares
        charge = commission(self.costs, order.filled, order.value)
        fill = {
            "seq": self.seen.seq, "ts": self.seen.ts, "role": role, "side": "BUY" if order.buy else "SELL",
            "price": price, "quantity": shares, "source": source, "reference": order.reference,
            "reference_price": order.reference_price, "slippage": None, "commission": money(charge - order.charged),
        }  # fmt: skip
        if order.reference_price is not None:
            worse = price - order.reference_price
            fill["slippage"] = money(worse if order.buy else -worse)
        order.charged = charge
        return fill


def commission(table, shares, value):
    """USD for a whole order; nothing until it has filled."""
    if not shares:
        return 0.0
    return min(max(shares * table["per_share"], table["minimum"]), table["maximum_fraction"] * value)


class Trading:
    """Feed it a day with `on`, then `finish`; read `fills`, `decisions` and `episodes`, rows by column.

    `strategies` creates them by name from their settings. They observe closed buckets, return gates and a plan, are
    called when a trade is over, and give the time before the session's close from which they hold no position.
    """

    def __init__(self, strategies):
        self.strategies = strategies
        self.seats = {}  # (name, digest) → strategy
        self.market = Market()
        self.quotes = {}
        self.terms = None
        self.trades = []  # open trades, oldest first
        self.fills, self.decisions, self.episodes = [], [], []
        self.counts = {}
        self.read = [0, 0, 0]  # counts of the market's quotes, prints and buckets already processed
        self.buckets = []  # closed ones, as strategies see them
        self.depth_ts = {}  # start of the last second with a depth row
        self.gates = {}  # (clock's seq, con_id, strategy) → gates
        self.ended = []  # trades whose last second is not closed yet, with their episodes so far
        self.dark = False  # the whole feed is gone
        self.outages = set()  # con_ids whose feed is gone, 0 = all
        self.waiting = []  # observations since the last clock, in order
        self.last = (0, 0)

    # ---- events --------------------------------------------------------------------------------------------------

    def on(self, kind, row):
        self.market.on(kind, row)
        seq, ts = self.last = row["seq"], row["ts_recv"]
        if kind == "request" and row["action"] == "run_start":
            self.waiting.append((self.run_start, (seq, ts, json.loads(row["params"]))))
        if kind == "request" and row["action"] == "subscribe" and row["stream"] in MARKET_STREAMS:
            self.waiting.append((self.outage, (BACK[0], 0)))
        if kind == "notice":
            self.waiting.append((self.outage, (row["code"], row["con_id"])))
        self.waiting += [(self.see_quote, change) for change in self.news(0, self.market.quotes)]
        self.waiting += [(self.see_print, made) for made in self.news(1, self.market.prints)]
        if kind == "clock":
            waiting, self.waiting = self.waiting, []
            for happen, what in waiting:
                happen(*what)
            self.clock(seq, ts, self.news(2, self.market.rows))

    def news(self, which, rows):
        new = rows[self.read[which] :]
        self.read[which] = len(rows)
        return new

    def outage(self, code, con_id):
        """Mark the quote unknown until its next change; a feed outage counts once until the feed is back."""
        if code == BEGINS and con_id:
            self.lose(con_id)
            self.outages.add(con_id)
        elif code == ENDS and con_id:
            self.outages.discard(con_id)
        elif code in (*LOST, BEGINS) and not self.dark:
            self.lose(0)
            self.outages.add(0)
            self.dark = True
        elif code in (*BACK, ENDS):
            self.outages.discard(0)
            self.dark = False

    def finish(self):
        """End the date; observations after the last clock are ignored."""
        seq, ts = self.last
        for happen, what in self.waiting:
            if happen == self.run_start:
                happen(*what)
        for trade in list(self.trades):
            if trade.bought:
                side = self.quote(trade.con_id).against(buy=not trade.plan.long)
                trade.reason = "DATA_END"
                self.over(trade, seq, ts, side.price)
            else:
                self.unfilled(trade, "DATA_END", seq, ts)
        self.hand_out(seq, ts + SECOND)

    # ---- what happens --------------------------------------------------------------------------------------------

    def quote(self, con_id):
        return self.quotes.setdefault(con_id, Quote())

    def lose(self, con_id):
        for known, quote in self.quotes.items():
            if con_id in (0, known):
                quote.good = False

    def see_quote(self, seq, ts, con_id, *shown):
        self.quote(con_id).show(*shown)
        self.see(con_id, Seen(seq, ts))

    def see_print(self, seq, ts, con_id, *printed):
        self.see(con_id, Seen(seq, ts, *printed))

    def see(self, con_id, seen):
        for trade in [trade for trade in self.trades if trade.con_id == con_id]:
            self.step(trade, seen)
            if trade.flat:
                last = trade.fills[-1]
                self.over(trade, last["seq"], last["ts"], None)

    def step(self, trade, seen):
        """The entry first, then the stop before the target."""
        quote = self.quote(trade.con_id)
        exchange = Exchange(quote, seen, trade.costs)
        if trade.entry and (fill := exchange.fill(trade.entry, "entry")):
            self.fill(trade, fill)
            self.lay_bracket(trade, fill)
        if trade.exit:
            if fill := exchange.fill(trade.exit, "exit"):
                self.fill(trade, fill)
        elif trade.stop:
            stopped = exchange.fill(trade.stop, "stop")
            if trade.stop.triggered:
                trade.reason, trade.entry, trade.target = "STOP", None, None
            if stopped:
                self.fill(trade, stopped)
            if trade.target and (fill := exchange.fill(trade.target, "target")):
                self.fill(trade, fill)
                trade.stop.quantity = trade.bought - int(trade.sum(("target",)))
                if trade.flat:
                    trade.reason = "TARGET"
        if trade.bought and quote.good:
            self.look(trade, quote.against(buy=not trade.plan.long).price, seen.ts)

    def look(self, trade, price, ts):
        profit = trade.profit(price)
        if profit < trade.worst[0]:
            trade.worst = (profit, ts)
        if profit > trade.best[0]:
            trade.best = (profit, ts)

    def lay_bracket(self, trade, fill):
        """Stop and target for the whole position, from the next event on."""
        plan = trade.plan
        if trade.stop is None:
            terms = {"buy": not plan.long, "quantity": 0, "after": fill["seq"], "not_before": 0}
            trade.stop = Order(**terms, reference="stop_price", reference_price=plan.stop, stop=plan.stop)
            trade.target = Order(
                **terms, reference="limit_price", reference_price=plan.target, limit=plan.target, resting=True
            )
        trade.stop.quantity = trade.bought - int(trade.sum(("target",)))
        trade.target.quantity = trade.bought

    def fill(self, trade, fill):
        trade.fills.append(fill)
        who = {
            "con_id": trade.con_id, "symbol": trade.symbol, "strategy": trade.strategy,
            "strategy_digest": trade.digest, "decision_seq": trade.seq,
        }  # fmt: skip
        self.fills.append(fill | who)

    # ---- runs and clocks -----------------------------------------------------------------------------------------

    def run_start(self, seq, ts, params):
        """Start a run: the feed counts as interrupted since the previous run, until a subscription."""
        self.dark = self.terms is not None
        self.lose(0)
        self.outages = set()
        self.terms = params
        refs = {(ref["name"], ref["digest"]): ref["settings"] for ref in params["strategies"]}
        for trade in list(self.trades):
            if (trade.strategy, trade.digest) not in refs:
                self.leave(trade, "RUN_CHANGE", seq, ts)
        fresh = {who: self.strategies[who[0]](given) for who, given in refs.items() if who not in self.seats}
        self.seats = {who: (self.seats | fresh)[who] for who in refs}

    def clock(self, seq, ts, closed):
        for trade in list(self.trades):
            self.look_at_the_time(trade, seq, ts)
        closed = [self.judged(row) for row in closed]
        self.buckets += closed
        for strategy in self.seats.values():
            for bucket in closed:
                strategy.observe(bucket)
        newest = {bucket["con_id"]: bucket for bucket in closed}  # in the order of the symbols' first buckets
        for bucket in newest.values():
            for who in self.seats:
                self.ask(who, bucket, seq, ts)
        self.hand_out(seq, ts)

    def judged(self, bucket):
        """Distinguish a bad book from none: without a depth row for a minute `book_good` is None."""
        con_id = bucket["con_id"]
        if bucket["depth_count"]:
            self.depth_ts[con_id] = bucket["ts"]
        elif not bucket["book_good"] and bucket["ts"] - self.depth_ts.get(con_id, -MINUTE) >= MINUTE:
            return bucket | {"book_good": None}
        return bucket

    def look_at_the_time(self, trade, seq, ts):
        if trade.entry and ts >= trade.entry.expires:
            trade.entry = None
            if not trade.bought:
                self.unfilled(trade, "EXPIRED", seq, ts)
        if not trade.bought:
            return
        session = self.terms["calendar"]["session"]
        flat_before = [seat.flat_before for (name, _), seat in self.seats.items() if name == trade.strategy]
        if flat_before and ts >= session["close_ns"] - flat_before[0]:
            self.leave(trade, "SESSION_END", seq, ts)
        elif ts >= trade.fills[0]["ts"] + int(trade.plan.hold_seconds_max * SECOND):
            self.leave(trade, "TIME_STOP", seq, ts)

    def leave(self, trade, reason, seq, ts):
        """Exit at the market instead of by the bracket, unless an exit already works."""
        trade.entry = None
        if not trade.bought:
            self.unfilled(trade, reason, seq, ts)
        elif not trade.exit and not (trade.stop and trade.stop.triggered):
            trade.reason = reason
            buy = not trade.plan.long
            price = self.price(trade.con_id, buy=buy)
            trade.exit = Order(buy, trade.open, seq, ts + self.latency, "quote_at_decision", price)
            self.decided(trade, "exit", reason, seq, ts, buy=buy, quantity=trade.open, price=price)

    @property
    def latency(self):
        return round(self.terms["config"].get("latency_ms", 0) * 1_000_000)

    def price(self, con_id, *, buy):
        quote = self.quote(con_id)
        return quote.against(buy=buy).price if quote.good else None

    def ask(self, who, bucket, seq, ts):
        (name, digest), con_id, symbol = who, bucket["con_id"], bucket["symbol"]
        view = {
            "seq": seq, "ts": ts, "bucket": bucket, "quote": self.quote(con_id),
            "session": self.terms["calendar"]["session"], "outage": bool({0, con_id} & self.outages),
            "holding": any((t.con_id, t.strategy) == (con_id, name) for t in self.trades),
        }  # fmt: skip
        gates, plan = self.seats[who].decide(view)
        self.gates[seq, con_id, name] = gates
        if plan is None:
            self.decisions.append({
                "seq": seq, "ts": ts, "con_id": con_id, "symbol": symbol, "strategy": name, "strategy_digest": digest,
                "action": "none", "gate_codes": "|".join(gates), "bucket_ts": self.newest(con_id),
            })  # fmt: skip
            return
        price, arrives = self.price(con_id, buy=plan.long), ts + self.latency
        entry = Order(
            plan.long, plan.quantity, seq, arrives, "quote_at_decision", price,
            expires=arrives + int(plan.valid_seconds * SECOND),
        )  # fmt: skip
        before = [bucket for bucket in self.buckets if bucket["con_id"] == con_id]
        costs = self.terms["costs"] or {"per_share": 0, "minimum": 0, "maximum_fraction": 0}
        trade = Trade(con_id, symbol, name, digest, seq, ts, plan, costs, entry, before)
        trade.asked = price
        self.trades.append(trade)
        self.decided(trade, "enter", plan.reason, seq, ts, buy=plan.long, quantity=plan.quantity, price=price)

    def newest(self, con_id):
        """Start of the newest closed bucket of a symbol."""
        return max((bucket["ts"] for bucket in self.buckets if bucket["con_id"] == con_id), default=None)

    def unfilled(self, trade, reason, seq, ts):
        self.trades.remove(trade)
        plan = trade.plan
        self.decided(trade, "unfilled", reason, seq, ts, buy=plan.long, quantity=plan.quantity, price=trade.asked)
        self.tell(trade, ts)

    def tell(self, trade, ts):
        """Notify the strategy of the decision that its trade is over, if it still runs."""
        if seat := self.seats.get((trade.strategy, trade.digest)):
            seat.finished(trade.con_id, ts)

    def decided(self, trade, action, reason, seq, ts, *, buy, quantity, price):
        self.decisions.append({
            "seq": seq, "ts": ts, "con_id": trade.con_id, "symbol": trade.symbol, "strategy": trade.strategy,
            "strategy_digest": trade.digest, "action": action, "gate_codes": "", "reason": reason,
            "decision_seq": trade.seq, "bucket_ts": self.newest(trade.con_id),
            "side": "BUY" if buy else "SELL", "quantity": quantity, "reference_price": price,
            "stop": trade.plan.stop, "target": trade.plan.target, "features": trade.plan.features,
        })  # fmt: skip

    # ---- episodes ------------------------------------------------------------------------------------------------

    def over(self, trade, seq, ts, price):
        """An episode; `price` is the closing quote when the data ended before the trade."""
        self.trades.remove(trade)
        nth = self.counts[trade.symbol] = self.counts.get(trade.symbol, 0) + 1
        entered = trade.sum(("entry",), lambda fill: fill["price"] * fill["quantity"])
        out = ("stop", "target", "exit")
        left = trade.sum(out, lambda fill: fill["price"] * fill["quantity"])
        entry_price = entered / trade.bought
        worth = left + trade.open * (price or 0.0)
        sign = 1 if trade.plan.long else -1
        pnl = money(sign * (worth - entered) - total(fill["commission"] for fill in trade.fills))
        risk = money(abs(entry_price - trade.plan.stop) * trade.bought)
        when = trade.fills[0]["ts"]
        row = {
            "con_id": trade.con_id, "symbol": trade.symbol, "strategy": trade.strategy,
            "strategy_digest": trade.digest, "decision_seq": trade.seq, "decision_ts": trade.ts,
            "trade_id": f"T{datetime.fromtimestamp(ts // SECOND, UTC):%H%M%S}_{nth:03}",
            "side": "LONG" if trade.plan.long else "SHORT", "quantity": trade.bought, "taken": True, "mode": "event",
            "entry_ts": when, "entry_price": entry_price, "exit_ts": ts, "exit_seq": seq,
            "exit_price": left / trade.bought if price is None else price,
            "entry_reason": trade.plan.reason, "exit_reason": trade.reason, "pnl_usd": pnl,
            "r_multiple": pnl / risk if risk else None, "mae": trade.worst[0], "mfe": trade.best[0],
            "hold_seconds": (ts - when) / SECOND,
            "win_loss": "WIN" if pnl > 0.005 else "LOSS" if pnl < -0.005 else "BREAKEVEN",
            "time_to_mae": None if trade.worst[1] is None else (trade.worst[1] - when) / SECOND,
            "time_to_mfe": None if trade.best[1] is None else (trade.best[1] - when) / SECOND,
            "initial_risk_usd": risk, "target": trade.plan.target, "fills": trade.fills,
            "features_pre": window(trade.before, trade.ts),
        }  # fmt: skip
        self.ended.append((trade, row))
        self.tell(trade, ts)

    def hand_out(self, seq, ts):
        """Episodes whose last second is closed, with series from the second of the first fill to that of the exit."""
        for trade, row in list(self.ended):
            begin, end = (row[name] - row[name] % SECOND for name in ("entry_ts", "exit_ts"))
            if ts < end + SECOND:
                continue
            self.ended.remove((trade, row))
            mine = [b for b in self.buckets if b["con_id"] == trade.con_id and begin <= b["ts"] <= end]
            newest = {b["decision_seq"]: b["ts"] for b in mine}
            row["series"] = [
                {name: b[name] for name in SERIES} | {
                    "gate_codes": self.gates.get((b["decision_seq"], trade.con_id, trade.strategy))
                    if newest[b["decision_seq"]] == b["ts"] else None,
                }
                for b in mine
            ]  # fmt: skip
            self.episodes.append(row | {"through_seq": seq})


def window(before, ts):
    """The buckets from 120 s to 30 s before a decision; when there are none the last 120 before it."""
    far = [b for b in before if ts - 120 * SECOND <= b["ts"] and b["ts"] + SECOND <= ts - 30 * SECOND]
    return far or [b for b in before if b["ts"] + SECOND <= ts][-120:]
