"""Size and reading of a depth log live, compacted and archived. Prints one JSON line each.

    python bench/bench_log.py [--home FOLDER] [--events 2000000] [--live-events 1000000] [--live-commits 57600]

`storage` stores the benches' own depth day (see generator.py) three ways and counts bytes per depth event, journal and
clock events included, and reads each. `log_open` lays a 16-hour log of one-second commits beside the same log compacted
and reads and folds both: that is what leaving a log uncompacted costs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import generator
import numpy as np
import pyarrow as pa

import harvester
from harvester.config import Settings
from harvester.eventlog.archive import archive
from harvester.eventlog.compact import compact_day
from harvester.eventlog.fold_reader import fold_batches
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.files import Disk
from harvester.home import Home
from harvester.projections.market.merge import COLUMNS
from harvester.projections.run_params import RunParams, StrategyRef
from harvester.projections.trading.strategies import describe
from harvester.rebuild.project import ROWS_A_STEP, fold_day

if TYPE_CHECKING:
    from io import FileIO

DAY = generator.DAY


class Unsynced(Disk):
    """57,600 commits in a minute, without syncs: durability does not matter here."""

    def fsync(self, file: FileIO) -> None:
        """Leave it to the system."""

    def sync_folder(self, path: Path) -> None:
        """Leave it to the system."""


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def reading(home: Home) -> dict[str, float]:
    """Seconds to open the day, to read all columns of its events, and to read those of a fold; the best of three."""
    best: dict[str, float] = {}
    for _ in range(3):
        start = time.perf_counter()
        day = harvester.open_day(DAY, home)
        opened = time.perf_counter()
        assert sum(map(len, day.batches())) == day.rows
        read = time.perf_counter()
        assert sum(map(len, fold_batches(day, COLUMNS, ROWS_A_STEP))) == day.rows
        found = {"open_s": opened - start, "read_s": read - opened, "fold_read_s": time.perf_counter() - read}
        best = {name: min(value, best.get(name, value)) for name, value in found.items()}
    return best


def folding(home: Home) -> float:
    """Seconds from opening to the projections of the whole day, without writing them; the better of two."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        fold_day(harvester.open_day(DAY, home))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def named(prefix: str, found: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": round(value, 3) for name, value in found.items()}


def storage(home: Home, events: int) -> dict[str, object]:
    generator.write(home.prepare(), events)
    live, before = size(home.on(DAY).log), harvester.open_day(DAY, home).identity()
    read = named("live", reading(home))
    start = time.perf_counter()
    archive(home.on(DAY), Disk())
    archived = time.perf_counter()
    compact_day(home.on(DAY))
    compacted = time.perf_counter()
    assert harvester.open_day(DAY, home).identity() == before
    read |= named("compacted", reading(home))
    small = {"compacted": size(home.on(DAY).log), "archive": size(home.on(DAY).archive)}
    depth = size_of_depth(home)
    home.on(DAY).log.rename(home.temp / "aside")
    assert harvester.open_day(DAY, home).identity() == before
    read |= named("archive", reading(home))
    return {
        "bench": "log_storage",
        "depth_events": events,
        "live_bytes_per_event": round(live / events, 2),
        "compacted_bytes_per_event": round(small["compacted"] / events, 3),
        "archive_bytes_per_event": round(small["archive"] / events, 3),
        **depth,
        "compact_s": round(compacted - archived, 2),
        "archive_s": round(archived - start, 2),
        **read,
    }


def size_of_depth(home: Home) -> dict[str, float]:
    rows = harvester.open_day(DAY, home).table(Kind.DEPTH).num_rows
    places = {"compacted": home.on(DAY).log, "archive": home.on(DAY).archive}
    return {
        f"{name}_depth_file_bytes_per_event": round(sum(p.stat().st_size for p in at.rglob("depth.*")) / rows, 3)
        for name, at in places.items()
    }


def live(home: Home, events: int, commits: int) -> dict[str, object]:
    """A log of `commits` commits with a clock event in each, uncompacted, compared with the same log compacted."""
    whole = Batch.concat(list(generator.batches(events, mixed=True, first_seq=1)))
    whole = Batch({kind: rows for kind, rows in whole.tables.items() if kind is not Kind.CLOCK})
    whole = renumbered(whole)
    edges = np.linspace(0, len(whole), commits + 1).astype(int)
    params = RunParams.build(Settings(), DAY, strategies=[StrategyRef(**describe("imbalance_breakout", {}))])
    with LogWriter.open(home.prepare().on(DAY), disk=Unsynced(), run_start_row={"params": params.text()}) as writer:
        writer.begin(generator._hours()[0])
        writer.commit(generator.subscriptions(5, mixed=True, first_seq=writer.next_seq))
        for i in range(commits):
            part = whole.slice(int(edges[i]) + 1, int(edges[i + 1]))
            writer.commit(with_clock(part, writer.next_seq))
    read, n_live, live_s = named("live", reading(home)), size(home.on(DAY).log), folding(home)
    compact_day(home.on(DAY))
    read |= named("compacted", reading(home))
    compacted_s = folding(home)
    return {
        "bench": "log_open",
        "events": events,
        "commits": commits,
        "live_bytes": n_live,
        "compacted_bytes": size(home.on(DAY).log),
        **read,
        "live_folded_s": round(live_s, 3),
        "compacted_folded_s": round(compacted_s, 3),
        "live_costs_more_s": round(live_s - compacted_s, 3),
    }


def renumbered(whole: Batch) -> Batch:
    """Renumber the events from 1, in their order."""
    seqs = np.sort(np.concatenate([rows.column(0).to_numpy() for rows in whole.tables.values()]))
    tables = {}
    for kind, rows in whole.tables.items():
        places = np.searchsorted(seqs, rows.column(0).to_numpy()).astype(np.uint64) + np.uint64(1)
        tables[kind] = rows.set_column(0, rows.schema.field(0), pa.array(places))
    return Batch(tables)


def with_clock(part: Batch, first_seq: int) -> Batch:
    """The events of a second from `first_seq` on, and the clock event that closes it."""
    last_ts = max(rows.column(1)[-1].as_py() for rows in part.tables.values())
    shift = np.uint64(first_seq - part.first_seq)
    tables = {
        kind: rows.set_column(0, rows.schema.field(0), pa.array(rows.column(0).to_numpy() + shift))
        for kind, rows in part.tables.items()
    }
    row = {"seq": first_seq + len(part), "ts_recv": last_ts, "wall_ns": last_ts, "mono_ns": last_ts}
    return Batch({**tables, **Batch.of([(Kind.CLOCK, row)]).tables})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=None, help="folder on the disk to measure")
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--live-events", type=int, default=1_000_000)
    parser.add_argument("--live-commits", type=int, default=57_600)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.home) as folder:
        print(json.dumps(storage(Home(Path(folder) / "storage"), given.events)))
        print(json.dumps(live(Home(Path(folder) / "live"), given.live_events, given.live_commits)))


if __name__ == "__main__":
    main()
