"""Move damaged runs to `quarantine/`, so that recording on the date can continue, and note what was lost.

A note keeps its seqs from being assigned twice, and makes readers and `hv log verify` report the gap. Notes are sealed
lines in `set_aside.jsonl`, next to the runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from harvester.errors import DamagedFile
from harvester.eventlog.storage.damage import Damage
from harvester.eventlog.storage.format import QUARANTINE
from harvester.eventlog.storage.sealed_lines import scan, seal
from harvester.files import json_value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harvester.eventlog.run import RunLog
    from harvester.files import Disk
    from harvester.home import DatePaths, Home

NOTES = "set_aside.jsonl"


class QuarantineNote(msgspec.Struct, frozen=True):
    """A quarantined run: its name (empty when its folder was missing), the seqs lost, the reason, its folder now.

    `last_seq` is `first_seq - 1` when the seqs it held are unknown. `last_ts`: last event's ts_recv, ns UTC.
    """

    run: str
    first_seq: int
    last_seq: int
    last_ts: int
    what: str
    folder: str

    def __str__(self) -> str:
        known = self.last_seq >= self.first_seq
        cost = f"seq {self.first_seq}-{self.last_seq} lost" if known else "its seqs are unknown"
        where = f", moved to {self.folder}" if self.folder else ""
        return f"{self.run or 'a run whose folder is missing'} was quarantined, {cost}{where}: {self.what}"


def read_quarantine_notes(paths: DatePaths) -> list[QuarantineNote]:
    """The date's notes, in order of seq.

    Raises:
        DamagedFile: they cannot be read.
    """
    path = paths.log / NOTES
    if not path.exists():
        return []
    scanned = scan(path)
    move = (
        "the runs are not affected, `hv log show --salvage` reads them; restore this file from a backup, or move it "
        f"away and let `hv log recover --set-aside --date {paths.trading_date}` note the gaps between them again"
    )
    if scanned.damages or scanned.torn_bytes:
        what = f"the quarantine notes do not match their hashes from byte {scanned.end} on"
        raise DamagedFile(str(path), what, move, scanned.end)
    try:
        notes = [json_value(body, QuarantineNote) for _, body, _ in scanned.lines]
    except msgspec.MsgspecError as error:
        raise DamagedFile(str(path), f"not quarantine notes: {error}", move) from None
    return sorted(notes, key=lambda note: (note.first_seq, note.last_seq, note.run))


def quarantine_damages(home_day: Path, notes: Sequence[QuarantineNote]) -> list[Damage]:
    """The gaps that the notes describe, as known damage that does not stop a writer."""
    path = home_day / NOTES
    return [Damage(path, 0, str(n), n.first_seq, max(n.last_seq, 0), set_aside=True) for n in notes]


def covered(first_seq: int, last_seq: int, notes: Sequence[QuarantineNote]) -> bool:
    """Whether the notes cover every seq of a range."""
    at = first_seq
    for note in notes:
        if note.first_seq <= at <= note.last_seq:
            at = note.last_seq + 1
    return at > last_seq


def quarantine_run(run: RunLog, first_seq: int, next_seq: int, home: Home, disk: Disk) -> QuarantineNote:
    """Note a damaged run, durably, then move its folder. `next_seq`: first seq of the run after it, 0 for none."""
    assert run.damages
    day = run.folder.parent
    named = [run.last_seq, next_seq - 1, *(line.seq for line in run.digests)]
    if run.manifest is not None and run.manifest.final is not None:
        named.append(run.manifest.final.last_seq)
    target, n = day / QUARANTINE / run.run, 1
    while target.exists():
        n += 1
        target = target.with_name(f"{run.run}.{n}")
    begin = run.first_seq or first_seq
    note = QuarantineNote(
        run=run.run,
        first_seq=begin,
        last_seq=max(begin - 1, *named),
        last_ts=run.commits[-1].last_ts if run.commits else 0,
        what=run.damages[0].what,
        folder=target.relative_to(home.root).as_posix(),
    )
    add_note(day, note, disk)
    make_quarantine(target.parent, disk)
    disk.replace(run.folder, target)
    disk.sync_folder(target.parent)
    disk.sync_folder(day)
    return note


def make_quarantine(folder: Path, disk: Disk) -> None:
    """Create `quarantine/`; its name is durable before anything is moved into it."""
    disk.make_folder(folder)
    disk.sync_folder(folder.parent)


def add_note(day: Path, note: QuarantineNote, disk: Disk) -> None:
    """Rewrite the notes with one more; it replaces a note of the same run left by an interrupted call."""
    path, kept = day / NOTES, b""
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        kept = b"".join(line for line in lines if not note.run or json_value(line, QuarantineNote).run != note.run)
    disk.write_atomic(path, kept + seal(msgspec.json.encode(note)))
