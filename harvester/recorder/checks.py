"""What can be seen to be wrong before anything is connected."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from harvester.calendar import check_exchange, iso
from harvester.clock import FileClock, MachineClock
from harvester.errors import BadSetting, CannotRun, NoLog
from harvester.eventlog.days import read_runs
from harvester.home import file_name
from harvester.projections.costs import cost_table
from harvester.projections.strategies import describe
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from harvester.clock import Clock
    from harvester.config import Settings
    from harvester.home import Home

REAL_PORTS = frozenset({7496, 7497, 4001, 4002})
"""Default ports of TWS and IB Gateway, live and paper."""

BEHIND_S_MAX = 300
"""A clock set right by a little may be recorded with: until it has caught up, events bear the log's last stamp."""

_SYMBOL_LENGTH_MAX = 40

logger = structlog.get_logger()


def check_settings(settings: Settings, home: Home) -> None:
    """Refuse what cannot work.

    Raises:
        BadSetting: client id 0, no symbol, a symbol the wire or a file name cannot carry, an exchange calendar, a
            strategy or a cost table that does not exist, no account on a real port.
    """
    if settings.client_id == 0:
        raise BadSetting("client id 0 is refused: it binds to orders placed by hand; use another, such as 9960")
    if not settings.symbols:
        raise BadSetting(f"no symbol is given; name some, for example --symbols AAPL,MSFT{elsewhere(settings, home)}")
    for symbol in settings.symbols:
        check_symbol(symbol)
    check_exchange(settings.exchange_calendar)
    cost_table(settings.cost_table)
    if settings.strategy:
        describe(settings.strategy)
    if settings.port in REAL_PORTS and not settings.account and simulated_gateway(settings, home) is None:
        raise BadSetting(
            f"port {settings.port} is a real gateway's and no account is given; "
            f"use --account, or set HARVESTER_IB_ACCOUNT or IBKR_ACCOUNT{elsewhere(settings, home)}"
        )


def with_symbols(settings: Settings, home: Home) -> Settings:
    """Without symbols, those of the simulated gateway that is connected to; else the settings as they are."""
    if settings.symbols:
        return settings
    facts = simulated_gateway(settings, home) or {}
    served = tuple(name for name in facts.get("symbols") or () if isinstance(name, str))
    origins = settings.origins | {"symbols": f"file {home.gateway_file}"}
    return msgspec.structs.replace(settings, symbols=served, origins=origins) if served else settings


def say_unused(settings: Settings) -> None:
    """Say once which of the settings given have no effect, so that nobody relies on them."""
    if names := settings.without_effect():
        logger.warning("settings without effect yet: the intraday cycle is not built", names=", ".join(names))


def check_symbol(symbol: str) -> None:
    """A symbol must be printable, without surrounding space, and fit a file name once encoded.

    Path characters, inner spaces and letters beyond ASCII are legal (file names encode them); whether such a symbol
    exists is the gateway's to say.

    Raises:
        BadSetting: it is not.
    """
    if not symbol or len(symbol) > _SYMBOL_LENGTH_MAX:
        raise BadSetting(f"symbol {symbol[:_SYMBOL_LENGTH_MAX]!r} has {len(symbol)} characters, allowed are 1 to 40")
    if not symbol.isprintable() or symbol != symbol.strip():
        raise BadSetting(f"symbol {symbol!r} has a control character or space around it; correct --symbols")
    file_name(symbol)


def check_day(settings: Settings, home: Home, clock: Clock, trading_date: date) -> None:
    """Refuse to append to a date's log what is not its continuation. Reads only.

    Raises:
        CannotRun: the gateway serves that very log, or market time is far behind the log's last event.
    """
    followed = clock.path if isinstance(clock, FileClock) else home.gateway_file
    for file in dict.fromkeys((followed, home.gateway_file)):
        facts = living_gateway(file) or {}
        if (facts.get("port"), facts.get("log")) == (settings.port, str(home.day(trading_date))):
            raise CannotRun(
                f"the gateway at {settings.gateway_host}:{settings.port} serves {trading_date} as it is recorded under "
                f"{home.root}; recorded there again the day would be doubled; "
                f"to record it elsewhere: --home ANOTHER --clock {file}"
            )
    try:
        runs = read_runs(home, trading_date)
    except NoLog:
        return
    last, now = max((run.commits[-1].last_ts for run in runs if run.commits), default=0), clock.now()
    if last - now > BEHIND_S_MAX * SECOND_NS:
        raise CannotRun(
            f"market time is {iso(now)[:19]}Z, but the log of {trading_date} reaches to {iso(last)[:19]}Z, "
            f"{(last - now) // SECOND_NS:,} s later; set the clock right, or record into another --home"
        )


def check_clock(clock: Clock) -> None:
    """Refuse to go on with a gateway started anew in the past of the day that is being recorded.

    Raises:
        CannotRun: its market time lies far behind what has been stamped: all it sends would bear one stamp.
    """
    if isinstance(clock, FileClock) and clock.behind_ns > BEHIND_S_MAX * SECOND_NS:
        now = clock.now()
        raise CannotRun(
            f"the gateway's market time went back from {iso(now)[:19]}Z to {iso(now - clock.behind_ns)[:19]}Z: it was "
            "started anew; the recording ends here, whole; to record what it serves now use another --home"
        )


def simulated_gateway(settings: Settings, home: Home) -> dict[str, Any] | None:
    """What `gateway.json` in the home says, when its gateway is alive and the one we are to connect to."""
    facts = living_gateway(home.gateway_file)
    return facts if facts is not None and facts["port"] == settings.port else None


def elsewhere(settings: Settings, home: Home) -> str:
    """Where the home's own gateway listens, for an error's end, when that is another port than ours; else nothing.

    Named and not taken: who wants his TWS must never record a simulated market unasked.
    """
    facts = living_gateway(home.gateway_file)
    if facts is None or facts["port"] == settings.port:
        return ""
    return f"; the `hv gateway` of {home.root} listens on another: --port {facts['port']}"


def living_gateway(file: Path) -> dict[str, Any] | None:
    """What a `gateway.json` says, when its gateway is alive."""
    try:
        facts = msgspec.json.decode(file.read_bytes(), type=dict)
        facts["port"], pid = int(facts["port"]), int(facts["pid"])
    except (OSError, msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return None
    return facts if _alive(pid) else None


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return True
    if os.name == "nt":
        return _alive_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's process
    return True


def _alive_windows(pid: int) -> bool:
    """Signal 0 would end the process on Windows; asking for a handle does not."""
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
    """The clock `--clock` names: `machine`, a file a gateway writes, or `auto`.

    `auto` follows `gateway.json` of the home when the gateway it tells of lives and is the one connected to.

    Raises:
        CannotRun: the file cannot be read as a market clock.
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
        raise CannotRun(f"--clock {path} is no market clock of a simulated gateway: {error}") from None
