"""Buy a breakout of the last minute's range when the resting sizes lean the same way; sell short in the mirror.

Entry: the newest mid lies above (below) every mid of the `lookback_seconds` before it, has moved at least
`momentum_bps_min` over `momentum_seconds`, and the imbalance is at least `imbalance_min` in that direction. Market
order. Exit: stop and target at `stop_ranges` and `target_ranges` times the range of those mids from the quote at the
decision, and a time stop.
Size: `risk_usd` divided by the distance to the stop, at most `notional_usd_max`.
Nothing here claims an edge: it is the smallest strategy that uses the quote, the sizes and the clock.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from harvester.errors import BadSetting
from harvester.projections.trading.plan import EntryPlan
from harvester.projections.trading.strategy import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.projections.trading.strategy import View

SECOND_NS = 1_000_000_000
_OF_THE_RUN = frozenset({"flat_before_close_seconds"})  # in runs recorded before it became a setting of the run


class BreakoutSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds, basis points, USD; see the module's text."""

    lookback_seconds: int = 60
    momentum_seconds: int = 20
    momentum_bps_min: float = 1.0
    imbalance_min: float = 0.2
    range_spreads_min: float = 2.0
    spread_bps_max: float = 10.0
    stop_ranges: float = 1.0
    target_ranges: float = 1.5
    risk_usd: float = 100.0
    notional_usd_max: float = 25_000.0
    valid_seconds: float = 3.0
    hold_seconds_max: float = 300.0
    cooldown_seconds: float = 60.0
    open_wait_seconds: float = 60.0
    close_wait_seconds: float = 900.0


class ImbalanceBreakout:
    """See the module's text. State per symbol: the last mids, and until when it rests after a trade."""

    name = "imbalance_breakout"

    def __init__(self, settings: Mapping[str, Any]) -> None:
        try:
            known = {name: value for name, value in settings.items() if name not in _OF_THE_RUN}
            self.settings = msgspec.convert(known, BreakoutSettings)
        except msgspec.ValidationError as error:
            raise BadSetting(f"strategy {self.name}: {error}") from None
        self._mids: dict[int, list[float]] = {}
        self._rest_until: dict[int, int] = {}

    def observe(self, con_id: int, bucket: Mapping[str, Any]) -> None:
        mids = self._mids.setdefault(con_id, [])
        mid = bucket["mid"]
        if mid is None:
            mids.clear()  # a range across a hole in the quotes is no range
            return
        mids.append(mid)
        if len(mids) > self.settings.lookback_seconds + 1:
            del mids[0]

    def decide(self, view: View) -> Verdict:
        gates = self._gates(view)
        return Verdict(gates, None if gates else self._signal(view))

    def finished(self, con_id: int, ts: int) -> None:
        self._rest_until[con_id] = ts + int(self.settings.cooldown_seconds * SECOND_NS)

    def snapshot(self) -> Any:
        return {"mids": sorted(self._mids.items()), "rest_until": sorted(self._rest_until.items())}

    def restore(self, state: Any) -> None:
        self._mids = {con_id: list(mids) for con_id, mids in state["mids"]}
        self._rest_until = dict(state["rest_until"])

    def _gates(self, view: View) -> tuple[str, ...]:
        s, row = self.settings, view.bucket
        opens, closes = view.session or (view.ts + 1, 0)
        in_session = opens + s.open_wait_seconds * SECOND_NS <= view.ts < closes - s.close_wait_seconds * SECOND_NS
        refused = (
            ("SESSION", not in_session),
            ("OUTAGE", view.outage),
            ("HALTED", view.halted),
            ("NOT_LIVE", not view.shown.good or row["mid"] is None),
            ("BOOK_BAD", row["book_good"] is False),
            ("SPREAD", row["spread_bps"] is not None and not 0 < row["spread_bps"] <= s.spread_bps_max),
            ("WARMUP", len(self._mids.get(view.con_id, ())) <= s.lookback_seconds),
            ("COOLDOWN", view.ts < self._rest_until.get(view.con_id, 0)),
            ("HOLDING", view.holding),
        )
        return tuple(code for code, applies in refused if applies)

    def _signal(self, view: View) -> EntryPlan | None:
        s = self.settings
        *before, now = self._mids[view.con_id]
        high, low = max(before), min(before)
        momentum_bps = (now / before[-s.momentum_seconds] - 1) * 10_000
        lean = _imbalance(view)
        if lean is None or high - low < s.range_spreads_min * (view.shown.ask - view.shown.bid):
            return None
        if now > high and lean >= s.imbalance_min and momentum_bps >= s.momentum_bps_min:
            long = True
        elif now < low and lean <= -s.imbalance_min and momentum_bps <= -s.momentum_bps_min:
            long = False
        else:
            return None
        features: dict[str, float | None] = {
            "range": high - low,
            "momentum_bps": momentum_bps,
            "imbalance": lean,
            "mid": now,
        }
        return self._plan(long, high - low, view, features)

    def _plan(self, long: bool, width: float, view: View, features: dict[str, float | None]) -> EntryPlan | None:
        s = self.settings
        sign, entry = (1, view.shown.ask) if long else (-1, view.shown.bid)
        stop = _to_tick(entry - sign * s.stop_ranges * width)
        target = _to_tick(entry + sign * s.target_ranges * width)
        risk = abs(entry - stop)
        if min(stop, target) <= 0 or risk <= 0:
            return None
        quantity = math.floor(min(s.risk_usd / risk, s.notional_usd_max / entry))
        if quantity < 1:
            return None
        return EntryPlan(
            long=long,
            quantity=quantity,
            stop=stop,
            target=target,
            valid_seconds=s.valid_seconds,
            hold_seconds_max=s.hold_seconds_max,
            reason="BREAKOUT_UP" if long else "BREAKOUT_DOWN",
            features=features,
        )


def _imbalance(view: View) -> float | None:
    """The book's over its best rows; of the quote's own sizes where no book is recorded."""
    lean = view.bucket["imbalance"]
    if lean is not None:
        return float(lean)
    total = view.shown.bid_size + view.shown.ask_size
    return (view.shown.bid_size - view.shown.ask_size) / total if total > 0 else None


def _to_tick(price: float) -> float:
    """To the cent, below one dollar to a hundredth of it: the increments of Regulation NMS rule 612."""
    return round(price, 2 if price >= 1 else 4)
