"""`hv eod`: fold a finished date into memory, and delete temporary data whose replacement is proven."""

from __future__ import annotations

import json as json_text
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import (
    EpochMsOption,
    HomeOption,
    JsonOption,
    NamedDateOption,
    SeriesJsonlOption,
    YesOption,
    check_can_ask,
    confirm_deletion,
    toggles_of,
)

if TYPE_CHECKING:
    from harvester.endofday.eod import EodReport
    from harvester.eventlog.deletion import DeletionList


def eod(
    *,
    date: NamedDateOption,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write buckets and series as Parquet too.")] = False,
    delete_temp: Annotated[
        bool, typer.Option("--delete-temp", help="Delete the date's files below temp/, after proof.")
    ] = False,
    archive: Annotated[bool, typer.Option("--archive", help="Keep the log under memory/archive/.")] = False,
    allow_not_live: Annotated[
        bool, typer.Option("--allow-not-live", help="Learn from delayed and frozen data too.")
    ] = False,
    learn_starved: Annotated[
        bool,
        typer.Option("--learn-starved", help="Learn from a date whose recording did not keep up with market time."),
    ] = False,
    yes: YesOption = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Fold a date whose recording stopped before the end of its session.")
    ] = False,
    replace_closed: Annotated[
        bool,
        typer.Option("--replace-closed", help="Fold a closed date again although it lost runs or holds other ones."),
    ] = False,
    episode_epoch_ms: EpochMsOption = None,
    episode_series_jsonl: SeriesJsonlOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fold a finished date into memory. If it is interrupted, run it again: it continues where it stopped.

    Without --delete-temp nothing is deleted. With --delete-temp the log is deleted for good, unless --archive keeps it.
    It asks before it deletes; where it cannot ask, --yes is required.

    A date is finished when its last recording reached its end (--until, --duration, the end of extended trading), was
    stopped after the regular close, or has events up to the end of extended trading. Any other date is refused, because
    folding closes a date; --unfinished folds it anyway.

    A closed date that lost a run, or holds another recording than it was closed with, is refused with exit code 1: what
    is kept of it would shrink. --replace-closed folds what is there.

    Times, and series beside episodes, are as recorded, unless an option or the environment says otherwise: then the
    journal and the date's episode files are written so. Without either, episode files may have any setting of both.

    Nothing is learned from a starved date, whose recording did not keep up with market time (`hv health`), unless
    --learn-starved is given.

    Memory is a chain of versions, one per day (`hv memory history`). Model and recommendations rest on live days alone;
    days of other kinds (paper, model, tape, served, mixed, unknown) are kept apart in it.

    Memory learns from the log only. Episode files that differ from the log prevent deletion: exit code 11.

    Example: hv eod --date 2025-07-17 --archive --delete-temp
    """
    from cli.progress_bar import ProgressBar
    from harvester.artefacts.episode_files import WAY_OUT
    from harvester.endofday.eod import NOT_CONFIRMED, EodOptions
    from harvester.endofday.eod import eod as run
    from harvester.errors import HarvesterError, Mismatch
    from harvester.home import Home, parse_date

    if delete_temp:
        check_can_ask("--delete-temp", yes=yes, as_json=as_json)
    with ProgressBar(f"folding {date}", quiet=as_json) as bar:

        def confirm(listed: DeletionList) -> bool:
            bar.pause()
            kept = f"the log is kept under {listed.log_kept}" if listed.log_kept else ""
            return confirm_deletion(
                listed, kept or "the log of this date is deleted for good", yes=yes, as_json=as_json
            )

        wishes = EodOptions(
            parquet=parquet,
            delete_temp=delete_temp,
            archive=archive,
            allow_not_live=allow_not_live,
            learn_starved=learn_starved,
            unfinished=unfinished,
            replace_closed=replace_closed,
            toggles=toggles_of(episode_epoch_ms, episode_series_jsonl),
            progress=bar.step,
            confirm=confirm,
        )
        report = run(Home.find(home).on(parse_date(date)), wishes)
    if as_json:
        typer.echo(json_text.dumps(report.plain()))
    else:
        _show(report)
    if report.damaged:
        raise HarvesterError(f"{date} is folded, but memory has damage: {report.damaged[0]}")
    if wrong := [difference for difference in report.differences if difference.what != "missing"]:
        first, more = wrong[0], f", {len(wrong) - 1} more" if len(wrong) > 1 else ""
        kept = "; deletion stopped" if delete_temp else ""
        raise Mismatch(
            f"{date} is folded from its log, but {first.path} is {first.what}{more}{kept}: "
            f"{WAY_OUT[first.what]}, then run this again"
        )
    if report.stopped and report.stopped != NOT_CONFIRMED:
        raise Mismatch(f"deletion of {date} stopped: {report.stopped}; check it, then run this again")


def _show(report: EodReport) -> None:
    from harvester.endofday.eod import NOT_CONFIRMED

    for note in report.notes:
        typer.echo(note)
    typer.echo(f"{report.trading_date}  through seq {report.through_seq}, content {report.content_hash}")
    if report.memory_hash:
        left_out = ", ".join(f"{n} {reason}" for reason, n in report.left_out.items())
        typer.echo(
            f"  {report.episodes} episodes, {report.learned} learned from" + (f" ({left_out})" if left_out else "")
        )
        if report.starved:
            what = "nothing was learned (--learn-starved)" if "STARVED" in report.left_out else "learned from"
            typer.echo(f"  starved: {report.starved}; {what}")
        if report.kind != "live":
            typer.echo(f"  kind {report.kind}: kept apart in memory; model and recommendations rest on live days")
        typer.echo(f"  pnl {report.pnl_usd:.2f} USD after costs, simulated, of the {report.learned} learned from")
        typer.echo(f"  memory {report.memory_hash}: {report.version}")
        typer.echo(f"  model: {report.verdict}")
    for path in report.written:
        typer.echo(f"  wrote {path}")
    for difference in report.differences:
        if difference.what != "missing":
            typer.echo(f"  {difference.what}: {difference.path}")
    if report.stopped == NOT_CONFIRMED:
        typer.echo(
            f"  nothing was deleted: {' and '.join(report.stays)} stay; run with --delete-temp again to delete them"
        )
    if report.deleted:
        typer.echo(f"  deleted {report.deleted} files and folders below temp/")
