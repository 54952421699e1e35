"""The chain of versions of memory: any order of folds, late and corrected days, damage, kills and power cuts."""

from __future__ import annotations

import json
import shutil
from datetime import date
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from power_cut import Killed, PowerCut, Tree
from recording import QuickDisk
from test_memory_fold import episode
from typer.testing import CliRunner

from cli.app import app
from harvester.artefacts.table_files import parquet_file
from harvester.endofday.datasets import kept_day
from harvester.endofday.kept_memory import MemoryChange, change, holds, make_again, rebuild_memory, undo, write
from harvester.errors import BadSetting, CannotRun, DamagedFile, HarvesterError, LockHeld, Mismatch, NoLog
from harvester.eventlog import lock
from harvester.eventlog.lock import memory_lock
from harvester.files import Disk, put
from harvester.home import Home
from harvester.memory import fold_days
from harvester.memory.chain import BrokenChain, Chain, damage_of_memory, excluded_path, latest_of
from harvester.memory.fold_days import days_of, encode, hash_of
from harvester.projections.trading.episodes import RULES

DATES = ["2025-07-14", "2025-07-15", "2025-07-16", "2025-07-17"]
Fold = tuple[str, int]
"""A date and how many trades it has when it is folded."""


def keep(home: Home, day: str, trades: int, kind: str = "live", disk: Disk | None = None) -> None:
    """Write the kept episodes of a date, as `hv eod` does."""
    rows = [episode(n, date=day, pnl=10.0 - n * 3.7) | {"rules": RULES, "kind": kind} for n in range(1, trades + 1)]
    about = {"trading_date": day, "content_hash": f"{trades:064x}", "last_ts": f"{day}T20:00:00.5Z"}
    data = parquet_file(pa.Table.from_pylist(rows), about | {"allow_not_live": "false", "kind": kind})
    put(home.on(date.fromisoformat(day)).dataset / "episodes.parquet", data, disk)


def fold(home: Home, day: str, trades: int, disk: Disk | None = None, kind: str = "live") -> MemoryChange:
    """Keep the date's episodes and fold them, as `hv eod` does."""
    keep(home, day, trades, kind, disk)
    with memory_lock(home):
        summary = kept_day(home.on(date.fromisoformat(day)))
        made = change(home, {day: summary})
        write(home, made, disk or Disk())
    return made


def folded(root: Path, folds: list[Fold]) -> Home:
    home = Home(root)
    for day, trades in folds:
        fold(home, day, trades)
    return home


def reachable(home: Home) -> list[bytes]:
    """The bytes of memory_latest.json and of every version it descends from."""
    latest = latest_of(home)
    assert latest is not None
    return [home.memory_latest.read_bytes(), *(encode(version) for version in Chain(home).walk(latest))]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Four days."""
    return folded(tmp_path / "home", [(day, 2 + n) for n, day in enumerate(DATES)])


def test_every_order_of_four_days(tmp_path: Path) -> None:
    """All 24 orders, then one day corrected and one reopened: the same bytes of latest and of all its ancestors."""
    found, names = set(), set()
    for n, order in enumerate(permutations(DATES)):
        first, corrected, reopened, last = order
        made = Home(tmp_path / str(n))
        folds = [(first, 4), (corrected, 3), (reopened, 5), (corrected, 4), (last, 4), (reopened, 4)]
        for day, trades in folds:
            fold(made, day, trades, QuickDisk())
        chain = reachable(made)
        assert len(chain) == 5
        assert chain[0] == chain[1]
        assert damage_of_memory(made) == []
        found.add(tuple(chain))
        names.add(tuple(sorted(path.name for path in made.memory_versions.iterdir())))
        shutil.rmtree(made.root)
    assert len(found) == 1
    assert len(names) > 1  # superseded versions stay, and differ


def test_a_parent_is_a_version_that_exists(home: Home) -> None:
    """Named by the newest day; each names the hash of the one before, whose days are its own but one."""
    versions = list(Chain(home).walk(latest_of(home) or {}))
    assert [version["date"] for version in versions] == DATES[::-1]
    for child, parent in pairwise(versions):
        assert child["parent"] == parent["hash"]
        assert days_of(child)[:-1] == days_of(parent)
    assert versions[-1]["parent"] is None
    names = sorted(path.name for path in home.memory_versions.iterdir())
    assert names == [f"memory_{day}_{day.replace('-', '')}_200000.json" for day in DATES]


def test_only_what_follows_a_change_is_folded(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new day reads no other dataset, a corrected one those after it; superseded versions stay, the new are _r2."""
    read_days: list[str] = []

    def counted(paths: Any) -> Any:
        read_days.append(str(paths.trading_date))
        return kept_day(paths)

    monkeypatch.setattr("harvester.endofday.kept_memory.kept_day", counted)
    before = {path.name for path in home.memory_versions.iterdir()}
    assert not fold(home, DATES[3], 5).files
    assert len(fold(home, "2025-07-18", 3).files) == 1
    assert read_days == []
    made = fold(home, DATES[2], 9)
    assert sorted(read_days) == [DATES[3], "2025-07-18"]
    assert [path.name[:17] for path in made.files] == [f"memory_{day}" for day in [*DATES[2:], "2025-07-18"]]
    assert all(path.stem.endswith("_r2") for path in made.files)
    assert before < {path.name for path in home.memory_versions.iterdir()}
    assert reachable(home)[0] == encode(rebuild_memory(home))


def test_a_lost_dataset_is_an_error(home: Home) -> None:
    """A known day without its dataset: a line with the ways out, nothing is written; `undo` goes on without it."""
    lost = home.on(date.fromisoformat(DATES[1])).dataset
    before = home.memory_latest.read_bytes()
    shutil.rmtree(lost)
    for action in (lambda: fold(home, "2025-07-18", 3), lambda: make_again(home), lambda: rebuild_memory(home)):
        with pytest.raises(DamagedFile, match=rf"missing, and memory holds {DATES[1]}; .*hv memory undo {DATES[1]}"):
            action()
    assert home.memory_latest.read_bytes() == before
    home.memory_latest.unlink()
    with pytest.raises(DamagedFile, match=f"memory holds {DATES[1]}"):
        make_again(home)  # the versions name it
    home.memory_latest.write_bytes(before)
    assert [str(damage).count(DATES[1]) > 0 for damage in damage_of_memory(home)] == [True]
    undo(home.on(date.fromisoformat(DATES[1])))
    assert damage_of_memory(home) == []
    fold(home, "2025-07-18", 3)
    assert [day.date for day in days_of(latest_of(home) or {})] == [DATES[0], *DATES[2:], "2025-07-18"]


def test_undo_and_include(home: Home, tmp_path: Path) -> None:
    """The chain without the day, as if it was never folded; its dataset stays; included again it is as before."""
    paths, before = home.on(date.fromisoformat(DATES[1])), reachable(home)
    undo(paths)
    never = folded(tmp_path / "never", [(day, 2 + n) for n, day in enumerate(DATES) if n != 1])
    assert reachable(home) == reachable(never)
    assert (paths.dataset / "episodes.parquet").exists()
    assert not undo(paths).files
    fold(home, DATES[1], 3)  # what hv eod of the date does: it stays excluded
    assert reachable(home) == reachable(never)
    undo(paths, include=True)
    assert reachable(home) == before
    assert not excluded_path(paths).exists()
    with pytest.raises(CannotRun, match="is not excluded"):
        undo(paths, include=True)
    with pytest.raises(CannotRun, match="memory does not hold 2025-07-01"):
        undo(home.on(date(2025, 7, 1)))


def test_undo_of_every_day(home: Home) -> None:
    """Without a day there is no memory_latest.json; the next fold begins a chain."""
    for day in DATES:
        undo(home.on(date.fromisoformat(day)))
    assert not home.memory_latest.exists()
    fold(home, "2025-07-18", 1)
    assert len(reachable(home)) == 2


@pytest.mark.parametrize("harm", ["gone", "damaged", "of another chain"])
def test_a_broken_chain_is_made_again(home: Home, tmp_path: Path, harm: str) -> None:
    """A version in the middle is missing or damaged: reported, and the next fold writes the same bytes again."""
    path = sorted(home.memory_versions.iterdir())[1]
    whole = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "damaged":
        path.write_bytes(whole[:-60] + b" " + whole[-60:])
    else:
        other = folded(tmp_path / "other", [(day, 7) for day in DATES[:2]])
        path.write_bytes(other.memory_latest.read_bytes())
    damage = [str(found) for found in damage_of_memory(home)]
    assert f"version {hash_of(whole)} through {DATES[1]}, which is missing; `hv memory rebuild`" in damage[-1]
    assert (len(damage) == 2 and path.name in damage[0]) == (harm == "damaged")
    made = fold(home, "2025-07-18", 3)
    assert "are made again from memory/datasets" in made.notes[0]
    usual = [(day, 2 + n) for n, day in enumerate(DATES)]
    assert reachable(home) == reachable(folded(tmp_path / "usual", [*usual, ("2025-07-18", 3)]))


def test_an_older_memory_put_back_loses_no_closed_day(home: Home) -> None:
    """memory_latest.json of an earlier day: the closed days after it are folded with the next one."""
    for day in DATES:
        (home.on(date.fromisoformat(day)).dataset / "closed.json").write_text("{}")
    home.memory_latest.write_bytes(min(home.memory_versions.iterdir()).read_bytes())
    fold(home, "2025-07-18", 3)
    assert len(days_of(latest_of(home) or {})) == 5


def test_an_ancestor_with_other_days_breaks_the_chain(home: Home, tmp_path: Path) -> None:
    """A parent that exists, but does not hold the days before, is found by the walk."""
    other = folded(tmp_path / "other", [(day, 9) for day in DATES[:3]])
    for path in other.memory_versions.iterdir():
        shutil.copy(path, home.memory_versions / f"{path.stem}_r9.json")
    stranger, latest = latest_of(other), latest_of(home)
    assert stranger is not None
    assert latest is not None
    altered = latest | {"parent": stranger["hash"]}
    altered |= {"hash": fold_days._digest(fold_days._body({k: v for k, v in altered.items() if k != "hash"}))}
    (home.memory_versions / f"memory_{DATES[3]}_altered.json").write_bytes(encode(altered))
    with pytest.raises(BrokenChain, match="does not hold the days"):
        list(Chain(home).walk(altered))


def test_only_a_readable_memory_is_proof(home: Home) -> None:
    """Memory holds a day when it has exactly that day; one that cannot be read, or is gone, holds none."""
    day = kept_day(home.on(date.fromisoformat(DATES[1])))
    assert holds(home, day)
    keep(home, DATES[1], 7)
    assert not holds(home, kept_day(home.on(date.fromisoformat(DATES[1]))))
    home.memory_latest.write_bytes(home.memory_latest.read_bytes().replace(b'"days"', b'"dais"'))
    assert not holds(home, day)
    home.memory_latest.unlink()
    assert not holds(home, day)


def test_a_dataset_that_changed_is_named(home: Home) -> None:
    """A dataset that is not the one memory held is used when its day is folded again, and named."""
    keep(home, DATES[3], 20)
    assert fold(home, DATES[0], 9).notes == [
        f"the dataset of {DATES[3]} is not the one memory held; memory follows the dataset"
    ]
    assert reachable(home)[0] == encode(rebuild_memory(home))


def test_one_process_changes_memory_at_a_time(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another holds its lock, memory is not changed, and the error says so."""
    monkeypatch.setattr(lock, "_MEMORY_PATIENCE_S", 0.1)
    with memory_lock(home), pytest.raises(LockHeld, match="another process is changing memory"):
        make_again(home)


# ------------------------------------------------------------------------------------------------------- kills and cuts


def late_day(home: Home, disk: Disk) -> None:
    fold(home, DATES[1], 4, disk)


def taken_out(home: Home, disk: Disk) -> None:
    undo(home.on(date.fromisoformat(DATES[2])), disk)


@pytest.mark.parametrize("action", [late_day, taken_out])
def test_killed_and_cut_at_every_operation(tmp_path: Path, action: Any) -> None:
    """Whatever operation a kill or a power cut comes after, memory is the old or the new one with its whole chain.

    The action, or any other fold, then gives the bytes of an undisturbed one.
    """
    base = folded(tmp_path / "base", [(day, 3) for n, day in enumerate(DATES) if n != 1])
    end = Home(shutil.copytree(base.root, tmp_path / "end"))
    action(end, Disk())
    old, new = reachable(base), reachable(end)
    home = Home(shutil.copytree(base.root, tmp_path / "home"))
    disk = PowerCut(home.root, leave_out=[home.temp])
    action(home, disk)
    assert disk.operations > 10
    seen = set()
    for n in disk.cuts():
        for called, tree in disk.trees(n):
            key = frozenset((name, data) for name, data in tree.items() if "/." not in name)
            if key not in seen:
                seen.add(key)
                settle(tree, tmp_path / "cut", action, called, (old, new))
    for n in range(1, disk.operations + 1):
        shutil.rmtree(home.root)
        shutil.copytree(base.root, home.root)
        dying = PowerCut(home.root, leave_out=[home.temp])
        dying.dies_at(n)
        with pytest.raises(Killed):
            action(home, dying)
        assert reachable(home) in (old, new), n
        action(home, Disk())
        assert reachable(home) == new, n


def settle(tree: Tree, folder: Path, action: Any, called: str, known: tuple[list[bytes], list[bytes]]) -> None:
    """Check what a cut left, then finish the action."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in tree.items():
        if data is None:
            (folder / name).mkdir(parents=True, exist_ok=True)
    for name, data in tree.items():
        if data is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    home = Home(folder)
    assert reachable(home) in known, called
    assert all("excluded" in str(damage) for damage in damage_of_memory(home)), called
    action(home, Disk())
    assert reachable(home) == known[1], called


# ------------------------------------------------------------------------------------------------------------- commands


def hv(home: Home, *words: str) -> Any:
    return CliRunner().invoke(app, ["memory", *words, "--home", str(home.root)])


def test_show_and_history(home: Home) -> None:
    """Days, setups and symbols name their kind; a version is named by date, digits of its hash or file."""
    fold(home, "2025-07-18", 3, kind="model")
    said = hv(home, "show").output
    assert "setup s/BREAKOUT_UP (live, event): n 14" in said
    assert "setup s/BREAKOUT_UP (model, event): n 3" in said
    assert "symbol AAA (model, event)" in said
    assert "2025-07-18  model, rules 2: 3 episodes, 3 learned from" in said
    assert "model" not in hv(home, "show", "--kind", "live").output.replace("model (live)", "")
    other = json.loads(hv(home, "show", "--kind", "model", "--json").output)
    assert (other["training"]["days"], other["model"]["sample_count"], len(other["days"])) == (1, 3, 1)
    assert (other["recommendations"]["kind"], {row["kind"] for row in other["setups"]}) == ("model", {"model"})
    assert isinstance(hv(home, "show", "--kind", "real").exception, BadSetting)
    rows = [json.loads(line) for line in hv(home, "history", "--json").output.splitlines()]
    assert [row["date"] for row in rows] == ["2025-07-18", *DATES[::-1]]
    assert [row["parent"] for row in rows[:-1]] == [row["hash"] for row in rows[1:]]
    assert f"{DATES[0]}  {rows[-1]['hash']}  1 days  {rows[-1]['file']}" in hv(home, "history").output
    for name in (DATES[1], rows[3]["hash"][:8], rows[3]["file"]):
        assert json.loads(hv(home, "show", name, "--json").output)["hash"] == rows[3]["hash"]
    assert isinstance(hv(home, "show", "2025-01-01").exception, NoLog)
    assert isinstance(hv(home, "show", "nothing.json").exception, NoLog)
    assert isinstance(hv(Home(home.root / "no"), "show").exception, NoLog)


def test_digits_of_several_versions(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits with which several hashes begin are refused, and the hashes listed."""
    monkeypatch.setattr("harvester.memory.chain._HEX", __import__("re").compile("[0-9a-f]*"))
    assert isinstance(hv(home, "show", "").exception, BadSetting)


def test_diff(home: Home) -> None:
    """Days, counts and figures that differ, by name; equal versions differ in nothing."""
    assert hv(home, "diff", DATES[3], DATES[3]).output == ""
    rows = {row["what"]: row for row in map(json.loads, hv(home, "diff", *DATES[2:], "--json").output.splitlines())}
    assert rows["training.days"] == {"what": "training.days", "first": 3, "second": 4}
    assert rows[f"days.{DATES[3]}"]["first"] is None
    assert rows["symbol_profiles.live AAA event.trade_count"]["second"] == 14
    assert f"days.{DATES[3]}: absent -> [" in hv(home, "diff", *DATES[2:]).output


def test_verify_rebuild_and_undo(home: Home) -> None:
    """`verify` ends with 1 for damage and 11 for other episodes; `rebuild` mends both; `undo` says what is left."""
    assert "ok   4 days" in hv(home, "verify").output
    keep(home, DATES[0], 12)
    assert isinstance(hv(home, "verify").exception, Mismatch)
    made = json.loads(hv(home, "rebuild", "--json").output)
    assert (made["days"], len(made["versions"])) == (4, 4)
    assert json.loads(hv(home, "verify", "--json").output)["equal"]
    home.memory_latest.write_bytes(home.memory_latest.read_bytes()[1:])
    broken = hv(home, "verify").exception
    assert isinstance(broken, HarvesterError)
    assert "`hv memory rebuild` makes it" in str(broken)
    assert hv(home, "rebuild").exit_code == 0
    assert "ok   4 days" in hv(home, "verify").output
    assert "3 days" in hv(home, "undo", DATES[3]).output
    assert json.loads(hv(home, "undo", DATES[3], "--include", "--json").output)["days"] == 4
    min(home.memory_versions.iterdir()).write_bytes(b"{}")
    said = hv(home, "verify")
    assert said.output.startswith("BAD  damaged file: ")
    assert said.exit_code == 1
