"""`hv replay`: the same rows at every speed, in the order in which they became known; pause, step and seek."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trading_log import DATE, record
from typer.testing import CliRunner

from cli.app import app
from harvester.demo import DemoDay, check_day, fresh_home
from harvester.errors import BadSetting
from harvester.eventlog.reader import open_day
from harvester.home import Home
from harvester.rebuild.project import fold_day
from harvester.replay.replay import TABLES, Replay, ReplayPlayer
from harvester.replay.seek import Seeker
from tests.processes import PYTHON, python

PROJECT = Path(__file__).resolve().parent.parent
SECOND = 1_000_000_000
SHOW = ("trades", "buckets", "decisions", "fills", "episodes")
TEN = 1_752_760_800 * SECOND  # 10:00 in New York, where the recorded part begins


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    made = Home(tmp_path_factory.mktemp("home")).prepare()
    record(made, runs=2, seconds=450)
    return made


def replay(home: Home, **wishes) -> Replay:
    return Replay(Seeker(home, open_day(DATE, home), market_only=False), **{"show": SHOW, **wishes})


def stepped(played: Replay) -> list:
    rows = []
    while (step := played.step()) is not None:
        rows += step
    return rows + played.rest()


@pytest.fixture(scope="module")
def whole(home):
    return [row for rows in replay(home).stream() for row in rows]


def test_steps_and_stream_give_the_same_rows(home, whole):
    """Step by step or all at once: equal rows in equal order."""
    assert stepped(replay(home)) == whole
    assert {row.table for row in whole} == set(SHOW)


def test_rows_are_those_of_the_projection(home, whole):
    """Every table's rows equal those `hv project` makes, none missing and none twice."""
    made = fold_day(open_day(DATE, home))
    for name in SHOW[1:]:
        expected = made.tables[name].drop_columns(["document"] if name == "episodes" else []).to_pylist()
        assert [row.row for row in whole if row.table == name] == expected


def test_part_of_a_day(home, whole):
    """From and to give exactly the rows that became known between them; symbols leave out the others."""
    made = open_day(DATE, home)
    clocks = {row["seq"]: row["ts_recv"] for row in made.table("clock").to_pylist()}
    first, last = TEN + 30 * SECOND, TEN + 200 * SECOND
    got = stepped(replay(home, show=("buckets", "decisions"), start=first, end=last, symbols=("AAA",)))
    expected = [
        row
        for row in whole
        if row.table in ("buckets", "decisions")
        and row.row["symbol"] == "AAA"
        and first <= clocks[row.row[TABLES[row.table][0]]] <= last
    ]
    assert got == expected
    assert len(got) > 300


def test_seeking_gives_what_came_then(home, whole):
    """Forward and back again: the rows after a place are those of the first pass."""
    played = replay(home, show=("buckets",))
    for second in (100, 20, 300, 0):
        played.seek(TEN + second * SECOND)
        rows = played.step() + played.step()
        assert {row.ts for row in rows} <= {TEN + (second + n) * SECOND for n in (-1, 0, 1)}
        assert all(row in whole for row in rows)
        assert rows


class Script:
    """A fake user interface that presses keys by a script, with its own clock."""

    def __init__(self, *keys: str, at: int | None = None) -> None:
        self.keys, self.now, self.shown, self.states, self.at = list(keys), 0, [], [], at
        self.moves = []

    def show(self, rows) -> None:
        self.shown.append((self.now / SECOND, rows))

    def state(self, ts, speed, *, paused) -> None:
        self.states.append((ts, speed, paused))

    def moved(self, ts) -> None:
        self.moves.append(ts)

    def key(self, seconds):
        key = self.keys.pop(0) if self.keys else ""
        if not key:
            assert seconds is not None, "paused for ever and no key left"
            self.now += round(seconds * SECOND)
        return key

    def time(self):
        return self.at


def play(home: Home, hands: Script, speed: float, **wishes) -> list[tuple[float, int]]:
    """(real second shown, market second of the row) of every step that showed something."""
    ReplayPlayer(replay(home, show=("buckets",), symbols=("AAA",), **wishes), hands, speed, lambda: hands.now).run()
    return [(at, (rows[-1].ts - TEN) // SECOND) for at, rows in hands.shown if rows]


def test_speed_is_market_time_over_real_time(home):
    """Ten times as fast: ten market seconds take one."""
    steps = play(home, Script(), 10, start=TEN, end=TEN + 40 * SECOND)
    (first, begin), (last, end) = steps[0], steps[-1]
    assert end - begin >= 38
    assert last - first == pytest.approx((end - begin) / 10, abs=0.2)


def test_speed_max_waits_for_nothing(home):
    """At speed 0 no real time passes."""
    assert {at for at, _ in play(home, Script(), 0, start=TEN, end=TEN + 40 * SECOND)} == {0.0}


def test_pause_step_and_go_on(home):
    """While paused only a step shows anything, one each; space goes on, at the speed from there."""
    hands = Script("pause", "step", "step", "pause")
    steps = play(home, hands, 1, start=TEN, end=TEN + 5 * SECOND)
    assert [at for at, _ in steps][:2] == [0.0, 0.0]
    assert any(paused for _, _, paused in hands.states)
    assert [second for _, second in steps] == sorted({second for _, second in steps})


def test_back_forward_goto_and_quit(home):
    """Arrows move a minute, g to a time; q ends at once."""
    hands = Script("forward", "", "goto", "", "", "back", "", "quit", at=TEN + 300 * SECOND)
    seconds = [second for _, second in play(home, hands, 1000, start=TEN + 100 * SECOND)]
    assert seconds[0] in range(158, 161)
    assert seconds[1] in range(298, 301)
    assert seconds[-1] in range(238, 245)
    assert len(seconds) <= 5


def test_faster_and_slower(home):
    """Each key doubles or halves the speed."""
    hands = Script("faster", "faster", "slower", "quit")
    play(home, hands, 3)
    assert [speed for _, speed, _ in hands.states] == [3, 6, 12, 6]


def hv(home: Home, *words: str) -> str:
    words = ("replay", "--date", str(DATE), "--home", str(home.root), *words)
    return CliRunner().invoke(app, words, catch_exceptions=False).output


def test_lines_in_a_pipe(home, whole):
    """Plain lines or JSON objects, the same rows at every speed; errors list the valid choices."""
    lines = [json.loads(line) for line in hv(home, "--json", "--show", ",".join(SHOW)).splitlines()]
    assert [line["table"] for line in lines] == [row.table for row in whole]
    plain = hv(home, "--to", "10:01")
    assert plain == hv(home, "--to", "10:01", "--speed", "100000")
    assert "10:00:30           bucket   AAA    bid " in plain
    with pytest.raises(BadSetting, match="choose from trades, buckets"):
        hv(home, "--show", "ticks")
    with pytest.raises(BadSetting, match="--speed 'fast'"):
        hv(home, "--speed", "fast")


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
def test_keys_on_a_terminal(home):
    """On a real terminal: space pauses, s steps, g goes to a typed time, q quits and leaves the terminal as it was."""
    import pty
    import termios

    main, other = pty.openpty()
    before = termios.tcgetattr(other)
    words = ["replay", "--date", str(DATE), "--home", str(home.root), "--speed", "1", "--show", "buckets"]
    child = subprocess.Popen([*PYTHON, "-m", "cli.app", *words], cwd=PROJECT, stdin=other, stdout=other, stderr=other)
    seen = ""

    def until(text: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while text not in seen:
            assert time.monotonic() < deadline, f"no {text!r} in {seen[-2000:]!r}"
            if select.select([main], [], [], 0.2)[0]:
                seen += os.read(main, 4096).decode()
        seen = seen.split(text, 1)[1]

    try:
        until("New York  speed 1")
        os.write(main, b" ")
        until("paused")
        os.write(main, b"g10:03:00\n")
        until("10:03:00 New York  paused")
        os.write(main, b"s")
        until("10:03:00           bucket")
        os.write(main, b"\x1b[D")
        until("10:02:01 New York  paused")
        os.write(main, b"q")
        assert child.wait(20) == 0
        assert termios.tcgetattr(other) == before
    finally:
        child.kill()
        os.close(main)
        os.close(other)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--symbols", "ZZZ"], 8, "'ZZZ' was not recorded on 2025-07-17 (recorded: "),
        (["--from", "12:00", "--to", "11:00"], 2, "--from 12:00 is after --to 11:00"),
        (["--from", "23:00"], 2, "--from 2025-07-17 23:00:00 in New York is after the recording of 2025-07-17 ("),
        (["--to", "01:00"], 2, "--to 2025-07-17 01:00:00 in New York is before the recording of 2025-07-17 ("),
        (["--speed", "0"], 2, "--speed '0' is not a speed; give a multiple of real time"),
    ],
)
def test_mistakes_are_told(home, options, code, said):
    command = [
        *python(),
        "-m",
        "cli.app",
        "replay",
        "--home",
        str(home.root),
        "--date",
        DATE.isoformat(),
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == code
    assert said in done.stderr
    assert not done.stdout


def test_a_demo_that_cannot_be_leaves_the_one_before(tmp_path):
    """Invalid options are refused before an earlier demo is deleted."""
    with pytest.raises(BadSetting, match="rate is 0"):
        check_day(DemoDay(DATE, ("ACME",), seed=1, rate=0))
    root = tmp_path / "demo"
    fresh_home(Home(root).on(DATE))
    (root / "memory" / "kept.txt").write_text("kept")
    command = [*python(), "-m", "cli.app", "demo", "--home", str(root), "--rate", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == 2
    assert (root / "memory" / "kept.txt").exists()
