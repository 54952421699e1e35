"""Runs a user's `Strategy` in the trading fold: checks what it returns, keeps its state, and drops it when it fails.

From the second in which it fails it decides nothing more. The failure is the same in every fold of the log.
"""

from __future__ import annotations

import re
import traceback
from collections import deque
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from harvester.errors import CannotRun
from harvester.projections.trading.failure import Failure, printable
from harvester.projections.trading.message_counts import HOLDING
from harvester.projections.trading.position import STRATEGY_ERROR
from harvester.projections.trading.strategy import Verdict
from harvester.projections.trading.user_strategy import (
    Bar,
    Candidate,
    Candle,
    checked,
    name_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harvester.projections.interval import News
    from harvester.projections.trading.message_counts import MessageCounts
    from harvester.projections.trading.plan import EntryPlan
    from harvester.projections.trading.strategy import View
    from harvester.projections.trading.user_strategy import Now, Strategy

BARS_MAX = 100
_FAILED = Verdict((STRATEGY_ERROR,))
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
_PACKAGE = Path(__file__).resolve().parents[2]


class RecordedFailure(Exception):
    """The log says that the strategy failed here."""


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

    Args:
        strategy: a fresh one.
        digest: of its source and settings.
        recorded: its failure according to the log; from there on it is not called.
        name: None = that of its class.

    Attributes:
        failure: why it was dropped; None while it runs.
        counts: what it built, returned and was refused.
        live_only, on_second: the strategy's; `own`: its attributes, `state` among them.
        overlays: what protects its positions.
        candidates: as `Now` has them.
    """

    def __init__(
        self, strategy: Strategy, digest: str, recorded: Failure | None = None, name: str | None = None
    ) -> None:
        self.name, self.strategy, self.digest = name or name_of(type(strategy)), strategy, digest
        self.failure: Failure | None = None
        self.recorded = recorded
        self.live_only = bool(strategy.live_only)
        self.overlays = tuple(strategy.exits())
        self._symbols: dict[int, SymbolState] = {}
        self._waiting: dict[int, tuple[dict[str, Candle], tuple[Bar, ...]]] = {}
        self._scans: dict[str, tuple[int, tuple[Candidate, ...]]] = {}
        self.candidates: tuple[Candidate, ...] = ()
        self.own = strategy.__dict__
        self.on_second = strategy.on_second
        self.counts: MessageCounts = self.own["_counts"]

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
        if self.failure is not None:
            return
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

    def known(self, at: tuple[int, int, int], symbol: str) -> SymbolState:
        """What is kept for a symbol; the strategy prepares it the first time, at (seq, ts, con_id)."""
        con_id = at[2]
        known = self._symbols.get(con_id)
        if known is None:
            known = self._symbols[con_id] = SymbolState(len(self.overlays))
            if con_id in self._waiting:
                known.candles, known.bars = self._waiting.pop(con_id)
                known.shown = tuple(known.candles.items())
            self.own["state"] = known.user
            self.prepare(at, symbol)
        return known

    def prepare(self, at: tuple[int, int, int], symbol: str) -> None:
        """Let the strategy prepare the state of a symbol, at (seq, ts, con_id)."""
        del at
        self.strategy.on_symbol(symbol)

    def until_failure(self, call: Callable[[Now], Any], now: Now) -> Any:
        """The answer of a strategy whose failure is recorded.

        Raises:
            RecordedFailure: it has failed by this second; the call that failed is not made again.
        """
        assert self.recorded is not None
        if now.seq > self.recorded.seq or (now.seq == self.recorded.seq and now.con_id == self.recorded.con_id):
            raise RecordedFailure
        return call(now)

    def decide_second(self, now: Now) -> Verdict:
        """Decide on one second; `user_calls` does the same over many. `now` lacks what is kept here."""
        if self.failure is not None:
            return _FAILED
        if self.live_only and (now.why_not_live or now.mid is None):
            return Verdict((now.why_not_live or "NOT_LIVE",))
        try:
            known = self.known((now.seq, now.ts, now.con_id), now.symbol)
            now = now._replace(candles=known.shown, bars=known.bars)
            now = now._replace(candidates=self.candidates, flat_since=known.flat_since)
            self.own["state"] = known.user
            follows = now.position is not None and now.position.open and self.overlays
            call: Callable[[Now], Any] = partial(self.followed, known) if follows else self.on_second
            answer = call(now) if self.recorded is None else self.until_failure(call, now)
            return self.verdict(answer, now)
        except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001 - a user's code may raise anything
            return self.fail((now.seq, now.ts, now.con_id, now.symbol), error)[0]

    def followed(self, known: SymbolState, now: Now) -> Any:
        """The answer while shares are held: what an overlay changes, else what the strategy wants."""
        answer, held = self.on_second(now), now.position
        if not now.live or held is None or held.leaving:
            return answer
        pairs = zip(self.overlays, known.overlays, strict=True)
        changes = [change for overlay, state in pairs if (change := overlay.follow(held, now, state)) is not None]
        leaving = [change for change in changes if change.kind == "exit"]
        if changes:
            self.counts.returned(answer)  # it came, and does not act
        return leaving[:1] or changes or answer

    def verdict(self, answer: Any, now: Now) -> Verdict:
        """The checked answer.

        Raises:
            BadOrder: a wrong type, number or side.
        """
        held = now.position
        self.counts.returned(answer)
        wanted = checked(self._protected(answer, now) if held is None and self.overlays else answer, now)
        if wanted.plan is not None and held is not None:
            self.counts.refuse((HOLDING,))
            return Verdict((*wanted.codes, HOLDING), changes=wanted.changes)
        if wanted.plan is not None:
            self.counts.refuse(wanted.codes)
        return Verdict(wanted.codes, wanted.plan, wanted.changes)

    def drop(self, failure: Failure) -> None:
        """End it: it decides nothing more, and its memory is freed."""
        self.failure = failure
        self._symbols, self._waiting, self._scans, self.candidates = {}, {}, {}, ()
        self.own["state"] = SimpleNamespace()

    def fail(self, at: tuple[int, int, int, str], error: BaseException) -> tuple[Verdict, Failure]:
        """Drop the strategy at a second (seq, ts, con_id, symbol) because of an error."""
        if isinstance(error, RecordedFailure):
            assert self.recorded is not None
            self.drop(self.recorded)
            return _FAILED, self.recorded
        try:
            text = " ".join(str(error).split())
        except Exception:  # noqa: BLE001 - the user's __str__
            text = "(its message cannot be read)"
        why = f"{type(error).__name__}: {text}" if text else type(error).__name__
        if (place := _place_of(error)) is not None:
            why = f"{place}: {why}"
        why = printable(_ADDRESS.sub("0x…", why))
        failure = Failure(self.name, self.digest, *at, why)
        self.drop(failure)
        return _FAILED, failure

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


def _place_of(error: BaseException) -> str | None:
    """File and line of the strategy that the error came from; None when it came from Harvester's own checks."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame.filename)]
    if not own:
        return None
    file = own[-1].filename
    name = file.removeprefix("<strategy ").removesuffix(">").rpartition(".")[2] + ".py"
    return f"{name if file.startswith('<strategy ') else Path(file).name}, line {own[-1].lineno}"


def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(_PACKAGE)
