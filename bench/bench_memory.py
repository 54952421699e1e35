"""Memory from kept episodes: from nothing, one more day, a late day, verification. One JSON line.

    python bench/bench_memory.py [--days 250] [--episodes 100] [--symbols 20]

The days are invented: episodes of 20 symbols and 4 setups, each document with 120 seconds twice (83 kB). They
are written into the system's temporary folder and deleted.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pyarrow as pa

from harvester.artefacts.table_files import parquet_file
from harvester.endofday.datasets import kept_day
from harvester.endofday.kept_memory import change, make_again, write
from harvester.eventlog.lock import memory_lock
from harvester.files import Disk, put
from harvester.home import Home
from harvester.memory.chain import damage_of_memory
from harvester.projections.trading.episodes import RULES

FIRST = date(2024, 1, 1)
NAMES = ("mark", "spread", "imbalance", "tape_buy", "tape_sell", "volatility_proxy", "bid", "ask", "ofi", "microprice")


def document(rng: random.Random, symbol: str, setup: str) -> dict[str, Any]:
    """An episode's document, as far as memory reads it, with a series of the usual size."""
    pnl = round(rng.gauss(0, 25), 2)
    series = [{"ts": 1_700_000_000_000_000_000 + n} | {name: rng.random() for name in NAMES} for n in range(120)]
    return {
        "mode": "event",
        "symbol": symbol,
        "taken": True,
        "quantity": 100,
        "entry": {"price": 100.0},
        "exit": {"price": round(100 + pnl / 100, 4)},
        "versions": {"strategy": "imbalance_breakout"},
        "features_pre": {
            "buckets": series,
            "aggregates": {"mean_imbalance": rng.random(), "mean_spread": rng.random(), "tape_delta": 50.0},
        },
        "series": series,
        "labels": {
            "pnl_usd": pnl,
            "r_multiple": pnl / 20,
            "mae": min(pnl, 0.0),
            "mfe": max(pnl, 0.0),
            "hold_seconds": 60.0,
            "win_loss": "WIN" if pnl > 0 else "LOSS",
            "exit_reason": "TARGET" if pnl > 0 else "STOP",
        },
        "decision_trace": {"entry_reason": setup},
    }


def keep(home: Home, day: date, episodes: int, symbols: int) -> int:
    """Write a date's kept episodes; returns the bytes of its documents."""
    rng = random.Random(day.toordinal())
    texts = [json.dumps(document(rng, f"S{n % symbols:03d}", f"SETUP_{n % 4}")) for n in range(episodes)]
    rows = [
        {
            "trading_date": day.isoformat(),
            "symbol": f"S{n % symbols:03d}",
            "strategy_digest": "d",
            "mode": "event",
            "decision_seq": n,
            "exit_reason": "TARGET",
            "data_type": 1,
            "rules": RULES,
            "kind": "live",
            "document": text,
        }
        for n, text in enumerate(texts)
    ]
    about = {"trading_date": day.isoformat(), "content_hash": f"{day.toordinal():064x}", "kind": "live"}
    about |= {"last_ts": f"{day}T20:00:00Z", "allow_not_live": "false"}
    put(home.on(day).dataset / "episodes.parquet", parquet_file(pa.Table.from_pylist(rows), about))
    return sum(map(len, texts))


def fold(home: Home, day: date) -> float:
    """Fold one kept day; returns the seconds."""
    begun = time.perf_counter()
    with memory_lock(home):
        write(home, change(home, {day.isoformat(): kept_day(home.on(day))}), Disk())
    return time.perf_counter() - begun


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--days", type=int, default=250)
    options.add_argument("--episodes", type=int, default=100)
    options.add_argument("--symbols", type=int, default=20)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder)).prepare()
        days = [FIRST + timedelta(days=n) for n in range(given.days)]
        documents = sum(keep(home, day, given.episodes, given.symbols) for day in days)
        begun, cpu = time.perf_counter(), time.process_time()
        make_again(home)
        row: dict[str, Any] = {
            "bench": "memory",
            "days": given.days,
            "episodes": given.episodes,
            "documents_mb": round(documents / 1e6),
            "from_nothing_s": round(time.perf_counter() - begun, 2),
            "from_nothing_cpu_s": round(time.process_time() - cpu, 2),
            "latest_kb": round(home.memory_latest.stat().st_size / 1000, 1),
        }
        begun = time.perf_counter()
        assert damage_of_memory(home) == []
        row["verify_s"] = round(time.perf_counter() - begun, 2)
        keep(home, days[-1] + timedelta(days=1), given.episodes, given.symbols)
        row["one_more_day_s"] = round(fold(home, days[-1] + timedelta(days=1)), 2)
        keep(home, days[-10], given.episodes + 1, given.symbols)
        row["tenth_last_again_s"] = round(fold(home, days[-10]), 2)
        print(json.dumps(row))


if __name__ == "__main__":
    main()
