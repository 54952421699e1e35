from __future__ import annotations

import contextlib
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ib_async import Contract, ExecutionFilter, ScannerSubscription
from ib_async.client import Client
from ibapi.client import EClient
from ibapi.contract import Contract as OfficialContract
from ibapi.execution import ExecutionFilter as OfficialFilter
from ibapi.scanner import ScannerSubscription as OfficialScanner
from ibapi.wrapper import EWrapper

from harvester.wire.decode_requests import BadRequest, ContractSpec, PlainRequest, VersionRange, parse
from harvester.wire.framing import Deframer, split
from harvester.wire.message_ids import Out

FACTS = {
    "conId": 8314,
    "symbol": "IBM",
    "secType": "STK",
    "exchange": "SMART",
    "primaryExchange": "NYSE",
    "currency": "USD",
    "localSymbol": "IBM",
    "tradingClass": "IBM",
}


class Recorder:
    """Stands where both libraries have their socket."""

    def __init__(self):
        self.sent = []
        self.lock = threading.Lock()
        self.sendMsg = self.sent.append
        self.isConnected = lambda: True


def contract(kind):
    made = kind()
    for name, value in FACTS.items():
        setattr(made, name, value)
    return made


@pytest.fixture(params=["ib_async", "ibapi"])
def client(request):
    """A client of each library without a socket; `asked()` returns its last message as a request."""
    recorder = Recorder()
    if request.param == "ib_async":
        made = Client(wrapper=None)
        made.MaxRequests = 0
        made.conn, made._serverVersion = recorder, 178
        made.connState = Client.CONNECTED
        made.contract, made.scanner, made.filter = contract(Contract), ScannerSubscription(), ExecutionFilter()
    else:
        made = EClient(EWrapper())
        made.conn, made.serverVersion_ = recorder, 178
        made.setConnState(EClient.CONNECTED)
        made.contract, made.scanner, made.filter = contract(OfficialContract), OfficialScanner(), OfficialFilter()
    made.asked = lambda: parse(split(Deframer().feed(recorder.sent[-1])[0]))
    made.clientId, made.optCapab = 31, ""
    return made


WANTED = ContractSpec(8314, "IBM", "STK", "", "", "", "", "SMART", "NYSE", "USD", "IBM", "IBM")


def check_contract(ask):
    assert ask.contract.strike in {"", "0.0", "0"}
    assert ask.contract == ContractSpec(**{**WANTED.__dict__, "strike": ask.contract.strike})


def test_streams(client):
    """Requests for streams of both clients are decoded with every field in its place."""
    client.reqMktData(7, client.contract, "233,375", True, False, [])
    ask = client.asked()
    check_contract(ask)
    assert (ask.msg, ask.req_id, ask.generic, ask.snapshot, ask.regulatory) == (1, 7, ("233", "375"), True, False)
    client.reqMktDepth(8, client.contract, 10, True, [])
    ask = client.asked()
    check_contract(ask)
    assert (ask.msg, ask.req_id, ask.rows, ask.smart) == (10, 8, 10, True)
    client.cancelMktDepth(8, True)
    assert (client.asked().req_id, client.asked().smart) == (8, True)
    client.reqTickByTickData(9, client.contract, "BidAsk", 5, True)
    ask = client.asked()
    check_contract(ask)
    assert (ask.msg, ask.req_id, ask.tick_type, ask.ticks, ask.ignore_size) == (97, 9, "BidAsk", 5, True)
    client.reqRealTimeBars(10, client.contract, 5, "TRADES", True, [])
    ask = client.asked()
    check_contract(ask)
    assert (ask.msg, ask.req_id, ask.bar_size, ask.what, ask.rth) == (50, 10, 5, "TRADES", True)


def test_answers_of_many_rows(client):
    """Requests for contracts, history and scanners of both clients are decoded with every field in its place."""
    client.reqContractDetails(7, client.contract)
    check_contract(client.asked())
    assert client.asked().req_id == 7
    client.reqHistoricalData(8, client.contract, "20131008 16:00:00", "1 D", "1 min", "TRADES", 0, 2, True, [])
    ask = client.asked()
    check_contract(ask)
    assert (ask.end, ask.duration, ask.bar_size, ask.what) == ("20131008 16:00:00", "1 D", "1 min", "TRADES")
    assert (ask.rth, ask.format_date, ask.keep_up_to_date, ask.req_id) == (False, 2, True, 8)
    client.reqHeadTimeStamp(9, client.contract, "TRADES", 1, 2)
    ask = client.asked()
    assert (ask.req_id, ask.rth, ask.what, ask.format_date) == (9, True, "TRADES", 2)
    client.scanner.instrument, client.scanner.locationCode, client.scanner.scanCode = (
        "STK",
        "STK.US.MAJOR",
        "MOST_ACTIVE",
    )
    client.reqScannerSubscription(10, client.scanner, [], [])
    ask = client.asked()
    assert (ask.req_id, ask.instrument, ask.location, ask.scan_code) == (10, "STK", "STK.US.MAJOR", "MOST_ACTIVE")
    assert ask.rows == -1
    client.scanner.numberOfRows = 25
    client.reqScannerSubscription(11, client.scanner, [], [])
    assert client.asked().rows == 25


def test_everything_else(client):
    """Requests without a layout of their own give their request id and arguments."""
    client.startApi()
    assert (client.asked().msg, client.asked().args[0]) == (Out.START_API, "31")
    client.reqExecutions(7, client.filter)
    assert (client.asked().msg, client.asked().req_id) == (Out.EXECUTIONS, 7)
    client.reqAccountUpdates(True, "DU1")
    assert (client.asked().req_id, client.asked().args) == (-1, ("1", "DU1"))
    client.reqAccountSummary(8, "All", "NetLiquidation")
    assert (client.asked().msg, client.asked().req_id) == (Out.ACCOUNT_SUMMARY, 8)
    client.reqPositionsMulti(9, "DU1", "")
    assert (client.asked().msg, client.asked().req_id) == (Out.POSITIONS_MULTI, 9)
    client.reqCurrentTime()
    assert (client.asked().msg, client.asked().req_id) == (Out.CURRENT_TIME, -1)
    client.cancelHistoricalData(10)
    assert (client.asked().msg, client.asked().req_id) == (Out.CANCEL_HISTORICAL_DATA, 10)
    client.cancelTickByTickData(11)
    assert (client.asked().msg, client.asked().req_id) == (Out.CANCEL_TICK_BY_TICK, 11)
    client.reqMarketRule(26)
    assert (client.asked().req_id, client.asked().args) == (-1, ("26",))
    client.reqMatchingSymbols(12, "IB")
    assert (client.asked().req_id, client.asked().args) == (12, ("IB",))


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        (["1", "11", "7"], "ends before"),
        (["1", "11", "seven"], "request id 'seven' is not a whole number"),
        (["250", "1"], "message id 250"),
        (["hello"], "starts with 'hello'"),
        ([], "starts with ''"),
        (["11", "1", "7", "maybe"], "neither 0 nor 1"),
    ],
)
def test_bad_layouts(fields, what):
    """A message that does not have the layout of its id is refused with the field's name."""
    with pytest.raises(BadRequest, match=what):
        parse(fields)


@given(st.lists(st.text(max_size=8), max_size=30))
def test_never_anything_else(fields):
    """Whatever a client sends, the answer is a request or a BadRequest, never another error."""
    with contextlib.suppress(BadRequest):
        assert parse(fields).fields == tuple(fields)


@given(st.sampled_from(list(Out)), st.lists(st.sampled_from(["", "0", "1", "7", "BAG", "-1", "x"]), max_size=24))
def test_known_ids_with_nonsense(msg, rest):
    """The same for messages with a known id."""
    with contextlib.suppress(BadRequest):
        request = parse([str(int(msg)), *rest])
        assert request.msg == msg
        assert isinstance(request.req_id, int)
        assert not isinstance(request, PlainRequest) or set(request.args) <= set(rest)


@pytest.mark.parametrize(
    ("text", "low", "high", "options"),
    [
        ("v157..178", 157, 178, ""),
        ("v100..226", 100, 226, ""),
        ("v176", 176, 176, ""),
        ("v157..178 +PACEAPI", 157, 178, "+PACEAPI"),
    ],
)
def test_version_ranges(text, low, high, options):
    """Both clients' version ranges are parsed."""
    assert VersionRange.parse(text.encode()) == VersionRange(low, high, options)


@pytest.mark.parametrize("text", ["", "157..178", "v", "GET / HTTP/1.1", "v1..2..3", "v99999999"])
def test_bad_version_ranges(text):
    """Any other version range is refused."""
    with pytest.raises(BadRequest, match="not a version range"):
        VersionRange.parse(text.encode())
