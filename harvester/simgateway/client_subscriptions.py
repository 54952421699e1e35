"""Subscriptions of all clients by (instrument, stream); each turns events into its client's bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harvester.events.kinds import Stream
from harvester.simgateway.gateway_report import layout_key
from harvester.wire.message_ids import GENERIC_OF_FIELD, REQ_ID_INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from harvester.simgateway.client_session import ClientSession
    from harvester.simgateway.gateway_report import MessageTally

LINE_KIND: dict[Stream, str] = {
    Stream.L1: "market_data",
    Stream.DEPTH: "depth",
    Stream.SMART_DEPTH: "depth",
    Stream.LAST: "tick_by_tick",
    Stream.ALL_LAST: "tick_by_tick",
    Stream.BID_ASK: "tick_by_tick",
    Stream.MID_POINT: "tick_by_tick",
    Stream.SCANNER: "scanner",
}
"""Stream → the kind of line it uses in IB's limits."""

REQ_ID_AT = {str(msg): at for msg, at in REQ_ID_INDEX.items()}
"""`REQ_ID_INDEX` by message id as text."""

_GENERIC_OF = {str(int(tick)): generic for tick, generic in GENERIC_OF_FIELD.items()}
_LENGTH = struct.Struct(">I")


@dataclass(eq=False)
class ClientSubscription:
    """One subscription of one client.

    `reshape` maps a message of the market to the messages for this client (fewer depth rows, another date format); None
    passes all. `key` is `MarketEvent.key`, "" if (con_id, stream) is unique. `held`: deactivated by
    an error 10225, until the client subscribes to the same again.
    """

    session: ClientSession
    req_id: int
    con_id: int
    symbol: str
    stream: Stream
    key: str = ""
    reshape: Callable[[list[str]], Iterable[list[str]]] | None = None
    silent_until: int = 0
    held: bool = False
    _tallies: dict[str, MessageTally] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._req_text = str(self.req_id)
        self.wanted_generic = {""}  # "": tick fields that need no generic tick

    def deliver(self, messages: Iterable[list[str]]) -> None:
        """Queue messages of the market for the client."""
        if self.reshape is not None:
            messages = [shaped for fields in messages for shaped in self.reshape(fields)]
        queue = self.session.queue
        for fields in messages:
            msg = fields[0]
            if msg == "46" and _GENERIC_OF.get(fields[3], "") not in self.wanted_generic:
                continue
            at = REQ_ID_AT.get(msg)
            if at is None:
                self.session.send(fields, self.symbol)
                continue
            fields[at] = self._req_text
            layout = msg if msg != "99" else layout_key(fields)
            tally = self._tallies.get(layout)
            if tally is None or msg in {"4", "17", "20"}:
                self._send_uncached(layout, fields)
                continue
            tally.add(fields)
            payload = ("\0".join(fields) + "\0").encode("utf-8", "surrogateescape")
            queue(_LENGTH.pack(len(payload)) + payload)

    def _send_uncached(self, layout: str, fields: list[str]) -> None:
        """Send the first message of a layout, or one that counts as more than a row."""
        self._tallies[layout] = self.session.report.tally(layout, self.symbol)
        self.session.send(fields, self.symbol)


class ClientSubscriptions:
    """The subscriptions of all clients, by (con_id, stream) and by (client, request id)."""

    def __init__(self) -> None:
        self._by_stream: dict[tuple[int, Stream], list[ClientSubscription]] = {}
        self._by_session: dict[ClientSession, dict[int, ClientSubscription]] = {}

    def add(self, sub: ClientSubscription) -> None:
        self._by_stream.setdefault((sub.con_id, sub.stream), []).append(sub)
        self._by_session.setdefault(sub.session, {})[sub.req_id] = sub

    def get(self, session: ClientSession, req_id: int) -> ClientSubscription | None:
        """The subscription of a client with this request id, None without one."""
        return self._by_session.get(session, {}).get(req_id)

    def of(self, session: ClientSession) -> list[ClientSubscription]:
        """All subscriptions of a client, oldest first."""
        return list(self._by_session.get(session, {}).values())

    def remove(self, sub: ClientSubscription) -> None:
        own = self._by_session.get(sub.session, {})
        own.pop(sub.req_id, None)
        if not own:
            self._by_session.pop(sub.session, None)
        subscribers = self._by_stream.get((sub.con_id, sub.stream), [])
        if sub in subscribers:
            subscribers.remove(sub)
        if not subscribers:
            self._by_stream.pop((sub.con_id, sub.stream), None)

    def wanted(self, con_id: int, stream: Stream) -> bool:
        return (con_id, stream) in self._by_stream or stream == Stream.OTHER

    def subscribers(self, con_id: int, stream: Stream) -> list[ClientSubscription]:
        return self._by_stream.get((con_id, stream), [])

    def lines(self, kind: str) -> int:
        """Lines of a kind in use by all clients."""
        return sum(len(subs) for (_, stream), subs in self._by_stream.items() if LINE_KIND.get(stream) == kind)

    def __iter__(self) -> Iterator[ClientSubscription]:
        return iter([sub for subs in self._by_stream.values() for sub in subs])
