"""Tidiness is a test: import direction, forbidden calls on the deterministic path, documented commands."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "home", "clock", "calendar", "config", "units", "version"),
    ("events",),
    ("wire",),
    ("eventlog",),
    ("projections",),
    ("artefacts", "memory"),
    ("gateway", "simgateway"),
    ("recorder",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
DETERMINISTIC = ("events", "wire", "eventlog", "projections", "artefacts", "memory")
SOURCES = sorted((PROJECT / "harvester").rglob("*.py"))
COMMANDS = sorted((PROJECT / "cli").glob("*.py"))


def imported(tree: ast.AST) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def part(path: Path) -> str:
    """The folder (or base module) of `harvester` a file belongs to."""
    first = path.relative_to(PROJECT / "harvester").parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", [p for p in SOURCES if part(p) in RANK], ids=lambda p: str(p.relative_to(PROJECT)))
def test_imports_point_left(path: Path) -> None:
    """A module imports only from its own folder and from folders to its left; siblings do not know each other."""
    mine = part(path)
    for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
        words = name.split(".")
        assert words[0] != "cli", f"{path} imports the command line"
        if words[0] == "harvester" and len(words) > 1 and words[1] in RANK and words[1] != mine:
            allowed = RANK[words[1]] < RANK[mine] or RANK[mine] == RANK[words[1]] == 0
            assert allowed, f"{path.relative_to(PROJECT)} imports {name}"


def test_every_source_has_a_layer() -> None:
    """No file stands outside the layers, so none escapes the import rule."""
    assert {part(p) for p in SOURCES} - set(RANK) == {"__init__"}


def test_only_the_gateway_knows_ib_async() -> None:
    """ib_async is imported nowhere but in harvester/gateway/."""
    for path in SOURCES + COMMANDS:
        words = {name.split(".")[0] for name in imported(ast.parse(path.read_text(encoding="utf-8")))}
        if "gateway" not in path.parts:
            assert not words & {"ib_async", "eventkit"}, path
        assert "ibapi" not in words, path


FORBIDDEN_IMPORTS = {"random", "secrets", "uuid", "locale", "time", "asyncio", "socket"}
FORBIDDEN_CALLS = {"now", "utcnow", "today", "time_ns", "monotonic_ns", "perf_counter", "urandom", "getenv"}


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if part(p) in DETERMINISTIC], ids=lambda p: str(p.relative_to(PROJECT))
)
def test_the_deterministic_path_reads_no_clock_and_no_chance(path: Path) -> None:
    """What folds, writes and remembers takes time, chance and place from the log alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {name.split(".")[0] for name in imported(tree)} & FORBIDDEN_IMPORTS
    assert not found, f"{path.relative_to(PROJECT)} imports {found}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FORBIDDEN_CALLS:
            pytest.fail(f"{path.relative_to(PROJECT)}:{node.lineno} calls {node.func.attr}")
        if isinstance(node, (ast.For, ast.comprehension)) and isinstance(node.iter, (ast.Set, ast.SetComp)):
            pytest.fail(f"{path.relative_to(PROJECT)}: iterates over a set, whose order is chance")


def test_one_module_reads_the_machine_clock() -> None:
    """`time.time_ns` and `time.monotonic_ns` are called in harvester/clock.py and nowhere else."""
    readers = ("time_ns", "monotonic_ns", "time.time(", "time.monotonic(", "perf_counter", "datetime.now", "utcnow")
    for path in SOURCES + COMMANDS:
        if path.name == "clock.py":
            continue
        text = path.read_text(encoding="utf-8").replace("real_monotonic_ns", "").replace("mono_ns", "")
        text = text.replace("real_wall_ns", "")
        hits = [word for word in readers if f".{word}(" in text or (word.endswith("(") and word in text)]
        assert not hits, f"{path.relative_to(PROJECT)} reads the clock: {hits}"


def test_every_exception_has_a_reason() -> None:
    """A silenced lint says why behind its code; where a whole file is exempt, the comment above may."""
    others = [p for name in ("tests", "bench", "tools") for p in (PROJECT / name).rglob("*.py")]
    for path in {*SOURCES, *COMMANDS, *others} - {Path(__file__)}:
        for above, line in pairwise(["", *path.read_text(encoding="utf-8").splitlines()]):
            where = f"{path.relative_to(PROJECT)}: {line.strip()}"
            if re.search(r"# (ruff: )?noqa", line) and not re.search(r"noqa: [A-Z0-9, ]+ - \S", line):
                assert line.startswith("#"), where
                assert above.startswith("# "), where


def test_help_is_light() -> None:
    """`hv --help` imports none of the heavy libraries, which is what keeps it quick."""
    code = (
        "import sys; sys.argv = ['hv', '--help']\n"
        "from cli.app import app\n"
        "try:\n    app()\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        "heavy = {'pyarrow','polars','numba','numpy','ib_async','pandas','exchange_calendars'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_is_documented() -> None:
    """Every command has help with an example, and the README names it."""
    from cli.app import COMMANDS as LIST

    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    for name, _ in LIST:
        done = subprocess.run(
            [sys.executable, "-m", "cli.app", name, "--help"], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"hv {name} --help: {done.stderr}"
        assert f"hv {name}" in done.stdout.split("Usage")[-1].split("\n", 1)[1], f"hv {name} --help has no example"
        assert f"hv {name}" in readme, f"README.md does not name hv {name}"
