"""The requests a recorder sends. `Requester` logs each as a `request` row, then sends it through ib_async."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from harvester.events.kinds import Action, Kind, Stream
from harvester.gateway.connection import ConnectionLost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harvester.gateway.connection import Connection

# Alternative names of an exchange, mapped to one of them: to test whether two names mean the same exchange.
EXCHANGE_NAMES: dict[str, str] = {"NSDQ": "ISLAND", "NASDAQ": "ISLAND", "NMS": "ISLAND", "SCM": "ISLAND"}
OTHER_NAMES = {"NASDAQ": "ISLAND", "ISLAND": "NASDAQ"}
"""IB renamed ISLAND to NASDAQ in TWS 10.16; a compatibility setting of the gateway keeps the old name."""
_TICK_TYPES = {
    Stream.LAST: "Last",
    Stream.ALL_LAST: "AllLast",
    Stream.BID_ASK: "BidAsk",
    Stream.MID_POINT: "MidPoint",
}
BAR_SECONDS = 5


class RequestTarget(NamedTuple):
    """The instrument of a request; `con_id` is 0 until it has been looked up."""

    symbol: str
    con_id: int = 0
    sec_type: str = "STK"
    exchange: str = "SMART"
    primary_exchange: str = ""
    currency: str = "USD"


def params_text(params: Mapping[str, Any]) -> str:
    """The parameters as a JSON object with sorted keys."""
    return msgspec.json.encode(dict(sorted(params.items()))).decode()


class Requester:
    """Logs each request's row, then sends it through ib_async and the guard, which records the exact text.

    Every request raises `ConnectionLost`, and logs no row, when there is no connection.
    """

    def __init__(self, connection: Connection, put: Callable[[Kind, dict[str, Any]], None]) -> None:
        self._connection, self._client, self._put = connection, connection.client, put
        self.con_id, self.req_id = 0, -1  # of the message being sent

    def _send(  # noqa: PLR0917 - a row has these columns
        self,
        action: Action,
        stream: Stream,
        target: RequestTarget,
        req_id: int,
        params: Mapping[str, Any],
        send: Callable[[], None],
    ) -> None:
        if not self._connection.connected:
            raise ConnectionLost(f"no connection: {action} {stream} {target.symbol} was not sent")
        self._put(Kind.REQUEST, request_row(action, stream, target, req_id, params))
        self.con_id, self.req_id = target.con_id, req_id
        try:
            send()
        finally:
            self.con_id, self.req_id = 0, -1

    def contract_details(self, req_id: int, target: RequestTarget) -> None:
        params = {"exchange": target.exchange, "primary_exchange": target.primary_exchange, "currency": target.currency}
        contract = _contract(target)
        self._send(
            Action.ASK,
            Stream.CONTRACT,
            target,
            req_id,
            params,
            lambda: self._client.reqContractDetails(req_id, contract),
        )

    def history(self, req_id: int, target: RequestTarget, params: Mapping[str, Any]) -> None:
        """Request historical bars once; `params` holds bar_size, duration, end, format_date, rth and what."""
        contract, p = _contract(target), params
        self._send(
            Action.BACKFILL,
            Stream.HISTORY,
            target,
            req_id,
            params,
            lambda: self._client.reqHistoricalData(
                req_id,
                contract,
                p["end"],
                p["duration"],
                p["bar_size"],
                p["what"],
                p["rth"],
                p["format_date"],
                False,
                [],
            ),
        )

    def current_time(self) -> None:
        self._send(
            Action.ASK, Stream.OTHER, RequestTarget(""), -1, {"ask": "current_time"}, self._client.reqCurrentTime
        )

    def depth_exchanges(self) -> None:
        self._send(
            Action.ASK,
            Stream.OTHER,
            RequestTarget(""),
            -1,
            {"ask": "depth_exchanges"},
            self._client.reqMktDepthExchanges,
        )

    def market_data_type(self, value: int) -> None:
        params = {"ask": "market_data_type", "value": value}
        self._send(
            Action.ASK, Stream.OTHER, RequestTarget(""), -1, params, lambda: self._client.reqMarketDataType(value)
        )

    def subscribe(self, stream: Stream, target: RequestTarget, req_id: int, params: Mapping[str, Any]) -> None:
        """Subscribe to a stream of `target`; `params` as returned by `default_params`."""
        self._send(Action.SUBSCRIBE, stream, target, req_id, params, self._subscriber(stream, target, req_id, params))

    def _subscriber(
        self, stream: Stream, target: RequestTarget, req_id: int, params: Mapping[str, Any]
    ) -> Callable[[], None]:
        client, contract = self._client, _contract(target)
        if stream is Stream.L1:
            return lambda: client.reqMktData(req_id, contract, params["generic"], False, False, [])
        if stream in {Stream.DEPTH, Stream.SMART_DEPTH}:
            contract.exchange = params["exchange"]
            return lambda: client.reqMktDepth(req_id, contract, params["rows"], params["smart"], [])
        if stream is Stream.BARS_5S:
            return lambda: client.reqRealTimeBars(req_id, contract, BAR_SECONDS, params["what"], params["rth"], [])
        tick_type = _TICK_TYPES[stream]
        return lambda: client.reqTickByTickData(req_id, contract, tick_type, 0, False)

    def cancel(
        self,
        stream: Stream,
        target: RequestTarget,
        req_id: int,
        params: Mapping[str, Any],
        *,
        renewed: bool = False,
        again: bool = False,
    ) -> None:
        """End a subscription; `params` as in its `subscribe` (a wrong SMART depth flag gives error 310).

        `renewed`: the same is requested again at once, so for the folds its last quote stays in force.
        `again`: the same is requested again, so for the folds what is missing in between is a gap.
        """
        client = self._client
        if stream is Stream.L1:
            send: Callable[[], None] = lambda: client.cancelMktData(req_id)  # noqa: E731 - one of four alike
        elif stream in {Stream.DEPTH, Stream.SMART_DEPTH}:
            send = lambda: client.cancelMktDepth(req_id, params["smart"])  # noqa: E731 - one of four alike
        elif stream is Stream.BARS_5S:
            send = lambda: client.cancelRealTimeBars(req_id)  # noqa: E731 - one of four alike
        else:
            send = lambda: client.cancelTickByTickData(req_id)  # noqa: E731 - one of four alike
        logged = {**params, ("renewed" if renewed else "again"): True} if renewed or again else params
        self._send(Action.CANCEL, stream, target, req_id, logged, send)


def request_row(
    action: Action, stream: Stream, target: RequestTarget, req_id: int, params: Mapping[str, Any]
) -> dict[str, Any]:
    """The `request` row of one request."""
    return {
        "con_id": target.con_id,
        "req_id": req_id,
        "action": action.value,
        "stream": stream.value,
        "symbol": target.symbol or None,
        "params": params_text(params),
    }


def default_params(stream: Stream, target: RequestTarget, *, generic: str, rows: int) -> dict[str, Any]:
    """The parameters of a subscription.

    Direct depth is requested from the primary exchange by the gateway's name for it, SMART depth with its flag.
    """
    if stream is Stream.L1:
        return {"generic": generic}
    if stream is Stream.DEPTH:
        return {"exchange": target.primary_exchange or target.exchange, "rows": rows, "smart": False}
    if stream is Stream.SMART_DEPTH:
        return {"exchange": "SMART", "rows": rows, "smart": True}
    if stream is Stream.BARS_5S:
        return {"bar_size": f"{BAR_SECONDS} secs", "what": "TRADES", "rth": False}
    return {}


def _contract(target: RequestTarget) -> Any:
    from ib_async import Contract

    return Contract(
        secType=target.sec_type,
        conId=target.con_id,
        symbol=target.symbol,
        exchange=target.exchange,
        primaryExchange=target.primary_exchange,
        currency=target.currency,
    )
