"""The artefact toggles in `hv project` and `hv eod`: what the command says wins over what the run recorded."""

from __future__ import annotations

import json

import pytest
from trading_log import DATE, record, run_params
from typer.testing import CliRunner

from cli.app import app
from harvester.errors import BadSetting
from harvester.home import Home

EPOCH, SERIES = "HARVESTER_EPISODE_EPOCH_MS", "HARVESTER_EPISODE_SERIES_JSONL"


@pytest.fixture
def home(tmp_path):
    """A short day, recorded without toggles."""
    made = Home(tmp_path).prepare()
    record(made, seconds=260)
    return made


def hv(home: Home, command: str, *words: str, **env: str) -> dict:
    line = [command, "--date", str(DATE), "--home", str(home.root), "--json", *words]
    done = CliRunner().invoke(app, line, env={EPOCH: "", SERIES: "", **env}, catch_exceptions=False)
    return json.loads(done.stdout)


def forms(home: Home) -> tuple[set[type], int]:
    """The types of the times in the episode files, and how many of them have a series."""
    files = sorted(home.on(DATE).episodes.rglob("T*.json"))
    assert files
    types = {type(json.loads(path.read_bytes())["decision"]["ts"]) for path in files}
    return types, len(list(home.on(DATE).episodes.rglob("*.series.jsonl"))) / len(files)


def test_the_command_wins_over_the_environment_and_that_over_the_run(home):
    """`hv project` writes as its options say, else the environment, else the run; series not asked for are deleted."""
    hv(home, "project")
    assert forms(home) == ({str}, 0)
    hv(home, "project", **{EPOCH: "true", SERIES: "true"})
    assert forms(home) == ({int}, 1)
    text = (home.exports() / f"fills_{DATE}.json").read_text()
    assert all(type(row["ts"]) is int for row in json.loads(text)["rows"])
    again = hv(home, "project", **{EPOCH: "true", SERIES: "true"})
    assert again["skipped"], "nothing has changed, the toggles included"
    hv(home, "project", "--no-episode-epoch-ms", **{EPOCH: "true", SERIES: "true"})
    assert forms(home) == ({str}, 1)
    last = hv(home, "project")
    assert forms(home) == ({str}, 0)
    assert (last["differences"], len(last["superseded"])) == ([], last["rows"]["episodes"])


def test_a_run_recorded_with_a_toggle_is_overruled(tmp_path):
    """A run's toggle is the default of a later projection, and an option turns it off."""
    home, params = Home(tmp_path).prepare(), run_params()
    record(home, seconds=260, params=type(params).parse(params.text().replace('_ms":false', '_ms":true'), 1))
    hv(home, "project")
    assert forms(home) == ({int}, 0)
    hv(home, "project", "--no-episode-epoch-ms")
    assert forms(home) == ({str}, 0)


def test_series_that_differ_are_kept_and_reported(home):
    """Only series that this projection can write again are deleted; another one is a difference."""
    hv(home, "project", "--episode-series-jsonl")
    changed = min(home.on(DATE).episodes.rglob("*.series.jsonl"))
    changed.write_text("mine")
    last = hv(home, "project")
    assert [d["what"] for d in last["differences"]] == ["unexpected"]
    assert list(home.on(DATE).episodes.rglob("*.series.jsonl")) == [changed]


@pytest.mark.parametrize("toggles", [[], ["--episode-epoch-ms"], ["--episode-epoch-ms", "--episode-series-jsonl"]])
def test_verify_and_eod_accept_what_project_was_told(home, toggles):
    """Files written with other toggles than recorded are equal for `hv verify` and `hv eod`; an altered one is not."""
    hv(home, "project", *toggles)
    found = hv(home, "verify")
    assert (found["files"]["status"], found["exports"]["status"]) == ("equal", "equal")
    assert found["exports"]["early"] == []
    assert hv(home, "eod", "--unfinished")["differences"] == []
    for name in (f"fills_{DATE}.json", f"buckets_{DATE}.parquet"):
        assert (home.exports() / name).is_file()
    path = max(home.on(DATE).episodes.rglob("T*"))  # a series, if there are any
    path.write_bytes(path.read_bytes().replace(b"17527", b"17528").replace(b"2025", b"2026"))
    exported = home.exports() / f"fills_{DATE}.json"
    exported.write_bytes(exported.read_bytes().replace(b"17527", b"17528").replace(b"Z", b"1Z"))
    found = hv(home, "verify")
    assert len(found["files"]["differences"]) == 1
    assert found["exports"]["differences"] == [f"exports/fills_{DATE}.json: different"]


def test_eod_writes_as_it_is_told(home):
    """`hv eod` writes the journal and the episode files with the toggles it is given; without any it leaves them."""
    hv(home, "project")
    journal = home.journal / f"fills_{DATE}.json"
    hv(home, "eod", "--unfinished", **{EPOCH: "true", SERIES: "true"})
    assert forms(home) == ({int}, 1)
    assert {type(row["ts"]) for row in json.loads(journal.read_bytes())["rows"]} == {int}
    report = hv(home, "eod", "--unfinished")
    assert forms(home) == ({int}, 1)
    assert report["differences"] == []
    assert {type(row["ts"]) for row in json.loads(journal.read_bytes())["rows"]} == {str}
    hv(home, "eod", "--unfinished", "--no-episode-series-jsonl")
    assert forms(home) == ({str}, 0)


def test_a_variable_that_is_no_flag(home):
    """A value that is neither true nor false is an error that names the variable."""
    with pytest.raises(BadSetting, match=f"env {EPOCH}: episode_epoch_ms = 'maybe' is invalid"):
        hv(home, "project", **{EPOCH: "maybe"})
