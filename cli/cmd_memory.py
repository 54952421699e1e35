"""`hv memory`: show what was learned, compare and check its versions, and make it again from the kept episodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from harvester.endofday.kept_memory import MemoryChange
    from harvester.home import Home
    from harvester.memory.fold_days import Memory

memory = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Show what was learned, compare and check its versions, make it again from memory/datasets.

    A version is the memory through one day and the child of the one before. VERSION is a date (the current version
    through that day), the first digits of a hash, or a file name below memory/versions.

    Example: hv memory show
    """,
)

VersionArgument = Annotated[
    str | None, typer.Argument(metavar="VERSION", help="Use this version (default: memory_latest.json).")
]
DayArgument = Annotated[str, typer.Argument(metavar="DATE", help="Take this day, yyyy-MM-dd.")]


@memory.command()
def show(
    version: VersionArgument = None,
    *,
    kind: Annotated[
        str | None, typer.Option("--kind", help="Show what days of this kind give, recommendations and model too.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a version: its days, the model's verdict, setups and symbols, each with its kind of data.

    Model and recommendations rest on live days of the newest rules alone, unless --kind names another kind.

    Example: hv memory show --kind live
    """
    from harvester.errors import BadSetting
    from harvester.events.kinds import SourceKind
    from harvester.memory.fold_days import of_kind

    kinds = [one.value for one in SourceKind]
    if kind is not None and kind not in kinds:
        raise BadSetting(f"--kind {kind!r} is not a kind of data; use one of {', '.join(kinds)}")
    found = _version(_home(home), version)
    if kind is not None:
        found = of_kind(found, kind)
    if as_json:
        typer.echo(json.dumps(found))
        return
    _show(found)


def _show(found: Memory) -> None:
    from harvester.memory.fold_days import days_of

    typer.echo(f"memory {found['hash']} through {found['date']}, rules {found['rules']}")
    typer.echo(f"  model ({found['model']['kind']}): {found['model']['verdict']}")
    for name in ("focus_symbols", "reduce_symbols"):
        kind = found["recommendations"]["kind"]
        for row in found["recommendations"][name]:
            typer.echo(
                f"  {name.partition('_')[0]} {row['symbol']} ({kind}, the user's thresholds): n {row['n']}, "
                f"win rate {_interval(row['win_rate_interval'])}, {row['pnl_usd']:.2f} USD"
            )
    for row in found["setups"]:
        typer.echo(
            f"  setup {row['setup']} ({row['kind']}, {row['mode']}): n {row['n']}, hit rate "
            f"{_interval(row['hit_rate'])}, mean R {_interval(row['mean_r'])}"
        )
    for row in found["symbol_profiles"]:
        typer.echo(
            f"  symbol {row['symbol']} ({row['kind']}, {row['mode']}): n {row['trade_count']}, win rate "
            f"{_interval(row['win_rate_interval'])}, {row['pnl_usd']:.2f} USD"
        )
    for day in days_of(found):
        typer.echo(
            f"  {day.date}  {day.kind}, rules {day.rules}: {day.episodes} episodes, {day.learned} learned from, "
            f"content {day.content_hash[:12]}"
        )


def _interval(estimate: dict[str, Any]) -> str:
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


@memory.command()
def history(*, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the versions that memory_latest.json descends from, newest first.

    Example: hv memory history
    """
    from harvester.memory.chain import Chain

    root = _home(home)
    chain = Chain(root)
    rows = [
        {
            "date": version["date"],
            "hash": version["hash"],
            "parent": version["parent"],
            "days": len(version["days"]),
            "file": path.name if (path := chain.path_of(version["date"], version["hash"])) else None,
        }
        for version in chain.walk(_version(root, None))
    ]
    for row in rows:
        line = f"{row['date']}  {row['hash']}  {row['days']} days  {row['file']}"
        typer.echo(json.dumps(row) if as_json else line)


@memory.command()
def diff(
    one: Annotated[str, typer.Argument(metavar="V1", help="Compare this version …")],
    other: Annotated[str, typer.Argument(metavar="V2", help="… with this one.")],
    *,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what differs between two versions: days, counts and figures, one per line.

    Example: hv memory diff 2025-07-17 2025-07-18
    """
    from harvester.memory.chain import differences

    root = _home(home)
    for row in differences(_version(root, one), _version(root, other)):
        typer.echo(json.dumps(row) if as_json else f"{row['what']}: {_said(row['first'])} -> {_said(row['second'])}")


def _said(value: Any) -> str:
    return "absent" if value is None else json.dumps(value)


@memory.command()
def verify(*, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Check every version against its hash, the chain to its beginning, and memory against the kept episodes.

    Exit code 1: a file is damaged or missing. 11: the kept episodes give another memory. `hv verify` and `hv eod` check
    all but the last.

    Example: hv memory verify
    """
    from harvester.endofday.kept_memory import rebuild_memory
    from harvester.errors import HarvesterError, Mismatch
    from harvester.memory.chain import damage_of_memory

    root = _home(home)
    found = _version(root, None)
    damaged = [str(damage) for damage in damage_of_memory(root)]
    equal = not damaged and rebuild_memory(root)["hash"] == found["hash"]
    if as_json:
        typer.echo(json.dumps({"hash": found["hash"], "days": len(found["days"]), "damaged": damaged, "equal": equal}))
    for line in damaged:
        typer.echo(f"BAD  {line}", err=as_json)
    if damaged:
        raise HarvesterError(f"{len(damaged)} files of memory are damaged or missing; the first: {damaged[0]}")
    if not equal:
        raise Mismatch(
            f"the kept episodes of {len(found['days'])} days give another memory than {found['hash']}; "
            "`hv memory rebuild` makes it from them"
        )
    if not as_json:
        typer.echo(f"ok   {len(found['days'])} days, each version and its parent, equal to the kept episodes")


@memory.command()
def evidence(
    *,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", help="Show only these groups: setup, symbol or hour; repeatable (default: all)."),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", help="Pool the days of this kind of data; repeatable (default: live)."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which setups, symbols and hours of entry (New York) are evidence, and which are noise.

    Days are counted, not trades: those of today's rules that memory holds, starved ones left out. A group is evidence
    when its mean R differs from 0 with false discoveries controlled over all groups, also those that --by hides, and
    its interval after partial pooling excludes 0. `N more days` would show the present effect with a power of 80 %. R
    is winsorised at 5. Gates are left out: an entry that a gate stopped has no outcome.

    Exit code 3: memory holds no such day.

    Example: hv memory evidence --by setup

    Example: hv memory evidence --kind live --kind paper --json
    """
    from cli.evidence_table import lines_of
    from harvester.endofday.kept_evidence import GROUPS, kept_evidence
    from harvester.errors import BadSetting
    from harvester.memory.fold_days import LEARNED_KIND

    for name in by or ():
        if name not in GROUPS:
            raise BadSetting(f"--by {name!r} is not a kind of group; use one of {', '.join(GROUPS)}")
    groups = [name for name in GROUPS if name in (by or GROUPS)]
    found = kept_evidence(_home(home), kind or [LEARNED_KIND])
    if as_json:
        shown = {name: [row for row in found.evidence[name] if row["kind"] in groups] for name in ("kinds", "rows")}
        typer.echo(json.dumps(found.as_json() | {"evidence": found.evidence | shown}, allow_nan=False))
        return
    for line in lines_of(found, groups):
        typer.echo(line)


@memory.command()
def rebuild(*, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Make every version again from memory/datasets, and memory_latest.json; files that are right are not rewritten.

    Versions that no longer belong to the chain stay: runs name them.

    Example: hv memory rebuild
    """
    from harvester.endofday.kept_memory import make_again

    root = _home(home)
    _changed(root, make_again(root), as_json=as_json)


@memory.command()
def undo(
    day: DayArgument,
    *,
    include: Annotated[bool, typer.Option("--include", help="Take an excluded day in again.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a day out of memory. Its dataset stays, marked excluded, and `hv eod` leaves it out from then on.

    The versions of the days after it are made again; those that held it stay as files.

    Example: hv memory undo 2025-07-17

    Example: hv memory undo 2025-07-17 --include
    """
    from harvester.endofday.kept_memory import undo as take_out
    from harvester.home import parse_date

    root = _home(home)
    _changed(root, take_out(root.on(parse_date(day)), include=include), as_json=as_json)


def _changed(root: Home, made: MemoryChange, *, as_json: bool) -> None:
    value = None if made.memory is None else made.memory["hash"]
    days = 0 if made.memory is None else len(made.memory["days"])
    files = [path.relative_to(root.root).as_posix() for path in made.files]
    if as_json:
        typer.echo(json.dumps({"hash": value, "days": days, "versions": files, "notes": made.notes}))
        return
    for line in made.notes:
        typer.echo(line)
    typer.echo(f"memory {value}: {days} days" if value else "memory holds no day")
    for file in files:
        typer.echo(f"  version {file}")


def _home(given: Path | None) -> Home:
    from harvester.home import Home

    return Home.find(given)


def _version(home: Home, wanted: str | None) -> Memory:
    from harvester.memory.chain import version_named

    return version_named(home, wanted)
