"""Data quality of the day, per symbol and stream: what was missing, refused, bad or inconsistent.

Every artefact contains `Health.summary`; the table `health` (one measure a row) is complete when the date ends.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from harvester.events.codes import CONNECTION_LOST, REFUSALS, RESTORED_DATA_KEPT, RESTORED_DATA_LOST
from harvester.events.kinds import Action, Own
from harvester.projections.base import Projection
from harvester.projections.interval import Occurrence, OccurrenceKind
from harvester.projections.market.market import MARKET_STREAMS, STREAMS, StreamEnd
from harvester.projections.market.pace import RecordingPace
from harvester.projections.market.provenance import KINDS, Provenance
from harvester.projections.market.state_arrays import BOOK, INSTRUMENT, Glob
from harvester.projections.market.volume import checked
from harvester.projections.step import NOTHING_DERIVED, Derived
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harvester.projections.market.market import Market
    from harvester.projections.step import Control, Step

HEALTH: pa.Schema = pa.schema([
    pa.field("symbol", pa.string(), metadata={"formula": "null for a measure of the whole date"}),
    pa.field("con_id", pa.int64(), nullable=False),
    pa.field("stream", pa.string(), metadata={"formula": "null for a measure of the symbol"}),
    pa.field("measure", pa.string(), nullable=False),
    pa.field("value", pa.float64(), metadata={"formula": "null = not measured"}),
    pa.field("unit", pa.string(), nullable=False),
])  # fmt: skip

DAY = {  # measures of the whole date: unit
    "runs": "runs",
    "missing_seqs": "seqs absent from what was folded",
    "outages": "absences of the whole feed, restarts included",
    "outage_seconds": "s",
    "refused": "subscriptions refused",
    "notices": "notices",
    "dead_rows": "rows under a request id nobody held",
    "clocks_per_second": "clock events per market second while a run lived; starved below 0.95",
    "stamp_lag_p99": "s, by which 99 in 100 events are stamped too late at most; starved above 1",
    "starved": "1 = the recording did not keep up with market time",
}
SYMBOL = {  # measures of a symbol: field of `state_arrays.INSTRUMENT` or of `volume.checked`, unit
    "seconds": ("seconds", "s subscribed"),
    "stale_seconds": ("stale_seconds", "s without a row"),
    "depth_seconds": ("depth_seconds", "s with a book subscribed"),
    "bad_book_seconds": ("bad_book_seconds", "s in which it ended bad or unknown"),
    "contradicted_seconds": ("contradicted_seconds", "of these, the quote in force contradicted it for too long"),
    "halts": ("halts", "halts of trading"),
    "halted_seconds": ("halted_seconds", "s with trading halted at any moment"),
    "crossed_seconds": ("crossed_seconds", "s that ended with ask < bid"),
    "quote_source_changes": ("source_changes", "changes"),
    "dead_rows": ("dead", "rows under a dead key"),
    "data_type": ("data_type", "1 live, 2 frozen, 3 delayed, 4 delayed frozen, 0 never said"),
    "tape_volume": ("tape_volume", "shares, all prints"),
    "cumulative_volume": ("volume", "tick 8, as sent"),
    "volume_checked": ("volume_checked", "rise of tick 8 while the tape was on"),
    "tape_checked": ("tape_checked", "shares printed that belong to it"),
    "top_seconds": ("top_seconds", "s with a good book, a quote of another source, and a row of either"),
    "top_smart": ("top_smart", "of these, the book is SMART depth, not one venue's"),
    "top_bid_equal": ("top_bid_equal", "of these, best bid of the book = bid in force"),
    "top_ask_equal": ("top_ask_equal", "of these, best ask of the book = ask in force"),
    "top_equal": ("top_equal", "of these, both"),
    "top_beyond": ("top_beyond", "of these, the book is better than the quote"),
    "top_agree": ("top_agree", "of these, SMART depth equals the quote, or one venue's book is no better"),
    "prints": ("prints", "price-forming prints"),
    "prints_quoted": ("prints_quoted", "of these, with an uncrossed quote in force"),
    "prints_outside": ("prints_outside", "of these, outside it"),
}
ODD = {  # further measures of the date and of a symbol, given where there is something to count: unit
    "unset_values": "prices and sizes that are IB's markers for none",
    "unset_bar_values": "numbers of bars that are IB's markers for none",
    "partial": "messages with a value that does not parse; their other fields are recorded",
    "undecodable": "messages recorded as text only",
    "volume_falls": "times tick 8 fell; a new count begins",
}
STREAM = {  # measures of a symbol's stream: unit
    "subscriptions": "requests",
    "refused": "requests",
    "rows": "rows",
    "dead_rows": "rows after the end of the subscription",
    "gap_seconds_max": "s between two rows, over subscriptions while it was wanted",
    "silences": "times it was found silent",
    "covered_seconds": "s subscribed, without outages and without the time it was dead before it was renewed",
    "impossible": "depth rows no book can follow",
    "placed": "updates past the end, kept at their position",
    "resets": "times the book was emptied",
}
_BOOK_PARTS = ("impossible", "placed", "resets")


class HealthSummary(NamedTuple):
    """Quality of the data an artefact is made from.

    `data_type` is the worst seen, 0 = never sent. `kind` is where the data of the date come from, a `SourceKind`.
    """

    outages: int
    bad_book_seconds: int
    refused: int
    data_type: int
    kind: str


class Health(Projection):
    """Counts from the control rows; the other measures are in the market's arrays."""

    name = "health"

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self._counts = {"missing_seqs": 0, "outages": 0, "outage_ns": 0, "refused": 0, "notices": 0}
        self._next_seq = 0
        self._last_ts = 0
        self._dark_since = 0  # ns UTC; 0 = the feed is up
        self._outages: list[tuple[int, int]] = []  # begin and end of those that have ended, ns UTC
        self._mute = False  # it is dark because it fell silent: a request proves nothing then
        self._refusals: list[tuple[int, int, int, int, str]] = []  # seq, con_id, request id, code, text
        self._refused: list[str] = []  # "epoch request-id" of the run under way
        self._silences: dict[str, int] = {}  # "con_id stream" → times
        self._partial: dict[str, int] = {}  # "con_id" → outages of that symbol alone
        self._odd: dict[str, int] = {}  # "con_id measure" → count, see `ODD`
        self._provenance, self._pace = Provenance(), RecordingPace()
        self._finished: pa.RecordBatch | None = None

    # ---- the fold --------------------------------------------------------------------------------------------------

    def fold(self, step: Step) -> Derived:
        if not step.last_seq:
            return NOTHING_DERIVED
        self._counts["missing_seqs"] += step.last_seq + 1 - (self._next_seq or step.first_seq) - step.events
        self._next_seq = step.last_seq + 1
        for (con_id, measure), count in step.odd.items():
            key = f"{con_id} {measure}"
            self._odd[key] = self._odd.get(key, 0) + count
        ended = {run.seq: run.before_ts for run in step.runs}
        happenings: list[Occurrence] = []
        for control in step.controls:
            if ended.get(control.seq):  # nothing was recorded since the run before ended
                happenings += self._dark(control.seq, ended[control.seq])
            happenings += self._look(control)
            if self._provenance.look(control.row):
                value = KINDS.index(self._provenance.kind)
                happenings.append(Occurrence(control.seq, control.ts, 0, OccurrenceKind.SOURCE, value))
        self._last_ts = step.last_ts
        self._keep_pace(step)
        return Derived(happenings)

    def _keep_pace(self, step: Step) -> None:
        start = 0
        for run in step.runs:
            stop = int(np.searchsorted(step.clocks[:, 0], run.seq))
            self._pace.clocks(step.clocks[start:stop, 1])
            self._pace.run_start()
            start = stop
        self._pace.clocks(step.clocks[start:, 1])
        self._pace.rows(step.behind)

    def _look(self, control: Control) -> list[Occurrence]:
        if control.action:
            return self._request(control)
        self._counts["notices"] += 1
        if control.row.get("msg") == 58:
            return [Occurrence(control.seq, control.ts, control.con_id, OccurrenceKind.DATA_TYPE, control.data_type)]
        if control.code == Own.STREAM_SILENT:
            key = f"{control.con_id} {_stream_of(control)}"
            self._silences[key] = self._silences.get(key, 0) + 1
        if control.code == Own.STRATEGY_DROPPED and control.row.get("msg") is None:
            detail = control.row.get("detail") or ""
            return [Occurrence(control.seq, control.ts, 0, OccurrenceKind.STRATEGY_DROPPED, text=detail)]
        if control.code in REFUSALS and control.con_id:  # of a subscription, not of a single question
            return self._refuse(control, control.code)
        if control.code == Own.STREAM_REFUSED:
            return self._refuse(control, control.row["value"] or 0)
        return self._feed(control)

    def _feed(self, control: Control) -> list[Occurrence]:
        code = control.code
        whole = control.con_id == 0
        if code in (CONNECTION_LOST, Own.DISCONNECTED) or (code == Own.OUTAGE_BEGIN and whole):
            self._mute = self._mute if self._dark_since else control.silence
            return self._dark(control.seq, control.ts, _last_row(control))
        if code in (RESTORED_DATA_KEPT, RESTORED_DATA_LOST, Own.CONNECTED) or (code == Own.OUTAGE_END and whole):
            return self._light(control)
        if code in (Own.OUTAGE_BEGIN, Own.OUTAGE_END):
            return self._partly(control)
        return []

    def _request(self, control: Control) -> list[Occurrence]:
        if control.action == Action.RUN_START:
            self._refused, self._mute = [], False
        if control.action == Action.SUBSCRIBE and not self._mute and control.row["stream"] in MARKET_STREAMS:
            return self._light(control)
        return []

    def _dark(self, seq: int, ts: int, since: int = 0) -> list[Occurrence]:
        """An outage begins; it is measured from `since`, ns UTC, if the feed was silent before it was noticed."""
        if self._dark_since:
            return []
        before = self._outages[-1][1] if self._outages else 0
        self._dark_since = min(max(since, before), ts) if since > 0 else ts
        self._counts["outages"] += 1
        return [Occurrence(seq, ts, 0, OccurrenceKind.OUTAGE_BEGIN)]

    def _light(self, control: Control) -> list[Occurrence]:
        if not self._dark_since:
            return []
        self._counts["outage_ns"] += control.ts - self._dark_since
        self._outages.append((self._dark_since, control.ts))
        self._dark_since, self._mute = 0, False
        return [Occurrence(control.seq, control.ts, 0, OccurrenceKind.OUTAGE_END)]

    def _partly(self, control: Control) -> list[Occurrence]:
        begins = control.code == Own.OUTAGE_BEGIN
        if begins:
            key = str(control.con_id)
            self._partial[key] = self._partial.get(key, 0) + 1
        what = OccurrenceKind.OUTAGE_BEGIN if begins else OccurrenceKind.OUTAGE_END
        return [Occurrence(control.seq, control.ts, control.con_id, what)]

    def _refuse(self, control: Control, code: int) -> list[Occurrence]:
        """Count a subscription once: IB's error and our own notice report the same refusal."""
        key = f"{control.epoch} {control.req_id}"
        if key in self._refused:
            return []
        self._refused.append(key)
        self._counts["refused"] += 1
        self._refusals.append((control.seq, control.con_id, control.req_id, code, control.row.get("text") or ""))
        return [Occurrence(control.seq, control.ts, control.con_id, OccurrenceKind.REFUSED, code)]

    # ---- results --------------------------------------------------------------------------------------------------

    def summary(self, con_id: int | None = None) -> HealthSummary:
        """Of one symbol, or of the whole date."""
        rows = [r for r in self._instruments() if con_id in (None, r["con_id"])]
        partial = sum(n for key, n in self._partial.items() if con_id is None or key == str(con_id))
        return HealthSummary(
            outages=self._counts["outages"] + partial,
            bad_book_seconds=sum(r["bad_book_seconds"] for r in rows),
            refused=sum(1 for refusal in self._refusals if con_id in (None, refusal[1])),
            data_type=max((r["data_type"] for r in rows), default=0),
            kind=self._provenance.kind.value,
        )

    def _instruments(self) -> list[dict[str, Any]]:
        names = INSTRUMENT.names or ()
        order = self._market.state.order[: len(self._market.symbols)].tolist()
        rows = [dict(zip(names, self._market.state.inst[k].tolist(), strict=True)) for k in order]
        return [row | {"symbol": self._market.symbols[k]} for row, k in zip(rows, order, strict=True)]

    def rows(self) -> list[dict[str, Any]]:
        """The health table up to now."""
        odd = self._odd_values()
        day = self._day() | odd.get(0, {})
        out = [_row(None, 0, None, name, value, unit=(DAY | ODD)[name]) for name, value in day.items()]
        asked: dict[tuple[int, int], list[dict[str, int]]] = {}
        for slot in self._subscriptions():
            asked.setdefault((slot["con_id"], slot["stream"]), []).append(slot)
        for inst in self._instruments():
            symbol, con_id = inst["symbol"], inst["con_id"]
            inst["tape_checked"], inst["volume_checked"] = checked(self._market.stretches(con_id))
            for measure, (field, unit) in SYMBOL.items():
                out.append(_row(symbol, con_id, None, measure, inst[field], unit=unit))
            out += [_row(symbol, con_id, None, name, n, unit=ODD[name]) for name, n in odd.get(con_id, {}).items()]
            for stream in MARKET_STREAMS:
                slots = asked.get((con_id, STREAMS.index(stream)))
                if slots:
                    measured = self._stream(con_id, str(stream), slots)
                    out += [_row(symbol, con_id, str(stream), m, v, unit=STREAM[m]) for m, v in measured.items()]
        return out

    def _day(self) -> dict[str, float]:
        counts = self._counts
        return {
            "runs": self._market.runs,
            "missing_seqs": counts["missing_seqs"],
            "outages": counts["outages"],
            "outage_seconds": counts["outage_ns"] / SECOND_NS,
            "refused": counts["refused"],
            "notices": counts["notices"],
            "dead_rows": int(self._market.state.glob[Glob.DEAD]),
            **self._pace.measures(),
        }

    def _odd_values(self) -> dict[int, dict[str, float]]:
        """The measures of `ODD` that are not 0, by con_id; those of no subscribed symbol under 0, the date."""
        counts: dict[int, dict[str, float]] = {}
        for inst in self._instruments():
            falls = sum(stretch.falls for stretch in self._market.stretches(inst["con_id"]))
            counts[inst["con_id"]] = {"unset_values": inst["unset"], "volume_falls": falls}
        for key, count in self._odd.items():
            con_id, _, measure = key.partition(" ")
            of = counts.setdefault(int(con_id) if int(con_id) in counts else 0, {})
            of[measure] = of.get(measure, 0) + count
        return {con_id: {name: of[name] for name in ODD if of.get(name)} for con_id, of in counts.items()}

    def _subscriptions(self) -> list[dict[str, int]]:
        """Subscriptions with the counts of their books; those of live books come from the book itself."""
        live, books = set(self._market.live()), self._market.state.books
        found = self._market.subscriptions()
        for k, slot in enumerate(found):
            if k in live and slot["book"] >= 0:
                book = dict(zip(BOOK.names or (), books[slot["book"]].tolist(), strict=True))
                slot |= {name: book[name] for name in _BOOK_PARTS}
        return found

    def _stream(self, con_id: int, stream: str, slots: list[dict[str, int]]) -> dict[str, float]:
        requests = {slot["req_id"] for slot in slots}
        dark = [*self._outages, (self._dark_since or self._last_ts, self._last_ts)]
        gap_ns, covered_ns = _coverage(slots, dark, self._last_ts)
        return {
            "subscriptions": len(slots),
            "refused": sum(1 for _, con, req, _, _ in self._refusals if con == con_id and req in requests),
            "rows": sum(slot["rows"] for slot in slots),
            "dead_rows": sum(slot["dead"] for slot in slots),
            "gap_seconds_max": gap_ns / SECOND_NS,
            "silences": self._silences.get(f"{con_id} {stream}", 0),
            "covered_seconds": covered_ns / SECOND_NS,
            "impossible": sum(slot["impossible"] for slot in slots),
            "placed": sum(slot["placed"] for slot in slots),
            "resets": sum(slot["resets"] for slot in slots),
        }

    # ---- the surface of a projection ---------------------------------------------------------------------------------

    def finish(self, seq: int, ts: int) -> None:  # noqa: ARG002 - the surface of a projection
        self._last_ts = max(ts, self._last_ts)
        self._finished = pa.RecordBatch.from_pylist(self.rows(), schema=HEALTH)

    def take(self) -> dict[str, pa.RecordBatch]:
        finished, self._finished = self._finished, None
        return {} if finished is None else {"health": finished}

    def digest(self) -> str:
        """Hash of the health table up to now."""
        state = [self.rows(), self._refusals, self._provenance.kinds]
        return hashlib.blake2b(msgspec.json.encode(state), digest_size=16).hexdigest()

    _STATE = (
        "_counts", "_next_seq", "_last_ts", "_dark_since", "_mute", "_refusals", "_refused", "_silences", "_partial",
        "_odd", "_outages",
    )  # fmt: skip

    def snapshot(self) -> bytes:
        own = [getattr(self, name) for name in self._STATE]
        source = [self._provenance.kinds, self._provenance.stated]
        return msgspec.msgpack.encode([own, source, self._pace.snapshot()])

    def restore(self, data: bytes) -> None:
        own, (kinds, stated), pace = msgspec.msgpack.decode(data)
        for name, value in zip(self._STATE, own, strict=True):
            setattr(self, name, value)
        self._provenance, self._pace = Provenance(kinds, stated=stated), msgspec.convert(pace, RecordingPace)
        self._refusals = [(seq, con, req, code, text) for seq, con, req, code, text in self._refusals]
        self._outages = [(begin, end) for begin, end in self._outages]
        self._finished = None


def _last_row(control: Control) -> int:
    """When the last row of a silent feed came, ns UTC; 0 for another outage, and in logs that do not hold it."""
    return int(control.row.get("value") or 0) if control.silence else 0


def _coverage(slots: Sequence[Mapping[str, int]], dark: Sequence[tuple[int, int]], last_ts: int) -> tuple[int, int]:
    """Longest gap and time covered, ns, of one stream.

    A gap goes on from a subscription to the next while the stream is wanted: it was lost, or cancelled to be requested
    again. What was cancelled to be requested again was dead from its last row on.

    Args:
        slots: its subscriptions, in order, see `Market.subscriptions`.
        dark: begin and end of each outage, ns UTC.
        last_ts: the end of what has been folded, ns UTC.
    """
    gap, since, spans = 0, 0, list[tuple[int, int]]()  # since: the last row of a stream that is requested again
    for slot in slots:
        closed = slot["closed"] or last_ts
        first = slot["first_ts"] if slot["rows"] else closed
        gap = max(gap, slot["gap_max"], first - since if since else 0)
        upto = slot["last_ts"] if slot["rows"] else since or slot["opened"]
        dead = slot["ending"] == StreamEnd.RENEWED.value
        spans.append((first if since else slot["opened"], upto if dead else closed))
        since = upto if slot["ending"] in (StreamEnd.RENEWED.value, StreamEnd.LOST.value) else 0
    away = sum(max(min(e, end) - max(b, begin), 0) for b, e in spans for begin, end in dark)
    return gap, sum(max(e - b, 0) for b, e in spans) - away


def _row(
    symbol: str | None, con_id: int, stream: str | None, measure: str, value: float, *, unit: str
) -> dict[str, Any]:
    known = value == value  # noqa: PLR0124 - NaN
    number = float(value) if known else None
    return {"symbol": symbol, "con_id": con_id, "stream": stream, "measure": measure, "value": number, "unit": unit}


def _stream_of(control: Control) -> str:
    """The stream in the detail of an Own notice, empty when there is none."""
    try:
        detail = msgspec.json.decode(control.row["detail"] or "{}")
    except msgspec.DecodeError:
        return ""
    return str(detail.get("stream", "")) if isinstance(detail, dict) else ""
