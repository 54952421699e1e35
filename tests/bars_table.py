"""A scenario on bars is a text table: a line a bar of one minute from 10:00 in New York, then what the strategy wants.

    10.00 10.05 9.98 10.02 10000    open, high, low, close, volume of the next bar
    -                               no bar in this minute
    > long 100 stop=9.90 …          an order at the end of the bar before: side, quantity, fields of `EntryPlan`
    > exit | stop 9.95 | target 10.2 | entry 9.9 | cancel
    > rival short 100 type=stop …   a second entry of the same decision

The seq of a bar is its number among the lines of bars and holes, from 1. One symbol, TEST, con_id 7, 2025-07-17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from harvester.projections.trading.bars.bar_exchange import BarRules
from harvester.projections.trading.bars.bar_series import TimedBar
from harvester.projections.trading.bars.bars_trading import BarsTrading, BarSymbol, BarTrades
from harvester.projections.trading.costs import cost_table
from harvester.projections.trading.plan import Change, ChangeKind, EntryPlan, OrderType
from harvester.projections.trading.run_terms import RunTerms
from harvester.projections.trading.strategies import Library
from harvester.projections.trading.user_decider import UserDecider
from harvester.projections.trading.user_strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

START = 1_752_760_800_000_000_000  # 2025-07-17 14:00:00 UTC
MINUTE = 60_000_000_000
OPENS, CLOSES = START - 30 * MINUTE, START + 360 * MINUTE
CON_ID, SYMBOL = 7, "TEST"
Wants = dict[int, list[Any]]


class Scripted(Strategy):
    """Wants what its script says at the bar with that seq; keeps what it saw."""

    name = "scripted"
    live_only = False

    def on_second(self, now: Any) -> Any:
        self.state.seen = (*getattr(self.state, "seen", ()), now)
        return SCRIPT.get(now.seq, [])


SCRIPT: Wants = {}


class One(Library):
    """One strategy by that name."""

    def __init__(self, strategy: Strategy) -> None:
        super().__init__()
        self.strategy = strategy

    def make(self, name: str, recorded: str, settings: Mapping[str, Any]) -> Any:
        return UserDecider(self.strategy, recorded), recorded


def bar(k: int, prices: Sequence[float], *, seq: int | None = None, start: int = START) -> TimedBar:
    """The bar of minute `k`: open, high, low, close, volume."""
    begin = start + k * MINUTE
    return TimedBar(k + 1 if seq is None else seq, begin, begin + MINUTE, *prices, 1, "1 min", None)


def terms(**changes: Any) -> RunTerms:
    given = {
        "run": "r001",
        "trading_date": "2025-07-17",
        "session": (OPENS, CLOSES),
        "latency_ns": 250_000_000,
        "costs": cost_table("none"),
        "memory": None,
        "strategies": (("scripted", "0123456789abcdef", {}),),
    }
    return RunTerms(**(given | changes))


def trade(
    bars: Sequence[TimedBar], wants: Wants, rules: BarRules | None = None, tick: float | None = 0.01, **changes: Any
) -> BarTrades:
    """Trade these bars by a script: by seq of the bar, what is wanted at its end."""
    SCRIPT.clear()
    SCRIPT.update(wants)
    made = BarsTrading(terms(**changes), rules or BarRules(), One(Scripted()), "tape")
    return made.run([BarSymbol(CON_ID, SYMBOL, tick, bars)], ())


def play(text: str, **given: Any) -> BarTrades:
    """Trade a table."""
    bars, wants = read(text, given.pop("start", START))
    return trade(bars, wants, **given)


def read(text: str, start: int = START) -> tuple[list[TimedBar], Wants]:
    """The bars of a table, and what is wanted."""
    bars: list[TimedBar] = []
    wants: Wants = {}
    minute = 0
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith(">"):
            wanted = wants.setdefault(minute, [])
            words = line[1:].split()
            if words[0] == "rival":
                wanted[-1] = msgspec.structs.replace(wanted[-1], rival=_plan(words[1:]))
            else:
                wanted.append(_plan(words) if words[0] in ("long", "short") else _change(*words))
            continue
        if line != "-":
            bars.append(bar(minute, [float(word) for word in line.split()], start=start))
        minute += 1
    return bars, wants


def _plan(words: list[str]) -> EntryPlan:
    fields: dict[str, Any] = {"type": OrderType.MARKET}
    for word in words[2:]:
        name, _, value = word.partition("=")
        fields[name] = OrderType(value) if name == "type" else True if name == "immediate" else float(value)
    return EntryPlan(long=words[0] == "long", quantity=int(words[1]), reason="WANTED", **fields)


def _change(kind: str, value: str = "WANTED") -> Change:
    if kind == "exit":
        return Change(ChangeKind.EXIT, reason=value)
    return Change(ChangeKind(kind), None if kind == "cancel" else float(value))


def fills(made: BarTrades) -> list[str]:
    """Each fill as `role price x quantity @ seq`."""
    rows = made.tables["fills"].to_pylist()
    return [f"{r['role']} {r['price']:.10g} x {r['quantity']} @ {r['seq']}" for r in rows]


def ends(made: BarTrades) -> list[str]:
    """Exit reasons of episodes, then reasons of entries without a fill."""
    decisions = made.tables["decisions"].to_pylist()
    return made.tables["episodes"]["exit_reason"].to_pylist() + [
        row["reason"] for row in decisions if row["action"] == "unfilled"
    ]
