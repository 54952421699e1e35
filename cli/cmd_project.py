"""`hv project`: rebuild dates from their logs and write the artefacts."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.dates import date_of

if TYPE_CHECKING:
    from harvester.recorder.projected import Summary


def project(
    *,
    date: Annotated[
        list[str] | None, typer.Option("--date", help="Trading date, yyyy-MM-dd, repeatable; else the newest.")
    ] = None,
    first: Annotated[str | None, typer.Option("--from", help="Every recorded date from this one on.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Every recorded date up to this one.")] = None,
    symbols: Annotated[
        str | None,
        typer.Option("--symbols", help="Only these, comma-separated, in files that carry them in their names."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write into; else exports/ and temp/episodes/.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", help="Dates at a time, each in a process of its own.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Fold even when nothing has changed since last time.")] = False,
    salvage: Annotated[
        bool, typer.Option("--salvage", help="Fold what is good of a damaged date, into salvaged/ below the folder.")
    ] = False,
    home: Annotated[Path | None, typer.Option("--home", help="Data root; else HV_HOME, else this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a date for scripts.")] = False,
) -> None:
    """Rebuild dates from their logs: episodes, buckets, decisions, fills, health, and one digest per projection.

    The same log and the same code give the same bytes, however often it runs and with however many --jobs. A date whose
    log, code, options and files are those of the last time is not folded again. Of a date that is being recorded a
    position still open is no episode yet.

    Of a damaged date nothing is written, but with --salvage what its good events give: books and positions run over
    the holes as if nothing had happened in them. It goes into exports/salvaged/ (or OUT/salvaged/), names the good seqs
    and what is lost, and is no artefact of the date: `hv verify` and `hv eod` do not look at it.

    Example: hv project --date 2025-07-17
    """
    from cli.bars import Bar
    from harvester.artefacts.text import must_take_folder
    from harvester.home import Home
    from harvester.recorder.jobs import Failure, Task, dates_of, project_dates

    found = Home.find(home)
    wanted = tuple(s.strip() for s in symbols.split(",") if s.strip()) if symbols is not None else None
    if not date and first is None and last is None:
        date = [date_of(None, found).isoformat()]
    days = [day.isoformat() for day in dates_of(found, date or (), first, last)]
    target = None if out is None else str(out.resolve())
    if out is not None:
        must_take_folder(out.resolve())  # before the fold, not after it
    tasks = [Task(str(found.root), day, target, wanted, force, salvage) for day in days]
    failures = []
    title = f"folding {days[0]}" if len(days) == 1 else f"folding {len(days)} dates"
    with Bar(title, quiet=as_json) as bar:
        for result in project_dates(tasks, jobs, bar.told):
            if isinstance(result, Failure):
                failures.append(result)
                if len(days) > 1:
                    typer.echo(f"hv: {result.trading_date}: {result.what}", err=True)
            elif as_json:
                import msgspec

                typer.echo(json_text.dumps(msgspec.to_builtins(result)))
            else:
                _show(result)
    if failures:
        raise failures[0].error()


def _show(made: Summary) -> None:
    from harvester.artefacts.episodes import WAY_OUT
    from harvester.projections.book import NO_BOOKS

    if made.skipped:
        typer.echo(
            f"{made.trading_date}  unchanged: log, code, options and {len(made.files)} files are those of the last "
            "projection; --force folds anyway"
        )
        return
    typer.echo(f"{made.trading_date}  {made.events} events through seq {made.through_seq}, content {made.content_hash}")
    for lost in made.lost:
        typer.echo(f"  SALVAGED, not the date's artefacts; lost: {lost}")
    for name, digest in made.digests.items():
        said = "  no book is live at the end; `hv verify` compares those during the day" if digest == NO_BOOKS else ""
        typer.echo(f"  {name:<8} {digest}{said}")
    typer.echo("wrote " + ", ".join(f"{rows} {name}" for name, rows in made.rows.items()))
    if made.open:
        typer.echo(f"  {made.open} still open: no episodes yet, the date is being recorded")
    folders = [Path(name).parent for name in made.files]
    for folder in sorted(set(folders)):
        typer.echo(f"  {folders.count(folder):>4} files in {folder}")
    for difference in made.differences:
        typer.echo(f"  {difference['what']}: {difference['path']}; {WAY_OUT[difference['what']]}")
