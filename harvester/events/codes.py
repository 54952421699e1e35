"""IB's error and status codes that Harvester acts on (interactivebrokers.github.io/tws-api, "Message Codes").

Codes of Harvester's own notices are `kinds.Own`.
"""

from __future__ import annotations

TOO_FAST = 100  # more than 50 messages a second
HISTORY_ERROR = 162  # no data, a pacing violation, or a scanner without rows: the text says which
UNKNOWN_CONTRACT = 200
NO_MORE_DEPTH = 309  # market depth lines in use
DEPTH_HALTED = 316
DEPTH_RESET = 317  # the book is empty; new rows follow
BAD_REQUEST = 321
NO_MORE_TICK_BY_TICK = frozenset({10190, 322})
CLIENT_ID_IN_USE = 326
NOT_SUBSCRIBED = 354
CONNECTION_LOST = 1100
RESTORED_DATA_LOST = 1101  # subscriptions are gone
RESTORED_DATA_KEPT = 1102  # subscriptions go on
FARM_BROKEN = frozenset({2103, 2110})  # a market data farm; the servers, as TWS sees them
MARKET_FARM_OK = 2104
FARM_OK = (2104, 2106, 2158)  # market data, historical data, security definitions
DELAYED_DATA = 10167
NO_DELAYED_DATA = 10168
COMPETING_SESSION = 10197
RESUBSCRIBE = 10225  # "Bust event occurred, current subscription is deactivated. Please resubscribe …"

REFUSALS = frozenset((
    101, UNKNOWN_CONTRACT, NO_MORE_DEPTH, 310, DEPTH_HALTED, BAD_REQUEST, 322, NOT_SUBSCRIBED, 10089, 10092,
    NO_DELAYED_DATA, 10186, 10189, 10190,
))  # fmt: skip
"""Errors after which a request gives nothing. Not 10167 and 10197: delayed data flow, live data may resume."""
