"""From the log file to books and all bucket columns, one thread, against other engines on the same events in memory.

    python bench/bench_book.py [--events 2000000] [--mixed] [--home FOLDER] [--peers PYTHON]

Ours: `open_day` separately (it compares every byte with its checksum), then mapped files, merge and kernels, to books
and every bucket column as NumPy rows; `memory` is the same events already read, `engine` is from the file through all
projections of the market, digests and Arrow tables. Peers run in a process of their own, with `--peers` or
BENCH_PEERS as interpreter (see docs/benchmarks.md), else with this one. Days are stored under `--home` (else the
system's temporary folder) and reused. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from generator import DAY, generate, kept

from harvester.eventlog.fold_reader import fold_batches
from harvester.eventlog.reader import open_day
from harvester.projections.engine import Engine
from harvester.projections.market.market import Market
from harvester.projections.market.merge import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harvester.events.batch import Batch

HERE = Path(__file__).resolve().parent
COLUMNS_OF_A_DELTA = ("ts", "symbol", "operation", "side", "position", "price", "size")
ROWS = 100_000


def from_file(folder: Path, compression: str, given: argparse.Namespace) -> dict[str, float]:
    """Seconds to open, and events per second from the file and from memory."""
    home = kept(folder, given.events, mixed=given.mixed, compression=compression)
    begun = time.perf_counter()
    day = open_day(DAY, home)
    opened = time.perf_counter() - begun
    best: dict[str, float] = {"open_seconds": opened, "file": 0.0, "engine": 0.0, "memory": 0.0}
    for _ in range(3):
        best["file"] = max(best["file"], rate(fold_batches(day, COLUMNS, ROWS), day.rows)[0])
    begun = time.perf_counter()
    engine = Engine(market_only=True)
    rows = sum(engine.fold(batch).rows("buckets") for batch in fold_batches(day, COLUMNS, ROWS))
    engine.digests()
    best["engine"] = day.rows / (time.perf_counter() - begun)
    batches = list(fold_batches(day, COLUMNS, ROWS))
    for _ in range(3):
        found, bid = rate(iter(batches), day.rows)
        best["memory"] = max(best["memory"], found)
    return best | {"best_bid": bid, "rows": rows}


def rate(batches: Iterator[Batch], events: int) -> tuple[float, float]:
    """Events per second, and the first symbol's bid in its last bucket that has one."""
    market = Market(emit=False)
    begun = time.perf_counter()
    closed = [market.fold(batch).closed for batch in batches]
    seconds = time.perf_counter() - begun
    rows = np.concatenate(closed)
    bids = rows["bid"][(rows["con_id"] == 1) & (rows["bid"] > 0)]
    return events / seconds, float(bids[-1]) if len(bids) else 0.0


def peers(python: str, events: int) -> dict[str, object]:
    pieces = list(generate(events))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "day.npz"
        np.savez(path, **{name: np.concatenate([getattr(p, name) for p in pieces]) for name in COLUMNS_OF_A_DELTA})
        single = Path(folder) / "single.npz"
        pieces = list(generate(events, symbols=1))  # hftbacktest replays one book: give it as many events
        np.savez(single, **{name: np.concatenate([getattr(p, name) for p in pieces]) for name in COLUMNS_OF_A_DELTA})
        found: dict[str, object] = {}
        for file, names in ((single, ["hftbacktest"]), (path, ["nautilus", "lists", "sorteddict"])):
            command = [python, "-W", "ignore", str(HERE / "peers.py"), str(file), *names]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
            found |= json.loads(lines[-1]) if lines else dict.fromkeys(names) | {"why_not": done.stderr[-300:]}
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--events", type=int, default=2_000_000)
    options.add_argument("--mixed", action="store_true")
    options.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / "harvester-bench")
    options.add_argument("--peers", default=os.environ.get("BENCH_PEERS", sys.executable))
    given = options.parse_args()
    found = peers(given.peers, given.events)
    from_file(given.home, "none", argparse.Namespace(events=20_000, mixed=given.mixed))  # compiles or loads
    out: dict[str, object] = {"bench": "book", "events": given.events, "mixed": given.mixed}
    for compression in ("none", "zstd"):
        made = from_file(given.home, compression, given)
        if not given.mixed and found.get("lists"):
            assert abs(made["best_bid"] - float(str(found["lists_best_bid"]))) < 1e-9, (made, found)
        out |= {f"{name}_{compression}": round(value, 3) for name, value in made.items()}
    for name in ("hftbacktest", "nautilus", "lists", "sorteddict"):
        if found.get(name):
            out |= {f"{c}_over_{name}": round(float(str(out[f"file_{c}"])) / float(str(found[name])), 3)
                    for c in ("none", "zstd")}  # fmt: skip
    print(json.dumps(out | found))


if __name__ == "__main__":
    main()
