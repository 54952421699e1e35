"""Cuts the market's quotes, prints and happenings into one `Interval` per clock for the trading side, in seq order."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from harvester.projections.base import Projection
from harvester.projections.interval import QUOTES, TRADES, Interval, News, Occurrence, OccurrenceKind
from harvester.projections.ladders import LADDERS, LEVELS, Ladders
from harvester.projections.market.candles import TIMEFRAMES
from harvester.projections.step import NOTHING_DERIVED, Derived
from harvester.projections.trading.fast.book_tape import BookTape
from harvester.projections.trading.fast.bucket_columns import BucketColumns, seconds_of
from harvester.projections.trading.fast.observations import Observations
from harvester.projections.trading.live_quotes import LiveQuotes
from harvester.units import NEVER

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from harvester.projections.base import TradingSide
    from harvester.projections.market.market import Market
    from harvester.projections.market.state_arrays import Array
    from harvester.projections.step import RunStart, Step
    from harvester.projections.trading.strategies import Library

_CANDLE = ("start", "end", "open", "high", "low", "close", "samples")
_BAR = ("bar_size", "time", "open", "high", "low", "close", "volume")
_BAR_KEPT = ("seq", "con_id", *_BAR)
_SCAN_KEPT = ("seq", "snapshot", "scan_code", "rank", "symbol")
CLOCKS_MAX = 512  # in a stretch: strategies screen a stretch at once, and again after each fill


class TradingFeed(Projection):
    """The trading side as a projection; holds what no clock has ended yet.

    Attributes:
        trading: the simulated trading; another one may replace it before the first fold.
    """

    name = "trading"
    market_only = False

    def __init__(self, market: Market) -> None:
        from harvester.projections.trading.trading import Trading  # only an engine that trades loads the strategies

        super().__init__(market)
        self.trading: TradingSide = Trading()
        self._quotes: Array = np.empty(0, QUOTES)
        self._trades: Array = np.empty(0, TRADES)
        self._ladders: Ladders | None = None  # None until a run fills behind the quote
        self._carried = 0  # of these, books that are older than the next stretch
        self._happenings: list[Occurrence] = []
        self._live = LiveQuotes()
        self._bars: list[Mapping[str, Any]] = []
        self._scans: list[Mapping[str, Any]] = []
        self._formed: tuple[Step | None, dict[int, list[tuple[int, str, tuple[Any, ...]]]]] = (None, {})

    def use(self, library: Library) -> None:
        """Take strategies from this library; before the first fold."""
        from harvester.projections.trading.trading import Trading

        self.trading = Trading(library)

    def fold(self, step: Step) -> Derived:
        quotes, dark = self._live.fold(step.quotes, step.happenings, step.runs)
        self._quotes = np.concatenate([self._quotes, quotes]) if len(self._quotes) else quotes
        self._trades = np.concatenate([self._trades, step.trades]) if len(self._trades) else step.trades
        self._happenings += sorted((*step.happenings, *dark), key=attrgetter("seq")) if dark else step.happenings
        if step.ladders is not None:
            self._ladders = self._ladders.joined(step.ladders) if self._ladders else step.ladders
        self._bars += step.bars
        self._scans += step.scans
        runs = list(step.runs)
        for first in range(0, len(step.clocks), CLOCKS_MAX):
            self._stretch(step, slice(first, first + CLOCKS_MAX), runs)
        self._start(runs)
        return NOTHING_DERIVED

    def _stretch(self, step: Step, part: slice, runs: list[RunStart]) -> None:
        """Pass on the intervals that these clocks end, and the runs that start before the last of them."""
        clocks = step.clocks[part]
        last = np.uint64(clocks[-1, 0])
        quotes, trades = (rows[: rows["seq"].searchsorted(last)] for rows in (self._quotes, self._trades))
        books = self._books(int(last))
        tape, seconds = Observations(quotes, trades, clocks[:, 0].tolist(), books), self._seconds(step, clocks)
        users = bool(runs) or getattr(self.trading, "wants_news", False)
        quiet = self._quiet(step, clocks[:, 0], runs) if users else [0] * len(clocks)
        formed = self._candles(step) if users else {}
        for place, (seq, ts) in enumerate(clocks.tolist()):
            self._start(runs, seq)
            happened = [h for h in self._happenings if h.seq <= seq] if self._happenings else []
            self._happenings = self._happenings[len(happened) :]
            news = self._news(step, seq) if self._bars or self._scans or seq in formed else None
            self.trading.on_interval(Interval(seq, ts, happened, tape, seconds, place, news, quiet[place]))
        self._quotes, self._trades = self._quotes[len(quotes) :], self._trades[len(trades) :]

    def _books(self, last: int) -> BookTape | None:
        """The books of the stretch that this clock ends."""
        if self._ladders is None:
            return None
        carried = self._carried
        ladders, self._ladders, self._carried = self._ladders.cut(last)
        return BookTape(ladders, carried)

    def _quiet(self, step: Step, clocks: Array, runs: list[RunStart]) -> list[int]:
        """By clock the index of the next one with happenings, news or a run start in its interval."""
        count = len(clocks)
        seqs = [*(h.seq for h in self._happenings), *(row["seq"] for row in (*self._bars, *self._scans))]
        seqs += [*self._candles(step), *(run.seq for run in runs)]
        places = sorted(set(clocks.searchsorted(np.array(seqs, np.int64)).tolist()))
        nexts = np.array([*places, count])
        found: list[int] = nexts[np.searchsorted(places, np.arange(count), "right")].tolist()
        return found

    def _news(self, step: Step, seq: int) -> News | None:
        """What happened up to this clock that only users' strategies read."""
        bars, scans = self._bars, self._scans
        if bars:
            bars = [row for row in bars if row["seq"] <= seq]
            self._bars = self._bars[len(bars) :]
        if scans:
            scans = [row for row in scans if row["seq"] <= seq]
            self._scans = self._scans[len(scans) :]
        if not getattr(self.trading, "wants_news", False):
            return None
        candles = self._candles(step).get(seq, [])
        if not candles and not bars and not scans:
            return None
        return News(
            candles,
            [(row["con_id"], tuple(row[name] for name in _BAR)) for row in bars],
            [(row["snapshot"] or 0, row["scan_code"] or "", row["rank"], row["symbol"]) for row in scans],
        )

    def _candles(self, step: Step) -> dict[int, list[tuple[int, str, tuple[Any, ...]]]]:
        """The completed candles of a step, by the clock that completed them."""
        if self._formed[0] is not step:
            by_clock: dict[int, list[tuple[int, str, tuple[Any, ...]]]] = {}
            if step.candles is not None and len(step.candles):
                columns = [step.candles[name].tolist() for name in ("decision_seq", "con_id", "timeframe", *_CANDLE)]
                for clock, con_id, timeframe, *values in zip(*columns, strict=True):
                    by_clock.setdefault(clock, []).append((con_id, TIMEFRAMES[timeframe][0], tuple(values)))
            self._formed = step, by_clock
        return self._formed[1]

    def _start(self, runs: list[RunStart], before: int = NEVER) -> None:
        while runs and runs[0].seq < before:
            run = runs.pop(0)
            self.trading.on_run_start(run.params, run.seq, run.ts)

    def _seconds(self, step: Step, clocks: Array) -> BucketColumns:
        """The buckets that these clocks closed."""
        closed_by = step.closed["decision_seq"]
        begin = int(closed_by.searchsorted(clocks[0, 0]))
        ends = (closed_by.searchsorted(clocks[:, 0], "right") - begin).tolist()
        rows = step.closed[begin : begin + ends[-1]]
        con_ids = np.ascontiguousarray(rows["con_id"])
        known = dict(zip(con_ids.tolist(), rows["inst"].tolist(), strict=True))
        symbols = {con_id: self._market.symbols[k] for con_id, k in known.items()}
        return BucketColumns(clocks, seconds_of(rows), con_ids, ends, symbols)

    def take(self) -> dict[str, pa.RecordBatch]:
        return self.trading.take_rows()

    def finish(self, seq: int, ts: int) -> None:
        self.trading.finish(seq, ts)

    def digest(self) -> str:
        return self.trading.digest()

    def snapshot(self) -> bytes:
        waiting = [(h.seq, h.ts, h.con_id, str(h.what), h.value, h.text) for h in self._happenings]
        live = self._live.snapshot()
        pairs = (self._bars, _BAR_KEPT), (self._scans, _SCAN_KEPT)
        rows = [[[row[name] for name in names] for row in kept] for kept, names in pairs]
        books = [self._carried, *(part.tobytes() for part in self._ladders)] if self._ladders else []
        own = self._quotes.tobytes(), self._trades.tobytes(), waiting, live, rows, books
        parts: list[Any] = [*own, self.trading.snapshot()]
        return msgspec.msgpack.encode(parts)

    def restore(self, data: bytes) -> None:
        quotes, trades, waiting, live, rows, books, inner = msgspec.msgpack.decode(data)
        if books:
            self._carried, *parts = books
            self._ladders = Ladders(
                *(np.frombuffer(p, of).copy() for p, of in zip(parts, (LADDERS, LEVELS), strict=True))
            )
        self._quotes, self._trades = np.frombuffer(quotes, QUOTES).copy(), np.frombuffer(trades, TRADES).copy()
        self._happenings = [
            Occurrence(seq, ts, con_id, OccurrenceKind(what), value, text)
            for seq, ts, con_id, what, value, text in waiting
        ]
        self._live.restore(live)
        for kept, part, names in zip((self._bars, self._scans), rows, (_BAR_KEPT, _SCAN_KEPT), strict=True):
            kept[:] = [dict(zip(names, row, strict=True)) for row in part]
        self.trading.restore(inner)
