"""The version of this package, as manifests and run starts record it."""

from __future__ import annotations

__version__ = "0.1.0"
