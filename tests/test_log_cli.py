from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from log_samples import DATE, START_NS, batch, write_run
from typer.testing import CliRunner

from cli.app import app
from cli.cmd_log import log
from harvester.errors import BadSetting, DamagedLog, LockHeld, NoLog
from harvester.eventlog.storage.format import JOURNAL
from harvester.eventlog.writer import LogWriter
from harvester.events.kinds import Kind
from harvester.home import Home
from tests.processes import PYTHON, python

DAY = DATE.isoformat()


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def hv(home):
    """Run `hv log …` on the test's home; returns the result, or raises the command's error."""

    def run(*words: str, code: int = 0):
        result = CliRunner().invoke(log, [*words, "--home", str(home.root)], catch_exceptions=True)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.output

    return run


def _objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_ls_lists_runs(home, hv):
    """`hv log ls` gives a line per run: tab-separated in a pipe, objects with --json; without any, code 3."""
    for words in (["ls"], ["ls", "--json"]):
        with pytest.raises(NoLog, match="nothing is recorded"):
            hv(*words)
    write_run(home, (5, 5))
    writer = LogWriter.open(home.on(DATE))
    assert [run["status"] for run in _objects(hv("ls", "--json"))] == ["ended", "running"]
    writer.abandon()  # as a kill leaves it
    lines = [line.split("\t") for line in hv("ls").splitlines()]
    assert [line[:4] for line in lines[1:]] == [[DAY, "r001", "ended", "10"], [DAY, "r002", "broken off", "0"]]
    assert lines[1][4] == "2025-07-17T13:00:00Z"
    assert [run["events"] for run in _objects(hv("ls", "--json"))] == [10, 0]
    (home.on(DATE).log / "r001" / JOURNAL).write_bytes(b"garbage\n")
    assert [run["status"] for run in _objects(hv("ls", "--json"))] == ["damaged", "broken off"]


def test_show_prints_events_in_order(home, hv):
    """`hv log show` prints events in seq order, by kind, from a seq, up to a limit; control characters are escaped."""
    whole = write_run(home, (60,))
    rows = _objects(hv("show", "--date", DAY, "--json", "--limit", "0"))
    assert [row["seq"] for row in rows] == list(range(1, 61))
    assert rows[0]["kind"] in {kind.value for kind in Kind}
    trades = _objects(hv("show", "--date", DAY, "--json", "--kind", "trade", "--kind", "quote"))
    assert len(trades) == sum(whole.tables[kind].num_rows for kind in (Kind.TRADE, Kind.QUOTE))
    some = _objects(hv("show", "--date", DAY, "--from-seq", "7", "--limit", "2", "--json"))
    assert [row["seq"] for row in some] == [7, 8]
    text = hv("show", "--date", DAY, "--limit", "0")
    assert len(text.splitlines()) == 60
    assert "\x00" not in text
    assert text.startswith("1\t2025-07-17T13:00:00")
    with pytest.raises(BadSetting, match="--kind 'nonsense' is not an event kind; choose from contract"):
        hv("show", "--date", DAY, "--kind", "nonsense")
    with pytest.raises(NoLog):
        hv("show", "--date", "2025-07-18")


def test_tail_gives_the_last_events(home, hv):
    """`hv log tail -n` prints the last events, also of a rare kind whose rows are far back."""
    write_run(home, (100,), kinds=(Kind.TRADE, Kind.CLOCK))
    assert [row["seq"] for row in _objects(hv("tail", "--date", DAY, "-n", "3", "--json"))] == [98, 99, 100]
    clocks = _objects(hv("tail", "--date", DAY, "-n", "20", "--kind", "clock", "--json"))
    assert len(clocks) == 20
    assert hv("tail", "--date", DAY, "--kind", "scan") == ""


def test_tail_follows_a_live_log(home):
    """`hv log tail -f` in another process prints each event once, soon after its commit."""
    writer = LogWriter.open(home.on(DATE))
    writer.commit(batch(5))
    command = [*python(), "-c", "from cli.cmd_log import log; log()"]
    command += ["tail", "-f", "-n", "2", "--date", DAY, "--home", str(home.root), "--json"]
    project = Path(__file__).resolve().parent.parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=project) as process:
        seen = [json.loads(process.stdout.readline())["seq"] for _ in range(2)]
        for first in (6, 9):
            writer.commit(batch(3, first, first, start_ns=START_NS + first * 10**9))
            seen += [json.loads(process.stdout.readline())["seq"] for _ in range(3)]
            time.sleep(0.05)
        process.terminate()
    writer.close()
    assert seen == list(range(4, 12))


def test_verify_tells_clean_from_damaged(home, hv):
    """`hv log verify` ends with 0 and the identity when clean, with 1 and the place when damaged."""
    write_run(home, (10, 10), kinds=(Kind.TRADE,))
    assert "clean: 20 events" in hv("verify", "--date", DAY)
    (report,) = _objects(hv("verify", "--date", DAY, "--json"))
    assert report["clean"]
    assert len(report["identity"]) == 64
    path = home.on(DATE).log / "r001" / "trade.arrows"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    text = hv("verify", "--date", DAY, code=1)
    assert "trade.arrows at byte" in text
    assert "good seq: 1-10" in text
    (report,) = _objects(hv("verify", "--date", DAY, "--json", code=1))
    assert [problem["first_seq"] for problem in report["problems"]] == [11]
    with pytest.raises(DamagedLog, match="--salvage"):
        hv("show", "--date", DAY)
    salvaged = hv("show", "--date", DAY, "--salvage")
    assert "salvaged, good seq: 1-10" in salvaged
    assert "(seq 11-20)" in salvaged


def test_nothing_good_offers_no_salvage(home, hv):
    """When a missing file leaves nothing readable, the error names a backup, and --set-aside to continue recording."""
    write_run(home, (10,), kinds=(Kind.TRADE,))
    (home.on(DATE).log / "r001" / "trade.arrows").unlink()
    with pytest.raises(DamagedLog, match=r"good seq: none; no part is readable: .*backup; .*--set-aside") as found:
        hv("show", "--date", DAY)
    assert "--salvage" not in str(found.value)
    said = hv("verify", "--date", DAY, code=1)
    assert ("from a backup" in said, "--salvage" in said) == (True, False)
    hv("recover", "--date", DAY, "--set-aside")
    with LogWriter.open(home.on(DATE)) as writer:
        assert writer.next_seq == 11


def test_recover_mends_a_killed_run(home, hv):
    """`hv log recover` moves torn bytes to quarantine and reports it; a date being recorded is refused."""
    writer = LogWriter.open(home.on(DATE))
    writer.commit(batch(5, kinds=(Kind.TRADE,)))
    with pytest.raises(LockHeld):
        hv("recover", "--date", DAY)
    assert "r001\trunning\t" in hv("verify", "--date", DAY)
    writer.abandon()
    assert "r001\tbroken off\t" in hv("verify", "--date", DAY)
    said = CliRunner().invoke(app, ["status", "--date", DAY, "--home", str(home.root)]).output
    assert said.startswith(f"{DAY} is not being recorded: the last run broke off; ")
    (report,) = _objects(hv("verify", "--date", DAY, "--json"))
    assert [run["status"] for run in report["runs"]] == ["running"]
    with (writer.folder / "trade.arrows").open("ab") as file:
        file.write(b"torn")
    assert "note: r001: 4 bytes of trade.arrows" in hv("verify", "--date", DAY)
    (told,) = _objects(hv("recover", "--date", DAY, "--json"))
    (mended,) = told["recovered"]
    assert (mended["run"], mended["last_seq"], mended["torn"]) == ("r001", 5, {"trade.arrows": 4})
    assert Path(
        mended["quarantine"], "r001.trade.arrows.at" + str((writer.folder / "trade.arrows").stat().st_size)
    ).exists()
    told = hv("recover", "--date", DAY)
    assert "nothing to recover" in told
    assert f"this does not repair damage; hv log verify --date {DAY} checks for it" in told
    nothing = {"trading_date": DAY, "recovered": [], "set_aside": []}
    assert _objects(hv("recover", "--date", DAY, "--json")) == [nothing]
    assert "clean" in hv("verify", "--date", DAY)
    with pytest.raises(NoLog):
        hv("recover", "--date", "2025-07-18")


def test_json_tells_what_was_done(home, hv):
    """`hv log compact --json` and `hv log recover --json` print one object, also when there is nothing to do."""
    write_run(home, (5, 5))
    (told,) = _objects(hv("compact", "--date", DAY, "--json"))
    assert [(run["run"], run["rows"], run["left"]) for run in told["compacted"]] == [("r001", 10, [])]
    assert _objects(hv("compact", "--date", DAY, "--json")) == [{"trading_date": DAY, "compacted": []}]
    (home.on(DATE).log / "r001" / "manifest.json").write_bytes(b"garbage")
    (told,) = _objects(hv("recover", "--date", DAY, "--set-aside", "--json"))
    (note,) = told["set_aside"]
    assert (note["run"], note["first_seq"], note["folder"]) == ("r001", 1, f"temp/events/{DAY}/quarantine/r001")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT of POSIX")
@pytest.mark.parametrize("debug", [False, True])
def test_ctrl_c_while_loading_is_one_line(tmp_path, debug):
    """Ctrl-C before the command line is loaded prints one line and gives exit code 130; --debug adds the traceback."""
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [*PYTHON, "-m", "cli.app", "log", "ls", *(["--debug"] if debug else [])],
        cwd=Path(__file__).resolve().parent.parent,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGINT
    assert ("Traceback" in done.stderr) is debug
    assert debug or done.stderr == "hv: interrupted\n"
