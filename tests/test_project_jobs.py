"""`hv project` over dates: jobs change no output, and exactly the unchanged dates are skipped."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from trading_log import days, record
from typer.testing import CliRunner

from cli.app import READERS, app
from harvester.errors import BadSetting, NoLog
from harvester.eventlog.reader import open_day
from harvester.eventlog.run import RunLog
from harvester.files import Disk
from harvester.home import Home
from harvester.rebuild import project_memo
from harvester.rebuild.parallel import ParallelTask, TaskFailure, project_date, project_dates
from harvester.rebuild.project import fold_day
from tests.budget import budget
from tests.processes import PYTHON

PROJECT = Path(__file__).resolve().parent.parent
DAYS = [day.isoformat() for day in days(3)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Three short days."""
    made = Home(tmp_path_factory.mktemp("recorded")).prepare()
    for i, day in enumerate(days(3)):
        record(made, day, seconds=260, seed=i + 1)
    return made


@pytest.fixture
def home(recorded, tmp_path):
    shutil.copytree(recorded.root, tmp_path / "home")
    return Home(tmp_path / "home")


def hv(home: Home, *words: str) -> str:
    done = CliRunner().invoke(app, ["project", "--home", str(home.root), *words], catch_exceptions=False)
    return done.output.replace(str(home.root), "HOME")


def files(home: Home) -> dict[str, bytes]:
    """All files of the projection, except caches."""
    found = [path for path in home.root.rglob("*") if path.is_file() and home.cache not in path.parents]
    return {path.relative_to(home.root).as_posix(): path.read_bytes() for path in found}


def test_jobs_change_no_byte(recorded, tmp_path):
    """--jobs 2 and --jobs 1 over three dates print the same lines and leave the same files."""
    homes = [Home(tmp_path / name) for name in ("one", "two")]
    printed = []
    for home, jobs in zip(homes, ("1", "2"), strict=True):
        shutil.copytree(recorded.root, home.root)
        printed.append(hv(home, "--from", DAYS[0], "--to", DAYS[-1], "--jobs", jobs))
    assert printed[0] == printed[1]
    assert [line[:10] for line in printed[0].splitlines() if line.startswith("2025")] == DAYS
    one, two = map(files, homes)
    assert one == two
    assert any(name.startswith("temp/episodes/") for name in one)


def test_an_unchanged_date_is_skipped_in_one_line(home):
    """The second run folds and writes nothing and prints one line; --json gives the same summary, --force folds."""
    first = json.loads(hv(home, "--date", DAYS[0], "--json"))
    before = files(home)
    text = hv(home, "--date", DAYS[0])
    assert text.count("\n") == 1
    assert "unchanged since the last projection: log, code, options and" in text
    again = json.loads(hv(home, "--date", DAYS[0], "--json"))
    assert again.pop("skipped") is True
    assert first.pop("skipped") is False
    assert again == first
    assert "events through seq" in hv(home, "--date", DAYS[0], "--force")
    assert files(home) == before


def test_a_disk_without_room_for_the_memo_costs_the_memo_alone(home, monkeypatch):
    """On a full disk for the memo the files are written, the command succeeds, and the next one folds again."""
    real = Disk.write_cache

    def full(self, path, data):
        if "projected" in path.parts:
            raise OSError(28, "No space left on device")
        real(self, path, data)

    monkeypatch.setattr(Disk, "write_cache", full)
    assert "events through seq" in hv(home, "--date", DAYS[0])
    assert "events through seq" in hv(home, "--date", DAYS[0])
    monkeypatch.undo()
    hv(home, "--date", DAYS[0])
    assert "unchanged" in hv(home, "--date", DAYS[0])


def test_the_journal_of_an_unchanged_date_is_read_once(home, monkeypatch):
    """An unchanged date reads its journal once, for the memo and for the comparison of bytes: most of its cost."""
    task = ParallelTask(str(home.root), DAYS[0], None, None, force=False)
    project_date(task)
    read, journals = RunLog._read_journal, []

    def counted(log: RunLog) -> None:
        journals.append(log.run)
        read(log)

    monkeypatch.setattr(RunLog, "_read_journal", counted)
    assert project_date(task).skipped
    assert journals == ["r001"]


def changed(home: Home, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change one input or output of a projection."""
    export = home.exports() / f"buckets_{DAYS[0]}.parquet"
    episode = next(home.root.glob(f"temp/episodes/{DAYS[0]}/*/*.json"))
    if what == "the log":
        record(home, days(1)[0], seconds=30, start=2400)
    elif what == "the code":
        monkeypatch.setattr(project_memo, "package_digest", lambda parts: "0" * 32)
    elif what == "a library":
        monkeypatch.setattr(project_memo, "version", lambda name: "99")
    elif what == "a byte of an output":
        raw = export.read_bytes()
        export.write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
    elif what == "an output is gone":
        episode.unlink()
    elif what == "a stranger among the episodes":
        (episode.parent / "T999999_001.json").write_text("{}", encoding="utf-8")
    elif what == "a damaged memo":
        (memo,) = (home.cache / "projected").iterdir()
        memo.write_bytes(memo.read_bytes().replace(b'"events":', b'"events":1'))
    elif what == "a memo that is no JSON":
        (memo,) = (home.cache / "projected").iterdir()
        memo.write_bytes(b"\x00")


@pytest.mark.parametrize(
    "what",
    [
        "the log",
        "the code",
        "a library",
        "a byte of an output",
        "an output is gone",
        "a stranger among the episodes",
        "a damaged memo",
        "a memo that is no JSON",
    ],
)
def test_anything_that_changed_is_folded(home, what, monkeypatch):
    """A change of the log, the code, a library, any output or the memo itself makes the date fold again."""
    hv(home, "--date", DAYS[0])
    before = files(home)
    changed(home, what, monkeypatch)
    assert "events through seq" in hv(home, "--date", DAYS[0])
    if what not in ("the log", "a stranger among the episodes"):
        assert files(home) == before


def test_wishes_are_targets_of_their_own(home, tmp_path):
    """Another --out or --symbols is another target: it is folded, and the first one remains unchanged."""
    hv(home, "--date", DAYS[0])
    assert "events through" in hv(home, "--date", DAYS[0], "--out", str(tmp_path / "out"))
    assert "events through" in hv(home, "--date", DAYS[0], "--out", str(tmp_path / "out"), "--symbols", "AAA")
    assert "unchanged" in hv(home, "--date", DAYS[0])


def test_one_failing_date_stops_no_other(home):
    """Of three dates the damaged one fails with its error, the others are projected; the exit code is the error's."""
    (home.on(days(3)[1]).log / "r001" / "commits.jsonl").write_bytes(b"garbage\n")
    tasks = [ParallelTask(str(home.root), day, None, None, force=False) for day in DAYS]
    found = list(project_dates(tasks, jobs=budget(1, 2)))
    assert [isinstance(result, TaskFailure) for result in found] == [False, True, False]
    assert "damaged log" in found[1].what
    assert found[1].error().exit_code == 1


@pytest.mark.parametrize("name", ["quote.arrows", "request.arrows", "commits.jsonl", "manifest.json"])
def test_the_good_part_of_a_damaged_date(home, name):
    """--salvage folds the good part into a separate folder and names the losses; the date's artefacts stay."""
    hv(home, "--date", DAYS[0])
    whole = hv(home, "--date", DAYS[0], "--salvage")
    assert "unchanged" in whole
    assert "SALVAGED" not in whole
    path = home.on(days(3)[0]).log / "r001" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    before = files(home)
    refused = CliRunner().invoke(app, ["project", "--home", str(home.root), "--date", DAYS[0]])
    assert "hv project --salvage" in str(refused.exception)
    assert files(home) == before
    made = json.loads(hv(home, "--date", DAYS[0], "--salvage", "--json"))
    assert made["lost"]
    assert made["content_hash"].startswith("salvaged, seq ")
    assert sum(last - first + 1 for first, last in made["good"]) == made["events"]
    assert all(f.startswith("HOME/exports/salvaged/") for f in made["files"])
    after = files(home)
    assert {f: after[f] for f in before} == before
    assert all(f.startswith("exports/salvaged/") for f in after.keys() - before.keys())
    assert f"SALVAGED, not artefacts of the date; lost: HOME/temp/events/{DAYS[0]}" in hv(
        home, "--date", DAYS[0], "--salvage"
    )


def test_nothing_good_is_nothing_to_salvage(home):
    """--salvage of a date without any readable commit says so."""
    (home.on(days(3)[0]).log / "r001" / "commits.jsonl").write_bytes(b"garbage\n")
    (found,) = project_dates([ParallelTask(str(home.root), DAYS[0], None, None, force=False, salvage=True)])
    assert "good seq: none" in found.what


@pytest.mark.parametrize("jobs", [1, 2])
def test_progress_adds_up(home, jobs):
    """Progress rises to the events of all dates, a total known from the start: the bar never runs backwards."""
    tasks = [ParallelTask(str(home.root), day, None, None, force=True) for day in DAYS]
    told = []
    results = list(project_dates(tasks, jobs, lambda done, total: told.append((done, total))))
    events = sum(result.events for result in results)
    assert {total for _, total in told} == {events}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (events, events)


def test_progress_counts_what_need_not_be_folded(home):
    """Unchanged dates and a damaged one count as done as soon as they are known."""
    for day in DAYS:
        hv(home, "--date", day)
    (home.on(days(3)[1]).log / "r001" / "commits.jsonl").write_bytes(b"garbage\n")
    told = []
    tasks = [ParallelTask(str(home.root), day, None, None, force=False) for day in DAYS]
    results = list(project_dates(tasks, 1, lambda done, total: told.append((done, total))))
    assert [isinstance(result, TaskFailure) for result in results] == [False, True, False]
    assert told[0][0] < told[-1][0] == told[-1][1]


def test_which_dates(home):
    """The default is the newest date; an unrecorded date, an empty range and --jobs 0 are refused with a hint."""
    assert f"hv: {DAYS[-1]}, the newest recorded date" in hv(home)
    with pytest.raises(BadSetting, match="no date is recorded from 2031-01-01"):
        hv(home, "--from", "2031-01-01")
    with pytest.raises(BadSetting, match="--jobs 0"):
        hv(home, "--date", DAYS[0], "--jobs", "0")
    with pytest.raises(Exception, match="no log of 2031-01-01") as caught:
        hv(home, "--date", "2031-01-01")
    assert caught.value.exit_code == NoLog.exit_code


@pytest.mark.parametrize("known", [False, True], ids=["folded", "unchanged"])
def test_a_flipped_byte_of_the_log_is_told(home, known):
    """A flipped byte is detected whether the date is folded or skipped; nothing is written, the exit code is 1."""
    if known:
        hv(home, "--date", DAYS[0])
    path = max((home.on(days(3)[0]).log / "r001").glob("*.*"), key=lambda path: path.stat().st_size)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)
    before = files(home)
    for force in (False, True):
        (found,) = project_dates([ParallelTask(str(home.root), DAYS[0], None, None, force=force)])
        assert isinstance(found, TaskFailure)
        assert "damaged log" in found.what
        assert found.exit_code == 1
    assert files(home) == before


READING = (
    "project --force", "health", "status", "log ls", "log verify", "verify", "book --symbol AAA --seq 100",
    "buckets --symbol AAA --from 10:01 --to 10:02", "replay --speed max", "episodes", "explain T140204_001",
)  # fmt: skip


def test_the_result_of_the_trades(home):
    """`hv project` says how many trades won and lost, and what they made, as the episodes say it; --json too."""
    words = ["project", "--date", str(days(1)[0]), "--force", "--home", str(home.root)]
    rows = fold_day(open_day(days(1)[0], home)).tables["episodes"].to_pylist()
    won, pnl = sum(row["win_loss"] == "WIN" for row in rows), sum(row["pnl_usd"] for row in rows)
    assert rows
    assert f"{len(rows)} trades: {won} won, " in CliRunner().invoke(app, words).output
    trades = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["trades"]
    assert trades["pnl_usd"] == pytest.approx(pnl)
    assert trades["unfilled"] == {}


def test_every_reading_command_is_named():
    """The list below has every command that runs without pandas, except the one that reads no log."""
    assert {words.split()[0] for words in READING} == READERS - {"schema"}


@pytest.mark.parametrize("words", budget(("project --force", "verify", "replay --speed max"), READING))
def test_reading_commands_do_without_pandas(home, words):
    """No reading command imports pandas, which pyarrow would do to convert a column, for a third of a second."""
    code = (
        "import sys\nfrom cli.app import app\n"
        "try:\n    app()\nexcept SystemExit as end:\n    assert end.code in (0, 1, None), end.code\n"
        "assert 'pyarrow' in sys.modules and 'pandas' not in sys.modules\n"
    )
    date = [] if words in ("status", "log ls") else ["--date", DAYS[0]]
    command = [*PYTHON, "-c", code, *words.split(), *date, "--home", str(home.root)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert "unexpected" not in done.stderr
