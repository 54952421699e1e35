"""Costs of an order by a named, dated table. The table is part of the run's start event: a replay charges the same.

`ibkr_fixed`: USD 0.005 a share, at least 1.00 an order, at most 1 % of the trade value; exchange and clearing fees are
included, the SEC fee and the FINRA TAF of sells are added.
`ibkr_tiered`: a commission by monthly volume, at least 0.35 an order, at most 1 % of the trade value; fees of exchange
and clearing, pass-through fees, SEC fee and FINRA TAF are added.
`none`: nothing.

Source: interactivebrokers.com, Pricing > Commissions > Stocks, "IBKR Pro", United States, with its page "Stock and ETF
Fixed vs. Tiered Pricing Comparison Examples". docs/costs.md has all sources, and what is left out or approximated.
Nothing is rounded to cents: IBKR's own examples are not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from harvester.errors import BadSetting
from harvester.projections.trading.cost_rates import FINRA_TAF, SEC_FEE

if TYPE_CHECKING:
    from datetime import date


class CostTable(msgspec.Struct, frozen=True):
    """Costs of one order, USD. Fields without a value, as in runs recorded before they existed, charge nothing.

    Attributes:
        name: its name in episodes.
        per_share: commission, USD a share.
        minimum: commission, USD an order, charged once the order has filled at all.
        maximum_fraction: commission, of the order's trade value; wins over `minimum`.
        tiers: (shares, USD a share), ascending: the commission of the month's shares beyond that number.
        monthly_shares: shares of the month before this order.
        remove_fee: USD a share that removed liquidity, at an average price of USD 1 or more.
        remove_fraction: of the trade value that removed liquidity, below USD 1.
        add_rebate: USD paid back a share that added liquidity, at USD 1 or more.
        clearing_fee: USD a share.
        pass_through_fraction: of the commission.
        sec_fraction: of the trade value of a sell.
        taf_per_share: USD a share of a sell.
        taf_maximum: USD an order.
        note: which rates are not known for the trading date; else empty.
    """

    name: str
    per_share: float = 0.0
    minimum: float = 0.0
    maximum_fraction: float = 1.0
    tiers: tuple[tuple[int, float], ...] = ()
    monthly_shares: int = 0
    remove_fee: float = 0.0
    remove_fraction: float = 0.0
    add_rebate: float = 0.0
    clearing_fee: float = 0.0
    pass_through_fraction: float = 0.0
    sec_fraction: float = 0.0
    taf_per_share: float = 0.0
    taf_maximum: float = 0.0
    note: str = ""

    def charged(self, *, sell: bool, taken: int, added: int, value: float) -> float:
        """USD for everything one order has filled so far; 0.0 before its first fill, below 0 when rebates exceed fees.

        Args:
            sell: it is a sell, short or not.
            taken: shares that removed liquidity.
            added: shares that added liquidity.
            value: trade value of all of them, USD.
        """
        shares = taken + added
        if shares <= 0:
            return 0.0
        commission = self.commission(shares, value)
        total = commission * (1.0 + self.pass_through_fraction) + self.clearing_fee * shares
        if value < shares:
            total += self.remove_fraction * value * taken / shares
        else:
            total += self.remove_fee * taken - self.add_rebate * added
        if sell:
            total += self.sec_fraction * value + min(self.taf_per_share * shares, self.taf_maximum)
        return total

    def commission(self, shares: float, value: float) -> float:
        """The broker's part of `charged`, USD: `shares` of a trade value of `value` USD, without the fees of others."""
        if shares <= 0:
            return 0.0
        return min(max(self._by_volume(shares), self.minimum), self.maximum_fraction * value)

    def round_trip(self, price: float, quantity: int) -> float:
        """USD a share for buying and selling `quantity` shares at `price`, both removing liquidity; 0.0 for none."""
        if quantity <= 0:
            return 0.0
        value = price * quantity
        bought = self.charged(sell=False, taken=quantity, added=0, value=value)
        return (bought + self.charged(sell=True, taken=quantity, added=0, value=value)) / quantity

    def _by_volume(self, shares: float) -> float:
        """Each share at the rate of its tier, counted from `monthly_shares`."""
        first, last = self.monthly_shares, self.monthly_shares + shares
        total, low, rate = 0.0, 0.0, self.per_share
        for bound, beyond in (*self.tiers, (math.inf, 0.0)):
            total += rate * max(0.0, min(last, bound) - max(first, low))
            low, rate = bound, beyond
        return total


TABLES: dict[str, CostTable] = {
    table.name: table
    for table in (
        CostTable("ibkr_fixed", per_share=0.005, minimum=1.0, maximum_fraction=0.01),
        CostTable(
            "ibkr_tiered",
            per_share=0.0035,
            minimum=0.35,
            maximum_fraction=0.01,
            tiers=((300_000, 0.0020), (3_000_000, 0.0015), (20_000_000, 0.0010), (100_000_000, 0.0005)),
            remove_fee=0.0030,
            remove_fraction=0.003,
            add_rebate=0.0021,
            clearing_fee=0.00020,
            pass_through_fraction=0.000735,  # NYSE 0.000175 and FINRA 0.00056
        ),
        CostTable("none", maximum_fraction=0.0),
    )
}
"""The tables without what depends on the date."""


def cost_table(name: str, *, trading_date: date | None = None, monthly_shares: int = 0) -> CostTable:
    """The table of that name, with the SEC and FINRA rates of a date; `none` charges nothing.

    Args:
        name: one of `TABLES`.
        trading_date: None = the newest known rates.
        monthly_shares: shares traded this month before; they choose the tier of `ibkr_tiered`.

    Raises:
        BadSetting: there is no table of that name.
    """
    if name not in TABLES:
        raise BadSetting(f"unknown cost table {name!r}; use one of {', '.join(TABLES)}")
    table = TABLES[name]
    if name == "none":
        return table
    (sec, sec_note), (taf, taf_note) = SEC_FEE.on(trading_date), FINRA_TAF.on(trading_date)
    return msgspec.structs.replace(
        table,
        monthly_shares=monthly_shares if table.tiers else 0,
        sec_fraction=sec.rate,
        taf_per_share=taf.rate,
        taf_maximum=taf.maximum,
        note="; ".join(note for note in (sec_note, taf_note) if note),
    )
