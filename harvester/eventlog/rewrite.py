"""Rewrite a finished run in another storage format: same rows, same content hash. Compaction and the archive use it.

    rewrite(log, RewriteTarget(folder, "compacted", disk, CANDIDATE))
    prove(log, RunLog(folder, log.run, CANDIDATE))                 re-read every byte and every row

The source is not changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from harvester.disk_space import MARGIN_BYTES, size_text
from harvester.errors import LogWriteFailed, Mismatch
from harvester.eventlog.reader import run_spans
from harvester.eventlog.rebatch import rebatch
from harvester.eventlog.runs_of_day import good_ranges
from harvester.eventlog.storage.content_hash import ContentHash
from harvester.eventlog.storage.damage import BadBytes, damaged_log
from harvester.eventlog.storage.format import (
    FORMAT_VERSION,
    MANIFEST,
    CommitLine,
    DigestLine,
    Final,
    Part,
    digests_of,
    file_of,
    journal_of,
)
from harvester.eventlog.storage.ipc_streams import HEADERS, encode
from harvester.eventlog.storage.parquet_files import ParquetBodies
from harvester.eventlog.storage.sealed_lines import checksum, seal, sealed_hash
from harvester.eventlog.verify_log import verify_rows
from harvester.events.kinds import SCHEMA_VERSION, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import FileIO
    from pathlib import Path

    from harvester.eventlog.run import RunLog
    from harvester.eventlog.storage.format import Storage
    from harvester.events.batch import Batch
    from harvester.files import Disk

COMMIT_ROWS, COMMIT_ROWS_MIN, COMMITS = 131_072, 4_096, 16
"""Most and fewest events per commit, and the number of commits aimed at between the two limits: large enough to
compress well, and one damaged byte costs a sixteenth of a small run."""


class RewriteTarget(NamedTuple):
    """Where and how to store a run: folder, storage format, file layer, manifest name."""

    folder: Path
    storage: Storage
    disk: Disk
    manifest_name: str = MANIFEST


class _Cut(NamedTuple):
    first_seq: int
    last_seq: int
    first_ts: int
    last_ts: int
    content: str
    parts: list[Part]


class _StreamBodies:
    """Arrow streams of large zstd batches."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder, self._disk = folder, disk
        self._files: dict[Kind, FileIO] = {}
        self._ends: dict[Kind, int] = {}
        self._parts: list[list[Part]] = []

    def add(self, batch: Batch) -> None:
        parts = []
        for kind, rows in batch.tables.items():
            body = encode(rows, "zstd")
            if kind not in self._files:
                self._files[kind] = self._disk.create(self._folder / file_of(kind, "compacted"))
                body = HEADERS[kind] + body
            self._disk.write(self._files[kind], body)
            parts.append(Part(kind, self._ends.get(kind, 0), len(body), rows.num_rows, checksum(body)))
            self._ends[kind] = parts[-1].end
        self._parts.append(parts)

    def finish(self) -> tuple[list[list[Part]], list[Part]]:
        for file in self._files.values():
            self._disk.fsync(file)
            file.close()
        return self._parts, []

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def rewrite(source: RunLog, target: RewriteTarget, progress: Callable[[int], None] = lambda _: None) -> None:
    """Write the events and live digests of a finished run; `progress` is called with the event count of each step.

    Raises:
        DamagedLog: the source is damaged.
        Mismatch: the source's rows do not match its content hash.
        LogWriteFailed: the disk is full or failing.
    """
    if not source.checked:
        source.check_bodies()
    if source.damages:
        raise damaged_log(source.damages, good_ranges([source]))
    try:
        need, free = sum(source.ends.values()), target.disk.free_bytes(target.folder)
        if free < need + MARGIN_BYTES:
            raise OSError(  # noqa: TRY301 - handled like a failure of the disk
                f"{size_text(free)} free, {size_text(need + MARGIN_BYTES)} needed"
            )
        cuts, tails = _bodies(source, target, progress)
        _write_metadata(source, target, cuts, tails)
    except ValueError as error:
        raise Mismatch(f"{target.folder}: read-back failed: {error}; nothing was deleted, check the disk") from None
    except OSError as error:
        raise LogWriteFailed(
            f"cannot rewrite {source.folder}: {error.strerror or error}; it is unchanged; free space and try again"
        ) from error


def commit_rows(rows: int) -> int:
    """Events per commit, at most, for a run of `rows` events."""
    return min(COMMIT_ROWS, max(COMMIT_ROWS_MIN, -(-rows // COMMITS)))


def _bodies(source: RunLog, target: RewriteTarget, progress: Callable[[int], None]) -> tuple[list[_Cut], list[Part]]:
    folder, storage, disk, _ = target
    content, cuts = ContentHash(), []
    rows_max = commit_rows(sum(line.rows for line in source.commits))
    bodies = ParquetBodies(folder, disk) if storage == "parquet" else _StreamBodies(folder, disk)
    try:
        for batch in rebatch(_batches(source), rows_max, ()):
            bodies.add(batch)
            digest = content.update(batch).digest()
            cuts.append(_Cut(batch.first_seq, batch.last_seq, *_times(batch), digest, []))
            progress(len(batch))
        parts, tails = bodies.finish()
    finally:
        bodies.close()
    if content.digest() != source.content_hash:
        raise Mismatch(f"the rows of {source.folder} do not match its content hash; check it with hv log verify")
    return [cut._replace(parts=of_cut) for cut, of_cut in zip(cuts, parts, strict=True)], tails


def _batches(log: RunLog) -> Iterator[Batch]:
    for first, last in run_spans(log, rows_max=4 * COMMIT_ROWS):
        try:
            yield log.load(first, last)
        except BadBytes as error:
            raise damaged_log([error.damage], good_ranges([log])) from None


def _times(batch: Batch) -> tuple[int, int]:
    columns = [rows.column(1) for rows in batch.tables.values()]
    return min(column[0].as_py() for column in columns), max(column[-1].as_py() for column in columns)


def _write_metadata(source: RunLog, target: RewriteTarget, cuts: list[_Cut], tails: list[Part]) -> None:
    """Write the journal, the live digests and, last, the manifest."""
    folder, storage, disk, manifest_name = target
    assert source.manifest is not None
    now = msgspec.structs.replace(source.manifest, format_version=FORMAT_VERSION, schema_version=SCHEMA_VERSION)
    genesis = now.genesis()
    journal, chain = [], genesis
    for i, cut in enumerate(cuts):
        line = CommitLine(i + 1, *cut[:4], (), tuple(cut.parts), cut.content, chain)
        journal.append(seal(msgspec.json.encode(line)))
        chain = sealed_hash(journal[-1])
    digests, digests_chain = [], genesis
    for digest_line in source.digests:
        digests.append(seal(msgspec.json.encode(msgspec.structs.replace(digest_line, prev=digests_chain))))
        digests_chain = sealed_hash(digests[-1])
    final = Final(len(journal), source.last_seq, chain, cuts[-1].content, len(digests), digests_chain)
    manifest = msgspec.structs.replace(
        now,
        status="compacted",
        compression="zstd",
        final=final,
        storage=storage,
        tails=tails,
    )
    disk.write_new(folder / journal_of(storage), b"".join(journal))
    disk.write_new(folder / digests_of(storage), b"".join(digests))
    disk.write_new(folder / manifest_name, seal(msgspec.json.encode(manifest)))
    disk.sync_folder(folder)


def prove(source: RunLog, copy: RunLog, progress: Callable[[int], None] | None = None) -> None:
    """Read the copy back and compare it with the source: every byte, every row, the content hash, the live digests.

    Raises:
        Mismatch: the copy is not equal to the source.
    """
    copy.refresh()
    copy.check_bodies(progress)
    rows = verify_rows(copy, progress)
    same = (
        not copy.damages
        and copy.finished
        and rows == sum(line.rows for line in source.commits)
        and (copy.first_seq, copy.last_seq) == (source.first_seq, source.last_seq)
        and copy.content_hash == source.content_hash
        and (copy.commits[0].first_ts, copy.commits[-1].last_ts)
        == (source.commits[0].first_ts, source.commits[-1].last_ts)
        and _digest_values(copy.digests) == _digest_values(source.digests)
        and not any(copy.torn.values())
    )
    if not same:
        what = str(copy.damages[0]) if copy.damages else f"{rows} rows up to seq {copy.last_seq} read back differ"
        raise Mismatch(f"{copy.folder} is not equal to {source.folder}: {what}; nothing was deleted, check the disk")


def _digest_values(lines: list[DigestLine]) -> list[tuple[int, dict[str, str]]]:
    return [(line.seq, line.digests) for line in lines]
