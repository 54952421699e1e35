from __future__ import annotations

import shutil

import pytest
from log_samples import DATE, START_NS, batch, write_run
from typer.testing import CliRunner

import harvester
from cli.cmd_log import log as hv_log
from harvester.errors import DamagedLog, LockHeld, NoLog
from harvester.eventlog.recover import set_aside_day
from harvester.eventlog.storage.format import JOURNAL, MANIFEST
from harvester.eventlog.verify_log import verify_day
from harvester.eventlog.writer import LogWriter
from harvester.events.kinds import Kind
from harvester.home import Home

FEW = (Kind.TRADE, Kind.CLOCK)


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


def _flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _seqs(home: Home, **options) -> list[int]:
    day = harvester.open_day(DATE, home, **options)
    return [row["seq"] for one in day.batches() for _, row in one.events()]


@pytest.mark.parametrize("name", [MANIFEST, JOURNAL, "trade.arrows"])
@pytest.mark.parametrize("damaged", ["r001", "r002", "r003"])
def test_a_damaged_run_is_set_aside_and_recording_goes_on(home, name, damaged):
    """The error names the next move; after it the next run continues the numbering, and the hole is always reported."""
    for seed in (1, 2, 3):
        write_run(home, (5, 5), seed=seed, kinds=FEW)
    _flip(home.on(DATE).log / damaged / name)
    if name != "trade.arrows":
        with pytest.raises(DamagedLog, match=f"hv log recover --set-aside --date {DATE}"):
            LogWriter.open(home.on(DATE))
    text = CliRunner().invoke(hv_log, ["recover", "--set-aside", "--date", str(DATE), "--home", str(home.root)]).output
    first = {"r001": 1, "r002": 11, "r003": 21}[damaged]
    assert f"{damaged} was quarantined, seq {first}-{first + 9} lost" in text
    assert f"recording of {DATE} can continue" in text
    assert "nothing to recover" not in text
    assert (home.on(DATE).log / "quarantine" / damaged / name).exists()
    with LogWriter.open(home.on(DATE)) as writer:
        assert (writer.run_id, writer.next_seq) == ("r004", 31)
        writer.commit(batch(4, 31, start_ns=max(START_NS, writer.last_ts), kinds=FEW))
    rest = [seq for seq in range(1, 35) if not first <= seq < first + 10]
    with pytest.raises(DamagedLog, match="was quarantined"):
        harvester.open_day(DATE, home)
    assert _seqs(home, salvage=True) == _seqs(home, set_aside=True) == rest
    assert not harvester.open_day(DATE, home, set_aside=True).complete
    report = verify_day(home.on(DATE))
    assert [(p.first_seq, p.last_seq, p.set_aside) for p in report.problems] == [(first, first + 9, True)]
    assert (report.exit_code, report.rows, report.identity) == (1, 24, "")
    assert set_aside_day(home.on(DATE)) == []


def test_a_run_whose_folder_is_gone_is_noted(home):
    """A deleted run is a hole; after set-aside it is noted, and recording continues."""
    for seed in (1, 2, 3):
        write_run(home, (5,), seed=seed, kinds=FEW)
    shutil.rmtree(home.on(DATE).log / "r002")
    with pytest.raises(DamagedLog, match="--set-aside"):
        LogWriter.open(home.on(DATE))
    (note,) = set_aside_day(home.on(DATE))
    assert (note.run, note.first_seq, note.last_seq) == ("", 6, 10)
    with LogWriter.open(home.on(DATE)) as writer:
        assert writer.next_seq == 16


def test_the_only_run_set_aside(home):
    """With its only run set aside, a date still reports the loss, and numbering continues after it."""
    with pytest.raises(NoLog):
        set_aside_day(home.on(DATE))
    write_run(home, (5, 4), kinds=FEW)
    _flip(home.on(DATE).log / "r001" / JOURNAL)
    set_aside_day(home.on(DATE))
    with pytest.raises(DamagedLog, match="seq 1-9 lost"):
        harvester.open_day(DATE, home)
    with LogWriter.open(home.on(DATE)) as writer:
        assert (writer.run_id, writer.next_seq) == ("r002", 10)
        with pytest.raises(LockHeld):
            set_aside_day(home.on(DATE))


def test_ls_and_verify_agree(home):
    """`hv log ls` names the runs that are missing or were set aside, as `hv log verify` does, the last one too."""

    def listed() -> dict[str, str]:
        text = CliRunner().invoke(hv_log, ["ls", "--home", str(home.root)]).output
        return {line.split("\t")[1]: line.split("\t")[2] for line in text.splitlines()[1:]}

    for seed in (1, 2, 3):
        write_run(home, (5,), seed=seed, kinds=FEW)
    _flip(home.on(DATE).log / "r001" / JOURNAL)
    assert listed() == {"r001": "damaged", "r002": "ended", "r003": "ended"}
    set_aside_day(home.on(DATE))
    assert listed() == {"r001": "set aside", "r002": "ended", "r003": "ended"}
    shutil.rmtree(home.on(DATE).log / "r002")
    assert listed() == {"r001": "set aside", "r003": "damaged"}
    assert not verify_day(home.on(DATE)).clean
    set_aside_day(home.on(DATE))
    assert listed() == {"": "set aside", "r001": "set aside", "r003": "ended"}
    _flip(home.on(DATE).log / "r003" / JOURNAL)
    set_aside_day(home.on(DATE))
    assert listed() == {"": "set aside", "r001": "set aside", "r003": "set aside"}
    assert len(verify_day(home.on(DATE)).problems) == 3


def test_altered_notes_are_damage(home):
    """An altered byte of the notes is damage that names the file."""
    write_run(home, (5, 4), kinds=FEW)
    _flip(home.on(DATE).log / "r001" / JOURNAL)
    set_aside_day(home.on(DATE))
    _flip(home.on(DATE).log / "set_aside.jsonl")
    for call in (harvester.open_day, lambda date, home: LogWriter.open(home.on(date))):
        with pytest.raises(DamagedLog, match=r"set_aside\.jsonl"):
            call(DATE, home)
