"""Replay a recorded day through the engine, for `hv replay`, and return its rows in the order they became known.

    replay = Replay(seeker, show=("buckets", "fills"))
    for rows in replay.steps():       # one step per clock event, hence per second
        ...

`ReplayPlayer` adds time: it waits until a step is due at the chosen speed, and handles keys (pause, step, seek).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from harvester.clock import real_monotonic_ns
from harvester.errors import BadSetting
from harvester.eventlog.symbols import subscribed, symbols_named
from harvester.events.batch import Batch, seqs
from harvester.events.kinds import Kind
from harvester.replay.seek import last_seq_at
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from harvester.replay.seek import Seeker

TABLES: dict[str, tuple[str, str]] = {  # table → columns of its seq and its time, in the order shown within a second
    "trades": ("seq", "ts"),
    "buckets": ("decision_seq", "ts"),
    "candles": ("decision_seq", "bucket_start"),
    "signals": ("decision_seq", "ts"),
    "decisions": ("seq", "ts"),
    "fills": ("seq", "ts"),
    "episodes": ("exit_seq", "exit_ts"),
}
DEFAULT = ("buckets", "signals", "fills", "episodes")
_NAMES = tuple(TABLES)
_TRADE_COLUMNS = ("price", "size", "exchange", "conditions", "past_limit", "unreported")
_ROWS = 50_000


class ReplayFrame(NamedTuple):
    """One row to print: its table, its time (ns UTC) and its columns."""

    table: str
    ts: int
    row: dict[str, Any]


class Replay:
    """A position in a day that moves forward; returns every row of the chosen tables once, when it becomes known.

    Args:
        seeker: a seeker of the day, with a full engine.
        show: names of the tables; `trades` are the recorded trade prints.
        symbols: return only rows of these symbols, in any letter case; None: of all.
        start, end: ts_recv (ns UTC) of the first and the last event; None = the day's first, the day's last.

    Raises:
        BadSetting: a table name is unknown.
        UnknownSymbol: a symbol was not recorded.
    """

    def __init__(
        self,
        seeker: Seeker,
        *,
        show: Sequence[str] = DEFAULT,
        symbols: Sequence[str] | None = None,
        start: int | None = None,
        end: int | None = None,
    ) -> None:
        if unknown := [name for name in show if name not in TABLES]:
            raise BadSetting(f"unknown table {', '.join(unknown)}; choose from {', '.join(TABLES)}")
        day = seeker.day
        self._symbols = symbols_named(symbols, subscribed(day), day.trading_date) if symbols else []
        self._seeker, self._show, self._end = seeker, show, end
        self.engine = seeker.fresh() if start is None else seeker.at_time(start - 1)
        self._parts = self._cut_at_clocks()

    @property
    def ts(self) -> int:
        """ts_recv of the last event folded, ns UTC, 0 before the first."""
        return self.engine.through_ts

    def seek(self, ts: int) -> None:
        """Continue from the state after the last event with ts_recv <= `ts`."""
        self.engine = self._seeker.at_time(ts)
        self._parts = self._cut_at_clocks()

    def step(self) -> list[ReplayFrame] | None:
        """Fold up to the next clock event and return the new rows; None at the end of the day, or at `end`."""
        part = next(self._parts, None)
        if part is None:
            return None
        rows = self._fold(part)
        self._seeker.note(self.engine)
        return rows

    def stream(self) -> Iterator[list[ReplayFrame]]:
        """The same rows as all further steps, in the same order, at maximum speed."""
        for batch in self._batches():
            yield self._fold(batch)
        yield self.rest()

    def rest(self) -> list[ReplayFrame]:
        """The rows known only at the end of the day; none when `end` stopped the replay earlier."""
        if self.engine.through_seq < self._seeker.day.last_seq:
            return []
        return self._shown(Batch(), self.engine.finish().tables)

    # ---- events in, rows out ---------------------------------------------------------------------------------------

    def _batches(self) -> Iterator[Batch]:
        for batch in self._seeker.day.batches(_ROWS, from_seq=self.engine.through_seq + 1):
            if self._end is None:
                yield batch
                continue
            wanted = batch.slice(batch.first_seq, last_seq_at(batch, self._end))
            if len(wanted):
                yield wanted
            if len(wanted) < len(batch):
                return

    def _cut_at_clocks(self) -> Iterator[Batch]:
        for batch in self._batches():
            first = batch.first_seq
            clocks = batch.tables.get(Kind.CLOCK)
            for seq in [] if clocks is None else seqs(clocks).tolist():
                yield batch.slice(first, seq)
                first = seq + 1
            if first <= batch.last_seq:
                yield batch.slice(first, batch.last_seq)

    def _fold(self, batch: Batch) -> list[ReplayFrame]:
        return self._shown(batch, self.engine.fold(batch).tables)

    def _shown(self, batch: Batch, tables: Mapping[str, pa.RecordBatch]) -> list[ReplayFrame]:
        """Rows in order: by the clock event at which they became known, then by table, then as in the table."""
        clocks = batch.tables.get(Kind.CLOCK)
        edges = np.zeros(0, np.uint64) if clocks is None else seqs(clocks)
        frames: list[tuple[int, int, ReplayFrame]] = []
        for name in self._show:
            seq_column, ts_column = TABLES[name]
            rows = self._prints(batch) if name == "trades" else tables[name].to_pylist() if name in tables else []
            known = np.searchsorted(edges, np.array([row[seq_column] for row in rows], np.uint64)).tolist()
            for clock, row in zip(known, rows, strict=True):
                if not self._symbols or row["symbol"] in self._symbols:
                    row.pop("document", None)  # an episode's file; `hv project` writes it
                    frames.append((clock, _NAMES.index(name), ReplayFrame(name, row[ts_column], row)))
        frames.sort(key=lambda item: item[:2])
        return [frame for _, _, frame in frames]

    def _prints(self, batch: Batch) -> list[dict[str, Any]]:
        table = batch.tables.get(Kind.TRADE)
        if table is None:
            return []
        names = {int(self.engine.market.state.inst[k]["con_id"]): s for k, s in enumerate(self.engine.market.symbols)}
        return [
            {"seq": row["seq"], "ts": row["ts_recv"], "symbol": names.get(row["con_id"], str(row["con_id"]))}
            | {name: row[name] for name in _TRADE_COLUMNS if name in row}
            for row in table.to_pylist()
        ]


class ReplayControls(Protocol):
    """The user interface of a player: shows rows and reads keys."""

    def show(self, rows: Sequence[ReplayFrame]) -> None: ...

    def state(self, ts: int, speed: float, *, paused: bool) -> None:
        """Show the current position (ns UTC), the speed, and whether the player is paused."""
        ...

    def moved(self, ts: int) -> None:
        """Show that the player jumped to another position (ns UTC)."""
        ...

    def key(self, seconds: float | None) -> str:
        """The next key within `seconds` (None = no limit), empty for none.

        Keys are `pause`, `step`, `back`, `forward`, `goto`, `faster`, `slower`, `quit`.
        """
        ...

    def time(self) -> int | None:
        """Ask the user for a time to go to (ns UTC); None when the user cancels."""
        ...


class ReplayPlayer:
    """Plays a replay at a speed: 1 = real time, 60 = a minute per second, 0 = maximum."""

    SHIFT_NS = 60 * SECOND_NS

    def __init__(
        self, replay: Replay, hands: ReplayControls, speed: float, now_ns: Callable[[], int] = real_monotonic_ns
    ) -> None:
        self._replay, self._hands, self.speed, self._now = replay, hands, speed, now_ns
        self.paused = False
        self._anchor: tuple[int, int] | None = None  # market time and real time at which the current speed began
        self._quit = False

    def run(self) -> None:
        """Play to the end, or until `quit`."""
        while not self._quit:
            at = self._replay.ts
            rows = self._replay.step()
            if rows is None:
                self._hands.show(self._replay.rest())
                return
            if self._wait(at or self._replay.ts, self._replay.ts):
                self._hands.show(rows)

    def _wait(self, at: int, ts: int) -> bool:
        """Wait at `at` until `ts` is due; False when the position changed meanwhile, or the user quit."""
        while True:
            self._hands.state(at, self.speed, paused=self.paused)
            left = self._left(ts)
            key = self._hands.key(left)
            if not key and left is not None and self._left(ts) == 0:
                return True
            if key == "step":
                self.paused = True
                return True
            if key and not self._obey(key, at):
                return False

    def _left(self, ts: int) -> float | None:
        """Seconds until `ts` is due; None while paused."""
        if self.paused:
            self._anchor = None
            return None
        if not self.speed:
            return 0.0
        self._anchor = self._anchor or (ts, self._now())
        due = self._anchor[1] + (ts - self._anchor[0]) / self.speed
        return max(due - self._now(), 0.0) / SECOND_NS

    def _obey(self, key: str, now: int) -> bool:
        """Handle a key at position `now`; False when the position changed, or the user quit."""
        if key == "pause":
            self.paused = not self.paused
        elif key in ("faster", "slower"):
            self.speed, self._anchor = (self.speed or 1.0) * (2.0 if key == "faster" else 0.5), None
        elif key == "quit":
            self._quit = True
            return False
        elif key in ("back", "forward", "goto"):
            shift = {"back": -self.SHIFT_NS, "forward": self.SHIFT_NS}
            at = self._hands.time() if key == "goto" else now + shift[key]
            if at is not None:
                self._replay.seek(at)
                self._hands.moved(at)
                self._anchor = None
                return False
        return True
