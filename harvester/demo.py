"""Record a whole modelled day for `hv demo`: gateway and recorder in one process, over a real socket, in lockstep.

Both share one market clock that jumps to the next event, so six and a half hours take seconds, and the same seed gives
the same log, byte for byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, NamedTuple

import structlog

from harvester.calendar import session
from harvester.clock import LockstepClock
from harvester.config import Settings
from harvester.errors import BadSetting, CannotRun
from harvester.files import Disk
from harvester.recorder.record import record
from harvester.simgateway.gateway_settings import GatewaySettings
from harvester.simgateway.markets.open_market import open_market
from harvester.simgateway.server import SimGateway
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from harvester.home import DatePaths, Home
    from harvester.recorder.record import Recorder
    from harvester.recorder.summary import RecordingSummary
    from harvester.simgateway.markets.market_source import MarketSource

LEAD_NS = 60 * SECOND_NS  # the recorder starts a minute before the market's first event
LOOK_S = 0.2
# A digest hashes the whole state, and `hv verify` computes each again: one per minute (400 a day) would cost it four
# times as much as the fold. One per half hour still checks the day at fourteen points.
DIGEST_SECONDS = 1800


class DemoDay(NamedTuple):
    """Parameters of a demo day; `rate` is orders per symbol and day."""

    trading_date: date
    symbols: tuple[str, ...]
    seed: int
    rate: int


def check_day(day: DemoDay) -> None:
    """Check the parameters before anything starts.

    Raises:
        CannotRun: the exchange is closed on that date.
        BadSetting: a symbol or the rate is invalid.
    """
    if session(day.trading_date) is None:
        raise CannotRun(f"the exchange is closed on {day.trading_date}; choose a trading day with --date")
    if not day.symbols:
        raise BadSetting("--symbols contains no symbol; give some, for example ACME,BOLT")
    for symbol in day.symbols:
        if not (symbol.isascii() and symbol.replace(".", "").isalnum()):
            raise BadSetting(f"symbol {symbol!r} is not a valid name for a modelled stock; use letters and digits")
    _market_of(day)  # raises for an invalid rate, before an earlier demo is deleted


def _market_of(day: DemoDay) -> MarketSource:
    return open_market(
        "model", seed=day.seed, trading_date=day.trading_date, rate=day.rate, symbols=day.symbols, sample_ms=250
    )


async def record_demo(home: Home, day: DemoDay, progress: Callable[[int, int], None] | None = None) -> RecordingSummary:
    """Serve the modelled day and record it; `progress` is called with (seconds of the day done, total seconds).

    Raises:
        HarvesterError: as `record` does.
    """
    market = _market_of(day)
    clock = LockstepClock(market.start_ns - LEAD_NS)
    gateway = SimGateway(market, GatewaySettings(port=0, grace_s=0.3, seed=day.seed), clock)
    port = await gateway.start()
    mover = asyncio.create_task(clock.run())
    looks: list[asyncio.Task[None]] = []
    settings = Settings.load(
        {
            "port": port,
            "symbols": day.symbols,
            "account": gateway.settings.accounts[0],
            "commit_seconds": 60,
            "digest_seconds": DIGEST_SECONDS,
        }
    )

    def watch(recorder: Recorder) -> None:
        if progress is not None:
            looks.append(asyncio.create_task(_look(recorder, market.start_ns, market.end_ns, progress)))

    try:
        return await record(settings, home, clock, until_ns=market.end_ns + SECOND_NS, watch=watch)
    finally:
        for task in (*looks, mover):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*looks, mover, return_exceptions=True)
        await gateway.stop()


async def _look(recorder: Recorder, start_ns: int, end_ns: int, progress: Callable[[int, int], None]) -> None:
    while True:
        done = min(max(recorder.clock.now(), start_ns), end_ns) - start_ns
        progress(done // SECOND_NS, (end_ns - start_ns) // SECOND_NS)
        await asyncio.sleep(LOOK_S)


def fresh_home(paths: DatePaths, disk: Disk | None = None) -> Home:
    """Prepare the home for a demo day: delete an earlier demo's data, and reject a folder with any other data.

    The file that marks the folder as a demo's is durable before anything else is written.

    Raises:
        CannotRun: the folder contains data that is not from a demo.
    """
    disk = disk or Disk()
    mark = paths.home.root / "demo.txt"
    if paths.home.root.exists() and any(paths.home.root.iterdir()) and not mark.exists():
        raise CannotRun(f"{paths.home.root} contains data that is not from hv demo; give another folder with --home")
    if mark.exists():
        for name in ("temp", "memory", "exports"):
            with contextlib.suppress(OSError):
                disk.remove_tree(paths.home.root / name)
    disk.make_folders(paths.home.root)
    disk.write_atomic(mark, f"made by hv demo for {paths.trading_date}; hv demo replaces its data\n".encode())
    return paths.home.prepare(disk)


def quiet_log() -> None:
    """Log only errors; the demo prints its own progress."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
