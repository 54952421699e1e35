"""The live screen of a recording, redrawn twice a second, or log lines when there is no terminal."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from harvester.calendar import of_day
from harvester.clock import clocks_apart, real_monotonic_ns
from harvester.disk_space import disk_forecast
from harvester.eventlog.typed_times import local
from harvester.projections.market.quotes import HALTS
from harvester.recorder.subscriptions import WANTED, coverage
from harvester.units import MILLI_NS, SECOND_NS

if TYPE_CHECKING:
    from rich.columns import Columns
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from harvester.projections.market.quotes import Quote
    from harvester.recorder.gateway_wait import GatewayWait
    from harvester.recorder.record import Recorder

logger = structlog.get_logger()

DRAW_S = 0.5
RATE_DRAWS = 10
LINE_S = 30.0


@dataclass(frozen=True)
class CounterSample:
    """Counters at one moment of real time, ns; a rate is the difference of two."""

    at_ns: int
    rows: dict[str, int]
    n_bytes: int


def read(recorder: Recorder) -> CounterSample:
    """The counters now."""
    totals = recorder.committer.run.totals if recorder.committer.run else None
    return CounterSample(real_monotonic_ns(), dict(totals.rows) if totals else {}, totals.n_bytes if totals else 0)


def rates(before: CounterSample, now: CounterSample) -> tuple[dict[str, float], float]:
    """Rows per second by kind, and bytes per second, in real time."""
    seconds = max((now.at_ns - before.at_ns) / SECOND_NS, 1e-9)
    rows = {kind: max(count - before.rows.get(kind, 0), 0) / seconds for kind, count in now.rows.items()}
    return rows, max(now.n_bytes - before.n_bytes, 0) / seconds


async def draw(recorder: Recorder) -> None:
    """Draw the live screen until cancelled."""
    from rich.live import Live

    recorder.committer.samples_quotes = True
    first = read(recorder)
    recent = deque([first], maxlen=RATE_DRAWS)  # commits come once a second: a rate over a shorter time would flicker
    with Live(refresh_per_second=4, transient=False) as live:
        while True:
            await asyncio.sleep(DRAW_S)
            now = read(recorder)
            live.update(picture(recorder, rates(recent[0], now)[0], rates(first, now)[1]))
            recent.append(now)


async def log_progress(recorder: Recorder) -> None:
    """Write a log line every `LINE_S` seconds until cancelled."""
    before = read(recorder)
    while True:
        await asyncio.sleep(LINE_S)
        now = read(recorder)
        rows, n_bytes = rates(before, now)
        logger.info(
            "recorded",
            events=sum(now.rows.values()),
            per_second=round(sum(rows.values()), 1),
            last_seq=recorder.committer.run.totals.last_seq if recorder.committer.run else 0,
            lag_ms=lag_ms(recorder),
            outages=recorder.session.line.outages.count,
            disk=str(disk_forecast(recorder.home.events, n_bytes)),
        )
        before = now


def lag_ms(recorder: Recorder) -> int:
    """Real milliseconds since the last commit ended: how much a power cut would lose."""
    return (
        (real_monotonic_ns() - recorder.committer.last_commit_real_ns) // MILLI_NS
        if recorder.committer.last_commit
        else 0
    )


def picture(recorder: Recorder, rows_per_second: dict[str, float], bytes_per_second: float) -> Group:
    """The whole screen as one rich renderable."""
    from rich.console import Group

    if recorder.wait is not None and recorder.wait.why:
        return Group(waiting_text(recorder.wait))
    return Group(_head(recorder, bytes_per_second), _kinds(recorder, rows_per_second), _symbols(recorder))


async def draw_wait(wait: GatewayWait) -> None:
    """Draw the screen of a wait until cancelled."""
    from rich.live import Live

    with Live(refresh_per_second=4, transient=True) as live:
        while True:
            await asyncio.sleep(DRAW_S)
            if wait.why:
                live.update(waiting_text(wait))


def waiting_text(wait: GatewayWait) -> Text:
    """What is waited for, how long it may still take, and why, uncut."""
    from rich.text import Text

    head = f" waiting for the gateway, {of_seconds(wait.left_s)} left\n"
    return Text.assemble(("hv record", "bold"), head, wait.why)


def of_seconds(seconds: float) -> str:
    """A duration as `1:05:09` or `5:09`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _head(recorder: Recorder, bytes_per_second: float) -> Text:
    from rich.text import Text

    run, commit = recorder.committer.run, recorder.committer.last_commit
    name = f"{run.trading_date} {run.writer.run_id}" if run else "connecting"
    where = f"seq {commit.last_seq:,} at {of_day(commit.last_ts)[:8]}" if commit else "nothing committed yet"
    lines = (
        f" {name}  {local(recorder.clock.now())[:19]} New York",
        f"last commit {where}, {lag_ms(recorder)} ms ago, {len(recorder.inbox):,} waiting",
        f"outages {recorder.session.line.outages.count}; disk {disk_forecast(recorder.home.events, bytes_per_second)}",
    )
    apart = (
        ("\n" + clocks_apart(recorder.session.gateway_time.ahead_ns), "red")
        if recorder.session.gateway_time.ahead_ns
        else ""
    )
    outages = recorder.session.line.outages
    down = (f"\nno feed since {of_day(outages.since_ns)[:8]}: {outages.cause}", "red") if outages.under_way else ""
    halted = ", ".join(f"{quote.symbol} ({HALTS[quote.halt]})" for quote in recorder.committer.quotes if quote.halt)
    halts = (f"\nhalted: {halted}", "red") if halted else ""
    return Text.assemble(("hv record", "bold"), "\n".join(lines), apart, down, halts, no_wrap=True, overflow="ellipsis")


def _kinds(recorder: Recorder, rows_per_second: dict[str, float]) -> Columns:
    """Rows and rate of each kind, side by side; a narrow terminal wraps them."""
    from rich.columns import Columns
    from rich.text import Text

    rows = recorder.committer.run.totals.rows if recorder.committer.run else {}
    texts = (f"{kind}\n{count:,}\n{rows_per_second.get(kind, 0.0):,.0f}/s" for kind, count in rows.items())
    return Columns([Text(text, justify="right") for text in texts], padding=(0, 2))


def _symbols(recorder: Recorder) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("symbol", "bid", "ask", "size", *map(str, WANTED)):
        table.add_column(name, justify="right" if name in {"bid", "ask", "size"} else "left", no_wrap=True)
    quotes = {quote.symbol: quote for quote in recorder.committer.quotes}
    covered = coverage(recorder.session.registry, recorder.names())
    if any(state == "-" for streams in covered.values() for state in streams.values()):
        table.caption, table.caption_justify = "- not requested: no line free, or still queued", "left"
    for symbol, streams in covered.items():
        quote = quotes.get(symbol)
        best = (_price(quote.bid), _price(quote.ask), _sizes(quote)) if quote else ("", "", "")
        table.add_row(escape(symbol), *best, *(_word(streams.get(stream, "-")) for stream in WANTED))
    return table


def _price(price: float | None) -> str:
    return "" if price is None else f"{price:.2f}"


def _sizes(quote: Quote) -> str:
    return " / ".join("" if size is None else f"{size:.0f}" for size in (quote.bid_size, quote.ask_size))


def _word(state: str) -> str:
    if state == "granted":
        return "[green]yes[/]"
    return f"[red]{state}[/]" if state.startswith("refused") else state
