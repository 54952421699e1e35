"""The day as one SVG picture: a panel per symbol with its mid, what was traded, and where nothing was known.

Plain text, no scripts, no fonts of its own: it opens in any browser and is the same bytes for the same day.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.calendar import iso

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH, _PANEL, _LEFT, _RIGHT, _TOP = 1000, 110, 84, 18, 46
_POINTS_MAX = 800  # more than one point per pixel draws nothing new
_INK, _SOFT, _LINE, _GAP = "#1f2933", "#7b8794", "#2a6f97", "#f3d9d9"
_WIN, _LOSS, _FLAT = "#2d8a4e", "#c0392b", "#7b8794"


class Trade(NamedTuple):
    """One episode as the picture needs it; times in ns UTC, prices in USD."""

    entry_ts: int
    entry_price: float
    exit_ts: int
    exit_price: float
    outcome: str  # WIN, LOSS or BREAKEVEN
    side: str = "LONG"


_TRADE = ("entry_ts", "entry_price", "exit_ts", "exit_price", "win_loss", "side")  # columns of an episode


class Panel(NamedTuple):
    """One symbol's day: `ts` int64 ns UTC shape (n,), `mid` float64 shape (n,), NaN where no quote was in force."""

    symbol: str
    ts: np.ndarray[tuple[int], np.dtype[np.int64]]
    mid: np.ndarray[tuple[int], np.dtype[np.float64]]
    trades: Sequence[Trade]


def panels_of(buckets: pa.Table, episodes: pa.Table) -> list[Panel]:
    """The panels of a day: one per symbol with buckets, in the order of symbols."""
    drawn = episodes.select(["symbol", *_TRADE])  # not the documents, which are nearly all of the table
    taken = drawn.filter(pc.and_(episodes["taken"], pc.is_valid(episodes["exit_price"])))
    columns = [column.to_pylist() for column in taken.columns]
    trades: dict[str, list[Trade]] = {}
    for symbol, *values in zip(*columns, strict=True):
        trades.setdefault(symbol, []).append(Trade(*values))
    symbols, mids = sorted(pc.unique(buckets["symbol"]).to_pylist()), buckets.select(["ts", "mid"])
    return [_panel_of(mids.filter(pc.equal(buckets["symbol"], s)), s, trades.get(s, [])) for s in symbols]


def _panel_of(rows: pa.Table, symbol: str, trades: list[Trade]) -> Panel:
    mid = rows["mid"].to_numpy().astype(np.float64)
    return Panel(symbol, rows["ts"].cast(pa.int64()).to_numpy(), mid, trades)


def day_picture(title: str, panels: Sequence[Panel]) -> str:
    """Draw the panels under each other over one common time axis; an empty day gives a picture that says so."""
    height = _TOP + max(len(panels), 1) * _PANEL + 30
    out = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
            f'height="{height}" font-family="system-ui, sans-serif" font-size="11">'
        ),
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="20" font-size="15" font-weight="600" fill="{_INK}">{escape(title)}</text>',
        *_legend(),
    ]
    seen = [p for p in panels if len(p.ts)]
    if not seen:
        out.append(f'<text x="{_LEFT}" y="{_TOP + 40}" fill="{_SOFT}">nothing was recorded</text>')
    else:
        first, last = min(int(p.ts[0]) for p in seen), max(int(p.ts[-1]) for p in seen)
        for row, panel in enumerate(panels):
            out += _panel(panel, _TOP + row * _PANEL, first, last)
        out += _hours(first, last, _TOP, height - 22)
    return "\n".join([*out, "</svg>", ""])


def _legend() -> list[str]:
    entries = (
        (_LINE, "mid"),
        (_WIN, "win"),
        (_LOSS, "loss"),
        (_FLAT, "breakeven"),
        (_GAP, "no quote"),
        ("none", "▲ long  ▼ short"),
    )
    out = []
    for i, (colour, word) in enumerate(entries):
        x = _LEFT + i * 84
        out.append(f'<rect x="{x}" y="28" width="12" height="8" fill="{colour}"/>')
        out.append(f'<text x="{x + 17}" y="36" fill="{_SOFT}">{word}</text>')
    return out


def _x(ts: int, first: int, last: int) -> float:
    return round(_LEFT + (ts - first) / max(last - first, 1) * (_WIDTH - _LEFT - _RIGHT), 1)


def _panel(panel: Panel, top: int, first: int, last: int) -> list[str]:
    known = panel.mid[~np.isnan(panel.mid)]
    out = [
        f'<line x1="{_LEFT}" y1="{top + _PANEL}" x2="{_WIDTH - _RIGHT}" y2="{top + _PANEL}" stroke="#e4e7eb"/>',
        f'<text x="10" y="{top + _PANEL // 2 + 4}" font-weight="600" fill="{_INK}">{escape(panel.symbol[:12])}</text>',
    ]
    if not len(known):
        return [*out, f'<text x="{_LEFT}" y="{top + 22}" fill="{_SOFT}">no quotes</text>']
    prices = [*known, *(p for t in panel.trades for p in (t.entry_price, t.exit_price))]
    low, high = float(min(prices)), float(max(prices))

    def y(price: float) -> float:
        share = (price - low) / (high - low) if high > low else 0.5
        return round(top + _PANEL - 12 - share * (_PANEL - 24), 1)

    out += [
        f'<text x="{_LEFT - 6}" y="{y(high) + 4}" text-anchor="end" fill="{_SOFT}">{high:.2f}</text>',
        f'<text x="{_LEFT - 6}" y="{y(low) + 4}" text-anchor="end" fill="{_SOFT}">{low:.2f}</text>',
    ]
    step = max(1, -(-len(panel.ts) // _POINTS_MAX))
    points: list[str] = []
    for i in range(0, len(panel.ts), step):
        x = _x(int(panel.ts[i]), first, last)
        if np.isnan(panel.mid[i]):
            out += [*_stroke(points), f'<rect x="{x}" y="{top + 6}" width="1.5" height="{_PANEL - 12}" fill="{_GAP}"/>']
            points = []
        else:
            points.append(f"{x},{y(float(panel.mid[i]))}")
    out += _stroke(points)
    for trade in panel.trades:
        colour = {"WIN": _WIN, "LOSS": _LOSS}.get(trade.outcome, _FLAT)
        x1, x2 = _x(trade.entry_ts, first, last), _x(trade.exit_ts, first, last)
        y1, y2 = y(trade.entry_price), y(trade.exit_price)
        out.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="2"/>')
        tip = -4 if trade.side == "LONG" else 4  # a triangle that points the way the trade was meant to go
        out.append(f'<path d="M{x1 - 3.5},{y1 - tip} h7 L{x1},{y1 + tip} z" fill="{colour}"/>')
    return out


def _stroke(points: list[str]) -> list[str]:
    if not points:
        return []
    return [f'<polyline points="{" ".join(points)}" fill="none" stroke="{_LINE}" stroke-width="1.2"/>']


def _hours(first: int, last: int, top: int, bottom: int) -> list[str]:
    hour = 3_600_000_000_000
    span = last - first
    every = next((h for h in (hour // 60, hour // 12, hour // 4, hour, 2 * hour) if span // h <= 12), 4 * hour)
    out = []
    for at in range(-(-first // every) * every, last + 1, every):
        x = _x(at, first, last)
        out.append(f'<line x1="{x}" y1="{top}" x2="{x}" y2="{bottom}" stroke="#f0f2f4"/>')
        out.append(f'<text x="{x}" y="{bottom + 14}" text-anchor="middle" fill="{_SOFT}">{iso(at)[11:16]} UTC</text>')
    return out
