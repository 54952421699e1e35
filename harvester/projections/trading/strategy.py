"""The surface of a strategy.

A strategy runs once a second: `observe` every closed bucket of a symbol in order, then `decide` once per clock and
symbol. It sees closed buckets and the quote in force at the clock, nothing later. Its digest covers its source and its
settings; a changed digest closes the positions of the old one (`RUN_CHANGE`).

A strategy may have a screen: it evaluates the coming seconds of a symbol at once, so that `decide` is called only in
those in which it could give a plan. Only the strategy decides, never the screen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.projections.trading.plan import Change, EntryPlan
    from harvester.projections.trading.simulated_exchange import ShownQuote

Array = npt.NDArray[Any]


class Holding(NamedTuple):
    """A strategy's position in a symbol and its orders, as it knows them at the clock.

    Attributes:
        long: direction of the entry.
        open: shares held; `entered`: shares filled by the entry; `working`: shares the entry still waits for.
        entry_ts, entry_price: first fill (ns UTC) and average price (USD); None before it.
        stop, target: prices of the protective orders, USD; None without one.
        leaving: an exit has been sent.
    """

    long: bool
    open: int
    entered: int
    working: int
    entry_ts: int | None
    entry_price: float | None
    stop: float | None
    target: float | None
    leaving: bool


class View(NamedTuple):
    """What a strategy sees when it decides on one symbol.

    Attributes:
        seq: decision_seq, the clock's.
        ts: the clock's `ts_recv`, ns UTC.
        bucket: the newest closed bucket of the symbol.
        shown: the quote in force.
        session: open and close of the exchange session, ns UTC, or None when there is none on the date.
        holding: a position or a working entry exists.
        outage: the symbol's feed is interrupted.
        halted: trading in the symbol is halted.
        position: what is held or working, None = nothing.
    """

    seq: int
    ts: int
    con_id: int
    symbol: str
    bucket: Mapping[str, Any]
    shown: ShownQuote
    session: tuple[int, int] | None
    holding: bool
    outage: bool
    halted: bool = False
    position: Holding | None = None


class Verdict(NamedTuple):
    """The gates that refuse (empty = allowed), the plan, None = do nothing, and changes of the position held."""

    gates: tuple[str, ...]
    plan: EntryPlan | None = None
    changes: tuple[Change, ...] = ()

    def only_aligned(self, way: int) -> Verdict:
        """The verdict, refused with `MTF_ALIGNMENT` unless its plan has the direction of the signal: 1 up, -1 down."""
        if self.plan is None or way == (1 if self.plan.long else -1):
            return self
        return Verdict((*self.gates, "MTF_ALIGNMENT"), changes=self.changes)


class Decider(Protocol):
    """What the trading fold calls; the state is plain data. `user_decider` makes one of a user's class."""

    name: str

    def observe(self, con_id: int, bucket: Mapping[str, Any]) -> None:
        """Take in one closed bucket; called for every one, in order."""

    def decide(self, view: View) -> Verdict:
        """Decide on the current second of one symbol."""

    def finished(self, con_id: int, ts: int) -> None:
        """Note that a position of this symbol is flat, or its entry was never filled (`ts` ns UTC)."""

    def snapshot(self) -> Any:
        """The state as builtins."""

    def restore(self, state: Any) -> None:
        """The inverse of `snapshot`."""


class Ahead(NamedTuple):
    """The coming seconds of one symbol, with the fields of a `View` for each.

    Attributes:
        con_id: the symbol.
        rows: its closed buckets, dtype `bucket_columns.SECONDS`, shape (seconds,).
        ts: of the clock that closed each, ns UTC, int64.
        shown: whether the quote in force at that clock is live, bool.
        session: as in `View`.
        outage: the symbol's feed is interrupted throughout; `halted`: trading in it is halted throughout.
    """

    con_id: int
    rows: Array
    ts: Array
    shown: Array
    session: tuple[int, int] | None
    outage: bool
    halted: bool = False


class Screen(Protocol):
    """Evaluates a strategy over the coming seconds of a symbol, valid until a position in it opens or closes.

    Only a strategy that decides on each symbol independently can have a screen. `codes` are its gates in the order in
    which `decide` gives them.
    """

    codes: tuple[str, ...]

    def __init__(self, strategy: Any, ahead: Ahead) -> None:
        """`strategy` has observed everything before `ahead`, and nothing in it."""

    def look(self, since: int, *, holding: bool) -> tuple[Array, Array]:
        """Evaluate the rows from `since` on, with the strategy's current state.

        Returns:
            Gates, int64, bit k for `codes[k]`: exactly those `decide` would give; and whether `decide` must be called,
            bool: false only where it would give no plan.
        """
        ...

    @staticmethod
    def observe(strategy: Any, con_id: int, rows: Array) -> None:
        """Set the strategy to the state it would have after observing these rows one by one."""
