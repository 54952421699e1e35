"""One suite for every projection, the parameters of a run, and the cache of compiled kernels."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from harvester.calendar import to_ns
from harvester.config import Settings
from harvester.errors import DamagedLog, KernelFault
from harvester.events.batch import Batch
from harvester.events.kinds import Kind, Own
from harvester.projections import engine as engine_module
from harvester.projections.base import Projection
from harvester.projections.engine import PROJECTIONS, Engine
from harvester.projections.market import kernel_cache
from harvester.projections.market.market import Market
from harvester.projections.market.state_arrays import held
from harvester.projections.run_params import FOLD, RunParams, StrategyRef, package_digest
from harvester.projections.step import NOTHING_DERIVED, Derived, Step
from harvester.projections.trading.trading_feed import TradingFeed
from tests.market_log import Log
from tests.reference.streams import stream

PROJECT = Path(__file__).resolve().parent.parent
START = to_ns(datetime(2025, 7, 17, 13, 30, tzinfo=UTC))
EVENTS = stream(11, 900, START)
DAY = Batch.of(EVENTS)
EDGES = (1, 2, 40, 333, 334, 700)


def run(parts: list[Batch], engine: Engine | None = None) -> tuple[Engine, dict[str, list]]:
    engine = engine or Engine()
    tables: dict[str, list] = {}
    for part in parts:
        for name, rows in engine.fold(part).tables.items():
            tables.setdefault(name, []).extend(rows.to_pylist())
    return engine, tables


def cuts() -> list[Batch]:
    marks = [0, *EDGES, DAY.last_seq]
    return [DAY.slice(a + 1, b) for a, b in pairwise(marks)]


def test_the_list_is_what_runs() -> None:
    """The engine folds exactly the classes of the list, in its order; market_only leaves trading out."""
    assert tuple(type(p) for p in Engine().projections) == PROJECTIONS
    assert tuple(type(p) for p in Engine(market_only=True).projections) == PROJECTIONS[:-1]


def test_digests_keep_their_names_and_order() -> None:
    """Recorded digests stay comparable: one per projection, under these names, in this order."""
    assert list(Engine().digests()) == ["book", "quotes", "buckets", "health", "candles", "signals", "trading"]


class Counted(Projection):
    """A minimal projection that records the happenings and the number of candles derived before it."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.happenings: list[int] = []
        self.candles = 0

    def fold(self, step: Step) -> Derived:
        self.happenings += [happening.seq for happening in step.happenings]
        self.candles += 0 if step.candles is None else len(step.candles)
        return NOTHING_DERIVED

    def digest(self) -> str:
        return repr((self.happenings, self.candles))


class Early(Counted):
    name = "early"


class Late(Counted):
    name = "late"


def test_a_new_projection_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class added to the list is folded, digested, part of snapshots, and reads what earlier projections derived."""
    at = {"ts_recv": EVENTS[-1][1]["ts_recv"], "epoch": 1}
    outage = [(Kind.NOTICE, at | {"code": int(code)}) for code in (Own.DISCONNECTED, Own.CONNECTED)]
    parts = [DAY, Batch.of(outage, DAY.last_seq + 1)]
    before, rows = run(parts)
    monkeypatch.setattr(engine_module, "PROJECTIONS", (Early, *PROJECTIONS, Late))
    engine, tables = run(parts)
    early, late = engine[Early], engine[Late]
    of_the_market = [happening.seq for happening in Market().fold(DAY).happenings]
    assert (early.happenings, early.candles) == (of_the_market, 0)
    assert late.happenings == [*of_the_market, DAY.last_seq + 1, DAY.last_seq + 2]
    assert late.candles == len(tables["candles"]) > 0
    assert engine.digests() == {"early": early.digest(), **before.digests(), "late": late.digest()}
    assert tables == rows
    Engine().restore(engine.snapshot())


def test_a_projection_that_is_left_out_is_named() -> None:
    """Reading trading from a market-only engine is an error that names the class, not None."""
    with pytest.raises(KeyError, match="TradingFeed"):
        Engine(market_only=True)[TradingFeed]


@pytest.mark.parametrize("name", [of.name for of in PROJECTIONS])
class TestEveryProjection:
    def test_is_deterministic(self, name: str) -> None:
        """The same events give the same digest and rows in another engine."""
        (one, rows), (two, again) = run([DAY]), run([DAY])
        assert one.digests()[name] == two.digests()[name]
        assert rows == again

    def test_does_not_depend_on_cuts(self, name: str) -> None:
        """The digest after each cut equals that of an engine that got everything before it in one batch."""
        engine = Engine()
        for part in cuts():
            engine.fold(part)
            whole, _ = run([DAY.slice(1, part.last_seq)])
            assert engine.digests()[name] == whole.digests()[name], part.last_seq

    def test_goes_on_from_a_snapshot(self, name: str) -> None:
        """An engine restored after any cut ends with the digest and rows of one that never stopped."""
        whole, _ = run([DAY])
        for edge in EDGES:
            before, _ = run([DAY.slice(1, edge)])
            after = Engine()
            after.restore(before.snapshot())
            assert after.digests()[name] == before.digests()[name]
            _, mine = run([DAY.slice(edge + 1, DAY.last_seq)], after)
            _, theirs = run([DAY.slice(edge + 1, DAY.last_seq)], before)
            assert mine == theirs
            assert after.digests()[name] == whole.digests()[name]

    def test_ignores_kinds_it_does_not_know(self, name: str) -> None:
        """Raw, bar, scan, contract and end rows between the others change no digest."""
        foreign = [
            (Kind.RAW, {"fields": "81\x001", "reason": "untyped"}),
            (Kind.BAR, {"open": 1.0}),
            (Kind.SCAN, {"rank": 0}),
            (Kind.CONTRACT, {"symbol": "X"}),
            (Kind.END, {"rows": 0}),
        ]
        mixed = []
        for i, (kind, row) in enumerate(EVENTS):
            mixed.append((kind, {k: v for k, v in row.items() if k != "seq"}))
            extra, columns = foreign[i % len(foreign)]
            mixed.append((extra, {**columns, "ts_recv": row["ts_recv"]}))
        doubled = [
            (kind, {k: v for k, v in row.items() if k != "seq"} | {"ts_recv": row["ts_recv"]}) for kind, row in EVENTS
        ]
        spaced = [(kind, {**row, "seq": 2 * i + 1}) for i, (kind, row) in enumerate(doubled)]
        with_foreign, _ = run([Batch.of(mixed, 1)])
        without, _ = run([Batch.of(spaced)])
        if name == "health":  # counts the seqs it has not seen
            return
        assert with_foreign.digests()[name] == without.digests()[name]

    def test_leaves_its_input_alone(self, name: str) -> None:
        """A fold does not change a byte of its batch."""
        before = {kind: table.to_pylist() for kind, table in DAY.tables.items()}
        engine, _ = run([DAY])
        assert engine.digests()[name]
        assert {kind: table.to_pylist() for kind, table in DAY.tables.items()} == before


def test_an_empty_batch_changes_nothing() -> None:
    """Folding no events gives no rows and the same digests."""
    engine, _ = run([DAY])
    before = engine.digests()
    assert engine.fold(Batch()).tables == {}
    assert engine.digests() == before
    assert engine.through_seq == DAY.last_seq


def test_events_are_folded_once() -> None:
    """The same batch again is refused, naming the seqs."""
    engine, _ = run([DAY])
    with pytest.raises(AssertionError, match="seq 1 again after"):
        engine.fold(DAY)


def test_many_keys_and_instruments_fit() -> None:
    """Arrays grow: 300 instruments, two connections, every stream; each quote ends where it belongs."""
    rows: list = [(Kind.REQUEST, {"action": "run_start", "stream": "run", "params": "{}", "ts_recv": START})]
    for epoch in (1, 2):
        for con_id in range(1, 301):
            asked = {"epoch": epoch, "req_id": con_id, "con_id": con_id, "ts_recv": START}
            ask = {"action": "subscribe", "stream": "bid_ask", "symbol": f"S{con_id}", "params": "{}"}
            rows.append((Kind.REQUEST, {**asked, **ask}))
        for con_id in range(1, 301):
            asked = {"epoch": epoch, "req_id": con_id, "con_id": con_id, "ts_recv": START}
            rows.append((Kind.QUOTE, {**asked, "stream": 3, "bid": con_id * epoch, "ask": con_id * epoch + 1.0}))
    rows.append((Kind.CLOCK, {"ts_recv": START + 2_000_000_000, "wall_ns": 0, "mono_ns": 0}))
    engine, tables = run([Batch.of(rows, 1)], Engine(market_only=True))
    assert [q.bid for q in engine.quotes.all()] == [2.0 * con_id for con_id in range(1, 301)]
    assert len(tables["buckets"]) == 600
    assert engine.digests() == run([Batch.of(rows, 1)], Engine(market_only=True))[0].digests()


# ---- parameters of a run -------------------------------------------------------------------------------------------


def test_run_params_hold_everything_a_fold_needs() -> None:
    """Configuration, toggles, calendar with its session, costs, memory, strategies and package; text and back."""
    settings = Settings.load({"symbols": ("IBM",), "episode_epoch_ms": True})
    strategies = [StrategyRef("momentum", "ab12", {"k": 2})]
    params = RunParams.build(settings, date(2025, 11, 28), memory={"days": 3}, strategies=strategies)
    again = RunParams.parse(params.text(), 1)
    assert again == params
    assert again.text() == params.text()
    assert params.config["symbols"] == ["IBM"]
    assert params.toggles == {"episode_epoch_ms": True, "episode_series_jsonl": False}
    assert params.calendar is not None
    assert params.calendar.session is not None
    assert params.calendar.session.half_day
    assert params.calendar.end_ns - params.calendar.start_ns == 86_400 * 10**9
    assert params.calendar.before[-1].date == "2025-11-26"
    assert params.costs["name"] == "ibkr_fixed"
    assert params.package["digest"] == package_digest()


def test_run_params_of_an_earlier_version_are_read_whole() -> None:
    """Settings and keys that no longer exist are kept as recorded; the parameters of a fold are still read."""
    now = RunParams.build(Settings.load({"symbols": ("IBM",)}), date(2025, 11, 28))
    gone = {"batch_size": 20, "fallback_symbol": "SIRI", "skip_strategy_replay": False}
    written = msgspec.json.encode({**msgspec.to_builtins(now), "config": now.config | gone, "cycle": {"n": 1}}).decode()
    read = RunParams.parse(written, 1)
    assert read == msgspec.structs.replace(now, config=now.config | gone)
    start = {"action": "run_start", "stream": "run", "params": written, "ts_recv": START}
    engine, _ = run([Batch.of([(Kind.REQUEST, start), *EVENTS], 1)])
    today, _ = run([Batch.of([(Kind.REQUEST, {**start, "params": now.text()}), *EVENTS], 1)])
    assert engine.digests() == today.digests()


@pytest.mark.parametrize("text", ["{", "[]", '{"memory":' + '{"a":' * 100_000, '{"memory":{"a":"\\ud800"}}'])
def test_unreadable_run_params_are_damage(text: str) -> None:
    """The error for a run start with parameters that are not JSON, or nested too deeply, names its seq."""
    with pytest.raises(DamagedLog, match="run_start at seq 17"):
        RunParams.parse(text, 17)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package's sources."""
    shutil.copytree(PROJECT / "harvester", tmp_path / "harvester", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "harvester"


def test_the_package_digest_follows_the_sources(package: Path) -> None:
    """One changed byte of one file changes the digest, and so does a new file; other line ends do not."""
    assert package_digest(folder=package) == package_digest()
    params = package / "projections" / "run_params.py"
    params.write_bytes(params.read_bytes().replace(b"\n", b"\r\n"))
    assert package_digest(folder=package) == package_digest()
    (package / "projections" / "more.py").write_bytes(b"")
    assert package_digest(folder=package) != package_digest()


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("projections/market/market.py", True),
        ("projections/trading/strategies/imbalance_breakout.py", True),
        ("events/kinds.py", True),
        ("calendar.py", True),
        ("units.py", True),
        ("simgateway/markets/model_market.py", False),
        ("wire/decode_messages.py", False),
        ("eventlog/reader.py", False),
        ("recorder/recording_run.py", False),
        ("artefacts/day_picture.py", False),
        ("version.py", False),
    ],
)
def test_only_code_that_folds_is_in_the_package_digest(package: Path, path: str, counts: bool) -> None:
    """A comment in the simulated gateway leaves days comparable; one in a projection does not."""
    with (package / path).open("ab") as file:
        file.write(b"# a comment\n")
    assert (package_digest(folder=package) != package_digest()) == counts


def test_a_part_that_has_moved_is_an_error(package: Path) -> None:
    """A folder or module of the list that the package lacks is an error."""
    for part in FOLD:
        with pytest.raises(FileNotFoundError, match="nowhere"):
            package_digest((*FOLD, f"nowhere/{part}"), package)


def test_everything_a_fold_imports_is_in_the_package_digest() -> None:
    """A process that folded with every projection has loaded only modules of the list, errors and version."""
    code = (
        "import sys\n"
        "import harvester.projections.engine, harvester.projections.market.kernels\n"
        "harvester.projections.engine.Engine()\n"
        "print(*[n for n in sys.modules if n.startswith('harvester.')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    tops = {name.split(".")[1] for name in done.stdout.split()}
    assert tops - {part.removesuffix(".py") for part in FOLD} == {"errors", "version"}


# ---- compiled kernels ----------------------------------------------------------------------------------------------


def test_an_edit_of_a_leaf_is_another_cache() -> None:
    """Source, Numba version, processor and bounds checks each name another folder; the same ones the same."""
    base = ("0.61", "x86_64 zen3", "None", [b"def leaf(): return 1\n"])
    assert kernel_cache.key(*base) == kernel_cache.key(*base)
    others = [
        kernel_cache.key("0.62", *base[1:]),
        kernel_cache.key(base[0], "x86_64 zen4", *base[2:]),
        kernel_cache.key(*base[:2], "1", base[3]),
        kernel_cache.key(*base[:3], [b"def leaf(): return 2\n"]),
    ]
    assert len({kernel_cache.key(*base), *others}) == 5


def test_a_read_only_install_uses_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the source folder is read-only, kernels are cached in the user's cache; when that is too, not at all."""
    blocked = tmp_path / "file"
    blocked.write_text("a file, so no folder can be made in it", encoding="utf-8")
    monkeypatch.setattr(kernel_cache, "user_cache", lambda: tmp_path / "cache")
    assert kernel_cache.choose(blocked, "k") == tmp_path / "cache" / "kernels-k"
    monkeypatch.setattr(kernel_cache, "user_cache", lambda: blocked)
    assert kernel_cache.choose(blocked, "k") is None
    assert kernel_cache.choose(tmp_path, "k") == tmp_path / "__pycache__" / "kernels-k"


def test_a_bad_index_in_a_kernel_is_an_error() -> None:
    """The tests run with Numba's bounds checks: an index outside an array is an error, not a number."""
    log = Log().run_start().subscribe(1, "depth", at=1)
    log.fold()
    vals = log.engine.market.state.vals
    vals[vals == held(0, 0, 0)] = held(0, 0, 1_000_000)
    log.depth(1, "insert 0 bid 10.00 100", at=2)
    with pytest.raises(KernelFault, match="out of bounds"):
        log.fold()


def test_numba_is_imported_when_folding() -> None:
    """Creating an engine imports no compiler; only the first fold does."""
    code = (
        "import sys\nfrom harvester.projections.engine import Engine\n"
        "e = Engine(market_only=True)\nassert 'numba' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["depth", "quote"])
def test_a_kernel_fault_names_kernel_and_seq(kind: str) -> None:
    """An index past an array is an error that says where, never a wrong number."""
    log = Log().run_start().subscribe(1, "smart_depth").subscribe(2, "bid_ask")
    log.depth(1, "insert 0 bid 10.00 300")
    log.quote(2, 10.0, 10.01)
    log.fold()
    state = log.engine.market.state
    if kind == "depth":
        state.vals[state.vals == held(0, 0, 0)] = held(0, 0, 1_000_000)
        log.quote(2, 10.0, 10.02)
        log.depth(1, "insert 0 bid 10.01 300")
        seq = log.engine.through_seq + 2
    else:
        state.slots["inst"][1] = 1_000_000
        seq = log.quote(2, 10.0, 10.02)
    with pytest.raises(KernelFault, match=rf"kernel market at seq {seq}: .*out of bounds") as fault:
        log.fold()
    assert (fault.value.kernel, fault.value.seq, fault.value.exit_code) == ("market", seq, 1)


def test_a_time_that_would_overflow_is_refused() -> None:
    log = Log().run_start().subscribe(1, "bid_ask")
    log.fold()
    seq = log.quote(1, 10.0, 10.01, at=5e9)
    with pytest.raises(KernelFault, match=rf"kernel market at seq {seq}: ts_recv \d+ is past"):
        log.fold()
