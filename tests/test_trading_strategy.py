from __future__ import annotations

from pathlib import Path

import pytest
from trading_table import at, bucket

from harvester.errors import BadSetting
from harvester.projections.trading.simulated_exchange import ShownQuote
from harvester.projections.trading.strategies import describe, digest, imbalance_breakout, make
from harvester.projections.trading.strategy import View

OPEN, CLOSE = at(-1800), at(6 * 3600)


def seen(mids, **view):
    """A fresh strategy that has observed these mids, one a second, and its verdict on the last of them."""
    strategy = make("imbalance_breakout", view.pop("settings", {}))
    lean = view.pop("lean", 0.5)
    rows = [bucket(s, mid=m, mark=m, spread_bps=2.0, imbalance=lean, **view.get("row", {})) for s, m in enumerate(mids)]
    view.pop("row", None)
    for row in rows:
        strategy.observe(7, row)
    shown = view.pop("shown", None) or ShownQuote(
        True, round(mids[-1] - 0.01, 4), round(mids[-1] + 0.01, 4), 500.0, 100.0
    )
    now = at(len(mids))
    strategy_view = View(1000, view.pop("ts", now), 7, "TEST", rows[-1], shown, (OPEN, CLOSE), False, False)
    return strategy, strategy.decide(strategy_view._replace(**view))


WAVE = [50.0 + 0.05 * ((s % 20) / 10 if s % 20 < 10 else 2 - (s % 20) / 10) for s in range(60)]
UP, DOWN = [*WAVE, 50.08], [*WAVE, 49.97]


def test_breakout_up():
    """A new high with the sizes leaning up buys: stop one range below the ask, target one and a half above."""
    _, verdict = seen(UP)
    plan = verdict.plan
    assert verdict.gates == ()
    assert (plan.long, plan.stop, plan.target, plan.reason) == (True, 50.04, 50.16, "BREAKOUT_UP")
    assert plan.quantity == 499  # 25,000 USD of notional bind before 100 USD of risk
    assert plan.features["range"] == pytest.approx(0.05)


def test_breakout_down():
    """The mirror image sells short."""
    _, verdict = seen(DOWN, lean=-0.5)
    plan = verdict.plan
    assert (plan.long, plan.stop, plan.target, plan.reason) == (False, 50.01, 49.89, "BREAKOUT_DOWN")


def test_risk_binds():
    """With a wide range the quantity loses `risk_usd` at the stop."""
    wide = [50 + (m - 50) * 20 for m in UP]
    _, verdict = seen(wide)
    plan = verdict.plan
    assert plan.quantity == int(100 / round(51.61 - plan.stop, 9))


@pytest.mark.parametrize(
    ("mids", "lean"),
    [(UP, -0.5), (UP, 0.1), (DOWN, 0.5), ([*WAVE, 50.03], 0.5), ([50.0] * 60 + [50.004], 0.5)],
    ids=["sizes against", "sizes even", "down against", "inside the range", "range within the spread"],
)
def test_no_signal(mids, lean):
    """No gate refuses, and there is no breakout: no trade."""
    _, verdict = seen(mids, lean=lean)
    assert (verdict.gates, verdict.plan) == ((), None)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ts": OPEN + 59_000_000_000}, "SESSION"),
        ({"ts": CLOSE - 899_000_000_000}, "SESSION"),
        ({"session": None}, "SESSION"),
        ({"outage": True}, "OUTAGE"),
        ({"shown": ShownQuote(False, 50.0, 50.02, 1.0, 1.0)}, "NOT_LIVE"),
        ({"halted": True}, "HALTED"),
        ({"row": {"book_good": False}}, "BOOK_BAD"),
        ({"settings": {"spread_bps_max": 1.5}}, "SPREAD"),
        ({"holding": True}, "HOLDING"),
    ],
)
def test_gates(change, code):
    """Each reason to stay out has its own code, and keeps the signal from trading."""
    _, verdict = seen(UP, **change)
    assert verdict.gates == (code,)
    assert verdict.plan is None


def test_a_second_without_rows_is_no_reason():
    """The stream may be silent while the quote holds: a stale second closes no gate."""
    _, verdict = seen(UP, row={"stale": True})
    assert verdict.gates == ()
    assert verdict.plan is not None


def test_no_book_is_not_a_bad_book():
    """Without a recorded book the sizes of the quote decide."""
    _, verdict = seen(UP, lean=None, row={"book_good": None})
    assert verdict.plan.features["imbalance"] == pytest.approx(400 / 600)


def test_warm_up_and_holes():
    """The strategy waits for a whole minute of mids, and again after a second without a quote."""
    _, verdict = seen(UP[1:])
    assert verdict.gates == ("WARMUP",)
    strategy, _ = seen(UP)
    strategy.observe(7, bucket(61, mid=None))
    assert strategy.snapshot()["mids"] == [(7, [])]


def test_cooldown():
    """After a trade the strategy rests for a minute."""
    strategy, _ = seen(UP)
    strategy.finished(7, at(10))
    row, shown = bucket(60, mid=50.08, spread_bps=2.0, imbalance=0.5), ShownQuote(True, 50.07, 50.09, 1.0, 1.0)
    view = View(1, at(61), 7, "TEST", row, shown, (OPEN, CLOSE), False, False)
    assert strategy.decide(view).gates == ("COOLDOWN",)
    assert strategy.decide(view._replace(ts=at(70))).plan is not None


def test_digest_covers_source_and_settings(monkeypatch, tmp_path):
    """Other settings or another source give another digest; Windows line ends do not."""
    plain = describe("imbalance_breakout")
    assert describe("imbalance_breakout", {"risk_usd": 50.0})["digest"] != plain["digest"]
    assert describe("imbalance_breakout", plain["settings"]) == plain
    source = Path(imbalance_breakout.__file__).read_bytes()
    copy = tmp_path / "copy.py"
    monkeypatch.setattr(imbalance_breakout, "__file__", str(copy))
    copy.write_bytes(source.replace(b"\n", b"\r\n"))
    assert digest("imbalance_breakout", plain["settings"]) == plain["digest"]
    copy.write_bytes(source + b"# changed\n")
    assert digest("imbalance_breakout", plain["settings"]) != plain["digest"]


def test_wrong_names():
    """The error names an unknown strategy or setting."""
    with pytest.raises(BadSetting, match="unknown strategy 'moon'; use one of imbalance_breakout"):
        make("moon", {})
    with pytest.raises(BadSetting, match=r"imbalance_breakout: .*leverage"):
        make("imbalance_breakout", {"leverage": 100})
