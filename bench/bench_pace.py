"""Episodes against speed: play a tape in lockstep twice, then at speeds through `hv gateway` and `hv record`.

    python bench/bench_pace.py --start 9:30 --until 10:30 --speeds 50,200,max tapes/IBM-2013-10-08

Prints one JSON line per recording: episodes, how it kept pace (health), and against the first lockstep recording

    stamps          how much later the same quote or print is stamped, s of market time, and the share in another second
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

from harvester.calendar import iso, session
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
ROWS = (Kind.QUOTE, Kind.TRADE)
SAID = ("ts_event", "bid", "ask", "bid_size", "ask_size", "price", "size", "exchange", "conditions")
SAME_NS = 2 * SECOND_NS  # two entries within it are the same trade
LEAD_NS = 180 * SECOND_NS  # all streams flow before the open: a gateway spaces the requests for them
SHARE = 0.1  # of the episodes of lockstep may be more or less


def in_lockstep(tape: Path, home: Home, start_ns: int, until_ns: int) -> Day:
    """Record a part of a tape on one market clock."""
    minutes = (until_ns - start_ns) / SECOND_NS / 60
    market = open_market("tape", [tape])
    made = asyncio.run(lockstep(market, home, minutes=minutes, start_ns=start_ns, compact=False))
    return made.day(tape.name[-10:])


def at_speed(tape: Path, home: Home, speed: str, start_ns: int, until_ns: int) -> Day:
    """Record a part of a tape in two processes."""
    start, until = iso(start_ns), iso(until_ns)
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


def _stamps(day: Day, kind: Kind) -> dict[tuple[Any, ...], int]:
    """`ts_recv` of the rows of a kind by what IB sent; equal rows of a second are numbered."""
    table = day.table(kind)
    said = table.select(["con_id", *(name for name in SAID if name in table.column_names)])
    times = table.column("ts_recv").to_pylist()
    number = Counter[tuple[Any, ...]]()
    found = {}
    for at, row in zip(times, zip(*(column.to_pylist() for column in said.columns), strict=True), strict=True):
        number[row] += 1
        found[*row, number[row]] = at
    return found


def later(here: dict[str, Any], there: dict[str, Any]) -> dict[str, float]:
    """By how much the rows of `here` are stamped later than the same rows of `there`, s, and how many differ.

    `moved`: the share of rows that are stamped in another second.
    """
    late, moved = [], 0
    for kind in ROWS:
        for row, at in here["stamps"][kind].items():
            if (before := there["stamps"][kind].get(row)) is not None:
                late.append((at - before) / SECOND_NS)
                moved += at // SECOND_NS != before // SECOND_NS
    if not late:
        return {}
    median, p99, largest = np.percentile(late, [50, 99, 100]).round(3).tolist()
    return {"median": median, "p99": p99, "max": largest, "moved": round(moved / len(late), 4)}


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
    parser.add_argument("--start", default="", help="New York; default: 3 minutes before the session's open")
    parser.add_argument("--until", default="", help="New York; default: the session's close")
    given = parser.parse_args()
    if not given.tapes:
        print(json.dumps({"bench": "pace", "skipped": "no tape given"}))
        return
    for tape in given.tapes:
        day = parse_date(tape.name[-10:])
        hours = session(day)
        assert hours is not None, tape
        start_ns = moment(given.start, day) if given.start else hours.open_ns - LEAD_NS
        until_ns = moment(given.until, day) if given.until else hours.close_ns
        first: dict[str, Any] = {}
        for speed in [LOCKSTEP, LOCKSTEP, *given.speeds.split(",")]:
            with tempfile.TemporaryDirectory() as root:
                home, began = Home(Path(root)).prepare(), time.monotonic()
                if speed == LOCKSTEP:
                    made = in_lockstep(tape, home, start_ns, until_ns)
                else:
                    made = at_speed(tape, home, speed, start_ns, until_ns)
                took, found = time.monotonic() - began, measured(made)
            if speed == LOCKSTEP and first and found["episodes"] != first["episodes"]:
                raise SystemExit("two recordings in lockstep differ")
            first = first or found
            print(json.dumps(line(tape.name, speed, took, found, first)), flush=True)


if __name__ == "__main__":
    main()
