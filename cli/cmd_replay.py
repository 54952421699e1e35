"""Implement `hv replay`: play a recorded day through the engine and print its rows."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import (
    DateOption,
    FromTimeOption,
    HomeOption,
    JsonOption,
    SymbolsOption,
    ToTimeOption,
    date_of,
    words_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cli.keyboard import Keys
    from harvester.replay.replay import ReplayFrame

_KEYS = {
    " ": "pause", "s": "step", "left": "back", "right": "forward", "g": "goto", "+": "faster", "-": "slower",
    "q": "quit",
}  # fmt: skip
_HELP = "space pause · s step · ←/→ a minute · g go to · +/- speed · q quit"


def replay(
    *,
    date: DateOption = None,
    speed: Annotated[
        str, typer.Option("--speed", help="Set the speed: 1 = real time, 60 = a minute per second, or max.")
    ] = "max",
    first: FromTimeOption = None,
    last: ToTimeOption = None,
    symbols: SymbolsOption = None,
    show: Annotated[
        str, typer.Option("--show", help="Choose from trades,buckets,candles,signals,decisions,fills,episodes.")
    ] = "buckets,signals,fills,episodes",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Play a recorded day through the engine that recorded it, and print rows as they become known.

    On a terminal, space pauses, s steps, the arrow keys move a minute back or forward, and g goes to a time; in a pipe
    rows are plain lines. `trades` are reported prints; fills and episodes are simulated. Symbols match in upper or
    lower case; the default is all.

    Example: hv replay --date 2025-07-17 --speed 60 --from 09:40 --symbols ACME
    """
    from cli.progress_bar import ProgressBar
    from harvester.eventlog.reader import open_day
    from harvester.eventlog.typed_times import check_meets, moment, span
    from harvester.home import Home
    from harvester.rebuild.call_watch import CallWatch
    from harvester.replay.replay import Replay, ReplayPlayer
    from harvester.replay.seek import Seeker

    root, factor = Home.find(home), _speed(speed)
    day = date_of(date, root)
    start, end = span(first, last, day)
    log = open_day(day, root)
    check_meets(start, end, log)
    seeker = Seeker(root, log, market_only=False)
    with CallWatch():
        with ProgressBar(f"folding {day}"):
            played = Replay(seeker, show=words_of(show), symbols=words_of(symbols), start=start, end=end)
        line = _json_line if as_json else _text_line
        if sys.stdin.isatty() and sys.stdout.isatty():
            from cli.keyboard import Keys

            typer.echo(f"{day}, times in New York")
            with Keys() as keys:
                shown = Terminal(line, keys, lambda text: moment(text, day))
                try:
                    ReplayPlayer(played, shown, factor).run()
                finally:
                    shown.end()
        elif factor:
            ReplayPlayer(played, Pipe(line), factor).run()
        else:
            for rows in played.stream():
                sys.stdout.write("".join(line(row) + "\n" for row in rows))
    for note in seeker.library.notes:
        typer.echo(f"note: {note}", err=True)


class Pipe:
    """Prints plain lines; reads no keys."""

    def __init__(self, line: Callable[[ReplayFrame], str]) -> None:
        self._line = line

    def show(self, rows: Sequence[ReplayFrame]) -> None:
        sys.stdout.write("".join(self._line(row) + "\n" for row in rows))
        sys.stdout.flush()

    def state(self, ts: int, speed: float, *, paused: bool) -> None:
        """No effect: a pipe shows only rows."""

    def moved(self, ts: int) -> None:
        """No effect, as for `state`."""

    def key(self, seconds: float | None) -> str:
        if seconds:
            time.sleep(seconds)
        return ""

    def time(self) -> int | None:
        return None


class Terminal(Pipe):
    """Prints scrolling lines above a status line, and reads keys."""

    def __init__(self, line: Callable[[ReplayFrame], str], keys: Keys, moment: Callable[[str], int]) -> None:
        super().__init__(line)
        self._keys, self._moment = keys, moment
        self._below = ""

    def show(self, rows: Sequence[ReplayFrame]) -> None:
        if not rows:
            return
        self._put("")
        for row in rows:
            self._whole_line(self._line(row))

    def end(self) -> None:
        """Clear the status line for the shell's prompt."""
        self._put("")

    def moved(self, ts: int) -> None:
        from harvester.calendar import of_day

        self._put("")
        self._whole_line(f"── {of_day(ts)} New York " + "─" * 60)

    def _whole_line(self, text: str) -> None:
        """Print a line truncated to the screen width; wrapped lines are hard to read as rows."""
        wide = shutil.get_terminal_size().columns
        sys.stdout.write((text if len(text) <= wide else text[: wide - 1] + "…") + "\n")

    def state(self, ts: int, speed: float, *, paused: bool) -> None:
        from harvester.calendar import of_day

        pace = "paused" if paused else f"speed {speed:g}" if speed else "maximum speed"
        self._put(f"{of_day(ts).partition('.')[0]} New York  {pace}   {_HELP}")

    def key(self, seconds: float | None) -> str:
        return _KEYS.get(self._keys.get(seconds), "")

    def time(self) -> int | None:
        from harvester.errors import BadSetting

        text = ""
        while True:
            self._put(f"go to (10:31:05, Enter; Esc not): {text}")
            key = self._keys.get(None)
            if key in ("\r", "\n"):
                break
            if key == "\x1b":
                return None
            text = text[:-1] if key in ("\x7f", "\b") else text + key if len(key) == 1 else text
        try:
            return self._moment(text)
        except BadSetting as error:
            self._put("")
            typer.echo(f"hv: {error}", err=True)
            return None

    def _put(self, text: str) -> None:
        """Rewrite the status line; the last column stays free, because a wrapped line cannot be cleared."""
        text = text[: shutil.get_terminal_size().columns - 1]
        if text != self._below:
            sys.stdout.write("\r" + " " * len(self._below) + "\r" + text)
            sys.stdout.flush()
            self._below = text


def _speed(text: str) -> float:
    from harvester.errors import BadSetting

    try:
        factor = 0.0 if text == "max" else float(text)
    except ValueError:
        factor = -1.0
    if not (0 < factor <= 1e9 or text == "max"):
        raise BadSetting(f"--speed {text!r} is not a speed; give a multiple of real time, such as 60, or max")
    return factor


def _json_line(shown: ReplayFrame) -> str:
    import msgspec

    from harvester.artefacts.json_files import times

    return msgspec.json.encode({"table": shown.table, **times(shown.row)}).decode()


_TEXT = {  # table → columns of its text line
    "trades": ("price", "size", "exchange", "conditions"),
    "buckets": ("bid", "ask", "mid", "spread_bps", "imbalance", "ofi", "tape_buy", "tape_sell", "stale"),
    "candles": ("timeframe", "open", "high", "low", "close", "samples"),
    "signals": ("signal", "trigger_price", "reason"),
    "decisions": ("action", "side", "quantity", "reference_price", "gate_codes", "reason"),
    "fills": ("role", "side", "quantity", "price", "source", "slippage"),
    "episodes": ("trade_id", "side", "quantity", "entry_price", "exit_price", "exit_reason", "pnl_usd"),
}


def _text_line(shown: ReplayFrame) -> str:
    from harvester.calendar import of_day

    cells = [f"{name} {_cell(shown.row[name])}" for name in _TEXT[shown.table] if shown.row[name] not in (None, "")]
    return f"{of_day(shown.ts):<18} {shown.table.removesuffix('s'):<8} {shown.row['symbol']:<6} {'  '.join(cells)}"


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
