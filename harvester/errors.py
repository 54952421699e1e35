"""Every error a user can meet, each with the exit code `hv` ends with.

    HarvesterError                 1   something went wrong that has no code of its own
    ├── DamagedLog                 1   bytes of a log are not what was written
    │   └── DamagedFile            1   those of a file beside it: a mark, notes, what was kept
    ├── KernelFault                1   compiled code met what it must never meet
    ├── CannotRun                  2   the command could not start its work, or may not go on
    │   └── BadSetting             2   an option, variable or settings file makes no sense
    ├── NoLog                      3   nothing was recorded for that date
    ├── FutureFormat               4   written by a newer Harvester
    ├── LockHeld                   5   another process records or folds that date
    ├── GatewayError               6   the gateway cannot be reached, or is not one
    │   └── ClientIdInUse          7   another client holds that client id
    ├── UnknownSymbol              8   the gateway knows no such contract, or the log no such symbol
    ├── OrderRefused               9   an order tried to leave the process
    ├── LogWriteFailed            10   the disk is full or failing; the log is whole up to the last commit
    ├── Mismatch                  11   two things that must be equal are not
    ├── CodeChanged               12   not comparable: the code is not the code that recorded
    └── DateClosed                13   the date was folded and closed

An error names the thing, the numbers and the next move, in one line.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def ranges_text(ranges: Iterable[tuple[int, int]]) -> str:
    """Closed ranges of seq for people, `1-10, 21-30`."""
    return ", ".join(f"{first}-{last}" for first, last in ranges) or "none"


def salvage_move(good: Sequence[tuple[int, int]]) -> str:
    """The next move of who reads a damaged log; where nothing is good there is nothing to salvage."""
    if good:
        return "hv log show --salvage reads those, hv project --salvage folds those"
    lost = "nothing of it can be read: take the file from a backup"
    return f"{lost}; hv log recover --set-aside lets the date be recorded on"


class HarvesterError(Exception):
    """Root of the tree; `exit_code` is what `hv` ends with."""

    exit_code = 1


class DamagedLog(HarvesterError):
    """Bytes of a log are not what was written.

    Attributes:
        file: path of the damaged file, as text.
        offset: byte offset in `file` at which the damage was found.
        good: closed ranges of `seq` that are still readable, as (first, last) pairs.
    """

    exit_code = 1

    def __init__(
        self,
        file: str,
        offset: int,
        what: str,
        good: tuple[tuple[int, int], ...] = (),
        move: str | None = None,
    ) -> None:
        self.file, self.offset, self.what, self.good = file, offset, what, good
        move = move or salvage_move(good)
        super().__init__(f"damaged log: {file} at byte {offset}: {what}; good seq: {ranges_text(good)}; {move}")

    def for_writers(self, trading_date: object) -> DamagedLog:
        """The same damage, told to somebody who wants to record on."""
        move = f"to record on behind it: hv log recover --set-aside --date {trading_date}"
        return DamagedLog(self.file, self.offset, self.what, self.good, move)


class DamagedFile(DamagedLog):
    """A file that stands beside the log (a mark, notes, what was kept) is not what was written.

    It says nothing of the events, so no seqs are named; `move` is its own way out.
    """

    def __init__(self, file: str, what: str, move: str, offset: int = 0) -> None:
        self.file, self.offset, self.what, self.good, self.move = file, offset, what, (), move
        HarvesterError.__init__(self, f"damaged file: {file}: {what}; {move}")

    def for_writers(self, trading_date: object) -> DamagedLog:
        """The same: setting runs aside mends no file beside them."""
        del trading_date
        return self


class KernelFault(HarvesterError):
    """Compiled code met what it must never meet: an index past an array, an overflow. What was recorded is whole.

    Attributes:
        kernel: name of the compiled function.
        seq: the event it was at, 0 when it was none of the batch's.
    """

    exit_code = 1

    def __init__(self, kernel: str, seq: int, what: str) -> None:
        self.kernel, self.seq, self.what = kernel, seq, what
        move = "the log is whole; please report this with the events around it (hv log show)"
        super().__init__(f"kernel {kernel} at seq {seq}: {what}; {move}")


class CannotRun(HarvesterError):
    """The command could not start its work, or may not go on with it."""

    exit_code = 2


class BadSetting(CannotRun):
    """An option, an environment variable or a settings file makes no sense."""


class NoLog(HarvesterError):
    """Nothing was recorded for that date."""

    exit_code = 3


class FutureFormat(HarvesterError):
    """The log was written by a newer Harvester than this one."""

    exit_code = 4


class LockHeld(HarvesterError):
    """Another process records or folds that date."""

    exit_code = 5


class GatewayError(HarvesterError):
    """The gateway cannot be reached, or what answers is not one."""

    exit_code = 6


class ClientIdInUse(GatewayError):
    """Another client is connected with that client id (IB error 326)."""

    exit_code = 7


class UnknownSymbol(HarvesterError):
    """The gateway knows no such contract (IB error 200), or nothing of that symbol was recorded."""

    exit_code = 8


class OrderRefused(HarvesterError):
    """A message that is not a data request tried to reach the socket."""

    exit_code = 9


DISK_ERRNOS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO))
"""What the system says of a disk that is full, full for this user, or failing."""


class LogWriteFailed(HarvesterError):
    """The disk is full or failing. Everything committed before is intact."""

    exit_code = 10


class Mismatch(HarvesterError):
    """Two things that must be equal are not."""

    exit_code = 11


class CodeChanged(HarvesterError):
    """Live and replay are not comparable: the code is not the code that recorded."""

    exit_code = 12


class DateClosed(HarvesterError):
    """The date was folded by `hv eod` and closed; recording on it again needs --reopen."""

    exit_code = 13
