"""Store snapshots of an engine as cache files, which may be missing, damaged or out of date at any time.

    temp/cache/snapshots/<date>/<kind>-<code>/<seq>_<ts>_<content>.snap

`kind` is the engine (market or full), `code` the digest of the package's code, `content` a hash of the log up to the
commit that contains `seq`; the configuration is in the log. A damaged file is deleted and its state folded again.
"""

from __future__ import annotations

import contextlib
import hashlib
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from harvester.files import Disk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harvester.eventlog.reader import Mark

_MAGIC = b"harvester snapshot 1\n"
_CHECK_BYTES = 16
_LENGTH_BYTES = 8


class SnapshotPosition(NamedTuple):
    """An existing snapshot: the state after event `seq`, which has ts_recv `ts` (ns UTC)."""

    seq: int
    ts: int
    path: Path


class Snapshots:
    """The snapshots of one date that match its log, in seq order.

    Args:
        folder: the folder for this date, engine and code; created with the first snapshot.
        marks: the log's commits.
        disk: the file layer; nothing is synced, because a torn file is detected when it is read.
    """

    def __init__(self, folder: Path, marks: Sequence[Mark], disk: Disk | None = None) -> None:
        self._folder, self._disk = folder, disk or Disk()
        self._ends = [mark.last_seq for mark in marks]
        self._marks = marks
        self._places = self._found()

    def __len__(self) -> int:
        return len(self._places)

    def before(self, seq: int | None = None, ts: int | None = None) -> SnapshotPosition | None:
        """The last snapshot at or before a seq (None: any) and at or before a time (None: any)."""
        fits = [p for p in self._places if (seq is None or p.seq <= seq) and (ts is None or p.ts <= ts)]
        return fits[-1] if fits else None

    def near(self, seq: int, events: int, ts: int, ns: int) -> bool:
        """Whether the previous snapshot is fewer than `events` events and less than `ns` of time before a position."""
        place = self.before(seq)
        return place is not None and seq - place.seq < events and ts - place.ts < ns

    def load(self, place: SnapshotPosition) -> bytes | None:
        """The state, or None when the file is missing or damaged; then the snapshot is deleted."""
        try:
            raw = place.path.read_bytes()
        except OSError:
            raw = b""
        state = _unpacked(raw, place.path.name)
        if state is None:
            self.forget(place)
        return state

    def forget(self, place: SnapshotPosition) -> None:
        """Delete a snapshot."""
        self._places.remove(place)
        with contextlib.suppress(OSError):
            self._disk.remove(place.path)

    def keep(self, seq: int, ts: int, state: bytes) -> None:
        """Store the state after `seq`; a disk error is ignored, because this is a cache."""
        place = SnapshotPosition(seq, ts, self._folder / f"{seq}_{ts}_{self._content(seq)}.snap")
        try:
            if not self._folder.is_dir():
                self._make_folder()
            self._disk.write_cache(place.path, _packed(state, place.path.name))
        except OSError:
            return
        at = bisect_left(self._places, place)
        if place not in self._places[at : at + 1]:
            self._places.insert(at, place)

    def _make_folder(self) -> None:
        """Create the folder; delete folders of the same engine from other code versions."""
        kind = self._folder.name.partition("-")[0]
        for other in self._folder.parent.glob(f"{kind}-*"):
            with contextlib.suppress(OSError):
                self._disk.remove_tree(other)
        self._disk.make_folder(self._folder)

    def _content(self, seq: int) -> str:
        """Hash of the log's content up to the commit that contains `seq`."""
        at = bisect_left(self._ends, seq)
        named = self._marks[at].content if at < len(self._ends) else ""
        return hashlib.blake2b(named.encode(), digest_size=10).hexdigest()

    def _found(self) -> list[SnapshotPosition]:
        places = []
        for path in self._folder.glob("*.snap") if self._folder.is_dir() else ():
            words = path.stem.split("_")
            if len(words) == 3 and words[0].isdecimal() and words[1].isdecimal():
                seq, ts, content = int(words[0]), int(words[1]), words[2]
                if content == self._content(seq):
                    places.append(SnapshotPosition(seq, ts, path))
        return sorted(places)


def _packed(state: bytes, name: str) -> bytes:
    body = len(state).to_bytes(_LENGTH_BYTES, "little") + pa.compress(state, "zstd", asbytes=True)
    packed: bytes = _MAGIC + _check(name, body) + body
    return packed


def _unpacked(raw: bytes, name: str) -> bytes | None:
    head = len(_MAGIC) + _CHECK_BYTES
    body = raw[head:]
    if raw[: len(_MAGIC)] != _MAGIC or raw[len(_MAGIC) : head] != _check(name, body):
        return None
    length = int.from_bytes(body[:_LENGTH_BYTES], "little")
    state: bytes = pa.decompress(body[_LENGTH_BYTES:], length, "zstd", asbytes=True)
    return state


def _check(name: str, body: bytes) -> bytes:
    return hashlib.blake2b(name.encode() + b"\0" + body, digest_size=_CHECK_BYTES).digest()
