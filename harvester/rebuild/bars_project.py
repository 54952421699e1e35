"""`hv project --mode bars`: trade a date on the bars in its log, and write what came of it below `exports/bars/`.

The date's own bars give episodes of mode `bars`. Bars of earlier dates, which a backfill brings too, give an
evaluation: rows of one file, not episodes. Nothing of it is an artefact of the date: `hv verify`, `hv eod` and memory
ignore it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from harvester.artefacts import episode_files
from harvester.artefacts.json_files import envelope, json_file, times
from harvester.artefacts.table_files import parquet_file
from harvester.errors import CannotRun, UnknownSymbol
from harvester.eventlog.fold_reader import fold_batches
from harvester.events.kinds import Action, Kind
from harvester.events.unset import is_price
from harvester.files import Disk, put_all
from harvester.projections.market.provenance import Provenance
from harvester.projections.run_params import RunParams, StrategyRef
from harvester.projections.trading.bars.bar_exchange import BarRules
from harvester.projections.trading.bars.bar_series import BAR_SECONDS, usable_bars
from harvester.projections.trading.bars.bars_trading import BarsTrading, BarSymbol
from harvester.projections.trading.run_terms import RunTerms
from harvester.rebuild.call_watch import CallWatch
from harvester.rebuild.exports import part_of
from harvester.rebuild.project_memo import TradeTotals
from harvester.rebuild.project_result import open_at_end
from harvester.rebuild.strategy_folders import MANIFEST, folder_name, manifest_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from harvester.calendar import ExchangeSession
    from harvester.eventlog.fold_reader import Wanted
    from harvester.eventlog.reader import Day
    from harvester.events.batch import Batch
    from harvester.projections.trading.bars.bar_series import BarsOfDay, TimedBar
    from harvester.projections.trading.strategies import Library

FOLDER = "bars"  # below exports/
ROWS_A_STEP = 100_000
_BID_ASK = (1, 2)  # price fields of message 1
_READ: Wanted = {
    Kind.QUOTE: ("con_id",),
    Kind.TICK: ("con_id", "msg", "field", "price"),
    Kind.TRADE: (),
    Kind.DEPTH: (),
}
_KEPT = (Kind.BAR, Kind.SCAN, Kind.CONTRACT, Kind.REQUEST, Kind.NOTICE)
EVALUATED = (
    "trade_id", "symbol", "side", "quantity", "decision_ts", "entry_ts", "entry_price", "exit_ts", "exit_price",
    "entry_reason", "exit_reason", "pnl_usd", "r_multiple", "mae", "mfe", "hold_seconds", "win_loss", "strategy",
    "strategy_digest", "mode", "unseen_seconds",
)  # fmt: skip
"""Columns of a trade in the summary and in the evaluation file, where `bar_date` comes before them."""


class BarsAsk(msgspec.Struct, frozen=True, kw_only=True):
    """What to trade, and how.

    Attributes:
        symbols: None = every symbol with bars.
        bar_size: None = the size that the run backfilled (`hist_bar_size`), for a symbol without it the finest.
        rules: what is assumed about bars.
    """

    symbols: tuple[str, ...] | None = None
    bar_size: str | None = None
    rules: BarRules = BarRules()

    def __post_init__(self) -> None:
        """Check the bar size.

        Raises:
            CannotRun: it is not one that can be traded on.
        """
        if self.bar_size is not None and self.bar_size not in BAR_SECONDS:
            raise CannotRun(f"bar size {self.bar_size!r} cannot be traded on; use one of {', '.join(BAR_SECONDS)}")


class TradedSymbol(msgspec.Struct, frozen=True):
    """A symbol as it was traded: its bars of the date, and whether quotes of it were recorded too."""

    symbol: str
    bar_size: str
    bars: int
    evaluated: int
    quotes: bool


class BarsSummary(msgspec.Struct, kw_only=True):
    """The result of one date.

    Attributes:
        strategies: name and digest of each.
        rules: what was assumed.
        symbols: what was traded; `unused`: bars that were not used, by reason.
        trades: the date's trades in numbers; `rows`: one by one, fields `EVALUATED`.
        evaluation: trades on bars of earlier dates in numbers; None without such bars.
        open: positions still open on a date that is being recorded; they have no episode.
    """

    trading_date: str
    mode: str = "bars"
    strategies: list[str]
    rules: BarRules
    symbols: list[TradedSymbol]
    unused: dict[str, int]
    trades: TradeTotals
    evaluation: TradeTotals | None
    rows: list[dict[str, Any]]
    notes: list[str]
    files: list[str]
    open: int = 0


class LogRows:
    """What trading on bars needs of a log, collected batch by batch."""

    def __init__(self) -> None:
        self.rows: dict[Kind, list[dict[str, Any]]] = {kind: [] for kind in _KEPT}
        self.quoted: set[int] = set()

    def add(self, batch: Batch) -> None:
        """Take in the next events, in seq order."""
        for kind in _KEPT:
            if (found := batch.tables.get(kind)) is not None:
                self.rows[kind] += found.to_pylist()
        if (quotes := batch.tables.get(Kind.QUOTE)) is not None:
            self.quoted.update(pc.unique(quotes.column("con_id")).to_pylist())
        if (ticks := batch.tables.get(Kind.TICK)) is not None:
            priced = pc.and_(pc.equal(ticks.column("msg"), 1), pc.greater(ticks.column("price"), 0.0))
            sided = pc.is_in(ticks.column("field"), value_set=pa.array(_BID_ASK, ticks.column("field").type))
            both = pc.fill_null(pc.and_(priced, sided), False)
            self.quoted.update(pc.unique(ticks.column("con_id").filter(both)).to_pylist())

    def params(self) -> tuple[RunParams, str]:
        """Parameters of the last run, and its name.

        Raises:
            CannotRun: there is no run with a calendar.
        """
        starts = [row for row in self.rows[Kind.REQUEST] if row["action"] == Action.RUN_START]
        found = [RunParams.parse(row["params"], row["seq"]) for row in starts]
        if not found or found[-1].calendar is None:
            raise CannotRun("the log has no run start with a calendar, which bars are placed by")
        return found[-1], f"r{len(found):03d}"

    def symbols(self) -> dict[int, str]:
        """Symbol by con_id, of every request."""
        rows = self.rows[Kind.REQUEST]
        return {row["con_id"]: row["symbol"] for row in rows if row["con_id"] > 0 and row["symbol"]}

    def ticks(self) -> dict[int, float]:
        """Smallest price step by con_id, USD, as the contract details say last."""
        rows = self.rows[Kind.CONTRACT]
        return {row["con_id"]: row["min_tick"] for row in rows if row["con_id"] and is_price(row["min_tick"])}

    def scans(self) -> list[tuple[int, tuple[int, str, int, str]]]:
        """Scanner rows with the time they were received."""
        return [
            (row["ts_recv"], (row["snapshot"] or 0, row["scan_code"] or "", row["rank"], row["symbol"]))
            for row in self.rows[Kind.SCAN]
            if row["rank"] is not None and row["symbol"]
        ]

    def kind(self) -> str:
        """Where the data come from, a `SourceKind`."""
        found = Provenance()
        rows = (*self.rows[Kind.REQUEST], *self.rows[Kind.NOTICE])
        for row in sorted(rows, key=lambda row: row["seq"]):
            found.look(row)
        return found.kind.value


class BarsResult(NamedTuple):
    """A date traded on bars: the tables of `trade_rows.TABLES`, and evaluation rows with `bar_date`."""

    run: str
    kind: str
    toggles: dict[str, bool]
    tables: dict[str, pa.Table]
    evaluation: list[dict[str, Any]] | None
    evaluated: TradeTotals | None
    symbols: list[TradedSymbol]
    unused: dict[str, int]
    strategies: list[StrategyRef]
    notes: list[str]


def trade_bars(batches: Iterable[Batch], library: Library, ask: BarsAsk) -> BarsResult:
    """Trade a date on its bars; `batches` are all its events, cut in any way.

    Raises:
        CannotRun: there are no bars that can be traded on, or a strategy cannot run on them.
        UnknownSymbol: a symbol has no such bars.
        CodeChanged: a strategy of the user is not at hand.
    """
    log = LogRows()
    for batch in batches:
        log.add(batch)
    params, run = log.params()
    calendar, terms = params.calendar, library.chosen(RunTerms.of(params, run))
    assert calendar is not None, "`LogRows.params` requires a calendar"
    sessions = {day.date: day.session for day in calendar.before if day.session is not None}
    own = {} if calendar.session is None else {calendar.trading_date: calendar.session}
    found = usable_bars(log.rows[Kind.BAR], sessions | own)
    chosen = _chosen(found, log.symbols(), log.ticks(), ask, str(params.config.get("hist_bar_size", "")))
    kind = log.kind()

    def traded(trading_date: str, session: tuple[int, int] | None, begin: int, end: int, scans: Any) -> Any:
        part = [one._replace(bars=[bar for bar in one.bars if begin <= bar.start < end]) for one in chosen]
        its = msgspec.structs.replace(terms, trading_date=trading_date, session=session)
        with CallWatch():
            return BarsTrading(its, ask.rules, library, kind).run(part, scans), part

    hours = terms.session
    made, part = traded(calendar.trading_date, hours, calendar.start_ns, calendar.end_ns, log.scans())
    notes = [failure.line() for failure in made.failures]
    before: list[dict[str, Any]] = []
    tables: list[tuple[pa.Table, pa.Table]] = []
    for day, at in sorted(sessions.items()):
        if not any(_within(bar, at) for one in chosen for bar in one.bars):
            continue
        earlier, _ = traded(day, (at.open_ns, at.close_ns), at.extended_open_ns, at.extended_close_ns, ())
        notes += [f"{day}: {failure.line()}" for failure in earlier.failures]
        rows = earlier.tables["episodes"].select(EVALUATED).to_pylist()
        before += [{"bar_date": day, **row} for row in rows]
        tables.append((earlier.tables["episodes"], earlier.tables["decisions"]))
    totals = None
    if tables:
        totals = TradeTotals.of(*(pa.concat_tables(column) for column in zip(*tables, strict=True)))
    return BarsResult(
        run=run,
        kind=kind,
        toggles=params.toggles,
        tables=made.tables,
        evaluation=before if tables else None,
        evaluated=totals,
        symbols=[
            TradedSymbol(
                one.symbol,
                whole.bars[0].bar_size,
                len(one.bars),
                sum(any(_within(bar, at) for at in sessions.values()) for bar in whole.bars),
                one.con_id in log.quoted,
            )
            for one, whole in zip(part, chosen, strict=True)
        ],
        unused=found.unused,
        strategies=[StrategyRef(*ref) for ref in terms.strategies],
        notes=[*library.notes, *notes],
    )


def _within(bar: TimedBar, at: ExchangeSession) -> bool:
    return at.extended_open_ns <= bar.start < at.extended_close_ns


def _chosen(
    found: BarsOfDay, names: dict[int, str], ticks: dict[int, float], ask: BarsAsk, backfilled: str
) -> list[BarSymbol]:
    """The symbols to trade with their bars of one size, by con_id; `backfilled`: the size that the run requested."""
    wanted = {}
    for con_id in sorted({key[0] for key in found.intraday}):
        sizes = found.sizes(con_id)
        size = ask.bar_size or (backfilled if backfilled in sizes else sizes[0])
        if size in sizes:
            wanted[con_id] = size
    known = {names.get(con_id, str(con_id)): con_id for con_id in wanted}
    what = f"{ask.bar_size} bars" if ask.bar_size else "bars of one hour or less"
    if not wanted:
        raise CannotRun(
            f"the log has no TRADES {what} that are complete (record without --skip-historical-backfill; "
            f"not used: {', '.join(f'{n} {why}' for why, n in found.unused.items()) or 'none'})"
        )
    symbols = list(known) if ask.symbols is None else list(ask.symbols)
    if unknown := [symbol for symbol in symbols if symbol not in known]:
        raise UnknownSymbol(f"{', '.join(unknown)}: no TRADES {what} recorded (there are of {', '.join(known)})")
    chosen = sorted({known[symbol] for symbol in symbols})
    return [_bar_symbol(found, con_id, wanted[con_id], names, ticks) for con_id in chosen]


def _bar_symbol(found: BarsOfDay, con_id: int, size: str, names: dict[int, str], ticks: dict[int, float]) -> BarSymbol:
    longer = [one for one in found.sizes(con_id) if BAR_SECONDS[one] > BAR_SECONDS[size]]
    bars = [bar for one in longer for bar in found.intraday[con_id, one]] + found.days.get(con_id, [])
    name = names.get(con_id, str(con_id))
    return BarSymbol(con_id, name, ticks.get(con_id), found.intraday[con_id, size], bars)


# ---- files -----------------------------------------------------------------------------------------------------------


def project_bars(
    day: Day,
    folder: Path,
    library: Library,
    ask: BarsAsk,
    *,
    toggles: dict[str, bool] | None = None,
    live: bool = False,
    progress: Callable[[int, int], None] | None = None,
    disk: Disk | None = None,
) -> BarsSummary:
    """Trade a date on its bars and write the files below `folder`; those of an earlier call are replaced.

    Args:
        day: the date.
        folder: its subfolder with the names and digests of the strategies is written into.
        library: where strategies come from.
        ask: what to trade, and how.
        toggles: artefact toggles that win over the recorded ones.
        live: the date is being recorded: an open position is not an episode yet.
        progress: called with (events read, events in the log).
        disk: the file layer.

    Raises:
        CannotRun: there are no bars that can be traded on, or a strategy cannot run on them.
        UnknownSymbol: a symbol has no such bars.
        CodeChanged: a strategy of the user is not at hand.
        DamagedLog: the log is damaged.
    """
    made = trade_bars(_reported(day, progress), library, ask)
    disk = disk or Disk()
    folder = folder.resolve() / folder_name(made.strategies)
    whole = made.tables["episodes"]
    episodes = whole.filter(pc.invert(open_at_end(whole))) if live else whole
    files = dict(_files(day, made, episodes, ask, made.toggles | (toggles or {})))
    put_all([(folder / name, data) for name, data in files.items()], disk)
    if ask.symbols is None:
        below = f"episodes/{day.trading_date.isoformat()}"
        kept = {name.removeprefix(f"{below}/"): data for name, data in files.items() if name.startswith(below)}
        for difference in episode_files.compare_day(folder / below, kept):
            if difference.what != "unexpected" or difference.path.is_symlink():
                continue
            disk.remove(difference.path)
            disk.sync_folder(difference.path.parent)
    return BarsSummary(
        trading_date=day.trading_date.isoformat(),
        strategies=[f"{one.name} {one.digest}" for one in made.strategies],
        rules=ask.rules,
        symbols=made.symbols,
        unused=made.unused,
        trades=TradeTotals.of(episodes, made.tables["decisions"]),
        evaluation=made.evaluated,
        rows=episodes.select(EVALUATED).to_pylist(),
        notes=made.notes,
        files=[str(folder / name) for name in sorted(files)],
        open=whole.num_rows - episodes.num_rows,
    )


def _reported(day: Day, progress: Callable[[int, int], None] | None) -> Iterable[Batch]:
    done = 0
    for batch in fold_batches(day, _READ, ROWS_A_STEP):
        yield batch
        done += len(batch)
        if progress:
            progress(done, day.rows)


def _files(
    day: Day, made: BarsResult, episodes: pa.Table, ask: BarsAsk, toggles: dict[str, bool]
) -> Iterable[tuple[str, bytes]]:
    """Name below the folder, and content, of every file."""
    date, epoch_ms = day.trading_date.isoformat(), toggles.get("episode_epoch_ms", False)
    part = f"{date}{part_of(ask.symbols)}"
    health = {"outages": 0, "bad_book_seconds": 0, "refused": 0, "data_type": None, "kind": made.kind}

    def rows_file(schema: str, rows: list[dict[str, Any]]) -> bytes:
        head: dict[str, Any] = {"trading_date": date, "run": made.run, "through_seq": day.last_seq, "health": health}
        return json_file(times(envelope(schema, rows, **head), epoch_ms=epoch_ms))

    series = toggles.get("episode_series_jsonl", False)
    documents = episodes["document"].to_pylist()
    for name, data in episode_files.each_file(documents, epoch_ms=epoch_ms, series_jsonl=series):
        yield f"episodes/{date}/{name}", data
    about = {
        "trading_date": date,
        "mode": "bars",
        "through_seq": str(day.last_seq),
        "run": made.run,
        "kind": made.kind,
        "rules": msgspec.json.encode(ask.rules).decode(),
    }
    yield f"decisions_{part}.parquet", parquet_file(made.tables["decisions"], about)
    if ask.symbols is None:
        opened = str(made.tables["episodes"].num_rows - episodes.num_rows)
        yield f"episodes_{part}.parquet", parquet_file(episodes, about | {"open": opened})
        yield MANIFEST, manifest_file(made.strategies)
    yield f"fills_{part}.json", rows_file("harvester.fills", made.tables["fills"].to_pylist())
    if made.evaluation is not None:
        yield f"bars_evaluation_{part}.json", rows_file("harvester.bars_evaluation", made.evaluation)
