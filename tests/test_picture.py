from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from harvester.artefacts.day_picture import Panel, Trade, day_picture, panels_of
from harvester.projections.market.state_arrays import BUCKETS
from harvester.projections.trading.trade_rows import TABLES
from tests.market_log import Log

SECOND = 1_000_000_000
BEGIN = 1_381_239_000 * SECOND  # 2013-10-08 13:30 UTC, 09:30 in New York
NAN = float("nan")


def panel(symbol: str, mids: list[float], trades: tuple[Trade, ...] = (), without: tuple[range, ...] = ()) -> Panel:
    """A row a second from `BEGIN` on; those of `without` were not recorded."""
    kept = [k for k in range(len(mids)) if not any(k in hole for hole in without)]
    ts = BEGIN + np.array(kept, dtype=np.int64) * SECOND
    return Panel(symbol, ts, np.array(mids, dtype=np.float64)[kept], trades)


def tags(svg: str, name: str, kind: str = "") -> list[ET.Element]:
    found = ET.fromstring(svg).iter(f"{{http://www.w3.org/2000/svg}}{name}")
    return [tag for tag in found if not kind or tag.get("class") == kind]


def lines(svg: str) -> list[list[tuple[float, float]]]:
    """The stretches of the mids of all panels, as points; the legend's is left out."""
    paths = [path.get("d", "") for path in tags(svg, "path", "mid")[1:]]
    stretches = [part for path in paths for part in path.split("M") if part]
    return [[tuple(map(float, point.split(","))) for point in part.split()] for part in stretches]


def bands(svg: str) -> list[tuple[float, float]]:
    """Left and right edge of every band but the legend's."""
    found = [(float(r.get("x", "")), float(r.get("width", ""))) for r in tags(svg, "rect", "none")[1:]]
    return [(x, round(x + width, 1)) for x, width in found]


def texts(svg: str) -> list[str]:
    return [text.text or "" for text in tags(svg, "text")]


def test_the_line_ends_wherever_nothing_is_known() -> None:
    """A second without a quote and a time without rows look alike: the line ends and one band is drawn."""
    mids = [10.0] * 10 + [NAN] * 5 + [10.1] * 10 + [10.2] * 15 + [10.3] * 10
    svg = day_picture("IBM", [panel("IBM", mids, without=(range(25, 40),))])
    drawn, dark = lines(svg), bands(svg)
    assert (len(drawn), len(dark)) == (3, 2)
    for before, band, after in zip(drawn, dark, drawn[1:], strict=False):
        assert (before[-1][0], after[0][0]) == band
    assert round((dark[1][1] - dark[1][0]) / (dark[0][1] - dark[0][0]), 1) == 3  # to scale: 15 s and 5 s


def test_a_single_second_of_a_whole_day_can_be_seen() -> None:
    """One second without a quote, one second with one, and a spike of one second are all drawn."""
    mids = [10.0] * 57_600
    mids[20_000], mids[30_000] = NAN, 12.0
    svg = day_picture("IBM", [panel("IBM", mids), panel("ACME", [NAN] * 40_000 + [9.0] + [NAN] * 17_599)])
    quoted, alone = lines(svg)[:2], lines(svg)[2]
    assert [right - left >= 1.5 for left, right in bands(svg)] == [True] * 3
    assert min(y for _, y in quoted[1]) < quoted[1][0][1] - 50
    assert alone[-1][0] - alone[0][0] >= 1


def test_before_and_after_its_subscription_a_symbol_has_no_quote() -> None:
    """Bands reach the ends of the day's axis, and cover all of it for a silent symbol."""
    whole, short, silent = panel("A", [1.0] * 100), panel("B", [2.0] * 60), panel("C", [NAN] * 100)
    svg = day_picture("day", [whole, short._replace(ts=short.ts + 20 * SECOND), silent])
    ground = tags(svg, "rect", "panel")[0]
    left, right = float(ground.get("x", "")), float(ground.get("x", "")) + float(ground.get("width", ""))
    head, tail, all_of_it = bands(svg)
    assert (head[0], tail[1]) == all_of_it == (left, right)
    assert "no quotes" in texts(svg)


def test_the_grid_lies_beneath_the_line() -> None:
    """The drawing order is background, bands, grid, line, trades."""
    trade = Trade(BEGIN + SECOND, 10.1, BEGIN + 4 * SECOND, 10.0, "LOSS")
    svg = day_picture("IBM", [panel("IBM", [10.0, 10.1, NAN, 10.2, 10.0], (trade,))])
    body = svg[svg.index('class="panel"') :]
    order = [body.index(f'class="{name}"') for name in ("panel", "none", "mid", "loss")]
    assert order == sorted(order)
    assert body.rindex('class="grid"') < order[2]


def test_a_trade_shows_side_outcome_entry_and_exit() -> None:
    """A triangle up for a long, down for a short, and a dot at the exit, in the outcome's colour, with a tooltip."""
    long = Trade(BEGIN + SECOND, 10.1, BEGIN + 4 * SECOND, 10.0, "LOSS")
    short = Trade(BEGIN + SECOND, 10.1, BEGIN + 4 * SECOND, 10.0, "WIN", "SHORT")
    svg = day_picture("IBM", [panel("IBM", [10.0, 10.1, 10.0, 10.2, 10.0], (long, short))])
    assert [title.text for title in tags(svg, "title")] == [
        "long 09:30:01 at 10.1000, out 09:30:04 at 10.0000: loss",
        "short 09:30:01 at 10.1000, out 09:30:04 at 10.0000: win",
    ]
    groups = [g for g in tags(svg, "g") if g.find("{*}title") is not None]
    assert [g.get("class") for g in groups] == ["loss", "win"]
    marks = [[path.get("d", "") for path in g.findall("{*}path")][1] for g in groups]
    assert ["l5,9h" in marks[0], "l5,-9h" in marks[1]] == [True, True]
    assert len(tags(svg, "circle")) == 1 + 2


def test_both_axes_say_what_they_measure() -> None:
    """Prices in USD at round steps, times of day in New York with its distance from UTC, in summer and in winter."""
    svg = day_picture("IBM", [panel("IBM", [10.0 + k / 3600 for k in range(3600)])])
    assert any("USD" in text and "New York (UTC-4)" in text for text in texts(svg))
    assert {"09:30", "10:00", "10.20", "10.80"} <= set(texts(svg))
    winter = panel("IBM", [10.0, 10.1])
    svg = day_picture("IBM", [winter._replace(ts=winter.ts + 90 * 86_400 * SECOND)])
    assert any("New York (UTC-5)" in text for text in texts(svg))


def test_a_long_time_between_two_sessions_is_left_out_and_said() -> None:
    """Ten minutes in the morning and ten in the evening share the width; the cut between is labelled, a restart not."""
    mids = [10.0] * 40_000
    svg = day_picture("IBM", [panel("IBM", mids, without=(range(600, 39_400),))])
    assert "10 h 46 min left out" in texts(svg)
    morning, evening = lines(svg)
    assert min(stretch[-1][0] - stretch[0][0] for stretch in (morning, evening)) > 350
    assert len(bands(svg)) == 1
    restarted = day_picture("IBM", [panel("IBM", mids, without=(range(600, 1500),))])
    assert not any("left out" in text for text in texts(restarted))


@pytest.mark.parametrize("count", [1, 5, 30])
def test_any_number_of_symbols_has_room_and_labels(count: int) -> None:
    """Panels do not overlap, each has a price, and no picture is higher than its panels need."""
    svg = day_picture("day", [panel(f"S{k}", [10.0 + k, 10.37 + k]) for k in range(count)])
    grounds = [(int(r.get("y", "")), int(r.get("height", ""))) for r in tags(svg, "rect", "panel")]
    assert all(top + height < after for (top, height), (after, _) in pairwise(grounds))
    for top, height in grounds:
        near = [
            t.text
            for t in tags(svg, "text")
            if t.get("text-anchor") == "end" and top < float(t.get("y", "")) < top + height + 4
        ]
        assert near, (top, height)
    assert int(ET.fromstring(svg).get("height", "")) < 140 + max(count * 80, 600)


def test_it_is_drawn_for_a_dark_page_too() -> None:
    """Every colour of the light mode has one for the dark mode."""
    (style,) = (tag.text or "" for tag in tags(day_picture("IBM", [panel("IBM", [1.0, 2.0])]), "style"))
    light, _, dark = style.partition("@media(prefers-color-scheme:dark)")
    assert re.findall(r"\.(\w+){", light) == re.findall(r"\.(\w+){", dark)
    assert not set(re.findall("#[0-9a-f]{6}", light)) & (set(re.findall("#[0-9a-f]{6}", dark)) - {"#ffffff"})


def test_a_day_with_an_outage_a_restart_and_a_silent_symbol() -> None:
    """From a log: three stretches of one symbol with a band per gap, one band of the other; the same bytes twice."""
    log = Log().run_start().subscribe(1, "bid_ask", 7, at=0).subscribe(2, "bid_ask", 8)

    def quoted(begin: int, end: int) -> None:
        for at in range(begin, end):
            log.quote(1, 10 + at / 100, 10.02 + at / 100, at=at + 0.5)
            log.clock(at + 1)

    quoted(0, 20)
    log.notice(1100, at=20.1)
    for at in range(21, 30):
        log.clock(at)
    log.notice(1102, at=29.1)
    quoted(30, 40)
    log.run_start(at=55).subscribe(1, "bid_ask", 7).subscribe(2, "bid_ask", 8)
    quoted(56, 70)
    log.fold()
    buckets = pa.Table.from_pylist(log.buckets, BUCKETS)
    panels = panels_of(buckets, TABLES["episodes"].empty_table())
    svg = day_picture("day", panels)
    assert [p.symbol for p in panels] == ["S7", "S8"]
    assert (len(lines(svg)), len(bands(svg))) == (3, 3)  # outage, restart; and all of the silent one
    assert svg == day_picture("day", panels_of(buckets, TABLES["episodes"].empty_table()))


def test_instruments_of_one_symbol_have_panels_of_their_own() -> None:
    """Two listings under one symbol are not drawn as one line that jumps between them."""
    log = Log().run_start().subscribe(1, "bid_ask", 7, at=0).subscribe(2, "bid_ask", 8)
    log.quote(1, 10, 10.02, at=0.5)
    log.quote(2, 90, 90.02, at=0.5)
    log.clock(2)
    log.fold()
    buckets = pa.Table.from_pylist([row | {"symbol": "A"} for row in log.buckets], BUCKETS)
    panels = panels_of(buckets, TABLES["episodes"].empty_table())
    assert [(p.symbol, p.mid.round(2).tolist()) for p in panels] == [("A", [10.01] * 2), ("A", [90.01] * 2)]


def test_a_symbol_cannot_break_out_of_the_picture() -> None:
    """Text from the log is escaped: a symbol is shown, never interpreted."""
    svg = day_picture("<b>", [panel("<i>", [1.0, 2.0])])
    assert "<i>" not in svg
    assert "<b>" not in svg
    assert "<i>" in texts(svg)


def test_an_empty_day_says_so() -> None:
    """A day without rows gives a picture, not an error."""
    assert "nothing was recorded" in day_picture("empty", [])
    assert "no quotes" in day_picture("dark", [panel("A", [NAN] * 3)])
