"""Log lines on stderr, coloured on a terminal and plain in a pipe; stdout is for results."""

from __future__ import annotations

import sys


def to_stderr() -> None:
    """Send structlog there."""
    import structlog

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
