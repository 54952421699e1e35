"""Sums over days: one pool per kind of data and version of the rules; days of different pools are never added.

A memory holds its pools, so that the next day is added without the days before it. Sums are added in date order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from harvester.memory.day_summary import TradeGroup, added, merged
from harvester.projections.trading.episodes import MODE_EVENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harvester.memory.day_summary import DaySummary

PoolKey = tuple[str, int]
"""Kind of data and version of the rules of simulated trading."""
Groups = dict[tuple[str, str], TradeGroup]
"""By name and mode."""


class Pool(msgspec.Struct, kw_only=True):
    """Counts over the days of one kind and one version of the rules, by name in order.

    Attributes:
        days: how many.
        scored: episodes of which a day before could predict the outcome by its base rate.
        squares, logs: sums of squared errors and of log losses of these predictions.
    """

    kind: str
    rules: int
    days: int = 0
    parse_failures: int = 0
    samples: dict[str, int] = {}
    sample_wins: dict[str, int] = {}
    outcomes: dict[str, int] = {}
    left_out: dict[str, int] = {}
    scored: int = 0
    squares: float = 0.0
    logs: float = 0.0

    def add(self, day: DaySummary) -> None:
        """Count one more day, later than all before."""
        self._score(day)
        self.days += 1
        self.parse_failures += day.parse_failures
        self.samples = added((self.samples, day.samples))
        self.sample_wins = added((self.sample_wins, day.sample_wins))
        self.outcomes = added((self.outcomes, day.outcomes))
        self.left_out = added((self.left_out, day.left_out))

    def _score(self, day: DaySummary) -> None:
        """Predict the day's outcomes by the base rate of the days before: the posterior mean of the hit rate."""
        wins, n = self.sample_wins.get(MODE_EVENT, 0), self.samples.get(MODE_EVENT, 0)
        day_wins, day_n = day.sample_wins.get(MODE_EVENT, 0), day.samples.get(MODE_EVENT, 0)
        if n and day_n:
            p = (wins + 1) / (n + 2)
            self.squares += day_wins * (1 - p) ** 2 + (day_n - day_wins) * p**2
            self.logs += -day_wins * math.log(p) - (day_n - day_wins) * math.log(1 - p)
            self.scored += day_n


class Pools:
    """All pools of a memory, with their sums per symbol and per setup."""

    def __init__(self) -> None:
        self.by_key: dict[PoolKey, Pool] = {}
        self.symbols: dict[PoolKey, Groups] = {}
        self.setups: dict[PoolKey, Groups] = {}

    @classmethod
    def read(cls, memory: Mapping[str, Any]) -> Pools:
        """The pools of a memory.

        Raises:
            msgspec.ValidationError: they have another form.
        """
        made = cls()
        for pool in msgspec.convert(memory["pools"], list[Pool]):
            made.by_key[pool.kind, pool.rules] = pool
        for rows, of in ((memory["symbol_sums"], made.symbols), (memory["setup_sums"], made.setups)):
            for kind, rules, *values in rows:
                group = msgspec.convert(values, TradeGroup)
                of.setdefault((kind, rules), {})[group.name, group.mode] = group
        return made

    def add(self, day: DaySummary) -> None:
        """Add a day, later than all before."""
        key = (day.kind, day.rules)
        self.by_key.setdefault(key, Pool(kind=day.kind, rules=day.rules)).add(day)
        for groups, of in ((day.symbols, self.symbols), (day.setups, self.setups)):
            known = of.setdefault(key, {})
            for group in groups:
                before = known.get((group.name, group.mode))
                parts = [group] if before is None else [before, group]
                known[group.name, group.mode] = merged(group.mode, group.name, parts)

    def pool(self, kind: str, rules: int) -> Pool:
        """One pool; an empty one when no day is of that kind and rules."""
        return self.by_key.get((kind, rules)) or Pool(kind=kind, rules=rules)

    def rows(self) -> dict[str, list[Any]]:
        """The pools as a memory holds them."""
        return {
            "pools": [msgspec.to_builtins(self.by_key[key]) for key in sorted(self.by_key)],
            "symbol_sums": _rows(self.symbols),
            "setup_sums": _rows(self.setups),
        }


def sorted_groups(groups: Mapping[tuple[str, str], TradeGroup]) -> Sequence[TradeGroup]:
    """By name, then mode."""
    return [groups[name] for name in sorted(groups)]


def _rows(of: Mapping[PoolKey, Groups]) -> list[Any]:
    return [[*key, *msgspec.to_builtins(group)] for key in sorted(of) for group in sorted_groups(of[key])]


def columns() -> Iterable[str]:
    """The names of the values in a row of sums."""
    return ["kind", "rules", *TradeGroup.__struct_fields__]
