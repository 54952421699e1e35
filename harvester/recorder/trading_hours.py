"""Trading hours of a contract compared with the calendar, and planned outages of a gateway."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

from harvester.calendar import NEW_YORK, iso, session, to_ns, zone
from harvester.errors import BadSetting
from harvester.units import SECOND_NS

_SPAN = re.compile(r"(\d{8}):(\d{4})-(\d{8}):(\d{4})", re.ASCII)
_CLOSED = re.compile(r"(\d{8}):CLOSED", re.ASCII)
_RESET = (time(23, 45), time(0, 45))  # daily reset of IB's North American servers, New York, except …
_RESET_FRIDAY = (time(23, 0), time(3, 0))  # … on Friday, until Saturday (IB's system status page)
_RESTART_MINUTES = 10  # duration of a restart of TWS or IB Gateway, including login


def hours_difference(liquid_hours: str, zone_name: str, day: date, exchange: str) -> str:
    """How a contract's liquid hours differ from the calendar's session on a date; empty when they agree.

    The text is IB's `yyyymmdd:hhmm-yyyymmdd:hhmm;yyyymmdd:CLOSED;…`. An unreadable text, or one without the date, is
    not a difference.
    """
    hours = session(day, exchange)
    known = (hours.open_ns, hours.close_ns) if hours is not None else None
    try:
        stated = _stated(liquid_hours, zone_name, day)
        if stated in ("", known):
            return ""
        return f"liquid hours of {day} are {_words(stated)} by the gateway, {_words(known)} by the calendar {exchange}"
    except (BadSetting, ValueError, OverflowError):
        return ""


def _stated(text: str, zone_name: str, day: date) -> tuple[int, int] | str | None:
    """First open and last close (ns UTC) of a date; None: closed; empty: the text does not hold the date."""
    tz, spans = zone(zone_name), []
    for first, begin, last, end in _SPAN.findall(text):
        if datetime.strptime(first, "%Y%m%d").date() == day:  # noqa: DTZ007 - a date; the zone follows
            spans.append(tuple(to_ns(datetime.strptime(d + t, "%Y%m%d%H%M").replace(tzinfo=tz))
                               for d, t in ((first, begin), (last, end))))  # fmt: skip
    if spans:
        return min(span[0] for span in spans), max(span[1] for span in spans)
    return None if f"{day:%Y%m%d}" in _CLOSED.findall(text) else ""


def _words(span: tuple[int, int] | str | None) -> str:
    return "closed" if not isinstance(span, tuple) else f"{iso(span[0])} to {iso(span[1])}"


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
