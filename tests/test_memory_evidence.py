"""`hv memory evidence`: which days it takes, and its numbers against `evidence()` of sums made here."""

from __future__ import annotations

import json
import re
import shutil
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from test_memory_chain import hv
from test_memory_fold import episode

from harvester.artefacts.table_files import parquet_file
from harvester.endofday.kept_memory import make_again, undo
from harvester.errors import BadSetting, DamagedFile, Mismatch, NoLog
from harvester.files import put
from harvester.home import Home
from harvester.memory.day_clusters import table_of
from harvester.memory.evidence import evidence
from harvester.projections.trading.episodes import RULES

if TYPE_CHECKING:
    from pathlib import Path

GOOD, OTHERS = "GOOD", ["AAA", "BBB", "CCC", "DDD", "EEE"]
FIRST = date(2025, 3, 3)
"""Daylight saving begins on 9 March: an hour of New York is another of UTC in the second week."""


def row(n: int, day: date, symbol: str, r: float, hour: int, **more: Any) -> dict[str, Any]:
    """One kept episode that entered at half past `hour` in New York."""
    made = episode(n, date=day.isoformat(), symbol=symbol, pnl=10 * r, entry_reason=more.pop("reason", "BREAKOUT_UP"))
    entry = datetime(day.year, day.month, day.day, hour, 30, tzinfo=ZoneInfo("America/New_York"))
    return (
        made | {"entry_ts": int(entry.timestamp()) * 10**9, "rules": RULES, "kind": "live", "unseen_seconds": 0} | more
    )


def keep(home: Home, day: date, rows: list[dict[str, Any]], kind: str = "live", **about: str) -> None:
    """Write the kept episodes of a date, as `hv eod` does."""
    figures = {"trading_date": day.isoformat(), "content_hash": "c", "last_ts": f"{day}T20:00:00Z", "kind": kind}
    data = parquet_file(pa.Table.from_pylist(rows), figures | {"allow_not_live": "false"} | about)
    put(home.on(day).dataset / "episodes.parquet", data)


def day_number(n: int) -> date:
    return FIRST + timedelta(days=n)


def trades(n: int, kind: str = "live", good: float = 2.0, **more: Any) -> list[dict[str, Any]]:
    """Day n: GOOD wins `good` R more or less; five others two trades each, without an edge; one of 9 R on day 0."""
    draws, day = np.random.default_rng(n), day_number(n)
    rows = [row(1, day, GOOD, good + float(draws.normal(0, 0.2)), 10, kind=kind, **more)]
    for i, symbol in enumerate(OTHERS * 2):
        r = 9.0 if (n, i) == (0, 0) else float(draws.normal(0, 1.2))
        reason = "BREAKOUT_UP" if i % 3 else "BREAKOUT_DOWN_THROUGH_THE_CLOUD"
        rows.append(row(2 + i, day, symbol, r, (9, 11, 15)[i % 3], reason=reason, kind=kind, **more))
    return rows


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Twelve live days; the first also has trades that are not learned from."""
    home = Home(tmp_path_factory.mktemp("base"))
    for n in range(12):
        keep(home, day_number(n), trades(n))
    vetoed = row(50, FIRST, GOOD, -4.0, 10) | {"document": episode(50, symbol=GOOD, pnl=-40, taken=False)["document"]}
    unseen = row(51, FIRST, GOOD, -4.0, 10, unseen_seconds=3)
    broken = row(52, FIRST, GOOD, -4.0, 10, document="{}")
    keep(home, FIRST, [*trades(0), vetoed, unseen, broken])
    make_again(home)
    return home


@pytest.fixture
def home(base: Home, tmp_path: Path) -> Home:
    return Home(shutil.copytree(base.root, tmp_path / "home"))


def of_json(home: Home, *words: str) -> dict[str, Any]:
    made = hv(home, "evidence", "--json", *words)
    assert made.exception is None, made.exception
    found: dict[str, Any] = json.loads(made.output)
    return found


def summed(days: list[list[dict[str, Any]]], kind: str, name_of: Any) -> Any:
    """A table for `evidence()` from sums made here."""
    names = sorted({name_of(one) for rows in days for one in rows})
    sums = np.zeros((5, len(names), len(days)))
    for d, rows in enumerate(days):
        for one in rows:
            pnl = json.loads(one["document"])["labels"]["pnl_usd"]
            r = min(max(pnl / 10, -5.0), 5.0)
            sums[:, names.index(name_of(one)), d] += 1, pnl > 0.005, 1, r, r * r
    return table_of(kind, "event", names, sums, len(days))


def direct(days: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """`evidence()` of these days' rows."""

    def setup(one: dict[str, Any]) -> str:
        return f"s/{json.loads(one['document'])['decision_trace']['entry_reason']}"

    def hour(one: dict[str, Any]) -> str:
        entry = datetime.fromtimestamp(one["entry_ts"] // 10**9, ZoneInfo("America/New_York"))
        return f"{entry.hour:02d}:00"

    tables = [summed(days, "setup", setup), summed(days, "symbol", lambda one: one["symbol"])]
    return evidence([*tables, summed(days, "hour", hour)])


def near(found: Any, wanted: Any) -> None:
    """Equal, numbers to one unit of their last decimal: sums here are not exactly rounded."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            near(found[name], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            near(one, other)
    else:
        assert found == (pytest.approx(wanted, abs=1.5e-6) if isinstance(wanted, float) else wanted)


def test_the_numbers_are_those_of_evidence(home: Home) -> None:
    """Setups, symbols and hours of entry in New York, R winsorised, as `evidence()` gives of sums made here."""
    found = of_json(home)
    near(found["evidence"], direct([trades(n) for n in range(12)]))
    rows = {(one["kind"], one["name"]): one for one in found["evidence"]["rows"]}
    assert [name for kind, name in rows if kind == "hour"] == ["09:00", "10:00", "11:00", "15:00"]
    assert {name for (_, name), one in rows.items() if one["verdict"] == "evidence"} == {GOOD, "10:00"}
    assert (found["data"], found["rules"], found["left_out"]) == (["live"], RULES, {})
    assert found["dates"] == [day_number(n).isoformat() for n in range(12)]
    assert found["memory"] == json.loads(home.memory_latest.read_bytes())["hash"]


def test_what_is_hidden_is_counted(home: Home) -> None:
    """`--by` hides groups, and changes no verdict: false discoveries are controlled over all of them."""
    whole, part = of_json(home)["evidence"], of_json(home, "--by", "hour", "--by", "setup")["evidence"]
    assert part["rows"] == [one for one in whole["rows"] if one["kind"] != "symbol"]
    assert [one["kind"] for one in part["kinds"]] == ["hour", "setup"]
    assert (part["tested"], part["shown"]) == (whole["tested"], whole["shown"]) == (12, 2)
    assert isinstance(hv(home, "evidence", "--by", "gate").exception, BadSetting)


def test_other_days_are_left_out(home: Home, base: Home) -> None:
    """Days of other kinds, older rules, starved and excluded ones change nothing unless asked for, and are counted."""
    keep(home, day_number(12), trades(12, "model", good=-4.0), "model")
    keep(home, day_number(13), trades(13, "paper", good=-3.0), "paper")
    keep(home, day_number(14), trades(14, good=-2.0, rules=RULES - 1))
    keep(home, day_number(15), trades(15, good=-1.0), starved="true")
    keep(home, day_number(16), trades(16, good=-5.0))
    make_again(home)
    undo(home.on(day_number(16)))
    found = of_json(home)
    assert found["evidence"] == of_json(base)["evidence"]
    names = ["model", "paper", f"rules {RULES - 1}", "starved", "excluded"]
    assert found["left_out"] == {name: [day_number(12 + n).isoformat()] for n, name in enumerate(names)}
    pooled = of_json(home, "--kind", "paper", "--kind", "live")
    near(pooled["evidence"], direct([*(trades(n) for n in range(12)), trades(13, "paper", good=-3.0)]))
    assert (pooled["data"], "paper" in pooled["left_out"]) == (["live", "paper"], False)
    alone = hv(home, "evidence", "--kind", "model").output.splitlines()
    assert alone[0] == "insufficient evidence: none of 12 groups has 5 days with a trade"
    assert alone[1].startswith("model days of rules 2: 1, 2025-03-15 to 2025-03-15; left out: 14 live, 1 paper, ")
    assert isinstance(hv(home, "evidence", "--kind", "nothing").exception, BadSetting)


def test_no_live_days(tmp_path: Path) -> None:
    """Without memory, or without a live day in it, one line with what there is and the way to it."""
    home = Home(tmp_path)
    assert isinstance(hv(home, "evidence").exception, NoLog)
    keep(home, day_number(0), trades(0, "model"), "model")
    keep(home, day_number(1), trades(1, rules=RULES - 1))
    make_again(home)
    for words in ([], ["--json"]):
        error = hv(home, "evidence", *words).exception
        assert isinstance(error, NoLog)
        assert str(error) == (
            f"no day of kind live and rules {RULES} in memory (1 model, 1 rules {RULES - 1}); "
            "--kind model takes those days"
        )


def test_a_day_without_trades_counts(home: Home) -> None:
    """A live day with no trade is a day that groups could have traded on: more days to wait, no other number."""
    whole = of_json(home)["evidence"]
    keep(home, day_number(12), [row(1, day_number(12), GOOD, 1.0, 10, exit_reason="DATA_END")])
    make_again(home)
    rows = of_json(home)["evidence"]["rows"]
    waits = [[one.pop("more_days") for one in rows] for rows in (whole["rows"], rows)]
    assert rows == whole["rows"]
    pairs = [(a["about"], b["about"]) for a, b in zip(*waits, strict=True) if a and a["about"] and b["about"]]
    assert pairs
    assert all(after >= before for before, after in pairs)


def test_the_table(home: Home) -> None:
    """What was found comes first, then the days, then each group within 100 columns, evidence before noise."""
    lines = hv(home, "evidence").output.splitlines()
    assert lines[0] == "2 of 12 groups tested are evidence (rate of false discoveries 5 %)"
    assert lines[1] == "live days of rules 2: 12, 2025-03-03 to 2025-03-14; left out: none"
    assert max(map(len, lines)) <= 100
    at = lines.index(next(line for line in lines if line.startswith("symbol ")))
    good = next(one for one in of_json(home)["evidence"]["rows"] if one["name"] == GOOD)
    figures = [*good["mean_r"].values(), *list(good["mean_r_pooled"].values())[1:]]
    percents = [f"{100 * value:.0f}" for value in good["hit_rate"].values()]
    wanted = ["GOOD", "12", "12", *(f"{value:.2f}" for value in figures), *percents, "evidence"]
    assert re.sub(r"[\[\],]", "", lines[at + 1]).split() == wanted
    assert all("noise" in line for line in lines[at + 2 : at + 7])
    assert any(line.endswith(" more days") for line in lines)
    assert not any("-0.00" in line for line in lines)
    assert "s/BREAKOUT_DOWN_THROUGH_THE_CLOUD" in lines  # a long name has a line of its own
    assert not any(line.startswith("symbol ") for line in hv(home, "evidence", "--by", "hour").output.splitlines())


def test_a_group_with_few_days(home: Home) -> None:
    """A symbol traded on four days is not judged, is listed last and is counted in the first line."""
    for n in range(4):
        keep(home, day_number(n), [*trades(n), row(90, day_number(n), "NEW", 2.0 + n / 10, 10)])
    make_again(home)
    lines = hv(home, "evidence", "--by", "symbol").output.splitlines()
    assert lines[0].endswith("; 1 more: insufficient evidence")
    assert lines[10].split() == ["NEW", "4", "4", "2.15", "100", "insufficient", "evidence"]


def test_datasets_that_memory_does_not_hold(home: Home) -> None:
    """A changed dataset is a mismatch, a missing one damage, each named; those of days left out are not read."""
    keep(home, day_number(12), trades(12, "model"), "model")
    make_again(home)
    shutil.rmtree(home.on(day_number(12)).dataset)
    assert len(of_json(home)["dates"]) == 12
    keep(home, day_number(3), trades(4))
    error = hv(home, "evidence").exception
    assert isinstance(error, Mismatch)
    assert "the dataset of 2025-03-06 is not the one that memory" in str(error)
    shutil.rmtree(home.on(day_number(3)).dataset)
    assert isinstance(hv(home, "evidence").exception, DamagedFile)
    rows = [{k: v for k, v in one.items() if k != "entry_ts"} for one in trades(3)]
    keep(home, day_number(3), rows)
    assert "lacks its entry_ts" in str(hv(home, "evidence").exception)
