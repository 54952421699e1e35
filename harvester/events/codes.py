"""IB's error and status codes that Harvester acts on, and the one table of what each means.

`MEANINGS` is the table: a code and, where the code has several meanings, a pattern of its text. docs/codes.md is
generated from it (`python tools/codes.py`). Texts are those of a gateway in English, from "Message Codes" of
interactivebrokers.github.io/tws-api and of IBKR Campus; a gateway in another language sends the same codes with
translated texts, so a code's last row, without a pattern, must be right for any text.

Codes of Harvester's own notices are `kinds.Own`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from harvester.events.kinds import SourceKind

TOO_FAST = 100  # more than 50 messages a second
NO_MORE_MARKET_DATA = 101  # market data lines in use
HISTORY_ERROR = 162  # no data, a pacing violation, or a scanner without rows: the text says which
UNKNOWN_CONTRACT = 200
NO_MORE_DEPTH = 309  # market depth lines in use
HALTED_SECURITY = 154  # "Orders cannot be transmitted for a halted security": the symbol itself, not a feed
DEPTH_HALTED = 316
DEPTH_RESET = 317  # the book is empty; new rows follow
BAD_REQUEST = 321
NOT_PROCESSED = 322  # a duplicate id, or no more lines: the text says which
CLIENT_ID_IN_USE = 326
NOT_SUBSCRIBED = 354
BAD_BARS_REQUEST = 420
PORT_CHANGED = 1300
CONNECTION_LOST = 1100
RESTORED_DATA_LOST = 1101  # subscriptions are gone
RESTORED_DATA_KEPT = 1102  # subscriptions go on
FARM_BROKEN = frozenset({2103, 2110})  # a market data farm; the servers, as TWS sees them
MARKET_FARM_OK = 2104
FARM_OK = (2104, 2106, 2158)  # market data, historical data, security definitions
PERMISSION_MISSING = 10089
DELAYED_DATA = 10167
NO_DELAYED_DATA = 10168
LIVE_UPDATES_FAILED = 10182
NO_TICK_BY_TICK = 10189
NO_MORE_TICK_BY_TICK = 10190
COMPETING_SESSION = 10197
SIMULATED = 29001  # of `hv gateway` alone, beyond IB's codes: the first message of every connection, see `simulated`
RESUBSCRIBE = 10225  # "Bust event occurred, current subscription is deactivated. Please resubscribe …"

REFUSALS = frozenset((
    NO_MORE_MARKET_DATA, UNKNOWN_CONTRACT, NO_MORE_DEPTH, 310, DEPTH_HALTED, BAD_REQUEST, NOT_PROCESSED, NOT_SUBSCRIBED,
    10092, NO_DELAYED_DATA, 10186, NO_TICK_BY_TICK, NO_MORE_TICK_BY_TICK,
))  # fmt: skip
"""Errors that end a subscription in every fold, by any text. The recorder's `STREAM_REFUSED` ends it too."""


class Effect(StrEnum):
    """What an error about a request means for it."""

    FINAL = "final"
    NO_LINE = "no line"
    PACING = "pacing"
    FOR_NOW = "for now"
    NOW_AND_THEN = "now and then"
    NEW_ID = "new id"
    DOUBTFUL = "doubtful"
    ADVICE = "advice"
    STATUS = "status"


EFFECTS: dict[Effect, str] = {
    Effect.FINAL: "The request is not repeated on this connection.",
    Effect.NO_LINE: "IB has no free line. No other of this kind is requested until everything is requested again.",
    Effect.PACING: "Too many requests: repeated after 15 s, 30 s, 1, 2, 5, 10 min; other histories and 5-second bars "
    "wait meanwhile.",
    Effect.FOR_NOW: "Repeated after 1, 2, 5, 10, 20, 30, 60 s, and at once when a farm or the connection is back.",
    Effect.NOW_AND_THEN: "Repeated after 1, 5, 15, 30, 60 min, and at once when a farm or the connection is back.",
    Effect.NEW_ID: "The old id is cancelled, and the same is requested under a new id, after the pauses of `for now`.",
    Effect.DOUBTFUL: "Advice while rows arrive. Without rows a refusal, then like `now and then`. If the stream stops "
    "soon after, it counts as refused.",
    Effect.ADVICE: "The request goes on. *Held*: if no rows arrive, or the stream soon stops, it counts as refused.",
    Effect.STATUS: "Not about one request.",
}
"""What the recorder does after each effect. A refusal after which the gateway may hold the request is cancelled."""


class Meaning(NamedTuple):
    """One row of the table. `text` is a pattern searched in the message, ignoring case; "" matches any text.

    `held`: the gateway may still hold the request: it is cancelled before it is repeated, and advice may turn out to
    be its end. `said`: IB's words; `does`: what we do besides; `tests`: where it is tested.
    """

    code: int
    text: str
    effect: Effect
    said: str
    does: str = ""
    tests: tuple[str, ...] = ()
    held: bool = False


UNKNOWN = Meaning(0, "", Effect.DOUBTFUL, "", held=True)
"""An error about a request whose code is not in the table."""

_NO_PERMISSION, _PACING, _LINES = r"permission|not subscribed|additional subscription", r"pacing", r"max(imum)? ?number"
_NOTHING = r"no data|cancel+ed|no items|scanner"
_UNITS = ("tests/test_codes.py::test_the_text_decides",)
_AGAIN = ("tests/test_record_refusals.py::test_a_refusal_for_now_is_repeated_until_it_is_granted",)
_NOW_AND_THEN = ("tests/test_record_refusals.py::test_a_missing_permission_is_asked_again_when_a_farm_returns",)
_FARM_RETURNS = "tests/test_record_refusals.py::test_live_updates_that_fail_are_revived_by_the_farm"
_ADVICE = ("tests/test_record_refusals.py::test_advice_ends_nothing_in_the_folds",)
_PACED = ("tests/test_record_refusals.py::test_a_pacing_refusal_spaces_the_histories",)
_ONE_SHOTS = "tests/test_record_start.py::test_a_look_up_lost_in_an_outage_is_repeated"
_DEPTH = ("tests/test_record_stranger.py::test_smart_depth_stands_in_for_an_exchange_that_is_refused",)
_LIMITS = ("tests/test_record_trouble.py::test_refused_streams_are_degraded_and_recorded",)

MEANINGS: tuple[Meaning, ...] = (
    Meaning(
        TOO_FAST, "", Effect.PACING, "Max rate of messages per second has been exceeded",
        "Halve our message rate and repeat the unanswered requests of the last 3 s.",
        ("tests/test_record_limits.py::test_what_a_gateway_drops_is_asked_again",),
    ),
    Meaning(
        NO_MORE_MARKET_DATA, "", Effect.NOW_AND_THEN, "Max number of tickers has been reached", "", _NOW_AND_THEN
    ),
    Meaning(102, "", Effect.NEW_ID, "Duplicate ticker ID", "", _UNITS, held=True),
    Meaning(HISTORY_ERROR, _PACING, Effect.PACING, "… Historical data request pacing violation", "", _PACED),
    Meaning(HISTORY_ERROR, _NOTHING, Effect.FINAL, "… HMDS query returned no data", "", _UNITS),
    Meaning(
        HISTORY_ERROR, _NO_PERMISSION, Effect.NOW_AND_THEN, "… No market data permissions for NYSE STK", "", _UNITS
    ),
    Meaning(HISTORY_ERROR, "", Effect.FOR_NOW, "… any other text, such as a lost HMDS connection", "", _UNITS),
    Meaning(
        HALTED_SECURITY, "", Effect.ADVICE, "Orders cannot be transmitted for a halted security",
        "The symbol counts as halted until a tick 49 says otherwise.",
        ("tests/test_projections_halts.py::test_an_error_about_a_halted_security_halts_the_symbol",),
    ),
    Meaning(165, "", Effect.ADVICE, "Historical Market Data Service query message", "", _UNITS),
    Meaning(
        UNKNOWN_CONTRACT, "", Effect.NOW_AND_THEN, "No security definition has been found for the request",
        "A contract look-up ends with exit code 8, except during an outage (1100). Depth is requested under the "
        "exchange's other name, then as SMART depth.",
        ("tests/test_record_trouble.py::test_an_unknown_symbol_ends_the_recording_in_order",
         "tests/test_record_stranger.py::test_an_exchange_is_asked_by_its_other_name_before_smart"),
    ),
    Meaning(300, "", Effect.NEW_ID, "Can't find EId with tickerId", "", _UNITS),
    Meaning(NO_MORE_DEPTH, "", Effect.NO_LINE, "Max number of market depth requests has been reached", "", _LIMITS),
    Meaning(310, "", Effect.NEW_ID, "Can't find the subscribed market depth with tickerId", "", _UNITS),
    Meaning(
        DEPTH_HALTED, "", Effect.NEW_ID, "Market depth data has been HALTED. Please re-subscribe.", "",
        ("tests/test_record_limits.py::test_halts_are_no_storm",), held=True,
    ),
    Meaning(
        DEPTH_RESET, "", Effect.ADVICE, "Market depth data has been RESET. Please empty deep book contents …",
        "The book is empty until new rows arrive.",
        ("tests/test_record_trouble.py::test_317_and_316_are_recorded_and_316_brings_a_new_request",),
    ),
    Meaning(320, "", Effect.FOR_NOW, "Server error when reading an API client request", "", _UNITS),
    Meaning(BAD_REQUEST, _PACING, Effect.PACING, "Error validating request … pacing violation", "", _UNITS),
    Meaning(
        BAD_REQUEST, "", Effect.FINAL, "Error validating request … Incorrect generic tick list of …",
        "L1 is requested with those of our generic ticks that the text lists as legal, else with half, else with none.",
        ("tests/test_record_refusals.py::test_one_bad_generic_tick_costs_that_tick",),
    ),
    Meaning(
        NOT_PROCESSED, r"duplicate", Effect.NEW_ID, "Error processing request … Duplicate ticker id", "",
        ("tests/test_record_refusals.py::test_a_duplicate_id_costs_the_id_and_no_line",), held=True,
    ),
    Meaning(NOT_PROCESSED, _PACING, Effect.PACING, "Error processing request … pacing violation", "", _UNITS),
    Meaning(
        NOT_PROCESSED, rf"{_LINES}.*tick-by-tick", Effect.NO_LINE,
        "… Max number of tick-by-tick requests has been reached", "", _UNITS,
    ),
    Meaning(NOT_PROCESSED, "", Effect.NOW_AND_THEN, "Error processing request … any other cause", "", _UNITS),
    Meaning(323, "", Effect.FOR_NOW, "Server error: cause - …", "", _UNITS),
    Meaning(
        CLIENT_ID_IN_USE, "", Effect.STATUS, "Unable to connect as the client id is already in use",
        "The first connection ends with exit code 7; a later one is tried again.",
        ("tests/test_record_trouble.py::test_a_client_id_in_use",),
    ),
    Meaning(NOT_SUBSCRIBED, "", Effect.NOW_AND_THEN, "Requested market data is not subscribed", "", _NOW_AND_THEN),
    Meaning(366, "", Effect.FOR_NOW, "No historical data query found for ticker id", "", _UNITS),
    Meaning(399, "", Effect.ADVICE, "Order message: a warning", "", _UNITS),
    Meaning(
        BAD_BARS_REQUEST, _NO_PERMISSION, Effect.NOW_AND_THEN,
        "Invalid Real-time Query: No market data permissions for NYSE STK", "", _UNITS,
    ),
    Meaning(
        BAD_BARS_REQUEST, "", Effect.PACING, "Invalid Real-time Query: … pacing violation, in any language", "", _AGAIN
    ),
    Meaning(
        CONNECTION_LOST, "", Effect.STATUS, "Connectivity between IBKR and Trader Workstation has been lost",
        "An outage begins. Contract look-ups do not time out until it ends.", (_ONE_SHOTS,),
    ),
    Meaning(
        RESTORED_DATA_LOST, "", Effect.STATUS, "… restored - data lost",
        "The outage ends. Everything is requested again, unanswered requests too.",
        ("tests/test_record_trouble.py::test_after_1101_everything_is_asked_for_again", _ONE_SHOTS),
    ),
    Meaning(
        RESTORED_DATA_KEPT, "", Effect.STATUS, "… restored - data maintained",
        "The outage ends. Depth is renewed, and every stream that stays silent; unanswered requests are repeated.",
        ("tests/test_record_limits.py::test_a_granted_line_is_kept_though_others_were_refused", _ONE_SHOTS),
    ),
    Meaning(
        PORT_CHANGED, "", Effect.STATUS, "TWS socket port has been reset … Please reconnect on the new port - <port>",
        "The port is shown and tried once, on the same host; a text that names another host is only shown.",
        ("tests/test_record_refusals.py::test_an_announced_port_is_tried_once",
         "tests/test_codes.py::test_a_new_port_is_read_from_the_text"),
    ),
    *(
        Meaning(
            code, "", Effect.STATUS, said,
            "A shorter silence of the whole feed is an outage. After 2104 old streams that stay silent are renewed.",
            ("tests/test_record_silence.py::test_a_feed_that_dies_with_the_socket_up_is_an_outage",),
        )
        for code, said in (
            (2103, "Market data farm connection is broken"),
            (2110, "Connectivity between Trader Workstation and server is broken"),
        )
    ),
    *(
        Meaning(
            code, "", Effect.STATUS, f"{farm} farm connection is OK",
            "Streams that stay silent are renewed, refused requests and unanswered ones repeated.", (test,),
        )
        for code, farm, test in zip(
            FARM_OK,
            ("Market data", "HMDS data", "Sec-def data"),
            (_FARM_RETURNS, *_NOW_AND_THEN, _ONE_SHOTS),
            strict=True,
        )
    ),
    Meaning(
        PERMISSION_MISSING, r"/deep", Effect.DOUBTFUL, "… requires additional subscription for API … /DEEP",
        "", _UNITS, held=True,
    ),
    Meaning(
        PERMISSION_MISSING, "", Effect.ADVICE, "Requested market data requires additional subscription for API",
        "", _ADVICE, held=True,
    ),
    Meaning(10090, "", Effect.ADVICE, "Part of requested market data is not subscribed", "", _ADVICE, held=True),
    Meaning(
        10091, "", Effect.ADVICE, "Part of requested market data requires additional subscription for API", "",
        _ADVICE, held=True,
    ),
    Meaning(10092, "", Effect.FINAL, "Deep market data is not supported for this combination …", "", _DEPTH),
    Meaning(
        DELAYED_DATA, "", Effect.ADVICE, "Requested market data is not subscribed. Displaying delayed market data.",
        "The data type is recorded and shown.", _ADVICE,
    ),
    Meaning(NO_DELAYED_DATA, "", Effect.NOW_AND_THEN, "… Delayed market data is not enabled", "", _UNITS),
    Meaning(
        LIVE_UPDATES_FAILED, "", Effect.FOR_NOW, "Failed to request live updates (disconnected)", "",
        (_FARM_RETURNS,), held=True,
    ),
    Meaning(10186, "", Effect.NOW_AND_THEN, "… Delayed market data is not enabled", "", _UNITS),
    Meaning(
        NO_TICK_BY_TICK, r"no more than|pacing|15 sec", Effect.PACING,
        "Failed to request tick-by-tick data: no more than one request per instrument every 15 seconds", "", _UNITS,
    ),
    Meaning(
        NO_TICK_BY_TICK, r"not supported", Effect.FINAL,
        "… BidAsk tick-by-tick requests are not supported for this instrument", "", _UNITS,
    ),
    Meaning(
        NO_TICK_BY_TICK, "", Effect.NOW_AND_THEN, "… No market data permissions for ISLAND STK", "", _NOW_AND_THEN
    ),
    Meaning(
        NO_MORE_TICK_BY_TICK, _PACING, Effect.PACING, "… pacing violation", "",
        ("tests/test_record_stranger.py::test_a_refusal_for_its_pace_is_repeated",),
    ),
    Meaning(
        NO_MORE_TICK_BY_TICK, "", Effect.NO_LINE, "Max number of tick-by-tick requests has been reached", "", _LIMITS
    ),
    Meaning(
        COMPETING_SESSION, "", Effect.ADVICE, "No market data during competing live session",
        "The stream is paused; it is renewed when silent for `silence_seconds`.",
        ("tests/test_record_limits.py::test_a_stream_that_ended_without_a_word_is_asked_again",),
    ),
    Meaning(
        RESUBSCRIBE, "", Effect.NEW_ID, "Bust event occurred, current subscription is deactivated. Please resubscribe",
        "", ("tests/test_record_refusals.py::test_what_the_gateway_may_hold_is_cancelled_first",), held=True,
    ),
    Meaning(
        SIMULATED, "", Effect.STATUS, "Harvester simulated gateway: model, tape or served, and a digest",
        "Not IB's. The recording is marked as one of that market.",
        ("tests/test_provenance.py::test_every_kind_is_recorded_from_a_real_connection",),
    ),
)  # fmt: skip
"""Of the rows of one code the first whose pattern is found in the text applies."""

_BY_CODE: dict[int, tuple[Meaning, ...]] = {
    code: tuple(row for row in MEANINGS if row.code == code) for code in dict.fromkeys(row.code for row in MEANINGS)
}
_SYSTEM_MESSAGES = range(2100, 2200)  # warnings about farms and settings, never about one subscription
_SYSTEM = Meaning(0, "", Effect.ADVICE, "")
_ANNOUNCED = "Harvester simulated gateway: "
_READ_CHARACTERS = 1000  # of a text; IB's are shorter, and a gateway may send 16 MB


def meaning(code: int, text: str) -> Meaning:
    """What an error about a request means, by its code and, where that is not enough, its text.

    A code outside the table is `UNKNOWN`; "pacing" in its text makes it a pacing refusal, as IB reports pacing
    violations under several codes.
    """
    text = text[:_READ_CHARACTERS]
    for row in _BY_CODE.get(code, ()):
        if re.search(row.text, text, re.IGNORECASE):
            return row
    if code in _SYSTEM_MESSAGES:
        return _SYSTEM
    return UNKNOWN._replace(effect=Effect.PACING) if re.search(_PACING, text, re.IGNORECASE) else UNKNOWN


def announcement(kind: SourceKind, digest: str) -> str:
    """The text of `SIMULATED`: a market and the digest of its source."""
    return f"{_ANNOUNCED}{kind} {digest}"


def simulated(text: str) -> tuple[SourceKind, str]:
    """Read the text of a `SIMULATED`: kind and digest of the market; (unknown, "") for any other text."""
    found = re.fullmatch(rf"{_ANNOUNCED}(model|tape|served) ([0-9a-f]{{1,64}})", text[:_READ_CHARACTERS])
    return (SourceKind.UNKNOWN, "") if found is None else (SourceKind(found[1]), found[2])


class NewPort(NamedTuple):
    """The port that a 1300 names, and the host beside it: "" when the text names none."""

    host: str
    port: int


def new_port(text: str) -> NewPort | None:
    """Read the text of a 1300: its last number is the port; None when that is not one."""
    found = re.search(r"(?:([\w.-]*\w):)?(?<!\d)(\d{1,5})\D*$", text[:_READ_CHARACTERS], re.ASCII)
    if found is None or not 0 < int(found[2]) < 1 << 16:
        return None
    host = found[1] or ""
    return NewPort(host if re.search(r"\.|^localhost$", host) else "", int(found[2]))


def legal_generic_ticks(text: str) -> set[str]:
    """The generic ticks that a 321 lists as legal; empty when it lists none."""
    return {tick for group in re.findall(r"\b(\d{2,3}(?:/\d{2,3})?)\(", text) for tick in group.split("/")}


def fewer_generic_ticks(asked: str, text: str) -> str | None:
    """Generic ticks for another L1 request after a 321 about `asked`, both separated by commas; None to give up.

    IB's text names the legal ones: "Legal ones for (STK) are: 100(Option Volume),221/220(Creditman Mark Price) …".
    Without such a list: half of them, at last none.
    """
    ours = [tick for tick in asked.split(",") if tick]
    if not ours:
        return None
    legal = legal_generic_ticks(text)
    kept = [tick for tick in ours if tick.split(":")[0] in legal]
    return ",".join(kept if 0 < len(kept) < len(ours) else ours[: len(ours) // 2])
