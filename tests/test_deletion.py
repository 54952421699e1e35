"""Deletion lists: their forms on disk, what they may name, and what is deleted by them."""

from __future__ import annotations

import json
import os

import jsonschema
import msgspec
import pytest
from log_samples import DATE, write_run

from harvester.artefacts import json_schemas
from harvester.errors import DamagedFile, LogWriteFailed, Mismatch
from harvester.eventlog.compact import compact_day
from harvester.eventlog.deletion import Found, carry_out, found_in, list_files, read_list, write_list
from harvester.eventlog.storage.format import DELETION
from harvester.eventlog.storage.sealed_lines import seal
from harvester.eventlog.verify_log import verify_day
from harvester.events.kinds import Kind
from harvester.files import Disk
from harvester.home import Home

OLD_COMPACTION = (
    b'{"run":"r001","content_hash":"abababababababababababababababababababababababababababababababab","files":'
    b'[{"name":"trade.arrows","bytes":5,"blake2b":"b010d4f43d5f29b115756b4eb76384d1"}],"hash":"%b"}\n'
)
OLD_END_OF_DAY = b"""{
  "schema": "harvester.deletion",
  "schema_version": 1,
  "trading_date": "2025-07-17",
  "content_hash": "abababababababababababababababababababababababababababababababab",
  "log_kept": "memory/archive/2025-07-17",
  "files": [
    {
      "path": "temp/events/2025-07-17/r001/trade.arrows",
      "bytes": 5,
      "blake2b": "b010d4f43d5f29b115756b4eb76384d1"
    }
  ],
  "folders": [
    "temp/events/2025-07-17/r001",
    "temp/events/2025-07-17"
  ],
  "done": false
}
"""
OLD_SEAL = b"0d23f6fcc4e74197a121d27ea46ea88d"


@pytest.fixture
def run(tmp_path):
    """The folder of a run with one file that was replaced."""
    folder = tmp_path / "temp" / "events" / "2025-07-17" / "r001"
    folder.mkdir(parents=True)
    (folder / "trade.arrows").write_bytes(b"trade")
    return folder


def listed_in(run, **changes):
    listed = list_files(run, Found([run / "trade.arrows"], []), run.parent.name, "ab" * 32, ".")
    return msgspec.structs.replace(listed, **changes)


def test_the_list_of_an_old_compaction_is_read_and_carried_out(run):
    """A list as compaction wrote it before there was one form names the same files; a wrong seal is damage."""
    path = run / DELETION
    path.write_bytes(OLD_COMPACTION % OLD_SEAL)
    assert read_list(path) == listed_in(run)
    assert carry_out(run, read_list(path), Disk(), [run / "trade.arrows"]) == []
    assert not (run / "trade.arrows").exists()
    path.write_bytes(OLD_COMPACTION % OLD_SEAL.replace(b"a", b"b"))
    with pytest.raises(DamagedFile, match="not a deletion list"):
        read_list(path)


def test_the_list_of_an_old_end_of_day_is_read_and_carried_out(run, tmp_path):
    """A list as `hv eod` wrote it, without a seal, is carried out, folders included."""
    path = tmp_path / DELETION
    path.write_bytes(OLD_END_OF_DAY)
    listed = read_list(path)
    assert (listed.log_kept, listed.done) == ("memory/archive/2025-07-17", False)
    assert carry_out(tmp_path, listed, Disk(), [run.parent]) == []
    assert not run.parent.exists()
    assert tmp_path.joinpath("temp", "events").is_dir()


def test_a_compaction_begun_before_is_finished_by_its_old_list(tmp_path):
    """A compaction that was stopped while it deleted, by the version with the old form, is finished by this one."""

    class Busy(Disk):
        def remove(self, path):
            if path.suffix == ".arrows" and "compacted" not in path.name:
                raise PermissionError(13, "in use")
            super().remove(path)

    home = Home(tmp_path)
    write_run(home, (10, 10), kinds=(Kind.TRADE, Kind.END, Kind.CLOCK))
    (done,) = compact_day(home.on(DATE), Busy())
    assert done.left == ["trade.arrows: in use", "end.arrows: in use"]
    path = home.on(DATE).log / "r001" / DELETION
    now = read_list(path)
    files = [{"name": one.path, "bytes": one.bytes, "blake2b": one.blake2b} for one in now.files]
    path.write_bytes(seal(msgspec.json.encode({"run": "r001", "content_hash": now.content_hash, "files": files})))
    (done,) = compact_day(home.on(DATE))
    assert (done.left, done.bytes_before) == ([], done.bytes_after)
    assert not [one for one in path.parent.iterdir() if one.name in {DELETION, "end.arrows", "trade.arrows"}]
    assert verify_day(home.on(DATE)).clean


def test_an_altered_byte_of_a_list_is_damage(run):
    """A list with an altered byte is refused; an altered space between words may leave the list the same."""
    path = run / DELETION
    listed = listed_in(run)
    write_list(path, listed, Disk())
    good = path.read_bytes()
    for at in range(0, len(good), 2):
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 + at % 3)]) + good[at + 1 :])
        try:
            assert read_list(path) == listed
        except DamagedFile:
            continue
        assert good[at : at + 1].isspace()


def test_a_list_follows_its_schema(run):
    """What is written is what `hv schema deletion` prints, keys in its order."""
    write_list(run / DELETION, listed_in(run), Disk())
    written, schema = json.loads((run / DELETION).read_text()), json_schemas.find("deletion")
    jsonschema.Draft202012Validator(schema).validate(written)
    assert list(written) == list(schema["properties"])


def test_a_list_without_its_seal_is_damage(run):
    """Only lists of the version without seals are read without one."""
    path = run / DELETION
    path.write_bytes(msgspec.json.encode(listed_in(run)))
    with pytest.raises(DamagedFile, match="does not match its hash"):
        read_list(path)


@pytest.mark.parametrize("changes", [{"schema_version": 3}, {"schema": "harvester.other"}])
def test_a_list_of_another_form_is_not_carried_out(run, changes):
    """A sealed list of a later version, or another document under its name, is refused."""
    path = run / DELETION
    path.write_bytes(seal(msgspec.json.encode(listed_in(run, **changes))))
    with pytest.raises(DamagedFile, match="not a deletion list"):
        read_list(path)


def test_a_list_that_was_not_replaced_is_noticed(run):
    """A disk that keeps an earlier list, whole in itself, instead of the new one ends the deletion before it begins."""

    class Forgetful(Disk):
        def replace(self, source, target):
            source.unlink()

    write_list(run / DELETION, listed_in(run, content_hash="cd" * 32), Disk())
    with pytest.raises(Mismatch, match="read-back differs"):
        write_list(run / DELETION, listed_in(run), Forgetful())


@pytest.mark.parametrize(
    "name", ["manifest.json", "trade.arrows/../manifest.json", "../r002/trade.arrows", "/etc/hosts"]
)
def test_a_list_of_a_compaction_names_only_files_it_replaces(run, name):
    """A list that names anything else than the small files of its run is refused before it does harm."""
    (run / "manifest.json").write_bytes(b"trade")
    one = msgspec.structs.replace(listed_in(run).files[0], path=name)
    with pytest.raises(Mismatch):
        carry_out(run, listed_in(run, files=[one]), Disk(), [run / "trade.arrows"])
    assert (run / "manifest.json").exists()


def test_folders_are_listed_below_the_root_only(run, tmp_path):
    """An absent folder is left out and those after it are listed; a folder outside the root is refused."""
    assert found_in(tmp_path, [tmp_path / "absent", run]) == Found([run / "trade.arrows"], [run])
    with pytest.raises(Mismatch, match=r"r001 is outside .*other; only files below it are deleted"):
        found_in(tmp_path / "other", [run])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes and devices of POSIX")
def test_what_took_the_place_of_a_listed_file_stays(run, tmp_path):
    """A link in the place of a listed file ends the deletion, a pipe or a folder stays; none is opened or followed."""
    path, elsewhere = run / "trade.arrows", tmp_path / "trade.arrows"
    listed = listed_in(run)
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(Mismatch, match="through a link"):
        carry_out(run, listed, Disk(), [path])
    for make in (os.mkfifo, os.mkdir):
        path.unlink()
        make(path)
        assert carry_out(run, listed, Disk(), [path]) == ["trade.arrows: trade.arrows is not a plain file"]
    assert elsewhere.read_bytes() == b"trade"


@pytest.mark.parametrize("method", ["remove", "sync_folder"])
def test_a_failing_disk_ends_the_deletion(run, method):
    """A disk that fails to delete, or to make it durable, is an error and not a file that stays."""

    def fails(*_):
        raise OSError(5, "Input/output error")

    disk = Disk()
    setattr(disk, method, fails)
    with pytest.raises(LogWriteFailed, match="Input/output error; what replaces it is whole; run the command again"):
        carry_out(run, listed_in(run), disk, [run / "trade.arrows"])
