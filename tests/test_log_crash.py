from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from log_samples import DATE, START_NS, batch, same

import harvester
from harvester.disk_space import disk_forecast
from harvester.errors import LogWriteFailed
from harvester.eventlog.runs_of_day import run_folders
from harvester.eventlog.verify_log import verify_day
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.files import Disk
from harvester.home import Home
from tests.budget import budget

CHILD = Path(__file__).with_name("log_writer_child.py")
LIVES = budget(20, 50) if hasattr(os, "fork") else 5  # without fork every life starts a new interpreter
FEW = (Kind.TRADE, Kind.END, Kind.CLOCK)


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


class Lives:
    """A process whose lives are killed one after the other."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._process: subprocess.Popen[str] | None = None

    def begin(self) -> int:
        """Start a life; returns the pid to kill."""
        if self._process is None or not hasattr(os, "fork"):
            command = [sys.executable, str(CHILD), str(self._home.root)]
            path = os.pathsep.join((str(CHILD.parent), str(CHILD.parent.parent)))
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
                env={**os.environ, "PYTHONPATH": path},
            )
        self._process.stdin.write("live\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline().removeprefix("pid "))

    def opened(self) -> int:
        """Wait until the life has opened the log; returns the seq it begins at."""
        return int(self._process.stdout.readline().removeprefix("open "))

    def last_words(self, opened: int = 0) -> tuple[int, int]:
        """The first seq of the life (0 if it never opened the log) and the last it reported durable."""
        durable = 0
        for line in self._process.stdout:
            if line.startswith("open "):
                opened = int(line[5:])
            elif line.startswith("durable "):
                durable = int(line[8:])
            elif line.startswith("dead"):
                break
        return opened, durable

    def end(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def test_kill_at_random_moments_loses_nothing_durable(home):
    """After kill -9 at random moments all reported events are there, seq has no hole, and the next run continues."""
    rng, lives = random.Random(11), Lives(home)
    before = durable = 0
    for life in range(LIVES):
        pid = lives.begin()
        # every fifth is killed while it opens and recovers, the others while they commit, on any machine
        opened = 0 if life % 5 == 0 else lives.opened()
        time.sleep(rng.uniform(0, 0.1))
        if before and life % 5 == 4:
            # read while it is being written: only whole commits are shown
            day = harvester.open_day(DATE, home)
            assert sum(map(len, day.batches())) == day.last_seq
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        opened, said = lives.last_words(opened)
        durable = max(durable, said)
        if opened:
            assert opened == before + 1
        if not run_folders(home.on(DATE)):
            continue  # killed before there was a run
        report = verify_day(home.on(DATE))
        assert report.clean, report.problems
        before = report.rows
        assert before == max(run.last_seq for run in report.runs) >= durable
    lives.end()
    assert len(report.runs) >= LIVES * 4 // 5
    assert durable > LIVES
    with LogWriter.open(home.on(DATE)) as writer:
        assert writer.next_seq == before + 1
    day = harvester.open_day(DATE, home)
    assert day.complete
    assert {run.status for run in day.runs} == {"recovered", "ended"}
    assert verify_day(home.on(DATE)).clean


class Failing(Disk):
    """A disk whose n-th call of one method fails."""

    def __init__(self, method: str, nth: int, number: int = errno.EIO) -> None:
        self.left = nth

        def fail(*args):
            self.left -= 1
            if self.left == 0:
                if method == "write" and len(args[1]) > 1:
                    Disk.write(self, args[0], args[1][: len(args[1]) // 2])  # a full disk takes what fits
                raise OSError(number, os.strerror(number))
            return getattr(Disk, method)(self, *args)

        setattr(self, method, fail)


@pytest.mark.parametrize("method", ["write", "fsync", "create", "sync_folder", "free_bytes"])
def test_a_failing_disk_stops_the_writer_for_good(tmp_path_factory, method):
    """If any call fails, the error has the numbers, the writer rejects further writes, earlier commits are intact."""
    whole = batch(40, kinds=FEW)
    failures = 0
    for nth in range(1, 60):
        home = Home(tmp_path_factory.mktemp("home"))
        done, error = _write_until_failure(home, whole, Failing(method, nth, errno.ENOSPC))
        if error is None:
            break
        failures += 1
        assert "No space left" in str(error)
        with LogWriter.open(home.on(DATE)) as after:
            last = after.next_seq - 1
            # a commit whose journal line was written but not synced may be there whole, never in part
            assert last in (done, done + 10)
        assert verify_day(home.on(DATE)).clean
        if last:
            assert same(Batch.concat(list(harvester.open_day(DATE, home).batches())), whole.slice(1, last))
    assert failures > 3
    assert done == 40


def _write_until_failure(home: Home, whole: Batch, disk: Disk) -> tuple[int, LogWriteFailed | None]:
    """Write four commits; returns the last seq reported durable and the error, after which writes are rejected."""
    done, writer, failure = 0, None, None
    try:
        writer = LogWriter.open(home.on(DATE), disk=disk)
        for first in range(1, 41, 10):
            writer.commit(whole.slice(first, first + 9))
            done = first + 9
            writer.live_digests(done, {"book": "0" * 32})
        writer.close()
    except LogWriteFailed as error:
        failure = error
    if writer is not None and failure is not None:
        for _ in range(2):
            with pytest.raises(LogWriteFailed, match="accepts no more writes"):
                writer.commit(whole.slice(done + 1, done + 1))
            with pytest.raises(LogWriteFailed, match="accepts no more writes"):
                writer.live_digests(0, {})
            writer.close()
        assert f"up to seq {done} is safe" in str(failure)
    return done, failure


def test_a_failed_end_is_recovered(home):
    """When the manifest cannot be replaced at the end, the error says so and the next writer recovers the run."""
    writer = LogWriter.open(home.on(DATE), disk=Failing("replace", 2))
    writer.commit(batch(3))
    with pytest.raises(LogWriteFailed, match=r"manifest\.json"):
        writer.close()
    with LogWriter.open(home.on(DATE)) as after:
        assert [str(r) for r in after.recovered] == ["r001 recovered up to seq 3: nothing torn"]
        assert after.next_seq == 4


def test_an_interrupted_commit_is_not_continued(home):
    """After a commit interrupted by any other exception, such as Ctrl-C, the writer refuses and the log is whole."""

    class Interrupted(Disk):
        def fsync(self, file) -> None:
            if file.name.endswith("trade.arrows"):
                raise KeyboardInterrupt
            super().fsync(file)

    writer = LogWriter.open(home.on(DATE), disk=Interrupted())
    writer.commit(batch(4, kinds=(Kind.END,)))
    with pytest.raises(KeyboardInterrupt):
        writer.commit(batch(4, 5, kinds=(Kind.TRADE,), start_ns=START_NS + 10**9))
    with pytest.raises(LogWriteFailed, match="interrupted"):
        writer.commit(batch(4, 5, kinds=(Kind.END,), start_ns=START_NS + 10**9))
    writer.close()
    assert harvester.open_day(DATE, home).last_seq == 4


def test_the_margin_stops_before_it_is_too_late(home):
    """A commit that would leave less than the margin is refused before a byte is written."""

    class Small(Disk):
        free = 10_000_000

        def free_bytes(self, path) -> int:
            return self.free

    disk = Small()
    writer = LogWriter.open(home.on(DATE), disk=disk, margin_bytes=5_000_000)
    writer.commit(batch(10))
    disk.free = 5_000_100
    sizes = {path: path.stat().st_size for path in writer.folder.iterdir()}
    with pytest.raises(LogWriteFailed, match=r"5\.0 MB left, the margin is 5\.0 MB.*up to seq 10 is safe"):
        writer.commit(batch(10, 11, start_ns=START_NS + 10**9))
    assert sizes == {path: path.stat().st_size for path in writer.folder.iterdir()}
    writer.close()


def test_the_forecast_speaks_of_days(home):
    """The forecast gives free bytes and how long they last at a rate, without the margin."""
    free = shutil.disk_usage(home.root).free
    forecast = disk_forecast(home.events, free / 86_400 / 3)
    assert 2.5 < forecast.seconds / 86_400 <= 3.0
    assert str(forecast).endswith(" days")
    assert disk_forecast(home.events, 0).seconds is None
    assert " left" in str(disk_forecast(home.events, 0))


def _fill(writer: LogWriter) -> None:
    while True:
        ts = max(writer.last_ts, START_NS)
        writer.commit(batch(500, writer.next_seq, seed=writer.next_seq, start_ns=ts))


def test_a_full_disk_stops_loudly_and_loses_nothing(tmpfs):
    """On a full disk the writer stops with the numbers; all commits are whole, and recording continues given space."""
    home = Home(tmpfs)
    writer = LogWriter.open(home.on(DATE), margin_bytes=-(10**9))  # no margin: into the wall
    with pytest.raises(LogWriteFailed, match=r"No space left on device; .* free; everything up to seq") as caught:
        _fill(writer)
    done = writer.next_seq - 1
    assert done > 1000
    assert f"up to seq {done} is safe" in str(caught.value)
    writer.close()
    day = harvester.open_day(DATE, home)
    assert day.last_seq == done
    assert sum(map(len, day.batches())) == done
    assert verify_day(home.on(DATE)).clean
    with pytest.raises(LogWriteFailed):
        LogWriter.open(home.on(DATE))  # no space to recover either; the attempt loses nothing
    assert verify_day(home.on(DATE)).rows == done
    subprocess.run(["mount", "-o", "remount,size=8m", str(tmpfs)], check=True)
    with LogWriter.open(home.on(DATE), margin_bytes=0) as after:
        assert after.next_seq == done + 1
        after.commit(batch(10, after.next_seq, start_ns=after.last_ts))
    assert verify_day(home.on(DATE)).clean
