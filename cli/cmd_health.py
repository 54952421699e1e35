"""`hv health`: what a date's data lacks, and how far its streams agree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.dates import DateOption, date_of

if TYPE_CHECKING:
    import datetime as dt

    from harvester.projections.reconcile import Check, Reconciled


def health(
    *,
    date: DateOption = None,
    symbol: Annotated[str | None, typer.Option("--symbol", help="Only this one, in any case.")] = None,
    home: Annotated[Path | None, typer.Option("--home", help="Data root; else HV_HOME, else this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Show gaps, outages, refusals and bad books of a date, and its streams against each other by symbol and hour.

    Compared are tape and IB's cumulative volume, the book's top and the quote in force, 5-second bars and tape. A
    difference outside its tolerance is information, not an error: the exit code is 0.

    Example: hv health --date 2025-07-17
    """
    import json

    from cli.bars import Bar
    from harvester.eventlog.reader import open_day
    from harvester.home import Home
    from harvester.projections.reconcile import check_rows, reconcile
    from harvester.recorder.named import subscribed, symbol_named

    root = Home.find(home)
    day = date_of(date, root)
    log = open_day(day, root)
    if symbol is not None:
        symbol = symbol_named(symbol, subscribed(log), day)
    with Bar(f"folding {day}", quiet=as_json) as bar:
        found = reconcile(log, bar.told)
    if symbol is not None:
        found = _of(found, symbol)
    if as_json:
        body = {"trading_date": day.isoformat(), "health": found.health, "reconciliation": check_rows(found.checks)}
        typer.echo(json.dumps(body, allow_nan=False))
        return
    typer.echo(_summary(day, found))
    _show_health(found.health)
    _show_checks(found)


def _of(found: Reconciled, symbol: str) -> Reconciled:
    health = [row for row in found.health if row["symbol"] in (None, symbol)]
    return found._replace(checks=[c for c in found.checks if c.symbol == symbol], health=health)


def _summary(day: dt.date, found: Reconciled) -> str:
    """The date in one line, before its many."""
    of_date = {row["measure"]: int(row["value"] or 0) for row in found.health if row["symbol"] is None}
    symbols = len({row["symbol"] for row in found.health} - {None})
    counts = ((symbols, "symbol"), (of_date["runs"], "run"), (of_date["outages"], "outage"))
    counted = ", ".join(f"{n:,} {word}{'s' * (n != 1)}" for n, word in counts)
    away = f" ({of_date['outage_seconds']:,} s)" if of_date["outages"] else ""
    return (
        f"{day}  {counted}{away}, "
        f"{of_date['refused']:,} refused, {of_date['missing_seqs']:,} seqs missing; "
        f"{len(found.outside()):,} of {len(found.measured()):,} comparisons outside their tolerance; times in New York"
    )


def _show_health(rows: list[dict[str, Any]]) -> None:
    where = None
    for row in rows:
        if not row["value"] and row["measure"] not in ("outages", "refused", "missing_seqs"):
            continue
        of = f"{row['symbol'] or 'the date'}{' ' + row['stream'] if row['stream'] else ''}"
        if of != where:
            typer.echo(of)
            where = of
        value = "" if row["value"] is None else f"{row['value']:,.10g}"
        typer.echo(f"  {row['measure']:<22}{value:>16}  {row['unit']}")


def _show_checks(found: Reconciled) -> None:
    from harvester.projections.reconcile import TOLERANCE

    typer.echo("streams against each other, by symbol and hour")
    for check in found.measured():
        typer.echo(f"  {_line(check)}")
    for name in TOLERANCE:
        silent = [c for c in found.checks if c.check == name and c.verdict == "not measured"]
        if silent:
            typer.echo(f"  {name} not measured in {len(silent)} symbol hours: {silent[0].reason}")
    outside = found.outside()
    typer.echo(f"{len(outside)} of {len(found.measured())} outside their tolerance")
    for reason in dict.fromkeys(f"{check.check}: {check.reason}" for check in outside):
        typer.echo(f"  {reason}")


def _line(check: Check) -> str:
    from harvester.recorder.moments import of_day

    numbers = f"{check.ours:>14,.10g} of {check.theirs:>14,.10g} {check.unit:<6}"
    difference = f"{100 * (check.difference or 0):8.3f} % (tolerance {100 * check.tolerance:g} %"
    difference += f" or {check.slack:,.10g} {check.unit})" if check.slack else ")"
    return f"{check.symbol:<8}{of_day(check.hour)[:5]}  {check.check:<9}{numbers} {difference}  {check.verdict}"
