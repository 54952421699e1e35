"""The recorder's side of the trading process: start it, announce commits, and drop the strategy that ends it.

A strategy that hangs or ends the process is named by the cell, reported as failed, and a new process folds the date
again without it. Nothing here waits for the process while market time goes on; only a lockstep clock waits for it.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from harvester.errors import BadSetting, CannotRun
from harvester.projections.trading.failure import Failure
from harvester.recorder.trading_messages import (
    Answer,
    Cell,
    Committed,
    Folded,
    FollowTask,
    Loaded,
    LoadTask,
    Refused,
    Task,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from harvester.home import DatePaths
    from harvester.memory.strategy_files import LoadedStrategy
    from harvester.recorder.trading_messages import Call

logger = structlog.get_logger()

CALL_S_MAX = 30.0  # real seconds after which a call of a strategy counts as hanging
STALL_S_MAX = 300.0  # the same without a call: the process is started again
LOOK_S = 0.5  # between two looks at the process
LOAD_S_MAX = 60.0
MEMORY_MAX = 3 * 1024**3
BROKEN_MAX = 3  # ends of the process without a strategy to name; then trading stops
LAG_S = 60.0  # a process so far behind is reported, once


async def load_in_child(
    wanted: Sequence[str], settings: Mapping[str, Mapping[str, Any]], values: Sequence[str]
) -> list[LoadedStrategy]:
    """Load strategies in a process of their own: their modules are never run in the recorder.

    Raises:
        BadSetting: as `strategy_files.load_all`; or the process hangs or dies.
    """
    child = await _start()
    names = ", ".join(wanted)
    try:
        task = LoadTask(tuple(wanted), {name: dict(table) for name, table in settings.items()}, tuple(values))
        _send(child, task)
        line = await asyncio.wait_for(_stdout(child).readline(), LOAD_S_MAX)
    except TimeoutError:
        raise BadSetting(f"--strategy {names}: its module does not finish loading within {LOAD_S_MAX:g} s") from None
    finally:
        code = await _end(child)
    if not line:
        raise BadSetting(f"--strategy {names}: {_why(code)} while its module was loaded")
    answer = msgspec.json.decode(line, type=Answer)
    if isinstance(answer, Refused):
        raise BadSetting(answer.why)
    assert isinstance(answer, Loaded)
    return list(answer.strategies)


class TradingProcess:
    """The trading of one date, in a process of its own.

    Args:
        paths: of the date.
        toggles: of the episode files.
        dropped: called with each new failure.

    Attributes:
        through: events folded so far; `committed`: events announced.
        lagged: digests of trading that came too late to be written.
        broken: why trading has stopped; empty while it runs.
        unwritten: why an episode file could not be written.
    """

    def __init__(self, paths: DatePaths, toggles: Mapping[str, bool], dropped: Callable[[Failure], None]) -> None:
        self._paths, self._toggles, self._dropped = paths, dict(toggles), dropped
        self.through = self.committed = self.lagged = 0
        self.broken = self.unwritten = ""
        self._failures: dict[tuple[str, str], Failure] = {}
        self._digests: dict[int, str] = {}  # by seq; empty = asked for
        self._ends = 0
        self._moved = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._child: asyncio.subprocess.Process | None = None
        file, name = tempfile.mkstemp(prefix="hv-trading-")
        os.write(file, b"\0" * Cell.SIZE)
        self._memory = mmap.mmap(file, Cell.SIZE)
        os.close(file)
        self._cell_file, self._cell = Path(name), Cell(self._memory)
        self._lag_since, self._lag_reported = 0.0, False

    def mute(self) -> None:
        """Report no more failures: the run has ended."""
        self._dropped = lambda _: None

    def start(self) -> None:
        """Start the process and watch it, in the background."""
        self._lag_since = _now()
        self._watching = asyncio.ensure_future(self._watch())

    def announce(self, through: int, *, digest: bool = False) -> None:
        """Events up to `through` are in the log; `digest`: one of trading after them is wanted."""
        self.committed = through
        if digest:
            self._digests.setdefault(through, "")
        if self._child is not None:
            _send(self._child, Committed(through, digest))

    def digest(self, seq: int) -> str:
        """The digest after `seq` that was asked for; empty if it has not come."""
        return self._digests.get(seq, "")

    def forget(self, seq: int) -> None:
        """The digest after `seq` is not wanted any more."""
        self._digests.pop(seq, None)

    @property
    def behind(self) -> int:
        """Events that are committed and not folded."""
        return 0 if self.broken else max(self.committed - self.through, 0)

    async def caught_up(self) -> None:
        """Wait until every announced event is folded and digest computed, or trading has stopped."""
        while self.behind or (not self.broken and "" in self._digests.values()):
            self._moved.clear()
            await self._moved.wait()

    async def close(self) -> None:
        """End the process."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        self._memory.close()
        self._cell_file.unlink(missing_ok=True)

    # the process

    async def _watch(self) -> None:
        """Start the process, again after each of its ends that a strategy caused."""
        while not self.broken:
            try:
                await self._live()
            except (OSError, CannotRun) as error:
                self._break(str(error))
            self._moved.set()

    async def _live(self) -> None:
        """One process, from its start to its end."""
        child = self._child = await _start()
        reading = asyncio.ensure_future(self._read(child))
        named = False
        try:
            self._begin(child)
            named = await self._until_end(child, reading)
        finally:
            self._child = None
            code = await _end(child)
            await asyncio.gather(reading, return_exceptions=True)
        if not named:
            self._after_end(code)

    def _break(self, why: str) -> None:
        self.broken = why
        logger.warning("simulated trading stops", why=why)

    def _begin(self, child: asyncio.subprocess.Process) -> None:
        self._cell.end()
        self.through = 0
        task = FollowTask(
            root=str(self._paths.home.root.resolve()),
            trading_date=self._paths.trading_date.isoformat(),
            toggles=self._toggles,
            failures=tuple(self._failures.values()),
            cell=str(self._cell_file),
            memory_max=MEMORY_MAX,
        )
        _send(child, task)
        for seq in sorted(seq for seq, digest in self._digests.items() if not digest):
            _send(child, Committed(seq, digest=True))
        if self.committed not in self._digests and self.committed:
            _send(child, Committed(self.committed))

    async def _read(self, child: asyncio.subprocess.Process) -> None:
        async for line in _stdout(child):
            answer = msgspec.json.decode(line, type=Answer)
            if isinstance(answer, Refused):
                self._break(answer.why)
            elif isinstance(answer, Folded):
                self.through = answer.through
                self.unwritten = answer.unwritten or self.unwritten
                if answer.digest and answer.through in self._digests:
                    self._digests[answer.through] = answer.digest
                for failure in answer.failures:
                    self._drop(failure)
            self._moved.set()

    async def _until_end(self, child: asyncio.subprocess.Process, reading: asyncio.Future[None]) -> bool:
        """Wait until the process ends or a call of a strategy hangs; returns whether a strategy was dropped for it."""
        ended, since, state = asyncio.ensure_future(child.wait()), _now(), (self._cell.read(), self.through)
        try:
            while not ended.done() and not reading.done():
                waiting: set[asyncio.Future[Any]] = {ended, reading}
                await asyncio.wait(waiting, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                self._report_lag()
                if (present := (self._cell.read(), self.through)) != state or not self.behind:
                    since, state = _now(), present
                elif (call := present[0]) is not None and _now() - since >= CALL_S_MAX:
                    return self._drop(_failure(call, f"no answer within {CALL_S_MAX:g} s"))
                elif _now() - since >= STALL_S_MAX:
                    break
            return False
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    def _after_end(self, code: int | None) -> None:
        """Name the strategy that ended the process; without one that is new, try a few times."""
        if self.broken:
            return
        call = self._cell.read()
        if call is not None and self._drop(_failure(call, f"{_why(code)} while it decided")):
            return
        self._ends += 1
        if self._ends >= BROKEN_MAX:
            self._break(f"{_why(code)}, {self._ends} times")

    def _drop(self, failure: Failure) -> bool:
        """Report a failure; returns whether it is the first of its strategy."""
        key = failure.strategy, failure.digest
        if key in self._failures:
            return False
        self._failures[key] = failure
        logger.warning("strategy dropped", line=failure.line())
        self._dropped(failure)
        return True

    def _report_lag(self) -> None:
        if not self.behind:
            self._lag_since = _now()
        elif _now() - self._lag_since >= LAG_S and not self._lag_reported:
            self._lag_reported = True
            logger.warning("simulated trading is behind the recording", events=self.behind)


def _failure(call: Call, why: str) -> Failure:
    return Failure(call.strategy, call.digest, call.seq, call.ts, call.con_id, call.symbol, why)


def _python_path() -> str:
    return os.pathsep.join(str(Path(part).absolute()) for part in sys.path if part)


async def _start() -> asyncio.subprocess.Process:
    quiet = asyncio.subprocess.DEVNULL
    pipe = asyncio.subprocess.PIPE
    words = ("-P", "-m", "harvester.recorder.trading_child")
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            stdin=pipe,
            stdout=pipe,
            stderr=quiet,
            env=os.environ | {"PYTHONPATH": _python_path()},
            limit=64 * 1024 * 1024,
            start_new_session=os.name == "posix",  # Ctrl-C in the terminal is for the recorder
        )
    except OSError as error:
        raise CannotRun(f"the process for strategies cannot start: {error}") from error


def _send(child: asyncio.subprocess.Process, message: Task | Committed) -> None:
    assert child.stdin is not None
    with suppress(OSError, RuntimeError):  # its end is seen elsewhere
        child.stdin.write(msgspec.json.encode(message) + b"\n")


def _stdout(child: asyncio.subprocess.Process) -> asyncio.StreamReader:
    assert child.stdout is not None
    return child.stdout


async def _end(child: asyncio.subprocess.Process) -> int | None:
    """Kill the process, if it still runs; its exit code."""
    if _stdout(child).at_eof():  # it is ending: a signal now would hide its exit code from asyncio
        with suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), LOOK_S)
    if child.returncode is None:
        with suppress(ProcessLookupError):
            child.kill()
    await child.wait()
    return child.returncode


def _why(status: int | None) -> str:
    if status is not None and status < 0:
        with suppress(ValueError):
            return f"its process was ended by {signal.Signals(-status).name}"
    return f"its process ended with exit status {status}"


def _now() -> float:
    return asyncio.get_running_loop().time()
