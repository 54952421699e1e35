"""When a strategy learns what happened to its orders, and what an episode keeps of an entry's rest."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
from trading_table import SECOND, START, Scripted, outcome, play

from harvester.config import Settings
from harvester.errors import BadSetting
from harvester.projections.trading import strategies
from harvester.projections.trading.strategy import Verdict, View

TABLE = """
    0    run
    0.1  quote 10.00 10.02 500 60
    1    long 200 9.90 10.50 2 -
    1    clock
    1.4  quote 10.00 10.03 500 40
    2    clock
    2.5  quote 10.01 10.04 500 50
    3    clock
    4    clock
    4.2  quote 9.90 9.92 500 500
    5    clock
    6    clock
    9    end
    """
"""60 shares at 1.1, 40 at 1.4, 50 at 2.5; the validity ends at 3.1 (clock 4) with 50 left; the stop at 4.2."""
AT_ONCE = [None, (100, 100, False), (150, 50, False), (150, 0, False), None, None]
LATE = [None, (0, 200, False), (100, 100, False), (150, 50, False), (150, 0, False), None]


class Watching(Scripted):
    """Enters as its script says, and notes the position it sees at each clock, and the ends."""

    seen: ClassVar[list[Any]] = []
    ends: ClassVar[list[Any]] = []

    def decide(self, view: View) -> Verdict:
        held = view.position
        assert (held is not None) == view.holding
        self.seen.append(held)
        return super().decide(view)

    def finished(self, con_id: int, ts: int) -> None:
        self.ends.append((len(self.seen), (ts - START) / SECOND))


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> type[Watching]:
    made = type("Watched", (Watching,), {"seen": [], "ends": []})
    monkeypatch.setitem(strategies.STRATEGIES, "scripted", made)
    return made


def shown(held: Any) -> Any:
    return held and (held.open, held.working, held.leaving)


@pytest.mark.parametrize(
    ("latency", "seen", "ends"),
    [(0, AT_ONCE, [(4, 4.2)]), (600, None, [(4, 4.2)]), (800, None, [(4, 4.2)]), (1000, LATE, [(5, 4.2)])],
)
def test_answers(watching: Any, latency: float, seen: list[Any] | None, ends: list[Any]) -> None:
    """Fills, the cancelled rest and the end are known from the first clock at or after them plus the latency on."""
    made = play(TABLE, answer_latency_ms=latency)
    if seen is not None:
        assert [shown(held) for held in watching.seen] == seen
    for held in watching.seen:
        if held is not None and held.entered:
            assert (held.entry_ts, held.stop) == (START + 1_100_000_000, 9.9)
            average = {60: 10.02, 100: 10.024, 150: 10.029333333}[held.entered]
            assert held.entry_price == pytest.approx(average, abs=1e-9)
        elif held is not None:
            assert (held.entry_ts, held.entry_price, held.stop, held.target) == (None,) * 4
    assert watching.ends == ends
    late = {0: 100, 600: 100, 800: 60, 1000: 0}
    assert watching.seen[1].open == late[latency]
    assert made["fills"] == play(TABLE)["fills"], "the exchange does not wait for answers"


def test_nothing_is_sent_about_a_trade_that_is_over() -> None:
    """The stop closed it at 1.5; at clock 2 the strategy still holds it and leaves: no order, no row."""
    table = """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 -
        1    clock
        1.5  quote 9.90 9.92 500 500
        2    change exit TIRED
        2    clock
        3    clock
        9    end
        """
    assert outcome(table, answer_latency_ms=1000) == outcome(table)
    actions = [row["action"] for row in play(table, answer_latency_ms=1000)["decisions"]]
    assert actions == ["enter", "none", "none"]


def test_a_triggered_stop_is_known_with_its_answer(watching: Any) -> None:
    """Of 100 shares the stop sells 30 at 1.5: at clock 2 (answers up to 1.0) neither the entry nor it is known."""
    table = """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 -
        1    clock
        1.5  quote 9.90 9.92 30 500
        2    clock
        3    clock
        9    end
        """
    play(table, answer_latency_ms=1000)
    assert [shown(held) for held in watching.seen] == [None, (0, 100, False), (70, 0, True)]


def test_an_exit_that_was_sent_stays_known(watching: Any) -> None:
    """The exit of 2 arrives at 2.1 and cancels the entry, which is known at clock 4: until then it is leaving."""
    table = """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 - - - type=limit limit=9.95
        1    clock
        2    change exit TIRED
        2    clock
        3    clock
        4    clock
        9    end
        """
    play(table, answer_latency_ms=1500)
    assert [shown(held) for held in watching.seen] == [None, (0, 100, False), (0, 100, True), None]


RESTS = {
    "IOC": ("long 600 9.90 - immediate=1", "", "IOC 100 1.1 4"),
    "CANCELLED": ("long 600 9.90 - - -", "2 change cancel", "CANCELLED 100 2.1 6"),
    "EXPIRED": ("long 600 9.90 - 1.2 -", "", "EXPIRED 100 3 6"),
    "OUTAGE": ("long 600 9.90 - - -", "2.5 outage", "OUTAGE 100 2.5 6"),
    "HALTED": ("long 600 9.90 - - -", "2.5 halt", "HALTED 100 2.5 6"),
    "STOP": ("long 600 9.90 - - -", "2.5 quote 9.90 9.92 600 10", "STOP 90 2.5 6"),
    "STOP_THROUGH": ("long 600 10.02 - - -", "", "STOP_THROUGH 100 1.1 4"),
    "TARGET": ("long 600 9.90 10.20 - -", "2.5 quote 10.20 10.22 600 10", "TARGET 90 2.5 6"),
    "EXIT": ("long 600 9.90 - - -", "2 change exit TIRED", "EXIT 100 2.1 6"),
    "RUN_END": ("long 600 9.90 - - -", "2.5 run", "RUN_END 100 2.5 6"),
    "the end of the date": ("long 600 9.90 - - -", "", "RUN_END 100 9 7"),
    "everything was filled": ("long 500 9.90 - - -", "", None),
}


@pytest.mark.parametrize("name", RESTS)
def test_the_rest_of_an_entry(name: str) -> None:
    """The episode keeps what was cancelled of an entry filled in part, why, when, and at which event."""
    order, event, expected = RESTS[name]
    lines = ["0 run", "0.1 quote 10.00 10.02 500 500", f"1 {order}", "1 clock", "2 clock", event, "3 clock", "9 end"]
    if name in ("CANCELLED", "EXIT"):
        lines[4:6] = [lines[5], lines[4]]
    rows = play("\n".join(line for line in lines if line))
    (document,) = [json.loads(row["document"]) for row in rows["episodes"]]
    assert document["schema_version"] == 3
    rest = document["rest"]
    shown = rest and f"{rest['reason']} {rest['quantity']} {(rest['ts'] - START) / SECOND:g} {rest['seq']}"
    assert shown == expected


def test_settings_are_checked() -> None:
    """What a run cannot mean is refused; the defaults change nothing."""
    defaults = Settings.load({})
    assert (defaults.fill_depth, defaults.answer_latency_ms) == ("top", 0.0)
    assert Settings.load({"fill_depth": "book"}).canonical()["fill_depth"] == "book"
    for wrong in ({"fill_depth": "all"}, {"answer_latency_ms": -1}, {"answer_latency_ms": 10_001}):
        with pytest.raises(BadSetting, match=next(iter(wrong)).replace("_", "[-_]")):
            Settings.load(wrong)
