"""The state that the handlers of client requests share: the market, the clients, their subscriptions and refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from harvester.clock import Elapsed
from harvester.events.kinds import Stream
from harvester.simgateway.client_subscriptions import ClientSubscriptions
from harvester.simgateway.fewer_depth_rows import DepthCut
from harvester.simgateway.limits import Pacing, Refusal, ScriptedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from harvester.clock import Clock
    from harvester.simgateway.client_session import ClientSession
    from harvester.simgateway.client_subscriptions import ClientSubscription
    from harvester.simgateway.gateway_report import GatewayReport
    from harvester.simgateway.gateway_settings import GatewaySettings
    from harvester.simgateway.markets.market_source import MarketSource


Place = tuple[int | None, str, Stream | None]
"""Client, symbol and stream of a fault about later requests; None or "" for all."""


class Timeline(Protocol):
    """Schedules actions at market times."""

    def at(self, ts: int, action: Callable[[int], None]) -> None:
        """Call `action(ts)` at market time `ts`, ns UTC."""
        ...

    def after(self, seconds: float, action: Callable[[int], None]) -> None:
        """Call `action(ts)` after `seconds` of market time."""
        ...


class GatewayState:
    """State shared by all clients. `on_subscribed` is called per new stream, `on_request` per message."""

    def __init__(
        self, market: MarketSource, settings: GatewaySettings, clock: Clock, report: GatewayReport, timeline: Timeline
    ) -> None:
        self.market, self.settings, self.clock, self.report = market, settings, clock, report
        self.timeline, self.source = timeline, market.source()
        # A recorded day has scanner lists, bar updates, tick parameters and data types as events of its own.
        self.recorded = market.pushes_scans
        self.registry = ClientSubscriptions()
        self.elapsed = Elapsed(clock).now
        self.pacing = Pacing(settings.limits, self.elapsed)
        self.sessions: list[ClientSession] = []
        self.refusals: dict[Place, ScriptedError] = {}
        self.advice: dict[str, dict[Place, ScriptedError]] = {"before": {}, "after": {}}
        self.swallowed: dict[Place, int] = {}
        self.bad_history = ""  # how a fault script spoils the bars of later answers
        self.on_subscribed: Callable[[], None] = lambda: None
        self.on_request: Callable[[], None] = lambda: None

    def muted(self, sub: ClientSubscription) -> bool:
        """Whether a fault mutes this stream."""
        return sub.session.muted or sub.held or sub.silent_until > self.clock.now()

    def scripted_refusal(self, session: ClientSession, symbol: str, stream: Stream) -> Refusal | None:
        """The error a fault script sets for this request, None without one."""
        found = _place(self.refusals, session, symbol, stream)
        return None if found is None else self.refusals[found].take()

    def scripted_advice(self, when: str, session: ClientSession, symbol: str, stream: Stream) -> Refusal | None:
        """The error a fault script sends with a granted subscription, `before` or `after` its data type."""
        found = _place(self.advice[when], session, symbol, stream)
        return None if found is None else self.advice[when][found].take()

    def swallows(self, session: ClientSession, symbol: str, stream: Stream) -> bool:
        """Whether a one-shot request gets no answer: the client has lost IB's servers (1100), or by a fault script."""
        if session.offline and stream != Stream.OTHER:
            return True
        place = _place(self.swallowed, session, symbol, stream)
        if place is None or not self.swallowed[place]:
            return False
        self.swallowed[place] -= 1
        return True

    def depth_cut(self, rows: int) -> Callable[[list[str]], Iterable[list[str]]] | None:
        """A reduction of the market's depth to `rows` rows, None if the market has no more."""
        if rows >= self.market.depth_rows:
            return None
        return DepthCut(rows, self.market.depth_rows)


def _place(faults: Mapping[Place, object], session: ClientSession, symbol: str, stream: Stream) -> Place | None:
    """The most particular fault about a request, None without one."""
    for client in (session.client_id, None):
        for place in ((client, symbol, stream), (client, symbol, None), (client, "", None)):
            if place in faults:
                return place
    return None
