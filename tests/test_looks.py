"""Reading commands: default date, symbols in any case, ends of days, narrow screens."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from trading_log import DATE, record
from typer.testing import CliRunner

from cli import cmd_health, cmd_log
from cli.app import app
from harvester.artefacts.json_schemas import SCHEMAS
from harvester.config import Settings
from harvester.errors import BadSetting, NoLog, UnknownSymbol
from harvester.eventlog.symbols import symbol_named
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.home import Home
from harvester.recorder import live_screen
from harvester.recorder.committer import Committer
from harvester.recorder.gateway_wait import GatewayWait
from harvester.recorder.record import Recorder
from tests.market_log import Log
from tests.processes import PYTHON
from tests.recording import lockstep, model

PROJECT = Path(__file__).resolve().parent.parent
SECOND = 1_000_000_000
posix = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")


def hv(home: Home, *words: str, code: int = 0) -> tuple[str, str]:
    """The output of a command on stdout and stderr."""
    done = CliRunner().invoke(app, [*words, "--home", str(home.root)], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout, done.stderr


def on_terminal(home: Home, *words: str, columns: int = 60, keys: tuple[tuple[str, str], ...] = ()) -> str:
    """Everything a command writes to a terminal of `columns` columns; `keys` are pressed once a text has appeared."""
    import fcntl
    import pty
    import struct
    import termios

    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [*PYTHON, "-m", "cli.app", *words, "--home", str(home.root)]
    child = subprocess.Popen(command, cwd=PROJECT, stdin=other, stdout=other, stderr=other, env=environment)
    seen, left, deadline = "", list(keys), time.monotonic() + 90
    try:
        while child.poll() is None or select.select([main], [], [], 0.2)[0]:
            assert time.monotonic() < deadline, seen[-2000:]
            if select.select([main], [], [], 0.2)[0]:
                seen += os.read(main, 4096).decode()
            if left and left[0][0] in seen:
                os.write(main, left.pop(0)[1].encode())
        assert child.returncode == 0, seen
    finally:
        child.kill()
        os.close(main)
        os.close(other)
    return seen


def shown_lines(seen: str) -> list[str]:
    """The visible part of each line: the text after its last carriage return, without colours."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.replace("\r\n", "\n"))
    return [part for line in plain.split("\n") for part in line.split("\r")]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two symbols, two runs, and an older date that is not the newest."""
    made = Home(tmp_path_factory.mktemp("looks")).prepare()
    record(made, runs=2, seconds=200)
    older = made.on(DATE.replace(day=16)).log
    shutil.copytree(made.on(DATE).log, older)  # never read: it is not the newest
    return made


READING = (
    ("buckets", "--symbol", "AAA"),
    ("book", "--symbol", "AAA"),
    ("replay",),
    ("health",),
    ("episodes",),
    ("verify",),
    ("project",),
    ("log", "show"),
    ("log", "tail"),
    ("log", "verify"),
)


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_the_newest_date_is_taken_and_said(home, tmp_path, words):
    """Without --date every reading command uses the newest recorded date and names it on stderr."""
    ends = 12 if words == ("verify",) else 0  # written by hand: no live digests to compare
    done = CliRunner().invoke(app, [*words, "--home", str(home.root)])
    assert done.exit_code in (0, ends), done.output
    assert f"hv: {DATE}, the newest recorded date" in done.stderr
    named = CliRunner().invoke(app, [*words, "--home", str(home.root), "--date", str(DATE)])
    assert "newest" not in named.stderr
    if words != ("project",):  # which skips what it has done
        assert named.stdout == done.stdout
    with pytest.raises(NoLog, match="nothing is recorded under"):
        hv(Home(tmp_path), *words)


def test_symbols_are_found_in_any_case(home):
    """A text that differs from one recorded symbol only in case selects that symbol; the output is the same."""
    for words in (("buckets", "--symbol"), ("book", "--symbol"), ("replay", "--symbols"), ("health", "--symbol")):
        assert hv(home, *words, "brk b", "--date", str(DATE))[0] == hv(home, *words, "BRK B", "--date", str(DATE))[0]
        with pytest.raises(UnknownSymbol, match=rf"'zz' was not recorded on {DATE} \(recorded: AAA, BRK B\)"):
            hv(home, *words, "zz")
    assert symbol_named("Aa", ["AA", "Aa", "B"], DATE) == "Aa"
    with pytest.raises(UnknownSymbol, match=f"'aa' matches AA and Aa on {DATE}"):
        symbol_named("aa", ["AA", "Aa", "B"], DATE)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A day whose book and quotes are cancelled a minute before its end; the first request comes a minute late."""
    made, log = Home(tmp_path_factory.mktemp("ended")), Log()
    log.run_start(at=0)
    log.clock(30)
    log.subscribe(1, "depth", at=60).subscribe(2, "bid_ask")
    for second in range(60, 120):
        log.quote(2, 10, 10.02, at=second + 0.5)
        log.depth(1, f"insert 0 bid 10.00 {second}\ninsert 0 ask 10.02 100")
        log.clock(second + 1)
    log.cancel(1, at=120)
    log.cancel(2, at=120)
    log.subscribe(3, "l1", at=120)  # subscribed, without data
    for second in range(121, 180):
        log.clock(second)
    with LogWriter.open(made.on(DATE), run_start_row={"params": "{}"}) as writer:
        rows = [row for row in log.pending if row[1].get("action") != "run_start"]
        writer.begin(log.pending[0][1]["ts_recv"])
        writer.commit(Batch.of(rows, writer.next_seq))
    return made


def test_an_ended_day_shows_its_last_market(ended, tmp_path):
    """Book and buckets without a time show the last moment with one; the book names it, also in JSON."""
    text, _ = hv(ended, "book", "--symbol", "S7")
    head = " ".join(text.split())
    assert head.startswith(f"S7 {DATE} 09:31:59.5 New York, after seq "), head
    assert ": the last moment with a book; the log ends at 09:32:59" in head
    assert "bid 100 x 10" in head
    assert len(json.loads(hv(ended, "book", "--symbol", "S7", "--json")[0])["bid"]["rows"]) == 10
    whole = json.loads(hv(ended, "buckets", "--symbol", "S7", "--json")[0])["rows"]
    assert whole[-1]["mid"] is None
    last = hv(ended, "buckets", "--symbol", "S7", "--limit", "2")[0].splitlines()[-1].split("\t")
    assert last[:3] == ["2025-07-17T13:31:59Z", "10", "10.02"]
    until = hv(ended, "buckets", "--symbol", "S7", "--to", "09:33", "--limit", "2")[0].splitlines()[-1].split("\t")
    some = json.loads(hv(ended, "buckets", "--symbol", "S7", "--limit", "2", "--json")[0])["rows"]
    quoted = [row for row in whole if row["mid"] is not None]
    assert some == quoted[-2:]
    out = tmp_path / "b.json"
    said, _ = hv(ended, "buckets", "--symbol", "S7", "--limit", "2", "--out", str(out))
    assert (said, json.loads(out.read_text())["rows"]) == (f"2 seconds of S7 in {out}\n", some)
    assert json.loads(hv(ended, "buckets", "--symbol", "S7", "--limit", "0", "--json")[0])["rows"] == whole
    with pytest.raises(BadSetting, match=r"b\.csv: the output is JSON; give a file name that ends in \.json"):
        hv(ended, "buckets", "--symbol", "S7", "--out", str(tmp_path / "b.csv"))
    assert until[1] == ""  # a requested time is shown as it is


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--at", "2025-07-16T09:31"),
            "--at 2025-07-16T09:31 is 2025-07-16 09:31:00 in New York, before the recording",
        ),
        (("--at", "09:29"), r"before the recording of 2025-07-17 \(09:30:00 to 09:32:59\)"),
        (("--at", "16:00"), r"after the recording of 2025-07-17 \(09:30:00 to 09:32:59\)"),
        (("--at", "09:30:40"), r"S7 was not subscribed yet at 09:30:40; first subscription: seq 3 at 09:31:00"),
        (("--seq", "2"), r"S7 was not subscribed yet at seq 2; first subscription: seq 3 at 09:31:00"),
    ],
)
def test_a_place_without_the_symbol_says_where_it_is(ended, words, said):
    """A time of another date, outside the recording, or before the first request: the error gives the valid range."""
    with pytest.raises(BadSetting, match=said):
        hv(ended, "book", "--symbol", "s7", *words)


def test_health_begins_with_the_whole_of_it(home):
    """The first line counts symbols, runs, outages, refusals, missing seqs and comparisons, as verify does."""
    first, *_, last = hv(home, "health", "--date", str(DATE))[0].splitlines()
    streams = json.loads(hv(home, "verify", "--date", str(DATE), "--json")[0])["streams"]
    measured = streams["measured"]
    assert measured < streams["checks"]
    assert re.match(
        rf"{DATE}  source unknown, 2 symbols, 2 runs, \d+ outages?.*, 0 refused, 0 seqs missing; "
        rf"0 of {measured} comparisons",
        first,
    )
    assert last == f"0 of {measured} outside tolerance"


def test_log_show_cuts_long_texts_and_says_when_there_is_nothing(home):
    """A run's start is shortened to fit a screen, and complete in JSON; without events to show, stderr says so."""
    text, _ = hv(home, "log", "show", "--limit", "1")
    assert len(text) < 500
    assert re.search(r"… \([\d,]+ characters\)", text)
    assert len(json.loads(hv(home, "log", "show", "--limit", "1", "--json")[0])["params"]) > 1000
    out, err = hv(home, "log", "show", "--from-seq", "99999", "--date", str(DATE))
    assert (out, "no event from seq 99,999 on; the log of 2025-07-17 ends with seq " in err) == ("", True)
    assert "no event of kind scan from seq 1 on" in hv(home, "log", "show", "--kind", "scan")[1]


def test_schemas_are_listed_in_two_columns(home):
    """All descriptions start in the same column."""
    lines = CliRunner().invoke(app, ["schema"]).output.splitlines()
    widest = max(map(len, SCHEMAS))
    assert {(line[: widest + 2].rstrip() in SCHEMAS, line[widest + 2] != " ") for line in lines} == {(True, True)}


@posix
def test_replay_on_a_narrow_terminal(home):
    """No line is wider than the screen, the keys are named below it, and q leaves an empty line for the prompt."""
    keys = (("space pause", "q"),)
    seen = on_terminal(home, "replay", "--date", str(DATE), "--speed", "2", "--show", "buckets", columns=60, keys=keys)
    lines = shown_lines(seen)
    assert max(map(len, lines)) <= 60
    assert any("speed 2   space pause" in line for line in lines)
    assert lines[-1] == ""


@posix
def test_buckets_on_a_terminal_are_in_new_york(home, ended):
    """One headline names symbol, date, which seconds and the zone; the rows have times of day."""
    seen = on_terminal(home, "buckets", "--symbol", "aaa", "--date", str(DATE), "--limit", "3", columns=200)
    lines = [line for line in shown_lines(seen) if line.strip()]
    head = next(line for line in lines if line.startswith("AAA"))
    assert re.match(rf"AAA  {DATE}  3 of 200 seconds from 10:03:17 to 10:03:19 New York", head)
    assert [line.split()[0] for line in lines[-3:]] == ["10:03:17", "10:03:18", "10:03:19"]
    seen = on_terminal(ended, "buckets", "--symbol", "s7", columns=200)
    assert "seconds, the last with a quote from 09:31:00 to 09:31:59 New York" in "\n".join(shown_lines(seen))


def test_the_waiting_screen_counts_down_and_cuts_nothing(tmp_path):
    """On 60 columns a long reason wraps, and what is left of the wait is shown in minutes and seconds."""
    wait = GatewayWait(Settings.load({"symbols": ["ACME"], "port": 1}), Home(tmp_path), 3_909 * 10**9)
    wait.why = "cannot connect to 127.0.0.1:1: " + "a reason that is long " * 8 + "END"
    console = Console(file=io.StringIO(), width=60)
    console.print(live_screen.waiting_text(wait))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[0] == "hv record waiting for the gateway, 1:05:09 left"
    assert lines[-1].endswith("END")


def test_events_on_a_terminal_are_aligned(monkeypatch, capsys):
    """On a terminal the columns of `hv log show` begin at the same place; in a pipe they are separated by tabs."""
    row = {"seq": 7, "ts_recv": 10**18, "kind": "trade", "con_id": 0, "req_id": 5, "price": 1.5}
    other = {**row, "seq": 123_456, "kind": "quote", "req_id": 12}
    cmd_log._print_event(row, {}, as_json=False)
    assert capsys.readouterr().out.count("\t") == 5
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for one in (row, other):
        cmd_log._print_event(one, {}, as_json=False)
    first, second = capsys.readouterr().out.splitlines()
    assert first.index("price=") == second.index("price=")


def test_health_marks_faults_and_rounds(capsys):
    """Measures of faults have a mark unless they are 0; numbers have three decimals at most."""
    rows = [("outages", 2.0), ("refused", 0.0), ("seconds", 1234.56789), ("rows", 1_200_000.0)]
    cmd_health._show_health([{"symbol": None, "stream": None, "measure": m, "value": v, "unit": "u"} for m, v in rows])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert lines == [
        ["!", "outages", "2", "u"],
        ["refused", "0", "u"],
        ["seconds", "1,234.568", "u"],
        ["rows", "1,200,000", "u"],
    ]


def test_the_live_screen_of_a_narrow_terminal(tmp_path):
    """At 60 columns no line wraps: kinds continue on more rows, words that do not fit are truncated.

    The last frame of a recording that ends has its last quotes, and says what `-` in the table of streams means.
    """
    drawn: dict[int, list[str]] = {}

    def look(recorder: Recorder) -> None:
        async def draw() -> None:
            while True:
                await asyncio.sleep(0.05)
                for width in (60, 200):
                    console = Console(file=io.StringIO(), width=width)
                    console.print(live_screen.picture(recorder, {}, 0.0))
                    drawn[width] = console.file.getvalue().splitlines()

        recorder.committer.samples_quotes = True
        committers.append(recorder.committer)
        tasks.append(asyncio.ensure_future(draw()))

    tasks: list[asyncio.Task[None]] = []
    committers: list[Committer] = []

    async def scenario() -> None:
        await lockstep(model(), Home(tmp_path).prepare(), minutes=2, watch=look)
        for task in tasks:
            task.cancel()

    asyncio.run(scenario())
    assert [quote.bid is not None for quote in committers[0].quotes] == [True] * 3
    narrow = drawn[60]
    assert max(map(len, narrow)) <= 60
    assert "New York" in narrow[0]
    symbols = [line.split()[0] for line in narrow[-4:-1]]
    assert symbols == ["ACME", "BOLT", "CRUX"]  # one line each
    assert " - " in narrow[-2]
    assert narrow[-1].strip() == "- not requested: no line free, or still queued"
    text = "\n".join(narrow)
    assert all(str(kind) in text for kind in (Kind.TICK, Kind.TRADE, Kind.CLOCK, Kind.DEPTH, Kind.NOTICE))
