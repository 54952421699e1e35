"""Tidiness is a test: import direction, forbidden calls on the deterministic path, documented commands."""

from __future__ import annotations

import ast
import gc
import re
import subprocess
import sys
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

PROJECT = Path(__file__).resolve().parent.parent


pytestmark = pytest.mark.xdist_group("tidiness")  # one process parses the sources, once


@pytest.fixture(scope="module", autouse=True)
def _forget_the_trees():
    yield
    tree_of.cache_clear()


@lru_cache(None)
def tree_of(path: Path) -> ast.Module:
    """The parsed file.

    Python before 3.11.5 fails in `ast.parse` when garbage of other tests runs code meanwhile (CPython gh-106905).
    """
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    finally:
        gc.enable()


LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "version", "units", "clock", "calendar", "config", "home", "files", "disk_space", "child_process"),
    ("events",),
    ("wire",),
    ("eventlog",),
    ("projections",),
    ("artefacts", "memory"),
    ("gateway", "simgateway"),
    ("recorder", "rebuild", "endofday", "replay"),
    ("status", "demo", "explain"),
)
"""Allowed imports: a layer imports only those above it in this list; modules of the first layer also each other."""
SIBLINGS = {("endofday", "rebuild")}  # the end of a day starts from the day's projection
ROOMS = (
    ("eventlog/storage", "eventlog"),  # the bytes of a log know nothing of runs, dates and writers
    ("projections/market", "projections/trading"),  # the market does not depend on what is traded in it
    ("simgateway/markets", "simgateway"),  # a market does not know the server that serves it
)
"""Folders, and the folder whose other modules they do not import."""
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
DETERMINISTIC = ("events", "wire", "eventlog", "projections", "artefacts", "memory")
SOURCES = sorted((PROJECT / "harvester").rglob("*.py"))
COMMANDS = sorted((PROJECT / "cli").glob("*.py"))


@lru_cache(None)
def imported(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree_of(path)):
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
def test_imports_point_up_the_list(path: Path) -> None:
    """A module imports only from its own folder and from layers before it, annotations included."""
    mine = part(path)
    for name in imported(path):
        words = name.split(".")
        assert words[0] != "cli", f"{path} imports the command line"
        if words[0] == "harvester" and len(words) > 1 and words[1] in RANK and words[1] != mine:
            allowed = RANK[words[1]] < RANK[mine] or RANK[mine] == RANK[words[1]] == 0
            allowed = allowed or (mine, words[1]) in SIBLINGS
            assert allowed, f"{path.relative_to(PROJECT)} imports {name}"


@pytest.mark.parametrize(("room", "outside"), ROOMS)
def test_rooms_within_a_folder(room: str, outside: str) -> None:
    """A lower folder of a package imports none of its other folders."""
    below, beside = f"harvester.{room.replace('/', '.')}", f"harvester.{outside.replace('/', '.')}"
    for path in (PROJECT / "harvester" / room).rglob("*.py"):
        for name in modules_imported(path):
            inside = name == below or name.startswith(f"{below}.")
            assert inside or not name.startswith(f"{beside}."), f"{path.relative_to(PROJECT)} imports {name}"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}


def modules_imported(path: Path) -> set[str]:
    """The package's modules that a file imports, anywhere in it."""
    names = imported(path)
    packages = {module_of(p) for p in SOURCES if p.name == "__init__.py"}
    return {name for name in names if name in MODULES and name not in packages}


def test_no_circle_of_imports() -> None:
    """There is no circle of imports, annotations included: every module can be read after those it imports."""
    graph = {name: modules_imported(path) - {name} for name, path in MODULES.items()}
    while leaves := {name for name, targets in graph.items() if not targets}:
        graph = {name: targets - leaves for name, targets in graph.items() if name not in leaves}
    assert not graph, f"in a circle, or above one: {sorted(graph)}"


def test_each_name_has_one_owner() -> None:
    """No two modules share a file name, no two classes a name, so a search finds one."""
    modules: dict[str, list[str]] = {}
    classes: dict[str, list[str]] = {}
    for path in SOURCES + COMMANDS:
        where = str(path.relative_to(PROJECT))
        if path.name != "__init__.py":
            modules.setdefault(path.stem, []).append(where)
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(where)
    shared = {name: owners for name, owners in (modules | classes).items() if len(owners) > 1}
    assert not shared, shared


def test_every_source_has_a_layer() -> None:
    """Every file belongs to a layer, so none escapes the import rule."""
    assert {part(p) for p in SOURCES} - set(RANK) == {"__init__"}


def test_only_the_gateway_knows_ib_async() -> None:
    """ib_async is imported nowhere but in harvester/gateway/."""
    for path in SOURCES + COMMANDS:
        words = {name.split(".")[0] for name in imported(path)}
        if "gateway" not in path.parts:
            assert not words & {"ib_async", "eventkit"}, path
        assert "ibapi" not in words, path


FORBIDDEN_IMPORTS = {"random", "secrets", "uuid", "locale", "time", "asyncio", "socket"}
FORBIDDEN_CALLS = {"now", "utcnow", "today", "time_ns", "monotonic_ns", "perf_counter", "urandom", "getenv"}


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if part(p) in DETERMINISTIC], ids=lambda p: str(p.relative_to(PROJECT))
)
def test_the_deterministic_path_reads_no_clock_and_no_chance(path: Path) -> None:
    """Code that folds, writes or learns reads no clock, no randomness and no environment."""
    tree = tree_of(path)
    found = {name.split(".")[0] for name in imported(path)} & FORBIDDEN_IMPORTS
    assert not found, f"{path.relative_to(PROJECT)} imports {found}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FORBIDDEN_CALLS:
            pytest.fail(f"{path.relative_to(PROJECT)}:{node.lineno} calls {node.func.attr}")
        if isinstance(node, (ast.For, ast.comprehension)) and isinstance(node.iter, (ast.Set, ast.SetComp)):
            pytest.fail(f"{path.relative_to(PROJECT)}: iterates over a set, whose order is chance")


PAST_THE_DISK = {
    "files.py": "it is the disk",
    "clock.py": "the dial the simulated gateway turns: shared memory, not data",
    "projections/market/kernel_cache.py": "compiled code beside the package, rebuilt when it is missing",
    "recorder/trading_process.py": "the cell: memory shared with the trading process, not data",
    "recorder/trading_child.py": "the same cell",
    "simgateway/gateway_report.py": "the simulated gateway's report, outside the home's data",
    "simgateway/clock_file.py": "the simulated gateway's clock, gone with its process",
}
CHANGES = {"unlink", "mkdir", "rmdir", "write_bytes", "write_text", "touch", "rename", "symlink_to", "hardlink_to"}
CHANGES |= {"rmtree", "copyfile", "copy2", "copytree", "move", "makedirs", "removedirs", "renames"}


def changes_files(call: ast.Call) -> bool:
    """Whether a call creates, writes, syncs, renames or deletes a file past the log's disk."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    by_os = (
        isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.func.value.id == "os"
    )
    if name == "open":
        modes = [arg.value for arg in [*call.args, *(k.value for k in call.keywords)] if isinstance(arg, ast.Constant)]
        return any(isinstance(mode, str) and set(mode) & set("wax+") and set(mode) <= set("rwaxbt+") for mode in modes)
    if by_os and name in ("replace", "remove", "truncate", "fsync", "fdatasync"):
        return True
    return name in CHANGES or (name == "replace" and len(call.args) == 1 and not call.keywords)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PROJECT)))
def test_files_are_changed_through_the_disk(path: Path) -> None:
    """Every create, write, sync, rename and delete goes through `Disk`, so that tests can cut its power anywhere."""
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    found = [call.lineno for call in calls if changes_files(call)]
    name = path.relative_to(PROJECT / "harvester").as_posix()
    assert bool(found) == (name in PAST_THE_DISK), f"{name} changes files past the disk: lines {found}"


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
    """Every `noqa` gives a reason after its code; for a whole file the comment above may give it."""
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


def test_demo_speaks_before_it_loads() -> None:
    """The first line of `hv demo` is written, not only buffered, before any of the heavy libraries is imported."""
    code = (
        "import os, sys; sys.argv = ['hv', 'demo']\n"
        "class Heavy:\n"
        "    def find_spec(name, *_):\n"
        "        if name in {'pyarrow','polars','numba','numpy','ib_async','pandas','exchange_calendars'}:\n"
        "            os.write(1, b'first heavy import')\n"
        "            os._exit(0)\n"
        "from cli.app import app\n"
        "sys.meta_path.insert(0, Heavy)\n"
        "app()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    first, *rest = done.stdout.splitlines()
    assert first.startswith("demo       a modelled trading day"), done
    assert rest == ["first heavy import"]


def test_every_command_is_documented() -> None:
    """Every command has help with an example, and the README names it."""
    from cli.app import COMMANDS as LIST
    from cli.app import app

    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    for name, _ in LIST:
        done = CliRunner().invoke(app, [name, "--help"])
        assert done.exit_code == 0, f"hv {name} --help: {done.stderr}"
        assert f"hv {name}" in done.stdout.split("Usage")[-1].split("\n", 1)[1], f"hv {name} --help has no example"
        assert f"hv {name}" in readme, f"README.md does not name hv {name}"


SHARED = ("home", "as_json", "date", "symbol", "symbols", "at", "first", "last")
SHARED_FLAGS = ("--home", "--json", "--date", "--symbol", "--symbols", "--at", "--from", "--to")


def test_commands_share_their_options() -> None:
    """No command defines its own --home, --json, --date, --symbol(s), --at, --from or --to: cli/options.py has them."""
    assigned = ast.walk(tree_of(PROJECT / "cli/options.py"))
    options = {node.id for node in assigned if isinstance(node, ast.Name) and node.id.endswith("Option")}
    checked = 0
    for path in PROJECT.glob("cli/cmd_*.py"):
        tree = tree_of(path)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant):
                assert node.value not in SHARED_FLAGS, f"{path.name}:{node.lineno} defines {node.value}"
        for command in tree.body:
            if not isinstance(command, ast.FunctionDef) or command.name.startswith("_"):
                continue
            for parameter in (*command.args.args, *command.args.kwonlyargs):
                if parameter.arg in SHARED:
                    where = f"{path.name}: {command.name}({parameter.arg})"
                    assert isinstance(parameter.annotation, ast.Name), where
                    assert parameter.annotation.id in options, where
                    checked += 1
    assert checked > 50
