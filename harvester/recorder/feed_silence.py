"""The whole feed silent in a session: nothing at all arrives though the connection lives.

The gateway may announce it (2110, 2103), or say nothing. A feed is judged by its own pace in the regular session: by how
often it spoke, and how long its pauses were, in the last half hour. Outside the session no pace is kept.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from harvester.calendar import session, trading_date
from harvester.errors import BadSetting
from harvester.units import SECOND_NS

WINDOW_MINUTES = 30
KNOWN_SECONDS = 30  # a pace is known after this many seconds with rows
PAUSES = 4  # a silence is this much longer than the longest pause
LOST_SECONDS = 30  # … and in its time this many seconds with rows were to be expected
THIN, THIN_SECONDS = 0.1, 1800  # rows in fewer than one second of ten: pauses have no measure, so half an hour at least
_SUSPECT_SECONDS, _SUSPECT_PAUSES, _SUSPECT_LOST = 15, 2, 8  # the same once the gateway has announced trouble
_SUSPECT_FOR = 300 * SECOND_NS
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
        self._minutes: deque[_Minute] = deque(maxlen=WINDOW_MINUTES)

    def heard(self, now: int) -> None:
        """It has spoken in this second."""
        pause = now - self._last
        if limit := self.limit(now):
            pause = min(pause, limit)  # a silence teaches that such pauses happen, not how long an outage was
        if not self._minutes or self._minutes[-1].at != now // 60:
            self._minutes.append(_Minute(now // 60, 0, 0))
        last = self._minutes.pop()
        self._minutes.append(_Minute(last.at, last.active + 1, max(last.pause, pause)))
        self._last = now

    def skip(self, seconds: int) -> None:
        """Time in which nobody listened."""
        self._last += seconds
        self._begun += seconds

    def quiet(self, now: int) -> int:
        return now - self._last

    def limit(self, now: int, floor: int = 60, *, suspect: bool = False) -> int:
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
    """Judges the feed once a second. Two paces: of every stream, and of those without 5-second bars, which other servers
    send.
    """

    def __init__(self, silence_seconds: float, exchange: str, time_zone: str) -> None:
        self._floor, self._exchange, self._zone = max(1, round(silence_seconds)), exchange, time_zone
        self._paces: tuple[Pace, Pace] | None = None
        self._looked = 0
        self._session = (0, 0)  # ns UTC, of the date whose end is `_known_until`
        self._known_until = 0
        self._suspect_until = 0
        self._heard_real_ns = [0, 0]

    def suspect(self, now_ns: int) -> None:
        """The gateway has announced trouble: a shorter silence is enough for some minutes."""
        self._suspect_until = now_ns + _SUSPECT_FOR

    def in_session(self, now_ns: int) -> bool:
        """Whether the exchange's regular session is on."""
        if now_ns >= self._known_until or now_ns < self._known_until - 86_400 * SECOND_NS:
            try:
                hours = session(trading_date(now_ns, self._zone), self._exchange)
            except BadSetting:
                hours = None
            self._session = (0, 0) if hours is None else (hours.open_ns, hours.close_ns)
            self._known_until = (now_ns // (3600 * SECOND_NS) + 1) * 3600 * SECOND_NS
        return self._session[0] <= now_ns < self._session[1]

    def begin_again(self) -> None:
        """Forget every pace: the feed was down, or begins anew."""
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
                limit = pace.limit(now, self._floor, suspect=suspect)
                found = max(found, pace.quiet(now) if limit and pace.quiet(now) > limit else 0)
        return found
