"""A plain TWS client for tests of the simulated gateway, and a small market to serve."""

from __future__ import annotations

import asyncio
import struct
from contextlib import asynccontextmanager

from harvester.simgateway.gateway_settings import GatewaySettings
from harvester.simgateway.markets.open_market import open_market
from harvester.simgateway.server import SimGateway
from harvester.wire.framing import Deframer, frame, split

ACME = ("0", "ACME", "STK", "", "0.0", "", "", "SMART", "", "USD", "", "")
VENUE = ("0", "ACME", "STK", "", "0.0", "", "", "ISLAND", "", "USD", "", "")


def small_market(rate=300, **settings):
    return open_market("model", symbols=("ACME", "BOLT"), rate=rate, extended_minutes=0, **settings)


class Client:
    """Speaks frames. `got` holds every message as fields; with a lockstep clock it counts its bytes."""

    def __init__(self, reader, writer, clock=None):
        self.reader, self.writer, self.clock = reader, writer, clock
        self.port = writer.get_extra_info("sockname")[1]
        self.got, self.packets, self.closed = [], [], False
        self.changed = asyncio.Event()
        self.task = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, port, client_id=1, versions="v157..178", clock=None, start=True):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        client = cls(reader, writer, clock)
        text = versions.encode()
        client.raw(b"API\0" + struct.pack(">I", len(text)) + text)
        if start:
            client.send(71, 2, client_id, "")
            await client.until(lambda c: c.of("9") or c.of("4") or c.closed)
        return client

    def raw(self, data):
        if self.clock is not None:
            self.clock.sent((self.port, "up"), len(data))
        self.writer.write(data)

    def send(self, *fields):
        self.raw(frame([str(f) for f in fields]))

    async def _read(self):
        deframer = Deframer()
        try:
            while data := await self.reader.read(1 << 16):
                self.packets.append(len(data))
                self.got += [split(payload) for payload in deframer.feed(data)]
                if self.clock is not None:
                    self.clock.received((self.port, "down"), len(data))
                self.changed.set()
        except ConnectionError:
            pass
        self.closed = True
        self.changed.set()

    def of(self, msg, req_id=None, at=None):
        place = at if at is not None else (1 if msg in {"10", "17", "81", "88", "90", "99"} else 2)
        return [m for m in self.got if m and m[0] == msg and (req_id is None or m[place] == str(req_id))]

    def errors(self, req_id=None):
        return [int(m[3]) for m in self.of("4", req_id)]

    async def until(self, ready, within_s=10):
        async with asyncio.timeout(within_s):
            while not (found := ready(self)):
                self.changed.clear()
                await self.changed.wait()
        return found

    async def error(self, req_id):
        """The code of the first error for a request."""
        await self.until(lambda c: c.errors(req_id))
        return self.errors(req_id)[0]

    async def close(self):
        self.writer.close()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def running(market=None, clock=None, **settings):
    """A started gateway on a free port; `gateway.final` is its report afterwards."""
    chosen = {"port": 0, "grace_s": 0.05, "speed": 0, **settings}
    gateway = SimGateway(market or small_market(), GatewaySettings(**chosen), clock)
    await gateway.start()
    try:
        yield gateway
    finally:
        gateway.final = await gateway.stop()


def true_book(market, con_id, stream):
    """The current rows of a model's or tape's depth stream, asks and bids: price, size, market maker as text."""
    return market._faces[con_id].books[stream].sides
