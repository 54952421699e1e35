"""Change the source on purpose and see whether a test fails.

    python tools/mutants.py                 every mistake of tests/mistakes/*.txt (`make mutants`)
    python tools/mutants.py sample          a random sample of cosmic-ray's mutations (`make mutants-sample`)

Exit code 1: a change survived, or could not be made. See docs/mutants.md.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mutant_runs import PROJECT, Change, Outcome, Runner, warm_up
from mutant_table import OPERATORS, modules_of, tried_by

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LISTS = PROJECT / "tests" / "mistakes"
LIMIT_S = 120.0
BASELINE_LIMIT_S = 1800.0


class BadList(ValueError):
    """A list of mistakes cannot be read, or does not fit the source."""


@dataclass(frozen=True)
class Mistake:
    """A small change of one source file, and the tests of which at least one must fail.

    Attributes:
        where: list and line, for messages.
        file: path below the project.
        rule: text that occurs exactly once in the file.
        instead: the text of the mistake.
        tests: node ids of pytest.
    """

    where: str
    file: str
    rule: str
    instead: str
    tests: tuple[str, ...]

    def apply(self, root: Path = PROJECT) -> str:
        """The file's text with the mistake in it.

        Raises:
            BadList: the rule does not occur exactly once.
        """
        path = root / self.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if (found := text.count(self.rule)) != 1:
            raise BadList(f"{self.where}: {self.rule!r} occurs {found} times in {self.file}; it must occur once")
        return text.replace(self.rule, self.instead)


def read_list(path: Path) -> list[Mistake]:
    """The mistakes of one list.

    Raises:
        BadList: a block has other lines than file, rule, break and test, or a text is not a Python literal.
    """
    found, block, begin = [], list[str](), 0
    for number, line in enumerate([*path.read_text(encoding="utf-8").splitlines(), ""], 1):
        if line.strip() and not line.startswith("#"):
            begin = begin if block else number
            block.append(line)
        elif not line.strip() and block:
            found.append(_mistake(f"{path.name}:{begin}", block))
            block = []
    return found


def _mistake(where: str, block: Sequence[str]) -> Mistake:
    given: dict[str, list[str]] = {"file": [], "rule": [], "break": [], "test": []}
    for line in block:
        word, _, rest = line.partition(" ")
        if word not in given or not rest.strip():
            raise BadList(f"{where}: a line begins with {word!r}; write file, rule, break or test and a text")
        given[word].append(rest.strip())
    if [len(given[word]) for word in ("file", "rule", "break")] != [1, 1, 1] or not given["test"]:
        raise BadList(f"{where}: a block needs one file, one rule, one break and at least one test")
    try:
        rule, instead = (ast.literal_eval(given[word][0]) for word in ("rule", "break"))
    except (SyntaxError, ValueError) as error:
        raise BadList(f"{where}: rule and break are Python literals: {error}") from None
    if not isinstance(rule, str) or not isinstance(instead, str) or not rule or rule == instead:
        raise BadList(f"{where}: rule and break are two different texts, and rule is not empty")
    return Mistake(where, given["file"][0], rule, instead, tuple(given["test"]))


def read_lists(file: str = "", only: str = "") -> list[Mistake]:
    """The mistakes of all lists, or of those named `file`; with `only` those that hold a text anywhere."""
    paths = [path for path in sorted(LISTS.glob("*.txt")) if not file or path.stem == Path(file).stem]
    found = [mistake for path in paths for mistake in read_list(path)]
    return [m for m in found if only in "\n".join((m.file, m.rule, m.instead, *m.tests))]


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# the lists


def run_lists(options: argparse.Namespace) -> int:
    """Apply the mistakes one by one; returns 0 when a test fails for each."""
    mistakes = read_lists(options.file, options.only)
    if not mistakes:
        say(f"no mistake in {LISTS} matches")
        return 1
    changes, bad = [], 0
    for mistake in mistakes:
        try:
            changes.append((mistake, Change(mistake.file, mistake.apply(), mistake.tests, options.limit)))
        except BadList as error:
            say(f"BAD  {error}")
            bad += 1
    survived = 0

    def ended(key: int, outcome: Outcome) -> None:
        nonlocal survived
        survived += outcome.ended != "failed"
        say(_line(changes[key][0], outcome))

    tests = list(dict.fromkeys(test for mistake, _ in changes for test in mistake.tests))
    with _ready(tests, min(options.jobs, max(len(changes), 1))) as runner:
        began = time.monotonic()
        runner.run([change for _, change in changes], ended)
    said = f"{len(changes) - survived} of {len(mistakes)} mistakes noticed, {survived} survived, {bad} do not fit"
    say(f"\n{said}; {time.monotonic() - began:.0f} s")
    return int(bool(survived or bad))


def _line(mistake: Mistake, outcome: Outcome) -> str:
    verdict = {
        "failed": "killed by",
        "passed": "SURVIVED",
        "timed out": "SURVIVED (timed out)",
        "broken": "SURVIVED (no test ran to its end)",
    }[outcome.ended]
    short = f"{_short(mistake.rule)} -> {_short(mistake.instead)}"
    by = outcome.by.removeprefix("tests/")
    return f"{mistake.file:<36} {mistake.where:<24} {short:<84} {verdict} {by}  {outcome.wall_s:.1f} s"


def _short(text: str, length: int = 40) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


@contextlib.contextmanager
def _ready(tests: Sequence[str], jobs: int) -> Iterator[Runner]:
    """A runner whose named tests pass on the unchanged source.

    Raises:
        SystemExit: they do not.
    """
    warm_up()
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
        runner = Runner(Path(folder).resolve(), jobs)
        outcome = runner.unbroken(tests, BASELINE_LIMIT_S)
        if outcome.ended != "passed":
            sys.exit(f"{runner.log()}\nthe unchanged source fails: {outcome.ended} {outcome.by}")
        say(f"unbroken: {len(tests)} named tests or files pass, {outcome.cpu_s:.0f} CPU s, {outcome.wall_s:.0f} s\n")
        yield runner


# the sample


@dataclass(frozen=True)
class Mutant:
    """One of cosmic-ray's mutations: `occurrence` counts the places of an operator in a file."""

    file: str
    operator: str
    occurrence: int
    diff: str
    text: str

    @property
    def key(self) -> str:
        """Names the mutation of exactly this source."""
        return hashlib.blake2b(f"{self.file}\0{self.text}".encode(), digest_size=12).hexdigest()


def draw(generator: str, seed: int, count: int, only: str) -> list[Mutant]:
    """A random sample of the mutations of all modules in the table, see `cosmic_mutations.py`."""
    files = [file for file in modules_of(PROJECT) if only in file]
    script = PROJECT / "tools" / "cosmic_mutations.py"
    words = [generator, str(script), str(PROJECT), str(seed), str(count), *OPERATORS, "--", *files]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - own words
    about, *rows = map(json.loads, done.stdout.splitlines())
    say(f"{about['places']} places in {len(files)} modules, {len(rows)} drawn with seed {seed}")
    say(f"operators of cosmic-ray: {', '.join(OPERATORS)}\n")
    return [_mutant(row) for row in rows]


def _mutant(row: dict[str, Any]) -> Mutant:
    before = (PROJECT / row["file"]).read_text(encoding="utf-8").splitlines(keepends=True)
    after = row["text"].splitlines(keepends=True)
    lines = [line for line in difflib.unified_diff(before, after, row["file"], row["file"], n=0) if line[:3] != "---"]
    return Mutant(row["file"], row["operator"], row["occurrence"], "".join(lines), row["text"])


def run_sample(options: argparse.Namespace) -> int:
    """Run the sample, continuing where an earlier run with the same results file ended."""
    results = Path(options.results or Path(tempfile.gettempdir()) / f"harvester-mutants-{options.seed}.jsonl")
    mutants = draw(options.generator, options.seed, options.count, options.only)
    known = _known(results)
    survived = {key for key, row in known.items() if row["ended"] == "passed"} if options.wide else set[str]()
    todo = [mutant for mutant in mutants if mutant.key not in known or mutant.key in survived]
    say(f"results in {results}: {len(mutants) - len(todo)} known, {len(todo)} to run")
    if todo:
        tests = list(dict.fromkeys(test for mutant in todo for test in tried_by(mutant.file, options.wide)))
        with _ready(tests, options.jobs) as runner, results.open("a", encoding="utf-8") as out:

            def ended(key: int, outcome: Outcome) -> None:
                mutant = todo[key]
                row = {"key": mutant.key, "file": mutant.file, "operator": mutant.operator, "diff": mutant.diff}
                known[mutant.key] = row | vars(outcome)
                out.write(json.dumps(known[mutant.key]) + "\n")
                out.flush()
                say(f"{outcome.ended:<9} {outcome.cpu_s:5.1f} CPU s  {mutant.file}  {mutant.operator}  {outcome.by}")

            runner.run([Change(m.file, m.text, tried_by(m.file, options.wide), options.limit) for m in todo], ended)
    return _summary([known[mutant.key] for mutant in mutants])


def _known(results: Path) -> dict[str, dict[str, Any]]:
    if not results.is_file():
        return {}
    return {row["key"]: row for row in map(json.loads, results.read_text(encoding="utf-8").splitlines())}


def _summary(rows: Sequence[dict[str, Any]]) -> int:
    """Print survivors as diffs and the counts; 1 when more than one in ten survived."""
    survivors = sorted((row for row in rows if row["ended"] == "passed"), key=lambda row: (row["file"], row["diff"]))
    for row in survivors:
        say(f"\nSURVIVED  {row['operator']}\n{row['diff'].rstrip()}")
    counts = Counter(row["ended"] for row in rows)
    cpu = sum(row["cpu_s"] for row in rows)
    say(
        f"\n{len(rows)} mutants: {counts['failed']} killed by a test, {counts['broken']} cannot be imported, "
        f"{counts['timed out']} timed out, {counts['passed']} survived; {cpu:.0f} CPU s"
    )
    return int(len(survivors) * 10 > len(rows))


def _end(*_: object) -> None:
    """End as by Ctrl-C, so that children and scratch copies are removed; a second signal has no effect."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("lists", "sample"), default="lists")
    parser.add_argument("--file", default="", help="run one list of tests/mistakes by its name")
    parser.add_argument("--only", default="", help="run changes that contain this text (sample: files whose path does)")
    parser.add_argument("--jobs", type=int, default=2, help="run this many changes at a time (default 2)")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds per change (default 120)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample (default 1)")
    parser.add_argument("--count", type=int, default=300, help="size of the sample (default 300)")
    parser.add_argument("--results", default="", help="JSON-lines file of the sample, to continue")
    parser.add_argument("--wide", action="store_true", help="sample: run the survivors again, against slower tests too")
    parser.add_argument("--generator", default=sys.executable, help="a Python with cosmic-ray installed")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    return run_sample(options) if options.what == "sample" else run_lists(options)


if __name__ == "__main__":
    sys.exit(main())
