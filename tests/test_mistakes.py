"""The lists of deliberate mistakes fit the source; `make mutants` runs them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
sys.path.append(str(PROJECT / "tools"))

from mutant_table import TESTS, tried_by  # noqa: E402 - tools/ is a folder of scripts
from mutants import LISTS, BadList, Mistake, read_list, read_lists  # noqa: E402 - the same

MISTAKES = read_lists()


@lru_cache
def functions_in(file: str) -> set[str]:
    """Names of the test functions of a file."""
    tree = ast.parse((PROJECT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("path", sorted(LISTS.glob("*.txt")), ids=lambda path: path.stem)
def test_a_list_fits_the_source(path: Path) -> None:
    """Every rule occurs exactly once in its file, every mistake is other code, and every named test exists."""
    mistakes = read_list(path)
    assert mistakes
    for mistake in mistakes:
        broken = mistake.apply()
        before = ast.parse((PROJECT / mistake.file).read_text(encoding="utf-8"))
        assert ast.dump(ast.parse(broken)) != ast.dump(before), f"{mistake.where} changes no code"
        for test in mistake.tests:
            file, _, name = test.partition("::")
            assert name.partition("[")[0] in functions_in(file), f"{mistake.where}: there is no test {test}"


def test_a_mistake_names_only_what_exists(tmp_path: Path) -> None:
    """No mistake uses an undefined name: any test would fail on that, which proves nothing about the rule."""
    for n, mistake in enumerate(MISTAKES):
        (tmp_path / f"mistake_{n}.py").write_text(mistake.apply(), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "F821,F823",
        "--output-format",
        "concise",
    ]
    found = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False).stdout
    bad = {int(n) for n in re.findall(r"mistake_([0-9]+)\.py", found)}
    assert "All checks passed" in found, [MISTAKES[n].where for n in sorted(bad)] or found


def test_no_mistake_is_listed_twice() -> None:
    """Each mistake occurs once, in one list."""
    seen = [(m.file, m.rule, m.instead) for m in MISTAKES]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ("file a.py\nrule 'x'\nbreak 'y'\n", "at least one test"),
        ("file a.py\nrule 'x'\nrule 'x'\nbreak 'y'\ntest t\n", "needs one file, one rule"),
        ("file a.py\nrule x y\nbreak 'y'\ntest t\n", "Python literals"),
        ("file a.py\nrule 'x'\nbreak 'x'\ntest t\n", "two different texts"),
        ("files a.py\n", "begins with 'files'"),
    ],
)
def test_a_list_that_cannot_be_read_is_named(tmp_path: Path, block: str, says: str) -> None:
    """An error in a block names its list and line."""
    path = tmp_path / "bad.txt"
    path.write_text(f"# a comment\n\n{block}", encoding="utf-8")
    with pytest.raises(BadList, match=r"bad\.txt:3: .*" + says):
        read_list(path)


@pytest.mark.parametrize("count", [0, 2])
def test_a_rule_that_is_not_found_once_is_named(tmp_path: Path, count: int) -> None:
    """A rule that occurs never or more than once in its file is an error."""
    (tmp_path / "a.py").write_text("x = 1\n" * count, encoding="utf-8")
    with pytest.raises(BadList, match=f"occurs {count} times"):
        Mistake("list:1", "a.py", "x = 1", "x = 2", ("t",)).apply(tmp_path)


def test_the_sample_names_files_that_exist() -> None:
    """Every module and every test in the table of the sampled run exists."""
    for name in TESTS:
        assert (PROJECT / "harvester" / f"{name}.py").is_file(), name
        for test in tried_by(f"harvester/{name}.py", wide=True):
            file, _, function = test.partition("::")
            assert (PROJECT / file).is_file(), test
            assert not function or function.partition("[")[0] in functions_in(file), test
