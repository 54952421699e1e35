"""Reactions to the gateway's errors about one subscription, by the table of codes (`codes.MEANINGS`).

Advice lets the stream go on. A refusal ends it, and the effect says when and how it is requested again. What an error
means never rests on rows that came after it: the rows before it are counted first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from harvester.events import codes
from harvester.events.codes import Effect
from harvester.events.kinds import Own, Stream
from harvester.gateway.data_requests import OTHER_NAMES
from harvester.recorder import subscriptions as subs
from harvester.recorder.link import BACK_OFF_S
from harvester.recorder.subscriptions import STEADY_NS, Doubt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.recorder.inbox import Inbox
    from harvester.recorder.link import GatewayLink
    from harvester.recorder.subscriber import Subscriber
    from harvester.recorder.subscriptions import StreamSubscription, SubscriptionRegistry

logger = structlog.get_logger()

_LASTING = {Effect.FINAL, Effect.NOW_AND_THEN, Effect.DOUBTFUL, Effect.ADVICE}


class StreamErrors:
    """Errors (message 4) that hold the request id of a live subscription."""

    def __init__(self, line: GatewayLink, registry: SubscriptionRegistry, subscriber: Subscriber) -> None:
        self._line, self._registry, self._subscriber = line, registry, subscriber
        self._logged: dict[tuple[int, Stream], int] = {}  # code of the last refusal of a stream without rows since

    def react(self, sub: StreamSubscription, code: int, text: str) -> None:
        """An error about `sub`, the last message in the inbox."""
        note_rows(self._line.inbox, self._registry, {sub.req_id: self._line.inbox.take_count_of(sub.req_id)})
        meaning = codes.meaning(code, text)
        if code == codes.DEPTH_HALTED:
            self._line.tasks.spawn(self._subscriber.renew_later(sub, BACK_OFF_S))
        elif code in subs.NOT_LIVE:
            what, sub.paused = subs.NOT_LIVE[code], code == codes.COMPETING_SESSION
            logger.warning("data not live", stream=str(sub.stream), symbol=sub.target.symbol, code=code, what=what)
        elif meaning.effect in {Effect.ADVICE, Effect.STATUS} or (meaning.effect is Effect.DOUBTFUL and sub.rows):
            self._advised(sub, code, text, may_end=meaning.held)
        else:
            self._refused(sub, code, text)

    def stopped(self, sub: StreamSubscription) -> bool:
        """A stream seems to have stopped; returns whether an error shortly before explains it: then it is refused."""
        doubt = sub.doubt
        if doubt is None or sub.last_ts - doubt.ts >= STEADY_NS:
            return False
        self._refused(sub, doubt.code, doubt.text)
        return True

    def _advised(self, sub: StreamSubscription, code: int, text: str, *, may_end: bool) -> None:
        if not may_end:
            return
        if sub.rows:
            self._logged.pop(sub.key, None)
        if (sub.doubt is None or sub.doubt.code != code) and self._logged.get(sub.key) != code:
            what = "advice, the stream goes on" if sub.rows else "advice, waiting for rows"
            logger.warning(what, **_named(sub), code=code, text=text)
        sub.doubt = Doubt(code, text, self._line.inbox.last_ts)

    def _refused(self, sub: StreamSubscription, code: int, text: str) -> None:
        sub.lasting = codes.meaning(code, text).effect in _LASTING
        self._registry.refuse(sub.req_id, code)
        stream_notice(self._line.inbox, sub, Own.STREAM_REFUSED, f": {text}", value=code)
        meaning = codes.meaning(code, text)
        again = self._next_move(sub, meaning, text)
        if not sub.rows and self._logged.get(sub.key) == code:
            logger.info("stream refused again", **_named(sub), code=code, next=again)
        else:
            logger.warning("stream refused", **_named(sub), code=code, text=text, next=again)
        self._logged[sub.key] = code

    def _next_move(self, sub: StreamSubscription, meaning: codes.Meaning, text: str) -> str:
        """Start what follows a refusal; returns it in words."""
        effect, held = meaning.effect, meaning.held or bool(sub.rows)
        soon = effect in {Effect.FOR_NOW, Effect.NEW_ID}
        lines = next((kind for kind in (subs.DEPTHS, subs.TICK_BY_TICK) if sub.stream in kind), ())
        if meaning.code == codes.BAD_REQUEST and sub.stream is Stream.L1 and effect is Effect.FINAL:
            move = self._ask_fewer_ticks(sub, text)
        elif effect is Effect.NO_LINE and lines:
            self._subscriber.exhaust(lines)
            move = "no line is free"
        elif effect is Effect.PACING:
            move = self._ask_slower(sub)
        elif sub.stream is Stream.DEPTH and not soon:
            move = self._ask_other_depth(sub, meaning)
        elif effect is Effect.FINAL:
            move = "none on this connection"
        else:
            if effect is Effect.NEW_ID and held:  # at once: the gateway may hold the old id and go on with it
                self._line.tasks.spawn(self._subscriber.disown(sub))
            move = self._ask_again(sub, BACK_OFF_S if soon else subs.NOW_AND_THEN_S, held=held)
        return move

    def _ask_again(self, sub: StreamSubscription, pauses: tuple[float, ...], *, held: bool) -> str:
        seconds = self._subscriber.pause_before(sub, pauses)
        self._line.tasks.spawn(self._subscriber.ask_again(sub, seconds, held=held, with_farm=True))
        return f"again in {seconds:g} s, or when a farm returns"

    def _ask_slower(self, sub: StreamSubscription) -> str:
        """Repeat after a pacing pause; what IB counts together with it waits as well."""
        seconds = self._subscriber.pause_before(sub, subs.PACING_S)
        if sub.stream is Stream.BARS_5S:
            self._line.limits.hold_histories(seconds)
        self._line.tasks.spawn(self._subscriber.ask_again(sub, seconds))
        return f"again in {seconds:g} s"

    def _ask_fewer_ticks(self, sub: StreamSubscription, text: str) -> str:
        """Request L1 without the generic ticks that the gateway does not accept."""
        generic = codes.fewer_generic_ticks(sub.params["generic"], text)
        if generic is None:
            return "none on this connection"
        if codes.legal_generic_ticks(text):  # true for every symbol; another text may be about this one
            self._subscriber.use_generic_ticks(generic)
        params = {**sub.params, "generic": generic}
        self._line.tasks.spawn(self._subscriber.subscribe(sub.stream, sub.target, params, again=True))
        return f"again with the generic ticks {generic or 'none'}"

    def _ask_other_depth(self, sub: StreamSubscription, meaning: codes.Meaning) -> str:
        """Request the exchange's other name, else SMART depth, which needs another permission."""
        other = OTHER_NAMES.get(sub.params["exchange"])
        if meaning.code == codes.UNKNOWN_CONTRACT and other and sub.params["exchange"] == sub.target.primary_exchange:
            stream, params = Stream.DEPTH, {**sub.params, "exchange": other}
        else:
            stream, params = Stream.SMART_DEPTH, self._subscriber.plan.params(Stream.SMART_DEPTH, sub.target)
        if meaning.held:
            self._line.tasks.spawn(self._subscriber.disown(sub))
        self._line.tasks.spawn(self._subscriber.subscribe(stream, sub.target, params))
        return f"{stream} of {params['exchange']}"


def note_rows(inbox: Inbox, registry: SubscriptionRegistry, counts: Mapping[int, int]) -> None:
    """Note rows that have arrived, by request id, and each stream they grant."""
    for sub in registry.received({req_id: rows for req_id, rows in counts.items() if rows}, inbox.last_ts):
        stream_notice(inbox, sub, Own.STREAM_GRANTED, " is granted")


def stream_notice(inbox: Inbox, sub: StreamSubscription, code: Own, text: str, **row: Any) -> None:
    """Write a notice about one subscription: its stream and symbol, then `text`."""
    words = f"{sub.stream} of {sub.target.symbol}{text}"
    inbox.notice(code, words, {"stream": sub.stream.value}, con_id=sub.target.con_id, req_id=sub.req_id, **row)


def _named(sub: StreamSubscription) -> dict[str, str]:
    return {"stream": str(sub.stream), "symbol": sub.target.symbol}
