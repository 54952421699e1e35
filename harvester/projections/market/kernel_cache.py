"""The cache of compiled kernels, and the decorator that uses it.

Numba keys its cache by a file's time and size and misses edits of callees; so the folder is named by the digest of the
kernel sources, place and time of the kernels' file, Numba's version, the processor and the bounds-check switch: other
sources have another folder. It is in `projections/__pycache__`, or in the user's cache folder when the install is
read-only.

Numba unpickles and runs whatever the files hold, and LLVM aborts the process on a damaged one. So a folder is complete
from the start (compiled beside it, then renamed) and holds the checksums of its files; a folder that differs from its
checksums counts as absent.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


CHECKSUMS = "checksums"
"""The file in a cache folder that lists digest and name of every other file in it."""
HALF_A_MINUTE = "about half a minute"


def _print(text: str) -> None:
    sys.stderr.write(text + "\n")


on_compile: list[Callable[[str], None]] = [_print]
"""Called with one line when the kernels must be compiled or cannot be saved; a screen may replace the function."""
_reported: set[str] = set()


def report(text: str) -> None:
    """Pass a line to `on_compile`, once per process."""
    if text not in _reported:
        for call in on_compile:
            call(text)
        _reported.add(text)


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


def bases(source_folder: Path) -> tuple[Path, Path]:
    """The folders that may hold the cache, first choice first."""
    return source_folder / "__pycache__", user_cache()


def choose(source_folder: Path, name: str) -> Path | None:
    """Folder for the compiled kernels, or None when none is writable (then each process compiles)."""
    for base in bases(source_folder):
        folder = base / f"kernels-{name}"
        if writable(folder):
            return folder
    return None


def _digests(folder: Path) -> str:
    """One line for each file of a cache folder: digest and name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    lines = ((hashlib.blake2b(path.read_bytes()).hexdigest(), path.relative_to(folder).as_posix()) for path in files)
    return "".join(f"{digest} {name}\n" for digest, name in lines)


def intact(folder: Path) -> bool:
    """Whether a folder holds compiled kernels exactly as they were saved."""
    try:
        listed = _digests(folder)
        return bool(listed) and (folder / CHECKSUMS).read_bytes() == listed.encode()
    except OSError:
        return False


def _publish(scratch: Path, folder: Path) -> None:
    """Rename a complete folder to the cache folder, unless another process was faster.

    Raises:
        OSError: it cannot be written.
    """
    (scratch / CHECKSUMS).write_bytes(_digests(scratch).encode())
    if intact(folder):
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        scratch.rename(folder)
    except OSError:
        if not intact(folder):
            raise


class Kernel(NamedTuple):
    """A function to compile: for which types, with which Numba options, and what messages call it."""

    numba: Any
    function: Any
    signature: Any
    options: dict[str, Any]
    what: str

    def dispatcher(self, cache: Path | None) -> Any:
        """Numba's dispatcher, not compiled yet; it reads and writes its files in `cache`."""
        config = self.numba.config
        before = config.CACHE_DIR
        config.CACHE_DIR = "" if cache is None else str(cache)
        try:
            return self.numba.njit(cache=cache is not None, no_cfunc_wrapper=True, **self.options)(self.function)
        finally:
            config.CACHE_DIR = before


def _load(kernel: Kernel, folder: Path) -> Any:
    """The function from an intact cache folder, or None when Numba cannot use it."""
    with ExitStack() as stack:
        try:  # from a copy: Numba reads only where it may write, and saves there what it did not find
            scratch = tempfile.TemporaryDirectory(prefix="hv-kernels-", ignore_cleanup_errors=True)
            copy = shutil.copytree(folder, Path(stack.enter_context(scratch)) / "cache")
        except OSError:  # a full disk, or no folder for temporary files
            copy = folder
        dispatcher = kernel.dispatcher(copy)
        dispatcher.compile(kernel.signature)
        return dispatcher if dispatcher.stats.cache_hits else None


def _compile(kernel: Kernel, folder: Path | None) -> Any:
    """Compile the function and save it; what cannot be saved is used from memory."""
    if folder is None:
        dispatcher = kernel.dispatcher(None)
        dispatcher.compile(kernel.signature)
        return dispatcher
    scratch = folder.with_name(f"{folder.name}.{os.getpid()}.new")
    dispatcher = None
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        dispatcher = kernel.dispatcher(scratch)
        dispatcher.compile(kernel.signature)
        _publish(scratch, folder)
    except OSError as error:
        report(f"cannot save {kernel.what} compiled in {folder}: {error.strerror or error}; free or change that folder")
        if dispatcher is None or not dispatcher.signatures:
            return _compile(kernel, None)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return dispatcher


def _why_compile(what: str, source_folder: Path, folder: Path | None) -> str:
    if folder is None:
        places = " or ".join(map(str, bases(source_folder)))
        return f"compiling {what} in memory, at each start {HALF_A_MINUTE}: cannot write to {places}"
    if any(path.is_file() for path in folder.rglob("*")):
        return f"{what} in {folder} are damaged or of another machine: compiling them again, {HALF_A_MINUTE}"
    return f"compiling {what}, once for this version and machine: {HALF_A_MINUTE}"


def _load_or_compile(kernel: Kernel, source_folder: Path, name: str) -> Any:
    for base in bases(source_folder):
        folder = base / f"kernels-{name}"
        if intact(folder):
            with suppress(Exception):  # Numba or pickle may raise anything on files they cannot use
                if (loaded := _load(kernel, folder)) is not None:
                    return loaded
            with suppress(OSError):
                (folder / CHECKSUMS).unlink()
    chosen = choose(source_folder, name)
    report(_why_compile(kernel.what, source_folder, chosen))
    return _compile(kernel, chosen)


def cached(source: str, kernel: Kernel, sources: Sequence[str] = SOURCES) -> Any:
    """Compile a function, or load it from the cache.

    Args:
        source: the file of the function, `harvester/<folder>/<folder>/<name>.py`; the cache is in the upper folder.
        kernel: the function; one for each list of sources.
        sources: files of the package that are part of its machine code.
    """
    from llvmlite import binding  # type: ignore[import-untyped]

    numba = kernel.numba
    processor = f"{platform.machine()} {binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
    file = Path(source).resolve()
    place, stamp = file.parents[1], file.stat()
    parts = [(place.parent / name).read_bytes() for name in sources]
    parts.append(f"{file} {stamp.st_mtime_ns} {stamp.st_size}".encode())  # Numba's files are tied to them
    name = key(numba.__version__, processor, str(numba.config.BOUNDSCHECK), parts)
    dispatcher = _load_or_compile(kernel, place, name)
    dispatcher.disable_compile()
    return dispatcher


def leaf(numba: Any, *, literals: bool = True, **options: Any) -> Any:
    """A decorator for a function that only compiled code calls: Python must not, it gets no entry point for Python.

    Entry points cost a third of the compiling. `literals=False`: one compiled function for all constants it is called
    with.
    """
    made = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)

    def compiled(function: Any) -> Any:
        dispatcher = made(function)
        if not literals:
            template, plain = dispatcher.get_call_template, numba.types.unliteral
            dispatcher.get_call_template = lambda args, kws: template(tuple(map(plain, args)), kws)
        return dispatcher

    return compiled


def decorator(numba: Any, source: str, *signature: Any, apart: bool = False) -> Any:
    """`numba.njit` with our cache. Without a signature: a leaf, compiled into its callers and cached with them.

    `apart`: not inlined; a rarely called leaf would take registers from the loop over the events.

    The kernels allocate nothing and every array outlives the call, so Numba's reference counting is off (`_nrt`):
    counting fifty arrays at each inner call made the kernel ten times slower. No divisor is zero: prices are positive.
    """
    options: dict[str, Any] = {"nogil": True, "_nrt": False, "error_model": "numpy"}
    if not signature:
        return leaf(numba, forceinline=not apart, **options)
    what = "the market kernels"
    return lambda function: cached(source, Kernel(numba, function, signature[0], options, what))
