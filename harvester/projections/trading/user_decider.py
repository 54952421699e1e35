"""Runs a user's `Strategy` in the trading fold: checks what it returns, keeps its state, and drops it when it fails.

From the second in which it fails it decides nothing more. The failure is the same in every fold of the log.
"""

from __future__ import annotations

import re
import traceback
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from harvester.calendar import iso
from harvester.errors import CannotRun
from harvester.projections.trading.position import STRATEGY_ERROR
from harvester.projections.trading.strategy import Verdict
from harvester.projections.trading.user_strategy import (
    NUMBERS,
    Bar,
    Candidate,
    Candle,
    checked,
    name_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.projections.interval import News
    from harvester.projections.trading.plan import EntryPlan
    from harvester.projections.trading.strategy import View
    from harvester.projections.trading.user_strategy import Now, Strategy

BARS_MAX = 100
_FAILED = Verdict((STRATEGY_ERROR,))
_HOLDING = "HOLDING"
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
_TEXT_MAX = 200
_PACKAGE = Path(__file__).resolve().parents[2]


class Failure(NamedTuple):
    """A strategy that was dropped: at which clock (seq, ts ns UTC), in which symbol, and why."""

    strategy: str
    digest: str
    seq: int
    ts: int
    symbol: str
    why: str

    def line(self) -> str:
        """One line for the user."""
        return f"strategy {self.strategy} dropped at seq {self.seq}, {iso(self.ts)[:19]}Z, {self.symbol}: {self.why}"


class SymbolState:
    """What the framework keeps for one symbol of a strategy."""

    __slots__ = ("bars", "candles", "flat_since", "overlays", "shown", "user")

    def __init__(self, overlays: int) -> None:
        self.user = SimpleNamespace()
        self.overlays = [SimpleNamespace() for _ in range(overlays)]
        self.flat_since: int | None = None
        self.candles: dict[str, Candle] = {}
        self.bars: tuple[Bar, ...] = ()
        self.shown: tuple[tuple[str, Candle], ...] = ()  # the candles as `Now` has them


class UserDecider:
    """A `strategy.Decider` around a user's strategy.

    Attributes:
        failure: why it was dropped; None while it runs.
        live_only, on_second: the strategy's; `own`: its attributes, `state` among them.
        overlays: what protects its positions.
        candidates: as `Now` has them.
    """

    def __init__(self, strategy: Strategy, digest: str) -> None:
        self.name, self.strategy, self.digest = name_of(type(strategy)), strategy, digest
        self.failure: Failure | None = None
        self.live_only = bool(strategy.live_only)
        self.overlays = tuple(strategy.exits())
        self._symbols: dict[int, SymbolState] = {}
        self._waiting: dict[int, tuple[dict[str, Candle], tuple[Bar, ...]]] = {}
        self._scans: dict[str, tuple[int, tuple[Candidate, ...]]] = {}
        self.candidates: tuple[Candidate, ...] = ()
        self.own = strategy.__dict__
        self.on_second = strategy.on_second

    # ---- the calls of the desk -----------------------------------------------------------------------------------

    def observe(self, con_id: int, bucket: Mapping[str, Any]) -> None:
        """Nothing: a user's strategy sees a second when it decides on it."""

    def finished(self, con_id: int, ts: int) -> None:
        """Note that a position is flat, or was never filled."""
        if (known := self._symbols.get(con_id)) is not None:
            known.flat_since = ts
            known.overlays = [SimpleNamespace() for _ in self.overlays]

    def learn(self, news: News) -> None:
        """Take in completed candles, backfilled bars and scanner rows."""
        for con_id, timeframe, values in news.candles:
            self._facts(con_id)[0][timeframe] = Candle(*values)
        for con_id in {one[0]: None for one in news.candles}:
            if (known := self._symbols.get(con_id)) is not None:
                known.shown = tuple(known.candles.items())
        for con_id, bar in news.bars:
            candles, bars = self._facts(con_id)
            self._keep(con_id, candles, (*bars, Bar(*bar))[-BARS_MAX:])
        for snapshot, scan_code, rank, symbol in news.scans:
            was, rows = self._scans.get(scan_code, (snapshot, ()))
            rows = (*(rows if was == snapshot else ()), Candidate(scan_code, rank, symbol))
            self._scans[scan_code] = snapshot, rows
        if news.scans:
            self.candidates = tuple(row for _, rows in self._scans.values() for row in rows)

    def _facts(self, con_id: int) -> tuple[dict[str, Candle], tuple[Bar, ...]]:
        if (known := self._symbols.get(con_id)) is not None:
            return known.candles, known.bars
        return self._waiting.setdefault(con_id, ({}, ()))

    def _keep(self, con_id: int, candles: dict[str, Candle], bars: tuple[Bar, ...]) -> None:
        if (known := self._symbols.get(con_id)) is not None:
            known.bars = bars
        else:
            self._waiting[con_id] = candles, bars

    def decide(self, view: View) -> Verdict:
        """Not used: `user_calls` calls the strategy.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError

    def known(self, con_id: int, symbol: str) -> SymbolState:
        """What is kept for a symbol; the strategy prepares it the first time."""
        known = self._symbols.get(con_id)
        if known is None:
            known = self._symbols[con_id] = SymbolState(len(self.overlays))
            if con_id in self._waiting:
                known.candles, known.bars = self._waiting.pop(con_id)
                known.shown = tuple(known.candles.items())
            self.own["state"] = known.user
            self.strategy.on_symbol(symbol)
        return known

    def followed(self, known: SymbolState, now: Now) -> Any:
        """The answer while shares are held: what an overlay changes, else what the strategy wants."""
        answer, held = self.on_second(now), now.position
        if not now.live or held is None or held.leaving:
            return answer
        pairs = zip(self.overlays, known.overlays, strict=True)
        changes = [change for overlay, state in pairs if (change := overlay.follow(held, now, state)) is not None]
        leaving = [change for change in changes if change.kind == "exit"]
        return leaving[:1] or changes or answer

    def verdict(self, answer: Any, now: Now) -> Verdict:
        """The checked answer.

        Raises:
            BadOrder: a wrong type, number or side.
        """
        held = now.position
        wanted = checked(self._protected(answer, now) if held is None and self.overlays else answer, now)
        if wanted.plan is not None and held is not None:
            return Verdict((*wanted.codes, _HOLDING), changes=wanted.changes)
        return Verdict(wanted.codes, wanted.plan, wanted.changes)

    def fail(self, numbers: tuple[Any, ...], symbol: str, error: BaseException) -> tuple[Verdict, Failure]:
        """Drop the strategy at a second (`user_strategy.NUMBERS`) because of an error."""
        try:
            text = " ".join(str(error).split())
        except Exception:  # noqa: BLE001 - the user's __str__
            text = "(its message cannot be read)"
        why = f"{type(error).__name__}: {text}" if text else type(error).__name__
        if (line := _line_of(error)) is not None:
            why = f"line {line}: {why}"
        why = _ADDRESS.sub("0x…", "".join(c if c.isprintable() else "?" for c in why))[:_TEXT_MAX]
        self.failure = Failure(self.name, self.digest, numbers[_SEQ], numbers[_TS], symbol, why)
        return _FAILED, self.failure

    def _protected(self, answer: Any, now: Now) -> Any:
        parts = answer if type(answer) in (list, tuple) else (answer,)
        return [self._protect(part, now) if hasattr(part, "rival") else part for part in parts]

    def _protect(self, order: EntryPlan, now: Now) -> EntryPlan:
        for overlay in self.overlays:
            order = overlay.protect(order, now)
        return order

    # ---- snapshots -----------------------------------------------------------------------------------------------

    def snapshot(self) -> Any:
        """The state as builtins; a value of another type is stored by the name of its type alone."""
        symbols = [
            [c, s.flat_since, plain(vars(s.user)), [plain(vars(o)) for o in s.overlays], plain(s.candles), list(s.bars)]
            for c, s in sorted(self._symbols.items())
        ]
        waiting = [[c, plain(candles), list(bars)] for c, (candles, bars) in sorted(self._waiting.items())]
        return [self.failure, symbols, waiting, [[code, *kept] for code, kept in self._scans.items()]]

    def restore(self, state: Any) -> None:
        """The inverse of `snapshot`.

        Raises:
            CannotRun: a value has a type that cannot be stored.
        """
        failure, symbols, waiting, scans = state
        self.failure = None if failure is None else Failure(*failure)
        for con_id, flat_since, user, overlays, candles, bars in symbols:
            known = self._symbols[con_id] = SymbolState(0)
            known.flat_since = flat_since
            known.user = SimpleNamespace(**unplain(user))
            known.overlays = [SimpleNamespace(**unplain(one)) for one in overlays]
            known.candles = {name: Candle(*candle) for name, candle in unplain(candles).items()}
            known.bars = tuple(Bar(*bar) for bar in bars)
            known.shown = tuple(known.candles.items())
        for con_id, candles, bars in waiting:
            found = {name: Candle(*candle) for name, candle in unplain(candles).items()}
            self._waiting[con_id] = found, tuple(Bar(*bar) for bar in bars)
        self._scans = {code: (was, tuple(Candidate(*row) for row in rows)) for code, was, rows in scans}
        self.candidates = tuple(row for _, rows in self._scans.values() for row in rows)


_SEQ, _TS = NUMBERS.index("seq"), NUMBERS.index("ts")
_SCALARS = (type(None), bool, int, float, str, bytes)
_INT_MAX = 2**63 - 1


def plain(value: Any) -> Any:  # noqa: PLR0911 - one line a type
    """A value as [tag, content] of builtins; a type without a tag is stored by its name, and `unplain` refuses it."""
    kind = type(value)
    if kind is int and not -_INT_MAX <= value <= _INT_MAX:
        return ["int", str(value)]
    if kind in _SCALARS:
        return ["", value]
    if kind is dict:
        return ["dict", [[plain(k), plain(v)] for k, v in value.items()]]
    if kind is deque:
        return ["deque", [value.maxlen, [plain(v) for v in value]]]
    if kind is list or isinstance(value, tuple):
        return ["list" if kind is list else "tuple", [plain(v) for v in value]]
    if kind in (set, frozenset):
        return [kind.__name__, sorted((plain(v) for v in value), key=repr)]
    if kind is SimpleNamespace:
        return ["namespace", plain(vars(value))]
    return ["?", f"{kind.__module__}.{kind.__qualname__}"]


def unplain(stored: Any) -> Any:
    """The inverse of `plain`; named tuples come back as tuples.

    Raises:
        CannotRun: the type was not stored.
    """
    tag, content = stored
    if tag == "?":
        raise CannotRun(f"a strategy keeps a {content} in self.state, which cannot be restored; fold the whole date")
    if tag == "int":
        return int(content)
    if tag == "dict":
        return {unplain(k): unplain(v) for k, v in content}
    if tag == "deque":
        return deque((unplain(v) for v in content[1]), content[0])
    if tag == "namespace":
        return SimpleNamespace(**unplain(content))
    kinds: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    return kinds[tag](unplain(v) for v in content) if tag else content


def _line_of(error: BaseException) -> int | None:
    """The line of the strategy's file that the error came from; None when it came from Harvester's own checks."""
    own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame.filename)]
    return own[-1] if own else None


def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(_PACKAGE)
