"""Halts, lost quotes, min ticks, run ends and odd lots: what the market says besides quotes and prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from harvester.events.batch import Batch
from harvester.events.kinds import Kind, Own
from harvester.projections.engine import Engine
from harvester.projections.interval import OccurrenceKind
from harvester.status import _halted
from tests.market_log import START, Log
from tests.test_projections_reference import Seen

if TYPE_CHECKING:
    from harvester.projections.step import Step

HALT, LOST = OccurrenceKind.HALT, OccurrenceKind.QUOTE_LOST


class Day(Log):
    """A log folded by an engine that trades; `steps` are what the market made of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine(trading=Seen())

    def halt(self, req: int, value: float | None, at: float, field: int = 49) -> int:
        return self.hot(Kind.TICK, req, at, msg=45, field=field, value=value)

    def step(self) -> Step:
        batch = Batch.of(self.pending, self.next_seq).check()
        self.next_seq += len(self.pending)
        self.pending = []
        return self.engine.market.fold(batch)


def happened(step: Step, *kinds: OccurrenceKind) -> list[tuple[Any, ...]]:
    """(what, con_id, value, seconds after the start) of a step's happenings of these kinds."""
    return [(h.what, h.con_id, h.value, (h.ts - START) / 1e9) for h in step.happenings if h.what in kinds]


def measures(log: Log, con_id: int = 7) -> dict[str, float | None]:
    return {r["measure"]: r["value"] for r in log.engine.health.rows() if r["con_id"] == con_id and not r["stream"]}


def test_a_halt_marks_every_second_it_touches() -> None:
    """Halted at 1.9 s and over at 3.0 s: seconds 1 to 3 are halted; health counts one halt and three seconds."""
    log = Log().run_start().subscribe(1, "l1", at=0)
    halts = {0.5: 0, 1.9: 2, 2.2: 1, 3.0: 0}
    for at in sorted([*halts, *range(1, 7)]):
        if at in halts:
            log.hot(Kind.TICK, 1, at, msg=45, field=49, value=halts[at])
        if at == int(at):
            log.clock(at)
    rows = log.fold()
    assert [(row["ts"] - START) // 10**9 for row in rows if row["halted"]] == [1, 2, 3]
    assert len(rows) == 6
    assert (measures(log)["halts"], measures(log)["halted_seconds"]) == (1, 3)


@pytest.mark.parametrize("field", [49, 90])
def test_halts_happen_on_change_only(field: int) -> None:
    """Values 0, 1 and 2 are halts when they change; -1, null, others and other streams are none."""
    log = Day()
    log.run_start().subscribe(1, "l1", at=0).subscribe(2, "all_last").subscribe(3, "l1", con_id=9)
    for at, value in enumerate((0, 2, 2, -1, None, 0.5, 1, 0, 0)):
        log.halt(1, value, at, field)
    log.halt(2, 1, 20, field)
    log.halt(3, 1, 21, field)
    assert happened(log.step(), HALT) == [(HALT, 7, 2, 1), (HALT, 7, 1, 6), (HALT, 7, 0, 7), (HALT, 9, 1, 21)]


def test_a_halt_lasts_over_an_outage_and_ends_with_the_run() -> None:
    """1100, 1101 and a cancelled stream do not end a halt; the next run begins not halted."""
    log = Day()
    log.run_start().subscribe(1, "l1", at=0)
    log.halt(1, 1, 1)
    log.notice(1100, at=2)
    log.notice(1101, at=3)
    log.subscribe(2, "l1", at=4)
    log.cancel(2, at=5)
    log.subscribe(3, "l1", at=6)
    log.clock(7)
    assert happened(log.step(), HALT) == [(HALT, 7, 1, 1)]
    log.run_start(at=8).subscribe(1, "l1", at=8)
    log.halt(1, 0, 9)
    log.clock(10)
    step = log.step()
    assert happened(step, HALT) == [(HALT, 7, 0, 8)]
    assert step.closed["halted"].tolist() == [1, 0, 0]


def test_an_error_about_a_halted_security_halts_the_symbol() -> None:
    """154 halts the symbol of its request; 316, about depth, does not."""
    log = Day()
    log.run_start().subscribe(1, "l1", at=0).subscribe(2, "depth", con_id=9)
    log.notice(154, at=1, req_id=1, text="Orders cannot be transmitted for a halted security.")
    log.notice(316, at=2, req_id=2, text="Market depth data has been HALTED. Please re-subscribe.")
    log.halt(1, 0, 3)
    assert happened(log.step(), HALT) == [(HALT, 7, 1, 1), (HALT, 7, 0, 3)]


@pytest.mark.parametrize("how", ["silent", "cancelled", "renewed", "refused"])
@pytest.mark.parametrize("stream", ["bid_ask", "l1", "smart_depth"])
def test_a_quote_without_its_stream_is_lost_until_the_stream_speaks(how: str, stream: str) -> None:
    """The quote in force is lost once; the next row of its stream shows it again, even unchanged."""

    def speak(req: int, at: float) -> None:
        if stream == "bid_ask":
            log.quote(req, 10.0, 10.02, at=at)
        elif stream == "l1":
            log.tick(req, 1, 10.0, 100, at)
            log.tick(req, 2, 10.02, 100, at)
        else:
            log.now = START + round(at * 1e9)
            log.depth(req, "insert 0 bid 10 100\ninsert 0 ask 10.02 100")

    log = Day()
    log.run_start().subscribe(1, stream, at=0)
    speak(1, 1)
    assert [q["good"] for q in log.step().quotes][-1]
    req = 1
    if how == "silent":
        log.notice(int(Own.STREAM_SILENT), at=2, req_id=1, con_id=7)
        log.notice(int(Own.STREAM_SILENT), at=2.5, req_id=1, con_id=7)
    elif how == "refused":
        log.notice(354, at=2, req_id=1)
    else:
        log.cancel(1, at=2, params='{"renewed":true}' if how == "renewed" else "{}")
    if how != "silent":
        log.subscribe(2, stream, at=3)
        req = 2
    assert happened(log.step(), LOST) == [(LOST, 7, 0, 2)]
    if stream == "smart_depth" and how == "silent":
        log.depth(1, "update 0 bid 10 100", at=4)
    else:
        speak(req, 4)
    log.clock(5)
    step = log.step()
    assert happened(step, LOST) == []
    assert (int(step.quotes[-1]["ts"]) - START) / 1e9 == 4
    assert step.quotes[-1]["good"]
    assert len(step.quotes) == 1


def test_a_quote_that_another_source_replaces_is_not_lost() -> None:
    """BidAsk refused while L1 has both sides: the L1 quote is in force and live. A silent tape loses no quote."""
    log = Day()
    log.run_start().subscribe(1, "l1", at=0).subscribe(2, "bid_ask").subscribe(3, "all_last")
    log.tick(1, 1, 10.0, 100)
    log.tick(1, 2, 10.02, 100)
    log.quote(2, 10.0, 10.01, at=1)
    log.notice(int(Own.STREAM_SILENT), at=2, req_id=3, con_id=7)
    log.notice(int(Own.STREAM_SILENT), at=2, req_id=1, con_id=7)
    log.notice(10190, at=3, req_id=2)
    step = log.step()
    assert happened(step, LOST) == []
    assert step.quotes[-1]["ask"] == 10.02


def test_min_ticks_happen() -> None:
    """Contract details give the min tick when it changes."""
    log = Day()
    log.run_start()
    given = ((0.01, 10, 7), (0.01, 10, 7), (0.005, 18, 7), (None, 10, 7), (0.0001, 10, 9), (0.05, 10, 7))
    for step, msg, con_id in given:
        log.add(Kind.CONTRACT, msg=msg, con_id=con_id, min_tick=step)
    assert [(h.what, h.con_id, h.value) for h in log.step().happenings] == [
        (OccurrenceKind.MIN_TICK, 7, 10_000_000), (OccurrenceKind.MIN_TICK, 9, 100_000),
        (OccurrenceKind.MIN_TICK, 7, 50_000_000),
    ]  # fmt: skip


def test_odd_lots_and_prints_that_form_no_price_trigger_nothing() -> None:
    """Conditions decide where they are recorded, else the size; past-limit and unreported prints never trigger."""
    log = Day()
    log.run_start().subscribe(1, "all_last", at=0)
    given: list[tuple[float, str | None, dict[str, bool], bool]] = [
        (100, None, {}, True), (99, None, {}, False), (40, " F", {}, True), (40, "   I", {}, False),
        (500, " F I", {}, False), (500, None, {"past_limit": True}, False), (500, None, {"unreported": True}, False),
    ]  # fmt: skip
    for size, conditions, flags, _ in given:
        both = {"past_limit": False, "unreported": False} | flags
        log.hot(Kind.TRADE, 1, 1, stream=2, price=10.0, size=size, conditions=conditions, **both)
    step = log.step()
    assert step.trades["triggers"].tolist() == [triggers for *_, triggers in given]
    assert step.trades["forms_price"].tolist() == [not flags for _, _, flags, _ in given]


def test_rt_volume_below_a_round_lot_triggers_nothing() -> None:
    """RTVolume has no conditions: its size decides; the first row, a repetition, is no print."""
    log = Day()
    log.run_start().subscribe(1, "l1", params='{"generic":"233"}', at=0)
    for size in (300, 99, 100):
        log.hot(Kind.TICK, 1, 1, msg=46, field=48, text=f"10.0;{size};1752759000123;9000;10.0;true")
    assert log.step().trades["triggers"].tolist() == [False, True]


def test_a_snapshot_keeps_halts_lost_quotes_and_min_ticks() -> None:
    """An engine restored in a halt with a lost quote ends it, shows the quote and repeats no min tick."""
    log = Day()
    log.run_start().subscribe(1, "l1", at=0).subscribe(2, "bid_ask")
    log.add(Kind.CONTRACT, msg=10, con_id=7, min_tick=0.01)
    log.quote(2, 10.0, 10.02, at=1)
    log.halt(1, 2, 1.5)
    log.notice(int(Own.STREAM_SILENT), at=2, req_id=2, con_id=7)
    log.step()
    restored = Engine(trading=Seen())
    restored.market.restore(log.engine.market.snapshot())
    log.engine = restored
    log.add(Kind.CONTRACT, 3, msg=10, con_id=7, min_tick=0.01)
    log.quote(2, 10.0, 10.02, at=3)
    log.halt(1, 0, 3)
    step = log.step()
    assert happened(step, *OccurrenceKind) == [(HALT, 7, 0, 3)]
    assert len(step.quotes) == 1


def test_status_names_halted_symbols_by_their_last_word() -> None:
    """The newest halt tick of a symbol's own request decides; unknown values, and requests of nobody, say nothing."""
    fields = [(1, 49, 2.0), (2, 49, 1.0), (1, 49, -1.0), (2, 49, 0.0), (3, 49, 1.0), (1, 8, 0.0)]
    rows = [
        (Kind.TICK, {"ts_recv": START, "epoch": 1, "req_id": req, "field": field, "value": value})
        for req, field, value in fields
    ]
    asked = [
        {"seq": 0, "epoch": 1, "req_id": req, "action": "subscribe", "stream": "l1", "symbol": f"S{req}"}
        for req in (1, 2)
    ]
    assert _halted(Batch.of(rows, 1).tables[Kind.TICK], asked) == {"S1": "volatility halt"}
