"""The parts of a recorder without a socket: pacing, silence, subscriptions, the inbox, heartbeats, ends."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from harvester.calendar import day_bounds, session
from harvester.clock import LockstepClock
from harvester.config import Settings
from harvester.endofday.finished import must_be_over
from harvester.errors import BadSetting, CannotRun
from harvester.events import codes
from harvester.events.kinds import Kind, Own, Stream
from harvester.gateway.data_requests import RequestTarget
from harvester.projections.run_params import RunParams, calendar_of
from harvester.recorder import subscriptions as subs
from harvester.recorder.back_pressure import BackPressure
from harvester.recorder.contracts import WantedContract
from harvester.recorder.feed_silence import FeedSilence, Pace
from harvester.recorder.inbox import Inbox
from harvester.recorder.link import number
from harvester.recorder.pacing import Spacing, Timing, TokenBucket
from harvester.recorder.session import RecorderSession
from harvester.recorder.silent_streams import SilenceWatch
from harvester.recorder.stopping import closed_until, end_of_recording, parse_duration, parse_until
from harvester.recorder.subscriptions import StreamSubscription, SubscriptionPlan, SubscriptionRegistry
from harvester.recorder.tasks import BackgroundTasks
from harvester.recorder.trading_hours import hours_difference

SECOND = 1_000_000_000
ACME, BOLT, CRUX = (
    RequestTarget(symbol, n, primary_exchange="NASDAQ") for n, symbol in enumerate(("ACME", "BOLT", "CRUX"), 1)
)
DATE = date(2025, 7, 17)


class StillClock:
    """Market time moved by the test."""

    def __init__(self, now_ns: int = 1000 * SECOND) -> None:
        self.now_ns = now_ns

    def now(self) -> int:
        return self.now_ns

    def wall(self) -> int:
        return self.now_ns

    async def sleep_until(self, at_ns: int) -> None:
        self.now_ns = max(self.now_ns, at_ns)


# numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("0", 0),
        ("-3", -3),
        ("99999999999", 99999999999),
        ("07", -1),
        ("00", -1),
        ("-07", -1),
        ("+7", -1),
        (" 7", -1),
        ("7.0", -1),
        ("\u0667", -1),
        ("\u00b2", -1),
        ("", -1),
        ("-", -1),
        ("--7", -1),
        ("1" * 12, -1),
    ],
)
def test_a_control_message_is_read_as_the_log_reads_it(text: str, value: int) -> None:
    """The session parses the same numbers as the log: no leading zero, sign, blank or non-ASCII digit."""
    assert number(text) == value


# silence


def registry(
    *wanted: tuple[Stream, RequestTarget], asked_ts: int = 0
) -> tuple[SubscriptionRegistry, list[StreamSubscription]]:
    made = SubscriptionRegistry()
    for req_id, (stream, target) in enumerate(wanted, 1):
        made.add(StreamSubscription(req_id, target, stream, {}, asked_ts))
    return made, list(made.live.values())


def silent(silence: SilenceWatch) -> list[tuple[Stream, int]]:
    return [(found.stream, quiet_ns // SECOND) for found, quiet_ns in silence.fallen_silent()]


BID, LAST, VOLUME, HALTED = 1, 4, 8, 49


def rows(
    made: SubscriptionRegistry,
    silence: SilenceWatch,
    at: float,
    *subs: StreamSubscription,
    ticks: tuple[tuple[StreamSubscription, int], ...] = (),
) -> None:
    """One second with rows of these streams, and L1 fields by subscription."""
    now = round(at * SECOND)
    counts = dict.fromkeys([sub.req_id for sub in (*subs, *(sub for sub, _ in ticks))], 1)
    made.received(counts, now)
    silence.noted(counts, [(sub.req_id, field, "1") for sub, field in ticks], now)


def test_silence_is_noted_in_its_second_and_once() -> None:
    """L1 is silent past its limit once three seconds with prints have missed it, and once."""
    made, (l1, prints) = registry((Stream.L1, ACME), (Stream.ALL_LAST, ACME))
    silence = SilenceWatch(made, 10.0)
    rows(made, silence, 100, l1, prints)
    for at in (102, 103, 109, 110):
        rows(made, silence, at, prints)
    assert silent(silence) == []
    rows(made, silence, 110.1, prints)
    assert silent(silence) == [(Stream.L1, 10)]
    assert silent(silence) == []
    rows(made, silence, 111, l1)
    assert not l1.silent


def test_silence_counts_from_the_request() -> None:
    """A stream that never answered is silent by the time since its request, a depth too; prints need not answer."""
    wanted = (Stream.L1, ACME), (Stream.DEPTH, ACME), (Stream.ALL_LAST, ACME), (Stream.ALL_LAST, BOLT)
    made, (l1, depth, prints, tape) = registry(*wanted, asked_ts=100 * SECOND)
    silence = SilenceWatch(made, 10.0)
    rows(made, silence, 105, prints)
    assert silent(silence) == []
    rows(made, silence, 111, prints)
    assert silent(silence) == [(Stream.L1, 11), (Stream.DEPTH, 11)]
    assert not tape.rows
    assert l1.silent
    assert depth.silent


def test_nothing_is_silent_while_nothing_flows() -> None:
    """When all streams stop together none of them is called silent: that is the silence of the feed."""
    made, found = registry((Stream.L1, ACME), (Stream.ALL_LAST, BOLT), asked_ts=100 * SECOND)
    silence = SilenceWatch(made, 10.0)
    rows(made, silence, 100, *found)
    assert silent(silence) == []


def test_five_second_bars_are_given_fifteen_seconds() -> None:
    """Bars are silent when three did not come while trades print, however short the limit of the others."""
    made, (bars, prints) = registry((Stream.BARS_5S, ACME), (Stream.ALL_LAST, ACME))
    silence = SilenceWatch(made, 10.0)
    rows(made, silence, 100, bars, prints)
    for at in (103, 104, 105, 118):
        rows(made, silence, at, prints)
        assert silent(silence) == []
    rows(made, silence, 119, prints)
    assert silent(silence) == [(Stream.BARS_5S, 19)]


@pytest.mark.parametrize(
    ("stream", "field", "gone"),
    [
        (Stream.BID_ASK, BID, True),
        (Stream.BID_ASK, LAST, False),
        (Stream.ALL_LAST, LAST, True),
        (Stream.ALL_LAST, BID, False),
        (Stream.ALL_LAST, VOLUME, False),
        (Stream.BARS_5S, LAST, True),
        (Stream.DEPTH, BID, True),
        (Stream.DEPTH, LAST, False),
    ],
)
def test_like_is_compared_with_like(stream: Stream, field: int, gone: bool) -> None:
    """A stream is gone when rows of its own sort miss it: a standing quote stays while last and volume ticks flow."""
    made, (watched, l1, other) = registry((stream, ACME), (Stream.L1, ACME), (Stream.L1, BOLT))
    silence = SilenceWatch(made, 10.0)
    rows(made, silence, 100, watched, l1, other)
    for at in range(103, 140):
        rows(made, silence, at, other, ticks=((l1, field),))
    assert [found for found, _ in silent(silence)] == ([stream] if gone else [])


def test_what_a_stream_missed_alive_raises_its_limit() -> None:
    """A stream that came back by itself after missing three seconds must miss twelve; one notice an hour."""
    made, (bid_ask, l1) = registry((Stream.BID_ASK, ACME), (Stream.L1, ACME))
    silence = SilenceWatch(made, 2.0)
    rows(made, silence, 100, bid_ask, l1)
    for at in (103, 104, 109):
        rows(made, silence, at, ticks=((l1, BID),))
    assert silent(silence) == [(Stream.BID_ASK, 9)]
    assert silence.is_news(bid_ask)
    rows(made, silence, 110, bid_ask)
    for at in range(113, 124):
        rows(made, silence, at, ticks=((l1, BID),))
    assert silent(silence) == []
    rows(made, silence, 124, ticks=((l1, BID),))
    assert silent(silence) == [(Stream.BID_ASK, 14)]
    assert not silence.is_news(bid_ask)
    rows(made, silence, 110 + 3600, ticks=((l1, BID),))
    assert silence.is_news(bid_ask)


def test_what_a_stream_missed_until_it_was_renewed_does_not_raise_its_limit() -> None:
    """A stream that dies again after each new request is as soon silent each time."""
    made, (bid_ask, l1) = registry((Stream.BID_ASK, ACME), (Stream.L1, ACME))
    silence = SilenceWatch(made, 2.0)
    rows(made, silence, 100, bid_ask, l1)
    for at in (100, 120, 140):
        rows(made, silence, at + 1, bid_ask)
        for missed in range(4, 11):
            assert silent(silence) == []
            rows(made, silence, at + missed, ticks=((l1, BID),))
        assert silent(silence) == [(Stream.BID_ASK, 9)]
        del made.live[bid_ask.req_id]
        bid_ask = StreamSubscription(bid_ask.req_id + 2, ACME, Stream.BID_ASK, {}, (at + 11) * SECOND)
        made.add(bid_ask)


def test_a_stream_alone_is_judged_by_its_own_pace_in_the_session() -> None:
    """L1 alone that spoke every second is silent after a minute; not outside the session, and not when halted."""
    for in_session, field, gone in ((True, BID, True), (False, BID, False), (True, HALTED, False)):
        made, (l1, other) = registry((Stream.L1, ACME), (Stream.L1, BOLT))
        silence = SilenceWatch(made, 60.0)
        for at in range(1000, 1200):
            rows(made, silence, at, l1, other)
        rows(made, silence, 1200, ticks=((l1, field),))
        for at in range(1201, 1262):
            rows(made, silence, at, other)
        found = [(sub, quiet // SECOND) for sub, quiet in silence.fallen_silent(in_session=in_session)]
        assert found == ([(l1, 61)] if gone else [])


def test_a_pause_of_the_gateway_is_silence_after_its_limit() -> None:
    """A stream paused by 10197 is gone once it has no rows for longer than the limit."""
    made, (bid_ask, other) = registry((Stream.BID_ASK, ACME), (Stream.L1, BOLT))
    silence = SilenceWatch(made, 10.0)
    rows(made, silence, 100, bid_ask, other)
    rows(made, silence, 120, other)
    assert silent(silence) == []
    bid_ask.paused = True
    assert silent(silence) == [(Stream.BID_ASK, 20)]


def pace_of(pauses: list[int]) -> Pace:
    """A pace that spoke after each of these pauses, in s."""
    pace, now = Pace(0), 0
    for pause in pauses:
        now += pause
        pace.heard(now)
    return pace


@pytest.mark.parametrize(
    ("pauses", "limit"),
    [
        ([1] * 29, 0),  # not known yet
        ([1] * 300, 60),
        ([2] * 30, 60),
        ([1] * 100 + [30] + [1] * 100, 120),  # four times the longest pause
        ([4] * 100, 120),  # thirty seconds with rows
        ([20] * 100, 1800),  # too thin for less than half an hour
        ([1] * 100 + [30] + [1] * 2000, 60),  # a pause of more than half an hour ago
    ],
)
def test_a_pace_has_a_limit(pauses: list[int], limit: int) -> None:
    """After how many seconds of silence a feed of that pace is taken for dead."""
    assert pace_of(pauses).limit() == limit


def test_a_silence_teaches_no_more_than_its_limit() -> None:
    """After an outage of an hour pauses of a minute are usual, not pauses of an hour."""
    assert pace_of([*[1] * 300, 3600, *[1] * 60]).limit() == 240


OPEN = session(DATE).open_ns  # type: ignore[union-attr]


def heard(feed: FeedSilence, at: int, *, bars: bool = True, market: bool = True, real: int | None = None) -> int:
    now = OPEN + at * SECOND
    return feed.look(now, (at if real is None else real) * SECOND, every=bars or market, market=market)


def test_a_feed_is_silent_by_its_pace() -> None:
    """Sixty seconds of nothing in a busy session, or of bars alone; fifteen once the gateway announced trouble."""
    for trouble, bars, limit in ((False, False, 60), (False, True, 60), (True, False, 15)):
        feed = FeedSilence(60.0, "XNYS", "America/New_York")
        assert not any(heard(feed, at) for at in range(300))
        if trouble:
            feed.suspect(OPEN + 299 * SECOND)
        found = [heard(feed, at, bars=bars, market=False) for at in range(300, 400)]
        assert found.index(limit + 1) == limit


def test_a_feed_is_not_judged_outside_the_session_or_by_our_own_pauses() -> None:
    """Before the open, after the close, while the machine sleeps, or within two real seconds nothing is silent."""
    feed = FeedSilence(60.0, "XNYS", "America/New_York")
    assert not any(heard(feed, at, bars=at < -600, market=at < -600) for at in range(-1200, 0))
    assert not any(heard(feed, at) for at in range(300))
    assert heard(feed, 20_000, bars=False, market=False) == 0
    feed.begin_again()
    assert not any(heard(feed, at) for at in range(1000, 1300))
    assert not any(heard(feed, at, bars=False, market=False, real=1300) for at in range(1300, 1400))


def test_a_new_connection_has_five_real_seconds_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of a fast market without a row is an outage after five real seconds, those before it not counted.

    It begins when the rows were requested.
    """

    async def scenario() -> tuple[list[bool], int]:
        line, real = Line(), [0]
        feed, outages = line.session._feed, line.session.line.outages
        monkeypatch.setattr(line.session.line.pace, "patience", lambda: real[0] * SECOND)
        found = []
        for down, market_s, real_s in ((True, 0, 100), (False, 1, 100), (False, 62, 101), (False, 70, 105)):
            (outages.begin if down else outages.end)("socket")
            line.clock.now_ns, real[0] = OPEN + market_s * SECOND, real_s
            line.inbox.put(Kind.CLOCK, {})
            feed.look({}, excused=False)
            found.append(outages.under_way)
            if not line.session.registry.live:
                line.session.registry.add(StreamSubscription(1, ACME, Stream.L1, {}, OPEN))
        return found, outages.since_ns

    assert asyncio.run(scenario()) == ([True, False, False, True], OPEN)


def test_what_died_with_a_connection_is_found_five_seconds_later() -> None:
    """After 1102, once others flow for longer than 5 s, a stream without a row since is dead; bars have 15 s.

    A row noted in the same second as the message may be from before it, so it proves nothing.
    """
    made, (dead, alive, bars, depth, never) = registry(
        (Stream.L1, ACME), (Stream.L1, BOLT), (Stream.BARS_5S, ACME), (Stream.DEPTH, ACME), (Stream.ALL_LAST, ACME)
    )
    silence = SilenceWatch(made, 60.0)
    made.received({one.req_id: 1 for one in (dead, alive, bars, depth)}, 99 * SECOND)
    silence.suspect(100 * SECOND)
    made.received({dead.req_id: 1}, 101 * SECOND)
    made.received({alive.req_id: 1}, 105 * SECOND)
    assert silence.dead() == []
    made.received({alive.req_id: 1}, 106 * SECOND)
    assert silence.dead() == [dead]
    assert silence.dead() == []
    made.received({alive.req_id: 1}, 116 * SECOND)
    assert silence.dead() == [bars]
    assert not never.rows


def test_a_row_after_the_connection_came_back_is_life() -> None:
    """A stream with a row after the second of the message is not dead; a new subscription of all clears suspicions."""
    made, (one, other) = registry((Stream.L1, ACME), (Stream.L1, BOLT))
    silence = SilenceWatch(made, 60.0)
    made.received({one.req_id: 1, other.req_id: 1}, 99 * SECOND)
    silence.suspect(100 * SECOND)
    made.received({one.req_id: 1}, 101 * SECOND + 1)
    made.received({other.req_id: 1}, 106 * SECOND)
    assert silence.dead() == []
    silence.suspect(110 * SECOND)
    silence.clear()
    made.received({one.req_id: 1}, 120 * SECOND)
    assert silence.dead() == []


# subscriptions


def test_a_refusal_ends_a_subscription_and_a_row_brings_it_back() -> None:
    """A refused stream is not live, counts as refused, and is live again when it has rows."""
    made, (l1, prints) = registry((Stream.L1, ACME), (Stream.ALL_LAST, ACME))
    assert made.refuse(l1.req_id, 354) is l1
    assert made.refuse(l1.req_id, 354) is None
    assert (l1.refused, made.refusals, list(made.live)) == (354, [l1], [prints.req_id])
    assert made.reinstate({prints.req_id: 1}) == []
    assert made.reinstate({l1.req_id: 2}) == [l1]
    assert (l1.refused, made.refusals, made.live[l1.req_id]) == (0, [], l1)


def test_asking_again_forgets_the_refusal_of_the_same_and_no_other() -> None:
    """The table shows the newest request, without an earlier refusal of the same stream and symbol."""
    made, (mine, other, prints) = registry((Stream.L1, ACME), (Stream.L1, BOLT), (Stream.ALL_LAST, ACME))
    for found in (mine, other, prints):
        made.refuse(found.req_id, 10190)
    made.add(StreamSubscription(4, ACME, Stream.L1, {}, 0))
    assert made.refusals == [other, prints]
    assert subs.coverage(made, ["ACME"])["ACME"][Stream.L1] == "asked"
    made.forget_all()
    assert (made.live, made.refusals) == ({}, [])


def test_rows_of_a_cancelled_request_are_nobodys() -> None:
    """A refused stream that was cancelled is not brought back by rows that were under way."""
    made, (l1,) = registry((Stream.L1, ACME))
    made.refuse(l1.req_id, codes.RESUBSCRIBE)
    l1.cancelled = True
    assert made.reinstate({l1.req_id: 2}) == []
    assert (made.live, made.refusals) == ({}, [l1])


def test_the_first_rows_grant_a_stream_once() -> None:
    """A subscription is granted by its first rows and not again; rows of an unknown request grant nothing."""
    made, (l1, _) = registry((Stream.L1, ACME), (Stream.ALL_LAST, ACME))
    assert made.received({l1.req_id: 2, 99: 1}, 5 * SECOND) == [l1]
    assert made.received({l1.req_id: 3}, 65 * SECOND) == []
    assert (l1.rows, l1.first_ts, l1.last_ts) == (5, 5 * SECOND, 65 * SECOND)
    assert l1.was_steady
    l1.last_ts -= 1
    assert not l1.was_steady


def plan(turn: int = 0, **settings: Any) -> SubscriptionPlan:
    return SubscriptionPlan(Settings.load(settings), [ACME, BOLT, CRUX], turn)


def test_streams_are_asked_for_in_order_of_priority() -> None:
    """L1 of every symbol first, then AllLast of the focus, then depth; BidAsk takes the lines AllLast leaves."""
    made = plan(focus_size=2, tick_by_tick_lines=3, depth_lines=1)
    assert list(made.first()) == [
        *((Stream.L1, target) for target in (ACME, BOLT, CRUX)),
        *((Stream.ALL_LAST, target) for target in (ACME, BOLT)),
        (Stream.DEPTH, ACME),
    ]
    assert list(made.bid_ask()) == [ACME]
    assert list(plan(focus_size=2, tick_by_tick_lines=1, depth_lines=1).bid_ask()) == []
    assert list(plan(focus_size=2, tick_by_tick_lines=4, depth_lines=1).bid_ask()) == [ACME, BOLT]


def test_depth_lines_take_turns_and_leave_nobody_out() -> None:
    """With fewer lines than focus symbols each turn continues where the last one ended; with enough, all have one."""
    turns = [plan(turn, focus_size=3, depth_lines=2).depth() for turn in range(3)]
    assert turns == [[ACME, BOLT], [CRUX, ACME], [BOLT, CRUX]]
    assert list(plan(1, focus_size=3, depth_lines=3).depth()) == [ACME, BOLT, CRUX]
    assert list(plan(focus_size=3, depth_lines=0).depth()) == []
    assert list(plan(focus_size=1, depth_lines=2).depth()) == [ACME, BOLT]


# pace


def paced(scenario: Any) -> Any:
    """Run a scenario on a lockstep clock that jumps over every wait; returns market seconds since its start."""

    async def main() -> Any:
        clock = LockstepClock(0)
        time = asyncio.create_task(clock.run())
        try:
            return await scenario(Timing(clock))
        finally:
            time.cancel()

    return asyncio.run(main())


async def times_of(pace: Timing, bucket: TokenBucket, requests: int) -> list[float]:
    """When each of some requests is allowed, in s."""
    times = []
    for _ in range(requests):
        await bucket.take()
        times.append(pace.now() / SECOND)
    return times


def test_a_token_bucket_gives_a_burst_and_then_its_rate() -> None:
    """Three at once, then two a second; unused requests add up to the burst, and never more."""

    async def scenario(pace: Timing) -> list[float]:
        bucket = TokenBucket(pace, 2.0, 3)
        first = await times_of(pace, bucket, 5)
        await pace.pause(100)
        return first + await times_of(pace, bucket, 4)

    assert paced(scenario) == [0, 0, 0, 0.5, 1, 101, 101, 101, 101.5]


def test_a_token_bucket_slows_down_to_one_a_second() -> None:
    """Each complaint halves rate and burst; neither falls below one."""

    async def scenario(pace: Timing) -> list[float]:
        bucket = TokenBucket(pace, 3.0, 2)
        for _ in range(4):
            bucket.slow_down()
        return await times_of(pace, bucket, 3)

    assert paced(scenario) == [0, 1, 2]


def test_a_held_bucket_gives_one_and_then_its_rate() -> None:
    """After a refusal for pace nothing for so long, then one, then the rate; the burst is gone."""

    async def scenario(pace: Timing) -> list[float]:
        bucket = TokenBucket(pace, 0.5, 5)
        await bucket.take()
        bucket.hold(15.0)
        bucket.hold(10.0)
        return await times_of(pace, bucket, 3)

    assert paced(scenario) == [15, 17, 19]


def test_a_pause_ends_with_its_event_or_its_time() -> None:
    """`pause_or` says which came first, and waits in pace time."""

    async def scenario(pace: Timing) -> list[tuple[bool, float]]:
        never, soon = asyncio.Event(), asyncio.Event()
        first = (await pace.pause_or(never, 10.0), pace.now() / SECOND)
        soon.set()
        return [first, (await pace.pause_or(soon, 10.0), pace.now() / SECOND)]

    assert paced(scenario) == [(False, 10), (True, 10)]


def test_spacing_is_by_thing() -> None:
    """Fifteen seconds between two requests about one instrument; another's does not wait for them."""

    async def scenario(pace: Timing) -> list[float]:
        spacing, times = Spacing(pace, 15.0), []
        for thing in (1, 2, 1, 1, 2):
            await spacing.take(thing)
            times.append(pace.now() / SECOND)
        times.append(spacing.left(1))
        return times

    assert paced(scenario) == [0, 0, 15, 30, 30, 15]


def test_waiting_for_an_answer_ends_with_it_or_with_patience() -> None:
    """`within` returns whether the event came, and waits no longer than its limit."""

    async def scenario(pace: Timing) -> tuple[bool, float, bool, float]:
        never, soon = asyncio.Event(), asyncio.Event()
        came_never = await pace.within(never, 10.0)
        waited = pace.now() / SECOND
        soon.set()
        return came_never, waited, await pace.within(soon, 10.0), pace.now() / SECOND

    assert paced(scenario) == (False, 10, True, 10)


# the inbox


def test_reading_stops_late_and_goes_on_early() -> None:
    """More than twenty full commits pause reading, fewer than ten resume it; between them nothing changes."""
    inbox = Inbox(StillClock(), 10)
    states = []
    for waiting in (99, 100, 200, 201):
        while len(inbox) < waiting:
            inbox.message(["1"])
        states.append((waiting, inbox.crowded, inbox.roomy))
    assert states == [(99, False, True), (100, False, False), (200, False, False), (201, True, False)]


def test_commits_and_reading_are_bounded_by_bytes_too() -> None:
    """Few large messages: a commit ends with the one that fills it; eight such commits waiting stop the reading."""
    inbox = Inbox(StillClock(), 100, commit_bytes=1_000)
    states = []
    for n in range(1, 18):
        inbox.packet(600)
        inbox.message(["46", "6", "1", "x" * 596])
        states.append((n, inbox.filled.is_set(), inbox.crowded, inbox.roomy))
    inbox.message(["2"])
    assert next(n for n, filled, _, _ in states if filled) == 2
    assert next(n for n, _, crowded, _ in states if crowded) == 14  # 8,400 bytes
    assert [n for n, _, _, roomy in states if roomy][-1] == 6
    taken = [len(inbox.take().arrivals.items) for _ in range(4)]
    assert (taken, inbox.filled.is_set(), inbox.crowded) == ([2, 2, 2, 2], True, False)
    while len(inbox):
        taken.append(len(inbox.take().arrivals.items))
    assert taken == [2] * 9
    assert (inbox.roomy, inbox.filled.is_set()) == (True, False)


def test_a_paused_connection_reads_on_only_when_there_is_room() -> None:
    """The recorder resumes reading at the lower mark, not as soon as it is below the upper one."""
    inbox, done = Inbox(StillClock(), 10), list[str]()
    connection: Any = SimpleNamespace(pause=lambda: done.append("pause"), resume=lambda: done.append("resume"))
    pressure = BackPressure(inbox, connection)
    for _ in range(200):
        inbox.message(["1"])
    pressure.apply()
    assert (done, pressure.paused) == ([], False)
    inbox.message(["1"])
    pressure.apply()
    pressure.apply()
    assert (done, pressure.paused) == (["pause"], True)
    for _ in range(10):
        inbox.take()
    pressure.release()
    assert (done, pressure.paused) == (["pause"], True)
    inbox.take()
    pressure.release()
    assert (done, pressure.paused) == (["pause", "resume"], False)
    pressure.release()
    assert done == ["pause", "resume"]


def test_rows_of_one_request_are_counted_up_to_an_error_and_once() -> None:
    """Rows before an error count for what it means, rows after it do not, and none counts twice."""
    inbox = Inbox(StillClock(), 10)
    inbox.packet()
    for fields in (["1", "6", "7"], ["1", "6", "8"], ["1", "6", "7"], ["4", "2", "7"]):
        inbox.message(fields)
    assert inbox.take_count_of(7) == 2
    inbox.take()
    inbox.message(["1", "6", "7"])
    assert inbox.take_counts() == {7: 1, 8: 1}
    assert inbox.take_count_of(7) == 0


def test_a_cut_divides_two_commits() -> None:
    """No commit spans a cut, and only the commit that ends at it is marked `at_cut`."""
    inbox = Inbox(StillClock(), 2)
    inbox.packet()
    for n in range(6):
        inbox.message([str(n)])
        if n == 2:
            inbox.cut()
    taken = [inbox.take() for _ in range(5)]
    sizes = [(len(one.arrivals.items), one.at_cut) for one in taken]
    assert sizes == [(2, False), (1, True), (2, False), (1, False), (0, False)]


def test_a_cut_at_the_end_of_a_commit() -> None:
    """A cut exactly at the end of a full commit marks that commit, not the next."""
    inbox = Inbox(StillClock(), 3)
    inbox.packet()
    for n in range(4):
        inbox.message([str(n)])
        if n == 2:
            inbox.cut()
    taken = [inbox.take(), inbox.take()]
    assert [(len(one.arrivals.items), one.at_cut) for one in taken] == [(3, True), (1, False)]


def test_a_cut_wakes_the_writer() -> None:
    """`filled` is set while a full commit waits, or a cut, however few items wait before it."""
    inbox = Inbox(StillClock(), 10)
    inbox.packet()
    inbox.message(["1"])
    assert not inbox.filled.is_set()
    inbox.cut()
    inbox.message(["2"])
    inbox.cut()
    assert inbox.filled.is_set()
    inbox.take()
    assert inbox.filled.is_set()
    inbox.take()
    assert not inbox.filled.is_set()


def test_a_date_ends_by_the_stamp() -> None:
    """`on_boundary` is called before the first stamp at or after the boundary; a clock set back moves no stamp back."""
    clock, ends = StillClock(10), list[int]()
    inbox = Inbox(clock, 10)
    inbox.boundary_ns, inbox.on_boundary = 20, lambda: ends.append(len(inbox))
    for now in (19, 20, 15):
        clock.now_ns = now
        inbox.packet()
        inbox.message([str(now)])
    assert ends == [1, 2]


def test_a_row_of_an_earlier_instant_is_stamped_like_the_last() -> None:
    """A row of Harvester's own `at` a past time gets the last stamp."""
    clock = StillClock(30)
    inbox = Inbox(clock, 10)
    inbox.packet()
    inbox.message(["x"])
    inbox.put(Kind.CLOCK, {}, at=20)
    inbox.put(Kind.CLOCK, {}, at=40)
    assert inbox.take().arrivals.ts_recv.tolist() == [30, 30, 40]


def test_an_epoch_begins_with_its_first_packet() -> None:
    """Items added between the request to connect and the first packet belong to the previous connection."""
    inbox = Inbox(StillClock(10), 10)
    inbox.expect_connection()
    inbox.put(Kind.CLOCK, {})
    inbox.packet()
    inbox.message(["x"])
    assert inbox.take().arrivals.epoch.tolist() == [0, 1]


def test_stamps_are_those_of_the_packets() -> None:
    """Each item keeps its packet's stamp and epoch through any number of takes; stamps never decrease."""
    clock = StillClock(10)
    inbox = Inbox(clock, 2)
    inbox.expect_connection()
    for now in (10, 20, 15, 30):
        clock.now_ns = now
        inbox.packet()
        inbox.message(["x"])
        inbox.message(["y"])
    seen = []
    while len(inbox):
        arrivals = inbox.take().arrivals
        seen += list(zip(arrivals.ts_recv.tolist(), arrivals.epoch.tolist(), strict=True))
    assert seen == [(10, 1), (10, 1), (20, 1), (20, 1), (20, 1), (20, 1), (30, 1), (30, 1)]


def test_heard_messages_are_counted_by_request_once() -> None:
    """Messages are counted by request id on arrival, committed or not."""
    inbox = Inbox(StillClock(), 2)
    inbox.packet()
    for fields in (["4", "2", "7", "200", "no"], ["1"], ["1", "6", "7", "1", "2", "3", "0"], ["99", "8", "1"]):
        inbox.message(fields)
    inbox.put(Kind.CLOCK, {})
    inbox.take()
    assert inbox.take_counts() == {7: 1, 8: 1}
    inbox.message(["2", "6", "7", "0", "5"])
    inbox.take()
    inbox.take()
    assert inbox.take_counts() == {7: 1}
    assert inbox.take_counts() == {}


def test_of_each_l1_field_the_last_value_counts() -> None:
    """A halt that begins and ends within one second has ended, whichever order the texts of its values have."""
    inbox = Inbox(StillClock(), 2)
    inbox.packet()
    for value in ("1", "2", "0"):
        inbox.message(["45", "6", "7", "49", value])
        if value == "2":
            inbox.take()
    inbox.message(["46", "6", "x", "49", "1"])
    assert inbox.take_ticks() == [(7, 49, "0")]
    assert inbox.take_ticks() == []


# heartbeats


class Line:
    """A session on a fake line, with its bytes received, whether it is paused, and the requests sent."""

    def __init__(self, **settings: Any) -> None:
        self.clock, self.asked = StillClock(), 0
        self.sent: list[tuple[str, Stream]] = []
        self.inbox = Inbox(self.clock, 1000)
        given = Settings.load({"silence_seconds": 10} | settings)
        self.session = RecorderSession(given, self.inbox, Timing(self.clock), BackgroundTasks())
        self.wire = SimpleNamespace(bytes_received=100, paused=False, connected=True, aborted=False)
        self.wire.abort = lambda: setattr(self.wire, "aborted", True)
        self.wire.take_unfinished = lambda: b""
        self.session.line.connection = self.wire  # type: ignore[assignment]
        self.session.line.requester = SimpleNamespace(  # type: ignore[assignment]
            current_time=self.ask,
            subscribe=lambda stream, *_: self.sent.append(("subscribe", stream)),
            cancel=lambda stream, *_, **__: self.sent.append(("cancel", stream)),
        )
        self.session.line.up = True
        self.inbox.put(Kind.CLOCK, {})
        self.session._heartbeat.check()

    def ask(self) -> None:
        self.asked += 1

    async def quiet(self, seconds: float) -> None:
        """Advance market time, add a clock row, and check."""
        self.clock.now_ns += round(seconds * SECOND)
        self.inbox.put(Kind.CLOCK, {})
        self.session._heartbeat.check()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def test_a_line_is_asked_whether_it_lives_when_nothing_arrives() -> None:
    """A heartbeat is sent when no byte arrived for longer than the limit; any byte restarts the time."""

    async def scenario() -> None:
        line = Line()
        await line.quiet(5)
        line.wire.bytes_received += 1
        await line.quiet(5)
        await line.quiet(10)
        assert line.asked == 0
        await line.quiet(1)
        assert line.asked == 1
        await line.quiet(1)
        assert line.asked == 1, "one heartbeat per interval, at any market speed"

    asyncio.run(scenario())


def test_no_heartbeat_while_we_ourselves_do_not_read() -> None:
    """While reading is paused no heartbeat is sent; the time restarts when reading resumes."""

    async def scenario() -> None:
        line = Line()
        line.wire.paused = True
        for _ in range(4):
            await line.quiet(6)
        assert line.asked == 0
        line.wire.paused = False
        await line.quiet(6)
        assert line.asked == 0
        await line.quiet(6)
        assert line.asked == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("what", ["silent", "answered", "a byte", "paused", "another connection"])
def test_only_an_unanswered_heartbeat_ends_a_line(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """After an answer, any byte, a pause of reading or a new connection, the line counts as alive."""

    async def scenario() -> bool:
        line = Line()

        async def meanwhile(*_: Any) -> bool:
            line.wire.bytes_received += what == "a byte"
            line.wire.paused = what == "paused"
            line.inbox.epoch += what == "another connection"
            return what == "answered"

        monkeypatch.setattr(line.session.line.pace, "within", meanwhile)
        monkeypatch.setattr(line.session.line, "_reconnect", lambda: asyncio.sleep(0))
        await line.session._heartbeat._ask()
        return bool(line.wire.aborted)

    assert asyncio.run(scenario()) is (what == "silent")


# ends


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("1h30m", 5400), ("1.5h", 5400), ("1h2m3s", 3723)]
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is hours, minutes and seconds, in this order; a bare number is seconds."""
    assert parse_duration(text) == seconds * SECOND


@pytest.mark.parametrize("text", ["", "0", "0m", "5x", "m5", "-3", "1m1h"])
def test_no_durations(text: str) -> None:
    """Nothing, zero and other units are refused."""
    with pytest.raises(BadSetting, match="is not a duration"):
        parse_duration(text)


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


def test_a_time_that_is_now_is_past() -> None:
    """`--until` must be in the future; the present time is refused."""
    now = ns("2025-07-17T20:00:00")
    assert parse_until("16:00", now - 1, Settings()) == now
    with pytest.raises(BadSetting, match="is in the past"):
        parse_until("16:00", now, Settings())


def test_a_recording_ends_with_extended_trading_or_with_the_date() -> None:
    """Before the end of extended trading the default end is that; from then on it is the end of the date."""
    hours, bounds = session(DATE), day_bounds(DATE)
    assert hours is not None
    close = hours.extended_close_ns
    assert end_of_recording(None, close - 1, Settings()) == close
    assert end_of_recording(None, close, Settings()) == bounds[1]
    assert end_of_recording(None, ns("2025-07-19T15:00:00"), Settings()) == ns("2025-07-20T04:00:00")


def test_the_market_opens_and_closes_to_the_instant() -> None:
    """Extended trading includes its first instant and excludes its last."""
    hours = session(DATE)
    assert hours is not None
    assert closed_until(hours.extended_open_ns - 1, Settings()) == "Thu 2025-07-17 04:00 New York"
    assert closed_until(hours.extended_open_ns, Settings()) == ""
    assert closed_until(hours.extended_close_ns - 1, Settings()) == ""
    assert closed_until(hours.extended_close_ns, Settings()) == "Fri 2025-07-18 04:00 New York"


def recorded(day: date, last_ts: int, reason: str | None, runs: int = 1) -> Any:
    """The fields `must_be_over` reads, of a date whose last run ended at an instant; without a reason it was killed."""
    start = {"action": "run_start", "params": RunParams(calendar=calendar_of(day, Settings())).text()}
    end = {"action": "run_end", "params": msgspec.json.encode({"reason": reason}).decode()}
    rows = [{"seq": 10 * n + i} | row for n in range(runs) for i, row in enumerate([start, end])]
    rows = rows if reason is not None else rows[:-1]
    parts = [SimpleNamespace(first_seq=10 * n, rows=1) for n in range(runs)]
    return SimpleNamespace(trading_date=day, last_ts=last_ts, runs=parts, table=lambda _: pa.Table.from_pylist(rows))


@pytest.mark.parametrize(
    ("reason", "needed"), [("stopped", "close_ns"), ("error", "extended_close_ns"), (None, "extended_close_ns")]
)
def test_a_date_is_over_at_the_end_of_its_session(reason: str | None, needed: str) -> None:
    """A stopped date is over at the close, a failed one at the end of extended trading, to the instant."""
    end = getattr(session(DATE), needed)
    must_be_over(recorded(DATE, end, reason))
    with pytest.raises(CannotRun, match="is not over"):
        must_be_over(recorded(DATE, end - 1, reason))
    must_be_over(recorded(DATE, end - 1, "end of recording"))
    must_be_over(recorded(DATE, end - 1, "boundary"))


@pytest.mark.parametrize("reason", ["stopped", "error", None])
def test_a_date_without_a_session_is_over_at_its_end(reason: str | None) -> None:
    """On a day without a session, a recording that was killed is over at the end of the date."""
    saturday = date(2025, 7, 19)
    end = day_bounds(saturday)[1]
    must_be_over(recorded(saturday, end, reason))
    with pytest.raises(CannotRun, match="2025-07-19 is not over: last event 2025-07-20T03:59:59Z "):
        must_be_over(recorded(saturday, end - 1, reason))


def test_the_last_run_decides_whether_a_date_is_over() -> None:
    """A killed run counts as killed even if an earlier run ended in order."""
    with pytest.raises(CannotRun, match="was killed"):
        must_be_over(recorded(DATE, session(DATE).open_ns, None, runs=1))  # type: ignore[union-attr]
    killed = recorded(DATE, session(DATE).open_ns, "end of recording", runs=2)  # type: ignore[union-attr]
    rows = killed.table(None).to_pylist()[:-1]
    killed.table = lambda _: pa.Table.from_pylist(rows)
    with pytest.raises(CannotRun, match="was killed"):
        must_be_over(killed)


def test_a_silent_stream_is_a_notice() -> None:
    """A session notes grants and the silent stream with its silence in ns, and renews a stream that seems gone."""

    async def scenario() -> list[Any]:
        line = Line()
        made = line.session.registry
        l1, prints = (
            StreamSubscription(line.session.line.new_req_id(), ACME, s, {}, 0) for s in (Stream.L1, Stream.ALL_LAST)
        )
        made.add(l1)
        made.add(prints)
        line.session.received({l1.req_id: 1, prints.req_id: 1})
        for seconds in (4, 4, 4):
            line.clock.now_ns += seconds * SECOND
            line.inbox.put(Kind.CLOCK, {})
            line.session.received({prints.req_id: 1})
        for _ in range(10):
            await asyncio.sleep(0)
        assert line.sent == [("cancel", Stream.L1), ("subscribe", Stream.L1)]
        assert list(made.live) == [prints.req_id, 3]
        rows = [row for kind, row in line.inbox.take().arrivals.items if kind is Kind.NOTICE]
        return [(row["code"], row["req_id"], row.get("value")) for row in rows]

    assert asyncio.run(scenario()) == [
        (Own.STREAM_GRANTED, 1, None),
        (Own.STREAM_GRANTED, 2, None),
        (Own.STREAM_SILENT, 1, 12 * SECOND),
    ]


# trading hours


DAY = date(2025, 7, 17)
TEXT = "20250717:0930-20250717:1600;20250718:0930-20250718:1600"


@pytest.mark.parametrize(
    ("text", "zone_name"),
    [
        (TEXT, "US/Eastern"),
        (TEXT, "EST (Eastern Standard Time)"),
        (TEXT, "EST5EDT"),
        (TEXT, "EST"),  # summer time all the same: 09:30 in New York
        (TEXT, ""),
        ("20250717:0930-1600;20250718:CLOSED", "America/New_York"),
        ("20250717:0930-1200,1200-1600;20250718:0930-1600", "EDT"),
        ("20250717:0830-20250717:1500", "CST (Central Standard Time)"),
        ("20250717:2230-20250718:0500", "JST"),
        ("20250717:2230-20250718:0500", "JST (Japan Standard Time)"),
        ("20250717:1430-2100", "GMT (Greenwich Mean Time)"),
    ],
)
def test_hours_are_read_in_every_form(text: str, zone_name: str) -> None:
    """Zone ids with a name behind them, abbreviations, none at all, spans without a second date: equal to the calendar.

    Half an hour off, each of them is a difference.
    """
    assert hours_difference(text, zone_name, DAY, "XNYS") == ""
    for was, now in (("0930", "1000"), ("0830", "0900"), ("2230", "2300"), ("1430", "1500")):
        text = text.replace(f":{was}-", f":{now}-")
    assert "are 2025-07-17T14:00:00Z to 2025-07-17T20:00:00Z by the gateway" in hours_difference(
        text, zone_name, DAY, "XNYS"
    )


@pytest.mark.parametrize(
    ("text", "zone_name", "why"),
    [
        ("", "US/Eastern", "the gateway sent none"),
        (TEXT, "Mars/Olympus", "unknown time zone 'Mars/Olympus'"),
        (TEXT, "??", "unknown time zone"),
        ("20250716:0930-1600", "US/Eastern", "does not name the date"),
        ("20250717:0930", "US/Eastern", "is not in a known form"),
        ("20250717:0930-1600,x", "US/Eastern", "is not in a known form"),
        ("20250717:0930-2560", "US/Eastern", "holds no time of day"),
        ("20250717:1700-1515", "US/Eastern", "ends before it begins"),
        ("20250717:0930-99991231:2400", "US/Eastern", ""),
    ],
)
def test_hours_that_cannot_be_read_are_said(text: str, zone_name: str, why: str) -> None:
    """The comparison with the calendar is never off without a word."""
    found = hours_difference(text, zone_name, DAY, "XNYS")
    assert found.startswith("liquid hours of 2025-07-17 cannot be compared with the calendar XNYS: ")
    assert why in found


def test_closed_days_are_compared_too() -> None:
    """Closed by the gateway on a session day, and on a holiday."""
    assert "are closed by the gateway" in hours_difference("20250717:CLOSED", "", DAY, "XNYS")
    assert "New York is assumed" in hours_difference("20250717:CLOSED", "", DAY, "XNYS")
    assert hours_difference("20250704:CLOSED", "US/Eastern", date(2025, 7, 4), "XNYS") == ""


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("AAPL", ("AAPL", "", 0)),
        ("BAC@nyse", ("BAC", "NYSE", 0)),
        ("BAC@10098", ("BAC", "", 10098)),
        ("BAC@" + "9" * 5000, ("BAC", "9" * 5000, 0)),
        ("BAC@\u0661", ("BAC", "\u0661", 0)),
    ],
)
def test_symbols_as_they_are_typed(text: str, wanted: tuple[str, str, int]) -> None:
    """A symbol, its listing exchange, or its con_id; too many digits for a con_id are not an error."""
    assert WantedContract.of(text) == wanted
