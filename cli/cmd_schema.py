"""`hv schema`: the JSON Schemas of the artefacts."""

from __future__ import annotations

from typing import Annotated

import typer


def schema(
    name: Annotated[str | None, typer.Argument(help="Print this schema (default: list the names).")] = None,
) -> None:
    """List the artefacts that have a JSON Schema, or print one of them (draft 2020-12).

    Example: hv schema episode
    """
    from harvester.artefacts.json_files import json_file
    from harvester.artefacts.json_schemas import SCHEMAS, find

    if name is None:
        widest = max(map(len, SCHEMAS))
        for known, (about, _) in SCHEMAS.items():
            typer.echo(f"{known:<{widest}}  {about}")
    else:
        typer.echo(json_file(find(name)).decode(), nl=False)
