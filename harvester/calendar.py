"""Trading dates and exchange sessions.

The trading date of an instant is its date in a time zone (default New York) with day start 00:00; for products that
trade around the clock the day starts at 20:00 of the evening before. Sessions come from `exchange_calendars`, loaded
for a fixed span of years so that results do not depend on the current date.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from harvester.errors import BadSetting
from harvester.units import SECOND_NS

NEW_YORK = "America/New_York"
_NOON = time(12)
_FIRST, _LAST = "2000-01-01", "2035-12-31"


class ExchangeSession(msgspec.Struct, frozen=True):
    """One exchange session; times are ns UTC, `extended_*` bound pre-market and after-hours trading of US stocks."""

    open_ns: int
    close_ns: int
    extended_open_ns: int
    extended_close_ns: int
    half_day: bool


def to_ns(moment: datetime) -> int:
    """Exact ns UTC of an aware datetime.

    Raises:
        BadSetting: `moment` has no time zone; none is assumed.
    """
    if moment.tzinfo is None:
        raise BadSetting(f"time {moment.isoformat()} has no zone; add one, for example {moment.isoformat()}Z")
    since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * SECOND_NS + since.microseconds * 1_000


def iso(ns: int) -> str:
    """ISO-8601 UTC with `Z`; trailing zeros of the fraction are removed."""
    seconds, fraction = divmod(ns, SECOND_NS)
    minute, second = divmod(seconds, 60)
    text = f"{_minute_text(minute)}:{second:02d}"
    return text + (f".{fraction:09d}".rstrip("0") if fraction else "") + "Z"


@lru_cache(2048)  # a day has 1440
def _minute_text(minutes: int) -> str:
    """`yyyy-MM-ddThh:mm` of a minute counted from 1970-01-01."""
    day, minute = divmod(minutes, 1440)
    text = (date(1970, 1, 1) + timedelta(days=day)).strftime("%Y-%m-%d")
    return f"{text}T{minute // 60:02d}:{minute % 60:02d}"


@lru_cache
def zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name.

    Raises:
        BadSetting: unknown time zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadSetting(f"unknown time zone {name!r}; use an IANA name, for example {NEW_YORK}") from None


def _day_start(text: str) -> time:
    try:
        return time.fromisoformat(text)
    except ValueError:
        raise BadSetting(f"day start {text!r} is not a time of day; use HH:MM, for example 20:00") from None


def day_bounds(trading_date: date, zone_name: str = NEW_YORK, day_start: str = "00:00") -> tuple[int, int]:
    """Bounds [start, end) of a trading date, ns UTC. A day start after noon means the evening before."""
    start = _day_start(day_start)
    first = trading_date - timedelta(days=1) if start > _NOON else trading_date
    tz = zone(zone_name)
    return (
        to_ns(datetime.combine(first, start, tz)),
        to_ns(datetime.combine(first + timedelta(days=1), start, tz)),
    )


def trading_date(ts_ns: int, zone_name: str = NEW_YORK, day_start: str = "00:00") -> date:
    """The trading date of an instant (ns UTC)."""
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=ts_ns // SECOND_NS)).astimezone(zone(zone_name))
    start = _day_start(day_start)
    if start > _NOON:
        return local.date() + timedelta(days=1) if local.time() >= start else local.date()
    return local.date() - timedelta(days=1) if local.time() < start else local.date()


def check_exchange(exchange: str) -> None:
    """Check that the exchange calendar exists.

    Raises:
        BadSetting: unknown calendar, or it does not cover the supported years.
    """
    _calendar(exchange)


@lru_cache
def _calendar(exchange: str) -> Any:
    from exchange_calendars import get_calendar  # imports pandas: only when sessions are needed
    from exchange_calendars.errors import InvalidCalendarName

    try:
        return get_calendar(exchange, start=_FIRST, end=_LAST)
    except InvalidCalendarName:
        raise BadSetting(
            f"unknown exchange calendar {exchange!r}; use a name of exchange_calendars, for example XNYS"
        ) from None
    except ValueError as error:
        raise BadSetting(f"exchange calendar {exchange!r} does not cover {_FIRST} to {_LAST}: {error}") from None


@lru_cache(maxsize=4096)
def session(trading_date: date, exchange: str = "XNYS") -> ExchangeSession | None:
    """The exchange's session on a date, None when closed. Extended hours are 04:00-20:00, on half days to 17:00.

    Raises:
        BadSetting: the date is outside the calendar's years.
    """
    calendar = _calendar(exchange)
    day = trading_date.isoformat()
    if not _FIRST <= day <= _LAST:
        raise BadSetting(f"date {day} is outside the calendar's years {_FIRST[:4]}-{_LAST[:4]}")
    if not calendar.is_session(day):
        return None
    opens, closes = int(calendar.session_open(day).value), int(calendar.session_close(day).value)
    tz = zone(str(calendar.tz))
    half = closes < to_ns(datetime.combine(trading_date, time(16), tz))
    return ExchangeSession(
        open_ns=opens,
        close_ns=closes,
        extended_open_ns=to_ns(datetime.combine(trading_date, time(4), tz)),
        extended_close_ns=to_ns(datetime.combine(trading_date, time(17 if half else 20), tz)),
        half_day=half,
    )


def sessions_before(trading_date: date, count: int, exchange: str = "XNYS") -> list[date]:
    """The last `count` session dates strictly before a date, oldest first."""
    found: list[date] = []
    day = trading_date
    while len(found) < count:
        day -= timedelta(days=1)
        if session(day, exchange) is not None:
            found.append(day)
    return found[::-1]


def of_day(ns: int, zone_name: str = NEW_YORK) -> str:
    """The time of day in a zone, `10:31:05.2`, for people."""
    local = datetime.fromisoformat("1970-01-01T00:00:00+00:00") + timedelta(seconds=ns // SECOND_NS)
    text = local.astimezone(zone(zone_name)).strftime("%H:%M:%S")
    fraction = iso(ns).rstrip("Z").partition(".")[2]
    return f"{text}.{fraction}" if fraction else text
