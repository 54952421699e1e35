"""Define the files of a run, byte by byte. `FORMAT_VERSION` increases when one of them changes its meaning.

`manifest.json`      one sealed line (see `sealed_lines`): `Manifest`. Replaced atomically when the run ends.
`commits.jsonl`      sealed lines: `CommitLine`, one per group commit. `prev` is the hash of the previous line (for the
                     first, the run's `genesis`), so a lost, swapped or foreign line is detected.
`<kind>.arrows`      an Arrow IPC stream: schema message, then one record batch per commit that has rows of the kind, no
                     end mark. The journal's parts cover the file without a gap: the first begins at byte 0 and so
                     contains the schema message, each later one begins where the previous one ended.
`live_digests.jsonl` sealed lines: `DigestLine`, chained like the journal.

A finished run may be rewritten with the same rows and content hash; `Manifest.storage` is its storage format:
`stream`     as above, about one commit per second, as it was recorded
`compacted`  the same files with few large commits, zstd, under other names (`<kind>.compacted.arrows`), so that old and
             new files coexist until the manifest is replaced: that single rename switches over
`parquet`    `<kind>.parquet`, one row group per commit; `Manifest.tails` names the footers. See `parquet_files.py`

Format 2 added the last two. A format-1 run is always a stream.

All versions seal the manifest the same way and put both version numbers first, so a newer log is not mistaken for a
damaged one.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from harvester.errors import FutureFormat
from harvester.eventlog.storage.sealed_lines import checksum
from harvester.events.kinds import SCHEMA_VERSION, Kind

FORMAT_VERSION = 2
MANIFEST, JOURNAL, DIGESTS, QUARANTINE = "manifest.json", "commits.jsonl", "live_digests.jsonl", "quarantine"
DELETION = "deletion.json"  # lists files to delete; in a run's folder only while a compaction deletes them
MANIFEST_BYTES_MAX = 1024 * 1024

Compression = Literal["lz4", "zstd"]
Status = Literal["running", "ended", "recovered", "compacted"]
Storage = Literal["stream", "compacted", "parquet"]

_RUN = re.compile(r"r(\d{3,6})")
_I64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_I32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
_U16 = Annotated[int, Meta(ge=0, le=2**16 - 1)]
_Count = Annotated[int, Meta(ge=0, le=2**62)]
_Number = Annotated[int, Meta(ge=1, le=2**62)]
_Check = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
_Identity = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_Compared = Annotated[
    str, Meta(min_length=32, max_length=32)
]  # compared with a computed hash: any other text fails there


_BODY = {"stream": "{}.arrows", "compacted": "{}.compacted.arrows", "parquet": "{}.parquet"}
_JOURNALS = {"stream": JOURNAL, "compacted": "commits.compacted.jsonl", "parquet": JOURNAL}
_DIGESTS = {"stream": DIGESTS, "compacted": "live_digests.compacted.jsonl", "parquet": DIGESTS}


def file_of(kind: Kind, storage: Storage = "stream") -> str:
    """Name of a kind's file. Names come only from the list of kinds, never from a journal."""
    return _BODY[storage].format(kind.value)


def journal_of(storage: Storage) -> str:
    return _JOURNALS[storage]


def digests_of(storage: Storage) -> str:
    return _DIGESTS[storage]


def names_of(storage: Storage) -> list[str]:
    """Every file of a run but its manifest."""
    return [journal_of(storage), digests_of(storage), *(file_of(kind, storage) for kind in Kind)]


def run_name(number: int) -> str:
    return f"r{number:03d}"


def run_number(name: str) -> int | None:
    """Number of a run's folder, None for anything else."""
    match = _RUN.fullmatch(name)
    return int(match[1]) if match and name == run_name(int(match[1])) else None


class Final(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The end of a finished run, by which a journal that lost whole lines is detected."""

    commits: _Count
    last_seq: _Count
    chain: _Check
    content_hash: _Identity
    digests: _Count
    digests_chain: _Check


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The bytes one commit appended to one kind's file: offset and length in bytes, rows, checksum.

    `req_ids`, Parquet only: (con_id, req_id) pairs from which the req_ids are derived; they are not stored in the file.
    """

    kind: Kind
    offset: _Count
    length: _Number
    rows: _Number
    checksum: _Compared
    req_ids: list[tuple[_I64, _I32]] = []

    @property
    def end(self) -> int:
        return self.offset + self.length


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The description of a run. `first_seq` is set even when the run has no event.

    `tails`, Parquet only: per kind the footer after the row groups, with the row count of the whole file.
    """

    format_version: Annotated[int, Meta(ge=1)]
    schema_version: Annotated[int, Meta(ge=1)]
    package: str
    trading_date: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    run: Annotated[str, Meta(pattern=r"^r\d{3,6}$")]
    first_seq: _Number
    status: Status
    config_digest: str
    compression: Compression | None = None
    final: Final | None = None
    storage: Storage = "stream"
    tails: list[Part] = []

    def genesis(self) -> str:
        """The `prev` of the run's first line: ties the journal to its manifest."""
        return checksum(
            msgspec.json.encode(
                [
                    self.format_version,
                    self.schema_version,
                    self.trading_date,
                    self.run,
                    self.first_seq,
                    self.config_digest,
                ]
            )
        )

    def __post_init__(self) -> None:
        if (self.final is None) != (self.status == "running"):
            raise ValueError(f"status {self.status} contradicts final {self.final}")
        if self.storage not in (("compacted", "parquet") if self.status == "compacted" else ("stream",)):
            raise ValueError(f"status {self.status} contradicts storage {self.storage}")
        kinds = [part.kind for part in self.tails]
        if (self.storage != "parquet" and kinds) or len(set(kinds)) != len(kinds):
            raise ValueError(f"storage {self.storage} contradicts tails of {kinds}")


ClockRow = tuple[_Number, _I64, _I64, _I32, _U16, _I64, _I64]
"""A `clock` event: seq, ts_recv, con_id, req_id, epoch, wall_ns, mono_ns."""


class CommitLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One group commit. `content` is the content hash of the run up to and including it; times are ns UTC.

    The fields are tuples, which Python's garbage collector need not scan: there are tens of thousands of lines. `clock`
    events of a stream are stored here, which saves a file and its sync; in a rewritten run they have a file.
    """

    commit: _Number
    first_seq: _Number
    last_seq: _Number
    first_ts: _I64
    last_ts: _I64
    clock: tuple[ClockRow, ...]
    files: tuple[Part, ...]
    content: _Identity
    prev: _Compared

    @property
    def rows(self) -> int:
        return self.last_seq - self.first_seq + 1

    def problem(self) -> str:
        """An inconsistency within the line; empty for none."""
        rows, kinds = len(self.clock), []
        for part in self.files:
            rows += part.rows
            kinds.append(part.kind)
        if rows != self.rows:
            return f"seq {self.first_seq}-{self.last_seq} is {self.rows} events, the line has {rows}"
        if len(set(kinds)) != len(kinds):
            return f"files {', '.join(kinds)}: a kind occurs twice"
        return ""


class DigestLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The digests of the live projections after event `seq`, one per projection."""

    line: _Number
    seq: _Count
    digests: dict[str, str]
    prev: _Check


class _Versions(msgspec.Struct):
    format_version: int
    schema_version: int


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Malformed(ValueError):
    """Bytes with a valid hash that this version does not write."""


_MANIFEST, _VERSIONS = msgspec.json.Decoder(Manifest), msgspec.json.Decoder(_Versions)
_COMMIT, _DIGEST = msgspec.json.Decoder(CommitLine), msgspec.json.Decoder(DigestLine)


def decode_manifest(body: bytes, where: str) -> Manifest:
    """Parse an unsealed manifest.

    Raises:
        FutureFormat: a newer version wrote it.
        Malformed: it is not a manifest.
    """
    try:
        versions = _VERSIONS.decode(body)
    except _UNREADABLE as error:
        raise Malformed(f"not a manifest: {error}") from None
    if versions.format_version > FORMAT_VERSION or versions.schema_version > SCHEMA_VERSION:
        raise FutureFormat(
            f"{where} has format {versions.format_version}, schema {versions.schema_version}; this Harvester reads "
            f"up to format {FORMAT_VERSION}, schema {SCHEMA_VERSION}: install a newer one"
        )
    try:
        return _MANIFEST.decode(body)
    except _UNREADABLE as error:
        raise Malformed(f"not a manifest: {error}") from None


def decode_commit(body: bytes) -> CommitLine:
    """Parse an unsealed journal line.

    Raises:
        Malformed: it is not a consistent journal line.
    """
    try:
        line = _COMMIT.decode(body)
    except _UNREADABLE as error:
        raise Malformed(f"not a commit: {error}") from None
    if problem := line.problem():
        raise Malformed(problem)
    return line


def decode_digest(body: bytes) -> DigestLine:
    """Parse an unsealed line of live digests.

    Raises:
        Malformed: it is not a line of live digests.
    """
    try:
        return _DIGEST.decode(body)
    except _UNREADABLE as error:
        raise Malformed(f"not a line of digests: {error}") from None
