"""Users' strategies while recording: they run in a process of their own, and nothing they do hurts the recording."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from cli.app import app
from harvester.config import Settings
from harvester.errors import BadSetting
from harvester.events.kinds import Kind, Own
from harvester.home import Home
from harvester.memory.strategy_files import KeptStrategies
from harvester.projections.trading.failure import first_failures
from harvester.rebuild.project import fold_day
from harvester.rebuild.verify_day import verify
from harvester.recorder import trading_process
from harvester.recorder.start_checks import own_strategies
from tests.recording import lockstep, model, run

TEN_LINES = """
from harvester import Strategy


class Fade(Strategy):
    every: int = 20

    def on_second(self, now):
        n = self.state.n = getattr(self.state, "n", 0) + 1
        if now.position is None and n % self.every == 0:
            return self.buy(100, stop=now.bid - 0.05, target=now.ask + 0.05, hold_seconds_max=30)
"""


def recorded(tmp_path, text: str, *names: str, minutes: float = 1.5, **settings):
    """A recording with strategies of one file, and its home."""
    (tmp_path / "mine.py").write_text(text)
    home = Home(tmp_path / "home")
    wanted = tuple(f"{tmp_path / 'mine.py'}:{name}" for name in names)
    given = {"strategy": wanted, "commit_seconds": 5, "digest_seconds": 30} | settings
    return run(lockstep(model(extended_minutes=0), home, minutes=minutes, **given)), home


def test_ten_lines(tmp_path):
    """A ten-line strategy outside the project trades while recording; live and replay are equal, its copy is kept."""
    done, home = recorded(tmp_path, TEN_LINES, "Fade", strategy_values=("every=10",))
    day = done.day()
    made = fold_day(day, library=KeptStrategies(home))
    assert made.tables["episodes"].num_rows > 0
    assert set(made.tables["decisions"]["strategy"].to_pylist()) == {"fade"}
    lines = day.live_digests()
    assert len(lines) > 2
    assert all("trading" in digests for _, _, digests in lines)
    (tmp_path / "mine.py").unlink()
    report = verify(home.on(day.trading_date))
    assert (report.live.points, report.live.equal, report.exit_code) == (len(lines), len(lines), 0)
    assert report.files.checked > 0
    assert done.summary.notes == []


CHEATS = """
import random
import socket
import subprocess
import time

import harvester
from harvester import Strategy
from harvester.projections.trading.user_strategy import Now

SEEN = []


class Base(Strategy):
    after: int = 40

    def on_second(self, now):
        if now.seconds_since_open > self.after:
            return self.cheat(now)
        if now.seconds_since_open > 10 and now.position is None:
            return self.buy(100, stop=now.bid - 1)


class Late(Base):
    def cheat(self, now):
        self.state.changed = now.seq
        raise RuntimeError("late")


class NaN(Base):
    name = "nan_quantity"

    def cheat(self, now):
        return [self.exit(), self.buy(float("nan"))]


class WrongSide(Base):
    def cheat(self, now):
        return self.move_stop(now.ask + 1) if now.position else self.buy(1, stop=now.ask + 1)


class Mutate(Base):
    def cheat(self, now):
        now.bid = 1.0


class Socket(Base):
    def cheat(self, now):
        socket.create_connection(("127.0.0.1", 9))


class Process(Base):
    def cheat(self, now):
        subprocess.run(["true"])


class Patch(Base):
    def cheat(self, now):
        harvester.Strategy.buy = None
        Now.mid = 3.0
        SEEN.append(now)
        return self.buy(1)


class Memory(Base):
    def cheat(self, now):
        self.state.all = [bytearray(1 << 30) for _ in range(4)]


class Leave(Base):
    def cheat(self, now):
        raise SystemExit(0)


class Printer(Base):
    def cheat(self, now):
        print("to nowhere", input)


class Exit(Base):
    def cheat(self, now):
        import os

        os._exit(0)


class Crash(Base):
    def cheat(self, now):
        import ctypes

        ctypes.string_at(0)


class Loop(Base):
    def cheat(self, now):
        while True:
            pass
"""
EXCEPTIONS = ("Late", "NaN", "WrongSide", "Mutate", "Socket", "Process", "Memory", "Leave", "Printer")


def names_of_failures(day) -> dict[str, str]:
    found = first_failures(day.table(Kind.NOTICE).to_pylist())
    return {name: failure.why for (name, _), failure in found.items()}


def assert_live_is_replay(done, home) -> None:
    """Every live digest, that of trading too, is what a replay gives, and so are the files."""
    day = done.day()
    report = verify(home.on(day.trading_date))
    assert report.live.points == report.live.equal > 2
    assert report.exit_code == 0
    assert all("trading" in digests for _, _, digests in day.live_digests())


def test_failing_strategies_are_dropped_by_a_notice(tmp_path):
    """Each failing strategy is dropped by a notice; there its position is left as STRATEGY_ERROR; replay is equal."""
    done, home = recorded(tmp_path, CHEATS, *EXCEPTIONS)
    day = done.day()
    whys = names_of_failures(day)
    assert set(whys) == {"late", "nan_quantity", "wrong_side", "mutate", "socket", "process", "memory", "leave"}
    assert "may not open sockets" in whys["socket"]
    assert "may not start processes" in whys["process"]
    assert "MemoryError" in whys["memory"]
    assert len(done.summary.notes) == len(whys)
    assert_live_is_replay(done, home)
    notices = [r for r in day.table(Kind.NOTICE).to_pylist() if r["code"] == Own.STRATEGY_DROPPED]
    rows = fold_day(day, library=KeptStrategies(home)).tables["episodes"].to_pylist()
    left = [row for row in rows if row["exit_reason"] == "STRATEGY_ERROR"]
    assert len({row["strategy"] for row in left}) > 3
    assert {row["strategy"] for row in left} <= set(whys)
    assert not any(row["learned_from"] for row in left)
    dropped_at = min(row["ts_recv"] for row in notices)
    assert all(row["exit_ts"] >= dropped_at + 250_000_000 for row in left)


def test_strategies_that_end_the_process(tmp_path, monkeypatch):
    """An endless loop, an exit and a crash are named and dropped; the recording and the other strategy go on."""
    monkeypatch.setattr(trading_process, "CALL_S_MAX", 1.0)
    done, home = recorded(tmp_path, CHEATS + TEN_LINES, "Exit", "Crash", "Loop", "Fade")
    whys = names_of_failures(done.day())
    assert set(whys) == {"exit", "crash", "loop"}
    assert "exit status 0" in whys["exit"]
    assert "SIGSEGV" in whys["crash"]
    assert "no answer within 1 s" in whys["loop"]
    assert_live_is_replay(done, home)


def test_same_twice(tmp_path):
    """Two recordings in lockstep with a failing strategy have the same content."""
    hashes = []
    for k in range(2):
        (tmp_path / str(k)).mkdir()
        done, _ = recorded(tmp_path / str(k), CHEATS, "Late")
        hashes.append([one.content_hash for one in done.summary.runs])
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("raise ValueError('no')", "cannot be imported: ValueError: no"),
        ("import os\nos._exit(3)", "ended with exit status 3 while its module was loaded"),
        ("from harvester import Strategy\nclass Fade(Strategy):\n    x: int\n", "x"),
        ("x = 1", "no class Fade"),
    ],
)
def test_a_strategy_that_cannot_be_loaded(tmp_path, text, why):
    """A file that cannot be loaded is refused in one line before anything is connected or recorded."""
    with pytest.raises(BadSetting, match=why):
        recorded(tmp_path, text, "Fade")
    assert not (tmp_path / "home" / "temp").exists()


def test_settings_name_strategies(tmp_path):
    """A TOML file names strategies and their parameters; the start event has the values, not the paths."""
    path = tmp_path / "s.toml"
    path.write_text('strategies = ["mine.py:Fade", "random_entry"]\n[strategy.fade]\nevery = 7\n')
    settings = Settings.load({}, file=path)
    assert own_strategies(settings)
    assert settings.strategies == ("mine.py:Fade", "random_entry")
    assert settings.strategy_tables == {"fade": {"every": 7}}
    assert "strategy_tables" not in settings.canonical()
    assert not own_strategies(Settings())


def test_late_digests_do_not_cover_trading(tmp_path, monkeypatch):
    """A digest of trading that comes too late is left out, which the summary and `hv verify` say."""
    monkeypatch.setattr(trading_process.TradingProcess, "digest", lambda *_: "")
    done, home = recorded(tmp_path, TEN_LINES, "Fade")
    lines = done.day().live_digests()
    assert all("trading" not in digests for _, _, digests in lines)
    assert f"late for {len(lines)} live digests" in done.summary.notes[0]
    shown = CliRunner().invoke(app, ["verify", "--home", str(home.root), "--date", "2025-07-17"])
    assert shown.exit_code == 0
    assert f"{len(lines)} of them do not cover trading" in shown.stdout
    replayed = CliRunner().invoke(app, ["replay", "--home", str(home.root), "--show", "decisions", "--json"])
    assert '"fade"' in replayed.stdout
    for copy in home.strategies.iterdir():
        (copy / "mine.py").write_text("")
    replayed = CliRunner().invoke(app, ["replay", "--home", str(home.root), "--show", "decisions", "--json"])
    assert '"fade"' not in replayed.stdout
    assert "strategy fade has no intact copy" in replayed.stderr


def test_a_second_run_of_the_date(tmp_path):
    """A strategy that failed stays dropped in the date's next run, without a second notice; the other goes on."""
    names = ("Late", "Fade")
    done, home = recorded(tmp_path, CHEATS + TEN_LINES, *names)
    start = model(extended_minutes=0).start_ns + 120_000_000_000
    done, home = recorded(tmp_path, CHEATS + TEN_LINES, *names, start_ns=start)
    assert [run.run for run in done.day().runs] == ["r001", "r002"]
    notices = [r for r in done.day().table(Kind.NOTICE).to_pylist() if r["code"] == Own.STRATEGY_DROPPED]
    assert len(notices) == 1
    assert_live_is_replay(done, home)
    second = done.day().runs[1].first_seq
    rows = fold_day(done.day(), library=KeptStrategies(home)).tables["decisions"].to_pylist()
    later = [row for row in rows if row["seq"] > second]
    assert {row["gate_codes"] for row in later if row["strategy"] == "late"} == {"STRATEGY_ERROR"}
    assert any(row["action"] == "enter" for row in later if row["strategy"] == "fade")


def test_a_strategy_that_patches_the_package(tmp_path):
    """What a strategy changes in its process stays there: the recorder goes on, and live equals replay."""
    done, home = recorded(tmp_path, CHEATS, "Patch")
    assert set(names_of_failures(done.day())) == {"patch"}
    assert_live_is_replay(done, home)
