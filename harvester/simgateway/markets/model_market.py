"""A modelled market: one seeded day of several stocks. Equal settings give equal bytes on any machine.

Prices range from 5 to 200 USD, with spreads and sizes to match. Each symbol has its own random stream from seed and
name, so removing a symbol does not change the others. Rows are generated in windows of market time, so memory does not
grow with the length of the day. Order flow: `order_flow.py`; earlier days: `model_history.py`.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b
from math import isqrt
from typing import TYPE_CHECKING

import numpy as np

from harvester.calendar import session
from harvester.errors import BadSetting
from harvester.events.kinds import SourceKind
from harvester.simgateway.markets import order_flow as flow
from harvester.simgateway.markets.base_rows import PriceUnits, Row, RowKind
from harvester.simgateway.markets.hours_text import hours_text
from harvester.simgateway.markets.market_source import DataSource, Instrument
from harvester.simgateway.markets.model_history import ModelHistory, mixed_seed
from harvester.simgateway.markets.row_market import RowMarket, RowMarketInputs
from harvester.units import MINUTE_NS, SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEFAULT_PRICES: dict[str, int] = {"ACME": 2450, "BOLT": 4820, "CRUX": 8760, "DYNE": 13140, "EMBR": 19450, "SIRI": 520}
"""Symbols of the default market with their base price in cents."""

VENUES = ("NSDQ", "ARCA", "BATS", "EDGX", "NYSE", "IEX", "MEMX", "BYX", "FINRA")  # names in rows and prints
LETTERS = "QPZKNVUYD"  # letters in L1
SLOT_NS = MINUTE_NS
_SYMBOLS_MAX, _ROWS_MAX, _RATE_MAX = 500, 50, 50_000_000
_WINDOW_ROWS = 8_000
_UNITS = PriceUnits(10_000)


@dataclass(frozen=True)
class ModelSettings:
    """Settings of a modelled day.

    Attributes:
        seed: any integer.
        trading_date: a date or yyyy-MM-dd; it must be a trading day of XNYS.
        rate: orders per symbol and day (within about 3 %); 100 orders give about 80 rows of SMART depth, 35 of direct
            depth, 35 quotes and 15 prints.
        symbols: names, empty for the default six; other names get a base price between 5 and 200 USD.
        extended_minutes: minutes of thin trading before the open and after the close.
        depth_rows: rows per side of both depth streams, at most 50.
        sample_ms: L1 sampling interval; 0 sends every change.
    """

    seed: int = 1
    trading_date: date | str = date(2025, 7, 17)
    rate: int = 21_000
    symbols: tuple[str, ...] = ()
    extended_minutes: int = 10
    depth_rows: int = 10
    sample_ms: int = 250


def _checked(settings: ModelSettings) -> date:
    from harvester.home import parse_date

    given = settings.trading_date
    day = given if isinstance(given, date) else parse_date(given)
    limits = {
        "rate": (settings.rate, 1, _RATE_MAX),
        "depth_rows": (settings.depth_rows, 1, _ROWS_MAX),
        "extended_minutes": (settings.extended_minutes, 0, 240),
        "sample_ms": (settings.sample_ms, 0, 60_000),
        "number of symbols": (len(settings.symbols), 0, _SYMBOLS_MAX),
    }
    for name, (value, least, most) in limits.items():
        if not least <= value <= most:
            raise BadSetting(f"model: {name} is {value}; choose {least} to {most}")
    if len(set(settings.symbols)) != len(settings.symbols) or not all(settings.symbols):
        raise BadSetting(f"model: empty or repeated symbol in {','.join(settings.symbols)}; give each symbol once")
    return day


def open_model(settings: ModelSettings | None = None) -> RowMarket:
    """Create a modelled market.

    Raises:
        BadSetting: a setting is out of range, or the date is not a trading day.
    """
    settings = settings or ModelSettings()
    day = _checked(settings)
    hours = session(day)
    if hours is None:
        raise BadSetting(f"model: {day} is not a trading day of XNYS; choose another date")
    margin = settings.extended_minutes * SLOT_NS
    start, end = hours.open_ns - margin, hours.close_ns + margin
    symbols = settings.symbols or tuple(DEFAULT_PRICES)
    instruments = [_instrument(symbol, day) for symbol in symbols]
    past = ModelHistory(settings.seed, day, {i.con_id: _price(i.symbol) for i in instruments})
    means = _means(settings.rate, start, end, hours.open_ns, hours.close_ns)
    flows = [
        _Flow(settings, symbol, past.opening(i.con_id), (start, hours.open_ns, hours.close_ns), means)
        for symbol, i in zip(symbols, instruments, strict=True)
    ]
    return RowMarket(
        RowMarketInputs(
            instruments=instruments,
            units=_UNITS,
            prior_closes=[past.prior_close(i.con_id) * flow.UNITS_PER_TICK for i in instruments],
            start_ns=start,
            open_ns=hours.open_ns,
            end_ns=end + 5 * SECOND_NS,
            depth_rows=settings.depth_rows,
            sample_ns=settings.sample_ms * 1_000_000,
            past=past,
            chunks=_chunks(flows, start, end, settings.rate),
            source=lambda: _source(settings, day, symbols),
        )
    )


def _source(settings: ModelSettings, day: date, symbols: Sequence[str]) -> DataSource:
    """The parameters of the model, as they are in effect."""
    text = "\0".join(map(str, (settings.seed, day, settings.rate, settings.extended_minutes, settings.depth_rows,
                               settings.sample_ms, *symbols)))  # fmt: skip
    return DataSource(SourceKind.MODEL, blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest())


def _price(symbol: str) -> int:
    """Base price in cents, log-uniform from 5 to 200 USD."""
    known = DEFAULT_PRICES.get(symbol)
    if known is not None:
        return known
    step = zlib.crc32(symbol.encode("utf-8", "surrogatepass")) % 64
    price = 500
    for _ in range(step):
        price += price * 6 // 100
    return min(price, 20_000)


def _con_id(symbol: str) -> int:
    if symbol in DEFAULT_PRICES:
        return 700_001 + list(DEFAULT_PRICES).index(symbol)
    return 800_000_000 + zlib.crc32(symbol.encode("utf-8", "surrogatepass")) % 99_000_000


def _instrument(symbol: str, day: date) -> Instrument:
    trading, liquid = hours_text(day)
    return Instrument(
        con_id=_con_id(symbol),
        symbol=symbol,
        local_symbol=symbol,
        trading_class="NMS",
        market_name="NMS",
        long_name=f"{symbol} (modelled)",
        trading_hours=trading,
        liquid_hours=liquid,
        venues=("SMART", "NASDAQ", *VENUES[1:-1]),
        depth_venues=("ISLAND", "NASDAQ", "NSDQ"),
        has_depth=True,
        has_smart_depth=True,
    )


_BURST_SHARE = 684  # 256 times the factor by which bursts shorten gaps, measured over a day; independent of the rate


def _means(rate: int, start: int, end: int, opens: int, closes: int) -> flow.Ints:
    """Mean gap in ns per minute: short at open and close, long at noon, longest outside the session."""
    minutes = (closes - opens) // SLOT_NS
    weights = []
    for slot in range((end - start) // SLOT_NS):
        i = (start + slot * SLOT_NS - opens) // SLOT_NS
        if not 0 <= i < minutes:
            weights.append(40)
            continue
        u_shape = 256 + 768 * (2 * i - minutes) ** 2 // minutes**2
        weights.append(u_shape * 2 if i < 5 or i >= minutes - 5 else u_shape)
    total = sum(weights)
    return np.array([SLOT_NS * total * _BURST_SHARE // (rate * w * 256) for w in weights], dtype=np.int64)


class _Flow:
    """One symbol's order flow."""

    def __init__(
        self, settings: ModelSettings, symbol: str, price: int, times: tuple[int, int, int], means: flow.Ints
    ) -> None:
        shown = settings.depth_rows
        target = min(max(26, 3 * shown), 150)
        self._state = np.zeros(flow.STATE_SLOTS, dtype=np.int64)
        self._state[flow.REF] = price << 8
        self._params = np.zeros(flow.PARAM_SLOTS, dtype=np.int64)
        self._params[: flow.P_IMPACT + 1] = (
            shown,
            target,
            1 + price // 4500,
            max(1, 2000 // price),
            times[1],
            times[2],
            times[0],
            SLOT_NS,
            2 + price * 8 // isqrt(settings.rate),
            min(max(price // 100, 4), 64),
        )
        self._book = np.zeros((2, target + 40, 3), dtype=np.int64)
        self._rng = np.array([mixed_seed(settings.seed, symbol)], dtype=np.uint64)
        self._means, self._table = means, flow.exponential_table()
        self._pending = np.zeros(1, dtype=np.int64)
        self._out = np.zeros((_WINDOW_ROWS + 2 * flow.OUT_SPARE, flow.OUT_COLUMNS), dtype=np.int64)

    def window(self, until: int) -> flow.Ints:
        """All rows before `until`, shape (rows, 8): ts, kind, six values."""
        parts = []
        done = False
        while not done:
            self._state[flow.OUT] = 0
            done = flow.run(
                self._state,
                self._params,
                self._book,
                self._rng,
                self._means,
                self._table,
                self._out,
                self._pending,
                until,
            )
            parts.append(self._out[: int(self._state[flow.OUT])].copy())
        return np.concatenate(parts)


def _chunks(flows: Sequence[_Flow], start: int, end: int, rate: int) -> Iterator[list[Row]]:
    """Rows of all symbols, window by window; rows of one instant in symbol order."""
    span = max(SECOND_NS // 4, (end - start) * _WINDOW_ROWS // (4 * rate * len(flows) + 1))
    at = start
    while at < end:
        at = min(at + span, end)
        parts = [one.window(at) for one in flows]
        rows = np.concatenate(parts)
        places = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        order = np.argsort(rows[:, 0], kind="stable")
        yield _with_texts(rows[order], places[order])


_VENUE_SETS = {bits: "".join(x for i, x in enumerate(LETTERS) if bits >> i & 1) for bits in range(1 << 8)}


def _with_texts(rows: flow.Ints, places: flow.Ints) -> list[Row]:
    """Rows with venues and conditions as text instead of numbers."""
    out: list[Row] = []
    texts, trade, quote = flow.CONDITION_TEXTS, int(RowKind.TRADE), int(RowKind.QUOTE)
    for place, (ts, what, a, b, c, d, e, f) in zip(places.tolist(), rows.tolist(), strict=True):
        if what == quote:
            out.append((ts, place, what, a, b, c, d, _VENUE_SETS[e], _VENUE_SETS[f]))
        elif what == trade:
            out.append((ts, place, what, a, b, LETTERS[c], d, texts[e], "NASDAQ" if c == 0 else VENUES[c]))
        else:
            out.append((ts, place, what, a, b, c, d, e, VENUES[f]))
    return out
