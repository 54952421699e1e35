"""Streams against each other: hand-made numbers, a consistent modelled market, and the command."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.app import app
from harvester.events.kinds import Kind
from harvester.home import Home
from harvester.projections.engine import Engine
from harvester.projections.reconcile_streams import TOLERANCE, Check, Reconciled, Reconciler, _check, reconcile
from harvester.rebuild.project import fold_day, project
from harvester.rebuild.verify_day import verify
from harvester.simgateway.markets.open_market import open_market
from tests.budget import budget
from tests.market_log import SECOND, Log, Written
from tests.recording import Recorded, lockstep, model, run
from tests.reference.volume import volumes

HOUR = 3600 * SECOND
START = 1_752_757_200 * SECOND  # 13:00 UTC, a full hour


def by_hand() -> Written:
    """Two hours of L1, tape, depth and 5-second bars: 30,000 shares are missing from the second hour's tape."""
    asked = [(1, "l1"), (2, "all_last"), (3, "smart_depth"), (4, "bars_5s")]
    rows: list[tuple[Kind, dict[str, Any]]] = [
        (Kind.REQUEST, {"ts_recv": START, "action": "run_start", "stream": "run", "params": "{}"})
    ]
    ids = {"con_id": 7, "epoch": 1}
    for req_id, stream in asked:
        ask = {"action": "subscribe", "stream": stream, "symbol": "X", "params": '{"rows":5}', "req_id": req_id}
        rows.append((Kind.REQUEST, {"ts_recv": START, **ids, **ask}))
    total = 10_000.0
    for hour in (0, 1):
        at = START + hour * HOUR
        l1 = {"ts_recv": at + SECOND, **ids, "req_id": 1}
        rows += [
            (Kind.TICK, {**l1, "msg": 1, "field": f, "price": p, "size": 100.0}) for f, p in ((1, 10.0), (2, 10.02))
        ]
        rows.append((Kind.TICK, {**l1, "msg": 2, "field": 8, "size": total}))
        for side, price in ((1, 10.0), (0, 10.02 if hour == 0 else 10.03)):
            level = {"position": 0, "operation": hour, "side": side, "price": price, "size": 5.0, "msg": 12}
            rows.append((Kind.DEPTH, {"ts_recv": at + SECOND, **ids, "req_id": 3, **level}))
        for second in range(10, 100, 10):
            stamp = at + second * SECOND
            print_ = {"ts_event": stamp, "price": 10.02, "size": 10_000.0, "stream": 2, "req_id": 2}
            total += 10_000
            if hour == 0 or second > 30:
                rows.append((Kind.TRADE, {"ts_recv": stamp, **ids, **print_}))
            bar = {
                "msg": 50,
                "bar_size": "5 secs",
                "what": "TRADES",
                "ts_event": stamp,
                "volume": 10_000.0,
                "req_id": 4,
            }
            rows.append((Kind.BAR, {"ts_recv": stamp, **ids, **bar}))
        rows.append(
            (Kind.TICK, {"ts_recv": at + 200 * SECOND, **ids, "req_id": 1, "msg": 2, "field": 8, "size": total})
        )
        rows += [
            (Kind.CLOCK, {"ts_recv": at + s * SECOND, "wall_ns": 0, "mono_ns": 0}) for s in (*range(201, 301), 3600)
        ]
    return Written(rows)


def of(checks: list[Check], check: str) -> list[Check]:
    return [found for found in checks if found.check == check]


def test_each_check_by_hand() -> None:
    """Hour by hour: tape against tick 8, tops against the quote, bars against prints; 30,000 missing are seen."""
    found = reconcile(by_hand().day())
    assert [c.hour - START for c in of(found.checks, "volume")] == [0, HOUR]
    assert [(c.ours, c.theirs, c.verdict) for c in of(found.checks, "volume")] == [
        (90_000, 90_000, "equal"),
        (60_000, 90_000, "outside"),
    ]
    first, second = of(found.checks, "book_top")
    assert (first.ours, first.theirs, first.verdict) == (3599, 3599, "equal")
    assert (second.ours, second.theirs, second.verdict) == (1, 3600, "outside")
    assert [(c.ours, c.theirs, c.verdict) for c in of(found.checks, "bars_5s")] == [
        (80_000, 80_000, "equal"),
        (60_000, 90_000, "outside"),
    ]
    assert len(found.outside()) == 3
    assert all(c.reason for c in found.outside())
    assert all(c.tolerance == TOLERANCE[c.check] for c in found.checks)
    assert any(row["measure"] == "tape_volume" and row["value"] == 150_000 for row in found.health)


def test_volume_in_round_lots_is_understood() -> None:
    """A tick 8 in round lots is converted to shares."""
    day = by_hand()
    rows = [(kind, dict(row)) for kind, row in day.batch.events()]
    for kind, row in rows:
        if kind is Kind.TICK and row["field"] == 8:
            row["size"] /= 100
    found = reconcile(Written([(k, {n: v for n, v in r.items() if n != "seq"}) for k, r in rows]).day())
    assert [c.verdict for c in of(found.checks, "volume")] == ["equal", "outside"]


@st.composite
def days(draw: st.DrawFn) -> Written:
    """Hours of prints and tick 8 in either order, in shares or round lots, some prints lost, L1 and tape restarted."""
    log, total, lots = Log(), 0, draw(st.sampled_from((1, 100)))
    log.now = START + SECOND // 2  # so that nothing happens between two hours
    log.run_start().subscribe(1, "l1").subscribe(2, "all_last")
    step = st.tuples(
        st.sampled_from(("print first", "tick first", "lost", "tick", "l1", "tape", "off")),
        st.sampled_from((1, 50, 100, 700, 20_000)),
        st.sampled_from((1, 60, 1500)),
    )
    for what, size, seconds in draw(st.lists(step, max_size=40)):
        log.add(Kind.CLOCK, wall_ns=0, mono_ns=0)
        log.now += seconds * SECOND
        log.add(Kind.CLOCK, wall_ns=0, mono_ns=0)
        if what in ("l1", "tape"):
            req = 1 + (what == "tape")
            log.cancel(req)
            log.subscribe(req, "l1" if req == 1 else "all_last")
        elif what == "off":
            log.cancel(2)
        else:
            total += size if what != "tick" else 0
            on = [what == "print first", what != "lost", what == "tick first"]
            for say, it in zip(on, ("print", "tick", "print"), strict=True):
                if say and it == "print":
                    log.hot(Kind.TRADE, 2, stream=2, price=10.0, size=float(size))
                elif say:
                    log.tick(1, 8, float(total // lots))
    log.add(Kind.CLOCK, wall_ns=0, mono_ns=0)
    return Written(log.pending)


@settings(deadline=None, max_examples=budget(20, 60), suppress_health_check=[HealthCheck.too_slow])
@given(days(), st.lists(st.integers(1, 100), max_size=5))
def test_volume_equals_the_plain_computation_under_every_cut(written: Written, edges: list[int]) -> None:
    """Hour by hour tape and tick 8 are those of the lists of all stretches, also over snapshots taken anywhere."""
    checks = {c.hour // HOUR: (c.ours, c.theirs) for c in of(reconcile(written.day()).checks, "volume")}
    plain = volumes((str(kind), row) for kind, row in written.batch.events())
    assert {hour: found for hour, found in checks.items() if any(found)} == {
        hour: found for hour, found in plain.items() if any(found)
    }
    whole, parts = Engine(market_only=True), Engine(market_only=True)
    whole.fold(written.batch)
    marks = sorted({0, *(edge for edge in edges if edge < written.batch.last_seq), written.batch.last_seq})
    for a, b in pairwise(marks):
        data = parts.snapshot()
        parts = Engine(market_only=True)
        parts.restore(data)
        parts.fold(written.batch.slice(a + 1, b))
    assert parts.market.stretches(7) == whole.market.stretches(7)
    assert parts.digests() == whole.digests()


def test_volume_without_a_tape_is_not_measured() -> None:
    """A symbol with only L1 has no volume check: its tick 8 does not count as a missing tape."""
    rows = [(kind, dict(row)) for kind, row in by_hand().batch.events() if row["req_id"] != 2]
    found = reconcile(Written([(k, {n: v for n, v in r.items() if n != "seq"}) for k, r in rows]).day())
    assert [c.verdict for c in of(found.checks, "volume")] == ["not measured", "not measured"]


def test_volume_of_the_real_tapes_is_equal_hour_by_hour(tmp_path: Path, shared_data: Path) -> None:
    """IBM and BAC before the bell of 2013-10-07 through the gateway, tick 8 before its print: no share off."""
    market = open_market("tape", [shared_data / "tapes" / f"{symbol}-2013-10-07" for symbol in ("IBM", "BAC")])
    recorded: Recorded = run(lockstep(market, Home(tmp_path), minutes=302, commit_seconds=60, digest_seconds=3_600))
    checks = of(reconcile(recorded.day("2013-10-07")).checks, "volume")
    assert {(c.symbol, c.hour // HOUR % 24, c.ours) for c in checks if c.verdict == "equal"} >= {
        ("IBM", 8, 2_549), ("IBM", 10, 1_604), ("IBM", 11, 1_408), ("IBM", 12, 13_904),
        ("BAC", 8, 500), ("BAC", 10, 9_875), ("BAC", 11, 100_619), ("BAC", 12, 766_580),
    }  # fmt: skip
    assert {c.verdict for c in checks} == {"equal", "not measured"}


@pytest.fixture(scope="module")
def morning(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    recorded: Recorded = run(lockstep(model(), Home(tmp_path_factory.mktemp("health")), minutes=8))
    return recorded


def test_a_modelled_market_agrees_with_itself(morning: Recorded) -> None:
    """Tape, cumulative volume, 5-second bars and books of every symbol are within tolerance; no share is missing."""
    found = reconcile(morning.day())
    for name in ("volume", "bars_5s", "book_top"):
        checks = of(found.checks, name)
        assert {c.symbol for c in checks if c.verdict != "not measured"} == {"ACME", "BOLT", "CRUX"}
        assert not [c for c in checks if c.verdict == "outside"], name
    assert all(c.theirs > 100 for c in of(found.checks, "book_top"))
    assert {c.verdict for c in of(found.checks, "volume")} == {"equal"}
    assert not found.outside()


def test_any_fold_of_the_date_gives_the_comparison(morning: Recorded) -> None:
    """A fold of all projections, as in `hv verify`, measures what a fold of the market alone does."""
    day, found = morning.day(), list[Reconciled]()
    reconciler = Reconciler(day)
    fold_day(day, None, reconciler.cuts, reconciler.at_cut, lambda engine: found.append(reconciler.result(engine)))
    assert found == [reconcile(day)]
    assert len(found[0].measured()) >= 6


def test_verify_tells_of_it_and_fails_on_nothing(morning: Recorded) -> None:
    """The report holds the comparisons; its exit code is that of log, live and files alone."""
    project(morning.home.on(morning.day().trading_date))
    found = verify(morning.home.on(morning.day().trading_date))
    assert found.exit_code == 0, (found.live, found.files)
    assert found.streams.checks >= 9
    assert found.streams.measured >= 6


def test_the_command_shows_and_gives_json(morning: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    """`hv health` in words and, with --json, as one object; an unknown symbol is one clear line."""
    args = ["health", "--date", "2025-07-17", "--home", str(morning.home.root)]
    words = told(args, capsys)
    assert "comparison of streams" in words
    assert "outside tolerance" in words
    body = json.loads(told([*args, "--json", "--symbol", "ACME"], capsys))
    assert {row["symbol"] for row in body["reconciliation"]} == {"ACME"}
    assert body["reconciliation"][0]["hour"].startswith("2025-07-17T13:00:00Z")
    assert {row["measure"] for row in body["health"]} >= {"outages", "tape_volume", "gap_seconds_max"}
    with pytest.raises(SystemExit):
        told([*args, "--symbol", "NONE"], capsys)


def told(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    try:
        app(args)
    except SystemExit as end:
        if end.code:
            raise
    return capsys.readouterr().out


@pytest.mark.parametrize("theirs", [5e-324, float("inf")])
def test_a_volume_no_market_has_is_not_measured(theirs: float) -> None:
    """An absurd volume, almost zero or infinite, is not measured."""
    found = _check(("AAA", 1, 0), "bars_5s", 36_900.0, theirs, "shares")
    assert (found.verdict, found.difference) == ("not measured", None)
