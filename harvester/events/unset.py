"""IB's markers for "no value": the one list. They are recorded as sent and absent to every fold.

| marker | IB's name | sent for |
|---|---|---|
| 2147483647 | UNSET_INTEGER | integers; sizes and volumes |
| 9223372036854775807, -9223372036854775808 | UNSET_LONG | sizes and volumes |
| 170141183460469231731687303715884105727 | UNSET_DECIMAL (2**127 - 1) | sizes and volumes |
| 1.7976931348623157e308 | UNSET_DOUBLE | prices |

Sources: `const.py` and `utils.decode` of the official API, `util.py` of ib_async. The neighbours of the long markers
(…806, …808) reach us from gateways that round, and count as the same. No price, size or volume is as large as
`ABSENT_FROM`. 0, -1 and an empty field also mean "none" in a price; what they mean in a size depends on the message.
"""

from __future__ import annotations

UNSET_INT = 2147483647
UNSET_LONG = 9223372036854775807
UNSET_DOUBLE = 1.7976931348623157e308

ABSENT_FROM = 2.0**63
"""Numbers of this size, of either sign, are markers, and so is `UNSET_INT`; NaN is not."""

LOSSY_MARKERS: dict[str, float] = {
    "9223372036854775807": 2.0**63,
    "9223372036854775808": 2.0**63,
    "-9223372036854775807": -(2.0**63),
    "-9223372036854775808": -(2.0**63),
    "170141183460469231731687303715884105727": 2.0**127,
}
"""Texts of markers that float64 rounds, with the float64 recorded for them."""

TEXT_OF_MARKER: dict[float, str] = {
    2.0**63: "9223372036854775807",
    -(2.0**63): "-9223372036854775808",
    2.0**127: "170141183460469231731687303715884105727",
}
"""The text recorded as that float64 without a copy of its message."""


def is_price(x: float | None) -> bool:
    """Whether a number is a price or a size that is shown: null, NaN, 0, -1 and IB's markers are not."""
    return x is not None and 0.0 < x < ABSENT_FROM and x != UNSET_INT
