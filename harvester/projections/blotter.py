"""The tables trading hands out, and the one place that writes their rows: decisions, fills, episodes.

Every row enters a chained hash, so the hash after n rows is plain text and can be part of a snapshot.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.projections.exchange import Fill
    from harvester.projections.position import Position

_U64, _I64, _F64, _TEXT, _BOOL = pa.uint64(), pa.int64(), pa.float64(), pa.string(), pa.bool_()

EPISODES = pa.schema(
    [
        ("trading_date", _TEXT),
        ("symbol", _TEXT),
        ("strategy", _TEXT),
        ("strategy_digest", _TEXT),
        ("mode", _TEXT),
        ("decision_seq", _U64),
        ("trade_id", _TEXT),
        ("con_id", _I64),
        ("side", _TEXT),
        ("quantity", _I64),
        ("taken", _BOOL),
        ("decision_ts", _I64),
        ("entry_ts", _I64),
        ("entry_price", _F64),
        ("exit_ts", _I64),
        ("exit_price", _F64),
        ("exit_seq", _U64),
        ("entry_reason", _TEXT),
        ("exit_reason", _TEXT),
        ("pnl_usd", _F64),
        ("r_multiple", _F64),
        ("mae", _F64),
        ("mfe", _F64),
        ("hold_seconds", _F64),
        ("win_loss", _TEXT),
        ("data_type", _I64),  # of the market data it rests on: 1 live, null = never told
        ("document", _TEXT),  # the whole episode as JSON, times int ns UTC
    ]
)

FILLS = pa.schema(
    [
        ("seq", _U64),
        ("ts", _I64),
        ("con_id", _I64),
        ("symbol", _TEXT),
        ("strategy", _TEXT),
        ("strategy_digest", _TEXT),
        ("decision_seq", _U64),
        ("role", _TEXT),  # entry, stop, target, exit
        ("side", _TEXT),
        ("price", _F64),
        ("quantity", _I64),
        ("source", _TEXT),
        ("reference", _TEXT),
        ("reference_price", _F64),
        ("slippage", _F64),
        ("commission", _F64),
    ]
)

DECISIONS = pa.schema(
    [
        ("seq", _U64),  # of the clock it was taken on
        ("ts", _I64),
        ("bucket_ts", _I64),  # start of the newest bucket it rests on
        ("con_id", _I64),
        ("symbol", _TEXT),
        ("strategy", _TEXT),
        ("strategy_digest", _TEXT),
        ("action", _TEXT),  # none, enter, exit, unfilled
        ("gate_codes", _TEXT),  # refusals joined by |, empty = allowed
        ("reason", _TEXT),
        ("decision_seq", _U64),  # of the entry decision this row is about
        ("side", _TEXT),
        ("quantity", _I64),
        ("reference_price", _F64),
        ("stop", _F64),
        ("target", _F64),
        ("features", _TEXT),
    ]
)

TABLES: dict[str, pa.Schema] = {"decisions": DECISIONS, "fills": FILLS, "episodes": EPISODES}
_NOTHING = (None,) * 8
_encode = msgspec.msgpack.Encoder().encode


class Blotter:
    """Rows in the order in which things happened."""

    def __init__(self, chain: str = "") -> None:
        self.chain = chain
        self._rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TABLES}

    def take(self) -> dict[str, pa.RecordBatch]:
        """Rows written since the last call, by table; a table without rows is left out."""
        taken, self._rows = self._rows, {name: [] for name in TABLES}
        return {name: _batch(TABLES[name], rows) for name, rows in taken.items() if rows}

    def watched(
        self, at: tuple[int, int], bucket_ts: int, who: tuple[int, str, str, str], gates: Sequence[str]
    ) -> None:
        """A strategy did nothing about a symbol; `at` = (seq, ts), `who` = (con_id, symbol, strategy, digest)."""
        self._write("decisions", (*at, bucket_ts, *who, "none", "|".join(gates), *_NOTHING))

    def decided(
        self,
        position: Position,
        action: str,
        reason: str,
        *,
        at: tuple[int, int],
        bucket_ts: int | None,
        price: float | None,
    ) -> None:
        """Something was done about a position: `enter`, `exit` or `unfilled`; `price` is the quote it was judged by."""
        plan = position.plan
        leaving = action == "exit"
        row = (
            *at,
            bucket_ts,
            *_who(position),
            action,
            "|".join(position.gate_codes),
            reason,
            position.decision_seq,
            "BUY" if plan.long != leaving else "SELL",
            position.open if leaving else plan.quantity,
            price,
            plan.stop,
            plan.target,
            msgspec.json.encode(plan.features).decode(),
        )
        self._write("decisions", row)

    def filled(self, position: Position, role: str, fill: Fill) -> None:
        """One execution."""
        row = (
            fill.seq,
            fill.ts,
            *_who(position),
            position.decision_seq,
            role,
            fill.side,
            fill.price,
            fill.quantity,
            fill.source,
            fill.reference,
            fill.reference_price,
            fill.slippage,
            fill.commission,
        )
        self._write("fills", row)

    def finished(self, row: tuple[Any, ...]) -> None:
        """One episode, a row of `EPISODES`."""
        self._write("episodes", row)

    def _write(self, table: str, row: tuple[Any, ...]) -> None:
        assert len(row) == len(TABLES[table]), f"{table}: {len(row)} values for {len(TABLES[table])} columns"
        self._rows[table].append(row)
        self.chain = hashlib.blake2b(_encode((self.chain, table, row)), digest_size=16).hexdigest()


def _who(position: Position) -> tuple[int, str, str, str]:
    return position.con_id, position.symbol, position.strategy, position.strategy_digest


def _batch(schema: pa.Schema, rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(values, type=f.type) for values, f in zip(columns, schema, strict=True)], schema=schema
    )
