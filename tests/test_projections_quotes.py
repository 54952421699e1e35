"""The quote in force: which source, what counts as absent, and what a change of source restarts."""

from __future__ import annotations

from typing import Any

import pytest

from harvester.events.kinds import Kind
from tests.market_log import Log

UNSET = 1.7976931348623157e308
SMART = '{"rows":5,"smart":true}'


def force(log: Log) -> tuple[Any, ...]:
    log.fold()
    return tuple(log.engine.quotes.quote(7)[2:7])


def test_bid_ask_beats_l1_beats_smart_depth() -> None:
    """Tick-by-tick BidAsk is in force from its first row, L1 before that, SMART depth before both."""
    log = Log().run_start().subscribe(1, "smart_depth", params=SMART).subscribe(2, "l1").subscribe(3, "bid_ask")
    log.depth(1, "insert 0 bid 10.00 100 ARCA")
    assert force(log) == (None,) * 5
    log.depth(1, "insert 0 ask 10.05 200 NSDQ")
    assert force(log) == ("smart_depth", 10.0, 10.05, 100.0, 200.0)
    log.tick(2, 1, 10.01, 300)
    assert force(log)[0] == "smart_depth"
    log.tick(2, 2, 10.04, 400)
    assert force(log) == ("l1", 10.01, 10.04, 300.0, 400.0)
    log.quote(3, 10.02, 10.03, 500, 600)
    assert force(log) == ("bid_ask", 10.02, 10.03, 500.0, 600.0)
    log.tick(2, 1, 10.0, 1)
    assert force(log)[1] == 10.02
    log.cancel(3)
    assert force(log) == ("l1", 10.0, 10.04, 1.0, 400.0)
    log.cancel(2)
    assert force(log)[0] == "smart_depth"
    log.notice(317, req_id=1)
    assert force(log) == (None,) * 5


def test_one_venues_depth_gives_no_best_price() -> None:
    """A direct book alone gives sizes and imbalance; bid and ask stay unknown."""
    log = Log().run_start().subscribe(1, "depth")
    log.depth(1, "insert 0 bid 10 300\ninsert 0 ask 10.01 100")
    log.clock(1)
    row = log.fold()[0]
    assert (row["bid"], row["ask"], row["mid"], row["quote_source"]) == (None, None, None, None)
    assert (row["bid_size_top_n"], row["ask_size_top_n"], row["imbalance"]) == (300.0, 100.0, 0.5)
    assert (row["bid_top_size"], row["ask_top_size"], row["book_good"]) == (300.0, 100.0, True)


@pytest.mark.parametrize("absent", [None, -1.0, 0.0, UNSET])
def test_absent_markers_are_never_priced(absent: float | None) -> None:
    """Null, -1, 0 and the unset marker as price or size are absent: no mid, no microprice, no number."""
    log = Log().run_start().subscribe(1, "bid_ask")
    log.hot(Kind.QUOTE, 1, stream=3, bid=absent, ask=10.01, bid_size=100.0, ask_size=absent)
    log.clock(1)
    row = log.fold()[0]
    assert force_of(row) == (None, 10.01, None, None)
    assert (row["bid_top_size"], row["ask_top_size"], row["microprice"]) == (100.0, None, None)
    assert (row["mark"], row["spread"], row["spread_bps"], row["spread_twa"], row["ofi"]) == (None,) * 5


def force_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["bid"], row["ask"], row["mid"], row["spread"]


def test_a_change_of_source_restarts_returns_and_flow() -> None:
    """L1 at 10, BidAsk at 11: no return of ten per cent, no flow, no variance; the next BidAsk change counts."""
    log = Log().run_start().subscribe(1, "l1").subscribe(2, "bid_ask")
    log.tick(1, 1, 9.99, 100)
    log.tick(1, 2, 10.01, 100)
    log.quote(2, 10.99, 11.01, at=0.5)
    log.clock(1)
    first = log.fold()[0]
    assert (first["volatility_proxy"], first["realised_variance"], first["ofi"]) == (0.0, 0.0, 0.0)
    log.quote(2, 11.0, 11.02, 300, 100, at=1.5)
    log.clock(2)
    second = log.fold()[0]
    assert second["volatility_proxy"] == 11.01 / 11.0 - 1
    assert second["ofi"] == 300 + 100  # the bid rose: its new size came; the ask rose: its old size went away


def test_a_lost_connection_leaves_no_quote() -> None:
    """After 1100 no quote is in force until both sides arrive again; the return across the outage does not count."""
    log = Log().run_start().subscribe(1, "l1")
    log.tick(1, 1, 9.99, 100)
    log.tick(1, 2, 10.01, 100)
    log.notice(1100, at=0.5)
    assert force(log) == (None,) * 5
    log.notice(1102, at=0.6)
    log.tick(1, 1, 8.99, 100)
    assert force(log) == (None,) * 5
    log.tick(1, 2, 9.01, 100)
    assert force(log)[:3] == ("l1", 8.99, 9.01)
    log.clock(1)
    assert log.fold()[0]["volatility_proxy"] == 0.0


def test_delayed_ticks_are_quotes_too() -> None:
    """Tick ids 66, 67, 69 and 70 are bid, ask and their sizes of delayed data; the type is kept for health."""
    log = Log().run_start().subscribe(1, "l1")
    log.notice(None, msg=58, value=3, req_id=1)
    for field, number in ((66, 10.0), (67, 10.02)):
        log.hot(Kind.TICK, 1, msg=1, field=field, price=number, size=100.0)
    for field in (69, 70):
        log.hot(Kind.TICK, 1, msg=2, field=field, size=200.0)
    assert force(log) == ("l1", 10.0, 10.02, 200.0, 200.0)
    assert log.engine.health_summary(7).data_type == 3


def test_a_new_subscription_starts_from_nothing() -> None:
    """A second L1 request of the same contract replaces the first, whose values no longer count."""
    log = Log().run_start().subscribe(1, "l1")
    log.tick(1, 1, 9.99, 100)
    log.tick(1, 2, 10.01, 100)
    log.subscribe(2, "l1")
    assert force(log) == (None,) * 5
    log.tick(1, 1, 9.98, 100)
    assert force(log) == (None,) * 5
    log.cancel(2)
    assert force(log) == (None,) * 5


def test_a_refused_subscription_is_dead() -> None:
    """After 354 the request holds no line: the symbol has no rows and the refusal is counted with its code."""
    log = Log().run_start().subscribe(1, "l1", at=0)
    log.notice(354, at=0.1, req_id=1)
    log.clock(1)
    log.clock(2)
    assert len(log.fold()) == 1  # the second of its request
    assert log.engine.health_summary().refused == 1
    assert log.engine.health._refusals[0][1:4] == (7, 1, 354)
