"""`hv gateway`: a simulated Interactive Brokers gateway on a TCP port."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import HomeOption, JsonOption, ModelDateOption, SymbolsOption, words_of

if TYPE_CHECKING:
    from harvester.home import Home
    from harvester.simgateway.gateway_settings import GatewaySettings
    from harvester.simgateway.markets.market_source import MarketSource
    from harvester.simgateway.server import SimGateway

MarketOption = Annotated[str, typer.Option("--market", help="Choose the market: model, tape or day.")]
What = Annotated[
    list[str] | None,
    typer.Argument(help="tape: folders, one per symbol and date. day: a recorded trading date, yyyy-MM-dd."),
]
Port = Annotated[
    int, typer.Option(help="Listen on this TCP port (`hv record` uses 7496 by default); 0 = any free port.")
]
Speed = Annotated[
    str, typer.Option(help="Set the speed: 1 = real time, 60 = a minute per second, or max (as fast as clients read).")
]
Start = Annotated[
    str | None, typer.Option(help="Start the market at 9:30 (New York), +1:00:00 (after its start), or an ISO time.")
]
End = Annotated[str | None, typer.Option(help="End the market at this time, same format as --start.")]
Limit = typer.Option(help="Set this limit; 0 = no limit.", rich_help_panel="Limits")


def gateway(
    what: What = None,
    *,
    market: MarketOption = "model",
    host: Annotated[str, typer.Option(help="Listen on this address.")] = "127.0.0.1",
    port: Port = 7496,
    speed: Speed = "1",
    start: Start = None,
    end: End = None,
    symbols: SymbolsOption = None,
    date: ModelDateOption = None,
    rate: Annotated[int | None, typer.Option(help="Set the orders per symbol and day of a model.")] = None,
    sample_ms: Annotated[int | None, typer.Option(help="Sample L1 every N ms (model, tape); 0 = send all.")] = None,
    seed: Annotated[int, typer.Option(help="Set the random seed of the model and of fault scripts.")] = 1,
    account: Annotated[str, typer.Option(help="Report these accounts, separated by commas.")] = "DU1234567",
    server_version: Annotated[int, typer.Option(help="Report this TWS server version, 176 to 178.")] = 178,
    market_data_type: Annotated[
        int, typer.Option(help="Set the data type: 1 live, 2 frozen, 3 delayed, 4 delayed frozen.")
    ] = 1,
    faults: Annotated[Path | None, typer.Option(help="Play this fault script; see docs/gateway.md.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a JSON report of what was sent to this file on exit.")
    ] = None,
    grace: Annotated[float, typer.Option(help="Start market time after N seconds without a new request.")] = 1.5,
    once: Annotated[bool, typer.Option("--once", help="Exit when the day is over and no client is connected.")] = False,
    depth_lines: Annotated[int, Limit] = 3,
    tick_by_tick_lines: Annotated[int, Limit] = 5,
    tick_by_tick_spacing: Annotated[float, Limit] = 0.0,
    market_data_lines: Annotated[int, Limit] = 100,
    scanner_lines: Annotated[int, Limit] = 10,
    historical_per_10_minutes: Annotated[int, Limit] = 60,
    historical_identical_seconds: Annotated[float, Limit] = 15.0,
    historical_per_contract_2_seconds: Annotated[int, Limit] = 6,
    messages_per_second: Annotated[int, Limit] = 50,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve a market day to any IB client: TWS protocol on a TCP port, no account, no orders.

    Market time starts when the first client subscribes. `hv record` reads the market clock from `gateway.json` in the
    data root. Orders are refused with error 201. SIGINT or SIGTERM ends the gateway; it then prints a report of what it
    sent.

    --symbols, --date and --rate describe a model; a day takes its date as an argument or with --date.

    Example: hv gateway --market tape tapes/IBM-2013-10-08 --speed 100
    """
    import asyncio

    from harvester.files import must_take_file
    from harvester.home import Home, parse_date
    from harvester.simgateway.fault_script import FaultScript
    from harvester.simgateway.gateway_settings import GatewaySettings
    from harvester.simgateway.limits import Limits
    from harvester.simgateway.server import SimGateway

    root = Home.find(home)
    if report is not None:
        must_take_file(report.resolve())  # check now, not after the day has been played
    given = {"symbols": symbols, "trading_date": date, "rate": rate, "sample_ms": sample_ms}
    words = list(what or [])
    source = _open(market, words, root, seed, {k: v for k, v in given.items() if v is not None})
    limits = Limits(
        depth_lines=depth_lines,
        tick_by_tick_lines=tick_by_tick_lines,
        tick_by_tick_spacing_s=tick_by_tick_spacing,
        market_data_lines=market_data_lines,
        scanner_lines=scanner_lines,
        historical_per_10_minutes=historical_per_10_minutes,
        historical_identical_s=historical_identical_seconds,
        historical_per_contract_2_s=historical_per_contract_2_seconds,
        messages_per_s=messages_per_second,
    )
    settings = GatewaySettings(
        host=host,
        port=port,
        server_version=server_version,
        accounts=tuple(account.split(",")),
        market_data_type=market_data_type,
        speed=_speed(speed),
        grace_s=grace,
        start_ns=_market_time("--start", start, source.start_ns),
        end_ns=_market_time("--end", end, source.start_ns),
        limits=limits,
        faults=FaultScript.read(faults) if faults else FaultScript(),
        seed=seed,
        gateway_file=root.gateway_file,
        report_file=report,
        source=" ".join([market, *words]),
        log=root.on(parse_date(words[0])).log if market == "day" else None,
    )
    asyncio.run(_serve(SimGateway(source, settings), settings, once=once, as_json=as_json))


def _open(market: str, what: list[str], root: Home, seed: int, given: dict[str, Any]) -> MarketSource:
    from harvester.errors import BadSetting
    from harvester.simgateway.markets.open_market import open_market

    if market == "model":
        if what:
            raise BadSetting(
                f"--market model takes no folder or date, got {what[0]!r}; for a tape use --market tape {what[0]}"
            )
        if "symbols" in given:
            given["symbols"] = tuple(words_of(given["symbols"]))
        return open_market("model", seed=seed, **given)
    if market == "day":  # the date may also be given with --date
        what += [given.pop("trading_date")] if "trading_date" in given else []
    foreign = [f"--{name.replace('trading_', '')}" for name in given if name != "sample_ms" or market == "day"]
    if foreign:
        raise BadSetting(f"{', '.join(foreign)} is valid with --market model only, not with {market}; leave it out")
    if market == "day":
        if len(what) != 1:
            raise BadSetting("give one recorded trading date: hv gateway --market day 2025-07-17 --home FOLDER")
        return open_market("day", [root.root], trading_date=what[0])
    return open_market(market, [Path(folder) for folder in what], **given)


def _speed(text: str) -> float:
    from harvester.errors import BadSetting

    if text.lower() == "max":
        return 0.0
    try:
        speed = float(text)
    except ValueError:
        speed = -1.0
    if not 0 < speed < 1e9:
        raise BadSetting(f"--speed {text!r} is not a speed; give max or a number above 0, such as 1 or 100")
    return speed


def _market_time(option: str, text: str | None, start_ns: int) -> int | None:
    """Read `--start` or `--end` as ns UTC: `+` and a duration since `start_ns`, or a time as every command reads it."""
    from harvester.calendar import trading_date
    from harvester.errors import BadSetting
    from harvester.eventlog.typed_times import moment
    from harvester.simgateway.ib_time_text import market_time

    if text is None:
        return None
    try:
        return market_time(text, start_ns) if text.startswith("+") else moment(text, trading_date(start_ns))
    except (BadSetting, ValueError) as error:
        raise BadSetting(f"{option}: {error}") from None


async def _serve(gateway: SimGateway, settings: GatewaySettings, *, once: bool, as_json: bool) -> None:
    import json

    from cli.logging_setup import to_stderr

    to_stderr()  # standard output is for results; connections are logged on stderr
    port = await gateway.start()
    if as_json:
        typer.echo(json.dumps({"host": settings.host, "port": port, "source": settings.source}))
    else:
        pace = f"at speed {settings.speed:g}" if settings.speed else "as fast as possible"
        names = [i.symbol for i in gateway.market.instruments]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        typer.echo(f"gateway on {settings.host} port {port}: {settings.source} ({shown}), {pace}; Ctrl-C ends it")
    try:
        await _until_ended(gateway, once=once)
    finally:
        report = await gateway.stop()
        typer.echo(json.dumps(report) if as_json else _summary(report))


async def _until_ended(gateway: SimGateway, *, once: bool) -> None:
    """Return at SIGINT or SIGTERM; with `once` also when the day is over and no client is connected."""
    import asyncio
    import contextlib
    import signal

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C cancels the loop's main task instead
            loop.add_signal_handler(name, stopped.set)
    waiting = [asyncio.create_task(stopped.wait()), asyncio.create_task(gateway.run(forever=not once))]
    try:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    except asyncio.CancelledError:
        pass
    finally:
        for task in waiting:
            task.cancel()


def _summary(report: dict[str, Any]) -> str:
    rows = {kind: sum(entry["rows"] for entry in symbols.values()) for kind, symbols in report["sent"].items()}
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in rows.items()) or "nothing"
    over = "the day is over" if report["market_over"] else "the day was not over"
    return (
        f"sent {report['messages']:,} messages, {report['bytes']:,} bytes ({kinds}); "
        f"{report['orders_refused']} orders refused; {over}"
    )
