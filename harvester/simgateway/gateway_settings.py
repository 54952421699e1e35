"""The settings of a simulated gateway."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harvester.errors import BadSetting
from harvester.simgateway.fault_script import FaultScript
from harvester.simgateway.limits import Limits
from harvester.wire.message_ids import SERVER_VERSION_MAX, SERVER_VERSION_MIN

if TYPE_CHECKING:
    from pathlib import Path

PORT = 7496


@dataclass(frozen=True)
class GatewaySettings:
    """Market times in ns UTC, None = the market's own; `port` 0 picks a free one; `speed` 0 is as fast as possible.

    `gateway_file` and `report_file` are written if set. With a first subscription, market time starts `grace_s` real
    seconds after the last request. `log` is the log folder of a recorded day.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    server_version: int = SERVER_VERSION_MAX
    accounts: tuple[str, ...] = ("DU1234567",)
    market_data_type: int = 1
    speed: float = 1.0
    grace_s: float = 1.5
    start_ns: int | None = None
    end_ns: int | None = None
    scan_every_s: float = 30.0
    handshake_s: float = 30.0
    limits: Limits = field(default_factory=Limits)
    faults: FaultScript = field(default_factory=FaultScript)
    seed: int = 0
    gateway_file: Path | None = None
    report_file: Path | None = None
    source: str = ""
    log: Path | None = None

    def check(self) -> GatewaySettings:
        """Return self.

        Raises:
            BadSetting: a value is invalid.
        """
        if not SERVER_VERSION_MIN <= self.server_version <= SERVER_VERSION_MAX:
            span = f"{SERVER_VERSION_MIN} to {SERVER_VERSION_MAX}"
            raise BadSetting(f"server version {self.server_version} is not supported; choose one from {span}")
        if not 0 <= self.port <= 65535:
            raise BadSetting(f"port {self.port} is not between 0 and 65535")
        if not self.speed >= 0:
            raise BadSetting(f"speed {self.speed} is negative; 100 is 100 times real time, 0 as fast as possible")
        for account in self.accounts:
            if not account or "," in account or "\0" in account:
                raise BadSetting(f"account {account!r} is invalid; use a name such as DU1234567")
        if not self.accounts:
            raise BadSetting("a gateway needs at least one account, for example DU1234567")
        if self.start_ns is not None and self.end_ns is not None and self.start_ns >= self.end_ns:
            raise BadSetting("the market window ends before it starts; see --start and --end")
        return self
