"""Unfinished days in `hv project`, `hv verify` and `hv eod`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from trading_log import DATE, SECOND, market, record, run_params, subscriptions
from typer.testing import CliRunner

from cli.app import app
from harvester.artefacts.episode_files import day_files, write_day
from harvester.calendar import session
from harvester.endofday.eod import EodOptions, eod
from harvester.errors import CannotRun
from harvester.eventlog.reader import open_day
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.home import Home
from harvester.projections.engine import Engine
from harvester.rebuild.project import being_recorded, fold_day, project, write_artefacts
from harvester.rebuild.verify_day import verify
from tests.processes import PYTHON, python
from tests.test_record_process import Served

PROJECT = Path(__file__).resolve().parent.parent
HOURS = session(DATE)
CANDLES = ("l2_candles", "l2_strategy_signals")
CLOSE, EXTENDED = ((end - HOURS.open_ns) // SECOND for end in (HOURS.close_ns, HOURS.extended_close_ns))


def tree(home: Home) -> dict[str, bytes]:
    """Every file but locks."""
    found = [path for path in sorted(home.root.rglob("*")) if path.is_file() and "locks" not in path.parts]
    return {path.relative_to(home.root).as_posix(): path.read_bytes() for path in found}


def begun(home: Home, seconds: int = 125, start: int = 1800) -> LogWriter:
    """A recorder in the middle of its run, with the lock held and everything committed."""
    rows = market(DATE, seconds=seconds, start=start)
    writer = LogWriter.open(home.on(DATE), run_start_row={"params": run_params(DATE).text()})
    writer.begin(rows[0][1]["ts_recv"])
    writer.commit(Batch.of([*subscriptions(rows[0][1]["ts_recv"]), *rows], writer.next_seq))
    return writer


def live_episodes(home: Home) -> int:
    """Write the episodes that ended so far, as the recorder does while it records."""
    engine, documents = Engine(), []
    for batch in open_day(DATE, home).batches():
        outputs = engine.fold(batch)
        if outputs.rows("episodes"):
            documents += outputs["episodes"].column("document").to_pylist()
    write_day(home.on(DATE).episodes, day_files(documents))
    return len(documents)


def ends(home: Home) -> list[str]:
    """Why the episodes on disk ended."""
    files = sorted(home.on(DATE).episodes.rglob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8"))["labels"]["exit_reason"] for path in files]


def hv(*words: str) -> tuple[int, str]:
    """Exit code and all output of a command, as in a shell without a terminal."""
    done = subprocess.run(
        [*python(), "-m", "cli.app", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("reason", "start", "over"),
    [
        ("end of recording", 1800, True),
        ("boundary", 1800, True),
        ("stopped", 1800, False),
        ("stopped", CLOSE - 10, True),
        ("error", CLOSE - 10, False),
        ("error", EXTENDED - 10, True),
    ],
)
def test_when_a_day_is_over(tmp_path, reason, start, over):
    """May be folded: ended as configured, always; stopped, from the close; failed, from the end of extended trading."""
    home = Home(tmp_path).prepare()
    record(home, seconds=30, start=start, reason=reason)
    if over:
        assert eod(home.on(DATE)).through_seq
        return
    before = tree(home)
    with pytest.raises(
        CannotRun, match=r"is not over: last event 2025-07-17T.*ends 2025-07-18T00:00:00Z.*--unfinished"
    ):
        eod(home.on(DATE))
    assert tree(home) == before
    assert eod(home.on(DATE), EodOptions(unfinished=True)).through_seq


def test_a_killed_recorder_has_not_finished_its_day(tmp_path):
    """A run that never ended needs events to the end of extended trading, however earlier runs ended."""
    home = Home(tmp_path).prepare()
    record(home, seconds=30)
    begun(home, seconds=30, start=1900).abandon()
    before = tree(home)
    code, said = hv("eod", "--date", str(DATE), "--home", str(home.root))
    assert (code, said.count("\n")) == (2, 1)
    assert "the recorder was killed" in said
    assert tree(home) == before
    code, said = hv("eod", "--date", str(DATE), "--home", str(home.root), "--unfinished")
    assert code == 0, said


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_deleting_without_a_terminal_needs_yes(tmp_path, more):
    """Without a terminal, --delete-temp is refused before anything is done; with --yes it deletes."""
    home = Home(tmp_path).prepare()
    record(home, seconds=30)
    before = tree(home)
    words = ("eod", "--date", str(DATE), "--home", str(home.root), "--delete-temp", *more)
    code, said = hv(*words)
    assert (code, said.count("\n")) == (2, 1)
    assert "give --yes" in said
    assert tree(home) == before
    code, said = hv(*words, "--yes")
    assert code == 0, said
    assert not home.on(DATE).log.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal of POSIX")
@pytest.mark.parametrize(("answer", "gone"), [("n", False), ("y", True)])
def test_a_terminal_is_asked(tmp_path, answer, gone):
    """On a terminal it asks; after `n` it prints what stays, and nothing is deleted."""
    import pty

    home = Home(tmp_path).prepare()
    record(home, seconds=200)
    project(home.on(DATE))
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    words = ["eod", "--date", str(DATE), "--home", str(home.root), "--delete-temp"]
    done = subprocess.run(
        [*PYTHON, "-m", "cli.app", *words],
        stdin=theirs,
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, done.stderr
    assert "delete them?" in done.stdout
    kept = f"nothing was deleted: temp/events/{DATE} and temp/episodes/{DATE} stay"
    assert (kept in done.stdout) is not gone
    assert home.on(DATE).log.exists() is not gone
    assert (home.on(DATE).dataset / "closed.json").exists()


def test_projecting_while_recording(tmp_path):
    """A projection of a day being recorded writes no DATA_END; killed, continued and ended, the day verifies."""
    home = Home(tmp_path).prepare()
    writer = begun(home)
    live_episodes(home)
    _, first = project(home.on(DATE))
    assert first.open > 0
    assert "DATA_END" not in ends(home)
    assert being_recorded(home, open_day(DATE, home))
    writer.abandon()  # kill -9
    assert project(home.on(DATE))[1].open == first.open
    record(home, seconds=400, start=1940)
    assert live_episodes(home) > 0
    assert verify(home.on(DATE)).exit_code == 0
    _, last = project(home.on(DATE))
    assert (last.open, last.differences, last.superseded) == (0, [], [])
    found = verify(home.on(DATE))
    assert (found.exit_code, found.files.early, found.exports.early) == (0, [], [])
    assert found.files.checked == len(list(home.on(DATE).episodes.rglob("*.json")))


def test_what_the_recorder_wrote_meanwhile_is_not_unexpected(tmp_path):
    """Episodes that ended after the projection began are the recorder's, and stay."""
    home = Home(tmp_path).prepare()
    writer = begun(home)
    made = fold_day(open_day(DATE, home))
    rows = market(DATE, seconds=400, start=1940)
    writer.commit(Batch.of(rows, writer.next_seq))
    newer = live_episodes(home)
    assert newer > 0
    before = tree(home)
    assert write_artefacts(made, home, live=True).differences == []
    assert before.items() <= tree(home).items()
    writer.close()


def test_a_look_between_two_runs_is_no_difference(tmp_path):
    """DATA_END of a projection between two runs is listed by verify, removed by project, and stops no deletion."""
    home = Home(tmp_path / "one").prepare()
    record(home, seconds=125)
    project(home.on(DATE))
    assert "DATA_END" in ends(home)
    record(home, seconds=400, start=1940)
    live_episodes(home)
    found = verify(home.on(DATE))
    assert found.exit_code == 0
    assert any("of an earlier export" in line for line in found.files.early)
    assert (
        len([line for line in found.exports.early if "through seq" in line]) == 8
    )  # candles and signals of two symbols
    said = CliRunner().invoke(app, ["verify", "--date", str(DATE), "--home", str(home.root)]).output
    assert "8 files: of an earlier export; `hv project` rewrites it (--json names them)" in said
    assert said.count("of an earlier export") <= 2
    shutil.copytree(home.root, tmp_path / "two")
    report = eod(Home(tmp_path / "two").on(DATE), EodOptions(delete_temp=True))
    assert (report.stopped, home.on(DATE).log.exists()) == ("", True)
    assert not Home(tmp_path / "two").on(DATE).log.exists()
    project(home.on(DATE))
    assert verify(home.on(DATE)).files.early == []


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A recorder killed in the middle of its run after two commits of trades; the files of the second."""
    home = Home(tmp_path_factory.mktemp("killed")).prepare()
    writer = begun(home)
    writer.commit(Batch.of(market(DATE, seconds=400, start=1940), writer.next_seq))
    live_episodes(home)
    before = tree(home).keys()
    writer.commit(Batch.of(market(DATE, seconds=400, start=2340), writer.next_seq))
    live_episodes(home)
    assert "being recorded" in verify(home.on(DATE)).files.note
    writer.abandon()  # kill -9
    last = sorted(name for name in tree(home).keys() - before if name.startswith("temp/episodes/"))
    assert last, "the last commit ends episodes"
    return home, last


def test_a_killed_run_is_compared(killed, tmp_path):
    """After a kill, live digests, episodes and exports of the run are compared, and the report names it."""
    home = Home(shutil.copytree(killed[0].root, tmp_path / "home"))
    project(home.on(DATE))
    words = ["verify", "--date", str(DATE), "--home", str(home.root)]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, "the last run broke off (r001, last event 2025-07-17T" in done.output) == (0, True)
    assert "episode files compared" in done.output
    assert " exports compared; the picture is not compared" in done.output
    assert "not compared: the day" not in done.output
    found = verify(home.on(DATE))
    assert found.files.checked == len(list(home.on(DATE).episodes.rglob("*.json"))) > len(killed[1])
    assert all(line.endswith("open when the run broke off") for line in found.files.early)
    path = next(home.on(DATE).episodes.rglob("*.json"))
    path.write_bytes(path.read_bytes().replace(b'"pnl_usd": ', b'"pnl_usd": 1', 1))
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, f"{path.name}: different" in done.output) == (11, True)


def test_what_a_killed_recorder_did_not_come_to_write(killed, tmp_path):
    """After a kill, an episode of the last commit may be missing or half written; an earlier one may not."""
    home, last = Home(shutil.copytree(killed[0].root, tmp_path / "home")), killed[1]
    path = home.root / last[0]
    half = path.with_name(f".{path.name}.new")
    half.write_bytes(path.read_bytes()[:100])
    path.unlink()
    found = verify(home.on(DATE))
    assert (found.exit_code, found.files.differences) == (0, [])
    assert sum("the recorder was killed" in line for line in found.files.early) == 2
    earlier = next(p for p in home.on(DATE).episodes.rglob("*.json") if p.relative_to(home.root).as_posix() not in last)
    earlier.unlink()
    found = verify(home.on(DATE))
    assert (found.exit_code, found.files.differences) == (
        11,
        [f"{earlier.relative_to(home.root).as_posix()}: missing"],
    )


def test_a_memo_of_a_look_ends_with_the_recording(tmp_path):
    """A projection made while recording is not `unchanged` after the recording ended: the open trades are written."""
    home = Home(tmp_path).prepare()
    begun(home).abandon()
    words = ["project", "--date", str(DATE), "--home", str(home.root)]
    assert "still open: not episodes yet" in CliRunner().invoke(app, words).output
    assert CliRunner().invoke(app, ["log", "recover", *words[1:]]).exit_code == 0
    assert "wrote " in CliRunner().invoke(app, words).output
    assert "DATA_END" in ends(home)


@pytest.fixture(scope="module")
def projected(tmp_path_factory):
    """A finished, projected day of two symbols."""
    home = Home(tmp_path_factory.mktemp("projected")).prepare()
    record(home, seconds=400)
    project(home.on(DATE))
    return home


def test_some_symbols_leave_the_whole_day_alone(projected, tmp_path):
    """--symbols writes separate files, for any order of the symbols, and counts the rows written."""
    shutil.copytree(projected.root, tmp_path / "home")
    home = Home(tmp_path / "home")
    before = tree(home)
    words = ["project", "--date", str(DATE), "--home", str(home.root), "--json", "--symbols"]
    told = json.loads(CliRunner().invoke(app, [*words, "BRK B"]).output)
    after = tree(home)
    assert before.items() <= after.items()
    new = {name for name in after.keys() - before.keys() if name.startswith("exports/")}
    assert new == {
        f"exports/{kind}_{DATE}_BRK%20B.{end}"
        for kind, end in (
            ("buckets", "parquet"),
            ("decisions", "parquet"),
            ("fills", "json"),
            ("health", "json"),
            ("day", "svg"),
        )
    }
    rows = pq.read_table(home.exports() / f"buckets_{DATE}_BRK%20B.parquet")
    assert set(rows["symbol"].to_pylist()) == {"BRK B"}
    assert told["rows"]["buckets"] == rows.num_rows
    assert told["rows"]["episodes"] == len(list(home.on(DATE).episodes_of("BRK B").glob("*.json")))
    CliRunner().invoke(app, [*words, "BRK B,AAA"])
    CliRunner().invoke(app, [*words, "AAA,BRK B"])
    assert len(list(home.exports().glob("buckets_*"))) == 3


@pytest.mark.parametrize(
    ("symbols", "ends", "says"),
    [("NOPE,AAA", 8, "'NOPE' was not recorded on"), ("brk b", 8, "'brk b'"), (",", 2, "no symbol is given")],
)
def test_unknown_symbols_are_an_error(projected, symbols, ends, says):
    """A symbol that was not recorded ends with code 8 and the names of those that were; nothing is written."""
    before = tree(projected)
    code, said = hv("project", "--date", str(DATE), "--home", str(projected.root), "--symbols", symbols)
    assert (code, said.count("\n")) == (ends, 1)
    assert says in said
    assert "(recorded: AAA, BRK B)" in said
    assert tree(projected) == before


def test_verify_compares_exports(projected, tmp_path):
    """Exports are compared too: an altered or missing one is named and gives 11; without any it does not print ok."""
    shutil.copytree(projected.root, tmp_path / "home")
    home = Home(tmp_path / "home")
    words = ["verify", "--date", str(DATE), "--home", str(home.root)]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, "8 exports compared; the picture is not compared" in done.output) == (0, True)
    assert "episode files compared" in done.output
    path = home.exports() / f"fills_{DATE}.json"
    path.write_bytes(path.read_bytes().replace(b'"price": ', b'"price": 1', 1))
    (home.exports() / f"decisions_{DATE}.parquet").write_bytes(b"PAR1")
    (home.exports() / f"health_{DATE}.json").unlink()
    candles, signals = (next(iter(home.exports().glob(f"{name}_AAA_*.json"))) for name in CANDLES)
    candles.write_bytes(candles.read_bytes().replace(b'"close": ', b'"close": 1', 1))
    signals.write_bytes(signals.read_bytes().replace(b'"outages": ', b'"outages": 1', 1))
    found = verify(home.on(DATE))
    assert found.exit_code == 11
    assert found.exports.checked == 7
    assert found.exports.differences == [
        f"exports/decisions_{DATE}.parquet: unreadable",
        f"exports/fills_{DATE}.json: different",
        f"exports/{candles.name}: different",
        f"exports/{signals.name}: different",
        f"exports/health_{DATE}.json: missing",
    ]
    assert f"health_{DATE}.json: missing; `hv project` writes it" in CliRunner().invoke(app, words).output
    assert CliRunner().invoke(app, ["project", *words[1:]]).exit_code == 0
    assert (verify(home.on(DATE)).exit_code, verify(home.on(DATE)).exports.status) == (0, "equal")
    shutil.rmtree(home.exports())
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, "exports  --   not compared: none of the whole date" in done.output) == (0, True)
    assert json.loads(CliRunner().invoke(app, [*words, "--json"]).output)["exports"]["status"] == "not compared"
    assert CliRunner().invoke(app, ["project", *words[1:], "--symbols", "AAA"]).exit_code == 0
    found = verify(home.on(DATE)).exports  # candles of one symbol have the names of the whole date's
    assert (found.status, found.checked, found.differences) == ("equal", 2, [])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and SIGTERM of POSIX")
def test_projected_killed_recorded_on_and_verified(tmp_path):
    """With real recorders: projected in the middle, kill -9, continued, ended, verified clean."""

    async def scenario() -> None:
        home = Home(tmp_path)
        async with Served(home, 120.0) as served:
            recorder = await served.recorder("--commit-seconds", "0.05", "--digest-seconds", "1")
            last = await served.until_events(1500)
            _, looked = await asyncio.to_thread(project, home.on(DATE))
            assert looked.differences == []
            recorder.kill()
            await recorder.communicate()
            recorder = await served.recorder("--commit-seconds", "0.05", "--digest-seconds", "1")
            await served.until_events(last + 1500)
            await asyncio.to_thread(project, home.on(DATE))
            recorder.send_signal(signal.SIGTERM)
            await asyncio.wait_for(recorder.communicate(), 60)
        assert "DATA_END" not in ends(home)
        found = verify(home.on(DATE))
        assert (found.exit_code, found.files.differences) == (0, [])

    asyncio.run(scenario())
