"""The events of the log behind a simulated fill: the quote or print in force at its seq, and the rows that made it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from harvester.events.kinds import Kind, TickStream
from harvester.replay.seek import Seeker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pyarrow as pa

    from harvester.eventlog.reader import Day
    from harvester.home import Home

TICKS = {"bid": (1, 66), "bid_size": (0, 69), "ask": (2, 67), "ask_size": (3, 70)}
"""IB's tick types, live and delayed; a price comes with its size (TWS API, `TickTypes` and `tickPrice`)."""
_WINDOW, _WIDER = 20_000, 8  # events read backwards, and how many times more when nothing was found
_SHOWN: Mapping[Kind, tuple[str, ...]] = {
    Kind.QUOTE: ("bid", "bid_size", "ask", "ask_size"),
    Kind.TICK: ("field", "price", "size"),
    Kind.TRADE: ("price", "size", "exchange", "conditions", "past_limit", "unreported"),
    Kind.DEPTH: ("position", "operation", "side", "price", "size", "market_maker"),
}


class EventsBehind:
    """Looks up what stood in the log at a seq; the first look folds the market of the day up to there, as `hv book`."""

    def __init__(self, home: Home, day: Day) -> None:
        self._day, self._seeker = day, Seeker(home, day)

    def at(self, con_id: int, seq: int) -> dict[str, Any]:
        """The state after event `seq`.

        Returns:
            `quote`: source, bid, ask, bid_size, ask_size (USD, shares; null without one); `rows`: the newest rows of
            the instrument, up to seq, that its numbers come from, each with seq, ts (ns UTC), kind and content.
        """
        quote = self._seeker.at_seq(seq).quotes.quote(con_id)
        source = None if quote is None else quote.source
        names = ("source", "bid", "bid_size", "ask", "ask_size")
        return {
            "seq": seq,
            "quote": None if quote is None or source is None else {name: getattr(quote, name) for name in names},
            "rows": self._rows(con_id, seq, _WANTED.get(source or "", {})),
        }

    def print_at(self, con_id: int, seq: int) -> dict[str, Any] | None:
        """The reported trade of the instrument with this seq; None when that event is another."""
        found = self._rows(con_id, seq, {"print": _is_print}, since=seq)
        return found[0] if found else None

    def _rows(
        self,
        con_id: int,
        seq: int,
        wanted: Mapping[str, Callable[[Kind, pa.RecordBatch], Any]],
        since: int | None = None,
    ) -> list[dict[str, Any]]:
        """The newest row of each wanted sort up to `seq`, each row once, in order of seq."""
        found: dict[str, dict[str, Any]] = {}
        last, size = seq, _WINDOW
        while last >= self._day.first_seq and len(found) < len(wanted):
            first = max(last - size + 1, self._day.first_seq) if since is None else since
            window: dict[str, dict[str, Any]] = {}
            for batch in self._day.batches(from_seq=first, to_seq=last):
                for kind in set(batch.tables) & set(_SHOWN):
                    rows = batch.tables[kind]
                    rows = rows.filter(pc.equal(rows["con_id"], con_id))
                    for name, matches in wanted.items():
                        some = matches(kind, rows)
                        if some is not None and len(hits := rows.filter(some)):
                            window[name] = _plain(kind, hits.slice(len(hits) - 1))
            found = window | found
            if since is not None:
                break
            last, size = first - 1, size * _WIDER
        unique = {row["seq"]: row for row in found.values()}
        return [unique[one] for one in sorted(unique)]


def _plain(kind: Kind, row: pa.RecordBatch) -> dict[str, Any]:
    values = row.to_pylist()[0]
    content = {name: values[name] for name in _SHOWN[kind]}
    return {"seq": values["seq"], "ts": values["ts_recv"], "kind": kind.value} | content


def _is_quote(kind: Kind, rows: pa.RecordBatch) -> Any:
    return pc.equal(rows["stream"], int(TickStream.BID_ASK)) if kind is Kind.QUOTE else None


def _is_print(kind: Kind, rows: pa.RecordBatch) -> Any:
    return pc.is_valid(rows["price"]) if kind is Kind.TRADE else None


def _is_depth(kind: Kind, rows: pa.RecordBatch) -> Any:
    return pc.is_valid(rows["seq"]) if kind is Kind.DEPTH else None


def _is_tick(fields: tuple[int, ...]) -> Callable[[Kind, pa.RecordBatch], Any]:
    def matches(kind: Kind, rows: pa.RecordBatch) -> Any:
        if kind is not Kind.TICK:
            return None
        return pc.or_(pc.equal(rows["field"], fields[0]), pc.equal(rows["field"], fields[1]))

    return matches


_WANTED: Mapping[str, Mapping[str, Callable[[Kind, pa.RecordBatch], Any]]] = {
    "bid_ask": {"quote": _is_quote},
    "l1": {name: _is_tick(fields) for name, fields in TICKS.items()},
    "smart_depth": {"depth": _is_depth},
}
"""By source of the quote: the sorts of rows it is made of."""
