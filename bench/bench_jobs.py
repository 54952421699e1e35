"""`hv project` over several dates, one process against several, process start included. One JSON line.

    python bench/bench_jobs.py [--events 1000000] [--dates 4] [--jobs 2] [--home FOLDER]

Every file of both is compared byte by byte. Kernels are compiled before the clock starts. Days are stored under
`--home` (else the system's temporary folder) and reused.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import generator

from harvester.calendar import sessions_before
from harvester.home import Home

PROJECT = Path(__file__).resolve().parent.parent


def dated(folder: Path, events: int, dates: int) -> Home:
    """A home with this many dates, each another day of the same market."""
    home = Home(folder / f"jobs-{dates}-{events}")
    done = home.root / "written.json"
    if not done.exists():
        shutil.rmtree(home.root, ignore_errors=True)
        home.prepare()
        for seed, day in enumerate(sessions_before(generator.DAY, dates)):
            generator.DAY, before = day, generator.DAY
            generator.write(home, events, seed=seed)
            generator.DAY = before
        done.write_text("{}\n", encoding="utf-8")
    return home


def projected(home: Home, jobs: int) -> tuple[float, dict[str, bytes]]:
    """Seconds, and every file that was written."""
    out = home.root / "out"
    shutil.rmtree(out, ignore_errors=True)
    words = ["project", "--from", "2000-01-01", "--home", str(home.root), "--out", str(out), "--json", "--force"]
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "cli.app", *words, "--jobs", str(jobs)], cwd=PROJECT, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    seconds = time.perf_counter() - begun
    files = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    shutil.rmtree(out)
    return seconds, files


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--events", type=int, default=1_000_000)
    options.add_argument("--dates", type=int, default=4)
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / "harvester-bench")
    given = options.parse_args()
    projected(dated(given.home, 20_000, 1), 1)
    home = dated(given.home, given.events, given.dates)
    one_s, one = projected(home, 1)
    several_s, several = projected(home, given.jobs)
    assert one == several, sorted(name for name in one.keys() | several.keys() if one.get(name) != several.get(name))
    print(json.dumps({
        "bench": "jobs", "events": given.events, "dates": given.dates, "jobs": given.jobs, "files_equal": len(one),
        "bytes_equal": sum(map(len, one.values())), "one_s": round(one_s, 3), "several_s": round(several_s, 3),
        "faster": round(one_s / several_s, 3),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
