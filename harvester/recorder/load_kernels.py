"""Load the compiled market kernels before the recording starts.

If they must be compiled first (once per version and machine, about half a minute), a separate process does it:
compilation cannot be interrupted within a process, and a recorder that is stopped must not wait for it.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from pathlib import Path

from harvester.projections.market import kernel_cache

_KERNELS = "harvester.projections.market.kernels"
_COMPILE = f"import {_KERNELS}"


class _MustCompileError(Exception):
    """The kernels are not in the cache."""


async def load_kernels() -> None:
    """Load the kernels; when cancelled, end at once and leave no process behind."""
    if _KERNELS in sys.modules:
        return
    try:
        await asyncio.to_thread(_load_compiled)
    except _MustCompileError as missing:
        kernel_cache.report(str(missing))
        await compile_in_subprocess()
        await asyncio.to_thread(importlib.import_module, _KERNELS)


def _load_compiled() -> None:
    kernel_cache.on_compile.insert(0, _refuse)
    try:
        importlib.import_module(_KERNELS)
    finally:
        kernel_cache.on_compile.remove(_refuse)


def _refuse(text: str) -> None:
    raise _MustCompileError(text)


async def compile_in_subprocess(code: str = _COMPILE) -> None:
    """Run `code` in a new interpreter; when cancelled, kill it."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(part or str(Path.cwd()) for part in sys.path)}
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env=env, stdout=quiet, stderr=quiet)
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
