"""`hv health`: gaps and faults of a date's data, and how far its streams agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from cli.options import DateOption, HomeOption, JsonOption, OneSymbolOption, date_of

if TYPE_CHECKING:
    import datetime as dt

    from harvester.projections.reconcile_streams import Check, Reconciled


_BAD = frozenset({
    "outages", "refused", "missing_seqs", "dead_rows", "bad_book_seconds", "contradicted_seconds", "silences",
    "impossible", "partial", "undecodable", "volume_falls", "starved",
})  # fmt: skip
"""Measures of faults: a value other than 0 is marked."""


def health(
    *,
    date: DateOption = None,
    symbol: OneSymbolOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show gaps, outages, refusals and bad books of a date, and compare its streams by symbol and hour.

    It compares tape with IB's cumulative volume, the top of the book with the quote in force, and 5-second bars with
    the tape. A difference outside its tolerance is information, not an error: the exit code is 0. A "!" marks faults.

    Example: hv health --date 2025-07-17
    """
    import json

    from cli.progress_bar import ProgressBar
    from harvester.eventlog.reader import open_day
    from harvester.eventlog.symbols import subscribed, symbol_named
    from harvester.home import Home
    from harvester.projections.reconcile_streams import check_rows, reconcile

    root = Home.find(home)
    day = date_of(date, root)
    log = open_day(day, root)
    if symbol is not None:
        symbol = symbol_named(symbol, subscribed(log), day)
    with ProgressBar(f"folding {day}", quiet=as_json) as bar:
        result = reconcile(log, bar.update)
    if symbol is not None:
        result = _of(result, symbol)
    if as_json:
        body = {
            "trading_date": day.isoformat(),
            "kind": result.kind,
            "health": result.health,
            "reconciliation": check_rows(result.checks),
        }
        typer.echo(json.dumps(body, allow_nan=False))
        return
    typer.echo(_summary(day, result))
    if starved := _starved(result):
        typer.echo(starved)
    _show_health(result.health)
    _show_checks(result)


def _of(result: Reconciled, symbol: str) -> Reconciled:
    health = [row for row in result.health if row["symbol"] in (None, symbol)]
    return result._replace(checks=[c for c in result.checks if c.symbol == symbol], health=health)


def _summary(day: dt.date, result: Reconciled) -> str:
    """The date in one line."""
    of_date = {row["measure"]: int(row["value"] or 0) for row in result.health if row["symbol"] is None}
    symbols = len({row["symbol"] for row in result.health} - {None})
    counts = ((symbols, "symbol"), (of_date["runs"], "run"), (of_date["outages"], "outage"))
    counted = ", ".join(f"{n:,} {word}{'s' * (n != 1)}" for n, word in counts)
    away = f" ({of_date['outage_seconds']:,} s)" if of_date["outages"] else ""
    return (
        f"{day}  source {result.kind}, {counted}{away}, "
        f"{of_date['refused']:,} refused, {of_date['missing_seqs']:,} seqs missing; "
        f"{len(result.outside()):,} of {len(result.measured()):,} comparisons outside tolerance; times in New York"
    )


def _starved(result: Reconciled) -> str:
    """The line of a date whose recording did not keep up with market time; empty for another date."""
    from harvester.projections.market.pace import pace_text

    of_date = {row["measure"]: row["value"] for row in result.health if row["symbol"] is None}
    if not of_date["starved"]:
        return ""
    return (
        f"starved: {pace_text(of_date['clocks_per_second'], of_date['stamp_lag_p99'])}; hv eod learns nothing from it"
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
        value = "" if row["value"] is None else f"{row['value']:,.3f}".rstrip("0").rstrip(".")
        mark = "!" if row["value"] and row["measure"] in _BAD else " "
        typer.echo(f"{mark} {row['measure']:<22}{value:>16}  {row['unit']}")


def _show_checks(result: Reconciled) -> None:
    from harvester.projections.reconcile_streams import TOLERANCE

    typer.echo("comparison of streams, by symbol and hour")
    for check in result.measured():
        typer.echo(f"  {_line(check)}")
    for name in TOLERANCE:
        silent = [c for c in result.checks if c.check == name and c.verdict == "not measured"]
        if silent:
            typer.echo(f"  {name} not measured in {len(silent)} symbol hours: {silent[0].reason}")
    outside = result.outside()
    typer.echo(f"{len(outside)} of {len(result.measured())} outside tolerance")
    for reason in dict.fromkeys(f"{check.check}: {check.reason}" for check in outside):
        typer.echo(f"  {reason}")


def _line(check: Check) -> str:
    from harvester.calendar import of_day

    numbers = f"{check.ours:>14,.10g} of {check.theirs:>14,.10g} {check.unit:<6}"
    difference = f"{100 * (check.difference or 0):8.3f} % (tolerance {100 * check.tolerance:g} %"
    difference += f" or {check.slack:,.10g} {check.unit})" if check.slack else ")"
    return f"{check.symbol:<8}{of_day(check.hour)[:5]}  {check.check:<9}{numbers} {difference}  {check.verdict}"
