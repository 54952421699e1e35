"""The handler of each client message, listed in `ANSWERS`; other messages get error 321.

Accounts, orders and positions are always empty, so the start-up requests of any client complete immediately.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from harvester.events import codes
from harvester.events.kinds import Stream
from harvester.events.unset import UNSET_INT
from harvester.simgateway.contract_lookup import NO_DEFINITION, contract_details, find_contracts
from harvester.simgateway.fault_script import TEXTS
from harvester.simgateway.history_and_scanner import HistoryAndScanner
from harvester.simgateway.limits import Refusal
from harvester.simgateway.markets.market_source import DEPTH_STREAMS
from harvester.simgateway.stream_requests import StreamRequests
from harvester.units import SECOND_NS
from harvester.wire import encode_messages
from harvester.wire.message_ids import In, Out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from harvester.simgateway.client_session import ClientSession
    from harvester.simgateway.gateway_state import GatewayState
    from harvester.wire.decode_requests import ContractDetailsRequest, DepthCancelRequest, PlainRequest, Request

logger = structlog.get_logger()

CLIENT_ID_TAKEN = Refusal(
    codes.CLIENT_ID_IN_USE, "Unable to connect as the client id is already in use. Retry with a unique client id."
)
HISTORY_CANCELLED = "Historical Market Data Service error message:API historical data query cancelled: {}"
SCAN_CANCELLED = "Historical Market Data Service error message:API scanner subscription cancelled: {}"


def _argument(request: PlainRequest, at: int) -> str:
    return request.args[at] if len(request.args) > at else ""


# ---- the connection ----


def _start_api(state: GatewayState, session: ClientSession, request: PlainRequest) -> None:
    text = _argument(request, 0)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        session.invalid(-1, f"client id {text[:20]!r} is not a number")
        return
    if session.client_id is not None:
        session.invalid(-1, f"already started as {session.client_id}")
        return
    client_id = int(text)
    if any(other.client_id == client_id for other in state.sessions):
        session.error(-1, *CLIENT_ID_TAKEN)
        session.close(f"client id {client_id} is already in use")
        return
    session.client_id = client_id
    state.sessions.append(session)
    session.error(-1, codes.SIMULATED, codes.announcement(*state.source))  # before the client is ready for requests
    session.send(encode_messages.managed_accounts(state.settings.accounts))
    session.send(encode_messages.next_valid_id(1))
    for code in codes.FARM_OK:
        session.error(-1, code, TEXTS[code])
    logger.info("client connected", client_id=client_id, peer=f"{session.host}:{session.port}")


def _managed_accounts(state: GatewayState, session: ClientSession, _request: PlainRequest) -> None:
    session.send(encode_messages.managed_accounts(state.settings.accounts))


def _current_time(state: GatewayState, session: ClientSession, _request: PlainRequest) -> None:
    if state.swallows(session, "", Stream.OTHER):
        return
    session.send(encode_messages.current_time(state.clock.wall() // SECOND_NS))


def _account_updates(state: GatewayState, session: ClientSession, request: PlainRequest) -> None:
    """Accounts are empty, so the download ends immediately; unsubscribing has no answer."""
    if _argument(request, 0).lower() in {"1", "true"}:
        account = _argument(request, 1) or state.settings.accounts[0]
        session.send(encode_messages.end(In.ACCOUNT_DOWNLOAD_END, None, account))


# ---- contracts and venues ----


def _contract(state: GatewayState, session: ClientSession, request: ContractDetailsRequest) -> None:
    found = find_contracts(state.market, request.contract)
    symbol = found[0].symbol if found else request.contract.symbol
    if state.swallows(session, symbol, Stream.CONTRACT):
        return
    refused = state.scripted_refusal(session, symbol, Stream.CONTRACT)
    if refused is not None or not found:
        session.error(request.req_id, *(refused or NO_DEFINITION))
        return
    for instrument in found:
        fields = contract_details(state.market, instrument, request.req_id, request.contract.exchange)
        session.send(fields, instrument.symbol)
    session.send(encode_messages.end(In.CONTRACT_END, request.req_id), symbol)


def _matching_symbols(state: GatewayState, session: ClientSession, request: PlainRequest) -> None:
    pattern = _argument(request, 0).upper()
    found = [i for i in state.market.instruments if pattern and pattern in i.symbol.upper()]
    rows: list[str] = []
    for i in found:
        rows += [str(i.con_id), i.symbol, i.sec_type, i.primary_exchange, i.currency, "0", i.long_name, ""]
    session.send(["79", str(request.req_id), str(len(found)), *rows])


def _market_rule(_state: GatewayState, session: ClientSession, request: PlainRequest) -> None:
    session.send(["93", _argument(request, 0) or "0", "1", "0", "0.01"])


def _depth_exchanges(state: GatewayState, session: ClientSession, _request: PlainRequest) -> None:
    rows: dict[tuple[str, str, str, str, int], None] = {}
    for i in state.market.instruments:
        if i.has_depth:
            rows |= dict.fromkeys((venue, i.sec_type, "", "Deep2", UNSET_INT) for venue in i.depth_venues)
        if i.has_smart_depth:
            rows["SMART", i.sec_type, "", "Deep", 1] = None
    session.send(encode_messages.depth_exchanges(rows))


# ---- cancels ----


def _cancel_depth(state: GatewayState, session: ClientSession, request: DepthCancelRequest) -> None:
    """Cancel depth; a smart flag that differs from the request gives error 310."""
    sub = state.registry.get(session, request.req_id)
    if sub is None or sub.stream not in DEPTH_STREAMS or request.smart != (sub.stream == Stream.SMART_DEPTH):
        session.error(request.req_id, 310, f"Can't find the subscribed market depth with tickerId:{request.req_id}")
        return
    state.registry.remove(sub)


def _cancels(streams: Iterable[Stream], code: int, text: str) -> Callable[[GatewayState, ClientSession, Request], None]:
    """A handler that ends a subscription to one of `streams`, or sends an error if there is none."""
    kinds = frozenset(streams)

    def cancel(state: GatewayState, session: ClientSession, request: Request) -> None:
        sub = state.registry.get(session, request.req_id)
        if sub is None or sub.stream not in kinds:
            session.error(request.req_id, code, text.format(request.req_id))
            return
        state.registry.remove(sub)
        if sub.stream == Stream.HISTORY:
            session.error(request.req_id, codes.HISTORY_ERROR, HISTORY_CANCELLED.format(request.req_id))
        elif sub.stream == Stream.SCANNER:
            session.error(request.req_id, codes.HISTORY_ERROR, SCAN_CANCELLED.format(request.req_id))

    return cancel


# ---- constant answers ----


def _constant(fields: Sequence[str]) -> Callable[[GatewayState, ClientSession, PlainRequest], None]:
    """A handler that sends a fixed message with `{req}` and `{account}` replaced."""

    def answer(state: GatewayState, session: ClientSession, request: PlainRequest) -> None:
        session.send([field.format(req=request.req_id, account=state.settings.accounts[0]) for field in fields])

    return answer


def _no_answer(_state: GatewayState, _session: ClientSession, _request: Request) -> None:
    """No answer: there is nothing to report, or the setting has no effect here."""


_UNKNOWN_ID = "Can't find EId with tickerId:{}"

ANSWERS: dict[Out, Callable[..., None]] = {
    Out.START_API: _start_api,
    Out.MANAGED_ACCOUNTS: _managed_accounts,
    Out.IDS: _constant(encode_messages.next_valid_id(1)),
    Out.CURRENT_TIME: _current_time,
    Out.CONTRACT: _contract,
    Out.MATCHING_SYMBOLS: _matching_symbols,
    Out.MARKET_RULE: _market_rule,
    Out.DEPTH_EXCHANGES: _depth_exchanges,
    Out.MARKET_DATA: lambda state, session, request: StreamRequests(state).market_data(session, request),
    Out.DEPTH: lambda state, session, request: StreamRequests(state).depth(session, request),
    Out.TICK_BY_TICK: lambda state, session, request: StreamRequests(state).tick_by_tick(session, request),
    Out.REALTIME_BARS: lambda state, session, request: StreamRequests(state).realtime_bars(session, request),
    Out.HISTORICAL_DATA: lambda state, session, request: HistoryAndScanner(state).historical(session, request),
    Out.HEAD_TIMESTAMP: lambda state, session, request: HistoryAndScanner(state).head_timestamp(session, request),
    Out.HISTORICAL_TICKS: lambda state, session, request: HistoryAndScanner(state).ticks(session, request),
    Out.SCANNER: lambda state, session, request: HistoryAndScanner(state).scanner(session, request),
    Out.SCANNER_PARAMETERS: lambda state, session, _request: HistoryAndScanner(state).parameters(session),
    Out.CANCEL_MARKET_DATA: _cancels((Stream.L1,), 300, _UNKNOWN_ID),
    Out.CANCEL_DEPTH: _cancel_depth,
    Out.CANCEL_TICK_BY_TICK: _cancels(
        (Stream.LAST, Stream.ALL_LAST, Stream.BID_ASK, Stream.MID_POINT), 300, _UNKNOWN_ID
    ),
    Out.CANCEL_REALTIME_BARS: _cancels((Stream.BARS_5S,), 300, _UNKNOWN_ID),
    Out.CANCEL_HISTORICAL_DATA: _cancels((Stream.HISTORY,), 366, "No historical data query found for ticker id:{}"),
    Out.CANCEL_SCANNER: _cancels((Stream.SCANNER,), 365, "No scanner subscription found for ticker id:{}"),
    Out.OPEN_ORDERS: _constant(encode_messages.end(In.OPEN_ORDER_END)),
    Out.ALL_OPEN_ORDERS: _constant(encode_messages.end(In.OPEN_ORDER_END)),
    Out.COMPLETED_ORDERS: _constant(encode_messages.end(In.COMPLETED_ORDER_END)),
    Out.EXECUTIONS: _constant(["55", "1", "{req}"]),
    Out.ACCOUNT_UPDATES: _account_updates,
    Out.ACCOUNT_SUMMARY: _constant(["64", "1", "{req}"]),
    Out.ACCOUNT_UPDATES_MULTI: _constant(["74", "1", "{req}"]),
    Out.POSITIONS: _constant(encode_messages.end(In.POSITION_END)),
    Out.POSITIONS_MULTI: _constant(["72", "1", "{req}"]),
    Out.FAMILY_CODES: _constant(["78", "1", "{account}", ""]),
    Out.SOFT_DOLLAR_TIERS: _constant(["77", "{req}", "0"]),
    Out.SMART_COMPONENTS: _constant(["82", "{req}", "0"]),
    Out.NEWS_PROVIDERS: _constant(["85", "0"]),
    Out.OPTION_PARAMETERS: _constant(["76", "{req}"]),
    Out.HISTOGRAM: _constant(["89", "{req}", "0"]),
    Out.USER_INFO: _constant(["107", "{req}", ""]),
    **dict.fromkeys(
        (
            Out.MARKET_DATA_TYPE,
            Out.SERVER_LOG_LEVEL,
            Out.AUTO_OPEN_ORDERS,
            Out.NEWS_BULLETINS,
            Out.CANCEL_NEWS_BULLETINS,
            Out.CANCEL_POSITIONS,
            Out.CANCEL_POSITIONS_MULTI,
            Out.CANCEL_ACCOUNT_SUMMARY,
            Out.CANCEL_ACCOUNT_UPDATES_MULTI,
            Out.CANCEL_HEAD_TIMESTAMP,
            Out.CANCEL_HISTOGRAM,
            Out.PNL,
            Out.CANCEL_PNL,
            Out.PNL_SINGLE,
            Out.CANCEL_PNL_SINGLE,
        ),
        _no_answer,
    ),
}
"""Client message → its handler, called with (state, session, request)."""
