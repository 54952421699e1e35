"""The interface between the simulated gateway and a source of market data: a model, a tape or a recorded day.

Order of the calls in the gateway's pump:

    while (ts := market.next_ts()) is not None:
        await clock.sleep_until(ts)
        for event in market.advance(clock.now(), wanted):
            send(event)                      # no await inside this loop

`next_ts` changes nothing. `advance` moves the market and returns its events. A new subscriber between two calls gets
`snapshot`, the state after all events returned so far, and then each later event exactly once.

Messages are lists of TWS fields with "" as the request id (`message_ids.REQ_ID_INDEX`). L1 messages contain all
tick fields; the gateway sends fields of `GENERIC_OF_FIELD` only to subscribers that requested the generic tick.
Prices are USD, sizes shares, times int64 ns UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from harvester.errors import HarvesterError
from harvester.events.codes import HISTORY_ERROR
from harvester.events.kinds import SourceKind, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


DEPTH_STREAMS = frozenset({Stream.DEPTH, Stream.SMART_DEPTH})


class MarketRefusal(HarvesterError):
    """The source cannot answer a request; the gateway sends IB's `code` and `text`."""

    def __init__(self, code: int, text: str) -> None:
        self.code, self.text = code, text
        super().__init__(f"{code}: {text}")


@dataclass(frozen=True)
class Instrument:
    """One contract of the source, with its contract details.

    `venues` are the exchanges of SMART routing, `depth_venues` those whose own book can be requested (Stream.DEPTH; all
    give the same book). Without `has_depth` (`has_smart_depth`) such a request gets error 10092. Hours are IB's text,
    `yyyymmdd:hhmm-yyyymmdd:hhmm;…`, in `time_zone`.
    """

    con_id: int
    symbol: str
    sec_type: str = "STK"
    exchange: str = "SMART"
    primary_exchange: str = "NASDAQ"
    currency: str = "USD"
    local_symbol: str = ""
    trading_class: str = ""
    market_name: str = ""
    long_name: str = ""
    min_tick: str = "0.01"
    time_zone: str = "US/Eastern"
    trading_hours: str = ""
    liquid_hours: str = ""
    stock_type: str = "COMMON"
    industry: str = ""
    category: str = ""
    subcategory: str = ""
    venues: tuple[str, ...] = ("SMART",)
    depth_venues: tuple[str, ...] = ()
    has_depth: bool = False
    has_smart_depth: bool = False
    tick_by_tick: tuple[Stream, ...] = (Stream.LAST, Stream.ALL_LAST, Stream.BID_ASK, Stream.MID_POINT)


class DataSource(NamedTuple):
    """What a market is made of: its kind, and a digest (hexadecimal) of the content or the parameters."""

    kind: SourceKind
    digest: str


class MarketEvent(NamedTuple):
    """Messages for the subscribers of (con_id, stream), in order.

    Stream.OTHER with con_id 0 goes to every client (farm notices of a recorded day). `key` separates streams with equal
    (con_id, stream): the scan code of a scanner list, `HistoryQuery.key` of a historical bar kept up to date.
    """

    ts: int
    con_id: int
    stream: Stream
    fields: list[list[str]]
    key: str = ""


@dataclass(frozen=True, slots=True)
class HistoricalBar:
    """One historical bar; `ts` is its start. `text` is the time as recorded, if the source has it."""

    ts: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    wap: float
    count: int
    text: str = ""


class ScanRow(NamedTuple):
    """One row of a scanner list; the rank is its index, from 0.

    `columns` are all columns as recorded (`encode_messages.SCAN_COLUMNS`), if the source has them.
    """

    con_id: int
    symbol: str
    distance: str = ""
    benchmark: str = ""
    projection: str = ""
    legs: str = ""
    columns: Mapping[str, Any] | None = None


class HistoryQuery(NamedTuple):
    """A request for historical bars; `duration` and `bar_size` are IB's texts ("1 D", "1 min"), `end_ns` 0 means now.

    `keep_up`: the bars are kept up to date after the answer.
    """

    con_id: int
    end_ns: int
    duration: str
    bar_size: str
    what: str
    rth: bool
    keep_up: bool = False

    @property
    def key(self) -> str:
        """Key of historical requests of an instrument that get the same bars, e.g. `1 min|TRADES|0`."""
        return f"{self.bar_size}|{self.what}|{int(self.rth)}"


class TicksQuery(NamedTuple):
    """A request for historical ticks from `start_ns` on, or up to `end_ns` (exclusive); the other one is 0."""

    con_id: int
    start_ns: int
    end_ns: int
    ticks: int
    what: str
    rth: bool
    ignore_size: bool


def no_data(what: str, symbol: str = "", detail: str = "") -> MarketRefusal:
    """Error 162 in IB's words; `what` is BID, ASK, MIDPOINT, TRADES or another of IB's names."""
    about = f": {symbol}@SMART {what.capitalize()}" if symbol else ""
    return MarketRefusal(
        HISTORY_ERROR, f"Historical Market Data Service error message:HMDS query returned no data{about}{detail}"
    )


@dataclass(frozen=True)
class HistoricalBars:
    """Bars in time order. `first` and `last` are the start and end texts of the answer, if the source has them."""

    bars: list[HistoricalBar] = field(default_factory=list)
    first: str = ""
    last: str = ""


class MarketSource(Protocol):
    """A source of market data; its owner advances it."""

    @property
    def instruments(self) -> Sequence[Instrument]:
        """All contracts, in a fixed order; con_ids and symbols are unique."""
        ...

    @property
    def start_ns(self) -> int:
        """Market time of the first event, or slightly earlier."""
        ...

    @property
    def end_ns(self) -> int:
        """Market time of the end of the day: there are no later events."""
        ...

    @property
    def depth_rows(self) -> int:
        """Rows per side of the depth streams; `fewer_depth_rows.DepthCut` reduces them."""
        ...

    @property
    def pushes_scans(self) -> bool:
        """Whether scanner lists come as events (key = scan code).

        If so, `scan` returns the current list, [] before the first one (then nothing is sent). Tick parameters (81) and
        data type (58) of L1 also come as events, and the gateway sends none of its own.
        """
        ...

    def source(self) -> DataSource:
        """What the market is made of; equal content gives an equal digest on any machine."""
        ...

    def next_ts(self) -> int | None:
        """Market time of the next event, None at the end. Changes nothing."""
        ...

    def advance(self, until_ns: int, wanted: Callable[[int, Stream], bool], at_most: int = 2000) -> list[MarketEvent]:
        """Move to `until_ns` (inclusive) and return the wanted events in time order.

        Stops early after about `at_most` events, never within one instant. Then `next_ts() <= until_ns` still holds and
        the next call continues from there.
        """
        ...

    def snapshot(self, con_id: int, stream: Stream) -> list[list[str]]:
        """Initial messages for a new subscriber: L1 values, the quote, the book as inserts; [] for prints and bars."""
        ...

    def history(self, query: HistoryQuery) -> HistoricalBars:
        """Bars that start in [end - duration, end), the current one last.

        Raises:
            MarketRefusal: 162 with IB's text when there are none, 321 for an invalid text.
        """
        ...

    def ticks(self, query: TicksQuery) -> list[tuple[Any, ...]]:
        """Historical ticks in time order, in the columns of `wire.encode_messages.historical_ticks`.

        As with IB, the second of the last tick (without a start: of the first) is complete, so there may be more than
        `query.ticks`.

        Raises:
            MarketRefusal: 162 with IB's text when there are none.
        """
        ...

    def scan(self, scan_code: str, rows: int) -> list[ScanRow]:
        """The scanner list at this market time, at most `rows` long.

        Raises:
            MarketRefusal: 162 for an unknown code or an empty list.
        """
        ...

    def contract_text(self, con_id: int) -> list[str] | None:
        """The recorded contract details message (request id ""), None if the source has none."""
        ...


def drain(
    market: MarketSource, wanted: Callable[[int, Stream], bool] = lambda _con_id, _stream: True
) -> Iterator[MarketEvent]:
    """Run a market to its end: all wanted events in time order."""
    while (ts := market.next_ts()) is not None:
        yield from market.advance(max(ts, market.end_ns), wanted)
