"""Cost tables by date: IBKR's published examples, cents around each change of a rate, tiers, stored runs."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvester.config import Settings
from harvester.errors import BadSetting
from harvester.projections.run_params import RunParams
from harvester.projections.trading.cost_rates import FINRA_TAF, READ_ON, SEC_FEE
from harvester.projections.trading.costs import TABLES, CostTable, cost_table
from harvester.projections.trading.run_terms import RunTerms
from tests.reference import costs as reference

PROJECT = Path(__file__).resolve().parent.parent
EXAMPLES = date(2023, 6, 1)  # IBKR's examples use an SEC fee of 8.00 per million and a TAF of at most 7.27
NO_SEC = date(2025, 7, 17)  # SEC fee 0, TAF 0.000166 a share


def cost(name: str, day: date, shares: int, price: float, how: str) -> float:
    """USD for one order of `shares` at `price`; `how` has the words buy or sell, take or add."""
    taken = shares if "take" in how else 0
    table = cost_table(name, trading_date=day)
    return table.charged(sell="sell" in how, taken=taken, added=shares - taken, value=shares * price)


@pytest.mark.parametrize(
    ("shares", "price", "usd"), [(100, 25.0, 1.00), (1_000, 25.0, 5.00), (1_000, 0.25, 2.50), (10, 0.20, 0.02)]
)
def test_published_examples_of_fixed_pricing(shares: int, price: float, usd: float) -> None:
    """IBKR's three examples, and an order whose maximum is below the minimum; adding liquidity costs the same."""
    assert cost("ibkr_fixed", NO_SEC, shares, price, "buy take") == pytest.approx(usd)
    assert cost("ibkr_fixed", NO_SEC, shares, price, "buy add") == pytest.approx(usd)


@pytest.mark.parametrize(
    ("shares", "how", "tiered", "fixed"),
    [
        (30_000_000, "sell add", -13_811.90, 151_207.27),
        (30_000_000, "sell take", 139_188.10, 151_207.27),
        (200_000, "sell take", 1_355.78, 1_015.27),
    ],
)
def test_published_examples_of_both_pricings(shares: int, how: str, tiered: float, fixed: float) -> None:
    """Every total of IBKR's page of tiered and fixed examples, sales at 5 USD, to the cent."""
    assert cost("ibkr_tiered", EXAMPLES, shares, 5.0, how) == pytest.approx(tiered, abs=0.005)
    assert cost("ibkr_fixed", EXAMPLES, shares, 5.0, how) == pytest.approx(fixed, abs=0.005)


@pytest.mark.parametrize(
    ("day", "usd"),
    [
        # 50 USD of commission for 10,000 shares at 100 USD, the SEC fee of a million, the TAF of 10,000 shares
        ("2019-04-16", 71.89),
        ("2020-02-17", 71.89),
        ("2020-02-18", 73.29),
        ("2021-02-24", 73.29),
        ("2021-02-25", 56.29),
        ("2021-12-31", 56.29),
        ("2022-01-01", 56.40),
        ("2022-05-13", 56.40),
        ("2022-05-14", 74.20),
        ("2022-12-31", 74.20),
        ("2023-01-01", 74.35),
        ("2023-02-26", 74.35),
        ("2023-02-27", 59.45),
        ("2023-12-31", 59.45),
        ("2024-01-01", 59.66),
        ("2024-05-21", 59.66),
        ("2024-05-22", 79.46),
        ("2025-05-13", 79.46),
        ("2025-05-14", 51.66),
        ("2025-12-31", 51.66),
        ("2026-01-01", 51.95),
        ("2026-04-03", 51.95),
        ("2026-04-04", 72.55),
        ("2026-09-30", 72.55),
        ("2026-10-01", 70.60),
        ("2026-12-31", 70.60),
        ("2027-01-01", 72.55),
    ],
)
def test_a_sell_on_both_sides_of_each_rate_change(day: str, usd: float) -> None:
    """Hand-computed cents; a buy of the same day pays the commission alone."""
    assert cost("ibkr_fixed", date.fromisoformat(day), 10_000, 100.0, "sell take") == pytest.approx(usd, abs=1e-9)
    assert cost("ibkr_fixed", date.fromisoformat(day), 10_000, 100.0, "buy take") == pytest.approx(50.0, abs=1e-9)


@pytest.mark.parametrize(
    ("day", "most"),
    [("2021-06-01", 5.95), ("2022-06-01", 6.49), ("2023-06-01", 7.27), ("2024-06-01", 8.30), ("2026-06-01", 9.79)],
)
def test_the_taf_has_a_maximum_for_each_order(day: str, most: float) -> None:
    """A sell of 100,000 shares pays the year's maximum, one of 40,000 shares its rate."""
    when = date.fromisoformat(day)
    table = cost_table("ibkr_fixed", trading_date=when)
    for shares, taf in ((100_000, most), (40_000, 40_000 * table.taf_per_share)):
        sold, bought = (cost("ibkr_fixed", when, shares, 10.0, how) for how in ("sell take", "buy take"))
        assert sold - bought - table.sec_fraction * shares * 10.0 == pytest.approx(taf, abs=1e-9)
        assert taf <= most


def test_rates_are_dated_in_order_and_have_sources() -> None:
    """Each fee's rates ascend by date, name a source, and are known at least to the newest one."""
    for rates in (SEC_FEE, FINRA_TAF):
        starts = [date.fromisoformat(rate.start) for rate in rates.rates]
        assert starts == sorted(set(starts))
        assert all(rate.source for rate in rates.rates)
        assert date.fromisoformat(rates.known_to) >= starts[-1]


def test_the_documentation_has_the_same_rates() -> None:
    """docs/costs.md lists each rate of the tables with its first day, and no other, and the last day known."""
    text = (PROJECT / "docs" / "costs.md").read_text(encoding="utf-8")
    sec = [f"| {rate.start} | {rate.rate * 1e6:.2f} |" for rate in SEC_FEE.rates]
    taf = [f"| {rate.start} | {rate.rate:.6f} | {rate.maximum:.2f} |" for rate in FINRA_TAF.rates]
    rows = [line for line in text.splitlines() if re.match(r"\| \d{4}-", line)]
    assert len(rows) == len(sec) + len(taf)
    assert all(row.startswith(start) for row, start in zip(rows, sec + taf, strict=True))
    assert all(f"Known to {rates.known_to}" in text for rates in (SEC_FEE, FINRA_TAF))
    assert f"read on {READ_ON}" in text


@pytest.mark.parametrize(
    ("day", "note", "sec", "taf"),
    [
        (
            date(2011, 1, 3),
            "SEC fee unknown before 2019-04-16: .*; FINRA TAF unknown before 2012-07-01: ",
            20.7e-6,
            119e-6,
        ),
        (date(2019, 4, 15), "SEC fee unknown before 2019-04-16: the rate of that date is used$", 20.7e-6, 119e-6),
        (date(2019, 4, 16), "^$", 20.7e-6, 119e-6),
        (date(2026, 10, 9), "^$", 20.6e-6, 0.0),
        (date(2026, 10, 10), "^SEC fee known to 2026-10-09: the last rate is used$", 20.6e-6, 0.0),
        (date(2029, 1, 2), "SEC fee known to .*; FINRA TAF known to 2028-12-31: the last rate", 20.6e-6, 195e-6),
        (None, "^$", 20.6e-6, 195e-6),
    ],
)
def test_dates_without_known_rates_say_so(day: date | None, note: str, sec: float, taf: float) -> None:
    """A date before the first or after the last known rate uses that rate, and the table's note names it."""
    table = cost_table("ibkr_tiered", trading_date=day)
    assert (table.sec_fraction, table.taf_per_share) == pytest.approx((sec, taf))
    assert re.search(note, table.note), table.note


@pytest.mark.parametrize(
    ("month", "usd"),
    [
        (0, 3.50), (299_000, 3.50), (299_500, 2.75), (300_000, 2.00), (2_999_000, 2.00), (2_999_500, 1.75),
        (3_000_000, 1.50), (19_999_500, 1.25), (20_000_000, 1.00), (99_999_500, 0.75), (100_000_000, 0.50),
    ],
)  # fmt: skip
def test_tiers_apply_share_by_share(month: int, usd: float) -> None:
    """1,000 shares below, across and above each border of monthly volume; `ibkr_fixed` has no tiers."""
    assert cost_table("ibkr_tiered", monthly_shares=month).commission(1_000, 25_000.0) == pytest.approx(usd)
    assert cost_table("ibkr_fixed", monthly_shares=month).commission(1_000, 25_000.0) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("shares", "price", "how", "usd"),
    [
        # commission + clearing + exchange + 0.0735 % of the commission
        (1_000, 25.0, "buy take", 3.50 + 0.20 + 3.00 + 0.0025725),
        (1_000, 25.0, "buy add", 3.50 + 0.20 - 2.10 + 0.0025725),
        (1_000, 1.0, "buy take", 3.50 + 0.20 + 3.00 + 0.0025725),
        (1_000, 0.5, "buy take", 3.50 + 0.20 + 1.50 + 0.0025725),
        (1_000, 0.5, "buy add", 3.50 + 0.20 + 0.0025725),
        (10, 100.0, "buy take", 0.35 + 0.002 + 0.03 + 0.00025725),
        (10, 0.2, "buy take", 0.02 + 0.002 + 0.006 + 0.0000147),
        (1_000, 25.0, "sell take", 3.50 + 0.20 + 3.00 + 0.0025725 + 0.166),
    ],
)
def test_parts_of_tiered_pricing(shares: int, price: float, how: str, usd: float) -> None:
    """Taker and maker, below one dollar, the smallest and the largest commission, and a sell with the TAF."""
    assert cost("ibkr_tiered", NO_SEC, shares, price, how) == pytest.approx(usd, abs=1e-9)


FILLS = st.lists(st.tuples(st.integers(1, 5_000), st.floats(0.01, 500.0)), min_size=1, max_size=8)
TABLE = st.builds(
    lambda name, day, month: cost_table(name, trading_date=day, monthly_shares=month),
    st.sampled_from(sorted(TABLES)),
    st.dates(date(2019, 1, 1), date(2030, 1, 1)),
    st.integers(0, 200_000_000),
)


@given(TABLE, FILLS, st.booleans())
def test_more_taken_never_costs_less(table: CostTable, fills: list[tuple[int, float]], sell: bool) -> None:
    """With every fill that removes liquidity the order's costs rise or stay; a sell costs at least what a buy does."""
    taken, value, before = 0, 0.0, 0.0
    for shares, price in fills:
        taken, value = taken + shares, value + shares * price
        now = table.charged(sell=sell, taken=taken, added=0, value=value)
        assert now >= before - 1e-9
        assert now >= table.charged(sell=False, taken=taken, added=0, value=value) - 1e-9
        assert now >= table.charged(sell=sell, taken=0, added=taken, value=value) - 1e-9
        before = now


@given(TABLE, st.integers(0, 5_000_000), st.integers(0, 5_000_000), st.floats(0.01, 500.0), st.booleans())
def test_costs_are_those_of_the_reference(table: CostTable, taken: int, added: int, price: float, sell: bool) -> None:
    """Any table, date, tier and mix of taken and added shares."""
    value = price * (taken + added)
    expected = reference.charged(msgspec.to_builtins(table), sell=sell, taken=taken, added=added, value=value)
    assert table.charged(sell=sell, taken=taken, added=added, value=value) == pytest.approx(
        expected, rel=1e-9, abs=1e-9
    )


@given(TABLE, st.integers(1, 5_000), st.floats(0.01, 500.0))
def test_a_round_trip_is_a_buy_and_a_sell(table: CostTable, shares: int, price: float) -> None:
    """Per share, both sides taking; nothing for no shares."""
    sides = sum(table.charged(sell=sell, taken=shares, added=0, value=price * shares) for sell in (False, True))
    assert table.round_trip(price, shares) * shares == pytest.approx(sides)
    assert table.round_trip(price, 0) == 0.0


def test_an_order_in_parts_pays_its_minimum_once() -> None:
    """Ten fills of ten shares cost an order of 100 shares: 1.00 USD, not 10.00."""
    table, before, rises = cost_table("ibkr_fixed", trading_date=NO_SEC), 0.0, []
    for filled in range(10, 101, 10):
        now = table.charged(sell=False, taken=filled, added=0, value=filled * 25.0)
        rises.append(now - before)
        before = now
    assert rises == [1.0] + [0.0] * 9


def test_nothing_before_the_first_fill() -> None:
    """An order without a fill costs nothing, by any table; `none` never charges."""
    for name in TABLES:
        assert cost_table(name).charged(sell=True, taken=0, added=0, value=0.0) == 0.0
    assert cost("none", NO_SEC, 1_000_000, 5.0, "sell take") == 0.0


@given(TABLE, st.integers(0, 5_000), st.integers(0, 5_000), st.floats(0.01, 500.0), st.booleans())
def test_a_stored_table_charges_the_same(table: CostTable, taken: int, added: int, price: float, sell: bool) -> None:
    """Through the JSON of a run's start event and back."""
    value = price * (taken + added)
    params = RunParams.parse(RunParams(costs=msgspec.to_builtins(table)).text(), 1)
    again = RunTerms.of(params, "r001").costs
    assert again == table
    assert again.charged(sell=sell, taken=taken, added=added, value=value) == table.charged(
        sell=sell, taken=taken, added=added, value=value
    )


@given(st.integers(1, 100_000), st.floats(0.01, 500.0), st.booleans())
def test_a_run_of_an_earlier_version_charges_as_before(shares: int, price: float, sell: bool) -> None:
    """A start event with the four fields of then decodes and adds neither SEC fee nor TAF, to the last bit."""
    old: dict[str, Any] = {"name": "ibkr_fixed", "per_share": 0.005, "minimum": 1.0, "maximum_fraction": 0.01}
    table, value = RunTerms.of(RunParams(costs=old), "r001").costs, price * shares
    then = min(max(0.005 * shares, 1.0), 0.01 * value)
    assert table.charged(sell=sell, taken=shares, added=0, value=value) == then
    assert table.charged(sell=sell, taken=0, added=shares, value=value) == then
    assert table.commission(shares, value) == then


def test_a_run_without_a_table_charges_nothing() -> None:
    """As before: no costs in the start event mean no costs."""
    assert RunTerms.of(RunParams(), "r001").costs.charged(sell=True, taken=100, added=0, value=1_000.0) == 0.0


def test_a_run_stores_the_rates_of_its_date_and_the_monthly_shares() -> None:
    """The start event holds the table of the settings, resolved for its trading date."""
    settings = Settings.load({"symbols": ("IBM",), "cost_table": "ibkr_tiered", "monthly_shares": 5_000_000})
    params = RunParams.build(settings, date(2024, 5, 22))
    stored = RunTerms.of(params, "r001").costs
    assert stored == cost_table("ibkr_tiered", trading_date=date(2024, 5, 22), monthly_shares=5_000_000)
    assert (stored.sec_fraction, stored.monthly_shares) == (27.8e-6, 5_000_000)
    assert params.config["monthly_shares"] == 5_000_000


@pytest.mark.parametrize("value", [-1, 2_000_000_000_000, "many"])
def test_monthly_shares_are_checked(value: Any, tmp_path: Path) -> None:
    """A number out of range or a word is one clear error that names the file and the setting."""
    file = tmp_path / "hv.toml"
    file.write_text(f"monthly_shares = {msgspec.json.encode(value).decode()}\n")
    with pytest.raises(BadSetting, match="monthly_shares = "):
        Settings.load({}, file=file)
    file.write_text("monthly_shares = 300000\n")
    assert Settings.load({}, file=file).monthly_shares == 300_000
