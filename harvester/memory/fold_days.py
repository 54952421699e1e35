"""`memory_n = fold(memory_{n-1}, day n)`: pure and idempotent; kept episodes give the same bytes.

Memory is a JSON-ready dictionary in the key order of its file. It is a function of its set of days: a day folded twice
changes nothing; a changed or earlier day refolds all days, in date order.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from harvester.errors import DamagedFile, HarvesterError
from harvester.files import json_value
from harvester.memory import stats
from harvester.memory.day_summary import STRUCTURES, DaySummary, TradeGroup, added, merged
from harvester.memory.model import level_one

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from harvester.home import Home

SCHEMA_VERSION = 1
TRADES_MIN, FOCUS_WIN_RATE, REDUCE_WIN_RATE = 5, 0.55, 0.45  # the user's thresholds
TOP = 5

Memory = dict[str, Any]


def fold(memory: Memory | None, day: DaySummary) -> Memory:
    """Add one day; returns the new memory."""
    days = [] if memory is None else days_of(memory)
    if memory is not None and day in days:
        return memory
    if not days or day.date > days[-1].date:
        return _derived([*days, day], memory["hash"] if memory else None)
    return rebuild([*(d for d in days if d.date != day.date), day])


def rebuild(days: Iterable[DaySummary]) -> Memory:
    """Build the memory of these days.

    Raises:
        HarvesterError: no days given.
    """
    memory: Memory | None = None
    for day in sorted(days, key=lambda d: d.date):
        memory = fold(memory, day)
    if memory is None:
        raise HarvesterError("cannot build a memory without any day; fold one with `hv eod --date`")
    return memory


def days_of(memory: Mapping[str, Any]) -> list[DaySummary]:
    """The days a memory holds, in date order."""
    return msgspec.convert(memory["days"], list[DaySummary])


def not_pooled(memory: Mapping[str, Any]) -> list[DaySummary]:
    """The days on which no figure of a memory rests: other rules of simulated trading made their episodes."""
    days = days_of(memory)
    return [day for day in days if day.rules != days[-1].rules]


def encode(memory: Memory) -> bytes:
    """The bytes of its file."""
    return msgspec.json.format(msgspec.json.encode(memory), indent=2) + b"\n"


def decode(data: bytes, where: str) -> Memory:
    """Read a memory file and check it against its own hash.

    Raises:
        HarvesterError: not a memory of this version, or altered.
    """
    try:
        memory = json_value(data, dict[str, Any])
        known = memory["schema_version"] == SCHEMA_VERSION
        sound = known and memory["hash"] == _hash(memory) and bool(days_of(memory))
    except (msgspec.MsgspecError, KeyError):
        known = sound = False
    if not sound:
        what = "is damaged" if known else f"does not have schema version {SCHEMA_VERSION}"
        move = (
            "copy the newest file of memory/versions over it, or move it away: the next `hv eod` of a date with a log "
            "rebuilds it from memory/datasets"
        )
        raise HarvesterError(f"{where} {what}; {move}")
    return memory


def damaged_versions(home: Home) -> list[DamagedFile]:
    """The files of `memory/versions/` that differ from what was written; a damaged memory is restored from them."""
    found = []
    for path in sorted(home.memory_versions.glob("memory_*.json")):
        try:
            decode(path.read_bytes(), path.name)
        except OSError as error:
            found.append(_damaged_version(path, f"cannot be read: {error.strerror or error}"))
        except HarvesterError:
            found.append(_damaged_version(path, "it does not match its hash"))
    return found


def _damaged_version(path: Path, what: str) -> DamagedFile:
    move = "restore it from a backup, or move it away: nothing but a damaged memory_latest.json needs it"
    return DamagedFile(str(path), what, move)


def _hash(memory: Mapping[str, Any]) -> str:
    body = {key: value for key, value in memory.items() if key != "hash"}
    return hashlib.blake2b(msgspec.json.encode(body), digest_size=16).hexdigest()


def _derived(known: list[DaySummary], parent: str | None) -> Memory:
    newest = known[-1].rules
    days = [day for day in known if day.rules == newest]  # days of other rules are listed, never pooled
    symbols, setups = _over_days(days, "symbols"), _over_days(days, "setups")
    memory: Memory = {
        "schema_version": SCHEMA_VERSION,
        "date": days[-1].date,
        "days": [msgspec.to_builtins(day) for day in known],
        "training": {
            "episodes": sum(sum(day.samples.values()) for day in days),
            "parse_failures": sum(day.parse_failures for day in days),
            "outcomes": added(day.outcomes for day in days),
            "left_out": added(day.left_out for day in days),
        },
        "model": level_one(days),
        "setups": [_setup(group) for group in setups],
        "symbol_profiles": [_profile(group) for group in symbols],
        "chart_structure_counts": _structures(added(g.structures for g in symbols)),
        "top_entry_reasons": _top(added(g.entry_reasons for g in symbols)),
        "top_exit_reasons": _top(added(g.exit_reasons for g in symbols)),
        "recommendations": _recommendations(symbols),
        "parent": parent,
    }
    return memory | {"hash": _hash(memory)}


def _over_days(days: list[DaySummary], what: str) -> list[TradeGroup]:
    by_key: dict[tuple[str, str], list[TradeGroup]] = {}
    for day in days:
        for group in getattr(day, what):
            by_key.setdefault((group.name, group.mode), []).append(group)
    return [merged(mode, name, by_key[name, mode]) for name, mode in sorted(by_key)]


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


def _recommendations(symbols: list[TradeGroup]) -> dict[str, Any]:
    enough = [group for group in symbols if group.trade_count >= TRADES_MIN]
    focus = [g for g in enough if g.wins / g.trade_count >= FOCUS_WIN_RATE and g.pnl_usd > 0]
    reduce = [g for g in enough if g.wins / g.trade_count < REDUCE_WIN_RATE]
    return {
        "basis": "the user's thresholds, not evidence",
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


def memory_given(home: Home) -> dict[str, Any] | None:
    """The memory of earlier days passed to strategies, for `RunParams.build(memory=...)`; None without memory.

    Raises:
        HarvesterError: memory_latest.json is damaged.
    """
    try:
        memory = decode(home.memory_latest.read_bytes(), str(home.memory_latest))
    except FileNotFoundError:
        return None
    return {name: memory[name] for name in ("hash", "date", "setups", "model")}
