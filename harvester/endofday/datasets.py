"""The files kept of a date under `memory/`: its episodes as Parquet, the journal, and the day's summary for memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from harvester.artefacts import table_files
from harvester.artefacts.bucket_files import with_gate_codes
from harvester.artefacts.episode_files import series_rows
from harvester.artefacts.json_files import envelope, json_file, times
from harvester.calendar import iso
from harvester.errors import DamagedFile
from harvester.events.kinds import SourceKind
from harvester.memory.day_summary import DaySummary, digest_day
from harvester.projections.market.pace import pace_text
from harvester.projections.trading.trade_rows import EPISODES

if TYPE_CHECKING:
    from pathlib import Path

    from harvester.home import DatePaths, Home
    from harvester.rebuild.project_result import ProjectResult

SCHEMA_OF = {"trades_summary": "harvester.trades_summary", "fills": "harvester.journal_fills"}
EPISODES_FILE = "episodes.parquet"
IDENTITY = ("trading_date", "symbol", "strategy_digest", "mode", "decision_seq")
TRADES = (
    "trade_id", "symbol", "side", "quantity", "taken", "decision_ts", "entry_ts", "entry_price", "exit_ts",
    "exit_price", "entry_reason", "exit_reason", "pnl_usd", "r_multiple", "mae", "mfe", "hold_seconds", "win_loss",
    "strategy", "strategy_digest", "mode",
)  # fmt: skip
FILLS = (
    "trade_id", "symbol", "ts", "seq", "price", "quantity", "side", "source", "reference_price", "slippage",
    "commission", "reference",
)  # fmt: skip
SERIES = pa.schema(
    [
        ("trade_id", pa.string()),
        ("symbol", pa.string()),
        ("ts", pa.int64()),
        *((name, pa.float64()) for name in ("mark", "spread", "imb", "tape_buy", "tape_sell", "vol")),
        ("gate_codes", pa.list_(pa.string())),
    ]
)

_NOT_RECORDED = {"unseen_seconds": 0, "learned_from": True, "rules": 1, "kind": SourceKind.UNKNOWN.value}
"""Columns that kept episodes of rules 1 lack."""


def episodes_of(made: ProjectResult, home: Home, first_seq: int) -> pa.Table:
    """The date's episodes: those of the log, and those folded and deleted before the date was reopened."""
    rows = made.tables["episodes"].to_pylist()
    path = home.on(made.trading_date).dataset / EPISODES_FILE
    if first_seq > 1 and path.exists():
        known = {tuple(row[name] for name in IDENTITY) for row in rows}
        earlier = [_NOT_RECORDED | row for row in table_files.read_parquet(path).to_pylist()]
        rows = [row for row in earlier if tuple(row[name] for name in IDENTITY) not in known] + rows
    rows.sort(key=lambda row: (row["exit_seq"], row["symbol"], row["strategy"]))
    return pa.Table.from_pylist(rows, schema=EPISODES)


def dataset_files(
    made: ProjectResult,
    home: Home,
    episodes: pa.Table,
    first_seq: int,
    *,
    parquet: bool,
    allow_not_live: bool,
    learn_starved: bool,
) -> dict[Path, bytes]:
    """Files of `memory/datasets/<date>/`; `parquet` adds buckets and series."""
    folder = home.on(made.trading_date).dataset
    about = {
        "trading_date": made.trading_date.isoformat(),
        "content_hash": made.identity,
        "through_seq": str(made.last_seq),
        "last_ts": iso(made.last_ts),
        "allow_not_live": str(allow_not_live).lower(),
        "kind": made.health["kind"],
        "starved": str(starved(made) and not learn_starved).lower(),
    }
    decisions = made.tables["decisions"]
    acted = decisions.filter(pa.compute.not_equal(decisions["action"], "none"))
    part = "" if first_seq <= 1 else f"_from_{first_seq}"
    files = {
        folder / EPISODES_FILE: table_files.parquet_file(episodes, about),
        folder / f"decisions{part}.parquet": table_files.parquet_file(acted, about),
    }
    if parquet:
        rows = [row for text in episodes["document"].to_pylist() for row in series_rows(msgspec.json.decode(text))]
        series = pa.Table.from_pylist(rows, schema=SERIES)
        buckets = with_gate_codes(made.tables["buckets"], decisions)
        files[folder / "series.parquet"] = table_files.parquet_file(series, about)
        files[folder / f"buckets{part}.parquet"] = table_files.parquet_file(buckets, about)
    return files


def starved(made: ProjectResult) -> bool:
    """Whether the date's recording did not keep up with market time, see `projections.market.pace`."""
    return _of_date(made, "starved") == 1


def pace(made: ProjectResult) -> str:
    """The pace of the date's recording, in words."""
    clocks, lag_s = _of_date(made, "clocks_per_second"), _of_date(made, "stamp_lag_p99")
    return pace_text(clocks, lag_s)


def _of_date(made: ProjectResult, measure: str) -> float | None:
    rows = made.tables["health"].to_pylist()
    return next((row["value"] for row in rows if row["symbol"] is None and row["measure"] == measure), None)


def journal_files(made: ProjectResult, home: Home, episodes: pa.Table) -> dict[Path, bytes]:
    """`trades_summary_<date>` and `fills_<date>`, each as JSON and CSV."""
    rows = episodes.to_pylist()
    trades = [{name: row[name] for name in TRADES} for row in rows]
    fills = [
        {"trade_id": row["trade_id"], "symbol": row["symbol"]} | fill
        for row in rows
        for fill in msgspec.json.decode(row["document"])["fills"]
    ]
    files: dict[Path, bytes] = {}
    for name, kept, columns in (("trades_summary", trades, TRADES), ("fills", fills, FILLS)):
        base = f"{name}_{made.trading_date.isoformat()}"
        texts = times(kept, epoch_ms=made.toggles.get("episode_epoch_ms", False))
        files[home.journal / f"{base}.json"] = json_file(_enveloped(SCHEMA_OF[name], made, texts))
        files[home.journal / f"{base}.csv"] = table_files.csv_file(texts, columns)
    return files


def _enveloped(schema: str, made: ProjectResult, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return envelope(
        schema,
        rows,
        trading_date=made.trading_date.isoformat(),
        run=made.run,
        through_seq=made.last_seq,
        health=made.health,
    )


def day_of(episodes: pa.Table, about: dict[str, str]) -> DaySummary:
    """The summary of a date for memory, from its kept episodes."""
    return digest_day(
        about["trading_date"],
        about["content_hash"],
        about["last_ts"],
        episodes.to_pylist(),
        kind=about.get("kind", SourceKind.UNKNOWN.value),
        allow_not_live=about["allow_not_live"] == "true",
        starved=about.get("starved") == "true",  # absent from files of 0.1
    )


def kept_day(paths: DatePaths) -> DaySummary:
    """The summary of a date, read back from `memory/datasets/<date>/episodes.parquet`.

    Raises:
        DamagedFile: the file cannot be read, or `hv eod` did not write it.
    """
    path = paths.dataset / EPISODES_FILE
    table = table_files.read_parquet(path)
    try:
        return day_of(table, table_files.about(table))
    except KeyError as error:
        raise DamagedFile(str(path), f"lacks its {error.args[0]}", table_files.KEPT_MOVE) from None
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise DamagedFile(str(path), f"not the episodes of a date: {error}", table_files.KEPT_MOVE) from None
