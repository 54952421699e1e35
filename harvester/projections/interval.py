"""The interface between the market side and the trading side: one `Interval` per `clock` event.

The order within a second, as `Trading.on_interval` applies it: working orders are matched against the observations in
`seq` order, then strategies see the closed buckets and decide, then the next interval begins.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.projections.trading.fast.bucket_columns import BucketColumns
    from harvester.projections.trading.fast.observations import Observations

QUOTES = np.dtype(
    [
        ("seq", "<u8"),
        ("ts", "<i8"),
        ("con_id", "<i8"),
        ("bid", "<f8"),
        ("ask", "<f8"),
        ("bid_size", "<f8"),
        ("ask_size", "<f8"),
        ("good", "?"),
    ]
)
"""The quote in force after a change: prices in USD, sizes in shares; `good` is false when it is crossed or unknown (its
numbers are then NaN or the last ones)."""

TRADES = np.dtype(
    [
        ("seq", "<u8"),
        ("ts", "<i8"),
        ("con_id", "<i8"),
        ("price", "<f8"),
        ("size", "<f8"),
        ("forms_price", "?"),
        ("triggers", "?"),
    ]
)
"""Reported prints: price in USD, size in shares, `forms_price` false for past-limit and unreported ones; `triggers`: it
forms the price and is not an odd lot, see `state_arrays.ROUND_LOT`."""


class OccurrenceKind(StrEnum):
    """Kinds of `Occurrence`."""

    OUTAGE_BEGIN = "outage_begin"  # the feed of con_id is interrupted; con_id 0 = every symbol
    OUTAGE_END = "outage_end"
    REFUSED = "refused"  # a subscription was refused; value: IB's code
    ALIGNED = "aligned"  # value: 1 all timeframes closed up, -1 all closed down, 0 neither any more
    DATA_TYPE = "data_type"  # message 58; value: 1 live, 2 frozen, 3 delayed, 4 delayed frozen
    HALT = "halt"  # trading in con_id; value: 0 not halted, 1 general, 2 volatility
    QUOTE_LOST = "quote_lost"  # the stream of the quote in force of con_id is silent, refused or cancelled
    MIN_TICK = "min_tick"  # smallest price step of con_id; value: in units of 1e-9 USD
    DARK = "dark"  # derived by `LiveQuotes`; value: why con_id is unseen from here on, bits of `Dark`, 0 = it is seen
    STRATEGY_DROPPED = "strategy_dropped"  # a user's strategy failed; con_id 0, text: detail of the notice
    SOURCE = "source"  # the kind of the date changed; con_id 0, value: index of `provenance.KINDS`


class Occurrence(NamedTuple):
    """A fact that is neither a quote nor a print; `ts` ns UTC."""

    seq: int
    ts: int
    con_id: int
    what: OccurrenceKind
    value: int = 0
    text: str = ""


class News(NamedTuple):
    """What only users' strategies read, since the previous clock.

    Attributes:
        candles: completed by this clock, as (con_id, timeframe, (start, end, open, high, low, close, samples)).
        bars: backfilled, as (con_id, (bar size, time, open, high, low, close, volume)), in seq order.
        scans: rows of scanner snapshots, as (snapshot, scan code, rank, symbol), in seq order.
    """

    candles: Sequence[tuple[int, str, tuple[Any, ...]]] = ()
    bars: Sequence[tuple[int, tuple[Any, ...]]] = ()
    scans: Sequence[tuple[int, str, int, str]] = ()


class Interval(NamedTuple):
    """Everything since the previous clock.

    Attributes:
        seq: of the clock that ends the interval: the `decision_seq` of what is decided on it.
        ts: `ts_recv` of that clock, ns UTC.
        happenings: outages, halts, lost quotes, refusals, data types, min ticks, run ends and alignments, in seq order.
        tape: observations by symbol of a stretch: this and neighbouring intervals.
        seconds: the buckets that the clocks of the stretch closed.
        place: index of the clock that ends this interval.
        news: None when no strategy reads it or there is none.
        quiet: index of the next clock with happenings, news or a run start in its interval, 0 = not known.
    """

    seq: int
    ts: int
    happenings: Sequence[Occurrence]
    tape: Observations
    seconds: BucketColumns
    place: int
    news: News | None = None
    quiet: int = 0
