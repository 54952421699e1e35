"""Reading a day for a fold gives the same events as any other reader, from every storage format, and no wrong one."""

from __future__ import annotations

import random
import shutil
import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_samples import DATE, batch, files_of, same, write_run

import harvester
from harvester.errors import DamagedLog
from harvester.eventlog.archive import archive
from harvester.eventlog.compact import compact_day
from harvester.eventlog.fold_reader import fold_batches
from harvester.eventlog.storage import batch_messages
from harvester.eventlog.storage.checked_reads import rows_of
from harvester.eventlog.storage.format import Part
from harvester.eventlog.storage.ipc_streams import HEADERS, encode
from harvester.eventlog.storage.prefetch import STEPS_AHEAD, prefetch
from harvester.eventlog.storage.sealed_lines import checksum
from harvester.eventlog.storage.sequence_checks import order_problem
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch, seqs
from harvester.events.kinds import SCHEMAS, Kind
from harvester.files import Disk
from harvester.home import Home
from tests.budget import budget

FOUR = (Kind.TRADE, Kind.DEPTH, Kind.REQUEST, Kind.CLOCK)
WANTED = {
    Kind.DEPTH: ("position", "price", "market_maker", "req_id"),
    Kind.TRADE: ("past_limit", "size", "epoch"),
    Kind.TICK: ("field", "text"),
    Kind.QUOTE: ("bid",),
}
STORAGES = ("stream", "lz4", "zstd", "compacted", "parquet")


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


def _write(home: Home, storage: str, sizes: tuple[int, ...], **options) -> Batch:
    """One ended run in a given storage format; for the archive the live copy is deleted."""
    compression = storage if storage in ("lz4", "zstd") else None
    whole = write_run(home, sizes, compression=compression, **options)
    _store(home, storage)
    return whole


def _store(home: Home, storage: str) -> None:
    if storage == "compacted":
        compact_day(home.on(DATE))
    if storage == "parquet":
        archive(home.on(DATE), Disk())
        shutil.rmtree(home.on(DATE).log)


def _chosen(whole: Batch, wanted) -> Batch:
    """The columns that a fold gets when it asks for these."""
    tables = {}
    for kind, rows in whole.tables.items():
        names = SCHEMAS[kind].names
        keep = [n for n in names if kind not in wanted or n in ("seq", "ts_recv", *wanted[kind])]
        tables[kind] = rows.select(keep)
    return Batch(tables)


def _folded(day) -> list[Batch]:
    return list(fold_batches(day, WANTED, 10))


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("storage", STORAGES)
def test_a_fold_is_given_what_was_written(tmp_path_factory, storage, check, monkeypatch):
    """Every value of the requested columns, and of whole other kinds, for any commit size and storage format."""
    monkeypatch.setattr("harvester.eventlog.rewrite.COMMIT_ROWS", 100)
    home = Home(tmp_path_factory.mktemp("home"))
    whole = _write(home, storage, (1, 300, *[3] * 60, 90, 2, 2, 1))
    day = harvester.open_day(DATE, home, check=check)

    @given(
        rows_min=st.integers(1, 700),
        cuts=st.lists(st.integers(-5, 700), max_size=5),
        some=st.sets(st.sampled_from(sorted(WANTED))),
    )
    @settings(max_examples=budget(3, 12), deadline=None)
    def reads(rows_min, cuts, some):
        wanted = {kind: WANTED[kind] for kind in some}
        got = list(fold_batches(day, wanted, rows_min, cuts))
        assert same(Batch.concat(got), _chosen(whole, wanted))
        assert not any(one.first_seq <= cut < one.last_seq for one in got for cut in cuts)
        assert [one.first_seq for one in got[1:]] == [one.last_seq + 1 for one in got[:-1]]

    reads()


@pytest.mark.parametrize("rows", [1, 4000])
def test_small_commits_are_joined_and_large_ones_left_where_they_lie(home, rows):
    """Rows of large uncompressed commits are the mapped file's bytes, without a copy; small commits are joined."""
    write_run(home, (rows,) * 6, kinds=(Kind.DEPTH, Kind.CLOCK))
    got = list(fold_batches(harvester.open_day(DATE, home), {Kind.DEPTH: ("price",)}, 3000))
    assert [len(one) for one in got] == ([6] if rows == 1 else [rows] * 6)
    if rows > 1:
        before = pa.total_allocated_bytes()
        kept = list(fold_batches(harvester.open_day(DATE, home), {Kind.DEPTH: ("price",)}, 3000))
        assert pa.total_allocated_bytes() - before < 8 * sum(map(len, kept)) // 4, "not even one column was copied"


def test_runs_follow_each_other_and_stay_apart(home):
    """A day of a compacted, a killed, a compressed and a live run is given whole; no batch crosses a run."""
    parts = [write_run(home, (30, 1, 60), seed=1)]
    compact_day(home.on(DATE))
    parts.append(write_run(home, (50, 25), seed=2, compression="lz4"))
    writer = LogWriter.open(home.on(DATE))
    parts.append(batch(40, writer.next_seq, 3, start_ns=writer.last_ts))
    writer.commit(parts[2].slice(167, 186))
    day, early = (harvester.open_day(DATE, home, check=check) for check in (True, False))
    writer.commit(parts[2].slice(187, 206))
    writer.close()
    for one in (day, early):
        got = list(fold_batches(one, {}, 1000))
        # what was committed later is not in it
        assert [(b.first_seq, b.last_seq) for b in got] == [(1, 91), (92, 166), (167, 186)]
        assert same(Batch.concat(got), Batch.concat(parts).slice(1, 186))
    assert sum(map(len, fold_batches(harvester.open_day(DATE, home), {}, 10))) == 206


@pytest.mark.parametrize("check", [True, False])
def test_a_fold_lives_through_a_compaction(home, check):
    """Compacted before or while it is read, a day opened before gives the same events."""
    whole = write_run(home, tuple([40] * 30))
    day = harvester.open_day(DATE, home, check=check)
    other = harvester.open_day(DATE, home, check=check)
    reading = fold_batches(day, {}, 40)
    first = next(reading)
    compact_day(home.on(DATE))
    assert same(Batch.concat([first, *reading]), whole)
    assert same(Batch.concat(list(fold_batches(other, {}, 40))), whole)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_flipped_byte_is_told_when_it_is_read(home, storage):
    """A day opened without checking bodies raises the same error for an altered byte as opening with the check."""
    _write(home, storage, (40, 40, 40), kinds=FOUR)
    rng = random.Random(2)
    for path in files_of(home.root):
        if path.suffix not in (".arrows", ".parquet"):
            continue
        good = path.read_bytes()
        for at in rng.sample(range(len(good)), 12):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1 :])
            with pytest.raises(DamagedLog) as opened:
                harvester.open_day(DATE, home)
            day = harvester.open_day(DATE, home, check=False)
            with pytest.raises(DamagedLog) as folded:
                _folded(day)
            assert str(folded.value) == str(opened.value)
            assert (folded.value.file, folded.value.offset) == (str(path), opened.value.offset)
            assert folded.value.good == opened.value.good
            with pytest.raises(DamagedLog):
                list(harvester.open_day(DATE, home, check=False).batches())
            with pytest.raises(DamagedLog):
                harvester.open_day(DATE, home, check=False).table(
                    "depth" if "depth" in path.name else path.name.split(".")[0]
                )
        path.write_bytes(good)
    assert sum(map(len, _folded(harvester.open_day(DATE, home, check=False)))) == 120


def _tampered(whole: Batch, how: str) -> Batch:
    """Events that a writer would reject: in order within each kind, out of order across kinds."""
    depth = whole.tables[Kind.DEPTH]
    columns_of = {name: depth.column(name).to_numpy(zero_copy_only=False).copy() for name in ("seq", "ts_recv")}
    trade = whole.tables[Kind.TRADE]
    at = int(np.searchsorted(columns_of["seq"], seqs(trade)[3]))
    arrays = depth.columns
    if how == "seq twice":  # the next depth row takes a trade's place
        columns_of["seq"][at] = seqs(trade)[3]
    elif how == "seq beyond":
        columns_of["seq"][-1] += np.uint64(1000)
    elif how == "time back between kinds":
        columns_of["ts_recv"][at:] += 10**12
    elif how == "time back within a kind":
        columns_of["ts_recv"][at] = 0
    elif how == "first time":
        columns_of["ts_recv"][0] -= 5
    for name, values in columns_of.items():
        arrays[SCHEMAS[Kind.DEPTH].get_field_index(name)] = pa.array(values)
    if how == "null epoch":
        arrays[4] = pa.array([None, *([1] * (depth.num_rows - 1))], pa.uint16())
    schema = SCHEMAS[Kind.DEPTH]
    return Batch({**whole.tables, Kind.DEPTH: pa.RecordBatch.from_arrays(arrays, schema=schema)})


WRONG = ("seq twice", "seq beyond", "time back between kinds", "time back within a kind", "first time", "null epoch")


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("how", "storage"),
    [
        (how, storage)
        for how in WRONG
        for storage in STORAGES
        if (how, storage) != ("null epoch", "parquet")  # which cannot hold one
    ],
)
def test_wrong_events_under_right_checksums_are_damage(home, storage, check, how, monkeypatch):
    """Wrong content under valid checksums gives no batch of the damaged commits, and DamagedLog with the good seqs."""
    good = batch(60, 1, kinds=FOUR)
    with monkeypatch.context() as blind:
        times = np.concatenate([rows.column(1).to_numpy() for rows in good.tables.values()])
        blind.setattr(LogWriter, "_check", lambda self, b: (int(times.min()), int(times.max())))
        for module in ("run", "storage.parquet_files", "storage.checked_reads"):
            for name in ("rows_problem", "check_rising", "check_places"):
                blind.setattr(f"harvester.eventlog.{module}.{name}", lambda *_: "", raising=False)
        blind.setattr("harvester.eventlog.rewrite._times", lambda _: (int(times.min()), int(times.max())))
        blind.setattr(Batch, "first_seq", 1)
        blind.setattr(Batch, "last_seq", 60)
        blind.setattr("harvester.eventlog.run.RunLog.joined", lambda self, tables, first, last: Batch(tables))
        compression = storage if storage in ("lz4", "zstd") else None
        with LogWriter.open(home.on(DATE), compression=compression) as writer:
            writer.commit(_tampered(good, how))
        _store(home, storage)
    day = harvester.open_day(DATE, home, check=check)
    with pytest.raises(DamagedLog) as caught:
        list(fold_batches(day, {Kind.DEPTH: ("epoch",)}, 10))
    assert caught.value.good == ()
    with pytest.raises(DamagedLog):
        list(harvester.open_day(DATE, home).batches())


def _messages_of(rows: pa.RecordBatch, sizes: list[int], compression=None) -> tuple[list[Part], bytes]:
    """Rows as the file of a run with commits of these sizes, and its parts."""
    parts, data, at = [], b"", 0
    for size in sizes:
        piece = rows.slice(at, size)
        body = encode(piece, compression) if data else HEADERS[Kind.TICK] + encode(piece, compression)
        parts.append(Part(Kind.TICK, len(data), len(body), piece.num_rows, checksum(body)))
        data, at = data + body, at + size
    return parts, data


@given(
    seed=st.integers(0, 99),
    sizes=st.lists(st.integers(1, 80), min_size=1, max_size=12),
    keep=st.sets(st.integers(2, len(SCHEMAS[Kind.TICK]) - 1)),
    large=st.booleans(),
    skip=st.integers(0, 3),
)
@settings(max_examples=budget(20, 60), deadline=None)
def test_messages_read_by_their_layout_are_those_arrow_reads(seed, sizes, keep, large, skip):
    """Any rows in any commits, from any commit on, are equal to those of Arrow's reader: nulls, texts, bits, NaN."""
    rows = batch(sum(sizes), 1, seed, kinds=(Kind.TICK,)).tables[Kind.TICK]
    parts, data = _messages_of(rows, sizes)
    whole = pa.ipc.open_stream(data).read_all()
    skip = min(skip, len(sizes) - 1)
    columns_kept, begin = [0, 1, *sorted(keep)], sum(sizes[:skip])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(batch_messages, "_SLICED_ROWS", 1 if large else 10**6)
        patched.setattr("harvester.eventlog.storage.checked_reads.decode", None)  # it must not come to that
        some = parts[skip:]
        got = rows_of(Kind.TICK, pa.py_buffer(data), [part.offset for part in some], some, columns_kept)
    got.validate(full=True)
    assert str(got.to_pylist()) == str(whole.slice(begin).select(columns_kept).to_pylist())
    assert [column.null_count for column in got.columns] == [
        column.null_count for column in whole.slice(begin).select(columns_kept).columns
    ]


def test_messages_of_another_make_are_left_to_arrow(monkeypatch):
    """Compressed messages, and messages with their own metadata, give the same rows, through Arrow's reader."""
    rows = batch(90, 1, kinds=(Kind.TICK,)).tables[Kind.TICK]
    parts, data = _messages_of(rows, [30, 30, 30], "lz4")
    strange = rows.serialize().to_pybytes()
    with pa.BufferOutputStream() as sink:
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_batch(rows, custom_metadata={"made": "elsewhere"})
        strange = sink.getvalue().to_pybytes()[len(HEADERS[Kind.TICK]) : -8]
    for made, body in ((parts, data), ([Part(Kind.TICK, 8, len(strange), 90, "")], strange)):
        starts = [part.offset for part in made] if made is parts else [0]
        assert same(Batch({Kind.TICK: rows_of(Kind.TICK, pa.py_buffer(body), starts, made)}), Batch({Kind.TICK: rows}))


def test_any_byte_of_a_message_may_be_hostile():
    """Any byte of small messages altered: ValueError, or rows that pass Arrow's full validation; never a crash."""
    rows = batch(24, 1, kinds=(Kind.TICK,)).tables[Kind.TICK]
    parts, good = _messages_of(rows, [8, 8, 8])
    rng = random.Random(4)
    outcomes = set()
    for at in rng.sample(range(len(good)), 1500):
        body = bytearray(good)
        body[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        for some in (parts, parts[1:], parts[2:]):
            try:
                got = rows_of(Kind.TICK, pa.py_buffer(bytes(body)), [part.offset for part in some], some)
            except ValueError:
                outcomes.add("refused")
            else:
                got.validate(full=True)
                assert got.num_rows == 8 * len(some)
                outcomes.add("rows")
    assert outcomes == {"refused", "rows"}


def test_rows_that_are_dense_in_number_alone_are_not_in_order():
    """The fast check of the order agrees with the slow one for a few rows of other kinds among many."""
    rng = np.random.default_rng(3)
    for _ in range(300):
        n = 200
        few = np.sort(rng.choice(n, 6, replace=False))
        many = np.setdiff1d(np.arange(n), few)
        seq = {Kind.DEPTH: many + 1, Kind.CLOCK: few[:3] + 1, Kind.TRADE: few[3:] + 1}
        ts = {kind: 10 * at for kind, at in seq.items()}
        spoiled = rng.integers(0, 4)
        kind = rng.choice(list(seq))
        at = rng.integers(0, len(seq[kind]))
        if spoiled == 1:
            seq[kind][at] = rng.integers(0, n + 3)
        elif spoiled == 2:
            ts[kind][at] += rng.integers(-30, 30)
        tables = {
            k: pa.RecordBatch.from_arrays(
                [pa.array(seq[k].astype(np.uint64)), pa.array(ts[k])], names=["seq", "ts_recv"]
            )
            for k in seq
        }
        both = np.concatenate(list(seq.values())), np.concatenate(list(ts.values()))
        order = np.argsort(both[0], kind="stable")
        right = (
            np.array_equal(both[0][order], np.arange(1, n + 1))
            and (np.diff(both[1][order]) >= 0).all()
            and all((np.diff(column) > 0).all() for column in seq.values())
        )
        problem, first, last = order_problem(tables, 1, int(both[1].min()))
        assert (problem == "") == right
        if right:
            assert (first, last) == (both[1].min(), both[1].max())


def test_work_ahead_is_in_order_bounded_and_ends():
    """Results come in order, few wait, an exception is raised at its result, and closing early ends the threads."""
    begun: list[int] = []

    def work(i: int) -> int:
        begun.append(i)
        if i == 40:
            raise ValueError("forty")
        return i * i

    results = prefetch(work, range(1000))
    assert [next(results) for _ in range(10)] == [i * i for i in range(10)]
    assert len(begun) <= 10 + STEPS_AHEAD
    assert [next(results) for _ in range(30)] == [i * i for i in range(10, 40)]
    with pytest.raises(ValueError, match="forty"):
        next(results)
    assert list(prefetch(work, range(3))) == [0, 1, 4]
    half = prefetch(work, range(1000))
    next(half)
    half.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("log")]
    assert list(prefetch(work, [])) == []


def test_a_fold_left_half_way_ends_its_threads(home):
    """A reader that stops early leaves no thread behind."""
    write_run(home, tuple([30] * 40), compression="lz4")
    reading = fold_batches(harvester.open_day(DATE, home), WANTED, 30)
    next(reading)
    reading.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("log")]
