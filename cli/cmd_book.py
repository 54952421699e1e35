"""`hv book`: the order book of a symbol at any time or seq of a day."""

from __future__ import annotations

import json as json_text
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import AtOption, DateOption, HomeOption, JsonOption, SymbolOption, date_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harvester.eventlog.reader import Day
    from harvester.events.kinds import Stream

_SPANS = 6  # books listed where there is no book


def book(
    *,
    symbol: SymbolOption,
    date: DateOption = None,
    at: AtOption = None,
    seq: Annotated[
        int | None, typer.Option("--seq", help="Select the state after this event instead of a time.")
    ] = None,
    stream: Annotated[
        str | None, typer.Option("--stream", help="Select depth or smart_depth (default: the one the buckets use).")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the order book of a symbol at any time of a day: its rows, and the price ladder over market makers.

    Without --at or --seq: the last book of the day. The first call folds the day up to that place and saves snapshots
    in temp/cache; later calls start at the nearest snapshot. Times are in New York.

    Example: hv book --date 2025-07-17 --symbol ACME --at 09:40:05.2
    """
    from cli.progress_bar import ProgressBar
    from harvester.errors import BadSetting
    from harvester.eventlog.reader import open_day
    from harvester.eventlog.symbols import subscribed, symbol_named
    from harvester.events.kinds import Stream
    from harvester.home import Home
    from harvester.replay.book_view import DEPTH, books_of, last_market, look
    from harvester.replay.seek import Seeker

    if at is not None and seq is not None:
        raise BadSetting("--at and --seq were both given; give only one")
    if stream is not None and stream not in DEPTH:
        raise BadSetting(f"--stream {stream!r} is not a depth stream; choose {' or '.join(DEPTH)}")
    root, of = Home.find(home), None if stream is None else Stream(stream)
    day = date_of(date, root)
    seeker = Seeker(root, open_day(day, root))
    first_seen = subscribed(seeker.day)
    symbol = symbol_named(symbol, first_seen, day)
    ts = None if at is None else _moment(at, seeker.day)
    _check_subscribed(symbol, first_seen[symbol], ts, seq)
    why = ""
    with ProgressBar(f"folding {day}", quiet=as_json) as bar:
        if ts is not None:
            engine = seeker.at_time(ts, bar.update)
        else:
            engine = seeker.at_seq(seeker.day.last_seq if seq is None else seq, bar.update)
        view = look(engine, symbol, of)
        if at is None and seq is None and (last := last_market(engine, view["con_id"], of)) is not None:
            ended = engine.through_ts
            engine = seeker.at_time(last, bar.update)
            view = look(engine, symbol, of)
            what = "a book" if view["state"] else "anything subscribed"
            why = f": the last moment with {what}; the log ends at {_of_day(ended)}"
    if as_json:
        typer.echo(json_text.dumps({"trading_date": day.isoformat(), **view}, allow_nan=False))
    else:
        place = engine.through_ts if ts is None else ts
        none = ""
        if view["state"] is None:  # list the books of the whole day
            with ProgressBar(f"looking for books of {day}") as bar:
                whole = seeker.at_seq(seeker.day.last_seq, bar.update)
            none = _no_book(symbol, place, books_of(whole, view["con_id"]))
        _show(view, f"{day} {_of_day(place)} New York, after seq {view['seq']:,}{why}", none)


def _moment(at: str, day: Day) -> int:
    """Read `--at` as ns UTC; it must be within the recording."""
    from harvester.eventlog.typed_times import check_within, moment

    ts = moment(at, day.trading_date)
    check_within(ts, at, day)
    return ts


def _check_subscribed(symbol: str, first: tuple[int, int], ts: int | None, seq: int | None) -> None:
    """Check that the symbol was subscribed at `ts` (ns UTC) or `seq`; `first`: seq and ts of its first request."""
    from harvester.errors import BadSetting

    if (ts is not None and ts < first[1]) or (seq is not None and seq < first[0]):
        where = f"seq {seq}" if ts is None else _of_day(ts)
        raise BadSetting(
            f"{symbol} was not subscribed yet at {where}; first subscription: seq {first[0]:,} at "
            f"{_of_day(first[1])} (New York)"
        )


def _of_day(ns: int) -> str:
    from harvester.calendar import of_day

    return of_day(ns)


def _no_book(symbol: str, ts: int, books: Sequence[tuple[Stream, int, int]]) -> str:
    """The message where there is no book: which streams have one, and when."""
    spans = [f"{stream} {_of_day(begin)[:8]} to {_of_day(end)[:8]}" for stream, begin, end in books]
    more = [f"{len(spans) - _SPANS} more"] if len(spans) > _SPANS else []
    there = "; ".join(spans[:_SPANS] + more) or "none on this date (no depth was recorded)"
    return f"no book at {_of_day(ts)}; books of {symbol}: {there}"


def _show(view: dict[str, Any], place: str, none: str) -> None:
    from rich.console import Console

    wide = sys.stdout.isatty()
    console = Console(width=None if wide else 110, highlight=False)
    console.print(f"[bold]{_plain(view['symbol'])}[/]  {place}")
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
        what = "[red]bad: an impossible row arrived after the last reset[/]"
    elif unknown:
        what = f"[yellow]unknown: no rows of {' and '.join(unknown)} since the last reset[/]"
    elif state["waiting"]:
        what = f"[yellow]holes: {state['waiting']} rows are behind rows never received[/]"
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
    """Text from outside, without markup and control characters."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() else "?" for c in text or ""))


def _digits(prices: Iterable[float]) -> int:
    """How many decimals show every price exactly, at least two."""
    return max([2, *(len(repr(price).partition(".")[2]) for price in prices if "e" not in repr(price))])


def _n(x: float | None) -> str:
    """The shortest exact text of a number; `-` for none."""
    if x is None:
        return "-"
    return f"{x:.0f}" if x == int(x) and abs(x) < 1e15 else repr(x)
