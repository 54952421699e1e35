"""One day in memory: counts and sums per (mode, symbol) and per (mode, setup), from its kept episodes.

Only episodes that were taken, are closed, are not DATA_END, saw every second of their trade and use data the gateway
announced as live (with `allow_not_live`: any data) count in P&L; data of unknown type counts as not live. Nothing of a
starved day counts: its recording did not keep up with market time. R is winsorised at `R_BOUNDS` in sums. Vetoed ones
(`taken` false) count only as training samples. An identity (date, symbol, strategy digest, mode, decision) counts once.
Sums are exactly rounded (`math.fsum`), so the order of rows changes nothing.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import msgspec

from harvester.events.kinds import SourceKind
from harvester.projections.trading.episodes import MODE_BARS, RULES
from harvester.projections.trading.position import DATA_END, STRATEGY_ERROR

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LIVE = 1
R_BOUNDS = (-5.0, 5.0)  # one trade must not be the mean of its setup; the episode keeps its R
STARVED, BARS = "STARVED", "BARS"
TREND = 0.0015  # a move of more than 0.15 % from entry to exit
STRUCTURES = ("UPTREND", "DOWNTREND", "RANGE")


class TradeGroup(msgspec.Struct, kw_only=True, array_like=True):
    """Counts and sums over trades. USD, shares, seconds; `*_n` is how many trades had a value to sum.

    In a file it is the array of its values, in this order.
    """

    mode: str
    name: str
    trade_count: int
    wins: int
    pnl_usd: float
    volume: int
    r_n: int
    r_sum: float
    r_squares: float
    mae_sum: float
    mfe_sum: float
    hold_sum: float
    imbalance_n: int
    imbalance_sum: float
    spread_n: int
    spread_sum: float
    tape_delta_sum: float
    structures: dict[str, int] = {}
    entry_reasons: dict[str, int] = {}
    exit_reasons: dict[str, int] = {}


class DaySummary(msgspec.Struct, kw_only=True):
    """The summary of a folded day.

    Attributes:
        date: trading date, yyyy-MM-dd.
        content_hash: of the date's log.
        episode_count: rows of its kept episodes.
        episodes_hash: over those rows; differs when the same log gave other episodes.
        last_ts: of its last event, ISO-8601.
        samples, sample_wins: closed episodes fit for training, per mode.
        left_out: episodes not learned from, by reason.
        rules: version of the rules of simulated trading; days of different rules are never pooled.
        kind: where the data come from, a `SourceKind`; days of different kinds are never pooled.
    """

    date: str
    content_hash: str
    episode_count: int
    episodes_hash: str
    last_ts: str
    parse_failures: int = 0
    samples: dict[str, int] = {}
    sample_wins: dict[str, int] = {}
    outcomes: dict[str, int] = {}
    left_out: dict[str, int] = {}
    rules: int = 1
    kind: str = SourceKind.UNKNOWN.value
    symbols: list[TradeGroup] = []
    setups: list[TradeGroup] = []

    @property
    def learned(self) -> int:
        """How many episodes are samples for training, of any mode."""
        return sum(self.samples.values())

    def digest(self) -> str:
        """Identifies everything memory takes from the day."""
        return _hash(self)


def digest_day(
    date: str,
    content_hash: str,
    last_ts: str,
    episodes: Iterable[Mapping[str, Any]],
    *,
    kind: str = SourceKind.UNKNOWN.value,
    allow_not_live: bool = False,
    starved: bool = False,
) -> DaySummary:
    """Summarise a day. `episodes` are rows of `episodes.parquet`; `allow_not_live` takes data of every type.

    `kind` is that of the date; with an episode of another kind the day is `mixed`.

    Reasons in `left_out`: BARS (traded on bars alone), STARVED (every episode of a day that is `starved`), DATA_END,
    STRATEGY_ERROR, UNSEEN, RULES (older than the day's others), NOT_LIVE, DATA_TYPE_UNKNOWN (never announced),
    NOT_TAKEN.
    """
    rows = sorted({_identity(row): row for row in episodes}.items())
    made = DaySummary(
        date=date,
        content_hash=content_hash,
        episode_count=len(rows),
        episodes_hash=_hash_of((key, row["document"]) for key, row in rows),
        last_ts=last_ts,
        rules=max((rules_of(row) for _, row in rows), default=RULES),
        kind=kind if all((row.get("kind") or kind) == kind for _, row in rows) else SourceKind.MIXED.value,
    )
    trades: list[_Trade] = []
    for _, row in rows:
        if reason := why_left_out(row, made.rules, allow_not_live=allow_not_live, starved=starved):
            _count(made.left_out, reason)
            continue
        trade = _trade(row)
        if trade is None:
            made.parse_failures += 1
            continue
        _count(made.samples, trade.mode)
        _count(made.outcomes, trade.outcome)
        if trade.outcome == "WIN":
            _count(made.sample_wins, trade.mode)
        if trade.taken:
            trades.append(trade)
        else:
            _count(made.left_out, "NOT_TAKEN")
    made.symbols = _groups(trades, "symbol")
    made.setups = _groups(trades, "setup")
    for counts in (made.samples, made.sample_wins, made.outcomes, made.left_out):
        _sort(counts)
    return made


class _Trade(msgspec.Struct):
    mode: str
    symbol: str
    setup: str
    taken: bool
    outcome: str
    pnl_usd: float
    quantity: int
    r_multiple: float | None
    mae: float
    mfe: float
    hold_seconds: float
    imbalance: float | None
    spread: float | None
    tape_delta: float
    structure: str
    entry_reason: str
    exit_reason: str


class _Labels(msgspec.Struct):
    pnl_usd: float
    r_multiple: float | None
    mae: float
    mfe: float
    hold_seconds: float
    win_loss: str
    exit_reason: str


class _Aggregates(msgspec.Struct):
    mean_imbalance: float | None
    mean_spread: float | None
    tape_delta: float


class _Before(msgspec.Struct):
    aggregates: _Aggregates


class _Price(msgspec.Struct):
    price: float


class _Reason(msgspec.Struct):
    entry_reason: str


class _MadeBy(msgspec.Struct):
    strategy: str


class _LearnedDocument(msgspec.Struct):
    """The parts of an episode's document that memory reads; the others are skipped without a Python object."""

    mode: str
    symbol: str
    taken: bool
    quantity: int
    entry: _Price
    exit: _Price
    labels: _Labels
    decision_trace: _Reason
    features_pre: _Before
    versions: _MadeBy


_document = msgspec.json.Decoder(_LearnedDocument)


def _trade(row: Mapping[str, Any]) -> _Trade | None:
    """Read an episode's document; None when it is not one."""
    try:
        made = _document.decode(row["document"])
        direction = structure(made.entry.price, made.exit.price)
    except (msgspec.MsgspecError, KeyError, TypeError, ZeroDivisionError):
        return None
    labels, reason, before = made.labels, made.decision_trace.entry_reason, made.features_pre.aggregates
    return _Trade(
        mode=made.mode,
        symbol=made.symbol,
        setup=f"{made.versions.strategy}/{reason}",
        taken=made.taken,
        outcome=labels.win_loss,
        pnl_usd=labels.pnl_usd,
        quantity=made.quantity,
        r_multiple=labels.r_multiple,
        mae=labels.mae,
        mfe=labels.mfe,
        hold_seconds=labels.hold_seconds,
        imbalance=before.mean_imbalance,
        spread=before.mean_spread,
        tape_delta=before.tape_delta,
        structure=direction,
        entry_reason=reason,
        exit_reason=labels.exit_reason,
    )


def structure(entry: float, exit_: float) -> str:
    """Direction of the price over the episode: one of `STRUCTURES`."""
    move = round(exit_ / entry - 1, 9)  # 100 to 100.15 is 0.15 %, whatever its binary fraction says
    return "UPTREND" if move > TREND else "DOWNTREND" if move < -TREND else "RANGE"


def why_left_out(row: Mapping[str, Any], rules: int, *, allow_not_live: bool, starved: bool) -> str:
    """Why memory leaves an episode out, as in `digest_day`; "" when it learns from it. `rules`: those of the day."""
    if row["mode"] == MODE_BARS or starved:
        return BARS if row["mode"] == MODE_BARS else STARVED
    if row["exit_reason"] in (DATA_END, STRATEGY_ERROR):
        return str(row["exit_reason"])
    if row.get("unseen_seconds"):
        return "UNSEEN"
    if rules_of(row) != rules:
        return "RULES"
    if not allow_not_live and row["data_type"] != LIVE:
        return "DATA_TYPE_UNKNOWN" if row["data_type"] is None else "NOT_LIVE"
    return ""


def rules_of(row: Mapping[str, Any]) -> int:
    """The version of the rules an episode was made by; 1 for a row without it, which only that version wrote."""
    return row.get("rules") or 1


def _identity(row: Mapping[str, Any]) -> tuple[str, str, str, str, int]:
    return row["trading_date"], row["symbol"], row["strategy_digest"], row["mode"], row["decision_seq"]


def _groups(trades: Sequence[_Trade], by: str) -> list[TradeGroup]:
    keys = sorted({(trade.mode, str(getattr(trade, by))) for trade in trades})
    return [_group(mode, name, [t for t in trades if (t.mode, getattr(t, by)) == (mode, name)]) for mode, name in keys]


def _group(mode: str, name: str, trades: Sequence[_Trade]) -> TradeGroup:
    low, high = R_BOUNDS
    multiples = [min(max(t.r_multiple, low), high) for t in trades if t.r_multiple is not None]
    imbalances = [t.imbalance for t in trades if t.imbalance is not None]
    spreads = [t.spread for t in trades if t.spread is not None]
    made = TradeGroup(
        mode=mode,
        name=name,
        trade_count=len(trades),
        wins=sum(t.outcome == "WIN" for t in trades),
        pnl_usd=math.fsum(t.pnl_usd for t in trades),
        volume=sum(t.quantity for t in trades),
        r_n=len(multiples),
        r_sum=math.fsum(multiples),
        r_squares=math.fsum(r * r for r in multiples),
        mae_sum=math.fsum(t.mae for t in trades),
        mfe_sum=math.fsum(t.mfe for t in trades),
        hold_sum=math.fsum(t.hold_seconds for t in trades),
        imbalance_n=len(imbalances),
        imbalance_sum=math.fsum(imbalances),
        spread_n=len(spreads),
        spread_sum=math.fsum(spreads),
        tape_delta_sum=math.fsum(t.tape_delta for t in trades),
    )
    for trade in trades:
        _count(made.structures, trade.structure)
        _count(made.entry_reasons, trade.entry_reason)
        _count(made.exit_reasons, trade.exit_reason)
    for counts in (made.structures, made.entry_reasons, made.exit_reasons):
        _sort(counts)
    return made


_SUMMED = [(field.name, field.type) for field in msgspec.structs.fields(TradeGroup) if field.type is not str]


def merged(mode: str, name: str, groups: Sequence[TradeGroup]) -> TradeGroup:
    """The groups of several days as one; all of them have this mode and name."""
    made: dict[str, Any] = {}
    for field, kind in _SUMMED:
        values = [getattr(group, field) for group in groups]
        made[field] = math.fsum(values) if kind is float else sum(values) if kind is int else added(values)
    return TradeGroup(mode=mode, name=name, **made)


def added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts by name, summed, names in order."""
    total: dict[str, int] = {}
    for one in counts:
        for name, n in one.items():
            total[name] = total.get(name, 0) + n
    return dict(sorted(total.items()))


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _sort(counts: dict[str, int]) -> None:
    ordered = sorted(counts.items())
    counts.clear()
    counts.update(ordered)


def _hash(value: Any) -> str:
    return hashlib.blake2b(msgspec.json.encode(value), digest_size=16).hexdigest()


def _hash_of(rows: Iterable[tuple[Any, str]]) -> str:
    """Over identities and documents. SHA-256 of a document: twice as fast as BLAKE2b where the processor has it."""
    return _hash([[key, hashlib.sha256(document.encode()).hexdigest()] for key, document in rows])
