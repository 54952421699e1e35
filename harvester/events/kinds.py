"""The event kinds and their Arrow schemas; `SCHEMA_VERSION` rises when they change.

Every event carries `COMMON` first. A column holds what the gateway said, as sent: an empty field is null, unset
markers (1.7976931348623157e308, 2147483647) and -1 stay numbers. Prices are USD (or the contract's currency) per unit,
sizes are in the unit IB sends (shares since TWS 985), times are int64 ns UTC.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

import pyarrow as pa

SCHEMA_VERSION = 1


class Kind(StrEnum):
    """The kinds of event, in the order in which they are written and hashed."""

    CONTRACT = "contract"
    TICK = "tick"
    TRADE = "trade"
    QUOTE = "quote"
    DEPTH = "depth"
    BAR = "bar"
    SCAN = "scan"
    NOTICE = "notice"
    REQUEST = "request"
    END = "end"
    CLOCK = "clock"
    RAW = "raw"


class Side(IntEnum):
    """Side of the book, as IB numbers it."""

    ASK = 0
    BID = 1


class Operation(IntEnum):
    """The operation of a depth row on the table of row positions."""

    INSERT = 0
    UPDATE = 1
    DELETE = 2


class TickStream(IntEnum):
    """`tickType` of tick-by-tick messages (message 99)."""

    LAST = 1
    ALL_LAST = 2
    BID_ASK = 3
    MID_POINT = 4


class Own(IntEnum):
    """Codes of Harvester's own notices; negative, so that they differ from IB's."""

    CONNECTED = -1  # detail: server version, connection time
    DISCONNECTED = -2  # text: why
    CLOCK_STEP = -3  # value: ns by which the wall clock jumped against market time
    STREAM_SILENT = -4  # a subscription seems dead and is requested again; text: why; value: ns since its last row
    STREAM_GRANTED = -5  # first row of a subscription arrived
    STREAM_REFUSED = -6  # value: IB's code
    OUTAGE_BEGIN = -7
    OUTAGE_END = -8
    MESSAGE_BLOCKED = -9  # the guard refused an outgoing message; value: its message id
    DISK_LOW = -10  # value: bytes left
    BYTES_WITHOUT_MESSAGES = -11  # the gateway sends bytes that are not framed messages
    REQUEST_TIMEOUT = -12
    HOURS_DIFFER = -13  # a contract's liquid hours are not the calendar's session, or cannot be compared with it
    CLOCKS_DIFFER = -14  # value: ns by which the gateway's time is ahead of the stamps
    SOURCE = -15  # where the market comes from; detail: {"kind": a `SourceKind`}; text: digest or class of account
    STRATEGY_DROPPED = -16  # a user's strategy failed; detail: `projections.trading.failure.Failure`
    ANSWER_UNREADABLE = -20  # a history arrived whose bars cannot be read; text: why


SILENCE_DETAIL = '{"cause":"silence"}'
"""`notice.detail` of an `OUTAGE_BEGIN` that no code of the gateway announced: the whole feed fell silent."""


class SourceKind(StrEnum):
    """Where recorded data come from: a market, or which simulation."""

    UNKNOWN = "unknown"  # recorded before 0.2, or by a connection that does not say
    LIVE = "live"
    PAPER = "paper"  # IB's simulated trading account; its market data are the live ones
    MODEL = "model"
    TAPE = "tape"
    SERVED = "served"  # a recorded day, replayed
    MIXED = "mixed"  # of a date or an episode: two of these


class Action(StrEnum):
    """`request.action`."""

    RUN_START = "run_start"  # params: `harvester.projections.run_params.RunParams`
    RUN_END = "run_end"
    SUBSCRIBE = "subscribe"
    CANCEL = "cancel"
    BACKFILL = "backfill"
    ASK = "ask"  # one question, one answer: contract details, current time, scanner parameters


class Stream(StrEnum):
    """The stream a request is for; `request.stream`."""

    RUN = "run"
    L1 = "l1"
    DEPTH = "depth"
    SMART_DEPTH = "smart_depth"
    LAST = "last"
    ALL_LAST = "all_last"
    BID_ASK = "bid_ask"
    MID_POINT = "mid_point"
    BARS_5S = "bars_5s"
    HISTORY = "history"
    SCANNER = "scanner"
    CONTRACT = "contract"
    OTHER = "other"


def _f(name: str, kind: pa.DataType, unit: str = "", *, null: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"unit": unit} if unit else None)


_I32, _I64, _F64, _TEXT, _BOOL = pa.int32(), pa.int64(), pa.float64(), pa.string(), pa.bool_()

COMMON: tuple[pa.Field, ...] = (
    _f("seq", pa.uint64(), "position in the trading date, 1, 2, 3 …", null=False),
    _f("ts_recv", _I64, "ns UTC, one per packet, never runs back", null=False),
    _f("con_id", _I64, "IBKR instrument id, 0 = none", null=False),
    _f("req_id", _I32, "request id, -1 = none", null=False),
    _f("epoch", pa.uint16(), "connection number, from 1", null=False),
)

_MSG = _f("msg", _I32, "TWS message id, null when Harvester itself speaks")
_EVENT_TIME = _f("ts_event", _I64, "ns UTC, IB's own time")

COLUMNS: dict[Kind, tuple[pa.Field, ...]] = {
    Kind.CONTRACT: (
        _MSG,
        _f("symbol", _TEXT),
        _f("sec_type", _TEXT),
        _f("exchange", _TEXT),
        _f("primary_exchange", _TEXT),
        _f("currency", _TEXT),
        _f("local_symbol", _TEXT),
        _f("trading_class", _TEXT),
        _f("long_name", _TEXT),
        _f("min_tick", _F64, "price"),
        _f("trading_hours", _TEXT),
        _f("liquid_hours", _TEXT),
        _f("time_zone", _TEXT),
    ),
    Kind.TICK: (
        _MSG,
        _f("field", _I32, "IB tick type"),
        _f("price", _F64, "price"),
        _f("size", _F64, "shares"),
        _f("value", _F64, "generic value"),
        _f("text", _TEXT),
        _f("attribs", _I64, "attribute bits as sent"),
    ),
    Kind.TRADE: (
        _f("stream", _I32, "1 Last, 2 AllLast"),
        _EVENT_TIME,
        _f("price", _F64, "price"),
        _f("size", _F64, "shares"),
        _f("attribs", _I64, "attribute bits as sent"),
        _f("past_limit", _BOOL, "bit 0 of attribs"),
        _f("unreported", _BOOL, "bit 1 of attribs"),
        _f("exchange", _TEXT),
        _f("conditions", _TEXT),
    ),
    Kind.QUOTE: (
        _f("stream", _I32, "3 BidAsk, 4 MidPoint"),
        _EVENT_TIME,
        _f("bid", _F64, "price"),
        _f("ask", _F64, "price"),
        _f("bid_size", _F64, "shares"),
        _f("ask_size", _F64, "shares"),
        _f("mid", _F64, "price, MidPoint only"),
        _f("attribs", _I64, "attribute bits as sent"),
        _f("past_low", _BOOL, "bit 0 of attribs"),
        _f("past_high", _BOOL, "bit 1 of attribs"),
    ),
    Kind.DEPTH: (
        _MSG,
        _f("position", _I32, "row position, 0 = best"),
        _f("operation", _I32, "0 insert, 1 update, 2 delete"),
        _f("side", _I32, "0 ask, 1 bid"),
        _f("price", _F64, "price"),
        _f("size", _F64, "shares"),
        _f("market_maker", _TEXT),
        _f("smart", _I32, "smart-depth flag as sent"),
    ),
    Kind.BAR: (
        _MSG,
        _EVENT_TIME,
        _f("time", _TEXT, "bar start as sent"),
        _f("bar_size", _TEXT),
        _f("what", _TEXT),
        _f("rth", _BOOL),
        _f("open", _F64, "price"),
        _f("high", _F64, "price"),
        _f("low", _F64, "price"),
        _f("close", _F64, "price"),
        _f("volume", _F64, "shares"),
        _f("wap", _F64, "price"),
        _f("count", _I64, "trades"),
    ),
    Kind.SCAN: (
        _f("scan_code", _TEXT),
        _f("snapshot", _I32, "1, 2, 3 … within its request"),
        _f("rank", _I32, "0 = first, as sent"),
        _f("symbol", _TEXT),
        _f("sec_type", _TEXT),
        _f("expiry", _TEXT),
        _f("strike", _TEXT),
        _f("right", _TEXT),
        _f("exchange", _TEXT),
        _f("currency", _TEXT),
        _f("local_symbol", _TEXT),
        _f("market_name", _TEXT),
        _f("trading_class", _TEXT),
        _f("distance", _TEXT),
        _f("benchmark", _TEXT),
        _f("projection", _TEXT),
        _f("legs", _TEXT),
    ),
    Kind.NOTICE: (
        _MSG,
        _f("code", _I32, "IB's code, or one of Own"),
        _f("text", _TEXT),
        _f("detail", _TEXT, "IB's advanced reject text, or JSON of an Own notice"),
        _f("value", _I64, "the number a notice is about (message 58: market data type)"),
    ),
    Kind.REQUEST: (
        _f("action", _TEXT),
        _f("stream", _TEXT),
        _f("symbol", _TEXT),
        _f("params", _TEXT, "JSON object, keys sorted"),
    ),
    Kind.END: (
        _MSG,
        _f("stream", _TEXT),
        _f("rows", _I64, "rows the request gave"),
        _f("text", _TEXT, "first and last time of the answer, as sent"),
    ),
    Kind.CLOCK: (
        _f("wall_ns", _I64, "ns UTC", null=False),
        _f("mono_ns", _I64, "ns", null=False),
    ),
    Kind.RAW: (
        _MSG,
        _f("fields", _TEXT, "the message's fields, NUL between them"),
        _f("reason", _TEXT, "untyped, copy, partial, sent or undecodable"),
    ),
}

SCHEMAS: dict[Kind, pa.Schema] = {kind: pa.schema([*COMMON, *COLUMNS[kind]]) for kind in Kind}
