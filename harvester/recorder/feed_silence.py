"""The whole feed silent in a session: nothing at all arrives though the connection lives.

The gateway may announce it (2110, 2103), or say nothing. A feed is judged by its own pace in the regular session: by
how often it spoke, and how long its pauses were, in the last half hour. Outside the session no pace is kept.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from harvester.calendar import session, trading_date
from harvester.errors import BadSetting
from harvester.events.kinds import Stream
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.recorder.link import GatewayLink
    from harvester.recorder.subscriber import Subscriber
    from harvester.recorder.subscriptions import SubscriptionRegistry

WINDOW_MINUTES = 30
KNOWN_SECONDS = 30  # a pace is known after this many seconds with rows
PAUSES = 4  # a silence is this much longer than the longest pause
LOST_SECONDS = 30  # … and in its time this many seconds with rows were to be expected
THIN, THIN_SECONDS = 0.1, 1800  # rows in fewer than one second of ten: pauses have no measure, so half an hour at least
_SUSPECT_SECONDS, _SUSPECT_PAUSES, _SUSPECT_LOST = 15, 2, 8  # the same once the gateway has announced trouble
_SUSPECT_FOR = 300 * SECOND_NS
_HOUR_NS = 3600 * SECOND_NS
_LOOK_SECONDS_MAX = 30  # more time between two looks is our own pause, not the feed's
_REAL_NS_MIN = 2 * SECOND_NS  # real time: at sixty times real time a busy machine is silent for a second now and then


class _Minute(NamedTuple):
    at: int
    active: int
    pause: int


class Pace:
    """How often something speaks, in whole seconds of market time. `quiet`: seconds since it last did."""

    def __init__(self, now: int) -> None:
        self._begun, self._last = now, now
        self._left_out = 0  # seconds in which nobody listened, or the feed was down
        self._minutes: deque[_Minute] = deque(maxlen=WINDOW_MINUTES)

    def heard(self, now: int) -> None:
        """It has spoken in this second."""
        limit, pause = self.limit(), self.quiet(now)
        if 0 < limit < pause:  # an outage: such pauses happen, but its length says nothing of the pace
            self._left_out += pause - limit
            pause = limit
        now -= self._left_out
        if not self._minutes or self._minutes[-1].at != now // 60:
            self._minutes.append(_Minute(now // 60, 0, 0))
        last = self._minutes.pop()
        self._minutes.append(_Minute(last.at, last.active + 1, max(last.pause, pause)))
        self._last = now

    def skip(self, seconds: int) -> None:
        """Time in which nobody listened."""
        self._left_out += seconds

    def quiet(self, now: int) -> int:
        return now - self._left_out - self._last

    def limit(self, floor: int = 60, *, suspect: bool = False) -> int:
        """Seconds of silence after which it is to be taken for dead; 0 while its pace is not known."""
        recent = [minute for minute in self._minutes if minute.at > self._last // 60 - WINDOW_MINUTES]
        active = sum(minute.active for minute in recent)
        if active < KNOWN_SECONDS:
            return 0
        watched = max(1, min(WINDOW_MINUTES * 60, self._last - self._begun))
        pause = max(minute.pause for minute in recent)
        if suspect:
            slow = 120 if active < THIN * watched else _SUSPECT_SECONDS
            return max(slow, _SUSPECT_PAUSES * pause, _SUSPECT_LOST * watched // active)
        slow = THIN_SECONDS if active < THIN * watched else floor
        return max(slow, floor, PAUSES * pause, LOST_SECONDS * watched // active)


class FeedSilence:
    """Judges the feed once a second, by two paces: of every stream, and of all but 5-second bars (other servers)."""

    def __init__(self, silence_seconds: float, exchange: str, time_zone: str) -> None:
        self._floor, self._exchange, self._zone = max(1, round(silence_seconds)), exchange, time_zone
        self._paces: tuple[Pace, Pace] | None = None
        self._looked = 0
        self._session, self._hour = (0, 0), -1  # open and close, ns UTC, looked up in each hour of market time
        self._suspect_until = 0
        self._heard_real_ns = [0, 0]

    def suspect(self, now_ns: int) -> None:
        """The gateway has announced trouble: a shorter silence is enough for some minutes."""
        self._suspect_until = now_ns + _SUSPECT_FOR

    def in_session(self, now_ns: int) -> bool:
        """Whether the exchange's regular session is on."""
        if self._hour != (hour := now_ns // _HOUR_NS):
            try:
                hours = session(trading_date(now_ns, self._zone), self._exchange)
            except BadSetting:
                hours = None
            self._session, self._hour = (0, 0) if hours is None else (hours.open_ns, hours.close_ns), hour
        return self._session[0] <= now_ns < self._session[1]

    def heard_again(self, now_ns: int) -> None:
        """The feed is back after a silence, which counts as a pause of its limit's length."""
        if self._paces is not None:
            self._looked = now_ns // SECOND_NS
            for pace in self._paces:
                pace.heard(self._looked)

    def begin_again(self) -> None:
        """Forget every pace: the feed was down, or starts."""
        self._paces = None

    def look(self, now_ns: int, real_ns: int, *, every: bool, market: bool) -> int:
        """How long (s) the feed has been silent if that is too long, else 0.

        Args:
            now_ns: market time, ns UTC.
            real_ns: time of the machine, ns since some start.
            every: whether any stream had rows since the last look.
            market: whether one other than 5-second bars had.
        """
        now = now_ns // SECOND_NS
        if not self.in_session(now_ns):
            self._paces = None
            return 0
        if self._paces is None:
            self._paces, self._looked = (Pace(now), Pace(now)), now
            self._heard_real_ns = [real_ns, real_ns]
        if (missed := now - self._looked - _LOOK_SECONDS_MAX) > 0:
            for pace in self._paces:
                pace.skip(missed)
        self._looked = now
        suspect = now_ns < self._suspect_until
        found = 0
        for n, heard in enumerate((every, market)):
            pace = self._paces[n]
            if heard:
                pace.heard(now)
                self._heard_real_ns[n] = real_ns
            elif real_ns - self._heard_real_ns[n] >= _REAL_NS_MIN:
                limit = pace.limit(self._floor, suspect=suspect)
                found = max(found, pace.quiet(now) if limit and pace.quiet(now) > limit else 0)
        return found


AGAIN_S = (60.0, 120.0, 300.0, 600.0)  # pace time between two requests for everything while the feed stays silent
UNANSWERED_S = 60  # a new connection without any row for this long in a session is silent too …
UNANSWERED_REAL_NS = 5 * SECOND_NS  # … in real time too


class FeedWatch:
    """Begins and ends the outage of a feed that fell silent, and requests everything again."""

    def __init__(self, line: GatewayLink, registry: SubscriptionRegistry, subscriber: Subscriber) -> None:
        self._line, self._registry, self._subscriber = line, registry, subscriber
        settings = line.settings
        self._judge = FeedSilence(settings.silence_seconds, settings.exchange_calendar, settings.time_zone)
        self._silent = self._bars_too = False
        self._tries, self._next_at = 0, 0
        self._unanswered_real_ns = 0
        self.farm_broken = False

    def in_session(self) -> bool:
        """Whether the regular session is on."""
        return self._judge.in_session(self._line.inbox.last_ts)

    def trouble(self) -> None:
        """The gateway has announced that a farm, or its own connection, is broken."""
        self.farm_broken = True
        self._judge.suspect(self._line.inbox.last_ts)

    def farm_back(self) -> None:
        """A farm is back: if the feed is silent, request everything at once; else a short silence is enough."""
        if self.farm_broken:
            self._judge.suspect(self._line.inbox.last_ts)
        self.farm_broken = False
        if self._silent:
            self._request_all()

    def look(self, counts: Mapping[int, int], *, excused: bool) -> None:
        """Once a second, with the rows by request id; `excused`: no row has to arrive now."""
        outages, now = self._line.outages, self._line.inbox.last_ts
        heard = [self._registry.live[req_id] for req_id in counts if req_id in self._registry.live]
        market = any(sub.stream is not Stream.BARS_5S for sub in heard)
        if self._silent:
            self._go_on(back=market or (self._bars_too and bool(heard)))
            return
        if outages.under_way or excused or not self._line.up:
            self._judge.begin_again()
            self._unanswered_real_ns = self._line.pace.patience()
            return
        quiet = self._judge.look(now, self._line.pace.patience(), every=bool(heard), market=market)
        quiet = quiet or self._unanswered(now)
        if quiet:
            self._silent, self._bars_too, self._tries = True, not self._bars_flow(now), 0
            since_ns = (now // SECOND_NS - quiet) * SECOND_NS
            outages.begin(f"nothing received for {quiet} s although the connection lives", silent_since_ns=since_ns)
            self._request_all()

    def _unanswered(self, now_ns: int) -> int:
        live, real_ns = self._registry.live.values(), self._line.pace.patience()
        if not live or any(sub.rows for sub in live) or not self._judge.in_session(now_ns):
            self._unanswered_real_ns = real_ns
            return 0
        quiet = (now_ns - min(sub.asked_ts for sub in live)) // SECOND_NS
        waited = real_ns - self._unanswered_real_ns >= UNANSWERED_REAL_NS
        return quiet if quiet > UNANSWERED_S and waited else 0

    def _bars_flow(self, now_ns: int) -> bool:
        return any(now_ns - sub.last_ts < UNANSWERED_S * SECOND_NS for sub in self._registry.of(Stream.BARS_5S))

    def _go_on(self, *, back: bool) -> None:
        if back or not self._line.outages.under_way:
            self._silent = False
            self._judge.heard_again(self._line.inbox.last_ts)
            self._line.outages.end("rows arrive again")
        elif self._line.up and self._line.pace.now() >= self._next_at:
            self._request_all()

    def _request_all(self) -> None:
        self._next_at = self._line.pace.now() + round(AGAIN_S[min(self._tries, len(AGAIN_S) - 1)] * SECOND_NS)
        self._tries += 1
        self._line.tasks.spawn(self._subscriber.renew(list(self._registry.live.values())))
