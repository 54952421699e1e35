"""The state of the trading fold between two intervals."""

from __future__ import annotations

from typing import Any

import msgspec

from harvester.projections.trading.episodes import SymbolHealth, Tracked  # noqa: TC001 - msgspec resolves fields when it decodes
from harvester.projections.trading.position import Position  # noqa: TC001 - msgspec resolves fields when it decodes
from harvester.projections.trading.run_terms import RunTerms  # noqa: TC001 - msgspec resolves fields when it decodes
from harvester.projections.trading.simulated_exchange import ShownQuote  # noqa: TC001 - msgspec resolves fields when it decodes


class TradingState(msgspec.Struct):
    """The whole state as plain data; `chains`, `history` and `strategies` are filled in by `snapshot`.

    Attributes:
        history: the newest buckets, by con_id.
        starting: run starts that wait for their interval, as (seq, ts, terms).
        active: positions with a working order; `ending`: flat ones whose last second is not closed yet.
        unknown: (position, when) of trades that are over, which their strategies do not know yet.
        trades_of: number of episodes, by symbol.
        outages: con_ids whose feed is interrupted, 0 = all.
        depth_ts: start of the last second with depth rows, by con_id.
        sent: number of messages sent to the exchange.
        clock: seq and ts (ns UTC) of the last clock.
        halted: con_ids that are halted; `ticks`: their smallest price steps, USD.
        dark: by con_id, (begin, end, why) where it was unseen, ns UTC and bits of `darkness.Dark`; `NEVER`: it
            still is.
        gaps: (begin, end) of seconds without a clock. Both since the oldest position followed.
        kind: where the data of the date come from so far, a `SourceKind`.
        aligned: 1 all timeframes closed up, -1 all down, 0 neither, by con_id.
    """

    terms: RunTerms | None = None
    runs: int = 0
    starting: list[tuple[int, int, RunTerms]] = []
    shown: dict[int, ShownQuote] = {}
    symbols: dict[int, str] = {}
    history: dict[int, list[dict[str, Any]]] = {}
    active: list[Tracked] = []
    ending: list[Tracked] = []
    unknown: list[tuple[Position, int]] = []
    trades_of: dict[str, int] = {}
    health: dict[int, SymbolHealth] = {}
    outages: list[int] = []
    sent: int = 0
    clock: tuple[int, int] = (0, 0)
    halted: list[int] = []
    ticks: dict[int, float] = {}
    dark: dict[int, list[tuple[int, int, int]]] = {}
    gaps: list[tuple[int, int]] = []
    depth_ts: dict[int, int] = {}
    aligned: dict[int, int] = {}
    kind: str = "unknown"
    chains: tuple[bytes, bytes] = (b"", b"")
    strategies: list[Any] = []
