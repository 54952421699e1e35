"""Write the sample home of Harvester 0.1.0: three dates of invented events.

It runs in a checkout of that version, the commit "cut 0.1.0", with its packages and tests on the path:

    git worktree add ../hv-0.1.0 7920265
    cd ../hv-0.1.0
    PYTHONPATH=.:tests python …/golden/formats/write_home_0_1_0.py …/golden/formats/home_0.1.0

The first date is folded and its log deleted, the second is folded, the third is projected and not folded yet.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trading_log import days, market, run_params, subscriptions
from typer.testing import CliRunner

from cli.app import app
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.home import Home
from harvester.projections.engine import Engine

if TYPE_CHECKING:
    from datetime import date

SECONDS = (240, 260, 280)
WHAT = (("eod --delete-temp --yes",), ("eod",), ("project",))


def record(home: Home, day: date, seconds: int) -> None:
    """Write one run, with the digests its recorder would have written at the end."""
    rows = market(day, seconds=seconds)
    ts, last = rows[0][1]["ts_recv"], rows[-1][1]["ts_recv"]
    end = {"action": "run_end", "stream": "run", "params": '{"reason":"end of recording"}', "ts_recv": last}
    with LogWriter.open(home, day, run_start_row={"params": run_params(day).text()}) as writer:
        engine = Engine()
        engine.fold(writer.begin(ts))
        for events in (subscriptions(ts), rows, [("request", end)]):
            batch = Batch.of(events, writer.next_seq)
            writer.commit(batch)
            engine.fold(batch)
        writer.live_digests(writer.next_seq - 1, engine.digests())


def hv(*words: str) -> None:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output


def write(root: Path) -> None:
    """Write the home; `root` must not exist."""
    home = Home(root).prepare()
    for day, seconds, what in zip(days(3), SECONDS, WHAT, strict=True):
        record(home, day, seconds)
        for words in ("log compact", *what):
            hv(*words.split(), "--date", day.isoformat(), "--home", str(root))
    for folder in (home.temp / "locks", home.temp / "cache"):
        shutil.rmtree(folder, ignore_errors=True)
    for path in (home.temp, home.memory):
        (path / ".gitignore").unlink()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
