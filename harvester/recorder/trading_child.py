"""The process that runs users' strategies beside a recording. `trading_process` starts it and speaks with it.

    python -m harvester.recorder.trading_child       # the first line of stdin is a task, see `trading_messages`

It follows the committed events and folds them by the code of `hv project`, with the kept copies of the strategies, so
live and replay are the same. Whatever a strategy does to this process, the recorder goes on. An audit hook refuses
sockets, processes and signals: a guard against accidents, not a sandbox.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from harvester.artefacts.episode_files import day_files, write_day
from harvester.child_process import end_with_parent, limit_memory
from harvester.errors import HarvesterError, NoLog
from harvester.eventlog.follow import Follower
from harvester.eventlog.reader import open_day
from harvester.home import Home
from harvester.memory.strategy_files import KeptStrategies, load_all, recorded_failures
from harvester.projections.engine import Engine
from harvester.projections.trading.failure import Failure, printable
from harvester.projections.trading.trading import Trading
from harvester.projections.trading.trading_feed import TradingFeed
from harvester.projections.trading.user_decider import UserDecider
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
    from collections.abc import Iterator, Mapping

    from harvester.events.batch import Batch
    from harvester.projections.trading.strategy import Decider, Verdict
    from harvester.projections.trading.user_strategy import Now, Strategy

NICENESS = 5  # the recorder goes first
WAIT_S, WAIT_TURNS = 0.01, 1_000  # for a commit that was announced and cannot be read yet
REFUSED = {
    "socket.": "open sockets",
    "subprocess.": "start processes",
    "os.system": "start processes",
    "os.exec": "start processes",
    "os.posix_spawn": "start processes",
    "os.spawn": "start processes",
    "os.startfile": "start processes",
    "os.fork": "start processes",
    "os.kill": "send signals",
    "signal.pthread_kill": "send signals",
}
"""Audit events, by their beginning, that a strategy may not cause, and what it may not do."""


def main() -> None:
    """Do the task on stdin."""
    commands, answers = _streams()
    first = commands.readline()
    task = msgspec.json.decode(first, type=Task)
    try:
        if isinstance(task, LoadTask):
            answers.send(Loaded(tuple(load_all(task.wanted, task.settings, task.values))))
        else:
            TradingChild(task, answers).follow(commands)
    except HarvesterError as error:
        answers.send(Refused(str(error), error.exit_code))
    except Exception as error:  # noqa: BLE001 - the recorder reports it
        answers.send(Refused(f"{type(error).__name__}: {error}", 1))


class _Answers:
    """Answers to the recorder. A recorder that is gone ends this process."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out

    def send(self, answer: Answer) -> None:
        try:
            self._out.write(msgspec.json.encode(answer) + b"\n")
            self._out.flush()
        except OSError:
            os._exit(0)


def _streams() -> tuple[IO[bytes], _Answers]:
    """The recorder's lines and the answers; what a strategy reads or prints goes nowhere."""
    commands, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    return commands, _Answers(out)


class TradingChild:
    """Folds one date as it is committed."""

    def __init__(self, task: FollowTask, answers: _Answers) -> None:
        self._answers, self._toggles = answers, task.toggles
        paths = Home(Path(task.root)).on(date.fromisoformat(task.trading_date))
        self._folder = paths.episodes
        with Path(task.cell).open("r+b") as file:
            self._library = WatchedStrategies(paths.home, Cell(mmap.mmap(file.fileno(), Cell.SIZE)))
        failures = {(one.strategy, one.digest): one for one in task.failures}
        with suppress(NoLog):
            failures |= recorded_failures(open_day(paths.trading_date, paths.home, set_aside=True))
        self._library.failures = failures
        self._engine, self._follower = Engine(library=self._library), Follower(paths)
        self._rest: Iterator[Batch] = iter(())
        self._left: Batch | None = None
        self._reported = set(self._library.failures)
        self._unwritten = ""
        _give_way(task.memory_max)
        sys.addaudithook(refuse)

    def follow(self, commands: IO[bytes]) -> None:
        """Fold every commit that is announced, until the recorder closes the pipe."""
        for command in _lines(commands):
            self._fold_through(command.through)
            digest = self._engine[TradingFeed].digest() if command.digest else ""
            self._answers.send(Folded(command.through, digest, self._new_failures(), self._unwritten))
            self._unwritten = ""

    def _fold_through(self, seq: int) -> None:
        while self._engine.through_seq < seq:
            batch = self._left or self._next()
            self._left = batch.slice(seq + 1, batch.last_seq) if batch.last_seq > seq else None
            outputs = self._engine.fold(batch.slice(batch.first_seq, seq) if self._left is not None else batch)
            if outputs.rows("episodes"):
                self._write(outputs["episodes"].column("document").to_pylist())

    def _next(self) -> Batch:
        for _ in range(WAIT_TURNS):
            if (batch := next(self._rest, None)) is not None:
                return batch
            self._rest = self._follower.poll()
            if (batch := next(self._rest, None)) is not None:
                return batch
            time.sleep(WAIT_S)
        raise TimeoutError(f"the log has no event after seq {self._engine.through_seq}")

    def _write(self, documents: list[str]) -> None:
        try:
            write_day(self._folder, day_files(documents, **self._toggles))
        except OSError as error:
            self._unwritten = str(error)

    def _new_failures(self) -> tuple[Failure, ...]:
        trading = self._engine[TradingFeed].trading
        assert isinstance(trading, Trading)
        found = [*self._library.unmade, *trading.failures]
        fresh = {(one.strategy, one.digest): one for one in found if self._library.waits_for_notice(one.strategy)}
        fresh = {key: one for key, one in fresh.items() if key not in self._reported}
        self._reported |= set(fresh)
        return tuple(fresh.values())


def _lines(commands: IO[bytes]) -> Iterator[Committed]:
    """The commands, the newest of those that wait; one that asks for a digest is never skipped."""
    waiting: list[Committed] = []
    arrived = threading.Condition()

    def read() -> None:
        for line in commands:
            with arrived:
                waiting.append(msgspec.json.decode(line, type=Committed))
                arrived.notify()
        os._exit(0)  # the recorder is gone, or has closed the pipe: also out of a strategy's endless loop

    threading.Thread(target=read, daemon=True).start()
    while True:
        with arrived:
            arrived.wait_for(lambda: bool(waiting))
            asked = next((n for n, one in enumerate(waiting) if one.digest), len(waiting) - 1)
            command = waiting[asked]
            del waiting[: asked + 1]
        yield command


class WatchedStrategies(KeptStrategies):
    """Kept copies, each call noted in the cell.

    Attributes:
        unmade: failures of strategies that could not be made.
    """

    def __init__(self, home: Home, cell: Cell) -> None:
        super().__init__(home)
        self.unmade: list[Failure] = []
        self._cell = cell

    def make_user(self, name: str, recorded: str, settings: Mapping[str, Any]) -> tuple[Decider, str]:
        self._cell.begin((name.encode(), recorded.encode()))
        try:
            return super().make_user(name, recorded, settings)
        except HarvesterError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's code may raise anything
            failure = Failure(name, recorded, 0, 0, 0, "", printable(f"{type(error).__name__}: {error}"))
            self.unmade.append(failure)
            self.failures = {**self.failures, (name, recorded): failure}
            return super().make_user(name, recorded, settings)
        finally:
            self._cell.end()

    def decider(
        self, strategy: Strategy, digest: str, recorded: Failure | None, name: str | None = None
    ) -> UserDecider:
        return WatchedDecider(self._cell, strategy, digest, recorded, name)


class WatchedDecider(UserDecider):
    """A decider that notes each call of its strategy in the cell."""

    def __init__(self, cell: Cell, strategy: Strategy, digest: str, recorded: Failure | None, name: str | None) -> None:
        super().__init__(strategy, digest, recorded, name)
        self._cell, self._labels = cell, (self.name.encode(), digest.encode())
        self.on_second = self._watched

    def prepare(self, at: tuple[int, int, int], symbol: str) -> None:
        self._cell.begin(self._labels, at, symbol)
        super().prepare(at, symbol)
        self._cell.end()

    def _watched(self, now: Now) -> Any:
        self._cell.begin(self._labels, (now.seq, now.ts, now.con_id), now.symbol)
        answer = self.strategy.on_second(now)
        self._cell.end()
        return answer

    def fail(self, at: tuple[int, int, int, str], error: BaseException) -> tuple[Verdict, Failure]:
        self._cell.end()
        return super().fail(at, error)


def refuse(event: str, _: tuple[Any, ...]) -> None:
    """The audit hook.

    Raises:
        PermissionError: the event is one of `REFUSED`.
    """
    for start, what in REFUSED.items():
        if event.startswith(start):
            raise PermissionError(f"a strategy may not {what} while recording ({event})")


def _give_way(memory_max: int) -> None:
    """Give way to the recorder: lower priority, limited memory, and an end with it."""
    with suppress(OSError, AttributeError):
        os.nice(NICENESS)
    end_with_parent()
    limit_memory(memory_max)


if __name__ == "__main__":
    main()
