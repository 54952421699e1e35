"""`RunParams`: every input of a fold besides the market's messages, as stored in the run's start event (law 5).

The recorder calls `RunParams.build` once per run and writes `text()` into `request.params` of the `run_start` row; the
engine reads it back with `RunParams.parse`. The text is canonical JSON (keys sorted, shortest numbers), so equal
parameters are equal bytes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harvester.calendar import ExchangeSession, day_bounds, session, sessions_before
from harvester.errors import DamagedFile
from harvester.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from harvester.config import Settings

TOGGLES = ("episode_epoch_ms", "episode_series_jsonl")
SESSIONS_BEFORE = 30  # enough to place the daily bars of a "1 M" backfill


class CalendarDay(msgspec.Struct, frozen=True):
    """A date and its session (None when the exchange is closed)."""

    date: str
    session: ExchangeSession | None


class Calendar(msgspec.Struct, frozen=True):
    """The trading date [`start_ns`, `end_ns`) ns UTC, its session, and the sessions before it, oldest first."""

    exchange: str
    time_zone: str
    trading_date: str
    start_ns: int
    end_ns: int
    session: ExchangeSession | None
    before: tuple[CalendarDay, ...] = ()


class StrategyRef(msgspec.Struct, frozen=True):
    """A strategy by name, digest of its source, and its settings."""

    name: str
    digest: str
    settings: dict[str, Any] = {}


class RunParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of one run.

    Attributes:
        config: `Settings.canonical()`.
        toggles: the artefact toggles, by setting name.
        calendar: the trading date and its sessions.
        costs: the cost table in use, as JSON-ready builtins.
        memory: the memory given to strategies; None without one.
        strategies: in the order in which they decide.
        package: version, and `package_digest` of the code that folds.
    """

    config: dict[str, Any] = {}
    toggles: dict[str, bool] = {}
    calendar: Calendar | None = None
    costs: dict[str, Any] = {}
    memory: Any = None
    strategies: tuple[StrategyRef, ...] = ()
    package: dict[str, str] = {}

    @classmethod
    def build(
        cls,
        settings: Settings,
        trading_date: date,
        *,
        memory: Any = None,
        strategies: Sequence[StrategyRef] = (),
        costs: dict[str, Any] | None = None,
    ) -> RunParams:
        """The parameters of a run that starts now; `costs` defaults to the settings' table with the date's rates."""
        params = cls(
            config=settings.canonical(),
            toggles={name: bool(getattr(settings, name)) for name in TOGGLES},
            calendar=calendar_of(trading_date, settings),
            costs=_cost_table(settings, trading_date) if costs is None else costs,
            memory=memory,
            strategies=tuple(strategies),
            package={"version": __version__, "digest": package_digest()},
        )
        return cls.parse(params.text(), 0)  # exactly what reading the log will give

    def text(self) -> str:
        """Canonical JSON."""
        return msgspec.json.encode(msgspec.to_builtins(self), order="sorted").decode()

    @classmethod
    def parse(cls, text: str | None, seq: int) -> RunParams:
        """Read `request.params` of a `run_start` row; unknown keys of a newer Harvester are ignored.

        Raises:
            DamagedFile: the text is not a JSON object with these parameters.
        """
        try:
            return msgspec.json.decode(text or "{}", type=cls)
        except (msgspec.DecodeError, RecursionError) as error:  # a log is an untrusted file
            what = f"run_start at seq {seq} has unreadable parameters: {error}"
            raise DamagedFile("request", what, f"inspect it with hv log show --from-seq {seq} --limit 1") from None


def calendar_of(trading_date: date, settings: Settings) -> Calendar:
    """The calendar part of the parameters."""
    start, end = day_bounds(trading_date, settings.time_zone, settings.day_start)
    exchange = settings.exchange_calendar
    before = sessions_before(trading_date, SESSIONS_BEFORE, exchange)
    return Calendar(
        exchange=exchange,
        time_zone=settings.time_zone,
        trading_date=trading_date.isoformat(),
        start_ns=start,
        end_ns=end,
        session=session(trading_date, exchange),
        before=tuple(CalendarDay(day.isoformat(), session(day, exchange)) for day in before),
    )


def _cost_table(settings: Settings, trading_date: date) -> dict[str, Any]:
    from harvester.projections.trading.costs import cost_table

    table = cost_table(settings.cost_table, trading_date=trading_date, monthly_shares=settings.monthly_shares)
    costs: dict[str, Any] = msgspec.to_builtins(table)
    return costs


FOLD = ("events", "projections", "calendar.py", "units.py")
"""Folders and modules of `harvester` that decide what a log folds to (docs/decisions/0014)."""


def package_digest(parts: Sequence[str] = FOLD, folder: Path | None = None) -> str:
    """BLAKE2b over Python sources (path and text, LF line ends), 32 hex digits.

    By default over `FOLD`: logs folded by code of the same digest can be compared. Code before the log (gateway, wire,
    recorder) and code that stores and reads it is left out: what it did is in the log, and the content hash proves it.

    Args:
        parts: folders and modules below `folder`.
        folder: the package; None = this one.

    Raises:
        FileNotFoundError: `folder` lacks one of the parts.
    """
    root = folder or Path(__file__).resolve().parent.parent
    paths: list[Path] = []
    for part in parts:
        found = [root / part] if part.endswith(".py") else list((root / part).rglob("*.py"))
        if not found:
            raise FileNotFoundError(f"{root / part} has no Python sources")
        paths += found
    total = hashlib.blake2b(digest_size=16)
    for path in sorted(paths, key=lambda p: p.relative_to(root).as_posix()):
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return total.hexdigest()
