"""`hv log`: list, print, verify and repair the event log.

Tables on a terminal, tab-separated lines in a pipe, one object per line with --json.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import (
    DateOption,
    HomeOption,
    JsonOption,
    NamedDateOption,
    YesOption,
    check_can_ask,
    confirm_deletion,
    date_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harvester.eventlog.compact import Compaction
    from harvester.eventlog.deletion import DeletionList
    from harvester.eventlog.reader import Day, RunView
    from harvester.eventlog.verify_log import LogReport
    from harvester.events.batch import Batch
    from harvester.home import DatePaths, Home

log = typer.Typer(
    no_args_is_help=True,
    help="List, print, verify and repair the event log.\n\n"
    "Example: hv log show --date 2025-07-17 --kind trade --limit 5",
)

KindOption = Annotated[list[str] | None, typer.Option("--kind", help="Print only events of this kind; repeatable.")]

_BROKEN_OFF = "broken off"
_POLL_S = 0.25
_TEXT_MAX, _TEXT_MAX_PIPED = 60, 200  # characters of a text; --json prints all of it


@log.command()
def ls(*, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List every recorded run of every date.

    It reads journals, not the events; `hv log verify` checks those. Runs in quarantine, and runs that `hv eod` deleted
    or archived, are listed too; `hv status --date` shows what is kept.

    Example: hv log ls
    """
    from harvester.errors import HarvesterError, NoLog
    from harvester.eventlog.eod_mark import closed_dates
    from harvester.eventlog.runs_of_day import recorded_dates
    from harvester.home import Home, parse_date

    root = Home.find(home)
    rows: list[list[Any]] = []
    for name in sorted({*recorded_dates(root), *closed_dates(root)}):
        try:
            rows += [[name, *row] for row in _runs_of(root.on(parse_date(name)))]
        except HarvesterError as error:
            rows.append([name, "", f"unreadable: {error}", 0, "", "", 0])
    if not rows:
        raise NoLog(f"nothing is recorded under {root.root}; start with hv record, or give another --home")
    headers = ["date", "run", "status", "events", "first", "last", "bytes"]
    if as_json:
        _lines(dict(zip(headers, row, strict=True)) for row in rows)
    elif sys.stdout.isatty():
        short = [[*row[:4], _of_day(row[4]), _of_day(row[5]), row[6]] for row in rows]
        _table([*headers[:4], "first in New York", "last", "bytes"], short)
    else:
        _table(headers, rows)


@log.command()
def show(
    *,
    date: DateOption = None,
    home: HomeOption = None,
    kind: KindOption = None,
    from_seq: Annotated[int, typer.Option(help="Start at this seq.")] = 1,
    limit: Annotated[int, typer.Option(min=0, help="Print at most N events, 0 = all.")] = 50,
    salvage: Annotated[bool, typer.Option(help="Print the good part of a damaged log.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print events in seq order.

    Long texts are shortened; --json prints them whole. With --salvage it prints the good part of a damaged log, and
    lists the losses on stderr.

    Example: hv log show --date 2025-07-17 --kind trade --limit 5
    """
    from harvester.errors import ranges_text
    from harvester.eventlog.reader import open_day

    kinds, root = _kinds(kind), _home(home)
    day = open_day(date_of(date, root), root, salvage=salvage)
    most, names = limit or sys.maxsize, _names(day)
    left = most
    for batch in day.batches(from_seq=from_seq, rows_max=10_000):
        for row in _events(batch, kinds):
            if not left:
                break
            _print_event(row, names, as_json=as_json)
            left -= 1
        if not left:
            break
    if left == most:
        of = f" of kind {' or '.join(kind)}" if kind else ""
        ends = f"the log of {day.trading_date} ends with seq {day.last_seq:,}"
        typer.echo(f"hv: no event{of} from seq {from_seq:,} on; {ends}", err=True)
    if day.damages:
        typer.echo(f"hv: salvaged, good seq: {ranges_text(day.good)}", err=True)
        for damage in day.damages:
            typer.echo(f"hv: lost: {damage}", err=True)


@log.command()
def tail(
    *,
    date: DateOption = None,
    home: HomeOption = None,
    kind: KindOption = None,
    lines: Annotated[int, typer.Option("-n", help="Start with the last N events.")] = 10,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Print new events as they are committed; Ctrl-C ends.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the last events, and with -f the new ones.

    Example: hv log tail -f --date 2025-07-17
    """
    from harvester.eventlog.follow import Follower
    from harvester.eventlog.reader import open_day

    kinds, root = _kinds(kind), _home(home)
    trading_date = date_of(date, root)
    day = open_day(trading_date, root)
    rows: list[dict[str, Any]] = []
    reach, names = max(lines, 1), _names(day)
    while len(rows) < lines:  # rare kinds may be far back: look ten times as far each time
        rows = [row for batch in day.batches(from_seq=day.last_seq - reach + 1) for row in _events(batch, kinds)]
        if reach >= day.last_seq:
            break
        reach *= 10
    for row in rows[-lines:] if lines else ():
        _print_event(row, names, as_json=as_json)
    follower = Follower(root.on(trading_date), day.last_seq + 1)
    try:
        while follow:
            for batch in follower.poll():
                for row in _events(batch, kinds):
                    _print_event(row, names, as_json=as_json)
            sys.stdout.flush()
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        return


@log.command()
def verify(*, date: DateOption = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Verify every byte: checksums, hash chain, content hash, schemas, seq without holes, ts_recv never decreasing.

    A closed date must also hold the runs that `hv eod` closed it with, except those that `hv eod` deleted.

    Exit code 0: clean. 1: damaged. Other codes: it could not run (2; no log 3; a newer format 4).

    Example: hv log verify --date 2025-07-17
    """
    from cli.progress_bar import ProgressBar
    from harvester.eventlog.lock import DateLock
    from harvester.eventlog.verify_log import verify_day

    root = _home(home)
    trading_date = date_of(date, root)
    with ProgressBar(f"verifying {trading_date}", quiet=as_json) as bar:
        report = verify_day(root.on(trading_date), bar.update)
    if as_json:
        _lines([_report_json(report)])
    else:
        recorded = DateLock(root.on(trading_date)).held_by() is not None
        _show_report(report, running="running" if recorded else _BROKEN_OFF)
    raise typer.Exit(report.exit_code)


@log.command()
def recover(
    *,
    date: NamedDateOption,
    home: HomeOption = None,
    set_aside: Annotated[
        bool, typer.Option("--set-aside", help="Move damaged runs to quarantine/; their seqs are lost.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Move the torn bytes of killed runs to quarantine/ and mark the runs recovered.

    `hv record` does the same when it starts. The command is refused while the date is being recorded (exit code 5).

    With --set-aside, damaged runs are moved to quarantine/ first, so that recording of the date can continue. Numbering
    continues after their last seq; readers and `hv log verify` report the hole.

    Example: hv log recover --date 2025-07-17
    """
    from harvester.eventlog.recover import recover_day, set_aside_day
    from harvester.home import parse_date

    asides = set_aside_day(_home(home).on(parse_date(date))) if set_aside else []
    for note in asides if not as_json else ():
        typer.echo(str(note), err=True)
    recovered = recover_day(_home(home).on(parse_date(date)))
    if as_json:
        runs = [
            {"run": r.run, "last_seq": r.last_seq, "torn": r.torn, "quarantine": _text(r.quarantine)} for r in recovered
        ]
        _lines([{"trading_date": date, "recovered": runs, "set_aside": asides}])
    else:
        for recovery in recovered:
            typer.echo(str(recovery))
        if not recovered and not asides:
            typer.echo(f"nothing to recover: every run of {date} has ended")
            typer.echo(f"this does not repair damage; hv log verify --date {date} checks for it")
        elif asides:
            typer.echo(f"recording of {date} can continue; hv log verify keeps reporting the lost seqs")


@log.command()
def compact(*, date: NamedDateOption, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Rewrite the finished runs of a date in few large compressed batches: same events, same content hash.

    The new files are read back and compared before the old ones are deleted. `hv record` does the same when it ends.
    The command is refused while the date is being recorded (exit code 5). If it is interrupted, run it again to finish.

    Example: hv log compact --date 2025-07-17
    """
    from harvester.eventlog.compact import compact_day
    from harvester.home import parse_date

    trading_date, root = parse_date(date), _home(home)
    if sys.stderr.isatty() and not as_json:
        done = _compact_with_bar(root.on(trading_date))
    else:
        done = compact_day(root.on(trading_date))
    if as_json:
        _lines([{"trading_date": date, "compacted": [dict(vars(one)) for one in done]}])
        return
    for one in done:
        typer.echo(str(one))
    if not done:
        typer.echo(f"nothing to compact: every run of {date} is compacted or empty")


@log.command()
def remove(
    *,
    date: NamedDateOption,
    discard: Annotated[bool, typer.Option("--discard", help="Remove a date with market events too, for good.")] = False,
    yes: YesOption = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a date without market events, or with --discard any date that is not closed, such as a trial.

    Without --discard a date with a single tick, trade, quote, book row, bar or scanner row is refused (exit code 2). A
    recording that began when the market had ended may hold such rows: histories, and the last quote. With --discard the
    date must be typed again. A closed, archived or damaged date is always refused.

    It deletes as `hv eod --delete-temp` does: by a list, and only files that are as listed. If it is interrupted, run
    it again: it continues where it stopped.

    Example: hv log remove --date 2025-07-19
    """
    from harvester.endofday.remove import remove as run
    from harvester.home import parse_date

    def confirm(listed: DeletionList, events: int) -> bool:
        check_can_ask("hv log remove", yes=yes, as_json=as_json)
        held = f"{date} has {events:,} market events, deleted for good" if events else f"{date} has no market event"
        return confirm_deletion(listed, held, yes=yes, as_json=as_json, typed=date if events else "")

    deleted = run(_home(home).on(parse_date(date)), confirm, discard=discard)
    if as_json:
        _lines([{"trading_date": date, "deleted": deleted or 0}])
    else:
        typer.echo("nothing was deleted" if deleted is None else f"deleted {deleted} files of {date}")


def _runs_of(paths: DatePaths) -> list[list[Any]]:
    """Name, status, events, first and last ts_recv (ISO), bytes of each run of a date, deleted runs included."""
    from harvester.eventlog.closed_runs import differences_from_mark
    from harvester.eventlog.lock import DateLock
    from harvester.eventlog.reader import run_view
    from harvester.eventlog.runs_of_day import between_runs, read_marks, read_runs

    closed, asides, _ = read_marks(paths)
    runs = read_runs(paths, none_allowed=closed is not None)
    lost = {damage.last_seq for damage in differences_from_mark(paths, runs, closed, asides)}
    misplaced = {hole.file.parent for hole in between_runs(runs, closed, paths.log, asides)}
    rows: list[list[Any]] = [[note.run, "set aside", 0, "", _iso(note.last_ts), 0] for note in asides]
    for run in runs:
        view = run_view(run)
        status = "damaged" if run.damages or run.folder in misplaced else view.status
        if status == "running" and DateLock(paths).held_by() is None:
            status = _BROKEN_OFF  # killed: the next hv record or hv log recover marks it recovered
        elif status == "compacted" and run.folder.parent == paths.archive:
            status = "archived"
        rows.append([view.run, status, view.rows, _iso(view.first_ts), _iso(view.last_ts), view.n_bytes])
    known, before = {row[0] for row in rows}, 0
    for one in closed.runs if closed else ():
        if one.run not in known:
            status = "lost" if one.last_seq in lost else "deleted"
            rows.append([one.run, status, one.last_seq - before, "", "", 0])
        before = one.last_seq
    if closed and not closed.runs and not rows:
        rows.append(["", "lost" if lost else "deleted", closed.last_seq, "", _iso(closed.last_ts), 0])
    return sorted(rows, key=lambda row: str(row[0]))


def _home(given: Path | None) -> Home:
    from harvester.home import Home

    return Home.find(given)


def _kinds(given: list[str] | None) -> set[str]:
    from harvester.errors import BadSetting
    from harvester.events.kinds import Kind

    unknown = sorted(set(given or ()) - {kind.value for kind in Kind})
    if unknown:
        raise BadSetting(f"--kind {unknown[0]!r} is not an event kind; choose from {', '.join(Kind)}")
    return set(given or (kind.value for kind in Kind))


def _events(batch: Batch, kinds: set[str]) -> Iterable[dict[str, Any]]:
    from harvester.events.batch import Batch

    chosen = Batch({kind: rows for kind, rows in batch.tables.items() if kind.value in kinds})
    return ({"seq": row["seq"], "kind": kind.value, **row} for kind, row in chosen.events())


def _names(day: Day) -> dict[int, str]:
    """con_id → symbol, from the contracts in the log."""
    contracts = day.table("contract").select(["con_id", "symbol"]).to_pylist()
    return {row["con_id"]: row["symbol"] for row in contracts if row["symbol"]}


_WIDTHS = (8, 30, 8, 6, 9)  # on a terminal, of seq, time, kind, symbol and request id


def _print_event(row: dict[str, Any], names: dict[int, str], *, as_json: bool) -> None:
    if as_json:
        _lines([row])
        return
    who = names.get(row["con_id"]) or (f"con_id={row['con_id']}" if row["con_id"] else "-")
    head = [str(row["seq"]), _iso(row["ts_recv"]), row["kind"], _shown(who).strip('"'), f"req_id={row['req_id']}"]
    if row.get("ts_event") is not None:
        row = row | {"ts_event": _iso(row["ts_event"])}
    shown = {"seq", "ts_recv", "kind", "con_id", "req_id"}
    rest = [f"{name}={_shown(value)}" for name, value in row.items() if name not in shown and value is not None]
    if sys.stdout.isatty():
        aligned = (f"{text:<{width}}" for text, width in zip(head, _WIDTHS, strict=True))
        typer.echo("  ".join([*aligned, *rest]))
    else:
        typer.echo("\t".join([*head, *rest]))


def _shown(value: Any) -> str:
    if not isinstance(value, str):
        return str(value)
    longest = _TEXT_MAX if sys.stdout.isatty() else _TEXT_MAX_PIPED
    if len(value) > longest:
        value = f"{value[:longest]}… ({len(value):,} characters)"
    # The text comes from outside: control characters must not reach a terminal.
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in json.dumps(value, ensure_ascii=False))


def _compact_with_bar(paths: DatePaths) -> list[Compaction]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from harvester.eventlog.compact import compact_day
    from harvester.eventlog.runs_of_day import read_runs

    total = 2 * sum(line.rows for run in read_runs(paths) for line in run.commits)
    columns = ("compacting", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("compact", total=total)
        return compact_day(paths, progress=lambda _, rows: bar.advance(task, rows))


def _report_json(report: LogReport) -> dict[str, Any]:
    return {
        "trading_date": report.trading_date.isoformat(),
        "clean": report.clean,
        "events": report.rows,
        "bytes": report.n_bytes,
        "identity": report.identity or None,
        "runs": [
            {"run": run.run, "status": run.status, "last_seq": run.last_seq, "content_hash": run.content_hash}
            for run in report.runs
        ],
        "good": report.good,
        "problems": [
            {"file": str(p.file), "offset": p.offset, "what": p.what, "first_seq": p.first_seq, "last_seq": p.last_seq}
            for p in report.problems
        ],
        "notes": report.notes,
    }


def _show_report(report: LogReport, running: str) -> None:
    """Print the report; `running` is the status shown for a run without an end in the log."""
    from harvester.errors import ranges_text, salvage_move

    def status(run: RunView) -> str:
        return running if run.status == "running" else run.status

    headers = ["run", "status", "first seq", "last seq", "commits", "bytes", "content hash"]
    _table(
        headers,
        [[r.run, status(r), r.first_seq, r.last_seq, r.commits, r.n_bytes, r.content_hash] for r in report.runs],
    )
    for note in report.notes:
        typer.echo(f"note: {note}")
    for problem in report.problems:
        typer.echo(f"damaged: {problem}")
    if report.clean:
        typer.echo(f"clean: {report.rows} events in {report.n_bytes} bytes, identity {report.identity}")
    else:
        typer.echo(f"damaged in {len(report.problems)} places; good seq: {ranges_text(report.good)}")
        typer.echo(salvage_move(report.good))


def _table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    if not sys.stdout.isatty():
        for row in (headers, *rows):
            typer.echo("\t".join(str(cell) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for i, header in enumerate(headers):
        numeric = bool(rows) and all(isinstance(row[i], int) for row in rows)
        table.add_column(header, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    Console().print(table)


def _lines(objects: Iterable[dict[str, Any]]) -> None:
    import msgspec

    for item in objects:
        typer.echo(msgspec.json.encode(item).decode())


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _of_day(time: str) -> str:
    from harvester.calendar import of_day
    from harvester.eventlog.typed_times import read_iso

    return of_day(read_iso(time))[:8] if time.endswith("Z") else time


def _iso(ns: int) -> str:
    """Ns UTC as ISO-8601 without trailing zeros; empty for 0, the bare number outside the range of `datetime`."""
    from datetime import UTC, datetime

    from harvester.units import SECOND_NS

    if not ns:
        return ""
    seconds, rest = divmod(ns, SECOND_NS)
    try:
        whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return str(ns)
    return whole + (f".{rest:09d}".rstrip("0") if rest else "") + "Z"
