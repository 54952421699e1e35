"""From quotes in force to live quotes: outages, halts and dead streams become changes of the quote.

Trading may trade only on a live quote (docs/trading.md). A fact that begins or ends darkness adds a row to the symbol's
quotes at its own seq, so that the exchange only checks whether the newest row is good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harvester.projections.interval import QUOTES, Occurrence, OccurrenceKind
from harvester.projections.trading.darkness import Dark

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.projections.market.state_arrays import Array
    from harvester.projections.step import RunStart


class Fact(NamedTuple):
    """A fact about one symbol (0 = all), `run`: a run start."""

    seq: int
    ts: int
    con_id: int
    what: OccurrenceKind | None
    value: int = 0


_FACTS = frozenset(
    (OccurrenceKind.OUTAGE_BEGIN, OccurrenceKind.OUTAGE_END, OccurrenceKind.HALT, OccurrenceKind.QUOTE_LOST)
)


class LiveQuotes:
    """Folds quotes and facts; the state is the newest quote of each symbol and why it is dark."""

    def __init__(self) -> None:
        self._newest: dict[int, Array] = {}  # by con_id: its newest quote, shape (1,)
        self._outages: set[int] = set()  # 0 = of every symbol
        self._halted: set[int] = set()
        self._lost: set[int] = set()
        self._reported: dict[int, int] = {}  # by con_id: the darkness last reported to trading; other symbols are seen

    def fold(
        self, quotes: Array, happenings: Sequence[Occurrence], runs: Sequence[RunStart]
    ) -> tuple[Array, list[Occurrence]]:
        """The live quotes of a step, and where symbols become dark or seen; all in seq order."""
        facts = [Fact(h.seq, h.ts, h.con_id, h.what, h.value) for h in happenings if h.what in _FACTS]
        facts += [Fact(run.seq, run.ts, 0, None) for run in runs]
        if not facts and not self._lost and not self._halted and not self._outages:
            self._remember(quotes)
            return quotes, []
        facts.sort(key=_seq_of)
        return self._mark(quotes, facts)

    def _remember(self, quotes: Array) -> None:
        con_ids = quotes["con_id"]
        if not len(con_ids):
            return
        known, at = np.unique(con_ids[::-1], return_index=True)
        for con_id, place in zip(known.tolist(), (len(con_ids) - 1 - at).tolist(), strict=True):
            self._newest[con_id] = quotes[place : place + 1].copy()

    def _mark(self, quotes: Array, facts: list[Fact]) -> tuple[Array, list[Occurrence]]:
        quotes = quotes.copy()
        added: list[Array] = []
        dark: list[Occurrence] = []
        con_ids = sorted({*self._newest, *np.unique(quotes["con_id"]).tolist(), *(f.con_id for f in facts)} - {0})
        before = frozenset(self._outages)
        for con_id in con_ids:
            self._outages = set(before)
            symbol = _Symbol(self, con_id, quotes, added, dark)
            symbol.walk([f for f in facts if f.con_id in (0, con_id)])
        self._outages = set(before)
        for fact in facts:
            self._follow_outages(fact)
        rows = np.concatenate([quotes, *added]) if added else quotes
        return rows[np.argsort(rows["seq"], kind="stable")], sorted(dark, key=_seq_of)

    def _follow_outages(self, fact: Fact) -> None:
        if fact.what is OccurrenceKind.OUTAGE_BEGIN:
            self._outages.add(fact.con_id)
        elif fact.what is OccurrenceKind.OUTAGE_END:
            self._outages.discard(fact.con_id)
        elif fact.what is None:
            self._outages.clear()

    def why(self, con_id: int) -> Dark:
        """Why a symbol is dark."""
        found = Dark(0)
        if con_id in self._outages or 0 in self._outages:
            found |= Dark.OUTAGE
        if con_id in self._halted:
            found |= Dark.HALT
        if con_id in self._lost:
            found |= Dark.LOST
        return found

    def apply(self, fact: Fact, con_id: int) -> None:
        """Apply a fact to the state of one symbol."""
        self._follow_outages(fact)
        if fact.what is None:
            self._halted.discard(con_id)
        if fact.what is OccurrenceKind.HALT:
            (self._halted.add if fact.value else self._halted.discard)(con_id)
        elif con_id in self._newest:
            self._lost.add(con_id)

    def report(self, con_id: int) -> Dark | None:
        """The darkness of a symbol when it changed since the last call; None for a symbol without a quote."""
        why = self.why(con_id)
        if con_id not in self._newest or why == self._reported.get(con_id, 0):
            return None
        self._reported[con_id] = int(why)
        return why

    def hear(self, con_id: int, row: Array, *, speaks: bool) -> None:
        """Take in a symbol's newest quote; `speaks`: it or one before it proves that the stream is alive."""
        if speaks:
            self._lost.discard(con_id)
        if speaks or con_id in self._newest:
            self._newest[con_id] = row.copy()

    def newest(self, con_id: int) -> Array | None:
        """A symbol's newest quote, shape (1,)."""
        return self._newest.get(con_id)

    def snapshot(self) -> Any:
        """The state as builtins."""
        newest = [(con_id, row.tobytes()) for con_id, row in sorted(self._newest.items())]
        reported = sorted((con_id, why) for con_id, why in self._reported.items() if why)
        return [newest, sorted(self._outages), sorted(self._halted), sorted(self._lost), reported]

    def restore(self, state: Any) -> None:
        """The inverse of `snapshot`."""
        newest, outages, halted, lost, reported = state
        self._newest = {con_id: np.frombuffer(raw, QUOTES).copy() for con_id, raw in newest}
        self._outages, self._halted, self._lost = set(outages), set(halted), set(lost)
        self._reported = dict(reported)


class _Symbol:
    """Walks one symbol through the facts of a step."""

    def __init__(
        self, live: LiveQuotes, con_id: int, quotes: Array, added: list[Array], dark: list[Occurrence]
    ) -> None:
        self._live, self._con_id, self._quotes, self._added, self._dark = live, con_id, quotes, added, dark
        self._rows = np.flatnonzero(quotes["con_id"] == con_id)
        mine = quotes[self._rows]
        self._seqs = mine["seq"].astype(np.int64)
        self._known = np.isfinite(mine["bid"]) | np.isfinite(mine["ask"])

    def walk(self, facts: list[Fact]) -> None:
        """Mark the symbol's quotes that are not live, and add a row where a fact changes whether the newest one is."""
        begin = 0
        for fact in facts:
            end = int(self._seqs.searchsorted(fact.seq, "right"))
            self._hear(begin, end)
            begin = end
            was = self._shows()
            self._live.apply(fact, self._con_id)
            self._report(fact.seq, fact.ts)
            row = self._live.newest(self._con_id)
            if row is not None and self._shows() != was:
                row = row.copy()
                row["seq"], row["ts"], row["good"] = fact.seq, fact.ts, not was
                self._added.append(row)
        self._hear(begin, len(self._rows))

    def _shows(self) -> bool:
        """Whether the newest quote is live."""
        row = self._live.newest(self._con_id)
        return row is not None and _is_priced(row) and not self._live.why(self._con_id)

    def _hear(self, begin: int, end: int) -> None:
        """Take in quotes between two facts: the first that says anything proves that the stream is alive."""
        if begin == end:
            return
        rows = self._rows[begin:end]
        speaks = np.flatnonzero(self._known[begin:end])
        self._live.hear(self._con_id, self._quotes[rows[-1] : rows[-1] + 1], speaks=bool(len(speaks)))
        first = self._quotes[rows[speaks[0] if len(speaks) else 0]]
        self._report(int(first["seq"]), int(first["ts"]))
        if self._live.why(self._con_id):
            self._quotes["good"][rows] = False

    def _report(self, seq: int, ts: int) -> None:
        if (why := self._live.report(self._con_id)) is not None:
            self._dark.append(Occurrence(seq, ts, self._con_id, OccurrenceKind.DARK, int(why)))


def _is_priced(row: Array) -> bool:
    """Whether a quote has a price and a size on both sides, and is not crossed."""
    numbers = np.array([row[name][0] for name in ("bid", "ask", "bid_size", "ask_size")])
    return bool(row["good"][0]) and bool(((numbers > 0) & (numbers < np.inf)).all())


def _seq_of(fact: Fact | Occurrence) -> int:
    return fact.seq
