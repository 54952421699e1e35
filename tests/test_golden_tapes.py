"""Golden cases: one small tape per rule, and what the engine makes of it, as text. `make golden` rewrites them."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from types import ModuleType

import pytest
from golden_tape import Reader, Tape, batches, play, play_reference

from harvester.events.kinds import Kind
from harvester.projections.engine import Engine
from tests.broken import broken
from tests.reference import market as reference

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
CASES = sorted(folder.name for folder in GOLDEN.iterdir() if (folder / "tape.txt").is_file())
REWRITE = os.environ.get("HARVESTER_REWRITE_GOLDEN") == "1"


def tape(name: str) -> Tape:
    return Reader((GOLDEN / name / "tape.txt").read_text(encoding="utf-8")).read()


def expected(name: str) -> str:
    return (GOLDEN / name / "expected.txt").read_text(encoding="utf-8")


MARKET = [name for name in CASES if set(tape(name).show) <= {"buckets", "health"}]


@pytest.mark.parametrize("name", CASES)
def test_golden_case(name):
    """The tape gives exactly the kept text, and begins with the rule in words."""
    assert (GOLDEN / name / "tape.txt").read_text(encoding="utf-8").startswith("# ")
    made = play(tape(name))
    if REWRITE:
        (GOLDEN / name / "expected.txt").write_bytes(made.encode())
    assert made == expected(name)


@pytest.mark.parametrize("name", CASES)
def test_golden_case_event_by_event(name):
    """Folded one event at a time the digests are those of the whole tape."""
    parts = [batch for batch, _ in batches(tape(name))]
    whole, single = Engine(), Engine()
    for batch in parts:
        whole.fold(batch)
        for seq in range(batch.first_seq, batch.last_seq + 1 if batch.first_seq else 0):
            single.fold(batch.slice(seq, seq))
    assert single.digests() == whole.digests()


def without_health(text: str) -> str:
    return text.split("\n\nhealth\n", maxsplit=1)[0].rstrip("\n")


@pytest.mark.parametrize("name", MARKET)
def test_golden_case_by_the_plain_market(name):
    """The plain-Python market gives the same text, so a kept file is no mere copy of what the kernels do."""
    one = tape(name)
    one.show.pop("health", None)
    assert without_health(play_reference(one, reference.Market())) == without_health(expected(name))


def mistakes() -> list[tuple[str, str, str, str]]:
    """Each rule broken once: (case, module or "", what stands there, what a mistake would put in its place)."""
    blocks = (GOLDEN / "mistakes.txt").read_text(encoding="utf-8").split("\n\n")[1:]
    found = [dict(line.split(maxsplit=1) for line in block.strip().splitlines()) for block in blocks]
    return [
        (one["case"], one.get("in", ""), ast.literal_eval(one["rule"]), ast.literal_eval(one["break"])) for one in found
    ]


MISTAKES = mistakes()


@pytest.mark.parametrize(("name", "where", "rule", "mistake"), MISTAKES)
def test_golden_case_fails_when_its_rule_breaks(name, where, rule, mistake):
    """With the rule broken in the plain market, or in the package, the text is another: the case would fail.

    A mistake that does not survive the tape shows nothing of the rule and is an error here.
    """
    made = in_the_package(name, where, rule, mistake) if where else in_the_plain_market(name, rule, mistake)
    assert made != (expected(name) if where else without_health(expected(name)))


def in_the_plain_market(name: str, rule: str, mistake: str) -> str:
    source = Path(reference.__file__).read_text(encoding="utf-8")
    assert source.count(rule) >= 1, f"the plain market no longer contains {rule!r}: choose another mistake"
    changed = ModuleType("broken")
    changed.__dict__["__name__"] = reference.__name__  # dataclasses look their module up
    exec(compile(source.replace(rule, mistake), "broken", "exec"), changed.__dict__)
    one = tape(name)
    one.show.pop("health", None)
    return without_health(play_reference(one, changed.Market()))


def in_the_package(name: str, where: str, rule: str, mistake: str) -> str:
    with broken(where, rule, mistake):
        return play(tape(name))


def test_every_golden_case_has_a_mistake():
    """No case is kept that nothing was shown to break, but the two of seconds going on over a change of clocks."""
    assert {name for name, *_ in MISTAKES} == {name for name in CASES if not name.startswith("clocks_go_")}


def test_golden_tapes_use_every_kind_that_is_folded():
    """Together the tapes hold every kind of event that is folded."""
    kinds = {kind for name in CASES for batch, _ in batches(tape(name)) for kind in batch.tables}
    assert kinds == {Kind.TICK, Kind.TRADE, Kind.QUOTE, Kind.DEPTH, Kind.NOTICE, Kind.REQUEST, Kind.CLOCK, Kind.BAR}
