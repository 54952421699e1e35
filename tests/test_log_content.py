from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_samples import batch

from harvester.eventlog.storage.content_hash import ContentHash, TableHash
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from tests.budget import budget


def _hash(rows: pa.RecordBatch | pa.Table) -> str:
    return TableHash(rows.schema).update(rows).digest()


def _column(values, kind, *, nullable=True) -> pa.RecordBatch:
    schema = pa.schema([pa.field("x", kind, nullable)])
    return pa.RecordBatch.from_arrays([pa.array(values, kind)], schema=schema)


@given(cuts=st.sets(st.integers(1, 299)), seed=st.integers(0, 5))
@settings(max_examples=budget(20, 60), deadline=None)
def test_content_hash_does_not_depend_on_cuts(cuts, seed):
    """The same events split anywhere, slices included, have the same content hash."""
    whole = batch(300, seed=seed)
    expected = ContentHash().update(whole).digest()
    cut = ContentHash()
    edges = [0, *sorted(cuts), 300]
    for first, last in pairwise(edges):
        cut.update(whole.slice(first + 1, last))
    assert cut.digest() == expected


_NESTED = pa.schema(
    [
        pa.field("list", pa.list_(pa.float64())),
        pa.field("struct", pa.struct([pa.field("a", pa.int32()), pa.field("b", pa.string())])),
        pa.field("time", pa.timestamp("ns", "UTC")),
        pa.field("day", pa.date32()),
    ]
)
_ROW = st.fixed_dictionaries(
    {
        "list": st.none() | st.lists(st.none() | st.floats(), max_size=4),
        "struct": st.none() | st.fixed_dictionaries({"a": st.none() | st.integers(-9, 9), "b": st.none() | st.text()}),
        "time": st.none() | st.integers(0, 2**60),
        "day": st.none() | st.integers(0, 20000),
    }
)


@given(rows=st.lists(_ROW, max_size=20), at=st.integers(0, 20))
@settings(max_examples=budget(20, 60), deadline=None)
def test_nested_tables_hash_alike_however_cut(rows, at):
    """Lists, structs and times of projections hash the same in one piece and in two."""
    rows = [{**row, "struct": row["struct"] and _encodable(row["struct"])} for row in rows]
    whole = pa.RecordBatch.from_pylist(rows, schema=_NESTED)
    parts = TableHash(_NESTED).update(whole.slice(0, at)).update(whole.slice(at))
    assert parts.digest() == _hash(whole)


def _encodable(row):
    return {**row, "b": None if row["b"] is None else row["b"].encode("utf-8", "replace").decode()}


def test_every_difference_shows():
    """Null, zero, minus zero, empty text, NaN, the place of a byte, order, type, name: no two hash alike."""
    different = [
        _column([0.0], pa.float64()),
        _column([-0.0], pa.float64()),
        _column([None], pa.float64()),
        _column([float("nan")], pa.float64()),
        _column([0], pa.int64()),
        _column([0], pa.int32()),
        _column([0], pa.int64(), nullable=False),
        _column([False], pa.bool_()),
        _column([None], pa.bool_()),
        _column([""], pa.string()),
        _column([None], pa.string()),
        _column([b""], pa.binary()),
        _column(["a", "bc"], pa.string()),
        _column(["ab", "c"], pa.string()),
        _column([1, 2], pa.int64()),
        _column([2, 1], pa.int64()),
        _column([], pa.int64()),
        _column([[1], [2, 3]], pa.list_(pa.int64())),
        _column([[1, 2], [3]], pa.list_(pa.int64())),
        _column([[]], pa.list_(pa.int64())),
        _column([None], pa.list_(pa.int64())),
        _column([1, 2], pa.int64()).rename_columns(["y"]),
    ]
    assert len({_hash(rows) for rows in different}) == len(different)


def test_only_values_count():
    """NaN payloads, bytes under nulls, the width of text types, dictionaries and metadata do not change the hash."""
    odd_nan = np.array([0x7FF8000000000001, 0xFFF0000000000001], np.uint64).view(np.float64)
    assert _hash(_column(odd_nan, pa.float64())) == _hash(_column([float("nan")] * 2, pa.float64()))

    clean = _column([1, None, 3], pa.int64())
    dirty = pa.Array.from_buffers(pa.int64(), 3, [clean.column(0).buffers()[0], pa.py_buffer(np.array([1, 99, 3]))])
    assert _hash(_column(dirty, pa.int64())) == _hash(clean)

    data, offsets = pa.py_buffer(b"ahiddenb"), pa.py_buffer(np.array([0, 1, 7, 8], np.int32))
    hidden = pa.Array.from_buffers(pa.string(), 3, [clean.column(0).buffers()[0], offsets, data])
    expected = _hash(_column(["a", None, "b"], pa.string()))
    assert _hash(_column(hidden, pa.string())) == expected
    assert _hash(_column(["a", None, "b"], pa.large_string())) == expected
    assert _hash(_column(["a", None, "b"], pa.string_view())) == expected
    assert (
        _hash(_column(pa.array(["a", None, "b"]).dictionary_encode(), pa.dictionary(pa.int32(), pa.string())))
        == expected
    )

    expected = _hash(_column([b"\xff", None, b""], pa.binary()))
    for wide in (pa.large_binary(), pa.binary_view()):
        assert _hash(_column([b"\xff", None, b""], wide)) == expected

    noted = clean.replace_schema_metadata({"unit": "shares"})
    assert _hash(noted) == _hash(clean)


def test_a_changed_value_in_any_column_of_any_kind_shows():
    """Setting any one cell of an event to null, or to something else, changes the content hash."""
    whole = batch(60, seed=3)
    expected = ContentHash().update(whole).digest()
    for kind, rows in whole.tables.items():
        for name in rows.schema.names[1:]:
            values = rows.column(name).to_pylist()
            changed = (
                None if values[-1] is not None and rows.schema.field(name).nullable else _other(rows, name, values[-1])
            )
            array = pa.array([*values[:-1], changed], rows.schema.field(name).type)
            table = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), array)
            tables = {**whole.tables, kind: table}
            assert ContentHash().update(Batch(tables)).digest() != expected, (kind, name)


def _other(rows: pa.RecordBatch, name: str, value):
    kind = rows.schema.field(name).type
    if pa.types.is_string(kind):
        return "something else"
    if pa.types.is_boolean(kind):
        return not value
    return 5 if value != 5 else 6


def test_content_hash_is_what_it_was():
    """The hash of a fixed batch never changes, so identities stay comparable."""
    rows = [
        (Kind.TRADE, {"ts_recv": 1, "price": 10.25, "size": None, "exchange": "Q", "past_limit": True}),
        (Kind.CLOCK, {"ts_recv": 2, "wall_ns": 3, "mono_ns": 4}),
        (Kind.RAW, {"ts_recv": 2, "msg": 81, "fields": "81\x001\x00ü", "reason": "untyped"}),
    ]
    digest = ContentHash().update(Batch.of(rows, 1)).digest()
    assert digest == "dcb8bd583cf6a693ba5572402584bff797f37c616617968263f10db8edf201d4"


EVERY_TYPE = pa.table(
    {
        "f32": pa.array([1.5, None, float("nan"), -0.0], pa.float32()),
        "f64": pa.array([1.5, 2.5, float("nan"), -0.0], pa.float64()),
        "bool": pa.array([True, None, False, True]),
        "flags": pa.array([True, False, False, True]),
        "u8": pa.array([1, 2, None, 255], pa.uint8()),
        "i16": pa.array([1, 2, 3, -32768], pa.int16()),
        "day": pa.array([1, None, 3, 4], pa.date32()),
        "day64": pa.array([86_400_000, None, 0, 0], pa.date64()),
        "time": pa.array([1, None, 3, 4], pa.time32("ms")),
        "stamp": pa.array([1, None, 3, 4], pa.timestamp("ns", "UTC")),
        "text": pa.array(["a", None, "", "ü" * 9]),
        "view": pa.array(["a", None, "", "ü" * 9], pa.string_view()),
        "bytes": pa.array([b"a", None, b"", b"\xff" * 9]),
        "wide": pa.array([b"a", b"b", b"", b"\xff" * 9], pa.large_binary()),
        "null": pa.array([None] * 4, pa.string()),
        "zero": pa.array([None] * 4, pa.int64()),
        "list": pa.array([[1], None, [], [2, None, 3]], pa.list_(pa.int32())),
        "large": pa.array([["a"], None, [], ["b", None]], pa.large_list(pa.string())),
        "fixed": pa.array([[1, 2], [3, 4], [5, 6], [7, 8]], pa.list_(pa.int64(), 2)),
        "struct": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": ""}, {"a": 4, "b": None}]),
        "dictionary": pa.array(["q", "r", None, "q"]).dictionary_encode(),
    }
)


def test_content_hashes_of_every_type_are_what_they_were():
    """Each column alone, whole and cut, and all of them: fixed hashes, so identities of datasets stay comparable."""
    for column in EVERY_TYPE.column_names:
        one = EVERY_TYPE.select([column])
        assert TableHash(one.schema).update(one.slice(0, 1)).update(one.slice(1, 2)).update(one[3:]).digest() == (
            _hash(one)
        ), column
    whole = TableHash(EVERY_TYPE.schema).update(EVERY_TYPE.slice(1))
    assert (whole.rows, whole.update(EVERY_TYPE).rows) == (3, 7)
    assert whole.digest() == whole.digest() == "00edbaf9eb4310d08812e4ea50f7936b4f450cc95a83a22e982548764010b376"


def test_tables_that_cannot_be_hashed_are_refused():
    """Columns of another name or order, and types without a hash: the sentence that names them."""
    rows = pa.table({"a": [1], "b": [2]})
    with pytest.raises(ValueError, match=r"^columns are \['b', 'a'\], expected \['a', 'b'\]$"):
        TableHash(rows.schema).update(rows.select(["b", "a"]))
    for kind in (pa.decimal128(5), pa.null(), pa.map_(pa.string(), pa.int8())):
        with pytest.raises(TypeError, match=r"^column 'x' of type .* has no content hash$"):
            TableHash(pa.schema([("x", kind)]))
    assert TableHash(rows.schema).digest() != TableHash(rows.schema).update(rows).digest()
