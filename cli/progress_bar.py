"""A progress bar on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType


class ProgressBar:
    """One bar on stderr: `update(done, total)` moves it, `step(name, done, total)` also renames it."""

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self._title = title
        self._shown: Any = None
        self._task: Any = None
        self._quiet = quiet or not sys.stderr.isatty()

    def __enter__(self) -> Self:
        if not self._quiet:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self._shown = Progress(*columns, console=Console(stderr=True), transient=True)
            self._shown.start()
            self._task = self._shown.add_task(self._title, total=None)
        return self

    def update(self, done: int, total: int) -> None:
        """Show `done` of `total`."""
        if self._shown is not None:
            self._shown.update(self._task, completed=done, total=total)

    def step(self, name: str, done: int, total: int) -> None:
        """Show `done` of `total` of the step `name`."""
        if self._shown is not None:
            self._shown.update(self._task, description=name, completed=done, total=total)

    def pause(self) -> None:
        """Take the bar off the screen, for a prompt."""
        if self._shown is not None:
            self._shown.stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pause()
