"""The day as one SVG picture: a panel per symbol with its mid, its trades, and the times without a quote.

Plain text without scripts or fonts: it opens in any browser, light or dark, and the same day gives the same bytes.
Seconds without a quote, outages, restarts and times without a subscription look alike: the line ends and a band is
drawn, always wide enough to be seen.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.calendar import NEW_YORK, zone
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Ints = np.ndarray[tuple[int], np.dtype[np.int64]]
    Floats = np.ndarray[tuple[int], np.dtype[np.float64]]

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 1000, 136, 28, 90, 22
_PANELS, _PANEL_MIN, _PANEL_MAX = (
    560,
    72,
    260,
)  # height of all panels, unless a panel would be lower or higher than this
_GAP, _PAD = 8, 9  # between two panels; from a panel's edge to its highest and lowest price
_BAND_MIN = 1.5  # px: a single second of a whole day is 0.04
_CUT = 44  # px of a long time without recording, which is not drawn to scale
_NAME_MAX = 8
_AXES_BOTH = 8  # with more panels than this the time is above them too

_CUT_FROM = 600 * SECOND_NS
_TIME_STEPS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200, 14_400, 28_800, 86_400)  # s
_TIME_TICKS = 10
_PRICE_STEPS = [(f"{digit}e{power}", max(-power, 2)) for power in range(-6, 8) for digit in (1, 2, 5)]  # and decimals

_STYLE = (  # class, property, light, dark
    ("paper", "fill", "#ffffff", "#15191e"),
    ("panel", "fill", "#f7f9fb", "#1c2229"),
    ("ink", "fill", "#1f2933", "#e8ecf0"),
    ("soft", "fill", "#616e7c", "#9aa5b1"),
    ("none", "fill", "#f4d9d6", "#4d2e2f"),
    ("grid", "stroke", "#e1e6eb", "#2c353f"),
    ("cut", "stroke", "#c98f89", "#a8625c"),
    ("mid", "stroke", "#2a6f97", "#6db3dd"),
    ("win", "color", "#1e8449", "#4cd07d"),
    ("loss", "color", "#c0392b", "#ff7b6b"),
    ("flat", "color", "#616e7c", "#b4bec9"),
    ("mark", "stroke", "#ffffff", "#15191e"),
)
_OUTCOMES = {"WIN": "win", "LOSS": "loss"}  # anything else: breakeven


class Trade(NamedTuple):
    """The parts of an episode that are drawn; times in ns UTC, prices in USD."""

    entry_ts: int
    entry_price: float
    exit_ts: int
    exit_price: float
    outcome: str  # WIN, LOSS or BREAKEVEN
    side: str = "LONG"


_TRADE = ("entry_ts", "entry_price", "exit_ts", "exit_price", "win_loss", "side")  # columns of an episode


class Panel(NamedTuple):
    """One symbol's day: `ts` int64 ns UTC shape (n,), rising, `mid` float64 shape (n,), NaN = no quote in force.

    Each row is the second that begins at its `ts`; seconds without a row were not recorded.
    """

    symbol: str
    ts: Ints
    mid: Floats
    trades: Sequence[Trade]


def panels_of(buckets: pa.Table, episodes: pa.Table) -> list[Panel]:
    """The panels of a day: one per instrument with buckets, in the order of symbols."""
    drawn = episodes.select(["con_id", *_TRADE])  # not the documents, which are nearly all of the table
    taken = drawn.filter(pc.and_(episodes["taken"], pc.is_valid(episodes["exit_price"])))
    columns = [column.to_pylist() for column in taken.columns]
    trades: dict[int, list[Trade]] = {}
    for con_id, *values in zip(*columns, strict=True):
        trades.setdefault(con_id, []).append(Trade(*values))
    names = buckets.select(["symbol", "con_id"]).group_by(["symbol", "con_id"]).aggregate([]).to_pylist()
    mids = buckets.select(["ts", "mid"])
    return [
        _panel_of(mids.filter(pc.equal(buckets["con_id"], con_id)), symbol, trades.get(con_id, []))
        for symbol, con_id in sorted((name["symbol"], name["con_id"]) for name in names)
    ]


def _panel_of(rows: pa.Table, symbol: str, trades: list[Trade]) -> Panel:
    mid = rows["mid"].to_numpy().astype(np.float64)
    return Panel(symbol, rows["ts"].cast(pa.int64()).to_numpy(), mid, trades)


def day_picture(title: str, panels: Sequence[Panel]) -> str:
    """Draw the panels under each other with one common time axis; the picture of an empty day says so."""
    count = max(len(panels), 1)
    each = min(max(_PANELS // count, _PANEL_MIN), _PANEL_MAX)
    seen = [panel for panel in panels if len(panel.ts)]
    time = _Time.of(seen) if seen else None
    height = _TOP + count * each + _BOTTOM + (16 if time and time.cuts() else 0)
    out = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
            f'height="{height}" font-family="system-ui, sans-serif" font-size="11">'
        ),
        _style(),
        f'<rect class="paper" width="{_WIDTH}" height="{height}"/>',
        f'<text class="ink" x="12" y="24" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    if time is None:
        out.append(f'<text class="soft" x="12" y="{_TOP}">nothing was recorded</text>')
    else:
        tops = [_TOP + row * each for row in range(count)]
        out += [_subtitle(time), *_legend()]
        for top, panel in zip(tops, panels, strict=True):
            out += _panel(panel, top, each - _GAP, time)
        out += time.labels(tops[-1] + each + 8)
        out += time.labels(_TOP - 8, cuts=False) if count > _AXES_BOTH else []
    return "\n".join([*out, "</svg>", ""])


def _style() -> str:
    light = "".join(f".{name}{{{key}:{value}}}" for name, key, value, _ in _STYLE)
    dark = "".join(f".{name}{{{key}:{value}}}" for name, key, _, value in _STYLE)
    return f"<style>{light}@media(prefers-color-scheme:dark){{{dark}}}</style>"


def _subtitle(time: _Time) -> str:
    what = f"mid of bid and ask by second, USD; time of day in New York ({time.offset()})"
    return f'<text class="soft" x="12" y="42">{what}</text>'


def _legend() -> list[str]:
    y = 58
    out = [f'<path class="mid" d="M12,{y} h18" fill="none" stroke-width="1.6"/>', _word(36, y, "mid")]
    out += [f'<rect class="none" x="78" y="{y - 5}" width="18" height="10"/>']
    out += [_word(102, y, "no quote, feed away or not recorded")]
    out += [f'<g class="flat">{_entry(338, y, up=True)}{_entry(400, y, up=False)}{_exit(468, y)}</g>']
    out += [_word(349, y, "long"), _word(411, y, "short"), _word(478, y, "exit")]
    for x, name, word in ((530, "win", "win"), (586, "loss", "loss"), (646, "flat", "breakeven")):
        out += [f'<path class="{name}" d="M{x},{y} h14" stroke="currentColor" stroke-width="3"/>']
        out += [_word(x + 20, y, word)]
    return out


def _word(x: float, y: float, text: str) -> str:
    return f'<text class="soft" x="{_n(x)}" y="{_n(y + 4)}">{text}</text>'


# ---- the time axis ---------------------------------------------------------------------------------------------------


class _Time(NamedTuple):
    """The time axis: stretches drawn to one scale, with cuts between them.

    Attributes:
        begins, ends: of the stretches, ns UTC.
        lefts: px of their beginnings.
        scale: px per ns.
    """

    begins: Ints
    ends: Ints
    lefts: Floats
    scale: float

    @classmethod
    def of(cls, panels: Sequence[Panel]) -> _Time:
        """The axis of a day; long times without any recording are cut out."""
        seconds = np.unique(np.concatenate([panel.ts for panel in panels]))
        after = np.diff(seconds) - SECOND_NS
        recorded = int(seconds[-1]) + SECOND_NS - int(seconds[0]) - int(after.sum())
        long = np.flatnonzero(after > max(_CUT_FROM, recorded // 4))
        begins = seconds[np.concatenate([[0], long + 1])]
        ends = seconds[np.concatenate([long, [len(seconds) - 1]])] + SECOND_NS
        scale = (_WIDTH - _LEFT - _RIGHT - _CUT * len(long)) / int((ends - begins).sum())
        before = np.concatenate([[0], np.cumsum(ends - begins)[:-1]])
        return cls(begins, ends, _LEFT + before * scale + _CUT * np.arange(len(begins)), scale)

    def x(self, ts: Ints) -> Floats:
        """Px of times; a time in a cut is at the edge of the cut, one outside the day at the edge of the day."""
        at = np.clip(np.searchsorted(self.begins, ts, "right") - 1, 0, None)
        inside = np.clip(ts, self.begins[at], self.ends[at]) - self.begins[at]
        return self.lefts[at] + inside * self.scale

    def x_of(self, ts: int) -> float:
        return float(self.x(np.array([ts], np.int64))[0])

    def cuts(self) -> list[tuple[float, float, int]]:
        """Left and right edge in px, and length in ns, of each cut."""
        right = self.lefts[1:].tolist()
        lengths = (self.begins[1:] - self.ends[:-1]).tolist()
        return [(edge - _CUT, edge, length) for edge, length in zip(right, lengths, strict=True)]

    def offset(self) -> str:
        """New York's distance from UTC on the day, `UTC-4`."""
        hours, minutes = divmod(_offset(int(self.begins[0])) // 60, 60)
        return f"UTC{hours:+d}" + (f":{minutes:02d}" if minutes else "")

    def ticks(self) -> list[tuple[float, str]]:
        """Px and New York time of day, at whole seconds, minutes or hours, without overlap."""
        shown = int((self.ends - self.begins).sum()) // SECOND_NS
        step = next((step for step in _TIME_STEPS if shown // step <= _TIME_TICKS), _TIME_STEPS[-1])
        local = _offset(int(self.begins[0]))
        out: list[tuple[float, str]] = []
        for begin, end in zip(self.begins.tolist(), self.ends.tolist(), strict=True):
            first, last = begin // SECOND_NS + local, end // SECOND_NS + local
            for second in range(-(-first // step) * step, last + 1, step):
                x = self.x_of((second - local) * SECOND_NS)
                if not out or x - out[-1][0] >= 56:
                    clock = second % 86_400
                    text = f"{clock // 3600:02d}:{clock // 60 % 60:02d}"
                    out.append((x, text if step % 60 == 0 else f"{text}:{clock % 60:02d}"))
        return out

    def labels(self, y: float, *, cuts: bool = True) -> list[str]:
        """The times of day, and below them the length of each cut."""
        out = [f'<text class="soft" x="{_n(x)}" y="{y}" text-anchor="middle">{text}</text>' for x, text in self.ticks()]
        for left, right, length in self.cuts() if cuts else ():
            out.append(
                f'<text class="soft" x="{_n((left + right) / 2)}" y="{y + 16}" text-anchor="middle">'
                f"{_length(length)} left out</text>"
            )
        return out


def _offset(ns: int) -> int:
    """Seconds New York is ahead of UTC."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=ns // SECOND_NS)
    ahead = moment.astimezone(zone(NEW_YORK)).utcoffset() or timedelta()
    return ahead.days * 86_400 + ahead.seconds


def _length(ns: int) -> str:
    hours, minutes = divmod(ns // (60 * SECOND_NS), 60)
    return " ".join([f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(minutes))


def _clock(ns: int) -> str:
    second = (ns // SECOND_NS + _offset(ns)) % 86_400
    return f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"


# ---- a panel ---------------------------------------------------------------------------------------------------------


def _panel(panel: Panel, top: int, height: int, time: _Time) -> list[str]:
    """Draw from back to front: background, bands, grid, line, trades."""
    name, wide, bottom = panel.symbol, _WIDTH - _LEFT - _RIGHT, top + height
    short = name if len(name) <= _NAME_MAX else name[: _NAME_MAX - 1] + "…"
    spans = _stretches(panel)
    out = [
        f'<rect class="panel" x="{_LEFT}" y="{top}" width="{wide}" height="{height}"/>',
        f'<text class="ink" x="12" y="{top + height // 2 + 4}" font-weight="600">{escape(short)}</text>',
        *(
            f'<rect class="none" x="{_n(left)}" y="{top}" width="{_n(right - left)}" height="{height}"/>'
            for left, right in _bands(panel, spans, time)
        ),
        _strokes("grid", (f"M{_n(x)},{top}V{bottom}" for x, _ in time.ticks())),
    ]
    for left, right, _ in time.cuts():
        edges = (f"M{_n(x)},{top}V{bottom}" for x in (left, right))
        out.append(_strokes("cut", edges, 'stroke-dasharray="3 3"'))
    if not spans:
        out.append(f'<text class="soft" x="{_LEFT + 8}" y="{top + height // 2 + 4}">no quotes</text>')
        return out
    scale = _Prices.of(panel, top, height)
    ticks = scale.ticks()
    out.append(_strokes("grid", (f"M{_LEFT},{_n(y)}H{_WIDTH - _RIGHT}" for y, _ in ticks)))
    out += [f'<text class="soft" x="{_LEFT - 7}" y="{_n(y + 4)}" text-anchor="end">{text}</text>' for y, text in ticks]
    lines = (_line(panel, begin, end, time, scale) for begin, end in spans)
    out.append(_strokes("mid", lines, 'stroke-width="1.3" stroke-linejoin="round"'))
    return [*out, *(_trade(trade, time, scale) for trade in panel.trades)]


def _strokes(name: str, parts: Iterable[str], more: str = "") -> str:
    return f'<path class="{name}" d="{"".join(parts)}" fill="none"{" " + more if more else ""}/>'


def _stretches(panel: Panel) -> list[tuple[int, int]]:
    """[first, end) of the rows that follow each other second by second with a quote in force."""
    known = ~np.isnan(panel.mid)
    after = np.concatenate([[False], known[:-1] & (np.diff(panel.ts) <= SECOND_NS)])  # goes on from the row before
    before = np.concatenate([after[1:] & known[1:], [False]])
    begins, ends = np.flatnonzero(known & ~after), np.flatnonzero(known & ~before) + 1
    return list(zip(begins.tolist(), ends.tolist(), strict=True))


def _bands(panel: Panel, spans: list[tuple[int, int]], time: _Time) -> list[tuple[float, float]]:
    """Left and right edge in px of every stretch of the day without a quote; those that would touch are one."""
    begins = [int(time.begins[0]), *(int(panel.ts[end - 1]) + SECOND_NS for _, end in spans)]
    ends = [*(int(panel.ts[begin]) for begin, _ in spans), int(time.ends[-1])]
    out: list[tuple[float, float]] = []
    for begin, end in zip(begins, ends, strict=True):
        if begin >= end:
            continue
        left, right = time.x_of(begin), time.x_of(end)
        if right - left < _BAND_MIN:
            left = min(max((left + right - _BAND_MIN) / 2, _LEFT), _WIDTH - _RIGHT - _BAND_MIN)
            right = left + _BAND_MIN
        if out and left <= out[-1][1]:
            left = out.pop()[0]
        out.append((left, right))
    return out


class _Prices(NamedTuple):
    """The price axis of a panel.

    Attributes:
        top, bottom: px of the highest and the lowest price.
    """

    low: float
    high: float
    top: int
    bottom: int

    @classmethod
    def of(cls, panel: Panel, top: int, height: int) -> _Prices:
        traded = [price for trade in panel.trades for price in (trade.entry_price, trade.exit_price)]
        low = min([float(np.nanmin(panel.mid)), *traded])
        high = max([float(np.nanmax(panel.mid)), *traded])
        if high <= low:  # a constant price is drawn in the middle
            low, high = low - 0.01, high + 0.01
        return cls(low, high, top + _PAD, top + height - _PAD)

    def y(self, price: float) -> float:
        return self.bottom - (price - self.low) / (self.high - self.low) * (self.bottom - self.top)

    def ticks(self) -> list[tuple[float, str]]:
        """Px and text of round prices, as many as fit the height."""
        room = min((self.bottom - self.top) // 15, 6)
        fitting = (s for s in _PRICE_STEPS if (self.high - self.low) / float(s[0]) <= room)
        text, digits = next(fitting, _PRICE_STEPS[-1])
        step = float(text)
        first, last = -int(-self.low // step), int(self.high // step)
        return [(self.y(k * step), f"{k * step:,.{digits}f}") for k in range(first, last + 1)]


def _line(panel: Panel, begin: int, end: int, time: _Time, scale: _Prices) -> str:
    """The path of one stretch: of each px the lowest and the highest mid, in the order in which they came."""
    mids, xs = panel.mid[begin:end], time.x(panel.ts[begin:end])
    edges = np.concatenate([[0], np.flatnonzero(np.diff(xs.astype(np.int64))) + 1, [end - begin]]).tolist()
    points = [(float(xs[0]), float(mids[0]))]
    for first, last in pairwise(edges):
        part = mids[first:last]
        low, high = first + int(part.argmin()), first + int(part.argmax())
        points += [(float(xs[k]), float(mids[k])) for k in sorted({low, high})]
    stop = max(time.x_of(int(panel.ts[end - 1]) + SECOND_NS), points[0][0] + 1)  # a single second must be visible too
    points.append((min(stop, _WIDTH - _RIGHT), float(mids[-1])))
    inner = zip(points, points[1:], points[2:], strict=False)
    bends = [point for before, point, after in inner if not before[1] == point[1] == after[1]]
    return "M" + " ".join(f"{_n(x)},{_n(scale.y(price))}" for x, price in (points[0], *bends, points[-1]))


def _trade(trade: Trade, time: _Time, scale: _Prices) -> str:
    """The line from entry to exit, with a tooltip."""
    x1, x2 = time.x_of(trade.entry_ts), time.x_of(trade.exit_ts)
    y1, y2 = scale.y(trade.entry_price), scale.y(trade.exit_price)
    about = (
        f"{trade.side.lower()} {_clock(trade.entry_ts)} at {trade.entry_price:,.4f}, "
        f"out {_clock(trade.exit_ts)} at {trade.exit_price:,.4f}: {trade.outcome.lower()}"
    )
    return (
        f'<g class="{_OUTCOMES.get(trade.outcome, "flat")}"><title>{escape(about)}</title>'
        f'<path d="M{_n(x1)},{_n(y1)}L{_n(x2)},{_n(y2)}" stroke="currentColor" stroke-width="2"/>'
        f"{_exit(x2, y2)}{_entry(x1, y1, up=trade.side == 'LONG')}</g>"
    )


def _entry(x: float, y: float, *, up: bool) -> str:
    """A triangle, up for long and down for short, its tip at the price."""
    deep = 9 if up else -9
    return f'<path class="mark" d="M{_n(x)},{_n(y - deep / 2)}l5,{deep}h-10z" fill="currentColor"/>'


def _exit(x: float, y: float) -> str:
    return f'<circle class="mark" cx="{_n(x)}" cy="{_n(y)}" r="3.5" fill="currentColor"/>'


def _n(number: float) -> str:
    """A number of px, rounded to a tenth."""
    return f"{number:.1f}".removesuffix(".0")
