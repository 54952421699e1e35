"""Commission by a named table. The table is part of the run's start event, so a replay charges the same.

`ibkr_fixed` is Interactive Brokers' fixed pricing for US stocks and ETFs (interactivebrokers.com, Pricing > Commissions
> Stocks, "IBKR Pro Fixed"): USD 0.005 a share, at least USD 1.00 an order, at most 1 % of the order's trade value;
where the maximum is below the minimum the maximum is charged. Exchange fees are included in it; the SEC and FINRA fees
of sells, which change during the year, are not.
"""

from __future__ import annotations

import msgspec

from harvester.errors import BadSetting


class CostTable(msgspec.Struct, frozen=True):
    """Commission of one order, USD.

    Attributes:
        name: its name in episodes.
        per_share: USD a share.
        minimum: USD an order, charged once the order has filled at all.
        maximum_fraction: of the order's trade value; wins over `minimum`.
    """

    name: str
    per_share: float = 0.0
    minimum: float = 0.0
    maximum_fraction: float = 1.0

    def commission(self, shares: float, value: float) -> float:
        """USD for everything one order has filled so far: `shares` of a trade value of `value` USD."""
        if shares <= 0:
            return 0.0
        return min(max(self.per_share * shares, self.minimum), self.maximum_fraction * value)

    def round_trip(self, price: float, quantity: int) -> float:
        """USD a share for buying and selling this many shares at `price`."""
        return 2 * self.commission(quantity, price * quantity) / quantity if quantity else 0.0


TABLES: dict[str, CostTable] = {
    table.name: table
    for table in (
        CostTable("ibkr_fixed", per_share=0.005, minimum=1.0, maximum_fraction=0.01),
        CostTable("none", maximum_fraction=0.0),
    )
}


def cost_table(name: str) -> CostTable:
    """The table of that name.

    Raises:
        BadSetting: there is none.
    """
    if name not in TABLES:
        raise BadSetting(f"unknown cost table {name!r}; use one of {', '.join(TABLES)}")
    return TABLES[name]
