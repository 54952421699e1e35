"""The market in plain Python, one event at a time: slow, and meant to be obviously right.

It shares no code with `harvester.projections` and no arrays: lists, dictionaries and None for what is absent.
Arithmetic is done in the same order as in the kernels, so results compare bit for bit.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

SECOND = 1_000_000_000
MARKET_STREAMS = ("l1", "depth", "smart_depth", "last", "all_last", "bid_ask", "mid_point")
REFUSED = {101, 200, 309, 310, 316, 321, 322, 354, 10092, 10168, 10186, 10189, 10190}


def present(x):
    """The number, or None for IB's marks of an absent one."""
    return x if x is not None and 0 < x < 2**63 and x != 2147483647 else None


def total(numbers):
    """Plain left-to-right sum; the built-in one compensates for rounding in newer Pythons."""
    out = 0.0
    for number in numbers:
        out += number
    return out


@dataclass
class Book:
    """IB's table of row positions; sides[0] ask, sides[1] bid; a row is (price, size, market maker), None a hole."""

    limit: int
    sides: tuple = field(default_factory=lambda: ([], []))
    known: set = field(default_factory=set)
    inserted: set = field(default_factory=set)  # sides that ever had an insert, also before a reset
    bad: bool = False
    refill: bool = False  # emptied by a 317
    impossible: int = 0
    placed: int = 0
    against: int = 0  # seconds in a row whose quote contradicted it

    def clear(self, *, refill):
        self.sides, self.known, self.bad, self.refill, self.against = ([], []), set(), False, refill, 0

    @property
    def good(self):
        return self.known == {0, 1} and not self.bad and None not in self.sides[0] + self.sides[1]

    def visible(self, side):
        """The rows before the first hole."""
        rows = self.sides[side]
        return rows[: rows.index(None)] if None in rows else rows

    def possible(self, position, operation, side, row):
        rows = self.sides[side]
        if operation == 2:
            return position < len(rows) and rows[position] is not None
        price, size, _ = row
        if present(price) is None or size is None or not 0 <= size < 2**63 or size == 2147483647:
            return False
        if operation == 0:
            return position <= len(rows)
        return position < len(rows) or side not in self.inserted

    def apply(self, position, operation, side, row):
        named = side in (0, 1) and operation in (0, 1, 2) and position is not None and 0 <= position < self.limit
        if not named or not self.possible(position, operation, side, row):
            self.impossible += 1
            late = named and operation != 0 and self.refill and side not in self.known
            self.bad = self.bad or not late
            return
        rows = self.sides[side]
        if operation == 0:
            rows.insert(position, row)
            del rows[self.limit :]
            self.inserted.add(side)
        elif operation == 2:
            del rows[position]
        else:
            self.placed += position >= len(rows)
            rows += [None] * (position + 1 - len(rows))
            rows[position] = row
        self.known.add(side)

    def best(self, side):
        """(price, size) over all visible rows with a size."""
        shown = [(price, size) for price, size, _ in self.visible(side) if size > 0]
        if not shown:
            return None, None
        best = (max if side == 1 else min)(price for price, _ in shown)
        return best, total(size for price, size in shown if price == best)


@dataclass
class Subscription:
    stream: str
    con_id: int
    epoch: int
    req_id: int
    rt_field: int = 0
    warm: bool = False
    book: Book | None = None


@dataclass
class Second:
    """The sums of one second."""

    touched: bool = False
    rows: int = 0
    trades: int = 0
    quotes: int = 0
    depths: int = 0
    mark: float | None = None
    spread_sum: float = 0.0
    spread_ns: int = 0
    ofi: float = 0.0
    buy: float = 0.0
    sell: float = 0.0
    unknown: float = 0.0
    volatility: float = 0.0
    variance: float = 0.0
    mid_seen: bool = False
    halted: bool = False


@dataclass
class Instrument:
    con_id: int
    symbol: str
    used: dict = field(default_factory=dict)  # role → subscription
    feeds: dict = field(default_factory=dict)  # source → {"bid": (price, size), "ask": (price, size)}
    source: str | None = None
    kept_since: int | None = None  # of a BidAsk quote whose stream is being renewed
    quote: tuple = (None, None, None, None)  # bid, ask, bid size, ask size
    spread_since: int = 0
    last_price: float | None = None
    last_move: int = 0
    halt: int = 0  # 1 general, 2 volatility
    lost: str | None = None  # the source in force, while its stream is silent or cancelled
    now: Second = field(default_factory=Second)

    @property
    def mid(self):
        bid, ask = self.quote[:2]
        return None if bid is None or ask is None else (bid + ask) / 2


ROLES = {
    "bid_ask": ("bid_ask",),
    "l1": ("l1",),
    "book": ("smart_depth", "depth"),
    "smart": ("smart_depth",),
    "tape": ("all_last", "last", "l1"),
}


class Market:
    """Feed it events with `on`; read `rows` (closed buckets), `quotes` (changes), `instruments`, `live`."""

    def __init__(self):
        self.live = []  # subscriptions, oldest first
        self.instruments = {}
        self.second_end = None
        self.waiting = []  # rows that no clock has closed yet
        self.rows = []
        self.quotes = []
        self.prints = []
        self.happenings = []  # seq, ts, con_id, what, value
        self.min_ticks = {}
        self.epoch = 0
        self.last_ts = 0

    # ---- events --------------------------------------------------------------------------------------------------

    def on(self, kind, row):
        if kind in ("tick", "trade", "quote", "depth", "clock"):
            self.pass_time(row["ts_recv"])
            self.last_ts = row["ts_recv"]
            if kind == "clock":
                self.rows += [waiting | {"decision_seq": row["seq"]} for waiting in self.waiting]
                self.waiting = []
            else:
                self.on_hot(kind, row)
        elif kind == "request":
            self.on_request(row)
        elif kind == "notice":
            self.on_notice(row)
        elif kind == "contract":
            self.on_contract(row)

    def on_contract(self, row):
        step, con_id = row["min_tick"], row["con_id"]
        if row["msg"] == 10 and con_id and step is not None and 0 < step < 10**9:
            value = round(step * 10**9)
            if value and self.min_ticks.get(con_id) != value:
                self.min_ticks[con_id] = value
                self.happenings.append((row["seq"], row["ts_recv"], con_id, "min_tick", value))

    def on_request(self, row):
        action = row["action"]
        if action == "run_start":
            self.kill(row["seq"], self.last_ts, list(self.live))
            self.drop_kept(row["seq"], self.last_ts)
            for _, inst in sorted(self.instruments.items()):
                self.set_halt(inst, row, 0)
            self.epoch = 0
        if action not in ("run_start", "run_end", "subscribe", "cancel"):
            return
        self.pass_time(row["ts_recv"])
        self.last_ts = row["ts_recv"]
        if action == "run_end":
            self.happenings.append((row["seq"], row["ts_recv"], 0, "run_end", 0))
            self.kill(row["seq"], row["ts_recv"], list(self.live))
            self.drop_kept(row["seq"], row["ts_recv"])
        elif action == "cancel":
            renewed = json.loads(row["params"] or "{}").get("renewed") is True
            quoting = self.quoting(row)
            self.kill(row["seq"], row["ts_recv"], self.held(row), renewed=renewed)
            self.lose(quoting, row)
        elif action == "subscribe":
            self.subscribe(row)

    def on_notice(self, row):
        code = row.get("code") or 0
        if code == -7 and row.get("detail") == '{"cause":"silence"}' and not row.get("con_id"):
            code = 1100  # the whole feed is gone, though no code said so
        if code not in {317, 1100, 1101, -2, -6, -4, 154} | REFUSED and row.get("msg") != 58:
            return
        self.pass_time(row["ts_recv"])
        self.last_ts = row["ts_recv"]
        if code in (1101, -2):
            self.kill(row["seq"], row["ts_recv"], list(self.live))
            self.drop_kept(row["seq"], row["ts_recv"])
        elif code == 1100:
            self.forget(row)
            self.drop_kept(row["seq"], row["ts_recv"])
        elif code == 317:
            for sub in self.held(row):
                if sub.book:
                    sub.book.clear(refill=True)
                    self.instruments[sub.con_id].now.touched = True
                    self.requote(self.instruments[sub.con_id], row["seq"], row["ts_recv"])
        elif code in REFUSED or code == -6:
            quoting = self.quoting(row)
            self.kill(row["seq"], row["ts_recv"], self.held(row))
            self.lose(quoting, row)
        elif code == -4:
            self.lose(self.quoting(row), row)
        elif code == 154:
            for sub in self.held(row):
                self.set_halt(self.instruments[sub.con_id], row, 1)

    # ---- halts and lost quotes -----------------------------------------------------------------------------------

    def set_halt(self, inst, row, value):
        if value != inst.halt:
            inst.halt = value
            inst.now.halted = inst.now.halted or value != 0
            self.happenings.append((row["seq"], row["ts_recv"], inst.con_id, "halt", value))

    def quoting(self, row):
        """The instrument whose quote in force comes from the stream the row is about."""
        for sub in self.held(row):
            inst = self.instruments[sub.con_id]
            role = "smart" if sub.stream == "smart_depth" else sub.stream
            if inst.source == sub.stream and inst.used.get(role) is sub and inst.lost is None:
                return inst, inst.source
        return None

    def lose(self, quoting, row):
        """The quote is lost when it stays in force without its stream, or nothing replaces it."""
        if quoting and quoting[0].source in (None, quoting[1]):
            inst = quoting[0]
            inst.lost = inst.source
            self.happenings.append((row["seq"], row["ts_recv"], inst.con_id, "quote_lost", 0))

    def spoken(self, inst, source, row):
        """A row of a stream: if it was lost, its quote is in force again, even unchanged."""
        if inst.lost == source:
            self.show(inst, row["seq"], row["ts_recv"])

    # ---- subscriptions -------------------------------------------------------------------------------------------

    def held(self, row):
        return [s for s in self.live if (s.epoch, s.req_id) == (row["epoch"], row["req_id"])]

    def subscribe(self, row):
        if row["stream"] not in MARKET_STREAMS:
            return
        if row["epoch"] > self.epoch:
            self.epoch = row["epoch"]
            self.kill(row["seq"], row["ts_recv"], [s for s in self.live if s.epoch < row["epoch"]])
            self.drop_kept(row["seq"], row["ts_recv"])
        self.kill(row["seq"], row["ts_recv"], self.held(row))
        params = json.loads(row["params"] or "{}")
        sub = Subscription(row["stream"], row["con_id"], row["epoch"], row["req_id"])
        generic = params.get("generic", "").split(",")
        sub.rt_field = 77 if "375" in generic else 48 if "233" in generic else 0
        if row["stream"] in ("depth", "smart_depth"):
            sub.book = Book(max(1, params.get("rows", 10)))
        self.live.append(sub)
        self.instruments.setdefault(row["con_id"], Instrument(row["con_id"], row["symbol"]))
        self.choose([row["con_id"]], row["seq"], row["ts_recv"])

    def kill(self, seq, ts, subs, *, renewed=False):
        """End subscriptions; the quote of a renewed one stays in force until its successor speaks."""
        self.live = [s for s in self.live if s not in subs]
        for sub in subs if renewed else ():
            inst = self.instruments[sub.con_id]
            in_use = sub.stream in ("bid_ask", "l1") and inst.used.get(sub.stream) is sub and sub.stream in inst.feeds
            if in_use and self.best(sub.con_id, sub.stream, (sub.stream,)) is None:
                inst.used[sub.stream] = "kept"
                if sub.stream == "bid_ask":
                    inst.kept_since = ts
        self.choose(sorted({s.con_id for s in subs}), seq, ts)

    def drop_kept(self, seq, ts):
        for inst in self.instruments.values():
            for role in ("bid_ask", "l1"):
                if inst.used.get(role) == "kept":
                    inst.used[role] = None
                    inst.feeds.pop(role, None)
                    inst.now.touched = True
                    self.requote(inst, seq, ts)

    def forget(self, row):
        """1100: books and quotes are unknown, the subscriptions stay."""
        for sub in self.live:
            if sub.book:
                sub.book.clear(refill=False)
        con_ids = sorted({s.con_id for s in self.live})
        for con_id in con_ids:
            self.instruments[con_id].used = {}
        self.choose(con_ids, row["seq"], row["ts_recv"])

    def choose(self, con_ids, seq, ts):
        """Choose the subscriptions each instrument uses from here on; a changed role starts empty."""
        for con_id in con_ids:
            inst = self.instruments[con_id]
            inst.now.touched = True
            for role, streams in ROLES.items():
                best = self.best(con_id, role, streams)
                if inst.used.get(role) == "kept":  # its last quote stays until the new stream's first
                    inst.used[role] = best or "kept"
                    continue
                if best is inst.used.get(role) and best is not None:
                    continue
                if best is None and inst.used.get(role) is None and role not in inst.feeds and role != "tape":
                    continue
                inst.used[role] = best
                inst.feeds.pop(role, None)
                if role == "tape":
                    inst.last_price, inst.last_move = None, 0
            self.requote(inst, seq, ts)

    def best(self, con_id, role, streams):
        for stream in streams:
            found = [s for s in self.live if s.con_id == con_id and s.stream == stream]
            if role == "tape" and stream == "l1":
                found = [s for s in found if s.rt_field]
            if found:
                return found[-1]
        return None

    # ---- rows ----------------------------------------------------------------------------------------------------

    def on_hot(self, kind, row):
        held = self.held(row)
        if not held:
            return  # dead or never requested
        sub = held[0]
        inst = self.instruments[sub.con_id]
        inst.now.rows += 1
        getattr(self, f"on_{kind}")(sub, inst, row)

    def on_depth(self, sub, inst, row):
        if sub.book is None:
            return
        inst.now.depths += 1
        sub.book.apply(
            row["position"], row["operation"], row["side"], (row["price"], row["size"], row["market_maker"] or "")
        )
        if inst.used.get("smart") is sub:
            self.requote(inst, row["seq"], row["ts_recv"])
            self.spoken(inst, "smart_depth", row)

    def on_quote(self, sub, inst, row):
        if sub.stream != "bid_ask" or row["stream"] != 3:
            return
        inst.now.quotes += 1
        if inst.used.get("bid_ask") is not sub:
            return
        inst.kept_since = None
        inst.feeds["bid_ask"] = {
            "bid": (present(row["bid"]), present(row["bid_size"])),
            "ask": (present(row["ask"]), present(row["ask_size"])),
        }
        self.requote(inst, row["seq"], row["ts_recv"])
        self.spoken(inst, "bid_ask", row)

    def on_tick(self, sub, inst, row):
        if sub.stream != "l1":
            return
        if row["field"] == sub.rt_field and sub.rt_field:
            if inst.used.get("tape") is sub and sub.warm:
                try:
                    price, size = (float(x) for x in row["text"].split(";")[:2])
                except (AttributeError, ValueError):
                    return
                self.on_print(inst, row, price, size, forms=True, odd=size < 100)
            sub.warm = True
            return
        if row["field"] in (49, 90) and row["value"] in (0, 1, 2):
            self.set_halt(inst, row, int(row["value"]))
        names = {1: "bid", 66: "bid", 0: "bid", 69: "bid", 2: "ask", 67: "ask", 3: "ask", 70: "ask"}
        if row["field"] not in names:
            return
        inst.now.quotes += 1
        if inst.used.get("l1") is not sub:
            return
        if inst.kept_since is not None and row["ts_recv"] - inst.kept_since > 10 * SECOND:
            inst.feeds.pop("bid_ask", None)
            inst.kept_since = None
        side = names[row["field"]]
        feed = inst.feeds.setdefault("l1", {"sizes": {}})
        price, size = feed.get(side, (None, feed["sizes"].get(side)))
        if row["size"] is not None:
            size = feed["sizes"][side] = present(row["size"])
        if row["field"] in (1, 2, 66, 67):
            feed[side] = (present(row["price"]), size)
        elif side in feed:
            feed[side] = (price, size)
        self.requote(inst, row["seq"], row["ts_recv"])
        self.spoken(inst, "l1", row)

    def on_trade(self, sub, inst, row):
        if inst.used.get("tape") is sub and sub.stream != "l1":
            forms = not (row["past_limit"] or row["unreported"])
            said, size = row["conditions"], row["size"]
            odd = "I" in said if said is not None else size is not None and size < 100
            self.on_print(inst, row, row["price"], size, forms=forms, odd=odd)

    def on_print(self, inst, row, price, size, *, forms, odd):
        price, size = present(price), present(size)
        if price is None or size is None:
            return
        now = inst.now
        now.trades += 1
        side = self.aggressor(inst, price) if forms else 0
        if forms:
            if price != inst.last_price:
                inst.last_move = 0 if inst.last_price is None else (1 if price > inst.last_price else -1)
            inst.last_price = now.mark = price
        if side > 0:
            now.buy += size
        elif side < 0:
            now.sell += size
        else:
            now.unknown += size
        self.prints.append((row["seq"], row["ts_recv"], inst.con_id, price, size, forms, forms and not odd))

    @staticmethod
    def aggressor(inst, price):
        bid, ask = inst.quote[:2]
        if bid is not None and ask is not None and bid <= ask:
            lean = (price - bid) - (ask - price)
            if abs(lean) > 1e-9 * price:
                return 1 if lean > 0 else -1
        if inst.last_price is not None and price != inst.last_price:
            return 1 if price > inst.last_price else -1
        return inst.last_move

    # ---- the quote in force --------------------------------------------------------------------------------------

    @staticmethod
    def candidate(inst):
        for source in ("bid_ask", "l1"):
            feed = inst.feeds.get(source, {})
            if "bid" in feed and "ask" in feed:
                return source, (feed["bid"][0], feed["ask"][0], feed["bid"][1], feed["ask"][1])
        smart = inst.used.get("smart")
        if smart and smart.book.against >= 10:
            return None, (None, None, None, None)
        if smart and smart.book.good:
            (bid, bid_size), (ask, ask_size) = smart.book.best(1), smart.book.best(0)
            return "smart_depth", (bid, ask, bid_size, ask_size)
        return None, (None, None, None, None)

    def requote(self, inst, seq, ts):
        source, quote = self.candidate(inst)
        if (source, quote) == (inst.source, inst.quote):
            return
        self.spread_until(inst, ts)
        old, old_mid, same_source = inst.quote, inst.mid, source == inst.source
        inst.source, inst.quote = source, quote
        if same_source and None not in old and None not in quote:
            inst.now.ofi += flow(old, quote)
        if same_source and old_mid is not None and inst.mid is not None:
            step = inst.mid / old_mid - 1
            inst.now.volatility = max(inst.now.volatility, abs(step))
            inst.now.variance += step * step
        inst.now.mid_seen |= inst.mid is not None
        self.show(inst, seq, ts)

    def show(self, inst, seq, ts):
        bid, ask = inst.quote[:2]
        good = bid is not None and ask is not None and bid <= ask
        self.quotes.append((seq, ts, inst.con_id, *inst.quote, good))
        inst.lost = None

    @staticmethod
    def spread_until(inst, ts):
        bid, ask = inst.quote[:2]
        if bid is not None and ask is not None:
            inst.now.spread_sum += (ask - bid) * (ts - inst.spread_since)
            inst.now.spread_ns += ts - inst.spread_since
        inst.spread_since = ts

    # ---- seconds -------------------------------------------------------------------------------------------------

    def pass_time(self, ts):
        if self.second_end is None:
            self.second_end = (ts // SECOND + 1) * SECOND
        while self.second_end <= ts:
            rows = [self.close(inst) for _, inst in sorted(self.instruments.items()) if self.listed(inst)]
            self.waiting += rows
            self.second_end = self.second_end + SECOND if rows else (ts // SECOND + 1) * SECOND

    def listed(self, inst):
        return inst.now.touched or any(s.con_id == inst.con_id for s in self.live)

    def close(self, inst):
        self.spread_until(inst, self.second_end)
        now, (bid, ask, bid_size, ask_size), mid = inst.now, inst.quote, inst.mid
        spread = None if mid is None else ask - bid
        row = {
            "ts": self.second_end - SECOND,
            "symbol": inst.symbol,
            "con_id": inst.con_id,
            "mark": now.mark if now.mark is not None else mid,
            "bid": bid,
            "ask": ask,
            "spread": spread,
            "spread_bps": None if mid is None else spread / mid * 10_000,
            "spread_twa": now.spread_sum / now.spread_ns if now.spread_ns else None,
            "mid": mid,
            "microprice": None if None in inst.quote else (ask * bid_size + bid * ask_size) / (bid_size + ask_size),
            "ofi": now.ofi if now.mid_seen else None,
            "tape_buy": now.buy,
            "tape_sell": now.sell,
            "tape_unknown": now.unknown,
            "trade_count": now.trades,
            "quote_count": now.quotes,
            "depth_count": now.depths,
            "volatility_proxy": now.volatility if now.mid_seen else None,
            "realised_variance": now.variance if now.mid_seen else None,
            "quote_source": inst.source,
            "stale": now.rows == 0,
            "halted": now.halted,
            **self.book_columns(inst),
        }
        inst.now = Second(mid_seen=mid is not None, halted=inst.halt != 0)
        return row

    @staticmethod
    def book_columns(inst):
        sub = inst.used.get("book")
        _, _, bid_size, ask_size = inst.quote
        columns = dict.fromkeys(("imbalance", "bid_size_top_n", "ask_size_top_n"))
        columns |= {"book_good": False, "bid_top_size": bid_size, "ask_top_size": ask_size}
        if sub is None or not sub.book.good:
            return columns
        quote_bid, quote_ask = inst.quote[:2]
        if inst.source in ("bid_ask", "l1") and None not in (quote_bid, quote_ask) and quote_bid <= quote_ask:
            bid, ask = sub.book.best(1)[0], sub.book.best(0)[0]
            through = (bid is not None and bid > quote_ask) or (ask is not None and ask < quote_bid)
            sub.book.against = sub.book.against + 1 if through else 0
        if sub.book.against >= 10:
            return columns
        asks, bids = (total(size for _, size, _ in rows[:5]) for rows in sub.book.sides)
        columns |= {"book_good": True, "bid_size_top_n": bids, "ask_size_top_n": asks}
        if bids + asks > 0:
            columns["imbalance"] = (bids - asks) / (bids + asks)
        if inst.source is None:
            first = [rows[0][1] if rows else None for rows in sub.book.sides]
            columns |= {"bid_top_size": first[1], "ask_top_size": first[0]}
        return columns


def flow(old, new):
    """Order flow of one change of the quote: Cont, Kukanov and Stoikov (2014), equation 3."""
    bid0, ask0, bid_size0, ask_size0 = old
    bid1, ask1, bid_size1, ask_size1 = new
    e = 0.0
    e += bid_size1 if bid1 >= bid0 else 0.0
    e -= bid_size0 if bid1 <= bid0 else 0.0
    e -= ask_size1 if ask1 <= ask0 else 0.0
    e += ask_size0 if ask1 >= ask0 else 0.0
    assert math.isfinite(e)
    return e
