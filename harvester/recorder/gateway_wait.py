"""The wait for a gateway that does not accept a first connection yet (`hv record --wait`).

    wait = GatewayWait(settings, home, wait_ns)
    await wait.until_answer()          before clock, date and symbols are chosen: a simulated gateway decides them
    await wait.again(error)            after a first connection that failed

What waits is one TCP connection at a time that sends the API's first bytes and is closed at the first byte of the
answer. It has no client id, so that the recorder can connect with its own at once.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import chain, repeat
from typing import TYPE_CHECKING

import structlog

from harvester.clock import real_monotonic_ns
from harvester.errors import GatewayError
from harvester.gateway.connection import GatewayNotReady, disconnected_early, not_reached, sent_nothing
from harvester.recorder.link import BACK_OFF_S, CONNECT_S_MAX
from harvester.recorder.start_checks import other_port_hint
from harvester.units import SECOND_NS
from harvester.wire.framing import HANDSHAKE, frame_bytes

if TYPE_CHECKING:
    from harvester.config import Settings
    from harvester.home import Home

logger = structlog.get_logger()

PAUSES_S = BACK_OFF_S[:4]  # real time between attempts; the last one repeats
_VERSIONS = b"v100..178"


class GatewayWait:
    """Real time in which a gateway that is not ready is tried again.

    Attributes:
        why: the reason of the last failure, empty while nothing has failed; screens show it.
    """

    def __init__(self, settings: Settings, home: Home, wait_ns: int) -> None:
        self._settings, self._home = settings, home
        self._host, self._port = settings.gateway_host, settings.port
        self._patience_s = min(settings.timeout_seconds, CONNECT_S_MAX)
        self._until_ns = real_monotonic_ns() + wait_ns
        self._pauses = chain(PAUSES_S, repeat(PAUSES_S[-1]))
        self.why = ""

    @property
    def left_ns(self) -> int:
        """What is left of the wait, ns of real time."""
        return max(self._until_ns - real_monotonic_ns(), 0)

    @property
    def left_s(self) -> float:
        """What is left of the wait, seconds of real time."""
        return self.left_ns / SECOND_NS

    async def until_answer(self) -> None:
        """Return once the gateway answers a connection.

        Raises:
            GatewayError: it does not, until the wait is over.
        """
        while True:
            try:
                await _answer(self._host, self._port, self._patience_s)
            except GatewayNotReady as error:
                await self.again(error)
            else:
                self.why = ""
                return

    async def again(self, error: GatewayError) -> None:
        """Log the reason, once, and pause before the next attempt.

        Raises:
            GatewayError: the reason, if the wait is over or another attempt would fail as well.
        """
        why = f"{error}{other_port_hint(self._settings, self._home)}"
        if not isinstance(error, GatewayNotReady) or not self.left_ns:
            raise GatewayError(why) from None
        if why != self.why:
            logger.warning("waiting for the gateway", seconds_left=round(self.left_s), why=why)
        self.why = why
        await asyncio.sleep(min(next(self._pauses), self.left_s))


async def _answer(host: str, port: int, patience_s: float) -> None:
    """Connect, and wait for the first byte of an answer.

    Raises:
        GatewayNotReady: refused, reset, closed, or nothing sent within `patience_s` of real time.
    """
    where, writer = f"{host}:{port}", None
    try:
        async with asyncio.timeout(patience_s):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(HANDSHAKE + frame_bytes(_VERSIONS))
            if not await reader.read(1):
                raise GatewayNotReady(f"{where} {disconnected_early('')}")
    except TimeoutError:
        raise GatewayNotReady(f"{where} {sent_nothing(0, patience_s)}") from None
    except OSError as error:
        why = (
            not_reached(where, error)
            if writer is None
            else f"{where} {disconnected_early(error.strerror or str(error))}"
        )
        raise GatewayNotReady(why) from None
    finally:
        if writer is not None:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
