"""`memory_n = fold(memory_{n-1}, day n)`: pure, in date order; kept episodes give the same bytes.

Memory is a JSON-ready dictionary in the key order of its file. It holds its days as rows and their sums (`pools`), so
that the next day is added without reading the days before it. Every memory names the one before it by its hash.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from harvester.errors import HarvesterError
from harvester.events.kinds import SourceKind
from harvester.files import json_value
from harvester.memory import stats
from harvester.memory.day_summary import STRUCTURES, added
from harvester.memory.model import level_one
from harvester.memory.pools import Pools, columns, sorted_groups

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from harvester.memory.day_summary import DaySummary, TradeGroup

SCHEMA_VERSION = 2
LEARNED_KIND = SourceKind.LIVE.value
"""What model, recommendations and strategies rest on; other kinds are listed apart."""
TRADES_MIN, FOCUS_WIN_RATE, REDUCE_WIN_RATE = 5, 0.55, 0.45  # the user's thresholds
TOP = 5
REBUILD = "`hv memory rebuild` makes it from memory/datasets"

Memory = dict[str, Any]


class KnownDay(NamedTuple):
    """A row of a memory's days; `learned` counts samples for training, `digest` is that of the `DaySummary`."""

    date: str
    kind: str
    rules: int
    episodes: int
    learned: int
    content_hash: str
    digest: str

    @classmethod
    def of(cls, day: DaySummary) -> KnownDay:
        """The row of a day."""
        return cls(day.date, day.kind, day.rules, day.episode_count, day.learned, day.content_hash, day.digest())


def fold(memory: Memory | None, day: DaySummary) -> Memory:
    """Add a day that is later than every day of `memory`; returns the new memory.

    Raises:
        ValueError: it is not later.
    """
    known = days_of(memory) if memory else []
    if known and day.date <= known[-1].date:
        raise ValueError(f"{day.date} is not later than {known[-1].date}")
    pools = Pools.read(memory) if memory else Pools()
    pools.add(day)
    return _derived([*known, KnownDay.of(day)], pools, memory["hash"] if memory else None)


def versions(days: Iterable[DaySummary], before: Memory | None = None) -> Iterator[Memory]:
    """The memory after each of these days, which come in date order and after those of `before`."""
    memory = before
    for day in days:
        memory = fold(memory, day)
        yield memory


def rebuild(days: Iterable[DaySummary]) -> Memory:
    """Build the memory of these days, in any order.

    Raises:
        HarvesterError: no days given.
    """
    memory: Memory | None = None
    for memory in versions(sorted(days, key=lambda day: day.date)):  # noqa: B007 - the last one is the result
        pass
    if memory is None:
        raise HarvesterError("cannot build a memory without any day; fold one with `hv eod --date`")
    return memory


def days_of(memory: Mapping[str, Any]) -> list[KnownDay]:
    """The days a memory holds, in date order.

    Raises:
        msgspec.ValidationError: they have another form.
    """
    return msgspec.convert(memory["days"], list[KnownDay])


def not_pooled(memory: Mapping[str, Any]) -> list[KnownDay]:
    """The days on which no figure rests but sums: other rules of simulated trading made their episodes."""
    return [day for day in days_of(memory) if day.rules != memory["rules"]]


def encode(memory: Memory) -> bytes:
    """The bytes of its file: a key, or an element of a list, per line; the last line but one is the hash."""
    body = {name: value for name, value in memory.items() if name != "hash"}
    return _body(body) + _hash_line(memory["hash"])


def _body(memory: Mapping[str, Any]) -> bytes:
    return b"{\n" + b"".join(_line(name, value) for name, value in memory.items())


def _line(name: str, value: Any) -> bytes:
    data = msgspec.json.encode(value)
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        data = b"[\n    " + b",\n    ".join(msgspec.json.encode(row) for row in value) + b"\n  ]"
    return b'  "' + name.encode() + b'": ' + data + b",\n"


def _hash_line(value: str) -> bytes:
    return f'  "hash": "{value}"\n}}\n'.encode()


_HASH_BYTES = 16
_TAIL = len(_hash_line("0" * 2 * _HASH_BYTES))


def hash_of(data: bytes) -> str | None:
    """The hash in the last line of a memory file; None when the bytes above it differ from what was written."""
    value = _digest(data[:-_TAIL])
    return value if data[-_TAIL:] == _hash_line(value) else None


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=_HASH_BYTES).hexdigest()


def decode(data: bytes, where: str) -> Memory:
    """Read a memory file and check it against its own hash.

    Raises:
        HarvesterError: not a memory of this version, or altered.
    """
    try:
        memory = json_value(data, dict[str, Any])
        known = memory["schema_version"] == SCHEMA_VERSION
        sound = known and hash_of(data) == memory["hash"] and bool(days_of(memory))
    except (msgspec.MsgspecError, KeyError):
        known = sound = False
    if not sound:
        what = "is damaged" if known else f"does not have schema version {SCHEMA_VERSION}"
        raise HarvesterError(f"{where} {what}; {REBUILD}")
    return memory


def _derived(known: list[KnownDay], pools: Pools, parent: str | None) -> Memory:
    rules = max(day.rules for day in known)
    kinds = sorted(kind for kind, of_rules in pools.by_key if of_rules == rules)
    symbols = [(kind, group) for kind in kinds for group in sorted_groups(pools.symbols.get((kind, rules), {}))]
    setups = [(kind, group) for kind in kinds for group in sorted_groups(pools.setups.get((kind, rules), {}))]
    memory: Memory = {
        "schema_version": SCHEMA_VERSION,
        "date": known[-1].date,
        "parent": parent,
        **_of_kind(pools, LEARNED_KIND, rules),
        "setups": [{"kind": kind} | _setup(group) for kind, group in setups],
        "symbol_profiles": [{"kind": kind} | _profile(group) for kind, group in symbols],
        "day_columns": list(KnownDay._fields),
        "days": [list(day) for day in known],
        "sum_columns": list(columns()),
        **pools.rows(),
    }
    return memory | {"hash": _digest(_body(memory))}


def _of_kind(pools: Pools, kind: str, rules: int) -> dict[str, Any]:
    """The figures that rest on the days of one kind and rules."""
    learned, symbols = pools.pool(kind, rules), sorted_groups(pools.symbols.get((kind, rules), {}))
    return {
        "kind": kind,
        "rules": rules,
        "training": {
            "days": learned.days,
            "episodes": sum(learned.samples.values()),
            "parse_failures": learned.parse_failures,
            "outcomes": learned.outcomes,
            "left_out": learned.left_out,
        },
        "model": level_one(learned),
        "recommendations": _recommendations(kind, symbols),
        "chart_structure_counts": _structures(added(g.structures for g in symbols)),
        "top_entry_reasons": _top(added(g.entry_reasons for g in symbols)),
        "top_exit_reasons": _top(added(g.exit_reasons for g in symbols)),
    }


def of_kind(memory: Memory, kind: str) -> Memory:
    """The memory as it is shown on request for another kind of days than live ones; not a version."""
    rows = {name: [row for row in memory[name] if row["kind"] == kind] for name in ("setups", "symbol_profiles")}
    days = [row for row in memory["days"] if KnownDay(*row).kind == kind]
    return memory | _of_kind(Pools.read(memory), kind, memory["rules"]) | rows | {"days": days}


def _setup(group: TradeGroup) -> dict[str, Any]:
    return {
        "setup": group.name,
        "mode": group.mode,
        "n": group.trade_count,
        "hit_rate": _estimate(stats.hit_rate(group.wins, group.trade_count)) | {"prior": list(stats.HIT_PRIOR)},
        "mean_r": _estimate(stats.mean_r(group.r_n, group.r_sum, group.r_squares)) | {"prior": list(stats.R_PRIOR)},
    }


def _estimate(estimate: stats.Estimate) -> dict[str, Any]:
    return {**estimate._asdict(), "level": stats.LEVEL}


def _profile(group: TradeGroup) -> dict[str, Any]:
    n = group.trade_count
    return {
        "symbol": group.name,
        "mode": group.mode,
        "trade_count": n,
        "win_rate": _mean(group.wins, n),
        "win_rate_interval": _estimate(stats.hit_rate(group.wins, n)),
        "pnl_usd": _usd(group.pnl_usd),
        "volume": group.volume,
        "avg_r_multiple": _mean(group.r_sum, group.r_n),
        "avg_r_multiple_interval": _estimate(stats.mean_r(group.r_n, group.r_sum, group.r_squares)),
        "avg_mae": _mean(group.mae_sum, n),
        "avg_mfe": _mean(group.mfe_sum, n),
        "avg_hold_seconds": _mean(group.hold_sum, n),
        "avg_pre_imbalance": _mean(group.imbalance_sum, group.imbalance_n),
        "avg_pre_spread": _mean(group.spread_sum, group.spread_n),
        "avg_pre_tape_delta": _mean(group.tape_delta_sum, n),
        "structure_counts": _structures(group.structures),
        "top_entry_reasons": _top(group.entry_reasons),
        "top_exit_reasons": _top(group.exit_reasons),
    }


def _mean(total: float, n: int) -> float | None:
    return round(total / n, 9) + 0.0 if n else None


def _usd(amount: float) -> float:
    return round(amount, 9) + 0.0


def _structures(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: counts.get(name, 0) for name in STRUCTURES}


def _top(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"reason": reason, "count": count} for reason, count in ordered[:TOP]]


def _recommendations(kind: str, symbols: Sequence[TradeGroup]) -> dict[str, Any]:
    enough = [group for group in symbols if group.trade_count >= TRADES_MIN]
    focus = [g for g in enough if g.wins / g.trade_count >= FOCUS_WIN_RATE and g.pnl_usd > 0]
    reduce = [g for g in enough if g.wins / g.trade_count < REDUCE_WIN_RATE]
    return {
        "basis": "the user's thresholds, not evidence",
        "kind": kind,
        "focus_symbols": [_recommended(group) for group in focus],
        "reduce_symbols": [_recommended(group) for group in reduce],
    }


def _recommended(group: TradeGroup) -> dict[str, Any]:
    return {
        "symbol": group.name,
        "mode": group.mode,
        "n": group.trade_count,
        "win_rate": _mean(group.wins, group.trade_count),
        "win_rate_interval": _estimate(stats.hit_rate(group.wins, group.trade_count)),
        "pnl_usd": _usd(group.pnl_usd),
    }


def given_to_strategies(memory: Memory) -> dict[str, Any]:
    """The part of a memory that strategies see: setups of live days only."""
    setups = [{k: v for k, v in row.items() if k != "kind"} for row in memory["setups"] if row["kind"] == LEARNED_KIND]
    return {name: memory[name] for name in ("hash", "date")} | {"setups": setups, "model": memory["model"]}
