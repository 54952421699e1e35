"""`hv record`: record a gateway's market data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import asyncio

    from harvester.clock import Clock
    from harvester.config import Settings
    from harvester.home import Home
    from harvester.recorder.summary import Summary

_GATEWAY, _WHAT, _WHEN, _LOG = "Gateway", "What is recorded", "When", "Log"
_HISTORY, _ARTEFACTS = "History and signals", "Artefacts"


def record(
    *,
    symbols: Annotated[
        str | None,
        typer.Option(help="Symbols, separated by commas; else those of the TOML file.", rich_help_panel=_WHAT),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--gateway-host", "--host", help="Where the gateway listens [127.0.0.1].", rich_help_panel=_GATEWAY
        ),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Its port [7496].", rich_help_panel=_GATEWAY)] = None,
    client_id: Annotated[
        int | None, typer.Option(help="API client id, not 0 [9960].", rich_help_panel=_GATEWAY)
    ] = None,
    account: Annotated[
        str | None,
        typer.Option(
            help="Account; else HARVESTER_IB_ACCOUNT, IBKR_ACCOUNT. Required for a real gateway.",
            rich_help_panel=_GATEWAY,
        ),
    ] = None,
    timeout_seconds: Annotated[
        float | None, typer.Option(help="How long to wait for an answer, real time [90].", rich_help_panel=_GATEWAY)
    ] = None,
    market_data_type: Annotated[
        int | None, typer.Option(help="1 live, 2 frozen, 3 delayed, 4 delayed frozen [1].", rich_help_panel=_GATEWAY)
    ] = None,
    primary_exchange: Annotated[
        str | None, typer.Option(help="Listing exchange that settles between namesakes [NSDQ].", rich_help_panel=_WHAT)
    ] = None,
    depth_rows: Annotated[
        int | None, typer.Option(help="Rows a side of market depth [10].", rich_help_panel=_WHAT)
    ] = None,
    depth_lines: Annotated[int | None, typer.Option(help="Symbols that get depth [3].", rich_help_panel=_WHAT)] = None,
    tick_by_tick_lines: Annotated[
        int | None, typer.Option(help="Tick-by-tick subscriptions at most [5].", rich_help_panel=_WHAT)
    ] = None,
    depth_rotation_minutes: Annotated[
        float | None,
        typer.Option(help="Hand depth lines on by turns so often, 0 = never [15].", rich_help_panel=_WHAT),
    ] = None,
    focus_size: Annotated[
        int | None, typer.Option(help="Symbols that get tick-by-tick data [5].", rich_help_panel=_WHAT)
    ] = None,
    hist_duration: Annotated[
        str | None, typer.Option(help="How far the short history bars go back [1 D].", rich_help_panel=_HISTORY)
    ] = None,
    hist_bar_size: Annotated[
        str | None, typer.Option(help="Size of the short history bars [1 min].", rich_help_panel=_HISTORY)
    ] = None,
    hist_what: Annotated[str | None, typer.Option(help="What they show [TRADES].", rich_help_panel=_HISTORY)] = None,
    skip_historical_backfill: Annotated[
        bool | None,
        typer.Option("--skip-historical-backfill", help="Ask for no history.", rich_help_panel=_HISTORY),
    ] = None,
    require_mtf_alignment: Annotated[
        bool | None,
        typer.Option(
            "--require-mtf-alignment",
            help="Strategies enter only while the symbol's signal points their way.",
            rich_help_panel=_HISTORY,
        ),
    ] = None,
    daily_restart: Annotated[
        str | None,
        typer.Option(
            help="HH:MM (New York) at which your TWS restarts itself: its outage is a planned one.",
            rich_help_panel=_WHEN,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="Stop at this market time: 16:00 (New York), an ISO time with a zone, or never. "
            "Default: the end of extended trading.",
            rich_help_panel=_WHEN,
        ),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(help="Record so much market time: 90s, 15m, 1h30m.", rich_help_panel=_WHEN),
    ] = None,
    clock: Annotated[
        str,
        typer.Option(
            help="Market clock: machine, a gateway.json to follow, or auto (the home's gateway.json, if that gateway "
            "lives and is the one connected to).",
            rich_help_panel=_WHEN,
        ),
    ] = "auto",
    commit_seconds: Annotated[
        float | None, typer.Option(help="Real time between commits [1].", rich_help_panel=_LOG)
    ] = None,
    commit_events: Annotated[
        int | None, typer.Option(help="Events of a commit at most [10000].", rich_help_panel=_LOG)
    ] = None,
    compression: Annotated[
        str | None, typer.Option(help="Of live batches: none or lz4 [none].", rich_help_panel=_LOG)
    ] = None,
    compact: Annotated[
        bool | None, typer.Option("--compact/--no-compact", help="Compact when it ends [on].", rich_help_panel=_LOG)
    ] = None,
    digest_seconds: Annotated[
        float | None, typer.Option(help="Real time between live digests [60].", rich_help_panel=_LOG)
    ] = None,
    episode_epoch_ms: Annotated[
        bool | None,
        typer.Option(
            "--episode-epoch-ms/--no-episode-epoch-ms",
            help="Times of episodes as Unix milliseconds; else HARVESTER_EPISODE_EPOCH_MS [off].",
            rich_help_panel=_ARTEFACTS,
        ),
    ] = None,
    episode_series_jsonl: Annotated[
        bool | None,
        typer.Option(
            "--episode-series-jsonl/--no-episode-series-jsonl",
            help="A file of seconds beside each episode; else HARVESTER_EPISODE_SERIES_JSONL [off].",
            rich_help_panel=_ARTEFACTS,
        ),
    ] = None,
    reopen: Annotated[
        bool, typer.Option("--reopen", help="Go on with a date `hv eod` has closed.", rich_help_panel=_LOG)
    ] = False,
    home: Annotated[Path | None, typer.Option("--home", help="Data root; else HV_HOME, else this folder.")] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Read settings from this TOML file; keys are the option names."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Record everything a gateway says about some symbols, until the session's end.

    The last commit is whole however the recording ends; Ctrl-C and SIGTERM end it in order. No order is ever sent.

    Example: hv record --symbols AAPL,MSFT --account DU1234567 --port 7497
    """
    import asyncio
    import os

    _end_early_at_sigterm()
    from harvester.config import Settings
    from harvester.home import Home

    flags = {
        "gateway_host": host,
        "port": port,
        "client_id": client_id,
        "account": account,
        "timeout_seconds": timeout_seconds,
        "market_data_type": market_data_type,
        "primary_exchange": primary_exchange,
        "depth_rows": depth_rows,
        "depth_lines": depth_lines,
        "depth_rotation_minutes": depth_rotation_minutes,
        "tick_by_tick_lines": tick_by_tick_lines,
        "focus_size": focus_size,
        "hist_duration": hist_duration,
        "hist_bar_size": hist_bar_size,
        "hist_what": hist_what,
        "skip_historical_backfill": skip_historical_backfill,
        "require_mtf_alignment": require_mtf_alignment,
        "daily_restart": daily_restart,
        "commit_seconds": commit_seconds,
        "commit_events": commit_events,
        "compression": compression,
        "compact": compact,
        "digest_seconds": digest_seconds,
        "episode_epoch_ms": episode_epoch_ms,
        "episode_series_jsonl": episode_series_jsonl,
        "symbols": None if symbols is None else [word.strip(" ") for word in symbols.split(",") if word.strip(" ")],
    }
    settings = Settings.load(flags, env=os.environ, file=config)
    summary = asyncio.run(_record(settings, Home.find(home), clock, until, duration, reopen=reopen))
    _show(summary, as_json=as_json)


def _end_early_at_sigterm() -> None:
    """Until the recording listens for signals itself, SIGTERM says that nothing was recorded; SIGINT does so anyway."""
    import signal
    from contextlib import suppress

    from harvester.errors import GatewayError

    def end(*_: object) -> None:
        typer.echo("hv: SIGTERM: stopped before the gateway was asked; nothing was recorded", err=True)
        raise SystemExit(GatewayError.exit_code)

    with suppress(ValueError):  # not the main thread: signals are somebody else's
        signal.signal(signal.SIGTERM, end)


async def _record(
    settings: Settings, home: Home, clock_choice: str, until: str | None, duration: str | None, *, reopen: bool
) -> Summary:
    import asyncio

    from cli.logs import to_stderr
    from harvester.recorder.checks import check_settings, find_clock, with_symbols
    from harvester.recorder.record import record as run
    from harvester.recorder.until import closed_until, end_of_recording, parse_duration, stop_on_signals

    to_stderr()
    settings = with_symbols(settings, home)
    check_settings(settings, home)
    clock: Clock = find_clock(clock_choice, settings, home)
    duration_ns = None if duration is None else parse_duration(duration)
    until_ns = None if duration and until is None else end_of_recording(until, clock.now(), settings)
    if opens := closed_until(clock.now(), settings):
        typer.echo(f"the market is closed until {opens}; what is sent is recorded all the same", err=True)
    stop, screens = asyncio.Event(), []

    def watch(recorder: Any) -> None:
        screens.append(asyncio.ensure_future(_watch(recorder)))

    with stop_on_signals(stop, _said, last_act=True):
        try:
            return await run(
                settings,
                home,
                clock,
                stop=stop,
                until_ns=until_ns,
                duration_ns=duration_ns,
                reopen=reopen,
                watch=watch,
            )
        finally:
            await _end(screens)


def _said(name: str) -> None:
    import sys

    # Through whatever stderr is now: past a live screen's own, the line would push its headline out of reach.
    sys.stderr.write(f"hv: {name}: ending with a whole last commit\n")


async def _watch(recorder: Any) -> None:
    import sys

    from harvester.recorder.screen import draw, log_progress

    await (draw(recorder) if sys.stdout.isatty() else log_progress(recorder))


async def _end(screens: list[asyncio.Task[None]]) -> None:
    import asyncio

    for screen in screens:
        screen.cancel()
    await asyncio.gather(*screens, return_exceptions=True)


def _show(summary: Summary, *, as_json: bool) -> None:
    import json

    from harvester.recorder.summary import describe

    if not as_json:
        typer.echo(describe(summary))
        return
    runs = [
        {
            "trading_date": run.trading_date.isoformat(),
            "run": run.run_id,
            "last_seq": run.totals.last_seq,
            "commits": run.totals.commits,
            "rows": dict(sorted(run.totals.rows.items())),
            "content_hash": run.content_hash,
        }
        for run in summary.runs
    ]
    typer.echo(
        json.dumps({"reason": summary.reason, "outages": summary.outages, "coverage": summary.coverage, "runs": runs})
    )
