"""Cuts what the market did into one `Interval` per clock and hands them to the trading side, in the order of seq."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from harvester.projections.episodes import BUCKET_FIELDS
from harvester.projections.interval import QUOTES, TRADES, Closed, Happening, Interval, What
from harvester.projections.tables import SOURCE_NAMES
from harvester.projections.tape import Tape

if TYPE_CHECKING:
    import pyarrow as pa

    from harvester.projections.base import RunStart, Step, TradingSide
    from harvester.projections.market import Market
    from harvester.projections.tables import Array


class TradingFeed:
    """The trading side as a projection. What no clock has ended yet waits here."""

    name = "trading"

    def __init__(self, market: Market, trading: TradingSide) -> None:
        self._market = market
        self.trading = trading
        self._quotes: Array = np.empty(0, QUOTES)
        self._trades: Array = np.empty(0, TRADES)
        self._happenings: list[Happening] = []

    def fold(self, step: Step) -> None:
        self._quotes = np.concatenate([self._quotes, step.quotes])
        self._trades = np.concatenate([self._trades, step.trades])
        self._happenings += step.happenings
        clocks = [(seq, ts, None) for seq, ts in step.clocks.tolist()]
        turns: list[tuple[int, int, RunStart | None]] = sorted(clocks + [(r.seq, r.ts, r) for r in step.runs])
        ends = [np.searchsorted(a["seq"], [seq for seq, _, _ in turns]).tolist() for a in (self._quotes, self._trades)]
        closed = np.searchsorted(step.closed["decision_seq"], [seq for seq, _, _ in turns], "right").tolist()
        rows = closed_buckets(step.closed, self._market.symbols)
        tape = Tape(self._quotes, self._trades, [seq for seq, _, run in turns if run is None])
        place, done = 0, [0, 0, 0]
        for (seq, ts, run), *upto in zip(turns, *ends, closed, strict=True):
            if run is not None:
                self.trading.on_run_start(run.params, seq, ts)
                continue
            quotes, trades = self._quotes[done[0] : upto[0]], self._trades[done[1] : upto[1]]
            before = [h for h in self._happenings if h.seq <= seq] if self._happenings else []
            self._happenings = self._happenings[len(before) :]
            self.trading.on_interval(Interval(seq, ts, rows[done[2] : upto[2]], quotes, trades, before, tape, place))
            place, done = place + 1, upto
        self._quotes, self._trades = self._quotes[done[0] :], self._trades[done[1] :]

    def take(self) -> dict[str, pa.RecordBatch]:
        return self.trading.take_rows()

    def finish(self, seq: int, ts: int) -> None:
        self.trading.finish(seq, ts)

    def digest(self) -> str:
        return self.trading.digest()

    def snapshot(self) -> bytes:
        waiting = [(h.seq, h.ts, h.con_id, str(h.what), h.value) for h in self._happenings]
        parts: list[Any] = [self._quotes.tobytes(), self._trades.tobytes(), waiting, self.trading.snapshot()]
        return msgspec.msgpack.encode(parts)

    def restore(self, data: bytes) -> None:
        quotes, trades, waiting, inner = msgspec.msgpack.decode(data)
        self._quotes, self._trades = np.frombuffer(quotes, QUOTES).copy(), np.frombuffer(trades, TRADES).copy()
        self._happenings = [Happening(seq, ts, con_id, What(what), value) for seq, ts, con_id, what, value in waiting]
        self.trading.restore(inner)


def closed_buckets(rows: Array, symbols: list[str]) -> list[Closed]:
    """Bucket rows (dtype `tables.ROW`) as strategies and episodes see them; `symbols` by instrument index."""
    columns = [_values(rows, name) for name in BUCKET_FIELDS]
    made = [dict(zip(BUCKET_FIELDS, row, strict=True)) for row in zip(*columns, strict=True)]
    names = [symbols[k] for k in rows["inst"].tolist()]
    return [Closed(*whose) for whose in zip(rows["con_id"].tolist(), names, made, strict=True)]


def _values(rows: Array, name: str) -> list[Any]:
    values: list[Any] = rows[name].tolist()
    if name == "quote_source":
        return [SOURCE_NAMES[source] for source in values]
    if name in ("book_good", "stale"):
        return [bool(flag) for flag in values]
    if rows[name].dtype.kind == "f":
        for i in np.flatnonzero(~np.isfinite(rows[name])).tolist():
            values[i] = None
    return values
