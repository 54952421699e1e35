"""A helper process for the kill test: imports everything once, then forks one recorder per line it reads.

Each recorder prints `pid N` before it starts and `durable N` after every commit the log has called durable, N being the
last seq. It is killed from outside.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from harvester.clock import FileClock
from harvester.config import Settings
from harvester.eventlog.writer import Commit, LogWriter
from harvester.events.batch import Batch
from harvester.home import Home
from harvester.projections.engine import Engine
from harvester.recorder.record import record


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # one write: a line is there whole or not at all


def one_recording(home: Home, port: int, symbols: tuple[str, ...]) -> None:
    commit = LogWriter.commit

    def reporting(self: LogWriter, batch: Batch) -> Commit:
        done = commit(self, batch)
        say(f"durable {done.last_seq}")
        return done

    LogWriter.commit = reporting  # type: ignore[method-assign]
    flags = {"port": port, "symbols": symbols, "account": "DU1234567", "commit_seconds": 0.02}
    asyncio.run(record(Settings.load(flags), home, FileClock(home.gateway_file)))


def main() -> None:
    home, port, symbols = Home(Path(sys.argv[1])), int(sys.argv[2]), tuple(sys.argv[3].split(","))
    Engine().fold(Batch())  # compile or load the kernels before anybody counts time
    say("ready")
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            say(f"pid {os.getpid()}")
            try:
                one_recording(home, port, symbols)
            finally:
                os._exit(1)  # a recording that ends by itself is a failure of the test
        os.waitpid(pid, 0)
        say("gone")


if __name__ == "__main__":
    main()
