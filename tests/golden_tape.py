"""A golden case is a text table: `tape.txt` is played through the engine, and its output must be `expected.txt`.

    # The rule, in words.
    date 2025-11-28 12:59        trading date and New York time of second 0 (default 2025-07-17 10:00)
    show buckets: bid ask ofi    tables and their columns; `look` lines show book, ladder and quote at their place
    show episodes: labels.mae    what is no column is read from the document; of a list, how many
    utc                          times as ISO UTC instead of seconds after the start
    0    run                     seconds, then what happens; one line is one event (but for `look`)
    0    run version=2 latency_ms=0 costs=ibkr_fixed aligned=1        of the script; aligned: only with the signals
    0    run strategy=imbalance_breakout lookback_seconds=3           another strategy and its settings
    0    sub 1 depth rows=3 con=8
    0.1  insert 1 0 bid 10.00 300 ARCA      | update | delete: request, position, side, price, size, market maker
    0.2  quote 1 10.00 10.02 300 100        tick-by-tick BidAsk
    0.2  tick 1 bid 10.00 300               L1: bid, ask with size; bid_size, ask_size; delayed_…; rt, rt_trades
    0.3  print 2 10.01 100 past unreported
    0.4  notice 317 1                       code, request, con_id
    0.4  notice -7 -1 0 silence             an outage that no code announced
    0.5  cancel 1
    0.5  cancel 1 renewed                   the same stream is requested again
    1    clock
    0.5  each 60 15 quote 1 10.00+0.01 10.02+0.01 300 100    60 of them, 15 seconds apart, prices going up by 0.01
    0.6  bar 1h -3600 10.00 10.50           a backfilled bar of the hour that began then: open, close [TRADES]
    0.6  bar 1D 20250716 10.00 10.50
    0.6  bar 5s 10 90000                    a 5-second bar that began then: its volume
    0.2  halted 1 2                         tick 49 of a request: 0 none, 1 general, 2 volatility
    1    long 100 9.90 10.20 5 60           the scripted strategy wants at this clock: shares, stop, target, valid,
                                            hold, then other fields of its plan, `type=limit limit=9.95`; `-`: none
    2    connect                            another connection: the epoch rises
    2    end                                the run ends; the date is over after the last line

Prices and sizes may be `-` (null), `unset` (IB's marker) or any number. Lines are taken in order of time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

import msgspec
from trading_table import plan_of

from harvester.calendar import iso, to_ns, zone
from harvester.config import Settings
from harvester.events.batch import Batch
from harvester.events.kinds import Kind, Side
from harvester.projections.engine import Engine
from harvester.projections.reconcile_streams import reconcile
from harvester.projections.run_params import RunParams, StrategyRef, calendar_of
from harvester.projections.trading.costs import cost_table
from tests.market_log import SECOND, Log, Written

if TYPE_CHECKING:
    from collections.abc import Iterator

_TICKS = {
    "bid_size": 0, "bid": 1, "ask": 2, "ask_size": 3, "volume": 8,
    "delayed_bid": 66, "delayed_ask": 67, "delayed_bid_size": 69, "delayed_ask_size": 70,
}  # fmt: skip
_PRINTS = {"rt": 48, "rt_trades": 77}
_NUMBERS = {"-": None, "unset": 1.7976931348623157e308}
_TRADED = {"decisions", "episodes", "fills"}  # a tape that shows none of them and has no plan runs no strategy
_TIMES = ("ts", "entry_ts", "exit_ts", "bucket_start", "bucket_end", "hour")
Rows = list[dict[str, Any]]


def number(word: str) -> float | None:
    return _NUMBERS[word] if word in _NUMBERS else float(word)


@dataclass
class Tape:
    """A parsed case: `parts` are its events, cut where a `look` stands."""

    start: int = 0
    utc: bool = False
    show: dict[str, list[str]] = field(default_factory=dict)
    parts: list[tuple[list[tuple[Kind, dict[str, Any]]], str]] = field(default_factory=list)


class Reader:
    """Turns lines into events."""

    def __init__(self, text: str) -> None:
        self.tape, self.log = Tape(), Log()
        self.day, clock = date(2025, 7, 17), time(10)
        lines = [line.split("#")[0].split() for line in text.splitlines()]
        head = [words for words in lines if words and not words[0][0].isdigit()]
        for what, *words in head:
            if what == "date":
                self.day, clock = date.fromisoformat(words[0]), time.fromisoformat(words[1])
            elif what == "show":
                self.tape.show[words[0].rstrip(":")] = words[1:]
            else:
                assert what == "utc", what
                self.tape.utc = True
        self.tape.start = to_ns(datetime.combine(self.day, clock, zone("America/New_York")))
        self.events = sorted((one for line in lines for one in repeated(line)), key=lambda words: float(words[0]))
        self.plans = [
            (self.at(words[0]), plan_of(words[1] == "long", words[2:]))
            for words in self.events
            if words[1] in ("long", "short")
        ]

    def at(self, seconds: str) -> int:
        return self.tape.start + round(float(seconds) * SECOND)

    def read(self) -> Tape:
        for when, what, *words in self.events:
            self.log.now = self.at(when)
            if what == "look":
                self._cut(f"{when} {words[0] if words else 7}")
            elif what not in ("long", "short"):
                getattr(self, f"on_{what}")(*words)
        self._cut("")
        return self.tape

    def _cut(self, look: str) -> None:
        self.tape.parts.append((self.log.pending, look))
        self.log.pending = []

    def on_run(self, *options: str) -> None:
        given = dict(option.split("=") for option in options)
        version, name = int(given.pop("version", "1")), given.pop("strategy", "scripted")
        config = {
            "latency_ms": float(given.pop("latency_ms", "100")),
            "fill_depth": given.pop("fill_depth", "top"),
            "answer_latency_ms": float(given.pop("answer_latency_ms", "0")),
            "require_mtf_alignment": given.pop("aligned", "0") == "1",
        }
        costs = cost_table(given.pop("costs", "none"), trading_date=self.day)
        settings = {name: msgspec.json.decode(value) for name, value in given.items()}
        strategies = [name] if name != "scripted" or self.plans or _TRADED & set(self.tape.show) else []
        if name == "scripted":
            settings = msgspec.to_builtins({"plans": self.plans, "version": version})
        params = RunParams(
            config=config,
            calendar=calendar_of(self.day, Settings()),
            costs=msgspec.to_builtins(costs),
            strategies=tuple(StrategyRef(name, f"recorded-{version}", settings) for name in strategies),
        )
        self.log.epoch = 1
        self.log.add(Kind.REQUEST, action="run_start", stream="run", params=params.text())

    def on_connect(self) -> None:
        self.log.epoch += 1

    def on_sub(self, req: str, stream: str, *options: str) -> None:
        given = dict(option.split("=") for option in options)
        con_id = int(given.pop("con", 7))
        params = {name: int(value) if name == "rows" else value for name, value in given.items()}
        self.log.subscribe(int(req), stream, con_id, msgspec.json.encode(params).decode())

    def on_cancel(self, req: str, renewed: str = "") -> None:
        self.log.cancel(int(req), params='{"renewed":true}' if renewed else "{}")

    def on_notice(self, code: str, req: str = "-1", con: str = "0", cause: str = "") -> None:
        detail = {"detail": f'{{"cause":"{cause}"}}'} if cause else {}
        self.log.notice(int(code), req_id=int(req), con_id=int(con), **detail)

    def _depth(self, operation: str, req: str, *words: str) -> None:
        self.log.requests.setdefault(int(req), (7, "depth"))
        position, side, price, size, *maker = words if len(words) > 2 else (*words, "0", "0")
        self.log.hot(
            Kind.DEPTH, int(req), msg=12, operation={"insert": 0, "update": 1, "delete": 2}.get(operation, 9),
            position=int(position), side={"ask": 0, "bid": 1}.get(side, 5), price=number(price), size=number(size),
            market_maker=maker[0] if maker else None,
        )  # fmt: skip

    def on_insert(self, *words: str) -> None:
        self._depth("insert", *words)

    def on_update(self, *words: str) -> None:
        self._depth("update", *words)

    def on_delete(self, *words: str) -> None:
        self._depth("delete", *words)

    def on_swap(self, *words: str) -> None:
        self._depth("swap", *words)

    def on_quote(self, req: str, *numbers: str) -> None:
        self.log.quote(int(req), *(number(word) for word in numbers))

    def on_tick(self, req: str, name: str, *words: str) -> None:
        if name in _PRINTS:
            text = f"{words[0]};{words[1]};1752759000000;100;10.0;true"
            self.log.hot(Kind.TICK, int(req), msg=46, field=_PRINTS[name], text=text)
        else:
            price, size = words if len(words) == 2 else ("-", *words)
            row = {"price": number(price)} if len(words) == 2 else {}
            self.log.hot(Kind.TICK, int(req), msg=3 - len(words), field=_TICKS[name], size=number(size), **row)

    def on_halted(self, req: str, value: str) -> None:
        self.log.hot(Kind.TICK, int(req), msg=45, field=49, value=float(value))

    def on_print(self, req: str, price: str, size: str, *flags: str) -> None:
        marks = {_FLAGS[flag]: True for flag in flags}
        self.log.trade(int(req), number(price), number(size), ts_event=self.log.now, **marks)

    def on_bar(self, timeframe: str, begins: str, opened: str, closed: str = "", *rest: str) -> None:
        if timeframe == "5s":
            of = {"con_id": 7, "req_id": 91, "msg": 50, "what": "TRADES", "bar_size": "5 secs"}
            self.log.add(Kind.BAR, **of, ts_event=self.at(begins), volume=number(opened))
            return
        what, con_id = (*rest, *("TRADES", "7")[len(rest) :])
        day = timeframe == "1D"
        self.log.add(
            Kind.BAR, con_id=int(con_id), req_id=90, msg=17, what=what, bar_size="1 day" if day else "1 hour",
            time=begins if day else str(self.at(begins) // SECOND), ts_event=None if day else self.at(begins),
            open=number(opened), close=number(closed),
        )  # fmt: skip

    def on_clock(self) -> None:
        self.log.add(Kind.CLOCK, wall_ns=self.log.now, mono_ns=0)

    def on_end(self) -> None:
        self.log.add(Kind.REQUEST, action="run_end", stream="run", params="{}")


_FLAGS = {"past": "past_limit", "unreported": "unreported"}


def repeated(words: list[str]) -> Iterator[list[str]]:
    """The events of a line: none of the head's, several of an `each` line."""
    if not words or not words[0][0].isdigit():
        return
    if words[1] != "each":
        yield words
        return
    for i in range(int(words[2])):
        steps = (word.split("+", 1) for word in words[4:])
        yield [
            f"{float(words[0]) + i * float(words[3]):.9f}",
            *(repr(round(float(step[0]) + i * float(step[1]), 9)) if len(step) == 2 else step[0] for step in steps),
        ]


def batches(tape: Tape) -> Iterator[tuple[Batch, str]]:
    """The events numbered from 1, in parts, and what to look at after each."""
    seq = 1
    for events, look in tape.parts:
        yield Batch.of(events, seq).check(), look
        seq += len(events)


# ---- shown as text -------------------------------------------------------------------------------------------------


def table(columns: list[str], rows: list[list[Any]]) -> str:
    """Columns lined up, absent values as `-`."""
    cells = [columns, *([_text(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return repr(value + 0.0).removesuffix(".0")
    return str(value)


def shown(tape: Tape, tables: dict[str, Rows], looks: list[str]) -> str:
    """The whole expected text: what was looked at on the way, then the tables."""
    parts = list(looks)
    for name, columns in tape.show.items():
        if name == "health":  # the words are measures, of the date and of the symbol
            found = [row for row in tables[name] if row["measure"] in columns and row["stream"] is None]
            parts.append(f"{name}\n{table(['measure', 'value'], [[r['measure'], r['value']] for r in found])}")
            continue
        leading = [c for c in ("ts", "symbol") if name == "buckets" and c not in columns][: 1 if _one(tables) else 2]
        names = [*leading, *columns]
        rows = [[_when(tape, c, _cell(row, c)) for c in names] for row in tables.get(name, [])]
        parts.append(f"{name}\n{table(names, rows)}")
    return "\n\n".join(parts) + "\n"


def _cell(row: dict[str, Any], column: str) -> Any:
    """A value of a row, or one of its document by its path there."""
    if column in row:
        return row[column]
    value: Any = msgspec.json.decode(row["document"])
    for name in column.split("."):
        value = value[name]
    return len(value) if isinstance(value, list) else value


def _one(tables: dict[str, Rows]) -> bool:
    return len({row["symbol"] for row in tables.get("buckets", [])}) < 2


def _when(tape: Tape, column: str, value: Any) -> Any:
    """A column's value; of a time its text."""
    if column not in _TIMES:
        return value
    return iso(value) if tape.utc else f"{(value - tape.start) / SECOND:.9f}".rstrip("0").rstrip(".")


def look_text(
    look: str, quote: tuple[Any, ...], state: dict[str, Any], sides: dict[Side, list[tuple[Any, ...]]]
) -> str:
    """One look: the quote in force, the book's flags, its rows side by side, and the ladder of each side."""
    when, con_id = look.split()
    rows = []
    for i in range(max(map(len, sides.values()))):
        bid, ask = (sides[s][i] if i < len(sides[s]) else (None, None, None) for s in (Side.BID, Side.ASK))
        rows.append([i, *bid[::-1], *ask])
    names = ["row", "maker", "size", "bid", "ask", "size", "maker"]
    of = "" if con_id == "7" else f"con {con_id}, "
    parts = [
        f"at {when}: {of}quote {quote[0] or 'none'} {' '.join(map(_text, quote[1:]))}",
        "book " + (", ".join(f"{k} {v}" for k, v in state.items()) if state else "none"),
    ]
    if rows:
        parts.append(table(names, rows))
        parts += [f"{s.name.lower()} ladder: {', '.join(ladder(sides[s], s)) or '-'}" for s in (Side.BID, Side.ASK)]
    return "\n".join(parts)


def ladder(rows: list[tuple[Any, ...]], side: Side) -> list[str]:
    """By price over market makers, computed from rows."""
    prices = sorted({price for price, size, _ in rows if size > 0}, reverse=side == Side.BID)
    return [f"{_text(sum(s for p, s, _ in rows if p == price))} x {_text(price)}" for price in prices]


def play(tape: Tape) -> str:
    """Through the engine."""
    engine, tables, looks = Engine(), {}, []
    for batch, look in batches(tape):
        _take(tables, engine.fold(batch).tables)
        if look:
            looks.append(_look(engine, look))
    _take(tables, engine.finish().tables)
    if "reconciliation" in tape.show:
        whole = Written([event for events, _ in tape.parts for event in events])
        tables["reconciliation"] = [check._asdict() for check in reconcile(whole.day()).checks]
    return shown(tape, tables, looks)


def _take(tables: dict[str, Rows], made: dict[str, Any]) -> None:
    for name, rows in made.items():
        tables.setdefault(name, []).extend(rows.to_pylist())


def _look(engine: Engine, look: str) -> str:
    con_id = int(look.split()[1])
    state = engine.book.state(con_id)
    sides = {side: [tuple(row) for row in engine.book.rows(con_id, side)] for side in Side}
    for side in Side:
        levels = engine.book.ladder(con_id, side)
        assert [f"{_text(level.size)} x {_text(level.price)}" for level in levels] == ladder(sides[side], side)
    flags = {} if state is None else {"good": state.good, "bad": state.bad, "impossible": state.impossible}
    return look_text(look, engine.quotes.quote(con_id)[2:7], flags, sides)


def play_reference(tape: Tape, market: Any) -> str:
    """Through a plain-Python market (`tests/reference/market.py`, or a broken one)."""
    looks = []
    for batch, look in batches(tape):
        for kind, row in batch.events():
            market.on(str(kind), row)
        if look:
            looks.append(_look_reference(market, look))
    return shown(tape, {"buckets": market.rows}, looks)


def _look_reference(market: Any, look: str) -> str:
    inst = market.instruments[int(look.split()[1])]
    sub = inst.used.get("book")
    if sub is None:
        return look_text(look, (inst.source, *inst.quote), {}, {Side.ASK: [], Side.BID: []})
    flags = {"good": sub.book.good, "bad": sub.book.bad, "impossible": sub.book.impossible}
    sides = {side: list(sub.book.visible(side)) for side in Side}
    return look_text(look, (inst.source, *inst.quote), flags, sides)
