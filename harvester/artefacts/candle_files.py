"""Candle and signal files: one of each per symbol and run, named by the run's start event."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow.compute as pc

from harvester.artefacts.json_files import envelope, times_file
from harvester.home import file_name
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

CANDLE_FIELDS = (
    "timeframe", "bucket_start", "bucket_end", "open", "high", "low", "close", "average_mid", "average_spread_bps",
    "samples",
)  # fmt: skip
_TIMES = ("bucket_start", "bucket_end", "ts")
SIGNAL_FIELDS = ("ts", "symbol", "signal", "trigger_price", "reason", "spread_bps", "samples_30s", "source")


class RunSpan(NamedTuple):
    """A run of the date: its seqs, first and last included, and when it started (ns UTC)."""

    run: str
    first_seq: int
    last_seq: int
    start_ts: int

    @property
    def stamp(self) -> str:
        """`yyyyMMdd_HHmmss` UTC of the start event."""
        return datetime.fromtimestamp(self.start_ts // SECOND_NS, UTC).strftime("%Y%m%d_%H%M%S")


def candle_files(
    candles: pa.Table,
    signals: pa.Table,
    runs: Sequence[RunSpan],
    *,
    trading_date: str,
    health: dict[str, Any],
    epoch_ms: bool = False,
) -> dict[str, bytes]:
    """`l2_candles_…` and `l2_strategy_signals_…` by file name: the rows completed in each run, by symbol."""
    files: dict[str, bytes] = {}
    for span in runs:
        of_run = _within(candles, span)
        signalled = _within(signals, span)
        for symbol in sorted(pc.unique(of_run["symbol"]).to_pylist()):
            head: dict[str, Any] = {"trading_date": trading_date, "run": span.run, "through_seq": span.last_seq}
            head |= {"health": health, "symbol": symbol}
            rows = of_run.select(CANDLE_FIELDS).filter(pc.equal(of_run["symbol"], symbol)).to_pylist()
            signal_rows = signalled.select(SIGNAL_FIELDS).filter(pc.equal(signalled["symbol"], symbol)).to_pylist()
            signal_rows = [row | {"source": msgspec.json.decode(row["source"])} for row in signal_rows]
            for name, listed in (("l2_candles", rows), ("l2_strategy_signals", signal_rows)):
                body = envelope(f"harvester.{name}", listed, **head)
                path = f"{name}_{file_name(symbol)}_{span.stamp}.json"
                files[path] = times_file(msgspec.json.encode(body).decode(), _TIMES, epoch_ms=epoch_ms)
    return files


def _within(table: pa.Table, span: RunSpan) -> pa.Table:
    seqs = table["decision_seq"]
    return table.filter(pc.and_(pc.greater_equal(seqs, span.first_seq), pc.less_equal(seqs, span.last_seq)))
