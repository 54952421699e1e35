"""How often `hv eod` and `hv verify` checksum and fold a date, counted where bytes are hashed and events folded."""

from __future__ import annotations

import shutil
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import pytest
from trading_log import DATE, killed_run, record

from harvester.endofday.eod import EodOptions, eod
from harvester.errors import DamagedLog
from harvester.eventlog.reader import open_day
from harvester.eventlog.storage import checked_reads
from harvester.home import Home
from harvester.projections.engine import Engine
from harvester.rebuild.project import project
from harvester.rebuild.verify_day import verify

if TYPE_CHECKING:
    from pathlib import Path

    from harvester.events.batch import Batch


class Counts:
    """Bytes of logs compared with their checksums, and events folded."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.events = 0
        real, sizes = Engine.fold, self.sizes

        class Hash:
            def __init__(self, data: Any = b"", *, digest_size: int) -> None:
                self._hash = blake2b(data, digest_size=digest_size)
                sizes.append(len(data))

            def update(self, data: Any) -> None:
                self._hash.update(data)
                sizes.append(len(data))

            def hexdigest(self) -> str:
                return self._hash.hexdigest()

        def fold(engine: Engine, batch: Batch) -> Any:
            self.events += len(batch)
            return real(engine, batch)

        patch.setattr(checked_reads, "blake2b", Hash)
        patch.setattr(Engine, "fold", fold)

    @property
    def n_bytes(self) -> int:
        return sum(self.sizes)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("base") / "home").prepare()
    record(home, seconds=100)
    project(home.on(DATE))
    return home


@pytest.fixture
def home(base, tmp_path):
    return Home(shutil.copytree(base.root, tmp_path / "home"))


def size_of(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern))


def test_the_end_of_a_day_reads_it_once(home, monkeypatch):
    """`hv eod` checksums the log once and folds it once; its requests once more, before anything else.

    What replaces the log is checksummed when it gets its name, and once more before the log is deleted.
    """
    log, events = home.on(DATE).log, open_day(DATE, home).rows
    once = size_of(log, "*.arrows") + size_of(log, "request.arrows")
    counts = Counts(monkeypatch)
    eod(home.on(DATE))
    assert (counts.n_bytes, counts.events) == (once, events)
    counts = Counts(monkeypatch)
    eod(home.on(DATE), EodOptions(archive=True, delete_temp=True))
    assert not log.exists()
    assert counts.n_bytes == once + 2 * size_of(home.on(DATE).archive, "*.parquet")
    assert counts.events == events
    counts = Counts(monkeypatch)
    eod(home.on(DATE))
    kept = home.on(DATE).archive
    assert counts.n_bytes == size_of(kept, "*.parquet") + size_of(kept, "request.parquet"), "folded from the archive"


def test_a_recovered_date_is_read_once(home, monkeypatch):
    """Recovery of a killed run makes `hv eod` compare again only the files it cut."""
    folder = killed_run(home, DATE, "request.arrows", b"torn")
    log, events = home.on(DATE).log, open_day(DATE, home).rows
    once = size_of(log, "*.arrows") + size_of(log, "request.arrows") - 2 * 4
    counts = Counts(monkeypatch)
    report = eod(home.on(DATE), EodOptions(unfinished=True))
    assert "4 bytes of request.arrows" in report.notes[0]
    assert once < counts.n_bytes <= once + 3 * size_of(folder, "request.arrows")
    assert counts.events == events


def test_verify_reads_and_folds_once(home, monkeypatch):
    """`hv verify` checksums the log once and folds it once, for the live digests and the streams."""
    events = open_day(DATE, home).rows
    counts = Counts(monkeypatch)
    found = verify(home.on(DATE))
    assert (counts.n_bytes, counts.events) == (size_of(home.on(DATE).log, "*.arrows"), events)
    assert (found.exit_code, found.streams.checks > 0) == (0, True)


def test_a_file_that_changed_since_it_was_compared_is_compared_again(home):
    """A byte damaged after the comparison and before the fold is found by the fold; nothing is learned from it."""
    path = home.on(DATE).log / "r001" / "quote.arrows"

    def at(step: str) -> None:
        if step == "project":
            data = path.read_bytes()
            path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])

    with pytest.raises(DamagedLog, match=r"quote\.arrows"):
        eod(home.on(DATE), EodOptions(at=at))
    assert not home.memory_latest.exists()
