"""Rates of US stock trading by date, with their sources. docs/costs.md has the same tables with the details.

A rate applies from its date, through the day before the next one. All sources were read on `READ_ON`, as stored copies
of the pages; `known_to` is the last date that the sources speak about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import date

READ_ON = "2026-11-28"


class DatedRate(NamedTuple):
    """`rate` from a date on (yyyy-MM-dd); `maximum` in USD a trade, 0 where there is none."""

    start: str
    rate: float
    maximum: float
    source: str


class DatedRates(NamedTuple):
    """The rates of one fee, oldest first, and the last date (yyyy-MM-dd) they are known for."""

    fee: str
    known_to: str
    rates: tuple[DatedRate, ...]

    def on(self, day: date | None) -> tuple[DatedRate, str]:
        """The rate of a date, None = the newest, and a note if the sources do not cover that date, else empty.

        A date before the first known rate uses the first one.
        """
        if day is None:
            return self.rates[-1], ""
        text = day.isoformat()
        first, started = self.rates[0], [rate for rate in self.rates if rate.start <= text]
        if not started:
            return first, f"{self.fee} unknown before {first.start}: the rate of that date is used"
        past = f"{self.fee} known to {self.known_to}: the last rate is used" if text > self.known_to else ""
        return started[-1], past


_FINRA_NOTICES = "finra.org/rules-guidance/notices"
_SEC_ADVISORIES = "sec.gov/rules-regulations/fee-rate-advisories"
_FINRA_2020 = "finra.org/rules-guidance/rule-filings/sr-finra-2020-032/fee-increase-schedule"
_FINRA_2024 = "finra.org/rules-guidance/rule-filings/sr-finra-2024-019/fee-adjustment-schedule"

SEC_FEE = DatedRates(
    fee="SEC fee",
    known_to="2026-10-09",  # no later advisory by then; the rate stays until 60 days after the next appropriation
    rates=(
        DatedRate("2019-04-16", 20.70e-6, 0.0, "FINRA information notice: 13.00 to 20.70 from 2019-04-16"),
        DatedRate("2020-02-18", 22.10e-6, 0.0, "FINRA information notice of 2020-02-03"),
        DatedRate("2021-02-25", 5.10e-6, 0.0, f"{_FINRA_NOTICES}, information notice of 2021-02-16"),
        DatedRate(
            "2022-05-14", 22.90e-6, 0.0, "SEC fee rate advisory #2 for 2022, as tabled in bennycode/trading-signals"
        ),
        DatedRate("2023-02-27", 8.00e-6, 0.0, "SEC release 34-96724, Federal Register 2023-01578"),
        DatedRate("2024-05-22", 27.80e-6, 0.0, "SEC release 34-99973, Federal Register 2024-08512"),
        DatedRate("2025-05-14", 0.0, 0.0, f"{_FINRA_NOTICES}/information-notice-20250424"),
        DatedRate("2026-04-04", 20.60e-6, 0.0, f"{_SEC_ADVISORIES}/2026-2, SEC release 34-104909"),
    ),
)
"""SEC fee (Section 31) on sells, USD per USD of trade value."""

FINRA_TAF = DatedRates(
    fee="FINRA TAF",
    known_to="2028-12-31",
    rates=(
        DatedRate("2012-07-01", 0.000119, 5.95, f"{_FINRA_NOTICES}/12-31; {_FINRA_2020}"),
        DatedRate("2022-01-01", 0.000130, 6.49, _FINRA_2020),
        DatedRate("2023-01-01", 0.000145, 7.27, _FINRA_2020),
        DatedRate("2024-01-01", 0.000166, 8.30, _FINRA_2020),
        DatedRate("2026-01-01", 0.000195, 9.79, _FINRA_2024),
        DatedRate("2026-10-01", 0.0, 0.0, "SR-FINRA-2026-021, SEC release 34-106409: paused to 2026-12-31"),
        DatedRate("2027-01-01", 0.000195, 9.79, "SR-FINRA-2026-020: the rate of 2026 through 2028-12-31"),
    ),
)
"""FINRA Trading Activity Fee on sells, USD a share, with its maximum a trade."""
