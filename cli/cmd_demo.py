"""`hv demo`: record, rebuild, verify and learn from a modelled trading day in one command."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DemoHomeOption, NamedDateOption, SymbolsOption, words_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date as Date  # noqa: N812 - `date` is the option's name

    from harvester.home import Home


def demo(
    *,
    date: NamedDateOption = "2025-07-17",
    symbols: SymbolsOption = "ACME,BOLT,CRUX,DYNE,EMBR",
    seed: Annotated[int, typer.Option("--seed", help="Set the random seed of the model.")] = 1,
    rate: Annotated[int, typer.Option("--rate", help="Set the orders per symbol and day in the model.")] = 5000,
    home: DemoHomeOption = Path("demo-home"),
) -> None:
    """Run a whole modelled trading day: simulated gateway, recorder, projections, verification, memory.

    Everything is real but the market: a TWS server on a loopback port, ib_async as the client, the log on disk. Market
    time jumps from event to event, so the day takes seconds; the same seed gives the same log, byte for byte.

    Example: hv demo --seed 7
    """
    # Before the libraries: loading them takes seconds, compiling them the first time most of a minute.
    _say("demo", f"a modelled trading day of {symbols}; the first run on a machine compiles for half a minute")
    import asyncio

    from cli.progress_bar import ProgressBar
    from harvester.demo import DemoDay, check_day, fresh_home, quiet_log, record_demo
    from harvester.home import Home, parse_date

    day = DemoDay(parse_date(date), tuple(words_of(symbols)), seed, rate)
    quiet_log()
    check_day(day)
    root = fresh_home(Home.find(home).on(day.trading_date))
    _say("1 record", "a simulated gateway plays the day, and the recorder records it through ib_async")
    with ProgressBar("recording", quiet=False) as bar:
        summary = asyncio.run(record_demo(root, day, bar.update))
    run = summary.runs[0]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in run.totals.rows.most_common(6))
    typer.echo(f"           {run.totals.last_seq:,} events, {run.totals.n_bytes:,} bytes: {kinds}")
    _rest(root, day.trading_date)


def _rest(home: Home, day: Date) -> None:
    from harvester.endofday.eod import eod
    from harvester.rebuild.parallel import ParallelTask, project_date
    from harvester.rebuild.verify_day import verify

    _say("2 project", "rebuild books, buckets, trades and episodes from the log with the same code")
    summary = project_date(ParallelTask(str(home.root), day.isoformat(), None, None, force=False))
    rows = ", ".join(f"{summary.rows[name]:,} {name}" for name in ("buckets", "decisions", "fills", "episodes"))
    typer.echo(f"           {rows}")
    _say("3 verify", "compare every byte with its checksum, live digests with replay, files with the log")
    result = verify(home.on(day))
    equal = f"{result.live.equal} of {result.live.points} live digests equal replay"
    typer.echo(f"           {equal}; log {result.log.identity[:16]}…")
    if result.exit_code:
        raise typer.Exit(result.exit_code)
    _say("4 eod", "fold the day's episodes into memory; nothing is deleted")
    report = eod(home.on(day))
    typer.echo(f"           {report.learned} episodes, {report.pnl_usd:+.2f} USD after costs; {report.verdict}")
    typer.echo("           (a modelled market is easier than a real one: this shows the mechanism, not an edge)")
    _look(home, day, [Path(name) for name in summary.files])


def _say(step: str, what: str) -> None:
    typer.echo(typer.style(f"{step:<10}", bold=True) + f" {what}")


def _look(home: Home, day: Date, files: Sequence[Path]) -> None:
    here = Path.cwd()

    def near(path: Path) -> str:
        return str(path.relative_to(here) if path.is_relative_to(here) else path)

    option = f"--date {day} --home {near(home.root)}"
    pictures = [path for path in files if path.suffix == ".svg"]
    typer.echo("\nlook at")
    for path in pictures:
        typer.echo(f"  {near(path)}   the day in one picture; open it in a browser")
    typer.echo(f"  {near(home.on(day).episodes)}   one file per simulated trade")
    typer.echo(f"  {near(home.memory_latest)}   what was learned, with n and interval")
    typer.echo("try")
    hv = "hv" if shutil.which("hv") else near(Path(sys.argv[0]).absolute())
    typer.echo(f"  {hv} log ls --home {near(home.root)}")
    typer.echo(f"  {hv} log show {option} --kind trade --limit 5")
    typer.echo(f"  {hv} buckets {option} --symbol ACME")
    typer.echo(f"  {hv} verify {option}")
