"""Outages of the feed: a notice at the begin and the end of each, and their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog

from harvester.events.kinds import SILENCE_DETAIL, Own
from harvester.recorder.trading_hours import planned_outage

if TYPE_CHECKING:
    from harvester.clock import Clock
    from harvester.config import Settings
    from harvester.recorder.inbox import Inbox

logger = structlog.get_logger()


class Outages:
    """At most one outage at a time: a further cause during an outage changes nothing. `count` since the start."""

    def __init__(self, settings: Settings, inbox: Inbox, clock: Clock) -> None:
        self._settings, self._inbox, self._clock = settings, inbox, clock
        self._under_way = False
        self.count = 0
        self.cause, self.since_ns = "", 0  # of the last one

    @property
    def under_way(self) -> bool:
        """Whether the feed is down."""
        return self._under_way

    def begin(self, cause: str, *, silent_since_ns: int = 0) -> None:
        """Begin an outage.

        `silent_since_ns`: time of the last row, ns UTC, of a feed that fell silent: no code announced it, and requests
        do not end it for the folds.
        """
        if not self._under_way:
            self._under_way, self.cause, self.since_ns = True, cause, silent_since_ns or self._clock.now()
            self.count += 1
            planned = planned_outage(self._clock.now(), self._settings.daily_restart, self._settings.time_zone)
            text = f"no feed: {cause}" + (f"; planned: {planned}" if planned else "")
            if silent_since_ns:
                detail = msgspec.json.decode(SILENCE_DETAIL)
                self._inbox.notice(Own.OUTAGE_BEGIN, text, detail, value=silent_since_ns)
            else:
                self._inbox.notice(Own.OUTAGE_BEGIN, text)
            logger.warning("outage begins", cause=cause, planned=planned or "no")

    def end(self, cause: str) -> None:
        """End the outage."""
        if self._under_way:
            self._under_way = False
            self._inbox.notice(Own.OUTAGE_END, f"feed back: {cause}")
            logger.info("outage ends", cause=cause)
