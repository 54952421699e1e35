"""What the recorder and its trading process say to each other: JSON objects, one a line, on stdin and stdout.

The cell is a small file both map into memory: the child notes there which strategy it is calling, so that the recorder
can name it when the child hangs or dies.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from harvester.memory.strategy_files import LoadedStrategy  # noqa: TC001 - msgspec resolves fields when it decodes
from harvester.projections.trading.failure import Failure  # noqa: TC001 - msgspec resolves fields when it decodes

if TYPE_CHECKING:
    from mmap import mmap


class LoadTask(msgspec.Struct, frozen=True, tag="load"):
    """Load strategies, as `strategy_files.load_all` does, and answer with `Loaded`."""

    wanted: tuple[str, ...]
    settings: dict[str, dict[str, Any]]
    values: tuple[str, ...]


class FollowTask(msgspec.Struct, frozen=True, tag="follow"):
    """Fold a date as its events are committed.

    Attributes:
        root, trading_date: of the log.
        toggles: of the episode files.
        failures: of strategies that ended an earlier process; their notices may not be committed yet.
        cell: path of the cell.
        memory_max: bytes of memory the process may allocate.
    """

    root: str
    trading_date: str
    toggles: dict[str, bool]
    failures: tuple[Failure, ...]
    cell: str
    memory_max: int


class Committed(msgspec.Struct, frozen=True, tag="committed"):
    """Events up to `through` are in the log; with `digest`, the answer has the digest of trading after them."""

    through: int
    digest: bool = False


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The strategies of a `LoadTask`."""

    strategies: tuple[LoadedStrategy, ...]


class Folded(msgspec.Struct, frozen=True, tag="folded"):
    """Events up to `through` are folded; `failures`: new ones; `unwritten`: why an episode file is missing."""

    through: int
    digest: str = ""
    failures: tuple[Failure, ...] = ()
    unwritten: str = ""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The task failed; `exit_code` of the error."""

    why: str
    exit_code: int


Task = LoadTask | FollowTask
Answer = Loaded | Folded | Refused


class Call(NamedTuple):
    """A call of a strategy; `seq`, `ts` and `con_id` are 0 while it is made."""

    strategy: str
    digest: str
    seq: int
    ts: int
    con_id: int
    symbol: str


class Cell:
    """The call under way; the child writes it, the recorder reads it."""

    _CALL = struct.Struct("<Qqq160s40s16s")
    SIZE = 1 + _CALL.size

    def __init__(self, memory: mmap) -> None:
        self._memory = memory

    def begin(self, of: tuple[bytes, bytes], at: tuple[int, int, int] = (0, 0, 0), symbol: str = "") -> None:
        """Note a call that begins: name and digest of the strategy; seq, ts and con_id of the second."""
        self._CALL.pack_into(self._memory, 1, *at, symbol.encode(), *of)
        self._memory[0] = 1

    def end(self) -> None:
        """Note its end."""
        self._memory[0] = 0

    def read(self) -> Call | None:
        """The call under way; None when there is none."""
        if not self._memory[0]:
            return None
        seq, ts, con_id, *texts = self._CALL.unpack_from(self._memory, 1)
        symbol, name, digest = (text.rstrip(b"\0").decode(errors="replace") for text in texts)
        return Call(name, digest, seq, ts, con_id, symbol)
