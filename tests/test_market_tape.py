from __future__ import annotations

import random
from datetime import date

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harvester.calendar import session
from harvester.errors import HarvesterError
from harvester.events.kinds import Stream
from harvester.simgateway.markets.market_source import HistoryQuery, MarketRefusal, drain
from harvester.simgateway.markets.sale_conditions import condition_attribs, condition_text
from harvester.simgateway.markets.tape_market import open_tape
from tests.budget import budget

OPEN_NS = session(date(2025, 7, 17)).open_ns
UNREPORTED_BITS = (1, 2, 3, 9, 11, 14, 18, 20, 25, 31)


def streams(market):
    """All messages by stream."""
    found = {stream: [] for stream in Stream}
    for event in drain(market):
        found[event.stream] += [(event.ts, fields) for fields in event.fields]
    return found


@pytest.fixture(scope="module")
def arl(shared_data):
    folder = shared_data / "tapes" / "ARL-2025-07-17"
    return folder, streams(open_tape([folder]))


@pytest.fixture(scope="module")
def ibm(shared_data):
    folder = shared_data / "tapes" / "IBM-2013-10-08"
    market = open_tape([folder])
    return folder, streams(market), market


def test_arl_depth_rows_equal_the_tape(arl):
    """Direct depth is the tape's rows in their order, at their times; SMART depth the same rows, flagged."""
    folder, sent = arl
    tape = pl.read_parquet(folder / "depth.parquet").sort("n")
    rows = [
        (ts, int(f[3]), int(f[4]), int(f[5]), float(f[6]), float(f[7])) for ts, f in sent[Stream.DEPTH] if f[0] == "12"
    ]
    assert rows == tape.select("ts", "position", "operation", "side", "price", "size").rows()
    smart = [(ts, *map(int, (f[3], f[5], f[6])), float(f[7]), float(f[8])) for ts, f in sent[Stream.SMART_DEPTH]]
    assert smart == rows
    assert {f[9] for _, f in sent[Stream.SMART_DEPTH]} == {"1"}


def test_arl_book_of_sent_rows_is_the_true_book_after_every_source_message(shared_data):
    """Applying what was sent by shift semantics gives all 3,928 books of truth.parquet."""
    folder = shared_data / "tapes" / "ARL-2025-07-17"
    truth = pl.read_parquet(folder / "truth.parquet")
    numbers = pl.read_parquet(folder / "depth.parquet").sort("n")["n"].to_list()
    sent = streams(open_tape([folder]))[Stream.DEPTH]
    assert len(sent) == len(numbers)
    sides, at = ([], []), 0
    for row in truth.iter_rows(named=True):
        while at < len(numbers) and numbers[at] <= row["after_n"]:
            _, f = sent[at]
            position, operation, side = int(f[3]), int(f[4]), sides[int(f[5])]
            if operation == 0:
                side.insert(position, (float(f[6]), float(f[7])))
            elif operation == 1:
                side[position] = (float(f[6]), float(f[7]))
            else:
                del side[position]
            at += 1
        assert sides[1] == list(zip(row["bid_prices"], row["bid_sizes"], strict=True))
        assert sides[0] == list(zip(row["ask_prices"], row["ask_sizes"], strict=True))


def test_ibm_quotes_equal_the_tape(ibm):
    """Tick-by-tick BidAsk is the tape row by row; the last L1 value of each field at the end is the tape's last."""
    folder, sent, market = ibm
    tape = pl.read_parquet(folder / "quotes.parquet").sort("n")
    rows = [(ts, int(f[3]), *map(float, f[4:8])) for ts, f in sent[Stream.BID_ASK]]
    want = (
        tape.select("ts", pl.col("ts") // 10**9, "bid", "ask", "bid_size", "ask_size", strict=False) if False else None
    )
    assert want is None
    expected = [
        (ts, ts // 10**9, bid, ask, bid_size, ask_size)
        for ts, bid, ask, bid_size, ask_size in tape.select("ts", "bid", "ask", "bid_size", "ask_size").iter_rows()
    ]
    assert rows == expected
    last = {f[3]: f[4] for f in market.snapshot(8314, Stream.L1)}
    end = tape.row(-1, named=True)
    assert [float(last[field]) for field in ("1", "2", "0", "3")] == [
        end[column] for column in ("bid", "ask", "bid_size", "ask_size")
    ]


def test_ibm_l1_has_every_change_of_a_quote(ibm):
    """Prices of L1 bids and asks are the tape's runs of equal prices, in order, and so are the sizes."""
    folder, sent, _ = ibm
    tape = pl.read_parquet(folder / "quotes.parquet").sort("n")
    for field, column in (("1", "bid"), ("2", "ask")):
        prices = [float(f[4]) for _, f in sent[Stream.L1] if f[0] == "1" and f[3] == field]
        assert prices == tape[column].rle().struct.field("value").to_list()
    for field, price, size in (("0", "bid", "bid_size"), ("3", "ask", "ask_size")):
        sizes = [float(f[4]) for _, f in sent[Stream.L1] if f[0] == "2" and f[3] == field]
        pairs = tape.select(pl.struct(price, size).rle().struct.field("value").struct.field(size)).to_series()
        assert sizes == pairs.to_list()


def test_ibm_trades_equal_the_tape(ibm):
    """AllLast is every print with price, size, exchange name, bits and condition text; Last only the reported ones."""
    folder, sent, _ = ibm
    tape = pl.read_parquet(folder / "trades.parquet").sort("n")
    names = {"N": "NYSE", "Q": "NASDAQ", "P": "ARCA", "K": "EDGX", "J": "EDGA", "Z": "BATS", "Y": "BYX", "B": "BEX"}
    names |= {"C": "NSX", "X": "PHLX", "W": "CBOE", "M": "CHX", "D": "FINRA"}
    expected = []
    for ts, price, size, exchange, condition in tape.select("ts", "price", "size", "exchange", "condition").iter_rows():
        bits = int(condition, 16)
        unreported = any(bits & (1 << bit) for bit in UNREPORTED_BITS)
        expected.append((ts, ts // 10**9, price, size, 2 if unreported else 0, names[exchange]))
    rows = [(ts, int(f[3]), float(f[4]), float(f[5]), int(f[6]), f[7]) for ts, f in sent[Stream.ALL_LAST]]
    assert rows == expected
    assert [row for row in expected if not row[4]] == [
        (ts, int(f[3]), float(f[4]), float(f[5]), int(f[6]), f[7]) for ts, f in sent[Stream.LAST]
    ]


def test_ibm_volume_and_rtvolume_follow_the_prints(ibm):
    """Tick 8 is the running sum of sizes; RTVolume holds each print with total and VWAP, type 77 the reported ones."""
    folder, sent, _ = ibm
    tape = pl.read_parquet(folder / "trades.parquet").sort("n")
    volumes = [float(f[4]) for _, f in sent[Stream.L1] if f[0] == "2" and f[3] == "8"]
    assert volumes == tape["size"].cum_sum().to_list()
    texts = [f[4].split(";") for _, f in sent[Stream.L1] if f[0] == "46" and f[3] == "48"]
    totals = tape.select(pl.col("size").cum_sum()).to_series().to_list()
    money = tape.select((pl.col("price") * pl.col("size")).cum_sum()).to_series().to_list()
    assert [(float(t[0]), float(t[1]), int(t[2]), float(t[3])) for t in texts] == list(
        zip(tape["price"], tape["size"], (tape["ts"] // 10**6), totals, strict=True)
    )
    assert all(abs(float(t[4]) - m / v) < 1e-6 for t, m, v in zip(texts, money, totals, strict=True))
    assert sum(f[3] == "77" for _, f in sent[Stream.L1] if f[0] == "46") == len(sent[Stream.LAST])


def test_ibm_five_second_bars_equal_a_polars_group_by(ibm):
    """Every bar with trades is the group-by of reported prints; silent ones repeat the last close with volume 0."""
    folder, sent, _ = ibm
    tape = pl.read_parquet(folder / "trades.parquet").sort("n")
    bad = sum(1 << bit for bit in UNREPORTED_BITS)
    bits = pl.Series("bits", [int(c, 16) for c in tape["condition"]])
    good = tape.with_columns(bits).filter(pl.col("bits") & bad == 0).with_columns(start=pl.col("ts") // (5 * 10**9) * 5)
    grouped = good.group_by("start", maintain_order=True).agg(
        pl.col("price").first().alias("o"),
        pl.col("price").max().alias("h"),
        pl.col("price").min().alias("l"),
        pl.col("price").last().alias("c"),
        pl.col("size").sum().alias("v"),
        pl.len().alias("k"),
    )
    bars = [(int(f[3]), *map(float, f[4:9]), int(f[10])) for _, f in sent[Stream.BARS_5S]]
    assert [bar for bar in bars if bar[6]] == grouped.rows()
    close = None
    for bar in bars:
        assert bar[6] or bar[1:6] == (close, close, close, close, 0.0)
        close = bar[4]


def test_ibm_has_no_depth(ibm):
    """A tape without depth rows says so, and invents no book."""
    _, sent, market = ibm
    assert not market.instruments[0].has_depth
    assert not market.instruments[0].has_smart_depth
    assert not sent[Stream.DEPTH]
    assert market.instruments[0].con_id == 8314


def test_history_comes_from_the_minutes_beside_the_tape_and_never_from_the_future(shared_data):
    """At noon a request gets the minutes that are over and those of earlier days, and no later ones."""
    market = open_tape([shared_data / "tapes" / "IBM-2013-10-08"])
    noon = session(date(2013, 10, 8)).open_ns + 9000 * 10**9
    while (ts := market.next_ts()) is not None and ts < noon:
        market.advance(min(ts + 60 * 10**9, noon - 1), lambda _con_id, _stream: False)
    bars = market.history(HistoryQuery(8314, 0, "2 D", "1 min", "TRADES", rth=True)).bars
    file = pl.read_parquet(shared_data / "tapes" / "bars_1min.parquet").filter(pl.col("symbol") == "IBM")
    assert len(bars) == 390 + 150
    assert bars[-1].ts < noon
    known = {row["ts"]: row for row in file.iter_rows(named=True)}
    for bar in bars[:-1]:
        row = known[bar.ts]
        assert (bar.open, bar.high, bar.low, bar.close, bar.volume) == (
            *(round(row[c], 6) for c in ("open", "high", "low", "close")),
            row["volume"],
        )
        assert (bar.wap, bar.count) == (-1, -1)
    later = market.history(HistoryQuery(8314, noon + 10**15, "1 D", "1 hour", "TRADES", rth=True)).bars
    assert later[-1].ts < noon


# ---- made-up tapes ----


def quotes_frame(n: int, first: int = 1) -> pl.DataFrame:
    rng = random.Random(n)
    bids = [round(10 + rng.randrange(-20, 20) / 100, 2) for _ in range(n)]
    return pl.DataFrame(
        {
            "n": [first + 2 * i for i in range(n)],
            "ts": [OPEN_NS + i * 250_000_000 for i in range(n)],
            "bid": bids,
            "bid_size": [float(rng.randrange(1, 9) * 100) for _ in range(n)],
            "ask": [round(bid + 0.02, 2) for bid in bids],
            "ask_size": [float(rng.randrange(1, 9) * 100) for _ in range(n)],
        }
    )


def trades_frame(n: int) -> pl.DataFrame:
    rng = random.Random(n)
    return pl.DataFrame(
        {
            "n": [2 + 2 * i for i in range(n)],
            "ts": [OPEN_NS + i * 250_000_000 + 1 for i in range(n)],
            "price": [round(10 + rng.randrange(-20, 20) / 100, 2) for _ in range(n)],
            "size": [float(rng.randrange(1, 900)) for _ in range(n)],
            "exchange": [rng.choice("NQPKD") for _ in range(n)],
            "condition": [rng.choice(["", "1", "20000020", "80000000"]) for _ in range(n)],
            "suspicious": [False] * n,
        }
    )


def write_tape(folder, quotes=None, trades=None, depth=None, name="TEST-2025-07-17"):
    path = folder / name
    path.mkdir(parents=True)
    (quotes_frame(40) if quotes is None else quotes).write_parquet(path / "quotes.parquet")
    (trades_frame(40) if trades is None else trades).write_parquet(path / "trades.parquet")
    if depth is not None:
        depth.write_parquet(path / "depth.parquet")
    return path


def test_history_without_minutes_is_made_of_the_tapes_own_trades(tmp_path):
    """Sums of bars are the sums of the reported prints."""
    trades = trades_frame(400)
    market = open_tape([write_tape(tmp_path, quotes_frame(400), trades)])
    for _ in drain(market):
        pass
    reported = trades.filter(pl.col("condition") != "80000000")
    for size in ("1 secs", "5 secs", "1 min", "1 day"):
        bars = market.history(HistoryQuery(market.instruments[0].con_id, 0, "1 D", size, "TRADES", rth=True)).bars
        assert sum(bar.volume for bar in bars) == reported["size"].sum()
        assert sum(bar.count for bar in bars) == len(reported)
        assert bars[0].open == reported["price"][0]
        assert bars[-1].close == reported["price"][-1]


def test_an_empty_side_is_zero_in_bid_ask_and_no_price_in_l1(tmp_path):
    """BidAsk holds the tape's 0.0; L1 says price -1, size 0, as IB does; no MidPoint is made of one side."""
    quotes = quotes_frame(2).with_columns(bid=pl.Series([0.0, 9.5]), bid_size=pl.Series([0.0, 300.0]))
    sent = streams(open_tape([write_tape(tmp_path, quotes)]))
    assert sent[Stream.BID_ASK][0][1][4:8] == ["0", f"{quotes['ask'][0]:g}", "0", f"{quotes['ask_size'][0]:g}"]
    assert sent[Stream.L1][0][1] == ["1", "6", "", "1", "-1", "0", "0"]
    assert len(sent[Stream.MID_POINT]) == 1


def test_several_tapes_are_one_market_in_time_order(tmp_path):
    """Two symbols and two days: every row occurs once, times never decrease, one instrument for each symbol."""
    later = 24 * 3600 * 10**9
    paths = [
        write_tape(tmp_path, name="AAA-2025-07-17"),
        write_tape(tmp_path, name="BBB-2025-07-17"),
        write_tape(
            tmp_path,
            quotes_frame(40).with_columns(pl.col("ts") + later),
            trades_frame(40).with_columns(pl.col("ts") + later),
            name="AAA-2025-07-18",
        ),
    ]
    market = open_tape(paths)
    events = list(drain(market))
    assert [event.ts for event in events] == sorted(event.ts for event in events)
    assert sum(event.stream == Stream.ALL_LAST for event in events) == 120
    assert [instrument.symbol for instrument in market.instruments] == ["AAA", "BBB"]
    with pytest.raises(HarvesterError, match="twice"):
        open_tape([paths[0], paths[0]])


def test_condition_bits_become_the_four_places_of_a_sale_condition():
    """Texts as TWS sends them: sweep in the second place, an odd lot in the fourth, a regular print empty."""
    assert [condition_text(int(hexed, 16)) for hexed in ("1", "20", "20000020", "80000000", "2000", "40")] == [
        "",
        " F",
        " F",
        "   I",
        "  U",
        " O",
    ]
    for bit in range(32):
        assert condition_attribs(1 << bit) == (2 if bit in UNREPORTED_BITS else 0)


SPOILERS = {
    "a column is missing": lambda f, c: f.drop(c),
    "a column is text": lambda f, c: f.with_columns(pl.lit("x").alias(c)),
    "a column is a list": lambda f, c: f.with_columns(pl.lit([1.0]).alias(c)),
    "a value is missing": lambda f, c: f.with_columns(
        pl.when(pl.int_range(pl.len()) == len(f) // 2).then(None).otherwise(pl.col(c)).alias(c)
    ),
    "rows stand in no order": lambda f, _c: f.reverse(),
    "n comes twice": lambda f, _c: f.with_columns(pl.lit(5).cast(pl.Int64).alias("n")),
    "ts is of another day": lambda f, _c: f.with_columns(pl.col("ts") - 400 * 24 * 3600 * 10**9),
    "a number is negative": lambda f, c: f.with_columns((-pl.col(c).cast(pl.Float64)).cast(f[c].dtype).alias(c)),
    "a number is not finite": lambda f, c: f.with_columns(pl.lit(float("nan")).alias(c)),
}
NUMBERS = {"quotes": ["n", "ts", "bid", "bid_size", "ask", "ask_size"], "trades": ["n", "ts", "price", "size"]}


@settings(max_examples=budget(20, 60), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_wrong_tables_give_one_clear_line(tmp_path_factory, data):
    """Whatever is wrong with a column, it is one HarvesterError of one line that names the file."""
    which = data.draw(st.sampled_from(["quotes", "trades"]))
    name = data.draw(st.sampled_from(sorted(SPOILERS)))
    column = data.draw(st.sampled_from(NUMBERS[which]))
    frames = {"quotes": quotes_frame(30), "trades": trades_frame(30)}
    frames[which] = SPOILERS[name](frames[which], column)
    with pytest.raises(HarvesterError) as refused:
        open_tape([write_tape(tmp_path_factory.mktemp("tape"), **frames)])
    assert "\n" not in str(refused.value)
    assert "TEST-2025-07-17" in str(refused.value)


@settings(max_examples=budget(25, 80), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_wrong_bytes_give_one_clear_line_or_the_same_tape(tmp_path_factory, data):
    """A truncated file, or one with bytes replaced, is refused in one line or reads as a tape."""
    path = write_tape(tmp_path_factory.mktemp("tape"))
    file = path / data.draw(st.sampled_from(["quotes.parquet", "trades.parquet"]))
    raw = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    for _ in range(data.draw(st.integers(0, 4))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(raw))
    try:
        assert sum(1 for _ in drain(open_tape([path]))) > 0
    except HarvesterError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert "\n" not in refusal


@pytest.mark.parametrize("name", ["TEST", "TEST-2025-13-40", "-2025-07-17", "TEST-2025-07-19"])
def test_folder_names_that_tell_no_symbol_and_trading_day_are_refused(tmp_path, name):
    """The message names the folder."""
    with pytest.raises(HarvesterError) as refused:
        open_tape([write_tape(tmp_path, name=name)])
    assert name in str(refused.value)


def test_missing_folders_and_files_are_refused(tmp_path):
    """No folder, an empty one, and none at all."""
    with pytest.raises(HarvesterError, match="not a folder"):
        open_tape([tmp_path / "TEST-2025-07-17"])
    (tmp_path / "TEST-2025-07-17").mkdir()
    with pytest.raises(HarvesterError, match="missing"):
        open_tape([tmp_path / "TEST-2025-07-17"])
    with pytest.raises(HarvesterError, match="no tape folder"):
        open_tape([])


def test_history_there_is_none_of_is_refused(tmp_path):
    """Before the first trade of a tape without minutes a request gets 162."""
    market = open_tape([write_tape(tmp_path)])
    with pytest.raises(MarketRefusal) as refused:
        market.history(HistoryQuery(market.instruments[0].con_id, 0, "1 D", "1 min", "TRADES", rth=True))
    assert refused.value.code == 162
