"""`hv episodes` and `hv explain`: the table, and the story of a trade with the events behind each fill."""

from __future__ import annotations

import csv
import io
import json
import shutil

import polars as pl
import pytest
from market_log import SECOND, START, Log
from test_looks import on_terminal, shown_lines
from trading_log import DATE, record
from trading_table import Script, params
from typer.testing import CliRunner

from cli.app import app
from cli.cells import clock_time, price
from cli.cmd_explain import _order
from harvester.errors import BadSetting, NoLog, UnknownSymbol
from harvester.eventlog.reader import open_day
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.explain.day_trades import trades_of
from harvester.explain.events_behind import EventsBehind
from harvester.home import Home
from harvester.projections.trading.plan import Change, ChangeKind, EntryPlan, OrderType


def at(seconds: float) -> int:
    return START + round(seconds * SECOND)


def plan(**values) -> EntryPlan:
    return EntryPlan(long=True, reason="SCRIPT", quantity=100, **values)


SCRIPT = Script(
    plans=[
        (at(2), EntryPlan(long=True, reason="FIRST", quantity=300, type=OrderType.LIMIT, limit=10.02, valid_seconds=5,
                          stop=9.90, target=10.20, features={"lean": 1.5})),
        (at(10), plan(type=OrderType.LIMIT, limit=9.50, valid_seconds=2)),
        (at(15), plan(stop=9.5, target=30.0, hold_seconds_max=2)),
        (at(22), plan(type=OrderType.LIMIT, limit=9.99)),
    ],
    changes=[(at(4), Change(ChangeKind.STOP, 9.95))],
)  # fmt: skip
"""Of S7: filled in two parts and stopped; never filled; closed by time; filled by a print and open at the end."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two symbols with the same script: S7 with tick-by-tick quotes, S8, at twice the price, with L1."""
    made, log = Home(tmp_path_factory.mktemp("explain")).prepare(), Log()
    log.subscribe(1, "bid_ask", at=0).subscribe(2, "all_last").subscribe(3, "l1", con_id=8)
    log.notice(None, msg=58, value=1, con_id=7, req_id=1)
    log.notice(None, msg=58, value=1, con_id=8, req_id=3)
    log.quote(1, 10.00, 10.02, 500, 100, at=0.5)
    for field, number, size in ((1, 20.00, 300), (2, 20.04, 400)):
        log.tick(3, field, number, size, at=0.6)
    moves = {3: lambda: log.quote(1, 10.00, 10.02, 500, 400, at=3.3)}
    moves[8] = lambda: log.quote(1, 10.00, 10.02, 500, 500, at=8.2)
    moves[19] = lambda: log.tick(3, 3, 410, at=19.3)
    moves[20] = lambda: log.tick(3, 3, 450, at=20.3)
    moves[24] = lambda: log.hot("trade", 2, 24.2, stream=2, price=9.98, size=60.0, attribs=0, past_limit=False,
                                unreported=False)  # fmt: skip
    moves[6] = lambda: log.quote(1, 9.94, 9.96, 500, 500, at=6.4)
    for second in range(30):
        moves.get(second, lambda: None)()
        log.clock(second + 1)
    with LogWriter.open(made.on(DATE), run_start_row={"params": params(SCRIPT, costs="ibkr_fixed").text()}) as writer:
        writer.begin(START)
        writer.commit(Batch.of(log.pending, writer.next_seq))
        end = {"action": "run_end", "stream": "run", "params": '{"reason":"end of recording"}', "ts_recv": at(30)}
        writer.commit(Batch.of([("request", end)], writer.next_seq))
    return made


@pytest.fixture(scope="module")
def traded(tmp_path_factory):
    """A day of two runs on which the shipped strategy trades both symbols."""
    made = Home(tmp_path_factory.mktemp("traded")).prepare()
    record(made, runs=2, seconds=450)
    return made


def hv(home: Home, *words: str) -> str:
    line = [*words, "--home", str(home.root), "--date", str(DATE)]
    done = CliRunner().invoke(app, line, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def story(home: Home, *words: str) -> dict:
    return json.loads(hv(home, "explain", *words, "--json"))


def test_the_table_is_in_order_of_exit_with_totals(home):
    """One line a trade by the New York time of its exit, P&L and R as the episode has them; the totals add up."""
    lines = hv(home, "episodes").splitlines()
    assert [line.split()[:4] for line in lines[1:5]] == [
        ["09:30:06", "T133006_001", "S7", "LONG"],
        ["09:30:18", "T133018_002", "S7", "LONG"],
        ["09:30:18", "T133018_001", "S8", "LONG"],
        ["09:30:30", "T133030_003", "S7", "LONG"],
    ]
    assert lines[1].split()[4:] == ["300", "10.02", "9.94", "0:04", "-27.05", "-0.75", "FIRST", "STOP", "yes"]
    assert lines[4].split()[-3:] == ["SCRIPT", "DATA_END", "DATA_END"]
    assert "4 trades: 0 won, 4 lost, 0 even; P&L -37.48 USD after costs of 8.08" in lines
    assert "mean R -0.28 of 3; 3 to be learned from, not 1 DATA_END" in lines
    assert (
        "  hv explain --seq 22 --symbol S8" in lines[lines.index("4 entries were not filled (3 EXPIRED, 1 RUN_END)") :]
    )
    assert not any("T133018_001" in line for line in hv(home, "episodes", "s7").splitlines())
    with pytest.raises(UnknownSymbol, match=r"'zz' was not recorded on 2025-07-17 \(recorded: S7, S8\)"):
        hv(home, "episodes", "zz")


def test_json_and_csv_have_the_same_rows(home):
    """Both have one row a trade, in UTC, with the numbers of the episode's document."""
    made = json.loads(hv(home, "episodes", "--json"))
    rows = list(csv.DictReader(io.StringIO(hv(home, "episodes", "--csv"))))
    documents = [json.loads(row["document"]) for row in trades_of(home.on(DATE)).episodes]
    assert [row["trade_id"] for row in rows] == [row["trade_id"] for row in made["rows"]]
    for row, line, document in zip(made["rows"], rows, documents, strict=True):
        assert row["pnl_usd"] == float(line["pnl_usd"]) == document["labels"]["pnl_usd"]
        assert row["commission"] == pytest.approx(sum(fill["commission"] for fill in document["fills"]))
        assert line["exit_ts"] == row["exit_ts"]
        assert row["exit_ts"].endswith("Z")
        assert line["left_out"] == row["left_out"]
    assert made["totals"]["pnl_usd"] == pytest.approx(sum(d["labels"]["pnl_usd"] for d in documents))
    with pytest.raises(BadSetting, match="--csv and --json were both given"):
        hv(home, "episodes", "--csv", "--json")


def test_the_table_fits_a_narrow_terminal(traded):
    """At 80 columns every line fits and has the outcome; a wide terminal has the ids as well."""
    row = trades_of(traded.on(DATE)).listed()[0]
    for columns in (80, 140):
        lines = shown_lines(on_terminal(traded, "episodes", "--date", str(DATE), columns=columns))
        assert max(map(len, lines)) <= columns
        (line,) = [line for line in lines if f"{row['pnl_usd']:.2f}" in line][:1]
        assert line.split()[-2:] == [row["exit_reason"], "yes"]
        assert (row["trade_id"] in line) == (columns == 140)


@pytest.mark.parametrize(("con_id", "kind"), [(7, "quote"), (8, "tick")])
def test_each_fill_has_the_quote_in_force_at_its_seq(home, con_id, kind):
    """Quote and rows behind a fill are those of an independent look at the log, and explain the fill's price."""
    log, checked = open_day(DATE, home), 0
    frame = log.frame(kind).filter(pl.col("con_id") == con_id)
    for row in json.loads(hv(home, "episodes", f"S{con_id}", "--json"))["rows"]:
        for fill in story(home, f"S{con_id}/{row['trade_id']}")["fills"]:
            behind, before = fill["behind"], frame.filter(pl.col("seq") <= fill["seq"])
            assert behind["seq"] == fill["seq"]
            if kind == "quote":
                last = before.row(-1, named=True)
                assert [one["seq"] for one in behind["rows"]] == [last["seq"]]
                want = {name: last[name] for name in ("bid", "bid_size", "ask", "ask_size")}
            else:
                want = {"bid": 20.0, "bid_size": 300.0, "ask": 20.04, "ask_size": 400.0}
                assert [one["field"] for one in behind["rows"]] == [1, 2]
            assert {name: value for name, value in behind["quote"].items() if name != "source"} == want
            if fill["source"] == "quote":
                assert fill["price"] == want["ask" if fill["side"] == "BUY" else "bid"]
                checked += 1
            else:
                assert behind["print"]["seq"] == fill["seq"]
                assert behind["print"]["price"] < fill["price"]
    assert checked >= 2


def test_rows_far_back_are_found(home, monkeypatch):
    """The rows that made a quote are found at any distance, each once, also when one window holds none of them."""
    monkeypatch.setattr("harvester.explain.events_behind._WINDOW", 1)
    log = open_day(DATE, home)
    last = log.frame("tick")["seq"].max()  # alone in the second window of eight, one of its sort is in the third
    found = EventsBehind(home, log).at(8, last + 8)
    assert [(row["field"], row["size"]) for row in found["rows"]] == [(1, 300.0), (2, 400.0), (3, 450.0)]


def test_the_life_of_each_order(home):
    """Sent, arrived after the latency, filled in parts, moved, and cancelled by what ended it."""
    made = story(home, "T133006_001")
    orders = {order["role"]: order for order in made["orders"]}
    assert (orders["entry"]["sent"]["ts"], orders["entry"]["arrived"]["ts"]) == (
        "2025-07-17T13:30:02Z",
        "2025-07-17T13:30:02.1Z",
    )
    assert [fill["quantity"] for fill in made["fills"] if fill["role"] == "entry"] == [100, 200]
    assert orders["entry"]["end"]["what"] == "filled"
    (moved,) = orders["stop"]["changes"]
    assert (moved["price"], moved["arrived"]["ts"]) == (9.95, "2025-07-17T13:30:04.1Z")
    assert orders["stop"]["end"]["what"] == "filled"
    assert (orders["target"]["end"]["what"], orders["target"]["end"]["why"]) == ("cancelled", "STOP")
    timed = {order["role"]: order for order in story(home, "S7/09:30:18")["orders"]}
    assert timed["stop"]["end"]["why"] == "TIME_STOP arrived"
    assert (timed["exit"]["reason"], timed["exit"]["filled"]) == ("TIME_STOP", 100)
    (entry,) = story(home, "T133030_003")["orders"]
    assert (entry["filled"], entry["end"]["what"]) == (60, "rest open")
    assert (entry["rest"]["quantity"], entry["rest"]["reason"]) == (40, "RUN_END")


def test_the_rest_of_an_entry_in_words():
    """What was cancelled of an entry filled in part has its time, reason and seq; old episodes lack them."""
    fill = {"what": "rest cancelled", "why": None, "ts": at(1.1), "seq": 4}
    order = {"role": "entry", "side": "BUY", "quantity": 600, "order": "market", "price": None, "sent": None}
    order |= {"arrived": None, "changes": [], "filled": 500, "end": fill}
    rest = {"quantity": 100, "reason": "OUTAGE", "ts": at(2.5), "seq": 1234}
    assert "the rest of 100 cancelled: OUTAGE, seq 1,234" in _order(order | {"rest": rest})[-1]
    assert _order(order | {"rest": None})[-1] == "  the rest was cancelled; an episode of this age does not hold when"


def test_a_trade_in_words(home):
    """Result, reason with features, risk, what it saw, costs, quality and versions are in the text."""
    text = hv(home, "explain", "s7/T133006_001")
    for part in (
        "S7 T133006_001  LONG 300, 2025-07-17, scripted",
        "-27.05 USD, -0.75 R, LOSS by STOP",
        "worst -24.00 USD at 09:30:06.4, best 0.00 USD, before costs",
        "-24.00 USD before costs of 3.05 (ibkr_fixed); slippage 3.00 USD against the references",
        "FIRST, decided at 09:30:02 (seq 11); refused by: none",
        "lean 1.5",
        "risk 36 USD = 0.12 a share x 300; reference 10.02, stop 9.90, target 10.20",
        "09:30:01 10.00x500 10.02x100 10.01   0.02",
        "entry: buy 100 at 10.02 at 09:30:02.1, seq 11, against the quote; cost 1 USD, slippage 0 USD a share against",
        "bid 10.00 x 500, ask 10.02 x 100 (bid_ask)",
        "unseen_seconds 0",
        "cost_model ibkr_fixed",
    ):
        assert " ".join(part.split()) in " ".join(text.split())  # lines are wrapped to the terminal
    assert "09:30:02 10.00x500" not in text, "the second that began with the decision was not closed"


def test_times_and_prices_for_people():
    """Times are cut to the millisecond, prices in cents or as fine as they are."""
    ns = at(0)
    shown = [clock_time(ns + more) for more in (1, 999_999, 400_000_001, 123_456_789)]
    assert shown == ["09:30:00", "09:30:00", "09:30:00.4", "09:30:00.123"]
    prices = (50.0, 49.9, 10.005, 50.055952, 0.12345, None)
    assert [price(value) for value in prices] == ["50.00", "49.90", "10.005", "50.056", "0.12345", "-"]


def test_an_entry_that_was_not_filled(home):
    """`--seq` explains a decision without a trade: when it ended, why, and the quote then; and one with a trade."""
    made = story(home, "--seq", "22", "--symbol", "S7")
    (entry,) = made["orders"]
    assert (entry["end"]["what"], entry["end"]["why"], entry["filled"]) == ("cancelled", "EXPIRED", 0)
    assert made["at_end"]["quote"]["ask"] == 10.02
    assert "13 cancelled: EXPIRED, seq 25" in hv(home, "explain", "--seq", "22", "--symbol", "s7")
    assert story(home, "--seq", "11", "--symbol", "S7") == story(home, "T133006_001")
    assert story(home, "--seq", "36", "--symbol", "S8")["orders"][0]["end"]["why"] == "RUN_END"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["T000000_001"], "no trade 'T000000_001' on 2025-07-17; `hv episodes --date 2025-07-17` lists the 4"),
        (["09:30:18"], "'09:30:18' is 2 trades on 2025-07-17: S7/T133018_002, S8/T133018_001; name one of them"),
        (["S8/T133006_001"], "no trade 'S8/T133006_001' on 2025-07-17; there are S7/T133006_001"),
        (["--seq", "22"], "seq 22 of 2025-07-17 holds 2 decisions to enter .S7 by scripted, S8 by scripted.; name one"),
        (["--seq", "12"], "no entry was decided at seq 12 of 2025-07-17; the nearest decisions to enter: 11 .S7."),
        ([], "give a TRADE_ID or --seq DECISION_SEQ"),
        (["T133006_001", "--seq", "22"], "give a TRADE_ID or --seq DECISION_SEQ"),
    ],
)
def test_what_is_not_one_trade(home, words, error):
    """No trade, or several, are one clear line that says what there is."""
    with pytest.raises(BadSetting, match=error):
        hv(home, "explain", *words)


def test_a_date_whose_log_is_gone(home, tmp_path):
    """After `hv eod --delete-temp` table and story come from what is kept, and say so; only the log's rows lack."""
    copy = Home(tmp_path / "copy")
    shutil.copytree(home.root, copy.root)
    before, told = json.loads(hv(copy, "episodes", "--json")), story(copy, "T133006_001")
    hv(copy, "eod", "--unfinished", "--delete-temp", "--yes")
    assert not copy.on(DATE).log.exists()
    after, kept = json.loads(hv(copy, "episodes", "--json")), story(copy, "T133006_001")
    where = f"memory/datasets/{DATE}"
    note = f"the log of {DATE} is gone; these are the trades kept in {where}"
    assert after == before | {"source": where, "note": note}
    assert note in hv(copy, "episodes")
    assert note in " ".join(hv(copy, "explain", "T133006_001").split())  # wrapped at the terminal's width
    for part in ("decision", "risk", "outcome", "costs", "quality", "versions"):
        assert kept[part] == told[part]
    assert [fill["role"] for fill in kept["fills"]] == [fill["role"] for fill in told["fills"]]
    assert [order["end"] for order in kept["orders"]] == [order["end"] for order in told["orders"]]
    assert story(copy, "--seq", "22", "--symbol", "S7")["orders"][0]["end"]["why"] == "EXPIRED"
    with pytest.raises(NoLog):
        hv(Home(tmp_path / "none").prepare(), "episodes")


def test_what_memory_leaves_out_is_as_it_says(home, tmp_path):
    """The reasons are those of `hv eod`, with the options it was given; before it, with its defaults."""
    made = Home(tmp_path).prepare()
    record(made, seconds=260, data_type=3)
    assert set(json.loads(hv(made, "episodes", "--json"))["totals"]["left_out"]) == {"NOT_LIVE"}
    for more in ([], ["--delete-temp", "--yes"]):
        report = json.loads(hv(made, "eod", "--unfinished", "--allow-not-live", "--json", *more))
        sums = json.loads(hv(made, "episodes", "--json"))["totals"]
        assert (sums["learned"], sums["left_out"]) == (report["learned"], report["left_out"])
        assert sums["learned"] > 0
    told = story(home, "T133030_003")
    assert told["left_out"] == "DATA_END"
    assert "not learned from: DATA_END" in hv(home, "explain", "T133030_003")


def test_an_open_trade_is_no_episode_yet(home, tmp_path):
    """While a date is being recorded its open position is counted, not listed."""
    made = Home(tmp_path).prepare()
    shutil.copytree(home.on(DATE).log, made.on(DATE).log)
    with LogWriter.open(made.on(DATE), run_start_row={"params": params(SCRIPT).text()}, reopen=True) as writer:
        writer.begin(at(31))
        writer.abandon()
    shown = json.loads(hv(made, "episodes", "--json"))
    assert (shown["open"], len(shown["rows"])) == (1, 3)
    assert "1 still open: not episodes yet, the date is being recorded" in hv(made, "episodes")


def test_every_trade_of_a_recorded_day_is_explained(traded):
    """Two runs, two symbols, long and short, one of them with a space: each fill's price is the quote behind it."""
    trades = trades_of(traded.on(DATE))
    assert {row["side"] for row in trades.episodes} == {"LONG", "SHORT"}
    assert {row["symbol"] for row in trades.episodes} == {"AAA", "BRK B"}
    last = trades.episodes[-1]
    told = story(traded, f"{last['symbol'].lower()}/{last['trade_id']}")
    assert told["outcome"]["pnl_usd"] == last["pnl_usd"]
    lookup = EventsBehind(traded, open_day(DATE, traded))
    for episode in trades.episodes:
        for fill in json.loads(episode["document"])["fills"]:
            quote = lookup.at(episode["con_id"], fill["seq"])["quote"]
            if fill["reference"] != "limit_price":
                assert fill["price"] == quote["ask" if fill["side"] == "BUY" else "bid"]


FADE = """
from harvester import Strategy


class Fade(Strategy):
    hold: float = 3.0
    longer: float = 0.0

    def on_second(self, now):
        if now.position is None and now.second // 1_000_000_000 % 60 == 0:
            hold = self.hold + (self.longer if now.symbol == "AAA" else 0)
            return self.buy(100, stop=now.bid - 5, hold_seconds_max=hold, reason="MINUTE")
"""


@pytest.fixture(scope="module")
def given(traded, tmp_path_factory):
    """The traded day projected by its own strategy, and by a file with two sets of parameters."""
    made = Home(shutil.copytree(traded.root, tmp_path_factory.mktemp("given") / "home"))
    file = made.root / "fade.py"
    file.write_text(FADE, encoding="utf-8")
    for more in (
        ["imbalance_breakout"],
        [f"{file}:Fade"],
        [f"{file}:Fade", "--set", "hold=9"],
        [f"{file}:Fade", "--set", "longer=90"],
    ):
        hv(made, "project", "--strategy", *more)
    return made


def test_trades_of_a_projection_by_strategy(given):
    """`--strategy` has the same trades and stories as the log folded with that strategy; memory learns from none."""
    told = json.loads(hv(given, "episodes", "--json"))
    made = json.loads(hv(given, "episodes", "--strategy", "imbalance_breakout", "--json"))
    assert {row.pop("left_out") for row in made["rows"]} == {"NOT_RECORDED"}
    assert made["rows"] == [{name: row[name] for name in row if name != "left_out"} for row in told["rows"]]
    assert made["unfilled"] == told["unfilled"]
    last = f"{told['rows'][-1]['symbol']}/{told['rows'][-1]['trade_id']}"
    other = {"source": made["source"], "note": made["note"], "left_out": "NOT_RECORDED"}
    assert story(given, last, "--strategy", "imbalance_breakout") == story(given, last) | other
    assert "NOT_RECORDED" in hv(given, "explain", last, "--strategy", "imbalance_breakout")


def test_trades_are_in_order_of_their_exit(given):
    """A trade that was entered first and left last comes last, by its exit, in the table too."""
    listed = [json.loads(line) for line in hv(given, "strategy", "list", "--json").splitlines()]
    (name,) = [one["name"] for one in listed if one["strategies"][0]["settings"].get("longer")]
    rows = json.loads(hv(given, "episodes", "--strategy", name, "--json"))["rows"]
    exits, entries = ([row[f"{end}_ts"] for row in rows] for end in ("exit", "entry"))
    assert exits == sorted(exits)
    assert entries != sorted(entries)
    times = [line.split()[0] for line in hv(given, "episodes", "--strategy", name).splitlines() if " MINUTE " in line]
    assert times == sorted(times)
    assert len(times) == len(rows)


def test_which_projection_is_meant(given):
    """By file, folder or digest; a name with two folders, or none, lists what there is, as `hv strategy list` does."""
    listed = [json.loads(line) for line in hv(given, "strategy", "list", "--json").splitlines()]
    listed = [one for one in listed if not one["strategies"][0]["settings"].get("longer")]
    names = {one["strategies"][0]["settings"].get("hold"): one["name"] for one in listed}
    assert {name.rpartition("-")[0] for name in names.values()} == {"imbalance_breakout", "fade"}
    rows = {hold: json.loads(hv(given, "episodes", "--strategy", names[hold], "--json"))["rows"] for hold in (3.0, 9.0)}
    held = {hold: {row["hold_seconds"] // hold for row in found} for hold, found in rows.items()}
    assert held == {3.0: {1.0}, 9.0: {1.0}}
    (one,) = [one for one in listed if one["name"] == names[9.0]]
    assert sum(one["trades"][key] for key in ("won", "lost", "even")) == len(rows[9.0]) > 0
    assert "    hold=9.0, longer=0.0" in hv(given, "strategy", "list").splitlines()
    whole = f"fade-{one['strategies'][0]['digest']}"
    assert json.loads(hv(given, "episodes", "--strategy", whole, "--json"))["rows"] == rows[9.0]
    assert json.loads(hv(given, "episodes", "--strategy", f"{given.root}/fade.py:Fade", "--json"))["rows"] == rows[3.0]
    assert f"hv explain --strategy {names[9.0]} " in hv(given, "episodes", "--strategy", names[9.0])
    with pytest.raises(BadSetting, match=r"fade is 3 projections of 2025-07-17: fade-.* \(hold=.*; name one of them"):
        hv(given, "episodes", "--strategy", "fade")
    with pytest.raises(BadSetting, match=rf"no projection .* by --strategy random_entry .*; there are .*{names[9.0]}"):
        hv(given, "explain", "T000000_001", "--strategy", "random_entry")
    with pytest.raises(BadSetting, match=rf"`hv episodes --date {DATE} --strategy {names[9.0]}` lists the "):
        hv(given, "explain", "T000000_001", "--strategy", names[9.0])
