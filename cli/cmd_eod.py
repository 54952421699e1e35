"""`hv eod`: fold a finished date into memory, and delete what is proven to be kept elsewhere."""

from __future__ import annotations

import json as json_text
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from harvester.recorder.deletion import Plan
    from harvester.recorder.eod import Report


def eod(
    *,
    date: Annotated[str, typer.Option("--date", help="Trading date, yyyy-MM-dd.")],
    parquet: Annotated[bool, typer.Option("--parquet", help="Keep buckets and series as Parquet too.")] = False,
    delete_temp: Annotated[
        bool, typer.Option("--delete-temp", help="Delete the date below temp/, after proof.")
    ] = False,
    archive: Annotated[bool, typer.Option("--archive", help="Keep the log under memory/archive/.")] = False,
    allow_not_live: Annotated[
        bool, typer.Option("--allow-not-live", help="Learn from delayed and frozen data too.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before deleting; a must without a terminal and with --json.")
    ] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Fold a date although its recording broke off before its session did.")
    ] = False,
    home: Annotated[Path | None, typer.Option("--home", help="Data root; else HV_HOME, else this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for scripts.")] = False,
) -> None:
    """Fold a finished date into memory. Stopped at any point, running it again finishes the job.

    Without --delete-temp nothing is deleted. With it the log goes for ever, unless --archive keeps it; it asks first,
    and where it cannot ask it needs --yes.

    A date is finished when its last recording came to the end it was given (--until, --duration, the end of extended
    trading), was stopped after the regular close, or holds events up to the end of extended trading. Any other date
    is refused, since folding closes it; --unfinished folds it all the same.

    Episode files that are not what the log gives stop deletion and end it with exit code 11; memory learns from the log
    alone.

    Example: hv eod --date 2025-07-17 --archive --delete-temp
    """
    from cli.bars import Bar
    from harvester.artefacts.episodes import WAY_OUT
    from harvester.errors import BadSetting, Mismatch
    from harvester.home import Home, parse_date
    from harvester.recorder.eod import NOT_CONFIRMED, Wishes
    from harvester.recorder.eod import eod as run

    if delete_temp and not yes and (as_json or not sys.stdin.isatty()):
        why = "--json asks no questions" if as_json else "there is no terminal to ask on"
        raise BadSetting(f"--delete-temp asks before it deletes, and {why}: give --yes to delete without asking")
    with Bar(f"folding {date}", quiet=as_json) as bar:

        def confirm(plan: Plan) -> bool:
            bar.pause()
            return _confirmed(plan, ask=not yes, quiet=as_json)

        wishes = Wishes(
            parquet=parquet,
            delete_temp=delete_temp,
            archive=archive,
            allow_not_live=allow_not_live,
            unfinished=unfinished,
            progress=bar.step,
            confirm=confirm,
        )
        report = run(Home.find(home), parse_date(date), wishes)
    if as_json:
        typer.echo(json_text.dumps(report.plain()))
    else:
        _show(report)
    if wrong := [difference for difference in report.differences if difference.what != "missing"]:
        first, more = wrong[0], f", {len(wrong) - 1} more" if len(wrong) > 1 else ""
        kept = "; nothing more is deleted" if delete_temp else ""
        raise Mismatch(
            f"{date} is folded as its log gives it, but {first.path} is {first.what}{more}{kept}: "
            f"{WAY_OUT[first.what]}, then run this again"
        )
    if report.stopped and report.stopped != NOT_CONFIRMED:
        raise Mismatch(f"nothing more of {date} is deleted: {report.stopped}; look at it, then run this again")


def _confirmed(plan: Plan, *, ask: bool, quiet: bool) -> bool:
    size = sum(doomed.bytes for doomed in plan.files)
    fate = f"the log stays under {plan.log_kept}" if plan.log_kept else "the log of this date goes for ever"
    if not quiet:
        typer.echo(f"to delete: {len(plan.files)} files, {size:,} bytes below temp/; {fate}")
    return typer.confirm("delete them?") if ask else True


def _show(report: Report) -> None:
    from harvester.recorder.eod import NOT_CONFIRMED

    for note in report.notes:
        typer.echo(note)
    typer.echo(f"{report.trading_date}  through seq {report.through_seq}, content {report.content_hash}")
    if report.memory_hash:
        left_out = ", ".join(f"{n} {reason}" for reason, n in report.left_out.items())
        typer.echo(
            f"  {report.episodes} episodes, {report.learned} learned from" + (f" ({left_out})" if left_out else "")
        )
        typer.echo(f"  pnl {report.pnl_usd:.2f} USD after costs, simulated")
        typer.echo(f"  memory {report.memory_hash}: {report.version}")
        typer.echo(f"  model: {report.verdict}")
    for path in report.written:
        typer.echo(f"  wrote {path}")
    for difference in report.differences:
        if difference.what != "missing":
            typer.echo(f"  {difference.what}: {difference.path}")
    if report.stopped == NOT_CONFIRMED:
        typer.echo(f"  nothing was deleted: {' and '.join(report.stays)} stay; --delete-temp again asks again")
    if report.deleted:
        typer.echo(f"  deleted {report.deleted} files and folders below temp/")
