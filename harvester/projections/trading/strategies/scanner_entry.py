"""The single-shot entry on scanner candidates: one limit order per symbol and day, with exits as overlays.

The first second of the session in which the symbol is a candidate of the day's scan (every recorded symbol is one on a
date without scanner rows) and no gate refuses sends a limit order `offset_bps` behind the quote. Nothing here claims an
edge.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from harvester.projections.trading.overlays import (
    Bracket,
    BreakEven,
    GivebackCap,
    LiquidityExit,
    SpreadExit,
    TimeStop,
    Trailing,
)
from harvester.projections.trading.user_strategy import Strategy

if TYPE_CHECKING:
    from harvester.projections.trading.user_strategy import Now


class ScannerEntry(Strategy):
    """Basis points, percent, USD; see the module's text."""

    long: bool = True
    offset_bps: float = 2.0
    require_alignment: bool = False
    rank_max: int = 19
    spread_bps_max: float = 12.0
    notional_usd: float = 10_000.0
    open_wait_seconds: float = 60.0
    close_wait_seconds: float = 900.0
    valid_seconds: float = 300.0
    stop_percent: float = 0.3
    target_percent: float = 0.6
    hold_minutes: float = 120.0
    trail_percent: float = 0.6
    exit_spread_bps: float = 30.0
    exit_size_min: float = 100.0
    giveback_fraction: float = 0.6

    def exits(self) -> tuple[Any, ...]:
        return (
            Bracket(self.stop_percent, self.target_percent),
            BreakEven(self.stop_percent),
            Trailing(self.trail_percent),
            TimeStop(self.hold_minutes),
            SpreadExit(self.exit_spread_bps),
            LiquidityExit(self.exit_size_min, 10),
            GivebackCap(self.giveback_fraction, self.stop_percent),
        )

    def on_symbol(self, symbol: str) -> None:
        del symbol
        self.state.sent = False

    def on_second(self, now: Now) -> Any:
        codes = self._gates(now)
        if codes:
            return self.refuse(*codes)
        sign = 1 if self.long else -1
        near = now.bid if self.long else now.ask
        price = near * (1 - sign * self.offset_bps / 10_000)
        digits = 2 if price >= 1 else 4  # Regulation NMS rule 612
        quantity = math.floor(self.notional_usd / near)
        if quantity < 1 or round(price, digits) <= 0:
            return self.refuse("TOO_SMALL")
        self.state.sent = True
        order = {"type": "limit", "limit": round(price, digits), "valid_seconds": self.valid_seconds}
        return (self.buy if self.long else self.sell)(quantity, reason="SINGLE_SHOT", **order)

    def _gates(self, now: Now) -> list[str]:
        wanted = {row.symbol for row in now.candidates if row.rank <= self.rank_max}
        in_session = now.opens is not None and (
            now.seconds_since_open >= self.open_wait_seconds and now.seconds_to_close >= self.close_wait_seconds
        )
        refused = (
            ("HOLDING", now.position is not None),
            ("SENT", self.state.sent),
            ("SESSION", not in_session),
            ("SPREAD", not 0 < (now.ask - now.bid) / now.ask * 10_000 <= self.spread_bps_max),
            ("MTF_ALIGNMENT", self.require_alignment and now.alignment != (1 if self.long else -1)),
            ("CANDIDATE", bool(now.candidates) and now.symbol not in wanted),
        )
        return [code for code, applies in refused if applies]
