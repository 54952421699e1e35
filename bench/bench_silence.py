"""False alarms: play tapes through `hv gateway` and `hv record`, and count the notices of silence and outage.

    python bench/bench_silence.py --speed 60 tapes/IBM-2013-10-08 tapes/ARL-2025-07-17

Prints one JSON line per tape: notices per stream and New York hour, outages, and how often each stream was requested.
Every stream of a tape lives, so each notice is a false alarm or has a reason in the tape (a halt, an empty book).
"""

from __future__ import annotations

import argparse
import json
import subprocess  # runs our own commands
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from harvester.calendar import zone
from harvester.eventlog.reader import open_day
from harvester.events.kinds import Action, Kind, Own
from harvester.home import Home

HV = (sys.executable, "-m", "cli.app")
NEW_YORK = zone("America/New_York")


def hour(ns: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=ns // 10**9)
    return f"{moment.astimezone(NEW_YORK):%H}"


def play(tape: Path, speed: str, start: str, until: str, port: int) -> dict[str, Any]:
    """Record one tape; counts of its notices."""
    with tempfile.TemporaryDirectory() as root:
        at = ["--start", start] if start else []
        served = [*HV, "gateway", "--market", "tape", str(tape), "--speed", speed, "--port", str(port), "--home", root]
        gateway = subprocess.Popen([*served, "--once", *at], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (Path(root) / "gateway.json").exists() and gateway.poll() is None:
            time.sleep(0.1)
        ends = ["--until", until] if until else []
        record = [*HV, "record", "--port", str(port), "--home", root, "--no-compact", *ends]
        recorded = subprocess.run(record, capture_output=True, text=True, check=False)
        gateway.terminate()
        gateway.wait()
        if recorded.returncode:
            raise SystemExit(f"hv record ended with {recorded.returncode}: {recorded.stderr[-500:]}")
        return count(Home(Path(root)), tape.name)


def count(home: Home, name: str) -> dict[str, Any]:
    day = open_day(name[-10:], home)
    notices = [n for n in day.table(Kind.NOTICE).to_pylist() if n["code"] in {Own.STREAM_SILENT, Own.OUTAGE_BEGIN}]
    requests = [r for r in day.table(Kind.REQUEST).to_pylist() if r["action"] == Action.SUBSCRIBE]
    silent = Counter(f"{n['text'].split(' of ')[0]} {hour(n['ts_recv'])}h" for n in notices if n["con_id"])
    return {
        "bench": "silence",
        "tape": name,
        "notices": dict(sorted(silent.items())),
        "texts": [f"{hour(n['ts_recv'])}h {n['text']}, {(n['value'] or 0) // 10**9} s" for n in notices],
        "outages": sum(n["code"] == Own.OUTAGE_BEGIN for n in notices),
        "requests": dict(sorted(Counter(r["stream"] for r in requests).items())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tapes", nargs="*", type=Path)
    parser.add_argument("--speed", default="60")
    parser.add_argument("--start", default="")
    parser.add_argument("--until", default="")
    given = parser.parse_args()
    if not given.tapes:
        print(json.dumps({"bench": "silence", "skipped": "no tape given"}))
        return
    with ThreadPoolExecutor(len(given.tapes)) as pool:
        playing = [
            pool.submit(play, tape, given.speed, given.start, given.until, 7510 + n)
            for n, tape in enumerate(given.tapes)
        ]
        for one in playing:
            print(json.dumps(one.result()), flush=True)


if __name__ == "__main__":
    main()
