"""Run every bench in fresh processes, take medians, print a Markdown table and its JSON lines.

python bench/run_all.py [--rounds 5] [--only ingest,append]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEEDED = {"bench_learning.py"}  # prints the same figures each time


def one_round(script: Path) -> list[dict]:
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{script.name} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return [flat(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]


def flat(row: dict) -> dict:
    """Nested figures as `outer inner`."""
    out = {}
    for key, value in row.items():
        inner = flat(value) if isinstance(value, dict) else None
        out |= {f"{key} {name}": figure for name, figure in inner.items()} if inner is not None else {key: value}
    return out


def median_of(rounds: list[list[dict]]) -> list[dict]:
    merged = []
    for same in zip(*rounds, strict=True):
        out = {}
        for key, value in same[0].items():
            numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
            out[key] = statistics.median(row[key] for row in same) if numeric else value
        merged.append(out)
    return merged


def machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{os.cpu_count()} x {model}, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", default="")
    given = options.parse_args()
    wanted = {f"bench_{name}.py" for name in given.only.split(",") if name}
    print(f"Machine: {machine()}; medians of {given.rounds} fresh processes\n")
    print("| bench | measure | value |\n|---|---|---|")
    lines = []
    for script in sorted(HERE.glob("bench_*.py")):
        if wanted and script.name not in wanted:
            continue
        for row in median_of([one_round(script) for _ in range(1 if script.name in SEEDED else given.rounds)]):
            lines.append(json.dumps(row))
            name = row.pop("bench", script.stem)
            for measure, value in row.items():
                shown = f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1000 else value
                shown = f"{shown:,.0f}" if isinstance(shown, (int, float)) else shown
                print(f"| {name} | {measure} | {shown} |")
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
