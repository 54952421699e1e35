"""Limits, refusals and bad clients, tested with a plain TCP client."""

from __future__ import annotations

import asyncio
import struct

import pytest
from gateway_support import ACME, VENUE, Client, running, small_market

from harvester.errors import BadSetting, CannotRun
from harvester.simgateway.gateway_settings import GatewaySettings
from harvester.simgateway.limits import Limits, Pacing, Window
from harvester.simgateway.server import SimGateway

FREE = Limits(messages_per_s=0)
HISTORY = (0, "", "1 min", "2 D", 1, "TRADES", 2, 0, "")


def told(story, **settings):
    """Run a scenario against a gateway with one client; returns the report."""

    async def run():
        async with running(**{"limits": FREE, **settings}) as gateway:
            client = await Client.connect(gateway.port)
            await story(client, gateway)
            await client.close()
        return gateway.final

    return asyncio.run(run())


def test_line_limits():
    """The fourth depth line gets 309, the sixth tick-by-tick 10190, an L1 line too many 101; a cancel frees one."""

    async def story(client, gateway):
        for req_id in range(1, 5):
            client.send(10, 5, req_id, *ACME, 10, 1, "")
        for req_id in range(11, 17):
            client.send(97, req_id, *ACME, "BidAsk", 0, 0)
        for req_id in range(21, 25):
            client.send(1, 11, req_id, *ACME, 0, "", 0, 0, "")
        assert await client.error(4) == 309
        assert "(3)" in client.of("4", 4)[0][4]
        assert await client.error(16) == 10190
        assert await client.error(24) == 101
        client.send(11, 1, 1, 1)
        client.send(10, 5, 5, *ACME, 10, 1, "")
        client.send(49, 1)
        await client.until(lambda c: c.of("49"))
        assert client.errors(5) == client.errors(3) == client.errors(15) == []

    told(story, limits=Limits(messages_per_s=0, market_data_lines=3))


def test_lines_are_shared():
    """Lines count over all clients, as IB counts them per login, and come back when a client leaves."""

    async def story(client, gateway):
        for req_id in (1, 2, 3):
            client.send(10, 5, req_id, *ACME, 10, 1, "")
        await client.until(lambda c: c.of("13", 3))
        other = await Client.connect(gateway.port, 2)
        other.send(10, 5, 1, *ACME, 10, 1, "")
        assert await other.error(1) == 309
        await client.close()
        while gateway.state.registry.lines("depth"):
            await asyncio.sleep(0.01)
        other.send(10, 5, 2, *ACME, 10, 1, "")
        await other.until(lambda c: c.of("13", 2))
        await other.close()

    told(story)


def test_depth_rules():
    """SMART without the flag gets 10092, a cancel with the other flag 310, a used id 322, an unknown contract 200."""

    async def story(client, gateway):
        client.send(10, 5, 1, *ACME, 10, 0, "")
        assert await client.error(1) == 10092
        client.send(10, 5, 2, *ACME, 10, 1, "")
        client.send(11, 1, 2, 0)
        assert await client.error(2) == 310
        client.send(10, 5, 2, *VENUE, 10, 0, "")
        await client.until(lambda c: c.errors(2) == [310, 322])
        client.send(10, 5, 3, *VENUE, 4, 0, "")
        rows = await client.until(lambda c: c.of("12", 3) or c.of("13", 3))
        assert max(int(row[3]) for row in rows) == 3
        client.send(10, 5, 4, 0, "NOSUCH", *ACME[2:], 10, 1, "")
        assert await client.error(4) == 200
        client.send(10, 5, 5, *ACME, 0, 1, "")
        assert await client.error(5) == 321
        client.send(11, 1, 99, 1)
        assert await client.error(99) == 310

    told(story)


def test_source_without_depth(shared_data):
    """A tape without depth answers a depth request with 10092; no book is invented."""
    from harvester.simgateway.markets.open_market import open_market

    market = open_market("tape", [shared_data / "tapes" / "IBM-2013-10-08"])

    async def story(client, gateway):
        ibm = (0, "IBM", *ACME[2:])
        client.send(10, 5, 1, *ibm, 10, 1, "")
        client.send(10, 5, 2, *ibm[:7], "NYSE", *ibm[8:], 10, 0, "")
        assert (await client.error(1), await client.error(2)) == (10092, 10092)

    told(story, market=market)


def test_orders_are_refused_and_counted():
    """Placing, cancelling, exercising, global cancel and replacing FA get 201 and are counted; nothing else happens."""

    async def story(client, gateway):
        client.send(3, 71, *ACME, "", "", "BUY", 1, "MKT")
        client.send(4, 1, 72, "")
        client.send(21, 2, 73, *ACME[:8], *ACME[9:], 1, 1, "DU1", 0)
        client.send(58, 1)
        client.send(19, 1, 1, "<x/>", 5)
        await client.until(lambda c: c.errors().count(201) == 5)
        assert [m[2] for m in client.of("4") if m[3] == "201"] == ["71", "72", "73", "-1", "-1"]

    assert told(story)["orders_refused"] == 5


def test_historical_pacing():
    """An identical request within 15 s, and the seventh of a contract within 2 s, get 162 with IB's pacing text."""

    async def story(client, gateway):
        client.send(20, 1, *ACME, *HISTORY)
        client.send(20, 2, *ACME, *HISTORY)
        assert await client.error(2) == 162
        assert "pacing" in client.of("4", 2)[0][4]
        for i in range(6):
            client.send(20, 10 + i, *ACME, 0, "", "5 mins", f"{i + 2} D", 1, "TRADES", 2, 0, "")
        assert await client.error(15) == 162
        assert len(client.of("17")) == 6

    told(story)


def test_historical_window():
    """60 requests in ten minutes pass, the next does not, and ten minutes later they do again."""
    now = [0]
    pacing = Pacing(Limits(), lambda: now[0])
    for i in range(60):
        assert pacing.historical(i, "TRADES", i) is None
    assert pacing.historical(99, "TRADES", 99).code == 162
    now[0] = 601 * 10**9
    assert pacing.historical(99, "TRADES", 99) is None


def test_tick_by_tick_spacing():
    """With the spacing on, a second tick-by-tick request for an instrument within 15 s is refused; by default not."""
    now = [0]
    strict = Pacing(Limits(tick_by_tick_spacing_s=15), lambda: now[0])
    assert strict.tick_by_tick(1) is None
    assert strict.tick_by_tick(1).code == 10189
    assert strict.tick_by_tick(2) is None
    now[0] = 15 * 10**9
    assert strict.tick_by_tick(1) is None
    assert [Pacing(Limits()).tick_by_tick(1) for _ in range(3)] == [None] * 3


def test_window_off():
    """A count or period of 0 switches a window off."""
    assert all(Window(0, 10).take() for _ in range(100))


def test_message_rate():
    """More than 50 messages in a second get error 100; a third such second costs the connection."""

    async def story(client, gateway):
        for _ in range(60):
            client.send(49, 1)
        await client.until(lambda c: c.errors().count(100) == 11)
        assert len(client.of("49")) == 49
        for _ in range(2):
            await asyncio.sleep(1.05)
            for _ in range(52):
                client.send(49, 1)
        await client.until(lambda c: c.closed)

    told(story, limits=Limits())


def test_client_id_in_use():
    """A second client with an id in use gets 326 and is closed; the first lives on, and the id is free after it."""

    async def story(client, gateway):
        second = await Client.connect(gateway.port, 1)
        await second.until(lambda c: c.closed)
        assert second.errors() == [326]
        client.send(49, 1)
        await client.until(lambda c: c.of("49"))
        await client.close()
        while gateway.state.sessions:
            await asyncio.sleep(0.01)
        third = await Client.connect(gateway.port, 1)
        assert third.of("9")
        await third.close()

    told(story)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"API\0" + struct.pack(">I", 0x7FFFFFFF) + b"v157..178",
        b"API\0" + struct.pack(">I", 8) + b"hello ib",
        b"API\0" + struct.pack(">I", 9) + b"v100..150",
        b"API\0" + struct.pack(">I", 9) + b"v200..226",
    ],
)
def test_garbage_handshakes(garbage):
    """A client that is not TWS-compatible, or has another version, is closed; the gateway serves the next one."""

    async def story(client, gateway):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(garbage)
        assert await reader.read() == b""
        writer.close()
        client.send(49, 1)
        await client.until(lambda c: c.of("49"))

    told(story)


@pytest.mark.parametrize(
    "garbage",
    [
        struct.pack(">I", 0xFFFFFFFF),
        struct.pack(">I", 0),
        struct.pack(">I", 6) + b"hello\0",
        struct.pack(">I", 6) + b"49\0\xff\xfe\0",
    ],
)
def test_garbage_frames(garbage):
    """Frames that are too long, empty, without an id or not UTF-8 close only that client."""

    async def story(client, gateway):
        bad = await Client.connect(gateway.port, 2)
        bad.raw(garbage)
        await bad.until(lambda c: c.closed)
        client.send(49, 1)
        await client.until(lambda c: c.of("49"))

    told(story)


def test_unknown_and_broken_messages():
    """An unknown message id, a short message and a wrong field get 321 and change nothing else."""

    async def story(client, gateway):
        client.send(250, 1, "x")
        client.send(1, 11, 7)
        client.send(10, 5, 8, *ACME, "ten", 1, "")
        client.send(97, 9, *ACME, "Sideways", 0, 0)
        client.send(50, 3, 10, *ACME, 60, "TRADES", 0, "")
        client.send(52, 2, 11)
        for req_id in (-1, 7, 8, 9, 10, 11):
            await client.until(lambda c, r=req_id: 321 in c.errors(r))
        client.send(49, 1)
        await client.until(lambda c: c.of("49"))

    told(story)


def test_unknown_cancels():
    """Cancelling an unknown request gets IB's error code."""

    async def story(client, gateway):
        for msg, code in ((2, 300), (51, 300), (25, 366), (23, 365)):
            client.send(msg, 1, 1000 + msg)
            assert await client.error(1000 + msg) == code
        client.send(98, 1098)
        assert await client.error(1098) == 300

    told(story)


@pytest.mark.parametrize(
    "settings",
    [{"server_version": 179}, {"port": 70000}, {"speed": -1.0}, {"accounts": ()}, {"start_ns": 2, "end_ns": 1}],
)
def test_bad_settings(settings):
    """An unusable setting is one clear error before anything starts."""
    with pytest.raises(BadSetting):
        SimGateway(small_market(), GatewaySettings(**settings))


def test_port_taken():
    """A taken port is one clear error that names it and the option."""

    async def story(client, gateway):
        with pytest.raises(CannotRun, match=rf"port {gateway.port} is in use.*--port"):
            await SimGateway(small_market(), GatewaySettings(port=gateway.port)).start()

    told(story)


def test_empty_window():
    """A window outside the market's day is one clear error."""

    async def story():
        market = small_market()
        settings = GatewaySettings(port=0, start_ns=market.end_ns + 1)
        with pytest.raises(CannotRun, match="window"):
            await SimGateway(market, settings).start()

    asyncio.run(story())
