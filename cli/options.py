"""The options that commands share, how a date and a list of symbols are read, and the question before a deletion.

Every command takes `--home`, `--json`, `--date`, `--symbol`, `--symbols`, `--at`, `--from` and `--to` from this module,
so that each means the same everywhere (a test checks it). A date is yyyy-MM-dd. A time is a time of day in New York
(10:31:05.2) or an ISO time with `Z` or an offset; `harvester.eventlog.typed_times` reads it.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import datetime as dt

    from harvester.eventlog.deletion import DeletionList
    from harvester.home import Home

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="Use this data root (default: HV_HOME, else the working folder).")
]
DemoHomeOption = Annotated[
    Path, typer.Option("--home", help="Use this data root; demo days already there are replaced.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
YesOption = Annotated[
    bool, typer.Option("--yes", help="Delete without asking (required with --json or without a terminal).")
]

DateOption = Annotated[
    str | None, typer.Option("--date", help="Select a trading date, yyyy-MM-dd (default: the newest recorded one).")
]
DatesOption = Annotated[
    list[str] | None,
    typer.Option("--date", help="Select a trading date, yyyy-MM-dd; repeatable (default: the newest recorded one)."),
]
NamedDateOption = Annotated[str, typer.Option("--date", help="Select a trading date, yyyy-MM-dd.")]
ProjectedDateOption = Annotated[
    str | None, typer.Option("--date", help="List what `hv project --strategy` wrote for this date instead.")
]
ModelDateOption = Annotated[str | None, typer.Option("--date", help="Set the trading date of the market, yyyy-MM-dd.")]

SymbolOption = Annotated[str, typer.Option("--symbol", help="Select a recorded symbol, in upper or lower case.")]
OneSymbolOption = Annotated[
    str | None, typer.Option("--symbol", help="Show only this symbol, in upper or lower case (default: all).")
]
SymbolsOption = Annotated[str | None, typer.Option("--symbols", help="Use these symbols, separated by commas.")]

ProjectedOption = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        help="Use the trades that `hv project --strategy` made by NAME, NAME-DIGEST or FILE.py:CLASS.",
    ),
]

_TIME = "a time in New York (10:31:05.2) or an ISO time with an offset"
AtOption = Annotated[str | None, typer.Option("--at", help=f"Select {_TIME}.")]
FromTimeOption = Annotated[str | None, typer.Option("--from", help=f"Start at {_TIME}.")]
ToTimeOption = Annotated[str | None, typer.Option("--to", help="End before this time, in the same format.")]
FromDateOption = Annotated[str | None, typer.Option("--from", help="Select every recorded date from this one on.")]
ToDateOption = Annotated[str | None, typer.Option("--to", help="Select every recorded date up to this one.")]

EpochMsOption = Annotated[
    bool | None,
    typer.Option(
        "--episode-epoch-ms/--no-episode-epoch-ms",
        help="Write times as Unix milliseconds (default: HARVESTER_EPISODE_EPOCH_MS, else as recorded).",
    ),
]
SeriesJsonlOption = Annotated[
    bool | None,
    typer.Option(
        "--episode-series-jsonl/--no-episode-series-jsonl",
        help="Write a file of seconds beside each episode (default: HARVESTER_EPISODE_SERIES_JSONL, else as recorded).",
    ),
]


class Mode(StrEnum):
    """What a date is traded on."""

    EVENT = "event"
    BARS = "bars"


def toggles_of(epoch_ms: bool | None, series_jsonl: bool | None) -> dict[str, bool]:
    """The artefact toggles given by an option or the environment, by setting name; the run decides the others.

    Raises:
        BadSetting: a variable holds neither true nor false.
    """
    import os

    from harvester.config import Settings
    from harvester.projections.run_params import TOGGLES

    settings = Settings.load({"episode_epoch_ms": epoch_ms, "episode_series_jsonl": series_jsonl}, os.environ)
    return {name: getattr(settings, name) for name in TOGGLES if settings.origin(name) != "default"}


def date_of(given: str | None, home: Home) -> dt.date:
    """The trading date given with `--date`, else the newest recorded one, which is then named on stderr.

    Raises:
        BadSetting: `given` is not a date.
        NoLog: no date is given, and nothing is recorded.
    """
    from harvester.eventlog.runs_of_day import newest_date
    from harvester.home import parse_date

    if given is not None:
        return parse_date(given)
    day = newest_date(home)
    typer.echo(f"hv: {day}, the newest recorded date", err=True)
    return day


def words_of(text: str | None) -> list[str]:
    """The words of a comma-separated list without the spaces around them; empty words are left out."""
    return [word.strip(" ") for word in (text or "").split(",") if word.strip(" ")]


def check_can_ask(what: str, *, yes: bool, as_json: bool) -> None:
    """Check that `confirm_deletion` can ask, or need not.

    Raises:
        BadSetting: it cannot, and `yes` is false; `what` is the option or command that asks.
    """
    from harvester.errors import BadSetting

    if not yes and (as_json or not sys.stdin.isatty()):
        why = "--json cannot ask" if as_json else "there is no terminal"
        raise BadSetting(f"{what} asks before it deletes, but {why}; give --yes to delete without asking")


def confirm_deletion(listed: DeletionList, consequence: str, *, yes: bool, as_json: bool, typed: str = "") -> bool:
    """Print what will be deleted, with the consequence, and ask unless `yes` is true; `typed` is then the answer."""
    size = sum(file.bytes for file in listed.files)
    if not as_json:
        typer.echo(f"to delete: {len(listed.files)} files, {size:,} bytes below temp/; {consequence}")
    if yes or not typed:
        return yes or typer.confirm("delete them?")
    return str(typer.prompt(f"type {typed} to delete them", default="", show_default=False)).strip() == typed
