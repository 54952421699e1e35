"""Candles in plain Python: a day is one list of samples, a candle the samples within its time.

It shares no code with `harvester.projections`, and keeps no state between events: every input of a candle is looked up
in the whole day. Sums run from left to right, for longer candles over thirty-second candles, of which they are built,
so results compare bit for bit.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from typing import NamedTuple

from tests.reference.market import SECOND, total

GRID = {"30s": 30, "1m": 60, "5m": 300, "15m": 900, "1h": 3600}  # seconds; such candles start at their multiples
TIMEFRAMES = (*GRID, "1D")


class Candle(NamedTuple):
    """The samples of one symbol in [start, end), ns UTC; a bucket with a mid is a candle of one second."""

    con_id: int
    symbol: str
    timeframe: str
    start: int
    end: int
    open: float
    high: float
    low: float
    close: float
    mids: float  # sum of the samples
    spreads: float  # sum of their spreads, bps
    samples: int

    @property
    def way(self):
        """1 closed above its open, -1 below, 0 neither."""
        return (self.close > self.open) - (self.close < self.open)

    @property
    def whole(self):
        """Whether it misses at most a tenth of its seconds."""
        seconds = (self.end - self.start) // SECOND
        return 10 * (seconds - self.samples) <= seconds


class Completed(NamedTuple):
    """A candle and the clock that completed it: its seq and ts, ns UTC."""

    candle: Candle
    seq: int
    ts: int

    @property
    def row(self):
        """As a row of the table of candles."""
        candle = self.candle
        return {
            "symbol": candle.symbol,
            "con_id": candle.con_id,
            "decision_seq": self.seq,
            "timeframe": candle.timeframe,
            "bucket_start": candle.start,
            "bucket_end": candle.end,
            "open": candle.open,
            "high": candle.high,
            "low": candle.low,
            "close": candle.close,
            "average_mid": candle.mids / candle.samples,
            "average_spread_bps": candle.spreads / candle.samples,
            "samples": candle.samples,
        }


def sample(bucket):
    mid, start = bucket["mid"], bucket["ts"]
    return Candle(
        bucket["con_id"], bucket["symbol"], "1s", start, start + SECOND, mid, mid, mid, mid,
        mids=mid, spreads=bucket["spread_bps"], samples=1,
    )  # fmt: skip


def grouped(parts, place):
    """{(con_id, place): parts in order of time}; parts whose place is None belong to none."""
    groups = {}
    for part in parts:
        at = place(part)
        if at is not None:
            groups.setdefault((part.con_id, at), []).append(part)
    return groups


def joined(timeframe, parts, place):
    """One candle per group; the place of a part is the (start, end) of its candle."""
    return [
        Candle(
            con_id, parts[0].symbol, timeframe, start, end,
            open=parts[0].open, high=max(p.high for p in parts), low=min(p.low for p in parts), close=parts[-1].close,
            mids=total(p.mids for p in parts), spreads=total(p.spreads for p in parts),
            samples=sum(p.samples for p in parts),
        )
        for (con_id, (start, end)), parts in grouped(parts, place).items()
    ]  # fmt: skip


def multiple(length):
    """The place on a grid of this many seconds."""

    def place(part):
        start = part.start - part.start % (length * SECOND)
        return start, start + length * SECOND

    return place


class Day:
    """The clocks of a day's events, and the calendar in force at each seq.

    `events` are kinds and rows, with their seqs.
    """

    def __init__(self, events):
        self.clocks = [(row["ts_recv"], row["seq"]) for kind, row in events if kind == "clock"]
        starts = [row for kind, row in events if kind == "request" and row["action"] == "run_start"]
        self.calendars = [(row["seq"], json.loads(row["params"]).get("calendar")) for row in starts]

    def completed(self, candles):
        """The candles with a clock at or after their end, each with the first such clock."""
        found = []
        for candle in candles:
            at = bisect_left(self.clocks, (candle.end, 0))
            if at < len(self.clocks):
                ts, seq = self.clocks[at]
                found.append(Completed(candle, seq, ts))
        return found

    def calendar(self, seq):
        """The calendar of the newest run before `seq`; a run without one keeps the previous calendar."""
        known = [calendar for start, calendar in self.calendars if calendar and start < seq]
        return known[-1] if known else None

    def session(self, seq):
        """(open, close) in force at `seq`, ns UTC, or None."""
        calendar = self.calendar(seq)
        hours = calendar and calendar["session"]
        return (hours["open_ns"], hours["close_ns"]) if hours else None

    def session_on(self, date, seq):
        """(open, close) of a date (yyyy-mm-dd) in the calendar in force at `seq`, or None."""
        calendar = self.calendar(seq)
        if calendar is None:
            return None
        days = {day["date"]: day["session"] for day in calendar["before"]}
        hours = (days | {calendar["trading_date"]: calendar["session"]}).get(date)
        return (hours["open_ns"], hours["close_ns"]) if hours else None


def candles(buckets, day):
    """Every completed candle of the day, in the order in which they are handed out. `buckets` are rows, closed ones."""
    samples = [sample(bucket) for bucket in buckets if bucket["mid"] is not None]
    halves = day.completed(joined("30s", samples, multiple(30)))
    parts = [half.candle for half in halves]
    seqs = {(half.candle.con_id, half.candle.start): half.seq for half in halves}

    def session(part):
        """The session in force when this half minute completed, if the half minute is within it."""
        hours = day.session(seqs[part.con_id, part.start])
        return hours if hours and hours[0] <= part.start and part.end <= hours[1] else None

    longer = [
        candle for name, length in GRID.items() if name != "30s" for candle in joined(name, parts, multiple(length))
    ]
    made = halves + day.completed(longer + joined("1D", parts, session))
    return sorted(made, key=order)


def order(completed):
    """Order by clock, end, timeframe, symbol; two sessions with one close by their opens."""
    candle = completed.candle
    return completed.seq, candle.end, TIMEFRAMES.index(candle.timeframe), candle.con_id, candle.start
