"""Candles of the mid per symbol: 30s, 1m, 5m, 15m, 1h and 1D, each handed out at the clock that completes it.

A sample is the mid at the end of a bucket. 30-second candles are built from samples, longer ones from 30-second
candles, which is cheaper. A candle is complete at the first clock with `ts_recv` at or after its end; one that no
clock completes is not handed out. The 1D candle covers the regular session of the run's calendar, half days included.
There is no candle without a sample.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from harvester.projections.base import Projection, chained
from harvester.projections.market.state_arrays import joined, words
from harvester.projections.step import Derived
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from harvester.projections.market.market import Market
    from harvester.projections.market.state_arrays import Array
    from harvester.projections.step import RunStart, Step

TIMEFRAMES: tuple[tuple[str, int], ...] = (("30s", 30), ("1m", 60), ("5m", 300), ("15m", 900), ("1h", 3600), ("1D", 0))
"""Name and length in seconds, shortest first; 0 = the regular session."""

_INTS, _FLOATS = ("start", "end", "con_id", "inst", "samples"), ("open", "high", "low", "close", "mid_sum", "bps_sum")
SPAN = np.dtype([(n, "<i8") for n in _INTS] + [(n, "<f8") for n in _FLOATS], align=True)
"""Consecutive samples of one instrument: a second, a candle, or a candle still forming."""
CANDLE = np.dtype([(n, "<i8") for n in ("decision_seq", "decision_ts", "timeframe")] + SPAN.descr, align=True)

_F, _I, _T = pa.float64(), pa.int64(), pa.string()
CANDLES: pa.Schema = pa.schema([
    pa.field(name, kind, nullable=False, metadata={"unit": unit, "formula": formula})
    for name, kind, unit, formula in (
        ("symbol", _T, "", "symbol of the subscription"),
        ("con_id", _I, "", "IBKR instrument id"),
        ("decision_seq", pa.uint64(), "seq", "the first clock with ts_recv >= bucket_end; it completes the candle"),
        ("timeframe", _T, "", "30s, 1m, 5m, 15m, 1h, or 1D: the regular session"),
        ("bucket_start", _I, "ns UTC", "start of the candle: a multiple of its length; 1D: the session's open"),
        ("bucket_end", _I, "ns UTC", "end of the candle, exclusive; 1D: the session's close"),
        ("open", _F, "price", "first sample; a sample is the mid of one bucket"),
        ("high", _F, "price", "highest sample"),
        ("low", _F, "price", "lowest sample"),
        ("close", _F, "price", "last sample"),
        ("average_mid", _F, "price", "sum of the samples / samples"),
        ("average_spread_bps", _F, "1e-4 of mid", "sum of the buckets' spread_bps / samples"),
        ("samples", _I, "s", "buckets with a mid; a whole candle has one for each of its seconds"),
    )
])  # fmt: skip


class Candles(Projection):
    """Forms candles out of closed buckets."""

    name = "candles"

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self._forming: list[Array] = [np.empty(0, SPAN) for _ in TIMEFRAMES]
        self._session: tuple[int, int] | None = None
        self._chain = bytes(16)
        self._ready: list[Array] = []

    # ---- the fold --------------------------------------------------------------------------------------------------

    def fold(self, step: Step) -> Derived:
        """Take in closed buckets; returns the completed candles, ordered by clock, end, timeframe, con_id."""
        rows, clocks = step.closed, step.clocks
        made: list[Array] = []
        at = (0, 0)
        for run in step.runs:  # candles completed before the run start use the calendar before it
            upto = int(np.searchsorted(rows["decision_seq"], run.seq)), int(np.searchsorted(clocks[:, 0], run.seq))
            made.append(self._advance(rows[at[0] : upto[0]], clocks[at[1] : upto[1]]))
            self._begin(run)
            at = upto
        made.append(self._advance(rows[at[0] :], clocks[at[1] :]))
        completed: Array = made[0] if len(made) == 1 else np.concatenate(made)
        if len(completed):
            self._ready.append(completed)
            self._chain = chained(self._chain, completed)
        return Derived(candles=completed)

    def _begin(self, run: RunStart) -> None:
        calendar = run.params.calendar
        if calendar is not None:
            self._session = (calendar.session.open_ns, calendar.session.close_ns) if calendar.session else None

    def _advance(self, rows: Array, clocks: Array) -> Array:
        """Take in the buckets closed by these clocks; returns the candles they complete."""
        if not len(clocks):
            return np.empty(0, CANDLE)
        halves = self._complete(0, _samples(rows), clocks)
        spans = halves[list(SPAN.names or ())]
        made = [halves, *(self._complete(k, spans, clocks) for k in range(1, len(TIMEFRAMES)))]
        found = np.concatenate(made) if any(len(part) for part in made[1:]) else halves
        return found[np.lexsort((found["con_id"], found["timeframe"], found["end"], found["decision_seq"]))]

    def _complete(self, timeframe: int, spans: Array, clocks: Array) -> Array:
        """Add spans to the forming candles; those that end by the last clock are complete."""
        parts = self._forming[timeframe]
        if len(spans):
            parts = _joined(joined([parts, self._placed(timeframe, spans)]))
        done = parts["end"] <= clocks[-1, 1]
        if not done.any():
            self._forming[timeframe] = parts
            return np.empty(0, CANDLE)
        self._forming[timeframe] = parts[~done]
        found = np.empty(int(done.sum()), CANDLE)
        for name in SPAN.names or ():
            found[name] = parts[name][done]
        at = np.searchsorted(clocks[:, 1], found["end"], "left")
        found["decision_seq"], found["decision_ts"], found["timeframe"] = clocks[at, 0], clocks[at, 1], timeframe
        return found

    def _placed(self, timeframe: int, spans: Array) -> Array:
        """The spans with start and end of their candle; spans outside every candle are left out."""
        placed = np.empty(len(spans), SPAN)
        for name in SPAN.names or ():
            placed[name] = spans[name]
        if width := TIMEFRAMES[timeframe][1] * SECOND_NS:
            placed["start"] = placed["start"] // width * width
            placed["end"] = placed["start"] + width
            return placed
        opens, closes = self._session or (0, 0)
        placed = placed[(placed["start"] >= opens) & (placed["end"] <= closes)]
        placed["start"], placed["end"] = opens, closes
        return placed

    # ---- the surface of a projection ---------------------------------------------------------------------------------

    def take(self) -> dict[str, pa.RecordBatch]:
        if not self._ready:
            return {}
        rows: Any = self._ready[0] if len(self._ready) == 1 else np.concatenate(self._ready)
        self._ready = []
        return {"candles": candle_table(rows, self._market.symbols)}

    def digest(self) -> str:
        """Chain over all candles handed out."""
        return hashlib.blake2b(self._chain, digest_size=16).hexdigest()

    def snapshot(self) -> bytes:
        assert not self._ready, f"{len(self._ready)} finished tables were not taken before the snapshot"
        return msgspec.msgpack.encode((self._chain, self._session, [forming.tobytes() for forming in self._forming]))

    def restore(self, data: bytes) -> None:
        self._chain, session, forming = msgspec.msgpack.decode(data)
        self._session = (session[0], session[1]) if session else None
        self._forming = [np.frombuffer(raw, SPAN).copy() for raw in forming]
        self._ready = []


def _samples(rows: Array) -> Array:
    """Buckets with a mid as spans of one second."""
    mid = rows["mid"]
    there = np.flatnonzero(~np.isnan(mid))
    mid, ts = mid[there], rows["ts"][there]
    spans = np.empty(len(there), SPAN)
    spans["start"], spans["end"] = ts, ts + SECOND_NS
    spans["con_id"], spans["inst"], spans["samples"] = rows["con_id"][there], rows["inst"][there], 1
    for name in ("open", "high", "low", "close", "mid_sum"):
        spans[name] = mid
    spans["bps_sum"] = rows["spread_bps"][there]
    return spans


def _joined(spans: Array) -> Array:
    """Merge spans of the same instrument, start and end. Sums run in time order, independent of batch cuts."""
    if not len(spans):
        return spans
    key = ("con_id", "start", "end")  # the end too: sessions of two calendars may open together
    order = np.lexsort([spans[name] for name in key[::-1]])
    spans = words(spans).take(order, axis=0).view(SPAN).reshape(-1)
    fresh = np.ones(len(spans), bool)
    fresh[1:] = np.any([spans[name][1:] != spans[name][:-1] for name in key], axis=0)
    first = np.flatnonzero(fresh)
    place = np.cumsum(fresh) - 1
    out: Array = spans[first].copy()
    out["close"] = spans["close"][np.append(first[1:], len(spans)) - 1]
    out["high"] = np.maximum.reduceat(spans["high"], first)
    out["low"] = np.minimum.reduceat(spans["low"], first)
    out["samples"] = np.add.reduceat(spans["samples"], first)
    for name in ("mid_sum", "bps_sum"):
        out[name] = np.bincount(place, weights=spans[name])  # adds in sequence; reduceat would add pairwise
    return out


def candle_table(rows: Array, symbols: list[str]) -> pa.RecordBatch:
    """Candles (dtype `CANDLE`) as Arrow; `symbols` by instrument index."""
    columns: dict[str, Any] = {
        "symbol": [symbols[i] for i in rows["inst"].tolist()],
        "timeframe": [TIMEFRAMES[i][0] for i in rows["timeframe"].tolist()],
        "bucket_start": rows["start"],
        "bucket_end": rows["end"],
        "average_mid": rows["mid_sum"] / rows["samples"],
        "average_spread_bps": rows["bps_sum"] / rows["samples"],
    }
    arrays = []
    for field in CANDLES:
        values = columns[field.name] if field.name in columns else rows[field.name]
        arrays.append(pa.array(np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=CANDLES)
