"""The parts of the log's storage one by one: sealed lines, journal lines, order, checksums, Parquet files, damage."""

from __future__ import annotations

import copy
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from itertools import combinations
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from log_samples import batch

from harvester.errors import FutureFormat
from harvester.eventlog.storage import checked_reads, parquet_files, sealed_lines
from harvester.eventlog.storage.checked_reads import Checked, check_parts, check_places, check_rising, read_stream
from harvester.eventlog.storage.damage import Damage, damaged_log, in_short, joined, other_columns
from harvester.eventlog.storage.format import (
    FORMAT_VERSION,
    CommitLine,
    DigestLine,
    Final,
    Malformed,
    Manifest,
    Part,
    decode_commit,
    decode_digest,
    decode_manifest,
    digests_of,
    file_of,
    journal_of,
    names_of,
    run_name,
    run_number,
)
from harvester.eventlog.storage.ipc_streams import HEADERS, encode
from harvester.eventlog.storage.parquet_files import Groups, ParquetBodies, check_tail
from harvester.eventlog.storage.prefetch import STEPS_AHEAD, WORKERS, prefetch, workers
from harvester.eventlog.storage.sealed_lines import checksum, scan, seal, sealed_hash, unseal
from harvester.eventlog.storage.sequence_checks import _fast_ends, order_problem, rows_problem
from harvester.events.batch import Batch
from harvester.events.kinds import SCHEMA_VERSION, SCHEMAS, Kind
from harvester.files import Disk


def _text_of(work, *args, error: type[Exception] = ValueError, **options) -> str:
    with pytest.raises(error) as caught:
        work(*args, **options)
    return str(caught.value)


# --- damage ---


def test_damage_in_words():
    """The place, the loss if it is known, the count of further places; only adjacent ranges are joined."""
    one = Damage(Path("a"), 7, "torn")
    lost = Damage(Path("b"), 0, "gone", 1, 9)
    assert (str(one), str(lost)) == ("a at byte 7: torn", "b at byte 0: gone (seq 1-9)")
    assert "a at byte 7: torn; good seq: 1-2; " in str(damaged_log([one], ((1, 2),)))
    assert "a at byte 7: torn (and 1 more places); good" in str(damaged_log([one, lost], ()))
    assert "b at byte 0: gone (and 2 more places); good" in str(damaged_log([lost, one, one], ()))
    assert joined([]) == ()
    assert joined([(1, 2), (3, 3), (4, 6), (8, 9), (9, 9), (10, 10)]) == ((1, 6), (8, 9), (9, 10))
    assert in_short(ValueError(" a\n  b\t" + "c" * 300)) == "a b " + "c" * 196
    assert other_columns([str(i) for i in range(41)], Kind.END) == (
        f"columns {[str(i) for i in range(40)]} are not those of kind end"
    )


# --- sealed lines ---


def _line(n: int, size: int = 0) -> bytes:
    """A sealed line of at least `size` bytes."""
    return seal(msgspec.json.encode({"n": n, "pad": "x" * max(size - 70, 0)}))


def test_a_seal_is_the_hash_of_the_object():
    """`{…,"hash":"<BLAKE2b-128>"}`; an altered, cut or longer line is no object."""
    line = seal(b'{"a":1}')
    digest = blake2b(b'{"a":1}', digest_size=16).hexdigest()
    assert line == b'{"a":1,"hash":"' + digest.encode() + b'"}\n'
    assert sealed_hash(line) == sealed_hash(line[:-1]) == checksum(b'{"a":1}') == digest
    assert unseal(line[:-1]) == b'{"a":1}'
    assert [unseal(wrong) for wrong in (line, line[:-2], b"", line[1:-1], b"x" + line[:-1])] == [None] * 5
    assert all(unseal(line[:at] + bytes([line[at] ^ 1]) + line[at + 1 : -1]) is None for at in range(len(line) - 1))
    for body in (b"", b"[]", b'{"a":1', b'"a":1}', b'{\n"a":1}'):
        with pytest.raises(AssertionError):
            seal(body)
    for body in (b"[" * 90, b"{" + b"\n" * 90 + b"}"):
        assert _text_of(seal, body, error=AssertionError) == str(body[:80])


def test_scanned_lines_and_their_places(tmp_path):
    """From any offset: whole lines with body, hash and place; a torn tail only counted; a file that is too short."""
    path, lines = tmp_path / "lines", [_line(1), _line(2, 300), _line(3)]
    path.write_bytes(b"".join(lines) + b"torn")
    starts = [0, len(lines[0]), len(lines[0]) + len(lines[1])]
    end = sum(map(len, lines))
    for first, start in enumerate([*starts, end]):
        got = scan(path, start)
        assert got.lines == [
            (at, unseal(line[:-1]), sealed_hash(line)) for at, line in zip(starts[first:], lines[first:], strict=True)
        ]
        assert (got.end, got.torn_bytes, got.damages) == (end, 4, [])
    assert scan(path, end + 4).damages == []
    got = scan(path, end + 5)
    problem = f"the file is {end + 4} bytes long, it had {end + 5} or more"
    assert (got.end, got.lines, got.damages) == (end + 5, [], [Damage(path, end + 4, problem)])
    assert scan(tmp_path / "none").damages == [Damage(tmp_path / "none", 0, "the file is missing")]
    assert scan(tmp_path / "none", 3).damages == [Damage(tmp_path / "none", 0, "the file is missing")]
    assert scan(tmp_path).damages == [Damage(tmp_path, 0, f"cannot be read: {tmp_path.name} is not a plain file")]
    path.write_bytes(b"")
    assert (scan(path).lines, scan(path).end, scan(path).torn_bytes, scan(path).damages) == ([], 0, 0, [])


def test_scanned_sizes_have_limits(tmp_path, monkeypatch):
    """A file or a line of the maximum is read, one byte more is damage; so is an error of the disk."""
    path, lines = tmp_path / "lines", _line(1) + _line(2, 300)
    assert (sealed_lines.LINE_BYTES_MAX, sealed_lines.FILE_BYTES_MAX) == (2**26, 2**32)
    path.write_bytes(lines)
    monkeypatch.setattr(sealed_lines, "FILE_BYTES_MAX", len(lines))
    assert len(scan(path).lines) == 2
    for most in (len(lines) - 1, 3):
        monkeypatch.setattr(sealed_lines, "FILE_BYTES_MAX", most)
        problem = f"the file has {len(lines)} bytes, the maximum is {most}"
        assert scan(path).damages == [Damage(path, 0, problem)]
    monkeypatch.undo()
    longest = len(_line(2, 300)) - 1
    monkeypatch.setattr(sealed_lines, "LINE_BYTES_MAX", longest)
    assert len(scan(path).lines) == 2
    monkeypatch.setattr(sealed_lines, "LINE_BYTES_MAX", longest - 1)
    assert scan(path).damages == [Damage(path, len(_line(1)), "the line does not match its hash")]

    def fails(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", fails)
    assert scan(path, 2).damages == [Damage(path, 2, "cannot be read: Input/output error")]


def test_zeroed_sectors_of_the_last_line_are_torn(tmp_path):
    """Zeros in the last line are torn exactly if they fill whole sectors, or its share of the first or last one."""
    path, first, last = tmp_path / "lines", _line(1), _line(2, 1700)
    begin, end = len(first), len(first) + len(last) - 1

    def zeroed(*holes: tuple[int, int], after: bytes = b"") -> sealed_lines.Scan:
        data = bytearray(first + last)
        for a, b in holes:
            data[a:b] = bytes(b - a)
        path.write_bytes(bytes(data) + after)
        return scan(path)

    begins = (begin, begin + 1, 511, 512, 513, 1024, 1025, end - 1)
    ends = (begin + 1, 511, 512, 513, 1024, 1535, 1536, end - 1, end)
    damage = [Damage(path, begin, "the line does not match its hash")]
    for a in begins:
        for b in (b for b in ends if b > a):
            got = zeroed((a, b))
            torn = (a == begin or a % 512 == 0) and (b == end or b % 512 == 0)
            expected = (begin, len(last), []) if torn else (end + 1, 0, damage)
            assert (got.end, got.torn_bytes, got.damages) == expected, (a, b)
            assert len(got.lines) == 1
    assert zeroed((begin, 512), (1024, 1536)).torn_bytes == len(last)
    assert zeroed((begin, 512), (1024, 1535)).damages == damage
    assert zeroed((begin, 512), after=b"{").damages == damage, "not the last line"
    assert zeroed((begin, 512), after=_line(3)).damages == damage


def test_an_altered_last_newline_is_damage(tmp_path):
    """A whole last line with another byte for its newline is damage at that byte; with none, or a cut line, torn.

    A zero that begins a sector is torn too.
    """
    path, first, last = tmp_path / "lines", _line(1), _line(2)
    size = len(first) + len(last)
    for tail, damaged in ((b"x", True), (b"\r", True), (b"", False), (b"xx", False), (b"\0", True)):
        path.write_bytes(first + last[:-1] + tail)
        got = scan(path)
        problem = Damage(path, size - 1, "the newline after the last line was altered")
        assert got.damages == ([problem] if damaged else [])
        assert (got.end, got.torn_bytes) == (len(first), len(last) - 1 + len(tail))
    long = _line(2, 70 + 513 - size)
    path.write_bytes(first + long[:-1] + b"\0")
    assert (path.stat().st_size, scan(path).damages, scan(path).torn_bytes) == (513, [], len(long))
    path.write_bytes(last[:-1] + b"x")
    assert scan(path, 0).damages == [Damage(path, len(last) - 1, "the newline after the last line was altered")]
    path.write_bytes(first + last[:-1] + b"x")
    assert scan(path, len(first)).damages[0].offset == size - 1


# --- the lines' contents ---

PART = {"kind": "end", "offset": 0, "length": 1, "rows": 1, "checksum": "0" * 32, "req_ids": [[1, 2]]}
COMMIT = {
    "commit": 1,
    "first_seq": 1,
    "last_seq": 2,
    "first_ts": 0,
    "last_ts": 0,
    "clock": [[1, 2, 3, 4, 5, 6, 7]],
    "files": [PART],
    "content": "0" * 64,
    "prev": "0" * 32,
}
FINAL = {
    "commits": 1,
    "last_seq": 1,
    "chain": "a" * 32,
    "content_hash": "0" * 64,
    "digests": 0,
    "digests_chain": "0" * 32,
}
MANIFEST = {
    "format_version": 2,
    "schema_version": 1,
    "package": "",
    "trading_date": "2025-07-17",
    "run": "r001",
    "first_seq": 1,
    "status": "compacted",
    "config_digest": "",
    "final": FINAL,
    "storage": "parquet",
    "tails": [PART],
}
DIGEST = {"line": 1, "seq": 0, "digests": {}, "prev": "0" * 32}
_COUNT, _NUMBER = (0, 2**62), (1, 2**62)
_I64, _I32 = (-(2**63), 2**63 - 1), (-(2**31), 2**31 - 1)
RANGES = [
    *((COMMIT, (name,), _NUMBER) for name in ("commit", "first_seq", "last_seq")),
    *((COMMIT, (name,), _I64) for name in ("first_ts", "last_ts")),
    *((COMMIT, ("files", 0, name), _NUMBER) for name in ("length", "rows")),
    (COMMIT, ("files", 0, "offset"), _COUNT),
    (COMMIT, ("files", 0, "req_ids", 0, 0), _I64),
    (COMMIT, ("files", 0, "req_ids", 0, 1), _I32),
    *(
        (COMMIT, ("clock", 0, i), each)
        for i, each in enumerate((_NUMBER, _I64, _I64, _I32, (0, 2**16 - 1), _I64, _I64))
    ),
    *((MANIFEST, ("final", name), _COUNT) for name in ("commits", "last_seq", "digests")),
    (MANIFEST, ("first_seq",), _NUMBER),
    (MANIFEST, ("format_version",), (1, FORMAT_VERSION)),
    (MANIFEST, ("schema_version",), (1, SCHEMA_VERSION)),
    (DIGEST, ("line",), _NUMBER),
    (DIGEST, ("seq",), _COUNT),
]
TEXTS = [
    *((COMMIT, path, 32, False) for path in (("prev",), ("files", 0, "checksum"))),
    (COMMIT, ("content",), 64, True),
    *((MANIFEST, ("final", name), 32, True) for name in ("chain", "digests_chain")),
    (MANIFEST, ("final", "content_hash"), 64, True),
    (DIGEST, ("prev",), 32, True),
]


def _with(whole: dict, path: tuple, value) -> dict:
    whole = copy.deepcopy(whole)
    place = whole
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return whole


def _decoded(whole: dict) -> str:
    """Why a line cannot be parsed; empty if it can."""
    data = msgspec.json.encode(whole)
    try:
        if whole.keys() == COMMIT.keys() or "commit" in whole:
            decode_commit(data)
        elif "line" in whole:
            decode_digest(data)
        else:
            decode_manifest(data, "m")
    except (Malformed, FutureFormat) as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("whole", "path", "limits"), RANGES)
def test_numbers_of_a_line_have_limits(whole, path, limits):
    """The lowest and the highest number are parsed, the next ones are not, nor another type."""
    for value in limits:
        assert not _decoded(_with(whole, path, value)).startswith("not a "), value
    for value in (limits[0] - 1, limits[1] + 1, "1", 1.5, None):
        problem = _decoded(_with(whole, path, value))
        assert problem.startswith(("not a commit: ", "not a manifest: ", "not a line of digests: ", "m has format "))
        assert (problem[:2] == "m ") == (value == limits[1] + 1 and path[0] in ("format_version", "schema_version"))


@pytest.mark.parametrize(("whole", "path", "length", "hexadecimal"), TEXTS)
def test_hashes_of_a_line_have_one_length(whole, path, length, hexadecimal):
    """A hash of a digit less or more is not parsed; of other digits only where it is compared with a computed one."""
    assert _decoded(_with(whole, path, "0f" * (length // 2))) == ""
    for text in ("0" * (length - 1), "0" * (length + 1)):
        assert _decoded(_with(whole, path, text)).startswith("not a ")
    assert bool(_decoded(_with(whole, path, "G" * length))) == hexadecimal


def test_lines_are_parsed_strictly():
    """A member too many is an error in every object, a member too few too; texts name what was expected."""
    for whole, path in (
        (COMMIT, ("more",)),
        (COMMIT, ("files", 0, "more")),
        (MANIFEST, ("more",)),
        (MANIFEST, ("final", "more")),
        (DIGEST, ("more",)),
    ):
        assert _decoded(whole) == ""
        assert "unknown field `more`" in _decoded(_with(whole, path, 1))
    for decode, name in ((decode_commit, "commit"), (decode_digest, "line of digests")):
        assert _text_of(decode, b"{", error=Malformed).startswith(f"not a {name}: ")
        assert _text_of(decode, b'"\xff"', error=Malformed).startswith(f"not a {name}: ")
        assert _text_of(decode, b"[" * 10**5, error=Malformed).startswith(f"not a {name}: ")
    for body in (b"{", b'"\xff"', b"[" * 10**5, b'{"format_version":1,"schema_version":1}'):
        assert _text_of(decode_manifest, body, "m", error=Malformed).startswith("not a manifest: ")
    newer = {"format_version": FORMAT_VERSION + 1, "schema_version": 1, "anything": []}
    assert _decoded(newer) == (
        f"m has format {FORMAT_VERSION + 1}, schema 1; this Harvester reads up to format {FORMAT_VERSION}, "
        f"schema {SCHEMA_VERSION}: install a newer one"
    )
    for run, right in (("r001", True), ("r123456", True), ("r01", False), ("r1234567", False), ("x001", False)):
        assert (_decoded(_with(MANIFEST, ("run",), run)) == "") == right
    for date in ("2025-7-17", "2025-07-17 ", "x2025-07-17"):
        assert _decoded(_with(MANIFEST, ("trading_date",), date)).startswith("not a manifest: ")


def test_a_journal_line_must_add_up():
    """Events of its clock and its files are as many as its range of seq; no kind twice."""
    assert decode_commit(msgspec.json.encode(COMMIT)).rows == 2
    assert _decoded(_with(COMMIT, ("last_seq",), 3)) == "seq 1-3 is 3 events, the line has 2"
    assert _decoded(_with(COMMIT, ("last_seq",), 1)) == "seq 1-1 is 1 events, the line has 2"
    twice = _with(_with(COMMIT, ("files",), [PART, PART]), ("last_seq",), 3)
    assert _decoded(twice) == "files end, end: a kind occurs twice"
    part = decode_commit(msgspec.json.encode(_with(COMMIT, ("files", 0, "offset"), 5))).files[0]
    assert (part.end, part.req_ids) == (6, [(1, 2)])


def test_lines_are_immutable_and_small():
    """No field of a line can be set; parts and commits, of which there are many, are not traced by the collector."""
    commit = decode_commit(msgspec.json.encode(COMMIT))
    manifest = decode_manifest(msgspec.json.encode(MANIFEST), "m")
    for one, name in (
        (commit, "commit"),
        (commit.files[0], "rows"),
        (Damage(Path("a"), 7, "torn"), "what"),
        (manifest, "run"),
        (manifest.final, "commits"),
        (decode_digest(msgspec.json.encode(DIGEST)), "seq"),
    ):
        with pytest.raises(AttributeError):
            setattr(one, name, 1)
    assert not gc.is_tracked(commit)
    assert not gc.is_tracked(commit.files[0])
    plain = Part(Kind.END, 0, 1, 1, "0" * 32)
    assert b"req_ids" not in msgspec.json.encode(plain), "left out where it is empty"
    assert b"first_seq" in msgspec.json.encode(manifest)
    assert plain.req_ids == []


@pytest.mark.parametrize("status", ["running", "ended", "recovered", "compacted"])
@pytest.mark.parametrize("storage", ["stream", "compacted", "parquet"])
@pytest.mark.parametrize("ends", [True, False])
def test_a_manifest_contradicts_itself_in_three_ways(status, storage, ends):
    """Only a finished run has an end, only a compacted one another storage, only Parquet has footers."""
    whole = {**MANIFEST, "status": status, "storage": storage, "tails": [], "final": FINAL if ends else None}
    expected = ""
    if ends == (status == "running"):
        expected = f"status {status} contradicts final "
    elif (storage == "stream") == (status == "compacted"):
        expected = f"status {status} contradicts storage {storage}"
    problem = _decoded(whole)
    assert problem.startswith("not a manifest: " + expected if expected else "")
    assert bool(problem) == bool(expected)
    if not expected:
        assert (_decoded({**whole, "tails": [PART]}) == "") == (storage == "parquet")
        assert "contradicts tails of" in _decoded({**whole, "tails": [PART, PART]})


def test_a_journal_belongs_to_its_manifest():
    """The first line's `prev` depends on each of the six members that describe the run, and on no other."""
    manifest = decode_manifest(msgspec.json.encode(MANIFEST), "m")
    other = {"schema_version": 3, "format_version": 1, "trading_date": "2025-07-18", "run": "r002", "first_seq": 2}
    other["config_digest"] = "x"
    geneses = {msgspec.structs.replace(manifest, **{name: value}).genesis() for name, value in other.items()}
    assert len(geneses | {manifest.genesis()}) == 7
    assert msgspec.structs.replace(manifest, package="x", tails=[]).genesis() == manifest.genesis()
    assert manifest.genesis() == checksum(b'[2,1,"2025-07-17","r001",1,""]')
    assert (Manifest.__struct_fields__[:2], DigestLine.__struct_fields__[0]) == (
        ("format_version", "schema_version"),
        "line",
    )
    assert (Final.__struct_fields__[0], CommitLine.__struct_fields__[0]) == ("commits", "commit")


def test_names_of_files_and_runs():
    """The files of each storage; a folder is a run's only if its name is how the run would be named."""
    assert (file_of(Kind.END), journal_of("stream"), digests_of("parquet")) == (
        "end.arrows",
        "commits.jsonl",
        "live_digests.jsonl",
    )
    assert names_of("compacted")[:3] == [
        "commits.compacted.jsonl",
        "live_digests.compacted.jsonl",
        "contract.compacted.arrows",
    ]
    assert len(names_of("parquet")) == 2 + len(Kind)
    assert [run_name(n) for n in (1, 42, 999, 1000)] == ["r001", "r042", "r999", "r1000"]
    numbers = {"r001": 1, "r000": 0, "r999": 999, "r1000": 1000, "r123456": 123456}
    assert {name: run_number(name) for name in numbers} == numbers
    for name in ("r01", "r0001", "r0999", "r1234567", "R001", "r001 ", "xr001", "r", "quarantine"):
        assert run_number(name) is None, name


# --- order ---


def _table(seq: list[int], ts: list[int]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(seq, pa.uint64()), pa.array(ts, pa.int64())], names=["seq", "ts_recv"])


def _expected_problem(tables: dict[Kind, tuple[list[int], list[int]]], first: int, last_ts: int) -> str:
    """The rule in plain Python."""
    n = sum(len(seq) for seq, _ in tables.values())
    ts: dict[int, int] = {}
    for kind, (seq, times) in tables.items():
        if any(not first <= one < first + n for one in seq) or sorted(set(seq)) != seq:
            return f"{kind}: seq does not increase within {first}-{first + n - 1}"
        ts |= dict(zip(seq, times, strict=True))
    for one in range(first, first + n):
        if one not in ts:
            return f"no event has seq {one}"
    if ts[first] < last_ts:
        return f"ts_recv decreases: {ts[first]} of seq {first} is before {last_ts}"
    back = [one for one in range(first + 1, first + n) if ts[one] < ts[one - 1]]
    return f"ts_recv decreases at seq {back[0]}" if back else ""


def _check_order(tables: dict[Kind, tuple[list[int], list[int]]], first: int, last_ts: int, few: int) -> None:
    n = sum(len(seq) for seq, _ in tables.values())
    arrays = {kind: _table(*one) for kind, one in tables.items()}
    expected = _expected_problem(tables, first, last_ts)
    times = [time for _, one in tables.values() for time in one]
    ends = (min(times), max(times))
    assert order_problem(arrays, first, last_ts) == (expected, *(ends if not expected else (0, 0)))
    in_order = not _expected_problem(tables, first, min(times))
    assert _fast_ends(arrays, first) == (ends if in_order and few * 8 <= n else None)


@pytest.mark.parametrize(("n", "few"), [(n, few) for n in (1, 2, 15, 16, 17) for few in (0, 1, 2) if n >= 2 * few])
def test_order_is_judged_the_same_by_both_checks(n, few):
    """One seq or time altered anywhere: the sentence of the rule; the fast check proves what is in order, no more."""
    first = 100
    places = [p for p in combinations(sorted({0, 1, n // 2, n - 2, n - 1} & set(range(n))), few) if len(set(p)) == few]
    for place in places:
        kinds = [[i for i in range(n) if i not in place], *([i] for i in place)]
        names = [Kind.DEPTH, Kind.CLOCK, Kind.TRADE]
        if n % 2:
            kinds, names = kinds[::-1], names[: len(kinds)][::-1]

        def tables(row: int = -1, seq: int = 0, ts: int = 0, kinds=kinds, names=names):
            return {
                name: (
                    [first + i + seq * (i == row) for i in of_kind],
                    [10 * (i // 2) + ts * (i == row) for i in of_kind],
                )
                for name, of_kind in zip(names, kinds, strict=False)
            }

        for last_ts in (-5, 0, 1):
            _check_order(tables(), first, last_ts, few)
        for row in {*place, *range(0, n, 1 if n < 9 else 7)}:
            for by in (-n, -1, 1, n):
                _check_order(tables(row, seq=by), first, 0, few)
            for by in (-11, -1, 1, 10, 11):
                _check_order(tables(row, ts=by), first, -99, few)


def test_several_rows_of_one_rare_kind():
    """Rare rows next to each other, in order, swapped or twice; among rows of a frequent kind with a hole."""
    many = [1, 2, 5, *range(6, 33)]
    for rare in ([3, 4], [4, 3], [3, 3], [4, 4], [3, 5], [2, 4], [0, 3], [3, 40]):
        tables = {Kind.DEPTH: (many, [10 * s for s in many]), Kind.CLOCK: (rare, [10 * s for s in rare])}
        if rare[0] >= 1:
            _check_order(tables, 1, 0, 2)
    for times in ([30, 40], [20, 50], [19, 40], [30, 51], [40, 30], [50, 50], [20, 20]):
        _check_order({Kind.DEPTH: (many, [10 * s for s in many]), Kind.CLOCK: ([3, 4], times)}, 1, 0, 2)
    for at in range(len(many)):
        for value in (many[at] - 1, many[at] + 1, 3):
            altered = [*many[:at], value, *many[at + 1 :]]
            if min(altered) >= 1:
                tables = {Kind.CLOCK: ([3, 4], [30, 40]), Kind.DEPTH: (altered, [10 * s for s in many])}
                _check_order(tables, 1, 0, 2)


def test_rows_fit_their_schema():
    """No rows, another schema, a null in a required column: each is said; some columns are judged by theirs alone."""
    rows = batch(3, 1, kinds=(Kind.END,)).tables[Kind.END]
    assert rows_problem(Kind.END, rows) == rows_problem(Kind.END, rows.select([0, 5]), [0, 5]) == ""
    assert rows_problem(Kind.END, rows.slice(0, 0)) == "end: a table without rows"
    assert rows_problem(Kind.END, rows.select([0, 1])) == (
        "end: names or types of columns ['seq', 'ts_recv'] differ from the schema"
    )
    assert rows_problem(Kind.END, rows.select([0, 1]), [0, 2]).startswith("end: names or types")
    nulls = pa.RecordBatch.from_arrays(
        [pa.array([1, None, 3], pa.int64()), rows.column(8)],
        schema=pa.schema([SCHEMAS[Kind.END].field(i) for i in (1, 8)]),
    )
    assert rows_problem(Kind.END, nulls, [1, 8]) == "end: a null in one of ['ts_recv']"


def test_order_within_a_kind_and_a_commit():
    """Equal times are in order, equal seqs are not; rows of a part are within its line's range, ends included."""
    check_rising(_table([1, 2, 4], [5, 5, 6]))
    check_rising(_table([1], [5]))
    for seq, ts in (([1, 1, 2], [5, 5, 6]), ([1, 3, 2], [5, 5, 6]), ([1, 2, 3], [5, 4, 6]), ([1, 2, 3], [5, 6, 5])):
        assert _text_of(check_rising, _table(seq, ts)) == "seq does not increase, or ts_recv decreases"
    lines = [
        decode_commit(msgspec.json.encode({**COMMIT, "commit": i + 1, "first_seq": a, "last_seq": a + 1}))
        for i, a in enumerate((1, 3, 5))
    ]
    parts = [Part(Kind.END, 0, 1, rows, "0" * 32) for rows in (2, 1, 2)]
    for seq, wrong in (
        ([1, 2, 4, 5, 6], 0),
        ([1, 2, 3, 5, 6], 0),
        ([0, 2, 3, 5, 6], 1),
        ([1, 3, 4, 5, 6], 1),
        ([1, 2, 5, 5, 6], 2),
        ([1, 2, 2, 5, 6], 2),
        ([1, 2, 4, 4, 6], 3),
        ([1, 2, 4, 5, 7], 3),
    ):
        if wrong:
            problem = _text_of(check_places, _table(seq, [0] * 5), lines, parts)
            assert problem == f"rows of commit {wrong} have seqs outside {2 * wrong - 1}-{2 * wrong}"
        else:
            check_places(_table(seq, [0] * 5), lines, parts)


# --- checksums of parts ---


def _parts(*sizes: int, data: bytes, gaps: dict[int, int] | None = None) -> list[Part]:
    parts, at = [], 0
    for i, size in enumerate(sizes):
        at += (gaps or {}).get(i, 0)
        parts.append(Part(Kind.END, at, size, 1, checksum(data[at : at + size])))
        at += size
    return parts


def test_adjacent_parts_are_read_together():
    """As many neighbours as fit the limit, one at least; never across a gap or backwards."""
    data = bytes(100)
    for sizes, gaps, most, expected in (
        ((4,), {}, 8, [(0, 0)]),
        ((4, 4, 4), {}, 7, [(0, 0), (1, 1), (2, 2)]),
        ((4, 4, 4), {}, 8, [(0, 1), (2, 2)]),
        ((4, 4, 4), {}, 11, [(0, 1), (2, 2)]),
        ((4, 4, 4), {}, 12, [(0, 2)]),
        ((9, 1, 9, 9), {}, 8, [(0, 0), (1, 1), (2, 2), (3, 3)]),
        ((1, 1, 1, 1, 1, 1, 1), {0: 5}, 3, [(0, 2), (3, 5), (6, 6)]),
        ((2, 2, 2, 2), {2: 1}, 100, [(0, 1), (2, 3)]),
        ((2, 2, 2, 2), {1: 3, 2: -4}, 100, [(0, 0), (1, 1), (2, 3)]),
        ((2, 2, 2, 2, 2), {2: 1}, 4, [(0, 1), (2, 3), (4, 4)]),
    ):
        assert list(checked_reads._neighbours(_parts(*sizes, data=data, gaps=gaps), most)) == expected


@pytest.mark.parametrize("threads", [True, False])
def test_wrong_parts_are_found(tmp_path, threads, monkeypatch):
    """Per span of at most the size of a read: its parts, the wrong or incomplete ones, its beginning."""
    monkeypatch.setattr(checked_reads, "READ_BYTES", 8)
    monkeypatch.setattr(checked_reads, "_THREADS_BYTES_MIN", 0 if threads else 10**9)
    data, path = bytes(range(40)), tmp_path / "x"
    path.write_bytes(data)
    parts = _parts(20, 3, 5, 10, 2, data=data)
    expected = [
        Checked(0, 0, [], data[:8]),
        Checked(1, 2, [], data[20:23]),
        Checked(3, 3, [], b""),
        Checked(4, 4, [], b""),
    ]
    assert list(check_parts(path, parts)) == expected
    assert list(check_parts(path, parts[4:])) == [Checked(0, 0, [], b"")]
    assert list(check_parts(path, parts[1:3])) == [Checked(0, 1, [], data[20:23])]
    assert list(check_parts(path, _parts(3, 5, data=data))) == [Checked(0, 1, [], data[:3])]
    for at in range(40):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        wrong = next(i for i, part in enumerate(parts) if part.offset <= at < part.end)
        assert [one.wrong for one in check_parts(path, parts)] == [
            [wrong] if one.first <= wrong <= one.last else [] for one in expected
        ]
    for size in (0, 1, 19, 20, 22, 23, 27, 28, 37, 38, 39, 40):
        path.write_bytes(data[:size])
        got = list(check_parts(path, parts))
        short = [i for i, part in enumerate(parts) if part.end > size]
        assert [i for one in got for i in one.wrong] == short
        assert got[0].head == data[: min(8, size)]
        assert got[1].head == data[20 : max(min(23, size), 20)]
    path.write_bytes(data + b"more")
    assert list(check_parts(path, parts)) == expected


@pytest.mark.parametrize("read_bytes", [64, 2**20])
def test_streams_are_compared_while_they_are_read(tmp_path, read_bytes, monkeypatch):
    """Any part with another checksum is refused, unless it is not to be compared; a short file is an OSError."""
    monkeypatch.setattr(checked_reads, "READ_BYTES", read_bytes)
    rows, path = batch(9, 1, kinds=(Kind.END,)).tables[Kind.END], tmp_path / "end.arrows"
    bodies = [encode(rows.slice(at, 3), None) for at in (0, 3, 6)]
    bodies[0] = HEADERS[Kind.END] + bodies[0]
    data = b"".join(bodies)
    path.write_bytes(data)
    parts = [msgspec.structs.replace(part, rows=3) for part in _parts(*map(len, bodies), data=data)]
    for some in (parts, parts[1:], parts[2:], parts[:1]):
        expected = rows.slice(3 * (3 - len(some)) if some[0].offset else 0, 3 * len(some))
        for check in (True, False):
            assert str(read_stream(path, Kind.END, some, check=check).to_pylist()) == str(expected.to_pylist())
        for i in range(len(some)):
            for wrong in ("0" * 32, "f" * 32):
                altered = [*some]
                altered[i] = msgspec.structs.replace(some[i], checksum=wrong)
                problem = _text_of(read_stream, path, Kind.END, altered, check=True)
                assert problem == "the bytes do not match their checksum"
                assert read_stream(path, Kind.END, altered, check=False, columns=[0]).num_rows == 3 * len(some)
    for short in (1, 3, 9):
        path.write_bytes(data[: len(data) - short])
        for check in (True, False):
            problem = _text_of(read_stream, path, Kind.END, parts[2:], check=check, error=OSError)
            assert problem == f"the file is {short} bytes too short"


# --- Parquet ---


def _depth(n: int, first: int = 1, con_ids: int = 3) -> Batch:
    rows = [
        (Kind.DEPTH, {"ts_recv": i, "con_id": 7 * (i % con_ids), "req_id": 100 + i % con_ids, "price": i / 4})
        for i in range(first, first + n)
    ]
    return Batch.of(rows, first)


def test_req_ids_that_follow_from_con_ids():
    """From 1,000 rows on, for up to 1,000 con_ids, each with one req_id."""

    def pairs(con_ids: list[int], req_ids: list[int]) -> list:
        n = len(con_ids)
        return parquet_files._pairs(
            pa.RecordBatch.from_arrays(
                [pa.nulls(n), pa.nulls(n), pa.array(con_ids, pa.int64()), pa.array(req_ids, pa.int32())],
                names=["seq", "ts_recv", "con_id", "req_id"],
            )
        )

    assert pairs([5, 4] * 500, [8, 9] * 500) == [(4, 9), (5, 8)]
    assert pairs([5] * 999, [8] * 999) == []
    assert pairs([5] * 1001, [8] * 1001) == [(5, 8)]
    assert pairs([5] * 1000, [8] * 999 + [9]) == pairs([5] * 1000, [7] + [8] * 999) == []
    whole = list(range(1001))
    assert pairs(whole[:1000], whole[:1000]) == [(i, i) for i in range(1000)]
    assert pairs(whole, whole) == []


@pytest.fixture(scope="module")
def archived(tmp_path_factory) -> tuple[Path, list[Batch], list[Part], Part]:
    """A file of three row groups, the second without req_ids: its path, batches, parts and footer."""
    folder = tmp_path_factory.mktemp("parquet")
    bodies = ParquetBodies(folder, Disk())
    batches = [_depth(3), _depth(1200, 4), _depth(2, 1204)]
    batches[0] = Batch({**batches[0].tables, **batch(2, 1, kinds=(Kind.END,)).tables})
    for one in batches:
        bodies.add(one)
    parts, tails = bodies.finish()
    bodies.close()
    assert [[part.kind for part in commit] for commit in parts] == [[*batches[0].tables], [Kind.DEPTH], [Kind.DEPTH]]
    assert sorted(tail.kind for tail in tails) == [Kind.DEPTH, Kind.END]
    of_depth = [part for commit in parts for part in commit if part.kind == Kind.DEPTH]
    return folder / "depth.parquet", batches, of_depth, next(tail for tail in tails if tail.kind == Kind.DEPTH)


def test_parts_cover_a_parquet_file(archived):
    """Row groups from byte 0 to the footer, the footer to the end, each with its rows and checksum; req_ids apart."""
    path, _, parts, tail = archived
    data, at = path.read_bytes(), 0
    for part in (*parts, tail):
        assert (part.offset, part.checksum) == (at, checksum(data[at : part.end]))
        at = part.end
    assert at == len(data)
    assert data[tail.end - 4 :] == b"PAR1"
    assert int.from_bytes(data[-8:-4], "little") == tail.length - 8
    assert [part.rows for part in (*parts, tail)] == [3, 1200, 2, 1205]
    pairs = [(0, 100), (7, 101), (14, 102)]
    assert [part.req_ids for part in (*parts, tail)] == [[], pairs, [], []]
    stored = pq.read_table(path)
    assert stored["req_id"].null_count == 1200
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(0).column(i).compression for i in (0, 9)] == ["ZSTD", "ZSTD"]
    assert not metadata.row_group(0).column(9).is_stats_set
    assert metadata.row_group(1).column(0).encodings == ("DELTA_BINARY_PACKED",) or (
        "DELTA_BINARY_PACKED" in metadata.row_group(1).column(0).encodings
    )
    assert not metadata.row_group(1).column(0).has_dictionary_page
    assert metadata.row_group(1).column(9).has_dictionary_page


@pytest.mark.parametrize("check", [True, False])
def test_row_groups_come_back(archived, check):
    """Any row groups, in order, whole or some columns, are the rows written; req_ids come from the journal."""
    path, batches, parts, tail = archived
    groups = Groups(path, Kind.DEPTH, tail, check=check)
    tables = [one.tables[Kind.DEPTH] for one in batches]
    for some in ([0], [1], [2], [0, 1], [1, 2], [0, 1, 2]):
        whole = pa.Table.from_batches([tables[i] for i in some]).combine_chunks().to_batches()[0]
        for columns in (None, [0, 1], [0, 3], [2, 3], [2], [3], [0, 9]):
            got = groups.read([parts[i] for i in some], check=check, columns=columns)
            expected = whole if columns is None else whole.select(columns)
            assert got.equals(expected), (some, columns)
            assert got.schema.equals(expected.schema, check_metadata=True)


def test_wrong_row_groups_are_refused(archived, tmp_path):
    """Bytes, rows, places and pairs that differ from the journal: the sentence for each."""
    path, _, parts, tail = archived
    groups = Groups(path, Kind.DEPTH, tail, check=True)
    change = msgspec.structs.replace
    wrong = change(parts[1], checksum="0" * 32)
    assert _text_of(groups.read, [parts[0], wrong], check=True) == "the bytes do not match their checksum"
    assert groups.read([parts[0], wrong], check=False).num_rows == 1203
    for rows in (1199, 1201):
        problem = _text_of(groups.read, [change(parts[1], rows=rows)], check=True)
        assert problem == f"1200 rows, the journal says {rows}"
    problem = _text_of(groups.read, [change(parts[1], offset=5)], check=False)
    assert problem == "not a Parquet file of depth: 5"
    for i in range(3):
        left = [*parts[1].req_ids[:i], *parts[1].req_ids[i + 1 :]]
        problem = _text_of(groups.read, [change(parts[1], req_ids=left)], check=True)
        assert problem == "a con_id without its req_id"
        assert groups.read([change(parts[1], req_ids=left)], check=True, columns=[0, 2]).num_rows == 1200
    problem = _text_of(groups.read, [change(parts[1], req_ids=[])], check=True)
    assert problem == "Casting field 'req_id' with null values to non-nullable"
    problem = _text_of(Groups, path, Kind.END, tail, check=True)
    assert problem == f"columns {SCHEMAS[Kind.DEPTH].names} are not those of kind end"
    assert _text_of(Groups, path, Kind.DEPTH, None, check=False) == "the manifest has no footer for this kind"
    problem = _text_of(Groups, path, Kind.DEPTH, change(tail, checksum="0" * 32), check=True)
    assert problem == "the footer does not match its checksum"
    assert (
        Groups(path, Kind.DEPTH, change(tail, checksum="0" * 32), check=False).read(parts, check=True).num_rows == 1205
    )
    (tmp_path / "x").write_bytes(bytes(20))
    problem = _text_of(Groups, tmp_path / "x", Kind.DEPTH, tail, check=False)
    assert problem.startswith("not a Parquet file of depth: Parquet magic bytes not found")


def test_parquet_pages_and_texts_are_checked(archived, tmp_path):
    """Without the journal's checksums an altered page fails its own; a text that is not UTF-8 is refused."""
    path, _, parts, tail = archived
    data, page = bytearray(path.read_bytes()), pq.read_metadata(path).row_group(0).column(9)
    data[page.dictionary_page_offset + page.total_compressed_size - 1] ^= 1
    (tmp_path / "altered").write_bytes(data)
    groups = Groups(tmp_path / "altered", Kind.DEPTH, tail, check=False)
    assert "CRC checksum verification failed" in _text_of(groups.read, parts[:1], check=False, error=OSError)
    rows = batch(1, 1, kinds=(Kind.TRADE,)).tables[Kind.TRADE]
    place, begin_end = rows.schema.get_field_index("exchange"), pa.array([0, 1], pa.int32()).buffers()[1]
    texts = pa.Array.from_buffers(pa.string(), 1, [None, begin_end, pa.py_buffer(b"\xff")])
    bodies = ParquetBodies(tmp_path, Disk())
    bodies.add(Batch({Kind.TRADE: rows.set_column(place, rows.schema.field(place), texts)}))
    ((part,),), (tail,) = bodies.finish()
    groups = Groups(tmp_path / "trade.parquet", Kind.TRADE, tail, check=True)
    problem = _text_of(groups.read, [part], check=True)
    assert problem.startswith("not a Parquet file of trade: ")
    assert "nvalid UTF" in problem


def test_a_footer_must_fit_the_journal(archived, tmp_path):
    """Its place, its rows, its checksum, its columns, its row groups: the sentence for each that differs."""
    path, _, parts, tail = archived
    change = msgspec.structs.replace
    assert check_tail(path, Kind.DEPTH, tail, parts) == ""
    assert check_tail(path, Kind.DEPTH, None, parts) == "the manifest has no footer for this kind"
    end = tail.offset
    for offset, rows in ((end + 1, 1205), (end - 1, 1205), (end, 1204), (end, 1206), (end + 1, 1)):
        assert check_tail(path, Kind.DEPTH, change(tail, offset=offset, rows=rows), parts) == (
            f"the footer begins at {offset} for {rows} rows, the journal says {end} and 1205 rows"
        )
    for digits in ("0" * 32, "f" * 32):
        problem = check_tail(path, Kind.DEPTH, change(tail, checksum=digits), parts)
        assert problem == "the footer does not match its checksum"
    assert check_tail(path, Kind.END, tail, parts) == (
        f"the columns {SCHEMAS[Kind.DEPTH].names} are not those of kind end"
    )
    shifted = [parts[0], change(parts[1], offset=parts[1].offset + 1), parts[2]]
    assert check_tail(path, Kind.DEPTH, tail, shifted) == "the footer's row groups differ from the journal's"
    short = [change(parts[1], offset=0, rows=1203), parts[2]]
    assert check_tail(path, Kind.DEPTH, tail, short) == "the footer's row groups differ from the journal's"
    data = bytes(path.read_bytes()[: tail.offset]) + bytes(tail.length)
    (tmp_path / "x").write_bytes(data)
    zeros = change(tail, checksum=checksum(bytes(tail.length)))
    assert check_tail(tmp_path / "x", Kind.DEPTH, zeros, parts).startswith("the footer cannot be read: Parquet magic")


# --- work ahead ---


def test_work_ahead_is_bounded():
    """One thread per core, at most four; work begins a fixed number of items before its result is taken."""
    assert [workers(cores) for cores in (None, 1, 2, 3, 4, 5, 64)] == [1, 1, 2, 3, 4, 4, 4]
    assert STEPS_AHEAD >= WORKERS, "no thread waits while a result is taken"
    begun = []
    results = prefetch(str, (begun.append(i) or i for i in range(100)))
    for i in range(5):
        assert next(results) == str(i)
        assert len(begun) == STEPS_AHEAD + 1 + i
    assert list(results) == [str(i) for i in range(5, 100)]


def test_work_that_is_not_needed_is_cancelled(monkeypatch):
    """Closed early, only what threads have begun is finished; the items that waited are never begun."""
    begun, go_on = [], threading.Event()

    class Pool(ThreadPoolExecutor):
        def __exit__(self, *error: object) -> bool | None:
            go_on.set()
            return super().__exit__(*error)

    def work(i: int) -> int:
        begun.append(i)
        return i if i == 0 or go_on.wait(60) else -1

    monkeypatch.setattr("harvester.eventlog.storage.prefetch.ThreadPoolExecutor", Pool)
    results = prefetch(work, range(100))
    assert next(results) == 0
    results.close()
    assert len(begun) <= 1 + WORKERS
