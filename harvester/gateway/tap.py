"""Where ib_async is listened to: below its objects, above its framing.

`decoder.interpret(fields)` is handed every message's exact text in order; `_tcpDataArrived` is called once per packet
before any of its messages. Both are instance attributes and survive reconnects. ib_async's own handlers run only for
the messages its connection needs, so that its containers stay empty.

The tap never raises into ib_async, which would log the exception and swallow it: a failure is kept, told to whoever
waits, and nothing is read from then on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

FOR_IB_ASYNC = frozenset({"9", "15"})  # next valid id, managed accounts: what its connection waits for
CONTROL = frozenset({"4", "9", "10", "15", "17", "49", "52", "80"})
"""Messages the session reacts to; it hears of one after it has its place in the order."""


class Sink(Protocol):
    """Where arrivals go, in order."""

    def packet(self) -> None:
        """A packet has arrived: what is appended next bears this instant."""
        ...

    def message(self, fields: list[str]) -> None:
        """Append one message."""
        ...


class Tap:
    """Installs itself on one `ib_async.IB`."""

    def __init__(
        self, ib: Any, sink: Sink, heard: Callable[[list[str]], None], failed: Callable[[Exception], None]
    ) -> None:
        self._original = ib.client.decoder.interpret
        self._sink, self._heard, self._failed = sink, heard, failed
        self.failure: Exception | None = None
        self._append = sink.message
        ib.client.decoder.interpret = self._interpret
        ib.client._tcpDataArrived = self._packet  # noqa: SLF001 - the hook has no public name
        ib.client._tcpDataProcessed = None  # noqa: SLF001 - nobody listens to ib_async's own update events

    def _packet(self) -> None:
        try:
            self._sink.packet()
        except Exception as error:  # noqa: BLE001 - see the module's docstring
            self._fail(error)

    def _interpret(self, fields: list[str]) -> None:
        if self.failure is not None:
            return
        try:
            self._append(fields)
            if fields and fields[0] in CONTROL:
                self._heard(fields)
                if fields[0] in FOR_IB_ASYNC:
                    self._original(list(fields))
        except Exception as error:  # noqa: BLE001 - see the module's docstring
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = error
            self._failed(error)
