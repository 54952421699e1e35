"""What is answered to which message. `ANSWERS` is the list; what is missing there gets error 321.

Accounts, orders and positions are always empty, so that any client's connect comes to its end at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from harvester.events import codes
from harvester.events.kinds import Stream
from harvester.simgateway.faults import TEXTS
from harvester.simgateway.limits import Refusal
from harvester.simgateway.lookup import NO_DEFINITION, description, find
from harvester.simgateway.subscriptions import DEPTH_STREAMS
from harvester.units import SECOND_NS
from harvester.wire import answers
from harvester.wire.ids import UNSET_INT, In, Out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from harvester.simgateway.desk import Desk
    from harvester.simgateway.session import Session
    from harvester.wire.outgoing import ContractDetailsAsk, DepthCancel, Plain, Request

logger = structlog.get_logger()

CLIENT_ID_TAKEN = Refusal(
    codes.CLIENT_ID_IN_USE, "Unable to connect as the client id is already in use. Retry with a unique client id."
)
HISTORY_CANCELLED = "Historical Market Data Service error message:API historical data query cancelled: {}"
SCAN_CANCELLED = "Historical Market Data Service error message:API scanner subscription cancelled: {}"


def _argument(request: Plain, at: int) -> str:
    return request.args[at] if len(request.args) > at else ""


# ---- the connection ----


def _start_api(desk: Desk, session: Session, request: Plain) -> None:
    text = _argument(request, 0)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        session.error(-1, 321, f"Error validating request.-'bW' : cause - client id {text[:20]!r} is not a number")
        return
    if session.client_id is not None:
        session.error(-1, 321, f"Error validating request.-'bW' : cause - started already, as {session.client_id}")
        return
    client_id = int(text)
    if any(other.client_id == client_id for other in desk.sessions):
        session.error(-1, *CLIENT_ID_TAKEN)
        session.close(f"client id {client_id} is already in use")
        return
    session.client_id = client_id
    desk.sessions.append(session)
    session.send(answers.managed_accounts(desk.settings.accounts))
    session.send(answers.next_valid_id(1))
    for code in codes.FARM_OK:
        session.error(-1, code, TEXTS[code])
    logger.info("client connected", client_id=client_id, peer=f"{session.host}:{session.port}")


def _managed_accounts(desk: Desk, session: Session, _request: Plain) -> None:
    session.send(answers.managed_accounts(desk.settings.accounts))


def _current_time(desk: Desk, session: Session, _request: Plain) -> None:
    session.send(answers.current_time(desk.clock.wall() // SECOND_NS))


def _account_updates(desk: Desk, session: Session, request: Plain) -> None:
    """None to report, so the download ends at once; unsubscribing has no answer."""
    if _argument(request, 0).lower() in {"1", "true"}:
        account = _argument(request, 1) or desk.settings.accounts[0]
        session.send(answers.end(In.ACCOUNT_DOWNLOAD_END, None, account))


# ---- contracts and venues ----


def _contract(desk: Desk, session: Session, ask: ContractDetailsAsk) -> None:
    found = find(desk.market, ask.contract)
    symbol = found[0].symbol if found else ask.contract.symbol
    refused = desk.scripted_refusal(session, symbol, Stream.CONTRACT)
    if refused is not None or not found:
        session.error(ask.req_id, *(refused or NO_DEFINITION))
        return
    for instrument in found:
        fields = description(desk.market, instrument, ask.req_id, ask.contract.exchange)
        session.send(fields, instrument.symbol)
    session.send(answers.end(In.CONTRACT_END, ask.req_id), symbol)


def _matching_symbols(desk: Desk, session: Session, request: Plain) -> None:
    pattern = _argument(request, 0).upper()
    found = [i for i in desk.market.instruments if pattern and pattern in i.symbol.upper()]
    rows: list[str] = []
    for i in found:
        rows += [str(i.con_id), i.symbol, i.sec_type, i.primary_exchange, i.currency, "0", i.long_name, ""]
    session.send(["79", str(request.req_id), str(len(found)), *rows])


def _market_rule(_desk: Desk, session: Session, request: Plain) -> None:
    session.send(["93", _argument(request, 0) or "0", "1", "0", "0.01"])


def _depth_exchanges(desk: Desk, session: Session, _request: Plain) -> None:
    rows: dict[tuple[str, str, str, str, int], None] = {}
    for i in desk.market.instruments:
        if i.has_depth:
            rows |= dict.fromkeys((venue, i.sec_type, "", "Deep2", UNSET_INT) for venue in i.depth_venues)
        if i.has_smart_depth:
            rows["SMART", i.sec_type, "", "Deep", 1] = None
    session.send(answers.depth_exchanges(rows))


def _historical_ticks(_desk: Desk, session: Session, request: Plain) -> None:
    """No ticks of the past are kept; the answer is an empty, finished list of the kind asked for."""
    what = request.fields[18] if len(request.fields) > 18 else ""
    msg = {"TRADES": "98", "BID_ASK": "97"}.get(what, "96")
    session.send([msg, str(request.req_id), "0", "1"])


# ---- cancels ----


def _cancel_depth(desk: Desk, session: Session, request: DepthCancel) -> None:
    """The smart flag must be that of the request: 310 otherwise."""
    sub = session.subs.get(request.req_id)
    if sub is None or sub.stream not in DEPTH_STREAMS or request.smart != (sub.stream == Stream.SMART_DEPTH):
        session.error(request.req_id, 310, f"Can't find the subscribed market depth with tickerId:{request.req_id}")
        return
    desk.end(sub)


def _cancels(streams: Iterable[Stream], code: int, text: str) -> Callable[[Desk, Session, Request], None]:
    """End a subscription to one of `streams`; an error when the id has none."""
    kinds = frozenset(streams)

    def cancel(desk: Desk, session: Session, request: Request) -> None:
        sub = session.subs.get(request.req_id)
        if sub is None or sub.stream not in kinds:
            session.error(request.req_id, code, text.format(request.req_id))
            return
        desk.end(sub)
        if sub.stream == Stream.HISTORY:
            session.error(request.req_id, codes.HISTORY_ERROR, HISTORY_CANCELLED.format(request.req_id))
        elif sub.stream == Stream.SCANNER:
            session.error(request.req_id, codes.HISTORY_ERROR, SCAN_CANCELLED.format(request.req_id))

    return cancel


# ---- what is always the same ----


def _says(fields: Sequence[str]) -> Callable[[Desk, Session, Plain], None]:
    """Answer with a fixed message; `{req}` and `{account}` are filled in."""

    def answer(desk: Desk, session: Session, request: Plain) -> None:
        session.send([field.format(req=request.req_id, account=desk.settings.accounts[0]) for field in fields])

    return answer


def _nothing(_desk: Desk, _session: Session, _request: Request) -> None:
    """Some requests have no answer: nothing to report, or a switch nobody sees."""


_NO_EID = "Can't find EId with tickerId:{}"

ANSWERS: dict[Out, Callable[..., None]] = {
    Out.START_API: _start_api,
    Out.MANAGED_ACCOUNTS: _managed_accounts,
    Out.IDS: _says(answers.next_valid_id(1)),
    Out.CURRENT_TIME: _current_time,
    Out.CONTRACT: _contract,
    Out.MATCHING_SYMBOLS: _matching_symbols,
    Out.MARKET_RULE: _market_rule,
    Out.DEPTH_EXCHANGES: _depth_exchanges,
    Out.MARKET_DATA: lambda desk, session, ask: desk.feeds.market_data(session, ask),
    Out.DEPTH: lambda desk, session, ask: desk.feeds.depth(session, ask),
    Out.TICK_BY_TICK: lambda desk, session, ask: desk.feeds.tick_by_tick(session, ask),
    Out.REALTIME_BARS: lambda desk, session, ask: desk.feeds.realtime_bars(session, ask),
    Out.HISTORICAL_DATA: lambda desk, session, ask: desk.backfill.historical(session, ask),
    Out.HEAD_TIMESTAMP: lambda desk, session, ask: desk.backfill.head_timestamp(session, ask),
    Out.HISTORICAL_TICKS: _historical_ticks,
    Out.SCANNER: lambda desk, session, ask: desk.backfill.scanner(session, ask),
    Out.SCANNER_PARAMETERS: lambda desk, session, _ask: desk.backfill.parameters(session),
    Out.CANCEL_MARKET_DATA: _cancels((Stream.L1,), 300, _NO_EID),
    Out.CANCEL_DEPTH: _cancel_depth,
    Out.CANCEL_TICK_BY_TICK: _cancels((Stream.LAST, Stream.ALL_LAST, Stream.BID_ASK, Stream.MID_POINT), 300, _NO_EID),
    Out.CANCEL_REALTIME_BARS: _cancels((Stream.BARS_5S,), 300, _NO_EID),
    Out.CANCEL_HISTORICAL_DATA: _cancels((Stream.HISTORY,), 366, "No historical data query found for ticker id:{}"),
    Out.CANCEL_SCANNER: _cancels((Stream.SCANNER,), 365, "No scanner subscription found for ticker id:{}"),
    Out.OPEN_ORDERS: _says(answers.end(In.OPEN_ORDER_END)),
    Out.ALL_OPEN_ORDERS: _says(answers.end(In.OPEN_ORDER_END)),
    Out.COMPLETED_ORDERS: _says(answers.end(In.COMPLETED_ORDER_END)),
    Out.EXECUTIONS: _says(["55", "1", "{req}"]),
    Out.ACCOUNT_UPDATES: _account_updates,
    Out.ACCOUNT_SUMMARY: _says(["64", "1", "{req}"]),
    Out.ACCOUNT_UPDATES_MULTI: _says(["74", "1", "{req}"]),
    Out.POSITIONS: _says(answers.end(In.POSITION_END)),
    Out.POSITIONS_MULTI: _says(["72", "1", "{req}"]),
    Out.FAMILY_CODES: _says(["78", "1", "{account}", ""]),
    Out.SOFT_DOLLAR_TIERS: _says(["77", "{req}", "0"]),
    Out.SMART_COMPONENTS: _says(["82", "{req}", "0"]),
    Out.NEWS_PROVIDERS: _says(["85", "0"]),
    Out.OPTION_PARAMETERS: _says(["76", "{req}"]),
    Out.HISTOGRAM: _says(["89", "{req}", "0"]),
    Out.USER_INFO: _says(["107", "{req}", ""]),
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
        _nothing,
    ),
}
"""A client's message → what answers it, called with (desk, session, request)."""
