"""Trading and liquid hours in IB's text format, from the exchange calendar."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from harvester.calendar import NEW_YORK, session, zone
from harvester.units import SECOND_NS

_DAYS = 5


def _local(ns: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=ns // SECOND_NS)
    return moment.astimezone(zone(NEW_YORK)).strftime("%Y%m%d:%H%M")


def hours_text(first: date) -> tuple[str, str]:
    """Trading and liquid hours of five days from `first`: `yyyymmdd:hhmm-yyyymmdd:hhmm;yyyymmdd:CLOSED;…`."""
    trading, liquid = [], []
    for day in (first + timedelta(days=n) for n in range(_DAYS)):
        hours = session(day)
        if hours is None:
            trading.append(f"{day:%Y%m%d}:CLOSED")
            liquid.append(f"{day:%Y%m%d}:CLOSED")
            continue
        trading.append(f"{_local(hours.extended_open_ns)}-{_local(hours.extended_close_ns)}")
        liquid.append(f"{_local(hours.open_ns)}-{_local(hours.close_ns)}")
    return ";".join(trading), ";".join(liquid)
