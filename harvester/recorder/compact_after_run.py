"""Compact the recorded dates after the recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from harvester.errors import HarvesterError
from harvester.eventlog.compact import compact_day

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from harvester.files import Disk
    from harvester.home import Home

logger = structlog.get_logger(__name__)


def compact_recorded(home: Home, dates: Iterable[date], disk: Disk | None = None) -> None:
    """Compact the runs of each date, after the last run is closed and the locks are released.

    A failed compaction leaves the run as it was and logs a warning; `hv log compact` repeats it.
    """
    for trading_date in sorted(set(dates)):
        try:
            compact_day(home.on(trading_date), disk)
        except HarvesterError as error:
            logger.warning("compaction failed", date=str(trading_date), why=str(error))
