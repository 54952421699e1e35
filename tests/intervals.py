"""One interval of a stretch as lists of values (buckets, quotes, prints), for comparisons."""

from __future__ import annotations

from typing import Any

from harvester.projections.interval import QUOTES, TRADES, Interval
from harvester.projections.trading.fast.bucket_columns import rows_of


def buckets(interval: Interval) -> list[tuple[int, str, dict[str, Any]]]:
    """(con_id, symbol, row) of what the clock closed, ordered by (ts, con_id)."""
    seconds, rows = interval.seconds, interval.seconds.between(interval.place)
    con_ids = seconds.con_ids[rows.start : rows.stop].tolist()
    made = rows_of(seconds.rows[rows.start : rows.stop])
    return [(con_id, seconds.symbols[con_id], row) for con_id, row in zip(con_ids, made, strict=True)]


def quotes(interval: Interval) -> list[tuple[Any, ...]]:
    """Changes of the quotes in force since the previous clock, fields as in `QUOTES`, in seq order."""
    return _between(interval, interval.tape._quotes, interval.tape._of_quotes, QUOTES.names)


def trades(interval: Interval) -> list[tuple[Any, ...]]:
    """Prints since the previous clock, fields as in `TRADES`, in seq order."""
    return _between(interval, interval.tape._trades, interval.tape._of_trades, TRADES.names)


def _between(
    interval: Interval, columns: dict[str, Any], symbols: dict[int, slice], names: tuple[str, ...] | None
) -> list[tuple[Any, ...]]:
    clocks = interval.tape.clocks
    since = clocks[interval.place - 1] if interval.place else 0
    out = []
    for con_id, rows in symbols.items():
        values = [
            [con_id] * (rows.stop - rows.start) if n == "con_id" else columns[n][rows].tolist() for n in names or ()
        ]
        out += [row for row in zip(*values, strict=True) if since < row[0] < clocks[interval.place]]
    return sorted(out, key=lambda row: row[0])
