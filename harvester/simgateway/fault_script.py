"""The fault script: a text table with one fault per line: when, for whom, which fault.

    # at             who           action    arguments
    +60              *             error     2103
    09:45:00         IBM           error     317
    +90              IBM:depth     depth     12 1 0 184.05 300
    +2:00:00         client=9960   drop
    +2:00:00         *             closed    20

`at`    `+seconds` or `+h:mm:ss` after the market's start, `h:mm[:ss]` in New York on the market's first day, or
        ISO-8601 with a zone. All times and durations are market time.
`who`   `*` (all clients), `client=ID`, a symbol (all its subscriptions), or `SYMBOL:stream` with a value of `Stream`.

Lines use shell quoting; `#` starts a comment. `ACTIONS` lists the actions. For a symbol, an error or message goes to
each of its subscriptions, with its request id; otherwise once to each client, with request id -1.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harvester.errors import BadSetting
from harvester.events.kinds import Stream
from harvester.simgateway.ib_time_text import market_time, parse_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TEXTS: dict[int, str] = {
    101: "Max number of tickers has been reached",
    162: "Historical Market Data Service error message:Historical data request pacing violation",
    200: "No security definition has been found for the request",
    316: "Market depth data has been HALTED. Please re-subscribe.",
    317: "Market depth data has been RESET. Please empty deep book contents before applying any new entries.",
    321: "Error validating request.-'bW' : cause - The request is not valid",
    322: "Error processing request.-'bR' : cause - Duplicate ticker id",
    354: "Requested market data is not subscribed. Check API status by selecting the Account menu then under "
    "Management choose Market Data Subscription Manager",
    420: "Invalid Real-time Query:Historical data request pacing violation",
    1300: "TWS socket port has been reset and this connection is being dropped. "
    "Please reconnect on the new port - {port}",
    1100: "Connectivity between IBKR and Trader Workstation has been lost.",
    1101: "Connectivity between IBKR and Trader Workstation has been restored - data lost.",
    1102: "Connectivity between IBKR and Trader Workstation has been restored - data maintained.",
    2110: "Connectivity between Trader Workstation and server is broken. It will be restored automatically.",
    2103: "Market data farm connection is broken:usfarm",
    2104: "Market data farm connection is OK:usfarm",
    2105: "HMDS data farm connection is broken:ushmds",
    2106: "HMDS data farm connection is OK:ushmds",
    2107: "HMDS data farm connection is inactive but should be available upon demand.ushmds",
    2108: "Market data farm connection is inactive but should be available upon demand.usfarm",
    2119: "Market data farm is connecting:usfarm",
    2157: "Sec-def data farm connection is broken:secdefnj",
    2158: "Sec-def data farm connection is OK:secdefnj",
    10089: "Requested market data requires additional subscription for API. See link in 'Market Data Connections' "
    "dialog for more details.Delayed market data is available.",
    10090: "Part of requested market data is not subscribed. Subscription-independent ticks are still active.",
    10091: "Part of requested market data requires additional subscription for API. See link in 'Market Data "
    "Connections' dialog for more details.",
    10167: "Requested market data is not subscribed. Displaying delayed market data.",
    10168: "Requested market data is not subscribed. Delayed market data is not enabled.",
    10182: "Failed to request live updates (disconnected).",
    10189: "Failed to request tick-by-tick data.No market data permissions for ISLAND STK.",
    10190: "Max number of tick-by-tick requests has been reached.",
    10197: "No market data during competing live session",
    10225: "Bust event occurred, current subscription is deactivated. Please resubscribe real-time bars immediately.",
}
"""IB's default texts of error codes."""

ACTIONS: dict[str, tuple[int, int, str]] = {
    "error": (1, 99, "CODE [TEXT]: send an error or status; 316 ends depth, 317 resets it, 1100 to 1102 act as at IB"),
    "refuse": (1, 99, "CODE[:COUNT] [TEXT]: answer all later requests, or COUNT of them, with that error; 0 ends this"),
    "advise": (
        2,
        99,
        "before | after CODE[:COUNT] [TEXT]: send that error with later subscriptions, or COUNT of them; 0 ends this",
    ),
    "swallow": (
        1,
        1,
        "COUNT: do not answer the next COUNT look-ups, histories and questions for the time; 0 ends this",
    ),
    "port": (0, 1, "[PORT]: move to another port, or to a free one: announce it (1300) and close every connection"),
    "drop": (0, 0, "close the connection"),
    "closed": (1, 1, "SECONDS: close the port to new connections"),
    "silence": (1, 1, "SECONDS: send nothing; the messages of this time are lost"),
    "dead": (0, 0, "send nothing more on the present subscriptions; later requests are served"),
    "split": (1, 1, "N: split the byte stream into packets of 1 to N bytes; 0 ends this"),
    "packets": (1, 1, "one | any: write each message separately, or any number at once"),
    "coalesce": (1, 1, "KB: buffer output until this size is reached; 0 ends this"),
    "depth": (5, 6, "POSITION OPERATION SIDE PRICE SIZE [MARKET_MAKER]: send a depth operation, valid or not"),
    "impossible": (0, 0, "send a dozen invalid depth operations"),
    "unset": (0, 0, "send a message of unset values on every subscription"),
    "history": (1, 1, "markers | text | short | good: spoil the bars of later histories; good ends this"),
    "tick": (2, 2, "FIELD VALUE: send an L1 tick of any type, known or not"),
    "message": (1, 99, "FIELDS…: send these fields; {req} is replaced by the request id"),
    "garbage": (1, 1, "length | zero | text | noise: send a 4 GB frame, an empty frame, non-UTF-8 text, random bytes"),
}
"""Action → minimum and maximum number of arguments, and its help text."""

BAD_HISTORIES = ("markers", "text", "short", "good")
LATER_REQUESTS = frozenset({"refuse", "advise", "swallow"})
"""Actions about later requests: at `+0` they are in force before the first client connects."""
SUBSCRIPTIONS = frozenset({"dead", "depth", "impossible", "unset", "tick"})
"""Actions on subscriptions: for a symbol, or `*` for all."""

_GARBAGE = ("length", "zero", "text", "noise")


@dataclass(frozen=True)
class Fault:
    """One line of a script."""

    line: int
    at: str
    who: str
    action: str
    args: tuple[str, ...]

    @property
    def client_id(self) -> int | None:
        """The client named by `client=ID`."""
        return int(self.who[7:]) if self.who.startswith("client=") else None

    @property
    def symbol(self) -> str | None:
        """The symbol named, None for all clients or one client."""
        if self.who == "*" or self.who.startswith("client="):
            return None
        return self._parts()[0]

    @property
    def stream(self) -> Stream | None:
        return self._parts()[1]

    def _parts(self) -> tuple[str, Stream | None]:
        symbol, _, stream = self.who.rpartition(":")
        if symbol and stream in set(Stream):
            return symbol, Stream(stream)
        return self.who, None

    @property
    def error_args(self) -> tuple[str, ...]:
        """The code, with its count, and the text of an action that sends an error."""
        return self.args[1:] if self.action == "advise" else self.args

    def at_ns(self, start_ns: int) -> int:
        """Market time of the fault, ns UTC."""
        return market_time(self.at, start_ns)


@dataclass(frozen=True)
class FaultScript:
    """Faults in file order."""

    faults: tuple[Fault, ...] = field(default=())

    @classmethod
    def read(cls, path: Path) -> FaultScript:
        """Read a script file.

        Raises:
            BadSetting: the file cannot be read, or a line is invalid; the message names the line.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadSetting(f"fault script {path} cannot be read: {error}") from None
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, name: str = "fault script") -> FaultScript:
        """Parse a script; errors as in `read`."""
        faults = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                words = shlex.split(line, comments=True)
                if words:
                    faults.append(_fault(number, words))
            except ValueError as error:
                raise BadSetting(f"{name}, line {number}: {error}; the line is {line.strip()!r}") from None
        return cls(tuple(faults))


def _fault(number: int, words: Sequence[str]) -> Fault:
    if len(words) < 3:
        raise ValueError("a fault needs at least three fields: at, who, action")
    at, who, action, *args = words
    if action not in ACTIONS:
        raise ValueError(f"unknown action {action!r}; choose one of {', '.join(ACTIONS)}")
    least, most, meaning = ACTIONS[action]
    if not least <= len(args) <= most:
        raise ValueError(f"{action} does not take {len(args)} arguments; usage: {action} {meaning}")
    fault = Fault(number, at, who, action, tuple(args))
    market_time(at, 0)
    _check_who(fault)
    _check_args(fault)
    return fault


def _check_who(fault: Fault) -> None:
    if fault.who.startswith("client=") and not re.fullmatch(r"client=\d{1,9}", fault.who):
        raise ValueError(f"{fault.who!r} is not a client; use client=9960")
    if fault.action == "history" and fault.who != "*":
        raise ValueError("history applies to all later answers: give *")
    if fault.action in SUBSCRIPTIONS and fault.symbol is None and fault.who != "*":
        raise ValueError(f"{fault.action} applies to subscriptions: give a symbol or *")


def _check_args(fault: Fault) -> None:
    first = fault.args[0] if fault.args else ""
    if fault.action in {"error", "refuse", "advise"}:
        _check_error(fault)
    elif fault.action in {"closed", "silence"}:
        parse_seconds(first)
    elif fault.action in {"split", "coalesce", "swallow"}:
        _number(first, "a count")
    elif fault.action == "port" and first and not 0 < _number(first, "a port") < 1 << 16:
        raise ValueError(f"{first!r} is not a port")
    elif fault.action == "tick":
        _number(first, "a tick type")
    elif fault.action == "packets" and first not in {"one", "any"}:
        raise ValueError(f"packets takes one or any, not {first!r}")
    elif fault.action == "history" and first not in BAD_HISTORIES:
        raise ValueError(f"history takes {', '.join(BAD_HISTORIES)}, not {first!r}")
    elif fault.action == "garbage" and first not in _GARBAGE:
        raise ValueError(f"garbage takes {', '.join(_GARBAGE)}, not {first!r}")


def _check_error(fault: Fault) -> None:
    if fault.action == "advise" and fault.args[0] not in {"before", "after"}:
        raise ValueError(f"advise takes before or after, not {fault.args[0]!r}")
    code, colon, count = fault.error_args[0].partition(":")
    _number(code, "an error code")
    if colon:
        _number(count, "a count")
    if colon and fault.action == "error":
        raise ValueError("error takes no count: it is sent once")
    if len(fault.error_args) == 1 and int(code) not in TEXTS and int(code) != 0:
        raise ValueError(f"code {code} has no default text; add one after it")


def _number(text: str, what: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise ValueError(f"{text!r} is not {what}")
    return int(text)
