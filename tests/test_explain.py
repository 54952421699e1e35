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
    moves = {3: lambda: log.quote(1, 10.00, 10.02, 500, 400, at=3.3), 6: lambda: log.quote(1, 9.94, 9.96, at=6.4)}
    moves[8] = lambda: log.quote(1, 10.00, 10.02, 500, 500, at=8.2)
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


def hv(home: Home, *words: str) -> str:
    line = [*words, "--home", str(home.root), "--date", str(DATE)]
    done = CliRunner().invoke(app, line, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def story(home: Home, *words: str) -> dict:
    return json.loads(hv(home, "explain", *words, "--json"))


def test_print(home):
    print(hv(home, "episodes"))
    print(hv(home, "episodes", "--json"))
    print(hv(home, "explain", "T133006_001"))
    print(hv(home, "explain", "S7/T133018_002"))
    print(hv(home, "explain", "S7/09:30:30"))
    print(hv(home, "explain", "--symbol", "s8", "--seq", "22"))
    raise SystemExit
