"""`hv book`: the order book of a symbol at any place of a day."""

from __future__ import annotations

import json as json_text
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harvester.events.kinds import Stream

_SPANS = 6  # books named where there is none


def book(
    *,
    date: Annotated[str, typer.Option("--date", help="Trading date, yyyy-MM-dd.")],
    symbol: Annotated[str, typer.Option("--symbol", help="As it was recorded.")],
    at: Annotated[
        str | None, typer.Option("--at", help="Time of day in New York, 10:31:05.2, or an ISO time with its offset.")
    ] = None,
    seq: Annotated[int | None, typer.Option("--seq", help="After this event instead of at a time.")] = None,
    stream: Annotated[
        str | None, typer.Option("--stream", help="depth or smart_depth; else the one the buckets use.")
    ] = None,
    home: Annotated[Path | None, typer.Option("--home", help="Data root; else HV_HOME, else this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for scripts.")] = False,
) -> None:
    """Show the order book of a symbol at any time of a day: its rows, and the price ladder over market makers.

    Without --at or --seq it is the book after the last event. The first look folds the day up to there and leaves
    snapshots in temp/cache; later looks start at the nearest one.

    Example: hv book --date 2025-07-17 --symbol ARL --at 10:31:05.2
    """
    from cli.bars import Bar
    from harvester.errors import BadSetting
    from harvester.eventlog.reader import open_day
    from harvester.events.kinds import Stream
    from harvester.home import Home, parse_date
    from harvester.recorder.look import DEPTH, books_of, look
    from harvester.recorder.moments import moment
    from harvester.recorder.seek import Seeker

    if at is not None and seq is not None:
        raise BadSetting("--at and --seq name two places; give one of them")
    if stream is not None and stream not in DEPTH:
        raise BadSetting(f"--stream {stream!r} is none of {', '.join(DEPTH)}")
    day, found = parse_date(date), Home.find(home)
    ts = None if at is None else moment(at, day)
    seeker = Seeker(found, open_day(day, found))
    with Bar(f"folding {date}", quiet=as_json) as bar:
        if ts is not None:
            engine = seeker.at_time(ts, bar.told)
        else:
            engine = seeker.at_seq(seeker.day.last_seq if seq is None else seq, bar.told)
    view = look(engine, symbol, None if stream is None else Stream(stream))
    if as_json:
        typer.echo(json_text.dumps({"trading_date": date, **view}, allow_nan=False))
    else:
        place = engine.through_ts if ts is None else ts
        none = ""
        if view["state"] is None:  # the rest of the day tells where to look
            with Bar(f"looking for books of {date}") as bar:
                whole = seeker.at_seq(seeker.day.last_seq, bar.told)
            none = _no_book(symbol, place, books_of(whole, view["con_id"]))
        _show(view, place, none)


def _no_book(symbol: str, ts: int, books: Sequence[tuple[Stream, int, int]]) -> str:
    """What is said where there is no book: when and of which stream there is one."""
    from harvester.recorder.moments import of_day

    spans = [f"{stream} {of_day(begin)[:8]} to {of_day(end)[:8]}" for stream, begin, end in books]
    more = [f"{len(spans) - _SPANS} more"] if len(spans) > _SPANS else []
    there = "; ".join(spans[:_SPANS] + more) or "none on this date: no depth of it was recorded"
    return f"no book at {of_day(ts)}; books of {symbol}: {there}"


def _show(view: dict[str, Any], ts: int, none: str) -> None:
    from rich.console import Console

    from harvester.recorder.moments import of_day

    wide = sys.stdout.isatty()
    console = Console(width=None if wide else 110, highlight=False)
    console.print(
        f"[bold]{_plain(view['symbol'])}[/]  {of_day(ts)} New York, after seq {view['seq']:,} of {view['ts']}"
    )
    console.print(_quote_line(view["quote"]))
    console.print(_state_line(view["state"]) if view["state"] else none)
    if any(view[side]["rows"] for side in ("bid", "ask")):
        console.print(_rows_table(view))
        console.print(_ladder_table(view))


def _quote_line(quote: dict[str, Any] | None) -> str:
    if quote is None or quote["source"] is None:
        return "no quote in force"
    bid, ask = (f"{_n(quote[f'{side}_size'])} x {_n(quote[side])}" for side in ("bid", "ask"))
    return f"quote in force: bid {bid}, ask {ask} ({quote['source']}); last {_n(quote['last'])}"


def _state_line(state: dict[str, Any]) -> str:
    unknown = [side for side in ("bid", "ask") if not state[f"known_{side}"]]
    if state["bad"]:
        what = "[red]bad: an impossible row came since the last reset[/]"
    elif unknown:
        what = f"[yellow]unknown: nothing heard of {' and '.join(unknown)} since the last reset[/]"
    elif state["waiting"]:
        what = f"[yellow]holes: {state['waiting']} rows wait behind rows nobody told us of[/]"
    else:
        what = "[green]good[/]"
    counts = f"{state['applied']:,} rows applied, {state['impossible']} impossible, {state['resets']} resets"
    return f"book {state['stream']}, {state['rows']} rows a side, {what}; {counts}"


def _rows_table(view: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title="rows, as IB keeps them", title_justify="left", box=None, pad_edge=False)
    names = ("maker", "size", "bid", "row", "ask", "size", "maker")
    for name in names:
        table.add_column(name, justify="left" if name == "maker" else "right", no_wrap=True)
    bids, asks = view["bid"]["rows"], view["ask"]["rows"]
    digits = _digits(row["price"] for row in (*bids, *asks))
    for i in range(max(len(bids), len(asks))):
        bid, ask = (rows[i] if i < len(rows) else None for rows in (bids, asks))
        left = (_plain(bid["market_maker"]), _n(bid["size"]), f"{bid['price']:.{digits}f}") if bid else ("", "", "")
        right = (f"{ask['price']:.{digits}f}", _n(ask["size"]), _plain(ask["market_maker"])) if ask else ("", "", "")
        table.add_row(*left, str(i), *right)
    return table


def _ladder_table(view: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="ladder, by price over market makers", title_justify="left", box=None, pad_edge=False)
    for name in ("price", "side", "size", "", "market makers"):
        table.add_column(name, justify="right" if name in ("price", "size") else "left", no_wrap=True)
    bids, asks = view["bid"]["ladder"], view["ask"]["ladder"]
    widest = max((level["size"] for level in (*bids, *asks)), default=0.0) or 1.0
    digits = _digits(level["price"] for level in (*bids, *asks))
    for side, levels, colour in (("ask", asks[::-1], "red"), ("bid", bids, "green")):
        for level in levels:
            bar = Text("█" * max(round(24 * level["size"] / widest), 1 if level["size"] else 0), colour)
            makers = ", ".join(f"{_plain(name)} {_n(size)}" for name, size in level["makers"] if name)
            table.add_row(f"{level['price']:.{digits}f}", side, _n(level["size"]), bar, makers)
    return table


def _plain(text: str | None) -> str:
    """Text from outside: neither markup nor control characters."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() else "?" for c in text or ""))


def _digits(prices: Iterable[float]) -> int:
    """Decimals that show every price exactly, at least two."""
    return max([2, *(len(repr(price).partition(".")[2]) for price in prices if "e" not in repr(price))])


def _n(x: float | None) -> str:
    """A number as short as it is exact."""
    if x is None:
        return "-"
    return f"{x:.0f}" if x == int(x) and abs(x) < 1e15 else repr(x)
