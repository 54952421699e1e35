"""What a strategy sends to the simulated exchange: entries with protective orders, and changes of what is working.

The rules by which they are filled are in docs/trading.md.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class OrderType(StrEnum):
    """Types of orders; each may open a position."""

    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    STOP_LIMIT = "stop_limit"
    TRAIL = "trail"


class EntryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """An order that opens a position, with the orders that protect it.

    Attributes:
        long: buy to open, else sell to open.
        quantity: whole shares.
        reason: entry reason in the episode.
        type: type of the entry.
        limit: limit price of a limit or stop-limit entry, USD.
        trigger: stop price of a stop or stop-limit entry, USD.
        trail: distance of a trailing entry from the quote, USD.
        immediate: cancel what does not fill on arrival (IOC); else it works (DAY).
        valid_seconds: how long the entry may work from its arrival; None = until positions are closed.
        stop: price at which the loss is cut, USD; None = no protective stop.
        stop_trail: the stop follows the quote at this distance, USD; with `stop`, from the better of the two.
        target: price of the resting profit order, USD; None = none.
        hold_seconds_max: time stop, from the first fill; the first clock at or after it acts. None = none.
        features: inputs of the decision.
        rival: a second entry; the first fill of either cancels the other (OCO).
    """

    long: bool
    quantity: int
    reason: str
    type: OrderType = OrderType.MARKET
    limit: float | None = None
    trigger: float | None = None
    trail: float | None = None
    immediate: bool = False
    valid_seconds: float | None = None
    stop: float | None = None
    stop_trail: float | None = None
    target: float | None = None
    hold_seconds_max: float | None = None
    features: dict[str, float | None] = {}
    rival: EntryPlan | None = None


class ChangeKind(StrEnum):
    """Changes of a position or of its working entry."""

    EXIT = "exit"  # close at the market; the rest of the entry is cancelled
    STOP = "stop"  # a new stop price; places a stop where there was none
    TARGET = "target"  # a new target price; places a target where there was none
    ENTRY = "entry"  # a new limit price, of a stop entry without a limit a new trigger price
    CANCEL = "cancel"  # cancel the rest of the entry


class Change(msgspec.Struct, frozen=True):
    """A message about the strategy's position in a symbol; it arrives as an entry does (docs/trading.md, rule 1).

    Attributes:
        kind: what it does.
        price: the new price, USD; None for an exit or a cancellation.
        reason: exit reason in the episode, of an exit.
    """

    kind: ChangeKind
    price: float | None = None
    reason: str = ""
