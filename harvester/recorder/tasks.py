"""The background tasks of one recording, and the first failure among them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from harvester.gateway.connection import ConnectionLost

if TYPE_CHECKING:
    from collections.abc import Coroutine


class BackgroundTasks:
    """Tasks that end with the recording at the latest. `failure` holds the first error, which ends the recording."""

    def __init__(self) -> None:
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run in the background; an error of it sets `failure`."""
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def fail(self, error: Exception) -> None:
        """Set `failure`, unless it is set already."""
        if not self.failure.done():
            self.failure.set_exception(error)

    async def cancel(self) -> None:
        """Cancel every task and wait for it to end."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if task.cancelled() or (error := task.exception()) is None or isinstance(error, ConnectionLost):
            return  # the line reports its loss itself
        self.fail(error if isinstance(error, Exception) else RuntimeError(str(error)))
