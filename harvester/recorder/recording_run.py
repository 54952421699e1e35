"""One run: the commits of one recorder on one trading date. No fold sees an event before it is committed (law 1).

    run = Run.open(home, trading_date, settings)     lock, recovery, the day so far folded
    run.begin(ts)                                    run_start committed and folded
    run.commit(arrivals)                             decode, number, make durable, fold
    run.end()                                        last digests, manifest: ended

Everything here runs in one worker thread, one call at a time, so that the event loop keeps stamping packets.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow.compute as pc

from harvester.artefacts.episode_files import day_files, write_day
from harvester.errors import CannotRun, DamagedLog, NoLog
from harvester.eventlog.reader import open_day
from harvester.eventlog.writer import LogWriter
from harvester.events.kinds import Kind
from harvester.memory.chain import memory_given
from harvester.memory.strategy_files import ShippedAlone, keep_copy
from harvester.projections.engine import Engine
from harvester.projections.run_params import RunParams
from harvester.projections.trading.no_trading import NoTrading
from harvester.wire.decode_messages import Arrivals, MessageDecoder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    import pyarrow as pa

    from harvester.config import Settings
    from harvester.events.batch import Batch
    from harvester.files import Disk
    from harvester.home import DatePaths, Home
    from harvester.memory.strategy_files import LoadedStrategy


NOT_HERE = "trading"  # the projection that another process may fold


@dataclass(frozen=True)
class CommitResult:
    """The result of one commit. `last_ts` in ns UTC.

    `timed_rows` counts its trades and tick-by-tick quotes. `ahead_ns` is the smallest difference among them between
    the gateway's time and the stamp. `books`: those to be requested again, see `Book.unusable`.
    """

    last_seq: int
    last_ts: int
    timed_rows: int = 0
    ahead_ns: int = 0
    books: tuple[tuple[int, int, bool], ...] = ()


@dataclass
class RunTotals:
    """Counts of a run so far: rows by kind, commits, bytes."""

    rows: Counter[str] = field(default_factory=Counter)
    commits: int = 0
    last_seq: int = 0
    n_bytes: int = 0


class RecordingRun:
    """The module docstring gives the order of the calls. `cost_note` is that of the cost table, else empty.

    Args:
        trades: fold simulated trading; else another process does, see `trading_process`.
    """

    def __init__(
        self,
        writer: LogWriter,
        trading_date: date,
        home: Home,
        settings: Settings,
        disk: Disk | None = None,
        *,
        trades: bool = True,
    ) -> None:
        engine = Engine(library=ShippedAlone()) if trades else Engine(trading=NoTrading())
        self.writer, self.engine, self.trading_date, self._trades = writer, engine, trading_date, trades
        self._episodes_folder, self._disk = home.on(trading_date).episodes, disk
        self.toggles = {"epoch_ms": settings.episode_epoch_ms, "series_jsonl": settings.episode_series_jsonl}
        self.cost_note = ""
        self.totals = RunTotals()
        self.projection_failure: Exception | None = None
        self.artefact_failure: OSError | None = None
        self._incoming = MessageDecoder()

    @classmethod
    def open(
        cls,
        paths: DatePaths,
        settings: Settings,
        strategies: Sequence[LoadedStrategy] = (),
        *,
        reopen: bool = False,
        disk: Disk | None = None,
    ) -> RecordingRun:
        """Take the date's lock, recover what a killed recorder left, fold the day so far.

        Sources of users' strategies are durable in `memory/strategies` before the run start that names them.

        Raises:
            LockHeld, DateClosed, DamagedLog, LogWriteFailed: see `LogWriter.open`.
        """
        names = tuple(strategy.ref.name for strategy in strategies)
        params = RunParams.build(
            msgspec.structs.replace(settings, strategy=names[0] if len(names) == 1 else names or ""),
            paths.trading_date,
            memory=memory_given(paths.home),
            strategies=[strategy.ref for strategy in strategies],
        )
        writer = LogWriter.open(
            paths,
            run_start_row={"params": params.text()},
            reopen=reopen,
            compression=settings.compression,
            margin_bytes=settings.disk_margin_bytes,
            disk=disk,
        )
        try:
            for strategy in strategies:
                keep_copy(strategy, paths.home, disk)
            own = any(strategy.sources for strategy in strategies)
            run = cls(writer, paths.trading_date, paths.home, settings, disk, trades=not own)
            run.cost_note = str(params.costs.get("note", ""))
            run._catch_up(paths.home)
        except BaseException:
            writer.close()
            raise
        return run

    @property
    def floor_ts(self) -> int:
        """Stamp of the date's last event, ns UTC; no later event may have an earlier one."""
        return self.writer.last_ts

    def _catch_up(self, home: Home) -> None:
        try:
            day = open_day(self.trading_date, home, set_aside=True)
        except NoLog:
            return
        except DamagedLog as error:
            raise error.for_writers(self.trading_date) from None
        for batch in day.batches():
            self._fold(batch)

    def begin(self, ts_recv: int) -> CommitResult:
        """Commit and fold the run's first event."""
        batch = self.writer.begin(ts_recv)
        return self._fold_committed(batch, 0)

    def commit(self, arrivals: Arrivals) -> CommitResult:
        """Make arrivals durable, then fold them.

        Raises:
            LogWriteFailed: none of these arrivals is recorded.
        """
        late = np.maximum(arrivals.ts_recv, self.floor_ts)
        batch = self._incoming.decode(Arrivals(arrivals.items, late, arrivals.epoch), self.writer.next_seq)
        commit = self.writer.commit(batch)
        return self._fold_committed(batch, commit.n_bytes)

    def _fold_committed(self, batch: Batch, n_bytes: int) -> CommitResult:
        self._fold(batch)
        totals = self.totals
        totals.rows.update({kind.value: table.num_rows for kind, table in batch.tables.items()})
        totals.commits += 1
        totals.n_bytes += n_bytes
        totals.last_seq = self.writer.next_seq - 1
        books = () if self.projection_failure is not None else tuple(self.engine.book.unusable())
        return CommitResult(batch.last_seq, self.writer.last_ts, *_nearest(batch), books)

    def _fold(self, batch: Batch) -> None:
        """Fold. If a projection fails, recording continues without folds, and `check` reports it."""
        if self.projection_failure is not None:
            return
        try:
            outputs = self.engine.fold(batch)
            if outputs.rows("episodes"):
                self._write_episodes(outputs["episodes"])
        except Exception as error:  # noqa: BLE001 - recording continues after any error of a fold or strategy
            self.projection_failure = error

    def _write_episodes(self, episodes: pa.RecordBatch) -> None:
        """Write the files of finished episodes; `hv project` rewrites the same files."""
        documents = episodes.column("document").to_pylist()
        files = day_files(documents, **self.toggles)
        try:
            write_day(self._episodes_folder, files, self._disk)
        except OSError as error:
            self.artefact_failure = error

    def digests(self) -> tuple[int, dict[str, str]] | None:
        """The digests of the projections folded here, and the seq they are of; None before the first event."""
        if self.projection_failure is not None or not self.totals.last_seq:
            return None
        digests = self.engine.digests()
        if not self._trades:
            del digests[NOT_HERE]
        return self.totals.last_seq, digests

    def write_digests(self, seq: int, digests: dict[str, str]) -> None:
        """Store live digests of all projections after event `seq`."""
        self.writer.live_digests(seq, digests)

    def end(self) -> None:
        """End the run; its last digests are written."""
        self.writer.close()

    def check(self) -> None:
        """Report failures outside the log.

        Raises:
            CannotRun: a projection failed, or an episode file could not be written; the log is complete.
        """
        if self.projection_failure is None and self.artefact_failure is not None:
            raise CannotRun(
                f"the log of {self.trading_date} is complete, but an episode file could not be written: "
                f"{self.artefact_failure}; free space, then run `hv project --date {self.trading_date}`"
            ) from self.artefact_failure
        if self.projection_failure is not None:
            error = self.projection_failure
            raise CannotRun(
                f"the log of {self.trading_date} is complete, but a projection failed while recording: "
                f"{type(error).__name__}: {error}; run `hv project --date {self.trading_date} --debug`"
            ) from error


def _nearest(batch: Batch) -> tuple[int, int]:
    """`timed_rows` and `ahead_ns` of a commit."""
    tables = [batch.tables[kind] for kind in (Kind.TRADE, Kind.QUOTE) if kind in batch.tables]
    apart = [pc.drop_null(pc.subtract(t.column("ts_event"), t.column("ts_recv"))).to_numpy() for t in tables]
    differences = np.concatenate([np.zeros(0, np.int64), *apart])
    nearest = int(differences[np.abs(differences).argmin()]) if len(differences) else 0
    return len(differences), nearest
