"""Log lines on stderr, coloured on a terminal and plain in a pipe; stdout is for results."""

from __future__ import annotations

import sys
from typing import TextIO, cast


class _Stderr:
    """The stderr in use when a line is written: a live screen replaces the terminal's."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def to_stderr() -> None:
    """Send structlog to stderr."""
    import structlog

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Stderr())),  # one write per line, newline included
    )
