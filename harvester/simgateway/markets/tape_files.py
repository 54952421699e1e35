"""Read a tape's Parquet files and check columns, types, order and ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from harvester.errors import BadSetting

if TYPE_CHECKING:
    from pathlib import Path

NUMBER, WHOLE, TEXT, FLAG = "a number", "a whole number", "text", "true or false"

Layout = dict[str, str]
QUOTES: Layout = {
    "n": WHOLE,
    "ts": WHOLE,
    "bid": NUMBER,
    "bid_size": NUMBER,
    "ask": NUMBER,
    "ask_size": NUMBER,
    "bid_exchange": TEXT,
    "ask_exchange": TEXT,
}
TRADES: Layout = {
    "n": WHOLE,
    "ts": WHOLE,
    "price": NUMBER,
    "size": NUMBER,
    "exchange": TEXT,
    "condition": TEXT,
    "suspicious": FLAG,
}
DEPTH: Layout = {
    "n": WHOLE,
    "ts": WHOLE,
    "position": WHOLE,
    "operation": WHOLE,
    "side": WHOLE,
    "price": NUMBER,
    "size": NUMBER,
    "market_maker": TEXT,
}
BARS: Layout = {
    "symbol": TEXT,
    "ts": WHOLE,
    "open": NUMBER,
    "high": NUMBER,
    "low": NUMBER,
    "close": NUMBER,
    "volume": NUMBER,
}
_OPTIONAL = {"bid_exchange": "", "ask_exchange": ""}  # a tape of one venue may omit them
_BOUNDS = {"operation": 2, "side": 1, "position": 1_000_000}


def read_table(path: Path, layout: Layout) -> pl.DataFrame:
    """Read the columns of `layout`, in its order, and check them.

    Raises:
        BadSetting: the file is missing, not Parquet, or does not have the layout.
    """
    if not path.is_file():
        raise BadSetting(f"tape file {path} is missing; a tape folder needs quotes.parquet and trades.parquet")
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as error:
        what = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise BadSetting(f"tape file {path} cannot be read as Parquet ({what}); is it the right file?") from None
    for column, default in _OPTIONAL.items():
        if column in layout and column not in table.columns:
            table = table.with_columns(pl.lit(default).alias(column))
    missing = [column for column in layout if column not in table.columns]
    if missing:
        raise BadSetting(
            f"tape file {path} has no column {', '.join(missing)}; it has {', '.join(table.columns)[:120]}"
        )
    table = table.select([_typed(path, table[column], kind) for column, kind in layout.items()])
    _check_order(path, table)
    _check_values(path, table)
    return table


def _typed(path: Path, column: pl.Series, kind: str) -> pl.Series:
    dtype = column.dtype
    fits = {
        NUMBER: dtype.is_numeric(),
        WHOLE: dtype.is_integer(),
        TEXT: dtype == pl.String,
        FLAG: dtype == pl.Boolean,
    }[kind]
    if not fits:
        raise BadSetting(f"tape file {path}: column {column.name} is {dtype}; it must be {kind}")
    if column.null_count():
        row = int(column.is_null().arg_max() or 0)
        raise BadSetting(f"tape file {path}: column {column.name} is empty in row {row}; every row needs {kind}")
    target = {NUMBER: pl.Float64, WHOLE: pl.Int64}.get(kind)
    if target is None:
        return column
    try:
        column = column.cast(target)
    except pl.exceptions.PolarsError:
        raise BadSetting(f"tape file {path}: column {column.name} has numbers outside {target}") from None
    if kind == NUMBER and not column.is_finite().all():
        row = int((~column.is_finite()).arg_max() or 0)
        raise BadSetting(f"tape file {path}: column {column.name} is not finite in row {row}")
    return column


def _check_order(path: Path, table: pl.DataFrame) -> None:
    if "n" in table.columns:
        _check_rising(path, table["n"], strict=True)
        _check_rising(path, table["ts"], strict=False)
    else:
        for _, own in table.group_by("symbol", maintain_order=True):
            _check_rising(path, own["ts"], strict=True)


def _check_rising(path: Path, column: pl.Series, *, strict: bool) -> None:
    steps = column.diff().drop_nulls()
    wrong = steps <= 0 if strict else steps < 0
    if wrong.any():
        row = int(wrong.arg_max() or 0) + 1
        rule = "increase with every row" if strict else "never decrease"
        step = f"{column.name} goes from {column[row - 1]} to {column[row]} at row {row}"
        raise BadSetting(f"tape file {path}: {step}; it must {rule}")


def _check_values(path: Path, table: pl.DataFrame) -> None:
    for name in table.columns:
        column = table[name]
        if not column.dtype.is_numeric() or not len(column):
            continue
        most = _BOUNDS.get(name)
        wrong = (column < 0) | (column > most) if most is not None else column < 0
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            raise BadSetting(f"tape file {path}: {name} is out of range in row {row}: {column[row]}")
    if "condition" in table.columns:
        wrong = ~table["condition"].str.contains("^[0-9A-Fa-f]{0,8}$")
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            found = table["condition"][row][:20]
            raise BadSetting(f"tape file {path}: condition {found!r} in row {row} is not a hexadecimal bit set")
