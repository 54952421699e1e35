"""`hv log remove` removes dates without market events, others on request; `hv record` does not begin such a date."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from cli.app import app
from harvester.clock import FileClock, MachineClock
from harvester.config import Settings
from harvester.endofday.eod import EodOptions, eod
from harvester.endofday.remove import removal_list_path, remove
from harvester.errors import BadSetting, CannotRun, LockHeld, Mismatch, NoLog
from harvester.eventlog.lock import DateLock
from harvester.eventlog.reader import open_day
from harvester.eventlog.runs_of_day import newest_date
from harvester.eventlog.writer import LogWriter
from harvester.events.kinds import Kind
from harvester.files import Disk
from harvester.home import Home
from harvester.recorder.record import record as recording
from harvester.recorder.start_checks import check_day
from harvester.simgateway.gateway_settings import GatewaySettings
from harvester.simgateway.server import SimGateway
from tests.log_samples import DATE, START_NS, batch
from tests.recording import model

if TYPE_CHECKING:
    from pathlib import Path

OWN = (Kind.CLOCK, Kind.NOTICE, Kind.REQUEST, Kind.RAW, Kind.END, Kind.CONTRACT)
NEXT = date(2025, 7, 18)


class Killed(BaseException):
    """The process is gone: nothing catches this."""


def record(home: Home, day: date, rows: int, kinds: tuple[Kind, ...] = tuple(Kind)) -> None:
    with LogWriter.open(home.on(day)) as writer:
        writer.commit(batch(rows, writer.next_seq, kinds=kinds, start_ns=max(START_NS, writer.last_ts)))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A date with data, and after it a date without: two runs of clocks, notices and requests."""
    home = Home(tmp_path / "home").prepare()
    record(home, DATE, 20)
    record(home, NEXT, 20, OWN)
    record(home, NEXT, 9, OWN)
    return home


def test_a_date_of_nothing_is_removed(home: Home) -> None:
    """Afterwards the newest date is the one with data, and no file of the other is left, its list included."""
    assert newest_date(home) == NEXT
    done = CliRunner().invoke(app, ["log", "remove", "--date", str(NEXT), "--home", str(home.root), "--yes"])
    assert (done.exit_code, done.stdout.count("has no market event")) == (0, 1), done.output
    assert newest_date(home) == DATE
    assert not home.on(NEXT).log.exists()
    assert sorted(path.name for path in home.events.iterdir()) == [DATE.isoformat()]
    with pytest.raises(NoLog):
        remove(home.on(NEXT))


def test_what_holds_more_is_refused(home: Home) -> None:
    """A market event, a folded or archived date, torn bytes, foreign files, a date that is held: nothing is deleted."""
    with pytest.raises(CannotRun, match=r"has \d+ market events"):
        remove(home.on(DATE))
    stranger = home.on(NEXT).log / "notes.txt"
    stranger.write_text("mine", encoding="utf-8")
    with pytest.raises(Mismatch, match=r"notes\.txt is not part of the log"):
        remove(home.on(NEXT))
    stranger.unlink()
    with DateLock(home.on(NEXT)), pytest.raises(LockHeld):
        remove(home.on(NEXT))
    assert remove(home.on(NEXT), confirm=lambda *_: False) is None
    archived = shutil.copytree(home.on(NEXT).log / "r001", home.on(NEXT).archive / "r001")
    with pytest.raises(CannotRun, match="is an archive"):
        remove(home.on(NEXT))
    shutil.rmtree(archived.parent)
    writer = LogWriter.open(home.on(NEXT))
    writer.abandon()
    (writer.folder / "commits.jsonl").write_bytes(b"torn")
    with pytest.raises(CannotRun, match="quarantine holds bytes that are kept nowhere else"):
        remove(home.on(NEXT))
    eod(home.on(NEXT), EodOptions(unfinished=True))
    with pytest.raises(CannotRun, match="folded into memory"):
        remove(home.on(NEXT))
    assert open_day(NEXT, home).rows == 29


@pytest.mark.parametrize("kind", [Kind.TICK, Kind.TRADE, Kind.QUOTE, Kind.DEPTH, Kind.BAR, Kind.SCAN])
def test_one_market_event_is_enough(tmp_path: Path, kind: Kind) -> None:
    """A date with a single market event is refused."""
    home = Home(tmp_path)
    record(home, DATE, 5, OWN)
    record(home, DATE, 1, (kind,))
    with pytest.raises(CannotRun, match="has 1 market events"):
        remove(home.on(DATE))


def removing(home: Home, *options: str) -> Any:
    """The outcome of `hv log remove` without a terminal."""
    return CliRunner().invoke(app, ["log", "remove", "--home", str(home.root), *options])


def test_without_a_terminal_it_needs_yes(home: Home) -> None:
    """Where it cannot ask, `--yes` is required (2), but first it says that a date is missing (3) or refused (2)."""
    done = removing(home, "--date", str(NEXT))
    assert isinstance(done.exception, BadSetting)
    assert home.on(NEXT).log.exists()
    assert isinstance(removing(home, "--date", "2031-01-02").exception, NoLog)
    assert "market events; hv log remove --discard" in str(removing(home, "--date", str(DATE)).exception)


def test_discard_removes_market_events_of_a_date_that_is_not_closed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of events is printed, and the date must be typed again; a closed date is refused all the same."""
    given = ["log", "remove", "--home", str(home.root), "--date", str(DATE), "--discard"]
    assert isinstance(CliRunner().invoke(app, given).exception, BadSetting), "no terminal and no --yes"
    monkeypatch.setattr("cli.cmd_log.check_can_ask", lambda *_args, **_kwargs: None)
    for answer in ("y", str(NEXT), ""):
        refused = CliRunner().invoke(app, given, input=f"{answer}\n")
        assert (refused.exit_code, "nothing was deleted" in refused.stdout) == (0, True), refused.output
        assert open_day(DATE, home).rows == 20
    done = CliRunner().invoke(app, given, input=f"{DATE}\n")
    assert (done.exit_code, "market events, deleted for good" in done.stdout) == (0, True), done.output
    assert sorted(path.name for path in home.events.iterdir()) == [NEXT.isoformat()]
    eod(home.on(NEXT), EodOptions(unfinished=True))
    with pytest.raises(CannotRun, match="folded into memory"):
        remove(home.on(NEXT), discard=True)


class Dying(Disk):
    """Dies at the n-th deletion."""

    def __init__(self, at: int) -> None:
        self.left = at

    def remove(self, path: Path) -> None:
        if path.suffix != ".new" and "events" in path.parts:
            self.left -= 1
            if self.left == 0:
                raise Killed
        super().remove(path)


@pytest.mark.parametrize("at", [1, 2, 4, 8])
def test_a_removal_that_was_stopped_goes_on(home: Home, at: int) -> None:
    """Killed between two files, the next call finishes it without asking; a recording made since is not touched."""
    with pytest.raises(Killed):
        remove(home.on(NEXT), disk=Dying(at))
    if at == 4:
        shutil.rmtree(home.on(NEXT).log)
        record(home, NEXT, 20)
        with pytest.raises(CannotRun, match="market events"):
            remove(home.on(NEXT))
        return
    assert removal_list_path(home.on(NEXT)).exists()
    remove(home.on(NEXT), confirm=lambda *_: pytest.fail("asked twice"))
    assert sorted(path.name for path in home.events.iterdir()) == [DATE.isoformat()]


@pytest.mark.parametrize("state", ["running", "ended"])
def test_a_market_that_has_ended_is_not_recorded(tmp_path: Path, state: str) -> None:
    """`hv record` against a simulated gateway whose market has ended: exit code 2, and no date is begun."""
    home = Home(tmp_path)
    clock = {"market_anchor_ns": 1_752_871_000 * 10**9, "monotonic_anchor_ns": 0, "speed": 1e-9}
    facts = {"host": "127.0.0.1", "port": 7496, "pid": os.getpid(), "symbols": ["ACME"], "state": state} | clock
    home.gateway_file.write_text(json.dumps(facts), encoding="utf-8")
    settings = Settings.load({"symbols": ("ACME",), "port": 7496})
    for found in (MachineClock(), FileClock(home.gateway_file)):
        if state == "running":
            check_day(settings, home, found, NEXT)
        else:
            with pytest.raises(CannotRun, match=r"market .* has ended"):
                check_day(settings, home, found, NEXT)
    assert not home.events.exists()


def test_a_gateway_that_has_ended_its_market_is_not_recorded_again(tmp_path: Path) -> None:
    """A real gateway, recorded to its end: on its clock or the machine's, the next recorder is refused at once."""

    async def scenario() -> None:
        home, market = Home(tmp_path), model(symbols=("ACME",))
        end = market.start_ns + 60 * 10**9
        served = {"port": 0, "speed": 600.0, "grace_s": 0.1, "end_ns": end, "gateway_file": home.gateway_file}
        gateway = SimGateway(market, GatewaySettings(**served))  # type: ignore[arg-type]
        port = await gateway.start()
        try:
            given = {"symbols": ["ACME"], "port": port, "disk_margin_bytes": 1, "skip_historical_backfill": True}
            settings = Settings.load(given)
            first = await recording(settings, home, FileClock(home.gateway_file), until_ns=end + 10**10)
            await gateway.wait_over()
            assert first.rows["tick"]
            for clock, into in ((FileClock(home.gateway_file), Home(tmp_path / "other")), (MachineClock(), home)):
                with pytest.raises(CannotRun, match=r"market .* has ended"):
                    await recording(settings, into, clock, duration_ns=10**9)
        finally:
            await gateway.stop()

    asyncio.run(scenario())
    assert [path.name for path in tmp_path.rglob("r0*")] == ["r001"]
