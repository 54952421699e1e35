"""The hard cases of simulated trading: each is a moment at which a simpler exchange fills wrongly."""

from __future__ import annotations

import json
from textwrap import dedent

import pytest
from trading_table import outcome, play

CASES = {
    "an outage of a quote that was not live is not counted at an arrival": (
        """
        0    run
        0.1  quote 10.00 10.02 0 500
        1    long 100 9.90 10.20
        1    clock
        1.05 outage                        # nothing ends: the bid shows no size
        2    clock
        9    end
        """,
        "4 1.1 unfilled OUTAGE BUY 100",
    ),
    "one of a live quote is": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        1.05 outage
        2    clock
        9    end
        """,
        "5 1.1 unfilled OUTAGE BUY 100",
    ),
    "a market order fills at the quote that stands when it arrives": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        2    clock                         # no event since 0.1
        60   quote 10.10 10.12 500 500
        61   clock
        90   end
        """,
        """
        4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        T140130_001 LONG 100 1.1 10.02 90 10.1 DATA_END 8 -2 8 WIN
        """,
    ),
    "a time stop closes at the standing quote, not after the fall": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20 5 2
        1    clock
        2    clock
        3    clock
        4    clock                         # sent
        5    clock                         # settled, at 4.1
        60   quote 9.00 9.02 500 500
        61   clock
        90   end
        """,
        """
        4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        7 4.1 exit SELL 10 100 quote quote_at_decision 10 0
        T140004_001 LONG 100 1.1 10.02 4.1 10 TIME_STOP -2 -2 0 LOSS
        """,
    ),
    "the stop covers the position until the time stop has arrived": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20 5 2
        1    clock
        2    clock
        3    clock
        4    clock                         # sent, arrives at 4.1
        4.05 quote 9.80 9.82 500 500
        5    clock
        90   end
        """,
        """
        4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        8 4.05 stop SELL 9.8 100 quote stop_price 9.9 0.1
        T140004_001 LONG 100 1.1 10.02 4.05 9.8 STOP -22 -22 0 LOSS
        """,
    ),
    "an old quote is live, and an unreported print changes nothing": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        600  long 100 9.90 10.20
        600  clock
        600.05 print 9.50 100 odd          # counted by its seq, of no effect
        601  clock
        601.5 print 9.50 100 odd
        602  clock
        700  end
        """,
        """
        5 600.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        T141140_001 LONG 100 600.1 10.02 700 10 DATA_END -2 -2 0 LOSS
        """,
    ),
    "an entry that arrives in a halt is cancelled": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        1.05 halt
        1.2  resume
        2    clock
        9    end
        """,
        "5 1.1 unfilled HALTED BUY 100",
    ),
    "a halt cancels a working entry": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.80 10.20 - - type=limit limit=9.95
        1    clock
        1.2  halt
        1.3  quote 9.90 9.92 500 500
        1.4  resume
        2    clock
        9    end
        """,
        "5 1.2 unfilled HALTED BUY 100",
    ),
    "in a halt nothing triggers and no exit fills; its end is the next moment": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20 5 2
        1    clock
        2    clock
        2.1  halt
        2.2  quote 9.50 9.52 500 500       # below the stop
        2.3  print 9.50 100
        2.4  quote 9.95 9.97 500 500
        3    clock
        4    clock                         # time stop, arrives at 4.1 in the halt
        5    clock
        5.5  resume
        6    clock
        9    end
        """,
        """
        4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        13 5.5 exit SELL 9.95 100 quote quote_at_decision None None
        T140005_001 LONG 100 1.1 10.02 5.5 9.95 TIME_STOP -7 -7 0 LOSS
        """,
    ),
    "a target that the market has passed on arrival fills at the quote": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        1.05 quote 10.25 10.27 500 500     # over the target, before the entry arrives
        2    clock
        9    end
        """,
        """
        5 1.1 entry BUY 10.27 100 quote quote_at_decision 10.02 0.25
        5 1.1 target SELL 10.25 100 quote limit_price 10.2 -0.05
        T140001_001 LONG 100 1.1 10.27 1.1 10.25 TARGET -2 -2 0 LOSS
        """,
    ),
    "an entry beyond its own stop ends at once": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.98 10.20
        1    clock
        1.05 quote 9.90 9.92 500 500
        2    clock
        9    end
        """,
        """
        5 1.1 entry BUY 9.92 100 quote quote_at_decision 10.02 -0.1
        5 1.1 stop SELL 9.9 100 quote stop_price 9.98 0.08
        T140001_001 LONG 100 1.1 9.92 1.1 9.9 STOP_THROUGH -2 -2 0 LOSS
        """,
    ),
    "and at its own stop, with the rest when it is shown": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    short 100 10.00 9.80
        1    clock
        1.05 quote 10.00 10.02 500 30
        1.2  quote 10.00 10.03 500 500
        2    clock
        9    end
        """,
        """
        5 1.1 entry SELL 10 100 quote quote_at_decision 10 0
        5 1.1 stop BUY 10.02 30 quote stop_price 10 0.02
        6 1.2 stop BUY 10.03 70 quote stop_price 10 0.03
        T140001_001 SHORT 100 1.1 10 1.2 10.027 STOP_THROUGH -2.7 -2.7 0 LOSS
        """,
    ),
    "a bid below the stop at the fill: stopped at once": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        1.05 quote 9.85 10.02 500 500
        2    clock
        9    end
        """,
        """
        5 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        5 1.1 stop SELL 9.85 100 quote stop_price 9.9 0.05
        T140001_001 LONG 100 1.1 10.02 1.1 9.85 STOP -17 -17 0 LOSS
        """,
    ),
    "flicker: a price that leaves and comes back shows nothing new": (
        """
        0    run
        0.1  quote 10.00 10.02 500 40
        1    long 120 9.90 10.20
        1    clock
        1.2  quote 10.00 10.03 500 30
        1.3  quote 10.00 10.02 500 40      # these 40 are ours already
        1.4  quote 10.00 10.03 500 30      # and these 30
        1.5  quote 10.00 10.02 500 50      # more than it showed: 50 new ones
        2    clock
        9    end
        """,
        """
        4 1.1 entry BUY 10.02 40 quote quote_at_decision 10.02 0
        5 1.2 entry BUY 10.03 30 quote quote_at_decision 10.02 0.01
        8 1.5 entry BUY 10.02 50 quote quote_at_decision 10.02 0
        T140009_001 LONG 120 1.1 10.0225 9 10 DATA_END -2.7 -2.7 0 LOSS
        """,
    ),
    "a level that has stood for a second shows its size again": (
        """
        0    run
        0.1  quote 10.00 10.02 500 40
        1    long 120 9.90 10.20
        1    clock
        2    clock
        2.099 quote 10.01 10.02 500 40     # not yet
        2.1  quote 10.00 10.02 500 40      # one second since we took from it
        3    clock
        3.2  quote 10.01 10.02 500 30
        4    clock
        9    end
        """,
        """
        4 1.1 entry BUY 10.02 40 quote quote_at_decision 10.02 0
        7 2.1 entry BUY 10.02 40 quote quote_at_decision 10.02 0
        9 3.2 entry BUY 10.02 30 quote quote_at_decision 10.02 0
        T140009_001 LONG 110 1.1 10.02 9 10.01 DATA_END -1.1 -1.6 0 LOSS
        """,
    ),
    "a zero-size bid is no price: no trigger, no excursion, no fill": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        1.2  quote 9.80 9.82 0 500 bad
        1.3  print 9.80 100                # no live quote: the stop sleeps
        1.4  quote 10.20 10.22 0 500 bad
        1.5  quote 10.01 10.03 500 500
        2    clock
        9    end
        """,
        """
        4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        T140009_001 LONG 100 1.1 10.02 9 10.01 DATA_END -1 -2 0 LOSS
        """,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hard_case(name):
    """The events give exactly the listed fills, unfilled entries and episodes."""
    events, expected = CASES[name]
    assert outcome(events) == dedent(expected).strip()


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"closes": 61.1}, "4 1.1 unfilled SESSION_END BUY 100"),  # positions are closed from 1.1 on
        ({"closes": 1.1, "flat_before_close_seconds": 0}, "4 1.1 unfilled SESSION_END BUY 100"),
        ({"opens": 1.2}, "4 1.1 unfilled SESSION_CLOSED BUY 100"),
    ],
)
def test_entry_over_the_close(terms, expected):
    """An entry that arrives outside the session, or when positions are being closed, is cancelled."""
    events, _ = CASES["a market order fills at the quote that stands when it arrives"]
    assert outcome(events, **terms) == expected


def test_the_last_moment_before_the_close_and_the_way_out():
    """Just before the time of closing it fills; the first clock after that closes it, before the time stop."""
    events = """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20 5 0.5
        1    clock
        2    clock
        3    clock
        9    end
        """
    assert outcome(events, closes=61.11).splitlines() == [
        "4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0",
        "5 2.1 exit SELL 10 100 quote quote_at_decision 10 0",
        "T140002_001 LONG 100 1.1 10.02 2.1 10 SESSION_END -2 -2 0 LOSS",
    ]


def test_a_working_entry_ends_when_positions_are_closed():
    """A limit entry without validity works until positions are closed, and takes nothing at that moment."""
    events = """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.80 10.20 - - type=limit limit=9.95
        1    clock
        2    clock
        3    quote 9.93 9.95 500 500
        3    clock
        9    end
        """
    assert outcome(events, closes=63) == "7 3 unfilled SESSION_END BUY 100"
    assert outcome(events, closes=63.1).startswith("6 3 entry BUY 9.95 100")


def test_r_of_a_trade_beyond_its_stop():
    """R is by the risk of the decision, so that an entry beyond its stop costs a fraction of it, not a thousandfold."""
    events, _ = CASES["an entry beyond its own stop ends at once"]
    (episode,) = play(events)["episodes"]
    assert episode["r_multiple"] == pytest.approx(-0.5)  # -2 / (100 x 0.04)


def test_what_the_trade_did_not_see():
    """A trade held through a halt carries it, the halt's seconds, and is not learned from; a quiet one is."""
    events, _ = CASES["in a halt nothing triggers and no exit fills; its end is the next moment"]
    quality = json.loads(play(events)["episodes"][0]["document"])["quality"]
    assert (quality["halts"], quality["outages"], quality["unseen_seconds"]) == (1, 0, 4)  # seconds 2 to 5
    assert (quality["learned_from"], quality["why_not"]) == (False, ["UNSEEN"])
    events, _ = CASES["a time stop closes at the standing quote, not after the fall"]
    quality = json.loads(play(events)["episodes"][0]["document"])["quality"]
    assert (quality["learned_from"], quality["unseen_seconds"]) == (True, 0)


@pytest.mark.parametrize(
    ("begin", "end", "unseen"), [("3", "3", 1), ("3.2", "3.2", 1), ("2.5", "3", 1), ("2.5", "3.1", 2)]
)
def test_an_outage_has_its_second_however_short(begin: str, end: str, unseen: int) -> None:
    """An outage without duration counts its second; one that ends as a second begins does not count that one."""
    events = f"""
        0.1  run
        0.2  quote 10.00 10.02 500 500
        1    long 100 9.80 10.20
        1    clock
        2    clock
        {begin}  outage
        {end}  back
        {end}  quote 10.00 10.02 500 500
        3.9  clock
        4    clock
        5    quote 10.20 10.22 500 500
        5    clock
        6    clock
        9    end
        """
    quality = json.loads(play(events)["episodes"][0]["document"])["quality"]
    assert (quality["outages"], quality["unseen_seconds"]) == (1, unseen)
