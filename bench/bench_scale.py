"""From the log file to every bucket column at growing sizes, and of many symbols against few. One JSON line each.

    python bench/bench_scale.py [--millions 1,2,5,10] [--symbols 100] [--breadth 10] [--home FOLDER]

Five symbols at each size, every size in a process of its own that takes the fastest of three: `ns_per_event` from the
mapped file to books and bucket rows, as `bench_book.py`; `engine_ns_per_event` through all projections of the market,
digests and tables included; `rss_peak_mb` is all that is resident, pages of the mapped file among it,
`anonymous_peak_mb` what the process itself holds. `scale_line` is the least-squares line through the seconds, and the
distance of the worst size from it. `breadth` compares many symbols with five at the same number of events. Days are
written below `--home` (else the system's temporary folder), about 77 bytes an event, and deleted.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from generator import DAY, write

from harvester.eventlog.fold_reader import fold_batches
from harvester.eventlog.reader import open_day
from harvester.home import Home
from harvester.projections.engine import Engine
from harvester.projections.market.market import Market
from harvester.projections.market.merge import COLUMNS

ROWS, REPEATS = 100_000, 3
STATUS = Path("/proc/self/status")


class Anonymous(threading.Thread):
    """Samples the process's memory without mapped files; stays at 0 where the system does not report it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_mb = 0.0

    def run(self) -> None:
        while STATUS.exists():
            lines = dict(line.split(":", 1) for line in STATUS.read_text(encoding="ascii").splitlines())
            self.peak_mb = max(self.peak_mb, int(lines["RssAnon"].split()[0]) / 1e3)
            time.sleep(0.005)


def measured(home: Home) -> dict[str, float]:
    """In this process: seconds to open, to bucket rows and through the engine, and peak memory."""
    memory = Anonymous()
    memory.start()
    begun = time.perf_counter()
    day = open_day(DAY, home)
    out = {"events": day.rows, "open_s": time.perf_counter() - begun}
    out |= {"file_s": min(to_rows(day) for _ in range(REPEATS)), "engine_s": min(folded(day) for _ in range(REPEATS))}
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return out | {"rss_peak_mb": rss_mb, "anonymous_peak_mb": memory.peak_mb}


def to_rows(day: object) -> float:
    market = Market(emit=False)
    begun = time.perf_counter()
    rows = sum(len(market.fold(batch).closed) for batch in fold_batches(day, COLUMNS, ROWS))
    assert rows
    return time.perf_counter() - begun


def folded(day: object) -> float:
    engine = Engine(market_only=True)
    begun = time.perf_counter()
    for batch in fold_batches(day, COLUMNS, ROWS):
        engine.fold(batch)
    assert engine.digests()
    return time.perf_counter() - begun


def in_a_process(folder: Path, events: int, symbols: int) -> dict[str, float]:
    """Write the day, measure it in a fresh process, delete it."""
    home = Home(folder / f"scale-{events}-{symbols}").prepare()
    try:
        write(home, events, symbols=symbols, compression="none")
        words = [sys.executable, __file__, "--measure", str(home.root)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    finally:
        shutil.rmtree(home.root)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def shown(found: dict[str, float]) -> dict[str, float]:
    """A row of the table: costs by event."""
    events = found["events"]
    return {
        "events": events,
        "open_s": round(found["open_s"], 3),
        "seconds": round(found["file_s"], 4),
        "ns_per_event": round(found["file_s"] / events * 1e9, 1),
        "engine_seconds": round(found["engine_s"], 4),
        "engine_ns_per_event": round(found["engine_s"] / events * 1e9, 1),
        "rss_peak_mb": round(found["rss_peak_mb"]),
        "anonymous_peak_mb": round(found["anonymous_peak_mb"]),
    }


def line(events: list[float], seconds: list[float]) -> dict[str, float]:
    """Seconds = fixed + slope * events, and the largest relative distance of a size from it."""
    slope, fixed = np.polyfit(events, seconds, 1, w=1 / np.array(seconds))
    off = np.abs(np.polyval((slope, fixed), events) / np.array(seconds) - 1)
    return {"ns_per_event": round(slope * 1e9, 1), "fixed_s": round(fixed, 4), "worst_off": round(float(off.max()), 3)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--millions", default="1,2,5,10")
    options.add_argument("--symbols", type=int, default=100)
    options.add_argument("--breadth", type=int, default=10, help="million events of the comparison; 0 = none")
    options.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / "harvester-bench")
    options.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.measure:
        print(json.dumps(measured(Home(given.measure))))
        return
    in_a_process(given.home, 20_000, 5)  # compiles or loads
    sizes = {}
    for millions in [int(word) for word in given.millions.split(",") if word]:
        sizes[millions] = in_a_process(given.home, millions * 1_000_000, 5)
        print(json.dumps({"bench": "scale", "millions": millions, "symbols": 5, **shown(sizes[millions])}), flush=True)
    if len(sizes) > 2:
        events = [found["events"] for found in sizes.values()]
        lines = {name: line(events, [found[f"{name}_s"] for found in sizes.values()]) for name in ("file", "engine")}
        print(json.dumps({"bench": "scale_line", "millions": given.millions, **lines}))
    if given.breadth:
        few = sizes.get(given.breadth) or in_a_process(given.home, given.breadth * 1_000_000, 5)
        many = in_a_process(given.home, given.breadth * 1_000_000, given.symbols)
        row = {"bench": "breadth", "millions": given.breadth, "symbols": given.symbols, **shown(many)}
        over = {f"{name}_over_5_symbols": round(many[f"{name}_s"] / few[f"{name}_s"], 3) for name in ("file", "engine")}
        print(json.dumps(row | over))


if __name__ == "__main__":
    main()
