"""`hv status`: is a day being recorded?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.dates import DateOption

if TYPE_CHECKING:
    from harvester.recorder.status import Status


def status(
    *,
    date: DateOption = None,
    home: Annotated[Path | None, typer.Option("--home", help="Data root; else HV_HOME, else this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Tell from outside whether a day is being recorded, since when, and which symbols lack which stream.

    Example: hv status --json
    """
    import msgspec

    from harvester.clock import clocks_apart
    from harvester.eventlog.days import newest_date
    from harvester.home import Home, parse_date
    from harvester.recorder.status import status as look
    from harvester.units import SECOND_NS

    root = Home.find(home)
    found = look(root, newest_date(root) if date is None else parse_date(date))
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    typer.echo(f"{found.trading_date} is {_doing(found)}")
    typer.echo(f"run {found.run} since {_local(found.since)}, last commit {_local(found.last_commit)}, in New York")
    typer.echo(f"seq {found.last_seq:,}, {found.events:,} events")
    if found.archived:
        typer.echo(f"its log lies in {found.archived}; temp/ was freed of it")
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


def _local(time: str) -> str:
    from harvester.recorder.moments import local, read_iso

    return local(read_iso(time)).partition(".")[0] if time else "-"


def _doing(found: Status) -> str:
    if found.recording:
        return f"being recorded by {found.holder}"
    if found.run_status == "running":
        return "not being recorded: the last run is broken off; the next `hv record` or `hv log recover` mends it"
    return f"not being recorded (last run: {found.run_status})"
