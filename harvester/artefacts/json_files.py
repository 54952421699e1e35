"""The JSON format of every artefact, and atomic file writes.

UTF-8, keys in their given order, shortest round-trip numbers, no NaN, one time format.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from harvester.calendar import iso
from harvester.units import MILLI_NS

if TYPE_CHECKING:
    from collections.abc import Sequence


TIME_KEYS = frozenset((
    "ts", "time", "bucket_start", "bucket_end", "bucket_ts", "decision_ts", "entry_ts", "exit_ts", "first_ts",
    "last_ts", "TimestampUtc",
))  # fmt: skip
"""Keys whose integers are ns UTC inside Harvester and text (or epoch milliseconds) in a file."""


def times(value: Any, *, epoch_ms: bool = False) -> Any:
    """The same JSON value with every time under a key of `TIME_KEYS` as text.

    ISO-8601 UTC with trailing zeros trimmed and `Z`; with `epoch_ms` whole Unix milliseconds, rounded down.
    """
    if isinstance(value, dict):
        return {k: time_of(v, epoch_ms) if k in TIME_KEYS else times(v, epoch_ms=epoch_ms) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [times(v, epoch_ms=epoch_ms) for v in value]
    return value


def time_of(value: Any, epoch_ms: bool) -> Any:
    """One time as `times` writes it; other values than integers are returned unchanged."""
    if not isinstance(value, int):
        return value
    return value // MILLI_NS if epoch_ms else iso(value)


def json_file(value: Any) -> bytes:
    """A JSON file for people: indented by two, a newline at the end. A float that is not finite becomes null."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def times_file(document: str, keys: Sequence[str], *, epoch_ms: bool = False) -> bytes:
    """`json_file(times(...))` of a JSON document, without a Python object per number.

    `keys` are its only keys with times. In indented JSON `"ts": ` after a space is always a whole key: inside a text or
    a longer key its first quote would be escaped.
    """
    text = msgspec.json.format(document, indent=2)
    for key in keys:
        first, *others = text.split(f' "{key}": ')
        out = [first]
        for other in others:
            line, end, rest = other.partition("\n")
            out += (f' "{key}": ', _with_time(line, epoch_ms), end, rest)
        text = "".join(out)
    return f"{text}\n".encode()


@lru_cache(100_000)  # seconds of a day: the windows of episodes overlap
def _with_time(line: str, epoch_ms: bool) -> str:
    """The rest of a line after a key, its time as `times` writes it."""
    number = _INTEGER.fullmatch(line)
    return msgspec.json.encode(time_of(int(number[1]), epoch_ms)).decode() + number[2] if number else line


_INTEGER = re.compile("(-?[0-9]+)(,?)")


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    """One JSON object a line. A float that is not finite becomes null."""
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


VERSION = 2  # of the artefacts of a date: 2 has the kind of the data and the rules 2 of simulated trading


def envelope(
    schema: str,
    rows: list[dict[str, Any]],
    *,
    trading_date: str,
    run: str,
    through_seq: int,
    health: dict[str, Any],
    symbol: str | None = None,
    version: int = VERSION,
) -> dict[str, Any]:
    """The object around the rows of every JSON artefact."""
    head: dict[str, Any] = {"schema": schema, "schema_version": version, "trading_date": trading_date}
    if symbol is not None:
        head["symbol"] = symbol
    return head | {"run": run, "through_seq": through_seq, "health": health, "rows": rows}
