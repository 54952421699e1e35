"""A small recorded day on which the first strategy trades: seeded, two symbols, written through the real log writer."""

from __future__ import annotations

import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from harvester.calendar import session
from harvester.config import Settings
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.kinds import Kind, TickStream
from harvester.home import Home
from harvester.projections.run_params import RunParams, StrategyRef
from harvester.projections.trading.strategies import describe

DATE = date(2025, 7, 17)
SECOND = 1_000_000_000
SYMBOLS = {"AAA": 101, "BRK B": 102}
Rows = list[tuple[Kind, dict[str, Any]]]


def run_params(day: date = DATE, **strategy: Any) -> RunParams:
    settings = Settings()
    ref = StrategyRef(**describe("imbalance_breakout", strategy))
    return RunParams.build(settings, day, strategies=[ref])


def market(day: date = DATE, seconds: int = 900, seed: int = 1, start: int = 1800) -> Rows:
    """Quotes, prints and clocks from `start` seconds after the open: a quiet market with pushes in one direction."""
    opens = session(day).open_ns + start * SECOND
    rng = random.Random(f"{seed}-{day}")
    prices = {con_id: 5000 + 1000 * k for k, con_id in enumerate(SYMBOLS.values())}
    rows: Rows = []
    for second in range(seconds):
        ts = opens + second * SECOND
        phase = second % 200
        push = (1 if (second // 200 + seed) % 2 else -1) if 120 <= phase < 160 else 0
        for part, (k, con_id) in [(part, one) for part in range(2) for one in enumerate(SYMBOLS.values())]:
            prices[con_id] += push * rng.choice((1, 2)) if push else rng.choice((-1, 0, 0, 1))
            bid = prices[con_id] / 100
            lean = (900, 200) if push > 0 else (200, 900) if push < 0 else (500, 500)
            common = {"ts_recv": ts + (part * 2 + k) * SECOND // 5 + 1, "con_id": con_id, "epoch": 1}
            quote = {"stream": int(TickStream.BID_ASK), "bid": bid, "ask": round(bid + 0.01, 2)}
            quote |= {"bid_size": float(lean[0]), "ask_size": float(lean[1]), "attribs": 0}
            rows.append((Kind.QUOTE, common | quote | {"req_id": 10 + k}))
            trade = {"stream": int(TickStream.ALL_LAST), "price": bid, "size": 100.0, "attribs": 0}
            trade |= {"past_limit": False, "unreported": False}
            rows.append((Kind.TRADE, common | trade | {"req_id": 20 + k}))
        end = ts + SECOND
        rows.append((Kind.CLOCK, {"ts_recv": end, "wall_ns": end, "mono_ns": end}))
    return rows


def subscriptions(ts: int, data_type: int = 1) -> Rows:
    rows: Rows = []
    for k, (symbol, con_id) in enumerate(SYMBOLS.items()):
        common = {"ts_recv": ts, "con_id": con_id, "epoch": 1}
        for base, stream in ((10, "bid_ask"), (20, "all_last")):
            ask = {"action": "subscribe", "stream": stream, "symbol": symbol, "params": "{}"}
            rows.append((Kind.REQUEST, common | ask | {"req_id": base + k}))
        rows.append((Kind.NOTICE, common | {"msg": 58, "value": data_type, "req_id": 10 + k}))
    return rows


def record(
    home: Home,
    day: date = DATE,
    *,
    runs: int = 1,
    data_type: int = 1,
    reason: str = "end of recording",
    params: RunParams | None = None,
    **kwargs: Any,
) -> None:
    """Write the day, cut into runs of equal length; no later run is subscribed before its start."""
    text = (params or run_params(day)).text()
    rows = market(day, **kwargs)
    size = len(rows) // runs + 1
    for part in (rows[i : i + size] for i in range(0, len(rows), size)):
        ts = part[0][1]["ts_recv"]
        with LogWriter.open(home.on(day), run_start_row={"params": text}, reopen=True) as writer:
            writer.begin(ts)
            events = [*subscriptions(ts, data_type), *part]
            last = events[-1][1]["ts_recv"]
            end = {"action": "run_end", "stream": "run", "params": f'{{"reason":"{reason}"}}', "ts_recv": last}
            events.append((Kind.REQUEST, end))
            for i in range(0, len(events), 500):
                writer.commit(Batch.of(events[i : i + 500], writer.next_seq))


def killed_run(home: Home, day: date, file: str, torn: bytes) -> Path:
    """Continue a date by a run of one event that was killed while it wrote `torn` to a file; returns its folder."""
    with LogWriter.open(home.on(day), run_start_row={"params": run_params(day).text()}, reopen=True) as writer:
        writer.begin(0)
        writer.abandon()
    with (writer.folder / file).open("ab") as written:
        written.write(torn)
    return writer.folder


def days(count: int) -> list[date]:
    """Session dates from DATE on."""
    found, day = [], DATE
    while len(found) < count:
        if session(day) is not None:
            found.append(day)
        day += timedelta(days=1)
    return found
