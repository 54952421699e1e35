"""Harvester: a recorder and replay framework for Interactive Brokers data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harvester.version import __version__ as __version__

if TYPE_CHECKING:
    from harvester.eventlog.reader import open_day as open_day

__all__ = ["__version__", "open_day"]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Import the reader on first use, so that `hv --help` does not load Arrow."""
    if name == "open_day":
        from harvester.eventlog.reader import open_day

        return open_day
    raise AttributeError(f"module 'harvester' has no attribute {name!r}")
