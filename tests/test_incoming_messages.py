"""Incoming messages become events without loss or change, independent of how arrivals are grouped."""

from __future__ import annotations

import itertools
import json
import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.wire import parse_columns
from harvester.wire.decode_messages import HOT, Arrivals, Item, MessageDecoder
from tests.budget import budget

if TYPE_CHECKING:
    from pathlib import Path

REQUESTS: list[Item] = [
    (
        Kind.REQUEST,
        {"action": "subscribe", "stream": "l1", "symbol": "IBM", "con_id": 8314, "req_id": 5, "params": "{}"},
    ),
    (
        Kind.REQUEST,
        {
            "action": "subscribe",
            "stream": "bars_5s",
            "symbol": "IBM",
            "con_id": 8314,
            "req_id": 6,
            "params": '{"bar_size":"5 secs","rth":false,"what":"TRADES"}',
        },
    ),
    (
        Kind.REQUEST,
        {"action": "subscribe", "stream": "scanner", "req_id": 7, "params": '{"scan_code":"HOT_BY_VOLUME"}'},
    ),
    (
        Kind.REQUEST,
        {"action": "subscribe", "stream": "l1", "symbol": "FAR", "con_id": 77, "req_id": 99_999, "params": "{}"},
    ),
]


def decode(items: list[Item], cuts: list[int] | None = None) -> list[tuple[Kind, dict[str, Any]]]:
    """Rows of the items, decoded in the given batches; the n-th item is stamped n."""
    incoming, seq, rows = MessageDecoder(), 1, []
    entries = [(1000 + i, 1, item) for i, item in enumerate(items)]
    edges = sorted({0, len(items), *(c % (len(items) + 1) for c in cuts or [])})
    for start, end in itertools.pairwise(edges):
        batch = incoming.decode(Arrivals.of(entries[start:end]), seq).check()
        assert batch.first_seq == seq
        seq = batch.last_seq + 1
        rows += list(batch.events())
    return rows


def only(message: list[str]) -> tuple[Kind, dict[str, Any]]:
    """The one row a message becomes after the requests of this module."""
    rows = decode([*REQUESTS, message])[len(REQUESTS) :]
    assert len(rows) == 1, rows
    return rows[0]


TYPED = [
    (
        ["1", "6", "5", "1", "10.25", "300", "3"],
        Kind.TICK,
        {"msg": 1, "field": 1, "price": 10.25, "size": 300.0, "attribs": 3},
    ),
    (["1", "6", "5", "66", "-1", "", "0"], Kind.TICK, {"field": 66, "price": -1.0, "size": None, "attribs": 0}),
    (["2", "6", "5", "8", "1.7976931348623157E308"], Kind.TICK, {"field": 8, "size": 1.7976931348623157e308}),
    (["45", "6", "5", "49", "0.0"], Kind.TICK, {"msg": 45, "value": 0.0}),
    (["46", "6", "5", "48", "10.1;100;;1"], Kind.TICK, {"text": "10.1;100;;1"}),
    (["46", "6", "5", "32", ""], Kind.TICK, {"text": None}),
    (["46", "6", "5", "32", "caf\\xe9"], Kind.TICK, {"text": "caf\\xe9"}),
    (
        ["12", "1", "5", "9", "2", "1", "0", "0"],
        Kind.DEPTH,
        {"position": 9, "operation": 2, "side": 1, "price": 0.0, "size": 0.0},
    ),
    (
        ["13", "1", "5", "0", "ARCA", "0", "0", "10.26", "5", "1"],
        Kind.DEPTH,
        {
            "msg": 13,
            "position": 0,
            "market_maker": "ARCA",
            "operation": 0,
            "side": 0,
            "price": 10.26,
            "size": 5.0,
            "smart": 1,
        },
    ),
    (
        ["99", "5", "2", "1700000000", "10.5", "7", "3", "FINRA", " 4 I"],
        Kind.TRADE,
        {
            "stream": 2,
            "ts_event": 1700000000 * 10**9,
            "price": 10.5,
            "past_limit": True,
            "unreported": True,
            "exchange": "FINRA",
        },
    ),
    (
        ["99", "5", "3", "1700000000", "1.08733", "1.08735", "250000", "1500000", "2"],
        Kind.QUOTE,
        {"stream": 3, "bid": 1.08733, "ask": 1.08735, "bid_size": 250000.0, "past_low": False, "past_high": True},
    ),
    (["99", "5", "4", "1700000000", "10.505"], Kind.QUOTE, {"stream": 4, "mid": 10.505, "bid": None, "attribs": None}),
    (
        ["50", "3", "6", "1700000000", "1", "2", "0.5", "1.5", "100", "1.2", "7"],
        Kind.BAR,
        {
            "msg": 50,
            "ts_event": 1700000000 * 10**9,
            "open": 1.0,
            "wap": 1.2,
            "count": 7,
            "bar_size": "5 secs",
            "rth": False,
        },
    ),
    (
        ["90", "6", "7", "1700000000", "1", "1.5", "2", "0.5", "1.2", "100"],
        Kind.BAR,
        {"msg": 90, "open": 1.0, "close": 1.5, "high": 2.0, "low": 0.5, "wap": 1.2, "volume": 100.0, "count": 7},
    ),
    (
        ["4", "2", "5", "317", "Market depth data has been RESET", ""],
        Kind.NOTICE,
        {"msg": 4, "code": 317, "con_id": 8314, "detail": None},
    ),
    (["58", "1", "5", "3"], Kind.NOTICE, {"msg": 58, "value": 3, "con_id": 8314}),
    (["57", "1", "5"], Kind.END, {"msg": 57, "stream": "l1", "rows": None}),
    (["52", "1", "5"], Kind.END, {"msg": 52, "rows": 0}),
]


@pytest.mark.parametrize(("message", "kind", "expected"), TYPED)
def test_a_typed_message_keeps_every_field(message: list[str], kind: Kind, expected: dict[str, Any]) -> None:
    """Each becomes one row holding exactly what was sent, empty fields as null."""
    found_kind, row = only(message)
    assert found_kind is kind
    assert {name: row[name] for name in expected} == expected
    if kind in {Kind.TICK, Kind.DEPTH, Kind.TRADE, Kind.QUOTE}:
        assert row["con_id"] == 8314
        assert row["ts_recv"] == 1000 + len(REQUESTS)


UNDECODABLE = [
    ["1", "6", "5", "1", "10,25", "300", "0"],
    ["1", "6", "5", "1", "10.25", "300"],
    ["1", "6", "5", "1", "10.25", "300", "0", "x"],
    ["1", "6", "", "1", "10.25", "300", "0"],
    ["1", "6", "2147483648", "1", "10.25", "300", "0"],
    ["1", "6", "5", "2147483648", "10.25", "300", "0"],
    ["1", "6", "5", "01", "10.25", "300", "0"],
    ["1", "6", "5", "+1", "10.25", "300", "0"],
    ["1", "6", "5", " 1", "10.25", "300", "0"],
    ["1", "6", "5", "1_0", "10.25", "300", "0"],
    ["1", "6", "5", "-0", "10.25", "300", "0"],
    ["1", "6", "5", "\u0661", "10.25", "300", "0"],
    ["1", "6", "5", "1", "10.25", "300", "9223372036854775808"],
    ["2", "6", "5", "1", "1e400"],
    ["2", "6", "5", "1", "1e-400"],
    ["2", "6", "5", "1", "nan"],
    ["2", "6", "5", "1", "Infinity"],
    ["2", "6", "5", "1", "0x10"],
    ["2", "6", "5", "1", "1_000"],
    ["2", "6", "5", "1", "12345678901234567"],
    ["2", "6", "5", "1", "0.12345678901234567890"],
    ["2", "6", "5", "1", "."],
    ["2", "6", "5", "1", "1.2.3"],
    ["99", "5", "7", "1700000000", "1"],
    ["99", "5"],
    ["99", "5", "1", "9223372037", "10.5", "7", "3", "X", ""],
    ["99", "5", "4", "-9223372036854775808", "10.5"],
    ["17", "5", "a", "b", "2", "1", "2", "3", "4", "5", "6", "7", "8"],
    ["20", "3", "7", "1", "0"],
    ["10", "5", "IBM"],
    ["4", "2", "-1", "2104"],
    ["4", "2", "07", "317", "an id written otherwise", ""],
    ["", "1"],
    ["x"],
    ["01", "6", "5", "1", "10.25", "300", "0"],
]


@pytest.mark.parametrize("message", UNDECODABLE)
def test_what_cannot_be_parsed_exactly_keeps_its_text(message: list[str]) -> None:
    """Messages with bad numbers, wrong field counts or numbers out of range are kept as text, in order."""
    good = ["2", "6", "5", "0", "100"]
    rows = decode([*REQUESTS, good, message, good])[len(REQUESTS) :]
    assert [kind for kind, _ in rows] == [Kind.TICK, Kind.RAW, Kind.TICK]
    assert rows[1][1]["fields"].split("\0") == message
    assert rows[1][1]["reason"] == "undecodable"


@pytest.mark.parametrize("rest", [["reset"], ["reset", "{}", "and more"]])
def test_an_error_with_other_fields_still_says_what_it_says(rest: list[str]) -> None:
    """An error with an extra or missing field is still a notice; its exact text is kept as well."""
    message = ["4", "2", "5", "317", *rest]
    rows = decode([*REQUESTS, message])[len(REQUESTS) :]
    assert [kind for kind, _ in rows] == [Kind.RAW, Kind.NOTICE]
    assert (rows[0][1]["reason"], rows[0][1]["fields"].split("\0")) == ("copy", message)
    assert {name: rows[1][1][name] for name in ("code", "text", "req_id")} == {
        "code": 317,
        "text": "reset",
        "req_id": 5,
    }


def test_an_id_that_reads_like_a_layout_is_no_layout() -> None:
    """`99/1` is an internal layout name; a message with that text as its id is undecodable, not a trade."""
    fields = ["99/1", "5", "1", "1700000000", "1.5", "100", "0", "X", ""]
    assert decode([fields]) == [
        (Kind.RAW, row) for _, row in decode([fields]) if row["reason"] == "undecodable" and row["fields"]
    ]
    assert decode([fields])[0][1]["fields"] == "\0".join(fields)


def test_an_empty_frame_is_an_event_too() -> None:
    """A frame of length zero has no field: null, not the empty text."""
    kind, row = only([])
    assert (kind, row["fields"], row["reason"]) == (Kind.RAW, None, "undecodable")


@pytest.mark.parametrize(
    "message", [["81", "5", "0.01", "9c0001", "3"], ["15", "1", "DU1"], ["4711", "x"], ["49", "1", "17"]]
)
def test_a_message_without_a_kind_is_kept_untyped(message: list[str]) -> None:
    """Unknown and untyped messages keep their exact text."""
    kind, row = only(message)
    assert (kind, row["reason"], row["fields"].split("\0"), row["msg"]) == (
        Kind.RAW,
        "untyped",
        message,
        int(message[0]),
    )


def test_a_list_becomes_its_rows_and_an_end() -> None:
    """Historical bars and scanner lists: one event per row, then the end with its count, zero included."""
    bars = ["17", "6", "20230413  16:31:22", "20230415  16:31:22", "2", "20230413", "182.9400", "186.5000", "180.9400"]
    bars += ["185.9000", "948837.22", "184.869", "324891", "1700000000", "1", "2", "3", "4", "5", "6", "7"]
    scan = ["20", "3", "7", "1", "0", "667434000", "ELAB", "STK", "", "0", "", "SMART", "USD", "ELAB", "SCM", "SCM"]
    scan += ["", "", "", ""]
    rows = decode([*REQUESTS, bars, ["17", "6", "a", "b", "0"], scan, scan, ["20", "3", "7", "0"]])[len(REQUESTS) :]
    assert [kind.value for kind, _ in rows] == ["bar", "bar", "end", "end", "scan", "end", "scan", "end", "end"]
    assert (rows[0][1]["time"], rows[0][1]["ts_event"], rows[0][1]["open"]) == ("20230413", None, 182.94)
    assert rows[1][1]["ts_event"] == 1700000000 * 10**9
    assert [rows[i][1]["rows"] for i in (2, 3, 5, 7, 8)] == [2, 0, 1, 1, 0]
    assert rows[2][1]["text"].split("\0") == ["20230413  16:31:22", "20230415  16:31:22"]
    assert [rows[i][1]["snapshot"] for i in (4, 6)] == [1, 2]
    assert (rows[4][1]["con_id"], rows[4][1]["scan_code"], rows[4][1]["strike"]) == (667434000, "HOT_BY_VOLUME", "0")


def test_a_scanner_list_that_cannot_be_read_is_no_snapshot():
    """Snapshots are numbered without holes: a list kept as text, between two others, has no number."""
    row = ["0", "667434000", "ELAB", "STK", "", "0", "", "SMART", "USD", "ELAB", "SCM", "SCM", "", "", "", ""]
    good, nameless = ["20", "3", "7", "1", *row], ["20", "3", "7", "1", row[0], "no id", *row[2:]]
    rows = decode([*REQUESTS, good, nameless, ["20", "3", "7", "2", *row], good])[len(REQUESTS) :]
    assert [kind.value for kind, _ in rows] == ["scan", "end", "raw", "raw", "scan", "end"]
    assert [row["snapshot"] for kind, row in rows if kind is Kind.SCAN] == [1, 2]


def test_a_new_version_field_is_kept_by_a_copy() -> None:
    """The version has no column: a message with another version is preceded by its full text, once."""
    old, new = ["2", "6", "5", "0", "100"], ["2", "7", "5", "0", "100"]
    rows = decode([*REQUESTS, old, new, new, old])[len(REQUESTS) :]
    assert [kind.value for kind, _ in rows] == ["tick", "raw", "tick", "tick", "raw", "tick"]
    assert [rows[i][1]["fields"].split("\0") for i in (1, 4)] == [new, old]


def test_a_notice_of_odd_length_and_version_is_copied_once() -> None:
    """With both reasons to keep the full text, it is kept once, and the version is not copied again."""
    odd = ["4", "3", "1", "317", "reset"]
    rows = decode([*REQUESTS, odd, [*odd, "", ""], ["4", "3", "1", "317", "reset", ""]])[len(REQUESTS) :]
    assert [kind.value for kind, _ in rows] == ["raw", "notice", "raw", "notice", "notice"]
    assert rows[0][1]["fields"].split("\0") == odd


def test_facts_of_a_request_hold_from_its_place_on() -> None:
    """A message before its request has no instrument, in one batch as in two."""
    tick = ["2", "6", "5", "0", "100"]
    for cuts in ([], [1], [2]):
        rows = decode([tick, REQUESTS[0], tick], cuts)
        assert [row["con_id"] for kind, row in rows if kind is Kind.TICK] == [0, 8314]
    bad = ["2", "6", "5", "0", "x"]
    for cuts in ([], [1], [2]):
        rows = decode([bad, REQUESTS[0], bad], cuts)
        assert [row["con_id"] for kind, row in rows if kind is Kind.RAW] == [0, 8314]


number = st.one_of(
    st.sampled_from(
        ["", "0", "-1", "100", "10.25", "2147483647", "-2147483648", "1.7976931348623157E308", "-0", "00", "1e5"]
    ),
    st.integers(-(2**65), 2**65).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**6), max_value=10**6).map(str),
    st.floats(allow_nan=True).map(repr),
    st.text(alphabet="0123456789.-+eE _xn\u0661", max_size=20),
)
word = st.one_of(
    st.sampled_from(["", "ARCA", " 4 I"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
)


def _hot_message(key: str) -> st.SearchStrategy[list[str]]:
    layout = HOT[key]
    plain = {
        "ts_event": st.sampled_from(["1700000000", "0", ""]),
        "req_id": st.sampled_from(["5", "6", "8", "99999", "-1"]),
    }
    fields: list[st.SearchStrategy[str]] = [st.sampled_from(["6", "1", "1", "7"])] * layout.length
    fields[0] = st.just(key.split("/", maxsplit=1)[0])
    if "/" in key:
        fields[2] = st.just(key.split("/")[1])
    for name, index, parse in layout.columns:
        usual = st.integers(0, 10**6).map(str)
        fields[index] = plain.get(
            name, word if parse is parse_columns.strings else st.one_of(usual, usual, usual, number)
        )
    return st.tuples(*fields).map(list)


messages = st.one_of(
    *[_hot_message(key) for key in HOT],
    st.sampled_from(list(REQUESTS)),
    st.sampled_from([m for m, _, _ in TYPED]),
    st.sampled_from(UNDECODABLE),
    st.lists(word, max_size=6),
    st.tuples(st.sampled_from(["4", "10", "17", "20", "50", "52", "58", "90", "99"]), number, number, word).map(list),
)


def same(a: list[tuple[Kind, dict[str, Any]]], b: list[tuple[Kind, dict[str, Any]]]) -> bool:
    return [(k, {n: repr(v) for n, v in r.items()}) for k, r in a] == [
        (k, {n: repr(v) for n, v in r.items()}) for k, r in b
    ]


@settings(max_examples=budget(40, 150), deadline=None)
@given(st.lists(messages, min_size=1, max_size=40), st.lists(st.integers(0, 40), max_size=6))
def test_grouping_changes_nothing(items: list[Any], cuts: list[int]) -> None:
    """Any split of the same arrivals into batches gives the same rows and seqs, one by one included."""
    whole = decode(items)
    assert same(whole, decode(items, cuts))
    assert same(whole, decode(items, list(range(len(items)))))


@settings(max_examples=budget(40, 150), deadline=None)
@given(st.lists(messages, min_size=1, max_size=30))
def test_every_field_can_be_found_again(items: list[Any]) -> None:
    """Each hot message is either a row whose values equal its texts as decimals, or its exact text."""
    rows = decode(items)
    at = 0
    for item in items:
        if not isinstance(item, list) or not item or item[0] in {"4", "10", "17", "20", "50", "52", "57", "58", "90"}:
            return  # lists and own rows: their own tests
        while rows[at][0] is Kind.RAW and rows[at][1]["reason"] == "copy":
            at += 1
        kind, row = rows[at]
        at += 1
        if kind is Kind.RAW:
            assert (row["fields"] or "").split("\0") == item
            continue
        layout = HOT[item[0] if item[0] != "99" else f"99/{item[2]}"]
        for name, index, parse in layout.columns:
            text, value = item[index], row[name]
            if text == "":
                assert value is None
            elif parse is parse_columns.strings:
                assert value == text
            else:
                scale = 10**9 if name == "ts_event" else 1
                assert Decimal(repr(value)) == Decimal(text) * scale, (name, text, value)


@settings(max_examples=budget(80, 300), deadline=None)
@given(st.lists(number, min_size=1, max_size=12))
def test_a_column_parses_as_its_texts_one_by_one(texts: list[str]) -> None:
    """The fast parser of a column and the exact parser of a text agree on values and refusals."""
    for whole, single in (
        (parse_columns.floats, parse_columns.exact_float),
        (parse_columns.ints64, lambda t: parse_columns.exact_int(t, parse_columns.INT64)),
    ):
        expected: list[Any] = []
        bad = []
        for i, text in enumerate(texts):
            try:
                expected.append(single(text))
            except ValueError:
                bad.append(i)
        array, wrong = whole(texts)
        assert wrong == bad
        if not bad:
            assert isinstance(array, pa.Array)
            assert [repr(v) for v in array.to_pylist()] == [repr(v) for v in expected]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_written_shortest_is_exact(value: float) -> None:
    """The shortest decimal of a double, as a gateway writes it, always parses to that double."""
    found = parse_columns.exact_float(repr(value))
    assert found == value
    assert math.copysign(1, found) == math.copysign(1, value)


def test_real_gateway_messages_parse(shared_data: Path) -> None:
    """Messages captured from a real gateway: those with a typed kind become rows, the rest keep their text."""
    lines = (shared_data / "ibkr" / "wire_messages.jsonl").read_text(encoding="utf-8").splitlines()
    items: list[Item] = [json.loads(line)["fields"] for line in lines]
    rows = decode(items)
    assert not [row for kind, row in rows if kind is Kind.RAW and row["reason"] == "undecodable"]
    counts = {kind.value: sum(k is kind for k, _ in rows) for kind in Kind}
    assert counts["quote"] == 2
    assert counts["contract"] == 1
    assert counts["bar"] == 2
    assert counts["scan"] == sum(int(i[3]) for i in items if isinstance(i, list) and i[0] == "20")
    contract = next(row for kind, row in rows if kind is Kind.CONTRACT)
    assert (contract["con_id"], contract["symbol"], contract["min_tick"], contract["time_zone"]) == (
        12087792,
        "EUR",
        0.00005,
        "US/Eastern",
    )


def test_an_empty_group_of_arrivals_is_an_empty_batch() -> None:
    """Without arrivals there are no events."""
    assert MessageDecoder().decode(Arrivals.of([]), 1) == Batch()
