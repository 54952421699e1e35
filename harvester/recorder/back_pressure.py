"""Back pressure: while too much waits to be committed, stop reading from the gateway; TCP makes it wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harvester.gateway.connection import Connection
    from harvester.recorder.inbox import Inbox


class BackPressure:
    """`paused` while reading is stopped. It resumes at half the limit, so that it does not flicker."""

    def __init__(self, inbox: Inbox, connection: Connection) -> None:
        self._inbox, self._connection = inbox, connection
        self.paused = False

    def apply(self) -> None:
        """Stop reading if too much waits; call it often."""
        if self._inbox.crowded and not self.paused:
            self.paused = True
            self._connection.pause()

    def release(self) -> None:
        """Resume reading if there is room again; call it after a commit."""
        if self.paused and self._inbox.roomy:
            self.paused = False
            self._connection.resume()
