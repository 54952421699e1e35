"""Signals on completed candles only: BUY when every timeframe closed above its open, SELL when every one closed below.

When a 1m candle completes, the signal of its symbol is BUY if this 1m candle, the 30s candle that ends with it, and the
newest completed 5m, 15m, 1h and 1D all closed above their open, SELL if all closed below, and the spread averaged over
the last 30 s is at most `SPREAD_BPS_MAX`. A candle with less than nine tenths of its seconds is not used. For 1h and 1D
the newest counts: a backfilled TRADES bar or, once there is a later one, our own candle; `source` names it. 5m and 15m
must have just ended, else there is no signal. A bar counts as complete if it arrived at or after its end, and needs an
open and a close; a daily bar's time is its session's open by the run's calendar.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from harvester.calendar import iso
from harvester.events.kinds import Kind
from harvester.events.unset import is_price
from harvester.projections.base import Projection
from harvester.projections.interval import Occurrence, OccurrenceKind
from harvester.projections.market.candles import TIMEFRAMES
from harvester.projections.step import Derived, RunStart
from harvester.units import HOUR_NS, MINUTE_NS, SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from harvester.events.batch import Batch
    from harvester.projections.market.market import Market
    from harvester.projections.market.state_arrays import Array
    from harvester.projections.step import Step

SPREAD_BPS_MAX = 12.0
BAR_TIMEFRAMES = {"1 hour": "1h", "1 day": "1D"}  # backfilled bar sizes and the timeframe each stands for
BAR_WHAT = "TRADES"
NAMES = tuple(name for name, _ in TIMEFRAMES)
SLOW = ("5m", "15m", "1h", "1D")
SLOW_NS = (300 * SECOND_NS, 900 * SECOND_NS, 0, 0)  # 0: the newest may have ended before the market opened
OWN = "candle of the mid"

_F, _I, _T = pa.float64(), pa.int64(), pa.string()
SIGNALS: pa.Schema = pa.schema([
    pa.field(name, kind, nullable=False, metadata={"unit": unit, "formula": formula})
    for name, kind, unit, formula in (
        ("ts", _I, "ns UTC", "ts_recv of the clock that completed the triggering 1m candle"),
        ("symbol", _T, "", "symbol of the subscription"),
        ("con_id", _I, "", "IBKR instrument id"),
        ("decision_seq", pa.uint64(), "seq", "that clock's seq; everything the signal uses stands before it"),
        ("signal", _T, "", "BUY or SELL"),
        ("trigger_price", _F, "price", "close of the triggering 30s candle: the last mid"),
        ("reason", _T, "", "which timeframes agreed, and the spread"),
        ("spread_bps", _F, "1e-4 of mid", f"average over the last 30 s, at most {SPREAD_BPS_MAX:g}"),
        ("samples_30s", _I, "s", "seconds of the last 30 with a mid"),
        ("source", _T, "", "JSON: per timeframe what its candle was made of, and when it ended"),
    )
])  # fmt: skip


class CandleDirection(NamedTuple):
    """The newest completed candle of one timeframe: end (ns UTC), direction (1 up, -1 down, 0 flat) and source."""

    end: int
    way: int
    source: str


class Half(NamedTuple):
    """The newest 30s candle; its spread is the average in bps; `whole`: at least nine tenths of its seconds."""

    end: int
    way: int
    close: float
    spread_bps: float
    samples: int
    whole: bool


class Minute(NamedTuple):
    """A completed 1m candle: the clock that completed it, its end, its instrument and its direction."""

    seq: int
    ts: int
    end: int
    con_id: int
    inst: int
    way: int


def bars_of(batch: Batch) -> list[Mapping[str, Any]]:
    """The backfilled bars of a batch that stand for a timeframe, in seq order."""
    rows = batch.tables.get(Kind.BAR)
    if rows is None:
        return []
    wanted = pc.and_(
        pc.is_in(rows.column("bar_size"), value_set=pa.array(list(BAR_TIMEFRAMES), _T)),
        pc.fill_null(pc.equal(rows.column("what"), BAR_WHAT), False),
    )
    found: list[Mapping[str, Any]] = rows.filter(wanted).to_pylist()
    return found


def scans_of(batch: Batch) -> list[Mapping[str, Any]]:
    """The scanner rows of a batch with a rank and a symbol, in seq order."""
    rows = batch.tables.get(Kind.SCAN)
    if rows is None:
        return []
    return [row for row in rows.to_pylist() if row["rank"] is not None and row["symbol"]]


class Signals(Projection):
    """Reads completed candles and backfilled bars; must come after `Candles` in the list."""

    name = "signals"

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self._sessions: dict[str, tuple[int, int]] = {}  # date → open, close, ns UTC
        self._newest: dict[tuple[int, str], CandleDirection] = {}  # (con_id, timeframe)
        self._halves: dict[int, Half] = {}
        self._aligned: dict[int, int] = {}  # con_id → 1 BUY, -1 SELL, as last derived
        self._chain = bytes(16)
        self._ready: list[dict[str, Any]] = []

    # ---- the fold --------------------------------------------------------------------------------------------------

    def fold(self, step: Step) -> Derived:
        assert step.candles is not None, "Signals must come after Candles in PROJECTIONS"
        happenings: list[Occurrence] = []
        others: list[tuple[int, RunStart | Mapping[str, Any]]] = [(run.seq, run) for run in step.runs]
        others = sorted([*others, *((row["seq"], row) for row in step.bars)], key=lambda item: item[0])
        at = 0
        for seq, ts, end, candles in _closings(step.candles):
            while at < len(others) and others[at][0] < seq:
                self._take_in(others[at][1])
                at += 1
            happenings += self._close(seq, ts, end, candles)
        for _, item in others[at:]:
            self._take_in(item)
        return Derived(happenings)

    def _take_in(self, item: RunStart | Mapping[str, Any]) -> None:
        if isinstance(item, RunStart):
            calendar = item.params.calendar
            if calendar is not None:
                days = [
                    *((day.date, day.session) for day in calendar.before),
                    (calendar.trading_date, calendar.session),
                ]
                self._sessions = {day: (hours.open_ns, hours.close_ns) for day, hours in days if hours}
            return
        span = self._span(item)
        if span is None or item["ts_recv"] < span[1] or not (is_price(item["open"]) and is_price(item["close"])):
            return
        key = (item["con_id"], BAR_TIMEFRAMES[item["bar_size"]])
        known = self._newest.get(key)
        if known is None or span[1] >= known.end:
            source = f"backfilled {BAR_WHAT} bar of {item['bar_size']}"
            self._newest[key] = CandleDirection(span[1], _way(item["open"], item["close"]), source)

    def _span(self, bar: Mapping[str, Any]) -> tuple[int, int] | None:
        """Start and end of a bar, ns UTC; None when its time cannot be placed."""
        if bar["bar_size"] == "1 day":
            text = bar["time"] or ""
            return self._sessions.get(f"{text[:4]}-{text[4:6]}-{text[6:8]}")
        start = bar["ts_event"]
        return None if start is None else (start, (start // HOUR_NS + 1) * HOUR_NS)  # 09:30 … 10:00 is an hour's bar

    def _close(self, seq: int, ts: int, end: int, candles: list[tuple[Any, ...]]) -> list[Occurrence]:
        """Add candles with one end, then evaluate the symbols whose minute ended."""
        minutes: list[Minute] = []
        for _, _, _, frame, start, con_id, inst, samples, opened, closed, bps_sum in candles:
            whole = 10 * samples * SECOND_NS >= 9 * (end - start)
            way = _way(opened, closed)
            if frame == 0:
                self._halves[con_id] = Half(end, way, closed, bps_sum / samples, samples, whole)
            elif frame == 1:
                minutes.append(Minute(seq, ts, end, con_id, inst, way if whole else 0))
            elif whole:
                known = self._newest.get((con_id, NAMES[frame]))
                if known is None or end > known.end:
                    self._newest[con_id, NAMES[frame]] = CandleDirection(end, way, OWN)
        if ts - end < MINUTE_NS:  # minutes completed later than this give no signal
            return [happening for minute in minutes for happening in self._look(minute)]
        return []

    def _look(self, minute: Minute) -> list[Occurrence]:
        half, way, end = self._halves.get(minute.con_id), minute.way, minute.end
        if half is None or half.end != end or half.way != way or not half.whole or half.spread_bps > SPREAD_BPS_MAX:
            way = 0
        slow = [self._newest.get((minute.con_id, name)) for name in SLOW]
        for length, found in zip(SLOW_NS, slow, strict=True):
            if found is None or found.way != way or (length and found.end != end // length * length):
                way = 0
        happenings: list[Occurrence] = []
        if self._aligned.get(minute.con_id, 0) != way:
            self._aligned[minute.con_id] = way
            happenings.append(Occurrence(minute.seq, minute.ts, minute.con_id, OccurrenceKind.ALIGNED, way))
        if way and half is not None:
            self._record(minute, half, [found for found in slow if found is not None])
        return happenings

    def _record(self, minute: Minute, half: Half, slow: list[CandleDirection]) -> None:
        source = {name: f"{found.source}, ended {iso(found.end)}" for name, found in zip(SLOW, slow, strict=True)}
        source |= {name: f"{OWN}, ended {iso(half.end)}" for name in ("1m", "30s")}
        side = "above" if half.way > 0 else "below"
        row = {
            "ts": minute.ts,
            "symbol": self._market.symbols[minute.inst],
            "con_id": minute.con_id,
            "decision_seq": minute.seq,
            "signal": "BUY" if half.way > 0 else "SELL",
            "trigger_price": half.close,
            "reason": f"1D, 1h, 15m, 5m, 1m and 30s closed {side} their open; spread {half.spread_bps:.2f} bps",
            "spread_bps": half.spread_bps,
            "samples_30s": half.samples,
            "source": msgspec.json.encode({name: source[name] for name in NAMES[::-1]}).decode(),
        }
        self._ready.append(row)
        self._chain = hashlib.blake2b(self._chain + msgspec.json.encode(row), digest_size=16).digest()

    # ---- the surface of a projection ---------------------------------------------------------------------------------

    def take(self) -> dict[str, pa.RecordBatch]:
        rows, self._ready = self._ready, []
        return {"signals": pa.RecordBatch.from_pylist(rows, schema=SIGNALS)} if rows else {}

    def digest(self) -> str:
        """Chain over all signals, and the candles the next one will be derived from."""
        state = [sorted(self._newest.items()), sorted(self._halves.items()), sorted(self._aligned.items())]
        return hashlib.blake2b(self._chain + msgspec.json.encode(state), digest_size=16).hexdigest()

    def snapshot(self) -> bytes:
        assert not self._ready, f"{len(self._ready)} signals not taken before the snapshot"
        parts = (list(self._newest.items()), list(self._halves.items()), list(self._aligned.items()))
        return msgspec.msgpack.encode((self._chain, list(self._sessions.items()), *parts))

    def restore(self, data: bytes) -> None:
        self._chain, sessions, newest, halves, aligned = msgspec.msgpack.decode(data)
        self._sessions = {day: (hours[0], hours[1]) for day, hours in sessions}
        self._newest = {(key[0], key[1]): CandleDirection(*found) for key, found in newest}
        self._halves = {con_id: Half(*found) for con_id, found in halves}
        self._aligned = dict(aligned)
        self._ready = []


def _closings(rows: Array) -> Iterator[tuple[int, int, int, list[tuple[Any, ...]]]]:
    """Candles completed by the same clock and with the same end: (seq, ts, end, rows)."""
    names = ("decision_seq", "decision_ts", "end", "timeframe", "start", "con_id", "inst", "samples")
    columns = [rows[n].tolist() for n in (*names, "open", "close", "bps_sum")]
    group: list[tuple[Any, ...]] = []
    for row in zip(*columns, strict=True):
        if group and group[0][:3] != row[:3]:
            yield (*group[0][:3], group)
            group = []
        group.append(row)
    if group:
        yield (*group[0][:3], group)


def _way(opened: float, closed: float) -> int:
    return (closed > opened) - (closed < opened)
