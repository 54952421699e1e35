from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import date

import pytest
from gateway_support import running, small_market
from ib_async import IB, Contract, Stock

from harvester.errors import HarvesterError, NoLog
from harvester.eventlog.writer import LogWriter
from harvester.events.codes import SIMULATED
from harvester.events.kinds import Action, Kind, Stream
from harvester.home import Home
from harvester.simgateway.markets.market_source import HistoryQuery, MarketRefusal
from harvester.simgateway.markets.model_market import ModelSettings, open_model
from harvester.simgateway.markets.open_market import open_market
from harvester.simgateway.markets.recorded_day import open_recorded
from harvester.wire import encode_messages
from harvester.wire.cold_messages import END_SEPARATOR
from harvester.wire.decode_messages import Arrivals, MessageDecoder
from harvester.wire.message_ids import REQ_ID_INDEX

DAY = date(2025, 7, 17)
EVERYTHING = (Stream.L1, Stream.ALL_LAST, Stream.DEPTH, Stream.SMART_DEPTH, Stream.BID_ASK, Stream.BARS_5S)
OWN_COLUMNS = {"seq", "ts_recv", "req_id", "epoch", "snapshot"}
BAR = ["1752759000", "10", "11", "9.5", "10.25", "300", "10.1", "7"]


def request(action, stream, con_id, req_id, **params):
    row = {"action": action.value, "stream": stream.value, "symbol": "ACME", "con_id": con_id, "req_id": req_id}
    return Kind.REQUEST, {**row, "params": json.dumps(params, sort_keys=True)}


def with_id(fields, req_id):
    fields = list(fields)
    fields[REQ_ID_INDEX[int(fields[0])]] = str(req_id)
    return fields


class Recording:
    """Writes a day as the recorder does: items in order, decoded, committed."""

    def __init__(self, folder):
        self.home = Home(folder).prepare()
        self.entries: list[tuple[int, int, object]] = []

    def add(self, ts, *items, epoch=1):
        self.entries += [(ts, epoch, item) for item in items]

    def write(self, start_ns):
        writer = LogWriter.open(self.home.on(DAY), run_start_row={"params": "{}"})
        writer.begin(start_ns)
        incoming = MessageDecoder()
        for at in range(0, len(self.entries), 500):
            writer.commit(incoming.decode(Arrivals.of(self.entries[at : at + 500]), writer.next_seq))
        writer.close()
        self.entries = []
        return self.home.root


def subscriptions(con_ids):
    return {
        (con_id, stream): 100 + 10 * i + j for i, con_id in enumerate(con_ids) for j, stream in enumerate(EVERYTHING)
    }


def params_of(stream):
    return {"rows": 10, "smart": stream == Stream.SMART_DEPTH, "exchange": "ISLAND"} if "depth" in stream else {}


def record_model(folder):
    """A modelled day of two symbols as a recorder would log it, through the wire decoder."""
    market = open_model(ModelSettings(rate=500, seed=4, symbols=("ACME", "BOLT"), sample_ms=0))
    recording = Recording(folder)
    ids = subscriptions([i.con_id for i in market.instruments])
    start = market.start_ns
    recording.add(start, ["4", "2", "-1", "2104", "Market data farm connection is OK:usfarm", ""])
    for i, instrument in enumerate(market.instruments):
        details = encode_messages.contract(
            i + 1, {"symbol": instrument.symbol, "con_id": instrument.con_id, "long_name": "Ä"}
        )
        recording.add(start, request(Action.ASK, Stream.CONTRACT, 0, i + 1), details, ["52", "1", str(i + 1)])
    for (con_id, stream), req_id in ids.items():
        recording.add(start, request(Action.SUBSCRIBE, stream, con_id, req_id, **params_of(stream)))
        if stream == Stream.L1:
            recording.add(start, ["81", str(req_id), "0.01", "9c0001", "3"], ["58", "1", str(req_id), "1"])
    while (ts := market.next_ts()) is not None:
        for event in market.advance(ts, lambda con_id, stream: (con_id, stream) in ids):
            recording.add(event.ts, *(with_id(f, ids[event.con_id, event.stream]) for f in event.fields))
    return recording, ids, start


def replayed(home, ids):
    """Serve the day, decode the messages as a second recorder would, and return all rows."""
    market = open_recorded(home, trading_date=DAY)
    incoming, entries = MessageDecoder(), []
    for (con_id, stream), req_id in ids.items():
        entries.append((market.start_ns, 1, request(Action.SUBSCRIBE, stream, con_id, req_id, **params_of(stream))))
    while (ts := market.next_ts()) is not None:
        for event in market.advance(ts, lambda con_id, stream: (con_id, stream) in ids or stream == Stream.OTHER):
            assert event.ts == ts
            for fields in event.fields:
                sent = fields if event.stream == Stream.OTHER else with_id(fields, ids[event.con_id, event.stream])
                entries.append((event.ts, 1, sent))
    return list(incoming.decode(Arrivals.of(entries), 1).events())


def payloads(rows, kinds):
    return [
        (kind, row["ts_recv"], {name: value for name, value in row.items() if name not in OWN_COLUMNS})
        for kind, row in rows
        if kind in kinds
    ]


STREAMED = {Kind.TICK, Kind.TRADE, Kind.QUOTE, Kind.DEPTH, Kind.BAR, Kind.NOTICE, Kind.RAW, Kind.SCAN}


def recorded(home):
    from harvester.eventlog.reader import open_day

    return [event for batch in open_day(DAY, home).batches() for event in batch.events()]


def test_a_served_day_recorded_once_more_has_equal_payloads_in_equal_order(tmp_path):
    """Ticks, trades, quotes, depth, bars, notices and untyped messages are replayed in order, at their times."""
    recording, ids, start = record_model(tmp_path)
    home = recording.write(start)
    rows = recorded(home)
    first = [e for e in payloads(rows, STREAMED) if e[2].get("reason") != "copy" and e[2].get("code") != 2104]
    second = payloads(replayed(home, ids), STREAMED)
    assert len(first) > 8000
    assert {kind for kind, _, _ in first} == {
        *(Kind.TICK, Kind.TRADE, Kind.QUOTE, Kind.DEPTH, Kind.BAR, Kind.NOTICE, Kind.RAW)
    }
    assert [e for e in second if e[0] != Kind.RAW] == [e for e in first if e[0] != Kind.RAW]
    params = [e[2]["fields"] for e in first if e[0] == Kind.RAW]
    assert [e[2]["fields"] for e in second if e[0] == Kind.RAW] == params


def test_odd_messages_come_again_exactly(tmp_path):
    """Errors, resets, unset values, unknown messages, odd versions, impossible rows and a second connection's rows."""
    recording, con_id = Recording(tmp_path), 700_001
    ids = {(con_id, Stream.L1): 5, (con_id, Stream.DEPTH): 6, (con_id, Stream.ALL_LAST): 7}
    t = 1_752_759_000_000_000_000
    recording.add(t, *(request(Action.SUBSCRIBE, s, con_id, i, **params_of(s)) for (_, s), i in ids.items()))
    messages = [
        ["4", "2", "7", "10190", "Max number of tick-by-tick requests has been reached", ""],
        ["4", "2", "6", "317", "Market depth data has been RESET.", '{"a": 1}'],
        ["12", "1", "6", "9", "2", "0", "0", "0"],
        ["12", "1", "6", "0", "0", "1", "-1", "2147483647"],
        ["13", "1", "6", "0", "NSDQ", "0", "0", "1.7976931348623157e+308", "100", "1"],
        ["1", "6", "5", "1", "", "", "0"],
        ["1", "7", "5", "1", "10.5", "100", "1"],
        ["1", "6", "5", "2", "10.6", "100", "1"],
        ["2", "6", "5", "999", "100"],
        ["46", "6", "5", "45", ""],
        ["45", "6", "5", "49", "0"],
        ["99", "7", "2", "1752759000", "10.5", "100", "3", "FINRA", " 4 I"],
        ["58", "1", "5", "3"],
        ["21", "5", "10", "0", "0.5", "1", "2", "3", "4", "5", "6", "7"],
        ["1", "6", "5", "not a field"],
        ["4", "2", "-1", "1100", "Connectivity between IB and TWS has been lost.", ""],
    ]
    for i, fields in enumerate(messages):
        recording.add(t + i, fields)
    recording.add(t + 90, (Kind.NOTICE, {"code": -7, "text": "own"}), (Kind.CLOCK, {"wall_ns": 1, "mono_ns": 1}))
    home = recording.write(t)
    first = [e for e in payloads(recorded(home), STREAMED) if e[2].get("code") != -7]
    assert payloads(replayed(home, ids), STREAMED) == first
    assert len(first) == len(messages) + 2  # a copy row precedes the message with another version, and the one back


def test_contract_details_are_the_recorded_text(tmp_path):
    """Exactly the recorded fields, except the request id; the instrument matches the contract row."""
    recording, _, start = record_model(tmp_path)
    market = open_recorded(recording.write(start), trading_date=DAY)
    text = market.contract_text(700_001)
    assert text is not None
    assert with_id(text, 1) == encode_messages.contract(1, {"symbol": "ACME", "con_id": 700_001, "long_name": "Ä"})
    assert [(i.symbol, i.min_tick, i.has_depth, i.depth_venues) for i in market.instruments] == [
        ("ACME", "0.01", True, ("ISLAND",)),
        ("BOLT", "0.01", True, ("ISLAND",)),
    ]
    assert market.contract_text(1) is None


@asynccontextmanager
async def asking(market, **settings):
    """An ib_async client of a gateway that serves `market`; `ib.said` holds (code, text) of its errors."""
    async with running(market, **settings) as gateway:
        ib = IB()
        ib.said = []
        ib.errorEvent += lambda _req, code, text, _contract: ib.said.append((code, text))
        await ib.connectAsync("127.0.0.1", gateway.port, clientId=5, timeout=4)
        try:
            yield ib
        finally:
            ib.disconnect()


async def soon(ready):
    async with asyncio.timeout(10):
        while not ready():
            await asyncio.sleep(0.01)


def record_depth(folder):
    """A contract that trades in three places, with depth of one of them."""
    recording, t = Recording(folder), 1_752_759_000_000_000_000
    place = {"valid_exchanges": "SMART,NASDAQ,ARCA", "primary_exchange": "NASDAQ"}
    details = encode_messages.contract(1, {"symbol": "ACME", "con_id": 7, **place})
    recording.add(t, request(Action.ASK, Stream.CONTRACT, 0, 1), details, ["52", "1", "1"])
    recording.add(t, request(Action.SUBSCRIBE, Stream.DEPTH, 7, 2, **params_of(Stream.DEPTH)))
    recording.add(t + 10**9, ["12", "1", "2", "0", "0", "1", "10.5", "300"])
    return open_recorded(recording.write(t), trading_date=DAY)


@pytest.mark.parametrize("source", ["day", "model"])
def test_a_contract_has_the_exchange_that_was_asked_for(tmp_path, source):
    """Found on each of its exchanges, by any name, also by con_id; the qualified contract gets its depth."""

    async def story():
        async with asking(record_depth(tmp_path) if source == "day" else small_market()) as ib:
            for asked in ("NASDAQ", "ISLAND", "ARCA", "SMART"):
                [found] = await ib.qualifyContractsAsync(Stock("ACME", asked, "USD"))
                assert (found.exchange, found.primaryExchange) == (asked, "NASDAQ")
                [details] = await ib.reqContractDetailsAsync(Contract(conId=found.conId, exchange=asked))
                assert details.contract.exchange == asked
            for asked in ("", "NOWHERE"):
                [details] = await ib.reqContractDetailsAsync(Contract(conId=found.conId, exchange=asked))
                assert details.contract.exchange == "SMART"
            for asked in ("NASDAQ", "ISLAND"):
                [found] = await ib.qualifyContractsAsync(Stock("ACME", asked, "USD"))
                ticker = ib.reqMktDepth(found, numRows=5)
                await soon(lambda ticker=ticker: ticker.domBids)
                ib.cancelMktDepth(found)
            assert {code for code, _ in ib.said} <= {2104, 2106, 2158, SIMULATED}

    asyncio.run(story())


@pytest.mark.parametrize(
    ("source", "smart", "told"),
    [
        ("day", False, "recorded of ACME: depth of ISLAND (no smart flag)"),
        ("day", True, "recorded of ACME: depth of ISLAND (no smart flag)"),
        (
            "model",
            False,
            "served of ACME: depth of ISLAND, NASDAQ, NSDQ (no smart flag) and SMART depth (with its flag)",
        ),
    ],
)
def test_depth_that_is_not_there_is_refused_with_what_is(tmp_path, source, smart, told):
    """10092 of another venue's book, or of SMART depth, names the depth there is."""

    async def story():
        async with asking(record_depth(tmp_path) if source == "day" else small_market()) as ib:
            [found] = await ib.qualifyContractsAsync(Stock("ACME", "SMART" if smart else "ARCA", "USD"))
            ib.reqMktDepth(found, isSmartDepth=smart)
            await soon(lambda: any(code == 10092 for code, _ in ib.said))
            assert ib.said[-1][1].endswith(f"security type/exchange; {told}")

    asyncio.run(story())


def test_historical_answers_come_in_their_order(tmp_path):
    """Bars with their own texts, the next recorded answer for each further request, refusals as recorded, else 162."""
    recording, t = Recording(tmp_path), 1_752_759_000_000_000_000
    texts = {"bar_size": "1 min", "what": "TRADES", "rth": False, "duration": "1 D", "format_date": 2}
    for i, n in enumerate((1, 2)):
        recording.add(t + i, request(Action.BACKFILL, Stream.HISTORY, 7, 20 + i, **texts))
        recording.add(t + i, ["17", str(20 + i), f"first{i}", f"last{i}", str(n), *BAR * n])
    recording.add(t + 5, request(Action.BACKFILL, Stream.HISTORY, 7, 30, **{**texts, "bar_size": "1 hour"}))
    recording.add(t + 6, ["4", "2", "30", "162", "Historical Market Data Service error message: pacing", ""])
    market = open_recorded(recording.write(t), trading_date=DAY)
    ask = HistoryQuery(7, 0, "1 D", "1 min", "TRADES", rth=False)
    found = [market.history(ask) for _ in range(3)]
    assert [len(history.bars) for history in found] == [1, 2, 2]
    assert [(history.first, history.last) for history in found] == [("first0", "last0"), *[("first1", "last1")] * 2]
    bar = found[0].bars[0]
    assert [
        bar.text,
        *map(encode_messages.number, (bar.open, bar.high, bar.low, bar.close, bar.volume, bar.wap, bar.count)),
    ] == BAR
    for wrong, said in ((ask._replace(bar_size="1 hour"), "pacing"), (ask._replace(what="BID"), "no data")):
        with pytest.raises(MarketRefusal, match=said) as refused:
            market.history(wrong)
        assert refused.value.code == 162
    assert END_SEPARATOR not in found[0].first
    while market.next_ts() is not None:
        assert market.advance(market.end_ns, lambda _con_id, _stream: True) == []


def record_bars(folder):
    """Bars of a minute around the open and the close, of an hour and of a day, all recorded with useRTH=0."""
    recording, t = Recording(folder), 1_752_759_000_000_000_000
    details = encode_messages.contract(1, {"symbol": "ACME", "con_id": 7, "primary_exchange": "NASDAQ"})
    recording.add(t, request(Action.ASK, Stream.CONTRACT, 0, 1), details, ["52", "1", "1"])
    open_s, close_s = 1_752_759_000, 1_752_782_400  # 09:30 and 16:00 in New York
    asked = {
        "1 min": (open_s - 60, open_s, open_s + 60, close_s - 60, close_s),
        "1 hour": (open_s - 1800, open_s + 1800, close_s - 3600),
        "8 hours": (close_s - 6 * 3600,),
        "1 day": ("20250717",),
    }
    for i, (size, times) in enumerate(asked.items(), 20):
        kind = {"bar_size": size, "what": "TRADES", "rth": False, "duration": "1 D", "format_date": 2}
        bars = [text for time in times for text in (str(time), *BAR[1:])]
        recording.add(t + i * 10**9, request(Action.BACKFILL, Stream.HISTORY, 7, i, **kind))
        recording.add(t + i * 10**9, ["17", str(i), "first", "last", str(len(times)), *bars])
    return open_recorded(recording.write(t), trading_date=DAY)


def test_bars_of_the_session_come_out_of_bars_of_the_whole_day(tmp_path):
    """useRTH=1 on bars recorded with 0 gives those inside the session, or an error that lists what was recorded."""

    async def story():
        async with asking(record_bars(tmp_path)) as ib:
            [acme] = await ib.qualifyContractsAsync(Stock("ACME", "NASDAQ", "USD"))

            async def bars(size, rth, keep_up=False):
                found = await ib.reqHistoricalDataAsync(acme, "", "1 D", size, "TRADES", rth, 2, keep_up)
                return [f"{bar.date.timestamp() - 1_752_759_000:.0f}" for bar in found]

            assert await bars("1 min", False) == ["-60", "0", "60", "23340", "23400"]
            assert await bars("1 min", True) == ["0", "60", "23340"]
            assert await bars("1 hour", True) == ["1800", "19800"]
            for ask in (("8 hours", True), ("1 day", True), ("1 min", True, True)):
                said = len(ib.said)
                assert await bars(*ask) == []
                [(code, text)] = ib.said[said:]
                assert code == 162
                kept = "recorded with useRTH=0: 1 min TRADES, 1 hour TRADES, 8 hours TRADES, 1 day TRADES"
                assert text.endswith(f"no {ask[0]} TRADES bars were recorded with useRTH=1; {kept}")

    asyncio.run(story())


def test_scanner_lists_come_at_their_times_with_all_columns(tmp_path):
    """Each recorded list is one message 20 for its scan code; `scan` gives the list in force with all columns."""
    recording, t = Recording(tmp_path), 1_752_759_000_000_000_000
    row = ["0", "700001", "ACME", "STK", "", "0", "", "SMART", "USD", "ACME", "NMS", "NMS", "d", "b", "p", "l"]
    recording.add(t, request(Action.SUBSCRIBE, Stream.SCANNER, 0, 9, scan_code="MOST_ACTIVE", rows=25))
    lists = [["20", "3", "9", "1", *row], ["20", "3", "9", "0"], ["20", "3", "9", "2", *row, "1", *row[1:]]]
    for i, fields in enumerate(lists):
        recording.add(t + 10 * (i + 1), fields)
    market = open_recorded(recording.write(t), trading_date=DAY)
    assert market.pushes_scans
    assert market.scan("MOST_ACTIVE", 25) == []
    sent = []
    while (ts := market.next_ts()) is not None:
        for event in market.advance(ts, lambda _con_id, _stream: True):
            assert (event.con_id, event.stream, event.key) == (0, Stream.SCANNER, "MOST_ACTIVE")
            sent.append((event.ts, with_id(event.fields[0], 9)))
    assert sent == [(t + 10 * (i + 1), fields) for i, fields in enumerate(lists)]
    found = market.scan("MOST_ACTIVE", 25)
    assert len(found) == 2
    assert [encode_messages.number(found[1].columns[name]) for name in encode_messages.SCAN_COLUMNS] == ["1", *row[1:]]
    with pytest.raises(MarketRefusal):
        market.scan("TOP_PERC_GAIN", 25)


def test_who_comes_late_gets_the_state_first(tmp_path):
    """A late subscriber gets the last message of each L1 field and the current book; a cancel clears both."""
    recording, con_id, t = Recording(tmp_path), 700_001, 1_752_759_000_000_000_000
    recording.add(
        t, request(Action.SUBSCRIBE, Stream.L1, con_id, 5), request(Action.SUBSCRIBE, Stream.DEPTH, con_id, 6)
    )
    recording.add(t + 1, ["1", "6", "5", "1", "10", "100", "1"], ["1", "6", "5", "1", "11", "100", "1"])
    for position, price in ((0, "10"), (0, "11"), (1, "10.5")):
        recording.add(t + 2, ["12", "1", "6", str(position), "0", "1", price, "100"])
    recording.add(t + 3, request(Action.CANCEL, Stream.DEPTH, con_id, 6))
    market = open_recorded(recording.write(t), trading_date=DAY)
    market.advance(t + 2, lambda _con_id, _stream: False)
    assert market.snapshot(con_id, Stream.L1) == [["1", "6", "", "1", "11", "100", "1"]]
    book = market.snapshot(con_id, Stream.DEPTH)
    assert [(f[3], f[4], f[5], f[6]) for f in book] == [
        ("0", "0", "1", "11"),
        ("1", "0", "1", "10.5"),
        ("2", "0", "1", "10"),
    ]
    market.advance(t + 3, lambda _con_id, _stream: False)
    assert market.snapshot(con_id, Stream.DEPTH) == []


def test_a_day_nobody_recorded_is_refused(tmp_path):
    """A missing log and a missing date are clear errors."""
    with pytest.raises(NoLog):
        open_market("day", [tmp_path], trading_date="2025-07-18")
    with pytest.raises(HarvesterError):
        open_market("day", [tmp_path], trading_date="yesterday")
    with pytest.raises(HarvesterError, match="trading_date"):
        open_market("day", [tmp_path])
