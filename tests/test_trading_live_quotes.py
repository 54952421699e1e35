"""From quotes in force to live quotes: the same rows and spells of darkness, however the events are cut."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.projections.interval import QUOTES, Occurrence, OccurrenceKind
from harvester.projections.run_params import RunParams
from harvester.projections.step import RunStart
from harvester.projections.trading.darkness import Dark
from harvester.projections.trading.live_quotes import LiveQuotes
from tests.budget import budget

K = OccurrenceKind
Event = tuple[Any, ...]
Made = tuple[list[Any], list[Any]]

SIDE = st.sampled_from([math.nan, 9.99, 10.0])
EVENT = st.one_of(
    st.tuples(st.just("quote"), st.sampled_from([7, 8]), SIDE, SIDE, st.booleans()),
    st.tuples(st.just("quote"), st.sampled_from([7, 8]), st.just(10.0), st.just(10.02), st.just(True)),
    st.tuples(st.sampled_from([K.OUTAGE_BEGIN, K.OUTAGE_END]), st.sampled_from([0, 7]), st.just(0)),
    st.tuples(st.just(K.HALT), st.just(7), st.integers(0, 2)),
    st.tuples(st.just(K.QUOTE_LOST), st.sampled_from([7, 8]), st.just(0)),
    st.tuples(st.sampled_from([K.DATA_TYPE, K.REFUSED]), st.just(7), st.just(3)),
    st.just(("run",)),
)


def heard(events: list[Event]) -> list[Event]:
    """The events without quotes of a symbol that has neither had a bid nor an ask."""
    known, kept = set(), []
    for event in events:
        if event[0] == "quote":
            if event[1] not in known and math.isnan(event[2]) and math.isnan(event[3]):
                continue
            known.add(event[1])
        kept.append(event)
    return kept


TAPE = st.lists(EVENT, max_size=30).map(heard)


def told(events: list[Event], cuts: list[int] = (), *, restored: bool = False) -> Made:
    """Rows and spells of darkness of events numbered from 1, cut behind these seqs."""
    live, rows, dark = LiveQuotes(), [], []
    edges = [0, *sorted({cut for cut in cuts if cut < len(events)}), len(events)]
    for begin, end in pairwise(edges):
        quotes, facts, runs = [], [], []
        for seq, (what, *rest) in enumerate(events[begin:end], start=begin + 1):
            if what == "run":
                runs.append(RunStart(seq, seq * 10, RunParams()))
            elif what == "quote":
                con_id, bid, ask, good = rest
                quotes.append((seq, seq * 10, con_id, bid, ask, 100, 100, good and bid < ask))
            else:
                facts.append(Occurrence(seq, seq * 10, rest[0], what, rest[1]))
        shown, spells = live.fold(np.array(quotes, QUOTES), facts, runs)
        rows += [tuple(row) for row in shown.tolist()]
        dark += [(d.seq, d.ts, d.con_id, d.value) for d in spells]
        if restored:
            saved, live = live.snapshot(), LiveQuotes()
            live.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(saved)))
            assert live.snapshot() == saved
    return [[str(v) for v in row] for row in rows], dark


def plain(events: list[Event]) -> Made:
    """The same, event by event, from the words of docs/trading.md."""
    rows, dark = [], []
    newest: dict[int, list[Any]] = {}
    was: dict[int, int] = {}
    lost: set[int] = set()
    halted: set[int] = set()
    outages: set[int] = set()
    for seq, (what, *rest) in enumerate(events, start=1):
        before = {c: row[7] and not was.get(c, 0) for c, row in newest.items()}
        if what == "quote":
            con_id, bid, ask, good = rest
            if not (math.isnan(bid) and math.isnan(ask)):
                lost.discard(con_id)
            newest[con_id] = [seq, seq * 10, con_id, bid, ask, 100.0, 100.0, good and bid < ask]
        elif what == "run":
            lost |= set(newest)
            halted, outages = set(), set()
        elif what is K.HALT:
            (halted.add if rest[1] else halted.discard)(rest[0])
        elif what in (K.OUTAGE_BEGIN, K.OUTAGE_END):
            (outages.add if what is K.OUTAGE_BEGIN else outages.discard)(rest[0])
            lost |= set(newest) if rest[0] == 0 else {rest[0]} & set(newest)
        elif what is K.QUOTE_LOST:
            lost |= {rest[0]} & set(newest)
        for con_id in sorted(newest):
            why = Dark.OUTAGE * bool({0, con_id} & outages) | Dark.HALT * (con_id in halted)
            why |= Dark.LOST * (con_id in lost)
            if why != was.get(con_id, 0):
                dark.append((seq, seq * 10, con_id, int(why)))
                was[con_id] = int(why)
            row = newest[con_id]
            shows = row[7] and not why
            if what == "quote":
                if rest[0] == con_id:
                    rows.append([*row[:7], shows])
            elif shows != before[con_id]:
                rows.append([seq, seq * 10, *row[2:7], shows])
    return [[str(v) for v in row] for row in rows], dark


@settings(max_examples=budget(150, 600), deadline=None)
@given(TAPE)
def test_facts_become_changes_of_the_quote(events):
    """Rows and spells are those of a plain walk through the events."""
    assert told(events) == plain(events)


@settings(max_examples=budget(150, 600), deadline=None)
@given(TAPE, st.lists(st.integers(1, 29), max_size=8), st.booleans())
def test_cuts_change_nothing(events, cuts, restored):
    """However the events are cut into steps, saved and restored between them or not, rows and spells are the same."""
    assert told(events, cuts, restored=restored) == told(events)


GOOD = ("quote", 7, 10.0, 10.02, True)


@pytest.mark.parametrize(
    ("events", "live"),
    [
        ([GOOD], [True]),
        ([GOOD, (K.OUTAGE_BEGIN, 0, 0), (K.OUTAGE_END, 0, 0), GOOD], [True, False, True]),
        ([GOOD, (K.OUTAGE_BEGIN, 0, 0), GOOD, (K.OUTAGE_END, 0, 0), GOOD], [True, False, False, True]),
        ([GOOD, (K.OUTAGE_BEGIN, 8, 0), GOOD], [True, True]),
        ([GOOD, (K.HALT, 7, 2), GOOD, (K.HALT, 7, 0)], [True, False, False, True]),
        ([GOOD, (K.HALT, 7, 2), (K.HALT, 7, 1), (K.HALT, 7, 0)], [True, False, True]),
        ([GOOD, (K.QUOTE_LOST, 7, 0), ("quote", 7, math.nan, math.nan, False), GOOD], [True, False, False, True]),
        ([GOOD, (K.HALT, 7, 1), (K.QUOTE_LOST, 7, 0), (K.HALT, 7, 0), GOOD], [True, False, True]),
        ([GOOD, (K.HALT, 7, 1), ("run",), GOOD], [True, False, True]),
        ([GOOD, ("run",), GOOD], [True, False, True]),
        ([("quote", 7, 10.0, math.nan, False), (K.QUOTE_LOST, 7, 0), ("run",)], [False]),
        ([(K.HALT, 7, 1), GOOD, (K.HALT, 7, 0)], [False, True]),
        ([(K.QUOTE_LOST, 7, 0), ("run",), GOOD], [True]),
    ],
)
def test_each_fact(events, live):
    """What makes a quote live again: its next change, but of a halt its end."""
    assert [row[-1] == "True" for row in told(events)[0]] == live
