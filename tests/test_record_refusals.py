"""Refusals that pass, advice that is none, and requests that are lost: what a recorder asks again, and when."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pytest
import structlog

from harvester.events import codes
from harvester.events.kinds import Action, Kind, Own, Stream
from harvester.home import Home
from harvester.projections.engine import Engine
from harvester.projections.market.health import Health
from harvester.rebuild.project import fold_day
from tests.recording import Recorded, lockstep, model, run
from tests.test_record_trouble import cancelled, one, sound, subscribed

if TYPE_CHECKING:
    from pathlib import Path

    from harvester.eventlog.reader import Day

SECOND = 1_000_000_000


def in_session(market: Any, path: Path, **given: Any) -> Any:
    """Record from a minute after the open, when every stream has rows."""
    return lockstep(market, Home(path), start_ns=market.start_ns + 180 * SECOND, **given)


def start_of(day: Day) -> int:
    """Market time of the first subscription: seconds of a fault script count from it."""
    return int(subscribed(day, Stream.L1)[0]["ts_recv"])


def asked(day: Day, stream: Stream, symbol: str = "ACME") -> list[float]:
    """When a stream of a symbol was subscribed, s after the first subscription."""
    begin = start_of(day)
    return [(r["ts_recv"] - begin) / SECOND for r in subscribed(day, stream) if r["symbol"] == symbol]


def refusals(day: Day, symbol: str = "") -> list[int]:
    notices = day.table(Kind.NOTICE).to_pylist()
    return [n["value"] for n in notices if n["code"] == Own.STREAM_REFUSED and symbol in n["text"]]


def histories(day: Day, symbol: str = "") -> list[tuple[float, str]]:
    """When each history was requested, s after the first subscription, and its bar size."""
    rows = [r for r in day.table(Kind.REQUEST).to_pylist() if r["action"] == Action.BACKFILL]
    begin = start_of(day)
    return [
        ((r["ts_recv"] - begin) / SECOND, json.loads(r["params"])["bar_size"])
        for r in rows
        if r["symbol"] == symbol or not symbol
    ]


def answered(day: Day) -> int:
    """How many histories have an answer with rows."""
    return sum(row["stream"] == Stream.HISTORY and row["rows"] > 0 for row in day.table(Kind.END).to_pylist())


def state(recorded: Recorded, symbol: str, stream: str) -> str:
    return recorded.summary.coverage[symbol][stream]


def test_live_updates_that_fail_are_revived_by_the_farm(tmp_path: Path) -> None:
    """10182 ends every stream of a symbol; tried with growing pauses, and all are back with the farm (2104)."""
    faults = "+60 * error 2103\n+60 ACME refuse 10182\n+60 ACME error 10182\n+190 ACME refuse 0\n+200 * error 2104"
    recorded = run(lockstep(one(), Home(tmp_path), minutes=4.5, faults=faults))
    day = sound(recorded)
    tries = asked(day, Stream.L1)
    assert [round(b - a) for a, b in pairwise(tries[1:-1])] == [2, 5, 10, 20, 30, 60]
    assert tries[-1] == pytest.approx(200, abs=1), "not at 250, when the pause would end"
    streams = {"l1": Kind.TICK, "depth": Kind.DEPTH, "bars_5s": Kind.BAR, "all_last": Kind.TRADE}
    for name, kind in streams.items():
        assert state(recorded, "ACME", name) == "granted", name
        newest = subscribed(day, Stream(name))[-1]
        assert newest["req_id"] in day.frame(kind)["req_id"].to_list()


def test_a_missing_permission_is_asked_again_when_a_farm_returns(tmp_path: Path) -> None:
    """354, 10189 and 101 are refusals for now: again after a minute, five minutes, and at once after 2106."""
    faults = """
        +0 ACME:l1 refuse 354
        +0 BOLT:all_last refuse 10189
        +0 CRUX:l1 refuse 101
        +0 CRUX:bars_5s refuse 354:1 "Abonnement fehlt"
        +100 * refuse 0
        +100 ACME:l1 refuse 0
        +100 BOLT:all_last refuse 0
        +100 CRUX:l1 refuse 0
        +110 * error 2106
    """
    recorded = run(lockstep(model(), Home(tmp_path), minutes=3, faults=faults))
    day = sound(recorded)
    for stream, symbol in ((Stream.L1, "ACME"), (Stream.ALL_LAST, "BOLT"), (Stream.L1, "CRUX")):
        first, again, granted = asked(day, stream, symbol)
        assert again - first == pytest.approx(60, abs=1), symbol
        assert granted == pytest.approx(110, abs=1), symbol
    first, granted = asked(day, Stream.BARS_5S, "CRUX")
    assert granted - first == pytest.approx(60, abs=1), "now and then, without a farm"
    wanted = (("ACME", "l1"), ("BOLT", "all_last"), ("CRUX", "l1"), ("CRUX", "bars_5s"))
    assert {state(recorded, symbol, stream) for symbol, stream in wanted} == {"granted"}


def test_farms_that_return_again_and_again_are_no_storm(tmp_path: Path) -> None:
    """Twenty 2104 within two seconds repeat a refused stream at once and five seconds later, no more."""
    farms = "\n".join(f"+{100 + n / 10} * error 2104" for n in range(20))
    day = sound(run(lockstep(one(), Home(tmp_path), minutes=2.5, faults=f"+0 ACME:l1 refuse 354\n{farms}")))
    assert len([at for at in asked(day, Stream.L1) if 99 < at < 106]) == 2


def test_advice_ends_nothing_in_the_folds(tmp_path: Path) -> None:
    """10089 before and after the data type, 10090, 10167, and a code nobody knows on a flowing stream: all go on."""
    faults = """
        +0 ACME:l1 advise before 10089
        +0 BOLT:l1 advise after 10089
        +0 CRUX:l1 advise after 10167
        +30 CRUX:l1 error 10090
        +40 BOLT:l1 error 10091
        +50 ACME:l1 error 10999 "a code of tomorrow"
    """
    given = {"minutes": 2.5, "tick_by_tick_lines": 0, "depth_lines": 0, "five_second_bars": False}
    recorded = run(lockstep(model(), Home(tmp_path / "advised"), faults=faults, **given))
    day = sound(recorded)
    sent = {n["code"] for n in day.table(Kind.NOTICE).to_pylist()}
    assert {10089, 10090, 10091, 10167, 10999} <= sent
    assert refusals(day) == []
    assert len(subscribed(day, Stream.L1)) == 3
    plain = run(lockstep(model(), Home(tmp_path / "plain"), **given)).day()
    assert _quoted_seconds(day) == _quoted_seconds(plain)


def _quoted_seconds(day: Day) -> dict[str, int]:
    """Seconds with a bid, by symbol; and no refusal counted."""
    engine = Engine()
    for batch in day.batches():
        engine.fold(batch)
    assert engine[Health].summary().refused == 0
    quoted = fold_day(day).tables["buckets"].filter(pc.field("bid").is_valid())
    return {symbol: quoted.filter(pc.field("symbol") == symbol).num_rows for symbol in ("ACME", "BOLT", "CRUX")}


def test_a_stream_that_stops_after_advice_is_refused(tmp_path: Path) -> None:
    """A code nobody knows, and no rows after it: refused with that code, cancelled, asked for again, granted."""
    faults = '+60 ACME:l1 error 10999 "a code of tomorrow"\n+61 ACME:l1 silence 60'
    recorded = run(lockstep(one(), Home(tmp_path), minutes=4, faults=faults, silence_seconds=30))
    day = sound(recorded)
    assert refusals(day, "l1") == [10999]
    old, new = (r["req_id"] for r in subscribed(day, Stream.L1))
    assert cancelled(day, Stream.L1) == [old]
    assert day.frame(Kind.TICK)["req_id"].to_list()[-1] == new
    assert state(recorded, "ACME", "l1") == "granted"


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        ("bars_5s", "420:2"),
        ("bars_5s", '420:2 "Ungültige Echtzeitabfrage: zu viele"'),
        ("l1", '10999:2 "pacing of tomorrow"'),
    ],
)
def test_a_refusal_for_now_is_repeated_until_it_is_granted(tmp_path: Path, stream: str, error: str) -> None:
    """A pacing refusal, in any language and under any code, is repeated after 15 and 30 s."""
    recorded = run(in_session(one(), tmp_path, minutes=1.5, faults=f"+0 ACME:{stream} refuse {error}"))
    day = sound(recorded)
    first, second, third = asked(day, Stream(stream))
    assert second - first >= 15
    assert third - second >= 30
    newest = subscribed(day, Stream(stream))[-1]["req_id"]
    assert newest in day.frame(Kind.BAR if stream == "bars_5s" else Kind.TICK)["req_id"].to_list()


def test_a_pacing_refusal_spaces_the_histories(tmp_path: Path) -> None:
    """162 for pace: no history within 15 s, then 30 s, then slowly; other texts repeat one history, or none."""
    faults = """
        +0 ACME:history refuse 162:2
        +0 BOLT:history refuse 162:1 "Historical Market Data Service error message:HMDS connection attempt failed"
        +0 CRUX:history refuse 162:1 "Historical Market Data Service error message:HMDS query returned no data"
    """
    given = {"minutes": 6, "skip_historical_backfill": False, "five_second_bars": False, "tick_by_tick_lines": 0}
    recorded = run(lockstep(model(), Home(tmp_path), faults=faults, **given))
    day = sound(recorded)
    sent = [at for at, _ in histories(day)]
    gaps = [b - a for a, b in pairwise(sent)]
    assert [gap >= least for gap, least in zip(gaps[:2], (15, 30), strict=True)] == [True, True]
    assert min(gaps[2:]) >= 1, "no burst after a pacing refusal"
    sizes = {symbol: [size for _, size in histories(day, symbol)] for symbol in ("ACME", "BOLT", "CRUX")}
    assert (len(sizes["ACME"]), set(sizes["ACME"])) == (5, {"1 day", "1 hour", "1 min"})
    assert sorted(sizes["BOLT"]) == ["1 day", "1 day", "1 hour", "1 min"]
    assert sizes["CRUX"] == ["1 day", "1 hour", "1 min"]
    again = [at for at, size in histories(day, "BOLT") if size == "1 day"]
    assert again[1] - again[0] >= 15, "IB refuses the same history within 15 s"
    assert answered(day) == 8


def test_a_refused_history_is_given_back_its_turn_by_the_farm(tmp_path: Path) -> None:
    """A missing permission for a history, and a history that is never answered: both are repeated after 2106."""
    faults = """
        +0 ACME:history refuse 162:1 "Historical Market Data Service error message:No market data permissions for STK"
        +0 BOLT:history swallow 2
        +40 * error 2106
    """
    given = {"minutes": 3, "skip_historical_backfill": False, "five_second_bars": False, "tick_by_tick_lines": 0}
    day = sound(run(lockstep(model(symbols=("ACME", "BOLT")), Home(tmp_path), faults=faults, **given)))
    first, again = (at for at, size in histories(day, "ACME") if size == "1 day")
    assert first < 1
    assert again == pytest.approx(40, abs=3), "not after a minute"
    assert [size for _, size in histories(day, "BOLT")].count("1 hour") == 2
    assert answered(day) == 6


def test_histories_lost_in_an_outage_are_repeated(tmp_path: Path) -> None:
    """1100 swallows what is asked meanwhile; after 1102 every history is asked for again and answered."""
    faults = "+0 ACME:history swallow 2\n+30 * error 1100\n+50 * error 1102"
    given = {"minutes": 3, "skip_historical_backfill": False, "five_second_bars": False, "tick_by_tick_lines": 0}
    day = sound(run(lockstep(one(), Home(tmp_path), faults=faults, timeout_seconds=500, **given)))
    assert [size for _, size in histories(day)] == ["1 day", "1 hour", "1 min", "1 day", "1 hour"]
    assert answered(day) == 3


def test_a_duplicate_id_costs_the_id_and_no_line(tmp_path: Path) -> None:
    """322 "Duplicate ticker id" for L1 and AllLast: both under new ids, BidAsk untouched; "Max number": no new one."""
    faults = '+60 ACME:l1 error 322\n+60 ACME:all_last error 322\n+62 BOLT:all_last error 322 "{}"'
    text = "Error processing request.-'bR' : cause - Max number of tick-by-tick requests has been reached"
    market = model(symbols=("ACME", "BOLT"))
    recorded = run(in_session(market, tmp_path, minutes=2, faults=faults.format(text)))
    day = sound(recorded)
    for stream in (Stream.L1, Stream.ALL_LAST):
        old, new = (r["req_id"] for r in subscribed(day, stream) if r["symbol"] == "ACME")
        assert old in cancelled(day, stream)
        assert new != old
    assert {state(recorded, "ACME", name) for name in ("l1", "all_last", "bid_ask")} == {"granted"}
    assert len(asked(day, Stream.BID_ASK)) == 1
    assert len(asked(day, Stream.ALL_LAST, "BOLT")) == 1
    assert state(recorded, "BOLT", "all_last") == "refused 322"


def test_rows_under_a_duplicate_id_do_not_bring_the_stream_back(tmp_path: Path) -> None:
    """The gateway goes on sending under an id it called a duplicate: cancelled at once, the stream has a new id."""
    faults = '+92.5 ACME:l1 message 4 2 {req} 322 "Error processing request : cause - Duplicate ticker id" ""'
    recorded = run(in_session(one(), tmp_path, minutes=2, faults=faults))
    day = sound(recorded)
    old, new = (r["req_id"] for r in subscribed(day, Stream.L1))
    assert (cancelled(day, Stream.L1), old != new) == ([old], True)
    assert day.frame(Kind.TICK)["req_id"].to_list()[-1] == new


def test_what_the_gateway_may_hold_is_cancelled_first(tmp_path: Path) -> None:
    """After 10225 the old bars are cancelled before the new ones are asked for: one stream flows, not two."""
    day = sound(run(lockstep(one(), Home(tmp_path), minutes=3, faults="+60 ACME:bars_5s error 10225")))
    rows = [r for r in day.table(Kind.REQUEST).to_pylist() if r["stream"] == Stream.BARS_5S]
    assert [r["action"] for r in rows] == [Action.SUBSCRIBE, Action.CANCEL, Action.SUBSCRIBE]
    assert rows[0]["req_id"] == rows[1]["req_id"] != rows[2]["req_id"]
    bars = day.frame(Kind.BAR)
    assert set(bars.filter(bars["seq"] > rows[2]["seq"])["req_id"].to_list()) == {rows[2]["req_id"]}
    assert bars["time"].n_unique() == len(bars), "no bar twice"


def test_rows_before_a_refusal_do_not_bring_it_back(tmp_path: Path) -> None:
    """Rows of the same second and commit, but before the error, are no proof that the stream flows."""
    faults = "+92.9 ACME:l1 refuse 354\n+92.9 ACME:l1 error 354"
    recorded = run(in_session(one(), tmp_path, minutes=2, faults=faults))
    day = sound(recorded)
    ids = [r["req_id"] for r in subscribed(day, Stream.L1)]
    assert len(ids) == len(set(ids)), "no request was written that nobody sent"
    ticks = day.frame(Kind.TICK)
    refused_at = next(n["ts_recv"] for n in day.table(Kind.NOTICE).to_pylist() if n["code"] == 354)
    second = ticks.filter(ticks["ts_recv"] // SECOND == refused_at // SECOND)
    assert len(second), "the second of the error has rows before it"
    assert state(recorded, "ACME", "l1") == "refused 354"


def test_one_bad_generic_tick_costs_that_tick(tmp_path: Path) -> None:
    """321 with the list of legal ticks: asked again without the illegal one; later requests leave it out at once."""
    given = {"minutes": 2, "generic_ticks": "233,999,375", "faults": "+60 * error 1100\n+62 * error 1101"}
    recorded = run(lockstep(model(), Home(tmp_path), **given))
    day = sound(recorded)
    lists = [json.loads(r["params"])["generic"] for r in subscribed(day, Stream.L1)]
    assert lists[0] == "233,999,375"
    assert set(lists[3:]) == {"233,375"}
    assert {state(recorded, symbol, "l1") for symbol in ("ACME", "BOLT", "CRUX")} == {"granted"}
    assert 48 in day.frame(Kind.TICK)["field"].to_list(), "RTVolume (233) flows"


def test_a_321_without_a_readable_list_ends_with_fewer_ticks(tmp_path: Path) -> None:
    """In another language: half of the ticks, then none; a 321 without ticks to leave out is final."""
    faults = '+0 ACME:l1 refuse 321:2 "Ungültige Anfrage"'
    recorded = run(lockstep(one(), Home(tmp_path / "two"), minutes=1, faults=faults))
    lists = [json.loads(r["params"])["generic"] for r in subscribed(sound(recorded), Stream.L1)]
    assert lists == ["233,375", "233", ""]
    assert state(recorded, "ACME", "l1") == "granted"
    recorded = run(lockstep(one(), Home(tmp_path / "all"), minutes=2, faults=faults.replace(":2", "")))
    assert len(subscribed(sound(recorded), Stream.L1)) == 3
    assert state(recorded, "ACME", "l1") == "refused 321"


PORT = "TWS socket port has been reset and this connection is being dropped. Please reconnect on the new port - {}"


@pytest.mark.parametrize(
    ("faults", "attempts", "words"),
    [
        ("+60 * port", 1, "the gateway changes its port"),
        (f'+60 * message 4 2 -1 1300 "{PORT.format(1)}" ""\n+60 * drop', 2, "the gateway changes its port"),
        (
            '+60 * message 4 2 -1 1300 "reconnect on 10.9.9.9:1" ""\n+60 * drop',
            1,
            "the gateway names another host; it is not tried",
        ),
    ],
)
def test_an_announced_port_is_tried_once(tmp_path: Path, faults: str, attempts: int, words: str) -> None:
    """A new port is shown and tried once; if nobody is there the old one is; a port on another host is only shown."""
    with structlog.testing.capture_logs() as lines:
        day = sound(run(lockstep(one(), Home(tmp_path), minutes=2, faults=faults)))
    assert set(day.frame(Kind.TICK)["epoch"].to_list()) == {1, 2}
    assert [line["attempts"] for line in lines if line["event"] == "reconnected"] == [attempts]
    assert [line["port"] > 0 for line in lines if line["event"] == words] == [True]
    assert codes.PORT_CHANGED in {n["code"] for n in day.table(Kind.NOTICE).to_pylist()}


def test_a_new_date_describes_its_instruments_though_the_look_up_was_lost(tmp_path: Path) -> None:
    """The look-up that repeats a contract in the next date's log gets no answer: it is repeated after 2104."""
    market = one()
    local = market.start_ns // SECOND + 90 - 4 * 3600  # New York in July
    day_start = f"{local // 3600 % 24:02d}:{local // 60 % 60:02d}"
    faults = "+30 ACME:contract swallow 1\n+110 * error 2104"
    recorded = run(lockstep(market, Home(tmp_path), minutes=3, day_start=day_start, faults=faults))
    first, second = (recorded.day(str(found.trading_date)) for found in recorded.summary.runs)
    asked_again = [r for r in second.table(Kind.REQUEST).to_pylist() if r["stream"] == Stream.CONTRACT]
    assert len(asked_again) == 2
    assert first.frame(Kind.CONTRACT)["symbol"].to_list() == second.frame(Kind.CONTRACT)["symbol"].to_list() == ["ACME"]
