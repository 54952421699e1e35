"""Replay speed: a synthetic day in memory through the market projections, and the cost of one small live fold.

    python bench/bench_replay.py [--events 1000000]

Five symbols, ten rows a side, 70 % updates, 15 % inserts, 15 % deletes; the second line mixes in quotes and prints. One
JSON line per variant: events/s for the whole day in batches of 10,000 and of 1,000,000, and milliseconds per fold of 20
events (median and 99th percentile).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harvester.events.batch import Batch
from harvester.events.kinds import SCHEMAS, Kind
from harvester.projections.engine import Engine
from harvester.units import SECOND_NS

SYMBOLS, ROWS = 5, 10
START = 1_752_759_000 * SECOND_NS
STREAMS = ("depth", "bid_ask", "all_last")


def subscriptions() -> Batch:
    """Every stream of every symbol; request id = 10 * symbol + stream."""
    rows = [(Kind.REQUEST, {"action": "run_start", "stream": "run", "params": "{}", "ts_recv": START})]
    for symbol in range(1, SYMBOLS + 1):
        for n, stream in enumerate(STREAMS):
            asked = {"action": "subscribe", "stream": stream, "symbol": f"S{symbol}", "con_id": symbol, "epoch": 1}
            rows.append((Kind.REQUEST, {**asked, "req_id": 10 * symbol + n, "ts_recv": START, "params": '{"rows":10}'}))
    return Batch.of(rows, 1)


def table(kind: Kind, seq: np.ndarray, ts: np.ndarray, **columns: np.ndarray) -> pa.RecordBatch:
    """A record batch of one kind; columns not given are null."""
    given = {"seq": seq, "ts_recv": ts, "epoch": np.ones(len(seq)), **columns}
    arrays = [
        pa.array(given[f.name].astype(f.type.to_pandas_dtype())) if f.name in given else pa.nulls(len(seq), f.type)
        for f in SCHEMAS[kind]
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMAS[kind])


def day(events: int, mixed: bool, first_seq: int) -> Batch:
    """The same day for the same arguments. A pair of insert and delete keeps every book at 9 or 10 rows."""
    chance = np.random.default_rng(7)
    ts = START + np.sort(chance.integers(0, 6 * 3600 * SECOND_NS, events))
    clocks = np.arange(START + SECOND_NS, START + 6 * 3600 * SECOND_NS, SECOND_NS)
    everything = np.concatenate([ts, clocks])
    order = np.argsort(everything, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    seq, clock_seq = first_seq + rank[:events], first_seq + rank[events:]
    kind = chance.choice(3, events, p=(0.5, 0.3, 0.2)) if mixed else np.zeros(events, np.int64)
    symbol = chance.integers(1, SYMBOLS + 1, events)
    tables = {
        Kind.CLOCK: table(
            Kind.CLOCK, clock_seq, clocks, con_id=clocks * 0, req_id=clocks * 0 - 1, wall_ns=clocks, mono_ns=clocks
        )
    }
    price = np.round(100 + chance.integers(-20, 20, events) * 0.01, 2)
    size = chance.integers(1, 50, events) * 100.0
    for k, (name, extra) in enumerate(
        (
            (Kind.DEPTH, depth_columns(chance, kind, symbol)),
            (
                Kind.QUOTE,
                {"stream": kind * 0 + 3, "bid": price, "ask": price + 0.01, "bid_size": size, "ask_size": size},
            ),
            (Kind.TRADE, {"stream": kind * 0 + 2, "past_limit": kind < 0, "unreported": kind < 0}),
        )
    ):
        pick = kind == k
        if pick.any():
            columns = {"con_id": symbol, "req_id": 10 * symbol + k, "price": price, "size": size, **extra}
            tables[name] = table(name, seq[pick], ts[pick], **{c: v[pick] for c, v in columns.items()})
    return Batch({k: tables[k] for k in Kind if k in tables}).check()


def depth_columns(chance: np.random.Generator, kind: np.ndarray, symbol: np.ndarray) -> dict[str, np.ndarray]:
    n = len(kind)
    operation, side = np.ones(n, np.int64), chance.integers(0, 2, n)
    shift = chance.random(n) < 0.3
    for s in range(1, SYMBOLS + 1):
        for way in (0, 1):
            mine = np.flatnonzero((kind == 0) & (symbol == s) & (side == way))
            turns = mine[shift[mine]]
            operation[mine[:9]] = 0  # fill
            turns = turns[turns > mine[8]]
            operation[turns[::2]], operation[turns[1::2]] = 0, 2
    position = np.where(operation == 0, 0, chance.integers(0, 9, n))
    return {"position": position, "operation": operation, "side": side}


def folded(batch: Batch, step: int) -> float:
    """Events per second in batches of `step` events."""
    engine = Engine(market_only=True)
    engine.fold(subscriptions())
    parts = [batch.slice(a, a + step - 1) for a in range(batch.first_seq, batch.last_seq + 1, step)]
    begun = time.perf_counter()
    for part in parts:
        engine.fold(part)
    seconds = time.perf_counter() - begun
    engine.check()
    assert all(state.impossible == 0 for s in range(1, 6) if (state := engine.book.state(s)))
    return len(batch) / seconds


def small_folds(batch: Batch) -> list[float]:
    """Milliseconds of each of the first 1,000 folds of 20 events."""
    engine = Engine(market_only=True)
    engine.fold(subscriptions())
    out = []
    for a in range(batch.first_seq, batch.first_seq + 20_000, 20):
        part = batch.slice(a, a + 19)
        begun = time.perf_counter()
        engine.fold(part)
        out.append((time.perf_counter() - begun) * 1e3)
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    events = parser.parse_args().events
    first = subscriptions().last_seq + 1
    folded(day(20_000, True, first), 10_000)  # compiles or loads
    for mixed in (False, True):
        batch = day(events, mixed, first)
        small = small_folds(batch)
        print(json.dumps({
            "bench": "replay", "variant": "mixed" if mixed else "depth", "events": len(batch),
            "events_per_s_10k": round(folded(batch, 10_000)), "events_per_s_1m": round(folded(batch, 1_000_000)),
            "fold_20_ms_median": round(statistics.median(small), 3), "fold_20_ms_p99": round(sorted(small)[-10], 3),
        }))  # fmt: skip


if __name__ == "__main__":
    main()
