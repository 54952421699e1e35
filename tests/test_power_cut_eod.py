"""A power cut at every operation of the end of day, of `hv project` and of the caches.

What lies below a home after a cut is judged by reading it: nobody has to fold the day for that. For a spread of cuts
`hv eod` is run again on what was left, with a second cut in it. `HARVESTER_TEST_LONG=1` runs it for all of them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from power_cut import Killed, PowerCut, Tree, read, write
from test_unfinished_days import EXTENDED
from trading_log import DATE, days, record

from harvester.artefacts import tables
from harvester.errors import HarvesterError, LogWriteFailed, Mismatch
from harvester.eventlog import parquet
from harvester.eventlog.closed import read_closed
from harvester.eventlog.disk import Disk
from harvester.eventlog.reader import open_day
from harvester.eventlog.verify import verify_day
from harvester.home import Home
from harvester.memory import fold
from harvester.recorder.deletion import read_plan
from harvester.recorder.eod import Wishes, eod, plan_path, rebuild_memory
from harvester.recorder.jobs import Task, project_date
from harvester.recorder.project import project
from harvester.recorder.projected import Memo
from harvester.recorder.seek import Seeker

LONG = bool(os.environ.get("HARVESTER_TEST_LONG"))
SECONDS = 130
EARLIER, NEXT = days(2)
Fold = dict[str, Any]
EVERYTHING: Fold = {"parquet": True, "archive": True, "delete_temp": True}
DELETING: Fold = {"delete_temp": True}


def at_rest(tree: Tree) -> Tree:
    """The files of a tree that go by their own name: nothing that is still being written beside, no locks."""
    return {
        name: data
        for name, data in tree.items()
        if data is not None and not any(part.startswith(".") or part == "locks" for part in name.split("/"))
    }


def kept(home: Home) -> Tree:
    """What is below `memory/` now."""
    return {f"memory/{name}": data for name, data in at_rest(read(home.memory)).items()} if home.memory.is_dir() else {}


def copied(base: Home, target: Path) -> Home:
    return Home(shutil.copytree(base.root, target))


def disk_of(home: Home) -> PowerCut:
    return PowerCut(home.root, leave_out=[home.temp / "locks"])


def run_eod(home: Home, trading_date: Any, wishes: Fold, disk: PowerCut) -> None:
    """`hv eod`: where a step begins, what the steps before it wrote is said to be durable."""
    seen: set[str] = set()

    def at(step: str) -> None:
        if step != "lock" and step not in seen:
            seen.add(step)
            disk.mark(kept(home))

    report = eod(home, trading_date, Wishes(disk=disk, at=at, **wishes))
    assert not report.stopped
    disk.mark(kept(home))


@dataclass
class Story:
    """One scenario.

    Attributes:
        base: the home before; everything in it is durable.
        day: the date that is folded.
        wishes: with which `Wishes`.
        end: what an undisturbed run leaves.
    """

    base: Home
    day: Any
    wishes: Fold
    end: Tree

    @classmethod
    def of(cls, base: Home, trading_date: Any, wishes: Fold, folder: Path) -> Story:
        home = copied(base, folder / "end")
        eod(home, trading_date, Wishes(**wishes))
        return cls(base, trading_date, wishes, at_rest(read(home.root)))

    def first(self) -> Tree:
        return at_rest(read(self.base.root))

    def listed(self) -> str:
        return f"memory/datasets/{self.day}/deletion.json"

    def doomed(self) -> list[str]:
        """Folders that are deleted in the end."""
        return [f"temp/{what}/{self.day}/" for what in ("events", "episodes")]


def claim(story: Story, first: Tree, known: list[Tree], there: Tree) -> None:
    """What must be true of what a cut left of a run that began with `first`.

    `known` is what is below `memory/` by the last report before the cut and by every report after it. Of each file there
    is one of these, whole, and none of the last report is lost.
    """
    for name in known[0]:
        assert name in there, f"{name} was reported durable and is lost"
    for name, data in there.items():
        if name.startswith("memory/"):
            assert any(data == content.get(name) for content in known), f"{name} is neither the old nor the new one"
    archived = {name for name in story.end if name.startswith(f"memory/archive/{story.day}/r001/")}
    assert archived <= there.keys() or not archived & there.keys(), "a run is archived in part"
    _claim_deletion(story, first, there)


def _claim_deletion(story: Story, first: Tree, there: Tree) -> None:
    """A log file goes when it is on a list that is on disk, and everything that replaces it is there."""
    gone = {name for name, data in first.items() if name.startswith("temp/") and there.get(name) != data}
    doomed = {name for name in gone if name.startswith(tuple(story.doomed()))}
    assert not gone - doomed, "a file of another date changed"
    if story.listed() in there:
        listed = msgspec.json.decode(there[story.listed()] or b"")
        left = {one["path"] for one in listed["files"]} & there.keys()
        assert not (listed["done"] and left), f"the list calls the deletion done, {left} is there"
        doomed -= {one["path"] for one in listed["files"]}
        if gone:
            for name, data in story.end.items():
                if name.startswith("memory/") and name != story.listed():
                    assert there.get(name) == data, f"{min(gone)} was deleted before {name} was durable"
    assert not doomed, "deleted without a list"


def all_cuts(story: Story, disk: PowerCut, first: Tree, start: int = 0) -> int:
    """Judge every state after every cut from operation `start` on; gives how many."""
    marks = [(0, {n: d for n, d in first.items() if n.startswith("memory/")}), *disk._marks]
    seen: set[tuple[int, int]] = set()
    for n in disk.cuts()[start:]:
        now = max((i for i, (at, _) in enumerate(marks) if at <= n), default=0)
        for called, tree in disk.trees(n):
            there = at_rest(tree)
            key = (now, hash(tuple(there.items())))
            if key not in seen:
                seen.add(key)
                try:
                    claim(story, first, [content for _, content in marks[now:]], there)
                except AssertionError as error:
                    raise AssertionError(f"{called}: {error}") from None
    return len(seen)


def again(story: Story, tree: Tree, folder: Path, *, second_cuts: bool) -> None:
    """`hv eod` once more on what a cut left: it finishes, with the same bytes; with a second cut in it."""
    write(tree, folder)
    home = Home(folder)
    disk = disk_of(home)
    run_eod(home, story.day, story.wishes, disk)
    assert at_rest(read(home.root)) == story.end
    if second_cuts:
        all_cuts(story, disk, at_rest(tree))
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def two_days(tmp_path_factory):
    """Two recorded and projected days, the first of them folded."""
    home = Home(tmp_path_factory.mktemp("two_days")).prepare()
    for n, day in enumerate((EARLIER, NEXT)):
        record(home, day, seconds=SECONDS, seed=n + 1)
        project(home, day)
    eod(home, EARLIER)
    shutil.rmtree(home.exports())
    return home


@pytest.fixture(scope="module")
def whole(two_days, tmp_path_factory):
    """The second day folded with everything: Parquet, archive, deletion."""
    return Story.of(two_days, NEXT, EVERYTHING, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def very_first(two_days, tmp_path_factory):
    """The first fold of a home: there is no `memory/` yet; and no archive, so the log is gone when it is deleted."""
    home = copied(two_days, tmp_path_factory.mktemp("very_first") / "home")
    shutil.rmtree(home.memory)
    return Story.of(home, NEXT, DELETING, tmp_path_factory.mktemp("very_first"))


@pytest.fixture(scope="module")
def reopened(two_days, tmp_path_factory):
    """A date that was folded and deleted, and recorded on."""
    home = copied(two_days, tmp_path_factory.mktemp("reopened") / "home")
    eod(home, NEXT, Wishes(**DELETING))
    record(home, NEXT, seconds=SECONDS, start=4000, seed=3)
    return Story.of(home, NEXT, DELETING, tmp_path_factory.mktemp("reopened"))


STORIES = ("whole", "very_first", "reopened")


@pytest.fixture
def story(request):
    found: Story = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("story", STORIES, indirect=True)
def test_end_of_day(story, tmp_path):
    """A cut anywhere in `hv eod` leaves what was reported durable, and deletes nothing that could still be lost.

    Run again it finishes with the bytes of an undisturbed run, and a second cut in that run does no harm either.
    """
    home = copied(story.base, tmp_path / "home")
    disk = disk_of(home)
    run_eod(home, story.day, story.wishes, disk)
    assert at_rest(read(home.root)) == story.end
    assert all_cuts(story, disk, story.first()) > disk.operations
    step = 1 if LONG else max(disk.operations // 12, 1)
    for i, n in enumerate(range(0, disk.operations + 1, step)):
        again(story, disk.chosen(n, n)[1], tmp_path / "again", second_cuts=LONG or i % 4 == 3)
