"""Books that are of no use although their subscription lives: the fold finds them, the recorder requests them again.

A book is of no use when the quote in force contradicts it for too long, or when a 317 emptied it and its rows do not
come. See `Book.unusable`. Where the quote has stopped and the book has not, it is the quote that is requested again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from harvester.events.kinds import Own, Stream
from harvester.recorder.stream_errors import stream_notice
from harvester.recorder.subscriptions import DEPTHS, REVIVAL_S
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.recorder.link import GatewayLink
    from harvester.recorder.subscriber import Subscriber
    from harvester.recorder.subscriptions import StreamSubscription, SubscriptionRegistry

logger = structlog.get_logger()

_FORGOTTEN_NS = 3600 * SECOND_NS  # pace time without such a book: the next pause is short again, and there is a notice
_FLOWS_NS = 3 * SECOND_NS


class UnusableBooks:
    """Call `judged` after every commit."""

    def __init__(self, line: GatewayLink, registry: SubscriptionRegistry, subscriber: Subscriber) -> None:
        self._line, self._registry, self._subscriber = line, registry, subscriber
        self._now: frozenset[int] = frozenset()  # request ids
        self._tries: dict[int, tuple[int, int]] = {}  # con_id: tries in a row, pace time of the last

    def judged(self, books: Sequence[tuple[int, int, bool]]) -> None:
        """The books of no use by the fold: (epoch, request id, contradicted)."""
        if not books and not self._now:
            return
        before, epoch = self._now, self._line.inbox.epoch
        self._now = frozenset(req_id for of, req_id, _ in books if of == epoch)
        for of, req_id, contradicted in books:
            sub = self._registry.live.get(req_id)
            if of == epoch and req_id not in before and sub is not None and sub.stream in DEPTHS:
                self._line.tasks.spawn(self._renew(sub, contradicted=contradicted))

    async def _renew(self, sub: StreamSubscription, *, contradicted: bool) -> None:
        con_id, pace = sub.target.con_id, self._line.pace
        tries, last = self._tries.get(con_id, (0, 0))
        if tries and pace.now() - last > _FORGOTTEN_NS:
            tries = 0
        self._tries[con_id] = tries + 1, pace.now()
        culprit = self._dead_quote(sub) if contradicted and tries % 2 == 0 else None
        if not tries:
            why = " is contradicted by the quote in force" if contradicted else " was reset and its rows do not come"
            quiet_ns = self._line.inbox.last_ts - max(sub.last_ts, sub.asked_ts)
            stream_notice(self._line.inbox, culprit or sub, Own.STREAM_SILENT, _text(why, culprit), value=quiet_ns)
            requested = str((culprit or sub).stream)
            logger.warning("book of no use", symbol=sub.target.symbol, why=why.strip(), requested=requested)
        await pace.pause(REVIVAL_S[min(tries, len(REVIVAL_S) - 1)])
        if sub.req_id in self._now:
            await self._subscriber.renew([culprit or sub])
        self._now -= {sub.req_id}  # if it is still of no use, the next commit tries again

    def _dead_quote(self, book: StreamSubscription) -> StreamSubscription | None:
        """The quote stream in force, if it has stopped while the book has not."""
        quotes = [sub for sub in self._registry.of(Stream.BID_ASK, Stream.L1) if sub.target == book.target and sub.rows]
        quote = max(quotes, key=lambda sub: sub.stream is Stream.BID_ASK, default=None)
        book_flows = self._line.inbox.last_ts - book.last_ts < _FLOWS_NS
        return quote if quote and book_flows and book.last_ts - quote.last_ts > 2 * _FLOWS_NS else None


def _text(why: str, culprit: StreamSubscription | None) -> str:
    return " has stopped: the book moves on and contradicts it" if culprit else why
