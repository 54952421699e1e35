"""Parse and format IB's time texts (bar times, request ends, contract hours) and the times of fault scripts."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from harvester.calendar import NEW_YORK
from harvester.units import SECOND_NS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ib_zone(name: str) -> ZoneInfo:
    """A time zone by IB's name; an unknown name gives New York, the zone of US contracts."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo(NEW_YORK)


def local_time(ns: int, zone_name: str) -> datetime:
    """Whole seconds of `ns` (UTC) as local time."""
    return (_EPOCH + timedelta(seconds=ns // SECOND_NS)).astimezone(ib_zone(zone_name))


def ib_time(ns: int, zone_name: str) -> str:
    """`20250717 09:30:00 US/Eastern`."""
    return f"{local_time(ns, zone_name):%Y%m%d %H:%M:%S} {zone_name}"


def ib_date(ns: int, zone_name: str) -> str:
    """`20250717`, the local date."""
    return f"{local_time(ns, zone_name):%Y%m%d}"


def parse_end_time(text: str, zone_name: str) -> int:
    """The end of a historical request in ns UTC; 0 for empty text (= now).

    `yyyymmdd HH:mm:ss [zone]` is in its zone, by default the contract's; `yyyymmdd-HH:mm:ss` is UTC.

    Raises:
        ValueError: another form, or an unknown zone.
    """
    if not text.strip():
        return 0
    found = re.fullmatch(r"(\d{8})(?:(-| {1,2})(\d{2}:\d{2}:\d{2}))?(?: (\S+))?", text.strip())
    if not found:
        raise ValueError(f"Ending date/time {text!r} does not have the form yyyymmdd HH:mm:ss with an optional zone")
    date, dash, clock, named = found.groups()
    naive = datetime.strptime(f"{date} {clock or '23:59:59'}", "%Y%m%d %H:%M:%S")  # noqa: DTZ007 - zone follows
    try:
        there = UTC if dash == "-" else ZoneInfo(named or zone_name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"Ending date/time {text!r} has an unknown time zone") from None
    return int(naive.replace(tzinfo=there).timestamp()) * SECOND_NS


def parse_seconds(text: str) -> float:
    """Seconds of `90`, `1.5`, `1:30`, `2:00:00`.

    Raises:
        ValueError: another form.
    """
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", text):
        raise ValueError(f"{text!r} is not a time such as 90, 1.5 or 2:00:00")
    total = 0.0
    for part in text.split(":"):
        total = total * 60 + float(part)
    return total


def market_time(text: str, start_ns: int) -> int:
    """Market time in ns UTC: `+seconds`, `+h:mm:ss` since `start_ns`, `h:mm[:ss]` in New York on its day, or ISO-8601.

    Raises:
        ValueError: another form, or an ISO time without a zone.
    """
    if text.startswith("+"):
        return start_ns + int(parse_seconds(text[1:]) * SECOND_NS)
    if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?", text):
        hours, minutes, *rest = text.split(":")
        if int(hours) > 23 or int(minutes) > 59 or (rest and float(rest[0]) >= 60):
            raise ValueError(f"{text!r} is not a time of day")
        midnight = local_time(start_ns, NEW_YORK).replace(hour=int(hours), minute=int(minutes), second=0, microsecond=0)
        return int(midnight.timestamp()) * SECOND_NS + int(float(rest[0]) * SECOND_NS if rest else 0)
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; add Z or an offset")
    return int(instant.timestamp()) * SECOND_NS + instant.microsecond * 1000


def open_spans(hours: str, zone_name: str) -> list[tuple[int, int]]:
    """The spans of `yyyymmdd:hhmm-yyyymmdd:hhmm;yyyymmdd:CLOSED` as (start, end) in ns UTC; other parts are ignored."""
    spans = []
    for part in hours.split(";"):
        found = re.fullmatch(r"(\d{8}):(\d{4})-(\d{8}):(\d{4})", part.strip())
        if found:
            ends = (f"{found[1]}{found[2]}", f"{found[3]}{found[4]}")
            start, end = (datetime.strptime(end, "%Y%m%d%H%M").replace(tzinfo=ib_zone(zone_name)) for end in ends)
            spans.append((int(start.timestamp()) * SECOND_NS, int(end.timestamp()) * SECOND_NS))
    return spans
