"""The failure of a user's strategy, and the notice that reports it in the log.

A strategy that fails decides nothing from that second on. The recorder then writes a notice `Own.STRATEGY_DROPPED`; at
its seq the entries of the strategy are cancelled and its positions are left (docs/trading.md, rule 18).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from harvester.calendar import of_day
from harvester.events.kinds import Own

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TEXT_MAX = 200


class Failure(NamedTuple):
    """A strategy that failed: at which clock (seq, ts ns UTC), in which symbol, and why.

    Attributes:
        seq, ts, con_id: 0 when it failed before its first second.
    """

    strategy: str
    digest: str
    seq: int
    ts: int
    con_id: int
    symbol: str
    why: str

    def line(self) -> str:
        """One line for the user, the time in New York."""
        if not self.seq:
            return f"strategy {self.strategy} dropped before its first second: {self.why}"
        at = f"seq {self.seq}, {of_day(self.ts)} in New York, {self.symbol}"
        return f"strategy {self.strategy} dropped at {at}: {self.why}"

    def detail(self) -> dict[str, Any]:
        """What the notice holds."""
        return self._asdict()


def failure_of(row: Mapping[str, Any]) -> Failure | None:
    """The failure that a notice reports; None for another notice, or one that cannot be read (logs are untrusted)."""
    if row.get("code") != Own.STRATEGY_DROPPED or row.get("msg") is not None:
        return None
    return read_failure(row.get("detail"))


def read_failure(detail: str | None) -> Failure | None:
    """The failure of a notice's `detail`; None if it cannot be read."""
    try:
        found = msgspec.json.decode(detail or "{}", type=dict[str, Any])
        failure: Failure = msgspec.convert([found.get(name) for name in Failure._fields], Failure)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return failure._replace(why=printable(failure.why), symbol=printable(failure.symbol))


def printable(text: str) -> str:
    """One line of at most `TEXT_MAX` characters."""
    return "".join(c if c.isprintable() else "?" for c in text)[:TEXT_MAX]


def first_failures(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Failure]:
    """The first failure that notices report of each strategy, by name and digest."""
    found: dict[tuple[str, str], Failure] = {}
    for row in rows:
        if (failure := failure_of(row)) is not None:
            found.setdefault((failure.strategy, failure.digest), failure)
    return found
