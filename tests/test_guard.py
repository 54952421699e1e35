"""The order guard: nothing but data requests reaches a socket, whatever asks for it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from typing import Any, Self

import pytest

from harvester.clock import MachineClock
from harvester.errors import BadSetting, ClientIdInUse, GatewayError, OrderRefused
from harvester.gateway.connection import Connection
from harvester.gateway.send_guard import ALLOWED, SendGuard
from harvester.wire.framing import Deframer, frame, frame_bytes
from harvester.wire.message_ids import Out


class Listener:
    """Records every call; sink and listener in one."""

    def __init__(self) -> None:
        self.messages: list[list[str]] = []
        self.sent: list[str] = []
        self.blocked: list[tuple[int, str]] = []
        self.losses: list[str] = []
        self.errors: list[Exception] = []

    def packet(self, size: int = 0) -> None:
        pass

    def message(self, fields: list[str]) -> None:
        self.messages.append(fields)

    def heard(self, fields: list[str]) -> None:
        pass

    def sending(self, text: str) -> None:
        self.sent.append(text)

    def refused(self, message_id: int, text: str) -> None:
        self.blocked.append((message_id, text))

    def lost(self, reason: str) -> None:
        self.losses.append(reason)

    def garbled(self, waiting: bytes) -> None:
        self.losses.append(f"{len(waiting)} bytes")

    def failed(self, error: Exception) -> None:
        self.errors.append(error)


class HandMade:
    """The smallest TWS: greets, names an account, keeps every byte it is sent."""

    def __init__(self, greeting: bytes | None = None) -> None:
        self.received = bytearray()
        self.greeting = greeting
        self.server: asyncio.Server | None = None
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.server is not None
        for writer in self.writers:
            writer.close()
        self.server.close()

    @property
    def port(self) -> int:
        assert self.server is not None
        return int(self.server.sockets[0].getsockname()[1])

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        writer.write(frame(["178", "20250717 09:30:00 EST"]) if self.greeting is None else self.greeting)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self.received += data
                if b"71\0" in data and self.greeting is None:
                    writer.write(frame(["15", "1", "DU1"]) + frame(["9", "1", "1"]))

    def ids(self) -> list[int]:
        """Message ids received after the handshake."""
        assert self.received.startswith(b"API\0")
        payloads = Deframer().feed(bytes(self.received[4:]))[1:]
        return [int(p.split(b"\0", 1)[0]) for p in payloads]


async def connected(server: HandMade, listener: Listener) -> Connection:
    connection = Connection(listener, listener, MachineClock())
    await connection.connect("127.0.0.1", server.port, 7, 5.0)
    return connection


def order_like_calls() -> list[tuple[str, Any]]:
    from ib_async import ExecutionFilter, LimitOrder, MarketOrder, ScannerSubscription, Stock, WshEventData

    stock = Stock("IBM", "SMART", "USD")
    assert ScannerSubscription is not None
    return [
        ("placeOrder", lambda ib: ib.placeOrder(stock, LimitOrder("BUY", 1, 10.0))),
        ("placeOrder market", lambda ib: ib.placeOrder(stock, MarketOrder("SELL", 1))),
        ("bracketOrder", lambda ib: [ib.placeOrder(stock, o) for o in ib.bracketOrder("BUY", 1, 10, 11, 9)]),
        ("cancelOrder", lambda ib: ib.client.cancelOrder(1)),
        ("IB.cancelOrder", lambda ib: ib.cancelOrder(_known_order(ib, stock))),
        ("reqGlobalCancel", lambda ib: ib.reqGlobalCancel()),
        ("exerciseOptions", lambda ib: ib.exerciseOptions(stock, 1, 1, "DU1", 0)),
        ("replaceFA", lambda ib: ib.client.replaceFA(1, 1, "<xml/>")),
        ("IB.replaceFA", lambda ib: ib.replaceFA(1, "<xml/>")),
        ("whatIfOrder", lambda ib: ib.whatIfOrderAsync(stock, LimitOrder("BUY", 1, 10.0))),
        ("requestFA", lambda ib: ib.client.requestFA(1)),
        ("reqAutoOpenOrders", lambda ib: ib.reqAutoOpenOrders(True)),
        ("reqAllOpenOrders", lambda ib: ib.client.reqAllOpenOrders()),
        ("reqOpenOrders", lambda ib: ib.client.reqOpenOrders()),
        ("reqAccountUpdates", lambda ib: ib.client.reqAccountUpdates(True, "DU1")),
        ("reqExecutions", lambda ib: ib.client.reqExecutions(1, ExecutionFilter())),
        ("reqPositions", lambda ib: ib.client.reqPositions()),
        ("reqIds", lambda ib: ib.client.reqIds(1)),
        ("reqCompletedOrders", lambda ib: ib.client.reqCompletedOrders(True)),
        ("verifyRequest", lambda ib: ib.client.verifyRequest("a", "b")),
        ("reqPnL", lambda ib: ib.client.reqPnL(1, "DU1", "")),
        ("reqWshEventData", lambda ib: ib.client.reqWshEventData(1, WshEventData())),
        ("raw bytes", lambda ib: ib.client.conn.sendMsg(frame(["3", "1"]))),
        ("raw text", lambda ib: ib.client.sendMsg("4\0" + "1\0" + "1\0")),
        ("two in one", lambda ib: ib.client.conn.sendMsg(frame(["49", "1"]) + frame(["58", "1"]))),
        ("half a frame", lambda ib: ib.client.conn.sendMsg(frame(["49", "1"])[:-1])),
        ("no number", lambda ib: ib.client.conn.sendMsg(frame(["03", "1"])[:-2] + b"\0\0")),
        ("hidden behind the handshake", lambda ib: ib.client.conn.sendMsg(b"API\0" + frame(["3", "1"]))),
        ("oversized", lambda ib: ib.client.conn.sendMsg(b"\xff\xff\xff\xff49\0")),
    ]


async def attempt(call: Any, ib: Any) -> None:
    result = call(ib)
    if asyncio.iscoroutine(result) or asyncio.isfuture(result):
        await result


def _known_order(ib: Any, stock: Any) -> Any:
    """An order ib_async believes to be open, so that it tries to cancel it on the wire."""
    from ib_async import LimitOrder, OrderStatus, Trade

    order = LimitOrder("BUY", 1, 10.0, orderId=5, clientId=7)
    key = ib.wrapper.orderKey(order.clientId, order.orderId, order.permId)
    ib.wrapper.trades[key] = Trade(stock, order, OrderStatus(orderId=5, status="Submitted"), [], [])
    return order


@pytest.mark.parametrize(("name", "call"), [pytest.param(n, c, id=n) for n, c in order_like_calls()])
def test_no_order_like_call_of_ib_async_lets_a_byte_out(name: str, call: Any) -> None:
    """Each call raises OrderRefused, is noted, and the socket's other end receives no byte."""

    async def scenario() -> None:
        listener = Listener()
        async with HandMade() as server:
            connection = await connected(server, listener)
            before = bytes(server.received)
            with pytest.raises(OrderRefused, match="blocked before the socket"):
                await attempt(call, connection.ib)
            connection.client.reqCurrentTime()  # an allowed message behind it: it must be all that arrives
            for _ in range(200):
                if len(server.received) > len(before):
                    break
                await asyncio.sleep(0.005)
            assert bytes(server.received[len(before) :]) == frame(["49", "1"])
            assert listener.blocked, "the attempt is noted"
            connection.disconnect()
            await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_every_data_request_passes() -> None:
    """The allowed messages, handshake included, arrive byte for byte and are noted before they are sent."""
    sent: list[bytes] = []
    noted: list[str] = []
    guard = SendGuard(sent.append, noted.append, lambda *_: None)
    guard(b"API\0" + frame_bytes(b"v157..178"))
    for message_id in sorted(ALLOWED):
        guard(frame([str(int(message_id)), "1", "x"]))
    assert len(sent) == 1 + len(ALLOWED)
    assert noted == [f"{int(m)}\0001\0x" for m in sorted(ALLOWED)]


def test_what_is_not_listed_is_refused() -> None:
    """Every id from 0 to 300 that is not in the list is refused, the ones nobody knows too."""
    sent: list[bytes] = []
    guard = SendGuard(sent.append, lambda _: None, lambda *_: None)
    for message_id in set(range(301)) - {int(m) for m in ALLOWED}:
        with pytest.raises(OrderRefused):
            guard(frame([str(message_id), "1"]))
    assert sent == []
    assert not ALLOWED & {Out.PLACE_ORDER, Out.CANCEL_ORDER, Out.EXERCISE_OPTIONS, Out.GLOBAL_CANCEL, Out.REPLACE_FA}


def test_client_id_zero_is_refused_before_anything_is_connected() -> None:
    """Client id 0 would bind to orders placed by hand."""

    async def scenario() -> None:
        listener = Listener()
        async with HandMade() as server:
            with pytest.raises(BadSetting, match="client id 0"):
                await Connection(listener, listener, MachineClock()).connect("127.0.0.1", server.port, 0, 5.0)
            assert not server.received

    asyncio.run(scenario())


def failing_connect(greeting: bytes | None, *, hang_up: bool = False, timeout: float = 0.4) -> Exception:
    async def scenario() -> Exception:
        listener = Listener()
        async with HandMade(greeting) as server:
            if hang_up:

                async def bye() -> None:
                    while not server.writers:
                        await asyncio.sleep(0.005)
                    await asyncio.sleep(0.02)
                    server.writers[0].close()

                task = asyncio.ensure_future(bye())
            connection = Connection(listener, listener, MachineClock())
            with pytest.raises(GatewayError) as caught:
                await connection.connect("127.0.0.1", server.port, 7, timeout)
            if hang_up:
                await task
            await asyncio.sleep(0.01)
            return caught.value

    return asyncio.run(scenario())


def test_what_is_not_tws_is_named_within_the_time_limit() -> None:
    """Silence, another protocol, a hang-up and half a greeting each end in one clear line, soon."""
    assert "sent nothing" in str(failing_connect(b""))
    assert "not a TWS handshake" in str(failing_connect(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    assert "not a TWS handshake" in str(failing_connect(b"SSH-2.0-OpenSSH_9.6\r\n", timeout=20.0))
    assert "not a server version" in str(failing_connect(frame(["hello", "now"]), timeout=20.0))
    assert "disconnected" in str(failing_connect(b"", hang_up=True, timeout=20.0))
    assert "version 178 but was not ready" in str(failing_connect(frame(["178", "now"])))


@pytest.mark.parametrize("version", ["157", "175", "20"])
def test_a_gateway_too_old_to_be_read_right_is_refused_at_once(version: str) -> None:
    """Other layouts of messages 10 and 4 would be taken for ours: no event of such a gateway is recorded."""
    error = failing_connect(frame([version, "20250717 09:30:00 EST"]), timeout=20.0)
    assert f"server version {version} is too old; 176 or newer is required (TWS 10.19+)" in str(error)
    assert error.exit_code == 6  # type: ignore[attr-defined]


def test_a_closed_port_is_named() -> None:
    """Nothing listens: the line says so and what to do."""

    async def scenario() -> None:
        listener = Listener()
        async with HandMade() as server:
            port = server.port
        with pytest.raises(GatewayError, match=r"cannot connect to 127\.0\.0\.1"):
            await Connection(listener, listener, MachineClock()).connect("127.0.0.1", port, 7, 5.0)

    asyncio.run(scenario())


def test_a_host_that_does_not_resolve_is_named() -> None:
    """The reason of a failed look-up of the host's name is the resolver's, not "Unknown error -2"."""

    async def scenario() -> str:
        async def no_such_host(*_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        asyncio.get_running_loop().getaddrinfo = no_such_host  # type: ignore[assignment, method-assign]
        listener = Listener()
        with pytest.raises(GatewayError) as caught:
            await Connection(listener, listener, MachineClock()).connect("tws.example.com", 7496, 7, 5.0)
        return str(caught.value)

    assert "cannot connect to tws.example.com:7496: Name or service not known; start" in asyncio.run(scenario())


def test_a_connect_that_is_cancelled_leaves_no_exception_behind() -> None:
    """Cancelled at any step of a refused connection: no "Task exception was never retrieved" on the screen."""

    async def cancelled(after: int) -> list[str]:
        said: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["message"]))
        async with HandMade() as server:
            port = server.port
        work = asyncio.ensure_future(Connection(listener, listener, MachineClock()).connect("127.0.0.1", port, 7, 5.0))
        for _ in range(after):
            await asyncio.sleep(0)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        for _ in range(10):
            await asyncio.sleep(0)
        del work
        gc.collect()
        return said

    listener = Listener()
    assert [asyncio.run(cancelled(steps)) for steps in range(15)] == [[]] * 15


def test_a_client_id_in_use_has_its_own_error() -> None:
    """Error 326 and a hang-up, as TWS does it."""
    greeting = frame(["178", "now"]) + frame(
        ["4", "2", "-1", "326", "Unable to connect as the client id is already in use", ""]
    )
    error = failing_connect(greeting, hang_up=True, timeout=20.0)
    assert isinstance(error, ClientIdInUse)
    assert "326" in str(error)


def test_ib_async_keeps_nothing_of_the_data() -> None:
    """After thousands of ticks, depth rows and errors its containers are as empty as before."""

    async def scenario() -> None:
        listener = Listener()
        async with HandMade() as server:
            connection = await connected(server, listener)
            rows = [
                ["12", "1", "5", "0", "0", "1", "10.5", "100"],
                ["2", "6", "5", "0", "100"],
                ["1", "6", "5", "1", "9", "1", "0"],
            ]
            rows += [["4", "2", "5", "317", "reset", ""], ["99", "5", "3", "1700000000", "1", "2", "3", "4", "0"]]
            server.writers[0].write(b"".join(frame(r) for r in rows * 500))
            while len(listener.messages) < 2 + len(rows) * 500:
                await asyncio.sleep(0.005)
            wrapper = connection.ib.wrapper
            held = {k: len(v) for k, v in vars(wrapper).items() if isinstance(v, (dict, list, set)) and len(v)}
            assert set(held) <= {"accounts", "accountValues"}, held
            assert [m for m in listener.messages if m[0] == "12"] == [rows[0]] * 500
            connection.disconnect()
            await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_a_failing_tap_is_reported_and_reads_no_further() -> None:
    """An exception inside the tap reaches the listener, not ib_async's log, and the socket is closed."""

    async def scenario() -> None:
        listener = Listener()
        async with HandMade() as server:
            connection = await connected(server, listener)

            def broken(_fields: list[str]) -> None:
                raise MemoryError("no room")

            connection._tap._append = broken
            server.writers[0].write(frame(["2", "6", "5", "0", "100"]) * 3)
            while not listener.losses:
                await asyncio.sleep(0.005)
            assert [type(e) for e in listener.errors] == [MemoryError]

    asyncio.run(scenario())
