"""Append to the event log as a recorder does, compared with a bare fsync. Prints one JSON line.

python bench/bench_append.py [--home FOLDER] [--commits 60] [--compression none|lz4]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harvester
from harvester.eventlog.verify_log import verify_day
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.kinds import SCHEMAS, Kind
from harvester.home import Home

# Like a minute of five US stocks: mostly L1 ticks and depth, some prints and quotes, one clock a second.
SHARES = {Kind.TICK: 0.35, Kind.DEPTH: 0.4, Kind.QUOTE: 0.15, Kind.TRADE: 0.1}
FILLED = {
    Kind.TICK: {"msg": 1, "field": 2, "price": 123.45, "size": 300.0, "attribs": 0},
    Kind.DEPTH: {"msg": 12, "position": 3, "operation": 1, "side": 1, "price": 123.44, "size": 200.0},
    Kind.QUOTE: {"stream": 3, "bid": 123.44, "ask": 123.45, "bid_size": 100.0, "ask_size": 300.0, "attribs": 0},
    Kind.TRADE: {"stream": 2, "price": 123.45, "size": 100.0, "attribs": 0, "exchange": "NASDAQ", "conditions": "  I"},
}


def make(rng: np.random.Generator, first_seq: int, n: int, ts: int) -> Batch:
    kinds = list(SHARES)
    pick = rng.choice(len(kinds), n, p=list(SHARES.values()))
    tables = {}
    for i, kind in enumerate(kinds):
        at = np.flatnonzero(pick == i)
        if not len(at):
            continue
        columns = {"seq": at + first_seq, "ts_recv": ts + at, "con_id": rng.integers(1, 6, len(at))}
        columns |= {"req_id": columns["con_id"] + 100, "epoch": np.ones(len(at), np.int64), **FILLED[kind]}
        arrays = [_array(columns.get(f.name), f.type, len(at)) for f in SCHEMAS[kind]]
        tables[kind] = pa.RecordBatch.from_arrays(arrays, schema=SCHEMAS[kind])
    clock = {"ts_recv": ts + n, "wall_ns": ts, "mono_ns": ts, "seq": first_seq + n}
    tables[Kind.CLOCK] = Batch.of([(Kind.CLOCK, clock)]).tables[Kind.CLOCK]
    return Batch(tables)


def _array(value: object, kind: pa.DataType, n: int) -> pa.Array:
    if value is None:
        return pa.nulls(n, kind)
    return pa.array(value).cast(kind) if isinstance(value, np.ndarray) else pa.repeat(pa.scalar(value, kind), n)


def fsync_ms(folder: Path) -> list[float]:
    times = []
    with (folder / "fsync.bin").open("ab", buffering=0) as file:
        for _ in range(100):
            file.write(b"x" * 4096)
            start = time.perf_counter()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - start) * 1000)
    return times


def run(home: Home, rows: int, commits: int, compression: str) -> dict[str, float]:
    """Write, open and verify one day of `commits` commits of `rows` events (and one clock event) each."""
    rng, day = np.random.default_rng(7), date(2025, 7, 17)
    times: list[float] = []
    writer = LogWriter.open(home.on(day), compression=compression)
    for i in range(commits):
        batch = make(rng, writer.next_seq, rows, 1_752_757_200_000_000_000 + i * 1_000_000_000)
        start = time.perf_counter()
        writer.commit(batch)
        times.append((time.perf_counter() - start) * 1000)
    events, n_bytes = writer.next_seq - 1, writer.bytes_written
    writer.close()
    start = time.perf_counter()
    opened = harvester.open_day(day, home)
    open_s = time.perf_counter() - start
    start = time.perf_counter()
    assert sum(len(batch) for batch in opened.batches(rows_max=100_000)) == events
    read_s = time.perf_counter() - start
    start = time.perf_counter()
    assert verify_day(home.on(day)).clean
    verify_s = time.perf_counter() - start
    return {
        "rows_per_commit": rows,
        "commits": commits,
        "commit_ms_p50": round(statistics.median(times), 3),
        "commit_ms_p99": round(float(np.percentile(times, 99)), 3),
        "append_events_per_s": round(events / sum(times) * 1000),
        "bytes_per_event": round(n_bytes / events, 1),
        "open_ms": round(open_s * 1000, 1),
        "read_events_per_s": round(events / read_s),
        "verify_events_per_s": round(events / verify_s),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=None, help="folder on the disk to measure")
    parser.add_argument("--commits", type=int, default=60)
    parser.add_argument("--compression", default="none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.home) as folder:
        root = Path(folder)
        fsync = fsync_ms(root)
        large = run(Home(root / "large"), 10_000, options.commits, options.compression)
        small = run(Home(root / "small"), 20, options.commits * 20, options.compression)
    out = {
        "bench": "append",
        "compression": options.compression,
        "fsync_ms_p50": round(statistics.median(fsync), 3),
        "fsync_ms_p99": round(float(np.percentile(fsync, 99)), 3),
        "large": large,
        "small": small,
    }
    print(json.dumps(out))


if __name__ == "__main__":
    main()
