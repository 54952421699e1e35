"""A disk that loses power, for tests: every state the medium can be in after a cut, from one recorded run.

    disk = PowerCut(home.root)                  what is below the root now is durable
    …                                           the process under test writes through `disk`
    disk.mark(value)                            the process has just reported something durable
    for n in disk.cuts():                       power fails after operation n
        for name, tree in disk.trees(n): write(tree, folder); claim(folder, disk.marks(n))

After SQLite's crash tests and TigerBeetle's storage faults. The process runs on the real file system, which stands for
the page cache; beside it this disk records each operation, and so can say what a cut may leave behind:

- Bytes reach the medium when their file is synced. Before that any part of them may: none, all, the first n, pages in
  any order, or only the new length, with zeros for contents.
- A name (created, renamed, removed) reaches the medium when its folder is synced; syncing the file does not suffice.
  Before that names of one folder arrive independently of each other, and of the contents; those that concern the same
  name arrive in order. A rename within one folder is atomic. One from folder to folder consists of the new name and of
  the removal of the old one, in this order, unless the old folder alone is synced: then both may be lost.

A process can die as well, with the cache surviving: `dies_at` raises `Killed` at an operation and `restart` lets the
next process go on.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from harvester.files import Disk

PAGE_BYTES = 4096
_ROOT = 0

Tree = dict[str, bytes | None]
"""What is on the medium, by path below the root: a file's bytes, None for a folder."""


class Killed(BaseException):
    """The process was killed, by `PowerCut.dies_at`."""


class Name(NamedTuple):
    """Names of one folder that change together: what each stands for afterwards, None for nothing.

    `after`: another pending change (by number) that reaches the medium first, as the new name of a rename does.
    """

    number: int
    folder: int
    names: tuple[tuple[str, int | None], ...]
    after: int | None = None


class Data(NamedTuple):
    """Bytes written at an offset, or a file cut to a length."""

    node: int
    offset: int
    data: bytes | None


class Sync(NamedTuple):
    node: int


class Operation(NamedTuple):
    """One operation: its description and its changes."""

    text: str
    changes: tuple[Name | Data | Sync, ...]


@dataclass
class _File:
    durable: bytes = b""
    pending: list[Data] = field(default_factory=list)


@dataclass
class _Folder:
    durable: dict[str, int] = field(default_factory=dict)


class Contents:
    """How much of a file's unsynced bytes reaches the medium; the class itself gives all of them."""

    def of(self, durable: bytes, pending: Sequence[Data]) -> bytes:
        return applied(durable, pending)


class _None(Contents):
    def of(self, durable: bytes, pending: Sequence[Data]) -> bytes:
        return durable


class _Zeros(Contents):
    def of(self, durable: bytes, pending: Sequence[Data]) -> bytes:
        length = len(applied(durable, pending))
        return durable[:length].ljust(length, b"\0")


@dataclass(frozen=True)
class _Prefix(Contents):
    """The first `share` of the pending bytes, to the byte: a torn write."""

    share: float

    def of(self, durable: bytes, pending: Sequence[Data]) -> bytes:
        left = int(self.share * sum(len(one.data or b" ") for one in pending))
        some: list[Data] = []
        for one in pending:
            length = len(one.data or b" ")
            if left < length:
                some += [one._replace(data=one.data[:left])] if one.data and left else []
                break
            some.append(one)
            left -= length
        return applied(durable, some)


@dataclass(frozen=True)
class _Pages(Contents):
    """The new length, and of the pages those whose number leaves `odd` when halved; the others are old, or zeros."""

    odd: int

    def of(self, durable: bytes, pending: Sequence[Data]) -> bytes:
        new = applied(durable, pending)
        return b"".join(
            (new if at // PAGE_BYTES % 2 == self.odd else durable[: len(new)].ljust(len(new), b"\0"))[
                at : at + PAGE_BYTES
            ]
            for at in range(0, len(new), PAGE_BYTES)
        )


class _Any(Contents):
    """For each file a random one of the above, or random pages."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def of(self, durable: bytes, pending: Sequence[Data]) -> bytes:
        how = self._chance.randrange(5)
        if how < 4:
            return (Contents(), _None(), _Zeros(), _Prefix(self._chance.random()))[how].of(durable, pending)
        new = applied(durable, pending)
        old = durable[: len(new)].ljust(len(new), b"\0")
        return b"".join(
            (new if self._chance.random() < 0.5 else old)[at : at + PAGE_BYTES] for at in range(0, len(new), PAGE_BYTES)
        )


ALL, NONE, ZEROS, HALF = Contents(), _None(), _Zeros(), _Prefix(0.5)
PAGES = (_Pages(0), _Pages(1))


def applied(durable: bytes, pending: Sequence[Data]) -> bytes:
    """A file's bytes after its changes, in order."""
    if not pending:
        return durable
    data = bytearray(durable)
    for one in pending:
        if one.data is None:
            data = data[: one.offset].ljust(one.offset, b"\0")
        else:
            data = data.ljust(one.offset, b"\0")
            data[one.offset : one.offset + len(one.data)] = one.data
    return bytes(data)


class PowerCut(Disk):
    """A disk that can create every state after a power cut. See the module.

    Args:
        root: the folder on this disk; its present content is durable.
        leave_out: folders that are not recorded, such as those of locks, which a power cut releases.
    """

    def __init__(self, root: Path, leave_out: Sequence[Path] = ()) -> None:
        self.root = root
        self._leave_out = tuple(leave_out)
        self._lock = threading.RLock()
        self._log: list[Operation] = []
        self._marks: list[tuple[int, Any]] = []
        self._nodes: dict[tuple[int, int], int] = {}
        self._first: dict[int, bytes | dict[str, int]] = {}
        self._next, self._changes = _ROOT, 0
        self._dies_at: int | None = None
        self._scan(root)

    def _scan(self, path: Path) -> int:
        node = self._new_node(os.lstat(path))
        if not path.is_dir():
            self._first[node] = path.read_bytes()
            return node
        children = sorted(child for child in path.iterdir() if child not in self._leave_out)
        self._first[node] = {child.name: self._scan(child) for child in children}
        return node

    # ------------------------------------------------------------------------------------------------ the process

    @property
    def operations(self) -> int:
        """The number of operations so far."""
        return len(self._log)

    def mark(self, value: Any) -> None:
        """Note that the process has reported `value` durable, after the operations so far."""
        with self._lock:
            self._marks.append((self.operations, value))

    def dies_at(self, operation: int) -> None:
        """Let the process die instead of doing this operation, counted from 1, or any after it."""
        self._dies_at = operation

    def restart(self) -> None:
        """Let the next process continue: writes of the dead one are still in the cache, and pending."""
        self._dies_at = None

    def make_folder(self, path: Path) -> None:
        missing = [one for one in (path, *path.parents) if not one.exists()]
        for one in reversed(missing):
            with self._lock:
                self._step()
                one.mkdir(exist_ok=True)
                if self._has(one):
                    self._record(f"mkdir {self._called(one)}", self._made(one))
        path.mkdir(exist_ok=True)

    def create(self, path: Path) -> FileIO:
        with self._lock:
            self._step()
            file = super().create(path)
            if self._has(path):
                self._record(f"create {self._called(path)}", self._made(path))
            return file

    def write(self, file: FileIO, data: bytes) -> None:
        with self._lock:
            self._step()
            at = os.fstat(file.fileno()).st_size
            super().write(file, data)
            node = self._nodes.get(_key(os.fstat(file.fileno())))
            if node is not None:
                self._record(f"write {len(data)} bytes to {Path(str(file.name)).name}", [Data(node, at, bytes(data))])

    def cut(self, file: FileIO, length: int) -> None:
        with self._lock:
            self._step()
            node = self._of(Path(str(file.name)))
            super().cut(file, length)
            if node is not None:
                self._record(f"cut {Path(str(file.name)).name} to {length} bytes", [Data(node, length, None)])

    def _sync(self, handle: int, sync: Any) -> None:
        with self._lock:
            self._step()
            node = self._nodes.get(_key(os.fstat(handle)))
            if node is not None:
                self._record(f"sync node {node}", [Sync(node)])

    def sync_file(self, path: Path) -> None:
        self._of(path)
        super().sync_file(path)

    def sync_folder(self, path: Path) -> None:
        with self._lock:
            for one in (path, *path.iterdir()):
                self._of(one)
            super().sync_folder(path)

    def replace(self, source: Path, target: Path) -> None:
        with self._lock:
            self._step()
            if not (self._has(source) and self._has(target)):
                super().replace(source, target)
                return
            node, old, new = self._of(source), self._of(source.parent), self._of(target.parent)
            assert node is not None
            assert old is not None
            assert new is not None
            gone = _key(os.lstat(target)) if target.exists() else None
            super().replace(source, target)
            if gone is not None:
                self._nodes.pop(gone, None)
            if old == new:
                made = [self._name(new, ((source.name, None), (target.name, node)))]
            else:
                first = self._name(new, ((target.name, node),))
                made = [first, self._name(old, ((source.name, None),), first.number)]
            self._record(f"rename {self._called(source)} to {self._called(target)}", made)

    def remove(self, path: Path) -> None:
        with self._lock:
            self._step()
            self._gone(path, super().remove)

    def remove_folder(self, path: Path) -> None:
        with self._lock:
            self._step()
            self._gone(path, super().remove_folder)

    def _gone(self, path: Path, how: Any) -> None:
        if not (self._has(path) and path.exists()):
            how(path)
            return
        self._of(path)
        folder, key = self._of(path.parent), _key(os.lstat(path))
        assert folder is not None
        how(path)
        self._nodes.pop(key, None)
        self._record(f"remove {self._called(path)}", [self._name(folder, ((path.name, None),))])

    # -------------------------------------------------------------------------------------------------- recording

    def _step(self) -> None:
        if self._dies_at is not None and self.operations + 1 >= self._dies_at:
            raise Killed(f"at operation {self._dies_at}")

    def _record(self, text: str, changes: Sequence[Name | Data | Sync]) -> None:
        self._log.append(Operation(text, tuple(changes)))

    def _has(self, path: Path) -> bool:
        if self.root not in path.parents:
            return path == self.root
        return not any(out == path or out in path.parents for out in self._leave_out)

    def _called(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _name(self, folder: int, names: tuple[tuple[str, int | None], ...], after: int | None = None) -> Name:
        self._changes += 1
        return Name(self._changes, folder, names, after)

    def _new_node(self, status: os.stat_result) -> int:
        self._nodes[_key(status)] = node = self._next
        self._next += 1
        return node

    def _made(self, path: Path) -> list[Name | Data | Sync]:
        folder = self._of(path.parent)
        assert folder is not None
        node = self._new_node(os.lstat(path))
        self._first[node] = {} if path.is_dir() else b""
        return [self._name(folder, ((path.name, node),))]

    def _of(self, path: Path) -> int | None:
        """The node of a path. Files created past this disk are added here, all pending, because no sync was seen."""
        if not self._has(path):
            return None
        known = self._nodes.get(_key(os.lstat(path)))
        if known is not None:
            return known
        made = self._made(path)
        node = self._nodes[_key(os.lstat(path))]
        if path.is_file():
            made.append(Data(node, 0, path.read_bytes()))
        self._record(f"{self._called(path)} was made past this disk", made)
        return node

    # ---------------------------------------------------------------------------------------------- after the cut

    def cuts(self) -> range:
        """Every n such that power may fail after operation n; 0 is before the first."""
        return range(self.operations + 1)

    def marks(self, n: int) -> list[Any]:
        """What had been reported durable when power failed after operation `n`."""
        return [value for at, value in self._marks if at <= n]

    def reported(self) -> list[tuple[int, Any]]:
        """Everything reported durable, each with the number of operations before it."""
        return list(self._marks)

    def changes(self, n: int) -> tuple[Name | Data | Sync, ...]:
        """The changes of operation `n`."""
        return self._log[n - 1].changes

    def at(self, n: int) -> Cut:
        """The disk at the moment power fails after operation `n`."""
        return Cut(self._first, self._log[:n])

    def seen(self) -> Tree:
        """What a process sees now: everything pending. Not `read(root)` if something went past this disk."""
        cut = self.at(self.operations)
        return cut.tree(frozenset(one.number for one in cut.pending), ALL)

    def text(self, n: int) -> str:
        """The last operations before a cut, for a failure's message."""
        return "; ".join(f"{at + 1} {self._log[at].text}" for at in range(max(n - 4, 0), n))

    def last(self, n: int) -> str:
        """Operation `n`, as in `text`."""
        return f"{n} {self._log[n - 1].text}"

    def trees(self, n: int, names_max: int = 1000) -> Iterator[tuple[str, Tree]]:
        """Every different tree of `Cut.choices`, with its description."""
        cut, seen = self.at(n), set[int]()
        for called, names, contents in cut.choices(names_max):
            tree = cut.tree(names, contents)
            key = hash(tuple(tree.items()))
            if key not in seen:
                seen.add(key)
                yield f"power cut after {n} of {self.operations} ({self.text(n)}), {called}", tree

    def chosen(self, n: int, seed: int) -> tuple[str, Tree]:
        """One random tree of all that are possible."""
        cut, chance = self.at(n), random.Random(seed)
        share = chance.choice((0.1, 0.5, 0.9))
        names = frozenset(one.number for one in cut.pending if chance.random() < share)
        called = f"power cut after {n} of {self.operations} ({self.text(n)}), seed {seed}"
        return called, cut.tree(names, _Any(chance))

    def materialise(self, n: int, seed: int, target: Path) -> str:
        """Write one random tree to a folder; returns its description."""
        called, tree = self.chosen(n, seed)
        write(tree, target)
        return called


class Cut:
    """The state when power fails: durable content and pending changes.

    Attributes:
        pending: changes of names, in order.
    """

    def __init__(self, first: dict[int, bytes | dict[str, int]], log: Sequence[Operation]) -> None:
        self._files = {node: _File(data) for node, data in first.items() if isinstance(data, bytes)}
        self._folders = {node: _Folder(dict(names)) for node, names in first.items() if isinstance(names, dict)}
        self.pending: list[Name] = []
        for operation in log:
            for change in operation.changes:
                self._apply(change)

    def advance(self, disk: PowerCut, n: int) -> None:
        """Add operation `n` of the disk, the next after those of this cut."""
        for change in disk.changes(n):
            self._apply(change)

    def _apply(self, change: Name | Data | Sync) -> None:
        if isinstance(change, Name):
            self.pending.append(change)
        elif isinstance(change, Data):
            self._files[change.node].pending.append(change)
        elif change.node in self._files:
            file = self._files[change.node]
            file.durable, file.pending = applied(file.durable, file.pending), []
        else:
            for one in self.pending:
                if one.folder == change.node:
                    _put(self._folders[change.node].durable, one)
            self.pending = [one for one in self.pending if one.folder != change.node]

    def choices(self, names_max: int) -> Iterator[tuple[str, frozenset[int], Contents]]:
        """Names and contents that reach the medium, from likely to nasty; `tree` keeps the order within a name.

        Beside none and all, each pending name arrives alone, and each is the only one that does not; of more than
        `names_max` pending names the first and the last.
        """
        everything = frozenset(one.number for one in self.pending)
        yield "nothing pending", frozenset(), NONE
        yield "everything pending", everything, ALL
        yield "names without contents", everything, NONE
        yield "contents without names", frozenset(), ALL
        yield "names, and lengths with zeros", everything, ZEROS
        yield "names, and half of the bytes", everything, HALF
        for pages in PAGES:
            yield "names, and every other page", everything, pages
        few = [*self.pending[: names_max - names_max // 2], *self.pending[len(self.pending) - names_max // 2 :]]
        for one in self.pending if len(self.pending) <= names_max else few:
            needed = self._needs(one)
            for contents, what in ((NONE, "without"), (ALL, "with")):
                names = " and ".join(name for name, _ in one.names)
                yield f"only {names} arrives, {what} contents", needed, contents
                yield f"{names} does not arrive, others do, {what} contents", everything - {one.number}, contents

    def _needs(self, change: Name) -> frozenset[int]:
        """A change and all that arrive before it."""
        needed, touched = {change.number}, {(change.folder, name) for name, _ in change.names}
        after = {change.after}
        for one in reversed(self.pending):
            own = {(one.folder, name) for name, _ in one.names}
            if one.number in after or (one.number < change.number and own & touched):
                needed.add(one.number)
                touched |= own
                after.add(one.after)
        return frozenset(needed)

    def tree(self, names: frozenset[int], contents: Contents) -> Tree:
        """The tree when these changes of names reach the medium, except those whose predecessors do not."""
        folders = {node: dict(folder.durable) for node, folder in self._folders.items()}
        lost: set[int] = set()
        stuck: set[tuple[int, str]] = set()
        for one in self.pending:
            own = {(one.folder, name) for name, _ in one.names}
            if one.number not in names or own & stuck or one.after in lost:
                lost.add(one.number)
                stuck |= own
            else:
                _put(folders[one.folder], one)
        tree: Tree = {}
        files: dict[int, bytes] = {}
        left = [(_ROOT, "")]
        while left:
            node, at = left.pop()
            for name, child in sorted(folders[node].items()):
                if child in folders:
                    left.append((child, f"{at}{name}/"))
                    tree[f"{at}{name}"] = None
                    continue
                if child not in files:
                    files[child] = contents.of(self._files[child].durable, self._files[child].pending)
                tree[f"{at}{name}"] = files[child]
        return dict(sorted(tree.items()))


def _put(names: dict[str, int], change: Name) -> None:
    for name, node in change.names:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def write(tree: Tree, target: Path) -> None:
    """Replace a folder's content by a tree."""
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    for name, data in tree.items():
        path = target / name
        if data is None:
            path.mkdir()
        else:
            path.write_bytes(data)


def read(folder: Path) -> Tree:
    """The tree of a folder."""
    found = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes() for path in found}
