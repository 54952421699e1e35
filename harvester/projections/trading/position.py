"""One simulated trade from decision to flat: its orders, its fills, its worst and best open profit.

A position is plain data. `step` moves it at each observation of its symbol; the clock may call `cancel_entry` and
`leave`.

Stop and target work at the exchange from the event after the entry's first fill, without latency, and always for the
whole open quantity: later fills of the entry and sales of the target count at once. The order that fills last gives the
reason of the exit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from harvester.projections.trading.simulated_exchange import (
    DIGITS,
    Fill,
    Observation,
    Order,
    OrderType,
    ShownQuote,
    execute,
)

if TYPE_CHECKING:
    from harvester.projections.trading.costs import CostTable

STOP, TARGET = "STOP", "TARGET"
TIME_STOP, SESSION_END = "TIME_STOP", "SESSION_END"
RUN_CHANGE, DATA_END = "RUN_CHANGE", "DATA_END"


class EntryPlan(msgspec.Struct, frozen=True):
    """A strategy's order: an entry at the market with a bracket.

    Attributes:
        long: buy to open, else sell to open.
        quantity: whole shares.
        stop: price at which the loss is cut, USD.
        target: price of the resting profit order, USD.
        valid_seconds: how long the entry may wait for its fill, from its arrival (decision time + latency).
        hold_seconds_max: time stop, from the first fill; the first clock at or after it acts.
        reason: entry reason in the episode.
        features: inputs of the decision.
    """

    long: bool
    quantity: int
    stop: float
    target: float
    valid_seconds: float
    hold_seconds_max: float
    reason: str
    features: dict[str, float | None] = {}


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


class Position(msgspec.Struct):
    """A decision and its orders and fills. Identity: (date, symbol, strategy_digest, mode, decision_seq)."""

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
    stop: Order | None = None
    target: Order | None = None
    exit: Order | None = None
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
    def closed(self) -> bool:
        """Flat again after having held something."""
        return self.entered > 0 and self.open == 0 and self.entry.left == 0

    @property
    def at_rest(self) -> bool:
        """Whether only the bracket works, so that only a price that reaches it can move this position."""
        stop, target = self.stop, self.target
        if stop is None or target is None or self.exit is not None or self.entry.left or not self.open:
            return False
        return stop.left == target.left == self.open and target.resting and not stop.triggered

    @property
    def never_filled(self) -> bool:
        """Whether the entry ended without a fill."""
        return self.entered == 0 and self.entry.left == 0

    @property
    def sign(self) -> int:
        return 1 if self.plan.long else -1

    def profit(self, price: float) -> float:
        """USD before commission, with the open quantity valued at `price`."""
        return round(self.sign * (self.exit_value + price * self.open - self.entry_value), DIGITS) + 0.0

    def step(self, seen: Observation, shown: ShownQuote, costs: CostTable) -> list[tuple[str, Fill]]:
        """Match the working orders against one observation: the entry first, then the stop before the target.

        Returns:
            (role, fill) pairs, role one of entry, stop, target, exit.
        """
        made: list[tuple[str, Fill]] = []
        if fill := execute(self.entry, seen, shown, costs):
            made.append(("entry", fill))
            self._entered(fill)
        for role, order in self._exits():
            if self.open == 0:
                break
            order.quantity = order.filled + self.open
            if fill := execute(order, seen, shown, costs):
                made.append((role, fill))
                self._exited(role, fill)
            if order.triggered:
                self.target = None  # one cancels the other: a triggered stop is never overtaken by the target
                self.cancel_entry()
                break
        if self.entered and shown.good and (self.open or made):
            self.excursion.look(self.profit(shown.price(buy=not self.plan.long)), seen.ts)
        return made

    def _exits(self) -> list[tuple[str, Order]]:
        if self.exit is not None:
            return [("exit", self.exit)]
        return [(role, order) for role, order in (("stop", self.stop), ("target", self.target)) if order is not None]

    def _entered(self, fill: Fill) -> None:
        self.fills.append(fill)
        self.entered += fill.quantity
        self.entry_value += fill.price * fill.quantity
        if self.exit is not None:
            return
        if self.stop is None:
            self.stop = self._bracket(OrderType.STOP, self.plan.stop, "stop_price", fill)
            self.target = self._bracket(OrderType.LIMIT, self.plan.target, "limit_price", fill)
            self.target.resting = True  # it works at the exchange from the entry's fill on

    def _bracket(self, kind: OrderType, price: float, reference: str, fill: Fill) -> Order:
        return Order(
            type=kind,
            buy=not self.plan.long,
            quantity=fill.quantity,
            price=price,
            after_seq=fill.seq,
            not_before=fill.ts,
            reference=reference,
            reference_price=price,
        )

    def _exited(self, role: str, fill: Fill) -> None:
        self.fills.append(fill)
        self.exited += fill.quantity
        self.exit_value += fill.price * fill.quantity
        if role != "exit":
            self.exit_reason = STOP if role == "stop" else TARGET
        if self.open == 0:
            self.cancel_entry()

    def cancel_entry(self) -> None:
        """Cancel the unfilled part of the entry."""
        self.entry.quantity = self.entry.filled

    def leave(self, reason: str, after_seq: int, not_before: int, shown: ShownQuote) -> bool:
        """Close at the market instead of by the bracket; False when an exit already works."""
        self.cancel_entry()
        if self.open == 0 or self.exit is not None or (self.stop is not None and self.stop.triggered):
            return False
        self.stop = self.target = None
        self.exit_reason = reason
        closing_buy = not self.plan.long
        self.exit = Order(
            type=OrderType.MARKET,
            buy=closing_buy,
            quantity=self.open,
            after_seq=after_seq,
            not_before=not_before,
            reference="quote_at_decision",
            reference_price=shown.price(buy=closing_buy) if shown.good else None,
        )
        return True
