"""Reaching any time of a day through snapshots, as `hv book --at` and `hv replay` do. One JSON line each.

    python bench/bench_seek.py [--events 2000000] [--seeks 200] [--mixed] [--home FOLDER]

The day is stored as recorded (commits of 10,000 events, uncompressed) and compacted. A first pass folds it once and
writes the snapshots; then random times are reached, each only from the opened log and the snapshots:
`market` without simulated trading (`hv book`), `full` with it (`hv replay`). Days are stored under `--home` (else the
system's temporary folder) and reused.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from generator import DAY, kept

from harvester.eventlog.compact import compact_day
from harvester.eventlog.reader import open_day
from harvester.events.kinds import Side
from harvester.home import Home
from harvester.replay.seek import Seeker

if TYPE_CHECKING:
    from harvester.eventlog.reader import Day


def compacted(home: Home) -> Home:
    """The same day, compacted, beside it."""
    other = Home(home.root.with_name(home.root.name + "-compacted"))
    if not (other.root / "written.json").exists():
        shutil.rmtree(other.root, ignore_errors=True)
        shutil.copytree(home.root, other.root)
        compact_day(other, DAY)
    return other


def measured(home: Home, seeks: int) -> dict[str, object]:
    shutil.rmtree(home.cache, ignore_errors=True)
    begun = time.perf_counter()
    day = open_day(DAY, home)
    opened = time.perf_counter() - begun
    engines = {
        "market": reached(home, day, seeks, market_only=True),
        "full": reached(home, day, seeks, market_only=False),
    }
    return {"open_s": round(opened, 3), **engines}


def reached(home: Home, day: Day, seeks: int, *, market_only: bool) -> dict[str, object]:
    """One pass that writes the snapshots, then random times."""
    begun = time.perf_counter()
    Seeker(home, day, market_only=market_only).prepare()
    walked = time.perf_counter() - begun
    first, last = day.marks()[0].last_ts, day.last_ts
    chance = random.Random(3)
    seconds = []
    for _ in range(seeks):
        ts = chance.randrange(first, last)
        begun = time.perf_counter()
        engine = Seeker(home, day, market_only=market_only).at_time(ts)
        assert engine.book.ladder(1, Side.BID)
        seconds.append(time.perf_counter() - begun)
    files = list(home.cache.rglob(f"{'market' if market_only else 'full'}-*/*.snap"))
    return {
        "first_pass_s": round(walked, 3),
        "snapshots": len(files),
        "snapshots_mb": round(sum(path.stat().st_size for path in files) / 1e6, 2),
        "seek_ms_p50": round(statistics.median(seconds) * 1e3, 2),
        "seek_ms_p99": round(sorted(seconds)[int(len(seconds) * 0.99)] * 1e3, 2),
        "seek_ms_max": round(max(seconds) * 1e3, 2),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--events", type=int, default=2_000_000)
    options.add_argument("--seeks", type=int, default=200)
    options.add_argument("--mixed", action="store_true")
    options.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / "harvester-bench")
    given = options.parse_args()
    measured(kept(given.home, 20_000, mixed=given.mixed, commit_rows=10_000), 2)  # compiles or loads
    live = kept(given.home, given.events, mixed=given.mixed, commit_rows=10_000)
    for storage, home in (("live", live), ("compacted", compacted(live))):
        line = {"bench": "seek", "events": given.events, "mixed": given.mixed, "storage": storage}
        print(json.dumps(line | measured(home, given.seeks)))


if __name__ == "__main__":
    main()
