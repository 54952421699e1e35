"""Trading on bars in plain Python, from docs/trading.md, B1 to B12: one position at a time, prices in whole cents.

It covers one symbol and one strategy whose wishes are given; no trailing stops, rivals or changes but the exit.
"""

from __future__ import annotations

import math
from typing import Any

MINUTE = 60_000_000_000
SECOND = 1_000_000_000


def cents(price: float | None) -> int | None:
    return None if price is None else round(price * 100)


class Reference:
    """Trades a day; `fills` are (role, cents, shares, seq), `ends` the reasons of trades and of unfilled entries."""

    def __init__(self, latency: int, flat_at: int, session: tuple[int, int]) -> None:
        self.latency, self.flat_at, self.session = latency, flat_at, session
        self.fills: list[tuple[str, int, int, int]] = []
        self.ends: list[tuple[str, str]] = []
        self.trade: dict[str, Any] | None = None

    def run(self, bars: list[Any], wants: dict[int, Any]) -> None:
        """`wants`: by seq a plan with the fields of `EntryPlan`, or None for an exit."""
        for bar in bars:
            if self.trade:
                self.play(bar)
            t = self.trade
            if t and t["held"] and not t["leave_at"] and not t["stopped"] and self.too_long(t, bar):
                t["leave_at"], t["why"] = bar.end + self.latency, "TIME_STOP"
            if bar.seq in wants:
                self.want(bar, wants[bar.seq])
        if (t := self.trade) is not None:
            self.ends.append(("trade", "DATA_END") if t["got"] else ("entry", "RUN_END"))

    @staticmethod
    def too_long(t: dict[str, Any], bar: Any) -> bool:
        return t["hold"] is not None and bar.end >= t["since"] + int(t["hold"] * SECOND)

    def want(self, bar: Any, plan: Any) -> None:
        t = self.trade
        if plan is None:
            if t and not t["leave_at"] and not t["stopped"]:
                t["leave_at"], t["why"] = bar.end + self.latency, "WANTED"
            return
        if t is None:
            self.trade = {
                "way": 1 if plan.long else -1, "type": str(plan.type), "limit": cents(plan.limit),
                "trigger": cents(plan.trigger), "stop": cents(plan.stop), "target": cents(plan.target),
                "want": plan.quantity,
                "got": 0, "held": 0, "at": bar.end + self.latency, "valid": plan.valid_seconds, "ioc": plan.immediate,
                "hold": plan.hold_seconds_max, "until": None, "rests": False, "fired": False, "leave_at": 0, "why": "",
                "stopped": False, "leaving": False, "since": 0, "open_entry": True, "arrived": False,
            }  # fmt: skip

    # one bar, seen so that a higher price is always worse to enter at: prices are multiplied by the way of the trade

    def play(self, bar: Any) -> None:  # noqa: PLR0912 - the rules, in their order
        t = self.trade
        assert t is not None
        way = t["way"]
        opened = way * cents(bar.open)
        low, high = sorted((way * cents(bar.low), way * cents(bar.high)))
        half = max(1, math.ceil(round(bar.open * 5 / 20_000 * 100, 9)))
        into = out = math.floor(bar.volume / 10)
        first_bar, entered, begun = False, False, opened
        if not t["arrived"] and t["at"] < bar.end:
            why = self.refused(t, bar)
            if why:
                self.finish("entry", why)
                return
            t["arrived"] = first_bar = True
            t["until"] = self.flat_at
            if t["valid"] is not None and t["at"] + int(t["valid"] * SECOND) < self.flat_at:
                t["until"] = t["at"] + int(t["valid"] * SECOND)
        if t["leave_at"] and t["leave_at"] < bar.end and not t["leaving"] and not t["stopped"]:
            t["open_entry"] = False
            t["leaving"] = t["held"] > 0
            if not t["got"]:
                self.finish("entry", "CANCELLED")
                return
        if bar.end > self.flat_at:
            t["open_entry"] = False
            if not t["got"]:
                self.finish("entry", "SESSION_END")
                return
            if t["held"] and not t["leaving"] and not t["stopped"]:
                t["leaving"], t["why"] = True, "SESSION_END"
        # the open
        if t["held"]:
            if not t["leaving"] and (t["stopped"] or (t["stop"] is not None and opened - half <= way * t["stop"])):
                self.stopped(t)
            if t["leaving"] or t["stopped"]:
                out -= self.leave("exit" if t["leaving"] else "stop", opened - half, out, bar)
        now = max(bar.start, t["at"]) if first_bar else bar.start
        if self.works(t) and now < t["until"]:
            price = self.at_open(t, opened + half, way)
            if price is not None and into:
                self.enter(t, price, min(into, t["want"] - t["got"]), bar, now)
                into -= self.fills[-1][2]
                entered = True
        if first_bar and t["ioc"]:
            t["open_entry"] = False
            if not t["got"]:
                self.finish("entry", "IOC")
                return
        # inside
        if self.works(t) and bar.end <= t["until"]:
            found = self.in_bar(t, low, high, half, way)
            if found is not None and into:
                held = t["held"]
                self.enter(t, found[0], min(into, t["want"] - t["got"]), bar, bar.end)
                entered = True
                begun = begun if held else min(max(found[1], low), high)
        if t["held"] and not t["leaving"]:
            stop = None if t["stop"] is None else way * t["stop"]
            if t["why"] == "STOP_THROUGH" and entered:
                out -= self.leave("stop", min(stop, begun) - half, out, bar)
            elif stop is not None and not t["stopped"] and low - half <= stop:
                self.stopped(t)
                out -= self.leave("stop", min(stop, begun) - half, out, bar)
            elif t["target"] is not None and not t["stopped"] and not entered and high >= way * t["target"] + 1:
                self.leave("target", way * t["target"], out, bar)
        if self.trade is not t:
            return
        if t["arrived"] and t["until"] <= bar.end and t["open_entry"]:
            t["open_entry"] = False
            if not t["got"]:
                self.finish("entry", "SESSION_END" if t["until"] == self.flat_at else "EXPIRED")

    def refused(self, t: dict[str, Any], bar: Any) -> str:
        if t["at"] < self.session[0]:
            return "SESSION_CLOSED"
        if bar.end > self.flat_at:
            return "SESSION_END"
        return "NOT_LIVE" if bar.start > t["at"] else ""

    @staticmethod
    def works(t: dict[str, Any]) -> bool:
        return t["arrived"] and t["open_entry"] and t["got"] < t["want"]

    @staticmethod
    def at_open(t: dict[str, Any], ask: int, way: int) -> int | None:
        """The price of a fill at the open; None without one."""
        if t["type"] in ("stop", "stop_limit") and not t["fired"]:
            if ask < way * t["trigger"]:
                return None
            t["fired"] = True
        if t["limit"] is None:
            return ask
        if t["rests"]:
            return None
        t["rests"] = True
        return ask if ask <= way * t["limit"] else None

    @staticmethod
    def in_bar(t: dict[str, Any], low: int, high: int, half: int, way: int) -> tuple[int, int] | None:
        """Price of a fill inside the bar, and where the tape was then."""
        if t["type"] in ("stop", "stop_limit") and not t["fired"]:
            trigger = way * t["trigger"]
            if high + half < trigger:
                return None
            t["fired"] = True
            t["rests"] = t["limit"] is not None
            if t["limit"] is None or trigger + half <= way * t["limit"]:
                return trigger + half, trigger
            return None
        if t["limit"] is not None and t["rests"] and low <= way * t["limit"] - 1:
            return way * t["limit"], way * t["limit"]
        return None

    def enter(self, t: dict[str, Any], price: int, shares: int, bar: Any, now: int) -> None:
        way = t["way"]
        self.fills.append(("entry", way * price, shares, bar.seq))
        if not t["got"]:
            t["since"] = now
            if t["stop"] is not None and price <= way * t["stop"]:
                t["why"] = "STOP_THROUGH"
                t["stopped"] = True
        t["got"] += shares
        t["held"] += shares
        if t["why"] == "STOP_THROUGH":
            t["open_entry"] = False

    @staticmethod
    def stopped(t: dict[str, Any]) -> None:
        t["stopped"], t["open_entry"] = True, False
        t["why"] = t["why"] if t["why"] == "STOP_THROUGH" else "STOP"

    def leave(self, role: str, price: int, room: int, bar: Any) -> int:
        t = self.trade
        assert t is not None
        shares = min(room, t["held"])
        if shares:
            self.fills.append((role, t["way"] * price, shares, bar.seq))
            t["held"] -= shares
            if role == "target":
                t["why"] = "TARGET"
        if not t["held"]:
            self.finish("trade", t["why"])
        return shares

    def finish(self, what: str, why: str) -> None:
        self.ends.append((what, why))
        self.trade = None
