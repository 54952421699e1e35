"""Carry out the faults of a script at their market times."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, Any

import structlog

from harvester.events import codes
from harvester.events.kinds import Stream
from harvester.events.unset import LOSSY_MARKERS, UNSET_DOUBLE, UNSET_INT
from harvester.simgateway.fault_script import LATER_REQUESTS, SUBSCRIPTIONS, TEXTS, Fault
from harvester.simgateway.ib_time_text import parse_seconds
from harvester.simgateway.limits import Refusal, ScriptedError
from harvester.simgateway.markets.market_source import DEPTH_STREAMS
from harvester.units import SECOND_NS
from harvester.wire import encode_messages
from harvester.wire.framing import frame_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from harvester.simgateway.client_session import ClientSession
    from harvester.simgateway.client_subscriptions import ClientSubscription
    from harvester.simgateway.gateway_state import GatewayState
    from harvester.simgateway.market_pump import Timers

logger = structlog.get_logger()

_ENDS_STREAM = frozenset({
    codes.UNKNOWN_CONTRACT, codes.BAD_REQUEST, codes.DEPTH_HALTED, codes.NOT_SUBSCRIBED, codes.NO_DELAYED_DATA,
    codes.COMPETING_SESSION, codes.LIVE_UPDATES_FAILED, codes.NO_MORE_MARKET_DATA, codes.NOT_PROCESSED,
    codes.BAD_BARS_REQUEST, codes.NO_TICK_BY_TICK, codes.NO_MORE_TICK_BY_TICK,
})  # fmt: skip
_DELAYED_TYPE = 3

IMPOSSIBLE: tuple[tuple[encode_messages.Number, ...], ...] = (
    (99, 0, 1, 10.0, 100),  # insert far past the end
    (50, 1, 0, 10.0, 100),  # update of a missing row
    (31, 2, 1, 0, 0),  # delete of a missing row
    (-1, 0, 1, 10.0, 100),  # negative position
    (UNSET_INT, 1, 1, 10.0, 100),
    (0, 7, 1, 10.0, 100),  # unknown operation
    (0, -1, 0, 10.0, 100),
    (0, 1, 5, 10.0, 100),  # unknown side
    (0, 1, 1, UNSET_DOUBLE, 100),
    (0, 1, 0, -1, -100),
    (0, 1, 1, 0, 0),
    (0, 1, 0, 1e300, 1e300),
)
"""The operations `impossible` sends: position, operation, side, price, size."""


UNSET_TEXTS = (str(UNSET_INT), *LOSSY_MARKERS)
"""Markers that `unset` sends as sizes."""


class FaultActions:
    """The script's actions.

    `close_port(seconds)` closes the listening socket for that market time; `move_port(port)` listens on another port,
    0 for a free one, and returns it.
    """

    def __init__(
        self, state: GatewayState, timers: Timers, close_port: Callable[[float], None], move_port: Callable[[int], int]
    ) -> None:
        self._state, self._timers, self._close_port, self._move_port = state, timers, close_port, move_port
        self._random = random.Random(state.settings.seed)  # noqa: S311 - test noise, reproducible by seed

    def arm(self, start_ns: int) -> None:
        """Schedule all faults; those about later requests that begin with the market take effect at once."""
        for fault in self._state.settings.faults.faults:
            at_ns = fault.at_ns(start_ns)
            if fault.action in LATER_REQUESTS and at_ns <= start_ns:
                self._action(fault)(at_ns)
            else:
                self._timers.at(at_ns, self._action(fault))

    def _action(self, fault: Fault) -> Callable[[int], None]:
        def do(ts: int) -> None:
            affected = self.do(fault)
            fact: dict[str, Any] = {"line": fault.line, "ts": ts, "action": fault.action, "who": fault.who}
            self._state.report.faults.append({**fact, "args": list(fault.args), "touched": affected})
            logger.info("fault", line=fault.line, action=fault.action, who=fault.who, touched=affected)

        return do

    def do(self, fault: Fault) -> int:
        """Carry out one fault now; returns the number of affected clients or subscriptions."""
        if fault.action == "closed":
            self._close_port(parse_seconds(fault.args[0]))
            return 1
        if fault.action == "history":
            self._state.bad_history = fault.args[0]
            return 1
        if fault.action in LATER_REQUESTS:
            return self._later_requests(fault)
        if fault.action == "port":
            return self._port(fault)
        on_subs: dict[str, Callable[[Fault, ClientSubscription], None]] = {
            "error": self._error_sub,
            "silence": self._silence_sub,
            "dead": self._dead,
            "message": self._message_sub,
            "depth": self._depth,
            "impossible": self._impossible,
            "unset": self._unset,
            "tick": self._tick,
        }
        if fault.action in on_subs and (fault.symbol is not None or fault.action in SUBSCRIPTIONS):
            subs = self._subs(fault)
            for sub in subs:
                on_subs[fault.action](fault, sub)
            return len(subs)
        sessions = self._sessions(fault)
        for session in sessions:
            getattr(self, f"_{fault.action}")(fault, session)
        return len(sessions)

    def _sessions(self, fault: Fault) -> list[ClientSession]:
        """The affected clients; a symbol selects its subscribers."""
        if fault.symbol is not None:
            return list(dict.fromkeys(sub.session for sub in self._subs(fault)))
        return [s for s in self._state.sessions if fault.client_id in {None, s.client_id}]

    def _subs(self, fault: Fault) -> list[ClientSubscription]:
        wanted = {None: None, Stream.DEPTH: DEPTH_STREAMS}.get(fault.stream, frozenset({fault.stream}))
        subs = [s for s in self._state.registry if fault.symbol in {None, s.symbol}]
        return [s for s in subs if wanted is None or s.stream in wanted]

    # ---- to clients ----

    def _error(self, fault: Fault, session: ClientSession) -> None:
        code, text = _code_text(fault)
        session.error(-1, code, text)
        session.may_be_muted = True
        if code == codes.CONNECTION_LOST:
            session.offline = True
        elif code in {codes.RESTORED_DATA_KEPT, codes.RESTORED_DATA_LOST}:
            session.offline = False
            for sub in self._state.registry.of(session) if code == codes.RESTORED_DATA_LOST else ():
                self._state.registry.remove(sub)

    def _drop(self, _fault: Fault, session: ClientSession) -> None:
        session.close("dropped by the fault script")

    def _silence(self, fault: Fault, session: ClientSession) -> None:
        session.may_be_muted = True
        session.silent_until = self._state.clock.now() + int(parse_seconds(fault.args[0]) * SECOND_NS)

    def _split(self, fault: Fault, session: ClientSession) -> None:
        session.split_max = int(fault.args[0])

    def _packets(self, fault: Fault, session: ClientSession) -> None:
        session.one_per_packet = fault.args[0] == "one"

    def _coalesce(self, fault: Fault, session: ClientSession) -> None:
        session.coalesce_bytes = int(fault.args[0]) * 1024

    def _message(self, fault: Fault, session: ClientSession) -> None:
        session.send([arg.replace("{req}", "-1") for arg in fault.args])

    def _garbage(self, fault: Fault, session: ClientSession) -> None:
        data = {
            "length": struct.pack(">I", 0xFFFFFFFF) + b"4\x00",
            "zero": struct.pack(">I", 0),
            "text": frame_bytes(b"4\x002\x00-1\x002104\x00caf\xe9 \xff\xfe\x00\x00"),
            "noise": self._random.randbytes(64),
        }[fault.args[0]]
        self._state.report.raw_bytes += len(data)
        session.queue(data)

    def _port(self, fault: Fault) -> int:
        """Listen on another port, announce it and close every connection."""
        port = self._move_port(int(fault.args[0]) if fault.args else 0)
        sessions = self._sessions(fault)
        for session in sessions:
            session.error(-1, codes.PORT_CHANGED, TEXTS[codes.PORT_CHANGED].format(port=port))
            session.close("the port has changed")
        return len(sessions)

    def _later_requests(self, fault: Fault) -> int:
        """Set what later requests get: a refusal, advice, or no answer; code or count 0 ends it."""
        place = (fault.client_id, fault.symbol or "", fault.stream)
        if fault.action == "swallow":
            self._state.swallowed[place] = int(fault.args[0])
            return 1
        errors = self._state.refusals if fault.action == "refuse" else self._state.advice[fault.args[0]]
        code, text = _code_text(fault)
        if code:
            count = fault.error_args[0].partition(":")[2]
            errors[place] = ScriptedError(Refusal(code, text), int(count) if count else None)
        else:
            errors.pop(place, None)
        return 1

    # ---- to subscriptions ----

    def _error_sub(self, fault: Fault, sub: ClientSubscription) -> None:
        """316 and 317 apply only to depth; after 317 the book is sent again, after 10167 the delayed data type.

        After 10225 the gateway holds the stream: without a cancel it goes on beside the next subscription to the same.
        """
        code, text = _code_text(fault)
        if code in {codes.DEPTH_HALTED, codes.DEPTH_RESET} and sub.stream not in DEPTH_STREAMS:
            return
        sub.deliver([encode_messages.error(sub.req_id, code, text)])
        if code == codes.DEPTH_RESET:
            sub.deliver(self._state.market.snapshot(sub.con_id, sub.stream))
        elif code == codes.DELAYED_DATA:
            sub.session.send(encode_messages.market_data_type(sub.req_id, _DELAYED_TYPE), sub.symbol)
        elif code == codes.RESUBSCRIBE:
            sub.held = sub.session.may_be_muted = True
        elif code in _ENDS_STREAM:
            self._state.registry.remove(sub)

    def _silence_sub(self, fault: Fault, sub: ClientSubscription) -> None:
        sub.session.may_be_muted = True
        sub.silent_until = self._state.clock.now() + int(parse_seconds(fault.args[0]) * SECOND_NS)

    def _dead(self, _fault: Fault, sub: ClientSubscription) -> None:
        sub.session.may_be_muted = True
        sub.silent_until = self._state.market.end_ns + 86_400 * SECOND_NS

    def _message_sub(self, fault: Fault, sub: ClientSubscription) -> None:
        sub.session.send([arg.replace("{req}", str(sub.req_id)) for arg in fault.args], sub.symbol)

    def _depth(self, fault: Fault, sub: ClientSubscription) -> None:
        maker = fault.args[5] if len(fault.args) > 5 else ""
        self._row(sub, fault.args[:5], maker)

    def _impossible(self, _fault: Fault, sub: ClientSubscription) -> None:
        for row in IMPOSSIBLE:
            self._row(sub, row, "")

    def _row(self, sub: ClientSubscription, row: tuple[encode_messages.Number, ...], maker: str) -> None:
        """Send a depth operation directly to the client, without its depth cut."""
        if sub.stream not in DEPTH_STREAMS:
            return
        position, operation, side, price, size = row
        if sub.stream == Stream.SMART_DEPTH or maker:
            smart = int(sub.stream == Stream.SMART_DEPTH)
            fields = encode_messages.depth_l2(sub.req_id, position, maker, operation, side, price, size, smart)
        else:
            fields = encode_messages.depth(sub.req_id, position, operation, side, price, size)
        sub.session.send(fields, sub.symbol)

    def _tick(self, fault: Fault, sub: ClientSubscription) -> None:
        if sub.stream == Stream.L1:
            sub.session.send(
                encode_messages.tick_price(sub.req_id, int(fault.args[0]), fault.args[1], 1, 0), sub.symbol
            )

    def _unset(self, _fault: Fault, sub: ClientSubscription) -> None:
        for fields in _UNSET[sub.stream](sub.req_id) if sub.stream in _UNSET else ():
            sub.session.send(fields, sub.symbol)


def _code_text(fault: Fault) -> tuple[int, str]:
    first, *text = fault.error_args
    code = int(first.partition(":")[0])
    return code, " ".join(text) or TEXTS.get(code, "")


_UNSET: dict[Stream, Callable[[int], list[list[str]]]] = {
    Stream.L1: lambda req: [
        *(encode_messages.tick_price(req, field, UNSET_DOUBLE, UNSET_INT, 0) for field in (1, 2, 4)),
        encode_messages.tick_price(req, 1, -1, 0, 0),
        encode_messages.tick_size(req, 8, None),
        *(encode_messages.tick_size(req, field, text) for text in UNSET_TEXTS for field in (0, 3, 8)),
    ],
    Stream.DEPTH: lambda req: [encode_messages.depth(req, 0, 1, 1, UNSET_DOUBLE, UNSET_INT)],
    Stream.SMART_DEPTH: lambda req: [encode_messages.depth_l2(req, 0, "", 1, 1, UNSET_DOUBLE, UNSET_INT, 1)],
    Stream.LAST: lambda req: [encode_messages.trade(req, 1, 0, UNSET_DOUBLE, UNSET_INT, UNSET_INT, "", "")],
    Stream.ALL_LAST: lambda req: [
        encode_messages.trade(req, 2, 0, UNSET_DOUBLE, UNSET_INT, UNSET_INT, "", ""),
        *(encode_messages.trade(req, 2, 0, 10.0, text, 0, "", "") for text in UNSET_TEXTS),
    ],
    Stream.BID_ASK: lambda req: [
        encode_messages.quote(req, 0, UNSET_DOUBLE, UNSET_DOUBLE, -1, UNSET_INT, 0),
        *(encode_messages.quote(req, 0, 10.0, 10.01, text, text, 0) for text in UNSET_TEXTS),
    ],
    Stream.MID_POINT: lambda req: [encode_messages.mid_point(req, 0, UNSET_DOUBLE)],
    Stream.BARS_5S: lambda req: [encode_messages.realtime_bar(req, 0, (*[UNSET_DOUBLE] * 4, -1, UNSET_DOUBLE, -1))],
}
"""Per stream, messages with IB's unset markers, -1 and empty fields instead of numbers."""
