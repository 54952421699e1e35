"""A small log written by hand: one call per event, ready to fold."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.projections.engine import Engine

if TYPE_CHECKING:
    from harvester.eventlog.reader import Day

SECOND = 1_000_000_000
START = 1_752_759_000 * SECOND  # 2025-07-17 13:30:00 UTC, 09:30 in New York


class Log:
    """Events in order; `at` is seconds after `START`. `fold` passes new events to the engine."""

    def __init__(self) -> None:
        self.engine = Engine(market_only=True)
        self.pending: list[tuple[Kind, dict[str, Any]]] = []
        self.next_seq = 1
        self.requests: dict[int, tuple[int, str]] = {}
        self.epoch = 1
        self.now = START
        self.buckets: list[dict[str, Any]] = []

    def add(self, kind: Kind, at: float | None = None, **row: Any) -> int:
        if at is not None:
            self.now = START + round(at * SECOND)
        self.pending.append((kind, {"ts_recv": self.now, "epoch": self.epoch, **row}))
        return self.next_seq + len(self.pending) - 1

    def run_start(self, at: float | None = None) -> Log:
        self.add(Kind.REQUEST, at, action="run_start", stream="run", params="{}")
        return self

    def subscribe(
        self, req: int, stream: str, con_id: int = 7, params: str = '{"rows":10}', at: float | None = None
    ) -> Log:
        self.requests[req] = (con_id, stream)
        self.add(
            Kind.REQUEST, at, action="subscribe", stream=stream, symbol=f"S{con_id}", con_id=con_id, req_id=req,
            params=params,
        )  # fmt: skip
        return self

    def cancel(self, req: int, at: float | None = None) -> int:
        return self.add(Kind.REQUEST, at, action="cancel", stream=self.requests[req][1], req_id=req, params="{}")

    def notice(self, code: int | None, at: float | None = None, **row: Any) -> int:
        return self.add(Kind.NOTICE, at, **({"code": code, "msg": 4 if (code or 0) > 0 else None, "text": ""} | row))

    def hot(self, kind: Kind, req: int, at: float | None = None, **row: Any) -> int:
        return self.add(kind, at, req_id=req, con_id=self.requests[req][0], **row)

    def depth(self, req: int, text: str, at: float | None = None) -> None:
        """Rows like `insert 0 bid 10.00 300 ARCA`, one a line; the market maker may be left out."""
        operations = {"insert": 0, "update": 1, "delete": 2}
        for line in text.strip().splitlines():
            operation, position, side, price, size, *maker = line.split()
            self.hot(
                Kind.DEPTH, req, at, msg=12, operation=operations.get(operation, 9), position=int(position),
                side={"ask": 0, "bid": 1}.get(side, 5), price=float(price), size=float(size),
                market_maker=maker[0] if maker else None,
            )  # fmt: skip

    def quote(
        self, req: int, bid: float, ask: float, bid_size: float = 100, ask_size: float = 100, *, at: float | None = None
    ) -> int:
        return self.hot(Kind.QUOTE, req, at, stream=3, bid=bid, ask=ask, bid_size=bid_size, ask_size=ask_size)

    def tick(
        self, req: int, field: int, number: float | None = None, size: float | None = None, at: float | None = None
    ) -> int:
        if field in (1, 2, 4):
            return self.hot(Kind.TICK, req, at, msg=1, field=field, price=number, size=size)
        return self.hot(Kind.TICK, req, at, msg=2, field=field, size=number)

    def trade(self, req: int, price: float, size: float = 100, at: float | None = None, **flags: bool) -> int:
        flags = {"past_limit": False, "unreported": False} | flags
        return self.hot(Kind.TRADE, req, at, stream=2, price=price, size=size, **flags)

    def clock(self, at: float) -> int:
        return self.add(Kind.CLOCK, at, wall_ns=START, mono_ns=0)

    def fold(self) -> list[dict[str, Any]]:
        """Fold new events; returns the bucket rows they closed."""
        batch = Batch.of(self.pending, self.next_seq).check()
        self.next_seq += len(self.pending)
        self.pending = []
        out = self.engine.fold(batch)
        self.engine.check()
        rows = out["buckets"].to_pylist() if "buckets" in out.tables else []
        self.buckets += rows
        return rows


class Written:
    """The surface of a day that reconciliation reads, over rows written by hand."""

    def __init__(self, rows: list[tuple[Kind, dict[str, Any]]]) -> None:
        self.batch = Batch.of(rows, 1).check()
        self.rows = len(rows)

    def day(self) -> Day:
        return self  # type: ignore[return-value]

    def batches(self, _rows_max: int | None, cuts: list[int]) -> Any:
        edges = [0, *[c for c in cuts if c < self.batch.last_seq], self.batch.last_seq]
        return [self.batch.slice(a + 1, b) for a, b in pairwise(edges)]

    def frame(self, kind: Kind) -> Any:
        import polars as pl
        import pyarrow as pa

        from harvester.events.kinds import SCHEMAS

        found = self.batch.tables.get(kind)
        return pl.from_arrow(pa.Table.from_batches([found] if found is not None else [], SCHEMAS[kind]))
