"""The first words of a gateway: its version and time, then an order id and its accounts, and it is ready.

Source: `client.py` of the official API and of ib_async. ib_async's connection waits for its own readiness, which is set
from here; whatever else comes before is an event like any other and disturbs nothing.
"""

from __future__ import annotations

from typing import Any

SERVER_VERSION_MIN = 176
"""From this version on prices, sizes and times have the layouts that are decoded here (TWS 10.19)."""


class Greeting:
    """What one connection has said of itself so far."""

    LENGTH_MAX = 4096  # bytes; a greeting has about 30

    def __init__(self, client: Any) -> None:
        self._client = client
        self.version = 0
        self.connection_time = ""
        self.accounts: tuple[str, ...] = ()
        self.ready = False
        self._next_id = False

    def begin(self, fields: list[str]) -> str:
        """Take the greeting and ask for the start; the text says why not, if so."""
        text = fields[0]
        if not (text.isascii() and text.isdigit() and len(text) < 7):
            return f"greets with {text[:40]!r}, which is no server version: it is not TWS or IB Gateway; check the port"
        version = int(text)
        if version < SERVER_VERSION_MIN:
            needed = f"{SERVER_VERSION_MIN} or newer is needed (TWS 10.19+)"
            return f"cannot be recorded: server version {version} is too old; {needed}"
        self.version, self.connection_time = version, fields[1] if len(fields) > 1 else ""
        client = self._client
        client._serverVersion = client.decoder.serverVersion = version  # noqa: SLF001 - what its framing would do
        client.connState = client.CONNECTED
        client.startApi()
        return ""

    def hear(self, fields: list[str]) -> None:
        """A message before readiness."""
        client = self._client
        if fields[0] == "9" and len(fields) > 2 and fields[2].isascii() and fields[2].isdigit():
            self._next_id = True
        elif fields[0] == "15" and len(fields) > 2:
            self.accounts = tuple(name for part in fields[2].split(",") if (name := part.strip()))
            client._accounts = list(self.accounts)  # noqa: SLF001 - what its framing would do
        if self._next_id and self.accounts:
            self.ready = client._apiReady = True  # noqa: SLF001 - likewise
            client.apiStart.emit()
