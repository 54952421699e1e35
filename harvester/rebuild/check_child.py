"""One of the two processes of `hv strategy check`: folds a date in several ways and compares the decisions.

    python -m harvester.rebuild.check_child TASK.json

The task and the result are JSON files; the decisions of the plain fold are an Arrow file that the parent compares with
those of the other process. Everything outside the strategy is the code that `hv project` runs.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from threading import get_ident
from typing import IO, TYPE_CHECKING, Any, NoReturn

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.artefacts.table_files import joined
from harvester.child_process import end_with_parent, limit_memory
from harvester.errors import HarvesterError
from harvester.eventlog.fold_reader import fold_batches
from harvester.eventlog.reader import open_day
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.files import Disk, json_value
from harvester.home import Home
from harvester.memory.strategy_files import GivenStrategies, load_all
from harvester.projections.engine import Engine
from harvester.projections.market.merge import COLUMNS
from harvester.projections.trading.trade_rows import DECISIONS
from harvester.projections.trading.trading import Trading
from harvester.projections.trading.trading_feed import TradingFeed
from harvester.projections.trading.user_calls import UserCalls
from harvester.rebuild.call_watch import CallWatch, NoAnswer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harvester.eventlog.reader import Day
    from harvester.memory.strategy_files import LoadedStrategy

ROWS = 100_000
SHIFT_S = 86_400 * 400 + 12_345  # the clock of the second process is wrong by so much
CUT_COUNT, DECISION_COUNT = 250, 50
MEMORY_MAX = 8 << 30  # bytes of a process; the fold of a full day needs less than a quarter
NOISE_BEFORE, NOISE_AFTER = 5_000, 20_000  # events of a decision's batch before it, and those after it with noise
PRICES: dict[Kind, tuple[str, ...]] = {
    Kind.TICK: ("price",),
    Kind.TRADE: ("price",),
    Kind.QUOTE: ("bid", "ask"),
    Kind.DEPTH: ("price",),
}


class CheckTask(msgspec.Struct):
    """What a child does. `tests`: of `cuts`, `prefix`, `noise`; `shifted`: the machine's clock is wrong."""

    root: str
    trading_date: str
    strategies: list[str]
    values: list[str]
    settings: dict[str, dict[str, Any]]
    tests: list[str]
    shifted: bool
    table: str
    result: str
    call_s_max: float


class CheckAnswer(msgspec.Struct):
    """What a child found: by test the first difference, empty = none; files, sockets and processes used; failures."""

    moved: dict[str, str] = {}
    used: list[str] = []
    failures: list[str] = []
    decisions: int = 0
    acts: int = 0
    error: str = ""


class Watch:
    """Notes files, sockets and processes that are opened while a strategy decides."""

    def __init__(self) -> None:
        self.used: list[str] = []
        self._deciding = 0  # the thread that decides; others read the log ahead meanwhile
        sys.addaudithook(self._hear)

    def around(self) -> None:
        """Watch every call of a user's strategy."""
        run = UserCalls.run

        def watched(*args: Any) -> Any:
            self._deciding = get_ident()
            try:
                return run(*args)
            finally:
                self._deciding = 0

        UserCalls.run = watched  # type: ignore[method-assign,assignment]

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self._deciding != get_ident() or not event.startswith(_WATCHED):
            return
        what = str(args[0]) if event == "open" and args else event
        if what.endswith((".py", ".pyc", ".so", ".pyd")) or len(self.used) >= 10:
            return
        if what not in self.used:
            self.used.append(what)


_WATCHED = ("open", "socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")


def main(task_file: str) -> None:
    """Do the task of the file."""
    end_with_parent()
    limit_memory(MEMORY_MAX)
    task = json_value(Path(task_file).read_bytes(), CheckTask)
    watch, answer = Watch(), CheckAnswer()
    if task.shifted:
        shift_clock(SHIFT_S)
    try:
        watch.around()
        _check(task, answer)
    except HarvesterError as error:
        answer.error = str(error)
    answer.used = watch.used
    Disk().write_atomic(Path(task.result), msgspec.json.encode(answer))


def _check(task: CheckTask, answer: CheckAnswer) -> None:
    found = load_all(task.strategies, task.settings, task.values)
    day = open_day(task.trading_date, Home(Path(task.root)))
    plain, failures = fold(day, found, call_s_max=task.call_s_max)
    answer.failures = failures
    answer.decisions = plain.num_rows
    acts = plain.filter(pc.not_equal(plain["action"], "none"))
    answer.acts = acts.num_rows
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, plain.schema) as writer:
        writer.write_table(plain)
    Disk().write_atomic(Path(task.table), sink.getvalue().to_pybytes())
    if any(str(NoAnswer()) in line for line in failures):  # each further fold would wait for it again
        answer.moved = dict.fromkeys(task.tests, "not run: a strategy does not answer")
        return
    if "cuts" in task.tests:
        answer.moved["cuts"] = moved(plain, fold(day, found, odd_cuts(day.first_seq, day.last_seq))[0])
    seqs = sample(plain, acts, DECISION_COUNT)
    if "prefix" in task.tests:
        answer.moved["prefix"] = moved(plain, fold(day, found, seqs)[0])
    if "noise" in task.tests:
        answer.moved["noise"] = first_moved(plain, day, found, seqs)


def fold(
    day: Day, found: Sequence[LoadedStrategy], cuts: Sequence[int] = (), *, call_s_max: float | None = None
) -> tuple[pa.Table, list[str]]:
    """The decisions of the date, batches ending at these seqs too, and the strategies that failed."""
    engine, parts = Engine(library=GivenStrategies(found)), []
    with CallWatch(call_s_max):
        for batch in fold_batches(day, COLUMNS, ROWS, cuts):
            parts += _decisions(engine.fold(batch).tables)
        parts += _decisions(engine.finish().tables)
    trading = engine[TradingFeed].trading
    failures = [failure.line() for failure in trading.failures] if isinstance(trading, Trading) else []
    return joined(parts, DECISIONS), failures


def first_moved(plain: pa.Table, day: Day, found: Sequence[LoadedStrategy], seqs: Sequence[int]) -> str:
    """The first decision that moves when the prices after one of these decisions are noise; empty = none."""
    folds = forked_folds if hasattr(os, "fork") else separate_folds
    for seq, since, noisy, ended in folds(day, found, seqs):
        difference = ended or moved(between(plain, since, seq), between(noisy, since, seq))
        if difference:
            return f"{difference} (prices after seq {seq} replaced)"
    return ""


NoisyFold = tuple[int, int, pa.Table, str]
"""A seq; decisions after `since` of a fold with noise behind the seq; why its process ended, empty = as it should."""


def forked_folds(day: Day, found: Sequence[LoadedStrategy], seqs: Sequence[int]) -> Iterator[NoisyFold]:
    """One fold of the date; before each decision a copy of its process goes on with noise behind the decision."""
    engine = Engine(library=GivenStrategies(found))
    begins = {seq: max(seq - NOISE_BEFORE, day.first_seq) for seq in seqs}
    waiting: list[tuple[int, int, int, IO[bytes]]] = []
    left = sorted(seqs)
    for batch in day.batches(ROWS, sorted(set(begins.values()))):
        engine.fold(batch)
        while left and begins[left[0]] <= batch.last_seq:
            seq = left.pop(0)
            if waiting:
                yield _ended(*waiting.pop())
            since = batch.last_seq
            parts = list(day.batches(NOISE_BEFORE + NOISE_AFTER, (), since + 1, min(seq + NOISE_AFTER, day.last_seq)))
            noisy, file = [with_noise(part, seq) for part in parts], tempfile.TemporaryFile()  # noqa: SIM115 - `_ended` closes it
            process = os.fork()
            if process == 0:
                _go_on(engine, noisy, file)
            waiting.append((process, seq, since, file))
        if not left:
            break
    if waiting:
        yield _ended(*waiting.pop())


def _go_on(engine: Engine, noisy: Sequence[Batch], file: IO[bytes]) -> NoReturn:
    """Fold these batches in the copy of the process, write the decisions, end it."""
    code = 1
    try:
        found = joined([part for batch in noisy for part in _decisions(engine.fold(batch).tables)], DECISIONS)
        with pa.ipc.new_stream(file, DECISIONS) as writer:
            writer.write_table(found)
        file.flush()
        code = 0
    finally:
        os._exit(code)


def _ended(process: int, seq: int, since: int, file: IO[bytes]) -> NoisyFold:
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with file:
        if code:
            return seq, since, joined([], DECISIONS), f"its process ended with code {code}"
        file.seek(0)
        with pa.ipc.open_stream(file.read()) as reader:
            return seq, since, reader.read_all(), ""


def separate_folds(day: Day, found: Sequence[LoadedStrategy], seqs: Sequence[int]) -> Iterator[NoisyFold]:
    """The same by one fold from the beginning of the date for each decision: slower."""
    for seq in sorted(seqs):
        yield seq, 0, fold_with_noise(day, found, seq), ""


def fold_with_noise(day: Day, found: Sequence[LoadedStrategy], seq: int) -> pa.Table:
    """The decisions of the date up to some events after a seq, when every price after it is another."""
    engine, parts = Engine(library=GivenStrategies(found)), []
    last = min(seq + NOISE_AFTER, day.last_seq)
    for batch in fold_batches(day, COLUMNS, ROWS, [max(seq - NOISE_BEFORE, day.first_seq), last]):
        parts += _decisions(engine.fold(with_noise(batch, seq)).tables)
        if batch.last_seq >= last:
            break
    return joined(parts, DECISIONS)


def _decisions(tables: dict[str, pa.RecordBatch]) -> list[pa.RecordBatch]:
    return [tables["decisions"]] if "decisions" in tables else []


def with_noise(batch: Batch, seq: int) -> Batch:
    """The batch with every price after a seq replaced by noise, the same in every process."""
    if batch.last_seq <= seq:
        return batch
    tables = dict(batch.tables)
    for kind, names in PRICES.items():
        if kind not in tables:
            continue
        rows = tables[kind]
        seqs = rows.column("seq").to_numpy()
        factor = np.where(seqs > seq, 0.8 + (seqs * np.uint64(2_654_435_761) % np.uint64(4_001)) / 10_000, 1.0)
        for name in names:
            if name in rows.schema.names:
                place = rows.schema.get_field_index(name)
                priced = pc.round(pc.multiply(rows.column(name), pa.array(factor)), 2)
                priced = pc.if_else(pa.array(seqs > seq), priced, rows.column(name))
                rows = rows.set_column(place, rows.schema.field(name), priced)
        tables[kind] = rows
    return Batch(tables)


def odd_cuts(first: int, last: int) -> list[int]:
    """Ends of batches of many sizes, one event among them."""
    step = max(1, (last - first) // CUT_COUNT)
    cuts = {first, first + 1, first + 8}
    cuts |= {min(last, first + k * step + k * k % 97) for k in range(CUT_COUNT)}
    return sorted(cuts)


def sample(plain: pa.Table, acts: pa.Table, count: int) -> list[int]:
    """Seqs of decisions spread over the date, half of them decisions to act where there are enough."""
    found: set[int] = set()
    for table, wanted in ((acts, count // 2), (plain, count - count // 2)):
        seqs = sorted(set(table["seq"].to_pylist()))
        found |= {seqs[len(seqs) * k // wanted] for k in range(wanted)} if seqs else set()
    return sorted(found)


def between(table: pa.Table, since: int, seq: int) -> pa.Table:
    """The rows after one seq and up to another, without entries that ended unfilled at the last seq.

    An entry's end has the seq of the newest event counted, but may depend on quotes between it and the next clock.
    """
    after = pc.greater(table["seq"], pa.scalar(since, pa.uint64()))
    before = pc.less(table["seq"], pa.scalar(seq, pa.uint64()))
    at = pc.and_(pc.equal(table["seq"], pa.scalar(seq, pa.uint64())), pc.not_equal(table["action"], "unfilled"))
    return table.filter(pc.and_(after, pc.or_(before, at)))


def moved(one: pa.Table, other: pa.Table) -> str:
    """The first row and field in which two tables of decisions differ, in one line; empty = they are equal."""
    if one.equals(other):
        return ""
    rows = min(one.num_rows, other.num_rows)
    first = rows
    for name in one.schema.names:
        a, b = one[name].slice(0, rows).combine_chunks(), other[name].slice(0, rows).combine_chunks()
        same = pc.fill_null(pc.equal(a, b), False)
        both_null = pc.and_(pc.is_null(a), pc.is_null(b))
        at = pc.index(pc.or_(same, both_null), False).as_py()
        first = min(first, at) if at >= 0 else first
    if first == rows:
        if one.num_rows == other.num_rows:
            return ""
        longer, change = (one, "is gone") if one.num_rows > other.num_rows else (other, "is new")
        row = longer.slice(rows, 1).to_pylist()[0]
        return f"decision {row['action']} at seq {row['seq']}, {row['strategy']} {row['symbol']}, {change}"
    was, now = one.slice(first, 1).to_pylist()[0], other.slice(first, 1).to_pylist()[0]
    name = next(name for name in one.schema.names if was[name] != now[name])
    where = f"seq {was['seq']}, {was['strategy']} {was['symbol']}"
    return f"{where}: {name} {was[name]!r} became {now[name]!r}"


def shift_clock(seconds: int) -> None:
    """Make every clock of `time` and `datetime` that a module reads from now on wrong by so much."""
    import datetime as dt
    import time

    for name, function in list(vars(time).items()):
        if name.startswith("_") or name in ("sleep", "tzset") or not callable(function):
            continue
        try:
            value = function()
        except TypeError:
            continue
        if isinstance(value, int | float):
            extra = seconds * 1_000_000_000 if isinstance(value, int) else seconds
            setattr(time, name, lambda function=function, extra=extra: function() + extra)
    moment, day, wrong = dt.datetime, dt.date, dt.timedelta(seconds=seconds)
    now = {"now": classmethod(lambda _, tz=None: moment.now(tz) + wrong), "today": classmethod(lambda _: now_of())}

    def now_of() -> dt.datetime:
        return moment.now() + wrong

    today = {"today": classmethod(lambda _: day.today() + wrong)}
    setattr(dt, "datetime", type("datetime", (moment,), now))  # noqa: B010 - the module is patched on purpose
    setattr(dt, "date", type("date", (day,), today))  # noqa: B010 - the module is patched on purpose


if __name__ == "__main__":
    main(sys.argv[1])
