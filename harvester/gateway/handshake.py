"""The handshake of a gateway: server version and time, then the next order id and the accounts; then it is ready.

Source: `client.py` of the official API and of ib_async. ib_async waits for its own ready flag, which is set here. Other
messages during the handshake are recorded as events like any other.
"""

from __future__ import annotations

from typing import Any

from harvester.wire.message_ids import SERVER_VERSION_MIN


class Handshake:
    """Handshake state of one connection."""

    LENGTH_MAX = 4096  # bytes; the first message has about 30

    def __init__(self, client: Any) -> None:
        self._client = client
        self.version = 0
        self.connection_time = ""
        self.accounts: tuple[str, ...] = ()
        self.ready = False
        self._next_id = False

    def begin(self, fields: list[str]) -> str:
        """Handle the first message: check the version and start the API. Returns the reason of a refusal, else ""."""
        text = fields[0]
        if not (text.isascii() and text.isdigit() and len(text) < 7):
            return f"starts with {text[:40]!r}, not a server version: it is not TWS / IB Gateway; check the port"
        version = int(text)
        if version < SERVER_VERSION_MIN:
            needed = f"{SERVER_VERSION_MIN} or newer is required (TWS 10.19+)"
            return f"cannot be recorded: server version {version} is too old; {needed}"
        self.version, self.connection_time = version, fields[1] if len(fields) > 1 else ""
        client = self._client
        client._serverVersion = client.decoder.serverVersion = version  # noqa: SLF001 - what its framing would do
        client.connState = client.CONNECTED
        client.startApi()
        return ""

    def receive(self, fields: list[str]) -> None:
        """Handle a message received before the connection is ready."""
        client = self._client
        if fields[0] == "9" and len(fields) > 2 and fields[2].isascii() and fields[2].isdigit():
            self._next_id = True
        elif fields[0] == "15" and len(fields) > 2:
            self.accounts = tuple(name for part in fields[2].split(",") if (name := part.strip()))
            client._accounts = list(self.accounts)  # noqa: SLF001 - what its framing would do
        if self._next_id and self.accounts:
            self.ready = client._apiReady = True  # noqa: SLF001 - what its framing would do
            client.apiStart.emit()
