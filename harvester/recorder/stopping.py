"""Decide when a recording ends: at a time, after a duration, at the session's end, or on a signal."""

from __future__ import annotations

import asyncio
import re
import signal
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from harvester.calendar import day_bounds, session, trading_date, zone
from harvester.errors import BadSetting, GatewayError
from harvester.eventlog.typed_times import moment
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from harvester.config import Settings

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?\Z")
NEVER = "never"


def parse_duration(text: str, option: str = "--duration") -> int:
    """Parse `90`, `90s`, `15m` or `1h30m` to ns; `option` names it in the error.

    Raises:
        BadSetting: the text has another form, or the duration is zero.
    """
    match = _DURATION.match(text.strip().lower())
    parts = [float(part or 0) for part in match.groups()] if match else [0.0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if seconds <= 0:
        raise BadSetting(f"{option} {text!r} is not a duration; write for example 90s, 15m or 1h30m")
    return round(seconds * SECOND_NS)


def parse_until(text: str, now_ns: int, settings: Settings) -> int | None:
    """Parse `never` (None), or a time as `moment` does (today, in the settings' zone), to market time in ns UTC.

    Raises:
        BadSetting: the text has another form, or the time is in the past.
    """
    if text == NEVER:
        return None
    tz = zone(settings.time_zone)
    try:
        at = moment(text, datetime.fromtimestamp(now_ns // SECOND_NS, tz).date(), settings.time_zone)
    except BadSetting:
        raise BadSetting(f"--until {text!r} is not a time; write 16:00, 2025-07-17T20:00:00Z or never") from None
    if at <= now_ns:
        raise BadSetting(
            f"--until {text} is in the past: market time is {datetime.fromtimestamp(now_ns // SECOND_NS, tz)}"
        )
    return at


def end_of_recording(until: str | None, now_ns: int, settings: Settings) -> int | None:
    """Market time at which to stop, ns UTC; None for never.

    Without `until`: the end of the date's extended trading; if that is past or the exchange is closed, the end of the
    date.
    """
    if until is not None:
        return parse_until(until, now_ns, settings)
    date = trading_date(now_ns, settings.time_zone, settings.day_start)
    today = session(date, settings.exchange_calendar)
    if today is not None and now_ns < today.extended_close_ns:
        return today.extended_close_ns
    return day_bounds(date, settings.time_zone, settings.day_start)[1]


def closed_until(now_ns: int, settings: Settings) -> str:
    """Start of the next extended trading, `Mon 2025-07-21 04:00 New York`; empty during extended trading."""
    tz = zone(settings.time_zone)
    day = datetime.fromtimestamp(now_ns // SECOND_NS, tz).date()
    while (hours := session(day, settings.exchange_calendar)) is None or now_ns >= hours.extended_close_ns:
        day += timedelta(days=1)
    if now_ns >= hours.extended_open_ns:
        return ""
    opens = datetime.fromtimestamp(hours.extended_open_ns // SECOND_NS, tz)
    return f"{opens:%a %Y-%m-%d %H:%M} {settings.time_zone.rpartition('/')[2].replace('_', ' ')}"


async def unless_stopped(opening: Coroutine[Any, Any, None], stop: asyncio.Event, settings: Settings) -> None:
    """Await `opening`.

    Raises:
        GatewayError: `stop` is set first: nothing has been recorded yet.
    """
    work, stopped = asyncio.ensure_future(opening), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            where = f"{settings.gateway_host}:{settings.port}"
            raise GatewayError(f"stopped before {where} was ready; nothing was recorded")
        work.result()
    finally:
        work.cancel()
        stopped.cancel()
        await asyncio.gather(work, stopped, return_exceptions=True)


@contextmanager
def stop_on_signals(stop: asyncio.Event, on_signal: Callable[[str], None], *, last_act: bool = False) -> Iterator[None]:
    """Within the block SIGINT and SIGTERM (and Ctrl-Break on Windows) set `stop`; a second signal has no effect.

    `on_signal` is called with the signal's name. With `last_act` the signals are ignored afterwards, for a process
    about to exit; otherwise the earlier handlers return. Windows lacks the loop's own signal handlers.
    """
    loop = asyncio.get_running_loop()

    def end(name: str) -> None:
        if not stop.is_set():
            on_signal(name)
            stop.set()

    def handle(number: int, _frame: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process is exiting
            loop.call_soon_threadsafe(end, signal.Signals(number).name)

    names = [name for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]
    before = {}
    for name in names:
        number = getattr(signal, name)
        with suppress(ValueError):  # not the main thread, which alone may set handlers
            before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_IGN if last_act else old)
