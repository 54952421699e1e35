"""One run as its files tell it: manifest, journal, live digests, and the bodies the journal names.

Reading collects damage instead of raising it: strict callers raise at the first, salvage goes on with what is good.
Order matters while a run is being written: manifest, digests, journal, bodies. Each was made durable after what is read
later, so whatever it speaks of is there.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from contextlib import contextmanager
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


class Named(NamedTuple):
    """What the journal names of one kind's file: the index of each commit that has rows, and its part."""

    commits: list[int]
    parts: list[Part]

    def some(self, places: Sequence[int] | slice) -> Named:
        if isinstance(places, slice):
            return Named(self.commits[places], self.parts[places])
        return Named([self.commits[n] for n in places], [self.parts[n] for n in places])


class StoredAgain(Exception):
    """The files being read were replaced by others that hold the same events."""


class RunLog:
    """A run's folder, read.

    Args:
        folder: where it lies.
        run: its name, when the folder bears another one for the time being.
        manifest_name: name of its manifest; that of one which is to replace it has another.

    Attributes:
        manifest: None when it is damaged.
        commits: the journal's lines, in order.
        sizes: of each the bytes in the kinds' files.
        bad: indexes into `commits` of those whose bodies cannot be used.
        digests: the lines of live digests.
        damages: everything found so far.
        torn: bytes behind what is named, per file name; harmless, left by a run that was killed or is being written.
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
        self._files: dict[Kind, Named] = {}
        self.journal_end = self.digests_end = 0
        self.chain = self.digests_chain = ""
        self._gap = False  # lines were lost before the next one
        self._proved = 0  # commits whose bodies matched their checksums …
        self._prints: dict[Kind, tuple[int, int, int]] = {}  # … while the files looked like this

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
        """Last seq the journal names; one less than the first when it names none."""
        return self.commits[-1].last_seq if self.commits else self.first_seq - 1

    @property
    def content_hash(self) -> str:
        """Content hash of what the journal names."""
        return self.commits[-1].content if self.commits else ContentHash().digest()

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
            self._choose_files()
        self._read_digests()
        self._read_journal()
        self._check_final()
        self._check_sizes()
        return len(self.commits) - had

    def _choose_files(self) -> None:
        storage = self.manifest.storage if self.manifest is not None else self._storage_left()
        if storage != self.storage and self.commits:
            self._restart()  # compacted since it was last looked at: other files, other commits, the same events
            self._read_manifest()
        self.storage = storage

    def _storage_left(self) -> Storage:
        """How a run lies whose manifest is damaged, as its files tell; a deletion list is only written after proof."""
        if self.commits:
            return self.storage
        compacted, stream = ((self.folder / journal_of(storage)).exists() for storage in ("compacted", "stream"))
        if compacted and (not stream or (self.folder / DELETION).exists()):
            return "compacted"
        return "parquet" if any((self.folder / file_of(kind, "parquet")).exists() for kind in Kind) else "stream"

    def superseded(self) -> bool:
        """Whether the run was stored again since it was read, so that the files read from may be gone."""
        now = RunLog(self.folder, self.run, self._manifest_name)
        now._read_manifest()
        return now.manifest is not None and now.manifest.storage != self.storage

    def _read_manifest(self) -> None:
        path = self.folder / self._manifest_name
        try:
            if not 0 <= regular_file_size(path) <= MANIFEST_BYTES_MAX:
                raise Malformed("is missing, or larger than any manifest")  # noqa: TRY301 - told with the others
            data = path.read_bytes()
            body = unseal(data[:-1]) if data.endswith(b"\n") and data.count(b"\n") == 1 else None
            if body is None:
                raise Malformed("the manifest does not match its hash")  # noqa: TRY301 - told with the others
            manifest = decode_manifest(body, str(path))
            if manifest.run != self.run or manifest.trading_date != self.folder.parent.name:
                raise Malformed(f"the manifest is that of {manifest.trading_date} {manifest.run}")  # noqa: TRY301 - told with the others
        except (OSError, Malformed) as error:
            self.damages.append(Damage(path, 0, str(error)))
            self.manifest = None
            return
        if self.manifest is None and not self.commits:
            self.chain = self.digests_chain = manifest.genesis()
        self.manifest = manifest

    def _read_digests(self) -> None:
        path = self.digests_path
        found = scan(path, self.digests_end)
        self.damages += found.damages
        for offset, body, own_hash in found.lines:
            try:
                line = decode_digest(body)
                known = self.manifest is not None and not found.damages
                if known and (line.prev != self.digests_chain or line.line != len(self.digests) + 1):
                    raise Malformed(f"line {line.line} does not follow line {len(self.digests)}")  # noqa: TRY301 - told with the others
            except Malformed as error:
                self.damages.append(Damage(path, offset, str(error)))
                continue
            self.digests.append(line)
            self.digests_chain = own_hash
        self.digests_end, self.torn[path.name] = found.end, found.torn_bytes

    def _read_journal(self) -> None:
        path = self.journal_path
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
        self.journal_end, self.torn[path.name] = found.end, found.torn_bytes

    def _accept(self, line: CommitLine, path: Path, offset: int) -> None:
        """Take a line that carries a right hash: it must follow the one before it, or, after lost lines, come later."""
        last = self.commits[-1] if self.commits else None
        next_seq, last_ts = self.last_seq + 1, last.last_ts if last else line.first_ts
        again, follows, clock_file, size = line.first_seq < next_seq, line.first_seq == next_seq, False, 0
        for part in line.files:
            end = self.ends.get(part.kind, 0)
            again, follows = again or part.offset < end, follows and part.offset == end
            clock_file, size = clock_file or part.kind is Kind.CLOCK, size + part.length
        if again:
            raise Malformed(f"commit {line.commit} claims seq {line.first_seq} or bytes a second time")
        if clock_file if self.storage == "stream" else line.clock:
            raise Malformed(f"commit {line.commit} keeps its clock events elsewhere than a {self.storage} run does")
        if line.first_ts < last_ts or line.last_ts < line.first_ts:
            raise Malformed(f"commit {line.commit}: ts_recv runs back, {last_ts} {line.first_ts} {line.last_ts}")
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
            named = self._files.get(part.kind) or self._files.setdefault(part.kind, Named([], []))
            named.commits.append(i)
            named.parts.append(part)

    def _check_final(self) -> None:
        if self.manifest is None or self.manifest.final is None or self.damages:
            return
        final = self.manifest.final
        if (len(self.commits), self.last_seq, self.chain) != (final.commits, final.last_seq, final.chain):
            what = f"ends with commit {len(self.commits)}, seq {self.last_seq}"
            what += f"; the manifest names {final.commits}, {final.last_seq}"
            self.damages.append(
                Damage(self.journal_path, self.journal_end, what, self.last_seq + 1, max(final.last_seq, 0))
            )
        if (len(self.digests), self.digests_chain) != (final.digests, final.digests_chain):
            what = f"ends with line {len(self.digests)}, the manifest names {final.digests}"
            self.damages.append(Damage(self.digests_path, self.digests_end, what))
        if self.commits and self.commits[-1].content != final.content_hash:
            self.damages.append(Damage(self.folder / self._manifest_name, 0, "its content hash is not the journal's"))

    def _check_sizes(self) -> None:
        for kind in Kind:
            path, end = self.path_of(kind), self.ends.get(kind, 0)
            if kind in self.tails:
                end = self.tails[kind].end
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
                    if part.kind is kind and (part.end > size or kind in self.tails)
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
        for kind, named in self._files.items():
            good = [n for n, i in enumerate(named.commits) if i not in self.bad] if self.bad else slice(None)
            self._check_parts(kind, named.some(good), progress)
        self._proved, self._prints = len(self.commits), prints

    def _check_parts(self, kind: Kind, named: Named, progress: Callable[[int], None] | None) -> None:
        path = self.path_of(kind)
        commits, parts = named
        if not parts:
            return
        try:
            for checked in check_parts(path, parts):
                part = parts[checked.first]
                if part.offset == 0 and self.storage != "parquet" and checked.first not in checked.wrong:
                    self._check_head(commits[checked.first], path, part, kind, checked.head)
                for n in checked.wrong:
                    self._spoil(commits[n], path, parts[n], "the bytes do not match their checksum")
                if progress is not None:
                    progress(parts[checked.last].end - part.offset)
            if self.storage == "parquet":
                self._check_tail(kind, path, commits)
        except OSError as error:
            for i, part in zip(commits, parts, strict=True):
                self._spoil(i, path, part, f"cannot be read: {error.strerror or error}")

    def _check_tail(self, kind: Kind, path: Path, commits: Sequence[int]) -> None:
        """Without its footer nothing of a Parquet file can be trusted."""
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
            self._spoil(i, path, part, str(error))

    def _spoil(self, i: int, path: Path, part: Part, what: str) -> None:
        line = self.commits[i]
        self.bad.add(i)
        self.damages.append(Damage(path, part.offset, what, line.first_seq, line.last_seq))

    def _print(self, kind: Kind) -> tuple[int, int, int]:
        try:
            status = self.path_of(kind).stat()
        except OSError:
            return (-1, -1, -1)
        return (status.st_ino, status.st_size, status.st_mtime_ns)

    def load(self, first: int, last: int) -> Batch:
        """Read commits `first` to `last` (indexes, `last` not included) as one batch; none of them may be bad.

        Raises:
            BadBytes: names the commit that cannot be used; it stands in `bad` and `damages` then.
            StoredAgain: the run was compacted since it was read; read it anew.
        """
        try:
            return self._load(first, last)
        except BadBytes as found:
            if self.superseded():
                raise StoredAgain(self.run) from None
            for i in range(first, last) if last - first > 1 else ():
                self.load(i, i + 1)  # raises at the commit that is to blame
            self.bad.update(range(first, last))
            self.damages.append(found.damage)
            raise

    def _load(self, first: int, last: int) -> Batch:
        tables: dict[Kind, pa.RecordBatch] = {}
        for kind in Kind:
            rows = self.load_kind(kind, first, last)
            if rows is not None:
                tables[kind] = rows
        return self.joined(tables, first, last)

    def blame(self, damage: Damage) -> None:
        """Find the commits that are to blame for damage no checksum shows, and note it."""
        begin = bisect_left(self.commits, damage.first_seq, key=attrgetter("last_seq"))
        end = bisect_right(self.commits, damage.last_seq, key=attrgetter("first_seq"))
        try:
            self.load(begin, end)
        except BadBytes:
            return
        self.bad.update(range(begin, end))
        self.damages.append(damage)

    def joined(self, tables: Mapping[Kind, pa.RecordBatch], first: int, last: int) -> Batch:
        """The rows of all kinds of commits `first` to `last` (not included), proven to be what the journal names.

        Raises:
            BadBytes: they are not.
        """
        begin, end = self.commits[first], self.commits[last - 1]
        problem, first_ts, last_ts = order_problem(tables, begin.first_seq, begin.first_ts)
        if not problem and (first_ts, last_ts) != (begin.first_ts, end.last_ts):
            problem = f"ts_recv {first_ts}-{last_ts}, the journal names {begin.first_ts}-{end.last_ts}"
        if problem:
            at = begin.files[0].offset if begin.files else 0
            path = self.path_of(begin.files[0].kind) if begin.files else self.journal_path
            raise BadBytes(Damage(path, at, problem, begin.first_seq, end.last_seq))
        return Batch(tables)

    def clock(self, first: int, last: int) -> pa.RecordBatch | None:
        """The `clock` rows the journal itself holds for commits `first` to `last` (not included)."""
        if self._clocks is None:
            self._clocks = _clocks_of(self.commits)
        clocks, ends = self._clocks
        if last >= len(ends):  # commits that came later
            clocks, ends = _clocks_of(self.commits[first:last])
            first, last = 0, last - first
        begin, end = ends[first], ends[last]
        return clocks.slice(begin, end - begin) if begin < end else None

    def load_kind(self, kind: Kind, first: int, last: int) -> pa.RecordBatch | None:
        """Read one kind's rows of commits `first` to `last` (not included); None when they have none.

        Raises:
            BadBytes: they cannot be used.
        """
        if kind is Kind.CLOCK and self.storage == "stream":
            return self.clock(first, last)
        commits, named = self.named(kind)
        begin, end = bisect_left(commits, first), bisect_left(commits, last)
        if begin == end:
            return None
        lines, parts = [self.commits[i] for i in commits[begin:end]], named[begin:end]
        path, check = self.path_of(kind), not self.proved(kind, last)
        with naming(path, parts[0].offset, lines[0].first_seq, lines[-1].last_seq):
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

    def named(self, kind: Kind) -> Named:
        """What the journal names of a kind's file."""
        return self._files.get(kind) or Named([], [])

    def proved(self, kind: Kind, last: int) -> bool:
        """Whether the kind's bytes of all commits up to `last` matched their checksums, in a file unchanged since."""
        return last <= self._proved and self._print(kind) == self._prints.get(kind)


def _clocks_of(commits: Sequence[CommitLine]) -> tuple[pa.RecordBatch, list[int]]:
    """All `clock` rows of journal lines, and how many there are before each line and behind the last."""
    ends = accumulate((len(line.clock) for line in commits), initial=0)
    return clock_rows([row for line in commits for row in line.clock]), list(ends)


@contextmanager
def naming(path: Path, offset: int, first_seq: int, last_seq: int) -> Iterator[None]:
    """Turn what is wrong with some parts of a file into damage that names them."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise BadBytes(Damage(path, offset, str(error), first_seq, last_seq)) from None
