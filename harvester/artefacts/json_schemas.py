"""JSON Schemas (draft 2020-12) of every artefact this version writes.

Schemas are closed: unknown keys and missing keys are invalid.
"""

from __future__ import annotations

from typing import Any

from harvester.artefacts.json_files import VERSION
from harvester.errors import BadSetting

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TIME: Schema = {
    "oneOf": [
        {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{0,8}[1-9])?Z$"},
        {"type": "integer", "description": "Unix epoch milliseconds, with the epoch toggle"},
    ]
}
DATE: Schema = {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"}
NUMBER: Schema = {"type": "number"}
INTEGER: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
HASH: Schema = {"type": "string", "pattern": "^[0-9a-f]{16,64}$"}
COUNTS: Schema = {"type": "object", "additionalProperties": COUNT}


def or_null(schema: Schema) -> Schema:
    """The schema, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def listed(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def fixed(*items: Schema) -> Schema:
    """An array of exactly these elements."""
    return {"type": "array", "prefixItems": list(items), "minItems": len(items), "maxItems": len(items)}


def record(fields: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """An object with exactly these keys, and possibly the optional ones."""
    known = fields | (optional or {})
    return {"type": "object", "properties": known, "required": list(fields), "additionalProperties": False}


def _all(names: str, schema: Schema) -> dict[str, Schema]:
    return dict.fromkeys(names.split(), schema)


KIND = one_of("unknown", "live", "paper", "model", "tape", "served", "mixed")
_QUALITY = {**_all("outages bad_book_seconds refused", COUNT), "data_type": or_null(COUNT)}
HEALTH = record(_QUALITY | {"kind": KIND})
EPISODE_HEALTH = record(_QUALITY)


def enveloped(name: str, row: Schema, *, symbol: bool = False) -> Schema:
    """The schema of an artefact that is an object with header fields and `rows`."""
    head: dict[str, Schema] = {"schema": {"const": name}, "schema_version": {"const": VERSION}, "trading_date": DATE}
    if symbol:
        head["symbol"] = TEXT
    return record(head | {"run": TEXT, "through_seq": COUNT, "health": HEALTH, "rows": listed(row)})


BUCKET = (
    {"ts": TIME}
    | _all("mark bid ask spread spread_bps spread_twa mid microprice imbalance", or_null(NUMBER))
    | _all("bid_size_top_n ask_size_top_n bid_top_size ask_top_size ofi", or_null(NUMBER))
    | _all("tape_buy tape_sell tape_unknown", NUMBER)
    | _all("trade_count quote_count depth_count", COUNT)
    | _all("volatility_proxy realised_variance", or_null(NUMBER))
    | {"quote_source": or_null(one_of("bid_ask", "l1", "smart_depth", "bars")), "book_good": or_null(FLAG)}
    | {"stale": FLAG, "halted": FLAG}
)
GATES = listed(TEXT)
FILL = {
    "ts": TIME,
    "seq": COUNT,
    "price": NUMBER,
    "quantity": COUNT,
    "side": one_of("BUY", "SELL"),
    "source": one_of("quote", "print", "book", "bar"),
    "reference_price": or_null(NUMBER),
    "slippage": or_null(NUMBER),
    "commission": NUMBER,
    "reference": one_of("quote_at_decision", "stop_price", "limit_price"),
}
SIDE, WIN_LOSS = one_of("LONG", "SHORT"), one_of("WIN", "LOSS", "BREAKEVEN")
MODE = one_of("event", "bars")
AGGREGATES = record(
    _all("seconds stale_seconds trade_count", COUNT)
    | _all("mean_imbalance mean_spread mean_spread_bps mid_return volatility_max", or_null(NUMBER))
    | _all("tape_buy tape_sell tape_delta ofi realised_variance", NUMBER)
)
SERIES_ROW = record(
    {"ts": TIME}
    | _all("mark bid ask mid spread imbalance", or_null(NUMBER))
    | _all("tape_buy tape_sell", NUMBER)
    | {"volatility_proxy": or_null(NUMBER), "gate_codes": or_null(GATES)}
)
LABELS = record(
    {"pnl_usd": NUMBER, "r_multiple": or_null(NUMBER)}
    | {"mae": {"type": "number", "maximum": 0}, "mfe": {"type": "number", "minimum": 0}}
    | _all("time_to_mae time_to_mfe", or_null(NUMBER))
    | {"hold_seconds": NUMBER, "exit_reason": TEXT, "win_loss": WIN_LOSS}
)
RISK = record(
    _all("initial_stop initial_risk_usd target hold_seconds_max", or_null(NUMBER))
    | {"quantity_planned": COUNT, "order": one_of("market", "limit", "stop", "stop_limit", "trail")}
)
QUALITY = record(
    _all("unseen_seconds outages halts bad_book_seconds", COUNT)
    | {"data_type": or_null(INTEGER), "learned_from": FLAG, "why_not": listed(TEXT)}
)
TRACE = record(
    {
        "entry_reason": TEXT,
        "exit_reason": TEXT,
        "risk": RISK,
        "gate_codes": GATES,
        "features": {"type": "object", "additionalProperties": or_null(NUMBER)},
        "prediction": or_null(record({"probability": NUMBER, "memory_version": TEXT})),
    }
)


def _moment(*, price: bool) -> Schema:
    return record({"ts": TIME, **({"price": or_null(NUMBER)} if price else {}), "seq": COUNT})


EPISODE = record(
    {
        "schema": {"const": "harvester.episode"},
        "schema_version": {"const": 3},
        "trading_date": DATE,
        "run": TEXT,
        "through_seq": COUNT,
        "health": EPISODE_HEALTH,
        "trade_id": {"type": "string", "pattern": r"^T\d{6}_\d{3,}$"},
        "symbol": TEXT,
        "side": SIDE,
        "quantity": COUNT,
        "mode": MODE,
        "taken": FLAG,
        "decision": _moment(price=False),
        "entry": _moment(price=True),
        "exit": _moment(price=True),
        "features_pre": record({"window": TEXT, "buckets": listed(record(BUCKET)), "aggregates": AGGREGATES}),
        "series": listed(SERIES_ROW),
        "fills": listed(record(FILL)),
        "rest": or_null(record({"quantity": COUNT, "reason": TEXT, "ts": TIME, "seq": COUNT})),
        "labels": LABELS,
        "decision_trace": TRACE,
        "quality": QUALITY,
        "versions": record(
            {"strategy": TEXT, "strategy_digest": HASH, "cost_model": TEXT, "memory": or_null(HASH), "rules": COUNT}
        ),
        "kind": KIND,
    }
)
EPISODE_SERIES = record(
    {"trade_id": TEXT, "symbol": TEXT, "ts": TIME}
    | _all("mark spread imb", or_null(NUMBER))
    | _all("tape_buy tape_sell", NUMBER)
    | {"vol": or_null(NUMBER), "gate_codes": GATES}
)
FILLS_ROW = record(
    {"seq": COUNT, "ts": TIME, "con_id": INTEGER, "symbol": TEXT, "strategy": TEXT, "strategy_digest": HASH}
    | {"decision_seq": COUNT, "role": one_of("entry", "stop", "target", "exit"), "side": FILL["side"]}
    | {name: FILL[name] for name in ("price", "quantity", "source", "reference")}
    | {name: FILL[name] for name in ("reference_price", "slippage", "commission")}
)
HEALTH_ROW = record(
    {"symbol": or_null(TEXT), "con_id": INTEGER, "stream": or_null(TEXT)}
    | {"measure": TEXT, "value": or_null(NUMBER), "unit": TEXT}
)
TRADE_ROW = record(
    {"trade_id": TEXT, "symbol": TEXT, "side": SIDE, "quantity": COUNT, "taken": FLAG}
    | {"decision_ts": TIME, "entry_ts": TIME, "entry_price": NUMBER, "exit_ts": TIME, "exit_price": or_null(NUMBER)}
    | {"entry_reason": TEXT, "exit_reason": TEXT, "pnl_usd": NUMBER, "r_multiple": or_null(NUMBER)}
    | _all("mae mfe hold_seconds", NUMBER)
    | {"win_loss": WIN_LOSS, "strategy": TEXT, "strategy_digest": HASH, "mode": MODE}
)
BARS_ROW = record(
    {"bar_date": DATE, "trade_id": TEXT, "symbol": TEXT, "side": SIDE, "quantity": COUNT}
    | {"decision_ts": TIME, "entry_ts": TIME, "entry_price": NUMBER, "exit_ts": TIME, "exit_price": NUMBER}
    | {"entry_reason": TEXT, "exit_reason": TEXT, "pnl_usd": NUMBER, "r_multiple": or_null(NUMBER)}
    | _all("mae mfe hold_seconds", NUMBER)
    | {"win_loss": WIN_LOSS, "strategy": TEXT, "strategy_digest": HASH, "mode": {"const": "bars"}}
    | {"unseen_seconds": COUNT}
)
ESTIMATE: dict[str, Schema] = {"n": COUNT, "mean": NUMBER, "low": NUMBER, "high": NUMBER, "level": NUMBER}
PRIOR = ESTIMATE | {"prior": listed(NUMBER)}
REASONS = listed(record({"reason": TEXT, "count": COUNT}))
STRUCTURES = record(_all("UPTREND DOWNTREND RANGE", COUNT))
GROUP = fixed(
    *(KIND, COUNT, MODE, TEXT, COUNT, COUNT, NUMBER, COUNT, COUNT, *[NUMBER] * 5),
    *(COUNT, NUMBER, COUNT, NUMBER, NUMBER, COUNTS, COUNTS, COUNTS),
)
DAY = fixed(DATE, KIND, COUNT, COUNT, COUNT, HASH, HASH)
POOL = record(
    {"kind": KIND, "rules": COUNT, "days": COUNT, "parse_failures": COUNT}
    | _all("samples sample_wins outcomes left_out", COUNTS)
    | {"scored": COUNT, "squares": NUMBER, "logs": NUMBER}
)
MODEL = record(
    {
        "type": one_of("none", "logistic"),
        "kind": KIND,
        "mode": MODE,
        "feature_names": listed(TEXT),
        "weights": listed(NUMBER),
    }
    | {"sample_count": COUNT}
    | _all("brier log_loss base_rate_brier base_rate_log_loss walk_forward_skill", or_null(NUMBER))
    | {"walk_forward_interval": or_null(listed(NUMBER)), "in_use": FLAG, "days_needed": or_null(COUNT)}
    | {"verdict": TEXT}
)
PROFILE = record(
    {"kind": KIND, "symbol": TEXT, "mode": MODE, "trade_count": COUNT, "win_rate": or_null(NUMBER)}
    | {"win_rate_interval": record(ESTIMATE), "pnl_usd": NUMBER, "volume": COUNT}
    | {"avg_r_multiple": or_null(NUMBER), "avg_r_multiple_interval": record(ESTIMATE)}
    | _all("avg_mae avg_mfe avg_hold_seconds", or_null(NUMBER))
    | _all("avg_pre_imbalance avg_pre_spread avg_pre_tape_delta", or_null(NUMBER))
    | {"structure_counts": STRUCTURES, "top_entry_reasons": REASONS, "top_exit_reasons": REASONS}
)
RECOMMENDED = record(
    {"symbol": TEXT, "mode": MODE, "n": COUNT, "win_rate": NUMBER}
    | {"win_rate_interval": record(ESTIMATE), "pnl_usd": NUMBER}
)
MEMORY = record(
    {"schema_version": {"const": 2}, "date": DATE, "parent": or_null(HASH), "kind": KIND, "rules": COUNT}
    | {"training": record(_all("days episodes parse_failures", COUNT) | _all("outcomes left_out", COUNTS))}
    | {"model": MODEL}
    | {
        "recommendations": record(
            {"basis": TEXT, "kind": KIND, "focus_symbols": listed(RECOMMENDED), "reduce_symbols": listed(RECOMMENDED)}
        )
    }
    | {"chart_structure_counts": STRUCTURES, "top_entry_reasons": REASONS, "top_exit_reasons": REASONS}
    | {
        "setups": listed(
            record(
                {"kind": KIND, "setup": TEXT, "mode": MODE, "n": COUNT}
                | {"hit_rate": record(PRIOR), "mean_r": record(PRIOR)}
            )
        )
    }
    | {"symbol_profiles": listed(PROFILE), "day_columns": listed(TEXT), "days": listed(DAY)}
    | {"sum_columns": listed(TEXT), "pools": listed(POOL), "symbol_sums": listed(GROUP), "setup_sums": listed(GROUP)}
    | {"hash": HASH}
)
CLOSED = record(
    {"trading_date": DATE, "last_seq": COUNT, "content_hash": HASH, "last_ts": INTEGER}
    | {"runs": listed(record({"run": TEXT, "last_seq": COUNT, "content_hash": HASH}, {"deleted": FLAG}))}
)
_NAMED: dict[str, Schema] = {"schema": {"const": "harvester.deletion"}, "schema_version": {"const": 2}}
DELETION = record(
    _NAMED
    | {"trading_date": DATE}
    | {"content_hash": HASH, "log_kept": or_null(TEXT)}
    | {"files": listed(record({"path": TEXT, "bytes": COUNT, "blake2b": HASH})), "folders": listed(TEXT)}
    | {"done": FLAG, "hash": HASH}
)

CANDLE_ROW = record(
    {"timeframe": one_of("30s", "1m", "5m", "15m", "1h", "1D"), "bucket_start": TIME, "bucket_end": TIME}
    | _all("open high low close average_mid average_spread_bps", NUMBER)
    | {"samples": COUNT}
)
SIGNAL_ROW = record(
    {"ts": TIME, "symbol": TEXT, "signal": one_of("BUY", "SELL"), "trigger_price": NUMBER, "reason": TEXT}
    | {"spread_bps": NUMBER, "samples_30s": COUNT, "source": record(_all("1D 1h 15m 5m 1m 30s", TEXT))}
)
SCHEMAS: dict[str, tuple[str, Schema]] = {  # name: where the file is, schema
    "episode": ("temp/episodes/<date>/<symbol>/<trade_id>.json", EPISODE),
    "episode_series": ("a line of <trade_id>.series.jsonl", EPISODE_SERIES),
    "buckets": (
        "hv buckets --json",
        enveloped(
            "harvester.buckets",
            record({"ts": TIME, "symbol": TEXT} | BUCKET | {"gate_codes": or_null(GATES)}),
            symbol=True,
        ),
    ),
    "fills": ("exports/fills_<date>.json", enveloped("harvester.fills", FILLS_ROW)),
    "bars_evaluation": (
        "exports/bars/<strategies>/bars_evaluation_<date>.json",
        enveloped("harvester.bars_evaluation", BARS_ROW),
    ),
    "l2_candles": (
        "exports/l2_candles_<symbol>_<stamp>.json",
        enveloped("harvester.l2_candles", CANDLE_ROW, symbol=True),
    ),
    "l2_strategy_signals": (
        "exports/l2_strategy_signals_<symbol>_<stamp>.json",
        enveloped("harvester.l2_strategy_signals", SIGNAL_ROW, symbol=True),
    ),
    "health": ("exports/health_<date>.json", enveloped("harvester.health", HEALTH_ROW)),
    "trades_summary": ("memory/journal/trades_summary_<date>.json", enveloped("harvester.trades_summary", TRADE_ROW)),
    "journal_fills": (
        "memory/journal/fills_<date>.json",
        enveloped("harvester.journal_fills", record({"trade_id": TEXT, "symbol": TEXT} | FILL)),
    ),
    "memory": ("memory/memory_latest.json, memory/versions/*.json", MEMORY),
    "closed": ("memory/datasets/<date>/closed.json", CLOSED),
    "deletion": (
        "memory/datasets/<date>/deletion.json; temp/events/<date>/<run>/deletion.json while compacted",
        DELETION,
    ),
}


def find(name: str) -> Schema:
    """The whole schema of that name.

    Raises:
        BadSetting: unknown artefact.
    """
    if name not in SCHEMAS:
        raise BadSetting(f"unknown artefact {name!r}; use one of {', '.join(SCHEMAS)}")
    about, body = SCHEMAS[name]
    return {"$schema": DIALECT, "title": f"harvester.{name}", "description": about} | body
