"""`hv strategy check`: whether a strategy decides the same whenever and wherever a date is folded.

The date is folded in two processes with another PYTHONHASHSEED, working folder and clock; in odd batch cuts; with the
log cut at decisions; and with the prices after a decision replaced by noise. Each test is one line.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow as pa

from harvester.errors import BadSetting
from harvester.files import Disk, json_value
from harvester.memory.strategy_files import load_all
from harvester.rebuild.call_watch import CALL_S_MAX
from harvester.rebuild.check_child import DECISION_COUNT, CheckAnswer, CheckTask, moved

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from harvester.home import Home

TIMEOUT_S = 600.0
LINES = {
    "processes": "two processes: hash seed, working folder, clock",
    "cuts": "odd batch cuts",
    "prefix": f"log cut at {DECISION_COUNT} decisions",
    "noise": f"noise for every price after {DECISION_COUNT} decisions",
    "used": "no file, socket or process used while deciding",
    "failures": "no failure",
}


class CheckLine(NamedTuple):
    """One test: its name, and the first difference, empty = passed."""

    test: str
    about: str
    difference: str


class CheckReport(NamedTuple):
    """The tests in order; `decisions` and `acts`: decisions of the date, and those to act."""

    lines: list[CheckLine]
    decisions: int
    acts: int

    @property
    def passed(self) -> bool:
        """Whether every test passed."""
        return not any(line.difference for line in self.lines)


def check(
    home: Home,
    trading_date: date,
    strategies: Sequence[str],
    settings: dict[str, dict[str, Any]] | None = None,
    *,
    values: Sequence[str] = (),
    timeout_s: float = TIMEOUT_S,
    call_s_max: float = CALL_S_MAX,
) -> CheckReport:
    """Run every test.

    Raises:
        BadSetting: a strategy cannot be loaded, or the date cannot be opened.
    """
    load_all(strategies, settings or {}, values)  # a mistake shows here, not in two processes
    absolute = [_absolute(one) for one in strategies]
    with tempfile.TemporaryDirectory(prefix="hv-check-") as name:
        folder = Path(name)
        shared = (str(home.root), trading_date.isoformat(), absolute, list(values), settings or {})
        plans = [(["cuts", "prefix"], False), (["noise"], True)]
        children: list[subprocess.Popen[bytes]] = []
        try:
            for k, (tests, shifted) in enumerate(plans):
                task = CheckTask(
                    *shared, tests, shifted, str(folder / f"{k}.arrow"), str(folder / f"{k}.json"), call_s_max
                )
                children.append(_start(task, folder / f"task{k}.json", k, folder))
            ends: list[str] = []
            for child in children:  # they run side by side: the second has had its time when the first is out of it
                ends.append(_end(child, 0.0 if any(ends) else timeout_s))
        finally:
            for child in children:
                _kill(child)
        answers = [_answer(folder / f"{k}.json") for k in range(len(plans))]
        return _report(folder, ends, answers)


def _absolute(wanted: str) -> str:
    """The same strategy from another working folder."""
    where, colon, name = wanted.rpartition(":")
    if colon and (where.endswith(".py") or "/" in where or "\\" in where):
        return f"{Path(where).expanduser().resolve()}:{name}"
    return wanted


def _start(task: CheckTask, file: Path, k: int, folder: Path) -> subprocess.Popen[bytes]:
    Disk().write_atomic(file, msgspec.json.encode(task))
    path = os.pathsep.join([str(Path.cwd()), *(part for part in sys.path if part)])
    env = os.environ | {"PYTHONHASHSEED": str(1 + 12_345 * k), "PYTHONPATH": path}
    words = [sys.executable, "-m", "harvester.rebuild.check_child", str(file)]
    where = Path.cwd() if k == 0 else folder
    # The words are this interpreter, this package and a file of ours.
    return subprocess.Popen(  # noqa: S603 - see above
        words, cwd=where, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End a child and its forks."""
    if os.name == "nt":
        child.kill()
    else:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _end(child: subprocess.Popen[bytes], timeout_s: float) -> str:
    """Why a child ended without a result; empty when it ended as it should."""
    try:
        code = child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return f"did not finish within {timeout_s:g} s" if timeout_s else "was stopped with the other process"
    return "" if code == 0 else f"its process ended with code {code}"


def _answer(file: Path) -> CheckAnswer | None:
    return json_value(file.read_bytes(), CheckAnswer) if file.exists() else None


def _report(folder: Path, ends: Sequence[str], answers: Sequence[CheckAnswer | None]) -> CheckReport:
    known = [answer for answer in answers if answer is not None]
    if error := next((answer.error for answer in known if answer.error), ""):
        raise BadSetting(error)
    differences = dict.fromkeys(LINES, "")
    broken = next((end for end in ends if end), "")
    if not broken and len(known) < len(answers):
        broken = "its process ended without a result"
    if broken:
        return CheckReport([CheckLine("processes", LINES["processes"], broken)], 0, 0)
    for answer in known:
        differences |= answer.moved
        differences["used"] = differences["used"] or ", ".join(answer.used)
    one, other = (_table(folder / f"{k}.arrow") for k in range(len(answers)))
    differences["processes"] = moved(one, other)
    failed = known[0].failures
    differences["failures"] = failed[0] if failed else ""
    lines = [CheckLine(test, about, differences[test]) for test, about in LINES.items()]
    return CheckReport(lines, known[0].decisions, known[0].acts)


def _table(file: Path) -> pa.Table:
    with pa.ipc.open_file(pa.BufferReader(file.read_bytes())) as reader:
        return reader.read_all()
