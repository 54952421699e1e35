"""Follow a date while it is being written, from any process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.eventlog.reader import run_spans
from harvester.eventlog.run import RunLog, RunRewritten
from harvester.eventlog.runs_of_day import good_ranges, run_folders
from harvester.eventlog.storage.damage import BadBytes, damaged_log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harvester.events.batch import Batch
    from harvester.home import DatePaths


class Follower:
    """Reads the batches committed since the last poll, including those of new runs."""

    def __init__(self, paths: DatePaths, from_seq: int = 1) -> None:
        self._home, self._date, self._next = paths.home, paths.trading_date, from_seq
        self._logs: dict[Path, RunLog] = {}

    @property
    def next_seq(self) -> int:
        """Seq of the first event not yet returned."""
        return self._next

    @property
    def live(self) -> bool:
        """Whether a run has not ended, according to its manifest."""
        return any(not log.finished for log in self._logs.values())

    def poll(self) -> Iterator[Batch]:
        """Return the batches committed since the last call, if any.

        Raises:
            DamagedLog: the log is damaged.
            FutureFormat: a newer Harvester wrote it.
        """
        for folder in run_folders(self._home.on(self._date)):
            log = self._logs.setdefault(folder, RunLog(folder))
            if log.finished:
                continue
            log.refresh()
            if log.damages:
                raise damaged_log(log.damages, good_ranges(self._logs.values()))
            for first, last in list(run_spans(log, self._next)):
                try:
                    batch = log.load(first, last)
                except RunRewritten:  # compacted since the refresh: the next call reads it again
                    del self._logs[folder]
                    return
                except BadBytes:
                    raise damaged_log(log.damages, good_ranges(self._logs.values())) from None
                cut = batch.slice(self._next, batch.last_seq)
                if len(cut):
                    self._next = cut.last_seq + 1
                    yield cut
