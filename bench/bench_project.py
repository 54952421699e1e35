"""A whole `hv project` as a user runs it: process start, reading, trading, episodes, every file written.

    python bench/bench_project.py [--events 10000000] [--symbols 5] [--mixed] [--home FOLDER]

One JSON line: seconds, events per second, peak memory. Kernels are compiled before the clock starts. Memory is
measured in a separate run: sampling it fifty times a second slows a process by a third.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from generator import DAY, kept

PROJECT = Path(__file__).resolve().parent.parent


def projected(home: Path, *, watched: bool = False) -> tuple[float, float, dict[str, object]]:
    """Seconds, peak MB of the process if it is sampled, and the output of `--json`."""
    out = home / "out"
    shutil.rmtree(out, ignore_errors=True)
    words = ["-m", "cli.app", "project", "--date", DAY.isoformat(), "--home", str(home), "--out", str(out), "--json"]
    words.append("--force")
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        child = psutil.Popen([sys.executable, *words], cwd=PROJECT, stdout=said)
        peak = 0
        while watched and child.poll() is None:
            try:
                peak = max(peak, child.memory_full_info().uss)
            except psutil.Error:
                break
            time.sleep(0.02)
        code = child.wait()
        seconds = time.perf_counter() - begun
        said.seek(0)
        text = said.read()
    if code:
        sys.exit(f"hv project ended with {code}")
    found: dict[str, object] = json.loads(text)
    return seconds, peak / 1e6, found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--events", type=int, default=10_000_000)
    options.add_argument("--symbols", type=int, default=5)
    options.add_argument("--mixed", action="store_true")
    options.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / "harvester-bench")
    given = options.parse_args()
    projected(kept(given.home, 20_000, symbols=5, mixed=given.mixed).root)
    home = kept(given.home, given.events, symbols=given.symbols, mixed=given.mixed)
    seconds, _, said = projected(home.root)
    peak_mb = projected(home.root, watched=True)[1]
    rows = said["rows"]
    print(json.dumps({
        "bench": "project", "events": given.events, "symbols": given.symbols, "mixed": given.mixed,
        "seconds": round(seconds, 3), "events_per_s": round(given.events / seconds), "peak_mb": round(peak_mb),
        "episodes": rows["episodes"] if isinstance(rows, dict) else 0,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
