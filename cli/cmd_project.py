"""`hv project`: rebuild dates from their logs and write the artefacts."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import (
    DatesOption,
    EpochMsOption,
    FromDateOption,
    HomeOption,
    JsonOption,
    Mode,
    SeriesJsonlOption,
    SymbolsOption,
    ToDateOption,
    date_of,
    toggles_of,
    words_of,
)

if TYPE_CHECKING:
    from harvester.rebuild.bars_project import BarsAsk, BarsSummary
    from harvester.rebuild.project_memo import ProjectedSummary

_TRADES = 20  # trades on bars listed


def project(
    *,
    date: DatesOption = None,
    first: FromDateOption = None,
    last: ToDateOption = None,
    symbols: SymbolsOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write into this folder (default: exports/ and temp/episodes/).")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", help="Fold N dates at a time, each in its own process.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Fold even if nothing has changed since last time.")] = False,
    salvage: Annotated[
        bool, typer.Option("--salvage", help="Fold the good part of a damaged date into salvaged/ below the folder.")
    ] = False,
    strategy: Annotated[
        list[str] | None,
        typer.Option("--strategy", help="Trade by FILE.py:CLASS, MODULE:CLASS or a shipped strategy; repeatable."),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", help="Set a parameter of the strategy: NAME=VALUE or STRATEGY.NAME=VALUE; repeatable."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Read [strategy.NAME] tables from this TOML file.")
    ] = None,
    mode: Annotated[
        Mode, typer.Option("--mode", help="Trade on every event, or on historical bars alone.")
    ] = Mode.EVENT,
    bar_size: Annotated[
        str | None, typer.Option("--bar-size", help="Use bars of this size with --mode bars (default: as backfilled).")
    ] = None,
    spread_bps: Annotated[
        float | None, typer.Option("--spread-bps", help="Assume this spread with --mode bars (default: 5).")
    ] = None,
    volume_share: Annotated[
        float | None,
        typer.Option(
            "--volume-share", help="Fill at most this part of a bar's volume with --mode bars (default: 0.1)."
        ),
    ] = None,
    episode_epoch_ms: EpochMsOption = None,
    episode_series_jsonl: SeriesJsonlOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild dates from their logs: episodes, buckets, decisions, fills, health, and one digest per projection.

    The same log and the same code give the same bytes, for any number of runs and --jobs. A date is skipped when its
    log, the code, the options and the files have not changed since last time. While a date is being recorded, an open
    position is not an episode yet. With --symbols the files have the symbols in their names.

    Times, and series beside episodes, are as recorded, unless an option or the environment says otherwise. Series that
    are no longer written are deleted.

    A damaged date is refused. With --salvage its good events are folded into exports/salvaged/ (or OUT/salvaged/):
    books and positions continue across the holes as if nothing had happened in them, and the output lists the good seqs
    and the losses. These files are not artefacts of the date; `hv verify` and `hv eod` ignore them.

    With --strategy these strategies trade every run of the date, whatever was recorded, and the files go below
    exports/strategies/NAME-DIGEST/; `hv verify` and `hv eod` ignore them. Without it the recorded strategies trade:
    shipped ones as they are today, users' from their copies in memory/strategies/. See docs/strategies.md.

    With --mode bars the strategies see completed historical bars of the log and trade on them by pessimistic rules
    (docs/trading.md, "Trading on bars alone"). This is for symbols without recorded quotes; others are traded too, and
    the output says so. The files go below exports/bars/NAME-DIGEST/, apart from all others; nothing is learned from.

    Example: hv project --date 2025-07-17

    Example: hv project --mode bars --strategy scanner_entry --date 2025-07-17 --symbols ACME
    """
    from cli.progress_bar import ProgressBar
    from harvester.config import strategy_tables
    from harvester.errors import BadSetting
    from harvester.files import must_take_folder
    from harvester.home import Home
    from harvester.memory.strategy_files import load_all
    from harvester.rebuild.bars_project import BarsSummary
    from harvester.rebuild.parallel import ParallelTask, TaskFailure, dates_of, project_dates

    root, toggles = Home.find(home), toggles_of(episode_epoch_ms, episode_series_jsonl)
    chosen = None if symbols is None else tuple(words_of(symbols))
    if not date and first is None and last is None:
        date = [date_of(None, root).isoformat()]
    days = [day.isoformat() for day in dates_of(root, date or (), first, last)]
    if (values or config is not None) and not strategy:
        raise BadSetting("--set and --config are for --strategy; give one")
    tables = () if config is None else tuple(strategy_tables(config).items())
    load_all(strategy or (), dict(tables), values or ())  # a mistake shows before the fold
    target = None if out is None else str(out.resolve())
    if out is not None:
        must_take_folder(out.resolve())  # before the fold, not after it
    given: dict[str, Any] = {"strategies": tuple(strategy or ()), "values": tuple(values or ()), "settings": tables}
    given |= {"toggles": toggles, "bars": _bars_of(mode, chosen, bar_size, spread_bps, volume_share, salvage=salvage)}
    tasks = [ParallelTask(str(root.root), day, target, chosen, force, salvage, **given) for day in days]
    failures = []
    title = f"folding {days[0]}" if len(days) == 1 else f"folding {len(days)} dates"
    with ProgressBar(title, quiet=as_json) as bar:
        for result in project_dates(tasks, jobs, bar.update):
            if isinstance(result, TaskFailure):
                failures.append(result)
                if len(days) > 1:
                    typer.echo(f"hv: {result.trading_date}: {result.what}", err=True)
            elif as_json:
                import msgspec

                from harvester.artefacts.json_files import times

                typer.echo(json_text.dumps(times(msgspec.to_builtins(result))))
            elif isinstance(result, BarsSummary):
                _show_bars(result)
            else:
                _show(result)
    if failures:
        raise failures[0].error()


def _bars_of(
    mode: Mode,
    symbols: tuple[str, ...] | None,
    bar_size: str | None,
    spread_bps: float | None,
    volume_share: float | None,
    *,
    salvage: bool,
) -> BarsAsk | None:
    """What `--mode bars` and its options ask for; None in mode event.

    Raises:
        BadSetting: options that do not go together, or a value out of range.
    """
    from harvester.errors import BadSetting
    from harvester.projections.trading.bars.bar_exchange import BarRules
    from harvester.rebuild.bars_project import BarsAsk

    if mode is not Mode.BARS:
        if (bar_size, spread_bps, volume_share) != (None, None, None):
            raise BadSetting("--bar-size, --spread-bps and --volume-share are for --mode bars; give it too")
        return None
    if salvage:
        raise BadSetting("--salvage is for --mode event; salvage the date first, or leave it out")
    values = {"spread_bps": spread_bps, "volume_share": volume_share}
    rules = BarRules(**{name: value for name, value in values.items() if value is not None})
    return BarsAsk(symbols=symbols, bar_size=bar_size, rules=rules)


def _show_bars(summary: BarsSummary) -> None:
    from harvester.calendar import iso

    rules = summary.rules
    assumed = f"spread {rules.spread_bps:g} bps, at most {rules.volume_share:g} of a bar's volume"
    typer.echo(f"{summary.trading_date}  on bars: {assumed}")
    for one in summary.strategies:
        typer.echo(f"  strategy {one}")
    for note in summary.notes:
        typer.echo(f"  {note}")
    for symbol in summary.symbols:
        quotes = "; its quotes are recorded: mode event is truer" if symbol.quotes else ""
        typer.echo(f"  {symbol.symbol}: {symbol.bars} bars of {symbol.bar_size}{quotes}")
    if summary.unused:
        typer.echo("  bars not used: " + ", ".join(f"{n} {why}" for why, n in summary.unused.items()))
    typer.echo(f"  {summary.trades}")
    for row in summary.rows[:_TRADES]:
        typer.echo(
            f"    {row['symbol']} {row['trade_id']} {row['side']} {row['quantity']} {iso(row['entry_ts'])[11:19]}Z at "
            f"{row['entry_price']:g}, out {iso(row['exit_ts'])[11:19]}Z at {row['exit_price']:g} {row['exit_reason']}, "
            f"{row['pnl_usd']:.2f} USD"
        )
    if len(summary.rows) > _TRADES:
        typer.echo(f"    {len(summary.rows) - _TRADES} more (--json lists all)")
    if summary.open:
        typer.echo(f"  {summary.open} still open: not episodes yet, the date is being recorded")
    if any(Path(name).name == "strategy.json" for name in summary.files):
        names = "+".join(f"{name}-{digest[:8]}" for name, digest in (one.split() for one in summary.strategies))
        typer.echo(f"  hv episodes --mode bars --date {summary.trading_date} --strategy {names} lists the trades")
    if summary.evaluation is not None:
        typer.echo(f"  on bars of earlier dates, not episodes: {summary.evaluation}")
    folders = [Path(name).parent for name in summary.files]
    for folder in sorted(set(folders)):
        typer.echo(f"  {folders.count(folder):>4} files in {folder}")


def _show(summary: ProjectedSummary) -> None:
    from harvester.artefacts.episode_files import WAY_OUT
    from harvester.projections.market.book import NO_BOOKS
    from harvester.projections.trading.failure import Failure

    notes = [*summary.notes, *(Failure(**one).line() for one in summary.dropped)]
    if summary.skipped:
        typer.echo(
            f"{summary.trading_date}  unchanged since the last projection: log, code, options and "
            f"{len(summary.files)} files; --force folds anyway"
        )
        for note in notes:
            typer.echo(f"  {note}")
        return
    through = f"{summary.events} events through seq {summary.through_seq}"
    typer.echo(f"{summary.trading_date}  {through}, content {summary.content_hash}")
    for lost in summary.lost:
        typer.echo(f"  SALVAGED, not artefacts of the date; lost: {lost}")
    for given in summary.strategies:
        typer.echo(f"  strategy {given}")
    for note in notes:
        typer.echo(f"  {note}")
    for name, digest in summary.digests.items():
        note = (
            "  no book is live at the end; `hv verify` compares the books during the day" if digest == NO_BOOKS else ""
        )
        typer.echo(f"  {name:<8} {digest}{note}")
    typer.echo(f"  {summary.trades}")
    typer.echo("wrote " + ", ".join(f"{rows} {name}" for name, rows in summary.rows.items()))
    if summary.older:
        typer.echo(f"  {summary.older} episode files were made by older rules of simulated trading, and were replaced")
    if summary.open:
        typer.echo(f"  {summary.open} still open: not episodes yet, the date is being recorded")
    folders = [Path(name).parent for name in summary.files]
    for path in map(Path, summary.files):
        if path.name == "strategy.json":
            typer.echo(f"  hv episodes --date {summary.trading_date} --strategy {path.parent.name} lists the trades")
    for folder in sorted(set(folders)):
        typer.echo(f"  {folders.count(folder):>4} files in {folder}")
    for difference in summary.differences:
        typer.echo(f"  {difference['what']}: {difference['path']}; {WAY_OUT[difference['what']]}")
