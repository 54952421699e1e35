"""Find the contract of a request, and build its contract details (message 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.events.codes import UNKNOWN_CONTRACT
from harvester.wire import encode_messages
from harvester.wire.message_ids import REQ_ID_INDEX, In

if TYPE_CHECKING:
    from harvester.simgateway.markets.market_source import Instrument, MarketSource
    from harvester.wire.decode_requests import ContractSpec

NO_DEFINITION = (UNKNOWN_CONTRACT, "No security definition has been found for the request")

_ALIASES = {"NSDQ": "NASDAQ", "ISLAND": "NASDAQ", "NASDAQ.NMS": "NASDAQ", "NASDAQ.SCM": "NASDAQ", "BEST": "SMART"}


def exchange_name(text: str) -> str:
    """The canonical name of an exchange with several names: ISLAND and NSDQ give NASDAQ."""
    return _ALIASES.get(text, text)


def _places(instrument: Instrument) -> set[str]:
    """The exchanges of an instrument by canonical name."""
    own = ("SMART", instrument.exchange, instrument.primary_exchange, *instrument.venues, *instrument.depth_venues)
    return {exchange_name(place) for place in own}


def _matches(spec: ContractSpec, instrument: Instrument) -> bool:
    wanted = (
        (spec.symbol, {instrument.symbol}),
        (spec.local_symbol, {instrument.local_symbol or instrument.symbol}),
        (spec.sec_type, {instrument.sec_type}),
        (spec.currency, {instrument.currency}),
        (exchange_name(spec.exchange), _places(instrument)),
        (exchange_name(spec.primary_exchange), {exchange_name(instrument.primary_exchange)}),
    )
    return all(not given or given in allowed for given, allowed in wanted)


def find_contracts(market: MarketSource, spec: ContractSpec) -> list[Instrument]:
    """The instruments that match: by con_id if given, else by all other given fields."""
    if spec.con_id:
        return [i for i in market.instruments if i.con_id == spec.con_id]
    if not spec.symbol and not spec.local_symbol:
        return []
    return [i for i in market.instruments if _matches(spec, i)]


def find_contract(market: MarketSource, spec: ContractSpec) -> Instrument | None:
    """The instrument of a data request; None if none or several match."""
    found = find_contracts(market, spec)
    return found[0] if len(found) == 1 else None


def contract_details(market: MarketSource, instrument: Instrument, req_id: int, exchange: str) -> list[str]:
    """Message 10: as recorded if the source has the text, else built from the instrument.

    Its exchange is the requested one if the instrument trades there, as with IB.
    """
    asked = exchange if exchange_name(exchange) in _places(instrument) else ""
    recorded = market.contract_text(instrument.con_id)
    if recorded is not None:
        recorded = list(recorded)
        recorded[REQ_ID_INDEX[In.CONTRACT]] = str(req_id)
        if asked:
            recorded[encode_messages.contract_place("exchange")] = asked
        return recorded
    values: dict[str, encode_messages.Number] = {
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
    return encode_messages.contract(req_id, values)
