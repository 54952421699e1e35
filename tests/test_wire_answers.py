from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ib_async.decoder import Decoder as AsyncDecoder
from ibapi.decoder import Decoder as OfficialDecoder

from harvester.events.kinds import Kind
from harvester.wire import encode_messages
from harvester.wire.decode_messages import Arrivals, MessageDecoder
from harvester.wire.message_ids import In


class Calls:
    """A wrapper that notes every callback."""

    def __init__(self):
        self.seen = []

    def __getattr__(self, name):
        return lambda *args: self.seen.append((name, args))


def by_ib_async(fields, version=178):
    calls = Calls()
    AsyncDecoder(calls, version).interpret(list(fields))
    return calls.seen


def by_official(fields, version=178):
    calls = Calls()
    raw = tuple(f.encode() for f in fields)
    OfficialDecoder(calls, version).interpret(raw[1:], int(fields[0]))
    return calls.seen


price = st.one_of(st.floats(0.0001, 1e6), st.sampled_from([0.0, -1.0, 100.0, 1.7976931348623157e308, 0.07]))
whole = st.integers(0, 10**9)


@given(st.one_of(st.floats(allow_nan=False), st.integers(-(10**14), 10**14).map(float)))
def test_number_reads_back(value):
    """A number's text parses to the same float64, and is the shortest that does."""
    text = encode_messages.number(value)
    assert float(text) == value
    assert math.copysign(1, float(text)) == math.copysign(1, value)
    assert len(text) <= len(repr(value))


def test_number_texts():
    """Whole numbers have no point, None is the empty field, text is unchanged."""
    got = [encode_messages.number(v) for v in (100.0, 184.32, 7, None, "0.0100", True, -1.0, 1e15, -0.0)]
    assert got == ["100", "184.32", "7", "", "0.0100", "1", "-1", "1000000000000000.0", "-0.0"]


@pytest.mark.parametrize("version", [176, 177, 178])
@given(price, price, whole, whole, st.integers(0, 3))
def test_quote(version, bid, ask, bid_size, ask_size, attribs):  # noqa: PLR0917 - as many values as the tick has
    """Both clients decode a BidAsk tick to the encoded values."""
    fields = encode_messages.quote(7, 1_381_219_200, bid, ask, bid_size, ask_size, attribs)
    [(name, args)] = by_ib_async(fields, version)
    assert (name, args[:6]) == ("tickByTickBidAsk", (7, 1_381_219_200, bid, ask, bid_size, ask_size))
    assert (args[6].bidPastLow, args[6].askPastHigh) == (bool(attribs & 1), bool(attribs & 2))
    [(name, args)] = by_official(fields, version)
    assert (name, args[:6]) == ("tickByTickBidAsk", (7, 1_381_219_200, bid, ask, bid_size, ask_size))
    assert (args[6].bidPastLow, args[6].askPastHigh) == (bool(attribs & 1), bool(attribs & 2))


@given(st.sampled_from([1, 2]), price, whole, st.integers(0, 3))
def test_trade(stream, value, size, attribs):
    """Both clients decode a Last or AllLast tick to the encoded values, flags and conditions included."""
    fields = encode_messages.trade(7, stream, 5, value, size, attribs, "ISLAND", " O X")
    for decode in (by_ib_async, by_official):
        [(name, args)] = decode(fields)
        assert (name, args[:5]) == ("tickByTickAllLast", (7, stream, 5, value, size))
        assert (args[5].pastLimit, args[5].unreported) == (bool(attribs & 1), bool(attribs & 2))
        assert args[6:] == ("ISLAND", " O X")


@given(st.integers(0, 20), st.integers(0, 2), st.integers(0, 1), price, whole)
def test_depth(position, operation, side, value, size):
    """Both clients decode both kinds of depth row to the encoded values."""
    for decode in (by_ib_async, by_official):
        row = encode_messages.depth(7, position, operation, side, value, size)
        assert decode(row) == [("updateMktDepth", (7, position, operation, side, value, size))]
        row = encode_messages.depth_l2(7, position, "ARCA", operation, side, value, size, 1)
        assert decode(row) == [("updateMktDepthL2", (7, position, "ARCA", operation, side, value, size, True))]


@given(price, whole)
def test_ticks(value, size):
    """Both clients decode L1 messages to the encoded values."""
    assert by_ib_async(encode_messages.tick_price(7, 1, value, size, 1)) == [("priceSizeTick", (7, 1, value, size))]
    official = by_official(encode_messages.tick_price(7, 1, value, size, 3))
    assert [(n, a[:3]) for n, a in official] == [("tickPrice", (7, 1, value)), ("tickSize", (7, 0, size))]
    assert official[0][1][3].canAutoExecute
    assert official[0][1][3].pastLimit
    for decode in (by_ib_async, by_official):
        assert decode(encode_messages.tick_size(7, 8, size)) == [("tickSize", (7, 8, size))]
        assert decode(encode_messages.tick_generic(7, 49, value)) == [("tickGeneric", (7, 49, value))]
        assert decode(encode_messages.tick_string(7, 48, "1;2;3")) == [("tickString", (7, 48, "1;2;3"))]
        assert decode(encode_messages.mid_point(7, 5, value)) == [("tickByTickMidPoint", (7, 5, value))]


BAR = (10.5, 11.25, 10.0, 11.0, 1200.0, 10.7345, 33)


def test_bars():
    """Both clients decode 5-second, historical and kept-up-to-date bars to the encoded values."""
    for decode in (by_ib_async, by_official):
        [(name, args)] = decode(encode_messages.realtime_bar(7, 1_381_219_200, BAR))
        assert (name, [float(a) for a in args]) == ("realtimeBar", [7, 1_381_219_200, *BAR])
        rows = [["20131008", *BAR], ["20131009", *BAR]]
        *bars, (last, end) = decode(encode_messages.historical_data(7, "a", "b", rows))
        assert (last, end) == ("historicalDataEnd", (7, "a", "b"))
        assert [_bar(args[1]) for _, args in bars] == [("20131008", *BAR), ("20131009", *BAR)]
        [(name, args)] = decode(encode_messages.historical_update(7, ["1381219200", *BAR]))
        assert (name, _bar(args[1])) == ("historicalDataUpdate", ("1381219200", *BAR))


def _bar(bar):
    wap = bar.average if hasattr(bar, "average") else bar.wap
    values = (bar.open, bar.high, bar.low, bar.close, bar.volume, wap, bar.barCount)
    return (bar.date, *(float(v) for v in values))


def test_scanner():
    """Both clients decode a scanner list to its rows in order."""
    rows = [{"rank": i, "con_id": 10 + i, "symbol": s, "sec_type": "STK", "strike": 0} for i, s in enumerate("AB")]
    for decode in (by_ib_async, by_official):
        *found, (last, _) = decode(encode_messages.scanner_data(7, rows))
        assert last == "scannerDataEnd"
        got = [(args[0], args[1], args[2].contract.conId, args[2].contract.symbol) for _, args in found]
        assert got == [(7, 0, 10, "A"), (7, 1, 11, "B")]


@pytest.mark.parametrize("version", [176, 177, 178])
def test_contract(version):
    """Both clients decode every field of contract details, non-ASCII letters included."""
    values = {"symbol": "BRK B", "con_id": 72063691, "long_name": "Société Générale", "min_tick": "0.01"}
    hours = {"trading_hours": "20250717:0400-20250717:2000", "time_zone": "US/Eastern", "primary_exchange": "NYSE"}
    fields = encode_messages.contract(7, {**values, **hours})
    for decode in (by_ib_async, by_official):
        [(name, (req_id, details))] = decode(fields, version)
        assert (name, req_id) == ("contractDetails", 7)
        assert details.longName == "Société Générale"
        assert (details.contract.symbol, details.contract.conId, details.minTick) == ("BRK B", 72063691, 0.01)
        assert (details.tradingHours, details.timeZoneId) == ("20250717:0400-20250717:2000", "US/Eastern")
        assert (details.contract.primaryExchange, details.contract.exchange) == ("NYSE", "SMART")
        assert float(details.minSize) == 1
        assert float(details.suggestedSizeIncrement) == 100


def test_statuses():
    """Both clients decode errors, accounts, ids, data types and closing messages to the encoded values."""
    [(name, args)] = by_ib_async(encode_messages.error(7, 317, "reset", "{}"))
    assert (name, args) == ("error", (7, 317, "reset", "{}"))
    [(name, args)] = by_official(encode_messages.error(7, 317, "reset", "{}"))
    assert (name, args) == ("error", (7, 0, 317, "reset", "{}"))
    for decode in (by_ib_async, by_official):
        assert decode(encode_messages.market_data_type(7, 3)) == [("marketDataType", (7, 3))]
        assert decode(encode_messages.tick_req_params(7, 0.01, "9c", 3)) == [("tickReqParams", (7, 0.01, "9c", 3))]
        assert decode(encode_messages.managed_accounts(["DU1", "DU2"])) == [("managedAccounts", ("DU1,DU2",))]
        assert decode(encode_messages.next_valid_id(4)) == [("nextValidId", (4,))]
        assert decode(encode_messages.current_time(5)) == [("currentTime", (5,))]
        assert decode(encode_messages.head_timestamp(7, "1")) == [("headTimestamp", (7, "1"))]
        assert decode(encode_messages.scanner_parameters("<x/>")) == [("scannerParameters", ("<x/>",))]
        [(name, (rows,))] = decode(encode_messages.depth_exchanges([("ISLAND", "STK", "", "Deep2", 1)]))
        assert (name, rows[0].exchange, rows[0].aggGroup) == ("mktDepthExchanges", "ISLAND", 1)


@pytest.mark.parametrize(
    ("fields", "name", "args"),
    [
        (encode_messages.end(In.CONTRACT_END, 7), "contractDetailsEnd", (7,)),
        (encode_messages.end(In.SNAPSHOT_END, 7), "tickSnapshotEnd", (7,)),
        (encode_messages.end(In.OPEN_ORDER_END), "openOrderEnd", ()),
        (encode_messages.end(In.ACCOUNT_DOWNLOAD_END, None, "DU1"), "accountDownloadEnd", ("DU1",)),
        (encode_messages.end(In.EXECUTION_END, 7), "execDetailsEnd", (7,)),
        (encode_messages.end(In.POSITION_END), "positionEnd", ()),
        (encode_messages.end(In.ACCOUNT_SUMMARY_END, 7), "accountSummaryEnd", (7,)),
        (encode_messages.end(In.ACCOUNT_MULTI_END, 7), "accountUpdateMultiEnd", (7,)),
        (encode_messages.end(In.POSITION_MULTI_END, 7), "positionMultiEnd", (7,)),
        (encode_messages.end(In.COMPLETED_ORDER_END), "completedOrdersEnd", ()),
        (encode_messages.end(In.OPTION_PARAMETERS_END, 7), "securityDefinitionOptionParameterEnd", (7,)),
    ],
)
def test_ends(fields, name, args):
    """Both clients recognise every closing message."""
    assert by_ib_async(fields) == [(name, args)]
    assert by_official(fields) == [(name, args)]


MESSAGES = [
    encode_messages.tick_price(7, 1, 184.32, 300, 1),
    encode_messages.tick_price(7, 66, "1.7976931348623157e308", None, 0),
    encode_messages.tick_size(7, 8, 12345.0),
    encode_messages.tick_generic(7, 49, 0),
    encode_messages.tick_string(7, 48, "184.1;100;1381219200000;5;184;true"),
    encode_messages.trade(7, 2, 1_381_219_200, 184.32, 100, 2, "FINRA", " T I"),
    encode_messages.trade(7, 1, 1_381_219_200, 184.32, 100, 0, "", ""),
    encode_messages.quote(7, 1_381_219_200, 184.3, 184.32, 100, 2500, 3),
    encode_messages.mid_point(7, 1_381_219_200, 184.315),
    encode_messages.depth(7, 3, 2, 1, 0, 0),
    encode_messages.depth_l2(7, 3, "NSDQ", 0, 0, 184.5, 700, 1),
    encode_messages.depth_l2(7, -1, "", 9, 5, -1, 2147483647, 0),
    encode_messages.realtime_bar(7, 1_381_219_200, BAR),
    encode_messages.historical_update(7, ["1381219200", *BAR]),
    encode_messages.error(7, 317, "Market depth data has been RESET", ""),
    encode_messages.error(-1, 1100, "lost", ""),
    encode_messages.market_data_type(7, 3),
    encode_messages.end(In.SNAPSHOT_END, 7),
    encode_messages.end(In.CONTRACT_END, 7),
    encode_messages.tick_req_params(7, "0.01", "9c0001", 3),
    encode_messages.depth_exchanges([("ISLAND", "STK", "", "Deep2", 2147483647)]),
    encode_messages.current_time(5),
    ["250", "1", "hello", ""],
]


@pytest.mark.parametrize("fields", MESSAGES, ids=lambda f: f"{f[0]}-{f[3] if len(f) > 3 else ''}")
def test_inverse(fields):
    """A message recorded as a row and encoded again has the same fields, with the new request id."""
    (kind, row), *more = _recorded(fields)
    assert not more
    req_id = row["req_id"]
    assert encode_messages.answer_of(kind, row, req_id) == list(fields)
    if req_id == 7:
        other = encode_messages.answer_of(kind, row, 99)
        assert [b for a, b in zip(fields, other, strict=True) if a != b] == ["99"]


def test_inverse_of_contract():
    """Contract details are restored exactly from their raw copy; the contract row itself gives no message."""
    fields = encode_messages.contract(7, {"symbol": "IBM", "con_id": 8314})
    (kind, raw), (kind2, row) = _recorded(fields)
    assert (kind, kind2) == (Kind.RAW, Kind.CONTRACT)
    assert encode_messages.answer_of(kind, raw, 7) == fields
    assert encode_messages.answer_of(kind2, row, 7) is None


def test_inverse_of_lists():
    """A historical answer and a scanner list are restored from their rows."""
    history = encode_messages.historical_data(7, "20131008 04:00:00 US/Eastern", "20131009", [["20131008", *BAR]])
    *bars, (kind, end) = _recorded(history)
    assert kind == Kind.END
    start, stop = end["text"].split("\0")
    assert encode_messages.historical_of([row for _, row in bars], start, stop, 7) == history
    scan = encode_messages.scanner_data(7, [{"rank": 0, "con_id": 10, "symbol": "A", "sec_type": "STK", "strike": "0"}])
    *rows, (kind, _) = _recorded(scan)
    assert kind == Kind.END
    assert encode_messages.scanner_of([row for _, row in rows], 7) == scan


def _recorded(fields):
    batch = MessageDecoder().decode(Arrivals.of([(1, 1, list(fields))]), 1)
    return list(batch.events())


def test_official_sizes_are_exact():
    """The official client reads sizes as decimals equal to those sent."""
    [(_, args)] = by_official(encode_messages.tick_size(7, 8, 0.1))
    assert args[2] == Decimal("0.1")
