"""--require-mtf-alignment: entries only in the direction of the symbol's signal."""

from __future__ import annotations

from typing import Any

import pytest
from trading_log import DATE, market, run_params, subscriptions

from harvester.calendar import session
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.projections.engine import Engine
from harvester.projections.interval import Occurrence, OccurrenceKind
from harvester.projections.market.signals import Signals
from harvester.projections.step import Derived

SECOND = 1_000_000_000


def decisions(*, required: bool, way: int | None, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Decisions of a quarter of an hour; every symbol is aligned `way` from its first minute on, None = never."""

    def aligned(self: Signals, step: Any) -> Derived:
        del self
        clocks = step.clocks[:1].tolist() if way else []
        return Derived(
            [Occurrence(seq, ts, con_id, OccurrenceKind.ALIGNED, way) for seq, ts in clocks for con_id in (101, 102)]
        )

    monkeypatch.setattr(Signals, "fold", aligned)
    params = run_params()
    params = type(params)(**{n: getattr(params, n) for n in params.__struct_fields__ if n != "config"}, config={
        **params.config, "require_mtf_alignment": required})  # fmt: skip
    opens = session(DATE).open_ns + 1800 * SECOND
    start = {"ts_recv": opens, "action": "run_start", "stream": "run", "params": params.text()}
    rows = [(Kind.REQUEST, start), *subscriptions(opens), *market()]
    engine = Engine()
    return engine.fold(Batch.of(rows, 1)).tables["decisions"].to_pylist()


def entries(rows: list[dict[str, Any]]) -> list[str]:
    return [row["reason"] for row in rows if row["action"] == "enter"]


def test_without_the_setting_signals_bind_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the option the sample day trades both ways."""
    rows = decisions(required=False, way=None, monkeypatch=monkeypatch)
    assert set(entries(rows)) == {"BREAKOUT_UP", "BREAKOUT_DOWN"}


def test_without_a_signal_nothing_is_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every breakout is refused with MTF_ALIGNMENT, and the refusal is recorded."""
    rows = decisions(required=True, way=None, monkeypatch=monkeypatch)
    assert entries(rows) == []
    assert any("MTF_ALIGNMENT" in (row["gate_codes"] or "") for row in rows)


@pytest.mark.parametrize(("way", "reason"), [(1, "BREAKOUT_UP"), (-1, "BREAKOUT_DOWN")])
def test_only_the_way_of_the_signal(way: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all timeframes up only upward breakouts are entered, with all down only downward ones."""
    assert set(entries(decisions(required=True, way=way, monkeypatch=monkeypatch))) == {reason}
