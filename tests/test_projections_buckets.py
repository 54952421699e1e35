"""Buckets: the order of things inside a second, and each column against a hand-made or independent computation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.projections.engine import Engine
from harvester.projections.market.state_arrays import BUCKETS
from tests.market_log import SECOND, START, Log

if TYPE_CHECKING:
    from pathlib import Path


def quoted(*streams: str) -> Log:
    """A log with a BidAsk quote 10.00 x 10.02 at the start and the given further streams as requests 2, 3 …"""
    log = Log().run_start().subscribe(1, "bid_ask", at=0)
    for req, stream in enumerate(streams, 2):
        log.subscribe(req, stream)
    log.quote(1, 10.0, 10.02, 300, 100)
    return log


def test_a_bucket_closes_at_the_first_clock_at_or_after_its_end() -> None:
    """Only a clock closes buckets; its seq is the decision_seq; an early clock closes none, a late one several."""
    log = quoted()
    log.clock(0.999)
    assert log.fold() == []
    first = log.clock(1)
    assert [(r["ts"], r["decision_seq"]) for r in log.fold()] == [(START, first)]
    late = log.clock(3.4)
    assert [(r["ts"] - START, r["decision_seq"]) for r in log.fold()] == [(SECOND, late), (2 * SECOND, late)]


def test_an_event_after_the_clocks_second_belongs_to_its_own() -> None:
    """An event stamped 1.1 s but numbered before the clock of second 1 counts in the bucket of second 1, not 0."""
    log = quoted("all_last")
    log.trade(2, 10.02, 500, at=1.1)
    log.clock(1.2)
    (row,) = log.fold()
    assert (row["trade_count"], row["mark"]) == (0, 10.01)
    log.clock(2)
    (row,) = log.fold()
    assert (row["ts"] - START, row["trade_count"], row["tape_buy"], row["mark"]) == (SECOND, 1, 500.0, 10.02)


def test_silent_seconds_give_stale_rows_while_subscribed() -> None:
    """In silence rows continue with the quote in force and stale true; they end with the subscription."""
    log = quoted()
    for second in range(1, 4):
        log.clock(second)
    log.cancel(1, at=3.5)
    log.clock(4)
    log.clock(5)
    rows = log.fold()
    assert [(r["stale"], r["bid"]) for r in rows] == [(False, 10.0), (True, 10.0), (True, 10.0), (True, None)]


def test_rows_of_one_clock_stand_in_con_id_order() -> None:
    """Whatever the order of subscription, rows are ordered by time, then con_id."""
    log = Log().run_start()
    for req, con_id in enumerate((9, 3, 7)):
        log.subscribe(req, "l1", con_id=con_id)
    log.clock(2)
    assert [(r["ts"] - START, r["con_id"]) for r in log.fold()] == [(s * SECOND, c) for s in (0, 1) for c in (3, 7, 9)]


def test_a_restart_leaves_no_rows_for_the_time_between() -> None:
    """Killed at 1.5 s, started again at 9.5 s: the old keys are dead from 1.5 s on, and 2 … 9 s give no row."""
    log = quoted()
    log.clock(1)
    log.quote(1, 10.0, 10.03, at=1.5)
    log.run_start(at=9.5).subscribe(1, "bid_ask", at=9.6)
    log.quote(1, 11.0, 11.01, at=9.7)
    log.clock(10)
    rows = log.fold()
    assert [(r["ts"] - START) // SECOND for r in rows] == [0, 1, 9]
    assert rows[1]["spread_twa"] == pytest.approx(0.02)
    assert rows[2]["volatility_proxy"] == 0.0


def test_nobody_was_there_for_a_day_and_more() -> None:
    """A jump of time beyond a day closes the current second and restarts, instead of writing a year of rows."""
    log = quoted()
    log.clock(400 * 86_400)
    assert len(log.fold()) == 1
    log.clock(400 * 86_400 + 1)
    (row,) = log.fold()
    assert row["spread_twa"] == pytest.approx(0.02, abs=1e-15)


def test_time_weighted_spread_is_exact() -> None:
    """0.02 for 250,000,001 ns, 0.04 for the rest; a time without a quote does not count."""
    log = quoted()
    log.quote(1, 10.0, 10.04, at=0.250000001)
    log.clock(1)
    (row,) = log.fold()
    narrow, wide = 10.02 - 10.0, 10.04 - 10.0
    assert row["spread_twa"] == (narrow * 250_000_001 + wide * 749_999_999) / SECOND
    log.cancel(1, at=1.5)
    log.clock(2)
    assert log.fold()[0]["spread_twa"] == wide * (SECOND // 2) / (SECOND // 2)


def test_columns_of_one_quote() -> None:
    """Spread, basis points, mid and microprice by their formulas; a crossed spread is kept as it is."""
    log = quoted()
    log.clock(1)
    log.quote(1, 10.03, 10.02, at=1.5)
    log.clock(2)
    row, crossed = log.fold()
    assert (row["spread"], row["mid"]) == (10.02 - 10.0, (10.0 + 10.02) / 2)
    assert row["spread_bps"] == row["spread"] / row["mid"] * 10_000
    assert row["microprice"] == (10.02 * 300 + 10.0 * 100) / 400
    assert crossed["spread"] == 10.02 - 10.03


@pytest.mark.parametrize(
    ("change", "flow"),
    [
        ((10.00, 10.02, 500, 100), 200),  # the bid grew by 200
        ((10.00, 10.02, 300, 400), -300),  # the ask grew by 300
        ((10.01, 10.02, 200, 100), 200),  # the bid rose: all of its new size
        ((9.99, 10.02, 900, 100), -300),  # the bid fell: all of its old size went
        ((10.00, 10.01, 300, 700), -700),  # the ask fell: all of its new size
        ((10.00, 10.05, 300, 900), 100),  # the ask rose: all of its old size went
    ],
)
def test_order_flow_after_cont_kukanov_stoikov(change: tuple[float, ...], flow: float) -> None:
    """Each kind of change from 10.00 x 10.02, 300 x 100, gives the paper's contribution."""
    log = quoted()
    log.quote(1, *change, at=0.5)
    log.clock(1)
    assert log.fold()[0]["ofi"] == flow


def test_aggressor_by_quote_then_tick_rule() -> None:
    """Above mid buys, below mid sells; at mid and without a quote the last move decides; at first nothing does."""
    log = Log().run_start().subscribe(1, "bid_ask", at=0).subscribe(2, "all_last")
    log.trade(2, 10.0, 1)  # no quote and no earlier price
    log.trade(2, 10.0, 2)
    log.trade(2, 10.1, 4)  # up
    log.trade(2, 10.1, 8)  # still up
    log.quote(1, 10.0, 10.02)
    log.trade(2, 10.015, 16)  # above mid, although below the last
    log.trade(2, 10.005, 32)  # below mid
    log.trade(2, 10.01, 64)  # at mid, above the last
    log.trade(2, 10.01, 128, unreported=True)
    log.trade(2, 10.02, 256, past_limit=True)
    log.trade(2, -1, 512)
    log.trade(2, 10.02, 0)
    log.clock(1)
    (row,) = log.fold()
    assert (row["tape_buy"], row["tape_sell"], row["tape_unknown"]) == (4 + 8 + 16 + 64, 32, 1 + 2 + 128 + 256)
    assert (row["trade_count"], row["mark"]) == (9, 10.01)


def test_the_tape_is_all_last_then_last_then_rt_volume() -> None:
    """A print counts once: of the best stream subscribed. The first RTVolume repeats the past and is no print."""
    log = (
        Log()
        .run_start()
        .subscribe(1, "l1", params='{"generic":"233"}', at=0)
        .subscribe(2, "last")
        .subscribe(3, "all_last")
    )
    rt = {"msg": 46, "field": 48}
    for req in (2, 3):
        log.trade(req, 10.0, 100)
    log.hot(Kind.TICK, 1, **rt, text="10.00;100;1752759000000;100;10.0;true")
    log.cancel(3)
    log.trade(2, 10.0, 10)
    log.cancel(2)
    log.hot(Kind.TICK, 1, **rt, text="10.01;1;1752759000000;101;10.0;true")
    log.hot(Kind.TICK, 1, **rt, text=";;1752759000000;101;10.0;true")
    log.clock(1)
    (row,) = log.fold()
    assert (row["trade_count"], row["tape_unknown"] + row["tape_buy"], row["mark"]) == (3, 111, 10.01)


def test_volatility_is_carried_over_the_edge_of_a_second() -> None:
    """The first mid of a second is compared with the last one before it."""
    log = quoted()
    log.clock(1)
    log.quote(1, 10.10, 10.12, at=1.5)
    log.clock(2)
    first, second = log.fold()
    step = ((10.10 + 10.12) / 2) / ((10.0 + 10.02) / 2) - 1
    assert (first["volatility_proxy"], second["volatility_proxy"], second["realised_variance"]) == (
        0,
        step,
        step * step,
    )


def test_imbalance_takes_the_first_five_rows() -> None:
    """Six rows a side: the sixth does not count."""
    log = Log().run_start().subscribe(1, "depth", at=0)
    log.depth(
        1, "\n".join(f"insert {i} bid {10 - i / 100} 100\ninsert {i} ask {10.01 + i / 100} 300" for i in range(6))
    )
    log.clock(1)
    (row,) = log.fold()
    assert (row["bid_size_top_n"], row["ask_size_top_n"], row["imbalance"]) == (500, 1500, -0.5)
    assert row["depth_count"] == 12


def test_every_column_says_what_it_is() -> None:
    """Each field of the schema carries its formula and its unit."""
    assert all(set(field.metadata) == {b"formula", b"unit"} and field.metadata[b"formula"] for field in BUCKETS)


# ---- real data ---------------------------------------------------------------------------------------------------


def tape_day(folder: Path) -> tuple[Batch, Any, Any]:
    """A log made of a tape: BidAsk and AllLast of one symbol, a clock each second; and the frames it was made of."""
    import polars as pl

    quotes = pl.read_parquet(folder / "quotes.parquet").select("n", "ts", "bid", "ask", "bid_size", "ask_size")
    trades = pl.read_parquet(folder / "trades.parquet").select("n", "ts", "price", "size")
    events = pl.concat([quotes.with_columns(req_id=1), trades.with_columns(req_id=2)], how="diagonal").sort("n")
    events = events.with_columns(ts_recv=pl.col("ts").cum_max())
    first, last = events["ts_recv"][0] // SECOND * SECOND, events["ts_recv"][-1]
    clocks = pl.DataFrame({"ts_recv": range(first + SECOND, last + 2 * SECOND, SECOND)}, schema={"ts_recv": pl.Int64})
    merged = pl.concat([events, clocks.with_columns(req_id=pl.lit(-1))], how="diagonal_relaxed").sort(
        "ts_recv", maintain_order=True
    )
    merged = merged.with_row_index("seq", offset=4)
    asked = [
        (Kind.REQUEST, {"action": "subscribe", "stream": s, "symbol": "IBM", "con_id": 8314, "epoch": 1, "req_id": i})
        for i, s in enumerate(("bid_ask", "all_last"), 1)
    ]
    start = [(Kind.REQUEST, {"action": "run_start", "stream": "run", "params": "{}"}), *asked]
    head = Batch.of([(kind, {**row, "ts_recv": first}) for kind, row in start], 1)
    tables = {
        Kind.TRADE: table(Kind.TRADE, merged.filter(pl.col("req_id") == 2), stream=2),
        Kind.QUOTE: table(Kind.QUOTE, merged.filter(pl.col("req_id") == 1), stream=3),
        Kind.CLOCK: table(Kind.CLOCK, merged.filter(pl.col("req_id") == -1), wall_ns=0, mono_ns=0),
    }
    return Batch.concat([head, Batch(tables)]).check(), merged, first


def table(kind: Kind, frame: Any, **constants: int) -> Any:
    import pyarrow as pa

    from harvester.events.kinds import SCHEMAS

    arrow = frame.to_arrow()
    given = {"epoch": 1, "con_id": 8314, **constants}
    columns = []
    for field in SCHEMAS[kind]:
        if field.name in given:
            columns.append(pa.array([given[field.name]] * len(frame), field.type))
        elif field.name in arrow.column_names and field.name != "con_id":
            columns.append(arrow.column(field.name).combine_chunks().cast(field.type))
        else:
            columns.append(pa.nulls(len(frame), field.type))
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMAS[kind])


def test_ibm_buckets_equal_an_independent_as_of_join(shared_data: Path) -> None:
    """IBM 2013-10-08: bid, ask, counts, tape volume and the flow of every second equal a computation in Polars."""
    import polars as pl

    batch, merged, first = tape_day(shared_data / "tapes" / "IBM-2013-10-08")
    engine = Engine(market_only=True)
    out = [engine.fold(part)["buckets"] for part in halves(batch)]
    got = pl.concat([pl.from_arrow(table) for table in out])
    mine = got.select("ts", "bid", "ask", "trade_count", "quote_count", "mark", "ofi", "realised_variance", "tape_buy")
    second = (pl.col("ts_recv") // SECOND * SECOND).alias("ts")
    quotes = merged.filter(pl.col("req_id") == 1)
    trades = merged.filter(pl.col("req_id") == 2)
    theirs = (
        got.select("ts", end=pl.col("ts") + SECOND - 1)
        .join_asof(quotes.select("ts_recv", "bid", "ask"), left_on="end", right_on="ts_recv")
        .join(quotes.group_by(second).agg(quote_count=pl.len().cast(pl.Int64)), on="ts", how="left")
        .join(
            trades.group_by(second).agg(trade_count=pl.len().cast(pl.Int64), last=pl.col("price").last()),
            on="ts",
            how="left",
        )
        .join(flow(quotes).group_by(second).agg(pl.col("ofi").sum(), pl.col("square").sum()), on="ts", how="left")
    )
    assert got.height == (merged["ts_recv"][-1] - first) // SECOND
    for name in ("bid", "ask"):
        assert mine[name].equals(theirs[name], null_equal=True), name
    for name in ("quote_count", "trade_count"):
        assert mine[name].equals(theirs[name].fill_null(0)), name
    assert (mine["ofi"].fill_null(0) - theirs["ofi"].fill_null(0)).abs().max() == 0
    assert (mine["realised_variance"].fill_null(0) - theirs["square"].fill_null(0)).abs().max() < 1e-18
    mid = (theirs["bid"] + theirs["ask"]) / 2
    assert (mine["mark"] - theirs["last"].fill_null(mid)).abs().max() == 0
    tape = got["tape_buy"].sum() + got["tape_sell"].sum() + got["tape_unknown"].sum()
    assert tape == trades["size"].sum()
    health = {r["measure"]: r["value"] for r in engine.health.rows() if r["con_id"] and r["stream"] is None}
    assert 1 - health["prints_outside"] / health["prints_quoted"] > 0.95  # 96 % of IBM's prints lie inside the quote


def flow(quotes: Any) -> Any:
    """Cont, Kukanov and Stoikov's flow and the squared return of every quote change, as column arithmetic."""
    import polars as pl

    b, a, bs, az = (pl.col(name) for name in ("bid", "ask", "bid_size", "ask_size"))
    before = {name: pl.col(name).shift(1) for name in ("bid", "ask", "bid_size", "ask_size")}
    mid = (b + a) / 2
    return quotes.with_columns(
        ofi=pl.when(b >= before["bid"]).then(bs).otherwise(0)
        - pl.when(b <= before["bid"]).then(before["bid_size"]).otherwise(0)
        - pl.when(a <= before["ask"]).then(az).otherwise(0)
        + pl.when(a >= before["ask"]).then(before["ask_size"]).otherwise(0),
        square=(mid / mid.shift(1) - 1) ** 2,
    )


def halves(batch: Batch) -> list[Batch]:
    middle = batch.last_seq // 2
    return [batch.slice(1, middle), batch.slice(middle + 1, batch.last_seq)]
