"""Health: outages, refusals, silences, checks of the tape and of the book against other streams."""

from __future__ import annotations

from harvester.events.batch import Batch
from harvester.events.kinds import SILENCE_DETAIL, Kind, Own
from harvester.projections.interval import OccurrenceKind
from harvester.projections.market.health import HEALTH
from tests.market_log import START, Log


def measures(log: Log, con_id: int = 7, stream: str | None = None) -> dict[str, float | None]:
    rows = log.engine.health.rows()
    return {r["measure"]: r["value"] for r in rows if r["con_id"] == con_id and r["stream"] == stream}


def test_an_outage_is_a_pair_with_a_length() -> None:
    """1100 until 1102 is one outage, however many notices say so; a restart is one too."""
    log = Log().run_start().subscribe(1, "l1", at=0)
    log.notice(1100, at=1)
    log.notice(int(Own.OUTAGE_BEGIN), at=1)
    log.notice(1102, at=3.5)
    log.notice(int(Own.OUTAGE_END), at=3.5)
    log.fold()
    assert (measures(log, 0)["outages"], measures(log, 0)["outage_seconds"]) == (1, 2.5)
    log.clock(4)
    log.run_start(at=10)
    log.notice(int(Own.CONNECTED), at=11)
    log.fold()
    assert (measures(log, 0)["outages"], measures(log, 0)["outage_seconds"]) == (2, 2.5 + 7)
    assert measures(log, 0)["runs"] == 2
    assert log.engine.health_summary().outages == 2


def test_requests_end_an_announced_outage_and_a_silence_only_in_the_next_run() -> None:
    """A subscription ends an outage announced by 1100, even if the feed is silent too; a silence needs a new run."""
    log = Log().run_start().subscribe(1, "l1", at=0)
    log.notice(int(Own.OUTAGE_BEGIN), at=1, detail=SILENCE_DETAIL)
    log.subscribe(2, "l1", at=2)
    log.run_start(at=5).subscribe(1, "l1", at=6)
    log.fold()
    assert (measures(log, 0)["outages"], measures(log, 0)["outage_seconds"]) == (1, 5)
    log.notice(1100, at=7)
    log.notice(int(Own.OUTAGE_BEGIN), at=8, detail=SILENCE_DETAIL)
    log.subscribe(2, "l1", at=9)
    log.fold()
    assert (measures(log, 0)["outages"], measures(log, 0)["outage_seconds"]) == (2, 7)


def test_happenings_name_what_trading_has_to_know() -> None:
    """The fold returns outages, refusals and data types in seq order, with the contract the request stood for."""
    log = Log().run_start().subscribe(1, "l1", at=0)
    log.notice(None, msg=58, value=3, req_id=1)
    log.notice(354, req_id=1)
    log.notice(int(Own.DISCONNECTED), at=1)
    log.notice(int(Own.CONNECTED), at=2)
    step = log.engine.market.fold(Batch.of(log.pending, 1))
    happenings = log.engine.health.fold(step).happenings
    assert not step.happenings
    assert [(h.what, h.con_id, h.value, h.ts - START) for h in happenings] == [
        (OccurrenceKind.DATA_TYPE, 7, 3, 0),
        (OccurrenceKind.REFUSED, 7, 354, 0),
        (OccurrenceKind.OUTAGE_BEGIN, 0, 0, 10**9),
        (OccurrenceKind.OUTAGE_END, 0, 0, 2 * 10**9),
    ]


def test_a_refusal_counts_once() -> None:
    """IB's error and Harvester's own notice of it are one refusal; a question's error is none."""
    log = Log().run_start().subscribe(1, "l1", at=0).subscribe(2, "bid_ask")
    log.notice(200, req_id=77)  # a contract look-up
    log.notice(10190, req_id=2)
    log.notice(int(Own.STREAM_REFUSED), req_id=2, con_id=7, value=10190)
    log.notice(int(Own.STREAM_REFUSED), req_id=5, con_id=7, value=420)  # 5-second bars: no stream of the market
    log.fold()
    assert [(refusal[2], refusal[3]) for refusal in log.engine.health._refusals] == [(2, 10190), (5, 420)]
    assert log.engine.health_summary(7).refused == 2


def test_the_tape_is_checked_against_cumulative_volume() -> None:
    """Only volume between two values of tick 8 with the tape on counts; a lost print shows as a difference."""
    log = Log().run_start().subscribe(1, "l1", at=0).subscribe(2, "all_last")
    log.trade(2, 10, 50)
    log.tick(1, 8, 10_000)
    log.trade(2, 10, 100)
    log.trade(2, 10, 200)
    log.tick(1, 8, 10_300)
    log.trade(2, 10, 40)
    log.tick(1, 8, 10_350)  # ten shares were printed elsewhere
    log.trade(2, 10, 7)
    log.fold()
    got = measures(log)
    assert (got["tape_volume"], got["cumulative_volume"]) == (397, 10_350)
    assert (got["volume_checked"], got["tape_checked"]) == (350, 340)


def test_the_book_is_checked_against_the_quote() -> None:
    """Seconds in which the first rows equal the quote, and seconds in which the book is better than the best quote."""
    log = Log().run_start().subscribe(1, "depth", at=0).subscribe(2, "bid_ask")
    log.depth(1, "insert 0 bid 10.00 100\ninsert 0 ask 10.02 100")
    log.quote(2, 10.0, 10.01)
    log.clock(1)
    log.quote(2, 9.99, 10.02, at=1.5)
    log.clock(2)
    log.depth(1, "delete 7 bid 0 0", at=2.5)
    log.clock(3)
    log.fold()
    got = measures(log)
    assert (got["top_seconds"], got["top_bid_equal"], got["top_ask_equal"], got["top_beyond"]) == (2, 1, 1, 1)
    assert (got["depth_seconds"], got["bad_book_seconds"]) == (3, 1)
    assert measures(log, stream="depth")["impossible"] == 1


def test_coverage_gaps_and_silences_per_stream() -> None:
    """Counts rows, the longest gap, the time subscribed, and how often the stream was found silent."""
    log = Log().run_start().subscribe(1, "l1", at=0)
    for at in (1, 2, 7, 7.5):
        log.tick(1, 1, 10, 100, at=at)
    log.add(Kind.NOTICE, 8, code=int(Own.STREAM_SILENT), con_id=7, req_id=1, text="silent", detail='{"stream":"l1"}')
    log.cancel(1, at=9)
    log.clock(12)
    log.fold()
    got = measures(log, stream="l1")
    assert (got["rows"], got["gap_seconds_max"], got["covered_seconds"], got["silences"]) == (4, 5, 9, 1)


def test_a_gap_goes_on_while_a_stream_is_wanted() -> None:
    """Over renewed and lost subscriptions a gap goes on, and the dead time is not covered; a rotated line has none."""
    log = Log().run_start().subscribe(1, "l1", at=0)
    log.tick(1, 1, 10, 100, at=1)
    log.cancel(1, at=41, params='{"again":true}')
    log.subscribe(2, "l1", at=42)
    log.cancel(2, at=70, params='{"again":true}')
    log.subscribe(3, "l1", at=71)
    log.tick(3, 1, 10, 100, at=93)
    log.notice(int(Own.DISCONNECTED), at=100)
    log.notice(int(Own.CONNECTED), at=200)
    log.subscribe(4, "l1", at=201)
    log.tick(4, 1, 10, 100, at=202)
    log.clock(203)
    log.fold()
    got = measures(log, stream="l1")
    assert (got["gap_seconds_max"], got["covered_seconds"]) == (109, 1 + 7 + 1)
    log.cancel(4, at=204)
    log.subscribe(5, "l1", at=1000)
    log.tick(5, 1, 10, 100, at=1001)
    log.fold()
    assert measures(log, stream="l1")["gap_seconds_max"] == 109
    log.notice(int(Own.DISCONNECTED), at=1002)
    log.run_start(at=3000).subscribe(1, "l1", at=3001)
    log.tick(1, 1, 10, 100, at=3002)
    log.fold()
    assert measures(log, stream="l1")["gap_seconds_max"] == 109


def test_an_outage_by_silence_is_measured_from_the_last_row() -> None:
    """The notice holds when the last row came; without it, as in older logs, the outage begins with the notice."""
    log = Log().run_start().subscribe(1, "l1", at=0)
    log.tick(1, 1, 10, 100, at=5)
    log.notice(int(Own.OUTAGE_BEGIN), at=65, detail=SILENCE_DETAIL, value=START + 5 * 10**9)
    log.notice(int(Own.OUTAGE_END), at=905)
    log.tick(1, 1, 10, 100, at=906)
    log.fold()
    assert (measures(log, 0)["outages"], measures(log, 0)["outage_seconds"]) == (1, 900)
    got = measures(log, stream="l1")
    assert (got["gap_seconds_max"], got["covered_seconds"]) == (901, 6)
    log.notice(int(Own.OUTAGE_BEGIN), at=1000, detail=SILENCE_DETAIL, value=1)
    log.notice(int(Own.OUTAGE_END), at=1001)
    log.fold()
    assert measures(log, 0)["outage_seconds"] == 900 + 1000 - 905 + 1, "never before the end of the one before"


def test_missing_seqs_are_counted() -> None:
    """A hole between two batches, or inside one, is a gap: three events that nobody folded."""
    log = Log().run_start().subscribe(1, "l1", at=0)
    log.fold()
    log.next_seq += 1
    log.tick(1, 1, 10, 100)
    log.pending = [(kind, {**row, "seq": 4}) for kind, row in log.pending]
    log.engine.fold(Batch.of(log.pending))
    rows = [(Kind.CLOCK, {"seq": s, "ts_recv": START, "wall_ns": 0, "mono_ns": 0}) for s in (5, 8)]
    log.engine.fold(Batch.of(rows))
    assert measures(log, 0)["missing_seqs"] == 3


def test_the_health_table_comes_when_the_date_ends() -> None:
    """`finish` returns the table once, in its schema; the summary is the one in artefacts."""
    log = Log().run_start().subscribe(1, "l1", at=0)
    log.notice(10197, req_id=1)
    log.clock(1)
    log.fold()
    out = log.engine.finish()
    assert out["health"].schema == HEALTH
    assert out.rows("health") == len(log.engine.health.rows())
    nothing = {"outages": 0, "bad_book_seconds": 0, "refused": 0, "data_type": 0, "kind": "unknown"}
    assert log.engine.health_summary()._asdict() == nothing
