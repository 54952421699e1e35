from __future__ import annotations

import json

import msgspec
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trading_log import DATE, record
from typer.testing import CliRunner

from cli.app import app
from harvester.calendar import iso
from harvester.errors import BadSetting, NoLog
from harvester.eventlog.reader import open_day
from harvester.home import Home
from harvester.projections.engine import Engine
from harvester.rebuild.project import fold_day, project, write_artefacts
from tests.budget import budget

NAMES = ("decisions", "fills", "episodes")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two runs on one date; the second begins in the middle of a trade."""
    made = Home(tmp_path_factory.mktemp("home")).prepare()
    record(made, runs=2, seconds=650)
    return made


def folded(day, cuts=(), rows_max=None, *, restore_every=0):
    """All rows of the trading tables as JSON lines, and the digests after the last event."""
    engine, rows = Engine(), []
    for i, batch in enumerate(day.batches(rows_max, cuts)):
        tables = engine.fold(batch).tables
        rows += [row for name in NAMES if name in tables for row in tables[name].to_pylist()]
        if restore_every and i % restore_every == 0:
            saved, engine = engine.snapshot(), Engine()
            engine.restore(saved)
    digests = engine.digests()
    tables = engine.finish().tables
    rows += [row for name in NAMES if name in tables for row in tables[name].to_pylist()]
    return sorted(json.dumps(row) for row in rows), digests


@pytest.fixture(scope="module")
def whole(home):
    return folded(open_day(DATE, home))


def test_trades_happen(home):
    """The sample day has entries long and short, targets, and one trade carried over the restart."""
    made = fold_day(open_day(DATE, home))
    episodes = made.tables["episodes"].to_pylist()
    assert {row["side"] for row in episodes} == {"LONG", "SHORT"}
    split = open_day(DATE, home).runs[1].first_seq
    assert any(row["decision_seq"] < split < row["exit_seq"] for row in episodes)
    assert [json.loads(row["document"])["health"]["outages"] for row in episodes][-1] == 1


@pytest.mark.parametrize("rows_max", budget([7, 1000], [1, 7, 1000]))  # 1: test_special_days, in the short run too
def test_batch_size_changes_nothing(home, whole, rows_max):
    """Batches of 1, 7, 1,000 events and the whole day give the same rows and digests, byte for byte."""
    assert folded(open_day(DATE, home), rows_max=rows_max) == whole


@settings(max_examples=budget(4, 12), deadline=None)
@given(st.sets(st.integers(1, 5800), max_size=8), st.sampled_from([0, 1, 3]))
def test_cuts_and_restores_change_nothing(home, whole, cuts, restore_every):
    """The result is the same for any split of the day, and with snapshots restored between the parts."""
    assert folded(open_day(DATE, home), cuts=sorted(cuts), restore_every=restore_every) == whole


def test_projecting_twice_writes_the_same_bytes(home, tmp_path):
    """Two projections of one log write equal files, into any folder."""
    made = fold_day(open_day(DATE, home))
    one, two = write_artefacts(made, home, tmp_path / "one"), write_artefacts(made, home, tmp_path / "two")
    assert [p.read_bytes() for p in one.files] == [p.read_bytes() for p in two.files]
    assert not one.differences


def test_the_picture_names_the_date_and_what_it_holds(home, tmp_path):
    """Its title is `date: events, episodes`."""
    made, _ = project(home.on(DATE), out=tmp_path)
    title = f">{DATE}: {made.rows:,} events, {made.tables['episodes'].num_rows} episodes<"
    assert title in (tmp_path / f"day_{DATE}.svg").read_text(encoding="utf-8")


def test_fills_are_at_the_quote_in_force(home):
    """Every market fill is at the other side of the last quote at or before its event: an independent as-of join."""
    made = fold_day(open_day(DATE, home))
    fills = pl.from_arrow(made.tables["fills"]).filter(pl.col("role") != "target").sort("seq")
    quotes = open_day(DATE, home).frame("quote").select("seq", "con_id", "bid", "ask", "bid_size", "ask_size")
    found = fills.join_asof(quotes, on="seq", by="con_id", check_sortedness=False)
    assert len(found) > 10
    for row in found.to_dicts():
        price, size = (row["ask"], row["ask_size"]) if row["side"] == "BUY" else (row["bid"], row["bid_size"])
        assert row["price"] == price
        assert row["quantity"] <= size


def test_features_before_the_decision(home):
    """features_pre holds exactly the buckets between 120 s and 30 s before the decision, as the table has them."""
    made = fold_day(open_day(DATE, home))
    buckets = {(row["symbol"], row["ts"]): row for row in made.tables["buckets"].to_pylist()}
    for text in made.documents:
        episode = json.loads(text)
        decided = episode["decision"]["ts"]
        rows = episode["features_pre"]["buckets"]
        wanted = [ts for s, ts in buckets if s == episode["symbol"] and decided - 120e9 <= ts <= decided - 31e9]
        assert [row["ts"] for row in rows] == sorted(wanted)
        for row in rows:
            same = buckets[episode["symbol"], row["ts"]]
            assert {k: v for k, v in row.items() if k != "book_good"} == {k: same[k] for k in row if k != "book_good"}


def test_features_need_nothing_later(home):
    """The log cut at decision_seq gives the same features and decision: no later event was used."""
    made = fold_day(open_day(DATE, home))
    for row in made.tables["episodes"].to_pylist()[:3]:
        engine, decisions = Engine(), []
        for batch in open_day(DATE, home).batches(cuts=[row["decision_seq"]]):
            tables = engine.fold(batch).tables
            decisions += tables["decisions"].to_pylist() if "decisions" in tables else []
            if batch.last_seq >= row["decision_seq"]:
                break
        entered = [d for d in decisions if (d["decision_seq"], d["symbol"]) == (row["decision_seq"], row["symbol"])]
        assert [d["action"] for d in entered] == ["enter"]
        assert msgspec.json.decode(entered[0]["features"]) == json.loads(row["document"])["decision_trace"]["features"]


def test_gate_codes_join_the_buckets(home, tmp_path):
    """The bucket file has the gates that refused the strategy in every second, and when it was holding."""
    made = fold_day(open_day(DATE, home))
    write_artefacts(made, home, tmp_path)
    rows = pq.read_table(tmp_path / f"buckets_{DATE}.parquet").to_pylist()
    episode = json.loads(made.documents[0])
    during = [r for r in rows if r["symbol"] == episode["symbol"] and r["ts"] in {s["ts"] for s in episode["series"]}]
    assert [r["gate_codes"].split("|") if r["gate_codes"] else [] for r in during] == [
        s["gate_codes"] for s in episode["series"]
    ]
    assert all(row["gate_codes"] is not None for row in rows)


def test_only_some_symbols(home, tmp_path):
    """--symbols narrows what is written, not what is folded."""
    made, written = project(home.on(DATE), out=tmp_path, symbols=["BRK B"])
    assert {p.parent.name for p in written.files if "T" in p.name and p.parent != tmp_path} == {"BRK%20B"}
    assert set(made.tables["buckets"]["symbol"].to_pylist()) == {"AAA", "BRK B"}


def test_buckets_of_a_time_range(home):
    """`hv buckets --from --to` gives every second in [from, to); --limit cuts from the end and is never below 0."""

    def hv(*words: str) -> tuple[int, list[str]]:
        options = ["--date", DATE.isoformat(), "--home", str(home.root), "--symbol", "AAA"]
        done = CliRunner().invoke(app, ["buckets", *options, *words])
        return done.exit_code, done.output.splitlines()

    rows = fold_day(open_day(DATE, home)).tables["buckets"].to_pylist()
    every = [row["ts"] for row in rows if row["symbol"] == "AAA"]
    begin, end = every[100], every[190]
    code, lines = hv("--from", iso(begin), "--to", iso(end))
    assert (code, [line.split("\t")[0] for line in lines[1:]]) == (0, [iso(ts) for ts in every[100:190]])
    assert [line.split("\t")[0] for line in hv("--to", iso(end), "--limit", "2")[1][1:]] == [
        iso(t) for t in every[188:190]
    ]
    assert len(hv()[1]) == 61
    assert hv("--limit", "-1")[0] == 2
    crossed = ["--date", str(DATE), "--home", str(home.root), "--symbol", "AAA", "--from", "12:00", "--to", "11:00"]
    assert isinstance(CliRunner().invoke(app, ["buckets", *crossed]).exception, BadSetting)


def test_unfinished_day_is_superseded(tmp_path):
    """A trade still open at a projection is DATA_END; when the day continues, its file is replaced by the real end."""
    home = Home(tmp_path).prepare()
    record(home, seconds=125)
    _, first = project(home.on(DATE))
    opened = [p for p in home.on(DATE).episodes.rglob("*.json") if "DATA_END" in p.read_text()]
    assert opened
    record(home, seconds=400, start=1940)
    _, second = project(home.on(DATE))
    assert sorted(second.superseded) == sorted(opened)
    assert not second.differences
    assert not first.superseded


def test_date_without_a_log(tmp_path):
    """A date that was not recorded is one clear error."""
    with pytest.raises(NoLog, match="no log of 2025-07-17"):
        project(Home(tmp_path).on(DATE))
