"""Market time of a gateway in its own process, and the files that share it with a recorder.

`gateway.json` holds host, port, pid and a `SpeedAnchor` at its top level. A `harvester.clock.FileClock` sees:

- before the market starts: constant time, the market's start (speed 1e-9);
- at speed N: market time = anchor + N · monotonic time since the anchor, the same formula on both sides;
- with a connection to the gateway, at any speed: the time that comes with the data (`message_ids.MARKET_TIME`);
- at speed max: the time of the event being sent, on a `Dial` in a mapped file beside `gateway.json`, named by its key
  `dial`. The dial is set before the first byte of an event is sent, so no client reads a time before its data. After
  the market's end, time runs at 600 times real time up to the end of that date (`final_ns`). If the gateway stops
  during the market, the last time remains.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

from harvester.calendar import NEW_YORK, day_bounds, trading_date
from harvester.clock import LOOK_S, Dial, SpeedAnchor, real_monotonic_ns
from harvester.files import json_value, naming
from harvester.simgateway.gateway_report import write_json
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from pathlib import Path

STANDING = 1e-9
_AHEAD_NS = 200_000_000  # the running anchor is published this long before it applies: followers read it in time


class GatewayFile:
    """Writes `gateway.json`, atomically at each change of the anchor; without a path it writes nothing."""

    def __init__(self, path: Path | None, facts: dict[str, Any]) -> None:
        self._path, self._facts = path, facts
        self._written: tuple[SpeedAnchor, str] | None = None
        self._dial: Dial | None = None
        self._dial_path: Path | None = None

    def dial(self, at_ns: int, final_ns: int) -> Dial:
        """Create a dial; from now on `gateway.json` names it."""
        if self._path is not None:
            self._delete_old_dials()
            name = f"{self._path.stem}.{os.getpid():x}-{real_monotonic_ns():x}.dial"
            self._dial_path = self._path.with_name(name)
            self._facts = {**self._facts, "dial": name, "final_ns": final_ns}
            with naming(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._dial = Dial.create(self._dial_path, at_ns)
        else:
            self._dial = Dial.create(None, at_ns)
        return self._dial

    def _delete_old_dials(self) -> None:
        """Delete the dials of killed gateways; processes that still map one keep its memory."""
        assert self._path is not None
        for old in self._path.parent.glob(f"{self._path.stem}.*.dial"):
            with contextlib.suppress(OSError):
                old.unlink()

    def publish_port(self, port: int) -> None:
        """The gateway listens on another port."""
        self._facts = {**self._facts, "port": port}
        if self._written is not None:
            self.write(*self._written)

    def write(self, anchor: SpeedAnchor, state: str) -> None:
        self._written = (anchor, state)
        if self._path is None:
            return
        clock = {
            "market_anchor_ns": anchor.market_anchor_ns,
            "monotonic_anchor_ns": anchor.monotonic_anchor_ns,
            "speed": anchor.speed,
        }
        write_json(self._path, {**self._facts, "pid": os.getpid(), "state": state, **clock})

    def remove(self) -> None:
        """Delete the files, unless another gateway has replaced `gateway.json` in the meantime."""
        if self._dial is not None:
            self._dial.detach()
        if self._path is None:
            return
        with contextlib.suppress(OSError, ValueError, KeyError):
            if json_value(self._path.read_bytes(), dict[str, Any])["pid"] == os.getpid():
                self._path.unlink()
        if self._dial_path is not None:
            with contextlib.suppress(OSError):  # Windows: a follower still maps it; the next gateway deletes it
                self._dial_path.unlink()


class GatewayClock:
    """Market time that is constant until `begin`, then runs at `speed` times real time."""

    def __init__(self, start_ns: int, speed: float, file: GatewayFile) -> None:
        self._file, self._speed = file, speed
        self._set(SpeedAnchor(start_ns, real_monotonic_ns(), STANDING), "waiting")

    def _set(self, anchor: SpeedAnchor, state: str) -> None:
        self.anchor = anchor
        self._file.write(anchor, state)

    def begin(self) -> None:
        """Start market time, 200 ms of real time from now."""
        self._set(SpeedAnchor(self.now(), real_monotonic_ns() + _AHEAD_NS, self._speed), "running")

    def end(self) -> None:
        """Publish the end of the market; time continues."""
        self._set(self.anchor, "ended")

    def now(self) -> int:
        return self.anchor.market(real_monotonic_ns())

    def wall(self) -> int:
        return self.now()

    async def sleep_until(self, at_ns: int) -> None:
        while (left := at_ns - self.now()) > 0:
            await asyncio.sleep(min(left / self.anchor.speed / SECOND_NS, 0.2))

    async def reach(self, at_ns: int) -> None:
        """Wait until the time of the next event; called by the market pump."""
        await self.sleep_until(at_ns)


class MaxSpeedClock(GatewayClock):
    """Market time of speed max: the time of the event being sent. The pump sets it; other sleepers poll it.

    Attributes:
        leaps: as in `FileClock`.
        final_ns: time stops here, at the last ns of the market's last date in New York.
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
        """Publish the end of the market; time continues at 600 times real time to the end of the date."""
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
