"""Folds of the small recorded day with strategies defined in a test."""

from __future__ import annotations

from typing import Any

from harvester.config import Settings
from harvester.eventlog.reader import open_day
from harvester.projections.engine import Engine
from harvester.projections.run_params import RunParams, StrategyRef
from harvester.projections.trading.strategies import Library
from harvester.projections.trading.trading_feed import TradingFeed
from harvester.projections.trading.user_decider import UserDecider
from harvester.projections.trading.user_strategy import Strategy, name_of
from tests.trading_log import DATE


class Given(Library):
    """Gives every run these strategies."""

    def __init__(self, *kinds: type[Strategy], **settings: Any) -> None:
        super().__init__()
        self._kinds, self._settings = {name_of(kind): kind for kind in kinds}, settings

    def make_user(self, name, recorded, settings):
        return UserDecider(self._kinds[name](settings), recorded), recorded


def params(*kinds: type[Strategy], day=DATE, **settings: Any) -> RunParams:
    """A run with these strategies."""
    refs = [StrategyRef(name_of(kind), f"digest-{name_of(kind)}", settings) for kind in kinds]
    return RunParams.build(Settings(), day, strategies=refs)


def fold(home, *kinds: type[Strategy], cuts=None, day=DATE):
    """(decisions, episodes, engine) of the day; `cuts`: events a batch, None = as stored."""
    engine = Engine(library=Given(*kinds))
    tables: dict[str, list[Any]] = {"decisions": [], "episodes": []}
    for batch in open_day(day, home).batches():
        step = len(batch) if cuts is None else cuts
        for first in range(batch.first_seq, batch.last_seq + 1, step):
            keep(tables, engine.fold(batch.slice(first, min(first + step - 1, batch.last_seq))))
    digest = engine.digests()["trading"]
    keep(tables, engine.finish())
    return tables["decisions"], tables["episodes"], engine, digest


def keep(tables, outputs) -> None:
    for name, rows in tables.items():
        if name in outputs.tables:
            rows.extend(outputs.tables[name].to_pylist())


def failures(engine: Engine) -> list[str]:
    return [failure.line() for failure in engine[TradingFeed].trading.failures]
