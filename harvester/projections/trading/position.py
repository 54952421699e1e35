"""One simulated trade from decision to flat: its messages on the way, orders, fills, worst and best open profit.

A position is plain data. `step` moves it at each moment of its symbol, `arrive` when a message reaches the exchange;
the trading fold cancels its entry at outages, halts and the end of a run. The rules are in docs/trading.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from harvester.projections.trading.plan import Change, ChangeKind, EntryPlan, OrderType
from harvester.projections.trading.simulated_exchange import (
    DIGITS,
    Fill,
    Moment,
    Order,
    ShownQuote,
    execute,
    on_step,
    trailed,
)
from harvester.projections.trading.strategy import Holding

if TYPE_CHECKING:
    from harvester.projections.trading.costs import CostTable

STOP, STOP_THROUGH, TARGET = "STOP", "STOP_THROUGH", "TARGET"
TIME_STOP, SESSION_END = "TIME_STOP", "SESSION_END"
RUN_CHANGE, RUN_END, DATA_END = "RUN_CHANGE", "RUN_END", "DATA_END"
OUTAGE, HALTED, NOT_LIVE, SESSION_CLOSED = "OUTAGE", "HALTED", "NOT_LIVE", "SESSION_CLOSED"
EXPIRED, IMMEDIATE, CANCELLED, RIVAL = "EXPIRED", "IOC", "CANCELLED", "OCO"
STRATEGY_ERROR = "STRATEGY_ERROR"
EXIT = "EXIT"  # only in `CancelledRest`: an exit cancelled the rest of the entry


class Excursion(msgspec.Struct):
    """Worst and best open profit so far, USD before commission, and when (ns UTC; None = never left zero)."""

    mae: float = 0.0
    mfe: float = 0.0
    mae_ts: int | None = None
    mfe_ts: int | None = None

    def look(self, profit: float, ts: int) -> None:
        if profit < self.mae:
            self.mae, self.mae_ts = profit, ts
        if profit > self.mfe:
            self.mfe, self.mfe_ts = profit, ts


class Sent(msgspec.Struct, frozen=True):
    """A message sent at clock `seq` as the `number`-th, there at `arrives` (ns UTC); no change = the entry itself."""

    seq: int
    arrives: int
    number: int
    change: Change | None = None
    reference_price: float | None = None


class CancelledRest(msgspec.Struct, frozen=True):
    """What of an entry was cancelled: shares, why (rule 12), and when (ns UTC, seq)."""

    quantity: int
    reason: str
    ts: int
    seq: int


class Position(msgspec.Struct):
    """A decision and its orders and fills. Identity: (date, symbol, strategy_digest, mode, decision_seq).

    Attributes:
        entry: the order of the entry; it works from its arrival (`placed`) on.
        expires: from when on the entry no longer fills, ns UTC; None before its arrival. `expires_for`: the reason.
        rest: what of the entry was cancelled, None while nothing was.
        number: of its entry among the messages of the date.
        triggered_ts: when its stop triggered, ns UTC; `target_then`: price of the target that this cancelled, USD.
        sent: messages on their way; `sent_exit`: an exit was sent, whatever became of it.
        tick: smallest price step, USD; `risk`: initial risk a share, USD, None = unknown.
        stop_at, target_at: prices the protective orders are placed with, USD.
    """

    con_id: int
    symbol: str
    strategy: str
    strategy_digest: str
    run: str
    decision_seq: int
    decision_ts: int
    gate_codes: list[str]
    plan: EntryPlan
    entry: Order
    sent: list[Sent]
    tick: float
    risk: float | None
    stop_at: float | None = None
    target_at: float | None = None
    placed: bool = False
    expires: int | None = None
    expires_for: str = EXPIRED
    rest: CancelledRest | None = None
    number: int = 0
    triggered_ts: int | None = None
    target_then: float | None = None
    stop: Order | None = None
    target: Order | None = None
    exit: Order | None = None
    sent_exit: bool = False
    exit_reason: str = ""
    fills: list[Fill] = []
    entry_value: float = 0.0
    entered: int = 0
    exit_value: float = 0.0
    exited: int = 0
    excursion: Excursion = msgspec.field(default_factory=Excursion)

    @property
    def open(self) -> int:
        """Shares held, without sign."""
        return self.entered - self.exited

    @property
    def working(self) -> int:
        """Shares the entry waits for, on its way or at the exchange."""
        return self.entry.left

    @property
    def closed(self) -> bool:
        """Flat again after having held something."""
        return self.entered > 0 and self.open == 0 and self.entry.left == 0

    @property
    def at_rest(self) -> bool:
        """Whether only a stop and a target with fixed prices work: only a price that reaches one can move this."""
        if self.exit is not None or not self.open or (self.placed and self.entry.left):
            return False
        stop, target = self.stop, self.target
        return (stop is None or (not stop.triggered and stop.trail is None)) and (target is None or target.resting)

    @property
    def idle(self) -> bool:
        """Whether nothing works at the exchange and nothing is held, so that no observation can move this."""
        return not self.open and not (self.placed and self.entry.left)

    @property
    def bracket(self) -> tuple[bool, float | None, float | None]:
        """Direction, stop and target price at rest."""
        stop, target = self.stop, self.target
        return self.plan.long, stop.trigger if stop else None, target.limit if target else None

    @property
    def never_filled(self) -> bool:
        """Whether the entry ended without a fill."""
        return self.entered == 0 and self.entry.left == 0

    @property
    def leaving(self) -> bool:
        """Whether an exit was sent or works, or the stop has triggered."""
        return self.sent_exit or (self.stop is not None and self.stop.triggered)

    @property
    def ended(self) -> str:
        """Why the entry was cancelled, empty while it has not been."""
        return self.rest.reason if self.rest else ""

    @property
    def sign(self) -> int:
        return 1 if self.plan.long else -1

    def known(self, until: int) -> Holding:
        """What its strategy knows when answers up to `until` (ns UTC) have come (rule 20)."""
        fills = [fill for fill in self.fills if fill.ts <= until]
        entries = [fill for fill in fills if (fill.side == "BUY") == self.plan.long]
        entered = sum(fill.quantity for fill in entries)
        value = sum(fill.price * fill.quantity for fill in entries)
        gone = self.rest.quantity if self.rest is not None and self.rest.ts <= until else 0
        _, stop, target = self.bracket if fills else (True, None, None)
        triggered = self.triggered_ts is not None and self.triggered_ts <= until
        if fills and self.triggered_ts is not None and not triggered and self.exit is None:
            target = self.target_then
        return Holding(
            long=self.plan.long,
            open=2 * entered - sum(fill.quantity for fill in fills),
            entered=entered,
            working=self.plan.quantity - entered - gone,
            entry_ts=fills[0].ts if fills else None,
            entry_price=round(value / entered, DIGITS) if fills else None,
            stop=stop,
            target=target,
            leaving=self.sent_exit or triggered,
        )

    def profit(self, price: float) -> float:
        """USD before commission, with the open quantity valued at `price`."""
        return round(self.sign * (self.exit_value + price * self.open - self.entry_value), DIGITS) + 0.0

    # moments

    def step(
        self, now: Moment, shown: ShownQuote, costs: CostTable, arriving: Order | None = None
    ) -> list[tuple[str, Fill]]:
        """Match the working orders at one moment: the entry, then the stop, then the target, or the exit.

        `arriving`: only this order, and those placed at this moment by its fill.

        Returns:
            (role, fill) pairs, role one of entry, stop, target, exit.
        """
        made: list[tuple[str, Fill]] = []
        working = [order for _, order in self._exits()]
        in_time = self.placed and (self.expires is None or now.ts < self.expires)
        if in_time and (arriving is None or arriving is self.entry):
            fills = execute(self.entry, now, shown, costs)
            made += [("entry", fill) for fill in fills]
            self._entered(fills)
        for role, order in self._exits():
            if self.open == 0:
                break
            if arriving is not None and order is not arriving and any(order is one for one in working):
                continue
            order.quantity = order.filled + self.open
            for fill in execute(order, now, shown, costs):
                made.append((role, fill))
                self._exited(role, fill)
            if order.triggered:
                if self.triggered_ts is None:
                    self.triggered_ts, self.target_then = now.ts, self.bracket[2]
                self.target = None  # one cancels the other: a triggered stop is never overtaken by the target
                self.cancel_entry(STOP_THROUGH if self.exit_reason == STOP_THROUGH else STOP, now.ts, now.seq)
                break
        if self.entered and shown.good and (self.open or made):
            self.excursion.look(self.profit(shown.price(buy=not self.plan.long)), now.ts)
        return made

    def _exits(self) -> list[tuple[str, Order]]:
        if self.exit is not None:
            return [("exit", self.exit)]
        return [(role, order) for role, order in (("stop", self.stop), ("target", self.target)) if order is not None]

    def _entered(self, fills: list[Fill]) -> None:
        first = not self.fills
        self.fills += fills
        self.entered += sum(fill.quantity for fill in fills)
        for fill in fills:
            self.entry_value += fill.price * fill.quantity
        if first and fills and self.exit is None:
            self._protect(fills[0])

    def _protect(self, fill: Fill) -> None:
        """Place the protective orders (rule 13)."""
        if self.stop_at is not None or self.plan.stop_trail is not None:
            stop = self._place_stop(self.stop_at)
            if self.stop_at is not None and self.sign * (fill.price - self._stop_price(self.stop_at)) <= 0:
                self.exit_reason = STOP_THROUGH
                stop.triggered = True
        if self.target_at is not None:
            self._place_target(self.target_at)

    def _stop_price(self, price: float) -> float:
        return on_step(price, self.tick, up=not self.plan.long)

    def _place_stop(self, price: float | None) -> Order:
        """Place the stop, or move it."""
        trigger = None if price is None else self._stop_price(price)
        if self.stop is not None:
            self.stop.trigger = self.stop.reference_price = trigger
            return self.stop
        self.stop = Order(
            type=OrderType.STOP if self.plan.stop_trail is None else OrderType.TRAIL,
            buy=not self.plan.long,
            quantity=self.open,
            reference="stop_price",
            reference_price=trigger,
            trigger=trigger,
            trail=self.plan.stop_trail,
            tick=self.tick,
            share_max=self.entry.share_max,
            last_only=self.entry.last_only,
            deep=self.entry.deep,
        )
        return self.stop

    def _place_target(self, price: float) -> Order:
        limit = on_step(price, self.tick, up=self.plan.long)
        if self.target is not None:
            self.target.limit = self.target.reference_price = limit
            self.target.resting = False
            return self.target
        self.target = Order(
            type=OrderType.LIMIT,
            buy=not self.plan.long,
            quantity=self.open,
            reference="limit_price",
            reference_price=limit,
            limit=limit,
            share_max=self.entry.share_max,
            deep=self.entry.deep,
        )
        return self.target

    def _exited(self, role: str, fill: Fill) -> None:
        self.fills.append(fill)
        self.exited += fill.quantity
        self.exit_value += fill.price * fill.quantity
        if role == "target":
            self.exit_reason = TARGET
        elif role == "stop" and self.exit_reason != STOP_THROUGH:
            self.exit_reason = STOP
        if self.open == 0:
            self.cancel_entry(self.exit_reason, fill.ts, fill.seq)

    def cancel_entry(self, reason: str, ts: int, seq: int) -> None:
        """Cancel the unfilled part of the entry, on its way or at the exchange, at `ts` (ns UTC) and `seq`."""
        if self.entry.left:
            self.rest = CancelledRest(self.entry.left, reason, ts, seq)
            self.entry.quantity = self.entry.filled
            self.sent = [m for m in self.sent if m.change is not None]

    # messages

    def arrive(self, message: Sent, now: Moment, shown: ShownQuote, costs: CostTable) -> list[tuple[str, Fill]]:
        """A message reaches the exchange; the fills it makes at this moment, as `step` gives them."""
        self.sent.remove(message)
        change = message.change
        if change is None:
            self.placed = True
            order: Order | None = self.entry
        else:
            order = self._apply(change, message, now)
        if order is None:
            return []
        made = self.step(now, shown, costs, arriving=order)
        if change is None and self.plan.immediate:
            self.cancel_entry(IMMEDIATE, now.ts, now.seq)
        return made

    def _apply(self, change: Change, message: Sent, now: Moment) -> Order | None:
        """Apply a change; the order that arrives by it, None when there is none."""
        price = change.price
        if change.kind is ChangeKind.EXIT:
            return self.leave(change.reason, message.reference_price, now.ts, now.seq)
        if change.kind is ChangeKind.CANCEL:
            self.cancel_entry(CANCELLED, now.ts, now.seq)
        if price is None:
            return None
        if change.kind is ChangeKind.ENTRY:
            return self._move_entry(price) if self.placed and self.entry.left else None
        if self.exit is not None or (self.stop is not None and self.stop.triggered):
            return None
        if change.kind is ChangeKind.STOP:
            self.stop_at = price
            return self._place_stop(price) if self.open else None
        self.target_at = price
        return self._place_target(price) if self.open else None

    def _move_entry(self, price: float) -> Order:
        entry = self.entry
        if entry.limit is not None:
            entry.limit = entry.reference_price = on_step(price, self.tick, up=not entry.buy)
            entry.resting = False
        elif entry.waits_for_trigger:
            entry.trigger = entry.reference_price = on_step(price, self.tick, up=entry.buy)
        return entry

    def leave(self, reason: str, reference_price: float | None, ts: int, seq: int) -> Order | None:
        """An exit arrives: close at the market instead of by stop and target (rule 14); None when nothing is open."""
        self.cancel_entry(EXIT if self.entered else CANCELLED, ts, seq)
        if self.open == 0 or self.exit is not None or (self.stop is not None and self.stop.triggered):
            return None
        self.stop = self.target = None
        self.exit_reason = reason
        self.exit = Order(
            type=OrderType.MARKET,
            buy=not self.plan.long,
            quantity=self.open,
            reference="quote_at_decision",
            reference_price=reference_price,
            share_max=self.entry.share_max,
            deep=self.entry.deep,
        )
        return self.exit


def opening_order(
    plan: EntryPlan, tick: float, asked: float | None, *, share_max: float, last_only: bool, deep: bool = False
) -> Order:
    """The entry's order; `asked`: the live opposite quote at the decision, USD, None without one."""
    buy = plan.long
    limit = None if plan.limit is None else on_step(plan.limit, tick, up=not buy)
    trigger = None if plan.trigger is None else on_step(plan.trigger, tick, up=buy)
    reference, price = "quote_at_decision", asked
    if plan.type in (OrderType.LIMIT, OrderType.STOP_LIMIT):
        reference, price = "limit_price", limit
    elif plan.type is OrderType.STOP:
        reference, price = "stop_price", trigger
    elif plan.type is OrderType.TRAIL and plan.trail is not None:
        near = None if asked is None else trailed(None, asked, plan.trail, tick, buy=buy)
        reference, price = "stop_price", near
    return Order(
        type=plan.type,
        buy=buy,
        quantity=plan.quantity,
        reference=reference,
        reference_price=price,
        limit=limit,
        trigger=trigger,
        trail=plan.trail,
        tick=tick,
        share_max=share_max,
        last_only=last_only,
        deep=deep,
    )


def risk_per_share(plan: EntryPlan, reference: float | None, tick: float, costs: CostTable) -> float | None:
    """Initial risk a share, USD, fixed at the decision (rule 16); None without a stop or a reference."""
    stop = protective_price(plan, tick, reference)
    if reference is None or stop is None:
        return None
    return round(max(abs(reference - stop), tick + costs.round_trip(reference, plan.quantity)), DIGITS)


def protective_price(plan: EntryPlan, tick: float, reference: float | None) -> float | None:
    """Price of the first stop, USD: the better of a fixed and a trailing one; None without one."""
    prices = [] if plan.stop is None else [on_step(plan.stop, tick, up=not plan.long)]
    if plan.stop_trail is not None and reference is not None:
        prices.append(trailed(None, reference, plan.stop_trail, tick, buy=not plan.long))
    return (max if plan.long else min)(prices, default=None)
