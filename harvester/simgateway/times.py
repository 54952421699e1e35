"""IB's texts for points in time: bar dates, request ends, hours of a contract."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

SECOND_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def zone(name: str) -> ZoneInfo:
    """A zone by IB's name; what the machine does not know is New York, as US contracts have it."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("America/New_York")


def local(ns: int, zone_name: str) -> datetime:
    """Whole seconds of `ns` (UTC) as local time."""
    return (_EPOCH + timedelta(seconds=ns // SECOND_NS)).astimezone(zone(zone_name))


def stamp(ns: int, zone_name: str) -> str:
    """`20250717 09:30:00 US/Eastern`."""
    return f"{local(ns, zone_name):%Y%m%d %H:%M:%S} {zone_name}"


def day(ns: int, zone_name: str) -> str:
    """`20250717`, the local date."""
    return f"{local(ns, zone_name):%Y%m%d}"


def parse_end(text: str, zone_name: str) -> int:
    """The end of a historical request in ns UTC, 0 for an empty one (= now).

    `yyyymmdd HH:mm:ss [zone]` is local to its zone, or to the contract's; `yyyymmdd-HH:mm:ss` is UTC.

    Raises:
        ValueError: another form, or a zone nobody knows.
    """
    if not text.strip():
        return 0
    found = re.fullmatch(r"(\d{8})(?:(-| {1,2})(\d{2}:\d{2}:\d{2}))?(?: (\S+))?", text.strip())
    if not found:
        raise ValueError(f"Ending date/time {text!r} is not of the form yyyymmdd HH:mm:ss with an optional zone")
    date, dash, clock, named = found.groups()
    naive = datetime.strptime(f"{date} {clock or '23:59:59'}", "%Y%m%d %H:%M:%S")  # noqa: DTZ007 - zone follows
    try:
        there = UTC if dash == "-" else ZoneInfo(named or zone_name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"Ending date/time {text!r} names an unknown time zone") from None
    return int(naive.replace(tzinfo=there).timestamp()) * SECOND_NS


def open_spans(hours: str, zone_name: str) -> list[tuple[int, int]]:
    """The spans of `yyyymmdd:hhmm-yyyymmdd:hhmm;yyyymmdd:CLOSED` as (start, end) in ns UTC; the rest is ignored."""
    spans = []
    for part in hours.split(";"):
        found = re.fullmatch(r"(\d{8}):(\d{4})-(\d{8}):(\d{4})", part.strip())
        if found:
            ends = (f"{found[1]}{found[2]}", f"{found[3]}{found[4]}")
            start, end = (datetime.strptime(end, "%Y%m%d%H%M").replace(tzinfo=zone(zone_name)) for end in ends)
            spans.append((int(start.timestamp()) * SECOND_NS, int(end.timestamp()) * SECOND_NS))
    return spans
