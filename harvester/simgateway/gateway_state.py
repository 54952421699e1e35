"""The state that the handlers of client requests share: the market, the clients, their subscriptions and refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from harvester.clock import Elapsed
from harvester.simgateway.client_subscriptions import ClientSubscriptions
from harvester.simgateway.fewer_depth_rows import DepthCut
from harvester.simgateway.limits import Pacing, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harvester.clock import Clock
    from harvester.events.kinds import Stream
    from harvester.simgateway.client_session import ClientSession
    from harvester.simgateway.client_subscriptions import ClientSubscription
    from harvester.simgateway.gateway_report import GatewayReport
    from harvester.simgateway.gateway_settings import GatewaySettings
    from harvester.simgateway.markets.market_source import MarketSource


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
        self.timeline = timeline
        # A recorded day has scanner lists, bar updates, tick parameters and data types as events of its own.
        self.recorded = market.pushes_scans
        self.registry = ClientSubscriptions()
        self.elapsed = Elapsed(clock).now
        self.pacing = Pacing(settings.limits, self.elapsed)
        self.sessions: list[ClientSession] = []
        self.refusals: dict[tuple[int | None, str, Stream | None], Refusal] = {}
        self.bad_history = ""  # how a fault script spoils the bars of later answers
        self.on_subscribed: Callable[[], None] = lambda: None
        self.on_request: Callable[[], None] = lambda: None

    def muted(self, sub: ClientSubscription) -> bool:
        """Whether a fault mutes this stream."""
        return sub.session.muted or sub.silent_until > self.clock.now()

    def scripted_refusal(self, session: ClientSession, symbol: str, stream: Stream) -> Refusal | None:
        """The error a fault script sets for this request, None without one."""
        if not self.refusals:
            return None
        for client in (session.client_id, None):
            for place in ((client, symbol, stream), (client, symbol, None), (client, "", None)):
                if place in self.refusals:
                    return self.refusals[place]
        return None

    def depth_cut(self, rows: int) -> Callable[[list[str]], Iterable[list[str]]] | None:
        """A reduction of the market's depth to `rows` rows, None if the market has no more."""
        if rows >= self.market.depth_rows:
            return None
        return DepthCut(rows, self.market.depth_rows)
