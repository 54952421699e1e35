"""Costs of an order in plain steps, each tier on its own; from the builtins of a run's start event."""

from __future__ import annotations

from typing import Any


def charged(table: dict[str, Any], *, sell: bool, taken: int, added: int, value: float) -> float:
    """USD for everything an order has filled; tables of earlier versions lack most fields."""
    shares = taken + added
    if shares == 0:
        return 0.0
    fee = table.get
    broker = 0.0
    bounds = [(0, fee("per_share", 0.0)), *fee("tiers", ())]
    for number, (above, rate) in enumerate(bounds):
        up_to = bounds[number + 1][0] if number + 1 < len(bounds) else float("inf")
        month = fee("monthly_shares", 0)
        before, after = min(max(month, above), up_to), min(max(month + shares, above), up_to)
        broker += (after - before) * rate
    broker = max(broker, fee("minimum", 0.0))
    broker = min(broker, fee("maximum_fraction", 1.0) * value)
    parts = [broker, broker * fee("pass_through_fraction", 0.0), shares * fee("clearing_fee", 0.0)]
    if value / shares >= 1.0:
        parts += [taken * fee("remove_fee", 0.0), -added * fee("add_rebate", 0.0)]
    else:
        parts.append(value / shares * taken * fee("remove_fraction", 0.0))
    if sell:
        parts.append(value * fee("sec_fraction", 0.0))
        parts.append(min(shares * fee("taf_per_share", 0.0), fee("taf_maximum", 0.0)))
    return float(sum(parts))
