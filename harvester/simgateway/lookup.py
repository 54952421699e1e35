"""Find the contract a client means, and describe it (message 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.events.codes import UNKNOWN_CONTRACT
from harvester.wire import answers
from harvester.wire.ids import REQ_ID_INDEX, In

if TYPE_CHECKING:
    from harvester.simgateway.market import Instrument, Market
    from harvester.wire.outgoing import ContractAsk

NO_DEFINITION = (UNKNOWN_CONTRACT, "No security definition has been found for the request")

_ALIASES = {"NSDQ": "NASDAQ", "ISLAND": "NASDAQ", "NASDAQ.NMS": "NASDAQ", "NASDAQ.SCM": "NASDAQ", "BEST": "SMART"}


def exchange_name(text: str) -> str:
    """One name for an exchange IB knows under several: ISLAND, NSDQ and NASDAQ are one."""
    return _ALIASES.get(text, text)


def _places(instrument: Instrument) -> set[str]:
    """Where an instrument trades, each exchange under its one name."""
    own = ("SMART", instrument.exchange, instrument.primary_exchange, *instrument.venues, *instrument.depth_venues)
    return {exchange_name(place) for place in own}


def _matches(ask: ContractAsk, instrument: Instrument) -> bool:
    wanted = (
        (ask.symbol, {instrument.symbol}),
        (ask.local_symbol, {instrument.local_symbol or instrument.symbol}),
        (ask.sec_type, {instrument.sec_type}),
        (ask.currency, {instrument.currency}),
        (exchange_name(ask.exchange), _places(instrument)),
        (exchange_name(ask.primary_exchange), {exchange_name(instrument.primary_exchange)}),
    )
    return all(not given or given in allowed for given, allowed in wanted)


def find(market: Market, ask: ContractAsk) -> list[Instrument]:
    """The instruments a client can mean: by con_id alone, else by every field that is given."""
    if ask.con_id:
        return [i for i in market.instruments if i.con_id == ask.con_id]
    if not ask.symbol and not ask.local_symbol:
        return []
    return [i for i in market.instruments if _matches(ask, i)]


def find_one(market: Market, ask: ContractAsk) -> Instrument | None:
    """The one instrument a data request names; None when there is none, or more than one."""
    found = find(market, ask)
    return found[0] if len(found) == 1 else None


def description(market: Market, instrument: Instrument, req_id: int, exchange: str) -> list[str]:
    """Message 10: as recorded where the source knows the text, else from the instrument.

    Its exchange is the one that was asked for, as IB's is, where the instrument trades there.
    """
    asked = exchange if exchange_name(exchange) in _places(instrument) else ""
    recorded = market.contract_text(instrument.con_id)
    if recorded is not None:
        recorded = list(recorded)
        recorded[REQ_ID_INDEX[In.CONTRACT]] = str(req_id)
        if asked:
            recorded[answers.contract_place("exchange")] = asked
        return recorded
    values: dict[str, answers.Number] = {
        "symbol": instrument.symbol,
        "sec_type": instrument.sec_type,
        "exchange": asked or instrument.exchange,
        "currency": instrument.currency,
        "local_symbol": instrument.local_symbol or instrument.symbol,
        "market_name": instrument.market_name or instrument.primary_exchange,
        "trading_class": instrument.trading_class or instrument.symbol,
        "con_id": instrument.con_id,
        "min_tick": instrument.min_tick,
        "valid_exchanges": ",".join(dict.fromkeys(("SMART", *instrument.venues, *instrument.depth_venues))),
        "long_name": instrument.long_name or instrument.symbol,
        "primary_exchange": instrument.primary_exchange,
        "industry": instrument.industry,
        "category": instrument.category,
        "subcategory": instrument.subcategory,
        "time_zone": instrument.time_zone,
        "trading_hours": instrument.trading_hours,
        "liquid_hours": instrument.liquid_hours,
        "stock_type": instrument.stock_type,
    }
    return answers.contract(req_id, values)
