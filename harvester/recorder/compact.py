"""Compact what was recorded, when the recording has ended cleanly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from harvester.errors import HarvesterError
from harvester.eventlog.compact import compact_day

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from harvester.eventlog.disk import Disk
    from harvester.home import Home

logger = structlog.get_logger(__name__)


def compact_recorded(home: Home, dates: Iterable[date], disk: Disk | None = None) -> None:
    """Compact the runs of each date. The recorder calls it once its last run is closed and the locks are given back.

    A compaction that fails costs nothing: the run is whole as it was, a warning says why, `hv log compact` tries again.
    """
    for trading_date in sorted(set(dates)):
        try:
            compact_day(home, trading_date, disk)
        except HarvesterError as error:
            logger.warning("not compacted", date=str(trading_date), why=str(error))
