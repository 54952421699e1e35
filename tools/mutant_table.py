"""What the sampled mutation run covers: cosmic-ray's operators, and the tests per source module, quickest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

OPERATORS = (
    "ReplaceComparisonOperator",
    "ReplaceBinaryOperator",
    "ReplaceUnaryOperator",
    "AddNot",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ExceptionReplacer",
    "NumberReplacer",
    "RemoveDecorator",
    "ZeroIterationForLoop",
)
"""Prefixes of operator names: all of cosmic-ray's that need no arguments."""

_LOG = ("test_log_content", "test_log_write_read", "test_log_damage")
TESTS: dict[str, tuple[str, ...]] = {}


def modules_of(project: Path) -> list[str]:
    """Source files with an entry in the table, as paths below the project."""
    found = sorted(path.relative_to(project).as_posix() for path in (project / "harvester").rglob("*.py"))
    return [file for file in found if tried_by(file)]


def tried_by(file: str) -> tuple[str, ...]:
    """Test files that a mutant of a source file is run against, quickest first."""
    name = file.removeprefix("harvester/").removesuffix(".py")
    return tuple(f"tests/{test}.py" for test in TESTS.get(name, ()))
