"""Reconciliation: compares the day's streams with each other, per symbol and hour, with tolerances and reasons.

Three checks; none makes a day fail, they measure how far the recorded streams agree:

- `volume`: shares of the tape against the rise of IB's cumulative volume (tick 8) over the same stretches, whether the
  prints come before their tick 8 or after it (see `volume`);
- `book_top`: seconds in which the tops of the book agreed with the quote in force: SMART depth has its bid and ask, one
  venue's book no better ones;
- `bars_5s`: volume of IB's 5-second bars against the price-forming prints of the same five seconds, by IB's time.

An hour is an hour of `ts_recv`; without a clock at its end it ends at the next clock.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from harvester.calendar import iso
from harvester.events.kinds import Kind, SourceKind, TickStream
from harvester.events.unset import ABSENT_FROM, UNSET_INT
from harvester.projections.engine import Engine
from harvester.projections.market.state_arrays import INSTRUMENT
from harvester.units import HOUR_NS, SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harvester.eventlog.reader import Day
    from harvester.projections.market.market import Market
    from harvester.projections.market.volume import Stretch

BAR_NS = 5 * SECOND_NS
TOLERANCE = {"volume": 0.02, "book_top": 0.10, "bars_5s": 0.05}
"""Largest relative difference that is accepted, by check."""

SLACK = {"volume": 1_000.0, "book_top": 0.0, "bars_5s": 0.0}
"""Largest absolute difference that is accepted, in the check's unit: a few prints in a quiet hour."""

VENUE = "book_top of one venue"
REASONS = {
    "volume": (
        "a print and its tick 8 come a moment apart, in either order, and an hour may end between them; IB may leave "
        "out prints the tape carries unreported"
    ),
    "book_top": "book and quote come one after the other, and so do the sides of one change",
    VENUE: "a venue's book holds no better price than the best of all venues; book and quote come one after the other",
    "bars_5s": "bars leave out prints that form no price, and close by IB's clock",
}
NOT_MEASURED = {
    "volume": "no two values of tick 8 while the tape was on",
    "book_top": "no second with a good book and a quote of another source",
    "bars_5s": "no 5-second bar with a tape beside it",
}


class Check(NamedTuple):
    """One comparison.

    Attributes:
        hour: its start, ns UTC.
        check: `volume`, `book_top` or `bars_5s`.
        ours, theirs: the two numbers, in `unit`; of `book_top` seconds that agree, and seconds compared.
        difference: |ours - theirs| / theirs; None when nothing was measured.
        tolerance: accepted relative difference; `slack` is the accepted absolute one, in `unit`.
        verdict: `equal`, `within`, `outside` (of both) or `not measured`.
        reason: why the two may differ, or why there is nothing to compare.
    """

    symbol: str
    con_id: int
    hour: int
    check: str
    ours: float
    theirs: float
    unit: str
    difference: float | None
    tolerance: float
    slack: float
    verdict: str
    reason: str


class Reconciled(NamedTuple):
    """Every check of a date, by symbol, hour and check; the health table and the kind of the date, of the same fold."""

    checks: list[Check]
    health: list[dict[str, Any]]
    kind: str = SourceKind.UNKNOWN

    def measured(self) -> list[Check]:
        """The checks with data to compare."""
        return [check for check in self.checks if check.verdict != "not measured"]

    def outside(self) -> list[Check]:
        """The checks whose difference exceeds its tolerance."""
        return [check for check in self.checks if check.verdict == "outside"]


class Reconciler:
    """Compares the streams of a date during a fold of it.

    Args:
        day: the date.

    Attributes:
        cuts: seqs at which the fold must end a batch and call `at_cut`.
    """

    def __init__(self, day: Day) -> None:
        self._day = day
        self._hours = {seq: hour for hour, seq in _hours(day)}
        self.cuts = sorted(self._hours)
        self._checks: list[Check] = []
        self._before: dict[int, dict[str, Any]] = {}
        self._looks: list[tuple[int, dict[int, list[Stretch]]]] = []

    def at_cut(self, seq: int, engine: Engine) -> None:
        """Measure the hour that ends with event `seq`, if one does; the engine has folded up to it."""
        if seq not in self._hours:
            return
        hour, market = self._hours[seq], engine.market
        self._before = _measured(market, self._before, hour, self._checks)
        self._looks.append((hour, {con_id: market.stretches(con_id) for con_id in self._before}))

    def result(self, engine: Engine) -> Reconciled:
        """Every check of the date; the engine has folded all its events."""
        checks = [*self._checks, *_volumes(engine.market, self._looks), *_bars(self._day, engine.market)]
        checks.sort(key=lambda check: (check.symbol, check.con_id, check.hour, check.check))
        return Reconciled(checks, engine.health.rows(), engine.health_summary().kind)


def reconcile(day: Day, progress: Callable[[int, int], None] | None = None) -> Reconciled:
    """Fold the market of a date once, stopping at each hour, and compare."""
    engine, reconciler = Engine(market_only=True), Reconciler(day)
    total, done = day.rows, 0
    for batch in day.batches(None, reconciler.cuts):
        engine.fold(batch)
        done += len(batch)
        if progress:
            progress(done, total)
        reconciler.at_cut(batch.last_seq, engine)
    return reconciler.result(engine)


def _hours(day: Day) -> list[tuple[int, int]]:
    """(start of an hour, seq of the clock that ends it); the last clock ends the last hour."""
    clocks = day.frame(Kind.CLOCK).select("seq", "ts_recv").sort("seq")
    if clocks.is_empty():
        return []
    seqs, stamps = clocks["seq"].to_numpy(), clocks["ts_recv"].to_numpy()
    first, last = int(stamps[0]) // HOUR_NS, (int(stamps[-1]) - 1) // HOUR_NS
    starts = np.arange(first, max(first, last) + 1, dtype=np.int64) * HOUR_NS
    at = np.minimum(np.searchsorted(stamps, starts + HOUR_NS, "left"), len(stamps) - 1)
    keep = np.append(np.diff(at) > 0, True)  # an hour without recording has no clock
    return [(int(hour), int(seqs[i])) for hour, i in zip(starts[keep], at[keep], strict=True)]


def _measured(
    market: Market, before: dict[int, dict[str, Any]], hour: int, checks: list[Check]
) -> dict[int, dict[str, Any]]:
    """Append the checks of the hour that has ended; returns the counters."""
    now: dict[int, dict[str, Any]] = {}
    for k, symbol in enumerate(market.symbols):
        row = dict(zip(INSTRUMENT.names or (), market.state.inst[k].tolist(), strict=True))
        con_id = row["con_id"]
        now[con_id] = row
        old = before.get(con_id, dict.fromkeys(row, 0))
        agree, seconds, smart = (row[n] - old[n] for n in ("top_agree", "top_seconds", "top_smart"))
        found = _check((symbol, con_id, hour), "book_top", agree, seconds, "s")
        checks.append(found._replace(reason=REASONS[VENUE]) if found.reason and seconds > 0 == smart else found)
    return now


def _volumes(market: Market, looks: list[tuple[int, dict[int, list[Stretch]]]]) -> Iterator[Check]:
    """The checks of volume. `looks`: an hour's start, and the stretches of each con_id when it had ended.

    The order of prints and tick 8 is known only when a stretch has ended, so all hours are computed at the end.
    """
    for con_id, symbol in zip(market.state.inst["con_id"].tolist(), market.symbols, strict=False):
        leads = [stretch.tick_leads for stretch in market.stretches(con_id)]
        lots = [stretch.lot(lead) for stretch, lead in zip(market.stretches(con_id), leads, strict=True)]
        before, falls = (0.0, 0.0), 0
        for hour, stretches in looks:
            if con_id not in stretches:
                continue
            seen = stretches[con_id]
            fell = sum(stretch.falls for stretch in seen) - falls
            falls += fell
            tape = sum(stretch.printed(lead) for stretch, lead in zip(seen, leads, strict=False))
            rise = sum(stretch.volume_rise * lot for stretch, lot in zip(seen, lots, strict=False))
            check = _check((symbol, con_id, hour), "volume", tape - before[0], rise - before[1], "shares")
            noted = f"tick 8 fell {fell} time{'s' * (fell > 1)}: a new count began"
            yield check._replace(reason="; ".join(filter(None, (check.reason, noted)))) if fell else check
            before = (tape, rise)


def _bars(day: Day, market: Market) -> list[Check]:
    """The checks of 5-second bars, for hours that have any."""
    bars = day.frame(Kind.BAR).filter((pl.col("bar_size") == "5 secs") & (pl.col("what") == "TRADES"))
    bars = bars.filter(_shares("volume"))
    trades = day.frame(Kind.TRADE).filter(_shares("size") & (pl.col("ts_event") != UNSET_INT * SECOND_NS))
    trades = trades.filter(~pl.col("past_limit").fill_null(False) & ~pl.col("unreported").fill_null(False))
    names = {int(market.state.inst[k]["con_id"]): symbol for k, symbol in enumerate(market.symbols)}
    if bars.is_empty() or trades.is_empty():
        return []
    best = pl.col("stream") == pl.col("stream").max().over("con_id")  # AllLast where there is one
    assert TickStream.ALL_LAST > TickStream.LAST, "AllLast outranks Last"
    slot = pl.col("ts_event") // BAR_NS
    printed = trades.filter(best).group_by("con_id", slot=slot).agg(pl.col("size").sum())
    on = trades.group_by("con_id").agg(first=slot.min(), last=slot.max())
    joined = (
        bars.unique(["con_id", "ts_event"], maintain_order=True)
        .with_columns(slot=slot)
        .join(on, on="con_id")
        .filter(pl.col("slot").is_between(pl.col("first") + 1, pl.col("last")))
        .join(printed, on=["con_id", "slot"], how="left")
        .group_by("con_id", hour=pl.col("ts_event") // HOUR_NS * HOUR_NS)
        .agg(ours=pl.col("size").fill_null(0).sum(), theirs=pl.col("volume").sum())
    )
    return [
        _check((names.get(con_id, str(con_id)), con_id, hour), "bars_5s", ours, theirs, "shares")
        for con_id, hour, ours, theirs in joined.select("con_id", "hour", "ours", "theirs").iter_rows()
    ]


def _shares(column: str) -> pl.Expr:
    """Rows in which a column is a number of shares."""
    given = pl.col(column).is_between(0, ABSENT_FROM, closed="left")
    return given & (pl.col(column) != UNSET_INT)


def _check(of: tuple[str, int, int], check: str, ours: float, theirs: float, unit: str) -> Check:
    """One comparison; `of` is symbol, con_id and hour."""
    tolerance, slack = TOLERANCE[check], SLACK[check]
    difference = abs(ours - theirs) / theirs if theirs > 0 else None
    if difference is None or not math.isfinite(difference):  # an impossible volume: almost zero, or infinite
        difference = None
        verdict, reason = "not measured", NOT_MEASURED[check]
    else:
        near = difference <= tolerance or abs(ours - theirs) <= slack
        verdict = "equal" if difference == 0 else "within" if near else "outside"
        reason = "" if difference == 0 else REASONS[check]
    return Check(*of, check, float(ours), float(theirs), unit, difference, tolerance, slack, verdict, reason)


def check_rows(checks: list[Check]) -> list[dict[str, Any]]:
    """The checks as JSON-ready rows, hours as ISO-8601 UTC."""
    return [check._asdict() | {"hour": iso(check.hour)} for check in checks]
