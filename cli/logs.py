"""Log lines on stderr, coloured on a terminal and plain in a pipe; stdout is for results."""

from __future__ import annotations

import sys
from typing import TextIO, cast


class _Stderr:
    """Whatever stderr is when a line is written: a live screen puts its own in the place of the terminal's."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def to_stderr() -> None:
    """Send structlog there."""
    import structlog

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Stderr())),  # in one write, newline included
    )
