"""Symbols as people name them, in any case, and as a day has recorded them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.errors import UnknownSymbol
from harvester.events.kinds import Action, Kind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import date

    from harvester.eventlog.reader import Day


def subscribed(day: Day) -> dict[str, tuple[int, int]]:
    """Seq and ts_recv (ns UTC) of the first subscription of every symbol, sorted by symbol."""
    columns = ("action", "symbol", "con_id", "seq", "ts_recv")
    found: dict[str, tuple[int, int]] = {}
    for row in day.table(Kind.REQUEST).select(columns).to_pylist():
        if row["action"] == Action.SUBSCRIBE:
            found.setdefault(row["symbol"] or str(row["con_id"]), (row["seq"], row["ts_recv"]))
    return dict(sorted(found.items()))


def symbol_named(text: str, known: Collection[str], trading_date: date) -> str:
    """The recorded symbol somebody means: as it is written, else the one that differs in case alone.

    Raises:
        UnknownSymbol: there is none, or more than one.
    """
    if text in known:
        return text
    alike = [name for name in sorted(known) if name.casefold() == text.casefold()]
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise UnknownSymbol(f"{text!r} may be {' or '.join(alike)} on {trading_date}; write one of them as it stands")
    there = ", ".join(sorted(known)) or "none"
    raise UnknownSymbol(f"no symbol {text!r} on {trading_date}; recorded are {there}")


def symbols_named(texts: Iterable[str], known: Collection[str], trading_date: date) -> list[str]:
    """The same of several."""
    return [symbol_named(text, known, trading_date) for text in texts]
