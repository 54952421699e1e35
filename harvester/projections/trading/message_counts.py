"""Counts of what a user's strategy built, returned and was refused: for the user alone, no part of the fold's state."""

from __future__ import annotations

from typing import Any

from harvester.projections.trading.plan import Change, EntryPlan

HOLDING = "HOLDING"
_WHY = {HOLDING: " (a position or entry exists; self.exit() closes it)"}


class MessageCounts:
    """The counts of one strategy.

    Attributes:
        orders, changes: built by `self.buy`, `self.exit` and the others, less those that `on_second` returned.
        refused: orders by the gate that refused them.
    """

    def __init__(self) -> None:
        self.orders = self.changes = 0
        self.refused: dict[str, int] = {}

    def returned(self, answer: Any) -> None:
        """Count the messages in an answer of `on_second`."""
        for part in answer if type(answer) in (list, tuple) else (answer,):
            if isinstance(part, EntryPlan):
                self.orders -= 1 if part.rival is None else 2
            elif isinstance(part, Change):
                self.changes -= 1

    def refuse(self, codes: tuple[str, ...]) -> None:
        """Count an order that these gates refused."""
        for code in codes:
            self.refused[code] = self.refused.get(code, 0) + 1


def notes_of(counts: list[tuple[str, MessageCounts]], failed: set[str]) -> list[str]:
    """Lines for the user, by strategy in order of name; a strategy in `failed` may not have come to return."""
    notes = []
    for name in sorted({name for name, _ in counts}):
        mine = [one for called, one in counts if called == name]
        refused = {code: sum(one.refused.get(code, 0) for one in mine) for one in mine for code in one.refused}
        if refused:
            listed = ", ".join(
                f"{n:,} {code}{_WHY.get(code, ' (returned with the order)')}" for code, n in refused.items()
            )
            notes.append(f"strategy {name}: orders were refused: {listed}")
        orders, changes = (max(sum(getattr(one, what) for one in mine), 0) for what in ("orders", "changes"))
        if (orders or changes) and name not in failed:
            built = " and ".join(f"{n:,} {what}" for n, what in ((orders, "orders"), (changes, "changes")) if n)
            notes.append(f"strategy {name} built {built} that on_second did not return; only what it returns acts")
    return notes
