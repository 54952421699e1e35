from __future__ import annotations

import errno
import json
import os
import random
import shutil

import pyarrow as pa
import pytest
from log_samples import DATE, START_NS, batch, files_of, same, write_run
from typer.testing import CliRunner

import harvester
from cli.cmd_log import log as hv_log
from harvester.errors import DamagedLog, HarvesterError, LockHeld, Mismatch, NoLog
from harvester.eventlog.archive import archive, holds
from harvester.eventlog.compact import CANDIDATE, compact_day
from harvester.eventlog.follow import Follower
from harvester.eventlog.reader import Day
from harvester.eventlog.rewrite import prove
from harvester.eventlog.run import RunLog
from harvester.eventlog.storage.format import DELETION, MANIFEST, names_of
from harvester.eventlog.storage.ipc_streams import encode
from harvester.eventlog.verify_log import verify_day
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.files import Disk
from harvester.home import Home

FEW = (Kind.TRADE, Kind.END, Kind.CLOCK)
DAY = DATE.isoformat()


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


def _shown(day: Day) -> dict[int, str]:
    return {row["seq"]: str((kind, row)) for one in day.batches(rows_max=50) for kind, row in one.events()}


def _names(folder) -> set[str]:
    return {path.name for path in files_of(folder)}


def _two_runs(home: Home) -> Batch:
    one = write_run(home, (1, 40, 200, 7, 3))
    killed = LogWriter.open(home.on(DATE))
    two = batch(60, killed.next_seq, 2, start_ns=killed.last_ts)
    killed.commit(two.slice(two.first_seq, two.first_seq + 29))
    killed.commit(two.slice(two.first_seq + 30, two.last_seq))
    killed.abandon()
    return Batch.concat([one, two])


def test_a_compacted_date_is_the_same_date(home):
    """After compaction every reader gives the same events, tables, digests, identity; the small files are deleted."""
    whole = _two_runs(home)
    before = harvester.open_day(DATE, home)
    identity, digests = before.identity(), before.live_digests()
    tables = {kind: str(before.table(kind).to_pylist()) for kind in Kind}
    done = compact_day(home.on(DATE))
    assert [(one.run, one.rows, one.left) for one in done] == [("r001", 251, []), ("r002", 60, [])]
    day = harvester.open_day(DATE, home)
    assert (day.identity(), day.live_digests(), day.complete) == (identity, digests, True)
    assert same(Batch.concat(list(day.batches())), whole)
    assert {kind: str(day.table(kind).to_pylist()) for kind in Kind} == tables
    assert [(run.status, run.commits, run.compression) for run in day.runs] == [("compacted", 1, "zstd")] * 2
    for run in ("r001", "r002"):
        assert _names(home.on(DATE).log / run) <= {MANIFEST, *names_of("compacted")}
    report = verify_day(home.on(DATE))
    assert (report.problems, report.notes, report.rows, report.identity) == ([], [], 311, identity)
    assert compact_day(home.on(DATE)) == []
    with LogWriter.open(home.on(DATE)) as after:
        assert (after.run_id, after.next_seq) == ("r003", 312)
    assert compact_day(home.on(DATE)) == []  # a run without events is not changed


def test_large_runs_become_several_commits(home, monkeypatch):
    """Compacted commits have the configured number of events, for any original commits."""
    monkeypatch.setattr("harvester.eventlog.rewrite.COMMIT_ROWS", 64)
    whole = write_run(home, tuple([7] * 40))
    identity = harvester.open_day(DATE, home).identity()
    compact_day(home.on(DATE))
    day = harvester.open_day(DATE, home)
    assert (day.runs[0].commits, day.identity()) == (5, identity)
    assert same(Batch.concat(list(day.batches(from_seq=60, rows_max=9))), whole.slice(60, 280))


def test_a_small_run_becomes_sixteen_commits(home, monkeypatch):
    """A small run is split into sixteenths, so that one bad byte costs one of them; a tiny run is not split."""
    monkeypatch.setattr("harvester.eventlog.rewrite.COMMIT_ROWS_MIN", 8)
    write_run(home, tuple([7] * 40))
    compact_day(home.on(DATE))
    assert harvester.open_day(DATE, home).runs[0].commits == 280 // 18 + 1
    path = max((home.on(DATE).log / "r001").glob("*.compacted.arrows"), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[-300] ^= 1
    path.write_bytes(data)
    day = harvester.open_day(DATE, home, salvage=True)
    assert 280 - 18 <= day.rows < 280


class Stopping(Disk):
    """A disk on which the n-th change of any kind fails, before it or half-way through it."""

    CHANGES = ("make_folder", "create", "write", "fsync", "sync_folder", "replace", "remove", "write_new")

    def __init__(self, nth: int) -> None:
        self.left = nth
        for method in self.CHANGES:
            setattr(self, method, self._counted(method))

    def _counted(self, method: str):
        def call(*args):
            self.left -= 1
            if self.left == 0:
                if method == "write":
                    Disk.write(self, args[0], args[1][: len(args[1]) // 2])
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return getattr(Disk, method)(self, *args)

        return call


def _failure(home: Home, nth: int) -> str:
    try:
        compact_day(home.on(DATE), Stopping(nth))
    except HarvesterError as error:
        return str(error)
    return ""


def test_stopped_at_any_point_the_run_is_whole(tmp_path):
    """Interrupted at any change, also inside a write, readers see the same date, and the next call completes."""
    first = Home(tmp_path / "first")
    write_run(first, (4, 3, 4), kinds=FEW)
    identity, shown = harvester.open_day(DATE, first).identity(), _shown(harvester.open_day(DATE, first))
    stops, notes = 0, set()
    for nth in range(1, 200):
        home = Home(tmp_path / str(nth))
        shutil.copytree(first.root, home.root)
        failure = _failure(home, nth)
        if not failure:
            break
        stops += 1
        assert "whole" in failure or "unchanged" in failure
        day = harvester.open_day(DATE, home)
        assert (day.identity(), _shown(day)) == (identity, shown)
        report = verify_day(home.on(DATE))
        assert (report.problems, report.identity) == ([], identity)
        notes.update(note.split(" ", 2)[2] for note in report.notes)
        compact_day(home.on(DATE))
        assert verify_day(home.on(DATE)).identity == identity
        assert _names(home.on(DATE).log) <= {MANIFEST, *names_of("compacted")}
    assert stops > 25
    assert notes == {"files of an interrupted compaction; hv log compact finishes it"}


def test_what_reads_back_otherwise_is_not_swapped_in(home, monkeypatch):
    """When the new files do not read back equal, the old ones stay, and the date reads as before."""
    whole = write_run(home, (10, 10), kinds=FEW)

    class Lying(Disk):
        def write(self, file, data) -> None:
            super().write(
                file, data[:-1] + bytes([data[-1] ^ 1]) if file.name.endswith("trade.compacted.arrows") else data
            )

    with pytest.raises(Mismatch, match="nothing was deleted"):
        compact_day(home.on(DATE), Lying())
    assert same(Batch.concat(list(harvester.open_day(DATE, home).batches())), whole)


def _rows(price: float = 1.0) -> list:
    rows = [(Kind.TRADE, {"ts_recv": START_NS + i, "con_id": 1, "req_id": 1, "price": 1.0}) for i in range(6)]
    return [*rows[:-1], (Kind.TRADE, {**rows[-1][1], "price": price})]


def _one_run(root, rows: list, digest: str = "0" * 32, *, ended: bool = True, more: tuple[str, bytes] = ("", b"")):
    with LogWriter.open(Home(root).on(DATE)) as writer:
        writer.commit(Batch.of(rows, 1))
        writer.live_digests(6, {"book": digest})
        if not ended:
            writer.abandon()
    if more[0]:
        with (writer.folder / more[0]).open("ab") as file:
            file.write(more[1])


@pytest.mark.parametrize(
    "other",
    [
        {"rows": _rows(7.5)},
        {"digest": "1" * 32},
        {"ended": False},
        {"more": ("trade.arrows", b"torn")},
        {"more": ("live_digests.jsonl", b'{"line":2}\n')},
    ],
    ids=["content", "digests", "unfinished", "torn", "damaged"],
)
def test_a_proof_compares_everything(tmp_path, other):
    """A copy that differs from the source in one respect is rejected."""
    _one_run(tmp_path / "source", _rows())
    _one_run(tmp_path / "equal", _rows())
    _one_run(tmp_path / "other", **{"rows": _rows()} | other)
    source, equal, unequal = (RunLog(Home(tmp_path / n).on(DATE).log / "r001") for n in ("source", "equal", "other"))
    source.refresh()
    prove(source, equal)
    with pytest.raises(Mismatch, match="nothing was deleted"):
        prove(source, unequal)


def test_rows_without_their_content_hash_are_not_stored_again(tmp_path, monkeypatch):
    """A run whose journal has a content hash different from that of its rows is refused and not changed."""
    with monkeypatch.context() as patch:
        patch.setattr("harvester.eventlog.writer.ContentHash.digest", lambda self: "0" * 64)
        _one_run(tmp_path, _rows())
    folder = Home(tmp_path).on(DATE).log / "r001"
    before = {path: path.read_bytes() for path in files_of(folder)}
    with pytest.raises(Mismatch, match="content hash"):
        compact_day(Home(tmp_path).on(DATE))
    assert before.items() <= {path: path.read_bytes() for path in files_of(folder)}.items()


def test_rows_stored_wrong_are_not_swapped_in(home, monkeypatch):
    """Rows that were encoded wrongly under matching checksums are detected by the read-back."""
    _one_run(home.root, _rows())

    def altered(rows, compression):
        columns = rows.columns
        columns[rows.schema.names.index("price")] = pa.array([2.0] * rows.num_rows)
        return encode(pa.RecordBatch.from_arrays(columns, schema=rows.schema), compression)

    monkeypatch.setattr("harvester.eventlog.rewrite.encode", altered)
    with pytest.raises(Mismatch, match="nothing was deleted"):
        compact_day(home.on(DATE))
    assert harvester.open_day(DATE, home).complete


@pytest.mark.parametrize("same_size", [False, True])
def test_a_changed_file_is_not_deleted(home, same_size):
    """A file changed since it was listed stays and is reported; once it is restored, the next call finishes."""
    write_run(home, (10, 10), kinds=FEW)
    path = home.on(DATE).log / "r001" / "trade.arrows"
    changed = path.read_bytes()[:-1] + b"?" if same_size else b"other"

    class Meddling(Disk):
        def replace(self, source, target) -> None:
            super().replace(source, target)
            if source.name == CANDIDATE:
                path.write_bytes(changed)

    (done,) = compact_day(home.on(DATE), Meddling())
    assert done.left == ["trade.arrows has changed since it was listed"]
    assert "stays: trade.arrows" in str(done)
    assert (path.parent / DELETION).exists()
    assert verify_day(home.on(DATE)).clean
    path.unlink()
    (done,) = compact_day(home.on(DATE))
    assert done.left == []
    assert not (path.parent / DELETION).exists()


def test_damage_is_not_compacted_away(home):
    """A damaged run, or one with bytes past its end, is refused and not changed."""
    write_run(home, (10, 10), kinds=FEW)
    path = home.on(DATE).log / "r001" / "trade.arrows"
    good = path.read_bytes()
    for data in (good[:-1] + bytes([good[-1] ^ 1]), good + b"more"):
        path.write_bytes(data)
        with pytest.raises(DamagedLog, match=r"trade\.arrows"):
            compact_day(home.on(DATE))
        assert path.read_bytes() == data
    path.write_bytes(good)
    assert len(compact_day(home.on(DATE))) == 1


@pytest.mark.parametrize("storage", ["compacted", "parquet"])
def test_a_flipped_byte_is_found_whatever_the_storage(home, monkeypatch, storage):
    """A byte altered in a compacted or archived run: opening names file and offset; salvage gives only good events."""
    monkeypatch.setattr("harvester.eventlog.rewrite.COMMIT_ROWS", 6)
    write_run(home, (4, 3, 4, 6), kinds=(Kind.TRADE, Kind.CLOCK))
    rows = _shown(harvester.open_day(DATE, home))
    if storage == "parquet":
        archive(home.on(DATE), Disk())
        shutil.rmtree(home.on(DATE).log)
    else:
        compact_day(home.on(DATE))
    folder = home.on(DATE).archive if storage == "parquet" else home.on(DATE).log
    rng = random.Random(3)
    for path in files_of(folder):
        good = path.read_bytes()
        places = range(len(good)) if len(good) < 400 else sorted(rng.sample(range(len(good)), 160))
        for at in places:
            path.write_bytes(good[:at] + bytes([good[at] ^ rng.randrange(1, 256)]) + good[at + 1 :])
            with pytest.raises(DamagedLog) as caught:
                harvester.open_day(DATE, home)
            assert caught.value.file == str(path), (path, at)
            assert caught.value.offset <= at, (path, at)
            if at % 9 == 0:
                assert verify_day(home.on(DATE)).exit_code == 1
                day = harvester.open_day(DATE, home, salvage=True)
                shown = _shown(day)
                assert shown.items() <= rows.items()
                assert sorted(shown) == [seq for first, last in day.good for seq in range(first, last + 1)]
        for left in (None, b"", good[: len(good) // 2], good[:-1]):
            path.unlink(missing_ok=True)
            if left is not None:
                path.write_bytes(left)
            if good or left is None:
                with pytest.raises(DamagedLog, match=path.name):
                    harvester.open_day(DATE, home)
                assert _shown(harvester.open_day(DATE, home, salvage=True)).items() <= rows.items()
        path.write_bytes(good)
    assert _shown(harvester.open_day(DATE, home)) == rows


def test_the_archive_is_the_log(home):
    """Archived as Parquet and deleted from temp/, a date gives the same events, digests and identity, and verifies."""
    whole = _two_runs(home)
    LogWriter.open(home.on(DATE)).close()  # mends r002; r003 holds no event
    more = write_run(home, (3000,), seed=8, kinds=(Kind.DEPTH, Kind.TICK, Kind.CLOCK))
    before = harvester.open_day(DATE, home)
    identity, digests = before.identity(), before.live_digests()
    assert archive(home.on(DATE), Disk()) == [f"memory/archive/{DAY}/r00{n}" for n in (1, 2, 3, 4)]
    assert archive(home.on(DATE), Disk()) == []
    compact_day(home.on(DATE))
    assert holds(home.on(DATE))
    shutil.rmtree(home.on(DATE).log)
    day = harvester.open_day(DATE, home)
    assert (day.identity(), day.live_digests(), day.complete) == (identity, digests, True)
    assert same(Batch.concat(list(day.batches())), Batch.concat([whole, more]))
    report = verify_day(home.on(DATE))
    assert (report.problems, report.identity, report.rows) == ([], identity, 3311)


def test_req_ids_that_follow_from_con_ids_are_left_out_of_the_archive(home):
    """With one subscription per instrument the journal stores req_id, with two the file does; both read back."""
    import pyarrow.parquet as pq

    rows = [
        (Kind.DEPTH, {"ts_recv": START_NS + i, "con_id": i % 3, "req_id": 100 + i % 3, "epoch": 1, "position": i % 10})
        for i in range(2000)
    ]
    with LogWriter.open(home.on(DATE)) as writer:
        writer.commit(Batch.of(rows, 1))
    with LogWriter.open(home.on(DATE)) as writer:
        rows[7][1]["req_id"] = 999
        writer.commit(Batch.of([(kind, {**row, "ts_recv": START_NS + 2000}) for kind, row in rows], 2001))
    asked = harvester.open_day(DATE, home).table(Kind.DEPTH)
    archive(home.on(DATE), Disk())
    shutil.rmtree(home.on(DATE).log)
    nulls = [
        pq.read_table(home.on(DATE).archive / run / "depth.parquet")["req_id"].null_count for run in ("r001", "r002")
    ]
    assert nulls == [2000, 0]
    assert harvester.open_day(DATE, home).table(Kind.DEPTH).equals(asked)


def test_readers_live_through_a_compaction(home):
    """A Day opened before, and a Follower half-way through, give the same events after their files were replaced."""
    writer = LogWriter.open(home.on(DATE))
    whole = batch(40)
    for first in range(1, 31, 10):
        writer.commit(whole.slice(first, first + 9))
    follower = Follower(home.on(DATE))
    got = list(follower.poll())
    early = harvester.open_day(DATE, home)
    writer.commit(whole.slice(31, 40))
    writer.close()
    day = harvester.open_day(DATE, home)
    reading = day.batches(rows_max=10)
    first = next(reading)
    compact_day(home.on(DATE))
    assert same(Batch.concat([first, *reading]), whole)
    assert same(Batch.concat(list(early.batches())), whole.slice(1, 30))
    assert day.table(Kind.TRADE).num_rows == whole.tables[Kind.TRADE].num_rows
    assert day.damages == []
    for _ in range(2):
        got += follower.poll()
    assert same(Batch.concat(got), whole)
    assert not follower.live


def test_the_command(home):
    """`hv log compact` prints its results, refuses a date being recorded with LockHeld, and repeats nothing."""

    def hv(*words: str) -> str:
        result = CliRunner().invoke(hv_log, [*words, "--date", DAY, "--home", str(home.root)])
        if result.exception is not None:
            raise result.exception
        return result.output

    with pytest.raises(NoLog):
        hv("compact")
    writer = LogWriter.open(home.on(DATE))
    writer.commit(batch(50))
    with pytest.raises(LockHeld):
        hv("compact")
    writer.close()
    before = hv("show", "--json", "--limit", "0")
    (done,) = json.loads(hv("compact", "--json"))["compacted"]
    assert (done["run"], done["rows"], done["left"]) == ("r001", 50, [])
    assert hv("show", "--json", "--limit", "0") == before
    assert "nothing to compact" in hv("compact")
    assert "compacted\t50" in CliRunner().invoke(hv_log, ["ls", "--home", str(home.root)]).output
