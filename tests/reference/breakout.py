"""The first strategy in plain Python: its gates and entries, from the symbol's buckets alone."""

from __future__ import annotations

import math

from harvester.projections.trading.plan import EntryPlan
from tests.reference.market import SECOND


class Breakout:
    """Keeps every mid since the last second without one."""

    def __init__(self, settings):
        self.settings = settings
        self.mids = {}  # con_id → mids of consecutive seconds
        self.rests = {}  # con_id → until when, ns UTC

    def observe(self, bucket):
        mids = self.mids.setdefault(bucket["con_id"], [])
        if bucket["mid"] is None:
            mids.clear()
        else:
            mids.append(bucket["mid"])

    def finished(self, con_id, ts):
        self.rests[con_id] = ts + self.settings["cooldown_seconds"] * SECOND

    def decide(self, view):
        gates = [code for code, refused in self.refused(view).items() if refused]
        return gates, None if gates else self.plan(view), ()

    def refused(self, view):
        given, bucket, session = self.settings, view["bucket"], view["session"]
        session = session or {"open_ns": view["ts"] + 1, "close_ns": 0}  # none on the date
        opens = session["open_ns"] + given["open_wait_seconds"] * SECOND
        closes = session["close_ns"] - given["close_wait_seconds"] * SECOND
        spread = bucket["spread_bps"]
        return {
            "SESSION": not opens <= view["ts"] < closes,
            "OUTAGE": view["outage"],
            "HALTED": view["halted"],
            "NOT_LIVE": not view["quote"].live or bucket["mid"] is None,
            "BOOK_BAD": bucket["book_good"] is False,
            "SPREAD": spread is not None and (spread <= 0 or spread > given["spread_bps_max"]),
            "WARMUP": len(self.mids[bucket["con_id"]]) < given["lookback_seconds"] + 1,
            "COOLDOWN": view["ts"] < self.rests.get(bucket["con_id"], 0),
            "HOLDING": view["holding"],
        }

    def plan(self, view):
        given, bucket, quote = self.settings, view["bucket"], view["quote"]
        mids = self.mids[bucket["con_id"]]
        now, before = mids[-1], mids[-1 - given["lookback_seconds"] : -1]
        width = max(before) - min(before)
        moved = (now / mids[-1 - given["momentum_seconds"]] - 1) * 10_000
        lean = bucket["imbalance"]
        if lean is None:
            both = quote.bid.size + quote.ask.size
            lean = (quote.bid.size - quote.ask.size) / both if both else None
        if lean is None or width < given["range_spreads_min"] * (quote.ask.price - quote.bid.price):
            return None
        up = now > max(before) and moved >= given["momentum_bps_min"] and lean >= given["imbalance_min"]
        down = now < min(before) and moved <= -given["momentum_bps_min"] and lean <= -given["imbalance_min"]
        if not up and not down:
            return None
        way, entry = (1, quote.ask.price) if up else (-1, quote.bid.price)
        stop, target = (
            tick(entry - way * given["stop_ranges"] * width),
            tick(entry + way * given["target_ranges"] * width),
        )
        distance = abs(entry - stop)
        shares = distance and math.floor(min(given["risk_usd"] / distance, given["notional_usd_max"] / entry))
        if not shares or min(stop, target) <= 0:
            return None
        return EntryPlan(
            long=up, quantity=shares, stop=stop, target=target, valid_seconds=given["valid_seconds"],
            hold_seconds_max=given["hold_seconds_max"], reason="BREAKOUT_UP" if up else "BREAKOUT_DOWN",
            features={"range": width, "momentum_bps": moved, "imbalance": lean, "mid": now},
        )  # fmt: skip


def tick(price):
    """Price increment: a cent, below one dollar a hundredth of a cent."""
    return round(price, 2) if price >= 1 else round(price, 4)
