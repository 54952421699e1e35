"""Record from a simulated gateway in one process, in lockstep: what the tests of the recorder share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from harvester.clock import LockstepClock
from harvester.config import Settings
from harvester.eventlog.reader import Day, open_day
from harvester.events.kinds import Kind
from harvester.files import Disk
from harvester.projections.engine import Engine
from harvester.recorder.record import Recorder, record
from harvester.recorder.summary import RecordingSummary
from harvester.simgateway.fault_script import FaultScript
from harvester.simgateway.gateway_report import TEXTS, exact_sum, text_sum
from harvester.simgateway.gateway_settings import GatewaySettings
from harvester.simgateway.limits import Limits
from harvester.simgateway.markets.open_market import open_market
from harvester.simgateway.server import SimGateway
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO
    from pathlib import Path

    from harvester.home import Home
    from harvester.simgateway.markets.market_source import MarketSource


class QuickDisk(Disk):
    """Writes without waiting for the medium: for tests in which power does not fail."""

    def fsync(self, file: FileIO) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


@dataclass
class Recorded:
    """One recording and the gateway's report."""

    home: Home
    summary: RecordingSummary
    report: dict[str, Any]
    notes: list[Any] = field(default_factory=list)

    def day(self, trading_date: str = "2025-07-17") -> Day:
        return open_day(trading_date, self.home)


def model(**settings: Any) -> MarketSource:
    """A small modelled morning."""
    given = {"seed": 5, "symbols": ("ACME", "BOLT", "CRUX"), "extended_minutes": 2} | settings
    return open_market("model", **given)


def hurried(tape: Path, target: Path, pause_s: float = 2.0) -> Path:
    """A copy of a tape with the same rows in the same order, and no longer pauses than this; returns `target`."""
    tables = {path.name: pl.read_parquet(path) for path in tape.glob("*.parquet")}
    times = pl.concat([table["ts"] for table in tables.values()]).unique().sort()
    pauses = times.diff().fill_null(0).clip(0, round(pause_s * SECOND_NS))
    hurry = pl.DataFrame({"ts": times, "sooner": pauses.cum_sum() + times[0]})
    target.mkdir()
    for name, table in tables.items():
        moved = table.join(hurry, on="ts", maintain_order="left").with_columns(ts="sooner").drop("sooner")
        moved.write_parquet(target / name)
    return target


def run(scenario: Any) -> Any:
    return asyncio.run(scenario)


async def lockstep(
    market: MarketSource,
    home: Home,
    *,
    minutes: float = 10.0,
    faults: str = "",
    limits: Limits | None = None,
    start_ns: int | None = None,
    disk: Disk | None = None,
    watch: Callable[[Recorder], None] | None = None,
    accounts: tuple[str, ...] = ("DU1234567",),
    **settings: Any,
) -> Recorded:
    """Serve `minutes` of a market and record them and two seconds more, both on one market clock."""
    begin = start_ns or market.start_ns
    clock = LockstepClock(begin)
    end = begin + round(minutes * 60 * SECOND_NS)
    gateway_settings = GatewaySettings(
        port=0,
        faults=FaultScript.parse(faults),
        limits=limits or Limits(),
        start_ns=begin,
        end_ns=end,
        accounts=accounts,
        grace_s=0.0,
    )
    gateway = SimGateway(market, gateway_settings, clock)
    port = await gateway.start()
    time = asyncio.create_task(clock.run())
    given = {
        "port": port,
        "symbols": [i.symbol for i in market.instruments],
        "commit_seconds": 30,
        "digest_seconds": 120,
        "skip_historical_backfill": True,
        "disk_margin_bytes": 1,
    }
    made = Settings.load(given | settings)
    try:
        summary = await record(made, home, clock, until_ns=end + 2 * SECOND_NS, disk=disk or QuickDisk(), watch=watch)
    finally:
        time.cancel()
        report = await gateway.stop()
    return Recorded(home, summary, report)


FLAGS: dict[Kind, tuple[tuple[str, int], ...]] = {
    Kind.TRADE: (("past_limit", 0), ("unreported", 1)),
    Kind.QUOTE: (("past_low", 0), ("past_high", 1)),
}
"""Columns that are a bit of `attribs`, with the bit."""

SUMMED: dict[Kind, tuple[str, ...]] = {
    Kind.TICK: ("field", "price", "size", "value", "attribs"),
    Kind.TRADE: ("seconds", "price", "size", "attribs"),
    Kind.QUOTE: ("seconds", "bid", "ask", "bid_size", "ask_size", "mid", "attribs"),
    Kind.DEPTH: ("position", "operation", "side", "price", "size", "smart"),
    Kind.BAR: ("open", "high", "low", "close", "volume", "wap", "count"),
}


def recorded_sums(day: Day) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows, exact sums of numbers, and the sum of texts per kind and symbol, of streamed kinds."""
    symbols = {row["con_id"]: row["symbol"] for row in day.table(Kind.CONTRACT).to_pylist()}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, columns in SUMMED.items():
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in day.table(kind).to_pylist():
            rows.setdefault(symbols.get(row["con_id"], ""), []).append(row)
            if "seconds" in columns and row["ts_event"] is not None:
                assert row["ts_event"] % SECOND_NS == 0, row
                row["seconds"] = row["ts_event"] // SECOND_NS
        for symbol, mine in rows.items():
            sums = {column: exact_sum(row.get(column) for row in mine) for column in columns}
            entry = found.setdefault(kind.value, {})[symbol] = {"rows": len(mine), "sums": sums}
            if kind in TEXTS:
                entry["texts"] = text_sum([row[column] for column in TEXTS[kind]] for row in mine)
            check_flags(mine, FLAGS.get(kind, ()))
    return found


def check_flags(rows: list[dict[str, Any]], flags: tuple[tuple[str, int], ...]) -> None:
    """Assert that every flag equals its bit of `attribs`, and is null where `attribs` is."""
    for row in rows:
        for name, bit in flags:
            assert row[name] is (None if row["attribs"] is None else bool(row["attribs"] >> bit & 1)), (name, row)


def check_nothing_lost(recorded: Recorded, day: Day) -> int:
    """Assert that rows and values per kind and symbol equal the gateway's report; returns the number of rows."""
    mine, compared = recorded_sums(day), 0
    for kind in SUMMED:
        sent = recorded.report["sent"].get(kind.value, {})
        assert set(mine.get(kind.value, {})) == set(sent), kind
        for symbol, expected in sent.items():
            found = mine[kind.value][symbol]
            assert found["rows"] == expected["rows"], (kind, symbol)
            compared += expected["rows"]
            for column, total in expected["sums"].items():
                assert found["sums"][column] == total, (kind, symbol, column)
            assert found.get("texts") == expected.get("texts"), (kind, symbol)
    for kind in (Kind.NOTICE, Kind.END, Kind.CONTRACT):
        sent_rows = sum(entry["rows"] for entry in recorded.report["sent"].get(kind.value, {}).values())
        rows = [row for row in day.table(kind).to_pylist() if row["msg"] is not None]
        assert len(rows) == sent_rows, kind
    sent_raw = sum(entry["rows"] for entry in recorded.report["sent"].get("raw", {}).values())
    raw = [row for row in day.table(Kind.RAW).to_pylist() if row["reason"] not in {"sent", "copy"}]
    assert len(raw) == sent_raw
    return compared


def replayed_digests(day: Day, rows_max: int | None = None) -> dict[str, str]:
    """Digests of a fresh engine over the log."""
    engine = Engine()
    for batch in day.batches(rows_max=rows_max):
        engine.fold(batch)
    return engine.digests()


def check_live_equals_replay(day: Day) -> int:
    """Assert every live digest line against a replay up to its seq; returns their number."""
    lines = sorted(day.live_digests(), key=lambda line: line[1])
    engine, seen = Engine(), 0
    wanted = [line[1] for line in lines]
    for batch in day.batches(cuts=wanted):
        engine.fold(batch)
        for _, seq, digests in lines:
            if seq == batch.last_seq:
                assert engine.digests() == digests, f"seq {seq}"
                seen += 1
    assert seen == len(lines)
    return seen
