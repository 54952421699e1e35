"""From a finished position to an episode: features before the decision, series, labels.

An episode's document is plain data in the key order of the episode files, with every time as int ns UTC; the artefact
writer converts them to text. Window: `features_pre` holds the buckets entirely between 120 s and 30 s before the
decision, or, when there are none, the last 120 before it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy.typing as npt

from harvester.projections.trading.costs import CostTable  # noqa: TC001 - msgspec resolves the fields when it decodes
from harvester.projections.trading.darkness import Dark
from harvester.projections.trading.position import DATA_END, STRATEGY_ERROR, Position
from harvester.projections.trading.simulated_exchange import DIGITS
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Array = npt.NDArray[Any]
SCHEMA = "harvester.episode"
SCHEMA_VERSION = 3
RULES = 2  # version of docs/trading.md; episodes of different rules are never pooled
MODE_EVENT, MODE_BARS = "event", "bars"
PRE_FAR_S, PRE_NEAR_S, PRE_COUNT = 120, 30, 120
FLAT_USD = 0.005  # |pnl| up to here is BREAKEVEN

BUCKET_FIELDS = (
    "ts", "mark", "bid", "ask", "spread", "spread_bps", "spread_twa", "mid", "microprice", "imbalance",
    "bid_size_top_n", "ask_size_top_n", "bid_top_size", "ask_top_size", "ofi", "tape_buy", "tape_sell",
    "tape_unknown", "trade_count", "quote_count", "depth_count", "volatility_proxy", "realised_variance",
    "quote_source", "book_good", "stale", "halted",
)  # fmt: skip
SERIES_FIELDS = (
    "ts", "mark", "bid", "ask", "mid", "spread", "imbalance", "tape_buy", "tape_sell", "volatility_proxy",
)  # fmt: skip
GATES = "gate_codes"  # of the series, after its fields
_Bucket = msgspec.defstruct(
    "_Bucket", BUCKET_FIELDS
)  # rows of the document: faster to create and encode than dictionaries
_Second = msgspec.defstruct("_Second", (*SERIES_FIELDS, GATES))


class SymbolHealth(msgspec.Struct):
    """Known defects of a symbol's feed so far; part of every episode."""

    outages: int = 0
    bad_book_seconds: int = 0
    refused: int = 0
    data_type: int | None = None


class Unseen(msgspec.Struct, frozen=True):
    """What a trade did not see (docs/trading.md, rule 17)."""

    seconds: int = 0
    outages: int = 0
    halts: int = 0


class Tracked(msgspec.Struct):
    """A position with the data of its episode: cost table, buckets before and during it.

    Attributes:
        bad_book: seconds of the series in which the book was bad.
        pre, series: columns by name, none when there are no rows; absent numbers are NaN.
    """

    position: Position
    costs: CostTable
    memory: str | None
    trading_date: str
    window: str
    pre: dict[str, list[Any]]
    series: dict[str, list[Any]] = {}
    trade_id: str = ""
    exit_ts: int = 0
    exit_seq: int = 0
    exit_price: float | None = None
    bad_book: int = 0
    unseen: Unseen = Unseen()

    def ended(self, trade_id: str, end: tuple[int, int, float | None] | None = None) -> None:
        """Set the exit: the last fill, or `end` (ts, seq, price) when the data ended before it."""
        position = self.position
        self.trade_id = trade_id
        if end is None:
            last = position.fills[-1]
            self.exit_ts, self.exit_seq = last.ts, last.seq
            self.exit_price = round(position.exit_value / position.exited, DIGITS)
        else:
            self.exit_ts, self.exit_seq, self.exit_price = end
            position.exit_reason = DATA_END


def unseen(tracked: Tracked, dark: Sequence[tuple[int, int, int]], gaps: Sequence[tuple[int, int]]) -> Unseen:
    """What a finished trade did not see.

    Args:
        tracked: its exit is known.
        dark: (begin, end, why) of its symbol, ns UTC and bits of `darkness.Dark`, in order of time.
        gaps: (begin, end) of seconds without a clock.
    """
    begin, end = tracked.position.fills[0].ts, tracked.exit_ts
    seconds: set[int] = set()
    spans = [(since, until, why) for since, until, why in dark if since <= end and until > begin]
    lasting, ended = [], -1
    for since, until, why in spans:  # one without duration has its second, unless it is the end of what came before
        lasting.append((since, until if since == ended and why == Dark.LOST else max(until, since + 1)))
        ended = until
    for since, until in (*lasting, *gaps):
        first, last = max(since, begin), min(until - 1, end)
        seconds.update(range(first // SECOND_NS, last // SECOND_NS + 1))
    return Unseen(len(seconds), _counted(spans, Dark.OUTAGE), _counted(spans, Dark.HALT))


def _counted(spans: Sequence[tuple[int, int, int]], why: Dark) -> int:
    """How many times it was dark for this reason: spans that touch are one."""
    count, ended = 0, -1
    for since, until, reasons in spans:
        if reasons & why:
            count += since != ended
            ended = until
    return count


def window_before(newest: Array, decision_ts: int) -> tuple[str, Array]:
    """The name of the `features_pre` window, and its rows among the newest ones (dtype `bucket_columns.SECONDS`)."""
    ts = newest["ts"]
    first, last = decision_ts - PRE_FAR_S * SECOND_NS, decision_ts - (PRE_NEAR_S + 1) * SECOND_NS
    far = (first <= ts) & (ts <= last)
    if far.any():
        return f"{PRE_FAR_S}s to {PRE_NEAR_S}s before", newest[far]
    return f"last {PRE_COUNT} buckets before", newest[ts <= decision_ts - SECOND_NS][-PRE_COUNT:]


def aggregates(pre: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Aggregates of the buckets before the decision: means of states, sums of flows, return of the mid."""
    known = {name: [value for value in pre[name] if value - value == 0] for name in _AGGREGATED}  # the finite ones
    total = {name: math.fsum(values) for name, values in known.items()}
    mean = {name: total[name] / len(values) if values else None for name, values in known.items()}
    mids = known["mid"]
    return {
        "seconds": len(pre["ts"]),
        "stale_seconds": sum(1 for stale in pre["stale"] if stale),
        "mean_imbalance": mean["imbalance"],
        "mean_spread": mean["spread"],
        "mean_spread_bps": mean["spread_bps"],
        "tape_buy": total["tape_buy"],
        "tape_sell": total["tape_sell"],
        "tape_delta": total["tape_buy"] - total["tape_sell"],
        "ofi": total["ofi"],
        "trade_count": int(total["trade_count"]),
        "mid_return": mids[-1] / mids[0] - 1 if mids else None,
        "volatility_max": max(known["volatility_proxy"], default=None),
        "realised_variance": total["realised_variance"],
    }


_AGGREGATED = (
    "imbalance", "spread", "spread_bps", "tape_buy", "tape_sell", "ofi", "trade_count", "mid", "volatility_proxy",
    "realised_variance",
)  # fmt: skip


def labels(tracked: Tracked) -> dict[str, Any]:
    """The outcome. USD, seconds; MAE ≤ 0 ≤ MFE are open profit before commission, `pnl_usd` is after it."""
    position = tracked.position
    entry_ts = position.fills[0].ts
    gross = position.profit(tracked.exit_price or 0.0) if position.open else position.profit(0.0)
    pnl = round(gross - math.fsum(f.commission for f in position.fills), DIGITS) + 0.0
    risk = initial_risk(position)
    moves = position.excursion
    return {
        "pnl_usd": pnl,
        "r_multiple": pnl / risk if risk else None,
        "mae": moves.mae,
        "mfe": moves.mfe,
        "time_to_mae": _seconds(moves.mae_ts, entry_ts),
        "time_to_mfe": _seconds(moves.mfe_ts, entry_ts),
        "hold_seconds": _seconds(tracked.exit_ts, entry_ts),
        "exit_reason": position.exit_reason,
        "win_loss": "WIN" if pnl > FLAT_USD else "LOSS" if pnl < -FLAT_USD else "BREAKEVEN",
    }


def _seconds(ts: int | None, since: int) -> float | None:
    return None if ts is None else (ts - since) / SECOND_NS


def time_of_day(ts: int) -> str:
    """`HHmmss` UTC of a time in ns: the first part of a trade id."""
    seconds = ts // SECOND_NS % 86_400
    return f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"


def entry_price(position: Position) -> float:
    """Average over the entry's fills, USD."""
    return round(position.entry_value / position.entered, DIGITS)


def initial_risk(position: Position) -> float | None:
    """Risk a share as fixed at the decision, times the shares entered, USD; None when it is not known."""
    return None if position.risk is None else round(position.risk * position.entered, DIGITS)


def quality(tracked: Tracked, data_type: int | None, mode: str = MODE_EVENT) -> dict[str, Any]:
    """What this trade rests on, and whether it is learned from."""
    why = [code for code, applies in (
        ("BARS", mode == MODE_BARS),
        ("DATA_END", tracked.position.exit_reason == DATA_END),
        (STRATEGY_ERROR, tracked.position.exit_reason == STRATEGY_ERROR),
        ("UNSEEN", tracked.unseen.seconds > 0),
    ) if applies]  # fmt: skip
    return {
        "unseen_seconds": tracked.unseen.seconds,
        "outages": tracked.unseen.outages,
        "halts": tracked.unseen.halts,
        "bad_book_seconds": tracked.bad_book,
        "data_type": data_type,
        "learned_from": not why,
        "why_not": why,
    }


def document(
    tracked: Tracked, health: SymbolHealth, through_seq: int, kind: str, mode: str = MODE_EVENT
) -> dict[str, Any]:
    """The whole episode, keys in the order of the episode files, times int ns UTC; `kind` is a `SourceKind`."""
    position = tracked.position
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "trading_date": tracked.trading_date,
        "run": position.run,
        "through_seq": through_seq,
        "health": msgspec.to_builtins(health),
        "trade_id": tracked.trade_id,
        "symbol": position.symbol,
        "side": "LONG" if position.plan.long else "SHORT",
        "quantity": position.entered,
        "mode": mode,
        "taken": True,
        "decision": {"ts": position.decision_ts, "seq": position.decision_seq},
        "entry": {"ts": position.fills[0].ts, "price": entry_price(position), "seq": position.fills[0].seq},
        "exit": {"ts": tracked.exit_ts, "price": tracked.exit_price, "seq": tracked.exit_seq},
        "features_pre": {
            "window": tracked.window,
            "buckets": list(map(_Bucket, *tracked.pre.values())),
            "aggregates": aggregates(tracked.pre),
        },
        "series": list(map(_Second, *tracked.series.values())) if tracked.series else [],
        "fills": [msgspec.to_builtins(fill) for fill in position.fills],
        "rest": msgspec.to_builtins(position.rest) if position.rest else None,
        "labels": labels(tracked),
        "decision_trace": _trace(position),
        "quality": quality(tracked, health.data_type, mode),
        "versions": {
            "strategy": position.strategy,
            "strategy_digest": position.strategy_digest,
            "cost_model": tracked.costs.name,
            "memory": tracked.memory,
            "rules": RULES,
        },
        "kind": kind,
    }


def _trace(position: Position) -> dict[str, Any]:
    plan = position.plan
    return {
        "entry_reason": plan.reason,
        "exit_reason": position.exit_reason,
        "risk": {
            "initial_stop": plan.stop,
            "initial_risk_usd": initial_risk(position),
            "target": plan.target,
            "quantity_planned": plan.quantity,
            "hold_seconds_max": plan.hold_seconds_max,
            "order": plan.type.value,
        },
        "gate_codes": position.gate_codes,
        "features": plan.features,
        "prediction": None,
    }


def episode_row(
    tracked: Tracked, health: SymbolHealth, through_seq: int, kind: str, mode: str = MODE_EVENT
) -> tuple[Any, ...]:
    """One row of `trade_rows.EPISODES`."""
    made = document(tracked, health, through_seq, kind, mode)
    labelled, position = made["labels"], tracked.position
    return (
        made["trading_date"],
        position.symbol,
        position.strategy,
        position.strategy_digest,
        made["mode"],
        position.decision_seq,
        tracked.trade_id,
        position.con_id,
        made["side"],
        position.entered,
        made["taken"],
        position.decision_ts,
        made["entry"]["ts"],
        made["entry"]["price"],
        tracked.exit_ts,
        tracked.exit_price,
        tracked.exit_seq,
        position.plan.reason,
        position.exit_reason,
        labelled["pnl_usd"],
        labelled["r_multiple"],
        labelled["mae"],
        labelled["mfe"],
        labelled["hold_seconds"],
        labelled["win_loss"],
        health.data_type,
        made["quality"]["unseen_seconds"],
        made["quality"]["learned_from"],
        RULES,
        kind,
        msgspec.json.encode(made).decode(),
    )
