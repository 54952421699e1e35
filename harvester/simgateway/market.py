"""What a source of market data gives the simulated gateway, whatever it is made from: a model, a tape, a recorded day.

The order of the calls, from the gateway's pump:

    while (ts := market.next_ts()) is not None:
        await clock.sleep_until(ts)
        for event in market.advance(clock.now(), wanted):
            send(event)                      # no await inside this loop

`next_ts` looks and changes nothing. `advance` moves the market and returns what happened, so a subscriber who arrives
between two calls gets `snapshot` (the state after everything `advance` has returned) and then every later event once:
none is lost, none comes twice, however long the pump slept.

Messages are lists of TWS fields with "" where the request id belongs (`REQ_ID_INDEX` tells where). L1 messages hold
every tick field; those of `GENERIC_TICK_OF` are for subscribers who asked for that generic tick, and dropping them for
the others is the gateway's part. Prices are USD, sizes shares, times int64 ns UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from harvester.errors import HarvesterError
from harvester.events.kinds import Stream
from harvester.wire import ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


REQ_ID_INDEX: dict[str, int] = {str(msg): at for msg, at in ids.REQ_ID_INDEX.items()}
"""Where the request id stands in a message's fields, by the text of its id."""

GENERIC_TICK_OF: dict[str, str] = {str(int(field)): generic for field, generic in ids.GENERIC_OF_FIELD.items()}
"""L1 tick types only for subscribers who asked for a generic tick, and for which one."""


class MarketRefusal(HarvesterError):
    """The source cannot give what was asked; the gateway answers with IB's `code` and `text`."""

    def __init__(self, code: int, text: str) -> None:
        self.code, self.text = code, text
        super().__init__(f"{code}: {text}")


@dataclass(frozen=True)
class Instrument:
    """One contract of the source, with what its contract details say.

    `venues` are the exchanges of SMART routing, `depth_venues` those whose own book can be asked for (Stream.DEPTH; any
    of them gives the same one book). Without `has_depth` (`has_smart_depth`) a request for it is answered with 10092.
    Hours are IB's text, `yyyymmdd:hhmm-yyyymmdd:hhmm;…`, in `time_zone`.
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


class MarketEvent(NamedTuple):
    """Messages for the subscribers of (con_id, stream), in order.

    Stream.OTHER with con_id 0 goes to every client (farm notices of a recorded day). `key` tells apart what (con_id,
    stream) does not: the scan code of a scanner list, `HistoryAsk.key` of a kept-up-to-date historical bar.
    """

    ts: int
    con_id: int
    stream: Stream
    fields: list[list[str]]
    key: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """One historical bar; `ts` is its start. `text` is the time exactly as recorded, when the source knows it."""

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
    """One row of a scanner list; the rank is its place, from 0.

    `columns` are all columns as recorded (`wire.answers.SCAN_COLUMNS`), where the source knows them; they replace
    whatever the gateway would say.
    """

    con_id: int
    symbol: str
    distance: str = ""
    benchmark: str = ""
    projection: str = ""
    legs: str = ""
    columns: Mapping[str, Any] | None = None


class HistoryAsk(NamedTuple):
    """A historical request; `duration` and `bar_size` are IB's texts ("1 D", "1 min"), `end_ns` 0 means now.

    `keep_up` when the bars are to be kept up to date after the answer.
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
        """What distinguishes historical requests of one instrument, e.g. `1 min|TRADES|0`."""
        return f"{self.bar_size}|{self.what}|{int(self.rth)}"


@dataclass(frozen=True)
class History:
    """Bars in time order. `first` and `last` are the answer's own start and end texts, when the source knows them."""

    bars: list[Bar] = field(default_factory=list)
    first: str = ""
    last: str = ""


class Market(Protocol):
    """A source of market data, moved forward by its owner."""

    @property
    def instruments(self) -> Sequence[Instrument]:
        """The contracts there are, in a fixed order; con_ids and symbols are unique."""
        ...

    @property
    def start_ns(self) -> int:
        """Market time of the first event, or a little before."""
        ...

    @property
    def end_ns(self) -> int:
        """Market time at which the day is over: nothing happens after it."""
        ...

    @property
    def depth_rows(self) -> int:
        """Rows a side of the depth streams; `depthcut.DepthCut` makes a stream of fewer rows out of one."""
        ...

    @property
    def pushes_scans(self) -> bool:
        """True when scanner lists come as events (key = scan code).

        `scan` then gives the list in force, [] while there is none yet: in that case nothing is to be sent. Tick
        parameters (81) and data type (58) of L1 come as events then too, and the gateway sends none of its own.
        """
        ...

    def next_ts(self) -> int | None:
        """Market time of the next thing that happens, None when nothing is left. Changes nothing."""
        ...

    def advance(self, until_ns: int, wanted: Callable[[int, Stream], bool], at_most: int = 2000) -> list[MarketEvent]:
        """Move to `until_ns` (inclusive) and return, in time order, what somebody wants of what happened.

        Stops early, never inside one instant, once about `at_most` events are in hand; then `next_ts() <= until_ns`
        still, and the next call goes on from there.
        """
        ...

    def snapshot(self, con_id: int, stream: Stream) -> list[list[str]]:
        """What a new subscriber gets first: L1 values in force, the book as inserts; [] for streams without memory."""
        ...

    def history(self, ask: HistoryAsk) -> History:
        """Bars that start in [end - duration, end), the forming one last.

        Raises:
            MarketRefusal: 162 with IB's text when there are none, 321 for a text IB does not know.
        """
        ...

    def scan(self, scan_code: str, rows: int) -> list[ScanRow]:
        """The scanner list at this market time, at most `rows` long.

        Raises:
            MarketRefusal: 162 for an unknown code or an empty list.
        """
        ...

    def contract_text(self, con_id: int) -> list[str] | None:
        """The contract details message as recorded (request id ""), None when the source has none of its own."""
        ...


def drain(
    market: Market, wanted: Callable[[int, Stream], bool] = lambda _con_id, _stream: True
) -> Iterator[MarketEvent]:
    """Run a market to its end as fast as it goes: every event somebody wants, in time order."""
    while (ts := market.next_ts()) is not None:
        yield from market.advance(max(ts, market.end_ns), wanted)
