"""Trading hours of a contract compared with the calendar, and planned outages of a gateway."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

from harvester.calendar import NEW_YORK, iso, session, to_ns, zone
from harvester.errors import BadSetting
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

_SPAN = re.compile(r"(?:\d{8}:)?(\d{4})-(?:(\d{8}):)?(\d{4})", re.ASCII)
_CLOSED = re.compile(r"\d{8}:CLOSED", re.ASCII)
_ZONES = {
    "EST": "America/New_York", "EDT": "America/New_York", "EST5EDT": "America/New_York",
    "CST": "America/Chicago", "CDT": "America/Chicago", "CST6CDT": "America/Chicago",
    "MST": "America/Denver", "MDT": "America/Denver", "MST7MDT": "America/Denver",
    "PST": "America/Los_Angeles", "PDT": "America/Los_Angeles", "PST8PDT": "America/Los_Angeles",
    "GMT": "Europe/London", "BST": "Europe/London", "MET": "Europe/Berlin", "CET": "Europe/Berlin",
    "CEST": "Europe/Berlin", "JST": "Asia/Tokyo", "HKT": "Asia/Hong_Kong", "SGT": "Asia/Singapore",
    "KST": "Asia/Seoul", "IST": "Asia/Kolkata", "AET": "Australia/Sydney", "AEST": "Australia/Sydney",
}  # fmt: skip
"""Abbreviations in IB's zone ids, and the zone of the exchanges they are sent for."""
_RESET = (time(23, 45), time(0, 45))  # daily reset of IB's North American servers, New York, except …
_RESET_FRIDAY = (time(23, 0), time(3, 0))  # … on Friday, until Saturday (IB's system status page)
_RESTART_MINUTES = 10  # duration of a restart of TWS or IB Gateway, including login


def hours_difference(liquid_hours: str, zone_name: str, day: date, exchange: str) -> str:
    """How a contract's liquid hours differ from the calendar's session on a date, or why they cannot be compared.

    Args:
        liquid_hours: IB's text `yyyymmdd:hhmm-yyyymmdd:hhmm;yyyymmdd:CLOSED;…`, or its older form
            `yyyymmdd:hhmm-hhmm,hhmm-hhmm;…`.
        zone_name: its time zone as IB names it; empty: New York.
        day: the date.
        exchange: the calendar.

    Returns:
        One clause; empty when the hours are the calendar's.
    """
    hours = session(day, exchange)
    known = (hours.open_ns, hours.close_ns) if hours is not None else None
    try:
        stated = _stated(liquid_hours, _ib_zone(zone_name), day)
    except (BadSetting, ValueError, OverflowError) as error:
        return f"liquid hours of {day} cannot be compared with the calendar {exchange}: {error}"
    if stated == known:
        return ""
    said = f"liquid hours of {day} are {_words(stated)} by the gateway, {_words(known)} by the calendar {exchange}"
    return said if zone_name.strip() else f"{said}; the gateway names no time zone, New York is assumed"


def _ib_zone(name: str) -> ZoneInfo:
    """The zone of an IANA name, of an abbreviation, or of both forms of IB: `EST (Eastern Standard Time)`, `EST5EDT`.

    IB's EST and its like mean the exchange's local time, summer time included.

    Raises:
        BadSetting: unknown.
    """
    short = name.split("(", maxsplit=1)[0].strip()
    return zone(_ZONES.get(short.upper(), short) if short else NEW_YORK)


def _stated(text: str, tz: ZoneInfo, day: date) -> tuple[int, int] | None:
    """First open and last close (ns UTC) of a date; None: closed.

    Raises:
        ValueError: the text does not hold the date, or is not in one of IB's forms.
    """
    spans: list[tuple[int, int]] = []
    parts = [part.strip() for part in text.split(";") if part.strip()]
    of_day = [part for part in parts if part.startswith(f"{day:%Y%m%d}:")]
    if not of_day:
        raise ValueError(f"{text[:80]!r} does not name the date" if parts else "the gateway sent none")
    for part in of_day:
        if _CLOSED.fullmatch(part):
            continue
        for span in part.removeprefix(f"{day:%Y%m%d}:").split(","):
            found = _SPAN.fullmatch(span.strip())
            if found is None:
                raise ValueError(f"{part[:80]!r} is not in a known form")
            begin, last, end = found.groups()
            try:
                opens, closes = _moment(f"{day:%Y%m%d}", begin, tz), _moment(last or f"{day:%Y%m%d}", end, tz)
            except ValueError:
                raise ValueError(f"{part[:80]!r} holds no time of day") from None
            if opens >= closes:
                raise ValueError(f"{part[:80]!r} ends before it begins")
            spans.append((opens, closes))
    return (min(span[0] for span in spans), max(span[1] for span in spans)) if spans else None


def _moment(day: str, clock: str, tz: ZoneInfo) -> int:
    return to_ns(datetime.strptime(day + clock, "%Y%m%d%H%M").replace(tzinfo=tz))


def _words(span: tuple[int, int] | None) -> str:
    return "closed" if span is None else f"{iso(span[0])} to {iso(span[1])}"


def planned_outage(ts_ns: int, restart: str, zone_name: str) -> str:
    """The planned outage at an instant, in words; empty when none is planned.

    Args:
        ts_ns: market time, ns UTC.
        restart: when TWS or IB Gateway restarts itself, `HH:MM` in the zone; empty for never.
        zone_name: the zone of `restart`.
    """
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=ts_ns // SECOND_NS)
    if restart:
        local = moment.astimezone(zone(zone_name))
        begin = datetime.combine(local.date(), time.fromisoformat(restart), local.tzinfo)
        since = (local - begin) % timedelta(days=1)
        if since < timedelta(minutes=_RESTART_MINUTES) or since > timedelta(days=1) - timedelta(minutes=1):
            return f"the daily restart at {restart}"
    local = moment.astimezone(zone(NEW_YORK))
    at, friday, saturday = local.time(), local.weekday() == 4, local.weekday() == 5
    late = at >= (_RESET_FRIDAY if friday else _RESET)[0]
    early = at < (_RESET_FRIDAY if saturday else _RESET)[1]
    return "IB's daily reset" if late or early else ""
