"""An edit of any source of the compiled kernels takes effect, for every cache folder."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harvester.projections.market import kernel_cache
from tests.budget import budget

PROJECT = Path(__file__).resolve().parent.parent
FOLD = """
import json
from harvester.projections.market import kernel_cache
from tests.market_log import Log
log = Log().run_start().subscribe(1, "bid_ask", at=0)
log.quote(1, 10.0, 10.5)
log.fold()
print(json.dumps({"bid": float(log.engine.market.state.inst[0]["bid"]), "cache": str(kernel_cache.user_cache())}))
"""
NEEDLESS = (
    "        _on_tick(s, f, j)\n",
    "        _on_trade(s, f, j)\n",
    "                    _on_depth(s, f, j, ts)\n",
    "                if not _pass_time(s, now):\n                    g[_LAST_TS] = ts\n                    return at\n",
)
"""The parts of the kernels besides quotes: without them they compile in seconds."""


def run_time_imports(body: list[ast.stmt]) -> Iterator[str]:
    """Dotted names a module imports when it is loaded: not for its types alone, not inside functions."""
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from run_time_imports([*node.body, *node.orelse])


def imported_files(path: Path) -> Iterator[Path]:
    for name in run_time_imports(ast.parse(path.read_text(encoding="utf-8")).body):
        found = PROJECT.joinpath(*name.split(".")).with_suffix(".py")
        if name.startswith("harvester.") and found.is_file():
            yield found


def test_the_cache_knows_every_source_of_the_kernels() -> None:
    """Every module of the package that the kernels import, and that those import, is part of the cache's name."""
    seen, new = set[Path](), {PROJECT / "harvester" / "projections" / "market" / "kernels.py"}
    while new:
        seen |= new
        new = {found for path in new for found in imported_files(path)} - seen
    assert {str(path.relative_to(PROJECT / "harvester").as_posix()) for path in seen} == set(kernel_cache.SOURCES)


def folded(place: Path, home: Path) -> tuple[dict[str, Any], str]:
    """The result of a fresh process for a tiny batch with the package at `place`, and its stderr."""
    homes = {name: str(home) for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA")}
    env = {**os.environ, **homes, "PYTHONPATH": str(place), "NUMBA_BOUNDSCHECK": "0"}
    done = subprocess.run(
        [sys.executable, "-c", FOLD], capture_output=True, text=True, check=False, env=env, cwd=place, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} no longer says {old!r} once: choose another edit"
    path.write_text(text.replace(old, new), encoding="utf-8")


def copied(place: Path) -> Path:
    """A copy of the package whose kernels handle only quotes."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "harvester", place / "harvester", ignore=ignored)
    (place / "tests").mkdir()
    shutil.copy(PROJECT / "tests" / "market_log.py", place / "tests")
    for part in NEEDLESS:
        kernels = place / "harvester" / "projections" / "market" / "kernels.py"
        edit(kernels, part, " " * (len(part) - len(part.lstrip())) + "pass\n")
    return place / "harvester"


def test_an_edit_of_a_leaf_or_of_a_constant_takes_effect(tmp_path: Path) -> None:
    """After an edit of an enum that is part of the machine code, the next process recompiles, says so, and uses it.

    After the edit is reverted, the earlier kernels are used again. In the long run a leaf is edited too.

    The kernels are in the user's cache folder, because `__pycache__` is not writable.
    """
    package, home = copied(tmp_path / "place"), tmp_path / "home"
    (package / "projections" / "__pycache__").write_text("a file in the way", encoding="utf-8")
    leaf = "return x if 0.0 < x < ABSENT_FROM"
    edits = (
        ("projections/market/kernels.py", leaf, leaf, "10.0"),
        ("events/kinds.py", "    BID_ASK = 3\n", "    BID_ASK = 9\n", "nan"),
        ("events/kinds.py", "    BID_ASK = 9\n", "    BID_ASK = 3\n", "10.0"),
        ("events/kinds.py", "    BID_ASK = 3\n", "    BID_ASK = 3\n", "10.0"),
        (
            "projections/market/kernels.py",
            "return x if 0.0 < x < ABSENT_FROM",
            "return x + x if 0.0 < x < ABSENT_FROM",
            "20.0",
        ),
    )
    compiled, cache = [], home
    for path, old, new, bid in edits[: budget(3, 5)]:
        edit(package / path, old, new)
        found, stderr = folded(tmp_path / "place", home)
        assert str(found["bid"]) == bid
        compiled.append("compiling the market kernels" in stderr)
        cache = Path(found["cache"])
    assert compiled == [True, True, False, False, True][: len(compiled)]
    kept = {path.parent.parent for path in cache.rglob("*.nbi")}
    assert len(kept) == sum(compiled)
    assert all(folder.is_relative_to(home) and folder.name.startswith("kernels-") for folder in kept), kept
    assert not list(package.rglob("*.nbi"))
