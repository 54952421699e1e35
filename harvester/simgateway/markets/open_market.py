"""The market sources by name: `model`, `tape`, `day`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harvester.errors import BadSetting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.simgateway.markets.market_source import MarketSource

KINDS = ("model", "tape", "day")


def open_market(kind: str, paths: Sequence[Path] = (), **settings: Any) -> MarketSource:
    """Open a market source.

    Args:
        kind: one of `KINDS`.
        paths: tape folders (tape), or the data root of the recorded day (day; default: the working folder).
        settings: the fields of `model_market.ModelSettings` (model), the options of `tape_market.open_tape` (tape), or
            `trading_date`, a date or yyyy-MM-dd (day).

    Raises:
        BadSetting: unknown kind or setting, or invalid files.
        NoLog: the day was not recorded.
    """
    try:
        if kind == "model":
            from harvester.simgateway.markets.model_market import ModelSettings, open_model

            return open_model(ModelSettings(**settings))
        if kind == "tape":
            from harvester.simgateway.markets.tape_market import open_tape

            return open_tape([Path(path) for path in paths], **settings)
        if kind == "day":
            from harvester.simgateway.markets.recorded_day import open_recorded

            return open_recorded(_one(paths), **settings)
    except TypeError as error:
        if "keyword" in str(error):  # an unknown or missing setting
            raise BadSetting(f"market {kind}: {error}") from None
        raise
    raise BadSetting(f"unknown market {kind!r}; choose one of {', '.join(KINDS)}")


def _one(paths: Sequence[Path]) -> Path:
    if len(paths) > 1:
        raise BadSetting(f"market day takes one data root, not {len(paths)}")
    return Path(paths[0]) if paths else Path()
