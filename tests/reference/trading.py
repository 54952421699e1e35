"""Simulated trading in plain Python, one event at a time, by the rules of docs/trading.md.

It shares no code with `harvester.projections`: it reads the day's events, takes the quote in force and the prints from
the plain market of `market`, and applies every one to every trade. Nothing is skipped, looked up ahead or stored in
columns. The numbers in the comments are those of the rules.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.reference.exchange import Moment, Quote, Terms, fill, follow
from tests.reference.market import MARKET_STREAMS, SECOND, Market, total
from tests.reference.trades import SERIES, Trade

LOST, BACK = (1100, -2), (1101, 1102, -1)  # of the whole feed, from IB and the connection
BEGINS, ENDS = -7, -8  # Harvester's own notices of an outage, of the whole feed or of one symbol
MINUTE = 60 * SECOND


@dataclass(eq=False)
class Message:
    """What is on its way to the exchange; `number` is its place among the decisions."""

    at: int  # ns UTC
    number: int
    seq: int  # of the decision
    what: str  # entry, exit, stop, target, cancel or change
    trade: Trade
    price: float | None = None
    reason: str = ""
    asked: float | None = None


@dataclass(eq=False)
class Span:
    """When something was wrong with a symbol (con_id 0: with all of them), ns UTC; `end` None: it still is."""

    what: str  # outage, halt or dead
    con_id: int
    begin: int
    seq: int
    end: int | None = None

    def touches(self, begin, end):
        """Whether it was there in this time, `end` included."""
        return self.begin <= end and (self.end is None or self.end > begin or self.end == self.begin >= begin)


class Trading:
    """Feed it a day with `on`, then `finish`; read `fills`, `decisions` and `episodes`, rows by column.

    `strategies` creates them by name from their settings. They observe closed buckets, return gates, a plan and
    changes, and are called when a trade is over.
    """

    def __init__(self, strategies):
        self.strategies = strategies
        self.seats = {}  # (name, digest) → strategy
        self.market = Market()
        self.quotes = {}
        self.params = None
        self.trades = []  # open trades, in the order of their decisions
        self.unknown = []  # trades that are over, which their strategy does not know yet (20)
        self.deep = False  # a run of the date had orders that see the book
        self.books = {}  # con_id → levels of its good SMART book: bids, asks
        self.messages = []
        self.sent = 0
        self.fills, self.decisions, self.episodes = [], [], []
        self.counts = {}
        self.read = [0, 0, 0, 0]  # counts of the market's quotes, prints, buckets and happenings already processed
        self.buckets = []  # closed ones, as strategies see them
        self.depth_ts = {}  # start of the last second with a depth row
        self.gates = {}  # (clock's seq, con_id, strategy) → gates
        self.ended = []  # trades whose last second is not closed yet, with their episodes so far
        self.dark = False  # the whole feed is gone, or no subscription followed a run's start yet
        self.outages = set()  # con_ids whose feed is gone, 0 = all
        self.ticks = {}  # con_id → smallest price step
        self.spans = []  # of outages, halts and dead quotes
        self.clocks = []  # seconds that a clock fell into
        self.waiting = []  # what happened since the last clock, in order: (seq, ts, function, arguments)
        self.newest = {}  # con_id → seq of the newest change of the live quote or print; 0: of the newest clock
        self.seen = {}  # con_id → the live quote
        self.last = (0, 0)
        self.before = 0  # ts of what happened before
        self.at = 0  # seq of what happens

    # ---- events --------------------------------------------------------------------------------------------------

    def on(self, kind, row):
        self.market.on(kind, row)
        seq, ts = self.last = row["seq"], row["ts_recv"]
        if kind == "request" and row["action"] == "run_start":
            self.happened(seq, ts, self.run_start, json.loads(row["params"]))
        if kind == "request" and row["action"] == "subscribe" and row["stream"] in MARKET_STREAMS:
            self.happened(seq, ts, self.outage, BACK[0], 0)
        if kind == "notice":
            self.happened(seq, ts, self.outage, row["code"], row["con_id"])
        changes = self.news(0, self.market.quotes)
        for con_id, levels in self.changed_books():
            self.happened(seq, ts, self.see_book, con_id, levels, con_id in {change[2] for change in changes})
        for _, _, con_id, what, value in self.news(3, self.market.happenings):
            self.happened(seq, ts, getattr(self, f"on_{what}"), con_id, value)
        for change in changes:
            self.happened(seq, ts, self.see_quote, *change[2:])
        for made in self.news(1, self.market.prints):
            self.happened(seq, ts, self.see_print, *made[2:])
        if kind == "clock":
            waiting, self.waiting = self.waiting, []
            self.go_through(waiting)
            self.clock(seq, ts, self.news(2, self.market.rows))

    def changed_books(self):
        """19: symbols whose levels of a good SMART book are others than before, None: it is not good."""
        for con_id, inst in self.market.instruments.items():
            sub = inst.used.get("smart")
            good = sub and sub.book.good and sub.book.against < 10
            levels = tuple(by_price(sub.book.sides[side]) for side in (1, 0)) if good else None
            if levels != self.books.get(con_id):
                self.books[con_id] = levels
                yield con_id, levels

    def happened(self, seq, ts, function, *what):
        self.waiting.append((seq, ts, function, what))

    def news(self, which, rows):
        new = rows[self.read[which] :]
        self.read[which] = len(rows)
        return new

    def go_through(self, waiting):
        """Everything since the last clock in order, and (1, 2) arrivals after the events of their time."""
        for place, (seq, ts, function, what) in enumerate(waiting):
            self.at = seq
            if not any(later[2] in (self.run_start, self.on_run_end) for later in waiting[place:]):
                self.settle(ts - 1)
            function(seq, ts, *what)
            self.before = ts
            for con_id in self.quotes:
                seen = self.quote(con_id).seen
                if seen != self.seen.get(con_id):
                    self.seen[con_id], self.newest[con_id] = seen, seq

    # ---- what happens --------------------------------------------------------------------------------------------

    def quote(self, con_id):
        quote = self.quotes.setdefault(con_id, Quote())
        quote.dark = bool({0, con_id} & self.outages)
        quote.deep = self.deep
        return quote

    def lose(self, con_id, ts):
        """Not live, and unseen, until the next change of the quote."""
        for known, quote in self.quotes.items():
            if con_id in (0, known):
                quote.lost = True
                self.begin("dead", known, ts)

    def begin(self, what, con_id, ts):
        self.spans.append(Span(what, con_id, ts, self.at))

    def end(self, what, con_id, ts):
        for span in self.spans:
            if span.end is None and span.what == what and con_id in (0, span.con_id):
                span.end = ts

    def end_span(self, what, con_id, ts):
        for span in self.spans:
            if span.end is None and span.what == what and span.con_id == con_id:
                span.end = ts

    def outage(self, seq, ts, code, con_id):
        """A feed outage counts once until the feed is back; afterwards a quote is not live until its next change."""
        if code == BEGINS and con_id:
            self.outage_begins(seq, ts, con_id)
        elif code == ENDS and con_id:
            self.outage_ends(ts, con_id)
        elif code in (*LOST, BEGINS) and not self.dark:
            self.outage_begins(seq, ts, 0)
            self.dark = True
        elif code in (*BACK, ENDS):
            self.outage_ends(ts, 0)
            if self.dark:
                self.end_span("outage", 0, ts)
            self.dark = False

    def outage_begins(self, seq, ts, con_id):
        if con_id not in self.outages:
            self.begin("outage", con_id, ts)
        self.outages.add(con_id)
        self.lose(con_id, ts)
        self.cancel_entries(seq, ts, con_id, "OUTAGE")  # 12

    def outage_ends(self, ts, con_id):
        if con_id in self.outages:
            self.outages.remove(con_id)
            self.lose(con_id, ts)
            self.end_span("outage", con_id, ts)

    def on_halt(self, seq, ts, con_id, value):
        """The end of a halt is a moment; its quote goes on."""
        quote, was = self.quote(con_id), self.quote(con_id).halted
        quote.halted = value != 0
        if value and not was:
            self.begin("halt", con_id, ts)
            self.cancel_entries(seq, ts, con_id, "HALTED")  # 12
        elif was and not value:
            self.end("halt", con_id, ts)
            quote.show(ts)
            self.moment(con_id, Moment(seq, ts))

    def on_quote_lost(self, seq, ts, con_id, value):
        self.lose(con_id, ts)

    def on_min_tick(self, seq, ts, con_id, value):
        self.ticks[con_id] = value / 10**9

    def see_quote(self, seq, ts, con_id, *shown):
        self.newest[con_id] = seq
        self.quote(con_id).change(ts, *shown[:4], good=shown[4])
        if shown[:2] != (None, None):
            self.end("dead", con_id, ts)
        self.moment(con_id, Moment(seq, ts))

    def see_book(self, seq, ts, con_id, levels, with_quote):
        """19: no moment; `with_quote`: the quote changes with it."""
        quote = self.quote(con_id)
        quote.book = levels
        if not with_quote:
            quote.show(ts)

    def see_print(self, seq, ts, con_id, *printed):
        self.newest[con_id] = seq
        self.moment(con_id, Moment(seq, ts, *printed, left=int(printed[1])))

    def moment(self, con_id, moment):
        """Every trade of the symbol, in the order of their decisions."""
        for trade in [trade for trade in self.trades if trade.con_id == con_id]:
            if trade in self.trades:
                self.match(trade, moment)

    def match(self, trade, moment, arriving=None):
        """Its orders, in the order of `step`; at an arrival that order alone."""
        if self.quote(trade.con_id).live:  # 4
            self.step(trade, moment, arriving)
        if trade.flat:
            last = trade.fills[-1]
            self.over(trade, last["seq"], last["ts"], None)

    def step(self, trade, moment, arriving):
        """The entry first, then the stop before the target, then an exit."""
        quote, tick = self.quote(trade.con_id), self.ticks.get(trade.con_id)
        before = trade.bought
        if (order := trade.entry) and order.working and arriving in (None, "entry"):
            follow(order, quote, tick)
            for filled in fill(order, order.quantity - order.filled, moment, quote, trade.terms):
                self.entered(trade, filled)
        placed = trade.bought and not before
        if trade.stop and (placed or arriving in (None, "stop")):
            if placed and trade.through_own_stop():
                trade.stop.triggered, trade.reason = True, "STOP_THROUGH"
            follow(trade.stop, quote, tick)
            stopped = fill(trade.stop, trade.open, moment, quote, trade.terms)
            if trade.stopped and trade.triggered_ts is None:  # 13
                trade.target_then = trade.target
                trade.reason, trade.target, trade.triggered_ts = trade.reason or "STOP", None, moment.ts
                trade.cancel_entry(trade.reason, moment.seq, moment.ts)
            self.fill(trade, *stopped)
        target = trade.target if placed or arriving in (None, "target") else None
        if target and (filled := fill(target, trade.open, moment, quote, trade.terms)):
            self.fill(trade, *filled)
            if trade.flat:
                trade.reason = "TARGET"
                trade.cancel_entry("TARGET", moment.seq, moment.ts)
        leaving = trade.exit if arriving in (None, "exit") else None
        if leaving:
            self.fill(trade, *fill(leaving, trade.open, moment, quote, trade.terms))
        if trade.bought:
            trade.look(quote.against(buy=not trade.plan.long).price, moment.ts)

    def entered(self, trade, filled):
        """13: the first fill places the protective orders, the stop first; it cancels the rival."""
        first = not trade.bought
        self.fill(trade, filled)
        if first:
            if trade.rival in self.trades:
                self.end_entry(trade.rival, "OCO", filled["seq"], filled["ts"])
            trade.place_stop()
            trade.place_target()

    def fill(self, trade, *filled):
        trade.fills += filled
        who = {
            "con_id": trade.con_id, "symbol": trade.symbol, "strategy": trade.strategy,
            "strategy_digest": trade.digest, "decision_seq": trade.seq,
        }  # fmt: skip
        self.fills += [row | who for row in filled]

    # ---- arrivals ------------------------------------------------------------------------------------------------

    @property
    def latency(self):
        return round(self.config("latency_ms", 0) * 1_000_000)

    def config(self, name, default):
        return self.params["config"].get(name, default)

    def send(self, what, trade, seq, ts, **more):
        self.sent += 1
        self.messages.append(Message(ts + self.latency, self.sent, seq, what, trade, **more))

    def settle(self, until):
        """1, 2: the messages that arrive up to a time, by time and then in the order of decisions."""
        for message in sorted(self.messages, key=lambda m: (m.at, m.number)):
            if message.at <= until:
                self.messages.remove(message)
                trade = message.trade
                if trade in self.trades:
                    seq = max(message.seq, self.newest[0], self.newest.get(trade.con_id, 0))
                    arriving = getattr(self, f"arrive_{message.what}")(trade, message, seq)
                    if arriving:
                        self.match(trade, Moment(seq, message.at), arriving)
                    if message.what == "entry":
                        self.cancel_the_rest(trade, seq, message.at)

    # each returns the role of the order that arrives, if any

    def arrive_entry(self, trade, message, seq):
        order, plan, ts = trade.entry, trade.plan, message.at
        if order is None:
            return None
        if reason := self.refused(trade, ts):
            self.end_entry(trade, reason, seq, ts)
            return None
        order.working = True
        order.expires, trade.ending = self.flat_from, "SESSION_END"  # 12
        if plan.valid_seconds is not None and ts + round(plan.valid_seconds * SECOND) < order.expires:  # 9
            order.expires, trade.ending = ts + round(plan.valid_seconds * SECOND), "EXPIRED"
        return "entry"

    def cancel_the_rest(self, trade, seq, ts):
        """9: of an IOC entry."""
        if trade.plan.immediate and trade in self.trades and trade.entry:
            self.end_entry(trade, "IOC", seq, ts)

    def end_entry(self, trade, reason, seq, ts):
        """12: with nothing filled the trade is over."""
        trade.cancel_entry(reason, seq, ts)
        if not trade.bought:
            self.unfilled(trade, reason, seq, ts)

    def refused(self, trade, ts):
        """11."""
        quote, session = self.quote(trade.con_id), self.params["calendar"]["session"]
        if session is None or ts < session["open_ns"]:
            return "SESSION_CLOSED"
        if ts >= self.flat_from:
            return "SESSION_END"
        return "" if quote.live else quote.why_not

    @property
    def flat_from(self):
        """15: when positions are closed, ns UTC."""
        session = self.params["calendar"]["session"]
        before = round(self.config("flat_before_close_seconds", 60) * SECOND)
        return None if session is None else session["close_ns"] - before

    def arrive_exit(self, trade, message, seq):
        """14: it cancels stop, target and the rest of the entry, unless the stop was triggered before."""
        if trade.stopped or trade.exit:
            return None
        self.end_entry(trade, "EXIT" if trade.bought else "CANCELLED", seq, message.at)
        if not trade.bought:
            return None
        self.let_out(trade, message)
        return "exit"

    def let_out(self, trade, message):
        trade.stop = trade.target = None
        trade.reason = message.reason
        trade.exit = trade.exit_of(message.asked)

    def arrive_cancel(self, trade, message, seq):
        if trade.entry:
            self.end_entry(trade, "CANCELLED", seq, message.at)

    def arrive_stop(self, trade, message, seq):
        if trade.stopped or trade.exit:
            return None
        trade.change(message.what, message.price, self.ticks.get(trade.con_id))
        return message.what

    arrive_target = arrive_stop

    def arrive_change(self, trade, message, seq):
        """A new price of an entry that works."""
        if not trade.entry:
            return None
        trade.change_entry(message.price, self.ticks.get(trade.con_id))
        return "entry"

    # ---- runs and clocks -----------------------------------------------------------------------------------------

    def on_run_end(self, seq, ts, con_id, value):
        """12: entries work no longer; it is recorded at the next run's start."""
        for trade in self.trades:
            if trade.entry:
                trade.entry.working = False

    def run_start(self, seq, ts, params):
        """Start a run: the feed counts as interrupted since the previous run, until a subscription."""
        self.end_entries(seq, ts)
        self.dark = self.params is not None
        for quote in self.quotes.values():
            quote.halted = False
        for what in ("outage", "halt"):
            self.end(what, 0, self.before)
        if self.dark:
            self.begin("outage", 0, self.before)
        self.lose(0, self.before)
        self.outages = set()
        self.params = params
        self.deep = self.deep or self.config("fill_depth", "top") == "book"
        refs = {(ref["name"], ref["digest"]): ref["settings"] for ref in params["strategies"]}
        messages, self.messages = self.messages, []
        for message in messages:  # 3: an exit works as if it had arrived; other messages are lost
            trade = message.trade
            if message.what == "exit" and trade in self.trades and not trade.stopped and not trade.exit:
                self.let_out(trade, message)
        for trade in list(self.trades):
            if (trade.strategy, trade.digest) not in refs:
                self.leave(trade, "RUN_CHANGE", seq, ts)
        fresh = {who: self.strategies[who[0]](given) for who, given in refs.items() if who not in self.seats}
        self.seats = {who: (self.seats | fresh)[who] for who in refs}

    def end_entries(self, seq, ts):
        self.cancel_entries(seq, ts, 0, "RUN_END", pending=True)

    def cancel_entries(self, seq, ts, con_id, reason, *, pending=False):
        for trade in list(self.trades):
            if con_id in (0, trade.con_id) and trade.entry and (pending or trade.entry.working):
                self.end_entry(trade, reason, seq, ts)

    def clock(self, seq, ts, closed):
        self.settle(ts)
        self.newest[0], self.before = seq, ts
        self.clocks.append(ts // SECOND * SECOND)
        for trade in list(self.trades):
            self.look_at_the_time(trade, seq, ts)
        for trade in [trade for trade in self.unknown if self.known(trade.over_ts, ts)]:
            self.unknown.remove(trade)
            self.tell(trade)
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

    def known(self, what, now):
        """20: whether a strategy knows at a clock what happened at a time."""
        return what + round(self.config("answer_latency_ms", 0) * 1_000_000) <= now

    def judged(self, bucket):
        """Distinguish a bad book from none: without a depth row for a minute `book_good` is None."""
        con_id = bucket["con_id"]
        if bucket["depth_count"]:
            self.depth_ts[con_id] = bucket["ts"]
        elif not bucket["book_good"] and bucket["ts"] - self.depth_ts.get(con_id, -MINUTE) >= MINUTE:
            return bucket | {"book_good": None}
        return bucket

    def look_at_the_time(self, trade, seq, ts):
        """12, 15: what is over at this clock."""
        order, flat_from = trade.entry, self.flat_from
        ends = flat_from is not None and ts >= flat_from
        if order and order.working and ts >= order.expires:
            self.end_entry(trade, trade.ending, seq, ts)
        if not trade.bought:
            return
        hold = trade.plan.hold_seconds_max
        if ends:
            self.leave(trade, "SESSION_END", seq, ts)
        elif hold is not None and ts >= trade.fills[0]["ts"] + round(hold * SECOND):
            self.leave(trade, "TIME_STOP", seq, ts)

    def leave(self, trade, reason, seq, ts):
        """14: send an exit, unless one was sent or the stop was triggered."""
        if not trade.leaving and not trade.stopped:
            trade.leaving = True
            buy = not trade.plan.long
            price = self.price(trade.con_id, buy=buy)
            self.send("exit", trade, seq, ts, reason=reason, asked=price)
            self.decided(trade, "exit", reason, seq, ts, buy=buy, quantity=trade.open, price=price)

    def price(self, con_id, *, buy):
        quote = self.quote(con_id)
        return quote.against(buy=buy).price if quote.live else None

    def ask(self, who, bucket, seq, ts):
        (name, digest), con_id, symbol = who, bucket["con_id"], bucket["symbol"]
        mine = [t for t in self.trades if (t.con_id, t.strategy) == (con_id, name)]
        held = [t for t in (*self.trades, *self.unknown) if (t.con_id, t.strategy) == (con_id, name)]
        held.sort(key=lambda trade: trade.number)
        known = [trade.holding(lambda what: self.known(what, ts)) for trade in held]
        quote = self.quote(con_id)
        view = {
            "seq": seq, "ts": ts, "bucket": bucket, "quote": quote, "session": self.params["calendar"]["session"],
            "outage": quote.dark, "halted": quote.halted, "holding": bool(held),
            "position": next((one for one in known if one["entered"]), known[0] if known else None),
        }  # fmt: skip
        gates, plan, changes = self.seats[who].decide(view)
        self.gates[seq, con_id, name] = gates
        for trade in mine:
            for change in changes:
                self.send_change(change, trade, seq, ts)
        if plan is None:
            self.decisions.append({
                "seq": seq, "ts": ts, "con_id": con_id, "symbol": symbol, "strategy": name, "strategy_digest": digest,
                "action": "none", "gate_codes": "|".join(gates), "bucket_ts": self.newest_bucket(con_id),
            })  # fmt: skip
        else:
            self.enter(plan, con_id, (symbol, name, digest, seq, ts))

    def enter(self, plan, con_id, who):
        costs = self.params["costs"] or {"per_share": 0, "minimum": 0, "maximum_fraction": 0}
        terms = Terms(
            costs, self.config("participation", 1.0), self.config("stop_trigger", "quote"),
            self.config("fill_depth", "top"),
        )  # fmt: skip
        before = [bucket for bucket in self.buckets if bucket["con_id"] == con_id]
        seq, ts = who[3:]
        pair = [
            Trade(con_id, *who, one, terms, self.ticks.get(con_id), self.price(con_id, buy=one.long), before)
            for one in (plan, plan.rival)
            if one is not None
        ]
        if len(pair) > 1:
            pair[0].rival, pair[1].rival = pair[1], pair[0]
        for trade in pair:
            trade.number = self.sent
            self.trades.append(trade)
            buy, quantity = trade.plan.long, trade.plan.quantity
            self.decided(trade, "enter", trade.plan.reason, seq, ts, buy=buy, quantity=quantity, price=trade.judged_by)
            self.send("entry", trade, seq, ts)

    def send_change(self, change, trade, seq, ts):
        kind = str(change.kind)
        if kind == "exit":
            self.leave(trade, change.reason, seq, ts)
        else:
            buy, quantity = trade.plan.long, trade.plan.quantity
            self.decided(trade, "change", kind, seq, ts, buy=buy, quantity=quantity, price=change.price)
            self.send("change" if kind == "entry" else kind, trade, seq, ts, price=change.price)

    def newest_bucket(self, con_id):
        """Start of the newest closed bucket of a symbol."""
        return max((bucket["ts"] for bucket in self.buckets if bucket["con_id"] == con_id), default=None)

    def unfilled(self, trade, reason, seq, ts):
        self.trades.remove(trade)
        plan = trade.plan
        self.decided(
            trade, "unfilled", reason, seq, ts, buy=plan.long, quantity=plan.quantity, price=trade.order.reference_price
        )
        self.ended_at(trade, ts)

    def ended_at(self, trade, ts):
        """20: its strategy does not know it yet, unless answers take no time in this run."""
        trade.over_ts = ts
        if self.config("answer_latency_ms", 0):
            self.unknown.append(trade)
        else:
            self.tell(trade)

    def tell(self, trade):
        """Notify the strategy of the decision that its trade is over, if it still runs."""
        if seat := self.seats.get((trade.strategy, trade.digest)):
            seat.finished(trade.con_id, trade.over_ts)

    def decided(self, trade, action, reason, seq, ts, *, buy, quantity, price):
        self.decisions.append({
            "seq": seq, "ts": ts, "con_id": trade.con_id, "symbol": trade.symbol, "strategy": trade.strategy,
            "strategy_digest": trade.digest, "action": action, "gate_codes": "", "reason": reason,
            "decision_seq": trade.seq, "bucket_ts": self.newest_bucket(trade.con_id),
            "side": "BUY" if buy else "SELL", "quantity": quantity, "reference_price": price,
            "stop": trade.plan.stop, "target": trade.plan.target, "features": trade.plan.features,
        })  # fmt: skip

    # ---- episodes ------------------------------------------------------------------------------------------------

    def finish(self):
        """End the date; observations after the last clock are ignored, the starts and ends of runs are not."""
        for seq, ts, function, what in self.waiting:
            if function in (self.run_start, self.on_run_end):
                function(seq, ts, *what)
        seq, ts = self.last
        self.end_entries(seq, ts)
        for trade in list(self.trades):
            trade.reason = "DATA_END"  # 15
            self.over(trade, seq, ts, self.quote(trade.con_id).against(buy=not trade.plan.long).price)
        self.hand_out(seq, ts + SECOND)

    def over(self, trade, seq, ts, price):
        """An episode; `price` is the closing quote when the data ended before the trade."""
        self.trades.remove(trade)
        nth = self.counts[trade.symbol] = self.counts.get(trade.symbol, 0) + 1
        self.ended.append((trade, trade.episode(nth, seq, ts, price)))
        self.ended_at(trade, ts)

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
            row["quality"] = self.quality(trade.con_id, row["entry_ts"], row["exit_ts"], row["exit_seq"], mine)
            self.episodes.append(row | {"through_seq": seq})

    def quality(self, con_id, begin, end, end_seq, buckets):
        """17."""
        spans = [s for s in self.spans if s.con_id in (0, con_id) and (s.begin < end or s.seq <= end_seq)]
        touching = [span for span in spans if span.touches(begin, end)]
        unseen = 0
        for second in range(begin // SECOND * SECOND, end + 1, SECOND):
            part = max(begin, second), min(end, second + SECOND - 1)
            between = any(clock < second for clock in self.clocks) and any(clock > second for clock in self.clocks)
            unseen += (between and second not in self.clocks) or any(span.touches(*part) for span in spans)
        return {
            "unseen_seconds": unseen,
            "outages": at_once([span for span in touching if span.what == "outage"]),
            "halts": sum(span.what == "halt" for span in touching),
            "bad_book_seconds": sum(bucket["book_good"] is False for bucket in buckets),
        }


def by_price(rows):
    """Price → size of a book's side, all rows of a price together; rows without a size are none."""
    return {price: total(size for other, size, _ in rows if other == price) for price, size, _ in rows if size > 0}


def at_once(spans):
    """How many there were, where those that overlap are one."""
    count, until = 0, -1
    for span in sorted(spans, key=lambda span: (span.begin, span.seq)):
        count += span.begin > until
        until = max(until, 2**63 if span.end is None else span.end)
    return count
