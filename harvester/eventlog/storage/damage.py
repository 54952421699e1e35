"""Describe damage found in a log: readers collect `Damage`, strict callers raise it as `DamagedLog`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harvester.errors import DamagedLog

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from harvester.events.kinds import Kind


@dataclass(frozen=True)
class Damage:
    """One place where a file differs from what was written.

    `first_seq` and `last_seq`: range of the lost events; both 0 when it is unknown.
    `set_aside`: the gap of a quarantined run; it is known, and recording continues after it.
    """

    file: Path
    offset: int
    what: str
    first_seq: int = 0
    last_seq: int = 0
    set_aside: bool = False

    def __str__(self) -> str:
        cost = f" (seq {self.first_seq}-{self.last_seq})" if self.last_seq else ""
        return f"{self.file} at byte {self.offset}: {self.what}{cost}"


def in_short(error: Exception) -> str:
    """The text of an Arrow error: one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


def other_columns(names: Sequence[str], kind: Kind) -> str:
    """The text for a file whose columns are not those of its kind; it shows at most 40 names."""
    return f"columns {names[:40]} are not those of kind {kind}"


class BadBytes(Exception):
    """Raised with a `Damage` and caught where damage is collected."""

    def __init__(self, damage: Damage) -> None:
        super().__init__(str(damage))
        self.damage = damage


def joined(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Join adjacent closed ranges of seq, given in ascending order."""
    out: list[tuple[int, int]] = []
    for first, last in spans:
        if out and out[-1][1] + 1 == first:
            out[-1] = (out[-1][0], last)
        else:
            out.append((first, last))
    return tuple(out)


def damaged_log(damages: Sequence[Damage], good: tuple[tuple[int, int], ...]) -> DamagedLog:
    """Create the error for the first of `damages`, with the count of the others."""
    first = damages[0]
    more = f" (and {len(damages) - 1} more places)" if len(damages) > 1 else ""
    return DamagedLog(str(first.file), first.offset, first.what + more, good)
