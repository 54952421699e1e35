"""`hv --help` start-up, warm: best and median of eleven runs, against an empty interpreter. One JSON line."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time


def seconds(*words: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    seconds("-m", "cli.app", "--help")
    ours = [seconds("-m", "cli.app", "--help") for _ in range(11)]
    bare = [seconds("-c", "pass") for _ in range(11)]
    print(
        json.dumps(
            {
                "bench": "startup",
                "hv_help_seconds_median": statistics.median(ours),
                "hv_help_seconds_best": min(ours),
                "bare_python_seconds_median": statistics.median(bare),
            }
        )
    )


if __name__ == "__main__":
    main()
