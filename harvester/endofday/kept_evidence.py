"""Evidence from the kept episodes of the days that memory holds: setups, symbols and hours of entry.

Gates are not among them: an entry that a gate stopped has no outcome.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from harvester.endofday.datasets import kept_day_and_hours
from harvester.errors import BadSetting, Mismatch, NoLog
from harvester.events.kinds import SourceKind
from harvester.home import parse_date
from harvester.memory.chain import excluded_dates, lost_datasets, version_named
from harvester.memory.day_clusters import group_tables
from harvester.memory.day_summary import STARVED
from harvester.memory.evidence import evidence, tables_of
from harvester.memory.fold_days import LEARNED_KIND, KnownDay, days_of
from harvester.projections.trading.episodes import RULES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.home import Home
    from harvester.memory.day_summary import DaySummary, TradeGroup

GROUPS = ("setup", "symbol", "hour")
_READ_AT_ONCE = 2


@dataclass(frozen=True)
class KeptEvidence:
    """The evidence of some days of memory.

    Attributes:
        memory: hash of the version whose days these are.
        data: kinds of data that are pooled.
        rules: version of the rules of simulated trading that made the episodes.
        dates: the days used, in order, those without a trade too.
        left_out: other days by reason, yyyy-MM-dd.
        evidence: as `harvester.memory.evidence.evidence` gives it.
    """

    memory: str
    data: list[str]
    rules: int
    dates: list[str]
    left_out: dict[str, list[str]]
    evidence: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """JSON-ready, keys in the order of the attributes."""
        return asdict(self)


def kept_evidence(home: Home, kinds: Sequence[str] = (LEARNED_KIND,)) -> KeptEvidence:
    """The evidence of the days of these kinds of data and today's rules, in the newest version of memory.

    Starved days are left out, as nothing is learned from them.

    Raises:
        BadSetting: no such kind of data.
        NoLog: there is no memory, or no such day in it.
        DamagedFile: the dataset of such a day is missing or damaged.
        Mismatch: it is not the one that memory holds.
        HarvesterError: memory_latest.json is damaged.
    """
    _check_kinds(kinds)
    memory = version_named(home, None)
    wanted, left_out = _chosen(days_of(memory), kinds)
    days: list[tuple[DaySummary, list[TradeGroup]]] = []
    for day, hours in _read(home, wanted, memory["hash"]):
        if STARVED in day.left_out:
            left_out.setdefault("starved", []).append(day.date)
        else:
            days.append((day, hours))
    if excluded := sorted(excluded_dates(home)):
        left_out["excluded"] = excluded
    if not days:
        raise NoLog(_no_days(kinds, left_out))
    tables = tables_of([day for day, _ in days])
    tables += group_tables("hour", len(days), ((day.date, group) for day, hours in days for group in hours))
    dates = [day.date for day, _ in days]
    return KeptEvidence(memory["hash"], sorted(set(kinds)), RULES, dates, left_out, evidence(tables))


def _check_kinds(kinds: Sequence[str]) -> None:
    known = [kind.value for kind in SourceKind]
    for kind in kinds:
        if kind not in known:
            raise BadSetting(f"--kind {kind!r} is not a kind of data; use one of {', '.join(known)}")


def _chosen(held: Sequence[KnownDay], kinds: Sequence[str]) -> tuple[list[KnownDay], dict[str, list[str]]]:
    """The days of these kinds and today's rules, and the dates of the others by reason."""
    wanted: list[KnownDay] = []
    left_out: dict[str, list[str]] = {}
    for day in held:
        if day.kind in kinds and day.rules == RULES:
            wanted.append(day)
        else:
            reason = f"rules {day.rules}" if day.kind in kinds else day.kind
            left_out.setdefault(reason, []).append(day.date)
    return wanted, left_out


def _read(home: Home, days: Sequence[KnownDay], version: str) -> list[tuple[DaySummary, list[TradeGroup]]]:
    """The datasets of these days, which must be those that the version holds."""
    if lost := lost_datasets(home, [day.date for day in days]):
        raise lost[0]
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        found = list(pool.map(lambda day: kept_day_and_hours(home.on(parse_date(day.date))), days))
    for known, (day, _) in zip(days, found, strict=True):
        if KnownDay.of(day) != known:
            raise Mismatch(
                f"the dataset of {known.date} is not the one that memory {version} holds; "
                "`hv memory rebuild` makes memory from the datasets"
            )
    return found


def _no_days(kinds: Sequence[str], left_out: dict[str, list[str]]) -> str:
    others = [kind.value for kind in SourceKind if kind.value in left_out]
    move = f"--kind {others[0]} takes those days" if others else "`hv eod` folds the next one"
    return f"no day of kind {' or '.join(kinds)} and rules {RULES} in memory ({in_words(left_out)}); {move}"


def in_words(left_out: dict[str, list[str]]) -> str:
    """How many days were left out for each reason."""
    return ", ".join(f"{len(dates)} {reason}" for reason, dates in left_out.items())
