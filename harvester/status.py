"""Report from the log and the lock alone whether a day is being recorded and which streams are missing."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, cast

import msgspec
import numpy as np

from harvester.calendar import iso, of_day
from harvester.config import Settings
from harvester.eventlog.eod_mark import read_closed
from harvester.eventlog.lock import DateLock
from harvester.eventlog.reader import open_day
from harvester.eventlog.typed_times import read_iso
from harvester.events.codes import UNKNOWN_CONTRACT
from harvester.events.kinds import Action, Kind, Own, Stream
from harvester.projections.market.merge import HALT_FIELDS
from harvester.projections.market.pace import RecordingPace, behind_ib, pace_text
from harvester.projections.market.provenance import Provenance
from harvester.projections.market.quotes import HALTS
from harvester.projections.run_params import RunParams
from harvester.recorder.contracts import WantedContract
from harvester.recorder.subscriptions import WANTED, SubscriptionPlan
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import Any

    from harvester.eventlog.reader import Day, RunView
    from harvester.home import DatePaths

WANTED_NAMES = tuple(map(str, WANTED))
_OF_THE_PLAN = ("symbols", "focus_size", "tick_by_tick_lines", "depth_lines", "five_second_bars")
_STREAMED = (Kind.TICK, Kind.TRADE, Kind.QUOTE, Kind.DEPTH, Kind.BAR)

NOT_ASKED = "not requested: no market data line free, or still queued"  # IB limits lines and paces requests
NO_DATA = "no data yet"
SILENT = "no data since"  # a time of day in New York follows: it was requested again and has not answered
SILENT_S = 10  # without a row for this long of market time, status shows when the last one came
NOTHING_ASKED = "not requested: contracts were still being looked up"
UNKNOWN = f"not requested: symbol unknown to the gateway ({UNKNOWN_CONTRACT})"
CANCELLED = "cancelled, not requested again"


class _Named(NamedTuple):
    """A symbol instead of a contract: the plan of subscriptions needs no more."""

    symbol: str


class RecordingStatus(msgspec.Struct, frozen=True):
    """The recording status of one trading date. Times are ISO-8601 UTC, empty for none.

    Attributes:
        recording: whether a process holds the date's writer lock to record.
        holder: who holds the lock, empty for nobody.
        since: start of the latest run.
        last_commit: ts_recv of the last committed event.
        streams_of: the run that `symbols` and `lacking` describe: the latest, or if that ended without a request for a
            stream, the latest that made one.
        earlier: run → symbols, of the runs before it that recorded other symbols.
        lacking: symbol → missing streams, each with the reason (`refused 309`, `no data yet`, `no data since 10:31:05`,
            `not requested`). What
            the settings of the run do not ask for is not missing: BidAsk without lines left, depth between turns.
        halted: symbol → `general halt` or `volatility halt`, by the last halt tick of the latest run.
        outage: whether the feed is down according to the last notice in the log; `outage_since` and `outage_why`.
        last_row: ts_recv of the last row of a stream.
        closed: whether `hv eod` folded the date into memory, and nothing was recorded since.
        archived: folder of the log below the home, when `hv eod` archived it and deleted it from temp/.
        kind: where the data come from, a `SourceKind`.
        starved: the pace of a recording that did not keep up with market time, in words; empty for another one.
        ahead_s: seconds by which the gateway's clock is ahead of the latest run's ts_recv, 0 if below two minutes.
    """

    trading_date: str
    recording: bool
    holder: str
    run: str
    run_status: str
    since: str
    last_commit: str
    last_seq: int
    events: int
    streams_of: str
    symbols: list[str]
    lacking: dict[str, dict[str, str]]
    outage: bool
    closed: bool = False
    archived: str = ""
    ahead_s: float = 0.0
    halted: dict[str, str] = {}
    kind: str = "unknown"
    starved: str = ""
    outage_since: str = ""
    outage_why: str = ""
    last_row: str = ""
    earlier: dict[str, list[str]] = {}

    def feed(self) -> str:
        """An outage that is under way at the end of the log, or the silence there, in words; else empty."""
        if self.outage:
            since = f" since {of_day(read_iso(self.outage_since))[:8]}" if self.outage_since else ""
            why = f": {self.outage_why}" if self.outage_why else ""
            return f"the feed {'is down' if self.recording else 'was down when recording ended,'}{since}{why}".rstrip(
                ","
            )
        if not self.recording or not self.last_row:
            return ""
        quiet_s = (read_iso(self.last_commit) - read_iso(self.last_row)) // SECOND_NS
        return f"the last row came {quiet_s:,} s before the last commit" if quiet_s >= SILENT_S else ""

    def wrong(self) -> list[str]:
        """The faults of a recording that is watched; empty while all that was asked for is recorded.

        A stream of trades without a row is not wrong: nobody may have traded.
        """
        found = [] if self.recording else [f"{self.trading_date} is not being recorded"]
        found += [self.feed()] if self.recording and self.outage else []
        found += ["no stream was subscribed yet"] if self.recording and not self.symbols else []
        missing = [(symbol, stream, why) for symbol, lacks in self.lacking.items() for stream, why in lacks.items()]
        thin = (Stream.ALL_LAST.value, Stream.LAST.value, Stream.BARS_5S.value)
        return found + [
            f"{symbol} lacks {stream} ({why})"
            for symbol, stream, why in missing
            if stream not in thin or not why.startswith((NO_DATA, SILENT))
        ]


def status(paths: DatePaths) -> RecordingStatus:
    """The recording status of a date.

    Raises:
        NoLog: nothing was recorded on it.
        DamagedLog: its log is damaged.
    """
    holder = DateLock(paths).held_by()
    day = open_day(paths.trading_date, paths.home)
    recording = holder is not None and holder.purpose == "record"
    run = day.runs[-1]
    notices, asked = day.table(Kind.NOTICE).to_pylist(), day.table(Kind.REQUEST).to_pylist()
    described = run if recording else _last_with_streams(day.runs, asked)
    first, last = described.first_seq, described.last_seq
    requests = [row for row in asked if first <= row["seq"] <= last]
    ours = [n for n in notices if first <= n["seq"] <= last]
    flowing: dict[tuple[int, int], tuple[int, int]] = {}
    for kind in _STREAMED:
        for epoch, req_id, *newest in _streams(day.table(kind), first, last):
            flowing[epoch, req_id] = max((newest[0], newest[1]), flowing.get((epoch, req_id), (0, 0)))
    outage = _outage(notices)
    symbols, lacking = _lacking(requests, ours, flowing, *_planned(asked, first))
    closed = read_closed(paths)
    return RecordingStatus(
        trading_date=paths.trading_date.isoformat(),
        recording=recording,
        holder=str(holder) if holder is not None else "",
        run=run.run,
        run_status=run.status,
        since=iso(run.first_ts) if run.first_ts else "",
        last_commit=iso(day.last_ts) if day.last_ts else "",
        last_seq=day.last_seq,
        events=day.rows,
        streams_of=described.run,
        symbols=symbols,
        lacking=lacking,
        outage=outage is not None,
        outage_since=_since(outage) if outage else "",
        outage_why=(outage["text"] or "").removeprefix("no feed: ") if outage else "",
        last_row=iso(max(ts for _, ts in flowing.values())) if flowing else "",
        earlier=_earlier(day.runs, described, asked, symbols),
        closed=closed is not None and closed.last_seq == day.last_seq,
        archived=_archived(paths, run.folder),
        halted=_halted(day.table(Kind.TICK), requests),
        ahead_s=next((n["value"] / SECOND_NS for n in ours if n["code"] == Own.CLOCKS_DIFFER), 0.0),
        kind=_kind(asked, notices),
        starved=_starved(day),
    )


def _kind(asked: list[dict[str, Any]], notices: list[dict[str, Any]]) -> str:
    provenance = Provenance()
    for row in sorted((*asked, *notices), key=itemgetter("seq")):
        provenance.look(row)
    return provenance.kind.value


def _starved(day: Day) -> str:
    pace, clocks = RecordingPace(), day.table(Kind.CLOCK)
    seqs, times = clocks.column("seq").to_numpy(), clocks.column("ts_recv").to_numpy()
    for run in day.runs:
        pace.run_start()
        first, last = np.searchsorted(seqs, [run.first_seq, run.last_seq + 1])
        pace.clocks(times[first:last])
    pace.rows(behind_ib({kind: day.table(kind) for kind in (Kind.QUOTE, Kind.TRADE)}))
    return pace_text(pace.per_second, pace.lag_p99_s) if pace.starved else ""


def _archived(paths: DatePaths, run: Path) -> str:
    archive = paths.archive
    return archive.relative_to(paths.home.root).as_posix() if run.parent == archive else ""


def _last_with_streams(runs: Sequence[RunView], asked: list[dict[str, Any]]) -> RunView:
    """The latest run that requested a stream, else the latest run."""
    last = max((row["seq"] for row in asked if row["action"] == Action.SUBSCRIBE), default=0)
    return next((run for run in runs if run.first_seq <= last <= run.last_seq), runs[-1])


def _earlier(
    runs: Sequence[RunView], described: RunView, asked: list[dict[str, Any]], symbols: list[str]
) -> dict[str, list[str]]:
    """Runs before the described one that subscribed to other symbols, with their symbols."""
    found = {}
    for run in runs[: runs.index(described)]:
        inside = [row for row in asked if run.first_seq <= row["seq"] <= run.last_seq]
        names = sorted({row["symbol"] for row in inside if row["action"] == Action.SUBSCRIBE and row["symbol"]})
        if names and names != symbols:
            found[run.run] = names
    return found


def _streams(table: Any, first_seq: int, last_seq: int) -> Iterable[tuple[int, int, int, int]]:
    """Each (epoch, request id) of a kind's rows between two seqs, with seq and ts_recv of its last row."""
    import polars as pl

    frame = pl.from_arrow(table.select(["seq", "ts_recv", "epoch", "req_id"]))
    assert isinstance(frame, pl.DataFrame)
    inside = frame.filter(pl.col("seq").is_between(first_seq, last_seq))
    return inside.group_by("epoch", "req_id").agg(pl.col("seq").max(), pl.col("ts_recv").max()).rows()


def _planned(asked: list[dict[str, Any]], first_seq: int) -> tuple[dict[str, list[str]], bool]:
    """The streams that a run's recorded settings ask for, by symbol in upper case; whether its depth lines take turns.

    Symbols are in upper case because `hv record` looks up an unknown one in upper case too.
    """
    start = next((row for row in asked if row["seq"] == first_seq and row["action"] == Action.RUN_START), None)
    config = RunParams.parse(start["params"] if start else None, first_seq).config
    settings = Settings.load({name: config[name] for name in _OF_THE_PLAN if name in config})
    targets = [_Named(WantedContract.of(text).symbol.upper()) for text in settings.symbols]
    plan = SubscriptionPlan(settings, cast("Any", targets))
    wanted: dict[str, list[str]] = {target.symbol: [] for target in plan.targets}
    for stream, target in (
        *plan.first(),
        *((Stream.BID_ASK, target) for target in plan.bid_ask()),
        *((Stream.BARS_5S, target) for target in plan.bars()),
    ):
        wanted[target.symbol].append(stream.value)
    return wanted, len(plan.depth_pool) > settings.depth_lines


def _key(row: dict[str, Any]) -> tuple[int, int]:
    """What a request and the rows and notices about it have in common."""
    return row["epoch"], row["req_id"]


def _lacking(
    requests: list[dict[str, Any]],
    notices: list[dict[str, Any]],
    flowing: dict[tuple[int, int], tuple[int, int]],
    planned: dict[str, list[str]],
    turns: bool,
) -> tuple[list[str], dict[str, dict[str, str]]]:
    refusals = [n for n in notices if n["code"] == Own.STREAM_REFUSED]
    refused = {_key(n): n["value"] for n in refusals if flowing.get(_key(n), (0, 0))[0] < n["seq"]}  # no row since
    unknown = {_key(n) for n in notices if n["code"] == UNKNOWN_CONTRACT}
    state: dict[str, dict[str, str]] = {}

    def streams_of(symbol: str, why: str) -> dict[str, str]:
        return state.setdefault(symbol, dict.fromkeys(planned.get(symbol.upper(), WANTED_NAMES), why))

    last_ts: dict[tuple[str, str], int] = {}  # of the rows of a symbol's stream, over its requests
    none_asked = all(row["action"] != Action.SUBSCRIBE for row in requests)
    for row in requests:
        symbol, key = row["symbol"], _key(row)
        stream = Stream.DEPTH.value if row["stream"] == Stream.SMART_DEPTH else row["stream"]
        if row["action"] == Action.ASK and stream == Stream.CONTRACT:
            streams_of(symbol, UNKNOWN if key in unknown else NOTHING_ASKED if none_asked else NOT_ASKED)
        elif row["action"] == Action.SUBSCRIBE and symbol:
            if key in flowing:
                last_ts[symbol, stream] = flowing[key][1]
            why = f"refused {refused[key]}" if key in refused else "" if key in flowing else NO_DATA
            if why == NO_DATA and (before := last_ts.get((symbol, stream))):
                why = f"{SILENT} {of_day(before)[:8]}"
            streams_of(symbol, NOT_ASKED)[stream] = why
        elif row["action"] == Action.CANCEL and symbol in state:
            state[symbol][stream] = "" if turns and stream == Stream.DEPTH else CANCELLED
    # A symbol in lower case that was then looked up in upper case is the same one.
    symbols = sorted(symbol for symbol in state if symbol == symbol.upper() or symbol.upper() not in state)
    lacking = {symbol: {s: why for s, why in state[symbol].items() if why} for symbol in symbols}
    return symbols, {symbol: streams for symbol, streams in lacking.items() if streams}


def _halted(ticks: Any, requests: list[dict[str, Any]]) -> dict[str, str]:
    """The symbols whose newest halt tick under a request of the run is a halt."""
    import polars as pl

    frame = pl.from_arrow(ticks.select(["seq", "epoch", "req_id", "field", "value"]))
    assert isinstance(frame, pl.DataFrame)
    said = frame.filter(pl.col("field").is_in(HALT_FIELDS) & pl.col("value").is_in([0.0, 1.0, 2.0]))
    symbols: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for row in requests:
        if row["action"] == Action.SUBSCRIBE and row["stream"] == Stream.L1:
            symbols.setdefault(_key(row), []).append((row["seq"], row["symbol"]))
    halts: dict[str, int] = {}
    for seq, epoch, req_id, _, value in said.sort("seq").rows():
        named = [symbol for asked, symbol in symbols.get((epoch, req_id), ()) if asked < seq]
        if named:
            halts[named[-1]] = int(value)
    return {symbol: HALTS[halt] for symbol, halt in sorted(halts.items()) if halt}


def _outage(notices: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The notice of the outage under way at the end of the log; None while the feed is up."""
    found = [n for n in notices if n["code"] in {Own.OUTAGE_BEGIN, Own.OUTAGE_END, Own.CONNECTED}]
    return found[-1] if found and found[-1]["code"] == Own.OUTAGE_BEGIN else None


def _since(outage: dict[str, Any]) -> str:
    """Since when the feed is down: the notice of a silence holds the time of the last row."""
    return iso(outage["value"] or outage["ts_recv"])
