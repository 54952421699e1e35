"""Market time of a gateway of its own process, and the file through which a recorder shares it.

`gateway.json` holds host, port, pid and a `SpeedAnchor` on its top level. What a follower (`harvester.clock.FileClock`)
sees:

- before the market starts: time stands at the start (a speed of 1e-9);
- at speed N: market time = anchor + N · monotonic time since, the same formula on both sides;
- at speed max: the same, with an anchor that is set anew, up to every 60 ms, at a speed that doubles while the market
  waits for the clock and shrinks while the clock waits for the market (a slow client, a busy machine). A follower who
  reads the file at least every 150 ms is never behind an event it is sent: the gateway's own clock is the slowest of
  the anchors such a follower may still hold. It may be ahead, by a few tenths of a real second times the speed;
  the speed falls towards the market's end, so that nobody ends a recording before its last events are sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from harvester.clock import SECOND_NS, SpeedAnchor, real_monotonic_ns
from harvester.simgateway.report import write_json

if TYPE_CHECKING:
    from pathlib import Path

STANDING = 1e-9
_FIRST_SPEED = 1000.0
_SPEED_MAX = 1e7
_HELD_NS = 150_000_000  # how long a follower may still go by an anchor that has been replaced
_AHEAD_NS = 200_000_000  # the first running anchor is published this long before it counts, so that nobody misses it
_CHANGE_EVERY_NS = 60_000_000
_FOLLOWER_AHEAD_S = 0.5  # real seconds by which a follower of an adapting clock may be ahead of it
_SPEED_LEAST = 50.0
_SPEED_AFTER = 600.0  # from the market's end to the end of extended trading in seconds, not hours


class GatewayFile:
    """`gateway.json`, rewritten whole each time the anchor changes; without a path nothing is written."""

    def __init__(self, path: Path | None, facts: dict[str, Any]) -> None:
        self._path, self._facts, self.coarse = path, facts, False

    def write(self, anchor: SpeedAnchor, state: str) -> None:
        if self._path is None:
            return
        clock = {
            "market_anchor_ns": anchor.market_anchor_ns,
            "monotonic_anchor_ns": anchor.monotonic_anchor_ns,
            "speed": anchor.speed,
            "coarse": self.coarse,
        }
        write_json(self._path, {**self._facts, "pid": os.getpid(), "state": state, **clock})

    def remove(self) -> None:
        """Take the file away, unless another gateway has written its own there meanwhile."""
        if self._path is None:
            return
        with contextlib.suppress(OSError, ValueError):
            if json.loads(self._path.read_bytes())["pid"] == os.getpid():
                self._path.unlink()


class GatewayClock:
    """Market time that stands until `begin`, then runs `speed` times as fast as real time, or as fast as it can."""

    def __init__(self, start_ns: int, speed: float, file: GatewayFile, end_ns: int | None = None) -> None:
        self._file, self._speed, self._end_ns = file, speed, end_ns
        self.coarse = file.coarse = not speed  # see the module's text: such a clock may be ahead of what is sent
        self._last = start_ns
        self._state = "waiting"
        self._anchors: deque[SpeedAnchor] = deque()
        self._set(start_ns, STANDING)

    @property
    def anchor(self) -> SpeedAnchor:
        return self._anchors[-1]

    @property
    def over(self) -> bool:
        """Whether the market has been sent whole."""
        return self._state == "ended"

    def begin(self) -> None:
        """Let market time run, 200 ms of real time from now."""
        self._state = "running"
        anchor = SpeedAnchor(self._last, real_monotonic_ns() + _AHEAD_NS, self._speed or _FIRST_SPEED)
        self._anchors = deque([anchor])
        self._file.write(anchor, self._state)

    def end(self) -> None:
        """The market is over; time goes on, at the speed it has or, when that was as fast as possible, at 600."""
        self._state = "ended"
        if self._speed:
            self._file.write(self.anchor, self._state)
        else:
            self._set(self.now(), _SPEED_AFTER)

    def _bounded(self, speed: float) -> float:
        """No follower may see the market's end while events before it are still to be sent."""
        if self._end_ns is None:
            return speed
        left_s = max(self._end_ns - self.now(), 0) / SECOND_NS
        return max(min(speed, left_s / _FOLLOWER_AHEAD_S), _SPEED_LEAST)

    def _set(self, market_ns: int, speed: float) -> None:
        self._anchors.append(SpeedAnchor(market_ns, real_monotonic_ns(), speed))
        self._file.write(self.anchor, self._state)

    def now(self) -> int:
        mono = real_monotonic_ns()
        while len(self._anchors) > 1 and self._anchors[1].monotonic_anchor_ns + _HELD_NS < mono:
            self._anchors.popleft()
        self._last = max(self._last, min(anchor.market(mono) for anchor in self._anchors))
        return self._last

    def wall(self) -> int:
        return self.now()

    async def sleep_until(self, at_ns: int) -> None:
        if not self._speed and self._state == "running":
            self._adapt(at_ns)
        while (left := at_ns - self.now()) > 0:
            await asyncio.sleep(min(max(left / self.anchor.speed / SECOND_NS, 0.0), 0.02 if not self._speed else 60.0))
            if not self._speed and self._state == "running":
                self._adapt(at_ns)

    def _adapt(self, at_ns: int) -> None:
        """Faster while the next event is still to come, slower while it is overdue."""
        anchor = self.anchor
        if real_monotonic_ns() - anchor.monotonic_anchor_ns < _CHANGE_EVERY_NS:
            return
        late_s = (self.now() - at_ns) / SECOND_NS / anchor.speed
        if anchor.speed > self._bounded(anchor.speed):
            self._set(self._last, self._bounded(anchor.speed))
        elif late_s < 0 and anchor.speed < self._bounded(_SPEED_MAX):
            self._set(anchor.market(real_monotonic_ns()), self._bounded(anchor.speed * 2))
        elif late_s > 0.1 and anchor.speed > _FIRST_SPEED:
            self._set(self._last, anchor.speed / 2)
