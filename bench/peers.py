"""The same book events through other engines. Run by bench_book.py with an interpreter that has them installed.

    PYTHON bench/peers.py FILE.npz NAME ...      NAME: hftbacktest, nautilus, lists, sorteddict

The file holds one row per event as price-keyed deltas: ts, symbol, operation, side (1 bid), position, price (ticks),
size. Prints one JSON object: events/s by name, null with a reason where a peer cannot be imported.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import numpy as np

TICK = 0.01


def hftbacktest(day: dict[str, np.ndarray]) -> tuple[float, float]:
    """hftbacktest's fastest replay of a book: array-backed depth over a range of prices, one asset, top only.

    The events are marked for the local side only: marked for the exchange too, each would be applied twice.
    """
    from hftbacktest import BacktestAsset, ROIVectorMarketDepthBacktest
    from hftbacktest.types import BUY_EVENT, DEPTH_EVENT, LOCAL_EVENT, SELL_EVENT, event_dtype
    from numba import njit

    rows = np.zeros(len(day["ts"]), event_dtype)
    rows["ev"] = np.where(day["side"] == 1, BUY_EVENT, SELL_EVENT) | DEPTH_EVENT | LOCAL_EVENT
    rows["exch_ts"], rows["local_ts"] = day["ts"], day["ts"]
    rows["px"], rows["qty"] = np.round(day["price"] * TICK, 2), np.where(day["operation"] == 2, 0.0, day["size"])
    low, high = (day["price"].min() - 10) * TICK, (day["price"].max() + 10) * TICK

    @njit
    def play(hbt):
        while hbt.elapse(600_000_000_000) == 0:  # as rarely as possible: each call has a cost
            pass
        return hbt.depth(0).best_bid

    def once(data: np.ndarray) -> tuple[float, float]:
        asset = (
            BacktestAsset().data(data).linear_asset(1.0).constant_order_latency(0, 0).risk_adverse_queue_model()
            .no_partial_fill_exchange().trading_value_fee_model(0.0, 0.0).tick_size(TICK).lot_size(1.0)
            .roi_lb(float(low)).roi_ub(float(high))
        )  # fmt: skip
        hbt = ROIVectorMarketDepthBacktest([asset])
        begun = time.perf_counter()
        top = play(hbt)
        seconds = time.perf_counter() - begun
        hbt.close()
        return len(data) / seconds, top

    once(rows[:1000])
    return once(rows)


def nautilus(day: dict[str, np.ndarray]) -> tuple[float, float]:
    """BacktestEngine with a strategy that does nothing, book deltas of as many instruments as there are symbols."""
    from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
    from nautilus_trader.config import LoggingConfig, StrategyConfig
    from nautilus_trader.model.currencies import USD
    from nautilus_trader.model.data import BookOrder, OrderBookDelta
    from nautilus_trader.model.enums import AccountType, BookAction, BookType, OmsType, OrderSide
    from nautilus_trader.model.identifiers import Venue
    from nautilus_trader.model.objects import Money, Price, Quantity
    from nautilus_trader.test_kit.providers import TestInstrumentProvider
    from nautilus_trader.trading.strategy import Strategy

    class Nothing(Strategy):
        def on_start(self) -> None:
            for one in instruments:
                self.subscribe_order_book_deltas(one.id, book_type=BookType.L2_MBP)

    engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
    engine.add_venue(
        Venue("XNAS"), OmsType.NETTING, AccountType.CASH, [Money(1_000_000, USD)], base_currency=USD,
        book_type=BookType.L2_MBP,
    )  # fmt: skip
    symbols = np.unique(day["symbol"]).tolist()
    instruments = [TestInstrumentProvider.equity(symbol=f"S{k}", venue="XNAS") for k in symbols]
    for one in instruments:
        engine.add_instrument(one)
    ids = {k: one.id for k, one in zip(symbols, instruments, strict=True)}
    actions = (BookAction.ADD, BookAction.UPDATE, BookAction.DELETE)
    columns = (day[name].tolist() for name in ("ts", "symbol", "operation", "side", "price", "size"))
    deltas = [
        OrderBookDelta(
            ids[symbol], actions[operation],
            BookOrder(OrderSide.BUY if side else OrderSide.SELL, Price(price * TICK, 2), Quantity(size, 0), price),
            0, n, ts, ts,
        )
        for n, (ts, symbol, operation, side, price, size) in enumerate(zip(*columns, strict=True))
    ]  # fmt: skip
    engine.add_data(deltas)
    engine.add_strategy(Nothing(StrategyConfig()))
    begun = time.perf_counter()
    engine.run()
    seconds = time.perf_counter() - begun
    bid = float(engine.cache.order_book(ids[symbols[0]]).best_bid_price())
    return len(deltas) / seconds, bid


def lists(day: dict[str, np.ndarray]) -> tuple[float, float]:
    """Row tables as plain Python lists: insert, assign, del."""
    names = ("symbol", "operation", "side", "position", "price", "size")
    rows = list(zip(*(day[name].tolist() for name in names), strict=True))
    books = {(k, side): [] for k in range(1, int(day["symbol"].max()) + 1) for side in (0, 1)}
    begun = time.perf_counter()
    for symbol, operation, side, position, price, size in rows:
        book = books[symbol, side]
        if operation == 1:
            book[position] = (price, size)
        elif operation == 0:
            book.insert(position, (price, size))
        else:
            del book[position]
    return len(rows) / (time.perf_counter() - begun), books[1, 1][0][0] * TICK


def sorteddict(day: dict[str, np.ndarray]) -> tuple[float, float]:
    """Price-keyed books on sortedcontainers."""
    from sortedcontainers import SortedDict

    rows = list(zip(*(day[name].tolist() for name in ("symbol", "operation", "side", "price", "size")), strict=True))
    books = {(k, side): SortedDict() for k in range(1, int(day["symbol"].max()) + 1) for side in (0, 1)}
    begun = time.perf_counter()
    for symbol, operation, side, price, size in rows:
        book = books[symbol, side]
        if operation == 2:
            del book[price]
        else:
            book[price] = size
    return len(rows) / (time.perf_counter() - begun), books[1, 1].peekitem(-1)[0] * TICK


PEERS = {"hftbacktest": hftbacktest, "nautilus": nautilus, "lists": lists, "sorteddict": sorteddict}
DISTRIBUTION = {"hftbacktest": "hftbacktest", "nautilus": "nautilus_trader", "sorteddict": "sortedcontainers"}


def main() -> None:
    with np.load(sys.argv[1]) as file:
        day = {name: file[name] for name in file.files}
    out: dict[str, object] = {}
    for name in sys.argv[2:]:
        one = day
        if name == "hftbacktest":
            one = {key: column[day["symbol"] == 1] for key, column in day.items()}
        try:
            rate, best = PEERS[name](one)
        except ImportError as error:
            out[name] = None
            out[f"{name}_why_not"] = str(error)
            continue
        out[name], out[f"{name}_best_bid"] = round(rate), round(best, 2)
        if name in DISTRIBUTION:
            out[f"{name}_version"] = version(DISTRIBUTION[name])
    print(json.dumps(out))


if __name__ == "__main__":
    main()
