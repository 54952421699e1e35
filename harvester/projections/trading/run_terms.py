"""The parameters of a run that the trading fold uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from harvester.projections.trading.costs import CostTable
from harvester.units import MILLI_NS

if TYPE_CHECKING:
    from harvester.projections.run_params import RunParams


class RunTerms(msgspec.Struct, frozen=True):
    """The parameters of a run that trading uses.

    Attributes:
        strategies: (name, recorded digest, settings).
        aligned_only: enter only in the direction of the symbol's signal.
    """

    run: str
    trading_date: str
    session: tuple[int, int] | None
    latency_ns: int
    costs: CostTable
    memory: str | None
    strategies: tuple[tuple[str, str, dict[str, Any]], ...]
    aligned_only: bool = False

    @classmethod
    def of(cls, params: RunParams, run: str) -> RunTerms:
        """Take them from the run's parameters; a run without a cost table charges no commission."""
        calendar = params.calendar
        hours = calendar.session if calendar else None
        memory = params.memory.get("hash") if isinstance(params.memory, dict) else None
        return cls(
            run=run,
            trading_date=calendar.trading_date if calendar else "",
            session=(hours.open_ns, hours.close_ns) if hours else None,
            latency_ns=round(float(params.config.get("latency_ms", 0.0)) * MILLI_NS),
            costs=msgspec.convert(params.costs or {"name": "none", "maximum_fraction": 0.0}, CostTable),
            memory=memory,
            strategies=tuple((ref.name, ref.digest, dict(ref.settings)) for ref in params.strategies),
            aligned_only=bool(params.config.get("require_mtf_alignment")),
        )
