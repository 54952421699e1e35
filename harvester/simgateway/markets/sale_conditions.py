"""Sale conditions of a tape's prints: from a bit set to IB's text and attribute bits.

IB writes conditions at the four positions of a SIP sale condition: settlement, trade-through exemption, extended hours
and sequence, and market detail (TWS sends for example " O X", "   I", " 4 I"). Trailing blanks are removed; a regular
print has an empty text. Letters follow the SIP specifications (CTA, UTP).
"""

from __future__ import annotations

from harvester.simgateway.markets.base_rows import UNREPORTED

EXCHANGE_OF_LETTER: dict[str, str] = {
    "N": "NYSE",
    "Q": "NASDAQ",
    "P": "ARCA",
    "K": "EDGX",
    "J": "EDGA",
    "Z": "BATS",
    "Y": "BYX",
    "B": "BEX",
    "C": "NSX",
    "X": "PHLX",
    "W": "CBOE",
    "M": "CHX",
    "D": "FINRA",
}
"""Exchange letter of the consolidated tape → IB's name; other texts are used unchanged."""

_PLACES: tuple[dict[int, str], ...] = (
    {1: "C", 2: "N", 3: "R", 4: "Y"},  # cash, next day, seller, yellow flag
    {5: "F", 6: "O", 7: "6", 8: "5", 9: "4"},  # sweep, opening, closing, reopening, derivatively priced
    {10: "T", 11: "L", 13: "U", 14: "Z"},  # form T, sold (late), extended hours, out of sequence
    # stopped, split, bunched, stock option, average price, cross, price variation, official close, prior reference
    # price, official open, automatic, odd lot
    {12: "1", 15: "S", 17: "B", 18: "V", 20: "W", 21: "X", 22: "H", 24: "M", 25: "P", 26: "Q", 28: "E", 31: "I"},
)
_NOT_REPORTED = sum(1 << bit for bit in (1, 2, 3, 9, 11, 14, 18, 20, 25, 31))


def condition_text(bits: int) -> str:
    """IB's text of a condition bit set; several letters at one position are concatenated."""
    places = ["".join(letter for bit, letter in place.items() if bits >> bit & 1) or " " for place in _PLACES]
    return "".join(places).rstrip()


def condition_attribs(bits: int) -> int:
    """Attribute bits of a print: unreported if a condition excludes it from price formation."""
    return UNREPORTED if bits & _NOT_REPORTED else 0
