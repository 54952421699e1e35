"""Where all clients' requests meet: state shared by the answers, and the way of a message to its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from harvester.clock import Elapsed
from harvester.events import codes
from harvester.simgateway.backfill import Backfill
from harvester.simgateway.depthcut import DepthCut
from harvester.simgateway.feeds import Feeds
from harvester.simgateway.limits import Pacing, Refusal
from harvester.simgateway.replies import ANSWERS
from harvester.simgateway.scanner import SCAN_CODES
from harvester.simgateway.subscriptions import Registry
from harvester.simgateway.times import stamp
from harvester.wire.ids import ORDER_MESSAGES, Out
from harvester.wire.outgoing import BadRequest, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harvester.clock import Clock
    from harvester.events.kinds import Stream
    from harvester.simgateway.market import Market
    from harvester.simgateway.report import Report
    from harvester.simgateway.session import Session
    from harvester.simgateway.settings import GatewaySettings
    from harvester.simgateway.subscriptions import Subscription

ZONE = "US/Eastern"
_RESET = str(codes.DEPTH_RESET)
NO_ORDERS = Refusal(201, "Order rejected - reason:This is a simulated gateway for market data; it takes no orders")
_NOT_STARTED = Refusal(321, "Error validating request.-'bW' : cause - The API has not been started")


class Timeline(Protocol):
    """Things that happen at a market time."""

    def at(self, ts: int, action: Callable[[int], None]) -> None:
        """Call `action(ts)` at market time `ts`, ns UTC."""
        ...

    def after(self, seconds: float, action: Callable[[int], None]) -> None:
        """Call `action(ts)` so many market seconds from now."""
        ...


class FreshCut:
    """A cut of the book that begins anew when the book is reset (error 317)."""

    def __init__(self, rows: int, source_rows: int) -> None:
        self._rows, self._source_rows = rows, source_rows
        self._cut = DepthCut(rows, source_rows)

    def __call__(self, fields: list[str]) -> list[list[str]]:
        if fields[0] == "4" and fields[3] == _RESET:
            self._cut = DepthCut(self._rows, self._source_rows)
        return self._cut(fields)


class Desk:
    """All clients' requests meet here. `subscribed` is called for each stream that starts."""

    def __init__(
        self, market: Market, settings: GatewaySettings, clock: Clock, report: Report, timeline: Timeline
    ) -> None:
        self.market, self.settings, self.clock, self.report = market, settings, clock, report
        self.timeline = timeline
        # A recorded day brings scanner lists, kept-up-to-date bars, tick parameters and data types as its own events.
        self.recorded = market.pushes_scans
        self.registry = Registry()
        self.elapsed = Elapsed(clock).now
        self.pacing = Pacing(settings.limits, self.elapsed)
        self.sessions: list[Session] = []
        self.refusals: dict[tuple[int | None, str, Stream | None], Refusal] = {}
        self.scan_codes = tuple(SCAN_CODES)
        self.feeds, self.backfill = Feeds(self), Backfill(self)
        self.subscribed: Callable[[], None] = lambda: None
        self.heard: Callable[[], None] = lambda: None

    # ---- what a session tells ----

    def connection_time(self) -> str:
        return stamp(self.clock.wall(), ZONE)

    def take(self, session: Session, fields: list[str]) -> None:
        """Answer one message; a message with an unknown id or layout gets 321, nothing else happens."""
        self.heard()
        try:
            request = parse(fields)
        except BadRequest as error:
            self.report.requests["unreadable"] += 1
            session.error(error.req_id, 321, f"Error validating request.-'bW' : cause - {error}")
            return
        self.report.requests[request.msg.name.lower()] += 1
        if session.client_id is None and request.msg != Out.START_API:
            session.error(request.req_id, *_NOT_STARTED)
            return
        if request.msg in ORDER_MESSAGES:
            self.report.orders_refused += 1
            session.error(request.req_id, *NO_ORDERS)
            return
        answer = ANSWERS.get(request.msg)
        if answer is None:
            text = f"Error validating request.-'bW' : cause - {request.msg.name} is not served by this gateway"
            session.error(request.req_id, 321, text)
            return
        answer(self, session, request)

    def gone(self, session: Session) -> None:
        """Forget a client and its subscriptions."""
        for sub in list(session.subs.values()):
            self.end(sub)
        if session in self.sessions:
            self.sessions.remove(session)
            self.report.clients.append(session.facts())

    def end(self, sub: Subscription) -> None:
        """Stop a stream."""
        self.registry.remove(sub)
        sub.session.subs.pop(sub.req_id, None)

    def withheld(self, sub: Subscription) -> bool:
        """True while a fault keeps this stream from its client."""
        return sub.session.muted or sub.silent_until > self.clock.now()

    def scripted_refusal(self, session: Session, symbol: str, stream: Stream) -> Refusal | None:
        """The error a fault script wants as the answer to this request."""
        if not self.refusals:
            return None
        for client in (session.client_id, None):
            for place in ((client, symbol, stream), (client, symbol, None), (client, "", None)):
                if place in self.refusals:
                    return self.refusals[place]
        return None

    def depth_cut(self, rows: int) -> Callable[[list[str]], Iterable[list[str]]] | None:
        """What makes a book of fewer rows out of the market's, None when it gives no more than that."""
        if rows >= self.market.depth_rows:
            return None
        return FreshCut(rows, self.market.depth_rows)
