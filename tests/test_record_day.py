"""A recording is everything the gateway sent, in order, and its live projections are those of a replay."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from harvester.artefacts.episode_files import compare_day, day_files
from harvester.events.kinds import Action, Kind, Own, Side
from harvester.home import Home
from harvester.projections.engine import Engine
from harvester.simgateway.markets.open_market import open_market
from harvester.wire.decode_messages import Arrivals
from tests.budget import budget
from tests.recording import (
    Recorded,
    check_live_equals_replay,
    check_nothing_lost,
    hurried,
    lockstep,
    model,
    replayed_digests,
    run,
)

if TYPE_CHECKING:
    from pathlib import Path

    from harvester.recorder.record import Recorder


@pytest.fixture(scope="module")
def morning(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Twelve minutes of a modelled market of three symbols."""
    recorded: Recorded = run(
        lockstep(model(), Home(tmp_path_factory.mktemp("morning")), minutes=12, tick_by_tick_lines=6)
    )
    return recorded


def test_nothing_of_a_model_is_lost(morning: Recorded) -> None:
    """Rows per kind and symbol, and the exact sum of every number, are what the gateway reports."""
    assert check_nothing_lost(morning, morning.day()) > 3000
    assert not [r for r in morning.day().table(Kind.RAW).to_pylist() if r["reason"] == "undecodable"]


def test_live_equals_replay_in_any_batches(morning: Recorded) -> None:
    """Every live digest equals that of a replay up to its seq; batches of 1, 7, 1,000 and all end with the same."""
    day = morning.day()
    assert check_live_equals_replay(day) >= 5
    last = max(day.live_digests(), key=lambda line: line[1])
    assert last[1] == day.last_seq
    for rows_max in budget((7, 1000, None), (1, 7, 1000, None)):
        assert replayed_digests(day, rows_max) == last[2]


def test_a_request_stands_before_its_message_and_its_answers(morning: Recorded) -> None:
    """Law 1: the log has the request row, then the exact text sent, then the answer."""
    day = morning.day()
    requests = {r["req_id"]: r for r in day.table(Kind.REQUEST).to_pylist() if r["action"] == Action.SUBSCRIBE}
    sent: dict[int, Any] = {}
    for r in day.table(Kind.RAW).to_pylist():
        if r["reason"] == "sent" and r["req_id"] >= 0:
            sent.setdefault(r["req_id"], r)  # a later one cancels
    for kind in (Kind.TICK, Kind.TRADE, Kind.QUOTE, Kind.DEPTH):
        frame = day.frame(kind).group_by("req_id").agg(pl.col("seq").min(), pl.col("con_id").n_unique())
        for req_id, seq, con_ids in frame.iter_rows():
            assert requests[req_id]["seq"] < sent[req_id]["seq"] < seq
            assert con_ids == 1
    first = day.table(Kind.REQUEST).to_pylist()[0]
    assert (first["seq"], first["action"]) == (1, Action.RUN_START)
    last = day.table(Kind.REQUEST).to_pylist()[-1]
    assert (last["seq"], last["action"]) == (day.last_seq, Action.RUN_END)


def test_a_clock_event_each_second(morning: Recorded) -> None:
    """One clock event at each full second of market time, silence included, and one at the end."""
    stamps = [row["ts_recv"] for row in morning.day().table(Kind.CLOCK).to_pylist()]
    whole = [ts for ts in stamps if ts % 1_000_000_000 == 0]
    assert sorted(set(whole)) == list(range(whole[0], whole[-1] + 1, 1_000_000_000))
    assert len(whole) >= 12 * 60 - 1


def test_grants_are_recorded_and_shown(morning: Recorded) -> None:
    """The first row of each stream gives a notice, and the coverage table agrees."""
    notices = morning.day().table(Kind.NOTICE).to_pylist()
    granted = {(n["con_id"], n["detail"]) for n in notices if n["code"] == Own.STREAM_GRANTED}
    assert len(granted) == len([c for row in morning.summary.coverage.values() for c in row.values() if c == "granted"])
    assert set(morning.summary.coverage) == {"ACME", "BOLT", "CRUX"}
    assert morning.summary.coverage["ACME"] == dict.fromkeys(
        ("l1", "all_last", "bid_ask", "depth", "bars_5s"), "granted"
    )


def test_episode_files_are_written_while_recording(morning: Recorded) -> None:
    """Each finished episode of the live engine has a file, equal to a replay's."""
    engine, documents = Engine(), []
    for batch in morning.day().batches():
        outputs = engine.fold(batch)
        if outputs.rows("episodes"):
            documents += outputs["episodes"].column("document").to_pylist()
    folder = morning.home.on(date(2025, 7, 17)).episodes
    assert compare_day(folder, day_files(documents)) == []
    assert documents


def test_the_same_market_gives_the_same_log(tmp_path: Path, morning: Recorded) -> None:
    """Lockstep is deterministic: a second recording is equal in every value except the port it connected to."""
    again: Recorded = run(lockstep(model(), Home(tmp_path), minutes=12, tick_by_tick_lines=6))
    for kind in Kind:
        first, second = (_without_params(r.day().frame(kind)) for r in (morning, again))
        assert first.equals(second), kind


def _without_params(frame: pl.DataFrame) -> pl.DataFrame:
    """Leave out the settings in the run start."""
    return frame.filter(pl.col("action") != Action.RUN_START) if "action" in frame.columns else frame


def test_ibm_at_full_speed_loses_nothing(tmp_path: Path, shared_data: Path) -> None:
    """Twenty minutes of the real tape around the open, in commits of all sizes that occur."""
    market = open_market("tape", [shared_data / "tapes" / "IBM-2013-10-08"])
    start = 1_381_238_400 * 10**9 + 85 * 60 * 10**9  # 09:25 New York
    recorded: Recorded = run(lockstep(market, Home(tmp_path), minutes=20, start_ns=start, commit_events=997))
    day = recorded.day("2013-10-08")
    assert check_nothing_lost(recorded, day) > 10_000
    assert check_live_equals_replay(day) >= 5


def test_arl_book_is_the_truth_live(tmp_path: Path, shared_data: Path) -> None:
    """After every source message of the depth tape the live book equals all ten true levels.

    In the short run after every one of the first 200, and then after every tenth; a fold of it is compared after all.
    """
    folder = shared_data / "tapes" / "ARL-2025-07-17"
    folder = budget(hurried(folder, tmp_path / folder.name), folder)
    rows = pl.read_parquet(folder / "depth.parquet").sort("n")
    truth = pl.read_parquet(folder / "truth.parquet").sort("after_n")
    counts = rows["n"].search_sorted(truth["after_n"], side="right").to_list()
    expected = dict(zip(counts, truth.iter_rows(named=True), strict=True))
    expected = {n: row for at, (n, row) in enumerate(expected.items()) if at < 200 or at % budget(10, 1) == 0}
    checked: list[int] = []

    def watch(recorder: Recorder) -> None:
        open_run = recorder.committer._open_run

        def opened(day: Any) -> Any:
            made = open_run(day)
            commit = made.commit

            def look(arrivals: Any) -> Any:
                done, start, applied = None, 0, made.totals.rows["depth"]
                for end, item in enumerate(arrivals.items, 1):
                    applied += item[0] in {"12", "13"}
                    boundary = item[0] in {"12", "13"} and applied in expected
                    if boundary or end == len(arrivals.items):
                        done = commit(
                            Arrivals(arrivals.items[start:end], arrivals.ts_recv[start:end], arrivals.epoch[start:end])
                        )
                        start = end
                    if boundary:
                        assert made.totals.rows["depth"] == applied
                        assert_book(made.engine, expected[applied], applied)
                        checked.append(applied)
                return done

            made.commit = look
            return made

        recorder.committer._open_run = opened

    market = open_market("tape", [folder])
    minutes = (market.end_ns - market.start_ns) / 60e9
    options: dict[str, Any] = {"commit_seconds": 60, "five_second_bars": False, "digest_seconds": 7200}
    recorded: Recorded = run(lockstep(market, Home(tmp_path / "home"), minutes=minutes, watch=watch, **options))
    assert recorded.summary.rows["depth"] == len(rows)
    assert sorted(set(checked)) == sorted(set(expected) - {0})
    assert len(checked) > 500
    assert check_nothing_lost(recorded, recorded.day()) >= len(rows)
    assert check_live_equals_replay(recorded.day()) >= 1


def assert_book(engine: Any, true: dict[str, Any], applied: int) -> None:
    con_id = engine.quotes.all()[0].con_id
    for side, prices, sizes in ((Side.BID, "bid_prices", "bid_sizes"), (Side.ASK, "ask_prices", "ask_sizes")):
        found = [(row.price, row.size) for row in engine.book.rows(con_id, side)]
        assert found == list(zip(true[prices], map(float, true[sizes]), strict=True)), (applied, side)
