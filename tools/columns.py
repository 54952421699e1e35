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
NOTES = {
    "buckets": """
**The aggressor of a print** (`tape_buy`, `tape_sell`, `tape_unknown`): with bid <= ask in force, a price-forming
print nearer to the ask is a buy, nearer to the bid a sell. At the midpoint, under a crossed quote (ask < bid), or
without both sides, the tick rule decides: a print above the last price-forming one is a buy, below it a sell, at the
same price it has the direction of the last change of price; before any change it is unknown. Past-limit and
unreported prints are always unknown, and they move neither `mark` nor the tick rule. A print without readable
attributes counts as neither past-limit nor unreported.

**A print with price or size 0**, or without one of them (null, -1, IB's markers), is not a print of the tape: it
enters no volume, no `trade_count`, no `mark` and no tick rule. It is in the log as sent, and counts as a row of its
stream: such a second is not `stale`. A quote's side with price 0 or size 0 has no price or no size; the other numbers
of the row stay.
""",
}
"""By table, what a formula cannot say in a line."""
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
        parts.append(NOTES.get(name, ""))
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
