"""What a process that runs users' code does first: limit its memory, and end when the process that started it ends."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress


def limit_memory(bytes_max: int) -> None:
    """Limit what this process allocates, where the system can: who needs more gets a MemoryError. No core dumps."""
    try:
        import resource
    except ImportError:  # Windows
        return
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    with suppress(OSError, ValueError):
        if hard == resource.RLIM_INFINITY or hard > bytes_max:
            resource.setrlimit(resource.RLIMIT_DATA, (bytes_max, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def end_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it dies: prctl(2), PR_SET_PDEATHSIG."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
