"""How tests start `hv` in a process of its own.

In the long run every process is a new `python`. In the short run, where the system can fork, most are forks of
one process that has loaded the libraries (`fork_server`): the command, its files, its signals and its death are real,
only the loading is shared. Tests of the start itself, of terminals and of a process's id use `PYTHON`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

from tests.budget import LONG

PROJECT = Path(__file__).resolve().parent.parent
SERVER = Path(__file__).with_name("fork_server.py")
PYTHON = [sys.executable]
LOADED = (
    "cli.app", "harvester.rebuild.project", "harvester.rebuild.verify_day", "harvester.replay.replay",
    "harvester.projections.market.kernels", "harvester.recorder.record", "harvester.endofday.eod",
    "harvester.simgateway.server", "exchange_calendars",
    "typer._adapters",  # what Typer loads at the first option
)  # fmt: skip


def python() -> list[str]:
    """Plain Python in the long run; else a command that runs `-m MODULE`, `-c CODE` or a file in a fork."""
    if LONG or not hasattr(os, "fork"):
        return PYTHON
    return [sys.executable, "-I", "-S", str(SERVER), "--run", _server()]


@lru_cache
def _server() -> str:
    """Start the process that forks; returns its socket. It ends with this process."""
    folder = tempfile.mkdtemp(prefix="hv")
    path = f"{folder}/s"
    command = [sys.executable, str(SERVER), path, *LOADED]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT, env=environment
    )
    assert server.stdin is not None
    assert server.stdout is not None
    if server.stdout.readline() != "ready\n":
        raise AssertionError(f"the fork server did not start: exit code {server.wait()}")

    def end() -> None:
        with contextlib.suppress(OSError):
            server.stdin.close()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return path
