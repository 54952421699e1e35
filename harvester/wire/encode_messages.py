"""Encode the messages a gateway sends: each is a list of text fields, ready for `framing.frame`.

Layouts of server version 176 to 178 (ib_async `decoder.py`, official `decoder.py`). Numbers are written as the shortest
decimal text that parses to the same float64. `answer_of` encodes an event row as the message it was recorded from.
"""

# ruff: noqa: PLR0917 - parameters follow the field order of the protocol

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harvester.events.kinds import Kind
from harvester.events.unset import TEXT_OF_MARKER
from harvester.units import SECOND_NS
from harvester.wire.message_ids import REQ_ID_INDEX, In

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Number = float | int | str | None
Fields = list[str]

_WHOLE_MAX = 1e15  # beyond it the integer text of a float has digits that were not sent


def number(value: Number) -> str:
    """Shortest decimal text: 100.0 gives `100`, None an empty field, a marker of IB its text; text is unchanged."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        if value.is_integer() and -_WHOLE_MAX < value < _WHOLE_MAX and str(value) != "-0.0":
            return str(int(value))
        return TEXT_OF_MARKER.get(value) or repr(value).replace("e+", "e")
    return str(int(value))


def flag(value: object) -> str:
    """A boolean as `1` or `0`."""
    return "1" if value else "0"


def handshake(server_version: int, connection_time: str) -> Fields:
    """The first frame a gateway sends; `connection_time` is text such as `20250717 09:30:00 US/Eastern`."""
    return [str(server_version), connection_time]


def error(req_id: int, code: int, text: str, advanced: str = "") -> Fields:
    """Message 4: an error or status; `req_id` is -1 when it concerns the connection."""
    return ["4", "2", str(req_id), str(code), text, advanced]


def managed_accounts(accounts: Iterable[str]) -> Fields:
    return ["15", "1", ",".join(accounts)]


def next_valid_id(order_id: int) -> Fields:
    return ["9", "1", str(order_id)]


def current_time(epoch_seconds: int) -> Fields:
    return ["49", "1", str(epoch_seconds)]


def end(msg: In, req_id: int | None = None, *more: str) -> Fields:
    """The message that ends a list: 52, 53, 54, 55, 57, 62, 64, 72, 74, 76, 102.

    All but 76 and 102 have a version field.
    """
    version = [] if msg in {In.COMPLETED_ORDER_END, In.OPTION_PARAMETERS_END} else ["1"]
    return [str(int(msg)), *version, *([] if req_id is None else [str(req_id)]), *more]


def market_data_type(req_id: int, kind: int) -> Fields:
    """Message 58: 1 live, 2 frozen, 3 delayed, 4 delayed and frozen."""
    return ["58", "1", str(req_id), str(kind)]


def tick_req_params(req_id: int, min_tick: Number, bbo_exchange: str, snapshot_permissions: int) -> Fields:
    return ["81", str(req_id), number(min_tick), bbo_exchange, str(snapshot_permissions)]


def tick_price(req_id: int | str, field: int, price: Number, size: Number, attribs: Number) -> Fields:
    return ["1", "6", str(req_id), str(field), number(price), number(size), number(attribs)]


def tick_size(req_id: int | str, field: int, size: Number) -> Fields:
    return ["2", "6", str(req_id), str(field), number(size)]


def tick_generic(req_id: int | str, field: int, value: Number) -> Fields:
    return ["45", "6", str(req_id), str(field), number(value)]


def tick_string(req_id: int | str, field: int, text: str) -> Fields:
    return ["46", "6", str(req_id), str(field), text]


def depth(req_id: int | str, position: Number, operation: Number, side: Number, price: Number, size: Number) -> Fields:
    """Message 12: one row operation on one venue's book."""
    return ["12", "1", str(req_id), number(position), number(operation), number(side), number(price), number(size)]


def depth_l2(
    req_id: int | str,
    position: Number,
    market_maker: str,
    operation: Number,
    side: Number,
    price: Number,
    size: Number,
    smart: Number,
) -> Fields:
    """Message 13: a row operation with a market maker, in SMART depth with a venue."""
    head = ["13", "1", str(req_id), number(position), market_maker]
    return [*head, number(operation), number(side), number(price), number(size), number(smart)]


def trade(
    req_id: int | str,
    stream: Number,
    time: Number,
    price: Number,
    size: Number,
    attribs: Number,
    exchange: str,
    conditions: str,
) -> Fields:
    """Message 99, Last (stream 1) and AllLast (2); `time` in epoch seconds, attribs bit 0 past limit, 1 unreported."""
    head = ["99", str(req_id), number(stream), number(time)]
    return [*head, number(price), number(size), number(attribs), exchange, conditions]


def quote(
    req_id: int | str, time: Number, bid: Number, ask: Number, bid_size: Number, ask_size: Number, attribs: Number
) -> Fields:
    """Message 99, BidAsk (stream 3); attribs bit 0 bid past low, bit 1 ask past high."""
    values = (bid, ask, bid_size, ask_size, attribs)
    return ["99", str(req_id), "3", number(time), *map(number, values)]


def mid_point(req_id: int | str, time: Number, mid: Number) -> Fields:
    """Message 99, MidPoint (stream 4)."""
    return ["99", str(req_id), "4", number(time), number(mid)]


def realtime_bar(req_id: int | str, time: Number, bar: Sequence[Number]) -> Fields:
    """Message 50; `bar` is open, high, low, close, volume, WAP, count; `time` in epoch seconds."""
    return ["50", "3", str(req_id), number(time), *map(number, bar)]


def historical_data(req_id: int, start: str, end_: str, bars: Sequence[Sequence[Number]]) -> Fields:
    """Message 17; a bar is time, open, high, low, close, volume, WAP, count."""
    flat = [number(value) for bar in bars for value in bar]
    return ["17", str(req_id), start, end_, str(len(bars)), *flat]


def historical_ticks(msg: In, req_id: int, ticks: Sequence[Sequence[Number]]) -> Fields:
    """Message 96 to 98, complete in one part.

    A tick begins with epoch seconds and attribute bits; then MIDPOINT (96): price, size; BID_ASK (97): bid, ask, their
    sizes; TRADES (98): price, size, exchange, conditions.
    """
    return [str(int(msg)), str(req_id), str(len(ticks)), *(number(value) for tick in ticks for value in tick), "1"]


def historical_update(req_id: int | str, bar: Sequence[Number]) -> Fields:
    """Message 90; `bar` as in `historical_data`, sent in the order count, time, open, close, high, low, WAP, volume."""
    time, open_, high, low, close, volume, wap, count = map(number, bar)
    return ["90", str(req_id), count, time, open_, close, high, low, wap, volume]


def head_timestamp(req_id: int, text: str) -> Fields:
    return ["88", str(req_id), text]


SCAN_COLUMNS = (
    "rank",
    "con_id",
    "symbol",
    "sec_type",
    "expiry",
    "strike",
    "right",
    "exchange",
    "currency",
    "local_symbol",
    "market_name",
    "trading_class",
    "distance",
    "benchmark",
    "projection",
    "legs",
)
"""Field order of a scanner row in message 20."""


def scanner_data(req_id: int, rows: Sequence[Mapping[str, Number]]) -> Fields:
    """Message 20: one complete ranking; each row maps `SCAN_COLUMNS` to values, a missing column is an empty field."""
    flat = [number(row.get(column)) for row in rows for column in SCAN_COLUMNS]
    return ["20", "3", str(req_id), str(len(rows)), *flat]


def scanner_parameters(xml: str) -> Fields:
    return ["19", "1", xml]


def depth_exchanges(rows: Iterable[tuple[str, str, str, str, int]]) -> Fields:
    """Message 80; a row is exchange, security type, listing exchange, service data type, aggregation group."""
    rows = list(rows)
    return ["80", str(len(rows)), *(str(value) for row in rows for value in row)]


CONTRACT_DEFAULTS: dict[str, str] = {
    "symbol": "",
    "sec_type": "STK",
    "expiry": "",
    "strike": "0",
    "right": "",
    "exchange": "SMART",
    "currency": "USD",
    "local_symbol": "",
    "market_name": "",
    "trading_class": "",
    "con_id": "0",
    "min_tick": "0.01",
    "multiplier": "",
    "order_types": "ACTIVETIM,ADJUST,ALERT,ALLOC,DAY,GTC,LMT,MKT",
    "valid_exchanges": "SMART",
    "price_magnifier": "1",
    "under_con_id": "0",
    "long_name": "",
    "primary_exchange": "",
    "contract_month": "",
    "industry": "",
    "category": "",
    "subcategory": "",
    "time_zone": "US/Eastern",
    "trading_hours": "",
    "liquid_hours": "",
    "ev_rule": "",
    "ev_multiplier": "",
    "sec_ids": "0",
    "agg_group": "1",
    "under_symbol": "",
    "under_sec_type": "",
    "market_rule_ids": "26",
    "real_expiry": "",
    "stock_type": "COMMON",
    "min_size": "1",
    "size_increment": "1",
    "suggested_size_increment": "100",
}
"""The fields of message 10 after the request id, in order, with the values of an ordinary US stock."""


def contract(req_id: int, values: Mapping[str, Number]) -> Fields:
    """Message 10 of a contract without security ids; `values` override `CONTRACT_DEFAULTS`.

    Non-ASCII characters of the long name are sent as Unicode escapes, as both clients expect.
    """
    unknown = values.keys() - CONTRACT_DEFAULTS.keys()
    assert not unknown, f"message 10 has no field {sorted(unknown)}"
    filled = {name: number(values.get(name, default)) for name, default in CONTRACT_DEFAULTS.items()}
    filled["long_name"] = filled["long_name"].encode("ascii", "backslashreplace").decode("ascii")
    return ["10", str(req_id), *filled.values()]


def contract_place(name: str) -> int:
    """Index of a value in the fields of message 10."""
    return 2 + list(CONTRACT_DEFAULTS).index(name)


# ---- messages from event rows ----

_BAR = ("open", "high", "low", "close", "volume", "wap", "count")


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    return "" if value is None else str(value)


def _seconds(row: Mapping[str, Any]) -> int | None:
    ts: int | None = row["ts_event"]
    return None if ts is None else ts // SECOND_NS


def _tick(row: Mapping[str, Any], req_id: int) -> Fields | None:
    match row["msg"]:
        case In.TICK_PRICE:
            return tick_price(req_id, row["field"], row["price"], row["size"], row["attribs"])
        case In.TICK_SIZE:
            return tick_size(req_id, row["field"], row["size"])
        case In.TICK_GENERIC:
            return tick_generic(req_id, row["field"], row["value"])
        case In.TICK_STRING:
            return tick_string(req_id, row["field"], _text(row, "text"))
    return None


def _trade(row: Mapping[str, Any], req_id: int) -> Fields:
    values = (row["stream"], _seconds(row), row["price"], row["size"], row["attribs"])
    return trade(req_id, *values, _text(row, "exchange"), _text(row, "conditions"))


def _quote(row: Mapping[str, Any], req_id: int) -> Fields:
    if row["stream"] == 4:
        return mid_point(req_id, _seconds(row), row["mid"])
    sides = (row["bid"], row["ask"], row["bid_size"], row["ask_size"])
    return quote(req_id, _seconds(row), *sides, row["attribs"])


def _depth(row: Mapping[str, Any], req_id: int) -> Fields:
    place, level = (row["operation"], row["side"]), (row["price"], row["size"])
    if row["msg"] == In.DEPTH:
        return depth(req_id, row["position"], *place, *level)
    return depth_l2(req_id, row["position"], _text(row, "market_maker"), *place, *level, row["smart"])


def _bar(row: Mapping[str, Any], req_id: int) -> Fields | None:
    values: list[Number] = [row[column] for column in _BAR]
    match row["msg"]:
        case In.REALTIME_BAR:
            return realtime_bar(req_id, row["time"], values)
        case In.HISTORICAL_UPDATE:
            return historical_update(req_id, [row["time"], *values])
    return None


def _notice(row: Mapping[str, Any], req_id: int) -> Fields | None:
    match row["msg"]:
        case In.ERROR:
            return error(req_id, row["code"], _text(row, "text"), _text(row, "detail"))
        case In.MARKET_DATA_TYPE:
            return market_data_type(req_id, row["value"])
    return None


def _end(row: Mapping[str, Any], req_id: int) -> Fields | None:
    msg = row["msg"]
    if msg in {In.HISTORICAL_DATA, In.SCANNER_DATA} or msg is None:
        return None
    if msg == In.ACCOUNT_DOWNLOAD_END:
        return end(In(msg), None, _text(row, "text"))
    return end(In(msg), req_id if msg in REQ_ID_INDEX else None)


def _raw(row: Mapping[str, Any], req_id: int) -> Fields | None:
    if row["reason"] not in {"untyped", "copy"}:
        return None
    fields = _text(row, "fields").split("\0")
    at = REQ_ID_INDEX.get(row["msg"], 0)
    if 0 < at < len(fields):
        fields[at] = str(req_id)
    return fields


_INVERSE: dict[Kind, Callable[[Mapping[str, Any], int], Fields | None]] = {
    Kind.TICK: _tick,
    Kind.TRADE: _trade,
    Kind.QUOTE: _quote,
    Kind.DEPTH: _depth,
    Kind.BAR: _bar,
    Kind.NOTICE: _notice,
    Kind.END: _end,
    Kind.RAW: _raw,
}


def answer_of(kind: Kind, row: Mapping[str, Any], req_id: int) -> Fields | None:
    """The message from which `row` was recorded: the inverse of the recorder's decoder.

    Args:
        kind: the row's kind.
        row: every column of the kind's schema, by name.
        req_id: the client's request id; it replaces the recorded one.

    Returns:
        The message's fields, or None where a row is not one message: rows written by Harvester, contract rows (their
        text is in the preceding `raw` row), historical bars (`historical_of`), scanner rows (`scanner_of`).
    """
    inverse = _INVERSE.get(kind)
    return None if inverse is None else inverse(row, req_id)


def historical_of(bars: Sequence[Mapping[str, Any]], start: str, end_: str, req_id: int) -> Fields:
    """Message 17 from the bar rows of one historical answer; `start` and `end_` are its range texts."""
    return historical_data(req_id, start, end_, [[row["time"], *(row[column] for column in _BAR)] for row in bars])


def scanner_of(rows: Sequence[Mapping[str, Any]], req_id: int) -> Fields:
    """Message 20 from the scan rows of one snapshot."""
    return scanner_data(req_id, rows)
