"""A recorder for the kill test: loads everything, prints `ready`, starts at the first line it reads, and is killed.

It prints `durable N` after every durable commit, where N is the last seq. Stacks of a recording that neither prints nor
ends go to standard error.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harvester.clock import FileClock
from harvester.config import Settings
from harvester.eventlog.writer import Commit, LogWriter
from harvester.home import Home
from harvester.recorder.record import record

if TYPE_CHECKING:
    from harvester.events.batch import Batch

STUCK_S = 40.0


REPORTS = os.dup(1)
os.dup2(2, 1)  # what the recorder prints is none


def say(line: str) -> None:
    os.write(REPORTS, f"{line}\n".encode())  # one write: a line is there whole or not at all


def main() -> None:
    home, port, symbols = Home(Path(sys.argv[1])), int(sys.argv[2]), tuple(sys.argv[3].split(","))
    importlib.import_module("harvester.projections.market.kernels")  # compiled or loaded before anybody counts time
    say("ready")
    if not sys.stdin.readline():
        return  # the test has ended
    faulthandler.dump_traceback_later(STUCK_S)
    commit = LogWriter.commit

    def reporting(self: LogWriter, batch: Batch) -> Commit:
        done = commit(self, batch)
        say(f"durable {done.last_seq}")
        return done

    LogWriter.commit = reporting  # type: ignore[method-assign]
    flags = {"port": port, "symbols": symbols, "account": "DU1234567", "commit_seconds": 0.02}
    asyncio.run(record(Settings.load(flags), home, FileClock(home.gateway_file)))


if __name__ == "__main__":
    main()
