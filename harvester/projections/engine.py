"""The engine: `fold` a batch, get finished rows. The recorder folds committed batches, replay the batches it reads.

    engine = Engine()
    for batch in day.batches():
        outputs = engine.fold(batch)
    outputs = engine.finish()            # once, when the date is over

Every input of a fold is in the log. How events are split into batches changes no byte of the output.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import msgspec

from harvester.projections.base import Outputs, Projection
from harvester.projections.market.book import Book
from harvester.projections.market.buckets import Buckets
from harvester.projections.market.candles import Candles
from harvester.projections.market.health import Health
from harvester.projections.market.market import Market
from harvester.projections.market.quotes import Quotes
from harvester.projections.market.signals import Signals, bars_of, scans_of
from harvester.projections.trading.trading_feed import TradingFeed

if TYPE_CHECKING:
    import pyarrow as pa

    from harvester.events.batch import Batch
    from harvester.projections.base import TradingSide
    from harvester.projections.market.health import HealthSummary
    from harvester.projections.trading.strategies import Library

PROJECTIONS: tuple[type[Projection], ...] = (
    Book,  # rows of the order books
    Quotes,  # the quote in force
    Buckets,  # one row per symbol and second
    Health,  # what was missing, refused or inconsistent
    Candles,  # 30s to 1D of the mid
    Signals,  # BUY and SELL on completed candles
    TradingFeed,  # decisions, fills, episodes
)
"""Every projection, in fold order: each reads what earlier ones derived."""

P = TypeVar("P", bound=Projection)


class Engine:
    """All projections of one trading date.

    Args:
        market_only: leave out the projections that read quotes and trades; faster.
        trading: replaces the simulated trading.
        library: where strategies come from; None = shipped ones alone.

    Attributes:
        market: arrays and names that projections read.
        projections: in the order of `PROJECTIONS`; `engine[Class]` gives one of them.
        book, quotes, health: read by screens and commands.
    """

    def __init__(
        self, *, market_only: bool = False, trading: TradingSide | None = None, library: Library | None = None
    ) -> None:
        self.market = Market(emit=not market_only)
        self.projections = [of(self.market) for of in PROJECTIONS if of.market_only or not market_only]
        self.book, self.quotes, self.health = self[Book], self[Quotes], self[Health]
        if trading is not None:
            self[TradingFeed].trading = trading
        elif library is not None:
            self[TradingFeed].use(library)
        self.through_seq = 0
        self.through_ts = 0

    def __getitem__(self, kind: type[P]) -> P:
        """The projection of that class.

        Raises:
            KeyError: this engine has none.
        """
        for projection in self.projections:
            if isinstance(projection, kind):
                return projection
        raise KeyError(kind)

    def fold(self, batch: Batch) -> Outputs:
        """Fold the next events; returns the rows they finished. Batches come in seq order, each event once."""
        step = replace(self.market.fold(batch), bars=bars_of(batch), scans=scans_of(batch))
        if step.last_seq:
            assert step.first_seq > self.through_seq, f"seq {step.first_seq} again after {self.through_seq}"
            self.through_seq, self.through_ts = step.last_seq, step.last_ts
        tables: dict[str, pa.RecordBatch] = {}
        for projection in self.projections:
            step = step.with_derived(projection.fold(step))
            tables |= projection.take()
        return Outputs(tables, self.through_seq)

    def finish(self) -> Outputs:
        """End the date; returns what is complete only then (open trades, the health table)."""
        tables: dict[str, pa.RecordBatch] = {}
        for projection in self.projections:
            projection.finish(self.through_seq, self.through_ts)
            tables |= projection.take()
        return Outputs(tables, self.through_seq)

    def digests(self) -> dict[str, str]:
        """One per projection, in fold order; equal events give equal digests, in any batches."""
        return {projection.name: projection.digest() for projection in self.projections}

    def health_summary(self, con_id: int | None = None) -> HealthSummary:
        """Data quality for an artefact, of one symbol or of the date."""
        return self.health.summary(con_id)

    def check(self) -> None:
        """Assert every invariant of the market's state."""
        self.book.check()
        self.quotes.check()

    def snapshot(self) -> bytes:
        """The whole state after the last fold."""
        parts = {projection.name: projection.snapshot() for projection in self.projections}
        return msgspec.msgpack.encode((self.through_seq, self.through_ts, self.market.snapshot(), parts))

    def restore(self, data: bytes) -> None:
        """Restore a snapshot of an engine with the same projections."""
        self.through_seq, self.through_ts, market, parts = msgspec.msgpack.decode(data)
        mine = [projection.name for projection in self.projections]
        assert list(parts) == mine, f"snapshot of {list(parts)}, engine of {mine}"
        self.market.restore(market)
        for projection in self.projections:
            projection.restore(parts[projection.name])
