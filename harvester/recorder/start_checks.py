"""Checks of settings, clock, date and gateway, most of them before anything is connected."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from harvester.calendar import check_exchange, iso
from harvester.clock import FileClock, MachineClock, clocks_apart
from harvester.errors import BadSetting, CannotRun, NoLog
from harvester.eventlog.runs_of_day import read_runs
from harvester.files import json_value
from harvester.home import file_name
from harvester.memory.strategy_files import load_all
from harvester.projections.trading.costs import cost_table
from harvester.recorder.contracts import WantedContract
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from harvester.clock import Clock
    from harvester.config import Settings
    from harvester.home import Home
    from harvester.memory.strategy_files import LoadedStrategy

REAL_PORTS = frozenset({7496, 7497, 4001, 4002})
"""Default ports of TWS and IB Gateway, live and paper."""

BEHIND_S_MAX = 300
"""Largest tolerated step back of a clock; until it has caught up, events get the log's last stamp."""

_SYMBOL_LENGTH_MAX = 40


def check_settings(settings: Settings, home: Home) -> None:
    """Refuse settings that cannot work.

    Raises:
        BadSetting: client id 0, no symbol, a symbol that fits no message or file name, an unknown exchange calendar,
            strategy or cost table, no account on the port of a real gateway.
    """
    if not settings.symbols:
        raise BadSetting(
            f"no symbols given, and no `hv gateway` on port {settings.port} runs with {home.root} as its --home to "
            f"take them from; use for example --symbols AAPL,MSFT{other_port_hint(settings, home)}"
        )
    check_values(settings)
    if settings.port in REAL_PORTS and not settings.account and simulated_gateway(settings, home) is None:
        raise BadSetting(
            f"no account given for port {settings.port}, a port of TWS or IB Gateway: use --account, or set "
            "HARVESTER_IB_ACCOUNT or IBKR_ACCOUNT. If `hv gateway` runs there, use its --home: it has no "
            f"gateway.json in {home.root}{other_port_hint(settings, home)}"
        )


def check_values(settings: Settings) -> None:
    """Refuse settings that no gateway makes valid, see `check_settings`."""
    if settings.client_id == 0:
        raise BadSetting("client id 0 is refused: it binds to orders placed by hand; use another, such as 9960")
    for symbol in settings.symbols:
        check_symbol(WantedContract.of(symbol).symbol)
    check_exchange(settings.exchange_calendar)
    cost_table(settings.cost_table)
    if not own_strategies(settings):
        shipped_strategies(settings)


def own_strategies(settings: Settings) -> bool:
    """Whether a strategy is a user's: it is loaded and run by another process."""
    return any(":" in one or one.endswith(".py") for one in settings.strategies)


def shipped_strategies(settings: Settings) -> list[LoadedStrategy]:
    """The strategies of settings that name shipped ones alone.

    Raises:
        BadSetting: unknown strategy, parameter or value.
    """
    return load_all(settings.strategies, settings.strategy_tables, settings.strategy_values)


def with_symbols(settings: Settings, home: Home) -> Settings:
    """The settings; if they have no symbols, with those of the simulated gateway they connect to."""
    if settings.symbols:
        return settings
    facts = simulated_gateway(settings, home) or {}
    served = tuple(name for name in facts.get("symbols") or () if isinstance(name, str))
    origins = settings.origins | {"symbols": f"file {home.gateway_file}"}
    return msgspec.structs.replace(settings, symbols=served, origins=origins) if served else settings


def check_symbol(symbol: str) -> None:
    """A symbol must be printable, without surrounding space, and fit a file name once encoded.

    Path characters, inner spaces and non-ASCII letters are legal (file names encode them); the gateway decides whether
    such a symbol exists.

    Raises:
        BadSetting: the symbol breaks one of these rules.
    """
    if not symbol or len(symbol) > _SYMBOL_LENGTH_MAX:
        raise BadSetting(f"symbol {symbol[:_SYMBOL_LENGTH_MAX]!r} has {len(symbol)} characters; 1 to 40 are allowed")
    if not symbol.isprintable() or symbol != symbol.strip():
        raise BadSetting(f"symbol {symbol!r} has a control character or surrounding space; correct --symbols")
    file_name(symbol)


def check_day(settings: Settings, home: Home, clock: Clock, trading_date: date) -> None:
    """Refuse to append to a date's log what does not continue it, or to begin a date of nothing. Reads only.

    Raises:
        CannotRun: the gateway replays this very log, its market has ended, or market time is far behind the log's last
            event.
    """
    followed = clock.path if isinstance(clock, FileClock) else home.gateway_file
    for file in dict.fromkeys((followed, home.gateway_file)):
        facts = running_gateway(file) or {}
        if (facts.get("port"), facts.get("state")) == (settings.port, "ended"):
            raise CannotRun(
                f"the market of the simulated gateway at {settings.gateway_host}:{settings.port} has ended: it sends "
                f"nothing more, and {trading_date} would be a date without data; start hv gateway again"
            )
        if (facts.get("port"), facts.get("log")) == (settings.port, str(home.on(trading_date).log)):
            raise CannotRun(
                f"the gateway at {settings.gateway_host}:{settings.port} replays {trading_date} from the log under "
                f"{home.root}; recording it there would append the day to itself; "
                f"record it elsewhere: --home ANOTHER --clock {file}"
            )
    try:
        runs = read_runs(home.on(trading_date))
    except NoLog:
        return
    last, now = max((run.commits[-1].last_ts for run in runs if run.commits), default=0), clock.now()
    if last - now > BEHIND_S_MAX * SECOND_NS:
        raise CannotRun(
            f"market time is {iso(now)[:19]}Z, but the log of {trading_date} reaches to {iso(last)[:19]}Z, "
            f"{(last - now) // SECOND_NS:,} s later; correct the clock, or record into another --home"
        )


def check_gateway_clock(ahead_ns: int, trading_date: date) -> None:
    """Refuse a gateway whose clock is `ahead_ns` ahead of this machine's, which stamps the events.

    Raises:
        CannotRun: the difference is more than `BEHIND_S_MAX`: times would be wrong, perhaps the date.
    """
    if abs(ahead_ns) > BEHIND_S_MAX * SECOND_NS:
        raise CannotRun(
            f"{clocks_apart(ahead_ns)}, which would stamp the events and record them under {trading_date}: correct "
            "this machine's clock; for a simulated gateway use its --home, or --clock PATH/gateway.json; --clock "
            "machine records it all the same"
        )


def check_clock(clock: Clock) -> None:
    """Refuse to continue when a simulated gateway has restarted at an earlier market time.

    Raises:
        CannotRun: market time is far behind the last stamp: every further event would get that same stamp.
    """
    if isinstance(clock, FileClock) and clock.behind_ns > BEHIND_S_MAX * SECOND_NS:
        now = clock.now()
        raise CannotRun(
            f"the gateway's market time went back from {iso(now)[:19]}Z to {iso(now - clock.behind_ns)[:19]}Z: it has "
            "restarted; the recording up to here is complete; record the restarted gateway into another --home"
        )


def simulated_gateway(settings: Settings, home: Home) -> dict[str, Any] | None:
    """`gateway.json` of the home, if its gateway is alive and the settings connect to it; else None."""
    facts = running_gateway(home.gateway_file)
    return facts if facts is not None and facts["port"] == settings.port else None


def other_port_hint(settings: Settings, home: Home) -> str:
    """A hint for the end of an error: the home's own gateway listens on another port. Else empty.

    Only a hint: a user who connects to TWS must never record a simulated market by accident.
    """
    facts = running_gateway(home.gateway_file)
    if facts is None or facts["port"] == settings.port:
        return ""
    return f"; the `hv gateway` of {home.root} listens on another port: --port {facts['port']}"


def running_gateway(file: Path) -> dict[str, Any] | None:
    """A `gateway.json`, if it is readable and its gateway is alive; else None."""
    try:
        facts = json_value(file.read_bytes(), dict[str, Any])
        facts["port"], pid = int(facts["port"]), int(facts["pid"])
    except (OSError, msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return None
    return facts if _is_running(pid) else None


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return True
    if os.name == "nt":
        return _is_running_on_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # a process of another user
    return True


def _is_running_on_windows(pid: int) -> bool:
    """Signal 0 would end the process on Windows; opening a handle does not."""
    import ctypes

    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
    handle = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
    if not handle:
        return False
    code = ctypes.c_ulong()
    kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.CloseHandle(handle)
    return code.value == 259  # STILL_ACTIVE


def find_clock(choice: str, settings: Settings, home: Home) -> Clock:
    """The clock of `--clock`: `machine`, a `gateway.json` to follow, or `auto`.

    `auto` follows `gateway.json` of the home if its gateway is alive and the settings connect to it.

    Raises:
        CannotRun: the file is not a market clock.
    """
    if choice == "machine":
        return MachineClock()
    path = home.gateway_file
    if choice == "auto":
        if simulated_gateway(settings, home) is None:
            return MachineClock()
    else:
        path = type(path)(choice)
    try:
        return FileClock(path)
    except (OSError, msgspec.MsgspecError) as error:
        raise CannotRun(f"--clock {path} is not the market clock of a simulated gateway: {error}") from None
