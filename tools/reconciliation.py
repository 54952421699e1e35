"""Print the tables of docs/reconciliation.md from a recording: `python tools/reconciliation.py HOME 2013-10-07`."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from harvester.calendar import iso
from harvester.eventlog.reader import open_day
from harvester.home import Home
from harvester.projections.reconcile_streams import Check, Reconciled, reconcile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MEASURES = (
    ("tape volume, shares", "tape_volume"),
    ("last value of tick 8", "cumulative_volume"),
    ("increase of tick 8 after its first value", "volume_checked"),
    ("tape volume counted by this increase", "tape_checked"),
    ("price-forming prints with a quote in force", "prints_quoted"),
    ("of these, outside the quote", "prints_outside"),
    ("seconds with a crossed quote at their end", "crossed_seconds"),
)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _measures(found: Reconciled) -> Iterator[str]:
    values = {(row["symbol"], row["measure"]): row["value"] for row in found.health if row["stream"] is None}
    symbols = sorted({check.symbol for check in found.checks}, reverse=True)
    yield _line(["", *symbols])
    yield "|" + "---|" * (1 + len(symbols))
    for about, measure in MEASURES:
        yield _line([about, *(f"{values[symbol, measure]:,.0f}" for symbol in symbols)])
    inside = [1 - values[symbol, "prints_outside"] / values[symbol, "prints_quoted"] for symbol in symbols]
    yield _line(["prints inside the quote in force", *(f"{share:.1%}".replace("%", " %") for share in inside)])
    for symbol in symbols:
        yield from ("", f"### {symbol}", "", *_hours([check for check in found.checks if check.symbol == symbol]))


def _hours(checks: list[Check]) -> Iterator[str]:
    yield _line(["hour", "tape", "tick 8", "difference", "verdict", "prints", "5-second bars", "verdict"])
    yield "|" + "---|" * 8
    for hour, of in groupby(checks, key=lambda check: check.hour):
        by_name = {check.check: check for check in of}
        volume, bars = by_name["volume"], by_name.get("bars_5s")
        if not any(check and check.difference is not None for check in (volume, bars)):
            continue
        yield _line([iso(hour)[11:16], *_numbers(volume), volume.verdict, *_numbers(bars, difference=False),
                     bars.verdict if bars else "not measured"])  # fmt: skip


def _numbers(check: Check | None, *, difference: bool = True) -> list[str]:
    if check is None or check.difference is None:
        return [""] * (2 + difference)
    relative = [f"{check.difference:.3%}".replace("%", " %")] if difference else []
    return [f"{check.ours:,.0f}", f"{check.theirs:,.0f}", *relative]


if __name__ == "__main__":
    home, trading_date = sys.argv[1:]
    print("\n".join(_measures(reconcile(open_day(trading_date, Home(Path(home)))))))  # noqa: T201 - its output
