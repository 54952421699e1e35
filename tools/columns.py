"""Write docs/columns.md from the schemas' own metadata: `python tools/columns.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harvester.artefacts.buckets import GATE_CODES
from harvester.projections.blotter import DECISIONS, EPISODES, FILLS
from harvester.projections.candles import CANDLES
from harvester.projections.signals import SIGNALS
from harvester.projections.tables import BUCKETS

if TYPE_CHECKING:
    import pyarrow as pa

PAGE = Path(__file__).resolve().parent.parent / "docs" / "columns.md"
HEAD = """# Columns

Every column of the tables: what it is, in which unit, by which formula. Made from the schemas
(`python tools/columns.py`; a test holds it to them). Times are ns UTC in Parquet and Arrow, ISO-8601 in JSON. Prices
are in the instrument's currency, sizes in shares. An absent number is null, never zero. A prime marks the value before.
"""
TABLES: tuple[tuple[str, str, pa.Schema], ...] = (
    (
        "buckets",
        "A second of a symbol with a subscription: `hv buckets`, `exports/buckets_<date>.parquet`.",
        BUCKETS.append(GATE_CODES),
    ),
    ("candles", "A completed candle: `exports/l2_candles_<symbol>_<stamp>.json`.", CANDLES),
    ("signals", "A signal: `exports/l2_strategy_signals_<symbol>_<stamp>.json`.", SIGNALS),
    ("decisions", "What a strategy decided on a clock: `exports/decisions_<date>.parquet`.", DECISIONS),
    ("fills", "A simulated execution: `exports/fills_<date>.json`.", FILLS),
    ("episodes", "A trade from its decision to flat: `episodes.parquet` of a date kept by `hv eod`.", EPISODES),
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
