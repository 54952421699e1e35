"""Write docs/columns.md from the metadata of the schemas: `python tools/columns.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harvester.artefacts.bucket_files import GATE_CODES
from harvester.projections.market.candles import CANDLES
from harvester.projections.market.signals import SIGNALS
from harvester.projections.market.state_arrays import BUCKETS
from harvester.projections.trading.trade_rows import DECISIONS, EPISODES, FILLS

if TYPE_CHECKING:
    import pyarrow as pa

PAGE = Path(__file__).resolve().parent.parent / "docs" / "columns.md"
HEAD = """# Columns

All columns of the tables, with type, unit and formula. Generated from the schemas by `python tools/columns.py`; a test
checks that it is current. Times are ns UTC in Parquet and Arrow, ISO-8601 in JSON. Prices are in the instrument's
currency, sizes in shares. A missing number is null, never zero. A prime marks the previous value.
"""
TABLES: tuple[tuple[str, str, pa.Schema], ...] = (
    (
        "buckets",
        "One second of a subscribed symbol: `hv buckets`, `exports/buckets_<date>.parquet`.",
        BUCKETS.append(GATE_CODES),
    ),
    ("candles", "A completed candle: `exports/l2_candles_<symbol>_<stamp>.json`.", CANDLES),
    ("signals", "A signal: `exports/l2_strategy_signals_<symbol>_<stamp>.json`.", SIGNALS),
    ("decisions", "A decision of a strategy: `exports/decisions_<date>.parquet`.", DECISIONS),
    ("fills", "A simulated execution: `exports/fills_<date>.json`.", FILLS),
    ("episodes", "One trade from decision to flat: `episodes.parquet`, stored per date by `hv eod`.", EPISODES),
)


def page() -> str:
    """The page's text."""
    parts = [HEAD]
    for name, about, schema in TABLES:
        parts.append(f"\n## {name}\n\n{about}\n\n| column | type | unit | null | formula |\n|---|---|---|---|---|\n")
        for field in schema:
            facts = {key.decode(): text.decode().replace("|", "\\|") for key, text in field.metadata.items()}
            null = "yes" if field.nullable else ""
            parts.append(f"| `{field.name}` | {field.type} | {facts['unit']} | {null} | {facts['formula']} |\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
