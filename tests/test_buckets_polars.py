"""Buckets of whole real days against an independent computation in Polars, for every column a tape supports."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.projections.engine import Engine
from tests.market_log import SECOND
from tests.test_projections_buckets import table

UNREPORTED = sum(1 << bit for bit in (1, 2, 3, 9, 11, 14, 18, 20, 25, 31))
TAPES = ("IBM-2013-10-07", "IBM-2013-10-08", "IBM-2013-10-09", "BAC-2013-10-07", "ARL-2025-07-17")
bid, ask = pl.col("bid"), pl.col("ask")
mid = (bid + ask) / 2


def tape(folder: Path) -> tuple[Batch, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """A log of BidAsk and AllLast and a clock each second; and the quotes, trades and clocks it holds, with seqs."""
    quotes = pl.read_parquet(folder / "quotes.parquet").select("n", "ts", "bid", "ask", "bid_size", "ask_size")
    trades = pl.read_parquet(folder / "trades.parquet").select("n", "ts", "price", "size", "condition")
    bits = pl.col("condition").str.to_integer(base=16, strict=False).fill_null(0)
    trades = trades.with_columns(unreported=(bits.cast(pl.Int64) & UNREPORTED) != 0, past_limit=pl.lit(False))
    events = pl.concat([quotes.with_columns(req_id=1), trades.with_columns(req_id=2)], how="diagonal").sort("n")
    events = events.with_columns(ts_recv=pl.col("ts").cum_max())
    first, last = events["ts_recv"][0] // SECOND * SECOND, events["ts_recv"][-1]
    clocks = pl.DataFrame({"ts_recv": range(first + SECOND, last + 2 * SECOND, SECOND)}, schema={"ts_recv": pl.Int64})
    merged = pl.concat([events, clocks.with_columns(req_id=pl.lit(-1))], how="diagonal_relaxed")
    merged = merged.sort("ts_recv", maintain_order=True).with_row_index("seq", offset=4)
    parts = [merged.filter(pl.col("req_id") == req_id) for req_id in (1, 2, -1)]
    asked = [
        {"action": "subscribe", "stream": stream, "symbol": "X", "con_id": 8314, "epoch": 1, "req_id": i}
        for i, stream in enumerate(("bid_ask", "all_last"), 1)
    ]
    start = [{"action": "run_start", "stream": "run", "params": "{}"}, *asked]
    head = Batch.of([(Kind.REQUEST, {**row, "ts_recv": first}) for row in start], 1)
    tables = {
        Kind.QUOTE: table(Kind.QUOTE, parts[0], stream=3),
        Kind.TRADE: table(Kind.TRADE, parts[1], stream=2),
        Kind.CLOCK: table(Kind.CLOCK, parts[2], wall_ns=0, mono_ns=0),
    }
    return Batch.concat([head, Batch(tables)]).check(), *parts


def folded(batch: Batch) -> pl.DataFrame:
    engine, out = Engine(market_only=True), []
    for a, b in pairwise([0, batch.last_seq // 3, batch.last_seq]):
        out.append(pl.from_arrow(engine.fold(batch.slice(a + 1, b))["buckets"]))
    return pl.concat(out)


def present(name: str) -> pl.Expr:
    """0 and -1 mean absent."""
    return pl.when(pl.col(name) > 0).then(pl.col(name).cast(pl.Float64)).alias(name)


def of_quotes(seconds: pl.DataFrame, quotes: pl.DataFrame) -> pl.DataFrame:
    """Columns of the quote in force at each second's end, and flow and returns of its changes."""
    names = ("bid", "ask", "bid_size", "ask_size")
    before = {name: pl.col(name).shift(1) for name in names}
    moved = mid / mid.shift(1) - 1
    flow = (
        pl.when(bid >= before["bid"]).then(pl.col("bid_size")).otherwise(0)
        - pl.when(bid <= before["bid"]).then(before["bid_size"]).otherwise(0)
        - pl.when(ask <= before["ask"]).then(pl.col("ask_size")).otherwise(0)
        + pl.when(ask >= before["ask"]).then(before["ask_size"]).otherwise(0)
    )
    whole = pl.all_horizontal(*(pl.col(n).is_not_null() & before[n].is_not_null() for n in names))
    changes = quotes.with_columns(ofi=pl.when(whole).then(flow), move=moved.abs(), square=moved**2)
    each = changes.group_by("second").agg(
        pl.col("ofi").sum(), volatility_proxy=pl.col("move").max(), realised_variance=pl.col("square").sum(),
        quote_count=pl.len().cast(pl.Int64),
    )  # fmt: skip
    at_end = seconds.join_asof(quotes.select("ts_recv", *names), left_on="last_ns", right_on="ts_recv")
    return at_end.join(each.rename({"second": "ts"}), on="ts", how="left")


def time_weighted(seconds: pl.DataFrame, quotes: pl.DataFrame) -> pl.DataFrame:
    """Spread over the ns it was in force, in whole hundredths of a cent times ns: no rounding before the division."""
    edges = seconds.select(at="ts").join_asof(quotes.select("ts_recv", "bid", "ask"), left_on="at", right_on="ts_recv")
    within = quotes.select("bid", "ask", at="ts_recv")
    spans = pl.concat([edges.select("bid", "ask", "at", first=0), within.with_columns(first=1)]).sort(
        "at", "first", maintain_order=True
    )
    ns = pl.col("at").shift(-1).fill_null(seconds["ts"][-1] + SECOND) - pl.col("at")
    spread = ((ask - bid) * 10_000).round().cast(pl.Int64)
    spans = spans.with_columns(
        ns=pl.when(spread.is_not_null()).then(ns), area=spread * ns, ts=pl.col("at") // SECOND * SECOND
    )
    summed = spans.group_by("ts").agg(pl.col("ns").sum(), pl.col("area").sum())
    return seconds.join(summed, on="ts", how="left").select(twa=pl.col("area") / pl.col("ns") / 10_000, ns="ns")


def of_trades(quotes: pl.DataFrame, trades: pl.DataFrame) -> pl.DataFrame:
    """Prints by second and aggressor: the quote in force before each print, then the tick rule."""
    trades = trades.drop("bid", "ask").filter((pl.col("price") > 0) & (pl.col("size") > 0))
    forming = trades.filter(~pl.col("unreported")).join_asof(quotes.select("seq", "bid", "ask"), on="seq")
    price = pl.col("price")
    lean = (price - bid) - (ask - price)
    by_quote = pl.when((bid <= ask) & (lean.abs() > 1e-9 * price)).then(lean.sign())
    step = price.diff().sign()
    by_tick = pl.when(step != 0).then(step).forward_fill()
    sided = forming.with_columns(side=pl.coalesce(by_quote, by_tick, 0.0)).select("seq", "side", forms="price")
    side, size = pl.col("side"), pl.col("size").cast(pl.Float64)
    return (
        trades.join(sided, on="seq", how="left", maintain_order="left")
        .group_by("second", maintain_order=True)
        .agg(
            trade_count=pl.len().cast(pl.Int64),
            tape_buy=size.filter(side > 0).sum(),
            tape_sell=size.filter(side < 0).sum(),
            tape_unknown=size.filter(side.is_null() | (side == 0)).sum(),
            last=pl.col("forms").drop_nulls().last(),
        )
        .rename({"second": "ts"})
    )


@pytest.mark.parametrize("name", TAPES)
def test_every_column_equals_an_independent_computation(shared_data: Path, name: str) -> None:
    """Quote, sizes, mark, counts, volume by aggressor, flow and volatility equal; spread_twa to the ns; rest empty."""
    batch, quotes, trades, clocks = tape(shared_data / "tapes" / name)
    got = folded(batch)
    second = (pl.col("ts_recv") // SECOND * SECOND).alias("second")
    quotes = quotes.with_columns(second, *(present(n) for n in ("bid", "ask", "bid_size", "ask_size")))
    trades = trades.with_columns(second)
    seconds = clocks.select(ts=pl.col("ts_recv") - SECOND, last_ns=pl.col("ts_recv") - 1, decision_seq="seq")
    exact = (
        of_quotes(seconds, quotes)
        .join(of_trades(quotes, trades), on="ts", how="left", maintain_order="left")
        .with_columns(mid=mid, spread=ask - bid, bid_top_size="bid_size", ask_top_size="ask_size")
        .with_columns(pl.col("^(tape_.*|.*_count|ofi)$").fill_null(0), mark=pl.coalesce("last", "mid"))
        .with_columns(
            spread_bps=pl.col("spread") / pl.col("mid") * 10_000,
            microprice=(ask * pl.col("bid_size") + bid * pl.col("ask_size"))
            / (pl.col("bid_size") + pl.col("ask_size")),
            stale=(pl.col("quote_count") == 0) & (pl.col("trade_count") == 0),
        )
    )
    assert got["ts"].equals(exact["ts"])
    assert got["decision_seq"].cast(pl.Int64).equals(exact["decision_seq"].cast(pl.Int64))
    for column in ("bid", "ask", "mid", "mark", "spread", "spread_bps", "microprice", "bid_top_size", "ask_top_size"):
        assert got[column].equals(exact[column].cast(pl.Float64), null_equal=True), column
    for column in ("trade_count", "quote_count", "tape_buy", "tape_sell", "tape_unknown", "stale"):
        assert got[column].equals(exact[column].cast(got[column].dtype)), column
    seen = got["ofi"].is_not_null()  # a mid was in force at some time of the second
    twa = time_weighted(seconds, quotes)
    assert seen.equals(twa["ns"] > 0)
    assert (got["ofi"] - exact["ofi"]).abs().max() == 0
    assert (got["volatility_proxy"] - exact["volatility_proxy"].fill_null(0)).abs().max() == 0
    assert (got["realised_variance"] - exact["realised_variance"].fill_null(0)).abs().max() < 1e-18
    assert got["spread_twa"].is_null().equals(~seen)
    assert (got["spread_twa"] - twa["twa"]).abs().max() < 1e-12  # one ns of one cent is 1e-11
    for column in ("imbalance", "bid_size_top_n", "ask_size_top_n"):
        assert got[column].null_count() == got.height
    assert not got["book_good"].any()
    assert set(got["quote_source"].drop_nulls()) == {"bid_ask"}
