"""Record-batch messages decoded by their layout: the numbers found, the refusals, and the rows, against Arrow."""

from __future__ import annotations

import struct
from functools import cache
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from log_samples import batch

from harvester.eventlog.storage import batch_messages, ipc_streams
from harvester.eventlog.storage.batch_messages import Messages
from harvester.eventlog.storage.checked_reads import messages_of, rows_in, rows_of
from harvester.eventlog.storage.format import Part
from harvester.eventlog.storage.ipc_streams import (
    HEADER_BYTES_MAX,
    HEADERS,
    check_header,
    clock_lines,
    clock_rows,
    decode,
    encode,
    header_length,
)
from harvester.eventlog.storage.message_layout import BUFFERS, Buffers, Layout, layout_of
from harvester.events.kinds import SCHEMAS, Kind

TRADE = SCHEMAS[Kind.TRADE]
_COLUMNS, _BUFFERS = len(TRADE), BUFFERS[Kind.TRADE].count
REFUSED = ["not rows of trade: "]
_EXCHANGE = TRADE.get_field_index("exchange")


def _trades(n: int, seed: int = 1) -> pa.RecordBatch:
    return batch(n, 1, seed, kinds=(Kind.TRADE,)).tables[Kind.TRADE]


def _metadata(message: bytes) -> bytes:
    return message[: 8 + int.from_bytes(message[4:8], "little")]


def _layout(message: bytes) -> Layout:
    layout = layout_of(_metadata(message), _COLUMNS, _BUFFERS)
    assert layout is not None
    return layout


def _placed(messages: list[bytes], rows: list[int], gap: int = 0, after: bytes = b"") -> tuple[pa.Buffer, np.ndarray]:
    """Messages one after the other, `gap` bytes before each, and their places."""
    starts, data = [], b""
    for message in messages:
        data += b"\xee" * gap
        starts.append(len(data))
        data += message
    return pa.py_buffer(data + after), np.array([starts, [len(message) for message in messages], rows], np.int64)


# --- the layout ---


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("n", [1, 8, 9])
def test_the_layout_locates_rows_nulls_and_buffers(kind, n):
    """For every kind: rows, null counts, body length and buffers are where the layout says; nothing else is masked."""
    rows = batch(n, 1, kinds=(kind,)).tables[kind]
    message = encode(rows, None)
    metadata = _metadata(message)
    layout = layout_of(metadata, len(SCHEMAS[kind]), BUFFERS[kind].count)
    words = np.frombuffer(metadata, np.int64)
    assert words[layout.rows] == n
    assert words[layout.body] == len(message) - len(metadata)
    nodes = words[layout.nodes : layout.nodes + 2 * len(SCHEMAS[kind])].tolist()
    assert nodes == [number for column in rows.columns for number in (n, column.null_count)]
    buffers = words[layout.buffers : layout.buffers + 2 * BUFFERS[kind].count].reshape(-1, 2)
    sizes = buffers[:, 1]
    own = [0 if part is None else part for column in rows.columns for part in column.buffers()]
    assert len(own) == len(sizes)
    assert buffers[0].tolist() == [0, 0], "seq has no nulls, so no validity bits"
    body = message[len(metadata) :]
    for offset, size, part in zip(buffers[:, 0].tolist(), sizes.tolist(), own, strict=True):
        if part and size:
            assert body[offset : offset + size] == bytes(part)[:size]
    masked = {layout.rows, layout.body, *range(layout.nodes, layout.nodes + len(nodes))}
    masked |= set(range(layout.buffers, layout.buffers + 2 * len(buffers)))
    assert set(np.flatnonzero(layout.mask == 0).tolist()) == masked
    assert (layout.mask[layout.mask != 0] == 2**64 - 1).all()
    assert (layout.fixed == (words.view(np.uint64) & layout.mask)).all()


def test_metadata_of_another_form_has_no_layout():
    """Another count of columns or buffers, compression, own metadata, views, version 4, a schema: no layout."""
    rows = _trades(5)
    plain = _metadata(encode(rows, None))
    assert layout_of(plain, _COLUMNS, _BUFFERS)
    for columns, buffers in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        assert layout_of(plain, _COLUMNS + columns, _BUFFERS + buffers) is None
    assert layout_of(_metadata(encode(rows, "lz4")), _COLUMNS, _BUFFERS) is None
    assert layout_of(_metadata(HEADERS[Kind.TRADE]), _COLUMNS, _BUFFERS) is None

    def streamed(rows: pa.RecordBatch, **options) -> bytes:
        sink = pa.BufferOutputStream()
        stream = pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(**options))
        stream.write_batch(rows, custom_metadata={"by": "another"} if not options else None)
        data = sink.getvalue().to_pybytes()
        return _metadata(data[header_length(data) :])

    assert layout_of(streamed(rows), _COLUMNS, _BUFFERS) is None
    older = streamed(rows, metadata_version=pa.ipc.MetadataVersion.V4)
    assert layout_of(older, _COLUMNS, _BUFFERS) is None
    views = pa.record_batch({"x": pa.array(["a text of more than twelve bytes"], pa.string_view())})
    assert all(layout_of(_metadata(views.serialize().to_pybytes()), 1, buffers) is None for buffers in (2, 3, 4))


def test_cut_or_shifted_metadata_has_no_layout():
    """Metadata cut at any byte has a layout only if every number is still within it; unaligned numbers have none."""
    whole = _metadata(encode(_trades(5), None))
    layout = layout_of(whole, _COLUMNS, _BUFFERS)
    end = 8 * max(layout.body + 1, layout.rows + 1, layout.nodes + 2 * _COLUMNS, layout.buffers + 2 * _BUFFERS)
    for cut in range(len(whole)):
        assert (layout_of(whole[:cut], _COLUMNS, _BUFFERS) is None) == (cut % 8 > 0 or cut < end), cut
    for at in range(8, len(whole)):
        for value in (0, 1, 4, 0x7F, 0xFF):
            altered = layout_of(whole[:at] + bytes([value]) + whole[at + 1 :], _COLUMNS, _BUFFERS)
            assert altered is None or len(altered.mask) * 8 == len(whole), "never an exception"
    for vector, count in ((layout.nodes, _COLUMNS), (layout.buffers, _BUFFERS)):
        moved = bytearray(whole + bytes(4) + struct.pack("<I", count))  # its count is the last number: no room follows
        for at in range(8, len(whole), 4):
            if at + struct.unpack_from("<I", whole, at)[0] == 8 * vector - 4:
                struct.pack_into("<I", moved, at, len(moved) - 4 - at)
        assert bytes(moved[: len(whole)]) != whole
        assert layout_of(bytes(moved), _COLUMNS, _BUFFERS) is None
    longer = layout_of(whole + bytes(8 * len(whole)), _COLUMNS, _BUFFERS)
    assert (longer.mask[len(whole) // 8 :] == 2**64 - 1).all(), "what follows the numbers is compared"
    message = 8 + struct.unpack_from("<I", whole, 8)[0]
    body = message - struct.unpack_from("<i", whole, message)[0] + 4 + 2 * 3
    shifted = bytearray(whole)
    struct.pack_into("<H", shifted, body, struct.unpack_from("<H", whole, body)[0] + 4)
    assert layout_of(bytes(shifted), _COLUMNS, _BUFFERS) is None


def test_buffers_needed():
    """A text needs rows + 1 offsets, booleans and validity a bit per row, validity only where a null is counted."""
    buffers = Buffers(pa.schema([("n", pa.int32()), ("t", pa.string()), ("b", pa.bool_()), ("h", pa.uint16())]))
    assert (buffers.first, buffers.count) == ([0, 2, 5, 7], 9)
    needed = buffers.needed(np.array([1, 8, 9]), np.array([[0, 0, 0, 0], [1, 0, 8, 0], [0, 2, 0, 9]]))
    assert needed.tolist() == [
        [0, 4, 0, 8, 0, 0, 1, 0, 2],
        [1, 32, 0, 36, 0, 1, 1, 0, 16],
        [0, 36, 2, 40, 0, 0, 2, 2, 18],
    ]


# --- which messages are decoded ---


def _consistent(message: bytes, n: int) -> bool:
    """The rule in plain Python: each number fits the rows of the journal, every buffer is within the body."""
    layout, words = _layout(message), np.frombuffer(_metadata(message), np.int64).tolist()
    nodes = words[layout.nodes : layout.nodes + 2 * _COLUMNS]
    places = words[layout.buffers : layout.buffers + 2 * _BUFFERS]
    body = len(message) - 8 * len(words)
    right = words[layout.rows] == n and words[layout.body] == body
    right &= all(rows == n and 0 <= nulls <= n for rows, nulls in zip(nodes[::2], nodes[1::2], strict=True))
    if right:
        needed = BUFFERS[Kind.TRADE].needed(np.array([n]), np.array([nodes[1::2]]))[0].tolist()
        for offset, size, least in zip(places[::2], places[1::2], needed, strict=True):
            right &= 0 <= offset <= body and offset % 8 == 0 and least <= size <= body - offset
    return right


def test_messages_are_decoded_only_if_every_number_is_right():
    """Any number of the second of three messages altered: decoded exactly if it still fits the journal and its body."""
    messages = [encode(_trades(9, seed), None) for seed in (1, 2, 3)]
    layout, metadata = _layout(messages[1]), _metadata(messages[1])
    outcomes = set()
    for word in np.flatnonzero(layout.mask == 0).tolist():
        number = struct.unpack_from("<q", metadata, 8 * word)[0]
        body = len(messages[1]) - len(metadata)
        for value in {
            number + 1,
            number - 1,
            number + 8,
            number - 8,
            0,
            9,
            10,
            -1,
            -8,
            body,
            body + 8,
            2**62,
            -(2**63),
        }:
            altered = bytearray(messages[1])
            struct.pack_into("<q", altered, 8 * word, value)
            some = [messages[0], bytes(altered), messages[2]]
            got = Messages.of(Kind.TRADE, *_placed(some, [9, 9, 9]))
            right = _consistent(bytes(altered), 9)
            assert (got is not None) == right, (word, value)
            outcomes.add(right)
            assert (Messages.of(Kind.TRADE, *_placed(some[1:2], [9])) is not None) == right
    assert outcomes == {True, False}


def test_messages_that_differ_or_do_not_fit_their_places_are_not_decoded():
    """Another marker, fixed metadata that differs, a length of the journal that is not the message's: left to Arrow."""
    one, two = encode(_trades(9, 1), None), encode(_trades(9, 2), None)
    data, places = _placed([one, two], [9, 9])
    assert Messages.of(Kind.TRADE, data, places)
    assert Messages.of(Kind.TRADE, *_placed([one, two], [9, 9], gap=8))
    assert Messages.of(Kind.TRADE, *_placed([one, two], [9, 9], gap=4)) is None, "not at a multiple of 8"
    for marker in (b"\0\0\0\0", b"\xff\xff\xff\xfe", b"\xfe\xff\xff\xff"):
        assert Messages.of(Kind.TRADE, *_placed([marker + one[4:]], [9])) is None
        assert Messages.of(Kind.TRADE, *_placed([one, marker + two[4:]], [9, 9])) is None
    for row, by in ((1, -1), (1, 1), (1, 8), (1, -8), (2, -1), (2, 1), (0, 8), (0, -8)):
        for i in range(2):
            wrong = places.copy()
            wrong[row, i] += by
            wrong[0] = np.maximum(wrong[0], 0)
            if (wrong != places).any():
                assert Messages.of(Kind.TRADE, data, wrong) is None, (row, by, i)
    for cut in (1, 8, len(two) - 8, len(two)):
        assert Messages.of(Kind.TRADE, data.slice(0, data.size - cut), places) is None
    short = len(_metadata(one))
    assert Messages.of(Kind.TRADE, pa.py_buffer(one[:short]), np.array([[0], [short], [9]])) is None
    assert Messages.of(Kind.TRADE, pa.py_buffer(one[: short - 8]), np.array([[0], [short - 8], [9]])) is None
    for at in range(0, short, 8):
        if _layout(one).mask[at // 8]:
            altered = two[: at + 1] + bytes([two[at + 1] ^ 1]) + two[at + 2 :]
            assert Messages.of(Kind.TRADE, *_placed([one, altered], [9, 9])) is None, at


# --- the rows ---


@cache
def _sized(sizes: tuple[int, ...]) -> tuple[pa.RecordBatch, list[bytes]]:
    rows, messages, at = _trades(sum(sizes), sum(sizes)), [], 0
    for size in sizes:
        messages.append(encode(rows.slice(at, size), None))
        at += size
    return rows, messages


@pytest.mark.parametrize("sliced_rows", [1, 10**6])
@pytest.mark.parametrize("sizes", [(1,), (8,), (9,), (1, 1), (7, 1), (8, 9, 15), (16, 3, 64, 2), (70, 65)])
def test_messages_hold_the_rows_that_were_encoded(sizes, sliced_rows, monkeypatch):
    """Every column, copied by message or by row: the values, nulls and schema; also of a part of the messages."""
    monkeypatch.setattr(batch_messages, "_SLICED_ROWS", sliced_rows)
    rows, encoded = _sized(sizes)
    messages = Messages.of(Kind.TRADE, *_placed(encoded, list(sizes), gap=24, after=b"odd"))
    for first in range(len(sizes)):
        for last in range(first + 1, len(sizes) + 1):
            got = messages.some(first, last).read(range(_COLUMNS))
            expected = rows.slice(sum(sizes[:first]), sum(sizes[first:last]))
            got.validate(full=True)
            assert got.schema.equals(TRADE, check_metadata=True)
            assert str(got.to_pylist()) == str(expected.to_pylist())
            assert [c.null_count for c in got.columns] == [c.null_count for c in expected.columns]
    assert messages.read([0, 1, _EXCHANGE]).schema.names == ["seq", "ts_recv", "exchange"]


def _column(values: list, name: str) -> pa.RecordBatch:
    """Trades with these values in one column, an even one in each common column, nulls elsewhere."""
    row = {"seq": 1, "ts_recv": 2, "con_id": 3, "req_id": 4, "epoch": 5}
    return pa.RecordBatch.from_pylist([{**row, name: value} for value in values], schema=TRADE)


def _altered(rows: pa.RecordBatch, buffer: int, at: int, data: bytes) -> bytes:
    """A message with other bytes at a place in one of its buffers."""
    message = bytearray(encode(rows, None))
    layout, words = _layout(bytes(message)), np.frombuffer(_metadata(bytes(message)), np.int64)
    begin = 8 * len(words) + int(words[layout.buffers + 2 * buffer]) + at
    message[begin : begin + len(data)] = data
    return bytes(message)


def _read(messages: list[bytes], rows: list[int], name: str) -> list | None:
    """A column as read: None if Arrow must read it, or REFUSED."""
    read = Messages.of(Kind.TRADE, *_placed(messages, rows))
    try:
        got = rows_in(Kind.TRADE, read, [TRADE.get_field_index(name)])
    except ValueError as error:
        return [str(error)[:19]]
    return None if got is None else got.column(0).to_pylist()


@pytest.mark.parametrize("sliced_rows", [1, 10**6])
def test_texts_outside_their_buffer_are_not_decoded(sliced_rows, monkeypatch):
    """Any offset of the second message altered: its texts are cut there, or, outside its buffer, none is returned."""
    monkeypatch.setattr(batch_messages, "_SLICED_ROWS", sliced_rows)
    first = BUFFERS[Kind.TRADE].first[_EXCHANGE]
    texts, others = ["ab", "", "cde", "f"], ["xy", "z"]
    plain = encode(_column(others, "exchange"), None)
    good, data = [0, 2, 2, 5, 6], b"abcdef"
    whole = encode(_column(texts, "exchange"), None)
    size = int(np.frombuffer(_metadata(whole), np.int64)[_layout(whole).buffers + 2 * (first + 2) + 1])
    data = data.ljust(size, b"\0")
    for i in range(5):
        for value in (-(2**31), -2, -1, 0, 1, 2, 3, 5, 6, size, size + 1, 12, 20, 2**31 - 1):
            offsets = [*good[:i], value, *good[i + 1 :]]
            altered = _altered(_column(texts, "exchange"), first + 1, 4 * i, struct.pack("<i", value))
            right = offsets[0] >= 0 and offsets[-1] <= size and offsets == sorted(offsets)
            expected = [data[a:b].decode() for a, b in pairwise(offsets)] if right else None
            for order in ((plain, altered, plain), (altered, plain), (plain, altered)):
                sizes = [2 if message is plain else 4 for message in order]
                whole = [text for one in order for text in (others if one is plain else expected or [])]
                assert _read(list(order), sizes, "exchange") == (whole if right else None), (i, value)
            assert _read([altered], [4], "exchange") == (expected or REFUSED)


@pytest.mark.parametrize("sliced_rows", [1, 10**6])
@pytest.mark.parametrize("n", [2, 7, 8, 9, 17])
@pytest.mark.parametrize("name", ["past_limit", "price", "exchange"])
def test_validity_bits_must_agree_with_the_count_of_nulls(name, n, sliced_rows, monkeypatch):
    """One validity bit altered: refused if it is a row's, without effect behind the last row; alone or among others."""
    monkeypatch.setattr(batch_messages, "_SLICED_ROWS", sliced_rows)
    buffer = BUFFERS[Kind.TRADE].first[TRADE.get_field_index(name)]
    value = {"past_limit": True, "price": 1.5, "exchange": "Q"}[name]
    other = encode(_column([value, value], name), None)
    for values in ([None] * n, [None, *[value] * (n - 1)]):
        rows = _column(values, name)
        bits = bytes(rows.column(rows.schema.get_field_index(name)).buffers()[0])
        for bit in {0, 1, n - 1, n, n + 1}:
            place, one = divmod(bit, 8)
            if place < (n + 7) // 8:
                altered = _altered(rows, buffer, place, bytes([bits[place] ^ 1 << one]))
                assert _read([altered], [n], name) == (values if bit >= n else REFUSED), bit
                whole = [value, value, *values]
                assert _read([other, altered], [2, n], name) == (whole if bit >= n else None), bit
    nulls = encode(_column([None] * n, name), None)
    assert _read([nulls, nulls], [n, n], name) == [None] * (2 * n)


def test_columns_of_nulls_need_no_values():
    """A column that is null in every row is returned as such, of any length."""
    for n in (1, 2, 8, 15, 16, 17):
        assert _read([encode(_column([None] * n, "price"), None)], [n], "price") == [None] * n


@pytest.mark.parametrize("sliced_rows", [1, 10**6])
def test_texts_beyond_32_bit_offsets_are_left_to_arrow(sliced_rows, monkeypatch):
    """Texts of the maximum are joined; one byte more and they are not."""
    monkeypatch.setattr(batch_messages, "_SLICED_ROWS", sliced_rows)
    messages = [encode(_column(["abc", "de"], "exchange"), None), encode(_column(["f"], "exchange"), None)]
    assert np.iinfo(np.int32).max == batch_messages._TEXT_BYTES_MAX
    for most, expected in ((7, ["abc", "de", "f"]), (6, ["abc", "de", "f"]), (5, None)):
        monkeypatch.setattr(batch_messages, "_TEXT_BYTES_MAX", most)
        assert _read(messages, [2, 1], "exchange") == expected


def test_text_that_is_not_utf8_is_refused():
    """Alone or among others: ValueError with the kind and Arrow's reason."""
    first = BUFFERS[Kind.TRADE].first[_EXCHANGE]
    altered = _altered(_column(["ab"], "exchange"), first + 2, 0, b"\xff")
    for messages in ([altered], [altered, altered]):
        data, places = _placed(messages, [1] * len(messages))
        with pytest.raises(ValueError, match=r"^not rows of trade: .*[Ii]nvalid UTF.?8"):
            rows_in(Kind.TRADE, Messages.of(Kind.TRADE, data, places), [_EXCHANGE])
    column = _column(["ab"], "exchange")
    texts = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
    )
    compressed = encode(column.set_column(_EXCHANGE, "exchange", texts), "lz4")
    with pytest.raises(ValueError, match=r"^not an Arrow stream: .*[Ii]nvalid UTF.?8"):
        decode(Kind.TRADE, HEADERS[Kind.TRADE] + compressed, 1, [_EXCHANGE])


def test_wrong_rows_are_refused_by_every_reader():
    """A null in a required column, which the bytes can hold: the same sentence from both readers."""
    rows = _column([1.0, 2.0], "price")
    columns = [pa.array([None, 1], pa.uint64()), *rows.columns[1:]]
    loose = pa.schema([field.with_nullable(True) for field in TRADE])
    body = encode(pa.RecordBatch.from_arrays(columns, schema=loose), None)
    for data in (HEADERS[Kind.TRADE] + body, HEADERS[Kind.TRADE] + encode(rows, "lz4")):
        part = Part(Kind.TRADE, 0, len(data), 2, "0" * 32)
        if data.endswith(body):
            with pytest.raises(ValueError, match=r"^trade: a null in one of \['seq', 'ts_recv', 'con_id', 'req_id', "):
                rows_of(Kind.TRADE, pa.py_buffer(data), [0], [part])
        else:
            assert rows_of(Kind.TRADE, pa.py_buffer(data), [0], [part]).equals(rows)


def test_only_the_file_s_first_part_holds_the_schema():
    """Parts from byte 0 on begin with the kind's schema; later ones are read with it, by either reader."""
    rows, encoded = _sized((8, 9, 15))
    for compression in (None, "zstd"):
        bodies = (
            encoded
            if compression is None
            else [encode(rows.slice(a, b), "zstd") for a, b in ((0, 8), (8, 9), (17, 15))]
        )
        bodies = [HEADERS[Kind.TRADE] + bodies[0], *bodies[1:]]
        data, starts, parts = b"".join(bodies), [], []
        for body, n in zip(bodies, (8, 9, 15), strict=True):
            starts.append(sum(part.length for part in parts))
            parts.append(Part(Kind.TRADE, starts[-1], len(body), n, "0" * 32))
        for first in range(3):
            got = rows_of(Kind.TRADE, pa.py_buffer(data), starts[first:], parts[first:], [0, 7])
            expected = rows.slice((0, 8, 17)[first]).select(["seq", "price"])
            assert str(got.to_pylist()) == str(expected.to_pylist())
            read = messages_of(Kind.TRADE, pa.py_buffer(data), starts[first:], parts[first:])
            assert (read is None) == (compression == "zstd")
    with pytest.raises(ValueError, match=r"^the stream's columns \['seq', .* are not those of kind trade$"):
        messages_of(Kind.TRADE, pa.py_buffer(HEADERS[Kind.TICK]), [0], [Part(Kind.TRADE, 0, 9999, 1, "0" * 32)])


# --- streams ---


def test_the_length_of_a_schema_message():
    """From its prefix; ValueError for another marker, no length, or one beyond the data or the maximum."""
    schema = HEADERS[Kind.TRADE]
    assert header_length(schema) == header_length(schema + bytes(8)) == len(schema)
    assert header_length(memoryview(schema)) == check_header(Kind.TRADE, schema + b"rest") == len(schema)
    marker = b"\xff\xff\xff\xff"
    assert HEADER_BYTES_MAX == 2**20
    huge = HEADER_BYTES_MAX - 8
    assert header_length(marker + struct.pack("<i", huge) + bytes(huge + 8)) == HEADER_BYTES_MAX
    assert header_length(marker + struct.pack("<i", 1) + b"\0") == 9
    for data in (
        b"",
        marker,
        marker + bytes(8),
        marker + struct.pack("<i", -1) + bytes(8),
        marker + struct.pack("<i", 9) + bytes(8),
        marker + struct.pack("<i", huge + 1) + bytes(huge + 16),
        b"\xff\xff\xff\xfe" + schema[4:],
        b"\0\0\0\0" + schema[4:],
    ):
        with pytest.raises(ValueError, match=r"^the stream does not begin with a schema$"):
            header_length(data)
    with pytest.raises(ValueError, match=r"^the stream's schema cannot be read: "):
        check_header(Kind.TRADE, encode(_trades(2), None))


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("group", [1, 3, 4, 256])
def test_streams_decode_to_the_rows_encoded(compression, group, monkeypatch):
    """Several messages become one batch of the wanted columns, in any grouping; another number of rows is an error."""
    monkeypatch.setattr(ipc_streams, "_GROUP", group)
    rows = _trades(30)
    data = HEADERS[Kind.TRADE] + b"".join(encode(rows.slice(at, 5), compression) for at in range(0, 30, 5))
    got = decode(Kind.TRADE, data, 30, [0, 1, 7, 12])
    assert str(got.to_pylist()) == str(rows.select([0, 1, 7, 12]).to_pylist())
    assert got.schema.equals(pa.schema([TRADE.field(i) for i in (0, 1, 7, 12)]), check_metadata=True)
    for n in (29, 31):
        with pytest.raises(ValueError, match=f"^30 rows, the journal says {n}$"):
            decode(Kind.TRADE, data, n, [0])
    with pytest.raises(ValueError, match=r"^0 rows, the journal says 1$"):
        decode(Kind.TRADE, HEADERS[Kind.TRADE], 1, [0])
    with pytest.raises(ValueError, match=r"^not an Arrow stream: "):
        decode(Kind.TRADE, data[:-16], 30, [0])


@pytest.mark.parametrize("error", [pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, OverflowError, MemoryError])
def test_every_way_arrow_gives_up_is_a_value_error(error, monkeypatch):
    """Absurd numbers in a stream make Arrow raise one of these; the text is one line."""

    def fails(*_):
        raise error("a\n  b")

    monkeypatch.setattr(ipc_streams, "_joined", fails)
    with pytest.raises(ValueError, match=r"^not an Arrow stream: a b$"):
        decode(Kind.TRADE, HEADERS[Kind.TRADE], 1, [0])


def test_wrong_streams_are_refused_by_what_is_wrong(monkeypatch):
    """Chunks that were not joined, and columns of another name, are errors that say so."""
    rows = _trades(2)
    data = HEADERS[Kind.TRADE] + encode(rows, None)
    for joined, problem in (
        (pa.Table.from_batches([rows.slice(0, 1), rows.slice(1, 1)]), "2 chunks, expected 1"),
        (pa.table({"x": [1, 2]}), "columns ['x'] are not those of kind trade"),
    ):
        monkeypatch.setattr(ipc_streams, "_joined", lambda _, joined=joined: joined)
        with pytest.raises(ValueError) as caught:
            decode(Kind.TRADE, data, 2, [0])
        assert str(caught.value) == problem


def test_zstd_is_used_at_level_3():
    """The bytes are those of Arrow's writer with this codec, not with another level's."""
    rows, sizes = _trades(300), []
    for level in (1, 2, 3, 4):
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", level))
        pa.ipc.new_stream(sink, rows.schema, options=options).write_batch(rows)
        sizes.append(sink.getvalue().to_pybytes()[len(HEADERS[Kind.TRADE]) :])
    encoded = encode(rows, "zstd")
    assert [encoded == one for one in sizes] == [False, False, True, False]


def test_clock_events_of_the_journal():
    """Lines become rows and rows lines, with the type of every column at its limits."""
    lines = ((1, -(2**63), 2**62, -1, 65535, 0, 2**63 - 1), (2, 5, -(2**40), 2**31 - 1, 0, -(2**63), 1))
    rows = clock_rows(lines)
    rows.validate(full=True)
    assert rows.schema.equals(SCHEMAS[Kind.CLOCK])
    assert [tuple(row.values()) for row in rows.to_pylist()] == list(lines)
    assert clock_lines(rows) == lines
    assert clock_rows(()).num_rows == 0
