"""A closed date must hold what it was closed with: a lost or replaced run is reported, and what is kept stays."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from typer.testing import CliRunner

from cli.app import app
from harvester.endofday.eod import EodOptions, eod
from harvester.errors import DamagedLog, HarvesterError, NoLog
from harvester.eventlog.eod_mark import EodMark, closed_path, list_path, read_closed, write_closed
from harvester.eventlog.quarantine import NOTES, QuarantineNote, add_note
from harvester.eventlog.reader import open_day
from harvester.eventlog.verify_log import verify_day
from harvester.files import Disk
from harvester.home import Home
from harvester.memory import fold_days
from tests.log_samples import DATE, write_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from harvester.home import DatePaths

SOURCES = Path(__file__).resolve().parent.parent / "harvester"
EARLY = EodOptions(unfinished=True)
GONE = EodOptions(unfinished=True, delete_temp=True)
KEPT = EodOptions(unfinished=True, delete_temp=True, archive=True)


def write_runs(home: Home, seed: int = 1) -> None:
    for rows in (20, 10, 10):
        write_run(home, (rows,), seed=seed)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def paths(home: Home) -> DatePaths:
    """A date of three runs, folded."""
    write_runs(home)
    eod(home.on(DATE), EARLY)
    return home.on(DATE)


def memory_of(home: Home) -> dict[str, bytes]:
    return {p.relative_to(home.root).as_posix(): p.read_bytes() for p in home.memory.rglob("*") if p.is_file()}


def hv(home: Home, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*words, "--home", str(home.root), "--date", DATE.isoformat()])
    if isinstance(done.exception, HarvesterError):  # `hv` prints it as one line and exits with its code
        return done.exception.exit_code, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def lose(*runs: str) -> Callable[[DatePaths], None]:
    def harm(paths: DatePaths) -> None:
        for run in runs:
            shutil.rmtree(paths.log / run)

    return harm


def record_again(paths: DatePaths) -> None:
    """The same run names and seqs, other events."""
    shutil.rmtree(paths.log)
    closed_path(paths).rename(paths.home.root / "mark")
    write_runs(paths.home, seed=9)
    (paths.home.root / "mark").rename(closed_path(paths))


def record_less(paths: DatePaths) -> None:
    shutil.rmtree(paths.log)
    closed_path(paths).rename(paths.home.root / "mark")
    write_run(paths.home, (20,), seed=9)
    (paths.home.root / "mark").rename(closed_path(paths))


HARM = {
    "last": lose("r003"),
    "first": lose("r001"),
    "first two": lose("r001", "r002"),
    "last two": lose("r002", "r003"),
    "another": record_again,
    "shorter": record_less,
}


@pytest.mark.parametrize("harm", list(HARM))
def test_a_closed_date_that_changed_is_damage_and_does_not_shrink(home: Home, paths: DatePaths, harm: str) -> None:
    """A run gone, or another recording under the same names: exit code 1 in all three commands, memory untouched.

    `--replace-closed` folds what is there, and then the date is clean.
    """
    before = memory_of(home)
    HARM[harm](paths)
    assert hv(home, "log", "verify")[0] == 1
    assert hv(home, "verify")[0] == 1
    with pytest.raises(DamagedLog, match="the date was closed"):
        eod(paths, EARLY)
    code, text = hv(home, "eod", "--unfinished")
    assert code == 1
    assert "--replace-closed" in text
    assert memory_of(home) == before
    eod(paths, EodOptions(unfinished=True, replace_closed=True))
    kept = {run.run for run in (read_closed(paths) or EodMark("", 0, "")).runs if not run.deleted}
    assert kept == {path.name for path in paths.log.glob("r*")}
    assert hv(home, "log", "verify")[0] == 0


@pytest.mark.parametrize("harm", ["last", "another", "shorter"])
def test_a_mark_of_an_early_version_is_compared_by_what_it_has(home: Home, paths: DatePaths, harm: str) -> None:
    """A mark without runs names last seq and content hash: both are compared."""
    closed = read_closed(paths)
    assert closed is not None
    write_closed(home, msgspec.structs.replace(closed, runs=[]), DATE)
    assert verify_day(paths).clean
    HARM[harm](paths)
    assert [problem.file for problem in verify_day(paths).problems] == [closed_path(paths)]


def test_what_was_deleted_on_purpose_is_no_damage(home: Home, paths: DatePaths) -> None:
    """Deleted, recorded on, folded, and deleted again: the runs that went are never called lost, the new one is."""
    eod(paths, GONE)
    with pytest.raises(NoLog, match="were deleted"):
        open_day(DATE, home)
    write_run(home, (10,), reopen=True)
    assert verify_day(paths).clean
    eod(paths, EARLY)
    assert verify_day(paths).clean
    marked = {run.run: run.deleted for run in (read_closed(paths) or EodMark("", 0, "")).runs}
    assert marked == {"r001": True, "r002": True, "r003": True, "r004": False}
    eod(paths, KEPT)
    assert verify_day(paths).clean
    shutil.rmtree(paths.archive)
    with pytest.raises(DamagedLog, match=r"r004.*promises"):
        verify_day(paths)


def test_what_an_early_version_deleted_is_settled_once(home: Home, paths: DatePaths) -> None:
    """A mark of 0.1.0 does not say what was deleted before the archive: reported once, then `--replace-closed`."""
    eod(paths, GONE)
    write_run(home, (10,), reopen=True)
    eod(paths, KEPT)
    closed = read_closed(paths)
    assert closed is not None
    runs = [msgspec.structs.replace(run, deleted=False) for run in closed.runs]
    write_closed(home, msgspec.structs.replace(closed, runs=runs), DATE)
    with pytest.raises(DamagedLog, match="--replace-closed"):
        eod(paths, EARLY)
    eod(paths, EodOptions(unfinished=True, replace_closed=True))
    assert (read_closed(paths), verify_day(paths).clean) == (closed, True)


def test_a_lost_archive_is_damage(home: Home, paths: DatePaths) -> None:
    """The deletion list promises an archive that is gone, in part or whole: exit code 1, never "deleted on purpose"."""
    eod(paths, KEPT)
    assert verify_day(paths).clean
    whole = home.root / "whole"
    shutil.copytree(paths.archive, whole)
    for lost in ("r003", "r001", ""):
        shutil.rmtree(paths.archive)
        shutil.copytree(whole, paths.archive)
        shutil.rmtree(paths.archive / lost)
        assert hv(home, "log", "verify")[0] == 1
        assert hv(home, "eod", "--unfinished")[0] == 1
        listing = CliRunner().invoke(app, ["log", "ls", "--home", str(home.root)]).stdout
        assert listing.count("lost") == (1 if lost else 3)
    with pytest.raises(DamagedLog, match="restore the date from a backup"):
        open_day(DATE, home)


def test_a_log_that_vanished_without_a_deletion_list_is_damage(home: Home, paths: DatePaths) -> None:
    """Without a list the log was not deleted by `hv eod`: it is lost."""
    shutil.rmtree(paths.log)
    with pytest.raises(DamagedLog, match="r001 through seq 20"):
        open_day(DATE, home)
    assert hv(home, "log", "verify")[0] == 1


def test_a_damaged_deletion_list_is_damage(home: Home, paths: DatePaths) -> None:
    """The list decides what was deleted on purpose: a damaged one is reported and nothing is concluded from it."""
    eod(paths, GONE)
    path = list_path(paths)
    path.write_bytes(path.read_bytes().replace(b"harvester", b"h\xffrvester", 1))
    with pytest.raises(DamagedLog, match=r"deletion\.json"):
        open_day(DATE, home)


def test_memory_of_a_replaced_date_is_that_of_the_new_log(home: Home, paths: DatePaths) -> None:
    """After `--replace-closed` memory holds the date once, with the content of what is there now."""
    record_again(paths)
    eod(paths, EodOptions(unfinished=True, replace_closed=True))
    memory = fold_days.decode(home.memory_latest.read_bytes(), "")
    assert [day.content_hash for day in fold_days.days_of(memory)] == [open_day(DATE, home).identity()]


def flipped(path: Path, at: int) -> None:
    """Set the top bit of a byte: ASCII text is then not UTF-8."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x80
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["memory_latest", "deletion", "closed", "notes"])
def test_a_file_that_is_not_utf_8_is_damage(home: Home, paths: DatePaths, name: str) -> None:
    """The top bit of any byte set, in each file beside the log: exit code 1 and a line that names the file."""
    eod(paths, KEPT)
    file = {
        "memory_latest": home.memory_latest,
        "deletion": list_path(paths),
        "closed": closed_path(paths),
        "notes": paths.log / NOTES,
    }[name]
    if name == "notes":
        file.parent.mkdir(parents=True, exist_ok=True)
        add_note(file.parent, QuarantineNote("r004", 41, 50, 0, "gone", ""), Disk())
    whole = file.read_bytes()
    for at in range(1, len(whole) - 1, max(len(whole) // 9, 1)):
        flipped(file, at)
        code, text = hv(home, "eod", "--unfinished", "--delete-temp", "--yes")
        assert (code, str(file) in text) == (1, True), (at, text)
        file.write_bytes(whole)


@pytest.mark.parametrize("command", ["verify", "eod", "eod of a deleted date"])
def test_every_flipped_bit_of_a_memory_version_is_noticed(home: Home, paths: DatePaths, command: str) -> None:
    """The file a damaged memory is restored from: `hv verify` and `hv eod` end with 1 and name it."""
    (version,) = home.memory_versions.glob("memory_*.json")
    words = ("verify",) if command == "verify" else ("eod", "--unfinished")
    if command == "eod of a deleted date":
        eod(paths, GONE)
    whole = version.read_bytes()
    assert hv(home, *words)[0] == 0
    for at, bit in ((0, 1), (len(whole) // 2, 128), (len(whole) - 3, 4)):
        data = bytearray(whole)
        data[at] ^= bit
        version.write_bytes(data)
        code, text = hv(home, *words)
        assert (code, version.name in text) == (1, True), (at, text)
        version.write_bytes(whole)


def test_bits_of_versions_are_noticed_wherever_they_are(home: Home, paths: DatePaths) -> None:
    """One bit of each byte of a version flipped, one after the other: none passes."""
    (version,) = home.memory_versions.glob("memory_*.json")
    whole = version.read_bytes()
    passed = []
    for at in range(len(whole) - 1):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        try:
            memory = fold_days.decode(bytes(data), version.name)
        except HarvesterError:
            continue
        passed.append(at) if fold_days.encode(memory) != whole else None
    assert passed == []


def test_json_of_files_is_read_by_one_function() -> None:
    """No module decodes the JSON of a file past `json_value`: msgspec lets a UnicodeDecodeError out."""
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"msgspec.json.decode", "json.loads"}:
                of_file = "read" in ast.unparse(node) or "data" in ast.unparse(node)
                assert not of_file or path.name == "files.py", f"{path.name}: {ast.unparse(node)}"
