"""`hv buckets`: the one-second buckets of a symbol."""

from __future__ import annotations

import json as json_text
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN = (
    "ts", "bid", "ask", "spread_bps", "mid", "microprice", "imbalance", "ofi", "tape_buy", "tape_sell", "trade_count",
    "quote_count", "depth_count", "volatility_proxy", "stale", "gate_codes",
)  # fmt: skip


def buckets(
    *,
    date: Annotated[str, typer.Option("--date", help="Trading date, yyyy-MM-dd.")],
    symbol: Annotated[str, typer.Option("--symbol", help="As it was recorded.")],
    first: Annotated[
        str | None, typer.Option("--from", help="Seconds from this time on: 10:31 in New York, or an ISO time.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", help="Seconds before this time, written likewise.")] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=0, help="Seconds to show at most, from the end; 0 = all. Else 60, or the range."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the JSON artefact here instead of showing.")] = None,
    home: Annotated[Path | None, typer.Option("--home", help="Data root; else HV_HOME, else this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole JSON artefact on standard output.")] = False,
) -> None:
    """Show or export the one-second buckets of a symbol, rebuilt from the log.

    Example: hv buckets --date 2025-07-17 --symbol ARL --from 10:31 --to 10:32
    """
    from cli.bars import Bar
    from harvester.artefacts.text import json_file, must_take_file, put
    from harvester.errors import BadSetting
    from harvester.eventlog.reader import open_day
    from harvester.home import Home, parse_date
    from harvester.recorder.moments import moment
    from harvester.recorder.project import bucket_artefact, fold_day

    day = parse_date(date)
    begin, end = (None if text is None else moment(text, day) for text in (first, last))
    if begin is not None and end is not None and begin > end:
        raise BadSetting(f"--from {first} is after --to {last}; give them in order")
    if out is not None:
        must_take_file(out.resolve())  # before the fold, not after it
    with Bar(f"folding {date}", quiet=as_json) as bar:
        made = fold_day(open_day(day, Home.find(home)), bar.told)
    body = bucket_artefact(made, symbol, begin, end)
    if out is not None:
        put(out.resolve(), json_file(body))
        typer.echo(f"{len(body['rows'])} seconds of {symbol} in {out}")
    elif as_json:
        typer.echo(json_text.dumps(body, allow_nan=False))
    else:
        shown = limit if limit is not None else 60 if begin is None and end is None else 0
        _show(body["rows"][-shown:])


def _show(rows: Sequence[dict[str, Any]]) -> None:
    if not sys.stdout.isatty():
        typer.echo("\t".join(SHOWN))
        for row in rows:
            typer.echo("\t".join(_cell(row[name]) for name in SHOWN))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*SHOWN, box=None)
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in SHOWN))
    Console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return "|".join(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
