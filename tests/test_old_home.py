"""A home made by Harvester 0.1.0, kept under golden/formats/ can still be read, folded and continued."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from power_cut import PowerCut, read, write
from trading_log import record
from typer.testing import CliRunner

from cli.app import app
from harvester.endofday.kept_memory import make_again
from harvester.errors import DamagedFile
from harvester.home import Home, parse_date
from harvester.memory.chain import Chain, latest_of, memory_given
from harvester.memory.fold_days import days_of

KEPT = Path(__file__).resolve().parent.parent / "golden" / "formats" / "home_0.1.0"
DELETED, FOLDED, PROJECTED = "2025-07-17", "2025-07-18", "2025-07-21"


@pytest.fixture
def home(tmp_path):
    """A copy."""
    return Home(shutil.copytree(KEPT, tmp_path / "home"))


def hv(home: Home, *words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*words, "--home", str(home.root)])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def memory(home: Home) -> dict:
    return json.loads(home.memory_latest.read_text(encoding="utf-8"))


def test_verify_and_project(home):
    """Log ok, digests of other code, files named as an older Harvester's; projected anew they are replaced, once."""
    said = hv(home, "verify", "--date", PROJECTED, code=12)
    assert "log      ok   2,528 events" in said
    assert "2 files: made by an older Harvester; `hv project` replaces it" in said
    assert "8 files: made by an older Harvester, version 1; `hv project` rewrites it" in said
    was = {path: path.read_bytes() for path in home.on(parse_date(PROJECTED)).episodes.rglob("*.json")}
    replaced = "2 episode files were made by older rules of simulated trading, and were replaced"
    assert replaced in hv(home, "project", "--date", PROJECTED)
    for path, before in was.items():
        assert json.loads(path.read_bytes())["versions"]["rules"] == 2
        assert "rules" not in json.loads(before)["versions"]
    assert replaced not in hv(home, "project", "--date", PROJECTED)
    assert "made by an older" not in hv(home, "verify", "--date", PROJECTED, code=12)


def test_trades_of_a_date_whose_log_is_gone(home):
    """Table and story come from what 0.1.0 kept, and name the rules."""
    said = hv(home, "episodes", "--date", DELETED)
    assert "2 made by rules 1 of simulated trading, which memory does not pool with rules 2" in said
    made = json.loads(hv(home, "episodes", "--date", DELETED, "--json"))
    assert [row["rules"] for row in made["rows"]] == [1, 1]
    assert "made by rules" not in hv(home, "episodes", "--date", FOLDED)
    told = hv(home, "explain", made["rows"][0]["trade_id"], "--date", DELETED)
    assert "rules  rules 1, strategy imbalance_breakout" in told
    assert "unseen not recorded with episodes of this version" in told


def test_eod_with_files_of_older_rules(home):
    """Episode files of older rules stop neither the fold nor the deletion, and are named."""
    said = hv(home, "eod", "--date", PROJECTED)
    assert "2 episode files were made by older rules of simulated trading; `hv project` replaces them" in said
    others = f"memory lists and does not pool the dates of other rules: {DELETED} (rules 1), {FOLDED} (rules 1)"
    assert others in said
    kept = memory(home)
    days = days_of(kept)
    assert [(day.kind, day.rules, day.learned) for day in days] == [
        ("unknown", 1, 2),
        ("unknown", 1, 2),
        ("unknown", 2, 2),
    ]
    said = hv(home, "eod", "--date", FOLDED)
    assert "folded before by rules 1 of simulated trading, now by rules 2" in said
    assert f"does not pool the dates of other rules: {DELETED} (rules 1)\n" in said
    assert [(day.rules, day.learned) for day in days_of(memory(home))] == [(1, 2), (2, 2), (2, 2)]
    assert "folded before" not in hv(home, "eod", "--date", FOLDED)
    hv(home, "eod", "--date", PROJECTED, "--delete-temp", "--yes")
    assert not home.on(parse_date(PROJECTED)).log.exists()
    assert "made by rules" not in hv(home, "episodes", "--date", PROJECTED)


def test_a_date_continued_after_its_deletion(home):
    """What 0.1.0 kept of a date stays beside what follows; only trades of the newer rules are learned from."""
    record(home, seconds=240, start=2100)
    said = hv(home, "eod", "--date", DELETED)
    assert "4 episodes, 2 learned from (2 RULES)" in said
    assert "folded before by rules 1 of simulated trading, now by rules 2" in said
    rows = json.loads(hv(home, "episodes", "--date", DELETED, "--json"))["rows"]
    assert [(row["rules"], row["left_out"]) for row in rows] == [(1, "RULES"), (1, "RULES"), (2, ""), (2, "")]


def test_its_memory_becomes_a_chain(home):
    """The first `hv eod` makes versions from the datasets and moves the old ones, byte by byte, to versions/v1."""
    old = {path.name: path.read_bytes() for path in home.memory_versions.glob("memory_*.json")}
    assert home.memory_latest.read_bytes() in old.values()
    assert memory_given(home) is None
    assert "its files are in memory/versions/v1" in hv(home, "eod", "--date", PROJECTED)
    assert {path.name: path.read_bytes() for path in (home.memory_versions / "v1").iterdir()} == old
    chain = list(Chain(home).walk(latest_of(home)))
    assert [version["date"] for version in chain] == [PROJECTED, FOLDED, DELETED]
    assert len(list(home.memory_versions.glob("*.json"))) == len(chain)
    assert "of an older form" not in hv(home, "eod", "--date", FOLDED)


def test_a_lost_dataset_of_an_old_memory_is_an_error(home):
    """The day that an old memory holds is not dropped: nothing is written, and the line names the ways out."""
    lost = home.on(parse_date(DELETED)).dataset / "episodes.parquet"
    lost.unlink()
    before = {path: path.read_bytes() for path in home.memory.rglob("*.json")}
    done = CliRunner().invoke(app, ["eod", "--date", PROJECTED, "--home", str(home.root)])
    assert isinstance(done.exception, DamagedFile)
    assert f"{lost}: missing, and memory holds {DELETED}; restore it" in str(done.exception)
    assert {path: path.read_bytes() for path in home.memory.rglob("*.json")} == before


def test_power_cut_while_it_becomes_a_chain(tmp_path):
    """After a cut anywhere each old version exists, here or in v1, and memory is the old or the new one; it goes on."""
    base = Home(shutil.copytree(KEPT, tmp_path / "base"))
    old = {path.name: path.read_bytes() for path in base.memory_versions.glob("memory_*.json")}
    home = Home(shutil.copytree(KEPT, tmp_path / "home"))
    disk = PowerCut(home.root, leave_out=[home.temp])
    make_again(home, disk)
    end = tree(home)
    known = (base.memory_latest.read_bytes(), home.memory_latest.read_bytes())
    seen = set()
    for n in disk.cuts():
        for called, left in disk.trees(n):
            key = frozenset((name, data) for name, data in left.items() if "/." not in name)
            if key not in seen:
                seen.add(key)
                write(left, tmp_path / "cut")
                cut = Home(tmp_path / "cut")
                for name, data in old.items():
                    places = (cut.memory_versions / "v1" / name, cut.memory_versions / name)
                    assert data in [path.read_bytes() for path in places if path.exists()], called
                assert cut.memory_latest.read_bytes() in known, called
                make_again(cut)
                assert tree(cut) == end, called
                shutil.rmtree(cut.root)
    assert len(seen) > 8


def tree(home):
    """The files of memory under their final names."""
    return {path: data for path, data in read(home.memory).items() if data is not None and "/." not in f"/{path}"}
