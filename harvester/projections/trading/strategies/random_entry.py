"""Enter at random seconds in a random direction: the baseline that another strategy's results stand beside.

The draws are a hash of the date, the symbol, the second and the parameters, so every fold of a day gives the same
entries. On bars one draw stands for all seconds of the bar. Exits are those of `scanner_entry`.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

from harvester.projections.trading.overlays import Bracket, BreakEven, GivebackCap, SpreadExit, TimeStop, Trailing
from harvester.projections.trading.user_strategy import Strategy
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from harvester.projections.trading.user_strategy import Now


class RandomEntry(Strategy):
    """`per_hour` entries an hour on average and symbol, between the session's first and last minutes."""

    per_hour: float = 4.0
    seed: int = 1
    notional_usd: float = 10_000.0
    open_wait_seconds: float = 60.0
    close_wait_seconds: float = 900.0
    stop_percent: float = 0.3
    target_percent: float = 0.6
    hold_minutes: float = 120.0

    def exits(self) -> tuple[Any, ...]:
        return (
            Bracket(self.stop_percent, self.target_percent),
            BreakEven(self.stop_percent),
            Trailing(self.target_percent),
            TimeStop(self.hold_minutes),
            SpreadExit(),
            GivebackCap(0.6, self.stop_percent),
        )

    def on_second(self, now: Now) -> Any:
        if now.position is not None:
            return self.refuse("HOLDING")
        if now.opens is None or now.seconds_since_open < self.open_wait_seconds:
            return self.refuse("SESSION")
        if now.seconds_to_close < self.close_wait_seconds:
            return self.refuse("SESSION")
        text = f"{now.second}|{now.symbol}|{sorted(self.parameters.items())}"  # `second` has the date in it
        draw = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
        seconds = (now.ts - now.second) // SECOND_NS if now.quote_source == "bars" else 1
        if (draw >> 1) / 2**63 >= self.per_hour * seconds / 3600:
            return None
        quantity = math.floor(self.notional_usd / now.ask)
        if quantity < 1:
            return self.refuse("TOO_SMALL")
        return (self.buy if draw & 1 else self.sell)(quantity, valid_seconds=3.0, reason="RANDOM")
