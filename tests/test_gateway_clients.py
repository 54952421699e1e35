"""Two independent clients against the real socket: ib_async and the official API."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections import defaultdict

import pytest
from gateway_support import running, small_market
from ib_async import IB, ExecutionFilter, ScannerSubscription, Stock
from ibapi.client import EClient
from ibapi.contract import Contract
from ibapi.execution import ExecutionFilter as OfficialFilter
from ibapi.scanner import ScannerSubscription as OfficialScanner
from ibapi.wrapper import EWrapper

from harvester.events.codes import SIMULATED

STOCK = Stock("ACME", "SMART", "USD")


async def soon(ready, within_s=10):
    async with asyncio.timeout(within_s):
        while not ready():
            await asyncio.sleep(0.01)


async def _connected(version):
    async with running(server_version=version) as gateway:
        ib = IB()
        await ib.connectAsync("127.0.0.1", gateway.port, clientId=0, timeout=4, raiseSyncErrors=True)
        assert ib.client.serverVersion() == version
        assert ib.managedAccounts() == ["DU1234567"]
        assert ib.positions() == ib.openOrders() == ib.fills() == []
        ib.disconnect()


@pytest.mark.parametrize("version", [176, 177, 178])
def test_ib_async_connects(version):
    """IB.connectAsync's full sync, orders and executions included, ends without a time-out at each server version."""
    asyncio.run(_connected(version))


def test_ib_async_asks_everything(caplog):
    """Each request type of ib_async gets its answer, and ib_async decodes it without an error."""

    async def story():
        async with running(small_market(), speed=300, grace_s=0.3) as gateway:
            ib = IB()
            await ib.connectAsync("127.0.0.1", gateway.port, clientId=5, timeout=4)
            errors = []
            ib.errorEvent += lambda req, code, text, contract: errors.append((req, code))
            [details] = await ib.reqContractDetailsAsync(STOCK)
            assert details.contract.symbol == "ACME"
            assert details.minTick == 0.01
            assert await ib.reqContractDetailsAsync(Stock("NOSUCH", "SMART", "USD")) == []
            assert errors[-1][1] == 200
            await ib.qualifyContractsAsync(STOCK)
            assert STOCK.conId == details.contract.conId
            assert [d.contract.symbol for d in await ib.reqMatchingSymbolsAsync("ACM")] == ["ACME"]
            assert any(d.exchange == "SMART" for d in await ib.reqMktDepthExchangesAsync())
            assert "MOST_ACTIVE" in await ib.reqScannerParametersAsync()
            now = await ib.reqCurrentTimeAsync()
            assert abs(now.timestamp() - gateway.market.start_ns / 1e9) < 2
            assert await ib.reqAccountSummaryAsync() == []
            assert await ib.reqExecutionsAsync(ExecutionFilter()) == []
            for unit in ("1 min", "1 day"):
                bars = await ib.reqHistoricalDataAsync(STOCK, "", "5 D", unit, "TRADES", True, formatDate=2)
                assert bars
                assert bars[0].open > 0
            errors.clear()
            assert await ib.reqHistoricalTicksAsync(STOCK, "", "20200101 00:00:00 UTC", 5, "TRADES", False) == []
            assert [code for _, code in errors] == [162]  # an empty answer comes with a reason
            scan = ScannerSubscription(instrument="STK", locationCode="STK.US.MAJOR", scanCode="TOP_PERC_GAIN")
            found = await ib.reqScannerDataAsync(scan)
            assert [row.rank for row in found] == [0, 1]
            ticker = ib.reqMktData(STOCK, "233,375")
            by_tick = {kind: ib.reqTickByTickData(STOCK, kind) for kind in ("AllLast", "Last", "BidAsk", "MidPoint")}
            [venue] = await ib.qualifyContractsAsync(Stock("BOLT", "ISLAND", "USD"))
            direct = ib.reqMktDepth(venue, numRows=5)
            smart = ib.reqMktDepth(STOCK, numRows=10, isSmartDepth=True)
            bars = ib.reqRealTimeBars(STOCK, 5, "TRADES", False)
            live = await ib.reqHistoricalDataAsync(STOCK, "", "2 D", "1 min", "TRADES", False, 2, True)
            updates = []
            live.updateEvent += lambda bars, new: updates.append(new)
            await soon(lambda: bars and ticker.rtTradeVolume == ticker.rtTradeVolume and updates)
            await soon(lambda: direct.domBids and smart.domBids and ticker.bid > 0)
            assert len(direct.domBids) <= 5
            assert all(row.marketMaker for row in smart.domBids)
            assert len(by_tick) == 4
            for what in ("TRADES", "BID_ASK", "MIDPOINT"):
                now = await ib.reqCurrentTimeAsync()
                ticks = await ib.reqHistoricalTicksAsync(STOCK, "", now, 20, what, False)
                assert ticks
                assert all(a.time <= b.time for a, b in itertools.pairwise(ticks))
            ib.cancelMktData(STOCK)
            for kind in by_tick:
                ib.cancelTickByTickData(STOCK, kind)
            ib.cancelMktDepth(venue)
            ib.cancelMktDepth(STOCK, isSmartDepth=True)
            ib.cancelRealTimeBars(bars)
            ib.cancelHistoricalData(live)
            await ib.reqCurrentTimeAsync()
            assert not list(gateway.state.registry)
            ib.disconnect()
            assert {code for _, code in errors} <= {200, 162}

    with caplog.at_level(logging.ERROR, logger="ib_async.Decoder"):
        asyncio.run(story())
    assert [r for r in caplog.records if r.name == "ib_async.Decoder"] == []


class Official(EWrapper, EClient):
    """The official client in its thread; `seen` holds the arguments of every callback by name."""

    NAMES = """
        nextValidId managedAccounts contractDetails contractDetailsEnd tickPrice tickSize tickString tickGeneric
        tickReqParams marketDataType tickSnapshotEnd updateMktDepth updateMktDepthL2 tickByTickAllLast
        tickByTickBidAsk tickByTickMidPoint realtimeBar historicalData historicalDataEnd historicalDataUpdate
        headTimestamp scannerData scannerDataEnd scannerParameters currentTime positionEnd openOrderEnd
        completedOrdersEnd execDetailsEnd accountDownloadEnd accountSummaryEnd accountUpdateMultiEnd
        mktDepthExchanges marketRule symbolSamples userInfo
    """.split()  # noqa: SIM905 - a list of names reads best as text

    def __init__(self):
        EClient.__init__(self, self)
        self.seen = defaultdict(list)
        for name in self.NAMES:
            setattr(self, name, lambda *args, _name=name: self.seen[_name].append(args))

    def error(self, *args):
        req_id, _time, code = args[:3]
        self.seen["error"].append((req_id, code))

    def wait(self, *names, timeout=10):
        end = time.monotonic() + timeout
        while not all(self.seen[name] for name in names):
            missing = [name for name in names if not self.seen[name]]
            assert time.monotonic() < end, f"nothing of {missing}; errors {self.seen['error']}"
            time.sleep(0.01)


def _stock(exchange="SMART"):
    contract = Contract()
    contract.symbol, contract.secType, contract.exchange, contract.currency = "ACME", "STK", exchange, "USD"
    return contract


def _ask_everything(port):
    app = Official()
    app.connect("127.0.0.1", port, 9)
    assert app.serverVersion() == 178
    thread = threading.Thread(target=app.run, daemon=True)
    thread.start()
    app.wait("nextValidId", "managedAccounts")
    app.reqContractDetails(1, _stock())
    app.reqCurrentTime()
    app.reqPositions()
    app.reqOpenOrders()
    app.reqCompletedOrders(False)
    app.reqExecutions(2, OfficialFilter())
    app.reqAccountUpdates(True, "DU1234567")
    app.reqAccountSummary(3, "All", "NetLiquidation")
    app.reqAccountUpdatesMulti(4, "DU1234567", "", True)
    app.reqMktDepthExchanges()
    app.reqMarketRule(26)
    app.reqMatchingSymbols(5, "AC")
    app.reqUserInfo(6)
    app.wait("contractDetailsEnd", "currentTime", "positionEnd", "openOrderEnd", "completedOrdersEnd", "userInfo")
    app.wait("execDetailsEnd", "accountDownloadEnd", "accountSummaryEnd", "accountUpdateMultiEnd", "symbolSamples")
    app.wait("mktDepthExchanges", "marketRule")
    app.reqHeadTimeStamp(7, _stock(), "TRADES", 0, 2)
    app.reqHistoricalData(8, _stock(), "", "2 D", "1 min", "TRADES", 1, 1, False, [])
    app.reqHistoricalData(9, _stock(), "", "5 D", "1 day", "TRADES", 1, 2, False, [])
    scan = OfficialScanner()
    scan.instrument, scan.locationCode, scan.scanCode = "STK", "STK.US.MAJOR", "TOP_PERC_GAIN"
    app.reqScannerSubscription(10, scan, [], [])
    app.reqScannerParameters()
    app.wait("headTimestamp", "historicalDataEnd", "scannerDataEnd", "scannerParameters")
    app.reqMktData(11, _stock(), "", True, False, [])
    app.wait("tickSnapshotEnd")
    time.sleep(1)  # the official client does not pace itself
    app.reqMktData(12, _stock(), "233,375", False, False, [])
    for i, kind in enumerate(("Last", "AllLast", "BidAsk", "MidPoint")):
        app.reqTickByTickData(13 + i, _stock(), kind, 0, False)
    app.reqMktDepth(17, _stock("ISLAND"), 5, False, [])
    app.reqMktDepth(18, _stock(), 10, True, [])
    app.reqRealTimeBars(19, _stock(), 5, "TRADES", False, [])
    app.reqHistoricalData(20, _stock(), "", "2 D", "5 mins", "TRADES", 0, 2, True, [])
    app.wait("tickByTickAllLast", "tickByTickBidAsk", "tickByTickMidPoint", "updateMktDepthL2", "realtimeBar")
    app.wait("historicalDataUpdate", "tickPrice", "tickSize", "tickString")
    app.cancelMktData(12)
    for req_id in range(13, 17):
        app.cancelTickByTickData(req_id)
    app.cancelMktDepth(17, False)
    app.cancelMktDepth(18, True)
    app.cancelRealTimeBars(19)
    app.cancelHistoricalData(20)
    app.cancelScannerSubscription(10)
    time.sleep(0.3)
    app.disconnect()
    thread.join(5)
    return app


def test_official_asks_everything(caplog):
    """Each request type of the official client gets its answer, and the client decodes it without an error."""

    async def story():
        async with running(small_market(), speed=300, grace_s=0.3) as gateway:
            app = await asyncio.to_thread(_ask_everything, gateway.port)
            assert not list(gateway.state.registry)
            return app

    with caplog.at_level(logging.ERROR):
        app = asyncio.run(story())
    assert [r.getMessage() for r in caplog.records if r.name.startswith("ibapi")] == []
    assert {code for _, code in app.seen["error"]} <= {2104, 2106, 2158, 162, SIMULATED}
    dates = {req: [bar.date for r, bar in app.seen["historicalData"] if r == req] for req in (8, 9, 20)}
    assert all(len(d) == len("20250716 09:30:00 US/Eastern") for d in dates[8])
    assert all(len(d) == 8 and d.isdigit() for d in dates[9])
    assert all(d.isdigit() and len(d) == 10 for d in dates[20])
    assert all(position < 5 for _, position, *_ in app.seen["updateMktDepth"])
    assert all(smart for *_, smart in app.seen["updateMktDepthL2"] if _[0] == 18)
    assert [args[1] for args in app.seen["tickReqParams"]] == [0.01, 0.01]
    assert set(app.seen["marketDataType"]) == {(11, 1), (12, 1)}
