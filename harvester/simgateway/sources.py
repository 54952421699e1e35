"""The market sources by name: `model`, `tape`, `day`. This list is all there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harvester.errors import BadSetting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.simgateway.market import Market

KINDS = ("model", "tape", "day")


def open_market(kind: str, paths: Sequence[Path] = (), **settings: Any) -> Market:
    """Open a market source.

    Args:
        kind: one of `KINDS`.
        paths: tape folders (tape); the data root that holds the recorded day (day, default the working folder).
        settings: passed on: `model.ModelSettings` fields for a model, `tape.open_tape`'s for a tape, `trading_date`
            (date or yyyy-MM-dd) for a day.

    Raises:
        BadSetting: unknown kind or setting, or files that are not what they should be.
        NoLog: no such recorded day.
    """
    try:
        if kind == "model":
            from harvester.simgateway.model import ModelSettings, open_model

            return open_model(ModelSettings(**settings))
        if kind == "tape":
            from harvester.simgateway.tape import open_tape

            return open_tape([Path(path) for path in paths], **settings)
        if kind == "day":
            from harvester.simgateway.day import open_recorded

            return open_recorded(_one(paths), **settings)
    except TypeError as error:
        if "keyword" in str(error):  # a setting the source does not have, or one it needs
            raise BadSetting(f"market {kind}: {error}") from None
        raise
    raise BadSetting(f"market {kind!r} is unknown; choose one of {', '.join(KINDS)}")


def _one(paths: Sequence[Path]) -> Path:
    if len(paths) > 1:
        raise BadSetting(f"market day takes one data root, {len(paths)} were given")
    return Path(paths[0]) if paths else Path()
