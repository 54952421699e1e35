"""A tape as a market source: quotes, trades and depth rows of real trading days from Parquet files.

A tape folder is named `<SYMBOL>-<yyyy-MM-dd>` and holds `quotes.parquet`, `trades.parquet` and optionally
`depth.parquet`; column `n` orders the rows across its files. `bars_1min.parquet` beside the folder has historical
minutes. Several folders form one market, merged by time; a symbol may have several dates.

An empty side of a quote (price or size 0) is sent as 0 in tick-by-tick BidAsk, as in the tape, and as price -1, size 0
in L1, as IB does. Sizes are shares. Without depth rows, depth requests are refused; with them, the one book of the tape
is served both as direct depth (message 12) and as SMART depth. L1 is not sampled by default: every quote change is a
tick.
"""

from __future__ import annotations

import heapq
import re
import zlib
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from harvester.calendar import day_bounds, session, trading_date
from harvester.errors import BadSetting
from harvester.eventlog.storage.content_hash import TableHash, combined
from harvester.events.kinds import SourceKind
from harvester.simgateway.markets.base_rows import PAST_LIMIT, PriceUnits, Row, RowKind
from harvester.simgateway.markets.hours_text import hours_text
from harvester.simgateway.markets.market_source import DataSource, Instrument
from harvester.simgateway.markets.row_market import RowMarket, RowMarketInputs
from harvester.simgateway.markets.sale_conditions import EXCHANGE_OF_LETTER, condition_attribs, condition_text
from harvester.simgateway.markets.second_bars import BarSeries
from harvester.simgateway.markets.tape_files import BARS, DEPTH, QUOTES, TRADES, read_table
from harvester.units import MINUTE_NS, SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import polars as pl

CON_IDS = {"IBM": 8314, "BAC": 10098, "SPY": 756733}
_CHUNK = 8_000


@dataclass(frozen=True)
class TapeFolder:
    """One tape folder with its checked rows."""

    symbol: str
    day: date
    quotes: pl.DataFrame
    trades: pl.DataFrame
    depth: pl.DataFrame | None
    path: Path

    @property
    def times(self) -> tuple[int, int]:
        """First and last `ts`."""
        tables = [t for t in (self.quotes, self.trades, self.depth) if t is not None and len(t)]
        return min(int(t["ts"][0]) for t in tables), max(int(t["ts"][-1]) for t in tables)


def read_folder(path: Path) -> TapeFolder:
    """Read and check one tape folder.

    Raises:
        BadSetting: invalid folder or file; the message names file, column and row.
    """
    if not path.is_dir():
        raise BadSetting(f"tape {path} is not a folder; give a folder with quotes.parquet and trades.parquet")
    found = re.fullmatch(r"(.+)-(\d{4}-\d{2}-\d{2})", path.name)
    try:
        day = date.fromisoformat(found[2]) if found else None
    except ValueError:
        day = None
    if found is None or day is None:
        raise BadSetting(f"tape folder {path.name!r} is not named <SYMBOL>-<yyyy-MM-dd>, for example IBM-2013-10-08")
    if session(day) is None:
        raise BadSetting(f"tape {path.name}: {day} is not a trading day of XNYS; check the folder's date")
    depth_file = path / "depth.parquet"
    folder = TapeFolder(
        symbol=found[1],
        day=day,
        quotes=read_table(path / "quotes.parquet", QUOTES),
        trades=read_table(path / "trades.parquet", TRADES),
        depth=read_table(depth_file, DEPTH) if depth_file.exists() else None,
        path=path,
    )
    if not len(folder.quotes) and not len(folder.trades):
        raise BadSetting(f"tape {path}: quotes.parquet and trades.parquet have no rows; there is nothing to serve")
    start, end = day_bounds(day)
    first, last = folder.times
    if first < start or last >= end:
        raise BadSetting(f"tape {path}: rows run from {first} to {last} ns, outside {day} in New York; check ts")
    return folder


def con_id_of(symbol: str, taken: set[int]) -> int:
    """IB's con_id if known, else one computed from the symbol, the same on every machine."""
    con_id = CON_IDS.get(symbol, 900_000_000 + zlib.crc32(symbol.encode("utf-8", "surrogatepass")) % 99_000_000)
    while con_id in taken:
        con_id += 1
    return con_id


class TapeMinutes:
    """The `Past` from `bars_1min.parquet`, without WAP and trade counts."""

    def __init__(self, of: dict[int, BarSeries]) -> None:
        self._of = of

    def minutes(self, con_id: int, start_ns: int, end_ns: int) -> BarSeries:
        series = self._of.get(con_id)
        return BarSeries.empty() if series is None else series.between(start_ns, end_ns - MINUTE_NS + 1)

    def close_before(self, con_id: int, ns: int) -> float:
        """Last regular-session close before an instant, USD; 0 if there is none."""
        series = self._of.get(con_id, BarSeries.empty()).between(0, ns)
        for ts, close in zip(series.ts[::-1].tolist(), series.close[::-1].tolist(), strict=True):
            if in_session(ts):
                return float(close)
        return 0.0


def in_session(ts: int) -> bool:
    """Whether an instant is in the regular session of its date."""
    hours = session(trading_date(ts))
    return hours is not None and hours.open_ns <= ts < hours.close_ns


def _read_minutes(folders: Sequence[TapeFolder], con_ids: dict[str, int]) -> TapeMinutes:
    series: dict[int, BarSeries] = {}
    for path in sorted({folder.path.parent / "bars_1min.parquet" for folder in folders}):
        if not path.exists():
            continue
        bars = read_table(path, BARS)
        for symbol, con_id in con_ids.items():
            own = bars.filter(bars["symbol"] == symbol)
            if len(own):
                series[con_id] = _series(own)
    return TapeMinutes(series)


def _series(bars: pl.DataFrame) -> BarSeries:
    # The file's prices carry the noise of a division (184.20000000000002); IB sends decimals.
    opens, highs, lows, closes = (bars[column].round(6).to_numpy() for column in ("open", "high", "low", "close"))
    unknown = np.full(len(bars), np.nan)
    none = np.full(len(bars), -1, np.int64)
    return BarSeries(bars["ts"].to_numpy(), opens, highs, lows, closes, bars["volume"].to_numpy(), unknown, none)


def open_tape(paths: Sequence[Path], *, sample_ms: int = 0, depth_rows: int = 10) -> RowMarket:
    """Open a market from tape folders.

    Args:
        paths: tape folders, at most one per symbol and date.
        sample_ms: L1 sampling interval in milliseconds (IB's stocks: 250); 0 sends every change.
        depth_rows: rows per side of the tape's depth.

    Raises:
        BadSetting: a folder is not a tape, or two have the same symbol and date.
    """
    if not paths:
        raise BadSetting("no tape folder given; give at least one, for example tapes/IBM-2013-10-08")
    folders = [read_folder(path) for path in paths]
    folders.sort(key=lambda folder: (folder.day, folder.symbol))
    seen: set[tuple[str, date]] = set()
    con_ids: dict[str, int] = {}
    for folder in folders:
        if (folder.symbol, folder.day) in seen:
            raise BadSetting(f"tape {folder.symbol} of {folder.day} is given twice; give each folder once")
        seen.add((folder.symbol, folder.day))
        con_ids.setdefault(folder.symbol, con_id_of(folder.symbol, set(con_ids.values())))
    past = _read_minutes(folders, con_ids)
    first_day = session(folders[0].day)
    assert first_day is not None  # read_folder rejects days without a session
    start_ns = min(folder.times[0] for folder in folders)
    return RowMarket(
        RowMarketInputs(
            instruments=[_instrument(symbol, con_id, folders) for symbol, con_id in con_ids.items()],
            units=PriceUnits(1),
            prior_closes=[past.close_before(con_id, day_bounds(folders[0].day)[0]) for con_id in con_ids.values()],
            start_ns=start_ns - start_ns % SECOND_NS,
            open_ns=first_day.open_ns,
            end_ns=max(folder.times[1] for folder in folders) // (5 * SECOND_NS) * 5 * SECOND_NS + 5 * SECOND_NS,
            depth_rows=depth_rows,
            sample_ns=sample_ms * 1_000_000,
            past=past,
            chunks=_chunks(folders, list(con_ids)),
            source=lambda: _source(folders),
        )
    )


def _source(folders: Sequence[TapeFolder]) -> DataSource:
    """The rows of the tape, whatever the encoding of its files; its historical minutes are not part of it."""
    parts = []
    for folder in folders:
        parts += [folder.symbol, folder.day.isoformat()]
        for table in (folder.quotes, folder.trades, folder.depth):
            parts.append("none" if table is None else _hash_of(table))
    return DataSource(SourceKind.TAPE, combined(parts)[:32])


def _hash_of(table: pl.DataFrame) -> str:
    rows = table.to_arrow()
    return TableHash(rows.schema).update(rows).digest()


def _instrument(symbol: str, con_id: int, folders: Sequence[TapeFolder]) -> Instrument:
    own = [folder for folder in folders if folder.symbol == symbol]
    has_depth = any(folder.depth is not None for folder in own)
    venues = sorted(
        {EXCHANGE_OF_LETTER.get(x, x) for folder in own for x in folder.trades["exchange"].unique().to_list()}
    )
    trading, liquid = hours_text(own[0].day)
    return Instrument(
        con_id=con_id,
        symbol=symbol,
        primary_exchange="NASDAQ" if has_depth else "NYSE",
        local_symbol=symbol,
        trading_class=symbol,
        market_name=symbol,
        long_name=f"{symbol} (tape)",
        trading_hours=trading,
        liquid_hours=liquid,
        venues=("SMART", *(venue for venue in venues if venue)),
        depth_venues=("ISLAND", "NASDAQ", "NSDQ") if has_depth else (),
        has_depth=has_depth,
        has_smart_depth=has_depth,
    )


def _chunks(folders: Sequence[TapeFolder], symbols: list[str]) -> Iterator[list[Row]]:
    """All rows in time order; rows of one instant by folder, then by `n`."""
    streams = [_rows(folder, symbols.index(folder.symbol), place) for place, folder in enumerate(folders)]
    chunk: list[Row] = []
    for _, _, _, row in heapq.merge(*streams):
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


Ordered = tuple[int, int, int, Row]


def _rows(folder: TapeFolder, instrument: int, place: int) -> Iterator[Ordered]:
    """A folder's rows in order of `n`, as (ts, place, n, row): the merge then never compares rows."""
    files = [_quotes(folder, instrument, place), _trades(folder, instrument, place), _depth(folder, instrument, place)]
    return heapq.merge(*files, key=lambda item: item[2])


def _quotes(folder: TapeFolder, instrument: int, place: int) -> Iterator[Ordered]:
    for part in folder.quotes.iter_slices(_CHUNK):
        for n, ts, *values in part.iter_rows():
            yield ts, place, n, (ts, instrument, RowKind.QUOTE, values[0], values[2], values[1], values[3], *values[4:])


def _trades(folder: TapeFolder, instrument: int, place: int) -> Iterator[Ordered]:
    known: dict[str, tuple[int, str]] = {}
    for part in folder.trades.iter_slices(_CHUNK):
        for n, ts, price, size, exchange, condition, suspicious in part.iter_rows():
            if condition not in known:
                bits = int(condition or "0", 16)
                known[condition] = condition_attribs(bits), condition_text(bits)
            attribs, text = known[condition]
            attribs |= PAST_LIMIT if suspicious else 0
            name = EXCHANGE_OF_LETTER.get(exchange, exchange)
            yield ts, place, n, (ts, instrument, RowKind.TRADE, price, size, exchange, attribs, text, name)


def _depth(folder: TapeFolder, instrument: int, place: int) -> Iterator[Ordered]:
    if folder.depth is None:
        return
    for part in folder.depth.iter_slices(_CHUNK):
        for n, ts, *operation in part.iter_rows():
            yield ts, place, n, (ts, instrument, RowKind.DEPTH, *operation)
            yield ts, place, n, (ts, instrument, RowKind.SMART, *operation)
