"""An edit of any source of the compiled kernels takes effect, for every cache folder."""

from __future__ import annotations

import ast
import errno
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numba.core.caching
import pytest

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
    "        _requote(s, ops[n, 2], ops[n, 0], ops[n, 1])\n",
    "    _spoke(s, s.inst[_at(i)], _S_BID_ASK, f.quote_seq[j], f.quote_ts[j])\n",
    "    _count_unset(s.inst[_at(i)], f.quote_bid[j], f.quote_ask[j])\n",
    "    _count_unset(s.inst[_at(i)], f.quote_bid_size[j], f.quote_ask_size[j])\n",
    "        _on_clock(s, f.clock_seq[j])\n",
)
"""The parts of the kernels besides the bid of a quote: without them they compile in seconds."""


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
    edit(
        kernels,
        "_requote(s, i, f.quote_seq[j], f.quote_ts[j])",
        "s.inst[_at(i)].source, s.inst[_at(i)].bid = 1, feed[0]",
    )
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


SMALL = "def double(x):\n    return x + x\n"


def small_package(place: Path) -> tuple[Path, Any]:
    """A package of empty kernel sources, and one tiny function in the place of the kernels."""
    for name in kernel_cache.SOURCES:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    source = place / "projections" / "market" / "kernels.py"
    source.write_text(SMALL, encoding="utf-8")
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(SMALL, str(source), "exec"), names)
    return source, names["double"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[int, list[str]]]:
    """A function that does what a start of `hv` does with the tiny package: 21 doubled, and the lines printed."""
    source, double = small_package(tmp_path / "package")
    monkeypatch.setattr(kernel_cache, "user_cache", lambda: tmp_path / "user")
    lines: list[str] = []
    monkeypatch.setattr(kernel_cache, "on_compile", [lines.append])

    def begin() -> tuple[int, list[str]]:
        lines.clear()
        monkeypatch.setattr(kernel_cache, "_reported", set())
        made = kernel_cache.decorator(numba, str(source), numba.int64(numba.int64))(double)
        return made(21), list(lines)

    return begin


def cache_files(tmp_path: Path, pattern: str = "*") -> list[Path]:
    return sorted(path for path in tmp_path.rglob(f"kernels-*/**/{pattern}") if path.is_file())


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda _: b"",
    "halved": lambda data: data[: len(data) // 2],
    "zeroed": lambda data: bytes(len(data)),
    "a flipped bit": lambda data: data[:-9] + bytes([data[-9] ^ 64]) + data[-8:],
    "longer": lambda data: data + b"\0",
}


@pytest.mark.parametrize("pattern", ["*.nbi", "*.nbc", kernel_cache.CHECKSUMS])
def test_a_damaged_cache_counts_as_absent(
    tmp_path: Path, start: Callable[[], tuple[int, list[str]]], pattern: str
) -> None:
    """Any of its files emptied, cut, zeroed, longer, gone or with one flipped bit: one warning, compiled again.

    The warning names the folder; the next start loads and prints nothing.
    """
    result, lines = start()
    assert (result, len(lines)) == (42, 1)
    assert "once for this version" in lines[0]
    assert start() == (42, [])
    for what in ("gone", *DAMAGE):
        (path,) = cache_files(tmp_path, pattern)
        if what == "gone":
            path.unlink()
        else:
            path.write_bytes(DAMAGE[what](path.read_bytes()))
        result, lines = start()
        assert (result, len(lines)) == (42, 1), what
        assert "compiling them again" in lines[0], what
        assert str(next((tmp_path / "package" / "projections" / "__pycache__").glob("kernels-*"))) in lines[0]
        assert start() == (42, []), what
    assert [path.name for path in (tmp_path / "package" / "projections" / "__pycache__").iterdir()] == [
        next(path for path in cache_files(tmp_path, "*.nbi")).parents[1].name
    ]


def test_a_cache_of_another_machine_counts_as_absent(
    start: Callable[[], tuple[int, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels compiled for another processor, put under this one's name with valid checksums, are compiled again."""
    with monkeypatch.context() as other:
        other.setattr(numba.config, "CPU_NAME", "x86-64" if platform.machine() == "x86_64" else "generic")
        other.setattr(numba.config, "CPU_FEATURES", "")
        assert start()[0] == 42
    result, lines = start()
    assert (result, len(lines)) == (42, 1)
    assert "of another machine: compiling them again" in lines[0]
    assert start() == (42, [])


def test_an_intact_cache_that_cannot_be_written_is_used(
    start: Callable[[], tuple[int, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only install whose cache is complete loads from it: nothing is compiled, nothing printed."""
    start()
    monkeypatch.setattr(kernel_cache, "writable", lambda _: False)
    assert start() == (42, [])


def test_an_intact_cache_is_used_without_room_for_temporary_files(
    start: Callable[[], tuple[int, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no temporary folder can be made, the cache is read in place, and stays intact."""
    start()
    with monkeypatch.context() as disk:
        disk.setattr(tempfile, "mkdtemp", full)
        assert start() == (42, [])
    assert start() == (42, [])


def test_where_nothing_can_be_written_the_kernels_are_compiled_in_memory(
    tmp_path: Path, start: Callable[[], tuple[int, list[str]]]
) -> None:
    """Neither `__pycache__` nor the user's folder can be a folder: one warning names both, and the kernels work."""
    (tmp_path / "package" / "projections" / "__pycache__").write_text("in the way", encoding="utf-8")
    (tmp_path / "user").write_text("in the way", encoding="utf-8")
    for _ in range(2):
        result, lines = start()
        assert (result, len(lines)) == (42, 1)
        assert "compiling the market kernels in memory" in lines[0]
        assert str(tmp_path / "user") in lines[0]


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["mkdir", "write_bytes", "pickle"])
def test_a_full_disk_costs_the_saving_not_the_start(
    tmp_path: Path, start: Callable[[], tuple[int, list[str]]], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The disk is full when the folder, Numba's files or the checksums are written: the kernels work from memory."""
    folder = tmp_path / "package" / "projections" / "__pycache__"
    with monkeypatch.context() as disk:
        disk.setattr(kernel_cache, "choose", lambda _, name: folder / f"kernels-{name}")
        folder.mkdir()
        if place == "pickle":
            disk.setattr(numba.core.caching.IndexDataCacheFile, "_open_for_write", full)
        else:
            disk.setattr(Path, place, full)
        result, lines = start()
    assert (result, len(lines)) == (42, 2)
    assert f"cannot save the market kernels compiled in {folder}" in lines[1]
    assert os.strerror(errno.ENOSPC) in lines[1]
    assert list(folder.iterdir()) == []
    assert len(start()[1]) == 1
    assert start() == (42, [])
