"""`hv record`: record a gateway's market data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import HomeOption, JsonOption, SymbolsOption, words_of

if TYPE_CHECKING:
    import asyncio

    from harvester.clock import Clock
    from harvester.config import Settings
    from harvester.home import Home
    from harvester.recorder.gateway_wait import GatewayWait
    from harvester.recorder.summary import RecordingSummary

_GATEWAY, _WHAT, _WHEN, _LOG = "Gateway", "Data", "Time", "Log"
_HISTORY, _ARTEFACTS = "History and signals", "Artefacts"


def record(
    *,
    symbols: SymbolsOption = None,
    host: Annotated[
        str | None,
        typer.Option("--gateway-host", "--host", help="Connect to this host [127.0.0.1].", rich_help_panel=_GATEWAY),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Connect to this port [7496].", rich_help_panel=_GATEWAY)] = None,
    client_id: Annotated[
        int | None, typer.Option(help="Set the API client id, not 0 [9960].", rich_help_panel=_GATEWAY)
    ] = None,
    account: Annotated[
        str | None,
        typer.Option(
            help="Expect this account (default: HARVESTER_IB_ACCOUNT, IBKR_ACCOUNT). Required for a real gateway.",
            rich_help_panel=_GATEWAY,
        ),
    ] = None,
    timeout_seconds: Annotated[
        float | None, typer.Option(help="Wait N seconds of real time for an answer [90].", rich_help_panel=_GATEWAY)
    ] = None,
    market_data_type: Annotated[
        int | None,
        typer.Option(
            help="Request data type 1 live, 2 frozen, 3 delayed, 4 delayed frozen [1].", rich_help_panel=_GATEWAY
        ),
    ] = None,
    primary_exchange: Annotated[
        str | None,
        typer.Option(
            help="Prefer this listing exchange if a symbol has several contracts [NSDQ].", rich_help_panel=_WHAT
        ),
    ] = None,
    depth_rows: Annotated[
        int | None, typer.Option(help="Request N rows of market depth per side [10].", rich_help_panel=_WHAT)
    ] = None,
    depth_lines: Annotated[
        int | None, typer.Option(help="Request depth for N symbols at a time [3].", rich_help_panel=_WHAT)
    ] = None,
    tick_by_tick_lines: Annotated[
        int | None, typer.Option(help="Use at most N tick-by-tick subscriptions [5].", rich_help_panel=_WHAT)
    ] = None,
    depth_rotation_minutes: Annotated[
        float | None,
        typer.Option(help="Rotate depth lines every N minutes, 0 = never [15].", rich_help_panel=_WHAT),
    ] = None,
    focus_size: Annotated[
        int | None, typer.Option(help="Request tick-by-tick data for N symbols [5].", rich_help_panel=_WHAT)
    ] = None,
    hist_duration: Annotated[
        str | None, typer.Option(help="Request short history bars this far back [1 D].", rich_help_panel=_HISTORY)
    ] = None,
    hist_bar_size: Annotated[
        str | None, typer.Option(help="Request short history bars of this size [1 min].", rich_help_panel=_HISTORY)
    ] = None,
    hist_what: Annotated[
        str | None, typer.Option(help="Request this data in short history bars [TRADES].", rich_help_panel=_HISTORY)
    ] = None,
    skip_historical_backfill: Annotated[
        bool | None,
        typer.Option("--skip-historical-backfill", help="Skip history requests.", rich_help_panel=_HISTORY),
    ] = None,
    require_mtf_alignment: Annotated[
        bool | None,
        typer.Option(
            "--require-mtf-alignment",
            help="Enter trades only in the direction of the symbol's signal.",
            rich_help_panel=_HISTORY,
        ),
    ] = None,
    daily_restart: Annotated[
        str | None,
        typer.Option(
            help="Treat the outage at this time, HH:MM (New York), as the planned restart of TWS.",
            rich_help_panel=_WHEN,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="Stop at this market time: 16:00 (New York), an ISO time with an offset, or never "
            "(default: the end of extended trading).",
            rich_help_panel=_WHEN,
        ),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(help="Stop after this much market time: 90s, 15m, 1h30m.", rich_help_panel=_WHEN),
    ] = None,
    wait: Annotated[
        str | None,
        typer.Option(
            help="Keep trying for this much real time while the gateway refuses, resets or closes the first "
            "connection: 10m [0s].",
            rich_help_panel=_WHEN,
        ),
    ] = None,
    clock: Annotated[
        str,
        typer.Option(
            help="Set the market clock: machine, the path of a gateway.json to follow, or auto (the data root's "
            "gateway.json, if that gateway is running and is the one connected to). Unless machine is given, a gateway "
            "more than five minutes away from it is refused.",
            rich_help_panel=_WHEN,
        ),
    ] = "auto",
    commit_seconds: Annotated[
        float | None, typer.Option(help="Commit every N seconds of real time [1].", rich_help_panel=_LOG)
    ] = None,
    commit_events: Annotated[
        int | None, typer.Option(help="Commit after at most N events [10000].", rich_help_panel=_LOG)
    ] = None,
    compression: Annotated[
        str | None, typer.Option(help="Compress live batches: none or lz4 [none].", rich_help_panel=_LOG)
    ] = None,
    compact: Annotated[
        bool | None,
        typer.Option(
            "--compact/--no-compact", help="Compact the log when the recording ends [on].", rich_help_panel=_LOG
        ),
    ] = None,
    digest_seconds: Annotated[
        float | None, typer.Option(help="Write live digests every N seconds of real time [60].", rich_help_panel=_LOG)
    ] = None,
    episode_epoch_ms: Annotated[
        bool | None,
        typer.Option(
            "--episode-epoch-ms/--no-episode-epoch-ms",
            help="Write episode times as Unix milliseconds (default: HARVESTER_EPISODE_EPOCH_MS, else off).",
            rich_help_panel=_ARTEFACTS,
        ),
    ] = None,
    episode_series_jsonl: Annotated[
        bool | None,
        typer.Option(
            "--episode-series-jsonl/--no-episode-series-jsonl",
            help="Write a file of seconds beside each episode (default: HARVESTER_EPISODE_SERIES_JSONL, else off).",
            rich_help_panel=_ARTEFACTS,
        ),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy",
            help="Trade by FILE.py:CLASS, MODULE:CLASS or a shipped strategy, see `hv strategy list`; repeatable "
            "(default: imbalance_breakout).",
            rich_help_panel=_ARTEFACTS,
        ),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Set a parameter of the strategy: NAME=VALUE or STRATEGY.NAME=VALUE; repeatable.",
            rich_help_panel=_ARTEFACTS,
        ),
    ] = None,
    reopen: Annotated[
        bool, typer.Option("--reopen", help="Continue a date that `hv eod` has closed.", rich_help_panel=_LOG)
    ] = False,
    home: HomeOption = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Read settings from this TOML file; keys are the option names, [strategy.NAME] has parameters.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Record everything a gateway sends about some US stocks, until the session ends.

    Only stocks in US dollars are recorded for now: no futures, options, currencies or other markets. Symbols match in
    upper or lower case; a class of shares has a space ('BRK B'). Give a symbol with several contracts its listing
    exchange or its con_id: BAC@NYSE, BAC@10098.

    Ctrl-C and SIGTERM end the recording cleanly; the last commit is complete after any end. No order is ever sent.

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
        "strategy": tuple(strategy) if strategy else None,
        "strategy_values": tuple(values) if values else None,
        "symbols": None if symbols is None else words_of(symbols),
    }
    settings = Settings.load(flags, env=os.environ, file=config)
    summary = asyncio.run(_record(settings, Home.find(home), clock, until, duration, reopen=reopen, wait=wait))
    _show(summary, as_json=as_json)


def _end_early_at_sigterm() -> None:
    """Before the recording handles signals itself, exit at SIGTERM with a line that nothing was recorded."""
    import signal
    from contextlib import suppress

    from harvester.errors import GatewayError

    def end(*_: object) -> None:
        typer.echo("hv: SIGTERM: stopped before connecting; nothing was recorded", err=True)
        raise SystemExit(GatewayError.exit_code)

    with suppress(ValueError):  # not the main thread, which alone may set handlers
        signal.signal(signal.SIGTERM, end)


async def _record(
    settings: Settings,
    home: Home,
    clock_choice: str,
    until: str | None,
    duration: str | None,
    *,
    reopen: bool,
    wait: str | None,
) -> RecordingSummary:
    import asyncio

    from cli.logging_setup import to_stderr
    from harvester.recorder.gateway_wait import GatewayWait
    from harvester.recorder.record import record as run
    from harvester.recorder.start_checks import check_settings, check_values, find_clock, with_symbols
    from harvester.recorder.stopping import (
        closed_until,
        end_of_recording,
        parse_duration,
        stop_on_signals,
        unless_stopped,
    )

    to_stderr()
    duration_ns = None if duration is None else parse_duration(duration)
    waiting = None if wait is None else GatewayWait(settings, home, parse_duration(wait, "--wait"))
    stop, screens = asyncio.Event(), []

    def watch(recorder: Any) -> None:
        screens.append(asyncio.ensure_future(_watch(recorder)))

    with stop_on_signals(stop, _print_signal, last_act=True):
        try:
            check_values(settings)
            if waiting is not None:
                await unless_stopped(_wait(waiting), stop, settings)
            # A simulated gateway decides all of these: they are chosen once it answers.
            settings = with_symbols(settings, home)
            check_settings(settings, home)
            clock: Clock = find_clock(clock_choice, settings, home)
            until_ns = None if duration and until is None else end_of_recording(until, clock.now(), settings)
            if opens := closed_until(clock.now(), settings):
                typer.echo(f"the market is closed until {opens}; what the gateway sends is recorded anyway", err=True)
            return await run(
                settings,
                home,
                clock,
                stop=stop,
                until_ns=until_ns,
                duration_ns=duration_ns,
                reopen=reopen,
                wait_ns=0 if waiting is None else waiting.left_ns,
                clock_must_agree=clock_choice != "machine",
                watch=watch,
            )
        finally:
            await _cancel(screens)


async def _wait(waiting: GatewayWait) -> None:
    """Wait for an answer of the gateway, shown on a terminal."""
    import asyncio
    import sys

    from harvester.recorder.live_screen import draw_wait

    screens = [asyncio.ensure_future(draw_wait(waiting))] if sys.stdout.isatty() else []
    try:
        await waiting.until_answer()
    finally:
        await _cancel(screens)


def _print_signal(name: str) -> None:
    import sys

    # Through the present sys.stderr: a live screen replaces it, and a line past it would displace the screen.
    sys.stderr.write(f"hv: {name}: writing the last commit, then stopping\n")


async def _watch(recorder: Any) -> None:
    import sys

    from harvester.recorder.live_screen import draw, log_progress

    await (draw(recorder) if sys.stdout.isatty() else log_progress(recorder))


async def _cancel(screens: list[asyncio.Task[None]]) -> None:
    import asyncio

    for screen in screens:
        screen.cancel()
    await asyncio.gather(*screens, return_exceptions=True)


def _show(summary: RecordingSummary, *, as_json: bool) -> None:
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
        json.dumps(
            {
                "reason": summary.reason,
                "outages": summary.outages,
                "coverage": summary.coverage,
                "runs": runs,
                "strategies": summary.notes,
            }
        )
    )
