"""Parse times a user writes (a time of day in New York, or an ISO time), and format times for people."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING

from harvester.calendar import NEW_YORK, of_day, to_ns, zone
from harvester.errors import BadSetting
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from harvester.eventlog.reader import Day

_FORM = re.compile(
    r"(?:(?P<date>\d{4}-\d{2}-\d{2})[T ])?(?P<h>\d{1,2}):(?P<m>\d{2})(?::(?P<s>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?P<zone>Z|[+-]\d{2}:?\d{2})?",
    re.ASCII,
)


def moment(text: str, trading_date: date, zone_name: str = NEW_YORK) -> int:
    """Parse `10:31:05.2`, `2025-07-17T10:31:05` (both in the zone) or `2025-07-17T14:31:05.2Z` to ns UTC.

    A time that occurs twice, at the end of daylight saving, means the first one unless its offset is given. A fraction
    may have up to nine digits.

    Raises:
        BadSetting: the text has another form, or is not a valid time.
    """
    unclear = BadSetting(
        f"time {text!r} is not understood; write 10:31:05.2 ({zone_name}) or {trading_date}T14:31:05.2Z"
    )
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise unclear
    try:
        day = date.fromisoformat(match["date"]) if match["date"] else trading_date
        at = datetime.combine(day, time(int(match["h"]), int(match["m"]), int(match["s"] or 0)))
        offset = match["zone"]
        if offset:
            at = datetime.fromisoformat(f"{at.isoformat()}{offset.replace('Z', '+00:00')}")
        else:
            at = at.replace(tzinfo=zone(zone_name))
    except ValueError:
        raise unclear from None
    return to_ns(at) + int((match["fraction"] or "0").ljust(9, "0"))


def read_iso(text: str) -> int:
    """Ns UTC of a time as `calendar.iso` writes it."""
    return moment(text, date.min)  # the text contains the date


def span(first: str | None, last: str | None, trading_date: date) -> tuple[int | None, int | None]:
    """Parse `--from` and `--to` to ns UTC, None = open.

    Raises:
        BadSetting: one is not a valid time, or `--from` is after `--to`.
    """
    begin, end = (None if text is None else moment(text, trading_date) for text in (first, last))
    if begin is not None and end is not None and begin > end:
        raise BadSetting(
            f"--from {first} is after --to {last}: {local(begin)} and {local(end)} in New York; give the earlier one "
            "to --from"
        )
    return begin, end


def check_within(at: int, text: str, day: Day) -> None:
    """Check that a time (ns UTC) is within the recording of a date.

    Raises:
        BadSetting: the time is before or after the recording.
    """
    first, last = _recorded(day)
    if not first <= at <= last:
        side = "before" if at < first else "after"
        raise BadSetting(f"--at {text} is {local(at)} in New York, {side} the recording of {_extent(day)}")


def check_meets(begin: int | None, end: int | None, day: Day) -> None:
    """Check that a span (ns UTC, None = open) overlaps the recording of a date.

    Raises:
        BadSetting: the span is before or after the recording.
    """
    first, last = _recorded(day)
    if begin is not None and begin > last:
        raise BadSetting(f"--from {local(begin)} in New York is after the recording of {_extent(day)}")
    if end is not None and end < first:
        raise BadSetting(f"--to {local(end)} in New York is before the recording of {_extent(day)}")


def _recorded(day: Day) -> tuple[int, int]:
    return min((run.first_ts for run in day.runs if run.first_ts), default=0), day.last_ts


def _extent(day: Day) -> str:
    first, last = _recorded(day)
    return f"{day.trading_date} ({of_day(first)} to {of_day(last)})"


def local(ns: int, zone_name: str = NEW_YORK) -> str:
    """Date and time of day in a zone, `2025-07-17 10:31:05.2`, for people."""
    local = datetime.fromisoformat("1970-01-01T00:00:00+00:00") + timedelta(seconds=ns // SECOND_NS)
    return f"{local.astimezone(zone(zone_name)).date()} {of_day(ns, zone_name)}"
