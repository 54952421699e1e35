"""One run as its files tell it: manifest, journal, live digests, and the bodies the journal names.

Reading collects damage instead of raising it: strict callers raise at the first, salvage goes on with what is good.
Order matters while a run is being written: manifest, digests, journal, bodies. Each was made durable after what is read
later, so whatever it speaks of is there.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from harvester.eventlog.damage import BadBytes, Damage
from harvester.eventlog.disk import regular_file_size
from harvester.eventlog.format import (
    DIGESTS,
    JOURNAL,
    MANIFEST,
    MANIFEST_BYTES_MAX,
    CommitLine,
    DigestLine,
    Malformed,
    Manifest,
    Part,
    decode_commit,
    decode_digest,
    decode_manifest,
    file_of,
)
from harvester.eventlog.lines import CHECK_BYTES, checksum, scan, unseal
from harvester.eventlog.order import order_problem
from harvester.eventlog.streams import HEADERS, check_header, clock_rows, decode
from harvester.events.batch import Batch, seqs
from harvester.events.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from io import FileIO
    from pathlib import Path

    import pyarrow as pa

_READ_BYTES = 8 * 1024 * 1024


class RunLog:
    """A run's folder, read.

    Attributes:
        manifest: None when it is damaged.
        commits: the journal's lines, in order.
        bad: indexes into `commits` of those whose bodies cannot be used.
        digests: the lines of live digests.
        damages: everything found so far.
        torn: bytes behind what is named, per file name; harmless, left by a run that was killed or is being written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder.name
        self.manifest: Manifest | None = None
        self.commits: list[CommitLine] = []
        self.bad: set[int] = set()
        self.digests: list[DigestLine] = []
        self.damages: list[Damage] = []
        self.torn: dict[str, int] = {}
        self.ends: dict[Kind, int] = {}
        self.journal_end = self.digests_end = 0
        self.chain = self.digests_chain = ""
        self._gap = False  # lines were lost before the next one
        self._proved = 0  # commits whose bodies matched their checksums …
        self._prints: dict[Kind, tuple[int, int, int]] = {}  # … while the files looked like this

    @property
    def finished(self) -> bool:
        return self.manifest is not None and self.manifest.final is not None

    @property
    def first_seq(self) -> int:
        if self.manifest is not None:
            return self.manifest.first_seq
        return self.commits[0].first_seq if self.commits else 0

    @property
    def last_seq(self) -> int:
        """Last seq the journal names; one less than the first when it names none."""
        return self.commits[-1].last_seq if self.commits else self.first_seq - 1

    def refresh(self) -> int:
        """Read what was added since the last call, and the manifest anew.

        Returns:
            How many commits are new.

        Raises:
            FutureFormat: a newer version wrote the run.
        """
        had = len(self.commits)
        if not self.finished:
            self._read_manifest()
        self._read_digests()
        self._read_journal()
        self._check_final()
        self._check_sizes()
        return len(self.commits) - had

    def _read_manifest(self) -> None:
        path = self.folder / MANIFEST
        try:
            if not 0 <= regular_file_size(path) <= MANIFEST_BYTES_MAX:
                raise Malformed("is missing, or larger than any manifest")  # noqa: TRY301 - one place adds the damage
            data = path.read_bytes()
            body = unseal(data[:-1]) if data.endswith(b"\n") and data.count(b"\n") == 1 else None
            if body is None:
                raise Malformed("the manifest does not match its hash")  # noqa: TRY301
            manifest = decode_manifest(body, str(path))
            if manifest.run != self.run or manifest.trading_date != self.folder.parent.name:
                raise Malformed(f"the manifest is that of {manifest.trading_date} {manifest.run}")  # noqa: TRY301
        except (OSError, Malformed) as error:
            self.damages.append(Damage(path, 0, str(error)))
            self.manifest = None
            return
        if self.manifest is None and not self.commits:
            self.chain = self.digests_chain = manifest.genesis()
        self.manifest = manifest

    def _read_digests(self) -> None:
        path = self.folder / DIGESTS
        found = scan(path, self.digests_end)
        self.damages += found.damages
        for offset, body, own_hash in found.lines:
            try:
                line = decode_digest(body)
                known = self.manifest is not None and not found.damages
                if known and (line.prev != self.digests_chain or line.line != len(self.digests) + 1):
                    raise Malformed(f"line {line.line} does not follow line {len(self.digests)}")  # noqa: TRY301
            except Malformed as error:
                self.damages.append(Damage(path, offset, str(error)))
                continue
            self.digests.append(line)
            self.digests_chain = own_hash
        self.digests_end, self.torn[DIGESTS] = found.end, found.torn_bytes

    def _read_journal(self) -> None:
        path = self.folder / JOURNAL
        self._gap = self._gap or self.manifest is None
        found = scan(path, self.journal_end)
        broken = [damage.offset for damage in found.damages]
        self.damages += found.damages
        for offset, body, own_hash in found.lines:
            while broken and broken[0] < offset:
                self._gap = True
                broken.pop(0)
            try:
                self._accept(decode_commit(body), path, offset)
                self.chain = own_hash
            except Malformed as error:
                self.damages.append(Damage(path, offset, str(error)))
                self._gap = True
        self._gap = self._gap or bool(broken)
        self.journal_end, self.torn[JOURNAL] = found.end, found.torn_bytes

    def _accept(self, line: CommitLine, path: Path, offset: int) -> None:
        """Take a line that carries a right hash: it must follow the one before it, or, after lost lines, come later."""
        last = self.commits[-1] if self.commits else None
        next_seq, last_ts = self.last_seq + 1, last.last_ts if last else line.first_ts
        if line.first_seq < next_seq or any(part.offset < self.ends.get(part.kind, 0) for part in line.files):
            raise Malformed(f"commit {line.commit} claims seq {line.first_seq} or bytes a second time")
        if line.first_ts < last_ts or line.last_ts < line.first_ts:
            raise Malformed(f"commit {line.commit}: ts_recv runs back, {last_ts} {line.first_ts} {line.last_ts}")
        follows = (
            line.prev == self.chain
            and line.commit == (last.commit if last else 0) + 1
            and line.first_seq == next_seq
            and all(part.offset == self.ends.get(part.kind, 0) for part in line.files)
        )
        if not follows and not self._gap:
            what = f"commit {line.commit} from seq {line.first_seq} does not follow seq {next_seq - 1}"
            self.damages.append(Damage(path, offset, what))
        self._gap = False
        self.commits.append(line)
        self.ends.update((part.kind, part.end) for part in line.files)

    def _check_final(self) -> None:
        if self.manifest is None or self.manifest.final is None or self.damages:
            return
        final = self.manifest.final
        if (len(self.commits), self.last_seq, self.chain) != (final.commits, final.last_seq, final.chain):
            what = f"ends with commit {len(self.commits)}, seq {self.last_seq}"
            what += f"; the manifest names {final.commits}, {final.last_seq}"
            self.damages.append(
                Damage(self.folder / JOURNAL, self.journal_end, what, self.last_seq + 1, max(final.last_seq, 0))
            )
        if (len(self.digests), self.digests_chain) != (final.digests, final.digests_chain):
            what = f"ends with line {len(self.digests)}, the manifest names {final.digests}"
            self.damages.append(Damage(self.folder / DIGESTS, self.digests_end, what))
        if self.commits and self.commits[-1].content != final.content_hash:
            self.damages.append(Damage(self.folder / MANIFEST, 0, "its content hash is not the journal's"))

    def _check_sizes(self) -> None:
        for kind in Kind:
            path, end = self.folder / file_of(kind), self.ends.get(kind, 0)
            missing = "the file is missing"
            try:
                size = regular_file_size(path)
            except OSError as error:
                size = -1
                missing = str(error)
                if not end:
                    self.damages.append(Damage(path, 0, missing))
            if end and size < end:
                lost = [
                    i
                    for i, line in enumerate(self.commits)
                    for part in line.files
                    if part.kind is kind and part.end > size
                ]
                if self.bad.issuperset(lost):
                    continue
                self.bad.update(lost)
                what = missing if size < 0 else f"the file ends here, the journal names {end} bytes"
                first, last = self.commits[lost[0]].first_seq, self.commits[lost[-1]].last_seq
                self.damages.append(Damage(path, max(size, 0), what, first, last))
            elif size > end:
                self.torn[path.name] = size - end
            else:
                self.torn.pop(path.name, None)

    def check_bodies(self, progress: Callable[[int], None] | None = None) -> None:
        """Compare every byte the journal names with its checksum; `progress` is told the bytes of each step."""
        prints = {kind: self._print(kind) for kind in self.ends}
        for kind in self.ends:
            items = [
                (i, part)
                for i, line in enumerate(self.commits)
                for part in line.files
                if part.kind is kind and i not in self.bad
            ]
            self._check_parts(kind, items, progress)
        self._proved, self._prints = len(self.commits), prints

    def _check_parts(
        self, kind: Kind, items: Sequence[tuple[int, Part]], progress: Callable[[int], None] | None
    ) -> None:
        path = self.folder / file_of(kind)
        if not items:
            return
        try:
            with path.open("rb", buffering=_READ_BYTES) as file:
                for i, part in items:
                    file.seek(part.offset)
                    hashed, left, head = blake2b(digest_size=CHECK_BYTES), part.length, b""
                    while left and (piece := file.read(min(left, _READ_BYTES))):
                        hashed.update(piece)
                        head = head or piece
                        left -= len(piece)
                    if hashed.hexdigest() != part.checksum:
                        self._spoil(i, path, part, "the bytes do not match their checksum")
                    elif part.offset == 0:
                        self._check_head(i, path, part, kind, head)
                    if progress is not None:
                        progress(part.length)
        except OSError as error:
            for i, part in items:
                self._spoil(i, path, part, f"cannot be read: {error.strerror or error}")

    def _check_head(self, i: int, path: Path, part: Part, kind: Kind, head: bytes) -> None:
        try:
            check_header(kind, head)
        except ValueError as error:
            self._spoil(i, path, part, str(error))

    def _spoil(self, i: int, path: Path, part: Part, what: str) -> None:
        line = self.commits[i]
        self.bad.add(i)
        self.damages.append(Damage(path, part.offset, what, line.first_seq, line.last_seq))

    def _print(self, kind: Kind) -> tuple[int, int, int]:
        try:
            status = (self.folder / file_of(kind)).stat()
        except OSError:
            return (-1, -1, -1)
        return (status.st_ino, status.st_size, status.st_mtime_ns)

    def load(self, first: int, last: int) -> Batch:
        """Read commits `first` to `last` (indexes, `last` not included) as one batch; none of them may be bad.

        Raises:
            BadBytes: names the commit that cannot be used; it stands in `bad` and `damages` then.
        """
        try:
            return self._load(first, last)
        except BadBytes as found:
            for i in range(first, last) if last - first > 1 else ():
                self.load(i, i + 1)  # raises at the commit that is to blame
            self.bad.update(range(first, last))
            self.damages.append(found.damage)
            raise

    def _load(self, first: int, last: int) -> Batch:
        lines = self.commits[first:last]
        tables: dict[Kind, pa.RecordBatch] = {}
        for kind in Kind:
            rows = self._clock(lines) if kind is Kind.CLOCK else self._kind(kind, first, last)
            if rows is not None:
                tables[kind] = rows
        problem, first_ts, last_ts = order_problem(tables, lines[0].first_seq, lines[0].first_ts)
        if not problem and (first_ts, last_ts) != (lines[0].first_ts, lines[-1].last_ts):
            problem = f"ts_recv {first_ts}-{last_ts}, the journal names {lines[0].first_ts}-{lines[-1].last_ts}"
        if problem:
            at = lines[0].files[0].offset if lines[0].files else 0
            path = self.folder / (file_of(lines[0].files[0].kind) if lines[0].files else JOURNAL)
            raise BadBytes(Damage(path, at, problem, lines[0].first_seq, lines[-1].last_seq))
        return Batch(tables)

    @staticmethod
    def _clock(lines: Sequence[CommitLine]) -> pa.RecordBatch | None:
        ticks = [row for line in lines for row in line.clock]
        return clock_rows(ticks) if ticks else None

    def load_kind(self, kind: Kind, first: int, last: int) -> pa.RecordBatch | None:
        """Read one kind's rows of commits `first` to `last` (not included); None when they have none.

        Raises:
            BadBytes: they cannot be used.
        """
        return self._clock(self.commits[first:last]) if kind is Kind.CLOCK else self._kind(kind, first, last)

    def _kind(self, kind: Kind, first: int, last: int) -> pa.RecordBatch | None:
        picked = [(line, part) for line in self.commits[first:last] for part in line.files if part.kind is kind]
        if not picked:
            return None
        parts = [part for _, part in picked]
        path = self.folder / file_of(kind)
        proved = last <= self._proved and self._print(kind) == self._prints.get(kind)
        try:
            data = _read_parts(path, parts, b"" if parts[0].offset == 0 else HEADERS[kind], check=not proved)
            rows = decode(kind, data, sum(part.rows for part in parts))
            _check_places(rows, picked)
        except (ValueError, OSError) as error:
            line = picked[0][0]
            raise BadBytes(Damage(path, parts[0].offset, str(error), line.first_seq, picked[-1][0].last_seq)) from None
        return rows


def _read_parts(path: Path, parts: Sequence[Part], prefix: bytes, *, check: bool) -> bytearray:
    """Read parts of a file behind `prefix`, neighbours in one go.

    Raises:
        ValueError: a checksum does not match.
        OSError: the file cannot be read, or is too short.
    """
    data = bytearray(len(prefix) + sum(part.length for part in parts))
    data[: len(prefix)] = prefix
    view, at = memoryview(data), len(prefix)
    with path.open("rb", buffering=0) as file:
        start = 0
        for i, part in enumerate(parts):
            if i + 1 < len(parts) and parts[i + 1].offset == part.end:
                continue
            at = _fill(file, parts[start].offset, view, at, part.end - parts[start].offset)
            start = i + 1
    if check:
        at = len(prefix)
        for part in parts:
            if checksum(view[at : at + part.length]) != part.checksum:
                raise ValueError("the bytes do not match their checksum")
            at += part.length
    return data


def _fill(file: FileIO, offset: int, view: memoryview, at: int, length: int) -> int:
    file.seek(offset)
    end = at + length
    while at < end:
        got = file.readinto(view[at:end])
        if not got:
            raise OSError(f"the file ends {end - at} bytes too early")
        at += got
    return at


def _check_places(rows: pa.RecordBatch, picked: Sequence[tuple[CommitLine, Part]]) -> None:
    """Assert that one kind's rows rise in seq, do not run back in time, and lie in their commits' ranges of seq."""
    seq, ts = seqs(rows), rows.column(1).to_numpy(zero_copy_only=False)
    if (seq[1:] <= seq[:-1]).any() or (ts[1:] < ts[:-1]).any():
        raise ValueError("seq does not rise, or ts_recv runs back")
    ends = np.cumsum([part.rows for _, part in picked])
    starts = ends - [part.rows for _, part in picked]
    first = np.array([line.first_seq for line, _ in picked], np.uint64)
    last = np.array([line.last_seq for line, _ in picked], np.uint64)
    wrong = (seq[starts] < first) | (seq[ends - 1] > last)
    if wrong.any():
        line = picked[int(np.argmax(wrong))][0]
        raise ValueError(f"rows of commit {line.commit} bear seqs outside {line.first_seq}-{line.last_seq}")
