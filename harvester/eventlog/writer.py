"""Write a run: `commit` appends a batch of events and returns when it is durable.

    writer = LogWriter.open(home.on(trading_date), run_start_row={"params": "…"})   lock, recovery, folder, manifest
    engine.fold(writer.begin(ts_recv))                                          the run's first event
    writer.commit(batch); engine.fold(batch)                                    for every batch
    writer.live_digests(seq, engine.digests())                                  periodically
    writer.close()                                                              manifest: ended

Steps of a commit: check the free space, append to each kind's file, sync those files, sync the folder when a file is
new, append one journal line, sync the journal. Any failure stops the writer permanently: earlier commits are intact,
and the next writer of the date moves the torn bytes to quarantine.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from harvester.clock import real_wall_ns
from harvester.disk_space import MARGIN_BYTES, size_text
from harvester.errors import BadSetting, DamagedLog, DateClosed, HarvesterError, LogWriteFailed
from harvester.eventlog.eod_mark import EodMark, read_closed
from harvester.eventlog.lock import DateLock
from harvester.eventlog.recover import RecoveredDay, Recovery, recover_held
from harvester.eventlog.storage.content_hash import ContentHash
from harvester.eventlog.storage.format import (
    DIGESTS,
    FORMAT_VERSION,
    JOURNAL,
    MANIFEST,
    CommitLine,
    DigestLine,
    Final,
    Manifest,
    Part,
    file_of,
    run_name,
)
from harvester.eventlog.storage.ipc_streams import HEADERS, clock_lines, encode
from harvester.eventlog.storage.sealed_lines import checksum, seal, sealed_hash
from harvester.eventlog.storage.sequence_checks import order_problem, rows_problem
from harvester.events.batch import Batch
from harvester.events.kinds import SCHEMA_VERSION, Action, Kind, Stream
from harvester.files import Disk
from harvester.units import BEFORE_ALL
from harvester.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from io import FileIO
    from pathlib import Path
    from types import TracebackType

    from harvester.eventlog.storage.format import Compression, Status
    from harvester.home import DatePaths

CLOCK_ROWS_MAX = 400_000  # keeps a journal line below `LINE_BYTES_MAX`
_COMPRESSIONS: dict[str | None, Compression | None] = {None: None, "none": None, "lz4": "lz4", "zstd": "zstd"}


def _open_again(paths: DatePaths, *, reopen: bool) -> EodMark:
    """The end-of-day mark of a closed date, or an empty mark for an open one."""
    closed = read_closed(paths)
    if closed and not reopen:
        raise DateClosed(
            f"{paths.trading_date} was closed at seq {closed.last_seq}; give --reopen to record on it again"
        )
    return closed or EodMark(paths.trading_date.isoformat(), 0, "", last_ts=BEFORE_ALL)


def _recovered(paths: DatePaths, disk: Disk) -> RecoveredDay:
    try:
        return recover_held(paths, disk)
    except DamagedLog as error:
        raise error.for_writers(paths.trading_date) from None


class Commit(NamedTuple):
    """The result of one commit: seq range, ts_recv range (ns UTC), rows, bytes, the run's content hash so far."""

    first_seq: int
    last_seq: int
    first_ts: int
    last_ts: int
    rows: int
    n_bytes: int
    content_hash: str


class LogWriter:
    """One run of one date. Created by `open`; not thread-safe.

    Attributes:
        run_id: `r001`, `r002`, …
        next_seq: required seq of the next event.
        last_ts: ts_recv of the date's last event, ns UTC; later events must not have an earlier ts_recv.
        recovered: the runs recovered before this run began.
        bytes_written: bytes of this run so far, for the disk forecast.
    """

    def __init__(self, folder: Path, manifest: Manifest, lock: DateLock, disk: Disk, margin_bytes: int) -> None:
        self.folder, self.run_id = folder, manifest.run
        self.next_seq, self.last_ts = manifest.first_seq, BEFORE_ALL
        self.recovered: list[Recovery] = []
        self.bytes_written = 0
        self._manifest, self._lock, self._disk, self._margin_bytes = manifest, lock, disk, margin_bytes
        self._files: dict[str, FileIO] = {}
        self._ends: dict[Kind, int] = {}
        self._hash = ContentHash()
        self._commits, self._chain = 0, manifest.genesis()
        self._digests, self._digests_chain = 0, manifest.genesis()
        self._failure: LogWriteFailed | None = None
        self._run_start: dict[str, Any] = {}

    @classmethod
    def open(
        cls,
        paths: DatePaths,
        *,
        run_start_row: Mapping[str, Any] | None = None,
        reopen: bool = False,
        compression: str | None = None,
        margin_bytes: int = MARGIN_BYTES,
        disk: Disk | None = None,
        now_ns: Callable[[], int] = real_wall_ns,
    ) -> LogWriter:
        """Lock the date, recover killed runs, and create the next run.

        Nothing is committed yet: fold the day so far, then call `begin`.

        Args:
            paths: paths of the date to record on.
            run_start_row: columns of the run's first event, `params` among them; its digest goes into the manifest.
            reopen: continue a date that `hv eod` has closed.
            compression: None, "none", "lz4" or "zstd".
            margin_bytes: free bytes a commit must leave.
            disk: the file layer, for tests.
            now_ns: the clock (ns UTC) for the note that names the lock's holder.

        Raises:
            LockHeld: another process writes on this date.
            DateClosed: the date is closed and `reopen` is false.
            DamagedLog: an earlier run is damaged, so the next seq is not certain.
            FutureFormat: an earlier run was written by a newer Harvester.
            LogWriteFailed: the run's folder cannot be created.
        """
        if compression not in _COMPRESSIONS:
            raise BadSetting(f"compression {compression!r} is unknown; choose from none, lz4, zstd")
        disk = disk or Disk()
        row = {"action": Action.RUN_START.value, "stream": Stream.RUN.value, **(run_start_row or {})}
        lock = DateLock(paths, now_ns=now_ns).acquire()
        try:
            closed = _open_again(paths, reopen=reopen)
            held = _recovered(paths, disk)
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                schema_version=SCHEMA_VERSION,
                package=__version__,
                trading_date=paths.trading_date.isoformat(),
                run=run_name(max(held.last_run, closed.last_run) + 1),
                first_seq=max(held.last_seq, closed.last_seq) + 1,
                status="running",
                config_digest=checksum(str(row.get("params") or "").encode()),
                compression=_COMPRESSIONS[compression],
            )
            writer = cls(paths.log / manifest.run, manifest, lock, disk, margin_bytes)
            writer.last_ts, writer.recovered = max(held.last_ts, closed.last_ts), held.recovered
            writer._run_start = row
            writer._create(paths.home.root)
        except BaseException:
            lock.release()
            raise
        return writer

    def _create(self, root: Path) -> None:
        """Create the run's folder under a temporary name, so that a folder named as a run always holds a manifest."""
        new = self.folder.with_name(f".{self.run_id}.new")
        try:
            self._disk.make_folder(new)
            self._disk.write_new(new / JOURNAL, b"")
            self._disk.write_new(new / DIGESTS, b"")
            self._disk.write_new(new / MANIFEST, seal(msgspec.json.encode(self._manifest)))
            self._disk.sync_folder(new)
            self._disk.replace(new, self.folder)
            self._disk.sync_names(self.folder, root)
            for name in (JOURNAL, DIGESTS):
                self._files[name] = self._disk.open_append(self.folder / name)
        except OSError as error:
            self._close_files()
            raise LogWriteFailed(f"cannot begin run {self.folder}: {error.strerror or error}") from error

    def begin(self, ts_recv: int) -> Batch:
        """Commit the run's first event, `run_start`, with `ts_recv` (ns UTC) or `last_ts`, whichever is later.

        Returns:
            The committed batch, for the engine to fold.
        """
        if self._commits:
            raise HarvesterError(f"run {self.run_id} has begun already")
        row = {**self._run_start, "ts_recv": max(ts_recv, self.last_ts)}
        batch = Batch.of([(Kind.REQUEST, row)], self.next_seq)
        self.commit(batch)
        return batch

    def commit(self, batch: Batch) -> Commit:
        """Append a batch; it is durable when this returns. An empty batch writes nothing.

        Raises:
            HarvesterError: the batch does not continue the log; nothing is written, the writer stays usable.
            LogWriteFailed: the disk is full or failing; the writer rejects all later calls.
        """
        self._refuse_after_failure()
        if not len(batch):
            ts = self.last_ts
            return Commit(self.next_seq, self.next_seq - 1, ts, ts, 0, 0, self._hash.digest())
        first_ts, last_ts = self._check(batch)
        try:
            return self._commit(batch, first_ts, last_ts)
        except BaseException as error:
            # After an interrupted commit, memory and files no longer agree.
            self._failure = self._failure or LogWriteFailed(f"a commit was interrupted: {error!r}")
            raise

    def _commit(self, batch: Batch, first_ts: int, last_ts: int) -> Commit:
        bodies: dict[Kind, bytes] = {
            kind: self._body(kind, rows) for kind, rows in batch.tables.items() if kind is not Kind.CLOCK
        }
        parts = [
            Part(kind, self._ends.get(kind, 0), len(body), batch.tables[kind].num_rows, checksum(body))
            for kind, body in bodies.items()
        ]
        clock = batch.tables.get(Kind.CLOCK)
        line = CommitLine(
            commit=self._commits + 1,
            first_seq=self.next_seq,
            last_seq=self.next_seq + len(batch) - 1,
            first_ts=first_ts,
            last_ts=last_ts,
            clock=() if clock is None else clock_lines(clock),
            files=tuple(parts),
            content=self._hash.update(batch).digest(),
            prev=self._chain,
        )
        sealed = seal(msgspec.json.encode(line))
        self._write_commit(line, bodies, sealed)
        self._commits, self._chain = line.commit, sealed_hash(sealed)
        self._ends.update((part.kind, part.end) for part in parts)
        self.next_seq, self.last_ts = line.last_seq + 1, last_ts
        n_bytes = len(sealed) + sum(map(len, bodies.values()))
        self.bytes_written += n_bytes
        return Commit(line.first_seq, line.last_seq, first_ts, last_ts, line.rows, n_bytes, line.content)

    def _check(self, batch: Batch) -> tuple[int, int]:
        problem = next((p for kind, rows in batch.tables.items() if (p := rows_problem(kind, rows))), "")
        first_ts = last_ts = 0
        if not problem:
            problem, first_ts, last_ts = order_problem(batch.tables, self.next_seq, self.last_ts)
        if Kind.CLOCK in batch.tables and batch.tables[Kind.CLOCK].num_rows > CLOCK_ROWS_MAX:
            problem = f"{batch.tables[Kind.CLOCK].num_rows} clock events in one commit, the maximum is {CLOCK_ROWS_MAX}"
        if problem:
            raise HarvesterError(
                f"batch rejected, it does not follow seq {self.next_seq - 1} of {self.run_id}: {problem}"
            )
        return first_ts, last_ts

    def _body(self, kind: Kind, rows: Any) -> bytes:
        body = encode(rows, self._manifest.compression)
        return body if kind in self._ends else HEADERS[kind] + body

    def _write_commit(self, line: CommitLine, bodies: Mapping[Kind, bytes], sealed: bytes) -> None:
        need = len(sealed) + sum(map(len, bodies.values()))
        where = "free space"
        try:
            free = self._disk.free_bytes(self.folder)
            if free - need < self._margin_bytes:
                raise OSError(f"{size_text(free)} left, the margin is {size_text(self._margin_bytes)}")  # noqa: TRY301 - handled like a failure of the disk
            new = [kind for kind in bodies if kind not in self._ends]
            for kind, body in bodies.items():
                where = file_of(kind)
                if where not in self._files:
                    self._files[where] = self._disk.create(self.folder / where)
                self._disk.write(self._files[where], body)
            for kind in bodies:
                where = file_of(kind)
                self._disk.fsync(self._files[where])
            if new:
                where = "the run's folder"
                self._disk.sync_folder(self.folder)
            where = JOURNAL
            self._append(JOURNAL, sealed)
        except OSError as error:
            self._fail(f"{where}, {need} bytes of seq {line.first_seq}-{line.last_seq}", error)

    def _append(self, name: str, data: bytes) -> None:
        self._disk.write(self._files[name], data)
        self._disk.fsync(self._files[name])

    def live_digests(self, seq: int, digests: Mapping[str, str]) -> None:
        """Store the projections' digests after event `seq`; durable when this returns.

        Raises:
            HarvesterError: `seq` is not committed.
            LogWriteFailed: the disk is full or failing.
        """
        self._refuse_after_failure()
        if not 0 <= seq < self.next_seq:
            raise HarvesterError(f"live digests for seq {seq}, the last committed is {self.next_seq - 1}")
        line = DigestLine(self._digests + 1, seq, dict(digests), self._digests_chain)
        sealed = seal(msgspec.json.encode(line))
        try:
            self._append(DIGESTS, sealed)
        except OSError as error:
            self._fail(f"{DIGESTS}, {len(sealed)} bytes at seq {seq}", error)
        self._digests, self._digests_chain = line.line, sealed_hash(sealed)
        self.bytes_written += len(sealed)

    def content_hash(self) -> str:
        """The run's content hash so far."""
        return self._hash.digest()

    def _refuse_after_failure(self) -> None:
        if self._failure is not None:
            raise LogWriteFailed(f"run {self.run_id} accepts no more writes: {self._failure}") from self._failure
        if not self._files:
            raise HarvesterError(f"run {self.run_id} is closed")

    def _fail(self, where: str, error: OSError) -> None:
        free = ""
        with suppress(OSError):
            free = f"{size_text(self._disk.free_bytes(self.folder))} free; "
        self._failure = LogWriteFailed(
            f"cannot write {self.folder}: {where}: {error.strerror or error}; {free}"
            f"everything up to seq {self.next_seq - 1} is safe; free space or change the disk, then start again"
        )
        raise self._failure from error

    def close(self, status: Status = "ended") -> None:
        """End the run: write its end into the manifest and release the lock. After a failure, only release the lock.

        Raises:
            LogWriteFailed: the manifest cannot be replaced; the next writer of the date recovers the run.
        """
        if not self._files:
            return
        self._close_files()
        try:
            if self._failure is None:
                manifest = msgspec.structs.replace(self._manifest, status=status, final=self._final())
                self._disk.write_atomic(self.folder / MANIFEST, seal(msgspec.json.encode(manifest)))
        except OSError as error:
            self._fail(MANIFEST, error)
        finally:
            self._lock.release()

    def _final(self) -> Final:
        return Final(
            commits=self._commits,
            last_seq=self.next_seq - 1,
            chain=self._chain,
            content_hash=self._hash.digest(),
            digests=self._digests,
            digests_chain=self._digests_chain,
        )

    def _close_files(self) -> None:
        for file in self._files.values():
            with suppress(OSError):
                file.close()
        self._files.clear()

    def abandon(self) -> None:
        """Close the files and release the lock without ending the run; the next writer recovers it."""
        self._close_files()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()
