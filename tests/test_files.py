"""The file layer: every step of a write, in order, through a disk that notes what is asked of it."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest

from harvester import files
from harvester.errors import CannotRun, LogWriteFailed
from harvester.files import Disk, must_take_file, must_take_folder, naming, put, put_all, regular_file_size


class Noted(Disk):
    """A disk that notes its calls, and that only takes unbuffered files."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls, self.sizes = root, [], []

    def _note(self, what: str, path) -> None:
        self.calls.append((what, Path(path).relative_to(self.root).as_posix()))

    def _raw(self, what: str, file) -> None:
        assert isinstance(file, io.FileIO)
        self._note(what, file.name)

    def make_folder(self, path):
        self._note("make", path)
        super().make_folder(path)

    def write(self, file, data):
        self._raw("write", file)
        self.sizes.append(len(data))
        super().write(file, data)

    def fsync(self, file):
        self._raw("sync", file)
        super().fsync(file)

    def cut(self, file, length):
        self._raw("cut", file)
        super().cut(file, length)

    def sync_folder(self, path):
        if path.is_relative_to(self.root):
            self._note("sync", path)
        super().sync_folder(path)

    def replace(self, source, target):
        self._note("replace", target)
        super().replace(source, target)

    def remove(self, path):
        self._note("remove", path)
        super().remove(path)


@pytest.fixture
def disk(tmp_path) -> Noted:
    return Noted(tmp_path)


def test_each_folder_is_durable_before_the_next(disk, tmp_path):
    """Missing folders are created from the top, each synced into its parent; the lowest existing name is synced too."""
    (tmp_path / "a").mkdir()
    disk.make_folders(tmp_path / "a" / "b" / "c")
    assert disk.calls == [("sync", "."), ("make", "a/b"), ("sync", "a"), ("make", "a/b/c"), ("sync", "a/b")]
    disk.calls.clear()
    disk.make_folders(tmp_path / "a" / "b" / "c")
    assert disk.calls == [("sync", "a/b")]


def test_names_are_synced_up_to_the_root(disk, tmp_path):
    """Every folder from the path's own up to the root is synced, lowest first."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    disk.sync_names(tmp_path / "a" / "b" / "c", tmp_path)
    assert disk.calls == [("sync", "a/b"), ("sync", "a"), ("sync", ".")]


def test_files_are_cut_copied_and_synced_unbuffered(disk, tmp_path):
    """A cut keeps the bytes before it; a copy begins at the given offset; pieces of a copy have 8 MiB."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"0123456789")
    disk.truncate(old, 7)
    disk.copy(old, new, 3)
    disk.sync_file(new)
    assert (old.read_bytes(), new.read_bytes()) == (b"0123456", b"3456")
    assert disk.calls == [("cut", "old"), ("sync", "old"), ("write", "new"), ("sync", "new"), ("sync", "new")]
    with disk.open_append(new) as file:
        assert isinstance(file, io.FileIO)
    with pytest.raises(FileExistsError):
        disk.create(new)
    os.truncate(old, 8 * 1024 * 1024 + 1)
    disk.sizes.clear()
    disk.copy(old, tmp_path / "large")
    assert disk.sizes == [8 * 1024 * 1024, 1]
    assert (tmp_path / "large").read_bytes() == old.read_bytes()


def test_a_file_that_takes_bytes_in_parts_gets_all_of_them():
    """A raw file may take fewer bytes than offered, or none for now."""
    taken: list[bytes] = []

    class Slow(io.RawIOBase):
        def write(self, data):
            taken.append(bytes(data[: len(taken) % 3]))
            return len(taken[-1]) or None

    Disk().write(Slow(), b"0123456789")
    assert b"".join(taken) == b"0123456789"


@pytest.mark.parametrize(("windows", "tries"), [(False, 1), (True, 50)])
def test_replace_waits_for_readers_on_windows_only(tmp_path, monkeypatch, windows, tries):
    """Elsewhere a refusal is final. On Windows it is retried fifty times, and the last error is raised."""
    refused: list[int] = []

    def refuse(self, target):
        refused.append(1)
        raise PermissionError(errno.EACCES, "in use")

    monkeypatch.setattr(files, "_WINDOWS", windows)
    monkeypatch.setattr(files, "_REPLACE_PAUSE_S", 0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(PermissionError, match="in use"):
            Disk().replace(tmp_path / "a", tmp_path / "b")
    assert len(refused) == tries
    (tmp_path / "a").write_bytes(b"1")
    Disk().replace(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"1"


def test_a_tree_is_removed_and_links_are_not_followed(tmp_path):
    """What a link points to stays; an absent tree is no error."""
    tree, kept = tmp_path / "tree", tmp_path / "kept"
    (tree / "deep").mkdir(parents=True)
    kept.mkdir()
    for path in (tree / "deep" / "file", kept / "file"):
        path.write_bytes(b"1")
    (tree / "link").symlink_to(kept)
    Disk().remove_tree(tree)
    Disk().remove_tree(tree)
    assert not tree.exists()
    assert (kept / "file").exists()


def test_files_are_all_synced_before_the_first_rename(disk, tmp_path):
    """Each file is written beside its name and synced; then all are renamed; then each folder is synced once."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "same").write_bytes(b"1")
    wanted = [(tmp_path / "a" / "same", b"1"), (tmp_path / "a" / "one", b"1"), (tmp_path / "b" / "two", lambda: b"2")]
    assert put_all(wanted, disk) == 2
    renames = [call for call in disk.calls if call[0] == "replace"]
    assert renames == [("replace", "a/one"), ("replace", "b/two")]
    at = disk.calls.index(renames[0])
    assert {("sync", "a/.one.new"), ("sync", "b/.two.new")} <= set(disk.calls[:at])
    assert disk.calls[at:] == [*renames, ("sync", "a"), ("sync", "b")]
    assert [path.read_bytes() for path, _ in wanted] == [b"1", b"1", b"2"]
    assert (put(tmp_path / "a" / "one", b"1"), put(tmp_path / "a" / "one", b"3")) == (False, True)
    assert sorted(path.name for path in tmp_path.rglob(".*")) == []


def test_a_link_is_replaced_by_a_file(tmp_path):
    """The link itself is replaced, even by equal bytes; the file it points to stays."""
    (tmp_path / "target").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert put(tmp_path / "link", b"1")
    assert not (tmp_path / "link").is_symlink()
    put(tmp_path / "link", b"2")
    assert (tmp_path / "target").read_bytes() == b"1"


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    """When one of several files fails, no file has changed and no temporary file is left."""

    class Full(Disk):
        def write(self, file, data):
            if data == b"bad":
                raise OSError(errno.ENOSPC, "No space left on device")
            super().write(file, data)

    bad = tmp_path / "bad"
    with pytest.raises(LogWriteFailed) as raised:
        put_all([(tmp_path / "good", b"1"), (bad, b"bad")], Full())
    assert str(raised.value) == (f"cannot write {bad}: No space left on device; free space or choose another folder")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="No space"):
        Full().write_cache(bad, b"bad")
    assert list(tmp_path.iterdir()) == []
    Full().write_cache(bad, b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_an_error_names_the_file(tmp_path):
    """A full or failing disk is LogWriteFailed, anything else CannotRun, with the system's words or the error's."""
    with pytest.raises(CannotRun) as raised, naming(tmp_path):
        raise OSError(errno.EACCES, "Permission denied")
    assert str(raised.value) == f"cannot write {tmp_path}: Permission denied; choose another folder"
    with pytest.raises(CannotRun, match=": odd; choose another folder"), naming(tmp_path):
        raise OSError("odd")


def test_only_plain_files_are_written_and_read(tmp_path):
    """A folder, a pipe or a link in the way is named; absent paths pass."""
    plain, folder, pipe, link = (tmp_path / name for name in ("plain", "folder", "pipe", "link"))
    plain.write_bytes(b"123")
    folder.mkdir()
    os.mkfifo(pipe)
    link.symlink_to(plain)
    for path in (plain, link, tmp_path / "absent", plain / "below"):
        must_take_file(path)
    for path, what in ((folder, "a folder"), (pipe, "a pipe"), (Path(os.devnull), "a device or socket")):
        with pytest.raises(CannotRun) as raised:
            must_take_file(path)
        assert str(raised.value) == f"cannot write {path}: it is {what}; name a plain file"
    must_take_folder(folder)
    must_take_folder(folder / "new" / "newer")
    link.unlink()
    link.symlink_to(tmp_path / "absent")
    for path, what in ((plain, "a file"), (link, "a link")):
        with pytest.raises(CannotRun) as raised:
            must_take_folder(path / "new")
        assert str(raised.value) == f"cannot write below {path}: it is {what}; name a folder"
    assert (regular_file_size(plain), regular_file_size(tmp_path / "absent")) == (3, -1)
    for path in (folder, pipe, link):
        with pytest.raises(OSError, match=f"{path.name} is not a plain file"):
            regular_file_size(path)
