"""Numbers and times as people read them, for the commands that show trades."""

from __future__ import annotations


def price(value: float | None) -> str:
    """A price in cents, with more digits only where it has them; `-` for none."""
    if value is None:
        return "-"
    if round(value, 2) == value:
        return f"{value:.2f}"
    return f"{value:.6g}" if abs(value) < 1 else f"{value:.4f}".rstrip("0")


def clock_time(ts: int) -> str:
    """The time of day in New York to the millisecond, the rest cut off, without trailing zeros; `ts` is ns UTC."""
    from harvester.calendar import of_day
    from harvester.units import MILLI_NS

    return of_day(ts // MILLI_NS * MILLI_NS)
