"""The table of IB's codes: what each text means, and that page, code and tests agree on it."""

from __future__ import annotations

import ast
import re

import pytest

from harvester.events import codes
from harvester.events.codes import Effect, fewer_generic_ticks, meaning, new_port
from tests.tools import PROJECT, tool

PACING_TEXT = "Historical Market Data Service error message:Historical data request pacing violation"
LEGAL = "Error validating request.-'bQ' : cause - Incorrect generic tick list of {}.  Legal ones for (STK) are: {}"


@pytest.mark.parametrize(
    ("code", "text", "effect"),
    [
        (162, PACING_TEXT, Effect.PACING),
        (162, "… Service error message:HMDS query returned no data: ACME@SMART Trades", Effect.FINAL),
        (162, "Historical Market Data Service error message:API historical data query cancelled: 28", Effect.FINAL),
        (162, "… Service error message:No market data permissions for NYSE STK", Effect.NOW_AND_THEN),
        (162, "Historical Market Data Service error message:HMDS connection attempt failed", Effect.FOR_NOW),
        (162, "Mensaje de error del servicio de datos", Effect.FOR_NOW),
        (322, "Error processing request.-'bR' : cause - Duplicate ticker id", Effect.NEW_ID),
        (322, "… : cause - Duplicate ticker ID for API historical data query", Effect.NEW_ID),
        (322, "Max number of tick-by-tick requests has been reached", Effect.NO_LINE),
        (322, "Error processing request.-'co' : cause - scanner subscriptions", Effect.NOW_AND_THEN),
        (420, "Invalid Real-time Query:Historical data request pacing violation", Effect.PACING),
        (420, "Ungültige Echtzeitabfrage: zu viele Anfragen", Effect.PACING),
        (420, "无效的实时查询", Effect.PACING),
        (420, "Invalid Real-time Query:No market data permissions for NYSE STK.", Effect.NOW_AND_THEN),
        (10189, "Failed to request …:No more than one request per instrument every 15 seconds", Effect.PACING),
        (10189, "Failed to request …:BidAsk tick-by-tick requests are not supported for X", Effect.FINAL),
        (10189, "Failed to request tick-by-tick data.No market data permissions for ISLAND STK.", Effect.NOW_AND_THEN),
        (10190, "Max number of tick-by-tick requests has been reached.", Effect.NO_LINE),
        (10190, "Pacing violation: tick-by-tick request", Effect.PACING),
        (10089, "… requires additional subscription for API.ACME NASDAQ.NMS/TOP/ALL", Effect.ADVICE),
        (10089, "Requested market data requires additional subscription for API.QQQ NASDAQ.NMS/DEEP", Effect.DOUBTFUL),
        (10182, "请求实时更新失败", Effect.FOR_NOW),
        (321, "Error validating request.-'bW' : cause - pacing violation", Effect.PACING),
        (321, "Error validating request.-'bW' : cause - The request is not valid", Effect.FINAL),
        (2104, "Market data farm connection is OK:usfarm", Effect.STATUS),
        (2100, "New account data requested", Effect.ADVICE),
        (2199, "the last system message", Effect.ADVICE),
        (2137, "Cross side warning", Effect.ADVICE),
        (10999, "a code of tomorrow", Effect.DOUBTFUL),
        (10999, "PACING of tomorrow", Effect.PACING),
        (2200, "not a system message", Effect.DOUBTFUL),
        (2099, "not a system message", Effect.DOUBTFUL),
        *((code, "", Effect.NOW_AND_THEN) for code in (101, 200, 354, 10168, 10186)),
        *((code, "", Effect.FOR_NOW) for code in (320, 323, 366)),
        *((code, "", Effect.NEW_ID) for code in (102, 300, 310, 316, 10225)),
        *((code, "", Effect.ADVICE) for code in (165, 317, 399, 10090, 10091, 10167, 10197)),
        (100, "Max rate of messages per second has been exceeded", Effect.PACING),
    ],
)  # fmt: skip
def test_the_text_decides(code: int, text: str, effect: Effect) -> None:
    """Texts of IB under codes with several meanings, in any language, get the effect that fits the text."""
    assert meaning(code, text).effect is effect


def test_every_code_has_a_row_for_any_text() -> None:
    """The last row of a code matches every text, and no row before it does."""
    by_code: dict[int, list[str]] = {}
    for row in codes.MEANINGS:
        by_code.setdefault(row.code, []).append(row.text)
    for code, texts in by_code.items():
        assert texts[-1] == "", code
        assert "" not in texts[:-1], code


def test_what_ends_a_stream_in_the_folds_never_goes_on() -> None:
    """No code that the folds take for an end has a row by which the recorder lets the stream go on."""
    for code in codes.REFUSALS:
        effects = {row.effect for row in codes.MEANINGS if row.code == code} or {meaning(code, "").effect}
        assert not effects & {Effect.ADVICE, Effect.STATUS, Effect.DOUBTFUL}, code


def test_every_effect_is_explained_and_used() -> None:
    """The page explains each effect, and each is the effect of some row."""
    assert set(codes.EFFECTS) == set(Effect)
    assert {row.effect for row in codes.MEANINGS} | {codes.UNKNOWN.effect} == set(Effect)


def test_the_page_of_codes_is_current() -> None:
    """docs/codes.md is what `python tools/codes.py` writes."""
    assert (PROJECT / "docs" / "codes.md").read_text(encoding="utf-8") == tool("codes").page()


def test_every_row_names_tests_that_exist() -> None:
    """Each row of the table is tested, by tests of these names in these files."""
    for row in codes.MEANINGS:
        assert row.tests, row
        for test in row.tests:
            file, name = test.split("::")
            assert re.search(rf"^def {name}\(", (PROJECT / file).read_text(encoding="utf-8"), re.MULTILINE), test


def test_every_code_in_use_is_in_the_table() -> None:
    """A code of `events/codes.py`, and every number beside it in the recorder's conditions, has a row."""
    known = {row.code for row in codes.MEANINGS}
    for name, value in vars(codes).items():
        if name.isupper() and name[0] != "_" and isinstance(value, int | tuple | frozenset):
            numbers = {value} if isinstance(value, int) else set(value)
            if all(isinstance(number, int) for number in numbers):
                assert numbers <= known, name
    for path in (PROJECT / "harvester" / "recorder").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and node.left.id == "code":
                literal = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, int)}
                assert literal <= known, path.name


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("TWS socket port has been reset … Please reconnect on the new port - 7499", ("", 7499)),
        ("TWS socket port has been reset. Please reconnect on the new port -4002.", ("", 4002)),
        ("TWS套接字端口已被重置 7500", ("", 7500)),
        ("reconnect on 10.1.2.3:7499", ("10.1.2.3", 7499)),
        ("reconnect on gateway.example.com:7499", ("gateway.example.com", 7499)),
        ("reconnect on localhost:7499", ("localhost", 7499)),
        ("new port: 7499", ("", 7499)),
        ("new port - 65536", None),
        ("new port - 0", None),
        ("new port - 123456", None),
        ("x" * 1000 + " 7499", None),
        ("reconnect", None),
        ("", None),
    ],
)  # fmt: skip
def test_a_new_port_is_read_from_the_text(text: str, named: tuple[str, int] | None) -> None:
    """The last number of a 1300 is the port; a host before it is named too; numbers that are not ports are not."""
    assert new_port(text) == named


@pytest.mark.parametrize(
    ("asked", "text", "next_one"),
    [
        ("233,375,999", LEGAL.format("233,375,999", "221/220(Mark Price),233(RTVolume),375(RTTrdVolume)"), "233,375"),
        ("220,999", LEGAL.format("220,999", "221/220(Mark Price),233(RTVolume)"), "220"),
        ("mdoff,292:BZ,999", LEGAL.format("…", "233(RTVolume),292(Wide_news)"), "292:BZ"),
        ("233,375", "Die Anfrage ist ungültig", "233"),
        ("233", "Die Anfrage ist ungültig", ""),
        ("233,375", LEGAL.format("233,375", "233(RTVolume),375(RTTrdVolume)"), "233"),
        ("999", LEGAL.format("999", "233(RTVolume)"), ""),
        ("", "Error validating request", None),
    ],
)
def test_fewer_generic_ticks_after_each_refusal(asked: str, text: str, next_one: str | None) -> None:
    """The legal ones of ours; without a readable list half of them; at last none; then no more requests."""
    assert fewer_generic_ticks(asked, text) == next_one
