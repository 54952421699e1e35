"""The screen of `imbalance_breakout`: its gates over columns, and where a breakout is possible at all.

It has its own file, so that the strategy's digest covers only what the strategy decides; a test compares the two on
random markets.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from harvester.projections.trading.strategies.imbalance_breakout import ImbalanceBreakout
    from harvester.projections.trading.strategy import Ahead

Array = npt.NDArray[Any]


class BreakoutScreen:
    """See `strategy.Screen`."""

    codes: tuple[str, ...] = (
        "SESSION",
        "OUTAGE",
        "HALTED",
        "NOT_LIVE",
        "BOOK_BAD",
        "SPREAD",
        "WARMUP",
        "COOLDOWN",
        "HOLDING",
    )

    def __init__(self, strategy: ImbalanceBreakout, ahead: Ahead) -> None:
        self._strategy, self._con_id, self._ts = strategy, ahead.con_id, ahead.ts
        s, rows = strategy.settings, ahead.rows
        known = dict(strategy.snapshot()["mids"]).get(ahead.con_id, ())
        mids = np.concatenate([np.array(known, np.float64), rows["mid"]])
        quoted = np.isfinite(mids)
        holes = np.flatnonzero(~quoted)
        since = np.arange(len(mids)) - np.append(-1, holes)[np.searchsorted(holes, np.arange(len(mids)), "right")]
        cold = since[len(known) :] <= s.lookback_seconds  # mids in a row, this one included
        spread = rows["spread_bps"]
        refused = (
            self._out_of_session(ahead),
            np.full(len(rows), ahead.outage),
            np.full(len(rows), ahead.halted),
            ~ahead.shown | ~quoted[len(known) :],
            rows["book_good"] == 0,
            np.isfinite(spread) & ~((spread > 0) & (spread <= s.spread_bps_max)),
            cold,
        )
        self._gates = np.zeros(len(rows), np.int64)
        for bit, applies in enumerate(refused):
            self._gates |= applies.astype(np.int64) << bit
        self._breaks = np.zeros(len(rows), np.bool_)
        if (self._gates == 0).any():
            self._breaks[~cold] = self._breakouts(mids, np.flatnonzero(~cold) + len(known), rows["imbalance"][~cold])

    def _out_of_session(self, ahead: Ahead) -> Array:
        if ahead.session is None:
            return np.ones(len(ahead.ts), np.bool_)
        s, (opens, closes) = self._strategy.settings, ahead.session
        first = math.ceil(opens + s.open_wait_seconds * SECOND_NS)  # a whole ts is below x where it is below ceil(x)
        last = math.ceil(closes - s.close_wait_seconds * SECOND_NS)
        return (ahead.ts < first) | (ahead.ts >= last)

    def _breakouts(self, mids: Array, at: Array, imbalance: Array) -> Array:
        """Whether the mid at each place is outside the range of its lookback and no size imbalance opposes."""
        s = self._strategy.settings
        if s.lookback_seconds < 1:
            return np.ones(len(at), np.bool_)
        windows = np.lib.stride_tricks.sliding_window_view(mids, s.lookback_seconds)[at - s.lookback_seconds]
        now = mids[at]
        imbalance = np.where(np.isfinite(imbalance), imbalance, np.nan)  # then the quote's sizes decide
        up = (now > windows.max(axis=1)) & ~(imbalance < s.imbalance_min)
        down = (now < windows.min(axis=1)) & ~(imbalance > -s.imbalance_min)
        found: Array = up | down
        return found

    def look(self, since: int, *, holding: bool) -> tuple[Array, Array]:
        rest_until = dict(self._strategy.snapshot()["rest_until"]).get(self._con_id, 0)
        gates = self._gates[since:] | (self._ts[since:] < rest_until).astype(np.int64) << self.codes.index("COOLDOWN")
        if holding:
            gates |= 1 << self.codes.index("HOLDING")
        return gates, self._breaks[since:] & (gates == 0)

    @staticmethod
    def observe(strategy: ImbalanceBreakout, con_id: int, rows: Array) -> None:
        for mid in rows["mid"][-strategy.settings.lookback_seconds - 1 :].tolist():  # what came before is pushed out
            strategy.observe(con_id, {"mid": mid if math.isfinite(mid) else None})
