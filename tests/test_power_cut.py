"""The simulated power cut itself: which changes may reach the medium and which may not."""

from __future__ import annotations

import os

import pytest
from power_cut import PAGE_BYTES, Killed, PowerCut, Tree, read, write

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the rules are those of POSIX")


def _trees(disk: PowerCut, n: int | None = None) -> list[Tree]:
    return [tree for _, tree in disk.trees(disk.operations if n is None else n)]


def test_what_is_there_is_durable(tmp_path):
    """Files and folders that were there before are on the medium after any cut."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"1")
    disk = PowerCut(tmp_path)
    disk.write_new(tmp_path / "two", b"2")
    for n in disk.cuts():
        for tree in _trees(disk, n):
            assert tree["a/one"] == b"1"


def test_a_synced_file_without_its_name_is_lost(tmp_path):
    """Contents are durable after `fsync`, the name after its folder's sync; before that either may be lost alone."""
    disk = PowerCut(tmp_path)
    with disk.create(tmp_path / "one") as file:
        disk.write(file, b"abcd")
        assert {tree.get("one") for tree in _trees(disk)} == {None, b"", b"ab", b"abcd", b"\0\0\0\0"}
        disk.fsync(file)
    assert {tree.get("one") for tree in _trees(disk)} == {None, b"abcd"}
    disk.sync_folder(tmp_path)
    assert _trees(disk) == [{"one": b"abcd"}]


def test_pages_arrive_in_any_order(tmp_path):
    """A later page can be on the medium while an earlier one is zeros."""
    (tmp_path / "one").write_bytes(b"")
    disk = PowerCut(tmp_path)
    with disk.open_append(tmp_path / "one") as file:
        disk.write(file, b"x" * 2 * PAGE_BYTES)
    found = {tree["one"] for tree in _trees(disk)}
    assert {b"\0" * PAGE_BYTES + b"x" * PAGE_BYTES, b"x" * PAGE_BYTES + b"\0" * PAGE_BYTES} <= found


def test_a_rename_within_a_folder_is_atomic(tmp_path):
    """The target holds the old bytes or the new, the source is there with the old; another name is independent."""
    (tmp_path / "one").write_bytes(b"old")
    (tmp_path / ".one.new").write_bytes(b"new")
    disk = PowerCut(tmp_path)
    disk.replace(tmp_path / ".one.new", tmp_path / "one")
    disk.write_new(tmp_path / "two", b"")
    pairs = {(tree["one"], ".one.new" in tree) for tree in _trees(disk)}
    assert pairs == {(b"old", True), (b"new", False)}
    assert {(tree["one"], "two" in tree) for tree in _trees(disk)} == {(b, t) for b in (b"old", b"new") for t in (0, 1)}


def test_a_rename_between_folders_needs_both(tmp_path):
    """Old name, new name or both, until the new folder is synced; when only the old one is, the file can be lost."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "x").write_bytes(b"x")
    disk = PowerCut(tmp_path)
    disk.replace(tmp_path / "a" / "x", tmp_path / "b" / "x")
    places = [{name for name in ("a/x", "b/x") if name in tree} for tree in _trees(disk)]
    assert set(map(frozenset, places)) == {frozenset(("a/x",)), frozenset(("b/x",)), frozenset(("a/x", "b/x"))}
    disk.sync_folder(tmp_path / "a")
    assert {"b/x" in tree for tree in _trees(disk)} == {True, False}
    disk.sync_folder(tmp_path / "b")
    assert _trees(disk) == [{"a": None, "b": None, "b/x": b"x"}]


def test_a_folder_without_its_name_is_lost(tmp_path):
    """Everything synced below a new folder is lost while the folder's own name is not synced."""
    disk = PowerCut(tmp_path)
    disk.make_folder(tmp_path / "a" / "b")
    disk.write_atomic(tmp_path / "a" / "b" / "x", b"x")
    disk.sync_folder(tmp_path / "a")
    assert {} in _trees(disk)
    disk.sync_folder(tmp_path)
    assert _trees(disk) == [{"a": None, "a/b": None, "a/b/x": b"x"}]


def test_what_goes_past_the_disk_is_not_durable(tmp_path):
    """A file made without the disk is durable when it is synced through it; a cut file has either length."""
    disk = PowerCut(tmp_path)
    (tmp_path / "one").write_bytes(b"abcdef")
    disk.sync_folder(tmp_path)
    assert {tree["one"] for tree in _trees(disk)} == {b"", b"abc", b"abcdef", b"\0" * 6}
    disk.sync_file(tmp_path / "one")
    disk.sync_folder(tmp_path)
    assert _trees(disk) == [{"one": b"abcdef"}]
    disk.truncate(tmp_path / "one", 2)
    assert {tree["one"] for n in disk.cuts() for tree in _trees(disk, n) if "one" in tree} >= {b"abcdef", b"ab"}
    assert _trees(disk) == [{"one": b"ab"}]


def test_everything_pending_is_what_the_process_sees(tmp_path):
    """With everything pending the tree is that of the real file system, and so it is written out again."""
    home = tmp_path / "home"
    home.mkdir()
    disk = PowerCut(home)
    disk.make_folder(home / "a" / "b")
    disk.write_atomic(home / "a" / "one", b"1")
    disk.write_atomic(home / "a" / "one", b"22")
    disk.copy(home / "a" / "one", home / "a" / "b" / "two", 1)
    disk.replace(home / "a" / "b", home / "c")
    disk.write_cache(home / "a" / "three", b"3")
    disk.remove_tree(home / "a")
    disk.mark("done")
    tree = disk.seen()
    assert tree == {"c": None, "c/two": b"2"} == read(home)
    write(tree, tmp_path / "again")
    assert read(tmp_path / "again") == tree
    assert (disk.marks(disk.operations - 1), disk.marks(disk.operations)) == ([], ["done"])


def test_a_killed_process_leaves_its_cache(tmp_path):
    """The process dies at the given operation and does nothing more; the next one sees its writes, still pending."""
    disk = PowerCut(tmp_path)
    disk.dies_at(3)
    with pytest.raises(Killed):
        disk.write_new(tmp_path / "one", b"1")
    with pytest.raises(Killed):
        disk.remove(tmp_path / "one")
    assert disk.operations == 2
    disk.restart()
    assert (tmp_path / "one").read_bytes() == b"1"
    assert {} in _trees(disk)
    disk.sync_file(tmp_path / "one")
    disk.sync_folder(tmp_path)
    assert _trees(disk) == [{"one": b"1"}]
