"""Drawn entries and changes for the simulated trading: every type of order, and a strategy that sends them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from harvester.projections.trading import strategies
from harvester.projections.trading.plan import Change, ChangeKind, EntryPlan, OrderType
from harvester.projections.trading.strategy import Verdict, View

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

SECOND = 1_000_000_000
GRIDS = (0.01, 0.01, 0.01, 0.005)
TYPES = list(OrderType)
TRAILS = (None, None, 0.01, 0.035)
CHANGES = (*ChangeKind, ChangeKind.EXIT, ChangeKind.STOP, ChangeKind.STOP, ChangeKind.TARGET)
CALM_CHANGES = tuple(kind for kind in CHANGES if kind != ChangeKind.ENTRY)


class DrawnSettings(msgspec.Struct, frozen=True):
    plans: dict[str, EntryPlan] = {}
    changes: dict[str, tuple[Change, ...]] = {}
    version: int = 1


class Drawn:
    """Enters at drawn clocks, independent of the market: plans and changes are by clock (ns UTC) and symbol."""

    name = "drawn"

    def __init__(self, settings: Any) -> None:
        self.settings = msgspec.convert(dict(settings), DrawnSettings)

    def observe(self, con_id: int, bucket: Any) -> None: ...

    def decide(self, view: View) -> Verdict:
        key = f"{view.ts} {view.con_id}"
        if view.holding:
            changes = self.settings.changes.get(key, ())
            return Verdict(("HOLDING", seen(view.position._asdict() if view.position else {})), None, changes)
        return Verdict((), self.settings.plans.get(key))

    def finished(self, con_id: int, ts: int) -> None: ...

    def snapshot(self) -> Any:
        return None

    def restore(self, state: Any) -> None: ...


def seen(position: dict[str, Any]) -> str:
    """What a strategy sees of its position, as a gate code."""
    return " ".join(f"{k}={round(v, 6) if isinstance(v, float) else v}" for k, v in position.items())


class DrawnBeside(Drawn):
    """Another such strategy in the same symbols."""

    name = "drawn_beside"


for one in (Drawn, DrawnBeside):
    strategies.STRATEGIES[one.name] = one  # type: ignore[assignment]


class PlanDraw:
    """Draws plans around 10.00 dollars, where the prices of the random days stay."""

    def __init__(self, chance: random.Random, start: int, seconds: int, con_ids: list[int]) -> None:
        self.chance, self.start, self.seconds, self.con_ids = chance, start, seconds, con_ids
        self.rivals = chance.random() < 0.3  # on such days no entry is changed: which of the two is open
        self.types = TYPES if chance.random() < 0.7 else [chance.choice(TYPES)]
        self.grid = chance.choice(GRIDS)  # of the prices a strategy wants

    def plans(self) -> Iterator[tuple[str, EntryPlan]]:
        often = self.chance.choice((0.1, 0.5))
        for second in range(1, self.seconds):
            for con_id in self.con_ids:
                if self.chance.random() < often:
                    rival = self.plan(second, None) if self.rivals and self.chance.random() < 0.7 else None
                    yield f"{self.start + second * SECOND} {con_id}", self.plan(second, rival)

    def plan(self, second: int, rival: EntryPlan | None) -> EntryPlan:
        chance, long = self.chance, self.chance.random() < 0.5
        kind = chance.choice(self.types)
        middle = chance.randint(996, 1004)
        way = 1 if long else -1
        near, trigger = self.price(middle + chance.randint(-4, 4)), self.price(middle + way * chance.randint(-1, 4))
        return EntryPlan(
            long=long,
            quantity=chance.choice((1, 30, 100, 300)),
            reason=f"DRAWN {second}",
            type=kind,
            limit=near if kind in (OrderType.LIMIT, OrderType.STOP_LIMIT) else None,
            trigger=trigger if kind in (OrderType.STOP, OrderType.STOP_LIMIT) else None,
            trail=chance.choice((0.005, 0.01, 0.03)) if kind is OrderType.TRAIL else None,
            immediate=chance.random() < 0.3,
            valid_seconds=chance.choice((None, 0.0, 0.5, 2.0, 9.0)),
            stop=chance.choice((None, *3 * (self.price(middle - way * chance.randint(0, 6)),))),
            stop_trail=chance.choice(TRAILS),
            target=chance.choice((None, *3 * (self.price(middle + way * chance.randint(-1, 6)),))),
            hold_seconds_max=chance.choice((None, 0.5, 3.0, 20.0)),
            features={"second": float(second)},
            rival=rival,
        )

    def changes(self) -> Iterator[tuple[str, tuple[Change, ...]]]:
        often = self.chance.choice((0.0, 0.1, 0.4))
        for second in range(1, self.seconds):
            for con_id in self.con_ids:
                if self.chance.random() < often:
                    many = self.chance.choice((1, 1, 1, 2))
                    yield f"{self.start + second * SECOND} {con_id}", tuple(self.change() for _ in range(many))

    def change(self) -> Change:
        kind = self.chance.choice(CALM_CHANGES if self.rivals else CHANGES)
        if kind in (ChangeKind.EXIT, ChangeKind.CANCEL):
            return Change(kind, reason="DRAWN_EXIT" if kind is ChangeKind.EXIT else "")
        return Change(kind, self.price(self.chance.randint(993, 1007)))

    def price(self, cents: int) -> float:
        """On the day's grid, which may be finer than that of the market."""
        return round(cents / 100 + self.chance.choice((0.0, self.grid)) * (self.grid < 0.01), 4)
