from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec
import pytest
from trading_log import DATE, SYMBOLS, days, killed_run, record, run_params
from typer.testing import CliRunner

from cli.app import app
from harvester.artefacts import table_files
from harvester.artefacts.episode_files import WAY_OUT
from harvester.endofday.datasets import EPISODES_FILE, episodes_of
from harvester.endofday.eod import STEPS, EodOptions, eod
from harvester.endofday.kept_memory import rebuild_memory
from harvester.errors import CannotRun, DamagedLog, HarvesterError, LockHeld, LogWriteFailed, Mismatch, NoLog
from harvester.eventlog import lock
from harvester.eventlog.compact import compact_day
from harvester.eventlog.deletion import carry_out, found_in, list_files, read_list, write_list
from harvester.eventlog.eod_mark import list_path
from harvester.eventlog.lock import DateLock, memory_lock
from harvester.eventlog.reader import open_day
from harvester.eventlog.verify_log import verify_day
from harvester.files import Disk
from harvester.home import Home
from harvester.memory import fold_days
from harvester.memory.chain import memory_given
from harvester.projections.run_params import RunParams
from harvester.projections.trading.run_terms import RunTerms
from harvester.rebuild.project import fold_day, project
from tests.processes import python

SECONDS = 200


class Killed(BaseException):
    """The process was killed; no code catches this."""


@pytest.fixture(scope="session")
def master(tmp_path_factory):
    """Two recorded and projected days, the first of them folded."""
    home = Home(tmp_path_factory.mktemp("master")).prepare()
    for n, day in enumerate(days(2)):
        record(home, day, seconds=SECONDS, seed=n + 1)
        project(home.on(day))
    eod(home.on(DATE))
    return home


@pytest.fixture
def home(master, tmp_path):
    shutil.copytree(master.root, tmp_path / "home", symlinks=True)
    return Home(tmp_path / "home")


NEXT = days(2)[1]


def tree(home: Home, under: Path | None = None) -> dict[str, bytes]:
    """Every file below a folder but locks."""
    base = under or home.root
    return {
        p.relative_to(home.root).as_posix(): p.read_bytes()
        for p in sorted(base.rglob("*"))
        if p.is_file() and "locks" not in p.parts
    }


def test_fold_and_fold_again(home):
    """The first fold writes everything, the second nothing; memory holds both days and every trade once."""
    report = eod(home.on(NEXT), EodOptions(parquet=True))
    before = tree(home)
    again = eod(home.on(NEXT), EodOptions(parquet=True))
    assert report.written
    assert not again.written
    assert tree(home) == before
    memory = fold_days.decode(home.memory_latest.read_bytes(), "")
    assert [day.date for day in fold_days.days_of(memory)] == [DATE.isoformat(), NEXT.isoformat()]
    assert sum(day.learned for day in fold_days.days_of(memory)) == sum(
        fold_day(open_day(d, home)).tables["episodes"].num_rows for d in days(2)
    )
    assert (home.root / report.version).read_bytes() == home.memory_latest.read_bytes()


def test_progress_ends_at_its_total(home):
    """Each step that reads the log, and the deletion, reports numbers that grow to their total."""
    seen: dict[str, list[tuple[int, int]]] = {}
    options = EodOptions(delete_temp=True, progress=lambda step, *counts: seen.setdefault(step, []).append(counts))
    report = eod(home.on(NEXT), options)
    assert list(seen) == ["verify", "project", "delete"]
    for counts in seen.values():
        assert [done for done, _ in counts] == sorted(done for done, _ in counts)
        assert counts[-1][0] == counts[-1][1] == counts[0][1]
    assert seen["delete"][0][0] == 1
    assert seen["delete"][-1][0] == report.deleted


def test_a_version_is_named_by_its_last_second(home):
    """memory/versions/memory_<date>_<UTC time of the last event>.json; another content of that second gets `_r2`."""
    report = eod(home.on(NEXT))
    last = fold_day(open_day(NEXT, home)).last_ts
    stamp = datetime.fromtimestamp(last // 10**9, UTC).strftime("%Y%m%d_%H%M%S")
    assert Path(report.version).name == f"memory_{NEXT}_{stamp}.json"
    home.memory_latest.unlink()
    (home.root / report.version).write_bytes(b"another content")
    again = eod(home.on(NEXT))
    assert Path(again.version).name == f"memory_{NEXT}_{stamp}_r2.json"


def test_only_a_reopened_date_keeps_earlier_episodes(home):
    """Kept episodes of a date stay when its log begins after seq 1; a log that begins with seq 1 replaces them all."""
    eod(home.on(NEXT))
    result = fold_day(open_day(NEXT, home))
    table = result.tables["episodes"]
    result.tables["episodes"] = table.slice(1)
    assert episodes_of(result, home, 1).num_rows == table.num_rows - 1
    assert episodes_of(result, home, 2).num_rows == table.num_rows


def test_folding_an_earlier_day_again_changes_nothing(home):
    """`hv eod` of a day that is already in memory does not change memory or its versions."""
    eod(home.on(NEXT))
    before = tree(home, home.memory)
    eod(home.on(DATE))
    assert tree(home, home.memory) == before


def test_rebuilt_memory_has_the_same_bytes(home):
    """The kept episodes alone give the same memory, also after the logs are deleted."""
    for day in days(2):
        eod(home.on(day), EodOptions(delete_temp=True))
    assert not home.on(DATE).log.exists()
    assert fold_days.encode(rebuild_memory(home)) == home.memory_latest.read_bytes()


def test_order_of_days_does_not_matter(master, tmp_path):
    """Folding the second day first gives the same memory."""
    other = Home(tmp_path / "other").prepare()
    shutil.copytree(master.events, other.events)
    for day in reversed(days(2)):
        eod(other.on(day))
    shutil.copytree(master.root, tmp_path / "home")
    usual = Home(tmp_path / "home")
    eod(usual.on(NEXT))
    assert other.memory_latest.read_bytes() == usual.memory_latest.read_bytes()


@pytest.fixture(scope="module")
def finished(master, tmp_path_factory):
    """The files after an uninterrupted run, without and with the archive."""
    made = {}
    for archive in (False, True):
        home = Home(tmp_path_factory.mktemp("finished") / "home")
        shutil.copytree(master.root, home.root)
        eod(home.on(NEXT), EodOptions(parquet=True, delete_temp=True, archive=archive))
        made[archive] = tree(home)
    return made


def killed(paths, step, before=0, **options):
    """`hv eod`, killed when a step begins, or when it has begun `before` times before."""
    begun = []

    def at(name):
        if name == step:
            if len(begun) == before:
                raise Killed
            begun.append(name)

    with pytest.raises(Killed):
        eod(paths, EodOptions(at=at, **options))


@pytest.mark.parametrize("archive", [False, True], ids=["plain", "archive"])
@pytest.mark.parametrize("step", ["lock", *(name for name, _ in STEPS), "delete", "done"])
def test_killed_before_any_step(home, finished, step, archive):
    """After a kill before any step, the next run leaves exactly the files of an uninterrupted run."""
    if step == "archive" and not archive:
        pytest.skip("there is no such step without --archive")

    options = {"parquet": True, "delete_temp": True, "archive": archive}
    killed(home.on(NEXT), step, **options)
    eod(home.on(NEXT), EodOptions(**options))
    assert tree(home) == finished[archive]


@pytest.mark.parametrize("many", range(0, 15, 3))
def test_killed_while_deleting(home, finished, many):
    """After a kill in the middle of the deletion, the next run deletes the rest and counts nothing twice."""
    killed(home.on(NEXT), "delete", many, parquet=True, delete_temp=True)
    if many:
        with pytest.raises(CannotRun, match="is partly deleted; finish with --delete-temp"):
            eod(home.on(NEXT))
    eod(home.on(NEXT), EodOptions(parquet=True, delete_temp=True))
    assert tree(home) == finished[False]


@pytest.mark.parametrize("change", ["an episode is gone", "compacted"])
def test_a_deletion_that_has_not_begun_is_not_continued(home, change):
    """Killed after the list was written, before the first file was deleted: the date is folded and confirmed again."""
    paths = home.on(NEXT)
    killed(paths, "delete", delete_temp=True)
    if change == "compacted":
        compact_day(paths)
    else:
        min(paths.episodes.rglob("*.json")).unlink()
    assert eod(paths).episodes
    confirmed = []
    report = eod(paths, EodOptions(delete_temp=True, confirm=lambda listed: not confirmed.append(listed)))
    assert (report.stopped, len(confirmed), paths.log.exists()) == ("", 1, False)


def calls_until(call, fails_at=None):
    """A disk that counts the calls of one method and fails one of them."""
    real = getattr(Disk, call)

    def counted(self, *args, **kwargs):
        with self.one_at_a_time:
            self.count += 1
            now = self.count
        if now == fails_at:
            raise OSError(28, "No space left on device")
        return real(self, *args, **kwargs)

    members = {call: counted, "count": 0, "one_at_a_time": threading.Lock()}
    return type("Counting", (Disk,), members)()


@pytest.mark.parametrize("call", ["make_folder", "create", "write", "fsync", "replace", "sync_folder"])
def test_failing_disk(home, finished, call, tmp_path):
    """When any disk call fails, the run fails, the log stays, and memory is the old or the new one, whole.

    On a working disk the next run gives the same result as without the failure.
    """
    before, old = tree(home, home.events), home.memory_latest.read_bytes()
    counting = calls_until(call)
    shutil.copytree(home.root, tmp_path / "undisturbed")
    undisturbed = Home(tmp_path / "undisturbed")
    eod(undisturbed.on(NEXT), EodOptions(parquet=True, archive=True, disk=counting))
    new = undisturbed.memory_latest.read_bytes()
    few = max(counting.count // 6, 1)
    for nth in sorted({*range(1, counting.count, few), counting.count}):
        shutil.rmtree(undisturbed.root)
        shutil.copytree(home.root, undisturbed.root)
        with pytest.raises(LogWriteFailed):
            eod(undisturbed.on(NEXT), EodOptions(parquet=True, archive=True, disk=calls_until(call, nth)))
        assert tree(undisturbed, undisturbed.events) == before, nth
        assert undisturbed.memory_latest.read_bytes() in (old, new), nth
    eod(undisturbed.on(NEXT), EodOptions(parquet=True, archive=True, delete_temp=True))
    assert tree(undisturbed) == finished[True]


def test_a_file_the_system_keeps(home, finished):
    """A file that cannot be deleted (on Windows, while it is open) is reported; the next run deletes it."""

    class Busy(Disk):
        def remove(self, path):
            if path.suffix == ".arrows":
                raise PermissionError(13, "in use")
            super().remove(path)

    before = set(home.temp.rglob("*"))
    report = eod(home.on(NEXT), EodOptions(parquet=True, delete_temp=True, disk=Busy()))
    assert report.stopped.endswith("notice.arrows: in use")
    left = set(home.temp.rglob("*"))
    assert report.deleted == len(before - left)
    assert any(path.suffix == ".arrows" for path in left)
    eod(home.on(NEXT), EodOptions(parquet=True, delete_temp=True))
    assert tree(home) == finished[False]


def test_nothing_is_deleted_without_being_asked(home):
    """Without --delete-temp not a byte below temp/ changes."""
    before = tree(home, home.temp)
    eod(home.on(NEXT), EodOptions(parquet=True, archive=True))
    assert tree(home, home.temp) == before


def test_large_tables_are_kept_on_demand(home):
    """Buckets and series are among the kept files with --parquet only."""
    eod(home.on(NEXT))
    plain = {path.name for path in home.on(NEXT).dataset.iterdir()}
    eod(home.on(NEXT), EodOptions(parquet=True))
    assert {path.name for path in home.on(NEXT).dataset.iterdir()} > plain


def test_profit_is_reported_in_cents(tmp_path):
    """Commissions give a P&L with a third decimal; the report rounds it."""
    home = Home(tmp_path).prepare()
    costs = {"name": "odd", "per_share": 0.0007, "minimum": 0.0, "maximum_fraction": 1.0}
    record(home, seconds=SECONDS, params=msgspec.structs.replace(run_params(), costs=costs))
    report = eod(home.on(DATE))
    exact = sum(row["pnl_usd"] for row in table_files.read_parquet(home.on(DATE).dataset / EPISODES_FILE).to_pylist())
    assert report.pnl_usd == round(exact, 2) != round(exact, 3)


def test_not_confirmed(home):
    """Without confirmation everything stays, and no deletion list is written."""
    before = tree(home, home.temp)
    report = eod(home.on(NEXT), EodOptions(delete_temp=True, confirm=lambda listed: False))
    assert report.stopped == "not confirmed"
    assert tree(home, home.temp) == before
    assert read_list(list_path(home.on(NEXT))) is None


def test_the_list_comes_first(home):
    """The deletion list is complete on disk before the first file is deleted; it names where the log is kept."""
    seen = []

    def at(name):
        if name == "delete" and not seen:
            seen.append((read_list(list_path(home.on(NEXT))), tree(home, home.on(NEXT).log).keys()))

    eod(home.on(NEXT), EodOptions(delete_temp=True, archive=True, at=at))
    listed, there = seen[0]
    assert there <= {doomed.path for doomed in listed.files}
    assert listed.log_kept == f"memory/archive/{NEXT}"
    assert not home.on(NEXT).log.exists()
    assert read_list(list_path(home.on(NEXT))).done


def test_archive_is_read_like_the_log(home):
    """After --archive --delete-temp the date still verifies, projects to the same digests, and folds to no change."""
    before = fold_day(open_day(NEXT, home))
    eod(home.on(NEXT), EodOptions(delete_temp=True, archive=True))
    assert verify_day(home.on(NEXT)).clean
    after = fold_day(open_day(NEXT, home))
    assert (after.identity, after.digests) == (before.identity, before.digests)
    kept = tree(home, home.memory)
    assert not eod(home.on(NEXT)).written
    assert tree(home, home.memory) == kept
    project(home.on(NEXT))  # its episode files exist again; deleting them again loses no log
    asked = []
    eod(home.on(NEXT), EodOptions(delete_temp=True, confirm=lambda plan: bool(asked.append(plan.log_kept))))
    assert asked == [f"memory/archive/{NEXT}"]


def test_a_deleted_date_says_what_is_kept(home):
    """After --delete-temp the commands print when the log was deleted and what is kept; `hv log ls` lists the date."""
    eod(home.on(DATE), EodOptions(delete_temp=True))
    eod(home.on(NEXT), EodOptions(delete_temp=True, archive=True))
    words = ["--date", DATE.isoformat(), "--home", str(home.root)]
    for command in (["status"], ["verify"], ["project"], ["log", "show"], ["log", "verify"]):
        said = CliRunner().invoke(app, [*command, *words]).exception
        assert isinstance(said, HarvesterError), command
        assert said.exit_code == NoLog.exit_code
        assert re.search(r"through seq \d+, and its log and episode files were deleted on 20\d\d-\d\d-\d\dT", str(said))
        assert all(str(kept) in str(said) for kept in (home.on(DATE).dataset, home.journal, home.memory_latest.name))
    rows = CliRunner().invoke(app, ["log", "ls", "--json", "--home", str(home.root)]).output.splitlines()
    found = [(row["date"], row["run"], row["status"], row["events"]) for row in map(json.loads, rows)]
    events = open_day(NEXT, home).rows
    assert found == [(DATE.isoformat(), "r001", "deleted", events), (NEXT.isoformat(), "r001", "archived", events)]
    where = home.on(NEXT).archive.relative_to(home.root).as_posix()
    assert f"its log is archived in {where}" in CliRunner().invoke(app, ["status", "--home", str(home.root)]).output
    shutil.rmtree(home.on(NEXT).archive)
    latest = CliRunner().invoke(app, ["status", "--home", str(home.root)]).exception
    assert NEXT.isoformat() in str(latest)


def test_deleted_date_is_done(home):
    """After the log is deleted, another run says so and changes nothing; a date never recorded is an error.

    Snapshots of the date are deleted with it; those of other dates stay.
    """
    caches = [home.on(day).snapshots / "market-0" / "1.snap" for day in (NEXT, date(2025, 7, 1))]
    for cache in caches:
        cache.parent.mkdir(parents=True)
        cache.write_bytes(b"a state")
    eod(home.on(NEXT), EodOptions(delete_temp=True))
    assert [cache.exists() for cache in caches] == [False, True]
    assert not home.on(NEXT).snapshots.exists()
    before = tree(home)
    report = eod(home.on(NEXT), EodOptions(delete_temp=True))
    assert "nothing is left to do" in report.notes[0]
    assert (report.pnl_usd, report.episodes, report.learned, report.deleted) == (0, 0, 0, 0)
    assert tree(home) == before
    with pytest.raises(NoLog):
        eod(home.on(date(2025, 7, 16)))


@pytest.mark.parametrize("harm", ["altered", "unreadable", "unexpected", "link"])
def test_differing_episode_files_stop_deletion(home, harm):
    """An episode file that differs from the projection is reported and prevents deletion; the fold completes."""
    files = sorted(home.on(NEXT).episodes.rglob("*.json"))
    assert files
    if harm == "altered":
        files[0].write_bytes(files[0].read_bytes() + b" ")
    elif harm == "unreadable":
        files[0].write_bytes(b"\x00\xff")
    elif harm == "unexpected":
        (files[0].parent / "note.txt").write_text("mine")
    else:
        (files[0].parent / "link.json").symlink_to(files[0])
    before = tree(home, home.temp)
    report = eod(home.on(NEXT), EodOptions(delete_temp=True))
    assert len(report.differences) == 1
    assert report.stopped == f"{report.differences[0].path} is {report.differences[0].what}"
    assert report.deleted == 0
    assert tree(home, home.temp) == before
    assert (home.on(NEXT).dataset / "closed.json").exists()


def test_several_differing_files_are_counted(home):
    """The reason names the first file that differs and says how many more there are; a missing one is no reason."""
    changed, gone = sorted(home.on(NEXT).episodes.rglob("*.json"))[:2]
    changed.write_text("mine")
    gone.unlink()
    for name in ("a.txt", "b.txt"):
        (changed.parent / name).write_text("mine")
    report = eod(home.on(NEXT), EodOptions(delete_temp=True))
    first = next(d for d in report.differences if d.what != "missing")
    assert [d.what for d in report.differences].count("missing") == 1
    assert report.stopped == f"{first.path} is {first.what}, 2 more"


@pytest.mark.parametrize(
    "toggles", [{"epoch_ms": True}, {"series_jsonl": True}, {"epoch_ms": True, "series_jsonl": True}]
)
def test_files_of_other_toggles_are_not_differences(home, toggles):
    """Episode files as another setting of the toggles writes them are equal in content, and stop nothing."""
    paths = home.on(NEXT)
    shutil.rmtree(paths.episodes)
    for path, data in fold_day(open_day(NEXT, home)).files(**toggles).items():
        (paths.episodes / path).parent.mkdir(parents=True, exist_ok=True)
        (paths.episodes / path).write_bytes(data)
    report = eod(paths, EodOptions(delete_temp=True))
    assert (report.differences, report.stopped) == ([], "")


@pytest.mark.parametrize("more", [[], ["--delete-temp", "--yes"]])
@pytest.mark.parametrize(("harm", "way"), [("different", "rewrites it"), ("unexpected", "move it away")])
def test_differing_episode_files_end_with_11(home, harm, way, more):
    """The date is folded, but the exit code is 11, as with verify; both name a remedy, and the remedy works."""
    path = min(home.on(NEXT).episodes.rglob("*.json"))
    path = path if harm == "different" else path.with_name("note.txt")
    path.write_text("mine")
    words = ["--date", NEXT.isoformat(), "--home", str(home.root)]
    ended = CliRunner().invoke(app, ["eod", *words, *more])
    assert isinstance(ended.exception, Mismatch)
    assert f"{path} is {harm}" in str(ended.exception)
    assert way in str(ended.exception)
    assert (home.on(NEXT).dataset / "closed.json").exists()
    told = CliRunner().invoke(app, ["verify", *words])
    assert told.exit_code == Mismatch.exit_code
    (line,) = [line for line in told.output.splitlines() if path.name in line]
    assert line.endswith(f"{harm}; {WAY_OUT[harm]}")
    if harm == "unexpected":
        assert f"{path.name}; {WAY_OUT[harm]}" in CliRunner().invoke(app, ["project", *words]).output
        path.unlink()
    else:
        CliRunner().invoke(app, ["project", *words])
    assert CliRunner().invoke(app, ["verify", *words]).exit_code == 0
    assert CliRunner().invoke(app, ["eod", *words, *more]).exit_code == 0


def test_what_nothing_replaces_stays(home):
    """A foreign file in the log's folder prevents deletion; torn bytes in quarantine and inputs of replays stay."""
    note = home.on(NEXT).log / "r001" / "note.txt"
    note.write_text("mine")
    report = eod(home.on(NEXT), EodOptions(delete_temp=True))
    assert "note.txt is not part of the log" in report.stopped
    assert (home.on(NEXT).log / "r001" / "quote.arrows").exists()
    note.unlink()
    kept = [home.on(NEXT).log / "quarantine" / "torn", home.on(NEXT).replay_inputs / "replay_input_AAA.json"]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    report = eod(home.on(NEXT), EodOptions(delete_temp=True))
    assert not report.stopped
    assert "torn bytes" in report.notes[0]
    assert all(path.exists() for path in kept)
    assert not (home.on(NEXT).log / "r001").exists()
    assert "nothing is left to do" in eod(home.on(NEXT), EodOptions(delete_temp=True)).notes[0]


def test_memory_changed_by_another_process(home, monkeypatch):
    """While another process changes memory, the date stays open and memory the same; the next run folds it."""
    monkeypatch.setattr(lock, "_MEMORY_PATIENCE_S", 0.1)
    before = home.memory_latest.read_bytes()
    with memory_lock(home), pytest.raises(LockHeld, match="another process is changing memory"):
        eod(home.on(NEXT))
    assert (home.memory_latest.read_bytes(), (home.on(NEXT).dataset / "closed.json").exists()) == (before, False)
    assert eod(home.on(NEXT)).memory_hash


def test_damaged_log_touches_nothing(home):
    """A flipped byte in the log ends the run before anything is written, the torn end of a killed run included."""
    killed_run(home, NEXT, "commits.jsonl", b'{"commit": 99')
    path = home.on(NEXT).log / "r001" / "quote.arrows"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    before = tree(home)
    with pytest.raises(DamagedLog, match=r"quote\.arrows"):
        eod(home.on(NEXT), EodOptions(delete_temp=True, unfinished=True))
    assert tree(home) == before


def test_date_being_recorded(home):
    """While another process holds the date, folding is refused, and the error names the holder."""
    with DateLock(home.on(NEXT)), pytest.raises(LockHeld, match=r"held by process \d+"):
        eod(home.on(NEXT))


def test_file_that_appears_after_the_list_stays(home):
    """Files that changed or appeared after the list was written are not deleted, and are reported."""
    victim = home.on(NEXT).log / "r001" / "quote.arrows"
    extra = home.on(NEXT).log / "r001" / "notes.txt"

    def at(name):
        if name == "delete":
            extra.write_text("mine")
            victim.write_bytes(b"changed")

    report = eod(home.on(NEXT), EodOptions(delete_temp=True, at=at))
    assert sorted(p.name for p in (home.on(NEXT).log / "r001").iterdir()) == ["notes.txt", "quote.arrows"]
    assert any("quote.arrows has changed" in line for line in report.stays)
    assert any(line.endswith("r001 contains a file that was not listed") for line in report.stays)


def test_links_are_never_followed(home, tmp_path):
    """A link below temp/, or one that replaces a parent folder, prevents deletion; its target stays."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("keep")
    link = home.on(NEXT).log / "r001" / "linked"
    link.symlink_to(outside)
    with pytest.raises(Mismatch, match="is a link"):
        eod(home.on(NEXT), EodOptions(delete_temp=True))
    link.unlink()
    folders = [home.on(NEXT).log]
    listed = list_files(home.root, found_in(home.root, folders), NEXT.isoformat(), "x", None)
    shutil.move(home.on(NEXT).log, tmp_path / "elsewhere")
    home.on(NEXT).log.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Mismatch, match="leads out of"):
        carry_out(home.root, listed, Disk(), folders)
    assert (outside / "precious").read_text() == "keep"
    assert len(list((tmp_path / "elsewhere" / "r001").iterdir())) >= 6


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "temp/events/{date}/../../../memory/memory_latest.json",
        "memory/memory_latest.json",
        "/etc/hostname",
    ],
)
def test_an_altered_list_cannot_reach_out(home, path):
    """A deletion list with a path outside the date's folders is refused before anything is deleted."""
    listed = list_files(home.root, found_in(home.root, [home.on(NEXT).log]), NEXT.isoformat(), "x", None)
    one = listed.files[0]
    forged = type(one)(path.format(date=NEXT), one.bytes, one.blake2b)
    bad = msgspec.structs.replace(listed, files=[forged])
    before = tree(home)
    with pytest.raises(Mismatch):
        carry_out(home.root, bad, Disk(), [home.on(NEXT).log])
    assert tree(home) == before


def test_reopened_after_deletion(home):
    """A date recorded on after its log was deleted keeps the episodes of both parts, and folds again."""
    first = eod(home.on(NEXT), EodOptions(delete_temp=True))
    record(home, NEXT, seconds=SECONDS, start=4000, seed=3)
    second = eod(home.on(NEXT))
    assert second.episodes > first.episodes
    assert not eod(home.on(NEXT)).written
    assert len(sorted(home.memory_versions.glob(f"memory_{NEXT}_*.json"))) == 2
    third = eod(home.on(NEXT), EodOptions(delete_temp=True))
    assert third.episodes == second.episodes
    assert fold_days.encode(rebuild_memory(home)) == home.memory_latest.read_bytes()


def test_recorded_on_after_a_cut_at_the_end_of_a_deletion(home):
    """A date whose finished deletion lost its last note in a power cut can still be recorded and folded."""
    first = eod(home.on(NEXT), EodOptions(delete_temp=True))
    path = list_path(home.on(NEXT))
    write_list(path, msgspec.structs.replace(read_list(path), done=False), Disk())
    record(home, NEXT, seconds=SECONDS, start=4000, seed=3)
    second = eod(home.on(NEXT), EodOptions(delete_temp=True))
    assert second.episodes > first.episodes
    assert not home.on(NEXT).log.exists()
    assert read_list(path).done


def test_lost_memory_comes_back(home):
    """When memory_latest.json is gone, the next fold rebuilds it from every kept day; a damaged one says so."""
    eod(home.on(NEXT))
    before = home.memory_latest.read_bytes()
    home.memory_latest.write_bytes(before.replace(b'"parent"', b'"parents"', 1))
    with pytest.raises(
        HarvesterError, match=r"memory_latest.json is damaged; `hv memory rebuild` makes it from memory/datasets"
    ):
        eod(home.on(NEXT))
    home.memory_latest.unlink()
    eod(home.on(NEXT))
    assert home.memory_latest.read_bytes() == before
    assert max((home.memory / "versions").iterdir()).read_bytes() == before


def test_a_run_records_the_memory_it_was_given(home):
    """The memory given to strategies is part of the run's parameters, and its hash is in the episodes."""
    given = memory_given(home)
    assert given["hash"] == fold_days.decode(home.memory_latest.read_bytes(), "")["hash"]
    text = RunParams(memory=given).text()
    assert RunTerms.of(RunParams.parse(text, 1), "r001").memory == given["hash"]
    assert memory_given(Home(home.root / "nowhere")) is None


def test_delayed_data_are_not_learned_from(tmp_path):
    """A day of delayed data gives episodes, not learned from unless requested; it can be rebuilt either way."""
    home = Home(tmp_path).prepare()
    record(home, seconds=SECONDS, data_type=3)
    report = eod(home.on(DATE))
    assert report.episodes > 0
    assert (report.learned, report.left_out) == (0, {"NOT_LIVE": report.episodes})
    allowed = eod(home.on(DATE), EodOptions(allow_not_live=True))
    assert allowed.learned == allowed.episodes
    assert fold_days.encode(rebuild_memory(home)) == home.memory_latest.read_bytes()


def test_killed_recorder_is_recovered_first(home):
    """A run that was killed in the middle of a write is recovered before it is folded."""
    before = eod(home.on(NEXT)).through_seq
    killed_run(home, NEXT, "commits.jsonl", b'{"commit": 99')
    report = eod(home.on(NEXT), EodOptions(unfinished=True))
    assert report.through_seq == before + 1
    assert "13 bytes of commits.jsonl" in report.notes[0]


def test_command_line(home):
    """The command prints its results, and before it deletes, that the log is deleted for good."""
    code = (
        "import typer; from cli.cmd_eod import eod; app = typer.Typer(); app.command()(eod); "
        f"app(['--date', '{NEXT}', '--home', {str(home.root)!r}, '--delete-temp', '--yes'])"
    )
    done = subprocess.run(
        [*python(), "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 0, done.stderr
    assert "the log of this date is deleted for good" in done.stdout
    assert "insufficient evidence" in done.stdout
    assert not home.on(NEXT).log.exists()


def test_symbols_of_the_sample():
    """The sample holds a symbol with a space, so that folders of its episodes are encoded."""
    assert "BRK B" in SYMBOLS
