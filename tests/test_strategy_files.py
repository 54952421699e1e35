"""Strategies from files: found, digested, folded from their copies, given to `hv project`."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from cli.app import app
from harvester.config import Settings
from harvester.errors import BadSetting, CodeChanged
from harvester.eventlog.reader import open_day
from harvester.home import Home
from harvester.memory.strategy_files import KeptStrategies, class_of, keep_copy, load, load_all, read_copy
from harvester.projections.run_params import RunParams, StrategyRef
from harvester.rebuild import call_watch
from harvester.rebuild.project import fold_day
from harvester.rebuild.strategy_folders import folder_name
from tests.trading_log import DATE, record

MINE = """
from __future__ import annotations
from dataclasses import dataclass
from harvester import Strategy
import helper
from lib.sizes import shares


@dataclass
class Note:
    price: float


class Mine(Strategy):
    every: int = 30

    def on_second(self, now):
        if now.position:
            return self.exit("DONE") if now.position.open else None
        if now.second // 1_000_000_000 % self.every:
            return None
        return self.buy(shares(Note(now.ask).price), stop=now.bid - helper.DISTANCE, reason="EVERY")
"""
FIRST = "10:00:01"  # the first clock of the recorded day, in New York
FILES = {
    "mine.py": MINE,
    "helper.py": "DISTANCE = 0.5\n",
    "lib/__init__.py": "",
    "lib/sizes.py": "from . import caps\n\n\ndef shares(price):\n    return min(100, caps.MOST)\n",
    "lib/caps.py": "MOST = 50\n",
    "other.py": "X = 1\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "code"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = Home(tmp_path_factory.mktemp("home")).prepare()
    record(root, seconds=200)
    return root


def hv(*words: str):
    return CliRunner().invoke(app, list(words))


def test_digest_covers_what_is_imported(folder):
    """The digest changes with the file, each module it imports and the parameters; not with others or line ends."""
    wanted = f"{folder / 'mine.py'}:Mine"
    found = load(wanted)
    assert found.ref.name == "mine"
    assert [name for name, _, _ in found.sources.modules] == ["helper", "lib", "lib.caps", "lib.sizes", "mine"]
    assert load(wanted, {"every": 31}).ref.digest != found.ref.digest
    assert load(wanted, {"every": 30}).ref == found.ref
    for name in FILES:
        path = folder / name
        source = path.read_bytes()
        path.write_bytes(source.replace(b"\n", b"\r\n"))
        assert load(wanted).ref.digest == found.ref.digest
        path.write_bytes(source + b"# changed\n")
        assert (load(wanted).ref.digest != found.ref.digest) == (name != "other.py")
        path.write_bytes(source)


def test_module_on_the_path(folder, monkeypatch):
    """`package.module:Class` finds a module on the Python path, with the same digest of its sources."""
    (folder / "pack").mkdir()
    (folder / "pack/__init__.py").write_text("")
    (folder / "pack/inner.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(folder))
    found = load("pack.inner:Mine")
    assert [n for n, _, _ in found.sources.modules] == ["helper", "lib", "lib.caps", "lib.sizes", "pack", "pack.inner"]
    assert found.ref.name == "mine"


def test_modules_are_private_and_fresh(folder):
    """Loading changes no module of the process, and every load executes the modules again."""
    (folder / "json.py").write_text("raise RuntimeError")
    (folder / "mine.py").write_text(MINE + "\nimport json\nSEEN = []\n")
    found = load(f"{folder / 'mine.py'}:Mine")
    before = set(sys.modules)
    first, second = class_of(found.sources), class_of(found.sources)
    assert first is not second
    added = set(sys.modules) - before
    assert all(name.startswith("_hv_strategy_") for name in added)
    assert "helper" not in sys.modules


@pytest.mark.parametrize(
    ("text", "name", "match"),
    [
        (None, "Mine", "there is no file"),
        ("def f(:", "Mine", "is not valid Python"),
        ("import nothing_here", "Mine", "cannot be imported: ModuleNotFoundError"),
        ("raise SystemExit(4)", "Mine", "cannot be imported: SystemExit: 4"),
        ("class Mine: ...", "Mine", r"no class Mine derived from harvester.Strategy \(classes: none\)"),
        ("import harvester\nclass Own(harvester.Strategy): ...", "Mine", r"\(classes: Own\)"),
        ("import harvester\nclass Mine(harvester.Strategy):\n  name = 'random_entry'", "Mine", "name of a shipped one"),
        ("import harvester\nclass Mine(harvester.Strategy):\n  x: 'Nope' = 1", "Mine", "annotations cannot be read"),
        ("import harvester\nclass Mine(harvester.Strategy): ...", "not a name", "is not a class name"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, text, name, match):
    """Each mistake is one line that names the file, the class or the parameter."""
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadSetting, match=match):
        load(f"{path}:{name}")


def test_set(folder):
    """`--set` wins over the settings file, and names its strategy when there are several."""
    mine = f"{folder / 'mine.py'}:Mine"
    (one,) = load_all([mine], {"mine": {"every": 5}}, ["every = 7"])
    assert one.ref.settings == {"every": 7}
    both = load_all([mine, "random_entry"], {"random_entry": {"seed": 3}}, ["mine.every=7"])
    assert [(f.ref.name, f.ref.settings.get("seed")) for f in both] == [("mine", None), ("random_entry", 3)]
    with pytest.raises(BadSetting, match=r"name the strategy too, for example mine.every=7"):
        load_all([mine, "random_entry"], {}, ["every=7"])
    with pytest.raises(BadSetting, match="no strategy 'yours' is given"):
        load_all([mine], {}, ["yours.every=7"])
    with pytest.raises(BadSetting, match="is not NAME=VALUE"):
        load_all([mine], {}, ["every"])
    with pytest.raises(BadSetting, match="given twice"):
        load_all([mine, mine], {}, [])


def test_fold_from_the_copy(folder, tmp_path):
    """A date recorded with a user's strategy folds with the kept copy; the file itself is not needed."""
    root = Home(tmp_path / "home").prepare()
    found = load(f"{folder / 'mine.py'}:Mine")
    record(root, params=RunParams.build(Settings(), DATE, strategies=[found.ref]), seconds=200)
    with pytest.raises(CodeChanged, match=f"strategy mine .{found.ref.digest}. has no intact copy in .*--strategy"):
        fold_day(open_day(DATE, root), library=KeptStrategies(root))
    assert hv("project", "--home", str(root.root)).exit_code != 0
    copy = keep_copy(found, root)
    for path in folder.rglob("*.py"):
        path.unlink()
    made = fold_day(open_day(DATE, root), library=KeptStrategies(root))
    assert set(made.tables["decisions"]["strategy"].to_pylist()) == {"mine"}
    assert made.tables["episodes"].num_rows > 0
    assert list(made.notes) == []
    (copy / "helper.py").write_text("DISTANCE = 0.4\n")
    assert read_copy(root, found.ref.digest) is None
    with pytest.raises(CodeChanged):
        fold_day(open_day(DATE, root), library=KeptStrategies(root))


def test_digest_of_a_log_names_no_other_folder(tmp_path):
    """A digest in a log is untrusted: one that is not 16 hex digits names no folder."""
    root = Home(tmp_path)
    for digest in ("../../../etc", "", "A" * 16, "0" * 15, "/" * 16):
        assert read_copy(root, digest) is None


def test_project_with_a_file(folder, home, tmp_path):
    """`hv project --strategy FILE:CLASS --set` trades the date by the file and leaves the date's artefacts alone."""
    config = tmp_path / "s.toml"
    config.write_text("[strategy.mine]\nevery = 20\n")
    mine = f"{folder / 'mine.py'}:Mine"
    done = hv("project", "--home", str(home.root), "--strategy", mine, "--config", str(config), "--json")
    assert done.exit_code == 0, done.output
    summary = msgspec.json.decode(done.stdout.splitlines()[-1])
    assert summary["strategies"][0].startswith("mine ")
    assert all("exports/strategies/mine-" in Path(name).as_posix() for name in summary["files"])
    again = hv("project", "--home", str(home.root), "--strategy", mine, "--set", "every=40", "--json")
    fewer = msgspec.json.decode(again.stdout.splitlines()[-1])
    assert 0 < fewer["rows"]["episodes"] < summary["rows"]["episodes"]
    assert not (home.on(DATE).episodes).exists()
    same = hv("project", "--home", str(home.root), "--strategy", mine, "--set", "every=40", "--json")
    assert msgspec.json.decode(same.stdout.splitlines()[-1])["skipped"]


def test_project_names_a_dropped_strategy(home, tmp_path):
    """A failing strategy is one line with name, seq, second and line of its file, also when nothing is folded again."""
    path = tmp_path / "late.py"
    path.write_text(
        "import harvester\nclass Late(harvester.Strategy):\n  def on_second(self, now):\n    return self.buy(now.bids)"
    )
    for _ in range(2):
        done = hv("project", "--home", str(home.root), "--strategy", f"{path}:Late")
        assert done.exit_code == 0
        assert "strategy late dropped at seq " in done.output
        assert "late.py, line 4: " in done.output
        assert f", {FIRST} in New York, " in done.output
    assert "unchanged" in done.output
    done = hv("project", "--home", str(home.root), "--strategy", f"{path}:Late", "--json")
    (dropped,) = msgspec.json.decode(done.stdout)["dropped"]
    assert (dropped["strategy"], dropped["ts"]) == ("late", f"{DATE}T14:00:01Z")


SLOPPY = """
from harvester import Strategy


class Sloppy(Strategy):
    every: int = 20
    wide: bool = False

    def on_second(self, now):
        step = now.second // 1_000_000_000 % self.every
        if now.position:
            if step == 5:
                return self.sell(100)
            if step == 8:
                self.exit()
        elif step == 0:
            return self.buy(100, hold_seconds_max=10)
        elif step in (12, 13):
            return [self.refuse("WIDE"), self.buy(100)]
        elif step == 14:
            self.buy(100)
        return None
"""


def test_project_says_what_a_strategy_did_in_vain(home, tmp_path):
    """An order refused while holding or beside a gate code, and messages that were not returned, are one line each."""
    path = tmp_path / "sloppy.py"
    path.write_text(SLOPPY, encoding="utf-8")
    done = hv("project", "--home", str(home.root), "--strategy", f"{path}:Sloppy")
    held, times = "20 HOLDING (a position or entry exists; self.exit() closes it)", 200 // 20 * 2
    refused = f"strategy sloppy: orders were refused: {held}, {times * 2} WIDE (returned with the order)"
    assert refused in done.output
    unreturned = f"strategy sloppy built {times} orders and {times} changes that on_second did not return"
    assert unreturned in done.output
    path.write_text(MINE_QUIET, encoding="utf-8")
    done = hv("project", "--home", str(home.root), "--strategy", f"{path}:Quiet")
    assert "strategy quiet " in done.output
    assert not any(word in done.output for word in ("refused", "did not return")), done.output


MINE_QUIET = """
from harvester import Strategy, TimeStop


class Quiet(Strategy):
    def exits(self):
        return (TimeStop(0.1),)

    def on_second(self, now):
        if now.position:
            return [self.exit("OUT")] if now.ts - (now.position.entry_ts or now.ts) > 3e9 else None
        step = now.second // 1_000_000_000 % 20
        if step == 2:
            self.state.order = self.buy(100, rival=self.sell(100, type="stop", trigger=now.bid - 5))
        if step == 6 and (order := self.state.order) is not None:
            self.state.order = None
            return order

    def on_symbol(self, symbol):
        self.state.order = None
"""
"""Keeps an order for later, and its exit is returned in a second in which an overlay acts too: nothing is in vain."""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("every=x", "strategy sloppy: every is 'x', not a whole number"),
        ("every=1.5", "strategy sloppy: every is 1.5, not a whole number"),
        ("wide=2", "strategy sloppy: wide is 2, not true or false"),
        ("evry=3", "strategy sloppy: it has no parameter 'evry'; its parameters: every, wide"),
    ],
)
def test_a_bad_parameter_in_words(tmp_path, value, said):
    """A value of another type, and an unknown name, are said without the words of a library; of shipped ones too."""
    path = tmp_path / "sloppy.py"
    path.write_text(SLOPPY, encoding="utf-8")
    with pytest.raises(BadSetting, match=f"^{said}$"):
        load_all([f"{path}:Sloppy"], {}, [value])
    with pytest.raises(BadSetting, match="lookback_seconds is 'x', not a whole number"):
        load_all(["imbalance_breakout"], {}, ["lookback_seconds=x"])


def test_set_without_strategy(home):
    """`--set` alone is an error: it would change nothing."""
    done = hv("project", "--home", str(home.root), "--set", "a=1")
    assert done.exit_code != 0


def test_another_version_of_a_shipped_strategy(tmp_path):
    """A shipped strategy folds with today's version, with one note when the recorded digest is another."""
    from harvester.projections.run_params import StrategyRef
    from harvester.projections.trading.strategies import describe

    root = Home(tmp_path).prepare()
    was = describe("random_entry")
    ref = StrategyRef("random_entry", "0" * 16, was["settings"])
    record(root, params=RunParams.build(Settings(), DATE, strategies=[ref]), seconds=60, runs=2)
    made = fold_day(open_day(DATE, root), library=KeptStrategies(root))
    (note,) = made.notes
    assert note == f"strategy random_entry folds with today's version {was['digest']}, recorded with {'0' * 16}"


def test_a_folder_of_many_strategies_has_a_short_name():
    """Up to 120 characters a folder is named by all its strategies; a longer name is cut, and differs by every one."""
    refs = [StrategyRef(f"plain_{k}", "0123abcd", {}) for k in range(20)]
    assert folder_name(refs[:2]) == "plain_0-0123abcd+plain_1-0123abcd"
    last = StrategyRef("plain_19", "0123abce", {})
    names = {folder_name(refs), folder_name(refs[:19]), folder_name([*refs[:19], last])}
    assert len(names) == 3
    assert all(name.startswith("plain_0-0123abcd+1") and len(name) <= 40 for name in names)


def test_a_strategy_that_loops_is_dropped(home, tmp_path, monkeypatch):
    """A call that does not return is ended and drops the strategy; what a strategy prints goes to stderr, labelled."""
    monkeypatch.setattr(call_watch, "CALL_S_MAX", 1.0)
    monkeypatch.setattr(call_watch, "LOOK_S", 0.25)
    path = tmp_path / "loops.py"
    path.write_text(
        "from harvester import Strategy\n\n\nclass Loops(Strategy):\n    def on_second(self, now):\n"
        "        print('sec')\n        while now.seconds_since_open > 5:\n            pass\n"
    )
    done = hv("project", "--home", str(home.root), "--strategy", f"{path}:Loops", "--jobs", "1")
    assert done.exit_code == 0, done.output
    assert "loops.py, line 7: NoAnswer: no answer within the limit for one call" in done.output.replace(
        "line 8", "line 7"
    )
    assert "loops: sec" in done.stderr
    assert "sec\n" not in done.stdout


def test_a_recorded_strategy_that_loops_does_not_hold_up_replay(tmp_path, monkeypatch):
    """`hv replay` ends a call that does not return, when the log has no notice of it yet."""
    monkeypatch.setattr(call_watch, "CALL_S_MAX", 1.0)
    monkeypatch.setattr(call_watch, "LOOK_S", 0.25)
    path = tmp_path / "loops.py"
    path.write_text(
        "from harvester import Strategy\n\n\nclass Loops(Strategy):\n    def on_second(self, now):\n"
        "        while True:\n            pass\n"
    )
    root = Home(tmp_path / "home").prepare()
    found = load(f"{path}:Loops")
    record(root, params=RunParams.build(Settings(), DATE, strategies=[found.ref]), seconds=60)
    keep_copy(found, root)
    shown = hv("replay", "--home", str(root.root), "--show", "decisions", "--json")
    assert shown.exit_code == 0, shown.output
    assert "STRATEGY_ERROR" in shown.stdout
