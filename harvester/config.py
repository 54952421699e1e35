"""One frozen settings object, built once from flags, environment, an optional TOML file and defaults.

`Settings.load` is the only constructor in use; `settings.origin("port")` names the source of a value.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from harvester.errors import BadSetting

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of `hv record` and related commands. Names are the option names with `_` for `-`."""

    # the gateway
    gateway_host: str = "127.0.0.1"
    port: int = 7496
    client_id: int = 9960
    account: str = ""
    timeout_seconds: float = 90.0
    market_data_type: int = 1
    # what is recorded
    symbols: tuple[str, ...] = ()
    primary_exchange: str = "NSDQ"
    depth_rows: int = 10
    depth_lines: int = 3
    depth_rotation_minutes: float = 15.0
    tick_by_tick_lines: int = 5
    generic_ticks: str = "233,375"
    five_second_bars: bool = True
    focus_size: int = 5
    # history
    hist_duration: str = "1 D"
    hist_bar_size: str = "1 min"
    hist_what: str = "TRADES"
    skip_historical_backfill: bool = False
    require_mtf_alignment: bool = False
    # the log
    commit_seconds: float = 1.0
    commit_events: int = 10_000
    compression: str = "none"
    compact: bool = True
    digest_seconds: float = 60.0
    disk_margin_bytes: int = 256 * 1024 * 1024
    # the day
    time_zone: str = "America/New_York"
    day_start: str = "00:00"
    daily_restart: str = ""  # HH:MM of the automatic restart of TWS or IB Gateway; an outage then is planned
    exchange_calendar: str = "XNYS"
    # watchdogs, in seconds of market time
    silence_seconds: float = 60.0
    # artefacts
    episode_epoch_ms: bool = False
    episode_series_jsonl: bool = False
    # simulated trading
    strategy: str | tuple[str, ...] = "imbalance_breakout"  # several decide in this order
    strategy_values: tuple[str, ...] = ()  # NAME=VALUE or STRATEGY.NAME=VALUE; they win over strategy_tables
    strategy_tables: dict[str, dict[str, Any]] = {}  # parameters by strategy: the tables [strategy.NAME] of a file
    cost_table: str = "ibkr_fixed"
    monthly_shares: int = 0  # traded this month before the run; they choose the tier of ibkr_tiered
    latency_ms: float = 250.0
    participation: float = 1.0  # of the size shown or printed, at most so much in one fill
    stop_trigger: Literal["quote", "last"] = "quote"
    fill_depth: Literal["top", "book"] = "top"
    answer_latency_ms: float = 0.0  # from a fill or cancellation until its strategy knows of it
    flat_before_close_seconds: float = 60.0
    origins: dict[str, str] = {}

    def origin(self, name: str) -> str:
        """Where a value came from: `flag`, `env NAME`, `file PATH` or `default`."""
        return self.origins.get(name, "default")

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies, in the order in which they decide."""
        return tuple(one for one in ([self.strategy] if isinstance(self.strategy, str) else self.strategy) if one)

    def canonical(self) -> dict[str, Any]:
        """The settings stored in a run's start event, as JSON-ready builtins with sorted keys.

        Connection, commit and disk settings are left out: they change no fold, and two recordings of one stream must
        have the same content hash. The run's start event has the parameters of its strategies elsewhere.
        """
        values = msgspec.to_builtins(self)
        return {name: values[name] for name in sorted(values) if name not in _NOT_OF_THE_DATA}

    @classmethod
    def load(cls, flags: Mapping[str, Any], env: Mapping[str, str] | None = None, file: Path | None = None) -> Settings:
        """Merge the sources. Precedence: flag (not None), environment, file, default.

        Raises:
            BadSetting: an unreadable file, an unknown name, a value of the wrong type or out of range.
        """
        merged: dict[str, Any] = {}
        origins: dict[str, str] = {}
        sources = [(f"file {file}", _settings_of(file))] if file else []
        sources += [(f"env {name}", {key: value}) for key, name, value in _from_env(env or {})]
        sources.append(("flag", {k: v for k, v in flags.items() if v is not None}))
        for origin, values in sources:
            merged |= values
            origins |= dict.fromkeys(values, origin)
        return _convert(merged, origins)


_NOT_OF_THE_DATA = frozenset({
    "origins", "strategy_values", "strategy_tables", "gateway_host", "port", "client_id", "account", "timeout_seconds",
    "commit_seconds", "commit_events", "compression", "compact", "digest_seconds", "disk_margin_bytes",
})  # fmt: skip

_ENVIRONMENT = {  # variable → setting; the first one set takes precedence
    "HARVESTER_IB_ACCOUNT": "account",
    "IBKR_ACCOUNT": "account",
    "HARVESTER_EPISODE_EPOCH_MS": "episode_epoch_ms",
    "HARVESTER_EPISODE_SERIES_JSONL": "episode_series_jsonl",
}


def _from_env(env: Mapping[str, str]) -> list[tuple[str, str, str]]:
    found = [(key, name, env[name]) for name, key in _ENVIRONMENT.items() if env.get(name)]
    return found[::-1]  # later entries overwrite earlier ones: the preferred variable comes last


def _from_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSetting(f"settings file {path} cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"settings file {path} is not valid TOML: {error}") from None
    found = {key.replace("-", "_"): value for key, value in values.items()}
    if isinstance(found.get("strategy"), dict):  # [strategy.NAME]: parameters of strategies, not the setting
        found["strategy_tables"] = found.pop("strategy")
    if "strategies" in found:  # TOML has no room for the key `strategy` beside its tables
        found["strategy"] = found.pop("strategies")
    return found


def _settings_of(path: Path) -> dict[str, Any]:
    strategy_tables(path)
    return _from_file(path)


def strategy_tables(path: Path) -> dict[str, dict[str, Any]]:
    """The tables `[strategy.NAME]` of a settings file, by name.

    Raises:
        BadSetting: the file cannot be read, or one of them is not a table.
    """
    tables = _from_file(path).get("strategy_tables", {})
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise BadSetting(f"file {path}: strategy.{name} is not a table; write [strategy.{name}]")
    return dict(tables)


def _convert(values: dict[str, Any], origins: dict[str, str]) -> Settings:
    for name, value in values.items():
        if name not in Settings.__struct_fields__ or name == "origins":
            raise BadSetting(f"{origins[name]}: unknown setting {name!r}; see `hv record --help`")
        try:
            msgspec.convert({name: value}, Settings, strict=False)
        except msgspec.ValidationError as error:
            raise BadSetting(f"{_named(origins[name], name)} = {value!r} is invalid: {error}") from None
    settings = msgspec.convert(values | {"origins": origins}, Settings, strict=False)
    for name, low, high in _RANGES:
        value = getattr(settings, name)
        if not low <= value <= high:
            raise BadSetting(f"{_named(settings.origin(name), name)} = {value} is outside {low} … {high}")
    if settings.daily_restart and not _TIME_OF_DAY.fullmatch(settings.daily_restart):
        where = _named(settings.origin("daily_restart"), "daily_restart")
        raise BadSetting(f"{where} = {settings.daily_restart!r} is invalid; use HH:MM, for example 23:55")
    if settings.compression not in ("none", "lz4"):
        where = _named(settings.origin("compression"), "compression")
        raise BadSetting(f"{where} = {settings.compression!r} is invalid; use none or lz4")
    return settings


def _named(origin: str, name: str) -> str:
    """A setting by the name the user gave: the option, or the file or variable and its key."""
    return f"--{name.replace('_', '-')}" if origin == "flag" else f"{origin}: {name}"


_TIME_OF_DAY = re.compile("([01][0-9]|2[0-3]):[0-5][0-9]")
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("port", 1, 65_535),
    ("client_id", 0, 2_147_483_647),
    ("timeout_seconds", 0.1, 86_400),
    ("market_data_type", 1, 4),
    ("depth_rows", 1, 60),
    ("depth_lines", 0, 1_000),
    ("depth_rotation_minutes", 0, 1_440),
    ("tick_by_tick_lines", 0, 1_000),
    ("focus_size", 1, 100),
    ("commit_seconds", 0.01, 60),
    ("commit_events", 1, 1_000_000),
    ("digest_seconds", 1, 86_400),
    ("silence_seconds", 1, 86_400),
    ("monthly_shares", 0, 1_000_000_000_000),
    ("latency_ms", 0, 60_000),
    ("answer_latency_ms", 0, 10_000),
    ("participation", 0.01, 1),
    ("flat_before_close_seconds", 0, 86_400),
)
