"""Build the output of `hv book`: the order book of one symbol at one point of the day, by rows and by price."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harvester.calendar import iso
from harvester.errors import UnknownSymbol
from harvester.events.kinds import Side, Stream
from harvester.projections.market.market import STREAMS

if TYPE_CHECKING:
    from harvester.projections.engine import Engine

DEPTH = (Stream.SMART_DEPTH, Stream.DEPTH)


def look(engine: Engine, symbol: str, stream: Stream | None = None) -> dict[str, Any]:
    """The view as JSON-ready builtins: position, current quote, book state, rows and ladder of each side.

    `state` is null when no book is subscribed at that point; rows and ladder are then empty, as while it is unknown.

    Raises:
        UnknownSymbol: the symbol was not subscribed yet.
    """
    con_id = _con_id(engine, symbol)
    quote = engine.quotes.quote(con_id)
    state = engine.book.state(con_id, stream)
    used = stream if state is None else state.stream
    view: dict[str, Any] = {
        "symbol": symbol,
        "con_id": con_id,
        "seq": engine.through_seq,
        "ts": iso(engine.through_ts),
        "quote": None if quote is None else dict(zip(quote._fields[2:], quote[2:], strict=True)),
        "state": None if state is None else dict(zip(state._fields[1:], state[1:], strict=True)),
    }
    for side in (Side.BID, Side.ASK):
        rows = engine.book.rows(con_id, side, used)
        levels = engine.book.ladder(con_id, side, used)
        view[side.name.lower()] = {
            "rows": [dict(zip(row._fields, row, strict=True)) for row in rows],
            "ladder": [
                {"price": level.price, "size": level.size, "makers": [list(maker) for maker in level.makers]}
                for level in levels
            ],
        }
    return view


def last_market(engine: Engine, con_id: int, stream: Stream | None = None) -> int | None:
    """The last time (ns UTC) at which a book of an instrument that received data was subscribed.

    For an instrument without a book, the last time at which any stream was. None when no stream was subscribed, or when
    one still is.
    """
    slots = [slot for slot in engine.market.subscriptions() if slot["con_id"] == con_id and slot["rows"]]
    wanted = DEPTH if stream is None else (stream,)
    books = [slot for slot in slots if STREAMS[slot["stream"]] in wanted] or slots
    ends = [slot["closed"] for slot in books]
    return max(ends) - 1 if ends and all(ends) else None


def books_of(engine: Engine, con_id: int) -> list[tuple[Stream, int, int]]:
    """(stream, first row, end) of every book of an instrument that received data so far; times ns UTC, in order."""
    slots = [slot for slot in engine.market.subscriptions() if slot["con_id"] == con_id and slot["rows"]]
    spans = [(STREAMS[slot["stream"]], slot["first_ts"], slot["closed"] or engine.through_ts) for slot in slots]
    return [span for span in spans if span[0] in DEPTH]


def _con_id(engine: Engine, symbol: str) -> int:
    """The instrument of a symbol; if several have it, one with a book, else the first subscribed."""
    known = {int(engine.market.state.inst[k]["con_id"]): name for k, name in enumerate(engine.market.symbols)}
    con_ids = [con_id for con_id, name in known.items() if name == symbol]
    if not con_ids:
        names = ", ".join(sorted(set(known.values()))) or "none"
        raise UnknownSymbol(f"{symbol!r} was not subscribed yet at seq {engine.through_seq} (subscribed: {names})")
    return next((con_id for con_id in con_ids if engine.book.state(con_id) is not None), con_ids[0])
