"""`hv strategy`, the examples of docs/strategies.md, and a pack of cheats: each is harmless or named by `check`."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from cli.app import app
from harvester.eventlog.reader import open_day
from harvester.home import Home
from harvester.memory.strategy_files import keep_copy, load, load_all
from harvester.rebuild.check_child import (
    between,
    first_moved,
    fold,
    forked_folds,
    moved,
    odd_cuts,
    sample,
    separate_folds,
)
from harvester.rebuild.strategy_check import check
from tests.trading_log import DATE, record

DOCS = Path(__file__).resolve().parent.parent / "docs/strategies.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


SHIPPED_NAMES = ("imbalance_breakout", "random_entry", "scanner_entry")  # other tests add to the list itself


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = Home(tmp_path_factory.mktemp("home")).prepare()
    record(root, seconds=240)
    return root


def hv(*words: str):
    return CliRunner().invoke(app, list(words))


def cheat(tmp_path, body: str, head: str = "", name: str = "Cheat") -> str:
    """A file with a strategy that runs `body` every second, then buys on some of them."""
    text = f"from harvester import Strategy\n{head}\n\nclass {name}(Strategy):\n    def on_second(self, now):\n"
    text += "".join(f"        {line}\n" for line in body.splitlines())
    path = tmp_path / f"{name.lower()}.py"
    path.write_text(text)
    return f"{path}:{name}"


BUY = "return self.buy(10, valid_seconds=1) if {} and not now.position else self.exit()"


@pytest.mark.parametrize("text", EXAMPLES, ids=["fade", "dip", "ride"])
def test_examples_of_the_docs(home, tmp_path, text):
    """Each example of docs/strategies.md runs over a date without a failure, and sends orders."""
    path = tmp_path / "example.py"
    path.write_text(text)
    name = re.search(r"class (\w+)\(", text)[1]
    settings = {"drop_bps": 0.5} if name == "Fade" else {"offset_bps": 0.5} if name == "Dip" else {}
    decisions, failures = fold(open_day(DATE, home), [load(f"{path}:{name}", settings)])
    assert failures == []
    assert "enter" in decisions["action"].to_pylist()


def test_the_docs_name_every_shipped_strategy():
    """docs/strategies.md describes every shipped strategy, and has three examples."""
    assert len(EXAMPLES) == 3
    assert all(f"`{name}`" in DOCS.read_text(encoding="utf-8") for name in SHIPPED_NAMES)


def test_new(home, tmp_path, monkeypatch):
    """`hv strategy new` writes an example that folds without a failure; it never overwrites a file."""
    monkeypatch.chdir(tmp_path)
    assert hv("strategy", "new", "my_fade").exit_code == 0
    _, failures = fold(open_day(DATE, home), [load("my_fade.py:MyFade")])
    assert failures == []
    assert "exists" in str(hv("strategy", "new", "my_fade").exception)
    assert "is invalid" in str(hv("strategy", "new", "My-Fade").exception)
    for name in ("random", "class", "strategy"):
        assert "would hide" in str(hv("strategy", "new", name).exception)
    assert [path.name for path in tmp_path.glob("*.py")] == ["my_fade.py"]


def test_list(tmp_path, monkeypatch):
    """`hv strategy list` shows shipped strategies, copies, and damaged copies."""
    monkeypatch.chdir(tmp_path)
    hv("strategy", "new", "mine")
    root = Home(tmp_path / "home").prepare()
    copy = keep_copy(load("mine.py:Mine"), root)
    shown = hv("strategy", "list", "--home", str(root.root)).stdout
    assert all(name in shown for name in SHIPPED_NAMES)
    assert "copy of mine:Mine" in shown
    (copy / "mine.py").write_text("")
    assert "damaged copy" in hv("strategy", "list", "--home", str(root.root)).stdout


def test_recording_refuses_a_missing_file(tmp_path):
    """`hv record --strategy FILE:CLASS` of a missing file is refused before anything is connected."""
    done = hv("record", "--home", str(tmp_path), "--symbols", "AAA", "--strategy", "none.py:Mine", "--port", "1")
    assert "there is no file" in str(done.exception)
    assert done.exception.exit_code == 2
    assert not (tmp_path / "temp/events").exists()


# ---- no false alarm ------------------------------------------------------------------------------------------------


def test_shipped_strategies_pass(home):
    """Every shipped strategy passes every test of `check`, in two processes."""
    settings = {"random_entry": {"per_hour": 600.0}, "scanner_entry": {"offset_bps": 0.0}}
    report = check(home, DATE, list(SHIPPED_NAMES), settings)
    assert [line.difference for line in report.lines] == [""] * 6
    assert report.acts > 10


# ---- cheats --------------------------------------------------------------------------------------------------------


def differences(home, wanted: str) -> list[str]:
    """The first difference by cuts, and by noise after decisions."""
    day, found = open_day(DATE, home), load_all([wanted], {}, [])
    plain, _ = fold(day, found)
    assert plain.num_rows > 0
    cut = moved(plain, fold(day, found, odd_cuts(day.first_seq, day.last_seq))[0])
    return [cut, first_moved(plain, day, found, sample(plain, plain, 4))]


COUNTER = "import sys, itertools\nsys.cheat = getattr(sys, 'cheat', itertools.count())"
NUMBERS_IMPORT = "from harvester.projections.trading.user_strategy import NUMBERS"
PEEK = """
import sys
frame = sys._getframe(1)
while "slot" not in frame.f_locals:
    frame = frame.f_back
rows = frame.f_locals["self"]._rows
at = min(frame.f_locals["slot"] + 20, len(rows.keys) - 1)
later = next(iter(rows.numbers(at, at + 1)))
"""


@pytest.mark.parametrize(
    ("body", "head"),
    [
        (BUY.format("random.random() < 0.1"), "import random"),
        (BUY.format("next(sys.cheat) % 7 == 0"), COUNTER),
        (PEEK.strip() + "\n" + BUY.format("later[NUMBERS.index('mid')] > now.mid"), NUMBERS_IMPORT),
    ],
    ids=["randomness", "state of the process", "peeking through the frames"],
)  # fmt: skip
def test_cheats_that_move_decisions(home, tmp_path, body, head):
    """Randomness, state kept beyond a fold, and the future read out of the framework's frames move decisions."""
    assert any(differences(home, cheat(tmp_path, body, head)))


def test_a_short_look_ahead_needs_many_decisions(home, tmp_path):
    """A look 10 s ahead in 5 s of the day is missed by noise after 4 decisions, and named by noise after 50."""
    wanted = (
        "later[NUMBERS.index('mid')] > now.mid" + " if 80 <= now.second // 10**9 % 240 < 85 else now.second % 23 == 0"
    )
    strategy = cheat(tmp_path, PEEK.strip() + "\n" + BUY.format(f"({wanted})"), NUMBERS_IMPORT)
    day, found = open_day(DATE, home), load_all([strategy], {}, [])
    plain, failures = fold(day, found)
    assert failures == []
    acts = plain.filter(pc.not_equal(plain["action"], "none"))
    assert first_moved(plain, day, found, sample(plain, acts, 4)) == ""
    assert "replaced" in first_moved(plain, day, found, sample(plain, acts, 50))


def test_both_ways_of_noise_agree(home):
    """Folds in copies of the process give the decisions of folds from the beginning of the date, later ones too."""
    day, found = open_day(DATE, home), load_all(["random_entry"], {"random_entry": {"per_hour": 600.0}}, [])
    plain, _ = fold(day, found)
    seqs = sample(plain, plain, 3)
    forked = list(forked_folds(day, found, seqs))
    for (seq, since, one, ended), (_, _, other, _) in zip(forked, separate_folds(day, found, seqs), strict=True):
        assert ended == ""
        assert one.num_rows
        assert moved(one, between(other, since, 2**62)) == ""
        assert moved(between(plain, since, 2**62), between(other, since, 2**62))
        assert seq in one["seq"].to_pylist()


@pytest.mark.parametrize(
    ("body", "head"),
    [
        ("SEEN.append(now)\n" + BUY.format("len(SEEN) % 5 == 0"), "SEEN = []"),
        ("self.state.kept = getattr(self.state, 'kept', now)\n" + BUY.format("self.state.kept.mid < now.mid"), ""),
        ("Strategy.count = getattr(Strategy, 'own', 0)\n" + BUY.format("now.second % 7 == 0"), ""),
    ],
    ids=["globals of the module", "kept views", "attributes of the base class"],
)  # fmt: skip
def test_cheats_that_are_harmless(home, tmp_path, body, head):
    """Globals begin fresh with every fold, and a kept view is only a tuple of old values."""
    assert differences(home, cheat(tmp_path, body, head)) == ["", ""]


def test_clock_disk_and_socket_are_named(home, tmp_path):
    """A strategy that trades by the clock, reads a file and opens a socket is named by `check`, with exit code 11."""
    body = "open(FILE).read()\nsocket.socket().close()\n" + BUY.format(f"time.time() > {time.time() + 1e6}")
    wanted = cheat(tmp_path, body, f"import socket, time\nFILE = {str(tmp_path / 'cheat.py.txt')!r}")
    (tmp_path / "cheat.py.txt").write_text("")
    done = hv("strategy", "check", wanted, "--home", str(home.root), "--date", str(DATE))
    assert re.search(r"FAILED +two processes.* seq \d+, cheat AAA: ", done.output), done.output
    assert re.search(r"FAILED +no file, socket or process.*cheat.py.txt.*socket", done.output), done.output
    assert done.exception.exit_code == 11


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("import os; os._exit(3)", "ended with code 3"),
        ("import ctypes; ctypes.string_at(0)", "ended with code"),
        ("while True: pass", "no answer within the limit"),
    ],
    ids=["exit", "segfault", "endless loop"],
)
@pytest.mark.skipif(os.name == "nt", reason="the codes of POSIX")
def test_ends_of_the_process(home, tmp_path, body, why):
    """A strategy that ends or occupies its process fails the check, and nothing of it is left running."""
    report = check(home, DATE, [cheat(tmp_path, body)], call_s_max=1.0)
    said = [line.difference for line in report.lines]
    assert any(why in one for one in said), said


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of Linux covers all allocations")
def test_memory_has_a_limit(home, tmp_path):
    """A strategy that takes more memory than `check` allows fails by name; the machine's memory is not used up."""
    report = check(home, DATE, [cheat(tmp_path, "self.state.all = bytearray(16 << 30)")])
    assert ["MemoryError" in line.difference for line in report.lines] == [False] * 5 + [True]
