"""Scenarios of simulated trading, worked out by hand from docs/trading.md."""

from __future__ import annotations

import json
from textwrap import dedent

import pytest
from trading_table import FILLS, START, outcome, play, shown

SCENARIOS = {
    "a long hits its target": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        1.05 quote 10.01 10.03 500 500     # in force at the arrival, 1.1: bought at its ask
        1.2  quote 10.02 10.04 500 500
        1.6  quote 10.10 10.12 500 500
        2    clock
        2.5  quote 10.25 10.27 500 500     # the resting target sells at its own price
        3    clock
        9    end
        """,
        """
        5 1.1 entry BUY 10.03 100 quote quote_at_decision 10.02 0.01
        9 2.5 target SELL 10.2 100 quote limit_price 10.2 0
        T140002_001 LONG 100 1.1 10.03 2.5 10.2 TARGET 17 -2 17 WIN
        """,
    ),
    "a short is stopped, in two parts, never more than shown": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    short 100 10.10 9.80
        1    clock
        1.05 quote 9.99 10.01 60 500
        1.3  quote 9.99 10.01 60 500       # the same 60 shares: already taken
        1.4  quote 9.98 10.00 500 500      # the rest, a cent lower
        1.5  quote 10.08 10.11 500 30      # through the stop: bought at the ask, 30 shown
        1.6  quote 10.12 10.14 500 500
        2    clock
        9    end
        """,
        """
        5 1.1 entry SELL 9.99 60 quote quote_at_decision 10 0.01
        7 1.4 entry SELL 9.98 40 quote quote_at_decision 10 0.02
        8 1.5 stop BUY 10.11 30 quote stop_price 10.1 0.01
        9 1.6 stop BUY 10.14 70 quote stop_price 10.1 0.04
        T140001_001 SHORT 100 1.1 9.986 1.6 10.131 STOP -14.5 -14.5 0 LOSS
        """,
    ),
    "a triggered stop cancels the target": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        1.2  quote 10.20 10.22 40 500      # the target sells the 40 shown
        1.3  print 9.90 100                # touches the stop; nothing is left of the bid
        1.4  quote 10.20 10.22 500 500     # sold as the stop, not as the target
        2    clock
        9    end
        """,
        """
        4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        5 1.2 target SELL 10.2 40 quote limit_price 10.2 0
        7 1.4 stop SELL 10.2 60 quote stop_price 9.9 -0.3
        T140001_001 LONG 100 1.1 10.02 1.4 10.2 STOP 18 -2 18 WIN
        """,
    ),
    "the same with a lower stop: the target": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.80 10.20
        1    clock
        1.2  quote 10.20 10.22 40 500
        1.3  print 9.90 100
        1.4  quote 10.20 10.22 500 500
        2    clock
        9    end
        """,
        """
        4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        5 1.2 target SELL 10.2 40 quote limit_price 10.2 0
        7 1.4 target SELL 10.2 60 quote limit_price 10.2 0
        T140001_001 LONG 100 1.1 10.02 1.4 10.2 TARGET 18 -2 18 WIN
        """,
    ),
    "a print touches the stop before a later one reaches the target": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        1.3  quote 9.95 10.30 500 10
        1.4  print 9.90 100                # touches the stop
        1.5  print 10.25 100               # would have been the target
        2    clock
        9    end
        """,
        """
        4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        6 1.4 stop SELL 9.95 100 print stop_price 9.9 -0.05
        T140001_001 LONG 100 1.1 10.02 1.4 9.95 STOP -7 -7 0 LOSS
        """,
    ),
    "a print touches the stop while the quote is at the target: the stop first": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        1.5  quote 10.20 10.22 40 500      # the target sells what is shown
        2    clock
        2.6  print 9.90 100                # the level stands for a second: target and stop could both sell
        2.8  quote 10.19 10.22 500 500
        3    clock
        9    end
        """,
        """
        4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        5 1.5 target SELL 10.2 40 quote limit_price 10.2 0
        7 2.6 stop SELL 10.2 40 print stop_price 9.9 -0.3
        8 2.8 stop SELL 10.19 20 quote stop_price 9.9 -0.29
        T140002_001 LONG 100 1.1 10.02 2.8 10.198 STOP 17.8 -2 18 WIN
        """,
    ),
    "neither an unreported print nor an odd lot stops": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20 5 2
        1    clock
        1.2  print 9.00 100 odd
        1.3  print 9.00 10 lot
        1.4  print 10.50 100 odd           # nor does an unreported one fill the target
        2    clock
        3    clock
        4    clock                         # the first at or after 3.1: time stop
        4.05 quote 10.03 10.05 500 500
        4.2  quote 10.04 10.06 500 500
        5    clock
        9    end
        """,
        """
        4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        11 4.1 exit SELL 10.03 100 quote quote_at_decision 10 -0.03
        T140004_001 LONG 100 1.1 10.02 4.1 10.03 TIME_STOP 1 -2 1 WIN
        """,
    ),
    "a price-forming print through the target fills it, up to its size": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        1.3  print 10.20 500               # at the limit: others are ahead in the queue
        1.4  print 10.21 40
        1.5  print 10.21 500
        2    clock
        9    end
        """,
        """
        4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        6 1.4 target SELL 10.2 40 print limit_price 10.2 0
        7 1.5 target SELL 10.2 60 print limit_price 10.2 0
        T140001_001 LONG 100 1.1 10.02 1.5 10.2 TARGET 18 -2 18 WIN
        """,
    ),
    "positions survive an outage, stops sleep meanwhile": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        2    clock
        2.1  outage
        2.2  print 9.50 100                # the stop sleeps
        3    clock
        3.1  back                          # not live until its next change
        3.15 print 9.50 100
        3.2  quote 9.70 9.72 500 500
        4    clock
        9    end
        """,
        """
        4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        11 3.2 stop SELL 9.7 100 quote stop_price 9.9 0.2
        T140003_001 LONG 100 1.1 10.02 3.2 9.7 STOP -32 -32 0 LOSS
        """,
    ),
    "a restart within the day carries the position on": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        2    clock
        5    run
        5.1  print 9.50 100                # no live quote
        5.2  quote 10.21 10.23 500 500
        6    clock
        9    end
        """,
        """
        4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        8 5.2 target SELL 10.2 100 quote limit_price 10.2 0
        T140005_001 LONG 100 1.1 10.02 5.2 10.2 TARGET 18 -2 18 WIN
        """,
    ),
    "a changed strategy closes at the first live quote": (
        """
        0    run 1
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        2    clock
        5    run 2
        5.2  quote 0 0 0 0 bad
        5.3  quote 10.05 10.07 500 500
        6    clock
        9    end
        """,
        """
        4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        8 5.3 exit SELL 10.05 100 quote quote_at_decision None None
        T140005_001 LONG 100 1.1 10.02 5.3 10.05 RUN_CHANGE 3 -2 3 WIN
        """,
    ),
    "what is open when the data end": (
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        2    clock
        2.5  quote 10.06 10.08 500 500
        3    clock
        9    end
        """,
        """
        4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0
        T140009_001 LONG 100 1.1 10.02 9 10.06 DATA_END 4 -2 4 WIN
        """,
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name):
    """The table's events give exactly the listed fills and episode, also when saved and restored after every call."""
    events, expected = SCENARIOS[name]
    assert outcome(events) == dedent(expected).strip()


def test_unfilled_decision_is_recorded():
    """An entry whose limit is not reached in time gives a row, not an episode; at its last moment it fills no more."""
    rows = play("""
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.80 10.20 2 - type=limit limit=9.99
        1    clock
        2    clock
        3    clock
        3.1  quote 9.97 9.99 500 500       # arrived at 1.1: valid until before 3.1
        4    clock
        9    end
        """)
    assert not rows["fills"]
    assert not rows["episodes"]
    done = [row for row in rows["decisions"] if row["action"] != "none"]
    assert shown(done, "seq ts action reason decision_seq side quantity") == (
        "4 1 enter SCRIPT 4 BUY 100\n8 4 unfilled EXPIRED 4 BUY 100"
    )


def test_nothing_fills_at_the_decision_itself():
    """A clock stamped like the decision settles nothing that arrives later: at the end the entry is cancelled."""
    assert (
        outcome("""
        0    run
        1.9  quote 10.00 10.02 500 500
        2    long 100 9.90 10.20
        2    clock
        2    clock
        9    end
        """)
        == "6 9 unfilled RUN_END BUY 100"
    )


def test_a_decision_without_a_live_quote_has_no_reference():
    """A decision on a crossed quote has no reference for the entry's slippage and no R, even if prices were known."""
    rows = play("""
        0    run
        0.1  quote 10.00 10.02 500 500
        0.9  quote 10.05 10.03 500 500 bad
        1    long 100 9.90 10.20
        1    clock
        1.05 quote 10.00 10.04 500 500
        1.2  quote 9.90 9.92 500 500
        2    clock
        9    end
        """)
    entered = rows["decisions"][0]
    assert (entered["action"], entered["reference_price"]) == ("enter", None)
    assert shown(rows["fills"][:1], FILLS) == "6 1.1 entry BUY 10.04 100 quote quote_at_decision None None"
    assert rows["episodes"][0]["r_multiple"] is None


def test_risk_of_an_average_that_has_no_end():
    """Bought at 10.02, 10.03 and 10.03: the average is 10.02666…; the risk is that of the decision, 30 x 0.12."""
    rows = play("""
        0    run
        0.1  quote 10.00 10.02 500 10
        1    long 30 9.90 10.20
        1    clock
        1.3  quote 10.00 10.03 500 20
        1.5  quote 9.90 10.03 500 500
        2    clock
        9    end
        """)
    (episode,) = rows["episodes"]
    assert episode["entry_price"] == 10.026666667
    assert json.loads(episode["document"])["decision_trace"]["risk"]["initial_risk_usd"] == 3.6
    assert (episode["pnl_usd"], episode["r_multiple"]) == (-3.8, pytest.approx(-3.8 / 3.6))


def test_risk_is_at_least_a_step_and_the_costs():
    """A stop one cent away with costs of 2.0166 a round trip of 100 shares: 0.01 + 0.020166 a share."""
    rows = play(
        """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 10.01 10.20
        1    clock
        2    clock
        9    end
        """,
        costs="ibkr_fixed",
    )
    risk = json.loads(rows["episodes"][0]["document"])["decision_trace"]["risk"]["initial_risk_usd"]
    assert risk == pytest.approx(3.0166)


def test_document_tells_the_whole_trade():
    """The episode's document holds decision, series of every second, labels in R, and the versions it came from."""
    events, _ = SCENARIOS["a long hits its target"]
    made = json.loads(play(events, costs="ibkr_fixed")["episodes"][0]["document"])
    assert made["decision"] == {"ts": START + 1_000_000_000, "seq": 4}
    assert [row["ts"] - START for row in made["series"]] == [1_000_000_000, 2_000_000_000]
    assert [row["gate_codes"] for row in made["series"]] == [["HOLDING"], []]
    assert made["labels"]["pnl_usd"] == 14.9834  # 17 - 2 x 1.00 - TAF 100 x 0.000166
    assert made["labels"]["r_multiple"] == pytest.approx(14.9834 / 12)
    assert made["labels"]["time_to_mae"] == 0.0
    assert made["labels"]["hold_seconds"] == 1.4
    assert made["features_pre"]["window"] == "last 120 buckets before"
    assert [row["ts"] for row in made["features_pre"]["buckets"]] == [START]
    assert made["decision_trace"]["risk"]["initial_risk_usd"] == 12.0
    assert made["versions"]["cost_model"] == "ibkr_fixed"
    assert made["versions"]["rules"] == 2
    assert made["run"] == "r001"
