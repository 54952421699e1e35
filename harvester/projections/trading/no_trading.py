"""A trading side that trades nothing, for a recorder whose trading is folded by another process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from harvester.projections.interval import Interval
    from harvester.projections.run_params import RunParams


class NoTrading:
    """Implements `projections.base.TradingSide`: no rows, no state."""

    def on_run_start(self, params: RunParams, seq: int, ts: int) -> None:
        """Nothing."""

    def on_interval(self, interval: Interval) -> None:
        """Nothing."""

    def finish(self, seq: int, ts: int) -> None:
        """Nothing."""

    def take_rows(self) -> dict[str, pa.RecordBatch]:
        """No rows."""
        return {}

    def digest(self) -> str:
        """Empty."""
        return ""

    def snapshot(self) -> bytes:
        """Empty."""
        return b""

    def restore(self, data: bytes) -> None:
        """Nothing."""
