"""`hv status`: is a day being recorded?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from harvester.recorder.status import Status


def status(
    *,
    date: Annotated[
        str | None, typer.Option("--date", help="Trading date, yyyy-MM-dd; the latest recorded one.")
    ] = None,
    home: Annotated[Path | None, typer.Option("--home", help="Data root; else HV_HOME, else this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Tell from outside whether a day is being recorded, since when, and which symbols lack which stream.

    Example: hv status --json
    """
    import msgspec

    from harvester.clock import SECOND_NS, clocks_apart
    from harvester.errors import NoLog
    from harvester.eventlog.days import recorded_dates
    from harvester.home import Home, parse_date
    from harvester.recorder.status import status as look

    root = Home.find(home)
    dates = recorded_dates(root)
    if date is None and not dates:
        raise NoLog(f"nothing is recorded under {root.root}; start with hv record, or name another --home")
    found = look(root, parse_date(date or dates[-1]))
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    typer.echo(f"{found.trading_date} is {_doing(found)}")
    typer.echo(f"run {found.run} since {found.since}, last commit {found.last_commit}")
    typer.echo(f"seq {found.last_seq:,}, {found.events:,} events")
    if found.outage:
        typer.echo("the feed is down" if found.recording else "the feed was down when recording ended")
    if found.ahead_s:
        typer.echo(clocks_apart(round(found.ahead_s * SECOND_NS)))
    if found.streams_of != found.run:
        typer.echo(f"{found.run} ended before it asked for a stream; {found.streams_of} before it had these:")
    for symbol in found.symbols:
        lacks = ", ".join(f"{stream} ({why})" for stream, why in found.lacking.get(symbol, {}).items())
        whole = "complete until then" if found.outage else "complete"
        typer.echo(f"  {symbol}: " + (f"lacks {lacks}" if lacks else whole))


def _doing(found: Status) -> str:
    if found.recording:
        return f"being recorded by {found.holder}"
    if found.run_status == "running":
        return "not being recorded: the last run was killed; the next `hv record` or `hv log recover` mends it"
    return f"not being recorded (last run: {found.run_status})"
