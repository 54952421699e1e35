"""The tables of `hv memory evidence`, 100 columns wide, one line for each group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harvester.endofday.kept_evidence import KeptEvidence

_NAME = 11  # columns of a name that shares its line
_WIDER = 10  # R from which on it has two digits before the point


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
    yield from _below(made, shown)


def _below(made: dict[str, Any], shown: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield what the words in the tables mean, as far as they occur."""
    from harvester.memory.evidence import INSUFFICIENT

    waits = [row["more_days"]["about"] for row in shown if row["more_days"]]
    if any(waits):
        power = f"{made['power']:.0%}".replace("%", " %")
        yield f"more days: for a power of {power} at the present effect and variance; --json has their interval"
    if None in waits:
        yield "noise without days: no effect worth waiting for (more than a year of trading days)"
    if any(row["verdict"] == INSUFFICIENT for row in shown):
        yield f"insufficient evidence: fewer than {made['days_min']} days with a trade, not tested"
    yield "gates are not judged: an entry that a gate stopped has no outcome"


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
    name = "".join(c if c.isprintable() else "?" for c in name)
    if len(name) > _NAME:
        yield name
        name = ""
    more = row["more_days"]
    verdict = row["verdict"] + (f", about {more['about']} more days" if more and more["about"] else "")
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


def _line(*cells: str) -> str:
    name, days, trades, mean, drawn, hits, verdict = cells
    return f"{name:{_NAME}} {days:>4} {trades:>6} {mean:>20} {drawn:>14} {hits:>13} {verdict}".rstrip()


def _ends(low: str, high: str) -> str:
    return f"[{low}, {high}]" if low != "-" else ""


def _number(value: float | None) -> str:
    """An R with two decimals, from 10 on with one: at most five characters below 100."""
    if value is None:
        return "-"
    digits = 2 if abs(round(value, 2)) < _WIDER else 1
    return f"{round(value, digits) + 0.0:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}"
