"""Damage found in a log: collected while reading, raised by the caller that must not go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harvester.errors import DamagedLog

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Damage:
    """One place where the bytes are not what was written.

    `first_seq` and `last_seq` bound the events it costs; both 0 where that cannot be told.
    `set_aside`: a hole left by a damaged run that was set aside; it is known, and recording goes on behind it.
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


class BadBytes(Exception):
    """Carries a `Damage` to where it is collected."""

    def __init__(self, damage: Damage) -> None:
        super().__init__(str(damage))
        self.damage = damage


def joined(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Join closed ranges of seq, given in rising order, where they touch."""
    out: list[tuple[int, int]] = []
    for first, last in spans:
        if out and out[-1][1] + 1 == first:
            out[-1] = (out[-1][0], last)
        else:
            out.append((first, last))
    return tuple(out)


def damaged_log(damages: Sequence[Damage], good: tuple[tuple[int, int], ...]) -> DamagedLog:
    """Make the error for the first of `damages`, saying how many more there are."""
    first = damages[0]
    more = f" (and {len(damages) - 1} more places)" if len(damages) > 1 else ""
    return DamagedLog(str(first.file), first.offset, first.what + more, good)
