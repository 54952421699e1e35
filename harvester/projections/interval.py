"""What the market side of the engine hands to the trading side: one `Interval` per `clock` event.

The order of things inside a second, which is the order in which `Trading.on_interval` uses an interval: working orders
are matched against its observations in `seq` order, then strategies see the closed buckets and decide, then the next
begins.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.projections.seconds import Seconds
    from harvester.projections.tape import Tape

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
"""The quote in force after a change: prices in USD, sizes in shares, `good` false when it is unknown (its numbers are
NaN or the last ones) or crossed."""

TRADES = np.dtype(
    [("seq", "<u8"), ("ts", "<i8"), ("con_id", "<i8"), ("price", "<f8"), ("size", "<f8"), ("forms_price", "?")]
)
"""Reported prints: price in USD, size in shares, `forms_price` false for past-limit and unreported ones."""


class What(StrEnum):
    """What else happened in an interval."""

    OUTAGE_BEGIN = "outage_begin"  # the feed of con_id is gone; con_id 0 = of every symbol
    OUTAGE_END = "outage_end"
    REFUSED = "refused"  # a subscription was refused; value: IB's code
    ALIGNED = "aligned"  # value: 1 all timeframes closed up, -1 all closed down, 0 no more
    DATA_TYPE = "data_type"  # message 58; value: 1 live, 2 frozen, 3 delayed, 4 delayed frozen


class Happening(NamedTuple):
    """One fact that is neither a quote nor a print."""

    seq: int
    ts: int
    con_id: int
    what: What
    value: int = 0


class Interval(NamedTuple):
    """Everything since the previous clock.

    Attributes:
        seq: of the clock that ends the interval: the `decision_seq` of what is decided on it.
        ts: `ts_recv` of that clock, ns UTC.
        happenings: outages, refusals and data types, in seq order.
        tape: the observations of this and neighbouring intervals, a stretch of clocks, by symbol …
        seconds: … the buckets those clocks closed …
        place: … and which of these clocks ends this interval.
    """

    seq: int
    ts: int
    happenings: Sequence[Happening]
    tape: Tape
    seconds: Seconds
    place: int
