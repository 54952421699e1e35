from __future__ import annotations

import os
import random
import shutil
import sys
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from log_samples import DATE, START_NS, batch, files_of, forge, same, write_run

import harvester
from harvester.errors import DamagedLog, FutureFormat
from harvester.eventlog.fold_reader import fold_batches
from harvester.eventlog.storage.format import DIGESTS, FORMAT_VERSION, JOURNAL, MANIFEST
from harvester.eventlog.storage.ipc_streams import HEADERS
from harvester.eventlog.storage.sealed_lines import seal, unseal
from harvester.eventlog.verify_log import verify_day
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.kinds import SCHEMAS, Kind
from harvester.files import Disk
from harvester.home import Home
from tests.budget import budget

FEW = (Kind.TRADE, Kind.END, Kind.CLOCK)


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


def _small_log(home: Home) -> Batch:
    """An ended run and one whose writer died, three commits each, live digests in both."""
    whole = write_run(home, (4, 3, 4), kinds=(Kind.TRADE, Kind.CLOCK))
    writer = LogWriter.open(home.on(DATE))
    more = batch(9, writer.next_seq, 2, kinds=(Kind.END, Kind.CLOCK), start_ns=writer.last_ts)
    for first in (12, 15, 18):
        writer.commit(more.slice(first, first + 2))
        writer.live_digests(first + 2, {"book": f"{first:032x}"})
    writer.abandon()
    return Batch.concat([whole, more])


def _flips(path: Path, rng: random.Random):
    """Write every byte of a file wrong, one at a time (every fourth in the short run): (offset, the byte put there)."""
    good = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for at, byte in list(enumerate(good))[:: budget(4, 1)]:
            wrong = {byte ^ rng.randrange(1, 256)}
            if path.suffix != ".arrows":
                wrong |= {rng.choice((byte ^ 0x20, 0x0A))} - {byte}  # the other case, a newline
            for value in sorted(wrong):
                file.seek(at)
                file.write(bytes([value]))
                yield at, value
            file.seek(at)
            file.write(bytes([byte]))
    assert path.read_bytes() == good


def test_every_flipped_byte_is_found(home):
    """Any byte of any file of a small log altered: opening raises DamagedLog naming that file and a place before it."""
    _small_log(home)
    rng = random.Random(5)
    assert verify_day(home.on(DATE)).clean
    names = set()
    for path in files_of(home.on(DATE).log):
        names.add(path.name)
        for at, value in _flips(path, rng):
            with pytest.raises(DamagedLog) as caught:
                harvester.open_day(DATE, home)
            assert caught.value.file == str(path), (path, at, value)
            assert caught.value.offset <= at, (path, at, value)
    assert names == {MANIFEST, JOURNAL, DIGESTS, "trade.arrows", "end.arrows"}
    assert harvester.open_day(DATE, home).rows == 20


def test_verify_finds_and_salvage_never_shows_an_altered_byte(home):
    """With a byte altered, verify counts a problem, and salvage gives only events as they were written."""
    whole = _small_log(home)
    rows = {row["seq"]: str((kind, row)) for kind, row in whole.events()}
    rng = random.Random(6)
    for path in files_of(home.on(DATE).log):
        for at, value in _flips(path, rng):
            if (at + value) % 29:
                continue
            report = verify_day(home.on(DATE))
            assert report.exit_code == 1, (path, at, value)
            assert str(path) in {str(problem.file) for problem in report.problems}
            day = harvester.open_day(DATE, home, salvage=True)
            assert day.damages
            assert not day.complete
            shown = {row["seq"]: str((kind, row)) for one in day.batches(rows_max=4) for kind, row in one.events()}
            assert shown.items() <= rows.items()
            assert sorted(shown) == [seq for first, last in day.good for seq in range(first, last + 1)]
            table = {seq for kind in FEW for seq in day.table(kind)["seq"].to_pylist()}
            assert table == set(shown)


def test_salvage_gives_all_but_the_damaged_commit(home):
    """A bad body or a bad journal line costs one commit; the readable ranges around it are reported."""
    whole = write_run(home, (10, 10, 10, 10), kinds=FEW)
    folder = home.on(DATE).log / "r001"
    lines = (folder / JOURNAL).read_bytes().splitlines(keepends=True)
    part = next(p for p in msgspec.json.decode(lines[1])["files"] if p["kind"] == "trade")
    trades = bytearray((folder / "trade.arrows").read_bytes())
    trades[part["offset"] + part["length"] // 2] ^= 1
    (folder / "trade.arrows").write_bytes(trades)
    lines[2] = lines[2].replace(b'"commit":3', b'"commit":7')
    (folder / JOURNAL).write_bytes(b"".join(lines))

    with pytest.raises(DamagedLog, match=r"commits\.jsonl.*good seq: 1-10, 31-40") as caught:
        harvester.open_day(DATE, home)
    assert caught.value.good == ((1, 10), (31, 40))
    assert caught.value.offset == len(lines[0]) + len(lines[1])
    day = harvester.open_day(DATE, home, salvage=True)
    got = list(day.batches(rows_max=1000))
    assert [(one.first_seq, one.last_seq) for one in got] == [(1, 10), (31, 40)]
    assert same(got[1], whole.slice(31, 40))
    assert [(d.file.name, d.first_seq, d.last_seq) for d in day.damages if d.last_seq] == [("trade.arrows", 11, 20)]
    with pytest.raises(DamagedLog):
        day.identity()
    with pytest.raises(DamagedLog):
        LogWriter.open(home.on(DATE))


@pytest.mark.parametrize("name", [MANIFEST, JOURNAL, DIGESTS, "trade.arrows", "end.arrows"])
def test_lost_and_shortened_files_are_damage(home, name):
    """A file of an ended run that is missing, empty, or short by a byte or a line is damage that names the file."""
    write_run(home, (4, 3, 4), kinds=FEW)
    path = home.on(DATE).log / "r001" / name
    good = path.read_bytes()
    for left in (None, b"", good[:-1], b"".join(good.splitlines(keepends=True)[:-1]), good[: len(good) // 2]):
        path.unlink()
        if left is not None:
            path.write_bytes(left)
        with pytest.raises(DamagedLog, match=name):
            harvester.open_day(DATE, home)
        assert not verify_day(home.on(DATE)).clean
        path.write_bytes(good)
    assert verify_day(home.on(DATE)).clean


def test_a_missing_run_is_damage(home):
    """A missing run folder leaves a hole in seq, which is reported."""
    for seed in (1, 2, 3):
        write_run(home, (5,), seed)
    shutil.rmtree(home.on(DATE).log / "r002")
    with pytest.raises(DamagedLog, match=r"r003.*begins at seq 11, expected 6"):
        harvester.open_day(DATE, home)


def test_bytes_nobody_named(home):
    """Bytes past the end of an ended run are ignored by readers and reported by verify."""
    write_run(home, (5,), kinds=FEW)
    with (home.on(DATE).log / "r001" / "trade.arrows").open("ab") as file:
        file.write(bytes(64))
    assert harvester.open_day(DATE, home).rows == 5
    assert [p.what for p in verify_day(home.on(DATE)).problems] == ["64 bytes follow that no commit names"]


class Recorder(Disk):
    """A disk that records the order in which bytes were appended to files."""

    def __init__(self) -> None:
        self.appended: list[tuple[Path, bytes]] = []

    def write(self, file, data) -> None:
        self.appended.append((Path(file.name), bytes(data)))
        super().write(file, data)


def test_cut_at_every_byte_of_the_last_commits(home, tmp_path_factory):
    """A writer stopped after any byte of its last commits leaves a log that reads up to the last whole commit."""
    disk = Recorder()
    writer = LogWriter.open(home.on(DATE), disk=disk)
    whole = batch(14, 1, kinds=(Kind.TRADE, Kind.CLOCK)), batch(3, 15, 8, kinds=(Kind.END,), start_ns=START_NS + 10**10)
    events = Batch.concat(list(whole))
    writer.commit(events.slice(1, 6))
    writer.live_digests(6, {"book": "0" * 32})
    before = Home(tmp_path_factory.mktemp("crash"))
    shutil.copytree(home.root, before.root, dirs_exist_ok=True)
    disk.appended.clear()
    for first, last in ((7, 10), (11, 14), (15, 17)):
        writer.commit(events.slice(first, last))
        writer.live_digests(last, {"book": f"{last:032x}"})
    writer.abandon()

    last, mended, steps = 6, 0, 0
    for path, data in disk.appended:
        target = before.root / path.relative_to(home.root)
        for i in range(len(data)):
            with target.open("ab") as file:
                file.write(data[i : i + 1])
            if path.name == JOURNAL and i + 1 == len(data):
                last = msgspec.json.decode(data)["last_seq"]
            steps += 1
            if steps % budget(5, 1) and i + 1 < len(data):
                continue
            day = harvester.open_day(DATE, before)
            assert day.last_seq == last
            assert sum(map(len, day.batches())) == last
            if steps % budget(995, 199) == 0:
                mended += _check_recovery(before, Home(tmp_path_factory.mktemp("mended")), events.slice(1, last))
    assert last == 17
    assert same(Batch.concat(list(harvester.open_day(DATE, before).batches())), events)
    assert mended > budget(2, 10)


def _check_recovery(crashed: Home, copy: Home, expected: Batch) -> int:
    """Recover a copy of a crashed log, and go on; returns 1 when torn bytes were moved."""
    shutil.copytree(crashed.root, copy.root, dirs_exist_ok=True)
    n_bytes = sum(path.stat().st_size for path in files_of(copy.on(DATE).log) if path.name != MANIFEST)
    with LogWriter.open(copy.on(DATE)) as writer:
        assert writer.next_seq == expected.last_seq + 1
        (recovery,) = writer.recovered
        writer.commit(batch(3, writer.next_seq, 5, start_ns=START_NS + 10**12))
    report = verify_day(copy.on(DATE))
    assert report.clean, report.problems
    assert [run.status for run in report.runs] == ["recovered", "ended"]
    assert not report.notes
    assert same(Batch.concat(list(harvester.open_day(DATE, copy).batches())).slice(1, expected.last_seq), expected)
    kept = [*files_of(copy.on(DATE).log / "r001"), *files_of(copy.on(DATE).log / "quarantine")]
    assert sum(path.stat().st_size for path in kept if path.name != MANIFEST) == n_bytes, "torn bytes are kept"
    return 1 if recovery.torn else 0


def test_a_zero_filled_tail_is_torn_not_an_end(home):
    """Zeros after the last commit, as left by a crashed file system, are ignored by readers and removed by recovery."""
    writer = LogWriter.open(home.on(DATE))
    writer.commit(batch(5, kinds=FEW))
    writer.abandon()
    for name in ("trade.arrows", JOURNAL, DIGESTS):
        with (writer.folder / name).open("ab") as file:
            file.write(bytes(4096))
    assert harvester.open_day(DATE, home).last_seq == 5
    with LogWriter.open(home.on(DATE)) as after:
        assert sorted(after.recovered[0].torn) == [JOURNAL, DIGESTS, "trade.arrows"]
    assert verify_day(home.on(DATE)).clean


def test_a_run_folder_that_was_never_finished_is_set_aside(home):
    """A crash while a run's folder is created leaves a name no reader uses; the next writer moves it to quarantine."""
    left = home.on(DATE).log / ".r001.new"
    left.mkdir(parents=True)
    (left / JOURNAL).write_bytes(b"")
    with LogWriter.open(home.on(DATE)) as writer:
        assert writer.run_id == "r001"
    assert not left.exists()
    assert (home.on(DATE).log / "quarantine" / "r001.new" / JOURNAL).exists()


# --- hostile files: valid hashes, absurd content ---


def _set(line, key, value):
    def change(lines, manifest):
        lines[line][key] = value

    return change


def _part(key, value):
    def change(lines, manifest):
        lines[0]["files"][0][key] = value

    return change


ABSURD = {
    "length": _part("length", 2**62),
    "negative length": _part("length", -5),
    "offset": _part("offset", 2**61),
    "fraction": _part("offset", 0.5),
    "rows": _part("rows", 2**40),
    "kind": _part("kind", "../../../../etc/passwd"),
    "kind with nul": _part("kind", "tick\x00"),
    "clock kind": _part("kind", "clock"),
    "checksum": _part("checksum", "zz" * 16),
    "unknown member": _part("mode", 1),
    "seq huge": _set(0, "last_seq", 2**62),
    "seq beyond 64 bits": _set(0, "last_seq", 10**40),
    "seq zero": _set(0, "first_seq", 0),
    "time": _set(0, "first_ts", 2**63),
    "time back": _set(1, "first_ts", -5),
    "clock": _set(0, "clock", [[1, 2, 3]]),
    "clock epoch": _set(0, "clock", [[1, 2, 3, 4, 70000, 6, 7]]),
    "many clocks": _set(0, "clock", [[1, 2, 3, 4, 5, 6, 7]] * 100_000),
    "deep": _set(0, "clock", msgspec.Raw(b"[" * 50_000 + b"]" * 50_000)),
    "text": _set(0, "content", "x" * 1_000_000),
    "not utf-8": _set(0, "content", msgspec.Raw(b'"\xff\xfe"')),
    "commit number": _set(1, "commit", 5),
    "content hash": _set(1, "content", "0" * 64),
    "final": lambda lines, manifest: manifest["final"].update(last_seq=2**40),
    "status": lambda lines, manifest: manifest.update(status="done"),
    "running with an end": lambda lines, manifest: manifest.update(status="running"),
    "another date": lambda lines, manifest: manifest.update(trading_date="2025-07-18"),
    "another run": lambda lines, manifest: manifest.update(run="r002"),
    "swapped": lambda lines, manifest: lines.reverse(),
}


@pytest.mark.parametrize("what", ABSURD)
def test_absurd_numbers_with_right_hashes_are_damage(home, what):
    """Absurd lengths, offsets, names, nesting and sizes under valid hashes give DamagedLog, never a crash."""
    write_run(home, (6, 6), kinds=FEW)
    forge(home.on(DATE).log / "r001", ABSURD[what])
    for check in (True, False):
        with pytest.raises(DamagedLog):
            list(harvester.open_day(DATE, home, check=check).batches())
        with pytest.raises(DamagedLog):
            list(fold_batches(harvester.open_day(DATE, home, check=check), {Kind.TRADE: ("price",)}, 5))
    assert not verify_day(home.on(DATE)).clean
    for one in harvester.open_day(DATE, home, salvage=True).batches():
        one.check()


def _bodies() -> dict[str, bytes]:
    rows = batch(6, kinds=(Kind.TRADE,)).tables[Kind.TRADE]
    good = rows.serialize().to_pybytes()
    buffers = [
        None,
        pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 2, 1, 2**30, 3, 4, 5))),
        pa.py_buffer(b"abcde"),
    ]
    text = rows.schema.get_field_index("exchange")
    wild = rows.set_column(text, rows.schema.field(text), pa.Array.from_buffers(pa.string(), 6, buffers))
    other = pa.RecordBatch.from_pydict({"seq": pa.array([1, 2, 3, 4, 5, 6], pa.uint64())})
    wrong_seq = rows.set_column(0, SCHEMAS[Kind.TRADE].field(0), pa.array([1, 2, 3, 9, 5, 6], pa.uint64()))
    back = rows.set_column(1, SCHEMAS[Kind.TRADE].field(1), pa.array([9, 8, 7, 6, 5, 4], pa.int64()))
    header = HEADERS[Kind.TRADE]
    noise = random.Random(1).randbytes(4000)
    return {
        "noise": noise,
        "noise behind a header": header + noise,
        "other columns": other.schema.serialize().to_pybytes() + other.serialize().to_pybytes(),
        "only a header": header,
        "header of absurd length": b"\xff\xff\xff\xff\xff\xff\xff\x7f" + good,
        "negative header": b"\xff\xff\xff\xff\xff\xff\xff\xff" + good,
        "end mark first": header + b"\xff\xff\xff\xff\x00\x00\x00\x00" + good,
        "message of absurd length": header + b"\xff\xff\xff\xff\xff\xff\xff\x7f" + good[8:],
        "cut": header + good[:-64],
        "text offsets": header + wild.serialize().to_pybytes(),
        "seq not rising": header + wrong_seq.serialize().to_pybytes(),
        "time runs back": header + back.serialize().to_pybytes(),
        "empty batch": header + rows.slice(0, 0).serialize().to_pybytes(),
    }


@pytest.mark.parametrize("what", _bodies())
def test_absurd_bodies_with_right_checksums_are_damage(home, what):
    """A body that is not an Arrow stream, or has other events, under a valid checksum: DamagedLog, never a crash."""
    write_run(home, (6,), kinds=(Kind.TRADE,))
    forge(home.on(DATE).log / "r001", lambda lines, manifest: None, {"trade.arrows": _bodies()[what]})
    for check in (True, False):
        with pytest.raises(DamagedLog, match=r"trade\.arrows"):
            list(harvester.open_day(DATE, home, check=check).batches())
        with pytest.raises(DamagedLog, match=r"trade\.arrows"):
            list(fold_batches(harvester.open_day(DATE, home, check=check), {Kind.TRADE: ("exchange",)}, 5))
    report = verify_day(home.on(DATE))
    assert [problem.file.name for problem in report.problems] == ["trade.arrows"]
    assert list(harvester.open_day(DATE, home, salvage=True).batches()) == []
    assert harvester.open_day(DATE, home, salvage=True).table(Kind.TRADE).num_rows == 0


def test_every_byte_of_a_body_may_be_hostile(home):
    """Any byte of a body altered under a valid checksum: an error or events that pass every check, never a crash."""
    write_run(home, (6,), kinds=(Kind.TRADE,))
    folder = home.on(DATE).log / "r001"
    good = (folder / "trade.arrows").read_bytes()
    rng = random.Random(3)
    for at in rng.sample(range(len(good)), budget(120, 500)):
        body = bytearray(good)
        body[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        forge(folder, lambda lines, manifest: None, {"trade.arrows": bytes(body)})
        salvaged = harvester.open_day(DATE, home, salvage=True)
        for one in salvaged.batches():
            one.check()
            [str(rows.to_pylist()) for rows in one.tables.values()]
        try:
            folded = list(fold_batches(harvester.open_day(DATE, home), {Kind.TRADE: ("exchange", "unreported")}, 5))
        except DamagedLog:
            continue
        [str(rows.to_pylist()) for one in folded for rows in one.tables.values()]
        assert [(one.first_seq, one.last_seq) for one in folded] == [(1, 6)]
    forge(folder, lambda lines, manifest: None, {"trade.arrows": good})
    assert verify_day(home.on(DATE)).clean


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes are made otherwise on Windows")
@pytest.mark.parametrize("name", [MANIFEST, JOURNAL, DIGESTS, "trade.arrows"])
def test_links_and_pipes_are_not_followed(home, name):
    """A file that is a link to elsewhere, or a pipe that would block for ever, is damage."""
    write_run(home, (6,), kinds=(Kind.TRADE,))
    path = home.on(DATE).log / "r001" / name
    elsewhere = home.root / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(DamagedLog, match=f"{name}.*not a plain file"):
        harvester.open_day(DATE, home)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DamagedLog, match=f"{name}.*not a plain file"):
        harvester.open_day(DATE, home)


@pytest.mark.parametrize("member", ["format_version", "schema_version"])
def test_a_future_version_says_so(home, member):
    """A log of a future format or schema is FutureFormat, whatever else its manifest holds; writers refuse it too."""
    write_run(home, (6,))
    path = home.on(DATE).log / "r001" / MANIFEST
    manifest = msgspec.json.decode(unseal(path.read_bytes()[:-1]))
    path.write_bytes(seal(msgspec.json.encode({**manifest, member: FORMAT_VERSION + 1, "invented": ["later"]})))
    for call in (
        harvester.open_day,
        lambda date, home: verify_day(home.on(date)),
        lambda date, home: LogWriter.open(home.on(date)),
    ):
        with pytest.raises(FutureFormat, match="install a newer one"):
            call(DATE, home)
    with LogWriter.open(home.on(DATE.replace(day=20))):
        pass  # the lock of the refused date was released, others are free
