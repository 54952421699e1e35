"""The tables of trading, and the one place that writes their rows: decisions, fills, episodes.

Every row enters a chained hash, so the hash after n rows is plain data and can be part of a snapshot. Decisions to do
nothing are by far the most frequent and have their own chain, with one link for many rows.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from harvester.projections.base import chained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.projections.trading.position import Position
    from harvester.projections.trading.simulated_exchange import Fill

_U64, _I64, _F64, _TEXT, _BOOL = pa.uint64(), pa.int64(), pa.float64(), pa.string(), pa.bool_()


def _schema(*columns: tuple[str, pa.DataType, str, str]) -> pa.Schema:
    """From name, type, unit, formula; a trailing ! means never null."""
    return pa.schema([
        pa.field(name.rstrip("!"), kind, nullable=not name.endswith("!"), metadata={"unit": unit, "formula": formula})
        for name, kind, unit, formula in columns
    ])  # fmt: skip


EPISODES = _schema(
    ("trading_date!", _TEXT, "", "date in New York, yyyy-MM-dd"),
    ("symbol!", _TEXT, "", "symbol of the subscription"),
    ("strategy!", _TEXT, "", "name of the strategy"),
    ("strategy_digest!", _TEXT, "", "hash of its source and settings"),
    ("mode!", _TEXT, "", "event: folded event by event; bars: from bars"),
    ("decision_seq!", _U64, "seq", "the clock the entry was decided on"),
    ("trade_id!", _TEXT, "", "name of the trade within its date; of its files too"),
    ("con_id!", _I64, "", "IBKR instrument id"),
    ("side!", _TEXT, "", "LONG or SHORT"),
    ("quantity!", _I64, "shares", "sum over the fills of the entry"),
    ("taken!", _BOOL, "", "false: vetoed, so it trains and is no profit or loss"),
    ("decision_ts!", _I64, "ns UTC", "ts_recv of decision_seq"),
    ("entry_ts!", _I64, "ns UTC", "ts_recv of the first fill"),
    ("entry_price!", _F64, "USD", "sum(price * quantity) / sum(quantity) over the fills of the entry"),
    ("exit_ts!", _I64, "ns UTC", "ts_recv of the last fill, or of the last event when the data ended before"),
    (
        "exit_price",
        _F64,
        "USD",
        "as entry_price, of the fills that left; DATA_END: the last good quote; null without one",
    ),
    ("exit_seq!", _U64, "seq", "the event of exit_ts"),
    ("entry_reason!", _TEXT, "", "why the strategy entered"),
    ("exit_reason!", _TEXT, "", "what ended it: its stop, target, time, the session, another run, DATA_END"),
    ("pnl_usd!", _F64, "USD", "(exit - entry) * quantity, mirrored when SHORT, - sum(commission)"),
    ("r_multiple", _F64, "1", "pnl_usd / (risk a share fixed at the decision * quantity); null without a stop"),
    ("mae!", _F64, "USD", "worst open profit before commission, <= 0"),
    ("mfe!", _F64, "USD", "best open profit before commission, >= 0"),
    ("hold_seconds!", _F64, "s", "exit_ts - entry_ts"),
    ("win_loss!", _TEXT, "", "WIN, LOSS or BREAKEVEN by pnl_usd"),
    (
        "data_type",
        _I64,
        "",
        "of the market data it rests on: 1 live, 2 frozen, 3 delayed, 4 delayed frozen; null: never told",
    ),
    ("unseen_seconds!", _I64, "s", "of the trade, without a clock, or dark: outage, halt, dead stream"),
    ("learned_from!", _BOOL, "", "false: memory leaves it out; the document says why"),
    ("rules!", _I64, "version", "version of the rules of simulated trading"),
    ("kind!", _TEXT, "", "of the data it rests on: unknown, live, paper, model, tape, served or mixed"),
    ("document!", _TEXT, "", "the whole episode as JSON, times int ns UTC"),
)

FILLS = _schema(
    ("seq!", _U64, "seq", "the event it was filled against; of an arrival the newest event counted"),
    ("ts!", _I64, "ns UTC", "ts_recv of seq; of an arrival its time"),
    ("con_id!", _I64, "", "IBKR instrument id"),
    ("symbol!", _TEXT, "", "symbol of the subscription"),
    ("strategy!", _TEXT, "", "name of the strategy"),
    ("strategy_digest!", _TEXT, "", "hash of its source and settings"),
    ("decision_seq!", _U64, "seq", "the clock the entry was decided on"),
    ("role!", _TEXT, "", "entry, stop, target or exit"),
    ("side!", _TEXT, "", "BUY or SELL"),
    ("price!", _F64, "USD", "a buy at the ask, a sell at the bid; a resting limit at its price"),
    ("quantity!", _I64, "shares", "never more than was shown, or printed"),
    ("source!", _TEXT, "", "what filled it: quote, print, or book: a price behind the quote"),
    ("reference!", _TEXT, "", "what slippage is measured against: quote_at_decision, stop_price or limit_price"),
    ("reference_price", _F64, "USD", "price of the reference; null when there was none"),
    ("slippage", _F64, "USD a share", "price - reference_price of a buy, mirrored of a sell: positive is worse"),
    (
        "commission!",
        _F64,
        "USD",
        "by the cost table of the run: what the whole order costs less what it has cost before",
    ),
)

DECISIONS = _schema(
    ("seq!", _U64, "seq", "the clock it was taken on, or the event that ended what it is about"),
    ("ts!", _I64, "ns UTC", "ts_recv of seq"),
    ("bucket_ts", _I64, "ns UTC", "start of the newest bucket it rests on"),
    ("con_id!", _I64, "", "IBKR instrument id"),
    ("symbol!", _TEXT, "", "symbol of the subscription"),
    ("strategy!", _TEXT, "", "name of the strategy"),
    ("strategy_digest!", _TEXT, "", "hash of its source and settings"),
    ("action!", _TEXT, "", "none, enter, exit, change or unfilled"),
    ("gate_codes!", _TEXT, "", "what it was refused for, joined by |; empty = allowed"),
    ("reason", _TEXT, "", "why; null when nothing was done"),
    ("decision_seq", _U64, "seq", "the clock of the entry decision this row is about"),
    ("side", _TEXT, "", "BUY or SELL, of the order"),
    ("quantity", _I64, "shares", "planned; of an exit what is open"),
    (
        "reference_price",
        _F64,
        "USD",
        "quote the order is judged by: ask of a buy, bid of a sell; null without a good one",
    ),
    ("stop", _F64, "USD", "of the plan"),
    ("target", _F64, "USD", "of the plan"),
    ("features", _TEXT, "", "what the strategy rested on, as JSON"),
)

TABLES: dict[str, pa.Schema] = {"decisions": DECISIONS, "fills": FILLS, "episodes": EPISODES}
_LINK = np.dtype([("decision_seq", "<i8"), ("ts", "<i8"), ("bucket_ts", "<i8"), ("kind", "<u8")])
_encode = msgspec.msgpack.Encoder().encode
Array = npt.NDArray[Any]


Kind = tuple[int, str, str, str, str, str]


class Watched(NamedTuple):
    """Decisions to do nothing, in order.

    Attributes:
        seq, ts: of the clocks they were taken on, int64.
        bucket_ts: start of the bucket each rests on, ns UTC, int64.
        kind: by row its place in `kinds`, int64, ...
        kinds: ... (con_id, symbol, strategy, digest, action, gates joined by |); entries may be appended.
    """

    seq: Array
    ts: Array
    bucket_ts: Array
    kind: Array
    kinds: Sequence[Kind]


class TradeRows:
    """Collects rows in the order of events.

    Attributes:
        chains: hash over every row written so far one by one, and over every decision to do nothing.
    """

    def __init__(self, chains: tuple[bytes, bytes] = (b"", b"")) -> None:
        self.chains = chains
        self._rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TABLES}
        self._watched: list[Watched] = []
        self._after: list[int] = []  # by row of `decisions`: how many decisions to do nothing came before it
        self._handed = 0  # decisions to do nothing that were taken
        self._kinds = _Kinds()

    def take(self) -> dict[str, pa.RecordBatch]:
        """Rows written since the last call, by table; a table without rows is left out."""
        taken, self._rows = self._rows, {name: [] for name in TABLES}
        tables = {name: _batch(TABLES[name], rows) for name, rows in taken.items() if rows}
        if self._watched:
            tables["decisions"] = self._merged(self._kinds.table(self._watched), tables.get("decisions"))
        self._watched, self._after = [], []
        return tables

    def _merged(self, watched: pa.RecordBatch, singles: pa.RecordBatch | None) -> pa.RecordBatch:
        """Decisions to do nothing, with the others at their places among them."""
        places = [after - self._handed for after in self._after]
        self._handed += watched.num_rows
        if singles is None:
            return watched
        parts = []
        for one, (begin, end) in enumerate(pairwise([0, *places, watched.num_rows])):
            parts += [watched.slice(begin, end - begin), singles.slice(one, 1)]
        return pa.concat_batches(parts)

    def watched(self, rows: Watched) -> None:
        """Add decisions to do nothing."""
        self._watched.append(rows)
        links = np.empty(len(rows.seq), _LINK)
        columns = (rows.seq, rows.ts, rows.bucket_ts, self._kinds.hashes(rows.kinds)[rows.kind])
        for name, column in zip(_LINK.names or (), columns, strict=True):
            links[name] = column
        self.chains = self.chains[0], chained(self.chains[1], links)

    def decided(
        self,
        position: Position,
        action: str,
        reason: str,
        *,
        at: tuple[int, int],
        after: int,
        bucket_ts: int | None,
        price: float | None,
    ) -> None:
        """Add an action on a position: `enter`, `exit` or `unfilled`; `price` is its reference quote.

        `after`: number of decisions to do nothing before it, since the date began.
        """
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
        self._after.append(after)
        self._write("decisions", row)

    def filled(self, position: Position, role: str, fill: Fill) -> None:
        """Add one execution."""
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
        """Add one episode, a row of `EPISODES`."""
        self._write("episodes", row)

    def _write(self, table: str, row: tuple[Any, ...]) -> None:
        assert len(row) == len(TABLES[table]), f"{table}: {len(row)} values for {len(TABLES[table])} columns"
        self._rows[table].append(row)
        self.chains = _digest(16, self.chains[0], _encode((table, row))), self.chains[1]


def _who(position: Position) -> tuple[int, str, str, str]:
    return position.con_id, position.symbol, position.strategy, position.strategy_digest


def _digest(size: int, *parts: bytes) -> bytes:
    total = hashlib.blake2b(digest_size=size)
    for part in parts:
        total.update(part)
    return total.digest()


def _batch(schema: pa.Schema, rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(values, type=f.type) for values, f in zip(columns, schema, strict=True)], schema=schema
    )


class _Kinds:
    """Texts and hashes of the kinds of decisions to do nothing, cached: few kinds, many decisions."""

    def __init__(self) -> None:
        self._texts: list[pa.Array] = []  # a column each
        self._hashes = np.empty(0, np.uint64)  # the number of a kind is not part of the log, its texts are

    def hashes(self, kinds: Sequence[Kind]) -> Array:
        """A number for each kind that depends only on its texts."""
        new = [_digest(8, _encode(kind)) for kind in kinds[len(self._hashes) :]]
        if new:
            self._hashes = np.append(self._hashes, np.frombuffer(b"".join(new), "<u8"))
        return self._hashes

    def table(self, watched: Sequence[Watched]) -> pa.RecordBatch:
        """Rows of `DECISIONS`."""
        kinds = watched[0].kinds
        if not self._texts or len(kinds) > len(self._texts[0]):
            values = zip(*kinds, strict=True)
            self._texts = [pa.array(column, field.type) for column, field in zip(values, _KIND_FIELDS, strict=True)]
        seq, ts, bucket_ts, kind = (
            pa.array(_joined([getattr(rows, name) for rows in watched])) for name in ("seq", "ts", "bucket_ts", "kind")
        )
        columns = [seq.view(pa.uint64()), ts, bucket_ts, *(texts.take(kind) for texts in self._texts)]
        return pa.RecordBatch.from_arrays([*columns, *(pa.nulls(len(kind), t) for t in _REST)], schema=DECISIONS)


def _joined(arrays: Sequence[Array]) -> Array:
    return np.ascontiguousarray(arrays[0]) if len(arrays) == 1 else np.concatenate(arrays)


_KIND_FIELDS = list(DECISIONS)[3:9]
_REST = [field.type for field in DECISIONS][9:]
