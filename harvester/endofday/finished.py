"""Whether a date's recording is over, so that it may be folded: told by its log alone, and by no clock.

| how the last run ended                                    | the date may be folded                |
|-----------------------------------------------------------|---------------------------------------|
| at the end it was given (--until, --duration, the default) | always                               |
| stopped by somebody (Ctrl-C, SIGTERM)                     | from the regular close on             |
| killed, or by an error                                    | from the end of extended trading on   |

The session is the one the last run recorded with its start. Without a session (the exchange is closed) the date's own
end counts for both. See docs/decisions/0005.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from harvester.calendar import iso
from harvester.errors import CannotRun
from harvester.events.kinds import Action, Kind
from harvester.projections.run_params import RunParams
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from harvester.eventlog.reader import Day
    from harvester.projections.run_params import Calendar

_ENDED = ("end of recording", "boundary")  # as the recorder writes into `run_end`
_STOPPED = "stopped"


def must_be_over(day: Day) -> None:
    """Refuse a date whose last run broke off before its session did.

    Raises:
        CannotRun: it did.
    """
    calendar, reason = _last_run(day)
    if calendar is None or reason in _ENDED:
        return
    if calendar.session is None:
        needed = end = calendar.end_ns
    else:
        end = calendar.session.extended_close_ns
        needed = calendar.session.close_ns if reason == _STOPPED else end
    if day.last_ts >= needed:
        return
    how = {_STOPPED: "the recorder was stopped", "": "the recorder was killed"}.get(reason, "the recorder failed")
    raise CannotRun(
        f"the session of {day.trading_date} is not over: last event {_when(day.last_ts)} ({how}), "
        f"it ends {_when(end)}; record on, or give --unfinished to fold it all the same"
    )


def _last_run(day: Day) -> tuple[Calendar | None, str]:
    """The calendar of the last run that holds events, and the reason of its end; "" when it never ended."""
    first_seq = max((run.first_seq for run in day.runs if run.rows), default=1)
    calendar, reason = None, ""
    for row in day.table(Kind.REQUEST).to_pylist():
        if row["seq"] < first_seq:
            continue
        if row["action"] == Action.RUN_START.value:
            calendar = RunParams.parse(row["params"], row["seq"]).calendar
        elif row["action"] == Action.RUN_END.value:
            reason = _reason(row["params"])
    return calendar, reason


def _reason(params: str | None) -> str:
    try:
        told: dict[str, Any] = msgspec.json.decode(params or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        told = {}
    return str(told.get("reason") or "unknown")


def _when(ts: int) -> str:
    return iso(ts // SECOND_NS * SECOND_NS)
