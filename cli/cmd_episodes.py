"""`hv episodes`: the simulated trades of a date."""

from __future__ import annotations

import json as json_text
import sys
from collections import Counter
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.cells import price
from cli.options import DateOption, HomeOption, JsonOption, Mode, ProjectedOption, date_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.explain.day_trades import DayTrades, Totals

_WIDE = 110  # columns from which on the table has the trade ids, and the entry's reason beside the exit's
_UNFILLED = 4  # unfilled entries listed


def episodes(
    *,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="SYMBOL", help="Show only these symbols (default: all).")
    ] = None,
    date: DateOption = None,
    strategy: ProjectedOption = None,
    mode: Annotated[
        Mode,
        typer.Option("--mode", help="Show trades on events, or those of `hv project --mode bars` with --strategy."),
    ] = Mode.EVENT,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: a header, and one line a trade.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the simulated trades of a date by the time of their exit, rebuilt from the log.

    R is the P&L after costs in units of the risk fixed at the decision. The last column says whether memory learns from
    the trade, or why not. When the log is gone, the trades that `hv eod` kept are shown, and the output says so. Times
    are in New York, in --json and --csv UTC.

    With --strategy the trades are those that `hv project --strategy` wrote for the date: by the name of the strategy,
    by the name of its folder, which `hv strategy list --date` lists, or by its file, with default parameters.

    Example: hv episodes --date 2025-07-17 ACME BOLT

    Example: hv episodes --date 2025-07-17 --strategy random_entry

    Example: hv episodes --date 2025-07-17 --strategy random_entry --mode bars

    `hv explain SYMBOL/TRADE_ID` shows one trade; an exit time of the table is as good as an id.
    """
    from cli.progress_bar import ProgressBar
    from harvester.errors import BadSetting
    from harvester.eventlog.symbols import symbols_named
    from harvester.explain.day_trades import totals, trades_of, trades_of_strategy
    from harvester.home import Home

    if as_csv and as_json:
        raise BadSetting("--csv and --json were both given; give only one")
    root = Home.find(home)
    day = date_of(date, root)
    if mode is Mode.BARS and strategy is None:
        raise BadSetting(
            "--mode bars shows what hv project --mode bars --strategy NAME wrote; give --strategy NAME too"
        )
    if strategy is not None:
        trades = trades_of_strategy(root.on(day), strategy, mode.value)
    else:
        with ProgressBar(f"folding {day}", quiet=as_json or as_csv) as bar:
            trades = trades_of(root.on(day), bar.update)
    chosen = set(symbols_named(names, trades.symbols, day)) if names else None
    rows, unfilled = trades.listed(chosen), trades.unfilled(chosen)
    of_all = totals(rows, unfilled)
    if as_json:
        typer.echo(_as_json(trades, rows, unfilled, of_all))
    elif as_csv:
        _print_csv(rows)
    else:
        _show(trades, rows, unfilled, of_all)


def _as_json(trades: DayTrades, rows: list[dict[str, Any]], unfilled: list[dict[str, Any]], of_all: Totals) -> str:
    from harvester.artefacts.json_files import times

    body = {
        "trading_date": trades.trading_date.isoformat(),
        "source": trades.source,
        "note": trades.note,
        "open": trades.open,
        "totals": vars(of_all),
        "unfilled": unfilled,
        "rows": rows,
    }
    return json_text.dumps(times(body), allow_nan=False)


def _print_csv(rows: list[dict[str, Any]]) -> None:
    from harvester.artefacts.json_files import times
    from harvester.artefacts.table_files import csv_file
    from harvester.explain.day_trades import LISTED

    columns = (*LISTED, "commission", "left_out")
    typer.echo(csv_file(times(rows), columns).decode().replace("\r\n", "\n"), nl=False)


def _show(trades: DayTrades, rows: list[dict[str, Any]], unfilled: list[dict[str, Any]], of_all: Totals) -> None:
    from rich.console import Console
    from rich.markup import escape

    wide = sys.stdout.isatty()
    console = Console(width=None if wide else 140, highlight=False, soft_wrap=False)
    if trades.note:
        console.print(trades.note, soft_wrap=True, markup=False)
    if rows:
        console.print(_table(rows, ids=console.width >= _WIDE))
    console.print(escape("\n".join(_summary(trades, rows, unfilled, of_all))))


def _table(rows: Sequence[dict[str, Any]], *, ids: bool) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    left = ("time", "trade", "strategy", "symbol", "side", "why in", "reason", "learned")
    several = len({row["strategy"] for row in rows}) > 1
    names = [
        "time", *(["trade"] if ids else []), *(["strategy"] if several else []), "symbol",
        "side", "shares", "entry", "exit", "hold", "P&L", "R",
        *(["why in"] if ids else []), "reason", "learned",
    ]  # fmt: skip
    for name in names:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    for row in rows:
        cells = {
            "time": _exit_time(row),
            "trade": row["trade_id"],
            "strategy": _plain(row["strategy"]),
            "symbol": _plain(row["symbol"]),
            "side": row["side"],
            "shares": str(row["quantity"]),
            "entry": price(row["entry_price"]),
            "exit": price(row["exit_price"]),
            "hold": _hold(row["hold_seconds"]),
            "P&L": f"{row['pnl_usd']:.2f}",
            "R": "-" if row["r_multiple"] is None else f"{row['r_multiple']:.2f}",
            "why in": _plain(row["entry_reason"]),
            "reason": _plain(row["exit_reason"]),
            "learned": row["left_out"] or "yes",
        }
        style = {"WIN": "green", "LOSS": "red"}.get(row["win_loss"], "")
        table.add_row(*(Text(cells[name], style if name in ("P&L", "R") else "") for name in names))
    return table


def _summary(
    trades: DayTrades, rows: list[dict[str, Any]], unfilled: list[dict[str, Any]], of_all: Totals
) -> list[str]:
    """The lines below the table."""
    even = of_all.trades - of_all.wins - of_all.losses
    lines = [
        (
            f"{of_all.trades} trades: {of_all.wins} won, {of_all.losses} lost, {even} even; "
            f"P&L {of_all.pnl_usd:.2f} USD after costs of {of_all.commission:.2f}"
        )
    ]
    lines += _by_strategy(rows)
    mean = "no R" if of_all.r_mean is None else f"mean R {of_all.r_mean:.2f} of {of_all.r_trades}"
    left_out = ", ".join(f"{n} {reason}" for reason, n in of_all.left_out.items())
    lines.append(f"{mean}; {of_all.learned} to be learned from" + (f", not {left_out}" if left_out else ""))
    lines += _of_rules(rows)
    if vetoed := len(rows) - of_all.trades:
        lines.append(f"{vetoed} vetoed trades are listed, and in no total")
    if trades.open:
        lines.append(f"{trades.open} still open: not episodes yet, the date is being recorded")
    if unfilled:
        reasons = ", ".join(f"{n} {reason}" for reason, n in of_all.unfilled.items())
        lines.append(f"{len(unfilled)} entries were not filled ({reasons})")
        lines += (
            []
            if not trades.explained
            else [
                f"  hv explain{trades.option} --seq {row['decision_seq']} --symbol {quote(_plain(row['symbol']))}"
                for row in unfilled[:_UNFILLED]
            ]
        )
        if len(unfilled) > _UNFILLED and trades.explained:
            lines.append(f"  {len(unfilled) - _UNFILLED} more (--json lists all)")
    if rows and trades.explained:
        last = rows[-1]
        name = quote(f"{_plain(last['symbol'])}/{last['trade_id']}")
        lines.append(f"hv explain{trades.option} {name} shows the last one (an id has the exit's time in UTC)")
    return lines


def _of_rules(rows: list[dict[str, Any]]) -> list[str]:
    """How many trades older rules of simulated trading made."""
    from harvester.projections.trading.episodes import RULES

    older = Counter(row["rules"] for row in rows if row["rules"] != RULES)
    return [
        f"{count} made by rules {version} of simulated trading, which memory does not pool with rules {RULES}"
        for version, count in sorted(older.items())
    ]


def _exit_time(row: dict[str, Any]) -> str:
    from harvester.calendar import of_day

    return of_day(row["exit_ts"])[:8]


def _hold(seconds: float) -> str:
    """Minutes and seconds, as `5:00`; with hours `1:05:00`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _by_strategy(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each strategy, when there are several."""
    names = sorted({row["strategy"] for row in rows})
    if len(names) < 2:
        return []
    sums = {name: [row["pnl_usd"] for row in rows if row["strategy"] == name and row["taken"]] for name in names}
    return [f"  {_plain(name)}: {len(of)} trades, P&L {sum(of):.2f}" for name, of in sums.items()]
