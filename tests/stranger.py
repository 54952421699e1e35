"""An independent TWS server, written from the protocol alone: no code of `harvester.simgateway` or `harvester.wire`.

`Stranger` greets, answers contract look-ups of ACME, grants every subscription and sends a row of each twice a second.
Tests change its behaviour by attributes: `hello`, `details` and `granted` are called at those steps, `dead` names
streams that are subscribed and get no rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

CON_ID, SYMBOL = 4711, "ACME"


def message(*fields: object) -> bytes:
    """One message without its length."""
    return b"".join(str(field).encode() + b"\0" for field in fields)


def framed(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


class Client:
    """One connection to the stranger; `subscribed` maps request ids to stream names."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number, self._reader, self._writer = number, reader, writer
        self.subscribed: dict[str, str] = {}

    def send(self, *fields: object) -> None:
        self.raw(framed(message(*fields)))

    def error(self, req_id: object, code: int, text: str = "x") -> None:
        self.send(4, 2, req_id, code, text, "")

    def raw(self, data: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(data)

    def close(self) -> None:
        self._writer.close()

    @property
    def closed(self) -> bool:
        return self._writer.is_closing()

    async def read(self) -> bytes:
        (length,) = struct.unpack(">I", await self._reader.readexactly(4))
        return await self._reader.readexactly(length)

    async def read_exactly(self, count: int) -> bytes:
        return await self._reader.readexactly(count)

    def id_of(self, stream: str) -> str:
        """Newest request id of a stream."""
        return [req_id for req_id, name in self.subscribed.items() if name == stream][-1]


class Stranger:
    """The server; `asked` holds (seconds since its start, connection number, fields) of every message received."""

    def __init__(self, **changes: Any) -> None:
        self.version, self.accounts, self.time_answered, self.bar_every = "178", "DU1", True, 1
        self.time_behind_s = self.rows_behind_s = 0
        self.dead: set[str] = set()
        self.hello: Callable[[Client], None] = self.greet
        self.details: Callable[[Client, str, str], None] = self.describe
        self.granted: Callable[[Client, str, str], bool] = lambda _client, _req_id, _stream: True
        self.script: Callable[[Client], Any] | None = None
        self.asked: list[tuple[float, int, list[str]]] = []
        self.clients: list[Client] = []
        self.port = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None
        self._began = time.monotonic()
        for name, value in changes.items():
            assert hasattr(self, name), name
            setattr(self, name, value)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for client in self.clients:
            client.close()
        assert self._server is not None
        self._server.close()

    def greet(self, client: Client) -> None:
        client.send(15, 1, self.accounts)
        client.send(9, 1, 1)
        client.error(-1, 2104, "Market data farm connection is OK:usfarm")

    def describe(self, client: Client, req_id: str, symbol: str) -> None:
        if symbol != SYMBOL:
            client.error(req_id, 200, "No security definition has been found for the request")
            return
        head = [10, req_id, symbol, "STK", "", "0", "", "SMART", "USD", symbol, "NMS", "NMS", CON_ID, "0.01"]
        tail = ["", "ACTIVETIM,LMT", "SMART,ISLAND", "1", "0", "ACME INC", "NASDAQ", "", "", "", "", "US/Eastern"]
        client.send(*head, *tail, "20250717:CLOSED", "20250717:CLOSED", "", "0", "0", "1", "", "26", "", "COMMON")
        client.send(52, 1, req_id)

    def of(self, message_id: str, connection: int | None = None) -> list[list[str]]:
        """Messages of one id received, on one connection or on all."""
        return [f for _, n, f in self.asked if f[0] == message_id and connection in {None, n}]

    def at(self, message_id: str) -> list[float]:
        """When they were received."""
        return [t for t, _, f in self.asked if f[0] == message_id]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(len(self.clients) + 1, reader, writer)
        self.clients.append(client)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            assert await client.read_exactly(4) == b"API\0"
            await client.read()
            client.send(self.version, "20250717 09:30:00 US/Eastern")
            while True:
                fields = (await client.read()).decode().split("\0")[:-1]
                self.asked.append((time.monotonic() - self._began, client.number, fields))
                self._answer(client, fields)
        client.close()

    def _answer(self, client: Client, fields: list[str]) -> None:
        message_id = fields[0]
        if message_id == "71":
            self.hello(client)
            self._tasks.append(asyncio.ensure_future(self._flow(client)))
            if self.script is not None:
                self._tasks.append(asyncio.ensure_future(self.script(client)))
        elif message_id == "9":
            self.details(client, fields[2], fields[4])
        elif message_id == "49" and self.time_answered:
            client.send(49, 1, int(time.time()) - self.time_behind_s)
        elif message_id in {"1", "10", "50", "97"}:
            req_id = fields[1] if message_id == "97" else fields[2]
            stream = {"1": "l1", "10": "depth", "50": "bars"}.get(message_id) or fields[14]
            if self.granted(client, req_id, stream):
                client.subscribed[req_id] = stream
        elif message_id in {"2", "11", "51", "98"}:
            client.subscribed.pop(fields[1 if message_id == "98" else 2], None)

    async def _flow(self, client: Client) -> None:
        turn = 0
        while not client.closed:
            turn += 1
            for req_id, stream in list(client.subscribed.items()):
                if not self.dead & {stream, req_id}:
                    self.row(client, req_id, stream, turn)
            await asyncio.sleep(0.2)

    def row(self, client: Client, req_id: str, stream: str, turn: int) -> None:
        """One row of a stream."""
        now = int(time.time()) - self.rows_behind_s
        if stream == "l1":
            client.send(1, 6, req_id, 1, 100, turn, 0)
        elif stream in {"AllLast", "Last"}:
            client.send(99, req_id, 2, now, 100, turn, 0, "X", "")
        elif stream == "BidAsk":
            client.send(99, req_id, 3, now, 99, 101, 3, turn, 0)
        elif stream == "depth":
            client.send(13, 1, req_id, turn % 10, "ARCA", 0 if turn <= 10 else 1, 1, 100, turn, 0)
        elif turn % self.bar_every == 0:
            client.send(50, 3, req_id, now, 1, 1, 1, 1, 1, 1, 1)
