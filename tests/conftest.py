"""Tests run compiled code with Numba's bounds checks, and compile it once for all processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import hypothesis
import pytest
import typer.testing

from tests.budget import budget

PROJECT = Path(__file__).resolve().parent.parent

# Set before anything imports Numba; every process a test starts inherits them. The market kernels' cache separates
# checked from unchecked (`kernel_cache`); Numba's own, for the model's order flow, does not: it gets its own folder.
os.environ["NUMBA_BOUNDSCHECK"] = "1"
os.environ["NUMBA_CACHE_DIR"] = str(PROJECT / "harvester" / "__pycache__" / "checked")

# A busy machine is not a failure: the time to generate an input says nothing about the code. The short run
# tries the same examples each time; the long run tries new ones.
_ANY_SPEED = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile(
    "short", _ANY_SPEED, derandomize=True, max_examples=30
)  # the same examples each run
hypothesis.settings.register_profile("long", _ANY_SPEED, max_examples=100)
hypothesis.settings.load_profile(budget("short", "long"))

# `CliRunner` builds all commands of the application at each call, 40 ms: once is enough, they hold no state.
typer.testing._get_command = lru_cache(typer.testing._get_command)

_MEMORY = Path("/dev/shm")
_ROOM = 4 * 2**30


def pytest_configure(config: pytest.Config) -> None:
    """In the short run the tests' files are in memory, where there is room: syncing a disk costs CPU, and minutes."""
    if budget(_MEMORY.is_dir(), False) and shutil.disk_usage(_MEMORY).free > _ROOM and "TMPDIR" not in os.environ:
        folder = _MEMORY / f"harvester-tests-{os.getuid()}"
        folder.mkdir(exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


_KERNELS = "from harvester.projections.market import kernels"
_ORDER_FLOW = """
from harvester.simgateway.markets.market_source import drain
from harvester.simgateway.markets.model_market import ModelSettings, open_model
next(iter(drain(open_model(ModelSettings(rate=600)))))
"""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile before xdist starts its workers, or each of them would; a single process compiles on first use."""
    if not getattr(session.config.option, "numprocesses", None):
        return
    path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path}
    for process in [
        subprocess.Popen([sys.executable, "-c", code], env=environment) for code in (_KERNELS, _ORDER_FLOW)
    ]:
        assert process.wait() == 0, "the kernels do not compile; the error is above"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real market data next to the project: test input only, never part of it."""
    folder = PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real market data at {folder}: tests on tapes need it beside the project")
    return folder


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("a small file system is mounted on Linux only")
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # fails if anything was left open
