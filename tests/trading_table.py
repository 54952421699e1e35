"""A trading scenario is a text table: one line per event, seconds after the start, then the event.

    0.0  run                                   a run starts
    0.5  quote 10.00 10.02 500 500 [bad]       bid, ask, sizes
    0.7  print 10.01 100 [odd | lot]           a trade; `odd` does not form the price, `lot` is an odd lot
    1    clock                                 closes the second and lets strategies decide
    1    long 100 9.90 10.20 [valid hold] [type=limit limit=9.99 …]
                                               what the scripted strategy wants at the clock of that second (before it):
                                               quantity, stop, target, seconds (- for none), then fields of `EntryPlan`
    1    rival short 100 10.30 9.80 …          a second entry of the same decision
    3    change stop 9.95                      a change at the clock of that second (before it): kind, price or reason
    0.8  book 10.00:500,9.99:300 10.02:500,10.03:200
                                               the SMART book from here on: bids, asks, price:size (- for none)
    2    outage | back                         the feed is gone, and again there
    2    halt | resume | lost                  trading is halted, goes on; the quote's stream is found dead
    2    tick 0.05                             the contract's smallest price step
    9    end                                   the date is over

seq is the number of the line. All for one symbol, TEST, con_id 7; the date is 2025-07-17, second 0 is 10:00 in New
York.
"""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec
import numpy as np

from harvester.calendar import ExchangeSession
from harvester.projections.interval import QUOTES, TRADES, Interval, Occurrence, OccurrenceKind
from harvester.projections.ladders import LADDERS, LEVELS, Ladders
from harvester.projections.run_params import Calendar, RunParams, StrategyRef
from harvester.projections.step import RunStart
from harvester.projections.trading import strategies
from harvester.projections.trading.costs import cost_table
from harvester.projections.trading.episodes import BUCKET_FIELDS
from harvester.projections.trading.fast.book_tape import BookTape
from harvester.projections.trading.fast.bucket_columns import BucketColumns, records
from harvester.projections.trading.fast.observations import Observations
from harvester.projections.trading.live_quotes import LiveQuotes
from harvester.projections.trading.plan import Change, ChangeKind, EntryPlan, OrderType
from harvester.projections.trading.strategy import Verdict, View
from harvester.projections.trading.trading import Trading

START = 1_752_760_800_000_000_000  # 2025-07-17 14:00:00 UTC
SECOND = 1_000_000_000
CON_ID, SYMBOL = 7, "TEST"


def at(seconds: float) -> int:
    return START + round(seconds * SECOND)


class ScriptSettings(msgspec.Struct, frozen=True):
    plans: tuple[tuple[int, EntryPlan], ...] = ()
    changes: tuple[tuple[int, Change], ...] = ()
    version: int = 1


class Scripted:
    """Enters as its script says, independent of the market."""

    name = "scripted"

    def __init__(self, settings: Any) -> None:
        self.settings = msgspec.convert(dict(settings), ScriptSettings)
        self.observed = 0

    def observe(self, con_id: int, bucket: Any) -> None:
        self.observed += 1

    def decide(self, view: View) -> Verdict:
        if view.holding:
            return Verdict(("HOLDING",), changes=tuple(c for ts, c in self.settings.changes if ts == view.ts))
        return Verdict((), next((plan for ts, plan in self.settings.plans if ts == view.ts), None))

    def finished(self, con_id: int, ts: int) -> None: ...

    def snapshot(self) -> Any:
        return self.observed

    def restore(self, state: Any) -> None:
        self.observed = state


strategies.STRATEGIES["scripted"] = Scripted  # type: ignore[assignment]


def params(
    script: Script, version: int = 1, latency_ms: float = 100.0, costs: str = "none", **config: Any
) -> RunParams:
    """A run around a script; `config`: further settings, and `opens`, `closes`, seconds after the start."""
    settings = msgspec.to_builtins({"plans": script.plans, "changes": script.changes, "version": version})
    opens, closes = at(config.pop("opens", -1800)), at(config.pop("closes", 6 * 3600))
    session = ExchangeSession(opens, closes, at(-6 * 3600), at(10 * 3600), False)
    calendar = Calendar("XNYS", "America/New_York", "2025-07-17", at(-10 * 3600), at(14 * 3600), session)
    return RunParams(
        config={"latency_ms": latency_ms} | config,
        calendar=calendar,
        costs=msgspec.to_builtins(cost_table(costs, trading_date=date(2025, 7, 17))),
        strategies=(StrategyRef("scripted", f"recorded-{version}", settings),),
    )


def bucket(second: int, **values: Any) -> dict[str, Any]:
    """Values of one closed bucket; `second` is its start."""
    neutral = dict.fromkeys(BUCKET_FIELDS) | {"tape_buy": 0.0, "tape_sell": 0.0, "trade_count": 0, "stale": False}
    return neutral | {"ts": at(second)} | values


class Script(msgspec.Struct):
    """What the scripted strategy does, by time (ns UTC)."""

    plans: list[tuple[int, EntryPlan]] = []
    changes: list[tuple[int, Change]] = []


class Step(msgspec.Struct):
    """One call of the trading fold."""

    what: str
    seq: int
    ts: int
    interval: Any = None


FACTS = {
    "outage": (OccurrenceKind.OUTAGE_BEGIN, 0),
    "back": (OccurrenceKind.OUTAGE_END, 0),
    "halt": (OccurrenceKind.HALT, 2),
    "resume": (OccurrenceKind.HALT, 0),
    "lost": (OccurrenceKind.QUOTE_LOST, 0),
}


def steps(table: str) -> tuple[list[Step], Script]:
    """Parse a scenario into the calls the engine would make, and the script."""
    lines = [line.split("#")[0].split() for line in table.strip().splitlines()]
    calls: list[Step] = []
    script = Script()
    live = LiveQuotes()
    quotes: list[Any] = []
    trades: list[Any] = []
    happenings: list[Occurrence] = []
    runs: list[RunStart] = []
    books, carried = no_books(), 0
    mid: float | None = None
    closed = 0
    for seq, (when, what, *args) in enumerate((line for line in lines if line), start=1):
        ts = at(float(when))
        if what == "quote":
            bid, ask, *sizes = (float(a) for a in args if a != "bad")
            good = "bad" not in args
            quotes.append((seq, ts, CON_ID, bid, ask, *sizes, good))
            mid = (bid + ask) / 2 if good else None
        elif what == "print":
            forms = "odd" not in args
            trades.append((seq, ts, CON_ID, float(args[0]), float(args[1]), forms, forms and "lot" not in args))
        elif what in FACTS:
            kind, value = FACTS[what]
            feed = what in ("outage", "back")
            happenings.append(Occurrence(seq, ts, 0 if feed else CON_ID, kind, value))
        elif what == "book":
            books = books.joined(book_of(seq, ts, *args))
        elif what == "tick":
            value = round(float(args[0]) * 1e9)
            happenings.append(Occurrence(seq, ts, CON_ID, OccurrenceKind.MIN_TICK, value))
        elif what in ("long", "short"):
            script.plans.append((ts, plan_of(what == "long", args)))
        elif what == "rival":
            when_, plan = script.plans[-1]
            script.plans[-1] = when_, msgspec.structs.replace(plan, rival=plan_of(args[0] == "long", args[1:]))
        elif what == "change":
            kind_, *rest = args
            price = float(rest[0]) if rest and kind_ != "exit" else None
            script.changes.append((ts, Change(ChangeKind(kind_), price, rest[0] if kind_ == "exit" else "")))
        elif what == "clock":
            seen = np.array(quotes, QUOTES)
            shown, dark = live.fold(seen, happenings, runs)
            facts = sorted([*happenings, *dark], key=lambda fact: fact.seq)
            rows = [bucket(s, mid=mid, mark=mid, stale=not quotes) for s in range(closed, int(float(when)))]
            closed = int(float(when))
            now, books, older = books.cut(seq)
            tape = BookTape(now, carried) if len(now.rows) else None
            carried = older
            calls.append(Step("clock", seq, ts, interval(seq, ts, rows, (shown, trades), facts, books=tape)))
            quotes, trades, happenings, runs = [], [], [], []
        else:
            if what == "run":
                runs.append(RunStart(seq, ts, RunParams()))
            calls.append(Step(what if what != "run" else " ".join(["run", *args]), seq, ts))
    return calls, script


def interval(
    seq: int,
    ts: int,
    buckets: list[Any],
    observed: tuple[Any, list[Any]],
    happenings: list[Occurrence],
    *,
    books: BookTape | None = None,
) -> Interval:
    """One interval that is a stretch by itself; `observed` are quotes and prints."""
    seen = observed[0], np.array(observed[1], TRADES)
    con_ids = np.full(len(buckets), CON_ID)
    seconds = BucketColumns(np.array([[seq, ts]]), records(buckets), con_ids, [len(buckets)], {CON_ID: SYMBOL})
    return Interval(seq, ts, happenings, Observations(*seen, [seq], books), seconds, 0)


def no_books() -> Ladders:
    return Ladders(np.empty(0, LADDERS), np.empty(0, LEVELS))


def book_of(seq: int, ts: int, bids: str, asks: str) -> Ladders:
    """One book of `price:size,…` a side."""
    sides = [[tuple(map(float, level.split(":"))) for level in side.split(",") if side != "-"] for side in (bids, asks)]
    row = (seq, ts, CON_ID, len(sides[0]), len(sides[1]))
    return Ladders(np.array([row], LADDERS), np.array([*sides[0], *sides[1]], LEVELS))


def plan_of(long: bool, args: list[str]) -> EntryPlan:
    plain = [arg for arg in args if "=" not in arg]
    fields: dict[str, Any] = {
        name: value if name == "type" else float(value) for name, value in (a.split("=") for a in args if "=" in a)
    }
    if "immediate" in fields:
        fields["immediate"] = bool(fields["immediate"])
    quantity, stop, target, *times = plain
    valid, hold = (None if t == "-" else float(t) for t in (times + ["5", "300"][len(times) :]))
    return EntryPlan(
        long=long,
        quantity=int(quantity),
        stop=None if stop == "-" else float(stop),
        target=None if target == "-" else float(target),
        valid_seconds=valid,
        hold_seconds_max=hold,
        reason="SCRIPT",
        features={"x": 1.0},
        **{name: OrderType(value) if name == "type" else value for name, value in fields.items()},
    )


def play(table: str, *, through_snapshots: bool = False, **terms: Any) -> dict[str, list[dict[str, Any]]]:
    """Run a scenario; returns the rows of every table. `through_snapshots` saves and restores after every call."""
    calls, script = steps(table)
    trading = Trading()
    rows: dict[str, list[dict[str, Any]]] = {"decisions": [], "fills": [], "episodes": []}
    for call in calls:
        if call.what.startswith("run"):
            version = int(call.what.split()[1]) if " " in call.what else 1
            trading.on_run_start(params(script, version, **terms), call.seq, call.ts)
        elif call.what == "clock":
            trading.on_interval(call.interval)
        else:
            trading.finish(call.seq, call.ts)
        for name, batch in trading.take_rows().items():
            rows[name] += batch.to_pylist()
        if through_snapshots:
            saved, trading = trading.snapshot(), Trading()
            trading.restore(saved)
            assert trading.snapshot() == saved
    return rows


def shown(rows: list[dict[str, Any]], columns: str) -> str:
    """Rows as a text table, to be compared with the expected one; times as seconds after the start."""
    picked = []
    for row in rows:
        values = []
        for name in columns.split():
            value = row[name]
            values.append(f"{(value - START) / SECOND:g}" if name == "ts" or name.endswith("_ts") else _text(value))
        picked.append(" ".join(values))
    return "\n".join(picked)


FILLS = "seq ts role side price quantity source reference reference_price slippage"
EPISODES = "trade_id side quantity entry_ts entry_price exit_ts exit_price exit_reason pnl_usd mae mfe win_loss"


def outcome(table: str, **terms: Any) -> str:
    """What a scenario gives: its fills, its unfilled entries (`unfilled`), its episodes. The same through snapshots."""
    rows = play(table, **terms)
    assert play(table, through_snapshots=True, **terms) == rows
    unfilled = [row for row in rows["decisions"] if row["action"] == "unfilled"]
    parts = [
        shown(rows["fills"], FILLS),
        shown(unfilled, "seq ts action reason side quantity"),
        shown(rows["episodes"], EPISODES),
    ]
    return "\n".join(part for part in parts if part)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
