"""The market under the projections: subscriptions, instruments, books and quotes as arrays, updated by the kernels.

`fold` splits a batch at its control rows. The kernels run between two of them; at a control row plain Python decides
what becomes subscribed, dead or unknown, and passes the kernels a list of changes. The key of a subscription is
(run, epoch, request id); the newest live one of a stream is in use.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from harvester.errors import KernelFault
from harvester.events.codes import CONNECTION_LOST, DEPTH_RESET, HALTED_SECURITY, REFUSALS, RESTORED_DATA_LOST
from harvester.events.kinds import Action, Own, Stream
from harvester.projections.interval import QUOTES, TRADES, Occurrence, OccurrenceKind
from harvester.projections.ladders import LADDERS, LEVELS, Ladders
from harvester.projections.market.merge import (
    DEPTH_MESSAGES,
    HaltTick,
    Makers,
    clocks_of,
    controls_of,
    frame_of,
    halt_ticks,
    last_of,
    min_ticks,
    odd_values,
)
from harvester.projections.market.pace import behind_ib
from harvester.projections.market.state_arrays import (
    BOOK,
    FIRST_ORDER,
    LADDER_OUT,
    LEVEL_OUT,
    NO_ROW,
    QUOTE_OUT,
    ROW,
    ROWS_DEFAULT,
    ROWS_LIMIT,
    TRADE_OUT,
    Frame,
    Glob,
    Hot,
    MarketState,
    Role,
    Source,
    held,
    joined,
    new_state,
    with_room,
)
from harvester.projections.market.volume import NOTHING, Stretch
from harvester.projections.run_params import RunParams
from harvester.projections.step import Control, RunStart, Step
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harvester.events.batch import Batch
    from harvester.projections.market.state_arrays import Array

STREAMS: tuple[Stream, ...] = tuple(Stream)
MARKET_STREAMS = (
    Stream.L1, Stream.DEPTH, Stream.SMART_DEPTH, Stream.LAST, Stream.ALL_LAST, Stream.BID_ASK, Stream.MID_POINT,
)  # fmt: skip
DEPTH_STREAMS = (Stream.DEPTH, Stream.SMART_DEPTH)
ROLE_STREAMS: dict[Role, tuple[Stream, ...]] = {  # earlier streams take precedence
    Role.BID_ASK: (Stream.BID_ASK,),
    Role.L1: (Stream.L1,),
    Role.BOOK: (Stream.SMART_DEPTH, Stream.DEPTH),
    Role.SMART: (Stream.SMART_DEPTH,),
    Role.TAPE: (Stream.ALL_LAST, Stream.LAST, Stream.L1),
}
SOURCE_STREAMS = {
    Stream.BID_ASK: (Source.BID_ASK, Role.BID_ASK),
    Stream.L1: (Source.L1, Role.L1),
    Stream.SMART_DEPTH: (Source.SMART_DEPTH, Role.SMART),
}
"""Streams that give quotes: the source of the quote, and the role of the subscription that gives it."""
TS_MAX = 2**62  # ns UTC, the year 2116: sums with it do not overflow
_NO_CHANGES = np.empty((0, 6), np.int64)
_SMALL, _LARGE = 4096, 65_536
_ROWS_AHEAD = 131_072  # maximum room for bucket rows before they are handed out


class StreamEnd(Enum):
    """How a subscription ended: not yet, cancelled for good, cancelled to be requested again, or lost with its feed."""

    NONE, GIVEN_UP, RENEWED, LOST = range(4)


class Market:
    """Arrays and the names that belong to them."""

    def __init__(self, *, emit: bool = True) -> None:
        self.state: MarketState = new_state()
        self.state.glob[Glob.EMIT] = int(emit)
        self.makers = Makers()
        self.symbols: list[str] = []  # by instrument
        self.runs = 0
        self._epoch = 0
        self._slots = 0
        self._endings: list[int] = []  # of each slot, see `StreamEnd`
        self._row_room = 0
        self._until = 0  # ts_recv of the last event of the batch, ns UTC
        self._live: dict[tuple[int, int], int] = {}  # (epoch, request id) → slot, oldest first
        self._alive: list[list[int]] = []  # live slots by instrument, oldest first
        self._instrument: dict[int, int] = {}  # con_id → instrument
        self._stretches: list[list[Stretch]] = []  # finished ones of tick 8 and tape, by instrument
        self._changes: list[tuple[int, int, int, int, int, int]] = []
        self._min_ticks: dict[int, int] = {}  # by con_id, units of 1e-9 USD
        self._happenings: list[Occurrence] = []  # of the batch
        self._quotes: list[Array] = []
        self._trades: list[Array] = []
        self._ladders: list[Array] = []
        self._levels: list[Array] = []
        self._closed: list[Array] = []

    # ---- the fold ----------------------------------------------------------------------------------------------

    def fold(self, batch: Batch) -> Step:
        """Fold a batch.

        Raises:
            KernelFault: an index past an array, an overflow, or a `ts_recv` past `TS_MAX`.
        """
        first, last, ts = last_of(batch)
        if ts > TS_MAX:
            raise KernelFault("market", last, f"ts_recv {ts} is past {TS_MAX}: sums of ns would overflow")
        self._until = ts
        controls = controls_of(batch)
        acting = [control for control in controls if self._acts(control)]
        frame = frame_of(batch, acting, self.makers)
        runs: list[RunStart] = []
        self._happenings = []
        at, cursor = 0, np.zeros(len(Hot), np.int64)
        stops = np.flatnonzero(frame.which == Hot.CONTROL).tolist()
        for control, stop in _in_order(zip(acting, stops, strict=True), halt_ticks(batch, frame)):
            if isinstance(control, HaltTick):
                at = self._run(frame, cursor, at, stop + 1)
                self._on_halt_tick(control)
                continue
            held = self._held(control)
            if held and control.con_id == 0:  # an error names only the request
                con_id = int(self.state.slots[held[0]]["con_id"])
                controls[controls.index(control)] = control._replace(con_id=con_id)
            at = self._run(frame, cursor, at, stop)
            if control.action == Action.RUN_START:
                # The previous run ended with its last event, not when the next began.
                params = RunParams.parse(control.row["params"], control.seq)
                runs.append(RunStart(control.seq, control.ts, params, int(self.state.glob[Glob.LAST_TS])))
                if params.config.get("fill_depth") == "book" and self.state.glob[Glob.EMIT]:
                    self.state.glob[Glob.DEEP] = 1
                self._start_run(control)
            at = self._run(frame, cursor, at, stop + 1)
            quoting = self._quoting(control)
            self._apply(control)
            if quoting:
                self._run(frame, cursor, at, at)  # puts the quotes in force that the control row leaves
                self._lose_quote(control, *quoting)
        self._run(frame, cursor, at, len(frame.which))
        closed, quotes, trades = self._drained()
        step = Step(len(batch), first, last, ts, controls, runs, clocks_of(frame), closed, quotes, trades)
        happenings = sorted([*self._happenings, *min_ticks(batch, self._min_ticks)], key=attrgetter("seq"))
        ladders, self._ladders = _join(self._ladders, LADDER_OUT), []
        levels, self._levels = _join(self._levels, LEVEL_OUT), []
        if len(ladders):
            step = replace(step, ladders=Ladders(_as(ladders, LADDERS), _as(levels, LEVELS)))
        return replace(step, odd=odd_values(batch), happenings=happenings, behind=behind_ib(batch.tables))

    def _run(self, frame: Frame, cursor: Array, start: int, stop: int) -> int:
        if start >= stop and not self._changes:
            return stop
        from harvester.projections.market.kernels import run  # compiles or loads on first use

        changes = np.array(self._changes, np.int64) if self._changes else _NO_CHANGES
        self._changes = []
        self._make_room(stop - start, len(changes))
        try:
            while (at := run(self.state, frame, cursor, start, stop, changes)) < stop:
                start, changes = at, _NO_CHANGES
                self._drain()
        except (IndexError, ArithmeticError, ValueError, MemoryError) as error:
            raise KernelFault("market", _seq_at(frame, cursor), str(error) or type(error).__name__) from error
        self._drain()
        return stop

    def _make_room(self, events: int, changes: int) -> None:
        """Make room for the outputs of most of the events, and for every quote change that `changes` may cause."""
        n = _LARGE if events > _SMALL else _SMALL
        seconds = max(self._until - int(self.state.glob[Glob.BUCKET_END]), 0) // SECOND_NS + 2
        self._row_room = min(seconds * len(self.symbols), _ROWS_AHEAD) if events > _SMALL else 0
        if len(self.state.quotes) < (n := max(n, changes)) and self.state.glob[Glob.EMIT]:
            self.state = self.state._replace(quotes=np.empty(n, QUOTE_OUT), trades=np.empty(n, TRADE_OUT))
        if self.state.glob[Glob.DEEP]:
            self._make_room_for_books(changes)
        if len(self.state.rows) < self._rows_wanted():
            self._renew_rows()

    def _make_room_for_books(self, changes: int) -> None:
        s = self.state
        n = max(len(s.ladders), _SMALL, 2 * (changes + len(self.symbols) + 1))
        levels = n * 2 * (len(s.cells) // len(s.side))
        if len(s.ladders) < n or len(s.levels) < levels:
            self.state = s._replace(ladders=np.empty(n, LADDER_OUT), levels=np.empty(levels, LEVEL_OUT))

    def _rows_wanted(self) -> int:
        return int(self.state.glob[Glob.ROWS]) + max(self._row_room, 4 * len(self.symbols))

    def _renew_rows(self, skip: int = 0) -> None:
        """A new array for bucket rows; those after the first `skip` still wait for their clock."""
        g = self.state.glob
        waiting = self.state.rows[skip : g[Glob.ROWS]]
        g[Glob.ROWS] -= skip
        rows = np.empty(self._rows_wanted() + 256, ROW)
        rows[: len(waiting)] = waiting
        self.state = self.state._replace(rows=rows)

    def _drain(self) -> None:
        """Take the outputs of the kernels, and make room for a second's rows."""
        s, g = self.state, self.state.glob
        if g[Glob.QUOTES]:
            self._quotes.append(s.quotes[: g[Glob.QUOTES]].copy())
        if g[Glob.TRADES]:
            self._trades.append(s.trades[: g[Glob.TRADES]].copy())
        if g[Glob.LADDERS]:
            self._ladders.append(s.ladders[: g[Glob.LADDERS]].copy())
            self._levels.append(s.levels[: g[Glob.LEVELS]].copy())
        g[Glob.QUOTES] = g[Glob.TRADES] = g[Glob.LADDERS] = g[Glob.LEVELS] = 0
        if closed := int(g[Glob.CLOSED]):
            self._closed.append(s.rows[:closed])  # handed out with their array, not copied
            g[Glob.CLOSED] = 0
            self._renew_rows(closed)
        elif len(s.rows) < g[Glob.ROWS] + len(self.symbols):  # rows waiting for a late clock
            self._renew_rows()

    def _drained(self) -> tuple[Array, Array, Array]:
        out = (_join(self._closed, ROW), _join(self._quotes, QUOTE_OUT), _join(self._trades, TRADE_OUT))
        self._closed, self._quotes, self._trades = [], [], []
        return out[0], _as(out[1], QUOTES), _as(out[2], TRADES)

    # ---- control rows ------------------------------------------------------------------------------------------

    def _acts(self, control: Control) -> bool:
        """Whether a control row can change the market."""
        if control.action:
            return control.action in (Action.RUN_START, Action.RUN_END, Action.SUBSCRIBE, Action.CANCEL)
        known = control.code in _NOTICES or control.code in REFUSALS or control.silence
        return known or control.row.get("msg") in (58, *DEPTH_MESSAGES)

    def _apply(self, control: Control) -> None:
        action, code = control.action, control.code
        if action == Action.SUBSCRIBE:
            self._subscribe(control)
        elif action == Action.CANCEL:
            params = _params(control)
            keep = params.get("renewed") is True
            ending = StreamEnd.RENEWED if keep or params.get("again") is True else StreamEnd.GIVEN_UP
            self._kill(control, self._held(control), ending, keep=keep)
        elif action == Action.RUN_END:
            self._kill(control, self.live(), StreamEnd.GIVEN_UP)
            self._drop_kept(control)
        elif code in (RESTORED_DATA_LOST, Own.DISCONNECTED):
            self._kill(control, self.live())
            self._drop_kept(control)
        elif code == CONNECTION_LOST or control.silence:
            self._forget(control, self.live())
            self._drop_kept(control)
        elif code == DEPTH_RESET:
            self._reset_book(control)
        elif code in REFUSALS or code == Own.STREAM_REFUSED:
            self._kill(control, self._held(control))
        elif code == HALTED_SECURITY:
            for k in self._held(control):
                self._halt(int(self.state.slots[k]["inst"]), control.seq, control.ts, 1)
        elif control.row.get("msg") in DEPTH_MESSAGES:
            self._lose_track(control)
        elif control.row.get("msg") == 58:
            for k in self._held(control):
                self._inst(k)["data_type"] = control.data_type

    def _held(self, control: Control) -> list[int]:
        """The live slot with the control's (epoch, request id), as a list of one or none."""
        slot = self._live.get((control.epoch, control.req_id))
        return [] if slot is None else [slot]

    def _inst(self, slot: int) -> Any:
        return self.state.inst[self.state.slots[slot]["inst"]]

    def _start_run(self, control: Control) -> None:
        """Kill every key of the previous run before time moves on to the new run's start."""
        self._kill(control, self.live(), StreamEnd.GIVEN_UP)
        for k in {(slot["con_id"], slot["stream"]): k for k, slot in enumerate(self.subscriptions())}.values():
            self._endings[k] = StreamEnd.GIVEN_UP.value  # what the next run subscribes continues nothing
        self._drop_kept(control)
        for inst in self.state.order[: len(self.symbols)].tolist():
            self._halt(inst, control.seq, control.ts, 0)
        self.runs += 1
        self._epoch = 0
        self.state.keys[:] = -1
        self._settle()

    def _settle(self) -> None:
        """Date the pending changes at the last event before them, so that no time passes."""
        last = int(self.state.glob[Glob.LAST_TS])
        self._changes = [(seq, last, *rest) for seq, _, *rest in self._changes]  # type: ignore[misc]

    def _subscribe(self, control: Control) -> None:
        stream = control.row["stream"]
        if stream not in MARKET_STREAMS:
            return
        if control.epoch > self._epoch:  # keys of an earlier connection died with it, with or without a notice
            self._epoch = control.epoch
            self._kill(control, [k for (epoch, _), k in self._live.items() if epoch < control.epoch])
            self._drop_kept(control)
        self._kill(control, self._held(control))
        slot = self._new_slot(control, self._instrument_of(control), Stream(stream))
        self._live[control.epoch, control.req_id] = slot
        self._alive[int(self.state.slots[slot]["inst"])].append(slot)
        self._choose(control, [slot], fresh=slot)

    def _instrument_of(self, control: Control) -> int:
        found = self._instrument.get(control.con_id)
        if found is not None:
            return found
        k = self._instrument[control.con_id] = len(self.symbols)
        self.symbols.append(control.row["symbol"] or str(control.con_id))
        self._alive.append([])
        self._stretches.append([])
        self.state = with_room(self.state, instruments=k + 1)
        inst = self.state.inst[k]
        for name in ("bid", "ask", "bid_size", "ask_size", "mark", "last_price", "volume", "volume_base"):
            inst[name] = np.nan
        inst["con_id"] = control.con_id
        self.state.order[: k + 1] = np.argsort(self.state.inst["con_id"][: k + 1])
        self.state.glob[Glob.INSTRUMENTS] = k + 1
        return k

    def _new_slot(self, control: Control, inst: int, stream: Stream) -> int:
        k = self._slots
        self._slots += 1
        self._endings.append(StreamEnd.NONE.value)
        self.state = with_room(self.state, slots=self._slots)
        params = _params(control)
        slot = self.state.slots[k]
        slot["con_id"], slot["epoch"], slot["req_id"], slot["inst"] = (
            control.con_id,
            control.epoch,
            control.req_id,
            inst,
        )
        slot["stream"], slot["alive"], slot["opened"] = STREAMS.index(stream), 1, control.ts
        generic = str(params.get("generic", "")).split(",")
        slot["rt_field"] = 77 if "375" in generic else 48 if "233" in generic else 0
        slot["book"] = self._new_book(k, params) if stream in DEPTH_STREAMS else -1
        self._learn_key(control.epoch, control.req_id, held(k, inst, int(slot["book"])))
        return k

    def _new_book(self, slot: int, params: dict[str, Any]) -> int:
        rows = params.get("rows", ROWS_DEFAULT)
        rows = min(max(rows, 1), ROWS_LIMIT) if isinstance(rows, int) else ROWS_DEFAULT
        used = {int(self.state.slots[k]["book"]) for k in self.live()}
        book = next(b for b in range(len(self._live) + 1) if b not in used)
        self.state = with_room(self.state, books=book + 1, depth=rows)
        self._clear(book)
        self.state.side["inserts"][2 * book : 2 * book + 2] = 0
        self.state.books[book] = np.zeros((), BOOK)
        self.state.books[book]["slot"], self.state.books[book]["rows"] = slot, rows
        return book

    def _learn_key(self, epoch: int, req_id: int, value: int) -> None:
        if 2 * int((self.state.keys >= 0).sum()) >= len(self.state.keys):
            old = [(int(k), int(v)) for k, v in zip(self.state.keys, self.state.vals, strict=True) if k >= 0]
            size = 2 * len(self.state.keys)
            self.state = self.state._replace(keys=np.full(size, -1, np.int64), vals=np.zeros(size, np.int64))
            for key, of in old:
                self._put_key(key, of)
        self._put_key(_key(epoch, req_id), value)

    def _put_key(self, key: int, value: int) -> None:
        self.state.vals[self._place_of(key)] = value

    def _place_of(self, key: int) -> int:
        """The place of a key in the hash table; a new key is inserted."""
        keys, mask = self.state.keys, len(self.state.keys) - 1
        at = (key ^ (key >> 32)) & mask
        while keys[at] not in (-1, key):
            at = (at + 1) & mask
        keys[at] = key
        return at

    # ---- halts and lost quotes ------------------------------------------------------------------------------------

    def _on_halt_tick(self, tick: HaltTick) -> None:
        """Take in a halt tick of a live L1 stream; the kernels have counted its row."""
        slot = self._live.get((tick.epoch, tick.req_id))
        if slot is not None and self.state.slots[slot]["stream"] == STREAMS.index(Stream.L1):
            self._halt(int(self.state.slots[slot]["inst"]), tick.seq, tick.ts, tick.value)

    def _halt(self, inst: int, seq: int, ts: int, value: int) -> None:
        """Set whether an instrument is halted: 0 no, 1 general, 2 volatility."""
        now = self.state.inst[inst]
        before = int(now["halt"])
        if value == before:
            return
        now["halt"] = value
        now["halted"] |= value != 0
        now["halts"] += before == 0
        self._happenings.append(Occurrence(seq, ts, int(now["con_id"]), OccurrenceKind.HALT, value))

    def _quoting(self, control: Control) -> tuple[int, Source] | None:
        """The instrument and the source of its quote in force, if the control row ends or doubts the stream of it."""
        doubts = control.action == Action.CANCEL or control.code in REFUSALS or control.code in _STREAM_ENDS
        for k in self._held(control) if doubts else ():
            slot = self.state.slots[k]
            source, role = SOURCE_STREAMS.get(STREAMS[slot["stream"]], (Source.NONE, Role.BOOK))
            inst = int(slot["inst"])
            in_use = source and self.state.inst[inst]["source"] == source and self.state.current[inst, role] == k
            if in_use and not self.state.inst[inst]["lost"]:
                return inst, source
        return None

    def _lose_quote(self, control: Control, inst: int, source: Source) -> None:
        """Note that the quote in force is not live, unless another source has taken over."""
        now = self.state.inst[inst]
        if now["source"] not in (Source.NONE, source):
            return
        now["lost"] = now["source"]
        self._happenings.append(Occurrence(control.seq, control.ts, int(now["con_id"]), OccurrenceKind.QUOTE_LOST))

    # ---- what is dead, what is unknown -----------------------------------------------------------------------------

    def _kill(self, control: Control, slots: list[int], ending: StreamEnd | None = None, *, keep: bool = False) -> None:
        """End subscriptions; `keep`: their last quotes stay in force until the renewed streams speak."""
        for k in slots:
            slot = self.state.slots[k]
            slot["alive"], slot["closed"] = 0, control.ts
            self._endings[k] = (ending or StreamEnd.LOST).value
            held_by = int(slot["epoch"]), int(slot["req_id"])
            del self._live[held_by]
            at = self._place_of(_key(*held_by))
            self.state.vals[at] = ~self.state.vals[at]
            self._alive[int(slot["inst"])].remove(k)
            if (book := int(self.state.slots[k]["book"])) >= 0:
                for name in ("applied", "impossible", "placed", "resets"):
                    self.state.slots[k][name] = self.state.books[book][name]
                self._clear(book)
        self._choose(control, slots, keep=keep)

    def _drop_kept(self, control: Control) -> None:
        """End the last quotes that are kept for streams being renewed: their feed is gone."""
        for inst in range(len(self.symbols)):
            for role in (Role.BID_ASK, Role.L1):
                if self._keeps(inst, role):
                    self._changes.append((control.seq, control.ts, inst, role, -1, 0))

    def _keeps(self, inst: int, role: Role) -> bool:
        """Whether the last quote of a cancelled stream is in force, because the stream is being renewed."""
        quoting = role in (Role.BID_ASK, Role.L1)
        return quoting and self.state.current[inst, role] < 0 and bool(self.state.heard[inst, role].any())

    def _forget(self, control: Control, slots: list[int]) -> None:
        """The feed is interrupted, subscriptions go on: books and quotes are unknown until their next row."""
        for k in slots:
            if (book := int(self.state.slots[k]["book"])) >= 0:
                self._clear(book)
        self._choose(control, slots, again=True)

    def _reset_book(self, control: Control) -> None:
        for k in self._held(control):
            if (book := int(self.state.slots[k]["book"])) >= 0:
                self._clear(book)
                self.state.books[book]["refill"] = 1
                self._choose(control, [k])

    def _lose_track(self, control: Control) -> None:
        """After an undecodable depth message its book is bad until the next reset; without a request id, every book."""
        named = self._held(control)
        for k in named or [k for (epoch, _), k in self._live.items() if epoch == control.epoch]:
            if (book := int(self.state.slots[k]["book"])) >= 0:
                self.state.books[book]["bad"] = 1
                self.state.books[book]["impossible"] += 1
                self._choose(control, [k])

    def _clear(self, book: int) -> None:
        s = self.state
        both = slice(2 * book, 2 * book + 2)
        for name in ("length", "filled", "known", "ties"):
            s.side[name][both] = 0
        s.side["order"][both] = FIRST_ORDER
        s.cells.reshape(len(s.side), -1)[both] = NO_ROW
        for name in ("bad", "refill", "against", "blank"):
            s.books[book][name] = 0
        s.books[book]["resets"] += 1

    def _choose(
        self, control: Control, slots: list[int], *, fresh: int = -1, again: bool = False, keep: bool = False
    ) -> None:
        """Choose the slots the instruments of `slots` use from here on; a changed or unknown one starts empty.

        `keep`: a quote role that loses its only slot keeps its last quote.
        """
        for con_id in sorted({int(self.state.slots[k]["con_id"]) for k in slots}):
            inst = self._instrument[con_id]
            alive = self._alive[inst]
            self.state.inst[inst]["subs"] = len(alive)
            touched = False
            for role, streams in ROLE_STREAMS.items():
                best = self._best(alive, streams, role)
                if best != self.state.current[inst, role] or best == fresh or again:
                    kept = (keep and best < 0) or (best == fresh and self._keeps(inst, role))
                    self._changes.append((control.seq, control.ts, inst, role, best, int(kept)))
                    touched = True
                    if role in (Role.L1, Role.TAPE):
                        self._end_stretch(inst)
            if not touched:  # a cleared book, or a subscription no role uses: the quote may change
                role = Role.SMART
                best = self._best(alive, ROLE_STREAMS[role], role)
                self._changes.append((control.seq, control.ts, inst, role, best, 0))

    def _best(self, alive: list[int], streams: tuple[Stream, ...], role: Role) -> int:
        slots = self.state.slots
        for stream in streams:
            newest = [k for k in alive if slots[k]["stream"] == STREAMS.index(stream)]
            if role == Role.TAPE and stream == Stream.L1:
                newest = [k for k in newest if slots[k]["rt_field"]]
            if newest:
                return newest[-1]
        return -1

    def _end_stretch(self, inst: int) -> None:
        """Start a new stretch of volume, after a change of L1 or tape."""
        now = self.state.inst[inst]
        if now["rises"] or now["falls"]:
            self._stretches[inst].append(Stretch.of(now))
        for name, value in zip(Stretch._fields, NOTHING, strict=True):
            now[name] = value
        now["volume_base"], now["last_rise"] = np.nan, 0.0

    def stretches(self, con_id: int) -> list[Stretch]:
        """Every stretch of an instrument, the current one last."""
        inst = self._instrument[con_id]
        return [*self._stretches[inst], Stretch.of(self.state.inst[inst])]

    # ---- snapshot --------------------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """State after the last fold, as bytes; equal states are equal bytes."""
        s = self.state._replace(quotes=self.state.quotes[:0], trades=self.state.trades[:0])
        s = s._replace(rows=s.rows[: s.glob[Glob.ROWS]], ladders=s.ladders[:0], levels=s.levels[:0])
        arrays = [(array.shape, np.ascontiguousarray(array).tobytes()) for array in s]
        ticks = sorted(self._min_ticks.items())
        names = (self.makers.names, self.symbols, self.runs, self._epoch, self._slots, self._stretches)
        own = (*names, ticks, self._endings)
        return msgspec.msgpack.encode((arrays, own, self._changes))

    def restore(self, data: bytes) -> None:
        """Replace the state by that of a snapshot."""
        arrays, names, changes = msgspec.msgpack.decode(data)
        fresh = new_state()
        loaded = [
            np.frombuffer(raw, old.dtype).reshape(shape).copy() for (shape, raw), old in zip(arrays, fresh, strict=True)
        ]
        self.state = MarketState(*loaded)
        waiting = self.state.rows
        self.state = self.state._replace(
            rows=np.zeros(max(256, 2 * len(waiting)), ROW), quotes=fresh.quotes, trades=fresh.trades
        )
        self.state.rows[: len(waiting)] = waiting
        makers, self.symbols, self.runs, self._epoch, self._slots, stretches, ticks, self._endings = names
        self._min_ticks = dict(ticks)
        self._stretches = [[Stretch(*stretch) for stretch in of_one] for of_one in stretches]
        self.makers = Makers(makers)
        self._instrument = {int(self.state.inst[k]["con_id"]): k for k in range(len(self.symbols))}
        self._changes = [tuple(change) for change in changes]
        self._live, self._alive = {}, [[] for _ in self.symbols]
        for k, slot in enumerate(self.subscriptions()):
            if slot["alive"]:
                self._live[slot["epoch"], slot["req_id"]] = k
                self._alive[slot["inst"]].append(k)

    def subscriptions(self) -> list[dict[str, int]]:
        """Every subscription of the date, in the order of requests; `ending` is a value of `StreamEnd`."""
        rows, fields = self.state.slots[: self._slots].tolist(), (*(self.state.slots.dtype.names or ()), "ending")
        return [dict(zip(fields, (*row, end), strict=True)) for row, end in zip(rows, self._endings, strict=True)]

    def instrument(self, con_id: int) -> int | None:
        """Index of an instrument, None when it was never subscribed."""
        return self._instrument.get(con_id)

    def live(self) -> list[int]:
        """Slots that are alive, oldest first."""
        return list(self._live.values())


_STREAM_ENDS = frozenset((int(Own.STREAM_SILENT), int(Own.STREAM_REFUSED)))
_NOTICES = _STREAM_ENDS | {DEPTH_RESET, CONNECTION_LOST, RESTORED_DATA_LOST, HALTED_SECURITY, int(Own.DISCONNECTED)}


def _in_order(
    controls: Iterable[tuple[Control, int]], halts: Sequence[HaltTick]
) -> Iterable[tuple[Control | HaltTick, int]]:
    """Control rows and halt ticks with their places in a frame, in order of place."""
    if not halts:
        return controls
    return sorted([*controls, *((tick, tick.place) for tick in halts)], key=itemgetter(1))


def _seq_at(frame: Frame, cursor: Array) -> int:
    """Seq of the event a kernel was at: `cursor` has the next row of each kind."""
    at = int(cursor.sum())
    if at >= len(frame.which) or frame.which[at] == Hot.CONTROL:
        return 0
    kind = Hot(int(frame.which[at]))
    return int(getattr(frame, f"{kind.name.lower()}_seq")[cursor[kind]])


def _key(epoch: int, req_id: int) -> int:
    return (epoch << 32) | (req_id & 0xFFFFFFFF)


def _params(control: Control) -> dict[str, Any]:
    try:
        params = msgspec.json.decode(control.row["params"] or "{}")
    except msgspec.DecodeError:
        return {}  # unreadable parameters: use the defaults
    return params if isinstance(params, dict) else {}


def _join(parts: list[Array], dtype: Any) -> Array:
    return joined(parts) if parts else np.empty(0, dtype)


def _as(rows: Array, dtype: Any) -> Array:
    out = np.empty(len(rows), dtype)
    for name in dtype.names:
        out[name] = rows[name]
    return out
