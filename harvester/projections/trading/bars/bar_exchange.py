"""The simulated exchange on bars: matches the orders of one position with one bar. Rules: docs/trading.md, B1 to B12.

A bar does not say in which order its prices came. Where that matters, the order that is worse for the position is
assumed. Positions, orders and costs are those of the exchange on quotes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from harvester.errors import BadSetting
from harvester.projections.trading.plan import OrderType
from harvester.projections.trading.position import IMMEDIATE, STOP, STOP_THROUGH, TARGET, Position
from harvester.projections.trading.simulated_exchange import DIGITS, Fill, Order, on_step, trailed

if TYPE_CHECKING:
    from harvester.projections.trading.bars.bar_series import TimedBar
    from harvester.projections.trading.costs import CostTable

SOURCE_BAR = "bar"  # `Fill.source`


class BarRules(msgspec.Struct, frozen=True, kw_only=True):
    """What bars do not say and is assumed.

    Attributes:
        spread_bps: the spread, 1e-4 of the bar's open; never less than two price steps.
        volume_share: fraction of a bar's volume that a strategy's entries may take, and its exits as much again.
    """

    spread_bps: float = 5.0
    volume_share: float = 0.1

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            BadSetting: one is out of range.
        """
        if not 0 <= self.spread_bps <= 1000:
            raise BadSetting(f"--spread-bps {self.spread_bps:g} is out of range; it must be 0 to 1000")
        if not 0 < self.volume_share <= 1:
            raise BadSetting(f"--volume-share {self.volume_share:g} is out of range; it must be above 0, at most 1")


class BarQuote:
    """The assumed quote of one bar, and what of its volume is left for a strategy.

    Attributes:
        half: half the spread, a whole number of price steps, USD.
        entry_room, exit_room: shares. Apart, so that a full entry never keeps its own stop from filling.
    """

    def __init__(self, bar: TimedBar, tick: float, rules: BarRules, share_max: float) -> None:
        self.tick = tick
        self.half = on_step(max(tick, bar.open * rules.spread_bps / 20_000), tick, up=True)
        self.entry_room = self.exit_room = math.floor(bar.volume * min(rules.volume_share, share_max))

    def price(self, traded: float, *, buy: bool) -> float:
        """The price of a market order where the tape traded at `traded`; at least one price step."""
        if buy:
            return on_step(traded + self.half, self.tick, up=True)
        return max(on_step(traded - self.half, self.tick, up=False), self.tick)


class BarMatch:
    """One position in one bar: `run` matches its orders and returns the (role, fill) pairs.

    Args:
        position: with what has arrived at the exchange in it.
        bar, quote: the bar.
        costs: of the position's run.
        arrives: when the entry arrives, ns UTC, if that is in this bar; else None.
    """

    def __init__(
        self, position: Position, bar: TimedBar, quote: BarQuote, costs: CostTable, arrives: int | None = None
    ) -> None:
        self._position, self._bar, self._quote, self._costs = position, bar, quote, costs
        self._arrives = arrives
        self._opens = bar.start if arrives is None else max(bar.start, arrives)
        self._begun = bar.open  # the traded price from which on the position is held in this bar
        self._entered = self._inside = False  # an entry has filled in this bar; and after its open
        self._made: list[tuple[str, Fill]] = []

    def run(self) -> list[tuple[str, Fill]]:
        """Match at the open, then inside the bar, then see what the close says."""
        position, bar = self._position, self._bar
        self._exits_at_open()
        if self._works(self._opens):
            self._entry_at_open()
        if self._arrives is not None and position.plan.immediate:
            position.cancel_entry(IMMEDIATE, self._opens, bar.seq)
        if self._made or position.open:
            self._look(bar.open, self._opens)
        if self._works(bar.end - 1):
            self._entry_inside()
        self._stop_inside()
        self._target_inside()
        if position.open:
            self._look(self._worst, bar.end)
            if not self._inside:
                self._look(self._best, bar.end)
            self._look(bar.close, bar.end)
        self._trail()
        return self._made

    # the bar seen from the position

    @property
    def _worst(self) -> float:
        return self._bar.low if self._position.plan.long else self._bar.high

    @property
    def _best(self) -> float:
        return self._bar.high if self._position.plan.long else self._bar.low

    def _works(self, ts: int) -> bool:
        position = self._position
        in_time = position.expires is None or ts < position.expires
        return position.placed and position.entry.left > 0 and in_time

    def _look(self, traded: float, ts: int) -> None:
        """Note the open profit if everything left were sold where the tape traded at this price."""
        position = self._position
        position.excursion.look(position.profit(self._quote.price(traded, buy=not position.plan.long)), ts)

    def _touched(self, order: Order, traded: float) -> bool:
        """Whether a stop is triggered when the tape trades at this price (B6)."""
        if order.trigger is None:
            return False
        near = traded if order.last_only else self._quote.price(traded, buy=order.buy)
        return near >= order.trigger if order.buy else near <= order.trigger

    # the open

    def _exits_at_open(self) -> None:
        position = self._position
        if not position.open:
            return
        if position.exit is not None:
            self._leave("exit", position.exit, self._bar.open, self._bar.start)
        elif (stop := position.stop) is not None and (stop.triggered or self._touched(stop, self._bar.open)):
            self._stop_out(stop, self._bar.open, self._bar.start)

    def _entry_at_open(self) -> None:
        entry, bar = self._position.entry, self._bar
        near = self._quote.price(bar.open, buy=entry.buy)
        if entry.trail is not None and entry.waits_for_trigger:
            entry.trigger = trailed(entry.trigger, near, entry.trail, self._quote.tick, buy=entry.buy)
        if entry.waits_for_trigger:
            if not self._touched(entry, bar.open):
                return
            entry.triggered = True
        if entry.limit is None:
            self._enter(near, bar.open)
        elif not entry.resting:
            entry.resting = True
            if _reached(entry, near):
                self._enter(near, bar.open)

    # inside the bar

    def _entry_inside(self) -> None:
        entry, bar = self._position.entry, self._bar
        if entry.waits_for_trigger:
            if not self._touched(entry, bar.high if entry.buy else bar.low):
                return
            assert entry.trigger is not None, "a stop that triggers has a price"
            entry.triggered = True
            near = self._quote.price(entry.trigger, buy=entry.buy)
            entry.resting = entry.limit is not None
            if entry.limit is None or _reached(entry, near):
                self._enter(near, entry.trigger, inside=True)
        elif entry.limit is not None and entry.resting and self._traded_through(entry):
            self._enter(entry.limit, entry.limit, inside=True, rested=True)

    def _traded_through(self, order: Order) -> bool:
        """Whether the bar traded at least one price step beyond a resting limit (B5)."""
        assert order.limit is not None, "a resting order has a limit"
        tick = self._quote.tick
        if order.buy:
            return self._bar.low <= round(order.limit - tick, DIGITS)
        return self._bar.high >= round(order.limit + tick, DIGITS)

    def _stop_inside(self) -> None:
        position, stop = self._position, self._position.stop
        if not position.open or position.exit is not None or stop is None:
            return
        if stop.triggered:
            if position.exit_reason == STOP_THROUGH and self._entered:
                at = self._bar.end if self._inside else self._opens
                self._stop_out(stop, _worse(position, stop.trigger, self._begun), at)
        elif self._touched(stop, self._worst):
            self._stop_out(stop, _worse(position, stop.trigger, self._begun), self._bar.end)

    def _target_inside(self) -> None:
        position, target = self._position, self._position.target
        if not position.open or position.exit is not None or target is None or self._entered:
            return
        if target.limit is None or not self._traded_through(target):
            return
        self._look(self._worst, self._bar.end)
        target.quantity = target.filled + position.open
        if fill := self._fill(target, target.limit, self._quote.exit_room, self._bar.end, rested=True):
            position.exit_reason = TARGET
            self._left("target", fill)

    # fills

    def _enter(self, price: float, traded: float, *, inside: bool = False, rested: bool = False) -> None:
        """Fill the entry at `price`, where the tape traded at `traded`: at the open, or `inside` the bar."""
        position, quote = self._position, self._quote
        ts = self._bar.end if inside else self._opens
        if (fill := self._fill(position.entry, price, quote.entry_room, ts, rested=rested)) is None:
            return
        quote.entry_room -= fill.quantity
        first, held = not position.fills, position.open > 0
        position.fills.append(fill)
        position.entered += fill.quantity
        position.entry_value += fill.price * fill.quantity
        self._made.append(("entry", fill))
        self._entered, self._inside = True, self._inside or inside
        if not held:
            self._begun = min(max(traded, self._bar.low), self._bar.high)  # an ask or bid may trigger beyond the tape
        if first and position.exit is None:
            self._protect(fill, traded)

    def _protect(self, fill: Fill, traded: float) -> None:
        """Place stop and target with the first fill of the entry (rule 13)."""
        position, plan = self._position, self._position.plan
        tick, buy = position.tick, not plan.long
        if position.stop_at is not None or plan.stop_trail is not None:
            price = None if position.stop_at is None else on_step(position.stop_at, tick, up=buy)
            through = price is not None and position.sign * (fill.price - price) <= 0
            if plan.stop_trail is not None:
                near = self._quote.price(traded, buy=buy)
                price = trailed(price, near, plan.stop_trail, tick, buy=buy)
            position.stop = Order(
                type=OrderType.STOP if plan.stop_trail is None else OrderType.TRAIL,
                buy=buy,
                quantity=position.open,
                reference="stop_price",
                reference_price=price,
                trigger=price,
                trail=plan.stop_trail,
                tick=tick,
                last_only=position.entry.last_only,
                triggered=through,
            )
            if through:
                position.exit_reason = STOP_THROUGH
        if position.target_at is not None:
            limit = on_step(position.target_at, tick, up=plan.long)
            position.target = Order(
                type=OrderType.LIMIT,
                buy=buy,
                quantity=position.open,
                reference="limit_price",
                reference_price=limit,
                limit=limit,
                tick=tick,
            )

    def _stop_out(self, stop: Order, traded: float, ts: int) -> None:
        """The stop triggers: a market order where the tape traded at `traded`; the target and the entry are gone."""
        position = self._position
        stop.triggered = True
        stop.reference_price = stop.trigger
        position.target = None
        if position.exit_reason != STOP_THROUGH:
            position.exit_reason = STOP
        position.cancel_entry(position.exit_reason, ts, self._bar.seq)
        self._leave("stop", stop, traded, ts)

    def _leave(self, role: str, order: Order, traded: float, ts: int) -> None:
        order.quantity = order.filled + self._position.open
        price = self._quote.price(traded, buy=order.buy)
        if fill := self._fill(order, price, self._quote.exit_room, ts, rested=False):
            self._left(role, fill)

    def _left(self, role: str, fill: Fill) -> None:
        position = self._position
        self._quote.exit_room -= fill.quantity
        position.fills.append(fill)
        position.exited += fill.quantity
        position.exit_value += fill.price * fill.quantity
        self._made.append((role, fill))
        position.excursion.look(position.profit(fill.price), fill.ts)
        if position.open == 0:
            position.cancel_entry(TARGET, fill.ts, fill.seq)

    def _fill(self, order: Order, price: float, room: int, ts: int, *, rested: bool) -> Fill | None:
        """Fill at most `room` shares, and charge the rise in the order's costs; None when nothing is filled."""
        shares = min(order.left, room)
        if shares <= 0:
            return None
        if rested:
            order.added += shares
        else:
            order.taken += shares
        order.value += price * shares
        sell = not order.buy
        costs = self._costs.charged(sell=sell, taken=order.taken, added=order.added, value=order.value)
        total = round(costs, DIGITS)
        charged, order.commission = round(total - order.commission, DIGITS), total
        worse = None
        if order.reference_price is not None:
            worse = round((price - order.reference_price) * (1 if order.buy else -1), DIGITS) + 0.0
        return Fill(
            ts=ts,
            seq=self._bar.seq,
            price=price,
            quantity=shares,
            side="BUY" if order.buy else "SELL",
            source=SOURCE_BAR,
            reference_price=order.reference_price,
            slippage=worse,
            commission=charged,
            reference=order.reference,
        )

    # the close

    def _trail(self) -> None:
        """Move trailing stops by the completed bar (B8)."""
        position, bar, quote = self._position, self._bar, self._quote
        stop, entry = position.stop, position.entry
        if position.open and stop is not None and stop.trail is not None and not stop.triggered:
            traded = bar.close if self._inside else self._best
            stop.trigger = trailed(
                stop.trigger, quote.price(traded, buy=stop.buy), stop.trail, quote.tick, buy=stop.buy
            )
        if position.placed and entry.left and entry.trail is not None and entry.waits_for_trigger:
            traded = bar.low if entry.buy else bar.high
            near = quote.price(traded, buy=entry.buy)
            entry.trigger = trailed(entry.trigger, near, entry.trail, quote.tick, buy=entry.buy)


def _reached(order: Order, opposite: float) -> bool:
    assert order.limit is not None, "a limit order has a limit"
    return opposite <= order.limit if order.buy else opposite >= order.limit


def _worse(position: Position, one: float | None, other: float) -> float:
    """The price that is worse for leaving the position."""
    if one is None:
        return other
    return min(one, other) if position.plan.long else max(one, other)
