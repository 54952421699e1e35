"""The book: IB's table of row positions, and the ladder derived from it."""

from __future__ import annotations

import csv
import json
import random
from typing import TYPE_CHECKING

import pytest

from harvester.events.batch import Batch
from harvester.events.kinds import Kind, Side, Stream
from harvester.projections.engine import Engine
from harvester.projections.market.state_arrays import cells_of
from harvester.replay.book_view import look
from tests.market_log import Log
from tests.reference import market as reference

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
    """Insert moves the rows below down, within the subscribed rows; delete moves them up; update replaces."""
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
    """An impossible row does not change the rows, is counted, and the book is bad until the next reset."""
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
    """After 317, a lost connection, a cancel, another run or connection, rows and sizes are absent, not zero."""
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
    """Rows after the cancel, rows of the previous connection and rows without a request change no book."""
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
    """Rows of one price become one level, best first, with the size of each market maker."""
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
    state = log.engine.market.state
    state.cells["price"][cells_of(state, 0, Side.BID)[0]] = -5.0
    with pytest.raises(AssertionError, match=r"(?s)absent price in force: .*\(-5\.0, .*9\.99, "):
        log.engine.book.check()


def test_a_wide_book_beside_a_narrow_one() -> None:
    """Each book is limited to its own rows; growing the arrays for a wide one keeps the narrow one's rows."""
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


def eurusd(shared_data: Path) -> tuple[list[str], dict[str, list[list[float]]]]:
    """The capture as lines of `Log.depth`, and the book it ends in."""
    folder = shared_data / "ibkr"
    with (folder / "eurusd_depth_deltas.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(r["operation"], r["market_maker"]) for r in rows} == {("1", "")}
    names = {"0": "ask", "1": "bid"}
    final = json.loads((folder / "eurusd_depth_final_book.json").read_text(encoding="utf-8"))
    return [f"update {r['position']} {names[r['side']]} {r['price']} {r['size']}" for r in rows], final


def test_eurusd_capture_ends_in_its_final_book(shared_data: Path) -> None:
    """271 updates of a real gateway, folded from an empty book, end in the recorded one; good from the 48th on."""
    lines, final = eurusd(shared_data)
    log = Log().run_start().subscribe(1, "depth", params='{"rows":5}')
    good = []
    for line in lines:
        log.depth(1, line)
        log.fold()
        good.append(log.engine.book.state(7).good)
    assert good == [False] * 47 + [True] * 224
    assert side(log, Side.BID) == [tuple(row) for row in final["bids"]]
    assert side(log, Side.ASK) == [tuple(row) for row in final["asks"]]
    state = log.engine.book.state(7)
    assert (state.applied, state.impossible, state.placed, state.waiting) == (271, 0, 5, 0)


def test_eurusd_capture_is_the_same_in_one_batch(shared_data: Path) -> None:
    """Folded whole, the capture gives the digests it gives row by row."""
    lines, _ = eurusd(shared_data)
    whole = Log().run_start().subscribe(1, "depth", params='{"rows":5}')
    whole.depth(1, "\n".join(lines))
    whole.fold()
    single = Log().run_start().subscribe(1, "depth", params='{"rows":5}')
    for line in lines:
        single.depth(1, line)
        single.fold()
    assert whole.engine.digests() == single.engine.digests()


def updated(text: str, rows: int = 5, ask: str = "update 0 ask 11 100") -> Log:
    """A book of a venue that has sent no insert on its bid side."""
    return book(rows, f"{ask}\n{text}")


def told(log: Log, which: Side = Side.BID) -> list[tuple[int, float]]:
    return [(position, row.price) for position, row in log.engine.book._occupied(0, which)]


def test_updates_past_the_end_wait_behind_the_hole() -> None:
    """Without an insert, an update past the end stays at its position; only rows before the first hole are shown."""
    log = updated("update 3 bid 9.97 100\nupdate 1 bid 9.99 100")
    assert (side(log, Side.BID), told(log)) == ([], [(1, 9.99), (3, 9.97)])
    state = log.engine.book.state(7)
    assert (state.good, state.bad, state.placed, state.waiting, state.impossible) == (False, False, 2, 2, 0)
    log.depth(1, "update 0 bid 10 100")
    log.clock(1)
    log.fold()
    assert side(log, Side.BID) == [(10.0, 100.0), (9.99, 100.0)]
    assert not log.engine.book.state(7).good
    assert log.buckets[-1]["bid_size_top_n"] is None
    log.depth(1, "update 2 bid 9.98 100")
    log.clock(2)
    log.fold()
    assert log.engine.book.state(7).good
    assert log.engine.book.state(7).waiting == 0
    assert log.buckets[-1]["bid_size_top_n"] == 400.0


@pytest.mark.parametrize(
    ("row", "expected", "impossible"),
    [
        ("insert 0 bid 10.5 1", [(0, 10.5), (1, 10.0), (3, 9.98), (5, 9.96)], 0),
        ("insert 1 bid 9.995 1", [(0, 10.0), (1, 9.995), (3, 9.98), (5, 9.96)], 0),
        ("insert 3 bid 9.975 1", [(0, 10.0), (2, 9.98), (3, 9.975), (5, 9.96)], 0),
        ("insert 5 bid 9.95 1", [(0, 10.0), (2, 9.98), (4, 9.96), (5, 9.95)], 0),
        ("delete 0 bid 0 0", [(1, 9.98), (3, 9.96)], 0),
        ("delete 2 bid 9.98 0", [(0, 10.0), (3, 9.96)], 0),
        ("delete 4 bid 0 0", [(0, 10.0), (2, 9.98)], 0),
        ("delete 1 bid 0 0", [(0, 10.0), (2, 9.98), (4, 9.96)], 1),
        ("delete 5 bid 0 0", [(0, 10.0), (2, 9.98), (4, 9.96)], 1),
    ],
)
def test_inserts_and_deletes_shift_holes_with_the_rows(
    row: str, expected: list[tuple[int, float]], impossible: int
) -> None:
    """A hole is an existing, unknown row: it moves like other rows, and deleting it is impossible."""
    log = updated("update 0 bid 10 1\nupdate 2 bid 9.98 1\nupdate 4 bid 9.96 1", rows=6)
    log.depth(1, row)
    log.fold()
    assert told(log) == expected
    assert log.engine.book.state(7).impossible == impossible
    assert log.engine.book.state(7).bad == bool(impossible)


def test_a_full_side_with_holes_loses_its_last_row() -> None:
    """An insert pushes out the row at the last position, shown or waiting; the hole can be filled."""
    log = updated("update 2 bid 9.98 1\nupdate 0 bid 10 1", rows=3)
    log.depth(1, "insert 0 bid 10.5 1")
    log.fold()
    assert told(log) == [(0, 10.5), (1, 10.0)]
    assert not log.engine.book.state(7).good, "row 2 exists at the venue and was never sent"
    log.depth(1, "update 2 bid 9.99 1")
    log.fold()
    assert side(log, Side.BID) == [(10.5, 1.0), (10.0, 1.0), (9.99, 1.0)]
    assert log.engine.book.state(7).good


@pytest.mark.parametrize("between", ["", "317", "1100"])
def test_a_side_that_had_an_insert_takes_no_update_past_its_end(between: str) -> None:
    """One insert on a side is enough for the subscription: a reset does not make it a side of updates only."""
    log = updated("insert 0 bid 10 1", ask="update 1 ask 11.01 1\nupdate 0 ask 11 1")
    if between:
        log.notice(int(between), req_id=1)
    log.depth(1, "update 1 bid 9.99 1\nupdate 1 ask 11.01 1\nupdate 0 ask 11 1")
    log.fold()
    state = log.engine.book.state(7)
    assert told(log) == ([] if between else [(0, 10.0)])
    assert (state.impossible, state.bad) == (1, between != "317")
    assert not state.good
    assert told(log, Side.ASK) == [(0, 11.0), (1, 11.01)]
    log.subscribe(2, "depth", params='{"rows":5}')
    log.depth(2, "update 0 bid 10 1\nupdate 0 ask 11 1")
    log.fold()
    assert log.engine.book.state(7).good, "another subscription starts without the insert flag"


@pytest.mark.parametrize("late", ["update 1 bid 9.99 70", "update 0 bid 10 1", "delete 0 bid 10 0", "delete 2 bid 0 0"])
def test_late_rows_after_a_reset_leave_the_book_unknown_until_it_is_refilled(late: str) -> None:
    """After 317 a row of the old book is counted and dropped; the refill that follows is good."""
    log = book()
    log.notice(317, req_id=1)
    log.depth(1, f"{late}\n{late}")
    log.clock(1)
    log.fold()
    state = log.engine.book.state(7)
    assert (state.good, state.bad, state.impossible, state.known_bid) == (False, False, 2, False)
    assert log.buckets[-1]["book_good"] is False
    log.depth(1, FULL)
    log.fold()
    assert log.engine.book.state(7).good
    assert side(log, Side.BID) == BIDS
    log.depth(1, "delete 3 bid 0 0")
    log.fold()
    assert log.engine.book.state(7).bad, "a side that is known again tolerates no impossible row"


def test_after_a_lost_connection_no_refill_is_promised() -> None:
    """After 1100 and 1102 an operation on a missing row makes the book bad: the venue continues its old book."""
    log = book()
    log.notice(1100)
    log.notice(1102)
    log.depth(1, "update 1 bid 9.99 70")
    log.fold()
    assert (log.engine.book.state(7).bad, log.engine.book.state(7).known_bid) == (True, False)
    log.depth(1, FULL)
    log.fold()
    assert not log.engine.book.state(7).good
    log.subscribe(2, "depth", params='{"rows":3}')
    log.cancel(1)
    log.depth(2, FULL)
    log.depth(1, "delete 0 bid 0 0")
    log.fold()
    assert log.engine.book.state(7).good
    assert side(log, Side.BID) == BIDS


@pytest.mark.parametrize("operation", [0, 1])
@pytest.mark.parametrize(("price", "size"), [(None, 1.0), (float("nan"), 1.0), (0.0, 1.0), (10.0, None), (10.0, -1.0)])
def test_absent_numbers_are_impossible(operation: int, price: float | None, size: float | None) -> None:
    """A row without a price, or without a valid size, is never put into the book, not even on a fresh side."""
    for log in (book(), updated("")):
        before = log.engine.book.rows(7, Side.BID)
        log.hot(Kind.DEPTH, 1, position=0, operation=operation, side=1, price=price, size=size)
        log.fold()
        state = log.engine.book.state(7)
        assert (state.impossible, state.bad, log.engine.book.rows(7, Side.BID)) == (1, True, before)


@pytest.mark.parametrize("price", [None, 0.0, -1.0, 10.0, 1.7976931348623157e308])
def test_a_delete_may_carry_any_price_and_size(price: float | None) -> None:
    """A delete uses only its position; its price may be 0, the old one, the unset marker or null."""
    log = book()
    log.hot(Kind.DEPTH, 1, position=0, operation=2, side=1, price=price, size=None)
    log.fold()
    assert side(log, Side.BID) == BIDS[1:]
    assert log.engine.book.state(7).good


def test_a_row_of_size_zero_keeps_its_position_and_shows_nothing() -> None:
    """An update to size 0 moves no row; the ladder, the best price and the comparison with quotes skip it."""
    log = book()
    log.subscribe(2, "bid_ask")
    log.quote(2, 9.99, 10.01, at=0.5)
    log.depth(1, "update 0 bid 10 0")
    log.clock(1)
    log.fold()
    assert side(log, Side.BID) == [(10.0, 0.0), *BIDS[1:]]
    assert log.engine.book.ladder(7, Side.BID)[0] == (9.99, 200.0, (("", 200.0),))
    got = {r["measure"]: r["value"] for r in log.engine.health.rows() if r["con_id"] == 7 and r["stream"] is None}
    assert (got["top_seconds"], got["top_bid_equal"], got["top_ask_equal"], got["top_beyond"]) == (1, 1, 1, 0)


def test_one_venue_and_smart_at_once() -> None:
    """Two subscriptions of one instrument are two books; buckets use SMART, and the venue's when SMART ends."""
    log = book()
    log.subscribe(2, "smart_depth", params='{"rows":9,"smart":true}')
    log.depth(2, "insert 0 bid 10 1 ARCA\ninsert 1 bid 10 2 NSDQ\ninsert 0 ask 10.01 4 BATS")
    log.clock(1)
    log.notice(317, req_id=2)
    log.clock(2)
    log.cancel(2)
    log.depth(2, "insert 0 bid 10 1 ARCA")
    log.clock(3)
    log.fold()
    assert [row["bid_size_top_n"] for row in log.buckets] == [3.0, None, 600.0]
    assert [row["book_good"] for row in log.buckets] == [True, False, True]
    assert [row.size for row in log.engine.book.rows(7, Side.BID, Stream.DEPTH)] == [300.0, 200.0, 100.0]
    assert log.engine.book.rows(7, Side.BID, Stream.SMART_DEPTH) == []


def test_sixty_rows_by_updates_from_the_far_end() -> None:
    """A book whose sixty rows a side arrive backwards is good with the last of them, and not before."""
    log = Log().run_start().subscribe(1, "depth", params='{"rows":60}')
    lines = [
        f"update {i} {s} {20 + (i if s == 'ask' else -i) / 100} 1" for i in range(59, -1, -1) for s in ("bid", "ask")
    ]
    log.depth(1, "\n".join(lines[:-1]))
    log.fold()
    assert (log.engine.book.state(7).good, log.engine.book.state(7).waiting) == (False, 59)
    log.depth(1, lines[-1])
    log.fold()
    assert log.engine.book.state(7).good
    assert len(side(log, Side.ASK)) == len(side(log, Side.BID)) == 60
    log.depth(1, "update 60 bid 1 1")
    log.fold()
    assert log.engine.book.state(7).bad


def test_a_snapshot_keeps_waiting_rows_and_habits() -> None:
    """A book with a hole continues after a restore without a difference; digests cover waiting rows."""
    log = updated("update 2 bid 9.98 1")
    other = updated("update 2 bid 9.97 1")
    assert log.engine.digests()["book"] != other.engine.digests()["book"]
    again = Engine(market_only=True)
    again.restore(log.engine.snapshot())
    assert again.digests() == log.engine.digests()
    log.depth(1, "update 1 bid 9.99 1\nupdate 0 bid 10 1\ninsert 0 bid 10.5 1\nupdate 4 bid 9 1")
    batch = Batch.of(log.pending, log.next_seq)
    log.fold()
    again.fold(batch)
    assert again.digests() == log.engine.digests()
    assert again.book.state(7).bad


@pytest.mark.parametrize("rows", [1, 2, 5, 15, 16, 17, 33])
@pytest.mark.parametrize("updates_alone", [False, True])
def test_books_of_every_width_follow_the_reference(rows: int, updates_alone: bool) -> None:
    """Random rows at every position of narrow books (which move no row) and wide ones; holes, impossible rows."""
    chance, told = random.Random(rows), reference.Book(rows)
    log = Log().run_start().subscribe(1, "smart_depth", params=f'{{"rows":{rows}}}')
    for number in range(3000):
        which = chance.choice((Side.ASK, Side.BID))
        length = len(told.sides[which])
        position = chance.randint(0, min(length, rows - 1)) if chance.random() < 0.98 else chance.randint(-1, rows)
        operation = 1 if updates_alone and chance.random() < 0.97 else chance.choice((0, 0, 0, 1, 2, 2))
        price = round(50 + (which - 0.5) * -chance.randint(1, 40) / 10, 2)
        row = (price, float(chance.randint(0, 9)), chance.choice((None, "ARCA", "NSDQ")))
        told.apply(position, operation, int(which), row)
        log.hot(
            Kind.DEPTH, 1, msg=13, operation=operation, position=position, side=int(which), price=price, size=row[1],
            market_maker=row[2],
        )  # fmt: skip
        if number % 50 == 49:
            log.fold()
            log.engine.check()
            state = log.engine.book.state(7)
            assert (state.impossible, state.placed, state.good) == (told.impossible, told.placed, told.good)
            for half in Side:
                assert [(p, q, maker or None) for p, q, maker in log.engine.book.rows(7, half)] == told.visible(half)
            if told.good and told.best(0)[0] and told.best(1)[0]:
                quote = log.engine.quotes.quote(7)
                assert (quote.bid, quote.bid_size) == told.best(1)
                assert (quote.ask, quote.ask_size) == told.best(0)
    assert told.impossible > 10


def test_a_named_stream_without_a_book_shows_no_other_books_rows() -> None:
    engine = book().engine
    view = look(engine, engine.market.symbols[0], Stream.SMART_DEPTH)
    assert view["state"] is None
    assert view["bid"] == view["ask"] == {"rows": [], "ladder": []}
    assert look(engine, engine.market.symbols[0])["bid"]["rows"]


@pytest.mark.parametrize(("req", "good"), [(1, (False, True)), (-1, (False, False)), (99, (False, False))])
def test_a_depth_message_nobody_can_read_makes_its_book_bad(req, good):
    """An undecodable depth row makes its book bad until the next reset; without a request id, every book."""
    log = Log().run_start()
    for n, con_id in ((1, 7), (2, 8)):
        log.subscribe(n, "smart_depth", con_id)
        log.depth(n, "insert 0 bid 10.00 300\ninsert 0 ask 10.01 100", at=1)
    log.add(Kind.RAW, 2, req_id=1, msg=13, reason="copy", fields="x")
    log.add(Kind.RAW, 2, req_id=1, msg=2, reason="undecodable", fields="x")
    log.clock(3)
    assert [row["book_good"] for row in log.fold()[-2:]] == [True, True]
    log.add(Kind.RAW, 4, req_id=req, msg=13, reason="undecodable", fields="13|1|1|x")
    log.clock(5)
    rows = log.fold()[-2:]
    assert tuple(row["book_good"] for row in rows) == good
    assert tuple(row["bid"] is not None for row in rows) == good, "a bad SMART book gives no quote"
    log.notice(317, 6, req_id=1)
    log.depth(1, "insert 0 bid 10.00 300\ninsert 0 ask 10.01 100", at=6)
    log.clock(7)
    assert log.fold()[-2]["book_good"]
