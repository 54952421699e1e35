"""`harvester.Strategy`: what a user's strategy sees, may return, and what happens when it fails."""

from __future__ import annotations

import math

import msgspec
import pytest

import harvester
from harvester.errors import BadSetting
from harvester.events.kinds import Kind
from harvester.home import Home
from harvester.projections.engine import Engine
from harvester.projections.trading.user_decider import plain, unplain
from harvester.projections.trading.user_strategy import name_of
from tests import trading_log
from tests.trading_log import record
from tests.user_strategies import Given, failures, fold, params


class Fade(harvester.Strategy):
    lookback: int = 20
    spread_bps_max: float = 5.0

    def on_symbol(self, symbol):
        self.state.mids = []

    def on_second(self, now):
        mids = self.state.mids
        mids.append(now.mid)
        del mids[: -self.lookback]
        if now.position:
            return None
        if now.spread_bps > self.spread_bps_max:
            return self.refuse("SPREAD")
        if len(mids) < self.lookback or now.mid <= max(mids[:-1]):
            return None
        return self.buy(100, stop=now.bid - 0.10, target=now.ask + 0.20, reason="FADE", features={"mid": now.mid})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = Home(tmp_path_factory.mktemp("home")).prepare()
    record(root, params=params(Fade), seconds=300)
    return root


@pytest.fixture(scope="module")
def folded(home):
    return fold(home, Fade)


def with_class(tmp_path, kind, **kwargs):
    """The day recorded and folded with one strategy."""
    root = Home(tmp_path).prepare()
    record(root, params=params(kind), seconds=kwargs.pop("seconds", 120), **kwargs)
    return root, fold(root, kind)


def test_ten_lines_trade(folded):
    """A ten-line strategy sends orders and its trades become episodes with its reasons, stops and features."""
    decisions, episodes, engine, _ = folded
    entered = [row for row in decisions if row["action"] == "enter"]
    assert entered
    assert episodes
    assert failures(engine) == []
    assert {row["strategy"] for row in entered} == {"fade"}
    document = msgspec.json.decode(episodes[0]["document"])
    assert document["decision_trace"]["entry_reason"] == "FADE"
    assert document["decision_trace"]["features"]["mid"] > 0


@pytest.mark.parametrize("cuts", [1, 7, 500])
def test_cuts_change_nothing(home, folded, cuts):
    """However the events are cut, a user's strategy decides the same."""
    again = fold(home, Fade, cuts=cuts)
    assert again[0] == folded[0]
    assert again[1] == folded[1]
    assert again[3] == folded[3]


def test_snapshot_continues(home, folded):
    """A snapshot restored in the middle of the day continues with the same decisions, state and overlays included."""
    from harvester.eventlog.reader import open_day
    from tests.trading_log import DATE
    from tests.user_strategies import keep

    engine, tables = Engine(library=Given(Fade)), {"decisions": [], "episodes": []}
    for k, batch in enumerate(open_day(DATE, home).batches()):
        keep(tables, engine.fold(batch))
        if k % 2:
            data, engine = engine.snapshot(), Engine(library=Given(Fade))
            engine.restore(data)
    keep(tables, engine.finish())
    assert tables["decisions"] == folded[0]


def test_seen_is_the_market(home):
    """The quote and the second in `now` are those of the log, at the clock and before it."""
    seen = []

    class Look(harvester.Strategy):
        def on_second(self, now):
            seen.append(now)

    fold_as(home, Look)
    assert seen
    for now in seen:
        assert now.second < now.ts
        assert now.live
        assert now.bid < now.ask
        assert (now.bid, now.ask) == (now.bucket_bid, now.bucket_ask)  # the log's quotes come before the second ends
        assert now.seconds_since_open > 0
    minutes = [now.candle("1m") for now in seen if now.candle("1m")]
    assert minutes
    assert all(candle.end <= now.ts for now in seen for _, candle in now.candles)


def test_calls_ahead_see_the_same(tmp_path, monkeypatch):
    """Calls made ahead see, field by field, what they see in a fold event by event: live or not, holding or not."""
    whole = trading_log.market

    def late(*args, **kwargs):  # no quote in the first five seconds
        rows = whole(*args, **kwargs)
        first = rows[0][1]["ts_recv"] + 5 * trading_log.SECOND
        return [(kind, row) for kind, row in rows if kind is not Kind.QUOTE or row["ts_recv"] > first]

    monkeypatch.setattr(trading_log, "market", late)
    seen = []

    class Look(harvester.Strategy):
        live_only = False

        def on_second(self, now):
            seen.append(now)
            if now.why_not_live or now.ts // 10**9 % 20:
                return self.refuse("WAIT")
            if now.position:
                return self.exit()
            return self.buy(100, stop=now.bid - 0.1, target=now.ask + 0.03, hold_seconds_max=9)

    root = Home(tmp_path).prepare()
    record(root, params=params(Look), seconds=130)
    ahead = fold(root, Look)
    seen, once = [], seen
    event_by_event = fold(root, Look, cuts=1)
    assert once == seen
    assert ahead[0] == event_by_event[0]
    assert ahead[3] == event_by_event[3]
    assert {now.why_not_live for now in once} == {"", "NOT_LIVE"}
    assert any(now.position for now in once)
    assert any(now.flat_since for now in once)
    assert any(now.candles for now in once)
    assert {row["gate_codes"] for row in fold(root, type("Look", (Look,), {"live_only": True}))[0]} >= {
        "NOT_LIVE",
        "WAIT",
    }


def fold_as(home, kind):
    """Fold the day with another class in the recorded strategy's name."""
    named = type(kind.__name__, (kind,), {"name": "fade"})
    return fold(home, named)


def test_view_cannot_be_changed(home):
    """No attribute, tuple or candle of `now` can be set: each attempt is an error of the strategy."""
    attempts = [
        lambda now: setattr(now, "bid", 1.0),
        lambda now: setattr(now, "other", 1.0),
        lambda now: now.__setitem__(0, 1),
        lambda now: now.candles.append(1),
        lambda now: setattr(now.position, "open", 0),
        lambda now: now.candles[0][1].__setattr__("open", 0.0),
    ]
    for attempt in attempts:

        class Mutate(harvester.Strategy):
            def on_second(self, now, attempt=attempt):
                if now.position is None:
                    return self.buy(100, stop=now.bid - 0.1, target=now.ask + 5)
                if now.candles:
                    attempt(now)
                return None

        (line,) = failures(fold_as(home, Mutate)[2])
        assert "Error" in line


BAD = {
    "NaN quantity": lambda s, now: s.buy(math.nan),
    "half a share": lambda s, now: s.buy(0.5),
    "no shares": lambda s, now: s.buy(0),
    "negative": lambda s, now: s.buy(-5),
    "text": lambda s, now: s.buy("100"),
    "true": lambda s, now: s.buy(True),
    "stop above": lambda s, now: s.buy(100, stop=now.ask + 0.1),
    "target below": lambda s, now: s.buy(100, target=now.bid - 0.1),
    "short stop below": lambda s, now: s.sell(100, stop=now.bid - 0.1),
    "infinite stop": lambda s, now: s.sell(100, stop=math.inf),
    "NaN limit": lambda s, now: s.buy(100, type="limit", limit=math.nan),
    "no limit": lambda s, now: s.buy(100, type="limit"),
    "unknown type": lambda s, now: s.buy(100, type="iceberg"),
    "unknown field": lambda s, now: s.buy(100, leverage=3),
    "number returned": lambda s, now: 5,
    "string returned": lambda s, now: "BUY",
    "two orders": lambda s, now: [s.buy(100), s.buy(100)],
    "gate with a bar": lambda s, now: s.refuse("A|B"),
    "exception": lambda s, now: 1 / 0,
    "exit": lambda s, now: (_ for _ in ()).throw(SystemExit(3)),
    "attribute": lambda s, now: setattr(s, "count", 1),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_answer_drops_the_strategy(home, what):
    """A bad order, answer or exception is one line with strategy, seq and second; from then on nothing is decided."""

    class Late(harvester.Strategy):
        def on_second(self, now):
            if now.second % 60_000_000_000 == 30_000_000_000:
                return BAD[what](self, now)
            return None

    decisions, _, engine, _ = fold_as(home, Late)
    (line,) = failures(engine)
    assert line.startswith("strategy fade dropped at seq ")
    failed = engine[harvester.projections.trading.trading_feed.TradingFeed].trading.failures[0]
    after = [row for row in decisions if row["seq"] > failed.seq]
    assert after
    assert all(row["gate_codes"] == "STRATEGY_ERROR" and row["action"] == "none" for row in after)
    assert fold_as(home, Late)[0] == decisions


def test_failing_while_holding(home):
    """The positions of a strategy that fails are closed as STRATEGY_ERROR, and are not learned from."""

    class Holder(harvester.Strategy):
        def on_second(self, now):
            if now.position is None:
                return self.buy(100)
            if now.position.open and now.ts - now.position.entry_ts > 5_000_000_000:
                raise RuntimeError(f"late {object()}")
            return None

    _, episodes, engine, _ = fold_as(home, Holder)
    assert "0x" not in failures(engine)[0].replace("0x…", "")
    assert episodes
    for row in episodes:
        quality = msgspec.json.decode(row["document"])["quality"]
        assert (row["exit_reason"], row["learned_from"]) == ("STRATEGY_ERROR", False)
        assert "STRATEGY_ERROR" in quality["why_not"]


def test_changes(home):
    """A strategy can move its stop and target, and leave with a reason of its own."""

    class Mover(harvester.Strategy):
        def on_second(self, now):
            held = now.position
            if held is None:
                return self.buy(100, stop=now.bid - 1, target=now.ask + 1) if now.flat_since is None else None
            if held.open and held.stop < now.bid - 0.5:
                return [self.move_stop(now.bid - 0.4), self.move_target(now.ask + 0.9)]
            return self.exit("TIRED") if held.open and now.ts - held.entry_ts > 20_000_000_000 else None

    decisions, episodes, engine, _ = fold_as(home, Mover)
    assert failures(engine) == []
    assert {row["action"] for row in decisions} >= {"enter", "change", "exit"}
    assert {row["exit_reason"] for row in episodes} == {"TIRED"}


def test_entry_while_holding_is_refused(home):
    """An order while a position or an entry exists is refused as HOLDING."""

    class Greedy(harvester.Strategy):
        def on_second(self, now):
            return self.buy(1, stop=now.bid - 5)

    decisions, _, engine, _ = fold_as(home, Greedy)
    assert failures(engine) == []
    assert [row["action"] for row in decisions].count("enter") == 2  # one a symbol
    assert any(row["gate_codes"] == "HOLDING" for row in decisions)


def test_overlays(home):
    """Each overlay acts: bracket prices in percent, a stop that moves, and exits with their own reasons."""

    class Covered(harvester.Strategy):
        def exits(self):
            return (
                harvester.Bracket(0.3, 0.6),
                harvester.TimeStop(0.5),
                harvester.BreakEven(0.02),
                harvester.Trailing(0.1, 0.0),
            )

        def on_second(self, now):
            return None if now.position else self.buy(100)

    decisions, episodes, engine, _ = fold_as(home, Covered)
    assert failures(engine) == []
    entered = next(row for row in decisions if row["action"] == "enter")
    assert entered["stop"] == round(entered["reference_price"] * 0.997, 2)
    assert entered["target"] == round(entered["reference_price"] * 1.006, 2)
    assert any(row["action"] == "change" and row["reason"] == "stop" for row in decisions)
    assert {row["exit_reason"] for row in episodes} >= {"TIME_STOP"}


@pytest.mark.parametrize(
    ("overlay", "reason"),
    [
        (harvester.SpreadExit(0.5, 2), "SPREAD_EXIT"),
        (harvester.LiquidityExit(10_000.0, 2), "LIQUIDITY_EXIT"),
        (harvester.GivebackCap(0.1, 0.01), "GIVEBACK"),
    ],
)
def test_exit_overlays(home, overlay, reason):
    """Spread, liquidity and giveback overlays leave with their reason."""

    class Left(harvester.Strategy):
        def exits(self):
            return (overlay,)

        def on_second(self, now):
            return None if now.position else self.sell(100)

    _, episodes, engine, _ = fold_as(home, Left)
    assert failures(engine) == []
    assert reason in {row["exit_reason"] for row in episodes}


def test_parameters():
    """Parameters are typed fields: converted, with defaults, and an unknown or wrong one is named."""
    assert Fade({"lookback": "30"}).lookback == 30
    assert Fade({}).parameters == {"lookback": 20, "spread_bps_max": 5.0}
    with pytest.raises(BadSetting, match=r"strategy fade: .*lookback"):
        Fade({"lookback": "many"})
    with pytest.raises(BadSetting, match=r"leverage.*its parameters: lookback, spread_bps_max"):
        Fade({"leverage": 2})


def test_names():
    """The name is the class name in snake case, or the class's own."""

    class OpenFade(harvester.Strategy): ...

    class Bad(harvester.Strategy):
        name = "Not Good"

    assert name_of(OpenFade) == "open_fade"
    with pytest.raises(BadSetting, match="'Not Good' is invalid"):
        name_of(Bad)


def test_state_round_trip():
    """Plain values of a strategy's state survive a snapshot with their types."""
    from collections import deque
    from types import SimpleNamespace

    values = {
        "a": [1, 2.5, None, True, "x", b"y", 2**70],
        "b": (1, (2,)),
        "c": {3, 1, 2},
        "d": deque([1, 2], maxlen=2),
        "e": {1: {"k": []}},
        "f": SimpleNamespace(x=1),
    }
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(plain(values)))
    back = unplain(stored)
    assert back == values
    assert back["d"].maxlen == 2
