from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_samples import DATE, START_NS, batch, events, same, write_run

import harvester
from harvester.errors import BadSetting, DamagedLog, DateClosed, HarvesterError, LockHeld, NoLog
from harvester.eventlog.eod_mark import ClosedRun, EodMark, read_closed, write_closed
from harvester.eventlog.follow import Follower
from harvester.eventlog.lock import DateLock
from harvester.eventlog.verify_log import verify_day
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.kinds import SCHEMAS, Kind
from harvester.home import Home
from tests.budget import budget


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_what_is_written_is_read(home, compression):
    """Every column of every kind reads back as written, through batches, tables and frames."""
    whole = write_run(home, (1, 40, 200, 7, 3), compression=compression)
    day = harvester.open_day(DATE, home)
    assert same(Batch.concat(list(day.batches())), whole)
    assert (day.first_seq, day.last_seq, day.rows, day.complete) == (1, 251, 251, True)
    for kind in Kind:
        rows = whole.tables[kind]
        assert day.table(kind).schema.equals(SCHEMAS[kind])
        assert str(day.table(kind).to_pylist()) == str(rows.to_pylist())
        assert day.frame(kind.value).height == rows.num_rows
    assert [(run, seq) for run, seq, _ in day.live_digests()] == [("r001", 41), ("r001", 248)]
    assert verify_day(home.on(DATE)).clean


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    other=st.lists(st.integers(1, 60), min_size=1, max_size=8),
)
@settings(max_examples=budget(6, 15), deadline=None)
def test_content_hash_is_the_same_for_any_commit_interval(tmp_path_factory, sizes, other):
    """The same events in other commits, compressed or not, have the same identity."""
    n = max(sum(sizes), sum(other))
    sizes, other = [*sizes, n - sum(sizes)], [*other, n - sum(other)]
    identities = set()
    for cut, compression in ((sizes, None), (other, "lz4")):
        home = Home(tmp_path_factory.mktemp("home"))
        write_run(home, tuple(size for size in cut if size), compression=compression)
        identities.add(harvester.open_day(DATE, home).identity())
    assert len(identities) == 1


def test_batches_are_cut_as_asked(tmp_path_factory):
    """Any rows_max, cuts, first and last seq give the same events; every cut ends a batch; no batch crosses a run."""
    home = Home(tmp_path_factory.mktemp("home"))
    parts = [write_run(home, (30, 1, 60, 9), seed=1), write_run(home, (50, 25), seed=2)]
    day = harvester.open_day(DATE, home)

    @given(
        rows_max=st.none() | st.integers(1, 200),
        cuts=st.lists(st.integers(-5, 400), max_size=6),
        from_seq=st.integers(-1, 180),
        to_seq=st.none() | st.integers(0, 180),
    )
    @settings(max_examples=budget(25, 80), deadline=None)
    def check(rows_max, cuts, from_seq, to_seq):
        got = list(day.batches(rows_max=rows_max, cuts=cuts, from_seq=from_seq, to_seq=to_seq))
        for one in got:
            one.check()
            assert len(one) <= (rows_max or 10**9)
            assert not (one.first_seq <= 100 < one.last_seq)
            assert not any(one.first_seq <= cut < one.last_seq for cut in cuts)
        for run, whole in enumerate(parts):
            wanted = whole.slice(from_seq, whole.last_seq if to_seq is None else to_seq)
            mine = [one for one in got if (one.first_seq > 100) == bool(run)]
            if mine:
                assert same(Batch.concat(mine), wanted)
            assert sum(map(len, mine)) == len(wanted)
        if rows_max and not cuts and from_seq <= 1 and to_seq is None:
            assert [len(one) for one in got if len(one) != rows_max] == [
                n for n in (100 % rows_max, 75 % rows_max) if n
            ]

    check()


def test_windows_join_without_a_seam(home, monkeypatch):
    """Reading in small windows gives the same batches as reading in one."""
    write_run(home, tuple([7] * 40))
    whole = [
        [str(t.to_pylist()) for t in one.tables.values()] for one in harvester.open_day(DATE, home).batches(rows_max=33)
    ]
    monkeypatch.setattr("harvester.eventlog.reader.WINDOW_ROWS", 10)
    day = harvester.open_day(DATE, home)
    assert [[str(t.to_pylist()) for t in one.tables.values()] for one in day.batches(rows_max=33)] == whole
    assert day.table(Kind.TICK).num_rows == sum(one.tables[Kind.TICK].num_rows for one in day.batches(rows_max=1000))


def test_polars_reads_a_live_stream_file(home):
    """A kind's file is a plain Arrow IPC stream, readable during the run and after it was killed."""
    writer = LogWriter.open(home.on(DATE))
    for i in range(3):
        writer.commit(batch(30, writer.next_seq, i, kinds=(Kind.TRADE,), start_ns=START_NS + i * 10**9))
    path = writer.folder / "trade.arrows"
    assert pl.read_ipc_stream(path).height == 90
    writer.abandon()
    LogWriter.open(home.on(DATE)).close()
    assert pl.read_ipc_stream(path)["seq"].to_list() == list(range(1, 91))


def test_runs_number_on(home):
    """The next run continues from the last seq in its own folder, and the day's identity covers both in order."""
    first = write_run(home, (10,))
    one = harvester.open_day(DATE, home).identity()
    with LogWriter.open(home.on(DATE)) as empty:
        assert (empty.run_id, empty.next_seq) == ("r002", 11)
    assert harvester.open_day(DATE, home).identity() == one
    second = write_run(home, (5,), seed=9)
    day = harvester.open_day(DATE, home)
    assert [(run.run, run.first_seq, run.last_seq, run.rows) for run in day.runs] == [
        ("r001", 1, 10, 10),
        ("r002", 11, 10, 0),
        ("r003", 11, 15, 5),
    ]
    assert day.identity() != one
    assert same(Batch.concat(list(day.batches())), Batch.concat([first, second]))


def test_begin_writes_the_run_start(home):
    """`begin` commits the run's first event with its parameters, never stamped before the date's last event."""
    with LogWriter.open(home.on(DATE), run_start_row={"params": '{"a":1}'}) as writer:
        started = writer.begin(START_NS)
        assert [row["params"] for _, row in started.events()] == ['{"a":1}']
        with pytest.raises(HarvesterError, match="begun already"):
            writer.begin(START_NS)
    with LogWriter.open(home.on(DATE), run_start_row={"params": '{"a":2}'}) as writer:
        # the wall clock was set back by an hour between the runs
        assert writer.last_ts == START_NS
        assert writer.begin(START_NS - 3600 * 10**9).last_seq == 2
    rows = [row for one in harvester.open_day(DATE, home).batches() for _, row in one.events()]
    assert [(r["action"], r["stream"], r["ts_recv"]) for r in rows] == [("run_start", "run", START_NS)] * 2
    digests = {run.config_digest for run in harvester.open_day(DATE, home).runs}
    assert len(digests) == 2
    assert verify_day(home.on(DATE)).clean


def test_a_batch_that_does_not_follow_is_refused(home):
    """A hole, a repeat, decreasing time, or a null in a required column is refused by name, and the run continues."""
    with LogWriter.open(home.on(DATE)) as writer:
        writer.commit(batch(5))
        good = batch(3, 6, kinds=(Kind.TRADE,), start_ns=START_NS + 10**9)
        nulled = good.tables[Kind.TRADE].to_pylist()
        nulled[1]["con_id"] = None
        import pyarrow as pa

        bad = {
            "seq does not increase within": batch(3, 7, start_ns=START_NS + 10**9),
            "seq does not increase": batch(3, 5, start_ns=START_NS + 10**9),
            "ts_recv decreases": batch(3, 6, start_ns=START_NS - 10**9),
            "a null in": Batch({Kind.TRADE: pa.RecordBatch.from_pylist(nulled, SCHEMAS[Kind.TRADE])}),
            "columns": Batch({Kind.QUOTE: good.tables[Kind.TRADE]}),
            "without rows": Batch(
                {Kind.TRADE: good.tables[Kind.TRADE].slice(0, 0), Kind.TICK: good.tables[Kind.TRADE]}
            ),
        }
        for message, refused in bad.items():
            with pytest.raises(HarvesterError, match=message):
                writer.commit(refused)
        assert writer.commit(Batch()).rows == 0
        assert writer.commit(good).last_seq == 8
        with pytest.raises(HarvesterError, match="last committed is 8"):
            writer.live_digests(9, {})
    with pytest.raises(HarvesterError, match="closed"):
        writer.commit(batch(1, 9))
    assert harvester.open_day(DATE, home).rows == 8


def test_a_second_writer_is_told_who_holds_the_date(home):
    """Two recorders on one date: the second gets LockHeld naming process, host, since when; another date is free."""
    with LogWriter.open(home.on(DATE), now_ns=lambda: START_NS) as writer:
        with pytest.raises(LockHeld, match=rf"process {os.getpid()} on \S+ \(record\) since 2025-07-17T13:00:00Z"):
            LogWriter.open(home.on(DATE))
        assert DateLock(home.on(DATE)).held_by().pid == os.getpid()
        code = """
import sys
from datetime import date
from pathlib import Path
from harvester.eventlog.writer import LogWriter
from harvester.home import Home
LogWriter.open(Home(Path(sys.argv[1])).on(date(2025, 7, 17)))
"""
        command = [sys.executable, "-c", code, str(home.root)]
        project = Path(harvester.__file__).parent.parent
        other = subprocess.run(command, capture_output=True, text=True, cwd=project, check=False)
        assert f"LockHeld: 2025-07-17 is held by process {os.getpid()}" in other.stderr
        with LogWriter.open(home.on(DATE.replace(day=18))) as neighbour:
            assert neighbour.next_seq == 1
        assert writer.commit(batch(2)).last_seq == 2
    assert DateLock(home.on(DATE)).held_by() is None


def test_a_note_of_a_dead_process_stops_nobody(home):
    """The lock of the operating system decides, not the note that a killed holder left."""
    note = home.on(DATE).lock.with_suffix(".holder.json")
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"pid": 1, "host": "elsewhere", "purpose": "record", "since": 0}))
    with LogWriter.open(home.on(DATE)):
        assert DateLock(home.on(DATE)).holder().pid == os.getpid()
    note.write_bytes(b"\xff garbage")
    with LogWriter.open(home.on(DATE)) as writer:
        assert writer.run_id == "r002"


def test_a_closed_date_needs_reopen_and_goes_on(home):
    """A date with closed.json is refused; with reopen a new run continues the numbering, even without the old log."""
    write_run(home, (10, 10))
    day = harvester.open_day(DATE, home)
    before = day.identity()
    runs = [ClosedRun(run.run, run.last_seq, run.content_hash, deleted=True) for run in day.runs]
    write_closed(home, EodMark(DATE.isoformat(), day.last_seq, before, day.last_ts, runs), DATE)
    with pytest.raises(DateClosed, match=r"seq 20.*--reopen"):
        LogWriter.open(home.on(DATE))
    import shutil

    shutil.rmtree(home.on(DATE).log)
    with LogWriter.open(home.on(DATE), reopen=True) as writer:
        assert (writer.next_seq, writer.run_id, writer.last_ts) == (21, "r002", day.last_ts)
        writer.commit(batch(5, 21, 3, start_ns=writer.last_ts))
    again = harvester.open_day(DATE, home)
    assert (again.first_seq, again.last_seq) == (21, 25)
    assert again.identity() != before
    assert verify_day(home.on(DATE)).clean
    (home.on(DATE).dataset / "closed.json").unlink()
    with pytest.raises(DamagedLog, match="begins at seq 21, expected 1"):
        harvester.open_day(DATE, home)


def test_an_unreadable_closed_mark_is_damage(home):
    """An invalid closed.json is reported, not ignored."""
    path = write_closed(home, EodMark(DATE.isoformat(), 3, "0"), DATE)
    assert read_closed(home.on(DATE)).last_seq == 3
    for text in ("{", "[]", '{"trading_date":"2020-01-01","last_seq":1,"content_hash":""}', "[" * 100_000):
        path.write_text(text)
        with pytest.raises(DamagedLog, match=r"closed\.json"):
            LogWriter.open(home.on(DATE))


def test_a_damaged_mark_costs_no_event(home):
    """A damaged closed.json: the error says that events are not affected and what to do; salvage reads them."""
    whole = write_run(home, (5, 5))
    path = write_closed(home, EodMark(DATE.isoformat(), 10, "0"), DATE)
    path.write_text("{")
    with pytest.raises(DamagedLog, match=r"the events are not affected.*move this file away, and `hv eod") as raised:
        harvester.open_day(DATE, home)
    assert "good seq" not in str(raised.value)
    with pytest.raises(DamagedLog, match="move this file away") as raised:
        LogWriter.open(home.on(DATE))
    assert "--set-aside" not in str(raised.value)
    report = verify_day(home.on(DATE))
    assert (report.exit_code, [p.file for p in report.problems], report.good) == (1, [path], ((1, 10),))
    assert "move this file away" in str(report.problems[0])
    day = harvester.open_day(DATE, home, salvage=True)
    assert sum(len(one) for one in day.batches()) == len(whole)
    assert [damage.file for damage in day.damages] == [path]
    path.unlink()
    assert verify_day(home.on(DATE)).clean


def test_archived_runs_are_found(home):
    """Runs moved to memory/archive are read from there, together with later ones in temp/."""
    write_run(home, (10,))
    expected = harvester.open_day(DATE, home).identity()
    home.on(DATE).archive.parent.mkdir(parents=True)
    home.on(DATE).log.rename(home.on(DATE).archive)
    assert harvester.open_day(DATE, home).identity() == expected
    write_run(home, (4,), seed=2)
    day = harvester.open_day(DATE, home)
    assert [run.run for run in day.runs] == ["r001", "r002"]
    assert day.last_seq == 14


def test_a_date_without_a_log_is_named(home):
    """NoLog names the date and the latest recorded dates; an invalid date is a bad setting."""
    with pytest.raises(NoLog, match=r"2025-07-17.*nothing is recorded"):
        harvester.open_day(DATE, home)
    write_run(home, (1,))
    with pytest.raises(NoLog, match="latest recorded dates: 2025-07-17"):
        harvester.open_day("2025-07-18", home.root)
    with pytest.raises(BadSetting):
        harvester.open_day("yesterday", home)
    with pytest.raises(HarvesterError, match="is not an event kind"):
        harvester.open_day(DATE, home).frame("nonsense")


def test_a_live_log_is_read_while_it_is_written(home):
    """Opened at any moment, a log being written shows a whole number of commits; a follower sees each event once."""
    stop, failures, followed = threading.Event(), [], []

    def read() -> None:
        follower = Follower(home.on(DATE))
        try:
            while not stop.is_set():
                day = harvester.open_day(DATE, home)
                assert not day.complete
                assert day.last_seq % 11 == 0
                assert sum(map(len, day.batches())) == day.last_seq
                followed.extend(follower.poll())
        except Exception as error:  # noqa: BLE001 - handed to the test's thread
            failures.append(error)
        followed.extend(follower.poll())

    writer = LogWriter.open(home.on(DATE))
    reader = threading.Thread(target=read)
    reader.start()
    rows = events(11 * 100, seed=4, kinds=(Kind.TRADE, Kind.RAW, Kind.CLOCK))
    for i in range(100):
        writer.commit(Batch.of(rows[i * 11 : i * 11 + 11], writer.next_seq))
        if i % 10 == 9:
            writer.live_digests(writer.next_seq - 1, {"book": str(i)})
    stop.set()
    reader.join()
    writer.close()
    assert not failures
    assert same(Batch.concat(followed), Batch.of(rows, 1))
