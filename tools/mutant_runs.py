"""Run chosen tests against a changed source file, in scratch copies of the project.

A warm process forks per change: it imports pytest and the heavy libraries, but never the project. Every child imports
the project from its scratch copy, changed file included, and runs pytest in a process group of its own. This needs
`os.fork`: Linux or macOS.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

PROJECT = Path(__file__).resolve().parent.parent
CACHES = ("harvester/projections/__pycache__/kernels-*", "harvester/__pycache__/checked")  # compiled by Numba
HEAVY = (
    "pytest", "_pytest.assertion.rewrite", "hypothesis", "numpy", "pyarrow", "pyarrow.compute", "pyarrow.parquet",
    "numba", "polars", "pandas", "msgspec", "structlog", "typer", "rich.console", "filelock", "sortedcontainers",
    "ib_async", "jsonschema", "psutil",
)  # fmt: skip
"""Imported once, before the first fork; importing them starts no thread."""

Ended = Literal["failed", "passed", "timed out", "broken"]


@dataclass(frozen=True)
class Change:
    """One file of the project with other text, and the tests to run: files or node ids, in order."""

    file: str
    text: str
    tests: tuple[str, ...]
    limit_s: float


@dataclass(frozen=True)
class Outcome:
    """How the tests ended.

    Attributes:
        ended: `failed`: a test failed. `passed`: all passed. `timed out`: the limit came first. `broken`: no test ran
            to its end, for example because the changed file cannot be imported.
        by: the first test that failed, else the reason.
        wall_s, cpu_s: seconds, subprocesses of the tests included.
    """

    ended: Ended
    by: str
    wall_s: float
    cpu_s: float


class Scratch:
    """A copy of the project's files in a folder of its own, compiled kernels included, `../shared` linked."""

    def __init__(self, folder: Path, source: Path = PROJECT) -> None:
        self.root = folder / "project"
        self._source = source
        for name in _files_of(source):
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target)
        for pattern in CACHES:
            for found in source.glob(pattern):
                self._copy_compiled(found)
        shared = PROJECT.parent / "shared"
        if shared.is_dir():
            (folder / "shared").symlink_to(shared, target_is_directory=True)

    def _copy_compiled(self, cache: Path) -> None:
        """Copy one of Numba's folders; it names those within by the path of the source they were compiled from."""
        for found in (path for path in cache.iterdir() if path.is_dir()):
            package = found.name.partition("_")[0]
            if found.name == _compiled_name(self._source / "harvester" / package):
                name = _compiled_name(self.root / "harvester" / package)
                shutil.copytree(found, self.root / cache.relative_to(self._source) / name)

    def copy_bytecode(self, other: Scratch) -> None:
        """Copy the bytecode of another copy."""
        for path in other.root.rglob("*.pyc"):
            target = self.root / path.relative_to(other.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)

    @contextlib.contextmanager
    def changed(self, file: str, text: str) -> Iterator[None]:
        """Change a file's text for a while, with a time that matches no bytecode of it."""
        path = self.root / file
        before, stat = path.read_bytes(), path.stat()
        try:
            path.write_text(text, encoding="utf-8", newline="\n")
            os.utime(path, (stat.st_atime, stat.st_mtime + 100_000))
            yield
        finally:
            path.write_bytes(before)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _files_of(source: Path) -> list[str]:
    """Files git tracks or would track."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(words, cwd=source, check=True, capture_output=True)  # noqa: S603 - own words
    return [name for name in done.stdout.decode().split("\0") if name and (source / name).is_file()]


def _compiled_name(folder: Path) -> str:
    return f"{folder.name}_{hashlib.sha1(str(folder).encode(), usedforsecurity=False).hexdigest()}"


def warm_up() -> None:
    """Import what every child needs and set what the tests' own conftest sets before Numba is imported."""
    os.environ["NUMBA_BOUNDSCHECK"] = "1"
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    loaded = sorted(name for name in sys.modules if name.partition(".")[0] in {"harvester", "cli", "tests"})
    if loaded:
        raise RuntimeError(f"the parent has imported the project itself: {', '.join(loaded)}")


@dataclass
class _Child:
    pid: int
    change: Change
    key: int
    began: float
    undo: contextlib.ExitStack
    scratch: Scratch
    paths: dict[str, Path] = field(default_factory=dict)


class Runner:
    """Forks a child per change, at most one at a time in each scratch copy."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self._folder = folder
        self.scratches = [Scratch(folder / "0")]
        self._jobs = jobs

    def unbroken(self, tests: Sequence[str], limit_s: float) -> Outcome:
        """Run the tests in an unchanged copy, which writes the bytecode all later runs use."""
        child = self._start(self.scratches[0], 0, Change("", "", tuple(tests), limit_s))
        outcome = self._wait(child)
        for number in range(1, self._jobs):
            self.scratches.append(Scratch(self._folder / str(number)))
            self.scratches[-1].copy_bytecode(self.scratches[0])
        return outcome

    def log(self) -> str:
        """The end of what pytest printed in the unchanged copy."""
        return (self._folder / "0" / "output.txt").read_text(encoding="utf-8", errors="replace")[-4000:]

    def run(self, changes: Iterable[Change], ended: Callable[[int, Outcome], None]) -> None:
        """Run every change; `ended` gets its index and outcome, in the order in which they end."""
        waiting = enumerate(changes)
        free, running = list(self.scratches), list[_Child]()
        more = True
        try:
            while more or running:
                while more and free:
                    try:
                        key, change = next(waiting)
                    except StopIteration:
                        more = False
                        break
                    running.append(self._start(free.pop(), key, change))
                for child in list(running):
                    if (outcome := self._look(child)) is not None:
                        running.remove(child)
                        free.append(child.scratch)
                        ended(child.key, outcome)
                time.sleep(0.01)
        finally:
            for child in running:
                _kill(child.pid)
                os.waitpid(child.pid, 0)
                child.undo.close()

    def _start(self, scratch: Scratch, key: int, change: Change) -> _Child:
        undo = contextlib.ExitStack()
        if change.file:
            undo.enter_context(scratch.changed(change.file, change.text))
        undo.callback(shutil.rmtree, scratch.root / ".hypothesis", ignore_errors=True)
        place = scratch.root.parent
        paths = {name: place / f"{name}.txt" for name in ("output", "result")}
        paths["result"].unlink(missing_ok=True)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _child(scratch.root, change, paths)
        with contextlib.suppress(OSError):  # the child does the same; either may be first
            os.setpgid(pid, pid)
        return _Child(pid, change, key, time.monotonic(), undo, scratch, paths)

    def _wait(self, child: _Child) -> Outcome:
        while (outcome := self._look(child)) is None:
            time.sleep(0.01)
        return outcome

    def _look(self, child: _Child) -> Outcome | None:
        """How the child ended, None while it runs; one over its limit is killed with its subprocesses."""
        pid, _, usage = os.wait4(child.pid, os.WNOHANG)
        wall = time.monotonic() - child.began
        timed_out = not pid and wall > child.change.limit_s
        if not pid and not timed_out:
            return None
        _kill(child.pid)  # also processes that a finished child left running
        if timed_out:
            _, _, usage = os.wait4(child.pid, 0)
        child.undo.close()
        ended, by = _result(child.paths["result"])
        if timed_out and ended != "failed":
            ended, by = "timed out", f"no test failed within {child.change.limit_s:g} s"
        return Outcome(ended, by, wall, usage.ru_utime + usage.ru_stime)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _result(path: Path) -> tuple[Ended, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "broken", "the test process died"
    return found["ended"], found["by"]


class _Watch:
    """A pytest plugin that writes the first failure to a file at once."""

    def __init__(self, path: Path) -> None:
        self._path, self.failed, self.passed, self.error = path, "", 0, ""

    def write(self, ended: Ended, by: str) -> None:
        self._path.write_text(json.dumps({"ended": ended, "by": by}), encoding="utf-8")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid
            self.write("failed", report.nodeid)
        self.passed += report.passed and report.when == "call"

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.error:
            self.error = str(report.longrepr).strip().rpartition("\n")[2]


def _child(root: Path, change: Change, paths: dict[str, Path]) -> None:
    """Run pytest and end the process."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        output = os.open(paths["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(root)
        sys.path[:0] = [str(root)]
        os.environ["PYTHONPATH"] = str(root)
        if change.file:
            sys.dont_write_bytecode = True
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        import pytest

        watch = _Watch(paths["result"])
        words = ["-x", "-q", "-p", "no:xdist", "--hypothesis-seed=1", "--rootdir", str(root), "--no-header"]
        code = pytest.main([*words, f"--timeout={change.limit_s * 0.8:g}", *change.tests], plugins=[watch])
        if not watch.failed:
            passed = code == pytest.ExitCode.OK and watch.passed
            why = watch.error or ("every test was skipped" if code == 0 else f"pytest ended with {int(code)}")
            watch.write("passed" if passed else "broken", "" if passed else why)
        sys.stdout.flush()
    finally:
        os._exit(0)
