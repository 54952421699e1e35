"""Signals in plain Python: every minute is judged by the candles completed by then, looked up in the whole day.

It shares no code with `harvester.projections`. A minute that completes a minute or more after its end is too old and is
not judged. 5m and 15m are the newest that ended; 1h and 1D the newest of any day, a bar before a candle with the same
end, and of several bars with the same end the last to arrive.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tests.reference.candles import GRID
from tests.reference.market import SECOND, present

MINUTE, HOUR = 60 * SECOND, 3600 * SECOND
SPREAD_BPS_MAX = 12
BARS = {"1 hour": "1h", "1 day": "1D"}


class Part(NamedTuple):
    """One timeframe's part of a signal: direction (1 up, -1 down), source, and the end of that source (ns UTC)."""

    end: int
    bar: bool
    seq: int  # of the bar, else of the clock that completed it
    way: int
    made_of: str

    @property
    def source(self):
        return f"{self.made_of}, ended {datetime.fromtimestamp(self.end // SECOND, UTC):%Y-%m-%dT%H:%M:%SZ}"


def of_candle(completed):
    return Part(completed.candle.end, False, completed.seq, completed.candle.way, "candle of the mid")


def parts_of_bars(events, day):
    """{(con_id, timeframe): parts} of the backfilled bars that were complete when they arrived."""
    found = {}
    for kind, row in events:
        if kind != "bar" or row["what"] != "TRADES" or row["bar_size"] not in BARS:
            continue
        end, opened, closed = end_of(row, day), present(row["open"]), present(row["close"])
        if end is None or row["ts_recv"] < end or opened is None or closed is None:
            continue
        way = (closed > opened) - (closed < opened)
        part = Part(end, True, row["seq"], way, f"backfilled TRADES bar of {row['bar_size']}")
        found.setdefault((row["con_id"], BARS[row["bar_size"]]), []).append(part)
    return found


def end_of(bar, day):
    """End of a bar, ns UTC, or None: the next full hour, or the close of the session on its date."""
    if bar["bar_size"] == "1 hour":
        return None if bar["ts_event"] is None else bar["ts_event"] - bar["ts_event"] % HOUR + HOUR
    text = bar["time"] or ""
    hours = day.session_on(f"{text[:4]}-{text[4:6]}-{text[6:8]}", bar["seq"])
    return None if hours is None else hours[1]


class Judged(NamedTuple):
    """A judged minute: its symbol, its clock, its direction (1 BUY, -1 SELL, 0 neither), and the signal, if any."""

    con_id: int
    seq: int
    ts: int
    way: int
    row: dict[str, Any] | None


def judged(completed, events, day):
    """Every judged minute, in order of completion. `completed` are the day's candles in order."""
    whole = [c for c in completed if c.candle.whole]
    by_end = {(c.candle.con_id, c.candle.timeframe, c.candle.end): of_candle(c) for c in whole}
    known = parts_of_bars(events, day)
    for c in whole:
        if c.candle.timeframe in ("1h", "1D"):
            known.setdefault((c.candle.con_id, c.candle.timeframe), []).append(of_candle(c))
    halves = {(c.candle.con_id, c.candle.end): c for c in completed if c.candle.timeframe == "30s"}
    minutes = [c for c in completed if c.candle.timeframe == "1m" and c.ts - c.candle.end < MINUTE]
    return [judge(m, halves.get((m.candle.con_id, m.candle.end)), by_end, known) for m in minutes]


def judge(minute, half, by_end, known):
    """Judge one minute, with the 30s candle that ended with it, whole candles by end, and all 1h and 1D sources."""
    con_id, end = minute.candle.con_id, minute.candle.end
    parts = {}
    for name in ("1D", "1h"):  # a minute completed by a late clock must not use candles that ended after it
        before = [p for p in known.get((con_id, name), []) if p.seq <= minute.seq and (p.bar or p.end <= end)]
        parts[name] = max(before, default=None)
    for name in ("15m", "5m", "1m", "30s"):
        parts[name] = by_end.get((con_id, name, end - end % (GRID[name] * SECOND)))
    ways = {part.way if part else 0 for part in parts.values()}
    way = ways.pop() if len(ways) == 1 else 0
    if way and half.row["average_spread_bps"] > SPREAD_BPS_MAX:
        way = 0
    return Judged(con_id, minute.seq, minute.ts, way, told(minute, half, parts, way) if way else None)


def told(minute, half, parts, way):
    """The signal's row."""
    spread = half.row["average_spread_bps"]
    side = "above" if way > 0 else "below"
    return {
        "ts": minute.ts,
        "symbol": minute.candle.symbol,
        "con_id": minute.candle.con_id,
        "decision_seq": minute.seq,
        "signal": "BUY" if way > 0 else "SELL",
        "trigger_price": half.candle.close,
        "reason": f"1D, 1h, 15m, 5m, 1m and 30s closed {side} their open; spread {spread:.2f} bps",
        "spread_bps": spread,
        "samples_30s": half.candle.samples,
        "source": json.dumps({name: part.source for name, part in parts.items()}, separators=(",", ":")),
    }


def alignments(minutes):
    """(seq, ts, con_id, direction) of every judged minute whose direction changed for its symbol."""
    last, found = {}, []
    for minute in minutes:
        if minute.way != last.get(minute.con_id, 0):
            found.append((minute.seq, minute.ts, minute.con_id, minute.way))
        last[minute.con_id] = minute.way
    return found
