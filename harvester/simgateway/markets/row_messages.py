"""Turn base rows into messages of all streams, with the timers for 5-second bars and L1 sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.events.kinds import Operation, Side, Stream
from harvester.simgateway.markets.base_rows import NumberTexts, PriceUnits, Row, RowKind
from harvester.simgateway.markets.market_source import Instrument, MarketEvent
from harvester.simgateway.markets.past_ticks import PastTicks
from harvester.simgateway.markets.second_bars import SecondBars
from harvester.units import SECOND_NS
from harvester.wire.encode_messages import number

if TYPE_CHECKING:
    from collections.abc import Callable

    from harvester.simgateway.markets.level1 import Level1

    Wanted = Callable[[int, Stream], bool]

BAR_NS = 5 * SECOND_NS

# Plain ints and module globals: these are looked up hundreds of thousands of times a second.
_INSERT, _UPDATE = int(Operation.INSERT), int(Operation.UPDATE)
_QUOTE, _TRADE, _DEPTH = int(RowKind.QUOTE), int(RowKind.TRADE), int(RowKind.DEPTH)
_L1, _BID_ASK, _MID_POINT, _LAST, _ALL_LAST = (
    Stream.L1,
    Stream.BID_ASK,
    Stream.MID_POINT,
    Stream.LAST,
    Stream.ALL_LAST,
)
_DIRECT, _SMART = Stream.DEPTH, Stream.SMART_DEPTH
_DIGITS = tuple(map(str, range(1000)))


def _event(ts: int, con_id: int, stream: Stream, fields: list[list[str]]) -> MarketEvent:
    return tuple.__new__(MarketEvent, (ts, con_id, stream, fields, ""))


class SubscriberBook:
    """The rows of one depth stream, best row first; new subscribers get them as inserts."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.sides: tuple[list[list[str]], list[list[str]]] = ([], [])  # Side.ASK, Side.BID; price, size, market maker

    def apply(self, position: int, operation: int, side: int, level: list[str]) -> None:
        """Apply an operation with IB's shift semantics, limited to `rows` rows; past the end it has no effect."""
        rows = self.sides[side]
        if operation == _INSERT:
            if position <= len(rows):
                rows.insert(position, level)
                del rows[self._rows :]
        elif position < len(rows):
            if operation == _UPDATE:
                rows[position] = level
            else:
                del rows[position]


class InstrumentStreams:
    """All streams of one instrument."""

    def __init__(
        self, instrument: Instrument, units: PriceUnits, level1: Level1, depth_rows: int, prices: NumberTexts
    ) -> None:
        self.instrument, self.level1 = instrument, level1
        self._con_id = instrument.con_id
        self._units, self._price, self._size = units, prices, NumberTexts()
        self._mids = PriceUnits(2 * units.per_dollar).texts()
        self.seconds, self.past = SecondBars(), PastTicks()
        self.books = {Stream.DEPTH: SubscriberBook(depth_rows), Stream.SMART_DEPTH: SubscriberBook(depth_rows)}
        self._mid: float = -1

    def quote(self, row: Row, wanted: Wanted, out: list[MarketEvent], *, sampled: bool) -> None:
        ts, _, _, bid, ask, bid_size, ask_size, _, _ = row
        con_id, seconds = self._con_id, str(ts // SECOND_NS)
        self.level1.quote = row
        self.past.quote(ts, bid, ask, bid_size, ask_size)
        if not sampled:
            self.level1_changes(ts, wanted, out)
        if wanted(con_id, _BID_ASK):
            price, size = self._price, self._size
            sides = [price[bid], price[ask], size[bid_size], size[ask_size], "0"]
            out.append(_event(ts, con_id, _BID_ASK, [["99", "", "3", seconds, *sides]]))
        mid = bid + ask
        if bid and ask and mid != self._mid:
            self._mid = mid
            if wanted(con_id, _MID_POINT):
                out.append(_event(ts, con_id, _MID_POINT, [["99", "", "4", seconds, self._mids[mid]]]))

    def trade(self, row: Row, wanted: Wanted, out: list[MarketEvent], *, sampled: bool) -> None:
        ts, _, _, price, size, _, attribs, conditions, name = row
        con_id = self._con_id
        self.level1.on_trade(row)
        self.past.trade(row)
        if not attribs:
            self.seconds.add(ts, price, size)
        if wanted(con_id, _L1):
            out.append(_event(ts, con_id, _L1, self.level1.real_time_volume(row)))
        if not sampled:
            self.level1_changes(ts, wanted, out)
        seconds, prices, sizes = str(ts // SECOND_NS), self._price[price], self._size[size]
        if wanted(con_id, _ALL_LAST):
            fields = ["99", "", "2", seconds, prices, sizes, str(attribs), name, conditions]
            out.append(_event(ts, con_id, _ALL_LAST, [fields]))
        if not attribs and wanted(con_id, _LAST):
            out.append(MarketEvent(ts, con_id, _LAST, [["99", "", "1", seconds, prices, sizes, "0", name, conditions]]))

    def level1_changes(self, ts: int, wanted: Wanted, out: list[MarketEvent]) -> None:
        if not wanted(self._con_id, _L1):
            self.level1.unsent = True
            return
        messages = self.level1.changes()
        if messages:
            out.append(_event(ts, self._con_id, _L1, messages))

    def depth(self, row: Row, stream: Stream, wanted: Wanted, out: list[MarketEvent]) -> None:
        ts, _, _, position, operation, side, price, size, maker = row
        level = [self._price[price], self._size[size], maker]
        self.books[stream].apply(position, operation, side, level)
        if wanted(self._con_id, stream):
            fields = depth_fields(stream, _DIGITS[position], _DIGITS[operation], _DIGITS[side], level)
            out.append(_event(ts, self._con_id, stream, [fields]))

    def bar(self, end_ns: int, wanted: Wanted, out: list[MarketEvent]) -> None:
        """Close the 5-second bar that ends at `end_ns`; without trades it repeats the last price with volume 0."""
        if not self.level1.last_price or not wanted(self._con_id, Stream.BARS_5S):
            return
        start = end_ns - BAR_NS
        bar = self.seconds.last_bar(start)
        if bar is None:
            last = self._price[self.level1.last_price]
            values = [last, last, last, last, "0", last, "0"]
        else:
            opens, high, low, close, volume, turnover, count = bar
            wap = round(self._units.usd(turnover / volume if volume else close), 6)  # prints of size 0 have no average
            prices = [number(self._units.usd(p)) for p in (opens, high, low, close)]
            values = [*prices, number(volume), number(wap), str(count)]
        fields = ["50", "3", "", str(start // SECOND_NS), *values]
        out.append(_event(end_ns, self._con_id, Stream.BARS_5S, [fields]))

    def quote_snapshot(self, stream: Stream, now_ns: int) -> list[list[str]]:
        """The present quote, or its mid, as a tick-by-tick row of this second; [] without one."""
        if self.level1.quote is None:
            return []
        _, _, _, bid, ask, bid_size, ask_size, _, _ = self.level1.quote
        seconds = str(now_ns // SECOND_NS)
        if stream == _BID_ASK:
            sides = [self._price[bid], self._price[ask], self._size[bid_size], self._size[ask_size], "0"]
            return [["99", "", "3", seconds, *sides]]
        return [["99", "", "4", seconds, self._mids[bid + ask]]] if bid and ask else []

    def book_snapshot(self, stream: Stream) -> list[list[str]]:
        """The book as inserts, asks first, best row first."""
        book = self.books[stream]
        insert = str(int(Operation.INSERT))
        return [
            depth_fields(stream, str(i), insert, str(int(side)), level)
            for side in (Side.ASK, Side.BID)
            for i, level in enumerate(book.sides[side])
        ]


def depth_fields(stream: Stream, position: str, operation: str, side: str, level: list[str]) -> list[str]:
    """Message 12 for direct depth without a market maker, else message 13 with the smart flag."""
    price, size, maker = level
    if stream == Stream.DEPTH and not maker:
        return ["12", "1", "", position, operation, side, price, size]
    return ["13", "1", "", position, maker, operation, side, price, size, "1" if stream == Stream.SMART_DEPTH else "0"]


class RowRenderer:
    """Turns rows into events; `next_timer` is the time of the next bar close or L1 sample."""

    def __init__(self, faces: list[InstrumentStreams], start_ns: int, sample_ns: int) -> None:
        self.faces = faces
        self._sample_ns, self._sampled = sample_ns, sample_ns > 0
        self._bar_at = start_ns - start_ns % BAR_NS + BAR_NS
        self._flush_at = 0
        self._pending: set[int] = set()
        self.next_timer = self._bar_at

    def fire(self, wanted: Wanted, out: list[MarketEvent]) -> None:
        """Run the timer at `next_timer`: sampled L1 first, then bars, both in instrument order."""
        now = self.next_timer
        if self._flush_at == now:
            for i in sorted(self._pending):
                self.faces[i].level1_changes(now, wanted, out)
            self._pending.clear()
            self._flush_at = 0
        if self._bar_at == now:
            for face in self.faces:
                face.bar(now, wanted, out)
            self._bar_at += BAR_NS
        self.next_timer = min(self._flush_at or self._bar_at, self._bar_at)

    def apply(self, row: Row, wanted: Wanted, out: list[MarketEvent]) -> None:
        ts, place, what = row[:3]
        face = self.faces[place]
        sampled = self._sampled
        if what == _QUOTE:
            face.quote(row, wanted, out, sampled=sampled)
        elif what == _TRADE:
            face.trade(row, wanted, out, sampled=sampled)
        else:
            face.depth(row, _DIRECT if what == _DEPTH else _SMART, wanted, out)
            return
        if sampled:
            self._pending.add(place)
            if not self._flush_at:
                self._flush_at = ts - ts % self._sample_ns + self._sample_ns
                self.next_timer = min(self._flush_at, self._bar_at)
