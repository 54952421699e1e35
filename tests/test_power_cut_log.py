"""Power fails after every operation of the log: what was reported durable is there, verifies, and is gone on with."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_samples import DATE, START_NS, batch, write_run
from power_cut import Killed, PowerCut, Tree, write

import harvester
from harvester.errors import DamagedLog, NoLog
from harvester.eventlog.closed import Closed, read_closed, write_closed
from harvester.eventlog.compact import compact_day
from harvester.eventlog.days import run_folders
from harvester.eventlog.format import DELETION, JOURNAL, MANIFEST, names_of
from harvester.eventlog.recover import recover_day, set_aside_day
from harvester.eventlog.verify import verify_day
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.home import Home
from recording import QuickDisk

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
        writer = LogWriter.open(self.home, trading_date, disk=self.disk, margin_bytes=0, **options)
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

    def every_cut(self, folder: Path, first: int = 0, claim: Callable[[Home], None] = lambda _: None) -> int:
        """Prove `survives`, then `claim`, for every tree of every cut from operation `first` on; counts the trees."""
        proven = set[tuple[int, int]]()
        for n in self.disk.cuts()[first:]:
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
        """After a cut the next writer opens every date, goes on with the next seq, and all that was marked is there."""
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
    with LogWriter.open(home, trading_date, disk=QuickDisk(), margin_bytes=0) as writer:
        before = writer.next_seq - 1
        assert before >= max((value for what, value in said if what == "seq"), default=0), f"only {before} are left"
        more = batch(2, writer.next_seq, kinds=FEW, start_ns=max(START_NS, writer.last_ts))
        writer.commit(more)
    report = verify_day(home, trading_date)
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
    """The first commit makes a file per kind: all are there, or none is named."""
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
