"""`hv buckets`: the one-second buckets of a symbol."""

from __future__ import annotations

import json as json_text
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import DateOption, FromTimeOption, HomeOption, JsonOption, SymbolOption, ToTimeOption, date_of

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN = (
    "ts", "bid", "ask", "spread_bps", "mid", "microprice", "imbalance", "ofi", "tape_buy", "tape_sell", "trade_count",
    "quote_count", "depth_count", "volatility_proxy", "stale", "halted", "gate_codes",
)  # fmt: skip


def buckets(
    *,
    symbol: SymbolOption,
    date: DateOption = None,
    first: FromTimeOption = None,
    last: ToTimeOption = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=0, help="Limit output to the last N seconds, 0 = all (default: 60, or the whole range)."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the JSON artefact to this .json file.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show or export the one-second buckets of a symbol, rebuilt from the log.

    Without --to the output ends with the last second that has a quote in force, because a finished day continues
    without quotes. --out and --json write the JSON artefact; without --limit they hold every second. Times are in New
    York on a terminal, in UTC in a pipe and in files.

    Example: hv buckets --date 2025-07-17 --symbol ACME --from 09:40 --to 09:41
    """
    from cli.progress_bar import ProgressBar
    from harvester.artefacts.json_files import json_file
    from harvester.errors import BadSetting
    from harvester.eventlog.reader import open_day
    from harvester.eventlog.symbols import subscribed, symbol_named
    from harvester.eventlog.typed_times import check_meets, span
    from harvester.files import must_take_file, put
    from harvester.home import Home
    from harvester.memory.strategy_files import KeptStrategies
    from harvester.rebuild.project import bucket_artefact, fold_day

    root = Home.find(home)
    day = date_of(date, root)
    begin, end = span(first, last, day)
    if out is not None:
        must_take_file(out.resolve())  # before the fold, not after it
        if out.suffix.lower() != ".json":
            raise BadSetting(f"--out {out}: the output is JSON; give a file name that ends in .json")
    log = open_day(day, root)
    check_meets(begin, end, log)
    symbol = symbol_named(symbol, subscribed(log), day)
    with ProgressBar(f"folding {day}", quiet=as_json) as bar:
        folded = fold_day(log, bar.update, library=KeptStrategies(root))
    body = bucket_artefact(folded, symbol, begin, end)
    every = body["rows"]
    rows = every if end is not None else _quoted(every)
    if limit:
        body["rows"] = rows[-limit:]
    if out is not None:
        put(out.resolve(), json_file(body))
        typer.echo(f"{len(body['rows'])} seconds of {symbol} in {out}")
    elif as_json:
        typer.echo(json_text.dumps(body, allow_nan=False))
    else:
        shown = limit if limit is not None else 60 if begin is None and end is None else 0
        which = ", the last with a quote" if len(rows) < len(every) else ""
        _show(f"{symbol}  {day}", rows[-shown:], f"of {len(every):,} seconds{which}")


def _quoted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows up to the last one with a quote in force; all rows when there is none."""
    last = next((k for k in range(len(rows) - 1, -1, -1) if rows[k]["mid"] is not None), len(rows) - 1)
    return rows[: last + 1]


def _show(what: str, rows: Sequence[dict[str, Any]], of: str) -> None:
    if not sys.stdout.isatty():
        typer.echo("\t".join(SHOWN))
        for row in rows:
            typer.echo("\t".join(_cell(row[name]) for name in SHOWN))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    times = [_clock(row["ts"]) for row in rows]
    reach = f" from {times[0]} to {times[-1]} New York" if times else ""
    table = Table(*SHOWN, box=None)
    for time, row in zip(times, rows, strict=True):
        table.add_row(time, *(_cell(row[name]) for name in SHOWN[1:]))
    Console().print(f"[bold]{escape(what)}[/]  {len(rows):,} {of}{reach}", table, highlight=False)


def _clock(ts: str | int) -> str:
    """The New York time of day of an artefact's time: ISO text, or Unix ms with `episode_epoch_ms`."""
    from harvester.calendar import of_day
    from harvester.eventlog.typed_times import read_iso

    return of_day(ts * 1_000_000 if isinstance(ts, int) else read_iso(ts))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return "|".join(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
