"""Market time and the pump: no loss, order, agreeing clocks, the report, the command."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest
from gateway_support import ACME, Client, running, small_market, true_book
from ib_async import IB

from harvester.calendar import trading_date
from harvester.clock import IN_FLIGHT_BYTES, Dial, FileClock, LockstepClock
from harvester.events.kinds import Kind
from harvester.simgateway.gateway_report import TEXTS, GatewayReport, exact_sum, text_sum
from harvester.simgateway.limits import Limits
from harvester.units import SECOND_NS
from harvester.wire.decode_messages import Arrivals, MessageDecoder
from harvester.wire.message_ids import MARKET_TIME, MARKET_TIME_OPTION
from tests.processes import PYTHON, python

PROJECT = Path(__file__).resolve().parent.parent
FREE = Limits(messages_per_s=0, depth_lines=0, tick_by_tick_lines=0)
BOLT = (0, "BOLT", *ACME[2:])


def subscribe_all(client, contracts=(ACME, BOLT)):
    for i, contract in enumerate(contracts):
        base = 10 * (i + 1)
        client.send(1, 11, base, *contract, 0, "233,375", 0, 0, "")
        for j, kind in enumerate(("AllLast", "Last", "BidAsk", "MidPoint")):
            client.send(97, base + 1 + j, *contract, kind, 0, 0)
        client.send(10, 5, base + 5, *contract, 10, 1, "")
        client.send(50, 3, base + 6, *contract, 5, "TRADES", 0, "")


def rows_of(got):
    """The batch of events a recorder decodes from the messages."""
    return MessageDecoder().decode(Arrivals.of([(i, 1, fields) for i, fields in enumerate(got)]), 1)


def compare(report, got):
    """Rows and exact sums of every column the report has, against what the recorder's decoder reads."""
    batch = rows_of(got)
    for kind, symbols in report["sent"].items():
        if kind in {"raw", "scan"}:
            continue
        table = batch.tables[Kind(kind)]
        assert table.num_rows == sum(entry["rows"] for entry in symbols.values()), kind
        columns = {column for entry in symbols.values() for column in entry["sums"]}
        for column in columns:
            theirs = exact_sum(entry["sums"].get(column) for entry in symbols.values())
            assert exact_sum(numbers(table, column)) == theirs, (kind, column)
        if Kind(kind) in TEXTS:
            texts = [row.values() for row in table.select(list(TEXTS[Kind(kind)])).to_pylist()]
            theirs = sum(int(entry["texts"], 16) for entry in symbols.values()) % 2**128
            assert int(text_sum(texts), 16) == theirs, kind


def numbers(table, column):
    """A column as sent in messages: times of ticks in seconds."""
    if column == "seconds":
        return [None if ns is None else ns // 10**9 for ns in table.column("ts_event").to_pylist()]
    return table.column(column).to_pylist()


def test_a_sum_of_texts_misses_nothing():
    """The sum is independent of row order, differs for any other text, column or row count, and is never empty."""
    rows = [("ARCA", ""), ("NASDAQ", " T I"), ("ARCA", ""), (None, None)]
    whole = text_sum(rows)
    assert whole == text_sum(reversed(rows)) == text_sum([*rows, ("", "")])
    others = [
        [("ARCB", ""), *rows[1:]],
        [("", "ARCA"), *rows[1:]],
        rows[1:],
        [*rows, ("ARCA", "")],
        [("NASDAQ", ""), ("ARCA", " T I"), *rows[2:]],
    ]
    assert len({whole, *map(text_sum, others)}) == 6


async def _whole_day(gateway, clock=None):
    client = await Client.connect(gateway.port, clock=clock)
    subscribe_all(client)
    await gateway.wait_over()
    client.send(49, 1)
    await client.until(lambda c: c.of("49"), within_s=20)
    return client


def test_nothing_is_lost_at_full_speed():
    """At speed max a client gets every row and every value the gateway reports, for every kind."""

    async def story():
        async with running(small_market(3000), limits=FREE) as gateway:
            client = await _whole_day(gateway)
            await client.close()
        compare(gateway.final, client.got)
        assert gateway.final["market_over"]
        assert gateway.final["sent"]["depth"]["BOLT"]["rows"] > 1000
        assert gateway.final["messages"] == len(client.got) - 1 + 1

    asyncio.run(story())


def test_slow_client_gets_everything():
    """A slow client delays the market; no data is dropped for it or for a fast client."""

    async def story():
        async with running(small_market(6000), limits=FREE) as gateway:
            narrow = socket.socket()
            narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            narrow.connect(("127.0.0.1", gateway.port))
            reader, writer = await asyncio.open_connection(sock=narrow, limit=4096)
            slow = Client(reader, writer)
            slow.task.cancel()
            fast = await Client.connect(gateway.port, 2)
            slow.raw(b"API\0\x00\x00\x00\x09v157..178")
            slow.send(71, 2, 3, "")
            subscribe_all(slow)
            subscribe_all(fast)
            for session in gateway._clients.values():
                peer = session._writer.get_extra_info("socket")
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            await asyncio.sleep(1.5)
            assert not gateway.pump.over.is_set(), "the market ran on without the slow client"
            stuck = len(fast.got)
            await asyncio.sleep(0.3)
            assert len(fast.got) == stuck
            slow.task = asyncio.create_task(slow._read())
            await gateway.wait_over()
            for client in (slow, fast):
                client.send(49, 1)
                await client.until(lambda c: c.of("49"), within_s=20)
            values = [[m[1:2] + m[3:] for m in c.got if m[0] == "99"] for c in (slow, fast)]
            assert values[0] == values[1]
            await slow.close()
            await fast.close()

    asyncio.run(story())


def test_lockstep_is_the_same_every_time():
    """In lockstep two runs give the same messages at the same market times, under any load of the machine."""

    async def story():
        market = small_market(1000)
        clock = LockstepClock(market.start_ns)
        stamped = []
        async with running(market, clock, limits=FREE) as gateway:
            mover = asyncio.create_task(clock.run())
            client = await Client.connect(gateway.port, clock=clock)
            plain = client.reader.read

            async def read(n):
                data = await plain(n)
                stamped.append((clock.now(), len(data)))
                return data

            client.reader.read = read
            subscribe_all(client)
            await gateway.wait_over()
            client.send(49, 1)
            await client.until(lambda c: c.of("49"), within_s=20)
            mover.cancel()
            await client.close()
        return client.got, stamped[-200:]

    first, second = asyncio.run(story()), asyncio.run(story())
    assert first == second
    assert len(first[0]) > 2000


def test_lockstep_time_stands_until_the_market_starts():
    """Before the first stream and the grace period, lockstep time does not move for any sleeper."""

    async def story():
        market = small_market(100)
        clock = LockstepClock(market.start_ns)
        async with running(market, clock, grace_s=0.4) as gateway:
            mover = asyncio.create_task(clock.run())
            sleeper = asyncio.create_task(clock.sleep_until(market.start_ns + SECOND_NS))
            client = await Client.connect(gateway.port, clock=clock)
            await asyncio.sleep(0.2)
            client.send(97, 1, *ACME, "BidAsk", 0, 0)
            await asyncio.sleep(0.25)
            client.send(97, 2, *ACME, "AllLast", 0, 0)
            await asyncio.sleep(0.25)
            assert clock.now() == market.start_ns
            await asyncio.wait_for(sleeper, 5)
            mover.cancel()
            await client.close()

    asyncio.run(story())


def test_late_subscriber():
    """A late subscriber gets the state first, then every later event once; its book equals the source's."""

    async def story():
        market = small_market(3000)
        clock = LockstepClock(market.start_ns)
        async with running(market, clock, limits=FREE) as gateway:
            mover = asyncio.create_task(clock.run())
            early = await Client.connect(gateway.port, clock=clock)
            early.send(10, 5, 1, *ACME, 10, 1, "")
            await early.until(lambda c: len(c.of("13")) > 500)
            late = await Client.connect(gateway.port, 2, clock=clock)
            late.send(10, 5, 1, *ACME, 10, 1, "")
            late.send(10, 5, 2, *ACME, 4, 1, "")
            await gateway.wait_over()
            for client in (early, late):
                client.send(49, 1)
                await client.until(lambda c: c.of("49"), within_s=20)
            whole = book(early.of("13", 1), 10)
            assert book(late.of("13", 1), 10) == whole
            assert book(late.of("13", 2), 4) == [side[:4] for side in whole]
            truth = true_book(market, market.instruments[0].con_id, "smart_depth")
            assert [[row[:2] for row in side] for side in truth] == [[row[:2] for row in side] for side in whole]
            mover.cancel()
            await early.close()
            await late.close()

    asyncio.run(story())


def book(rows, depth):
    """Apply depth rows by IB's meaning: insert shifts down, delete shifts up, cut at the subscribed rows."""
    sides = [[], []]
    for row in rows:
        position, maker, operation, side, price, size = int(row[3]), row[4], int(row[5]), int(row[6]), row[7], row[8]
        table = sides[side]
        if operation == 0:
            assert position <= len(table)
            table.insert(position, [price, size, maker])
            del table[depth:]
        elif operation == 1:
            table[position] = [price, size, maker]
        else:
            del table[position]
    return sides


def test_generic_ticks():
    """RTVolume and RTTrdVolume are sent only to clients that requested 233 and 375."""

    async def story():
        async with running(small_market(2000), limits=FREE) as gateway:
            client = await Client.connect(gateway.port)
            for req_id, generic in ((1, ""), (2, "233"), (3, "375,233")):
                client.send(1, 11, req_id, *ACME, 0, generic, 0, 0, "")
            await gateway.wait_over()
            client.send(49, 1)
            await client.until(lambda c: c.of("49"))
            kinds = {r: {m[3] for m in client.of("46", r)} & {"48", "77"} for r in (1, 2, 3)}
            assert kinds == {1: set(), 2: {"48"}, 3: {"48", "77"}}
            await client.close()

    asyncio.run(story())


def test_snapshot_request():
    """A snapshot gives the values in force, then its end, and takes no line."""

    async def story():
        async with running(small_market(), limits=FREE) as gateway:
            client = await Client.connect(gateway.port)
            client.send(1, 11, 1, *ACME, 0, "", 1, 0, "")
            await client.until(lambda c: c.of("57", 1))
            assert client.got[-1] == ["57", "1", "1"]
            assert not list(gateway.state.registry)
            await client.close()

    asyncio.run(story())


def test_window():
    """--start begins with the state of that instant, --end is the last; nothing outside is sent."""

    async def story():
        market = small_market(3000)
        start, end = market.start_ns + 3600 * SECOND_NS, market.start_ns + 3900 * SECOND_NS
        async with running(market, limits=FREE, start_ns=start, end_ns=end) as gateway:
            client = await _whole_day(gateway)
            times = [int(m[3]) for m in client.of("99", None)]
            first = {m[1]: int(m[3]) for m in reversed(client.of("99", None)) if m[2] in "34"}  # the quote at the start
            assert start // SECOND_NS - 60 <= min(first.values())
            assert sum(time < start // SECOND_NS for time in times) <= len(first)
            assert max(times) <= end // SECOND_NS
            assert client.of("1", 10)[0][3] in {"1", "2", "4", "6", "7", "9", "14"}
            await client.close()

    asyncio.run(story())


def test_scanner_repeats():
    """A scanner list comes at once, and again every 30 s of market time until cancelled."""

    async def story():
        market = small_market(500)
        async with running(market, limits=FREE, end_ns=market.start_ns + 100 * SECOND_NS) as gateway:
            client = await Client.connect(gateway.port)
            client.send(22, 1, 25, "STK", "STK.US.MAJOR", "TOP_PERC_GAIN", *[""] * 19)
            client.send(22, 2, 25, "STK", "STK.US.MAJOR", "NO_SUCH_CODE", *[""] * 19)
            await gateway.wait_over()
            client.send(23, 1, 1)
            assert await client.error(1) == 162
            assert await client.error(2) == 162
            assert len(client.of("20", 1)) == 4
            assert len(client.of("20", 1)[0]) == 4 + 2 * 16
            await client.close()

    asyncio.run(story())


def test_kept_up_to_date():
    """With keepUpToDate the forming bar follows every 5 s as message 90, until the cancel, which IB confirms by 162."""

    async def story():
        market = small_market(2000)
        async with running(market, limits=FREE, end_ns=market.start_ns + 60 * SECOND_NS) as gateway:
            client = await Client.connect(gateway.port)
            client.send(20, 1, *ACME, 0, "", "1 min", "2 D", 1, "TRADES", 2, 1, "")
            await gateway.wait_over()
            client.send(25, 1, 1)
            assert await client.error(1) == 162
            updates = client.of("90", 1)
            assert 8 <= len(updates) <= 12
            assert {int(m[3]) % 60 for m in updates} == {0}
            await client.close()

    asyncio.run(story())


def test_end_forms():
    """End dates are read in the contract's zone, in a named one, or in UTC; nonsense gets 321."""

    async def story():
        async with running(small_market(), limits=FREE) as gateway:
            client = await Client.connect(gateway.port)
            ends = (
                "20250716 12:00:00",
                "20250716 12:00:00 US/Eastern",
                "20250716-16:00:00",
                "tomorrow",
                "20250716 1 X",
            )
            for req_id, end in enumerate(ends):
                client.send(20, req_id, *ACME, 0, end, "1 min", "3600 S", 0, "TRADES", 2, 0, "")
            await client.until(lambda c: len(c.of("17")) == 3)
            assert len({tuple(m[5:]) for m in client.of("17")}) == 1
            assert (await client.error(3), await client.error(4)) == (321, 321)
            await client.close()

    asyncio.run(story())


def test_fixed_speed_clock_file(tmp_path):
    """A follower of gateway.json shows the gateway's time, constant at first, then at speed N."""

    async def story():
        path = tmp_path / "gateway.json"
        async with running(small_market(), speed=100, gateway_file=path, grace_s=0.05) as gateway:
            facts = json.loads(path.read_text())
            assert (facts["port"], facts["pid"], facts["state"]) == (gateway.port, os.getpid(), "waiting")
            follower = FileClock(path)
            await asyncio.sleep(0.2)
            standing = [follower.now(), gateway.clock.now()]  # a nanosecond for every second of ours
            assert all(0 <= ns - gateway.market.start_ns < 600 for ns in standing)
            client = await Client.connect(gateway.port)
            client.send(97, 1, *ACME, "BidAsk", 0, 0)
            await asyncio.sleep(0.6)
            for _ in range(20):
                low = gateway.clock.now()
                seen = follower.now()
                assert low <= seen <= gateway.clock.now()
                await asyncio.sleep(0.01)
            assert gateway.clock.now() - gateway.market.start_ns > 10 * SECOND_NS
            await client.close()
        assert not path.exists()

    asyncio.run(story())


def test_followers_are_never_behind_at_full_speed(tmp_path):
    """At speed max a follower's time is never behind the events of a received packet."""

    async def story():
        path = tmp_path / "gateway.json"
        late = []
        async with running(small_market(4000), limits=FREE, gateway_file=path) as gateway:
            follower = FileClock(path)
            client = await Client.connect(gateway.port)
            plain = client.reader.read

            async def read(n):
                data = await plain(n)
                late.append((follower.now(), len(client.got)))
                return data

            client.reader.read = read
            client.send(97, 1, *ACME, "BidAsk", 0, 0)
            await gateway.wait_over()
            client.send(49, 1)
            await client.until(lambda c: c.of("49"), within_s=20)
            await client.close()
        for (now, first), (_, end) in pairwise(late):
            times = [int(m[3]) for m in client.got[first:end] if m[0] == "99"]
            assert max(times, default=0) * SECOND_NS <= now
        assert len(client.of("99", 1)) > 500

    asyncio.run(story())


def test_a_packet_is_little_ahead_of_what_it_brings(tmp_path):
    """At speed max only data in the sockets is stamped late: the bytes between a packet's stamp and its last event are
    at most those that can be in flight."""

    async def story():
        path, stamps, moments, sent = tmp_path / "gateway.json", [], [], 0
        async with running(small_market(6000), limits=FREE, gateway_file=path) as gateway:
            reach = gateway.clock.reach

            async def noted(ts):
                nonlocal sent
                sent = sum(session.sent_bytes for session in gateway._clients.values())
                moments.append((ts, sent))
                await reach(ts)

            gateway.clock.reach = noted
            follower = FileClock(path)
            client = await Client.connect(gateway.port)
            plain, taken = client.reader.read, len(client.got)

            async def read(n):
                nonlocal taken
                data = await plain(n)
                taken += len(data)
                stamps.append((follower.now(), taken))
                return data

            client.reader.read = read
            subscribe_all(client)
            await gateway.wait_over()
            client.send(49, 1)
            await client.until(lambda c: c.of("49"), within_s=60)
            await client.close()
        times, before = [ts for ts, _ in moments], [n for _, n in moments]
        for now, got in stamps:
            at = bisect.bisect_left(times, min(now, times[-1]))
            assert before[at] - got <= IN_FLIGHT_BYTES
        assert len(stamps) > 100
        assert sent > 2 * IN_FLIGHT_BYTES

    asyncio.run(story())


def test_time_goes_on_after_the_market_and_stops_with_its_date(tmp_path, monkeypatch):
    """A market at speed max is over: its followers' time goes on, gateway or not, to the end of that date and no
    farther; it never runs back."""

    async def story():
        path = tmp_path / "gateway.json"
        market = small_market(200)
        async with running(market, limits=FREE, gateway_file=path) as gateway:
            follower, client = FileClock(path), await Client.connect(gateway.port)
            assert (follower.now(), follower.leaps) == (market.start_ns, True)
            client.send(97, 1, *ACME, "BidAsk", 0, 0)
            await gateway.wait_over()
            assert json.loads(path.read_text())["state"] == "ended"
            assert market.end_ns - 60 * SECOND_NS < follower.now()
            await client.close()
        assert list(tmp_path.iterdir()) == []
        await asyncio.wait_for(follower.sleep_until(market.end_ns + 30 * SECOND_NS), 10)
        seen = follower.now()
        monkeypatch.setattr("harvester.clock.AFTER_SPEED", 10**9)
        assert seen < follower.now() == follower.final_ns == gateway.clock.now()
        assert trading_date(follower.final_ns) == trading_date(market.start_ns)
        assert trading_date(follower.final_ns + 1) > trading_date(market.start_ns)

    asyncio.run(story())


@pytest.mark.parametrize("speed", [0, 2000])
def test_the_time_comes_with_the_data_to_clients_that_ask_for_it(speed):
    """With the option: the time of what follows, rising, and every full second once. Without it: no such message."""

    async def story():
        market = small_market(20_000)
        start = market.start_ns
        async with running(market, limits=FREE, speed=speed, end_ns=start + 600 * SECOND_NS, grace_s=0.7) as gateway:
            asking = await Client.connect(gateway.port, versions=f"v157..178 {MARKET_TIME_OPTION}")
            plain = await Client.connect(gateway.port, client_id=2)
            for client in (asking, plain):
                subscribe_all(client)
            await gateway.wait_over()
            for client in (asking, plain):
                client.send(49, 1)
                await client.until(lambda c: c.of("49"), within_s=60)
                await client.close()
        sent = [int(fields[1]) for fields in asking.got if fields[0] == MARKET_TIME]
        assert sent == sorted(sent)
        assert sent.count(start) >= 2  # repeated while time is constant
        seconds = [at for at in sent if start < at <= start + 590 * SECOND_NS and at % SECOND_NS == 0]
        assert seconds == list(range(start + SECOND_NS, start + 591 * SECOND_NS, SECOND_NS))
        assert [fields for fields in plain.got if fields[0] == MARKET_TIME] == []
        now, rows = 0, 0
        for fields in asking.got:
            if fields[0] == MARKET_TIME:
                now = int(fields[1])
            elif fields[0] == "99" and now > start:  # a tick-by-tick row, at field 3 the second it is of
                rows += 1
                assert int(fields[3]) == now // SECOND_NS
        assert rows > 100

    asyncio.run(story())


def test_a_follower_of_the_data_falls_back_to_the_file(tmp_path, monkeypatch):
    """Time that came with the data stands until more comes; after two seconds without any the file counts, unless
    reading is paused. Without a connection the file counts at once. Time never runs back."""
    real = [100 * SECOND_NS]
    monkeypatch.setattr("harvester.clock.real_monotonic_ns", lambda: real[0])
    path = tmp_path / "gateway.json"
    path.write_text(json.dumps({"market_anchor_ns": 10**18, "monotonic_anchor_ns": real[0], "speed": 50}))
    clock = FileClock(path)
    seen = []

    def after(seconds):
        real[0] += round(seconds * SECOND_NS)
        seen.append(round((clock.now() - 10**18) / SECOND_NS, 1))

    after(1)
    clock.follow(10**18 + 51 * SECOND_NS)
    after(1.9)
    clock.hold(True)
    after(60)
    clock.hold(False)
    after(1)
    clock.follow(10**18 + 52 * SECOND_NS)
    after(0.5)
    after(2)
    clock.follow(10**18 + 53 * SECOND_NS)
    after(0.5)
    clock.follow(None)
    after(0.5)
    assert seen == [50, 51, 51, 51, 52, 3320, 3320, 3370]


def test_time_of_a_gateway_stopped_in_mid_market_stands(tmp_path):
    """Stopped before the market is over, a gateway at speed max leaves its last time; the next one's is followed."""

    async def story():
        path, market = tmp_path / "gateway.json", small_market(6000)
        async with running(market, limits=FREE, gateway_file=path) as gateway:
            follower, client = FileClock(path), await Client.connect(gateway.port)
            client.send(97, 1, *ACME, "BidAsk", 0, 0)
            await client.until(lambda c: len(c.of("99", 1)) > 20)
        stood = follower.now()
        assert market.start_ns < stood == gateway.clock.now() < market.end_ns
        await asyncio.sleep(0.2)
        assert follower.now() == stood
        later = small_market(300)
        async with running(later, limits=FREE, gateway_file=path, start_ns=stood + 60 * SECOND_NS):
            await asyncio.wait_for(follower.sleep_until(stood + 60 * SECOND_NS), 10)
            assert follower.now() == stood + 60 * SECOND_NS

    asyncio.run(story())


def test_a_dial_that_is_none(tmp_path):
    """A file without a market time is refused, and the error names it."""
    (tmp_path / "x.dial").write_bytes(b"short")
    for name in ("x.dial", "gone.dial"):
        with pytest.raises(OSError, match=name):
            Dial.open(tmp_path / name)


def test_exact_sums():
    """Sums are exact sums of the texts, for any order, any size of the numbers, and with unset values."""
    assert exact_sum([0.1] * 10) == "1"
    assert exact_sum([1.7976931348623157e308, 0.01, -1.7976931348623157e308]) == "0.01"
    assert exact_sum([None, "", 3, "nonsense"]) == "3"
    report = GatewayReport()
    for _ in range(5000):
        report.count(["2", "6", "1", "8", "0.1"], "X")
    told = report.by_kind()["tick"]["X"]
    assert told == {"rows": 5000, "sums": {"field": "40000", "size": "500"}, "texts": "0" * 32}


def _hv(*args, command=None, **kwargs):
    command = [*(command or python()), "-m", "cli.app", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command(tmp_path, number):
    """`hv gateway` serves, publishes gateway.json, and ends at a signal with exit code 0 and its report."""
    report = tmp_path / "out" / "report.json"
    root = Path(__file__).resolve().parent.parent
    args = ["--port", "0", "--symbols", "ACME", "--home", str(tmp_path), "--report", str(report), "--json"]
    process = _hv("gateway", "--market", "model", *args, command=PYTHON, cwd=root)
    try:
        port = json.loads(process.stdout.readline())["port"]
        facts = json.loads((tmp_path / "gateway.json").read_text())
        assert facts["port"] == port
        assert facts["pid"] == process.pid
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(b"API\0\x00\x00\x00\x09v157..178")
            assert b"178\0" in raw.recv(100)
            time.sleep(0.1)
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert json.loads(out)["sent"] == json.loads(report.read_text())["sent"]
    assert not (tmp_path / "gateway.json").exists()


def test_who_came_and_went_is_told(tmp_path):
    """The command logs when each client connects and disconnects, with its id and port."""
    process = _hv("gateway", "--port", "0", "--symbols", "ACME", "--home", str(tmp_path), "--json", cwd=PROJECT)

    async def story(port):
        ib = IB()
        await ib.connectAsync("127.0.0.1", port, clientId=7, timeout=4)
        own = ib.client.conn.transport.get_extra_info("sockname")[1]
        ib.disconnect()
        stranger = await Client.connect(port, start=False)  # says no client id: nobody who had connected
        await stranger.close()
        return own

    try:
        own = asyncio.run(story(json.loads(process.stdout.readline())["port"]))
        said = [process.stderr.readline() for _ in range(2)]
    finally:
        process.terminate()
        _, rest = process.communicate(timeout=20)
    for line, what in zip(said, ("client connected", "client disconnected"), strict=True):
        assert f"{what} " in line
        assert f"client_id=7 peer=127.0.0.1:{own}" in line
    assert not rest


def _refused(home, *args):
    """Exit code and error line of `hv gateway` when it cannot write to its home."""
    process = _hv(*("gateway", "--port", "0", "--symbols", "ACME", "--home", str(home)), *args, cwd=PROJECT)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert not out
    [line] = err.splitlines()
    return process.returncode, line


@pytest.mark.parametrize("speed", ["1", "max"])
def test_a_home_that_takes_no_file(tmp_path, speed):
    """It is one line that names the file, exit code 2."""
    (tmp_path / "plain").touch()
    code, line = _refused(tmp_path / "plain" / "home", "--speed", speed)
    assert (code, line.split(":")[:2]) == (2, ["hv", f" cannot write {tmp_path / 'plain' / 'home' / 'gateway.json'}"])


@pytest.mark.parametrize("speed", ["1", "max"])
def test_a_disk_that_takes_no_file(tmpfs, speed):
    """A read-only folder gives exit code 2, a full disk 10; no partial gateway.json is left."""
    with (tmpfs / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    file = f" cannot write {tmpfs / 'gateway.json'}"
    code, line = _refused(tmpfs, "--speed", speed)
    assert (code, line.split(":")[1:3]) == (10, [file, " No space left on device; free space or choose another folder"])
    subprocess.run(["mount", "-o", "remount,ro", str(tmpfs)], check=True)
    code, line = _refused(tmpfs, "--speed", speed)
    assert (code, line.split(":")[1:3]) == (2, [file, " Read-only file system; choose another folder"])
    assert {path.suffix for path in tmpfs.iterdir()} <= {"", ".dial"}


def test_command_limits(tmp_path):
    """Every limit is an option: here one scanner line, one request of a contract in 2 s, identical ones at any time."""
    root = Path(__file__).resolve().parent.parent
    args = ["--port", "0", "--symbols", "ACME", "--home", str(tmp_path), "--json", "--scanner-lines", "1"]
    args += ["--historical-identical-seconds", "0", "--historical-per-contract-2-seconds", "1"]
    process = _hv("gateway", *args, cwd=root)

    async def story(port):
        client = await Client.connect(port)
        history = (0, "", "5 mins", "1 D", 1, "TRADES", 2, 0, "")
        for req in (1, 2):
            client.send(20, req, *ACME, *history)
        assert await client.error(2) == 162
        assert not client.errors(1)
        await asyncio.sleep(2.1)  # the gateway's window runs in real time
        client.send(20, 3, *ACME, *history)
        await client.until(lambda c: c.of("17", 3, at=1))
        for req in (4, 5):
            client.send(22, req, 25, "STK", "STK.US.MAJOR", "MOST_ACTIVE", *[""] * 19)
        assert await client.error(5)
        assert not client.errors(4)

    try:
        asyncio.run(story(json.loads(process.stdout.readline())["port"]))
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["--market", "tape"], "no tape folder given"),
        (["--market", "tape", "nowhere"], "nowhere"),
        (["--market", "moon"], "moon"),
        (["--market", "day"], "trading date"),
        (["--speed", "fast"], "is not a speed; give max or a number"),
        (["--speed", "0"], "is not a speed; give max or a number above 0"),
        (["--start", "noon"], "--start"),
        (["--server-version", "200"], "176 to 178"),
        (["--faults", "nothing.txt"], "nothing.txt"),
    ],
)
def test_command_bad_input(tmp_path, args, what):
    """Bad input to the command is one clear line and exit code 2."""
    root = Path(__file__).resolve().parent.parent
    process = _hv("gateway", *args, "--home", str(tmp_path), "--port", "0", cwd=root)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, (out, err)
    assert what in err
    assert len(err.strip().splitlines()) == 1
