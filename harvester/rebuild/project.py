"""`hv project`: rebuild a date by folding its log, and write the artefacts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from harvester.artefacts import episode_files
from harvester.artefacts.bucket_files import bucket_rows, of_symbols, with_gate_codes
from harvester.artefacts.candle_files import RunSpan
from harvester.artefacts.json_files import envelope, times
from harvester.artefacts.table_files import joined
from harvester.errors import ranges_text
from harvester.eventlog.fold_reader import fold_batches
from harvester.eventlog.lock import DateLock
from harvester.eventlog.reader import open_day
from harvester.events.kinds import Action, Kind
from harvester.files import Disk, put_all
from harvester.memory.strategy_files import KeptStrategies, recorded_failures
from harvester.projections.engine import Engine
from harvester.projections.market.candles import CANDLES
from harvester.projections.market.health import HEALTH
from harvester.projections.market.merge import COLUMNS
from harvester.projections.market.signals import SIGNALS
from harvester.projections.market.state_arrays import BUCKETS
from harvester.projections.run_params import RunParams
from harvester.projections.trading.message_counts import notes_of
from harvester.projections.trading.strategies import Library
from harvester.projections.trading.trade_rows import TABLES
from harvester.projections.trading.trading import Trading
from harvester.projections.trading.trading_feed import TradingFeed
from harvester.rebuild.call_watch import CallWatch
from harvester.rebuild.exports import check_symbols, exports_of, part_of, tables_of
from harvester.rebuild.project_result import ProjectResult, open_at_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from harvester.eventlog.reader import Day
    from harvester.files import Content
    from harvester.home import DatePaths, Home
    from harvester.projections.trading.failure import Failure

SCHEMAS: dict[str, pa.Schema] = {
    "buckets": BUCKETS,
    "candles": CANDLES,
    "signals": SIGNALS,
    **TABLES,
    "health": HEALTH,
}
ROWS_A_STEP = 100_000  # events between two progress reports


def fold_day(
    day: Day,
    progress: Callable[[int, int], None] | None = None,
    cuts: Sequence[int] = (),
    at_cut: Callable[[int, Engine], None] | None = None,
    at_end: Callable[[Engine], None] | None = None,
    *,
    library: Library | None = None,
) -> ProjectResult:
    """Fold a whole date.

    Args:
        day: the date.
        progress: called with (events folded, events in the log).
        cuts: seqs at which a batch ends, ascending.
        at_cut: called with (seq, engine) at each cut.
        at_end: called with the engine when all events are folded, before it finishes the date.
        library: where strategies come from; None = shipped ones alone.

    Raises:
        DamagedLog: the log is damaged.
        CodeChanged: a strategy of the user is not at hand.
    """
    library = library or Library()
    library.failures = recorded_failures(day)
    engine = Engine(library=library)
    parts: dict[str, list[pa.RecordBatch]] = {name: [] for name in SCHEMAS}
    total, done = day.rows, 0
    wanted = set(cuts)
    with CallWatch():
        for batch in fold_batches(day, COLUMNS, ROWS_A_STEP, cuts):
            _keep(parts, engine.fold(batch).tables)
            if at_cut and batch.last_seq in wanted:
                at_cut(batch.last_seq, engine)
            done += len(batch)
            if progress:
                progress(done, total)
    digests = engine.digests()
    if at_end:
        at_end(engine)
    _keep(parts, engine.finish().tables)
    runs = day.runs
    return ProjectResult(
        trading_date=day.trading_date,
        identity=f"salvaged, seq {ranges_text(day.good)}" if day.damages else day.identity(),
        run=runs[-1].run,
        last_seq=day.last_seq,
        last_ts=day.last_ts,
        rows=done,
        digests=digests,
        tables={name: joined(parts[name], schema) for name, schema in SCHEMAS.items()},
        health=dict(engine.health_summary()._asdict()),
        toggles=_toggles(day),
        runs=_spans(day),
        notes=[*library.notes, *notes_of(library.counts, {failure.strategy for failure in _failures(engine)})],
        failures=_failures(engine),
    )


def _failures(engine: Engine) -> list[Failure]:
    trading = engine[TradingFeed].trading
    return trading.failures if isinstance(trading, Trading) else []


def _keep(parts: dict[str, list[pa.RecordBatch]], tables: dict[str, pa.RecordBatch]) -> None:
    for name, rows in tables.items():
        if name in parts:
            parts[name].append(rows)


def _starts(day: Day) -> list[dict[str, Any]]:
    return [row for row in day.table(Kind.REQUEST).to_pylist() if row["action"] == Action.RUN_START.value]


def _spans(day: Day) -> tuple[RunSpan, ...]:
    begun = {row["seq"]: row["ts_recv"] for row in _starts(day)}
    return tuple(RunSpan(r.run, r.first_seq, r.last_seq, begun[r.first_seq]) for r in day.runs if r.first_seq in begun)


def _toggles(day: Day) -> dict[str, bool]:
    starts = _starts(day)
    return RunParams.parse(starts[-1]["params"], starts[-1]["seq"]).toggles if starts else {}


@dataclass
class WrittenArtefacts:
    """The result of `write_artefacts`.

    Attributes:
        rows: number of rows written, by table.
        superseded: files of the unfinished day, and series that are no longer written, that were deleted.
        open: positions still open on a day that is being recorded; they have no episode yet.
        older: number of episode files there before that older rules of simulated trading had made.
    """

    files: list[Path] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    superseded: list[Path] = field(default_factory=list)
    differences: list[episode_files.Difference] = field(default_factory=list)
    open: int = 0
    older: int = 0


def write_artefacts(
    made: ProjectResult,
    home: Home,
    out: Path | None = None,
    symbols: Sequence[str] | None = None,
    disk: Disk | None = None,
    *,
    live: bool = False,
) -> WrittenArtefacts:
    """Write episodes, buckets, candles, signals, decisions, fills, health; below `out`, else in their usual places.

    With `symbols`, only theirs, in files with the symbols in their names. While the date is being recorded (`live`), an
    open position is not an episode yet.

    Raises:
        UnknownSymbol: a symbol was not recorded on the date.
        CannotRun: a file cannot be written.
    """
    disk = disk or Disk()
    tables = tables_of(made, symbols)
    whole = tables["episodes"]
    tables["episodes"] = whole.filter(pc.invert(open_at_end(whole))) if live else whole
    written = WrittenArtefacts(rows={name: tables[name].num_rows for name in SCHEMAS})
    written.open = whole.num_rows - tables["episodes"].num_rows
    folder = (out or home.exports()).resolve()
    below = home.on(made.trading_date).episodes if out is None else folder / "episodes" / made.trading_date.isoformat()
    files: dict[str, bytes] = {}
    written.older = sum(map(episode_files.made_by_older_rules, sorted(below.rglob("*.json"))))

    def each() -> Iterator[tuple[Path, Content]]:
        for name, content in exports_of(made, tables, part_of(symbols)):
            written.files.append(folder / name)
            yield folder / name, content
        for name, data in made.each_file(tables["episodes"]["document"].to_pylist()):
            files[name] = data
            yield below / name, data

    put_all(each(), disk)
    written.files += [below / name for name in sorted(files)]
    if symbols is None:
        _supersede(below, files, made, disk, written, live=live)
        if live:  # the recorder goes on writing files: judge only those written here
            written.differences = [d for d in written.differences if d.what != "unexpected"]
    return written


def being_recorded(home: Home, day: Day) -> bool:
    """Whether events may still be added: a run has not ended, or a recorder holds the date."""
    return not day.complete or recorder_holds(home.on(day.trading_date))


def recorder_holds(paths: DatePaths) -> bool:
    """Whether a process that may add events holds the date's lock; `hv eod` does not add any."""
    holder = DateLock(paths).held_by()
    return holder is not None and holder.purpose != "eod"


def _supersede(
    below: Path, files: dict[str, bytes], made: ProjectResult, disk: Disk, written: WrittenArtefacts, *, live: bool
) -> None:
    """Delete files of an earlier projection, once their replacements are proven on disk.

    They are of the unfinished day, or series without their toggle; a recorder (`live`) may still write those.
    """
    found = episode_files.compare_day(below, files)
    stale = episode_files.superseded(found, made.documents)
    stale += [] if live else episode_files.unwanted_series(found, below, made.documents)
    if not any(difference.path.relative_to(below).as_posix() in files for difference in found):
        for path in stale:
            disk.remove(path)
            disk.sync_folder(path.parent)
        written.superseded = stale
        found = [difference for difference in found if difference.path not in stale]
    written.differences = found


def project(
    paths: DatePaths,
    *,
    out: Path | None = None,
    symbols: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    disk: Disk | None = None,
) -> tuple[ProjectResult, WrittenArtefacts]:
    """Fold a date and write its artefacts.

    Raises:
        NoLog: nothing was recorded on the date.
        DamagedLog: its log is damaged.
        UnknownSymbol: a symbol was not recorded on the date.
    """
    day = open_day(paths.trading_date, paths.home)
    live = being_recorded(paths.home, day)
    made = fold_day(day, progress, library=KeptStrategies(paths.home))
    return made, write_artefacts(made, paths.home, out, symbols, disk, live=live)


def bucket_artefact(
    made: ProjectResult, symbol: str, begin: int | None = None, end: int | None = None
) -> dict[str, Any]:
    """The JSON artefact of one symbol's buckets that begin in [begin, end) (ns UTC, None = open).

    Raises:
        UnknownSymbol: the symbol was not recorded on the date.
    """
    check_symbols(made, [symbol])
    rows = of_symbols(with_gate_codes(made.tables["buckets"], made.tables["decisions"]), [symbol])
    if begin is not None:
        rows = rows.filter(pc.greater_equal(rows["ts"], begin))
    if end is not None:
        rows = rows.filter(pc.less(rows["ts"], end))
    body = envelope(
        "harvester.buckets",
        bucket_rows(rows),
        trading_date=made.trading_date.isoformat(),
        run=made.run,
        through_seq=made.last_seq,
        health=made.health,
        symbol=symbol,
    )
    plain: dict[str, Any] = times(body, epoch_ms=made.toggles.get("episode_epoch_ms", False))
    return plain
