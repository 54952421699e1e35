"""The list of strategies; each lives in a module of its own. `Library` is where a fold takes them from."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harvester.errors import BadSetting, CodeChanged
from harvester.projections.trading.strategies.breakout_screen import BreakoutScreen
from harvester.projections.trading.strategies.imbalance_breakout import ImbalanceBreakout
from harvester.projections.trading.strategies.random_entry import RandomEntry
from harvester.projections.trading.strategies.scanner_entry import ScannerEntry
from harvester.projections.trading.user_decider import UserDecider
from harvester.projections.trading.user_strategy import Strategy, wrong_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.projections.trading.failure import Failure
    from harvester.projections.trading.message_counts import MessageCounts
    from harvester.projections.trading.run_terms import RunTerms
    from harvester.projections.trading.strategy import Decider, Screen

STRATEGIES: dict[str, type[Any]] = {
    "imbalance_breakout": ImbalanceBreakout,
    "random_entry": RandomEntry,
    "scanner_entry": ScannerEntry,
}
SCREENS: dict[str, type[Screen]] = {
    ImbalanceBreakout.name: BreakoutScreen
}  # a strategy without one decides at every slot


def make(name: str, settings: Mapping[str, Any]) -> Decider:
    """A fresh strategy.

    Raises:
        BadSetting: unknown strategy or setting.
    """
    kind = _class(name)
    if issubclass(kind, Strategy):
        return UserDecider(kind(settings), digest(name, settings))
    made: Decider = kind(settings)
    return made


def describe(name: str, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`{name, digest, settings}` with every setting written out, as in a run's start event."""
    try:
        strategy = _class(name)(settings or {})
    except BadSetting:
        struct = getattr(_class(name)({}), "settings", None)
        if struct is not None and (wrong := wrong_parameters(type(struct), settings or {})):
            raise BadSetting(f"strategy {name}: {wrong}") from None
        raise
    values = strategy.parameters if isinstance(strategy, Strategy) else msgspec.to_builtins(strategy.settings)
    return {"name": name, "digest": digest(name, values), "settings": values}


def digest(name: str, settings: Mapping[str, Any]) -> str:
    """BLAKE2b over the strategy's source (line ends normalised) and its canonical settings, 16 hex digits."""
    source = Path(sys.modules[_class(name).__module__].__file__ or "").read_bytes().replace(b"\r\n", b"\n")
    canonical = msgspec.json.encode(dict(sorted(settings.items())), order="deterministic")
    return hashlib.blake2b(source + b"\0" + canonical, digest_size=8).hexdigest()


def _class(name: str) -> type[Any]:
    if name not in STRATEGIES:
        raise BadSetting(f"unknown strategy {name!r}; use one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


class Library:
    """Strategies by name and recorded digest. This one has the shipped ones alone.

    Attributes:
        notes: what the user should read, each once.
        failures: of users' strategies according to the log, by name and digest; set it before the first fold.
        counts: of users' classes, by name of the strategy, one each time it was made.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.failures: Mapping[tuple[str, str], Failure] = {}
        self.counts: list[tuple[str, MessageCounts]] = []

    def make(self, name: str, recorded: str, settings: Mapping[str, Any]) -> tuple[Decider, str]:
        """A fresh strategy, and the digest of the code that runs.

        Raises:
            CodeChanged: it is a user's, and its source is not at hand.
        """
        made, code = self._make(name, recorded, settings)
        if isinstance(made, UserDecider):
            self.counts.append((name, made.counts))
        return made, code

    def _make(self, name: str, recorded: str, settings: Mapping[str, Any]) -> tuple[Decider, str]:
        if name not in STRATEGIES:
            return self.make_user(name, recorded, settings)
        code = digest(name, settings)
        if code != recorded:
            self.note(f"strategy {name} folds with today's version {code}, recorded with {recorded}")
        return make(name, settings), code

    def make_user(self, name: str, recorded: str, settings: Mapping[str, Any]) -> tuple[Decider, str]:
        """A fresh strategy of a user.

        Raises:
            CodeChanged: its source is not at hand.
        """
        del settings
        raise CodeChanged(
            f"strategy {name} ({recorded}) is not shipped and its copy is not at hand: "
            "restore memory/strategies, or give the file: hv project --strategy FILE:CLASS"
        )

    def waits_for_notice(self, name: str) -> bool:
        """Whether a notice in the log closes the positions of this strategy when it fails; else its failure does."""
        del name
        return False

    def chosen(self, terms: RunTerms) -> RunTerms:
        """The terms of a run, with the strategies that fold it."""
        return terms

    def note(self, text: str) -> None:
        """Add a note."""
        if text not in self.notes:
            self.notes.append(text)


SHIPPED = Library()
