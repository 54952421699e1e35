"""Exits as overlays: a strategy lists them in `exits`, and the framework applies them to every position.

An overlay may add to an entry when it is sent (`protect`) and give changes each second of a position (`follow`).
Percentages are of the entry price. `state` is a namespace for the overlay and symbol, new for every position.

    def exits(self):
        return Bracket(0.3, 0.6), BreakEven(0.3), TimeStop(120), SpreadExit(30)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from harvester.projections.trading.plan import Change, ChangeKind

if TYPE_CHECKING:
    from harvester.projections.trading.plan import EntryPlan
    from harvester.projections.trading.strategy import Holding
    from harvester.projections.trading.user_strategy import Now


class Overlay(msgspec.Struct, frozen=True):
    """Base of overlays; one of your own overrides `protect`, `follow` or both."""

    def protect(self, order: EntryPlan, now: Now) -> EntryPlan:
        """The entry with what this overlay adds."""
        del now
        return order

    def follow(self, held: Holding, now: Now, state: Any) -> Change | None:
        """A change of the position, None = leave it. Called while shares are held and a live quote is in force."""
        del held, now, state
        return None


class Bracket(Overlay, frozen=True):
    """Stop and target at percentages from the entry's price, where the strategy gave none."""

    stop_percent: float = 0.3
    target_percent: float = 0.6

    def protect(self, order: EntryPlan, now: Now) -> EntryPlan:
        price = order.limit or order.trigger or (now.ask if order.long else now.bid)
        if price is None:
            return order
        sign = 1 if order.long else -1
        digits = 2 if price >= 1 else 4  # Regulation NMS rule 612
        stop = round(price * (1 - sign * self.stop_percent / 100), digits)
        target = round(price * (1 + sign * self.target_percent / 100), digits)
        order = order if order.stop is not None else msgspec.structs.replace(order, stop=stop)
        return order if order.target is not None else msgspec.structs.replace(order, target=target)


class TimeStop(Overlay, frozen=True):
    """Close a position that has been held so long."""

    minutes: float = 120.0

    def protect(self, order: EntryPlan, now: Now) -> EntryPlan:
        del now
        return msgspec.structs.replace(order, hold_seconds_max=self.minutes * 60)


class BreakEven(Overlay, frozen=True):
    """Move the stop to the entry price once the position has gained so much."""

    after_percent: float = 0.3

    def follow(self, held: Holding, now: Now, state: Any) -> Change | None:
        if getattr(state, "done", False) or _gain_percent(held, now) < self.after_percent:
            return None
        state.done = True
        price = held.entry_price or 0.0
        return Change(ChangeKind.STOP, price) if _is_closer(held, price) else None


class Trailing(Overlay, frozen=True):
    """Keep the stop at most so far behind the best price since the entry."""

    percent: float = 0.3
    step_percent: float = 0.05  # the stop moves only by more than this

    def follow(self, held: Holding, now: Now, state: Any) -> Change | None:
        price = now.bid if held.long else now.ask
        best = getattr(state, "best", price)
        state.best = max(best, price) if held.long else min(best, price)
        stop = state.best * (1 - (1 if held.long else -1) * self.percent / 100)
        if not _is_closer(held, stop, state.best * self.step_percent / 100):
            return None
        return Change(ChangeKind.STOP, round(stop, 2 if stop >= 1 else 4))


class SpreadExit(Overlay, frozen=True):
    """Leave when the spread has been wider than `spread_bps_max` for `seconds` in a row."""

    spread_bps_max: float = 30.0
    seconds: int = 3

    def follow(self, held: Holding, now: Now, state: Any) -> Change | None:
        del held
        wide = (now.ask - now.bid) / now.ask * 10_000 > self.spread_bps_max
        state.wide = getattr(state, "wide", 0) + 1 if wide else 0
        return Change(ChangeKind.EXIT, reason="SPREAD_EXIT") if state.wide >= self.seconds else None


class LiquidityExit(Overlay, frozen=True):
    """Leave when the side an exit would take has shown fewer than `size_min` shares for `seconds` in a row."""

    size_min: float = 100.0
    seconds: int = 3

    def follow(self, held: Holding, now: Now, state: Any) -> Change | None:
        thin = (now.bid_size if held.long else now.ask_size) < self.size_min
        state.thin = getattr(state, "thin", 0) + 1 if thin else 0
        return Change(ChangeKind.EXIT, reason="LIQUIDITY_EXIT") if state.thin >= self.seconds else None


class GivebackCap(Overlay, frozen=True):
    """Leave when a position that has gained `after_percent` has given back more than this share of its best gain."""

    fraction: float = 0.5
    after_percent: float = 0.2

    def follow(self, held: Holding, now: Now, state: Any) -> Change | None:
        gain = _gain_percent(held, now)
        state.best = max(getattr(state, "best", 0.0), gain)
        given = state.best >= self.after_percent and gain < state.best * (1 - self.fraction)
        return Change(ChangeKind.EXIT, reason="GIVEBACK") if given else None


def _gain_percent(held: Holding, now: Now) -> float:
    entry = held.entry_price or now.ask
    gain: float = (now.bid - entry if held.long else entry - now.ask) / entry * 100
    return gain


def _is_closer(held: Holding, stop: float, by: float = 0.0) -> bool:
    """Whether a stop protects more than the one in force."""
    sign = 1 if held.long else -1
    return held.stop is None or (stop - held.stop) * sign > by
