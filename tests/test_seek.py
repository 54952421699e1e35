"""Any point of a day through snapshots: the state equals a fold from the start, whatever the cache contains."""

from __future__ import annotations

import json
import random
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_samples import DATE
from typer.testing import CliRunner

from cli.app import app
from cli.cmd_gateway import _market_time
from harvester.calendar import of_day
from harvester.config import Settings
from harvester.errors import BadSetting, CannotRun, UnknownSymbol
from harvester.eventlog.reader import open_day
from harvester.eventlog.run import RunLog
from harvester.eventlog.typed_times import moment
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.kinds import Kind, Side
from harvester.home import Home
from harvester.projections.engine import Engine
from harvester.recorder.stopping import parse_until
from harvester.replay import seek
from harvester.replay.seek import Seeker
from tests.budget import budget
from tests.market_log import SECOND, START, Log
from tests.reference.streams import stream

EVENTS = 1500
SEED = 5  # its books fill up, seven rows a side
quick = settings(deadline=None, max_examples=budget(12, 40), suppress_health_check=list(HealthCheck))


def write(home: Home, events: list, size: int = 40) -> Batch:
    """One ended run of small commits; returns all its events."""
    with LogWriter.open(home.on(DATE)) as writer:
        whole = Batch.of(
            [(kind, {k: v for k, v in row.items() if k != "seq"}) for kind, row in events], writer.next_seq
        )
        for first in range(whole.first_seq, whole.last_seq + 1, size):
            writer.commit(whole.slice(first, min(first + size - 1, whole.last_seq)))
    return whole


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    """A day of everything that can go wrong, and its seeker with a snapshot every 100 events."""
    home = Home(tmp_path_factory.mktemp("home"))
    whole = write(home, stream(SEED, EVENTS, START))
    return home, whole, Seeker(home, open_day(DATE, home), every_events=100)


def straight(whole: Batch, seq: int) -> Engine:
    engine = Engine(market_only=True)
    engine.fold(whole.slice(1, seq))
    return engine


@quick
@given(st.data())
def test_a_place_is_what_folding_from_the_start_gives(day, data):
    """At random seqs digests and state equal a fold from seq 1, on the first visit and on later ones."""
    _, whole, seeker = day
    seq = data.draw(st.integers(0, whole.last_seq))
    engine = seeker.at_seq(seq)
    expected = straight(whole, seq)
    assert engine.through_seq == seq
    assert engine.digests() == expected.digests()
    assert engine.snapshot() == expected.snapshot()


@quick
@given(st.data())
def test_the_ladder_equals_the_row_table_at_any_seq(day, data):
    """The ladder's totals and parts, by price over market makers, are those of the rows with a size."""
    _, whole, seeker = day
    engine = seeker.at_seq(data.draw(st.integers(1, whole.last_seq)))
    for con_id in [int(engine.market.state.inst[k]["con_id"]) for k in range(len(engine.market.symbols))]:
        for side in Side:
            rows = [row for row in engine.book.rows(con_id, side) if row.size > 0]
            ladder = engine.book.ladder(con_id, side)
            prices = sorted({row.price for row in rows}, reverse=side == Side.BID)
            assert [level.price for level in ladder] == prices
            for level in ladder:
                mine = [row for row in rows if row.price == level.price]
                assert list(level.makers) == [(row.market_maker, row.size) for row in mine]
                assert level.size == sum(row.size for row in mine)


@quick
@given(st.data())
def test_a_time_is_the_last_event_not_after_it(day, data):
    """For random times, event times included, the position is the last event with ts_recv at or before it."""
    _, whole, seeker = day
    stamps = [row["ts_recv"] for _, row in whole.events()]
    ts = data.draw(st.sampled_from(stamps) | st.integers(stamps[0] - SECOND, stamps[-1] + SECOND))
    engine = seeker.at_time(ts)
    assert engine.through_seq == sum(stamp <= ts for stamp in stamps)
    assert engine.digests() == straight(whole, engine.through_seq).digests()


def test_arl_equals_the_truth_at_any_seq(shared_data, tmp_path):
    """Real depth through log, snapshots and ladder: at 60 (25) random points all ten levels a side are its own."""
    import polars as pl

    folder = shared_data / "tapes" / "ARL-2025-07-17"
    rows = pl.read_parquet(folder / "depth.parquet").to_dicts()
    asked = {"ts_recv": rows[0]["ts"], "epoch": 1, "con_id": 5, "req_id": 7}
    subscribed = {"action": "subscribe", "stream": "depth", "symbol": "ARL", "params": '{"rows":10}'}
    events = [(Kind.REQUEST, {"action": "run_start", "stream": "run", "params": "{}", "ts_recv": rows[0]["ts"]})]
    events.append((Kind.REQUEST, asked | subscribed))
    ns = [0, 0, *(row.pop("n") for row in rows)]
    events += [(Kind.DEPTH, asked | {"ts_recv": row.pop("ts")} | row) for row in rows]
    write(Home(tmp_path), events, size=500)
    seeker = Seeker(Home(tmp_path), open_day(DATE, tmp_path), every_events=700)
    truths = pl.read_parquet(folder / "truth.parquet").to_dicts()
    for truth in random.Random(3).sample(truths, budget(25, 60)):
        engine = seeker.at_seq(sum(n <= truth["after_n"] for n in ns))
        for side, name in ((Side.BID, "bid"), (Side.ASK, "ask")):
            ladder = engine.book.ladder(5, side)
            levels = dict(zip(truth[f"{name}_prices"], truth[f"{name}_sizes"], strict=True))
            assert {level.price: level.size for level in ladder} == levels
    assert len(seeker.snapshots) >= 8


def test_work_to_any_place_is_bounded(day, monkeypatch):
    """After one pass no point is further than the chosen number of events from a snapshot."""
    home, whole, _ = day
    seeker = Seeker(home, open_day(DATE, home), every_events=100)
    seeker.prepare()
    folded = []
    fold = Engine.fold
    monkeypatch.setattr(Engine, "fold", lambda self, batch: folded.append(len(batch)) or fold(self, batch))
    for seq in range(1, whole.last_seq + 1, 37):
        folded.clear()
        seeker.at_seq(seq)
        assert sum(folded) <= 2 * 100 + seek.EVERY_NS // SECOND


def test_no_way_leads_through_two_large_commits(tmp_path, monkeypatch):
    """In a log of commits larger than the distance of snapshots, no point needs rows of two commits."""
    home = Home(tmp_path)
    whole = write(home, stream(SEED, 900, START), size=150)
    seeker = Seeker(home, open_day(DATE, home), every_events=100)
    seeker.prepare()
    read = []
    load = RunLog.load
    monkeypatch.setattr(RunLog, "load", lambda self, first, last: read.append(last - first) or load(self, first, last))
    for seq in range(1, whole.last_seq + 1, 23):
        read.clear()
        assert seeker.at_seq(seq).digests() == straight(whole, seq).digests()
        assert sum(read) <= 1


def spoil(path, how: str, other: bytes) -> None:
    raw = path.read_bytes()
    if how == "flipped":
        path.write_bytes(raw[:90] + bytes([raw[90] ^ 1]) + raw[91:])
    elif how == "short":
        path.write_bytes(raw[: len(raw) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "gone":
        path.unlink()
    elif how == "of another place":
        path.write_bytes(other)


@pytest.mark.parametrize("how", ["flipped", "short", "empty", "gone", "of another place"])
def test_a_damaged_snapshot_is_folded_anew(tmp_path, how):
    """With missing or damaged cache files the state is right, and the file is written again."""
    home = Home(tmp_path)
    whole = write(home, stream(SEED, 500, START))
    seeker = Seeker(home, open_day(DATE, home), every_events=100)
    seeker.prepare()
    files = {path: path.read_bytes() for path in home.cache.rglob("*.snap")}
    seeker = Seeker(home, open_day(DATE, home), every_events=100)
    for path, other in zip(files, [*files.values()][::-1], strict=True):
        spoil(path, how, other if other != files[path] else b"x")
    assert seeker.at_seq(whole.last_seq).digests() == straight(whole, whole.last_seq).digests()
    seeker.prepare()
    assert {path: path.read_bytes() for path in home.cache.rglob("*.snap")} == files


def test_snapshots_outlive_growth_and_nothing_else(tmp_path, monkeypatch):
    """A day that continues keeps its snapshots; another log of the same date, or other code, does not see them."""
    home = Home(tmp_path)
    write(home, stream(SEED, 400, START))
    Seeker(home, open_day(DATE, home), every_events=100).prepare()
    had = len(Seeker(home, open_day(DATE, home)).snapshots)
    assert had > 3
    last = open_day(DATE, home).last_ts
    write(home, stream(3, 200, last))
    grown = Seeker(home, open_day(DATE, home), every_events=100)
    assert len(grown.snapshots) == had
    parts = list(open_day(DATE, home).batches())
    assert grown.at_seq(450).digests() == straight(Batch.concat(parts), 450).digests()
    monkeypatch.setattr(seek, "_code", lambda: "f" * 32)
    other = Seeker(home, open_day(DATE, home), every_events=100)
    assert len(other.snapshots) == 0
    other.prepare()
    assert len(list((home.cache / "snapshots" / DATE.isoformat()).iterdir())) == 1  # those of the old code are deleted
    shutil.rmtree(home.on(DATE).log)
    write(home, stream(SEED + 1, 400, START))
    assert len(Seeker(home, open_day(DATE, home)).snapshots) == 0


def test_a_cache_nobody_can_write_costs_only_time(tmp_path):
    """When the cache folder cannot be created, states are right and nothing is stored."""
    home = Home(tmp_path)
    whole = write(home, stream(SEED, 300, START))
    home.cache.mkdir(parents=True)
    (home.cache / "snapshots").write_text("a file where the folder should be", encoding="utf-8")
    seeker = Seeker(home, open_day(DATE, home), every_events=50)
    assert seeker.at_seq(200).digests() == straight(whole, 200).digests()
    assert len(seeker.snapshots) == 0


def test_a_seq_outside_the_log(day):
    """A seq that is not in the log is refused with the valid range."""
    _, whole, seeker = day
    with pytest.raises(CannotRun, match=f"it has 1 to {whole.last_seq}"):
        seeker.at_seq(whole.last_seq + 1)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("09:30", 0),
        ("9:30:05.2", 5_200_000_000),
        ("09:30:00.000000001", 1),
        ("2025-07-17T09:30:01", SECOND),
        ("2025-07-17T13:30:02Z", 2 * SECOND),
        ("2025-07-17T15:30:03.5+02:00", 3_500_000_000),
        ("2025-07-16T13:30:00Z", -86_400 * SECOND),
    ],
)
def test_moments(text, ns):
    """New York by default, ISO with an offset as it says, nine digits of a fraction; and back to a time of day."""
    assert moment(text, DATE) == START + ns
    assert moment(of_day(START + ns), DATE) == START + ns % (86_400 * SECOND)


@pytest.mark.parametrize("text", ["10:31", "9:31:05.2", "2025-07-17T10:31", "2025-07-17 14:31:05Z", "noon", "25:00"])
def test_every_option_reads_a_time_alike(text):
    """`--until` of the recorder and `--start` of the gateway take what `--at` takes, and refuse what it refuses."""
    readers = (lambda: parse_until(text, START - SECOND, Settings()), lambda: _market_time("--start", text, START))
    try:
        at = moment(text, DATE)
    except BadSetting:
        for read, option in zip(readers, ("--until", "--start"), strict=True):
            with pytest.raises(BadSetting, match=option):
                read()
    else:
        assert [read() for read in readers] == [at, at]


@pytest.mark.parametrize("text", ["", "noon", "25:00", "10:61", "10", "2025-02-30T10:00", "10:31:05.1234567890"])
def test_what_is_no_moment(text):
    """Any other text is refused with two examples."""
    with pytest.raises(BadSetting, match=r"is not understood; write 10:31:05\.2"):
        moment(text, DATE)


def test_hv_book(day):
    """Rows and ladder, as tables and as JSON; the ladder's numbers are the row table's; errors name the next move."""
    home, whole, seeker = day

    def hv(*words: str) -> str:
        words = ("book", "--date", str(DATE), "--home", str(home.root), *words)
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        return done.output

    seq = next(seq for seq in range(400, whole.last_seq, 10) if _levels(seeker.at_seq(seq)))
    con_id = _levels(seeker.at_seq(seq))
    view = json.loads(hv("--symbol", f"S{con_id}", "--seq", str(seq), "--json"))
    engine = straight(whole, seq)
    assert view["seq"] == seq
    assert [tuple(row.values()) for row in view["bid"]["rows"]] == engine.book.rows(con_id, Side.BID)
    assert [level["price"] for level in view["ask"]["ladder"]] == [
        level.price for level in engine.book.ladder(con_id, Side.ASK)
    ]
    text = hv("--symbol", f"S{con_id}", "--seq", str(seq))
    assert "ladder, by price over market makers" in text
    assert f"after seq {seq:,}" in text
    with pytest.raises(UnknownSymbol, match=r"'NOPE' was not recorded on 2025-07-17 \(recorded: S11, S30, S7\)"):
        hv("--symbol", "NOPE")
    with pytest.raises(BadSetting, match="--at and --seq were both given; give only one"):
        hv("--symbol", "S7", "--at", "10:00", "--seq", "3")


def _levels(engine: Engine) -> int | None:
    """An instrument with a good book of both sides, if there is one."""
    for con_id in (7, 11, 30):
        if len(engine.book.rows(con_id, Side.BID)) > 2 and len(engine.book.rows(con_id, Side.ASK)) > 2:
            return con_id
    return None


def test_hv_book_says_where_there_are_books(tmp_path):
    """Without a book, the error has the requested time, and every stream with the times between which it had one."""
    home, log = Home(tmp_path), Log()
    log.run_start().subscribe(1, "l1", at=0).tick(1, 1, 10.0, 100)
    log.subscribe(2, "depth", at=60)
    log.depth(2, "insert 0 bid 10.00 100\ninsert 0 ask 10.02 100", at=61)
    log.cancel(2, at=120)
    log.subscribe(3, "smart_depth", at=180).depth(3, "insert 0 bid 10.00 100", at=185)
    log.cancel(3, at=190)
    log.subscribe(4, "l1", con_id=8, at=200)
    log.clock(3600)
    write(home, log.pending)

    def said(*words: str) -> str:
        done = CliRunner().invoke(app, ["book", "--date", str(DATE), "--home", str(home.root), *words])
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    books = "no book at 09:30:01; books of S7: depth 09:31:01 to 09:32:00; smart_depth 09:33:05 to 09:33:10"
    assert books in said("--symbol", "S7", "--at", "09:30:01")
    assert "books of S8: none on this date (no depth was recorded)" in said("--symbol", "S8")
    assert "no book at 09:31:30; books of S7: depth" in said(
        "--symbol", "S7", "--at", "09:31:30", "--stream", "smart_depth"
    )
