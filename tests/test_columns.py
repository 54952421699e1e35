"""docs/columns.md matches the schemas, and the schemas have every required column."""

from __future__ import annotations

from harvester.artefacts.bucket_files import with_gate_codes
from harvester.projections.market.state_arrays import BUCKETS
from harvester.projections.trading.trade_rows import TABLES
from tests.tools import PROJECT, tool

WANTED = (  # one second of one symbol, in this order; `con_id` and `decision_seq` join tables and stay out of JSON
    "ts symbol mark bid ask spread spread_bps spread_twa mid microprice imbalance bid_size_top_n ask_size_top_n "
    "bid_top_size ask_top_size ofi tape_buy tape_sell tape_unknown trade_count quote_count depth_count "
    "volatility_proxy realised_variance quote_source book_good stale halted"
)


def test_the_page_of_columns_is_current() -> None:
    """docs/columns.md is what `python tools/columns.py` writes."""
    assert (PROJECT / "docs" / "columns.md").read_text(encoding="utf-8") == tool("columns").page()


def test_every_bucket_column_is_there_with_formula_and_unit() -> None:
    """The columns of a bucket are complete and in order; each has a formula, numbers also a unit."""
    assert " ".join(name for name in BUCKETS.names if name not in ("con_id", "decision_seq")) == WANTED
    for field in BUCKETS:
        assert field.metadata[b"formula"], field.name
        plain = str(field.type) in ("string", "bool") or field.name == "con_id"
        assert plain or field.metadata[b"unit"], field.name


def test_every_column_of_every_table_says_what_it_is() -> None:
    """Columns of decisions, fills, episodes and exported buckets have a formula; numbers, except ids, also a unit."""
    exported = with_gate_codes(BUCKETS.empty_table(), TABLES["decisions"].empty_table()).schema
    assert exported.names == [*BUCKETS.names, "gate_codes"]
    assert {name for name, _, _ in tool("columns").TABLES} == {"buckets", "candles", "signals", *TABLES}
    for schema in (exported, *TABLES.values()):
        for field in schema:
            assert field.metadata[b"formula"], field.name
            plain = str(field.type) in ("string", "bool") or field.name in ("con_id", "data_type")
            assert plain or field.metadata[b"unit"], field.name


def test_the_page_names_every_column() -> None:
    """No column of any table is missing from the page."""
    text = (PROJECT / "docs" / "columns.md").read_text(encoding="utf-8")
    for _, _, schema in tool("columns").TABLES:
        assert all(f"| `{name}` |" in text for name in schema.names)
