from __future__ import annotations

import json
import math
import os
import subprocess
from functools import partial
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trading_log import DATE, record
from typer.testing import CliRunner

from cli.app import app
from harvester.artefacts import json_schemas
from harvester.artefacts.episode_files import compare_day, episode_files, write_day
from harvester.artefacts.json_files import json_file, times
from harvester.artefacts.table_files import csv_file
from harvester.endofday.eod import EodOptions, eod, episode_differences
from harvester.errors import BadSetting, CannotRun, LogWriteFailed
from harvester.files import Disk, must_take_file, put, put_all
from harvester.home import Home
from harvester.rebuild.project import bucket_artefact, project
from tests.processes import python

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    """A recorded, projected and folded day."""
    home = Home(tmp_path_factory.mktemp("home")).prepare()
    record(home)
    made, _ = project(home.on(DATE))
    eod(home.on(DATE), EodOptions(parquet=True))
    return home, made


def valid(name: str, value) -> None:
    jsonschema.Draft202012Validator(json_schemas.find(name)).validate(value)


def loaded(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", json_schemas.SCHEMAS)
def test_schema_is_a_schema(name):
    """Every schema is valid JSON Schema of its draft, and closed at the top."""
    jsonschema.Draft202012Validator.check_schema(json_schemas.find(name))
    assert json_schemas.find(name)["additionalProperties"] is False


def test_unknown_schema():
    """An unknown name is an error that lists the valid names."""
    with pytest.raises(BadSetting, match="unknown artefact 'x'; use one of episode, "):
        json_schemas.find("x")


def test_every_written_file_validates(day):
    """Each JSON file of a projected and folded day follows its schema, with keys in the schema's order."""
    home, made = day
    found = {
        "episode": sorted(home.on(DATE).episodes.rglob("*.json")),
        "fills": [home.exports() / f"fills_{DATE}.json"],
        "health": [home.exports() / f"health_{DATE}.json"],
        "l2_candles": sorted(home.exports().glob("l2_candles_*.json")),
        "l2_strategy_signals": sorted(home.exports().glob("l2_strategy_signals_*.json")),
        "trades_summary": [home.journal / f"trades_summary_{DATE}.json"],
        "journal_fills": [home.journal / f"fills_{DATE}.json"],
        "memory": [home.memory_latest, *sorted(home.memory_versions.glob("*.json"))],
        "closed": [home.on(DATE).dataset / "closed.json"],
    }
    assert len(found["episode"]) == 8
    assert [p.name for p in found["l2_candles"]] == [
        "l2_candles_AAA_20250717_140000.json",
        "l2_candles_BRK%20B_20250717_140000.json",
    ]
    assert len(found["l2_strategy_signals"]) == 2
    assert {p.suffix for p in home.root.rglob("*.json")} == {".json"}
    for name, paths in found.items():
        for path in paths:
            value = loaded(path)
            valid(name, value)
            assert list(value) == list(json_schemas.find(name)["properties"]), path
    valid("buckets", bucket_artefact(made, "AAA"))
    everything = {p for paths in found.values() for p in paths}
    logs = {p for p in home.root.rglob("*.json") if home.events in p.parents}
    assert set(home.root.rglob("*.json")) - logs == everything


def test_both_toggles_validate(day):
    """With epoch milliseconds and series lines the files still follow their schemas, and name the same instants."""
    _, made = day
    plain, epoch = made.files(epoch_ms=False), made.files(epoch_ms=True, series_jsonl=True)
    for name, data in epoch.items():
        if name.endswith(".jsonl"):
            for line in data.splitlines():
                valid("episode_series", json.loads(line))
        else:
            valid("episode", json.loads(data))
    first = next(iter(plain))
    assert json.loads(plain[first])["decision"]["ts"].startswith("2025-07-17T14:")
    assert json.loads(epoch[first])["decision"]["ts"] == json.loads(made.documents[0])["decision"]["ts"] // 1_000_000
    assert len(epoch) == 2 * len(plain)


def test_journal_csv_equals_json(day):
    """The CSV journal holds the same rows as the JSON one, numbers in the same digits."""
    home, _ = day
    rows = loaded(home.journal / f"trades_summary_{DATE}.json")["rows"]
    lines = (home.journal / f"trades_summary_{DATE}.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].split(",") == list(rows[0])
    assert [line.split(",")[list(rows[0]).index("pnl_usd")] for line in lines[1:]] == [repr(r["pnl_usd"]) for r in rows]


def test_csv_cells_do_not_run():
    """A text that a spreadsheet would take for a formula is quoted, absent values are empty."""
    assert csv_file([{"a": "=1+1", "b": None, "c": -0.5}], ["a", "b", "c"]) == b"a,b,c\r\n'=1+1,,-0.5\r\n"


FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.one_of(FLOATS, st.integers(-(2**60), 2**60), st.text())))
def test_numbers_round_trip(value):
    """Every finite number reads back exactly, every other is null, keys keep their order, text is UTF-8."""
    back = json.loads(json_file(value).decode("utf-8"))
    assert list(back) == list(value)
    for key, number in value.items():
        unknown = isinstance(number, float) and not math.isfinite(number)
        assert back[key] is None if unknown else back[key] == number


def test_times():
    """Times are ISO-8601 with trailing zeros trimmed and Z, or whole milliseconds; other numbers stay."""
    value = {"ts": 1_752_760_800_120_000_000, "rows": [{"ts": 1_752_760_800_000_000_000, "seq": 7}, {"ts": None}]}
    assert times(value) == {
        "ts": "2025-07-17T14:00:00.12Z",
        "rows": [{"ts": "2025-07-17T14:00:00Z", "seq": 7}, {"ts": None}],
    }
    assert times(value, epoch_ms=True)["ts"] == 1_752_760_800_120
    for ns, milliseconds in ((1_999_999, 1), (1_000_000, 1), (999_999, 0), (-1, -1)):
        assert times({"ts": ns}, epoch_ms=True) == {"ts": milliseconds}, "cut, not rounded"


def test_put_is_atomic_and_idempotent(tmp_path):
    """Equal bytes are left alone, a failing disk leaves the old file whole, and the error names the file."""

    class Full(Disk):
        def replace(self, source, target):
            raise OSError(28, "No space left on device")

    path = tmp_path / "a" / "b" / "x.json"
    assert put(path, b"one")
    assert not put(path, b"one")

    class ReadOnly(Disk):
        def write_new(self, path, data):
            raise OSError(30, "Read-only file system")

    with pytest.raises(CannotRun, match=r"x\.json: Read-only file system; choose another folder$"):
        put(path, b"two", ReadOnly())
    with pytest.raises(LogWriteFailed, match=r"x\.json: No space left on device; free space or choose another") as full:
        put(path, b"two", Full())
    assert full.value.exit_code == 10
    assert path.read_bytes() == b"one"
    assert [file.name for file in path.parent.iterdir()] == ["x.json"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes and devices of POSIX")
def test_only_plain_files_are_replaced(day, tmp_path):
    """A target that is a folder, pipe or device, or is below a file, is a one-line error and is not changed."""
    pipe, file, folder = tmp_path / "pipe", tmp_path / "file", tmp_path / "folder"
    os.mkfifo(pipe)
    file.write_bytes(b"mine")
    folder.mkdir()
    with pytest.raises(CannotRun, match="it is a pipe; name a plain file"):
        put_all([(file, b"mine"), (pipe, b"x")])
    home, date = ["--home", str(day[0].root)], ["--date", DATE.isoformat()]
    buckets, project, gateway = (
        ["buckets", *home, *date, "--symbol", "AAA", "--out"],
        ["project", *home, *date, "--out"],
        ["gateway", "--market", "model", "--home", str(tmp_path), "--report"],
    )
    for words, place, said in [
        (buckets, pipe, "it is a pipe"),
        (buckets, folder, "it is a folder"),
        (buckets, file / "x.json", f"cannot write below {file}: it is a file"),
        (project, pipe, f"cannot write below {pipe}: it is a pipe"),
        (project, file, f"cannot write below {file}: it is a file; name a folder"),
        (project, file / "x", f"cannot write below {file}: it is a file"),
        (gateway, pipe, "it is a pipe"),
    ]:
        done = CliRunner().invoke(app, [*words, str(place)])
        assert isinstance(done.exception, CannotRun), (words, done.output, done.exception)
        assert said in str(done.exception)
    assert pipe.is_fifo()
    assert (file.read_bytes(), list(folder.iterdir())) == (b"mine", [])
    with pytest.raises(CannotRun, match="it is a device"):  # asked only: should it fail as root, nothing is lost
        must_take_file(Path(os.devnull))
    (folder / f"health_{DATE}.json").mkdir()
    done = CliRunner().invoke(app, [*project, str(folder)])
    assert f"health_{DATE}.json: it is a folder; name a plain file" in str(done.exception)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize("words", [["log", "show"], ["verify"], ["buckets", "--symbol", "AAA", "--json"]])
def test_a_full_standard_output_is_one_line(day, words):
    """Output to a full disk ends the command with 10 and one line; a closed pipe is not a failure."""
    command = [*python(), "-m", "cli.app", *words, "--date", DATE.isoformat(), "--home", str(day[0].root)]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=PROJECT)
    assert done.returncode == LogWriteFailed.exit_code
    assert done.stderr == "hv: disk full or failing: No space left on device; free space, or write elsewhere\n"


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["book", "--help"], ["log"], ["log", "show"], ["verify"], ["book", "--symbol", "AAA"]],
    ids=" ".join,
)
def test_a_reader_that_goes_away_is_no_failure(day, words):
    """A command whose pipe is closed (`| head -1`) ends with 0 and prints nothing, wherever the error occurs."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as nobody:
        command = [*python(), "-m", "cli.app", *words]
        environment = os.environ | {"HV_HOME": str(day[0].root)}
        run = partial(subprocess.run, stderr=subprocess.PIPE, text=True, check=False, cwd=PROJECT)
        done = run(command, stdout=nobody, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr in ("", f"hv: {DATE}, the newest recorded date\n")


def test_many_files_are_synced_before_the_first_is_renamed(tmp_path):
    """`put_all` syncs every file before the first rename, syncs each folder, and does not rewrite equal bytes."""
    told: list[str] = []

    class Telling(Disk):
        def fsync(self, file):
            super().fsync(file)
            told.append("synced")

        def replace(self, source, target):
            super().replace(source, target)
            told.append("renamed")

        def sync_folder(self, path):
            super().sync_folder(path)
            told.append(f"folder {path.name}")

    files = {tmp_path / name: name.encode() for name in ("x", "a/y", "a/z", "b/z")}
    put(tmp_path / "x", b"x")
    put(tmp_path / "a" / "y", b"before")
    put(tmp_path / "b" / "w", b"")
    made = [(path, data if path.name == "y" else lambda data=data: data) for path, data in files.items()]
    assert put_all(made, Telling()) == 3
    told = [one for one in told if one in ("synced", "renamed", "folder a", "folder b")]
    assert told == ["synced"] * 3 + ["renamed"] * 3 + ["folder a", "folder b"]
    assert {path: path.read_bytes() for path in files} == files
    assert len(list(tmp_path.rglob("*"))) == len(files) + 3
    assert put_all(files.items(), Telling()) == 0


def test_a_disk_that_refuses_one_of_many_renames_none(tmp_path):
    """When one file cannot be written, all old files stay, no temporary file is left, and the error names it."""

    class Full(Disk):
        def write(self, file, data):
            if data == b"new 7":
                raise OSError(28, "No space left on device")
            super().write(file, data)

    for n in range(20):
        put(tmp_path / f"{n}.json", b"old")
    with pytest.raises(LogWriteFailed, match=r"7\.json: No space left"):
        put_all([(tmp_path / f"{n}.json", f"new {n}".encode()) for n in range(20)], Full())
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"] * 20


TREES = st.recursive(
    st.one_of(FLOATS, st.integers(-(2**63), 2**63), st.text(), st.none(), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["ts", "tss", 'x"ts', ' "ts": 1', "a ts", "seq"]), inner, max_size=4),
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["ts", 'x "ts', "buckets"]), TREES), st.booleans())
def test_times_of_an_episode_are_found_in_its_text(body, epoch_ms):
    """Every integer under `ts`, and nothing else, is written as a time, as if the document had been parsed."""
    text = msgspec.json.encode({"symbol": '"ts": 7', "trade_id": " T", "x": _plain(body)}).decode()
    expected = json_file(times(msgspec.json.decode(text), epoch_ms=epoch_ms))
    assert next(iter(episode_files(text, epoch_ms=epoch_ms).values())) == expected


def _plain(value):
    """The same for every value of `ts`: a number, a text, null."""
    if isinstance(value, dict):
        return {k: _time(v) if k == "ts" else _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _time(value):
    if isinstance(value, (dict, list, bool)):
        return None
    return value % (2**62) if isinstance(value, int) else value


def test_symbols_cannot_leave_the_folder(day):
    """The episode file of a symbol with path characters is below the date's folder, with a unique name."""
    _, made = day
    body = json.loads(made.documents[0])
    names = {
        next(iter(episode_files(json.dumps(body | {"symbol": s})))) for s in ("../x", "..%2Fx", "CON", "BRK B", "é")
    }
    assert len(names) == 5
    assert all(name.count("/") == 1 and ".." not in name.split("/")[0].replace("%2E", "") for name in names)


@pytest.mark.parametrize("epoch_ms", [False, True])
@pytest.mark.parametrize("series_jsonl", [False, True])
def test_files_under_other_toggles_are_no_difference(day, tmp_path, epoch_ms, series_jsonl):
    """`hv eod` accepts episode files of any toggle setting, and reports an altered one."""
    _, made = day
    home = Home(tmp_path)
    folder = home.on(made.trading_date).episodes
    files = made.files(epoch_ms=epoch_ms, series_jsonl=series_jsonl)
    write_day(folder, files)
    assert [d for d in episode_differences(home.on(made.trading_date), made) if d.what != "missing"] == []
    altered = folder / max(files)
    altered.write_bytes(altered.read_bytes().replace(b"2025", b"2026").replace(b"17527", b"17528"))
    differences = episode_differences(home.on(made.trading_date), made)
    assert [d.path for d in differences if d.what == "different"] == [altered]


def test_differences_are_told_apart(day, tmp_path):
    """Altered, additional, linked and missing files are each found and named."""
    _, made = day
    files = made.files()
    for name, data in files.items():
        put(tmp_path / name, data)
    assert compare_day(tmp_path, files) == []
    first, second, third, *_ = files
    (tmp_path / first).write_bytes(b"{}")
    (tmp_path / second).unlink()
    (tmp_path / "AAA" / "more.json").write_bytes(b"")
    (tmp_path / "link.json").symlink_to(tmp_path / first)
    outside = (tmp_path / third).rename(tmp_path.with_suffix(".outside"))
    (tmp_path / third).symlink_to(outside)  # the right bytes, but not a file of this folder
    found = {d.path.relative_to(tmp_path).as_posix(): d.what for d in compare_day(tmp_path, files)}
    assert found == {
        first: "different",
        "AAA/more.json": "unexpected",
        "link.json": "unexpected",
        second: "missing",
        third: "unexpected",
    }
