"""React to the gateway's errors about one subscription: note a refusal, or request the same or another stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from harvester.events import codes
from harvester.events.kinds import Own, Stream
from harvester.gateway.data_requests import OTHER_NAMES
from harvester.recorder import subscriptions as subs
from harvester.recorder.link import BACK_OFF_S

if TYPE_CHECKING:
    from harvester.recorder.inbox import Inbox
    from harvester.recorder.link import GatewayLink
    from harvester.recorder.subscriber import Subscriber
    from harvester.recorder.subscriptions import StreamSubscription, SubscriptionRegistry

logger = structlog.get_logger()


class StreamErrors:
    """Errors (message 4) that hold the request id of a live subscription."""

    def __init__(self, line: GatewayLink, registry: SubscriptionRegistry, subscriber: Subscriber) -> None:
        self._line, self._registry, self._subscriber = line, registry, subscriber

    def react(self, sub: StreamSubscription, code: int, text: str) -> None:
        """An error about `sub`."""
        if code == codes.DEPTH_HALTED:
            self._line.tasks.spawn(self._subscriber.renew_later(sub, BACK_OFF_S))
        if code in subs.NOT_LIVE:
            what, sub.paused = subs.NOT_LIVE[code], code == codes.COMPETING_SESSION
            logger.warning("data not live", stream=str(sub.stream), symbol=sub.target.symbol, code=code, what=what)
        if subs.is_refusal(code):
            self._refused(sub, code, text)

    def _refused(self, sub: StreamSubscription, code: int, text: str) -> None:
        self._registry.refuse(sub.req_id, code)
        stream_notice(self._line.inbox, sub, Own.STREAM_REFUSED, f": {text}", value=code)
        logger.warning("stream refused", stream=str(sub.stream), symbol=sub.target.symbol, code=code, text=text)
        if subs.is_temporary(code, text):
            pauses = BACK_OFF_S if code == codes.RESUBSCRIBE else subs.PACING_S
            self._line.tasks.spawn(self._subscriber.ask_again(sub, pauses))
        elif code == codes.NO_MORE_DEPTH and sub.stream in subs.DEPTHS:
            self._subscriber.exhaust(subs.DEPTHS)
        elif code in codes.NO_MORE_TICK_BY_TICK and sub.stream in subs.TICK_BY_TICK:
            self._subscriber.exhaust(subs.TICK_BY_TICK)
        elif sub.stream is Stream.DEPTH:
            self._ask_other_depth(sub, code)

    def _ask_other_depth(self, sub: StreamSubscription, code: int) -> None:
        """Request the exchange's other name, else SMART depth, which needs another permission."""
        other = OTHER_NAMES.get(sub.params["exchange"])
        if code == codes.UNKNOWN_CONTRACT and other and sub.params["exchange"] == sub.target.primary_exchange:
            stream, params = Stream.DEPTH, {**sub.params, "exchange": other}
        else:
            stream, params = Stream.SMART_DEPTH, self._subscriber.plan.params(Stream.SMART_DEPTH, sub.target)
        self._line.tasks.spawn(self._subscriber.subscribe(stream, sub.target, params))


def stream_notice(inbox: Inbox, sub: StreamSubscription, code: Own, text: str, **row: Any) -> None:
    """Write a notice about one subscription: its stream and symbol, then `text`."""
    words = f"{sub.stream} of {sub.target.symbol}{text}"
    inbox.notice(code, words, {"stream": sub.stream.value}, con_id=sub.target.con_id, req_id=sub.req_id, **row)
