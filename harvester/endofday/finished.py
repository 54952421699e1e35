"""Decide from a date's log alone, without a clock, whether its recording is finished and `hv eod` may fold it.

| how the last run ended                                        | the date may be folded               |
|---------------------------------------------------------------|--------------------------------------|
| at its configured end (--until, --duration or the default)    | always                               |
| stopped by the user (Ctrl-C, SIGTERM)                         | from the regular close on            |
| killed, or by an error                                        | from the end of extended trading on  |

The session is the one in the last run's `run_start` event. On a date without a session (the exchange is closed), the
end of the date replaces both times. See docs/decisions/0005.
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
    """Reject a date whose recording ended before its session.

    Raises:
        CannotRun: the recording is not finished.
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
    """The calendar of the last run with events, and the reason it ended; "" when it was killed."""
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
        run_end: dict[str, Any] = msgspec.json.decode(params or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        run_end = {}
    return str(run_end.get("reason") or "unknown")


def _when(ts: int) -> str:
    return iso(ts // SECOND_NS * SECOND_NS)
