"""The simulated gateway: a TCP server that speaks the TWS protocol and serves one market day.

    gateway = SimGateway(market, settings, clock)     # clock: a LockstepClock in one process, None for its own clock
    port = await gateway.start()
    ...
    report = await gateway.stop()

Its own clock is `gateway.clock`: a recorder in the same process may share it, in another process it follows
`gateway.json`. Every client of a gateway with a `LockstepClock` must count its bytes on that clock, as channels (local
port, "up") and (local port, "down").
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any

import structlog

from harvester.errors import CannotRun
from harvester.simgateway.client_session import ClientSession
from harvester.simgateway.clock_file import GatewayClock, GatewayFile, MaxSpeedClock
from harvester.simgateway.dispatch import Dispatcher
from harvester.simgateway.fault_actions import FaultActions
from harvester.simgateway.gateway_report import GatewayReport, write_json
from harvester.simgateway.gateway_state import GatewayState
from harvester.simgateway.market_pump import MarketPump, Timers

if TYPE_CHECKING:
    from harvester.clock import Clock
    from harvester.simgateway.gateway_settings import GatewaySettings
    from harvester.simgateway.markets.market_source import MarketSource

logger = structlog.get_logger()

SEND_BUFFER_BYTES = 4096  # of a socket at speed max


class SimGateway:
    """A simulated gateway for any number of clients. Call `start` and `stop` once each."""

    def __init__(self, market: MarketSource, settings: GatewaySettings, clock: Clock | None = None) -> None:
        self.market, self.settings = market, settings.check()
        self.report = GatewayReport()
        self._server: asyncio.Server | None = None
        self._pump_task: asyncio.Task[None] | None = None
        self._clients: dict[asyncio.Task[None], ClientSession] = {}
        self._given_clock = clock
        self._file = GatewayFile(None, {})
        self.port = 0

    async def start(self) -> int:
        """Start to listen; returns the port.

        Raises:
            CannotRun: the port is in use, the window is outside the market's day, or `gateway.json` is not writable.
            LogWriteFailed: the disk is full or failing.
        """
        await self._listen(self.settings.port)
        facts = {
            "host": self.settings.host,
            "port": self.port,
            "server_version": self.settings.server_version,
            "accounts": list(self.settings.accounts),
            "source": self.settings.source,
            "symbols": [instrument.symbol for instrument in self.market.instruments],
            "max_speed": not self.settings.speed,
        }
        if self.settings.log is not None:  # a recorder must not append the day to itself
            facts["log"] = str(self.settings.log)
        self._file = GatewayFile(self.settings.gateway_file, facts)
        self.clock = self._given_clock or self._own_clock()
        timers = Timers(self.clock)
        self.state = GatewayState(self.market, self.settings, self.clock, self.report, timers)
        self.desk = Dispatcher(self.state)
        self.pump = MarketPump(self.market, self.settings, self.clock, timers, self.state)
        if self.pump.start_ns >= self.pump.end_ns:
            await self._close_server()
            raise CannotRun("the window --start to --end is outside this market's day; choose another window")
        FaultActions(self.state, timers, self._close_port, self._move_port).arm(self.pump.start_ns)
        self.pump.prepare()
        self._pump_task = asyncio.create_task(self.pump.run(), name="market pump")
        self._pump_task.add_done_callback(self._pump_done)
        return self.port

    def _own_clock(self) -> Clock:
        start_ns = max(self.settings.start_ns or self.market.start_ns, self.market.start_ns)
        if self.settings.speed:
            return GatewayClock(start_ns, self.settings.speed, self._file)
        return MaxSpeedClock(start_ns, min(self.settings.end_ns or self.market.end_ns, self.market.end_ns), self._file)

    async def _listen(self, port: int) -> None:
        try:
            self._server = await asyncio.start_server(self._accept, self.settings.host, port)
        except OSError as error:
            taken = error.errno in {errno.EADDRINUSE, errno.EACCES}
            why = "is in use or not allowed; choose another with --port" if taken else f"cannot be used: {error}"
            raise CannotRun(f"{self.settings.host} port {port} {why}") from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        session = ClientSession(self.desk, reader, writer)
        if isinstance(self.clock, MaxSpeedClock):
            _limit_send_buffer(writer)
        self._clients[task] = session
        try:
            await session.run()
        finally:
            self._clients.pop(task, None)
            self.report.messages += session.sent_messages
            self.report.bytes += session.sent_bytes

    def _pump_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            logger.error("the market stopped", why=repr(task.exception()))

    async def wait_over(self) -> None:
        """Wait for the end of the market's day.

        Raises:
            Exception: the error that stopped the market earlier.
        """
        assert self._pump_task is not None, "wait_over before start"
        await asyncio.shield(self._pump_task)

    async def run(self, *, forever: bool = True) -> None:
        """Serve until cancelled, or without `forever` until the day is over and all clients have left.

        Raises:
            Exception: the error that stopped the market.
        """
        await self.wait_over()
        while forever or self._clients:
            await asyncio.sleep(0.05)

    # ---- the port, closed by a fault ----

    def _close_port(self, seconds: float) -> None:
        """Refuse new connections for `seconds` of market time; existing ones continue."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self.state.timeline.after(seconds, self._reopen)

    def _reopen(self, _now: int) -> None:
        if self._server is None:  # else the port has moved meanwhile
            self._reopening = asyncio.create_task(self._listen(self.port), name="reopen the port")

    def _move_port(self, port: int) -> int:
        """Listen on another port, 0 for a free one; returns it. A port in use ends the market with an error."""
        listening = socket.create_server((self.settings.host, port))
        listening.setblocking(False)
        if self._server is not None:
            self._server.close()
        self.port = int(listening.getsockname()[1])
        self._file.publish_port(self.port)
        self._reopening = asyncio.create_task(self._listen_on(listening), name="move the port")
        return self.port

    async def _listen_on(self, listening: socket.socket) -> None:
        self._server = await asyncio.start_server(self._accept, sock=listening)

    async def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    # ---- the end ----

    async def stop(self) -> dict[str, Any]:
        """Close all connections, write the report if `report_file` is set, and return it."""
        await self._close_server()
        if self._pump_task is not None:
            self._pump_task.cancel()
            await asyncio.gather(self._pump_task, return_exceptions=True)
            self.pump.stop()
        for session in list(self._clients.values()):
            session.close()
        tasks = list(self._clients)
        if tasks:
            await asyncio.wait(tasks, timeout=2)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        self._file.remove()
        report = {**self._about(), **self.report.as_dict()}
        if self.settings.report_file is not None:
            write_json(self.settings.report_file, report)
        return report

    def _about(self) -> dict[str, Any]:
        return {
            "source": self.settings.source,
            "seed": self.settings.seed,
            "market_start_ns": self.pump.start_ns,
            "market_end_ns": self.pump.end_ns,
            "market_now_ns": self.clock.now(),
            "market_over": self.pump.over.is_set(),
        }


def _limit_send_buffer(writer: asyncio.StreamWriter) -> None:
    """Keep the send buffer small: at speed max, data in flight is stamped with the time of later data."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    writer.transport.set_write_buffer_limits(high=0)
