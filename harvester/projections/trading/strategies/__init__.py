"""The list of strategies; each lives in a module of its own."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harvester.errors import BadSetting
from harvester.projections.trading.strategies.breakout_screen import BreakoutScreen
from harvester.projections.trading.strategies.imbalance_breakout import ImbalanceBreakout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.projections.trading.strategy import Screen, Strategy

STRATEGIES: dict[str, type[ImbalanceBreakout]] = {ImbalanceBreakout.name: ImbalanceBreakout}
SCREENS: dict[str, type[Screen]] = {
    ImbalanceBreakout.name: BreakoutScreen
}  # a strategy without one decides at every slot


def make(name: str, settings: Mapping[str, Any]) -> Strategy:
    """A fresh strategy.

    Raises:
        BadSetting: unknown strategy or setting.
    """
    return _class(name)(settings)


def describe(name: str, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`{name, digest, settings}` with every setting written out, as in a run's start event."""
    strategy = _class(name)(settings or {})
    values = msgspec.to_builtins(strategy.settings)
    return {"name": name, "digest": digest(name, values), "settings": values}


def digest(name: str, settings: Mapping[str, Any]) -> str:
    """BLAKE2b over the strategy's source (line ends normalised) and its canonical settings, 16 hex digits."""
    source = Path(sys.modules[_class(name).__module__].__file__ or "").read_bytes().replace(b"\r\n", b"\n")
    canonical = msgspec.json.encode(dict(sorted(settings.items())), order="deterministic")
    return hashlib.blake2b(source + b"\0" + canonical, digest_size=8).hexdigest()


def _class(name: str) -> type[ImbalanceBreakout]:
    if name not in STRATEGIES:
        raise BadSetting(f"unknown strategy {name!r}; use one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]
