"""Read a recorded date: `open_day` returns a `Day` with merged batches, tables, frames and the content hash.

    day = open_day("2025-07-17")
    for batch in day.batches(rows_max=100_000):
        engine.fold(batch)
    day.frame(Kind.TRADE)            a Polars frame

Opening compares every byte the journals name with its checksum; with `check=False` each byte is compared when it is
read. A `Day` is the date as of its opening; `follow.Follower` follows a live one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from harvester.errors import HarvesterError
from harvester.eventlog.eod_mark import read_closed
from harvester.eventlog.quarantine import read_quarantine_notes
from harvester.eventlog.rebatch import rebatch
from harvester.eventlog.run import RunLog, RunRewritten
from harvester.eventlog.runs_of_day import between_runs, good_ranges, read_marks, read_runs
from harvester.eventlog.storage.content_hash import ContentHash, combined
from harvester.eventlog.storage.damage import BadBytes, Damage, damaged_log
from harvester.events.kinds import SCHEMAS, Kind
from harvester.home import Home, parse_date
from harvester.units import NEVER

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from datetime import date as Date  # noqa: N812 - `date` is the parameter's name
    from pathlib import Path

    import polars as pl

    from harvester.eventlog.eod_mark import EodMark
    from harvester.events.batch import Batch

WINDOW_BYTES = 64 * 1024 * 1024
WINDOW_ROWS = 1_000_000


class Mark(NamedTuple):
    """The end of a commit: last seq, ts_recv of that event (ns UTC), and a key for all content of the day so far."""

    last_seq: int
    last_ts: int
    content: str


class RunView(NamedTuple):
    """One run of a date. Times are ns UTC, 0 when it holds no event; `n_bytes` includes journal and live digests."""

    run: str
    folder: Path
    status: str
    first_seq: int
    last_seq: int
    first_ts: int
    last_ts: int
    rows: int
    commits: int
    n_bytes: int
    content_hash: str
    config_digest: str
    package: str
    compression: str


def run_view(log: RunLog) -> RunView:
    """Summarise a run."""
    manifest, lines = log.manifest, log.commits
    rows = log.last_seq - log.first_seq + 1
    if log.damages:
        rows = sum(line.rows for i, line in enumerate(lines) if i not in log.bad)
    return RunView(
        run=log.run,
        folder=log.folder,
        status=manifest.status if manifest else "damaged",
        first_seq=log.first_seq,
        last_seq=log.last_seq,
        first_ts=lines[0].first_ts if lines else 0,
        last_ts=lines[-1].last_ts if lines else 0,
        rows=rows,
        commits=len(lines),
        n_bytes=log.journal_end + log.digests_end + sum(log.ends.values()),
        content_hash=lines[-1].content if lines else ContentHash().digest(),
        config_digest=manifest.config_digest if manifest else "",
        package=manifest.package if manifest else "",
        compression=(manifest.compression if manifest else None) or "none",
    )


class Day:
    """A trading date's log.

    Attributes:
        trading_date: the date.
        logs: its runs in order, for other modules of this package.
        damages: the damage found; empty unless the day was opened with `salvage`.
    """

    def __init__(
        self,
        trading_date: Date,
        logs: Sequence[RunLog],
        closed: EodMark | None,
        between: list[Damage],
        *,
        salvage: bool,
    ) -> None:
        self.trading_date = trading_date
        self.logs, self._closed, self._salvage = list(logs), closed, salvage
        self._between = between
        self._refuse_damage()

    @property
    def damages(self) -> list[Damage]:
        return [damage for log in self.logs for damage in log.damages] + self._between

    @property
    def runs(self) -> list[RunView]:
        """The date's runs, in order."""
        return [run_view(log) for log in self.logs]

    @property
    def first_seq(self) -> int:
        """First seq that can be read; 1 unless the log's beginning was deleted after the date was closed."""
        return next((log.first_seq for log in self.logs if log.commits), 1)

    @property
    def last_seq(self) -> int:
        """High watermark: the last seq in the journals, 0 for none."""
        return max((log.last_seq for log in self.logs if log.commits), default=0)

    @property
    def last_ts(self) -> int:
        """ts_recv of the last event, ns UTC, 0 for none."""
        return max((log.commits[-1].last_ts for log in self.logs if log.commits), default=0)

    @property
    def rows(self) -> int:
        """Events that can be read."""
        return sum(run.rows for run in self.runs)

    @property
    def complete(self) -> bool:
        """Whether every run has ended (or was recovered) and nothing is damaged."""
        return all(log.finished for log in self.logs) and not self.damages

    @property
    def good(self) -> tuple[tuple[int, int], ...]:
        """Closed ranges of seq that can be read: one, unless the day was salvaged."""
        return good_ranges(self.logs)

    def marks(self) -> list[Mark]:
        """One mark per commit, in order, to check whether a cached engine state belongs to this log."""
        marks: list[Mark] = []
        for i, log in enumerate(self.logs):
            before = combined(one.commits[-1].content for one in self.logs[:i] if one.commits)
            marks += [Mark(line.last_seq, line.last_ts, before[:32] + line.content[:32]) for line in log.commits]
        return marks

    def check(self) -> None:
        """Compare every byte with its checksum, for a day opened with `check=False` and not read.

        Raises:
            DamagedLog: the log is damaged.
        """
        for log in self.logs:
            log.check_bodies()
        self._refuse_damage()

    def _refuse_damage(self) -> None:
        if not self._salvage and (damages := self.damages):
            raise damaged_log(damages, self.good)

    def batches(
        self,
        rows_max: int | None = None,
        cuts: Sequence[int] = (),
        from_seq: int = 1,
        to_seq: int | None = None,
    ) -> Iterator[Batch]:
        """Iterate over all events in seq order.

        Args:
            rows_max: rows per batch, at most; a batch is smaller only at the end of a run and at a cut. None: as many
                rows as are read at a time (up to about a million).
            cuts: seqs at which a batch must end.
            from_seq: seq of the first event.
            to_seq: seq of the last event; later commits are not read. None: to the end.

        A batch never spans two runs or, in a salvaged day, a gap.

        Raises:
            DamagedLog: the log is damaged.
        """
        if rows_max is not None and rows_max < 1:
            raise HarvesterError(f"rows_max is {rows_max}; it must be 1 or more")
        last = self.last_seq if to_seq is None else to_seq
        for log in self.logs:
            yield from rebatch(self._windows(log, from_seq, last, rows_max), rows_max, cuts)

    def _windows(self, log: RunLog, from_seq: int, to_seq: int, rows_max: int | None) -> Iterator[Batch]:
        for first, last in run_spans(log, from_seq, min(max(WINDOW_ROWS, rows_max or 0), 8 * WINDOW_ROWS), to_seq):
            for batch in self._read(log, first, last):
                inside = from_seq <= batch.first_seq and batch.last_seq <= to_seq
                cut = batch if inside else batch.slice(from_seq, to_seq)
                if len(cut):
                    yield cut

    def _read(self, log: RunLog, first: int, last: int) -> Iterator[Batch]:
        try:
            yield log.load(first, last)
        except RunRewritten:
            yield from read_again(log, log.commits[first].first_seq, log.commits[last - 1].last_seq)
        except BadBytes:
            self._refuse_damage()
            for i in range(first, last):
                if i not in log.bad:  # at least one is, now
                    yield from self._read(log, i, i + 1)

    def table(self, kind: Kind | str) -> pa.Table:
        """All rows of one kind, in seq order, in chunks of about a million rows.

        Raises:
            DamagedLog: the log is damaged.
        """
        kind = _kind(kind)
        pieces = []
        for log in self.logs:
            for first, last in run_spans(log):
                pieces += self._read_kind(log, kind, first, last)
        return pa.Table.from_batches(pieces, SCHEMAS[kind])

    def _read_kind(self, log: RunLog, kind: Kind, first: int, last: int) -> list[pa.RecordBatch]:
        try:
            rows = log.load_kind(kind, first, last)
        except BadBytes:  # damaged, or rewritten
            # Reading all kinds finds the damaged commit, and drops rows that the other kinds do not confirm.
            return [batch.tables[kind] for batch in self._read(log, first, last) if kind in batch.tables]
        return [rows] if rows is not None else []

    def frame(self, kind: Kind | str) -> pl.DataFrame:
        """All rows of one kind as a Polars frame; `kind` may be its name, `"trade"`."""
        import polars as pl

        frame = pl.from_arrow(self.table(kind))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def identity(self) -> str:
        """The date's content hash: hex BLAKE2b-256 over the content hashes of its runs, in order.

        For runs deleted after the date was closed, the hashes in `closed.json` are used.

        Raises:
            DamagedLog: the log is damaged, so it has no content hash.
        """
        if damages := self.damages:
            raise damaged_log(damages, self.good)
        return day_identity(self.logs, self._closed)

    def live_digests(self) -> list[tuple[str, int, dict[str, str]]]:
        """Digests of the live projections: (run, seq, digest per projection)."""
        return [(log.run, line.seq, line.digests) for log in self.logs for line in log.digests]


def read_again(log: RunLog, first_seq: int, last_seq: int) -> Iterator[Batch]:
    """Read the same events, all columns, from the files that a compaction put in place of the opened ones.

    Raises:
        DamagedLog: the new files are damaged.
    """
    now = RunLog(log.folder)
    now.refresh()
    now.check_bodies()
    if now.damages:
        raise damaged_log(now.damages, good_ranges([now]))
    for first, last in run_spans(now, first_seq, WINDOW_ROWS, last_seq):
        yield now.load(first, last).slice(first_seq, last_seq)


def day_identity(logs: Sequence[RunLog], closed: EodMark | None) -> str:
    """Content hash of a date's runs."""
    present = {log.run for log in logs}
    hashes: list[str] = []
    if closed is not None and logs and logs[0].first_seq > 1:
        hashes += [run.content_hash for run in closed.runs if run.run not in present]
        hashes = hashes or [closed.content_hash]
    return combined([*hashes, *(log.commits[-1].content for log in logs if log.commits)])


def _kind(kind: Kind | str) -> Kind:
    try:
        return Kind(kind)
    except ValueError:
        raise HarvesterError(f"{kind!r} is not an event kind; choose from {', '.join(Kind)}") from None


def run_spans(
    log: RunLog, from_seq: int = 1, rows_max: int = WINDOW_ROWS, to_seq: int = NEVER
) -> Iterator[tuple[int, int]]:
    """Group a run's undamaged, adjacent commits into index ranges that are read together."""
    start, rows, n_bytes, next_seq = 0, 0, 0, 0
    for i, (line, size) in enumerate(zip(log.commits, log.sizes, strict=True)):
        first, last = line.first_seq, line.last_seq
        usable = i not in log.bad and last >= from_seq and first <= to_seq
        n = last - first + 1
        if i > start and (not usable or first != next_seq or rows + n > rows_max or n_bytes + size > WINDOW_BYTES):
            yield start, i
            start, rows, n_bytes = i, 0, 0
        if not usable:
            start = i + 1
        else:
            rows, n_bytes, next_seq = rows + n, n_bytes + size, last + 1
    if start < len(log.commits):
        yield start, len(log.commits)


def open_day(
    date: Date | str,
    home: Home | str | os.PathLike[str] | None = None,
    *,
    salvage: bool = False,
    set_aside: bool = False,
    check: bool = True,
) -> Day:
    """Open a trading date's log, live or finished, for reading.

    Args:
        date: the date, or its text `yyyy-MM-dd`.
        home: the data root; default `HV_HOME`, then the working folder.
        salvage: open a damaged log and return its undamaged events; `Day.damages` lists what is lost.
        set_aside: accept a date with quarantined runs; `Day.damages` lists their gaps.
        check: compare every byte with its checksum now. False: compare each byte when it is read, which is faster for a
            caller that reads everything once; reading then raises `DamagedLog`. `salvage` always compares first.

    Raises:
        NoLog: nothing was recorded on that date.
        DamagedLog: the log is damaged.
        FutureFormat: a newer Harvester wrote the log.
        BadSetting: `date` is not a date.
    """
    trading_date = parse_date(date) if isinstance(date, str) else date
    paths = (home if isinstance(home, Home) else Home.find(home)).on(trading_date)
    runs, damages = read_runs(paths), list[Damage]()
    if salvage:
        closed, notes, damages = read_marks(paths)
    else:
        closed, notes = read_closed(paths), read_quarantine_notes(paths)
    for log in runs if check or salvage else ():
        log.check_bodies()
    between = damages + between_runs(runs, closed, paths.log, notes)
    known = set_aside and not any(log.damages for log in runs) and all(damage.set_aside for damage in between)
    return Day(trading_date, runs, closed, between, salvage=salvage or known)
