"""Message ids and tick field ids of the TWS text protocol, server version 176 to 178.

Source: `message.py` and `ticktype.py` of the official API, `decoder.py` of ib_async; their ids agree.
"""

from __future__ import annotations

from enum import IntEnum

SERVER_VERSION_MIN, SERVER_VERSION_MAX = 176, 178
"""Server versions with the message layouts of this package; 176 is TWS 10.19."""

MARKET_TIME_OPTION = "+MARKETTIME"
"""Connect option of a recorder that follows the market clock of `hv gateway`: send the market time with the data."""
MARKET_TIME = "29002"
"""Message of `hv gateway` to clients with that option alone, beyond IB's ids: market time of what follows, ns UTC."""


class In(IntEnum):
    """Messages from gateway to client."""

    TICK_PRICE = 1
    TICK_SIZE = 2
    ORDER_STATUS = 3
    ERROR = 4
    OPEN_ORDER = 5
    ACCOUNT_VALUE = 6
    PORTFOLIO_VALUE = 7
    ACCOUNT_TIME = 8
    NEXT_VALID_ID = 9
    CONTRACT = 10
    EXECUTION = 11
    DEPTH = 12
    DEPTH_L2 = 13
    NEWS_BULLETIN = 14
    MANAGED_ACCOUNTS = 15
    RECEIVE_FA = 16
    HISTORICAL_DATA = 17
    BOND_CONTRACT = 18
    SCANNER_PARAMETERS = 19
    SCANNER_DATA = 20
    TICK_OPTION = 21
    TICK_GENERIC = 45
    TICK_STRING = 46
    TICK_EFP = 47
    CURRENT_TIME = 49
    REALTIME_BAR = 50
    FUNDAMENTAL_DATA = 51
    CONTRACT_END = 52
    OPEN_ORDER_END = 53
    ACCOUNT_DOWNLOAD_END = 54
    EXECUTION_END = 55
    DELTA_NEUTRAL = 56
    SNAPSHOT_END = 57
    MARKET_DATA_TYPE = 58
    COMMISSION = 59
    POSITION = 61
    POSITION_END = 62
    ACCOUNT_SUMMARY = 63
    ACCOUNT_SUMMARY_END = 64
    POSITION_MULTI = 71
    POSITION_MULTI_END = 72
    ACCOUNT_MULTI = 73
    ACCOUNT_MULTI_END = 74
    OPTION_PARAMETERS = 75
    OPTION_PARAMETERS_END = 76
    SOFT_DOLLAR_TIERS = 77
    FAMILY_CODES = 78
    SYMBOL_SAMPLES = 79
    DEPTH_EXCHANGES = 80
    TICK_REQ_PARAMS = 81
    SMART_COMPONENTS = 82
    NEWS_PROVIDERS = 85
    HEAD_TIMESTAMP = 88
    HISTOGRAM = 89
    HISTORICAL_UPDATE = 90
    REROUTE_MARKET_DATA = 91
    REROUTE_DEPTH = 92
    MARKET_RULE = 93
    PNL = 94
    PNL_SINGLE = 95
    HISTORICAL_TICKS = 96
    HISTORICAL_TICKS_BID_ASK = 97
    HISTORICAL_TICKS_LAST = 98
    TICK_BY_TICK = 99
    COMPLETED_ORDER = 101
    COMPLETED_ORDER_END = 102
    REPLACE_FA_END = 103
    HISTORICAL_SCHEDULE = 106
    USER_INFO = 107


class Out(IntEnum):
    """Messages from client to gateway."""

    MARKET_DATA = 1
    CANCEL_MARKET_DATA = 2
    PLACE_ORDER = 3
    CANCEL_ORDER = 4
    OPEN_ORDERS = 5
    ACCOUNT_UPDATES = 6
    EXECUTIONS = 7
    IDS = 8
    CONTRACT = 9
    DEPTH = 10
    CANCEL_DEPTH = 11
    NEWS_BULLETINS = 12
    CANCEL_NEWS_BULLETINS = 13
    SERVER_LOG_LEVEL = 14
    AUTO_OPEN_ORDERS = 15
    ALL_OPEN_ORDERS = 16
    MANAGED_ACCOUNTS = 17
    REQUEST_FA = 18
    REPLACE_FA = 19
    HISTORICAL_DATA = 20
    EXERCISE_OPTIONS = 21
    SCANNER = 22
    CANCEL_SCANNER = 23
    SCANNER_PARAMETERS = 24
    CANCEL_HISTORICAL_DATA = 25
    CURRENT_TIME = 49
    REALTIME_BARS = 50
    CANCEL_REALTIME_BARS = 51
    FUNDAMENTAL_DATA = 52
    CANCEL_FUNDAMENTAL_DATA = 53
    CALC_VOLATILITY = 54
    CALC_OPTION_PRICE = 55
    CANCEL_CALC_VOLATILITY = 56
    CANCEL_CALC_OPTION_PRICE = 57
    GLOBAL_CANCEL = 58
    MARKET_DATA_TYPE = 59
    POSITIONS = 61
    ACCOUNT_SUMMARY = 62
    CANCEL_ACCOUNT_SUMMARY = 63
    CANCEL_POSITIONS = 64
    VERIFY_REQUEST = 65
    VERIFY_MESSAGE = 66
    DISPLAY_GROUPS = 67
    SUBSCRIBE_GROUP = 68
    UPDATE_GROUP = 69
    UNSUBSCRIBE_GROUP = 70
    START_API = 71
    VERIFY_AUTH_REQUEST = 72
    VERIFY_AUTH_MESSAGE = 73
    POSITIONS_MULTI = 74
    CANCEL_POSITIONS_MULTI = 75
    ACCOUNT_UPDATES_MULTI = 76
    CANCEL_ACCOUNT_UPDATES_MULTI = 77
    OPTION_PARAMETERS = 78
    SOFT_DOLLAR_TIERS = 79
    FAMILY_CODES = 80
    MATCHING_SYMBOLS = 81
    DEPTH_EXCHANGES = 82
    SMART_COMPONENTS = 83
    NEWS_ARTICLE = 84
    NEWS_PROVIDERS = 85
    HISTORICAL_NEWS = 86
    HEAD_TIMESTAMP = 87
    HISTOGRAM = 88
    CANCEL_HISTOGRAM = 89
    CANCEL_HEAD_TIMESTAMP = 90
    MARKET_RULE = 91
    PNL = 92
    CANCEL_PNL = 93
    PNL_SINGLE = 94
    CANCEL_PNL_SINGLE = 95
    HISTORICAL_TICKS = 96
    TICK_BY_TICK = 97
    CANCEL_TICK_BY_TICK = 98
    COMPLETED_ORDERS = 99
    WSH_META_DATA = 100
    CANCEL_WSH_META_DATA = 101
    WSH_EVENT_DATA = 102
    CANCEL_WSH_EVENT_DATA = 103
    USER_INFO = 104


ORDER_MESSAGES = frozenset({Out.PLACE_ORDER, Out.CANCEL_ORDER, Out.REPLACE_FA, Out.EXERCISE_OPTIONS, Out.GLOBAL_CANCEL})
"""Client messages that create, change or end an order or an allocation; a data recorder never sends them."""


class TickField(IntEnum):
    """`tickType` of L1 messages, as far as stocks use them."""

    BID_SIZE = 0
    BID = 1
    ASK = 2
    ASK_SIZE = 3
    LAST = 4
    LAST_SIZE = 5
    HIGH = 6
    LOW = 7
    VOLUME = 8
    CLOSE = 9
    OPEN = 14
    BID_EXCHANGE = 32
    ASK_EXCHANGE = 33
    LAST_TIMESTAMP = 45
    RT_VOLUME = 48
    HALTED = 49
    DELAYED_BID = 66
    DELAYED_ASK = 67
    DELAYED_LAST = 68
    DELAYED_BID_SIZE = 69
    DELAYED_ASK_SIZE = 70
    DELAYED_LAST_SIZE = 71
    DELAYED_HIGH = 72
    DELAYED_LOW = 73
    DELAYED_VOLUME = 74
    DELAYED_CLOSE = 75
    DELAYED_OPEN = 76
    RT_TRADE_VOLUME = 77
    LAST_EXCHANGE = 84


GENERIC_OF_FIELD = {TickField.RT_VOLUME: "233", TickField.RT_TRADE_VOLUME: "375"}
"""Tick field → the generic tick a client must request to receive it."""

REQ_ID_INDEX: dict[int, int] = {
    **dict.fromkeys((1, 2, 4, 11, 12, 13, 20, 45, 46, 47, 50, 51, 52, 55, 57, 58, 63, 64, 67, 68, 71, 72, 73, 74), 2),
    **dict.fromkeys((10, 17, 18, 21, 75, 76, 77, 79, 81, 82, 83, 84, 86, 87, 88, 89, 90, 91, 92, 94, 95), 1),
    **dict.fromkeys((96, 97, 98, 99, 103, 104, 105, 106, 107), 1),
}
"""Gateway message id → index of the request id in its fields (field 0 is the message id); absent if it has none."""
