"""Dispatch client messages to their handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.simgateway.ib_time_text import ib_time
from harvester.simgateway.limits import Refusal
from harvester.simgateway.request_handlers import ANSWERS
from harvester.wire.decode_requests import BadRequest, parse
from harvester.wire.message_ids import ORDER_MESSAGES, Out

if TYPE_CHECKING:
    from harvester.simgateway.client_session import ClientSession
    from harvester.simgateway.gateway_state import GatewayState

ZONE = "US/Eastern"
NO_ORDERS = Refusal(201, "Order rejected - reason:This is a simulated gateway for market data; it takes no orders")


class Dispatcher:
    """Dispatches the messages of all clients."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state
        self.settings, self.clock, self.report, self.elapsed = state.settings, state.clock, state.report, state.elapsed

    def connection_time(self) -> str:
        """Market time in the format of the handshake."""
        return ib_time(self.clock.wall(), ZONE)

    def handle(self, session: ClientSession, fields: list[str]) -> None:
        """Answer one message; an unknown id or layout gets error 321."""
        self._state.on_request()
        try:
            request = parse(fields)
        except BadRequest as error:
            self.report.requests["unreadable"] += 1
            session.invalid(error.req_id, error)
            return
        self.report.requests[request.msg.name.lower()] += 1
        if session.client_id is None and request.msg != Out.START_API:
            session.invalid(request.req_id, "The API has not been started")
            return
        if request.msg in ORDER_MESSAGES:
            self.report.orders_refused += 1
            session.error(request.req_id, *NO_ORDERS)
            return
        answer = ANSWERS.get(request.msg)
        if answer is None:
            session.invalid(request.req_id, f"{request.msg.name} is not supported by this gateway")
            return
        answer(self._state, session, request)

    def remove(self, session: ClientSession) -> None:
        """Remove a client and its subscriptions."""
        for sub in self._state.registry.of(session):
            self._state.registry.remove(sub)
        if session in self._state.sessions:
            self._state.sessions.remove(session)
            self.report.clients.append(session.facts())
