"""Power fails after every operation of the log: data reported durable is there, verifies, and can be continued."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_samples import DATE, START_NS, batch, write_run
from power_cut import Killed, PowerCut, Tree, read, write
from recording import QuickDisk

import harvester
from harvester.endofday.remove import removal_list_path, remove
from harvester.errors import DamagedLog, NoLog
from harvester.eventlog.archive import archive
from harvester.eventlog.compact import compact_day
from harvester.eventlog.eod_mark import EodMark, read_closed, write_closed
from harvester.eventlog.recover import recover_day, set_aside_day
from harvester.eventlog.rewrite import prove
from harvester.eventlog.run import RunLog
from harvester.eventlog.runs_of_day import run_folders
from harvester.eventlog.storage.format import JOURNAL, MANIFEST, names_of
from harvester.eventlog.verify_log import verify_day
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.home import Home

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the rules are those of POSIX")

LONG = bool(os.environ.get("HARVESTER_TEST_LONG"))
FEW = (Kind.TRADE, Kind.END, Kind.CLOCK)
NEXT = DATE + timedelta(days=1)
NAMES_MAX = 1000 if LONG else 3
BOOK = {"book": "0" * 32}


@dataclass
class Recorder:
    """A process that records through a disk that loses power, and the events it has handed to its writers.

    Marks are (date, what, value): a seq below which all is durable, a run that has ended, a line of live digests.
    """

    home: Home
    disk: PowerCut
    given: dict[date, dict[int, str]] = field(default_factory=dict)

    @classmethod
    def at(cls, root: Path) -> Recorder:
        home = Home(root)
        root.mkdir(exist_ok=True)
        return cls(home, PowerCut(root, [home.temp / "locks"]))

    def knows(self, trading_date: date, events: Batch) -> None:
        self.given.setdefault(trading_date, {}).update(shown(events))

    def open(self, trading_date: date = DATE, **options: Any) -> LogWriter:
        writer = LogWriter.open(self.home.on(trading_date), disk=self.disk, margin_bytes=0, **options)
        self.disk.mark((trading_date, "seq", writer.next_seq - 1))  # the day so far is folded: it must not shrink
        return writer

    def commit(self, writer: LogWriter, n: int, kinds: tuple[Kind, ...] = FEW) -> None:
        trading_date = date.fromisoformat(writer.folder.parent.name)
        start = max(START_NS, writer.last_ts)
        events = batch(n, writer.next_seq, writer.next_seq, kinds=kinds, start_ns=start)
        self.knows(trading_date, events)
        done = writer.commit(events)
        self.disk.mark((trading_date, "seq", done.last_seq))

    def digests(self, writer: LogWriter) -> None:
        writer.live_digests(writer.next_seq - 1, BOOK)
        trading_date = date.fromisoformat(writer.folder.parent.name)
        self.disk.mark((trading_date, "digests", (writer.run_id, writer.next_seq - 1, BOOK)))

    def close(self, writer: LogWriter) -> None:
        writer.close()
        self.disk.mark((date.fromisoformat(writer.folder.parent.name), "ended", writer.run_id))

    def every_cut(
        self, folder: Path, cuts: Iterable[int] | None = None, claim: Callable[[Home], None] = lambda _: None
    ) -> int:
        """Assert `claim`, then that all survives, for every tree of every cut or of these; returns their number."""
        proven = set[tuple[int, int]]()
        for n in self.disk.cuts() if cuts is None else cuts:
            for called, tree in self.disk.trees(n, NAMES_MAX):
                key = hash(tuple(tree.items())), len(self.disk.marks(n))
                if key not in proven:
                    proven.add(key)
                    self.survives(called, tree, self.disk.marks(n), folder, claim)
        return len(proven)

    def survives(
        self,
        called: str,
        tree: Tree,
        marks: list[tuple[date, str, Any]],
        folder: Path,
        claim: Callable[[Home], None] = lambda _: None,
    ) -> None:
        """After a cut the next writer opens every date, continues with the next seq, and everything marked is there."""
        write(tree, folder)
        home = Home(folder)
        try:
            claim(home)
            for trading_date, given in self.given.items():
                said = [(what, value) for at, what, value in marks if at == trading_date]
                _goes_on(home, trading_date, given, said)
        except Exception as error:
            raise AssertionError(f"{called}: {error!r}") from error


def _goes_on(home: Home, trading_date: date, given: dict[int, str], said: list[tuple[str, Any]]) -> None:
    with LogWriter.open(home.on(trading_date), disk=QuickDisk(), margin_bytes=0) as writer:
        before = writer.next_seq - 1
        assert before >= max((value for what, value in said if what == "seq"), default=0), f"only {before} are left"
        more = batch(2, writer.next_seq, kinds=FEW, start_ns=max(START_NS, writer.last_ts))
        writer.commit(more)
    report = verify_day(home.on(trading_date))
    assert report.clean, report.problems
    day = harvester.open_day(trading_date, home)
    assert {seq: text for one in day.batches() for seq, text in shown(one).items()} == {
        **{seq: given[seq] for seq in range(1, before + 1)},
        **shown(more),
    }
    status = {run.run: run.status for run in day.runs}
    assert all(status[value] in ("ended", "compacted") for what, value in said if what == "ended"), status
    digests = day.live_digests()
    assert all(value in digests for what, value in said if what == "digests"), digests


def shown(events: Batch) -> dict[int, str]:
    return {row["seq"]: str((kind, row)) for kind, row in events.events()}


@pytest.fixture
def medium(tmp_path) -> Iterator[Path]:
    """A folder for what a cut leaves behind: in memory where there is such a thing, as each test writes thousands."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path / "medium"
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder) / "medium"


@pytest.fixture
def recorder(medium) -> Recorder:
    return Recorder.at(medium.with_name("home"))


def test_the_first_commit_of_every_kind(recorder, medium):
    """The first commit creates a file per kind: all of them exist, or the journal names none."""
    writer = recorder.open()
    recorder.commit(writer, 40, tuple(Kind))
    recorder.close(writer)
    assert len(harvester.open_day(DATE, recorder.home).batches().__next__().tables) == len(Kind)
    assert recorder.every_cut(medium) > 100


def test_recording(recorder, medium):
    """Run begin, commits, live digests, run end, the next run, roll-over to a new date; a journal line of two pages."""
    writer = recorder.open()
    recorder.commit(writer, 5)
    recorder.digests(writer)
    recorder.commit(writer, 4, (Kind.TRADE, Kind.RAW))
    recorder.commit(writer, 70, (Kind.CLOCK,))
    recorder.commit(writer, 3, (Kind.TRADE,))
    recorder.digests(writer)
    recorder.close(writer)
    writer = recorder.open()
    recorder.commit(writer, 3)
    recorder.close(writer)
    writer = recorder.open(NEXT)
    recorder.commit(writer, 5)
    recorder.close(writer)
    assert recorder.every_cut(medium) > 100


def test_a_line_with_other_zeros_is_damage(recorder):
    """Only holes as a power cut leaves them make the last line torn: one zero elsewhere is damage, and so in an end."""
    writer = recorder.open()
    recorder.commit(writer, 70, (Kind.CLOCK,))
    writer.abandon()
    path = recorder.home.on(DATE).log / "r001" / JOURNAL
    whole = path.read_bytes()
    assert len(whole) > 2 * 512
    path.write_bytes(whole[:100] + b"\0" + whole[101:])
    with pytest.raises(DamagedLog):
        recorder.open()
    hole = whole[:512] + bytes(512) + whole[1024:]
    path.write_bytes(hole)
    recorder.open().close()
    assert (recorder.home.on(DATE).log / "quarantine" / f"r001.{JOURNAL}.at0").read_bytes() == hole
    writer = recorder.open()
    recorder.commit(writer, 70, (Kind.CLOCK,))
    writer.close()
    path = writer.folder / JOURNAL
    path.write_bytes(path.read_bytes()[:512] + bytes(512) + path.read_bytes()[1024:])
    with pytest.raises(DamagedLog):
        recorder.open()


def _record_twice(recorder: Recorder) -> None:
    writer = recorder.open()
    recorder.commit(writer, 4)
    recorder.digests(writer)
    recorder.commit(writer, 3, (Kind.TRADE, Kind.RAW))
    recorder.close(writer)


def _operations(medium: Path, work: Callable[[Recorder], None]) -> int:
    recorder = Recorder.at(medium.with_name("counted"))
    work(recorder)
    return recorder.disk.operations


def test_a_killed_process_and_then_a_power_cut(medium):
    """A writer is killed at any operation, the next one continues its log, then power fails: nothing reported is lost.

    The next process folded and continued what it found in the cache, so that must be durable too.
    """
    proven = 0
    for at in range(1, _operations(medium, _record_twice) + 1):
        recorder = Recorder.at(medium.with_name(f"home{at}"))
        recorder.disk.dies_at(at)
        with pytest.raises(Killed):
            _record_twice(recorder)
        recorder.disk.restart()
        writer = recorder.open()
        since = recorder.disk.operations
        recorder.commit(writer, 2)
        recorder.close(writer)
        cuts = recorder.disk.cuts()
        proven += recorder.every_cut(medium, cuts[at - 1 :] if LONG else cuts[since + at % 10 :: 10])
    assert proven > 100


def _torn(medium: Path) -> Recorder:
    """A run that was killed with torn bytes in its journal, in its digests, in a file and in one nobody has named."""
    recorder = Recorder.at(medium.with_name("torn"))
    writer = LogWriter.open(recorder.home.on(DATE), disk=QuickDisk())
    events = batch(6, kinds=FEW)
    recorder.knows(DATE, events)
    writer.commit(events)
    writer.live_digests(6, BOOK)
    writer.abandon()
    for name in (JOURNAL, "live_digests.jsonl", "trade.arrows", "raw.arrows"):
        with (writer.folder / name).open("ab") as file:
            file.write(b"torn " + name.encode() * 99)
    (writer.folder.parent / ".r002.new").mkdir()
    (writer.folder.parent / ".r002.new" / JOURNAL).write_bytes(b"torn r002")
    return recorder


def _torn_bytes(tree: Tree) -> set[bytes]:
    found = (data[data.find(b"torn ") :] for data in tree.values() if data and b"torn " in data)
    return set(found)


def test_recovery(medium):
    """Power fails at any operation of a recovery, and at any of the one that follows: torn bytes are never lost."""
    recorder = _torn(medium)
    home, before = recorder.home, read(recorder.home.root)
    torn = _torn_bytes(before)
    assert len(torn) == 5
    recorder.disk = PowerCut(home.root, [home.temp / "locks"])
    recorder.disk.mark((DATE, "seq", 6))
    recorder.disk.mark((DATE, "digests", ("r001", 6, BOOK)))
    recover_day(home.on(DATE), recorder.disk)
    recorder.disk.mark((DATE, "recovered", ""))

    def kept(cut: Home) -> None:
        assert torn <= _torn_bytes(read(cut.root))

    assert recorder.every_cut(medium, claim=kept) > 20
    for n in recorder.disk.cuts()[:: 1 if LONG else 5]:
        called, tree = recorder.disk.chosen(n, n)
        again = medium.with_name("again")
        write(tree, again)
        second = Recorder(Home(again), PowerCut(again, [again / "temp" / "locks"]), recorder.given)
        second.disk.mark((DATE, "seq", 6))
        second.close(second.open())
        assert second.every_cut(medium, second.disk.cuts()[:: 1 if LONG else 3], claim=kept) > 1, called


def _compacted(home: Home, identity: str) -> None:
    """The date has the same events; compacting again leaves only the new files."""
    recover_day(home.on(DATE))
    assert harvester.open_day(DATE, home).identity() == identity
    compact_day(home.on(DATE), QuickDisk())
    assert harvester.open_day(DATE, home).identity() == identity
    for run in run_folders(home.on(DATE)):
        assert {path.name for path in run.iterdir()} <= {MANIFEST, *names_of("compacted")}


def test_compaction(recorder, medium):
    """Power fails at any operation of a compaction: each run is whole, old or new, and compacting again finishes it."""
    recorder.knows(DATE, write_run(recorder.home, (3, 2, 4), kinds=FEW))
    recorder.knows(DATE, write_run(recorder.home, (1,), kinds=(Kind.RAW,), seed=2))
    identity = harvester.open_day(DATE, recorder.home).identity()
    recorder.disk = PowerCut(recorder.home.root, [recorder.home.temp / "locks"])
    recorder.disk.mark((DATE, "seq", 10))
    recorder.disk.mark((DATE, "digests", ("r001", 5, {"book": f"{1:032x}", "quotes": "0" * 32})))
    compact_day(recorder.home.on(DATE), recorder.disk)
    assert recorder.every_cut(medium, claim=lambda home: _compacted(home, identity)) > 50


@pytest.mark.timeout(1800)  # every state at full size takes longer than five minutes on a busy machine
def test_compaction_stopped_and_finished(medium):
    """A compaction is killed at any operation, the next one finishes, then power fails: the runs are whole."""
    first = Recorder.at(medium.with_name("first"))
    first.knows(DATE, write_run(first.home, (3, 2), kinds=FEW))
    identity = harvester.open_day(DATE, first.home).identity()
    tree = read(first.home.root)

    def begin(root: Path) -> Recorder:
        write(tree, root)
        made = Recorder(Home(root), PowerCut(root, [root / "temp" / "locks"]), first.given)
        made.disk.mark((DATE, "seq", 5))
        return made

    counted = begin(medium.with_name("counted"))
    compact_day(counted.home.on(DATE), counted.disk)
    renamed = {at for at in counted.disk.cuts()[1:] if " rename " in counted.disk.last(at)}
    for at in sorted({*range(1, counted.disk.operations + 1, 1 if LONG else 9), *(at + 1 for at in renamed)}):
        recorder = begin(medium.with_name("home"))
        recorder.disk.dies_at(at)
        with pytest.raises(Killed):
            compact_day(recorder.home.on(DATE), recorder.disk)
        recorder.disk.restart()
        since = recorder.disk.operations
        compact_day(recorder.home.on(DATE), recorder.disk)
        cuts = recorder.disk.cuts()[since:] if LONG else recorder.disk.cuts()[since + 2 :: 5]
        assert recorder.every_cut(medium, cuts, lambda home: _compacted(home, identity)) > 0


def test_setting_aside(recorder, medium):
    """Power fails at any operation of setting aside: the damaged run is kept, doing it again opens the date."""
    for seed in (1, 2, 3):
        write_run(recorder.home, (4,), kinds=FEW, seed=seed)
    path = recorder.home.on(DATE).log / "r002" / JOURNAL
    path.write_bytes(b"torn " + path.read_bytes())
    shutil.rmtree(recorder.home.on(DATE).log / "r003")
    damaged = {data for name, data in read(recorder.home.root).items() if "/r002/" in name}
    disk = recorder.disk = PowerCut(recorder.home.root, [recorder.home.temp / "locks"])
    notes = set_aside_day(recorder.home.on(DATE), disk)
    disk.mark("set aside")
    assert [note.run for note in notes] == ["r002"]
    for n in disk.cuts():
        for called, tree in disk.trees(n, NAMES_MAX):
            write(tree, medium)
            home = Home(medium)
            assert damaged <= set(tree.values()), called
            if "set aside" not in disk.marks(n):
                set_aside_day(home.on(DATE), QuickDisk())
            with LogWriter.open(home.on(DATE), disk=QuickDisk()) as writer:
                assert (writer.run_id, writer.next_seq) == ("r003", 9), called
                writer.commit(batch(2, 9, kinds=FEW, start_ns=max(START_NS, writer.last_ts)))
            report = verify_day(home.on(DATE))
            assert [(one.first_seq, one.last_seq, one.set_aside) for one in report.problems] == [(5, 8, True)], called
            assert report.rows == 6, called


def test_archiving(recorder, medium):
    """An archived run is whole after any cut that leaves its folder; with all runs archived the log is not needed."""
    write_run(recorder.home, (3, 2), kinds=FEW)
    write_run(recorder.home, (2,), kinds=(Kind.RAW,), seed=2)
    identity = harvester.open_day(DATE, recorder.home).identity()
    runs = [RunLog(run) for run in run_folders(recorder.home.on(DATE))]
    for run in runs:
        run.refresh()
    disk = recorder.disk = PowerCut(recorder.home.root, [recorder.home.temp / "locks"])
    archive(recorder.home.on(DATE), disk)
    disk.mark("archived")
    proven = set[int]()
    for n in disk.cuts():
        for called, tree in disk.trees(n, NAMES_MAX):
            if (key := hash((len(disk.marks(n)), *tree.items()))) in proven:
                continue
            proven.add(key)
            write(tree, medium)
            home = Home(medium)
            for run in runs:
                if (archived := home.on(DATE).archive / run.run).exists():
                    prove(run, RunLog(archived))
            if disk.marks(n):
                shutil.rmtree(home.on(DATE).log)
                report = verify_day(home.on(DATE))
                assert (report.identity, report.problems) == (identity, []), called
    assert len(proven) > 30


def test_the_mark_of_a_closed_date(medium):
    """After `write_closed` returned, the date is closed after any cut; before, it is whole, and open or closed.

    The same holds when a process was killed while it closed the date, with its folders only in the cache.
    """
    closed = EodMark(DATE.isoformat(), 7, "0", START_NS)
    for at in range(1, 20):
        recorder = Recorder.at(medium.with_name(f"home{at}"))
        disk = recorder.disk
        disk.dies_at(at)
        with suppress(Killed):
            write_closed(recorder.home, closed, DATE, disk)
        disk.restart()
        write_closed(recorder.home, closed, DATE, disk)
        disk.mark("closed")
        for n in disk.cuts():
            for called, tree in disk.trees(n):
                write(tree, medium)
                allowed = [closed] if disk.marks(n) else [closed, None]
                assert read_closed(Home(medium).on(DATE)) in allowed, called


def test_removing_a_date(medium):
    """After a cut at any point of a removal the next one finishes it; once it has returned, nothing comes back."""
    home = Home(medium.with_name("home")).prepare()
    with LogWriter.open(home.on(DATE), disk=QuickDisk(), margin_bytes=0) as writer:
        writer.commit(batch(6, 1, kinds=(Kind.CLOCK, Kind.NOTICE)))
    disk = PowerCut(home.root)
    remove(home.on(DATE), disk=disk)
    disk.mark("removed")
    seen = set()
    for n in disk.cuts():
        for called, tree in disk.trees(n, NAMES_MAX):
            write(tree, medium)
            left = Home(medium).on(DATE)
            if left.log.exists() or removal_list_path(left).exists():
                assert not disk.marks(n), called
                seen.add(removal_list_path(left).exists())
                try:
                    remove(left, disk=QuickDisk())
                except Exception as error:
                    raise AssertionError(f"{called}: {error!r}") from error
            assert not left.log.exists(), called
            assert not removal_list_path(left).exists(), called
    assert seen == {False, True}


def test_removing_a_date_goes_on_from_a_durable_list(medium):
    """A removal is killed at any operation, the next one finishes, then power fails: a third finishes what is left."""
    first = Home(medium.with_name("first")).prepare()
    with LogWriter.open(first.on(DATE), disk=QuickDisk(), margin_bytes=0) as writer:
        writer.commit(batch(6, 1, kinds=(Kind.CLOCK,)))
    tree = read(first.root)

    def begin() -> tuple[Home, PowerCut]:
        home = Home(medium.with_name("home"))
        write(tree, home.root)
        return home, PowerCut(home.root, [home.temp / "locks"])

    home, counted = begin()
    remove(home.on(DATE), disk=counted)
    for at in range(1, counted.operations + 1):
        home, disk = begin()
        disk.dies_at(at)
        with pytest.raises(Killed):
            remove(home.on(DATE), disk=disk)
        disk.restart()
        since = disk.operations
        with suppress(NoLog):  # killed before the last sync, when nothing was left
            remove(home.on(DATE), disk=disk)
        for n in disk.cuts()[since:]:
            for called, left in disk.trees(n, NAMES_MAX if LONG else 1):
                write(left, medium)
                paths = Home(medium).on(DATE)
                try:
                    if paths.log.exists():
                        remove(paths, disk=QuickDisk())
                except Exception as error:
                    raise AssertionError(f"{called}: {error!r}") from error
                assert not paths.log.exists(), called


def test_folders_left_by_a_dead_process(medium):
    """Folders that a killed process made are durable once the next has made sure of them, and written below them."""
    for at in range(1, 9):
        recorder = Recorder.at(medium.with_name(f"home{at}"))
        disk, folder = recorder.disk, recorder.home.root / "a" / "b" / "c"
        disk.dies_at(at)
        with suppress(Killed):
            disk.make_folders(folder)
        disk.restart()
        disk.make_folders(folder)
        disk.write_atomic(folder / "file", b"x")
        for called, tree in disk.trees(disk.operations):
            assert tree == {"a": None, "a/b": None, "a/b/c": None, "a/b/c/file": b"x"}, called


def _act(recorder: Recorder, writer: LogWriter | None, what: int, size: int) -> LogWriter | None:
    if writer is None:
        if what == 0 and recorder.given.get(DATE):
            compact_day(recorder.home.on(DATE), recorder.disk)
            return None
        return recorder.open()
    if what == 0:
        recorder.close(writer)
        return None
    if what == 1 and writer.next_seq > 1:
        recorder.digests(writer)
    else:
        recorder.commit(writer, size, FEW[: what % 3 + 1])
    return writer


@settings(max_examples=400 if LONG else 25, derandomize=True, database=None)
@given(
    acts=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 90)), min_size=3, max_size=12),
    kills=st.lists(st.integers(1, 150), max_size=2),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 2**32)), min_size=3, max_size=6),
)
def test_any_day(acts, kills, cuts):
    """For random actions of a recorder, kills and power cuts, nothing reported durable is lost."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        recorder = Recorder.at(Path(folder) / "home")
        writer, left = None, sorted(kills)
        for what, size in acts:
            if left:
                recorder.disk.dies_at(left[0])
            try:
                writer = _act(recorder, writer, what, size)
            except Killed:
                if writer is not None:
                    writer.abandon()
                writer, left = None, left[1:]
                recorder.disk.restart()
        if writer is not None:
            writer.abandon()
        for share, seed in cuts:
            n = round(share * recorder.disk.operations)
            called, tree = recorder.disk.chosen(n, seed)
            recorder.survives(called, tree, recorder.disk.marks(n), Path(folder) / "medium")
