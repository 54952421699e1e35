"""Events for tests of the log: every kind, every edge case of its columns, the same on every machine."""

from __future__ import annotations

import random
import shutil
import sys
from datetime import date
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harvester.eventlog.archive import archive
from harvester.eventlog.compact import compact_run
from harvester.eventlog.recover import recover_day
from harvester.eventlog.storage.format import JOURNAL, MANIFEST
from harvester.eventlog.storage.sealed_lines import seal, sealed_hash
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.kinds import COLUMNS, Kind
from harvester.files import Disk
from harvester.home import Home

DATE = date(2025, 7, 17)
START_NS = 1_752_757_200_000_000_000
_NUMBERS = (0.0, -0.0, 1.25, 1.7976931348623157e308, float("nan"), float("inf"), -1.0, 123.456789)
_TEXTS = ("", "A", "BRK B", "Zürich, 東京, 🙂", "a\x00b", "x" * 300)
_INTEGERS = (0, 1, -1, 2147483647, -2147483648)


def _value(rng: random.Random, name: str, type_name: str) -> Any:
    if name in ("wall_ns", "mono_ns"):
        return START_NS + rng.randrange(10**12)
    if rng.random() < 0.25:
        return None
    if type_name == "double":
        return rng.choice(_NUMBERS)
    if type_name == "string":
        return rng.choice(_TEXTS)
    if type_name == "bool":
        return rng.random() < 0.5
    return rng.choice(_INTEGERS)


def events(n: int, seed: int = 1, kinds: tuple[Kind, ...] = tuple(Kind), start_ns: int = START_NS) -> list[Any]:
    """`n` events as (kind, row) with rising `ts_recv` and odd values in every column."""
    rng = random.Random(seed)
    out, ts = [], start_ns
    for _ in range(n):
        kind = rng.choice(kinds)
        ts += rng.choice((0, 0, 1, 1_000_000))
        row = {"ts_recv": ts, "con_id": rng.choice((0, 8314, 2**40)), "req_id": rng.randrange(-1, 9), "epoch": 1}
        row |= {f.name: _value(rng, f.name, str(f.type)) for f in COLUMNS[kind]}
        out.append((kind, row))
    return out


def batch(n: int, first_seq: int = 1, seed: int = 1, **options: Any) -> Batch:
    return Batch.of(events(n, seed, **options), first_seq)


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches hold equal rows, NaN equal to NaN."""
    return one.tables.keys() == other.tables.keys() and all(
        str(rows.to_pylist()) == str(other.tables[kind].to_pylist()) for kind, rows in one.tables.items()
    )


def write_run(home: Any, sizes: tuple[int, ...], seed: int = 1, kinds: tuple[Kind, ...] = tuple(Kind), **options: Any):
    """Write one ended run in commits of the given sizes; returns the batch of all its events."""
    with LogWriter.open(home.on(DATE), **options) as writer:
        whole = batch(sum(sizes), writer.next_seq, seed, kinds=kinds, start_ns=max(START_NS, writer.last_ts))
        first = writer.next_seq
        for i, size in enumerate(sizes):
            writer.commit(whole.slice(first, first + size - 1))
            first += size
            if i % 2:
                writer.live_digests(first - 1, {"book": f"{i:032x}", "quotes": "0" * 32})
    return whole


def write_golden(root: Path) -> None:
    """Write the sample of the current format: a plain run, an lz4 run, one that was killed and recovered, one that was
    compacted, and one whose only copy is the archive's.
    """
    home = Home(root)
    write_run(home, (30, 4, 6), seed=1)
    write_run(home, (35, 5), seed=2, compression="lz4")
    killed = LogWriter.open(home.on(DATE))
    killed.commit(batch(10, killed.next_seq, 3, start_ns=killed.last_ts))
    killed.abandon()
    recover_day(home.on(DATE))
    write_run(home, (20, 5), seed=4)
    compact_run(home.on(DATE).log / "r004", Disk())
    write_run(home, (2500,), seed=5, kinds=(Kind.TRADE, Kind.CLOCK))
    archive(home.on(DATE), Disk())
    shutil.rmtree(home.on(DATE).log / "r005")
    for name in ("r001", "r002", "r003", "r004"):
        shutil.rmtree(home.on(DATE).archive / name)
    shutil.rmtree(home.temp / "locks")


def forge(folder: Path, change, bodies=None) -> None:
    """Rewrite a run's journal and manifest with right hashes after `change(lines, manifest)`."""
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes())
    manifest.pop("hash")
    lines = [msgspec.json.decode(line) for line in (folder / JOURNAL).read_bytes().splitlines()]
    for line in lines:
        line.pop("hash")
    for name, body in (bodies or {}).items():
        (folder / name).write_bytes(body)
        for line in lines:
            for part in line["files"]:
                if f"{part['kind']}.arrows" == name:
                    part |= {"length": len(body), "checksum": blake2b(body, digest_size=16).hexdigest()}
    change(lines, manifest)
    out, chain = b"", lines[0]["prev"]
    for line in lines:
        line["prev"] = chain
        sealed = seal(msgspec.json.encode(line))
        chain = sealed_hash(sealed)
        out += sealed
    if manifest["final"]:
        manifest["final"]["chain"] = chain
    (folder / JOURNAL).write_bytes(out)
    (folder / MANIFEST).write_bytes(seal(msgspec.json.encode(manifest)))


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    write_golden(Path(sys.argv[1]))
