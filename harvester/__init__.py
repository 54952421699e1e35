"""Harvester: a recorder and replay framework for Interactive Brokers data.

`open_day` reads a recorded date; `Strategy`, `Now` and the exit overlays are for strategies of one's own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from harvester.version import __version__ as __version__

if TYPE_CHECKING:
    from harvester.eventlog.reader import open_day as open_day
    from harvester.projections.trading.overlays import Bracket as Bracket
    from harvester.projections.trading.overlays import BreakEven as BreakEven
    from harvester.projections.trading.overlays import GivebackCap as GivebackCap
    from harvester.projections.trading.overlays import LiquidityExit as LiquidityExit
    from harvester.projections.trading.overlays import Overlay as Overlay
    from harvester.projections.trading.overlays import SpreadExit as SpreadExit
    from harvester.projections.trading.overlays import TimeStop as TimeStop
    from harvester.projections.trading.overlays import Trailing as Trailing
    from harvester.projections.trading.user_strategy import Now as Now
    from harvester.projections.trading.user_strategy import Strategy as Strategy

_EXITS = ("BreakEven", "Bracket", "GivebackCap", "LiquidityExit", "Overlay", "SpreadExit", "TimeStop", "Trailing")
_PUBLIC = {
    "open_day": "harvester.eventlog.reader",
    "Strategy": "harvester.projections.trading.user_strategy",
    "Now": "harvester.projections.trading.user_strategy",
    **dict.fromkeys(_EXITS, "harvester.projections.trading.overlays"),
}
"""Public names and the modules they come from."""

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604 - strings


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Import a name on first use, so that `hv --help` does not load Arrow."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'harvester' has no attribute {name!r}")
