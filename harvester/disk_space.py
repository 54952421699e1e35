"""Forecast how long the free disk space lasts, and format sizes and durations for people."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MARGIN_BYTES = 64 * 1024 * 1024
"""Free bytes a commit must leave: space to end the run, write the manifest and recover."""


@dataclass(frozen=True)
class Forecast:
    """A disk forecast: free bytes, bytes written per second, seconds until full (None when nothing is written)."""

    free_bytes: int
    bytes_per_second: float
    seconds: float | None

    def __str__(self) -> str:
        left = f"{size_text(self.free_bytes)} left"
        return left if self.seconds is None else f"{left} = {duration_text(self.seconds)}"


def disk_forecast(folder: Path, bytes_per_second: float) -> Forecast:
    """Forecast how long the disk of `folder` lasts at this rate, with the margin kept free.

    Raises:
        OSError: the disk cannot be read.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    seconds = max(free - MARGIN_BYTES, 0) / bytes_per_second if bytes_per_second > 0 else None
    return Forecast(free, bytes_per_second, seconds)


def size_text(n_bytes: float) -> str:
    """Format bytes in decimal units: `5.0 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def duration_text(seconds: float) -> str:
    """Format seconds: `3.1 days`."""
    for unit, length in (("years", 31_557_600), ("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
