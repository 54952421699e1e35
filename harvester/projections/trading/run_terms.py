"""The parameters of a run that the trading fold uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from harvester.projections.trading.costs import CostTable
from harvester.units import MILLI_NS, SECOND_NS

if TYPE_CHECKING:
    from harvester.projections.run_params import RunParams

FLAT_BEFORE_S = 60.0  # of runs recorded before the setting existed


class RunTerms(msgspec.Struct, frozen=True):
    """The parameters of a run that trading uses.

    Attributes:
        strategies: (name, recorded digest, settings).
        aligned_only: enter only in the direction of the symbol's signal.
        flat_before_ns: positions are closed so long before the session's close.
        share_max: fraction of the size shown or printed that one fill may take.
        last_only: stops are triggered by prints alone.
        deep: orders see the prices behind the quote.
        answer_ns: after what time a strategy knows what happened to its orders.
    """

    run: str
    trading_date: str
    session: tuple[int, int] | None
    latency_ns: int
    costs: CostTable
    memory: str | None
    strategies: tuple[tuple[str, str, dict[str, Any]], ...]
    aligned_only: bool = False
    flat_before_ns: int = 60 * SECOND_NS
    share_max: float = 1.0
    last_only: bool = False
    deep: bool = False
    answer_ns: int = 0

    @property
    def flat_at(self) -> int | None:
        """When positions are closed, ns UTC; None on a date without a session."""
        return None if self.session is None else self.session[1] - self.flat_before_ns

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
            flat_before_ns=round(float(params.config.get("flat_before_close_seconds", FLAT_BEFORE_S)) * SECOND_NS),
            share_max=float(params.config.get("participation", 1.0)),
            last_only=params.config.get("stop_trigger", "quote") == "last",
            deep=params.config.get("fill_depth", "top") == "book",
            answer_ns=round(float(params.config.get("answer_latency_ms", 0.0)) * MILLI_NS),
        )
