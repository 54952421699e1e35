from __future__ import annotations

from pathlib import Path

import pytest
from log_samples import DATE

import harvester
from harvester.eventlog.storage.format import FORMAT_VERSION
from harvester.eventlog.verify_log import verify_day
from harvester.events.kinds import SCHEMA_VERSION, Kind
from harvester.home import Home

FORMATS = Path(__file__).resolve().parent.parent / "golden" / "formats"

# identity, events and live digests of one sample log per format version; written once and never changed
KNOWN = {
    "v1": ("19674d9c4c865c29e12cc599e14ba9ad194a90bf13b7f2eb7d95c05ee76459df", 90, 2),
    "v2": ("e2b46e9b70cf34f0d22f3bdfd4be1181da643c40ce6a33c324ba09fc20d9b5f0", 2615, 3),
}
STATUSES = ["ended", "ended", "recovered", "compacted", "compacted"]
COMPRESSIONS = ["none", "lz4", "none", "zstd", "zstd"]


def test_every_version_has_its_sample():
    """The samples include the current format."""
    assert f"v{FORMAT_VERSION}" in KNOWN
    assert f"v{SCHEMA_VERSION}" in KNOWN
    assert {folder.name for folder in FORMATS.glob("v*")} == set(KNOWN)


@pytest.mark.parametrize("version", KNOWN)
def test_a_kept_log_still_reads_and_verifies(version):
    """A log of each version (plain, lz4, recovered, compacted, archived) verifies and gives the same events as ever."""
    home = Home(FORMATS / version)
    identity, rows, digests = KNOWN[version]
    report = verify_day(home.on(DATE))
    assert report.clean, report.problems
    assert (report.rows, report.identity) == (rows, identity)
    day = harvester.open_day(DATE, home)
    assert [run.status for run in day.runs] == STATUSES[: len(day.runs)]
    assert [run.compression for run in day.runs] == COMPRESSIONS[: len(day.runs)]
    assert day.identity() == identity
    assert sum(map(len, day.batches(rows_max=7))) == rows
    assert all(day.frame(kind).height for kind in Kind)
    assert len(day.live_digests()) == digests
