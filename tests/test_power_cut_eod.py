"""A power cut at every operation of the end of day, of `hv project` and of the caches.

The files below a home after a cut are checked by reading them, without folding the day. For a spread of cuts
`hv eod` is run again on what was left, with a second cut in it. `HARVESTER_TEST_LONG=1` runs it for all of them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from power_cut import NONE, Killed, PowerCut, Tree, read, write
from trading_log import DATE, days, record, run_params

from harvester.artefacts import table_files
from harvester.endofday.eod import EodOptions, eod
from harvester.errors import HarvesterError, Mismatch
from harvester.eventlog.deletion import read_list, write_list
from harvester.eventlog.eod_mark import list_path, read_closed
from harvester.eventlog.reader import open_day
from harvester.eventlog.storage import parquet_files
from harvester.eventlog.verify_log import verify_day
from harvester.eventlog.writer import LogWriter
from harvester.files import Disk, put
from harvester.home import Home
from harvester.rebuild.parallel import ParallelTask, project_date
from harvester.rebuild.project import project
from harvester.rebuild.project_memo import ProjectMemo
from harvester.replay.seek import Seeker
from harvester.replay.snapshots import SnapshotPosition

LONG = bool(os.environ.get("HARVESTER_TEST_LONG"))
SECONDS = 130
EARLIER, NEXT = days(2)
Fold = dict[str, Any]
EVERYTHING: Fold = {"parquet": True, "archive": True, "delete_temp": True}
DELETING: Fold = {"delete_temp": True}


def at_rest(tree: Tree) -> Tree:
    """The files of a tree under their final names: no temporary files, no locks."""
    return {
        name: data
        for name, data in tree.items()
        if data is not None and not any(part.startswith(".") or part == "locks" for part in name.split("/"))
    }


def kept(home: Home) -> Tree:
    """The files below `memory/` now."""
    return {f"memory/{name}": data for name, data in at_rest(read(home.memory)).items()} if home.memory.is_dir() else {}


def copied(base: Home, target: Path) -> Home:
    return Home(shutil.copytree(base.root, target))


def disk_of(home: Home) -> PowerCut:
    return PowerCut(home.root, leave_out=[home.temp / "locks"])


def run_eod(home: Home, trading_date: Any, wishes: Fold, disk: PowerCut) -> None:
    """`hv eod`, in which each step marks the files of the earlier steps as durable when it begins."""
    seen: set[str] = set()

    def at(step: str) -> None:
        if step != "lock" and step not in seen:
            seen.add(step)
            disk.mark(kept(home))

    report = eod(home.on(trading_date), EodOptions(disk=disk, at=at, **wishes))
    assert not report.stopped
    disk.mark(kept(home))


@dataclass
class Story:
    """One scenario.

    Attributes:
        base: the home before; everything in it is durable.
        day: the date that is folded.
        wishes: the `EodOptions`.
        end: the files after an uninterrupted run.
    """

    base: Home
    day: Any
    wishes: Fold
    end: Tree

    @classmethod
    def of(cls, base: Home, trading_date: Any, wishes: Fold, folder: Path) -> Story:
        home = copied(base, folder / "end")
        eod(home.on(trading_date), EodOptions(**wishes))
        return cls(base, trading_date, wishes, at_rest(read(home.root)))

    def first(self) -> Tree:
        return at_rest(read(self.base.root))

    def listed(self) -> str:
        return f"memory/datasets/{self.day}/deletion.json"

    def doomed(self) -> list[str]:
        """The folders deleted by the run."""
        return [f"temp/{what}/{self.day}/" for what in ("events", "episodes")]


def claim(story: Story, first: Tree, known: list[Tree], there: Tree) -> None:
    """What must be true of what a cut left of a run that began with `first`.

    `known` is what is below `memory/` by the last report before the cut and by every report after it. Of each file
    there is one of these, whole, and none of the last report is lost.
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
    """A log file is deleted only when a list on disk names it and every replacement is durable."""
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


def least(disk: PowerCut, start: int) -> Iterator[tuple[int, str, Tree]]:
    """After each operation from `start` on, the files that are certainly on the medium."""
    cut = disk.at(start)
    for n in disk.cuts()[start:]:
        if n > start:
            cut.advance(disk, n)
        yield n, f"power cut after {n} of {disk.operations} ({disk.text(n)})", cut.tree(frozenset(), NONE)


def every(disk: PowerCut, start: int) -> Iterator[tuple[int, str, Tree]]:
    """After each operation from `start` on, every state the medium may be in."""
    for n in disk.cuts()[start:]:
        for called, tree in disk.trees(n):
            yield n, called, tree


def all_cuts(story: Story, disk: PowerCut, first: Tree, start: int = 0, how: Any = every) -> list[Tree]:
    """Check every state after every cut from operation `start` on; returns those that differ by name or content."""
    marks = [(0, {n: d for n, d in first.items() if n.startswith("memory/")}), *disk.reported()]
    seen: dict[tuple[int, int], Tree] = {}
    for n, called, tree in how(disk, start):
        now = max(i for i, (at, _) in enumerate(marks) if at <= n)
        there = at_rest(tree)
        key = (now, hash(tuple(there.items())))
        if key not in seen:
            seen[key] = tree
            try:
                claim(story, first, [content for _, content in marks[now:]], there)
            except AssertionError as error:
                raise AssertionError(f"{called}: {error}") from None
    return list(seen.values())


def end_after(story: Story, tree: Tree, folder: Path) -> Tree:
    """The files after a run that began with `tree`: those of an uninterrupted run, but for one file.

    Names of different folders reach the disk independently, so a cut may keep the removal of an episode file and lose
    the removal of every log file. As long as the whole log is there, no deletion has begun, because episodes and
    snapshots may be missing for other reasons (see test_a_deletion_that_has_not_begun_is_not_continued): the run
    writes a new deletion list, of the files and folders that are there.
    """
    if story.listed() not in story.end:
        return story.end
    path = folder / ".expected.json"
    path.write_bytes(story.end[story.listed()] or b"")
    listed = read_list(path)
    assert listed is not None
    if {one.path for one in listed.files if one.path.startswith("temp/events/")} <= tree.keys():
        files = [one for one in listed.files if one.path in tree]
        folders = [name for name in listed.folders if name in tree]
        write_list(path, msgspec.structs.replace(listed, files=files, folders=folders), Disk())
    return {**story.end, story.listed(): path.read_bytes()}


def again(story: Story, tree: Tree, folder: Path, *, second_cuts: bool) -> None:
    """Run `hv eod` again after a cut: it completes with the same bytes, also with a second cut in it."""
    write(tree, folder)
    home = Home(folder)
    disk = disk_of(home)
    run_eod(home, story.day, story.wishes, disk)
    assert at_rest(read(home.root)) == end_after(story, tree, folder)
    if second_cuts:
        all_cuts(story, disk, at_rest(tree))
    shutil.rmtree(folder)


def spread(items: Any, few: int) -> list[Any]:
    """All of them in a long run, else a few, evenly spaced, including the last."""
    found = list(items)
    return found if LONG else found[:: -max(len(found) // few, 1)]


@pytest.fixture(scope="module")
def two_days(tmp_path_factory):
    """Two recorded and projected days, the first of them folded."""
    home = Home(tmp_path_factory.mktemp("two_days")).prepare()
    for n, day in enumerate((EARLIER, NEXT)):
        record(home, day, seconds=SECONDS, seed=n + 1)
        project(home.on(day))
    eod(home.on(EARLIER))
    shutil.rmtree(home.exports())
    return home


@pytest.fixture(scope="module")
def whole(two_days, tmp_path_factory):
    """The second day folded with everything: Parquet, archive, deletion."""
    return Story.of(two_days, NEXT, EVERYTHING, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def very_first(two_days, tmp_path_factory):
    """The first fold of a home, without `memory/` and without an archive, so that the deleted log is gone."""
    home = copied(two_days, tmp_path_factory.mktemp("very_first") / "home")
    shutil.rmtree(home.memory)
    return Story.of(home, NEXT, DELETING, tmp_path_factory.mktemp("very_first"))


@pytest.fixture(scope="module")
def reopened(two_days, tmp_path_factory):
    """A date that was folded, deleted, and recorded again."""
    home = copied(two_days, tmp_path_factory.mktemp("reopened") / "home")
    eod(home.on(NEXT), EodOptions(**DELETING))
    record(home, NEXT, seconds=SECONDS, start=4000, seed=3)
    return Story.of(home, NEXT, DELETING, tmp_path_factory.mktemp("reopened"))


@pytest.fixture(scope="module")
def late(two_days, tmp_path_factory):
    """The earlier of two dates, folded last: the version of the later one is made again."""
    home = copied(two_days, tmp_path_factory.mktemp("late") / "home")
    shutil.rmtree(home.memory)
    eod(home.on(NEXT))
    return Story.of(home, EARLIER, {}, tmp_path_factory.mktemp("late"))


STORIES = ("whole", "very_first", "reopened", "late")


@pytest.fixture
def story(request):
    found: Story = request.getfixturevalue(request.param)
    return found


@pytest.mark.timeout(1800)  # every state at full size takes longer than five minutes on a busy machine
@pytest.mark.parametrize("story", STORIES, indirect=True)
def test_end_of_day(story, tmp_path):
    """A cut anywhere in `hv eod` keeps what was reported durable, and no file without a durable replacement is deleted.

    The next run completes with the bytes of an uninterrupted run, also after a second cut.
    """
    home = copied(story.base, tmp_path / "home")
    disk = disk_of(home)
    run_eod(home, story.day, story.wishes, disk)
    assert at_rest(read(home.root)) == story.end
    archived = any(name.startswith(f"memory/archive/{story.day}/r001/") for name in story.end)
    assert archived == story.wishes.get("archive", False)
    states = all_cuts(story, disk, story.first())
    assert len(states) > (40 if story.wishes else 15)
    for i, tree in enumerate(spread(states, 10)):
        again(story, tree, tmp_path / "again", second_cuts=LONG or i % 4 == 3)
    for n in spread(disk.cuts(), 6):
        again(story, disk.chosen(n, n)[1], tmp_path / "again", second_cuts=False)


@pytest.mark.parametrize("story", ["whole", "very_first"], indirect=True)
def test_what_a_killed_run_left_in_the_cache(story, tmp_path):
    """A run is killed before a sync; the next one syncs the files it finds before it relies on them.

    The second run does not rewrite files that are right, so without that sync a cut would lose them. A short run takes
    the last name of each step: no later name of the step syncs the folder for it.
    """
    home = copied(story.base, tmp_path / "undisturbed")
    disk = disk_of(home)
    run_eod(home, story.day, story.wishes, disk)
    made = [n for n in disk.cuts()[1:] if disk.last(n).split()[1] in ("rename", "mkdir")]
    last = {max((n for n in made if n <= at), default=made[0]) for at, _ in disk.reported()}
    for n in made if LONG else sorted(last):
        shutil.rmtree(home.root)
        home = copied(story.base, home.root)
        disk = disk_of(home)
        disk.dies_at(n + 1)
        with pytest.raises(Killed):
            run_eod(home, story.day, story.wishes, disk)
        disk.restart()
        run_eod(home, story.day, story.wishes, disk)
        all_cuts(story, disk, story.first(), n, least)


@pytest.fixture(scope="module")
def delayed(tmp_path_factory):
    """A folded day of delayed data that was not learned from, and is now folded with --allow-not-live."""
    home = Home(tmp_path_factory.mktemp("delayed") / "home").prepare()
    record(home, EARLIER, seconds=SECONDS, data_type=3)
    eod(home.on(EARLIER))
    return Story.of(home, EARLIER, {"allow_not_live": True}, tmp_path_factory.mktemp("delayed"))


def test_a_version_keeps_its_content(delayed, tmp_path):
    """A date folded again with another result, in the same second of its log, gets another version name."""
    home = copied(delayed.base, tmp_path / "home")
    before = {name: data for name, data in kept(home).items() if "/versions/" in name}
    disk = disk_of(home)
    run_eod(home, delayed.day, delayed.wishes, disk)
    after = {name: data for name, data in kept(home).items() if "/versions/" in name}
    assert len(after) == len(before) + 1
    assert before.items() <= after.items()
    for tree in spread(all_cuts(delayed, disk, delayed.first()), 4):
        again(delayed, tree, tmp_path / "again", second_cuts=False)


class Rotten(Disk):
    """A disk that stores other bytes of the same length for files with a word in their name."""

    def __init__(self, word: str) -> None:
        self.word, self.spoiled = word, 0

    def write(self, file: Any, data: bytes) -> None:
        if self.word in Path(str(file.name)).name and len(data) > 8:
            self.spoiled += 1
            data = bytes(data)
            at = data.rfind(b"0") if data.isascii() else len(data) // 2
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        super().write(file, data)


@pytest.mark.parametrize(
    "word",
    [
        "episodes.parquet",
        "decisions.parquet",
        "buckets.parquet",
        "trades_summary",
        "fills_",
        f"memory_{NEXT}",
        "memory_latest",
        "closed.json",
        "deletion.json",
        "trade.parquet",
        "commits.jsonl",
    ],
)
def test_a_disk_that_keeps_other_bytes(whole, tmp_path, word):
    """Any read-back that differs from what was written ends the run before anything is deleted."""
    home = copied(whole.base, tmp_path / "home")
    disk = Rotten(word)
    before = {name: data for name, data in whole.first().items() if name.startswith("temp/")}
    with pytest.raises(HarvesterError):
        eod(home.on(NEXT), EodOptions(disk=disk, **EVERYTHING))
    assert disk.spoiled
    assert {name: data for name, data in at_rest(read(home.root)).items() if name.startswith("temp/")} == before


@pytest.mark.parametrize("latest", [True, False], ids=["latest", "version"])
def test_memory_is_read_back_before_anything_points_to_it(whole, tmp_path, latest):
    """A version whose read-back differs does not become `memory_latest.json`; a bad one leaves the date open."""
    home = copied(whole.base, tmp_path / "home")
    before = home.memory_latest.read_bytes()
    with pytest.raises(Mismatch, match="memory_latest" if latest else f"memory_{NEXT}"):
        eod(home.on(NEXT), EodOptions(disk=Rotten("memory_latest" if latest else f"memory_{NEXT}")))
    assert latest or home.memory_latest.read_bytes() == before
    assert read_closed(home.on(NEXT)) is None


def test_kept_episodes_are_read_back(whole, tmp_path, monkeypatch):
    """Kept episodes that differ from the folded ones end the run, even if the file is what was written."""
    home = copied(whole.base, tmp_path / "home")
    real = table_files.parquet_file

    def lossy(table: pa.Table, about: Any = None) -> bytes:
        return real(table.slice(1) if "document" in table.schema.names else table, about)

    monkeypatch.setattr(table_files, "parquet_file", lossy)
    before = home.memory_latest.read_bytes()
    with pytest.raises(Mismatch, match="kept episodes"):
        eod(home.on(NEXT), EodOptions(**DELETING))
    assert home.memory_latest.read_bytes() == before
    assert home.on(NEXT).log.exists()


def test_a_log_file_that_changed_but_kept_its_size_stays(whole, tmp_path):
    """A file changed since it was listed is not deleted, even at equal size; the run reports it."""
    home = copied(whole.base, tmp_path / "home")
    victim = home.on(NEXT).log / "r001" / "quote.arrows"
    other = victim.read_bytes()[::-1]

    def at(step: str) -> None:
        if step == "delete":
            victim.write_bytes(other)

    report = eod(home.on(NEXT), EodOptions(at=at, **DELETING))
    assert report.stays[0] == f"{victim.relative_to(home.root).as_posix()} has changed since it was listed"
    assert victim.read_bytes() == other
    listed = read_list(list_path(home.on(NEXT)))
    assert listed is not None
    assert not listed.done


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """The same day of another market: the same number of events at the same times, other prices; folded, archived."""
    home = Home(tmp_path_factory.mktemp("foreign") / "home").prepare()
    record(home, NEXT, seconds=SECONDS, seed=9)
    eod(home.on(NEXT), EodOptions(archive=True))
    return home


def test_an_archive_of_other_events_is_no_proof(whole, foreign, tmp_path):
    """A valid archived run with the same number of events at the same times does not replace the log."""
    home = copied(whole.base, tmp_path / "home")
    shutil.copytree(foreign.on(NEXT).archive, home.on(NEXT).archive)
    with pytest.raises(Mismatch, match="is not equal to"):
        eod(home.on(NEXT), EodOptions(archive=True, **DELETING))
    assert verify_day(home.on(NEXT)).clean
    asked = []
    eod(home.on(NEXT), EodOptions(confirm=lambda listed: bool(asked.append(listed.log_kept)), **DELETING))
    assert asked == [None]


def test_an_archive_is_proved_by_its_rows(whole, tmp_path, monkeypatch):
    """Rows stored with other values under matching checksums are detected before the archive gets its name."""
    home = copied(whole.base, tmp_path / "home")
    real = pq.ParquetWriter.write_table

    def other(writer: Any, table: pa.Table, **options: Any) -> None:
        if "price" in table.schema.names:
            at = table.schema.get_field_index("price")
            table = table.set_column(at, table.schema.field(at), pc.add(table["price"], 1.0))
        real(writer, table, **options)

    monkeypatch.setattr(parquet_files.pq.ParquetWriter, "write_table", other)
    with pytest.raises(Mismatch, match="is not equal to"):
        eod(home.on(NEXT), EodOptions(**EVERYTHING))
    assert not (home.on(NEXT).archive / "r001").exists()
    assert verify_day(home.on(NEXT)).clean


def test_a_run_without_events_is_archived_and_proved(whole, tmp_path):
    """A run without events is archived too; if its read-back differs, it gets no name in the archive.

    Before it a run of one event and its digest.
    """
    home = copied(whole.base, tmp_path / "home")
    with LogWriter.open(home.on(NEXT), run_start_row={"params": run_params(NEXT).text()}) as writer:
        writer.begin(0)
        writer.live_digests(writer.next_seq - 1, {"book": "0" * 32})
    spoiled = copied(home, tmp_path / "spoiled")
    eod(spoiled.on(NEXT), EodOptions(archive=True, unfinished=True))
    LogWriter.open(spoiled.on(NEXT), reopen=True).close()
    with pytest.raises(Mismatch, match="is not equal to"):
        eod(spoiled.on(NEXT), EodOptions(disk=Rotten("manifest.json"), unfinished=True, **EVERYTHING))
    assert [path.name for path in sorted(spoiled.on(NEXT).archive.glob("r*"))] == ["r001", "r002"]
    LogWriter.open(home.on(NEXT)).close()
    story = Story.of(copied(home, tmp_path / "base"), NEXT, EVERYTHING | {"unfinished": True}, tmp_path)
    disk = disk_of(home)
    run_eod(home, story.day, story.wishes, disk)
    assert f"memory/archive/{NEXT}/r003/manifest.json" in story.end
    all_cuts(story, disk, story.first(), how=least)


def begun_to_delete(home: Home, deleted: int = 1) -> None:
    """`hv eod`, killed after this many files of the log were deleted."""
    told = []

    def at(step: str) -> None:
        if step == "delete":
            told.append(step)
            if len(told) > deleted:
                raise Killed

    with pytest.raises(Killed):
        eod(home.on(NEXT), EodOptions(at=at, **DELETING))


@pytest.mark.parametrize("harm", ["latest of the day before", "no latest", "all of another market"])
def test_deleting_goes_on_only_with_proof(whole, foreign, tmp_path, harm):
    """An interrupted deletion continues only when kept episodes, memory and the mark of the closed date agree."""
    home = copied(whole.base, tmp_path / "home")
    before = home.memory_latest.read_bytes()
    begun_to_delete(home)
    if harm == "no latest":
        home.memory_latest.unlink()
    elif harm == "latest of the day before":
        home.memory_latest.write_bytes(before)
    else:
        for path in (foreign.memory_latest, foreign.on(NEXT).dataset / "episodes.parquet"):
            shutil.copy(path, home.root / path.relative_to(foreign.root))
    left = at_rest(read(home.on(NEXT).log))
    with pytest.raises(Mismatch, match="do not agree"):
        eod(home.on(NEXT), EodOptions(**DELETING))
    assert at_rest(read(home.on(NEXT).log)) == left


def test_a_list_of_another_log_is_not_carried_out(whole, foreign, tmp_path):
    """A list written for other content than the date was folded with last is not finished: a new one is confirmed."""
    home = copied(whole.base, tmp_path / "home")
    LogWriter.open(home.on(NEXT)).close()
    begun_to_delete(home, 0)
    listed = list_path(home.on(NEXT)).rename(tmp_path / "list")
    shutil.rmtree(home.on(NEXT).episodes)
    shutil.rmtree(home.on(NEXT).log)  # r002 is listed, and gone
    shutil.copytree(foreign.on(NEXT).log, home.on(NEXT).log)
    eod(home.on(NEXT), EodOptions(replace_closed=True))
    listed.rename(list_path(home.on(NEXT)))
    confirmed = []
    options = EodOptions(confirm=lambda listed: not confirmed.append(listed.content_hash), **DELETING)
    report = eod(home.on(NEXT), options)
    assert (report.stopped, confirmed) == ("", [open_day(NEXT, foreign).identity()])
    assert not home.on(NEXT).log.exists()


def test_a_new_home(tmp_path):
    """A home just created survives a cut, also when the lock of a date created its root."""
    for locked in (False, True):
        above = tmp_path / f"locked {locked}"
        above.mkdir()
        disk, home = PowerCut(above), Home(above / "new" / "home")
        if locked:
            home.on(DATE).lock.parent.mkdir(parents=True)
            disk.sync_folder(above)
        home.prepare(disk)
        *_, (_, _, tree) = least(disk, 0)
        assert {"new/home/temp/.gitignore", "new/home/memory/.gitignore"} <= tree.keys()


def test_equal_length_is_not_equal(tmp_path):
    """A file with other bytes of the same length is rewritten; equal bytes are not."""
    assert [put(tmp_path / "x", data) for data in (b"one", b"two", b"two")] == [True, True, False]
    assert (tmp_path / "x").read_bytes() == b"two"


# ------------------------------------------------------------------------------------------------------------ project


@pytest.fixture
def early(tmp_path):
    """A day that was projected unfinished, then recorded further: its early episode must be replaced."""
    home = Home(tmp_path / "early").prepare()
    record(home, DATE, seconds=125)
    rebuilt(home, Disk())
    record(home, DATE, seconds=400, start=1940)
    return home


def rebuilt(home: Home, disk: Disk) -> Any:
    return project_date(ParallelTask(str(home.root), DATE.isoformat(), None, None, False), disk=disk)


def test_project(early, tmp_path):
    """A cut anywhere in `hv project` leaves each file with its old or its new bytes; reported files are there.

    An early episode is deleted only after its replacement is durable. The next run gives the same files.
    """
    first = at_rest(read(early.root))
    home = copied(early, tmp_path / "home")
    disk = disk_of(home)
    summary = rebuilt(home, disk)
    reported, end = disk.operations, at_rest(read(home.root))
    made = {Path(name).relative_to(home.root).as_posix() for name in summary.files}
    gone = {Path(name).relative_to(home.root).as_posix() for name in summary.superseded}
    assert gone
    assert made <= end.keys()
    states: dict[int, Tree] = {}
    for n, called, tree in every(disk, 0):
        there = at_rest(tree)
        states.setdefault(hash(tuple(there.items())), tree)
        for name, data in there.items():
            if "/cache/" not in name:
                assert data in (first.get(name), end.get(name)), f"{called}: {name}"
        new = {name for name in made if there.get(name) == end[name]}
        assert not (gone - there.keys()) or new == made, f"{called}: an early episode went too soon"
        assert n < reported or (new == made and not gone & there.keys()), f"{called}: reported and lost"
    for tree in spread(states.values(), 10):
        write(tree, tmp_path / "again")
        after = rebuilt(Home(tmp_path / "again"), Disk())
        found = at_rest(read(tmp_path / "again"))
        assert {name: found.get(name) for name in end if "/cache/" not in name} == {
            name: data for name, data in end.items() if "/cache/" not in name
        }
        assert (after.digests, after.rows) == (summary.digests, summary.rows)


def test_an_early_episode_stays_until_its_replacement_is_there(early):
    """A replacement whose bytes on disk differ keeps the early episode in place."""
    before = {path.name for path in early.on(DATE).episodes.rglob("*.json")}
    summary = rebuilt(copied(early, early.root.with_name("good")), Disk())
    (later, *_) = {Path(name).name for name in summary.files if "/episodes/" in name} - before
    spoiled = rebuilt(early, Rotten(later))
    assert summary.superseded
    assert not spoiled.superseded
    assert before <= {path.name for path in early.on(DATE).episodes.rglob("*.json")}
    assert {one["what"] for one in spoiled.differences} == {"different", "unexpected"}


def test_a_memo_never_lies(early, tmp_path):
    """After any cut the memo of a projection is missing, or describes exactly the files on disk."""
    home, disk = early, disk_of(early)
    summary = rebuilt(home, disk)
    end = at_rest(read(home.root))
    (name,) = [name for name in end if "/projected/" in name]
    judged = set()
    for called, tree in (one for n in disk.cuts()[1:] for one in disk.trees(n) if name in one[1]):
        whole = all(tree.get(other) == data for other, data in end.items())
        key = (whole, tree[name])
        if key not in judged:
            judged.add(key)
            for path, data in tree.items():
                if data is None:
                    (home.root / path).mkdir(exist_ok=True)
                else:
                    (home.root / path).write_bytes(data)
            said = ProjectMemo(home, open_day(DATE, home), None, None).unchanged()
            assert said is None or whole, called
            assert said is None or said.digests == summary.digests
    assert {whole for whole, _ in judged} == {True, False}
    assert len(judged) > 3


def test_a_snapshot_never_lies(early, tmp_path):
    """After any cut a snapshot is missing, or gives the stored state; a torn one is deleted."""
    home = copied(early, tmp_path / "home")
    disk = disk_of(home)
    day = open_day(DATE, home)
    seeker = Seeker(home, day, disk=disk, every_events=400)
    seeker.prepare()
    found = sorted(home.on(DATE).snapshots.rglob("*.snap"))
    places = {path.name: SnapshotPosition(*map(int, path.name.split("_")[:2]), path) for path in found}
    states = {name: seeker.snapshots.load(place) for name, place in places.items()}
    assert len(states) > 2
    judged = {}
    for n in disk.cuts():
        for called, tree in disk.trees(n):
            for path, data in tree.items():
                if path.endswith(".snap"):
                    judged.setdefault((path, data), called)
    assert len(judged) > len(states)
    for (path, data), called in judged.items():
        name = Path(path).name
        (home.root / path).write_bytes(data)
        state = Seeker(home, day).snapshots.load(places[name])
        assert state is None or state == states[name], called
        assert (state is not None) == (home.root / path).exists(), called
