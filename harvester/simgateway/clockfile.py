"""Market time of a gateway of its own process, and the files through which a recorder shares it.

`gateway.json` holds host, port, pid and a `SpeedAnchor` on its top level. What a follower (`harvester.clock.FileClock`)
sees:

- before the market starts: time stands at the start (a speed of 1e-9);
- at speed N: market time = anchor + N · monotonic time since, the same formula on both sides;
- at speed max: the time of the event being sent, on a `Dial` in a mapped file beside `gateway.json`, whose key `dial`
  names it. It is set before the first byte of that instant leaves, so that nobody is ever behind what he is sent.
  Once the market is over it goes on at 600 times real time, up to the end of that date (`final_ns`). Of a gateway that
  ends in mid-market the last time stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from harvester.artefacts.text import naming
from harvester.calendar import day_bounds, trading_date
from harvester.clock import LOOK_S, Dial, SpeedAnchor, real_monotonic_ns
from harvester.simgateway.report import write_json
from harvester.simgateway.times import NEW_YORK
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from pathlib import Path

STANDING = 1e-9
_AHEAD_NS = 200_000_000  # the running anchor is published this long before it counts, so that nobody misses it


class GatewayFile:
    """`gateway.json`, rewritten whole each time the anchor changes; without a path nothing is written."""

    def __init__(self, path: Path | None, facts: dict[str, Any]) -> None:
        self._path, self._facts = path, facts
        self._dial: Dial | None = None
        self._dial_path: Path | None = None

    def dial(self, at_ns: int, final_ns: int) -> Dial:
        """A new dial, named by what is written from now on."""
        if self._path is not None:
            self._clear_away()
            name = f"{self._path.stem}.{os.getpid():x}-{real_monotonic_ns():x}.dial"
            self._dial_path = self._path.with_name(name)
            self._facts = {**self._facts, "dial": name, "final_ns": final_ns}
            with naming(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._dial = Dial.create(self._dial_path, at_ns)
        else:
            self._dial = Dial.create(None, at_ns)
        return self._dial

    def _clear_away(self) -> None:
        """The dials of gateways that were killed; whoever still maps one keeps it."""
        assert self._path is not None
        for left in self._path.parent.glob(f"{self._path.stem}.*.dial"):
            with contextlib.suppress(OSError):
                left.unlink()

    def write(self, anchor: SpeedAnchor, state: str) -> None:
        if self._path is None:
            return
        clock = {
            "market_anchor_ns": anchor.market_anchor_ns,
            "monotonic_anchor_ns": anchor.monotonic_anchor_ns,
            "speed": anchor.speed,
        }
        write_json(self._path, {**self._facts, "pid": os.getpid(), "state": state, **clock})

    def remove(self) -> None:
        """Take the files away, unless another gateway has written its own `gateway.json` there meanwhile."""
        if self._dial is not None:
            self._dial.detach()
        if self._path is None:
            return
        with contextlib.suppress(OSError, ValueError):
            if json.loads(self._path.read_bytes())["pid"] == os.getpid():
                self._path.unlink()
        if self._dial_path is not None:
            with contextlib.suppress(OSError):  # Windows: a follower still maps it; the next gateway clears it away
                self._dial_path.unlink()


class GatewayClock:
    """Market time that stands until `begin`, then runs `speed` times as fast as real time."""

    def __init__(self, start_ns: int, speed: float, file: GatewayFile) -> None:
        self._file, self._speed = file, speed
        self._set(SpeedAnchor(start_ns, real_monotonic_ns(), STANDING), "waiting")

    def _set(self, anchor: SpeedAnchor, state: str) -> None:
        self.anchor = anchor
        self._file.write(anchor, state)

    def begin(self) -> None:
        """Let market time run, 200 ms of real time from now."""
        self._set(SpeedAnchor(self.now(), real_monotonic_ns() + _AHEAD_NS, self._speed), "running")

    def end(self) -> None:
        """The market is over; time goes on."""
        self._set(self.anchor, "ended")

    def now(self) -> int:
        return self.anchor.market(real_monotonic_ns())

    def wall(self) -> int:
        return self.now()

    async def sleep_until(self, at_ns: int) -> None:
        while (left := at_ns - self.now()) > 0:
            await asyncio.sleep(min(left / self.anchor.speed / SECOND_NS, 0.2))

    async def reach(self, at_ns: int) -> None:
        """What the market itself does to come to its next event: wait for its time."""
        await self.sleep_until(at_ns)


class LeapingClock(GatewayClock):
    """Market time that is the time of the event being sent: the market leaps, whoever else sleeps looks at it.

    Attributes:
        leaps: as of `FileClock`.
        final_ns: where time stops, the last ns of the date in New York on which the market ends.
    """

    leaps = True

    def __init__(self, start_ns: int, end_ns: int, file: GatewayFile) -> None:
        day = trading_date(end_ns - 1, NEW_YORK)
        self.final_ns = max(day_bounds(day, NEW_YORK)[1] - 1, end_ns)
        self._dial = file.dial(start_ns, self.final_ns)
        super().__init__(start_ns, STANDING, file)

    def begin(self) -> None:
        self._set(self.anchor, "running")

    def end(self) -> None:
        """The market is over; time goes on at 600 times real time, to the end of the date."""
        self._dial.end()
        super().end()

    def now(self) -> int:
        return min(self._dial.now(), self.final_ns)

    async def sleep_until(self, at_ns: int) -> None:
        while self.now() < at_ns:
            await asyncio.sleep(LOOK_S)

    async def reach(self, at_ns: int) -> None:
        if at_ns > self._dial.now():
            self._dial.set(at_ns)
