"""`hv status`: is a day being recorded?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DateOption, HomeOption, JsonOption

if TYPE_CHECKING:
    from harvester.status import RecordingStatus


def status(
    *,
    date: DateOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 unless a day is being recorded, all of it.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show whether a day is being recorded, since when, and which streams are missing for which symbol.

    A stream is missing if the recorder's settings ask for it and it does not flow: refused, silent since it was
    requested, or not requested yet.

    With --check, for cron: exit code 0 while a day is being recorded, the feed is up and no stream is missing; else 1,
    with one line for each reason on stderr. Other codes: it could not look (3 no log).

    Example: hv status --check
    """
    import msgspec

    from harvester.eventlog.runs_of_day import newest_date
    from harvester.home import Home, parse_date
    from harvester.status import status as status_of

    root = Home.find(home)
    report = status_of(root.on(newest_date(root) if date is None else parse_date(date)))
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        _show(report)
    if check and (wrong := report.wrong()):
        for reason in wrong:
            typer.echo(f"hv: {reason}", err=True)
        raise typer.Exit(1)


def _show(report: RecordingStatus) -> None:
    from harvester.clock import clocks_apart
    from harvester.units import SECOND_NS

    typer.echo(f"{report.trading_date} is {_doing(report)}")
    typer.echo(f"run {report.run} since {_local(report.since)}, last commit {_local(report.last_commit)}, in New York")
    typer.echo(f"seq {report.last_seq:,}, {report.events:,} events, source {report.kind}")
    if report.starved:
        typer.echo(f"starved: {report.starved}; hv eod learns nothing from it")
    if report.archived:
        typer.echo(f"its log is archived in {report.archived} and deleted from temp/")
    if feed := report.feed():
        typer.echo(feed)
    if report.ahead_s:
        typer.echo(clocks_apart(round(report.ahead_s * SECOND_NS)))
    if report.streams_of != report.run:
        typer.echo(
            f"{report.run} ended before it subscribed to a stream; streams of {report.streams_of}, the run before it:"
        )
    if report.earlier:
        before = "; ".join(f"{run} {', '.join(names)}" for run, names in report.earlier.items())
        typer.echo(f"earlier runs of the date with other symbols: {before}")
    for symbol in report.symbols:
        lacks = ", ".join(f"{stream} ({why})" for stream, why in report.lacking.get(symbol, {}).items())
        whole = "complete until then" if report.outage else "complete"
        halt = f"; halted: {report.halted[symbol]}" if symbol in report.halted else ""
        typer.echo(f"  {symbol}: " + (f"lacks {lacks}" if lacks else whole) + halt)


def _local(time: str) -> str:
    from harvester.eventlog.typed_times import local, read_iso

    return local(read_iso(time)).partition(".")[0] if time else "-"


def _doing(report: RecordingStatus) -> str:
    if report.recording:
        return f"being recorded by {report.holder}"
    if report.run_status == "running":
        return "not being recorded: the last run broke off; the next `hv record` or `hv log recover` recovers it"
    if report.closed:
        return "closed: hv eod folded it into memory"
    return "not being recorded (the last run has ended)"
