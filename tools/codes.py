"""Write docs/codes.md from the table of codes: `python tools/codes.py`."""

from __future__ import annotations

from pathlib import Path

from harvester.events.codes import EFFECTS, MEANINGS, Meaning

PAGE = Path(__file__).resolve().parent.parent / "docs" / "codes.md"
HEAD = """# IB's codes

Every error and status code of IB that `hv record` acts on. Generated from `harvester/events/codes.py` by `python
tools/codes.py`; a test checks that it is current. Every message is recorded, those of all other codes too.

Of several rows of one code the first whose pattern occurs in the text applies, in any case. The last row of a
code has no pattern, so a gateway in another language gets it. After a refusal, what the gateway may still hold (*held*)
is cancelled before it is requested again, and rows that arrive later under the old id do not bring it back. Rows that
arrive after a refusal without a cancel do: the log repeats the subscription.

A refused depth of one exchange is replaced by SMART depth, unless the effect is *no line*, *pacing*, *for now* or
*new id*.

## Effects

| effect | what the recorder does |
|---|---|
"""
TABLE = """
A code that is not in the table: `doubtful`; `pacing` if its text says so. 2100 to 2199 are advice.

## Codes

| code | text | IB says | effect | held | what we do besides | tested in |
|---|---|---|---|---|---|---|
"""


def page() -> str:
    """The page's text."""
    effects = [f"| {effect} | {what} |\n" for effect, what in EFFECTS.items()]
    return "".join([HEAD, *effects, TABLE, *map(_row, MEANINGS)])


def _row(row: Meaning) -> str:
    text = f"`{row.text}`".replace("|", "\\|") if row.text else ""
    tests = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in row.tests)
    held = "held" if row.held else ""
    return f"| {row.code} | {text} | {row.said} | {row.effect} | {held} | {row.does} | {tests} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
