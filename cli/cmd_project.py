"""`hv project`: rebuild a date from its log and write the artefacts."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated

import typer


def project(
    *,
    date: Annotated[str, typer.Option("--date", help="Trading date, yyyy-MM-dd.")],
    symbols: Annotated[str | None, typer.Option("--symbols", help="Only these, comma-separated; default all.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write into; else exports/ and temp/episodes/.")
    ] = None,
    home: Annotated[Path | None, typer.Option("--home", help="Data root; else HV_HOME, else this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for scripts.")] = False,
) -> None:
    """Rebuild a date from its log: episodes, buckets, decisions, fills, health, and one digest per projection.

    The same log and the same code give the same bytes, however often it runs.

    Example: hv project --date 2025-07-17
    """
    from cli.bars import Bar
    from harvester.home import Home, parse_date
    from harvester.recorder.project import project as run

    found = Home.find(home)
    wanted = [s.strip() for s in symbols.split(",") if s.strip()] if symbols else None
    with Bar(f"folding {date}", quiet=as_json) as bar:
        made, written = run(found, parse_date(date), out=out, symbols=wanted, progress=bar.told)
    if as_json:
        body = {
            "trading_date": date,
            "content_hash": made.identity,
            "through_seq": made.last_seq,
            "events": made.rows,
            "digests": made.digests,
            "rows": {name: table.num_rows for name, table in made.tables.items()},
            "health": made.health,
            "files": [str(path) for path in written.files],
            "superseded": [str(path) for path in written.superseded],
            "differences": [{"path": str(d.path), "what": d.what} for d in written.differences],
        }
        typer.echo(json_text.dumps(body))
        return
    typer.echo(f"{date}  {made.rows} events through seq {made.last_seq}, content {made.identity}")
    for name, digest in made.digests.items():
        typer.echo(f"  {name:<8} {digest}")
    rows = ", ".join(f"{table.num_rows} {name}" for name, table in made.tables.items())
    typer.echo(f"{rows}")
    for folder in sorted({path.parent for path in written.files}):
        typer.echo(f"  {sum(path.parent == folder for path in written.files):>4} files in {folder}")
    for difference in written.differences:
        typer.echo(f"  {difference.what}: {difference.path}")
