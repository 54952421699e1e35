"""The date a reading command works on: the one that is named, else the newest recorded one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import datetime as dt

    from harvester.home import Home

DateOption = Annotated[
    str | None, typer.Option("--date", help="Trading date, yyyy-MM-dd; else the newest recorded one.")
]


def date_of(named: str | None, home: Home) -> dt.date:
    """The date; one that was not named is said on stderr, so that nobody takes it for another.

    Raises:
        BadSetting: what is named is no date.
        NoLog: none is named, and nothing is recorded.
    """
    from harvester.eventlog.days import newest_date
    from harvester.home import parse_date

    if named is not None:
        return parse_date(named)
    day = newest_date(home)
    typer.echo(f"hv: {day}, the newest recorded date", err=True)
    return day
