"""Streams that die alone, a feed that dies with the socket up, and quotes that merely stand, through a real socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from harvester.calendar import session
from harvester.events.kinds import Action, Kind, Own, Stream
from harvester.home import Home
from harvester.projections.engine import Engine
from harvester.simgateway.markets.open_market import open_market
from tests.recording import check_nothing_lost, lockstep, run
from tests.test_record_trouble import DATE, codes, one, sound, subscribed

if TYPE_CHECKING:
    from pathlib import Path

    from harvester.eventlog.reader import Day
    from harvester.simgateway.markets.market_source import MarketSource

SECOND = 1_000_000_000
OPEN = session(DATE).open_ns  # type: ignore[union-attr]


def notices(day: Day, code: int) -> list[dict[str, Any]]:
    return [n for n in day.table(Kind.NOTICE).to_pylist() if n["code"] == code]


def folded(day: Day, rows_max: int | None = None) -> tuple[list[dict[str, Any]], dict[str, float], dict[str, str]]:
    """Buckets, measures of health (`depth gap_seconds_max`), and digests, of a fold in batches of that many rows."""
    engine, buckets = Engine(), []
    for batch in day.batches(rows_max=rows_max):
        found = engine.fold(batch)
        if found.rows("buckets"):
            buckets += found["buckets"].to_pylist()
    health = {f"{row['stream'] or ''} {row['measure']}".strip(): row["value"] for row in engine.health.rows()}
    return buckets, health, engine.digests()


def tape_market(root: Path, quotes: list[tuple[float, ...]], trades: list[tuple[float, ...]]) -> MarketSource:
    """A tape of quotes (second after the open, bid, ask, bid size) and trades (second, price)."""
    folder = root / f"TAPE-{DATE}"
    folder.mkdir()
    timed = sorted([(at, "q", row) for at, *row in quotes] + [(at, "t", row) for at, *row in trades])
    made: dict[str, list[dict[str, Any]]] = {"q": [], "t": []}
    for n, (at, kind, row) in enumerate(timed, 1):
        common = {"n": n, "ts": OPEN + round(at * SECOND)}
        if kind == "q":
            sides = {"bid": row[0], "bid_size": row[2], "ask": row[1], "ask_size": 300.0}
            made[kind].append({**common, **sides, "bid_exchange": "Q", "ask_exchange": "Q"})
        else:
            print_of = {"price": row[0], "size": 100.0, "exchange": "Q", "condition": "0", "suspicious": False}
            made[kind].append({**common, **print_of})
    pl.DataFrame(made["q"]).write_parquet(folder / "quotes.parquet")
    pl.DataFrame(made["t"]).write_parquet(folder / "trades.parquet")
    return open_market("tape", [folder])


def test_a_dead_depth_stream_is_contradicted_and_requested_again(tmp_path: Path) -> None:
    """Depth stops while quotes go on: one notice, one new request, no good book from the tenth second on until then.

    Seconds in which the book was of no use are counted, and equal in every cut of the log.
    """
    day = sound(run(lockstep(one(), Home(tmp_path), minutes=7, faults="+240 ACME:depth dead")))
    first, second = subscribed(day, Stream.DEPTH)
    silences = notices(day, Own.STREAM_SILENT)
    assert [(n["req_id"], n["text"]) for n in silences] == [
        (first["req_id"], "depth of ACME is contradicted by the quote in force")
    ]
    buckets, health, digests = folded(day)
    assert folded(day, rows_max=37)[2] == digests
    bad = [row["ts"] for row in buckets if row["quote_source"] and row["depth_count"] == 0 and not row["book_good"]]
    assert 0 < health["contradicted_seconds"] == len(bad)
    assert max(bad) < second["ts_recv"]
    rows = day.table(Kind.DEPTH).select(["req_id", "ts_recv"]).to_pylist()
    last = max(row["ts_recv"] for row in rows if row["req_id"] == first["req_id"])
    begin = min(row["ts_recv"] for row in rows if row["req_id"] == second["req_id"])
    assert health["depth gap_seconds_max"] >= (begin - last) / SECOND
    asked = health["l1 covered_seconds"]  # from the start to the end
    assert health["depth covered_seconds"] == pytest.approx(asked - (begin - last) / SECOND, abs=2)
    assert all(row["book_good"] for row in buckets if row["ts"] > second["ts_recv"])
    assert all(row["imbalance"] is None for row in buckets if not row["book_good"])


def test_a_317_without_a_refill_is_requested_again(tmp_path: Path) -> None:
    """A reset after which no row comes: the book is unknown, and requested again after the stated time."""
    faults = "+100 ACME:depth message 4 2 {req} 317 RESET\n+100 ACME:depth dead"
    day = sound(run(lockstep(one(), Home(tmp_path), minutes=4, commit_seconds=5, faults=faults)))
    second = subscribed(day, Stream.DEPTH)[1]
    assert second["ts_recv"] - notices(day, 317)[0]["ts_recv"] <= 25 * SECOND
    assert folded(day)[0][-1]["book_good"]


def test_a_317_with_its_refill_is_left_alone(tmp_path: Path) -> None:
    """A reset whose rows come at once brings no request and no notice."""
    day = sound(run(lockstep(one(), Home(tmp_path), minutes=3, commit_seconds=5, faults="+60 ACME:depth error 317")))
    assert len(subscribed(day, Stream.DEPTH)) == 1
    assert not notices(day, Own.STREAM_SILENT)


def test_a_standing_quote_is_not_a_dead_stream(tmp_path: Path) -> None:
    """Ten minutes of prints under one quote: BidAsk is requested once, answered at once, and stays in force."""
    quotes = [(1.0, 49.99, 50.01, 500.0), (41.0, 49.99, 50.01, 600.0), (630.0, 49.98, 50.0, 500.0)]
    prints = [(2.5 + 2 * n, 50.0 + 0.01 * (n % 2)) for n in range(300)]
    market = tape_market(tmp_path, quotes, prints)
    recorded = run(lockstep(market, Home(tmp_path), minutes=11))
    day = sound(recorded)
    assert len(subscribed(day, Stream.BID_ASK)) == len(subscribed(day, Stream.L1)) == 1
    assert not notices(day, Own.STREAM_SILENT)
    assert check_nothing_lost(recorded, day)
    sources = [row["quote_source"] for row in folded(day)[0] if row["ts"] > OPEN + 60 * SECOND]
    assert set(sources) == {"bid_ask"}


def test_bid_ask_that_dies_while_the_quote_moves_is_renewed(tmp_path: Path) -> None:
    """L1 bids and asks go on without BidAsk: it is requested again, and its last quote stays in force until then."""
    day = sound(run(lockstep(one(), Home(tmp_path), minutes=6, faults="+60 ACME:bid_ask dead")))
    first, second = subscribed(day, Stream.BID_ASK)
    cancels = [r for r in day.table(Kind.REQUEST).to_pylist() if r["action"] == Action.CANCEL]
    assert [(r["req_id"], r["params"]) for r in cancels] == [(first["req_id"], '{"renewed":true}')]
    buckets, _, _ = folded(day)
    after = {row["quote_source"] for row in buckets if row["ts"] > second["ts_recv"] - 2 * SECOND}
    assert after == {"bid_ask"}


@pytest.mark.parametrize(
    ("faults", "within_s"),
    [
        ("+300 * dead", 90),
        ("+300 * dead\n+300 * error 2110", 25),
        ("+300 * error 2103\n+300 * dead\n+302 * error 2104", 25),
        ("+300 * silence 200", 90),
    ],
    ids=["no code", "2110", "2103 and 2104", "nothing answered"],
)
def test_a_feed_that_dies_with_the_socket_up_is_an_outage(tmp_path: Path, faults: str, within_s: int) -> None:
    """The whole feed falls silent in the session: an outage pair, everything requested again, and data again.

    For the folds it lasts until rows arrive, requests or not, and its seconds are compared with nothing.
    """
    recorded = run(lockstep(one(), Home(tmp_path), minutes=10, faults=faults))
    day = sound(recorded)
    begin, end = notices(day, Own.OUTAGE_BEGIN), notices(day, Own.OUTAGE_END)
    assert len(begin) == len(end) == recorded.summary.outages == 1
    assert begin[0]["ts_recv"] - one().start_ns <= (300 + within_s) * SECOND
    for stream in (Stream.L1, Stream.ALL_LAST, Stream.BID_ASK, Stream.DEPTH, Stream.BARS_5S):
        assert any(r["ts_recv"] >= begin[0]["ts_recv"] for r in subscribed(day, stream)), stream
    buckets, health, digests = folded(day)
    assert folded(day, rows_max=37)[2] == digests
    lasted = end[0]["ts_recv"] - begin[0]["value"]
    assert health["outage_seconds"] == pytest.approx(lasted / SECOND)
    if "dead" in faults:
        assert begin[0]["value"] - one().start_ns == pytest.approx(300 * SECOND, abs=5 * SECOND)
        assert health["l1 gap_seconds_max"] >= lasted / SECOND - 3
    assert health["top_seconds"] + health["stale_seconds"] <= health["seconds"]
    dark = [row for row in buckets if begin[0]["ts_recv"] <= row["ts"] < end[0]["ts_recv"] - SECOND]
    assert all(row["mid"] is None and not row["book_good"] for row in dark)
    assert buckets[-1]["mid"] is not None


def test_a_thin_feed_is_not_called_silent(tmp_path: Path) -> None:
    """A quote every few minutes, before the open and after it, with a busy half minute: no outage and no notice."""
    times = [60.0 * n for n in (-20, -13, -4, 0, 3, 9, 10, 17)] + [600.0 + n / 2 for n in range(90)]
    quotes = [(at, 5.0 + n % 3 / 100, 5.05 + n % 3 / 100, 100.0) for n, at in enumerate(sorted(set(times)))]
    market = tape_market(tmp_path, quotes, [(15.0, 5.02), (1100.0, 5.02)])
    day = sound(run(lockstep(market, Home(tmp_path), minutes=38)))
    assert not {Own.OUTAGE_BEGIN, Own.STREAM_SILENT} & set(codes(day))
    assert len(subscribed(day, Stream.BID_ASK)) == 1


def test_a_halted_symbol_is_not_called_silent(tmp_path: Path) -> None:
    """A halt, announced by L1 field 49: nothing arrives for five minutes, and nothing is requested again."""
    faults = "+200 ACME:l1 message 45 6 {req} 49 2\n+200.1 * silence 300\n+500 ACME:l1 message 45 6 {req} 49 0"
    day = sound(run(lockstep(one(), Home(tmp_path), minutes=10, faults=faults)))
    assert Own.OUTAGE_BEGIN not in codes(day)
    assert len(subscribed(day, Stream.L1)) == 1


def test_a_connection_that_never_answers_is_requested_again(tmp_path: Path) -> None:
    """After 1101 everything is requested and no row comes for a minute: an outage until a later request is served."""
    faults = "+30 * error 1100\n+31 * silence 100\n+31 * error 1101"
    recorded = run(lockstep(one(), Home(tmp_path), minutes=5, start_ns=OPEN + 60 * SECOND, faults=faults))
    day = sound(recorded)
    begin, end = notices(day, Own.OUTAGE_BEGIN)[1], notices(day, Own.OUTAGE_END)[1]
    assert 60 * SECOND < begin["ts_recv"] - notices(day, 1101)[0]["ts_recv"] < 65 * SECOND
    assert end["ts_recv"] - begin["ts_recv"] < 65 * SECOND
    assert len(subscribed(day, Stream.L1)) == 3
    assert folded(day)[0][-1]["mid"] is not None
