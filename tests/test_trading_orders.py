"""Order types as entries, their lives, changes in flight, rivals, and the ends of runs."""

from __future__ import annotations

import pytest
from trading_table import outcome, play

from harvester.projections.trading.costs import cost_table
from harvester.projections.trading.plan import Change, ChangeKind, EntryPlan
from harvester.projections.trading.position import Position, Sent, opening_order
from harvester.projections.trading.simulated_exchange import Moment, ShownQuote

QUIET = "T140009_001 LONG 100 1.1 10.02 9 10 DATA_END -2 -2 0 LOSS"
ENTRIES = {
    "limit, through the market on arrival: at the quote": (
        "long 100 9.50 11 type=limit limit=10.05",
        "",
        "4 1.1 entry BUY 10.02 100 quote limit_price 10.05 -0.03",
    ),
    "limit, reached later: at its own price": (
        "long 100 9.50 11 type=limit limit=9.99",
        "1.5 quote 9.96 9.98 500 500",
        "5 1.5 entry BUY 9.99 100 quote limit_price 9.99 0",
    ),
    "limit, a print through it: at its own price, up to the print": (
        "long 100 9.50 11 type=limit limit=9.99",
        "1.4 print 9.99 500\n1.5 print 9.98 60\n1.6 print 9.98 30 odd\n1.7 print 9.98 10 lot",
        """6 1.5 entry BUY 9.99 60 print limit_price 9.99 0
        8 1.7 entry BUY 9.99 10 print limit_price 9.99 0""",
    ),
    "stop: a market order once the ask reaches its price": (
        "short 100 10.50 9 type=stop trigger=9.95",
        "1.4 quote 9.96 9.98 500 500\n1.5 quote 9.93 9.95 500 500",
        "6 1.5 entry SELL 9.93 100 quote stop_price 9.95 0.02",
    ),
    "stop, through the market on arrival": (
        "long 100 9.50 11 type=stop trigger=10.01",
        "",
        "4 1.1 entry BUY 10.02 100 quote stop_price 10.01 0.01",
    ),
    "stop-limit: triggers, and its limit arrives at that moment": (
        "long 100 9.50 11 type=stop_limit trigger=10.05 limit=10.07",
        "1.5 quote 10.04 10.06 500 500",
        "5 1.5 entry BUY 10.06 100 quote limit_price 10.07 -0.01",
    ),
    "stop-limit: triggered beyond its limit it rests": (
        "long 100 9.50 11 type=stop_limit trigger=10.05 limit=10.07",
        "1.5 quote 10.07 10.09 500 500\n1.6 quote 10.02 10.04 500 500",
        "6 1.6 entry BUY 10.07 100 quote limit_price 10.07 0",
    ),
    "stop-limit: reaching the limit without the trigger is nothing": (
        "long 100 9.50 11 type=stop_limit trigger=10.05 limit=10.07",
        "1.5 quote 10.01 10.03 500 500\n1.6 print 10.04 500",
        "",
    ),
    "trailing stop: follows the ask down, not up": (
        "long 100 9.50 11 type=trail trail=0.05",
        "1.3 quote 9.94 9.96 500 500\n1.4 quote 9.98 10.00 500 500\n1.5 quote 9.99 10.01 500 500",
        "7 1.5 entry BUY 10.01 100 quote stop_price 10.01 0",
    ),
    "immediate: what is not shown on arrival is cancelled": (
        "long 600 9.50 11 immediate=1",
        "1.5 quote 10.00 10.02 500 900",
        "4 1.1 entry BUY 10.02 500 quote quote_at_decision 10.02 0",
    ),
}


def entry(order: str, events: str) -> str:
    return f"0 run\n0.1 quote 10.00 10.02 500 500\n1 {order}\n1 clock\n{events}\n2 clock\n9 end"


def fills_of(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("T"))


@pytest.mark.parametrize("name", ENTRIES)
def test_entry(name):
    """Each type of order opens a position at exactly the listed moments and prices."""
    order, events, expected = ENTRIES[name]
    made = fills_of(outcome(entry(order, events)))
    if not expected:
        assert "entry" not in made
        return
    assert [line.strip() for line in expected.splitlines()] == made.splitlines()


@pytest.mark.parametrize(
    "order", ["type=limit limit=9.99", "type=stop trigger=10.05", "type=stop_limit trigger=10.05 limit=10.07"]
)
def test_immediate_that_fills_nothing(order):
    """An immediate entry whose price is not reached on arrival is cancelled, whatever comes in the same second."""
    events = "1.2 quote 9.96 9.98 500 500\n1.3 quote 10.06 10.06 500 500"
    assert outcome(entry(f"long 100 9.50 11 immediate=1 {order}", events)) == "4 1.1 unfilled IOC BUY 100"


def test_without_a_validity_it_works_on():
    """A DAY order without validity still fills after an hour; one of 5 seconds does not."""
    events = (
        "0 run\n0.1 quote 10.00 10.02 500 500\n1 long 100 9.5 11 {} type=limit limit=9.99\n1 clock\n2 clock\n7 clock\n"
    )
    events += "3600 quote 9.97 9.99 500 500\n3601 clock\n3700 end"
    assert outcome(events.format("- -")).startswith("7 3600 entry BUY 9.99 100 quote limit_price 9.99 0")
    assert outcome(events.format("5 -")) == "6 7 unfilled EXPIRED BUY 100"


@pytest.mark.parametrize("events", ["1.5 quote 10.10 10.12 500 500", "1.5 quote 9.92 9.94 500 500"])
def test_the_first_fill_cancels_the_rival(events):
    """Of two stop entries around the market the one that triggers fills, the other is cancelled at that moment."""
    up = "10.10" in events
    table = f"""
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.50 11 type=stop trigger=10.10
        1    rival short 100 10.50 9 type=stop trigger=9.92
        1    clock
        {events}
        1.6  quote {"9.92 9.94" if up else "10.10 10.12"} 500 500
        2    clock
        9    end
        """
    made = outcome(table).splitlines()
    assert made[0].startswith("6 1.5 entry BUY 10.12 100" if up else "6 1.5 entry SELL 9.92 100")
    assert made[1] == ("6 1.5 unfilled OCO SELL 100" if up else "6 1.5 unfilled OCO BUY 100")
    assert len(made) == 3


CHANGES = {
    "a stop that moved up": (
        "3 change stop 9.97\n3.05 quote 9.95 9.97 500 500",
        "8 3.1 stop SELL 9.95 100 quote stop_price 9.97 0.02",
    ),
    "a stop that moved down in time": (
        "3 change stop 9.80\n3.2 quote 9.85 9.87 500 500",
        "",
    ),
    "a target that moved to the market: at the quote on arrival": (
        "3 change target 9.99",
        "7 3.1 target SELL 10 100 quote limit_price 9.99 -0.01",
    ),
    "an exit": (
        "3 change exit LATE\n3.05 quote 10.04 10.06 500 500",
        "8 3.1 exit SELL 10.04 100 quote quote_at_decision 10 -0.04",
    ),
    "cancelling what is filled": ("3 change cancel", ""),
}


@pytest.mark.parametrize("name", CHANGES)
def test_change(name):
    """A change acts from its arrival on, 100 ms after the clock at which it was sent."""
    events, expected = CHANGES[name]
    change, *after = events.splitlines()
    table = f"""
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20 - -
        1    clock
        2    clock
        {change}
        3    clock
        {after[0] if after else ""}
        4    clock
        9    end
        """
    made = fills_of(outcome(table)).splitlines()
    assert made[0] == "4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0"
    assert made[1:] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("order", "change", "expected"),
    [
        ("type=limit limit=9.90", "entry 10.02", "6 2.1 entry BUY 10.02 100 quote limit_price 10.02 0"),
        ("type=limit limit=9.90", "entry 9.97", "9 3.2 entry BUY 9.97 100 quote limit_price 9.97 0"),
        ("type=stop trigger=10.30", "entry 10.01", "6 2.1 entry BUY 10.02 100 quote stop_price 10.01 0.01"),
        ("type=limit limit=9.90", "cancel", "6 2.1 unfilled CANCELLED BUY 100"),
        ("type=limit limit=9.90", "exit NO", "6 2.1 unfilled CANCELLED BUY 100"),
    ],
)
def test_change_of_a_working_entry(order, change, expected):
    """A working entry can be moved, also to the market, or cancelled; it is settled when the message arrives."""
    table = f"""
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.50 11 - - {order}
        1    clock
        2    change {change}
        2    clock
        3    clock
        3.15 print 9.96 50 odd
        3.2  quote 9.95 9.97 500 500
        4    clock
        9    end
        """
    assert outcome(table).splitlines()[0] == expected


def test_protective_prices_changed_before_the_first_fill():
    """A new stop and target that arrive before the entry fills are the prices these orders are placed with."""
    table = """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.50 11 - - type=limit limit=9.95
        1    clock
        2    change stop 9.90
        2    change target 10.05
        2    clock
        3    clock
        3.1  quote 9.93 9.95 500 500
        3.2  quote 9.91 9.93 500 500
        3.3  quote 10.05 10.07 500 500
        4    clock
        9    end
        """
    assert outcome(table).splitlines()[:2] == [
        "9 3.1 entry BUY 9.95 100 quote limit_price 9.95 0",
        "11 3.3 target SELL 10.05 100 quote limit_price 10.05 0",
    ]


def test_a_trailing_stop_locks_in():
    """A trailing stop of 0.10 rises with the bid to 10.08 and sells there; it never falls back."""
    table = """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 - - stop_trail=0.10
        1    clock
        1.5  quote 10.18 10.20 500 500
        1.6  quote 10.10 10.12 500 500
        1.7  quote 10.08 10.10 500 500
        2    clock
        9    end
        """
    assert fills_of(outcome(table)).splitlines()[1:] == ["7 1.7 stop SELL 10.08 100 quote stop_price 10.08 0"]


def test_prints_alone_trigger_when_asked():
    """With `stop_trigger = "last"` a bid below the stop triggers nothing, a print at it does, an odd lot does not."""
    table = """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        1.5  quote 9.80 9.92 500 500
        1.6  print 9.85 10 lot
        1.7  print 9.90 100
        2    clock
        9    end
        """
    assert fills_of(outcome(table)).splitlines()[1:] == ["5 1.5 stop SELL 9.8 100 quote stop_price 9.9 0.1"]
    last = fills_of(outcome(table, stop_trigger="last")).splitlines()
    assert last[1:] == ["7 1.7 stop SELL 9.8 100 print stop_price 9.9 0.1"]


def test_steps_and_participation():
    """With steps of 0.05 a buy limit of 9.99 works at 9.95, its stop of 9.92 at 9.90; a tenth of 500 shown fills."""
    table = """
        0    run
        0    tick 0.05
        0.1  quote 10.00 10.05 500 500
        1    long 100 9.92 11 - - type=limit limit=9.99
        1    clock
        1.2  quote 9.90 9.99 500 500
        1.3  quote 9.90 9.95 500 500
        1.4  quote 9.91 9.96 500 500
        2    clock
        9    end
        """
    made = fills_of(outcome(table, participation=0.1)).splitlines()
    assert made == [
        "7 1.3 entry BUY 9.95 50 quote limit_price 9.95 0",
        "7 1.3 stop SELL 9.9 50 quote stop_price 9.9 0",
    ]


# ---- runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["", "type=limit limit=9.99", "type=stop trigger=10.05", "type=trail trail=0.5"])
@pytest.mark.parametrize("settled", [True, False])
def test_a_run_that_is_killed_cancels_the_entry(order, settled):
    """Killed between decision and arrival, or with a working entry: cancelled at the next run's start, RUN_END."""
    if settled and not order:
        order = "type=limit limit=9.95"
    table = f"""
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.50 11 - - {order}
        1    clock
        {"2    clock" if settled else "1.5 print 10.00 1 odd"}
        5    run
        5.2  quote 9.90 10.60 500 500
        6    clock
        7    quote 9.90 9.92 500 500
        8    clock
        9    end
        """
    assert outcome(table) == "6 5 unfilled RUN_END BUY 100"


def test_an_exit_on_its_way_is_not_lost():
    """An exit sent before the kill works from the next run's first live quote on; the stop no longer does."""
    table = """
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        2    change exit OUT
        2    clock
        5    run
        5.2  quote 9.80 9.82 40 500
        5.3  quote 9.95 9.97 500 500
        6    clock
        9    end
        """
    assert outcome(table).splitlines() == [
        "4 1.1 entry BUY 10.02 100 quote quote_at_decision 10.02 0",
        "8 5.2 exit SELL 9.8 40 quote quote_at_decision 10 0.2",
        "9 5.3 exit SELL 9.95 60 quote quote_at_decision 10 0.05",
        "T140005_001 LONG 100 1.1 10.02 5.3 9.89 OUT -13 -22 0 LOSS",
    ]


@pytest.mark.parametrize(
    ("change", "quote", "expected"),
    [
        ("stop 9.99", "9.95 9.97", ""),
        ("stop 9.80", "9.85 9.87", "8 5.2 stop SELL 9.85 100 quote stop_price 9.9 0.05"),
        ("target 10.05", "10.10 10.12", ""),
        ("cancel", "10.10 10.12", ""),
    ],
)
def test_other_messages_are_lost(change, quote, expected):
    """A new price on its way when the run is killed never arrives: the old prices hold."""
    table = f"""
        0    run
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        2    change {change}
        2    clock
        5    run
        5.2  quote {quote} 500 500
        6    clock
        9    end
        """
    assert fills_of(outcome(table)).splitlines()[1:] == ([expected] if expected else [])


def test_what_was_sent_before_the_end_of_a_date():
    """The end of the date cancels an entry on its way, and values a position whose exit never arrived."""
    entering = "0 run\n0.1 quote 10.00 10.02 500 500\n1 long 100 9.90 10.20\n1 clock\n1.5 end"
    assert outcome(entering) == "5 1.5 unfilled RUN_END BUY 100"
    leaving = "0 run\n0.1 quote 10.00 10.02 500 500\n1 long 100 9.90 10.20\n1 clock\n2 change exit OUT\n2 clock\n9 end"
    assert outcome(leaving).splitlines()[-1] == QUIET


def test_a_changed_strategy_keeps_its_stop_until_the_exit_arrives():
    """RUN_CHANGE is sent at the run's start and arrives 100 ms later: a stop reached before that goes first."""
    table = """
        0    run 1
        0.1  quote 10.00 10.02 500 500
        1    long 100 9.90 10.20
        1    clock
        2    clock
        5    run 2
        {}   quote 9.80 9.82 500 500
        6    clock
        9    end
        """
    assert outcome(table.format(5.05)).splitlines()[1:] == [
        "7 5.05 stop SELL 9.8 100 quote stop_price 9.9 0.1",
        "T140005_001 LONG 100 1.1 10.02 5.05 9.8 STOP -22 -22 0 LOSS",
    ]
    assert outcome(table.format(5.15)).splitlines()[1:] == [
        "7 5.15 exit SELL 9.8 100 quote quote_at_decision None None",
        "T140005_001 LONG 100 1.1 10.02 5.15 9.8 RUN_CHANGE -22 -22 0 LOSS",
    ]


@pytest.mark.parametrize(("fact", "reason"), [("outage", "OUTAGE"), ("halt", "HALTED"), ("lost", "NOT_LIVE")])
def test_arrival_without_a_live_quote(fact, reason):
    """An entry that arrives without a live quote is cancelled with the reason, of every type."""
    for order in ("", "type=limit limit=9.99", "type=stop trigger=10.05"):
        table = entry(f"long 100 9.50 11 - - {order}", "").replace("1 clock", f"1 clock\n1.05 {fact}")
        assert outcome(table) == f"5 1.1 unfilled {reason} BUY 100"


def test_what_works_when_the_quote_is_lost():
    """A silent stream cancels no working entry; nothing fills until the next change, from which on it works."""
    table = entry(
        "long 100 9.50 11 - - type=limit limit=9.99",
        "1.2 lost\n1.3 print 9.90 500\n1.4 quote 9.96 9.98 500 500",
    )
    assert fills_of(outcome(table)) == "7 1.4 entry BUY 9.99 100 quote limit_price 9.99 0"


def test_every_decision_names_its_order():
    """The row of a decision has the price it is measured by: the limit, the trigger, or the quote."""
    rows = [
        play(entry(order, ""))["decisions"][0]["reference_price"]
        for order in (
            "long 1 9.5 11",
            "long 1 9.5 11 type=limit limit=9.99",
            "long 1 9.5 11 type=stop trigger=10.051",
            "long 1 9.5 11 type=stop_limit trigger=10.05 limit=10.07",
            "long 1 9.5 11 type=trail trail=0.005",
        )
    ]
    assert rows == [10.02, 9.99, 10.06, 10.07, 10.03]


def test_a_change_without_a_price_changes_nothing():
    """A new stop or target without a price leaves the entry working; only a cancellation ends it."""
    entry = opening_order(PLAN, 0.01, 10.02, share_max=1.0, last_only=False)
    for kind in (ChangeKind.STOP, ChangeKind.TARGET, ChangeKind.ENTRY, ChangeKind.CANCEL):
        message = Sent(1, 1, 1, Change(kind))
        position = Position(7, "TEST", "s", "d", "r001", 1, 1, [], PLAN, entry, [message], 0.01, None)
        position.arrive(message, Moment(2, 2), ShownQuote(), cost_table("none"))
        assert position.never_filled == (kind is ChangeKind.CANCEL), kind


PLAN = EntryPlan(long=True, quantity=100, reason="X")
