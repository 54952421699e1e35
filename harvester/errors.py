"""Every error a user can see, with the exit code of `hv`.

    HarvesterError                 1   failure without a code of its own
    ├── DamagedLog                 1   damaged log: its bytes differ from what was written
    │   └── DamagedFile            1   damaged file beside the log: end-of-day mark, notes, dataset
    ├── KernelFault                1   compiled code reached a state that must not occur
    ├── CannotRun                  2   the command could not start or cannot continue
    │   └── BadSetting             2   invalid option, environment variable or settings file
    ├── NoLog                      3   no log for that date
    ├── FutureFormat               4   written by a newer Harvester
    ├── LockHeld                   5   another process holds the date
    ├── GatewayError               6   gateway unreachable, or the peer is not TWS / IB Gateway
    │   └── ClientIdInUse          7   client id in use
    ├── UnknownSymbol              8   unknown symbol, at the gateway or in the log
    ├── OrderRefused               9   a message that is not a data request was blocked
    ├── LogWriteFailed            10   disk full or failing; the log is intact up to the last commit
    ├── Mismatch                  11   verification mismatch
    ├── CodeChanged               12   not comparable: recorded by different code
    └── DateClosed                13   the date was folded and closed

An error message is one line: what is wrong, the numbers, the next step.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def ranges_text(ranges: Iterable[tuple[int, int]]) -> str:
    """Closed ranges of seq as text: `1-10, 21-30`."""
    return ", ".join(f"{first}-{last}" for first, last in ranges) or "none"


def salvage_move(good: Sequence[tuple[int, int]]) -> str:
    """What to do about a damaged log: salvage the readable ranges, if there are any."""
    if good:
        return "hv log show --salvage reads these ranges, hv project --salvage folds them"
    lost = "no part is readable: restore the file from a backup"
    return f"{lost}; hv log recover --set-aside allows new recording on this date"


class HarvesterError(Exception):
    """Base of all errors; `exit_code` is the exit code of `hv`."""

    exit_code = 1


class DamagedLog(HarvesterError):
    """The bytes of a log differ from what was written.

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
        """The same error for a recorder; its next step is to set the damaged runs aside."""
        move = f"to continue recording: hv log recover --set-aside --date {trading_date}"
        return DamagedLog(self.file, self.offset, self.what, self.good, move)


class DamagedFile(DamagedLog):
    """A file beside the log (end-of-day mark, notes, dataset) differs from what was written.

    It holds no events, so no seq ranges are reported; `move` is the next step for this file.
    """

    def __init__(self, file: str, what: str, move: str, offset: int = 0) -> None:
        self.file, self.offset, self.what, self.good, self.move = file, offset, what, (), move
        HarvesterError.__init__(self, f"damaged file: {file}: {what}; {move}")

    def for_writers(self, trading_date: object) -> DamagedLog:
        """The same error: setting runs aside does not repair files beside them."""
        del trading_date
        return self


class KernelFault(HarvesterError):
    """Compiled code reached a state that must not occur: an index past an array, an overflow. The log is intact.

    Attributes:
        kernel: name of the compiled function.
        seq: the event being processed, 0 when it was not an event of the batch.
    """

    exit_code = 1

    def __init__(self, kernel: str, seq: int, what: str) -> None:
        self.kernel, self.seq, self.what = kernel, seq, what
        move = "the log is intact; please report this with the events around that seq (hv log show)"
        super().__init__(f"kernel {kernel} at seq {seq}: {what}; {move}")


class CannotRun(HarvesterError):
    """The command could not start or cannot continue."""

    exit_code = 2


class BadSetting(CannotRun):
    """An option, environment variable or settings file is invalid."""


class NoLog(HarvesterError):
    """There is no log for that date."""

    exit_code = 3


class FutureFormat(HarvesterError):
    """The log was written by a newer Harvester than this one."""

    exit_code = 4


class LockHeld(HarvesterError):
    """Another process holds the date: it records or folds it."""

    exit_code = 5


class GatewayError(HarvesterError):
    """The gateway is unreachable, or the peer is not TWS / IB Gateway."""

    exit_code = 6


class ClientIdInUse(GatewayError):
    """Another client is connected with that client id (IB error 326)."""

    exit_code = 7


class UnknownSymbol(HarvesterError):
    """The gateway has no such contract (IB error 200), or the symbol was not recorded."""

    exit_code = 8


class OrderRefused(HarvesterError):
    """A message that is not a data request was blocked before it reached the socket."""

    exit_code = 9


DISK_ERRNOS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO))
"""Error numbers of a disk that is full, over quota or failing."""


class LogWriteFailed(HarvesterError):
    """The disk is full or failing. All earlier commits are intact."""

    exit_code = 10


class Mismatch(HarvesterError):
    """Verification mismatch: two results that must be equal differ."""

    exit_code = 11


class CodeChanged(HarvesterError):
    """Live and replay are not comparable: the log was recorded by different code."""

    exit_code = 12


class DateClosed(HarvesterError):
    """The date was folded by `hv eod` and closed; recording it again requires --reopen."""

    exit_code = 13
