"""Read one run from its files: manifest, journal, live digests, and the bodies the journal names.

Damage is collected instead of raised: strict callers raise on the first, salvage continues with the undamaged commits.
A run being written must be read in this order: manifest, digests, journal, bodies. Each was made durable after the ones
that follow, so everything it names exists.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from contextlib import contextmanager, suppress
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from harvester.eventlog.storage.checked_reads import check_parts, check_places, check_rising, read_stream
from harvester.eventlog.storage.content_hash import ContentHash
from harvester.eventlog.storage.damage import BadBytes, Damage
from harvester.eventlog.storage.format import (
    DELETION,
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
    digests_of,
    file_of,
    journal_of,
)
from harvester.eventlog.storage.ipc_streams import check_header, clock_rows
from harvester.eventlog.storage.parquet_files import Groups, check_tail
from harvester.eventlog.storage.sealed_lines import scan, unseal
from harvester.eventlog.storage.sequence_checks import order_problem
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.files import regular_file_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from harvester.eventlog.storage.format import Storage


JOINED_BYTES = 1024 * 1024 * 1024  # in memory, of commits read together: Arrow's strings have 31-bit byte offsets
WHOLE_ROWS = 4_096
"""A rewritten commit with fewer rows, except the last one of its run, ends early because its text is large."""
_LZ4_RATIO = 255  # no lz4 block grows more
_ZSTD_TOGETHER = 4  # commits whose text is not large


class KindParts(NamedTuple):
    """The journal's parts of one kind's file: the index of each commit that has rows, and its part."""

    commits: list[int]
    parts: list[Part]

    def some(self, places: Sequence[int]) -> KindParts:
        return KindParts([self.commits[n] for n in places], [self.parts[n] for n in places])


class RunRewritten(Exception):
    """The files being read were replaced by a rewrite that holds the same events."""


class RunLog:
    """The contents of a run's folder.

    Args:
        folder: the folder.
        run: its name, when the folder has a temporary name.
        manifest_name: name of its manifest file; a rewrite in progress has another.

    Attributes:
        manifest: None when it is damaged.
        commits: the journal's lines, in order.
        sizes: bytes of each commit in the kinds' files.
        bad: indexes into `commits` of those with damaged bodies.
        digests: the lines of live digests.
        damages: all damage found so far.
        torn: bytes after the last committed byte, per file name; harmless, from a run that was killed or is being
            written.
    """

    def __init__(self, folder: Path, run: str | None = None, manifest_name: str = MANIFEST) -> None:
        self.folder, self.run, self._manifest_name = folder, run or folder.name, manifest_name
        self._restart()

    def _restart(self) -> None:
        self.manifest: Manifest | None = None
        self.storage: Storage = "stream"
        self.commits: list[CommitLine] = []
        self._clocks: tuple[pa.RecordBatch, list[int]] | None = None
        self.bad: set[int] = set()
        self.digests: list[DigestLine] = []
        self.damages: list[Damage] = []
        self.torn: dict[str, int] = {}
        self.ends: dict[Kind, int] = {}
        self.sizes: list[int] = []
        self._files: dict[Kind, KindParts] = {}
        self.journal_end = self.digests_end = 0
        self.chain = self.digests_chain = ""
        self._gap = False  # lines are missing before the next one
        self._proved = 0  # number of commits whose bodies matched their checksums …
        self._prints: dict[Kind, tuple[int, int, int] | None] = {}  # … when the files had these inodes, sizes and times

    def room(self, i: int) -> int:
        """Bytes of commit `i` in memory, at most; of a zstd commit only its rows say whether its text is large.

        Commits are read together up to `JOINED_BYTES`.
        """
        compression = "zstd" if self.storage == "parquet" or self.manifest is None else self.manifest.compression
        if compression != "zstd":
            return self.sizes[i] * (_LZ4_RATIO if compression else 1)
        cut = self.storage != "stream" and self.commits[i].rows < WHOLE_ROWS and i + 1 < len(self.commits)
        return JOINED_BYTES // (1 if cut else _ZSTD_TOGETHER)

    @property
    def journal_path(self) -> Path:
        return self.folder / journal_of(self.storage)

    @property
    def digests_path(self) -> Path:
        return self.folder / digests_of(self.storage)

    def path_of(self, kind: Kind) -> Path:
        """The file of a kind's rows."""
        return self.folder / file_of(kind, self.storage)

    @property
    def tails(self) -> dict[Kind, Part]:
        return {part.kind: part for part in self.manifest.tails} if self.manifest is not None else {}

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
        """Last seq in the journal; `first_seq - 1` when there is none."""
        return self.commits[-1].last_seq if self.commits else self.first_seq - 1

    @property
    def content_hash(self) -> str:
        """Content hash of all commits in the journal."""
        return self.commits[-1].content if self.commits else ContentHash().digest()

    def refresh(self) -> int:
        """Read the lines added since the last call, and the manifest again.

        Returns:
            Number of new commits.

        Raises:
            FutureFormat: a newer version wrote the run.
        """
        had = len(self.commits)
        if not self.finished:
            self._read_manifest()
            self._choose_files()
        self._read_digests()
        self._read_journal()
        self._check_final()
        self._check_sizes()
        return len(self.commits) - had

    def _choose_files(self) -> None:
        storage = self.manifest.storage if self.manifest is not None else self._guess_storage()
        if storage != self.storage and self.commits:
            self._restart()  # compacted since the last refresh: other files, other commits, the same events
            self._read_manifest()
        self.storage = storage

    def _guess_storage(self) -> Storage:
        """The storage format of a run with a damaged manifest, from its file names.

        A deletion list is written only after the compacted files were verified.
        """
        compacted, stream = ((self.folder / journal_of(storage)).exists() for storage in ("compacted", "stream"))
        if compacted and (not stream or (self.folder / DELETION).exists()):
            return "compacted"
        return "parquet" if any((self.folder / file_of(kind, "parquet")).exists() for kind in Kind) else "stream"

    def superseded(self) -> bool:
        """Whether the run was rewritten since it was read, so that its old files may be deleted."""
        now = RunLog(self.folder, self.run, self._manifest_name)
        now._read_manifest()
        return now.manifest is not None and now.manifest.storage != self.storage

    def _read_manifest(self) -> None:
        path = self.folder / self._manifest_name
        try:
            if not 0 <= regular_file_size(path) <= MANIFEST_BYTES_MAX:
                raise Malformed("the manifest is missing or too large")  # noqa: TRY301 - handled with the others
            data = path.read_bytes()
            body = unseal(data[:-1]) if data.endswith(b"\n") and data.count(b"\n") == 1 else None
            if body is None:
                raise Malformed("the manifest does not match its hash")  # noqa: TRY301 - handled with the others
            manifest = decode_manifest(body, str(path))
            if manifest.run != self.run or manifest.trading_date != self.folder.parent.name:
                what = f"the manifest belongs to {manifest.run} of {manifest.trading_date}"
                raise Malformed(what)  # noqa: TRY301 - handled with the others
        except (OSError, Malformed) as error:
            self.damages.append(Damage(path, 0, str(error)))
            self.manifest = None
            return
        if self.manifest is None and not self.commits:
            self.chain = self.digests_chain = manifest.genesis()
        self.manifest = manifest

    def _read_digests(self) -> None:
        path = self.digests_path
        scanned = scan(path, self.digests_end)
        self.damages += scanned.damages
        for offset, body, own_hash in scanned.lines:
            try:
                line = decode_digest(body)
                known = self.manifest is not None and not scanned.damages
                if known and (line.prev != self.digests_chain or line.line != len(self.digests) + 1):
                    what = f"line {line.line} does not follow line {len(self.digests)}"
                    raise Malformed(what)  # noqa: TRY301 - handled with the others
            except Malformed as error:
                self.damages.append(Damage(path, offset, str(error)))
                continue
            self.digests.append(line)
            self.digests_chain = own_hash
        self.digests_end, self.torn[path.name] = scanned.end, scanned.torn_bytes

    def _read_journal(self) -> None:
        path = self.journal_path
        self._gap = self._gap or self.manifest is None
        scanned = scan(path, self.journal_end)
        broken = [damage.offset for damage in scanned.damages]
        self.damages += scanned.damages
        for offset, body, own_hash in scanned.lines:
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
        self.journal_end, self.torn[path.name] = scanned.end, scanned.torn_bytes

    def _accept(self, line: CommitLine, path: Path, offset: int) -> None:
        """Add a line with a valid hash: it must continue the previous line, or, after missing lines, come later."""
        last = self.commits[-1] if self.commits else None
        next_seq, last_ts = self.last_seq + 1, last.last_ts if last else line.first_ts
        again, follows, clock_file, size = line.first_seq < next_seq, line.first_seq == next_seq, False, 0
        for part in line.files:
            end = self.ends.get(part.kind, 0)
            again, follows = again or part.offset < end, follows and part.offset == end
            clock_file, size = clock_file or part.kind is Kind.CLOCK, size + part.length
        if again:
            raise Malformed(f"commit {line.commit} names seq {line.first_seq} or bytes that an earlier commit names")
        where, misplaced = ("a file", clock_file) if self.storage == "stream" else ("the journal", bool(line.clock))
        if misplaced:
            raise Malformed(f"commit {line.commit} has clock events in {where}; a {self.storage} run has none there")
        if line.first_ts < last_ts or line.last_ts < line.first_ts:
            raise Malformed(f"commit {line.commit}: ts_recv decreases: {last_ts}, {line.first_ts}, {line.last_ts}")
        follows = follows and line.prev == self.chain and line.commit == (last.commit if last else 0) + 1
        if not follows and not self._gap:
            what = f"commit {line.commit} from seq {line.first_seq} does not follow seq {next_seq - 1}"
            self.damages.append(Damage(path, offset, what))
        self._gap = False
        i = len(self.commits)
        self.commits.append(line)
        self.sizes.append(size)
        for part in line.files:
            self.ends[part.kind] = part.offset + part.length
            of_kind = self._files.get(part.kind) or self._files.setdefault(part.kind, KindParts([], []))
            of_kind.commits.append(i)
            of_kind.parts.append(part)

    def _check_final(self) -> None:
        if self.manifest is None or self.manifest.final is None or self.damages:
            return
        final = self.manifest.final
        if (len(self.commits), self.last_seq, self.chain) != (final.commits, final.last_seq, final.chain):
            what = f"the journal ends with commit {len(self.commits)}, seq {self.last_seq}"
            what += f"; the manifest says commit {final.commits}, seq {final.last_seq}"
            self.damages.append(
                Damage(self.journal_path, self.journal_end, what, self.last_seq + 1, max(final.last_seq, 0))
            )
        if (len(self.digests), self.digests_chain) != (final.digests, final.digests_chain):
            what = f"the file ends with line {len(self.digests)}, the manifest says {final.digests}"
            self.damages.append(Damage(self.digests_path, self.digests_end, what))
        if self.commits and self.commits[-1].content != final.content_hash:
            self.damages.append(
                Damage(self.folder / self._manifest_name, 0, "the content hash differs from the journal's")
            )

    def _check_sizes(self) -> None:
        names: set[str] | None = None  # it is gone, or may not be listed: look for every file
        with suppress(OSError):
            names = set(os.listdir(self.folder))  # noqa: PTH208 - pathlib would make a path of each name
        tails = self.tails
        for kind in Kind:
            end = tails[kind].end if kind in tails else self.ends.get(kind, 0)
            name = file_of(kind, self.storage)
            if not end and names is not None and name not in names:
                self.torn.pop(name, None)
                continue
            path = self.folder / name
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
                    if part.kind is kind and (part.end > size or kind in tails)
                ]
                if self.bad.issuperset(lost):
                    continue
                self.bad.update(lost)
                what = missing if size < 0 else f"the file ends here; its length must be {end} bytes"
                first, last = self.commits[lost[0]].first_seq, self.commits[lost[-1]].last_seq
                self.damages.append(Damage(path, max(size, 0), what, first, last))
            elif size > end:
                self.torn[path.name] = size - end
            else:
                self.torn.pop(path.name, None)

    def check_bodies(self, progress: Callable[[int], None] | None = None) -> None:
        """Compare every byte the journal names with its checksum; `progress` is called with the bytes of each step."""
        prints = {kind: self._print(kind) for kind in self.ends}
        for kind, of_kind in self._files.items():
            good = [n for n, i in enumerate(of_kind.commits) if i not in self.bad]
            self._check_parts(kind, of_kind.some(good), progress)
        self._proved, self._prints = len(self.commits), prints

    def _check_parts(self, kind: Kind, of_kind: KindParts, progress: Callable[[int], None] | None) -> None:
        path = self.path_of(kind)
        commits, parts = of_kind
        if not parts:
            return
        try:
            for checked in check_parts(path, parts):
                part = parts[checked.first]
                if part.offset == 0 and self.storage != "parquet" and checked.first not in checked.wrong:
                    self._check_head(commits[checked.first], path, part, kind, checked.head)
                for n in checked.wrong:
                    self._mark_bad(commits[n], path, parts[n], "the bytes do not match their checksum")
                if progress is not None:
                    progress(parts[checked.last].end - part.offset)
            if self.storage == "parquet":
                self._check_tail(kind, path, commits)
        except OSError as error:
            for i, part in zip(commits, parts, strict=True):
                self._mark_bad(i, path, part, f"cannot be read: {error.strerror or error}")

    def _check_tail(self, kind: Kind, path: Path, commits: Sequence[int]) -> None:
        """Check a Parquet file's footer; when it is damaged, all commits of the kind are bad."""
        parts = self._files[kind].parts
        wrong, good = check_tail(path, kind, self.tails.get(kind), parts), [i for i in commits if i not in self.bad]
        if wrong and good:
            first, last = self.commits[good[0]].first_seq, self.commits[good[-1]].last_seq
            self.bad.update(good)
            self.damages.append(Damage(path, parts[-1].end, wrong, first, last))

    def _check_head(self, i: int, path: Path, part: Part, kind: Kind, head: bytes) -> None:
        try:
            check_header(kind, head)
        except ValueError as error:
            self._mark_bad(i, path, part, str(error))

    def _mark_bad(self, i: int, path: Path, part: Part, what: str) -> None:
        line = self.commits[i]
        self.bad.add(i)
        self.damages.append(Damage(path, part.offset, what, line.first_seq, line.last_seq))

    def _print(self, kind: Kind) -> tuple[int, int, int] | None:
        try:
            status = self.path_of(kind).stat()
        except OSError:
            return None
        return (status.st_ino, status.st_size, status.st_mtime_ns)

    def load(self, first: int, last: int) -> Batch:
        """Read commits `first` to `last` (indexes, `last` not included) as one batch; none of them may be bad.

        Raises:
            BadBytes: a commit is damaged; the error names it, and it is added to `bad` and `damages`.
            RunRewritten: the run was compacted since it was read; read it again.
        """
        try:
            return self._load(first, last)
        except BadBytes as error:
            if self.superseded():
                raise RunRewritten(self.run) from None
            for i in range(first, last) if last - first > 1 else ():
                self.load(i, i + 1)  # raises at the damaged commit
            self.bad.update(range(first, last))
            self.damages.append(error.damage)
            raise

    def _load(self, first: int, last: int) -> Batch:
        tables: dict[Kind, pa.RecordBatch] = {}
        for kind in Kind:
            rows = self.load_kind(kind, first, last)
            if rows is not None:
                tables[kind] = rows
        return self.joined(tables, first, last)

    def blame(self, damage: Damage) -> None:
        """Find the commits with damage that no checksum shows, and record it."""
        begin = bisect_left(self.commits, damage.first_seq, key=attrgetter("last_seq"))
        end = bisect_right(self.commits, damage.last_seq, key=attrgetter("first_seq"))
        try:
            self.load(begin, end)
        except BadBytes:
            return
        self.bad.update(range(begin, end))
        self.damages.append(damage)

    def joined(self, tables: Mapping[Kind, pa.RecordBatch], first: int, last: int) -> Batch:
        """The rows of all kinds of commits `first` to `last` (not included), checked against the journal.

        Raises:
            BadBytes: they differ from the journal.
        """
        begin, end = self.commits[first], self.commits[last - 1]
        problem, first_ts, last_ts = order_problem(tables, begin.first_seq, begin.first_ts)
        if not problem and (first_ts, last_ts) != (begin.first_ts, end.last_ts):
            problem = f"ts_recv {first_ts}-{last_ts}, the journal says {begin.first_ts}-{end.last_ts}"
        if problem:
            at = begin.files[0].offset if begin.files else 0
            path = self.path_of(begin.files[0].kind) if begin.files else self.journal_path
            raise BadBytes(Damage(path, at, problem, begin.first_seq, end.last_seq))
        return Batch(tables)

    def clock(self, first: int, last: int) -> pa.RecordBatch | None:
        """The `clock` rows stored in the journal for commits `first` to `last` (not included)."""
        if self._clocks is None:
            self._clocks = _clocks_of(self.commits)
        clocks, ends = self._clocks
        if last >= len(ends):  # commits added later
            clocks, ends = _clocks_of(self.commits[first:last])
            first, last = 0, last - first
        begin, end = ends[first], ends[last]
        return clocks.slice(begin, end - begin) if begin < end else None

    def load_kind(self, kind: Kind, first: int, last: int) -> pa.RecordBatch | None:
        """Read one kind's rows of commits `first` to `last` (not included); None when they have none.

        Raises:
            BadBytes: they are damaged.
        """
        if kind is Kind.CLOCK and self.storage == "stream":
            return self.clock(first, last)
        commits, kind_parts = self.parts_of(kind)
        begin, end = bisect_left(commits, first), bisect_left(commits, last)
        if begin == end:
            return None
        lines, parts = [self.commits[i] for i in commits[begin:end]], kind_parts[begin:end]
        path, check = self.path_of(kind), not self.proved(kind, last)
        with damage_at(path, parts[0].offset, lines[0].first_seq, lines[-1].last_seq):
            if self.storage == "parquet":
                rows = Groups(path, kind, self.tails.get(kind), check=check).read(parts, check=check)
            else:
                rows = read_stream(path, kind, parts, check=check)
            check_rising(rows)
            check_places(rows, lines, parts)
        return rows

    @property
    def kinds(self) -> list[Kind]:
        """The kinds that have a file."""
        return [kind for kind in Kind if kind in self._files]

    def parts_of(self, kind: Kind) -> KindParts:
        """The journal's parts of a kind's file."""
        return self._files.get(kind) or KindParts([], [])

    def proved(self, kind: Kind, last: int) -> bool:
        """Whether the kind's bytes of all commits up to `last` matched their checksums, in a file unchanged since."""
        return last <= self._proved and self._print(kind) == self._prints.get(kind)

    @property
    def checked(self) -> bool:
        """Whether all bytes the journal names matched their checksums, in files unchanged since."""
        return all(self.proved(kind, len(self.commits)) for kind in self.kinds)


def _clocks_of(commits: Sequence[CommitLine]) -> tuple[pa.RecordBatch, list[int]]:
    """All `clock` rows of journal lines, and the running row count: before each line, and after the last."""
    ends = accumulate((len(line.clock) for line in commits), initial=0)
    return clock_rows([row for line in commits for row in line.clock]), list(ends)


@contextmanager
def damage_at(path: Path, offset: int, first_seq: int, last_seq: int) -> Iterator[None]:
    """Convert an error while reading parts of a file into damage that names the file, the offset and the seqs."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise BadBytes(Damage(path, offset, str(error), first_seq, last_seq)) from None
