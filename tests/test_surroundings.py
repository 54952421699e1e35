"""The result of a fold does not depend on time zone, locale, encoding or hash order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trading_log import DATE, record

from harvester.home import Home
from tests.budget import budget

PROJECT = Path(__file__).resolve().parent.parent
PROJECT_DATE = """
import hashlib, json, locale, sys
from datetime import date
from pathlib import Path
from harvester.home import Home
from harvester.rebuild.project import project
locale.setlocale(locale.LC_ALL, "")
made, written = project(Home(Path(sys.argv[1])).on(date.fromisoformat(sys.argv[2])), out=Path(sys.argv[3]))
out = Path(sys.argv[3]).resolve()
files = {path.relative_to(out).as_posix(): hashlib.blake2b(path.read_bytes()).hexdigest() for path in written.files}
print(json.dumps([made.identity, made.digests, files]))
"""
ELSEWHERE = {
    "another zone": {"TZ": "Asia/Kathmandu"},
    "no encoding but ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "another order of hashes": {"PYTHONHASHSEED": "12345"},
    "all of it": {"TZ": "America/St_Johns", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "7", "PYTHONUTF8": "1"},
}


def projected(home: Home, out: Path, **surroundings: str) -> list[object]:
    """Identity, digests and the hash of every file, from a new process."""
    there = {"TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", PROJECT_DATE, str(home.root), DATE.isoformat(), str(out)],
        capture_output=True, text=True, check=False, env={**os.environ, **there, **surroundings}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two runs on one date, with trades."""
    made = Home(tmp_path_factory.mktemp("home")).prepare()
    record(made, runs=2, seconds=650)
    return made


@pytest.fixture(scope="module")
def here(home: Home, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    return projected(home, tmp_path_factory.mktemp("here"))


@pytest.mark.parametrize("name", budget(["no encoding but ASCII", "all of it"], list(ELSEWHERE)))
def test_the_same_bytes_elsewhere(home: Home, here: list[object], tmp_path: Path, name: str) -> None:
    """Digests and every exported file, picture and episodes included, have the same bytes in any environment."""
    assert projected(home, tmp_path, **ELSEWHERE[name]) == here
    files = here[2]
    assert isinstance(files, dict)
    assert {path.split("_")[0] for path in files if "/" not in path} >= {"buckets", "decisions", "fills", "health"}
    assert any(path.startswith("episodes/") for path in files)
