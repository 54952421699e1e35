"""An edit of anything the compiled kernels are made of takes effect, wherever their cache lies."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from harvester.projections import kernel_cache

PROJECT = Path(__file__).resolve().parent.parent


def run_time_imports(body: list[ast.stmt]) -> Iterator[str]:
    """Dotted names a module imports when it is loaded: not for its types alone, not inside functions."""
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from run_time_imports([*node.body, *node.orelse])


def imported_files(path: Path) -> Iterator[Path]:
    for name in run_time_imports(ast.parse(path.read_text(encoding="utf-8")).body):
        found = PROJECT.joinpath(*name.split(".")).with_suffix(".py")
        if name.startswith("harvester.") and found.is_file():
            yield found


def test_the_cache_knows_every_source_of_the_kernels() -> None:
    """Every module of the package that the kernels import, and that those import, is part of the cache's name."""
    seen, new = set[Path](), {PROJECT / "harvester" / "projections" / "kernels.py"}
    while new:
        seen |= new
        new = {found for path in new for found in imported_files(path)} - seen
    assert {str(path.relative_to(PROJECT / "harvester").as_posix()) for path in seen} == set(kernel_cache.SOURCES)
