"""Episodes against speed: play a tape in lockstep twice, then at speeds through `hv gateway` and `hv record`.

    python bench/bench_pace.py --start 9:30 --until 10:30 --speeds 50,200,max tapes/IBM-2013-10-08

Prints one JSON line per recording: episodes, how it kept pace (health), and against the first lockstep recording

    stamps          how much later the same row of quotes, prints and depth is stamped, s of market time: median, p99, largest
    trades          that both have (same symbol and side, entered within 2 s); only here; only in lockstep
    within          whether the number of episodes is within 10 %
    holds           within, or starved
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess  # runs our own commands
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harvester.calendar import session
from harvester.eventlog.reader import Day, open_day
from harvester.eventlog.typed_times import moment
from harvester.events.kinds import Kind
from harvester.home import Home, parse_date
from harvester.rebuild.project import fold_day
from harvester.simgateway.markets.open_market import open_market
from harvester.units import SECOND_NS
from tests.recording import lockstep

ROOT = Path(__file__).resolve().parent.parent
HV = (sys.executable, "-m", "cli.app")
LOCKSTEP = "lockstep"
ROWS = (Kind.QUOTE, Kind.TRADE, Kind.DEPTH)
SAME_NS = 2 * SECOND_NS  # two entries within it are the same trade
SHARE = 0.1  # of the episodes of lockstep may be more or less


def in_lockstep(tape: Path, home: Home, start_ns: int, until_ns: int) -> Day:
    """Record a part of a tape on one market clock."""
    minutes = (until_ns - start_ns) / SECOND_NS / 60
    market = open_market("tape", [tape])
    made = asyncio.run(lockstep(market, home, minutes=minutes, start_ns=start_ns, compact=False))
    return made.day(tape.name[-10:])


def at_speed(tape: Path, home: Home, speed: str, start: str, until: str) -> Day:
    """Record a part of a tape in two processes."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    served = [*HV, "gateway", "--market", "tape", str(tape), "--speed", speed, "--port", "0", "--home", str(home.root)]
    window = ["--start", start, "--end", until, "--once"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": env}
    gateway = subprocess.Popen([*served, *window], **quiet)
    while not home.gateway_file.exists() and gateway.poll() is None:
        time.sleep(0.1)
    port = str(json.loads(home.gateway_file.read_bytes())["port"])
    ends = ["--until", until, "--no-compact", "--skip-historical-backfill"]
    record = [*HV, "record", "--port", port, "--home", str(home.root), *ends]
    recorded = subprocess.run(record, capture_output=True, text=True, check=False, env=env)
    gateway.terminate()
    gateway.wait()
    if recorded.returncode:
        raise SystemExit(f"hv record ended with {recorded.returncode}: {recorded.stderr[-500:]}")
    return open_day(tape.name[-10:], home)


def measured(day: Day) -> dict[str, Any]:
    """What a recording gave: episodes, kind, pace."""
    made = fold_day(day)
    of_date = {row["measure"]: row["value"] for row in made.tables["health"].to_pylist() if row["symbol"] is None}
    episodes = made.tables["episodes"].sort_by("entry_ts").to_pylist()
    return {
        "episodes": episodes,
        "kind": made.health["kind"],
        "pace": of_date["clocks_per_second"],
        "lag": of_date["stamp_lag_p99"],
        "starved": bool(of_date["starved"]),
        "stamps": {kind: _stamps(day, kind) for kind in ROWS},
    }


def _stamps(day: Day, kind: Kind) -> dict[int, np.ndarray]:
    """`ts_recv` of the rows of a kind, per instrument, in order."""
    table = day.table(kind).select(["con_id", "ts_recv"])
    con_ids = table.column("con_id").to_numpy()
    times = table.column("ts_recv").to_numpy()
    return {int(con_id): times[con_ids == con_id] for con_id in np.unique(con_ids)}


def later(here: dict[str, Any], there: dict[str, Any]) -> list[float] | None:
    """By how much the rows of `here` are stamped later than the same rows of `there`, s: median, p99, largest."""
    found = []
    for kind in ROWS:
        for con_id, times in here["stamps"][kind].items():
            other = there["stamps"][kind].get(con_id, np.empty(0, np.int64))
            common = min(len(times), len(other))
            found.append(times[:common] - other[:common])
    rows = np.concatenate(found) / SECOND_NS
    return [round(float(value), 3) for value in np.percentile(rows, [50, 99, 100])] if len(rows) else None


def compared(here: dict[str, Any], there: dict[str, Any]) -> tuple[int, list[str], list[str]]:
    """Trades that both have, and the others of each as text."""
    left, only = list(there["episodes"]), []
    for row in here["episodes"]:
        near = [e for e in left if (e["symbol"], e["side"]) == (row["symbol"], row["side"])]
        near = [e for e in near if abs(e["entry_ts"] - row["entry_ts"]) <= SAME_NS]
        if near:
            left.remove(min(near, key=lambda e: abs(e["entry_ts"] - row["entry_ts"])))
        else:
            only.append(row)
    return len(here["episodes"]) - len(only), [_short(row) for row in only], [_short(row) for row in left]


def _short(row: dict[str, Any]) -> str:
    at = pa.scalar(row["entry_ts"], pa.timestamp("ns")).as_py()
    return f"{at:%H:%M:%S.%f} {row['symbol']} {row['side']} {row['exit_reason']}"


def line(name: str, speed: str, took_s: float, found: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    same, only, missing = compared(found, first)
    count, expected = len(found["episodes"]), len(first["episodes"])
    within = abs(count - expected) <= SHARE * expected
    return {
        "bench": "pace",
        "tape": name,
        "speed": speed,
        "took_s": round(took_s, 1),
        "kind": found["kind"],
        "episodes": count,
        "exits": dict(sorted(Counter(row["exit_reason"] for row in found["episodes"]).items())),
        "clocks_per_second": round(found["pace"], 4),
        "stamp_lag_p99": found["lag"],
        "starved": found["starved"],
        "stamps": later(found, first),
        "trades": {"both": same, "only_here": only, "only_lockstep": missing},
        "within": within,
        "holds": within or found["starved"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tapes", nargs="*", type=Path)
    parser.add_argument("--speeds", default="50,200,max")
    parser.add_argument("--start", default="", help="New York; default: the session's open")
    parser.add_argument("--until", default="", help="New York; default: the session's close")
    given = parser.parse_args()
    if not given.tapes:
        print(json.dumps({"bench": "pace", "skipped": "no tape given"}))
        return
    for tape in given.tapes:
        day = parse_date(tape.name[-10:])
        hours = session(day)
        assert hours is not None, tape
        start_ns = moment(given.start, day) if given.start else hours.open_ns
        until_ns = moment(given.until, day) if given.until else hours.close_ns
        first: dict[str, Any] = {}
        for speed in [LOCKSTEP, LOCKSTEP, *given.speeds.split(",")]:
            with tempfile.TemporaryDirectory() as root:
                home, began = Home(Path(root)).prepare(), time.monotonic()
                if speed == LOCKSTEP:
                    made = in_lockstep(tape, home, start_ns, until_ns)
                else:
                    made = at_speed(tape, home, speed, given.start or "9:30", given.until or "16:00")
                took, found = time.monotonic() - began, measured(made)
            if speed == LOCKSTEP and first and found["episodes"] != first["episodes"]:
                raise SystemExit("two recordings in lockstep differ")
            first = first or found
            print(json.dumps(line(tape.name, speed, took, found, first)), flush=True)


if __name__ == "__main__":
    main()
