"""Rank instruments for scanner lists from a source's current totals; ties by symbol, ascending."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from harvester.events.codes import HISTORY_ERROR
from harvester.simgateway.markets.market_source import Instrument, MarketRefusal, ScanRow

if TYPE_CHECKING:
    from collections.abc import Callable


class ScanCandidate(NamedTuple):
    """Current totals of one instrument; prices in USD (0 = none yet), volume in shares."""

    instrument: Instrument
    last: float
    prior_close: float
    open: float
    volume: float
    vwap: float
    busy_seconds: int


def _gain(row: ScanCandidate) -> float:
    base = row.prior_close or row.open
    return row.last / base - 1 if base and row.last else 0.0


def _gain_since_open(row: ScanCandidate) -> float:
    return row.last / row.open - 1 if row.open and row.last else 0.0


SCAN_CODES: dict[str, Callable[[ScanCandidate], float]] = {
    "TOP_PERC_GAIN": _gain,
    "TOP_PERC_LOSE": lambda row: -_gain(row),
    "TOP_OPEN_PERC_GAIN": _gain_since_open,
    "TOP_OPEN_PERC_LOSE": lambda row: -_gain_since_open(row),
    "MOST_ACTIVE": lambda row: row.volume,
    "MOST_ACTIVE_USD": lambda row: row.volume * row.vwap,
    "TOP_TRADE_COUNT": lambda row: row.busy_seconds,
    "TOP_TRADE_RATE": lambda row: row.busy_seconds,
    "HOT_BY_VOLUME": lambda row: row.volume / row.last if row.last else 0.0,
    "HOT_BY_PRICE": lambda row: abs(_gain(row)),
    "TOP_PRICE_RANGE": lambda row: abs(_gain_since_open(row)),
}
"""Scan code → its score, highest first. HOT_BY_VOLUME has no average volume and uses volume per dollar."""


def rank(standings: list[ScanCandidate], scan_code: str, rows: int) -> list[ScanRow]:
    """The list of one scan code, at most `rows` long.

    Raises:
        MarketRefusal: 162 for an unknown code, or before the first trade.
    """
    score = SCAN_CODES.get(scan_code)
    if score is None:
        raise MarketRefusal(
            HISTORY_ERROR, f"Historical Market Data Service error message:Scanner code {scan_code} is unknown"
        )
    known = [row for row in standings if row.last or row.prior_close]
    if not known:
        raise MarketRefusal(HISTORY_ERROR, "Historical Market Data Service query message:no items retrieved")
    ordered = sorted(known, key=lambda row: (-score(row), row.instrument.symbol))
    return [ScanRow(row.instrument.con_id, row.instrument.symbol) for row in ordered[:rows]]
