"""The benches' own market: a seeded day of order books, written through the real log writer.

    python bench/generator.py --home FOLDER [--events 2000000] [--symbols 5] [--mixed] [--compression zstd]

Every book has ten rows a side and changes by IB's row operations: about 70 % updates, 15 % inserts, 15 % deletes, all
valid (a delete leaves nine rows, the next insert on that side makes them ten again; prices stay in order).
Depth alone is SMART depth, so that every bucket column depends on it. `--mixed` has half of the events as one
venue's depth, 30 % tick-by-tick quotes and 20 % prints. Equal arguments give equal events.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harvester.calendar import session
from harvester.config import Settings
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.kinds import SCHEMAS, Kind
from harvester.home import Home
from harvester.projections.run_params import RunParams, StrategyRef
from harvester.projections.trading.strategies import describe
from harvester.units import SECOND_NS as SECOND

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY = date(2025, 7, 17)
TICK = 0.01
DEPTH, QUOTE, TRADE = 0, 1, 2
STREAMS = ("smart_depth", "bid_ask", "all_last")
PIECE = 500_000  # events generated at a time


class Events(NamedTuple):
    """Consecutive market events as columns; a delete has the price it removes, which the log's row does not."""

    ts: np.ndarray  # int64 ns UTC
    kind: np.ndarray  # uint8: DEPTH, QUOTE, TRADE
    symbol: np.ndarray  # int64, from 1; also the con_id
    operation: np.ndarray  # int64: 0 insert, 1 update, 2 delete
    position: np.ndarray  # int64
    side: np.ndarray  # int64: 0 ask, 1 bid
    price: np.ndarray  # int64 ticks: the row's, the print's, or the quote's bid
    ask: np.ndarray  # int64 ticks: the quote's
    size: np.ndarray  # float64 shares: the row's, the print's, or the quote's bid size
    ask_size: np.ndarray


@numba.njit
def _walk(n, kind, symbol, side, shift, dice, ticks, sizes, filled, out_op, out_pos, price, ask, size, ask_size):  # noqa: PLR0917 - compiled, by place
    """Move the books of `ticks`, `sizes` [symbol, side, row] through `n` events; best row first, bids fall."""
    for i in range(n):
        k = symbol[i] - 1
        if kind[i] != 0:
            price[i], ask[i] = ticks[k, 1, 0], ticks[k, 0, 0]
            if kind[i] == 2 and side[i] == 0:
                price[i] = ask[i]
            if kind[i] == 1:
                size[i], ask_size[i] = sizes[k, 1, 0], sizes[k, 0, 0]
            continue
        d = side[i]
        way = 1 if d == 0 else -1  # the direction of worse prices
        book, amount, rows = ticks[k, d], sizes[k, d], filled[k, d]
        best = ticks[k, 1 - d, 0]
        if rows < 10 and (shift[i] or rows == 0):
            p = rows if rows < 9 else dice[i] % 10
            for _ in range(11):  # the first place from p on with a free price before it
                lower = best if p == 0 else book[p - 1]
                worse = lower + way * (1 + (dice[i] >> 8) % 2 if p in (0, rows) else 1)
                free = p == rows or (book[p] - worse) * way > 0
                if free:
                    break
                p = (p + 1) % (rows + 1)
            for j in range(rows, p, -1):
                book[j], amount[j] = book[j - 1], amount[j - 1]
            book[p], amount[p] = worse, size[i]
            filled[k, d] = rows + 1
            out_op[i], out_pos[i], price[i] = 0, p, worse
        elif shift[i] and rows == 10:
            p = dice[i] % 10
            price[i] = book[p]
            for j in range(p, rows - 1):
                book[j], amount[j] = book[j + 1], amount[j + 1]
            filled[k, d] = rows - 1
            out_op[i], out_pos[i] = 2, p
            size[i] = 0.0
        else:
            p = dice[i] % rows
            amount[p] = size[i]
            out_op[i], out_pos[i], price[i] = 1, p, book[p]


def generate(events: int, *, symbols: int = 5, mixed: bool = False, seed: int = 7) -> Iterator[Events]:
    """`events` market events spread over a trading day's session, in pieces; books start at ten rows a side."""
    chance = np.random.default_rng(seed)
    opens, closes = _hours()
    books = np.zeros((symbols, 2, 10), np.int64)
    amounts, filled = np.full((symbols, 2, 10), 100.0), np.zeros((symbols, 2), np.int64)
    for k in range(symbols):
        books[k, 1] = 10_000 + 100 * k - np.arange(10)
        books[k, 0] = books[k, 1, 0] + 1 + np.arange(10)
    first = Events(
        ts=np.full(20 * symbols, opens + 1), kind=np.zeros(20 * symbols, np.uint8),
        symbol=np.repeat(np.arange(1, symbols + 1), 20), operation=np.zeros(20 * symbols, np.int64),
        position=np.tile(np.arange(10), 2 * symbols), side=np.tile(np.repeat([0, 1], 10), symbols),
        price=books.reshape(-1).copy(), ask=np.zeros(20 * symbols, np.int64), size=amounts.reshape(-1).copy(),
        ask_size=np.zeros(20 * symbols),
    )  # fmt: skip
    yield first
    filled[:] = 10
    left = events - 20 * symbols
    step = (closes - opens - 2 * SECOND) / max(left, 1)
    for begin in range(0, left, PIECE):
        n = min(PIECE, left - begin)
        jitter = chance.random(n)
        ts = opens + 2 + ((np.arange(begin, begin + n) + jitter) * step).astype(np.int64)
        kind = chance.choice(3, n, p=(0.5, 0.3, 0.2)).astype(np.uint8) if mixed else np.zeros(n, np.uint8)
        made = Events(
            ts, kind, chance.integers(1, symbols + 1, n), np.zeros(n, np.int64), np.zeros(n, np.int64),
            chance.integers(0, 2, n), np.zeros(n, np.int64), np.zeros(n, np.int64),
            chance.integers(1, 50, n) * 100.0, np.zeros(n),
        )  # fmt: skip
        _walk(
            n, kind, made.symbol, made.side, chance.random(n) < 0.3, chance.integers(0, 1 << 30, n), books, amounts,
            filled, made.operation, made.position, made.price, made.ask, made.size, made.ask_size,
        )  # fmt: skip
        yield made


def _hours() -> tuple[int, int]:
    hours = session(DAY)
    assert hours is not None
    return hours.open_ns, hours.close_ns


def batches(events: int, *, symbols: int = 5, mixed: bool = False, seed: int = 7, first_seq: int) -> Iterator[Batch]:
    """The day's events, with a clock each second, numbered from `first_seq`; without subscriptions."""
    opens, closes = _hours()
    seq, clock = first_seq, opens + SECOND
    for made in generate(events, symbols=symbols, mixed=mixed, seed=seed):
        upto = (int(made.ts[-1]) // SECOND) * SECOND
        clocks = np.arange(clock, upto + 1, SECOND)
        clock = max(clock, upto + SECOND)
        batch = _numbered(made, clocks, seq, mixed=mixed)
        seq += len(batch)
        yield batch
    yield Batch({Kind.CLOCK: _clock_table(np.arange(clock, closes + 1, SECOND), seq)})


def _numbered(made: Events, clocks: np.ndarray, seq: int, *, mixed: bool) -> Batch:
    order = np.argsort(np.concatenate([clocks, made.ts]), kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = seq + np.arange(len(order))
    tables = {Kind.CLOCK: _clock_table(clocks, place[: len(clocks)])} if len(clocks) else {}
    seqs = place[len(clocks) :]
    bid, ask = made.price * TICK, made.ask * TICK
    delete, depth = made.operation == 2, made.kind == DEPTH
    price = np.where(delete & depth, 0.0, bid)
    for kind, of, extra in (
        (Kind.DEPTH, DEPTH, {"position": made.position, "operation": made.operation, "side": made.side,
                             "msg": np.full(len(bid), 13), "smart": np.full(len(bid), not mixed)}),
        (Kind.QUOTE, QUOTE, {"stream": np.full(len(bid), 3), "bid": bid, "ask": ask, "bid_size": made.size,
                             "ask_size": made.ask_size, "attribs": np.zeros(len(bid))}),
        (Kind.TRADE, TRADE, {"stream": np.full(len(bid), 2), "past_limit": np.zeros(len(bid)),
                             "unreported": np.zeros(len(bid)), "attribs": np.zeros(len(bid))}),
    ):  # fmt: skip
        pick = made.kind == of
        if pick.any():
            columns = {"seq": seqs, "ts_recv": made.ts, "con_id": made.symbol, "req_id": 10 * made.symbol + of,
                       "epoch": np.ones(len(bid)), "price": np.round(price, 2), "size": made.size, **extra}  # fmt: skip
            tables[kind] = _table(kind, {name: column[pick] for name, column in columns.items()})
    return Batch({kind: tables[kind] for kind in Kind if kind in tables})


def _clock_table(ts: np.ndarray, seq: np.ndarray | int) -> pa.RecordBatch:
    numbers = seq + np.arange(len(ts)) if isinstance(seq, int) else seq
    none = np.zeros(len(ts))
    return _table(
        Kind.CLOCK,
        {
            "seq": numbers,
            "ts_recv": ts,
            "con_id": none,
            "req_id": none - 1,
            "epoch": none,
            "wall_ns": ts,
            "mono_ns": ts,
        },
    )


def _table(kind: Kind, columns: dict[str, np.ndarray]) -> pa.RecordBatch:
    n = len(columns["seq"])
    arrays = [
        pa.array(columns[f.name].astype(f.type.to_pandas_dtype())) if f.name in columns else pa.nulls(n, f.type)
        for f in SCHEMAS[kind]
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMAS[kind])


def subscriptions(symbols: int, *, mixed: bool, first_seq: int) -> Batch:
    """One request per stream and symbol; request id = 10 * symbol + kind."""
    ts, _ = _hours()
    rows = []
    for k in range(1, symbols + 1):
        for of, stream in enumerate(STREAMS if mixed else STREAMS[:1]):
            depth = stream == "smart_depth"
            asked = {"action": "subscribe", "stream": "depth" if depth and mixed else stream, "symbol": f"S{k:03d}"}
            params = '{"rows":10}' if depth else "{}"
            rows.append((Kind.REQUEST, {**asked, "con_id": k, "epoch": 1, "req_id": 10 * k + of, "ts_recv": ts,
                                        "params": params}))  # fmt: skip
    return Batch.of(rows, first_seq)


def write(home: Home, events: int, *, symbols: int = 5, mixed: bool = False, seed: int = 7,
          compression: str | None = None, commit_rows: int = 100_000) -> int:  # fmt: skip
    """Write the day to `home` as one ended run; returns its last seq."""
    params = RunParams.build(Settings(), DAY, strategies=[StrategyRef(**describe("imbalance_breakout", {}))])
    row = {"params": params.text()}
    with LogWriter.open(home.on(DAY), run_start_row=row, compression=compression) as writer:
        writer.begin(_hours()[0])
        writer.commit(subscriptions(symbols, mixed=mixed, first_seq=writer.next_seq))
        for batch in batches(events, symbols=symbols, mixed=mixed, seed=seed, first_seq=writer.next_seq):
            for begin in range(batch.first_seq, batch.last_seq + 1, commit_rows):
                writer.commit(batch.slice(begin, begin + commit_rows - 1))
        end = {"action": "run_end", "stream": "run", "ts_recv": writer.last_ts}
        writer.commit(Batch.of([(Kind.REQUEST, end)], writer.next_seq))
        return writer.next_seq - 1


def kept(folder: Path, events: int, **options: object) -> Home:
    """The home under `folder` with this day, which is written if it is missing."""
    name = "-".join([str(events), *(f"{key}_{value}" for key, value in sorted(options.items()))])
    done = folder / name / "written.json"
    home = Home(folder / name)
    if not done.exists():
        last = write(home.prepare(), events, **options)  # type: ignore[arg-type]
        done.write_text(json.dumps({"last_seq": last}) + "\n", encoding="utf-8")
    return home


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--home", type=Path, required=True)
    options.add_argument("--events", type=int, default=2_000_000)
    options.add_argument("--symbols", type=int, default=5)
    options.add_argument("--mixed", action="store_true")
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--compression", choices=("none", "lz4", "zstd"), default="none")
    options.add_argument("--commit-rows", type=int, default=100_000)
    given = vars(options.parse_args())
    home = Home(given.pop("home")).prepare()
    print(json.dumps({"home": str(home.root), "date": DAY.isoformat(), "last_seq": write(home, **given)}))


if __name__ == "__main__":
    main()
