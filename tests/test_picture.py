from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np

from harvester.artefacts.picture import Panel, Trade, day_picture


def panel(symbol: str, mids: list[float], trades: tuple[Trade, ...] = ()) -> Panel:
    ts = np.arange(len(mids), dtype=np.int64) * 1_000_000_000 + 1_381_239_000_000_000_000
    return Panel(symbol, ts, np.array(mids, dtype=np.float64), trades)


def tags(svg: str, name: str) -> list[ET.Element]:
    return ET.fromstring(svg).findall(f".//{{http://www.w3.org/2000/svg}}{name}")


def test_the_picture_is_well_formed_and_marks_trades_and_gaps() -> None:
    """A line per stretch of known mids, a mark per trade in its outcome's colour, a shade where nothing was known."""
    trade = Trade(1_381_239_001_000_000_000, 10.1, 1_381_239_004_000_000_000, 10.0, "LOSS")
    svg = day_picture("IBM", [panel("IBM", [10.0, 10.1, float("nan"), 10.2, 10.0], (trade,))])
    assert len(tags(svg, "polyline")) == 2
    assert [c.get("fill") for c in tags(svg, "path")] == ["#c0392b"]
    assert any(r.get("fill") == "#f3d9d9" and r.get("width") == "1.5" for r in tags(svg, "rect"))


def test_a_symbol_cannot_break_out_of_the_picture() -> None:
    """Text from the log is escaped: a symbol is shown, never interpreted."""
    svg = day_picture("<b>", [panel("<script>", [1.0, 2.0])])
    assert "<script>" not in svg
    assert "<b>" not in svg
    assert any(t.text == "<script>" for t in tags(svg, "text"))


def test_an_empty_day_says_so() -> None:
    """A day without rows gives a picture, not an error."""
    assert "nothing was recorded" in day_picture("empty", [])
    assert "no quotes" in day_picture("dark", [panel("A", [float("nan")] * 3)])
