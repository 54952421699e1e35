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
    SeriesJsonlOption,
    SymbolsOption,
    ToDateOption,
    date_of,
    toggles_of,
    words_of,
)

if TYPE_CHECKING:
    from harvester.rebuild.project_memo import ProjectedSummary


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

    Example: hv project --date 2025-07-17
    """
    from cli.progress_bar import ProgressBar
    from harvester.config import strategy_tables
    from harvester.errors import BadSetting
    from harvester.files import must_take_folder
    from harvester.home import Home
    from harvester.memory.strategy_files import load_all
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
    given["toggles"] = toggles
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
            else:
                _show(result)
    if failures:
        raise failures[0].error()


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
