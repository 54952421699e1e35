from __future__ import annotations

from gateway_support import true_book
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.events.kinds import Stream
from harvester.simgateway.fewer_depth_rows import DepthCut
from harvester.simgateway.markets.market_source import drain
from harvester.simgateway.markets.model_market import ModelSettings, open_model
from tests.budget import budget


def apply(sides, fields, rows):
    at, operation, side = int(fields[3]), fields[4], sides[fields[5]]
    level = (fields[6], fields[7])
    if operation == "0":
        assert at <= len(side)
        side.insert(at, level)
        del side[rows:]
    elif operation == "1":
        side[at] = level
    else:
        del side[at]


@settings(max_examples=budget(40, 150), deadline=None)
@given(
    rows=st.integers(1, 6),
    source=st.integers(6, 9),
    moves=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2), st.integers(0, 1)), max_size=120),
)
def test_fewer_rows_are_the_first_rows_of_the_source(rows, source, moves):
    """After every valid operation the reduced book equals the first rows of the source's, by shift semantics alone."""
    cut = DepthCut(rows, source)
    full, small = {"0": [], "1": []}, {"0": [], "1": []}
    for i, (at, operation, side) in enumerate(moves):
        there = len(full[str(side)])
        if at > there or (operation and at >= there) or at >= source:
            continue
        fields = ["12", "1", "", str(at), str(operation), str(side), str(i), "100"]
        apply(full, fields, source)
        for message in cut(list(fields)):
            apply(small, message, rows)
        foot = {key: value[:rows] for key, value in full.items()}
        if operation == 2 and there == source:
            continue  # the source's last row is known with its next message
        assert small == foot


def test_model_depth_cut_to_five_rows_is_the_head_of_its_book():
    """A client of five rows of the model's ten holds the first five at the end of the day."""
    market = open_model(ModelSettings(rate=800, seed=5, symbols=("ACME",)))
    con_id = market.instruments[0].con_id
    cut, held = DepthCut(5, market.depth_rows), {"0": [], "1": []}
    for event in drain(market):
        if event.stream == Stream.SMART_DEPTH:
            for fields in event.fields:
                for m in cut(fields):
                    apply(held, ["12", "1", "", m[3], m[5], m[6], m[7], m[8]], 5)
    asks, bids = true_book(market, con_id, Stream.SMART_DEPTH)
    assert held["0"] == [(row[0], row[1]) for row in asks[:5]]
    assert held["1"] == [(row[0], row[1]) for row in bids[:5]]


def test_other_messages_pass():
    """A message that is not a depth message passes unchanged."""
    error = ["4", "2", "", "317", "Market depth data has been RESET", ""]
    assert DepthCut(5, 10)(error) == [error]


def test_a_reset_clears_the_hidden_rows():
    """After error 317 a delete does not make a row of the old book visible."""
    cut = DepthCut(1, 10)
    rows = [["12", "1", "", str(at), "0", "1", str(10 - at), "100"] for at in range(2)]
    delete = ["12", "1", "", "0", "2", "1", "0", "0"]
    for row in rows:
        cut(row)
    assert len(cut(delete)) == 2, "without a reset the second row becomes visible"
    cut(rows[0])
    cut(["4", "2", "", "317", "Market depth data has been RESET", ""])
    cut(rows[0])
    assert cut(delete) == [delete]
