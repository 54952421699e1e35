"""The cache of compiled kernels, and the decorator that uses it.

Numba keys its cache by a file's time and size and misses edits of callees; so the folder is named by the digest of the
kernel sources, Numba's version, the processor and the bounds-check switch: other sources have another folder. It is in
`projections/__pycache__`, or in the user's cache folder when the install is read-only.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCES = (
    "projections/market/kernels.py",
    "projections/market/state_arrays.py",
    "projections/market/volume.py",
    "projections/market/kernel_cache.py",
    "events/kinds.py",
    "events/unset.py",
    "units.py",
)
"""The kernels and everything they import from this package: its constants are part of the machine code."""


def _print(text: str) -> None:
    sys.stderr.write(text + "\n")


on_compile: list[Callable[[str], None]] = [_print]
"""Called with one line when the kernels must be compiled; a screen may replace the function."""


def key(numba_version: str, processor: str, bounds_check: str, sources: list[bytes]) -> str:
    """Name of the cache folder; anything that changes the machine code changes it."""
    total = hashlib.blake2b(digest_size=12)
    for part in (numba_version.encode(), processor.encode(), bounds_check.encode(), *sources):
        total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()


def user_cache() -> Path:
    """The user's cache folder on this system."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(home / "AppData" / "Local"))) / "harvester" / "Cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "harvester"
    return Path(os.environ.get("XDG_CACHE_HOME", str(home / ".cache"))) / "harvester"


def writable(folder: Path) -> bool:
    """Whether files can be created in the folder; creates it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def choose(source_folder: Path, name: str) -> Path | None:
    """Folder for the compiled kernels, or None when none is writable (then each process compiles)."""
    for base in (source_folder / "__pycache__", user_cache()):
        folder = base / f"kernels-{name}"
        if writable(folder):
            return folder
    return None


@lru_cache
def _folder(source_folder: Path, numba_version: str, processor: str, bounds_check: str) -> Path | None:
    sources = [(source_folder.parent / name).read_bytes() for name in SOURCES]
    folder = choose(source_folder, key(numba_version, processor, bounds_check, sources))
    if folder is None or not any(folder.rglob("*.nbi")):
        for report in on_compile:
            report("compiling the market kernels, once for this version and machine: about half a minute")
    return folder


def decorator(numba: Any, source: str, *signature: Any, apart: bool = False) -> Any:
    """`numba.njit` with our cache. Without a signature: a leaf, compiled into its callers and cached with them.

    `apart`: not inlined; a rarely called leaf would take registers from the loop over the events.

    The kernels allocate nothing and every array outlives the call, so Numba's reference counting is off (`_nrt`):
    counting fifty arrays at each inner call made the kernel ten times slower. No divisor is zero: prices are positive.
    """
    if not signature:
        return numba.njit(nogil=True, _nrt=False, forceinline=not apart, error_model="numpy")
    from llvmlite import binding  # type: ignore[import-untyped]

    processor = f"{platform.machine()} {binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
    folder = _folder(Path(source).resolve().parents[1], numba.__version__, processor, str(numba.config.BOUNDSCHECK))
    if folder is None:
        return numba.njit(*signature, nogil=True, _nrt=False, error_model="numpy")

    def compiled(function: Any) -> Any:
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(folder)
        try:
            return numba.njit(*signature, nogil=True, _nrt=False, cache=True, error_model="numpy")(function)
        finally:
            numba.config.CACHE_DIR = before

    return compiled
