"""A market source driven by base rows: shared by the model and the tape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harvester.events.codes import UNKNOWN_CONTRACT
from harvester.events.kinds import Stream
from harvester.simgateway.markets.base_rows import PriceUnits, RowQueue
from harvester.simgateway.markets.historical_bars import answer, answer_end
from harvester.simgateway.markets.level1 import Level1
from harvester.simgateway.markets.market_source import (
    HistoricalBars,
    HistoryQuery,
    Instrument,
    MarketEvent,
    MarketRefusal,
    ScanRow,
    TicksQuery,
    no_data,
)
from harvester.simgateway.markets.past_ticks import QUOTE_BARS
from harvester.simgateway.markets.row_messages import InstrumentStreams, RowRenderer
from harvester.simgateway.markets.scanner_ranking import ScanCandidate, rank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from harvester.simgateway.markets.base_rows import Row
    from harvester.simgateway.markets.historical_bars import MinuteHistory
    from harvester.simgateway.markets.market_source import DataSource


@dataclass(frozen=True)
class RowMarketInputs:
    """The inputs of a `RowMarket` market.

    `prior_closes` are in the source's units, one per instrument, 0 if unknown; `open_ns` is the session's open.
    `chunks` yields the base rows in time order; `source` says what they are made of.
    """

    instruments: Sequence[Instrument]
    units: PriceUnits
    prior_closes: Sequence[float]
    start_ns: int
    open_ns: int
    end_ns: int
    depth_rows: int
    sample_ns: int
    past: MinuteHistory
    chunks: Iterator[list[Row]]
    source: Callable[[], DataSource]


class RowMarket:
    """The `Market` over base rows."""

    pushes_scans = False

    def __init__(self, cast: RowMarketInputs) -> None:
        self._cast = cast
        self.instruments, self.depth_rows = tuple(cast.instruments), cast.depth_rows
        self.start_ns, self.end_ns = cast.start_ns, cast.end_ns
        faces = [self._face(i, close) for i, close in zip(cast.instruments, cast.prior_closes, strict=True)]
        self._faces = {face.instrument.con_id: face for face in faces}
        assert len(self._faces) == len(faces), "two instruments share a con_id"
        self._renderer = RowRenderer(faces, cast.start_ns, cast.sample_ns)
        self._queue = RowQueue(cast.chunks)
        self.now_ns = cast.start_ns

    def _face(self, instrument: Instrument, prior_close: float) -> InstrumentStreams:
        units, texts = self._cast.units, self._cast.units.texts()
        level1 = Level1(units, texts, PriceUnits(1).texts(), prior_close, self._cast.open_ns)
        return InstrumentStreams(instrument, units, level1, self.depth_rows, texts)

    def source(self) -> DataSource:
        return self._cast.source()

    def next_ts(self) -> int | None:
        queue, timer = self._queue, self._renderer.next_timer
        if queue.filled() and queue.rows[queue.at][0] < timer:
            return int(queue.rows[queue.at][0])
        return timer if timer <= self.end_ns else None

    def advance(self, until_ns: int, wanted: Callable[[int, Stream], bool], at_most: int = 2000) -> list[MarketEvent]:
        out: list[MarketEvent] = []
        renderer = self._renderer
        until_ns = min(until_ns, self.end_ns)
        while True:
            self._rows_before_timer(until_ns, wanted, at_most, out)
            ts = self.next_ts()
            if ts is None or ts > until_ns or (len(out) >= at_most and ts > self.now_ns):
                return out
            if ts == renderer.next_timer:
                self.now_ns = ts
                renderer.fire(wanted, out)

    def _rows_before_timer(
        self, until_ns: int, wanted: Callable[[int, Stream], bool], at_most: int, out: list[MarketEvent]
    ) -> None:
        """Apply rows of the current chunk up to the next timer or `until_ns`; stop early as in `advance`."""
        renderer, queue = self._renderer, self._queue
        apply, rows, at, now = renderer.apply, queue.rows, queue.at, self.now_ns
        while at < len(rows):
            row = rows[at]
            ts = row[0]
            if ts != now and (ts > until_ns or ts >= renderer.next_timer or len(out) >= at_most):
                break
            now = ts
            apply(row, wanted, out)
            at += 1
        queue.at, self.now_ns = at, now

    def snapshot(self, con_id: int, stream: Stream) -> list[list[str]]:
        face = self._faces.get(con_id)
        if face is None:
            return []
        if stream == Stream.L1:
            return face.level1.snapshot()
        if stream in (Stream.BID_ASK, Stream.MID_POINT):
            return face.quote_snapshot(stream, self.now_ns)
        return face.book_snapshot(stream) if stream in face.books else []

    def history(self, query: HistoryQuery) -> HistoricalBars:
        face = self._faces.get(query.con_id)
        if face is None:
            raise MarketRefusal(UNKNOWN_CONTRACT, "No security definition has been found for the request")
        end_ns, per_dollar = answer_end(query, self.now_ns), self._cast.units.per_dollar
        if query.what in QUOTE_BARS:
            return answer(query, end_ns, None, face.past.bars(query.what, per_dollar, end_ns))
        return answer(query, end_ns, self._cast.past, face.seconds.series(per_dollar))

    def ticks(self, query: TicksQuery) -> list[tuple[Any, ...]]:
        face = self._faces[query.con_id]
        found = face.past.ticks(query, self._cast.units.per_dollar, self.now_ns)
        if not found:
            raise no_data(query.what, face.instrument.symbol)
        return found

    def scan(self, scan_code: str, rows: int) -> list[ScanRow]:
        usd = self._cast.units.usd
        standings = []
        for instrument in self.instruments:
            level1 = self._faces[instrument.con_id].level1
            vwap = usd(level1.turnover / level1.volume) if level1.volume else 0.0
            prices = (usd(level1.last_price), usd(level1.prior_close), usd(level1.open))
            count = len(self._faces[instrument.con_id].seconds)
            standings.append(ScanCandidate(instrument, *prices, level1.volume, vwap, count))
        return rank(standings, scan_code, rows)

    def contract_text(self, con_id: int) -> list[str] | None:  # noqa: ARG002 - the interface's signature
        return None
