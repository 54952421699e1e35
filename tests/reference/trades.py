"""A trade in plain Python: a decision, its orders and fills, and the episode they become."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.reference.exchange import Order, Terms, money, round_trip, rounded, tick_of
from tests.reference.market import SECOND, total

SERIES = ("ts", "mark", "bid", "ask", "mid", "spread", "imbalance", "tape_buy", "tape_sell", "volatility_proxy")
OUT = ("stop", "target", "exit")


@dataclass(eq=False)
class Trade:
    """A decision with its orders, fills and results."""

    con_id: int
    symbol: str
    strategy: str
    digest: str
    seq: int
    ts: int
    plan: Any
    terms: Terms
    tick: float | None  # the contract's, at the decision
    asked: float | None  # live opposite quote at the decision
    before: list[dict[str, Any]]  # the symbol's closed buckets at the decision
    entry: Order | None = None
    rival: Trade | None = None
    stop: Order | None = None
    target: Order | None = None
    exit: Order | None = None
    stop_price: float | None = None
    target_price: float | None = None
    leaving: bool = False  # an exit has been sent
    ending: str = ""  # why the entry ends at its `expires`
    rest: dict[str, Any] | None = None  # what was cancelled of an entry
    triggered_ts: int | None = None  # when the stop was triggered, ns UTC
    target_then: object = None  # the target that this cancelled
    over_ts: int | None = None
    number: int = 0  # in the order of decisions
    reason: str = ""
    fills: list[dict[str, Any]] = field(default_factory=list)
    worst: tuple[float, int | None] = (0.0, None)  # USD, ns UTC
    best: tuple[float, int | None] = (0.0, None)

    def __post_init__(self):
        plan, kind = self.plan, str(self.plan.type)
        up = plan.long  # a stop that buys; a limit that sells
        self.stop_price = rounded(plan.stop, self.tick, up=not up)
        self.target_price = rounded(plan.target, self.tick, up=up)
        limit = rounded(plan.limit, self.tick, up=not up) if "limit" in kind else None
        trigger = rounded(plan.trigger, self.tick, up=up) if kind.startswith("stop") else None
        if kind == "trail" and self.asked is not None:
            trigger = self.asked + plan.trail if up else self.asked - plan.trail
            trigger = rounded(trigger, self.tick, up=up)
        self.judged_by = limit if "limit" in kind else self.asked if kind == "market" else trigger
        name = "limit_price" if "limit" in kind else "quote_at_decision" if kind == "market" else "stop_price"
        self.entry = self.order = Order(
            "entry", up, kind, name, self.judged_by, limit, None if kind == "trail" else trigger,
            plan.trail if kind == "trail" else None, plan.quantity,
        )  # fmt: skip

        self.risk = self.risk_at_the_decision()

    def risk_at_the_decision(self):
        """USD a share, fixed at the decision; None without a stop or a reference."""
        price, plan, up = self.judged_by, self.plan, self.plan.long
        stops = [] if self.stop_price is None else [self.stop_price]
        if plan.stop_trail is not None and price is not None:
            stops.append(rounded(price - plan.stop_trail if up else price + plan.stop_trail, self.tick, up=not up))
        if price is None or not stops:
            return None
        distance = abs(price - (max(stops) if up else min(stops)))
        return money(max(distance, tick_of(price, self.tick) + round_trip(self.terms.costs, price, plan.quantity)))

    def sum(self, roles, of=lambda fill: fill["quantity"]):
        return total(of(fill) for fill in self.fills if fill["role"] in roles)

    @property
    def bought(self):
        """Shares of the entry, long or short."""
        return int(self.sum(("entry",)))

    @property
    def open(self):
        return self.bought - int(self.sum(OUT))

    @property
    def flat(self):
        return self.bought > 0 and self.open == 0

    @property
    def stopped(self):
        return self.stop is not None and self.stop.triggered

    def cancel_entry(self, reason, seq, ts):
        """12: what is left of it."""
        if self.entry:
            left = self.plan.quantity - self.bought
            self.entry = None
            if left:
                self.rest = {"quantity": left, "reason": reason, "ts": ts, "seq": seq}

    def holding(self, known):
        """20: what the strategy knows; `known` says of a time whether what happened then is known."""
        fills = [fill for fill in self.fills if known(fill["ts"])]
        entries = [fill for fill in fills if fill["role"] == "entry"]
        entered = sum(fill["quantity"] for fill in entries)
        paid = total(fill["price"] * fill["quantity"] for fill in entries)
        ended = self.rest and known(self.rest["ts"])
        at_exchange = bool(entries)
        trigger_known = self.triggered_ts is None or known(self.triggered_ts)
        target = self.target if trigger_known or self.exit else self.target_then
        return {
            "long": self.plan.long, "open": entered - sum(f["quantity"] for f in fills if f["role"] != "entry"),
            "entered": entered, "working": 0 if ended else self.plan.quantity - entered,
            "entry_ts": entries[0]["ts"] if entries else None, "entry_price": paid / entered if entered else None,
            "stop": self.stop.stop if at_exchange and self.stop else None,
            "target": target.limit if at_exchange and target else None,
            "leaving": self.leaving or (self.triggered_ts is not None and known(self.triggered_ts)),
        }  # fmt: skip

    def profit(self, price):
        """USD before commission, with the open quantity at `price`."""
        sign = 1 if self.plan.long else -1
        paid = self.sum(("entry",), lambda fill: fill["price"] * fill["quantity"])
        got = self.sum(OUT, lambda fill: fill["price"] * fill["quantity"])
        return money(sign * (got + self.open * price - paid))

    def look(self, price, ts):
        profit = self.profit(price)
        if profit < self.worst[0]:
            self.worst = (profit, ts)
        if profit > self.best[0]:
            self.best = (profit, ts)

    # ---- protective orders ---------------------------------------------------------------------------------------

    def place_stop(self):
        """From here on it covers what is open."""
        if self.stop_price is None and self.plan.stop_trail is None:
            return
        self.stop = Order(
            "stop", not self.plan.long, "trail" if self.plan.stop_trail is not None else "stop", "stop_price",
            self.stop_price, stop=self.stop_price, trail=self.plan.stop_trail, working=True,
        )  # fmt: skip

    def place_target(self):
        if self.target_price is not None:
            self.target = Order(
                "target", not self.plan.long, "limit", "limit_price", self.target_price, self.target_price, working=True
            )

    def exit_of(self, asked):
        """A market order for what is open, measured against the quote when it was sent."""
        return Order("exit", not self.plan.long, "market", "quote_at_decision", asked, working=True)

    def change(self, kind, price, tick):
        """A new price of the protective stop or target; before the first fill, of the ones to be placed."""
        up = self.plan.long
        if kind == "stop":
            self.stop_price = rounded(price, tick, up=not up)
            if self.stop:
                self.stop.stop = self.stop.reference_price = self.stop_price
            elif self.bought:
                self.place_stop()
        else:
            self.target_price = rounded(price, tick, up=up)
            if self.target:
                self.target.limit = self.target.reference_price = self.target_price
                self.target.resting = False
            elif self.bought:
                self.place_target()

    def change_entry(self, price, tick):
        """A new limit, or trigger price of a stop; it arrives like a new order."""
        order, up = self.entry, self.plan.long
        if order.kind in ("stop", "trail") and not order.triggered:
            order.stop = order.reference_price = rounded(price, tick, up=up)
        elif order.kind in ("limit", "stop_limit"):
            order.limit = order.reference_price = rounded(price, tick, up=not up)
            order.resting = False

    # ---- the episode ---------------------------------------------------------------------------------------------

    def through_own_stop(self):
        """Whether the first fill of the entry is at or beyond its stop."""
        price, stop = self.fills[0]["price"], self.stop.stop
        return stop is not None and (price <= stop if self.plan.long else price >= stop)

    def episode(self, nth, seq, ts, price):
        """The row, without what later seconds say; `price` is the closing quote when the data ended."""
        entered = self.sum(("entry",), lambda fill: fill["price"] * fill["quantity"])
        left = self.sum(OUT, lambda fill: fill["price"] * fill["quantity"])
        worth = left + self.open * (price or 0.0)
        sign = 1 if self.plan.long else -1
        pnl = money(sign * (worth - entered) - total(fill["commission"] for fill in self.fills))
        risk = None if self.risk is None else money(self.risk * self.bought)
        when = self.fills[0]["ts"]
        return {
            "con_id": self.con_id, "symbol": self.symbol, "strategy": self.strategy,
            "strategy_digest": self.digest, "decision_seq": self.seq, "decision_ts": self.ts,
            "trade_id": f"T{datetime.fromtimestamp(ts // SECOND, UTC):%H%M%S}_{nth:03}",
            "side": "LONG" if self.plan.long else "SHORT", "quantity": self.bought, "taken": True, "mode": "event",
            "entry_ts": when, "entry_price": entered / self.bought, "exit_ts": ts, "exit_seq": seq,
            "exit_price": left / self.bought if not self.open else price,
            "entry_reason": self.plan.reason, "exit_reason": self.reason, "pnl_usd": pnl,
            "r_multiple": None if risk is None else pnl / risk, "mae": self.worst[0], "mfe": self.best[0],
            "hold_seconds": (ts - when) / SECOND,
            "win_loss": "WIN" if pnl > 0.005 else "LOSS" if pnl < -0.005 else "BREAKEVEN",
            "time_to_mae": None if self.worst[1] is None else (self.worst[1] - when) / SECOND,
            "time_to_mfe": None if self.best[1] is None else (self.best[1] - when) / SECOND,
            "initial_risk_usd": risk, "target": self.plan.target, "fills": self.fills,
            "rest": self.rest,
            "features_pre": window(self.before, self.ts),
        }  # fmt: skip


def window(before, ts):
    """The buckets from 120 s to 30 s before a decision; when there are none the last 120 before it."""
    far = [b for b in before if ts - 120 * SECOND <= b["ts"] and b["ts"] + SECOND <= ts - 30 * SECOND]
    return far or [b for b in before if b["ts"] + SECOND <= ts][-120:]
