"""`hv strategy`: write, list and check strategies of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DateOption, HomeOption, JsonOption, ProjectedDateOption, date_of

if TYPE_CHECKING:
    import datetime as dt

    from harvester.home import Home

strategy = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Write, list and check strategies of your own; `hv project --strategy` trades a recorded date by them.

    Example: hv strategy new my_fade
    """,
)


@strategy.command()
def new(
    name: Annotated[str, typer.Argument(help="Use this name, in small letters, for the file and the strategy.")],
) -> None:
    """Write a commented example that runs, NAME.py, into the working folder.

    Example: hv strategy new my_fade
    """
    from harvester.rebuild.strategy_example import write_example

    path, title = write_example(name, Path.cwd())
    typer.echo(f"wrote {path}")
    typer.echo(f"  hv strategy check {path.name}:{title}")
    typer.echo(f"  hv project --strategy {path.name}:{title}")


@strategy.command(name="list")
def list_all(
    *,
    date: ProjectedDateOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the shipped strategies and the copies in memory/strategies, with their parameters.

    With --date, list the folders below exports/strategies that hold trades of the date, with parameters, counts and
    P&L; `hv episodes --strategy NAME-DIGEST` shows their trades.

    Example: hv strategy list

    Example: hv strategy list --date 2025-07-17
    """
    from harvester.home import Home, parse_date
    from harvester.memory.strategy_files import kept, shipped

    root = Home.find(home)
    if date is not None:
        _list_projected(root, parse_date(date), as_json=as_json)
        return
    rows = [*shipped(), *kept(root)]
    for row in rows:
        if as_json:
            typer.echo(json.dumps(row))
            continue
        typer.echo(f"{row['name']:<20} {row['digest']}  {row['source']}")
        typer.echo("    " + ", ".join(f"{name}={value}" for name, value in row["settings"].items()))


def _list_projected(home: Home, day: dt.date, *, as_json: bool) -> None:
    import msgspec

    from harvester.rebuild.strategy_folders import settings_text, strategy_folders

    folders = strategy_folders(home, day)
    for folder in folders:
        row = folder.row()
        if as_json:
            typer.echo(msgspec.json.encode(row).decode())
            continue
        typer.echo(f"{folder.name}  {row['trades']}")
        typer.echo(f"    {settings_text(folder.strategies)}")
    if not folders and not as_json:
        typer.echo(f"hv project --strategy has written nothing for {day}")


@strategy.command()
def check(
    wanted: Annotated[str, typer.Argument(metavar="STRATEGY", help="Check FILE.py:CLASS or a shipped strategy.")],
    *,
    date: DateOption = None,
    values: Annotated[list[str] | None, typer.Option("--set", help="Set a parameter: NAME=VALUE; repeatable.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Read [strategy.NAME] tables from this TOML file.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that a strategy decides the same in every fold of a date; one line per test, exit code 11 if one fails.

    The date is folded in two processes with another hash seed, working folder and clock, in odd batch cuts, with the
    log cut at 50 decisions, and with noise for every price after each of these decisions. A failing line names the
    first decision and field that moved. Files, sockets and processes used while deciding are named.

    Example: hv strategy check my_fade.py:MyFade --date 2025-07-17
    """
    from harvester.config import strategy_tables
    from harvester.errors import Mismatch
    from harvester.home import Home
    from harvester.rebuild.strategy_check import check as check_strategy

    root = Home.find(home)
    day = date_of(date, root)
    tables = {} if config is None else strategy_tables(config)
    report = check_strategy(root, day, [wanted], tables, values=values or ())
    for line in report.lines:
        if as_json:
            typer.echo(json.dumps(line._asdict()))
        else:
            typer.echo(f"{'FAILED' if line.difference else 'ok':<7} {line.about:<50} {line.difference}".rstrip())
    if not as_json:
        typer.echo(f"{report.decisions:,} decisions on {day}, {report.acts} of them to act")
    if not report.passed:
        failed = [line for line in report.lines if line.difference]
        raise Mismatch(
            f'{wanted} on {day}: {len(failed)} of {len(report.lines)} tests failed; the first is "{failed[0].about}"'
        )
