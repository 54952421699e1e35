"""The type of market data the gateway sends for each request: live, frozen or delayed (message 58)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from harvester.events.kinds import Kind

if TYPE_CHECKING:
    from harvester.recorder.inbox import Inbox
    from harvester.recorder.subscriptions import SubscriptionRegistry

logger = structlog.get_logger()
LIVE = 1
NAMES = {LIVE: "live", 2: "frozen", 3: "delayed", 4: "delayed and frozen"}


class DataTypes:
    """By request id, since the connection began."""

    def __init__(self, inbox: Inbox, registry: SubscriptionRegistry) -> None:
        self._inbox, self._registry = inbox, registry
        self._types: dict[int, int] = {}

    def received(self, req_id: int, value: int) -> None:
        """The gateway has sent the type of a request's data; a change is logged."""
        before = self._types.get(req_id, LIVE)
        self._types[req_id] = value
        sub = self._registry.live.get(req_id)
        if value != before and sub is not None:
            log = logger.info if value == LIVE else logger.warning
            log("market data type", symbol=sub.target.symbol, data=NAMES.get(value, str(value)))

    def restate(self, req_id: int, con_id: int) -> None:
        """Repeat the type of a request in a new run's log."""
        if req_id in self._types:
            row = {"msg": 58, "value": self._types[req_id], "text": "repeated from the date before"}
            self._inbox.put(Kind.NOTICE, {"con_id": con_id, "req_id": req_id, **row})

    def clear(self) -> None:
        """The connection is gone."""
        self._types.clear()
