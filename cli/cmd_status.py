"""`hv status`: is a day being recorded?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cli.options import DateOption, HomeOption, JsonOption

if TYPE_CHECKING:
    from harvester.status import RecordingStatus


def status(
    *,
    date: DateOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show whether a day is being recorded, since when, and which streams are missing for which symbol.

    Example: hv status --json
    """
    import msgspec

    from harvester.clock import clocks_apart
    from harvester.eventlog.runs_of_day import newest_date
    from harvester.home import Home, parse_date
    from harvester.status import status as status_of
    from harvester.units import SECOND_NS

    root = Home.find(home)
    report = status_of(root.on(newest_date(root) if date is None else parse_date(date)))
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
        return
    typer.echo(f"{report.trading_date} is {_doing(report)}")
    typer.echo(f"run {report.run} since {_local(report.since)}, last commit {_local(report.last_commit)}, in New York")
    typer.echo(f"seq {report.last_seq:,}, {report.events:,} events")
    if report.archived:
        typer.echo(f"its log is archived in {report.archived} and deleted from temp/")
    if report.outage:
        typer.echo("the feed is down" if report.recording else "the feed was down when recording ended")
    if report.ahead_s:
        typer.echo(clocks_apart(round(report.ahead_s * SECOND_NS)))
    if report.streams_of != report.run:
        typer.echo(
            f"{report.run} ended before it subscribed to a stream; streams of {report.streams_of}, the run before it:"
        )
    for symbol in report.symbols:
        lacks = ", ".join(f"{stream} ({why})" for stream, why in report.lacking.get(symbol, {}).items())
        whole = "complete until then" if report.outage else "complete"
        typer.echo(f"  {symbol}: " + (f"lacks {lacks}" if lacks else whole))


def _local(time: str) -> str:
    from harvester.eventlog.typed_times import local, read_iso

    return local(read_iso(time)).partition(".")[0] if time else "-"


def _doing(report: RecordingStatus) -> str:
    if report.recording:
        return f"being recorded by {report.holder}"
    if report.run_status == "running":
        return "not being recorded: the last run broke off; the next `hv record` or `hv log recover` recovers it"
    return f"not being recorded (last run: {report.run_status})"
