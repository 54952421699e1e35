"""Print a random sample of cosmic-ray's mutations of files, one JSON object a line. Needs a Python with cosmic-ray.

Usage: cosmic_mutations.py PROJECT SEED COUNT OPERATOR... -- FILE...; an operator is a prefix of names.

It draws places, and one mutation of each: a place is (file, line, column, family of operators), so that the twelve
replacements of one `+` weigh as much as the one of a `not`. Left out: annotations and `if TYPE_CHECKING`, which no run
reads.
"""

from __future__ import annotations

import ast
import json
import random
import sys
from pathlib import Path
from typing import Any

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code


class _Running(ast.NodeTransformer):
    """Removes from a module what no run reads: annotations, and code under `if TYPE_CHECKING`."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if "TYPE_CHECKING" in ast.dump(node.test) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)


def running(source: str) -> str | None:
    """The source as a run reads it, None when it does not parse."""
    try:
        return ast.dump(_Running().visit(ast.parse(source)))
    except SyntaxError:
        return None


def places(source: str, prefixes: tuple[str, ...]) -> dict[tuple[int, int, str], list[tuple[str, int]]]:
    """By (line, column, family): the mutations possible there, each as the operator's full name and the occurrence."""
    found: dict[tuple[int, int, str], list[tuple[str, int]]] = {}
    nodes = list(ast_nodes(get_ast(source)))
    for full in sorted(cosmic_ray.plugins.operator_names()):
        name = full.rpartition("/")[2]
        family = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if family is None:
            continue
        operator = cosmic_ray.plugins.get_operator(full)()
        positions = [at for node in nodes for at in operator.mutation_positions(node)]
        for occurrence, ((line, column), _) in enumerate(positions):
            found.setdefault((line, column, family), []).append((full, occurrence))
    return found


def mutated(source: str, full: str, occurrence: int) -> str | None:
    """The source with one mutation, None when a run would not read it or it does not parse."""
    try:
        text = mutate_code(source, cosmic_ray.plugins.get_operator(full)(), occurrence)
    except AttributeError:  # the ExceptionReplacer cannot change `except module.Name`
        return None
    after = running(text) if text else None
    return None if after is None or after == running(source) else str(text)


def main() -> None:
    """Read the command line and print: first the number of places, then the drawn mutations."""
    project, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    split = sys.argv.index("--")
    prefixes, files = tuple(sys.argv[4:split]), sys.argv[split + 1 :]
    sources = {file: (project / file).read_text(encoding="utf-8") for file in files}
    by_file = {file: places(source, prefixes) for file, source in sources.items()}
    everywhere = sorted((file, *place) for file, found in by_file.items() for place in found)
    _print({"places": len(everywhere)})
    rng, drawn = random.Random(seed), 0  # noqa: S311 - a sample, no secret
    rng.shuffle(everywhere)
    for file, line, column, family in everywhere:
        full, occurrence = rng.choice(by_file[file][line, column, family])
        if drawn == count:
            break
        if (text := mutated(sources[file], full, occurrence)) is not None:
            drawn += 1
            _print({"file": file, "operator": full.rpartition("/")[2], "occurrence": occurrence, "text": text})


def _print(row: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
