"""List the symbols of a recorded day, and find one in any letter case."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.errors import UnknownSymbol
from harvester.events.kinds import Action, Kind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import date

    from harvester.eventlog.reader import Day


def subscribed(day: Day) -> dict[str, tuple[int, int]]:
    """Symbol → seq and ts_recv (ns UTC) of its first subscription, sorted by symbol."""
    columns = ("action", "symbol", "con_id", "seq", "ts_recv")
    first: dict[str, tuple[int, int]] = {}
    for row in day.table(Kind.REQUEST).select(columns).to_pylist():
        if row["action"] == Action.SUBSCRIBE:
            first.setdefault(row["symbol"] or str(row["con_id"]), (row["seq"], row["ts_recv"]))
    return dict(sorted(first.items()))


def symbol_named(text: str, known: Collection[str], trading_date: date) -> str:
    """The recorded symbol equal to a text, else the one that differs only in letter case.

    Raises:
        UnknownSymbol: no recorded symbol matches, or several do.
    """
    if text in known:
        return text
    alike = [name for name in sorted(known) if name.casefold() == text.casefold()]
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise UnknownSymbol(f"{text!r} matches {' and '.join(alike)} on {trading_date}; write one of them exactly")
    recorded = ", ".join(sorted(known)) or "none"
    raise UnknownSymbol(f"{text!r} was not recorded on {trading_date} (recorded: {recorded})")


def symbols_named(texts: Iterable[str], known: Collection[str], trading_date: date) -> list[str]:
    """`symbol_named` for several texts."""
    return [symbol_named(text, known, trading_date) for text in texts]
