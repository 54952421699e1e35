"""The book: IB's table of row positions, and the ladder derived from it."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import pytest

from harvester.events.batch import Batch
from harvester.events.kinds import Kind, Side, Stream
from harvester.projections.engine import Engine
from tests.market_log import Log

if TYPE_CHECKING:
    from pathlib import Path

FULL = """
insert 0 bid 10.00 300
insert 1 bid  9.99 200
insert 2 bid  9.98 100
insert 0 ask 10.01 400
insert 1 ask 10.02 500
insert 2 ask 10.03 600
"""


def book(rows: int = 3, text: str = FULL) -> Log:
    log = Log().run_start().subscribe(1, "depth", params=f'{{"rows":{rows}}}')
    log.depth(1, text)
    log.fold()
    return log


def side(log: Log, which: Side) -> list[tuple[float, float]]:
    return [(price, size) for price, size, _ in log.engine.book.rows(7, which)]


BIDS = [(10.0, 300.0), (9.99, 200.0), (9.98, 100.0)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("insert 0 bid 10.005 50", [(10.005, 50.0), *BIDS[:2]]),
        ("insert 1 bid 9.995 50", [BIDS[0], (9.995, 50.0), BIDS[1]]),
        ("insert 2 bid 9.985 50", [*BIDS[:2], (9.985, 50.0)]),
        ("update 1 bid 9.99 70", [BIDS[0], (9.99, 70.0), BIDS[2]]),
        ("update 0 bid 10.00 0", [(10.0, 0.0), *BIDS[1:]]),
        ("delete 0 bid 0 0", BIDS[1:]),
        ("delete 1 bid 9.99 0", [BIDS[0], BIDS[2]]),
        ("delete 2 bid 0 0", BIDS[:2]),
    ],
)
def test_rows_shift_as_ib_shifts_them(row: str, expected: list[tuple[float, float]]) -> None:
    """Insert moves the rows below down and cuts at the subscribed rows, delete moves them up, update replaces."""
    log = book()
    log.depth(1, row)
    log.fold()
    assert side(log, Side.BID) == expected
    assert side(log, Side.ASK) == [(10.01, 400.0), (10.02, 500.0), (10.03, 600.0)]
    assert log.engine.book.state(7).good


@pytest.mark.parametrize(
    "row",
    [
        "insert 3 bid 9.97 50",  # at the subscribed rows
        "update 3 bid 9.97 50",
        "delete 3 bid 0 0",
        "insert -1 bid 9.97 50",
        "update 2147483647 ask 9.97 50",
        "upsert 0 bid 9.97 50",
        "update 0 neither 9.97 50",
        "insert 0 bid -1 50",
        "insert 0 bid 1.7976931348623157e308 50",
        "update 0 ask 10.01 -1",
    ],
)
def test_impossible_rows_are_counted_and_change_nothing(row: str) -> None:
    """An impossible row leaves the rows as they are, is counted, and the book is bad until the next reset."""
    log = book()
    log.depth(1, row)
    log.clock(1)
    log.fold()
    state = log.engine.book.state(7)
    assert (state.bad, state.good, state.impossible) == (True, False, 1)
    assert side(log, Side.BID) == BIDS
    assert log.buckets[-1]["book_good"] is False
    assert log.buckets[-1]["imbalance"] is None
    log.notice(317, req_id=1)
    log.depth(1, FULL)
    log.fold()
    state = log.engine.book.state(7)
    assert (state.bad, state.good, state.impossible, state.resets) == (False, True, 1, 1)


def test_a_gap_is_never_padded() -> None:
    """An insert below the last row is impossible: no empty row is invented to make room for it."""
    log = book(text="insert 0 bid 10 100\ninsert 2 bid 9.98 100")
    assert side(log, Side.BID) == [(10.0, 100.0)]
    assert log.engine.book.state(7).impossible == 1


@pytest.mark.parametrize("end", ["317", "1100", "1101", "lost", "cancel", "run", "epoch"])
def test_what_makes_a_book_unknown(end: str) -> None:
    """317, a lost connection, a cancel, another run and another connection leave no row and no size, and not zero."""
    log = book()
    log.clock(1)
    if end == "cancel":
        log.cancel(1)
    elif end == "run":
        log.run_start()
    elif end == "epoch":
        log.epoch = 2
        log.subscribe(9, "l1")
    else:
        log.notice(-2 if end == "lost" else int(end), req_id=1)
    log.clock(2)
    log.fold()
    assert side(log, Side.BID) == []
    assert log.buckets[-1]["bid_size_top_n"] is None
    assert log.buckets[-1]["book_good"] is False
    state = log.engine.book.state(7)
    if end in ("317", "1100"):
        assert not state.good
        assert not state.bad
    else:
        assert state is None


def test_a_reset_book_is_known_again_when_both_sides_are_refilled() -> None:
    """After 317 one side alone does not make the book good; both do."""
    log = book()
    log.notice(317, req_id=1)
    log.depth(1, "insert 0 bid 10 100")
    log.fold()
    assert not log.engine.book.state(7).good
    log.depth(1, "insert 0 ask 10.01 100")
    log.fold()
    assert log.engine.book.state(7).good


def test_rows_under_a_dead_key_are_counted_and_ignored() -> None:
    """Rows after the cancel, rows of the connection before and rows nobody asked for touch no book."""
    log = book()
    log.cancel(1)
    log.depth(1, "insert 0 bid 10 100")
    log.subscribe(2, "depth", params='{"rows":3}')
    log.depth(2, FULL)
    log.depth(1, "delete 0 bid 0 0")
    log.requests[99] = (7, "depth")
    log.depth(99, "delete 0 bid 0 0")
    log.fold()
    assert side(log, Side.BID) == BIDS
    dead = {(r["con_id"], r["stream"]): r["value"] for r in log.engine.health.rows() if r["measure"] == "dead_rows"}
    assert dead == {(0, None): 1, (7, None): 2, (7, "depth"): 2}


def test_the_ladder_adds_up_market_makers() -> None:
    """Rows of one price become one level, best first, with what each market maker shows."""
    log = Log().run_start().subscribe(1, "smart_depth", params='{"rows":9,"smart":true}')
    log.depth(
        1,
        """
        insert 0 bid 10.00 300 ARCA
        insert 1 bid 10.00 200 NSDQ
        insert 2 bid  9.99 100 ARCA
        insert 0 ask 10.02 100 BATS
        insert 1 ask 10.01 700 NSDQ
        """,
    )
    log.fold()
    levels = log.engine.book.ladder(7, Side.BID, Stream.SMART_DEPTH)
    assert levels == [(10.0, 500.0, (("ARCA", 300.0), ("NSDQ", 200.0))), (9.99, 100.0, (("ARCA", 100.0),))]
    assert [level.price for level in log.engine.book.ladder(7, Side.ASK)] == [10.01, 10.02]
    assert log.engine.quotes.quote(7)[2:7] == ("smart_depth", 10.0, 10.01, 500.0, 700.0)


def test_check_shows_the_insides_of_a_broken_book() -> None:
    """A violated invariant fails with the rows in the message."""
    log = book()
    log.engine.market.state.price[0, 1, 0] = -5.0
    with pytest.raises(AssertionError, match=r"(?s)absent price in force: .*-5\.0, 9\.99"):
        log.engine.book.check()


def test_a_wide_book_beside_a_narrow_one() -> None:
    """Each book is cut at its own rows; growing the arrays for a wide one keeps the narrow one's rows."""
    log = book(rows=3)
    log.subscribe(2, "depth", con_id=8, params='{"rows":40}')
    log.depth(
        2, "\n".join(f"insert {i} bid {20 - i / 100} 100\ninsert {i} ask {20.01 + i / 100} 100" for i in range(40))
    )
    log.fold()
    assert side(log, Side.BID) == BIDS
    assert len(log.engine.book.rows(8, Side.BID)) == 40
    assert log.engine.book.state(8).impossible == 0


def test_arl_equals_the_truth_after_every_message(shared_data: Path) -> None:
    """Real depth, 6,598 rows: all ten levels equal the venue's own book after each of 3,928 source messages."""
    import polars as pl

    folder = shared_data / "tapes" / "ARL-2025-07-17"
    rows = pl.read_parquet(folder / "depth.parquet").to_dicts()
    engine = Engine(market_only=True)
    asked = {"ts_recv": rows[0]["ts"], "epoch": 1, "con_id": 5, "req_id": 7}
    events = [
        (Kind.REQUEST, {"action": "run_start", "stream": "run", "params": "{}", "ts_recv": rows[0]["ts"]}),
        (Kind.REQUEST, {"action": "subscribe", "stream": "depth", "symbol": "ARL", "params": '{"rows":10}', **asked}),
    ]
    events += [(Kind.DEPTH, {**asked, "ts_recv": r.pop("ts"), "n": r.pop("n"), **r}) for r in rows]
    ns = [row.pop("n", 0) for _, row in events]
    batch = Batch.of(events, 1)
    done, equal = 0, 0
    for truth in pl.read_parquet(folder / "truth.parquet").iter_rows(named=True):
        upto = done
        while upto < len(ns) and ns[upto] <= truth["after_n"]:
            upto += 1
        engine.fold(batch.slice(done + 1, upto))
        done = upto
        got = [engine.book.rows(5, which) for which in (Side.BID, Side.ASK)]
        numbers = [[getattr(row, name) for row in part] for part in got for name in ("price", "size")]
        equal += numbers == [truth[name] for name in ("bid_prices", "bid_sizes", "ask_prices", "ask_sizes")]
    assert (equal, done) == (3928, len(events))
    assert engine.book.state(5).impossible == 0
    engine.check()


def test_eurusd_capture_ends_in_its_final_book(shared_data: Path) -> None:
    """A real gateway's 271 updates, on a book that was filled before the capture began, end in the recorded book."""
    folder = shared_data / "ibkr"
    with (folder / "eurusd_depth_deltas.csv").open(encoding="utf-8") as file:
        updates = list(csv.DictReader(file))
    final = json.loads((folder / "eurusd_depth_final_book.json").read_text(encoding="utf-8"))
    log = Log().run_start().subscribe(1, "depth", params='{"rows":5}')
    log.depth(1, "\n".join(f"insert {i} {s} {1 + i / 10} 1" for s in ("bid", "ask") for i in range(5)))
    names = {"0": "ask", "1": "bid"}
    lines = [f"update {u['position']} {names[u['side']]} {u['price']} {u['size']}" for u in updates]
    assert {u["operation"] for u in updates} == {"1"}
    log.depth(1, "\n".join(lines))
    log.fold()
    assert len(lines) == 271
    assert side(log, Side.BID) == [tuple(row) for row in final["bids"]]
    assert side(log, Side.ASK) == [tuple(row) for row in final["asks"]]
    assert log.engine.book.state(7).good
