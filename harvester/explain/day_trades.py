"""The simulated trades of a date, folded from its log, or as kept under `memory/datasets/` when the log is gone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from harvester.artefacts.table_files import about, read_parquet
from harvester.endofday.datasets import EPISODES_FILE, episodes_of, starved
from harvester.errors import NoLog
from harvester.eventlog.reader import open_day
from harvester.eventlog.symbols import subscribed
from harvester.memory.day_summary import rules_of, why_left_out
from harvester.memory.strategy_files import KeptStrategies
from harvester.projections.trading.episodes import MODE_BARS, MODE_EVENT
from harvester.projections.trading.position import DATA_END
from harvester.rebuild.bars_project import FOLDER as BARS_FOLDER
from harvester.rebuild.project import being_recorded, fold_day
from harvester.rebuild.strategy_folders import FOLDER, find_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import date

    from harvester.eventlog.reader import Day
    from harvester.home import DatePaths

LISTED = (
    "trade_id", "symbol", "side", "quantity", "mode", "taken", "strategy", "decision_seq", "decision_ts", "entry_ts",
    "entry_price", "exit_ts", "exit_price", "hold_seconds", "pnl_usd", "r_multiple", "mae", "mfe", "entry_reason",
    "exit_reason", "win_loss", "unseen_seconds", "rules",
)  # fmt: skip
"""Columns of a row of `DayTrades.listed`; `commission` and `left_out` follow."""


class EodAbout(NamedTuple):
    """The options of `hv eod` that decide which trades are learned from."""

    allow_not_live: bool = False
    starved: bool = False


@dataclass
class DayTrades:
    """The trades of a date.

    Attributes:
        source: `log`, or the folder below the data root that holds the trades.
        episodes: rows of `trade_rows.EPISODES`, in order of their exit.
        decisions: rows of `trade_rows.DECISIONS` with an action, in order of seq.
        symbols: recorded, or traded when the log is gone.
        options: they decide which trades memory leaves out: as `hv eod` folded the date, else its defaults.
        open: trades still open on a date that is being recorded; they are not episodes yet.
        note: what to know of trades that are not the recorded strategies' of this log.
        day: the log; None when it is gone.
        table: buckets, decisions or fills by their name; None without it.
        option: the `--strategy NAME-DIGEST` that selects them, after a space; "" for recorded strategies.
        left_out_always: why memory learns from none of the trades; "" when it may.
        explained: whether `hv explain` can explain them.
    """

    trading_date: date
    source: str
    episodes: list[dict[str, Any]]
    decisions: list[dict[str, Any]]
    symbols: list[str]
    options: EodAbout
    open: int = 0
    note: str = ""
    day: Day | None = None
    table: Callable[[str], pa.Table | None] = lambda _: None
    option: str = ""
    left_out_always: str = ""
    explained: bool = True

    def listed(self, symbols: Collection[str] | None = None) -> list[dict[str, Any]]:
        """One row a trade of these symbols (None: all), times int ns UTC; values an old date lacks are None."""
        return [self._listed(row) for row in self.episodes if symbols is None or row["symbol"] in symbols]

    def left_out(self, row: dict[str, Any]) -> str:
        """Why memory leaves out the trade of an episode row; "" when it learns from it."""
        rules = max(map(rules_of, self.episodes), default=1)
        why = why_left_out(row, rules, allow_not_live=self.options.allow_not_live, starved=self.options.starved)
        return why or ("" if row["taken"] else NOT_TAKEN) or self.left_out_always

    def _listed(self, row: dict[str, Any]) -> dict[str, Any]:
        fills = _decode(row["document"]).fills
        return {
            **{name: row.get(name) for name in LISTED},
            "rules": rules_of(row),
            "commission": round(sum(fill.commission for fill in fills), 6),
            "left_out": self.left_out(row),
        }

    def unfilled(self, symbols: Collection[str] | None = None) -> list[dict[str, Any]]:
        """One row an entry that ended without a fill: symbol, strategy, decision, when and why it ended."""
        names = ("symbol", "strategy", "decision_seq", "side", "quantity", "reason", "ts", "seq")
        ended = [row for row in self.decisions if row["action"] == "unfilled"]
        return [{n: row[n] for n in names} for row in ended if symbols is None or row["symbol"] in symbols]


NOT_TAKEN, NOT_RECORDED = "NOT_TAKEN", "NOT_RECORDED"


class _Charged(msgspec.Struct):
    """A fill's commission."""

    commission: float = 0.0


class _Document(msgspec.Struct):
    """The part of an episode that its row lacks."""

    fills: list[_Charged]


_decode = msgspec.json.Decoder(_Document).decode


@dataclass
class Totals:
    """Sums over the listed trades; vetoed ones (`taken` false) are in none.

    Attributes:
        pnl_usd: after costs; `commission`: the costs, USD.
        r_mean: over the `r_trades` with an initial risk; None without one.
        left_out: trades that memory does not learn from, by reason.
        unfilled: entries that ended without a fill, by reason.
    """

    trades: int = 0
    wins: int = 0
    losses: int = 0
    pnl_usd: float = 0.0
    commission: float = 0.0
    r_mean: float | None = None
    r_trades: int = 0
    learned: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    unfilled: dict[str, int] = field(default_factory=dict)


def totals(rows: Sequence[dict[str, Any]], unfilled: Sequence[dict[str, Any]]) -> Totals:
    """Add up `DayTrades.listed` and `DayTrades.unfilled`."""
    taken = [row for row in rows if row["taken"]]
    measured = [row["r_multiple"] for row in taken if row["r_multiple"] is not None]
    return Totals(
        trades=len(taken),
        wins=sum(row["win_loss"] == "WIN" for row in taken),
        losses=sum(row["win_loss"] == "LOSS" for row in taken),
        pnl_usd=round(sum(row["pnl_usd"] for row in taken), 6),
        commission=round(sum(row["commission"] for row in taken), 6),
        r_mean=sum(measured) / len(measured) if measured else None,
        r_trades=len(measured),
        learned=sum(not row["left_out"] for row in taken),
        left_out=dict(Counter(row["left_out"] for row in taken if row["left_out"])),
        unfilled=dict(Counter(row["reason"] for row in unfilled)),
    )


def trades_of(paths: DatePaths, progress: Callable[[int, int], None] | None = None) -> DayTrades:
    """The trades of a date.

    Raises:
        NoLog: nothing is recorded or kept of that date.
        DamagedLog: its log is damaged.
        CodeChanged: a strategy of the user is not at hand.
        DamagedFile: the log is gone, and what is kept cannot be read.
    """
    try:
        day = open_day(paths.trading_date, paths.home, check=False)
    except NoLog:
        if not (paths.dataset / EPISODES_FILE).exists():
            raise
        return _kept(paths)
    made = fold_day(day, progress, library=KeptStrategies(paths.home))
    rows = episodes_of(made, paths.home, day.first_seq).to_pylist()
    ended = rows
    if being_recorded(paths.home, day):
        ended = [row for row in rows if row["exit_reason"] != DATA_END]
    return DayTrades(
        trading_date=paths.trading_date,
        source="log",
        episodes=sorted(ended, key=_place),
        decisions=_acted(made.tables["decisions"]),
        symbols=list(subscribed(day)),
        options=_options(paths) or EodAbout(starved=starved(made)),
        open=len(rows) - len(ended),
        day=day,
        table=made.tables.get,
    )


def trades_of_strategy(paths: DatePaths, wanted: str, mode: str = MODE_EVENT) -> DayTrades:
    """The trades that `hv project --strategy` made on a date, as it wrote them; `wanted` as for `find_folder`.

    `mode`: `bars` for those of `hv project --mode bars`.

    Raises:
        BadSetting: no projection of the date, or several, are meant.
        DamagedFile: its files cannot be read.
        DamagedLog: the log of the date is damaged.
    """
    folder = find_folder(paths.home, paths.trading_date, wanted, BARS_FOLDER if mode == MODE_BARS else FOLDER)
    episodes, decisions = folder.table("episodes"), folder.table("decisions")
    facts = about(episodes)
    try:
        day = open_day(paths.trading_date, paths.home, check=False)
    except NoLog:
        day = None
    kind = "trades on bars" if mode == MODE_BARS else "trades"
    note = f"{kind} of {folder.name}, as projected through seq {int(facts['through_seq']):,}"
    if day is None:
        note += "; the log is gone"
    elif day.last_seq > int(facts["through_seq"]):
        note += f"; the log now ends at seq {day.last_seq:,}: project again"
    rows = episodes.to_pylist()
    acted = _acted(decisions)
    symbols = {row["symbol"] for row in (*rows, *acted)} if day is None else subscribed(day)
    return DayTrades(
        trading_date=paths.trading_date,
        source=folder.path.relative_to(paths.home.root).as_posix(),
        episodes=sorted(rows, key=_place),
        decisions=acted,
        symbols=list(symbols) if day is not None else sorted(symbols),
        options=EodAbout(),
        open=int(facts["open"]),
        note=note,
        day=day,
        table=lambda name: None if name == "fills" else folder.table(name),
        option=f" --strategy {folder.name}",
        explained=mode == MODE_EVENT,
        left_out_always=NOT_RECORDED,
    )


def _kept(paths: DatePaths) -> DayTrades:
    """The trades as `hv eod` kept them."""
    episodes = read_parquet(paths.dataset / EPISODES_FILE).to_pylist()
    decisions = [row for path in sorted(paths.dataset.glob("decisions*.parquet")) for row in _acted(read_parquet(path))]
    source = paths.dataset.relative_to(paths.home.root).as_posix()
    return DayTrades(
        trading_date=paths.trading_date,
        source=source,
        note=f"the log of {paths.trading_date} is gone; these are the trades kept in {source}",
        episodes=sorted(episodes, key=_place),
        decisions=sorted(decisions, key=lambda row: row["seq"]),
        symbols=sorted({row["symbol"] for row in (*episodes, *decisions)}),
        options=_options(paths) or EodAbout(),
    )


def _options(paths: DatePaths) -> EodAbout | None:
    """How `hv eod` folded the date; None when it has not."""
    path = paths.dataset / EPISODES_FILE
    if not path.exists():
        return None
    notes = about(read_parquet(path))
    return EodAbout(*(notes.get(name) == "true" for name in ("allow_not_live", "starved")))


def _place(row: dict[str, Any]) -> tuple[int, str, int]:
    return row["exit_ts"], row["symbol"], row["exit_seq"]


def _acted(decisions: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = decisions.filter(pc.not_equal(decisions["action"], "none")).to_pylist()
    return rows
