"""Decode client messages: the fields of one message become one typed request.

Layouts that both clients send to server version 176 to 178 (ib_async `client.py`, official `client.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harvester.errors import HarvesterError
from harvester.events.unset import UNSET_INT
from harvester.wire.message_ids import Out

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class BadRequest(HarvesterError):
    """A client message does not have the layout of its id. `req_id` is -1 if it could not be parsed."""

    def __init__(self, what: str, req_id: int = -1) -> None:
        self.req_id = req_id
        super().__init__(what)


@dataclass(frozen=True)
class VersionRange:
    """The versions a client offers in its handshake, with the connect options."""

    low: int
    high: int
    options: str = ""

    @classmethod
    def parse(cls, payload: bytes) -> VersionRange:
        """Parse `v157..178`, `v176` or `v100..226 +PACEAPI`.

        Raises:
            BadRequest: `payload` has another form.
        """
        text = payload.decode("ascii", "replace")
        found = re.fullmatch(r"v(\d{1,6})(?:\.\.(\d{1,6}))?(?: (.*))?\0?", text, re.DOTALL)
        if not found:
            raise BadRequest(f"handshake {text[:40]!r} is not a version range such as v157..178")
        low = int(found[1])
        return cls(low, int(found[2] or low), found[3] or "")


@dataclass(frozen=True)
class ContractSpec:
    """The contract fields of a request as sent."""

    con_id: int = 0
    symbol: str = ""
    sec_type: str = ""
    expiry: str = ""
    strike: str = ""
    right: str = ""
    multiplier: str = ""
    exchange: str = ""
    primary_exchange: str = ""
    currency: str = ""
    local_symbol: str = ""
    trading_class: str = ""


@dataclass(frozen=True)
class Request:
    """Base class: message id, request id (-1 = none) and the fields as sent."""

    msg: Out
    req_id: int
    fields: tuple[str, ...]


@dataclass(frozen=True)
class PlainRequest(Request):
    """A request without a type of its own; `args` are the fields after version and request id."""

    args: tuple[str, ...]


@dataclass(frozen=True)
class HistoricalTicksRequest(Request):
    """Of `start` and `end` one is empty."""

    contract: ContractSpec
    start: str
    end: str
    count: int
    what: str
    rth: bool
    ignore_size: bool


@dataclass(frozen=True)
class ContractDetailsRequest(Request):
    contract: ContractSpec


@dataclass(frozen=True)
class MarketDataRequest(Request):
    contract: ContractSpec
    generic: tuple[str, ...]
    snapshot: bool
    regulatory: bool


@dataclass(frozen=True)
class DepthRequest(Request):
    contract: ContractSpec
    rows: int
    smart: bool


@dataclass(frozen=True)
class DepthCancelRequest(Request):
    smart: bool


@dataclass(frozen=True)
class TickByTickRequest(Request):
    """`tick_type` is Last, AllLast, BidAsk or MidPoint."""

    contract: ContractSpec
    tick_type: str
    ticks: int
    ignore_size: bool


@dataclass(frozen=True)
class RealtimeBarsRequest(Request):
    contract: ContractSpec
    bar_size: int
    what: str
    rth: bool


@dataclass(frozen=True)
class HistoricalDataRequest(Request):
    """`end` is the text as sent (empty = now); `format_date` 1 means local text, 2 epoch seconds."""

    contract: ContractSpec
    end: str
    bar_size: str
    duration: str
    rth: bool
    what: str
    format_date: int
    keep_up_to_date: bool


@dataclass(frozen=True)
class HeadTimestampRequest(Request):
    contract: ContractSpec
    rth: bool
    what: str
    format_date: int


@dataclass(frozen=True)
class ScannerRequest(Request):
    """`rows` is -1 for the server's default."""

    rows: int
    instrument: str
    location: str
    scan_code: str


class _Reader:
    """Parses fields in order; errors name the field."""

    def __init__(self, msg: Out, fields: Sequence[str]) -> None:
        self._msg, self._fields, self._at = msg, fields, 1
        self.req_id = -1

    def text(self, name: str) -> str:
        if self._at >= len(self._fields):
            raise BadRequest(f"{self._msg.name} ends before its field {name}", self.req_id)
        self._at += 1
        return self._fields[self._at - 1]

    def whole(self, name: str, empty: int = 0) -> int:
        text = self.text(name)
        if text == "":
            return empty
        if not re.fullmatch(r"[+-]?\d{1,18}", text):
            raise BadRequest(f"{self._msg.name}: {name} {text[:40]!r} is not a whole number", self.req_id)
        return int(text)

    def flag(self, name: str) -> bool:
        text = self.text(name)
        if text.lower() not in {"", "0", "1", "true", "false"}:
            raise BadRequest(f"{self._msg.name}: {name} {text[:40]!r} is neither 0 nor 1", self.req_id)
        return text.lower() in {"1", "true"}

    def take_req_id(self) -> int:
        self.req_id = self.whole("request id", -1)
        return self.req_id

    def skip(self, n: int) -> None:
        self._at += n

    def contract(self) -> ContractSpec:
        con_id = self.whole("conId")
        names = ("symbol", "secType", "expiry", "strike", "right", "multiplier", "exchange")
        more = ("primaryExchange", "currency", "localSymbol", "tradingClass")
        return ContractSpec(con_id, *(self.text(name) for name in (*names, *more)))

    def skip_legs(self, contract: ContractSpec) -> None:
        """Skip the combo legs of a BAG contract, four fields each."""
        if contract.sec_type == "BAG":
            self.skip(4 * self.whole("number of legs"))


def _contract_details(msg: Out, read: _Reader, fields: tuple[str, ...]) -> Request:
    read.skip(1)
    return ContractDetailsRequest(msg, read.take_req_id(), fields, read.contract())


def _market_data(msg: Out, read: _Reader, fields: tuple[str, ...]) -> Request:
    read.skip(1)
    req_id, contract = read.take_req_id(), read.contract()
    read.skip_legs(contract)
    if read.flag("delta neutral"):
        read.skip(3)
    generic = tuple(t.strip() for t in read.text("generic ticks").split(",") if t.strip())
    return MarketDataRequest(
        msg, req_id, fields, contract, generic, read.flag("snapshot"), read.flag("regulatory snapshot")
    )


def _depth(msg: Out, read: _Reader, fields: tuple[str, ...]) -> Request:
    read.skip(1)
    req_id, contract = read.take_req_id(), read.contract()
    return DepthRequest(msg, req_id, fields, contract, read.whole("rows"), read.flag("smart depth"))


def _cancel_depth(msg: Out, read: _Reader, fields: tuple[str, ...]) -> Request:
    read.skip(1)
    return DepthCancelRequest(msg, read.take_req_id(), fields, read.flag("smart depth"))


def _tick_by_tick(msg: Out, read: _Reader, fields: tuple[str, ...]) -> Request:
    req_id, contract = read.take_req_id(), read.contract()
    kind = read.text("tick type")
    return TickByTickRequest(
        msg, req_id, fields, contract, kind, read.whole("number of ticks"), read.flag("ignore size")
    )


def _realtime_bars(msg: Out, read: _Reader, fields: tuple[str, ...]) -> Request:
    read.skip(1)
    req_id, contract = read.take_req_id(), read.contract()
    size, what = read.whole("bar size"), read.text("what to show")
    return RealtimeBarsRequest(msg, req_id, fields, contract, size, what, read.flag("useRTH"))


def _historical(msg: Out, read: _Reader, fields: tuple[str, ...]) -> Request:
    req_id, contract = read.take_req_id(), read.contract()
    read.skip(1)  # includeExpired
    end, bar_size, duration = read.text("end"), read.text("bar size"), read.text("duration")
    rth, what, format_date = read.flag("useRTH"), read.text("what to show"), read.whole("formatDate", 1)
    read.skip_legs(contract)
    keep = read.flag("keepUpToDate")
    return HistoricalDataRequest(msg, req_id, fields, contract, end, bar_size, duration, rth, what, format_date, keep)


def _head_timestamp(msg: Out, read: _Reader, fields: tuple[str, ...]) -> Request:
    req_id, contract = read.take_req_id(), read.contract()
    read.skip(1)  # includeExpired
    rth, what = read.flag("useRTH"), read.text("what to show")
    return HeadTimestampRequest(msg, req_id, fields, contract, rth, what, read.whole("formatDate", 1))


def _historical_ticks(msg: Out, read: _Reader, fields: tuple[str, ...]) -> Request:
    req_id, contract = read.take_req_id(), read.contract()
    read.skip(1)  # includeExpired
    start, end, count = read.text("start"), read.text("end"), read.whole("number of ticks")
    what, rth = read.text("what to show"), read.flag("useRTH")
    return HistoricalTicksRequest(msg, req_id, fields, contract, start, end, count, what, rth, read.flag("ignore size"))


def _scanner(msg: Out, read: _Reader, fields: tuple[str, ...]) -> Request:
    req_id, rows = read.take_req_id(), read.whole("number of rows", -1)
    if rows == UNSET_INT:
        rows = -1
    instrument, location = read.text("instrument"), read.text("location")
    return ScannerRequest(msg, req_id, fields, rows, instrument, location, read.text("scan code"))


_TYPED: dict[Out, Callable[[Out, _Reader, tuple[str, ...]], Request]] = {
    Out.CONTRACT: _contract_details,
    Out.MARKET_DATA: _market_data,
    Out.DEPTH: _depth,
    Out.CANCEL_DEPTH: _cancel_depth,
    Out.TICK_BY_TICK: _tick_by_tick,
    Out.REALTIME_BARS: _realtime_bars,
    Out.HISTORICAL_DATA: _historical,
    Out.HEAD_TIMESTAMP: _head_timestamp,
    Out.HISTORICAL_TICKS: _historical_ticks,
    Out.SCANNER: _scanner,
}

_UNVERSIONED = frozenset({Out.PLACE_ORDER, *(m for m in Out if m >= Out.OPTION_PARAMETERS)})
"""Untyped messages without a version field."""

_WITHOUT_REQ_ID = frozenset(
    {
        Out.OPEN_ORDERS,
        Out.ACCOUNT_UPDATES,
        Out.IDS,
        Out.NEWS_BULLETINS,
        Out.CANCEL_NEWS_BULLETINS,
        Out.SERVER_LOG_LEVEL,
        Out.AUTO_OPEN_ORDERS,
        Out.ALL_OPEN_ORDERS,
        Out.MANAGED_ACCOUNTS,
        Out.REQUEST_FA,
        Out.REPLACE_FA,
        Out.SCANNER_PARAMETERS,
        Out.CURRENT_TIME,
        Out.GLOBAL_CANCEL,
        Out.MARKET_DATA_TYPE,
        Out.POSITIONS,
        Out.CANCEL_POSITIONS,
        Out.VERIFY_REQUEST,
        Out.VERIFY_MESSAGE,
        Out.VERIFY_AUTH_REQUEST,
        Out.VERIFY_AUTH_MESSAGE,
        Out.START_API,
        Out.FAMILY_CODES,
        Out.DEPTH_EXCHANGES,
        Out.NEWS_PROVIDERS,
        Out.MARKET_RULE,
        Out.COMPLETED_ORDERS,
    }
)


def message_id(fields: Sequence[str]) -> int:
    """The message id of a client message.

    Raises:
        BadRequest: the first field is not a number.
    """
    if not fields or not re.fullmatch(r"\d{1,9}", fields[0]):
        raise BadRequest(f"a message starts with {(fields or [''])[0][:40]!r}, not a message id")
    return int(fields[0])


def parse(fields: Sequence[str]) -> Request:
    """Decode one client message.

    Raises:
        BadRequest: unknown message id, or a missing or invalid field.
    """
    number = message_id(fields)
    try:
        msg = Out(number)
    except ValueError:
        raise BadRequest(f"message id {number} is unknown for this server version") from None
    read, as_sent = _Reader(msg, fields), tuple(fields)
    if msg in _TYPED:
        return _TYPED[msg](msg, read, as_sent)
    read.skip(0 if msg in _UNVERSIONED else 1)
    taken = 1 if msg in _UNVERSIONED else 2
    if msg not in _WITHOUT_REQ_ID:
        read.take_req_id()
        taken += 1
    return PlainRequest(msg, read.req_id, as_sent, as_sent[taken:])
