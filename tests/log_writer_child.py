"""A writer to be killed: commits without end and reports each durable commit on its standard output.

    python log_writer_child.py HOME        with tests/ and the project on PYTHONPATH

One life per line of standard input. Where the system can fork, each life is a fork of this process, so that fifty lives
pay for one start-up.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from log_samples import DATE, START_NS, events

from harvester.eventlog.storage.content_hash import ContentHash
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.home import Home


def tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())


ROWS = events(400, seed=1, kinds=(Kind.TRADE, Kind.TICK, Kind.END, Kind.CLOCK))


def live(home: Home) -> None:
    """Open the date, recover the killed runs, commit batches of 1 to 60 events until killed."""
    tell(f"pid {os.getpid()}")
    writer = LogWriter.open(home.on(DATE))
    tell(f"open {writer.next_seq}")
    at = 0
    while True:
        size = 1 + writer.next_seq % 60
        at = (at + size) % 300
        ts = max(writer.last_ts, START_NS)
        batch = Batch.of([(kind, {**row, "ts_recv": ts}) for kind, row in ROWS[at : at + size]], writer.next_seq)
        tell(f"durable {writer.commit(batch).last_seq}")
        if writer.next_seq % 3 == 0:
            writer.live_digests(writer.next_seq - 1, {"book": f"{writer.next_seq:032x}"})


def main() -> None:
    home = Home(Path(sys.argv[1]))
    # What Arrow loads at its first use is loaded before the first life, or lives of 100 ms would end before a commit.
    ContentHash().update(Batch.of(ROWS, 1)).digest()
    for _ in sys.stdin:
        if not hasattr(os, "fork"):
            live(home)
        if child := os.fork():
            os.waitpid(child, 0)
            tell("dead")
        else:
            live(home)


if __name__ == "__main__":
    main()
