"""Single functions of the event log: boundaries, exact texts, and what an error costs."""

from __future__ import annotations

import errno
import os
import random
import shutil
from contextlib import nullcontext
from datetime import date
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from log_samples import DATE, START_NS, batch, files_of, forge, write_run

import harvester
from harvester.disk_space import MARGIN_BYTES
from harvester.errors import CannotRun, DamagedFile, DamagedLog, HarvesterError, LogWriteFailed, Mismatch, NoLog
from harvester.eventlog import lock as locks
from harvester.eventlog.archive import archive, holds, runs_in
from harvester.eventlog.compact import CANDIDATE, compact_run
from harvester.eventlog.deletion import DeletionList
from harvester.eventlog.eod_mark import (
    ClosedRun,
    EodMark,
    closed_dates,
    closed_path,
    gone_text,
    read_closed,
    write_closed,
)
from harvester.eventlog.fold_reader import _File, fold_batches, run_batches
from harvester.eventlog.follow import Follower
from harvester.eventlog.lock import LockHolder
from harvester.eventlog.quarantine import QuarantineNote, add_note, covered, read_quarantine_notes
from harvester.eventlog.reader import day_identity, run_spans, run_view
from harvester.eventlog.rebatch import rebatch
from harvester.eventlog.recover import RecoveredDay, Recovery, recover_day, set_aside_day
from harvester.eventlog.rewrite import RewriteTarget, commit_rows, prove, rewrite
from harvester.eventlog.run import KindParts, RunLog
from harvester.eventlog.runs_of_day import between_runs, good_ranges, newest_date, recorded_dates, run_folders
from harvester.eventlog.storage.content_hash import ContentHash, combined
from harvester.eventlog.storage.damage import BadBytes, Damage
from harvester.eventlog.storage.format import DELETION, DIGESTS, JOURNAL, MANIFEST, DigestLine
from harvester.eventlog.storage.ipc_streams import HEADERS
from harvester.eventlog.storage.parquet_files import ParquetBodies
from harvester.eventlog.storage.sealed_lines import checksum, scan, seal
from harvester.eventlog.verify_log import verify_day, verify_rows
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.files import Disk
from harvester.home import Home
from harvester.units import BEFORE_ALL, NEVER

FEW = (Kind.TRADE, Kind.CLOCK)


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


def _run(home: Home, name: str = "r001", check: bool = False) -> RunLog:
    log = RunLog(home.on(DATE).log / name)
    log.refresh()
    if check:
        log.check_bodies()
    return log


def _flip(path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _ranges(batches) -> list[tuple[int, int]]:
    return [(one.first_seq, one.last_seq) for one in batches]


def _of_range(first: int, last: int) -> Batch:
    return batch(last - first + 1, first, kinds=FEW)


# --- batches and spans ---


def test_limits_of_time() -> None:
    """The limits are those of the columns of times."""
    info = np.iinfo(np.int64)
    assert (info.min, info.max) == (BEFORE_ALL, NEVER)


def test_batches_end_where_they_must_and_nowhere_else():
    """Against a model, for random batches, gaps, cuts and sizes: at a cut, at a gap, when full; without a size, where
    the given batch ends.
    """
    rng = random.Random(5)
    source = batch(60, 1, kinds=FEW)
    for _ in range(60):
        given, first = [], 1
        while first <= 60:
            last = min(60, first + rng.choice((0, 1, 2, 7, 20)))
            given.append((first, last))
            first = last + 1 + rng.choice((0, 0, 0, 1, 3))
        cuts = [rng.randrange(-3, 64) for _ in range(rng.choice((0, 0, 1, 4)))]
        rows_max = rng.choice((None, 1, 2, 5, 100))
        wanted, begin = [], 0
        ends = {last for _, last in given}
        present = [seq for first, last in given for seq in range(first, last + 1)]
        for seq in present:
            begin = begin or seq
            full = seq in ends if rows_max is None else seq - begin + 1 == rows_max
            if full or seq in cuts or seq + 1 not in present:
                wanted.append((begin, seq))
                begin = 0
        got = list(rebatch([source.slice(*span) for span in given], rows_max, cuts))
        assert _ranges(got) == wanted, (given, cuts, rows_max)
        assert sum(map(len, got)) == len(present)


def test_a_joined_batch_has_a_limit_in_bytes(monkeypatch):
    """What is carried is passed on once it has more bytes than the limit, not yet at the limit."""
    parts = [_of_range(first, first + 1) for first in (1, 3, 5, 7)]
    n_bytes = sum(rows.nbytes for rows in parts[0].tables.values())
    monkeypatch.setattr("harvester.eventlog.rebatch.BATCH_BYTES", n_bytes)
    assert _ranges(rebatch(parts[:1], 100, ()))[0] == (1, 2)
    assert next(iter(rebatch(parts, 100, ()))).last_seq > 2
    monkeypatch.setattr("harvester.eventlog.rebatch.BATCH_BYTES", n_bytes - 1)
    assert _ranges(rebatch(parts, 100, ()))[0] == (1, 2)


def test_a_batch_with_long_texts_is_split_between_rows(monkeypatch):
    """A batch ends before the row whose text passes another multiple of the limit; a single row is never split."""
    texts = [40, 0, 60, 99, 1, 250, 10]
    source = Batch.of([(Kind.NOTICE, {"ts_recv": i, "text": "x" * n}) for i, n in enumerate(texts)], 1)
    monkeypatch.setattr("harvester.eventlog.rebatch.BATCH_BYTES", 100)
    assert _ranges(rebatch([source], 100, ())) == [(1, 2), (3, 4), (5, 5), (6, 7)]


def _lines(*spans: tuple[int, int], bad=(), sizes=None, run="r001", ts=0) -> SimpleNamespace:
    """What functions over runs use of a `RunLog`."""
    lines = [
        SimpleNamespace(first_seq=a, last_seq=b, first_ts=ts + a, last_ts=ts + b, rows=b - a + 1) for a, b in spans
    ]
    of_commits = sizes or [1] * len(spans)
    return SimpleNamespace(
        room=of_commits.__getitem__, commits=lines, sizes=sizes or [1] * len(lines), bad=set(bad), run=run
    )


def test_commits_read_together(monkeypatch):
    """Spans end at the row limit, the byte limit, a damaged commit and a gap, and leave out commits out of range."""
    four = _lines((1, 10), (11, 20), (21, 30), (31, 40))
    for options, wanted in (
        ({}, [(0, 4)]),
        ({"rows_max": 20}, [(0, 2), (2, 4)]),
        ({"rows_max": 19}, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        ({"rows_max": 30}, [(0, 3), (3, 4)]),
        ({"rows_max": 1}, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        ({"from_seq": 10}, [(0, 4)]),
        ({"from_seq": 11}, [(1, 4)]),
        ({"from_seq": 41}, []),
        ({"to_seq": 10}, [(0, 1)]),
        ({"to_seq": 11}, [(0, 2)]),
        ({"to_seq": 0}, []),
        ({"from_seq": 15, "to_seq": 21}, [(1, 3)]),
    ):
        assert list(run_spans(four, **options)) == wanted, options
    assert list(run_spans(_lines((1, 5), (6, 10), (11, 15), bad=[1]))) == [(0, 1), (2, 3)]
    assert list(run_spans(_lines((1, 5), (6, 10), bad=[0]))) == [(1, 2)]
    assert list(run_spans(_lines((1, 5), (6, 10), bad=[1]))) == [(0, 1)]
    assert list(run_spans(_lines((1, 5), (7, 10), (11, 12)))) == [(0, 1), (1, 3)]
    assert list(run_spans(_lines())) == []
    monkeypatch.setattr("harvester.eventlog.reader.WINDOW_BYTES", 10)
    assert list(run_spans(_lines((1, 5), (6, 10), (11, 12), sizes=[4, 6, 1]))) == [(0, 2), (2, 3)]
    assert list(run_spans(_lines((1, 5), (6, 10), (11, 12), sizes=[4, 7, 3]))) == [(0, 1), (1, 3)]
    assert good_ranges([_lines((1, 5), (6, 9), (10, 12), bad=[1]), _lines((13, 20))]) == ((1, 5), (10, 20))


def test_events_per_commit_of_a_rewritten_run():
    """A sixteenth of the run, between 4096 and 131072."""
    sizes = {1: 4096, 65536: 4096, 65537: 4097, 160_000: 10_000, 160_001: 10_001, 2_097_152: 131_072, 2**40: 131_072}
    assert {rows: commit_rows(rows) for rows in sizes} == sizes


@pytest.mark.parametrize(
    ("sizes", "compression", "ahead"),
    [
        ((9, *[1] * 6), None, False),
        ((9, *[1] * 7), None, True),
        ((5, 5), None, False),
        ((5, 5), "lz4", True),
    ],
)
def test_threads_read_what_must_be_decompressed_or_joined(home, monkeypatch, sizes, compression, ahead):
    """Mapped commits that few others are joined to are passed on by the caller's thread; others are read ahead."""
    used: list[int] = []

    def prefetch(read, spans):
        used.append(len(spans))
        return map(read, spans)

    monkeypatch.setattr("harvester.eventlog.fold_reader.prefetch", prefetch)
    write_run(home, sizes, kinds=FEW, compression=compression)
    log = _run(home, check=True)
    assert log.sizes == [sum(part.length for part in line.files) for line in log.commits]
    assert _ranges(run_batches(log, {}, 12))[-1][1] == sum(sizes)
    assert used == ([2] if ahead else [])
    used.clear()
    assert _ranges(run_batches(_run(home), {}, 12))[-1][1] == sum(sizes)
    assert used == [2], "bytes that were not compared with their checksums are not mapped"


# --- one run ---


def test_a_run_is_summed_up(home):
    """Every figure of a run, while it is live, when it has ended, and when a commit is damaged."""
    writer = LogWriter.open(home.on(DATE), run_start_row={"params": "{}"}, compression="zstd")
    empty = run_view(_run(home))
    assert (empty.status, empty.first_seq, empty.last_seq, empty.first_ts, empty.last_ts) == ("running", 1, 0, 0, 0)
    assert (empty.rows, empty.commits, empty.n_bytes, empty.compression) == (0, 0, 0, "zstd")
    assert empty.content_hash == ContentHash().digest()
    whole = batch(12, kinds=FEW)
    for first in (1, 5, 9):
        writer.commit(whole.slice(first, first + 3))
    writer.live_digests(12, {"book": "0"})
    writer.close()
    folder = home.on(DATE).log / "r001"
    times = [row["ts_recv"] for _, row in whole.events()]
    view = run_view(_run(home))
    sizes = {path.name: path.stat().st_size for path in files_of(folder)}
    assert view._asdict() == {
        "run": "r001",
        "folder": folder,
        "status": "ended",
        "first_seq": 1,
        "last_seq": 12,
        "first_ts": times[0],
        "last_ts": times[-1],
        "rows": 12,
        "commits": 3,
        "n_bytes": sum(sizes.values()) - sizes[MANIFEST],
        "content_hash": ContentHash().update(whole).digest(),
        "config_digest": _run(home).manifest.config_digest,
        "package": harvester.__version__,
        "compression": "zstd",
    }
    _flip(folder / "trade.arrows", -1)
    assert run_view(_run(home, check=True)).rows == 8
    (folder / MANIFEST).write_bytes(b"")
    view = run_view(_run(home))
    assert (view.status, view.config_digest, view.package, view.compression) == ("damaged", "", "", "none")


def test_the_storage_of_a_run_without_its_manifest(home, monkeypatch):
    """Read from the names of its files; of both, the compacted ones only once the deletion list is there."""
    monkeypatch.setattr("harvester.eventlog.rewrite.COMMIT_ROWS_MIN", 2)
    write_run(home, (5, 4), kinds=FEW)
    paths = home.on(DATE)
    archive(paths, Disk())
    folder = paths.log / "r001"
    stream = home.root / "stream"
    shutil.copytree(folder, stream)
    compact_run(folder, Disk())

    def storage(of) -> str:
        (of / MANIFEST).write_bytes(b"{}\n")
        log = RunLog(of)
        log.refresh()
        assert [damage.file.name for damage in log.damages] == [MANIFEST]
        assert log.last_seq == 9
        return log.storage

    assert storage(paths.archive / "r001") == "parquet"
    assert storage(folder) == "compacted"
    for path in files_of(stream):
        shutil.copy(path, folder)
    assert storage(folder) == "stream"
    (folder / DELETION).write_bytes(b"")
    assert storage(folder) == "compacted"


@pytest.mark.parametrize(
    ("change", "other"),
    [
        ({"trading_date": "2025-07-16"}, "r001 of 2025-07-16"),
        ({"trading_date": "2025-07-18"}, "r001 of 2025-07-18"),
        ({"run": "r002"}, "r002 of 2025-07-17"),
        ({"run": "r000"}, "r000 of 2025-07-17"),
    ],
)
def test_a_manifest_of_another_run_is_named(home, change, other):
    """A manifest names its run and its date; those of another one, earlier or later, are damage."""
    write_run(home, (3,), kinds=FEW)
    forge(home.on(DATE).log / "r001", lambda lines, manifest: manifest.update(change))
    assert [damage.what for damage in _run(home).damages] == [f"the manifest belongs to {other}"]


def _live(home: Home, sizes=(3, 3, 3, 3, 3)) -> RunLog:
    """A run of small commits that has not ended."""
    writer = LogWriter.open(home.on(DATE))
    whole = batch(sum(sizes), kinds=FEW)
    for size in sizes:
        writer.commit(whole.slice(writer.next_seq, writer.next_seq + size - 1))
    writer.abandon()
    return _run(home)


def _change_lines(folder, change) -> None:
    lines = (folder / JOURNAL).read_bytes().splitlines(keepends=True)
    change(lines)
    (folder / JOURNAL).write_bytes(b"".join(lines))


def test_missing_and_broken_lines_are_counted_once(home):
    """A line lost is found at the next one; lines around a broken one that fit are kept."""
    folder = _live(home).folder
    good = (folder / JOURNAL).read_bytes()
    ends = [0]
    for line in good.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))

    def found() -> tuple[list[tuple[int, str]], list[int]]:
        log = _run(home)
        return [(damage.offset, damage.what) for damage in log.damages], [line.commit for line in log.commits]

    _change_lines(folder, lambda lines: lines.pop(0))
    assert found() == ([(0, "commit 2 from seq 4 does not follow seq 0")], [2, 3, 4, 5])
    (folder / JOURNAL).write_bytes(good)
    _change_lines(folder, lambda lines: lines.pop(2))
    assert found() == ([(ends[2], "commit 4 from seq 10 does not follow seq 6")], [1, 2, 4, 5])
    (folder / JOURNAL).write_bytes(good)
    _flip(folder / JOURNAL, ends[1] + 5)
    _flip(folder / JOURNAL, ends[3] + 5)
    broken = "the line does not match its hash"
    assert found() == ([(ends[1], broken), (ends[3], broken)], [1, 3, 5])
    _flip(folder / MANIFEST, 5)
    assert found()[0] == [(0, "the manifest does not match its hash"), (ends[1], broken), (ends[3], broken)]
    (folder / JOURNAL).write_bytes(good)
    assert found() == ([(0, "the manifest does not match its hash")], [1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("commit", 1, "commit 1 from seq 4 does not follow seq 3"),
        ("commit", 3, "commit 3 from seq 4 does not follow seq 3"),
        ("first_seq", 3, "commit 2 names seq 3 or bytes that an earlier commit names"),
        ("first_seq", 5, "commit 2 from seq 5 does not follow seq 3"),
        ("first_ts", 0, "commit 2: ts_recv decreases: {last}, 0, {end}"),
        ("last_ts", 0, "commit 2: ts_recv decreases: {last}, {begin}, 0"),
        ("offset", -1, "commit 2 names seq 4 or bytes that an earlier commit names"),
        ("offset", 1, "commit 2 from seq 4 does not follow seq 3"),
    ],
)
def test_a_line_that_does_not_follow(home, key, value, what):
    """Each field by which a line follows the one before, one too low and one too high, all hashes right."""
    first, second = (line for line in _live(home, (3, 3)).commits)

    def change(lines, manifest):
        line = lines[1]
        if key == "offset":
            line["files"][0]["offset"] += value
        else:
            line[key] = value
        if key == "first_seq":
            trades = next(part for part in line["files"] if part["kind"] == "trade")
            trades["rows"] += 4 - value

    forge(home.on(DATE).log / "r001", change)
    wanted = what.format(last=first.last_ts, begin=second.first_ts, end=second.last_ts)
    assert _run(home).damages[0].what == wanted


def test_a_line_that_follows_another_line_is_noticed(home):
    """A whole line whose `prev` is the hash of another line is named, though its seqs and bytes follow."""
    folder = _live(home, (3, 3)).folder
    line = msgspec.json.decode((folder / JOURNAL).read_bytes().splitlines()[1])
    del line["hash"]
    line["prev"] = "0" * 32
    _change_lines(folder, lambda lines: lines.__setitem__(1, seal(msgspec.json.encode(line))))
    assert [damage.what for damage in _run(home).damages] == ["commit 2 from seq 4 does not follow seq 3"]


def test_clock_events_are_where_the_storage_has_them(home):
    """A file of clock events in a stream, and clock events in the journal of an archive, are named."""
    write_run(home, (4,), kinds=FEW)
    archive(home.on(DATE), Disk())

    def as_file(lines, manifest):
        (part,) = lines[0]["files"]
        part["kind"] = "clock"

    def in_journal(lines, manifest):
        clock = next(part for part in lines[0]["files"] if part["kind"] == "clock")
        lines[0]["clock"] = [[seq, 1, 0, 0, 0, 1, 1] for seq in range(clock["rows"])]
        lines[0]["files"].remove(clock)
        lines[0]["clock"] = [[seq + 1, 1, 0, 0, 0, 1, 1] for seq in range(clock["rows"])]

    archived = home.on(DATE).archive / "r001"
    forge(archived, in_journal)
    log = RunLog(archived)
    log.refresh()
    assert log.damages[0].what == "commit 1 has clock events in the journal; a parquet run has none there"
    folder = home.on(DATE).log / "r001"
    forge(folder, as_file)
    assert _run(home).damages[0].what == "commit 1 has clock events in a file; a stream run has none there"


def test_the_end_of_a_run_is_compared(home):
    """Lines that a finished run lost at its end, of either journal, are named with both numbers."""
    write_run(home, (3, 3, 3, 3), kinds=FEW)
    folder = home.on(DATE).log / "r001"
    journal, digests, manifest = ((folder / name).read_bytes() for name in (JOURNAL, DIGESTS, MANIFEST))
    _change_lines(folder, lambda lines: lines.pop())
    damage, other = _run(home).damages
    assert other.what == "the content hash differs from the journal's"
    assert damage.what == "the journal ends with commit 3, seq 9; the manifest says commit 4, seq 12"
    assert (damage.offset, damage.first_seq, damage.last_seq) == ((folder / JOURNAL).stat().st_size, 10, 12)
    (folder / JOURNAL).write_bytes(journal)
    (folder / DIGESTS).write_bytes(digests.splitlines(keepends=True)[0])
    (damage,) = _run(home).damages
    assert damage.what == "the file ends with line 1, the manifest says 2"
    assert (damage.file.name, damage.offset) == (DIGESTS, len(digests.splitlines(keepends=True)[0]))
    (folder / DIGESTS).write_bytes(digests)
    for changes, said in (({"digests": 1}, 1), ({"digests": 2, "digests_chain": "0" * 32}, 2)):
        forge(folder, lambda lines, manifest, changes=changes: manifest["final"].update(changes))
        assert [one.what for one in _run(home).damages] == [f"the file ends with line 2, the manifest says {said}"]
    (folder / MANIFEST).write_bytes(manifest)
    forge(folder, lambda lines, manifest: manifest["final"].update(content_hash="0" * 64))
    (damage,) = _run(home).damages
    assert (damage.what, damage.offset) == ("the content hash differs from the journal's", 0)


def test_a_short_file_costs_the_commits_behind_its_end(home):
    """Absent, empty, short by one byte and too long by one: what is lost, and where the file ends."""
    log = _live(home, (3, 3, 3))
    path, parts = log.path_of(Kind.TRADE), log.parts_of(Kind.TRADE).parts
    good, end = path.read_bytes(), parts[-1].end
    assert len(parts) == 3
    for size, lost in ((end - 1, 2), (parts[1].end, 2), (parts[1].end - 1, 1), (0, 0)):
        path.write_bytes(good[:size])
        (damage,) = _run(home).damages
        assert damage.what == f"the file ends here; its length must be {end} bytes"
        assert (damage.offset, damage.first_seq, damage.last_seq) == (size, 3 * lost + 1, 9)
        log = _run(home, check=True)
        assert (log.bad, len(log.damages)) == (set(range(lost, 3)), 1), "what is lost is not read"
    path.unlink()
    (damage,) = _run(home).damages
    assert (damage.what, damage.offset, damage.first_seq) == ("the file is missing", 0, 1)
    path.symlink_to(log.journal_path)
    (damage,) = _run(home).damages
    assert (damage.what, damage.offset, damage.first_seq) == ("trade.arrows is not a plain file", 0, 1)
    path.unlink()
    unused = path.with_name("quote.arrows")
    unused.symlink_to(log.journal_path)
    path.write_bytes(good)
    assert [str(one) for one in _run(home).damages] == [f"{unused} at byte 0: quote.arrows is not a plain file"]
    unused.unlink()
    path.write_bytes(good + b"x")
    found = _run(home)
    assert (found.damages, found.torn[path.name]) == ([], 1)
    path.write_bytes(good)
    assert path.name not in _run(home).torn


def test_a_damaged_footer_is_named_behind_the_rows(home, monkeypatch):
    """A Parquet file's footer damaged: all commits of the kind are lost, the offset is the end of the rows."""
    monkeypatch.setattr("harvester.eventlog.rewrite.COMMIT_ROWS_MIN", 3)
    write_run(home, (3, 3, 3), kinds=FEW)
    archive(home.on(DATE), Disk())
    folder = home.on(DATE).archive / "r001"
    log = RunLog(folder)
    log.refresh()
    assert log.commits[1:]
    _flip(log.path_of(Kind.TRADE), -20)
    log.check_bodies()
    (damage,) = log.damages
    assert (damage.offset, damage.first_seq, damage.last_seq) == (log.parts_of(Kind.TRADE).parts[-1].end, 1, 9)
    assert log.bad == set(log.parts_of(Kind.TRADE).commits)


def test_the_columns_of_a_stream_are_compared(home):
    """A file that begins with the columns of another kind, under a right checksum, is named."""
    write_run(home, (3, 3), kinds=FEW)
    log = _run(home)
    path, part = log.path_of(Kind.TRADE), log.parts_of(Kind.TRADE).parts[0]
    head = HEADERS[Kind.QUOTE]
    data = bytearray(path.read_bytes())
    data[: len(head)] = head
    path.write_bytes(data)

    def checksums(lines, manifest):
        for other in lines[0]["files"]:
            if other["kind"] == "trade":
                other["checksum"] = checksum(bytes(data[: part.length]))

    forge(log.folder, checksums)
    log = _run(home, check=True)
    (damage,) = log.damages
    assert (damage.file.name, damage.offset, damage.first_seq, damage.last_seq) == ("trade.arrows", 0, 1, 3)
    assert "the stream's " in damage.what
    assert log.bad == {0}


def test_damage_costs_the_damaged_commit_alone(home):
    """Damage met while commits are read together: each is read alone, and only the damaged one is lost."""
    for count in (1, 2, 3):
        day = Home(home.root / str(count))
        write_run(day, (3,) * count, kinds=FEW)
        bad = count - 1
        salvaged, log = harvester.open_day(DATE, day, salvage=True), _run(day, check=True)
        part = log.parts_of(Kind.TRADE).parts[bad]
        _flip(log.path_of(Kind.TRADE), part.end - 1)
        rest = [(1 + 3 * i, 3 + 3 * i) for i in range(count) if i != bad]
        assert _ranges(salvaged.batches(rows_max=3)) == rest
        assert [(one.first_seq, one.offset) for one in salvaged.damages] == [(3 * bad + 1, part.offset)]
        with pytest.raises(BadBytes):
            log.load(0, count)
        assert (log.bad, len(log.damages)) == ({bad}, 1)
        assert verify_rows(_run(day), None) == 3 * bad


def test_rows_that_are_not_those_of_the_content_hash(home):
    """`verify` computes the content hash again: another one in the journal is named with its commits and seqs."""
    log = _live(home, (3, 3))
    forge(log.folder, lambda lines, manifest: lines[1].update(content="0" * 64))
    steps: list[int] = []
    log = _run(home)
    assert verify_rows(log, steps.append) == 6
    assert steps == [sum(part.length for line in log.commits for part in line.files)]
    (damage,) = log.damages
    assert damage.what == "the content hash of commits 1-2 is not that of the rows"
    assert (damage.first_seq, damage.last_seq, damage.offset) == (1, 6, 0)
    assert verify_rows(log, None) == 6
    assert len(log.damages) == 1, "what follows damage is not compared"


def test_verify_sums_up(home):
    """Rows, bytes, steps, hash and notes of a date of an ended and a killed run; loose bytes are torn, or damage."""
    write_run(home, (3, 3), kinds=FEW)
    writer = LogWriter.open(home.on(DATE))
    writer.commit(batch(4, 7, 2, kinds=FEW, start_ns=writer.last_ts))
    writer.abandon()
    steps: list[tuple[int, int]] = []
    report = verify_day(home.on(DATE), lambda *counts: steps.append(counts))
    assert (report.clean, report.exit_code, report.notes, report.rows) == (True, 0, [], 10)
    assert (report.good, [run.rows for run in report.runs]) == (((1, 10),), [6, 4])
    assert report.n_bytes == sum(run.n_bytes for run in report.runs)
    assert report.identity == harvester.open_day(DATE, home).identity() == report.day().identity()
    total = 2 * sum(sum(_run(home, name).ends.values()) for name in ("r001", "r002"))
    assert (steps == sorted(steps), steps[0][1], steps[-1]) == (True, total, (total, total))
    for name in ("r001", "r002"):
        with (home.on(DATE).log / name / "trade.arrows").open("ab") as file:
            file.write(b"12345")
    report = verify_day(home.on(DATE))
    assert report.notes == ["r002: 5 bytes of trade.arrows are not committed yet, or torn"]
    (damage,) = report.problems
    assert damage.what == "5 bytes follow that no commit names"
    assert damage.offset == damage.file.stat().st_size - 5
    assert (report.exit_code, report.identity) == (1, "")
    with pytest.raises(DamagedLog, match="5 bytes follow"):
        report.day()


def test_a_date_is_compared_with_its_mark(home):
    """A run that differs from what the date was closed with is damage; `hv eod`, which replaces it, leaves that out."""
    write_run(home, (3,), kinds=FEW)
    write_closed(home, EodMark(DATE.isoformat(), 3, "", 0, [ClosedRun("r001", 3, "0" * 64)]), DATE)
    (damage,) = verify_day(home.on(DATE)).problems
    assert damage.what.startswith("the date was closed with r001 through seq 3, content 000000000000; ")
    assert verify_day(home.on(DATE), with_mark=False).problems == []


def test_a_fold_names_every_damage(home):
    """A fold that meets damage compares the rest too, as opening the day does: the error counts the other places."""
    for seed in (1, 2, 3):
        write_run(home, (4,), seed=seed, kinds=FEW)
    for name in ("r002", "r003"):
        _flip(home.on(DATE).log / name / "trade.arrows", -1)
    with pytest.raises(DamagedLog, match="and 1 more places"):
        harvester.open_day(DATE, home, check=False).check()
    with pytest.raises(DamagedLog, match=r"and 1 more places") as raised:
        list(fold_batches(harvester.open_day(DATE, home, check=False), {}, 10))
    assert raised.value.good == ((1, 4),)


def test_a_folder_that_cannot_be_read(home, monkeypatch):
    """`verify` names the date and the system's words."""

    def fail(paths):
        raise OSError("odd")

    monkeypatch.setattr("harvester.eventlog.verify_log.read_runs", fail)
    with pytest.raises(CannotRun, match="cannot read the log of 2025-07-17: odd"):
        verify_day(home.on(DATE))


def test_parts_of_a_kind():
    """A list of places chooses commits and their parts."""
    parts = KindParts([2, 4, 6], ["a", "b", "c"])
    assert parts.some([0, 2]) == ([2, 6], ["a", "c"])


# --- runs of a date ---


def _runs(*spans, **options) -> list[SimpleNamespace]:
    """Fake runs, one commit per seq."""
    runs = []
    for i, (first, last) in enumerate(spans):
        log = _lines(*((seq, seq) for seq in range(first, last + 1)), run=f"r{i + 1:03d}", **options)
        log.first_seq, log.last_seq, log.damages, log.manifest = first, last, [], object()
        log.folder = Home.find("h").on(DATE).log / log.run
        runs.append(log)
    return runs


def test_damage_between_runs(tmp_path):
    """Gaps and overlaps of seq, time that decreases, a closed date, unknown ends: which are damage, word for word."""

    def found(runs, closed=None, notes=()):
        return [(one.what, one.first_seq, one.last_seq) for one in between_runs(runs, closed, tmp_path, notes)]

    assert found(_runs((1, 3), (4, 6), (7, 6), (7, 9))) == []
    assert found(_runs((2, 3))) == [("the run begins at seq 2, expected 1", 1, 1)]
    assert found(_runs((1, 3), (6, 7))) == [("the run begins at seq 6, expected 4", 4, 5)]
    assert found(_runs((1, 3), (3, 7))) == [("the run begins at seq 3, expected 4", 3, 2)]
    late, early = _runs((1, 3))[0], _runs((1, 3), (4, 6), ts=-5)[1]
    assert found([late, early]) == [("ts_recv -1 is before 3, the last of the previous run", 0, 0)]
    assert found(_runs((1, 3), ts=-100)) == []
    equal = _runs((1, 3), (4, 6), ts=0)
    equal[1].commits[0].first_ts = 3
    assert found(equal) == []

    closed = EodMark("2025-07-17", 10, "", 50, [ClosedRun("r001", 5, ""), ClosedRun("r002", 10, "")])
    assert found(_runs((11, 12), ts=39), closed) == []
    assert found(_runs((11, 12), ts=38), closed) == [("ts_recv 49 is before 50, the last of the previous run", 0, 0)]
    assert found(_runs((11, 12)), EodMark("2025-07-17", 10, "")) == []
    assert found(_runs((12, 12)), EodMark("2025-07-17", 11, "")) == []
    assert found(_runs((12, 12)), EodMark("2025-07-17", 10, ""))[0][0] == "the run begins at seq 12, expected 1"
    assert found(_runs((6, 10)), closed) == []
    assert found(_runs((7, 10)), closed) == [("the run begins at seq 7, expected 1", 1, 6)]
    assert found(_runs((5, 10)), closed) == [("the run begins at seq 5, expected 1", 1, 4)]

    note = QuarantineNote("r001", 1, 3, 0, "x", "")
    assert found(_runs((4, 5)), None, [note])[1:] == []
    assert found(_runs((5, 5)), None, [note])[1:] == [("the run begins at seq 5, expected 1", 1, 4)]

    lost = _runs((1, 3), (9, 9), (12, 13))
    lost[0].damages = ["x"]
    assert found(lost) == [("the run begins at seq 12, expected 10", 10, 11)]
    lost[1].manifest = None
    assert found(lost) == [("the run begins at seq 12, expected 10", 10, 11)]
    lost[1].commits = []
    assert found(lost) == []


def test_quarantine_notes(home):
    """Notes cover ranges only without a gap, read as text, replace a note of their run, and need the right hashes."""
    one, two = QuarantineNote("r001", 1, 5, 7, "bad", "q/r001"), QuarantineNote("", 6, 9, 0, "gone", "")
    covers = [(1, 9, True), (1, 10, False), (2, 5, True), (6, 6, True), (9, 9, True), (10, 10, False), (4, 7, True)]
    assert [(first, last, covered(first, last, [one, two])) for first, last, _ in covers] == covers
    assert not covered(1, 9, [two])
    assert str(one) == "r001 was quarantined, seq 1-5 lost, moved to q/r001: bad"
    assert str(two) == "a run whose folder is missing was quarantined, seq 6-9 lost: gone"
    unknown = msgspec.structs.replace(one, last_seq=0)
    assert str(unknown) == "r001 was quarantined, its seqs are unknown, moved to q/r001: bad"
    assert "seq 1-1 lost" in str(msgspec.structs.replace(one, last_seq=1))
    day = home.on(DATE).log
    day.mkdir(parents=True)
    assert read_quarantine_notes(home.on(DATE)) == []
    for note in (two, unknown, two, one):
        add_note(day, note, Disk())
    assert read_quarantine_notes(home.on(DATE)) == [one, two, two]
    path = day / "set_aside.jsonl"
    with path.open("ab") as file:
        file.write(b"torn")
    with pytest.raises(DamagedFile, match=f"do not match their hashes from byte {path.stat().st_size - 4} on"):
        read_quarantine_notes(home.on(DATE))
    path.write_bytes(seal(b'{"run":1}'))
    with pytest.raises(DamagedFile, match="not quarantine notes: Expected"):
        read_quarantine_notes(home.on(DATE))


def test_a_run_that_names_no_seq_is_set_aside(home):
    """Manifest and journal both lost: the seqs between its neighbours are lost, and its name is not used again."""
    for seed in (1, 2, 3):
        write_run(home, (5,), seed=seed, kinds=FEW)
    folder = home.on(DATE).log / "r002"
    for name in (MANIFEST, JOURNAL):
        (folder / name).write_bytes(b"")
    (note,) = set_aside_day(home.on(DATE))
    assert note == QuarantineNote(
        "r002", 6, 10, 0, "the manifest does not match its hash", "temp/events/2025-07-17/quarantine/r002"
    )
    with pytest.raises(DamagedLog, match="r002 was quarantined"):
        harvester.open_day(DATE, home)
    day = harvester.open_day(DATE, home, set_aside=True)
    assert ([damage.set_aside for damage in day.damages], day.good) == ([True], ((1, 5), (11, 15)))
    assert (day.rows, day.complete) == (10, False)
    _flip(home.on(DATE).log / "r001" / "trade.arrows", -1)
    with pytest.raises(DamagedLog, match="checksum"):
        harvester.open_day(DATE, home, set_aside=True)
    _flip(home.on(DATE).log / "r001" / "trade.arrows", -1)
    with LogWriter.open(home.on(DATE)) as writer:
        assert (writer.next_seq, writer.run_id) == (16, "r004")
        writer.commit(batch(2, 16, 5, kinds=FEW, start_ns=writer.last_ts))
    shutil.copytree(home.on(DATE).log / "quarantine" / "r002", folder)
    _flip(home.on(DATE).log / "r004" / JOURNAL, 9)
    again, last = set_aside_day(home.on(DATE))
    assert again.folder.endswith("quarantine/r002.2")
    assert (last.first_seq, last.last_seq, last.run) == (16, 17, "r004")


def test_runs_with_the_same_seqs_are_damage(home):
    """Two runs that claim the same seqs are never read as one day; the later one can be set aside."""
    other = Home(home.root / "other")
    for size in (2, 5):
        write_run(other, (size,), kinds=FEW)
    write_run(home, (5,), kinds=FEW)
    shutil.copytree(other.on(DATE).log / "r002", home.on(DATE).log / "r002")
    with pytest.raises(DamagedLog, match="the run begins at seq 3, expected 6"):
        harvester.open_day(DATE, home)
    with pytest.raises(DamagedLog, match="--set-aside"):
        LogWriter.open(home.on(DATE))
    (note,) = set_aside_day(home.on(DATE))
    assert (note.run, note.first_seq, note.last_seq) == ("r002", 3, 7)
    assert note.what == "the run begins at seq 3, expected 6"
    with LogWriter.open(home.on(DATE)) as writer:
        assert (writer.run_id, writer.next_seq) == ("r003", 8)


def test_what_recovery_did_is_one_line(home):
    """Torn bytes per file and where they are; a run without torn bytes says so."""
    assert str(Recovery("r001", 7, {}, None)) == "r001 recovered up to seq 7: nothing torn"
    writer = LogWriter.open(home.on(DATE))
    writer.commit(batch(4, kinds=FEW))
    writer.abandon()
    for name, n in ((JOURNAL, 3), ("trade.arrows", 4), ("quote.arrows", 5)):
        with (writer.folder / name).open("ab") as file:
            file.write(b"x" * n)
    end = (writer.folder / "trade.arrows").stat().st_size - 4
    (done,) = recover_day(home.on(DATE))
    where = home.on(DATE).log / "quarantine"
    assert done.torn == {JOURNAL: 3, "trade.arrows": 4, "quote.arrows": 5}
    assert str(done).startswith("r001 recovered up to seq 4: ")
    assert str(done).endswith(f", moved to {where}")
    kept = {path.name.replace("r001.", ""): path.read_bytes() for path in files_of(where)}
    assert kept["quote.arrows.at0"] == b"xxxxx"
    assert kept[f"trade.arrows.at{end}"] == b"xxxx"
    assert not (writer.folder / "quote.arrows").exists()
    assert (RecoveredDay().last_run, RecoveredDay().last_seq, RecoveredDay().last_ts) == (0, 0, BEFORE_ALL)
    assert recover_day(home.on(DATE)) == []


def test_dates_and_runs_are_found_by_name(home):
    """Folders of dates and runs, in `temp/` and the archive, in order; nothing else is taken for one."""
    with pytest.raises(NoLog, match="nothing is recorded under"):
        newest_date(home)
    for name in ("2025-07-01/r001", "2025-07-02/quarantine", "2025-7-3", "20250704xx", "other", "2025-07-05-1"):
        (home.events / name).mkdir(parents=True)
    (home.events / "2025-07-09").write_bytes(b"")
    assert recorded_dates(home) == ["2025-07-01", "2025-07-02"]
    (home.memory / "archive" / "2025-06-30").mkdir(parents=True)
    assert recorded_dates(home) == ["2025-06-30", "2025-07-01", "2025-07-02"]
    assert newest_date(home) == date(2025, 7, 2)
    log, kept = home.on(DATE).log, home.on(DATE).archive
    for folder in (*(log / f"r{n}" for n in ("1000", "002", "010", "01", "0100")), kept / "r002", kept / "r003"):
        folder.mkdir(parents=True)
    (log / "r004").write_bytes(b"")
    (log / "quarantine").mkdir()
    assert run_folders(home.on(DATE)) == [log / "r002", kept / "r003", log / "r010", log / "r1000"]
    assert runs_in(log) == [log / "r002", log / "r010", log / "r1000"]
    assert runs_in(log / "absent") == []
    assert run_folders(home.on(DATE.replace(day=20))) == []


def test_marks_of_a_day(home):
    """One mark per commit: its last seq and time, and a key that only content before and up to it changes."""
    write_run(home, (3, 4), kinds=FEW)
    one = harvester.open_day(DATE, home).marks()
    write_run(home, (2,), seed=3, kinds=FEW)
    day = harvester.open_day(DATE, home)
    assert day.marks()[:2] == one
    assert [mark.last_seq for mark in day.marks()] == [3, 7, 9]
    lines = [line for log in day.logs for line in log.commits]
    assert [mark.last_ts for mark in day.marks()] == [line.last_ts for line in lines]
    before = [combined([])[:32]] * 2 + [combined([lines[1].content])[:32]]
    assert [mark.content for mark in day.marks()] == [
        key + line.content[:32] for key, line in zip(before, lines, strict=True)
    ]
    assert (day.first_seq, day.last_seq, day.last_ts, day.rows) == (1, 9, lines[-1].last_ts, 9)
    assert (day.complete, day.good, day.damages) == (True, ((1, 9),), [])
    assert [(run.run, run.rows) for run in day.runs] == [("r001", 7), ("r002", 2)]
    assert _ranges(day.batches(from_seq=2, to_seq=8)) == [(2, 7), (8, 8)]
    assert _ranges(day.batches(from_seq=3, to_seq=3)) == [(3, 3)]
    assert _ranges(day.batches(to_seq=0)) == []
    assert _ranges(day.batches(1)) == [(seq, seq) for seq in range(1, 10)]
    assert sum(day.table(kind).num_rows for kind in FEW) == 9
    assert day.table(Kind.TRADE)["seq"].to_pylist() == sorted(day.frame("trade")["seq"])
    assert day.table(Kind.QUOTE).num_rows == 0
    with pytest.raises(HarvesterError, match="rows_max is 0; it must be 1 or more"):
        list(day.batches(rows_max=0))


def test_a_day_without_events(home):
    """A run without events: seqs from 1, nothing to read, a content hash; live until it has ended."""
    writer = LogWriter.open(home.on(DATE))
    day = harvester.open_day(DATE, home)
    assert (day.first_seq, day.last_seq, day.last_ts, day.rows, day.complete) == (1, 0, 0, 0, False)
    assert (day.marks(), list(day.batches()), day.live_digests(), day.good) == ([], [], [], ())
    assert day.identity() == combined([])
    writer.close()
    assert harvester.open_day(DATE, home).complete


@pytest.mark.parametrize(("key", "step"), [("first_ts", -1), ("first_ts", 1), ("last_ts", -1), ("last_ts", 1)])
def test_times_of_the_journal_are_those_of_the_rows(home, key, step):
    """A first or last time in the journal one nanosecond too early or too late is damage."""
    log = _live(home, (9,))

    def change(lines, manifest):
        lines[0][key] += step

    forge(log.folder, change)
    with pytest.raises(BadBytes, match="ts_recv"):
        _run(home).load(0, 1)


def test_a_wrong_time_is_named_at_the_first_file_of_its_commit(home):
    """Damage of a whole commit names the first of its files, and that file's offset."""
    write_run(home, (30, 30), kinds=(Kind.TRADE, Kind.TICK))
    forge(home.on(DATE).log / "r001", lambda lines, manifest: lines[1].update(last_ts=lines[1]["last_ts"] + 1))
    log = _run(home)
    first, second = log.commits[1].files
    assert first.offset != second.offset
    with pytest.raises(BadBytes) as met:
        log.load(1, 2)
    assert (met.value.damage.file, met.value.damage.offset) == (log.path_of(first.kind), first.offset)


def test_identity_of_a_date_whose_log_was_deleted():
    """Content hashes of deleted runs come from the mark, those of runs that are there from the log."""
    first, second = _runs((1, 3), (4, 6))
    for log in (first, second):
        for line in log.commits:
            line.content = f"{log.run}-{line.last_seq}"
    runs = [ClosedRun("r001", 3, "one"), ClosedRun("r002", 6, "two")]
    mark = EodMark("2025-07-17", 6, "all", 0, runs)
    both = combined(["r001-3", "r002-6"])
    assert (day_identity([first, second], None), day_identity([first, second], mark)) == (both, both)
    assert day_identity([second], mark) == combined(["one", "r002-6"])
    assert day_identity([second], EodMark("2025-07-17", 3, "all")) == combined(["all", "r002-6"])
    assert day_identity([second], None) == combined(["r002-6"])
    assert day_identity([], mark) == combined([])


# --- writing ---


class _Failing(Disk):
    """A disk that counts folder syncs and fails to write `bad`, if that is set."""

    def __init__(self) -> None:
        self.folders: list[str] = []
        self.bad = ""

    def sync_folder(self, path):
        self.folders.append(path.name)
        super().sync_folder(path)

    def write(self, file, data):
        if self.bad and self.bad in file.name:
            raise OSError(errno.EIO, "Input/output error")
        super().write(file, data)


def test_the_folder_is_synced_for_new_files_only(home):
    """A commit syncs the run's folder when it creates a file, and not otherwise."""
    disk = _Failing()
    with LogWriter.open(home.on(DATE), disk=disk) as writer:
        assert (writer.last_ts, writer.bytes_written, writer.recovered) == (BEFORE_ALL, 0, [])
        whole = batch(20, kinds=(Kind.TRADE,))
        disk.folders.clear()
        done = writer.commit(whole.slice(1, 5))
        assert disk.folders == ["r001"]
        writer.commit(whole.slice(6, 10))
        assert disk.folders == ["r001"]
        ends = [path.stat().st_size for path in files_of(writer.folder) if path.name != MANIFEST]
        assert writer.bytes_written == sum(ends) > done.n_bytes > 0
        assert (done.first_seq, done.last_seq, done.rows) == (1, 5, 5)
        empty = writer.commit(Batch())
        last_ts = writer.last_ts
        assert empty._asdict() == {
            "first_seq": 11,
            "last_seq": 10,
            "first_ts": last_ts,
            "last_ts": last_ts,
            "rows": 0,
            "n_bytes": 0,
            "content_hash": writer.content_hash(),
        }


def test_a_rewrite_says_what_failed(home, tmp_path, monkeypatch):
    """Rows that read back otherwise are a mismatch, a full disk is named; exactly the space needed is enough."""

    class Tight(Disk):
        free = 0

        def free_bytes(self, path):
            return self.free

    write_run(home, (40,), kinds=FEW)
    log, disk, steps = _run(home), Tight(), []
    need = sum(log.ends.values()) + MARGIN_BYTES
    for name, free in (("enough", need), ("less", need - 1)):
        disk.free = free
        (tmp_path / name).mkdir()
        target = RewriteTarget(tmp_path / name, "parquet", disk)
        if free == need:
            rewrite(log, target, steps.append)
            assert steps == [40]
            made = RunLog(tmp_path / name, "r001")
            made.refresh()
            assert (made.commits[0].first_ts, made.commits[0].last_ts) == (
                log.commits[0].first_ts,
                log.commits[0].last_ts,
            )
        else:
            with pytest.raises(LogWriteFailed, match=r"cannot rewrite .*r001: .* free, .* needed; it is unchanged"):
                rewrite(log, target)

    def fail(self):
        raise ValueError("odd footer")

    monkeypatch.setattr(ParquetBodies, "finish", fail)
    (tmp_path / "odd").mkdir()
    with pytest.raises(Mismatch, match="odd: read-back failed: odd footer; nothing was deleted"):
        rewrite(log, RewriteTarget(tmp_path / "odd", "parquet", Disk()))


def test_a_failing_disk_is_named_before_a_run(home):
    """Beginning, recovering and setting aside: what failed, the system's words, the next move; the lock is free."""

    class Broken(Disk):
        def sync_folder(self, path):
            raise OSError(errno.EIO, "Input/output error")

    paths = home.on(DATE)
    with pytest.raises(LogWriteFailed) as raised:
        LogWriter.open(paths, disk=Broken())
    assert str(raised.value) == f"cannot begin run {paths.log / 'r001'}: Input/output error"
    with LogWriter.open(paths) as writer:
        assert writer.run_id == "r001"
        writer.begin(START_NS)
        with pytest.raises(HarvesterError, match=r"^run r001 has begun already$"):
            writer.begin(START_NS)
        writer.abandon()
    with pytest.raises(LogWriteFailed) as raised:
        recover_day(paths, Broken())
    assert str(raised.value) == f"cannot recover {paths.log}: Input/output error; free space and try again"
    (writer.folder / MANIFEST).write_bytes(b"")
    with pytest.raises(LogWriteFailed) as raised:
        set_aside_day(paths, Broken())
    assert str(raised.value) == f"cannot quarantine runs of {paths.log}: Input/output error; try again"
    assert [note.run for note in set_aside_day(paths)] == ["r001"]


def test_live_digests_are_of_committed_seqs(home):
    """From 0 to the last committed seq; others are refused with both numbers; a failing disk ends the run."""
    disk = _Failing()
    writer = LogWriter.open(home.on(DATE), disk=disk)
    writer.commit(batch(5, kinds=FEW))
    n_bytes = writer.bytes_written
    for seq in (0, 5):
        writer.live_digests(seq, {"book": "0"})
    assert writer.bytes_written == n_bytes + (writer.folder / DIGESTS).stat().st_size
    for seq in (-1, 6, 7):
        with pytest.raises(HarvesterError, match=f"^live digests for seq {seq}, the last committed is 5$"):
            writer.live_digests(seq, {})
    disk.bad = DIGESTS
    with pytest.raises(LogWriteFailed, match=r"live_digests\.jsonl, \d+ bytes at seq 5: Input/output error; .* free"):
        writer.live_digests(5, {})
    with pytest.raises(LogWriteFailed, match=r"run r001 accepts no more writes: .*everything up to seq 5 is safe"):
        writer.commit(batch(1, 6, kinds=FEW, start_ns=writer.last_ts))
    writer.close()
    assert [line.seq for line in _run(home).digests] == [0, 5]
    assert not _run(home).finished


def test_clock_events_per_commit_are_limited(home, monkeypatch):
    """As many as the limit are accepted, one more is refused with both numbers."""
    monkeypatch.setattr("harvester.eventlog.writer.CLOCK_ROWS_MAX", 3)
    with LogWriter.open(home.on(DATE)) as writer:
        assert writer.commit(batch(3, kinds=(Kind.CLOCK,))).last_seq == 3
        with pytest.raises(HarvesterError, match="seq 3 of r001: 4 clock events in one commit, the maximum is 3"):
            writer.commit(batch(4, 4, kinds=(Kind.CLOCK,), start_ns=writer.last_ts))


def test_the_margin_of_a_commit(tmp_path):
    """Free space that leaves exactly the margin is enough; with a byte less nothing is written."""

    class Tight(Disk):
        free = 2**60

        def free_bytes(self, path):
            return self.free

    disk, n_bytes = Tight(), 0
    for name, missing in (("a", 0), ("b", 0), ("c", 1)):
        with LogWriter.open(Home(tmp_path / name).on(DATE), disk=disk, margin_bytes=1000) as writer:
            disk.free = 1000 + n_bytes - missing if n_bytes else 2**60
            if missing:
                with pytest.raises(LogWriteFailed, match="the margin is"):
                    writer.commit(batch(4, kinds=FEW))
                assert [path.stat().st_size for path in files_of(writer.folder) if path.name != MANIFEST] == [0, 0]
            else:
                n_bytes = writer.commit(batch(4, kinds=FEW)).n_bytes


# --- following, locks, marks, the archive ---


def test_a_follower_is_live_until_the_run_has_ended(home):
    """Not before a run is seen, nor after its end; a follower begins at any seq and gives each event once."""
    follower, late = Follower(home.on(DATE)), Follower(home.on(DATE), 5)
    assert (follower.live, follower.next_seq, late.next_seq) == (False, 1, 5)
    writer = LogWriter.open(home.on(DATE))
    whole = batch(9, kinds=FEW)
    writer.commit(whole.slice(1, 6))
    assert _ranges(follower.poll()) == [(1, 6)]
    assert _ranges(late.poll()) == [(5, 6)]
    assert (follower.live, follower.next_seq, late.next_seq) == (True, 7, 7)
    assert list(follower.poll()) == []
    writer.commit(whole.slice(7, 9))
    writer.close()
    assert _ranges(follower.poll()) == [(7, 9)]
    assert (follower.live, follower.next_seq) == (False, 10)
    write_run(home, (2,), seed=2, kinds=FEW)
    assert _ranges(follower.poll()) == [(10, 11)]
    assert _ranges(late.poll()) == [(7, 9), (10, 11)]
    assert list(Follower(home.on(DATE), 12).poll()) == []
    _flip(home.on(DATE).log / "r001" / "trade.arrows", -1)
    with pytest.raises(DamagedLog, match="checksum"):
        list(Follower(home.on(DATE)).poll())
    _flip(home.on(DATE).log / "r001" / JOURNAL, 9)
    with pytest.raises(DamagedLog, match="the line does not match its hash"):
        list(Follower(home.on(DATE)).poll())


@pytest.mark.parametrize("since", [10**23, 10**40, 5])
def test_the_time_of_a_lock_may_be_unknown(since, monkeypatch):
    """A time that no calendar has is unknown; systems differ in the error they raise for it."""

    class Refusing(locks.datetime):
        @classmethod
        def fromtimestamp(cls, at, zone):
            raise OSError(errno.EINVAL, "Invalid argument")

    if since == 5:
        monkeypatch.setattr(locks, "datetime", Refusing)
    assert str(LockHolder(7, "host", "record", since)) == "process 7 on host (record) since an unknown time"


def test_a_note_of_a_lock_has_a_limit(home):
    """A note of 4096 bytes is read, a longer one is not."""
    lock = locks.DateLock(home.on(DATE))
    note = home.on(DATE).lock.with_suffix(".holder.json")
    note.parent.mkdir(parents=True)
    holder = LockHolder(7, "host", "record", 5)
    text = msgspec.json.encode(holder)
    for size, wanted in ((4096, holder), (4097, None)):
        note.write_bytes(text[:-1] + b" " * (size - len(text)) + b"}")
        assert lock.holder() == wanted


def test_the_mark_of_a_closed_date(home):
    """Read as written, up to 16 MiB; its last run by number; dates by name; a deleted log's text says when."""
    paths = home.on(DATE)
    assert (read_closed(paths), closed_dates(home)) == (None, [])
    runs = [ClosedRun(run, 1, "") for run in ("r002", "r010", "r003", "rx")]
    mark = EodMark(DATE.isoformat(), 0, "0", 7, runs)
    assert (mark.last_run, EodMark("", 0, "").last_run, EodMark("", 0, "").last_ts) == (10, 0, 0)
    write_closed(home, mark, DATE)
    assert read_closed(paths) == mark
    write_closed(home, EodMark("2025-07-16", 5, ""), date(2025, 7, 16))
    assert closed_dates(home) == ["2025-07-16", "2025-07-17"]
    assert newest_date(home) == DATE
    assert "deleted; its episodes" in gone_text(home, mark)
    (paths.dataset / DELETION).write_bytes(b"")
    os.utime(paths.dataset / DELETION, ns=(0, START_NS + 5))
    assert "were deleted on 2025-07-17T13:00:00Z; its episodes and decisions are kept in " in gone_text(home, mark)
    path, text = closed_path(paths), msgspec.json.encode(mark)
    path.write_bytes(text[:-1] + b" " * (16 * 1024 * 1024 - len(text)) + b"}")
    assert read_closed(paths) == mark
    path.write_bytes(text[:-1] + b" " * (16 * 1024 * 1024 - len(text) + 1) + b"}")
    with pytest.raises(DamagedFile, match="not the mark of a closed date"):
        read_closed(paths)
    write_closed(home, msgspec.structs.replace(mark, last_seq=-1), DATE)
    with pytest.raises(DamagedFile, match="it is for 2025-07-17, seq -1"):
        read_closed(paths)


def test_the_archive_holds_a_date_or_not(home):
    """Held only when every run of `temp/` is archived with the same events; a run without events counts too."""
    paths = home.on(DATE)
    assert not holds(paths)
    LogWriter.open(paths).close()
    write_run(home, (3,), kinds=FEW)
    assert not holds(paths)
    assert archive(paths, Disk()) == [f"memory/archive/2025-07-17/{run}" for run in ("r001", "r002")]
    assert holds(paths)
    assert archive(paths, Disk()) == []
    write_run(home, (2,), seed=2, kinds=FEW)
    assert not holds(paths)
    shutil.copytree(paths.log / "r001", paths.archive / "r003")
    with pytest.raises(Mismatch, match="is not equal to"):
        archive(paths, Disk())
    shutil.rmtree(paths.archive / "r003")
    archive(paths, Disk())
    shutil.rmtree(paths.log)
    assert holds(paths)
    _flip(paths.archive / "r001" / MANIFEST, 9)
    assert holds(paths), "only what is in `temp/` too is compared"


def test_a_run_without_events_is_archived_without_events(home):
    """An archived run that holds events is no copy of one without, although both begin with the same seq."""
    paths, other = home.on(DATE), Home(home.root / "other")
    LogWriter.open(paths).close()
    archive(paths, Disk())
    assert holds(paths)
    write_run(other, (3,), kinds=FEW)
    shutil.rmtree(paths.archive / "r001")
    shutil.copytree(other.on(DATE).log / "r001", paths.archive / "r001")
    assert not holds(paths)


def test_a_refresh_reads_on(home):
    """A refresh of a run that is being written keeps the commits it has read."""
    with LogWriter.open(home.on(DATE)) as writer:
        whole = batch(6, kinds=FEW)
        writer.commit(whole.slice(1, 3))
        log = _run(home)
        (first,) = log.commits
        writer.commit(whole.slice(4, 6))
        assert log.refresh() == 1
        assert (log.commits[0] is first, log.last_seq) == (True, 6)


@pytest.mark.parametrize("prev", ["0" * 32, "f" * 32])
def test_a_digest_line_that_follows_another_line_is_noticed(home, prev):
    """A live digest whose `prev` is the hash of another line, lower or higher, is damage."""
    write_run(home, (3, 3, 3, 3), kinds=FEW)
    path = home.on(DATE).log / "r001" / DIGESTS
    first, second = path.read_bytes().splitlines(keepends=True)
    line = msgspec.json.decode(second)
    del line["hash"]
    line["prev"] = prev
    path.write_bytes(first + seal(msgspec.json.encode(line)))
    assert _run(home).damages[0].what == "line 2 does not follow line 1"


def test_progress_of_a_check_is_every_byte(home, monkeypatch):
    """The bytes of all steps of a check are the bytes that the journal names, however the files are read."""
    write_run(home, (30, 30, 30), kinds=FEW)
    monkeypatch.setattr("harvester.eventlog.storage.checked_reads.READ_BYTES", 1)
    log, steps = _run(home), []
    log.check_bodies(steps.append)
    assert len(steps) >= 3 * len(log.ends)
    assert sum(steps) == sum(log.ends.values())


def test_damage_met_while_folding_costs_what_was_read_together(home, monkeypatch):
    """A kind's commits that are read together and hold wrong places are named from the first to the last."""
    write_run(home, (3, 3, 3), kinds=(Kind.TRADE,))
    files = _File(_run(home, check=True), Kind.TRADE, range(2))

    def wrong(*_):
        raise ValueError("wrong places")

    monkeypatch.setattr("harvester.eventlog.fold_reader.check_places", wrong)
    with pytest.raises(BadBytes) as met:
        files.rows(0, 3)
    assert (met.value.damage.first_seq, met.value.damage.last_seq, met.value.damage.what) == (1, 9, "wrong places")


class _Kept(Disk):
    """A disk that keeps the files it created, and the names of those it synced."""

    def __init__(self) -> None:
        self.created, self.synced = [], []

    def create(self, path):
        self.created.append(super().create(path))
        return self.created[-1]

    def fsync(self, file):
        self.synced.append(file.name)
        super().fsync(file)


def test_every_file_is_closed(home, tmp_path, monkeypatch):
    """An ended run, an abandoned one, a rewritten one and one whose rewriting failed leave no file open."""
    disk = _Kept()
    for end in ("close", "abandon"):
        writer = LogWriter.open(home.on(DATE), disk=disk)
        writer.commit(batch(5, writer.next_seq, kinds=FEW, start_ns=max(START_NS, writer.last_ts)))
        getattr(writer, end)()
        assert [file.closed for file in disk.created] == [True] * len(disk.created), end
    source = _run(home)
    for name in ("whole", "failed"):
        (tmp_path / name).mkdir()
        kept = _Kept()
        if name == "failed":
            monkeypatch.setattr(kept, "fsync", _no_sync)
        with nullcontext() if name == "whole" else pytest.raises(LogWriteFailed):
            rewrite(source, RewriteTarget(tmp_path / name, "compacted", kept))
        assert kept.created
        assert [file.closed for file in kept.created] == [True] * len(kept.created), name
        if name == "whole":
            assert set(kept.synced) >= {file.name for file in kept.created}


def _no_sync(file):
    raise OSError(errno.EIO, "Input/output error")


def test_a_copy_is_refused_by_its_first_damage(home, tmp_path):
    """Of several damaged commits of a copy the one that was found first is named."""
    write_run(home, (4200,), kinds=FEW)
    folder = tmp_path / DATE.isoformat() / "copy"
    folder.mkdir(parents=True)
    rewrite(_run(home), RewriteTarget(folder, "compacted", Disk(), CANDIDATE))
    copy = RunLog(folder, "r001", CANDIDATE)
    copy.refresh()
    (first, second), parts = copy.commits, copy.parts_of(Kind.TRADE).parts
    for part in parts:
        _flip(copy.path_of(Kind.TRADE), part.end - 1)
    with pytest.raises(Mismatch, match=f"seq 1-{first.last_seq}") as raised:
        prove(_run(home), copy)
    assert len(copy.damages) == 2
    assert str(second.last_seq) not in str(raised.value)


def _copied(**changes) -> SimpleNamespace:
    """What `prove` reads of a run, as if its rows and its content hash agreed."""
    line = SimpleNamespace(rows=3, first_ts=5, last_ts=9)
    values = {
        "folder": "x",
        "refresh": lambda: None,
        "check_bodies": lambda _: None,
        "damages": [],
        "finished": True,
        "first_seq": 2,
        "last_seq": 4,
        "content_hash": "cc",
        "commits": [line],
        "digests": [DigestLine(1, 3, {"book": "b"}, "")],
        "torn": {"trade.arrows": 0},
    }
    return SimpleNamespace(**{**values, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"finished": False},
        {"first_seq": 1},
        {"first_seq": 3},
        {"last_seq": 3},
        {"last_seq": 5},
        {"content_hash": "cb"},
        {"content_hash": "cd"},
        {"commits": [SimpleNamespace(rows=3, first_ts=4, last_ts=9)]},
        {"commits": [SimpleNamespace(rows=3, first_ts=6, last_ts=9)]},
        {"commits": [SimpleNamespace(rows=3, first_ts=5, last_ts=8)]},
        {"commits": [SimpleNamespace(rows=3, first_ts=5, last_ts=10)]},
        {"digests": []},
        {"digests": [DigestLine(1, 2, {"book": "b"}, "")]},
        {"digests": [DigestLine(1, 3, {"book": "c"}, "")]},
        {"torn": {"trade.arrows": 1}},
    ],
    ids=str,
)
def test_a_copy_is_compared_value_by_value(monkeypatch, changes):
    """Each value of a copy is compared on its own, lower or higher, whatever the content hash covers."""
    monkeypatch.setattr("harvester.eventlog.rewrite.verify_rows", lambda log, _: 3)
    prove(_copied(), _copied())
    with pytest.raises(Mismatch, match=r"^x is not equal to x: 3 rows up to seq \d read back differ"):
        prove(_copied(), _copied(**changes))
    monkeypatch.setattr("harvester.eventlog.rewrite.verify_rows", lambda log, _: 2)
    with pytest.raises(Mismatch, match="2 rows"):
        prove(_copied(), _copied())


def test_what_a_failed_write_says_of_the_disk(home):
    """The space left is named; a disk that cannot say it is not called full."""
    disk = _Failing()
    writer = LogWriter.open(home.on(DATE), disk=disk)
    disk.bad = JOURNAL
    with pytest.raises(LogWriteFailed, match=r"Input/output error; [0-9.,]+ .?B free; everything up to seq 0 is safe"):
        writer.commit(batch(5, kinds=FEW))
    writer.abandon()
    disk.bad = ""
    writer = LogWriter.open(home.on(DATE), disk=disk)
    disk.free_bytes = _no_sync
    with pytest.raises(LogWriteFailed, match=r"Input/output error; everything up to seq 0 is safe"):
        writer.commit(batch(5, kinds=FEW))
    writer.abandon()


def test_defaults_are_the_harmless_case(tmp_path):
    """By default damage was not set aside, a scan has no torn byte, a deletion list is not done."""
    assert not Damage(tmp_path / "file", 0, "altered").set_aside
    (tmp_path / "lines").write_bytes(seal(b'{"a":1}'))
    assert (scan(tmp_path / "lines").torn_bytes, scan(tmp_path / "absent").torn_bytes) == (0, 0)
    assert not DeletionList("", 2, DATE.isoformat(), "", None, [], []).done
