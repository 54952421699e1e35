"""The table of `hv memory evidence`: 100 columns, a line a group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harvester.endofday.kept_evidence import KeptEvidence

_NAME = 16


def lines_of(found: KeptEvidence, groups: Sequence[str]) -> Iterator[str]:
    """Yield the lines: what was found, the days used, then a table for each kind of `groups`."""
    from harvester.endofday.kept_evidence import in_words

    made = found.evidence
    yield _first(made)
    yield (
        f"{', '.join(found.data)} days of rules {found.rules}: {len(found.dates)}, {found.dates[0]} to "
        f"{found.dates[-1]}; left out: {in_words(found.left_out) or 'none'}"
    )
    shown = [row for row in made["rows"] if row["kind"] in groups]
    for group in groups:
        rows = [row for row in shown if row["kind"] == group]
        if rows:
            yield ""
            yield _line(group, "days", "trades", "mean R [95 %]", "pooled", "wins % [95 %]", "verdict")
            for row in sorted(rows, key=_order):
                yield from _lines(row)
    yield ""
    if any(row["more_days"] and row["more_days"]["about"] is None for row in shown):
        yield "noise without a number of days: no effect worth waiting for, more than a year of trading days"
    yield f"insufficient evidence: fewer than {made['days_min']} days with a trade; gates have no outcomes to judge"


def _first(made: dict[str, Any]) -> str:
    total, tested, shown = len(made["rows"]), made["tested"], made["shown"]
    rate = f"rate of false discoveries {made['rate']:.0%}".replace("%", " %")
    if not tested:
        return f"insufficient evidence: none of {total} groups has {made['days_min']} days with a trade"
    tail = f"; {total - tested} more: insufficient evidence" if total > tested else ""
    return f"{shown} of {tested} groups tested {'is' if shown == 1 else 'are'} evidence ({rate}){tail}"


def _order(row: dict[str, Any]) -> tuple[int, float, str, str]:
    """Evidence first, then by adjusted p-value."""
    from harvester.memory.evidence import EVIDENCE, INSUFFICIENT, NOISE

    return (EVIDENCE, NOISE, INSUFFICIENT).index(row["verdict"]), row["q"] or 0.0, row["name"], row["mode"]


def _lines(row: dict[str, Any]) -> Iterator[str]:
    """One line, two when the name is longer than its column."""
    from harvester.projections.trading.episodes import MODE_EVENT

    name = row["name"] if row["mode"] == MODE_EVENT else f"{row['name']} ({row['mode']})"
    if len(name) > _NAME:
        yield name
        name = ""
    more = row["more_days"]
    verdict = row["verdict"] + (f", {more['about']} more days" if more and more["about"] else "")
    mean, hits, drawn = row["mean_r"], row["hit_rate"], row["mean_r_pooled"]
    yield _line(
        name,
        str(row["days"]),
        str(row["n"]),
        f"{_number(mean['mean'])} {_ends(_number(mean['low']), _number(mean['high']))}",
        _ends(_number(drawn["low"]), _number(drawn["high"])),
        f"{_percent(hits['mean'])} {_ends(_percent(hits['low']), _percent(hits['high']))}",
        verdict,
    )


def _line(name: str, days: str, trades: str, mean: str, drawn: str, hits: str, verdict: str) -> str:
    return f"{name:{_NAME}} {days:>4} {trades:>6} {mean:>20} {drawn:>14} {hits:>13} {verdict}".rstrip()


def _ends(low: str, high: str) -> str:
    return f"[{low}, {high}]" if low != "-" else ""


def _number(value: float | None) -> str:
    """At most five characters for what an R can be."""
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"  # noqa: PLR2004 - where another digit begins


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}"
