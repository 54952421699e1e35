"""Parse text fields into typed columns without loss.

A text is accepted only if its number converts back to the same decimal: an integer must be canonical (no plus, no
leading zero) and in range; a decimal must equal the shortest decimal of its float64 (true for every text of at most 15
significant digits). An empty text is null. Rows with any other text are null and reported, never corrected; IB's
markers for "no value" that float64 rounds are kept as its nearest number (`events.unset`).

Each parser has a fast path for whole columns and an exact path for single texts. The fast path is used only where both
give the same result, so a value does not depend on the other rows.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from harvester.events.unset import LOSSY_MARKERS, TEXT_OF_MARKER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INT32 = (-(2**31), 2**31 - 1)
INT64 = (-(2**63), 2**63 - 1)

_INT = re.compile(r"(?:0|-?[1-9][0-9]*)\Z")
_DECIMAL = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\Z")
_EXACT_LENGTH = 15  # texts up to this length without exponent convert to float64 without loss
_INT_LENGTH = 18  # texts up to this length fit int64
_TEXT_LENGTH_MAX = 400  # longer than any number IB sends; bounds the work on invalid text


def _table(characters: bytes) -> npt.NDArray[np.bool_]:
    known = np.zeros(256, np.bool_)
    known[list(characters)] = True
    return known


_INT_BYTES, _DECIMAL_BYTES = _table(b"-0123456789"), _table(b"-.0123456789")

Parsed = tuple[pa.Array, list[int]]
"""A column, and the rows whose text cannot be found again from it; they are null, or one of IB's markers."""


def exact_int(text: str, bounds: tuple[int, int] = INT32) -> int | None:
    """One integer, None for an empty text.

    Raises:
        ValueError: `text` is not a canonical integer within `bounds`.
    """
    if not text:
        return None
    if len(text) > _INT_LENGTH + 2 or not _INT.match(text):
        raise ValueError(f"{text[:40]!r} is not an integer")
    value = int(text)
    if not bounds[0] <= value <= bounds[1]:
        raise ValueError(f"{text} is outside {bounds[0]} … {bounds[1]}")
    return value


def exact_float(text: str) -> float | None:
    """One decimal as float64, None for an empty text.

    Raises:
        ValueError: `text` is not a finite decimal, or float64 cannot hold it without loss.
    """
    if not text:
        return None
    if len(text) > _TEXT_LENGTH_MAX or not _DECIMAL.match(text):
        raise ValueError(f"{text[:40]!r} is not a decimal")
    value = float(text)
    if len(text) <= _EXACT_LENGTH and "e" not in text and "E" not in text:
        return value
    try:
        same = Decimal(text) == Decimal(repr(value))
    except InvalidOperation:
        same = False
    if not same:
        raise ValueError(f"{text[:40]!r} does not fit float64 without loss")
    return value


def float_of(text: str) -> tuple[float | None, bool]:
    """One decimal as float64, and whether its text can be found again from that; None for none and for other texts."""
    if text in LOSSY_MARKERS:
        return LOSSY_MARKERS[text], TEXT_OF_MARKER[LOSSY_MARKERS[text]] == text
    try:
        value = exact_float(text)
    except ValueError:
        return None, False
    return value, value not in TEXT_OF_MARKER


def int_of(text: str, bounds: tuple[int, int] = INT32) -> tuple[int | None, bool]:
    """One integer, and whether its text can be found again from that; None for none and for other texts."""
    try:
        return exact_int(text, bounds), True
    except ValueError:
        return None, False


def _strings(texts: Sequence[str]) -> tuple[pa.Array, npt.NDArray[Any], npt.NDArray[Any]]:
    """The texts as an Arrow array (empty text = null), their lengths in bytes, and their concatenated bytes."""
    array = pa.array(texts, pa.string())
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int32, len(texts) + 1)
    size = int(ends[-1])
    lengths = np.diff(ends)
    if size and int(lengths.min()) > 0:
        return array, lengths, np.frombuffer(data, np.uint8, size)
    nulled = pa.array([text or None for text in texts], pa.string())
    return nulled, lengths, np.frombuffer(data, np.uint8, size) if size else np.empty(0, np.uint8)


def _one_by_one(texts: Sequence[str], parse: Callable[[str], tuple[Any, bool]], kind: pa.DataType) -> Parsed:
    found = [parse(text) for text in texts]
    return pa.array([value for value, _ in found], kind), [row for row, (_, exact) in enumerate(found) if not exact]


def floats(texts: Sequence[str]) -> Parsed:
    """A float64 column."""
    array, lengths, data = _strings(texts)
    if int(lengths.max()) <= _EXACT_LENGTH and bool(_DECIMAL_BYTES[data].all()):
        try:
            return array.cast(pa.float64()), []
        except pa.ArrowInvalid:
            pass  # some text is not a number: find the row
    return _one_by_one(texts, float_of, pa.float64())


def _ints(texts: Sequence[str], kind: pa.DataType, bounds: tuple[int, int]) -> Parsed:
    array, lengths, data = _strings(texts)
    if int(lengths.max()) <= _INT_LENGTH and bool(_INT_BYTES[data].all()):
        try:
            wide = array.cast(pa.int64())
            if wide.cast(pa.string()).equals(array):
                return (wide if kind == pa.int64() else wide.cast(kind)), []
        except pa.ArrowInvalid:
            pass  # some text is not a number or out of range: find the row
    return _one_by_one(texts, lambda text: int_of(text, bounds), kind)


def ints32(texts: Sequence[str]) -> Parsed:
    """An int32 column."""
    return _ints(texts, pa.int32(), INT32)


def ints64(texts: Sequence[str]) -> Parsed:
    """An int64 column."""
    return _ints(texts, pa.int64(), INT64)


def ids(texts: Sequence[str]) -> Parsed:
    """An int32 column; a row without a number cannot be parsed."""
    array, bad = ints32(texts)
    if array.null_count:
        bad = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)).tolist()
    return array, bad


def strings(texts: Sequence[str]) -> Parsed:
    """A text column; empty text is null."""
    return _strings(texts)[0], []


def bits(array: pa.Array, bit: int) -> pa.Array:
    """One bit of an int64 column as booleans; null stays null."""
    values = array.fill_null(0).to_numpy(zero_copy_only=False)
    missing = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    return pa.array((values >> bit) & 1 == 1, pa.bool_(), mask=missing)
