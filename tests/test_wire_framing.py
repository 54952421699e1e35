from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvester.wire.framing import BadFrame, Deframer, frame, split

field = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
messages = st.lists(st.lists(field, min_size=1, max_size=6), max_size=8)


@given(messages, st.lists(st.integers(1, 50), max_size=60))
def test_any_split(sent, steps):
    """Messages come out whole and in order for any split of the bytes."""
    data = b"".join(frame(fields) for fields in sent)
    deframer, got, at = Deframer(), [], 0
    for step in [*steps, len(data)]:
        got += deframer.feed(data[at : at + step])
        at += step
    assert b"".join(struct.pack(">I", len(p)) + p for p in got) == data
    assert deframer.waiting == 0
    for payload, fields in zip(got, sent, strict=True):
        assert payload == ("\0".join(fields) + "\0").encode()


@given(st.lists(field.filter(bool), min_size=1, max_size=6))
def test_fields_survive(fields):
    """A message of non-empty fields reads back to the same fields."""
    assert split(frame(fields)[4:]) == fields


def test_empty_last_fields():
    """Empty fields at the end are kept: the last NUL ends the last field, nothing else."""
    assert split(frame(["4", "2", "-1", "", ""])[4:]) == ["4", "2", "-1", "", ""]


def test_bytes_that_are_not_text():
    """Bytes that are not UTF-8 survive a round trip."""
    raw = b"46\0\xff\xfe\0"
    assert frame(split(raw))[4:] == raw


def test_nul_in_field():
    """A field with a NUL is refused, because it would shift every field after it."""
    with pytest.raises(ValueError, match="NUL"):
        frame(["1", "a\0b"])


@pytest.mark.parametrize("length", [0xFFFFFFFF, 101])
def test_oversized(length):
    """A length prefix over the maximum stops the stream with one clear error instead of buffering for ever."""
    with pytest.raises(BadFrame, match=rf"claims {length} bytes, at most 100"):
        Deframer(100).feed(struct.pack(">I", length))


def test_one_byte_at_a_time():
    """A long message fed byte by byte costs no more than its length."""
    data = frame(["19", "1", "x" * 300_000])
    deframer, got = Deframer(), []
    for i in range(len(data)):
        got += deframer.feed(data[i : i + 1])
    assert [len(p) for p in got] == [len(data) - 4]
