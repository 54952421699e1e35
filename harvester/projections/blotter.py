"""The tables trading hands out, and the one place that writes their rows: decisions, fills, episodes.

Every row enters a chained hash, so the hash after n rows is plain text and can be part of a snapshot.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
Array = npt.NDArray[Any]


class Watched(NamedTuple):
    """Decisions to do nothing, in order.

    Attributes:
        seq, ts: of the clocks they were taken on, int64.
        bucket_ts: start of the bucket each rests on, ns UTC, int64.
        kind: by row its place in `kinds`, ...
        kinds: ... (con_id, symbol, strategy, digest, action, gates joined by |); it may grow behind.
    """

    seq: Array
    ts: Array
    bucket_ts: Array
    kind: list[int]
    kinds: Sequence[tuple[int, str, str, str, str, str]]


class Blotter:
    """Rows in the order in which things happened."""

    def __init__(self, chain: str = "") -> None:
        self._chain = chain
        self._new: list[tuple[str, tuple[Any, ...]]] = []  # (table, row or `Watched`): those the chain does not cover
        self._rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TABLES}
        self._decisions = _Decisions()

    @property
    def chain(self) -> str:
        """Hash over every row written so far, 32 hex digits; empty when there is none."""
        chain, digest, encode = self._chain, hashlib.blake2b, _encode
        for table, row in self._new:
            for one in _singly(row) if isinstance(row, Watched) else (row,):
                chain = digest(encode((chain, table, one)), digest_size=16).hexdigest()
        self._chain, self._new = chain, []
        return chain

    def take(self) -> dict[str, pa.RecordBatch]:
        """Rows written since the last call, by table; a table without rows is left out."""
        self._chain = self.chain
        taken, self._rows = self._rows, {name: [] for name in TABLES}
        made = {"decisions": self._decisions.table(taken["decisions"])} if taken["decisions"] else {}
        return made | {name: _batch(TABLES[name], taken[name]) for name in ("fills", "episodes") if taken[name]}

    def watched(self, rows: Watched) -> None:
        """Strategies did nothing."""
        self._rows["decisions"].append(rows)
        self._new.append(("decisions", rows))

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
        self._new.append((table, row))


def _who(position: Position) -> tuple[int, str, str, str]:
    return position.con_id, position.symbol, position.strategy, position.strategy_digest


def _singly(rows: Watched) -> Iterator[tuple[Any, ...]]:
    """Rows of `DECISIONS`."""
    kinds, numbers = rows.kinds, (rows.seq, rows.ts, rows.bucket_ts)
    for seq, ts, bucket_ts, kind in zip(*(column.tolist() for column in numbers), rows.kind, strict=True):
        yield seq, ts, bucket_ts, *kinds[kind], *_NOTHING


def _batch(schema: pa.Schema, rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(values, type=f.type) for values, f in zip(columns, schema, strict=True)], schema=schema
    )


class _Decisions:
    """Makes the table of decisions; the texts that come again and again are kept as Arrow holds them."""

    def __init__(self) -> None:
        self._known: Sequence[tuple[Any, ...]] = ()
        self._kinds: list[pa.Array] = []  # a column each of the first `_length` of `_known`
        self._length = 0

    def table(self, pieces: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
        """The table of single rows and of `Watched` ones, in their order."""
        watched = [piece for piece in pieces if isinstance(piece, Watched)]
        singles = [piece for piece in pieces if not isinstance(piece, Watched)]
        if not singles or not watched:
            return self._watched(watched) if watched else _batch(DECISIONS, singles)
        tables = (self._watched(watched), _batch(DECISIONS, singles))
        done, parts = [0, 0], []
        for piece in pieces:
            which, n = (0, len(piece.seq)) if isinstance(piece, Watched) else (1, 1)
            parts.append(tables[which].slice(done[which], n))
            done[which] += n
        return pa.concat_batches(parts)

    def _watched(self, watched: Sequence[Watched]) -> pa.RecordBatch:
        kinds = watched[0].kinds
        if kinds is not self._known or len(kinds) > self._length:
            self._known, self._length = kinds, len(kinds)
            values = zip(*kinds, strict=True)
            self._kinds = [pa.array(column, field.type) for column, field in zip(values, _KIND_FIELDS, strict=True)]
        kind = pa.array(np.array([k for rows in watched for k in rows.kind], np.int64))
        numbers = [_joined([getattr(rows, name) for rows in watched]) for name in ("seq", "ts", "bucket_ts")]
        columns = [pa.array(numbers[0].view(np.uint64)), pa.array(numbers[1]), pa.array(numbers[2])]
        columns += [texts.take(kind) for texts in self._kinds]
        return pa.RecordBatch.from_arrays([*columns, *(pa.nulls(len(kind), t) for t in _REST)], schema=DECISIONS)


def _joined(arrays: Sequence[Array]) -> Array:
    return np.ascontiguousarray(arrays[0]) if len(arrays) == 1 else np.concatenate(arrays)


_KIND_FIELDS = list(DECISIONS)[3:9]
_REST = [field.type for field in DECISIONS][9:]
